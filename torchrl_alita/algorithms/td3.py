"""TD3 for a single agent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.envs import EnvBase
from torchrl.objectives import TD3Loss, ValueEstimators

from torchrl_alita._checks import (
    check_at_least_one,
    check_non_negative,
    check_positive,
    check_share,
)
from torchrl_alita.algorithms._compiled import differentiate
from torchrl_alita.algorithms._learner import make_optimizer, soft_update
from torchrl_alita.algorithms._single import (
    SingleAgent,
    read_agents_layout,
    scalars,
)
from torchrl_alita.layout import ACTION, VALUE
from torchrl_alita.modules import make_actor, make_critic

__all__ = ["TD3"]


class TD3(SingleAgent):
    """Twin delayed deep deterministic policy gradient, with TorchRL's ``TD3Loss``.

    Source: https://arxiv.org/abs/1802.09477; the learner of Sec. 4.2 of
    https://arxiv.org/abs/2108.12581. Two critics, of which the lower one counts; noise on
    the target policy's actions; a policy and targets that move less often than the
    critics. The defaults are those of the paper and of stable-baselines3, with two
    hidden layers of 256.

    Args:
        env: an environment in the layout of this package, with one agent.
        num_cells: width of each hidden layer.
        layer_norm: normalize the pre-activations of the hidden layers.
        gamma: discount factor of a step.
        policy_noise: standard deviation of the noise on target actions, in units of the
            action.
        noise_clip: largest such noise.
        policy_delay: updates of the critics for each of the policy and the targets, at
            least 1.
        actor_lr: Adam's step of the policy.
        critic_lr: Adam's step of the critics.
        tau: share by which the targets move, in (0, 1].
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
        >>> logs = TD3(env).update(env.rollout(4).reshape(-1))
        >>> "loss_qvalue" in logs.keys(), "loss_actor" in logs.keys()
        (True, False)
    """

    def __init__(
        self,
        env: EnvBase,
        *,
        num_cells: Sequence[int] = (256, 256),
        layer_norm: bool = False,
        gamma: float = 0.99,
        policy_noise: float = 0.2,
        noise_clip: float = 0.5,
        policy_delay: int = 2,
        actor_lr: float = 1e-3,
        critic_lr: float = 1e-3,
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
        check_at_least_one(policy_delay=policy_delay)
        check_positive(actor_lr=actor_lr, critic_lr=critic_lr)
        networks = {"num_cells": num_cells, "layer_norm": layer_norm, "device": self.device}
        self.actor = make_actor(env, **networks)
        self.td3 = td3_loss(
            self.actor,
            make_critic(env, **networks),
            bounds=(self.action_spec.space.low, self.action_spec.space.high),
            gamma=gamma,
            policy_noise=policy_noise,
            noise_clip=noise_clip,
        ).to(self.device)
        self.target_updater = soft_update(self.td3, tau=tau)
        self.policy_delay = policy_delay
        self.modules = {"td3": self.td3}
        self.optimizers = {
            "actor": make_optimizer(self.td3.actor_network_params, lr=actor_lr),
            "qvalue": make_optimizer(self.td3.qvalue_network_params, lr=critic_lr),
        }
        self._gradient = self._compiled(self._losses, then=differentiate)
        self._critics_gradient = self._compiled(self._critics_losses, then=differentiate)

    def policy_params(self) -> list[tuple[TensorDictBase, TensorDictBase]]:
        """Parameters of the policy, with their targets."""
        return [(self.td3.actor_network_params, self.td3.target_actor_network_params)]

    def update(
        self,
        batch: TensorDictBase,
        conditional_batches: Sequence[TensorDictBase] = (),
        recent_batch: TensorDictBase | None = None,
    ) -> TensorDict:
        """One step of the critics, and with every ``policy_delay``-th of everything else.

        Args:
            batch: transitions ``[B]`` of the replay buffer.
            conditional_batches: not used.
            recent_batch: not used.

        Returns:
            Detached scalars to log; the policy's only when it moves.

        Raises:
            KeyError: if the batch lacks a key.
        """
        everything = (self.updates + 1) % self.policy_delay == 0
        self._zero_grad()
        logs = (self._gradient if everything else self._critics_gradient)(batch)
        # A batch that is refused is no update.
        self.updates += 1
        logs.update(self._followed(self.optimizers if everything else ["qvalue"]))
        if everything:
            self.target_updater.step()
        return logs

    def _losses(self, batch: TensorDictBase) -> TensorDictBase:
        return scalars(self.td3(self._transitions(batch)))

    def _critics_losses(self, batch: TensorDictBase) -> TensorDictBase:
        return critics_losses(self.td3, self._transitions(batch))


def td3_loss(
    actor: torch.nn.Module,
    critic: torch.nn.Module,
    *,
    bounds: tuple[torch.Tensor, torch.Tensor],
    gamma: float,
    policy_noise: float,
    noise_clip: float,
) -> TD3Loss:
    """TorchRL's TD3Loss with two critics, in the layout of this package."""
    check_share(gamma=gamma)
    check_non_negative(policy_noise=policy_noise, noise_clip=noise_clip)
    loss = TD3Loss(
        actor,
        critic,
        bounds=bounds,
        num_qvalue_nets=2,
        policy_noise=float(policy_noise),
        noise_clip=float(noise_clip),
        loss_function="l2",
    )
    read_agents_layout(loss, action=ACTION, state_action_value=VALUE)
    loss.make_value_estimator(ValueEstimators.TD0, gamma=float(gamma))
    return loss


def critics_losses(loss: TD3Loss, batch: TensorDictBase) -> TensorDict:
    """What a TD3Loss has for its critics alone."""
    loss_qvalue, logged = loss.value_loss(batch)
    return scalars(
        TensorDict(
            {
                "loss_qvalue": loss_qvalue,
                "pred_value": logged["pred_value"],
                "target_value": logged["target_value"],
            }
        )
    )
