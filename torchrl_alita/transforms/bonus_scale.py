"""Bonuses of different sizes, made comparable and added up."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import dispatch

from torchrl_alita._checks import (
    check_agents,
    check_below_one,
    check_finite,
    check_flag,
    check_non_negative,
    check_share,
    require_keys,
)
from torchrl_alita.layout import INTRINSIC_REWARD, next_key
from torchrl_alita.transforms import _transition

__all__ = ["BonusScale"]

_LEAST_SCALE = 1e-8


class BonusScale(_transition.TransitionTransform):
    r"""Weighted sum of bonuses in units of their own returns, ``[*B, N, 1] -> [*B, N, 1]``.

    .. math::
        r^{int}_i = \sum_k c_k \, b_{k,i} / \sigma_k, \qquad
        \sigma_k^2 = \text{mean of } R_{k,i,t}^2, \qquad
        R_{k,i,t} = \gamma R_{k,i,t-1} + b_{k,i,t}

    Source: the reward normalization of https://arxiv.org/abs/1810.12894, with the root mean
    square, which does not take a constant bonus for none. The mean is over environments,
    agents and time, where a step t back counts with decay to the power of t. The sums R
    run on over the ends of episodes, so that a team is not paid for staying away from an
    end. A count's bonus that fades keeps its weight against the reward in this way; on
    sparse games that weight decides what is learned.

    It is written under ``("next", "agents", "intrinsic_reward")``; for a value function of
    its own, tell an advantage's estimator of it. Every bonus stays as it is.
    :meth:`update` takes a rollout, in order of time; a call on a batch of any kind divides
    by today's scale and changes nothing. Appended to an environment, each step updates the
    scale and is then paid, unless it is frozen.

    Args:
        coeffs: weight c of each bonus by its key, in "next", at least 0. In an environment it
            may be observed or a reward of the environment's own.
        gamma: discount factor of a step, in [0, 1]. Default: 0.99, that of the source.
        decay: of the mean, in [0, 1), for each step. Default: 0.999, of our trials on
            sparse games, where it was 0.95 for 64 steps.
        frozen: an environment's steps do not change the scale. Default: False.
        intrinsic_reward: key written, under "next" in a batch. Default:
            ``("agents", "intrinsic_reward")``.

    Attributes:
        scale: sigma ``[K]`` of the K bonuses.

    Raises:
        ValueError: if a weight is negative or infinite, there is none, or another argument
            is out of its range; when called, if the scale was never updated, the bonuses
            differ in shape, or a rollout has other environments than the last one; in an
            environment, if a bonus that would change the scale is not finite.
        TypeError: if a weight is no number, or coeffs no mapping.
        KeyError: when called, if the batch lacks a bonus, or the environment the first one.

    Examples:
        >>> from tensordict import TensorDict
        >>> bonus = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)
        >>> batch = TensorDict({"next": {"agents": {"visit_bonus": bonus}}}, [1, 2])
        >>> scale = BonusScale({("agents", "visit_bonus"): 0.5}, gamma=0.0, decay=0.0)
        >>> scale.update(batch)
        >>> scale(batch)["next", "agents", "intrinsic_reward"].flatten()
        tensor([0.3750, 0.5000])
    """

    returns: torch.Tensor | None

    def __init__(
        self,
        coeffs: Mapping[NestedKey, float],
        *,
        gamma: float = 0.99,
        decay: float = 0.999,
        frozen: bool = False,
        intrinsic_reward: NestedKey = INTRINSIC_REWARD,
    ):
        if not isinstance(coeffs, Mapping):
            raise TypeError(f"coeffs must be a mapping of keys to numbers, got {coeffs!r}.")
        if not coeffs:
            raise ValueError(f"coeffs must name at least one bonus, got {coeffs}.")
        super().__init__(in_keys=[next_key(key) for key in coeffs], out_keys=[intrinsic_reward])
        check_non_negative(**{str(key): value for key, value in coeffs.items()})
        check_share(gamma=gamma)
        check_below_one(decay=decay)
        check_flag(frozen=frozen)
        self.frozen = frozen
        self.gamma, self.decay = float(gamma), float(decay)
        self.register_buffer("coeffs", torch.tensor([float(c) for c in coeffs.values()]))
        self.register_buffer("mean_square", torch.zeros(len(coeffs)))
        # What the past counts for in the mean, 1 in the end.
        self.register_buffer("weight", torch.zeros(()))
        # R of each environment and agent; its shape is that of the first rollout.
        self.register_buffer("returns", None)
        self.updated = False

    @property
    def scale(self) -> torch.Tensor:
        """What each bonus is divided by, ``[K]``."""
        mean = self.mean_square / self.weight.clamp_min(torch.finfo(self.weight.dtype).tiny)
        return mean.sqrt() + _LEAST_SCALE

    def _bonuses(self, tensordict: TensorDictBase, keys: list[NestedKey]) -> list[torch.Tensor]:
        require_keys(tensordict, keys)
        check_agents(tensordict, keys)
        bonuses = [tensordict.get(key) for key in keys]
        shapes = [tuple(bonus.shape) for bonus in bonuses]
        if len(set(shapes)) > 1:
            raise ValueError(f"{keys} must have one shape, got {shapes}.")
        if bonuses[0].device != self.coeffs.device:
            raise ValueError(
                f"The scale is on {self.coeffs.device}, the bonuses on {bonuses[0].device}."
            )
        return bonuses

    @torch.no_grad()
    def update(self, rollout: TensorDictBase) -> None:
        """Take the steps of a rollout into the scale.

        Args:
            rollout: ``[*B, T]``, in order of time, that goes on where the last one ended.

        Raises:
            ValueError: if it has no dimension of time, or other environments than before, or a
                bonus is not finite; nothing is taken.
            KeyError: if it lacks a bonus.
        """
        if rollout.ndim < 1:
            raise ValueError("A rollout needs a dimension of time, the last one.")
        bonuses = self._bonuses(rollout, self.in_keys)
        if bonuses[0].ndim != rollout.ndim + 2:
            raise ValueError(
                f"A rollout's last dimension is time, and {self.in_keys[0]} is [*B, T, N, 1]: got "
                f"{tuple(bonuses[0].shape)} in a batch of {tuple(rollout.batch_size)}."
            )
        self._check_finite(bonuses)
        self._update(torch.stack(bonuses), rollout.ndim)

    def _check_finite(self, bonuses: list[torch.Tensor]) -> None:
        """What is not finite would stay in the scale for good."""
        for key, bonus in zip(self.in_keys, bonuses, strict=True):
            check_finite(str(key), bonus)

    def observe(self, rollout: TensorDictBase) -> TensorDictBase:
        """Take a rollout into the scale and scale its bonuses.

        Args:
            rollout: as in :meth:`update`.

        Returns:
            A shallow copy with the intrinsic reward.
        """
        self.update(rollout)
        return self(rollout)

    def _update(self, bonuses: torch.Tensor, time: int) -> None:
        """Steps ``[K, *B, T, N, 1]``, of which one dimension is that of time."""
        bonuses = bonuses.movedim(time, 1).float()
        steps, before = bonuses.shape[1], self.returns
        if before is None:
            before = torch.zeros_like(bonuses[:, 0])
        if before.shape != bonuses[:, 0].shape:
            raise ValueError(
                f"The scale follows bonuses of the shape {tuple(before.shape[1:])} a step, got "
                f"{tuple(bonuses.shape[2:])}."
            )
        squares = []
        for step in bonuses.unbind(1):
            before = self.gamma * before + step
            squares.append(before.flatten(1).square().mean(1))
        self.returns = before
        age = torch.arange(steps - 1, -1, -1, device=bonuses.device)
        shares = (1 - self.decay) * self.decay ** age.to(bonuses.dtype)
        recent = (torch.stack(squares, 1) * shares).sum(1)
        self.mean_square.copy_(self.decay**steps * self.mean_square + recent)
        self.weight.copy_(self.decay**steps * self.weight + shares.sum())
        self.updated = True

    def _total(self, bonuses: list[torch.Tensor]) -> torch.Tensor:
        if not self.updated:
            raise ValueError(
                "BonusScale was never updated: call update(rollout) before bonuses are scaled."
            )
        weights = self.coeffs / self.scale
        return sum(weight * bonus.detach() for weight, bonus in zip(weights, bonuses, strict=True))

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        bonuses = self._bonuses(next_tensordict, [key[1:] for key in self.in_keys])
        if not self.frozen:
            self._check_finite(bonuses)
            self._update(torch.stack(bonuses).unsqueeze(1), 1)
        return next_tensordict.set(self.out_keys[0], self._total(bonuses))

    @dispatch(source="in_keys", dest="batch_out_keys", auto_batch_size=False)
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        total = self._total(self._bonuses(tensordict, self.in_keys))
        return _transition.set_entry(tensordict, self.batch_out_keys[0], total)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *rest) -> None:
        returns = state_dict.get(prefix + "returns")
        if returns is not None:
            # Before the first rollout its shape is not known.
            self.returns = torch.zeros_like(returns, device=self.weight.device)
        elif prefix + "weight" in state_dict:
            self.returns = None
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self.updated = bool(self.weight > 0)
