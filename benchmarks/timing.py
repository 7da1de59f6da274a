"""The work on which speed is measured, clocks, and turns that let a machine's load meet all alike."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

from tensordict import TensorDictBase

from torchrl_alita.algorithms import Learner
from torchrl_alita.training import Config, make_config
from torchrl_alita.training.buffers import Buffers

WORK = {
    "num_envs": 60,
    "horizon": 100,
    "frames": 6_000,
    "updates": 60,
    "batch_size": 1_024,
    "buffer_size": 1_000_000,
    "num_cells": (128, 128),
}
ALGORITHMS = {
    "maddpg": ("MADDPG", "maddpg", {}),
    "ddpg": ("DDPG", "ddpg", {}),
    "alita": ("ALITA, marginal", "alita", {}),
    "alita_clones": ("ALITA, clones", "alita", {"algorithm.estimator": "clones"}),
}
KINDS = ("wall", "processor")
# The Makefile's; the C library reads them when a process starts.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "4000000000", "MALLOC_TRIM_THRESHOLD_": "16000000000"}
# A turn repeats a short call until it has taken so many seconds.
SHORTEST_TURN = 0.2
ERROR_LINES = 30
# A multiple of all batches.
NEVER = 3 * 10**12


def restart_with_allocator() -> None:
    """Start this script again if the C library has not been told the Makefile's settings."""
    if not ALLOCATOR.keys() <= os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**ALLOCATOR, **os.environ})


def work_config(
    name: str, task: str = "vmas/spread", *, work: Mapping[str, Any] = WORK, **options: Any
) -> Config:
    """The config of an endless run on that work, eager unless it is said.

    Args:
        name: in ``ALGORITHMS``.
        task: of the run.
        work: its sizes.
        **options: as for make_config, ``algorithm__x`` for ``"algorithm.x"``.
    """
    _, algorithm, own = ALGORITHMS[name]
    conditional = {"algorithm.conditional_batch_size": work["batch_size"]}
    return make_config(
        algorithm,
        task,
        {
            "n_agents": 3, "num_envs": work["num_envs"], "horizon": work["horizon"],
            "total_frames": NEVER, "frames_per_batch": work["frames"], "progress": False,
            "evaluation_interval": NEVER, "evaluation_episodes": 1, "checkpoint_interval": NEVER,
            "algorithm.frames_per_update": work["frames"] // work["updates"],
            "algorithm.random_frames": 0, "algorithm.batch_size": work["batch_size"],
            "algorithm.buffer_size": work["buffer_size"],
            "algorithm.num_cells": tuple(work["num_cells"]), "algorithm.compile": False,
            **(conditional if algorithm == "alita" else {}),
            **own,
            **{option.replace("__", "."): value for option, value in options.items()},
        },
    )  # fmt: skip


def filled(config: Config, learner: Learner, collected: TensorDictBase) -> Buffers:
    """Full buffers, of one collected batch again and again."""
    buffers = Buffers(config, learner)
    while len(buffers.replay) < buffers.replay.storage.max_size:
        buffers.extend(collected)
    return buffers


class Stopwatch:
    """Wall and processor seconds of named stages, added up until a round is closed."""

    def __init__(self):
        self.rounds: dict[str, list[tuple[float, float]]] = {}
        self.running: dict[str, tuple[float, float]] = {}

    def now(self) -> tuple[float, float]:
        return time.perf_counter(), time.process_time()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add what happens inside to a stage."""
        started = self.now()
        yield
        wall, processor = (b - a for a, b in zip(started, self.now(), strict=True))
        so_far = self.running.get(stage, (0.0, 0.0))
        self.running[stage] = (so_far[0] + wall, so_far[1] + processor)

    def around(self, owner: Any, name: str, stage: str) -> None:
        """Time every call of a method of an object."""
        method = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self(stage):
                return method(*args, **kwargs)

        setattr(owner, name, timed)

    def close_round(self, *, per: int, keep: bool = True) -> None:
        """End a round; its sums are divided, as by the number of updates, and kept or not."""
        for stage, (wall, processor) in self.running.items():
            if keep:
                self.rounds.setdefault(stage, []).append((wall / per, processor / per))
        self.running = {}

    def summary(self) -> dict[str, dict[str, float]]:
        """Median, least and largest of each stage, in ms."""
        return {stage: milliseconds(rounds) for stage, rounds in self.rounds.items()}


def milliseconds(rounds: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Median, least and largest of wall and processor time, seconds to ms."""
    entry = {}
    for kind, seconds in zip(KINDS, zip(*rounds, strict=True), strict=True):
        for end, of in (("", median), ("_min", min), ("_max", max)):
            entry[f"{kind}_ms{end}"] = round(1e3 * of(seconds), 4)
    return entry


def in_turns(names: Iterable[str], rounds: int) -> Iterator[tuple[int, str]]:
    """Round and name, forwards and then backwards."""
    names = list(names)
    for turn in range(rounds):
        for name in names if turn % 2 == 0 else reversed(names):
            yield turn, name


def take_turns(
    calls: Mapping[str, Callable[[], Any]], rounds: int, *, per: int | None = None
) -> dict[str, dict[str, float]]:
    """The :func:`milliseconds` of calls that take turns.

    Args:
        calls: what to time, by name; each runs twice untimed before.
        rounds: turns of each; a turn repeats a short call until it takes 0.2 s.
        per: parts of a call, of which the time is one's; a call is not repeated then.
    """
    watches = {name: Stopwatch() for name in calls}
    repeats = dict.fromkeys(calls, 1)
    for name, call in calls.items():
        call()
        with watches[name]("turn"):
            call()
        seconds, _ = watches[name].running["turn"]
        if per is None:
            repeats[name] = max(1, math.ceil(SHORTEST_TURN / seconds))
        watches[name].close_round(per=1, keep=False)
    for _, name in in_turns(calls, rounds):
        with watches[name]("turn"):
            for _ in range(repeats[name]):
                calls[name]()
        watches[name].close_round(per=repeats[name] * (per or 1))
    return {name: watch.summary()["turn"] for name, watch in watches.items()}


class Contender:
    """A training loop in a process of its own, which works when it is told to.

    Args:
        name: for messages.
        command: that starts it.
        errors: file that gets its standard error.
        **variables: of its environment, where they differ; None for one that it has not.
    """

    def __init__(self, name: str, command: Sequence[str], errors: Path, **variables: str | None):
        self.name, self.errors = name, errors
        given = {**ALLOCATOR, **os.environ, **variables}
        env = {variable: value for variable, value in given.items() if value is not None}
        pipe = subprocess.PIPE
        with errors.open("wb") as file:
            self.process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=file, env=env, text=True
            )

    def start_turn(self) -> None:
        """Let it work."""
        # If it has ended, report says why.
        with suppress(BrokenPipeError):
            print(file=self.process.stdin, flush=True)

    def report(self) -> dict[str, Any]:
        """What it says when it is done.

        Raises:
            RuntimeError: if it has ended instead, with the last lines of its errors.
        """
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        self.process.wait()
        said = self.errors.read_text(errors="replace").splitlines()[-ERROR_LINES:]
        raise RuntimeError(f"{self.name} ended with {self.process.returncode}:\n" + "\n".join(said))

    def close(self) -> None:
        """End it: it has reported all that is asked of it, and keeps nothing."""
        self.process.kill()
        self.process.communicate()


def contend(
    contenders: Mapping[str, Any], turns: int, say: Callable[[str], None] = lambda text: None
) -> dict[str, list[dict[str, float]]]:
    """The reports of processes that work one at a time, by name."""
    reports: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for turn, name in in_turns(contenders, turns):
        contenders[name].start_turn()
        reports[name].append(contenders[name].report())
        say(f"turn {turn + 1}, {name}: {reports[name][-1]['seconds']:.2f} s")
    return reports


def measured_in_turns(
    names: Iterable[str],
    start: Callable[[str, Path], Contender],
    turns: int,
    *,
    warm_up: int,
    say: Callable[[str], None],
) -> tuple[dict[str, dict[str, Any]], dict[str, list[dict[str, float]]]]:
    """What contenders report first, and the turns of each after some that do not count.

    Args:
        names: of the contenders.
        start: starts one, with a folder for its files.
        turns: of each that count.
        warm_up: turns before, in which they import and compile.
        say: gets a line for each turn that counts.
    """
    with ExitStack() as stack:
        # The runs' files. Processes end before their folder goes.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        contenders = {}
        for name in names:
            contenders[name] = start(name, folder)
            stack.callback(contenders[name].close)
        first = {name: contender.report() for name, contender in contenders.items()}
        contend(contenders, warm_up)
        return first, contend(contenders, turns, say)
