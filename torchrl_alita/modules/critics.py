"""Centralized critics, and the single estimator of the influenced values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.envs import EnvBase

from torchrl_alita._agents import gather_agents
from torchrl_alita._checks import check_at_least_one, check_choice
from torchrl_alita.functional import joint_parts
from torchrl_alita.layout import (
    ACTION,
    OBSERVATION,
    STATE,
    VALUE,
    layout_of,
    state_size_of,
)
from torchrl_alita.modules._mlp import multi_agent_mlp

__all__ = ["make_critic", "make_influence_network"]

CRITIC_INPUTS = ("observations", "state")


class _Critics(nn.Module):
    """C critics of each of N agents, ``[*B, N, O], [*B, N, A] -> [*B, N, C]``.

    In the place of the observations they may read a state ``[*B, S]``. The critics of M
    ``agents`` alone give ``[*B, M, C]``.
    """

    # The losses ask this before they name agents.
    chooses_agents = True

    def __init__(
        self,
        *,
        observation_size: int,
        action_size: int,
        state_size: int | None,
        scope: torch.Tensor,
        num_critics: int,
        num_cells: Sequence[int],
        share_params: bool,
        layer_norm: bool,
        device: torch.device | str | None,
    ):
        super().__init__()
        num_agents = scope.shape[0]
        self.reads_state = state_size is not None
        self.sizes = (observation_size if state_size is None else state_size, action_size)
        self.num_critics = num_critics
        self.share_params = share_params
        self.register_buffer("scope", scope.to(device, copy=True))
        # Known here, since to ask the buffer would wait for the device at every update.
        self.sees_all = bool(scope.all())
        # A shared critic of a full scope could not tell its agents apart without.
        self.register_buffer("agent_id", torch.eye(num_agents, device=device))
        in_features = self.sizes[0] if self.reads_state else num_agents * observation_size
        in_features += num_agents * (action_size + int(share_params))
        self.net = multi_agent_mlp(
            in_features=in_features,
            out_features=1,
            num_agents=num_critics if share_params else num_agents * num_critics,
            num_cells=num_cells,
            share_params=False,
            layer_norm=layer_norm,
            device=device,
        )

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.sees_all = bool(self.scope.all())

    def forward(
        self,
        observation: torch.Tensor,
        action: torch.Tensor,
        agents: Sequence[int] | None = None,
    ) -> torch.Tensor:
        check_sizes(observation, action, self.sizes)
        if self.reads_state:
            parts = [*_state_parts(observation, action)]
        else:
            parts = [*joint_parts(observation, action, None if self.sees_all else self.scope)]
        if self.share_params:
            parts.append(self.agent_id.expand(*parts[0].shape[:-1], -1))
        parts = [gather_agents(part, agents, -2) for part in parts]
        if self.share_params:
            of_each = [part.unsqueeze(-2) for part in parts]
            expanded = [part.expand(*part.shape[:-2], self.num_critics, -1) for part in of_each]
            return self.net(*expanded).squeeze(-1)
        count = self.num_critics
        if count > 1:
            parts = [part.repeat_interleave(count, dim=-2) for part in parts]
        nets = agents and [agent * count + c for agent in agents for c in range(count)]
        return self.net(*parts, agents=nets).squeeze(-1).unflatten(-1, (-1, count))


def make_critic(
    env: EnvBase,
    *,
    num_critics: int = 1,
    num_cells: Sequence[int] = (128, 128),
    share_params: bool = False,
    layer_norm: bool = True,
    scope: torch.Tensor | None = None,
    critic_input: Literal["observations", "state"] = "observations",
    device: torch.device | str | None = None,
) -> TensorDictModule:
    """Critics Q^(i) of N agents, ``[*B, N, O], [*B, N, A] -> [*B, N, C]``.

    Reads ``("agents", "observation")`` and ``("agents", "action")``, writes
    ``("agents", "state_action_value")`` with C = ``num_critics``. The action may
    also be ``[*B, N, N, A]``, a joint action for each critic, see
    :func:`torchrl_alita.functional.replace_own_action`. Appendix D.2 of
    https://arxiv.org/abs/2108.12581.

    Args:
        env: an environment in the layout of this package.
        num_critics: 1 is MADDPG, 2 is MATD3.
        num_cells: width of each hidden layer. Default: (128, 128), the paper's.
        share_params: one critic for all agents, told the agent's index.
        layer_norm: Default: True, the paper's.
        scope: bool ``[N, N]``, whose observation and action critic i (row) sees.
            Default: all True (MADDPG); the identity is independent DDPG.
        critic_input: ``"observations"`` of all agents, or ``"state"`` ``[*B, S]``, in
            their place.
        device: of the parameters. Default: the environment's.

    Returns:
        A TensorDictModule.

    Raises:
        KeyError: if the environment has another layout.
        ValueError: if num_critics is below 1, or the scope has another shape or
            dtype, or hides an agent from its own critic, or from one that reads the
            state; or if there is no state to read.
        TypeError: if the scope is no tensor.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=3)
        >>> make_critic(env, num_critics=2)(env.rand_action(env.reset()))[VALUE].shape
        torch.Size([5, 3, 2])
    """
    layout = layout_of(env)
    shape = (layout.num_agents, layout.num_agents)
    check_at_least_one(num_critics=num_critics)
    if scope is None:
        scope = torch.ones(shape, dtype=torch.bool)
    if not isinstance(scope, torch.Tensor):
        raise TypeError(f"scope must be a bool tensor of shape {shape}, got {scope!r}.")
    if scope.shape != shape or scope.dtype != torch.bool:
        raise ValueError(
            f"scope must be bool of shape {shape}, got {scope.dtype} of {tuple(scope.shape)}."
        )
    if not scope.diagonal().all():
        raise ValueError(f"scope must show every critic its own agent, got {scope.tolist()}.")
    check_choice("critic_input", critic_input, CRITIC_INPUTS)
    reads_state = critic_input == "state"
    if reads_state and not scope.all():
        raise ValueError(f"A critic that reads the state sees all agents, got {scope.tolist()}.")
    critics = _Critics(
        observation_size=layout.observation_size,
        action_size=layout.action_size,
        state_size=state_size_of(env) if reads_state else None,
        scope=scope,
        num_critics=num_critics,
        num_cells=num_cells,
        share_params=share_params,
        layer_norm=layer_norm,
        device=env.device if device is None else device,
    )
    seen = STATE if reads_state else OBSERVATION
    return TensorDictModule(critics, in_keys=[seen, ACTION], out_keys=[VALUE])


def _state_parts(state: torch.Tensor, action: torch.Tensor) -> list[torch.Tensor]:
    """What N critics see, ``[*B, S], [*B, N, A] -> [*B, N, S], [*B, N, N * A]``."""
    num_agents = action.shape[-2]
    if action.ndim == state.ndim + 1:
        action = action.unsqueeze(-3)
    parts = (state.unsqueeze(-2), action.flatten(-2))
    return [part.expand(*part.shape[:-2], num_agents, -1) for part in parts]


def check_sizes(observation: torch.Tensor, action: torch.Tensor, sizes: tuple[int, int]) -> None:
    if (observation.shape[-1], action.shape[-1]) != sizes:
        raise ValueError(
            f"The critics take {sizes[0]} features of observation and {sizes[1]} of action, "
            f"got {observation.shape[-1]} and {action.shape[-1]}."
        )


class _InfluenceNetwork(nn.Module):
    """Q^cen with one head for each agent, ``[*B, N, O], [*B, N, A] -> [*B, N, 1]``."""

    def __init__(self, observation_size: int, action_size: int, num_agents: int, **kwargs):
        super().__init__()
        self.sizes = (observation_size, action_size)
        self.net = multi_agent_mlp(
            in_features=num_agents * (observation_size + action_size),
            out_features=num_agents,
            num_agents=1,
            **kwargs,
        )

    def forward(self, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        check_sizes(observation, action, self.sizes)
        features = torch.cat([observation.flatten(-2), action.flatten(-2)], -1)
        return self.net(features.unsqueeze(-2)).squeeze(-2).unsqueeze(-1)


def make_influence_network(
    env: EnvBase,
    *,
    num_cells: Sequence[int] = (128, 128),
    layer_norm: bool = True,
    device: torch.device | str | None = None,
) -> TensorDictModule:
    """The single estimator Q^cen of Eq. 6, ``[*B, N, O], [*B, N, A] -> [*B, N, 1]``.

    One network for all influencees, in place of one clone for each. It has a head
    for every agent, so that any of them may be the influencer; the heads of those
    that are no influencees are neither trained nor read.
    Source: https://arxiv.org/abs/2108.12581.

    Args:
        env: an environment in the layout of this package.
        num_cells: width of each hidden layer. Default: (128, 128), the paper's.
        layer_norm: Default: True, the paper's.
        device: of the parameters. Default: the environment's.

    Returns:
        A TensorDictModule with the keys of :func:`make_critic`.

    Raises:
        KeyError: if the environment has another layout.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=3)
        >>> make_influence_network(env)(env.rand_action(env.reset()))[VALUE].shape
        torch.Size([5, 3, 1])
    """
    layout = layout_of(env)
    network = _InfluenceNetwork(
        layout.observation_size,
        layout.action_size,
        layout.num_agents,
        num_cells=num_cells,
        layer_norm=layer_norm,
        device=env.device if device is None else device,
    )
    return TensorDictModule(network, in_keys=[OBSERVATION, ACTION], out_keys=[VALUE])
