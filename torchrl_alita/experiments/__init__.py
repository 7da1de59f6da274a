"""Sweeps of runs, their results, statistics and reports."""

from torchrl_alita.experiments.results import (
    Row,
    append_row,
    normalized_score,
    read_rows,
    row_of_run,
    write_rows,
)
from torchrl_alita.experiments.statistics import (
    Estimate,
    bootstrap_interval,
    estimate,
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
    read_marl_eval,
    write_marl_eval,
)

__all__ = [
    "Estimate",
    "Row",
    "append_row",
    "bootstrap_interval",
    "estimate",
    "interquartile_mean",
    "normalized_score",
    "performance_profile",
    "probability_of_improvement",
    "read_marl_eval",
    "read_rows",
    "row_of_run",
    "write_marl_eval",
    "write_rows",
]
