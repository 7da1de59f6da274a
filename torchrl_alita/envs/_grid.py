"""What Push-Box and Secret Room share: cells, one-hot actions, specs, state and drawing.

A cell is a pair (row, column); its code is row * size + column. One more letter in
shapes: L actions of each agent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from tensordict import TensorDict
from torchrl.data import Categorical, Composite, OneHot, Unbounded

from torchrl_alita import functional
from torchrl_alita._checks import (
    check_choice,
    check_flag,
    check_positive,
    check_whole,
    checked_seed,
    require_keys,
)
from torchrl_alita._extras import import_extra
from torchrl_alita.data import CountCodes, Displacement, OneHotCode
from torchrl_alita.envs._saved_state import SavedState, StaysOnDevice
from torchrl_alita.layout import ACTION, DONE, OBSERVATION, next_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tensordict import TensorDictBase
    from torchrl.envs import EnvBase

__all__ = [
    "MOVES",
    "WALL_COLOR",
    "AllowedOneHot",
    "Board",
    "GridState",
    "all_cells",
    "check_allowed",
    "check_choice",
    "check_common",
    "check_whole",
    "chosen_actions",
    "codes_of",
    "count_codes",
    "exploring_agents",
    "first_episode",
    "joint_observation",
    "observation_table",
    "observed_cells",
    "publish_mask",
    "require_observations",
    "running",
    "seed_of_task",
    "select",
    "set_seed",
    "set_specs",
    "step_entries",
]

WALL_COLOR = "#555555"
_AGENT_COLORS = (
    *("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#000000", "#ff8800"),
)
_TRAIL = 15

# Up, right, down, left and stay, as changes of row and column.
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1), (0, 0))


def count_codes(size: int, num_agents: int, *, box: bool, deterministic: bool) -> CountCodes:
    """What is counted in a game on a grid: cells, and moves.

    All agents see the same: one-hot rows and columns of each of them and, last, of a box.

    Args:
        size: rows, and columns.
        num_agents: N.
        box: an agent's own state has the box's cell beside its own.
        deterministic: all agents' own states and actions determine all outcomes.
    """
    blocks = [size] * (2 * num_agents + 2 * box)
    cells = [(2 * agent, 2 * agent + 1) for agent in range(num_agents)]
    of_box = (2 * num_agents, 2 * num_agents + 1) if box else ()
    part = OneHotCode(blocks, parts=cells, observer=0)
    return CountCodes(
        own=OneHotCode(blocks, parts=[cell + of_box for cell in cells], observer=0),
        team=OneHotCode(blocks),
        outcome=Displacement(part),
        part=part,
        deterministic=deterministic,
    )


class AllowedOneHot(OneHot):
    """One-hot vectors of which some are forbidden for the time being.

    A clone shares the mask: a transformed environment, which keeps a clone of its
    environment's specs, draws from what is allowed now. TorchRL's own class does not
    test floating-point vectors against a mask.
    """

    def clone(self) -> AllowedOneHot:
        """A copy with the same mask, not with a copy of it."""
        copy = super().clone()
        copy.mask = self.mask
        return copy

    def is_in(self, val: torch.Tensor) -> bool:
        """Whether all vectors are one-hot and allowed."""
        one_hot = val.dtype == self.dtype and bool(((val == 0) | (val == 1)).all())
        if not one_hot or not bool((val.sum(-1) == 1).all()):
            return False
        return self.mask is None or bool((self.mask | (val == 0)).all())

    def _project(self, val: torch.Tensor) -> torch.Tensor:
        return super()._project(val if self.mask is None else val.bool()).to(self.dtype)


def check_common(
    *, num_envs: int, num_agents: int, horizon: int, reward: float, mask_blocked: bool
) -> None:
    """Raise a ValueError or TypeError for what neither game can be played with."""
    check_flag(mask_blocked=mask_blocked)
    check_whole(1, num_envs=num_envs, horizon=horizon)
    check_whole(2, 8, num_agents=num_agents)
    check_positive(reward=reward)


def set_seed(generator: torch.Generator, seed: int | None) -> None:
    """Give a generator a seed, or one that differs from run to run."""
    seed = checked_seed(seed)
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)


def all_cells(size: int, device: torch.device | str) -> torch.Tensor:
    """Row and column by code, ``[size**2, 2]``."""
    line = torch.arange(size, device=device)
    return torch.cartesian_prod(line, line)


def codes_of(cells: torch.Tensor, size: int) -> torch.Tensor:
    """Codes of cells, ``[*B, 2] -> [*B]``."""
    return cells[..., 0] * size + cells[..., 1]


def observation_table(size: int, device: torch.device | str) -> torch.Tensor:
    """One-hot row and one-hot column by code, ``[size**2, 2 * size]``."""
    return torch.eye(size, device=device)[all_cells(size, device)].flatten(-2)


def select(table: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Rows of a table, ``[C, *F], [*B] -> [*B, *F]``.

    Several times as fast as ``table[codes]`` on a CPU.
    """
    return table.index_select(0, codes.reshape(-1)).view(*codes.shape, *table.shape[1:])


def joint_observation(table: torch.Tensor, codes: torch.Tensor, num_agents: int) -> torch.Tensor:
    """The same one-hots of C cells for each agent, ``[B, C] -> [B, N, C * 2 * size]``.

    Each agent has a copy: a caller may write into one agent's.
    """
    for_each = codes.unsqueeze(-2).expand(-1, num_agents, -1)
    return select(table, for_each).flatten(-2)


def chosen_actions(
    action: torch.Tensor, vectors: torch.Tensor, lead: tuple[int, int]
) -> torch.Tensor:
    """Numbers of one-hot actions, ``[B, N, L] -> [B, N]``.

    Args:
        action: of any dtype.
        vectors: the one-hot vectors, ``[L, L]``.
        lead: B and N.

    Raises:
        ValueError: for a wrong shape, or a vector that is not one-hot: the first, with
            its environment and agent.
    """
    shape = (*lead, vectors.shape[0])
    if tuple(action.shape) != shape:
        raise ValueError(f"{ACTION} must have the shape {shape}, got {tuple(action.shape)}.")
    action = action.detach().float()
    # The sum of the numbers of the ones: an argmax is slow over so few entries.
    counting = torch.arange(shape[-1], dtype=action.dtype, device=action.device)
    numbers = action @ counting
    chosen = numbers.nan_to_num(0).clamp_(0, shape[-1] - 1).long()
    if not torch.equal(select(vectors, chosen), action):
        wrong = (select(vectors, chosen) != action).any(-1)
        _refuse("must be one-hot", wrong, action.tolist())
    return chosen


def check_allowed(chosen: torch.Tensor, allowed: torch.Tensor) -> None:
    """Raise a ValueError that names the first action that is masked, ``[B, N], [B, N, L]``."""
    good = allowed.gather(-1, chosen.unsqueeze(-1)).squeeze(-1)
    if not bool(good.all()):
        _refuse("must be allowed by the mask", ~good, chosen.tolist())


def _refuse(requirement: str, wrong: torch.Tensor, values: list) -> None:
    env, agent = wrong.nonzero()[0].tolist()
    raise ValueError(
        f"The action of agent {agent} in environment {env} {requirement}, got {values[env][agent]}."
    )


def set_specs(env: EnvBase, *, observation_size: int, num_actions: int) -> torch.Tensor | None:
    """The specs of a game with N agents; see :mod:`torchrl_alita.layout`.

    Returns:
        The mask ``[B, N, L]`` that the action's spec and its clones share, if the game
        masks actions.
    """
    batch, lead, device = env.batch_size, (*env.batch_size, env.num_agents), env.device

    def grouped(**specs) -> Composite:
        agents = Composite(**specs, shape=lead, device=device)
        return Composite(agents=agents, shape=batch, device=device)

    seen = {"observation": Unbounded((*lead, observation_size), device=device)}
    mask, shape = None, (*lead, num_actions)
    one_hot = {"shape": shape, "dtype": torch.float32, "device": device}
    if env.mask_blocked:
        mask = torch.ones(shape, dtype=torch.bool, device=device)
        seen["action_mask"] = Categorical(2, shape=shape, dtype=torch.bool, device=device)
        action = AllowedOneHot(num_actions, mask=mask, **one_hot)
    else:
        action = OneHot(num_actions, **one_hot)
    env.observation_spec = grouped(**seen)
    env.action_spec = grouped(action=action)
    env.reward_spec = grouped(reward=Unbounded((*lead, 1), device=device))
    flag = Categorical(2, shape=(*batch, 1), dtype=torch.bool, device=device)
    env.done_spec = Composite(
        done=flag,
        terminated=flag.clone(),
        truncated=flag.clone(),
        shape=batch,
        device=device,
    )
    return mask


def publish_mask(env: EnvBase, mask: torch.Tensor, allowed: torch.Tensor) -> None:
    """Let random actions be drawn from what is allowed now, ``[B, N, L]``.

    Args:
        env: its action spec is an :class:`AllowedOneHot`.
        mask: the tensor that the spec and its clones share; it is overwritten.
        allowed: its new value.
    """
    mask.copy_(allowed)
    # An exploration module may have put another mask into the spec that it was given.
    env.full_action_spec[ACTION].update_mask(mask)


def step_entries(
    env: EnvBase, terminated: torch.Tensor, truncated: torch.Tensor, **agents: torch.Tensor
) -> TensorDict:
    """What a step or a reset returns: flags ``[B, 1]`` and the agents' entries."""
    group = TensorDict(agents, (*env.batch_size, env.num_agents), device=env.device)
    entries = {
        "agents": group,
        "done": terminated | truncated,
        "terminated": terminated,
        "truncated": truncated,
    }
    return TensorDict(entries, env.batch_size, device=env.device)


class GridState(SavedState, StaysOnDevice):
    """A state with cells, which lie on the grid."""

    size: int

    def _check_saved(self, name: str, value: torch.Tensor) -> None:
        super()._check_saved(name, value)
        if name.endswith("_cells") and (int(value.min()) < 0 or int(value.max()) >= self.size):
            raise ValueError(
                f"{name} must lie in rows and columns 0 to {self.size - 1}, got values from "
                f"{int(value.min())} to {int(value.max())}."
            )


def seed_of_task(seed: int | None) -> int:
    """The seed, or one from torch's global generator, as the registry promises."""
    own = checked_seed(seed)
    return int(torch.randint(2**31, ())) if own is None else own


def running(episodes: TensorDictBase) -> torch.Tensor:
    """Steps up to an episode's end, that one included, ``[B, T]``."""
    return functional.until_first(episodes[next_key(DONE)].squeeze(-1), 1)


def first_episode(steps: TensorDictBase) -> TensorDictBase:
    """What belongs to the first episode of consecutive steps, ``[T] -> [1, T]``, on the CPU."""
    steps = steps.unsqueeze(0).cpu()
    return steps[:, : int(running(steps).sum())]


def require_observations(episodes: TensorDictBase) -> None:
    """Raise a KeyError if observations before and after the steps are not both there."""
    require_keys(episodes, [OBSERVATION, next_key(OBSERVATION)])


def observed_cells(episodes: TensorDictBase, num_cells: int, size: int) -> torch.Tensor:
    """C cells in each state of episodes ``[B, T]``, the first included, ``[B, T + 1, C, 2]``."""
    line = torch.arange(float(size), device=episodes[OBSERVATION].device)

    def read(observation: torch.Tensor) -> torch.Tensor:
        # All agents see the same.
        one_hots = observation[:, :, 0, : num_cells * 2 * size].unflatten(-1, (num_cells, 2, size))
        return (one_hots.float() @ line).round().long()

    first, rest = read(episodes[OBSERVATION][:, :1]), read(episodes[next_key(OBSERVATION)])
    return torch.cat([first, rest], 1)


def exploring_agents(episode: TensorDictBase, num_agents: int) -> list[list[bool]]:
    """Who explores in the step after each state, ``[1, T] -> [T + 1][N]``."""
    entry = episode.get(("agents", "exploring"), episode.get("exploring", None))
    none = torch.zeros(1, num_agents, dtype=torch.bool)
    if entry is None:
        return none.expand(episode.shape[1] + 1, -1).tolist()
    flags = entry[0].flatten(1).expand(-1, num_agents)
    return torch.cat([flags, none]).tolist()


class Board:
    """A picture of a grid of cells with a line of text below.

    Args:
        size: rows, and columns.
        cell: edge of a cell, pixels.
        caption: the text.

    Raises:
        ImportError: if Pillow is not installed; the extra is named.
    """

    def __init__(self, size: int, cell: int, caption: str):
        image_module = import_extra("PIL.Image", "recipes")
        draw_module = import_extra("PIL.ImageDraw", "recipes")
        self.cell = cell
        self.image = image_module.new("RGB", (size * cell, size * cell + 16), "white")
        self._draw = draw_module.Draw(self.image)
        self._draw.rectangle((0, 0, size * cell - 1, size * cell - 1), outline=WALL_COLOR)
        self._draw.text((4, size * cell + 2), caption, fill="black")

    def fill(self, cells: torch.Tensor, color: str) -> None:
        """Fill cells ``[C, 2]``."""
        for row, column in cells.tolist():
            corner = (column * self.cell, row * self.cell)
            far = (corner[0] + self.cell - 1, corner[1] + self.cell - 1)
            self._draw.rectangle((*corner, *far), fill=color)

    def draw_agents(self, cells: torch.Tensor, exploring: Sequence[bool]) -> None:
        """Agents in the last of their cells ``[T, N, 2]``, with a trail of those before.

        In one cell the disks lie within each other.
        """
        trails = ((cells[-_TRAIL:].flip(-1) + 0.5) * self.cell).transpose(0, 1).tolist()
        for agent, trail in enumerate(trails):
            self._draw.line([tuple(point) for point in trail], fill=_AGENT_COLORS[agent], width=2)
        centers = [trail[-1] for trail in trails]
        for agent, center in enumerate(centers):
            radius = self.cell * 0.46 * 0.7 ** centers[:agent].count(center)
            self._disk(center, radius, fill=_AGENT_COLORS[agent])
        for center, explores in zip(centers, exploring, strict=True):
            if explores:
                self._disk(center, self.cell * 0.7, outline="#dd00dd", width=2)

    def _disk(self, center: Sequence[float], radius: float, **style) -> None:
        x, y = center
        self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), **style)
