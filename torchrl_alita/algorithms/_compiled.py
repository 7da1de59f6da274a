"""Compiled functions that go on without compilation where it fails."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase

Function = Callable[..., Any]


class Compiled:
    """A function of batches, compiled; eager from where that fails, with one warning.

    Random numbers are drawn as in eager mode, so that both give the same up to rounding.

    Args:
        function: to compile as one graph.
        mode: of ``torch.compile``; None leaves the function as it is.
        then: what is done with its result, under the same protection.
    """

    def __init__(
        self, function: Function, *, mode: str | None, then: Function = lambda result: result
    ):
        self.function = function
        self.then = then
        self.compiled = None if mode is None else _compile(function, mode)

    def __call__(self, *inputs: Any) -> Any:
        if self.compiled is None:
            return self.then(self.function(*inputs))
        try:
            return self.then(self.compiled(*inputs))
        except Exception as error:
            # What is wrong with the inputs is no fault of the compiler.
            result = self.then(self.function(*inputs))
            self.compiled = None
            warn_not_compiled(error)
            return result


def warn_not_compiled(error: Exception) -> None:
    """Say once why a function goes on eager; to be called where it is called."""
    reason = str(error).strip().splitlines() or [""]
    warnings.warn(
        f"torch.compile failed, the update goes on without it: {type(error).__name__}: {reason[0]}",
        stacklevel=4,
    )


def _compile(function: Function, mode: str) -> Function:
    options = {} if mode == "default" else torch._inductor.list_mode_options(mode)
    options = {**options, "fallback_random": True}
    return torch.compile(function, fullgraph=True, dynamic=False, options=options)


def differentiate(losses: TensorDictBase) -> TensorDict:
    """Add the gradient of the sum of all ``loss_*`` to the parameters; the values, detached."""
    sum(value for key, value in losses.items() if key.startswith("loss_")).backward()
    return losses.detach()
