"""What the model of transitions learns from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import dispatch
from torch import nn
from torchrl.objectives import LossModule

from torchrl_alita import functional
from torchrl_alita._checks import REDUCTIONS, check_at_least_one, check_choice
from torchrl_alita.layout import ACTION, ACTION_MASK, ALIVE, OBSERVATION, next_key
from torchrl_alita.objectives._batch import check_batch
from torchrl_alita.objectives._functional_call import functional_call
from torchrl_alita.objectives._loss import house_loss

__all__ = ["TransitionModelLoss"]


@house_loss
class TransitionModelLoss(LossModule):
    r"""Evidence bound of the model of transitions, ``[*B] -> []``.

    .. math:: L = - E \sum_j \Big( \log p_w(s'_j | s_j, a_j) + \sum_{i \ne j}
        \log p_w(s'_j | s_j, a_j, s_i, a_i) \Big) + \frac{1}{n} D_{KL}(q(w) \| N(0, 1)),
        \qquad w \sim q

    with one draw of the weights w for each call. Source: the variational estimator of
    https://arxiv.org/abs/1910.05512, and its code, where n is the size of a batch. Its
    partner :class:`torchrl_alita.transforms.TransitionInfluence` reads the same model.

    A transition's next observation is that of its own episode, also at the episode's end. An
    agent that is not in the episode, by ``alive`` or as
    :func:`torchrl_alita.functional.present_agents` says, does not count.

    Args:
        model: see :class:`torchrl_alita.modules.TransitionModel`.
        num_rows: n, the transitions that the prior is weighed against; a model that learns
            from all of a run has seen many more than a batch. Default: 100,000.
        reduction: ``"none"`` (the shape of the batch), ``"mean"`` or ``"sum"``.

    Returns, from ``forward``, a TensorDict with ``loss_transition_model``, and to be logged
    ``transition_kl``, the divergence.

    Raises:
        ValueError: if an argument is out of range; when called, if the batch is empty, or its
            entries do not fit each other or the model.
        KeyError: when called, if the batch lacks a key.

    Examples:
        >>> from torchrl_alita.envs import PushBox
        >>> from torchrl_alita.modules import TransitionModel
        >>> model = TransitionModel(2, observation_size=90, action_size=5)
        >>> losses = TransitionModelLoss(model)(PushBox(3, seed=0).rollout(4))
        >>> losses["loss_transition_model"].shape
        torch.Size([])
    """

    @dataclass
    class _AcceptedKeys:
        """Keys that can be set with ``set_keys``.

        Attributes:
            observation (NestedKey): read, also in "next". Default:
                ``("agents", "observation")``.
            action (NestedKey): read. Default: ``("agents", "action")``.
            alive (NestedKey): read where the batch has it. Default: ``("agents", "alive")``.
            action_mask (NestedKey): read where the batch has it. Default:
                ``("agents", "action_mask")``.
        """

        observation: NestedKey = OBSERVATION
        action: NestedKey = ACTION
        alive: NestedKey = ALIVE
        action_mask: NestedKey = ACTION_MASK

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys
    out_keys = ["loss_transition_model", "transition_kl"]

    model: nn.Module
    model_params: TensorDictParams
    target_model_params: TensorDictParams

    def __init__(
        self,
        model: nn.Module,
        *,
        num_rows: int = 100_000,
        reduction: Literal["none", "mean", "sum"] = "mean",
    ):
        super().__init__()
        check_choice("reduction", reduction, REDUCTIONS)
        check_at_least_one(num_rows=num_rows)
        self.num_rows, self.reduction = num_rows, reduction
        self.convert_to_functional(model, "model")

    @property
    def in_keys(self) -> list[NestedKey]:
        keys = self.tensor_keys
        return [keys.observation, keys.action, next_key(keys.observation)]

    @property
    def optional_keys(self) -> list[NestedKey]:
        """Read where the batch has them."""
        return [self.tensor_keys.alive, self.tensor_keys.action_mask]

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        batch = check_batch(self, tensordict, optional=self.optional_keys)
        entries = [batch.get(key) for key in self.in_keys]
        present = functional.present_agents(
            entries[0], *(batch.get(key, None) for key in self.optional_keys)
        )
        (alone, together), divergence = functional_call(
            self.model_params,
            self.model,
            lambda: (self.model(*entries, sample=True), self.model.kl()),
        )
        # j's own stands in every row of another.
        each = alone.sum(-2) / (alone.shape[-1] - 1)
        both = present.unsqueeze(-1) & present.unsqueeze(-2)
        error = torch.where(present, each, 0).sum(-1)
        error = error + torch.where(both, together, 0).sum((-1, -2))
        loss = self._reduce_loss(divergence / self.num_rows - error, tensordict=batch)
        return TensorDict({"loss_transition_model": loss, "transition_kl": divergence.detach()})
