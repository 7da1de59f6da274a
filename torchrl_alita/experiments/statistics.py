"""Statistics over runs: the interquartile mean and its bootstrap interval, and their kin.

Source: https://arxiv.org/abs/2108.13264 (few-run uncertainty). Scores are given by task, a
sequence of one score for each run. In the interquartile mean every run has the same weight, in
all other statistics every task. They are computed with SciPy.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from torchrl_alita._checks import (
    check_number,
    check_positive,
    check_sequence,
    check_whole,
)
from torchrl_alita._extras import import_extra
from torchrl_alita.experiments.results import Row, check_distinct
from torchrl_alita.saving import write_whole

__all__ = [
    "FEWEST_RUNS",
    "Estimate",
    "bootstrap_interval",
    "decimal",
    "estimate",
    "interquartile_mean",
    "performance_profile",
    "probability_of_improvement",
    "read_marl_eval",
    "write_marl_eval",
]

FEWEST_RUNS = 5
"""Runs of a task below which no interval is given."""
_RESAMPLES = 2_000

Scores = Mapping[str, Sequence[float]]


def _samples(scores: Scores | Sequence[float], *, fewest: int = 1) -> list[np.ndarray]:
    """The runs of each task."""
    by_task = scores if isinstance(scores, Mapping) else {"the task": scores}
    by_task = {task: check_sequence(f"The scores of {task}", own) for task, own in by_task.items()}
    if not by_task:
        raise ValueError("There must be scores of at least one task, got none.")
    for task, values in by_task.items():
        if len(values) < fewest:
            raise ValueError(f"{task} must have at least {fewest} runs, got {len(values)}.")
        check_number(**{f"a score of {task}": value for value in values})
        if not all(math.isfinite(value) for value in values):
            raise ValueError(f"The scores of {task} must be finite, got {list(values)}.")
    return [np.asarray(values, dtype=float) for values in by_task.values()]


def interquartile_mean(scores: Scores | Sequence[float]) -> float:
    """Mean of the middle half of all runs ``[R] -> []``.

    A quarter of the runs, rounded down, is left out at each end.

    Args:
        scores: of one task, or by task.

    Returns:
        The interquartile mean.

    Raises:
        ValueError: if there are no scores, or one is not finite.

    Examples:
        >>> interquartile_mean([0.0, 1.0, 2.0, 3.0, 100.0])
        2.0
    """
    return float(_trimmed_mean(*_samples(scores)))


def _trimmed_mean(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
    stats = import_extra("scipy.stats", "recipes")
    return stats.trim_mean(np.concatenate(samples, axis=axis), 0.25, axis=axis)


def bootstrap_interval(
    scores: Scores | Sequence[float],
    statistic: Callable[..., Any] = _trimmed_mean,
    *,
    confidence: float = 0.95,
    resamples: int = _RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval of a statistic, from runs drawn again from each task by itself (stratified).

    Args:
        scores: of one task, or by task.
        statistic: takes the runs of each task and ``axis``. Default: the interquartile mean.
        confidence: share of the resamples within the interval.
        resamples: how often the runs are drawn.
        seed: of the drawing; the same scores have the same interval.

    Returns:
        Its ends, the percentiles of the resampled statistics.

    Raises:
        ValueError: if a task has fewer than two runs, or a score is not finite.

    Examples:
        >>> bootstrap_interval([2.0, 2.0, 2.0, 2.0, 2.0])
        (2.0, 2.0)
    """
    stats = import_extra("scipy.stats", "recipes")
    check_positive(confidence=confidence)
    if not confidence < 1:
        raise ValueError(f"confidence must be below 1, got {confidence}.")
    check_whole(2, resamples=resamples)
    check_whole(0, seed=seed)
    found = stats.bootstrap(
        # Sorted: the order of the runs says nothing and must change nothing.
        tuple(map(np.sort, _samples(scores, fewest=2))),
        statistic,
        n_resamples=int(resamples),
        confidence_level=confidence,
        method="percentile",
        vectorized=True,
        random_state=np.random.default_rng(int(seed)),
    ).confidence_interval
    return float(found.low), float(found.high)


@dataclass(frozen=True)
class Estimate:
    """What runs say of a figure: their points, and from :data:`FEWEST_RUNS` on more.

    Args:
        points: value of each run.
        center: interquartile mean; None of fewer runs.
        low: lower end of its 95 % interval; None of fewer runs.
        high: upper end.
    """

    points: tuple[float, ...]
    center: float | None = None
    low: float | None = None
    high: float | None = None

    def text(self, digits: int) -> str:
        """``"center [low, high]"``, or the points in their order.

        Args:
            digits: behind the point.

        Examples:
            >>> Estimate((1.0, 2.5)).text(1)
            '1.0, 2.5'
            >>> Estimate((1.0,) * 5, 1.0, 0.5, 1.5).text(1)
            '1.0 [0.5, 1.5]'
        """
        if self.center is None or self.low is None or self.high is None:
            return ", ".join(decimal(value, digits) for value in self.points)
        center, low, high = (decimal(value, digits) for value in (self.center, self.low, self.high))
        return f"{center} [{low}, {high}]"


def decimal(value: float, digits: int) -> str:
    """A number with so many digits behind the point, and no "-0.00".

    Args:
        value: any number.
        digits: at least 0.

    Examples:
        >>> decimal(-0.001, 2), decimal(1234.5, 1)
        ('0.00', '1,234.5')
    """
    return f"{round(value, digits) + 0.0:,.{digits}f}"


def estimate(scores: Scores | Sequence[float]) -> Estimate:
    """Interquartile mean and 95 % interval of enough runs; of fewer, their points.

    Args:
        scores: of one task, or by task.

    Returns:
        The :class:`Estimate`.

    Raises:
        ValueError: if there are no scores, or one is not finite.

    Examples:
        >>> estimate([1.0, 3.0]).center is None
        True
        >>> estimate([1.0, 1.0, 2.0, 3.0, 3.0]).center
        2.0
    """
    samples = _samples(scores)
    points = tuple(float(value) for sample in samples for value in sample)
    if min(len(sample) for sample in samples) < FEWEST_RUNS:
        return Estimate(points)
    return Estimate(points, interquartile_mean(scores), *bootstrap_interval(scores))


def performance_profile(
    scores: Scores | Sequence[float], thresholds: Sequence[float]
) -> tuple[list[float], list[float] | None, list[float] | None]:
    """Share of the runs above each threshold ``[M] -> [M]``.

    Args:
        scores: of one task, or by task; each task has the same weight.
        thresholds: M scores.

    Returns:
        The shares, and the lower and upper ends of their 95 % intervals; None for both
        where a task has fewer than :data:`FEWEST_RUNS` runs.

    Raises:
        ValueError: if there are no scores, or one is not finite.

    Examples:
        >>> performance_profile([0.2, 0.6], [0.0, 0.5, 1.0])[0]
        [1.0, 0.5, 0.0]
    """
    samples = _samples(scores)
    thresholds = check_sequence("thresholds", thresholds)
    check_number(**{f"thresholds[{i}]": value for i, value in enumerate(thresholds)})
    if not thresholds or any(math.isnan(value) for value in thresholds):
        raise ValueError(f"thresholds must be numbers, at least one, got {thresholds}.")

    def shares(*drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        above = [(sample[..., None] > np.asarray(thresholds)).mean(-2) for sample in drawn]
        return np.mean(above, axis=0)

    profile = shares(*samples).tolist()
    if min(len(sample) for sample in samples) < FEWEST_RUNS:
        return profile, None, None
    generator = np.random.default_rng(0)
    drawn = [generator.choice(sample, (_RESAMPLES, len(sample))) for sample in samples]
    low, high = np.percentile(shares(*drawn), [2.5, 97.5], axis=0)
    return profile, low.tolist(), high.tolist()


def probability_of_improvement(
    scores: Scores | Sequence[float], others: Scores | Sequence[float]
) -> tuple[float, tuple[float, float] | None]:
    """How probably a run of the first is better than one of the second ``[R], [S] -> []``.

    The share of pairs in which it is, the Mann-Whitney statistic by the number of pairs; ties
    count half.

    Args:
        scores: of the first, of one task or by task; higher is better.
        others: of the second, of the same tasks.

    Returns:
        The mean over the tasks, and its 95 % interval; None for that where a task has fewer
        than :data:`FEWEST_RUNS` runs.

    Raises:
        ValueError: if the tasks differ, there are no scores, or one is not finite.

    Examples:
        >>> probability_of_improvement([1.0, 3.0], [2.0])
        (0.5, None)
    """
    if isinstance(scores, Mapping) != isinstance(others, Mapping):
        raise ValueError("Both must be scores of one task, or both scores by task.")
    if isinstance(scores, Mapping) and isinstance(others, Mapping):
        if scores.keys() != others.keys():
            raise ValueError(f"The tasks must be the same, got {list(scores)} and {list(others)}.")
        others = {task: others[task] for task in scores}
    first, second = _samples(scores), _samples(others)
    tasks = len(first)

    def improvement(*drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        by_task = [
            (np.sign(x[..., :, None] - y[..., None, :]).mean((-2, -1)) + 1) / 2
            for x, y in zip(drawn[:tasks], drawn[tasks:], strict=True)
        ]
        return np.mean(by_task, axis=0)

    probability = float(improvement(*first, *second))
    if min(len(sample) for sample in (*first, *second)) < FEWEST_RUNS:
        return probability, None
    drawn = {str(i): sample.tolist() for i, sample in enumerate((*first, *second))}
    return probability, bootstrap_interval(drawn, improvement)


_EXPORTED = {"evaluation/return_mean": "return"}
_PREFIX = "evaluation/"


def write_marl_eval(path: str | Path, rows: Iterable[Row]) -> None:
    """Write rows as marl-eval's JSON, the format of BenchMARL and Mava.

    A variant becomes an algorithm, ``"suite/task"`` the task of an environment. What that
    format has no place for is left out: settings, command, versions, machine. Of the metrics
    the evaluations' go along, without their prefix; ``"evaluation/return_mean"`` is called
    ``"return"``, as BenchMARL calls it.

    Args:
        path: of the file.
        rows: of the file.

    Raises:
        ValueError: if there are no rows, or two have the same task, variant and seed.

    Examples:
        See :func:`read_marl_eval`.
    """
    content: dict[str, Any] = {}
    rows = [row for row in rows if row.curve]
    if not rows:
        raise ValueError("There are no rows with a curve to write.")
    # The format has one run of a seed, whatever its frames.
    check_distinct(rows, by_frames=False)
    for row in rows:
        environment, _, task = row.task.rpartition("/")
        runs = (
            content.setdefault(environment or task, {})
            .setdefault(task, {})
            .setdefault(row.variant, {})
        )
        steps = {
            f"step_{number}": {
                "step_count": point["frames"],
                "elapsed_time": point["wall_seconds"],
                **_exported(point["metrics"]),
            }
            for number, point in enumerate(row.curve)
        }
        runs[f"seed_{row.seed}"] = {**steps, "absolute_metrics": _exported(row.final)}
    write_whole(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def _exported(metrics: Mapping[str, float | None]) -> dict[str, list[float]]:
    return {
        _EXPORTED.get(name, name.removeprefix(_PREFIX)): [value]
        for name, value in metrics.items()
        if name.startswith(_PREFIX) and value is not None
    }


def read_marl_eval(path: str | Path, *, study: str) -> list[Row]:
    """Rows of a file in marl-eval's format, as BenchMARL and Mava write it.

    A metric of several episodes becomes their mean, and what the last evaluation says the
    final value: BenchMARL's absolute metrics are the best of all its evaluations.

    Args:
        path: of the file.
        study: name of the study that the rows belong to.

    Returns:
        A :class:`Row` for each run. What the format does not tell is empty or None.

    Raises:
        ValueError: if the file is none of that format; the place is named.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "mappo.json"
        >>> runs = {"seed_0": {"step_0": {"step_count": 60, "return": [1.0, 3.0]}}}
        >>> _ = path.write_text(json.dumps({"vmas": {"balance": {"mappo": runs}}}))
        >>> (row,) = read_marl_eval(path, study="peers")
        >>> row.task, row.variant, row.frames, row.final
        ('vmas/balance', 'mappo', 60, {'evaluation/return_mean': 2.0})
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        rows = [
            _imported(
                runs[name],
                study=study,
                task=task if task == env else f"{env}/{task}",
                variant=variant,
                run=name,
            )
            for env, tasks in content.items()
            for task, variants in tasks.items()
            for variant, runs in variants.items()
            for name in runs
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no file of marl-eval: {error!r}") from error
    if not rows:
        raise ValueError(f"{path} is no file of marl-eval: it has no run.")
    return rows


def _imported(steps: Mapping[str, Any], *, study: str, task: str, variant: str, run: str) -> Row:
    curve = [
        {
            "frames": step["step_count"],
            "wall_seconds": step.get("elapsed_time"),
            "metrics": {
                _IMPORTED.get(name, f"{_PREFIX}{name}"): float(np.mean(values))
                for name, values in step.items()
                if name not in ("step_count", "elapsed_time") and len(values)
            },
        }
        for name, step in steps.items()
        if name.startswith("step_")
    ]
    if not curve:
        raise ValueError(f"the run {run!r} of {variant!r} on {task!r} has no step")
    curve.sort(key=lambda point: point["frames"])
    return Row(
        study=study,
        variant=variant,
        task=task,
        algorithm=variant,
        seed=int(run.rpartition("_")[2]),
        frames=curve[-1]["frames"],
        settings={},
        command="",
        commit=None,
        versions={},
        machine={},
        wall_seconds=curve[-1]["wall_seconds"],
        process_seconds=None,
        curve=curve,
        final=curve[-1]["metrics"],
    )


_IMPORTED = {ours: name for name, ours in _EXPORTED.items()}
