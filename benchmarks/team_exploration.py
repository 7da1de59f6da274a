"""What chance alone finds in Push-Box, by how much the team's random actions agree and last.

    python benchmarks/team_exploration.py   # writes results/team_exploration.json, some minutes

Part "always_random": play with nothing but TeamExploration's random actions, eps = 1. Part
"bursts": a policy that always stays, with random actions in three of ten steps on average, by
the length of the bursts and by how much the strength varies over the environments. No reward
is seen by anybody: a box that is delivered is delivered by chance.

Each row has boxes delivered and pushes (steps in which the box moves) per episode, with the
standard error of the mean over the episodes. The environment's and torch's seed is the row's.

Source: ours. The game is that of https://arxiv.org/abs/1910.05512 as Sec. 4 of
https://arxiv.org/abs/2108.12581 uses it: two agents, 15 x 15 cells, 300 steps.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import torch
import tyro
from pages import RESULTS, circumstances

from torchrl_alita.envs import PushBox
from torchrl_alita.modules import TeamExploration

RESULT = RESULTS / "team_exploration.json"
ALWAYS_RANDOM = [
    {"agreement": agreement, "persistence": persistence}
    for agreement, persistence in (
        *((0.0, 0.0), (0.0, 0.7), (0.5, 0.7), (0.8, 0.7), (0.9, 0.7), (1.0, 0.0), (1.0, 0.7)),
    )
]
BURSTS = [
    {"agreement": 0.9, "persistence": 0.7, "burst_length": burst_length, "spread": spread}
    for burst_length in (1.0, 10.0, 30.0)
    for spread in (0.0, 1.0)
]
BURST_EPS = 0.3
ACTION = ("agents", "action")


@dataclass
class Config:
    """How much is played."""

    episodes: int = 4096
    """Episodes of a row for each seed, played together."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of every row."""
    horizon: int = 300
    """Steps of an episode."""
    threads: int = 1
    """Threads of torch."""


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


def main(config: Config) -> None:
    """Play, and write what was found."""
    torch.set_num_threads(config.threads)
    content = circumstances("team_exploration.py", **asdict(config))
    for part, eps, rows in (
        ("always_random", 1.0, ALWAYS_RANDOM),
        ("bursts", BURST_EPS, BURSTS),
    ):
        content[part] = [row(config, eps=eps, **arguments) for arguments in rows]
    RESULT.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Config))
