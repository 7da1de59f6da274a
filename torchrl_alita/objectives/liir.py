"""Learning individual intrinsic rewards (LIIR)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import TensorDictModuleBase, dispatch
from torchrl.objectives import LossModule

from torchrl_alita import functional
from torchrl_alita._borrow import borrow
from torchrl_alita._checks import check_same_shape
from torchrl_alita.layout import (
    ACTION,
    ACTION_MASK,
    ALIVE,
    DONE,
    REWARD,
    STATE_VALUE,
    TERMINATED,
    next_key,
)
from torchrl_alita.objectives._batch import batch_mean
from torchrl_alita.objectives._loss import house_loss
from torchrl_alita.objectives._rollout import (
    check_rollout,
    choosing,
    policy_gradient,
    policy_of,
    rollout_in_keys,
    rollout_keys,
    standardize,
    take_over,
)
from torchrl_alita.objectives._run import run
from torchrl_alita.objectives.intrinsic_reward import IntrinsicRewardLoss

__all__ = ["LIIRLoss"]


@house_loss
class LIIRLoss(LossModule):
    r"""Policy gradient of N agents whose rewards have a part that is learned.

    .. math::
        r^{proxy}_i = r_i + \lambda \, r^{in}_{\eta, i}(s, a_i), \qquad
        \nabla J_i = E \big[ \nabla \log \pi_i(a_i | o_i) \,
        (G^{proxy}_i - V^{proxy}_i(s)) \big]

    Source: https://arxiv.org/abs/1910.01899. With one reward for the whole team the
    intrinsic rewards are what tells its members apart; :class:`IntrinsicRewardLoss` trains
    them. G is the TD(lambda) return from the target values. Each agent has a value of the
    proxy rewards, and one of its own rewards, whose mean over the agents is the team's.

    An agent without a choice, as the dead of a battle, has no gradient and does not count
    where advantages are normalized; whatever the game, a mask says who they are. (The
    authors' code takes action 0 for that of the dead.) Rewards of terminal steps count.

    The authors' values read the actions of the other agents too, and share their first
    layers with the intrinsic rewards; here each has a network of its own.

    Args:
        actor_network: policies over one-hot actions, as made by
            :func:`torchrl_alita.modules.make_recurrent_actor`.
        value_network: value of the proxy rewards for each agent, as made by
            :func:`torchrl_alita.modules.make_team_value`.
        extrinsic_value_network: value of the rewards alone, likewise.
        intrinsic: the loss with the intrinsic rewards, which are read and not trained here.
        intrinsic_coeff: lambda, what they are multiplied with, at least 0. Default: 0.01,
            the authors'.
        gamma: discount factor of a step, in [0, 1]. Default: 0.99, the authors'.
        lmbda: how far the values' targets look ahead, in [0, 1]. Default: 0.8, the
            authors'.
        entropy_coeff: weight of the policies' entropy, at least 0. Default: 0, the authors'.
        normalize_advantage: subtract the advantages' mean over the batch, and divide them by
            their deviation. Default: True, the authors'.
        reduction: ``"none"`` (the shape of the batch), ``"mean"`` or ``"sum"``.

    Returns, from ``forward``, a TensorDict with ``loss_actor``, ``loss_value``,
    ``loss_extrinsic_value`` and, detached, ``pred_value``, ``target_value`` (of the proxy
    rewards) and ``entropy``, the mean over agents.

    Raises:
        ValueError: if an argument is out of range, or the actor has no get_dist; when called,
            if the batch is empty, its entries do not fit each other, or there is no dimension
            of time.
        TypeError: if an argument is no number.
        KeyError: when called, if the batch lacks a key, or a network does not write one.

    Examples:
        >>> from torchrl.objectives import SoftUpdate
        >>> from torchrl_alita.envs import make_env
        >>> from torchrl_alita.modules import (
        ...     make_actor,
        ...     make_counterfactual_critic,
        ...     make_team_value,
        ... )
        >>> env = make_env("push_box", num_envs=5, n_agents=2, seed=0)
        >>> key = ("agents", "intrinsic_reward")
        >>> intrinsic = IntrinsicRewardLoss(make_counterfactual_critic(env, out_key=key))
        >>> values = make_team_value(env), make_team_value(env)
        >>> liir = LIIRLoss(make_actor(env), *values, intrinsic)
        >>> updater = SoftUpdate(liir, tau=0.01)
        >>> sorted(liir(env.rollout(4)).keys())[:4]
        ['entropy', 'loss_actor', 'loss_extrinsic_value', 'loss_value']
    """

    @dataclass
    class _AcceptedKeys:
        """Keys that can be set with ``set_keys``.

        Attributes:
            action (NestedKey): read, and written by the actor. Default:
                ``("agents", "action")``.
            action_mask (NestedKey): read where the actor reads it. Default:
                ``("agents", "action_mask")``.
            value (NestedKey): written by both values. Default:
                ``("agents", "state_value")``.
            reward (NestedKey): read in "next". Default: ``("agents", "reward")``.
            terminated (NestedKey): read in "next", ``[*B, 1]`` or ``[*B, N, 1]``.
                Default: ``"terminated"``.
            done (NestedKey): read in "next". Default: ``"done"``.
            alive (NestedKey): read where the batch has it: the policies of the dead are not
                trained. Default: ``("agents", "alive")``.
        """

        action: NestedKey = ACTION
        action_mask: NestedKey = ACTION_MASK
        value: NestedKey = STATE_VALUE
        reward: NestedKey = REWARD
        terminated: NestedKey = TERMINATED
        done: NestedKey = DONE
        alive: NestedKey = ALIVE

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys
    out_keys = [
        "loss_actor",
        "loss_value",
        "loss_extrinsic_value",
        "pred_value",
        "target_value",
        "entropy",
    ]
    _schedulable_buffers = frozenset({"gamma", "lmbda", "intrinsic_coeff", "entropy_coeff"})

    actor_network: TensorDictModuleBase
    actor_network_params: TensorDictParams
    target_actor_network_params: TensorDictParams
    value_network: TensorDictModuleBase
    value_network_params: TensorDictParams
    target_value_network_params: TensorDictParams
    extrinsic_value_network: TensorDictModuleBase
    extrinsic_value_network_params: TensorDictParams
    target_extrinsic_value_network_params: TensorDictParams

    def __init__(
        self,
        actor_network: TensorDictModuleBase,
        value_network: TensorDictModuleBase,
        extrinsic_value_network: TensorDictModuleBase,
        intrinsic: IntrinsicRewardLoss,
        *,
        intrinsic_coeff: float = 0.01,
        gamma: float = 0.99,
        lmbda: float = 0.8,
        entropy_coeff: float = 0.0,
        normalize_advantage: bool = True,
        reduction: Literal["none", "mean", "sum"] = "mean",
    ):
        super().__init__()
        take_over(
            self,
            actor_network,
            {"value_network": value_network, "extrinsic_value_network": extrinsic_value_network},
            gamma=gamma,
            lmbda=lmbda,
            reduction=reduction,
            intrinsic_coeff=intrinsic_coeff,
            entropy_coeff=entropy_coeff,
        )
        borrow(self, "intrinsic", intrinsic)
        self.normalize_advantage = normalize_advantage

    @property
    def in_keys(self) -> list[NestedKey]:
        values = [self.value_network, self.extrinsic_value_network]
        critics = [*values, self.intrinsic.reward_network]
        here = rollout_keys(self.actor_network, critics, self.tensor_keys.action)
        return rollout_in_keys(self, here, [key for value in values for key in value.in_keys])

    def critic_losses(self, tensordict: TensorDictBase) -> TensorDictBase:
        """The values' losses alone, for more steps of theirs than of the actors.

        Args:
            tensordict: rollout ``[*B, T]``, as for ``forward``.

        Returns:
            A TensorDict with ``loss_value``, ``loss_extrinsic_value``, ``pred_value`` and
            ``target_value``.

        Raises:
            ValueError: as for ``forward``.
            KeyError: as for ``forward``.

        Examples:
            >>> from torchrl.objectives import SoftUpdate
            >>> from torchrl_alita.envs import make_env
            >>> from torchrl_alita.modules import (
            ...     make_actor,
            ...     make_counterfactual_critic,
            ...     make_team_value,
            ... )
            >>> env = make_env("push_box", num_envs=5, n_agents=2, seed=0)
            >>> key = ("agents", "intrinsic_reward")
            >>> intrinsic = IntrinsicRewardLoss(make_counterfactual_critic(env, out_key=key))
            >>> values = make_team_value(env), make_team_value(env)
            >>> liir = LIIRLoss(make_actor(env), *values, intrinsic)
            >>> updater = SoftUpdate(liir, tau=0.01)
            >>> liir.critic_losses(env.rollout(4))["loss_value"].backward()
        """
        return self._critic(check_rollout(self, tensordict))[0]

    def advantages(self, batch: TensorDictBase) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the proxy rewards, and of the rewards alone, each ``[*B, T, N, 1]``.

        Args:
            batch: rollout ``[*B, T]``, as for ``forward``.

        Returns:
            Both, without gradient.

        Raises:
            ValueError: as for ``forward``.
            KeyError: as for ``forward``.
        """
        return self._critic(check_rollout(self, batch))[1:]

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        batch = check_rollout(self, tensordict)
        losses, advantage, _ = self._critic(batch)
        if self.normalize_advantage:
            advantage = standardize(advantage, choosing(self, batch))
        policy = policy_of(self.actor_network, self.actor_network_params, batch).distribution
        return losses.update(policy_gradient(self, batch, policy, advantage))

    def _critic(self, batch: TensorDictBase) -> tuple[TensorDictBase, torch.Tensor, torch.Tensor]:
        """Losses of both values, and the advantages of proxy and extrinsic rewards."""
        reward = batch.get(next_key(self.tensor_keys.reward))
        intrinsic = self.intrinsic.reward(batch)
        reward = reward.to(intrinsic.dtype)
        proxy, target = self._values(
            batch, "value_network", reward + self.intrinsic_coeff * intrinsic
        )
        extrinsic, extrinsic_target = self._values(batch, "extrinsic_value_network", reward)
        errors = {
            "loss_value": target - proxy,
            "loss_extrinsic_value": extrinsic_target - extrinsic,
        }
        losses = {
            name: self._reduce_loss(error.square().mean((-1, -2)), tensordict=batch)
            for name, error in errors.items()
        }
        logged = {
            "pred_value": batch_mean(self, batch, proxy.mean((-1, -2))),
            "target_value": batch_mean(self, batch, target.mean((-1, -2))),
        }
        proxy_advantage, advantage = (error.detach() for error in errors.values())
        return TensorDict(losses | logged), proxy_advantage, advantage

    def _values(
        self, batch: TensorDictBase, name: str, reward: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Values ``[*B, T, N, 1]`` of a reward, and what they are to be."""
        keys, network = self.tensor_keys, getattr(self, name)
        value = run(network, getattr(self, f"{name}_params"), batch, keys.value)
        check_same_shape(batch, next_key(keys.reward), value.shape)
        following = TensorDict(
            {key: batch.get(next_key(key)) for key in network.in_keys}, batch.batch_size
        )
        with torch.no_grad():
            params = getattr(self, f"target_{name}_params")
            target = functional.lambda_return(
                reward,
                batch.get(next_key(keys.terminated)),
                batch.get(next_key(keys.done)),
                run(network, params, following, keys.value),
                self.gamma,
                self.lmbda,
            )
        return value, target
