"""Results of runs: one row of JSON for each, in a file for each study."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torchrl_alita._checks import check_kind, check_number
from torchrl_alita.saving import write_whole

try:
    import fcntl
except ImportError:  # Windows: there one process at a time may add rows.
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "Row",
    "append_row",
    "check_distinct",
    "machine_fields",
    "normalized_score",
    "read_rows",
    "row_of_run",
    "write_rows",
]

_VERSIONS = ("torchrl_alita", "torch", "torchrl", "tensordict", "python")


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one run has left.

    The names of metrics are those of metrics.csv: ``"evaluation/return_mean"`` is of greedy
    episodes, ``"exploration/state_coverage"`` of all that training has collected. A metric
    that has no value is None.

    Args:
        study: the study's name, which is its file's.
        variant: row of the study's table.
        task: name of the task.
        algorithm: name of the algorithm.
        seed: of the run.
        frames: environment steps of the run.
        settings: every setting that differs from its default.
        command: makes the run again, from the repository's root.
        commit: of the code, with ``"+changes"`` where it had uncommitted ones; None where it
            was not recorded.
        versions: of the packages and of Python, by name.
        machine: processor, cores, threads, accelerator.
        wall_seconds: of the training.
        process_seconds: processor time of the run's process; None where it was not recorded.
        curve: evaluations in their order, each ``{"frames", "wall_seconds", "metrics"}``.
        final: metrics at the end.
        references: metrics of teams that were not trained, as ``"random"``, by their name.

    Raises:
        TypeError: if a field has another type; it is named.
        ValueError: for an infinite number or NaN, or a curve whose frames do not rise.

    Examples:
        >>> row = Row(
        ...     study="spread", variant="MADDPG", task="vmas/spread", algorithm="maddpg", seed=0,
        ...     frames=100, settings={}, command="python recipe.py", commit=None, versions={},
        ...     machine={}, wall_seconds=1.5, process_seconds=None,
        ...     curve=[{"frames": 100, "wall_seconds": 1.5, "metrics": {"score": 1.0}}],
        ...     final={"score": 1.0},
        ... )
        >>> row.column("score")
        ([100], [1.0])
    """

    study: str
    variant: str
    task: str
    algorithm: str
    seed: int
    frames: int
    settings: Mapping[str, Any]
    command: str
    commit: str | None
    versions: Mapping[str, str | None]
    machine: Mapping[str, Any]
    wall_seconds: float | None
    process_seconds: float | None
    curve: Sequence[Mapping[str, Any]]
    final: Mapping[str, float | None]
    references: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)

    def __post_init__(self):
        for name, kind in _KINDS.items():
            value = getattr(self, name)
            if not isinstance(value, kind) or isinstance(value, bool):
                expected = " or ".join(part.__name__ for part in kind)
                raise TypeError(f"{name} must be {expected}, got {value!r}.")
        _check_metrics("final", self.final)
        for name, metrics in self.references.items():
            _check_metrics(f"references[{name!r}]", metrics)
        before = -1
        for number, point in enumerate(self.curve):
            if not isinstance(point, Mapping) or point.keys() != _POINT:
                raise TypeError(f"curve[{number}] must have exactly {sorted(_POINT)}.")
            if not isinstance(point["frames"], int) or point["frames"] <= before:
                raise ValueError(
                    f"curve[{number}] must have more frames than {before}, got {point['frames']}."
                )
            before = point["frames"]
            _check_metrics(f"curve[{number}]", point["metrics"])

    def column(self, metric: str) -> tuple[list[int], list[float]]:
        """Frames and values of the evaluations that have this metric."""
        points = [
            (point["frames"], point["metrics"][metric])
            for point in self.curve
            if point["metrics"].get(metric) is not None
        ]
        return [frames for frames, _ in points], [value for _, value in points]


_POINT = {"frames", "wall_seconds", "metrics"}
_NUMBER, _MAYBE_NUMBER = (int, float), (int, float, type(None))
_KINDS: dict[str, tuple[type, ...]] = {
    "study": (str,), "variant": (str,), "task": (str,), "algorithm": (str,), "seed": (int,),
    "frames": (int,), "settings": (Mapping,), "command": (str,), "commit": (str, type(None)),
    "versions": (Mapping,), "machine": (Mapping,), "wall_seconds": _MAYBE_NUMBER,
    "process_seconds": _MAYBE_NUMBER, "curve": (list, tuple), "final": (Mapping,),
    "references": (Mapping,),
}  # fmt: skip


def _check_metrics(where: str, metrics: Any) -> None:
    if not isinstance(metrics, Mapping):
        raise TypeError(f"{where} must be metrics by name, got {metrics!r}.")
    for name, value in metrics.items():
        if not isinstance(value, _MAYBE_NUMBER) or isinstance(value, bool):
            raise TypeError(f"{where} must have numbers, got {name}={value!r}.")
        if value is not None and not math.isfinite(value):
            raise ValueError(f"{where} must be finite or None, got {name}={value}.")


def _line(row: Row) -> str:
    check_kind("A row", row, Row, "a Row")
    return json.dumps(dataclasses.asdict(row), allow_nan=False) + "\n"


def read_rows(path: str | Path) -> list[Row]:
    """The rows of a file, in their order.

    Args:
        path: of the file.

    Returns:
        A :class:`Row` for each line.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a damaged row; the file, the line and the fault are named.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "spread.jsonl"
        >>> _ = path.write_text("{}")
        >>> read_rows(path)
        Traceback (most recent call last):
        ...
        ValueError: .../spread.jsonl, line 1, is damaged: it lacks algorithm, command, ...
    """
    rows = []
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no file of rows: {error}.") from error
    for number, line in enumerate(text.splitlines(), 1):
        try:
            rows.append(_parse(line))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {number}, is damaged: {error}") from error
    return rows


def _parse(line: str) -> Row:
    content = json.loads(line)
    if not isinstance(content, dict):
        raise TypeError(f"it is no object but {content!r}.")
    if missing := sorted(_KINDS.keys() - content.keys() - {"references"}):
        raise ValueError(f"it lacks {', '.join(missing)}.")
    if unknown := sorted(content.keys() - _KINDS.keys()):
        raise ValueError(f"it has unknown fields: {', '.join(unknown)}.")
    return Row(**content)


def write_rows(path: str | Path, rows: Iterable[Row]) -> None:
    """Replace a file by these rows; a process killed meanwhile leaves the old file.

    Args:
        path: of the file; its folder is made where it is missing.
        rows: of the file.

    Raises:
        TypeError: if one is no :class:`Row`; the old file stays.
        OSError: if the file cannot be written; the old one stays.
    """
    text = "".join(map(_line, rows))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)


def append_row(path: str | Path, row: Row) -> None:
    """Add a row; several processes may do so at once.

    Args:
        path: of the file; it is made where it is missing.
        row: to be added.

    Raises:
        TypeError: if it is no :class:`Row`; nothing is written.
        ValueError: if the file's last row is unfinished; nothing is written.
        OSError: if the row cannot be written; the file stays as it was.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "spread.jsonl"
        >>> append_row(path, None)
        Traceback (most recent call last):
        ...
        TypeError: A row must be a Row, got None.
        >>> path.exists()
        False
    """
    line = _line(row).encode()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with Path(path).open("a+b") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        if file.read(1) not in (b"", b"\n"):
            file.seek(0)
            raise ValueError(f"{path}, line {len(file.read().splitlines())}, is unfinished.")
        try:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            # Half a row must not become the beginning of the next.
            os.truncate(path, size)
            raise


def check_distinct(rows: Iterable[Row], *, by_frames: bool = True) -> None:
    """Refuse two rows of one run, as two files have them that hold the same runs.

    Args:
        rows: of one or several tasks.
        by_frames: runs of other frames are others.

    Raises:
        ValueError: if two rows have the same task, frames, variant and seed; they are named.

    Examples:
        >>> import types
        >>> row = types.SimpleNamespace(task="push_box", frames=100, variant="ALITA", seed=3)
        >>> check_distinct([row, row])
        Traceback (most recent call last):
        ...
        ValueError: There are two rows of push_box, 100 frames, ALITA, seed 3.
    """
    seen: set[tuple[Any, ...]] = set()
    for row in rows:
        frames = (f"{row.frames:,} frames",) if by_frames else ()
        run = (row.task, *frames, row.variant, f"seed {row.seed}")
        if run in seen:
            raise ValueError(f"There are two rows of {', '.join(run)}.")
        seen.add(run)


def row_of_run(
    run_dir: str | Path,
    *,
    study: str,
    variant: str,
    command: str | Sequence[str],
    settings: Mapping[str, Any],
    keep: Callable[[str], bool] | None = None,
    process_seconds: float | None = None,
) -> Row:
    """The row of a finished run, from what it left in its directory.

    Args:
        run_dir: the run's directory.
        study: the study's name.
        variant: row of the study's table.
        command: that made the run.
        settings: every setting that differs from its default.
        keep: which columns of metrics.csv become part of the curve. Default: the
            evaluations' and the exploration's.
        process_seconds: processor time of the run's process.

    Returns:
        The :class:`Row`.

    Raises:
        ValueError: if the run has not finished.
    """
    run_dir = Path(run_dir)
    try:
        summary = json.loads((run_dir / "summary.json").read_text())
        with (run_dir / "metrics.csv").open(newline="") as file:
            logged = list(csv.DictReader(file))
    except FileNotFoundError as error:
        raise ValueError(f"{run_dir} is no finished run: it has no {error.filename}.") from error
    keep = keep or (lambda name: name.startswith(("evaluation/", "exploration/")))
    return Row(
        study=study,
        variant=variant,
        task=summary["task"],
        algorithm=summary["algorithm"],
        seed=summary["seed"],
        frames=summary["frames"],
        settings=dict(settings),
        command=command if isinstance(command, str) else shlex.join(command),
        **machine_fields(summary["machine"]),
        wall_seconds=summary["wall_seconds"],
        process_seconds=process_seconds,
        curve=[
            {
                "frames": int(entry["frames"]),
                "wall_seconds": _number(entry["wall_seconds"]),
                "metrics": {name: _number(text) for name, text in entry.items() if keep(name)},
            }
            for entry in logged
            if _number(entry["evaluation/return_mean"]) is not None
        ],
        final={
            "updates": summary["updates"],
            **_prefixed("evaluation", summary["evaluation"]),
            **_prefixed("selection", summary.get("selection", {})),
            **_prefixed("exploration", summary.get("exploration", {})),
        },
        references={"random": _prefixed("evaluation", summary["random_team"])},
    )


def machine_fields(machine: Mapping[str, Any]) -> dict[str, Any]:
    """What a run was made with, as the fields of a row.

    Args:
        machine: all of it, as in summary.json.

    Returns:
        ``commit``, ``versions`` and ``machine``.

    Examples:
        >>> fields = machine_fields({"torch": "2.13.0", "commit": "abc", "cores": 2})
        >>> fields["commit"], fields["versions"], fields["machine"]
        ('abc', {'torch': '2.13.0'}, {'cores': 2})
    """
    rest = dict(machine)
    versions = {name: rest.pop(name) for name in _VERSIONS if name in rest}
    return {"commit": rest.pop("commit", None), "versions": versions, "machine": rest}


def _number(text: str) -> float | None:
    """What a cell of metrics.csv says; JSON knows neither NaN nor infinity."""
    number = float(text or "nan")
    return number if math.isfinite(number) else None


def _prefixed(prefix: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix}/{name}": value for name, value in metrics.items()}


def normalized_score(value: float, *, floor: float, ceiling: float) -> float:
    """A figure between a floor, 0, and a ceiling, 1.

    Args:
        value: the figure; beyond the ceiling the score is above 1.
        floor: that of a random team.
        ceiling: that of a scripted or exactly computed best team.

    Returns:
        ``(value - floor) / (ceiling - floor)``. A ceiling below the floor is right where
        lower is better.

    Raises:
        TypeError: if one is no number.
        ValueError: if one is NaN, or floor and ceiling are the same.

    Examples:
        >>> normalized_score(-350.0, floor=-584.0, ceiling=-116.0)
        0.5
    """
    check_number(value=value, floor=floor, ceiling=ceiling)
    for name, number in (("value", value), ("floor", floor), ("ceiling", ceiling)):
        if math.isnan(number):
            raise ValueError(f"{name} must be a number, got nan.")
    if floor == ceiling:
        raise ValueError(f"floor and ceiling must differ, got {floor} for both.")
    return (value - floor) / (ceiling - floor)
