"""The replay buffers of a run."""

from __future__ import annotations

from typing import Any

from tensordict import TensorDict, TensorDictBase
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
        self.stored = (*_STORED, *masks, *algorithm.stored_keys)
        self.algorithm = algorithm
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
        recent = self.algorithm.recent_rows(stored).select(OBSERVATION, ACTION)
        if len(recent):
            self.recent.extend(recent)

    def sample(self) -> tuple[TensorDictBase, list[TensorDictBase], TensorDictBase | None]:
        conditional = [buffer.sample() for buffer in self.conditional]
        recent = self.recent.sample if self.algorithm.reads_recent else lambda: None
        return self.replay.sample(), conditional, recent()

    def state_dict(self) -> dict[str, Any]:
        """What is stored, where the next row goes, and what the samplers know."""
        return {
            "replay": _state_of(self.replay),
            "recent": _state_of(self.recent),
            "conditional_samplers": [buffer.sampler.state_dict() for buffer in self.conditional],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state.

        Raises:
            ValueError: if it is of other conditional samplers or does not fit in.
        """
        samplers = state_dict["conditional_samplers"]
        if len(samplers) != len(self.conditional):
            raise ValueError(
                f"The state has {len(samplers)} conditional samplers, not {len(self.conditional)}."
            )
        _restore(self.replay, state_dict["replay"])
        _restore(self.recent, state_dict["recent"])
        # After the replay: filling it told them of rows that are not new.
        for buffer, state in zip(self.conditional, samplers, strict=True):
            buffer.sampler.load_state_dict(state)


def _state_of(buffer: ReplayBuffer) -> dict[str, Any]:
    """Plain data. TorchRL's own state has the rows not yet written too, often most of them."""
    rows = buffer.storage[:] if len(buffer) else TensorDict()
    # A view would be saved with all the memory that it is a part of.
    whole = len(buffer) == buffer.storage.max_size
    return {
        "rows": (rows if whole else rows.clone()).state_dict(),
        "writer": buffer.writer.state_dict(),
        "sampler": buffer.sampler.state_dict(),
    }


def _restore(buffer: ReplayBuffer, state: dict[str, Any]) -> None:
    rows = TensorDict().load_state_dict(state["rows"], strict=False)
    count = rows.batch_size.numel() if rows.batch_size else 0
    if count > buffer.storage.max_size:
        raise ValueError(f"{count} rows do not fit into a buffer of {buffer.storage.max_size}.")
    if len(buffer):
        buffer.empty()
    if count:
        buffer.extend(rows)
    buffer.writer.load_state_dict(state["writer"])
    buffer.sampler.load_state_dict(state["sampler"])
