"""Trust region policy optimization for teams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.envs import EnvBase

from torchrl_alita._checks import check_at_least_one, check_non_negative, check_positive
from torchrl_alita.algorithms._learner import make_optimizer
from torchrl_alita.algorithms._policy_gradient import PolicyGradient, PolicyGradientSettings
from torchrl_alita.objectives import TRPOLoss
from torchrl_alita.optim import TrustRegion

__all__ = ["TRPO", "TRPOSettings"]


@dataclass(frozen=True, kw_only=True)
class TRPOSettings(PolicyGradientSettings):
    """Settings of :class:`TRPO`.

    Raises:
        TypeError: for a value of another type; the field is named.
        ValueError: for a value out of its range.

    Examples:
        >>> TRPOSettings(max_kl=0.02).cg_iterations
        10
    """

    gae_lambda = 0.97
    max_grad_norm: float = float("inf")
    """Largest norm of the values' gradient; the policies have their trust region."""
    max_kl: float = 0.01
    """Largest mean divergence of a step (the paper: 0.01)."""
    damping: float = 0.1
    """What is added to the Fisher matrix's diagonal."""
    cg_iterations: int = 10
    """Conjugate gradients for a step (the paper: 10)."""
    line_searches: int = 10
    """Lengths that are tried, each half of the one before."""
    critic_lr: float = 1e-3
    """Adam's learning rate of the values."""
    critic_epochs: int = 10
    """Times that the values go through each collected batch."""
    critic_minibatch_size: int = 512
    """Transitions of the team in each of the values' steps."""

    def __post_init__(self):
        super().__post_init__()
        check_positive(max_kl=self.max_kl, critic_lr=self.critic_lr)
        check_non_negative(damping=self.damping)
        names = ("cg_iterations", "line_searches", "critic_epochs", "critic_minibatch_size")
        check_at_least_one(**{name: getattr(self, name) for name in names})


class TRPO(PolicyGradient):
    """Trust region policy optimization.

    Of each collected batch all policies make one step together, along the natural gradient and
    so long that their mean divergence from the policies that acted stays within ``max_kl``;
    then the values are fitted. It serves teams and single agents.

    Source: https://arxiv.org/abs/1502.05477, advantages of https://arxiv.org/abs/1506.02438;
    a baseline of Table 3 and Figure 5 of https://arxiv.org/abs/2108.12581.

    Args:
        env: an environment in the layout of this package.
        settings: Default: :class:`TRPOSettings` as they are.
        device: of the networks. Default: the environment's.

    Raises:
        TypeError: if the settings are of another algorithm.
        ValueError: if the environment has no ``"state"`` for values that see it.
        KeyError: if the environment has another layout.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=3, seed=0)
        >>> algorithm = TRPO(env)
        >>> logs = algorithm.update({"rollout": env.rollout(4, algorithm.actor)})
        >>> bool(logs["kl"] <= 0.01)
        True
    """

    Settings: ClassVar[type[TRPOSettings]] = TRPOSettings
    settings: TRPOSettings

    def __init__(
        self,
        env: EnvBase,
        settings: TRPOSettings | None = None,
        *,
        device: torch.device | str | None = None,
    ):
        super().__init__(env, settings, device=device)
        settings = self.settings
        self.loss = TRPOLoss(self.actor)
        self.modules = {"trpo": self.loss, "critic": self.critic}
        self.optimizers = {
            "actor": TrustRegion(
                self.loss.actor_network_params.parameters(),
                max_kl=settings.max_kl,
                damping=settings.damping,
                iterations=settings.cg_iterations,
                searches=settings.line_searches,
            ),
            "critic": make_optimizer(self.critic, lr=settings.critic_lr),
        }

    def _learn(self, rows: TensorDictBase) -> TensorDict:
        step = self.optimizers["actor"].step(
            lambda: self.loss(rows)["loss_objective"], lambda: self.loss.divergence(rows)
        )
        logs = TensorDict(
            {"loss_objective": step.objective, "kl": step.kl, "step_share": step.share}
        )
        return logs.update(self._fit_values(rows))

    def _fit_values(self, rows: TensorDictBase) -> dict[str, torch.Tensor]:
        """All epochs of the values over the batch; the last step's error."""
        logs = {}
        for _ in range(self.settings.critic_epochs):
            order = torch.randperm(len(rows), device=rows.device)
            for chosen in order.split(self.settings.critic_minibatch_size):
                self._zero_grad()
                error = self._value_error(rows[chosen])
                error.backward()
                logs = {"loss_critic": error.detach()} | self._follow_all(["critic"])
        return logs
