"""MADDPG, MATD3 and independent DDPG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, Literal

import torch
from tensordict import TensorDict, TensorDictBase
from torch import nn
from torchrl.envs import EnvBase, ExplorationType, set_exploration_type
from torchrl.objectives import LossModule, SoftUpdate

from torchrl_alita._checks import (
    check_at_least_one,
    check_choice,
    check_number,
    check_positive,
)
from torchrl_alita.algorithms._compiled import Compiled, differentiate
from torchrl_alita.data import ConditionalSampler
from torchrl_alita.envs.layout import ACTION, LOGITS, PARAM, layout_of
from torchrl_alita.modules import make_actor, make_critic
from torchrl_alita.objectives import MADDPGLoss

__all__ = ["DDPG", "MADDPG"]

COMPILE_MODES = ("default", "reduce-overhead", "max-autotune")


def adam(module: nn.Module, *, lr: float) -> torch.optim.Adam:
    """Adam, in one kernel for all parameters of a module."""
    return torch.optim.Adam(module.parameters(), lr=lr, fused=True)


class MADDPG:
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
        networks = {"num_cells": num_cells, "share_params": share_params, "device": self.device}
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
        # One for each conditional batch that update wants.
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

    def start_episode(self) -> None:
        """Called by the training loop when an episode starts."""

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

    def _compiled(self, function: Callable, **options: Any) -> Compiled:
        def in_precision(*batches: TensorDictBase) -> TensorDictBase:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed_precision):
                return function(*batches)

        return Compiled(in_precision, mode=self.compile_mode, **options)

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

    def _follow(self, optimizer: torch.optim.Optimizer, *, skip: bool = False) -> torch.Tensor:
        params = [param for group in optimizer.param_groups for param in group["params"]]
        norm = nn.utils.clip_grad_norm_(params, self.max_grad_norm)
        if not skip:
            optimizer.step()
        return norm

    @torch.no_grad()
    def health(self, batch: TensorDictBase) -> dict[str, torch.Tensor]:
        """Signs of trouble that no loss shows, as scalars.

        Args:
            batch: fresh transitions.

        Returns:
            ``saturated_share``: share of the greedy policies' action entries within
            1 % of the end of their range; for one-hot actions, share of the policies'
            probabilities above 0.99.

        Raises:
            KeyError: if the batch lacks what the actors read.
        """
        with set_exploration_type(ExplorationType.DETERMINISTIC):
            policy = self.actor(batch.select(*self.actor.in_keys))
        if self.layout.discrete:
            certain = policy.get(LOGITS).softmax(-1).amax(-1) > 0.99
            return {"saturated_share": certain.float().mean()}
        action = policy.get(ACTION)
        low, high = self.action_spec.space.low, self.action_spec.space.high
        margin = 0.01 * (high - low) / 2
        saturated = (action < low + margin) | (action > high - margin)
        return {"saturated_share": saturated.float().mean()}

    def state_dict(self) -> dict[str, Any]:
        """Everything that training has changed."""
        return {
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "optimizers": {name: opt.state_dict() for name, opt in self.optimizers.items()},
            "updates": self.updates,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state.

        Raises:
            KeyError: if the state is of another algorithm; the parts are named.
        """
        for part, own in (("modules", self.modules), ("optimizers", self.optimizers)):
            if set(own) != set(state_dict[part]):
                raise KeyError(
                    f"The state has the {part} {sorted(state_dict[part])}, not {sorted(own)}."
                )
            for name, member in own.items():
                # An optimizer keeps the tensors it is given: it must not share them.
                member.load_state_dict(deepcopy(state_dict[part][name]))
        self.updates = state_dict["updates"]


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
