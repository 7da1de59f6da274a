"""Where each bonus leads the agents: cells and joint states that a team has visited in training.

    python benchmarks/visited_states.py                # train, write results, table and picture
    python benchmarks/visited_states.py --report-only  # table and picture, from the results

The teams are the rows of Table 1, studies/sparse_onpolicy.py, trained for the first third of their
frames, in which no row has learned its game yet. A joint state is all agents' cells and the box's.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pages
import torch
import tyro
from matplotlib.figure import Figure
from pages import FIGURES, Measurement, made_by, table
from studies.sparse_onpolicy import STUDY

from torchrl_alita.data import count_codes_of
from torchrl_alita.envs import make_env
from torchrl_alita.layout import OBSERVATION, REWARD, next_key
from torchrl_alita.saving import seed_everything
from torchrl_alita.training import make_config
from torchrl_alita.training.collection import Collection

PICTURE = FIGURES / "visited_states.png"
METHODS = (
    "ALITA-C", "EITI", "the team's visits (cen)", "own visits (dec)", "EDTI, with own visits",
    "Social Influence, with own visits", "RND", "ALITA, the paper's parts", "no F",
    "MAPPO with bursts", "MAPPO",
)  # fmt: skip


@dataclass(kw_only=True)
class Config(pages.Config):
    """What to train."""

    methods: tuple[str, ...] = METHODS
    """Variants of the study."""
    tasks: tuple[str, ...] = tuple(STUDY.tasks)
    """Games."""
    batches: int = 30
    """Of each team; the study's have 65,536 frames."""
    seed: int = 0
    """Of each training."""


class Visits:
    """How often each agent was in each cell, and which joint states there were."""

    def __init__(self, codes: Any, num_agents: int):
        self.codes = codes
        self.cells = torch.zeros(num_agents, codes.part.num_codes, dtype=torch.long)
        self.joint = torch.zeros(codes.team.num_codes, dtype=torch.bool)

    def add(self, observation: torch.Tensor) -> None:
        """Observations ``[*B, N, O]``."""
        cells = self.codes.part(observation).flatten(0, -2)
        for agent, own in enumerate(cells.unbind(-1)):
            self.cells[agent] += own.bincount(minlength=self.cells.shape[1])
        self.joint[self.codes.team(observation).flatten()] = True


def explored(task: str, method: str, config: Config) -> dict[str, Any]:
    """The visits of a team in training, and its reward."""
    settings = {**STUDY.tasks[task][1], **STUDY.variants[method].settings}
    settings |= {
        "total_frames": config.batches * settings["frames_per_batch"],
        "seed": config.seed,
        # As in the table of two epochs.
        "algorithm.num_epochs": 2,
    }
    run = make_config(
        STUDY.variants[method].algorithm, task, settings, preset=settings.pop("preset", None)
    )
    seed_everything(config.seed)
    own = run.training
    env = make_env(run.find_task(), num_envs=own.num_envs, horizon=own.horizon, seed=own.seed)
    learner = run.build(env)
    visits = Visits(count_codes_of(env), learner.layout.num_agents)
    paid = 0.0
    batches = Collection(run, learner.prepare(env), learner, run.find_task())
    for batch in islice(batches, config.batches):
        learner.update({"rollout": batch})
        visits.add(batch[next_key(OBSERVATION)])
        paid += float(batch[next_key(REWARD)][..., 0, :].sum())
    return {
        "task": task,
        "method": method,
        "frames": own.total_frames,
        "cells": visits.cells.tolist(),
        "joint_states": int(visits.joint.sum()),
        "rewards": round(paid),
    }


def measure(config: Config) -> dict[str, Any]:
    """A row for each game and method."""
    found = []
    for task in config.tasks:
        for method in config.methods:
            found.append(explored(task, method, config))
            row = {name: found[-1][name] for name in ("joint_states", "rewards")}
            print(task, method, row, file=sys.stderr, flush=True)
    return {"rows": found}


def visits_table(rows: list[dict[str, Any]]) -> str:
    """Joint states and rewards of each method, in each game."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    by = {(row["method"], row["task"]): row for row in rows}
    columns = [(task, name) for task in tasks for name in ("joint_states", "rewards")]
    lines = [
        [method, *(f"{by[method, task][name]:,}" for task, name in columns)]
        for method in dict.fromkeys(row["method"] for row in rows)
    ]
    titles = [f"{task}: {name.replace('_', ' ')}" for task, name in columns]
    return table(["team", *titles], lines)


def draw(content: dict[str, Any]) -> None:
    """A map of each agent's visits, darker with their logarithm; a row for each method."""
    rows = content["rows"]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    width = sum(len(next(r for r in rows if r["task"] == task)["cells"]) for task in tasks)
    figure = Figure(figsize=(1.4 * width + 2.2, 1.4 * len(methods) + 0.5), layout="constrained")
    axes = figure.subplots(len(methods), width, squeeze=False)
    for line, method in zip(axes, methods, strict=True):
        maps = [
            (task, agent, torch.tensor(cells))
            for task in tasks
            for row in rows
            if (row["task"], row["method"]) == (task, method)
            for agent, cells in enumerate(row["cells"])
        ]
        for ax, (task, agent, cells) in zip(line, maps, strict=True):
            size = round(len(cells) ** 0.5)
            ax.imshow(cells.reshape(size, size).double().log1p().numpy(), cmap="Blues")
            ax.set(xticks=[], yticks=[])
            if method == methods[0]:
                ax.set_title(f"{task},\nagent {agent}", fontsize=8)
        line[0].set_ylabel(
            method.replace(", ", ",\n"), rotation=0, ha="right", va="center", fontsize=8
        )
    figure.savefig(PICTURE, dpi=80)


def texts(content: dict[str, Any]) -> dict[str, str]:
    """The table and the picture, and how they came about."""
    frames = content["rows"][0]["frames"]
    note = (
        f"Joint states visited at least once, and rewards, in the first {frames:,} frames of "
        f"training, one seed. Made by {made_by(content)}."
    )
    picture = f"![Visits of each agent to each cell, by method](figures/{PICTURE.name})"
    return {"visited states": f"{visits_table(content['rows'])}\n\n{note}\n\n{picture}"}


MEASUREMENT = Measurement("visited_states", measure, texts, page="docs/sparse.md", draw=draw)

if __name__ == "__main__":
    MEASUREMENT.run(tyro.cli(Config))
