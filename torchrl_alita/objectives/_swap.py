"""A network that computes with given parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from tensordict import TensorDictBase
from torch import nn

Result = TypeVar("Result")


def call_with(params: TensorDictBase, network: nn.Module, function: Callable[[], Result]) -> Result:
    """Call a function while a network holds the given parameters.

    The network has its own again afterwards, also after an error: tensordict's context
    leaves the given ones in place then, and a policy would act with its targets from
    there on.
    """
    error = None
    with params.to_module(network, preserve_module_state=False):
        try:
            result = function()
        except Exception as raised:
            error = raised
    if error is not None:
        raise error
    return result
