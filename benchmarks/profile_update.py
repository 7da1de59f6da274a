"""Where the time of a training iteration goes, by algorithm, before a change and after it.

    python benchmarks/profile_update.py --label after   # measure this checkout, then report
    PYTHONPATH=/path/to/an/older/checkout python benchmarks/profile_update.py --label before
    python benchmarks/profile_update.py --report-only   # the tables, from the results

The work is that of throughput.py: an iteration collects 6,000 frames of vmas/spread in 60
environments, stores them, and makes 60 updates of 1,024 transitions. It runs as
training/loop.py runs it, and a watch stands around each of its parts. The watch cannot look into
an update, and a compiled one has no parts. So the parts of an update are measured on their own:
the same calls in the same order, out of ``algorithm.update``, with the watch around each. What an
update takes beyond their sum is the row "rest"; it is negative where the update shares work
between its parts. Where the algorithm takes ``compile``, a second one is compiled and its whole
update measured on its own batches; its first update starts with nothing that the compiler kept.

The algorithms take turns, forwards and then backwards, after a round that does not count. Each
figure is the median over the rounds, wall and processor time, in ms for each update; what is
done once in an iteration is shared out over its updates. Processor time is over all threads. It
is the one to compare where other programs keep the machine busy.

The script needs only public names that the package has had since its first algorithms, so that
PYTHONPATH may point at an older checkout. It starts itself again with the Makefile's settings of
the allocator where they are missing. Each label has its line in results/profile.jsonl; the tables
stand between the markers in docs/speed.md.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
import tyro
from pages import RESULTS, ROOT, read_lines, set_line, table, write_between
from tensordict import TensorDictBase
from tensordict.nn import TensorDictSequential
from throughput import ALLOCATOR, WORK
from torch import nn
from torch._inductor.utils import fresh_cache
from torchrl.collectors import Collector
from torchrl.envs import EnvBase
from torchrl.modules import AdditiveGaussianModule, EGreedyModule

import torchrl_alita
from torchrl_alita.algorithms import ALITA, MADDPG, get_algorithm
from torchrl_alita.envs import make_env
from torchrl_alita.layout import ACTION, DONE, REWARD, next_key
from torchrl_alita.metrics import exploration_metrics
from torchrl_alita.saving import machine
from torchrl_alita.training import Config as RunConfig
from torchrl_alita.training import TrainingSettings
from torchrl_alita.training.buffers import Buffers
from torchrl_alita.training.learning import check_finite
from torchrl_alita.training.logging import MetricsFile

RESULT = RESULTS / "profile.jsonl"
PAGE = ROOT / "docs" / "speed.md"
LABELS = ("before", "after")
ALGORITHMS = {
    "maddpg": ("MADDPG", {"algorithm": "maddpg"}),
    "ddpg": ("DDPG", {"algorithm": "ddpg"}),
    "alita": ("ALITA, marginal", {"algorithm": "alita"}),
    "alita_clones": ("ALITA, clones", {"algorithm": "alita", "estimator": "clones"}),
}
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
KINDS = ("wall", "processor")
NO_END = 10**12
SHORTEST_TURN = 0.2
FRAMES_PER_UPDATE = WORK["frames"] // WORK["updates"]


@dataclass
class Config:
    """What to measure."""

    label: Literal["before", "after"] = "after"
    """Of the figures of this run, in results/profile.jsonl and in the tables."""
    quick: bool = False
    """Two rounds of 12 updates; print, write nothing."""
    n_agents: int = 3
    """Agents."""
    rounds: int = 7
    """Iterations of each algorithm that count; quick: 2."""
    updates: int = WORK["updates"]
    """Of an iteration; quick: 12."""
    device: str = "cpu"
    """Of the simulation, the buffer and the networks."""
    threads: int | None = None
    """Of torch. Default: torch's choice."""
    report_only: bool = False
    """Measure nothing, write the tables from the results."""

    def __post_init__(self):
        if self.quick:
            self.rounds, self.updates = 2, 12
        if min(self.rounds, self.updates) < 1:
            raise ValueError(
                f"rounds and updates must be at least 1, got {self.rounds}, {self.updates}."
            )
        if self.frames % WORK["num_envs"]:
            raise ValueError(
                f"updates, each of {FRAMES_PER_UPDATE} frames, must make whole steps of "
                f"{WORK['num_envs']} environments, got {self.updates}."
            )

    @property
    def frames(self) -> int:
        """Collected in an iteration."""
        return self.updates * FRAMES_PER_UPDATE


class Stopwatch:
    """Wall and processor seconds of named stages, added up until a round is closed.

    Args:
        device: that is waited for before each look at the clocks.
    """

    def __init__(self, device: str = "cpu"):
        on_gpu = torch.device(device).type == "cuda"
        self.wait: Callable[[], None] = torch.cuda.synchronize if on_gpu else lambda: None
        self.rounds: dict[str, list[tuple[float, float]]] = {}
        self.running: dict[str, tuple[float, float]] = {}

    def now(self) -> tuple[float, float]:
        self.wait()
        return time.perf_counter(), time.process_time()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add what happens inside to a stage."""
        started = self.now()
        yield
        wall, processor = (b - a for a, b in zip(started, self.now(), strict=True))
        so_far = self.running.get(stage, (0.0, 0.0))
        self.running[stage] = (so_far[0] + wall, so_far[1] + processor)

    def close_round(self, *, per: int, keep: bool = True) -> None:
        """End a round; its sums are divided, as by the number of updates, and kept or not."""
        for stage, (wall, processor) in self.running.items():
            if keep:
                self.rounds.setdefault(stage, []).append((wall / per, processor / per))
        self.running = {}


def unwatched(stage: str) -> AbstractContextManager[None]:
    """In place of a watch where a stage is not timed."""
    return nullcontext()


def summary(rounds: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Median and least of wall and processor time, seconds to ms."""
    entry = {}
    for kind, seconds in zip(KINDS, zip(*rounds, strict=True), strict=True):
        entry[f"{kind}_ms"] = round(1e3 * median(seconds), 4)
        entry[f"{kind}_ms_min"] = round(1e3 * min(seconds), 4)
    return entry


def take_turns(
    calls: dict[str, Callable[[], Any]], rounds: int, device: str = "cpu"
) -> dict[str, dict[str, float]]:
    """Time calls in turns, forwards and then backwards, so that the load meets all alike.

    Args:
        calls: what to time, by name; each runs twice untimed before.
        rounds: turns of each; a turn repeats a short call until it takes 0.2 s.
        device: that is waited for.

    Returns:
        The :func:`summary` of each.
    """
    watches = {name: Stopwatch(device) for name in calls}
    repeats = {}
    for name, call in calls.items():
        call()
        with watches[name]("turn"):
            call()
        seconds, _ = watches[name].running["turn"]
        repeats[name] = max(1, math.ceil(SHORTEST_TURN / seconds))
        watches[name].close_round(per=1, keep=False)
    for turn in range(rounds):
        for name in list(calls) if turn % 2 == 0 else reversed(calls):
            with watches[name]("turn"):
                for _ in range(repeats[name]):
                    calls[name]()
            watches[name].close_round(per=repeats[name])
    return {name: summary(watch.rounds["turn"]) for name, watch in watches.items()}


def settings(algorithm: str, *, compiled: bool = False, **options: Any) -> RunConfig:
    """The config of a run on the work of throughput.py, eager unless it is said.

    Args:
        algorithm: a name in ``ALGORITHMS``.
        compiled: compile the updates.
        **options: of the training or the algorithm, in place of that work's; what only other
            algorithms have is left out.
    """
    chosen = {
        "num_envs": WORK["num_envs"],
        "n_agents": 3,
        "horizon": WORK["horizon"],
        "total_frames": NO_END,
        "frames_per_batch": WORK["frames"],
        "frames_per_update": FRAMES_PER_UPDATE,
        "batch_size": WORK["batch_size"],
        "conditional_batch_size": WORK["batch_size"],
        "buffer_size": WORK["buffer_size"],
        "num_cells": WORK["num_cells"],
        **ALGORITHMS[algorithm][1],
        "compile": compiled,
        **options,
    }
    kind = get_algorithm(chosen.pop("algorithm"))
    own, training = (
        {f.name for f in dataclasses.fields(part)} for part in (kind.Settings, TrainingSettings)
    )
    return RunConfig(
        task="vmas/spread",
        training=TrainingSettings(**{k: v for k, v in chosen.items() if k in training}),
        algorithm=kind.Settings(**{k: v for k, v in chosen.items() if k in own}),
    )


def task_env(config: RunConfig) -> EnvBase:
    """The environment of a config."""
    return make_env(
        config.task,
        num_envs=config.training.num_envs,
        n_agents=config.training.n_agents,
        device=config.training.device,
        seed=config.training.seed,
        horizon=config.training.horizon,
    )


def collected_batches(
    config: RunConfig, env: EnvBase, algorithm: MADDPG
) -> Iterator[TensorDictBase]:
    """Batches ``[B, T]`` of the noisy policies without end, as the training loop gets them."""
    common = {
        "spec": algorithm.action_spec,
        "annealing_num_steps": config.algorithm.noise_frames,
        "action_key": ACTION,
        "device": algorithm.device,
    }
    start, end = config.algorithm.noise_start, config.algorithm.noise_end
    noise = (
        EGreedyModule(eps_init=start, eps_end=end, **common)
        if algorithm.layout.discrete
        else AdditiveGaussianModule(sigma_init=start, sigma_end=end, **common)
    )
    return iter(
        Collector(
            env,
            TensorDictSequential(algorithm.actor, noise),
            frames_per_batch=config.training.frames_per_batch,
            total_frames=-1,
            auto_register_policy_transforms=False,
        )
    )


def without_conditional(buffers: Buffers) -> Buffers:
    """The same buffers, which draw no conditional batches."""
    plain = copy.copy(buffers)
    plain.streams = {name: s for name, s in buffers.streams.items() if s.sampler is None}
    return plain


class Run:
    """What a training run holds, and one iteration of it with a watch.

    Args:
        config: of the run.
        folder: of its table of metrics.
    """

    def __init__(self, config: RunConfig, folder: Path):
        self.config = config
        env = task_env(config)
        self.algorithm = config.build(env)
        self.buffers = Buffers(config, self.algorithm)
        self.plain = without_conditional(self.buffers)
        self.exploration = exploration_metrics(env)
        self.metrics = MetricsFile(folder / "metrics.csv")
        self.batches = collected_batches(config, env, self.algorithm)
        self.frames = 0
        self.compilation: tuple[float, float] | None = None
        self.compiled = settings_compiled(config).build(env)

    def sample(self, watch: Callable) -> dict[str, TensorDictBase]:
        """The batches of an update."""
        conditional = {}
        for name in self.buffers.streams.keys() - self.plain.streams.keys():
            with watch("conditional"):
                conditional[name] = self.buffers.drawn[name].sample()
        with watch("sampling"):
            return self.plain.sample() | conditional

    def iterate(self, watch: Callable, updates: int) -> None:
        """Collect, store, update and log, each part timed."""
        with watch("collection"):
            collected = next(self.batches)
        self.frames += collected.numel()
        logs = {"frames": self.frames}
        with watch("checks"):
            logs["reward_mean"] = float(collected[next_key(REWARD)].mean())
            explored = self.exploration(collected)
            logs |= {name: float(value) for name, value in explored.items()}
            check_finite(collected, self.frames)
        with watch("storing"):
            self.buffers.extend(collected)
        with watch("checks"):
            if collected[next_key(DONE)].any():
                self.algorithm.start_episode()
        for _ in range(updates):
            batches = self.sample(watch)
            with watch("update"):
                learned = self.algorithm.update(batches)
        with watch("checks"):
            check_finite(learned, self.frames)
            learned.update(self.algorithm.health(collected))
            logs |= {name: float(value) for name, value in learned.items()}
            self.metrics.write(logs)


def settings_compiled(config: RunConfig) -> RunConfig:
    """The same config with compiled updates."""
    return dataclasses.replace(
        config, algorithm=dataclasses.replace(config.algorithm, compile=True)
    )


def follow(optimizer: torch.optim.Optimizer, max_grad_norm: float) -> None:
    """Clip the gradient, step, and forget the gradient."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    nn.utils.clip_grad_norm_(params, max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def rewarded(algorithm: ALITA, batch: TensorDictBase) -> TensorDictBase:
    """A batch with novelty, diversity penalty and total reward."""
    return algorithm.total_reward(algorithm.diversity(algorithm.novelty(batch)))


def update_estimators(
    algorithm: ALITA, batches: Mapping[str, TensorDictBase], watch: Callable
) -> None:
    """The estimators' part of an update, each stage timed."""
    for estimator in algorithm.estimators:
        batch = batches[f"conditional_{estimator.team.influencers[0]}"]
        with watch("rewards"):
            batch = rewarded(algorithm, batch)
        # Newer estimators take the target of their updates on one batch ready-made.
        if hasattr(estimator, "value_target"):
            with watch("estimator_forward"), torch.no_grad():
                target = estimator.value_target(batch)
                batch = batch.copy().set(estimator.tensor_keys.value_target, target)
        for _ in range(algorithm.settings.estimator_updates):
            with watch("estimator_forward"):
                loss = estimator(batch)["loss_estimator"]
            with watch("estimator_backward"):
                loss.backward()
            with watch("estimator_optimizer"):
                optimizer = algorithm.optimizers[f"estimator_{estimator.team.influencers[0]}"]
                follow(optimizer, algorithm.settings.max_grad_norm)


def update_in_parts(
    algorithm: MADDPG, batches: Mapping[str, TensorDictBase], watch: Callable
) -> None:
    """The calls of an update in its order, each stage timed."""
    batch = batches["batch"]
    losses = []
    intrinsic = isinstance(algorithm, ALITA)
    if intrinsic:
        update_estimators(algorithm, batches, watch)
        with watch("rewards"):
            batch = rewarded(algorithm, batch)
    with watch("maddpg_forward"):
        result = algorithm.maddpg(batch)
        losses += [result["loss_actor"], result["loss_qvalue"]]
    if intrinsic:
        with watch("novelty_forward"):
            losses.append(algorithm.novelty_loss(batches["recent"])["loss_novelty"])
        with watch("influence_forward"):
            losses += [influence(batch)["loss_influence"] for influence in algorithm.influences]
    with watch("backward"):
        sum(losses).backward()
    with watch("optimizers"):
        for name, optimizer in algorithm.optimizers.items():
            if name not in algorithm.separate:
                follow(optimizer, algorithm.settings.max_grad_norm)
    with watch("targets"):
        algorithm.target_updater.step()


def play_round(run: Run, watch: Stopwatch, updates: int) -> None:
    """An iteration, the same number of updates in parts, and of compiled ones."""
    run.iterate(watch, updates)
    for _ in range(updates):
        update_in_parts(run.algorithm, run.sample(unwatched), watch)
    if run.compiled is None:
        return
    if run.compilation is None:
        once = Stopwatch(run.config.training.device)
        batches = run.sample(unwatched)
        # What another process has compiled is no work of this one.
        with fresh_cache(), once("compilation"):
            run.compiled.update(batches)
        run.compilation = once.running["compilation"]
    for _ in range(updates):
        batches = run.sample(unwatched)
        with watch("update_compiled"):
            run.compiled.update(batches)


def measure(config: Config) -> dict[str, dict[str, Any]]:
    """Every algorithm's stages, in turns, ms for each update, and its first compiled update."""
    options = {
        "n_agents": config.n_agents,
        "device": config.device,
        "frames_per_batch": config.frames,
    }
    watches = {name: Stopwatch(config.device) for name in ALGORITHMS}
    with tempfile.TemporaryDirectory() as folder:
        runs = {}
        for name in ALGORITHMS:
            (Path(folder) / name).mkdir()
            runs[name] = Run(settings(name, **options), Path(folder) / name)
        for turn in range(config.rounds + 1):
            for name in list(runs) if turn % 2 == 0 else reversed(runs):
                play_round(runs[name], watches[name], config.updates)
                watches[name].close_round(per=config.updates, keep=turn > 0)
            print(f"round {turn} of {config.rounds}", file=sys.stderr, flush=True)
    stages = {
        name: {stage: summary(rounds) for stage, rounds in watch.rounds.items()}
        for name, watch in watches.items()
    }
    compilation = {
        name: dict(zip([f"{kind}_s" for kind in KINDS], run.compilation, strict=True))
        for name, run in runs.items()
        if run.compilation
    }
    return {"stages": stages, "compilation": compilation}


def commit() -> str | None:
    """Of the checkout that the package is imported from, if it is one."""
    folder = Path(torchrl_alita.__file__).parent.parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def circumstances(script: str) -> dict[str, Any]:
    """The command, and what it was measured with."""
    return {
        "command": " ".join([f"python benchmarks/{script}", *sys.argv[1:]]),
        "machine": machine(),
        "commit": commit(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def completed(stages: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """The stages with what follows from them: the rest and the iterations."""
    full = {name: dict(entry) for name, entry in stages.items()}

    def combined(positive: Sequence[str], negative: Sequence[str] = ()) -> dict[str, float]:
        return {
            f"{kind}_ms": sum(full[name][f"{kind}_ms"] for name in positive if name in full)
            - sum(full[name][f"{kind}_ms"] for name in negative if name in full)
            for kind in KINDS
        }

    full["rest"] = combined(["update"], [*PARTS])
    full["iteration"] = combined([*AROUND, "update"])
    if "update_compiled" in full:
        full["iteration_compiled"] = combined([*AROUND, "update_compiled"])
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
    titles = ["ms for each update"]
    for label in entries:
        titles += [label, "share", "processor"]
    both = len(entries) == len(LABELS)
    titles += ["times faster", "by processor"] if both else []
    rows = []
    for name, title in ROWS.items():
        if not any(name in stages for stages in entries.values()):
            continue
        cells = [title]
        for stages in entries.values():
            whole = "iteration_compiled" if name.endswith("_compiled") else "iteration"
            entry = stages.get(name)
            cells += (
                [
                    f"{entry['wall_ms']:.2f}",
                    f"{100 * entry['wall_ms'] / stages[whole]['wall_ms']:.0f} %",
                    f"{entry['processor_ms']:.2f}",
                ]
                if entry
                else ["", "", ""]
            )
        rows.append([*cells, *(faster(name, entries) if both else [])])
    return table(titles, rows)


def collection_note(entries: dict[str, dict[str, dict[str, float]]], contents: dict) -> str:
    """What an iteration takes, in words."""
    parts = []
    for label, stages in entries.items():
        updates = contents[label]["config"]["updates"]
        whole = completed(stages)["iteration"]["wall_ms"] * updates / 1e3
        collection = stages["collection"]["wall_ms"] * updates / 1e3
        parts.append(f"{label}, {whole:.2f} s, {collection:.2f} s of them collection")
    return f"An iteration takes {'; '.join(parts)}."


def compilation_note(name: str, contents: dict) -> str:
    """What the first compiled update takes, and when that has paid, in words."""
    texts = []
    for label, content in contents.items():
        first = content["compilation"].get(name)
        if first is None:
            continue
        stages = content["stages"][name]
        eager, compiled = (stages[row]["wall_ms"] for row in ("update", "update_compiled"))
        text = (
            f" The first compiled update, {label}, takes {first['wall_s']:.0f} s where the "
            f"compiler has kept nothing"
        )
        if compiled < eager:
            text += f", made up for after {1e3 * first['wall_s'] / (eager - compiled):,.0f}"
        texts.append(f"{text}.")
    return "".join(texts)


def with_what(content: dict[str, Any]) -> str:
    """Versions and machine, in words."""
    found = content["machine"]
    threads = f"{found['threads']} thread" + "s" * (found["threads"] != 1)
    load = content["load_average"]
    busy = "" if load is None else f", load average {load:.1f} at the start"
    return (
        f"`{content['command']}`, commit {content['commit']}, torch {found['torch']}, "
        f"torchrl {found['torchrl']}, Python {found['python']}, "
        f"{found['cores']} {found['processor']} cores, {threads}, {found['gpu'] or 'no GPU'}{busy}"
    )


def report_text(contents: dict[str, dict[str, Any]]) -> str:
    """The tables of every algorithm, and how they came about."""
    texts = []
    for name, (title, _) in ALGORITHMS.items():
        entries = {label: content["stages"][name] for label, content in contents.items()}
        note = collection_note(entries, contents) + compilation_note(name, contents)
        texts.append(f"**{title}**\n\n{stage_table(entries)}\n\n{note}")
    first = next(iter(contents.values()))["config"]
    made = ". ".join(f"{label.capitalize()}: {with_what(c)}" for label, c in contents.items())
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


def restart_with_allocator() -> None:
    """Start this script again if the C library has not been told the Makefile's settings."""
    # It reads them when a process starts.
    if not ALLOCATOR.keys() <= os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**ALLOCATOR, **os.environ})


def main(config: Config) -> None:
    """Measure, print or write, and report."""
    if config.report_only:
        report()
        return
    restart_with_allocator()
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(0)
    content = {**circumstances("profile_update.py"), "config": asdict(config)}
    content |= measure(config)
    if config.quick:
        print(report_text({config.label: content}))
        return
    set_line(RESULT, config.label, content)
    report()


if __name__ == "__main__":
    main(tyro.cli(Config))
