"""The unit in which the influence is weighed against the policy's own objective."""

from __future__ import annotations

import torch
from torch import nn

from torchrl_alita._checks import check_below_one

__all__ = ["OwnGradient"]


class OwnGradient(nn.Module):
    r"""Measures F by the policy's own gradient, so that its coefficient has no scale.

    .. math::
        \frac{\lambda F}{2 E \sum_i \alpha_i |g_i|}, \qquad
        \nabla F = E \sum_i 2 \alpha_i g_i \nabla Q_i

    F is quadratic in the return: where rewards are ten times as large, it weighs ten times as
    much beside the values that the policy climbs. Where all agents share one reward, all Q_i
    are one value and the gradient of F is 2 \|g\| times the policy's own. Divided by the mean
    of that, it is on average ``influence_coeff`` times the policy's own gradient, whatever the
    rewards. This package's own; the paper (https://arxiv.org/abs/2108.12581) has no unit.
    ``docs/influence.md`` has the derivation.

    The mean runs over the batches, with a decay; it is a buffer, and is updated in training
    mode alone.

    Args:
        decay: of the running mean, in [0, 1). Default: 0.99.

    Raises:
        ValueError: if the decay is outside [0, 1).
        TypeError: if it is no number.

    Examples:
        >>> unit = OwnGradient(decay=0.0)
        >>> gap = torch.tensor([[[-1.0], [-3.0]], [[-2.0], [-2.0]]])
        >>> unit(gap, torch.tensor([[0.5, 0.5]]))
        tensor(4.)
    """

    mean: torch.Tensor
    count: torch.Tensor

    def __init__(self, decay: float = 0.99):
        super().__init__()
        check_below_one(decay=decay)
        self.decay = float(decay)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("count", torch.zeros(()))

    def forward(
        self, gap: torch.Tensor, weights: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """What F is divided by, ``[*B, M, 1] -> []``, without gradient.

        Args:
            gap: of the influencees, ``[*B, M, 1]``.
            weights: alpha, ``[K, M]``, or of each state ``[*B, K, M]``.
            mask: bool ``[*B]``, the rows that count. Default: all.

        Returns:
            A positive number, twice the running mean of the weighted sizes of the gaps.
        """
        size = (weights * gap.detach().abs().mT).sum(-1).mean(-1)
        shown = torch.ones_like(size, dtype=torch.bool) if mask is None else mask
        now = size.where(shown, 0).sum() / shown.sum().clamp_min(1)
        if self.training:
            share = 1 - self.decay
            self.mean.mul_(self.decay).add_(now.to(self.mean.dtype), alpha=share)
            self.count.mul_(self.decay).add_(share)
        mean = self.mean / self.count.clamp_min(torch.finfo(self.count.dtype).tiny)
        running = torch.where(self.count > 0, mean.to(gap.dtype), now)
        return 2 * running.clamp_min(1e-8)

    def extra_repr(self) -> str:
        return f"decay={self.decay}"
