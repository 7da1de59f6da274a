"""Push-Box: two agents find and move a box that neither moves alone.

python recipes/push_box.py --help
python recipes/push_box.py --run-dir runs/push_box --seed 1
python recipes/push_box.py --algorithm.transition-coeff 0 --algorithm.team-visit-coeff 1
python recipes/push_box.py maddpg --exploration independent
"""Push-Box solved on-policy: two agents push a box that neither of them moves alone.

python recipes/push_box.py --help
python recipes/push_box.py --run-dir runs/push_box --seed 1
python recipes/push_box.py --alita.transition-coeff 0 --alita.team-visit-coeff 1
python recipes/push_box.py --resume runs/NAME
"""

from __future__ import annotations

from torchrl_alita.algorithms import (
    ALITASettings,
    MADDPGSettings,
    OnPolicyALITASettings,
    QMIXSettings,
)
from torchrl_alita.envs import PushBoxSettings
from torchrl_alita.training import Config, TrainingSettings, launch

TRAINING = TrainingSettings(
    n_agents=2,
    num_envs=2_048,
    horizon=300,
    total_frames=30_000_000,
    frames_per_batch=2_048 * 10,
    exploration="team",
    spread=1.0,
    evaluation_interval=1_000_000,
    checkpoint_interval=10_000_000,
)
LEARNING = {
    "gamma": 0.97,
    "actor_lr": 1e-3,
    "critic_lr": 1e-3,
    "frames_per_update": 2_048,
    "random_frames": 100_000,
    "buffer_size": 500_000,
    "noise_start": 0.5,
    "noise_frames": 20_000_000,
}
DEFAULTS = {
    # Solved in some minutes of one core, with the same settings as the other sparse game.
    "on_policy_alita": Config(
        task="push_box",
        # Bonuses are weighed against a reward of 1.
        task_settings=PushBoxSettings(reward=1.0),
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
        task="push_box",
        training=TRAINING,
        # The paper's coefficients for Push-Box; its reward of 1,000 is the same game.
        algorithm=ALITASettings(
            **LEARNING,
            influence_coeff=0.15,
            novelty_coeff=0.1,
            diversity_coeff=0.01,
            omega=0.1,
            optimum="enumerated",
            recent_frames=100_000,
        ),
    ),
    "maddpg": Config(task="push_box", training=TRAINING, algorithm=MADDPGSettings(**LEARNING)),
    "qmix": Config(
        task="push_box", training=TRAINING, algorithm=QMIXSettings(frames_per_update=2_048)
    ),
}


def main(arguments: list[str] | None = None) -> dict:
    """Train from the command line."""
    return launch(DEFAULTS, arguments)
from collections.abc import Mapping
from dataclasses import dataclass, field

from torchrl_alita.algorithms import OnPolicyALITA, OnPolicyALITASettings
from torchrl_alita.envs import PushBoxSettings, push_box_task
from torchrl_alita.training import TrainingConfig, parse_config, run_recipe


@dataclass
class Config(TrainingConfig):
    """Agents push a box to a wall; it moves only when two push the same way at once."""

    algorithm: str = "on_policy_alita"
    """Name of the algorithm."""
    alita: OnPolicyALITASettings = field(default_factory=OnPolicyALITASettings)
    """Settings of the algorithm."""
    task: str = "push_box"
    """Name of the task."""
    reward: float = 1.0
    """Of a delivered box (the paper: 1000); bonuses are weighed against 1."""
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
    task = push_box_task(PushBoxSettings(reward=config.reward))
    return run_recipe(config, lambda env: OnPolicyALITA(env, config.alita), task=task)


if __name__ == "__main__":
    main()
