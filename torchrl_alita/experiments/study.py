"""Studies as declarations: what is trained, and the tables that say what came out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from torchrl_alita.experiments.cells import Cell
from torchrl_alita.experiments.pictures import draw_curves
from torchrl_alita.experiments.results import Row, check_distinct
from torchrl_alita.experiments.statistics import FEWEST_RUNS, probability_of_improvement
from torchrl_alita.experiments.tables import (
    Column,
    by_variant,
    markdown_table,
    results_table,
    sections,
    versions_text,
)

__all__ = ["Study", "Variant", "missing_cells", "study_text"]

Choice = TypeVar("Choice")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A line of a study's table."""

    algorithm: str
    """Name of the algorithm."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What differs from the defaults, by its name on the command line."""
    program: Sequence[str] | None = None
    """Script that trains it. Default: ``torchrl-alita train``."""
    tasks: Sequence[str] | None = None
    """The study's tasks that it is trained on. Default: all."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Tasks, variants, seeds and budgets, and the columns and curves that show them.

    Examples:
        >>> study = Study(
        ...     name="spread",
        ...     page="README.md",
        ...     tasks={"vmas/spread": (100, {})},
        ...     variants={"MADDPG": Variant(algorithm="maddpg")},
        ...     columns={"": (Column("return", "evaluation/return_mean", 0),)},
        ...     seeds=(0, 1),
        ... )
        >>> [cell.name for cell in study.cells()]
        ['vmas_spread/maddpg/seed0', 'vmas_spread/maddpg/seed1']
    """

    name: str
    """Of its rows' file, its pictures and its markers in the page."""
    page: str
    """Where the tables stand, from the repository's root."""
    tasks: Mapping[str, tuple[int, Mapping[str, Any]]]
    """Frames and settings of each task."""
    variants: Mapping[str, Variant]
    """Lines of the tables, in their order."""
    columns: Mapping[str, Sequence[Column]]
    """By the beginning of a task's name; ``""`` is of every other."""
    panels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Titles of the curves by metric, by the beginning of a task's name."""
    seconds: bool = False
    """Draw the curves against processor seconds, too."""
    seeds: Sequence[int] = (0, 1, 2)
    """Of every variant."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of all variants."""
    recipes: Mapping[str, str] = field(default_factory=dict)
    """Script whose values count where nothing else is said, by the beginning of a task's name.
    Default: the defaults of ``torchrl-alita train``."""
    keep: Sequence[str] = ("evaluation/", "exploration/")
    """Beginnings of the metrics whose curves are kept."""
    checks: Sequence[tuple[str, str]] = ()
    """Variants that are compared run by run, by the first column."""
    note: str | Mapping[str, str] = ""
    """Below each table, or by the beginnings of the tasks' names, as ``columns``."""
    first: str = "team"
    """Title of the first column."""

    def cells(self) -> list[Cell]:
        """All runs, a round of seeds at a time: an unfinished series is a balanced one.

        Returns:
            The cells.
        """
        return [
            Cell(
                study=self.name,
                variant=name,
                task=task,
                algorithm=variant.algorithm,
                seed=seed,
                frames=frames,
                settings={**self.settings, **own, **variant.settings},
                program=variant.program or self._recipe(task),
                keep=self.keep,
            )
            for seed in self.seeds
            for task, (frames, own) in self.tasks.items()
            for name, variant in self.variants.items()
            if variant.tasks is None or task in variant.tasks
        ]

    def _recipe(self, task: str) -> tuple[str, ...] | None:
        recipe = _of_task(self.recipes, task, None)
        return None if recipe is None else (recipe,)

    def ordered(self, rows: Iterable[Row]) -> list[Row]:
        """Rows in the order of tasks, budgets, variants and seeds.

        Args:
            rows: of the study; one of a task or variant that is no longer declared comes last.

        Returns:
            The same rows.
        """
        tasks, variants = list(self.tasks), list(self.variants)

        def place(row: Row) -> tuple[int, int, int, int]:
            task = tasks.index(row.task) if row.task in tasks else len(tasks)
            # The declared budget first; runs of 0 frames are in every section.
            asked = self.tasks[row.task][0] if row.task in tasks else row.frames
            known = row.variant in variants
            variant = variants.index(row.variant) if known else len(variants)
            return task, abs(row.frames - asked), variant, row.seed

        return sorted(rows, key=place)


def missing_cells(cells: Iterable[Cell], rows: Iterable[Row]) -> list[Cell]:
    """Cells of which there is no row yet.

    Args:
        cells: of a study.
        rows: of the same study.

    Returns:
        Those without a row of their task, variant and seed at their frames, or beyond: a run
        ends with a whole batch.
    """
    there: dict[tuple[str, str, int], int] = {}
    for row in rows:
        key = (row.task, row.variant, row.seed)
        there[key] = max(row.frames, there.get(key, 0))
    return [
        cell for cell in cells if there.get((cell.task, cell.variant, cell.seed), 0) < cell.frames
    ]


def study_text(study: Study, rows: Iterable[Row], pictures: str | Path, *, link: str) -> str:
    """A study's tables in Markdown; its pictures are drawn on the way.

    Args:
        study: the declaration.
        rows: its results.
        pictures: folder of the pictures.
        link: the same folder, as the page links to it.

    Returns:
        A section for each task and budget.

    Raises:
        ValueError: if two rows have the same task, frames, variant and seed.
    """
    parts = []
    rows = study.ordered(rows)
    check_distinct(rows)
    found = sections(rows)
    tasks = list(dict.fromkeys(task for task, _ in found))
    for (task, frames), of_section in found.items():
        columns = _of_task(study.columns, task, ())
        titles, cells = results_table(of_section, columns, first=study.first)
        block = [f"### {task}, {frames:,} frames"] if len(found) > 1 else []
        block += [markdown_table(titles, cells), _caption(study, of_section)]
        block += _checked(study, of_section, columns)
        if panels := _of_task(study.panels, task, {}):
            picture = f"{study.name}_{_short(task, tasks)}_{frames}"
            draw_curves(Path(pictures) / f"{picture}.png", of_section, panels)
            block.append(f"![Curves of {task}, {frames:,} frames]({link}/{picture}.png)")
            if study.seconds:
                picture = f"{picture}_seconds.png"
                draw_curves(Path(pictures) / picture, of_section, panels, against="seconds")
                block.append(f"![The same against processor seconds]({link}/{picture})")
        parts.append("\n\n".join(block))
    return "\n\n".join(parts)


def _short(task: str, tasks: Sequence[str]) -> str:
    """A task's name as part of a file's: without its suite, where none other has the rest."""
    last = task.rpartition("/")[2]
    name = last if [t.rpartition("/")[2] for t in tasks].count(last) == 1 else task
    # With a colon a link would be an address.
    return name.replace("/", "_").replace(":", "_")


def _of_task(choices: Mapping[str, Choice], task: str, default: Choice) -> Choice:
    """The entry of the longest beginning of a task's name."""
    fitting = [begin for begin in choices if task.startswith(begin)]
    return choices[max(fitting, key=len)] if fitting else default


def _caption(study: Study, rows: Sequence[Row]) -> str:
    """How a table came about."""
    runs = by_variant(rows)
    first = next(iter(runs.values()))[0]
    trained = [row for row in rows if row.frames] or rows
    seeds = [len(of_variant) for of_variant in runs.values()]
    mean = "Interquartile mean [95 % bootstrap interval] over the seeds"
    each = "each run's figure in the order of the seeds"
    if max(seeds) == 1:
        shown = "One seed each"
    elif max(seeds) < FEWEST_RUNS:
        shown = f"E{each[1:]}"
    else:
        few = min(seeds) < FEWEST_RUNS
        shown = f"{mean}; of fewer than five seeds, {each}" if few else mean
    # As git writes the commit before another.
    guessed = any((row.commit or "~").endswith("~") for row in rows)
    commit = (
        " The commits of some runs were not recorded: where one ends with ~, it is the last before "
        "the row was added."
        if guessed
        else ""
    )
    note = study.note if isinstance(study.note, str) else _of_task(study.note, first.task, "")
    return (
        f"{shown}; {first.frames:,} frames. {note} Made by `python benchmarks/study.py "
        f"{study.name}`: {versions_text(trained)}. Command, settings, commit and curve of each run: "
        f"benchmarks/results/{study.name}.jsonl.{commit}"
    )


def _checked(study: Study, rows: Sequence[Row], columns: Sequence[Column]) -> list[str]:
    """How probably a run of one variant ends above one of another."""
    runs = by_variant(rows)
    figure = columns[0].of if columns else (lambda _: None)
    lines = []
    for ours, theirs in study.checks:
        first, second = (
            [value for row in runs.get(name, ()) if (value := figure(row)) is not None]
            for name in (ours, theirs)
        )
        if not (first and second):
            continue
        chance, interval = probability_of_improvement(first, second)
        known = (
            "too few for an interval"
            if interval is None
            else f"95 % interval {interval[0]:.2f} to {interval[1]:.2f}"
        )
        lines.append(
            f"- A run of {ours} ends above one of {theirs} with probability {chance:.2f}: "
            f"{len(first)} and {len(second)} runs, {known}."
        )
    return ["\n".join(lines)] if lines else []
