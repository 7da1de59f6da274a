"""REINFORCE for teams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.envs import EnvBase
from torchrl.objectives import ReinforceLoss

from torchrl_alita._checks import check_positive
from torchrl_alita.algorithms._learner import make_optimizer
from torchrl_alita.algorithms._policy_gradient import (
    PolicyGradient,
    PolicyGradientSettings,
    read_policy_gradient,
)

__all__ = ["Reinforce", "ReinforceSettings"]


@dataclass(frozen=True, kw_only=True)
class ReinforceSettings(PolicyGradientSettings):
    """Settings of :class:`Reinforce`.

    One step is made of each collected batch: with few frames in a batch there are many steps.

    Raises:
        TypeError: for a value of another type; the field is named.
        ValueError: for a value out of its range.

    Examples:
        >>> ReinforceSettings(actor_lr=1e-3).gae_lambda
        1.0
    """

    gae_lambda = 1.0
    actor_lr: float = 7e-4
    """Adam's learning rate of the policies."""
    critic_lr: float = 1e-3
    """Adam's learning rate of the values."""

    def __post_init__(self):
        super().__post_init__()
        check_positive(actor_lr=self.actor_lr, critic_lr=self.critic_lr)


class Reinforce(PolicyGradient):
    """REINFORCE with a learned baseline, by TorchRL's ``ReinforceLoss``.

    A step is followed by its whole return to the episode's end, less the value of the state
    in which it was made. Where an episode is not over with the batch, the value stands in for
    the rest of it.

    Source: Williams, 1992, https://doi.org/10.1007/BF00992696; a baseline of Table 3 of
    https://arxiv.org/abs/2108.12581.

    Args:
        env: an environment in the layout of this package.
        settings: Default: :class:`ReinforceSettings` as they are.
        device: of the networks. Default: the environment's.

    Raises:
        TypeError: if the settings are of another algorithm.
        ValueError: if the environment has no ``"state"`` for values that see it.
        KeyError: if the environment has another layout.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=3, seed=0)
        >>> algorithm = Reinforce(env)
        >>> logs = algorithm.update({"rollout": env.rollout(4, algorithm.actor)})
        >>> sorted(key for key in logs.keys() if key.startswith("loss"))
        ['loss_actor', 'loss_value']
    """

    Settings: ClassVar[type[ReinforceSettings]] = ReinforceSettings
    settings: ReinforceSettings

    def __init__(
        self,
        env: EnvBase,
        settings: ReinforceSettings | None = None,
        *,
        device: torch.device | str | None = None,
    ):
        super().__init__(env, settings, device=device)
        self.loss = ReinforceLoss(
            self.actor,
            self.critic,
            loss_critic_type="l2",
            # Its networks are the algorithm's own; nothing swaps their parameters.
            functional=False,
        )
        read_policy_gradient(self.loss)
        self.modules = {"reinforce": self.loss}
        self.optimizers = {
            "actor": make_optimizer(self.actor, lr=self.settings.actor_lr),
            "critic": make_optimizer(self.critic, lr=self.settings.critic_lr),
        }
        self._compile_losses()

    def _losses(self, rows: TensorDictBase) -> TensorDict:
        losses = self.loss(rows)
        losses["loss_value"] = losses["loss_value"] / self.value_norm.scale().square().squeeze()
        return losses
