"""Run what is missing, then report."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import tyro

from benchmarks.coverage import report as page
from benchmarks.coverage.measure import cell
from benchmarks.coverage.methods import METHODS, Settings
from benchmarks.pages import add_missing


@dataclass(frozen=True)
class Config:
    """Which cells to run."""

    methods: tuple[str, ...] = tuple(METHODS)
    """Rows."""
    num_agents: tuple[int, ...] = (2, 3, 4, 5)
    """N; each agent has L = 3 actions."""
    workers: int = 1
    """Cells side by side."""
    report_only: bool = False
    """Run nothing, report what is there."""


def main(config: Config) -> None:
    """Run what is missing, then report."""
    if not config.report_only:
        jobs = {
            f"{name}-l3-n{num_agents}": partial(cell, name, num_agents, 3, Settings())
            for num_agents in config.num_agents
            for name in config.methods
            if num_agents <= METHODS[name].max_agents
        }
        add_missing(page.RESULT, jobs, config.workers)
    page.report()


if __name__ == "__main__":
    main(tyro.cli(Config))
