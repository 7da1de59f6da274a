"""One contender of throughput.py in a process of its own; there is nothing to start here.

It runs a training loop as its users do. Before each iteration it waits for a line on its
standard input, and after it writes a line of JSON, what the iteration took. Ours and the peer's
run in different virtual environments, so each imports its library where it is used.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, TextIO

import torch

_LIBRARIES = ("torch", "torchrl", "tensordict", "vmas")
_NEVER = 10**12


class Turns:
    """Measures the iterations of a training loop, and makes it wait between them.

    Args:
        num_updates: of an iteration, at least 2.
        about: what is reported first.
        requests: a line of it is one more iteration, its end the end of the process.
        reports: where a line of JSON goes after each iteration.
        wait: until the device has done what it was given.
    """

    def __init__(
        self,
        num_updates: int,
        *,
        about: dict[str, Any],
        requests: TextIO,
        reports: TextIO,
        wait: Callable[[], None] = lambda: None,
    ):
        if num_updates < 2:
            raise ValueError(f"num_updates must be at least 2, got {num_updates}.")
        self.num_updates, self.about = num_updates, about
        self.requests, self.reports, self.wait = requests, reports, wait

    def ready(self) -> None:
        """To be called once, before the first iteration."""
        self._next(self.about)

    def _next(self, report: dict[str, Any]) -> None:
        """Report, wait for the next request and start the clocks; or end the process."""
        print(json.dumps(report), file=self.reports, flush=True)
        if not self.requests.readline():
            raise SystemExit
        self.moments: list[float] = []
        self.count = 0
        self.started, self.processor = self._now(), time.process_time()

    def _now(self) -> float:
        self.wait()
        return time.perf_counter()

    def updated(self) -> None:
        """To be called after each update."""
        self.count += 1
        # The others are not timed: to wait for the device would slow them down.
        if self.count in (1, self.num_updates):
            self.moments.append(self._now())

    def finished(self) -> None:
        """To be called after each iteration.

        Raises:
            RuntimeError: if it made another number of updates.
            SystemExit: when no more are wanted.
        """
        seconds = self._now() - self.started
        if self.count != self.num_updates:
            raise RuntimeError(
                f"The iteration must make {self.num_updates} updates, it made {self.count}."
            )
        first, last = self.moments
        report = {
            "seconds": seconds,
            "seconds_between_updates": (last - first) / (self.num_updates - 1),
            "processor_seconds": time.process_time() - self.processor,
        }
        self._next(report)


def after(owner: Any, name: str, then: Callable[[], None]) -> None:
    """Call something after each call of a method of an object."""
    method = getattr(owner, name)

    def both(*args: Any) -> Any:
        found = method(*args)
        then()
        return found

    setattr(owner, name, both)


def train_ours(work: dict[str, Any], turns: Turns) -> None:
    """The training loop of ``torchrl_alita.training.train`` with the contender's options."""
    from timing import work_config

    from torchrl_alita.training.loop import start

    config = work_config(
        work["algorithm"],
        work=work,
        **{name: work[name] for name in ("n_agents", "device", "threads")},
        run_dir=work["folder"],
        algorithm__compile=work["compile"],
    )

    with start(config) as run:
        algorithm = run.learning.algorithm
        # The loop calls health once, after the updates of an iteration.
        after(algorithm, "update", turns.updated)
        after(algorithm, "health", turns.finished)
        turns.ready()
        run.to_end()


def train_benchmarl(work: dict[str, Any], turns: Turns) -> None:
    """BenchMARL's experiment with MADDPG, N policies and N critics as ours; its default is one."""
    from peer_quality_worker import make_callback, make_experiment

    callback = make_callback(
        on_train_step=lambda *_: turns.updated(), on_train_end=lambda *_: turns.finished()
    )
    widths, device = work["num_cells"], work["device"]
    parts = {
        "experiment": {
            "sampling_device": device, "train_device": device, "buffer_device": device,
            "share_policy_params": False, "off_policy_init_random_frames": 0,
            "off_policy_collected_frames_per_batch": work["frames"],
            "off_policy_n_envs_per_worker": work["num_envs"],
            "off_policy_n_optimizer_steps": work["updates"],
            "off_policy_train_batch_size": work["batch_size"],
            "off_policy_memory_size": work["buffer_size"],
        },
        "options": {"share_param_critic": False},
        "model": {"num_cells": widths, "activation_class": "ReLU"},
    }  # fmt: skip
    if work["layer_norm"]:
        kwargs = [{"normalized_shape": width} for width in widths]
        parts["model"] |= {"norm_class": torch.nn.LayerNorm, "norm_kwargs": kwargs}
    endless = {"algorithm": "maddpg", "seed": 0, "frames": _NEVER}
    experiment = make_experiment({**work, **parts, **endless}, callback)
    turns.ready()
    experiment.run()


SIDES = {"ours": (train_ours, "torchrl_alita"), "benchmarl": (train_benchmarl, "benchmarl")}


def main(work: dict[str, Any]) -> None:
    """Report the versions, then iterate on request."""
    # Libraries print to the standard output; the reports have a descriptor of their own.
    reports = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(work["threads"])
    on_gpu = torch.device(work["device"]).type == "cuda"
    train, library = SIDES[work["side"]]
    about = {
        **{name: version(name) for name in (library, *_LIBRARIES)},
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(work["device"]) if on_gpu else None,
    }
    turns = Turns(
        work["updates"],
        about=about,
        requests=sys.stdin,
        reports=reports,
        wait=torch.cuda.synchronize if on_gpu else lambda: None,
    )
    train(work, turns)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
