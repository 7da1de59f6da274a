"""Pictures of a run, drawn without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torchrl_alita._extras import import_extra

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["save_curves", "save_gif"]


def save_curves(
    path: str | Path,
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    title: str,
    baselines: Mapping[str, float] | None = None,
) -> None:
    """A panel for each metric against environment frames.

    Args:
        path: of the PNG file.
        curves: frames and values by metric.
        title: of the figure.
        baselines: value of a random team by metric, drawn as a dashed line.

    Raises:
        ImportError: if matplotlib is not installed; the extra is named.
    """
    figure_module = import_extra("matplotlib.figure", "recipes")
    ticker_module = import_extra("matplotlib.ticker", "recipes")
    import_extra("matplotlib.backends.backend_agg", "recipes")
    figure = figure_module.Figure(figsize=(4 * len(curves), 3.2), layout="constrained")
    for axes, (name, (frames, values)) in zip(
        figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True
    ):
        axes.plot(frames, values, marker=".", label="trained")
        if baselines and name in baselines:
            axes.axhline(baselines[name], linestyle="--", color="gray", label="random team")
            axes.legend(frameon=False)
        axes.set_xlabel("environment frames")
        axes.xaxis.set_major_formatter(ticker_module.EngFormatter(sep=""))
        axes.set_title(name.replace("_", " "))
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    figure.savefig(path, dpi=110)


def save_gif(path: str | Path, frames: Sequence[Image], *, fps: float = 20.0) -> None:
    """A moving picture.

    Args:
        path: of the GIF file.
        frames: its pictures, at least one.
        fps: frames per second.

    Raises:
        ValueError: if there is no frame.
    """
    if not frames:
        raise ValueError("A moving picture needs at least one frame, got 0.")
    first, *rest = [frame.quantize(32) for frame in frames]
    first.save(path, save_all=True, append_images=rest, duration=round(1000 / fps), loop=0)
