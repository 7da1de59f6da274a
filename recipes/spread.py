"""Cooperative navigation: N agents cover N landmarks without touching each other.

python recipes/spread.py --help
python recipes/spread.py maddpg --seed 1
python recipes/spread.py alita --algorithm.estimator clones --algorithm.influencers random
python recipes/spread.py --resume runs/NAME
"""

from __future__ import annotations

from torchrl_alita.algorithms import ALITASettings, DDPGSettings, MADDPGSettings
from torchrl_alita.training import Config, launch

DEFAULTS = {
    "alita": Config(task="vmas/spread", algorithm=ALITASettings()),
    "maddpg": Config(task="vmas/spread", algorithm=MADDPGSettings()),
    "ddpg": Config(task="vmas/spread", algorithm=DDPGSettings()),
}


def main(arguments: list[str] | None = None) -> dict:
    """Train from the command line."""
    return launch(DEFAULTS, arguments)


if __name__ == "__main__":
    main()
