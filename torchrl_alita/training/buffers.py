"""The replay buffers of a run."""

from __future__ import annotations

from typing import Any

from tensordict import TensorDictBase
from torchrl.data import LazyTensorStorage, ReplayBuffer

from torchrl_alita.algorithms import MADDPG
from torchrl_alita.envs.layout import (
    ACTION,
    ACTION_MASK,
    DONE,
    OBSERVATION,
    REWARD,
    TERMINATED,
    next_key,
)
from torchrl_alita.training.config import TrainingConfig

__all__ = ["Buffers"]

_STORED = (OBSERVATION, ACTION, *map(next_key, (OBSERVATION, REWARD, DONE, TERMINATED)))


class Buffers:
    """Replay of everything, of D_t for each estimator, and of what is recent."""

    def __init__(self, config: TrainingConfig, algorithm: MADDPG):
        def buffer(size: int, batch_size: int) -> ReplayBuffer:
            storage = LazyTensorStorage(min(size, config.total_frames), device=algorithm.device)
            return ReplayBuffer(storage=storage, batch_size=batch_size)

        masks = (ACTION_MASK, next_key(ACTION_MASK)) if algorithm.layout.masked else ()
        self.stored = (*_STORED, *masks)
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
        stored = collected.select(*self.stored).transpose(0, 1).reshape(-1)
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
