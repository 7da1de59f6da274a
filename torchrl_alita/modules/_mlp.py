"""The multi-agent perceptron that actors, critics and the autoencoder share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torchrl.modules import MultiAgentMLP


def multi_agent_mlp(
    *,
    in_features: int,
    out_features: int,
    num_agents: int,
    num_cells: Sequence[int],
    share_params: bool = False,
    layer_norm: bool = True,
    initialize: Callable[[torch.Tensor], torch.Tensor] = nn.init.xavier_uniform_,
    device: torch.device | str | None = None,
) -> MultiAgentMLP:
    """TorchRL's MultiAgentMLP with ReLU, ``[*B, N, in] -> [*B, N, out]``.

    Args:
        in_features: of each agent.
        out_features: of each agent.
        num_agents: N.
        num_cells: width of each hidden layer.
        share_params: one network for all agents.
        layer_norm: normalize the pre-activations of the hidden layers.
        initialize: fills a weight matrix in place; biases start at 0.
        device: of the parameters.

    Raises:
        ValueError: if a size is not positive.
    """
    sizes = (in_features, out_features, num_agents, *num_cells)
    if min(sizes) < 1:
        raise ValueError(f"Sizes must be at least 1, got {sizes}.")
    norm = {
        "norm_class": nn.LayerNorm,
        "norm_kwargs": [{"normalized_shape": width} for width in num_cells],
    }
    net = MultiAgentMLP(
        n_agent_inputs=in_features,
        n_agent_outputs=out_features,
        n_agents=num_agents,
        centralized=False,
        share_params=share_params,
        num_cells=list(num_cells),
        activation_class=nn.ReLU,
        device=device,
        **(norm if layer_norm else {}),
    )
    # Separate networks are stacked: a weight matrix has one dimension more.
    matrix_ndim = 2 if share_params else 3
    for key, tensor in net.params.items(True, True):
        if key[-1] == "bias":
            nn.init.zeros_(tensor.data)
        elif tensor.ndim == matrix_ndim:
            for matrix in tensor.data.unsqueeze(0) if share_params else tensor.data:
                initialize(matrix)
    return net
