"""Tsallis actor-critic for a single agent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from tensordict import TensorDictBase
from torchrl.envs import EnvBase

from torchrl_alita._checks import check_at_least_one, check_non_negative, check_positive
from torchrl_alita.algorithms._learner import make_optimizer, soft_update
from torchrl_alita.algorithms._single_agent import SingleAgent, SingleOffPolicySettings
from torchrl_alita.modules import make_critic, make_gaussian_actor, make_value
from torchrl_alita.objectives import TsallisLoss

__all__ = ["TAC", "TACSettings"]


@dataclass(frozen=True, kw_only=True)
class TACSettings(SingleOffPolicySettings):
    """Settings of :class:`TAC`; the defaults are those of the authors' code.

    Raises:
        TypeError: for a value of another type; the field is named.
        ValueError: for a value out of its range.

    Examples:
        >>> TACSettings(entropic_index=1.5).num_cells
        (128, 128)
    """

    num_cells = (128, 128)
    random_frames = 1_000
    tau = 0.01
    entropic_index: float = 2.0
    """The q of the Tsallis entropy, positive; 1 is Shannon's."""
    entropy_coeff: float = 0.8
    """Weight of the entropy."""
    reward_scale: float = 3.0
    """What rewards are multiplied with."""
    param_coeff: float = 1e-3
    """Weight of the mean squared parameters of the policy's distribution."""
    num_action_samples: int = 4
    """Actions of the policy drawn for each state."""
    lr: float = 3e-4
    """Adam's learning rate of all networks."""

    def __post_init__(self):
        super().__post_init__()
        check_positive(
            entropic_index=self.entropic_index, reward_scale=self.reward_scale, lr=self.lr
        )
        check_non_negative(entropy_coeff=self.entropy_coeff, param_coeff=self.param_coeff)
        check_at_least_one(num_action_samples=self.num_action_samples)


class TAC(SingleAgent):
    """Tsallis actor-critic.

    Source: https://arxiv.org/abs/1902.05551; a baseline of Figure 5 of
    https://arxiv.org/abs/2108.12581. The policy explores by itself.

    Args:
        env: an environment in the layout of this package, with one agent.
        settings: Default: :class:`TACSettings` as they are.
        device: of the networks. Default: the environment's.

    Raises:
        TypeError: if the settings are of another algorithm.
        ValueError: if the environment has several agents or discrete actions.
        KeyError: if the environment has another layout.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=1, seed=0)
        >>> logs = TAC(env).update({"batch": env.rollout(4).reshape(-1)})
        >>> sorted(key for key in logs.keys() if key.startswith("loss"))
        ['loss_actor', 'loss_qvalue', 'loss_value']
    """

    stochastic: ClassVar[bool] = True
    _make_actor = staticmethod(make_gaussian_actor)
    Settings: ClassVar[type[TACSettings]] = TACSettings
    settings: TACSettings

    def __init__(
        self,
        env: EnvBase,
        settings: TACSettings | None = None,
        *,
        device: torch.device | str | None = None,
    ):
        super().__init__(env, settings, device=device)
        settings = self.settings
        self.actor = self.make_policy(env, settings, device=self.device)
        self.tsallis = TsallisLoss(
            self.actor,
            make_critic(env, num_critics=2, **self.networks),
            make_value(env, **self.networks),
            gamma=settings.gamma,
            entropic_index=settings.entropic_index,
            entropy_coeff=settings.entropy_coeff,
            reward_scale=settings.reward_scale,
            param_coeff=settings.param_coeff,
            num_action_samples=settings.num_action_samples,
        ).to(self.device)
        self.target_updater = soft_update(self.tsallis, tau=settings.tau)
        self.modules = {"tsallis": self.tsallis}
        self.optimizers = {
            "actor": make_optimizer(self.tsallis.actor_network_params, lr=settings.lr),
            "qvalue": make_optimizer(self.tsallis.qvalue_network_params, lr=settings.lr),
            "value": make_optimizer(self.tsallis.value_network_params, lr=settings.lr),
        }
        self._compile_losses()

    def _losses(self, batch: TensorDictBase) -> TensorDictBase:
        return self.tsallis(self._transitions(batch))
