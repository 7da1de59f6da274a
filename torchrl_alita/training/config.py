"""What every recipe can set about its training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from torchrl_alita._checks import check_at_least_one, check_whole
from torchrl_alita.training.logging import LoggerName, WandbSettings

__all__ = ["TrainingConfig"]


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
    sequence_length: int = 1
    """Steps of the sequences of an update, for policies with a memory; a batch has as many of
    them as fit into batch_size."""
    burn_in: int = 0
    """Steps before each sequence that only bring the memory up to date."""
    buffer_size: int = 1_000_000
    """Most transitions stored (the paper: 1,000,000)."""
    recent_frames: int = 10_000
    """Newest transitions, on which the autoencoder is trained."""
    noise_start: float = 0.9
    """Standard deviation of the exploration noise at the start, in units of the action; for
    one-hot actions, the share of random ones."""
    noise_end: float = 0.1
    """Standard deviation of the exploration noise at the end."""
    noise_frames: int = 125_000
    """Environment steps over which the noise shrinks."""
    exploration: Literal["independent", "team"] = "independent"
    """Noise of each agent and step for itself, or noise that the team shares and keeps."""
    agreement: float = 0.9
    """Team exploration: probability that the agents explore alike."""
    persistence: float = 0.7
    """Team exploration: probability that a random action is kept at the next step."""
    spread: float = 0.0
    """Team exploration: how much its strength varies over the environments, from 0 to 1."""
    burst_length: float = 10.0
    """Team exploration: mean environment steps between two decisions to explore."""
    evaluation_interval: int = 25_000
    """Environment steps between two evaluations."""
    evaluation_episodes: int = 100
    """Episodes of an evaluation, always from the same initial states."""
    selection_episodes: int = 5
    """Other episodes, on which the best is chosen of an algorithm's several policies."""
    stop_evaluations: bool = False
    """End an evaluation with its last episode. Otherwise an environment whose episode has
    ended begins another one, to the horizon; only the first counts."""
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
    """Loggers beside metrics.csv: csv, tensorboard, wandb (offline by default)."""
    wandb: WandbSettings = field(default_factory=WandbSettings)
    """What Weights & Biases is told of the run."""
    progress: bool = True
    """Show a progress bar."""
    run_dir: Path | None = None
    """Directory of the run. Default: runs/ and a name with the time."""
    resume: Path | None = None
    """Directory of an earlier run to continue."""
    init_from: Path | None = None
    """Directory of an earlier run, or a checkpoint in it, whose policies this run starts from."""

    def __post_init__(self):
        if isinstance(self.wandb, Mapping):  # as config.json has it
            tags = tuple(self.wandb["tags"])
            self.wandb = WandbSettings(**{**self.wandb, "tags": tags})
        sizes = (
            "n_agents", "num_envs", "horizon", "total_frames", "frames_per_batch",
            "frames_per_update", "batch_size", "conditional_batch_size", "buffer_size",
            "recent_frames", "noise_frames", "evaluation_interval", "evaluation_episodes",
            "selection_episodes", "checkpoint_interval", "keep_checkpoints", "sequence_length",
        )  # fmt: skip
        known = {name: getattr(self, name) for name in sizes}
        check_at_least_one(**{name: size for name, size in known.items() if size is not None})
        check_whole(0, burn_in=self.burn_in)
        if self.batch_size % self.sequence_length:
            raise ValueError(
                f"batch_size must be a multiple of sequence_length, {self.sequence_length}, got "
                f"{self.batch_size}."
            )
        for name in ("num_envs", "frames_per_update"):
            if self.frames_per_batch % getattr(self, name):
                raise ValueError(
                    f"frames_per_batch must be a multiple of {name}, {getattr(self, name)}, "
                    f"got {self.frames_per_batch}."
                )
        if self.exploration not in ("independent", "team"):
            raise ValueError(
                f"exploration must be 'independent' or 'team', got {self.exploration!r}."
            )
        if not 0 <= self.noise_end <= self.noise_start:
            raise ValueError(
                f"noise_end must be at least 0 and at most noise_start, {self.noise_start}, "
                f"got {self.noise_end}."
            )
