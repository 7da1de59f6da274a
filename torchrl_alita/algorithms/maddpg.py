"""MADDPG, MATD3 and independent DDPG."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictModuleBase
from torchrl.envs import EnvBase, ExplorationType

from torchrl_alita._checks import check_at_least_one, check_non_negative, check_positive, check_tau
from torchrl_alita.algorithms._goals import GoalSettings
from torchrl_alita.algorithms._learner import Learner, TeamSettings, make_optimizer, soft_update
from torchrl_alita.algorithms._n_steps import LambdaSettings, NStepSettings, check_runs
from torchrl_alita.data import Replay, n_step_transitions
from torchrl_alita.layout import DONE, LOGITS, PARAM, next_key, terminated_key_of
from torchrl_alita.modules import (
    make_actor,
    make_attention_critic,
    make_critic,
    make_factored_critic,
    make_recurrent_actor,
)
from torchrl_alita.objectives import MADDPGLoss

__all__ = ["DDPG", "MADDPG", "DDPGSettings", "MADDPGSettings"]


@dataclass(frozen=True, kw_only=True)
class MADDPGSettings(GoalSettings, NStepSettings, LambdaSettings, TeamSettings):
    """Settings of :class:`MADDPG`.

    Raises:
        TypeError: for a value of another type; the field is named.
        ValueError: for a value out of its range.

    Examples:
        >>> MADDPGSettings(num_critics=2, policy_noise=0.2, policy_delay=2).gamma
        0.95
    """

    gamma = 0.95
    max_grad_norm = 0.5
    scope: Literal["all", "own"] = "all"
    """Whose observations and actions a critic sees: those of all agents, or its own agent's."""
    layer_norm: bool = True
    """Normalize the pre-activations of the hidden layers (the paper: yes)."""
    critic_input: Literal["observations", "state"] = "observations"
    """What the critics read beside the actions."""
    num_critics: int = 1
    """Critics of an agent: 1, or 2, of which the lower counts, for MATD3."""
    critic_attention: bool = False
    """Critics that attend to the agents, with shared parameters, in the place of perceptrons of
    all that they see, see ``make_attention_critic``; of the first of num_cells in width."""
    critic_factored: bool = False
    """One critic of the team's value, a weighted sum of the values of each agent's own action,
    see ``make_factored_critic``."""
    others_actions: Literal["buffer", "policy"] = "buffer"
    """What a critic sees of the other agents while its own climbs."""
    own_actions: Literal["policy", "all"] = "policy"
    """One-hot actions: climb with the action drawn, or with the mean over all of them."""
    logits_coeff: float = 0.0
    """Weight of the mean squared logits of the actors, against saturation (MADDPG's code:
    0.001)."""
    policy_noise: float = 0.0
    """Standard deviation of the noise on target actions, in units of the action (MATD3: 0.2);
    for continuous actions."""
    policy_delay: int = 1
    """Updates of the critics for each of the actors and the targets (MATD3: 2)."""
    actor_lr: float = 3e-4
    """The optimizer's learning rate of the actors (the paper for StarCraft: 5e-4; elsewhere none)."""
    tau: float = 0.05
    """Share by which the targets move at each of their updates, in (0, 1]."""

    def __post_init__(self):
        super().__post_init__()
        check_at_least_one(num_critics=self.num_critics, policy_delay=self.policy_delay)
        check_non_negative(logits_coeff=self.logits_coeff, policy_noise=self.policy_noise)
        check_positive(actor_lr=self.actor_lr)
        check_tau(self.tau)
        whole = (self.scope, self.num_critics, self.critic_attention) == ("all", 1, False)
        if self.critic_factored and not whole:
            raise ValueError(
                "critic_factored is of one critic for the team: scope must be 'all', num_critics 1 "
                f"and critic_attention False, got {self.scope!r}, {self.num_critics} and "
                f"{self.critic_attention}."
            )
        plain = (self.scope, self.critic_input, self.num_critics) == ("all", "observations", 1)
        if self.critic_attention and not (plain and self.num_cells):
            raise ValueError(
                "critic_attention is of one critic for each agent, of all observations: scope must "
                "be 'all', critic_input 'observations', num_critics 1 and num_cells not empty, got "
                f"{self.scope!r}, {self.critic_input!r}, {self.num_critics} and {self.num_cells}."
            )


# What the paper says of every algorithm; what it leaves open is as by default. The paper for
# StarCraft, Appendix D.3, has recurrent networks and RMSprop.
PAPER: dict[str, Any] = {
    "gamma": 0.95,  # Appendix D.1
    "max_grad_norm": 0.5,  # Appendix D.1
    "buffer_size": 1_000_000,  # Appendix D.1
    "batch_size": 1_024,  # Appendix D.1
    "frames_per_update": 100,  # Appendix D.1
    "num_cells": (128, 128),  # Appendix D.2
    "layer_norm": True,  # Appendix D.2
}
# What makes MADDPG good at cooperative navigation.
SPREAD: dict[str, Any] = {
    "goal_attention": True,
    "num_cells": (64, 64),
    "batch_size": 128,
    "frames_per_update": 25,
    "logits_coeff": 0.1,
    "lr_decay_frames": 200_000,
    "noise_end": 0.05,
    "noise_frames": 150_000,
}


class MADDPG(Learner):
    """Multi-agent deep deterministic policy gradient.

    Source: Sec. 2.2 of https://arxiv.org/abs/2108.12581, after
    https://arxiv.org/abs/1706.02275. With ``num_critics=2``, ``policy_noise=0.2`` and
    ``policy_delay=2`` it is MATD3 (https://arxiv.org/abs/1910.01465).

    Args:
        env: an environment in the layout of this package.
        settings: Default: :class:`MADDPGSettings` as they are.
        device: of the networks. Default: the environment's.

    Raises:
        TypeError: if the settings are of another algorithm.
        ValueError: if a setting does not fit the environment.
        KeyError: if the environment has another layout.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=3, seed=0)
        >>> algorithm = MADDPG(env, MADDPGSettings(gamma=0.9))
        >>> logs = algorithm.update({"batch": env.rollout(4).reshape(-1)})
        >>> sorted(logs.keys())[:3]
        ['grad_norm_actor', 'grad_norm_qvalue', 'loss_actor']
    """

    Settings: ClassVar[type[MADDPGSettings]] = MADDPGSettings
    settings: MADDPGSettings
    presets: ClassVar[Mapping[str, MADDPGSettings]] = {
        "paper": MADDPGSettings(**PAPER, optimizer="adam"),  # Appendix D.2
        # Cooperative navigation with 100 environments and 200,000 frames, docs/navigation.md.
        "spread": MADDPGSettings(**SPREAD),
    }

    def __init__(
        self,
        env: EnvBase,
        settings: MADDPGSettings | None = None,
        *,
        device: torch.device | str | None = None,
    ):
        super().__init__(env, settings, device=device)
        settings = self.settings
        if settings.policy_noise and self.layout.discrete:
            raise ValueError(
                f"policy_noise must be 0 for one-hot actions, got {settings.policy_noise}."
            )
        self.actor = self.make_policy(env, settings, device=self.device)
        self.maddpg = MADDPGLoss(
            self.actor,
            self._make_critic(env),
            gamma=settings.gamma,
            lmbda=settings.lmbda,
            others_actions=settings.others_actions,
            own_actions=settings.own_actions,
            logits_coeff=settings.logits_coeff,
            policy_noise=settings.policy_noise,
        ).to(self.device)
        self.maddpg.set_keys(
            logits=LOGITS if self.layout.discrete else PARAM,
            terminated=terminated_key_of(env),
        )
        if self.layout.discrete:
            # One-hot actions are drawn, Gumbel noise and all.
            self.maddpg.deterministic_sampling_mode = ExplorationType.RANDOM
        self.target_updater = soft_update(self.maddpg, tau=settings.tau)
        self.policy_delay = settings.policy_delay
        self.delayed = {"actor"}
        self.modules["maddpg"] = self.maddpg
        for name, params, lr in (
            ("actor", self.maddpg.actor_network_params, settings.actor_lr),
            ("qvalue", self.maddpg.qvalue_network_params, settings.critic_lr),
        ):
            self.optimizers[name] = make_optimizer(params, kind=settings.optimizer, lr=lr)
        self._compile_losses()

    def _make_critic(self, env: EnvBase) -> TensorDictModule:
        settings = self.settings
        if settings.critic_attention:
            width = settings.num_cells[0]
            return make_attention_critic(env, hidden_size=width, device=self.device)
        networks: dict[str, Any] = {
            "critic_input": settings.critic_input,
            "num_cells": settings.num_cells,
            "layer_norm": settings.layer_norm,
            "share_params": settings.share_params,
            "device": self.device,
        }
        if settings.critic_factored:
            return make_factored_critic(env, **networks)
        scope = None if settings.scope == "all" else _own(self.layout.num_agents)
        return make_critic(env, num_critics=settings.num_critics, scope=scope, **networks)

    @classmethod
    def make_policy(
        cls,
        env: EnvBase,
        settings: MADDPGSettings,
        *,
        device: torch.device | str | None = None,
    ) -> TensorDictModuleBase:
        """All policies in one module, not trained, see :meth:`Learner.make_policy`."""
        networks: dict[str, Any] = {"share_params": settings.share_params, "device": device}
        if settings.recurrent:
            return make_recurrent_actor(env, hidden_size=settings.hidden_size, **networks)
        return make_actor(
            env,
            num_cells=settings.num_cells,
            layer_norm=settings.layer_norm,
            goal_attention=settings.goal_attention,
            own_features=settings.own_features,
            **networks,
        )

    def policy_params(self) -> list[tuple[TensorDictBase, TensorDictBase]]:
        """Parameters of the policies, each with their targets."""
        loss = self.maddpg
        return [(loss.actor_network_params, loss.target_actor_network_params)]

    def replays(self) -> dict[str, Replay]:
        """What an update reads, by name.

        Returns:
            ``"batch"``, transitions ``[B]``, or runs ``[B, n_steps]`` of so many steps.
        """
        return {"batch": Replay(steps=self.settings.n_steps)}

    def _losses(self, batch: TensorDictBase) -> TensorDictBase:
        return self.maddpg(self._for_critics(batch))  # Eq. 1, 2

    def _critic_losses(self, batch: TensorDictBase) -> TensorDictBase:
        return self.maddpg.critic_losses(self._for_critics(batch))  # Eq. 1

    def _for_critics(self, batch: TensorDictBase) -> TensorDictBase:
        """A batch as the critics' loss reads it: of runs, the transitions of n steps."""
        steps, loss = self.settings.n_steps, self.maddpg
        if steps == 1:
            return batch
        check_runs(batch, steps)
        keys = loss.tensor_keys
        return n_step_transitions(
            batch.select(*loss.in_keys, next_key(DONE)),
            gamma=loss.gamma,
            reward=keys.reward,
            terminated=keys.terminated,
        )

    def _first(self, batch: TensorDictBase) -> TensorDictBase:
        """Transitions of one step ``[B]``: of runs, their first ones."""
        return batch if self.settings.n_steps == 1 else batch[..., 0]


def _own(num_agents: int) -> torch.Tensor:
    return torch.eye(num_agents, dtype=torch.bool)


@dataclass(frozen=True, kw_only=True)
class DDPGSettings(MADDPGSettings):
    """Settings of :class:`DDPG`: those of MADDPG, and critics that see their own agent alone."""

    scope = "own"


class DDPG(MADDPG):
    """Independent DDPG: MADDPG whose critics see their own agent alone.

    Source: https://arxiv.org/abs/1509.02971, of each agent for itself.

    Args:
        env: an environment in the layout of this package.
        settings: Default: :class:`DDPGSettings` as they are.
        device: of the networks. Default: the environment's.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=3, seed=0)
        >>> bool(DDPG(env).maddpg.qvalue_network.module.scope[0, 1])
        False
    """

    Settings: ClassVar[type[DDPGSettings]] = DDPGSettings
    presets: ClassVar[Mapping[str, DDPGSettings]] = {
        "paper": DDPGSettings(**PAPER, optimizer="adam"),  # Appendix D.2
        "spread": DDPGSettings(**SPREAD),
    }
