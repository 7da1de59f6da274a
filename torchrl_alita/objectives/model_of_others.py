"""Training of what each agent expects the others to do next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import dispatch
from torch import nn
from torchrl.objectives import LossModule

from torchrl_alita._checks import REDUCTIONS, check_choice
from torchrl_alita.layout import ACTION, DONE, OBSERVATION, next_key
from torchrl_alita.objectives._batch import check_batch
from torchrl_alita.objectives._functional_call import functional_call
from torchrl_alita.objectives._loss import house_loss

__all__ = ["ModelOfOthersLoss"]


@house_loss
class ModelOfOthersLoss(LossModule):
    r"""Cross-entropy of the others' next actions, ``[*B, T] -> []``.

    .. math:: L = - E \sum_k \sum_{j \ne k} \log p(a^j_{t+1} | a^k_t, a^{-k}_t, s^k_t)

    Source: the model of other agents of https://arxiv.org/abs/1810.08647. The last step of
    an episode and of the batch has no next action and counts 0. Its partner
    :class:`torchrl_alita.transforms.SocialInfluence` reads the same model.

    Args:
        model: see :class:`torchrl_alita.modules.ModelOfOthers`.
        reduction: ``"none"`` (the shape of the batch), ``"mean"`` or ``"sum"``.

    Returns, from ``forward``, a TensorDict with ``loss_model_of_others``.

    Raises:
        ValueError: if the reduction is unknown; when called, if the batch has no
            dimension of time, is empty, or its entries do not fit each other.
        KeyError: when called, if the batch lacks a key.

    Examples:
        >>> from torchrl_alita.envs import PushBox
        >>> from torchrl_alita.modules import ModelOfOthers
        >>> model = ModelOfOthers(2, observation_size=90, num_actions=5)
        >>> losses = ModelOfOthersLoss(model)(PushBox(3, seed=0).rollout(4))
        >>> losses["loss_model_of_others"].shape
        torch.Size([])
    """

    @dataclass
    class _AcceptedKeys:
        """Keys that can be set with ``set_keys``.

        Attributes:
            observation (NestedKey): read. Default: ``("agents", "observation")``.
            action (NestedKey): read, one-hot. Default: ``("agents", "action")``.
            done (NestedKey): read in "next". Default: ``"done"``.
        """

        observation: NestedKey = OBSERVATION
        action: NestedKey = ACTION
        done: NestedKey = DONE

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys
    out_keys = ["loss_model_of_others"]

    model: nn.Module
    model_params: TensorDictParams
    target_model_params: TensorDictParams

    def __init__(self, model: nn.Module, *, reduction: Literal["none", "mean", "sum"] = "mean"):
        super().__init__()
        check_choice("reduction", reduction, REDUCTIONS)
        self.reduction = reduction
        self.convert_to_functional(model, "model")

    @property
    def in_keys(self) -> list[NestedKey]:
        keys = self.tensor_keys
        return [keys.observation, keys.action, next_key(keys.done)]

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        batch = check_batch(self, tensordict)
        if batch.ndim < 2:
            raise ValueError(
                "The next actions need a batch [*B, T] of environments and time, got "
                f"{tuple(batch.shape)}: of one environment, batch.unsqueeze(0)."
            )
        observation, action, done = (batch.get(key) for key in self.in_keys)
        logits = functional_call(
            self.model_params, self.model, lambda: self.model(observation, action)
        )
        # Of what k did, [*B, T, N(k), N(j), A].
        given = (logits * action[..., None, None].to(logits.dtype)).sum(-3)
        following = action[..., 1:, :, :].unsqueeze(-3).to(logits.dtype)
        error = -(given[..., :-1, :, :, :].log_softmax(-1) * following).sum(-1)
        own = torch.eye(error.shape[-1], dtype=torch.bool, device=error.device)
        error = error.masked_fill(own, 0).sum((-1, -2))
        error = torch.where(done[..., :-1, 0], 0, error)
        error = torch.cat([error, torch.zeros_like(given[..., -1:, 0, 0, 0])], -1)
        loss = self._reduce_loss(error, tensordict=batch)
        return TensorDict({"loss_model_of_others": loss})
