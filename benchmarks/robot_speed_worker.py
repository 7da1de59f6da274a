"""One contender of robot_speed.py in a process of its own; there is nothing to start here.

It trains as its users do. Before each turn it waits for a line on its standard input, and after
it writes a line of JSON, what a frame of the turn took.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from importlib.metadata import version
from typing import Any, TextIO

import sb3_worker
import torch

from torchrl_alita.training import Config
from torchrl_alita.training.loop import start

NEVER = 10**9
# Frames before the first update, of random actions.
RANDOM_FRAMES = 1_000
STORED = 100_000


class Turns:
    """Makes a training loop wait after so many frames, each with an update, and times them."""

    def __init__(self, frames: int, *, requests: TextIO, reports: TextIO):
        self.frames, self.requests, self.reports = frames, requests, reports
        self.count = 0

    def wait(self, report: dict[str, Any]) -> None:
        """Report, wait for the next request and start the clocks; or end the process."""
        print(json.dumps(report), file=self.reports, flush=True)
        if not self.requests.readline():
            raise SystemExit
        self.count = 0
        self.started = time.perf_counter(), time.process_time()

    def made(self, frames: int) -> None:
        """So many frames have been made, with their updates."""
        self.count += frames
        if self.count < self.frames:
            return
        now = time.perf_counter(), time.process_time()
        wall, processor = (end - began for end, began in zip(now, self.started, strict=True))
        report = {"wall_ms": 1e3 * wall / self.count, "processor_ms": 1e3 * processor / self.count}
        self.wait({"seconds": wall, **report})


def config_of(work: dict[str, Any]) -> Config:
    """The recipe's, of an endless run without evaluations."""
    config = sb3_worker.DEFAULTS[work["algorithm"]]
    training = replace(
        config.training,
        total_frames=NEVER,
        evaluation_interval=NEVER,
        evaluation_episodes=1,
        checkpoint_interval=NEVER,
        progress=False,
        threads=work["threads"],
        run_dir=work["folder"],
        **work["options"],
    )
    algorithm = replace(
        config.algorithm, random_frames=RANDOM_FRAMES, buffer_size=STORED, compile=True
    )
    return replace(config, task=work["task"], training=training, algorithm=algorithm)


def train_ours(config: Config, turns: Turns) -> None:
    """The training loop of ``torchrl_alita.training.train``."""
    with start(config) as run:
        learn = run.learning.learn

        def learn_and_count(collected: Any) -> Any:
            logs = learn(collected)
            if run.progress["updates"]:
                turns.made(collected.numel())
            return logs

        run.learning.learn = learn_and_count
        turns.wait({})
        run.to_end()


def train_library(config: Config, turns: Turns) -> None:
    """That of stable-baselines3."""
    model = sb3_worker.make_model(config)
    train = model.train

    def train_and_count(*args: Any, **kwargs: Any) -> None:
        train(*args, **kwargs)
        turns.made(1)

    model.train = train_and_count
    turns.wait({"stable-baselines3": version("stable-baselines3")})
    model.learn(config.training.total_frames)


def main(work: dict[str, Any]) -> None:
    """Report, then train on request."""
    # Libraries print to the standard output; the reports have a descriptor of their own.
    reports = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(work["threads"])
    turns = Turns(work["frames"], requests=sys.stdin, reports=reports)
    train = train_library if work["library"] else train_ours
    train(config_of(work), turns)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
