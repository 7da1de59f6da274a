"""The training loop: collect, store, update, evaluate, save."""

from __future__ import annotations

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
from torchrl_alita.algorithms import Learner
from torchrl_alita.envs import Task, environment_state, get_task, make_env
from torchrl_alita.layout import ACTION, ACTION_MASK, DONE, REWARD, next_key
from torchrl_alita.metrics import exploration_metrics
from torchrl_alita.modules import TeamExploration
from torchrl_alita.modules._acting import Acting
from torchrl_alita.training.buffers import Buffers
from torchrl_alita.training.collector_state import CollectorState
from torchrl_alita.training.config import TrainingConfig
from torchrl_alita.training.evaluation import evaluate
from torchrl_alita.training.figures import save_curves, save_gif, save_heat_map
from torchrl_alita.training.logging import Loggers, MetricsFile
from torchrl_alita.training.policy import init_policy
from torchrl_alita.training.random_state import (
    RandomState,
    preserve_random_state,
    seed_everything,
)
from torchrl_alita.training.run import RunDirectory, machine, plain_config

__all__ = ["check_finite", "train"]

# Evaluations start from the same states, which no training seed is near, and what is
# chosen among several policies is chosen on others.
_EVALUATION_SEED = 1_000_003
_SELECTION_SEED = 2_000_003


def train(
    config: TrainingConfig,
    make_algorithm: Callable[[EnvBase], Learner],
    *,
    task: Task | None = None,
) -> dict[str, Any]:
    """Train, evaluate and save, from a config alone.

    A run that was stopped, or killed, and is resumed goes on from its newest checkpoint bit
    for bit as if it had never stopped, also in the middle of an episode. That needs an
    environment that can give its state, see :func:`torchrl_alita.envs.environment_state`.
    With every other one all environments begin new episodes at each checkpoint, from a
    seed of their own, in the run that goes on as in the one that is resumed.

    Args:
        config: the run's config.
        make_algorithm: builds the algorithm for an environment.
        task: that of the run, for one whose options are the caller's. Default: the
            registered task of the config's name.

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
    """
    import_extra("tqdm", "recipes")
    session = _Session(config, make_algorithm, task or get_task(config.task))
    with session.loggers:
        return _train(session)


def _train(session: _Session) -> dict[str, Any]:
    config = session.config
    if config.resume is not None:
        print(f"Resumed at frame {session.frames:,}.")
    else:
        session.log(session.evaluate_chosen()[0])
        session.save()
    bar = import_extra("tqdm", "recipes").tqdm(
        total=config.total_frames,
        initial=session.frames,
        unit=" frames",
        unit_scale=True,
        disable=not config.progress,
    )
    with bar, _collect_interrupts() as interrupted:
        for collected in session.collector:
            logs = {"training/reward_mean": float(collected[next_key(REWARD)].mean())}
            logs |= _named("exploration", session.explored(collected))
            logs |= _named("training", session.learn(collected))
            if session.passed(config.evaluation_interval):
                result, _ = session.evaluate_chosen()
                logs |= result
                bar.set_postfix_str(f"return={result['evaluation/return_mean']:.1f}", refresh=False)
            session.log(logs)
            bar.update(collected.numel())
            if interrupted or session.passed(config.checkpoint_interval):
                session.save()
            if interrupted:
                print(f"\nStopped at frame {session.frames:,}. Resume with: {session.run.resume}")
                raise SystemExit(130)
    return session.finish()


class _Session:
    """What one run holds, new or resumed."""

    def __init__(
        self, config: TrainingConfig, make_algorithm: Callable[[EnvBase], Learner], task: Task
    ):
        if config.threads:
            torch.set_num_threads(config.threads)
        seed_everything(config.seed)
        self.config = config
        self.task = task
        options = {"n_agents": config.n_agents, "device": config.device, "horizon": config.horizon}
        self.env = make_env(task, num_envs=config.num_envs, seed=config.seed, **options)
        self.evaluation_env = make_env(
            task, num_envs=config.evaluation_episodes, seed=_EVALUATION_SEED, **options
        )
        self.algorithm = make_algorithm(self.env)
        self.env = self.algorithm.prepare(self.env)
        self.env, self.evaluation_env = map(self._with_memory, (self.env, self.evaluation_env))
        self.selection_env = None
        if len(self.algorithm.candidates()) > 1:
            self.selection_env = self._with_memory(
                make_env(task, num_envs=config.selection_episodes, seed=_SELECTION_SEED, **options)
            )
        self.noise = _exploration(config, self.algorithm)
        self.exploration = exploration_metrics(
            self.env, events=task.events(self.env) if task.events else ()
        )
        self.buffers = Buffers(config, self.algorithm)
        self.progress = {"frames": 0, "updates": 0, "wall_seconds": 0.0}
        self.collector = self._collector()
        if config.init_from is not None and config.resume is None:
            init_policy(self.algorithm, config.init_from)
        self.run = RunDirectory(
            config.resume or config.run_dir,
            config=config,
            resume=config.resume is not None,
            keep_checkpoints=config.keep_checkpoints,
        )
        if config.resume is not None:
            self._restore()
        self.resumed_at = dict(self.progress)
        self.started = time.perf_counter() - self.progress["wall_seconds"]
        self.metrics = MetricsFile(self.run.path / "metrics.csv", until=self.frames)
        self.loggers = Loggers(
            config.loggers,
            self.run.path,
            config=plain_config(config) | {"machine": machine()},
            labels=(config.algorithm, config.task),
            wandb=config.wandb,
        )

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
        independent = self.config.exploration == "independent"
        return Collector(
            self.env,
            TensorDictSequential(self.algorithm.actor, self.noise),
            frames_per_batch=self.config.frames_per_batch,
            total_frames=self.config.total_frames,
            init_random_frames=self.config.random_frames if independent else 0,
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
        if not self.algorithm.on_policy:
            self.buffers.extend(collected)
        if collected[next_key(DONE)].any():
            self.algorithm.start_episode()
        if self.algorithm.exploration is None:
            self.noise.step()
        logs = TensorDict()
        ready = self.algorithm.on_policy or self.buffers.ready
        if self.frames > self.config.random_frames and ready:
            for batches in self._batches(collected):
                logs = self.algorithm.update(batches)
                self.progress["updates"] += 1
            check_finite(logs, self.frames)
            logs.update(self.algorithm.health(collected))
        self.progress["wall_seconds"] = time.perf_counter() - self.started
        return {name: float(value) for name, value in logs.items()}

    def _batches(self, collected: TensorDictBase) -> Iterator[dict[str, TensorDictBase]]:
        """What each of the updates that a collected batch pays for is made of."""
        if self.algorithm.on_policy:
            yield {"rollout": collected}
            return
        for _ in range(self.config.frames_per_batch // self.config.frames_per_update):
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
            horizon=self.config.horizon,
            seed=seed,
            stop_when_done=self.config.stop_evaluations,
        )

    def passed(self, interval: int) -> bool:
        """Whether the last batch completed an interval, or the run."""
        before = self.frames - self.config.frames_per_batch
        ended = self.frames >= self.config.total_frames
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
            self.env.set_seed(self.config.seed + self.frames)
            self.collector.reset()
            self.algorithm.start_episode()

    def finish(self) -> dict[str, Any]:
        """Write the pictures and summary.json."""
        config = self.config
        logged, episodes = self.evaluate_chosen()
        result, selection = _group("evaluation", logged), _group("selection", logged)
        random_result, _ = self.evaluate(None)
        title = f"{config.algorithm} on {config.task}, {config.n_agents} agents"
        save_curves(
            self.run.path / "curve.png",
            {
                name: self.metrics.column(f"evaluation/{name}")
                for name in result
                if name != "return_std"
            },
            title=f"{title}, seed {config.seed}",
            baselines=random_result,
        )
        self._draw("rollout.gif", episodes[0])
        self._draw_exploration(title)
        frames = self.frames - self.resumed_at["frames"]
        seconds = self.progress["wall_seconds"] - self.resumed_at["wall_seconds"]
        summary = {
            "algorithm": config.algorithm,
            "task": config.task,
            "seed": config.seed,
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
        if self.config.exploration == "team":
            policy = TensorDictSequential(self.algorithm.actor, self.noise)
            policy = Acting(policy, ExplorationType.RANDOM)
            with preserve_random_state():
                self.evaluation_env.set_seed(_EVALUATION_SEED)
                episodes = self.evaluation_env.rollout(
                    self.config.horizon, policy, break_when_any_done=False
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


def _exploration(
    config: TrainingConfig, algorithm: Learner
) -> AdditiveGaussianModule | EGreedyModule | TeamExploration | _NoNoise:
    """Noise on continuous actions; a share of random one-hot ones. Both shrink."""
    if algorithm.exploration is not None:
        return algorithm.exploration
    if algorithm.stochastic:
        return _NoNoise()
    common = {
        "spec": algorithm.action_spec,
        "annealing_num_steps": max(1, config.noise_frames // config.frames_per_batch),
        "action_key": ACTION,
        "device": algorithm.device,
    }
    start, end = float(config.noise_start), float(config.noise_end)
    masked = algorithm.layout.discrete and algorithm.layout.masked
    mask = ACTION_MASK if masked else None
    if config.exploration == "team":
        return TeamExploration(
            **common,
            agreement=config.agreement,
            persistence=config.persistence,
            spread=config.spread,
            burst_length=config.burst_length,
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
