"""What an update of TwinALITA costs, in percent of an update of TD3.

    python benchmarks/twin_cost.py                # measure, write the results and the table
    python benchmarks/twin_cost.py --report-only  # the table, from the results

The work is that of recipes/robots.py, on the transitions of random actions, stored again and again;
a figure is of an update alone, with the drawing of its batches and without the simulation. An update
of TwinALITA is one of both its agents. The algorithms take turns; each figure is the median over the
rounds of the processor time of one thread, which other programs disturb least.
"""

from __future__ import annotations

import runpy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pages
import torch
import tyro
from pages import Measurement, made_by, table
from studies.spread import NO_F, NO_IM
from timing import filled, take_turns

from torchrl_alita.envs import make_env
from torchrl_alita.layout import layout_of
from torchrl_alita.training import make_config

RECIPE = runpy.run_path(str(pages.ROOT / "recipes" / "robots.py"))["SETTINGS"]
TWIN = "twin_alita"
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "TD3": ("td3", {}),
    "TwinALITA": (TWIN, {}),
    "TwinALITA, marginal": (TWIN, {"algorithm.estimator": "marginal"}),
    "TwinALITA, No F": (TWIN, NO_F),
    "TwinALITA, No IM": (TWIN, NO_IM),
    "TwinALITA, published": (TWIN, {"preset": "published"}),
    "DDPG": ("ddpg", {}),
    "SAC": ("sac", {}),
    "TAC": ("tac", {}),
}
# Even: every second update of TD3 moves its policy.
UPDATES = 20


@dataclass(kw_only=True)
class Config(pages.Config):
    """What to measure."""

    rounds: int = 5
    """Turns of each algorithm."""
    compile: bool = True
    """Measure compiled updates."""
    task: str = "pybullet/HopperBulletEnv-v0"
    """Whose observations and actions the networks have."""
    stored: int = 100_000
    """Transitions in the buffer."""


def updating(config: Config, name: str) -> Callable[[], None]:
    """Some updates of a variant, each with batches of its own."""
    torch.manual_seed(0)
    algorithm, options = VARIANTS[name]
    options = {
        "num_envs": 1, "total_frames": config.stored, "algorithm.random_frames": 0,
        "algorithm.buffer_size": config.stored, "algorithm.compile": config.compile, **options,
    }  # fmt: skip
    preset = options.pop("preset", None)
    # The recipe's settings, of which those of DDPG are not the package's.
    own = {} if preset else {f"algorithm.{k}": v for k, v in vars(RECIPE[algorithm]).items()}
    run = make_config(algorithm, config.task, own | options, preset=preset)
    env = make_env(config.task, num_envs=1, n_agents=1, seed=0)
    learner = run.build(env)
    collected = learner.prepare(env).rollout(1_000, break_when_any_done=False)
    buffers = filled(run, learner, collected)

    def some_updates() -> None:
        for _ in range(UPDATES):
            learner.update(buffers.sample())

    return some_updates


def measure(config: Config) -> dict[str, Any]:
    """Updates of every variant, in turns, and the sizes of what they read and write."""
    # Five algorithms share the functions of TwinALITA.
    torch._dynamo.config.recompile_limit = 64
    calls = {name: updating(config, name) for name in VARIANTS}
    found = take_turns(calls, config.rounds, per=UPDATES)
    sizes = layout_of(make_env(config.task, num_envs=1, n_agents=1))._asdict()
    return {"sizes": sizes, "updates": found}


def cost_table(updates: dict[str, dict[str, float]]) -> str:
    """A row for each algorithm."""
    rows = []
    for name, row in updates.items():
        middle, least, largest = (row[f"processor_ms{end}"] for end in ("", "_min", "_max"))
        percent = 100 * middle / updates["TD3"]["processor_ms"]
        rows.append([name, f"{middle:.1f} [{least:.1f}, {largest:.1f}]", f"{percent:.0f}"])
    return table(["algorithm", "update, ms of processor", "percent of TD3's"], rows)


def texts(content: dict[str, Any]) -> dict[str, str]:
    """The table, and how it came about."""
    config, sizes = content["config"], content["sizes"]
    note = (
        f"Median [least, largest] of {config['rounds']} turns of {UPDATES} updates, "
        f"{'compiled' if config['compile'] else 'not compiled'}; observations of "
        f"{sizes['observation_size']} numbers, actions of {sizes['action_size']}. Made by "
        f"{made_by(content)}."
    )
    return {"twin cost": f"{cost_table(content['updates'])}\n\n{note}"}


MEASUREMENT = Measurement("twin_cost", measure, texts, page="docs/pybullet.md")

if __name__ == "__main__":
    MEASUREMENT.run(tyro.cli(Config))
