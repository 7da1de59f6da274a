"""ALITA and MADDPG on Secret Room: one agent holds a door open for the other, then the reverse.

python recipes/alita_secret_room.py --help
python recipes/alita_secret_room.py --algorithm maddpg --exploration independent
python recipes/alita_secret_room.py --resume runs/NAME
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from torchrl_alita.envs import SecretRoomSettings, secret_room_task
from torchrl_alita.training import RecipeConfig, build_algorithm, parse_config, run_recipe


@dataclass
class Config(RecipeConfig):
    """All agents must get into one small room, whose door only a switch keeps open."""

    task: str = "secret_room"
    """Name of the task."""
    size: int = 25
    """Rows and columns."""
    door_steps: int = 8
    """Steps for which a door stays open after its switch is left."""
    target_room: int = 0
    """The room that pays, 0 to 2 from the top."""
    door_bits: bool = False
    """Whether the agents see which doors are open (the paper: yes; EITI's code: no)."""
    start: Literal["large_room", "corner"] = "large_room"
    """Where the agents begin."""
    reward: float = 10.0
    """Of a success; the paper's 1,000 is the same game with larger values."""
    n_agents: int = 2
    """Agents."""
    num_envs: int = 512
    """Environments simulated together."""
    horizon: int = 300
    """Steps of an episode."""
    total_frames: int = 2_000_000
    """Environment steps of the whole run, counted over all environments."""
    frames_per_batch: int = 512 * 20
    """Environment steps between two rounds of updates."""
    frames_per_update: int = 1_024
    """Environment steps for each update."""
    random_frames: int = 50_000
    """Environment steps at the start without updates."""
    buffer_size: int = 500_000
    """Most transitions stored."""
    recent_frames: int = 50_000
    """Newest transitions, on which the autoencoder is trained."""
    exploration: Literal["independent", "team"] = "team"
    """Noise of each agent and step for itself, or noise that the team shares and keeps."""
    agreement: float = 0.0
    """Team exploration: probability that the agents explore alike; here they must differ."""
    noise_start: float = 1.0
    """Share of random actions at the start, mean over the environments."""
    noise_end: float = 0.1
    """Share of random actions at the end."""
    noise_frames: int = 1_500_000
    """Environment steps over which that share shrinks."""
    gamma: float = 0.97
    """Discount factor of a step."""
    actor_lr: float = 1e-3
    """Adam's step of the actors."""
    critic_lr: float = 1e-3
    """Adam's step of the critics."""
    novelty_coeff: float = 0.1
    """Weight of the novelty (the paper for Secret Room: 0.10)."""
    diversity_coeff: float = 0.01
    """Weight of the diversity penalty; with novelty_coeff 0 and this 0 it is No IM."""
    omega: float = 0.1
    """How fast novelty lifts the penalty (the paper for Secret Room: 0.10)."""
    optimum: Literal["policy", "sampled", "enumerated"] = "enumerated"
    """What stands for the teammates' best value."""
    evaluation_interval: int = 100_000
    """Environment steps between two evaluations."""
    checkpoint_interval: int = 1_000_000
    """Environment steps between two checkpoints."""


def main(arguments: list[str] | None = None) -> dict:
    """Train from the command line."""
    config = parse_config(Config, arguments)
    task = secret_room_task(
        SecretRoomSettings(
            size=config.size,
            door_steps=config.door_steps,
            start=config.start,
            target_room=config.target_room,
            door_bits=config.door_bits,
            reward=config.reward,
        )
    )
    return run_recipe(config, partial(build_algorithm, config), task=task)


if __name__ == "__main__":
    main()
