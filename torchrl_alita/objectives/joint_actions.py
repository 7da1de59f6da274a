"""Joint actions among which the optimum max_u Q_i(., u) of Eq. 4 and 7 is sought."""

from __future__ import annotations

from collections.abc import Callable

import torch

from torchrl_alita._checks import check_at_least_one
from torchrl_alita.modules.one_hot import one_hot

__all__ = [
    "best_candidate",
    "coordinate_ascent",
    "enumerate_joint_actions",
    "uniform_joint_actions",
]

Critic = Callable[[torch.Tensor], torch.Tensor]


def best_candidate(critic: Critic, candidates: torch.Tensor) -> torch.Tensor:
    """Best of M joint actions in each critic's eyes, ``[M, *B, N, A] -> [*B, N, 1]``.

    The maximum over u in Eq. 4 of https://arxiv.org/abs/2108.12581, over the
    candidates instead of all joint actions: a lower bound.

    Args:
        critic: ``[M, *B, N, A] -> [M, *B, N, 1]``.
        candidates: ``[M, *B, N, A]``.

    Returns:
        ``[*B, N, 1]``.

    Examples:
        >>> candidates = torch.tensor([[[1.0], [2.0]], [[3.0], [0.0]]])
        >>> best_candidate(lambda action: action, candidates)
        tensor([[3.],
                [2.]])
    """
    return critic(candidates).amax(0)


def uniform_joint_actions(
    count: int,
    like: torch.Tensor,
    *,
    low: torch.Tensor | None = None,
    high: torch.Tensor | None = None,
    allowed: torch.Tensor | None = None,
) -> torch.Tensor:
    """Joint actions drawn uniformly, ``[*B, N, A] -> [M, *B, N, A]``.

    Args:
        count: M.
        like: joint action ``[*B, N, A]``, for shape, type and device.
        low: least action ``[N, A]``; None for one-hot actions.
        high: largest action ``[N, A]``; None for one-hot actions.
        allowed: bool ``[*B, N, A]``, True where a one-hot action is allowed. Default: all.

    Returns:
        ``[M, *B, N, A]``.

    Examples:
        >>> low, high = -torch.ones(3, 2), torch.ones(3, 2)
        >>> uniform_joint_actions(4, torch.zeros(5, 3, 2), low=low, high=high).shape
        torch.Size([4, 5, 3, 2])
    """
    drawn = torch.rand(count, *like.shape, dtype=like.dtype, device=like.device)
    if low is None or high is None:
        drawn = drawn if allowed is None else drawn.masked_fill(~allowed, -1)
        return one_hot(drawn.argmax(-1), like.shape[-1], dtype=like.dtype)
    low, high = low.to(like), high.to(like)
    return low + (high - low) * drawn


def enumerate_joint_actions(
    num_agents: int, num_actions: int, *, device: torch.device | str | None = None
) -> torch.Tensor:
    """All joint actions, one-hot, ``-> [L^N, N, L]`` in C order over the agents.

    Args:
        num_agents: N.
        num_actions: L, of each agent.
        device: of the result.

    Returns:
        Float tensor ``[L^N, N, L]``.

    Examples:
        >>> enumerate_joint_actions(2, 3).shape
        torch.Size([9, 2, 3])
    """
    place = num_actions ** torch.arange(num_agents - 1, -1, -1, device=device)
    number = torch.arange(num_actions**num_agents, device=device)
    index = number.unsqueeze(-1) // place % num_actions
    return one_hot(index, num_actions)


def coordinate_ascent(
    critic: Critic, start: torch.Tensor, *, allowed: torch.Tensor | None = None, rounds: int = 2
) -> torch.Tensor:
    """Improve a joint action agent by agent, ``[*B, N, A] -> [*B, N, 1]``.

    For discrete actions whose joint space is too large to enumerate. Every critic
    climbs with a joint action of its own; what it reaches is no worse than the start,
    and no better than the optimum.

    Args:
        critic: takes a joint action for each critic, ``[A, *B, N, N, A] -> [A, *B, N, 1]``.
        start: one-hot joint action ``[*B, N, A]``.
        allowed: bool ``[*B, N, A]``: True where an action is allowed. Default: all.
        rounds: times that every agent is gone through, at least 1.

    Returns:
        ``[*B, N, 1]``.

    Raises:
        ValueError: if rounds is below 1.

    Examples:
        >>> target = torch.tensor([[1.0, 2.0], [4.0, 3.0]])
        >>> start = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
        >>> coordinate_ascent(lambda u: (u * target).sum((-1, -2)).unsqueeze(-1), start)
        tensor([[6.],
                [6.]])
    """
    check_at_least_one(rounds=rounds)
    num_agents, num_actions = start.shape[-2:]
    joint = start.unsqueeze(-3).expand(*start.shape[:-2], num_agents, num_agents, num_actions)
    options = torch.eye(num_actions, dtype=start.dtype, device=start.device)
    best = critic(joint.unsqueeze(0)).squeeze(0)
    for agent in list(range(num_agents)) * rounds:
        moves = joint.unsqueeze(0).repeat(num_actions, *(1,) * joint.ndim)
        moves[..., agent, :] = options.view(num_actions, *(1,) * (joint.ndim - 2), num_actions)
        values = critic(moves)
        if allowed is not None:
            forbidden = ~allowed[..., agent, :].movedim(-1, 0)[..., None, None]
            values = values.masked_fill(forbidden, -torch.inf)
        highest, choice = values.max(0)
        better = highest > best
        best = torch.where(better, highest, best)
        chosen = options[choice.squeeze(-1)]
        moved = torch.where(better, chosen, joint[..., agent, :])
        joint = torch.stack(
            [moved if j == agent else joint[..., j, :] for j in range(num_agents)], dim=-2
        )
    return best
