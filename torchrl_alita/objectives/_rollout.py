"""What losses of rollouts in order of time, ``[*B, T]``, have in common."""

from __future__ import annotations

from typing import NamedTuple

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch.distributions import Distribution

from torchrl_alita._checks import check_same_shape
from torchrl_alita.functional import allowed_actions
from torchrl_alita.layout import next_key
from torchrl_alita.modules._acting import distribution_of
from torchrl_alita.objectives._critics import following_inputs, following_keys, memory_keys
from torchrl_alita.objectives._functional_call import functional_call

# Least by which something is divided that may be 0.
EPSILON = 1e-8


class Policy(NamedTuple):
    """Policies over a rollout: their distribution, and what their network wrote."""

    distribution: Distribution
    written: TensorDictBase


def check_actor(actor_network: TensorDictModuleBase) -> None:
    if not hasattr(actor_network, "get_dist"):
        raise ValueError("The actor must be one over one-hot actions, with get_dist.")


def check_rollout(
    batch: TensorDictBase,
    *,
    action: NestedKey,
    done: NestedKey,
    reward: NestedKey | None = None,
) -> None:
    """Raise unless there is a dimension of time, and a reward and a flag for each step.

    Raises:
        ValueError: if there is not.
        TypeError: if the flags are not bool.
    """
    *rows, num_agents = batch.get(action).shape[:-1]
    if not rows:
        raise ValueError(
            f"The batch must be a rollout [*B, T], got actions {tuple(batch.get(action).shape)}."
        )
    check_same_shape(batch, next_key(done), (*rows, 1))
    if batch.get(next_key(done)).dtype != torch.bool:
        raise TypeError(f"{next_key(done)} must be bool, got {batch.get(next_key(done)).dtype}.")
    if reward is not None:
        check_same_shape(batch, next_key(reward), (*rows, num_agents, 1))


def policy_of(
    network: TensorDictModuleBase,
    params: TensorDictBase,
    batch: TensorDictBase,
    *,
    recurrent: bool = True,
) -> Policy:
    """The policies of given parameters over a batch; those with a memory unroll, or step."""
    written, distribution = functional_call(
        params, network, lambda: distribution_of(network, batch.copy(), recurrent=recurrent)
    )
    return Policy(distribution, written)


def rollout_keys(
    actor: TensorDictModuleBase, critics: list[TensorDictModuleBase], action: NestedKey
) -> list[NestedKey]:
    """What actor and critics read of a step besides the action."""
    keys = [*actor.in_keys, *(key for critic in critics for key in critic.in_keys)]
    return [key for key in dict.fromkeys(keys) if key != action]


def next_step_keys(
    actor: TensorDictModuleBase, keys: list[NestedKey], *own: NestedKey
) -> list[NestedKey]:
    """What is read of the next step: observations as a batch has them, and others by name."""
    return [*following_keys(actor, keys), *(next_key(key) for key in own)]


@torch.no_grad()
def next_policy(
    actor: TensorDictModuleBase,
    params: TensorDictBase,
    keys: list[NestedKey],
    batch: TensorDictBase,
    policy: Policy,
) -> tuple[TensorDictBase, Distribution]:
    """What follows each step ``[*B, T]``, and the policies there.

    At an episode's end it is the last state of that episode, with the memory of it.
    """
    unrolled = policy.written if memory_keys(actor) else None
    following = following_inputs(actor, keys, batch, unrolled)
    policy = policy_of(actor, params.data, following, recurrent=False)
    return following, policy.distribution


def next_action(action: torch.Tensor, done: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """The action that was taken at each next step, ``[*B, T, N, L]``.

    Where an episode or the rollout ends it is not known, and is what ``there`` says.
    """
    later = torch.cat([action[..., 1:, :, :].to(there.dtype), there[..., -1:, :, :]], -3)
    return torch.where(done.unsqueeze(-1), there, later)


def taken(values: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """Value of a one-hot action, ``[*B, N, L], [*B, N, L] -> [*B, N, 1]``."""
    return (values * action.to(values.dtype)).sum(-1, keepdim=True)


def choosing(
    batch: TensorDictBase,
    actor: TensorDictModuleBase,
    *,
    action: NestedKey,
    action_mask: NestedKey,
    rows: torch.Tensor | None,
) -> torch.Tensor:
    """Whether an agent had a choice, in rows that are no padding, bool ``[*B, N, 1]``.

    The dead of a battle have one action. Without a mask of actions all choose.

    Args:
        batch: ``[*B]``.
        actor: reads the mask of actions, or does not.
        action: key.
        action_mask: key.
        rows: bool ``[*B]``, those that are no padding; None for all.
    """
    if action_mask in actor.in_keys:
        several = allowed_actions(batch.get(action_mask)).sum(-1, keepdim=True) > 1
    else:
        several = torch.ones_like(batch.get(action)[..., :1], dtype=torch.bool)
    return several if rows is None else several & rows.unsqueeze(-1).unsqueeze(-1)


def moments(values: torch.Tensor, counted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of the entries that count, which may be none."""
    count = counted.sum().clamp_min(1)
    mean = torch.where(counted, values, 0).sum() / count
    centered = torch.where(counted, values - mean, 0)
    return mean, (centered.square().sum() / count).sqrt()


def standardize(values: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Mean 0 and standard deviation 1 over the entries that count; the others become 0."""
    mean, deviation = moments(values, counted)
    return torch.where(counted, values - mean, 0) / (deviation + EPSILON)
