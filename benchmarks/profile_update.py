"""Where the time of a training iteration goes, by algorithm, before a change and after it.

    python benchmarks/profile_update.py --label after   # measure this checkout, then report
    python benchmarks/profile_update.py --report-only   # the tables, from the results

The work is timing.WORK: an iteration collects 6,000 frames of vmas/spread in 60 environments,
stores them, and makes 60 updates of 1,024 transitions. It is an iteration of the training loop
itself, with a watch around the methods that it calls, and around those that an eager update
calls; what an update takes beyond its parts is the row "rest". A compiled update has no parts:
a second run has its whole update timed, the first one by itself, with nothing that the compiler
has kept.

The algorithms take turns, after a round that does not count. Each figure is the median over the
rounds, wall and processor time, in ms for each update; what is done once in an iteration is shared
out over its updates. Processor time is over all threads. It is the one to compare where other
programs keep the machine busy. Each label has its line in results/profile.jsonl; the tables stand
between the markers in docs/speed.md. The rows of November 24 had the parts of an update measured
on their own, so that their rest is negative where an update does at once what each does for itself.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from pages import RESULTS, ROOT, circumstances, made_by, read_lines, set_line, table, write_between
from timing import (
    ALGORITHMS,
    KINDS,
    WORK,
    Stopwatch,
    in_turns,
    restart_with_allocator,
    work_config,
)
from torch._inductor.utils import fresh_cache

from torchrl_alita.algorithms import Learner
from torchrl_alita.training.loop import Run, start

RESULT = RESULTS / "profile.jsonl"
PAGE = ROOT / "docs" / "speed.md"
LABELS = ("before", "after")
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


@dataclass
class Config:
    """What to measure."""

    label: Literal["before", "after"] = "after"
    """Of the figures of this run, in results/profile.jsonl and in the tables."""
    n_agents: int = 3
    """Agents."""
    rounds: int = 7
    """Iterations of each algorithm that count."""
    updates: int = WORK["updates"]
    """Of an iteration."""
    device: str = "cpu"
    """Of the simulation, the buffer and the networks."""
    threads: int = 1
    """Of torch."""
    write: bool = True
    """Into the results; else the tables are printed."""
    report_only: bool = False
    """Measure nothing, write the tables from the results."""

    @property
    def frames(self) -> int:
        """Collected in an iteration."""
        return self.updates * WORK["frames"] // WORK["updates"]


class TimedRun:
    """A training run whose stages are timed.

    Args:
        run: of the training loop.
        watch: gets the times.
        compiled: whether its updates have no parts.
    """

    def __init__(self, run: Run, watch: Stopwatch, *, compiled: bool):
        self.run, self.watch, self.compiled = run, watch, compiled
        self.batches = iter(run.collection)
        learner, buffers = run.learning.algorithm, run.learning.buffers
        if compiled:
            self.compilation = Stopwatch(run.config.training.device)
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
        update = learner.update

        def first(batches: Any) -> Any:
            learner.update = update
            self.watch.around(learner, "update", "update_compiled")
            with fresh_cache(), self.compilation("compilation"):
                return update(batches)

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


def measure(config: Config) -> dict[str, dict[str, Any]]:
    """Every algorithm's stages, in turns, ms for each update, and its first compiled update."""
    options = {
        "n_agents": config.n_agents,
        "device": config.device,
        "frames_per_batch": config.frames,
        "threads": config.threads,
    }
    watches = {name: Stopwatch(config.device) for name in ALGORITHMS}
    runs, compilation = {}, {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name in ALGORITHMS:
            for compiled in (False, True):
                chosen = work_config(
                    name, **options, algorithm__compile=compiled,
                    run_dir=folder / f"{name}_{compiled}",
                )  # fmt: skip
                run = stack.enter_context(start(chosen))
                timed = TimedRun(run, watches[name], compiled=compiled)
                runs.setdefault(name, []).append(timed)
        for turn, name in in_turns(runs, config.rounds + 1):
            for run in runs[name]:
                run.iterate()
            watches[name].close_round(per=config.updates, keep=turn > 0)
            print(f"round {turn} of {config.rounds}, {name}", file=sys.stderr, flush=True)
        for name, (_, compiled) in runs.items():
            seconds = compiled.compilation.running["compilation"]
            compilation[name] = dict(zip([f"{kind}_s" for kind in KINDS], seconds, strict=True))
    return {
        "stages": {name: watch.summary() for name, watch in watches.items()},
        "compilation": compilation,
    }


def completed(stages: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """The stages with what follows from them: the rest and the iterations."""
    full = {name: dict(entry) for name, entry in stages.items()}

    def combined(positive: tuple[str, ...], negative: tuple[str, ...] = ()) -> dict[str, float]:
        return {
            f"{kind}_ms": sum(full[name][f"{kind}_ms"] for name in positive if name in full)
            - sum(full[name][f"{kind}_ms"] for name in negative if name in full)
            for kind in KINDS
        }

    full["rest"] = combined(("update",), (*PARTS,))
    full["iteration"] = combined((*AROUND, "update"))
    if "update_compiled" in full:
        full["iteration_compiled"] = combined((*AROUND, "update_compiled"))
    return full


def faster(row: str, entries: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    """How many times faster a row has become, wall and processor."""
    before = entries["before"].get(row) or entries["before"].get(row.removesuffix("_compiled"))
    after = entries["after"].get(row)
    # A difference of two figures, as the rest is, has no meaningful ratio.
    if row == "rest" or not before or not after:
        return ["", ""]
    return [f"{before[f'{kind}_ms'] / after[f'{kind}_ms']:.2f}" for kind in KINDS]


def stage_table(entries: dict[str, dict[str, dict[str, float]]]) -> str:
    """One algorithm, the labels side by side, in Markdown."""
    entries = {label: completed(stages) for label, stages in entries.items()}
    both = len(entries) == len(LABELS)
    titles = ["ms for each update"]
    titles += [title for label in entries for title in (label, "share", "processor")]
    titles += ["times faster", "by processor"] if both else []
    rows = []
    for name, title in ROWS.items():
        if not any(name in stages for stages in entries.values()):
            continue
        whole = "iteration_compiled" if name.endswith("_compiled") else "iteration"
        cells = [title]
        for stages in entries.values():
            if name not in stages:
                cells += ["", "", ""]
                continue
            wall, processor = (stages[name][f"{kind}_ms"] for kind in KINDS)
            share = 100 * wall / stages[whole]["wall_ms"]
            cells += [f"{wall:.2f}", f"{share:.0f} %", f"{processor:.2f}"]
        rows.append([*cells, *(faster(name, entries) if both else [])])
    return table(titles, rows)


def notes(name: str, contents: dict[str, dict[str, Any]]) -> str:
    """What an iteration takes, and the first compiled update, in words."""
    iterations, compilations = [], []
    for label, content in contents.items():
        stages, updates = content["stages"][name], content["config"]["updates"]
        whole = completed(stages)["iteration"]["wall_ms"] * updates / 1e3
        collection = stages["collection"]["wall_ms"] * updates / 1e3
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


def report_text(contents: dict[str, dict[str, Any]]) -> str:
    """The tables of every algorithm, and how they came about."""
    texts = []
    for name, (title, *_) in ALGORITHMS.items():
        entries = {label: content["stages"][name] for label, content in contents.items()}
        texts.append(f"**{title}**\n\n{stage_table(entries)}\n\n{notes(name, contents)}")
    first = next(iter(contents.values()))["config"]
    made = ". ".join(f"{label.capitalize()}: {made_by(c)}" for label, c in contents.items())
    texts.append(
        f"N={first['n_agents']}, medians over {first['rounds']} rounds; the rest and the iterations "
        f"are sums of medians. Compiled rows have their share of the compiled iteration, and are "
        f"compared with the eager ones of before if it had none. {made}. "
        f"Figures with the least of each: benchmarks/results/profile.jsonl."
    )
    return "\n\n".join(texts)


def report() -> None:
    """Write the tables of the labels that are there into docs/speed.md.

    Raises:
        ValueError: if there is none.
    """
    found = read_lines(RESULT)
    contents = {label: found[label] for label in LABELS if label in found}
    if not contents:
        raise ValueError(f"{RESULT} holds no results; run without --report-only first.")
    write_between(PAGE, "profile", report_text(contents))


def main(config: Config) -> None:
    """Measure, print or write, and report."""
    if not config.report_only:
        restart_with_allocator()
        content = circumstances("profile_update.py", **asdict(config)) | measure(config)
        if not config.write:
            print(report_text({config.label: content}))
            return
        set_line(RESULT, config.label, content)
    report()


if __name__ == "__main__":
    main(tyro.cli(Config))
