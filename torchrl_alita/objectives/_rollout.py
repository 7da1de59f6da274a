"""What losses of rollouts in order of time, ``[*B, T]``, have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch.distributions import Distribution
from torchrl.objectives import LossModule

from torchrl_alita._checks import (
    REDUCTIONS,
    check_choice,
    check_non_negative,
    check_same_shape,
    check_share,
)
from torchrl_alita.functional import allowed_actions
from torchrl_alita.layout import next_key
from torchrl_alita.modules._acting import distribution_of
from torchrl_alita.objectives._batch import batch_mean, check_batch, row_mask, unique
from torchrl_alita.objectives._critics import following_inputs, following_keys, memory_keys
from torchrl_alita.objectives._functional_call import functional_call

# Least by which something is divided that may be 0.
EPSILON = 1e-8


class Policy(NamedTuple):
    """Policies over a rollout: their distribution, and what their network wrote."""

    distribution: Distribution
    written: TensorDictBase


def take_over(
    loss: LossModule,
    actor_network: TensorDictModuleBase,
    critics: Mapping[str, TensorDictModuleBase],
    *,
    gamma: float,
    lmbda: float,
    reduction: str,
    **coeffs: float,
) -> None:
    """The networks and the numbers of a loss, checked and registered by their names.

    Args:
        loss: whose constructor this is.
        actor_network: policies over one-hot actions.
        critics: networks that get targets.
        gamma: in [0, 1].
        lmbda: in [0, 1].
        reduction: of the loss.
        coeffs: at least 0.

    Raises:
        ValueError: if a number is out of range, or the actor has no get_dist.
        TypeError: if it is none.
    """
    check_share(gamma=gamma, lmbda=lmbda)
    check_non_negative(**coeffs)
    check_choice("reduction", reduction, REDUCTIONS)
    if not hasattr(actor_network, "get_dist"):
        raise ValueError("The actor must be one over one-hot actions, with get_dist.")
    loss.convert_to_functional(actor_network, "actor_network", create_target_params=False)
    for name, network in critics.items():
        loss.convert_to_functional(network, name, create_target_params=True)
    for name, value in {"gamma": gamma, "lmbda": lmbda, **coeffs}.items():
        loss.register_coeff_buffer(name, float(value))
    loss.reduction = reduction


def rollout_in_keys(
    loss: LossModule, here: list[NestedKey], there: list[NestedKey]
) -> list[NestedKey]:
    """All that a loss reads, if it reads some of each step, and some of what follows it.

    Of the next step observations are read as a batch has them, and others by name.
    """
    keys = loss.tensor_keys
    following = following_keys(loss.actor_network, there)
    own = (keys.reward, keys.terminated, keys.done)
    return unique([keys.action, *here, *following, *(next_key(key) for key in own)])


def check_rollout(loss: LossModule, tensordict: TensorDictBase) -> TensorDictBase:
    """As ``check_batch``, of a batch in order of time.

    Raises:
        ValueError: if there is no dimension of time, or an entry is not one for each step.
        TypeError: if the flags are not bool.
        KeyError: if an entry is missing.
    """
    keys = loss.tensor_keys
    optional = [keys.alive] if hasattr(keys, "alive") else []
    batch = check_batch(loss, tensordict, optional=optional)
    *rows, num_agents = batch.get(keys.action).shape[:-1]
    if not rows:
        raise ValueError(
            f"The batch must be a rollout [*B, T], got actions {tuple(batch.get(keys.action).shape)}."
        )
    done = next_key(keys.done)
    check_same_shape(batch, done, (*rows, 1))
    if hasattr(keys, "reward"):
        check_same_shape(batch, next_key(keys.reward), (*rows, num_agents, 1))
    return batch


def policy_gradient(
    loss: LossModule, batch: TensorDictBase, policy: Distribution, advantage: torch.Tensor
) -> dict[str, torch.Tensor]:
    """``loss_actor`` of advantages ``[*B, N, 1]`` of who is alive, and the entropy to be logged."""
    entropy = policy.entropy()
    score = policy.log_prob(batch.get(loss.tensor_keys.action))
    gain = advantage.squeeze(-1) * score + loss.entropy_coeff * entropy
    alive = batch.get(loss.tensor_keys.alive, None)
    gain = gain if alive is None else torch.where(alive.squeeze(-1), gain, 0)
    return {
        "loss_actor": loss._reduce_loss(-gain.mean(-1), tensordict=batch),
        "entropy": batch_mean(loss, batch, entropy.mean(-1)),
    }


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
    # A masked value is huge: times zero it is nothing, but only where it is finite.
    return (values * action.to(values.dtype)).sum(-1, keepdim=True)


def choosing(loss: LossModule, batch: TensorDictBase) -> torch.Tensor:
    """Whether an agent had a choice, in rows that are no padding, bool ``[*B, N, 1]``.

    The dead of a battle have one action. Without a mask of actions all who are alive choose.
    """
    keys = loss.tensor_keys
    action = batch.get(keys.action)
    if keys.action_mask in loss.actor_network.in_keys:
        several = allowed_actions(batch.get(keys.action_mask)).sum(-1, keepdim=True) > 1
    else:
        several = torch.ones_like(action[..., :1], dtype=torch.bool)
    alive = batch.get(keys.alive, None)
    several = several if alive is None else several & alive
    rows = row_mask(loss, batch, action.shape[:-2])
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
