"""The replay buffers of a run."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.envs import BurnInTransform, ExplorationType, set_exploration_type
from torchrl.modules import set_recurrent_mode

from torchrl_alita.algorithms import Learner
from torchrl_alita.data import SequenceSampler, as_sequences
from torchrl_alita.layout import (
    ACTION,
    ACTION_MASK,
    DONE,
    OBSERVATION,
    RECURRENT_STATE,
    REWARD,
    TERMINATED,
    next_key,
)
from torchrl_alita.training.config import Config

__all__ = ["Buffers"]

_STORED = (OBSERVATION, ACTION, *map(next_key, (OBSERVATION, REWARD, DONE, TERMINATED)))


class Buffers:
    """Replay of everything, of D_t for each estimator, and of what is recent.

    For policies with a memory the replay is of sequences ``[B, T]``. Their memory begins with
    what it was when they were collected, and a burn-in brings it up to date (R2D2,
    https://openreview.net/forum?id=r1lyTjAqYX); that of the target policies begins with the
    same. D_t is of sequences of one step ``[B, 1]``. A stream of several steps is of runs
    ``[B, steps]`` from the replay.

    Raises:
        ValueError: if a sequence or a run does not fit into the buffer.
    """

    def __init__(self, config: Config, algorithm: Learner):
        training, settings = config.training, algorithm.settings

        def buffer(size: int, batch_size: int, **options) -> ReplayBuffer:
            storage = LazyTensorStorage(size, device=algorithm.device)
            return ReplayBuffer(storage=storage, batch_size=batch_size, **options)

        masks = (ACTION_MASK, next_key(ACTION_MASK)) if algorithm.layout.masked else ()
        own = (*algorithm.in_keys, *algorithm.stored_keys)
        self.stored = tuple(dict.fromkeys((*_STORED, *masks, *own)))
        self.algorithm = algorithm
        self.num_envs = training.num_envs
        self.burn_in: BurnInTransform | None = None
        self.streams = algorithm.replays()
        self.drawn: dict[str, ReplayBuffer] = {}
        if not self.streams:
            return
        # A run makes whole batches.
        made = training.total_frames + -training.total_frames % training.frames_per_batch
        size = min(settings.buffer_size, made)
        length = max(stream.steps for stream in self.streams.values())
        if algorithm.recurrent:
            length = settings.burn_in + settings.sequence_length
        if algorithm.recurrent or self._runs():
            # Whole steps of all environments, or a sequence would jump to another one.
            size -= size % training.num_envs
            if size < length * training.num_envs:
                raise ValueError(
                    f"The buffer of {size} frames, the least of buffer_size and total_frames, holds no "
                    f"{length} steps of {training.num_envs} environments: train for more frames or on "
                    f"fewer environments, or draw shorter sequences."
                )
        if algorithm.recurrent:
            self.burn_in = BurnInTransform([algorithm.actor], settings.burn_in, [RECURRENT_STATE])
            sampler = SequenceSampler(num_envs=training.num_envs, length=length)
            sequences = settings.batch_size // settings.sequence_length
            self.replay = buffer(size, sequences * length, sampler=sampler)
        else:
            self.replay = buffer(size, settings.batch_size)
        for name, stream in self.streams.items():
            batch_size = stream.batch_size or settings.batch_size
            same = stream.batch_size in (None, self.replay.batch_size)
            if stream.window is not None:
                window = min(stream.window, made)
                self.drawn[name] = buffer(window, batch_size)
            elif stream.in_order:
                self.drawn[name] = ReplayBuffer(
                    storage=self.replay.storage,
                    sampler=SequenceSampler(
                        num_envs=training.num_envs,
                        length=stream.steps,
                        rewarded_share=stream.rewarded_share,
                    ),
                    batch_size=batch_size * stream.steps,
                )
            elif stream.sampler is not None or not same:
                self.drawn[name] = ReplayBuffer(
                    storage=self.replay.storage, sampler=stream.sampler, batch_size=batch_size
                )
            else:
                self.drawn[name] = self.replay

    @property
    def ready(self) -> bool:
        """Whether a batch can be drawn: sequences need as many steps of each environment."""
        storage = self.replay.storage
        samplers = [self.drawn[name].sampler for name in self._runs()]
        if self.burn_in is not None:
            samplers.append(self.replay.sampler)
        return all(sampler.can_sample(storage) for sampler in samplers)

    def cut(self) -> None:
        """Say that what is stored next does not go on from what is stored last.

        A run or a sequence over this place ends there, as at a time limit.
        """
        in_order = self._runs() or self.burn_in is not None
        if in_order and len(self.replay):
            end = int(self.replay.writer.state_dict()["_cursor"])
            newest = torch.arange(end - self.num_envs, end) % len(self.replay)
            self.replay.storage[:].get(next_key(DONE))[newest] = True

    def extend(self, collected: TensorDictBase) -> None:
        """Store what was collected, ``[B, T]``; of an on-policy algorithm nothing."""
        if not self.streams:
            return
        # Step by step over all environments, so that the last rows are the newest.
        # What a loss reads of its own making is not there yet.
        stored = collected.select(*self.stored, strict=False).transpose(0, 1).reshape(-1)
        self.replay.extend(stored)
        for name, stream in self.streams.items():
            if stream.window is None:
                continue
            rows = stored if stream.rows is None else stream.rows(stored)
            if len(rows):
                self.drawn[name].extend(rows if stream.keys is None else rows.select(*stream.keys))

    def sample(self) -> dict[str, TensorDictBase]:
        """A batch for each stream, by name."""
        batches = {}
        # The samplers of D_t draw before the others.
        for name, stream in sorted(self.streams.items(), key=lambda item: item[1].sampler is None):
            batch = self.drawn[name].sample()
            if stream.steps > 1:
                batch = as_sequences(batch, stream.steps)
            elif self.burn_in is not None and stream.sampler is not None:
                batch = as_sequences(batch, 1)
            elif self.burn_in is not None and stream.window is None:
                batch = self._burnt_in(as_sequences(batch, self.replay.sampler.length))
            batches[name] = batch
        return batches

    def _burnt_in(self, batch: TensorDictBase) -> TensorDictBase:
        greedy = set_exploration_type(ExplorationType.DETERMINISTIC)
        with set_recurrent_mode(True), greedy:
            return batch if self.burn_in is None else self.burn_in(batch)

    def state_dict(self) -> dict[str, Any]:
        """What is stored, where the next row goes, and what the samplers know."""
        return {
            "replay": _state_of(self.replay) if self.streams else None,
            "windows": {name: _state_of(self.drawn[name]) for name in self._windows()},
            "samplers": {name: self.drawn[name].sampler.state_dict() for name in self._samplers()},
        }

    def _windows(self) -> list[str]:
        return [name for name, stream in self.streams.items() if stream.window is not None]

    def _runs(self) -> list[str]:
        return [name for name, stream in self.streams.items() if stream.in_order]

    def _samplers(self) -> list[str]:
        own = [name for name, stream in self.streams.items() if stream.sampler is not None]
        return own + self._runs()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state.

        Raises:
            ValueError: if it is of other streams or does not fit in.
        """
        for part, own in (("windows", self._windows()), ("samplers", self._samplers())):
            if set(state_dict[part]) != set(own):
                raise ValueError(
                    f"The state has the {part} {sorted(state_dict[part])}, not {sorted(own)}."
                )
        if not self.streams:
            return
        same = _restore(self.replay, state_dict["replay"])
        for name in self._windows():
            _restore(self.drawn[name], state_dict["windows"][name])
        # After the replay: filling it told them of rows that are not new. In a buffer of
        # another size it told them what is right.
        for name in self._samplers() if same else ():
            self.drawn[name].sampler.load_state_dict(state_dict["samplers"][name])


def _state_of(buffer: ReplayBuffer) -> dict[str, Any]:
    """Plain data. TorchRL's own state has the rows not yet written too, often most of them."""
    rows = buffer.storage[:] if len(buffer) else TensorDict()
    # A view would be saved with all the memory that it is a part of.
    whole = len(buffer) == buffer.storage.max_size
    return {
        "rows": (rows if whole else rows.clone()).state_dict(),
        "writer": buffer.writer.state_dict(),
        "max_size": buffer.storage.max_size,
        "sampler": buffer.sampler.state_dict(),
    }


def _restore(buffer: ReplayBuffer, state: dict[str, Any]) -> bool:
    """Take over a buffer's state; whether it is one of the same size.

    In one of another size the rows stand from the oldest to the newest, and the next one goes
    behind them: where a full buffer would have gone on is the middle of a larger one.
    """
    rows = TensorDict().load_state_dict(state["rows"], strict=False)
    count = rows.batch_size.numel() if rows.batch_size else 0
    if count > buffer.storage.max_size:
        raise ValueError(f"{count} rows do not fit into a buffer of {buffer.storage.max_size}.")
    if len(buffer):
        buffer.empty()
    same = buffer.storage.max_size == state["max_size"]
    if not same and count == state["max_size"]:
        oldest = int(state["writer"]["_cursor"])
        rows = torch.cat([rows[oldest:], rows[:oldest]])
    if count:
        buffer.extend(rows)
    if same:
        buffer.writer.load_state_dict(state["writer"])
        buffer.sampler.load_state_dict(state["sampler"])
    return same
