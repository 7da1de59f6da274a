"""A view of the actor and the critics that live in a partner's loss."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import InteractionType, TensorDictModuleBase
from torch import nn
from torchrl.modules.models.multiagent import MultiAgentNetBase
from torchrl.objectives import LossModule

from torchrl_alita import functional
from torchrl_alita._agents import gather_agents
from torchrl_alita._checks import require_written
from torchrl_alita.layout import IS_INIT, REWARD, TERMINATED, next_key
from torchrl_alita.modules._acting import run_network
from torchrl_alita.modules._mlp import PlainMultiAgentMLP
from torchrl_alita.objectives._batch import unique
from torchrl_alita.objectives._functional_call import functional_call
from torchrl_alita.objectives._loss import copy_tied


def run(
    network: TensorDictModuleBase,
    params: TensorDictBase,
    inputs: TensorDictBase,
    key: NestedKey,
    *,
    exploration: InteractionType = InteractionType.DETERMINISTIC,
    recurrent: bool = True,
    **options: Any,
) -> torch.Tensor:
    """What a network writes with the given parameters, also with a stack of them.

    A stack of parameters, as TorchRL's TD3Loss holds, gives a leading dimension.

    Raises:
        KeyError: if it does not write the key; what it writes is named.
    """
    require_written(network, key)

    def call(params: TensorDictBase) -> torch.Tensor:
        def forward() -> torch.Tensor:
            result = run_network(
                network, inputs.copy(), exploration=exploration, recurrent=recurrent, **options
            )
            return result.get(key)

        return functional_call(params, network, forward)

    if not params.batch_dims:
        return call(params)
    # Each of them with a draw of its own, where it has dropout.
    return torch.vmap(call, randomness="different")(params)


def critics_values(
    network: TensorDictModuleBase,
    params: TensorDictBase,
    inputs: TensorDictBase,
    key: NestedKey,
    agents: Sequence[int] | None = None,
) -> torch.Tensor:
    """Values of C critics for each of M agents, ``[(C,) *B, M, C]``; None for all.

    A network with separate parameters for each agent, as of ``make_critic``, leaves the
    others out; of any other what they get is dropped. One that writes a value for each
    agent without a dimension of critics, ``[*B, N]``, has one critic.
    """
    chooses = agents is not None and getattr(network, "chooses_agents", False)
    if chooses:
        # A batch's groups may be of N agents, and what is written is of M.
        alone = TensorDict({name: inputs.get(name) for name in network.in_keys})
        values = run(network, params, alone, key, agents=agents)
    else:
        values = _values_of_joints(network, params, inputs, key)
    if values.ndim == params.batch_dims + inputs.batch_dims + 1:
        values = values.unsqueeze(-1)
    return values if chooses else gather_agents(values, agents, -2)


def _values_of_joints(
    network: TensorDictModuleBase, params: TensorDictBase, inputs: TensorDictBase, key: NestedKey
) -> torch.Tensor:
    """Values, also of a joint action for each critic, ``[*B, N, N, A]``.

    TorchRL's networks of several agents take one joint action: they are run with each of the
    N, and what critic i says of the i-th counts.
    """
    seen = {name: inputs.get(name, None) for name in network.in_keys}
    of_each = [
        name
        for name, value in seen.items()
        if value is not None and value.ndim == inputs.batch_dims + 3
    ]
    if not of_each or not any(map(_takes_one_joint, network.modules())):
        return run(network, params, inputs, key)
    (action,) = of_each
    joint = inputs.get(action).movedim(-3, 0)
    inputs = inputs.exclude(action).expand(len(joint), *inputs.batch_size)
    values = run(network, params, inputs.set(action, joint), key)
    return values.diagonal(dim1=params.batch_dims, dim2=-2).movedim(-1, -2)


def _takes_one_joint(module: nn.Module) -> bool:
    return isinstance(module, MultiAgentNetBase) and not isinstance(module, PlainMultiAgentMLP)


def lowest(values: torch.Tensor, num_stacked: int) -> torch.Tensor:
    """Least value over the critics of an agent, ``[(C,) *B, N, C] -> [*B, N, 1]``."""
    values = values.amin(-1, keepdim=True)
    return values.amin(0) if num_stacked else values


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
            f"{type(partner).__name__} has no actor_network with a qvalue_network or value_network."
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
    ) -> torch.Tensor:
        """Targets of Eq. 1 and 6 for all agents, ``[*B, N, 1]``."""
        network, params = self.actor_network, self.partner.target_actor_network_params
        unrolled = unroll(network, params, inputs, exploration)
        following = following_inputs(network, self.in_keys(keys.action), inputs, unrolled)
        next_value = self.value(
            following,
            self.next_action(following, keys.action, exploration),
            keys=keys,
            params=getattr(self.partner, f"target_{self.name}_params"),
        )
        return functional.td_target(
            inputs.get(next_key(self.reward_key(keys))),
            inputs.get(next_key(self.terminated_key(keys))),
            next_value,
            gamma,
        )


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
    for key in memory_keys(network):
        following.set(key, unrolled.get(next_key(key)).detach())
        following.set(IS_INIT, torch.zeros_like(inputs.get(IS_INIT)))
    return following
