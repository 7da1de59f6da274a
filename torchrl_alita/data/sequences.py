"""Sequences of consecutive steps from a buffer of transitions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from torchrl.data.replay_buffers.samplers import Sampler
from torchrl.data.replay_buffers.storages import Storage

from torchrl_alita._checks import check_at_least_one, check_share
from torchrl_alita.data._draw import random_rows
from torchrl_alita.layout import REWARD, next_key

__all__ = ["SequenceSampler", "as_sequences"]


class SequenceSampler(Sampler):
    """Samples sequences of T consecutive steps of one environment, ``-> [B * T]``.

    For a buffer of one dimension in which E environments were stored step by step: row
    ``t * E + e`` is step t of environment e. A sequence is drawn uniformly among all that are
    stored; it goes on where an episode ends and the next begins, so that no row is padding, and
    all steps but the first and last T - 1 of a buffer are used equally often. A network with a
    memory begins anew at
    ``"is_init"``; beginning anywhere within an episode is DRQN's random update
    (https://arxiv.org/abs/1507.06527). :func:`as_sequences` gives a batch its two dimensions.

    The cost does not depend on the size of the buffer. TorchRL's SliceSampler, which samples
    parts of single episodes from storages of any order, searches them all for the ends of
    episodes.

    Where rewards are rare, uniform draws hardly ever have one. With ``rewarded_share`` that
    share of a batch, its first rows, are sequences with a step whose reward is not zero: a
    rewarded step is drawn uniformly, and its place in the sequence too. While nothing was
    rewarded, all are uniform.

    Args:
        num_envs: E.
        length: T, steps of a sequence.
        rewarded_share: in [0, 1]. Default: 0, all are uniform.
        reward: key in "next", of any shape ``[B, ..]``, of which any entry counts.

    Raises:
        ValueError: if an argument is out of its range; when sampling, if the storage has more
            than one dimension, no room for whole steps of E environments, or no T steps of each,
            or the batch is no multiple of T.

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

    def __init__(
        self,
        *,
        num_envs: int,
        length: int,
        rewarded_share: float = 0.0,
        reward: NestedKey = REWARD,
    ):
        check_at_least_one(num_envs=num_envs, length=length)
        check_share(rewarded_share=rewarded_share)
        self.num_envs = num_envs
        self.length = length
        self.rewarded_share = float(rewarded_share)
        self.reward = reward
        # Which rows are rewarded, and their numbers; None where the storage is to be asked.
        self._paid: torch.Tensor | None = None
        self._paid_rows: torch.Tensor | None = None
        # Row after the newest: in a full storage, the oldest.
        self._end = 0

    def mark_update(self, index: int | torch.Tensor, *, storage: Storage | None = None) -> None:
        index = torch.as_tensor(index).reshape(-1)
        self._end = int(index[-1]) + 1
        if self._paid is not None and storage is not None:
            self._paid[index.to(self._paid.device)] = self._rewarded(storage, index)
            self._paid_rows = None

    def _rewarded(self, storage: Storage, index: torch.Tensor | slice) -> torch.Tensor:
        """Whether rows have a reward, ``[len(index)]``."""
        reward = storage[:].get(next_key(self.reward))[index]
        return (reward != 0).reshape(len(reward), -1).any(1)

    def _rewarded_rows(self, storage: Storage) -> torch.Tensor:
        """Numbers of the rewarded rows, ``[M]``."""
        if self._paid is None:
            now = self._rewarded(storage, slice(None))
            self._paid = now.new_zeros(storage.max_size)
            self._paid[: len(now)] = now
        if self._paid_rows is None:
            self._paid_rows = self._paid.nonzero().squeeze(-1)
        return self._paid_rows

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
        share = round(self.rewarded_share * count)
        if share and len(paid := self._rewarded_rows(storage)):
            paid = paid[random_rows(len(paid), share, **place)]
            within = random_rows(self.length, share, **place)
            begins = (paid // self.num_envs - oldest) % steps - within
            first[:share] = begins.clamp(0, steps - self.length)
            env[:share] = paid % self.num_envs
        step = (oldest + first[:, None] + torch.arange(self.length, device=first.device)) % steps
        return (step * self.num_envs + env[:, None]).reshape(-1), {}

    def state_dict(self) -> dict[str, Any]:
        return {"end": self._end}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._end = state_dict["end"]
        self._paid = self._paid_rows = None

    def dumps(self, path: str | Path) -> None:
        path = Path(path)
        path.mkdir(exist_ok=True, parents=True)
        torch.save(self.state_dict(), path / "sequence_sampler.pt")

    def loads(self, path: str | Path) -> None:
        self.load_state_dict(torch.load(Path(path) / "sequence_sampler.pt", weights_only=True))

    def _empty(self) -> None:
        self._end = 0
        self._paid = self._paid_rows = None


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
