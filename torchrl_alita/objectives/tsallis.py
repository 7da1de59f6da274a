"""Tsallis actor-critic, the maximum-entropy baseline TAC of Figure 5."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import ProbabilisticTensorDictSequential, TensorDictModuleBase, dispatch
from torchrl.objectives import LossModule

from torchrl_alita import functional
from torchrl_alita._checks import (
    REDUCTIONS,
    check_choice,
    check_non_negative,
    check_positive,
    check_share,
    check_whole,
)
from torchrl_alita.layout import (
    ACTION,
    LOC,
    REWARD,
    SCALE,
    STATE_VALUE,
    STEPS,
    TERMINATED,
    VALUE,
    next_key,
)
from torchrl_alita.modules._acting import distribution_of
from torchrl_alita.objectives._batch import (
    batch_mean,
    check_batch,
    row_weights,
    transition_discount,
    unique,
    write_priority,
)
from torchrl_alita.objectives._critics import following_inputs
from torchrl_alita.objectives._functional_call import functional_call
from torchrl_alita.objectives._loss import house_loss
from torchrl_alita.objectives._run import run

__all__ = ["TsallisLoss"]


@house_loss
class TsallisLoss(LossModule):
    r"""Losses of Tsallis actor-critic, ``[*B, N, .] -> []``.

    .. math::
        V(s) &\to E_{a \sim \pi} [\min_k Q_k(s, a) - c \ln_q \pi(a | s)], \qquad
        Q_k(s, a) \to \rho r + \gamma V_{target}(s') \\
        \nabla J &= E_{a \sim \pi} [\nabla \log \pi(a | s)
        (Q_1(s, a) - V(s) - c q \ln_q \pi(a | s))], \qquad
        \ln_q p = \frac{p^{q - 1} - 1}{q - 1}

    Source: https://arxiv.org/abs/1902.05551. A soft actor-critic whose entropy is that of
    Tsallis, :math:`-E \ln_q \pi`; with q = 1 it is Shannon's. The policy's gradient is that
    of the score function: the draws carry none. Defaults are those of the authors' code.
    The agents learn independently of each other.

    Args:
        actor_network: stochastic policies with ``get_dist``, see
            :func:`torchrl_alita.modules.make_gaussian_actor`.
        qvalue_network: writes ``[*B, N, C]``, C critics of each agent, see
            :func:`torchrl_alita.modules.make_critic`.
        value_network: writes ``[*B, N, 1]``, see :func:`torchrl_alita.modules.make_value`.
        gamma: discount factor of a step. Default: 0.99.
        entropic_index: q, positive. Default: 2.
        entropy_coeff: c, at least 0. Default: 0.8.
        reward_scale: rho, positive. Default: 3.
        param_coeff: weight of half the mean squares of the Gaussian's loc and logarithm of
            scale, at least 0. Default: 0.001.
        num_action_samples: M, actions drawn in each state. Default: 4.
        reduction: ``"none"`` (the shape of the batch), ``"mean"`` or ``"sum"``.

    Returns, from ``forward``, a TensorDict with ``loss_actor``, ``loss_qvalue`` and
    ``loss_value``, summed over the agents, and, detached, ``entropy`` and ``pred_value``.

    Raises:
        ValueError: if an argument is out of range or the actor is deterministic.
        KeyError: when called, if the batch lacks a key.

    Examples:
        >>> from torchrl.objectives import SoftUpdate
        >>> from torchrl_alita.envs import make_env
        >>> from torchrl_alita.modules import make_critic, make_gaussian_actor, make_value
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=1, seed=0)
        >>> critic = make_critic(env, num_critics=2)
        >>> loss = TsallisLoss(make_gaussian_actor(env), critic, make_value(env))
        >>> updater = SoftUpdate(loss, tau=0.01)
        >>> losses = loss(env.rollout(4).reshape(-1))
        >>> (losses["loss_actor"] + losses["loss_qvalue"] + losses["loss_value"]).backward()
    """

    @dataclass
    class _AcceptedKeys:
        """Keys that can be set with ``set_keys``.

        Attributes:
            action (NestedKey): read, and drawn by the actor. Default:
                ``("agents", "action")``.
            loc (NestedKey): written by the actor, for ``param_coeff``. Default:
                ``("agents", "loc")``.
            scale (NestedKey): written by the actor, for ``param_coeff``. Default:
                ``("agents", "scale")``.
            state_action_value (NestedKey): written by the critics. Default:
                ``("agents", "state_action_value")``.
            value (NestedKey): written by the value network. Default:
                ``("agents", "state_value")``.
            reward (NestedKey): read in "next". Default: ``("agents", "reward")``.
            terminated (NestedKey): read in "next", ``[*B, 1]`` or ``[*B, N, 1]``.
                Default: ``"terminated"``.
            steps_to_next_obs (NestedKey): read where the batch has it, as of MultiStepTransform.
            priority_weight (NestedKey): read where the batch has it, ``[*B]`` or ``[*B, 1]``.
            priority (NestedKey): written into a batch that has priority weights. Default:
                ``"td_error"``.
        """

        action: NestedKey = ACTION
        loc: NestedKey = LOC
        scale: NestedKey = SCALE
        state_action_value: NestedKey = VALUE
        value: NestedKey = STATE_VALUE
        reward: NestedKey = REWARD
        terminated: NestedKey = TERMINATED
        steps_to_next_obs: NestedKey = STEPS
        priority_weight: NestedKey = "priority_weight"
        priority: NestedKey = "td_error"

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys
    out_keys = ["loss_actor", "loss_qvalue", "loss_value", "entropy", "pred_value"]
    _schedulable_buffers = frozenset({"gamma", "entropy_coeff", "reward_scale", "param_coeff"})

    actor_network: ProbabilisticTensorDictSequential
    actor_network_params: TensorDictParams
    target_actor_network_params: TensorDictParams
    qvalue_network: TensorDictModuleBase
    qvalue_network_params: TensorDictParams
    target_qvalue_network_params: TensorDictParams
    value_network: TensorDictModuleBase
    value_network_params: TensorDictParams
    target_value_network_params: TensorDictParams

    def __init__(
        self,
        actor_network: ProbabilisticTensorDictSequential,
        qvalue_network: TensorDictModuleBase,
        value_network: TensorDictModuleBase,
        *,
        gamma: float = 0.99,
        entropic_index: float = 2.0,
        entropy_coeff: float = 0.8,
        reward_scale: float = 3.0,
        param_coeff: float = 1e-3,
        num_action_samples: int = 4,
        reduction: Literal["none", "mean", "sum"] = "mean",
    ):
        super().__init__()
        check_share(gamma=gamma)
        check_positive(entropic_index=entropic_index, reward_scale=reward_scale)
        check_non_negative(entropy_coeff=entropy_coeff, param_coeff=param_coeff)
        check_whole(1, num_action_samples=num_action_samples)
        check_choice("reduction", reduction, REDUCTIONS)
        if not hasattr(actor_network, "get_dist"):
            raise ValueError(
                f"actor_network must be stochastic, with get_dist, got "
                f"{type(actor_network).__name__}."
            )
        self.convert_to_functional(actor_network, "actor_network")
        self.convert_to_functional(qvalue_network, "qvalue_network")
        self.convert_to_functional(value_network, "value_network", create_target_params=True)
        self.register_coeff_buffer("gamma", float(gamma))
        self.register_coeff_buffer("entropy_coeff", float(entropy_coeff))
        self.register_coeff_buffer("reward_scale", float(reward_scale))
        self.register_coeff_buffer("param_coeff", float(param_coeff))
        self.entropic_index = float(entropic_index)
        self.num_action_samples = int(num_action_samples)
        self.reduction = reduction

    @property
    def in_keys(self) -> list[NestedKey]:
        keys = self.tensor_keys
        networks = (self.actor_network, self.qvalue_network, self.value_network)
        read = [key for network in networks for key in network.in_keys if key != keys.action]
        following = [next_key(key) for key in (*self.value_network.in_keys, keys.reward)]
        return unique([keys.action, *read, *following, next_key(keys.terminated)])

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        batch = check_batch(self, tensordict, optional=[self.tensor_keys.priority_weight])
        policy, distribution = self._policy(batch)
        with torch.no_grad():
            action = distribution.sample((self.num_action_samples,))
        log_prob = distribution.log_prob(action)
        log_prob = log_prob.sum(-1) if log_prob.shape == action.shape else log_prob
        log_prob = log_prob.unsqueeze(-1)
        surprise = functional.q_logarithm(log_prob.detach(), self.entropic_index)
        drawn = self._drawn_values(batch, action)
        value = self._value(batch, self.value_network_params)
        soft = drawn.amin(-1, keepdim=True) - self.entropy_coeff * surprise
        weight = (
            drawn[..., :1] - value.detach() - self.entropic_index * self.entropy_coeff * surprise
        )
        gain = (log_prob * weight).mean(0).sum((-1, -2)) - self._param_penalty(policy)
        pred_value, error = self._critics_error(batch)
        value_error = (value - soft.mean(0)).square().sum((-1, -2))
        weights = row_weights(self, batch, error.shape)
        write_priority(self, tensordict, error)
        return TensorDict(
            {
                "loss_actor": self._reduce_loss(-gain, tensordict=batch, weights=weights),
                "loss_qvalue": self._reduce_loss(error, tensordict=batch, weights=weights),
                "loss_value": self._reduce_loss(value_error, tensordict=batch, weights=weights),
                "entropy": batch_mean(self, batch, -surprise.mean(0).mean((-1, -2))),
                "pred_value": batch_mean(self, batch, pred_value.mean((-1, -2))),
            }
        )

    def _policy(
        self, batch: TensorDictBase
    ) -> tuple[TensorDictBase, torch.distributions.Distribution]:
        network = self.actor_network
        return functional_call(
            self.actor_network_params, network, lambda: distribution_of(network, batch.copy())
        )

    def _param_penalty(self, policy: TensorDictBase) -> torch.Tensor:
        """What holds the Gaussian near the standard one, ``[*B]``."""
        loc, scale = policy.get(self.tensor_keys.loc), policy.get(self.tensor_keys.scale)
        squares = loc.square() + scale.log().square()
        return 0.5 * self.param_coeff * squares.mean(-1).sum(-1)

    @torch.no_grad()
    def _drawn_values(self, batch: TensorDictBase, action: torch.Tensor) -> torch.Tensor:
        """Q_k at the drawn actions, ``[M, *B, N, A] -> [M, *B, N, C]``."""
        inputs = batch.expand(len(action), *batch.batch_size).copy()
        inputs.set(self.tensor_keys.action, action)
        params = self.qvalue_network_params.data
        return run(self.qvalue_network, params, inputs, self.tensor_keys.state_action_value)

    def _value(self, inputs: TensorDictBase, params: TensorDictBase) -> torch.Tensor:
        return run(self.value_network, params, inputs, self.tensor_keys.value)

    def _critics_error(self, batch: TensorDictBase) -> tuple[torch.Tensor, torch.Tensor]:
        """Values ``[*B, N, C]`` and squared errors ``[*B]`` of the critics."""
        keys = self.tensor_keys
        with torch.no_grad():
            network = self.value_network
            following = following_inputs(network, network.in_keys, batch, None)
            target = functional.td_target(
                self.reward_scale * batch.get(next_key(keys.reward)),
                batch.get(next_key(keys.terminated)),
                self._value(following, self.target_value_network_params),
                transition_discount(self.gamma, batch, keys.steps_to_next_obs),
            )
        value = run(self.qvalue_network, self.qvalue_network_params, batch, keys.state_action_value)
        return value.detach(), (value - target).square().sum((-1, -2))
