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

import json
from dataclasses import dataclass

import tyro
from runs import (
    RESULTS,
    ROOT,
    Job,
    draw_curves,
    results,
    slug,
    span,
    table,
    train_missing,
    versions,
    write_between,
)

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


def job(variant: str, seed: int, config: Config) -> Job:
    """The run of one row and seed."""
    name = f"{slug(variant)}-n{config.n_agents}-{config.total_frames}-seed{seed}.json"
    options = (
        *VARIANTS[variant],
        *("--seed", str(seed), "--n-agents", str(config.n_agents)),
        *("--total-frames", str(config.total_frames)),
    )
    curves = tuple(f"evaluation/{name}" for name in COLUMNS)
    return Job(variant, "alita_spread.py", options, RESULTS / "spread" / name, curves)


def report(config: Config) -> None:
    """Aggregate, draw, and write the table into the README."""
    runs = results([job(variant, s, config) for variant in VARIANTS for s in config.seeds])
    first = next(iter(runs.values()))[0]
    random_team = first["random_team"]
    titles = ["team", "seeds"]
    titles += [f"{title} ({better} is better)" for title, better, _ in COLUMNS.values()]
    rows = [["random", ""]]
    rows[0] += [f"{random_team[name]:.{digits}f}" for name, (_, _, digits) in COLUMNS.items()]
    for variant, found in runs.items():
        cells = [
            span([run["evaluation"][name] for run in found], digits)
            for name, (_, _, digits) in COLUMNS.items()
        ]
        rows.append([variant, str(len(found)), *cells])
    note = (
        f"Mean [least, largest] over the seeds, {config.total_frames:,} frames, "
        f"N={config.n_agents}, 100 greedy episodes from the same states. "
        f"Made by `python benchmarks/spread_table.py`: {versions(first['machine'])}. "
        f"Raw results, with each run's command: benchmarks/results/spread/."
    )
    text = f"{table(titles, rows)}\n\n{note}"
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
    panels = {name: title for name, (title, _, _) in COLUMNS.items()}
    draw_curves(RESULTS / "spread.png", runs, panels, random_team)
    write_between(ROOT / "README.md", "spread table", text)
    print(text)


def main(config: Config) -> None:
    """Train what is missing, then report."""
    if not config.report_only:
        # A round of seeds at a time, so that an unfinished series is a balanced one.
        jobs = [job(variant, seed, config) for seed in config.seeds for variant in config.variants]
        train_missing(jobs, config.workers)
    report(config)


if __name__ == "__main__":
    main(tyro.cli(Config))
