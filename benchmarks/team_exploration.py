"""What chance alone finds in Push-Box, by how much the team's random actions agree and last.

    python benchmarks/team_exploration.py          # results/team_exploration.json, some minutes
    python benchmarks/team_exploration.py --quick  # one line of JSON, in less than a minute

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
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from torchrl_alita.envs import PushBox
from torchrl_alita.modules import TeamExploration
from torchrl_alita.saving import machine

RESULT = Path(__file__).parent / "results" / "team_exploration.json"
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
    quick: bool = False
    """A small part of it, printed as one line and not written."""


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
    """Play, and print or write what was found."""
    torch.set_num_threads(config.threads)
    started = time.perf_counter()
    if config.quick:
        config.episodes, config.seeds = min(config.episodes, 512), config.seeds[:1]
    found = {
        "always_random": [row(config, eps=1.0, **arguments) for arguments in ALWAYS_RANDOM],
        "bursts": [row(config, eps=BURST_EPS, **arguments) for arguments in BURSTS],
    }
    options = [
        *("--episodes", str(config.episodes), "--seeds", *map(str, config.seeds)),
        *("--horizon", str(config.horizon), "--threads", str(config.threads)),
    ]
    content = {
        "command": " ".join(["python benchmarks/team_exploration.py", *options]),
        "seconds": round(time.perf_counter() - started, 1),
        "machine": machine(),
        **found,
    }
    if config.quick:
        print(json.dumps(content))
        return
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(content, indent=1) + "\n")
    for name, rows in found.items():
        print(name)
        for entry in rows:
            print(" ", {key: round(value, 5) for key, value in entry.items()})


if __name__ == "__main__":
    main(tyro.cli(Config))
