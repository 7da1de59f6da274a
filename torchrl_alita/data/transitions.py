"""How probable each agent's next state is, from counts, with and without another's part."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from torchrl_alita._checks import check_at_least_one, check_flag, check_whole
from torchrl_alita.data.codes import MOST_CODES, each_agent, number_of_codes
from torchrl_alita.data.counts import CountTable, check_codes

__all__ = ["TransitionCounts"]


class TransitionCounts(nn.Module):
    r"""Probabilities of each agent's outcome, estimated by counts.

    .. math::
        p(s'_j | s_j, a_j) = \frac{n(s'_j, s_j, a_j)}{n(s_j, a_j)}, \qquad
        p(s'_j | s_j, a_j, s_i, a_i) =
            \frac{n(s'_j, s_j, a_j, s_i, a_i)}{n(s_j, a_j, s_i, a_i)}

    Source: the tables of the code of https://arxiv.org/abs/1910.05512. With more than two
    agents the others are left out, pair by pair. What was never counted has the probability
    1. A hashed table may count too much, never too little. What was counted without i's part
    bounds it, if those tables are exact: an outcome that is certain without i stays certain.

    Args:
        state: code of each agent's own state, ``[*B, N, O] -> [*B, N]`` with a
            ``num_codes``, see :class:`torchrl_alita.data.OneHotCode`.
        outcome: code of what became of each agent, ``[*B, N, O], [*B, N, O] -> [*B, N]``, of
            the observation before and after, as :class:`torchrl_alita.data.Displacement`.
        num_agents: N, at least 2.
        num_actions: A, of each agent; actions are one-hot.
        influencer_state: code of i's part. Default: ``state``. Where j's own state has what
            both see, as a box, i's need not have it again.
        deterministic: the next state is a function of all agents' states and actions, so
            the probability given all of them is 1 and needs no table. It then stands in the
            place of the one given i's part; with two agents they are the same. Push-Box is
            such a game; Secret Room, whose doors are not seen, is not.
        slots: entries of a table that would have more codes; it is then hashed. Default:
            2**24.

    Raises:
        ValueError: if a number is too small, a code does not say its number of codes, or
            there are more than 63 bits of them; when called, if a code does not fit.
        TypeError: when called, if a code is not int64.

    Examples:
        >>> from torchrl_alita.data import BinCode
        >>> def moved(before, after):
        ...     return (after != before).any(-1).long()
        >>> moved.num_codes = 2
        >>> counts = TransitionCounts(
        ...     BinCode([0.0], [1.0], 2), moved, num_agents=2, num_actions=2
        ... )
        >>> before, action = torch.zeros(4, 2, 1), torch.eye(2)[torch.tensor([[0, 0]] * 4)]
        >>> action[2:, 0] = torch.tensor([0.0, 1.0])
        >>> after = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, 1.0]]).unsqueeze(-1)
        >>> codes = counts.codes(before, action, after)
        >>> counts.update(codes)
        >>> alone, together = counts(codes)
        >>> alone[:, 0, 1], together[:, 0, 1]
        (tensor([0.5000, 0.5000, 0.5000, 0.5000]), tensor([1., 1., 1., 1.]))
    """

    def __init__(
        self,
        state: Callable[[torch.Tensor], torch.Tensor],
        outcome: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        *,
        num_agents: int,
        num_actions: int,
        influencer_state: Callable[[torch.Tensor], torch.Tensor] | None = None,
        deterministic: bool = False,
        slots: int = 2**24,
    ):
        super().__init__()
        check_whole(2, num_agents=num_agents)
        check_at_least_one(num_actions=num_actions, slots=slots)
        check_flag(deterministic=deterministic)
        # A small integer of NumPy would overflow below.
        num_agents, num_actions, slots = int(num_agents), int(num_actions), int(slots)
        self.num_agents, self.num_actions = num_agents, num_actions
        self.state, self.outcome, self.influencer_state = state, outcome, influencer_state
        self.deterministic = deterministic
        self.num_states = number_of_codes("state", state)
        self.num_outcomes = number_of_codes("outcome", outcome)
        of_influencer = self.num_states
        if influencer_state is not None:
            of_influencer = number_of_codes("influencer_state", influencer_state)
        self.num_influencer_states = of_influencer
        alone = num_agents * self.num_states * num_actions
        pairs = alone * (num_agents - 1) * of_influencer * num_actions
        if pairs * self.num_outcomes > MOST_CODES:
            raise ValueError(
                f"There can be at most 2**63 - 1 codes, got {pairs * self.num_outcomes}."
            )
        # The number of times, and that of each outcome.
        tables = {"alone": alone} if deterministic else {"alone": alone, "together": pairs}
        self.tables = nn.ModuleDict()
        for name, count in tables.items():
            for end, codes in ((name, count), (f"{name}_outcome", count * self.num_outcomes)):
                hashed = slots if codes > slots else None
                self.tables[end] = CountTable(codes, slots=hashed)

    @property
    def empty(self) -> bool:
        """Whether nothing was counted yet."""
        return self.tables["alone"].empty

    def codes(
        self, observation: torch.Tensor, action: torch.Tensor, next_observation: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """What each table counts of transitions, ``[*B, N]`` and ``[*B, N(i), N - 1]``.

        Args:
            observation: ``[*B, N, O]``.
            action: one-hot ``[*B, N, A]``.
            next_observation: ``[*B, N, O]``, of the same episode.

        Returns:
            For :meth:`update` and a call.

        Raises:
            ValueError: if an entry or a code does not fit.
            TypeError: if a code is not int64.
        """
        shape = (*observation.shape[:-2], self.num_agents, self.num_actions)
        if tuple(action.shape) != shape:
            raise ValueError(f"The action must have the shape {shape}, got {tuple(action.shape)}.")
        device = observation.device
        self.tables["alone"].check_device(observation)
        line = torch.arange(float(self.num_actions), device=device)
        acted = (action.to(line.dtype) @ line).long()
        state = each_agent("state", self.state, observation)
        outcome = each_agent("outcome", self.outcome, observation, next_observation)
        check_codes(state, self.num_states)
        check_codes(outcome, self.num_outcomes)
        agents = torch.arange(self.num_agents, device=device)
        alone = (agents * self.num_states + state) * self.num_actions + acted
        codes = {"alone": alone, "alone_outcome": alone * self.num_outcomes + outcome}
        if self.deterministic:
            return codes
        other = state
        if self.influencer_state is not None:
            other = each_agent("influencer_state", self.influencer_state, observation)
            check_codes(other, self.num_influencer_states)
        part = other * self.num_actions + acted
        # Row i holds i's N - 1 others, as their code, and i's place among j's others.
        others = self._others(device)
        place = agents.unsqueeze(-1) - (agents.unsqueeze(-1) > others).long()
        pair = alone[..., others] * (self.num_agents - 1) + place
        pair = pair * (self.num_influencer_states * self.num_actions) + part.unsqueeze(-1)
        codes["together"] = pair
        codes["together_outcome"] = pair * self.num_outcomes + outcome[..., others]
        return codes

    def _others(self, device: torch.device) -> torch.Tensor:
        """Row i: all agents but i, ``[N, N - 1]``."""
        later = torch.arange(self.num_agents - 1, device=device).expand(self.num_agents, -1)
        return later + (later >= torch.arange(self.num_agents, device=device).unsqueeze(-1)).long()

    @torch.no_grad()
    def update(self, codes: dict[str, torch.Tensor]) -> None:
        """Count transitions.

        Args:
            codes: of :meth:`codes`.
        """
        for name, of_table in codes.items():
            self.tables[name].add(of_table)

    @torch.no_grad()
    def forward(self, codes: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Probabilities of what became of j, without and with i's part.

        Args:
            codes: of :meth:`codes`.

        Returns:
            Two tensors ``[*B, N, N]``, i before j; 1 where i is j.
        """
        names = ("alone", "alone_outcome")
        times, outcome = (self.tables[name].count(codes[name]).unsqueeze(-2) for name in names)
        alone = _share(outcome, times).expand(*times.shape[:-2], self.num_agents, -1)
        own = torch.eye(self.num_agents, dtype=torch.bool, device=alone.device)
        alone = alone.masked_fill(own, 1.0)
        if self.deterministic:
            return alone, torch.ones_like(alone)
        others = self._others(alone.device)
        others = others.expand(*codes["together"].shape)
        together = torch.ones_like(alone)
        bounds = [of.expand_as(alone).gather(-1, others) for of in (times, outcome)]
        return alone, together.scatter(-1, others, self._share_together(codes, *bounds))

    def _share_together(
        self, codes: dict[str, torch.Tensor], most: torch.Tensor, most_outcome: torch.Tensor
    ) -> torch.Tensor:
        """With i's part, ``[*B, N, N - 1]``, and what was counted without it.

        A hashed table counts too much. Nothing was met more often with i's part than without
        it, neither this outcome nor any other: where the smaller tables are exact, they set
        the share right. Most outcomes are certain without i's part, and stay so.
        """
        times = self.tables["together"].count(codes["together"])
        outcome = self.tables["together_outcome"].count(codes["together_outcome"])
        if all(self.tables[name].slots is None for name in ("alone", "alone_outcome")):
            outcome = torch.minimum(outcome, most_outcome)
            times = torch.minimum(times, outcome + (most - most_outcome)).minimum(most)
        return _share(outcome, times)


def _share(outcome: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    """Of the times that a condition was met, those with this outcome; 1 if there were none."""
    share = outcome / times.clamp_min(1)
    return torch.where(outcome == 0, 1.0, share.clamp_max(1.0))
