"""Advantages of a rollout, as every on-policy algorithm for teams computes them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase

from torchrl_alita import functional
from torchrl_alita.layout import (
    AGENT_TERMINATED,
    ALIVE,
    DONE,
    STATE_VALUE,
    TERMINATED,
    next_key,
)

__all__ = ["rollout_advantages"]

_ROWS_AT_ONCE = 4_096


def rollout_advantages(
    batch: TensorDictBase,
    critic: TensorDictModuleBase,
    reward_keys: Sequence[NestedKey],
    **returns: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Advantages of H returns of N agents and the values' targets, ``[B, T, N, H]``.

    Where agents can end before their episode does, an agent's return ends with it; of one that
    is not alive the advantage is 0 and the target its value: a bonus for entropy alone still
    reaches its policy.

    Args:
        batch: a rollout ``[B, T]``.
        critic: writes ``("agents", "state_value")`` ``[B, T, N, H]``.
        reward_keys: H of them, as a step writes them.
        **returns: ``gammas``, ``lambdas`` and ``episodic`` of
            :func:`torchrl_alita.functional.generalized_advantages`.

    Returns:
        The advantages and the targets.
    """
    rewards = torch.cat([batch.get(next_key(key)) for key in reward_keys], -1)
    done, terminated = (batch.get(next_key(flag)) for flag in (DONE, TERMINATED))
    values = _values(batch, critic)
    following = _next_values(batch.get("next").select(*critic.in_keys), critic, values, done)
    own = batch.get(next_key(AGENT_TERMINATED), None)
    if own is not None:
        done, terminated = done.unsqueeze(-2) | own, own
        # Who was stopped by a limit of its own has left, too.
        stays = batch.get(next_key(ALIVE), None)
        done = done if stays is None else done | ~stays
    advantages, targets = functional.generalized_advantages(
        rewards, values, following, done, terminated, **returns
    )
    alive = batch.get(ALIVE, None)
    if alive is None:
        return advantages, targets
    return advantages * alive, torch.where(alive, targets, values)


def _values(batch: TensorDictBase, critic: TensorDictModuleBase) -> torch.Tensor:
    """Values of all rows, ``[B, T, N, H]``."""
    # A copy without what is not read: a network must not write into the batch.
    rows = batch.select(*critic.in_keys)
    if batch.get(critic.in_keys[0]).device.type != "cpu":
        return critic(rows).get(STATE_VALUE)
    # In parts whose hidden layers fit into a processor's cache.
    parts = rows.split(max(1, _ROWS_AT_ONCE // rows.shape[1]))
    return torch.cat([critic(part).get(STATE_VALUE) for part in parts])


def _next_values(
    following: TensorDictBase,
    critic: TensorDictModuleBase,
    values: torch.Tensor,
    done: torch.Tensor,
) -> torch.Tensor:
    """Values after each step: those of the next row, but for where an episode or the rollout ends.

    Args:
        following: what the critic reads ``[B, T]``, after each step.
        critic: writes the values.
        values: before each step, ``[B, T, N, H]``.
        done: whether an episode ends with a step, ``[B, T, 1]``.
    """
    if values.device.type != "cpu":
        # To choose rows by a mask, the host would wait for the device; rows cost little there.
        return critic(following).get(STATE_VALUE)
    ends = done.squeeze(-1).clone()
    ends[:, -1] = True
    found = values.roll(-1, 1)
    found[ends] = critic(following[ends]).get(STATE_VALUE)
    return found
