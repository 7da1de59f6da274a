"""Columns of several studies."""

from collections.abc import Callable, Sequence

from torchrl_alita.experiments import Column, Row


def when(
    title: str, metric: str, reached: Callable[[float], bool], shown: Callable[[int], str]
) -> Column:
    """Frames of the first evaluation in which a metric has been reached, for each seed."""

    def text(rows: Sequence[Row]) -> str:
        found = []
        for row in rows:
            curve = zip(*row.column(metric), strict=True)
            frames = next((frames for frames, value in curve if reached(value)), None)
            found.append("-" if frames is None else shown(frames))
        return ", ".join(found)

    return Column(title, text=text)
