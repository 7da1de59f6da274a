"""What the losses do with a batch before they compute."""

from __future__ import annotations

import torch
from tensordict import NestedKey, TensorDictBase
from torchrl.objectives import LossModule

from torchrl_alita._checks import require_keys


def unique(keys: list[NestedKey]) -> list[NestedKey]:
    return list(dict.fromkeys(keys))


def checked(loss: LossModule, tensordict: TensorDictBase) -> TensorDictBase:
    """The entries that a loss reads, with zeros where its mask hides a row.

    A mask on the loss alone would protect its value but not its gradient: a zero
    gradient times a NaN is a NaN.

    Raises:
        KeyError: if one of them is missing; it and the keys present are named.
    """
    require_keys(tensordict, loss.in_keys)
    mask_keys = [key for key in loss._loss_mask_keys() if tensordict.get(key, None) is not None]
    inputs = tensordict.select(*loss.in_keys, *mask_keys)
    for key in mask_keys:
        mask = tensordict.get(key)
        while mask.ndim > tensordict.batch_dims and mask.shape[-1] == 1:
            mask = mask.squeeze(-1)
        for name in loss.in_keys:
            value = inputs.get(name)
            rows = mask.reshape(*mask.shape, *(1,) * (value.ndim - mask.ndim))
            inputs = inputs.set(name, torch.where(rows, value, torch.zeros_like(value)))
    return inputs
