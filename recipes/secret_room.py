"""Secret Room: one agent holds a door open for the other, then the reverse.

python recipes/secret_room.py --help
python recipes/secret_room.py --run-dir runs/secret_room --seed 1
python recipes/secret_room.py --algorithm.transition-coeff 0 --algorithm.team-visit-coeff 1
python recipes/secret_room.py maddpg --exploration independent
python recipes/secret_room.py --alita.transition-coeff 0 --alita.team-visit-coeff 1
python recipes/secret_room.py --resume runs/NAME
"""

from __future__ import annotations

from torchrl_alita.algorithms import (
    ALITASettings,
    MADDPGSettings,
    OnPolicyALITASettings,
    QMIXSettings,
)
from torchrl_alita.envs import SecretRoomSettings
from torchrl_alita.training import Config, TrainingSettings, launch

TRAINING = TrainingSettings(
    n_agents=2,
    num_envs=512,
    horizon=300,
    total_frames=2_000_000,
    frames_per_batch=512 * 20,
    exploration="team",
    # Here the agents must act differently.
    agreement=0.0,
    evaluation_interval=100_000,
    checkpoint_interval=1_000_000,
)
LEARNING = {
    "gamma": 0.97,
    "actor_lr": 1e-3,
    "critic_lr": 1e-3,
    "frames_per_update": 1_024,
    "random_frames": 50_000,
    "buffer_size": 500_000,
    "noise_start": 1.0,
    "noise_frames": 1_500_000,
}
DEFAULTS = {
    # Solved in some minutes of one core, with the same settings as the other sparse game.
    "on_policy_alita": Config(
        task="secret_room",
        # Bonuses are weighed against a reward of 1.
        task_settings=SecretRoomSettings(reward=1.0),
        training=TrainingSettings(
            n_agents=2,
            num_envs=1_024,
            horizon=300,
            total_frames=6_553_600,
            frames_per_batch=65_536,
            evaluation_interval=1_000_000,
            checkpoint_interval=2_000_000,
        ),
        algorithm=OnPolicyALITASettings(),
    ),
    "alita": Config(
        task="secret_room",
        training=TRAINING,
        # The paper's novelty and omega for Secret Room.
        algorithm=ALITASettings(
            **LEARNING,
            novelty_coeff=0.1,
            diversity_coeff=0.01,
            omega=0.1,
            optimum="enumerated",
            recent_frames=50_000,
        ),
    ),
    "maddpg": Config(task="secret_room", training=TRAINING, algorithm=MADDPGSettings(**LEARNING)),
    "qmix": Config(
        task="secret_room", training=TRAINING, algorithm=QMIXSettings(frames_per_update=1_024)
    ),
}


def main(arguments: list[str] | None = None) -> dict:
    """Train from the command line."""
    return launch(DEFAULTS, arguments)
from collections.abc import Mapping
from dataclasses import dataclass, field

from torchrl_alita.algorithms import OnPolicyALITA, OnPolicyALITASettings
from torchrl_alita.envs import SecretRoomSettings, secret_room_task
from torchrl_alita.training import TrainingConfig, parse_config, run_recipe


@dataclass
class Config(TrainingConfig):
    """Agents must both come into a room whose door one holds open for the other."""

    algorithm: str = "on_policy_alita"
    """Name of the algorithm."""
    alita: OnPolicyALITASettings = field(default_factory=OnPolicyALITASettings)
    """Settings of the algorithm."""
    task: str = "secret_room"
    """Name of the task."""
    reward: float = 1.0
    """Of success (the paper: 1000); bonuses are weighed against 1."""
    n_agents: int = 2
    """Agents."""
    num_envs: int = 1_024
    """Environments simulated together."""
    horizon: int = 300
    """Steps of an episode."""
    total_frames: int = 6_553_600
    """Environment steps of the whole run, counted over all environments."""
    frames_per_batch: int = 65_536
    """Environment steps of a rollout."""
    frames_per_update: int = 65_536
    """Environment steps for each update: a rollout."""
    random_frames: int = 0
    """Environment steps of uniform random actions at the start, without updates."""
    threads: int | None = 1
    """Threads of torch on the CPU. Default: one, as fast as two for networks of this size."""
    evaluation_interval: int = 1_000_000
    """Environment steps between two evaluations."""
    checkpoint_interval: int = 2_000_000
    """Environment steps between two checkpoints."""

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.alita, Mapping):  # as config.json has it
            self.alita = OnPolicyALITASettings(**self.alita)


def main(arguments: list[str] | None = None) -> dict:
    """Train from the command line."""
    config = parse_config(Config, arguments)
    task = secret_room_task(SecretRoomSettings(reward=config.reward))
    return run_recipe(config, lambda env: OnPolicyALITA(env, config.alita), task=task)


if __name__ == "__main__":
    main()
