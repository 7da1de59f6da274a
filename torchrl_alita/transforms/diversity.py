"""The influencees' intrinsic penalty, Eq. 11."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase, dispatch

from torchrl_alita import functional
from torchrl_alita._agents import gather_agents, index_of, scatter_agents
from torchrl_alita._borrow import borrow
from torchrl_alita._checks import (
    check_agents,
    check_choice,
    check_same_shape,
    non_negative_numbers,
    require_keys,
    require_written,
)
from torchrl_alita._modes import without_training
from torchrl_alita.layout import (
    ACTION,
    ACTION_MASK,
    DIVERSITY_PENALTY,
    LOGITS,
    NOVELTY,
    OBSERVATION,
    next_key,
)
from torchrl_alita.modules._acting import alone_with, run_network
from torchrl_alita.team import Team
from torchrl_alita.transforms import _transition

__all__ = ["DiversityPenalty"]

DISTANCES = ("squared", "euclidean", "brier")
WEIGHTS = ("exponential", "min_max")


class DiversityPenalty(_transition.TransitionTransform):
    r"""Penalty of the influencees for leaving their policies, Eq. 11, ``-> [*B, N, 1]``.

    .. math::
        r^{int}_{\pi_i}(s, a) = -\exp(-\omega_i \psi(s_1, a_1)) \|\pi_i(s_i) - a_i\|^2

    Source: https://arxiv.org/abs/2108.12581. It is written, without coefficient,
    under ``("next", "agents", "diversity_penalty")``, and the reward stays as it is.
    With K influencers an influencee's penalty is the mean over the other influencers; a
    single influencer has none. Beware of its scale: with a coefficient of 1, the paper's
    literal form, the penalty froze a team of cooperative navigation where 0.1 let it
    learn.

    Like :class:`torchrl_alita.transforms.NoveltyReward`, whose result it reads, it is
    called on a batch, or appended to a replay buffer or an environment after it. The
    actor is borrowed: its parameters are no part of this module.

    Args:
        actor_network: the policies of all agents, as made by
            :func:`torchrl_alita.modules.make_actor`.
        team: a :class:`torchrl_alita.Team`, whose influencees are penalized, or the index of
            an influencer, or K of them. With ``Team.in_turns()`` the novelty is that of what
            was done, and ``actor_network`` is the influencee's policy.
        omega: how fast novelty lifts the penalty, at least 0; one number, or one for
            each of N agents. Default: 0.01, Table 5 for MAPE.
        distance: ``"squared"`` for continuous actions, or ``"euclidean"``, its root;
            ``"brier"`` for one-hot ones, of an actor that writes logits ``[*B, N, A]``.
            Default: ``"brier"`` for an actor that does, otherwise ``"squared"``.
        weight: how novelty weighs the distance. ``"exponential"``, Eq. 11: the newer, the
            less. ``"min_max"``: the newer, the more, see
            :func:`torchrl_alita.functional.min_max`; with ``"euclidean"`` it is what the
            authors' code has for PyBullet. It has no omega.
        observation: key read. Default: ``("agents", "observation")``.
        action: key read. Default: ``("agents", "action")``.
        novelty: key read, in "next". Default: ``("agents", "novelty")``.
        diversity_penalty: key written, under "next" in a batch. Default:
            ``("agents", "diversity_penalty")``.
        logits: key that the actor writes, for ``"brier"``.
        action_mask: key read where the batch has it, for ``"brier"``.

    Raises:
        ValueError: if an index is negative or listed twice, omega is negative or the
            distance or weight unknown, or omega is not of the team's number of agents; when
            called, if the batch has other agents than the team, or its entries do not fit each
            other.
        TypeError: if omega is no number or sequence of them; when called, if the actor
            computes in another dtype.
        KeyError: when called, if the batch lacks a key, or the actor does not write what
            the distance is of.

    Examples:
        >>> from torchrl_alita import Team
        >>> from torchrl_alita.envs import make_env
        >>> from torchrl_alita.modules import Autoencoder, make_actor
        >>> from torchrl_alita.transforms import NoveltyReward
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=3, seed=0)
        >>> team = Team(env)
        >>> batch = NoveltyReward(Autoencoder(16), team)(env.rollout(4))
        >>> batch = DiversityPenalty(make_actor(env), team)(batch)
        >>> batch["next", "agents", "diversity_penalty"].shape
        torch.Size([5, 4, 3, 1])
    """

    def __init__(
        self,
        actor_network: TensorDictModuleBase,
        team: Team | int | Sequence[int] = 0,
        *,
        omega: float | Sequence[float] = 0.01,
        distance: Literal["squared", "euclidean", "brier"] | None = None,
        weight: Literal["exponential", "min_max"] = "exponential",
        observation: NestedKey = OBSERVATION,
        action: NestedKey = ACTION,
        novelty: NestedKey = NOVELTY,
        diversity_penalty: NestedKey = DIVERSITY_PENALTY,
        logits: NestedKey = LOGITS,
        action_mask: NestedKey = ACTION_MASK,
    ):
        super().__init__(
            in_keys=[observation, action, next_key(novelty)], out_keys=[diversity_penalty]
        )
        if distance is None:
            distance = "brier" if logits in actor_network.out_keys else "squared"
        check_choice("distance", distance, DISTANCES)
        check_choice("weight", weight, WEIGHTS)
        self.team = Team.of(team)
        self.register_buffer("omega", non_negative_numbers("omega", omega))
        if self.team.num_agents is not None:
            self._check_omega(self.team.size)
        self.distance = distance
        self.weight = weight
        self.logits = logits
        self.action_mask = action_mask
        borrow(self, "actor_network", actor_network)

    def _check_omega(self, num_agents: int) -> None:
        if self.omega.ndim > 0 and self.omega.shape != (num_agents,):
            raise ValueError(
                f"omega must be one number or {num_agents}, one for each agent, got "
                f"{self.omega.tolist()}."
            )

    def _shares(self, team: Team, like: torch.Tensor) -> torch.Tensor:
        """Share of each influencer in each agent's penalty, ``[N, K, 1]``."""
        self._check_omega(team.size)
        if team.acts_in_turns:
            return like.new_ones(1, 1, 1)
        influencees = index_of(team.influencees, like.device).unsqueeze(-1)
        others = (influencees != index_of(team.influencers, like.device)).to(like.dtype)
        shares = others / others.sum(-1, keepdim=True).clamp(min=1)
        return scatter_agents(shares, team.influencees, team.size, 0).unsqueeze(-1)

    def _distance(self, tensordict: TensorDictBase, *, recurrent: bool) -> torch.Tensor:
        action = tensordict.get(self.in_keys[1])
        written = self.logits if self.distance == "brier" else self.in_keys[1]
        require_written(self.actor_network, written)
        policy = tensordict.select(
            *self.actor_network.in_keys, self.action_mask, strict=False
        ).copy()
        with alone_with(self.actor_network), without_training(self.actor_network):
            policy = run_network(self.actor_network, policy, recurrent=recurrent)
        if self.distance != "brier":
            own = policy.get(self.in_keys[1])
            distance = functional.squared_distance(own, action.to(own.dtype))
            return distance.sqrt() if self.distance == "euclidean" else distance
        logits = policy.get(self.logits)
        mask = tensordict.get(self.action_mask, None)
        if mask is not None:
            logits = logits.masked_fill(~functional.allowed_actions(mask), -torch.inf)
        return functional.brier_distance(logits.softmax(-1), action, mask)

    @torch.no_grad()
    def _penalty(
        self, tensordict: TensorDictBase, novelty: torch.Tensor, *, recurrent: bool
    ) -> torch.Tensor:
        team = self.team.among(tensordict.get(self.in_keys[1]).shape[-2])
        weights = self._shares(team, novelty)
        distance = self._distance(tensordict, recurrent=recurrent).unsqueeze(-2)
        novelty = gather_agents(novelty, team.influencers, -2).unsqueeze(-3)
        if self.weight == "min_max":
            return -(weights * functional.min_max(novelty) * distance).sum(-2)
        omega = (self.omega if self.omega.ndim == 0 else self.omega[:, None, None]).to(distance)
        return (weights * functional.diversity_penalty(distance, novelty, omega)).sum(-2)

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        novelty = next_tensordict.get(self.in_keys[2][1:], None)
        if novelty is None:
            raise KeyError(f"No {self.in_keys[2]}: append NoveltyReward to the environment first.")
        # A policy with a memory makes one step in an environment; over a batch it unrolls.
        penalty = self._penalty(tensordict, novelty, recurrent=False)
        return next_tensordict.set(self.out_keys[0], penalty)

    @dispatch(source="in_keys", dest="batch_out_keys")
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        require_keys(tensordict, self.in_keys)
        agents = check_agents(tensordict, self.in_keys)
        check_same_shape(tensordict, self.in_keys[2], (*agents, 1))
        penalty = self._penalty(tensordict, tensordict.get(self.in_keys[2]), recurrent=True)
        return _transition.set_entry(tensordict, self.batch_out_keys[0], penalty)
