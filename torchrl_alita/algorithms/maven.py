"""Multi-agent variational exploration (MAVEN)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import (
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictModuleBase,
)
from torchrl.envs import EnvBase
from torchrl.objectives import ClipPPOLoss

from torchrl_alita._checks import check_at_least_one, check_non_negative, check_positive
from torchrl_alita.algorithms._learner import make_optimizer
from torchrl_alita.algorithms.qmix import QMIX, QMIXSettings
from torchrl_alita.data import EpisodeReturns
from torchrl_alita.data.episodes import EPISODE_RETURN
from torchrl_alita.layout import LATENT, LATENT_LOG_PROB
from torchrl_alita.modules import (
    make_discriminator,
    make_latent_mixer,
    make_latent_policy,
    make_latent_qnetwork,
)
from torchrl_alita.modules.latent import give_latent_policy
from torchrl_alita.objectives import MAVENLoss

__all__ = ["MAVEN", "MAVENSettings"]

# Returns that are all alike are not blown up.
_LEAST_DEVIATION = 1e-3


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
    latent_policy: Literal["uniform", "hierarchical"] = "uniform"
    """What draws the latent variable: each value is equally likely, as in the authors' runs of
    StarCraft, or a policy that sees an episode's beginning and learns from its return."""
    latent_lr: float = 5e-4
    """Adam's learning rate of that policy (the authors: 5e-4)."""
    latent_entropy_coeff: float = 0.1
    """Weight of its entropy, in units of the returns' deviation."""
    latent_clip_epsilon: float = 0.2
    """How far its probabilities may move from those of the draw and still be paid, in (0, 1)."""
    latent_episodes: int = 512
    """Last episodes that it learns from (the authors: 512)."""
    latent_batch_size: int = 64
    """Episodes of one of its steps, of which there is one for each that ends (the authors: 64,
    and as many steps)."""

    def __post_init__(self):
        super().__post_init__()
        sizes = ("num_latents", "discriminator_size", "latent_episodes", "latent_batch_size")
        check_at_least_one(**{name: getattr(self, name) for name in sizes})
        check_non_negative(
            mutual_information_coeff=self.mutual_information_coeff,
            latent_entropy_coeff=self.latent_entropy_coeff,
        )
        check_positive(latent_lr=self.latent_lr)
        if not 0 < self.latent_clip_epsilon < 1:
            raise ValueError(
                f"latent_clip_epsilon must be between 0 and 1, got {self.latent_clip_epsilon}."
            )
        if not self.recurrent:
            raise ValueError("MAVEN's networks have a memory: recurrent must be True, got False.")
        if not self.share_params:
            raise ValueError(
                "MAVEN's agents share their network: share_params must be True, got False."
            )


class MAVEN(QMIX):
    r"""QMIX whose team draws a latent variable for each episode and acts by it (MAVEN).

    The team is paid for doing what tells the variable, so that in each episode it explores
    together. It is drawn in evaluation as in training: uniformly, or with
    ``latent_policy="hierarchical"`` by a policy that sees how the episode begins,

    .. math:: \max_p \; E_{z \sim p(z | s_0)} [A(s_0, z)] + c \, H(p(\cdot | s_0)), \qquad
        A = (R - \bar R) / \sigma_R

    where R is the episode's return, and mean and deviation are of the episodes remembered.

    Source: https://arxiv.org/abs/1910.07483, with the authors' defaults, and those of
    :class:`QMIX`. In their code that policy climbs raw returns times the score, on 512 episodes
    that older policies drew, in place of an entropy adds the score itself, whose mean is 0, and
    is not used in evaluation. Here it is TorchRL's ``ClipPPOLoss`` on the same episodes, which
    counts each by how likely its draw is now, with the entropy.

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

    def __init__(
        self,
        env: EnvBase,
        settings: MAVENSettings | None = None,
        *,
        device: torch.device | str | None = None,
    ):
        super().__init__(env, settings, device=device)
        self.latent_policy: ProbabilisticTensorDictSequential | None = None
        if self.settings.latent_policy == "hierarchical":
            self._add_latent_policy(env)

    def _add_latent_policy(self, env: EnvBase) -> None:
        settings = self.settings
        policy = make_latent_policy(env, num_latents=settings.num_latents, device=self.device)
        self.latent_policy = policy
        give_latent_policy(self.actor, policy)
        self.episodes = EpisodeReturns(
            settings.latent_episodes, keys=[*policy.in_keys, LATENT, LATENT_LOG_PROB]
        )
        self.latent_loss = ClipPPOLoss(
            policy,
            clip_epsilon=settings.latent_clip_epsilon,
            entropy_bonus=settings.latent_entropy_coeff > 0,
            entropy_coeff=settings.latent_entropy_coeff,
            critic_coeff=None,
        ).to(self.device)
        self.latent_loss.set_keys(action=LATENT, sample_log_prob=LATENT_LOG_PROB)
        self.modules |= {"latent_policy": self.latent_loss, "episodes": self.episodes}
        self.optimizers["latent_policy"] = make_optimizer(self.latent_loss, lr=settings.latent_lr)
        self.separate.add("latent_policy")

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

    @property
    def in_keys(self) -> list[NestedKey]:
        """What the loss of the values reads; the latent variable's policy reads rollouts."""
        return self.qvalue.in_keys

    def observe(self, rollout: TensorDictBase) -> None:
        """Remember the episodes that end, for the latent variable's policy.

        Args:
            rollout: ``[B, T]``, in order of time, that goes on where the last one ended.

        Raises:
            ValueError: if it is of other environments than the last one.
            KeyError: if it lacks a key.
        """
        if self.latent_policy is not None:
            self.episodes.observe(rollout)

    def update(self, batches: Mapping[str, TensorDictBase]) -> TensorDict:
        """One step of the values, and one of the latent variable's policy for each new episode.

        Args:
            batches: ``"batch"``, sequences ``[B, T]``.

        Returns:
            Detached scalars to log.

        Raises:
            TypeError: if batches have no names.
            ValueError: if one is missing or not known.
            KeyError: if a batch lacks a key.
        """
        logs = super().update(batches)
        return logs if self.latent_policy is None else logs.update(self._train_latent_policy())

    def _train_latent_policy(self) -> dict[str, torch.Tensor]:
        """A step for each episode that has ended since the last ones."""
        logs: dict[str, torch.Tensor] = {}
        # Those that are no longer remembered teach nothing.
        self.episodes.new = min(self.episodes.new, len(self.episodes.finished))
        while self.episodes.new:
            self.episodes.new -= 1
            batch = self._latent_batch()
            optimizer = self.optimizers["latent_policy"]
            optimizer.zero_grad(set_to_none=True)
            losses = self.latent_loss(batch)
            loss = losses["loss_objective"]
            if self.settings.latent_entropy_coeff:
                loss = loss + losses["loss_entropy"]
                logs["entropy_latent_policy"] = losses["entropy"]
            loss.backward()
            logs["grad_norm_latent_policy"] = self._clip_and_step(optimizer)
            logs["loss_latent_policy"] = loss.detach()
        return logs

    def _latent_batch(self) -> TensorDictBase:
        """Episodes with their advantages over the mean of those remembered."""
        returns = self.episodes.finished[EPISODE_RETURN]
        deviation = returns.std(correction=0).clamp_min(_LEAST_DEVIATION)
        batch = self.episodes.sample(self.settings.latent_batch_size).to(self.device)
        advantage = (batch[EPISODE_RETURN] - returns.mean()) / deviation
        return batch.set("advantage", advantage.unsqueeze(-1))

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
            lmbda=settings.lmbda,
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
