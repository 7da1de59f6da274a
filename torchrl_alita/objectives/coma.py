"""Counterfactual multi-agent policy gradients (COMA)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import TensorDictModuleBase, dispatch
from torchrl.envs import ExplorationType
from torchrl.objectives import LossModule

from torchrl_alita import functional
from torchrl_alita._checks import check_same_shape
from torchrl_alita.layout import (
    ACTION,
    ACTION_MASK,
    ACTION_VALUE,
    ALIVE,
    DONE,
    REWARD,
    TERMINATED,
    next_key,
)
from torchrl_alita.objectives._batch import batch_mean
from torchrl_alita.objectives._loss import house_loss
from torchrl_alita.objectives._rollout import (
    Policy,
    check_rollout,
    choosing,
    next_action,
    next_policy,
    policy_gradient,
    policy_of,
    rollout_in_keys,
    rollout_keys,
    standardize,
    take_over,
    taken,
)
from torchrl_alita.objectives._run import run

__all__ = ["COMALoss"]


@house_loss
class COMALoss(LossModule):
    r"""Policy gradient of N agents, each against what its other actions would have brought.

    .. math::
        \nabla J = E \Big[ \sum_i \nabla \log \pi_i(a_i | o_i) \, A_i(s, a) \Big], \qquad
        A_i(s, a) = Q_i(s, a) - \sum_{a'} \pi_i(a' | o_i) \, Q_i(s, (a_{-i}, a'))

    Source: https://arxiv.org/abs/1705.08926. Critic i has one output for each action of
    agent i, given those of all others; that of the action taken is drawn to the TD(lambda)
    target of the target critics. Each agent has its own reward; in a team they are one. At
    the end of an episode that was cut off, or of the rollout, the next actions are the
    present policies'. Losses are means over the agents.

    PyMARL's learner steps once for each step of an episode, from the last to the first; here
    the loss is of all steps, and an algorithm may take several steps of the critics,
    :meth:`critic_losses`.

    Args:
        actor_network: policies over one-hot actions, as made by
            :func:`torchrl_alita.modules.make_recurrent_actor`.
        qvalue_network: values of each own action, as made by
            :func:`torchrl_alita.modules.make_counterfactual_critic`.
        gamma: discount factor of a step, in [0, 1]. Default: 0.99, PyMARL's.
        lmbda: how far the critics' targets look ahead, in [0, 1]. Default: 0.8, PyMARL's.
        entropy_coeff: weight of the policies' entropy, at least 0. Default: 0; PyMARL mixes
            uniform actions in.
        normalize_advantage: divide the advantages by their deviation over the batch, and
            subtract their mean, over the agents that had a choice. Default: False, PyMARL's.
        reduction: ``"none"`` (the shape of the batch), ``"mean"`` or ``"sum"``.

    Returns, from ``forward``, a TensorDict with ``loss_actor``, ``loss_qvalue`` and, detached,
    ``pred_value``, ``target_value`` and ``entropy``, the mean over agents.

    Raises:
        ValueError: if an argument is out of range, or the actor has no get_dist; when called,
            if the batch is empty, its entries do not fit each other, or there is no dimension
            of time.
        TypeError: if an argument is no number.
        KeyError: when called, if the batch lacks a key, or a network does not write one.

    Examples:
        >>> from torchrl.objectives import SoftUpdate
        >>> from torchrl_alita.envs import make_env
        >>> from torchrl_alita.modules import make_actor, make_counterfactual_critic
        >>> env = make_env("push_box", num_envs=5, n_agents=2, seed=0)
        >>> coma = COMALoss(make_actor(env), make_counterfactual_critic(env))
        >>> updater = SoftUpdate(coma, tau=0.01)
        >>> losses = coma(env.rollout(4))
        >>> (losses["loss_actor"] + losses["loss_qvalue"]).backward()
    """

    @dataclass
    class _AcceptedKeys:
        """Keys that can be set with ``set_keys``.

        Attributes:
            action (NestedKey): read, and written by the actor. Default:
                ``("agents", "action")``.
            action_mask (NestedKey): read where the actor reads it. Default:
                ``("agents", "action_mask")``.
            action_value (NestedKey): written by the critics. Default:
                ``("agents", "action_value")``.
            reward (NestedKey): read in "next". Default: ``("agents", "reward")``.
            terminated (NestedKey): read in "next", ``[*B, 1]`` or ``[*B, N, 1]``.
                Default: ``"terminated"``.
            done (NestedKey): read in "next". Default: ``"done"``.
            alive (NestedKey): read where the batch has it: the policies of the dead are not
                trained. Default: ``("agents", "alive")``.
        """

        action: NestedKey = ACTION
        action_mask: NestedKey = ACTION_MASK
        action_value: NestedKey = ACTION_VALUE
        reward: NestedKey = REWARD
        terminated: NestedKey = TERMINATED
        done: NestedKey = DONE
        alive: NestedKey = ALIVE

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys
    out_keys = ["loss_actor", "loss_qvalue", "pred_value", "target_value", "entropy"]
    _schedulable_buffers = frozenset({"gamma", "lmbda", "entropy_coeff"})

    actor_network: TensorDictModuleBase
    actor_network_params: TensorDictParams
    target_actor_network_params: TensorDictParams
    qvalue_network: TensorDictModuleBase
    qvalue_network_params: TensorDictParams
    target_qvalue_network_params: TensorDictParams

    def __init__(
        self,
        actor_network: TensorDictModuleBase,
        qvalue_network: TensorDictModuleBase,
        *,
        gamma: float = 0.99,
        lmbda: float = 0.8,
        entropy_coeff: float = 0.0,
        normalize_advantage: bool = False,
        reduction: Literal["none", "mean", "sum"] = "mean",
    ):
        super().__init__()
        critics = {"qvalue_network": qvalue_network}
        numbers = {"gamma": gamma, "lmbda": lmbda, "entropy_coeff": entropy_coeff}
        take_over(self, actor_network, critics, reduction=reduction, **numbers)
        self.normalize_advantage = normalize_advantage

    @property
    def in_keys(self) -> list[NestedKey]:
        return rollout_in_keys(self, self._read(), self._read())

    def _read(self) -> list[NestedKey]:
        return rollout_keys(self.actor_network, [self.qvalue_network], self.tensor_keys.action)

    def critic_losses(self, tensordict: TensorDictBase) -> TensorDictBase:
        """The critics' loss alone, for more steps of theirs than of the actors.

        Args:
            tensordict: rollout ``[*B, T]``, as for ``forward``.

        Returns:
            A TensorDict with ``loss_qvalue``, ``pred_value`` and ``target_value``.

        Raises:
            ValueError: as for ``forward``.
            KeyError: as for ``forward``.

        Examples:
            >>> from torchrl.objectives import SoftUpdate
            >>> from torchrl_alita.envs import make_env
            >>> from torchrl_alita.modules import make_actor, make_counterfactual_critic
            >>> env = make_env("push_box", num_envs=5, n_agents=2, seed=0)
            >>> coma = COMALoss(make_actor(env), make_counterfactual_critic(env))
            >>> updater = SoftUpdate(coma, tau=0.01)
            >>> coma.critic_losses(env.rollout(4))["loss_qvalue"].backward()
        """
        with torch.no_grad():
            batch = check_rollout(self, tensordict)
            policy = policy_of(self.actor_network, self.actor_network_params.data, batch)
        return self._critic(batch, policy)[0]

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        batch = check_rollout(self, tensordict)
        policy = policy_of(self.actor_network, self.actor_network_params, batch)
        losses, value = self._critic(batch, policy)
        advantage = functional.counterfactual_advantage(
            value.detach(),
            policy.distribution.probs.detach(),
            batch.get(self.tensor_keys.action),
        )
        if self.normalize_advantage:
            advantage = standardize(advantage, choosing(self, batch))
        return losses.update(policy_gradient(self, batch, policy.distribution, advantage))

    def _critic(self, batch: TensorDictBase, policy: Policy) -> tuple[TensorDictBase, torch.Tensor]:
        """The critics' loss with what is logged, and their values ``[*B, T, N, L]``."""
        keys = self.tensor_keys
        action = batch.get(keys.action)
        value = run(self.qvalue_network, self.qvalue_network_params, batch, keys.action_value)
        check_same_shape(batch, keys.action, value.shape)
        chosen = taken(value, action)
        target = self._target(batch, policy)
        error = (chosen - target).square().mean((-1, -2))
        losses = TensorDict(
            {
                "loss_qvalue": self._reduce_loss(error, tensordict=batch),
                "pred_value": batch_mean(self, batch, chosen.mean((-1, -2))),
                "target_value": batch_mean(self, batch, target.mean((-1, -2))),
            }
        )
        return losses, value

    @torch.no_grad()
    def _target(self, batch: TensorDictBase, policy: Policy) -> torch.Tensor:
        """TD(lambda) target of each agent's critic, ``[*B, T, N, 1]``."""
        keys = self.tensor_keys
        done = batch.get(next_key(keys.done))
        params = self.actor_network_params
        following, there = next_policy(self.actor_network, params, self._read(), batch, policy)
        drawn = self.deterministic_sampling_mode == ExplorationType.RANDOM
        own = there.sample() if drawn else there.deterministic_sample.detach()
        action = next_action(batch.get(keys.action), done, own)
        following.set(keys.action, action)
        params = self.target_qvalue_network_params
        value = run(self.qvalue_network, params, following, keys.action_value)
        reward = batch.get(next_key(keys.reward)).to(value.dtype)
        terminated = batch.get(next_key(keys.terminated))
        next_value = taken(value, action)
        return functional.lambda_return(
            reward, terminated, done, next_value, self.gamma, self.lmbda
        )
