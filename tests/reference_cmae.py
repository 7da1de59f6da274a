"""Push-Box and Secret Room by CMAE's rules in plain Python, one game at a time.

Source: the rules of https://arxiv.org/abs/2107.11444 as its authors' code plays them. Nothing here
is shared with the package. A cell is (row, column); moves are up, right, down, left.
"""

from __future__ import annotations

Cell = tuple[int, int]

UP, RIGHT, DOWN, LEFT = range(4)
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))


class ReferencePushBox:
    """Two agents and a box of 3 x 3 cells, named by its middle."""

    def __init__(self, size: int = 15, horizon: int = 300):
        self.size, self.horizon = size, horizon

    def reset(self) -> None:
        half = self.size // 2
        self.agents: list[Cell] = [(half + 4, half + 4), (half + 2, half + 2)]
        self.box: Cell = (half, half)
        self.steps = 0

    def pushes(self, cell: Cell, action: int) -> bool:
        """Whether an agent in this cell pushes the box."""
        beside = {
            UP: [(self.box[0] + 2, self.box[1] + k) for k in (-1, 0, 1)],
            DOWN: [(self.box[0] - 2, self.box[1] + k) for k in (-1, 0, 1)],
            LEFT: [(self.box[0] + k, self.box[1] + 2) for k in (-1, 0, 1)],
            RIGHT: [(self.box[0] + k, self.box[1] - 2) for k in (-1, 0, 1)],
        }
        return cell in beside[action]

    def step(self, actions: list[int]) -> tuple[float, bool, bool]:
        """Reward, terminated, truncated."""
        last = self.size - 1
        pushing = [self.pushes(c, a) for c, a in zip(self.agents, actions, strict=True)]
        if all(pushing) and actions[0] == actions[1]:
            row, column = (x + dx for x, dx in zip(self.box, MOVES[actions[0]], strict=True))
            if 0 < row < last and 0 < column < last:
                self.box = (row, column)
        for number, action in enumerate(actions):
            row, column = self.agents[number]
            aim = (row + MOVES[action][0], column + MOVES[action][1])
            on_grid = 0 <= aim[0] <= last and 0 <= aim[1] <= last
            in_box = abs(aim[0] - self.box[0]) <= 1 and abs(aim[1] - self.box[1]) <= 1
            if on_grid and not in_box:
                self.agents[number] = aim
        self.steps += 1
        solved = any(x in (1, last - 1) for x in self.box)
        return float(solved), solved, self.steps >= self.horizon


class ReferenceSecretRoom:
    """Two agents, three doors of three cells, four switches; on a grid of 25."""

    SWITCHES = [(20, 5), (4, 20), (12, 20), (20, 20)]
    DOOR_ROWS = [(3, 4, 5), (11, 12, 13), (19, 20, 21)]

    def __init__(self, horizon: int = 300):
        self.horizon = horizon

    def reset(self) -> None:
        self.agents: list[Cell] = [(3, 3), (2, 2)]
        self.open = [False] * 3
        self.steps = 0

    def is_free(self, cell: Cell) -> bool:
        row, column = cell
        if not (0 <= row <= 24 and 0 <= column <= 24):
            return False
        if column == 12:
            return any(
                row in rows and is_open
                for rows, is_open in zip(self.DOOR_ROWS, self.open, strict=True)
            )
        return not (column > 12 and row in (8, 16))

    def step(self, actions: list[int]) -> tuple[float, bool, bool]:
        """Reward, terminated, truncated."""
        for number, action in enumerate(actions):
            row, column = self.agents[number]
            aim = (row + MOVES[action][0], column + MOVES[action][1])
            if self.is_free(aim):
                self.agents[number] = aim
        self.open = [False] * 3
        for number, switch in enumerate(self.SWITCHES):
            held = any(
                (cell[0] - switch[0]) ** 2 + (cell[1] - switch[1]) ** 2 <= 1.5**2
                for cell in self.agents
            )
            if held:
                self.open = [True] * 3 if number == 0 else [k == number - 1 for k in range(3)]
                break
        self.steps += 1
        solved = all(column >= 13.5 and row <= 9 for row, column in self.agents)
        return float(solved), solved, self.steps >= self.horizon
