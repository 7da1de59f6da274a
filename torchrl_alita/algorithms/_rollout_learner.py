"""What the actor-critics have in common that learn from rollouts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import nn
from torchrl.envs import EnvBase, ExplorationType
from torchrl.objectives import LossModule

from torchrl_alita._checks import (
    check_at_least_one,
    check_non_negative,
    check_positive,
    check_share,
    check_tau,
)
from torchrl_alita.algorithms._learner import (
    Learner,
    LearnerSettings,
    make_optimizer,
    soft_update,
)
from torchrl_alita.modules import make_actor, make_recurrent_actor
from torchrl_alita.modules.actors import require_one_hot

__all__ = ["RolloutLearner", "RolloutSettings"]


@dataclass(frozen=True, kw_only=True)
class RolloutSettings(LearnerSettings):
    """What the actor-critics of teams can set that learn from rollouts.

    Raises:
        TypeError: for a value of another type; the field is named.
        ValueError: for a value out of its range.

    Examples:
        >>> RolloutSettings(lmbda=2.0)
        Traceback (most recent call last):
        ...
        ValueError: lmbda must be in [0, 1], got 2.0.
    """

    max_grad_norm = 10.0
    recurrent: bool = True
    """Recurrent policies; environments need the transforms of ``env_transforms()``."""
    hidden_size: int = 64
    """Width of both hidden layers of recurrent policies (PyMARL: 64)."""
    share_params: bool = True
    """One policy for all agents; a recurrent one is told the agent's index."""
    last_action: bool = True
    """Whether recurrent policies read their agent's last action."""
    lmbda: float = 0.8
    """How far the critics' targets look ahead, in [0, 1] (PyMARL: 0.8)."""
    entropy_coeff: float = 0.0
    """Weight of the policies' entropy."""
    critic_updates: int = 8
    """Steps of the critics for each of the policies; the last is together with it."""
    optimizer: Literal["adam", "rmsprop"] = "adam"
    """Optimizer of policies and critics (PyMARL: RMSprop, with a decay of 0.99)."""
    actor_lr: float = 5e-4
    """The optimizer's learning rate of the policies (PyMARL: 5e-4)."""
    critic_lr: float = 5e-4
    """The optimizer's learning rate of the critics (PyMARL: 5e-4)."""
    tau: float = 0.05
    """Share by which the critics' targets move at each of their steps, in (0, 1]."""

    def __post_init__(self):
        super().__post_init__()
        check_share(lmbda=self.lmbda)
        check_non_negative(entropy_coeff=self.entropy_coeff)
        check_at_least_one(hidden_size=self.hidden_size, critic_updates=self.critic_updates)
        check_positive(actor_lr=self.actor_lr, critic_lr=self.critic_lr)
        check_tau(self.tau)


class RolloutLearner(Learner):
    """Policies over one-hot actions and their critics, which learn from rollouts.

    An algorithm below this class makes its loss, with ``critic_losses``, and calls
    :meth:`_learn`. It learns from what the policies have just done and stores nothing.

    Args:
        env: an environment in the layout of this package, with one-hot actions.
        settings: of the algorithm. Default: ``Settings()``.
        device: of the networks. Default: the environment's.

    Raises:
        TypeError: if the settings are of another class.
        ValueError: if the actions are not one-hot.
        KeyError: if the environment has another layout.
    """

    Settings: ClassVar[type[RolloutSettings]] = RolloutSettings
    default_task: ClassVar[str] = "push_box"
    stochastic = True
    on_policy = True
    settings: RolloutSettings

    def __init__(
        self,
        env: EnvBase,
        settings: RolloutSettings | None = None,
        *,
        device: torch.device | str | None = None,
    ):
        super().__init__(env, settings, device=device)
        require_one_hot(env, f"Policies of {type(self).__name__}")
        self.actor = self.make_policy(env, self.settings, device=self.device)

    @classmethod
    def make_policy(
        cls,
        env: EnvBase,
        settings: RolloutSettings,
        *,
        device: torch.device | str | None = None,
    ) -> TensorDictModuleBase:
        """All policies in one module, not trained, see :meth:`Learner.make_policy`."""
        networks: dict[str, Any] = {"share_params": settings.share_params, "device": device}
        if settings.recurrent:
            return make_recurrent_actor(
                env,
                hidden_size=settings.hidden_size,
                last_action=settings.last_action,
                **networks,
            )
        return make_actor(env, num_cells=settings.num_cells, **networks)

    def _learn(self, name: str, loss: LossModule, critics: nn.Module) -> None:
        """Train a loss's actor, and its critics, whose parameters are given."""
        settings = self.settings
        loss.to(self.device)
        # The policies' own next actions are drawn, as those in a rollout are.
        loss.deterministic_sampling_mode = ExplorationType.RANDOM
        self.loss = loss
        self.target_updater = soft_update(loss, tau=settings.tau)
        self.modules[name] = loss
        for part, params, lr in (
            ("actor", loss.actor_network_params, settings.actor_lr),
            ("critic", critics, settings.critic_lr),
        ):
            self.optimizers[part] = make_optimizer(params, kind=settings.optimizer, lr=lr)
        self._compile_losses()

    def update(self, batches: Mapping[str, TensorDictBase]) -> TensorDict:
        """Several steps of the critics, and one of the policies with the last of them.

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
        for _ in range(self.settings.critic_updates - 1):
            self._follow_losses(self._critic_gradient, batch, ["critic"])
        logs = self._follow_losses(self._gradient, batch, ["actor", "critic"])
        self.updates += 1
        return logs

    def _follow_losses(self, gradient, batch: TensorDictBase, names: list[str]) -> TensorDict:
        self._zero_grad()
        logs = gradient(batch)
        logs.update(self._follow_all(names))
        self._update_targets()
        return logs

    def _losses(self, batch: TensorDictBase) -> TensorDictBase:
        return self.loss(batch)

    def _critic_losses(self, batch: TensorDictBase) -> TensorDictBase:
        return self.loss.critic_losses(batch)
