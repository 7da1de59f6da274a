"""Pictures of a run, drawn without a display."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from torchrl_alita._extras import import_extra

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from tensordict import TensorDictBase

    from torchrl_alita.envs import Task

__all__ = ["Pictures", "save_curves", "save_gif", "save_heat_map"]


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


def save_heat_map(
    path: str | Path,
    maps: Mapping[str, torch.Tensor],
    *,
    title: str,
    walls: torch.Tensor | None = None,
    origin: Literal["upper", "lower"] = "upper",
) -> None:
    """A panel for each map of visits, on one logarithmic scale; cells never visited are white.

    Args:
        path: of the PNG file.
        maps: numbers of visits ``[rows, columns]`` by name.
        title: of the figure.
        walls: bool ``[rows, columns]``, True where nobody can ever be, drawn in gray.
        origin: where row 0 is.

    Raises:
        ValueError: if there is no map.
        ImportError: if matplotlib is not installed; the extra is named.
    """
    if not maps:
        raise ValueError("A heat map needs at least one map, got 0.")
    figure_module = import_extra("matplotlib.figure", "recipes")
    colors_module = import_extra("matplotlib.colors", "recipes")
    import_extra("matplotlib.backends.backend_agg", "recipes")
    most = max(float(counts.max()) for counts in maps.values())
    norm = colors_module.LogNorm(vmin=1, vmax=max(most, 2))
    figure = figure_module.Figure(figsize=(3.2 * len(maps) + 1, 3.6), layout="constrained")
    panels = figure.subplots(1, len(maps), squeeze=False)[0]
    for axes, (name, counts) in zip(panels, maps.items(), strict=True):
        # A transparent NaN stands for what a logarithm cannot.
        visited = counts.double().where(counts > 0, float("nan")).cpu().numpy()
        image = axes.imshow(visited, norm=norm, cmap="viridis", origin=origin)
        if walls is not None:
            gray = [[(0.6, 0.6, 0.6, float(wall)) for wall in row] for row in walls.tolist()]
            axes.imshow(gray, origin=origin)
        axes.set_title(name)
        axes.set_xticks([])
        axes.set_yticks([])
    figure.colorbar(image, ax=list(panels), label="visits")
    figure.suptitle(title)
    figure.savefig(path, dpi=110)


class Pictures:
    """The pictures of a run. One that fails costs the picture, not what the run has learned.

    Args:
        directory: in which they are written.
        task: that draws an episode.
        title: of the figures.
    """

    def __init__(self, directory: Path, task: Task, title: str):
        self.directory, self._task, self._title = directory, task, title

    def curves(
        self,
        curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
        *,
        seed: int,
        baselines: Mapping[str, float],
    ) -> None:
        """curve.png, see :func:`save_curves`.

        Args:
            curves: frames and values by metric.
            seed: of the run.
            baselines: value of a random team by metric.
        """
        title = f"{self._title}, seed {seed}"
        with _may_fail("curve.png"):
            save_curves(self.directory / "curve.png", curves, title=title, baselines=baselines)

    def visits(self, maps: Mapping[str, torch.Tensor], walls: torch.Tensor | None) -> None:
        """visits.png, see :func:`save_heat_map`, if the task has a map.

        Args:
            maps: numbers of visits by name, or none.
            walls: where nobody can be.
        """
        if maps:
            with _may_fail("visits.png"):
                save_heat_map(self.directory / "visits.png", maps, title=self._title, walls=walls)

    def episode(self, name: str, episode: TensorDictBase) -> None:
        """The task's picture of an episode, if it draws one.

        Args:
            name: of the GIF file.
            episode: ``[T]``.
        """
        if self._task.draw is not None:
            with _may_fail(name):
                save_gif(self.directory / name, self._task.draw(episode))


@contextmanager
def _may_fail(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        print(f"No {name}: {type(error).__name__}: {error}")
