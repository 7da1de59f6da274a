"""Soft actor-critic for a single agent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from tensordict import TensorDictBase
from torchrl.envs import EnvBase
from torchrl.objectives import SACLoss, ValueEstimators

from torchrl_alita._checks import check_positive
from torchrl_alita.algorithms._learner import make_optimizer, soft_update
from torchrl_alita.algorithms._single_agent import (
    SingleAgent,
    SingleOffPolicySettings,
    read_agents_layout,
    scalars,
)
from torchrl_alita.layout import STATE_VALUE, VALUE
from torchrl_alita.modules import make_critic, make_gaussian_actor

__all__ = ["SAC", "SACSettings"]


@dataclass(frozen=True, kw_only=True)
class SACSettings(SingleOffPolicySettings):
    """Settings of :class:`SAC`; the defaults are those of its paper.

    Raises:
        TypeError: for a value of another type; the field is named.
        ValueError: for a value out of its range.

    Examples:
        >>> SACSettings(lr=1e-3).gamma
        0.99
    """

    lr: float = 3e-4
    """Adam's learning rate of the policy, the critics and the temperature."""

    def __post_init__(self):
        super().__post_init__()
        check_positive(lr=self.lr)


class SAC(SingleAgent):
    """Soft actor-critic with a learned temperature, with TorchRL's ``SACLoss``.

    Source: https://arxiv.org/abs/1812.05905; a baseline of Figure 5 of
    https://arxiv.org/abs/2108.12581. The policy explores by itself, and its entropy is
    held at minus the number of action features.

    Args:
        env: an environment in the layout of this package, with one agent.
        settings: Default: :class:`SACSettings` as they are.
        device: of the networks. Default: the environment's.

    Raises:
        TypeError: if the settings are of another algorithm.
        ValueError: if the environment has several agents or discrete actions.
        KeyError: if the environment has another layout.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=1, seed=0)
        >>> logs = SAC(env).update({"batch": env.rollout(4).reshape(-1)})
        >>> sorted(key for key in logs.keys() if key.startswith("loss"))
        ['loss_actor', 'loss_alpha', 'loss_qvalue']
    """

    stochastic: ClassVar[bool] = True
    _make_actor = staticmethod(make_gaussian_actor)
    Settings: ClassVar[type[SACSettings]] = SACSettings
    settings: SACSettings

    def __init__(
        self,
        env: EnvBase,
        settings: SACSettings | None = None,
        *,
        device: torch.device | str | None = None,
    ):
        super().__init__(env, settings, device=device)
        settings = self.settings
        self.actor = self.make_policy(env, settings, device=self.device)
        self.sac = SACLoss(
            self.actor,
            make_critic(env, **self.networks),
            num_qvalue_nets=2,
            loss_function="l2",
            target_entropy=-float(self.layout.action_size),
        ).to(self.device)
        read_agents_layout(self.sac, state_action_value=VALUE, value=STATE_VALUE)
        self.sac.make_value_estimator(ValueEstimators.TD0, gamma=settings.gamma)
        self.target_updater = soft_update(self.sac, tau=settings.tau)
        self.modules = {"sac": self.sac}
        self.optimizers = {
            "actor": make_optimizer(self.sac.actor_network_params, lr=settings.lr),
            "qvalue": make_optimizer(self.sac.qvalue_network_params, lr=settings.lr),
            "alpha": make_optimizer([self.sac.log_alpha], lr=settings.lr),
        }
        self._compile_losses()

    def _losses(self, batch: TensorDictBase) -> TensorDictBase:
        return scalars(self.sac(self._transitions(batch)))
