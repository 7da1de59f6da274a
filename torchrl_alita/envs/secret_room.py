"""Secret Room: two agents open doors for each other.

Source: Sec. 4.1.2 of https://arxiv.org/abs/2108.12581, with the rules of
https://arxiv.org/abs/1910.05512 as its authors' code plays them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.envs import EnvBase

from torchrl_alita._checks import require_keys
from torchrl_alita._settings import Settings
from torchrl_alita.data import CountCodes
from torchrl_alita.envs import _grid
from torchrl_alita.envs.cmae import (
    CMAESecretRoom,
    cmae_secret_room_metrics,
    draw_cmae_secret_room,
)
from torchrl_alita.envs.registry import Task, register_task
from torchrl_alita.layout import ACTION, DONE, OBSERVATION, TERMINATED, next_key
from torchrl_alita.metrics.exploration import Coverage, OneHotCells, VisitMap

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "SecretRoom",
    "SecretRoomEvents",
    "SecretRoomSettings",
    "draw_secret_room",
    "secret_room_events",
    "secret_room_metrics",
    "secret_room_task",
]

STARTS = ("large_room", "corner")
_ROOMS = 3
_LEAST_SIZE = 10


class SecretRoom(_grid.GridState, EnvBase):
    r"""Secret Room on a grid, N agents, batched.

    Source: Sec. 4.1.2 of https://arxiv.org/abs/2108.12581: a large room on the left, three
    small rooms on the right, a door to each. A switch in the large room controls all
    doors, one in each small room its own door. The task is solved when all agents are in
    one of the small rooms, the target room. The rules are those of
    https://arxiv.org/abs/1910.05512 and of its code. Agents may share a cell. A step:

    1. The agents move, except into a wall or a closed door.
    2. An open door whose count has reached ``door_steps`` closes; otherwise its count
       rises by 1.
    3. A closed door, one that has just closed too, opens with count 0 if an agent stands
       on its switch or on the large room's. It can be passed in the ``door_steps + 1``
       steps that follow. There is no action to stay, and on the paper's grid no wall
       beside a switch against which an agent could walk to hold it.
    4. When all agents are in the target room, every agent gets the reward and the
       episode terminates.

    A door that closes on an agent does nothing to it: it can walk out to the left or to
    the right, but not into the other cell of the door.

    ``("agents", "observation")`` is ``[B, N, 2N * size]``, the same for each agent: one-hot
    row and column of agent 0, ... agent N-1. With door_bits, three more entries are 1 for
    open doors: the paper's text has them, the code of the rules does not. ``("agents",
    "action")`` is one-hot ``[B, N, 4]``: up (row - 1), right, down, left.
    ``("next", "agents", "reward")`` is ``[B, N, 1]``. The environment draws from its
    ``generator`` and from no other.

    The state is ``agent_cells [B, N, 2]``, ``door_open [B, 3]``, ``door_count [B, 3]`` (of no
    meaning for a closed door) and ``steps [B, 1]``; with the generator's it is what
    ``state_dict()`` holds. The grid is in ``walls [size, size]``, True where nobody can ever
    be, which leaves out the doors, ``door_cells [3, 2, 2]`` and ``switch_cells [4, 2]``, the
    large room's first.

    The grid by size, with divisions rounded down, as the code of the rules has it: a wall
    in column size / 2; to its right, walls in rows size / 3 and 2 (size / 3). Door k is in
    rows s_k - 1 and s_k of the wall's column, s_k = (2k + 1) size / 6; its room's switch is
    (s_k, 4 size / 5). The large room's switch is (4 size / 5, size / 5).

    Args:
        num_envs: B, games played together.
        num_agents: N, 2 to 8. Default: 2, the paper's.
        size: rows, and columns. Default: 25, the paper's. The least is 10: below, a door
            would lie in a wall between two rooms.
        horizon: steps after which an episode is truncated. Default: 300, that of the rules.
        door_steps: at least 0. Default: 8, that of the rules.
        start: ``"large_room"``, each agent in any cell of it, or ``"corner"``, all in (0, 0).
        target_room: 0, 1 or 2, from the top. Default: 0, that of the
            rules.
        door_bits: also observe which doors are open.
        reward: of success. Default: 1000, that of the rules.
        mask_blocked: also write ``("agents", "action_mask")`` ``[B, N, 4]``, False for a
            move into a wall, a closed door or the grid's end.
        device: of the simulation.
        seed: of the generator. Default: one that differs from run to run, whatever
            torch's global seed.

    Raises:
        ValueError: for an argument out of range; in a step, for an action that is not
            one-hot, or masked, with its environment and agent. The state is unchanged.

    Examples:
        On the large room's switch, an agent opens all doors.

        >>> env = SecretRoom(seed=0)
        >>> step = env.reset()
        >>> env.agent_cells = torch.tensor([[[20, 4], [3, 11]]])
        >>> right = torch.eye(4)[1]
        >>> step["agents", "action"] = torch.stack([right, right])[None]
        >>> _ = env.step(step)
        >>> env.door_open.tolist(), env.agent_cells.tolist()
        ([[True, True, True]], [[[20, 5], [3, 11]]])
        >>> _ = env.step(step)
        >>> env.agent_cells.tolist()
        [[[20, 6], [3, 12]]]
    """

    # Its state_dict holds all that shapes the future, see environment_state.
    exact_state = True
    _state = ("agent_cells", "door_open", "door_count", "steps")

    def __init__(
        self,
        num_envs: int = 1,
        *,
        num_agents: int = 2,
        size: int = 25,
        horizon: int = 300,
        door_steps: int = 8,
        start: Literal["large_room", "corner"] = "large_room",
        target_room: int = 0,
        door_bits: bool = False,
        reward: float = 1000.0,
        mask_blocked: bool = False,
        device: torch.device | str = "cpu",
        seed: int | None = None,
    ):
        _grid.check_common(
            num_envs=num_envs,
            num_agents=num_agents,
            horizon=horizon,
            reward=reward,
            mask_blocked=mask_blocked,
        )
        _grid.check_whole(0, door_steps=door_steps)
        _grid.check_whole(0, _ROOMS - 1, target_room=target_room)
        _grid.check_choice("start", start, STARTS)
        _grid.check_whole(_LEAST_SIZE, size=size)
        super().__init__(device=device, batch_size=[num_envs])
        self.num_agents, self.size, self.horizon = num_agents, size, horizon
        self.door_steps, self.start, self.target_room = door_steps, start, target_room
        self.door_bits, self.mask_blocked, self.reward = door_bits, mask_blocked, float(reward)
        self._set_tables()
        width = 2 * num_agents * size + _ROOMS * door_bits
        self._mask = _grid.set_specs(self, observation_size=width, num_actions=len(self._vectors))
        self.generator = torch.Generator(self.device)
        self._set_seed(seed)
        counts = {"dtype": torch.long, "device": self.device}
        self.agent_cells = torch.zeros(num_envs, num_agents, 2, **counts)
        self.door_count = torch.zeros(num_envs, _ROOMS, **counts)
        self.door_open = self.door_count > 0
        self.steps = torch.zeros(num_envs, 1, **counts)

    def _set_tables(self) -> None:
        size, device = self.size, self.device
        self.walls, self.door_cells, self.switch_cells, rooms = _plan(size, device)
        self._inside = rooms[self.target_room].flatten().long()
        self._opens = _opened_by(size, device)
        self._cells = _grid.all_cells(size, device)
        moves = torch.tensor(_grid.MOVES[:4], device=device)
        self._vectors = torch.eye(len(moves), device=device)
        self._seen = _grid.observation_table(size, device)
        target = (self._cells.unsqueeze(1) + moves).clamp(0, size - 1)
        target = _grid.codes_of(target, size)
        own = torch.arange(size**2, device=device).unsqueeze(-1)
        # By the doors that are open, as a binary number, door 0 last.
        self._bits = 2 ** torch.arange(_ROOMS, device=device)
        states = torch.arange(2**_ROOMS, device=device).unsqueeze(-1)
        passable = (~self.walls).flatten().repeat(2**_ROOMS, 1)
        doors = _grid.codes_of(self.door_cells, size)
        passable[:, doors] = ((states & self._bits) > 0).unsqueeze(-1)
        target = torch.where(passable[:, target], target, own)
        self._allowed = (target != own).flatten(0, 1)
        self._target = target.flatten()

    def count_codes(self) -> CountCodes:
        """What is counted in it: each agent's cell, all cells, and moves."""
        return _grid.count_codes(self.size, self.num_agents, box=False, deterministic=False)

    def _set_seed(self, seed: int | None) -> None:
        _grid.set_seed(self.generator, seed)

    def _draw_agents(self) -> torch.Tensor:
        """First cells of the agents, ``[B, N, 2]``."""
        lead = (*self.batch_size, self.num_agents)
        if self.start == "corner":
            return torch.zeros((*lead, 2), dtype=torch.long, device=self.device)
        draws = {"generator": self.generator, "device": self.device}
        row = torch.randint(self.size, lead, **draws)
        column = torch.randint(self.size // 2, lead, **draws)
        return torch.stack([row, column], -1)

    def _situation(self, agents: torch.Tensor) -> torch.Tensor:
        """Rows of the tables of moves: open doors and cell, ``[B, N] -> [B, N]``."""
        doors = (self.door_open * self._bits).sum(-1, keepdim=True)
        return doors * self.size**2 + agents

    def _entries(
        self,
        agents: torch.Tensor,
        terminated: torch.Tensor,
        truncated: torch.Tensor,
        **reward: torch.Tensor,
    ) -> TensorDictBase:
        """Entries of a state, of which the agents' codes ``[B, N]`` are given."""
        observation = _grid.joint_observation(self._seen, agents, self.num_agents)
        if self.door_bits:
            doors = self.door_open.float().unsqueeze(-2).expand(-1, self.num_agents, -1)
            observation = torch.cat([observation, doors], -1)
        entries = {"observation": observation}
        if self.mask_blocked:
            entries["action_mask"] = _grid.select(self._allowed, self._situation(agents))
            _grid.publish_mask(self, self._mask, entries["action_mask"])
        return _grid.step_entries(self, terminated, truncated, **entries, **reward)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs) -> TensorDictBase:
        reset = None if tensordict is None else tensordict.get("_reset", None)
        if reset is None:
            reset = torch.ones_like(self.steps, dtype=torch.bool)
        first = self._draw_agents()
        self.agent_cells = torch.where(reset.unsqueeze(-1), first, self.agent_cells)
        self.door_open = self.door_open & ~reset
        self.door_count = torch.where(reset, 0, self.door_count)
        self.steps = torch.where(reset, 0, self.steps)
        agents = _grid.codes_of(self.agent_cells, self.size)
        return self._entries(agents, torch.zeros_like(reset), torch.zeros_like(reset))

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        lead = (*self.batch_size, self.num_agents)
        action = _grid.chosen_actions(tensordict.get(ACTION), self._vectors, lead)
        situation = self._situation(_grid.codes_of(self.agent_cells, self.size))
        if self.mask_blocked:
            _grid.check_allowed(action, _grid.select(self._allowed, situation))
        agents = _grid.select(self._target, situation * len(self._vectors) + action)
        self.agent_cells = _grid.select(self._cells, agents)
        held = _grid.select(self._opens, agents).sum(1) > 0
        doors = _turned(self.door_open, self.door_count, held, self.door_steps)
        self.door_open, self.door_count = doors
        self.steps = self.steps + 1
        inside = _grid.select(self._inside, agents).sum(-1, keepdim=True)
        solved = inside == self.num_agents
        reward = (self.reward * solved).unsqueeze(-1).repeat(1, self.num_agents, 1)
        return self._entries(agents, solved, self.steps >= self.horizon, reward=reward)

    def _restore(self, state: dict[str, torch.Tensor]) -> None:
        super()._restore(state)
        if self.mask_blocked:
            agents = _grid.codes_of(self.agent_cells, self.size)
            allowed = _grid.select(self._allowed, self._situation(agents))
            _grid.publish_mask(self, self._mask, allowed)


class _Plan(NamedTuple):
    """The grid: ``[size, size]``, ``[3, 2, 2]``, ``[4, 2]`` and ``[3, size, size]``."""

    walls: torch.Tensor
    door_cells: torch.Tensor
    switch_cells: torch.Tensor
    rooms: torch.Tensor


def _plan(size: int, device: torch.device | str) -> _Plan:
    column, far = size // 2, 4 * size // 5
    rows = [(2 * room + 1) * size // 6 for room in range(_ROOMS)]
    doors = [[(row - 1, column), (row, column)] for row in rows]
    switches = [(far, size // 5), *((row, far) for row in rows)]
    between = [size // 3, 2 * (size // 3)]
    walls = torch.zeros(size, size, dtype=torch.bool, device=device)
    walls[:, column] = True
    walls[between, column:] = True
    ends = [-1, *between, size]
    rooms = torch.zeros(_ROOMS, size, size, dtype=torch.bool, device=device)
    for room in range(_ROOMS):
        walls[[row for row, _ in doors[room]], column] = False
        rooms[room, ends[room] + 1 : ends[room + 1], column + 1 :] = True
    cells = {"dtype": torch.long, "device": device}
    return _Plan(walls, torch.tensor(doors, **cells), torch.tensor(switches, **cells), rooms)


def _opened_by(size: int, device: torch.device | str) -> torch.Tensor:
    """By cell's code, 1 for the doors that a switch there opens, ``[size**2, 3]``."""
    large, *own = _grid.codes_of(_plan(size, device).switch_cells, size).tolist()
    opens = torch.zeros(size**2, _ROOMS, dtype=torch.long, device=device)
    opens[large] = 1
    opens[own, range(_ROOMS)] = 1
    return opens


def _turned(
    door_open: torch.Tensor, door_count: torch.Tensor, held: torch.Tensor, door_steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Doors and their counts after a step that leaves ``held [B, 3]`` switches occupied."""
    stays = door_open & (door_count < door_steps)
    return stays | held, torch.where(held & ~stays, 0, door_count + stays)


def _observed_agents(episodes: TensorDictBase) -> tuple[torch.Tensor, int]:
    """Cells from the first state on, ``[B, T] -> [B, T + 1, N, 2]``, and the grid's size."""
    _grid.require_observations(episodes)
    num_agents, width = episodes[OBSERVATION].shape[-2:]
    # The doors' three entries are fewer than two for each of two agents.
    size, rest = divmod(width, 2 * num_agents)
    if rest not in (0, _ROOMS):
        raise ValueError(
            f"The observation must have 2N * size entries, or {_ROOMS} more, got {width} for "
            f"{num_agents} agents."
        )
    return _grid.observed_cells(episodes, num_agents, size), size


def _replayed_doors(cells: torch.Tensor, size: int, door_steps: int) -> torch.Tensor:
    """Which doors are open in each state, ``[B, T + 1, N, 2] -> [B, T + 1, 3]``.

    An episode begins with all doors closed, and what the doors do depends on nothing but
    the agents' cells after each step.
    """
    codes = _grid.codes_of(cells, size)
    held = _grid.select(_opened_by(size, cells.device), codes).sum(2) > 0
    count = torch.zeros_like(held[:, 0], dtype=torch.long)
    states = [torch.zeros_like(held[:, 0])]
    for step in range(1, held.shape[1]):
        door_open, count = _turned(states[-1], count, held[:, step], door_steps)
        states.append(door_open)
    return torch.stack(states, 1)


def secret_room_metrics(
    episodes: TensorDictBase, *, door_steps: int = 8
) -> dict[str, torch.Tensor]:
    """Figures of merit of Secret Room, episodes ``[B, T]`` -> scalars.

    What comes after an episode's end does not count.

    Args:
        episodes: from their first steps on.
        door_steps: of the environment. Default: 8.

    Returns:
        ``success_share``: share of the episodes in which all agents came to the target
        room. ``steps_to_success``: steps until then, mean over the episodes; one without
        success counts with its length. ``doors_opened``: how often a door that was closed
        after a step was open after the next, mean over the episodes; the large room's
        switch opens three at once.

    Raises:
        KeyError: if the episodes hold no observations.
        ValueError: if the observations are not those of Secret Room.

    Examples:
        >>> metrics = secret_room_metrics(SecretRoom(3, seed=0).rollout(5))
        >>> float(metrics["success_share"]), float(metrics["steps_to_success"])
        (0.0, 5.0)
    """
    cells, size = _observed_agents(episodes)
    running = _grid.running(episodes)
    success = (episodes[next_key(TERMINATED)].squeeze(-1) & running).any(1)
    doors = _replayed_doors(cells, size, door_steps)
    opened = (doors[:, 1:] & ~doors[:, :-1]).sum(-1) * running
    return {
        "success_share": success.float().mean(),
        "steps_to_success": running.sum(1).float().mean(),
        "doors_opened": opened.sum(1).float().mean(),
    }


def draw_secret_room(
    episode: TensorDictBase, *, door_steps: int = 8, target_room: int = 0, cell: int = 12
) -> list[Image]:
    """Frames of one episode ``[T]``, from its first state to its last.

    Walls are dark, closed doors red and open ones light green, switches yellow, the target
    room green; agents are in color with a trail, and ringed in a step in which they
    explore, if ``"exploring"`` or ``("agents", "exploring")`` says so.

    Args:
        episode: from its first step on; it is drawn to its end, and not beyond.
        door_steps: of the environment. Default: 8.
        target_room: of the environment. Default: 0.
        cell: edge of a cell, pixels.

    Returns:
        A picture for each state, one more than the episode has steps.

    Raises:
        ImportError: if Pillow is not installed; the extra is named.
    """
    episode = _grid.first_episode(episode)
    cells, size = _observed_agents(episode)
    doors = _replayed_doors(cells, size, door_steps)[0].tolist()
    plan = _plan(size, "cpu")
    exploring = _grid.exploring_agents(episode, cells.shape[2])
    solved = bool(episode[next_key(TERMINATED)][0, -1])

    def frame(step: int) -> Image:
        last = step == len(doors) - 1
        board = _grid.Board(size, cell, f"step {step}" + "  solved" * (last and solved))
        board.fill(plan.rooms[target_room].nonzero(), "#ddeedd")
        board.fill(plan.walls.nonzero(), _grid.WALL_COLOR)
        for door, door_open in zip(plan.door_cells, doors[step], strict=True):
            board.fill(door, "#cceecc" if door_open else "#aa3333")
        board.fill(plan.switch_cells, "#eebb00")
        board.draw_agents(cells[0, : step + 1], exploring[step])
        return board.image

    return [frame(step) for step in range(len(doors))]


class SecretRoomEvents(TensorDictModuleBase):
    """What happened to the doors of :class:`SecretRoom`, ``[B, T]`` -> scalars.

    Writes totals of what was seen so far. ``switches_pressed``: switches on which an agent
    comes to stand where no agent stood before the step; ``doors_opened``: closed doors that
    open. Doors are followed from the agents' cells, so that they need not be observed, from
    one batch to the next: batches must be consecutive, and the first must begin with an
    episode.

    Args:
        env: the environment, with transforms or without; only its sizes and grid are read.

    Raises:
        ValueError: if a batch is not of ``[B, T]``, with the environment's B.
        KeyError: if a key is missing; the keys present are named.

    Examples:
        >>> env = SecretRoom(num_envs=3, seed=0)
        >>> logs = SecretRoomEvents(env)(env.rollout(7))
        >>> sorted(logs.keys())
        ['doors_opened', 'switches_pressed']
    """

    def __init__(self, env: EnvBase):
        super().__init__()
        env = getattr(env, "base_env", env)
        self.door_steps = env.door_steps
        bits = len(env.door_cells) * env.door_bits
        self.cells = OneHotCells([env.size] * 2 * env.num_agents, rest=bits)
        self.in_keys = [OBSERVATION, next_key(OBSERVATION), next_key(DONE)]
        self.out_keys = ["switches_pressed", "doors_opened"]
        self.register_buffer("totals", torch.zeros(len(self.out_keys), dtype=torch.float64))
        self.register_buffer("switch_cells", env.switch_cells.clone(), persistent=False)
        # Steps that each door stays open yet.
        left = torch.zeros(env.batch_size[0], len(env.switch_cells) - 1, dtype=torch.long)
        self.register_buffer("left", left)

    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        require_keys(tensordict, self.in_keys)
        if tensordict.ndim != 2 or len(tensordict) != len(self.left):
            raise ValueError(
                f"The batch must be [{len(self.left)}, T], got {list(tensordict.batch_size)}."
            )
        before, after = (self._held(tensordict.get(key)) for key in self.in_keys[:2])
        self.totals[0] += (after & ~before).sum()
        # A switch opens its own door, and the first one all of them.
        opens = after[..., :1] | after[..., 1:]
        done = tensordict.get(self.in_keys[2])
        # How long a door is open depends on when it opened: a recurrence over the steps.
        for step in range(tensordict.batch_size[1]):
            self.totals[1] += self._turn_doors(opens[:, step])
            self.left.masked_fill_(done[:, step], 0)
        return self.metrics()

    def metrics(self) -> TensorDict:
        """The scalars of what was seen so far."""
        return TensorDict(dict(zip(self.out_keys, self.totals.clone(), strict=True)))

    def _held(self, observation: torch.Tensor) -> torch.Tensor:
        """Switches with an agent on them, ``[*B, N, O] -> [*B, 4]``."""
        cells = self.cells(observation[..., 0, :]).unflatten(-1, (-1, 1, 2))
        return (cells == self.switch_cells).all(-1).any(-2)

    def _turn_doors(self, opens: torch.Tensor) -> torch.Tensor:
        """One step of the doors with a switch held, ``[B, 3]``; how many open."""
        was_open = self.left > 0
        # An open door does not mind its switch until its time is over.
        stays = self.left > 1
        left = torch.where(stays, self.left - 1, 0)
        self.left.copy_(torch.where(opens & ~stays, self.door_steps + 1, left))
        return (opens & ~was_open).sum()


def secret_room_events(env: EnvBase, *, max_cells: int = 2**24) -> list[TensorDictModuleBase]:
    """What is counted in Secret Room: joint states, a map of visits, switches and doors.

    Args:
        env: a :class:`SecretRoom`, with transforms or without.
        max_cells: numbers kept of joint states; see
            :class:`torchrl_alita.metrics.Coverage`. Default: 2**24.

    Returns:
        Parts of :func:`torchrl_alita.metrics.exploration_metrics`.

    Examples:
        >>> coverage, *_ = secret_room_events(SecretRoom(num_envs=3, seed=0))
        >>> coverage.possible
        338724
    """
    game = getattr(env, "base_env", env)
    num_agents, size = game.num_agents, game.size
    bits = [1] * (len(game.door_cells) * game.door_bits)
    free = int((~game.walls).sum())
    coverage = Coverage(
        OneHotCells([size] * 2 * num_agents + bits),
        possible=free**num_agents * 2 ** len(bits),
        max_cells=max_cells,
    )
    cells = OneHotCells([size] * 2 * num_agents, rest=len(bits))
    return [coverage, VisitMap(cells, num_agents=num_agents), SecretRoomEvents(game)]


@dataclass(frozen=True, kw_only=True)
class SecretRoomSettings(Settings):
    """What a task of Secret Room can set; see :class:`SecretRoom` and :class:`CMAESecretRoom`.

    Raises:
        ValueError: for a setting that the chosen rules do not have.
    """

    rules: Literal["edti", "cmae"] = "edti"
    """Those of EDTI, with which the paper's results were made, or CMAE's: wider doors without
    delay, fixed starts, a reward of 1. Their figures must not be mixed."""
    size: int = 25
    """Rows, and columns (the paper: 25)."""
    door_steps: int = 8
    """Steps that a door stays open after it has opened, less one (the rules: 8)."""
    start: Literal["large_room", "corner"] = "large_room"
    """Where agents begin: each in any cell of the large room, or all in its corner."""
    target_room: int = 0
    """The room in which the task is solved, 0, 1 or 2, from the top."""
    door_bits: bool = False
    """Also observe which doors are open."""
    reward: float | None = None
    """Of success. Default: 1000 by EDTI's rules, and 1 by CMAE's."""
    mask_blocked: bool = False
    """Forbid moves into a wall, a closed door or the grid's end."""

    def __post_init__(self):
        super().__post_init__()
        own = (self.door_steps, self.start, self.target_room, self.door_bits)
        if self.rules == "cmae" and own != (8, "large_room", 0, False):
            raise ValueError(
                "door_steps, start, target_room and door_bits are of EDTI's rules, got "
                f"{own} with rules='cmae'."
            )


def secret_room_task(settings: SecretRoomSettings | None = None) -> Task:
    """Secret Room as a task of the training loop.

    With the defaults it is registered as ``"secret_room"``, by CMAE's rules as
    ``"secret_room_cmae"``.

    Args:
        settings: Default: those of :class:`SecretRoomSettings`.

    Returns:
        A :class:`torchrl_alita.envs.Task`, with :func:`secret_room_metrics`,
        :func:`draw_secret_room` and :func:`secret_room_events`.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env(secret_room_task(SecretRoomSettings(target_room=2)), horizon=100)
        >>> env.target_room, env.horizon
        (2, 100)
    """
    settings = settings or SecretRoomSettings()
    doors = {"door_steps": settings.door_steps}
    if settings.rules == "cmae":
        return Task(
            make=_make,
            metrics=cmae_secret_room_metrics,
            draw=draw_cmae_secret_room,
            settings=settings,
            n_agents=2,
            horizon=300,
            events=_cmae_events,
            configure=secret_room_task,
        )
    return Task(
        make=_make,
        metrics=partial(secret_room_metrics, **doors),
        draw=partial(draw_secret_room, target_room=settings.target_room, **doors),
        settings=settings,
        n_agents=2,
        horizon=300,
        events=secret_room_events,
        configure=secret_room_task,
    )


def _make(
    *,
    num_envs: int,
    n_agents: int,
    device: torch.device | str,
    seed: int | None,
    horizon: int,
    settings: SecretRoomSettings,
) -> SecretRoom | CMAESecretRoom:
    options = asdict(settings)
    options = {name: value for name, value in options.items() if value is not None}
    options |= {"horizon": horizon, "device": device, "seed": _grid.seed_of_task(seed)}
    if options.pop("rules") == "edti":
        return SecretRoom(num_envs, num_agents=n_agents, **options)
    if n_agents != 2:
        raise ValueError(f"By CMAE's rules there are 2 agents, got n_agents={n_agents}.")
    for name in ("door_steps", "start", "target_room", "door_bits"):
        del options[name]
    return CMAESecretRoom(num_envs, **options)


def _cmae_events(env: EnvBase) -> list[TensorDictModuleBase]:
    """Joint states and a map of visits: doors and successes are in the metrics."""
    game = getattr(env, "base_env", env)
    cells = OneHotCells([game.size] * 4, rest=3)
    possible = int((~game.walls).sum()) ** 2
    return [Coverage(cells, possible=possible), VisitMap(cells, num_agents=2)]


register_task("secret_room", secret_room_task())
register_task("secret_room_cmae", secret_room_task(SecretRoomSettings(rules="cmae")))
