"""Attention over agents: how much each of a team's agents counts for each other."""

from __future__ import annotations

import math
from typing import Literal

import torch
from tensordict import NestedKey
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.envs import EnvBase

from torchrl_alita._checks import check_choice, check_whole, sizes
from torchrl_alita.layout import ACTION, LOGITS, OBSERVATION, PARAM, VALUE, layout_of
from torchrl_alita.modules.actors import acting, action_spec_of

__all__ = ["AgentAttention", "AttentionNet", "make_attention_actor", "make_attention_critic"]

SCORES = ("dot", "gatv2")


class AgentAttention(nn.Module):
    r"""Masked multi-head attention of N agents, ``[*B, N, F] -> [*B, N, H]``.

    .. math::
        m_i = W_o \Big[ \sum_j \alpha^h_{ij} \, v^h_j \Big]_h, \qquad
        \alpha^h_{i \cdot} = softmax_j \, e^h_{ij}

    over the agents j that agent i sees. The scores are the scaled dot product
    :math:`e_{ij} = q_i \cdot k_j / \sqrt{d}` (https://arxiv.org/abs/1706.03762), or those of
    GATv2, :math:`e_{ij} = a \cdot LeakyReLU(q_i + k_j)` with a slope of 0.2, where the keys are
    the values too (https://arxiv.org/abs/2105.14491). No parameter depends on N: one module
    serves teams of every size, and a team in any order.

    The outlook of https://arxiv.org/abs/2108.12581 names it as a way to learn how important an
    influencer is. An agent that is masked out is not read: its features may be anything, NaN
    included, and get no gradient. One that sees nobody gets zeros.

    Args:
        in_features: F.
        hidden_size: H, a multiple of the number of heads.
        num_heads: attentions side by side, each of H / num_heads features.
        scores: ``"dot"`` or ``"gatv2"``.
        see_self: an agent counts for itself too. Without it the weights are those of its
            teammates alone.
        device: of the parameters.

    Raises:
        ValueError: if a size is below 1, H is no multiple of the heads, or the scores are
            unknown; when called, if a shape does not fit.
        TypeError: when called, if the mask is not bool.

    Examples:
        >>> attention = AgentAttention(in_features=5, hidden_size=8, num_heads=2)
        >>> present = torch.tensor([True, True, False])
        >>> attention(torch.randn(7, 3, 5), present.expand(7, 3)).shape
        torch.Size([7, 3, 8])
        >>> attention.weights(torch.randn(7, 3, 5), present.expand(7, 3))[0, 0, :, 2]
        tensor([0., 0., 0.], grad_fn=<SelectBackward0>)
    """

    def __init__(
        self,
        *,
        in_features: int,
        hidden_size: int = 64,
        num_heads: int = 4,
        scores: Literal["dot", "gatv2"] = "dot",
        see_self: bool = True,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        (in_features,), (hidden_size,), (num_heads,) = (
            sizes(name, [size])
            for name, size in (
                ("in_features", in_features),
                ("hidden_size", hidden_size),
                ("num_heads", num_heads),
            )
        )
        check_choice("scores", scores, SCORES)
        if hidden_size % num_heads:
            raise ValueError(
                f"hidden_size must be a multiple of num_heads, {num_heads}, got {hidden_size}."
            )
        self.in_features, self.hidden_size, self.num_heads = in_features, hidden_size, num_heads
        self.scores, self.see_self = scores, see_self
        self.query = nn.Linear(in_features, hidden_size, device=device)
        self.key = nn.Linear(in_features, hidden_size, device=device)
        if scores == "dot":
            self.value = nn.Linear(in_features, hidden_size, device=device)
        else:
            width = hidden_size // num_heads
            self.score = nn.Parameter(torch.empty(num_heads, width, device=device))
            nn.init.xavier_uniform_(self.score)
        self.out = nn.Linear(hidden_size, hidden_size, device=device)

    def forward(self, features: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """What each agent gathers from those it sees.

        Args:
            features: ``[*B, N, F]``.
            mask: bool, True for an agent that is there, ``[*B, N]``, or for one, the second,
                that another, the first, sees, ``[*B, N, N]``. Default: all are seen.

        Returns:
            ``[*B, N, H]``.
        """
        features, seen = self._inputs(features, mask)
        keys = self._heads(self.key(features))
        values = keys if self.scores == "gatv2" else self._heads(self.value(features))
        gathered = self._weights(features, keys, seen) @ values
        out = self.out(gathered.movedim(-3, -2).flatten(-2))
        return out * seen.any(-1, keepdim=True)

    def weights(self, features: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """How much agent j counts for agent i in each of M heads, ``[*B, M, N, N]``.

        Each row sums to 1, or is 0 where an agent sees nobody.

        Args:
            features: ``[*B, N, F]``.
            mask: as for ``forward``.

        Returns:
            ``[*B, M, N, N]``.

        Examples:
            >>> attention = AgentAttention(in_features=5, hidden_size=8, see_self=False)
            >>> weights = attention.weights(torch.randn(3, 5)).detach()
            >>> weights.sum(-1).allclose(torch.ones(4, 3)), float(weights[0].diagonal().sum())
            (True, 0.0)
        """
        features, seen = self._inputs(features, mask)
        return self._weights(features, self._heads(self.key(features)), seen)

    def _inputs(
        self, features: torch.Tensor, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Features without those of the absent, and who sees whom, ``[*B, N, N]``."""
        _check_features(features, self.in_features)
        *rows, num_agents, _ = features.shape
        own = torch.eye(num_agents, dtype=torch.bool, device=features.device)
        seen = torch.ones_like(own) if self.see_self else ~own
        seen = seen.expand(*rows, num_agents, num_agents)
        if mask is None:
            return features, seen
        features = _present_alone(features, mask)
        pairs = mask if mask.ndim == features.ndim else mask.unsqueeze(-1) & mask.unsqueeze(-2)
        return features, seen & pairs

    def _heads(self, features: torch.Tensor) -> torch.Tensor:
        """``[*B, N, H] -> [*B, M, N, H / M]``."""
        return features.unflatten(-1, (self.num_heads, -1)).movedim(-2, -3)

    def _weights(
        self, features: torch.Tensor, keys: torch.Tensor, seen: torch.Tensor
    ) -> torch.Tensor:
        queries = self._heads(self.query(features))
        if self.scores == "dot":
            scores = queries @ keys.mT / math.sqrt(keys.shape[-1])
        else:
            pairs = queries.unsqueeze(-2) + keys.unsqueeze(-3)
            pairs = nn.functional.leaky_relu(pairs, 0.2)
            scores = (pairs * self.score.view(self.num_heads, 1, 1, -1)).sum(-1)
        seen = seen.unsqueeze(-3)
        # The softmax of a row without an entry would be NaN, as would its gradient.
        lowest = torch.finfo(scores.dtype).min
        weights = scores.masked_fill(~seen, lowest).softmax(-1)
        return torch.where(seen, weights, 0.0)


def _check_features(features: torch.Tensor, size: int) -> None:
    if features.ndim < 2 or features.shape[-1] != size:
        raise ValueError(f"The features must be [*B, agents, {size}], got {tuple(features.shape)}.")


def _present_alone(features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Zeros for the absent, ``[*B, N, F]``: a weight of 0 would not protect from NaN.

    Absent is who is masked out, or neither sees nor is seen.
    """
    if mask.dtype != torch.bool:
        raise TypeError(f"The mask must be bool, got {mask.dtype}.")
    agents = features.shape[:-1]
    shapes = (agents, (*agents, agents[-1]))
    if tuple(mask.shape) not in shapes:
        raise ValueError(
            f"The mask must have the shape {tuple(shapes[0])} or {shapes[1]}, got "
            f"{tuple(mask.shape)}."
        )
    present = mask if mask.ndim < features.ndim else mask.any(-1) | mask.any(-2)
    return torch.where(present.unsqueeze(-1), features, 0.0)


class AttentionNet(nn.Module):
    r"""A network of N agents that attend to each other, ``[*B, N, F] -> [*B, N, out]``.

    .. math::
        h_i = \mathrm{ReLU}(LN(W_x x_i)), \quad
        h_i \leftarrow LN(h_i + \mathrm{ReLU}(m_i)), \quad
        y_i = W_y \, \mathrm{ReLU}(W_h h_i)

    where m is :class:`AgentAttention`, once or several times, each with parameters of its
    own. All agents share the parameters: what an agent must know of itself it is told in its
    features.

    Args:
        in_features: F, of each agent.
        out_features: of each agent.
        hidden_size: H.
        num_heads: see :class:`AgentAttention`.
        num_rounds: attentions after each other: agents that see their neighbors alone hear of
            those who are so many steps away.
        scores: see :class:`AgentAttention`.
        device: of the parameters.

    Raises:
        ValueError: as in :class:`AgentAttention`.
        TypeError: as in :class:`AgentAttention`.

    Examples:
        >>> net = AttentionNet(in_features=5, out_features=2)
        >>> net(torch.randn(7, 3, 5)).shape, net(torch.randn(7, 11, 5)).shape
        (torch.Size([7, 3, 2]), torch.Size([7, 11, 2]))
    """

    def __init__(
        self,
        *,
        in_features: int,
        out_features: int,
        hidden_size: int = 64,
        num_heads: int = 4,
        num_rounds: int = 1,
        scores: Literal["dot", "gatv2"] = "dot",
        device: torch.device | str | None = None,
    ):
        super().__init__()
        (in_features,), (out_features,) = (
            sizes("in_features", [in_features]),
            sizes("out_features", [out_features]),
        )
        check_whole(1, num_rounds=num_rounds)
        self.in_features = in_features
        rounds = [
            AgentAttention(
                in_features=hidden_size,
                hidden_size=hidden_size,
                num_heads=num_heads,
                scores=scores,
                device=device,
            )
            for _ in range(num_rounds)
        ]
        self.encoder = nn.Sequential(
            nn.Linear(in_features, hidden_size, device=device),
            nn.LayerNorm(hidden_size, device=device),
            nn.ReLU(),
        )
        self.rounds = nn.ModuleList(rounds)
        self.norms = nn.ModuleList(nn.LayerNorm(hidden_size, device=device) for _ in rounds)
        self.decoder = nn.Sequential(
            nn.Linear(hidden_size, hidden_size, device=device),
            nn.ReLU(),
            nn.Linear(hidden_size, out_features, device=device),
        )

    def forward(self, features: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """What each agent makes of its own features and of those it sees.

        Args:
            features: ``[*B, N, F]``.
            mask: as in :class:`AgentAttention`. What is written for an agent that is not
                there is finite, and means nothing.

        Returns:
            ``[*B, N, out]``.
        """
        _check_features(features, self.in_features)
        if mask is not None:
            features = _present_alone(features, mask)
        hidden = self.encoder(features)
        for attention, norm in zip(self.rounds, self.norms, strict=True):
            hidden = norm(hidden + torch.relu(attention(hidden, mask)))
        return self.decoder(hidden)


class _Actor(nn.Module):
    """Logits or params of each agent, ``[*B, N, O] -> [*B, N, A]``, who is told its index."""

    def __init__(self, *, observation_size: int, num_agents: int, **options):
        super().__init__()
        self.register_buffer("agent_id", torch.eye(num_agents, device=options["device"]))
        self.net = AttentionNet(in_features=observation_size + num_agents, **options)

    def forward(self, observation: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        agent_id = self.agent_id.expand(*observation.shape[:-1], -1)
        return self.net(torch.cat([observation, agent_id], -1), _of_agents(mask, observation))


def _of_agents(mask: torch.Tensor | None, observation: torch.Tensor) -> torch.Tensor | None:
    """``[*B, N]`` of a mask that may be ``[*B, N, 1]``, as the layout has it."""
    if mask is not None and mask.ndim == observation.ndim and mask.shape[-1] == 1:
        return mask.squeeze(-1)
    return mask


class _Critic(nn.Module):
    """Q^(i) of each agent, ``[*B, N, O], [*B, N, A] -> [*B, N, 1]``.

    Or of a joint action for each critic, ``[*B, N, N, A]``: critic i attends among the agents
    that act as the i-th joint action says.
    """

    def __init__(self, *, features: int, num_agents: int, **options):
        super().__init__()
        self.register_buffer("agent_id", torch.eye(num_agents, device=options["device"]))
        self.net = AttentionNet(in_features=features + num_agents, out_features=1, **options)

    def forward(
        self,
        observation: torch.Tensor,
        action: torch.Tensor,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        agent_id = self.agent_id.expand(*observation.shape[:-1], -1)
        of_each_critic = action.ndim == observation.ndim + 1
        mask = _of_agents(mask, observation)
        seen = torch.cat([observation, agent_id], -1)
        if of_each_critic:
            seen = seen.unsqueeze(-3).expand(*action.shape[:-1], -1)
            mask = mask if mask is None else mask.unsqueeze(-2).expand(*action.shape[:-1])
        values = self.net(torch.cat([seen, action.to(seen.dtype)], -1), mask)
        # Of critic i's team, agent i.
        return values.diagonal(dim1=-3, dim2=-2).mT if of_each_critic else values


def make_attention_actor(
    env: EnvBase,
    *,
    hidden_size: int = 64,
    num_heads: int = 4,
    num_rounds: int = 1,
    scores: Literal["dot", "gatv2"] = "dot",
    temperature: float = 1.0,
    alive: NestedKey | None = None,
    device: torch.device | str | None = None,
) -> TensorDictSequential:
    """Policies of N agents that attend to each other, ``[*B, N, O] -> [*B, N, A]``.

    An :class:`AttentionNet` in the place of the perceptrons of
    :func:`torchrl_alita.modules.make_actor`; actions are drawn in the same way. An agent's
    action depends on what all agents observe: they must tell each other while they act
    (https://arxiv.org/abs/1810.09202). Parameters are shared, and each agent is told its
    index.

    Args:
        env: an environment in the layout of this package, with bounded continuous or
            one-hot actions.
        hidden_size: see :class:`AttentionNet`.
        num_heads: see :class:`AgentAttention`.
        num_rounds: see :class:`AttentionNet`.
        scores: see :class:`AgentAttention`.
        temperature: of the gradient of one-hot actions, positive.
        alive: key read, bool ``[*B, N]`` or ``[*B, N, 1]``, as ``("agents", "alive")`` is: True
            for agents that are there. Default: all are.
        device: of the parameters. Default: the environment's.

    Returns:
        The same as :func:`torchrl_alita.modules.make_actor`.

    Raises:
        KeyError: if the environment has another layout.
        ValueError: if its actions are neither continuous and bounded nor one-hot, or an
            argument is out of range.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=3)
        >>> make_attention_actor(env)(env.reset())["agents", "action"].shape
        torch.Size([5, 3, 2])
    """
    layout, spec = layout_of(env), action_spec_of(env)
    device = env.device if device is None else device
    net = _Actor(
        observation_size=layout.observation_size,
        out_features=layout.action_size,
        num_agents=layout.num_agents,
        hidden_size=hidden_size,
        num_heads=num_heads,
        num_rounds=num_rounds,
        scores=scores,
        device=device,
    )
    out_key = LOGITS if layout.discrete else PARAM
    module = TensorDictModule(net, in_keys=[OBSERVATION, *_listed(alive)], out_keys=[out_key])
    return acting(module, layout, spec, temperature=temperature, device=device)


def make_attention_critic(
    env: EnvBase,
    *,
    hidden_size: int = 64,
    num_heads: int = 4,
    num_rounds: int = 1,
    scores: Literal["dot", "gatv2"] = "dot",
    alive: NestedKey | None = None,
    device: torch.device | str | None = None,
) -> TensorDictModule:
    """Critics Q^(i) that attend to the agents, ``[*B, N, O], [*B, N, A] -> [*B, N, 1]``.

    An :class:`AttentionNet` in the place of the perceptrons of
    :func:`torchrl_alita.modules.make_critic`, after https://arxiv.org/abs/1810.02912: critic
    i sees its own agent's observation and action, and what it gathers of the others'. Its
    size does not depend on the number of agents but for their index. The action may also be
    ``[*B, N, N, A]``, a joint action for each critic.

    Args:
        env: an environment in the layout of this package.
        hidden_size: see :class:`AttentionNet`.
        num_heads: see :class:`AgentAttention`.
        num_rounds: see :class:`AttentionNet`.
        scores: see :class:`AgentAttention`.
        alive: key read, bool ``[*B, N]`` or ``[*B, N, 1]``, as ``("agents", "alive")`` is: True
            for agents that are there. Default: all are.
        device: of the parameters. Default: the environment's.

    Returns:
        A TensorDictModule with the keys of :func:`torchrl_alita.modules.make_critic`.

    Raises:
        KeyError: if the environment has another layout.
        ValueError: if an argument is out of range.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=3)
        >>> critic = make_attention_critic(env)
        >>> critic(env.rand_action(env.reset()))["agents", "state_action_value"].shape
        torch.Size([5, 3, 1])
    """
    layout = layout_of(env)
    net = _Critic(
        features=layout.observation_size + layout.action_size,
        num_agents=layout.num_agents,
        hidden_size=hidden_size,
        num_heads=num_heads,
        num_rounds=num_rounds,
        scores=scores,
        device=env.device if device is None else device,
    )
    in_keys = [OBSERVATION, ACTION, *_listed(alive)]
    return TensorDictModule(net, in_keys=in_keys, out_keys=[VALUE])


def _listed(key: NestedKey | None) -> list[NestedKey]:
    return [] if key is None else [key]
