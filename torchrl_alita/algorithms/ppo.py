"""Proximal policy optimization for a single agent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.envs import EnvBase
from torchrl.objectives import ClipPPOLoss, ValueEstimators

from torchrl_alita._checks import (
    check_at_least_one,
    check_non_negative,
    check_positive,
    check_share,
)
from torchrl_alita.algorithms._learner import make_optimizer
from torchrl_alita.algorithms._single_agent import (
    SingleAgent,
    SingleAgentSettings,
    read_agents_layout,
    scalars,
)
from torchrl_alita.layout import ACTION, ADVANTAGE, LOG_PROB, STATE_VALUE, VALUE_TARGET
from torchrl_alita.modules import make_gaussian_actor, make_value

__all__ = ["PPO", "PPOSettings"]


@dataclass(frozen=True, kw_only=True)
class PPOSettings(SingleAgentSettings):
    """Settings of :class:`PPO`.

    The defaults are those of the paper for continuous control; 2,048 steps are collected there
    for an update.

    Raises:
        TypeError: for a value of another type; the field is named.
        ValueError: for a value out of its range.

    Examples:
        >>> PPOSettings(num_epochs=3).minibatch_size
        64
    """

    max_grad_norm = 0.5
    gae_lambda: float = 0.95
    """How far the advantages look ahead, in [0, 1]."""
    clip_epsilon: float = 0.2
    """How far the policy's ratio may move from 1."""
    num_epochs: int = 10
    """Times that each collected batch is gone through."""
    minibatch_size: int = 64
    """Transitions of a step."""
    entropy_coeff: float = 0.0
    """Weight of the policy's entropy."""
    critic_coeff: float = 0.5
    """Weight of the value's squared error."""
    lr: float = 3e-4
    """Adam's learning rate."""

    def __post_init__(self):
        super().__post_init__()
        check_share(gae_lambda=self.gae_lambda)
        check_at_least_one(num_epochs=self.num_epochs, minibatch_size=self.minibatch_size)
        check_positive(clip_epsilon=self.clip_epsilon, lr=self.lr)
        check_non_negative(entropy_coeff=self.entropy_coeff, critic_coeff=self.critic_coeff)


class PPO(SingleAgent):
    """Proximal policy optimization, with TorchRL's ``ClipPPOLoss`` and its GAE.

    Source: https://arxiv.org/abs/1707.06347, advantages of
    https://arxiv.org/abs/1506.02438; a baseline of Figure 5 of
    https://arxiv.org/abs/2108.12581. It learns from what its policy has just done and
    stores nothing.

    Args:
        env: an environment in the layout of this package, with one agent.
        settings: Default: :class:`PPOSettings` as they are.
        device: of the networks. Default: the environment's.

    Raises:
        TypeError: if the settings are of another algorithm.
        ValueError: if the environment has several agents or discrete actions.
        KeyError: if the environment has another layout.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=1, seed=0)
        >>> algorithm = PPO(env, PPOSettings(num_epochs=2, minibatch_size=10))
        >>> logs = algorithm.update({"rollout": env.rollout(4, algorithm.actor)})
        >>> sorted(key for key in logs.keys() if key.startswith("loss"))
        ['loss_critic', 'loss_objective']
    """

    stochastic: ClassVar[bool] = True
    on_policy: ClassVar[bool] = True
    _make_actor = staticmethod(partial(make_gaussian_actor, constant_scale=True))
    Settings: ClassVar[type[PPOSettings]] = PPOSettings
    settings: PPOSettings

    def __init__(
        self,
        env: EnvBase,
        settings: PPOSettings | None = None,
        *,
        device: torch.device | str | None = None,
    ):
        super().__init__(env, settings, device=device)
        settings = self.settings
        self.actor = self.make_policy(env, settings, device=self.device)
        self.ppo = ClipPPOLoss(
            self.actor,
            make_value(env, **self.networks),
            clip_epsilon=settings.clip_epsilon,
            entropy_bonus=settings.entropy_coeff > 0,
            entropy_coeff=settings.entropy_coeff,
            critic_coeff=settings.critic_coeff,
            loss_critic_type="l2",
            normalize_advantage=True,
        ).to(self.device)
        read_agents_layout(
            self.ppo,
            action=ACTION,
            sample_log_prob=LOG_PROB,
            value=STATE_VALUE,
            value_target=VALUE_TARGET,
            advantage=ADVANTAGE,
        )
        self.ppo.make_value_estimator(
            ValueEstimators.GAE, gamma=settings.gamma, lmbda=settings.gae_lambda
        )
        self.modules = {"ppo": self.ppo}
        self.optimizers = {"ppo": make_optimizer(self.ppo, lr=settings.lr)}
        self._compile_losses()

    def update(self, batches: Mapping[str, TensorDictBase]) -> TensorDict:
        """All epochs over what the policy has just done.

        Args:
            batches: ``{"rollout": [B, T]}``, as it was collected, in order of time.

        Returns:
            Detached scalars to log, of the last step.

        Raises:
            TypeError: if batches have no names.
            ValueError: if the rollout is missing.
            KeyError: if it lacks a key.
        """
        advantages = self._with_advantages(self._check_names(batches)["rollout"]).reshape(-1)
        logs = TensorDict()
        for _ in range(self.settings.num_epochs):
            order = torch.randperm(len(advantages), device=self.device)
            for rows in order.split(self.settings.minibatch_size):
                self._zero_grad()
                logs = self._gradient(advantages[rows])
                logs.update(self._follow_all(self.optimizers))
        self.updates += 1
        return logs

    @torch.no_grad()
    def _with_advantages(self, batch: TensorDictBase) -> TensorDictBase:
        batch = self._transitions(batch)
        self.ppo.value_estimator(
            batch,
            params=self.ppo.critic_network_params,
            target_params=self.ppo.target_critic_network_params,
        )
        return batch

    def _losses(self, batch: TensorDictBase) -> TensorDictBase:
        return scalars(self.ppo(batch))
