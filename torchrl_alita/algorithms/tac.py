"""Tsallis actor-critic for a single agent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from tensordict import TensorDictBase
from torchrl.envs import EnvBase

from torchrl_alita._checks import check_positive
from torchrl_alita.algorithms._compiled import differentiate
from torchrl_alita.algorithms._learner import make_optimizer, soft_update
from torchrl_alita.algorithms._single import SingleAgent
from torchrl_alita.modules import make_critic, make_gaussian_actor, make_value
from torchrl_alita.objectives import TsallisLoss

__all__ = ["TAC"]


class TAC(SingleAgent):
    """Tsallis actor-critic.

    Source: https://arxiv.org/abs/1902.05551; a baseline of Figure 5 of
    https://arxiv.org/abs/2108.12581. The policy explores by itself. The defaults are those
    of the authors' code.

    Args:
        env: an environment in the layout of this package, with one agent.
        num_cells: width of each hidden layer.
        layer_norm: normalize the pre-activations of the hidden layers.
        gamma: discount factor of a step.
        entropic_index: see :class:`torchrl_alita.TsallisLoss`.
        entropy_coeff: see :class:`torchrl_alita.TsallisLoss`.
        reward_scale: see :class:`torchrl_alita.TsallisLoss`.
        param_coeff: see :class:`torchrl_alita.TsallisLoss`.
        num_action_samples: see :class:`torchrl_alita.TsallisLoss`.
        lr: Adam's step of all networks.
        tau: share by which the value's target moves at each update, in (0, 1].
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
        >>> logs = TAC(env).update(env.rollout(4).reshape(-1))
        >>> sorted(key for key in logs.keys() if key.startswith("loss"))
        ['loss_actor', 'loss_qvalue', 'loss_value']
    """

    stochastic = True

    def __init__(
        self,
        env: EnvBase,
        *,
        num_cells: Sequence[int] = (128, 128),
        layer_norm: bool = False,
        gamma: float = 0.99,
        entropic_index: float = 2.0,
        entropy_coeff: float = 0.8,
        reward_scale: float = 3.0,
        param_coeff: float = 1e-3,
        num_action_samples: int = 4,
        lr: float = 3e-4,
        tau: float = 0.01,
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
        check_positive(lr=lr)
        networks = {"num_cells": num_cells, "layer_norm": layer_norm, "device": self.device}
        self.actor = make_gaussian_actor(env, **networks)
        self.tsallis = TsallisLoss(
            self.actor,
            make_critic(env, num_critics=2, **networks),
            make_value(env, **networks),
            gamma=gamma,
            entropic_index=entropic_index,
            entropy_coeff=entropy_coeff,
            reward_scale=reward_scale,
            param_coeff=param_coeff,
            num_action_samples=num_action_samples,
        ).to(self.device)
        self.target_updater = soft_update(self.tsallis, tau=tau)
        self.modules = {"tsallis": self.tsallis}
        self.optimizers = {
            "actor": make_optimizer(self.tsallis.actor_network_params, lr=lr),
            "qvalue": make_optimizer(self.tsallis.qvalue_network_params, lr=lr),
            "value": make_optimizer(self.tsallis.value_network_params, lr=lr),
        }
        self._gradient = self._compiled(self._losses, then=differentiate)

    def _losses(self, batch: TensorDictBase) -> TensorDictBase:
        return self.tsallis(self._transitions(batch))
