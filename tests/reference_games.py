"""Push-Box and Secret Room in plain Python, one game at a time, and scripted play of them.

Source: the rules of https://arxiv.org/abs/1910.05512 as its authors' code plays them. Nothing
here is shared with the package: the games are written a second time, with integers, lists and
tuples, so that the batched environments can be held against them. A cell is (row, column).
"""

from __future__ import annotations

from collections import Counter, deque
from functools import lru_cache
from random import Random

Cell = tuple[int, int]

UP, RIGHT, DOWN, LEFT, STAY = range(5)
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1), (0, 0))


def moved(cell: Cell, action: int, first: int, last: int) -> Cell:
    """The cell that an action aims at, clipped to the square from first to last."""
    row, column = (x + dx for x, dx in zip(cell, MOVES[action], strict=True))
    return min(max(row, first), last), min(max(column, first), last)


def one_hots(cells: list[Cell], size: int) -> list[float]:
    """Row and column of each cell as one-hot vectors, one after the other."""
    vectors = []
    for cell in cells:
        for x in cell:
            vectors += [0.0] * x + [1.0] + [0.0] * (size - 1 - x)
    return vectors


class ReferencePushBox:
    """Push-Box: N agents push a box to a wall.

    Rows and columns 0 and ``size - 1`` are walls, which the box can reach and the agents
    cannot. ``seen`` counts what happened since the game was made, over all episodes.

    Args:
        num_agents: N.
        size: rows, and columns, walls included.
        horizon: steps after which an episode is truncated.
        respawn: a delivered box is replaced; else it ends the episode.
        pushes_needed: by how many votes one direction must exceed the opposite one.
        reward: of each wall that the box touches, to each agent.

    Examples:
        >>> game = ReferencePushBox(size=5, respawn=False)
        >>> _ = game.reset([(3, 2), (3, 2)], (2, 2))
        >>> game.step([UP, UP])[1:], game.box, game.agents
        ((0.0, False, False), (1, 2), [(2, 2), (2, 2)])
        >>> game.step([UP, UP])[1:], game.box, game.agents
        ((1000.0, True, False), (0, 2), [(1, 2), (1, 2)])
    """

    def __init__(
        self,
        num_agents: int = 2,
        size: int = 15,
        horizon: int = 300,
        respawn: bool = True,
        pushes_needed: int = 2,
        reward: float = 1000.0,
    ):
        self.num_agents, self.size, self.horizon = num_agents, size, horizon
        self.respawn, self.pushes_needed, self.reward = respawn, pushes_needed, reward
        self.seen = Counter()

    def reset(self, agent_cells: list[Cell], box_cell: Cell) -> list[float]:
        """Starts an episode with the agents and the box in the given cells."""
        self.agents, self.box, self.steps = list(agent_cells), box_cell, 0
        return self.observation()

    def observation(self) -> list[float]:
        """One-hots of row and column of each agent, then of the box: (2N + 2) * size."""
        return one_hots([*self.agents, self.box], self.size)

    def step(
        self, actions: list[int], respawn_cell: Cell | None = None
    ) -> tuple[list[float], float, bool, bool]:
        """One step: observation, reward of each agent, terminated, truncated.

        ``respawn_cell`` is where a new box lies if this step delivers one; then it is needed.
        """
        last = self.size - 2
        aims = [moved(c, a, 1, last) for c, a in zip(self.agents, actions, strict=True)]
        votes = [0] * len(MOVES)
        for cell, aim, action in zip(self.agents, aims, actions, strict=True):
            self.seen["at a wall"] += aim == cell and action != STAY
            if aim == self.box and cell != self.box:
                votes[action] += 1
        before = self.box
        self._push(votes)
        self.seen["kept out of the new cell"] += before != self.box and self.box in aims
        pairs = zip(self.agents, aims, strict=True)
        self.agents = [cell if aim == self.box else aim for cell, aim in pairs]
        walls = sum(x in (0, self.size - 1) for x in self.box)
        self.seen["delivered"] += walls > 0
        self.seen["delivered in a corner"] += walls == 2
        if walls and self.respawn:
            if respawn_cell is None:
                raise ValueError("respawn_cell must be given: this step delivers a box.")
            self.box = respawn_cell
        self.steps += 1
        truncated = self.steps >= self.horizon
        self.seen["truncated"] += truncated
        return self.observation(), self.reward * walls, walls > 0 and not self.respawn, truncated

    def _push(self, votes: list[int]) -> None:
        down, right = votes[DOWN] - votes[UP], votes[RIGHT] - votes[LEFT]
        row = self.box[0] + (abs(down) >= self.pushes_needed) * (1 if down > 0 else -1)
        column = self.box[1] + (abs(right) >= self.pushes_needed) * (1 if right > 0 else -1)
        self.seen["opposed"] += min(votes[DOWN], votes[UP]) + min(votes[RIGHT], votes[LEFT])
        self.seen["too few"] += sum(votes) > 0 and (row, column) == self.box
        if (row, column) == self.box:
            return
        if (row, column) in self.agents:
            self.seen["blocked"] += 1
            return
        self.seen["pushed"] += 1
        self.seen["pushed diagonally"] += row != self.box[0] and column != self.box[1]
        self.box = (row, column)


class ReferenceSecretRoom:
    """Secret Room: N agents meet in one of three rooms behind doors that switches open.

    Column 12 and, to its right, rows 8 and 16 are walls. Each of the three rooms on the
    right has a door of two cells in column 12 and a switch; the switch of the large room
    on the left opens all three. ``seen`` counts what happened, over all episodes.

    Args:
        num_agents: N.
        size: rows, and columns; 25.
        horizon: steps after which an episode is truncated.
        door_steps: count of steps at which an open door closes.
        target_room: where the agents must meet: 0 above, 1 in the middle, 2 below.
        door_bits: the observation tells which doors are open.
        reward: of the meeting, to each agent.

    Examples:
        >>> game = ReferenceSecretRoom()
        >>> _ = game.reset([(20, 4), (4, 11)])
        >>> _ = game.step([RIGHT, UP])
        >>> game.open, game.agents
        ([True, True, True], [(20, 5), (3, 11)])
        >>> _ = game.step([UP, RIGHT])
        >>> game.agents
        [(19, 5), (3, 12)]
    """

    DOORS = (((3, 12), (4, 12)), ((11, 12), (12, 12)), ((19, 12), (20, 12)))
    LARGE_SWITCH = (20, 5)
    SWITCHES = ((4, 20), (12, 20), (20, 20))
    ROOMS = (range(0, 8), range(9, 16), range(17, 25))

    def __init__(
        self,
        num_agents: int = 2,
        size: int = 25,
        horizon: int = 300,
        door_steps: int = 8,
        target_room: int = 0,
        door_bits: bool = False,
        reward: float = 1000.0,
    ):
        if size != 25:
            raise ValueError(f"size must be 25 here, got {size}.")
        self.num_agents, self.size, self.horizon = num_agents, size, horizon
        self.door_steps, self.target_room = door_steps, target_room
        self.door_bits, self.reward = door_bits, reward
        self.seen = Counter()

    def reset(self, agent_cells: list[Cell]) -> list[float]:
        """Starts an episode with the agents in the given cells and all doors closed."""
        self.agents, self.steps = list(agent_cells), 0
        self.open, self.count = [False] * 3, [0] * 3
        return self.observation()

    def observation(self) -> list[float]:
        """One-hots of row and column of each agent, then the doors if they are shown."""
        doors = [float(door) for door in self.open] if self.door_bits else []
        return one_hots(self.agents, self.size) + doors

    def step(self, actions: list[int]) -> tuple[list[float], float, bool, bool]:
        """One step: observation, reward of each agent, terminated, truncated."""
        self.agents = [self._move(c, a) for c, a in zip(self.agents, actions, strict=True)]
        for door in range(3):
            self._turn(door)
        self.steps += 1
        success = all(self.room(cell) == self.target_room for cell in self.agents)
        truncated = self.steps >= self.horizon
        self.seen["success"] += success
        self.seen["truncated"] += truncated
        return self.observation(), self.reward * success, success, truncated

    def room(self, cell: Cell) -> int | None:
        """Number of the small room that holds a cell, None elsewhere."""
        if cell[1] <= 12:
            return None
        return next((k for k, rows in enumerate(self.ROOMS) if cell[0] in rows), None)

    def door(self, cell: Cell) -> int | None:
        """Number of the door that a cell is part of, None elsewhere."""
        return next((k for k, cells in enumerate(self.DOORS) if cell in cells), None)

    def is_wall(self, cell: Cell) -> bool:
        """Whether a cell is wall, doors apart."""
        row, column = cell
        if self.door(cell) is not None:
            return False
        return column == 12 or (column > 12 and row in (8, 16))

    def _move(self, cell: Cell, action: int) -> Cell:
        aim, here, door = moved(cell, action, 0, self.size - 1), self.door(cell), None
        if not self.is_wall(aim):
            door = self.door(aim)
        if self.is_wall(aim) or (door is not None and not self.open[door]):
            self.seen["at a wall"] += door is None
            self.seen["at a closed door"] += door is not None and here is None
            self.seen["along a closed door"] += here is not None and here == door
            return cell
        self.seen["out of a closed door"] += here is not None and not self.open[here]
        self.seen["through an open door"] += here is not None and aim[1] == 13
        return aim

    def _turn(self, door: int) -> None:
        closes = self.open[door] and self.count[door] >= self.door_steps
        if closes:
            self.open[door] = False
            self.seen["closed on an agent"] += any(c in self.DOORS[door] for c in self.agents)
        elif self.open[door]:
            self.count[door] += 1
        occupied = {self.LARGE_SWITCH, self.SWITCHES[door]} & set(self.agents)
        if occupied and not self.open[door]:
            self.open[door], self.count[door] = True, 0
            self.seen["held open"] += closes
            self.seen["opened by its own switch"] += self.LARGE_SWITCH not in occupied
            self.seen["opened"] += 1
        self.seen["closed"] += closes and not self.open[door]


def shortest_deliveries(size: int = 15) -> dict[tuple[Cell, Cell], tuple[int, int]]:
    """Shortest-time play of two agents in one cell: (their cell, the box's) -> (steps, action).

    Two votes for one direction come from one cell, so that a pair that starts in one cell
    loses nothing by staying together. Found by breadth-first search backwards from the steps
    that deliver the box.

    Examples:
        At its right side, three pushes bring a box from column 3 to column 0.

        >>> shortest_deliveries()[(5, 4), (5, 3)] == (3, LEFT)
        True
    """
    inner = range(1, size - 1)
    plan, queue = {}, deque()

    def reached(pair: Cell, box: Cell, steps: int, action: int) -> None:
        inside = pair[0] in inner and pair[1] in inner
        if inside and pair != box and (pair, box) not in plan:
            plan[pair, box] = (steps, action)
            queue.append((pair, box))

    for k in inner:
        reached((2, k), (1, k), 1, UP)
        reached((k, size - 3), (k, size - 2), 1, RIGHT)
        reached((size - 3, k), (size - 2, k), 1, DOWN)
        reached((k, 2), (k, 1), 1, LEFT)
    while queue:
        pair, box = queue.popleft()
        steps = plan[pair, box][0] + 1
        for action, (down, right) in enumerate(MOVES[:4]):
            before = (pair[0] - down, pair[1] - right)
            reached(before, box, steps, action)
            if box == (pair[0] + down, pair[1] + right):
                reached(before, pair, steps, action)
    return plan


def after_delivery(plan: dict, pair: Cell, box: Cell) -> Cell:
    """Where the pair stands when the plan has brought its box to the wall."""
    steps = plan[pair, box][0]
    for _ in range(steps):
        down, right = MOVES[plan[pair, box][1]]
        pair = (pair[0] + down, pair[1] + right)
        if pair == box:
            box = (box[0] + down, box[1] + right)
    return pair


def deliveries_of_an_episode(plan: dict, size: int = 15, horizon: int = 300) -> tuple[float, float]:
    """Exact mean and variance of the boxes that the plan delivers from the corner (1, 1).

    Boxes are uniform in ``[4, size - 4]^2``. The plan leaves the pair beside a wall, outside
    of that square, so that every cell of it is free for the next box.
    """
    cells = [(row, column) for row in range(4, size - 3) for column in range(4, size - 3)]
    legs, new = {}, {(1, 1)}
    while new:
        for pair in new:
            legs[pair] = [(plan[pair, box][0], after_delivery(plan, pair, box)) for box in cells]
        new = {end for leg in legs.values() for _, end in leg} - set(legs)
    # Two moments of the boxes delivered from each cell in 0, 1, ... steps.
    moments = {pair: [(0.0, 0.0)] for pair in legs}
    for t in range(1, horizon + 1):
        for pair, leg in legs.items():
            rest = [moments[end][t - steps] for steps, end in leg if steps <= t]
            first = sum(1 + mean for mean, _ in rest) / len(cells)
            second = sum(1 + 2 * mean + square for mean, square in rest) / len(cells)
            moments[pair].append((first, second))
    mean, square = moments[1, 1][horizon]
    return mean, square - mean**2


class PushingTeam:
    """Play in which boxes move: agents walk to sides of the box and push, with errors.

    For some dozens of steps each agent keeps to one side: all to the same, to opposite ones,
    to sides that cross, or to any. A patient team pushes when all are there; an idle agent
    stands at its side and does not push, so that it can be in the way.
    """

    def __init__(self, rng: Random, error: float = 0.05):
        self.rng, self.error, self.left = rng, error, 0

    def __call__(self, game: ReferencePushBox) -> list[int]:
        """One action for each agent."""
        if self.left == 0:
            self._choose(game.num_agents)
        self.left -= 1
        pairs = zip(game.agents, self.pushes, strict=True)
        ready = all(cell == self._side(game.box, push) for cell, push in pairs)
        return [self._act(game, agent, ready) for agent in range(game.num_agents)]

    def _choose(self, num_agents: int) -> None:
        push, kind = self.rng.randrange(4), self.rng.randrange(4)
        turn = (0, 2, self.rng.choice((1, 3)))[kind] if kind < 3 else None
        self.pushes = [
            self.rng.randrange(4) if turn is None else (push + turn * (agent % 2)) % 4
            for agent in range(num_agents)
        ]
        self.idle = self.rng.randrange(2 * num_agents)
        self.patient = self.rng.random() < 0.5
        self.left = self.rng.randrange(20, 60)

    def _side(self, box: Cell, push: int) -> Cell:
        return box[0] - MOVES[push][0], box[1] - MOVES[push][1]

    def _act(self, game: ReferencePushBox, agent: int, ready: bool) -> int:
        cell, push = game.agents[agent], self.pushes[agent]
        side = self._side(game.box, push)
        if self.rng.random() < self.error:
            return self.rng.randrange(5)
        if cell == side:
            return STAY if agent == self.idle or (self.patient and not ready) else push
        aims = {action: moved(cell, action, 1, game.size - 2) for action in range(4)}
        free = [action for action, aim in aims.items() if aim != game.box]
        nearer = [a for a in free if _distance(aims[a], side) < _distance(cell, side)]
        return self.rng.choice(nearer or free)


def _distance(a: Cell, b: Cell) -> int:
    return abs(a[0] - b[0]) + abs(a[1] - b[1])


@lru_cache
def steps_to(goal: Cell) -> dict[Cell, int]:
    """Steps from each cell of the Secret Room to the goal when all doors are open."""
    game, steps, queue = ReferenceSecretRoom(), {goal: 0}, deque([goal])
    while queue:
        cell = queue.popleft()
        for action in range(4):
            other = moved(cell, action, 0, game.size - 1)
            if other not in steps and not game.is_wall(other):
                steps[other] = steps[cell] + 1
                queue.append(other)
    return steps


def towards(goal: Cell, cell: Cell, rng: Random) -> int:
    """A shortest way's next action, or any action at the goal, where no agent can stay."""
    steps = steps_to(goal)
    aims = {action: moved(cell, action, 0, 24) for action in range(4)}
    nearer = [a for a, aim in aims.items() if steps.get(aim, len(steps)) < steps[cell]]
    return rng.choice(nearer or range(4))


class VisitingTeam:
    """Play in which doors open and rooms are reached: one agent holds a switch, with errors.

    For some dozens of steps one agent goes to the large room's switch while the others go to
    the switch of one small room, or loiter in its door. When the others are inside, the
    first one follows.
    """

    def __init__(self, rng: Random, error: float = 0.05):
        self.rng, self.error, self.left = rng, error, 0

    def __call__(self, game: ReferenceSecretRoom) -> list[int]:
        """One action for each agent."""
        if self.left == 0:
            self._choose(game)
        self.left -= 1
        inside = [game.room(cell) == self.room for cell in game.agents]
        follow = all(inside[: self.holder] + inside[self.holder + 1 :])
        goals = [self.goal] * game.num_agents
        goals[self.holder] = game.SWITCHES[self.room] if follow else game.LARGE_SWITCH
        return [
            self.rng.randrange(4) if self.rng.random() < self.error else towards(*pair, self.rng)
            for pair in zip(goals, game.agents, strict=True)
        ]

    def _choose(self, game: ReferenceSecretRoom) -> None:
        self.room = self.rng.choice((0, 1, 2, game.target_room, game.target_room))
        self.holder = self.rng.randrange(game.num_agents)
        loiter = self.rng.random() < 0.3
        self.goal = self.rng.choice(game.DOORS[self.room]) if loiter else game.SWITCHES[self.room]
        self.left = self.rng.randrange(30, 120)
