"""The results on the algorithms' pages: what the studies' runs reached, and what is published.

    python benchmarks/algorithm_pages.py

Each page of docs/algorithms/ gets a table of the runs of its algorithm in benchmarks/results, with
a random team and the best that is known beside them, the curves that the studies have drawn, and
the figures of published.py. ``study.py`` writes them too, after its own page.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pages import FIGURES, RESULTS, ROOT, table, write_between
from published import PUBLISHED, Published

from torchrl_alita.algorithms import ALGORITHMS
from torchrl_alita.experiments import (
    RETURN,
    Column,
    Row,
    Study,
    reached,
    read_rows,
    score,
    score_levels,
)

PAGES = ROOT / "docs" / "algorithms"
# They say that a game can be trained on, and nothing of an algorithm.
LEFT_OUT = ("suites",)
# Studies whose games have other rules, under a known name: what the table calls the rules.
RULES = {"sparse_cmae": "by CMAE's rules", "sparse_teams": "more than two agents"}
# Of a study that changes one setting at a time: where it starts.
ONLY = {"smax_settings": ("the recipe's",)}
# Programs of others, which are a study's outside check.
OUTSIDE = "sb3_worker.py"


@dataclass(frozen=True)
class Figure:
    """What is shown of a task, and the most that can be reached. None: the score's ceiling."""

    column: Column
    best: float | None = None


# By the beginning of a task's name.
SHOWN = {
    "": Figure(Column("return", RETURN, 1)),
    "pybullet/": Figure(Column("return", reached(RETURN), 0)),
    "push_box": Figure(Column("boxes an episode", "evaluation/boxes_per_episode", 1), 23.9),
    "secret_room": Figure(Column("episodes solved", "evaluation/success_share", 2), 1.0),
    # The return is of agents that are paid against each other.
    "mpe/adversary": Figure(
        Column("goal reached, less by the adversary", "evaluation/delta_0.23", 2), 1.0
    ),
    "smax/": Figure(Column("battles won", "evaluation/win_rate", 2), 1.0),
}


# An episode by CMAE's rules ends with its success, which pays 1.
SUCCESS = Figure(Column("greedy success", RETURN, 2), 1.0)
# Of more than two agents in Push-Box no optimum is known.
BOXES = Figure(SHOWN["push_box"].column)
SHOWN_OF_STUDY = {
    ("sparse_cmae", "push_box"): SUCCESS,
    ("sparse_cmae", "secret_room"): SUCCESS,
    ("sparse_teams", "push_box"): BOXES,
}


def shown(study: str, task: str) -> Figure:
    """What is shown of a task in a study."""
    if (study, task) in SHOWN_OF_STUDY:
        return SHOWN_OF_STUDY[study, task]
    return SHOWN[max((begin for begin in SHOWN if task.startswith(begin)), key=len)]


def level(figure: Figure, row: Row, team: str) -> str:
    """Cell of a team that was not trained: the random one, or the best that is known."""
    digits = figure.column.digits
    if team == "random":
        metrics: Mapping[str, float | None] = row.references.get("random", {})
        value = metrics.get(figure.column.value if isinstance(figure.column.value, str) else RETURN)
    elif figure.best is not None:
        value = figure.best
    else:
        levels = score_levels(row)
        value = None if levels is None else levels[1]
    return "-" if value is None else f"{value:,.{digits}f}"


def line(study: Study, rows: Sequence[Row]) -> list[str]:
    """The runs of one variant on one task."""
    first, figure = rows[0], shown(study.name, rows[0].task)
    page = os.path.relpath(ROOT / study.page, PAGES)
    rules = f", {RULES[study.name]}" if study.name in RULES else ""
    return [
        f"`{first.task}`{rules}",
        f"[{first.variant}]({page})",
        f"{first.frames:,}",
        str(len(rows)),
        figure.column.title,
        level(figure, first, "random"),
        figure.column.cell(rows),
        level(figure, first, "best"),
        Column("", score).cell(rows) or "-",
    ]


TITLES = ("task", "team", "frames", "seeds", "metric", "random", "reached", "ceiling", "score")


def measured(name: str, studies: Mapping[str, Study]) -> str:
    """Table and curves of an algorithm's runs."""
    lines, pictures, sources = [], [], []
    for study in studies.values():
        path = RESULTS / f"{study.name}.jsonl"
        rows = study.ordered(read_rows(path)) if path.exists() else []
        rows = [row for row in rows if row.algorithm == name and OUTSIDE not in row.command]
        if study.name in ONLY:
            rows = [row for row in rows if row.variant in ONLY[study.name]]
        groups: dict[tuple[str, int, str], list[Row]] = {}
        for row in rows:
            groups.setdefault((row.task, row.frames, row.variant), []).append(row)
        lines += [line(study, runs) for runs in groups.values()]
        if rows:
            sources.append(f"`{study.name}`")
        for task, frames in dict.fromkeys((row.task, row.frames) for row in rows):
            picture = FIGURES / f"{study.name}_{task.rpartition('/')[2]}_{frames}.png"
            if picture.exists():
                link = os.path.relpath(picture, PAGES)
                pictures.append(f"![Curves of {task}, {frames:,} frames]({link})")
    if not lines:
        return (
            "No run of it is recorded yet: what it learns was seen in the tests alone, on small "
            "games whose best value is known."
        )
    note = (
        "Greedy episodes. Interquartile mean [95 % bootstrap interval] over the seeds; of fewer "
        "than five, each run's figure in the order of the seeds. Ceiling: a script, an exact "
        "optimum, or the end of the range; - where none is known. Score: the return on a scale "
        "from the random team, 0, to the ceiling, 1. A team's name leads to its study, which "
        f"has the settings, the command and the other teams. From {', '.join(sources)} of "
        "benchmarks/results by `python benchmarks/algorithm_pages.py`."
    )
    # Task and team are text.
    aligned = table(TITLES, lines).replace("| --- | ---: |", "| --- | --- |", 1)
    return "\n\n".join([aligned, note, *pictures])


def published(name: str) -> str:
    """What others have published of an algorithm."""
    found = [entry for entry in PUBLISHED if entry.algorithm == name]
    if not found:
        return (
            "**Published.** No published figure on a task of this package was found whose source "
            "could be read."
        )
    # One line for each task, row and source, with its figures side by side.
    lines: dict[tuple[str, str, str], list[Published]] = {}
    for entry in found:
        lines.setdefault((entry.task, entry.team, entry.source), []).append(entry)
    cells = [
        [
            f"{task}, {team}" if team else task,
            "; ".join(f"{entry.figure} {entry.value}" for entry in entries),
            source,
        ]
        for (task, team, source), entries in lines.items()
    ]
    text = table(["published for", "figures", "source"], cells).replace("---:", "---")
    return (
        f"**Published.** Copied from the sources named, not measured here. Simulators, rewards, "
        f"budgets and evaluation differ from those above: the two are not to be compared figure "
        f"by figure.\n\n{text}"
    )


def text(name: str, studies: Mapping[str, Study]) -> str:
    """The results on the page of an algorithm."""
    return f"{measured(name, studies)}\n\n{published(name)}"


def page_of(name: str) -> Path:
    """The page of an algorithm."""
    return PAGES / f"{name}.md"


def main(studies: Mapping[str, Study] | None = None) -> None:
    """Write the results into all pages."""
    if studies is None:
        # The studies import this script's neighbours.
        from study import NAMES, load

        studies = {name: load(name) for name in NAMES}
    chosen = {name: study for name, study in studies.items() if name not in LEFT_OUT}
    for name in ALGORITHMS:
        write_between(page_of(name), "results", text(name, chosen))


if __name__ == "__main__":
    main()
