"""One run of peer_quality.py in the peer's virtual environment; there is nothing to start here.

BenchMARL's experiment runs as its users run it. Between two iterations, when enough processor
time has been spent since the last time, 100 greedy episodes are played from the states of the
package's own evaluations, and stored for the other process, which knows the figures of merit. A
line of JSON on the standard output says when that was.
"""

from __future__ import annotations

import json
import os
import platform
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

import torch

_LIBRARIES = ("benchmarl", "torch", "torchrl", "tensordict", "vmas")
_KEPT = {
    "observation": ("next", "agents", "observation"),
    "reward": ("next", "agents", "reward"),
    "done": ("next", "done"),
}


class Finished(BaseException):
    """Ends BenchMARL's experiment, which catches and reports every Exception."""


class Budget:
    """Time of training, and whether it is time to evaluate or to end.

    Args:
        interval: processor seconds of training between two evaluations.
        limit: processor seconds of training, after which the run ends.
        frames: environment steps, after which the run ends.
        report: gets what is known at each evaluation.
        evaluate: plays the greedy episodes, and says where they are.
    """

    def __init__(
        self,
        *,
        interval: float,
        limit: float,
        frames: int,
        report: Callable[[dict[str, Any]], None],
        evaluate: Callable[[int], str],
    ):
        self.interval, self.limit, self.frames = interval, limit, frames
        self.report, self.evaluate = report, evaluate
        self.processor, self.wall = 0.0, 0.0
        self.evaluated = 0.0

    def start(self) -> None:
        """To be called when training starts: the first evaluation is of the untrained team."""
        self._evaluate(0)
        self._start_clocks()

    def _start_clocks(self) -> None:
        self._processor, self._wall = time.process_time(), time.perf_counter()

    def spent(self, frames: int, *, finite: bool) -> None:
        """To be called after each iteration.

        Raises:
            Finished: if the run has come to its end.
        """
        self.processor += time.process_time() - self._processor
        self.wall += time.perf_counter() - self._wall
        if not finite:
            self.report({**self._state(frames), "episodes": None})
            raise Finished
        done = self.processor >= self.limit or frames >= self.frames
        if done or self.processor - self.evaluated >= self.interval:
            self._evaluate(frames)
        if done:
            raise Finished
        self._start_clocks()

    def _evaluate(self, frames: int) -> None:
        self.evaluated = self.processor
        self.report({**self._state(frames), "episodes": self.evaluate(frames)})

    def _state(self, frames: int) -> dict[str, Any]:
        return {
            "frames": frames,
            "processor_seconds": self.processor,
            "wall_seconds": self.wall,
        }


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Training goes on as if nobody had drawn a number meanwhile."""
    import numpy as np
    from vmas.simulator.environment import Environment

    # VMAS keeps one stream for all environments of the process.
    shared = list(Environment.vmas_random_state)
    states = torch.random.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        yield
    finally:
        Environment.vmas_random_state[:] = shared
        torch.random.set_rng_state(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        random.setstate(states[2])


def episodes_of(policy: Any, work: dict[str, Any]) -> dict[str, torch.Tensor]:
    """What the figures of merit are computed from, ``[B, T, ...]``; None is a random team."""
    from torchrl.envs import VmasEnv
    from torchrl.envs.utils import ExplorationType, set_exploration_type

    with kept_random_state(), torch.no_grad():
        env = VmasEnv(
            "simple_spread",
            num_envs=work["episodes"],
            n_agents=work["n_agents"],
            device="cpu",
            seed=work["evaluation_seed"],
            # As BenchMARL builds the scenario: a Normal has no bounds.
            clamp_actions=True,
        )
        env.set_seed(work["evaluation_seed"])
        torch.manual_seed(work["evaluation_seed"])
        with set_exploration_type(ExplorationType.DETERMINISTIC):
            episodes = env.rollout(work["horizon"], policy, break_when_any_done=False)
        return {name: episodes[key].clone() for name, key in _KEPT.items()}


def make_experiment(work: dict[str, Any], callback: Any) -> Any:
    """BenchMARL's experiment on simple_spread, with its defaults but for what the work says."""
    from benchmarl.algorithms import algorithm_config_registry
    from benchmarl.environments import VmasTask
    from benchmarl.experiment import Experiment, ExperimentConfig
    from benchmarl.models.mlp import MlpConfig

    config = ExperimentConfig.get_from_yaml()
    config.max_n_frames = work["frames"]
    config.evaluation = config.render = config.create_json = False
    config.checkpoint_interval = 0
    config.loggers = []
    config.save_folder = work["folder"]
    algorithm = algorithm_config_registry[work["algorithm"]].get_from_yaml()
    model = MlpConfig.get_from_yaml()
    for part, changes in ((config, "experiment"), (algorithm, "options"), (model, "model")):
        for name, value in work[changes].items():
            if not hasattr(part, name):
                raise ValueError(f"{changes} has no {name}.")
            setattr(part, name, value)
    if isinstance(model.activation_class, str):
        model.activation_class = getattr(torch.nn, model.activation_class)
    task = VmasTask.SIMPLE_SPREAD.get_from_yaml()
    task.config |= {"n_agents": work["n_agents"], "max_steps": work["horizon"]}
    return Experiment(
        task=task,
        algorithm_config=algorithm,
        model_config=model,
        seed=work["seed"],
        config=config,
        callbacks=[callback],
    )


def make_callback(**methods: Callable[[Any, str], None]) -> Any:
    """BenchMARL's callback with these methods, by their names."""
    from benchmarl.experiment import Callback

    class Local(Callback):
        def __reduce__(self) -> tuple:
            # The experiment pickles its callbacks, which a local class cannot be.
            return object, ()

    callback = Local()
    vars(callback).update(methods)
    return callback


def train(work: dict[str, Any], report: Callable[[dict[str, Any]], None]) -> None:
    """Train the peer, and report."""
    folder = Path(work["folder"])

    def store(policy: Any, name: str) -> str:
        path = folder / f"{name}.pt"
        torch.save(episodes_of(policy, work), path)
        return str(path)

    report({"random": store(None, "random")})

    def on_train_end(training_td: Any, group: str) -> None:
        weights = experiment.losses[group].parameters()
        finite = all(bool(weight.isfinite().all()) for weight in weights)
        budget.spent(experiment.total_frames, finite=finite)

    experiment = make_experiment(work, make_callback(on_train_end=on_train_end))
    policy = experiment.algorithm.get_policy_for_loss("agents")
    budget = Budget(
        interval=work["interval"],
        limit=work["limit"],
        frames=work["frames"],
        report=report,
        evaluate=lambda frames: store(policy, str(frames)),
    )
    budget.start()
    try:
        experiment.run()
    except Finished:
        return
    raise RuntimeError("The experiment has ended before its limit.")


def main(work: dict[str, Any], reports: TextIO) -> None:
    """Report the versions, then train."""
    torch.set_num_threads(1)

    def report(values: dict[str, Any]) -> None:
        print(json.dumps(values), file=reports, flush=True)

    report({**{name: version(name) for name in _LIBRARIES}, "python": platform.python_version()})
    train(work, report)


if __name__ == "__main__":
    # Libraries print to the standard output; the reports have a descriptor of their own.
    own = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    main(json.loads(sys.argv[1]), own)
