"""Policies and values whose parameters all lie in linear layers, as K-FAC needs them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from tensordict.nn import ProbabilisticTensorDictSequential, TensorDictModule
from torch import nn
from torchrl.envs import EnvBase
from torchrl.modules import ValueNorm

from torchrl_alita._checks import check_choice, sizes
from torchrl_alita.layout import (
    ACTION_MASK,
    LOC,
    LOGITS,
    OBSERVATION,
    SCALE,
    STATE,
    STATE_VALUE,
    layout_of,
    state_size_of,
)
from torchrl_alita.modules._mlp import check_fits
from torchrl_alita.modules.actors import action_spec_of
from torchrl_alita.modules.clipped_normal import ClippedNormal
from torchrl_alita.modules.one_hot import StraightThroughOneHot
from torchrl_alita.modules.stacked_linear import StackedLinear
from torchrl_alita.modules.stochastic import VALUE_INPUTS, draw_actions

__all__ = ["make_linear_actor", "make_linear_value"]

# Of the Gaussians, in units of half an action's range.
_FIRST_SCALE, _LEAST_SCALE = 0.6, 0.1


def make_linear_actor(
    env: EnvBase,
    *,
    num_cells: Sequence[int] = (64, 64),
    share_params: bool = True,
    device: torch.device | str | None = None,
) -> ProbabilisticTensorDictSequential:
    """Policies of N agents that draw their actions, ``[*B, N, O] -> [*B, N, A]``.

    As :func:`torchrl_alita.modules.make_stochastic_actor`, with tanh between layers that are
    all ``torch.nn.Linear``, or :class:`torchrl_alita.modules.StackedLinear` where each agent
    has its own; the parameter of the Gaussian's scale is such a layer of a constant too. So
    :class:`torchrl_alita.optim.KFAC` can train them.

    Source: the networks of https://arxiv.org/abs/1708.05144.

    Args:
        env: an environment in the layout of this package, with bounded continuous or one-hot
            actions.
        num_cells: width of each hidden layer. Default: (64, 64), ACKTR's.
        share_params: one network for all agents, which is told the agent's index.
        device: of the parameters. Default: the environment's.

    Returns:
        A ProbabilisticTensorDictSequential, as TorchRL's collectors and losses take it.

    Raises:
        KeyError: if the environment has another layout.
        ValueError: if its actions are neither continuous and bounded nor one-hot, or a width
            is below 1.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=3)
        >>> make_linear_actor(env)(env.reset())["agents", "action_log_prob"].shape
        torch.Size([5, 3])
    """
    layout, spec = layout_of(env), action_spec_of(env)
    device = env.device if device is None else device
    out_key = LOGITS if layout.discrete else LOC
    net = TensorDictModule(
        _Perceptron(
            layout.observation_size,
            layout.action_size,
            num_agents=layout.num_agents,
            num_cells=num_cells,
            share_params=share_params,
            last_layer=0.01,
            device=device,
        ),
        in_keys=[OBSERVATION],
        out_keys=[out_key],
    )
    if layout.discrete:
        read = {"logits": LOGITS} | ({"action_mask": ACTION_MASK} if layout.masked else {})
        return ProbabilisticTensorDictSequential(net, draw_actions(read, StraightThroughOneHot, {}))
    low, high = spec.space.low.to(device), spec.space.high.to(device)
    scale = _LayerScale(
        (high - low) / 2, num_agents=None if share_params else layout.num_agents
    ).to(device)
    draw = draw_actions({"loc": LOC, "scale": SCALE}, ClippedNormal, {"low": low, "high": high})
    return ProbabilisticTensorDictSequential(
        net, TensorDictModule(scale, in_keys=[LOC], out_keys=[SCALE]), draw
    )


def make_linear_value(
    env: EnvBase,
    *,
    num_cells: Sequence[int] = (64, 64),
    value_input: Literal["own", "team", "state"] = "own",
    share_params: bool = True,
    value_norm: ValueNorm | None = None,
    device: torch.device | str | None = None,
) -> TensorDictModule:
    """Value of each of N agents, all parameters in linear layers, ``-> [*B, N, 1]``.

    As :func:`torchrl_alita.modules.make_team_value` and for the reason of
    :func:`make_linear_actor`. It writes ``("agents", "state_value")``.

    Args:
        env: an environment in the layout of this package.
        num_cells: width of each hidden layer.
        value_input: what a value sees: ``"own"``, its agent's observation, ``"team"``, all
            observations, or ``"state"`` ``[*B, S]``.
        share_params: with ``"own"``, one network for all agents, told the agent's index.
        value_norm: a ``ValueNorm`` of TorchRL with the shape ``(1,)``: the network learns
            values in its units.
        device: of the parameters. Default: the environment's.

    Returns:
        A TensorDictModule.

    Raises:
        KeyError: if the environment has another layout.
        ValueError: if an argument is out of range, or there is no state to see.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=3)
        >>> make_linear_value(env, value_input="team")(env.reset())["agents", "state_value"].shape
        torch.Size([5, 3, 1])
    """
    check_choice("value_input", value_input, VALUE_INPUTS)
    layout = layout_of(env)
    own = value_input == "own"
    team_size = layout.num_agents * layout.observation_size
    size = {"own": layout.observation_size, "team": team_size}.get(value_input)
    net = _Perceptron(
        state_size_of(env) if size is None else size,
        1 if own else layout.num_agents,
        num_agents=layout.num_agents if own else 1,
        num_cells=num_cells,
        share_params=share_params or not own,
        last_layer=0.1,
        device=env.device if device is None else device,
    )
    values = _Values(net, value_input=value_input, norm=value_norm)
    seen = STATE if value_input == "state" else OBSERVATION
    return TensorDictModule(values, in_keys=[seen], out_keys=[STATE_VALUE])


class _Perceptron(nn.Module):
    """Tanh between linear layers, ``[*B, N, in] -> [*B, N, out]``; one network of N = 1 too."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        num_agents: int,
        num_cells: Sequence[int],
        share_params: bool,
        last_layer: float,
        device: torch.device | str | None,
    ):
        super().__init__()
        # One network for several agents is told which one it is.
        told = num_agents if share_params and num_agents > 1 else 0
        self.register_buffer("agent_id", torch.eye(num_agents, device=device)[:, :told])
        widths = [in_features + told, *sizes("num_cells", num_cells), out_features]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [_linear(before, after, None if share_params else num_agents), nn.Tanh()]
        self.layers = nn.Sequential(*layers[:-1]).to(device)
        with torch.no_grad():
            self.layers[-1].weight.mul_(last_layer)
            self.layers[-1].bias.zero_()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        check_fits(self.layers[0].weight, features)
        if self.agent_id.shape[-1]:
            index = self.agent_id.expand(*features.shape[:-1], -1)
            features = torch.cat([features, index], -1)
        return self.layers(features)


def _linear(
    in_features: int, out_features: int, num_agents: int | None, *, bias: bool = True
) -> nn.Linear | StackedLinear:
    if num_agents is None:
        return nn.Linear(in_features, out_features, bias=bias)
    return StackedLinear(in_features, out_features, num_agents=num_agents, bias=bias)


class _LayerScale(nn.Module):
    """A scale for each action feature, whatever the state, ``[*B, N, A] -> [*B, N, A]``.

    Between a tenth of half the action's range and that half, whatever its parameters.
    """

    def __init__(self, half_range: torch.Tensor, *, num_agents: int | None):
        super().__init__()
        self.register_buffer("half_range", half_range.clamp_min(1e-6))
        self.layer = _linear(1, half_range.shape[-1], num_agents, bias=False)
        share = math.log(_FIRST_SCALE) / math.log(_LEAST_SCALE)
        nn.init.constant_(self.layer.weight, math.log(share / (1 - share)))

    def forward(self, loc: torch.Tensor) -> torch.Tensor:
        parameter = self.layer(torch.ones_like(loc[..., :1]))
        return self.half_range * torch.exp(math.log(_LEAST_SCALE) * torch.sigmoid(parameter))


class _Values(nn.Module):
    """Values in units of the reward, ``-> [*B, N, 1]``."""

    def __init__(self, net: nn.Module, *, value_input: str, norm: ValueNorm | None):
        super().__init__()
        self.net = net
        self.value_input = value_input
        self.norm = norm

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if self.value_input == "team":
            features = features.flatten(-2)
        values = self.net(features)
        if self.value_input != "own":
            values = values.unsqueeze(-1)
        return values if self.norm is None else self.norm.denormalize(values)
