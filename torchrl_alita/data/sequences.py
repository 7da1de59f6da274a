"""Sequences of consecutive steps from a buffer of transitions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDictBase
from torchrl.data.replay_buffers.samplers import Sampler
from torchrl.data.replay_buffers.storages import Storage

from torchrl_alita._checks import check_at_least_one
from torchrl_alita.data._draw import random_rows

__all__ = ["SequenceSampler", "as_sequences"]


class SequenceSampler(Sampler):
    """Samples sequences of T consecutive steps of one environment, ``-> [B * T]``.

    For a buffer of one dimension in which E environments were stored step by step: row
    ``t * E + e`` is step t of environment e. A sequence is drawn uniformly among all that are
    stored; it goes on where an episode ends and the next begins, so that every step is used
    as often as every other, and no row is padding. A network with a memory begins anew at
    ``"is_init"``; beginning anywhere within an episode is DRQN's random update
    (https://arxiv.org/abs/1507.06527). :func:`as_sequences` gives a batch its two dimensions.

    The cost does not depend on the size of the buffer. TorchRL's SliceSampler, which samples
    parts of single episodes from storages of any order, searches them all for the ends of
    episodes.

    Args:
        num_envs: E.
        length: T, steps of a sequence.

    Raises:
        ValueError: if an argument is below 1; when sampling, if the storage has more than one
            dimension, no room for whole steps of E environments, or no T steps of each, or the
            batch is no multiple of T.

    Examples:
        >>> from tensordict import TensorDict
        >>> from torchrl.data import LazyTensorStorage, ReplayBuffer
        >>> buffer = ReplayBuffer(
        ...     storage=LazyTensorStorage(100),
        ...     sampler=SequenceSampler(num_envs=2, length=3),
        ...     batch_size=6,
        ... )
        >>> step = torch.arange(10).repeat_interleave(2)
        >>> _ = buffer.extend(TensorDict({"step": step}, [20]))
        >>> as_sequences(buffer.sample(), 3)["step"].diff()
        tensor([[1, 1],
                [1, 1]])
    """

    def __init__(self, *, num_envs: int, length: int):
        check_at_least_one(num_envs=num_envs, length=length)
        self.num_envs = num_envs
        self.length = length
        # Row after the newest: in a full storage, the oldest.
        self._end = 0

    def mark_update(self, index: int | torch.Tensor, *, storage: Storage | None = None) -> None:
        self._end = int(torch.as_tensor(index).reshape(-1)[-1]) + 1

    def can_sample(self, storage: Storage) -> bool:
        """Whether there are T steps of each environment."""
        return len(storage) >= self.length * self.num_envs

    def sample(self, storage: Storage, batch_size: int) -> tuple[torch.Tensor, dict]:
        if storage.ndim != 1:
            raise ValueError(f"The storage must have one dimension, got {storage.ndim}.")
        rows = len(storage)
        if rows % self.num_envs or self._end % self.num_envs:
            raise ValueError(
                f"The storage must hold whole steps of {self.num_envs} environments, got {rows} "
                f"rows, the newest at {self._end - 1}."
            )
        steps = rows // self.num_envs
        if steps < self.length:
            raise ValueError(f"There must be {self.length} steps to sample from, got {steps}.")
        if batch_size % self.length:
            raise ValueError(
                f"batch_size must be a multiple of the length, {self.length}, got {batch_size}."
            )
        count = batch_size // self.length
        place = {"generator": self._rng, "device": getattr(storage, "device", None)}
        first = random_rows(steps - self.length + 1, count, **place)
        env = random_rows(self.num_envs, count, **place)
        # Counted from the oldest step, which is the first until the storage is full.
        oldest = self._end // self.num_envs if rows == storage.max_size else 0
        step = (oldest + first[:, None] + torch.arange(self.length, device=first.device)) % steps
        return (step * self.num_envs + env[:, None]).reshape(-1), {}

    def state_dict(self) -> dict[str, Any]:
        return {"end": self._end}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._end = state_dict["end"]

    def dumps(self, path: str | Path) -> None:
        path = Path(path)
        path.mkdir(exist_ok=True, parents=True)
        torch.save(self.state_dict(), path / "sequence_sampler.pt")

    def loads(self, path: str | Path) -> None:
        self.load_state_dict(torch.load(Path(path) / "sequence_sampler.pt", weights_only=True))

    def _empty(self) -> None:
        self._end = 0


def as_sequences(batch: TensorDictBase, length: int) -> TensorDictBase:
    """A batch of :class:`SequenceSampler` with its two dimensions, ``[B * T] -> [B, T]``.

    Args:
        batch: of rows.
        length: T.

    Returns:
        A view.

    Raises:
        ValueError: if it is no batch of such sequences.
    """
    if len(batch.batch_size) != 1 or batch.batch_size[0] % length:
        raise ValueError(
            f"The batch must have one dimension, a multiple of {length}, got "
            f"{tuple(batch.batch_size)}."
        )
    return batch.reshape(-1, length)
