"""Whom an influencer attends to, as the weights of its influence."""

from __future__ import annotations

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import nn
from torchrl.envs import EnvBase

from torchrl_alita._checks import check_same_shape, require_keys, sizes
from torchrl_alita.layout import ATTENDED_VALUE, ATTENTION, OBSERVATION, layout_of
from torchrl_alita.modules.attention import AgentAttention

__all__ = ["InfluenceAttention", "make_influence_attention"]


class InfluenceAttention(TensorDictModuleBase):
    r"""What agent k attends to, to know what it is worth, ``[*B, N, O] -> [*B, N, N], [*B, N, 1]``.

    .. math::
        h_i = \mathrm{ReLU}(LN(W_x [o_i, e_i])), \qquad
        \alpha_{k \cdot} = softmax_{i \ne k} \, \frac{q_k \cdot k_i}{\sqrt{H}}, \qquad
        y_k = f\Big(LN\big(h_k + \mathrm{ReLU}\big(W_o \sum_{i \ne k} \alpha_{ki} v_i\big)\big)\Big)

    An :class:`AgentAttention` of one head that leaves each agent itself out. Its weights are
    for :class:`torchrl_alita.Team`; its values y are for
    :class:`torchrl_alita.objectives.InfluenceAttentionLoss`, which trains both. Queries begin
    at zero: until something is learned all teammates count equally. It sees observations and
    no actions, so that nobody gains weight, or loses it, by what it does next.

    Source: ours; https://arxiv.org/abs/2108.12581 names attention as its outlook.

    Args:
        observation_size: O.
        num_agents: N.
        hidden_size: H.
        observation: key read. Default: ``("agents", "observation")``.
        device: of the parameters.

    Raises:
        ValueError: if a size is below 1; when called, if the observation has another shape.
        KeyError: when called, if the batch lacks it.

    Examples:
        >>> from tensordict import TensorDict
        >>> net = InfluenceAttention(observation_size=5, num_agents=3)
        >>> written = net(TensorDict({"agents": {"observation": torch.randn(7, 3, 5)}}, [7]))
        >>> written["agents", "attention"][0].detach()
        tensor([[0.0000, 0.5000, 0.5000],
                [0.5000, 0.0000, 0.5000],
                [0.5000, 0.5000, 0.0000]])
    """

    agent_id: torch.Tensor

    def __init__(
        self,
        *,
        observation_size: int,
        num_agents: int,
        hidden_size: int = 64,
        observation: NestedKey = OBSERVATION,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        (observation_size,) = sizes("observation_size", [observation_size])
        (num_agents,) = sizes("num_agents", [num_agents])
        (hidden_size,) = sizes("hidden_size", [hidden_size])
        self.in_keys = [observation]
        self.out_keys = [ATTENTION, ATTENDED_VALUE]
        self.observation_size, self.num_agents = observation_size, num_agents
        self.register_buffer("agent_id", torch.eye(num_agents, device=device))
        self.encoder = nn.Sequential(
            nn.Linear(observation_size + num_agents, hidden_size, device=device),
            nn.LayerNorm(hidden_size, device=device),
            nn.ReLU(),
        )
        self.attention = AgentAttention(
            in_features=hidden_size,
            hidden_size=hidden_size,
            num_heads=1,
            see_self=False,
            device=device,
        )
        for param in self.attention.query.parameters():
            nn.init.zeros_(param)
        self.norm = nn.LayerNorm(hidden_size, device=device)
        self.decoder = nn.Sequential(
            nn.Linear(hidden_size, hidden_size, device=device),
            nn.ReLU(),
            nn.Linear(hidden_size, 1, device=device),
        )

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        require_keys(tensordict, self.in_keys)
        observation = tensordict.get(self.in_keys[0])
        rows = observation.shape[:-2]
        shape = (*rows, self.num_agents, self.observation_size)
        check_same_shape(tensordict, self.in_keys[0], shape)
        agent_id = self.agent_id.expand(*rows, -1, -1)
        hidden = self.encoder(torch.cat([observation, agent_id], -1))
        gathered = self.norm(hidden + torch.relu(self.attention(hidden)))
        tensordict.set(ATTENTION, self.attention.weights(hidden).squeeze(-3))
        return tensordict.set(ATTENDED_VALUE, self.decoder(gathered))


def make_influence_attention(
    env: EnvBase,
    *,
    hidden_size: int = 64,
    device: torch.device | str | None = None,
) -> InfluenceAttention:
    """An :class:`InfluenceAttention` for the agents of an environment.

    Args:
        env: an environment in the layout of this package.
        hidden_size: see :class:`InfluenceAttention`.
        device: of the parameters. Default: the environment's.

    Returns:
        The network.

    Raises:
        KeyError: if the environment has another layout.
        ValueError: if the size is below 1.

    Examples:
        >>> from torchrl_alita import Team
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=3, seed=0)
        >>> team = Team(env, influencers=0, weights=make_influence_attention(env))
        >>> team.weights_in(env.reset())[0]
        tensor([[0.5000, 0.5000]])
    """
    layout = layout_of(env)
    return InfluenceAttention(
        observation_size=layout.observation_size,
        num_agents=layout.num_agents,
        hidden_size=hidden_size,
        device=env.device if device is None else device,
    )
