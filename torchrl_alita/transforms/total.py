"""The reward that a critic learns from: extrinsic and intrinsic together."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import dispatch

from torchrl_alita._checks import check_non_negative, require_keys
from torchrl_alita.layout import REWARD, TOTAL_REWARD, next_key
from torchrl_alita.transforms import _transition

__all__ = ["TotalReward"]


class TotalReward(_transition.TransitionTransform):
    r"""Weighted sum of the reward and intrinsic ones, ``[*B, N, 1] -> [*B, N, 1]``.

    .. math:: r_i = r_i^{ext} + \sum_k c_k r_{i,k}^{int}

    With the coefficient of the novelty it is Eq. 10 of
    https://arxiv.org/abs/2108.12581. It is written under
    ``("next", "agents", "total_reward")``, and every summand stays as it is; tell a
    loss of it with ``loss.set_keys(reward=("agents", "total_reward"))``.

    Args:
        coeffs: coefficient of each intrinsic reward by its key, in "next", at least 0. In an
            environment it may be observed or a reward of the environment's own.
        reward: key of the extrinsic reward, in "next". Default: ``("agents", "reward")``.
        total_reward: key written, under "next" in a batch. Default:
            ``("agents", "total_reward")``.

    Raises:
        ValueError: if a coefficient is negative or infinite, or there is none; when
            called, if the rewards differ in shape.
        TypeError: if a coefficient is no number, or coeffs no mapping.
        KeyError: when called, if the batch lacks a key, or the environment the first one.

    Examples:
        >>> from tensordict import TensorDict
        >>> agents = {"reward": torch.ones(3, 1), "novelty": torch.full((3, 1), 2.0)}
        >>> batch = TensorDict({"next": {"agents": agents}})
        >>> total = TotalReward({("agents", "novelty"): 0.5})
        >>> total(batch)["next", "agents", "total_reward"].T
        tensor([[2., 2., 2.]])
    """

    def __init__(
        self,
        coeffs: Mapping[NestedKey, float],
        *,
        reward: NestedKey = REWARD,
        total_reward: NestedKey = TOTAL_REWARD,
    ):
        if not isinstance(coeffs, Mapping):
            raise TypeError(f"coeffs must be a mapping of keys to numbers, got {coeffs!r}.")
        if not coeffs:
            raise ValueError(f"coeffs must name at least one intrinsic reward, got {coeffs}.")
        keys = [next_key(key) for key in (reward, *coeffs)]
        super().__init__(in_keys=keys, out_keys=[total_reward])
        check_non_negative(**{str(key): value for key, value in coeffs.items()})
        self.register_buffer("coeffs", torch.tensor([float(c) for c in coeffs.values()]))

    def _total(self, reward: torch.Tensor, *intrinsic: torch.Tensor) -> torch.Tensor:
        shapes = [tuple(value.shape) for value in (reward, *intrinsic)]
        if len(set(shapes)) > 1:
            raise ValueError(f"{self.in_keys} must have one shape, got {shapes}.")
        return reward + sum(
            coeff * value for coeff, value in zip(self.coeffs, intrinsic, strict=True)
        )

    @property
    def beside(self) -> NestedKey:
        """The first bonus."""
        return self.in_keys[1][1:]

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        keys = [key[1:] for key in self.in_keys]
        require_keys(next_tensordict, keys)
        total = self._total(*(next_tensordict.get(key) for key in keys))
        return next_tensordict.set(self.out_keys[0], total)

    @dispatch(source="in_keys", dest="batch_out_keys")
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        require_keys(tensordict, self.in_keys)
        total = self._total(*(tensordict.get(key) for key in self.in_keys))
        return _transition.set_entry(tensordict, self.batch_out_keys[0], total)
