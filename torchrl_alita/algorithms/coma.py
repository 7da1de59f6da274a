"""Counterfactual multi-agent policy gradients (COMA)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torchrl.envs import EnvBase

from torchrl_alita.algorithms._rollout_learner import RolloutLearner, RolloutSettings
from torchrl_alita.layout import terminated_key_of
from torchrl_alita.modules import make_counterfactual_critic
from torchrl_alita.objectives import COMALoss

__all__ = ["COMA", "COMASettings"]


@dataclass(frozen=True, kw_only=True)
class COMASettings(RolloutSettings):
    """Settings of :class:`COMA`.

    Raises:
        TypeError: for a value of another type; the field is named.
        ValueError: for a value out of its range.

    Examples:
        >>> COMASettings(recurrent=False).lmbda
        0.8
    """

    entropy_coeff = 0.01
    normalize_advantage: bool = True
    """Divide the advantages of a rollout by their deviation."""


class COMA(RolloutLearner):
    """Counterfactual multi-agent policy gradients.

    Each agent's action is judged by a critic that knows what all others did, against what the
    policy would have got on average with its other actions. The control of all critics that
    ask what would have been.

    Source: https://arxiv.org/abs/1705.08926, with the defaults of PyMARL
    (https://arxiv.org/abs/1902.04043) but for Adam, a bonus of entropy in the place of uniform
    actions that are mixed in, targets that follow slowly, and a fixed number of steps of the
    critic.

    Args:
        env: an environment in the layout of this package, with one-hot actions.
        settings: Default: :class:`COMASettings` as they are.
        device: of the networks. Default: the environment's.

    Raises:
        TypeError: if the settings are of another algorithm.
        ValueError: if the actions are not one-hot.
        KeyError: if the environment has another layout.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("push_box", num_envs=5, n_agents=2, seed=0)
        >>> algorithm = COMA(env, COMASettings(recurrent=False))
        >>> logs = algorithm.update({"rollout": env.rollout(4, algorithm.actor)})
        >>> sorted(key for key in logs.keys() if key.startswith("loss"))
        ['loss_actor', 'loss_qvalue']
    """

    Settings: ClassVar[type[COMASettings]] = COMASettings
    settings: COMASettings

    def __init__(
        self,
        env: EnvBase,
        settings: COMASettings | None = None,
        *,
        device: torch.device | str | None = None,
    ):
        super().__init__(env, settings, device=device)
        settings = self.settings
        critic = make_counterfactual_critic(env, num_cells=settings.num_cells, device=self.device)
        loss = COMALoss(
            self.actor,
            critic,
            gamma=settings.gamma,
            lmbda=settings.lmbda,
            entropy_coeff=settings.entropy_coeff,
            normalize_advantage=settings.normalize_advantage,
        )
        loss.set_keys(terminated=terminated_key_of(env))
        self._learn("coma", loss, loss.qvalue_network_params)
