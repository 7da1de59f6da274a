"""Entries of some agents alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def gather_agents(tensor: torch.Tensor, agents: Sequence[int] | None, dim: int) -> torch.Tensor:
    """The entries of these agents, in their order, along a dimension of all agents; None for all.

    A view where the agents lie side by side, or where their entries are one and the same. A
    list as an index would be carried to the device at every call.
    """
    if agents is None:
        return tensor
    if tensor.stride(dim) == 0:
        return tensor.narrow(dim, 0, len(agents))
    runs = [tensor.narrow(dim, first, count) for first, count in _runs(agents)]
    if not runs:
        return tensor.narrow(dim, 0, 0)
    return runs[0] if len(runs) == 1 else torch.cat(runs, dim)


def scatter_agents(
    tensor: torch.Tensor, agents: Sequence[int], num_agents: int, dim: int
) -> torch.Tensor:
    """The reverse of :func:`gather_agents`: these agents' entries among all N, else zeros."""
    shape = list(tensor.shape)
    shape[dim] = num_agents
    result, taken = tensor.new_zeros(shape), 0
    for first, count in _runs(agents):
        result.narrow(dim, first, count).copy_(tensor.narrow(dim, taken, count))
        taken += count
    return result


def index_of(agents: Sequence[int], device: torch.device) -> torch.Tensor:
    """The indices as a tensor ``[K]`` that is made on the device."""
    runs = [torch.arange(first, first + count, device=device) for first, count in _runs(agents)]
    if not runs:
        return torch.arange(0, device=device)
    return runs[0] if len(runs) == 1 else torch.cat(runs)


def _runs(agents: Sequence[int]) -> list[tuple[int, int]]:
    """First index and length of each run of indices that lie side by side."""
    runs: list[tuple[int, int]] = []
    for agent in agents:
        first, count = runs[-1] if runs else (agent, 0)
        if agent == first + count:
            runs[-1:] = [(first, count + 1)]
        else:
            runs.append((agent, 1))
    return runs
