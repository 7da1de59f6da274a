"""Tables of results, in Markdown or as cells."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torchrl_alita.envs import get_task
from torchrl_alita.experiments.results import Row, check_distinct, normalized_score
from torchrl_alita.experiments.statistics import decimal, estimate

__all__ = [
    "RETURN",
    "Column",
    "best",
    "by_variant",
    "frames_of_best",
    "last",
    "markdown_table",
    "reached",
    "results_table",
    "score",
    "score_levels",
    "sections",
    "versions_text",
    "write_between",
]

RETURN = "evaluation/return_mean"
# Settings on which a task's ceiling depends, and which a run can change.
_SIZES = {"n_agents", "horizon"}


@dataclass(frozen=True)
class Column:
    """A column of a table of results.

    Args:
        title: of the column.
        value: a metric, of which the final value is meant, or a function of a run's row.
        digits: behind the point.
        text: of all runs of a variant, in place of their estimate.
        untrained: metric shown of a team that was not trained. Default: ``value``, if that is a
            metric.

    Examples:
        >>> Column("return", "evaluation/return_mean", 1).title
        'return'
    """

    title: str
    value: str | Callable[[Row], float | None] = ""
    digits: int = 2
    text: Callable[[Sequence[Row]], str] | None = None
    untrained: str | None = None

    def of(self, row: Row) -> float | None:
        """The figure of one run.

        Args:
            row: of the run.

        Returns:
            Its value; None where the run does not have it.
        """
        return row.final.get(self.value) if isinstance(self.value, str) else self.value(row)

    def cell(self, rows: Sequence[Row]) -> str:
        """What the runs of one variant say: an estimate, or each run's point.

        Args:
            rows: of the variant.

        Returns:
            See :meth:`torchrl_alita.experiments.Estimate.text`; nothing where no run has the
            figure, and the number of those that have it where not all do.
        """
        if self.text is not None:
            return self.text(rows)
        values = [self.of(row) for row in rows]
        known = [value for value in values if value is not None]
        if not known:
            return ""
        some = f" ({len(known)} of {len(values)} runs)" if len(known) < len(values) else ""
        return estimate(known).text(self.digits) + some

    def reference(self, metrics: Mapping[str, float | None]) -> str:
        """The cell of a team that was not trained.

        Args:
            metrics: of the team.

        Returns:
            The figure, or nothing where the column is no metric of it.
        """
        metric = self.value if self.untrained is None else self.untrained
        value = metrics.get(metric) if isinstance(metric, str) else None
        return "" if value is None else decimal(value, self.digits)


def best(metric: str) -> Callable[[Row], float | None]:
    """The largest value of all evaluations.

    Args:
        metric: of the evaluations.
    """
    return lambda row: max(row.column(metric)[1], default=None)


def frames_of_best(metric: str) -> Callable[[Row], float | None]:
    """Frames at the first evaluation with the largest value.

    Args:
        metric: of the evaluations.
    """

    def frames(row: Row) -> float | None:
        points = list(zip(*row.column(metric), strict=True))
        return max(points, key=lambda point: point[1])[0] if points else None

    return frames


def last(metric: str) -> Callable[[Row], float | None]:
    """The last value in the curve.

    Args:
        metric: of the curve.
    """
    return lambda row: next(reversed(row.column(metric)[1]), None)


def reached(metric: str, *, part: float = 0.1) -> Callable[[Row], float | None]:
    """Mean over the evaluations in the last part of a run.

    Args:
        metric: of the evaluations.
        part: share of the run's frames.
    """

    def mean(row: Row) -> float | None:
        points = zip(*row.column(metric), strict=True)
        late = [value for frames, value in points if frames >= (1 - part) * row.frames]
        return sum(late) / len(late) if late else None

    return mean


def score_levels(row: Row) -> tuple[float, float] | None:
    """Returns of a random team and of the best that is known, on a run's task.

    Args:
        row: of the run.

    Returns:
        The run's own random team and the ceiling of the registered task with the run's
        settings; None where either is unknown, or where the run changed the number of agents or
        the horizon, on which a ceiling depends.
    """
    if {name.rpartition(".")[2].replace("-", "_") for name in row.settings} & _SIZES:
        return None
    own = {
        name.removeprefix("task.").replace("-", "_"): value
        for name, value in row.settings.items()
        if name.startswith("task.")
    }
    try:
        task = get_task(row.task)
        if own:
            task = task.with_settings(dataclasses.replace(task.settings, **own))
    except (TypeError, ValueError):
        return None
    floor = row.references.get("random", {}).get(RETURN, task.floor)
    if floor is None or task.ceiling is None or floor == task.ceiling:
        return None
    return floor, task.ceiling


def score(row: Row) -> float | None:
    """The return between a random team, 0, and the best that is known, 1.

    Args:
        row: of a run.
    """
    return _between(score_levels(row), row.final.get(RETURN))


def _between(levels: tuple[float, float] | None, value: float | None) -> float | None:
    """A return between the floor and the ceiling of a task; None where one of them is unknown."""
    if levels is None or value is None:
        return None
    return normalized_score(value, floor=levels[0], ceiling=levels[1])


def markdown_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; the first column is text, the others are numbers.

    Args:
        titles: of the columns.
        rows: their cells.

    Returns:
        Its lines.

    Examples:
        >>> print(markdown_table(["team", "return"], [["random", "-586"]]))
        | team | return |
        | --- | ---: |
        | random | -586 |
    """
    marks = ["---", *["---:"] * (len(titles) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, marks, *rows))


def results_table(
    rows: Sequence[Row], columns: Sequence[Column], *, first: str = "team"
) -> tuple[list[str], list[list[str]]]:
    """Titles and cells: the teams that were not trained, then a line for each variant.

    Args:
        rows: of one task; variants stand in the order in which they appear. Runs of 0 frames
            are teams that were not trained.
        columns: beside the variant's name and the number of its seeds.
        first: title of the first column.

    Returns:
        The titles, and the cells of each line.

    Raises:
        ValueError: if two rows have the same task, frames, variant and seed.
    """
    check_distinct(rows)
    references = {name: metrics for row in rows for name, metrics in row.references.items()}
    references |= {row.variant: row.final for row in rows if not row.frames}
    # A run's own random team before the registered one.
    known = sorted(rows, key=lambda row: "random" not in row.references)
    levels = next(filter(None, map(score_levels, known)), None)
    if levels is not None:
        columns = [*columns, Column("score", score, 2)]
        references["ceiling"] = {RETURN: levels[1]}
    cells = []
    for name, metrics in references.items():
        line = [column.reference(metrics) for column in columns]
        value = _between(levels, metrics.get(RETURN))
        if value is not None:
            # A zero has no sign.
            line[-1] = f"{round(value, 2) + 0.0:.2f}"
        cells.append([f"{name} team" if name == "random" else name, "", *line])
    for variant, runs in by_variant(rows).items():
        seeds = str(len({row.seed for row in runs}))
        cells.append([variant, seeds, *(column.cell(runs) for column in columns)])
    return [first, "seeds", *(column.title for column in columns)], cells


def by_variant(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The trained runs of each variant.

    Args:
        rows: of one task.

    Returns:
        Their rows, without those of 0 frames.
    """
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.frames:
            found.setdefault(row.variant, []).append(row)
    return found


def sections(rows: Iterable[Row]) -> dict[tuple[str, int], list[Row]]:
    """Rows by task and frames, in the order in which they appear.

    Args:
        rows: of several tasks. Runs of 0 frames, teams that were not trained, go to all
            sections of their task.

    Returns:
        The rows of each section.
    """
    rows = list(rows)
    found: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        if row.frames:
            found.setdefault((row.task, row.frames), []).append(row)
    untrained = [row for row in rows if not row.frames]
    return {
        key: [*(row for row in untrained if row.task == key[0]), *runs]
        for key, runs in found.items()
    }


def versions_text(rows: Row | Iterable[Row]) -> str:
    """Versions and machine of runs, in words; of several machines, how many runs each has made.

    Args:
        rows: of the runs, or of one; at least one.

    Examples:
        >>> import types
        >>> run = types.SimpleNamespace(
        ...     versions={"torch": "2.13.0"}, machine={"cores": 2, "processor": "AMD EPYC"}
        ... )
        >>> versions_text(run)
        'torch 2.13.0, 2 cores of AMD EPYC, no GPU'
        >>> other = types.SimpleNamespace(versions=run.versions, machine={"gpu": "NVIDIA H100"})
        >>> versions_text([run, other, run])
        '2 runs: torch 2.13.0, 2 cores of AMD EPYC, no GPU; 1 run: torch 2.13.0, NVIDIA H100'
    """
    found = Counter(map(_versions, rows if isinstance(rows, Iterable) else [rows]))
    if len(found) == 1:
        return next(iter(found))
    return "; ".join(
        f"{count} run{'s' if count > 1 else ''}: {text}" for text, count in found.most_common()
    )


def _versions(row: Row) -> str:
    packages = [f"{name} {row.versions[name]}" for name in _NAMED if name in row.versions]
    machine = row.machine
    if machine.get("gpu"):
        return ", ".join([*packages, machine["gpu"]])
    cores = f"{machine.get('cores', '?')} cores of {machine.get('processor', 'unknown make')}"
    return ", ".join([*packages, cores, "no GPU"])


_NAMED = ("torch", "torchrl", "python")


def write_between(path: str | Path, name: str, text: str) -> None:
    """Put a text between the two markers of this name.

    Args:
        path: of the page.
        name: the page has ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->`` once each.
        text: in place of what stands between them.

    Raises:
        ValueError: if the page lacks a marker.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    content = Path(path).read_text(encoding="utf-8")
    if content.count(begin) != 1 or content.count(end) != 1:
        raise ValueError(f"{path} must have {begin} and {end} once each.")
    before, rest = content.split(begin)
    after = rest.split(end)[1]
    Path(path).write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")
