"""Physical deception: each algorithm's agents against each algorithm's adversary.

    python benchmarks/study.py physical_deception --train   # makes the runs
    python benchmarks/cross_play.py                         # plays them, writes results and table
    python benchmarks/cross_play.py --report-only           # the table, from the results

Teams and adversaries are those of the runs in which an algorithm has both sides; there are scripts
for the adversary, too, and a random team. Those of one seed meet each other: each team the adversary
with which it has learned, and the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import pages
import tyro
from pages import Measurement, made_by, table

from torchrl_alita.training import cross_play

TASK = "mpe/adversary"
ALGORITHMS = ("alita", "maddpg", "ddpg", "mappo")
SCRIPTS = {
    "good": {"random": "random"},
    "adversary": {
        "a script that picks": "benchmarks.scripted_particles:picks",
        "a script that follows": "benchmarks.scripted_particles:follows",
    },
}
METRICS = ("good_reach_0.16", "adversary_reach_0.16")


@dataclass(kw_only=True)
class Config(pages.Config):
    """What to play."""

    runs: Path = Path("runs") / "physical_deception" / "runs" / "mpe_adversary"
    """Where the study's runs are, from the repository's root."""
    seeds: tuple[int, ...] = (0,)
    """Of the runs; the first states are the same for all."""
    episodes: int = 100
    """Of each combination."""


def policies(config: Config, seed: int, side: str) -> dict[str, str]:
    """What can play a side, by its title: the runs that there are, and scripts.

    Raises:
        ValueError: if there is no run of this seed.
    """
    of_runs = {
        name.upper(): config.runs / f"{name}_against_{name}" / f"seed{seed}" / "run"
        for name in ALGORITHMS
    }
    there = {name: str(path) for name, path in of_runs.items() if path.is_dir()}
    if not there:
        raise ValueError(
            f"{config.runs} has no run of seed {seed}: "
            "python benchmarks/study.py physical_deception --train makes them."
        )
    return there | SCRIPTS[side]


def measure(config: Config) -> dict[str, Any]:
    """A row for each seed and combination."""
    found = []
    for seed in config.seeds:
        sides = {side: policies(config, seed, side) for side in ("good", "adversary")}
        titles = {side: {path: title for title, path in own.items()} for side, own in sides.items()}
        for row in cross_play(
            TASK,
            {side: list(own.values()) for side, own in sides.items()},
            episodes=config.episodes,
        ):
            names = {side: titles[side][row[side]] for side in sides}
            found.append({"seed": seed, **names} | {name: float(row[name]) for name in METRICS})
    return {"rows": found}


def matrix(rows: list[dict[str, Any]]) -> str:
    """A line for each team, a column for each adversary: agents' success / adversary's."""
    teams, adversaries = (list(dict.fromkeys(row[side] for row in rows)) for side in SCRIPTS)

    def cell(team: str, adversary: str) -> str:
        met = [row for row in rows if (row["good"], row["adversary"]) == (team, adversary)]
        return " / ".join(f"{mean(row[name] for row in met):.2f}" for name in METRICS)

    lines = [[team, *(cell(team, adversary) for adversary in adversaries)] for team in teams]
    return table(["agents", *adversaries], lines)


def texts(content: dict[str, Any]) -> dict[str, str]:
    """The matrix, and how it came about."""
    seeds = len(content["config"]["seeds"])
    note = (
        f"Share of episodes that end within 0.16 of the goal: agents / adversary. Mean over "
        f"{seeds} seed{'s' * (seeds > 1)} of {content['config']['episodes']} episodes each from "
        f"the same states, greedy. Made by {made_by(content)}."
    )
    return {"cross play": f"{matrix(content['rows'])}\n\n{note}"}


MEASUREMENT = Measurement("cross_play", measure, texts, page="docs/particles.md")

if __name__ == "__main__":
    MEASUREMENT.run(tyro.cli(Config))
