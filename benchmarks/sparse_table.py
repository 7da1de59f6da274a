"""Push-Box and Secret Room: algorithms with and without team exploration, over seeds.

    python benchmarks/sparse_table.py --game secret_room   # train what is missing, report
    python benchmarks/sparse_table.py --game push_box --total-frames 30000000
    python benchmarks/sparse_table.py --report-only        # report from the committed results

Each run is a process of its own and leaves one JSON in results/sparse/; an existing one is
not run again. The report writes results/sparse.json, a picture for each game and the tables
between the markers of docs/sparse.md.

Source of the tasks: Sec. 4.1.2 and Table 1 of https://arxiv.org/abs/2108.12581. The paper's
budget is 20,000 updates of its rivals' code, more than a thousand million steps.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

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

ALGORITHMS = {
    "MADDPG": ("--algorithm", "maddpg"),
    "ALITA": ("--algorithm", "alita"),
    "ALITA, no F": ("--algorithm", "alita", "--influence-coeff", "0"),
    "ALITA, no IM": ("--algorithm", "alita", "--novelty-coeff", "0", "--diversity-coeff", "0"),
}
VARIANTS = {
    f"{name}, {exploration} exploration": (*options, "--exploration", exploration)
    for exploration in ("independent", "team")
    for name, options in ALGORITHMS.items()
}
# Of the greedy team at the end, and of all that training has collected: title, digits.
EVALUATED = {
    "push_box": {
        "boxes_per_episode": ("boxes per episode", 3),
        "pushes_per_episode": ("pushes per episode", 2),
    },
    "secret_room": {
        "success_share": ("success", 3),
        "doors_opened": ("doors opened per episode", 2),
    },
}
EXPLORED = {
    "push_box": {
        "boxes_delivered": ("boxes in training", 0),
        "pushes_in_agreement": ("pushes in training", 0),
    },
    "secret_room": {"doors_opened": ("doors opened in training", 0)},
}
COMMON = {
    "state_coverage": ("joint states visited", 3),
    "state_entropy": ("entropy of visits, nats", 2),
}
FRAMES = {"push_box": 30_000_000, "secret_room": 2_000_000}


@dataclass
class Config:
    """Which runs to make."""

    game: Literal["push_box", "secret_room"] = "secret_room"
    """Game to train."""
    variants: tuple[str, ...] = tuple(VARIANTS)
    """Rows of the table to train."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of every variant."""
    total_frames: int | None = None
    """Environment steps of a run. Default: the recipe's."""
    workers: int = 2
    """Runs side by side, each with one thread."""
    report_only: bool = False
    """Train nothing, report what is there."""


def job(game: str, variant: str, seed: int, frames: int) -> Job:
    """The run of one row and seed."""
    name = f"{game}-{slug(variant)}-{frames}-seed{seed}.json"
    options = (*VARIANTS[variant], "--seed", str(seed), "--total-frames", str(frames))
    options += ("--evaluation-interval", str(frames // 10))
    curves = tuple(f"evaluation/{name}" for name in EVALUATED[game])
    curves += ("exploration/state_coverage",)
    return Job(variant, f"alita_{game}.py", options, RESULTS / "sparse" / name, curves)


def budgets(game: str) -> list[int]:
    """Total frames of the runs that are there, the largest first."""
    found = (RESULTS / "sparse").glob(f"{game}-*-seed*.json")
    return sorted({int(path.stem.split("-")[-2]) for path in found}, reverse=True)


def first_success(runs: list[dict]) -> str:
    """Of how many runs training saw a reward, and the mean frame of the first."""
    frames = [run["exploration"]["first_success_frame"] for run in runs]
    seen = [frame for frame in frames if frame is not None]
    when = f", frame {sum(seen) / len(seen):,.0f}" if seen else ""
    return f"{len(seen)} of {len(frames)}{when}"


def section(game: str, frames: int, seeds: tuple[int, ...]) -> tuple[str, dict]:
    """Table of one game and budget, and its numbers."""
    runs = results([job(game, variant, s, frames) for variant in VARIANTS for s in seeds])
    first = next(iter(runs.values()))[0]
    explored = EXPLORED[game] | COMMON
    titles = ["team", "seeds", *(title for title, _ in EVALUATED[game].values())]
    titles += ["rewarded in training", *(title for title, _ in explored.values())]
    random_team = [
        f"{first['random_team'][name]:.{digits}f}" for name, (_, digits) in EVALUATED[game].items()
    ]
    rows = [["random play", "", *random_team, *[""] * (1 + len(explored))]]
    for variant, found in runs.items():
        evaluated = [
            span([run["evaluation"][name] for run in found], digits)
            for name, (_, digits) in EVALUATED[game].items()
        ]
        counted = [
            span([run["exploration"][name] for run in found], digits)
            for name, (_, digits) in explored.items()
        ]
        rows.append([variant, str(len(found)), *evaluated, first_success(found), *counted])
    note = (
        f"Mean [least, largest] over the seeds after {frames:,} frames; the first columns are of "
        f"100 greedy episodes from the same states. Made by `python benchmarks/sparse_table.py "
        f"--game {game} --total-frames {frames}`: {versions(first['machine'])}."
    )
    panels = {name: title for name, (title, _) in EVALUATED[game].items()}
    panels["state_coverage"] = "joint states visited in training, share"
    draw_curves(
        RESULTS / f"sparse_{game}_{frames}.png",
        {name: [_without_first(run) for run in found] for name, found in runs.items()},
        panels,
        first["random_team"],
    )
    numbers = {
        variant: {
            "evaluation": [run["evaluation"] for run in found],
            "exploration": [run["exploration"] for run in found],
        }
        for variant, found in runs.items()
    }
    return f"{table(titles, rows)}\n\n{note}", numbers


def _without_first(run: dict) -> dict:
    """A run whose curves begin with the first batch: before it nothing was explored."""
    return run | {"curves": {name: points[1:] for name, points in run["curves"].items()}}


def report(config: Config) -> None:
    """Aggregate, draw, and write the tables into the page."""
    sections, numbers = [], {}
    for game in EVALUATED:
        for frames in budgets(game):
            text, values = section(game, frames, config.seeds)
            picture = f"../benchmarks/results/sparse_{game}_{frames}.png"
            title = game.replace("_", " ").title()
            sections.append(f"### {title}, {frames:,} frames\n\n{text}\n\n![Curves]({picture})")
            numbers[f"{game}, {frames} frames"] = values
    (RESULTS / "sparse.json").write_text(json.dumps(numbers, indent=1) + "\n")
    write_between(ROOT / "docs" / "sparse.md", "sparse tables", "\n\n".join(sections))
    print("\n\n".join(sections))


def main(config: Config) -> None:
    """Train what is missing, then report."""
    if not config.report_only:
        frames = config.total_frames or FRAMES[config.game]
        # A round of seeds at a time, so that an unfinished series is a balanced one.
        jobs = [
            job(config.game, variant, seed, frames)
            for seed in config.seeds
            for variant in config.variants
        ]
        train_missing(jobs, config.workers)
    report(config)


if __name__ == "__main__":
    main(tyro.cli(Config))
