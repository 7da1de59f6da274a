"""Columns of several studies."""

from collections.abc import Callable, Sequence

from published import PUBLISHED

from torchrl_alita.experiments import RETURN, Column, Row

SECONDS = Column("processor seconds", lambda row: row.process_seconds, 0)
# Of an agent that is to reach a goal.
DISTANCE = "evaluation/final_distance"
GOAL_CURVES = {RETURN: "return", DISTANCE: "distance at the end"}


def goal_columns(*radii: float, digits: int = 2) -> tuple[Column, ...]:
    """Return, distance to the goal, the share of the episodes that end within radii, and costs."""
    within = [Column(f"within {r} at the end", f"evaluation/reach_{r}", 2) for r in radii]
    distance = Column("distance at the end", DISTANCE, digits)
    return Column("return", RETURN, 1), distance, *within, SECONDS


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


def copied(task: str) -> str:
    """What a table of the paper prints, in words: copied, and not measured.

    Args:
        task: how its name in published.py begins.
    """
    entries = [entry for entry in PUBLISHED if entry.task.startswith(task)]
    found: dict[str, list[str]] = {}
    for entry in entries:
        found.setdefault(entry.team or entry.algorithm.upper(), []).append(entry.value)
    figures = " and ".join(dict.fromkeys(entry.figure for entry in entries))
    lines = "; ".join(f"{team} {', '.join(values)}" for team, values in found.items())
    return f"Copied from the paper, {figures} in {task}, and not measured here: {lines}."
