"""The multi-agent perceptron that actors, critics and the autoencoder share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from tensordict import TensorDict
from torch import nn
from torch.nn import functional
from torchrl.modules import MultiAgentMLP

from torchrl_alita._agents import gather_agents
from torchrl_alita._checks import sizes


class PlainMultiAgentMLP(MultiAgentMLP):
    """TorchRL's MultiAgentMLP with its parameters in an ordinary module.

    A loss swaps a network's parameters for targets, clones or detached ones. Where they
    lie in a TensorDictParams, as TorchRL has it, that swap makes a new module, and
    ``torch.compile`` cannot trace it. Values and state are the same.
    """

    def __init__(self, **kwargs):
        super().__init__(use_td_params=False, **kwargs)
        del self.__dict__["_built"]

    @property
    def params(self) -> TensorDict:
        """The parameters, stacked over the agents where they are separate."""
        built = self.__dict__.get("_built")
        return TensorDict.from_module(self._empty_net) if built is None else built

    @params.setter
    def params(self, value: TensorDict) -> None:
        self.__dict__["_built"] = value

    def first_layer(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Its weight ``[(N,) out, in]`` and bias ``[(N,) out]``, of each agent if separate."""
        first = self._empty_net[0]
        return first.weight, first.bias

    def forward(self, *inputs: torch.Tensor, agents: Sequence[int] | None = None) -> torch.Tensor:
        """Several inputs are read as one, side by side, without being joined.

        Args:
            inputs: ``[*B, N, F]`` each.
            agents: M of the N agents whose parameters are separate; the inputs are theirs.
        """
        net = self._empty_net
        num_agents = self.n_agents if agents is None else len(agents)
        given = [tuple(part.shape[-2:]) for part in inputs]
        features = sum(size for _, size in given)
        if any(count != num_agents for count, _ in given) or features != net.in_features:
            raise ValueError(
                f"The network takes (agents, features) {(num_agents, net.in_features)}, got "
                f"{given[0] if len(given) == 1 else given}."
            )
        parts = _like(net[0].weight, inputs)
        if self.share_params:
            hidden = torch.cat(parts, -1) if len(parts) > 1 else parts[0]
            *layers, last = net
            for layer in layers:
                hidden = layer(hidden)
            with full_precision(hidden):
                return last(hidden.to(last.weight.dtype))
        first, *layers = net
        # Agents first, so that a layer of all agents is one batched product.
        weight, bias = gather_agents(first.weight, agents, 0), gather_agents(first.bias, agents, 0)
        weights = weight.split([size for _, size in given], dim=-1)
        products = [
            _product(part.movedim(-2, 0), w) for part, w in zip(parts, weights, strict=True)
        ]
        hidden = sum(products) + _for_each_row(bias, products[0].ndim)
        batch_size = torch.broadcast_shapes(*(part.shape[:-2] for part in parts))
        hidden = hidden.expand(-1, *batch_size, -1).reshape(num_agents, -1, hidden.shape[-1])
        for layer in layers[:-1]:
            hidden = _stacked_layer(layer, hidden, agents)
        with full_precision(hidden):
            for last in layers[-1:]:
                hidden = _stacked_layer(last, hidden.to(last.weight.dtype), agents)
        return hidden.reshape(num_agents, *batch_size, hidden.shape[-1]).movedim(0, -2)


def check_fits(weight: torch.Tensor, inputs: torch.Tensor, *, whole: bool = False) -> None:
    """Raise unless inputs are on a weight's device and of its dtype.

    Args:
        weight: of a network.
        inputs: of any shape.
        whole: integers and bools will do, too.

    Raises:
        ValueError: if they are on another device.
        TypeError: if they are of another dtype, and nothing casts them.
    """
    if inputs.device != weight.device:
        raise ValueError(f"The network is on {weight.device}, its inputs on {inputs.device}.")
    if whole and not inputs.is_floating_point():
        return
    if inputs.dtype != weight.dtype and not torch.is_autocast_enabled(inputs.device.type):
        raise TypeError(
            f"The network's parameters are {weight.dtype}, its inputs {inputs.dtype}: cast the "
            f"batch or the network."
        )


def _like(weight: torch.Tensor, inputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """Inputs that a weight can be multiplied with; beside others, one-hot integers too."""
    for part in inputs:
        check_fits(weight, part, whole=len(inputs) > 1)
    return [part if part.is_floating_point() else part.to(weight.dtype) for part in inputs]


def _product(inputs: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Stacked product, ``[N, *B, in], [N, out, in] -> [N, *B, out]``.

    What ``expand`` only repeats is multiplied once: its dimension of B has size 1 after.
    """
    for dim in range(1, inputs.ndim - 1):
        if inputs.stride(dim) == 0 and inputs.shape[dim] > 1:
            inputs = inputs.narrow(dim, 0, 1)
    rows = inputs.reshape(inputs.shape[0], -1, inputs.shape[-1])
    product = torch.bmm(rows, weight.transpose(1, 2))
    return product.reshape(*inputs.shape[:-1], weight.shape[1])


def _for_each_row(bias: torch.Tensor, ndim: int) -> torch.Tensor:
    """A bias of each agent among so many dimensions, ``[N, out] -> [N, 1.., out]``."""
    return bias.view(bias.shape[0], *(1,) * (ndim - 2), bias.shape[1])


def _stacked_layer(
    layer: nn.Module, inputs: torch.Tensor, agents: Sequence[int] | None
) -> torch.Tensor:
    """One layer of all agents, or of M, its parameters stacked, ``[M, B, in] -> [M, B, out]``."""
    if isinstance(layer, nn.ReLU) and torch.compiler.is_compiling():
        # The compiler would keep the sign for the gradient as booleans, which cost more on a
        # CPU than everything else between two products.
        return inputs * inputs.detach().sign().clamp_min(0)
    if not isinstance(layer, nn.Linear | nn.LayerNorm):
        return layer(inputs)
    weight, bias = (
        gather_agents(layer.weight, agents, 0),
        gather_agents(layer.bias, agents, 0).unsqueeze(1),
    )
    if isinstance(layer, nn.Linear):
        return _product(inputs, weight) + bias
    normalized = functional.layer_norm(inputs, layer.normalized_shape, eps=layer.eps)
    return torch.addcmul(bias, normalized, weight.unsqueeze(1))


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
) -> PlainMultiAgentMLP:
    """A MultiAgentMLP with ReLU, ``[*B, N, in] -> [*B, N, out]``.

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
        ValueError: if a size is no whole number, at least 1.
        TypeError: if num_cells is no sequence.
    """
    in_features, out_features, num_agents = (
        sizes(name, [size])[0]
        for name, size in (
            ("in_features", in_features),
            ("out_features", out_features),
            ("num_agents", num_agents),
        )
    )
    num_cells = sizes("num_cells", num_cells)
    norm = {
        "norm_class": nn.LayerNorm,
        "norm_kwargs": [{"normalized_shape": width} for width in num_cells],
    }
    net = PlainMultiAgentMLP(
        n_agent_inputs=in_features,
        n_agent_outputs=out_features,
        n_agents=num_agents,
        centralized=False,
        share_params=share_params,
        num_cells=num_cells,
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


def full_precision(values: torch.Tensor) -> AbstractContextManager:
    """For what ends in values: their differences need more digits than mixed precision has."""
    device = values.device.type
    if not torch.is_autocast_enabled(device):
        # The compiler keeps no graph that enters autocast for the next process.
        return nullcontext()
    return torch.autocast(device, enabled=False)
