"""The runs of a study on one GPU, as many as a time allows.

    python benchmarks/gpu_study.py sparse_onpolicy --seconds 560 --workers 14 --out rows.jsonl

Each worker is a process that trains one run after the other, so that libraries and the GPU are
started once. A round of seeds is made before the next begins: a series that the time cuts is a
balanced one. A row is added for each run that ends in time, and those that the results have
already are not made again. Runs differ from those of ``study.py --train`` by the device alone; they
draw no pictures.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import multiprocessing
import queue
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from study import chosen, load, rows_of

from torchrl_alita.experiments import append_row, missing_cells
from torchrl_alita.experiments.cells import Cell, CellFolder
from torchrl_alita.training.command import main as train


@dataclass(frozen=True)
class Config:
    """A study, and what of it is made."""

    study: tyro.conf.Positional[str]
    """Name of the study."""
    out: Path
    """File to which the rows are added."""
    seconds: float = 560.0
    """After which everything ends."""
    workers: int = 14
    """Runs side by side."""
    device: str = "cuda"
    """Of all runs."""
    tasks: tuple[str, ...] = ()
    """These only."""
    variants: tuple[str, ...] = ()
    """These only."""
    seeds: tuple[int, ...] = ()
    """In place of the study's own."""
    total_frames: int | None = None
    """In place of the study's own."""


def cells_of(config: Config) -> list[Cell]:
    """What is to be made, with the device among its settings."""
    cells = missing_cells(chosen(load(config.study), config).cells(), rows_of(config.study))
    more = {"device": config.device, "pictures": False}
    return [dataclasses.replace(cell, settings={**cell.settings, **more}) for cell in cells]


def make(cell: Cell, sweep: Path, out: Path) -> str:
    """Train a cell in this process and add its row; how fast it was."""
    before, started, folder = time.process_time(), time.perf_counter(), CellFolder(sweep, cell)
    folder.begin_attempt()
    with contextlib.redirect_stdout(io.StringIO()):
        train([*cell.arguments, "--run-dir", str(folder.run), "--no-progress"])
    folder.end_attempt(time.process_time() - before)
    append_row(out, folder.row())
    return f"{cell.name}: {cell.frames / (time.perf_counter() - started):,.0f} frames a second"


def work(cells: multiprocessing.Queue, said: multiprocessing.Queue, out: Path) -> None:
    """Train one cell after the other."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        while True:
            try:
                cell = cells.get(timeout=1)
            except queue.Empty:
                return
            try:
                said.put(make(cell, Path(folder), out))
            except Exception:
                said.put(f"{cell.name} has failed:\n{traceback.format_exc(limit=-4)}")


def main(config: Config) -> None:
    """Make what the time allows."""
    ends = time.monotonic() + config.seconds
    context = multiprocessing.get_context("spawn")
    cells, said = context.Queue(), context.Queue()
    wanted = cells_of(config)
    for cell in wanted:
        cells.put(cell)
    workers = [
        context.Process(target=work, args=(cells, said, config.out), daemon=True)
        for _ in range(min(config.workers, len(wanted)))
    ]
    for worker in workers:
        worker.start()
    while time.monotonic() < ends and any(worker.is_alive() for worker in workers):
        with contextlib.suppress(queue.Empty):
            print(said.get(timeout=1), file=sys.stderr, flush=True)
    for worker in workers:
        worker.kill()


if __name__ == "__main__":
    main(tyro.cli(Config))
