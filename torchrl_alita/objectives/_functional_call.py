"""A network that computes with given parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from tensordict import TensorDictBase, TensorDictParams
from torch import nn

from torchrl_alita.modules._acting import alone_with

Result = TypeVar("Result")
# A module, which of its dicts, the name in it, and what was there.
_Place = tuple[nn.Module, dict[str, Any], str, Any]


def functional_call(
    params: TensorDictBase, network: nn.Module, function: Callable[[], Result]
) -> Result:
    """Call a function while a network holds the given parameters.

    The network has its own again afterwards, also after an error: the context of
    ``params.to_module(network)`` leaves the given ones in place then, and a policy would
    act with its targets from there on. That context also makes a tensordict of the
    network's own parameters, which takes ``torch.compile`` as long to trace as all else.
    No other thread runs the network meanwhile that asks for it in the same way.

    Args:
        params: nested as the network is.
        network: may have its parameters in ordinary modules and in tensordicts.
        function: without arguments.
    """
    own: list[_Place] = []
    with alone_with(network):
        try:
            _swap(network, params, own)
            return function()
        finally:
            for module, holder, name, value in reversed(own):
                if not torch.compiler.is_compiling():
                    # Another context within, as in the text of an error, moves tensors there.
                    module.__dict__.pop(name, None)
                holder[name] = value


def _swap(module: nn.Module, params: TensorDictBase, own: list[_Place]) -> None:
    """Give a module these parameters, and add to a list where it had what."""
    for name, value in params.items():
        if isinstance(value, torch.Tensor):
            holder = _holder(module, name)
        elif isinstance(module._modules[name], TensorDictBase):
            # TorchRL's networks of several agents: theirs are a TensorDictParams.
            holder, value = module._modules, TensorDictParams(value, no_convert=True)
        else:
            _swap(module._modules[name], value, own)
            continue
        own.append((module, holder, name, holder[name]))
        holder[name] = value


def _holder(module: nn.Module, name: str) -> dict[str, Any]:
    """Where a module has a tensor; one that another context has put there lies openly."""
    for holder in (module._parameters, module._buffers):
        if name in holder:
            return holder
    return module.__dict__
