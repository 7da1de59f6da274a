"""Perceptrons whose weights are Gaussian, several as one module."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

# Of a weight at the start, in units of the bound of its mean.
_FIRST_SCALE = 0.1


class BayesianLinear(nn.Module):
    r"""M linear layers with Gaussian weights, ``[M, R, in] -> [M, R, out]``.

    .. math:: w = \mu + \sigma \epsilon, \qquad \epsilon \sim N(0, 1), \qquad
        \sigma = \log(1 + e^\rho)

    Each weight and bias is independent of the others; a pass draws all of them once.

    Args:
        in_features: of each.
        out_features: of each.
        num_networks: M.
        zero: means begin at 0, instead of as those of ``torch.nn.Linear``.
        device: of the parameters.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        num_networks: int,
        zero: bool = False,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        bound = 1 / math.sqrt(in_features)
        # The last column is the bias.
        loc = torch.empty(num_networks, out_features, in_features + 1, device=device)
        self.loc = nn.Parameter(loc.zero_() if zero else loc.uniform_(-bound, bound))
        rho = math.log(math.expm1(_FIRST_SCALE * bound))
        self.rho = nn.Parameter(torch.full_like(loc, rho))

    @property
    def scale(self) -> torch.Tensor:
        """Standard deviations of the weights."""
        return nn.functional.softplus(self.rho)

    def kl(self) -> torch.Tensor:
        """Divergence of the weights from N(0, 1), ``[]``."""
        weights = Normal(self.loc, self.scale, validate_args=False)
        prior = Normal(torch.zeros_like(self.loc), torch.ones_like(self.loc), validate_args=False)
        return kl_divergence(weights, prior).sum()

    def forward(self, inputs: torch.Tensor, *, sample: bool = False) -> torch.Tensor:
        weight = self.loc
        if sample:
            weight = weight + self.scale * torch.randn_like(weight)
        return torch.baddbmm(weight[..., -1].unsqueeze(1), inputs, weight[..., :-1].mT)


class BayesianMLP(nn.Module):
    """M perceptrons with Gaussian weights and ReLU, ``[M, R, in] -> [M, R, out]``.

    The means of the last layer begin at 0: a network that has learned nothing says the same
    of everything.

    Args:
        in_features: of each.
        out_features: of each.
        num_networks: M.
        num_cells: width of each hidden layer.
        device: of the parameters.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        num_networks: int,
        num_cells: Sequence[int],
        device: torch.device | str | None = None,
    ):
        super().__init__()
        widths = list(pairwise([in_features, *num_cells, out_features]))
        self.layers = nn.ModuleList(
            BayesianLinear(
                *width, num_networks=num_networks, zero=number == len(widths), device=device
            )
            for number, width in enumerate(widths, start=1)
        )

    @property
    def untrained(self) -> bool:
        """Whether the last layer is as it began."""
        return not bool(self.layers[-1].loc.any())

    def kl(self) -> torch.Tensor:
        """Divergence of all weights from N(0, 1), ``[]``."""
        return torch.stack([layer.kl() for layer in self.layers]).sum()

    def forward(self, inputs: torch.Tensor, *, sample: bool = False) -> torch.Tensor:
        *hidden, last = self.layers
        for layer in hidden:
            inputs = layer(inputs, sample=sample).relu()
        return last(inputs, sample=sample)
