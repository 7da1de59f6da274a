"""One thread or several: which is never far from the best, on an idle machine and on a busy one.

    python benchmarks/threads.py                # measure, write the results and the table
    python benchmarks/threads.py --report-only

Cooperative navigation is trained by MADDPG, eager and compiled, and by MAPPO, with one thread and
with as many as there are cores; alone, and beside one other program for each core that only counts.
Frames a second are those of the run's own clock, between its first evaluation after the start and
its last, so that imports and compilation do not count. The table is in docs/speed.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pages
import tyro
from pages import Measurement, made_by, table

from torchrl_alita.training.logging import MetricsFile

OFF_POLICY = (
    *("--num-envs", "100", "--total-frames", "24000", "--evaluation-interval", "8000"),
    *("--algorithm.batch-size", "128", "--algorithm.frames-per-update", "25"),
)
ON_POLICY = (
    *("--preset", "spread", "--num-envs", "512", "--frames-per-batch", "12800"),
    *("--total-frames", "102400", "--evaluation-interval", "25600"),
)
TRAININGS = {
    "MADDPG, eager": ("maddpg", *OFF_POLICY, "--algorithm.compile=false"),
    "MADDPG, compiled": ("maddpg", *OFF_POLICY, "--algorithm.compile=true"),
    "MAPPO": ("mappo", *ON_POLICY),
}
BUSY = "while True: pass"


@dataclass(kw_only=True)
class Config(pages.Config):
    """What to measure."""

    rounds: int = 3
    """Times that each training is measured."""


@contextmanager
def busy(programs: int) -> Iterator[list[subprocess.Popen]]:
    """Other programs that use a core each, and no memory to speak of."""
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(programs)]
    try:
        yield others
    finally:
        for other in others:
            other.kill()
            other.wait()


def frames_per_second(arguments: tuple[str, ...], threads: int) -> float:
    """Of a training in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        command = [sys.executable, "-m", "torchrl_alita", "train", *arguments]
        command += ["--task", "vmas/spread", "--threads", str(threads), "--no-progress"]
        command += ["--evaluation-episodes", "1", "--run-dir", str(run_dir)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        rows = MetricsFile(run_dir / "metrics.csv").rows
    evaluated = [row for row in rows if row["evaluation/return_mean"]]
    frames, seconds = (
        float(evaluated[-1][key]) - float(evaluated[1][key]) for key in ("frames", "wall_seconds")
    )
    return frames / seconds


def measure(config: Config) -> dict:
    """Frames a second of every training, by load and threads, in turns."""
    cores = os.cpu_count() or 1
    found: dict[str, dict[str, list[float]]] = {name: {} for name in TRAININGS}
    for _ in range(config.rounds):
        for load in (0, cores):
            with busy(load):
                for name, arguments in TRAININGS.items():
                    for threads in sorted({1, cores}):
                        speeds = found[name].setdefault(f"{load} {threads}", [])
                        speeds.append(frames_per_second(arguments, threads))
    return {"rounds": config.rounds, "frames_per_second": found}


def texts(result: dict) -> dict[str, str]:
    """The table, with the share of the best that each choice has."""
    found = result["frames_per_second"]
    choices = sorted(next(iter(found.values())), key=lambda key: [*map(int, key.split())])
    titles = [
        "training",
        "beside",
        *[f"{n} threads" if n > 1 else "1 thread" for n in _threads(choices)],
    ]
    cells = []
    for name, speeds in found.items():
        for load in dict.fromkeys(key.split()[0] for key in choices):
            own = {t: max(speeds[f"{load} {t}"]) for t in _threads(choices)}
            best = max(own.values())
            beside = "nothing" if load == "0" else f"{load} programs"
            cells.append(
                [name, beside, *[f"{speed:,.0f} ({speed / best:.2f})" for speed in own.values()]]
            )
    note = (
        f"Frames a second, the best of {result['rounds']} runs, and in brackets its share of the "
        f"better choice. Made by {made_by(result, 'python benchmarks/threads.py')}. Raw figures: benchmarks/results/threads.json."
    )
    return {"threads": f"{table(titles, cells)}\n\n{note}"}


def _threads(choices: list[str]) -> list[int]:
    return sorted({int(key.split()[1]) for key in choices})


MEASUREMENT = Measurement("threads", measure, texts)

if __name__ == "__main__":
    MEASUREMENT.run(tyro.cli(Config))
