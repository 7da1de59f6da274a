"""A bonus for changing what becomes of the others."""

from __future__ import annotations

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import dispatch

from torchrl_alita import functional
from torchrl_alita._borrow import borrow
from torchrl_alita._checks import (
    check_agents,
    check_flag,
    check_kind,
    check_same_shape,
    check_share,
    require_keys,
)
from torchrl_alita.data.transitions import TransitionCounts
from torchrl_alita.layout import (
    ACTION,
    ACTION_MASK,
    ALIVE,
    OBSERVATION,
    TERMINATED,
    TRANSITION_INFLUENCE,
    next_key,
)
from torchrl_alita.modules import TransitionModel
from torchrl_alita.transforms import _transition

__all__ = ["TransitionInfluence"]


class TransitionInfluence(_transition.TransitionTransform):
    r"""Bonus for influence on the others' transitions, EITI or EDTI, ``-> [*B, N, 1]``.

    .. math::
        c_{i \to j} = \max\Big(-1,
            1 - \frac{p(s'_j | s_j, a_j)}{p(s'_j | s_j, a_j, s_i, a_i)} \Big), \qquad
        b_i = \sum_{j \ne i} c_{i \to j} \quad \text{or} \quad
        b_i = \gamma \sum_{j \ne i} \max(c_{i \to j}, 0) \, V_j(s')

    Source: https://arxiv.org/abs/1910.05512, and its code for this form of the first, EITI.
    With values it is the second, EDTI: influence counts by what j can still earn, which is
    nothing after a terminal step. EDTI's other part, j's reward of the step, is the team's
    own where agents are paid alike, and is left out.

    Given i's part, the mean of c over the outcomes is 0 if each outcome can still happen, as
    where a third agent decides. A game whose agents together determine the outcome is
    better counted with ``deterministic``: then c is the influence of all on j, is never
    negative, and is paid to each of them.

    It is written under ``("next", "agents", "transition_influence")``, and the reward stays
    as it is. :meth:`update` counts the transitions of a rollout, a call on a batch pays by
    today's counts and changes nothing, and :meth:`observe` does both. Appended to an
    environment, each step is counted and then paid, unless it is frozen. A model of
    transitions, in the place of counts, learns by
    :class:`torchrl_alita.objectives.TransitionModelLoss` alone: there is nothing to count,
    and every call pays by today's model. An agent that is not in the episode, see
    :func:`torchrl_alita.functional.present_agents`, neither has influence nor is influenced.

    Args:
        counts: where the probabilities come from: counts, or a
            :class:`torchrl_alita.modules.TransitionModel`, which is borrowed.
        value: key of V ``[*B, N, 1]``, in "next", for EDTI. Default: None, EITI.
        gamma: discount factor of a step, in [0, 1], for EDTI. Default: 0.99.
        frozen: an environment's steps are paid and not counted. Default: False.
        observation: key read, also in "next". Default: ``("agents", "observation")``.
        action: key read, one-hot for counts. Default: ``("agents", "action")``.
        terminated: key read in "next", for EDTI. Default: ``"terminated"``.
        alive: key read where the batch has it. Default: ``("agents", "alive")``.
        action_mask: key read where the batch has it. Default: ``("agents", "action_mask")``.
        transition_influence: key written, under "next" in a batch. Default:
            ``("agents", "transition_influence")``.

    Raises:
        ValueError: if gamma is out of range; when called, if nothing was counted yet or the
            model was never trained, or the entries do not fit the probabilities.
        KeyError: when called, if the batch lacks a key.

    Examples:
        >>> from torchrl_alita.data import Displacement, OneHotCode, TransitionCounts
        >>> from torchrl_alita.envs import PushBox
        >>> own = OneHotCode([15] * 6, parts=[(0, 1, 4, 5), (2, 3, 4, 5)], observer=0)
        >>> moves = Displacement(OneHotCode([15] * 6, parts=[(0, 1), (2, 3)], observer=0))
        >>> counts = TransitionCounts(
        ...     own, moves, num_agents=2, num_actions=5, deterministic=True
        ... )
        >>> rollout = PushBox(3, seed=0).rollout(4)
        >>> bonus = TransitionInfluence(counts)
        >>> bonus.update(rollout)
        >>> bonus(rollout)["next", "agents", "transition_influence"].shape
        torch.Size([3, 4, 2, 1])
    """

    def __init__(
        self,
        counts: TransitionCounts | TransitionModel,
        *,
        value: NestedKey | None = None,
        gamma: float = 0.99,
        frozen: bool = False,
        observation: NestedKey = OBSERVATION,
        action: NestedKey = ACTION,
        terminated: NestedKey = TERMINATED,
        alive: NestedKey = ALIVE,
        action_mask: NestedKey = ACTION_MASK,
        transition_influence: NestedKey = TRANSITION_INFLUENCE,
    ):
        check_share(gamma=gamma)
        check_flag(frozen=frozen)
        kinds = (TransitionCounts, TransitionModel)
        check_kind("counts", counts, kinds, "TransitionCounts or a TransitionModel")
        keys = [observation, action, next_key(observation)]
        if value is not None:
            keys += [next_key(value), next_key(terminated)]
        super().__init__(in_keys=keys, out_keys=[transition_influence])
        self.value, self.gamma, self.frozen = value, float(gamma), frozen
        self.optional_keys = [alive, action_mask]
        self.learned = isinstance(counts, TransitionModel)
        if self.learned:
            borrow(self, "counts", counts)
        else:
            self.counts = counts

    def _entries(self, batch: TensorDictBase) -> list[torch.Tensor]:
        require_keys(batch, self.in_keys[:3])
        check_agents(batch, self.in_keys[:3])
        return [batch.get(key) for key in self.in_keys[:3]]

    def update(self, batch: TensorDictBase) -> None:
        """Count the transitions of a batch.

        Args:
            batch: of any batch size.

        Raises:
            ValueError: if a code does not fit its table; nothing is counted then.
            KeyError: if the batch lacks a key.
            TypeError: if there is a model in the place of counts.
        """
        if self.learned:
            raise TypeError(
                "A TransitionModel counts nothing: train it with TransitionModelLoss instead of "
                "update(batch)."
            )
        self.counts.update(self.counts.codes(*self._entries(batch)))

    def observe(self, batch: TensorDictBase) -> TensorDictBase:
        """Count the transitions of a batch and pay them, which is faster than one by one.

        A model counts nothing, and its transitions are paid.

        Args:
            batch: of any batch size.

        Returns:
            A shallow copy with the bonus.
        """
        if self.learned:
            return self(batch)
        codes = self.counts.codes(*self._entries(batch))
        self.counts.update(codes)
        return self._pay(batch, codes)

    def _probabilities(
        self, batch: TensorDictBase, codes: dict[str, torch.Tensor] | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Alone and together, ``[*B, N, N]``, or in units of the second."""
        if not self.learned:
            if self.counts.empty:
                raise ValueError(
                    "TransitionInfluence has counted no transition yet: call update(batch) before "
                    "the bonus is read."
                )
            return self.counts(self.counts.codes(*self._entries(batch)) if codes is None else codes)
        # A compiled graph cannot read a value.
        if not torch.compiler.is_compiling() and self.counts.untrained:
            raise ValueError(
                "The TransitionModel of TransitionInfluence was never trained: train it with "
                "TransitionModelLoss before the bonus is read."
            )
        alone, together = self.counts(*self._entries(batch))
        return (alone - together).exp(), torch.ones_like(alone)

    @torch.no_grad()
    def _pay(
        self, batch: TensorDictBase, codes: dict[str, torch.Tensor] | None = None
    ) -> TensorDictBase:
        require_keys(batch, self.in_keys)
        observation = batch.get(self.in_keys[0])
        alone, together = self._probabilities(batch, codes)
        coefficient = functional.transition_influence(alone, together).clamp_min(-1)
        present = functional.present_agents(
            observation, *(batch.get(key, None) for key in self.optional_keys)
        )
        own = torch.eye(alone.shape[-1], dtype=torch.bool, device=alone.device)
        nothing = own | ~(present.unsqueeze(-1) & present.unsqueeze(-2))
        coefficient = coefficient.masked_fill(nothing, 0)
        if self.value is not None:
            check_same_shape(batch, self.in_keys[3], (*observation.shape[:-1], 1))
            check_same_shape(batch, self.in_keys[4], (*observation.shape[:-2], 1))
            value, terminated = (batch.get(key) for key in self.in_keys[3:])
            value = torch.where(terminated.unsqueeze(-2), 0, value).squeeze(-1).unsqueeze(-2)
            coefficient = self.gamma * coefficient.clamp_min(0) * value
        bonus = coefficient.sum(-1, keepdim=True)
        bonus = bonus.to(_transition.dtype_beside(observation.dtype))
        return _transition.set_entry(batch, self.batch_out_keys[0], bonus)

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        keys = (*self.in_keys[:2], *self.optional_keys)
        whole = tensordict.select(*keys, strict=False).set("next", next_tensordict)
        paid = (self if self.frozen else self.observe)(whole)
        return next_tensordict.set(self.out_keys[0], paid.get(self.batch_out_keys[0]))

    @dispatch(source="in_keys", dest="batch_out_keys", auto_batch_size=False)
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        return self._pay(tensordict)
