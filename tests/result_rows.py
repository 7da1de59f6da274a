"""Rows of results, made by hand."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torchrl_alita.experiments import Row, append_row

SHARE = "evaluation/share"


def make_row(**changes) -> Row:
    fields = {
        "study": "spread",
        "variant": "ALITA, marginal",
        "task": "vmas/spread",
        "algorithm": "alita",
        "seed": 3,
        "frames": 200,
        "settings": {"influence_coeff": 0.0},
        "command": "python recipes/alita_spread.py --influence-coeff 0",
        "commit": "504cf5b",
        "versions": {"torch": "2.13.0"},
        "machine": {"cores": 2},
        "wall_seconds": 7.5,
        "process_seconds": None,
        "curve": [
            {"frames": 0, "wall_seconds": 0.0, "metrics": {"evaluation/return_mean": -5.0}},
            {"frames": 200, "wall_seconds": 7.5, "metrics": {"evaluation/return_mean": -2.0}},
        ],
        "final": {"evaluation/return_mean": -2.0, "exploration/first_success_frame": None},
    }
    return Row(**fields | changes)


def run_of(
    variant: str, seed: int, *values: float, task: str = "games", every: int = 10, **changes
) -> Row:
    """A row whose curve has these shares, at every ten frames."""
    curve = [
        {"frames": every * number, "wall_seconds": None, "metrics": {SHARE: value}}
        for number, value in enumerate(values)
    ]
    fields = {"frames": curve[-1]["frames"], "final": {SHARE: values[-1]}, "curve": curve}
    return make_row(variant=variant, seed=seed, task=task, settings={}, **fields | changes)


def append_many(path: Path, seeds: Iterable[int]) -> None:
    for seed in seeds:
        append_row(path, make_row(seed=seed))
