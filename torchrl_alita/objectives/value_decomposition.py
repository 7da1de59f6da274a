"""Q-learning of a team: VDN, QMIX, and independent Q-learning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import TensorDictModuleBase, dispatch
from torchrl.objectives import LossModule

from torchrl_alita._checks import (
    REDUCTIONS,
    check_choice,
    check_same_shape,
    check_share,
    require_written,
)
from torchrl_alita.layout import (
    ACTION,
    ACTION_VALUE,
    CHOSEN_ACTION_VALUE,
    DONE,
    REWARD,
    STEPS,
    TERMINATED,
    next_key,
)
from torchrl_alita.modules._acting import run_network
from torchrl_alita.modules._mlp import full_precision
from torchrl_alita.objectives._batch import (
    batch_mean,
    check_batch,
    check_sequences,
    row_weights,
    target_of,
    transition_discount,
    unique,
    write_priority,
)
from torchrl_alita.objectives._critics import following_inputs, following_keys, memory_keys
from torchrl_alita.objectives._functional_call import functional_call
from torchrl_alita.objectives._loss import house_loss
from torchrl_alita.objectives._rollout import taken

__all__ = ["ValueDecompositionLoss"]


@house_loss
class ValueDecompositionLoss(LossModule):
    r"""Q-learning of N agents whose values a mixer makes into the team's.

    .. math::
        L = E \left[(Q_{tot}(s, a) - r - \gamma \, Q^-_{tot}(s', a'))^2\right], \qquad
        a'_i = \arg\max_u Q_i(o'_i, u)

    Q_tot is what a mixer makes of the values Q_i of the actions taken: their sum is VDN
    (https://arxiv.org/abs/1706.05296), a monotonic network that reads the state is QMIX
    (https://arxiv.org/abs/1803.11485). r is the mean over the agents' rewards, which are one
    in a team. Without a mixer each agent learns for itself from its own reward, IQL
    (https://arxiv.org/abs/1511.08779), and the loss is the mean over the agents. The next
    action is the present networks' best and the targets' value of it counts, as in double
    Q-learning (https://arxiv.org/abs/1509.06461).

    With ``lmbda`` above 0 batches are sequences and the target is Peng's Q(lambda)
    (https://arxiv.org/abs/2103.00107), the :func:`torchrl_alita.functional.lambda_return` of
    the best actions' values. A reward reaches the values of many earlier steps at once.
    Returns go on through steps of exploration, so that the values are partly the behaviour's.

    The mixers are TorchRL's. Its QMixerLoss has no double Q-learning, and mixes the memory
    of two episodes where one ends and the next begins within a sequence.

    Networks with a memory take sequences ``[*B, T]``, see
    :class:`torchrl_alita.modules.MultiAgentGRU`.

    Args:
        local_value_network: values of each agent's actions and the best of them, as made by
            :func:`torchrl_alita.modules.make_qnetwork`.
        mixer_network: a TensorDictModule around a mixer of TorchRL, from
            ``("agents", "chosen_action_value")`` ``[*B, N, 1]`` and what it needs besides to
            ``"chosen_action_value"`` ``[*B, 1]``. Default: none.
        gamma: discount factor of a step, in [0, 1]. Default: 0.99, PyMARL's.
        double_q: the present networks choose the next action; otherwise the targets do.
        lmbda: how far the target looks ahead along a sequence ``[*B, T]``, in [0, 1].
            Default: 0, one step, and batches of any order; to schedule it, begin above 0.
        reduction: ``"none"`` (the shape of the batch), ``"mean"`` or ``"sum"``.

    Returns, from ``forward``, a TensorDict with ``loss_qvalue`` and, detached,
    ``pred_value`` and ``target_value``.

    Raises:
        ValueError: if gamma or lmbda is outside [0, 1] or the reduction unknown; when called,
            if the batch is empty or its entries do not fit each other, or with lmbda has no
            dimension of time.
        TypeError: if an argument is no number.
        KeyError: when called, if the batch lacks a key, or a network does not write one.

    Examples:
        >>> from torchrl.modules import VDNMixer
        >>> from torchrl.objectives import SoftUpdate
        >>> from tensordict.nn import TensorDictModule
        >>> from torchrl_alita.envs import make_env
        >>> from torchrl_alita.modules import make_qnetwork
        >>> env = make_env("push_box", num_envs=5, n_agents=2, seed=0)
        >>> mixer = TensorDictModule(
        ...     VDNMixer(n_agents=2, device="cpu"),
        ...     in_keys=[("agents", "chosen_action_value")],
        ...     out_keys=["chosen_action_value"],
        ... )
        >>> loss = ValueDecompositionLoss(make_qnetwork(env, recurrent=False), mixer)
        >>> updater = SoftUpdate(loss, tau=0.01)
        >>> loss(env.rollout(4).reshape(-1))["loss_qvalue"].backward()
    """

    @dataclass
    class _AcceptedKeys:
        """Keys that can be set with ``set_keys``.

        Attributes:
            action (NestedKey): read, and written by the local network. Default:
                ``("agents", "action")``.
            action_value (NestedKey): written by the local network. Default:
                ``("agents", "action_value")``.
            local_value (NestedKey): read by the mixer. Default:
                ``("agents", "chosen_action_value")``.
            global_value (NestedKey): written by the mixer. Default:
                ``"chosen_action_value"``.
            reward (NestedKey): read in "next". Default: ``("agents", "reward")``.
            terminated (NestedKey): read in "next", ``[*B, 1]``; without a mixer it may be
                ``[*B, N, 1]``. Default: ``"terminated"``.
            done (NestedKey): read in "next" if lmbda is above 0, ``[*B, T, 1]``. Default:
                ``"done"``.
            steps_to_next_obs (NestedKey): read where the batch has it, as of MultiStepTransform.
            priority_weight (NestedKey): read where the batch has it, ``[*B]`` or ``[*B, 1]``.
            priority (NestedKey): written into a batch that has priority weights. Default:
                ``"td_error"``.
        """

        action: NestedKey = ACTION
        action_value: NestedKey = ACTION_VALUE
        local_value: NestedKey = CHOSEN_ACTION_VALUE
        global_value: NestedKey = "chosen_action_value"
        reward: NestedKey = REWARD
        terminated: NestedKey = TERMINATED
        done: NestedKey = DONE
        steps_to_next_obs: NestedKey = STEPS
        priority_weight: NestedKey = "priority_weight"
        priority: NestedKey = "td_error"

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys
    out_keys = ["loss_qvalue", "pred_value", "target_value"]
    _schedulable_buffers = frozenset({"gamma", "lmbda"})

    local_value_network: TensorDictModuleBase
    local_value_network_params: TensorDictParams
    target_local_value_network_params: TensorDictParams
    # With a mixer alone.
    mixer_network: TensorDictModuleBase
    mixer_network_params: TensorDictParams | None
    target_mixer_network_params: TensorDictParams | None

    def __init__(
        self,
        local_value_network: TensorDictModuleBase,
        mixer_network: TensorDictModuleBase | None = None,
        *,
        gamma: float = 0.99,
        double_q: bool = True,
        lmbda: float = 0.0,
        reduction: Literal["none", "mean", "sum"] = "mean",
    ):
        super().__init__()
        check_share(gamma=gamma, lmbda=lmbda)
        check_choice("reduction", reduction, REDUCTIONS)
        self.convert_to_functional(
            local_value_network, "local_value_network", create_target_params=True
        )
        self.mixed = mixer_network is not None
        if self.mixed:
            self.convert_to_functional(mixer_network, "mixer_network", create_target_params=True)
        self.register_coeff_buffer("gamma", float(gamma))
        self.double_q = double_q
        self.register_coeff_buffer("lmbda", float(lmbda))
        self.looks_ahead = lmbda > 0
        self.reduction = reduction

    @property
    def in_keys(self) -> list[NestedKey]:
        return self._value_keys()

    def _value_keys(self) -> list[NestedKey]:
        """What Q-learning reads."""
        keys = self.tensor_keys
        network = self.local_value_network
        following = following_keys(network, self._read())
        target = [*following, next_key(keys.reward), next_key(keys.terminated)]
        target += [next_key(keys.done)] if self.looks_ahead else []
        return unique([keys.action, *self._read(), *target])

    def _read(self) -> list[NestedKey]:
        """What the networks read of a step."""
        mixer = self.mixer_network.in_keys if self.mixed else []
        local = self.tensor_keys.local_value
        return unique([*self.local_value_network.in_keys, *(k for k in mixer if k != local)])

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        keys = self.tensor_keys
        batch = check_batch(self, tensordict, optional=[keys.priority_weight])
        check_sequences(self, batch)
        agents = batch.get(keys.action).shape[:-1]
        check_same_shape(batch, next_key(keys.reward), (*agents, 1))
        own = not self.mixed and batch.get(next_key(keys.terminated)).ndim > len(agents)
        flags = agents if own else agents[:-1]
        check_same_shape(batch, next_key(keys.terminated), (*flags, 1))
        local = self._local(batch, self.local_value_network_params)
        check_same_shape(batch, keys.action, local.get(keys.action_value).shape)
        return self._losses(tensordict, batch, local)

    def _losses(
        self, tensordict: TensorDictBase, batch: TensorDictBase, local: TensorDictBase
    ) -> TensorDictBase:
        """What ``forward`` returns, of its batch and what the local network wrote of that."""
        keys = self.tensor_keys
        weights = row_weights(self, batch, batch.get(keys.action).shape[:-2])
        value = self._mixed(
            batch, taken(local.get(keys.action_value), batch.get(keys.action)), target=False
        )
        target = self._target(batch, local)
        error = self._per_row((value - target).square().squeeze(-1))
        write_priority(self, tensordict, error)
        return TensorDict(
            {
                "loss_qvalue": self._reduce_loss(error, tensordict=batch, weights=weights),
                "pred_value": batch_mean(self, batch, self._per_row(value.squeeze(-1))),
                "target_value": batch_mean(self, batch, self._per_row(target.squeeze(-1))),
            }
        )

    def _per_row(self, values: torch.Tensor) -> torch.Tensor:
        return values if self.mixed else values.mean(-1)

    def _local(
        self, batch: TensorDictBase, params: TensorDictBase, *, recurrent: bool = True
    ) -> TensorDictBase:
        """What the local network writes, a new tensordict."""
        network = self.local_value_network
        require_written(network, self.tensor_keys.action_value)
        return functional_call(
            params, network, lambda: run_network(network, batch.copy(), recurrent=recurrent)
        )

    def _mixed(self, batch: TensorDictBase, local: torch.Tensor, *, target: bool) -> torch.Tensor:
        """The team's value, ``[*B, N, 1] -> [*B, 1]``; without a mixer, what it was given."""
        if not self.mixed:
            return local
        network, keys = self.mixer_network, self.tensor_keys
        require_written(network, keys.global_value)
        inputs = batch.select(*(key for key in network.in_keys if key != keys.local_value))
        for key, seen in inputs.items(True, True):
            if seen.dtype != local.dtype:
                raise TypeError(
                    f"The mixer's values are {local.dtype}, its input {key} is {seen.dtype}: cast "
                    f"the batch or the network."
                )
        # TorchRL's mixers view their inputs, which must lie in one piece.
        inputs = inputs.set(keys.local_value, local).contiguous()
        params = self.target_mixer_network_params if target else self.mixer_network_params
        with full_precision(local):
            return functional_call(params, network, lambda: network(inputs).get(keys.global_value))

    @torch.no_grad()
    def _target(self, batch: TensorDictBase, local: TensorDictBase) -> torch.Tensor:
        """R + gamma Q'(s', a'), ``[*B, 1]``, or ``[*B, N, 1]`` without a mixer."""
        keys, network = self.tensor_keys, self.local_value_network
        params = self.target_local_value_network_params
        memory = bool(memory_keys(network))
        # Neither a memory nor a return sees the steps between.
        several = memory or self.looks_ahead
        gamma = transition_discount(self.gamma, batch, keys.steps_to_next_obs, memory=several)
        unrolled = self._local(batch, params) if memory else None
        following = following_inputs(network, self._read(), batch, unrolled)
        values = self._local(following, params, recurrent=False)
        best = values.get(keys.action)
        if self.double_q:
            present = following_inputs(network, self._read(), batch, local)
            params = self.local_value_network_params.data
            best = self._local(present, params, recurrent=False).get(keys.action)
        value = self._mixed(following, taken(values.get(keys.action_value), best), target=True)
        reward = batch.get(next_key(keys.reward))
        reward = reward if reward.is_floating_point() else reward.to(value.dtype)
        if self.mixed:
            reward, value = reward.mean(-2, keepdim=True), value.unsqueeze(-2)
        terminated = batch.get(next_key(keys.terminated))
        lmbda = self.lmbda if self.looks_ahead else None
        target = target_of(batch, keys, reward, terminated, value, gamma, lmbda)
        return target.squeeze(-2) if self.mixed else target
