"""Learning implicit credit assignment (LICA)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torchrl.envs import EnvBase

from torchrl_alita._checks import check_at_least_one, check_whole
from torchrl_alita.algorithms._rollout_learner import RolloutLearner, RolloutSettings
from torchrl_alita.modules import make_mixing_critic
from torchrl_alita.objectives import LICALoss

__all__ = ["LICA", "LICASettings"]


@dataclass(frozen=True, kw_only=True)
class LICASettings(RolloutSettings):
    """Settings of :class:`LICA`.

    Raises:
        TypeError: for a value of another type; the field is named.
        ValueError: for a value out of its range.

    Examples:
        >>> LICASettings(hypernet_layers=2).entropy_coeff
        0.06
    """

    entropy_coeff = 0.06
    actor_lr = 2.5e-3
    mixing_embed_dim: int = 64
    """Width of the mixing critic's layer (the authors: 64)."""
    hypernet_layers: int = 1
    """Layers of its hyper-networks, 1 or 2 (the authors: 2, as wide as their output, which is
    136 million weights for six agents with 30 actions)."""
    hypernet_size: int = 64
    """Width within hyper-networks of two layers."""

    def __post_init__(self):
        super().__post_init__()
        check_whole(1, 2, hypernet_layers=self.hypernet_layers)
        check_at_least_one(mixing_embed_dim=self.mixing_embed_dim, hypernet_size=self.hypernet_size)


class LICA(RolloutLearner):
    """Learning implicit credit assignment: policies climb a value of their probabilities.

    A mixing critic reads the state and all policies' probabilities, and its gradient says
    what each is worth to the team. The bonus of entropy pulls with a constant strength.

    Source: https://arxiv.org/abs/2007.02529, with the authors' defaults but for the
    hyper-networks, targets that follow slowly and the number of steps of the critic.

    Args:
        env: an environment in the layout of this package, with one-hot actions.
        settings: Default: :class:`LICASettings` as they are.
        device: of the networks. Default: the environment's.

    Raises:
        TypeError: if the settings are of another algorithm.
        ValueError: if the actions are not one-hot.
        KeyError: if the environment has another layout.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("push_box", num_envs=5, n_agents=2, seed=0)
        >>> algorithm = LICA(env, LICASettings(recurrent=False))
        >>> logs = algorithm.update({"rollout": env.rollout(4, algorithm.actor)})
        >>> sorted(key for key in logs.keys() if key.startswith("loss"))
        ['loss_actor', 'loss_qvalue']
    """

    Settings: ClassVar[type[LICASettings]] = LICASettings
    settings: LICASettings

    def __init__(
        self,
        env: EnvBase,
        settings: LICASettings | None = None,
        *,
        device: torch.device | str | None = None,
    ):
        super().__init__(env, settings, device=device)
        settings = self.settings
        critic = make_mixing_critic(
            env,
            mixing_embed_dim=settings.mixing_embed_dim,
            hypernet_layers=settings.hypernet_layers,
            hypernet_size=settings.hypernet_size,
            device=self.device,
        )
        loss = LICALoss(
            self.actor,
            critic,
            gamma=settings.gamma,
            lmbda=settings.lmbda,
            entropy_coeff=settings.entropy_coeff,
        )
        self._learn("lica", loss, loss.qvalue_network_params)
