"""Training of the attention that weighs the influencees, the learned alpha of Eq. 4."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import TensorDictModuleBase, dispatch
from torchrl.objectives import LossModule

from torchrl_alita._agents import gather_agents
from torchrl_alita._borrow import borrow
from torchrl_alita._checks import REDUCTIONS, check_choice, require_written
from torchrl_alita.layout import ACTION, ATTENDED_VALUE, ATTENTION, VALUE
from torchrl_alita.modules._acting import run_network
from torchrl_alita.objectives._batch import check_batch, row_mask, unique
from torchrl_alita.objectives._critics import PartnerCritics
from torchrl_alita.objectives._functional_call import functional_call
from torchrl_alita.objectives._loss import house_loss
from torchrl_alita.team import Team

__all__ = ["InfluenceAttentionLoss"]

# Values whose deviation is a smaller share of their size are alike but for rounding.
_ALIKE = 1e-6


@house_loss
class InfluenceAttentionLoss(LossModule):
    r"""Error of telling an influencer's value from those it attends to.

    .. math::
        L = E \frac{1}{K} \sum_k \Big(y_k(s) - \frac{Q_k(s, \mathbf{a}) - \bar Q_k}{\sigma_{Q_k}}\Big)^2

    over the K influencers k, where :math:`y_k` is made of k's own observation and of its
    influencees', each with the weight :math:`\alpha_{ki}(s)` that Eq. 4 of
    https://arxiv.org/abs/2108.12581 then uses. Mean and deviation are those of the batch; where
    all values are alike the target is 0. An influencee has a large weight where the influencer
    must look at it to know what its own situation is worth.

    What must not train these weights is F itself: they sum to 1, and the sum of
    :math:`\alpha_i g_i^2` is least with all weight on the influencee that misses least. Here
    gaps do not occur. The critics are the partner's and get no gradient.

    Source: ours. The paper leaves alpha open and names attention as its outlook.

    Args:
        attention_network: writes ``("agents", "attention")`` ``[*B, N, N]`` and
            ``("agents", "attended_value")`` ``[*B, N, 1]``, as
            :class:`torchrl_alita.modules.InfluenceAttention` does.
        partner: as in :class:`torchrl_alita.InfluenceLoss`. It is borrowed.
        team: a :class:`torchrl_alita.Team`, or the index of an influencer, or several.
        reduction: ``"none"`` (the shape of the batch), ``"mean"`` or ``"sum"``.

    Returns, from ``forward``, a TensorDict with ``loss_attention``: 1 for a network that tells
    nothing; and, detached, ``attention`` ``[K, M]``, the mean weight of each influencee.

    Raises:
        ValueError: if the partner has no critics, the team is of agents that act in turns, or
            the reduction is unknown; when called, if the batch has other agents than the team,
            or is empty or its entries do not fit each other.
        KeyError: if the network does not write what it must; when called, if the batch lacks a
            key.

    Examples:
        >>> from torchrl.objectives import SoftUpdate
        >>> from torchrl_alita import InfluenceLoss, MADDPGLoss, Team
        >>> from torchrl_alita.envs import make_env
        >>> from torchrl_alita.modules import make_actor, make_critic, make_influence_attention
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=3, seed=0)
        >>> actor, network = make_actor(env), make_influence_attention(env)
        >>> maddpg = MADDPGLoss(actor, make_critic(env))
        >>> updater = SoftUpdate(maddpg, tau=0.01)
        >>> team = Team(env, influencers=0, weights=network)
        >>> batch = env.rollout(4).reshape(-1)
        >>> InfluenceAttentionLoss(network, maddpg, team)(batch)["attention"]
        tensor([[0.5000, 0.5000]])
        >>> InfluenceLoss(actor, maddpg, team)(batch)["loss_influence"].backward()
        >>> any(param.grad is not None for param in network.parameters())
        False
    """

    @dataclass
    class _AcceptedKeys:
        """Keys that can be set with ``set_keys``.

        Attributes:
            action (NestedKey): read. Default: ``("agents", "action")``.
            state_action_value (NestedKey): written by the critics. Default:
                ``("agents", "state_action_value")``.
            attended_value (NestedKey): written by the network. Default:
                ``("agents", "attended_value")``.
        """

        action: NestedKey = ACTION
        state_action_value: NestedKey = VALUE
        attended_value: NestedKey = ATTENDED_VALUE

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys
    out_keys = ["loss_attention", "attention"]

    attention_network: TensorDictModuleBase
    attention_network_params: TensorDictParams
    target_attention_network_params: TensorDictParams

    def __init__(
        self,
        attention_network: TensorDictModuleBase,
        partner: LossModule,
        team: Team | int | Sequence[int] = 0,
        *,
        reduction: Literal["none", "mean", "sum"] = "mean",
    ):
        super().__init__()
        self.critics = PartnerCritics(partner)
        borrow(self, "partner", partner)
        check_choice("reduction", reduction, REDUCTIONS)
        for key in (ATTENTION, self.tensor_keys.attended_value):
            require_written(attention_network, key)
        self.team = Team.of(team)
        if self.team.acts_in_turns:
            raise ValueError("Of one influencee there is nothing to weigh: got Team.in_turns().")
        self.reduction = reduction
        self.convert_to_functional(attention_network, "attention_network")

    @property
    def in_keys(self) -> list[NestedKey]:
        keys = self.tensor_keys
        read = [key for key in self.critics.network.in_keys if key != keys.action]
        return unique([keys.action, *read, *self.attention_network.in_keys])

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        batch, keys = check_batch(self, tensordict), self.tensor_keys
        action = batch.get(keys.action)
        team = self.team.among(action.shape[-2])
        rows = action.shape[:-2]
        mask = row_mask(self, batch, rows)
        shown = torch.ones(rows, dtype=torch.bool, device=action.device) if mask is None else mask
        with torch.no_grad():
            value = self.critics.value(batch, action, keys=keys, agents=team.influencers)
            target = _standardized(value.squeeze(-1), shown)
        network = self.attention_network
        inputs = batch.select(*network.in_keys)
        written = functional_call(
            self.attention_network_params, network, lambda: run_network(network, inputs)
        )
        told = gather_agents(written.get(keys.attended_value).squeeze(-1), team.influencers, -1)
        error = (told - target).square().mean(-1)
        with torch.no_grad():
            weights = team.attention_to(written.get(ATTENTION).detach())
            count = shown.sum().clamp_min(1)
            mean = _sum_of_rows(weights.where(shown[..., None, None], 0), 2) / count
        loss = self._reduce_loss(error, tensordict=batch)
        return TensorDict({"loss_attention": loss, "attention": mean})


def _standardized(values: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
    """Values ``[*B, K]`` of mean 0 and deviation 1 over the shown rows."""
    shown = shown.unsqueeze(-1)
    count = shown.sum().clamp_min(1)
    mean = _sum_of_rows(values.where(shown, 0), 1) / count
    centered = values - mean
    deviation = (_sum_of_rows(centered.where(shown, 0).square(), 1) / count).sqrt()
    told = deviation > _ALIKE * (1 + mean.abs())
    return torch.where(told, centered / deviation.where(told, 1), 0)


def _sum_of_rows(values: torch.Tensor, ndim: int) -> torch.Tensor:
    """Sum over all but so many last dimensions, of which a batch may have none more."""
    return values.reshape(-1, *values.shape[-ndim:]).sum(0)
