"""How the transforms write a quantity of a transition beside its reward."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator

import torch
from tensordict import NestedKey, TensorDictBase, unravel_key
from torch import nn
from torchrl.data import Composite, TensorSpec, Unbounded
from torchrl.envs import Transform

from torchrl_alita._borrow import borrowed
from torchrl_alita.layout import next_key


def check_trained_here(transform: nn.Module) -> None:
    """Refuse to work in a worker process with a copy of a network that is trained elsewhere.

    TorchRL's collectors and batched environments hand their workers a copy of the environment;
    they bring the policy up to date, but no network of a transform. One in shared memory is no
    copy.
    """
    process = multiprocessing.current_process()
    # What a process of TorchRL's runs; the caller's own may train what it holds.
    runs = getattr(getattr(process, "_target", None), "__module__", "")
    if not runs.startswith("torchrl."):
        return
    for network in _all_borrowed(transform):
        for tensor in (*network.parameters(), *network.buffers()):
            if tensor.device.type != "cpu" or not tensor.is_shared():
                kind = type(transform).__name__
                raise ValueError(
                    f"{kind} would read a copy of its {type(network).__name__} that "
                    f"does not learn, in the worker process {process.name}: "
                    f"append it to the replay buffer, or to the environment in the process that trains."
                )


def _all_borrowed(module: nn.Module) -> Iterator[nn.Module]:
    for part in module.modules():
        for network in borrowed(part):
            yield network
            yield from _all_borrowed(network)


def set_entry(tensordict: TensorDictBase, key: NestedKey, value: torch.Tensor) -> TensorDictBase:
    """A shallow copy with one more entry; the caller's batch stays as it is."""
    return tensordict.copy().set(key, value)


def dtype_beside(dtype: torch.dtype) -> torch.dtype:
    """Of a bonus beside an entry of this type: a fraction is cut off in whole numbers."""
    return dtype if dtype.is_floating_point else torch.get_default_dtype()


class TransitionTransform(Transform):
    """Writes one number of each transition for each agent, beside an entry that has the agents.

    It is zero where no transition has been made, and no reward of the environment, so that
    ``env.reward_key`` works.
    """

    @property
    def batch_out_keys(self) -> list[NestedKey]:
        """What a call on a batch writes."""
        return [next_key(key) for key in self.out_keys]

    @property
    def beside(self) -> NestedKey:
        """An entry of the environment, or a reward of it, with a row for each agent."""
        key = self.in_keys[0]
        return key[1:] if key[0] == "next" else key

    def _reset(
        self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        other = tensordict_reset.get(self.beside, None)
        if other is None:
            other = self._reward_spec().zero(tensordict_reset.batch_size)
        zeros = torch.zeros_like(other[..., :1], dtype=dtype_beside(other.dtype))
        return tensordict_reset.set(self.out_keys[0], zeros)

    def transform_observation_spec(self, observation_spec: Composite) -> Composite:
        check_trained_here(self)
        if unravel_key(self.beside) in observation_spec.keys(True, True):
            other = observation_spec[self.beside]
        else:
            other = self._reward_spec()
            other = other.expand(*observation_spec.shape, *other.shape)
        observation_spec[self.out_keys[0]] = Unbounded(
            shape=(*other.shape[:-1], 1), dtype=dtype_beside(other.dtype), device=other.device
        )
        return observation_spec

    def _reward_spec(self) -> TensorSpec:
        """Of a reward that the environment has where the transform stands, without its batch."""
        rewards, key = self.parent.full_reward_spec_unbatched, unravel_key(self.beside)
        known = list(rewards.keys(True, True))
        if key not in known:
            raise KeyError(f"The environment observes no {key}, and its rewards are {known}.")
        return rewards[key]
