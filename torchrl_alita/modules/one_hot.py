"""Policies over one-hot actions that losses can differentiate."""

from __future__ import annotations

import torch
from tensordict import NestedKey
from tensordict.nn import ProbabilisticTensorDictModule
from torch.distributions import OneHotCategorical

from torchrl_alita import functional
from torchrl_alita._checks import check_positive
from torchrl_alita.layout import ACTION, ACTION_MASK, LOGITS

__all__ = ["GumbelOneHot", "StraightThroughOneHot"]


def one_hot(index: torch.Tensor, size: int, *, dtype: torch.dtype = torch.float) -> torch.Tensor:
    """One-hot rows of indices, ``[*B] -> [*B, size]``.

    Torch's own reads the largest index back, for which a GPU is waited for, and which no graph
    of operations can hold.
    """
    hot = torch.zeros(*index.shape, size, dtype=dtype, device=index.device)
    return hot.scatter_(-1, index.unsqueeze(-1), 1)


class StraightThroughOneHot(OneHotCategorical):
    r"""Distribution over L one-hot actions with a differentiable draw, ``[*B, L]``.

    .. math:: a = onehot(\arg\max_k (l_k + g_k)), \qquad
        \nabla a = \nabla softmax((l + g) / \tau), \qquad g_k \sim Gumbel(0, 1)

    Source: https://arxiv.org/abs/1611.01144. The drawn actions follow the probabilities
    softmax(l) whatever the temperature; only the gradient's softness depends on it.

    Args:
        logits: ``[*B, L]``.
        action_mask: bool ``[*B, L]``, True where an action is allowed; another has
            probability 0. A row that allows nothing, as padding does, counts as one
            that allows everything. Default: all allowed.
        temperature: tau, positive.

    Raises:
        ValueError: if the temperature is not positive, or the mask has another shape.
        TypeError: if the mask is not bool.

    Examples:
        >>> policy = StraightThroughOneHot(torch.tensor([[1.0, 3.0, 2.0]]))
        >>> policy.deterministic_sample
        tensor([[0., 1., 0.]])
        >>> policy.log_prob(torch.tensor([[0.0, 1.0, 0.0]]))
        tensor([-0.4076])
    """

    has_rsample = True

    def __init__(
        self,
        logits: torch.Tensor,
        action_mask: torch.Tensor | None = None,
        *,
        temperature: float = 1.0,
    ):
        check_positive(temperature=temperature)
        self.temperature = temperature
        if action_mask is not None:
            if action_mask.shape != logits.shape:
                raise ValueError(
                    f"action_mask must have the shape of the logits, {tuple(logits.shape)}, got "
                    f"{tuple(action_mask.shape)}."
                )
            logits = logits.masked_fill(~functional.allowed_actions(action_mask), -torch.inf)
        super().__init__(logits=logits, validate_args=False)

    def rsample(self, sample_shape: tuple[int, ...] = ()) -> torch.Tensor:
        """Actions drawn with Gumbel noise, straight-through, ``-> [*sample_shape, *B, L]``."""
        scores = self.logits.expand(self._extended_shape(torch.Size(sample_shape)))
        # An exponential variable's negative logarithm is Gumbel's.
        return self._straight_through(scores - torch.empty_like(scores).exponential_().log())

    def sample(self, sample_shape: tuple[int, ...] = ()) -> torch.Tensor:
        """As :meth:`rsample`, without gradient."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    @property
    def deterministic_sample(self) -> torch.Tensor:
        """The likeliest action, straight-through, ``[*B, L]``."""
        return self._straight_through(self.logits)

    def _straight_through(self, scores: torch.Tensor) -> torch.Tensor:
        hard = one_hot(scores.argmax(-1), scores.shape[-1], dtype=scores.dtype)
        if not (torch.is_grad_enabled() and scores.requires_grad):
            return hard
        soft = torch.softmax(scores / self.temperature, dim=-1)
        return hard + (soft - soft.detach())


class GumbelOneHot(ProbabilisticTensorDictModule):
    r"""One-hot actions of logits, straight-through, ``[*B, N, A] -> [*B, N, A]``.

    Draws of :class:`StraightThroughOneHot`, as MADDPG uses them for discrete actions
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
        read = {"logits": logits} | ({"action_mask": action_mask} if masked else {})
        super().__init__(
            in_keys=read,
            out_keys=[action],
            distribution_class=StraightThroughOneHot,
            distribution_kwargs={},
        )
        self.temperature = temperature

    @property
    def temperature(self) -> float:
        """Tau, positive."""
        return self.distribution_kwargs["temperature"]

    @temperature.setter
    def temperature(self, value: float) -> None:
        check_positive(temperature=value)
        self.distribution_kwargs["temperature"] = float(value)
