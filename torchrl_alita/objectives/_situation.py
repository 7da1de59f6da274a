"""A batch as the parts of the influence see it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import InteractionType, TensorDictModuleBase
from torch.distributions import Distribution
from torchrl.objectives import LossModule

from torchrl_alita import functional
from torchrl_alita._agents import gather_agents
from torchrl_alita._checks import check_same_shape
from torchrl_alita.layout import next_key
from torchrl_alita.modules._acting import distribution_of
from torchrl_alita.objectives._batch import unique
from torchrl_alita.objectives._critics import (
    PartnerCritics,
    following_inputs,
    following_keys,
    run,
    unroll,
)
from torchrl_alita.objectives._functional_call import functional_call
from torchrl_alita.team import Team

PLACES = ("current", "next")


@dataclass(frozen=True)
class Situation:
    """What the policies do in a batch ``[*B]``, and whom to ask what it is worth.

    Attributes:
        batch: what the loss reads, checked and detached.
        action: of the policies, ``[*B, N, A]``; it carries their gradient.
        distribution: of the policies' actions, where one of the parts needs it.
        actor_network: the policies.
        actor_params: their parameters.
        critics: the partner's.
        team: of N agents.
        keys: the loss's.
        exploration: how actions are taken from distributions.
        action_mask: bool ``[*B, N, A]``, where the batch has it.
        next_action_mask: the same of the next state.
        attention: alpha ``[*B, K, M]``, where the team's weights depend on the state.
    """

    batch: TensorDictBase
    action: torch.Tensor
    distribution: Distribution | None
    actor_network: TensorDictModuleBase
    actor_params: TensorDictBase
    critics: PartnerCritics
    team: Team
    keys: LossModule._AcceptedKeys
    exploration: InteractionType
    action_mask: torch.Tensor | None
    next_action_mask: torch.Tensor | None
    attention: torch.Tensor | None

    def weights_like(self, like: torch.Tensor) -> torch.Tensor:
        """Alpha ``[K, M]``, or ``[*B, K, M]``, in the dtype of another tensor."""
        if self.attention is None:
            return self.team.weights_like(like)
        return self.attention.to(like.dtype)

    def place(self, at: str, policy_value: torch.Tensor | None = None) -> Place:
        """The current state or the next one; with the value of the policies' action, if known."""
        return self._current(policy_value) if at == "current" else self._following()

    def _current(self, policy_value: torch.Tensor | None) -> Place:
        own, stored = self.action.detach(), self.batch.get(self.keys.action)
        candidates = [stored]
        if self.team.acts_in_turns:
            candidates.append(own)
            own = self._partner_action(self.batch)
        mask = self.action_mask
        return Place(self, self.batch, own, candidates, mask, policy_value=policy_value)

    def _following(self) -> Place:
        network, params = self.actor_network, self.actor_params
        read = self.critics.in_keys(self.keys.action)
        unrolled = unroll(network, params, self.batch, self.exploration)
        inputs = following_inputs(network, read, self.batch, unrolled)
        own = run(
            network,
            params,
            inputs,
            self.keys.action,
            exploration=self.exploration,
            recurrent=False,
        )
        candidates = []
        if self.team.acts_in_turns:
            candidates, own = [own], self._partner_action(inputs)
        terminated = self.batch.get(next_key(self.critics.terminated_key(self.keys)))
        if terminated.ndim == own.ndim and terminated.shape[-2] == own.shape[-2]:
            # One flag for each agent.
            terminated = gather_agents(terminated, self.team.influencees, -2)
        mask = self.next_action_mask
        return Place(self, inputs, own, candidates, mask, terminated=terminated)

    def _partner_action(self, inputs: TensorDictBase) -> torch.Tensor:
        """What the influencee's own policy does where it acts alone, ``[*B, 1, A]``."""
        return run(
            self.critics.actor_network,
            self.critics.partner.actor_network_params,
            inputs,
            self.keys.action,
            exploration=self.exploration,
        )


@dataclass(frozen=True)
class Place:
    """A state in which the optimum is sought.

    Attributes:
        situation: where it is.
        inputs: what the critics read of the state, ``[*B]``.
        policy_action: the policies' joint action in it, ``[*B, N, A]``.
        candidates: further joint actions ``[*B, N, A]``.
        action_mask: bool ``[*B, N, A]``, where the batch has it.
        policy_value: of the policies' action, ``[*B, M, 1]``, if it is known.
        terminated: whether the episode ends before this state.
    """

    situation: Situation
    inputs: TensorDictBase
    policy_action: torch.Tensor
    candidates: list[torch.Tensor]
    action_mask: torch.Tensor | None
    policy_value: torch.Tensor | None = None
    terminated: torch.Tensor | None = None

    @property
    def allowed(self) -> torch.Tensor | None:
        """Bool ``[*B, N, A]``: the actions among which agents may choose; None for all."""
        return None if self.action_mask is None else functional.allowed_actions(self.action_mask)

    def value_at_policy(self) -> torch.Tensor:
        """Q_i at the policies' joint action, ``[*B, M, 1]``."""
        return self.value(self.policy_action) if self.policy_value is None else self.policy_value

    def value(self, action: torch.Tensor) -> torch.Tensor:
        """Q_i of the influencees, ``[*B, N, A] -> [*B, M, 1]``, or with a dimension in front."""
        return self._value(action, self.situation.team.influencees)

    def value_of_all(self, action: torch.Tensor) -> torch.Tensor:
        """Q_i of all agents, ``[*B, N, A] -> [*B, N, 1]``, or with a dimension in front."""
        return self._value(action, None)

    def _value(self, action: torch.Tensor, agents: tuple[int, ...] | None) -> torch.Tensor:
        several = action.ndim > self.policy_action.ndim
        seen = self.inputs.expand(len(action), *self.inputs.batch_size) if several else self.inputs
        situation = self.situation
        return situation.critics.value(seen, action, keys=situation.keys, agents=agents)


def keys_at(
    at: str,
    actor_network: TensorDictModuleBase,
    critics: PartnerCritics,
    keys: LossModule._AcceptedKeys,
) -> list[NestedKey]:
    """What :meth:`Situation.place` reads of a batch besides actor and critics now."""
    if at == "current":
        return []
    following = following_keys(actor_network, critics.in_keys(keys.action))
    return unique([*following, next_key(critics.terminated_key(keys))])


def situation_of(
    loss: LossModule,
    batch: TensorDictBase,
    tensordict: TensorDictBase,
    *,
    action: torch.Tensor | None = None,
    differentiable: bool = True,
) -> Situation:
    """What a loss of the influence makes of its batch.

    Args:
        loss: with ``actor_network``, ``critics``, ``team`` and ``value``.
        batch: what it reads, checked.
        tensordict: the caller's, which may have masks of actions.
        action: of the policies, if it is known. Default: computed here; one draw, if the
            value averages over several.
        differentiable: whether the draw must carry gradient.

    Raises:
        ValueError: if the batch has other agents than the team, or draws carry no gradient.
    """
    keys, network, params = loss.tensor_keys, loss.actor_network, loss.actor_network_params
    team = loss.team.among(batch.get(keys.action).shape[-2])
    team.check_influencees()
    exploration, distribution = loss.critics.exploration_of(loss), None
    if action is None and (loss.value.samples != 1 or not differentiable):
        _, distribution = functional_call(
            params, network, lambda: distribution_of(network, batch.copy())
        )
        if differentiable and not distribution.has_rsample:
            raise ValueError(
                f"InfluenceLoss needs a distribution with rsample, got "
                f"{type(distribution).__name__}: see InfluenceScoreLoss."
            )
        action = distribution.rsample() if differentiable else distribution.sample()
    elif action is None:
        action = run(network, params, batch, keys.action, exploration=exploration)
    check_same_shape(batch, keys.action, action.shape)
    return Situation(
        batch=batch,
        action=action,
        distribution=distribution,
        actor_network=network,
        actor_params=params,
        critics=loss.critics,
        team=team,
        keys=keys,
        exploration=exploration,
        action_mask=tensordict.get(keys.action_mask, None),
        next_action_mask=tensordict.get(next_key(keys.action_mask), None),
        attention=None if team.attention is None else team.weights_in(batch),
    )
