"""The influencer's intrinsic reward, Eq. 10."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import dispatch
from torch import nn

from torchrl_alita import functional
from torchrl_alita._agents import gather_agents, scatter_agents
from torchrl_alita._borrow import borrow
from torchrl_alita._checks import check_agents, check_choice, require_keys
from torchrl_alita._modes import without_training
from torchrl_alita.layout import ACTION, NOVELTY, OBSERVATION
from torchrl_alita.modules._acting import alone_with
from torchrl_alita.team import Team
from torchrl_alita.transforms import _transition

__all__ = ["NoveltyReward"]

DISTANCES = ("squared", "euclidean")


class NoveltyReward(_transition.TransitionTransform):
    r"""Novelty of what each of K influencers does, Eq. 10, ``-> [*B, N, 1]``.

    .. math:: \psi(s_1, a_1) = \|\phi(s_1, a_1) - (s_1, a_1)\|^2

    Source: https://arxiv.org/abs/2108.12581. It is written, without coefficient,
    under ``("next", "agents", "novelty")``, 0 for the other agents; the reward stays
    as it is. Call it on a batch, append it to a replay buffer (the bonus is then
    that of today's autoencoder, the default of this package), or append it to an
    environment (the bonus is that of the moment of collection). Its partner
    :class:`torchrl_alita.objectives.NoveltyLoss` trains the autoencoder, which is
    borrowed: its parameters are no part of this module.

    Args:
        autoencoder: ``[*B, K, O + A] -> [*B, K, O + A]``, see
            :class:`torchrl_alita.modules.Autoencoder`.
        team: a :class:`torchrl_alita.Team`, whose K influencers are in the order of the
            autoencoders, or the index of an influencer, or K of them.
        distance: ``"squared"``, Eq. 10, or ``"euclidean"``, its root, as in the authors'
            code for PyBullet.
        observation: key read. Default: ``("agents", "observation")``.
        action: key read. Default: ``("agents", "action")``.
        novelty: key written, under "next" in a batch. Default:
            ``("agents", "novelty")``.

    Raises:
        ValueError: if an influencer is negative or listed twice, or the distance unknown;
            when called, if the batch has other agents than the team, its features another
            size, or its entries do not fit each other.
        TypeError: when called, if the autoencoder computes in another dtype.
        KeyError: when called, if the batch lacks a key.

    Examples:
        >>> from torchrl_alita import Team
        >>> from torchrl_alita.envs import make_env
        >>> from torchrl_alita.modules import Autoencoder
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=3, seed=0)
        >>> batch = NoveltyReward(Autoencoder(16), Team(env))(env.rollout(4))
        >>> batch["next", "agents", "novelty"].shape
        torch.Size([5, 4, 3, 1])
    """

    def __init__(
        self,
        autoencoder: nn.Module,
        team: Team | int | Sequence[int] = 0,
        *,
        distance: Literal["squared", "euclidean"] = "squared",
        observation: NestedKey = OBSERVATION,
        action: NestedKey = ACTION,
        novelty: NestedKey = NOVELTY,
    ):
        super().__init__(in_keys=[observation, action], out_keys=[novelty])
        check_choice("distance", distance, DISTANCES)
        self.team = Team.of(team)
        self.distance = distance
        borrow(self, "autoencoder", autoencoder)

    @torch.no_grad()
    def _novelty(self, tensordict: TensorDictBase) -> torch.Tensor:
        observation, action = (tensordict.get(key) for key in self.in_keys)
        num_agents = observation.shape[-2]
        influencers = self.team.among(num_agents).influencers
        inputs = torch.cat([observation, action.to(observation.dtype)], dim=-1)
        inputs = gather_agents(inputs, influencers, -2)
        expected = getattr(self.autoencoder, "in_features", inputs.shape[-1])
        if inputs.shape[-1] != expected:
            raise ValueError(
                f"The autoencoder takes {expected} features, the batch has "
                f"{observation.shape[-1]} of observation and {action.shape[-1]} of action."
            )
        with alone_with(self.autoencoder), without_training(self.autoencoder):
            novelty = functional.novelty(inputs, self.autoencoder(inputs))
        novelty = novelty.sqrt() if self.distance == "euclidean" else novelty
        return scatter_agents(novelty, influencers, num_agents, -2)

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        return next_tensordict.set(self.out_keys[0], self._novelty(tensordict))

    @dispatch(source="in_keys", dest="batch_out_keys")
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        require_keys(tensordict, self.in_keys)
        check_agents(tensordict, self.in_keys)
        return _transition.set_entry(tensordict, self.batch_out_keys[0], self._novelty(tensordict))
