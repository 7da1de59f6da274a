"""The particle tasks of the paper's Tables 2 to 4, batched in torch on any device.

Cooperative navigation, speaker and listener, and physical deception with the rules of the
environments that the paper used: those of https://arxiv.org/abs/1706.02275, as its authors' code
plays them. Their relatives play others:

- VMAS pushes five times less, has nine discrete actions, and draws one goal for a whole batch.
- ``mpe2`` and JaxMARL move particles before they speed them up, count no collision with oneself,
  pay an adversary by the distance and not by its square, and a listener once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from tensordict import TensorDictBase
from torch.nn.functional import one_hot, pad
from torchrl.data import Bounded, Categorical, Composite, OneHot, Unbounded
from torchrl.envs import EnvBase

from torchrl_alita._checks import check_flag, require_keys
from torchrl_alita._extras import import_extra
from torchrl_alita._settings import Settings
from torchrl_alita.envs import _grid
from torchrl_alita.envs._grid import AllowedOneHot
from torchrl_alita.envs._saved_state import SavedState, StaysOnDevice
from torchrl_alita.envs.registry import Task, register_task
from torchrl_alita.layout import ACTION, next_key

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "GOAL",
    "POSITIONS",
    "CooperativeNavigation",
    "ParticleEnv",
    "ParticleSettings",
    "PhysicalDeception",
    "SpeakerListener",
    "UnpaidSpeaker",
    "draw_particles",
    "navigation_metrics",
    "physical_deception_metrics",
    "speaker_listener_metrics",
]

# Of all particles, agents first, [B, N + M, 2]; and which landmark is the goal, [B, 1].
POSITIONS, GOAL = "positions", "goal"
_DT = 0.1
_DAMPING = 0.25
_FORCE = 5.0
_CONTACT_FORCE = 100.0
_CONTACT_MARGIN = 1e-3
# Stay, and one unit along an axis, by a one-hot action.
_MOVES = ((0.0, 0.0), (1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0))
# Within which a landmark is occupied, as the environments' own benchmark counts it.
_OCCUPIED = 0.1
# Within which the listener has reached its goal: as mpe2 captures, touching, as in this package's
# first studies, and twice a goal's radius as the original's code has it.
_REACHED = (0.1, 0.115, 0.15, 0.16)


class ParticleEnv(SavedState, StaysOnDevice, EnvBase):
    r"""Particles on a plane, N agents and M landmarks, batched.

    .. math:: v' = (1 - 0.25) v + 0.1 (5 u + f), \qquad x' = x + 0.1 v'

    with the action u and the contact force f of agents that push each other apart,
    :math:`100 \cdot 10^{-3} \log(1 + e^{(d_{min} - d) / 10^{-3}})` along the line between their
    centers, if they collide in this task. The mass is 1, and nothing bounds the speed. Each
    environment draws positions uniformly from the square of half width 1, with agents at rest,
    and its goal at its own reset.

    ``("agents", "observation")`` is ``[B, N, O]``, ``("agents", "action")`` ``[B, N, A]``: one-hot,
    stay, right, left, up, down; or continuous, u in [-1, 1]. Agents with fewer entries than
    others are padded with zeros, and masked. ``"positions"`` ``[B, N + M, 2]`` and ``"goal"``
    ``[B, 1]`` are for metrics and pictures. The environment draws from its ``generator`` and
    from no other, and its ``state_dict()`` holds all that shapes its future.

    Args:
        num_envs: B. Default: 1.
        continuous_actions: else one-hot ones. Default: False, with which the results of
            https://arxiv.org/abs/1706.02275 were made.
        horizon: steps after which an episode is truncated. Default: 25.
        positions_first: move particles by their last velocity, then speed them up, as ``mpe2``
            and JaxMARL do; the original speeds them up first. Default: False.
        device: of the simulation.
        seed: of the generator. Default: one that differs from run to run.

    Raises:
        ValueError: for an argument out of range; in a step, for an action that is not one-hot, or
            masked, with its environment and agent.
    """

    # Its state_dict holds all that shapes the future, see environment_state.
    exact_state = True
    _state = ("positions", "velocities", "messages", "goal", "steps")
    # Cells of grids are checked by their size; particles have none.
    size = 0
    # Of a task: radii, whether agents push each other, choices and numbers of each agent.
    agent_radius: float
    landmark_radius: float
    collide = False

    def __init__(
        self,
        num_envs: int = 1,
        *,
        num_agents: int,
        num_landmarks: int,
        observation_size: int,
        choices: Sequence[int],
        numbers: Sequence[int],
        lowest: Sequence[float],
        continuous_actions: bool = False,
        horizon: int = 25,
        positions_first: bool = False,
        device: torch.device | str = "cpu",
        seed: int | None = None,
    ):
        _grid.check_whole(1, num_envs=num_envs, horizon=horizon)
        check_flag(continuous_actions=continuous_actions, positions_first=positions_first)
        super().__init__(device=device, batch_size=[num_envs])
        self.num_agents, self.num_landmarks = num_agents, num_landmarks
        self.continuous_actions, self.horizon = continuous_actions, horizon
        self.positions_first = positions_first
        self._size = observation_size
        self._mask = self._set_specs(choices, numbers, lowest)
        self._directions = torch.tensor(_MOVES, device=self.device)
        self._apart = 1 - torch.eye(num_agents, device=self.device).unsqueeze(-1)
        self.generator = torch.Generator(self.device)
        self._set_seed(seed)
        lead = (num_envs,)
        self.positions = torch.zeros(*lead, num_agents + num_landmarks, 2, device=self.device)
        self.velocities = torch.zeros(*lead, num_agents, 2, device=self.device)
        self.messages = torch.zeros(*lead, 3, device=self.device)
        self.goal = torch.zeros(*lead, 1, dtype=torch.long, device=self.device)
        self.steps = torch.zeros(*lead, 1, dtype=torch.long, device=self.device)

    def _set_specs(
        self, choices: Sequence[int], numbers: Sequence[int], lowest: Sequence[float]
    ) -> torch.Tensor | None:
        batch, device = self.batch_size, self.device
        lead = (*batch, self.num_agents)
        size = max(numbers if self.continuous_actions else choices)
        shape, mask = (*lead, size), None
        seen = {"observation": Unbounded((*lead, self._size), device=device)}
        if self.continuous_actions:
            own = torch.arange(size, device=device) < torch.tensor(numbers, device=device)[:, None]
            low = torch.tensor(lowest, device=device).unsqueeze(-1) * own
            action = Bounded(
                low.expand(shape), own.float().expand(shape), shape, dtype=torch.float32,
                device=device,
            )  # fmt: skip
        else:
            how = {"shape": shape, "dtype": torch.float32, "device": device}
            self._vectors = torch.eye(size, device=device)
            if len(set(choices)) > 1:
                own = (
                    torch.arange(size, device=device)
                    < torch.tensor(choices, device=device)[:, None]
                )
                mask = own.expand(shape).clone()
                seen["action_mask"] = Categorical(2, shape=shape, dtype=torch.bool, device=device)
                action = AllowedOneHot(size, mask=mask, **how)
            else:
                action = OneHot(size, **how)

        def grouped(**leaves) -> Composite:
            agents = Composite(**leaves, shape=lead, device=device)
            return Composite(agents=agents, shape=batch, device=device)

        spec = grouped(**seen)
        places = self.num_agents + self.num_landmarks
        spec[POSITIONS] = Unbounded((*batch, places, 2), device=device)
        spec[GOAL] = Unbounded((*batch, 1), dtype=torch.long, device=device)
        self.observation_spec, self.action_spec = spec, grouped(action=action)
        self.reward_spec = grouped(reward=Unbounded((*lead, 1), device=device))
        flag = Categorical(2, shape=(*batch, 1), dtype=torch.bool, device=device)
        self.done_spec = Composite(
            done=flag, terminated=flag.clone(), truncated=flag.clone(), shape=batch, device=device
        )
        return mask

    def _set_seed(self, seed: int | None) -> None:
        _grid.set_seed(self.generator, seed)

    # A task is these three.

    def _observe(self) -> torch.Tensor:
        """``[B, N, O]``."""
        raise AttributeError("A task of particles says what its agents observe.")

    def _pay(self) -> torch.Tensor:
        """``[B, N]``, in the state after a step."""
        raise AttributeError("A task of particles says what it pays.")

    def _say(self, action: torch.Tensor) -> torch.Tensor:
        """The message ``[B, 3]`` of an action ``[B, N, A]``."""
        return self.messages

    @property
    def agent_positions(self) -> torch.Tensor:
        """``[B, N, 2]``."""
        return self.positions[:, : self.num_agents]

    @property
    def landmarks(self) -> torch.Tensor:
        """``[B, M, 2]``."""
        return self.positions[:, self.num_agents :]

    @property
    def goal_position(self) -> torch.Tensor:
        """``[B, 1, 2]``."""
        rows = torch.arange(len(self.goal), device=self.device)
        return self.landmarks[rows, self.goal.squeeze(-1)].unsqueeze(1)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs) -> TensorDictBase:
        reset = None if tensordict is None else tensordict.get("_reset", None)
        if reset is None:
            reset = torch.ones_like(self.steps, dtype=torch.bool)
        how = {"generator": self.generator, "device": self.device}
        positions = torch.rand(self.positions.shape, **how) * 2 - 1
        goal = torch.randint(self.num_landmarks, self.goal.shape, **how)
        self.positions = torch.where(reset.unsqueeze(-1), positions, self.positions)
        self.velocities = self.velocities * ~reset.unsqueeze(-1)
        self.messages = self.messages * ~reset
        self.goal = torch.where(reset, goal, self.goal)
        self.steps = torch.where(reset, 0, self.steps)
        return self._entries(torch.zeros_like(reset))

    def _entries(self, truncated: torch.Tensor, **agents: torch.Tensor) -> TensorDictBase:
        agents["observation"] = self._observe()
        if self._mask is not None:
            agents["action_mask"] = self._mask.clone()
        entries = _grid.step_entries(self, torch.zeros_like(truncated), truncated, **agents)
        return entries.set(POSITIONS, self.positions.clone()).set(GOAL, self.goal.clone())

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        action = tensordict.get(ACTION)
        if self.continuous_actions:
            shape = self.full_action_spec[ACTION].shape
            if action.shape != shape:
                raise ValueError(
                    f"The actions must have the shape {tuple(shape)}, got {tuple(action.shape)}."
                )
            # A policy of another type does not change that of the state.
            push = action[..., :2].to(self.positions.dtype)
        else:
            lead = (*self.batch_size, self.num_agents)
            chosen = _grid.chosen_actions(action, self._vectors, lead)
            if self._mask is not None:
                _grid.check_allowed(chosen, self._mask)
            push = self._directions[chosen]
        self._move(push)
        self.messages = self._say(action)
        self.steps = self.steps + 1
        return self._entries(self.steps >= self.horizon, reward=self._pay().unsqueeze(-1))

    def _move(self, push: torch.Tensor) -> None:
        """One step of the agents, pushed by ``[B, N, 2]``."""
        agents = self.agent_positions
        force = _FORCE * push * self._movable(push)
        if self.collide:
            force = force + self._contacts(agents)
        moved = self.velocities
        velocities = (1 - _DAMPING) * self.velocities + _DT * force
        if not self.positions_first:
            moved = velocities
        self.velocities = velocities
        self.positions = torch.cat([agents + _DT * moved, self.landmarks], 1)

    def _movable(self, push: torch.Tensor) -> torch.Tensor | float:
        return 1.0

    def _contacts(self, agents: torch.Tensor) -> torch.Tensor:
        """Forces between agents that touch, ``[B, N, 2] -> [B, N, 2]``."""
        away = agents.unsqueeze(2) - agents.unsqueeze(1)
        distance = away.norm(dim=-1, keepdim=True)
        near = (2 * self.agent_radius - distance) / _CONTACT_MARGIN
        depth = _CONTACT_MARGIN * torch.nn.functional.softplus(near)
        # Agents in one point are not pushed: there is no direction.
        push = _CONTACT_FORCE * depth * away / distance.clamp_min(1e-12)
        return (push * self._apart).sum(2)


def _others(points: torch.Tensor) -> torch.Tensor:
    """Of each agent the others' entries, in order, ``[B, N, N, F] -> [B, N, (N - 1) F]``."""
    count = points.shape[1]
    kept = [[other for other in range(count) if other != agent] for agent in range(count)]
    index = torch.tensor(kept, device=points.device).view(count, count - 1)
    rows = torch.arange(count, device=points.device).unsqueeze(-1)
    return points[:, rows, index].flatten(2)


class CooperativeNavigation(ParticleEnv):
    r"""Cooperative navigation: N agents cover N landmarks and avoid each other, batched.

    .. math:: r_i = - N \sum_l \min_j |x_j - l| - \sum_j |\{k : |x_k - x_j| < 0.3\}|

    for all agents alike: the sum over the agents of their distances and of their collisions,
    in which each collides with itself, as in the original. With ``self_collisions=False`` that
    constant, N, is left out. Source: Table 2 of https://arxiv.org/abs/2108.12581, N = 3 and 6.

    ``("agents", "observation")`` ``[B, N, 6N]``: own velocity and position, landmarks and other
    agents relative to it, and 2 (N - 1) zeros for messages that nobody sends.

    Args:
        num_envs: as in :class:`ParticleEnv`.
        num_agents: N. Default: 3.
        self_collisions: Default: True, the original's.
        continuous_actions: as in :class:`ParticleEnv`.
        horizon: as in :class:`ParticleEnv`.
        positions_first: as in :class:`ParticleEnv`.
        device: as in :class:`ParticleEnv`.
        seed: as in :class:`ParticleEnv`.

    Raises:
        ValueError: for an argument out of range.

    Examples:
        >>> env = CooperativeNavigation(5, num_agents=6, seed=0)
        >>> env.rollout(3)["next", "agents", "reward"].shape
        torch.Size([5, 3, 6, 1])
    """

    agent_radius, landmark_radius = 0.15, 0.05
    collide = True

    def __init__(
        self,
        num_envs: int = 1,
        *,
        num_agents: int = 3,
        self_collisions: bool = True,
        continuous_actions: bool = False,
        horizon: int = 25,
        positions_first: bool = False,
        device: torch.device | str = "cpu",
        seed: int | None = None,
    ):
        _grid.check_whole(1, num_agents=num_agents)
        check_flag(self_collisions=self_collisions)
        self.__dict__["self_collisions"] = self_collisions
        super().__init__(
            num_envs,
            num_agents=num_agents,
            num_landmarks=num_agents,
            observation_size=6 * num_agents,
            choices=[5] * num_agents,
            numbers=[2] * num_agents,
            lowest=[-1.0] * num_agents,
            continuous_actions=continuous_actions,
            horizon=horizon,
            positions_first=positions_first,
            device=device,
            seed=seed,
        )

    def _observe(self) -> torch.Tensor:
        own = self.agent_positions.unsqueeze(2)
        landmarks = (self.landmarks.unsqueeze(1) - own).flatten(2)
        others = _others(self.agent_positions.unsqueeze(1) - own)
        seen = torch.cat([self.velocities, self.agent_positions, landmarks, others], -1)
        return pad(seen, (0, others.shape[-1]))

    def _pay(self) -> torch.Tensor:
        agents = self.agent_positions
        distance = torch.cdist(self.landmarks, agents).amin(-1).sum(-1)
        close = torch.cdist(agents, agents) < 2 * self.agent_radius
        collisions = close.sum((1, 2)) - (0 if self.self_collisions else self.num_agents)
        paid = -self.num_agents * distance - collisions
        return paid.unsqueeze(-1).expand(-1, self.num_agents).clone()


class SpeakerListener(ParticleEnv):
    r"""Cooperative communication: a speaker tells a listener where to go, batched.

    .. math:: r = -2 \, |x_{listener} - g|^2

    for both, the sum of what each is paid. Agent 0, the speaker, cannot move; it sees the goal's
    color, three entries of which the goal's is 0.65 and the others are 0.15, and says one of
    three words. Agent 1, the listener, sees its velocity, the three landmarks relative to it and
    the word of the step before. Source: Table 3 of https://arxiv.org/abs/2108.12581.

    ``("agents", "observation")`` ``[B, 2, 11]``; ``("agents", "action")`` ``[B, 2, 5]``, of which
    the speaker has the first three, one for each word; or continuous ``[B, 2, 3]``: the speaker's
    word as it stands, in [0, 1], and of the listener the first two.

    Args:
        num_envs: as in :class:`ParticleEnv`.
        continuous_actions: as in :class:`ParticleEnv`.
        horizon: as in :class:`ParticleEnv`.
        positions_first: as in :class:`ParticleEnv`.
        device: as in :class:`ParticleEnv`.
        seed: as in :class:`ParticleEnv`.

    Raises:
        ValueError: for an argument out of range.

    Examples:
        >>> env = SpeakerListener(5, seed=0)
        >>> env.rollout(3)["agents", "action_mask"][0, 0].sum(-1)
        tensor([3, 5])
    """

    agent_radius, landmark_radius = 0.075, 0.04

    def __init__(
        self,
        num_envs: int = 1,
        *,
        continuous_actions: bool = False,
        horizon: int = 25,
        positions_first: bool = False,
        device: torch.device | str = "cpu",
        seed: int | None = None,
    ):
        super().__init__(
            num_envs,
            num_agents=2,
            num_landmarks=3,
            observation_size=11,
            choices=[3, 5],
            numbers=[3, 2],
            lowest=[0.0, -1.0],
            continuous_actions=continuous_actions,
            horizon=horizon,
            positions_first=positions_first,
            device=device,
            seed=seed,
        )

    def _movable(self, push: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[0.0], [1.0]], device=push.device)

    def _say(self, action: torch.Tensor) -> torch.Tensor:
        return action[:, 0, :3].float().clone()

    def _observe(self) -> torch.Tensor:
        color = 0.15 + 0.5 * one_hot(self.goal.squeeze(-1), 3).float()
        landmarks = (self.landmarks - self.agent_positions[:, 1:]).flatten(1)
        listener = torch.cat([self.velocities[:, 1], landmarks, self.messages], -1)
        return torch.stack([pad(color, (0, 8)), listener], 1)

    def _pay(self) -> torch.Tensor:
        away = (self.agent_positions[:, 1:] - self.goal_position).square().sum(-1)
        return -2 * away.expand(-1, 2).clone()


class UnpaidSpeaker(SpeakerListener):
    """Cooperative communication whose speaker is paid nothing, batched.

    Only the listener is paid for coming near the goal. The speaker has no reason of its own to say
    where it is: it learns a language if it values what its teammate gets. Ours; everything else is
    :class:`SpeakerListener`.

    Args:
        num_envs: as in :class:`ParticleEnv`.
        continuous_actions: as in :class:`ParticleEnv`.
        horizon: as in :class:`ParticleEnv`.
        positions_first: as in :class:`ParticleEnv`.
        device: as in :class:`ParticleEnv`.
        seed: as in :class:`ParticleEnv`.

    Raises:
        ValueError: for an argument out of range.

    Examples:
        >>> env = UnpaidSpeaker(5, seed=0)
        >>> (env.rollout(3)["next", "agents", "reward"] < 0)[0, 0].flatten()
        tensor([False,  True])
    """

    def _pay(self) -> torch.Tensor:
        reward = super()._pay()
        reward[:, 0] = 0
        return reward


class PhysicalDeception(ParticleEnv):
    r"""Physical deception: N good agents reach a goal that an adversary must not find, batched.

    .. math:: r_{good} = |x_{adv} - g| - \min_j |x_j - g|, \qquad r_{adv} = -|x_{adv} - g|^2

    Agent 0 is the adversary: it sees the N landmarks and the good agents relative to it. Good
    agents see the goal, the landmarks and the others. Nobody collides. Source: Table 4 of
    https://arxiv.org/abs/2108.12581, N = 2.

    ``("agents", "observation")`` is ``[B, N + 1, 4N + 2]``; the adversary's last two entries are
    padding.

    Args:
        num_envs: as in :class:`ParticleEnv`.
        num_good: N. Default: 2.
        continuous_actions: as in :class:`ParticleEnv`.
        horizon: as in :class:`ParticleEnv`.
        positions_first: as in :class:`ParticleEnv`.
        device: as in :class:`ParticleEnv`.
        seed: as in :class:`ParticleEnv`.

    Raises:
        ValueError: for an argument out of range.

    Examples:
        >>> env = PhysicalDeception(5, seed=0)
        >>> env.rollout(3)["agents", "observation"].shape
        torch.Size([5, 3, 3, 10])
    """

    agent_radius, landmark_radius = 0.15, 0.08

    @property
    def sides(self) -> dict[str, tuple[int, ...]]:
        """The adversary and the good agents, see :func:`torchrl_alita.envs.sides_of`."""
        return {"adversary": (0,), "good": tuple(range(1, self.num_agents))}

    def __init__(
        self,
        num_envs: int = 1,
        *,
        num_good: int = 2,
        continuous_actions: bool = False,
        horizon: int = 25,
        positions_first: bool = False,
        device: torch.device | str = "cpu",
        seed: int | None = None,
    ):
        _grid.check_whole(1, num_good=num_good)
        super().__init__(
            num_envs,
            num_agents=num_good + 1,
            num_landmarks=num_good,
            observation_size=4 * num_good + 2,
            choices=[5] * (num_good + 1),
            numbers=[2] * (num_good + 1),
            lowest=[-1.0] * (num_good + 1),
            continuous_actions=continuous_actions,
            horizon=horizon,
            positions_first=positions_first,
            device=device,
            seed=seed,
        )

    def _observe(self) -> torch.Tensor:
        own = self.agent_positions.unsqueeze(2)
        landmarks = (self.landmarks.unsqueeze(1) - own).flatten(2)
        others = _others(self.agent_positions.unsqueeze(1) - own)
        both = torch.cat([landmarks, others], -1)
        goal = self.goal_position - self.agent_positions
        good = torch.cat([goal, both], -1)
        return torch.cat([pad(both[:, :1], (0, 2)), good[:, 1:]], 1)

    def _pay(self) -> torch.Tensor:
        away = (self.agent_positions - self.goal_position).norm(dim=-1)
        good = away[:, :1] - away[:, 1:].amin(-1, keepdim=True)
        return torch.cat([-away[:, :1].square(), good.expand(-1, self.num_agents - 1)], -1)


# Figures of merit


def _places(episodes: TensorDictBase) -> tuple[torch.Tensor, torch.Tensor]:
    """Agents and landmarks after each step of episodes, ``[B, T, N, 2]`` and ``[B, T, M, 2]``."""
    require_keys(episodes, [next_key(POSITIONS), ACTION])
    places = episodes[next_key(POSITIONS)]
    return places.split([n := episodes[ACTION].shape[-2], places.shape[-2] - n], -2)


def _to_goal(episodes: TensorDictBase) -> torch.Tensor:
    """Distance of each agent to the goal after the last step, ``[B, N]``."""
    require_keys(episodes, [next_key(GOAL)])
    agents, landmarks = (places[:, -1] for places in _places(episodes))
    goal = episodes[next_key(GOAL)][:, -1, 0]
    rows = torch.arange(len(goal), device=goal.device)
    return (agents - landmarks[rows, goal].unsqueeze(1)).norm(dim=-1)


def navigation_metrics(episodes: TensorDictBase) -> dict[str, torch.Tensor]:
    """Figures of merit of cooperative navigation, episodes ``[B, T]`` -> scalars.

    Args:
        episodes: complete episodes of :class:`CooperativeNavigation`.

    Returns:
        ``landmark_distance``: distance of a landmark to its nearest agent, summed over the
        landmarks, mean over the steps; ``distance_per_landmark``: its mean over the landmarks;
        ``final_distance``: the sum after the last step; ``collisions_per_episode``: pairs of
        agents nearer than 0.3, summed over the steps; ``counted_collisions``: the same as the
        original's benchmark counts it, where each agent of a pair counts the other, and every
        agent itself; ``occupied_share``: share of the landmarks with an agent within 0.1 at the
        end.

    Raises:
        KeyError: if the episodes hold no positions.

    Examples:
        >>> values = navigation_metrics(CooperativeNavigation(5, seed=0).rollout(25))
        >>> sorted(values)[:4]
        ['collisions_per_episode', 'counted_collisions', 'distance_per_landmark', 'final_distance']
        >>> float(values["counted_collisions"] - 2 * values["collisions_per_episode"])
        75.0
    """
    agents, landmarks = _places(episodes)
    nearest = torch.cdist(landmarks, agents).amin(-1)
    close = torch.cdist(agents, agents) < 2 * CooperativeNavigation.agent_radius
    counted = close.sum((-1, -2))
    pairs = (counted - agents.shape[-2]) / 2
    return {
        "landmark_distance": nearest.sum(-1).mean(),
        "distance_per_landmark": nearest.mean(),
        "final_distance": nearest[:, -1].sum(-1).mean(),
        "collisions_per_episode": pairs.sum(-1).mean(),
        "counted_collisions": counted.sum(-1).float().mean(),
        "occupied_share": (nearest[:, -1] < _OCCUPIED).float().mean(),
    }


def speaker_listener_metrics(episodes: TensorDictBase) -> dict[str, torch.Tensor]:
    """Figures of merit of cooperative communication, episodes ``[B, T]`` -> scalars.

    The paper's "target reach" names no radius; its pairs of share and distance fit one near 0.1
    to 0.115, the listener's radius and the landmark's together.

    Args:
        episodes: complete episodes of :class:`SpeakerListener`.

    Returns:
        ``final_distance``: of the listener to the goal; ``reach_0.1``, ``reach_0.115``,
        ``reach_0.15`` and ``reach_0.16``: share of the episodes that end within.

    Raises:
        KeyError: if the episodes hold no positions.

    Examples:
        >>> sorted(speaker_listener_metrics(SpeakerListener(5, seed=0).rollout(25)))
        ['final_distance', 'reach_0.1', 'reach_0.115', 'reach_0.15', 'reach_0.16']
    """
    away = _to_goal(episodes)[:, 1]
    reached = {f"reach_{radius}": (away < radius).float().mean() for radius in _REACHED}
    return {"final_distance": away.mean(), **reached}


def physical_deception_metrics(episodes: TensorDictBase) -> dict[str, torch.Tensor]:
    """Figures of merit of physical deception, episodes ``[B, T]`` -> scalars.

    The paper's success rates name no radius. An adversary that goes to one of two landmarks and
    never knows which is the goal reaches it in half of the episodes.

    Args:
        episodes: complete episodes of :class:`PhysicalDeception`.

    Returns:
        For the radii 0.1, 0.16 (twice the landmark's) and 0.23 (touching): ``good_reach_R``,
        share of the episodes in which a good agent is within R of the goal at the end;
        ``adversary_reach_R``; and ``delta_R``, their difference. ``final_distance`` and
        ``adversary_distance``: to the goal, of the nearest good agent and of the adversary.

    Raises:
        KeyError: if the episodes hold no positions.

    Examples:
        >>> values = physical_deception_metrics(PhysicalDeception(5, seed=0).rollout(25))
        >>> sorted(name for name in values if "0.1_" not in name)[:3]
        ['adversary_distance', 'adversary_reach_0.1', 'adversary_reach_0.16']
    """
    away = _to_goal(episodes)
    adversary, good = away[:, 0], away[:, 1:].amin(-1)
    values = {"final_distance": good.mean(), "adversary_distance": adversary.mean()}
    for radius in (0.1, 0.16, 0.23):
        reached = [(each < radius).float().mean() for each in (good, adversary)]
        values[f"good_reach_{radius}"], values[f"adversary_reach_{radius}"] = reached
        values[f"delta_{radius}"] = reached[0] - reached[1]
    return values


def draw_particles(
    episode: TensorDictBase,
    *,
    radii: tuple[float, float],
    goal: bool = False,
    adversaries: int = 0,
    size: int = 320,
    half_width: float = 1.6,
) -> list[Image]:
    """Frames of one episode ``[T]``: landmarks dark, the goal green, adversaries red.

    Args:
        episode: it is drawn to its end, and not beyond.
        radii: of agents and landmarks.
        goal: one landmark is the goal.
        adversaries: how many of the first agents are.
        size: edge of a picture, pixels.
        half_width: of the part of the plane that is drawn.

    Returns:
        A picture for each step.

    Raises:
        ImportError: if Pillow is not installed; the extra is named.
        KeyError: if the episode holds no positions.
    """
    image_module = import_extra("PIL.Image", "recipes")
    draw_module = import_extra("PIL.ImageDraw", "recipes")
    episode = _grid.first_episode(episode)
    agents, landmarks = (places[0] for places in _places(episode))
    target = int(episode[next_key(GOAL)][0, 0, 0]) if goal else -1

    def disk(canvas: Any, point: torch.Tensor, radius: float, color: str) -> None:
        x, y = ((point * torch.tensor([1.0, -1.0]) / half_width + 1) * size / 2).tolist()
        r = radius / half_width * size / 2
        canvas.ellipse((x - r, y - r, x + r, y + r), fill=color)

    def frame(step: int) -> Image:
        image = image_module.new("RGB", (size, size + 16), "white")
        canvas = draw_module.Draw(image)
        for number, agent in enumerate(agents[step]):
            disk(canvas, agent, radii[0], "#ee6677" if number < adversaries else "#4477aa")
        for number, landmark in enumerate(landmarks[step]):
            disk(canvas, landmark, radii[1], "#228833" if number == target else "black")
        canvas.text((4, size + 2), f"step {step + 1}", fill="black")
        return image

    return [frame(step) for step in range(len(agents))]


# Tasks. Floors are random teams, ceilings scripts that know the goal or share out the landmarks
# at the start, over 2,000 to 20,000 episodes; tests play both.


@dataclass(frozen=True, kw_only=True)
class ParticleSettings(Settings):
    """What a task of particles can set; see :class:`ParticleEnv`."""

    continuous_actions: bool = False
    """Continuous actions, else one-hot ones."""
    positions_first: bool = False
    """Move particles before they are sped up, as mpe2 does."""


def _make(
    *,
    num_envs: int,
    n_agents: int | None,
    device: torch.device | str,
    seed: int | None,
    horizon: int,
    settings: ParticleSettings,
    kind: Callable[..., ParticleEnv],
    number: Callable[[Any], dict[str, int]],
) -> ParticleEnv:
    env = kind(
        num_envs,
        horizon=horizon,
        device=device,
        seed=_grid.seed_of_task(seed),
        **asdict(settings),
        **number(n_agents),
    )
    if n_agents != env.num_agents:
        raise ValueError(f"The task is of {env.num_agents} agents, got n_agents={n_agents}.")
    return env


def _task(
    kind: type[ParticleEnv],
    metrics: Callable[[TensorDictBase], dict[str, torch.Tensor]],
    number: Callable[[Any], dict[str, int]],
    n_agents: int,
    *,
    floor: float | None = None,
    ceiling: float | None = None,
    **drawing: Any,
) -> Task:
    radii = (kind.agent_radius, kind.landmark_radius)
    return Task(
        make=partial(_make, kind=kind, number=number),
        metrics=metrics,
        draw=partial(draw_particles, radii=radii, **drawing),
        settings=ParticleSettings(),
        n_agents=n_agents,
        horizon=25,
        floor=floor,
        ceiling=ceiling,
    )


register_task(
    "mpe/spread",
    _task(
        CooperativeNavigation,
        navigation_metrics,
        lambda n: {"num_agents": n},
        3,
        floor=-230.9,
        ceiling=-115.6,
    ),
)
register_task(
    "mpe/spread_6",
    _task(
        CooperativeNavigation,
        navigation_metrics,
        lambda n: {"num_agents": n},
        6,
        floor=-597.4,
        ceiling=-280.8,
    ),
)
register_task(
    "mpe/speaker_listener",
    _task(
        SpeakerListener,
        speaker_listener_metrics,
        lambda n: {},
        2,
        floor=-81.4,
        ceiling=-12.1,
        goal=True,
    ),
)
register_task(
    "mpe/unpaid_speaker",
    _task(
        UnpaidSpeaker,
        speaker_listener_metrics,
        lambda n: {},
        2,
        # Half of those above: the mean over both agents.
        floor=-40.7,
        ceiling=-6.05,
        goal=True,
    ),
)
register_task(
    "mpe/adversary",
    _task(
        PhysicalDeception,
        physical_deception_metrics,
        lambda n: {"num_good": n - 1},
        3,
        goal=True,
        adversaries=1,
    ),
)
