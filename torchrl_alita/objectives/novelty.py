"""Training of the autoencoder behind the novelty, Eq. 10."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import dispatch
from torch import nn
from torchrl.objectives import LossModule

from torchrl_alita import functional
from torchrl_alita._agents import gather_agents
from torchrl_alita._checks import REDUCTIONS, check_choice
from torchrl_alita.layout import ACTION, OBSERVATION
from torchrl_alita.objectives._batch import check_batch
from torchrl_alita.objectives._functional_call import functional_call
from torchrl_alita.objectives._loss import house_loss
from torchrl_alita.team import Team

__all__ = ["NoveltyLoss"]


@house_loss
class NoveltyLoss(LossModule):
    r"""Reconstruction error of K influencers' autoencoders, Eq. 10.

    .. math:: L(\phi) = E_{\pi_1} \|\phi(s_1, a_1) - (s_1, a_1)\|^2

    Source: https://arxiv.org/abs/2108.12581. Train it on recent transitions, so that
    what the influencer no longer does becomes novel again. Its partner
    :class:`torchrl_alita.transforms.NoveltyReward` reads the same autoencoder.

    Args:
        autoencoder: ``[*B, K, O + A] -> [*B, K, O + A]``.
        team: a :class:`torchrl_alita.Team`, whose K influencers are in the order of the
            autoencoders, or the index of an influencer, or K of them.
        reduction: ``"none"`` (the shape of the batch), ``"mean"`` or ``"sum"``.

    Returns, from ``forward``, a TensorDict with ``loss_novelty``: the error, summed
    over features and influencers.

    Raises:
        ValueError: if an influencer is negative or listed twice, or the reduction
            unknown; when called, if the batch has other agents than the team, or is empty or
            its entries do not fit each other.
        TypeError: when called, if the autoencoder computes in another dtype.
        KeyError: when called, if the batch lacks a key.

    Examples:
        >>> from torchrl_alita import Team
        >>> from torchrl_alita.envs import make_env
        >>> from torchrl_alita.modules import Autoencoder
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=3, seed=0)
        >>> losses = NoveltyLoss(Autoencoder(16), Team(env))(env.rollout(4))
        >>> losses["loss_novelty"].shape
        torch.Size([])
    """

    @dataclass
    class _AcceptedKeys:
        """Keys that can be set with ``set_keys``.

        Attributes:
            observation (NestedKey): read. Default: ``("agents", "observation")``.
            action (NestedKey): read. Default: ``("agents", "action")``.
        """

        observation: NestedKey = OBSERVATION
        action: NestedKey = ACTION

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys
    out_keys = ["loss_novelty"]

    autoencoder: nn.Module
    autoencoder_params: TensorDictParams
    target_autoencoder_params: TensorDictParams

    def __init__(
        self,
        autoencoder: nn.Module,
        team: Team | int | Sequence[int] = 0,
        *,
        reduction: Literal["none", "mean", "sum"] = "mean",
    ):
        super().__init__()
        self.team = Team.of(team)
        check_choice("reduction", reduction, REDUCTIONS)
        self.reduction = reduction
        self.convert_to_functional(autoencoder, "autoencoder")

    @property
    def in_keys(self) -> list[NestedKey]:
        return [self.tensor_keys.observation, self.tensor_keys.action]

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        batch = check_batch(self, tensordict)
        observation, action = (batch.get(key) for key in self.in_keys)
        influencers = self.team.among(observation.shape[-2]).influencers
        inputs = torch.cat([observation, action.to(observation.dtype)], dim=-1)
        inputs = gather_agents(inputs, influencers, -2)
        reconstruction = functional_call(
            self.autoencoder_params, self.autoencoder, lambda: self.autoencoder(inputs)
        )
        error = functional.novelty(inputs, reconstruction).sum((-1, -2))
        return TensorDict({"loss_novelty": self._reduce_loss(error, tensordict=batch)})
