"""Learning individual intrinsic rewards (LIIR)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from tensordict import TensorDict, TensorDictBase
from torch import nn
from torchrl.envs import EnvBase

from torchrl_alita._checks import check_non_negative, check_positive
from torchrl_alita.algorithms._compiled import differentiate
from torchrl_alita.algorithms._learner import make_optimizer
from torchrl_alita.algorithms._rollout_learner import RolloutLearner, RolloutSettings
from torchrl_alita.layout import INTRINSIC_REWARD, META_WEIGHT, has_state, terminated_key_of
from torchrl_alita.modules import make_counterfactual_critic, make_team_value
from torchrl_alita.objectives import IntrinsicRewardLoss, LIIRLoss, meta_weight

__all__ = ["LIIR", "LIIRSettings"]


@dataclass(frozen=True, kw_only=True)
class LIIRSettings(RolloutSettings):
    """Settings of :class:`LIIR`.

    Raises:
        TypeError: for a value of another type; the field is named.
        ValueError: for a value out of its range.

    Examples:
        >>> LIIRSettings(intrinsic_coeff=0.1).intrinsic_bound
        10.0
    """

    entropy_coeff = 0.01
    intrinsic_coeff: float = 0.01
    """What the intrinsic rewards are multiplied with before they are added (the authors:
    0.01)."""
    intrinsic_bound: float = 10.0
    """The largest they become before that (the authors: 10)."""
    intrinsic_lr: float = 5e-4
    """The optimizer's learning rate of the intrinsic rewards (the authors: 5e-4)."""
    normalize_advantage: bool = True
    """Divide the advantages of a rollout by their deviation."""

    def __post_init__(self):
        super().__post_init__()
        check_non_negative(intrinsic_coeff=self.intrinsic_coeff)
        check_positive(intrinsic_bound=self.intrinsic_bound, intrinsic_lr=self.intrinsic_lr)


class LIIR(RolloutLearner):
    """Learning individual intrinsic rewards in a team that has one reward.

    Each agent follows the team's reward and one of its own, which is learned: so that the
    policies that follow it earn more of the team's. See
    :func:`torchrl_alita.objectives.meta_weight` for that gradient, and for how it
    differs from the authors' code.

    Source: https://arxiv.org/abs/1910.01899, with the authors' defaults but for Adam, a bonus
    of entropy, targets that follow slowly, networks of their own for values and rewards, and
    the number of steps of the values.

    Args:
        env: an environment in the layout of this package, with one-hot actions.
        settings: Default: :class:`LIIRSettings` as they are.
        device: of the networks. Default: the environment's.

    Raises:
        TypeError: if the settings are of another algorithm.
        ValueError: if the actions are not one-hot.
        KeyError: if the environment has another layout.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("push_box", num_envs=5, n_agents=2, seed=0)
        >>> algorithm = LIIR(env, LIIRSettings(recurrent=False))
        >>> logs = algorithm.update({"rollout": env.rollout(4, algorithm.actor)})
        >>> sorted(key for key in logs.keys() if key.startswith("loss"))
        ['loss_actor', 'loss_extrinsic_value', 'loss_intrinsic', 'loss_value']
    """

    Settings: ClassVar[type[LIIRSettings]] = LIIRSettings
    settings: LIIRSettings

    def __init__(
        self,
        env: EnvBase,
        settings: LIIRSettings | None = None,
        *,
        device: torch.device | str | None = None,
    ):
        super().__init__(env, settings, device=device)
        settings = self.settings
        reads_state = has_state(env)
        networks = {"num_cells": settings.num_cells, "device": self.device}
        returns: dict[str, Any] = {"gamma": settings.gamma, "lmbda": settings.lmbda}
        value, extrinsic_value = (
            make_team_value(env, value_input="state" if reads_state else "team", **networks)
            for _ in range(2)
        )
        self.intrinsic = IntrinsicRewardLoss(
            make_counterfactual_critic(
                env, bound=settings.intrinsic_bound, out_key=INTRINSIC_REWARD, **networks
            ),
            **returns,
        ).to(self.device)
        loss = LIIRLoss(
            self.actor,
            value,
            extrinsic_value,
            self.intrinsic,
            intrinsic_coeff=settings.intrinsic_coeff,
            entropy_coeff=settings.entropy_coeff,
            normalize_advantage=settings.normalize_advantage,
            **returns,
        )
        for part in (self.intrinsic, loss):
            part.set_keys(terminated=terminated_key_of(env))
        both = nn.ModuleList([loss.value_network_params, loss.extrinsic_value_network_params])
        self._learn("liir", loss, both)
        self.modules["intrinsic"] = self.intrinsic
        self.optimizers["intrinsic"] = make_optimizer(
            self.intrinsic, kind=settings.optimizer, lr=settings.intrinsic_lr
        )
        self._intrinsic_gradient = self._compiled(self._intrinsic_losses, then=differentiate)

    def update(self, batches: Mapping[str, TensorDictBase]) -> TensorDict:
        """Steps of the values and the policies, and then one of the intrinsic rewards.

        Args:
            batches: ``"rollout"``: ``[B, T]``, as it was collected, in order of time.

        Returns:
            Detached scalars to log, of the last step.

        Raises:
            TypeError: if batches have no names.
            ValueError: if one is missing or not known, or it is no batch ``[B, T]``.
            KeyError: if the batch lacks a key.
        """
        batch = self._check_names(batches)["rollout"]
        old = self.loss.actor_network_params.data.clone()
        logs = super().update(batches)
        weight = meta_weight(self.loss, batch, old)
        self._zero_grad()
        logs.update(self._intrinsic_gradient(batch.copy().set(META_WEIGHT, weight)))
        return logs.update(self._follow_all(["intrinsic"]))

    def _intrinsic_losses(self, batch: TensorDictBase) -> TensorDictBase:
        return self.intrinsic(batch)
