"""Runs killed at random moments and resumed, against the run that was never stopped.

    python benchmarks/resume.py                        # 20 runs; results/resume.json, docs/resume.md
    python benchmarks/resume.py --report-only          # the page, from the committed results
    python benchmarks/resume.py --kills 0 --memory-updates 20000   # memory of a long run

One run of ALITA is trained to its end. Then the same run starts again and is killed with SIGKILL:
every second one after a random share of the time for which the whole run trained, the others when
a checkpoint is being written. It is resumed in a new process, to the end, and compared: every
component of the last checkpoint, and every figure of metrics.csv but the wall time.
"""

from __future__ import annotations

import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pages
import tyro
from pages import Measurement, made_by, table

from torchrl_alita.envs import get_task
from torchrl_alita.experiments import Cell
from torchrl_alita.saving import checkpoint_difference, find_checkpoint
from torchrl_alita.training import make_config, train
from torchrl_alita.training.logging import MetricsFile

CHECKPOINT_INTERVAL = 100
RUN = Cell(
    study="resume", variant="ALITA, clones", task="vmas/spread", algorithm="alita", seed=0,
    frames=600,
    settings={
        "num_envs": 10, "horizon": 17, "frames_per_batch": 50, "evaluation_interval": 200,
        "evaluation_episodes": 4, "checkpoint_interval": CHECKPOINT_INTERVAL,
        "algorithm.estimator": "clones", "algorithm.influencers": (0, 2),
        "algorithm.num_cells": (16, 16), "algorithm.frames_per_update": 25,
        "algorithm.random_frames": 100, "algorithm.batch_size": 64,
        "algorithm.conditional_batch_size": 64, "algorithm.buffer_size": 600,
        "algorithm.recent_frames": 300,
    },
)  # fmt: skip
# Moments at which memory is measured.
MEASURED = 20


@dataclass(kw_only=True)
class Config(pages.Config):
    """What is killed and measured."""

    kills: int = 20
    """Runs that are killed once and resumed."""
    seed: int = 0
    """Of the moments of the kills."""
    memory_updates: int = 0
    """Updates of the run whose memory is measured; 0 keeps what was measured before."""


def command(run_dir: Path, *, resume: bool = False) -> list[str]:
    """Of a process that trains."""
    start = [sys.executable, "-m", "torchrl_alita", "train", "--no-progress"]
    if resume:
        return [*start, "--resume", str(run_dir)]
    return [*start, *RUN.arguments, "--run-dir", str(run_dir)]


def run_to_end(arguments: list[str]) -> str:
    """What it printed."""
    return subprocess.run(arguments, stdout=subprocess.PIPE, check=True, text=True).stdout


def kill(run_dir: Path, *, after: float, while_writing: int) -> bool:
    """Start a run and kill it, at the writing of so many checkpoints, or after the seconds.

    Both are counted from the checkpoint of the start. False if the run ended before that.
    """
    process = subprocess.Popen(
        command(run_dir), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    checkpoints = run_dir / "checkpoints"
    started, seen, was_writing = None, 0, False
    while process.poll() is None:
        time.sleep(0.0005)
        if started is None:
            started = time.perf_counter() if any(checkpoints.glob("checkpoint-*")) else None
            continue
        # TorchRL writes aside, under a hidden name, and renames at the end.
        writing = any(checkpoints.glob(".checkpoint-*stage*"))
        seen += writing and not was_writing
        was_writing = writing
        if writing and seen == while_writing:
            break
        if not while_writing and time.perf_counter() - started > after:
            break
    process.kill()
    return process.wait() == -signal.SIGKILL


def figures(run_dir: Path) -> list[dict[str, str]]:
    """Rows of metrics.csv without the wall time."""
    rows = MetricsFile(run_dir / "metrics.csv").rows
    return [{k: v for k, v in row.items() if k != "wall_seconds"} for row in rows]


def logged_difference(first: list[dict], second: list[dict]) -> float:
    """Largest difference of two tables; infinity if they have other rows, columns or gaps."""
    if [row.keys() for row in first] != [row.keys() for row in second]:
        return math.inf
    pairs = [
        (text, b[name]) for a, b in zip(first, second, strict=True) for name, text in a.items()
    ]
    return max(
        (abs(float(a or "inf") - float(b or "inf")) for a, b in pairs if a != b), default=0.0
    )


def killed_and_resumed(
    run_dir: Path, whole: Path, *, moments: random.Random, while_writing: bool
) -> dict[str, Any]:
    """One run killed, resumed and compared."""
    seconds = json.loads((whole / "summary.json").read_text())["wall_seconds"]
    while True:
        after = moments.uniform(0, seconds)
        checkpoint = moments.randint(1, RUN.frames // CHECKPOINT_INTERVAL) if while_writing else 0
        if kill(run_dir, after=after, while_writing=checkpoint):
            break
        shutil.rmtree(run_dir)
    last = int(find_checkpoint(run_dir).name.split("-")[1])
    last_row = int(figures(run_dir)[-1]["frames"])
    unfinished = len(list((run_dir / "checkpoints").glob(".checkpoint-*stage*")))
    printed = run_to_end(command(run_dir, resume=True))
    resumed_at = int(re.search(r"Resumed at frame ([\d,]+)", printed)[1].replace(",", ""))
    return {
        "killed_after_frame": last_row,
        "last_checkpoint": last,
        "resumed_at": resumed_at,
        "unfinished_checkpoints": unfinished,
        "checkpoint_difference": max(checkpoint_difference(run_dir, whole).values()),
        "logged_difference": logged_difference(figures(run_dir), figures(whole)),
        "lost_frames": last - resumed_at,
    }


def measure_kills(config: Config) -> list[dict[str, Any]]:
    """Every kill, against the same whole run."""
    moments = random.Random(config.seed)
    kills = []
    with tempfile.TemporaryDirectory() as name:
        whole = Path(name) / "whole"
        run_to_end(command(whole))
        for number in range(config.kills):
            folder, writing = Path(name) / f"killed_{number}", number % 2 == 1
            kills.append(killed_and_resumed(folder, whole, moments=moments, while_writing=writing))
            print(f"{number + 1} of {config.kills}: {kills[-1]}", file=sys.stderr, flush=True)
    return kills


def measure_memory(updates: int) -> dict[str, Any]:
    """Resident memory on the way through the same run, of so many updates; Linux."""
    measured: list[float] = []

    def measure(_: Any) -> dict[str, Any]:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        measured.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
        return {}

    batch, per_update, random_frames = (
        RUN.settings[name]
        for name in ("frames_per_batch", "algorithm.frames_per_update", "algorithm.random_frames")
    )
    interval = batch * max(1, updates * per_update // batch // MEASURED)
    with tempfile.TemporaryDirectory() as folder:
        options = {
            **RUN.settings, "total_frames": random_frames + updates * per_update,
            "evaluation_interval": interval, "checkpoint_interval": interval, "threads": 1,
            "progress": False, "run_dir": Path(folder) / "run",
        }  # fmt: skip
        task = replace(get_task(RUN.task), metrics=measure)
        summary = train(make_config(RUN.algorithm, RUN.task, options), task=task)
    # The last two are of the end; the first is of before any update.
    mebibytes = [round(value, 1) for value in measured[:-2]]
    half = len(mebibytes) // 2
    return {
        "command": f"python benchmarks/resume.py --kills 0 --memory-updates {updates}",
        "updates": summary["updates"],
        "resident_mebibytes": mebibytes,
        "growth_in_the_second_half_mebibytes": round(mebibytes[-1] - mebibytes[half], 1),
    }


def measure(config: Config) -> dict[str, Any]:
    """What is asked for; the rest stays as it was measured before."""
    found = MEASUREMENT.results()
    if config.kills:
        found = {"each": measure_kills(config), "memory": found["memory"]}
    if config.memory_updates:
        found["memory"] = measure_memory(config.memory_updates)
    return found


def texts(found: dict[str, Any]) -> dict[str, str]:
    """The figures, and how they came about."""
    kills = found["each"]
    largest = max(one[f"{of}_difference"] for one in kills for of in ("checkpoint", "logged"))
    rows = {
        "runs killed and resumed": len(kills),
        "of these, while a checkpoint was written": sum(
            one["unfinished_checkpoints"] > 0 for one in kills
        ),
        "largest difference at the end": largest,
        "frames lost beyond the last checkpoint": max(one["lost_frames"] for one in kills),
    }
    parts = [
        table(["", ""], [[title, str(value)] for title, value in rows.items()]),
        f"Made by {made_by(found)}.",
    ]
    if memory := found["memory"]:
        first, last = memory["resident_mebibytes"][1], memory["resident_mebibytes"][-1]
        parts.append(
            f"Memory: {first:,.0f} MiB resident at the first measurement after the start, "
            f"{last:,.0f} MiB after {memory['updates']:,} updates; in the second half it grew by "
            f"{memory['growth_in_the_second_half_mebibytes']} MiB. Made by `{memory['command']}`."
        )
    return {"resume": "\n\n".join(parts)}


MEASUREMENT = Measurement("resume", measure, texts, page="docs/resume.md")

if __name__ == "__main__":
    MEASUREMENT.run(tyro.cli(Config))
