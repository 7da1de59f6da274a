"""Run what is missing, then report."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import tyro

from benchmarks.coverage import report as page
from benchmarks.coverage.measure import cell
from benchmarks.coverage.methods import METHODS, Settings
from benchmarks.pages import read_lines, set_line
from torchrl_alita.saving import machine


@dataclass(frozen=True)
class Config:
    """Which cells to run."""

    methods: tuple[str, ...] = tuple(METHODS)
    """Rows."""
    num_agents: tuple[int, ...] = (2, 3, 4, 5)
    """N; each agent has L = 3 actions."""
    report_only: bool = False
    """Run nothing, report what is there."""


def run(name: str, num_agents: int, settings: Settings) -> None:
    """One cell, unless its result is there."""
    key = f"{name}-l3-n{num_agents}"
    if key in read_lines(page.RESULT) or num_agents > METHODS[name].max_agents:
        return
    content = cell(name, num_agents, 3, settings) | {
        "config": asdict(settings),
        "command": f"python -m benchmarks.coverage --methods {name} --num-agents {num_agents}",
        "machine": machine(),
    }
    set_line(page.RESULT, key, content)
    print(f"{key}: {content['seconds']} s", flush=True)


def main(config: Config) -> None:
    """Run what is missing, then report."""
    torch.set_num_threads(1)
    for num_agents in () if config.report_only else config.num_agents:
        for name in config.methods:
            run(name, num_agents, Settings())
    page.report()


if __name__ == "__main__":
    main(tyro.cli(Config))
