"""Table 2 of the paper, in our terms: algorithms on cooperative navigation, over seeds.

    python benchmarks/spread_table.py                # train what is missing, then report
    python benchmarks/spread_table.py --variants MADDPG --seeds 3 4
    python benchmarks/spread_table.py --report-only  # report from the committed results

Each run is a process of its own and leaves one JSON in results/spread/ (its summary, its
evaluations and its command); an existing one is not run again, so that a broken series
continues where it stopped. The report writes results/spread.json, results/spread.png and
the table between the markers in the README.

Source of the table: Appendix B of https://arxiv.org/abs/2108.12581. Its distances and
collisions cannot be compared with these: the simulator and the units differ.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import tyro

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
VARIANTS = {
    "MADDPG": ["--algorithm", "maddpg"],
    "DDPG": ["--algorithm", "ddpg"],
    "ALITA, marginal": ["--algorithm", "alita", "--estimator", "marginal"],
    "ALITA, clones": ["--algorithm", "alita", "--estimator", "clones"],
    "ALITA, centralized": ["--algorithm", "alita", "--estimator", "centralized"],
    "ALITA, marginal, no F": ["--algorithm", "alita", "--influence-coeff", "0"],
    "ALITA, marginal, no IM": [
        *("--algorithm", "alita", "--novelty-coeff", "0", "--diversity-coeff", "0"),
    ],
}
COLUMNS = {
    "return_mean": ("return", "higher", 0),
    "landmark_distance": ("landmark distance", "lower", 2),
    "contacts_per_episode": ("contacts per episode", "lower", 1),
    "occupied_share": ("landmarks occupied", "higher", 2),
}
BEGIN, END = "<!-- spread table: begin -->", "<!-- spread table: end -->"


@dataclass
class Config:
    """Which runs to make."""

    variants: tuple[str, ...] = tuple(VARIANTS)
    """Rows of the table to train."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of every variant."""
    total_frames: int = 250_000
    """Environment steps of a run."""
    n_agents: int = 3
    """Agents."""
    workers: int = 2
    """Runs side by side, each with one thread."""
    report_only: bool = False
    """Train nothing, report what is there."""


def slug(variant: str, seed: int, config: Config) -> str:
    name = variant.lower().replace(", ", "_").replace(" ", "_")
    return f"{name}-n{config.n_agents}-{config.total_frames}-seed{seed}"


def train(variant: str, seed: int, config: Config) -> None:
    """One run, unless its result is there."""
    result = RESULTS / "spread" / f"{slug(variant, seed, config)}.json"
    if result.exists():
        return
    result.parent.mkdir(parents=True, exist_ok=True)
    options = [
        *VARIANTS[variant],
        *("--seed", str(seed), "--n-agents", str(config.n_agents)),
        *("--total-frames", str(config.total_frames), "--threads", "1", "--no-progress"),
    ]
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        command = [sys.executable, str(ROOT / "recipes" / "alita_spread.py"), *options]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run(
            [*command, "--run-dir", str(run_dir), "--checkpoint-interval", str(10**12)],
            check=True,
            capture_output=True,
            text=True,
            cwd=folder,
            env=environment,
        )
        summary = json.loads((run_dir / "summary.json").read_text())
        with (run_dir / "metrics.csv").open() as file:
            rows = [row for row in csv.DictReader(file) if row["evaluation/return_mean"]]
    curves = {
        name: [[int(row["frames"]), float(row[f"evaluation/{name}"])] for row in rows]
        for name in COLUMNS
    }
    content = {
        "variant": variant,
        "command": " ".join(["python recipes/alita_spread.py", *options]),
        "side_by_side": config.workers,
        **summary,
        "curves": curves,
    }
    result.write_text(json.dumps(content, indent=1) + "\n")
    print(f"{result.name}: {summary['evaluation']}", flush=True)


def spread(values: list[float], digits: int) -> str:
    return f"{mean(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


def report(config: Config) -> None:
    """Aggregate, draw, and write the table into the README."""
    runs: dict[str, list[dict]] = {}
    for variant in VARIANTS:
        paths = [RESULTS / "spread" / f"{slug(variant, s, config)}.json" for s in config.seeds]
        found = [json.loads(path.read_text()) for path in paths if path.exists()]
        if found:
            runs[variant] = found
    first = next(iter(runs.values()))[0]
    titles = [f"{title} ({better} is better)" for title, better, _ in COLUMNS.values()]
    lines = [
        " | ".join(["", "team", "seeds", *titles, ""]).strip(),
        " | ".join(["", "---", "---:", *["---:"] * len(titles), ""]).strip(),
    ]
    random_cells = [
        f"{first['random_team'][name]:.{digits}f}" for name, (_, _, digits) in COLUMNS.items()
    ]
    lines.append(" | ".join(["", "random", "", *random_cells, ""]).strip())
    for variant, found in runs.items():
        cells = [
            spread([run["evaluation"][name] for run in found], digits)
            for name, (_, _, digits) in COLUMNS.items()
        ]
        lines.append(" | ".join(["", variant, str(len(found)), *cells, ""]).strip())
    machine = first["machine"]
    note = (
        f"Mean [least, largest] over the seeds, {config.total_frames:,} frames, "
        f"N={config.n_agents}, 100 greedy episodes from the same states. "
        f"Made by `python benchmarks/spread_table.py`: torch {machine['torch']}, torchrl "
        f"{machine['torchrl']}, Python {machine['python']}, {machine['cores']} {machine['processor']} "
        f"cores, no GPU. Raw results, with each run's command: benchmarks/results/spread/."
    )
    table = "\n".join([*lines, "", note])
    (RESULTS / "spread.json").write_text(
        json.dumps(
            {
                variant: {name: [run["evaluation"][name] for run in found] for name in COLUMNS}
                for variant, found in runs.items()
            },
            indent=1,
        )
        + "\n"
    )
    draw(runs, first["random_team"])
    readme = ROOT / "README.md"
    text = readme.read_text()
    if BEGIN in text:
        before, rest = text.split(BEGIN)
        after = rest.split(END)[1]
        readme.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}")
    print(table)


def draw(runs: dict[str, list[dict]], random_team: dict[str, float]) -> None:
    """Learning curves: mean over the seeds, and the span between the least and largest."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(14, 3.4), layout="constrained")
    for axes, (name, (title, _, _)) in zip(
        figure.subplots(1, len(COLUMNS)), COLUMNS.items(), strict=True
    ):
        for variant, found in runs.items():
            frames = [frame for frame, _ in found[0]["curves"][name]]
            by_seed = [[value for _, value in run["curves"][name]] for run in found]
            columns = list(zip(*by_seed, strict=True))
            (line,) = axes.plot(frames, [mean(values) for values in columns], label=variant)
            least, largest = [min(v) for v in columns], [max(v) for v in columns]
            axes.fill_between(frames, least, largest, color=line.get_color(), alpha=0.15)
        axes.axhline(random_team[name], linestyle="--", color="gray", label="random team")
        axes.set_title(title)
        axes.set_xlabel("environment frames")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=7)
    figure.savefig(RESULTS / "spread.png", dpi=110)


def main(config: Config) -> None:
    """Train what is missing, then report."""
    if not config.report_only:
        # A round of seeds at a time, so that an unfinished series is a balanced one.
        jobs = [(variant, seed) for seed in config.seeds for variant in config.variants]
        with ThreadPoolExecutor(config.workers) as pool:
            list(pool.map(lambda job: train(*job, config), jobs))
    report(config)


if __name__ == "__main__":
    main(tyro.cli(Config))
