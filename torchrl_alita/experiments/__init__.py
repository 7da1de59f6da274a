"""Sweeps of runs, their results, statistics and reports."""

from torchrl_alita.experiments.cells import Cell, CellFolder, run_cell
from torchrl_alita.experiments.pictures import draw_curves, draw_profiles
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
from torchrl_alita.experiments.study import Study, Variant, missing_cells, study_text
from torchrl_alita.experiments.sweep import Outcome, make_cells, run_cells
from torchrl_alita.experiments.tables import (
    RETURN,
    Column,
    best,
    frames_of_best,
    last,
    markdown_table,
    reached,
    results_table,
    score,
    sections,
    versions_text,
    write_between,
)

__all__ = [
    "RETURN",
    "Cell",
    "CellFolder",
    "Column",
    "Estimate",
    "Outcome",
    "Row",
    "Study",
    "Variant",
    "append_row",
    "best",
    "bootstrap_interval",
    "draw_curves",
    "draw_profiles",
    "estimate",
    "frames_of_best",
    "interquartile_mean",
    "last",
    "make_cells",
    "markdown_table",
    "missing_cells",
    "normalized_score",
    "performance_profile",
    "probability_of_improvement",
    "reached",
    "read_marl_eval",
    "read_rows",
    "results_table",
    "row_of_run",
    "run_cell",
    "run_cells",
    "score",
    "sections",
    "study_text",
    "versions_text",
    "write_between",
    "write_marl_eval",
    "write_rows",
]
