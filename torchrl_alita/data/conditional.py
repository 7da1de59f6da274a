"""Batches in which the influencer's situation is held, D_t of Eq. 6 and 8."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from tensordict import NestedKey, TensorDictBase
from torchrl.data.replay_buffers.samplers import Sampler
from torchrl.data.replay_buffers.storages import Storage

from torchrl_alita._checks import check_at_least_one, check_integer
from torchrl_alita.data._draw import random_rows
from torchrl_alita.layout import ACTION, OBSERVATION

__all__ = ["ConditionalSampler"]

KINDS = ("nearest", "exact", "uniform")
# What float32 would round: states that differ would be one.
_WIDE = (torch.float64, torch.int64, torch.int32)


class ConditionalSampler(Sampler):
    r"""Samples transitions near the newest ones in the influencer's eyes.

    .. math:: D_t = \{(x, a, r, x') \in B : x_1 = s_{1,t},\ a_1 = a_{1,t}\}

    Source: Eq. 6 of https://arxiv.org/abs/2108.12581. Continuous data never repeat,
    so that this set holds one transition; here its place is taken by the nearest
    stored transitions. Anchors are drawn from the newest transitions, and for each
    the nearest in the influencer's (observation, action) are taken from a uniform
    set of candidates and the anchors, every feature divided by its standard
    deviation among them. The cost is bounded by the number of candidates, whatever
    the size of the buffer.

    The sampler learns of new transitions from the storage, so it may share one with
    any other buffer::

        storage = LazyTensorStorage(1_000_000)
        buffer = ReplayBuffer(storage=storage, batch_size=1024)
        conditional = ReplayBuffer(
            storage=storage, sampler=ConditionalSampler(influencer=0), batch_size=1024
        )

    Args:
        influencer: index of the agent whose observation and action are held.
        num_anchors: anchors of a batch; each is given an equal share of it.
        num_candidates: transitions among which the search is made.
        anchor_window: how many of the newest transitions the anchors are drawn from.
        kind: ``"nearest"``; ``"exact"``, for discrete data: drawn with replacement
            from the candidates that equal the anchor in every feature, which the
            anchor itself always does; or ``"uniform"``, the control: plain uniform
            sampling.
        observation: key of the observations ``[B, N, O]`` in the storage.
        action: key of the actions ``[B, N, A]`` in the storage.
        turn: key of whose turn it was, whole numbers ``[B, 1]`` in the storage, where the
            agents act alone: anchors are transitions of the influencer. Default: all.

    Raises:
        ValueError: if an argument is out of range or the kind is unknown; when
            sampling, if the storage has more than one dimension or no such agent,
            or the batch is smaller than the number of anchors.
        KeyError: when sampling, if the storage lacks one of the keys.
        RuntimeError: when sampling from an empty storage.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import LazyTensorStorage, ReplayBuffer
        >>> agents = TensorDict(
        ...     {"observation": torch.randn(50, 3, 4), "action": torch.randn(50, 3, 2)}, [50, 3]
        ... )
        >>> buffer = ReplayBuffer(
        ...     storage=LazyTensorStorage(100),
        ...     sampler=ConditionalSampler(influencer=0, num_anchors=2, num_candidates=20),
        ...     batch_size=8,
        ... )
        >>> _ = buffer.extend(TensorDict({"agents": agents}, [50]))
        >>> buffer.sample().shape
        torch.Size([8])
    """

    def __init__(
        self,
        *,
        influencer: int = 0,
        num_anchors: int = 32,
        num_candidates: int = 4096,
        anchor_window: int = 1024,
        kind: Literal["nearest", "exact", "uniform"] = "nearest",
        observation: NestedKey = OBSERVATION,
        action: NestedKey = ACTION,
        turn: NestedKey | None = None,
    ):
        influencer = check_integer("influencer", influencer)
        if influencer < 0:
            raise ValueError(f"influencer must be at least 0, got {influencer}.")
        check_at_least_one(
            num_anchors=num_anchors, num_candidates=num_candidates, anchor_window=anchor_window
        )
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {KINDS}, got {kind!r}.")
        self.influencer = influencer
        self.num_anchors = num_anchors
        self.num_candidates = num_candidates
        self.anchor_window = anchor_window
        self.kind = kind
        self.observation = observation
        self.action = action
        self.turn = turn
        self._newest = torch.empty(0, dtype=torch.long)
        self._length: int | None = None  # of the storage when it was last looked at

    def mark_update(self, index: int | torch.Tensor, *, storage: Storage | None = None) -> None:
        index = torch.as_tensor(index, dtype=torch.long).reshape(-1)
        if self.turn is not None:
            index = index[self._own_turn(storage, index)]
        self._newest = torch.cat([self._newest.to(index.device), index])[-self.anchor_window :]

    def _own_turn(self, storage: Storage, index: torch.Tensor) -> torch.Tensor:
        """Which rows the influencer made itself, ``[len(index)]``."""
        turn = _rows_of(storage).get(self.turn, None)
        if turn is None:
            present = sorted(str(k) for k in _rows_of(storage).keys(True, True))
            raise KeyError(f"The storage has no {self.turn}; it has {present}.")
        return turn[index.to(turn.device), 0] == self.influencer

    def sample(self, storage: Storage, batch_size: int) -> tuple[torch.Tensor, dict]:
        length = len(storage)
        if length == 0:
            raise RuntimeError("Cannot sample from an empty storage.")
        if storage.ndim != 1:
            raise ValueError(f"The storage must have one dimension, got {storage.ndim}.")
        if self.kind == "uniform":
            return self._randint(length, batch_size, getattr(storage, "device", None)), {}
        if batch_size < self.num_anchors:
            raise ValueError(
                f"A batch of {batch_size} cannot hold {self.num_anchors} anchors; "
                f"lower num_anchors."
            )
        situation = self._situation(storage)
        anchors = self._anchors(storage, length, situation[0].device)
        candidates = self._randint(length, self.num_candidates, device=anchors.device)
        per_anchor = -(-batch_size // self.num_anchors)
        if self.kind == "exact":
            chosen = self._exact(situation, anchors, candidates, per_anchor)
        else:
            chosen = self._nearest(situation, anchors, candidates, per_anchor)
        # Column by column, so that cutting to size takes from every anchor alike.
        return chosen.T.reshape(-1)[:batch_size], {}

    def _randint(self, high: int, size: int, device: torch.device | str | None) -> torch.Tensor:
        return random_rows(high, size, generator=self._rng, device=device)

    def _situation(self, storage: Storage) -> tuple[torch.Tensor, torch.Tensor]:
        """Views of the influencer's stored observations and actions."""
        stored = _rows_of(storage)
        views = []
        for key in (self.observation, self.action):
            value = stored.get(key, None)
            if value is None:
                present = sorted(str(k) for k in stored.keys(True, True))
                raise KeyError(f"The storage has no {key}; it has {present}.")
            if value.ndim < 3:
                raise ValueError(
                    f"{key} must have the shape (rows, agents, features), got {tuple(value.shape)}."
                )
            if self.influencer >= value.shape[1]:
                raise ValueError(
                    f"influencer must be below the number of agents, {value.shape[1]}, "
                    f"got {self.influencer}."
                )
            views.append(value[:, self.influencer])
        return tuple(views)

    def _anchors(self, storage: Storage, length: int, device: torch.device) -> torch.Tensor:
        newest = self._newest.to(device)
        if self._length is None or length < self._length:  # it may have been emptied
            newest = newest[newest < length]
            self._newest = newest
        self._length = length
        if newest.numel() == 0:  # or filled before this sampler came
            newest = torch.arange(max(0, length - self.anchor_window), length, device=device)
            if self.turn is not None:
                own = newest[self._own_turn(storage, newest)]
                newest = own if own.numel() else newest
        return newest[self._randint(newest.numel(), self.num_anchors, device=device)]

    def _exact(self, situation, anchors, candidates, count: int) -> torch.Tensor:
        held = self._features(situation, anchors).unsqueeze(1)
        equal = (held == self._features(situation, candidates)).all(-1)
        equal = torch.cat([torch.ones_like(equal[:, :1]), equal], dim=1)
        index = torch.cat([anchors.unsqueeze(1), candidates.expand(anchors.numel(), -1)], dim=1)
        weights = equal.float() if self._rng is None else equal.float().cpu()
        drawn = torch.multinomial(weights, count, replacement=True, generator=self._rng)
        return index.gather(1, drawn.to(index.device))

    def _nearest(self, situation, anchors, candidates, count: int) -> torch.Tensor:
        pool = torch.cat([anchors, candidates]).sort().values
        # Each row counts once, or an anchor's nearest would be its own copies.
        first = torch.cat([pool.new_ones(1), pool.diff()]) != 0
        features = self._features(situation, pool)
        share = (first.to(features.dtype) / first.sum()).unsqueeze(-1)
        # Centered, since the distances are computed as differences of squares.
        mean = (share * features).sum(0)
        deviation = (share * (features - mean).square()).sum(0).sqrt().clamp_min(1e-6)
        held = (self._features(situation, anchors) - mean) / deviation
        distance = torch.cdist(held, (features - mean) / deviation).masked_fill(~first, torch.inf)
        closest = min(count, len(pool))
        nearest = distance.topk(closest, dim=1, largest=False).indices
        # Where there are fewer rows than a share, they come more than once.
        turn = torch.arange(count, device=pool.device) % first.sum().clamp(max=closest)
        return pool[nearest[:, turn]]

    @staticmethod
    def _features(situation: tuple[torch.Tensor, ...], index: torch.Tensor) -> torch.Tensor:
        wide = any(view.dtype in _WIDE for view in situation)
        dtype = torch.float64 if wide else torch.float32
        return torch.cat([view[index].flatten(1).to(dtype) for view in situation], dim=-1)

    def _empty(self) -> None:
        self._newest, self._length = self._newest[:0], None

    def state_dict(self) -> dict[str, Any]:
        return {"newest": self._newest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._newest, self._length = state_dict["newest"].clone(), None

    def dumps(self, path: str | Path) -> None:
        path = Path(path)
        path.mkdir(exist_ok=True, parents=True)
        torch.save(self.state_dict(), path / "conditional_sampler.pt")

    def loads(self, path: str | Path) -> None:
        self.load_state_dict(torch.load(Path(path) / "conditional_sampler.pt", weights_only=True))

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(influencer={self.influencer}, kind={self.kind!r}, "
            f"num_anchors={self.num_anchors}, num_candidates={self.num_candidates})"
        )


def _rows_of(storage: Storage) -> TensorDictBase:
    """All that is stored, as one tensordict ``[B]``."""
    rows = storage[:]
    if not isinstance(rows, TensorDictBase):
        raise TypeError(
            f"The storage must hold its rows in one tensordict, as LazyTensorStorage does, got "
            f"{type(storage).__name__}."
        )
    return rows
