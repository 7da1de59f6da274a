"""Run networks with given parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import InteractionType, TensorDictModuleBase
from torch import nn
from torchrl.modules.models.multiagent import MultiAgentNetBase

from torchrl_alita._agents import gather_agents
from torchrl_alita._checks import require_written
from torchrl_alita.modules._acting import run_network
from torchrl_alita.modules._mlp import PlainMultiAgentMLP
from torchrl_alita.objectives._functional_call import functional_call


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

    A network with separate parameters for each agent, as from ``make_critic``, leaves the
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
