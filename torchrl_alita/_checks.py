"""Checks of arguments and batches, with one clear error each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from tensordict import NestedKey, TensorDictBase

# Loose enough for probabilities that were computed in float32.
SUM_TOLERANCE = 1e-6

__all__ = [
    "agent_indices",
    "check_agent_range",
    "check_at_least_one",
    "check_distribution",
    "check_finite",
    "check_listed",
    "check_non_negative",
    "check_positive",
    "check_weights",
    "default_influencees",
    "require_keys",
]


def agent_indices(name: str, agents: int | Sequence[int]) -> tuple[int, ...]:
    """One index or several as a tuple of distinct, non-negative integers."""
    indices = (agents,) if isinstance(agents, int) else tuple(agents)
    if not indices or min(indices) < 0 or len(set(indices)) < len(indices):
        raise ValueError(f"{name} must be distinct agents, from 0 on, got {agents}.")
    return indices


def check_agent_range(name: str, agents: Iterable[int], num_agents: int) -> None:
    for agent in agents:
        if not 0 <= agent < num_agents:
            raise ValueError(
                f"{name} must be at least 0 and below the number of agents, {num_agents}, "
                f"got {agent}."
            )


def check_listed(influencer: int, influencees: Sequence[int] | None) -> None:
    """What can be said of the agents before their number is known."""
    agent_indices("influencer", influencer)
    if influencees is not None and influencer in agent_indices("influencees", influencees):
        raise ValueError(
            f"The influencer {influencer} cannot be among its influencees {list(influencees)}."
        )


def default_influencees(
    influencer: int, influencees: Sequence[int] | None, num_agents: int
) -> tuple[int, ...]:
    """The teammates that count: those listed, or everybody but the influencer."""
    check_agent_range("influencer", [influencer], num_agents)
    if influencees is None:
        influencees = [agent for agent in range(num_agents) if agent != influencer]
    check_listed(influencer, influencees)
    check_agent_range("influencees", influencees, num_agents)
    return tuple(influencees)


def check_weights(
    weights: Sequence[float] | None, count: int, *, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Positive weights ``[count]`` that sum to 1. Default: equal ones."""
    if weights is None:
        return torch.full((count,), 1 / count, dtype=dtype)
    values = [float(weight) for weight in weights]
    if len(values) != count:
        raise ValueError(f"weights must be {count}, one for each influencee, got {values}.")
    if not all(value > 0 for value in values) or abs(sum(values) - 1) > 1e-6:
        raise ValueError(f"weights must be positive and sum to 1, got {values}.")
    return torch.tensor(values, dtype=dtype)


def check_at_least_one(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")


def check_positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}.")


def check_non_negative(**values: float | torch.Tensor) -> None:
    for name, value in values.items():
        tensor = torch.as_tensor(value)
        if tensor.numel() == 0 or not bool((tensor >= 0).all()) or math.isinf(float(tensor.max())):
            raise ValueError(f"{name} must be finite and at least 0, got {value}.")


def require_keys(tensordict: TensorDictBase, keys: Iterable[NestedKey]) -> None:
    """Raise a KeyError that names the first missing key and the keys present."""
    for key in keys:
        if tensordict.get(key, None) is None:
            present = sorted(str(k) for k in tensordict.keys(True, True))
            raise KeyError(f"The batch has no {key}; it has {present}.")


def check_finite(name: str, values: torch.Tensor) -> torch.Tensor:
    """The values, if all are finite; otherwise an error that names the first that is not."""
    _check_entries(name, values, values.isfinite(), "be finite")
    return values


def check_distribution(name: str, rows: torch.Tensor) -> torch.Tensor:
    """Rows of probabilities ``[*B, S]`` divided by their sums, if these are 1 within 1e-6."""
    check_finite(name, rows)
    _check_entries(name, rows, rows >= 0, "be at least 0")
    total = rows.sum(-1)
    good = (total - 1).abs() <= SUM_TOLERANCE
    _check_entries(name, total, good, f"sum to 1 within {SUM_TOLERANCE:g}")
    return rows / total.unsqueeze(-1)


def _check_entries(name: str, values: torch.Tensor, good: torch.Tensor, requirement: str) -> None:
    if not bool(good.all()):
        index = (~good).nonzero()[0].tolist()
        where = f"{name}{index}" if index else name
        raise ValueError(f"{where} must {requirement}, got {values[tuple(index)].item():.10g}.")
