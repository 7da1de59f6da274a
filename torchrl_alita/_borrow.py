"""Modules that a module reads and does not own."""

from __future__ import annotations

from torch import nn

from torchrl_alita._checks import check_kind


def borrow(owner: nn.Module, name: str, module: nn.Module) -> None:
    """Give a module another one as an attribute, without its parameters and its state."""
    check_kind(name, module, nn.Module, "a torch module")
    owner.__dict__[name] = module
    owner.__dict__["_borrowed"] = (*owner.__dict__.get("_borrowed", ()), name)


def borrowed(owner: nn.Module) -> list[nn.Module]:
    """The modules that it reads and does not own."""
    return [owner.__dict__[name] for name in owner.__dict__.get("_borrowed", ())]
