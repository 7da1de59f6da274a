"""TD3's noise on the actions of target policies."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import nn

from torchrl_alita._checks import check_non_negative

Bound: TypeAlias = torch.Tensor | None


def checked_bounds(bounds: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The least and the largest action, as tensors of their own.

    Raises:
        TypeError: if they are no two numbers or tensors.
    """
    try:
        low, high = (torch.as_tensor(bound).detach().clone() for bound in bounds)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"action_bounds must be two, the least and the largest action, got {bounds!r}."
        ) from None
    return low, high


class TargetNoise(nn.Module):
    """Clipped noise on actions that are kept in their range, ``[*B, N, A] -> [*B, N, A]``.

    Source: https://arxiv.org/abs/1802.09477.

    Args:
        policy_noise: standard deviation, in units of the action; 0 for none.
        noise_clip: the noise's largest size.
        low: least action, ``[]`` or ``[N, A]``; None where nobody tells it.
        high: largest action.

    Raises:
        ValueError: if a size is negative, the bounds are no least and largest, or there is
            noise without bounds.
        TypeError: if a size is no number.
    """

    def __init__(self, policy_noise: float, noise_clip: float, *, low: Bound, high: Bound):
        super().__init__()
        check_non_negative(policy_noise=policy_noise, noise_clip=noise_clip)
        if policy_noise and low is None:
            raise ValueError(
                f"policy_noise={policy_noise} needs action_bounds: the actor has no TanhModule "
                f"that tells them."
            )
        self.policy_noise = float(policy_noise)
        self.noise_clip = float(noise_clip)
        for name, bound in (("low", low), ("high", high)):
            self.register_buffer(name, None if bound is None else bound.detach().clone())
        # Of entries that are padding, both are 0.
        if low is not None and not (
            bool((low <= high).all())
            and bool((low < high).any())
            and bool((high - low).isfinite().all())
        ):
            raise ValueError(
                f"action_bounds must be the least and the largest, both finite, got {low}, {high}."
            )

    def forward(self, action: torch.Tensor) -> torch.Tensor:
        if self.policy_noise == 0:
            return action
        noise = torch.randn_like(action) * self.policy_noise
        noise = noise.clamp(-self.noise_clip, self.noise_clip)
        return (action + noise).clamp(self.low, self.high)
