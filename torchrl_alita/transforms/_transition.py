"""How the transforms write a quantity of a transition beside its reward."""

from __future__ import annotations

import torch
from tensordict import NestedKey, TensorDictBase
from torchrl.data import Composite, Unbounded

from torchrl_alita.envs.layout import OBSERVATION


def written(tensordict: TensorDictBase, key: NestedKey, value: torch.Tensor) -> TensorDictBase:
    """A shallow copy with one more entry; the caller's batch stays as it is."""
    return tensordict.copy().set(key, value)


def written_at_reset(tensordict_reset: TensorDictBase, key: NestedKey) -> TensorDictBase:
    """Zeros where no transition has been made."""
    observation = tensordict_reset.get(OBSERVATION)
    return tensordict_reset.set(key, torch.zeros_like(observation[..., :1]))


def with_spec(observation_spec: Composite, key: NestedKey) -> Composite:
    """The observation spec with one more entry: no reward, so ``env.reward_key`` works."""
    observation = observation_spec[OBSERVATION]
    observation_spec[key] = Unbounded(
        shape=(*observation.shape[:-1], 1), dtype=observation.dtype, device=observation.device
    )
    return observation_spec
