"""The intrinsic rewards that LIIR learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import TensorDictModuleBase, dispatch
from torchrl.objectives import LossModule

from torchrl_alita import functional
from torchrl_alita._checks import REDUCTIONS, check_choice, check_same_shape, check_share
from torchrl_alita.layout import (
    ACTION,
    DONE,
    INTRINSIC_REWARD,
    META_WEIGHT,
    TERMINATED,
    next_key,
)
from torchrl_alita.objectives._batch import batch_mean, unique
from torchrl_alita.objectives._loss import house_loss
from torchrl_alita.objectives._rollout import check_rollout, taken
from torchrl_alita.objectives._run import run

__all__ = ["IntrinsicRewardLoss"]


@house_loss
class IntrinsicRewardLoss(LossModule):
    r"""Trains the intrinsic rewards that LIIR adds, by what they do for the team.

    .. math::
        L(\eta) = - E \frac{1}{N} \sum_i w_i \, \sum_{k \ge t} (\gamma \lambda)^{k - t} \,
        r^{in}_{\eta, i}(s_k, a_k), \qquad
        w_i = \frac{\partial J^{ex}(\theta')}{\partial A^{proxy}_i}

    Source: https://arxiv.org/abs/1910.01899 (Eq. 8 and 9). The rewards are no goal in
    themselves: a policy that follows them, theta', is to earn more of the team's own reward.
    w is how much that grows with an agent's advantage at a step, see
    :func:`torchrl_alita.objectives.meta_weight`. An intrinsic reward counts in the advantages
    of all steps before it, as far as TD(lambda) looks back.

    Args:
        reward_network: the intrinsic reward of each own action, as made by
            :func:`torchrl_alita.modules.make_counterfactual_critic` with
            ``out_key=("agents", "intrinsic_reward")``.
        gamma: discount factor of a step, in [0, 1]. Default: 0.99, the authors'.
        lmbda: that of the proxy values' targets, in [0, 1]. Default: 0.8, the authors'.
        reduction: ``"none"`` (the shape of the batch), ``"mean"`` or ``"sum"``.

    Returns, from ``forward``, a TensorDict with ``loss_intrinsic`` and, detached,
    ``intrinsic_reward``, the mean over agents of its size.

    Raises:
        ValueError: if an argument is out of range; when called, if the batch is empty, its
            entries do not fit each other, or there is no dimension of time.
        TypeError: if an argument is no number.
        KeyError: when called, if the batch lacks a key, or the network does not write one.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> from torchrl_alita.modules import make_counterfactual_critic
        >>> env = make_env("push_box", num_envs=5, n_agents=2, seed=0)
        >>> key = ("agents", "intrinsic_reward")
        >>> loss = IntrinsicRewardLoss(make_counterfactual_critic(env, out_key=key))
        >>> batch = env.rollout(4)
        >>> batch["agents", "meta_weight"] = torch.ones(5, 4, 2, 1)
        >>> loss(batch)["loss_intrinsic"].backward()
    """

    @dataclass
    class _AcceptedKeys:
        """Keys that can be set with ``set_keys``.

        Attributes:
            action (NestedKey): read. Default: ``("agents", "action")``.
            intrinsic_reward (NestedKey): written by the network. Default:
                ``("agents", "intrinsic_reward")``.
            meta_weight (NestedKey): read, ``[*B, T, N, 1]``. Default:
                ``("agents", "meta_weight")``.
            terminated (NestedKey): read in "next", ``[*B, 1]`` or ``[*B, N, 1]``.
                Default: ``"terminated"``.
            done (NestedKey): read in "next". Default: ``"done"``.
        """

        action: NestedKey = ACTION
        intrinsic_reward: NestedKey = INTRINSIC_REWARD
        meta_weight: NestedKey = META_WEIGHT
        terminated: NestedKey = TERMINATED
        done: NestedKey = DONE

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys
    out_keys = ["loss_intrinsic", "intrinsic_reward"]
    _schedulable_buffers = frozenset({"gamma", "lmbda"})

    reward_network: TensorDictModuleBase
    reward_network_params: TensorDictParams
    target_reward_network_params: TensorDictParams

    def __init__(
        self,
        reward_network: TensorDictModuleBase,
        *,
        gamma: float = 0.99,
        lmbda: float = 0.8,
        reduction: Literal["none", "mean", "sum"] = "mean",
    ):
        super().__init__()
        check_share(gamma=gamma, lmbda=lmbda)
        check_choice("reduction", reduction, REDUCTIONS)
        self.convert_to_functional(reward_network, "reward_network", create_target_params=False)
        self.register_coeff_buffer("gamma", float(gamma))
        self.register_coeff_buffer("lmbda", float(lmbda))
        self.reduction = reduction

    @property
    def in_keys(self) -> list[NestedKey]:
        keys = self.tensor_keys
        flags = (next_key(keys.terminated), next_key(keys.done))
        return unique([keys.action, *self.reward_network.in_keys, keys.meta_weight, *flags])

    def reward(self, batch: TensorDictBase, *, train: bool = False) -> torch.Tensor:
        """The intrinsic reward of the actions taken, ``[*B, N, 1]``.

        Args:
            batch: ``[*B]`` with what the network reads.
            train: with the gradient of the network's parameters.

        Returns:
            ``[*B, N, 1]``.

        Raises:
            KeyError: if the batch lacks a key, or the network does not write one.

        Examples:
            >>> from torchrl_alita.envs import make_env
            >>> from torchrl_alita.modules import make_counterfactual_critic
            >>> env = make_env("push_box", num_envs=5, n_agents=2, seed=0)
            >>> key = ("agents", "intrinsic_reward")
            >>> loss = IntrinsicRewardLoss(make_counterfactual_critic(env, out_key=key))
            >>> loss.reward(env.rollout(4)).shape
            torch.Size([5, 4, 2, 1])
        """
        keys = self.tensor_keys
        params = self.reward_network_params
        of_actions = run(
            self.reward_network, params if train else params.data, batch, keys.intrinsic_reward
        )
        check_same_shape(batch, keys.action, of_actions.shape)
        return taken(of_actions, batch.get(keys.action))

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        keys = self.tensor_keys
        batch = check_rollout(self, tensordict)
        agents = batch.get(keys.action).shape[:-1]
        check_same_shape(batch, keys.meta_weight, (*agents, 1))
        reward = self.reward(batch, train=True)
        # The values in a TD(lambda) return are not of these parameters.
        part = functional.lambda_return(
            reward,
            batch.get(next_key(keys.terminated)),
            batch.get(next_key(keys.done)),
            torch.zeros_like(reward),
            self.gamma,
            self.lmbda,
        )
        gain = (batch.get(keys.meta_weight).to(part.dtype) * part).mean((-1, -2))
        size = reward.detach().abs().mean((-1, -2))
        return TensorDict(
            {
                "loss_intrinsic": self._reduce_loss(-gain, tensordict=batch),
                "intrinsic_reward": batch_mean(self, batch, size),
            }
        )
