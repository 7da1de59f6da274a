"""ALITA and MADDPG on Push-Box: two agents find and move a box that neither moves alone.

python recipes/alita_push_box.py --help
python recipes/alita_push_box.py --algorithm maddpg --exploration independent
python recipes/alita_push_box.py --resume runs/NAME
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from torchrl_alita.envs import PushBoxSettings, push_box_task
from torchrl_alita.training import RecipeConfig, build_algorithm, parse_config, run_recipe


@dataclass
class Config(RecipeConfig):
    """Agents push a box to a wall; it moves only when two push the same way at once."""

    task: str = "push_box"
    """Name of the task."""
    size: int = 15
    """Rows and columns, the walls included."""
    respawn: bool = True
    """A delivered box comes back elsewhere (EITI's and EDTI's rule), or ends the episode."""
    start: Literal["corner", "uniform"] = "corner"
    """Where the agents begin."""
    reward: float = 10.0
    """Of a delivered box; the paper's 1,000 is the same game with larger values."""
    n_agents: int = 2
    """Agents."""
    num_envs: int = 2_048
    """Environments simulated together."""
    horizon: int = 300
    """Steps of an episode."""
    total_frames: int = 30_000_000
    """Environment steps of the whole run, counted over all environments."""
    frames_per_batch: int = 2_048 * 10
    """Environment steps between two rounds of updates."""
    frames_per_update: int = 2_048
    """Environment steps for each update."""
    random_frames: int = 100_000
    """Environment steps at the start without updates."""
    buffer_size: int = 500_000
    """Most transitions stored."""
    recent_frames: int = 100_000
    """Newest transitions, on which the autoencoder is trained."""
    exploration: Literal["independent", "team"] = "team"
    """Noise of each agent and step for itself, or noise that the team shares and keeps."""
    spread: float = 1.0
    """Team exploration: how much its strength varies over the environments, from 0 to 1."""
    noise_start: float = 0.5
    """Share of random actions at the start, mean over the environments."""
    noise_end: float = 0.1
    """Share of random actions at the end."""
    noise_frames: int = 20_000_000
    """Environment steps over which that share shrinks."""
    gamma: float = 0.97
    """Discount factor of a step."""
    actor_lr: float = 1e-3
    """Adam's step of the actors."""
    critic_lr: float = 1e-3
    """Adam's step of the critics."""
    influence_coeff: float = 0.15
    """Weight of the influence (the paper's beta for Push-Box: 0.15); 0 is No F."""
    novelty_coeff: float = 0.1
    """Weight of the novelty (the paper for Push-Box: 0.10)."""
    diversity_coeff: float = 0.01
    """Weight of the diversity penalty; with novelty_coeff 0 and this 0 it is No IM."""
    omega: float = 0.1
    """How fast novelty lifts the penalty (the paper for Push-Box: 0.10)."""
    optimum: Literal["policy", "sampled", "enumerated"] = "enumerated"
    """What stands for the teammates' best value."""
    evaluation_interval: int = 1_000_000
    """Environment steps between two evaluations."""
    checkpoint_interval: int = 10_000_000
    """Environment steps between two checkpoints."""


def main(arguments: list[str] | None = None) -> dict:
    """Train from the command line."""
    config = parse_config(Config, arguments)
    task = push_box_task(
        PushBoxSettings(
            size=config.size, respawn=config.respawn, start=config.start, reward=config.reward
        )
    )
    return run_recipe(config, partial(build_algorithm, config), task=task)


if __name__ == "__main__":
    main()
