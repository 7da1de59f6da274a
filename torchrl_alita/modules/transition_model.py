"""How probable each agent's next state is, by networks, with and without another's part."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from torchrl_alita._checks import (
    check_at_least_one,
    check_flag,
    check_integer,
    check_positive,
    check_sequence,
    check_whole,
    sizes,
)
from torchrl_alita.data.codes import each_agent, number_of_codes
from torchrl_alita.data.counts import check_codes
from torchrl_alita.modules._bayesian import BayesianMLP
from torchrl_alita.modules._mlp import check_fits

__all__ = ["TransitionModel"]

# Deviations begin at about eight times their floor.
_FIRST_LOG_SCALE = 2.0


class TransitionModel(nn.Module):
    r"""Log probabilities of each agent's outcome, learned, ``-> [*B, N, N], [*B, N, N]``.

    .. math:: \log p(s'_j | s_j, a_j), \qquad \log p(s'_j | s_j, a_j, s_i, a_i)

    for each ordered pair of agents, i before j, where transitions cannot be counted as by
    :class:`torchrl_alita.data.TransitionCounts`. An agent's state is its observation. The
    networks are Bayesian: their weights are independent Gaussians with the prior N(0, 1).
    :class:`torchrl_alita.objectives.TransitionModelLoss` trains them, with one draw of the
    weights for each pass. A call here uses the means, so that what is paid does not depend on
    chance.

    An outcome is by default the change of j's observation, normal with a mean and a deviation
    of each feature that the networks give. What j observes of i changes with i's own moves,
    which is influence by this formula, though of no use: name the features that are j's own.
    Or it is one of several categories, by a code.

    Source: the variational estimator of the code of https://arxiv.org/abs/1910.05512, whose
    outcome is the agent's move. There one network sees everybody and another everybody but
    i. Here the others are left out pair by pair, as in
    :class:`torchrl_alita.data.TransitionCounts`: its formula for two agents, and inputs that
    do not grow with the team.

    Args:
        num_agents: N, at least 2.
        observation_size: O.
        action_size: A.
        outcome: code of what became of each agent, ``[*B, N, O], [*B, N, O] -> [*B, N]``, of
            the observation before and after, with a ``num_codes``. Default: None, the change
            of features.
        features: whose change is the outcome, of each agent's own observation; counted from
            the end where negative. Default: None, all.
        average: of the features' log densities, which is the log of their geometric mean;
            otherwise their sum, the log of the joint density, which is sharper the more
            features there are. Default: True.
        min_scale: smallest deviation of a feature, in its unit; of a change that is certain
            the density would have no bound. Default: 0.05.
        num_cells: width of each hidden layer. Default: (64, 64), the source's.
        share_params: one network for all pairs, which is told who they are; otherwise one for
            each pair. Default: False.
        device: of the parameters.

    Raises:
        ValueError: if a number is out of range, there are both an outcome and features, or
            the outcome does not say its number of codes; when called, if the entries do not
            fit.
        TypeError: if a sequence is none; when called, if a code is not int64.

    Examples:
        >>> model = TransitionModel(3, observation_size=7, action_size=2)
        >>> observation, action = torch.randn(5, 3, 7), torch.randn(5, 3, 2)
        >>> alone, together = model(observation, action, observation + 0.1)
        >>> alone.shape, together.shape
        (torch.Size([5, 3, 3]), torch.Size([5, 3, 3]))
    """

    def __init__(
        self,
        num_agents: int,
        *,
        observation_size: int,
        action_size: int,
        outcome: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
        features: Sequence[int] | None = None,
        average: bool = True,
        min_scale: float = 0.05,
        num_cells: Sequence[int] = (64, 64),
        share_params: bool = False,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        check_whole(2, num_agents=num_agents)
        check_at_least_one(observation_size=observation_size, action_size=action_size)
        check_flag(average=average, share_params=share_params)
        check_positive(min_scale=min_scale)
        if outcome is not None and features is not None:
            raise ValueError(f"An outcome has no features, got features={list(features)}.")
        self.num_agents, self.observation_size = int(num_agents), int(observation_size)
        self.action_size, self.share_params = int(action_size), share_params
        self.average, self.min_scale, self.outcome = average, float(min_scale), outcome
        self.num_outcomes = None if outcome is None else number_of_codes("outcome", outcome)
        chosen = _features(features, self.observation_size)
        self.register_buffer("features", torch.tensor(chosen, device=device), persistent=False)
        # Pairs of i and j in the order of i.
        places = (~torch.eye(self.num_agents, dtype=torch.bool)).flatten().nonzero().squeeze(-1)
        self.register_buffer("places", places.to(device), persistent=False)
        part = self.observation_size + self.action_size
        out = 2 * len(chosen) if self.num_outcomes is None else self.num_outcomes
        told = self.num_agents if share_params else 0
        networks = (1, 1) if share_params else (self.num_agents, len(places))
        cells = sizes("num_cells", num_cells)
        self.alone, self.together = (
            BayesianMLP(
                parts * (part + told), out, num_networks=count, num_cells=cells, device=device
            )
            for parts, count in zip((1, 2), networks, strict=True)
        )

    @property
    def untrained(self) -> bool:
        """Whether the networks are as they began."""
        return self.alone.untrained or self.together.untrained

    def kl(self) -> torch.Tensor:
        """Divergence of all weights from their prior, ``[]``."""
        return self.alone.kl() + self.together.kl()

    def forward(
        self,
        observation: torch.Tensor,
        action: torch.Tensor,
        next_observation: torch.Tensor,
        *,
        sample: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log probabilities of what became of j, without and with i's part.

        Args:
            observation: ``[*B, N, O]``.
            action: ``[*B, N, A]``.
            next_observation: ``[*B, N, O]``, of the same episode.
            sample: draw the weights, instead of using their means.

        Returns:
            Two tensors ``[*B, N, N]``, i before j; 0 where i is j.
        """
        action = action.to(observation.dtype)
        self._check(observation, action, next_observation)
        parts = torch.cat([observation, action], -1)
        if self.share_params:
            names = torch.eye(self.num_agents, dtype=parts.dtype, device=parts.device)
            parts = torch.cat([parts, names.expand(*parts.shape[:-1], -1)], -1)
        first, second = self.places // self.num_agents, self.places % self.num_agents
        pairs = torch.cat([parts[..., second, :], parts[..., first, :]], -1)
        outcome = self._outcome(observation, next_observation)
        alone = self._log_prob(self.alone, parts, outcome, sample)
        together = self._log_prob(self.together, pairs, outcome[..., second, :], sample)
        return self._table(alone[..., second]), self._table(together)

    def _check(self, *entries: torch.Tensor) -> None:
        weight = self.alone.layers[0].loc
        for entry in entries:
            check_fits(weight, entry)
        lead = entries[0].shape[:-2]
        widths = (self.observation_size, self.action_size, self.observation_size)
        names = ("observation", "action", "next observation")
        for name, entry, width in zip(names, entries, widths, strict=True):
            shape = (*lead, self.num_agents, width)
            if tuple(entry.shape) != shape:
                raise ValueError(
                    f"The {name} must have the shape {shape}, got {tuple(entry.shape)}."
                )

    def _outcome(self, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        """The change ``[*B, N, D]``, or a number ``[*B, N, 1]``."""
        if self.outcome is None or self.num_outcomes is None:
            return (after - before).index_select(-1, self.features)
        codes = each_agent("outcome", self.outcome, before, after)
        check_codes(codes, self.num_outcomes)
        return codes.unsqueeze(-1)

    def _log_prob(
        self, net: BayesianMLP, parts: torch.Tensor, outcome: torch.Tensor, sample: bool
    ) -> torch.Tensor:
        """``[*B, M, in]`` and what became of M -> ``[*B, M]``."""
        count = parts.shape[-2]
        rows = parts.movedim(-2, 0).reshape(1 if self.share_params else count, -1, parts.shape[-1])
        found = net(rows, sample=sample)
        found = found.reshape(count, *parts.shape[:-2], found.shape[-1]).movedim(0, -2)
        if self.num_outcomes is not None:
            return found.log_softmax(-1).gather(-1, outcome).squeeze(-1)
        loc, raw = found.chunk(2, -1)
        scale = self.min_scale * nn.functional.softplus(raw + _FIRST_LOG_SCALE).exp()
        density = torch.distributions.Normal(loc, scale, validate_args=False).log_prob(outcome)
        return density.mean(-1) if self.average else density.sum(-1)

    def _table(self, pairs: torch.Tensor) -> torch.Tensor:
        """Numbers of the pairs ``[*B, N (N - 1)]`` as rows and columns."""
        table = pairs.new_zeros(*pairs.shape[:-1], self.num_agents**2)
        table = table.index_copy(-1, self.places, pairs)
        return table.unflatten(-1, (self.num_agents, self.num_agents))


def _features(features: Sequence[int] | None, size: int) -> list[int]:
    """Numbers of the features, from 0 on."""
    if features is None:
        return list(range(size))
    numbers = [check_integer("features", number) for number in check_sequence("features", features)]
    chosen = [number + size if number < 0 else number for number in numbers]
    good = chosen and len(set(chosen)) == len(chosen)
    if not good or not all(0 <= number < size for number in chosen):
        raise ValueError(
            f"features must be distinct numbers of the {size} features, got {numbers}."
        )
    return chosen
