"""Theorem 1: the gradient of the influence of stochastic policies, Eq. 5."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import ProbabilisticTensorDictSequential, dispatch
from torch.distributions import Distribution
from torchrl.modules import ValueNorm
from torchrl.objectives import LossModule

from torchrl_alita import functional
from torchrl_alita._borrow import borrow
from torchrl_alita._checks import REDUCTIONS, check_choice, check_non_negative, check_share
from torchrl_alita.layout import ACTION, ACTION_MASK, DONE, VALUE, next_key
from torchrl_alita.objectives._batch import check_batch, row_mask, unique
from torchrl_alita.objectives._critics import PartnerCritics
from torchrl_alita.objectives._influence import (
    check_parts,
    gap_of,
    influence_keys,
    results,
    unit_of,
    with_gradient_of,
)
from torchrl_alita.objectives._loss import house_loss
from torchrl_alita.objectives._situation import Situation, situation_of
from torchrl_alita.objectives.influenced_value import Marginal, Trained
from torchrl_alita.objectives.optimum import AtPolicy, BestOf, Enumerated
from torchrl_alita.objectives.unit import OwnGradient
from torchrl_alita.team import Team

__all__ = ["InfluenceScoreLoss"]


class _Scored(NamedTuple):
    """F and the factor of the score in Theorem 1, of steps ``[*B, T]``."""

    batch: TensorDictBase
    situation: Situation
    weight: torch.Tensor
    influence: torch.Tensor
    gap: torch.Tensor
    unit: torch.Tensor | float
    mask: torch.Tensor | None


@house_loss
class InfluenceScoreLoss(LossModule):
    r"""Theorem 1: lambda F with its whole gradient, for stochastic policies.

    .. math::
        \nabla F = E \Big[ \sum_t \nabla \log \pi_1(a_{1,t} | s_t) \sum_i \alpha_i
        \big( g_{i,t}^2 + q_i^{\pi_1}(s_t, a_{1,t}) \sum_{k < t} \gamma^{t - k} \, 2 g_{i,k}
        \big) \Big] / T

    Source: Eq. 5 of https://arxiv.org/abs/2108.12581; see
    :func:`torchrl_alita.functional.influence_score` for the factor gamma / (1 - gamma) that
    the theorem's proof hides. It is to :class:`torchrl_alita.InfluenceLoss` what TorchRL's
    ReinforceLoss is to its DDPGLoss: the batch ``[*B, T]`` is of steps that the current
    policies made, in order of time, as a collector returns them. The loss has the value of
    lambda F and the gradient of Theorem 1.

    The theorem is of the values of the policies as they act. Critics of policies that draw
    their actions are trained with drawn next actions, as in the example: by default
    :class:`torchrl_alita.MADDPGLoss` takes each policy's most probable one.

    Args:
        actor_network: the policies of all agents, with get_dist.
        partner: as in InfluenceLoss.
        team: a :class:`torchrl_alita.Team` of one influencer, or its index.
        value: as in InfluenceLoss. Default: ``Marginal()``.
        optimum: :class:`torchrl_alita.AtPolicy`, :class:`torchrl_alita.BestOf` or
            :class:`torchrl_alita.Enumerated`, at the current state. Default: ``BestOf()``.
        gamma: discount factor of a step. Default: the partner's, also where it changes later.
        value_norm: as in InfluenceLoss.
        unit: as in InfluenceLoss.
        influence_coeff: lambda, at least 0. Default: 0.1, Appendix D.1.
        reduction: ``"none"`` (the shape of the batch), ``"mean"`` or ``"sum"``.

    Returns, from ``forward``, a TensorDict with ``loss_influence`` (lambda F, in the unit)
    and, detached, ``influence`` (F) and ``gap`` ``[M]``, the mean gap of each influencee.

    Raises:
        ValueError: if the actor has no get_dist, the optimum is at the next state, the parts
            or the team do not go together, the coefficient is negative, gamma outside [0, 1]
            or unknown, or the reduction unknown; when called, if the batch has no dimension
            of time or other agents than the team, the others have more joint actions than
            the budget, or the distribution has no log-probability for each agent.
        TypeError: if the value_norm or the unit is none, or a part no part.
        KeyError: when called, if the batch lacks a key.

    Examples:
        >>> from torchrl.envs import ExplorationType
        >>> from torchrl.objectives import SoftUpdate
        >>> from torchrl_alita import Enumerated, Marginal, MADDPGLoss, Team
        >>> from torchrl_alita.envs import make_env
        >>> from torchrl_alita.modules import make_actor, make_critic
        >>> env = make_env("push_box", num_envs=5, n_agents=2, seed=0)
        >>> actor = make_actor(env)
        >>> maddpg = MADDPGLoss(actor, make_critic(env))
        >>> maddpg.deterministic_sampling_mode = ExplorationType.RANDOM
        >>> updater = SoftUpdate(maddpg, tau=0.01)
        >>> theorem_1 = InfluenceScoreLoss(
        ...     actor, maddpg, Team(env), value=Marginal(samples="all"), optimum=Enumerated()
        ... )
        >>> theorem_1(env.rollout(4, actor))["loss_influence"].backward()
    """

    @dataclass
    class _AcceptedKeys:
        """Keys that can be set with ``set_keys``.

        Attributes:
            action (NestedKey): read. Default: ``("agents", "action")``.
            action_mask (NestedKey): read where the batch has it, for the optimum over
                one-hot actions. Default: ``("agents", "action_mask")``.
            state_action_value (NestedKey): written by the critics. Default:
                ``("agents", "state_action_value")``.
            done (NestedKey): read in "next". Default: ``"done"``.
        """

        action: NestedKey = ACTION
        action_mask: NestedKey = ACTION_MASK
        state_action_value: NestedKey = VALUE
        done: NestedKey = DONE

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys
    out_keys = ["loss_influence", "influence", "gap"]
    _schedulable_buffers = frozenset({"influence_coeff"})

    actor_network: ProbabilisticTensorDictSequential
    actor_network_params: TensorDictParams
    target_actor_network_params: TensorDictParams

    def __init__(
        self,
        actor_network: ProbabilisticTensorDictSequential,
        partner: LossModule,
        team: Team | int = 0,
        *,
        value: Marginal | Trained | None = None,
        optimum: AtPolicy | BestOf | Enumerated | None = None,
        gamma: float | None = None,
        value_norm: ValueNorm | None = None,
        unit: OwnGradient | None = None,
        influence_coeff: float = 0.1,
        reduction: Literal["none", "mean", "sum"] = "mean",
    ):
        super().__init__()
        self.critics = PartnerCritics(partner)
        borrow(self, "partner", partner)
        check_choice("reduction", reduction, REDUCTIONS)
        check_non_negative(influence_coeff=influence_coeff)
        self.team = Team.of(team)
        self.value = Marginal() if value is None else value
        self.optimum = BestOf() if optimum is None else optimum
        self.value_norm = value_norm
        self.unit = unit
        check_parts(self, actor_network)
        if isinstance(self.value, Trained):
            borrow(self, "estimator", self.value.estimator)
        if self.team.attention is not None:
            borrow(self, "attention", self.team.attention)
        if not hasattr(actor_network, "get_dist"):
            raise ValueError(
                f"InfluenceScoreLoss needs a stochastic actor, with get_dist, got "
                f"{type(actor_network).__name__}."
            )
        if len(self.team.influencers) > 1 or self.team.acts_in_turns:
            raise ValueError(f"InfluenceScoreLoss is of one influencer in a team, got {team}.")
        if getattr(self.optimum, "at", None) != "current":
            raise ValueError(
                f"The optimum of Theorem 1 is at the current state, got {self.optimum}."
            )
        if gamma is None:
            self.critics.gamma()
        else:
            check_share(gamma=gamma)
        self.gamma = gamma
        self.convert_to_functional(actor_network, "actor_network")
        self.register_coeff_buffer("influence_coeff", float(influence_coeff))
        self.reduction = reduction

    @property
    def in_keys(self) -> list[NestedKey]:
        return unique([*influence_keys(self), next_key(self.tensor_keys.done)])

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        scored = self._scored(tensordict)
        score = scored.weight.squeeze(-1) * self._log_prob(scored.situation)
        total = with_gradient_of(scored.influence.squeeze(-1), score) / scored.unit
        return results(self, scored.batch, total, scored.influence, scored.gap, scored.mask)

    @torch.no_grad()
    def advantage(self, tensordict: TensorDictBase) -> TensorDict:
        r"""What lambda F adds to the influencer's advantage, for an actor-critic.

        A policy that climbs :math:`A \nabla \log \pi` with this added climbs its return less
        lambda F: the factor of the score in Theorem 1, with a minus. It is of the policies
        that made the steps, as the advantage is.

        Args:
            tensordict: batch ``[*B, T]``, as for ``forward``.

        Returns:
            ``advantage`` ``[*B, T, N, 1]``, 0 of all but the influencer; ``influence`` (F)
            and ``gap`` ``[M]``.

        Raises:
            ValueError: if the batch has no dimension of time, or does not fit the team.
            KeyError: if it lacks a key.

        Examples:
            >>> from torchrl.objectives import SoftUpdate
            >>> from torchrl_alita import Enumerated, Marginal, MADDPGLoss
            >>> from torchrl_alita.envs import make_env
            >>> from torchrl_alita.modules import make_actor, make_critic
            >>> env = make_env("push_box", num_envs=5, n_agents=2, seed=0)
            >>> actor = make_actor(env)
            >>> maddpg = MADDPGLoss(actor, make_critic(env))
            >>> updater = SoftUpdate(maddpg, tau=0.01)
            >>> theorem_1 = InfluenceScoreLoss(
            ...     actor, maddpg, value=Marginal(samples="all"), optimum=Enumerated()
            ... )
            >>> theorem_1.advantage(env.rollout(4, actor))["advantage"].shape
            torch.Size([5, 4, 2, 1])
        """
        scored = self._scored(tensordict)
        action = scored.situation.action
        advantage = torch.zeros_like(action[..., :1])
        influencer = scored.situation.team.influencers[0]
        advantage[..., influencer, :] = -self.influence_coeff * scored.weight / scored.unit
        found = results(
            self, scored.batch, scored.influence[..., 0], scored.influence, scored.gap, scored.mask
        )
        return found.exclude("loss_influence").set("advantage", advantage)

    def _scored(self, tensordict: TensorDictBase) -> _Scored:
        batch = check_batch(self, tensordict)
        if batch.batch_dims < 2:
            raise ValueError(
                f"InfluenceScoreLoss needs a batch [*B, T] with a dimension of time, got "
                f"{tuple(batch.batch_size)}."
            )
        situation = situation_of(self, batch, tensordict, differentiable=False)
        mask = row_mask(self, batch, situation.action.shape[:-2])
        value = self.value(situation, batch.get(self.tensor_keys.action))  # Eq. 3
        gap, scale = gap_of(self, situation, value, mask)  # Eq. 4
        weights = situation.weights_like(gap)
        weight = functional.influence_score(  # Eq. 5
            value / scale,
            gap,
            weights[0] if situation.attention is None else weights,
            batch.get(next_key(self.tensor_keys.done)),
            self.critics.gamma() if self.gamma is None else self.gamma,
        )
        influence = functional.influence(gap, weights)  # [*B, T, 1]
        unit = unit_of(self, gap, weights, mask)
        return _Scored(batch, situation, weight, influence, gap, unit, mask)

    def _log_prob(self, situation: Situation) -> torch.Tensor:
        """Of the influencer's stored actions, ``[*B, T]``."""
        action = situation.batch.get(self.tensor_keys.action)
        log_prob = cast(Distribution, situation.distribution).log_prob(action)
        if log_prob.shape == action.shape:
            log_prob = log_prob.sum(-1)
        if log_prob.shape != action.shape[:-1]:
            raise ValueError(
                f"InfluenceScoreLoss needs each agent's log-probability "
                f"{tuple(action.shape[:-1])}, the actor's distribution gives "
                f"{tuple(log_prob.shape)}."
            )
        return log_prob[..., situation.team.influencers[0]]
