"""The training loop: collect, store, update, evaluate, save."""

from __future__ import annotations

import dataclasses
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from tensordict import TensorDictBase
from torchrl.envs import EnvBase

from torchrl_alita._extras import import_extra
from torchrl_alita.algorithms import AlgorithmSettings, Learner, SidesSettings
from torchrl_alita.envs import Task, make_env
from torchrl_alita.envs._closing import close_env
from torchrl_alita.saving import (
    RandomState,
    RunDirectory,
    build_learner,
    init_policy,
    machine,
    read_config,
    seed_everything,
)
from torchrl_alita.training.collection import Collection, with_memory
from torchrl_alita.training.config import Config, completed_config, plain_config
from torchrl_alita.training.evaluation import Evaluation, side_returns
from torchrl_alita.training.figures import Pictures
from torchrl_alita.training.learning import Learning
from torchrl_alita.training.logging import Loggers, MetricsFile

__all__ = ["Run", "shown_returns", "start", "train"]


def train(
    config: Config,
    *,
    task: Task | None = None,
    make_algorithm: Callable[[EnvBase, AlgorithmSettings], Learner] | None = None,
) -> dict[str, Any]:
    """Train, evaluate and save, from a config alone.

    A run that was stopped, or killed, and is resumed goes on from its newest checkpoint bit
    for bit as if it had never stopped, also in the middle of an episode. That needs an
    environment that can give its state, see :func:`torchrl_alita.envs.environment_state`.
    With every other one all environments begin new episodes at each checkpoint, from a
    seed of their own, in the run that goes on as in the one that is resumed.

    Args:
        config: the run's config.
        task: a task that is not registered. Default: the one that the config names.
        make_algorithm: builds the algorithm from an environment and the config's settings.
            Default: the one that is registered with these settings.

    Returns:
        The content of summary.json, and the run's directory under ``"run_dir"``.

    Raises:
        ValueError: for a config that cannot work, a folder that cannot be resumed, another
            thread of this process that trains a run, a damaged checkpoint, or a NaN or infinity
            in a batch or a loss; the key and the frame are named and the last checkpoint stays.
        OSError: if a checkpoint cannot be written; the file is named and the last one
            stays.
        ImportError: if an extra is missing; it is named.
        SystemExit: after Ctrl-C, when a checkpoint has been written.

    Examples:
        >>> import tempfile
        >>> from torchrl_alita.training import make_config
        >>> config = make_config(
        ...     "maddpg", "vmas/spread",
        ...     {"num_envs": 5, "horizon": 4, "total_frames": 40, "frames_per_batch": 20,
        ...      "evaluation_episodes": 2, "progress": False, "run_dir": tempfile.mkdtemp(),
        ...      "algorithm.frames_per_update": 20, "algorithm.random_frames": 20},
        ... )
        >>> train(config)["updates"]
        1
    """
    with start(config, task=task, make_algorithm=make_algorithm) as run:
        return run.to_end()


@contextmanager
def start(
    config: Config,
    *,
    task: Task | None = None,
    make_algorithm: Callable[[EnvBase, AlgorithmSettings], Learner] | None = None,
) -> Iterator[Run]:
    """All that a run needs, built and checked, new or resumed; arguments as for :func:`train`."""
    import_extra("tqdm", "recipes")
    threads = torch.get_num_threads()
    with _alone_in_this_process(), _without_information():
        if config.training.threads is not None:
            torch.set_num_threads(config.training.threads)
        try:
            build = make_algorithm or build_learner
            # A caller may have turned gradients off.
            with torch.inference_mode(False), torch.enable_grad():
                run = Run(_with_compile(config), build, task or config.find_task())
                with run.closing:
                    yield run
        finally:
            torch.set_num_threads(threads)


# Threads that have a run, one entry for each run.
_RUNNING: list[int] = []
_GUARD = threading.Lock()


@contextmanager
def _alone_in_this_process() -> Iterator[None]:
    """Refuse a run while another thread has one: both would draw from one random state."""
    me = threading.get_ident()
    with _GUARD:
        if any(thread != me for thread in _RUNNING):
            raise ValueError(
                "Another thread of this process trains a run, and both would draw from the same "
                "random numbers. Train each in a process of its own, as torchrl-alita sweep does."
            )
        _RUNNING.append(me)
    try:
        yield
    finally:
        with _GUARD:
            _RUNNING.remove(me)


@contextmanager
def _without_information() -> Iterator[None]:
    """Let TorchRL say what is wrong, and nothing else."""
    logger = logging.getLogger("torchrl")
    level = logger.level
    logger.setLevel(max(level, logging.WARNING))
    try:
        yield
    finally:
        logger.setLevel(level)


def _with_compile(config: Config) -> Config:
    """The config that says whether updates are compiled: in a resumed run, as before."""
    settings, training = config.algorithm, config.training
    before = None
    if training.resume is not None:
        before = read_config(training.resume).get("algorithm", {})

    def decided(own: Any, saved: Any) -> Any:
        if isinstance(own, str) or getattr(own, "compile", True) is not None:
            return own
        if saved is not None:
            return dataclasses.replace(own, compile=saved.get("compile"))
        frames = training.total_frames - own.random_frames
        several = frames // own.frames_per_update > own.eager_updates
        return dataclasses.replace(own, compile=several)

    if not isinstance(settings, SidesSettings):
        return dataclasses.replace(config, algorithm=decided(settings, before))
    sides = (before or {}).get("sides", {})
    own = settings.with_sides(lambda name, follows: decided(follows, sides.get(name)))
    return dataclasses.replace(config, algorithm=own)


class Run:
    """One run, new or resumed: it collects, learns, evaluates and saves.

    Args:
        config: that says whether updates are compiled.
        make_algorithm: builds the algorithm from an environment and its settings.
        task: in which it is trained.
    """

    def __init__(
        self,
        config: Config,
        make_algorithm: Callable[[EnvBase, AlgorithmSettings], Learner],
        task: Task,
    ):
        self.config, self.task = config, task
        training = config.training
        seed_everything(training.seed)
        options: dict[str, Any] = {
            "n_agents": training.n_agents,
            "device": training.device,
            "horizon": task.horizon if training.horizon is None else training.horizon,
        }
        with ExitStack() as opened:
            env = make_env(task, num_envs=training.num_envs, seed=training.seed, **options)
            # The last one has all transforms around it.
            layers = [env]
            opened.callback(lambda: close_env(layers[-1]))
            self.evaluation = Evaluation(task, training, options)
            opened.callback(self.evaluation.close)
            algorithm = make_algorithm(env, config.algorithm)
            layers.append(with_memory(algorithm.prepare(env), algorithm))
            self.evaluation.prepare(algorithm)
            self.collection = Collection(config, layers[-1], algorithm, task)
            opened.callback(self.collection.close)
            self.learning = Learning(config, algorithm)
            self.progress = self.learning.progress
            if training.init_from is not None and training.resume is None:
                init_policy(algorithm, training.init_from)
            self._open(opened)
            self.closing = opened.pop_all()

    def _open(self, opened: ExitStack) -> None:
        """What the run writes, last of all: an error so far has left nothing."""
        training = self.config.training
        plain = plain_config(self.config)
        self.directory = opened.enter_context(
            RunDirectory(
                training.resume or training.run_dir,
                config=plain,
                resume=training.resume is not None,
                keep_checkpoints=training.keep_checkpoints,
                complete=lambda saved: completed_config(saved, self.config),
            )
        )
        if training.resume is not None:
            self.directory.checkpoints.load(self.components)
            self._changes = self.directory.checkpoints.changes()
            self._begin_episodes()
        # A checkpoint that cannot be loaded has changed nothing.
        self.directory.begin()
        self._resumed_at = dict(self.progress)
        self._started = time.perf_counter() - self.progress["wall_seconds"]
        self.metrics = MetricsFile(self.directory.path / "metrics.csv", until=self.frames)
        self.loggers = opened.enter_context(
            Loggers(
                training.loggers,
                self.directory.path,
                config=plain | {"machine": machine()},
                labels=(self.config.algorithm_name, self.config.task),
                wandb=training.wandb,
            )
        )

    @property
    def frames(self) -> int:
        """Environment steps made so far."""
        return self.progress["frames"]

    @property
    def components(self) -> dict[str, Any]:
        """All that shapes the future of the run, as a checkpoint has it."""
        parts = (self.learning, self.collection, self.evaluation)
        components = {k: v for part in parts for k, v in part.components.items()}
        return components | {"random_state": RandomState()}

    def to_end(self) -> dict[str, Any]:
        """Collect, learn, evaluate and save; the content of summary.json."""
        training = self.config.training
        if training.resume is not None:
            print(f"Resumed at frame {self.frames:,}.")
            if self._changes:
                named = [f"{k} {there} (now {here})" for k, (there, here) in self._changes.items()]
                print(
                    f"Its checkpoint is of {', '.join(named)}: the last digits may differ from "
                    "those of a run that never stopped."
                )
        else:
            self._log(self._evaluated())
            self._save()
        bar = import_extra("tqdm", "recipes").tqdm(
            total=training.total_frames,
            initial=self.frames,
            unit=" frames",
            unit_scale=True,
            # None: it is shown on a terminal alone.
            disable=None if training.progress else True,
        )
        with bar, _collect_interrupts() as interrupted:
            batches = iter(self.collection)
            while self.frames < training.total_frames:
                collected = next(batches)
                # First of all it is seen whether what was collected is finite.
                learned = self.learning.learn(collected)
                logs = _prefix("training", self.collection.rewards(collected))
                logs |= _prefix("exploration", self.collection.explored(collected))
                logs |= _prefix("training", learned)
                self.progress["wall_seconds"] = time.perf_counter() - self._started
                if self._passed(training.evaluation_interval):
                    logs |= self._evaluated()
                    bar.set_postfix_str(shown_returns(logs), refresh=False)
                    if training.progress and bar.disable:
                        print(f"{self.frames:>12,} frames, {shown_returns(logs)}", flush=True)
                    self._log_distributions(collected)
                self._log(logs)
                bar.update(collected.numel())
                if interrupted or self._passed(training.checkpoint_interval):
                    self._save()
                if interrupted:
                    resume = self.directory.resume
                    print(f"\nStopped at frame {self.frames:,}. Resume with: {resume}")
                    raise SystemExit(130)
        return self._finish()

    def _measure(self) -> tuple[dict[str, float], dict[str, float], TensorDictBase]:
        return self.evaluation.measure(self.learning.algorithm.candidates())

    def _evaluated(self) -> dict[str, float]:
        result, selection, _ = self._measure()
        return _prefix("evaluation", result) | _prefix("selection", selection)

    def _passed(self, interval: int) -> bool:
        """Whether the last batch completed an interval, or the run."""
        training = self.config.training
        before = self.frames - training.frames_per_batch
        ended = self.frames >= training.total_frames
        return ended or self.frames // interval > before // interval

    def _log(self, values: Mapping[str, float]) -> None:
        row = self.progress | dict(values)
        self.metrics.write(row)
        self.loggers.log(row, step=self.frames)

    def _log_distributions(self, collected: TensorDictBase) -> None:
        if self.loggers.take_histograms:
            found = self.learning.distributions(collected)
            self.loggers.log_histograms(_prefix("distribution", found), step=self.frames)

    def _save(self) -> None:
        self.directory.checkpoints.save(self.components, frames=self.frames)
        self._begin_episodes()

    def _begin_episodes(self) -> None:
        """What an environment cannot give back begins anew, here and when resumed."""
        if self.frames and not self.collection.exact:
            # A seed that no other run, frame or evaluation has.
            drawn = np.random.SeedSequence((self.config.training.seed, self.frames))
            self.collection.begin_episodes(int(drawn.generate_state(1)[0]))
            self.learning.buffers.cut()
            self.learning.algorithm.start_episode()

    def _finish(self) -> dict[str, Any]:
        """Write the pictures and summary.json."""
        result, selection, episodes = self._measure()
        random_result, _ = self.evaluation.evaluate(None)
        if self.config.training.pictures:
            self._draw(result, random_result, episodes)
        frames = self.frames - self._resumed_at["frames"]
        seconds = self.progress["wall_seconds"] - self._resumed_at["wall_seconds"]
        summary = {
            "algorithm": self.config.algorithm_name,
            "task": self.config.task,
            "seed": self.config.training.seed,
            **self.progress,
            "frames_per_second": frames / seconds if frames else None,
            "evaluation": result,
            **({"selection": selection} if selection else {}),
            "random_team": random_result,
            "ceiling": self._ceiling(),
            "exploration": {
                # JSON knows no NaN.
                name: None if value.isnan() else float(value)
                for name, value in self.collection.exploration.metrics().items()
            },
            "machine": machine(),
        }
        self.directory.write_json("summary.json", summary)
        self.loggers.finish(
            summary,
            step=self.frames,
            gif=self.directory.path / "rollout.gif",
            checkpoint=self.directory.checkpoints.latest(),
        )
        return summary | {"run_dir": str(self.directory.path)}

    def _ceiling(self) -> float | None:
        """Best return that is known of the task, if the run has its agents and its horizon."""
        training, task = self.config.training, self.task
        own = training.n_agents in (None, task.n_agents) and training.horizon in (
            None,
            task.horizon,
        )
        return task.ceiling if own else None

    def _draw(
        self, result: Mapping[str, float], baselines: Mapping[str, float], episodes: TensorDictBase
    ) -> None:
        """The curves, an episode, where the team was, and how it explores together."""
        config, num_agents = self.config, self.learning.algorithm.layout.num_agents
        title = f"{config.algorithm_name} on {config.task}, {num_agents} agents"
        pictures = Pictures(self.directory.path, self.task, title)
        names = [name for name in result if name != "return_std"]
        curves = {name: self.metrics.column(f"evaluation/{name}") for name in names}
        pictures.curves(curves, seed=config.training.seed, baselines=baselines)
        pictures.episode("rollout.gif", episodes[0])
        walls = getattr(self.collection.env, "walls", None)
        pictures.visits(self.collection.exploration.maps(), walls)
        if config.training.exploration == "team":
            # The last environment is the one that explores most.
            exploring = self.evaluation.explore(self.collection.policy)
            pictures.episode("exploration.gif", exploring[-1])


@contextmanager
def _collect_interrupts() -> Iterator[list[int]]:
    """Ctrl-C is noted, so that the loop stops between two batches; a second one is at once."""
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    try:
        before = signal.signal(signal.SIGINT, note)
    except ValueError:  # not in the main thread
        yield received
        return
    try:
        yield received
    finally:
        signal.signal(signal.SIGINT, before)


def shown_returns(logs: Mapping[str, float]) -> str:
    """What the progress bar says of an evaluation: the return, or that of each side."""
    result = {
        name.removeprefix("evaluation/"): value
        for name, value in logs.items()
        if name.startswith("evaluation/")
    }
    shown = side_returns(result)
    shown = shown or {"return": result["return_mean"]}
    return ", ".join(f"{name}={value:.1f}" for name, value in shown.items())


def _prefix(group: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{group}/{name}": value for name, value in values.items()}
