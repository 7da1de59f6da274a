"""Policies over one-hot actions that losses can differentiate."""

from __future__ import annotations

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.envs import ExplorationType, exploration_type

from torchrl_alita._checks import check_positive
from torchrl_alita.envs.layout import ACTION, ACTION_MASK, LOGITS

__all__ = ["GumbelOneHot"]


class GumbelOneHot(TensorDictModuleBase):
    r"""One-hot actions of logits, straight-through, ``[*B, N, A] -> [*B, N, A]``.

    .. math:: a = onehot(\arg\max_k (l_k + g_k)), \qquad
        \nabla a = \nabla softmax((l + g) / \tau), \qquad g_k \sim Gumbel(0, 1)

    Source: https://arxiv.org/abs/1611.01144, as MADDPG uses it for discrete actions
    (https://arxiv.org/abs/1706.02275). Under ``ExplorationType.RANDOM`` the action is
    drawn, exactly from the policy's probabilities; otherwise the noise is left out and
    it is the likeliest. A masked action has probability 0: it is never taken, and its
    logit gets no gradient.

    Args:
        temperature: tau, positive: how soft the gradient is. Default: 1. A float may be
            assigned at any time, so that a training loop can let it decay.
        masked: read a mask, bool, True where an action is allowed.
        logits: key read. Default: ``("agents", "logits")``.
        action_mask: key read, if masked. Default: ``("agents", "action_mask")``.
        action: key written. Default: ``("agents", "action")``.

    Raises:
        ValueError: if the temperature is not positive.

    Examples:
        >>> from tensordict import TensorDict
        >>> policy = GumbelOneHot()
        >>> batch = TensorDict({"agents": {"logits": torch.tensor([[1.0, 3.0, 2.0]])}})
        >>> policy(batch)["agents", "action"]
        tensor([[0., 1., 0.]])
    """

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        masked: bool = False,
        logits: NestedKey = LOGITS,
        action_mask: NestedKey = ACTION_MASK,
        action: NestedKey = ACTION,
    ):
        super().__init__()
        self.in_keys = [logits, action_mask] if masked else [logits]
        self.out_keys = [action]
        self.temperature = temperature

    @property
    def temperature(self) -> float:
        """Tau, positive."""
        return self._temperature

    @temperature.setter
    def temperature(self, value: float) -> None:
        check_positive(temperature=value)
        self._temperature = float(value)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        scores = tensordict.get(self.in_keys[0])
        if exploration_type() == ExplorationType.RANDOM:
            # An exponential variable's negative logarithm is Gumbel's.
            scores = scores - torch.empty_like(scores).exponential_().log()
        if len(self.in_keys) > 1:
            scores = scores.masked_fill(~tensordict.get(self.in_keys[1]), -torch.inf)
        soft = torch.softmax(scores / self.temperature, dim=-1)
        hard = torch.nn.functional.one_hot(scores.argmax(-1), scores.shape[-1]).to(soft.dtype)
        return tensordict.set(self.out_keys[0], hard + (soft - soft.detach()))
