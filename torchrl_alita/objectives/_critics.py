"""A view of the actor and the critics that live in a partner's loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.modules import set_recurrent_mode
from torchrl.objectives import LossModule

from torchrl_alita import functional
from torchrl_alita._agents import gather_agents
from torchrl_alita._checks import check_share, require_written
from torchrl_alita.layout import IS_INIT, next_key
from torchrl_alita.objectives._batch import unique
from torchrl_alita.objectives._functional_call import functional_call


def run(
    network: TensorDictModuleBase,
    params: TensorDictBase,
    inputs: TensorDictBase,
    key: NestedKey,
    **options: Any,
) -> torch.Tensor:
    """Run a network with the given parameters, also with a stack of them.

    A stack of parameters, as TorchRL's TD3Loss holds, gives a leading dimension.

    Raises:
        KeyError: if it does not write the key; what it writes is named.
    """
    require_written(network, key)

    def call(params: TensorDictBase) -> torch.Tensor:
        return functional_call(params, network, lambda: network(inputs.copy(), **options).get(key))

    return torch.vmap(call)(params) if params.batch_dims else call(params)


def run_of(
    agents: Sequence[int] | None,
    network: TensorDictModuleBase,
    params: TensorDictBase,
    inputs: TensorDictBase,
    key: NestedKey,
) -> torch.Tensor:
    """As :func:`run`, of M agents alone, ``[(C,) *B, M, C]``; None for all.

    A network with separate parameters for each agent, as of ``make_critic``, leaves the
    others out; of any other what they get is dropped.
    """
    if agents is None or not getattr(network, "chooses_agents", False):
        return gather_agents(run(network, params, inputs, key), agents, -2)
    # A batch's groups may be of N agents, and what is written is of M.
    alone = TensorDict({name: inputs.get(name) for name in network.in_keys})
    return run(network, params, alone, key, agents=agents)


def lowest(values: torch.Tensor, num_stacked: int) -> torch.Tensor:
    """Least value over the critics of an agent, ``[(C,) *B, N, C] -> [*B, N, 1]``."""
    values = values.amin(-1, keepdim=True)
    return values.amin(0) if num_stacked else values


class PartnerCritics:
    """Actor, critics and targets of a loss such as MADDPGLoss, DDPGLoss or TD3Loss.

    The loss keeps what is its own; nothing is copied or registered here.

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

    @property
    def network(self) -> TensorDictModuleBase:
        return getattr(self.partner, self.name)

    @property
    def params(self) -> TensorDictBase:
        return getattr(self.partner, f"{self.name}_params")

    @property
    def actor_network(self) -> TensorDictModuleBase:
        return self.partner.actor_network

    def discount(self, gamma: float | None) -> float:
        """The given discount factor, or the partner's.

        Raises:
            ValueError: if there is none, or it is outside [0, 1].
            TypeError: if it is no number.
        """
        gamma = getattr(self.partner, "gamma", None) if gamma is None else gamma
        if gamma is None:
            raise ValueError("gamma must be in [0, 1], got None: the partner has none.")
        check_share(gamma=gamma)
        return float(gamma)

    def in_keys(self, action: NestedKey) -> list[NestedKey]:
        """What actor and critics read besides the action."""
        keys = unique([*self.actor_network.in_keys, *self.network.in_keys])
        return [key for key in keys if key != action]

    def target_keys(self, keys: LossModule._AcceptedKeys) -> list[NestedKey]:
        """What :meth:`td_target` reads."""
        read = following_keys(self.actor_network, self.in_keys(keys.action))
        return [*read, next_key(keys.reward), next_key(keys.terminated)]

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
        values = run_of(agents, self.network, params, inputs, keys.state_action_value)
        return lowest(values, params.batch_dims)

    def next_action(self, inputs: TensorDictBase, action: NestedKey) -> torch.Tensor:
        """Actions of the target policies, smoothed where the partner does so."""
        params = self.partner.target_actor_network_params
        fresh = run_step(self.actor_network, params, inputs, action)
        smooth = getattr(self.partner, "smooth_target_action", None)
        return fresh if smooth is None else smooth(fresh)

    @torch.no_grad()
    def td_target(
        self,
        inputs: TensorDictBase,
        *,
        keys: LossModule._AcceptedKeys,
        gamma: torch.Tensor,
    ) -> torch.Tensor:
        """Targets of Eq. 1 and 6 for all agents, ``[*B, N, 1]``."""
        network, params = self.actor_network, self.partner.target_actor_network_params
        unrolled = unroll(network, params, inputs)
        following = following_inputs(network, self.in_keys(keys.action), inputs, unrolled)
        next_value = self.value(
            following,
            self.next_action(following, keys.action),
            keys=keys,
            params=getattr(self.partner, f"target_{self.name}_params"),
        )
        return functional.td_target(
            inputs.get(next_key(keys.reward)),
            inputs.get(next_key(keys.terminated)),
            next_value,
            gamma,
        )


def run_step(
    network: TensorDictModuleBase, params: TensorDictBase, inputs: TensorDictBase, key: NestedKey
) -> torch.Tensor:
    """As :func:`run`; a network with a memory makes one step of each row."""
    with set_recurrent_mode(False):
        return run(network, params, inputs, key)


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
    network: TensorDictModuleBase, params: TensorDictBase, inputs: TensorDictBase
) -> TensorDictBase | None:
    """What a network with a memory writes over a batch; None for any other."""
    if not memory_keys(network):
        return None
    return functional_call(params, network, lambda: network(inputs.copy()))


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
