"""Where the time of a training iteration goes, by algorithm.

    python benchmarks/profile_update.py                # measure, write the results and the tables
    python benchmarks/profile_update.py --report-only  # the tables, from the results

An iteration of the training loop itself, with a watch around the methods that it calls, and around
those that an eager update calls; what an update takes beyond its parts is the row "rest". A second
run has its whole update compiled, and its first one timed by itself, with nothing that the compiler
has kept.

The algorithms take turns, after a round that does not count. Each figure is the median over the
rounds, in ms for each update; what is done once in an iteration is shared out over its updates.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pages
import torch
import tyro
from pages import Measurement, made_by, table
from timing import ALGORITHMS, WORK, Stopwatch, in_turns, restart_with_allocator, work_config
from torch._inductor.utils import fresh_cache

from torchrl_alita.algorithms import Learner
from torchrl_alita.training.loop import Run, start

CLOCK = "processor_ms"
PARTS = {
    "rewards": "intrinsic rewards",
    "maddpg_forward": "MADDPG loss, forward",
    "novelty_forward": "novelty loss, forward",
    "influence_forward": "influence loss, forward",
    "backward": "these losses, backward",
    "optimizers": "clipping and optimizers",
    "estimator_forward": "estimator loss, forward",
    "estimator_backward": "estimator loss, backward",
    "estimator_optimizer": "estimator, clipping and optimizer",
    "targets": "target updates",
    "rest": "rest",
}
AROUND = {
    "collection": "collection",
    "storing": "storing",
    "sampling": "sampling",
    "conditional": "conditional sampling",
    "checks": "checks and logging",
}
ROWS = {
    **AROUND,
    "update": "update",
    **{name: f"· {title}" for name, title in PARTS.items()},
    "iteration": "**iteration**",
}


@dataclass(kw_only=True)
class Config(pages.Config):
    """What to measure."""

    n_agents: int = 3
    """Agents."""
    rounds: int = 7
    """Iterations of each algorithm that count."""
    updates: int = WORK["updates"]
    """Of an iteration."""


class TimedRun:
    """A training run whose stages a watch times; a compiled one's updates have no parts."""

    def __init__(self, run: Run, watch: Stopwatch, *, compiled: bool):
        self.run, self.watch, self.compiled = run, watch, compiled
        self.batches = iter(run.collection)
        learner, buffers = run.learning.algorithm, run.learning.buffers
        self.first_update: tuple[float, float] | None = None
        if compiled:
            self._time_first(learner)
            return
        watch.around(buffers, "extend", "storing")
        for name, stream in buffers.streams.items():
            stage = "sampling" if stream.sampler is None else "conditional"
            watch.around(buffers.drawn[name], "sample", stage)
        watch.around(learner, "health", "checks")
        watch.around(learner, "update", "update")
        time_parts(learner, watch)

    def _time_first(self, learner: Learner) -> None:
        """The first update by itself, without what another process has compiled."""
        update, watch = learner.update, Stopwatch()

        def first(batches: Any) -> Any:
            learner.update = update
            self.watch.around(learner, "update", "update_compiled")
            with fresh_cache(), watch("update"):
                logs = update(batches)
            self.first_update = watch.running["update"]
            return logs

        learner.update = first

    def iterate(self) -> None:
        """Collect, store, update and log, as the loop does."""
        watch = nullcontext if self.compiled else self.watch
        with watch("collection"):
            collected = next(self.batches)
        with watch("checks"):
            logs = self.run.collection.explored(collected)
        logs |= self.run.learning.learn(collected)
        with watch("checks"):
            self.run.metrics.write({"frames": self.run.frames, **logs})


def time_parts(learner: Learner, watch: Stopwatch) -> None:
    """Put the watch around what an eager update calls."""
    watch.around(learner.maddpg, "forward", "maddpg_forward")
    watch.around(learner._gradient, "then", "backward")
    watch.around(learner, "_update_targets", "targets")
    if hasattr(learner, "novelty_loss"):
        watch.around(learner, "add_rewards", "rewards")
        watch.around(learner.novelty_loss, "forward", "novelty_forward")
        for influence in learner.influences:
            watch.around(influence, "forward", "influence_forward")
        for estimator in learner.estimators:
            watch.around(estimator, "forward", "estimator_forward")
            watch.around(estimator, "value_target", "estimator_forward")
        for _, gradient in learner._estimations.values():
            watch.around(gradient, "then", "estimator_backward")
    follow = learner._clip_and_step
    separate = [learner.optimizers[name] for name in learner.separate]

    def followed(optimizer: torch.optim.Optimizer) -> torch.Tensor:
        with watch("estimator_optimizer" if optimizer in separate else "optimizers"):
            return follow(optimizer)

    learner._clip_and_step = followed


def measure(config: Config) -> dict[str, Any]:
    """Every figure."""
    restart_with_allocator()
    return measure_stages(config)


def measure_stages(config: Config) -> dict[str, dict[str, Any]]:
    """Every algorithm's stages, in turns, ms for each update, and its first compiled update."""
    options = {
        "n_agents": config.n_agents,
        "frames_per_batch": config.updates * WORK["frames"] // WORK["updates"],
        "threads": config.threads,
    }
    watches = {name: Stopwatch() for name in ALGORITHMS}
    runs: dict[str, list[TimedRun]] = {name: [] for name in ALGORITHMS}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name in ALGORITHMS:
            for compiled in (False, True):
                options["run_dir"] = folder / f"{name}_{compiled}"
                run = stack.enter_context(
                    start(work_config(name, **options, algorithm__compile=compiled))
                )
                runs[name].append(TimedRun(run, watches[name], compiled=compiled))
        for turn, name in in_turns(runs, config.rounds + 1):
            for run in runs[name]:
                run.iterate()
            watches[name].close_round(per=config.updates, keep=turn > 0)
            print(f"round {turn} of {config.rounds}, {name}", file=sys.stderr, flush=True)
    compilation = {
        name: dict(zip(("wall_s", "processor_s"), compiled.first_update, strict=True))
        for name, (_, compiled) in runs.items()
    }
    stages = {name: watch.summary() for name, watch in watches.items()}
    return {"stages": stages, "compilation": compilation}


def completed(stages: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Eager and compiled columns, ms by processor, with what follows from the stages."""
    found = {name: stage[CLOCK] for name, stage in stages.items()}
    around = {name: found[name] for name in AROUND if name in found}
    parts = {name: found[name] for name in PARTS if name in found}
    columns = {
        "eager": around | parts | {"update": found["update"]},
        "compiled": around | {"update": found["update_compiled"]},
    }
    columns["eager"]["rest"] = found["update"] - sum(parts.values())
    for column in columns.values():
        column["iteration"] = sum(around.values()) + column["update"]
    return columns


def stage_table(stages: dict[str, dict[str, float]]) -> str:
    """One algorithm, eager and compiled."""
    columns = completed(stages)
    titles = ["ms for each update"]
    for name in columns:
        titles += [name, "share"]
    rows = []
    for name, title in ROWS.items():
        cells = []
        for column in columns.values():
            share = 100 * column.get(name, 0.0) / column["iteration"]
            cells += [f"{column[name]:.2f}", f"{share:.0f} %"] if name in column else ["", ""]
        if any(cells):
            rows.append([title, *cells])
    return table(titles, rows)


def note(stages: dict[str, dict[str, float]], compilation: dict[str, float]) -> str:
    """What the first compiled update takes, in words."""
    eager, compiled = (column["update"] for column in completed(stages).values())
    seconds = compilation["wall_s"]
    saved = eager - compiled
    paid = f", made up for after {1e3 * seconds / saved:,.0f}" if saved > 0 else ""
    return (
        f"The first compiled update takes {seconds:.0f} s where the compiler has kept "
        f"nothing{paid}."
    )


def texts(content: dict[str, Any]) -> dict[str, str]:
    """The tables of every algorithm, and how they came about."""
    parts = []
    for name, (title, *_) in ALGORITHMS.items():
        stages, compilation = content["stages"][name], content["compilation"][name]
        parts.append(f"**{title}**\n\n{stage_table(stages)}\n\n{note(stages, compilation)}")
    config = content["config"]
    parts.append(
        f"N={config['n_agents']}, processor time, medians over {config['rounds']} rounds; the rest "
        f"and the iterations are sums of medians. Made by {made_by(content)}. Wall time and the "
        f"least of each: benchmarks/results/profile_update.json."
    )
    return {"profile": "\n\n".join(parts)}


MEASUREMENT = Measurement("profile_update", measure, texts)

if __name__ == "__main__":
    MEASUREMENT.run(tyro.cli(Config))
