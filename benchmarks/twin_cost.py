"""What an update of TwinALITA costs, in percent of an update of TD3.

    python benchmarks/twin_cost.py                # measure, write the results and the table
    python benchmarks/twin_cost.py --quick        # fewer rounds; print, write nothing
    python benchmarks/twin_cost.py --report-only  # the table, from the results

The work is that of recipes/robots.py: batches of 256 transitions of one robot, 64 in a
conditional batch, two hidden layers of 256. The transitions are random numbers of the sizes of
Hopper, so that no simulator is needed; a figure is of an update alone, with the drawing of its
batches from a buffer and without the simulation. An update of TwinALITA is one of both its
agents.

The algorithms take turns, forwards and then backwards, after a round that does not count; a turn
is so many updates that everything moves equally often. Each figure is the median over the
rounds of the processor time of one thread, which other programs disturb least.

The results are results/twin_cost.json; the table stands between the markers of docs/pybullet.md.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal

import torch
import tyro
from pages import RESULTS, ROOT, table, versions, write_between
from tensordict import TensorDict
from torchrl.data import Bounded, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase

from torchrl_alita import SAC, TAC, TD3, TwinALITA
from torchrl_alita.algorithms import DDPG
from torchrl_alita.saving import machine
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
RESULT = "twin_cost.json"
# Even: every second update of TD3 moves its policy.
UPDATES = 20


@dataclass
class Config:
    """What to measure."""

    quick: bool = False
    """Two rounds and the first two algorithms; print, write nothing."""
    rounds: int = 5
    """Turns of each algorithm."""
    compile: bool = True
    """Measure compiled updates."""
    observation_size: int = 15
    """Of a robot; Hopper: 15."""
    action_size: int = 3
    """Of a robot; Hopper: 3."""
    stored: int = 100_000
    """Transitions in the buffer."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Of the networks and the buffer."""
    report_only: bool = False
    """Measure nothing, write the table from the results."""


class RandomRobot(EnvBase):
    """Random numbers in the layout of one robot, in episodes of 100 steps."""

    def __init__(self, observation_size: int, action_size: int, num_envs: int, device: str):
        super().__init__(device=device, batch_size=[num_envs])
        lead = (num_envs, 1)
        flag = Categorical(2, shape=lead, dtype=torch.bool)
        gather_agents = {
            "observation": Unbounded((*lead, observation_size)),
            "action": Bounded(-1, 1, shape=(*lead, action_size)),
            "reward": Unbounded((*lead, 1)),
        }
        for name, spec in gather_agents.items():
            whole = Composite(agents=Composite({name: spec}, shape=lead), shape=(num_envs,))
            setattr(self, f"{name}_spec", whole.to(device))
        flags = {name: flag.clone() for name in ("done", "terminated", "truncated")}
        self.done_spec = Composite(flags, shape=(num_envs,)).to(device)
        self.steps = 0

    def _set_seed(self, seed: int | None) -> None:
        torch.manual_seed(seed or 0)

    def _reset(self, tensordict: TensorDict | None = None) -> TensorDict:
        self.steps = 0
        return self.observation_spec.rand().update(self.done_spec.zero())

    def _step(self, tensordict: TensorDict) -> TensorDict:
        self.steps += 1
        ended = self.done_spec.zero()
        ended["done"] |= self.steps % 100 == 0
        ended["truncated"] |= self.steps % 100 == 0
        return self.observation_spec.rand().update(self.reward_spec.rand()).update(ended)


def updating(config: Config, name: str) -> Callable[[], None]:
    """Some updates of a variant, each with batches of its own."""
    torch.manual_seed(0)
    make, options = VARIANTS[name]
    env = RandomRobot(config.observation_size, config.action_size, 100, config.device)
    settings = make.Settings(
        compile=config.compile, buffer_size=config.stored, random_frames=0, **options
    )
    training = TrainingSettings(n_agents=1, num_envs=100, total_frames=config.stored)
    run = RunConfig(algorithm=settings, training=training)
    algorithm = run.build(env)
    buffers = Buffers(run, algorithm)
    steps = min(1_000, config.stored // 100)
    collected = algorithm.prepare(env).rollout(steps, break_when_any_done=False)
    while len(buffers.replay) < config.stored:
        buffers.extend(collected)

    def some_updates() -> None:
        for _ in range(UPDATES):
            algorithm.update(buffers.sample())
        if config.device == "cuda":
            torch.cuda.synchronize()

    return some_updates


def measure(config: Config) -> dict[str, dict[str, float]]:
    """Milliseconds of processor time, and of the clock, for an update of each variant."""
    names = list(VARIANTS)[: 2 if config.quick else None]
    calls = {name: updating(config, name) for name in names}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for turn in range(config.rounds + 1):
        for name in names if turn % 2 else reversed(names):
            start = time.process_time(), time.perf_counter()
            calls[name]()
            spent = time.process_time() - start[0], time.perf_counter() - start[1]
            # In the first round things are compiled.
            if turn:
                times[name].append(spent)
    found = {}
    for name, spent in times.items():
        processor, wall = (
            [1e3 * value / UPDATES for value in each] for each in zip(*spent, strict=True)
        )
        figures = {
            "processor_ms": median(processor),
            "processor_ms_min": min(processor),
            "processor_ms_max": max(processor),
            "wall_ms": median(wall),
        }
        found[name] = {key: round(value, 3) for key, value in figures.items()}
    base = found["TD3"]
    for row in found.values():
        row["percent_of_td3"] = round(100 * row["processor_ms"] / base["processor_ms"], 1)
        row["wall_percent_of_td3"] = round(100 * row["wall_ms"] / base["wall_ms"], 1)
    return found


def cost_table(updates: dict[str, dict[str, float]]) -> str:
    """A row for each algorithm."""
    rows = []
    for name, row in updates.items():
        middle, least, largest = (row[f"processor_ms{end}"] for end in ("", "_min", "_max"))
        spent = f"{middle:.1f} [{least:.1f}, {largest:.1f}]"
        rows.append([name, spent, f"{row['percent_of_td3']:.0f}"])
    return table(["algorithm", "update, ms of processor", "percent of TD3's"], rows)


def report() -> None:
    """Write the table of the results into the page."""
    content = json.loads((RESULTS / RESULT).read_text())
    config = content["config"]
    note = (
        f"Median [least, largest] of {config['rounds']} turns of {UPDATES} updates, one thread, "
        f"{'compiled' if config['compile'] else 'not compiled'}; observations of "
        f"{config['observation_size']} numbers, actions of {config['action_size']}. Made by "
        f"`{content['command']}`: {versions(content['machine'])}."
    )
    text = f"{cost_table(content['updates'])}\n\n{note}"
    write_between(ROOT / "docs" / "pybullet.md", "twin cost", text)


def main(config: Config) -> None:
    """Measure, print and write."""
    if config.report_only:
        report()
        return
    if config.quick:
        config.rounds = 2
    torch.set_num_threads(1)
    # Five algorithms share the functions of TwinALITA.
    torch._dynamo.config.recompile_limit = 64
    found = measure(config)
    print(cost_table(found))
    if config.quick:
        return
    content = {
        "command": "python benchmarks/twin_cost.py",
        "config": asdict(config),
        "updates": found,
        "machine": machine() | {"cpu": platform.processor() or platform.machine()},
    }
    (RESULTS / RESULT).write_text(json.dumps(content, indent=1) + "\n")
    report()


if __name__ == "__main__":
    main(tyro.cli(Config))
