"""The autoencoder whose reconstruction error is the novelty."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from torchrl_alita._checks import check_at_least_one, sizes
from torchrl_alita.modules._mlp import multi_agent_mlp

__all__ = ["Autoencoder"]


class Autoencoder(nn.Module):
    """Reconstructs (observation, action) of K influencers, ``[*B, K, D] -> [*B, K, D]``.

    Seven hidden layers, ReLU, Kaiming initialization (Sec. 3.2 and Appendix D.2 of
    https://arxiv.org/abs/2108.12581). The code, the narrowest layer, and the output
    are linear: a ReLU there would make half of the code's space unreachable. Each
    influencer has an autoencoder of its own.

    Args:
        in_features: D, the size of an observation and an action together.
        num_influencers: K. Default: 1.
        num_cells: width of each hidden layer. Default: the paper's.
        device: of the parameters.

    Raises:
        ValueError: if a size is no whole number, at least 1, or there is no hidden layer.
        TypeError: if num_cells is no sequence.

    Examples:
        >>> autoencoder = Autoencoder(16, num_influencers=2)
        >>> autoencoder(torch.zeros(5, 2, 16)).shape
        torch.Size([5, 2, 16])
    """

    def __init__(
        self,
        in_features: int,
        *,
        num_influencers: int = 1,
        num_cells: Sequence[int] = (128, 64, 12, 3, 12, 64, 128),
        device: torch.device | str | None = None,
    ):
        super().__init__()
        check_at_least_one(in_features=in_features, num_influencers=num_influencers)
        cells = sizes("num_cells", num_cells)
        if not cells:
            raise ValueError(f"num_cells must name at least one hidden layer, got {num_cells}.")
        self.in_features = in_features
        self.num_influencers = num_influencers
        code = cells.index(min(cells))
        half = partial(
            multi_agent_mlp,
            num_agents=num_influencers,
            layer_norm=False,
            initialize=partial(nn.init.kaiming_normal_, nonlinearity="relu"),
            device=device,
        )
        self.encoder = half(
            in_features=in_features, out_features=cells[code], num_cells=cells[:code]
        )
        self.decoder = half(
            in_features=cells[code], out_features=in_features, num_cells=cells[code + 1 :]
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.encoder(inputs))
