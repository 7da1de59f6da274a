"""What an update and a million frames of a battle cost, for each method of Figure 3.

    python benchmarks/battle_cost.py                # measure, write the results and the table
    python benchmarks/battle_cost.py --report-only  # the table, from the results

Each method is trained as recipes/starcraft.py trains it, or with its own settings where the recipe
has none, all with the recipe's environments and batches. An iteration of the training loop collects
a batch and makes its updates. Methods take turns; each figure is the median over the turns of the
processor time of all threads, which other programs disturb least. Updates are not compiled, so that
no method pays for its compilation.
"""

from __future__ import annotations

import runpy
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import pages
import tyro
from pages import ROOT, Measurement, made_by, table
from studies import smax
from timing import NEVER, Stopwatch, restart_with_allocator

from torchrl_alita.algorithms import get_algorithm
from torchrl_alita.training import Config as RunConfig
from torchrl_alita.training.loop import Run, start

RECIPE = runpy.run_path(str(ROOT / "recipes" / "starcraft.py"))
MILLION = 1_000_000
# Of each method that stores: what is drawn costs the same from a larger one.
BUFFER = 20_000
# As the study has it.
EITI, CRITIC_EACH = (
    {name.removeprefix("algorithm."): value for name, value in settings.items()}
    for settings in (smax.EITI, smax.CRITIC_EACH)
)
# Name, algorithm, and what differs from its settings.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "QMIX": ("qmix", {}),
    "VDN": ("vdn", {}),
    "IQL": ("iql", {}),
    "MAVEN": ("maven", {}),
    "MAVEN, hierarchical": ("maven", {"latent_policy": "hierarchical"}),
    "MADDPG": ("maddpg", {}),
    "MADDPG, a critic for each agent": ("maddpg", CRITIC_EACH),
    "ALITA": ("alita", {}),
    "ALITA, a critic for each agent": ("alita", CRITIC_EACH),
    "ALITA, learned weights": ("alita", {"weights": "attention"}),
    "ALITA, symmetric": ("alita", {"influencers": "all"}),
    "COMA": ("coma", {}),
    "LIIR": ("liir", {}),
    "LICA": ("lica", {}),
    "IPPO": ("ippo", {}),
    "MAPPO": ("mappo", {}),
    "EITI": ("on_policy_alita", EITI),
    "EDTI": ("on_policy_alita", EITI | {"transition_values": True}),
}


@dataclass(kw_only=True)
class Config(pages.Config):
    """What to measure."""

    task: str = "smax/2s3z"
    """The battle."""
    seconds: float = 20.0
    """Processor time of each method, after its first updates."""
    rounds: int = 3
    """Least turns of each method."""


def run_config(config: Config, name: str, folder: Path) -> RunConfig:
    """An endless run of a method that evaluates and saves nothing."""
    algorithm, changes = METHODS[name]
    known = RECIPE["defaults"](config.task)
    settings = known[algorithm].algorithm if algorithm in known else None
    settings = settings or get_algorithm(algorithm).Settings()
    eager = {
        option: value
        for option, value in (("compile", False), ("buffer_size", BUFFER))
        if hasattr(settings, option)
    }
    training = replace(
        RECIPE["TRAINING"], total_frames=NEVER, evaluation_interval=NEVER, checkpoint_interval=NEVER,
        evaluation_episodes=1, progress=False, threads=config.threads, run_dir=folder / name,
    )  # fmt: skip
    return RunConfig(
        task=config.task, training=training, algorithm=replace(settings, **eager, **changes)
    )


class TimedRun:
    """A run whose iterations a watch times, and the updates in them."""

    def __init__(self, run: Run):
        self.run, self.watch = run, Stopwatch()
        self.batches = iter(run.collection)
        self.watch.around(run.learning.algorithm, "update", "update")
        # What sequences need before the first update, and what optimizers make at it.
        while not run.learning.progress["updates"]:
            self.iterate(keep=False)

    def iterate(self, *, keep: bool = True) -> float:
        """Collect and learn, as the loop does; the seconds of processor."""
        before = self.run.learning.progress["updates"]
        with self.watch("iteration"):
            collected = next(self.batches)
            self.run.collection.explored(collected)
            self.run.learning.learn(collected)
        _, seconds = self.watch.running["iteration"]
        self.updates = self.run.learning.progress["updates"] - before
        self.watch.close_round(per=1, keep=keep)
        return seconds

    def figures(self) -> dict[str, float]:
        """Seconds of processor: an update, and of a million frames its parts."""
        whole, updates = (
            [seconds for _, seconds in self.watch.rounds[stage]]
            for stage in ("iteration", "update")
        )
        batches = MILLION / self.run.config.training.frames_per_batch
        return {
            "updates": batches * self.updates,
            "update_s": median(updates) / self.updates,
            "update_s_min": min(updates) / self.updates,
            "update_s_max": max(updates) / self.updates,
            "million_updates_s": batches * median(updates),
            "million_s": batches * median(whole),
            "turns": len(whole),
        }


def measure(config: Config) -> dict[str, Any]:
    """Every method, in turns, each for as long as asked."""
    restart_with_allocator()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        runs = {}
        for name in METHODS:
            runs[name] = TimedRun(stack.enter_context(start(run_config(config, name, folder))))
            print(f"{name} has begun", file=sys.stderr, flush=True)
        spent = dict.fromkeys(runs, 0.0)
        turn = 0
        while turn < config.rounds or min(spent.values()) < config.seconds:
            for name in list(runs) if turn % 2 == 0 else reversed(runs):
                if turn < config.rounds or spent[name] < config.seconds:
                    spent[name] += runs[name].iterate()
            turn += 1
        return {"methods": {name: run.figures() for name, run in runs.items()}}


def cost_table(methods: dict[str, dict[str, float]]) -> str:
    """A row for each method."""
    rows = []
    for name, row in methods.items():
        least, middle, largest = (1e3 * row[f"update_s{end}"] for end in ("_min", "", "_max"))
        times = row["million_s"] / methods["QMIX"]["million_s"]
        rows.append([
            name, f"{middle:.0f} [{least:.0f}, {largest:.0f}]", f"{row['updates']:,.0f}",
            f"{row['million_updates_s']:,.0f}", f"{row['million_s']:,.0f}", f"{times:.1f}",
        ])  # fmt: skip
    titles = [
        "method", "an update, ms", "updates", "their seconds", "a million frames, seconds",
        "times QMIX",
    ]  # fmt: skip
    return table(titles, rows)


def texts(content: dict[str, Any]) -> dict[str, str]:
    """The table, and how it came about."""
    config = content["config"]
    note = (
        f"{config['task']}, processor time. An update: median [least, largest] of the turns of one "
        f"batch, at least {config['rounds']} and {config['seconds']:g} seconds for each method; not "
        f"compiled. Updates and seconds are of a million frames; the last but one column has the "
        f"battles too, without evaluations and checkpoints. Made by {made_by(content)}."
    )
    return {"battle cost": f"{cost_table(content['methods'])}\n\n{note}"}


MEASUREMENT = Measurement("battle_cost", measure, texts, page="docs/starcraft.md")

if __name__ == "__main__":
    MEASUREMENT.run(tyro.cli(Config))
