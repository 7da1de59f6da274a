"""Curves of results."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torchrl_alita._extras import import_extra
from torchrl_alita.experiments.results import Row
from torchrl_alita.experiments.statistics import (
    Estimate,
    estimate,
    interquartile_mean,
    performance_profile,
)
from torchrl_alita.experiments.tables import by_variant

__all__ = [
    "DASHES",
    "colors",
    "curve",
    "draw_curves",
    "draw_profiles",
    "plot_estimates",
    "references_of",
    "seconds_at",
]

# Okabe and Ito's, without the yellow that is lost on white, and three darker ones.
COLORS = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"),
    *("#7f3c8d", "#6b4c2a", "#707070"),
)
DASHES = ((5, 3), (1, 2), (6, 2, 1, 2), (10, 3), (3, 1, 1, 1, 1, 1))
"""Lines and gaps of the teams that were not trained, in their order; no more of them are drawn."""


def colors(variants: Sequence[str]) -> dict[str, str]:
    """A color for each variant, also for those who cannot tell red from green.

    Args:
        variants: in their order.

    Returns:
        Their colors as ``"#rrggbb"``.

    Examples:
        >>> colors(["MADDPG"])
        {'MADDPG': '#0072b2'}
    """
    return {name: COLORS[number % len(COLORS)] for number, name in enumerate(variants)}


def references_of(rows: Sequence[Row]) -> dict[str, Mapping[str, float | None]]:
    """Metrics of the teams that were not trained.

    Args:
        rows: of one task.

    Returns:
        Those of each, by its name.
    """
    found = {name: metrics for row in rows for name, metrics in row.references.items()}
    return found | {row.variant: row.final for row in rows if not row.frames}


def curve(rows: Sequence[Row], metric: str) -> dict[int, Estimate]:
    """Estimates at the frames at which all runs were evaluated.

    Args:
        rows: of one variant and task.
        metric: of the evaluations.

    Returns:
        The :class:`torchrl_alita.experiments.Estimate` at each number of frames; a run
        without the metric is left out.
    """
    runs = [dict(zip(*row.column(metric), strict=True)) for row in rows]
    runs = [run for run in runs if run]
    if not runs:
        return {}
    common = sorted(set.intersection(*(set(run) for run in runs)))
    return {frames: estimate([run[frames] for run in runs]) for frames in common}


def seconds_at(rows: Sequence[Row]) -> dict[int, float]:
    """Processor seconds after which runs were evaluated, their mean.

    A run's processor seconds are known at its end; before, they are taken to pass as its wall
    time does, which other programs stretch.

    Args:
        rows: of one variant and task.

    Returns:
        The seconds at each number of frames at which all runs were evaluated; nothing where the
        processor seconds of none are known.

    Examples:
        >>> curve = [
        ...     {"frames": 50, "wall_seconds": 3.0, "metrics": {}},
        ...     {"frames": 100, "wall_seconds": 6.0, "metrics": {}},
        ... ]
        >>> row = Row(
        ...     study="s", variant="v", task="t", algorithm="a", seed=0, frames=100, settings={},
        ...     command="c", commit=None, versions={}, machine={}, wall_seconds=8.0,
        ...     process_seconds=4.0, curve=curve, final={},
        ... )
        >>> seconds_at([row])
        {50: 1.5, 100: 3.0}
    """
    runs = []
    for row in rows:
        if row.process_seconds is not None and row.wall_seconds:
            share = row.process_seconds / row.wall_seconds
            times = {point["frames"]: point["wall_seconds"] for point in row.curve}
            runs.append({at: share * time for at, time in times.items() if time is not None})
    if not runs:
        return {}
    common = sorted(set.intersection(*(set(run) for run in runs)))
    return {frames: sum(run[frames] for run in runs) / len(runs) for frames in common}


def draw_curves(
    path: str | Path,
    rows: Sequence[Row],
    panels: Mapping[str, str],
    *,
    references: Mapping[str, Mapping[str, float | None]] | None = None,
    against: Literal["frames", "seconds"] = "frames",
    legend: bool = True,
    width: float = 3.6,
    dpi: int = 110,
) -> None:
    """A panel for each metric: interquartile means and 95 % bands, or every run of few.

    Args:
        path: of the PNG.
        rows: of one task.
        panels: titles by metric.
        references: metrics of teams that were not trained, drawn as dashed lines. Default:
            those of the rows.
        against: what is on the x axis, environment frames or processor seconds, see
            :func:`seconds_at`.
        legend: whether the picture has one.
        width: of a panel, in inches.
        dpi: dots per inch.
    """
    figure_class = import_extra("matplotlib.figure", "recipes").Figure
    figure = figure_class(figsize=(width * len(panels), 0.92 * width), layout="constrained")
    variants = by_variant(rows)
    chosen = colors(list(variants))
    if references is None:
        references = references_of(rows)
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (metric, title) in zip(all_axes, panels.items(), strict=True):
        for number, (variant, runs) in enumerate(variants.items()):
            estimates = curve(runs, metric)
            places = {at: float(at) for at in estimates}
            if against == "seconds":
                places = seconds_at(runs)
            points = {places[at]: found for at, found in estimates.items() if at in places}
            if points:
                style: dict[str, Any] = {"color": chosen[variant], "lw": 1.5}
                # Where a color comes again, the line is another.
                style["linestyle"] = ("-", ":", "-.")[number // len(COLORS) % 3]
                plot_estimates(axes, points, label=variant, **style)
        for dashes, (name, metrics) in zip(DASHES, references.items(), strict=False):
            if metrics.get(metric) is not None:
                style = {"linestyle": (0, dashes), "color": "gray", "lw": 1}
                axes.axhline(metrics[metric], label=name, **style)
        label = {"frames": "environment frames", "seconds": "processor seconds"}[against]
        _finish(axes, title, label, frames=True)
    if legend:
        named = dict(
            pair for axes in all_axes for pair in zip(*reversed(_labels(axes)), strict=True)
        )
        columns = min(len(named), round(width * len(panels) / 2.4), _fitting(named, figure))
        columns = max(1, columns)
        # Below many lines of it a panel would have no room.
        lines = -(-len(named) // columns)
        figure.set_figheight(figure.get_figheight() + 0.14 * max(0, lines - 4))
        figure.legend(
            named.values(), named, loc="outside lower center", ncols=columns, frameon=False,
            fontsize=7,
        )  # fmt: skip
    figure.savefig(path, dpi=dpi)


def _fitting(labels: Iterable[str], figure: Any) -> int:
    """Columns of a legend in small print that a figure has room for."""
    longest = max(map(len, labels), default=1)
    return int(figure.get_figwidth() // (0.45 + 0.052 * longest))


def _labels(axes: Any) -> tuple[list, list[str]]:
    return axes.get_legend_handles_labels()


def plot_estimates(
    axes: Any, points: Mapping[float, Estimate], *, band: float = 0.18, **style: Any
) -> None:
    """Interquartile means, with 95 % bands or the line of every run of few.

    Args:
        axes: of Matplotlib.
        points: by their place on the x axis.
        band: opacity of the bands.
        **style: of the line.
    """
    places = list(points)
    centers = [interquartile_mean(point.points) for point in points.values()]
    (line,) = axes.plot(places, centers, **style)
    if all(point.center is not None for point in points.values()):
        low, high = zip(*((point.low, point.high) for point in points.values()), strict=True)
        axes.fill_between(places, low, high, color=line.get_color(), alpha=band, linewidth=0)
        return
    for run in zip(*(point.points for point in points.values()), strict=True):
        axes.plot(places, run, color=line.get_color(), lw=0.6, alpha=0.45)


def _finish(axes: Any, title: str, label: str, *, frames: bool) -> None:
    ticker = import_extra("matplotlib.ticker", "recipes")
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(label, fontsize=8)
    axes.tick_params(labelsize=8)
    if frames:
        axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
        axes.xaxis.set_major_locator(ticker.MaxNLocator(5))
    axes.spines[["top", "right"]].set_visible(False)


def draw_profiles(
    path: str | Path,
    scores: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    width: float = 3.6,
    dpi: int = 160,
) -> None:
    """Performance profiles: the share of runs above each score, with 95 % bands.

    Args:
        path: of the PNG.
        scores: by variant and task.
        width: in inches.
        dpi: dots per inch.
    """
    figure_class = import_extra("matplotlib.figure", "recipes").Figure
    figure = figure_class(figsize=(width, 0.92 * width), layout="constrained")
    axes = figure.subplots()
    values = [value for tasks in scores.values() for runs in tasks.values() for value in runs]
    low_end, high_end = min(0.0, *values), max(1.0, *values)
    thresholds = [low_end + (high_end - low_end) * step / 200 for step in range(201)]
    for variant, color in colors(list(scores)).items():
        shares, low, high = performance_profile(scores[variant], thresholds)
        axes.plot(thresholds, shares, color=color, lw=1.5, label=textwrap.fill(variant, 34))
        if low is not None and high is not None:
            axes.fill_between(thresholds, low, high, color=color, alpha=0.18, linewidth=0)
    _finish(axes, "share of runs above a score", "score", frames=False)
    axes.set_ylim(-0.02, 1.02)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=6)
    figure.savefig(path, dpi=dpi)
