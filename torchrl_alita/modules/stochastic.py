"""Stochastic policies of a team for on-policy learning, and values of its states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from tensordict import NestedKey
from tensordict.nn import (
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictModuleBase,
)
from torch import nn
from torchrl.envs import EnvBase
from torchrl.modules import ValueNorm

from torchrl_alita._checks import check_at_least_one, check_choice, check_number
from torchrl_alita.layout import (
    ACTION,
    ACTION_MASK,
    LOC,
    LOG_PROB,
    LOGITS,
    OBSERVATION,
    SCALE,
    STATE,
    STATE_VALUE,
    layout_of,
    state_size_of,
)
from torchrl_alita.modules._mlp import multi_agent_mlp
from torchrl_alita.modules.actors import action_spec_of
from torchrl_alita.modules.clipped_normal import ClippedNormal
from torchrl_alita.modules.goals import goal_attention_of
from torchrl_alita.modules.one_hot import StraightThroughOneHot
from torchrl_alita.modules.recurrent import recurrent_net

__all__ = ["make_stochastic_actor", "make_team_value"]

VALUE_INPUTS = ("own", "team", "state")


def make_stochastic_actor(
    env: EnvBase,
    *,
    num_cells: Sequence[int] = (64, 64),
    share_params: bool = True,
    agent_index: bool = True,
    recurrent: bool = False,
    goal_attention: bool = False,
    own_features: int = 4,
    layer_norm: bool = False,
    initial_scale: float = 0.6,
    min_scale: float = 0.1,
    device: torch.device | str | None = None,
) -> ProbabilisticTensorDictSequential:
    r"""Policies of N agents that draw their actions, ``[*B, N, O] -> [*B, N, A]``.

    Each is a perceptron with ReLU and orthogonal weights, the last layer's a hundredth of
    that, so that all begin near to one and the same policy. One-hot actions come from
    ``("agents", "logits")``, and a masked one has probability 0. Continuous actions come from
    a :class:`torchrl_alita.modules.ClippedNormal` of ``("agents", "loc")``, which the network
    gives, and ``("agents", "scale")``, a parameter for each action feature,

    .. math:: scale = min\_scale^{\sigma(p)},

    which lies between ``min_scale`` and 1 times half the action's range whatever the
    parameter p: it neither vanishes nor explodes. ``("agents", "action_log_prob")`` is
    written beside the action; ``get_dist`` gives the distribution.

    Source: the policies of MAPPO, https://arxiv.org/abs/2103.01955.

    Args:
        env: an environment in the layout of this package, with bounded continuous or
            one-hot actions.
        num_cells: width of each hidden layer; of a recurrent actor, that of its two.
        share_params: one network for all agents. Default: True, MAPPO's.
        agent_index: tell a shared network whose turn it is. Default: True. Without it,
            agents that observe the same do the same.
        recurrent: a :class:`torchrl_alita.modules.MultiAgentGRU` in the perceptrons' place.
            The environment then needs
            :func:`torchrl_alita.transforms.recurrent_transforms`.
        goal_attention: a :class:`torchrl_alita.modules.GoalAttention` in the perceptrons'
            place, of the first of ``num_cells`` in width. It has no index and is shared.
        own_features: leading features of an observation that are no offsets, for it.
        layer_norm: normalize the pre-activations of the hidden layers.
        initial_scale: where the scale of continuous actions begins, in units of half their
            range, between ``min_scale`` and 1.
        min_scale: the least it can become, in (0, 1).
        device: of the parameters. Default: the environment's.

    Returns:
        A ProbabilisticTensorDictSequential, as TorchRL's collectors and losses take it.

    Raises:
        KeyError: if the environment has another layout.
        ValueError: if its actions are neither continuous and bounded nor one-hot, an
            argument is out of range, or a recurrent actor is given several or different
            widths.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=3)
        >>> batch = make_stochastic_actor(env)(env.reset())
        >>> batch["agents", "action"].shape, batch["agents", "action_log_prob"].shape
        (torch.Size([5, 3, 2]), torch.Size([5, 3]))
    """
    layout, spec = layout_of(env), action_spec_of(env)
    device = env.device if device is None else device
    check_number(min_scale=min_scale, initial_scale=initial_scale)
    if not 0 < min_scale < initial_scale < 1:
        raise ValueError(
            f"min_scale and initial_scale must be ascending in (0, 1), got {min_scale} and "
            f"{initial_scale}."
        )
    out_key = LOGITS if layout.discrete else LOC
    if recurrent:
        if len(set(num_cells)) != 1:
            raise ValueError(f"A recurrent actor has hidden layers of one width, got {num_cells}.")
        net = recurrent_net(
            env,
            out_key=out_key,
            hidden_size=num_cells[0],
            share_params=share_params,
            last_action=True,
            device=device,
        )
    elif goal_attention:
        net = goal_attention_of(env, num_cells[0], own_features=own_features, device=device)
        net = TensorDictModule(net, in_keys=[OBSERVATION], out_keys=[out_key])
    else:
        net = TensorDictModule(
            _IndexedMLP(
                in_features=layout.observation_size,
                out_features=layout.action_size,
                num_agents=layout.num_agents,
                num_cells=num_cells,
                share_params=share_params,
                agent_index=agent_index,
                layer_norm=layer_norm,
                last_layer=0.01,
                device=device,
            ),
            in_keys=[OBSERVATION],
            out_keys=[out_key],
        )
    if layout.discrete:
        read = {"logits": LOGITS} | ({"action_mask": ACTION_MASK} if layout.masked else {})
        draw = draw_actions(read, StraightThroughOneHot, {})
        return ProbabilisticTensorDictSequential(net, draw)
    low, high = spec.space.low.to(device), spec.space.high.to(device)
    scale = _BoundedScale(
        (1 if share_params else layout.num_agents, layout.action_size),
        half_range=(high - low) / 2,
        initial=initial_scale,
        least=min_scale,
    )
    draw = draw_actions({"loc": LOC, "scale": SCALE}, ClippedNormal, {"low": low, "high": high})
    return ProbabilisticTensorDictSequential(
        net, TensorDictModule(scale, in_keys=[LOC], out_keys=[SCALE]), draw
    )


def draw_actions(
    read: dict[str, NestedKey], distribution: type, arguments: dict[str, Any]
) -> ProbabilisticTensorDictModule:
    """Actions and their log-probabilities, of a distribution whose parameters are read."""
    return ProbabilisticTensorDictModule(
        in_keys=read,
        out_keys=[ACTION],
        distribution_class=distribution,
        distribution_kwargs=arguments,
        return_log_prob=True,
        log_prob_key=LOG_PROB,
    )


class _IndexedMLP(nn.Module):
    """A perceptron of each agent or of all, ``[*B, N, in] -> [*B, N, out]``."""

    def __init__(
        self,
        *,
        in_features: int,
        num_agents: int,
        share_params: bool,
        agent_index: bool,
        last_layer: float,
        device: torch.device | str | None,
        **options,
    ):
        super().__init__()
        told = num_agents if share_params and agent_index else 0
        self.register_buffer("agent_id", torch.eye(num_agents, device=device)[:, :told])
        self.net = multi_agent_mlp(
            in_features=in_features + told,
            num_agents=num_agents,
            share_params=share_params,
            initialize=_orthogonal,
            device=device,
            **options,
        )
        *_, last = (value for key, value in self.net.params.items(True, True) if "weight" in key)
        last.data.mul_(last_layer)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if not self.agent_id.shape[-1]:
            return self.net(features)
        return self.net(features, self.agent_id.expand(*features.shape[:-1], -1))


def _orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    return nn.init.orthogonal_(matrix, math.sqrt(2))


class _BoundedScale(nn.Module):
    """A scale for each action feature, whatever the state, ``[*B, N, A] -> [*B, N, A]``."""

    def __init__(
        self, shape: tuple[int, int], *, half_range: torch.Tensor, initial: float, least: float
    ):
        super().__init__()
        share = math.log(initial) / math.log(least)
        start = math.log(share / (1 - share))
        self.register_buffer("half_range", half_range)
        self.parameter = nn.Parameter(torch.full(shape, start, device=half_range.device))
        self.log_least = math.log(least)

    def forward(self, loc: torch.Tensor) -> torch.Tensor:
        scale = torch.exp(self.log_least * torch.sigmoid(self.parameter))
        return (scale * self.half_range.clamp_min(1e-6)).expand_as(loc)


class _TeamValues(nn.Module):
    """Values that are learned in units of their own spread, ``-> [*B, N, H]``."""

    def __init__(self, net: nn.Module, num_agents: int, heads: int, norm: ValueNorm | None):
        super().__init__()
        self.net = net
        self.sizes = (num_agents, heads)
        self.norm = norm

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        values = self.net(features)
        if values.shape[-2:] != self.sizes:
            values = values.squeeze(-2).unflatten(-1, self.sizes)
        return values if self.norm is None else self.norm.denormalize(values)


class _Team(nn.Module):
    """One network that sees a whole team or its state."""

    def __init__(self, net: nn.Module, *, flatten: bool):
        super().__init__()
        self.net = net
        self.flatten = flatten

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if self.flatten:
            features = features.flatten(-2)
        return self.net(features.unsqueeze(-2))


def make_team_value(
    env: EnvBase,
    *,
    num_cells: Sequence[int] = (128, 128),
    value_input: Literal["own", "team", "state"] = "team",
    heads: int = 1,
    share_params: bool = True,
    agent_index: bool = True,
    layer_norm: bool = False,
    value_norm: ValueNorm | None = None,
    device: torch.device | str | None = None,
) -> TensorDictModuleBase:
    """Values of H returns for each of N agents, ``-> [*B, N, H]``.

    With ``value_input="team"`` one network sees all observations and has a head for each
    agent and return (MAPPO, https://arxiv.org/abs/2103.01955); with ``"state"`` it sees
    ``"state"`` ``[*B, S]``; with ``"own"`` each agent's value sees its own observation (IPPO,
    https://arxiv.org/abs/2011.09533). It writes ``("agents", "state_value")``.

    Args:
        env: an environment in the layout of this package.
        num_cells: width of each hidden layer.
        value_input: what a value sees: ``"own"``, ``"team"`` or ``"state"``.
        heads: H, returns that are valued: the reward's, and one of each bonus.
        share_params: with ``"own"``, one network for all agents.
        agent_index: with ``"own"``, tell a shared network whose value it is.
        layer_norm: normalize the pre-activations of the hidden layers.
        value_norm: a ``ValueNorm`` of TorchRL with the shape ``(H,)``: the network learns
            values in its units. The loss that trains it must have the same one.
        device: of the parameters. Default: the environment's.

    Returns:
        A TensorDictModule.

    Raises:
        KeyError: if the environment has another layout.
        ValueError: if an argument is out of range, or there is no state to see.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=3)
        >>> make_team_value(env, heads=2)(env.reset())["agents", "state_value"].shape
        torch.Size([5, 3, 2])
    """
    check_choice("value_input", value_input, VALUE_INPUTS)
    check_at_least_one(heads=heads)
    layout = layout_of(env)
    num_agents = layout.num_agents
    options: dict[str, Any] = {
        "num_cells": num_cells,
        "layer_norm": layer_norm,
        "last_layer": 0.1,
        "device": env.device if device is None else device,
    }
    if value_input == "own":
        net = _IndexedMLP(
            in_features=layout.observation_size,
            out_features=heads,
            num_agents=num_agents,
            share_params=share_params,
            agent_index=agent_index,
            **options,
        )
        seen: NestedKey = OBSERVATION
    else:
        state = value_input == "state"
        size = state_size_of(env) if state else num_agents * layout.observation_size
        net = _IndexedMLP(
            in_features=size,
            out_features=num_agents * heads,
            num_agents=1,
            share_params=True,
            agent_index=False,
            **options,
        )
        net = _Team(net, flatten=not state)
        seen = STATE if state else OBSERVATION
    values = _TeamValues(net, num_agents, heads, value_norm)
    return TensorDictModule(values, in_keys=[seen], out_keys=[STATE_VALUE])
