"""Push-Box: two agents push a box to a wall, and only together.

Source: Sec. 4.1.2 of https://arxiv.org/abs/2108.12581, with the rules of
https://arxiv.org/abs/1910.05512 as its authors' code plays them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from math import isqrt
from typing import TYPE_CHECKING, Literal

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.envs import EnvBase

from torchrl_alita._checks import require_keys
from torchrl_alita._settings import Settings
from torchrl_alita.data import CountCodes
from torchrl_alita.envs import _grid
from torchrl_alita.envs.cmae import CMAEPushBox
from torchrl_alita.envs.registry import Task, register_task
from torchrl_alita.layout import ACTION, OBSERVATION, REWARD, next_key
from torchrl_alita.metrics.exploration import Coverage, OneHotCells, VisitMap

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "PushBox",
    "PushBoxEvents",
    "PushBoxSettings",
    "draw_push_box",
    "push_box_events",
    "push_box_metrics",
    "push_box_task",
]

STARTS = ("corner", "uniform")
# Boxes appear at least this far from the walls' cells 0 and size - 1.
_SPAWN_FROM = 4


class PushBox(_grid.GridState, EnvBase):
    r"""Push-Box on a grid, N agents, batched.

    .. math:: \Delta_{row} = sign(v) \, [|v| \ge p], \qquad
        v = \#\{\text{votes down}\} - \#\{\text{votes up}\}

    Source: Sec. 4.1.2 of https://arxiv.org/abs/2108.12581: "Agents need to push the box to
    the wall in 300 environment steps to get a reward of 1000." The rules are those of
    https://arxiv.org/abs/1910.05512 and of its code. Rows and columns 0 and size - 1 are
    wall, which the box can enter and the agents cannot. Agents may share a cell. A step:

    1. An agent whose move would enter the box's cell votes for its direction.
    2. With p votes more for one vertical direction than for the other, the box moves a
       row; likewise a column. Both together are one diagonal move. The box stays where
       it is, in both directions, if an agent stands in the cell that it would enter.
    3. The agents move, except into the cell where the box is now. So pushers follow.
    4. For each of the four walls that the box is in, every agent gets the reward. Then
       a new box appears, or the episode terminates.

    ``("agents", "observation")`` is ``[B, N, (2N + 2) * size]``, the same for each agent:
    one-hot row and column of agent 0, ... agent N-1, and of the box; after a delivery, of
    the new box. ``("agents", "action")`` is one-hot ``[B, N, 5]``: up (row - 1), right,
    down, left, stay. ``("next", "agents", "reward")`` is ``[B, N, 1]``. The environment
    draws from its ``generator`` and from no other.

    The state is ``agent_cells [B, N, 2]``, ``box_cells [B, 2]`` and ``steps [B, 1]``; with
    the generator's it is what ``state_dict()`` holds.

    Args:
        num_envs: B, games played together.
        num_agents: N, 2 to 8. Default: 2, the paper's.
        size: rows, and columns, walls included. Default: 15, the paper's. The least
            leaves a free cell for a new box: 9 for 2 and 3 agents, 10 for 4 to 8.
        horizon: steps after which an episode is truncated. Default: 300, the paper's.
        respawn: a delivered box is replaced in the same step and the episode goes on, as
            in the code of the rules; otherwise the episode terminates.
        start: ``"corner"``, all agents in (1, 1), or ``"uniform"``, each in any cell.
            Boxes appear at random at least 4 cells from the first and 3 from the last
            wall's cell, where no agent stands.
        pushes_needed: p, 1 to N. Default: 2, the paper's.
        reward: of a wall. Default: 1000, the paper's.
        mask_blocked: also write ``("agents", "action_mask")`` ``[B, N, 5]``, False for a
            move into a wall; to stay is always allowed, and so is to run into the box.
        device: of the simulation.
        seed: of the generator. Default: one that differs from run to run, whatever
            torch's global seed.

    Raises:
        ValueError: for an argument out of range; in a step, for an action that is not
            one-hot, or masked, with its environment and agent. The state is unchanged.

    Examples:
        From its left, one agent alone does not move the box, two do.

        >>> env = PushBox(seed=0)
        >>> step = env.reset()
        >>> env.agent_cells, env.box_cells = torch.tensor([[[5, 6]] * 2]), torch.tensor([[5, 7]])
        >>> right, stay = torch.eye(5)[1], torch.eye(5)[4]
        >>> step["agents", "action"] = torch.stack([right, stay])[None]
        >>> _ = env.step(step)
        >>> env.agent_cells.tolist(), env.box_cells.tolist()
        ([[[5, 6], [5, 6]]], [[5, 7]])
        >>> step["agents", "action"] = torch.stack([right, right])[None]
        >>> _ = env.step(step)
        >>> env.agent_cells.tolist(), env.box_cells.tolist()
        ([[[5, 7], [5, 7]]], [[5, 8]])
    """

    # Its state_dict holds all that shapes the future, see environment_state.
    exact_state = True
    _state = ("agent_cells", "box_cells", "steps")

    def __init__(
        self,
        num_envs: int = 1,
        *,
        num_agents: int = 2,
        size: int = 15,
        horizon: int = 300,
        respawn: bool = True,
        start: Literal["corner", "uniform"] = "corner",
        pushes_needed: int = 2,
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
        _grid.check_whole(1, num_agents, pushes_needed=pushes_needed)
        _grid.check_choice("start", start, STARTS)
        # Of at least N + 1 cells one is free.
        _grid.check_whole(2 * _SPAWN_FROM + isqrt(num_agents), size=size)
        super().__init__(device=device, batch_size=[num_envs])
        self.num_agents, self.size, self.horizon = num_agents, size, horizon
        self.respawn, self.start, self.mask_blocked = respawn, start, mask_blocked
        self.pushes_needed, self.reward = pushes_needed, float(reward)
        self._set_tables()
        width = (2 * num_agents + 2) * size
        self._mask = _grid.set_specs(self, observation_size=width, num_actions=len(_grid.MOVES))
        self.generator = torch.Generator(self.device)
        self._set_seed(seed)
        counts = {"dtype": torch.long, "device": self.device}
        self.agent_cells = torch.ones(num_envs, num_agents, 2, **counts)
        self.box_cells = torch.full((num_envs, 2), _SPAWN_FROM, **counts)
        self.steps = torch.zeros(num_envs, 1, **counts)

    def _set_tables(self) -> None:
        size, device = self.size, self.device
        self._cells = _grid.all_cells(size, device)
        self._moves = torch.tensor(_grid.MOVES, device=device)
        self._vectors = torch.eye(len(_grid.MOVES), device=device)
        self._seen = _grid.observation_table(size, device)
        target = (self._cells.unsqueeze(1) + self._moves).clamp(1, size - 2)
        own = torch.arange(size**2, device=device)
        target = _grid.codes_of(target, size)
        self._target = target.flatten()
        self._allowed = target != own.unsqueeze(-1)
        self._allowed[:, -1] = True
        walls = ((self._cells == 0) | (self._cells == size - 1)).sum(-1)
        self._paid = self.reward * walls
        inside = (self._cells >= _SPAWN_FROM) & (self._cells <= size - _SPAWN_FROM)
        self._spawn = own[inside.all(-1)]
        # By code: the place among the cells for boxes, or their number.
        self._spawn_place = torch.full_like(own, len(self._spawn))
        self._spawn_place[self._spawn] = torch.arange(len(self._spawn), device=device)

    def count_codes(self) -> CountCodes:
        """What is counted in it: each agent's cell with the box's, all cells, and moves."""
        return _grid.count_codes(self.size, self.num_agents, box=True, deterministic=True)

    def _set_seed(self, seed: int | None) -> None:
        _grid.set_seed(self.generator, seed)

    def _draw_agents(self) -> torch.Tensor:
        """First cells of the agents, ``[B, N, 2]``."""
        shape = (*self.batch_size, self.num_agents, 2)
        if self.start == "corner":
            return torch.ones(shape, dtype=torch.long, device=self.device)
        return torch.randint(1, self.size - 1, shape, generator=self.generator, device=self.device)

    def _draw_box(self, agents: torch.Tensor) -> torch.Tensor:
        """Code of a uniform cell for a box without an agent, ``[B, N] -> [B]``."""
        count = len(self._spawn)
        taken = _grid.select(self._spawn_place, agents).sort(-1).values
        # Agents in one cell take one.
        again = taken[:, 1:] == taken[:, :-1]
        taken[:, 1:].masked_fill_(again, count)
        free = count - (taken < count).sum(-1)
        uniform = torch.rand(
            self.batch_size, generator=self.generator, dtype=torch.float64, device=self.device
        )
        place = (uniform * free).long()
        for agent in range(self.num_agents):
            # The free cells from this one on are numbered one too low.
            place = place + (place >= taken[:, agent])
        return self._spawn[place]

    def _codes(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes of the agents' cells and of the box's, ``[B, N]`` and ``[B, 1]``."""
        agents = _grid.codes_of(self.agent_cells, self.size)
        return agents, _grid.codes_of(self.box_cells, self.size).unsqueeze(-1)

    def _entries(
        self,
        agents: torch.Tensor,
        box: torch.Tensor,
        terminated: torch.Tensor,
        truncated: torch.Tensor,
        **reward: torch.Tensor,
    ) -> TensorDictBase:
        """Entries of a state, of which codes ``[B, N]`` and ``[B, 1]`` are given."""
        codes = torch.cat([agents, box], -1)
        entries = {"observation": _grid.joint_observation(self._seen, codes, self.num_agents)}
        if self.mask_blocked:
            entries["action_mask"] = _grid.select(self._allowed, agents)
            _grid.publish_mask(self, self._mask, entries["action_mask"])
        return _grid.step_entries(self, terminated, truncated, **entries, **reward)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs) -> TensorDictBase:
        reset = None if tensordict is None else tensordict.get("_reset", None)
        if reset is None:
            reset = torch.ones_like(self.steps, dtype=torch.bool)
        first = self._draw_agents()
        box = self._cells[self._draw_box(_grid.codes_of(first, self.size))]
        self.agent_cells = torch.where(reset.unsqueeze(-1), first, self.agent_cells)
        self.box_cells = torch.where(reset, box, self.box_cells)
        self.steps = torch.where(reset, 0, self.steps)
        agents, box = self._codes()
        return self._entries(agents, box, torch.zeros_like(reset), torch.zeros_like(reset))

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        lead = (*self.batch_size, self.num_agents)
        action = _grid.chosen_actions(tensordict.get(ACTION), self._vectors, lead)
        agents, box = self._codes()
        if self.mask_blocked:
            _grid.check_allowed(action, _grid.select(self._allowed, agents))
        target = _grid.select(self._target, agents * len(_grid.MOVES) + action)
        box = self._pushed(agents, box, target, action)
        agents = torch.where(target == box, agents, target)
        paid = _grid.select(self._paid, box)
        delivered = paid > 0
        if self.respawn and bool(delivered.any()):
            box = torch.where(delivered, self._draw_box(agents).unsqueeze(-1), box)
        self.agent_cells = _grid.select(self._cells, agents)
        self.box_cells = _grid.select(self._cells, box.squeeze(-1))
        self.steps = self.steps + 1
        return self._entries(
            agents,
            box,
            terminated=torch.zeros_like(delivered) if self.respawn else delivered,
            truncated=self.steps >= self.horizon,
            reward=paid.unsqueeze(-1).repeat(1, self.num_agents, 1),
        )

    def _pushed(
        self, agents: torch.Tensor, box: torch.Tensor, target: torch.Tensor, action: torch.Tensor
    ) -> torch.Tensor:
        """Where the votes move the box: codes ``[B, N], [B, 1], ... -> [B, 1]``."""
        votes = (target == box) & (agents != box)
        votes = (_grid.select(self._moves, action) * votes.unsqueeze(-1)).sum(1)
        push = votes.sign() * (votes.abs() >= self.pushes_needed)
        pushed = box + _grid.codes_of(push, self.size).unsqueeze(-1)
        blocked = (agents == pushed).sum(-1, keepdim=True) > 0
        return torch.where(blocked, box, pushed)

    def _restore(self, state: dict[str, torch.Tensor]) -> None:
        super()._restore(state)
        if self.mask_blocked:
            _grid.publish_mask(self, self._mask, _grid.select(self._allowed, self._codes()[0]))


def _observed(episodes: TensorDictBase) -> tuple[torch.Tensor, int]:
    """Cells of the agents and the box, ``[B, T] -> [B, T + 1, N + 1, 2]``, and the size."""
    _grid.require_observations(episodes)
    num_agents, width = episodes[OBSERVATION].shape[-2:]
    size, rest = divmod(width, 2 * num_agents + 2)
    if rest:
        raise ValueError(
            f"The observation must have (2N + 2) * size entries, got {width} for "
            f"{num_agents} agents."
        )
    return _grid.observed_cells(episodes, num_agents + 1, size), size


def _delivered(episodes: TensorDictBase) -> torch.Tensor:
    """Steps that bring a box to a wall, ``[B, T]``: nothing else is paid for."""
    return (episodes[next_key(REWARD)][..., 0, 0] > 0) & _grid.running(episodes)


def push_box_metrics(episodes: TensorDictBase) -> dict[str, torch.Tensor]:
    """Figures of merit of Push-Box, episodes ``[B, T]`` -> scalars.

    What comes after an episode's end does not count.

    Args:
        episodes: complete episodes.

    Returns:
        ``boxes_per_episode``: boxes brought to a wall, mean over the episodes.
        ``pushes_per_episode``: steps in which agents moved the box, mean over the
        episodes. In a step that is paid for, the box that is seen afterwards may be
        another one: this step is one push, wherever that one is.

    Raises:
        KeyError: if the episodes hold no observations or no reward.
        ValueError: if the observations are not those of Push-Box.

    Examples:
        >>> metrics = push_box_metrics(PushBox(3, seed=0).rollout(2))
        >>> {name: float(value) for name, value in metrics.items()}
        {'boxes_per_episode': 0.0, 'pushes_per_episode': 0.0}
    """
    cells, _ = _observed(episodes)
    box = cells[:, :, -1]
    delivered = _delivered(episodes)
    moved = (box[:, 1:] != box[:, :-1]).any(-1) & _grid.running(episodes)
    return {
        "boxes_per_episode": delivered.sum(1).float().mean(),
        "pushes_per_episode": (moved | delivered).sum(1).float().mean(),
    }


def draw_push_box(
    episode: TensorDictBase, *, cell: int = 16, box_reach: int = 0, walls: bool = True
) -> list[Image]:
    """Frames of one episode ``[T]``, from its first state to its last.

    Walls are dark, the box is brown, the boxes delivered so far are counted below; agents
    are in color with a trail, and ringed in a step in which they explore, if
    ``"exploring"`` or ``("agents", "exploring")`` says so.

    Args:
        episode: it is drawn to its end, and not beyond.
        cell: edge of a cell, pixels.
        box_reach: cells of the box on each side of its middle. Default: 0; by CMAE's rules 1.
        walls: the outer cells are walls. Default: True; by CMAE's rules they are not.

    Returns:
        A picture for each state, one more than the episode has steps.

    Raises:
        ImportError: if Pillow is not installed; the extra is named.
    """
    episode = _grid.first_episode(episode)
    cells, size = _observed(episode)
    cells = cells[0]
    boxes = [0, *_delivered(episode)[0].cumsum(0).tolist()]
    every = _grid.all_cells(size, "cpu")
    edge = every[((every == 0) | (every == size - 1)).any(-1)]
    reach = torch.arange(-box_reach, box_reach + 1)
    shape = torch.cartesian_prod(reach, reach)
    exploring = _grid.exploring_agents(episode, cells.shape[1] - 1)

    def frame(step: int) -> Image:
        board = _grid.Board(size, cell, f"step {step}  boxes {boxes[step]}")
        if walls:
            board.fill(edge, _grid.WALL_COLOR)
        board.fill(cells[step, -1:] + shape, "#aa7744")
        board.draw_agents(cells[: step + 1, :-1], exploring[step])
        return board.image

    return [frame(step) for step in range(len(cells))]


class PushBoxEvents(TensorDictModuleBase):
    """What happened to the boxes of :class:`PushBox`, ``[*B]`` -> scalars.

    Writes totals of what was seen so far. An agent votes in a step if its move would enter the
    box's cell. ``box_votes``: votes; ``pushes_in_agreement``: steps in which enough agents to
    push vote for one direction; ``boxes_pushed``: steps in which the box moves; and
    ``boxes_delivered``: steps in which it is paid for.

    Args:
        env: the environment, with transforms or without; only its sizes are read.

    Raises:
        KeyError: if a key is missing; the keys present are named.

    Examples:
        >>> env = PushBox(num_envs=3, seed=0)
        >>> logs = PushBoxEvents(env)(env.rollout(7))
        >>> float(logs["boxes_delivered"])
        0.0
    """

    def __init__(self, env: EnvBase):
        super().__init__()
        env = getattr(env, "base_env", env)
        self.pushes_needed = env.pushes_needed
        self.cells = OneHotCells([env.size] * (2 * env.num_agents + 2))
        self.in_keys = [OBSERVATION, ACTION, next_key(OBSERVATION), next_key(REWARD)]
        self.out_keys = ["box_votes", "pushes_in_agreement", "boxes_pushed", "boxes_delivered"]
        self.register_buffer("totals", torch.zeros(len(self.out_keys), dtype=torch.float64))
        self.register_buffer("moves", torch.tensor(_grid.MOVES), persistent=False)

    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        require_keys(tensordict, self.in_keys)
        observation, action, after, reward = (tensordict.get(key) for key in self.in_keys)
        agents, box = self._things(observation)
        chosen = action.float().argmax(-1)
        # The box is in no wall and under no agent, so that a move into either is no vote.
        votes = (agents + self.moves[chosen] == box).all(-1)
        alike = (action.float() * votes.unsqueeze(-1)).sum(-2)
        self.totals += torch.stack(
            [
                votes.sum(),
                (alike >= self.pushes_needed).any(-1).sum(),
                (self._things(after)[1] != box).any(-1).sum(),
                (reward > 0).any(-2).sum(),
            ]
        )
        return self.metrics()

    def metrics(self) -> TensorDict:
        """The scalars of what was seen so far."""
        return TensorDict(dict(zip(self.out_keys, self.totals.clone(), strict=True)))

    def _things(self, observation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cells of the agents and of the box, ``[*B, N, 2]`` and ``[*B, 1, 2]``."""
        cells = self.cells(observation[..., 0, :]).unflatten(-1, (-1, 2))
        return cells[..., :-1, :], cells[..., -1:, :]


def push_box_events(env: EnvBase, *, max_cells: int = 2**24) -> list[TensorDictModuleBase]:
    """What is counted in Push-Box: joint states, a map of visits and the boxes.

    Args:
        env: a :class:`PushBox`, with transforms or without.
        max_cells: numbers kept of joint states; see
            :class:`torchrl_alita.metrics.Coverage`. Default: 2**24, with which all those of
            two agents are.

    Returns:
        Parts of :func:`torchrl_alita.metrics.exploration_metrics`.

    Examples:
        >>> coverage, *_ = push_box_events(PushBox(num_envs=3, seed=0))
        >>> coverage.possible
        4769856
    """
    game = getattr(env, "base_env", env)
    num_agents, size = game.num_agents, game.size
    cells = OneHotCells([size] * (2 * num_agents + 2))
    # The box can be anywhere within the walls, each agent in any other cell there.
    free = (size - 2) ** 2
    return [
        Coverage(cells, possible=free * (free - 1) ** num_agents, max_cells=max_cells),
        VisitMap(cells, num_agents=num_agents, others=["box"]),
        PushBoxEvents(game),
    ]


@dataclass(frozen=True, kw_only=True)
class PushBoxSettings(Settings):
    """What a task of Push-Box can set; see :class:`PushBox` and :class:`CMAEPushBox`.

    Raises:
        ValueError: for a setting that the chosen rules do not have.
    """

    rules: Literal["edti", "cmae"] = "edti"
    """Those of EDTI, with which the paper's results were made, or CMAE's: a larger box, fixed
    starts, a reward of 1 and the end of the episode. Their figures must not be mixed."""
    size: int = 15
    """Rows, and columns, walls included (the paper: 15)."""
    respawn: bool = True
    """A delivered box is replaced and the episode goes on; otherwise it ends."""
    start: Literal["corner", "uniform"] = "corner"
    """Where agents begin: all in one corner, or each in any cell."""
    pushes_needed: int = 2
    """Agents that must push together (the paper: 2)."""
    reward: float | None = None
    """Of a box at a wall. Default: 1000 by EDTI's rules, the paper's, and 1 by CMAE's."""
    mask_blocked: bool = False
    """Forbid moves into a wall."""

    def __post_init__(self):
        super().__post_init__()
        own = (self.respawn, self.start, self.pushes_needed)
        if self.rules == "cmae" and own != (True, "corner", 2):
            raise ValueError(
                "respawn, start and pushes_needed are of EDTI's rules, got "
                f"{own} with rules='cmae'."
            )


def push_box_task(settings: PushBoxSettings | None = None) -> Task:
    """Push-Box as a task of the training loop.

    With the defaults it is registered as ``"push_box"``, by CMAE's rules as
    ``"push_box_cmae"``.

    Args:
        settings: Default: those of :class:`PushBoxSettings`.

    Returns:
        A :class:`torchrl_alita.envs.Task`, with :func:`push_box_metrics`,
        :func:`draw_push_box` and :func:`push_box_events`.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env(push_box_task(PushBoxSettings(respawn=False)), horizon=100)
        >>> env.respawn, env.horizon
        (False, 100)
    """
    settings = settings or PushBoxSettings()
    cmae = settings.rules == "cmae"
    return Task(
        make=_make,
        metrics=push_box_metrics,
        draw=partial(draw_push_box, box_reach=1, walls=False) if cmae else draw_push_box,
        settings=settings,
        n_agents=2,
        horizon=300,
        events=_cmae_events if cmae else push_box_events,
        configure=push_box_task,
    )


def _cmae_events(env: EnvBase) -> list[TensorDictModuleBase]:
    """Joint states and a map of visits: pushes and deliveries are in the metrics."""
    size = getattr(env, "base_env", env).size
    cells = OneHotCells([size] * 6)
    possible = (size - 2) ** 2 * (size**2 - 9) ** 2
    return [Coverage(cells, possible=possible), VisitMap(cells, num_agents=2, others=["box"])]


def _make(
    *,
    num_envs: int,
    n_agents: int,
    device: torch.device | str,
    seed: int | None,
    horizon: int,
    settings: PushBoxSettings,
) -> PushBox | CMAEPushBox:
    options = asdict(settings)
    options = {name: value for name, value in options.items() if value is not None}
    options |= {"horizon": horizon, "device": device, "seed": _grid.seed_of_task(seed)}
    if options.pop("rules") == "edti":
        return PushBox(num_envs, num_agents=n_agents, **options)
    if n_agents != 2:
        raise ValueError(f"By CMAE's rules there are 2 agents, got n_agents={n_agents}.")
    for name in ("respawn", "start", "pushes_needed"):
        del options[name]
    return CMAEPushBox(num_envs, **options)


register_task("push_box", push_box_task())
register_task("push_box_cmae", push_box_task(PushBoxSettings(rules="cmae")))
