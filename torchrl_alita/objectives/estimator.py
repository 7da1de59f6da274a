"""Training of the estimators of the influenced values, Eq. 6 and 8."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import TensorDictModuleBase, dispatch
from torch import nn
from torchrl.objectives import LossModule

from torchrl_alita._agents import gather_agents
from torchrl_alita._borrow import borrow
from torchrl_alita._checks import REDUCTIONS, check_choice, check_same_shape, check_share
from torchrl_alita.layout import ACTION, VALUE, VALUE_TARGET
from torchrl_alita.objectives._batch import check_batch, unique
from torchrl_alita.objectives._critics import PartnerCritics, critics_values, lowest
from torchrl_alita.objectives._loss import house_loss
from torchrl_alita.team import Team

__all__ = ["InfluenceEstimatorLoss"]

KINDS = ("clones", "centralized")


@house_loss
class InfluenceEstimatorLoss(LossModule):
    r"""Trains the estimators of the influenced values q_i^{pi_1}, Eq. 6 and 8.

    .. math::
        L = E_{(x, a, r, x') \sim D_t} \sum_i \|\hat q_i(x, a)
        - r_i - \gamma Q^{(i)}_{target}(x', \pi(x'))\|^2

    Source: https://arxiv.org/abs/2108.12581. Give it batches of
    :class:`torchrl_alita.data.ConditionalSampler`, D_t, in which the influencer's
    situation is held. ``"clones"`` are copies of the partner's critics, to be set back
    with :meth:`reset_clones` when an episode starts and trained 4 times a step (Eq. 8);
    ``"centralized"`` is one network for all influencees (Eq. 6). What it trains is read by
    :class:`torchrl_alita.Trained`; :class:`torchrl_alita.Marginal` needs no training.

    Args:
        partner: the loss that holds actors, critics and targets: MADDPGLoss, or
            TorchRL's DDPGLoss or TD3Loss on a group. It is borrowed: its parameters are
            no part of this loss.
        team: a :class:`torchrl_alita.Team` of one influencer, or its index. Of several
            influencers each has an estimator of its own: see ``Team.alone``.
        kind: ``"clones"`` or ``"centralized"``.
        estimator_network: for ``"centralized"``, see
            :func:`torchrl_alita.modules.make_influence_network`.
        gamma: discount factor. Default: the partner's ``gamma``, also where it changes later.
        reduction: ``"none"`` (the shape of the batch), ``"mean"`` or ``"sum"``.

    Returns, from ``forward``, a TensorDict with ``loss_estimator``, summed over the
    influencees.

    Raises:
        ValueError: if the kind is unknown, a network is missing or superfluous, gamma
            is unknown or outside [0, 1], or the team has several influencers or one that is
            alone; when called, if the batch has other agents than the team.
        KeyError: when called, if the batch lacks a key.

    Examples:
        >>> from torchrl.objectives import SoftUpdate
        >>> from torchrl_alita.envs import make_env
        >>> from torchrl_alita.modules import make_actor, make_critic
        >>> from torchrl_alita.objectives import MADDPGLoss
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=3, seed=0)
        >>> maddpg = MADDPGLoss(make_actor(env), make_critic(env))
        >>> updater = SoftUpdate(maddpg, tau=0.01)
        >>> estimator = InfluenceEstimatorLoss(maddpg, kind="clones")
        >>> estimator(env.rollout(4).reshape(-1))["loss_estimator"].backward()
    """

    @dataclass
    class _AcceptedKeys:
        """Keys that can be set with ``set_keys``.

        Attributes:
            action (NestedKey): read. Default: ``("agents", "action")``.
            state_action_value (NestedKey): written by the critics and the estimator.
                Default: ``("agents", "state_action_value")``.
            reward (NestedKey): read in "next". Default: the partner's.
            terminated (NestedKey): read in "next". Default: the partner's.
            value_target (NestedKey): read in place of rewards and targets where the batch
                has it, see :meth:`value_target`. Default: ``("agents", "value_target")``.
        """

        action: NestedKey = ACTION
        state_action_value: NestedKey = VALUE
        reward: NestedKey | None = None
        terminated: NestedKey | None = None
        value_target: NestedKey = VALUE_TARGET

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys
    out_keys = ["loss_estimator"]
    _schedulable_buffers = frozenset({"gamma"})

    estimator_network: TensorDictModuleBase
    estimator_network_params: TensorDictParams
    target_estimator_network_params: TensorDictParams

    def __init__(
        self,
        partner: LossModule,
        team: Team | int = 0,
        *,
        kind: Literal["clones", "centralized"] = "clones",
        estimator_network: TensorDictModuleBase | None = None,
        gamma: float | None = None,
        reduction: Literal["none", "mean", "sum"] = "mean",
    ):
        super().__init__()
        if kind not in KINDS:
            raise ValueError(
                f"kind must be one of {KINDS}, got {kind!r}; the marginal value is not trained."
            )
        if (kind == "centralized") != (estimator_network is not None):
            raise ValueError(
                f"kind='centralized' needs an estimator_network and 'clones' takes none, "
                f"got {kind!r} with {estimator_network}."
            )
        critics = PartnerCritics(partner)
        check_choice("reduction", reduction, REDUCTIONS)
        self.team = Team.of(team)
        if len(self.team.influencers) > 1:
            raise ValueError(
                f"An estimator is of one influencer, got {self.team.influencers}: make one for "
                f"each, with Team.alone."
            )
        if self.team.num_agents is not None:
            self.team.check_influencees()
        self.kind = kind
        self.reduction = reduction
        if gamma is None:
            critics.gamma()  # Unknown is said now, not at the first batch.
            self.register_buffer("gamma", None)
        else:
            check_share(gamma=gamma)
            self.register_coeff_buffer("gamma", float(gamma))
        self.critics = critics
        borrow(self, "partner", partner)
        if kind == "centralized":
            self.convert_to_functional(estimator_network, "estimator_network")
        else:
            borrow(self, "estimator_network", self.critics.network)
            self.estimator_network_params = TensorDictParams(
                self.critics.params.apply(_copied, filter_empty=False), no_convert=True
            )

    def reset_clones(self) -> None:
        """Set the clones back to the partner's critics: Q_clone <- Q_i, Sec. 3.1.2.

        Raises:
            ValueError: if this estimator is no clone.
        """
        if self.kind != "clones":
            raise ValueError(f"Only clones can be reset, this estimator is {self.kind!r}.")
        self.estimator_network_params.data.update_(self.critics.params.data)

    @property
    def in_keys(self) -> list[NestedKey]:
        keys = self.tensor_keys
        read = [*self.critics.in_keys(keys.action), *self.estimator_in_keys()]
        return unique([keys.action, *read, *self.critics.target_keys(keys)])

    def estimator_in_keys(self) -> list[NestedKey]:
        """What the estimator reads besides the action."""
        action = self.tensor_keys.action
        return [key for key in self.estimator_network.in_keys if key != action]

    def influenced_value(
        self,
        inputs: TensorDictBase,
        action: torch.Tensor,
        agents: Sequence[int] | None = None,
    ) -> torch.Tensor:
        """Estimates of q_i at a joint action, ``[*B, N, A] -> [*B, M, 1]``.

        The estimator gets no gradient, the action does.

        Args:
            inputs: what the estimator reads besides the action.
            action: ``[*B, N, A]``.
            agents: M indices. Default: all N.

        Returns:
            ``[*B, M, 1]``; only the influencees' entries mean anything.
        """
        inputs = inputs.copy().set(self.tensor_keys.action, action)
        params = self.estimator_network_params.data
        return lowest(self._heads(inputs, params, agents), params.batch_dims)

    def _heads(
        self, inputs: TensorDictBase, params: TensorDictBase, agents: Sequence[int] | None
    ) -> torch.Tensor:
        key = self.tensor_keys.state_action_value
        return critics_values(self.estimator_network, params, inputs, key, agents)

    def value_target(self, tensordict: TensorDictBase) -> torch.Tensor:
        """What the estimates are drawn to, the right side of Eq. 6 and 8, ``-> [*B, N, 1]``.

        It depends on the partner alone. Several updates on one batch need it once: write
        it into the batch under the key ``value_target``.

        Args:
            tensordict: batch ``[*B]``, as for ``forward``.

        Returns:
            ``[*B, N, 1]``, without gradient.

        Raises:
            KeyError: if the batch lacks a key.
            ValueError: if the batch is empty or its entries do not fit each other.
        """
        return self._target(check_batch(self, tensordict))

    def _target(self, batch: TensorDictBase) -> torch.Tensor:
        return self.critics.td_target(
            batch,
            keys=self.tensor_keys,
            gamma=self.critics.gamma() if self.gamma is None else self.gamma,
            exploration=self.critics.exploration_of(self),
        )

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        given = self.tensor_keys.value_target
        batch = check_batch(self, tensordict, optional=[given])
        team = self.team.among(batch.get(self.tensor_keys.action).shape[-2])
        team.check_influencees()
        target = batch.get(given, None)
        if target is None:
            target = self._target(batch)
        else:
            agents = batch.get(self.tensor_keys.action).shape[:-1]
            check_same_shape(batch, given, (*agents, 1))
        estimate = self._heads(batch, self.estimator_network_params, team.influencees)
        error = (estimate - gather_agents(target, team.influencees, -2)).square().sum((-1, -2))
        if self.estimator_network_params.batch_dims:
            error = error.sum(0)
        return TensorDict({"loss_estimator": self._reduce_loss(error, tensordict=batch)})


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(tensor.data.clone())
    return tensor.data.clone()
