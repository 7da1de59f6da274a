"""Critics that know what all others do, and say what each own action is worth."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import NestedKey
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.envs import EnvBase

from torchrl_alita.functional import replace_own_action
from torchrl_alita.layout import (
    ACTION,
    ACTION_VALUE,
    OBSERVATION,
    STATE,
    has_state,
    layout_of,
    state_size_of,
)
from torchrl_alita.modules._mlp import multi_agent_mlp
from torchrl_alita.modules.actors import require_one_hot

__all__ = ["make_counterfactual_critic"]


class _Counterfactual(nn.Module):
    """``[*B, N, O], [*B, N, L]`` and the state ``[*B, S]``, if it is read, ``-> [*B, N, L]``.

    Agent i's row is made of the state, or without one of all observations, of its own
    observation and index, and of the actions of all others.
    """

    def __init__(
        self,
        *,
        observation_size: int,
        state_size: int | None,
        action_size: int,
        num_agents: int,
        num_cells: Sequence[int],
        layer_norm: bool,
        bound: float | None,
        device: torch.device | str | None,
    ):
        super().__init__()
        self.register_buffer("agent_id", torch.eye(num_agents, device=device))
        self.bound = bound
        self.sizes = (action_size, state_size)
        seen = num_agents * observation_size if state_size is None else state_size
        self.net = multi_agent_mlp(
            in_features=seen + observation_size + num_agents * (1 + action_size),
            out_features=action_size,
            num_agents=num_agents,
            num_cells=num_cells,
            share_params=True,
            layer_norm=layer_norm,
            device=device,
        )

    def forward(
        self, observation: torch.Tensor, action: torch.Tensor, state: torch.Tensor | None = None
    ) -> torch.Tensor:
        *lead, num_agents, _ = observation.shape
        action_size, state_size = self.sizes
        if action.shape != (*lead, num_agents, action_size):
            raise ValueError(
                f"The actions must have the shape {(*lead, num_agents, action_size)}, got "
                f"{tuple(action.shape)}."
            )
        if state is not None and state.shape != (*lead, state_size):
            raise ValueError(
                f"The state must have the shape {(*lead, state_size)}, got {tuple(state.shape)}."
            )
        team = observation.flatten(-2) if state is None else state
        of_others = replace_own_action(action, torch.zeros_like(action)).flatten(-2)
        result = self.net(
            team.unsqueeze(-2).expand(*lead, num_agents, -1),
            observation,
            of_others.to(observation.dtype),
            self.agent_id.expand(*lead, -1, -1),
        )
        return result if self.bound is None else self.bound * torch.tanh(result / self.bound)


def make_counterfactual_critic(
    env: EnvBase,
    *,
    num_cells: Sequence[int] = (128, 128),
    layer_norm: bool = True,
    bound: float | None = None,
    out_key: NestedKey = ACTION_VALUE,
    device: torch.device | str | None = None,
) -> TensorDictModule:
    """A number for each own action, given all others', ``[*B, N, O], [*B, N, L] -> [*B, N, L]``.

    COMA's critic (https://arxiv.org/abs/1705.08926): one network for all agents, which reads
    the ``"state"`` ``[*B, S]``, or where an environment has none all observations, and of
    agent i the observation, the index and the actions of all others; of its own action it has
    one output each. PyMARL's also reads the last actions of all agents.

    Args:
        env: an environment in the layout of this package, with one-hot actions.
        num_cells: width of each hidden layer. Default: (128, 128), PyMARL's.
        layer_norm: normalize the pre-activations of the hidden layers.
        bound: b, positive: the numbers are b tanh(x / b), within -b and b. Default: none.
        out_key: key written. Default: ``("agents", "action_value")``.
        device: of the parameters. Default: the environment's.

    Returns:
        A TensorDictModule.

    Raises:
        KeyError: if the environment has another layout.
        ValueError: if its actions are not one-hot, or an argument is out of range.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("push_box", num_envs=5, n_agents=2)
        >>> critic = make_counterfactual_critic(env)
        >>> critic(env.rand_action(env.reset()))["agents", "action_value"].shape
        torch.Size([5, 2, 5])
    """
    layout = layout_of(env)
    require_one_hot(env, "Values of actions")
    if bound is not None and not bound > 0:
        raise ValueError(f"bound must be positive, got {bound}.")
    reads_state = has_state(env)
    net = _Counterfactual(
        observation_size=layout.observation_size,
        state_size=state_size_of(env) if reads_state else None,
        action_size=layout.action_size,
        num_agents=layout.num_agents,
        num_cells=num_cells,
        layer_norm=layer_norm,
        bound=bound,
        device=env.device if device is None else device,
    )
    in_keys = [OBSERVATION, ACTION, *([STATE] if reads_state else [])]
    return TensorDictModule(net, in_keys=in_keys, out_keys=[out_key])
