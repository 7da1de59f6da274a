"""The training loop: collect, store, update, evaluate, save."""

from __future__ import annotations

import dataclasses
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase, TensorDictSequential
from torchrl.collectors import Collector
from torchrl.envs import EnvBase, ExplorationType
from torchrl.modules import AdditiveGaussianModule, EGreedyModule

from torchrl_alita._extras import import_extra
from torchrl_alita.algorithms import Learner, LearnerSettings, algorithm_of, get_algorithm
from torchrl_alita.envs import Task, environment_state, make_env
from torchrl_alita.layout import ACTION, ACTION_MASK, DONE, REWARD, next_key
from torchrl_alita.metrics import exploration_metrics
from torchrl_alita.modules import TeamExploration
from torchrl_alita.modules._acting import Acting
from torchrl_alita.training.buffers import Buffers
from torchrl_alita.training.collector_state import CollectorState
from torchrl_alita.training.config import Config, plain_config
from torchrl_alita.training.evaluation import evaluate
from torchrl_alita.training.figures import save_curves, save_gif, save_heat_map
from torchrl_alita.training.logging import Loggers, MetricsFile
from torchrl_alita.training.policy import init_policy
from torchrl_alita.training.random_state import (
    RandomState,
    preserve_random_state,
    seed_everything,
)
from torchrl_alita.training.run import RunDirectory, machine, read_config

__all__ = ["check_finite", "make_exploration", "start", "train"]

# Evaluations start from the same states, which no training seed is near, and what is
# chosen among several policies is chosen on others.
_EVALUATION_SEED = 1_000_003
_SELECTION_SEED = 2_000_003


def train(
    config: Config,
    *,
    task: Task | None = None,
    make_algorithm: Callable[[EnvBase, LearnerSettings], Learner] | None = None,
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
        ValueError: for a config that cannot work, a folder that cannot be resumed, a
            damaged checkpoint, or a NaN or infinity in a batch or a loss; the key and the
            frame are named and the last checkpoint stays.
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
    with start(config, task=task, make_algorithm=make_algorithm) as session:
        return session.run_to_end()


@contextmanager
def start(
    config: Config,
    *,
    task: Task | None = None,
    make_algorithm: Callable[[EnvBase, LearnerSettings], Learner] | None = None,
) -> Iterator[_Session]:
    """All that a run needs, built and checked, new or resumed. Arguments as of :func:`train`."""
    import_extra("tqdm", "recipes")
    threads = torch.get_num_threads()
    if config.training.threads is not None:
        torch.set_num_threads(config.training.threads)
    try:
        build = make_algorithm or get_algorithm(algorithm_of(config.algorithm))
        session = _Session(_with_compile(config), build, task or config.find_task())
        with session.loggers:
            yield session
    finally:
        torch.set_num_threads(threads)


def _with_compile(config: Config) -> Config:
    """The config that says whether updates are compiled: in a resumed run, as before."""
    settings = config.algorithm
    if getattr(settings, "compile", True) is not None:
        return config
    if config.training.resume is not None:
        chosen = read_config(config.training.resume).get("algorithm", {}).get("compile")
    else:
        frames = config.training.total_frames - settings.random_frames
        chosen = frames // settings.frames_per_update > settings.eager_updates
    return dataclasses.replace(config, algorithm=dataclasses.replace(settings, compile=chosen))


class _Session:
    """What one run holds, new or resumed."""

    def __init__(
        self,
        config: Config,
        make_algorithm: Callable[[EnvBase, LearnerSettings], Learner],
        task: Task,
    ):
        self.config, self.task = config, task
        training = self.training = config.training
        self.horizon = task.horizon if training.horizon is None else training.horizon
        seed_everything(training.seed)
        options = {
            "n_agents": training.n_agents,
            "device": training.device,
            "horizon": self.horizon,
        }
        self.env = make_env(task, num_envs=training.num_envs, seed=training.seed, **options)
        self.evaluation_env = make_env(
            task, num_envs=training.evaluation_episodes, seed=_EVALUATION_SEED, **options
        )
        self.algorithm = make_algorithm(self.env, config.algorithm)
        self.env = self.algorithm.prepare(self.env)
        self.env, self.evaluation_env = map(self._with_memory, (self.env, self.evaluation_env))
        self.selection_env = None
        if len(self.algorithm.candidates()) > 1:
            episodes = training.selection_episodes
            self.selection_env = self._with_memory(
                make_env(task, num_envs=episodes, seed=_SELECTION_SEED, **options)
            )
        self.noise = make_exploration(config, self.algorithm)
        self.exploration = exploration_metrics(
            self.env, events=task.events(self.env) if task.events else ()
        )
        self.buffers = Buffers(config, self.algorithm)
        self.progress = {"frames": 0, "updates": 0, "episodes": 0, "wall_seconds": 0.0}
        self.collector = self._collector()
        if training.init_from is not None and training.resume is None:
            init_policy(self.algorithm, training.init_from)
        plain = plain_config(config)
        self.run = RunDirectory(
            training.resume or training.run_dir,
            config=plain,
            resume=training.resume is not None,
            keep_checkpoints=training.keep_checkpoints,
        )
        if training.resume is not None:
            self._restore()
        self.resumed_at = dict(self.progress)
        self.started = time.perf_counter() - self.progress["wall_seconds"]
        self.metrics = MetricsFile(self.run.path / "metrics.csv", until=self.frames)
        self.loggers = Loggers(
            training.loggers,
            self.run.path,
            config=plain | {"machine": machine()},
            labels=(config.algorithm_name, config.task),
            wandb=training.wandb,
        )

    def run_to_end(self) -> dict[str, Any]:
        """Collect, learn, evaluate and save; the content of summary.json."""
        training = self.training
        if training.resume is not None:
            print(f"Resumed at frame {self.frames:,}.")
        else:
            self.log(self.evaluate_chosen()[0])
            self.save()
        bar = import_extra("tqdm", "recipes").tqdm(
            total=training.total_frames,
            initial=self.frames,
            unit=" frames",
            unit_scale=True,
            disable=not training.progress,
        )
        with bar, _collect_interrupts() as interrupted:
            for collected in self.collector:
                logs = {"training/reward_mean": float(collected[next_key(REWARD)].mean())}
                logs |= _named("exploration", self.explored(collected))
                logs |= _named("training", self.learn(collected))
                if self.passed(training.evaluation_interval):
                    result, _ = self.evaluate_chosen()
                    logs |= result
                    bar.set_postfix_str(
                        f"return={result['evaluation/return_mean']:.1f}", refresh=False
                    )
                self.log(logs)
                bar.update(collected.numel())
                if interrupted or self.passed(training.checkpoint_interval):
                    self.save()
                if interrupted:
                    print(f"\nStopped at frame {self.frames:,}. Resume with: {self.run.resume}")
                    raise SystemExit(130)
        return self.finish()

    def _with_memory(self, env: EnvBase) -> EnvBase:
        for transform in self.algorithm.env_transforms():
            env = env.append_transform(transform)
        return env

    @property
    def components(self) -> dict[str, Any]:
        """All that shapes the future of the run, as a checkpoint has it."""
        environments = {
            "environment": environment_state(self.env),
            "evaluation_environment": environment_state(self.evaluation_env),
        }
        if self.selection_env is not None:
            environments["selection_environment"] = environment_state(self.selection_env)
        exact = {name: state for name, state in environments.items() if state is not None}
        return {
            "algorithm": self.algorithm,
            # Also in the algorithm: for those who want nothing else of it.
            "policy": self.algorithm.actor,
            "noise": self.noise,
            "exploration": self.exploration,
            "buffers": self.buffers,
            "collector": CollectorState(self.collector, mid_episode="environment" in exact),
            "progress": self.progress,
            "random_state": RandomState(),
            **exact,
        }

    @property
    def frames(self) -> int:
        """Environment steps made so far."""
        return self.progress["frames"]

    def _collector(self) -> Collector:
        """A batch ``[B, T]`` at a time, to the end of the run."""
        # The frames that a collector draws by itself no exploration module can shape.
        random_frames = getattr(self.config.algorithm, "random_frames", 0)
        independent = self.training.exploration == "independent"
        return Collector(
            self.env,
            TensorDictSequential(self.algorithm.actor, self.noise),
            frames_per_batch=self.training.frames_per_batch,
            total_frames=self.training.total_frames,
            init_random_frames=random_frames if independent else 0,
            track_traj_ids=False,
            auto_register_policy_transforms=False,
        )

    def explored(self, collected: TensorDictBase) -> dict[str, float]:
        """What all batches so far have explored."""
        return {name: float(value) for name, value in self.exploration(collected).items()}

    def learn(self, collected: TensorDictBase) -> dict[str, float]:
        """Store a batch and make the updates that it pays for; the last one's logs."""
        self.progress["frames"] += collected.numel()
        check_finite(collected, self.frames)
        self.buffers.extend(collected)
        self._begin_episode(collected)
        self.algorithm.observe(collected)
        if self.algorithm.exploration is None:
            self.noise.step()
        logs = TensorDict()
        ready = self.algorithm.on_policy or self.buffers.ready
        if self.frames > getattr(self.config.algorithm, "random_frames", 0) and ready:
            for batches in self._batches(collected):
                logs = self.algorithm.update(batches)
                self.progress["updates"] += 1
            check_finite(logs, self.frames)
            logs.update(self.algorithm.health(collected))
        self.progress["wall_seconds"] = time.perf_counter() - self.started
        return {name: float(value) for name, value in logs.items()}

    def _begin_episode(self, collected: TensorDictBase) -> None:
        """Tell the algorithm that an episode begins, once for as many as there are environments.

        Environments end their episodes at different steps: with each of them alone, what is
        set back at an episode's start would be set back at every batch.
        """
        ended = int(collected[next_key(DONE)].sum())
        self.progress["episodes"] += ended
        if self.progress["episodes"] // self.training.num_envs > (
            (self.progress["episodes"] - ended) // self.training.num_envs
        ):
            self.algorithm.start_episode()

    def _batches(self, collected: TensorDictBase) -> Iterator[dict[str, TensorDictBase]]:
        """What each of the updates that a collected batch pays for is made of."""
        if self.algorithm.on_policy:
            yield {"rollout": collected}
            return
        for _ in range(self.training.frames_per_batch // self.config.algorithm.frames_per_update):
            yield self.buffers.sample()

    def evaluate_chosen(self) -> tuple[dict[str, float], TensorDictBase]:
        """What is logged of the run's policy, and its episodes.

        Where the algorithm has several policies, it is the one that is best on other
        episodes than those reported.
        """
        candidates = self.algorithm.candidates()
        if len(candidates) == 1:
            result, episodes = self.evaluate(candidates[0])
            return _named("evaluation", result), episodes
        returns = [
            self.evaluate(policy, env=self.selection_env, seed=_SELECTION_SEED)[0]["return_mean"]
            for policy in candidates
        ]
        chosen = returns.index(max(returns))
        result, episodes = self.evaluate(candidates[chosen])
        selection = {f"return_{k}": value for k, value in enumerate(returns)} | {"chosen": chosen}
        return _named("evaluation", result) | _named("selection", selection), episodes

    def evaluate(
        self, policy: Any, *, env: EnvBase | None = None, seed: int = _EVALUATION_SEED
    ) -> tuple[dict[str, float], TensorDictBase]:
        """Figures of merit of a policy, or of a random team for None, and its episodes."""
        return evaluate(
            policy,
            self.evaluation_env if env is None else env,
            self.task.metrics,
            horizon=self.horizon,
            seed=seed,
            stop_when_done=self.training.stop_evaluations,
        )

    def passed(self, interval: int) -> bool:
        """Whether the last batch completed an interval, or the run."""
        before = self.frames - self.training.frames_per_batch
        ended = self.frames >= self.training.total_frames
        return ended or self.frames // interval > before // interval

    def log(self, values: Mapping[str, float]) -> None:
        self.metrics.write(self.progress | dict(values))
        self.loggers.log(values, step=self.frames)

    def save(self) -> None:
        components = self.components
        self.run.checkpoints.save(components, frames=self.frames)
        if "environment" not in components:
            self._begin_episodes()

    def _restore(self) -> None:
        components = self.components
        self.run.checkpoints.load(components)
        if "environment" not in components:
            self._begin_episodes()

    def _begin_episodes(self) -> None:
        """What an environment cannot give back begins anew, here and when resumed."""
        if self.frames:
            self.env.set_seed(self.training.seed + self.frames)
            self.collector.reset()
            self.algorithm.start_episode()

    def finish(self) -> dict[str, Any]:
        """Write the pictures and summary.json."""
        config = self.config
        logged, episodes = self.evaluate_chosen()
        result, selection = _group("evaluation", logged), _group("selection", logged)
        random_result, _ = self.evaluate(None)
        num_agents = self.algorithm.layout.num_agents
        title = f"{config.algorithm_name} on {config.task}, {num_agents} agents"
        save_curves(
            self.run.path / "curve.png",
            {
                name: self.metrics.column(f"evaluation/{name}")
                for name in result
                if name != "return_std"
            },
            title=f"{title}, seed {self.training.seed}",
            baselines=random_result,
        )
        self._draw("rollout.gif", episodes[0])
        self._draw_exploration(title)
        frames = self.frames - self.resumed_at["frames"]
        seconds = self.progress["wall_seconds"] - self.resumed_at["wall_seconds"]
        summary = {
            "algorithm": config.algorithm_name,
            "task": config.task,
            "seed": self.training.seed,
            **self.progress,
            "frames_per_second": frames / seconds if frames else None,
            "evaluation": result,
            **({"selection": selection} if selection else {}),
            "random_team": random_result,
            "exploration": {
                # JSON knows no NaN.
                name: None if value.isnan() else float(value)
                for name, value in self.exploration.metrics().items()
            },
            "machine": machine(),
        }
        self.run.write_json("summary.json", summary)
        self.loggers.finish(
            summary,
            step=self.frames,
            gif=self.run.path / "rollout.gif",
            checkpoint=self.run.checkpoints.latest(),
        )
        return summary | {"run_dir": str(self.run.path)}

    def _draw_exploration(self, title: str) -> None:
        """Where the team was, if its task has a map, and how it explores together."""
        maps = self.exploration.maps()
        if maps:
            walls = getattr(self.env, "walls", None)
            save_heat_map(self.run.path / "visits.png", maps, title=title, walls=walls)
        if self.training.exploration == "team":
            policy = TensorDictSequential(self.algorithm.actor, self.noise)
            policy = Acting(policy, ExplorationType.RANDOM)
            with preserve_random_state():
                self.evaluation_env.set_seed(_EVALUATION_SEED)
                episodes = self.evaluation_env.rollout(
                    self.horizon, policy, break_when_any_done=False
                )
            # The last environment is the one that explores most.
            self._draw("exploration.gif", episodes[-1])

    def _draw(self, name: str, episode: TensorDictBase) -> None:
        """The task's picture of an episode; one that fails costs the picture, not the run."""
        if self.task.draw is None:
            return
        try:
            save_gif(self.run.path / name, self.task.draw(episode))
        except Exception as error:
            print(f"No {name}: {type(error).__name__}: {error}")


class _NoNoise(TensorDictModuleBase):
    """For a policy that explores by itself."""

    in_keys: list = []
    out_keys: list = []

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        return tensordict

    def step(self) -> None:
        """Nothing shrinks."""


def make_exploration(
    config: Config, algorithm: Learner
) -> AdditiveGaussianModule | EGreedyModule | TeamExploration | _NoNoise:
    """What follows the policies in training, so that they explore.

    Noise on continuous actions, a share of random one-hot ones; both shrink.

    Args:
        config: of the run.
        algorithm: whose policies explore.

    Returns:
        A module that reads and writes the actions, with a ``step``.
    """
    if algorithm.exploration is not None:
        return algorithm.exploration
    if algorithm.stochastic:
        return _NoNoise()
    training, settings = config.training, config.algorithm
    steps = settings.noise_frames // training.frames_per_batch
    common = {
        "spec": algorithm.action_spec,
        "annealing_num_steps": max(1, steps),
        "action_key": ACTION,
        "device": algorithm.device,
    }
    start, end = settings.noise_start, settings.noise_end
    masked = algorithm.layout.discrete and algorithm.layout.masked
    mask = ACTION_MASK if masked else None
    if training.exploration == "team":
        return TeamExploration(
            **common,
            agreement=training.agreement,
            persistence=training.persistence,
            spread=training.spread,
            burst_length=training.burst_length,
            eps_init=start,
            eps_end=end,
            action_mask_key=mask,
        )
    if algorithm.layout.discrete:
        return EGreedyModule(eps_init=start, eps_end=end, action_mask_key=mask, **common)
    return AdditiveGaussianModule(sigma_init=start, sigma_end=end, **common)


def check_finite(values: TensorDictBase, frame: int) -> None:
    """Stop at the first NaN or infinity.

    Args:
        values: a batch or logs.
        frame: environment steps made so far.

    Raises:
        ValueError: if an entry is not finite; its key and the frame are named.

    Examples:
        >>> from tensordict import TensorDict
        >>> check_finite(TensorDict({"reward": torch.tensor([1.0, torch.nan])}), 7)
        Traceback (most recent call last):
        ...
        ValueError: 1 of 2 values of reward are not finite, at frame 7.
    """
    for key, value in values.items(True, True):
        if value.is_floating_point() and not torch.isfinite(value).all():
            bad = int((~torch.isfinite(value)).sum())
            raise ValueError(
                f"{bad} of {value.numel()} values of {key} are not finite, at frame {frame}."
            )


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


def _named(group: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{group}/{name}": value for name, value in values.items()}


def _group(group: str, values: Mapping[str, float]) -> dict[str, float]:
    """What :func:`_named` was given."""
    prefix = f"{group}/"
    return {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}
