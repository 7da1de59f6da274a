"""The studies of this folder: trains what is missing, and writes the tables of their pages.

    python benchmarks/study.py spread                      # report from the committed rows
    python benchmarks/study.py spread --train --workers 2  # train what is missing, then report
    python benchmarks/study.py smax --train --tasks smax/2s3z --variants QMIX --seeds 3 4

A study is a file of benchmarks/studies/. Its runs are a sweep in runs/NAME, so that a broken
series goes on where it stopped; a run that has a row in results/NAME.jsonl is not made again.
The report writes the tables between the study's markers in its page, a picture for each task and
budget, and the results on the algorithms' pages. Rows of before November 26 have no commit of their own: where one ends with ~, it is
the last before the row was added. Their processor is no model.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import algorithm_pages
import tyro
from pages import FIGURES, RESULTS, ROOT, write_between

from torchrl_alita.experiments import (
    Row,
    Study,
    append_row,
    missing_cells,
    read_rows,
    run_cells,
    study_text,
)

NAMES = tuple(sorted(path.stem for path in (Path(__file__).parent / "studies").glob("*.py")))


@dataclass(frozen=True)
class Config:
    """A study, and which of its runs to make."""

    study: tyro.conf.Positional[str]
    """Name of the study."""
    train: bool = False
    """Train what is missing before the report."""
    workers: int = 1
    """Runs side by side, each with one thread."""
    tasks: tuple[str, ...] = ()
    """Train on these only."""
    variants: tuple[str, ...] = ()
    """Train these only."""
    seeds: tuple[int, ...] = ()
    """Train with these in place of the study's own."""
    total_frames: int | None = None
    """Train for so long in place of the study's own."""


def load(name: str) -> Study:
    """The study of a name."""
    if name not in NAMES:
        raise ValueError(f"Unknown study {name!r}. Known: {list(NAMES)}.")
    return importlib.import_module(f"studies.{name}").STUDY


def chosen(study: Study, config: Config) -> Study:
    """The part of a study that is to be trained."""
    parts = {}
    for kind in ("tasks", "variants"):
        asked, known = getattr(config, kind), getattr(study, kind)
        if unknown := [name for name in asked if name not in known]:
            raise ValueError(f"Unknown {kind} {unknown}. Known: {list(known)}.")
        parts[kind] = {name: known[name] for name in asked or known}
    if config.total_frames:
        parts["tasks"] = {k: (config.total_frames, own) for k, (_, own) in parts["tasks"].items()}
    return dataclasses.replace(study, seeds=config.seeds or study.seeds, **parts)


def rows_of(name: str) -> list[Row]:
    """The committed rows of a study; none where there is no file."""
    path = RESULTS / f"{name}.jsonl"
    return read_rows(path) if path.exists() else []


def text(study: Study, pictures: Path = FIGURES) -> str:
    """The tables of the committed rows."""
    rows = read_rows(RESULTS / f"{study.name}.jsonl")
    link = os.path.relpath(FIGURES, (ROOT / study.page).parent)
    return study_text(study, rows, pictures, link=link)


def main(config: Config) -> None:
    """Train what is asked for, and report."""
    study = load(config.study)
    if config.train:
        # The recipes' paths, which are part of the rows' commands, begin there.
        os.chdir(ROOT)
        rows = rows_of(study.name)
        cells = missing_cells(chosen(study, config).cells(), rows)
        outcome = run_cells(cells, ROOT / "runs" / study.name, workers=config.workers)
        for row in outcome.rows:
            if row not in rows:
                append_row(RESULTS / f"{study.name}.jsonl", row)
        if outcome.failures:
            raise SystemExit(f"Some runs have failed: {outcome.failures}")
    write_between(ROOT / study.page, study.name, text(study))
    algorithm_pages.main({name: load(name) for name in NAMES})


if __name__ == "__main__":
    try:
        main(tyro.cli(Config))
    except ValueError as error:
        print(f"study.py: {error}", file=sys.stderr)
        raise SystemExit(2) from error
