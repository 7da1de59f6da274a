"""TorchRL's DQNLoss, as all deep Q-networks of the package have it."""

from __future__ import annotations

from typing import Any, Literal

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.objectives import DQNLoss, ValueEstimators

__all__ = ["dqn_losses", "make_dqn_loss"]


def make_dqn_loss(
    network: TensorDictModuleBase,
    settings: Any,
    *,
    action_space: Literal["one-hot", "categorical"],
    device: torch.device,
    **keys: NestedKey,
) -> DQNLoss:
    """The loss, with targets of one step.

    Args:
        network: values of actions, and the best of them.
        settings: with ``loss_function``, ``double_q`` and ``gamma``.
        action_space: how actions are written.
        device: of the networks.
        **keys: as in the loss's ``set_keys``.
    """
    loss = DQNLoss(
        network,
        loss_function=settings.loss_function,
        double_dqn=settings.double_q,
        delay_value=True,
        action_space=action_space,
    ).to(device)
    loss.set_keys(**keys)
    loss.make_value_estimator(ValueEstimators.TD0, gamma=settings.gamma)
    return loss


def dqn_losses(loss: DQNLoss, rows: TensorDictBase) -> TensorDict:
    """``loss_qvalue`` and the mean ``td_error`` of rows, into which the loss writes."""
    found = loss(rows)
    error = rows.get(loss.tensor_keys.priority).detach().sqrt().mean()
    return TensorDict({"loss_qvalue": found["loss"], "td_error": error})
