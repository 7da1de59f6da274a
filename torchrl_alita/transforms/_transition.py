"""How the transforms write a quantity of a transition beside its reward."""

from __future__ import annotations

import torch
from tensordict import NestedKey, TensorDictBase
from torchrl.data import Composite, Unbounded


def written(tensordict: TensorDictBase, key: NestedKey, value: torch.Tensor) -> TensorDictBase:
    """A shallow copy with one more entry; the caller's batch stays as it is."""
    return tensordict.copy().set(key, value)


def written_at_reset(
    tensordict_reset: TensorDictBase, key: NestedKey, like: NestedKey
) -> TensorDictBase:
    """Zeros where no transition has been made, one for each agent of another entry."""
    return tensordict_reset.set(key, torch.zeros_like(tensordict_reset.get(like)[..., :1]))


def with_spec(observation_spec: Composite, key: NestedKey, like: NestedKey) -> Composite:
    """The observation spec with one more entry: no reward, so ``env.reward_key`` works."""
    other = observation_spec[like]
    observation_spec[key] = Unbounded(
        shape=(*other.shape[:-1], 1), dtype=other.dtype, device=other.device
    )
    return observation_spec
