"""Learning individual intrinsic rewards (LIIR)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import TensorDictModuleBase, dispatch
from torch import nn
from torchrl.objectives import LossModule

from torchrl_alita import functional
from torchrl_alita._borrow import borrow
from torchrl_alita._checks import (
    REDUCTIONS,
    check_choice,
    check_non_negative,
    check_same_shape,
    check_share,
)
from torchrl_alita.layout import (
    ACTION,
    ACTION_MASK,
    DONE,
    INTRINSIC_REWARD,
    META_WEIGHT,
    REWARD,
    STATE_VALUE,
    TERMINATED,
    next_key,
)
from torchrl_alita.objectives._batch import check_batch, row_mask, unique
from torchrl_alita.objectives._critics import run
from torchrl_alita.objectives._loss import house_loss
from torchrl_alita.objectives._rollout import (
    EPSILON,
    check_actor,
    check_rollout,
    choosing,
    moments,
    next_step_keys,
    policy_of,
    rollout_keys,
    standardize,
    taken,
)

__all__ = ["IntrinsicRewardLoss", "LIIRLoss"]

# Length of the step with which derivatives along a direction are differences.
_STEP = 1e-2


@house_loss
class IntrinsicRewardLoss(LossModule):
    r"""Trains the intrinsic rewards that LIIR adds, by what they do for the team.

    .. math::
        L(\eta) = - E \sum_i w_i \, \sum_{k \ge t} (\gamma \lambda)^{k - t} \,
        r^{in}_{\eta, i}(s_k, a_k), \qquad
        w_i = \frac{\partial J^{ex}(\theta')}{\partial A^{proxy}_i}

    Source: https://arxiv.org/abs/1910.01899 (Eq. 8 and 9). The rewards are no goal in
    themselves: a policy that follows them, theta', is to earn more of the team's own reward.
    w is how much that grows with an agent's advantage at a step, see
    :meth:`LIIRLoss.meta_weight`. An intrinsic reward counts in the advantages of all steps
    before it, as far as TD(lambda) looks back.

    Args:
        reward_network: the intrinsic reward of each own action, as of
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
        batch = check_batch(self, tensordict)
        agents = batch.get(keys.action).shape[:-1]
        check_rollout(batch, action=keys.action, done=keys.done)
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
                "intrinsic_reward": self._reduce_loss(size, tensordict=batch, reduction="mean"),
            }
        )


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
        actor_network: policies over one-hot actions, as of
            :func:`torchrl_alita.modules.make_recurrent_actor`.
        value_network: value of the proxy rewards for each agent, as of
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
        """

        action: NestedKey = ACTION
        action_mask: NestedKey = ACTION_MASK
        value: NestedKey = STATE_VALUE
        reward: NestedKey = REWARD
        terminated: NestedKey = TERMINATED
        done: NestedKey = DONE

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
        check_share(gamma=gamma, lmbda=lmbda)
        check_non_negative(entropy_coeff=entropy_coeff, intrinsic_coeff=intrinsic_coeff)
        check_choice("reduction", reduction, REDUCTIONS)
        check_actor(actor_network)
        self.convert_to_functional(actor_network, "actor_network", create_target_params=False)
        self.convert_to_functional(value_network, "value_network", create_target_params=True)
        self.convert_to_functional(
            extrinsic_value_network, "extrinsic_value_network", create_target_params=True
        )
        borrow(self, "intrinsic", intrinsic)
        self.register_coeff_buffer("intrinsic_coeff", float(intrinsic_coeff))
        self.register_coeff_buffer("gamma", float(gamma))
        self.register_coeff_buffer("lmbda", float(lmbda))
        self.register_coeff_buffer("entropy_coeff", float(entropy_coeff))
        self.normalize_advantage = normalize_advantage
        self.reduction = reduction

    @property
    def in_keys(self) -> list[NestedKey]:
        keys = self.tensor_keys
        values = [self.value_network, self.extrinsic_value_network]
        here = rollout_keys(
            self.actor_network, [*values, self.intrinsic.reward_network], keys.action
        )
        there = [key for value in values for key in value.in_keys]
        own = (keys.reward, keys.terminated, keys.done)
        return unique([keys.action, *here, *next_step_keys(self.actor_network, there, *own)])

    def critic_losses(self, tensordict: TensorDictBase) -> TensorDictBase:
        """The values' losses alone, for more steps of theirs than of the actors.

        Args:
            tensordict: rollout ``[*B, T]``, as of ``forward``.

        Returns:
            A TensorDict with ``loss_value``, ``loss_extrinsic_value``, ``pred_value`` and
            ``target_value``.

        Raises:
            ValueError: as of ``forward``.
            KeyError: as of ``forward``.

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
        return self._critic(self._batch(tensordict))[0]

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        batch = self._batch(tensordict)
        losses, advantage, _ = self._critic(batch)
        if self.normalize_advantage:
            advantage = standardize(advantage, self._counted(batch))
        policy = policy_of(self.actor_network, self.actor_network_params, batch).distribution
        entropy = policy.entropy()
        score = policy.log_prob(batch.get(self.tensor_keys.action))
        gain = advantage.squeeze(-1) * score + self.entropy_coeff * entropy
        losses.set("loss_actor", self._reduce_loss(-gain.mean(-1), tensordict=batch))
        return losses.set("entropy", self._log(entropy.unsqueeze(-1), batch))

    @torch.no_grad()
    def meta_weight(
        self, tensordict: TensorDictBase, old_actor_params: TensorDictBase
    ) -> torch.Tensor:
        r"""How the team's return grows with each agent's proxy return, ``[*B, T, N, 1]``.

        .. math::
            w_i = \nabla_{\theta'} J^{ex}(\theta') \cdot \nabla_\theta \log \pi_i(a_i | o_i),
            \qquad
            J^{ex}(\theta') = E \Big[ \bar A^{ex} \prod_i
            \frac{\pi_{\theta', i}(a_i | o_i)}{\pi_{\theta, i}(a_i | o_i)} \Big]

        with the old policies theta and the present ones theta', which a step has made of
        them. A step along the gradient of an advantage moves theta along its score: the
        product is what that brings the team, up to the step's size. Where the advantages are
        normalized, it is that of the return which comes before.

        The authors' code multiplies the mean of all scores instead, so that one number
        weighs the whole batch, and descends where it should ascend. The mean of the scores
        is 0 but for chance: of B T N independent scores its expected step is a share
        1 / (B T N) of this one, with the opposite sign.

        The product with a score is the derivative of the log-probability along the gradient,
        here a central difference.

        Args:
            tensordict: rollout ``[*B, T]`` of the old policies.
            old_actor_params: theta, as of ``actor_network_params.data.clone()`` before the
                step.

        Returns:
            ``[*B, T, N, 1]``, without gradient.

        Raises:
            ValueError: as of ``forward``.
            KeyError: as of ``forward``.

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
            >>> old = liir.actor_network_params.data.clone()
            >>> liir.meta_weight(env.rollout(4), old).shape
            torch.Size([5, 4, 2, 1])
        """
        batch = self._batch(tensordict)
        _, advantage, extrinsic = self._critic(batch)
        old = self._scores(batch, old_actor_params)
        direction = self._climb(batch, extrinsic, old)
        norm = torch.stack([part.square().sum() for part in direction.values()]).sum().sqrt()
        size = _STEP / norm.clamp_min(torch.finfo(norm.dtype).tiny)
        ahead, behind = (
            self._scores(batch, _moved(old_actor_params, direction, sign * size))
            for sign in (1, -1)
        )
        weight = (ahead - behind).unsqueeze(-1) / (2 * size)
        counted = self._counted(batch)
        weight = torch.where(counted, weight, 0)
        return self._before_normalizing(weight, advantage, counted)

    def _climb(
        self, batch: TensorDictBase, extrinsic: torch.Tensor, old: torch.Tensor
    ) -> dict[NestedKey, torch.Tensor]:
        """Gradient of the team's return at the present policies, by parameter."""
        trained = {
            name: param
            for name, param in self.actor_network_params.items(True, True)
            if isinstance(param, nn.Parameter)
        }
        with torch.enable_grad():
            ratio = (self._scores(batch, self.actor_network_params) - old).sum(-1).exp()
            team = extrinsic.mean((-1, -2))
            gain = self._reduce_loss(team * ratio, tensordict=batch, reduction="mean")
            gradients = torch.autograd.grad(gain, tuple(trained.values()))
        return dict(zip(trained, gradients, strict=True))

    def _before_normalizing(
        self, weight: torch.Tensor, advantage: torch.Tensor, counted: torch.Tensor
    ) -> torch.Tensor:
        """What a weight on normalized advantages is on those before, ``[*B, T, N, 1]``."""
        if not self.normalize_advantage:
            return weight
        normal = standardize(advantage, counted)
        _, deviation = moments(advantage, counted)
        mean, _ = moments(weight, counted)
        along, _ = moments(weight * normal, counted)
        return torch.where(counted, weight - mean - along * normal, 0) / (deviation + EPSILON)

    def _scores(self, batch: TensorDictBase, params: TensorDictBase) -> torch.Tensor:
        """Log-probability of each agent's action, ``[*B, T, N]``."""
        policy = policy_of(self.actor_network, params, batch).distribution
        return policy.log_prob(batch.get(self.tensor_keys.action))

    def _counted(self, batch: TensorDictBase) -> torch.Tensor:
        keys = self.tensor_keys
        return choosing(
            batch,
            self.actor_network,
            action=keys.action,
            action_mask=keys.action_mask,
            rows=row_mask(self, batch, batch.get(keys.action).shape[:-2]),
        )

    def _batch(self, tensordict: TensorDictBase) -> TensorDictBase:
        keys = self.tensor_keys
        batch = check_batch(self, tensordict)
        check_rollout(batch, action=keys.action, done=keys.done, reward=keys.reward)
        return batch

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
            "pred_value": self._log(proxy, batch),
            "target_value": self._log(target, batch),
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

    def _log(self, value: torch.Tensor, batch: TensorDictBase) -> torch.Tensor:
        value = value.detach().mean((-1, -2))
        return self._reduce_loss(value, tensordict=batch, reduction="mean")


def _moved(
    params: TensorDictBase, direction: dict[NestedKey, torch.Tensor], size: torch.Tensor
) -> TensorDictBase:
    """Parameters a step along a direction."""
    moved = params.clone()
    for name, part in direction.items():
        moved.set(name, params.get(name) + size * part)
    return moved
