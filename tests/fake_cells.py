"""Cells of a sweep whose runs are those of fake_training.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from scripts import ROOT

from torchrl_alita.experiments import Cell, Row, make_cells

FAKE = (str(ROOT / "tests" / "fake_training.py"),)


def cells(seeds: int = 2, algorithms=("maddpg", "alita"), frames: int = 40) -> list[Cell]:
    found = make_cells(["games"], algorithms, study="s", seeds=seeds, frames=frames)
    return [dataclasses.replace(cell, program=FAKE) for cell in found]


def histories(out: Path) -> dict[str, list[str]]:
    """What each run has said, by algorithm and seed."""
    return {
        "/".join(path.parts[-4:-2]): path.read_text().split("\n")[:-1]
        for path in sorted(out.rglob("history"))
    }


def but_times(rows: Iterable[Row]) -> list[dict]:
    times = ("wall_seconds", "process_seconds")
    return [{k: v for k, v in vars(row).items() if k not in times} for row in rows]
