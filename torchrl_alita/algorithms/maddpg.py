"""MADDPG, MATD3 and independent DDPG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from tensordict import TensorDictBase
from torchrl.envs import EnvBase, ExplorationType

from torchrl_alita._checks import check_at_least_one, check_choice, check_positive
from torchrl_alita.algorithms._compiled import differentiate
from torchrl_alita.algorithms._learner import OPTIMIZERS, Learner, make_optimizer, soft_update
from torchrl_alita.layout import LOGITS, PARAM, layout_of
from torchrl_alita.modules import make_actor, make_critic, make_recurrent_actor
from torchrl_alita.objectives import MADDPGLoss

__all__ = ["DDPG", "MADDPG"]


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
        recurrent: policies with a memory, see
            :func:`torchrl_alita.modules.make_recurrent_actor`: updates take sequences
            ``[B, T]``, and environments need the transforms of ``env_transforms()``.
        hidden_size: of recurrent policies. Default: 64, Appendix D.3.
        critic_input: see :func:`torchrl_alita.modules.make_critic`.
        num_critics: of each agent.
        gamma: discount factor of a step. Default: 0.95, Appendix D.1.
        others_actions: see :class:`torchrl_alita.objectives.MADDPGLoss`.
        own_actions: see :class:`torchrl_alita.objectives.MADDPGLoss`.
        logits_coeff: see :class:`torchrl_alita.objectives.MADDPGLoss`.
        policy_noise: see :class:`torchrl_alita.objectives.MADDPGLoss`; for continuous
            actions.
        policy_delay: critics' updates for each of the actors', at least 1.
        optimizer: of actors and critics: ``"adam"``, or ``"rmsprop"`` with a decay of 0.99,
            Appendix D.3.
        actor_lr: the optimizer's step of the actors. Default: 3e-4; the paper gives 5e-4
            for StarCraft, Appendix D.3, and none elsewhere.
        critic_lr: the optimizer's step of the critics. Default: 3e-3.
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
        recurrent: bool = False,
        hidden_size: int = 64,
        critic_input: Literal["observations", "state"] = "observations",
        num_critics: int = 1,
        gamma: float = 0.95,
        others_actions: Literal["buffer", "policy"] = "buffer",
        own_actions: Literal["policy", "all"] = "policy",
        logits_coeff: float = 0.0,
        policy_noise: float = 0.0,
        policy_delay: int = 1,
        optimizer: Literal["adam", "rmsprop"] = "adam",
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
        check_positive(actor_lr=actor_lr, critic_lr=critic_lr)
        check_choice("optimizer", optimizer, OPTIMIZERS)
        if policy_noise and layout_of(env).discrete:
            raise ValueError(f"policy_noise must be 0 for one-hot actions, got {policy_noise}.")
        super().__init__(
            env,
            max_grad_norm=max_grad_norm,
            compile=compile,
            compile_mode=compile_mode,
            mixed_precision=mixed_precision,
            device=device,
        )
        networks = {"share_params": share_params, "device": self.device}
        layers = {"num_cells": num_cells, "layer_norm": layer_norm}
        if recurrent:
            self.actor = make_recurrent_actor(env, hidden_size=hidden_size, **networks)
        else:
            self.actor = make_actor(env, **layers, **networks)
        critic = make_critic(
            env,
            num_critics=num_critics,
            scope=scope,
            critic_input=critic_input,
            **layers,
            **networks,
        )
        self.maddpg = MADDPGLoss(
            self.actor,
            critic,
            gamma=gamma,
            others_actions=others_actions,
            own_actions=own_actions,
            logits_coeff=logits_coeff,
            policy_noise=policy_noise,
        ).to(self.device)
        self.maddpg.set_keys(logits=LOGITS if self.layout.discrete else PARAM)
        if self.layout.discrete:
            # One-hot actions are drawn, Gumbel noise and all.
            self.maddpg.deterministic_sampling_mode = ExplorationType.RANDOM
        self.target_updater = soft_update(self.maddpg, tau=tau)
        self.policy_delay = policy_delay
        self.modules["maddpg"] = self.maddpg
        for name, params, lr in (
            ("actor", self.maddpg.actor_network_params, actor_lr),
            ("qvalue", self.maddpg.qvalue_network_params, critic_lr),
        ):
            self.optimizers[name] = make_optimizer(params, kind=optimizer, lr=lr)
        self._gradient = self._compiled(self._losses, then=differentiate)

    def policy_params(self) -> list[tuple[TensorDictBase, TensorDictBase]]:
        """Parameters of the policies, each with their targets."""
        loss = self.maddpg
        return [(loss.actor_network_params, loss.target_actor_network_params)]

    def _losses(self, batch: TensorDictBase) -> TensorDictBase:
        return self.maddpg(batch)  # Eq. 1, 2

    def _skipped(self) -> set[str]:
        return {"actor"} if (self.updates + 1) % self.policy_delay else set()


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
