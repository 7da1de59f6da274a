"""Multi-agent variational exploration (MAVEN)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from tensordict.nn import TensorDictModule, TensorDictModuleBase
from torchrl.envs import EnvBase, Transform

from torchrl_alita._checks import check_at_least_one, check_non_negative
from torchrl_alita.algorithms.qmix import QMIX, QMIXSettings
from torchrl_alita.modules import make_discriminator, make_latent_mixer, make_latent_qnetwork
from torchrl_alita.objectives import MAVENLoss
from torchrl_alita.transforms import EpisodeLatent

__all__ = ["MAVEN", "MAVENSettings"]


@dataclass(frozen=True, kw_only=True)
class MAVENSettings(QMIXSettings):
    """Settings of :class:`MAVEN`: those of :class:`QMIXSettings` and of its latent variable.

    Raises:
        TypeError: for a value of another type; the field is named.
        ValueError: for a value out of its range, or networks without a memory or of each
            agent.

    Examples:
        >>> MAVENSettings(recurrent=False)
        Traceback (most recent call last):
        ...
        ValueError: MAVEN's networks have a memory: recurrent must be True, got False.
    """

    num_latents: int = 16
    """Values of the latent variable (the paper: 16; the authors' code for StarCraft: 2)."""
    mutual_information_coeff: float = 1.0
    """Weight of the bound on its mutual information with what the team does (the authors' of
    StarCraft: 1)."""
    discriminator_size: int = 64
    """Width of the layers of the network that guesses it (the authors: 64)."""
    discriminator_recurrent: bool = True
    """It remembers the trajectory; otherwise it sees single steps."""

    def __post_init__(self):
        super().__post_init__()
        check_at_least_one(num_latents=self.num_latents, discriminator_size=self.discriminator_size)
        check_non_negative(mutual_information_coeff=self.mutual_information_coeff)
        if not self.recurrent:
            raise ValueError("MAVEN's networks have a memory: recurrent must be True, got False.")
        if not self.share_params:
            raise ValueError(
                "MAVEN's agents share their network: share_params must be True, got False."
            )


class MAVEN(QMIX):
    """QMIX whose team draws a latent variable for each episode and acts by it (MAVEN).

    The variable is uniform, in training and in evaluation. The team is paid for doing what
    tells it, so that in each episode it explores together.

    Source: https://arxiv.org/abs/1910.07483, with the authors' defaults, and those of
    :class:`QMIX`. Their policy that learns to draw the variable is not here:
    :class:`torchrl_alita.transforms.EpisodeLatent` takes one.

    Args:
        env: an environment in the layout of this package, with one-hot actions.
        settings: Default: :class:`MAVENSettings` as they are.
        device: of the networks. Default: the environment's.

    Raises:
        TypeError: if the settings are of another algorithm.
        ValueError: if the actions are not one-hot.
        KeyError: if the environment has another layout.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("push_box", num_envs=5, n_agents=2, seed=0)
        >>> algorithm = MAVEN(env, MAVENSettings(num_latents=4))
        >>> for transform in algorithm.env_transforms():
        ...     env = env.append_transform(transform)
        >>> logs = algorithm.update({"batch": env.rollout(4, algorithm.actor)})
        >>> sorted(key for key in logs.keys() if key.startswith("loss"))
        ['loss_discriminator', 'loss_qvalue']
    """

    Settings: ClassVar[type[MAVENSettings]] = MAVENSettings
    settings: MAVENSettings

    @classmethod
    def make_policy(
        cls,
        env: EnvBase,
        settings: MAVENSettings,
        *,
        device: torch.device | str | None = None,
    ) -> TensorDictModuleBase:
        """All agents' networks in one module, not trained, see :meth:`Learner.make_policy`."""
        return make_latent_qnetwork(
            env,
            num_latents=settings.num_latents,
            hidden_size=settings.hidden_size,
            last_action=settings.last_action,
            device=device,
        )

    def env_transforms(self) -> list[Transform]:
        """What must be appended to an environment in which the policies act."""
        return [EpisodeLatent(self.settings.num_latents), *super().env_transforms()]

    def _make_loss(self, env: EnvBase) -> MAVENLoss:
        settings = self.settings
        discriminator = make_discriminator(
            env,
            num_latents=settings.num_latents,
            hidden_size=settings.discriminator_size,
            recurrent=settings.discriminator_recurrent,
            device=self.device,
        )
        return MAVENLoss(
            self.actor,
            self._mixer(env),
            discriminator,
            mutual_information_coeff=settings.mutual_information_coeff,
            gamma=settings.gamma,
            double_q=settings.double_q,
        )

    def _mixer(self, env: EnvBase) -> TensorDictModule:
        mixer = make_latent_mixer(
            env,
            num_latents=self.settings.num_latents,
            mixing_embed_dim=self.settings.mixing_embed_dim,
            device=self.device,
        )
        for param in mixer.parameters():
            param.data.mul_(self.settings.mixing_init_scale)
        return mixer
