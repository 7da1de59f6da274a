"""A bonus for what others do because of one's own action."""

from __future__ import annotations

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import dispatch
from torch import nn

from torchrl_alita import functional
from torchrl_alita._borrow import borrow
from torchrl_alita._checks import check_agents, check_same_shape, require_keys
from torchrl_alita._modes import without_training
from torchrl_alita.layout import (
    ACTION,
    ACTION_MASK,
    LOGITS,
    OBSERVATION,
    SOCIAL_INFLUENCE,
)
from torchrl_alita.modules import PoliciesOfOthers
from torchrl_alita.transforms import _transition

__all__ = ["SocialInfluence"]


class SocialInfluence(_transition.TransitionTransform):
    r"""Bonus for moving the others' actions, ``-> [*B, N, 1]``.

    .. math::
        c_k = \sum_{j \ne k} D_{KL}\Big( p(a_j | a_k, s) \,\Big\|\,
            \sum_{\tilde a} \pi_k(\tilde a | s) \, p(a_j | \tilde a, s) \Big)

    Source: https://arxiv.org/abs/1810.08647. It is written under
    ``("next", "agents", "social_influence")``, and the reward stays as it is. Nothing is
    counted: called on a batch, appended to a replay buffer or to an environment, it is
    that of today's policies or of today's model. With one-hot actions alone. An entry that is
    not finite stays alone, unlike in the source's code, where it empties the whole batch.

    Args:
        others: ``[*B, N, O], [*B, N, A] -> [*B, N, A, N, A]``, logits of each j for each
            action of each k: :class:`torchrl_alita.modules.PoliciesOfOthers`, where agents
            see each other's action of the step, or
            :class:`torchrl_alita.modules.ModelOfOthers`, trained by
            :class:`torchrl_alita.objectives.ModelOfOthersLoss` on what they do next. Borrowed.
        observation: key read. Default: ``("agents", "observation")``.
        action: key read, one-hot. Default: ``("agents", "action")``.
        logits: key read, of the policies that acted. Default: ``("agents", "logits")``.
        action_mask: key read where the batch has it, bool ``[*B, N, A]``, True where an action
            is allowed: k cannot take another one, nor can j in the same step. A model of what
            comes next knows by itself. Default: ``("agents", "action_mask")``.
        social_influence: key written, under "next" in a batch. Default:
            ``("agents", "social_influence")``.

    Raises:
        ValueError: when called, if the entries do not fit each other or the model.
        KeyError: when called, if the batch lacks a key.

    Examples:
        >>> from torchrl_alita.envs import PushBox
        >>> from torchrl_alita.modules import ModelOfOthers, make_stochastic_actor
        >>> env = PushBox(3, seed=0)
        >>> bonus = SocialInfluence(ModelOfOthers(2, observation_size=90, num_actions=5))
        >>> batch = bonus(env.rollout(4, make_stochastic_actor(env)))
        >>> batch["next", "agents", "social_influence"].shape
        torch.Size([3, 4, 2, 1])
    """

    def __init__(
        self,
        others: nn.Module,
        *,
        observation: NestedKey = OBSERVATION,
        action: NestedKey = ACTION,
        logits: NestedKey = LOGITS,
        action_mask: NestedKey = ACTION_MASK,
        social_influence: NestedKey = SOCIAL_INFLUENCE,
    ):
        super().__init__(in_keys=[observation, action, logits], out_keys=[social_influence])
        self.action_mask = action_mask
        borrow(self, "others", others)

    @torch.no_grad()
    def _influence(self, tensordict: TensorDictBase) -> torch.Tensor:
        require_keys(tensordict, self.in_keys)
        lead = check_agents(tensordict, self.in_keys)
        observation, action, logits = (tensordict.get(key) for key in self.in_keys)
        check_same_shape(tensordict, self.in_keys[2], action.shape)
        with without_training(self.others):
            conditional = self.others(observation, action)
        shape = (*lead, action.shape[-1], *action.shape[-2:])
        if tuple(conditional.shape) != shape:
            raise ValueError(
                f"others must give logits of the shape {shape}, got {tuple(conditional.shape)}."
            )
        mask = tensordict.get(self.action_mask, None)
        if mask is not None:
            check_same_shape(tensordict, self.action_mask, action.shape)
            forbidden = ~functional.allowed_actions(mask)
            logits = logits.masked_fill(forbidden, -torch.inf)
            if isinstance(self.others, PoliciesOfOthers):
                of_others = forbidden[..., None, None, :, :]
                conditional = conditional.masked_fill(of_others, -torch.inf)
        # [*B, N(k), N(j), A(k), A(j)]
        conditional = conditional.softmax(-1).transpose(-2, -3)
        policy = logits.softmax(-1).unsqueeze(-2)
        each = functional.social_influence(conditional, policy.expand(*conditional.shape[:-1]))
        taken = (each * action.unsqueeze(-2)).sum(-1)
        own = torch.eye(taken.shape[-1], dtype=torch.bool, device=taken.device)
        return taken.masked_fill(own, 0).sum(-1, keepdim=True)

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        return next_tensordict.set(self.out_keys[0], self._influence(tensordict))

    @dispatch(source="in_keys", dest="batch_out_keys")
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        influence = self._influence(tensordict)
        return _transition.set_entry(tensordict, self.batch_out_keys[0], influence)
