"""Push-Box and Secret Room by the rules of https://arxiv.org/abs/2107.11444 (CMAE).

The games of :class:`torchrl_alita.envs.PushBox` and :class:`torchrl_alita.envs.SecretRoom` play the
rules of EDTI, which the paper names its own after. CMAE's share their names and are other games:
starts are fixed, the box is larger, doors have no delay, and a success pays 1 and ends the episode.
Figures of the two must not be mixed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from tensordict import TensorDictBase
from torchrl.envs import EnvBase

from torchrl_alita.data import CountCodes
from torchrl_alita.envs import _grid
from torchrl_alita.layout import ACTION, OBSERVATION, TERMINATED, next_key

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "CMAEPushBox",
    "CMAESecretRoom",
    "cmae_secret_room_metrics",
    "draw_cmae_secret_room",
]

_DOORS = 3
# Cells around a switch from which it is held: those within 1.5.
_REACH = 1


class _CornerGame(_grid.GridState, EnvBase):
    """What both games share: cells of the agents, four moves, fixed starts, state and flags."""

    exact_state = True

    def _begin(
        self,
        num_envs: int,
        *,
        size: int,
        least: int,
        horizon: int,
        reward: float,
        mask_blocked: bool,
        width: int,
        device: torch.device | str,
        seed: int | None,
    ) -> None:
        _grid.check_common(
            num_envs=num_envs,
            num_agents=2,
            horizon=horizon,
            reward=reward,
            mask_blocked=mask_blocked,
        )
        _grid.check_whole(least, size=size)
        super().__init__(device=device, batch_size=[num_envs])
        self.num_agents, self.size, self.horizon = 2, size, horizon
        self.mask_blocked, self.reward = mask_blocked, float(reward)
        self._cells = _grid.all_cells(size, device)
        self._moves = torch.tensor(_grid.MOVES[:4], device=device)
        self._vectors = torch.eye(4, device=device)
        self._seen = _grid.observation_table(size, device)
        self._mask = _grid.set_specs(self, observation_size=width, num_actions=4)
        # Nothing is drawn; it is kept so that a state has what other games' states have.
        self.generator = torch.Generator(self.device)
        self._set_seed(seed)
        self.steps = torch.zeros(num_envs, 1, dtype=torch.long, device=self.device)

    def _set_seed(self, seed: int | None) -> None:
        _grid.set_seed(self.generator, seed)

    def count_codes(self) -> CountCodes:
        """What is counted in it: each agent's cell, with the box's where there is one, and moves.

        Doors have no delay: the agents' cells say which are open.
        """
        box = "box_cells" in self._state
        return _grid.count_codes(self.size, 2, box=box, deterministic=box)

    def _first(self, name: str, cells: list, reset: torch.Tensor) -> None:
        first = torch.tensor(cells, device=self.device)
        now = getattr(self, name)
        each = reset if now.ndim == 2 else reset.unsqueeze(-1)
        setattr(self, name, torch.where(each, first, now))

    def _all(self, tensordict: TensorDictBase | None) -> torch.Tensor:
        reset = None if tensordict is None else tensordict.get("_reset", None)
        return torch.ones_like(self.steps, dtype=torch.bool) if reset is None else reset

    def _chosen(self, tensordict: TensorDictBase) -> torch.Tensor:
        lead = (*self.batch_size, self.num_agents)
        action = _grid.chosen_actions(tensordict.get(ACTION), self._vectors, lead)
        if self.mask_blocked:
            _grid.check_allowed(action, self._allowed())
        return action

    def _paid(self, solved: torch.Tensor) -> torch.Tensor:
        """``[B, 1] -> [B, N, 1]``."""
        return (self.reward * solved).unsqueeze(-1).repeat(1, self.num_agents, 1)

    def _restore(self, state: dict[str, torch.Tensor]) -> None:
        super()._restore(state)
        if self.mask_blocked:
            _grid.publish_mask(self, self._mask, self._allowed())


class CMAEPushBox(_CornerGame):
    r"""Push-Box by CMAE's rules: two agents push a 3 x 3 box to the edge of the grid, batched.

    Source: https://arxiv.org/abs/2107.11444, as its authors' code plays it. Agents and box can be
    anywhere on the grid; agents may share a cell. A step:

    1. An agent beside the box, in one of the three cells of a side, pushes if it moves towards it.
    2. If both agents push one way, the box moves a cell, unless it is at the edge there.
    3. The agents move, except into a cell of the box where it is now, or off the grid.
    4. When the box touches the edge, both get the reward and the episode terminates.

    Every episode begins with the box in the center and the agents 2 and 4 cells below and to its
    right, on the diagonal.

    ``("agents", "observation")`` is ``[B, 2, 6 * size]``, the same for both: one-hot row and column
    of agent 0, of agent 1 and of the box's center. ``("agents", "action")`` is one-hot
    ``[B, 2, 4]``: up, right, down, left; there is none to stay. The state is ``agent_cells``
    ``[B, 2, 2]``, ``box_cells`` ``[B, 2]`` and ``steps`` ``[B, 1]``.

    Args:
        num_envs: B, games played together.
        size: rows, and columns, at least 11. Default: 15, that of the rules.
        horizon: steps after which an episode is truncated. Default: 300, that of the rules.
        reward: of success. Default: 1, that of the rules.
        mask_blocked: also write ``("agents", "action_mask")``, False for a move off the grid.
        device: of the simulation.
        seed: accepted for uniformity: nothing is random.

    Raises:
        ValueError: for an argument out of range; in a step, for an action that is not one-hot, or
            masked, with its environment and agent. The state is unchanged.

    Examples:
        >>> env = CMAEPushBox()
        >>> step = env.reset()
        >>> env.agent_cells.tolist(), env.box_cells.tolist()
        ([[[11, 11], [9, 9]]], [[7, 7]])
        >>> env.agent_cells = torch.tensor([[[8, 9], [6, 9]]])
        >>> step["agents", "action"] = torch.eye(4)[[3, 3]][None]
        >>> _ = env.step(step)
        >>> env.agent_cells.tolist(), env.box_cells.tolist()
        ([[[8, 8], [6, 8]]], [[7, 6]])
    """

    _state = ("agent_cells", "box_cells", "steps")
    pushes_needed = 2

    def __init__(
        self,
        num_envs: int = 1,
        *,
        size: int = 15,
        horizon: int = 300,
        reward: float = 1.0,
        mask_blocked: bool = False,
        device: torch.device | str = "cpu",
        seed: int | None = None,
    ):
        self._begin(
            num_envs,
            size=size,
            least=11,
            horizon=horizon,
            reward=reward,
            mask_blocked=mask_blocked,
            width=6 * size,
            device=device,
            seed=seed,
        )
        cells = {"dtype": torch.long, "device": self.device}
        self.agent_cells = torch.zeros(num_envs, 2, 2, **cells)
        self.box_cells = torch.zeros(num_envs, 2, **cells)

    def _allowed(self) -> torch.Tensor:
        aims = self.agent_cells.unsqueeze(2) + self._moves
        return ((aims >= 0) & (aims < self.size)).all(-1)

    def _entries(
        self, terminated: torch.Tensor, truncated: torch.Tensor, **reward: torch.Tensor
    ) -> TensorDictBase:
        cells = torch.cat([self.agent_cells, self.box_cells.unsqueeze(1)], 1)
        codes = _grid.codes_of(cells, self.size)
        entries = {"observation": _grid.joint_observation(self._seen, codes, 2)}
        if self.mask_blocked:
            entries["action_mask"] = self._allowed()
            _grid.publish_mask(self, self._mask, entries["action_mask"])
        return _grid.step_entries(self, terminated, truncated, **entries, **reward)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs) -> TensorDictBase:
        reset, half = self._all(tensordict), self.size // 2
        self._first("agent_cells", [[half + 4] * 2, [half + 2] * 2], reset)
        self._first("box_cells", [half, half], reset)
        self.steps = torch.where(reset, 0, self.steps)
        return self._entries(torch.zeros_like(reset), torch.zeros_like(reset))

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        move = self._moves[self._chosen(tensordict)]
        # From where two steps along the move lead to the box's middle row or column.
        ahead = self.box_cells.unsqueeze(1) - (self.agent_cells + 2 * move)
        pushes = ((ahead * move).sum(-1) == 0) & (ahead.abs().amax(-1) <= 1)
        both = pushes.all(1, keepdim=True) & (move[:, 0] == move[:, 1]).all(-1, keepdim=True)
        box = self.box_cells + both * move[:, 0]
        inside = ((box >= 1) & (box <= self.size - 2)).all(-1, keepdim=True)
        self.box_cells = torch.where(inside, box, self.box_cells)
        aims = self.agent_cells + move
        free = ((aims >= 0) & (aims < self.size)).all(-1)
        free &= (aims - self.box_cells.unsqueeze(1)).abs().amax(-1) > 1
        self.agent_cells = torch.where(free.unsqueeze(-1), aims, self.agent_cells)
        self.steps = self.steps + 1
        edge = (self.box_cells == 1) | (self.box_cells == self.size - 2)
        solved = edge.any(-1, keepdim=True)
        return self._entries(solved, self.steps >= self.horizon, reward=self._paid(solved))


class CMAESecretRoom(_CornerGame):
    r"""Secret Room by CMAE's rules: two agents open doors for each other, batched.

    Source: https://arxiv.org/abs/2107.11444, as its authors' code plays it. A large room on the
    left, three small rooms on the right, a door of three cells to each. Agents may share a cell. A
    step:

    1. The agents move, except into a wall or a closed door, or off the grid.
    2. Of the switches with an agent in the 3 x 3 cells around, the first alone acts: the large
       room's opens all doors, one in a small room its own. All other doors are closed: there is no
       delay. A door that closes on an agent does nothing to it.
    3. When both agents are in the target region, both get the reward and the episode terminates.

    The target region is the top room on the right and, as in the code of the rules, the first row
    of the room below; its columns begin two to the right of the wall. Every episode begins with
    the agents in (3, 3) and (2, 2), on a grid of 25.

    ``("agents", "observation")`` is ``[B, 2, 4 * size + 3]``, the same for both: one-hot row and
    column of agent 0 and of agent 1, and 1 for each open door. ``("agents", "action")`` is one-hot
    ``[B, 2, 4]``: up, right, down, left. The state is ``agent_cells`` ``[B, 2, 2]``, ``door_open``
    ``[B, 3]`` and ``steps`` ``[B, 1]``.

    Args:
        num_envs: B, games played together.
        size: rows, and columns, at least 20: smaller rooms are no higher than a door. Default: 25,
            that of the rules.
        horizon: steps after which an episode is truncated. Default: 300, that of the rules.
        reward: of success. Default: 1, that of the rules.
        mask_blocked: also write ``("agents", "action_mask")``, False for a move into a wall, a
            closed door or off the grid.
        device: of the simulation.
        seed: accepted for uniformity: nothing is random.

    Raises:
        ValueError: for an argument out of range; in a step, for an action that is not one-hot, or
            masked, with its environment and agent. The state is unchanged.

    Examples:
        Beside the large room's switch, in (20, 5), an agent opens all doors.

        >>> env = CMAESecretRoom()
        >>> step = env.reset()
        >>> env.agent_cells = torch.tensor([[[21, 7], [4, 11]]])
        >>> step["agents", "action"] = torch.eye(4)[[3, 0]][None]
        >>> _ = env.step(step)
        >>> env.door_open.tolist()
        [[True, True, True]]
    """

    _state = ("agent_cells", "door_open", "steps")
    # For whoever reads the observation, as in SecretRoom.
    door_bits = True

    def __init__(
        self,
        num_envs: int = 1,
        *,
        size: int = 25,
        horizon: int = 300,
        reward: float = 1.0,
        mask_blocked: bool = False,
        device: torch.device | str = "cpu",
        seed: int | None = None,
    ):
        self._begin(
            num_envs,
            size=size,
            least=20,
            horizon=horizon,
            reward=reward,
            mask_blocked=mask_blocked,
            width=4 * size + _DOORS,
            device=device,
            seed=seed,
        )
        self._set_plan()
        cells = {"dtype": torch.long, "device": self.device}
        self.agent_cells = torch.zeros(num_envs, 2, 2, **cells)
        self.door_open = torch.zeros(num_envs, _DOORS, dtype=torch.bool, device=self.device)

    def _set_plan(self) -> None:
        """The grid: walls, doors, and by code who opens what, who may move where."""
        size, device = self.size, self.device
        half, first, second = size // 2, size // 3, 2 * size // 3
        rows = [first // 2, (first + second) // 2, (second + size) // 2]
        far, near = int(size * 0.8), int(size * 0.2)
        switches = [(far, near), *((row, far) for row in rows)]
        walls = torch.zeros(size, size, dtype=torch.bool, device=device)
        walls[:, half] = True
        walls[[first, second], half:] = True
        doors = [[(row + shift, half) for shift in (-1, 0, 1)] for row in rows]
        self.door_cells = torch.tensor(doors, device=device)
        self.switch_cells = torch.tensor(switches, device=device)
        # Doors are walls while they are closed; the plan is of what always is one.
        self.walls = walls.clone()
        self.walls[self.door_cells[..., 0], self.door_cells[..., 1]] = False
        aims = self._cells.unsqueeze(1) + self._moves
        inside = ((aims >= 0) & (aims < size)).all(-1)
        aims = _grid.codes_of(aims.clamp(0, size - 1), size)
        own = torch.arange(size**2, device=device).unsqueeze(-1)
        # By the doors that are open, as a binary number, door 0 last.
        self._bits = 2 ** torch.arange(_DOORS, device=device)
        states = torch.arange(2**_DOORS, device=device).unsqueeze(-1)
        passable = (~self.walls).flatten().repeat(2**_DOORS, 1)
        codes = _grid.codes_of(self.door_cells, size)
        passable[:, codes] = ((states & self._bits) > 0).unsqueeze(-1)
        free = passable[:, aims] & inside
        self._free = free.flatten(0, 1)
        self._target = torch.where(free, aims, own).flatten()
        near_switch = (self._cells.unsqueeze(1) - self.switch_cells).abs().amax(-1) <= _REACH
        # By code, the first switch that is held, of all four; 4 for none.
        number = torch.arange(4, device=device)
        self._held = torch.where(near_switch, number, 4).amin(-1)
        opens = torch.eye(_DOORS, dtype=torch.bool, device=device)
        every = torch.ones(1, _DOORS, dtype=torch.bool, device=device)
        self._opens = torch.cat([every, opens, ~every])
        row, column = self._cells.unbind(-1)
        self._inside = (column >= size / 2 + 1) & (row <= size // 3 + 1)

    def _situation(self) -> torch.Tensor:
        """Rows of the tables of moves: open doors and cell, ``[B, N]``."""
        doors = (self.door_open * self._bits).sum(-1, keepdim=True)
        return doors * self.size**2 + _grid.codes_of(self.agent_cells, self.size)

    def _allowed(self) -> torch.Tensor:
        return _grid.select(self._free, self._situation())

    def _entries(
        self, terminated: torch.Tensor, truncated: torch.Tensor, **reward: torch.Tensor
    ) -> TensorDictBase:
        codes = _grid.codes_of(self.agent_cells, self.size)
        cells = _grid.joint_observation(self._seen, codes, 2)
        doors = self.door_open.float().unsqueeze(1).expand(-1, 2, -1)
        entries = {"observation": torch.cat([cells, doors], -1)}
        if self.mask_blocked:
            entries["action_mask"] = self._allowed()
            _grid.publish_mask(self, self._mask, entries["action_mask"])
        return _grid.step_entries(self, terminated, truncated, **entries, **reward)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs) -> TensorDictBase:
        reset, tenth = self._all(tensordict), self.size // 10
        self._first("agent_cells", [[tenth + 1] * 2, [tenth] * 2], reset)
        self.door_open = self.door_open & ~reset
        self.steps = torch.where(reset, 0, self.steps)
        return self._entries(torch.zeros_like(reset), torch.zeros_like(reset))

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        action = self._chosen(tensordict)
        codes = _grid.select(self._target, self._situation() * 4 + action)
        self.agent_cells = _grid.select(self._cells, codes)
        held = _grid.select(self._held, codes).amin(-1)
        self.door_open = _grid.select(self._opens, held)
        self.steps = self.steps + 1
        solved = _grid.select(self._inside, codes).all(-1, keepdim=True)
        return self._entries(solved, self.steps >= self.horizon, reward=self._paid(solved))


def _observed(episodes: TensorDictBase) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Cells ``[B, T + 1, 2, 2]`` and open doors ``[B, T + 1, 3]`` of a Secret Room, and its size."""
    _grid.require_observations(episodes)
    width = episodes[OBSERVATION].shape[-1] - _DOORS
    if width % 4:
        raise ValueError(
            f"The observation must have 4 * size + {_DOORS} entries, got {width + _DOORS}."
        )
    first = episodes[OBSERVATION][:, :1, 0, -_DOORS:]
    rest = episodes[next_key(OBSERVATION)][:, :, 0, -_DOORS:]
    cells = _grid.observed_cells(episodes, 2, width // 4)
    return cells, torch.cat([first, rest], 1) > 0.5, width // 4


def cmae_secret_room_metrics(episodes: TensorDictBase) -> dict[str, torch.Tensor]:
    """Figures of merit of Secret Room by CMAE's rules, episodes ``[B, T]`` -> scalars.

    What comes after an episode's end does not count.

    Args:
        episodes: complete episodes of :class:`CMAESecretRoom`.

    Returns:
        ``success_rate``: share of the episodes that are solved; ``doors_opened``: closed doors
        that open, mean over the episodes.

    Raises:
        KeyError: if the episodes hold no observations.
        ValueError: if the observations are not those of this game.

    Examples:
        >>> metrics = cmae_secret_room_metrics(CMAESecretRoom(3).rollout(2))
        >>> {name: float(value) for name, value in metrics.items()}
        {'success_rate': 0.0, 'doors_opened': 0.0}
    """
    _, doors, _ = _observed(episodes)
    runs = _grid.running(episodes)
    opened = (doors[:, 1:] & ~doors[:, :-1]).sum(-1) * runs
    solved = episodes[next_key(TERMINATED)].squeeze(-1) & runs
    return {
        "success_rate": solved.any(1).float().mean(),
        "doors_opened": opened.sum(1).float().mean(),
    }


def draw_cmae_secret_room(episode: TensorDictBase, *, cell: int = 16) -> list[Image]:
    """Frames of one episode ``[T]`` of :class:`CMAESecretRoom`, from its first state to its last.

    Walls are dark, closed doors red, switches yellow, the target region light green.

    Args:
        episode: it is drawn to its end, and not beyond.
        cell: edge of a cell, pixels.

    Returns:
        A picture for each state, one more than the episode has steps.

    Raises:
        ImportError: if Pillow is not installed; the extra is named.
    """
    episode = _grid.first_episode(episode)
    cells, doors, size = _observed(episode)
    game = CMAESecretRoom(size=size)
    solved = bool(episode[next_key(TERMINATED)][0, -1])
    exploring = _grid.exploring_agents(episode, 2)

    def frame(step: int) -> Image:
        last = step == cells.shape[1] - 1
        board = _grid.Board(size, cell, f"step {step}" + "  solved" * (last and solved))
        board.fill(game._cells[game._inside], "#ddeedd")
        board.fill(game.walls.nonzero(), _grid.WALL_COLOR)
        for door, door_open in zip(game.door_cells, doors[0, step].tolist(), strict=True):
            board.fill(door, "#cceecc" if door_open else "#aa3333")
        board.fill(game.switch_cells, "#eebb00")
        board.draw_agents(cells[0, : step + 1], exploring[step])
        return board.image

    return [frame(step) for step in range(cells.shape[1])]
