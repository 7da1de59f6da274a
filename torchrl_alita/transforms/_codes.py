"""What the bonuses from counts share: how they call a code, and tell whose it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from torchrl_alita._checks import check_at_least_one, whole


def number_of_codes(name: str, code: Callable, given: int | None) -> int:
    """How many codes there are: what was said, or what the code says of itself."""
    own = getattr(code, "num_codes", None)
    if given is None and own is None:
        raise ValueError(f"{name} does not say how many codes it has: give num_codes.")
    if given is not None:
        check_at_least_one(num_codes=given)
    if None not in (given, own) and own != given:
        raise ValueError(f"{name} has {own} codes, but num_codes is {given}.")
    return whole("num_codes", own if given is None else given)


def call(name: str, code: Callable, *observations: torch.Tensor) -> torch.Tensor:
    """Codes of the team ``[*B]`` or of each agent ``[*B, N]``; anything else is refused."""
    codes: Any = code(*observations)
    shape = observations[0].shape
    if not isinstance(codes, torch.Tensor) or codes.dtype != torch.long:
        found = codes.dtype if isinstance(codes, torch.Tensor) else type(codes).__name__
        raise TypeError(f"{name} must give a tensor of int64, got {found}.")
    if codes.shape not in (shape[:-1], shape[:-2]):
        raise ValueError(
            f"{name} must have the shape {tuple(shape[:-2])}, of the team, or "
            f"{tuple(shape[:-1])}, of each agent, got {tuple(codes.shape)}."
        )
    return codes


def each_agent(name: str, code: Callable, *observations: torch.Tensor) -> torch.Tensor:
    """Codes of each agent, ``[*B, N]``."""
    codes = call(name, code, *observations)
    if codes.ndim != observations[0].ndim - 1:
        raise ValueError(
            f"{name} must be each agent's, {tuple(observations[0].shape[:-1])}, got the team's, "
            f"{tuple(codes.shape)}."
        )
    return codes
