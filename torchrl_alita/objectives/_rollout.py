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


class Policy(NamedTuple):
    """Policies over a rollout: their distribution, and what their network wrote."""

    distribution: Distribution
    written: TensorDictBase


def check_actor(actor_network: TensorDictModuleBase) -> None:
    if not hasattr(actor_network, "get_dist"):
        raise ValueError("The actor must be one over one-hot actions, with get_dist.")


def check_rollout(
    batch: TensorDictBase, *, action: NestedKey, reward: NestedKey, done: NestedKey
) -> None:
    """Raise unless there is a dimension of time, and a reward and a flag for each step.

    Raises:
        ValueError: if there is not.
    """
    *rows, num_agents = batch.get(action).shape[:-1]
    if not rows:
        raise ValueError(
            f"The batch must be a rollout [*B, T], got actions {tuple(batch.get(action).shape)}."
        )
    check_same_shape(batch, next_key(reward), (*rows, num_agents, 1))
    check_same_shape(batch, next_key(done), (*rows, 1))


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


def choosing(
    batch: TensorDictBase, actor: TensorDictModuleBase, action_mask: NestedKey, like: torch.Tensor
) -> torch.Tensor:
    """Whether an agent had a choice, bool ``[*B, N, 1]``.

    The dead of a battle have one action. Without a mask all choose.
    """
    if action_mask not in actor.in_keys:
        return torch.ones_like(like, dtype=torch.bool)
    return allowed_actions(batch.get(action_mask)).sum(-1, keepdim=True) > 1


def standardize(values: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Mean 0 and standard deviation 1 over the entries that count; the others become 0."""
    count = counted.sum().clamp_min(1)
    values = torch.where(counted, values, 0)
    mean = values.sum() / count
    centered = torch.where(counted, values - mean, 0)
    deviation = (centered.square().sum() / count).sqrt()
    return centered / (deviation + 1e-8)


def counted_rows(mask: torch.Tensor | None, choosing: torch.Tensor) -> torch.Tensor:
    """Agents that had a choice in rows that are no padding, bool ``[*B, N, 1]``."""
    return choosing if mask is None else choosing & mask.unsqueeze(-1).unsqueeze(-1)
