"""ALITA, MADDPG and DDPG on cooperative navigation.

python recipes/alita_spread.py --help
python recipes/alita_spread.py --algorithm maddpg --seed 1
python recipes/alita_spread.py --estimator clones --influencers random
python recipes/alita_spread.py --resume runs/NAME
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torchrl_alita.training import RecipeConfig, build_algorithm, parse_config, run_recipe


@dataclass
class Config(RecipeConfig):
    """Cooperative navigation: N agents cover N landmarks without touching each other."""


def main(arguments: list[str] | None = None) -> dict:
    """Train from the command line."""
    config = parse_config(Config, arguments)
    return run_recipe(config, partial(build_algorithm, config))


if __name__ == "__main__":
    main()
