"""Where the time of a training iteration goes, by algorithm, before a change and after it.

    python benchmarks/profile_update.py --label after   # measure this checkout, then report
    python benchmarks/profile_update.py --report-only   # the tables, from the results

An iteration of the training loop itself, with a watch around the methods that it calls, and around
those that an eager update calls; what an update takes beyond its parts is the row "rest". A second
run has its whole update compiled, and its first one timed by itself, with nothing that the compiler
has kept.

The algorithms take turns, after a round that does not count. Each figure is the median over the
rounds, in ms for each update; what is done once in an iteration is shared out over its updates.
The figures of November 24 had the parts of an update measured on their own, so that their rest is
negative where an update does at once what each does for itself.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pages
import torch
import tyro
from pages import Measurement, circumstances, made_by, table
from timing import ALGORITHMS, WORK, Stopwatch, in_turns, restart_with_allocator, work_config
from torch._inductor.utils import fresh_cache

from torchrl_alita.algorithms import Learner
from torchrl_alita.training.loop import Run, start

CLOCKS = ("wall_ms", "processor_ms")
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
    "update_compiled": "update, compiled",
    "iteration_compiled": "**iteration, compiled**",
}


@dataclass(kw_only=True)
class Config(pages.Config):
    """What to measure."""

    label: Literal["before", "after"] = "after"
    """Of the figures of this run; those of the other one stay."""
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
    """The figures of this label beside those of the other one."""
    restart_with_allocator()
    found = circumstances("profile_update.py", config) | measure_stages(config)
    return {"labels": MEASUREMENT.results()["labels"] | {config.label: found}}


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


Stages = dict[str, dict[str, float]]


def completed(stages: Stages) -> Stages:
    """The stages with what follows from them: the rest and the iterations."""

    def total(*names: str) -> dict[str, float]:
        there = [stages[name] for name in names if name in stages]
        return {clock: sum(stage[clock] for stage in there) for clock in CLOCKS}

    parts = total(*PARTS)
    rest = {clock: stages["update"][clock] - parts[clock] for clock in CLOCKS}
    full = {**stages, "rest": rest, "iteration": total(*AROUND, "update")}
    if "update_compiled" in stages:
        full["iteration_compiled"] = total(*AROUND, "update_compiled")
    return full


def faster(row: str, before: Stages, after: Stages) -> list[str]:
    """How many times faster a row has become, wall and processor."""
    first = before.get(row) or before.get(row.removesuffix("_compiled"))
    # A difference of two figures, as the rest is, has no meaningful ratio.
    if row == "rest" or not first or row not in after:
        return ["", ""]
    return [f"{first[clock] / after[row][clock]:.2f}" for clock in CLOCKS]


def stage_table(labels: dict[str, Stages]) -> str:
    """One algorithm, the labels side by side."""
    labels = {label: completed(stages) for label, stages in labels.items()}
    titles = ["ms for each update"]
    for label in labels:
        titles += [label, "share", "processor"]
    titles += ["times faster", "by processor"]
    rows = []
    for name, title in ROWS.items():
        whole = "iteration_compiled" if name.endswith("_compiled") else "iteration"
        cells = []
        for stages in labels.values():
            if name in stages:
                wall, processor = (stages[name][clock] for clock in CLOCKS)
                share = 100 * wall / stages[whole]["wall_ms"]
                cells += [f"{wall:.2f}", f"{share:.0f} %", f"{processor:.2f}"]
            else:
                cells += ["", "", ""]
        if any(cells):
            rows.append([title, *cells, *faster(name, *labels.values())])
    return table(titles, rows)


def notes(name: str, labels: dict[str, dict[str, Any]]) -> str:
    """What an iteration takes, and the first compiled update, in words."""
    iterations, compilations = [], []
    for label, content in labels.items():
        stages, updates = completed(content["stages"][name]), content["config"]["updates"]
        whole, collection = (
            stages[stage]["wall_ms"] * updates / 1e3 for stage in ("iteration", "collection")
        )
        iterations.append(f"{label}, {whole:.2f} s, {collection:.2f} s of them collection")
        if name in content["compilation"]:
            seconds = content["compilation"][name]["wall_s"]
            saved = stages["update"]["wall_ms"] - stages["update_compiled"]["wall_ms"]
            paid = f", made up for after {1e3 * seconds / saved:,.0f}" if saved > 0 else ""
            compilations.append(
                f" The first compiled update, {label}, takes {seconds:.0f} s where the compiler "
                f"has kept nothing{paid}."
            )
    return f"An iteration takes {'; '.join(iterations)}.{''.join(compilations)}"


def texts(content: dict[str, Any]) -> dict[str, str]:
    """The tables of every algorithm, and how they came about."""
    labels = content["labels"]
    parts = []
    for name, (title, *_) in ALGORITHMS.items():
        stages = {label: found["stages"][name] for label, found in labels.items()}
        parts.append(f"**{title}**\n\n{stage_table(stages)}\n\n{notes(name, labels)}")
    first = next(iter(labels.values()))["config"]
    made = ". ".join(f"{label.capitalize()}: {made_by(found)}" for label, found in labels.items())
    parts.append(
        f"N={first['n_agents']}, medians over {first['rounds']} rounds; the rest and the iterations "
        f"are sums of medians. Compiled rows have their share of the compiled iteration, and are "
        f"compared with the eager ones of before if it had none. {made}. "
        f"Figures with the least of each: benchmarks/results/profile_update.json."
    )
    return {"profile": "\n\n".join(parts)}


MEASUREMENT = Measurement("profile_update", measure, texts)

if __name__ == "__main__":
    MEASUREMENT.run(tyro.cli(Config))
