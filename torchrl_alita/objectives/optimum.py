"""What stands for the optimum max_u Q_i(., u) of Eq. 4 and 7."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from tensordict import NestedKey
from tensordict.nn import TensorDictModuleBase
from torch import nn
from torchrl.data import Bounded, OneHot, TensorSpec
from torchrl.objectives import LossModule

from torchrl_alita._agents import gather_agents
from torchrl_alita._checks import check_choice, check_share, check_whole
from torchrl_alita.modules._acting import is_continuous
from torchrl_alita.objectives._critics import PartnerCritics
from torchrl_alita.objectives._situation import PLACES, Place, Situation, keys_at
from torchrl_alita.objectives.joint_actions import (
    best_candidate,
    coordinate_ascent,
    enumerate_joint_actions,
    uniform_joint_actions,
)

__all__ = ["AtPolicy", "BestOf", "Enumerated", "TDTarget"]

# [*B, M, 1], and where it is 0 since the episode ends before.
Optimum = tuple[torch.Tensor, torch.Tensor | None]
At = Literal["current", "next"]


@dataclass(frozen=True)
class AtPolicy:
    """Q_i at the policies' joint action, a lower bound of max_u Q_i, ``-> [*B, M, 1]``.

    Source: Eq. 4 and 7 of https://arxiv.org/abs/2108.12581.

    Args:
        at: ``"current"``, Eq. 4, or ``"next"``, Eq. 7 as printed. Default: the current state.

    Raises:
        ValueError: if the place is unknown.

    Examples:
        >>> AtPolicy(at="next")
        AtPolicy(at='next')
    """

    at: At = "current"

    def __post_init__(self):
        check_choice("at", self.at, PLACES)

    def check(self, actor_network: TensorDictModuleBase, critics: PartnerCritics) -> None:
        """Any actor and critics go with it."""

    def in_keys(
        self,
        actor_network: TensorDictModuleBase,
        critics: PartnerCritics,
        keys: LossModule._AcceptedKeys,
    ) -> list[NestedKey]:
        """What is read besides what actor and critics read now."""
        return keys_at(self.at, actor_network, critics, keys)

    def __call__(self, situation: Situation, policy_value: torch.Tensor | None) -> Optimum:
        """The optimum, given Q_i at the policies' action where it is known."""
        place = situation.place(self.at, policy_value)
        return place.value_at_policy(), place.terminated


class BestOf(nn.Module):
    """The best of several joint actions in each critic's eyes, ``-> [*B, M, 1]``.

    They are the policies', at the current state the batch's, and some drawn uniformly: a lower
    bound of max_u Q_i. Source: Eq. 4 and 7 of https://arxiv.org/abs/2108.12581.

    Args:
        uniform: joint actions that are drawn. Default: 0.
        spec: the agents' actions ``[N, A]`` to be drawn from, as
            ``env.full_action_spec_unbatched[("agents", "action")]``.
        at: ``"current"``, Eq. 4, or ``"next"``, Eq. 7 as printed. Default: the current state.

    Raises:
        ValueError: if an argument is out of range or unknown, uniform actions have no spec, or
            the spec is neither bounded nor one-hot, or not of the shape ``(N, A)``; when
            called, if it is of other agents than the batch.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=3)
        >>> BestOf(uniform=4, spec=env.full_action_spec_unbatched["agents", "action"])
        BestOf(uniform=4, at='current')
    """

    low: torch.Tensor | None
    high: torch.Tensor | None

    def __init__(self, uniform: int = 0, spec: TensorSpec | None = None, at: At = "current"):
        super().__init__()
        check_whole(0, uniform=uniform)
        check_choice("at", at, PLACES)
        if uniform > 0 and spec is None:
            raise ValueError(f"uniform={uniform} joint actions need a spec to be drawn from.")
        if spec is not None and not isinstance(spec, Bounded | OneHot):
            raise ValueError(f"spec must be bounded or one-hot, got {spec}.")
        if spec is not None and len(spec.shape) != 2:
            raise ValueError(
                f"spec must have the shape (agents, features), as that of "
                f"full_action_spec_unbatched, got {tuple(spec.shape)}."
            )
        self.uniform = int(uniform)
        self.at = at
        space = spec.space if isinstance(spec, Bounded) else None
        self.register_buffer("low", None if space is None else space.low.clone())
        self.register_buffer("high", None if space is None else space.high.clone())

    def check(self, actor_network: TensorDictModuleBase, critics: PartnerCritics) -> None:
        """Any actor and critics go with it."""

    def in_keys(
        self,
        actor_network: TensorDictModuleBase,
        critics: PartnerCritics,
        keys: LossModule._AcceptedKeys,
    ) -> list[NestedKey]:
        """What is read besides what actor and critics read now."""
        return keys_at(self.at, actor_network, critics, keys)

    def forward(self, situation: Situation, policy_value: torch.Tensor | None) -> Optimum:
        """The optimum, given Q_i at the policies' action where it is known."""
        shape, influencees = situation.action.shape[-2:], situation.team.influencees
        if self.low is not None and self.low.shape != shape:
            raise ValueError(
                f"spec must have the shape {tuple(shape)} of the agents' actions, got "
                f"{tuple(self.low.shape)}."
            )
        place = situation.place(self.at, policy_value)
        best = place.value_at_policy()
        for candidate in place.candidates:
            # Of all agents: a compiled update has this already, from the critics' loss.
            value = place.value_of_all(candidate.to(place.policy_action.dtype))
            best = torch.maximum(best, gather_agents(value, influencees, -2))
        if self.uniform:
            drawn = uniform_joint_actions(
                self.uniform,
                place.policy_action,
                low=self.low,
                high=self.high,
                allowed=place.allowed,
            )
            best = torch.maximum(best, best_candidate(place.value, drawn))
        return best, place.terminated

    def __repr__(self) -> str:
        return f"BestOf(uniform={self.uniform}, at={self.at!r})"


@dataclass(frozen=True)
class Enumerated:
    """The best of all one-hot joint actions, max_u Q_i itself, ``-> [*B, M, 1]``.

    Where there are more than a budget, what coordinate ascent over the agents reaches from the
    policies' action: a lower bound, for which every critic must take a joint action of its
    own, as those of :func:`torchrl_alita.make_critic` do. Source: Eq. 4 and 7 of
    https://arxiv.org/abs/2108.12581.

    Args:
        budget: most joint actions L^N that are enumerated. Default: 1024.
        at: ``"current"``, Eq. 4, or ``"next"``, Eq. 7 as printed. Default: the current state.

    Raises:
        ValueError: if the budget is below 1 or the place unknown.

    Examples:
        >>> Enumerated(at="next")
        Enumerated(budget=1024, at='next')
    """

    budget: int = 1024
    at: At = "current"

    def __post_init__(self):
        check_whole(1, budget=self.budget)
        check_choice("at", self.at, PLACES)

    def check(self, actor_network: TensorDictModuleBase, critics: PartnerCritics) -> None:
        """Raise a ValueError if the actor or the critics do not go with it."""
        if is_continuous(actor_network):
            raise ValueError("Enumerated needs one-hot actions, the actor's are continuous.")

    def in_keys(
        self,
        actor_network: TensorDictModuleBase,
        critics: PartnerCritics,
        keys: LossModule._AcceptedKeys,
    ) -> list[NestedKey]:
        """What is read besides what actor and critics read now."""
        return keys_at(self.at, actor_network, critics, keys)

    def __call__(self, situation: Situation, policy_value: torch.Tensor | None) -> Optimum:
        """The optimum; Q_i at the policies' action is not needed."""
        place = situation.place(self.at)
        num_agents, num_actions = place.policy_action.shape[-2:]
        if num_actions**num_agents <= self.budget:
            return self._best_of_all(place), place.terminated
        # Every critic climbs with a joint action of its own.
        reached = coordinate_ascent(place.value_of_all, place.policy_action, allowed=place.allowed)
        return gather_agents(reached, situation.team.influencees, -2), place.terminated

    def _best_of_all(self, place: Place) -> torch.Tensor:
        like = place.policy_action
        num_agents, num_actions = like.shape[-2:]
        every = enumerate_joint_actions(num_agents, num_actions, device=like.device)
        every = every.view(-1, *(1,) * (like.ndim - 2), num_agents, num_actions)
        every = every.expand(-1, *like.shape).to(like.dtype)
        if place.allowed is None:
            return best_candidate(place.value, every)
        allowed = (every * place.allowed).sum((-1, -2)) == num_agents
        values = place.value(every).masked_fill(~allowed[..., None, None], -torch.inf)
        return values.amax(0)


@dataclass(frozen=True)
class TDTarget:
    """No optimum, but the reward and what the target critics say of the next state.

    As in the published code of https://arxiv.org/abs/2108.12581 for PyBullet,
    ``-> [*B, M, 1]``. It has no place: it is the one-step target of Q_i at the current state.

    Args:
        gamma: discount factor of a step, in [0, 1]. Default: the partner's, also where it
            changes later.

    Raises:
        ValueError: if gamma is outside [0, 1]; when called, if nobody tells it.

    Examples:
        >>> TDTarget(gamma=0.99)
        TDTarget(gamma=0.99)
    """

    gamma: float | None = None

    def __post_init__(self):
        if self.gamma is not None:
            check_share(gamma=self.gamma)

    def check(self, actor_network: TensorDictModuleBase, critics: PartnerCritics) -> None:
        """Raise a ValueError if the actor or the critics do not go with it."""
        if self.gamma is None:
            critics.gamma()

    def in_keys(
        self,
        actor_network: TensorDictModuleBase,
        critics: PartnerCritics,
        keys: LossModule._AcceptedKeys,
    ) -> list[NestedKey]:
        """What is read besides what actor and critics read now."""
        return critics.target_keys(keys)

    def __call__(self, situation: Situation, policy_value: torch.Tensor | None) -> Optimum:
        """The target; Q_i at the policies' action is not needed."""
        critics = situation.critics
        target = critics.td_target(
            situation.batch,
            keys=situation.keys,
            gamma=critics.gamma() if self.gamma is None else self.gamma,
            exploration=situation.exploration,
        )
        return gather_agents(target, situation.team.influencees, -2), None
