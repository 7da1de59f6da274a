"""Markov games given by their arrays, and matrix games, batched.

Source: the Markov games of Sec. 2.1 of https://arxiv.org/abs/2108.12581; their
exact values are in :mod:`torchrl_alita.exact`. Two more letters in shapes, here
and there: S states, L actions of each agent. Joint actions are numbered in C
order: agent 0 is the slowest index, agent N-1 the fastest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from tensordict import TensorDict, TensorDictBase
from torch.nn.functional import one_hot
from torchrl.data import Categorical, Composite, OneHot, Unbounded
from torchrl.envs import EnvBase

from torchrl_alita._checks import (
    check_at_least_one,
    check_below_one,
    check_distribution,
    check_finite,
    check_integer,
    checked_seed,
)
from torchrl_alita._extras import import_extra
from torchrl_alita.envs import _grid
from torchrl_alita.envs._saved_state import SavedState, StaysOnDevice
from torchrl_alita.envs.registry import Task
from torchrl_alita.layout import ACTION, OBSERVATION, REWARD, next_key

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["MarkovGame", "MatrixGame", "draw_game", "game_task"]


class MarkovGame(SavedState, StaysOnDevice, EnvBase):
    r"""Markov game of N agents with S states and L actions each, batched.

    .. math:: s' \sim T(\cdot \mid s, \mathbf{a}), \qquad r_i = r_i(s, \mathbf{a})

    Source: Sec. 2.1 of https://arxiv.org/abs/2108.12581. All agents observe the
    state: ``("agents", "observation")`` is its one-hot vector ``[B, N, S]``,
    ``("agents", "action")`` is one-hot ``[B, N, L]``, ``("next", "agents", "reward")``
    is ``[B, N, 1]``, all in float32. An episode is truncated at the horizon and never
    terminates. The environment draws from a generator of its own, and from no other.

    ``transition``, ``reward`` and ``initial`` stay on the object in float64, beside
    ``discount``, ``num_states``, ``num_agents`` and ``num_actions``, for
    :mod:`torchrl_alita.exact`. The rows of probabilities are kept divided by their sum.
    ``state [B]``, ``steps [B, 1]`` and the state of the generator are what
    ``state_dict()`` holds: from it the game goes on exactly, in a game of the same
    arrays.

    Args:
        transition: ``[S, L**N, S]``, the probability of each next state.
        reward: ``[N, S, L**N]``.
        discount: of a step, in [0, 1); used by the exact values, not by the
            environment.
        num_envs: B, games played together.
        horizon: steps after which an episode is truncated, None for never.
            Default: 100, that of :func:`torchrl_alita.make_env`.
        initial: ``[S]``, probabilities of the first state. Default: uniform.
        device: of the simulation.
        seed: of the generator. Default: one that differs from run to run, whatever
            torch's global seed.

    Raises:
        ValueError: for shapes that do not fit each other, a number of joint actions
            that is no N-th power, entries that are not finite, probabilities that are
            negative or do not sum to 1 within 1e-6 (the row and its value are named),
            a discount outside [0, 1), or num_envs or horizon below 1.

    Examples:
        Two states, two agents with two actions; the game moves on when they agree.

        >>> stay, leave = [1.0, 0.0], [0.0, 1.0]
        >>> transition = [[leave, stay, stay, leave], [stay, leave, leave, stay]]
        >>> reward = [[[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]] * 2
        >>> game = MarkovGame(transition, reward, 0.9, initial=[1.0, 0.0], horizon=2)
        >>> step = game.reset()
        >>> step["agents", "observation"][0]
        tensor([[1., 0.],
                [1., 0.]])
        >>> step["agents", "action"] = torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])
        >>> step = game.step(step)
        >>> step["next", "agents", "reward"].flatten()
        tensor([4., 4.])
        >>> step["next", "agents", "observation"][0, 0]
        tensor([0., 1.])
    """

    # Its state_dict holds all that shapes the future, see environment_state.
    exact_state = True
    _state = ("state", "steps")

    def __init__(
        self,
        transition: torch.Tensor | Sequence,
        reward: torch.Tensor | Sequence,
        discount: float,
        *,
        num_envs: int = 1,
        horizon: int | None = 100,
        initial: torch.Tensor | Sequence[float] | None = None,
        device: torch.device | str = "cpu",
        seed: int | None = None,
    ):
        check_at_least_one(num_envs=num_envs)
        if horizon is not None:
            check_at_least_one(horizon=horizon)
        check_below_one(discount=discount)
        super().__init__(device=device, batch_size=[num_envs])
        self.discount = float(discount)
        self.horizon = horizon
        self._set_arrays(_float64(transition, device), _float64(reward, device))
        self._set_initial(initial)
        self._set_specs()
        self.generator = torch.Generator(device)
        self._set_seed(seed)
        self.state = torch.zeros(num_envs, dtype=torch.long, device=device)
        self.steps = torch.zeros(num_envs, 1, dtype=torch.long, device=device)

    @staticmethod
    def random(
        seed: int,
        num_states: int,
        num_agents: int,
        num_actions: int,
        *,
        discount: float = 0.9,
        shared_reward: bool = False,
        num_envs: int = 1,
        horizon: int | None = 100,
        initial: torch.Tensor | Sequence[float] | None = None,
        device: torch.device | str = "cpu",
    ) -> MarkovGame:
        """Random game, ``transition [S, L**N, S]`` and ``reward [N, S, L**N]``.

        A game of Sec. 2.1 of https://arxiv.org/abs/2108.12581: each row of the
        transitions is uniform over the simplex (Dirichlet with parameter 1, so that
        every state can follow every other), each reward uniform in [-1, 1].

        Args:
            seed: of the arrays, and of the environment's generator.
            num_states: S.
            num_agents: N.
            num_actions: L.
            discount: of a step, in [0, 1). Default: 0.9.
            shared_reward: all agents get the same reward.
            num_envs: as in :class:`MarkovGame`.
            horizon: as in :class:`MarkovGame`.
            initial: as in :class:`MarkovGame`.
            device: as in :class:`MarkovGame`; the arrays do not depend on it.

        Returns:
            A :class:`MarkovGame`.

        Raises:
            ValueError: if a number of states, agents or actions is below 1, or as in
                :class:`MarkovGame`.

        Examples:
            >>> game = MarkovGame.random(0, num_states=5, num_agents=3, num_actions=2)
            >>> game.transition.shape, game.reward.shape
            (torch.Size([5, 8, 5]), torch.Size([3, 5, 8]))
        """
        check_at_least_one(num_states=num_states, num_agents=num_agents, num_actions=num_actions)
        generator = torch.Generator().manual_seed(check_integer("seed", checked_seed(seed)))
        joint = num_actions**num_agents
        shares = torch.empty(num_states, joint, num_states, dtype=torch.float64)
        shares.exponential_(generator=generator)
        lead = 1 if shared_reward else num_agents
        reward = torch.empty(lead, num_states, joint, dtype=torch.float64)
        reward.uniform_(-1, 1, generator=generator)
        return MarkovGame(
            shares / shares.sum(-1, keepdim=True),
            reward.expand(num_agents, -1, -1),
            discount,
            num_envs=num_envs,
            horizon=horizon,
            initial=initial,
            device=device,
            seed=seed,
        )

    def _set_arrays(self, transition: torch.Tensor, reward: torch.Tensor) -> None:
        shape = tuple(transition.shape)
        if transition.ndim != 3 or 0 in shape or shape[0] != shape[2]:
            raise ValueError(f"transition must have the shape (S, L**N, S), got {shape}.")
        if reward.ndim != 3 or reward.shape[0] == 0 or reward.shape[1:] != shape[:2]:
            raise ValueError(
                f"reward must have the shape (N, {shape[0]}, {shape[1]}) to fit transition "
                f"{shape}, got {tuple(reward.shape)}."
            )
        self.num_states, self.num_agents = shape[0], reward.shape[0]
        self.num_actions = _root(shape[1], self.num_agents)
        self.transition = check_distribution("transition", transition)
        self.reward = check_finite("reward", reward)
        self._thresholds = _thresholds(self.transition)
        # Indexed by state and joint action at each step.
        self._paid = self.reward.permute(1, 2, 0).float().contiguous()
        powers = range(self.num_agents - 1, -1, -1)
        self._place = torch.tensor(
            [self.num_actions**power for power in powers], device=transition.device
        )

    def _set_initial(self, initial: torch.Tensor | Sequence[float] | None) -> None:
        if initial is None:
            initial = [1 / self.num_states] * self.num_states
        shares = _float64(initial, self.transition.device)
        if shares.shape != (self.num_states,):
            raise ValueError(
                f"initial must have the shape ({self.num_states},), got {tuple(shares.shape)}."
            )
        self.initial = check_distribution("initial", shares)
        self._initial_thresholds = _thresholds(self.initial)

    def _set_specs(self) -> None:
        batch, lead = self.batch_size, (*self.batch_size, self.num_agents)

        def grouped(**specs) -> Composite:
            agents = Composite(**specs, shape=lead, device=self.device)
            return Composite(agents=agents, shape=batch, device=self.device)

        def vectors(size: int) -> OneHot:
            return OneHot(size, shape=(*lead, size), dtype=torch.float32, device=self.device)

        self.observation_spec = grouped(observation=vectors(self.num_states))
        self.action_spec = grouped(action=vectors(self.num_actions))
        self.reward_spec = grouped(reward=Unbounded((*lead, 1), device=self.device))
        flag = Categorical(2, shape=(*batch, 1), dtype=torch.bool, device=self.device)
        self.done_spec = Composite(
            done=flag,
            terminated=flag.clone(),
            truncated=flag.clone(),
            shape=batch,
            device=self.device,
        )

    def _set_seed(self, seed: int | None) -> None:
        _grid.set_seed(self.generator, seed)

    def _draw(self, thresholds: torch.Tensor) -> torch.Tensor:
        """One state of each game from its row of thresholds, ``[B, S] -> [B]``."""
        uniform = torch.rand(
            (*self.batch_size, 1),
            generator=self.generator,
            dtype=thresholds.dtype,
            device=thresholds.device,
        )
        return (uniform >= thresholds).sum(-1)

    def _entries(self, truncated: torch.Tensor, **agents: torch.Tensor) -> TensorDict:
        lead = (*self.batch_size, self.num_agents)
        state = one_hot(self.state, self.num_states).float()
        # A copy for each agent: a caller may write into one agent's.
        agents["observation"] = state.unsqueeze(-2).repeat(1, self.num_agents, 1)
        return TensorDict(
            {
                "agents": TensorDict(agents, lead, device=self.device),
                "done": truncated,
                "terminated": torch.zeros_like(truncated),
                "truncated": truncated.clone(),
            },
            self.batch_size,
            device=self.device,
        )

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs) -> TensorDictBase:
        reset = None if tensordict is None else tensordict.get("_reset", None)
        if reset is None:
            reset = torch.ones_like(self.steps, dtype=torch.bool)
        first = self._draw(self._initial_thresholds.expand(*self.batch_size, -1))
        self.state = torch.where(reset.squeeze(-1), first, self.state)
        self.steps = torch.where(reset, 0, self.steps)
        return self._entries(torch.zeros_like(reset))

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        # Not every dtype of a one-hot action has an argmax.
        own = tensordict.get(ACTION).float().argmax(-1)
        joint = (own * self._place).sum(-1)
        reward = self._paid[self.state, joint].unsqueeze(-1)
        self.state = self._draw(self._thresholds[self.state, joint])
        self.steps = self.steps + 1
        if self.horizon is None:
            truncated = torch.zeros_like(self.steps, dtype=torch.bool)
        else:
            truncated = self.steps >= self.horizon
        return self._entries(truncated, reward=reward)

    def _check_saved(self, name: str, value: torch.Tensor) -> None:
        super()._check_saved(name, value)
        most = self.num_states - 1 if name == "state" else self.horizon
        low, high = int(value.min()), int(value.max())
        if low < 0 or (most is not None and high > most):
            allowed = "at least 0" if most is None else f"from 0 to {most}"
            raise ValueError(f"{name} must be {allowed}, got values from {low} to {high}.")


class MatrixGame(MarkovGame):
    """Game of one state in which every step is an episode, batched.

    The matrix games of Sec. 2.1 and of Proposition 1 of
    https://arxiv.org/abs/2108.12581; keys and shapes are those of
    :class:`MarkovGame` with S = 1.

    Args:
        payoff: ``[N, L**N]``, of each agent for each joint action in C order.
        discount: in [0, 1). Default: 0, which makes the exact values the payoffs. A
            learner sees episodes that are truncated, and so bootstraps with the
            discount of its own.
        num_envs: as in :class:`MarkovGame`.
        horizon: as in :class:`MarkovGame`. Default: 1.
        device: as in :class:`MarkovGame`.
        seed: as in :class:`MarkovGame`; the game itself draws nothing that matters.

    Raises:
        ValueError: if payoff is no matrix, or as in :class:`MarkovGame`.

    Examples:
        The first agent chooses the row, the second the column.

        >>> game = MatrixGame([[3.0, 0.0, 5.0, 1.0], [3.0, 5.0, 0.0, 1.0]])
        >>> step = game.reset()
        >>> step["agents", "action"] = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])
        >>> game.step(step)["next", "agents", "reward"].flatten()
        tensor([5., 0.])
    """

    def __init__(
        self,
        payoff: torch.Tensor | Sequence[Sequence[float]],
        *,
        discount: float = 0.0,
        num_envs: int = 1,
        horizon: int | None = 1,
        device: torch.device | str = "cpu",
        seed: int | None = None,
    ):
        payoff = _float64(payoff, device)
        if payoff.ndim != 2:
            raise ValueError(f"payoff must have the shape (N, L**N), got {tuple(payoff.shape)}.")
        check_finite("payoff", payoff)
        super().__init__(
            torch.ones(1, payoff.shape[1], 1),
            payoff.unsqueeze(1),
            discount,
            num_envs=num_envs,
            horizon=horizon,
            device=device,
            seed=seed,
        )


def game_task(
    game: MarkovGame,
    *,
    metrics: Callable[[TensorDictBase], dict[str, torch.Tensor]] | None = None,
) -> Task:
    """A game as a task of the training loop.

    Args:
        game: its arrays are played, in environments of their own.
        metrics: of complete episodes ``[B, T]``, each a scalar tensor by name. Default:
            none but the return.

    Returns:
        A :class:`torchrl_alita.envs.Task`; its environments raise a ValueError if
        another number of agents is asked for.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> task = game_task(MatrixGame([[1.0, 0.0, 0.0, 2.0]] * 2))
        >>> make_env(task, num_envs=3, n_agents=2, seed=0).batch_size
        torch.Size([3])
    """

    def make(
        *, num_envs: int, n_agents: int, device: torch.device | str, seed: int | None, horizon: int
    ) -> MarkovGame:
        if n_agents != game.num_agents:
            raise ValueError(f"The game is of {game.num_agents} agents, got n_agents={n_agents}.")
        return MarkovGame(
            game.transition,
            game.reward,
            game.discount,
            num_envs=num_envs,
            horizon=horizon,
            initial=game.initial,
            device=device,
            seed=seed,
        )

    return Task(make=make, metrics=metrics, draw=draw_game, n_agents=game.num_agents)


def draw_game(episode: TensorDictBase, *, cell: int = 36) -> list[Image]:
    """Frames of one episode ``[T]``: a row for each agent, its action filled.

    The state and the reward, mean over the agents, stand above.

    Args:
        episode: of a game, ``[T]``.
        cell: edge of an action's square, pixels.

    Returns:
        A picture for each step.

    Raises:
        ImportError: if Pillow is not installed; the extra is named.
    """
    image_module = import_extra("PIL.Image", "recipes")
    draw_module = import_extra("PIL.ImageDraw", "recipes")
    chosen = episode[ACTION].float().argmax(-1).tolist()
    state = episode[OBSERVATION][:, 0].argmax(-1).tolist()
    reward = episode[next_key(REWARD)].mean((-1, -2)).tolist()
    num_agents, num_actions = episode[ACTION].shape[-2:]
    size = (max(num_actions, 4) * cell, (num_agents + 1) * cell)

    def frame(step: int) -> Image:
        image = image_module.new("RGB", size, "white")
        canvas = draw_module.Draw(image)
        canvas.text((6, cell // 3), f"state {state[step]}  reward {reward[step]:.2f}", fill="black")
        for agent, action in enumerate(chosen[step]):
            for option in range(num_actions):
                corner = (option * cell + 3, (agent + 1) * cell + 3)
                box = (*corner, corner[0] + cell - 6, corner[1] + cell - 6)
                canvas.rectangle(box, outline="gray", fill="#4477aa" if option == action else None)
        return image

    return [frame(step) for step in range(len(state))]


def _float64(values: torch.Tensor | Sequence, device: torch.device | str) -> torch.Tensor:
    """A copy that neither the caller's array nor its gradient can change."""
    if not isinstance(values, torch.Tensor):
        # Unlike as_tensor it may be given an array that is read-only.
        values = torch.tensor(values, dtype=torch.float64)
    return values.detach().to(device, torch.float64, copy=True)


def _root(num_joint: int, num_agents: int) -> int:
    """L of ``num_joint = L**N``."""
    root = round(num_joint ** (1 / num_agents))
    if root**num_agents != num_joint:
        raise ValueError(
            f"The number of joint actions must be L**N with N = {num_agents} agents, "
            f"got {num_joint}."
        )
    return root


def _thresholds(rows: torch.Tensor) -> torch.Tensor:
    """Upper ends of the intervals of [0, 1) in which each state is drawn, ``[*B, S]``.

    Rounding must not leave the last threshold below 1, nor a state that has no
    probability an interval.
    """
    total = rows.cumsum(-1)
    return total / total[..., -1:]
