"""Learning implicit credit assignment (LICA)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import TensorDictModuleBase, dispatch
from torchrl.objectives import LossModule

from torchrl_alita import functional
from torchrl_alita._checks import check_same_shape
from torchrl_alita.layout import ACTION, ALIVE, DONE, REWARD, TERMINATED, next_key
from torchrl_alita.objectives._batch import batch_mean
from torchrl_alita.objectives._loss import house_loss
from torchrl_alita.objectives._rollout import (
    Policy,
    check_rollout,
    next_action,
    next_policy,
    policy_of,
    rollout_in_keys,
    rollout_keys,
    take_over,
)
from torchrl_alita.objectives._run import run

__all__ = ["LICALoss"]


@house_loss
class LICALoss(LossModule):
    r"""Policies that climb a value of their joint probabilities, end to end.

    .. math::
        L(\pi) = -E \, Q(s, \pi_1(\cdot | o_1), .., \pi_N(\cdot | o_N))
            - \frac{c}{\bar H} \, H(\pi), \qquad
        L(Q) = E \, (Q(s, a) - G^\lambda)^2

    Source: https://arxiv.org/abs/2007.02529. The critic learns the value of actions taken,
    one-hot, and is read at probabilities; its gradient there tells each policy what it is
    worth to the team. :math:`\bar H` is the mean entropy of the batch without gradient: the
    pull to more entropy has the constant size c, however much there is (the adaptive entropy
    of the paper). r is the mean over the agents' rewards, which are one in a team.

    The target is TD(lambda) of the target critic, which reads the action taken at the next
    step, and where an episode was cut off, or the rollout ends, the policies' probabilities.

    Args:
        actor_network: policies over one-hot actions, as made by
            :func:`torchrl_alita.modules.make_recurrent_actor`.
        qvalue_network: the team's value ``[*B, 1]``, as made by
            :func:`torchrl_alita.modules.make_mixing_critic`.
        gamma: discount factor of a step, in [0, 1]. Default: 0.99, the authors'.
        lmbda: how far the critic's target looks ahead, in [0, 1]. Default: 0.8, the
            authors'.
        entropy_coeff: c, at least 0. Default: 0.06, the authors' of most battles; 0.03 is
            theirs of 3s5z_vs_3s6z.
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
        >>> from torchrl_alita.modules import make_actor, make_mixing_critic
        >>> env = make_env("push_box", num_envs=5, n_agents=2, seed=0)
        >>> lica = LICALoss(make_actor(env), make_mixing_critic(env))
        >>> updater = SoftUpdate(lica, tau=0.01)
        >>> losses = lica(env.rollout(4))
        >>> (losses["loss_actor"] + losses["loss_qvalue"]).backward()
    """

    @dataclass
    class _AcceptedKeys:
        """Keys that can be set with ``set_keys``.

        Attributes:
            action (NestedKey): read, and written by the actor. Default:
                ``("agents", "action")``.
            state_action_value (NestedKey): written by the critic. Default:
                ``"state_action_value"``.
            reward (NestedKey): read in "next". Default: ``("agents", "reward")``.
            terminated (NestedKey): read in "next". Default: ``"terminated"``.
            done (NestedKey): read in "next". Default: ``"done"``.
            alive (NestedKey): read where the batch has it: the policies of the dead are not
                trained, and have no entropy. Default: ``("agents", "alive")``.
        """

        action: NestedKey = ACTION
        state_action_value: NestedKey = "state_action_value"
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
        entropy_coeff: float = 0.06,
        reduction: Literal["none", "mean", "sum"] = "mean",
    ):
        super().__init__()
        critics = {"qvalue_network": qvalue_network}
        numbers = {"gamma": gamma, "lmbda": lmbda, "entropy_coeff": entropy_coeff}
        take_over(self, actor_network, critics, reduction=reduction, **numbers)

    @property
    def in_keys(self) -> list[NestedKey]:
        return rollout_in_keys(self, self._read(), self._read())

    def _read(self) -> list[NestedKey]:
        return rollout_keys(self.actor_network, [self.qvalue_network], self.tensor_keys.action)

    def critic_losses(self, tensordict: TensorDictBase) -> TensorDictBase:
        """The critic's loss alone: it steps before the policies climb it.

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
            >>> from torchrl_alita.modules import make_actor, make_mixing_critic
            >>> env = make_env("push_box", num_envs=5, n_agents=2, seed=0)
            >>> lica = LICALoss(make_actor(env), make_mixing_critic(env))
            >>> updater = SoftUpdate(lica, tau=0.01)
            >>> lica.critic_losses(env.rollout(4))["loss_qvalue"].backward()
        """
        with torch.no_grad():
            batch = self._batch(tensordict)
            policy = policy_of(self.actor_network, self.actor_network_params.data, batch)
        return self._critic(batch, policy)

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        batch = self._batch(tensordict)
        policy = policy_of(self.actor_network, self.actor_network_params, batch)
        losses = self._critic(batch, policy)
        distribution = policy.distribution
        probs, entropy = distribution.probs, distribution.entropy()
        if (alive := batch.get(self.tensor_keys.alive, None)) is not None:
            probs = torch.where(alive, probs, probs.detach())
            entropy = torch.where(alive.squeeze(-1), entropy, 0)
        joint = batch.copy().set(self.tensor_keys.action, probs)
        value = self._value(joint, self.qvalue_network_params.data).squeeze(-1)
        entropy = entropy.mean(-1)
        mean_entropy = batch_mean(self, batch, entropy)
        gain = value + self.entropy_coeff / mean_entropy.clamp_min(1e-8) * entropy
        losses.set("loss_actor", self._reduce_loss(-gain, tensordict=batch))
        return losses.set("entropy", mean_entropy)

    def _batch(self, tensordict: TensorDictBase) -> TensorDictBase:
        keys = self.tensor_keys
        batch = check_rollout(self, tensordict)
        rows = batch.get(keys.action).shape[:-2]
        check_same_shape(batch, next_key(keys.terminated), (*rows, 1))
        return batch

    def _value(self, batch: TensorDictBase, params: TensorDictBase) -> torch.Tensor:
        return run(self.qvalue_network, params, batch, self.tensor_keys.state_action_value)

    def _critic(self, batch: TensorDictBase, policy: Policy) -> TensorDictBase:
        value = self._value(batch, self.qvalue_network_params)
        target = self._target(batch, policy)
        error = (value - target).square().squeeze(-1)
        return TensorDict(
            {
                "loss_qvalue": self._reduce_loss(error, tensordict=batch),
                "pred_value": batch_mean(self, batch, value.squeeze(-1)),
                "target_value": batch_mean(self, batch, target.squeeze(-1)),
            }
        )

    @torch.no_grad()
    def _target(self, batch: TensorDictBase, policy: Policy) -> torch.Tensor:
        """TD(lambda) target of the team, ``[*B, T, 1]``."""
        keys = self.tensor_keys
        params = self.actor_network_params
        following, there = next_policy(self.actor_network, params, self._read(), batch, policy)
        done = batch.get(next_key(keys.done))
        following.set(keys.action, next_action(batch.get(keys.action), done, there.probs))
        next_value = self._value(following, self.target_qvalue_network_params)
        reward = batch.get(next_key(keys.reward)).to(next_value.dtype)
        target = functional.lambda_return(
            reward.mean(-2, keepdim=True),
            batch.get(next_key(keys.terminated)),
            done,
            next_value.unsqueeze(-2),
            self.gamma,
            self.lmbda,
        )
        return target.squeeze(-2)
