"""Who influences whom in a team, and with which weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.envs import EnvBase

from torchrl_alita._agents import gather_agents, index_of
from torchrl_alita._checks import (
    agent_indices,
    check_agent_range,
    check_same_shape,
    check_weights,
    require_keys,
    require_written,
    sizes,
)
from torchrl_alita.layout import ATTENTION, layout_of
from torchrl_alita.modules._acting import run_network

__all__ = ["Team"]


class Team:
    r"""K influencers, their M influencees, and the weights alpha ``[K, M]`` between them.

    .. math:: \sum_{i \ne k} \alpha_{k, i} = 1 \quad \text{for each influencer } k

    Source: Eq. 4 and Sec. 4.3 of https://arxiv.org/abs/2108.12581. One team is made for an
    environment and handed to all parts of the algorithm: NoveltyReward, NoveltyLoss,
    DiversityPenalty, InfluenceEstimatorLoss, InfluenceLoss and InfluenceScoreLoss. They also
    take the index of an influencer, or of several, in its place: everybody else is then
    influenced, with equal weights.

    Args:
        env: an environment in the layout of this package, or its number of agents N.
        influencers: index of the influencer, indices of several, ``"all"`` (Symmetric, Sec.
            4.3), or ``"random"``, one drawn from torch's global generator.
        influencees: indices of those whose values count; leave an adversary out here. Of
            several influencers each leaves itself out. Default: all agents.
        weights: alpha, positive, summing to 1, one for each influencee of an influencer, in
            their order; or a network that writes ``("agents", "attention")`` ``[*B, N, N]``,
            at least 0, how much each agent counts for each other in a state, as
            :class:`torchrl_alita.modules.InfluenceAttention` does. Of an influencer's
            influencees they are divided by their sum. It is borrowed: losses that are given
            the team neither train nor save it. Default: equal.

    Attributes:
        num_agents (int): N.
        influencers (tuple of int): K indices.
        influencees (tuple of int): M indices, of all whom any influencer influences.
        acts_in_turns (bool): whether influencer and influencee act alone, in turns.

    Raises:
        ValueError: if an index is negative, listed twice or not below N, a single influencer
            is among its influencees, or the weights are not positive, do not sum to 1 or are
            not one for each influencee.
        TypeError: if a weight is no number.
        KeyError: if the environment has another layout, or a network does not write what it
            must.

    Examples:
        >>> team = Team(3, influencers=0)
        >>> team.influencers, team.influencees
        ((0,), (1, 2))
        >>> Team(3, influencers="all").weights
        tensor([[0.0000, 0.5000, 0.5000],
                [0.5000, 0.0000, 0.5000],
                [0.5000, 0.5000, 0.0000]])
        >>> Team(4, influencers=0, influencees=[1, 2], weights=[0.75, 0.25])
        Team(4, influencers=(0,), influencees=(1, 2), weights=(0.75, 0.25))
    """

    def __init__(
        self,
        env: EnvBase | int,
        *,
        influencers: int | Sequence[int] | Literal["all", "random"] = 0,
        influencees: Sequence[int] | None = None,
        weights: Sequence[float] | TensorDictModuleBase | None = None,
    ):
        if isinstance(env, EnvBase):
            num_agents = layout_of(env).num_agents
        else:
            (num_agents,) = sizes("num_agents", [env])
        indices = _resolve(influencers, num_agents)
        check_agent_range("influencers", indices, num_agents)
        listed = None if influencees is None else agent_indices("influencees", influencees)
        check_agent_range("influencees", listed or (), num_agents)
        if listed is not None and len(indices) == 1 and indices[0] in listed:
            raise ValueError(
                f"The influencer {indices[0]} cannot be among its influencees {list(listed)}."
            )
        self._set(num_agents, indices, listed)
        if isinstance(weights, TensorDictModuleBase):
            require_written(weights, ATTENTION)
        elif weights is not None:
            for k in indices:
                weights = check_weights(weights, len(self.influencees_of(k)))
        self._weights = weights

    @classmethod
    def in_turns(cls) -> Team:
        """An influencer and an influencee that act alone, in turns, in a task for one.

        Batches are of one agent. The actor of a loss is the influencer's policy, its partner
        holds the influencee's policy and critics, and the actor of a DiversityPenalty is the
        influencee's. See :class:`torchrl_alita.TwinALITA`.

        Returns:
            The team of K = M = 1.

        Examples:
            >>> Team.in_turns().weights
            tensor([[1.]])
        """
        team = cls.__new__(cls)
        team._set(1, (0,), (0,), acts_in_turns=True)
        return team

    @classmethod
    def of(cls, team: Team | int | Sequence[int]) -> Team:
        """The team itself, or that of an influencer or several among N agents of any number.

        Args:
            team: a team, an index or several.

        Returns:
            A team; its ``num_agents`` is None where indices were given.

        Raises:
            ValueError: if an index is negative, listed twice or no whole number.
            TypeError: if it is no team, index or sequence of indices.

        Examples:
            >>> Team.of(1).among(3).influencees
            (0, 2)
        """
        if isinstance(team, Team):
            return team
        made = cls.__new__(cls)
        made._set(None, agent_indices("influencers", team), None)
        return made

    def _set(
        self,
        num_agents: int | None,
        influencers: tuple[int, ...],
        listed: tuple[int, ...] | None,
        *,
        acts_in_turns: bool = False,
    ) -> None:
        self.num_agents = num_agents
        self.influencers = influencers
        self._listed = listed
        self._weights = None
        self.acts_in_turns = acts_in_turns

    @property
    def size(self) -> int:
        """N.

        Raises:
            ValueError: if the number of agents is not known yet: the team was made of indices.

        Examples:
            >>> Team(3).size
            3
            >>> Team.of(0).size
            Traceback (most recent call last):
            ...
            ValueError: The team of the influencers (0,) has no number of agents yet: see among.
        """
        if self.num_agents is None:
            raise ValueError(
                f"The team of the influencers {self.influencers} has no number of agents yet: see "
                f"among."
            )
        return self.num_agents

    def among(self, num_agents: int) -> Team:
        """This team in a batch of so many agents.

        Args:
            num_agents: N of the batch.

        Returns:
            The team, whose number of agents is N.

        Raises:
            ValueError: if the team has another number of agents, or an influencer is not
                among so many.

        Examples:
            >>> Team(3).among(4)
            Traceback (most recent call last):
            ...
            ValueError: The team has 3 agents, the batch has 4.
        """
        if self.num_agents is None and num_agents is not None:
            check_agent_range("influencers", self.influencers, num_agents)
            made = Team.__new__(Team)
            made._set(num_agents, self.influencers, None)
            return made
        if self.num_agents != num_agents:
            raise ValueError(
                f"The team has {self.num_agents} agents{' at a time' * self.acts_in_turns}, the "
                f"batch has {num_agents}."
            )
        return self

    def alone(self, influencer: int) -> Team:
        """The team of one of the influencers, with its influencees and weights.

        Args:
            influencer: one of ``influencers``.

        Returns:
            A team of K = 1.

        Raises:
            ValueError: if it is none of them.

        Examples:
            >>> Team(3, influencers="all").alone(1)
            Team(3, influencers=(1,), influencees=(0, 2), weights=None)
        """
        if influencer not in self.influencers:
            raise ValueError(f"{influencer} is none of the influencers {self.influencers}.")
        if len(self.influencers) == 1:
            return self
        made = Team.__new__(Team)
        made._set(self.num_agents, (influencer,), self._listed and self.influencees_of(influencer))
        made._weights = self._weights
        return made

    @property
    def influencees(self) -> tuple[int, ...]:
        """M indices: all whom any influencer influences, in the order of the gaps."""
        first, *others = self.influencers
        if self.acts_in_turns or not others:
            return self.influencees_of(first)
        return tuple(range(self.size)) if self._listed is None else self._listed

    def influencees_of(self, influencer: int) -> tuple[int, ...]:
        """Indices of the influencees of one influencer, in the order of its weights.

        Args:
            influencer: one of ``influencers``.

        Returns:
            Indices; none for an agent that is alone.

        Examples:
            >>> Team(3, influencers=[0, 2]).influencees_of(2)
            (0, 1)
        """
        if self.acts_in_turns:
            return (0,)
        everybody = range(self.size) if self._listed is None else self._listed
        return tuple(agent for agent in everybody if agent != influencer)

    def check_influencees(self) -> None:
        """Raise a ValueError if an influencer has nobody to influence."""
        for k in self.influencers:
            if not self.influencees_of(k):
                raise ValueError(f"The influencer {k} is alone: there are no influencees.")

    @property
    def attention(self) -> TensorDictModuleBase | None:
        """The network that gives the weights, if they depend on the state."""
        return self._weights if isinstance(self._weights, TensorDictModuleBase) else None

    @property
    def weights(self) -> torch.Tensor:
        """Alpha ``[K, M]``; 0 where an influencer does not influence."""
        return self.weights_like(torch.empty(0))

    def weights_like(self, like: torch.Tensor) -> torch.Tensor:
        """Alpha in the dtype and on the device of another tensor, ``[K, M]``.

        They are made there: nothing is copied to a device.

        Args:
            like: any tensor.

        Returns:
            ``[K, M]``.

        Raises:
            ValueError: if they depend on the state.

        Examples:
            >>> Team(3, influencers=1).weights_like(torch.zeros((), dtype=torch.float64))
            tensor([[0.5000, 0.5000]], dtype=torch.float64)
        """
        if self.attention is not None:
            raise ValueError("The weights of this team depend on the state: see weights_in.")
        if self.acts_in_turns:
            return like.new_ones(1, 1)
        own = index_of(self.influencers, like.device).unsqueeze(-1)
        others = (own != index_of(self.influencees, like.device)).to(like.dtype)
        if self._weights is None:
            return others / others.sum(-1, keepdim=True).clamp(min=1)
        place = (others.cumsum(-1) - 1).clamp(min=0).long()
        weights = torch.stack([like.new_full((), weight) for weight in self._weights])
        return others * weights[place]

    @torch.no_grad()
    def weights_in(self, tensordict: TensorDictBase) -> torch.Tensor:
        """Alpha in each state, ``[*B] -> [*B, K, M]``, without gradient.

        Args:
            tensordict: batch ``[*B]``, of which a network reads what it needs.

        Returns:
            ``[*B, K, M]``; fixed weights are the same everywhere.

        Raises:
            ValueError: if the network writes another shape.
            KeyError: if the batch lacks what it reads.

        Examples:
            >>> from tensordict import TensorDict
            >>> Team(3, influencers=0).weights_in(TensorDict(batch_size=[2]))
            tensor([[[0.5000, 0.5000]],
            <BLANKLINE>
                    [[0.5000, 0.5000]]])
        """
        network = self.attention
        if network is None:
            return self.weights.expand(*tensordict.batch_size, -1, -1)
        require_keys(tensordict, network.in_keys)
        written = run_network(network, tensordict.select(*network.in_keys))
        check_same_shape(written, ATTENTION, (*tensordict.batch_size, self.size, self.size))
        return self.attention_to(written.get(ATTENTION))

    def attention_to(self, attention: torch.Tensor) -> torch.Tensor:
        r"""Each influencer's attention, shared out among its influencees, ``-> [*B, K, M]``.

        .. math:: \alpha_{k, i} = \frac{w_{k, i}}{\sum_{j} w_{k, j}}

        over k's influencees j; 0 where it attends to none of them.

        Args:
            attention: w, ``[*B, N, N]``, at least 0: how much the second agent counts for the
                first.

        Returns:
            ``[*B, K, M]``.

        Examples:
            >>> seen = torch.tensor([[0.0, 0.1, 0.3, 0.6]]).expand(4, 4)
            >>> Team(4, influencers=0, influencees=[1, 2]).attention_to(seen)
            tensor([[0.2500, 0.7500]])
        """
        rows = gather_agents(gather_agents(attention, self.influencers, -2), self.influencees, -1)
        own = index_of(self.influencers, rows.device).unsqueeze(-1)
        rows = rows * (own != index_of(self.influencees, rows.device))
        total = rows.sum(-1, keepdim=True)
        return torch.where(total > 0, rows / total.where(total > 0, 1), 0)

    def influences_as(self, other: Team) -> bool:
        """Whether the same agents influence the same agents in another team.

        Args:
            other: a team.

        Returns:
            True or False; weights do not count.

        Examples:
            >>> Team(3).influences_as(Team(3, influencees=[1, 2], weights=[0.7, 0.3]))
            True
        """
        numbers = [n for n in (self.num_agents, other.num_agents) if n is not None]
        if len(set(numbers)) > 1:
            return False
        first, second = (team.among(numbers[0]) if numbers else team for team in (self, other))
        whom = [team.influencees if numbers else team._listed for team in (first, second)]
        acts = [(team.influencers, team.acts_in_turns) for team in (first, second)]
        return acts[0] == acts[1] and whom[0] == whom[1]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Team):
            return NotImplemented
        return self._parts() == other._parts()

    def __hash__(self) -> int:
        return hash(self._parts())

    def _parts(self) -> tuple:
        return (
            self.num_agents,
            self.influencers,
            self._listed,
            self._weights,
            self.acts_in_turns,
        )

    def __repr__(self) -> str:
        if self.acts_in_turns:
            return "Team.in_turns()"
        if self.num_agents is None:
            return f"Team.of({self.influencers})"
        weights = self._weights if self.attention is None else type(self.attention).__name__
        return (
            f"Team({self.num_agents}, influencers={self.influencers}, "
            f"influencees={self.influencees}, weights={weights})"
        )


def _resolve(
    influencers: int | Sequence[int] | Literal["all", "random"], num_agents: int
) -> tuple[int, ...]:
    if isinstance(influencers, str):
        if influencers == "all":
            return tuple(range(num_agents))
        if influencers == "random":
            return (int(torch.randint(num_agents, ())),)
        raise ValueError(f"influencers must be indices, 'random' or 'all', got {influencers!r}.")
    return agent_indices("influencers", influencers)
