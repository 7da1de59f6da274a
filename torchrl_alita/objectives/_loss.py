"""What every loss of the package does otherwise than TorchRL's."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from tensordict import TensorDictParams
from torchrl.objectives import LossModule

from torchrl_alita._borrow import borrowed

Loss = TypeVar("Loss", bound=type[LossModule])


def house_loss(cls: Loss) -> Loss:
    """A class of losses without process-wide modes, whose copies learn.

    TorchRL wraps ``forward`` so that it sets the exploration type and the recurrent mode of
    the process, for all threads; here every run of a network is told, see
    :func:`torchrl_alita.modules._acting.run_network`. And a copy of a loss of TorchRL has
    networks that no longer hold the parameters that it trains.
    """
    cls.forward = cls.forward.__wrapped__
    cls.__deepcopy__ = copy_tied
    return cls


def copy_tied(loss: LossModule, memo: dict[int, Any]) -> LossModule:
    """A deep copy of a loss whose networks hold its parameters, as those of the original do."""
    if id(loss) in memo:
        return memo[id(loss)]
    for other in borrowed(loss):
        if isinstance(other, LossModule):
            copy_tied(other, memo)
    for name, params in loss._modules.items():
        if isinstance(params, TensorDictParams) and not name.startswith("target_"):
            memo[id(params)] = TensorDictParams(
                params.apply(lambda value: _copied(value, memo), filter_empty=False),
                no_convert=True,
            )
    kind: Any = type(loss)
    result = kind.__new__(kind)
    memo[id(loss)] = result
    result.__dict__.update(copy.deepcopy(loss.__dict__, memo))
    return result


def _copied(value: torch.Tensor, memo: dict[int, Any]) -> torch.Tensor:
    return copy.deepcopy(value, memo)
