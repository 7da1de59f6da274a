"""The training loop: collect, store, update, evaluate, save."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictSequential
from torchrl.checkpoint import Checkpoint, GlobalRNGState
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.envs import EnvBase
from torchrl.modules import AdditiveGaussianModule

from torchrl_alita._extras import import_extra
from torchrl_alita.algorithms import MADDPG
from torchrl_alita.envs import get_task, make_env
from torchrl_alita.envs.layout import ACTION, DONE, OBSERVATION, REWARD, TERMINATED, next_key
from torchrl_alita.training.evaluation import evaluate
from torchrl_alita.training.figures import save_curves, save_gif
from torchrl_alita.training.logging import LoggerName, MetricsFile, make_logger
from torchrl_alita.training.run import RunDirectory, machine, plain_config

__all__ = ["TrainingConfig", "check_finite", "train"]

# Evaluations start from the same states, which no training seed is near.
_EVALUATION_SEED = 1_000_003
_STORED = (OBSERVATION, ACTION, *map(next_key, (OBSERVATION, REWARD, DONE, TERMINATED)))


@dataclass
class TrainingConfig:
    """What every recipe can set about its training."""

    algorithm: str = "alita"
    """Name of the algorithm."""
    task: str = "vmas/spread"
    """Name of the task."""
    n_agents: int = 3
    """Agents."""
    num_envs: int = 100
    """Environments simulated together."""
    horizon: int = 100
    """Steps of an episode."""
    total_frames: int = 250_000
    """Environment steps of the whole run, counted over all environments."""
    frames_per_batch: int = 1_000
    """Environment steps between two rounds of updates."""
    frames_per_update: int = 100
    """Environment steps for each update (the paper: 100)."""
    random_frames: int = 5_000
    """Environment steps of uniform random actions at the start, without updates."""
    batch_size: int = 1_024
    """Transitions of an update (the paper: 1,024)."""
    conditional_batch_size: int = 1_024
    """Transitions of a conditional batch."""
    buffer_size: int = 1_000_000
    """Most transitions stored (the paper: 1,000,000)."""
    recent_frames: int = 10_000
    """Newest transitions, on which the autoencoder is trained."""
    noise_start: float = 0.9
    """Standard deviation of the exploration noise at the start, in units of the action."""
    noise_end: float = 0.1
    """Standard deviation of the exploration noise at the end."""
    noise_frames: int = 125_000
    """Environment steps over which the noise shrinks."""
    evaluation_interval: int = 25_000
    """Environment steps between two evaluations."""
    evaluation_episodes: int = 100
    """Episodes of an evaluation, always from the same initial states."""
    checkpoint_interval: int = 100_000
    """Environment steps between two checkpoints."""
    keep_checkpoints: int = 2
    """Newest checkpoints that stay on disk."""
    seed: int = 0
    """Of everything random."""
    device: str = "cpu"
    """Of the simulation, the buffer and the networks, as cpu or cuda:0."""
    threads: int | None = None
    """Threads of torch on the CPU. Default: torch's choice."""
    loggers: tuple[LoggerName, ...] = ()
    """Loggers beside metrics.csv: csv, tensorboard, wandb (offline unless logged in)."""
    progress: bool = True
    """Show a progress bar."""
    run_dir: Path | None = None
    """Directory of the run. Default: runs/ and a name with the time."""
    resume: Path | None = None
    """Directory of an earlier run to continue."""

    def __post_init__(self):
        for name in (
            "n_agents", "num_envs", "horizon", "total_frames", "frames_per_batch",
            "frames_per_update", "batch_size", "conditional_batch_size", "buffer_size",
            "recent_frames", "noise_frames", "evaluation_interval", "evaluation_episodes",
            "checkpoint_interval", "keep_checkpoints",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("num_envs", "frames_per_update"):
            if self.frames_per_batch % getattr(self, name):
                raise ValueError(
                    f"frames_per_batch must be a multiple of {name}, {getattr(self, name)}, "
                    f"got {self.frames_per_batch}."
                )
        if not 0 <= self.noise_end <= self.noise_start:
            raise ValueError(
                f"noise_end must be at least 0 and at most noise_start, {self.noise_start}, "
                f"got {self.noise_end}."
            )


def train(config: TrainingConfig, make_algorithm: Callable[[EnvBase], MADDPG]) -> dict[str, Any]:
    """Train, evaluate and save, from a config alone.

    Args:
        config: the run's config.
        make_algorithm: builds the algorithm for an environment.

    Returns:
        The content of summary.json.

    Raises:
        ValueError: for a config that cannot work, a folder that cannot be resumed, or a
            NaN or infinity in a batch or a loss; the key and the frame are named and
            the last checkpoint stays.
        ImportError: if an extra is missing; it is named.
        SystemExit: after Ctrl-C, when a checkpoint has been written.
    """
    progress_bar = import_extra("tqdm", "recipes").tqdm
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    task = get_task(config.task)
    env, evaluation_env = _environments(config)
    algorithm = make_algorithm(env)
    noise = AdditiveGaussianModule(
        spec=algorithm.action_spec,
        sigma_init=float(config.noise_start),
        sigma_end=float(config.noise_end),
        annealing_num_steps=max(1, config.noise_frames // config.frames_per_batch),
        action_key=ACTION,
        device=algorithm.device,
    )
    buffers = _Buffers(config, algorithm)
    progress = {"frames": 0, "updates": 0, "wall_seconds": 0.0, "rows": 0}
    checkpoint = Checkpoint(
        algorithm=algorithm,
        noise=noise,
        progress=progress,
        random_state=GlobalRNGState(),
        **buffers.components(),
    )
    run = RunDirectory(
        config.resume or config.run_dir,
        config=config,
        resume=config.resume is not None,
        keep_checkpoints=config.keep_checkpoints,
    )
    if config.resume is not None:
        run.load(checkpoint)
        # New episodes begin here, from other states than those at the start.
        env.set_seed(config.seed + progress["frames"])
    metrics = MetricsFile(run.path / "metrics.csv", until=progress["frames"])
    loggers = [
        make_logger(name, run.path, run_name=run.path.name, config=plain_config(config))
        for name in config.loggers
    ]

    def evaluation() -> tuple[dict[str, float], TensorDictBase]:
        return evaluate(
            algorithm.actor,
            evaluation_env,
            task.metrics,
            horizon=config.horizon,
            seed=_EVALUATION_SEED,
        )

    def log(values: dict[str, float]) -> None:
        row = {name: progress[name] for name in ("frames", "updates", "wall_seconds")}
        metrics.write(row | values)
        for logger in loggers:
            for name, value in values.items():
                logger.log_scalar(name, value, step=progress["frames"])

    collector = Collector(
        env,
        TensorDictSequential(algorithm.actor, noise),
        frames_per_batch=config.frames_per_batch,
        total_frames=config.total_frames - progress["frames"],
        init_random_frames=max(0, config.random_frames - progress["frames"]),
        auto_register_policy_transforms=False,
    )
    if progress["frames"] == 0:
        log(_named("evaluation", evaluation()[0]))
    shown = progress_bar(
        total=config.total_frames,
        initial=progress["frames"],
        unit=" frames",
        unit_scale=True,
        disable=not config.progress,
    )
    started = time.perf_counter() - progress["wall_seconds"]
    first_frame, first_second = progress["frames"], progress["wall_seconds"]
    with shown, _stop_on_interrupt() as interrupted:
        for collected in collector:
            progress["frames"] += collected.numel()
            frames = progress["frames"]
            check_finite(collected, frames)
            buffers.extend(collected)
            if collected[next_key(DONE)].any():
                algorithm.start_episode()
            noise.step()
            logs = TensorDict()
            if frames > config.random_frames:
                for _ in range(config.frames_per_batch // config.frames_per_update):
                    logs = algorithm.update(*buffers.sample())
                    progress["updates"] += 1
                check_finite(logs, frames)
                logs.update(algorithm.health(collected))
            progress["wall_seconds"] = time.perf_counter() - started
            values = {"training/reward_mean": float(collected[next_key(REWARD)].mean())}
            values |= _named("training", {k: float(v) for k, v in logs.items()})
            if _passed(frames, config.evaluation_interval, config) or interrupted:
                result, _ = evaluation()
                values |= _named("evaluation", result)
                shown.set_postfix(**{"return": f"{result['return_mean']:.1f}"}, refresh=False)
            log(values)
            shown.update(collected.numel())
            if _passed(frames, config.checkpoint_interval, config) or interrupted:
                run.save(checkpoint, frames=frames)
            if interrupted:
                print(f"\nStopped at frame {frames:,}. Resume with: {run.resume_command()}")
                raise SystemExit(130)
    collector.shutdown()
    result, episodes = evaluation()
    random_result, _ = evaluate(
        None, evaluation_env, task.metrics, horizon=config.horizon, seed=_EVALUATION_SEED
    )
    _draw(run, metrics, task, episodes, random_result, config)
    seconds = progress["wall_seconds"]
    summary = {
        "algorithm": config.algorithm,
        "task": config.task,
        "seed": config.seed,
        "frames": progress["frames"],
        "updates": progress["updates"],
        "wall_seconds": seconds,
        "frames_per_second": (progress["frames"] - first_frame) / max(seconds - first_second, 1e-9),
        "evaluation": result,
        "random_team": random_result,
        "machine": machine(),
    }
    run.write_json("summary.json", summary)
    for logger in loggers:
        _close(logger)
    return summary | {"run_dir": str(run.path)}


class _Buffers:
    """Replay of everything, of D_t for each estimator, and of what is recent."""

    def __init__(self, config: TrainingConfig, algorithm: MADDPG):
        def buffer(size: int, batch_size: int) -> ReplayBuffer:
            storage = LazyTensorStorage(min(size, config.total_frames), device=algorithm.device)
            return ReplayBuffer(storage=storage, batch_size=batch_size)

        self.replay = buffer(config.buffer_size, config.batch_size)
        self.recent = buffer(config.recent_frames, config.batch_size)
        self.conditional = [
            ReplayBuffer(
                storage=self.replay.storage,
                sampler=sampler,
                batch_size=config.conditional_batch_size,
            )
            for sampler in algorithm.conditional_samplers
        ]

    def extend(self, collected: TensorDictBase) -> None:
        # Step by step over all environments, so that the last rows are the newest.
        stored = collected.select(*_STORED).transpose(0, 1).reshape(-1)
        self.replay.extend(stored)
        self.recent.extend(stored.select(OBSERVATION, ACTION))

    def sample(self) -> tuple[TensorDictBase, list[TensorDictBase], TensorDictBase]:
        conditional = [buffer.sample() for buffer in self.conditional]
        return self.replay.sample(), conditional, self.recent.sample()

    def components(self) -> dict[str, Any]:
        samplers = {
            f"conditional_sampler_{i}": buffer.sampler for i, buffer in enumerate(self.conditional)
        }
        return {"replay": self.replay, "recent": self.recent, **samplers}


def _environments(config: TrainingConfig) -> tuple[EnvBase, EnvBase]:
    common = {"n_agents": config.n_agents, "device": config.device, "horizon": config.horizon}
    training = make_env(config.task, num_envs=config.num_envs, seed=config.seed, **common)
    evaluation = make_env(
        config.task, num_envs=config.evaluation_episodes, seed=_EVALUATION_SEED, **common
    )
    return training, evaluation


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


def _passed(frames: int, interval: int, config: TrainingConfig) -> bool:
    """Whether the last batch completed an interval, or the run."""
    before = frames - config.frames_per_batch
    return frames // interval > before // interval or frames >= config.total_frames


@contextmanager
def _stop_on_interrupt() -> Iterator[list[int]]:
    """Collects Ctrl-C, so that the loop stops between two batches; a second one is at once."""
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


def _named(group: str, values: dict[str, float]) -> dict[str, float]:
    return {f"{group}/{name}": value for name, value in values.items()}


def _draw(run, metrics, task, episodes, random_result, config) -> None:
    names = [name for name in random_result if name != "return_std"]
    save_curves(
        run.path / "curve.png",
        {name: metrics.column(f"evaluation/{name}") for name in names},
        title=f"{config.algorithm} on {config.task}, {config.n_agents} agents, seed {config.seed}",
        baselines=random_result,
    )
    save_gif(run.path / "rollout.gif", task.draw(episodes[0]))


def _close(logger: Any) -> None:
    if type(logger).__name__ == "WandbLogger":
        logger.experiment.finish()
    elif type(logger).__name__ == "TensorboardLogger":
        logger.experiment.close()
