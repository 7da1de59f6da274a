"""MADDPG and MATD3 with the paper's gradient, Eq. 1 and 2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import TensorDictModuleBase, dispatch
from torchrl.objectives import LossModule

from torchrl_alita._checks import REDUCTIONS, check_choice, check_non_negative, check_share
from torchrl_alita.layout import ACTION, DONE, LOGITS, REWARD, STEPS, TERMINATED, VALUE, next_key
from torchrl_alita.modules._acting import action_range, run_network
from torchrl_alita.objectives._batch import (
    batch_mean,
    check_batch,
    check_sequences,
    row_weights,
    unique,
    write_priority,
)
from torchrl_alita.objectives._critics import PartnerCritics, critics_values
from torchrl_alita.objectives._functional_call import functional_call
from torchrl_alita.objectives._gain import gain_of
from torchrl_alita.objectives._loss import house_loss
from torchrl_alita.objectives._target_noise import TargetNoise, checked_bounds

__all__ = ["MADDPGLoss"]


@house_loss
class MADDPGLoss(LossModule):
    r"""Actors and critics of N agents, each with a reward of its own.

    .. math::
        L(Q^{(i)}) = E \|Q^{(i)}(x, a) - r_i - \gamma Q^{(i)}_{target}(x', \mu(x'))\|^2
        \qquad
        J(\mu_i) = E \, Q^{(i)}(x, a_1, .., \mu_i(x_i), .., a_N)

    Source: Eq. 1 and 2 of https://arxiv.org/abs/2108.12581, after
    https://arxiv.org/abs/1706.02275. Critic i sees its own agent's fresh action and
    the others' from the batch, so that agent i climbs Q^(i) and no other; TorchRL's
    DDPGLoss on a group shows all fresh actions to all critics. Both losses are summed
    over the agents. With two critics per agent the target is their least and the
    actors climb the first: MATD3, when ``policy_noise`` is positive and the actors
    are updated less often.

    For one-hot actions, ``own_actions="all"`` replaces the gradient through one drawn
    action by the expected one,

    .. math:: J(\mu_i) = E \sum_a \mu_i(a | x_i) \, Q^{(i)}(x, a_1, .., a, .., a_N),

    the all-action policy gradient (https://arxiv.org/abs/1709.00503): the critic is
    evaluated at the L one-hot actions, where it was trained, and never differentiated
    between them.

    Where a gradient climbs a critic that is not trained yet, policies run into the flat
    ends of their tanh or softmax and stay there. ``logits_coeff`` adds to the actors'
    loss that multiple of the mean square of what goes into it, summed over the agents, as
    the published code of https://arxiv.org/abs/1706.02275 does with 0.001.

    Args:
        actor_network: the policies of all agents, deterministic, as made by
            :func:`torchrl_alita.modules.make_actor`.
        qvalue_network: their critics, as made by
            :func:`torchrl_alita.modules.make_critic`.
        gamma: discount factor of a step, in [0, 1]. Default: 0.95, Appendix D.1.
        lmbda: how far the target looks ahead along sequences ``[*B, T]``, in [0, 1], see
            :class:`ValueDecompositionLoss`. Default: 0, the equation's.
        others_actions: what critic i sees of the other agents while agent i climbs:
            their actions of the ``"buffer"``, or those of their ``"policy"``, detached.
        own_actions: what of its own actions agent i climbs with: that of its
            ``"policy"``, or, for one-hot actions, ``"all"``, see above.
        logits_coeff: weight of the mean squared logits, at least 0. Default: 0, the
            equation's, which leaves the term out for good: to schedule it, begin above 0.
        policy_noise: standard deviation of the noise on the target policies' actions,
            in units of the action. Default: 0; TD3 has 0.2.
        noise_clip: the noise's largest size. Default: 0.5, TD3's.
        action_bounds: least and largest action, to which noisy ones are clipped: two numbers,
            or two tensors ``[N, A]`` for entries that differ. Default: those of the actor's
            TanhModule, each entry's own.
        delay_actor: a target network for the actors too. Default: True.
        reduction: ``"none"`` (the shape of the batch), ``"mean"`` or ``"sum"``.

    Returns, from ``forward``, a TensorDict with ``loss_actor``, ``loss_qvalue`` and,
    detached, ``pred_value`` and ``target_value``, the mean over agents. It may be given, as
    ``policy``, what :meth:`policy` says of the same batch. Into a batch with priority weights,
    as from a prioritized buffer, it writes ``td_error`` ``[*B]``, the squared error summed over
    the agents.

    Raises:
        ValueError: if gamma or lmbda is outside [0, 1], a noise is negative, the bounds are no
            least and largest or, where there is noise, unknown, ``others_actions``,
            ``own_actions`` or the reduction is unknown, or the actor has no get_dist for
            ``own_actions="all"``; when called, if the batch is empty or its entries do not fit
            each other.
        TypeError: if an argument is no number; when called, if a network computes in
            another dtype.
        KeyError: when called, if the batch lacks a key.

    Examples:
        >>> from torchrl.objectives import SoftUpdate
        >>> from torchrl_alita.envs import make_env
        >>> from torchrl_alita.modules import make_actor, make_critic
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=3, seed=0)
        >>> maddpg = MADDPGLoss(make_actor(env), make_critic(env), gamma=0.95)
        >>> updater = SoftUpdate(maddpg, tau=0.01)
        >>> losses = maddpg(env.rollout(4).reshape(-1))
        >>> (losses["loss_actor"] + losses["loss_qvalue"]).backward()
    """

    @dataclass
    class _AcceptedKeys:
        """Keys that can be set with ``set_keys``.

        Attributes:
            action (NestedKey): read, and written by the actor. Default:
                ``("agents", "action")``.
            logits (NestedKey): written by the actor, what its tanh or softmax takes; only
                for ``logits_coeff``. Default: ``("agents", "logits")``.
            state_action_value (NestedKey): written by the critics. Default:
                ``("agents", "state_action_value")``.
            reward (NestedKey): read in "next". Default: ``("agents", "reward")``.
            terminated (NestedKey): read in "next", ``[*B, 1]`` or ``[*B, N, 1]``.
                Default: ``"terminated"``.
            done (NestedKey): read in "next" if lmbda is not 0, ``[*B, T, 1]``. Default: ``"done"``.
            steps_to_next_obs (NestedKey): read where the batch has it, as of MultiStepTransform.
            priority_weight (NestedKey): read where the batch has it, ``[*B]`` or ``[*B, 1]``.
            priority (NestedKey): written into a batch that has priority weights. Default:
                ``"td_error"``.
        """

        action: NestedKey = ACTION
        logits: NestedKey = LOGITS
        state_action_value: NestedKey = VALUE
        reward: NestedKey = REWARD
        terminated: NestedKey = TERMINATED
        done: NestedKey = DONE
        steps_to_next_obs: NestedKey = STEPS
        priority_weight: NestedKey = "priority_weight"
        priority: NestedKey = "td_error"

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys
    out_keys = ["loss_actor", "loss_qvalue", "pred_value", "target_value"]
    _schedulable_buffers = frozenset({"gamma", "lmbda", "logits_coeff"})

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
        gamma: float = 0.95,
        lmbda: float = 0.0,
        others_actions: Literal["buffer", "policy"] = "buffer",
        own_actions: Literal["policy", "all"] = "policy",
        logits_coeff: float = 0.0,
        policy_noise: float = 0.0,
        noise_clip: float = 0.5,
        action_bounds: tuple[float | torch.Tensor, float | torch.Tensor] | None = None,
        delay_actor: bool = True,
        reduction: Literal["none", "mean", "sum"] = "mean",
    ):
        super().__init__()
        check_share(gamma=gamma, lmbda=lmbda)
        check_choice("reduction", reduction, REDUCTIONS)
        if others_actions not in ("buffer", "policy"):
            raise ValueError(
                f"others_actions must be 'buffer' or 'policy', got {others_actions!r}."
            )
        if own_actions not in ("policy", "all"):
            raise ValueError(f"own_actions must be 'policy' or 'all', got {own_actions!r}.")
        if own_actions == "all" and not hasattr(actor_network, "get_dist"):
            raise ValueError(
                f"own_actions={own_actions!r} needs an actor over one-hot actions, with get_dist."
            )
        check_non_negative(logits_coeff=logits_coeff)
        low, high = (
            action_range(actor_network) if action_bounds is None else checked_bounds(action_bounds)
        )
        self.convert_to_functional(actor_network, "actor_network", create_target_params=delay_actor)
        self.convert_to_functional(qvalue_network, "qvalue_network", create_target_params=True)
        self.critics = PartnerCritics(self)
        self.register_coeff_buffer("gamma", float(gamma))
        self.register_coeff_buffer("lmbda", float(lmbda))
        self.looks_ahead = lmbda > 0
        self.register_coeff_buffer("logits_coeff", float(logits_coeff))
        self.penalized = logits_coeff > 0
        self.target_noise = TargetNoise(policy_noise, noise_clip, low=low, high=high)
        self.others_actions = others_actions
        self.own_actions = own_actions
        self.reduction = reduction

    @property
    def in_keys(self) -> list[NestedKey]:
        keys = self.tensor_keys
        read = [keys.action, *self.critics.in_keys(keys.action), *self.critics.target_keys(keys)]
        return unique([*read, next_key(keys.done)] if self.looks_ahead else read)

    def policy(self, tensordict: TensorDictBase) -> TensorDictBase:
        """What the actors write for a batch, with their gradient.

        Where another loss needs the same, as InfluenceLoss does, hand it to both: the
        actors then compute once, and once backwards, of the sum of the losses.

        Args:
            tensordict: batch ``[*B]``, as for ``forward``.

        Returns:
            The batch with it ``[*B]``: the actions ``[*B, N, A]``, or with
            ``own_actions="all"`` what their distribution is made of.

        Raises:
            ValueError: if the batch is empty or its entries do not fit each other.
            TypeError: if the actors compute in another dtype.
            KeyError: if the batch lacks a key.

        Examples:
            >>> from torchrl_alita.envs import make_env
            >>> from torchrl_alita.modules import make_actor, make_critic
            >>> env = make_env("vmas/spread", num_envs=5, n_agents=3, seed=0)
            >>> maddpg = MADDPGLoss(make_actor(env), make_critic(env))
            >>> policy = maddpg.policy(env.rollout(4).reshape(-1))
            >>> policy["agents", "action"].shape
            torch.Size([20, 3, 2])
        """
        return self._policy(check_batch(self, tensordict))

    @dispatch
    def forward(
        self, tensordict: TensorDictBase, policy: TensorDictBase | None = None
    ) -> TensorDictBase:
        batch = check_batch(self, tensordict, optional=[self.tensor_keys.priority_weight])
        losses = self._critic_losses(batch, tensordict)
        policy = self._policy(batch) if policy is None else policy
        gain = gain_of(self, batch, policy)
        return losses.set("loss_actor", self._reduce_loss(-gain, tensordict=batch))

    def critic_losses(self, tensordict: TensorDictBase) -> TensorDictBase:
        """What ``forward`` gives of the critics alone, for an update in which the actors wait.

        Args:
            tensordict: batch ``[*B]``, as for ``forward``, with the same errors.

        Returns:
            ``loss_qvalue``, ``pred_value`` and ``target_value``.
        """
        batch = check_batch(self, tensordict, optional=[self.tensor_keys.priority_weight])
        return self._critic_losses(batch, tensordict)

    def _critic_losses(self, batch: TensorDictBase, tensordict: TensorDictBase) -> TensorDict:
        check_sequences(self, batch)
        target = self.critics.td_target(
            batch,
            keys=self.tensor_keys,
            gamma=self.gamma,
            exploration=self.deterministic_sampling_mode,
            lmbda=self.lmbda if self.looks_ahead else None,
        )
        key = self.tensor_keys.state_action_value
        value = critics_values(self.qvalue_network, self.qvalue_network_params, batch, key)
        error = (value - target).square().sum((-1, -2))
        weights = row_weights(self, batch, error.shape)
        write_priority(self, tensordict, error)
        return TensorDict(
            {
                "loss_qvalue": self._reduce_loss(error, tensordict=batch, weights=weights),
                "pred_value": batch_mean(self, batch, value.mean((-1, -2))),
                "target_value": batch_mean(self, batch, target.mean((-1, -2))),
            }
        )

    def smooth_target_action(self, action: torch.Tensor) -> torch.Tensor:
        """TD3's noise on the actions of the target policies, ``[*B, N, A]``."""
        return self.target_noise(action)

    def _policy(self, batch: TensorDictBase) -> TensorDictBase:
        """What the actor writes, up to the parameters of its distribution for "all"."""
        network = self.actor_network
        return functional_call(
            self.actor_network_params,
            network,
            lambda: run_network(
                network,
                batch.copy(),
                exploration=self.deterministic_sampling_mode,
                draw=self.own_actions == "policy",
            ),
        )
