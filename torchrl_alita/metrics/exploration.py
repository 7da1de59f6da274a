"""How much a team has explored, counted from the batches that it collects.

A part reads a batch in the layout of the package, adds it to its counts and returns scalars
to log. Counts are buffers, so that a checkpoint has them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import nn
from torchrl.data import OneHot
from torchrl.envs import EnvBase

from torchrl_alita._agents import gather_agents
from torchrl_alita._checks import (
    agent_indices,
    check_agent_range,
    check_at_least_one,
    require_keys,
)
from torchrl_alita.layout import ACTION, OBSERVATION, REWARD, layout_of, next_key

__all__ = [
    "BinnedCells",
    "Coverage",
    "ExplorationMetrics",
    "FirstSuccess",
    "OneHotCells",
    "VisitMap",
    "exploration_metrics",
]

_PAID = next_key(REWARD)
# The hash's field: products of two of its elements fit into 64 bits.
_PRIME = 2**31 - 1
_HASH_BASE = 1_103_515_245
_MOST_JOINT_ACTIONS = 2**20


class OneHotCells(nn.Module):
    """Which entries of concatenated one-hots are 1, ``[*B, F] -> [*B, K]``.

    One more letter in shapes, here and below: K components of a cell.

    Args:
        widths: of each one-hot. A width of 1 is a bit, with two values.
        rest: entries after the one-hots, which are not read. Default: 0.

    Raises:
        ValueError: if there is no width, one is below 1, or F is another number.

    Examples:
        >>> cells = OneHotCells([3, 1, 2])
        >>> cells(torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0, 0.0])), cells.sizes
        (tensor([2, 1, 0]), (3, 2, 2))
    """

    def __init__(self, widths: Sequence[int], *, rest: int = 0):
        super().__init__()
        if not widths:
            raise ValueError(f"widths must name at least one one-hot, got {list(widths)}.")
        for width in widths:
            check_at_least_one(width=width)
        self.sizes = tuple(max(width, 2) for width in widths)
        # Of one-hots, the product with their places is the place of the 1.
        blocks = [torch.arange(width).float() if width > 1 else torch.ones(1) for width in widths]
        places = torch.block_diag(*[block.unsqueeze(-1) for block in blocks])
        self.register_buffer("places", nn.functional.pad(places, (0, 0, 0, rest)), persistent=False)

    def forward(self, vector: torch.Tensor) -> torch.Tensor:
        expected = len(self.places)
        if vector.shape[-1] != expected:
            raise ValueError(f"The cells are of {expected} features, got {vector.shape[-1]}.")
        return (vector.to(self.places.dtype) @ self.places).round().long()


class BinnedCells(nn.Module):
    """Bins of some entries of a vector, ``[*B, F] -> [*B, K]``.

    What is outside is in the nearest bin, NaN in the first.

    Args:
        low: lower end of the first bin, of all features or of each.
        high: upper end of the last bin, of all features or of each.
        bins: how many, of all features or of each.
        features: which entries of the vector, in this order.

    Raises:
        ValueError: if there is no feature, a range is empty or not finite, there is no bin,
            there are more or fewer values than features, or F is too small.

    Examples:
        >>> cells = BinnedCells(low=-1.0, high=1.0, bins=4, features=(2, 0))
        >>> cells(torch.tensor([0.1, 7.0, -3.0])), cells.sizes
        (tensor([0, 2]), (4, 4))
    """

    def __init__(
        self,
        *,
        low: float | Sequence[float],
        high: float | Sequence[float],
        bins: int | Sequence[int],
        features: Sequence[int],
    ):
        super().__init__()
        self.features = list(features)
        if not self.features or min(self.features) < 0:
            raise ValueError(f"features must be entries, from 0 on, got {self.features}.")
        count = len(self.features)
        values = {"low": low, "high": high, "bins": bins}
        for name, value in values.items():
            row = torch.as_tensor(value, dtype=torch.float64)
            if name == "bins" and not bool((row == row.floor()).all()):
                raise ValueError(f"bins must be whole numbers, got {value}.")
            if row.ndim and row.shape != (count,):
                raise ValueError(f"{name} must be one value, or {count}, got {value}.")
            self.register_buffer(name, row.expand(count).clone(), persistent=False)
        check_at_least_one(bins=int(self.bins.min()))
        width = self.high - self.low
        if not bool((width > 0).all()) or not bool(width.isfinite().all()):
            raise ValueError(f"high must be finite and above low, got {low} to {high}.")
        self.sizes = tuple(int(size) for size in self.bins)

    def forward(self, vector: torch.Tensor) -> torch.Tensor:
        if vector.shape[-1] <= max(self.features):
            raise ValueError(
                f"The cells read entry {max(self.features)}, got {vector.shape[-1]} entries."
            )
        place = (vector[..., self.features] - self.low) / (self.high - self.low) * self.bins
        place = place.nan_to_num(nan=0.0)
        return torch.minimum(place.floor().clamp_min(0), self.bins - 1).long()


class Coverage(TensorDictModuleBase):
    r"""How many joint cells were visited, and how evenly, batch ``[*B]`` -> scalars.

    .. math:: H = -\sum_x \frac{n_x}{n} \log \frac{n_x}{n}

    in nats, of the n entries seen so far, n_x of them in the joint cell x. Source: the usual
    measures of exploration; the paper, https://arxiv.org/abs/2108.12581, shows its
    exploration by the reward alone.

    A joint cell is what ``cells`` makes of the entries of the listed agents together. The
    numbers of visits are exact while the number of joint cells is at most ``max_cells``.
    Beyond it a joint cell is hashed into one of ``max_cells`` places: cells that meet in one
    place count as one, so that all scalars are lower bounds then (``exact`` is False).

    Writes, as float64 scalars, ``{name}_visited``: joint cells visited; ``{name}_coverage``:
    their share of the possible ones; ``{name}_entropy``: H; ``{name}_entropy_share``: H over
    that of a uniform visit of all possible ones.

    Args:
        cells: :class:`OneHotCells` or :class:`BinnedCells`.
        name: first word of the keys written. Default: ``"state"``.
        key: read, ``[*B, N, F]``. Default: ``("agents", "observation")``.
        agents: whose entries make the joint cell together. Default: the first agent's,
            which is the state where all see everything. None for a key without agents,
            ``[*B, F]``, as ``"state"``.
        possible: joint cells that can be visited at all. Default: all there are.
        max_cells: numbers kept, 8 bytes each. Default: 2**24, 134 MB at most.

    Raises:
        ValueError: for sizes below 1, more possible cells than there are, or a batch whose
            shape does not fit.
        KeyError: if the key is missing; the keys present are named.

    Examples:
        >>> coverage = Coverage(OneHotCells([2, 3]), possible=4)
        >>> seen = torch.tensor([[1.0, 0.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0, 1.0]])
        >>> batch = TensorDict({"agents": {"observation": seen.unsqueeze(1)}}, [2])
        >>> logs = coverage(batch)
        >>> int(logs["state_visited"]), float(logs["state_coverage"])
        (2, 0.5)
        >>> bool(logs["state_entropy"] == torch.tensor(2.0).double().log())
        True
    """

    def __init__(
        self,
        cells: OneHotCells | BinnedCells,
        *,
        name: str = "state",
        key: NestedKey = OBSERVATION,
        agents: Sequence[int] | None = (0,),
        possible: int | None = None,
        max_cells: int = 2**24,
    ):
        super().__init__()
        check_at_least_one(max_cells=max_cells)
        self.cells = cells
        self.name = name
        self.agents = None if agents is None else agent_indices("agents", tuple(agents))
        sizes = cells.sizes * (1 if self.agents is None else len(self.agents))
        joint = math.prod(sizes)
        self.possible = joint if possible is None else possible
        check_at_least_one(possible=self.possible)
        if self.possible > joint:
            raise ValueError(f"possible must be at most {joint}, all there are, got {possible}.")
        self.exact = joint <= max_cells
        self.in_keys = [key]
        words = ("visited", "coverage", "entropy", "entropy_share")
        self.out_keys = [f"{name}_{word}" for word in words]
        self.register_buffer("places", _places(sizes, exact=self.exact), persistent=False)
        self.register_buffer("counts", torch.zeros(min(joint, max_cells), dtype=torch.long))
        # Kept up to date, so that no batch costs a pass over all counts.
        for buffer in ("total", "visited", "count_log_count"):
            self.register_buffer(buffer, torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        index, times = self._index(tensordict).unique(return_counts=True)
        before = self.counts[index]
        after = before + times
        self.counts[index] = after
        self.total += times.sum()
        self.visited += (before == 0).sum()
        before, after = before.double(), after.double()
        self.count_log_count += (torch.xlogy(after, after) - torch.xlogy(before, before)).sum()
        return self.metrics()

    def metrics(self) -> TensorDict:
        """The scalars of what was seen so far."""
        total = self.total.clamp_min(1)
        # Rounding may leave a little less than nothing.
        entropy = (total.log() - self.count_log_count / total).clamp_min(0)
        values = (
            self.visited.clone(),
            self.visited / float(self.possible),
            entropy,
            entropy / math.log(max(self.possible, 2)),
        )
        return TensorDict(dict(zip(self.out_keys, values, strict=True)))

    def _index(self, tensordict: TensorDictBase) -> torch.Tensor:
        """Place of the joint cell of each entry of the batch, ``[*B] -> [n]``."""
        require_keys(tensordict, self.in_keys)
        cell = self.cells(_listed(tensordict.get(self.in_keys[0]), self.agents))
        cell = cell.reshape(tensordict.numel(), -1)
        if cell.shape[-1] != len(self.places):
            raise ValueError(
                f"{self.in_keys[0]} must give {len(self.places)} components, got {cell.shape[-1]}."
            )
        if self.exact:
            return (cell * self.places).sum(-1)
        return ((cell + 1) * self.places % _PRIME).sum(-1) % _PRIME % len(self.counts)


class FirstSuccess(TensorDictModuleBase):
    """Environment frames until the first reward above a threshold, batch ``[*B, T]`` -> scalar.

    Writes ``first_success_frame``: the frames made when the step was over in which any
    environment first paid any agent more, NaN until then; the environments of a batch step
    together.

    Args:
        threshold: a reward above it is a success. Default: 0.
        key: read, ``[*B, T, N, 1]``. Default: ``("next", "agents", "reward")``.

    Raises:
        KeyError: if the key is missing; the keys present are named.

    Examples:
        Of two environments the second is paid in the second of three steps.

        >>> reward = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]).view(2, 3, 1, 1)
        >>> batch = TensorDict({"next": {"agents": {"reward": reward}}}, [2, 3])
        >>> first = FirstSuccess()
        >>> float(first(torch.zeros_like(batch))["first_success_frame"])
        nan
        >>> float(first(batch)["first_success_frame"])
        10.0
    """

    def __init__(self, *, threshold: float = 0.0, key: NestedKey = _PAID):
        super().__init__()
        self.threshold = threshold
        self.in_keys = [key]
        self.out_keys = ["first_success_frame"]
        self.register_buffer("frames", torch.zeros((), dtype=torch.long))
        self.register_buffer("first", torch.full((), torch.nan, dtype=torch.float64))

    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        require_keys(tensordict, self.in_keys)
        steps = tensordict.batch_size[-1]
        together = tensordict.numel() // steps
        paid = (tensordict.get(self.in_keys[0]) > self.threshold).reshape(together, steps, -1)
        paid = paid.any(-1).any(0)
        frame = self.frames + together * (paid.int().argmax() + 1)
        new = self.first.isnan() & paid.any()
        self.first.copy_(torch.where(new, frame.double(), self.first))
        self.frames += tensordict.numel()
        return self.metrics()

    def metrics(self) -> TensorDict:
        """The scalar of what was seen so far."""
        return TensorDict({self.out_keys[0]: self.first.clone()})


class VisitMap(TensorDictModuleBase):
    """Visits of the cells of a grid, for a picture, batch ``[*B]`` -> scalar.

    Two components of ``cells`` after the other are a row and a column: of one thing for
    each pair and each listed agent's entry. Writes ``cell_coverage``, the share of the grid's
    cells in which any agent was.

    Args:
        cells: :class:`OneHotCells` or :class:`BinnedCells`, of pairs with one grid's sizes.
        num_agents: how many of the things are agents; they come first.
        others: names of the things that are none, as ``("box",)``.
        key: read, ``[*B, N, F]``. Default: ``("agents", "observation")``.
        agents: whose entries are read. Default: the first agent's, where it sees all.

    Raises:
        ValueError: if the pairs are of different grids, or not as many as there are things.
        KeyError: if the key is missing; the keys present are named.

    Examples:
        >>> visits = VisitMap(OneHotCells([2, 3]), num_agents=1)
        >>> seen = torch.tensor([[0.0, 1.0, 0.0, 0.0, 1.0]])
        >>> batch = TensorDict({"agents": {"observation": seen.expand(5, 1, 5)}}, [5])
        >>> round(float(visits(batch)["cell_coverage"]), 3)
        0.167
        >>> visits.maps()["agent 0"]
        tensor([[0, 0, 0],
                [0, 0, 5]])
    """

    def __init__(
        self,
        cells: OneHotCells | BinnedCells,
        *,
        num_agents: int,
        others: Sequence[str] = (),
        key: NestedKey = OBSERVATION,
        agents: Sequence[int] | None = (0,),
    ):
        super().__init__()
        check_at_least_one(num_agents=num_agents)
        self.cells = cells
        self.num_agents = num_agents
        self.agents = None if agents is None else agent_indices("agents", tuple(agents))
        self.names = (*(f"agent {agent}" for agent in range(num_agents)), *others)
        sizes = cells.sizes * (1 if self.agents is None else len(self.agents))
        grids = set(zip(sizes[::2], sizes[1::2], strict=False))
        if len(sizes) != 2 * len(self.names) or len(grids) != 1:
            raise ValueError(
                f"cells must give a row and a column of {len(self.names)} things on one grid, "
                f"got components of the sizes {sizes}."
            )
        self.grid = (sizes[0], sizes[1])
        self.in_keys = [key]
        self.out_keys = ["cell_coverage"]
        shape = (len(self.names), *self.grid)
        self.register_buffer("counts", torch.zeros(shape, dtype=torch.long))

    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        require_keys(tensordict, self.in_keys)
        cell = self.cells(_listed(tensordict.get(self.in_keys[0]), self.agents))
        cell = cell.reshape(-1, len(self.names), 2)
        rows, columns = self.grid
        thing = torch.arange(len(self.names), device=cell.device)
        place = (thing * rows + cell[..., 0]) * columns + cell[..., 1]
        visits = place.flatten().bincount(minlength=self.counts.numel())
        self.counts += visits.view_as(self.counts)
        return self.metrics()

    def metrics(self) -> TensorDict:
        """The scalar of what was seen so far."""
        visited = (self.counts[: self.num_agents].sum(0) > 0).double().mean()
        return TensorDict({self.out_keys[0]: visited})

    def maps(self) -> dict[str, torch.Tensor]:
        """Visits ``[rows, columns]`` by name: of the team if it is one, and of each thing."""
        each = dict(zip(self.names, self.counts.clone(), strict=True))
        if self.num_agents == 1:
            return each
        return {"team": self.counts[: self.num_agents].sum(0), **each}


class ExplorationMetrics(TensorDictModuleBase):
    """Several parts as one, batch ``[B, T]`` -> the scalars of all of them.

    Args:
        parts: their keys must differ.

    Raises:
        ValueError: if two parts write the same key; it is named.

    Examples:
        >>> parts = ExplorationMetrics([FirstSuccess(), Coverage(OneHotCells([2, 3]))])
        >>> sorted(parts.metrics().keys())[:2]
        ['first_success_frame', 'state_coverage']
    """

    def __init__(self, parts: Iterable[TensorDictModuleBase]):
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.out_keys = [key for part in self.parts for key in part.out_keys]
        self.in_keys = list(dict.fromkeys(key for part in self.parts for key in part.in_keys))
        for key in self.out_keys:
            if self.out_keys.count(key) > 1:
                raise ValueError(f"{self.out_keys.count(key)} parts write {key!r}.")

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        logs = TensorDict()
        for part in self.parts:
            logs.update(part(tensordict))
        return logs

    def metrics(self) -> TensorDict:
        """The scalars of what was seen so far."""
        logs = TensorDict()
        for part in self.parts:
            logs.update(part.metrics())
        return logs

    def maps(self) -> dict[str, torch.Tensor]:
        """Visits ``[rows, columns]`` by name, if a part is a :class:`VisitMap`; else none."""
        found = [part.maps() for part in self.parts if isinstance(part, VisitMap)]
        return found[0] if found else {}


def exploration_metrics(
    env: EnvBase,
    *,
    events: Iterable[TensorDictModuleBase] = (),
    positions: BinnedCells | None = None,
    action_bins: int = 3,
    max_cells: int = 2**24,
) -> ExplorationMetrics:
    """The exploration metrics that fit an environment.

    Always the first success and the coverage of joint actions; then what the task counts
    itself, and, if ``positions`` is given, the coverage of joint positions and their map.

    Args:
        env: in the layout of the package.
        events: parts of the task's own, such as its ``events(env)`` gives; see
            :class:`torchrl_alita.envs.Task`.
        positions: rows and columns in each agent's own observation, in this order. Default:
            not known.
        action_bins: of each entry of a continuous action. Default: 3.
        max_cells: numbers kept of joint positions, 8 bytes each, and in each checkpoint; see
            :class:`Coverage`. Of joint actions 2**20 at most are kept. Default: 2**24.

    Returns:
        :class:`ExplorationMetrics` on the environment's device.

    Raises:
        ValueError: if two parts write the same key, as ``positions`` does for a game that
            counts its own states; it is named.

    Examples:
        Positions on the plane of ``"vmas/spread"`` are the first two features, x and y.

        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("vmas/spread", num_envs=2, n_agents=3, seed=0)
        >>> plane = BinnedCells(low=-1.5, high=1.5, bins=12, features=(1, 0))
        >>> metrics = exploration_metrics(env, positions=plane)
        >>> int(metrics(env.rollout(1))["state_visited"])
        2
        >>> list(metrics.maps())
        ['team', 'agent 0', 'agent 1', 'agent 2']
    """
    layout = layout_of(env)
    parts = [FirstSuccess(), _joint_actions(env, action_bins, max_cells), *events]
    if positions is not None:
        everybody = range(layout.num_agents)
        parts.append(Coverage(positions, agents=everybody, max_cells=max_cells))
        parts.append(VisitMap(positions, num_agents=layout.num_agents, agents=everybody))
    metrics = ExplorationMetrics(parts)
    return metrics if env.device is None else metrics.to(env.device)


def _joint_actions(env: EnvBase, bins: int, max_cells: int) -> Coverage:
    spec = env.full_action_spec_unbatched[ACTION]
    num_agents, size = spec.shape
    if isinstance(spec, OneHot):
        cells = OneHotCells([size])
    else:
        low, high = spec.space.low.amin(0), spec.space.high.amax(0)
        cells = BinnedCells(low=low.cpu(), high=high.cpu(), bins=bins, features=range(size))
    return Coverage(
        cells,
        name="joint_action",
        key=ACTION,
        agents=range(num_agents),
        max_cells=min(max_cells, _MOST_JOINT_ACTIONS),
    )


def _listed(entry: torch.Tensor, agents: Sequence[int] | None) -> torch.Tensor:
    """Entries of the listed agents, ``[*B, N, F] -> [*B, n, F]``."""
    if agents is not None:
        check_agent_range("agents", agents, entry.shape[-2])
    return gather_agents(entry, agents, -2)


def _places(sizes: Sequence[int], *, exact: bool) -> torch.Tensor:
    """What each component counts in the number of a joint cell, or in its hash."""
    if exact:
        return torch.tensor([math.prod(sizes[place + 1 :]) for place in range(len(sizes))])
    return torch.tensor([pow(_HASH_BASE, place + 1, _PRIME) for place in range(len(sizes))])
