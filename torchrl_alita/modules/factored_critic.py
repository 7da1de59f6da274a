"""One value of a team that is a weighted sum of the values of each agent's own action."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.envs import EnvBase
from torchrl.modules import MLP

from torchrl_alita._checks import check_choice
from torchrl_alita.layout import ACTION, OBSERVATION, STATE, VALUE, layout_of, state_size_of
from torchrl_alita.modules._mlp import multi_agent_mlp
from torchrl_alita.modules.critics import CRITIC_INPUTS, check_sizes

__all__ = ["make_factored_critic"]

# The agents' values begin near 0: what an untrained critic prefers, policies would learn first.
_LAST_LAYER = 0.01


class _FactoredCritic(nn.Module):
    """``[*B, N, O], [*B, N, A], [*B, S] -> [*B, N, 1]``, the same for all agents."""

    def __init__(
        self,
        *,
        observation_size: int,
        action_size: int,
        state_size: int | None,
        num_agents: int,
        num_cells: Sequence[int],
        share_params: bool,
        layer_norm: bool,
        device: torch.device | str | None,
    ):
        super().__init__()
        self.sizes = (observation_size, action_size)
        self.share_params = share_params
        # A shared network could not tell its agents apart without.
        self.register_buffer("agent_id", torch.eye(num_agents, device=device))
        self.own_value = multi_agent_mlp(
            in_features=observation_size + action_size + num_agents * int(share_params),
            out_features=1,
            num_agents=num_agents,
            num_cells=num_cells,
            share_params=share_params,
            layer_norm=layer_norm,
            device=device,
        )
        *_, last = (layer for layer in self.own_value._empty_net if isinstance(layer, nn.Linear))
        last.weight.data.mul_(_LAST_LAYER)
        seen = num_agents * observation_size if state_size is None else state_size
        self.weight = nn.Linear(seen, num_agents, device=device)
        self.bias = MLP(
            in_features=seen,
            out_features=1,
            num_cells=list(num_cells),
            activation_class=nn.ReLU,
            device=device,
        )

    def forward(
        self, observation: torch.Tensor, action: torch.Tensor, state: torch.Tensor | None = None
    ) -> torch.Tensor:
        check_sizes(observation, action, self.sizes)
        seen = observation.flatten(-2) if state is None else state
        own, others = self._own_values(observation, action), action.ndim > observation.ndim
        if others:
            # A joint action for each agent.
            seen = seen.unsqueeze(-2)
        value = (2 * self.weight(seen).sigmoid() * own).sum(-1, keepdim=True) + self.bias(seen)
        return value if others else value.unsqueeze(-2).expand(*own.shape, 1)

    def _own_values(self, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Q_i of each agent's own action, ``[*B, N, A] -> [*B, N]``."""
        if action.ndim > observation.ndim:
            observation = observation.unsqueeze(-3)
        rows = action.shape[:-1]
        parts = [observation.expand(*rows, -1), action]
        if self.share_params:
            parts.append(self.agent_id.expand(*rows, -1))
        return self.own_value(*parts).squeeze(-1)


def make_factored_critic(
    env: EnvBase,
    *,
    num_cells: Sequence[int] = (128, 128),
    share_params: bool = False,
    layer_norm: bool = True,
    critic_input: Literal["observations", "state"] = "observations",
    device: torch.device | str | None = None,
) -> TensorDictModule:
    r"""A critic of the team's value, ``[*B, N, O], [*B, N, A] -> [*B, N, 1]``, alike for all.

    .. math::
        Q(x, a) = b(x) + \sum_i k_i(x) \, Q_i(x_i, a_i), \qquad k_i(x) = 2 \sigma(w_i \cdot x)

    Q_i is the value of agent i's own action, by its own observation; x are all observations,
    or the state. What agent i climbs, see :class:`torchrl_alita.objectives.MADDPGLoss`, is
    :math:`k_i Q_i`: it does not depend on what the others do, and all agents learn from one
    return. This is the linearly decomposed critic of DOP (https://arxiv.org/abs/2007.12322);
    its weights there have no upper bound, here they are below 2, and near 1 at first.

    It fits teams that are paid together. With rewards that differ it learns their mean.

    Args:
        env: an environment in the layout of this package.
        num_cells: width of each hidden layer, of Q_i and of b. Default: (128, 128).
        share_params: one Q_i for all agents, told the agent's index.
        layer_norm: normalize the pre-activations of Q_i's hidden layers.
        critic_input: what k and b read, the ``"observations"`` of all agents or the
            ``"state"`` ``[*B, S]``.
        device: of the parameters. Default: the environment's.

    Returns:
        A TensorDictModule with the keys of :func:`torchrl_alita.modules.make_critic`. The
        action may also be ``[*B, N, N, A]``, a joint action for each agent.

    Raises:
        KeyError: if the environment has another layout.
        ValueError: if a size is below 1, or there is no state to read.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=3)
        >>> critic = make_factored_critic(env)
        >>> critic(env.rand_action(env.reset()))["agents", "state_action_value"].shape
        torch.Size([5, 3, 1])
    """
    layout = layout_of(env)
    check_choice("critic_input", critic_input, CRITIC_INPUTS)
    reads_state = critic_input == "state"
    critic = _FactoredCritic(
        observation_size=layout.observation_size,
        action_size=layout.action_size,
        state_size=state_size_of(env) if reads_state else None,
        num_agents=layout.num_agents,
        num_cells=num_cells,
        share_params=share_params,
        layer_norm=layer_norm,
        device=env.device if device is None else device,
    )
    in_keys = [OBSERVATION, ACTION, *([STATE] if reads_state else [])]
    return TensorDictModule(critic, in_keys=in_keys, out_keys=[VALUE])
