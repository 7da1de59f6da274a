"""Where results, pages and their pictures are, and the form of a script that measures."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from torchrl_alita.experiments import markdown_table as table
from torchrl_alita.experiments import write_between
from torchrl_alita.saving import machine, write_whole

__all__ = [
    "FIGURES", "RESULTS", "ROOT", "Config", "Measurement", "add_missing", "circumstances",
    "made_by", "read_lines", "table", "write_between",
]  # fmt: skip

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
FIGURES = ROOT / "docs" / "figures"

Content = dict[str, Any]


@dataclass(kw_only=True)
class Config:
    """What every script that measures is asked; each adds its own."""

    threads: int = 1
    """Of torch."""
    report_only: bool = False
    """Measure nothing, write the page from the results."""


@dataclass(frozen=True)
class Measurement:
    """A script that measures, keeps its figures, and writes them into a page.

    Args:
        name: of the script, and of its file in results/.
        measure: what it finds; the results have it beside :func:`circumstances`.
        texts: what stands between the page's markers, by their names, from the results.
        page: from the repository's root.
        draw: the page's picture, from the results.
    """

    name: str
    measure: Callable[[Any], Content]
    texts: Callable[[Content], dict[str, str]] = lambda content: {}
    page: str = "docs/speed.md"
    draw: Callable[[Content], None] = lambda content: None

    @property
    def path(self) -> Path:
        """Of the results."""
        return RESULTS / f"{self.name}.json"

    def results(self) -> Content:
        """What was measured last."""
        return json.loads(self.path.read_text())

    def run(self, config: Config) -> None:
        """Measure and write the results, if that is asked for, and report them."""
        if not config.report_only:
            torch.set_num_threads(config.threads)
            content = circumstances(f"{self.name}.py", config) | self.measure(config)
            write_whole(self.path, json.dumps(content, indent=1, default=_plain) + "\n")
        content = self.results()
        for marker, text in self.texts(content).items():
            write_between(ROOT / self.page, marker, text)
        self.draw(content)


def _plain(value: Any) -> str:
    """What JSON has no form for; a path in the repository from its root, whose place is nobody's."""
    inside = isinstance(value, Path) and value.is_relative_to(ROOT)
    return str(value.relative_to(ROOT) if inside else value)


def circumstances(script: str, config: Config) -> Content:
    """The command, its settings, and what it is measured with, as results have them."""
    return {
        "command": " ".join([f"python benchmarks/{script}", *sys.argv[1:]]),
        "config": asdict(config),
        "machine": machine(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def made_by(content: dict[str, Any], command: str | None = None) -> str:
    """Command, commit, versions and machine of a measurement, in words."""
    found = content["machine"]
    # Results of before November 26 have a commit of their own, or none.
    commit = content.get("commit") or found.get("commit")
    load, threads = content.get("load_average"), found.get("threads")
    return ", ".join(
        [
            f"`{command or content['command']}`",
            f"commit {commit}" if commit else "commit not recorded",
            *(f"{name} {found[name]}" for name in ("torch", "torchrl")),
            f"Python {found['python']}",
            f"{found['cores']} {found['processor']} cores",
            *([] if threads is None else [f"{threads} thread{'s' * (threads != 1)}"]),
            found.get("gpu") or "no GPU",
            *([] if load is None else [f"load average {load:.1f} at the start"]),
        ]
    )


def read_lines(path: Path) -> dict[str, Content]:
    """Contents by name, of a file with one JSON object a line; none where there is no file."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {content.pop("name"): content for content in map(json.loads, lines)}


def add_missing(path: Path, jobs: Mapping[str, Callable[[], Content]], workers: int) -> None:
    """Do the jobs that have no line in a file yet, in processes with one thread each."""
    there = read_lines(path)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, torch.set_num_threads, (1,)) as pool:
        names = {pool.submit(job): name for name, job in jobs.items() if name not in there}
        for future in as_completed(names):
            there[names[future]] = future.result()
            lines = [json.dumps({"name": name, **content}) for name, content in there.items()]
            write_whole(path, "\n".join(lines) + "\n")
            print(names[future], flush=True)
