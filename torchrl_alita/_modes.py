"""Modules in evaluation mode for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["without_training"]


@contextmanager
def without_training(*functions: object) -> Iterator[None]:
    """Modules without dropout, whose running statistics stay as they are; others as they are."""
    modules = [function for function in functions if isinstance(function, nn.Module)]
    training = [part for module in modules for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True
