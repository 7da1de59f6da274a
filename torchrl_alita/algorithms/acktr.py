"""Actor-critic with Kronecker-factored trust regions, for teams and single agents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.envs import EnvBase

from torchrl_alita._checks import check_at_least_one, check_below_one, check_positive
from torchrl_alita.algorithms._policy_gradient import PolicyGradient, PolicyGradientSettings
from torchrl_alita.layout import STATE_VALUE
from torchrl_alita.modules import make_linear_actor, make_linear_value
from torchrl_alita.objectives import TRPOLoss
from torchrl_alita.optim import KFAC

__all__ = ["ACKTR", "ACKTRSettings"]

# The policies' step is changed by this factor, and stays between these.
_LR_FACTOR = 1.5
_LR_RANGE = (1e-8, 1.0)
# A step's measured divergence may be so many times the one that the factors may predict.
_MOST_KL = 2.0
_HALVINGS = 10


@dataclass(frozen=True, kw_only=True)
class ACKTRSettings(PolicyGradientSettings):
    """Settings of :class:`ACKTR`.

    The defaults are those of the authors' code for continuous control (its later version, in
    the branch ``old_acktr_cont``), where 2,500 steps are collected for an update. The values'
    steps are larger and fewer than there.

    Raises:
        TypeError: for a value of another type; the field is named.
        ValueError: for a value out of its range.

    Examples:
        >>> ACKTRSettings(max_kl=0.001).critic_steps
        10
    """

    gae_lambda = 0.97
    actor_lr: float = 0.03
    """The policies' largest step at first. It shrinks by a factor of 1.5 where their divergence
    was above twice max_kl, and grows where it was below half of it."""
    max_kl: float = 0.002
    """Mean divergence of a step that the factors may predict (the authors' code: 0.002). One
    that is measured to be above twice that is halved until it is not."""
    damping: float = 0.01
    """What is added to the eigenvalues of the policies' Fisher matrix."""
    factor_decay: float = 0.99
    """What an observation keeps of the policies' Kronecker factors, below 1."""
    basis_interval: int = 2
    """Observations from one eigendecomposition of the factors to the next."""
    momentum: float = 0.9
    """Of the policies' and the values' steps, below 1."""
    critic_lr: float = 0.1
    """The values' largest step."""
    critic_max_kl: float = 0.3
    """Divergence of a step of the values, taken as Gaussians with their targets' deviation
    (the authors' code: 0.3)."""
    critic_damping: float = 0.1
    """What is added to the eigenvalues of the values' Fisher matrix."""
    critic_factor_decay: float = 0.95
    """What an observation keeps of the values' Kronecker factors, below 1."""
    critic_steps: int = 10
    """Steps of the values for each collected batch."""

    def __post_init__(self):
        super().__post_init__()
        if self.max_grad_norm != float("inf"):
            raise ValueError(
                f"ACKTR has trust regions in place of max_grad_norm, got {self.max_grad_norm}."
            )
        positive = ("actor_lr", "max_kl", "damping", "critic_lr", "critic_max_kl", "critic_damping")
        check_positive(**{name: getattr(self, name) for name in positive})
        check_at_least_one(basis_interval=self.basis_interval, critic_steps=self.critic_steps)
        decays = ("factor_decay", "momentum", "critic_factor_decay")
        check_below_one(**{name: getattr(self, name) for name in decays})


class ACKTR(PolicyGradient):
    """Actor-critic with Kronecker-factored trust regions.

    Of each collected batch all policies make one natural gradient step together, and the values
    several, both by :class:`torchrl_alita.optim.KFAC`. The factors come from actions and values
    that are drawn anew, so that they are those of the Fisher matrix itself.

    Source: https://arxiv.org/abs/1708.05144, advantages of https://arxiv.org/abs/1506.02438;
    a baseline of Figure 5 of https://arxiv.org/abs/2108.12581.

    Args:
        env: an environment in the layout of this package.
        settings: Default: :class:`ACKTRSettings` as they are.
        device: of the networks. Default: the environment's.

    Raises:
        TypeError: if the settings are of another algorithm.
        ValueError: if the environment has no ``"state"`` for values that see it.
        KeyError: if the environment has another layout.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=3, seed=0)
        >>> algorithm = ACKTR(env)
        >>> logs = algorithm.update({"rollout": env.rollout(4, algorithm.actor)})
        >>> sorted(logs.keys())
        ['actor_lr', 'kl', 'loss_critic', 'loss_objective']
    """

    Settings: ClassVar[type[ACKTRSettings]] = ACKTRSettings
    settings: ACKTRSettings

    def __init__(
        self,
        env: EnvBase,
        settings: ACKTRSettings | None = None,
        *,
        device: torch.device | str | None = None,
    ):
        super().__init__(env, settings, device=device)
        settings = self.settings
        self.loss = TRPOLoss(self.actor)
        self.modules = {"acktr": self.loss, "critic": self.critic}
        self.optimizers = {
            "actor": KFAC(
                self.actor,
                lr=settings.actor_lr,
                max_kl=settings.max_kl,
                momentum=settings.momentum,
                damping=settings.damping,
                decay=settings.factor_decay,
                basis_interval=settings.basis_interval,
            ),
            "critic": KFAC(
                self.critic,
                lr=settings.critic_lr,
                max_kl=settings.critic_max_kl,
                momentum=settings.momentum,
                damping=settings.critic_damping,
                decay=settings.critic_factor_decay,
                basis_interval=settings.basis_interval,
            ),
        }

    @classmethod
    def make_policy(
        cls,
        env: EnvBase,
        settings: ACKTRSettings,
        *,
        device: torch.device | str | None = None,
    ) -> TensorDictModuleBase:
        """All policies in one module, not trained, see :meth:`Learner.make_policy`."""
        return make_linear_actor(
            env, num_cells=settings.num_cells, share_params=settings.share_params, device=device
        )

    def _make_critic(self, env: EnvBase) -> TensorDictModuleBase:
        return make_linear_value(
            env,
            num_cells=self.settings.value_num_cells,
            value_input=self.settings.value_input,
            share_params=self.settings.share_params,
            value_norm=self.value_norm,
            device=self.device,
        )

    def _learn(self, rows: TensorDictBase) -> TensorDict:
        losses = self.loss(rows)
        before = [param.detach().clone() for param in self.actor.parameters()]
        self._step_along(losses["loss_objective"], "actor", lambda: self._drawn_actions(rows))
        kl, logged = self._shorten(before, rows)
        for _ in range(self.settings.critic_steps):
            error = self._value_error(rows)
            self._step_along(error, "critic", lambda: self._drawn_values(rows))
        return TensorDict(
            {
                "loss_objective": losses["loss_objective"].detach(),
                "loss_critic": error.detach(),
                "kl": logged,
                "actor_lr": self._adapt_lr(float(kl)),
            }
        )

    @torch.no_grad()
    def _shorten(
        self, before: list[torch.Tensor], rows: TensorDictBase
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Halve the policies' step until it is in the region; its divergence before and then.

        Factors that still remember younger policies can let a step become several times too
        long.
        """
        first = kl = self.loss.divergence(rows)
        for _ in range(_HALVINGS):
            if kl <= _MOST_KL * self.settings.max_kl:
                break
            for param, origin in zip(self.actor.parameters(), before, strict=True):
                param.lerp_(origin, 0.5)
            kl = self.loss.divergence(rows)
        return first, kl

    def _step_along(
        self, loss: torch.Tensor, name: str, log_prob: Callable[[], torch.Tensor]
    ) -> None:
        optimizer = self.optimizers[name]
        optimizer.observe(log_prob)
        self._zero_grad()
        loss.backward()
        optimizer.step()

    def _drawn_actions(self, rows: TensorDictBase) -> torch.Tensor:
        """Logarithms of the probabilities of new draws, ``[B, N]``."""
        distribution = self.actor.get_dist(rows.select(*self.actor.in_keys))
        return distribution.log_prob(distribution.sample())

    def _drawn_values(self, rows: TensorDictBase) -> torch.Tensor:
        """The same of values, as Gaussians with the deviation of their targets, ``[B, N, 1]``."""
        values = self.critic(rows.select(*self.critic.in_keys)).get(STATE_VALUE)
        mean = self.value_norm.normalize(values)
        drawn = (mean + torch.randn_like(mean)).detach()
        return -0.5 * (drawn - mean).square()

    def _adapt_lr(self, kl: float) -> torch.Tensor:
        """Change the policies' largest step by what their divergence was; the new one."""
        (group,) = self.optimizers["actor"].param_groups
        limit, (least, most) = self.settings.max_kl, _LR_RANGE
        if kl > 2 * limit:
            group["lr"] = max(least, group["lr"] / _LR_FACTOR)
        elif kl < limit / 2:
            group["lr"] = min(most, group["lr"] * _LR_FACTOR)
        return torch.tensor(group["lr"], device=self.device)
