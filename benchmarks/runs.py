"""Series of runs of a recipe: each a process of its own that leaves one JSON.

Used by the benchmarks of this folder; there is nothing to start here. An existing result
is not run again, so that a broken series continues where it stopped.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Job:
    """One run."""

    variant: str
    """Row of the table."""
    recipe: str
    """Name of the script."""
    options: tuple[str, ...]
    """Of its command line."""
    result: Path
    """JSON that it leaves."""
    curves: tuple[str, ...]
    """Columns of metrics.csv that are kept where an evaluation was made, if it has them."""
    folder: str = "recipes"
    """That of the script; one elsewhere makes no checkpoints and shows no progress."""


def slug(text: str) -> str:
    """A row's name as part of a file's."""
    return text.lower().replace(", ", "_").replace(" ", "_")


def train_missing(jobs: Sequence[Job], workers: int) -> None:
    """Make the runs whose results are missing, so many side by side, in this order."""
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda job: _train(job, workers), jobs))


def _train(job: Job, workers: int) -> None:
    if job.result.exists():
        return
    job.result.parent.mkdir(parents=True, exist_ok=True)
    of_recipe = job.folder == "recipes"
    options = [*job.options, "--threads", "1", *["--no-progress"] * of_recipe]
    never = ["--checkpoint-interval", str(10**12)] * of_recipe
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        command = [sys.executable, str(ROOT / job.folder / job.recipe), *options]
        subprocess.run(
            [*command, "--run-dir", str(run_dir), *never],
            check=True,
            capture_output=True,
            text=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        summary = json.loads((run_dir / "summary.json").read_text())
        with (run_dir / "metrics.csv").open() as file:
            rows = [row for row in csv.DictReader(file) if row["evaluation/return_mean"]]
    curves = {
        name.split("/")[-1]: [[int(row["frames"]), _number(row[name])] for row in rows]
        for name in job.curves
        if name in rows[0]
    }
    content = {
        "variant": job.variant,
        "command": " ".join([f"python {job.folder}/{job.recipe}", *options]),
        "side_by_side": workers,
        **summary,
        "curves": curves,
    }
    job.result.write_text(json.dumps(content, indent=1) + "\n")
    print(f"{job.result.name}: {summary['evaluation']}", flush=True)


def _number(text: str) -> float | None:
    """What a cell of metrics.csv says; JSON knows no NaN."""
    return None if text in ("", "nan") else float(text)


def results(jobs: Sequence[Job]) -> dict[str, list[dict]]:
    """What is there, by row, in the order of the jobs."""
    found: dict[str, list[dict]] = {}
    for job in jobs:
        if job.result.exists():
            found.setdefault(job.variant, []).append(json.loads(job.result.read_text()))
    return found


def span(values: Sequence[float], digits: int) -> str:
    """Mean [least, largest]."""
    return f"{mean(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown; the first column is text, the others are numbers."""
    marks = ["---", *["---:"] * (len(titles) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, marks, *rows))


def versions(machine: dict) -> str:
    """Versions and machine of a run, in words."""
    return (
        f"torch {machine['torch']}, torchrl {machine['torchrl']}, Python {machine['python']}, "
        f"{machine['cores']} {machine['processor']} cores, no GPU"
    )


def write_between(path: Path, name: str, text: str) -> None:
    """Put a text between the two markers of this name."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    content = path.read_text()
    before, rest = content.split(begin)
    after = rest.split(end)[1]
    path.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


def draw_curves(
    path: Path,
    runs: dict[str, list[dict]],
    panels: dict[str, str],
    baseline: dict[str, float],
) -> None:
    """Mean over the seeds, and the span between the least and largest, a panel for each metric."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(3.5 * len(panels), 3.4), layout="constrained")
    for axes, (name, title) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for variant, found in runs.items():
            frames = [frame for frame, _ in found[0]["curves"][name]]
            by_seed = [[value for _, value in run["curves"][name]] for run in found]
            columns = list(zip(*by_seed, strict=True))
            (line,) = axes.plot(frames, [mean(values) for values in columns], label=variant)
            least, largest = [min(v) for v in columns], [max(v) for v in columns]
            axes.fill_between(frames, least, largest, color=line.get_color(), alpha=0.15)
        if name in baseline:
            axes.axhline(baseline[name], linestyle="--", color="gray", label="random team")
        axes.set_title(title)
        axes.set_xlabel("environment frames")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=7)
    figure.savefig(path, dpi=110)
