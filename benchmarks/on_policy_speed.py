"""Frames a second of whole on-policy training, one thread: rollouts, bonuses, all epochs.

    python benchmarks/on_policy_speed.py                # measure, write the results and the table
    python benchmarks/on_policy_speed.py --report-only  # the table, from the results

A turn is one batch: a rollout of TorchRL's collector with the policies as they explore, and an
update. Evaluations, checkpoints and loggers are off. A learner as it is and one with compiled
minibatches take turns, and learn on from turn to turn.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pages
import torch
import tyro
from pages import Measurement, made_by, table
from timing import take_turns

from torchrl_alita.envs import make_env
from torchrl_alita.training import make_config
from torchrl_alita.training.collection import Collection

GRID = {"num_envs": 1_024, "frames_per_batch": 65_536}
# As on-policy ALITA has them there.
PLAIN = {
    **GRID, "algorithm.num_epochs": 4, "algorithm.minibatch_size": 4_096,
    "algorithm.num_cells": (64, 64), "algorithm.value_num_cells": (64, 64),
    "algorithm.entropy_coeff": 0.01, "algorithm.lr": 2e-3,
}  # fmt: skip
SPREAD = {"num_envs": 512, "frames_per_batch": 12_800}
# Task, title, algorithm, options.
RUNS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    f"{task}, {name}": (task, title, algorithm, options)
    for task in ("push_box", "secret_room")
    for name, title, algorithm, options in (
        ("mappo", "MAPPO", "mappo", PLAIN),
        ("ippo", "IPPO", "ippo", PLAIN),
        ("alita", "on-policy ALITA", "on_policy_alita", GRID),
    )
} | {
    "vmas/spread, mappo": ("vmas/spread", "MAPPO", "mappo", SPREAD),
    "vmas/spread, ippo": ("vmas/spread", "IPPO", "ippo", SPREAD),
    "vmas/spread, goals": (
        "vmas/spread", 'MAPPO, preset "spread"', "mappo", SPREAD | {"preset": "spread"},
    ),
}  # fmt: skip


@dataclass(kw_only=True)
class Config(pages.Config):
    """What to measure."""

    runs: tuple[str, ...] = tuple(RUNS)
    """Names of runs."""
    turns: int = 5
    """Batches of each."""


def training(name: str, *, compiled: bool) -> tuple[Callable[[], Any], int]:
    """A function that collects and learns from a batch, and the batch's frames."""
    torch.manual_seed(0)
    task, _, algorithm, options = RUNS[name]
    options = dict(options)
    preset = options.pop("preset", None)
    endless = options["frames_per_batch"] * 10**6
    config = make_config(
        algorithm,
        task,
        {**options, "total_frames": endless, "algorithm.compile": compiled},
        preset=preset,
    )
    env = make_env(task, num_envs=config.training.num_envs, seed=0)
    learner = config.build(env)
    batches = iter(Collection(config, learner.prepare(env), learner, config.find_task()))
    return (
        lambda: learner.update({"rollout": next(batches)}),
        config.training.frames_per_batch,
    )


def measure(config: Config) -> dict[str, Any]:
    """Turns of every learner, and seconds of the first compiled update."""
    found, frames, first = {}, {}, {}
    for name in config.runs:
        calls = {}
        for compiled in (False, True):
            key = f"{name}, compiled" if compiled else name
            calls[key], frames[key] = training(name, compiled=compiled)
            started = time.perf_counter()
            calls[key]()
            first[key] = round(time.perf_counter() - started, 1)
            print(f"{key}: first batch {first[key]} s", file=sys.stderr, flush=True)
        found |= take_turns(calls, config.turns, per=1)
    return {"turns": found, "frames": frames, "first_seconds": first}


def speed_table(content: dict[str, Any]) -> str:
    """A row for each learner."""

    def fps(key: str) -> str:
        turns, frames = content["turns"][key], content["frames"][key]
        middle, least, most = (frames / turns[f"processor_ms{end}"] for end in ("", "_max", "_min"))
        return f"{middle:.1f} [{least:.1f}, {most:.1f}]"

    rows = [
        [task, title, fps(name), fps(f"{name}, compiled"),
         f"{content['first_seconds'][f'{name}, compiled']:.0f}"]
        for name, (task, title, _, _) in RUNS.items()
        if name in content["turns"]
    ]  # fmt: skip
    return table(
        ["task", "algorithm", "thousand frames/s", "compiled", "first compiled batch, s"], rows
    )


def texts(content: dict[str, Any]) -> dict[str, str]:
    """The table, and how it came about."""
    note = (
        f"Median [least, most] of {content['config']['turns']} batches, a second of processor time "
        f"of {content['config']['threads']} thread. Made by {made_by(content)}. All figures: "
        "benchmarks/results/on_policy_speed.json."
    )
    return {"on-policy speed": f"{speed_table(content)}\n\n{note}"}


MEASUREMENT = Measurement("on_policy_speed", measure, texts)

if __name__ == "__main__":
    MEASUREMENT.run(tyro.cli(Config))
