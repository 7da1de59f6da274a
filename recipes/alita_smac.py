"""ALITA, its ablations and MADDPG with recurrent policies in StarCraft's battles.

python recipes/alita_smac.py --map 2s3z                 # SMAX, which needs no game
python recipes/alita_smac.py --suite smac --map 2s3z    # where StarCraft and SMAC are installed
python recipes/alita_smac.py --map 5m_vs_6m --influencers all
"""

from __future__ import annotations

import dataclasses
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

# Table 6 of the paper: novelty_coeff, omega, influence_coeff. It has no 3s5z_vs_3s6z.
TABLE_6 = {
    "corridor": (0.09, 0.03, 0.15),
    "5m_vs_6m": (0.03, 0.03, 0.15),
    "3s_vs_5z": (0.01, 0.01, 0.10),
    "2s3z": (0.01, 0.01, 0.10),
}


@dataclass
class Config(StarCraftConfig):
    """A team of StarCraft's units against the game's or a script's."""

    algorithm: Literal["alita", "maddpg", "ddpg"] = "alita"
    """Algorithm; what follows from influencers on is of alita."""
    share_params: bool = True
    """One policy and one critic for all agents."""
    actor_lr: float = 1e-4
    """The optimizer's step of the actors (the paper: 5e-4, see docs/starcraft.md)."""
    num_cells: tuple[int, ...] = (64, 64)
    """Width of each hidden layer of the critics."""
    tau: float = 0.01
    """Share by which the targets move at each update."""
    batch_size: int = 16 * 40
    """Transitions of an update (PyMARL: 32 whole battles)."""
    critic_input: Literal["observations", "state"] = "state"
    """What the critics read beside the actions."""
    own_actions: Literal["policy", "all"] = "all"
    """Climb with the action drawn, or with the mean over all of them."""
    influencers: Literal["random", "all"] | tuple[int, ...] = "random"
    """Indices of the influencers; random draws one (the paper's), all is Symmetric."""
    influence_coeff: float | None = None
    """Weight of the influence; 0 is No F. Default: Table 6, or that of 2s3z."""
    novelty_coeff: float | None = None
    """Weight of the novelty. Default: Table 6, or that of 2s3z."""
    omega: float | None = None
    """How fast novelty lifts the penalty. Default: Table 6, or that of 2s3z."""
    diversity_coeff: float = 0.01
    """Weight of the diversity penalty; with novelty_coeff 0 and this 0 it is No IM."""


def with_table_6(config: Config) -> Config:
    """The config with the paper's coefficients where none were given."""
    novelty, omega, influence = TABLE_6.get(config.map, TABLE_6["2s3z"])
    found = {"novelty_coeff": novelty, "omega": omega, "influence_coeff": influence}
    missing = {name: value for name, value in found.items() if getattr(config, name) is None}
    return dataclasses.replace(config, **missing)


def main(arguments: list[str] | None = None) -> dict:
    """Train from the command line."""
    config, task = starcraft_task(with_table_6(parse_config(Config, arguments)))
    return run_recipe(config, partial(build_algorithm, config), task=task)


if __name__ == "__main__":
    main()
