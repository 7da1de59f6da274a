"""Soft actor-critic for a single agent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from tensordict import TensorDictBase
from torchrl.envs import EnvBase
from torchrl.objectives import SACLoss, ValueEstimators

from torchrl_alita._checks import check_positive, check_share
from torchrl_alita.algorithms._compiled import differentiate
from torchrl_alita.algorithms._learner import make_optimizer, soft_update
from torchrl_alita.algorithms._single import (
    SingleAgent,
    read_agents_layout,
    scalars,
)
from torchrl_alita.layout import STATE_VALUE, VALUE
from torchrl_alita.modules import make_critic, make_gaussian_actor

__all__ = ["SAC"]


class SAC(SingleAgent):
    """Soft actor-critic with a learned temperature, with TorchRL's ``SACLoss``.

    Source: https://arxiv.org/abs/1812.05905; a baseline of Figure 5 of
    https://arxiv.org/abs/2108.12581. The policy explores by itself, and its entropy is
    held at minus the number of action features. The defaults are those of the paper.

    Args:
        env: an environment in the layout of this package, with one agent.
        num_cells: width of each hidden layer.
        layer_norm: normalize the pre-activations of the hidden layers.
        gamma: discount factor of a step.
        lr: Adam's step of the policy, the critics and the temperature.
        tau: share by which the targets move at each update, in (0, 1].
        max_grad_norm: gradients of a network are scaled down to this norm. Default: none.
        compile: see :class:`torchrl_alita.MADDPG`.
        compile_mode: of ``torch.compile``.
        device: of the networks. Default: the environment's.

    Raises:
        ValueError: if an argument is out of range, or the environment has several agents
            or discrete actions.
        KeyError: if the environment has another layout.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=1, seed=0)
        >>> logs = SAC(env).update(env.rollout(4).reshape(-1))
        >>> sorted(key for key in logs.keys() if key.startswith("loss"))
        ['loss_actor', 'loss_alpha', 'loss_qvalue']
    """

    stochastic = True

    def __init__(
        self,
        env: EnvBase,
        *,
        num_cells: Sequence[int] = (256, 256),
        layer_norm: bool = False,
        gamma: float = 0.99,
        lr: float = 3e-4,
        tau: float = 0.005,
        max_grad_norm: float = math.inf,
        compile: bool = False,
        compile_mode: Literal["default", "reduce-overhead", "max-autotune"] = "default",
        device: torch.device | str | None = None,
    ):
        super().__init__(
            env,
            max_grad_norm=max_grad_norm,
            compile=compile,
            compile_mode=compile_mode,
            device=device,
        )
        check_share(gamma=gamma)
        check_positive(lr=lr)
        networks = {"num_cells": num_cells, "layer_norm": layer_norm, "device": self.device}
        self.actor = make_gaussian_actor(env, **networks)
        self.sac = SACLoss(
            self.actor,
            make_critic(env, **networks),
            num_qvalue_nets=2,
            loss_function="l2",
            target_entropy=-float(self.layout.action_size),
        ).to(self.device)
        read_agents_layout(self.sac, state_action_value=VALUE, value=STATE_VALUE)
        self.sac.make_value_estimator(ValueEstimators.TD0, gamma=float(gamma))
        self.target_updater = soft_update(self.sac, tau=tau)
        self.modules = {"sac": self.sac}
        self.optimizers = {
            "actor": make_optimizer(self.sac.actor_network_params, lr=lr),
            "qvalue": make_optimizer(self.sac.qvalue_network_params, lr=lr),
            "alpha": torch.optim.Adam([self.sac.log_alpha], lr=lr),
        }
        self._gradient = self._compiled(self._losses, then=differentiate)

    def _losses(self, batch: TensorDictBase) -> TensorDictBase:
        return scalars(self.sac(self._transitions(batch)))
