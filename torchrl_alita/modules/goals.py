"""A policy that chooses among goals by where everybody stands."""

from __future__ import annotations

import math

import torch
from torch import nn
from torchrl.envs import EnvBase

from torchrl_alita._checks import check_at_least_one, check_whole
from torchrl_alita.layout import layout_of

__all__ = ["GoalAttention"]

# Offsets below a quarter of the unit stand out, as a precise controller needs them.
_NEAR = 4.0


class GoalAttention(nn.Module):
    r"""One network for all agents that weighs goals, ``[*B, N, O] -> [*B, N, F]``.

    For teams that share out goals among themselves, as cooperative navigation does its
    landmarks. An observation holds, in this order, ``own_features`` of the agent itself, the
    offsets of G goals and those of the N - 1 other agents, of two coordinates each. With a
    token for each goal,

    .. math::
        h_k = \mathrm{ReLU}(W [own, goal_k, \min_j d_{jk}, \max_j d_{jk}]), \quad
        c = \mathrm{ReLU}(W' [mean_k h_k, mean_j g_j]), \quad
        h'_k = \mathrm{ReLU}(W'' [h_k, c]), \quad
        y = \sum_k \mathrm{softmax}_k(w^\top h'_k)\, U h'_k + V c

    where d_jk is the distance of agent j to goal k, and g_j a token of agent j. The agent knows
    no index, and the order of goals and of other agents does not matter: who goes where can
    only depend on where all of them are. A perceptron with an index learns fixed roles instead,
    agent i to goal i.

    Sets are pooled as in Deep Sets (https://arxiv.org/abs/1703.06114), goals weighed as in
    attention (https://arxiv.org/abs/1706.03762).

    Args:
        own_features: leading features of an observation that are the agent's own.
        num_goals: G.
        num_others: other agents in an observation.
        out_features: F.
        width: of tokens and context.
        device: of the parameters.

    Raises:
        ValueError: if a number is too small; when called, if the observation has another
            size.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> network = GoalAttention(own_features=4, num_goals=3, num_others=2, out_features=2)
        >>> observation = make_env("vmas/spread", num_envs=5).reset()["agents", "observation"]
        >>> network(observation).shape
        torch.Size([5, 3, 2])
    """

    def __init__(
        self,
        *,
        own_features: int,
        num_goals: int,
        num_others: int,
        out_features: int,
        width: int = 32,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        check_at_least_one(num_goals=num_goals, num_others=num_others)
        check_at_least_one(out_features=out_features, width=width)
        check_whole(0, own_features=own_features)
        self.sizes = (own_features, 2 * num_goals, 2 * num_others)

        def layer(in_features: int, out: int, gain: float = math.sqrt(2)) -> nn.Linear:
            linear = nn.Linear(in_features, out, device=device)
            nn.init.orthogonal_(linear.weight, gain)
            nn.init.zeros_(linear.bias)
            return linear

        # An offset, its near field, its length; of goals also two distances of others.
        self.goal = layer(own_features + 7, width)
        self.other = layer(own_features + 5, width)
        self.context = layer(2 * width, width)
        self.token = layer(2 * width, width)
        # The score and the vote of a goal.
        self.vote = layer(width, 1 + out_features, 0.01)
        self.common = layer(width, out_features, 0.01)

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        if observation.shape[-1] != sum(self.sizes):
            raise ValueError(
                f"The network takes observations of {sum(self.sizes)} features, "
                f"{self.sizes} of the agent, of goals and of others, got {observation.shape[-1]}."
            )
        own, goals, others = observation.split(self.sizes, -1)
        goals, others = goals.unflatten(-1, (-1, 2)), others.unflatten(-1, (-1, 2))
        distance = _length(goals.unsqueeze(-3) - others.unsqueeze(-2))
        rivals = (distance.amin(-2).unsqueeze(-1), distance.amax(-2).unsqueeze(-1))
        tokens = _relu_of_both(self.goal, _offset_features(goals, *rivals), own)
        neighbors = _relu_of_both(self.other, _offset_features(others), own)
        pooled = torch.cat([tokens.mean(-2), neighbors.mean(-2)], -1)
        context = torch.relu(self.context(pooled))
        votes = self.vote(_relu_of_both(self.token, tokens, context))
        weight = torch.softmax(votes[..., :1], -2)
        return (weight * votes[..., 1:]).sum(-2) + self.common(context)


def goal_attention_of(
    env: EnvBase, width: int, *, own_features: int, device: torch.device | str | None
) -> GoalAttention:
    """The network of an environment's observations and actions.

    Raises:
        KeyError: if the environment has another layout.
        ValueError: if its observations have no room for goals.
    """
    layout = layout_of(env)
    num_others = layout.num_agents - 1
    num_goals, odd = divmod(layout.observation_size - own_features - 2 * num_others, 2)
    if odd or num_goals < 1:
        raise ValueError(
            f"An observation of {layout.observation_size} features has no room for "
            f"{own_features} of an agent, offsets to {num_others} others and to goals."
        )
    return GoalAttention(
        own_features=own_features,
        num_goals=num_goals,
        num_others=num_others,
        out_features=layout.action_size,
        width=width,
        device=device,
    )


def _length(offsets: torch.Tensor) -> torch.Tensor:
    """``[*B, 2] -> [*B]``; several times faster than a norm over a dimension of two."""
    return (offsets[..., 0].square() + offsets[..., 1].square()).sqrt()


def _offset_features(offsets: torch.Tensor, *more: torch.Tensor) -> torch.Tensor:
    """``[*B, K, 2] -> [*B, K, 5 + M]``, with M ``[*B, K, 1]`` that are given."""
    length = _length(offsets).unsqueeze(-1)
    return torch.cat([offsets, torch.tanh(_NEAR * offsets), length, *more], -1)


def _relu_of_both(layer: nn.Linear, each: torch.Tensor, common: torch.Tensor) -> torch.Tensor:
    """A layer of what each member of a set has and what all have in common."""
    of_each, of_common = layer.weight.split([each.shape[-1], common.shape[-1]], -1)
    shared = nn.functional.linear(common, of_common, layer.bias).unsqueeze(-2)
    # In place: on a CPU the memory's speed decides.
    return nn.functional.linear(each, of_each).add_(shared).relu_()
