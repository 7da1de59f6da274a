"""A view of the actor and the critics that live in a partner's loss."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import InteractionType, TensorDictModuleBase
from torchrl.objectives import LossModule

from torchrl_alita.layout import IS_INIT, REWARD, STEPS, TERMINATED, next_key
from torchrl_alita.modules._acting import run_network
from torchrl_alita.objectives._batch import target_of, transition_discount, unique
from torchrl_alita.objectives._functional_call import functional_call
from torchrl_alita.objectives._loss import copy_tied
from torchrl_alita.objectives._run import critics_values, lowest, run


class PartnerCritics:
    """Actor, critics, targets and keys of a loss such as MADDPGLoss, DDPGLoss or TD3Loss.

    The loss keeps what is its own; nothing is copied or registered here, and what the loss
    says of its reward, its gamma and its draws is asked for at every use.

    Args:
        partner: a loss with an ``actor_network`` and a ``qvalue_network`` or
            ``value_network`` that writes ``[*B, N, C]``.

    Raises:
        ValueError: if it has none.
    """

    def __init__(self, partner: LossModule):
        for name in ("qvalue_network", "value_network"):
            own = getattr(partner, "__dict__", {})
            if name in own and "actor_network" in own:
                self.partner = partner
                self.name = name
                return
        raise ValueError(
            f"{type(partner).__name__} has no actor_network with a qvalue_network or value_network: "
            f"the influence needs critics of states and actions, as MADDPGLoss, DDPGLoss and "
            f"TD3Loss have."
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> PartnerCritics:
        result = memo[id(self)] = copy.copy(self)
        result.partner = copy_tied(self.partner, memo)
        return result

    @property
    def network(self) -> TensorDictModuleBase:
        return getattr(self.partner, self.name)

    @property
    def params(self) -> TensorDictBase:
        return getattr(self.partner, f"{self.name}_params")

    @property
    def actor_network(self) -> TensorDictModuleBase:
        return self.partner.actor_network

    def gamma(self) -> torch.Tensor | float:
        """The partner's discount factor as it is now.

        Raises:
            ValueError: if it has none.
        """
        gamma = getattr(self.partner, "gamma", None)
        if gamma is None:
            gamma = getattr(getattr(self.partner, "_value_estimator", None), "gamma", None)
        if gamma is None:
            raise ValueError("gamma must be in [0, 1], got None: the partner has none.")
        return gamma

    def exploration_of(self, loss: LossModule) -> InteractionType:
        """How a loss that borrows takes actions from distributions: as the partner, unless told."""
        told = loss.__dict__.get("deterministic_sampling_mode")
        return self.partner.deterministic_sampling_mode if told is None else told

    def reward_key(self, keys: LossModule._AcceptedKeys) -> NestedKey:
        """Of the reward: the borrower's, if it was told one, or the partner's."""
        return self._key("reward", keys, REWARD)

    def terminated_key(self, keys: LossModule._AcceptedKeys) -> NestedKey:
        """Of the flag of termination: the borrower's, if it was told one, or the partner's."""
        return self._key("terminated", keys, TERMINATED)

    @property
    def steps_key(self) -> NestedKey:
        """Of the number of steps that a transition is of, read where a batch has it."""
        return getattr(self.partner.tensor_keys, "steps_to_next_obs", STEPS)

    def _key(self, name: str, keys: LossModule._AcceptedKeys, default: NestedKey) -> NestedKey:
        told = getattr(keys, name)
        return getattr(self.partner.tensor_keys, name, default) if told is None else told

    def in_keys(self, action: NestedKey) -> list[NestedKey]:
        """What actor and critics read besides the action."""
        keys = unique([*self.actor_network.in_keys, *self.network.in_keys])
        return [key for key in keys if key != action]

    def target_keys(self, keys: LossModule._AcceptedKeys) -> list[NestedKey]:
        """What :meth:`td_target` reads."""
        read = following_keys(self.actor_network, self.in_keys(keys.action))
        return [*read, next_key(self.reward_key(keys)), next_key(self.terminated_key(keys))]

    def value(
        self,
        inputs: TensorDictBase,
        action: torch.Tensor,
        *,
        keys: LossModule._AcceptedKeys,
        params: TensorDictBase | None = None,
        agents: Sequence[int] | None = None,
    ) -> torch.Tensor:
        """Q_i of a joint action, ``[*B, N, A] -> [*B, N, 1]``, without critics' gradient.

        Of M ``agents`` alone, ``[*B, M, 1]``.
        """
        params = self.params.data if params is None else params
        inputs = inputs.copy().set(keys.action, action)
        values = critics_values(self.network, params, inputs, keys.state_action_value, agents)
        return lowest(values, params.batch_dims)

    def next_action(
        self, inputs: TensorDictBase, action: NestedKey, exploration: InteractionType
    ) -> torch.Tensor:
        """Actions of the target policies, smoothed where the partner does so."""
        params = self.partner.target_actor_network_params
        fresh = run(
            self.actor_network, params, inputs, action, exploration=exploration, recurrent=False
        )
        smooth = getattr(self.partner, "smooth_target_action", None)
        return fresh if smooth is None else smooth(fresh)

    @torch.no_grad()
    def td_target(
        self,
        inputs: TensorDictBase,
        *,
        keys: LossModule._AcceptedKeys,
        gamma: torch.Tensor | float,
        exploration: InteractionType,
        lmbda: torch.Tensor | float | None = None,
    ) -> torch.Tensor:
        """Targets of Eq. 1 and 6 for all agents, ``[*B, N, 1]``, also of several steps.

        With ``lmbda`` lambda returns along sequences ``[*B, T]``.
        """
        network, params = self.actor_network, self.partner.target_actor_network_params
        memory = bool(memory_keys(network))
        several = memory or lmbda is not None
        gamma = transition_discount(gamma, inputs, self.steps_key, memory=several)
        unrolled = unroll(network, params, inputs, exploration)
        following = following_inputs(network, self.in_keys(keys.action), inputs, unrolled)
        next_value = self.value(
            following,
            self.next_action(following, keys.action, exploration),
            keys=keys,
            params=getattr(self.partner, f"target_{self.name}_params"),
        )
        reward = inputs.get(next_key(self.reward_key(keys)))
        terminated = inputs.get(next_key(self.terminated_key(keys)))
        return target_of(inputs, keys, reward, terminated, next_value, gamma, lmbda)


def memory_keys(network: TensorDictModuleBase) -> list[NestedKey]:
    """What a network with a memory keeps from step to step; nothing for any other."""
    return [key for key in network.in_keys if next_key(key) in network.out_keys]


def following_keys(network: TensorDictModuleBase, keys: list[NestedKey]) -> list[NestedKey]:
    """What :func:`following_inputs` reads of the next step, as a batch has it."""
    return [next_key(key) for key in _observed(network, keys)]


def _observed(network: TensorDictModuleBase, keys: list[NestedKey]) -> list[NestedKey]:
    memory = memory_keys(network)
    return [key for key in keys if not memory or key not in (*memory, IS_INIT)]


def unroll(
    network: TensorDictModuleBase,
    params: TensorDictBase,
    inputs: TensorDictBase,
    exploration: InteractionType = InteractionType.DETERMINISTIC,
) -> TensorDictBase | None:
    """What a network with a memory writes over a batch; None for any other."""
    if not memory_keys(network):
        return None
    return functional_call(
        params, network, lambda: run_network(network, inputs.copy(), exploration=exploration)
    )


def following_inputs(
    network: TensorDictModuleBase,
    keys: list[NestedKey],
    inputs: TensorDictBase,
    unrolled: TensorDictBase | None,
) -> TensorDict:
    """The given entries at the next step.

    The memory with which a network comes to the next step follows from this one, and is
    taken from what :func:`unroll` gave: the stored one is that of the network that acted
    then. At an episode's end too it is that of this episode, as the observation there is.
    """
    following = TensorDict(batch_size=inputs.batch_size)
    for key in _observed(network, keys):
        following.set(key, inputs.get(next_key(key)))
    if unrolled is None:
        return following
    for key in memory_keys(network):
        following.set(key, unrolled.get(next_key(key)).detach())
        following.set(IS_INIT, torch.zeros_like(inputs.get(IS_INIT)))
    return following
