"""A Gaussian whose draws are clipped to the range of the actions, with exact probabilities."""

from __future__ import annotations

import math

import torch
from torch.distributions import Distribution, Normal, kl_divergence, register_kl

__all__ = ["ClippedNormal"]


class ClippedNormal(Distribution):
    r"""Independent Gaussians whose draws are clipped, ``[*B, A]``.

    .. math:: a = \min(\max(x, low), high), \quad x \sim N(loc, scale), \qquad
        \log p(a) = \sum_k \begin{cases}
            \log \Phi((low_k - loc_k) / scale_k) & a_k = low_k \\
            \log N(a_k; loc_k, scale_k) & low_k < a_k < high_k \\
            \log \Phi((loc_k - high_k) / scale_k) & a_k = high_k
        \end{cases}

    An end of the range has the probability of everything beyond it, as the environment sees
    it. The gradient of a policy then has the same mean as with the density of the unclipped
    draw and less variance ("clipped action policy gradient",
    https://arxiv.org/abs/1802.07564), actions stay within their range, and no logarithm of a
    vanishing slope appears, as it does where a tanh takes draws onto the range.

    Args:
        loc: ``[*B, A]``.
        scale: positive ``[*B, A]``.
        low: least action, ``[A]`` or another shape that broadcasts.
        high: greatest action. Where it is ``low``, as in the padding of narrower agents,
            the only action there is has probability 1.

    Examples:
        >>> policy = ClippedNormal(torch.tensor([[1.0, 0.5]]), torch.ones(1, 2), low=-1.0, high=1.0)
        >>> policy.deterministic_sample
        tensor([[1.0000, 0.5000]])
        >>> policy.log_prob(torch.tensor([[1.0, 0.5]]))  # log 1/2, and the density's logarithm
        tensor([-1.6121])
    """

    arg_constraints: dict = {}

    def __init__(
        self,
        loc: torch.Tensor,
        scale: torch.Tensor,
        *,
        low: torch.Tensor | float,
        high: torch.Tensor | float,
    ):
        self.loc = loc
        self.scale = scale
        self.low = low
        self.high = high
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

    @property
    def deterministic_sample(self) -> torch.Tensor:
        """The Gaussian's mean, clipped, ``[*B, A]``."""
        return self._clip(self.loc)

    def sample(self, sample_shape: tuple[int, ...] = ()) -> torch.Tensor:
        """Draws without gradient, ``-> [*sample_shape, *B, A]``."""
        with torch.no_grad():
            loc = self.loc.expand(self._extended_shape(torch.Size(sample_shape)))
            return self._clip(loc + self.scale * torch.randn_like(loc))

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Logarithm of the probability at the ends, of the density between, ``[*B]``."""
        at_low, at_high = value <= self.low, value >= self.high
        beyond = torch.where(at_low, self.low - self.loc, self.loc - self.high) / self.scale
        # Where there is one value alone the scale is tiny, and no gradient must become NaN.
        beyond = torch.where(at_low & at_high, 0.0, beyond)
        between = (value - self.loc) / self.scale
        between = -0.5 * between.square() - self.scale.log() - 0.5 * math.log(2 * math.pi)
        log_prob = torch.where(at_low | at_high, _log_ndtr(beyond), between)
        return torch.where(at_low & at_high, 0.0, log_prob).sum(-1)

    def entropy(self) -> torch.Tensor:
        """That of the Gaussians before they are clipped, ``[*B]``; of one value alone it is 0."""
        entropy = self.scale.log() + 0.5 * math.log(2 * math.pi * math.e)
        return torch.where(self._fixed(), 0.0, entropy).sum(-1)

    def _fixed(self) -> torch.Tensor:
        """Where there is one value alone, as in the padding of narrower agents."""
        return torch.as_tensor(self.low == self.high, device=self.loc.device)

    def _clip(self, value: torch.Tensor) -> torch.Tensor:
        if isinstance(self.low, torch.Tensor):
            return torch.minimum(torch.maximum(value, self.low), self.high)
        return value.clamp(self.low, self.high)


def _log_ndtr(value: torch.Tensor) -> torch.Tensor:
    """Log Phi; far out by its asymptote, where PyTorch's gradient is 0 or NaN."""
    far = value < -50
    tail = torch.where(far, value, -50.0)
    tail = -0.5 * tail.square() - (-tail).log() - 0.5 * math.log(2 * math.pi)
    return torch.where(far, tail, torch.special.log_ndtr(torch.where(far, -50.0, value)))


@register_kl(ClippedNormal, ClippedNormal)
def _divergence(first: ClippedNormal, second: ClippedNormal) -> torch.Tensor:
    """That of the Gaussians before they are clipped, ``[*B]``: what is clipped differs no more.

    Where a feature has one value alone, as in the padding of narrower agents, it is 0.
    """
    gaussians = (Normal(each.loc, each.scale, validate_args=False) for each in (first, second))
    divergence = kl_divergence(*gaussians)
    return torch.where(first._fixed(), 0.0, divergence).sum(-1)
