"""Cooperative navigation: N agents cover N landmarks without touching each other.

python recipes/spread.py --help
python recipes/spread.py maddpg --seed 1
python recipes/spread.py mappo --algorithm.no-goal-attention --algorithm.num-cells 64 64
python recipes/spread.py alita --algorithm.estimator clones --algorithm.influencers random
python recipes/spread.py --resume runs/NAME
"""

from __future__ import annotations

from torchrl_alita.algorithms import MAPPO, ALITASettings, DDPGSettings, MADDPGSettings
from torchrl_alita.training import Config, TrainingSettings, launch

DEFAULTS = {
    "alita": Config(task="vmas/spread", algorithm=ALITASettings()),
    "maddpg": Config(task="vmas/spread", algorithm=MADDPGSettings()),
    "ddpg": Config(task="vmas/spread", algorithm=DDPGSettings()),
    # 0.9 of the normalized score in a minute of one core.
    "mappo": Config(
        task="vmas/spread",
        training=TrainingSettings(
            num_envs=512,
            total_frames=998_400,
            frames_per_batch=12_800,
            evaluation_interval=100_000,
            checkpoint_interval=500_000,
        ),
        algorithm=MAPPO.presets["spread"],
    ),
}


def main(arguments: list[str] | None = None) -> dict:
    """Train from the command line."""
    return launch(DEFAULTS, arguments)


if __name__ == "__main__":
    main()
