"""Advantage actor-critic for teams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.envs import EnvBase
from torchrl.objectives import A2CLoss

from torchrl_alita._checks import check_non_negative, check_positive
from torchrl_alita.algorithms._learner import make_optimizer
from torchrl_alita.algorithms._policy_gradient import (
    PolicyGradient,
    PolicyGradientSettings,
    read_policy_gradient,
)

__all__ = ["A2C", "A2CSettings"]


@dataclass(frozen=True, kw_only=True)
class A2CSettings(PolicyGradientSettings):
    """Settings of :class:`A2C`.

    One step is made of each collected batch: with few frames in a batch there are many steps.

    Raises:
        TypeError: for a value of another type; the field is named.
        ValueError: for a value out of its range.

    Examples:
        >>> A2CSettings(entropy_coeff=0.0).gae_lambda
        0.95
    """

    max_grad_norm = 0.5
    entropy_coeff: float = 0.01
    """Weight of the policies' entropy (A3C's paper: 0.01)."""
    actor_lr: float = 7e-4
    """Adam's learning rate of the policies."""
    critic_lr: float = 1e-3
    """Adam's learning rate of the values."""

    def __post_init__(self):
        super().__post_init__()
        check_non_negative(entropy_coeff=self.entropy_coeff)
        check_positive(actor_lr=self.actor_lr, critic_lr=self.critic_lr)


class A2C(PolicyGradient):
    """Advantage actor-critic, with TorchRL's ``A2CLoss``: the paper's Actor-Critic.

    Each agent is an actor with a value of its own observation, or of the whole team's. All
    environments are collected at once, and one step is made of each batch.

    Source: https://arxiv.org/abs/1602.01783, in its synchronous form; advantages of
    https://arxiv.org/abs/1506.02438; a baseline of Table 3 of https://arxiv.org/abs/2108.12581.

    Args:
        env: an environment in the layout of this package.
        settings: Default: :class:`A2CSettings` as they are.
        device: of the networks. Default: the environment's.

    Raises:
        TypeError: if the settings are of another algorithm.
        ValueError: if the environment has no ``"state"`` for values that see it.
        KeyError: if the environment has another layout.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=3, seed=0)
        >>> algorithm = A2C(env, A2CSettings(value_input="team"))
        >>> logs = algorithm.update({"rollout": env.rollout(4, algorithm.actor)})
        >>> sorted(key for key in logs.keys() if key.startswith("loss"))
        ['loss_critic', 'loss_entropy', 'loss_objective']
    """

    Settings: ClassVar[type[A2CSettings]] = A2CSettings
    settings: A2CSettings

    def __init__(
        self,
        env: EnvBase,
        settings: A2CSettings | None = None,
        *,
        device: torch.device | str | None = None,
    ):
        super().__init__(env, settings, device=device)
        self.loss = A2CLoss(
            self.actor,
            self.critic,
            entropy_coeff=self.settings.entropy_coeff,
            loss_critic_type="l2",
            # Its networks are the algorithm's own; nothing swaps their parameters.
            functional=False,
        )
        read_policy_gradient(self.loss)
        self.modules = {"a2c": self.loss}
        self.optimizers = {
            "actor": make_optimizer(self.actor, lr=self.settings.actor_lr),
            "critic": make_optimizer(self.critic, lr=self.settings.critic_lr),
        }
        self._compile_losses()

    def _losses(self, rows: TensorDictBase) -> TensorDict:
        losses = self.loss(rows)
        losses["loss_critic"] = losses["loss_critic"] / self.value_norm.scale().square().squeeze()
        return losses
