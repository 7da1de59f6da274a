"""What the losses do with a batch before they compute."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from tensordict import NestedKey, TensorDictBase
from torchrl.objectives import LossModule

from torchrl_alita import functional
from torchrl_alita._checks import check_agents, require_keys
from torchrl_alita.layout import STATE, next_key


def unique(keys: list[NestedKey]) -> list[NestedKey]:
    return list(dict.fromkeys(keys))


def check_batch(
    loss: LossModule, tensordict: TensorDictBase, *, optional: Sequence[NestedKey] = ()
) -> TensorDictBase:
    """The entries that a loss reads, detached, with zeros where its mask hides a row.

    Where the next row of a sequence is hidden, an episode is done: nothing is read beyond it.

    A rollout that was made with gradients has the graph of the policy in it, and a loss
    would climb through the stored actions too.

    A mask on the loss alone would protect its value but not its gradient: a zero
    gradient times a NaN is a NaN.

    Args:
        loss: its ``in_keys`` are read.
        tensordict: the caller's batch.
        optional: read where the batch has them.

    Raises:
        KeyError: if one of the entries is missing; it and the keys present are named.
        ValueError: if there is no row, the agents' entries disagree on the rows, the
            agents or the device, or the mask fits no row.
        TypeError: if an agents' entry is no tensor.
    """
    require_keys(tensordict, loss.in_keys)
    optional = [*optional, *_steps_keys(loss)]
    names = [*loss.in_keys, *(key for key in optional if tensordict.get(key, None) is not None)]
    *rows, num_agents = check_agents(tensordict, _agents_keys(loss, names))
    _check_flags(loss, tensordict, rows, num_agents)
    for key in (STATE, next_key(STATE)):
        if key in names and tensordict.get(key).ndim != len(rows) + 1:
            raise ValueError(
                f"{key} must have the shape {tuple(rows)} and a dimension of features, got "
                f"{tuple(tensordict.get(key).shape)}."
            )
    if 0 in rows:
        raise ValueError(f"The batch is empty: its entries begin with {tuple(rows)}.")
    rows = torch.Size(rows)
    mask = row_mask(loss, tensordict, rows)
    mask_keys = [key for key in loss._loss_mask_keys() if tensordict.get(key, None) is not None]
    inputs = tensordict.select(*names, *mask_keys).detach()
    # Of keyword arguments TensorDict takes what all entries have in common.
    for part in (inputs, inputs.get("next", None)):
        if part is not None and part.batch_size != rows:
            part.batch_size = rows
    if mask is None:
        return inputs
    for name in names:
        value = inputs.get(name)
        shown = mask.reshape(*mask.shape, *(1,) * (value.ndim - mask.ndim))
        inputs = inputs.set(name, torch.where(shown, value, torch.zeros_like(value)))
    done = next_key(loss.tensor_keys.done) if hasattr(loss.tensor_keys, "done") else None
    if done in names:
        last = torch.cat([~mask[..., 1:], torch.zeros_like(mask[..., :1])], -1)
        inputs.set(done, inputs.get(done) | last.unsqueeze(-1))
    return inputs


def _steps_keys(loss: LossModule) -> list[NestedKey]:
    """Where a batch may say of how many steps its transitions are, if the loss asks for it."""
    if (critics := getattr(loss, "critics", None)) is not None:
        return [critics.steps_key]
    key = getattr(loss.tensor_keys, "steps_to_next_obs", None)
    return [] if key is None else [key]


def transition_discount(
    gamma: torch.Tensor | float, batch: TensorDictBase, key: NestedKey, *, memory: bool = False
) -> torch.Tensor | float:
    """What the next value counts for: gamma, or of several steps its power, ``[*B, 1, 1]``.

    Args:
        gamma: of a step.
        batch: transitions ``[*B]``.
        key: of the number of steps, read where the batch has it.
        memory: whether what follows is computed by a network with a memory, or is a return.

    Raises:
        ValueError: if transitions are of several steps and those between would be missed.
    """
    steps = batch.get(key, None)
    if steps is None:
        return gamma
    if memory:
        raise ValueError(
            f"Networks with a memory, and lambda returns, take transitions of one step, the batch "
            f"has {key}: they do not see the steps between."
        )
    return gamma ** steps.reshape(*batch.batch_size, 1, 1)


def check_sequences(loss: LossModule, batch: TensorDictBase) -> None:
    """Raise a ValueError if lambda returns are asked for of what may be in any order."""
    shape = tuple(batch.get(loss.tensor_keys.action).shape[:-2])
    if loss.looks_ahead and len(shape) < 2:
        raise ValueError(
            f"With lmbda the batch must be sequences in order of time, [*B, T] with at least one "
            f"dimension before T, got {shape}: batch.reshape(-1, T) of what lies one after another."
        )


def target_of(
    batch: TensorDictBase,
    keys: LossModule._AcceptedKeys,
    reward: torch.Tensor,
    terminated: torch.Tensor,
    next_value: torch.Tensor,
    gamma: torch.Tensor | float,
    lmbda: torch.Tensor | float | None,
) -> torch.Tensor:
    """What a critic's values are drawn to, ``[*B, N, 1]``: of one step, or with lambda."""
    if lmbda is None:
        return functional.td_target(reward, terminated, next_value, gamma)
    done = batch.get(next_key(keys.done))
    return functional.lambda_return(reward, terminated, done, next_value, gamma, lmbda)


def _check_flags(
    loss: LossModule, tensordict: TensorDictBase, rows: Sequence[int], num_agents: int
) -> None:
    """Raise unless the flags that end episodes are bool, one for each row or each agent."""
    for name in ("done", "terminated"):
        key = getattr(loss.tensor_keys, name, None)
        if key is None or next_key(key) not in loss.in_keys:
            continue
        flag = tensordict.get(next_key(key))
        if not isinstance(flag, torch.Tensor) or flag.dtype != torch.bool:
            kind = getattr(flag, "dtype", None) or type(flag).__name__
            raise TypeError(f"{name} must be bool, got {kind}.")
        if tuple(flag.shape) not in ((*rows, 1), (*rows, num_agents, 1)):
            raise ValueError(
                f"{next_key(key)} must have the shape {(*rows, 1)} or {(*rows, num_agents, 1)}, "
                f"got {tuple(flag.shape)}."
            )


def row_weights(
    loss: LossModule, batch: TensorDictBase, rows: Sequence[int]
) -> torch.Tensor | None:
    """A prioritized buffer's weights of a batch's rows, ``[*B]``, if it has some.

    Raises:
        ValueError: if they are not one for each row.
    """
    weights = loss._maybe_get_priority_weight(batch)
    if weights is None:
        return None
    if weights.numel() != math.prod(rows) or weights.shape[: len(rows)] != torch.Size(rows):
        raise ValueError(
            f"{loss.tensor_keys.priority_weight} must have the shape {tuple(rows)} or "
            f"{(*rows, 1)}, got {tuple(weights.shape)}."
        )
    return weights.reshape(rows)


def batch_mean(loss: LossModule, batch: TensorDictBase, rows: torch.Tensor) -> torch.Tensor:
    """Mean over the rows that count, to be logged, ``[*B] -> []``, without gradient."""
    return loss._reduce_loss(rows.detach(), tensordict=batch, reduction="mean")


def write_priority(loss: LossModule, tensordict: TensorDictBase, error: torch.Tensor) -> None:
    """Write the squared error of each row ``[*B]`` into the batch of a prioritized buffer.

    As TorchRL's losses do, for ``update_tensordict_priority``; any other batch stays as it is.
    """
    keys = loss.tensor_keys
    if tensordict.get(keys.priority_weight, None) is not None:
        tensordict.set(keys.priority, error.detach())


def _agents_keys(loss: LossModule, names: list[NestedKey]) -> list[NestedKey]:
    """Of the names the action, what lies beside it, now and next, and the reward."""
    action = loss.tensor_keys.action
    reward = getattr(loss.tensor_keys, "reward", action)
    if reward is None:
        reward = loss.critics.reward_key(loss.tensor_keys)
    reward = next_key(reward)
    # Beside an action that is in no group the flags of the team may lie.
    group = () if isinstance(action, str) else action[:-1]
    beside = [
        key
        for key in names
        if group and not isinstance(key, str) and key[:-1] in (group, ("next", *group))
    ]
    return unique([action, *beside, *([reward] if reward in names else [])])


def row_mask(
    loss: LossModule, tensordict: TensorDictBase, rows: Sequence[int]
) -> torch.Tensor | None:
    """The mask of a batch's rows, ``[*B]``, if it has one.

    Raises:
        ValueError: if it is not bool, one for each row.
    """
    mask = None
    for key in loss._loss_mask_keys():
        value = tensordict.get(key, None)
        if value is None:
            continue
        one_each = all(size == 1 for size in value.shape[len(rows) :])
        if value.dtype != torch.bool or value.shape[: len(rows)] != rows or not one_each:
            raise ValueError(
                f"{key} must be bool of the shape {tuple(rows)} or {(*rows, 1)}, got "
                f"{value.dtype} of {tuple(value.shape)}."
            )
        value = value.reshape(rows)
        mask = value if mask is None else mask & value
    return mask
