"""What a run shows of its team beside the return."""

from torchrl_alita.metrics.exploration import (
    BinnedCells,
    Coverage,
    ExplorationMetrics,
    FirstSuccess,
    OneHotCells,
    VisitMap,
    exploration_metrics,
)

__all__ = [
    "BinnedCells",
    "Coverage",
    "ExplorationMetrics",
    "FirstSuccess",
    "OneHotCells",
    "VisitMap",
    "exploration_metrics",
]
