"""Proximal policy optimization for a single agent."""

from __future__ import annotations

from collections.abc import Sequence

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
from torchrl_alita.algorithms._compiled import differentiate
from torchrl_alita.algorithms._learner import make_optimizer
from torchrl_alita.algorithms._single import (
    SingleAgent,
    read_agents_layout,
    scalars,
)
from torchrl_alita.layout import ACTION, LOG_PROB, STATE_VALUE, VALUE_TARGET
from torchrl_alita.modules import make_gaussian_actor, make_value

__all__ = ["PPO"]

ADVANTAGE = ("agents", "advantage")


class PPO(SingleAgent):
    """Proximal policy optimization, with TorchRL's ``ClipPPOLoss`` and its GAE.

    Source: https://arxiv.org/abs/1707.06347, advantages of
    https://arxiv.org/abs/1506.02438; a baseline of Figure 5 of
    https://arxiv.org/abs/2108.12581. It learns from what its policy has just done and
    stores nothing. The defaults are those of the paper for continuous control; 2,048
    steps are collected there for an update.

    Args:
        env: an environment in the layout of this package, with one agent.
        num_cells: width of each hidden layer.
        layer_norm: normalize the pre-activations of the hidden layers.
        gamma: discount factor of a step.
        gae_lambda: how far the advantages look ahead, in [0, 1].
        clip_epsilon: how far the policy's ratio may move from 1.
        num_epochs: times that each collected batch is gone through.
        minibatch_size: transitions of a step.
        entropy_coeff: weight of the policy's entropy, at least 0.
        critic_coeff: weight of the value's squared error, at least 0.
        lr: Adam's step.
        max_grad_norm: the gradient is scaled down to this norm.
        device: of the networks. Default: the environment's.

    Raises:
        ValueError: if an argument is out of range, or the environment has several agents
            or discrete actions.
        KeyError: if the environment has another layout.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=1, seed=0)
        >>> algorithm = PPO(env, num_epochs=2, minibatch_size=10)
        >>> logs = algorithm.update(env.rollout(4, algorithm.actor))
        >>> sorted(key for key in logs.keys() if key.startswith("loss"))
        ['loss_critic', 'loss_objective']
    """

    stochastic = True
    on_policy = True

    def __init__(
        self,
        env: EnvBase,
        *,
        num_cells: Sequence[int] = (256, 256),
        layer_norm: bool = False,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_epsilon: float = 0.2,
        num_epochs: int = 10,
        minibatch_size: int = 64,
        entropy_coeff: float = 0.0,
        critic_coeff: float = 0.5,
        lr: float = 3e-4,
        max_grad_norm: float = 0.5,
        device: torch.device | str | None = None,
    ):
        super().__init__(
            env, max_grad_norm=max_grad_norm, compile=False, compile_mode="default", device=device
        )
        check_share(gamma=gamma, gae_lambda=gae_lambda)
        check_at_least_one(num_epochs=num_epochs, minibatch_size=minibatch_size)
        check_positive(clip_epsilon=clip_epsilon, lr=lr)
        check_non_negative(entropy_coeff=entropy_coeff, critic_coeff=critic_coeff)
        networks = {"num_cells": num_cells, "layer_norm": layer_norm, "device": self.device}
        self.actor = make_gaussian_actor(env, constant_scale=True, **networks)
        self.ppo = ClipPPOLoss(
            self.actor,
            make_value(env, **networks),
            clip_epsilon=float(clip_epsilon),
            entropy_bonus=entropy_coeff > 0,
            entropy_coeff=float(entropy_coeff),
            critic_coeff=float(critic_coeff),
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
            ValueEstimators.GAE, gamma=float(gamma), lmbda=float(gae_lambda)
        )
        self.num_epochs = int(num_epochs)
        self.minibatch_size = int(minibatch_size)
        self.modules = {"ppo": self.ppo}
        self.optimizers = {"ppo": make_optimizer(self.ppo, lr=lr)}
        self._gradient = self._compiled(self._losses, then=differentiate)

    def update(
        self,
        batch: TensorDictBase,
        conditional_batches: Sequence[TensorDictBase] = (),
        recent_batch: TensorDictBase | None = None,
    ) -> TensorDict:
        """All epochs over what the policy has just done.

        Args:
            batch: ``[B, T]``, as it was collected, in order of time.
            conditional_batches: not used.
            recent_batch: not used.

        Returns:
            Detached scalars to log, of the last step.

        Raises:
            KeyError: if the batch lacks a key.
        """
        advantages = self._with_advantages(batch).reshape(-1)
        logs = TensorDict()
        for _ in range(self.num_epochs):
            order = torch.randperm(len(advantages), device=self.device)
            for rows in order.split(self.minibatch_size):
                self._zero_grad()
                logs = self._gradient(advantages[rows])
                logs.update(self._followed(self.optimizers))
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
