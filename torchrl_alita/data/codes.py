"""Whole numbers that stand for observations, for what is counted.

One more letter in shapes: C codes, 0 to C - 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from torchrl_alita._checks import (
    check_at_least_one,
    check_callable,
    check_integer,
    check_sequence,
    check_whole,
    is_integer,
    sizes,
)

__all__ = [
    "MOST_CODES",
    "BinCode",
    "CountCodes",
    "Displacement",
    "JointCode",
    "OneHotCode",
    "call_code",
    "count_codes_of",
    "each_agent",
    "number_of_codes",
]

# Codes are int64.
MOST_CODES = 2**63 - 1


class OneHotCode(nn.Module):
    r"""Codes of observations that are rows of one-hot blocks, ``[*B, N, O] -> [*B, N] or [*B]``.

    .. math:: code = (d_1 C_2 + d_2) C_3 + d_3 \ldots, \qquad d_k < C_k

    with the digit that each block says. What the observation has after the blocks is not read.
    Source: ours; counts over such codes are those of https://arxiv.org/abs/1910.05512.

    Args:
        blocks: entries of each one-hot block, in the order of the observation.
        parts: for each of N agents, the blocks that its code is made of; every agent's must
            have as many codes. Default: all blocks, one code for the whole team.
        observer: whose observation is read, for all agents: where all see the same, one is
            enough and takes less time. Default: each agent's own; agent 0's for the team.

    Attributes:
        num_codes: C.

    Raises:
        ValueError: if a block is empty or unknown, the agents' codes differ in number or
            there are more than 63 bits of them; when called, if the observation is narrower
            than the blocks, or not of N agents.

    Examples:
        On a grid of 3 x 3 both agents see both agents' row and column.

        >>> agents = torch.tensor([[1, 0, 2, 2], [0, 0, 1, 2]])
        >>> seen = torch.nn.functional.one_hot(agents, 3).flatten(1).unsqueeze(1).expand(2, 2, 12)
        >>> OneHotCode([3] * 4, parts=[(0, 1), (2, 3)], observer=0)(seen)
        tensor([[3, 8],
                [0, 5]])
        >>> OneHotCode([3] * 4)(seen)
        tensor([35,  5])
    """

    def __init__(
        self,
        blocks: Sequence[int],
        *,
        parts: Sequence[Sequence[int]] | None = None,
        observer: int | None = None,
    ):
        super().__init__()
        self.blocks = tuple(sizes("blocks", blocks))
        if not self.blocks:
            raise ValueError("blocks must name at least one block of the observation.")
        self.parts = None if parts is None else _parts(parts, len(self.blocks))
        chosen = (tuple(range(len(self.blocks))),) if self.parts is None else self.parts
        self.digits = [tuple(self.blocks[block] for block in part) for part in chosen]
        self.num_codes = _same_number([_product(digits) for digits in self.digits])
        observer = 0 if self.parts is None and observer is None else observer
        self.observer = _checked_observer(observer)
        read = torch.zeros(len(self.blocks), sum(self.blocks))
        for block, entries in enumerate(read.split(self.blocks, 1)):
            entries[block] = torch.arange(float(self.blocks[block]))
        # Made of the arguments, so no part of a state.
        self.register_buffer("read", read, persistent=False)

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        digits = self.read_digits(observation)
        if self.parts is None:
            return _mixed_radix(digits, range(len(self.blocks)), self.digits[0])
        codes = [
            _mixed_radix(digits if digits.ndim < observation.ndim else digits[..., i, :], *rest)
            for i, rest in enumerate(zip(self.parts, self.digits, strict=True))
        ]
        return torch.stack(codes, -1)

    def read_digits(self, observation: torch.Tensor) -> torch.Tensor:
        """What each block says: ``[*B, blocks]`` of the observer, else ``[*B, N, blocks]``.

        Args:
            observation: ``[*B, N, O]``.

        Raises:
            ValueError: if the observation is narrower than the blocks, or not of N agents.
        """
        width, num_agents = self.read.shape[1], observation.shape[-2]
        if observation.shape[-1] < width:
            raise ValueError(
                f"The observation must have at least the {width} entries of the blocks "
                f"{self.blocks}, got {observation.shape[-1]}."
            )
        if self.parts is not None and len(self.parts) != num_agents:
            raise ValueError(f"The code is of {len(self.parts)} agents, got {num_agents}.")
        if self.observer is not None:
            if self.observer >= num_agents:
                raise ValueError(
                    f"observer must be below the number of agents, {num_agents}, got "
                    f"{self.observer}."
                )
            observation = observation[..., self.observer, :]
        rows = observation[..., :width].to(self.read.dtype)
        # Rows in a matrix: a copy of them all would cost as much again.
        digits = nn.functional.linear(rows.flatten(0, -2), self.read)
        return digits.long().view(*rows.shape[:-1], len(self.blocks))


class Displacement(nn.Module):
    r"""By how much each agent's digits changed, -1, 0 or 1 each, ``[*B, N, O] x 2 -> [*B, N]``.

    The outcome whose probabilities https://arxiv.org/abs/1910.05512 counts: on a grid, where
    an agent moved. Larger changes count as 1.

    Args:
        code: whose digits are compared; with ``parts``, each agent's.

    Attributes:
        num_codes: 3 to the power of the number of digits.

    Raises:
        TypeError: if the code is no :class:`OneHotCode`.
        ValueError: if the code is the team's.

    Examples:
        >>> before, after = torch.tensor([[[1, 0], [2, 2]]]), torch.tensor([[[1, 1], [1, 2]]])
        >>> rows = [torch.nn.functional.one_hot(c, 3).flatten(-2) for c in (before, after)]
        >>> Displacement(OneHotCode([3, 3], parts=[(0, 1), (0, 1)]))(*rows)
        tensor([[5, 1]])
    """

    def __init__(self, code: OneHotCode):
        super().__init__()
        if not isinstance(code, OneHotCode):
            raise TypeError(f"code must be a OneHotCode, got {type(code).__name__}.")
        if code.parts is None:
            raise ValueError("The displacement is each agent's: give the code its parts.")
        self.code, self.parts = code, code.parts
        self.num_codes = _same_number([3 ** len(part) for part in code.parts])

    def forward(self, observation: torch.Tensor, next_observation: torch.Tensor) -> torch.Tensor:
        before, after = (self.code.read_digits(o) for o in (observation, next_observation))
        change = (after - before).clamp(-1, 1) + 1
        own = change.ndim == observation.ndim
        codes = [
            _mixed_radix(change[..., i, :] if own else change, part, (3,) * len(part))
            for i, part in enumerate(self.parts)
        ]
        return torch.stack(codes, -1)


class BinCode(nn.Module):
    """Codes of real observations by bins of equal width, ``[*B, N, O] -> [*B, N] or [*B]``.

    Source: ours. What lies outside the range is in the first or the last bin, NaN in the first.

    Args:
        low: least value of each of the K features that are read.
        high: largest value of each.
        bins: number of bins of each, or of all.
        features: K places of an observation. Default: the first ones.
        observer: one agent whose observation is read, for the whole team: ``[*B]``. Default:
            each agent's own.

    Attributes:
        num_codes: the product of the bins.

    Raises:
        ValueError: if a range is empty, the arguments differ in length, or a place or the
            observer is negative; when called, if the observation is narrower or of fewer
            agents.

    Examples:
        >>> code = BinCode([-1.0, -1.0], [1.0, 1.0], 4)
        >>> code(torch.tensor([[-0.9, 0.1], [0.6, 7.0]])), code.num_codes
        (tensor([ 2, 15]), 16)
        >>> BinCode([-1.0], [1.0], 4, features=[1], observer=0)(torch.tensor([[-0.9, 0.1]]))
        tensor(2)
    """

    def __init__(
        self,
        low: Sequence[float],
        high: Sequence[float],
        bins: int | Sequence[int],
        *,
        features: Sequence[int] | None = None,
        observer: int | None = None,
    ):
        super().__init__()
        low, high = (
            [float(bound) for bound in check_sequence("low and high", v)] for v in (low, high)
        )
        of_each: Any = [bins] * len(low) if is_integer(bins) else bins
        self.bins = tuple(sizes("bins", of_each))
        places = range(len(low)) if features is None else check_sequence("features", features)
        for place in places:
            check_whole(0, features=place)
        self.features = tuple(map(int, places))
        self.observer = _checked_observer(observer)
        if not len(low) == len(high) == len(self.bins) == len(self.features) > 0:
            raise ValueError(
                f"low, high, bins and features must be as many, got {len(low)}, {len(high)}, "
                f"{len(self.bins)} and {len(self.features)}."
            )
        if not all(-math.inf < a < b < math.inf for a, b in zip(low, high, strict=True)):
            raise ValueError(f"low must be below high, and both finite, got {low} and {high}.")
        self.num_codes = _product(self.bins)
        _same_number([self.num_codes])
        self.register_buffer("low", torch.tensor(low), persistent=False)
        self.register_buffer("high", torch.tensor(high), persistent=False)
        self.register_buffer("count", torch.tensor(self.bins), persistent=False)

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        width = max(self.features) + 1
        if observation.shape[-1] < width:
            raise ValueError(
                f"The observation must have at least {width} entries, got {observation.shape[-1]}."
            )
        if self.observer is not None:
            if observation.ndim < 2 or self.observer >= observation.shape[-2]:
                raise ValueError(
                    f"The observation must be of agent {self.observer} too, got one of shape "
                    f"{tuple(observation.shape)}."
                )
            observation = observation[..., self.observer, :]
        read = observation[..., list(self.features)]
        share = (read - self.low) / (self.high - self.low)
        # Within the bins before it is a whole number, which has no infinity.
        place = (share * self.count).floor().clamp_min(0).nan_to_num(0.0)
        digits = torch.minimum(place, self.count - 1).long()
        return _mixed_radix(digits, range(len(self.bins)), self.bins)


class JointCode(nn.Module):
    r"""One code for the team, of all agents' codes, ``[*B, N, O] -> [*B]``.

    .. math:: code = (c_1 C + c_2) C + c_3 \ldots

    Source: ours. There are :math:`C^N` of them: count them in a hashed table.

    Args:
        code: of each agent, ``[*B, N, O] -> [*B, N]`` with a ``num_codes``.
        num_agents: N.

    Attributes:
        num_codes: :math:`C^N`.

    Raises:
        ValueError: if there are more than 63 bits of codes; when called, if the code is not
            of N agents.

    Examples:
        >>> code = JointCode(BinCode([0.0], [1.0], 10), num_agents=2)
        >>> code(torch.tensor([[0.35], [0.72]])), code.num_codes
        (tensor(37), 100)
    """

    def __init__(self, code: nn.Module, *, num_agents: int):
        super().__init__()
        check_at_least_one(num_agents=num_agents)
        check_callable("code", code)
        self.code = code
        # An integer of NumPy would overflow.
        self.num_agents = int(num_agents)
        self.num_codes = _same_number([code.num_codes**self.num_agents])

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        codes = self.code(observation)
        if codes.ndim != observation.ndim - 1 or codes.shape[-1] != self.num_agents:
            raise ValueError(
                f"The code must be of {self.num_agents} agents, [*B, N], got "
                f"{tuple(codes.shape)} for an observation of {tuple(observation.shape)}."
            )
        return _mixed_radix(codes, range(self.num_agents), (self.code.num_codes,) * self.num_agents)


@dataclass(frozen=True)
class CountCodes:
    """What is counted in an environment, by codes of its observations.

    An environment says it by a method ``count_codes()``, as
    :class:`torchrl_alita.envs.PushBox` does.

    Args:
        own: of each agent's own state, ``[*B, N, O] -> [*B, N]``.
        team: of the whole state, ``[*B, N, O] -> [*B]``.
        outcome: of what became of each agent, ``[*B, N, O], [*B, N, O] -> [*B, N]``.
        part: of what an agent's own state has beside what others' have. Default: all that the
            others' outcomes are said to depend on.
        deterministic: all agents' own states and actions determine all outcomes.
        before: of what an agent's outcome depends on, where that is less than its own state:
            tables of transitions are then smaller. Default: ``own``.
    """

    own: nn.Module
    team: nn.Module
    outcome: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    part: nn.Module | None = None
    deterministic: bool = False
    before: nn.Module | None = None


def count_codes_of(env: Any) -> CountCodes:
    """What is counted in an environment.

    Args:
        env: with a method ``count_codes()``.

    Raises:
        ValueError: if it has none.

    Examples:
        >>> from torchrl_alita.envs import SecretRoom
        >>> count_codes_of(SecretRoom(3)).team.num_codes == 625**2
        True
    """
    try:
        make = env.count_codes
    except AttributeError:
        raise ValueError(
            f"{type(getattr(env, 'base_env', env)).__name__} does not say what is counted in it: it "
            "needs a method count_codes() that gives a CountCodes. Without one, on_policy_alita has "
            "the preset 'paper'; or set visit_coeff and team_visit_coeff to 0, and "
            "transition_estimator to 'model'."
        ) from None
    return make()


def number_of_codes(name: str, code: Callable, given: int | None = None) -> int:
    """How many codes there are: what was said, or what the code says of itself."""
    check_callable(name, code)
    own = getattr(code, "num_codes", None)
    if given is None and own is None:
        raise ValueError(f"{name} does not say how many codes it has: give num_codes.")
    if given is not None:
        check_at_least_one(num_codes=given)
    if None not in (given, own) and own != given:
        raise ValueError(f"{name} has {own} codes, but num_codes is {given}.")
    return check_integer("num_codes", own if given is None else given)


def call_code(name: str, code: Callable, *observations: torch.Tensor) -> torch.Tensor:
    """Codes of the team ``[*B]`` or of each agent ``[*B, N]``; anything else is refused."""
    codes: Any = code(*observations)
    shape = observations[0].shape
    if not isinstance(codes, torch.Tensor) or codes.dtype != torch.long:
        found = codes.dtype if isinstance(codes, torch.Tensor) else type(codes).__name__
        raise TypeError(f"{name} must give a tensor of int64, got {found}.")
    if codes.shape not in (shape[:-1], shape[:-2]):
        raise ValueError(
            f"{name} must have the shape {tuple(shape[:-2])}, of the team, or "
            f"{tuple(shape[:-1])}, of each agent, got {tuple(codes.shape)}."
        )
    return codes


def each_agent(name: str, code: Callable, *observations: torch.Tensor) -> torch.Tensor:
    """Codes of each agent, ``[*B, N]``."""
    codes = call_code(name, code, *observations)
    if codes.ndim != observations[0].ndim - 1:
        raise ValueError(
            f"{name} must be each agent's, {tuple(observations[0].shape[:-1])}, got the team's, "
            f"{tuple(codes.shape)}."
        )
    return codes


def _checked_observer(observer: int | None) -> int | None:
    if observer is None:
        return None
    check_whole(0, observer=observer)
    return int(observer)


def _parts(parts: Sequence[Sequence[int]], num_blocks: int) -> list[tuple[int, ...]]:
    chosen = [
        tuple(check_integer("parts", block) for block in check_sequence("parts", part))
        for part in parts
    ]
    for part in chosen:
        if not part or not all(0 <= block < num_blocks for block in part):
            raise ValueError(
                f"parts must name blocks from 0 to {num_blocks - 1}, got {list(part)}."
            )
    return chosen


def _same_number(counts: list[int]) -> int:
    if len(set(counts)) != 1:
        raise ValueError(f"The agents must have as many codes each, got {counts}.")
    if counts[0] > MOST_CODES:
        raise ValueError(f"There can be at most 2**63 - 1 codes, got {counts[0]}.")
    return counts[0]


def _product(digits: Sequence[int]) -> int:
    # Python's own numbers do not overflow.
    return math.prod(int(digit) for digit in digits)


def _mixed_radix(digits: torch.Tensor, chosen: Sequence[int], radix: Sequence[int]) -> torch.Tensor:
    """One number of the chosen digits, ``[*B, D] -> [*B]``."""
    code = digits[..., chosen[0]]
    for digit, base in zip(chosen[1:], radix[1:], strict=True):
        code = code * base + digits[..., digit]
    return code
