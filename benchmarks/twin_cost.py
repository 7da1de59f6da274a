"""What an update of TwinALITA costs, in percent of an update of TD3.

    python benchmarks/twin_cost.py                # measure, write the results and the table
    python benchmarks/twin_cost.py --report-only  # the table, from the results

The work is that of recipes/robots.py: batches of 256 transitions of one robot, 64 in a
conditional batch, two hidden layers of 256. The transitions are those of random actions, stored
again and again; a figure is of an update alone, with the drawing of its batches from a buffer and
without the simulation. An update of TwinALITA is one of both its agents.

The algorithms take turns; a turn is so many updates that everything moves equally often. Each
figure is the median over the rounds of the processor time of one thread, which other programs
disturb least.

The results are results/twin_cost.json; the table stands between the markers of docs/pybullet.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
import tyro
from pages import RESULTS, ROOT, circumstances, made_by, table, write_between
from timing import take_turns

from torchrl_alita import SAC, TAC, TD3, TwinALITA
from torchrl_alita.algorithms import DDPG
from torchrl_alita.envs import make_env
from torchrl_alita.layout import layout_of
from torchrl_alita.training import Config as RunConfig
from torchrl_alita.training import TrainingSettings
from torchrl_alita.training.buffers import Buffers

PUBLISHED = {
    "form": "published",
    "novelty_coeff": 0.05,
    "diversity_coeff": 0.05,
    "estimator": "marginal",
    "optimum": "td_target",
}
VARIANTS: dict[str, tuple[Callable, dict[str, Any]]] = {
    "TD3": (TD3, {}),
    "TwinALITA": (TwinALITA, {}),
    "TwinALITA, marginal": (TwinALITA, {"estimator": "marginal"}),
    "TwinALITA, No F": (TwinALITA, {"influence_coeff": 0.0}),
    "TwinALITA, No IM": (TwinALITA, {"novelty_coeff": 0.0, "diversity_coeff": 0.0}),
    "TwinALITA, published": (TwinALITA, PUBLISHED),
    "DDPG": (DDPG, {"num_cells": (256, 256), "layer_norm": False}),
    "SAC": (SAC, {}),
    "TAC": (TAC, {}),
}
RESULT = RESULTS / "twin_cost.json"
# Even: every second update of TD3 moves its policy.
UPDATES = 20


@dataclass
class Config:
    """What to measure."""

    rounds: int = 5
    """Turns of each algorithm."""
    compile: bool = True
    """Measure compiled updates."""
    task: str = "pybullet/HopperBulletEnv-v0"
    """Whose observations and actions the networks have."""
    stored: int = 100_000
    """Transitions in the buffer."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Of the networks and the buffer."""
    report_only: bool = False
    """Measure nothing, write the table from the results."""


def updating(config: Config, name: str) -> Callable[[], None]:
    """Some updates of a variant, each with batches of its own."""
    torch.manual_seed(0)
    make, options = VARIANTS[name]
    env = make_env(config.task, num_envs=1, n_agents=1, device=config.device, seed=0)
    settings = make.Settings(
        compile=config.compile, buffer_size=config.stored, random_frames=0, **options
    )
    training = TrainingSettings(n_agents=1, num_envs=1, total_frames=config.stored)
    run = RunConfig(algorithm=settings, training=training)
    learner = run.build(env)
    buffers = Buffers(run, learner)
    collected = learner.prepare(env).rollout(1_000, break_when_any_done=False)
    while len(buffers.replay) < config.stored:
        buffers.extend(collected)

    def some_updates() -> None:
        for _ in range(UPDATES):
            learner.update(buffers.sample())

    return some_updates


def cost_table(updates: dict[str, dict[str, float]]) -> str:
    """A row for each algorithm."""
    rows = []
    for name, row in updates.items():
        middle, least, largest = (row[f"processor_ms{end}"] for end in ("", "_min", "_max"))
        percent = 100 * middle / updates["TD3"]["processor_ms"]
        rows.append([name, f"{middle:.1f} [{least:.1f}, {largest:.1f}]", f"{percent:.0f}"])
    return table(["algorithm", "update, ms of processor", "percent of TD3's"], rows)


def report() -> None:
    """Write the table of the results into the page."""
    content = json.loads(RESULT.read_text())
    config = content["config"]
    note = (
        f"Median [least, largest] of {config['rounds']} turns of {UPDATES} updates, "
        f"{'compiled' if config['compile'] else 'not compiled'}; observations of "
        f"{config['observation_size']} numbers, actions of {config['action_size']}. Made by "
        f"{made_by(content)}."
    )
    text = f"{cost_table(content['updates'])}\n\n{note}"
    write_between(ROOT / "docs" / "pybullet.md", "twin cost", text)


def main(config: Config) -> None:
    """Measure, write and report."""
    if not config.report_only:
        torch.set_num_threads(1)
        # Five algorithms share the functions of TwinALITA.
        torch._dynamo.config.recompile_limit = 64
        calls = {name: updating(config, name) for name in VARIANTS}
        found = take_turns(calls, config.rounds, device=config.device, per=UPDATES)
        sizes = layout_of(make_env(config.task, num_envs=1, n_agents=1))
        settings = asdict(config) | {
            name: getattr(sizes, name) for name in ("observation_size", "action_size")
        }
        content = circumstances("twin_cost.py", **settings) | {"updates": found}
        RESULT.write_text(json.dumps(content, indent=1) + "\n")
    report()


if __name__ == "__main__":
    main(tyro.cli(Config))
