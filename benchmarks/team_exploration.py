"""What chance alone finds in Push-Box, by how much the team's random actions agree and last.

    python benchmarks/team_exploration.py   # writes results/team_exploration.json, some minutes

Part "always_random": play with nothing but TeamExploration's random actions, eps = 1. Part "bursts":
a policy that always stays, with random actions in three of ten steps on average. Boxes and pushes
(steps in which the box moves) are per episode, with the standard error of their mean.

Source: ours. The game is Sec. 4's of https://arxiv.org/abs/2108.12581.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pages
import torch
import tyro
from pages import Measurement

from torchrl_alita.envs import PushBox
from torchrl_alita.modules import TeamExploration

# Of TeamExploration.
NAMES = ("agreement", "persistence", "burst_length", "spread")
ALWAYS_RANDOM = ((0.0, 0.0), (0.0, 0.7), (0.5, 0.7), (0.8, 0.7), (0.9, 0.7), (1.0, 0.0), (1.0, 0.7))
BURSTS = [(0.9, 0.7, length, spread) for length in (1.0, 10.0, 30.0) for spread in (0.0, 1.0)]
PARTS = {"always_random": (1.0, ALWAYS_RANDOM), "bursts": (0.3, BURSTS)}
ACTION = ("agents", "action")


@dataclass(kw_only=True)
class Config(pages.Config):
    """How much is played."""

    episodes: int = 4096
    """Episodes of a row for each seed, played together."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of every row."""
    horizon: int = 300
    """Steps of an episode."""


@torch.no_grad()
def play(
    config: Config, seed: int, *, eps: float, **arguments: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes and pushes of each episode, ``[episodes]``, while the policy stays."""
    torch.manual_seed(seed)
    env = PushBox(config.episodes, horizon=config.horizon, seed=seed)
    spec = env.full_action_spec_unbatched[ACTION]
    exploration = TeamExploration(spec, eps_init=eps, eps_end=eps, **arguments)
    stay = torch.eye(5)[4].expand(config.episodes, env.num_agents, 5)
    boxes, pushes = torch.zeros(2, config.episodes)
    step = env.reset()
    for _ in range(config.horizon):
        before = env.box_cells
        step = env.step(exploration(step.set(ACTION, stay)))
        # A delivered box is replaced elsewhere, so that the cell changes in that step too.
        pushes += (env.box_cells != before).any(-1)
        boxes += (step["next", "agents", "reward"] > 0).any(-2).squeeze(-1)
        step = env.step_mdp(step)
    return boxes, pushes


def row(config: Config, *, eps: float, **arguments: float) -> dict[str, float]:
    """One row of a table, over all seeds."""
    played = [play(config, seed, eps=eps, **arguments) for seed in config.seeds]
    result = {**arguments, "eps": eps}
    for name, values in zip(("boxes", "pushes"), zip(*played, strict=True), strict=True):
        values = torch.cat(values)
        result[f"{name}_per_episode"] = float(values.mean())
        result[f"{name}_standard_error"] = float(values.std() / len(values) ** 0.5)
    return result


def measure(config: Config) -> dict[str, Any]:
    """The rows of both parts."""
    return {
        part: [row(config, eps=eps, **dict(zip(NAMES, of_row, strict=False))) for of_row in rows]
        for part, (eps, rows) in PARTS.items()
    }


MEASUREMENT = Measurement("team_exploration", measure)

if __name__ == "__main__":
    MEASUREMENT.run(tyro.cli(Config))
