"""QMIX, VDN and independent Q-learning in StarCraft's battles.

python recipes/qmix_smac.py --map 2s3z                  # SMAX, which needs no game
python recipes/qmix_smac.py --algorithm vdn --map 5m_vs_6m
python recipes/qmix_smac.py --suite smac --map 2s3z     # where StarCraft and SMAC are installed
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from torchrl_alita.training import (
    StarCraftConfig,
    build_algorithm,
    parse_config,
    run_recipe,
    starcraft_task,
)


@dataclass
class Config(StarCraftConfig):
    """A team of StarCraft's units against the game's or a script's."""

    algorithm: Literal["qmix", "vdn", "iql"] = "qmix"
    """Algorithm."""
    share_params: bool = True
    """One network for all agents, told the agent's index."""


def main(arguments: list[str] | None = None) -> dict:
    """Train from the command line."""
    config, task = starcraft_task(parse_config(Config, arguments))
    return run_recipe(config, partial(build_algorithm, config), task=task)


if __name__ == "__main__":
    main()
