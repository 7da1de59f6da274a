"""The influence of one agent on its team, Eq. 4, 7 and 9."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from tensordict import NestedKey, TensorDictBase, TensorDictParams
from tensordict.nn import TensorDictModuleBase, dispatch
from torchrl.modules import ValueNorm
from torchrl.objectives import LossModule

from torchrl_alita import functional
from torchrl_alita._borrow import borrow
from torchrl_alita._checks import REDUCTIONS, check_choice, check_non_negative, require_keys
from torchrl_alita.layout import ACTION, ACTION_MASK, VALUE
from torchrl_alita.objectives._batch import check_batch, row_mask
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
from torchrl_alita.objectives._situation import situation_of
from torchrl_alita.objectives.influenced_value import Marginal, Trained
from torchrl_alita.objectives.optimum import AtPolicy, BestOf, Enumerated, TDTarget
from torchrl_alita.objectives.unit import OwnGradient
from torchrl_alita.team import Team

__all__ = ["InfluenceLoss"]


@house_loss
class InfluenceLoss(LossModule):
    r"""The influencer's part of the objective, Eq. 4, 7 and 9.

    .. math::
        \lambda F(\pi_1), \qquad F(\pi_1) = E_{x \sim B} \sum_{i \ne 1} \alpha_i
        \left(q_i^{\pi_1}(x, \pi(x)) - \max_u Q_i(x, u)\right)^2

    Source: https://arxiv.org/abs/2108.12581. Gradient goes to the influencer's policy
    alone; the optimum carries none. Of K influencers (all N of them are Symmetric of
    Sec. 4.3) the loss is the sum of theirs, and F of each goes to its own policy alone.

    The critics are differentiated at the influencer's fresh action, which is that of the
    policy or a draw that carries gradient. How q_i itself changes with the policy is left
    out; :class:`torchrl_alita.InfluenceScoreLoss` is Theorem 1 whole, for stochastic
    policies. Critics that do not see the influencer's action, as those of independent DDPG,
    give it no gradient. ``docs/influence.md`` says when the influence can matter.

    Args:
        actor_network: the policies of all agents: those that the partner trains, since the
            influencer's gradient reaches these.
        partner: the loss that holds their critics: MADDPGLoss, or TorchRL's DDPGLoss or
            TD3Loss on a group. It is borrowed: its parameters are no part of this loss.
        team: a :class:`torchrl_alita.Team`, or the index of an influencer, or several. With
            ``Team.in_turns()`` the actor is the influencer's policy, the partner the
            influencee's.
        value: the influenced value q_i, Eq. 3: :class:`torchrl_alita.Marginal` of the
            partner's critics, or :class:`torchrl_alita.Trained`. Default: ``Marginal()``.
        optimum: what stands for max_u Q_i: :class:`torchrl_alita.AtPolicy`,
            :class:`torchrl_alita.BestOf`, :class:`torchrl_alita.Enumerated` or
            :class:`torchrl_alita.TDTarget`. Default: ``BestOf()``.
        value_norm: a ValueNorm of TorchRL, ``PopArtValueNorm(shape=1)`` for example, with
            the moments of the critics' values. The gap is divided by its scale, so that F
            does not grow with the square of the return. It is updated in training mode
            alone. Default: none, the paper's form.
        unit: :class:`torchrl_alita.OwnGradient` measures F by the policy's own gradient, so
            that ``influence_coeff`` has no scale. Default: none, the paper's form.
        influence_coeff: lambda, at least 0. Default: 0.1, Appendix D.1.
        reduction: ``"none"`` (the shape of the batch), ``"mean"`` or ``"sum"``.

    Returns, from ``forward``, a TensorDict with ``loss_influence`` (lambda F, in the unit)
    and, detached, ``influence`` (F; of several influencers ``[K]``) and ``gap`` ``[M]``, the mean
    gap of each influencee. It may be given, as ``policy``, what ``MADDPGLoss.policy`` says of
    the same batch and actors, where it needs their actions alone: with ``samples=1``.

    Raises:
        ValueError: if the parts or the team do not go together, the coefficient is negative
            or the reduction unknown; when called, if the batch has other agents than the
            team, or is empty or its entries do not fit each other, the others have more
            joint actions than the budget, or a policy is given where its distribution is
            needed.
        TypeError: if the value_norm or the unit is none, or a part no part.
        KeyError: when called, if the batch or a given policy lacks a key.

    Examples:
        >>> from torchrl.objectives import SoftUpdate
        >>> from torchrl_alita import Team
        >>> from torchrl_alita.envs import make_env
        >>> from torchrl_alita.modules import make_actor, make_critic
        >>> from torchrl_alita.objectives import MADDPGLoss
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=3, seed=0)
        >>> actor = make_actor(env)
        >>> maddpg = MADDPGLoss(actor, make_critic(env))
        >>> updater = SoftUpdate(maddpg, tau=0.01)
        >>> influence = InfluenceLoss(actor, maddpg, Team(env, influencers=0))
        >>> losses = influence(env.rollout(4).reshape(-1))
        >>> losses["gap"].shape
        torch.Size([2])
    """

    @dataclass
    class _AcceptedKeys:
        """Keys that can be set with ``set_keys``.

        Attributes:
            action (NestedKey): read, and written by the actor. Default:
                ``("agents", "action")``.
            action_mask (NestedKey): read where the batch has it, for the optimum over
                one-hot actions. Default: ``("agents", "action_mask")``.
            state_action_value (NestedKey): written by the critics. Default:
                ``("agents", "state_action_value")``.
            reward (NestedKey): read in "next", for ``TDTarget``. Default: the partner's.
            terminated (NestedKey): read in "next", for an optimum there and for
                ``TDTarget``. Default: the partner's.
        """

        action: NestedKey = ACTION
        action_mask: NestedKey = ACTION_MASK
        state_action_value: NestedKey = VALUE
        reward: NestedKey | None = None
        terminated: NestedKey | None = None

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys
    out_keys = ["loss_influence", "influence", "gap"]
    _schedulable_buffers = frozenset({"influence_coeff"})

    actor_network: TensorDictModuleBase
    actor_network_params: TensorDictParams
    target_actor_network_params: TensorDictParams

    def __init__(
        self,
        actor_network: TensorDictModuleBase,
        partner: LossModule,
        team: Team | int | Sequence[int] = 0,
        *,
        value: Marginal | Trained | None = None,
        optimum: AtPolicy | BestOf | Enumerated | TDTarget | None = None,
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
        self.convert_to_functional(actor_network, "actor_network")
        self.register_coeff_buffer("influence_coeff", float(influence_coeff))
        self.reduction = reduction

    @property
    def in_keys(self) -> list[NestedKey]:
        return influence_keys(self)

    @dispatch
    def forward(
        self, tensordict: TensorDictBase, policy: TensorDictBase | None = None
    ) -> TensorDictBase:
        batch = check_batch(self, tensordict)
        action = None if policy is None else self._given(policy)
        situation = situation_of(self, batch, tensordict, action=action)
        mask = row_mask(self, batch, situation.action.shape[:-2])
        value = self.value(situation, situation.action)  # Eq. 3
        gap, _ = gap_of(self, situation, value, mask)  # Eq. 4, 7
        weights = situation.weights_like(gap)
        influence = functional.influence(gap, weights)  # [*B, K]
        if len(situation.team.influencers) == 1:
            total = influence.squeeze(-1)
        else:
            total = with_gradient_of(influence.sum(-1), gap.square().sum((-2, -1)))
        return results(self, batch, total / unit_of(self, gap, weights, mask), influence, gap, mask)

    @torch.no_grad()
    def gaps(self, tensordict: TensorDictBase) -> torch.Tensor:
        """The gap of each influencee in every row, Eq. 4 or 7, ``[*B] -> [*B, M]``.

        ``forward`` gives their means. Nothing is learned: ``value_norm`` stays as it is.

        Args:
            tensordict: batch ``[*B]``, as for ``forward``.

        Returns:
            ``[*B, M]``, of the influencees in their order.

        Raises:
            KeyError: if the batch lacks a key.
        """
        batch = check_batch(self, tensordict)
        situation = situation_of(self, batch, tensordict, action=None)
        value = self.value(situation, situation.action)
        return gap_of(self, situation, value, None, learn=False)[0].squeeze(-1)

    def _given(self, policy: TensorDictBase) -> torch.Tensor:
        if self.value.samples != 1:
            raise ValueError(
                f"policy goes with samples=1, got {self.value.samples!r}, which needs a "
                f"distribution."
            )
        require_keys(policy, [self.tensor_keys.action])
        return policy.get(self.tensor_keys.action)
