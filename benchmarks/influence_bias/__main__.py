"""Make what is missing, then report."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
import tyro

from benchmarks.influence_bias import report as page
from benchmarks.influence_bias.games import compare_on_game, game_learner
from benchmarks.influence_bias.learner import costs, follow
from benchmarks.influence_bias.settings import GAMES, SPREAD, SPREAD_FULL
from benchmarks.influence_bias.spread import compare_on_spread, spread_learner, spread_truth
from benchmarks.pages import read_lines, set_line
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


def make(part: str, seed: int) -> tuple[str, dict[str, Any]]:
    """The name of a run, and what it leaves."""
    torch.set_num_threads(1)
    if part == "games":
        learner, compare = game_learner(seed, GAMES), compare_on_game
    else:
        learner = spread_learner(seed, SPREADS[part])
        compare = partial(compare_on_spread, truth_env=spread_truth(seed, SPREADS[part]))
    name = f"{part}-seed{seed}"
    say = lambda result: print(f"{name}: {len(result['points'])}", flush=True)  # noqa: E731
    command = f"python -m benchmarks.influence_bias --parts {part} --seeds {seed}"
    result = follow(learner, compare, say)
    return name, {"part": part, "seed": seed, "command": command, **result}


def make_costs() -> tuple[str, dict[str, Any]]:
    """The costs on both environments, from one random episode each."""
    torch.set_num_threads(1)
    content: dict[str, Any] = {"machine": machine()}
    builds = (("games", game_learner, GAMES), ("spread", spread_learner, SPREAD))
    for part, build, settings in builds:
        learner = build(0, replace(settings, episodes=1, warmup=1))
        learner.play()
        content[part] = costs(learner)
    return "costs", content


def main(config: Config) -> None:
    """Make what is missing, then report."""
    if not config.report_only:
        there = read_lines(page.RESULT)
        jobs = [
            partial(make, part, seed)
            for part in config.parts
            for seed in config.seeds or SEEDS[part]
            if f"{part}-seed{seed}" not in there
        ]
        jobs += [make_costs] * ("costs" not in there)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(config.workers, mp_context=context) as pool:
            for future in as_completed([pool.submit(job) for job in jobs]):
                set_line(page.RESULT, *future.result())
    page.report()


if __name__ == "__main__":
    main(tyro.cli(Config))
