"""Speed of training on PyBullet's robots against stable-baselines3, on the same work.

    python benchmarks/robot_speed.py                # measure, write the results and the table
    python benchmarks/robot_speed.py --report-only  # the table, from the results

Each contender is a process with one thread that runs its library's own training loop, with the
settings of recipes/robots.py: the same networks, batches and noise, and one update for each frame.
They take turns; what comes before the first turn, imports and compilation, does not count.
Evaluations, checkpoints and loggers are off. stable-baselines3 has one robot, as in its own
recipes; ours has the recipe's number of robots, and one.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import pages
import tyro
from pages import ROOT, Measurement, made_by, table
from timing import Contender, measured_in_turns

WORKER = Path(__file__).with_name("robot_speed_worker.py")
PEER = "stable-baselines3"
# Library or ours, and what differs from the recipe.
SIDES: dict[str, dict[str, Any]] = {
    PEER: {},
    "ours": {},
    "ours, one robot": {"num_envs": 1},
}
# Untimed turns of each: the first updates compile.
WARM_UP = 1


@dataclass(kw_only=True)
class Config(pages.Config):
    """What to measure."""

    robots: tuple[str, ...] = ("Hopper", "HalfCheetah")
    """Whose environments."""
    algorithms: tuple[str, ...] = ("td3", "sac")
    """Of ours and of the library."""
    frames: int = 1_000
    """Frames and updates of a turn."""
    turns: int = 5
    """Of each contender."""


def start(side: str, folder: Path, *, algorithm: str, robot: str, config: Config) -> Contender:
    """One of the contenders."""
    work = {
        "library": side == PEER,
        "algorithm": algorithm,
        "task": f"pybullet/{robot}BulletEnv-v0",
        "frames": config.frames,
        "threads": config.threads,
        "folder": str(folder / side.replace(",", "").replace(" ", "_")),
        "options": SIDES[side],
    }
    return Contender(
        f"{side}, {algorithm}, {robot},",
        [sys.executable, str(WORKER), json.dumps(work)],
        folder / f"{Path(work['folder']).name}.errors",
        OMP_NUM_THREADS=str(config.threads),
        PYTHONPATH=str(ROOT),
    )


def measure(config: Config) -> dict[str, Any]:
    """Turns of every contender, for each algorithm and robot."""
    found, versions = [], {}
    for algorithm in config.algorithms:
        for robot in config.robots:
            versions, turns = measured_in_turns(
                SIDES,
                partial(start, algorithm=algorithm, robot=robot, config=config),
                config.turns,
                warm_up=WARM_UP,
                say=lambda text: print(text, file=sys.stderr, flush=True),
            )
            found.append({"algorithm": algorithm, "robot": robot, "turns": turns})
    return {"runs": found, "library": versions[PEER]}


def speed_table(runs: list[dict[str, Any]]) -> str:
    """Frames a second of processor time; a ratio above 1 is ours in front."""
    rows = []
    for run in runs:
        speeds = {
            side: [1e3 / turn["processor_ms"] for turn in turns]
            for side, turns in run["turns"].items()
        }
        peer = median(speeds[PEER])
        for side, found in speeds.items():
            spread = f"{median(found):.0f} [{min(found):.0f}, {max(found):.0f}]"
            titles = [run["algorithm"].upper(), run["robot"], side]
            rows.append([*titles, spread, f"{median(found) / peer:.2f}"])
    titles = ["algorithm", "robot", "training", "frames/s", f"times {PEER}"]
    return table(titles, rows)


def texts(content: dict[str, Any]) -> dict[str, str]:
    """The table, and how it came about."""
    config = content["config"]
    note = (
        f"Median [least, largest] of {config['turns']} turns of {config['frames']:,} frames and as "
        f"many updates, frames for each second of processor time of {config['threads']} thread. "
        f"Made by {made_by(content)}; stable-baselines3 {content['library']['stable-baselines3']}. "
        "Raw figures of each turn: benchmarks/results/robot_speed.json."
    )
    return {"robot speed": f"{speed_table(content['runs'])}\n\n{note}"}


MEASUREMENT = Measurement("robot_speed", measure, texts, page="docs/pybullet.md")

if __name__ == "__main__":
    MEASUREMENT.run(tyro.cli(Config))
