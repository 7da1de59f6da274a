"""What a caller may hand over by mistake, for test_hostile.py.

Arguments by the kind of number or name that a constructor takes, and batches that differ
from an ordinary one in memory, shape or dtype.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from tensordict import TensorDict, TensorDictBase
from torch import nn

from torchrl_alita._borrow import borrowed

# What a clear error is; torch's own errors from within a layer are RuntimeErrors.
ERRORS = (ValueError, KeyError, TypeError)

NO_NUMBERS = ("0.5", None, [0.5], 1j, np.array([0.5, 0.25]), True, np.bool_(True))
NO_WHOLES = (
    2.5, math.nan, math.inf, "3", None, [3], np.array([3, 5]), torch.tensor(2.5), True,
    torch.tensor(True),
)  # fmt: skip

REFUSED: dict[str, tuple] = {
    "share": (math.nan, math.inf, -0.1, 1.1, *NO_NUMBERS),
    "share_or_none": (math.nan, math.inf, -0.1, 1.1, "0.5", [0.5]),
    "below_one": (math.nan, math.inf, -0.1, 1.0, *NO_NUMBERS),
    "positive": (math.nan, math.inf, 0, -0.0, -1.0, *NO_NUMBERS),
    "positive_share": (math.nan, math.inf, 0, -0.0, 1.1, *NO_NUMBERS),
    "not_nan": (math.nan, 0, -0.0, -1.0, *NO_NUMBERS),
    "non_negative": (math.nan, math.inf, -1e-9, np.float32(-1), *NO_NUMBERS),
    "numbers": (math.nan, math.inf, -1.0, [], [0.1, -1.0], "0", "01", None, [None], [[0.1]]),
    "whole": (0, -1, -(10**30), *NO_WHOLES),
    "whole_or_none": (0, -1, *(value for value in NO_WHOLES if value is not None)),
    "whole_from_0": (-1, *NO_WHOLES),
    "index": (-1, -(10**30), *NO_WHOLES),
    "lone_index": (-1, -(10**30), [0, 1], *(2.5, math.nan, math.inf, "3", None, torch.tensor(2.5))),
    "indices": (-1, "01", "0", [], [-1], [1, 1], [0.5], [None], 1.5, math.nan, {"a": 0}),
    "widths": (5, "55", None, [0], [-1], [5, 2.5], [5, "5"], [math.nan]),
    "name": ("", "no such", None, 0, 1.5),
    "name_or_none": ("", "no such", 0, 1.5),
    "name_or_index": ("01", "", [], [-1], [1, 1], [0.5], 1.5, None, 7),
    "part": ("sampled", 0, 0.5, [None], nn.Linear(2, 2)),
    "seed": (-1, 2**64, 10**30, 1.5, math.nan, "1"),
    "flag": (0, 1, None, "yes", "False", math.nan, [True]),
    "callable": (None, 3, "f", [len]),
    "callable_or_none": (3, "f", [len]),
    "module": (None, 3, "network", len, [nn.Linear(2, 2)]),
    "team_size": (0, 1, -1, *NO_WHOLES),
}

ACCEPTED: dict[str, tuple] = {
    "share": (0, 1, 0.5, np.float32(0.5), np.float64(0.5), np.array(0.5), torch.tensor(0.5)),
    "share_or_none": (1, np.float32(0.5), torch.tensor(0.5, dtype=torch.float64)),
    "below_one": (0, 0.5, np.float32(0.5), torch.tensor(0.5)),
    "positive": (1, 0.5, np.float32(0.5), np.int64(2), torch.tensor(0.5)),
    "positive_share": (1, 0.5, np.float32(0.5), torch.tensor(0.5)),
    "not_nan": (1, math.inf, np.float32(0.5), torch.tensor(0.5)),
    "non_negative": (0, -0.0, 0.5, np.float32(0.5), np.int64(2), torch.tensor(0.5)),
    "numbers": (0, -0.0, np.float32(0.5), torch.tensor(0.5), (0.1, 0.2, 0.3), torch.ones(3)),
    "whole": (1, 2, np.int64(2), np.uint8(2), torch.tensor(2)),
    "whole_or_none": (None, 2, np.int64(2), torch.tensor(2)),
    "whole_from_0": (0, np.int64(2), torch.tensor(2)),
    "index": (0, np.int64(0), torch.tensor(0)),
    "lone_index": (0, np.int64(0), torch.tensor(0), [1]),
    "indices": ([1], (1, 2), np.array([2, 1]), torch.tensor([1, 2]), range(1, 3), [np.int64(1)]),
    "widths": ([5], (5, 3), np.array([5, 3]), torch.tensor([5]), range(2, 4)),
    "name": (),
    "name_or_none": (None,),
    "part": (None,),
    "name_or_index": (0, [1], np.int64(2), torch.tensor([0, 1]), "random", "all"),
    "seed": (None, 0, 2**32 - 1, np.int64(5), torch.tensor(5)),
    "flag": (True, False),
    "callable": (),
    "callable_or_none": (None,),
    "module": (),
    "team_size": (2, np.int64(3), torch.tensor(2)),
}


def strided(value: torch.Tensor) -> torch.Tensor:
    """The same values, every second entry of a wider tensor turned around."""
    wide = torch.stack([value, torch.full_like(value, 1)], -1)
    turned = wide.movedim(0, -1).contiguous().movedim(-1, 0) if wide.ndim > 1 else wide
    return turned[..., 0]


def read_only(value: torch.Tensor) -> torch.Tensor:
    """The same values in memory that NumPy has locked."""
    array = value.numpy().copy()
    array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.from_numpy(array)


def expanded(value: torch.Tensor) -> torch.Tensor:
    """The first row for all rows, in one row's memory."""
    return value[:1].expand(value.shape)


def reshaped(value: torch.Tensor, how: str) -> torch.Tensor:
    """A shape that an entry ``[*B, F]`` or ``[*B, N, F]`` cannot have."""
    if how == "no features":
        return value[..., 0]
    if how == "a feature more":
        return torch.cat([value, value[..., :1]], -1)
    if how == "a dimension more":
        return value.unsqueeze(-1)
    if how == "an agent more":
        return torch.cat([value, value[..., :1, :]], -2)
    return value[..., :-1, :]


SHAPES = ("no features", "a feature more", "a dimension more", "an agent more", "an agent less")


def modules_of(module: nn.Module) -> list[nn.Module]:
    """A loss or transform, with what it borrows."""
    networks = [module.__dict__.get(name) for name in ("actor_network", "qvalue_network")]
    read = [*borrowed(module), *(part for part in networks if part is not None)]
    return list(dict.fromkeys([module, *read]))


def state_of(module: nn.Module) -> list[dict[str, torch.Tensor]]:
    return [
        {name: value.detach().clone() for name, value in part.state_dict().items()}
        for part in modules_of(module)
    ]


def assert_same(first: Any, second: Any) -> None:
    torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True)


def assert_batch_same(batch: TensorDictBase, before: TensorDictBase) -> None:
    """The same entries in the same dtypes and shapes; on "meta" there are no values."""
    assert set(batch.keys(True, True)) == set(before.keys(True, True))
    for key, value in batch.items(True, True):
        other = before.get(key)
        if not isinstance(value, torch.Tensor) or value.device.type == "meta":
            assert type(value) is type(other)
        else:
            assert_same(value, other)


def refused(module: nn.Module, batch: TensorDictBase, match: str | None = None) -> Exception:
    """The one clear error, after which all is as it was."""
    before, state = batch.clone(), state_of(module)
    with pytest.raises(ERRORS, match=match) as caught:
        module(batch)
    assert_batch_same(batch, before)
    assert_same(state_of(module), state)
    return caught.value


def results(module: nn.Module, batch: TensorDictBase) -> TensorDict:
    """What a loss returns with the gradients it gives, or what a transform adds."""
    result = module(batch)
    if hasattr(module, "batch_out_keys"):
        return result.select(*module.batch_out_keys)
    losses = [value for key, value in result.items() if key.startswith("loss_")]
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(
        sum(value.sum() for value in losses), list(parameters.values()), allow_unused=True
    )
    result = result.detach()
    for name, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            result[f"gradient of {name}"] = gradient
    return result


def assert_close(first: TensorDictBase, second: TensorDictBase, **tolerance: float) -> None:
    assert set(first.keys(True, True)) == set(second.keys(True, True))
    for key, value in first.items(True, True):
        other = second.get(key)
        torch.testing.assert_close(
            value, other, check_dtype=False, msg=lambda text, key=key: f"{key}: {text}", **tolerance
        )


def right_or_refused(
    module: nn.Module, batch: TensorDictBase, plain: TensorDictBase, **tolerance: float
) -> None:
    """Either the result of the plain batch, or a clear error that changes nothing."""
    before, state = batch.clone(), state_of(module)
    try:
        result = results(module, batch)
    except ERRORS:
        assert_batch_same(batch, before)
        assert_same(state_of(module), state)
        return
    assert_close(result, results(module, plain), **tolerance)
