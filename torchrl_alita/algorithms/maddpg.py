"""MADDPG, MATD3 and independent DDPG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from tensordict import TensorDict, TensorDictBase
from torch import nn
from torchrl.envs import EnvBase, ExplorationType
from torchrl.objectives import LossModule, SoftUpdate

from torchrl_alita._checks import (
    check_at_least_one,
    check_choice,
    check_number,
    check_positive,
)
from torchrl_alita.algorithms._compiled import differentiate
from torchrl_alita.algorithms._learner import Learner, adam
from torchrl_alita.data import ConditionalSampler
from torchrl_alita.envs.layout import ACTION, LOGITS, PARAM, layout_of
from torchrl_alita.modules import make_actor, make_critic
from torchrl_alita.objectives import MADDPGLoss

__all__ = ["DDPG", "MADDPG"]

COMPILE_MODES = ("default", "reduce-overhead", "max-autotune")


class MADDPG(Learner):
    """Multi-agent deep deterministic policy gradient.

    Source: Sec. 2.2 of https://arxiv.org/abs/2108.12581, after
    https://arxiv.org/abs/1706.02275. With ``num_critics=2``, ``policy_noise=0.2`` and
    ``policy_delay=2`` it is MATD3 (https://arxiv.org/abs/1910.01465).

    Args:
        env: an environment in the layout of this package.
        scope: bool ``[N, N]``, whose observation and action critic i (row) sees.
            Default: all True.
        num_cells: width of each hidden layer. Default: (128, 128), the paper's.
        share_params: one policy and one critic for all agents.
        layer_norm: normalize the pre-activations of the hidden layers. Default: True, the
            paper's.
        num_critics: of each agent.
        gamma: discount factor of a step. Default: 0.95, Appendix D.1.
        others_actions: see :class:`torchrl_alita.objectives.MADDPGLoss`.
        own_actions: see :class:`torchrl_alita.objectives.MADDPGLoss`.
        logits_coeff: see :class:`torchrl_alita.objectives.MADDPGLoss`.
        policy_noise: see :class:`torchrl_alita.objectives.MADDPGLoss`; for continuous
            actions.
        policy_delay: critics' updates for each of the actors', at least 1.
        actor_lr: Adam's step of the actors. The paper gives none.
        critic_lr: Adam's step of the critics. The paper gives none.
        tau: share by which the targets move at each update, in (0, 1].
        max_grad_norm: gradients of a network are scaled down to this norm. Default:
            0.5, Appendix D.1.
        compile: compile the losses and their gradient with ``torch.compile``: the first
            update takes some ten seconds, the others less than without. Both agree up to
            rounding, random draws included. Where it fails, one warning says so and the
            updates go on without it.
        compile_mode: of ``torch.compile``; ``"reduce-overhead"`` uses CUDA graphs.
        mixed_precision: compute the hidden layers in bfloat16. Parameters, optimizers,
            output layers and statistics stay as they are.
        device: of the networks. Default: the environment's.

    Raises:
        ValueError: if an argument is out of range.
        KeyError: if the environment has another layout.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=3, seed=0)
        >>> algorithm = MADDPG(env)
        >>> logs = algorithm.update(env.rollout(4).reshape(-1))
        >>> sorted(logs.keys())[:3]
        ['grad_norm_actor', 'grad_norm_qvalue', 'loss_actor']
    """

    def __init__(
        self,
        env: EnvBase,
        *,
        scope: torch.Tensor | None = None,
        num_cells: Sequence[int] = (128, 128),
        share_params: bool = False,
        layer_norm: bool = True,
        num_critics: int = 1,
        gamma: float = 0.95,
        others_actions: Literal["buffer", "policy"] = "buffer",
        own_actions: Literal["policy", "all"] = "policy",
        logits_coeff: float = 0.0,
        policy_noise: float = 0.0,
        policy_delay: int = 1,
        actor_lr: float = 3e-4,
        critic_lr: float = 3e-3,
        tau: float = 0.05,
        max_grad_norm: float = 0.5,
        compile: bool = False,
        compile_mode: Literal["default", "reduce-overhead", "max-autotune"] = "default",
        mixed_precision: bool = False,
        device: torch.device | str | None = None,
    ):
        check_at_least_one(policy_delay=policy_delay)
        check_positive(actor_lr=actor_lr, critic_lr=critic_lr, tau=tau)
        check_number(max_grad_norm=max_grad_norm)
        check_choice("compile_mode", compile_mode, COMPILE_MODES)
        if policy_noise and layout_of(env).discrete:
            raise ValueError(f"policy_noise must be 0 for one-hot actions, got {policy_noise}.")
        if tau > 1 or not max_grad_norm > 0:
            raise ValueError(
                f"tau must be in (0, 1] and max_grad_norm positive, got {tau}, {max_grad_norm}."
            )
        self.layout = layout_of(env)
        self.device = torch.device(device or env.device or "cpu")
        networks = {
            "num_cells": num_cells,
            "share_params": share_params,
            "layer_norm": layer_norm,
            "device": self.device,
        }
        self.action_spec = env.full_action_spec_unbatched[ACTION].to(self.device)
        self.actor = make_actor(env, **networks)
        self.maddpg = MADDPGLoss(
            self.actor,
            make_critic(env, num_critics=num_critics, scope=scope, **networks),
            gamma=gamma,
            others_actions=others_actions,
            own_actions=own_actions,
            logits_coeff=logits_coeff,
            policy_noise=policy_noise,
            action_bounds=self._action_bounds(),
        ).to(self.device)
        self.maddpg.set_keys(logits=LOGITS if self.layout.discrete else PARAM)
        self._draw_actions(self.maddpg)
        self.target_updater = SoftUpdate(self.maddpg, tau=tau)
        self.policy_delay = policy_delay
        self.max_grad_norm = max_grad_norm
        self.updates = 0
        self.conditional_samplers: list[ConditionalSampler] = []
        self.modules: dict[str, nn.Module] = {"maddpg": self.maddpg}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "actor": adam(self.maddpg.actor_network_params, lr=actor_lr),
            "qvalue": adam(self.maddpg.qvalue_network_params, lr=critic_lr),
        }
        self.mixed_precision = mixed_precision
        self.compile_mode = compile_mode if compile else None
        self._gradient = self._compiled(self._losses, then=differentiate)

    def _action_bounds(self) -> tuple[float, float]:
        if self.layout.discrete:
            return 0.0, 1.0
        space = self.action_spec.space
        return space.low.min().item(), space.high.max().item()

    def _draw_actions(self, loss: LossModule) -> None:
        """Let a loss draw one-hot actions of the policies, Gumbel noise and all."""
        if self.layout.discrete:
            loss.deterministic_sampling_mode = ExplorationType.RANDOM

    def update(
        self,
        batch: TensorDictBase,
        conditional_batches: Sequence[TensorDictBase] = (),
        recent_batch: TensorDictBase | None = None,
    ) -> TensorDict:
        """One step of every network.

        Args:
            batch: transitions ``[B]`` of the replay buffer.
            conditional_batches: not used.
            recent_batch: not used.

        Returns:
            Detached scalars to log.

        Raises:
            KeyError: if the batch lacks a key.
        """
        return self._step(batch)

    def _losses(self, batch: TensorDictBase) -> TensorDictBase:
        """Every ``loss_*`` of one step, and what is logged with them."""
        return self.maddpg(batch)  # Eq. 1, 2

    def _step(self, *batches: TensorDictBase) -> TensorDict:
        """Follow the gradient of the sum of the losses; losses and gradients' norms."""
        skipped = {"actor"} if (self.updates + 1) % self.policy_delay else set()
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        logs = self._gradient(*batches)
        # A batch that is refused is no update.
        self.updates += 1
        norms = {
            f"grad_norm_{name}": self._follow(optimizer, skip=name in skipped)
            for name, optimizer in self.optimizers.items()
            if not name.startswith("estimator")
        }
        self.target_updater.step()
        return logs.update(norms)


class DDPG(MADDPG):
    """Independent DDPG: MADDPG whose critics see their own agent alone.

    Args:
        env: an environment in the layout of this package.
        **options: those of :class:`MADDPG`, but ``scope``.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=3, seed=0)
        >>> bool(DDPG(env).maddpg.qvalue_network.module.scope[0, 1])
        False
    """

    def __init__(self, env: EnvBase, **options):
        num_agents = layout_of(env).num_agents
        super().__init__(env, scope=torch.eye(num_agents, dtype=torch.bool), **options)
