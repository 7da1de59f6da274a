"""A linear layer of each agent, as one module."""

from __future__ import annotations

import math

import torch
from torch import nn

from torchrl_alita._checks import check_at_least_one

__all__ = ["StackedLinear"]


class StackedLinear(nn.Module):
    """N linear layers, one for each agent, ``[*B, N, in] -> [*B, N, out]``.

    Beside a perceptron whose parameters are stacked this is a module of its own, so that
    hooks see its inputs and outputs: :class:`torchrl_alita.optim.KFAC` needs both. Weights
    and biases start as those of ``torch.nn.Linear``.

    Args:
        in_features: of each agent.
        out_features: of each agent.
        num_agents: N.
        bias: add a bias.
        device: of the parameters.

    Raises:
        ValueError: if a size is no whole number, at least 1; when called, if the input has
            another number of agents or features.

    Examples:
        >>> layer = StackedLinear(5, 2, num_agents=3)
        >>> layer(torch.zeros(7, 3, 5)).shape
        torch.Size([7, 3, 2])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        num_agents: int,
        bias: bool = True,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        check_at_least_one(
            in_features=in_features, out_features=out_features, num_agents=num_agents
        )
        bound = 1 / math.sqrt(in_features)
        weight = torch.empty(num_agents, out_features, in_features, device=device)
        self.weight = nn.Parameter(weight.uniform_(-bound, bound))
        start = torch.empty(num_agents, out_features, device=device).uniform_(-bound, bound)
        self.bias = nn.Parameter(start) if bias else None

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        num_agents, _, in_features = self.weight.shape
        if features.shape[-2:] != (num_agents, in_features):
            raise ValueError(
                f"The layer takes (agents, features) {(num_agents, in_features)}, got "
                f"{tuple(features.shape[-2:])}."
            )
        product = torch.einsum("...ni,noi->...no", features, self.weight)
        return product if self.bias is None else product + self.bias
