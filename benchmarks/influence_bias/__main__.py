"""Make what is missing, then report."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import tyro

from benchmarks.influence_bias import report as page
from benchmarks.influence_bias.games import compare_on_game, game_learner
from benchmarks.influence_bias.learner import costs, follow
from benchmarks.influence_bias.settings import GAMES, SPREAD, SPREAD_FULL
from benchmarks.influence_bias.spread import compare_on_spread, spread_learner, spread_truth
from benchmarks.pages import add_missing
from torchrl_alita.saving import machine

SEEDS = {"games": tuple(range(8)), "spread": (0, 1), "spread_full": tuple(range(8))}
SPREADS = {"spread": SPREAD, "spread_full": SPREAD_FULL}


@dataclass
class Config:
    """Which runs to make."""

    parts: tuple[Literal["games", "spread", "spread_full"], ...] = ("games", "spread")
    """What to run; spread_full is as long as in the paper, and is reported in place of spread."""
    seeds: tuple[int, ...] | None = None
    """Default: eight, two of spread."""
    workers: int = 2
    """Runs side by side, each with one thread."""
    report_only: bool = False
    """Run nothing, report what is there."""


def make(part: str, seed: int) -> dict[str, Any]:
    """What a run leaves."""
    if part == "games":
        learner, compare = game_learner(seed, GAMES), compare_on_game
    else:
        learner = spread_learner(seed, SPREADS[part])
        compare = partial(compare_on_spread, truth_env=spread_truth(seed, SPREADS[part]))
    command = f"python -m benchmarks.influence_bias --parts {part} --seeds {seed}"
    return {"part": part, "seed": seed, "command": command, **follow(learner, compare)}


def make_costs() -> dict[str, Any]:
    """The costs on both environments, from one random episode each."""
    content: dict[str, Any] = {"machine": machine()}
    for part, build, settings in (
        ("games", game_learner, GAMES),
        ("spread", spread_learner, SPREAD),
    ):
        learner = build(0, replace(settings, episodes=1, warmup=1))
        learner.play()
        content[part] = costs(learner)
    return content


def main(config: Config) -> None:
    """Make what is missing, then report."""
    if not config.report_only:
        jobs = {
            f"{part}-seed{seed}": partial(make, part, seed)
            for part in config.parts
            for seed in config.seeds or SEEDS[part]
        }
        add_missing(page.RESULT, {**jobs, "costs": make_costs}, config.workers)
    page.report()


if __name__ == "__main__":
    main(tyro.cli(Config))
