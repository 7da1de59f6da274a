"""PettingZoo's environments, and others of its kind, as batched environments.

Extras ``pettingzoo`` (``pettingzoo`` and ``mpe2``), ``mamujoco`` (``gymnasium-robotics``) and
``foraging`` (``lbforaging``, ``rware``); the suites ``sisl`` and ``butterfly`` need
``pettingzoo[sisl,butterfly]``. Source: https://arxiv.org/abs/2009.14471.

TorchRL's own wrapper is not used: it resets an environment when the first agent dies, cannot
stack unequal agents, and steps one environment at a time.
"""

from __future__ import annotations

import inspect
import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import asdict, make_dataclass
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch.nn.functional import adaptive_avg_pool2d
from torchrl.data import Bounded, Categorical, Composite, OneHot, Unbounded
from torchrl.envs import EnvBase

from torchrl_alita._checks import check_at_least_one, check_callable, require_keys
from torchrl_alita._extras import import_extra
from torchrl_alita.envs import _grid
from torchrl_alita.envs._grid import AllowedOneHot
from torchrl_alita.envs._saved_state import SavedState, check_like
from torchrl_alita.envs.registry import Task, naming_arguments, register_suite
from torchrl_alita.envs.sides import sides_by_name
from torchrl_alita.layout import ACTION, REWARD, next_key

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "EPISODE_SEED",
    "ExactPettingZooEnv",
    "PettingZooEnv",
    "agent_returns",
    "draw_pettingzoo",
    "pettingzoo_task",
]

# From which, with the actions, an episode can be played again.
EPISODE_SEED = "episode_seed"
_SEEDS = 2**31 - 1
_MOST_CHOICES = 1_000
# Done, terminated and truncated: of most steps, and of one at the time limit.
_GOES_ON, _LATE = (False, False, False), (True, False, True)
# Packages with environments, and which extra installs each.
_SUITES = {
    "mpe2": ("mpe2", "pettingzoo"),
    "sisl": ("pettingzoo.sisl", "pettingzoo"),
    "butterfly": ("pettingzoo.butterfly", "pettingzoo"),
}
# The argument that is the number of agents.
_NUMBERS = {
    "simple_spread_v3": "N",
    "multiwalker_v9": "n_walkers",
    "pursuit_v5": "n_pursuers",
    "pistonball_v6": "n_pistons",
}
# Without these, the pictures that a game lets its agents see are black.
_MADE_WITH = {"cooperative_pong_v6": {"render_mode": "rgb_array"}}
_MAMUJOCO = (
    "Ant-2x4", "Ant-4x2", "HalfCheetah-2x3", "HalfCheetah-6x1", "Hopper-3x1", "Humanoid-9|8",
    "HumanoidStandup-9|8", "Reacher-2x1", "Swimmer-2x1", "Walker2d-2x3",
)  # fmt: skip
_FORAGING = {
    "lbforaging": (
        "Foraging-8x8-2p-2f-coop-v3", "Foraging-8x8-2p-3f-v3", "Foraging-10x10-3p-3f-v3",
        "Foraging-15x15-3p-4f-v3", "Foraging-15x15-4p-3f-v3", "Foraging-15x15-4p-4f-v3",
    ),
    "rware": (
        "rware-tiny-2ag-v2", "rware-tiny-4ag-v2", "rware-small-2ag-v2", "rware-small-4ag-v2",
        "rware-medium-4ag-v2",
    ),
}  # fmt: skip


class PettingZooEnv(EnvBase):
    """B environments of PettingZoo's parallel kind, stepped one after the other in one process.

    ``("agents", "observation")`` float32 ``[B, N, O]``, flattened and padded with zeros; images
    are made gray and shrunk to ``image_size``. ``("agents", "action")`` ``[B, N, A]``: continuous
    with the agents' own bounds, 0 and 0 beyond their entries; or one-hot, where several choices
    at a time are one among their combinations. ``("agents", "action_mask")`` bool ``[B, N, A]``
    if agents have unequal numbers of actions, or the environment says what is allowed, by the
    ``"action_mask"`` of observations or infos.
    ``("agents", "alive")`` and ``("agents", "terminated")`` bool ``[B, N, 1]``: an agent that has
    left the environment is not alive; it observes and earns nothing, and of discrete actions only
    its first is allowed. The reward of the step in which it leaves is kept; one that is truncated
    still observes in that step, for its value goes on from there, and stays alive where the
    episode ends with it. The episode ends with its last agent; it terminates if one of those that
    left last did, else it is truncated.
    ``"episode_seed"`` ``[B, 1]``: with it and the actions the episode can be played again.

    Every episode begins with a seed of its own, drawn from the environment's generator.

    Args:
        make: gives a new environment: PettingZoo's parallel kind, or its turn-taking kind, which
            is converted by PettingZoo itself: to all agents acting at once where it says that it
            can be, else to one turn a step, in which the others' actions do not count.
        num_envs: B. Default: 1.
        horizon: steps after which an episode is truncated. Default: the environment's own.
        image_size: rows and columns to which images are shrunk. Default: 16.
        device: of the tensors.
        seed: of the generator. Default: drawn from torch's global generator.

    Raises:
        ValueError: if agents differ in the kind of their actions, an action has no finite bounds,
            too many combinations or a Box of whole numbers, num_envs, horizon or image_size is
            below 1, or the seed is no whole number from 0 to 2**64 - 1.
        TypeError: if ``make`` gives nothing of the kind.

    Examples:
        >>> from mpe2 import simple_speaker_listener_v4
        >>> env = PettingZooEnv(simple_speaker_listener_v4.parallel_env, 2, seed=0)
        >>> env.rollout(3)["agents", "observation"].shape
        torch.Size([2, 3, 2, 11])
        >>> env.agents
        ('speaker_0', 'listener_0')
    """

    def __init__(
        self,
        make: Callable[[], Any],
        num_envs: int = 1,
        *,
        horizon: int | None = None,
        image_size: int = 16,
        device: torch.device | str = "cpu",
        seed: int | None = None,
    ):
        limit = {} if horizon is None else {"horizon": horizon}
        check_at_least_one(num_envs=num_envs, image_size=image_size, **limit)
        super().__init__(device=device, batch_size=[num_envs])
        self.horizon, self.image_size = horizon, image_size
        self._limit = math.inf if horizon is None else horizon
        with _quiet():
            self._envs = [_parallel(make()) for _ in range(num_envs)]
        first = self._envs[0]
        self.agents = tuple(first.possible_agents)
        self.num_agents = len(self.agents)
        self._place = {agent: number for number, agent in enumerate(self.agents)}
        self._pick = itemgetter(*self.agents) if self.num_agents > 1 else self._only
        self._read = [_Reader(a, first.observation_space(a), image_size) for a in self.agents]
        self._act = [_writer(agent, first.action_space(agent)) for agent in self.agents]
        kinds = {agent: type(act).kind for agent, act in zip(self.agents, self._act, strict=True)}
        if len(set(kinds.values())) > 1:
            raise ValueError(
                f"All agents must have actions of one kind, got {kinds}: choose continuous or "
                "discrete actions for all where the environment is made."
            )
        self.discrete = type(self._act[0]).kind == "discrete"
        # Agents' own numbers, and the layout's.
        self._sizes = [read.size for read in self._read]
        self._size = max(self._sizes)
        self._vectors = all(read.vector for read in self._read)
        self._actions = max(act.size for act in self._act)
        # Whether observations say what is allowed.
        self._told = self.discrete and any(read.masked for read in self._read)
        self._masked = self.discrete and (
            self._told or len({act.size for act in self._act}) > 1 or _infos_say(first)
        )
        self._mask = self._set_specs()
        self.generator: torch.Generator = torch.Generator()
        self._blank()
        self._set_seed(seed)

    @property
    def sides(self) -> dict[str, tuple[int, ...]]:
        """Agents whose names differ by the number alone, see :func:`sides_of`."""
        return sides_by_name(self.agents)

    def _only(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        """Of a single agent, as several agents' values are picked."""
        return (values[self.agents[0]],)

    def _blank(self) -> None:
        (num_envs,) = self.batch_size
        lead = (num_envs, self.num_agents)
        self._seeds = np.full(num_envs, -1, np.int64)
        self._past: list[list[np.ndarray]] = [[] for _ in range(num_envs)]
        # Numbers of the agents that are alive.
        self._living: list[list[int]] = [[] for _ in range(num_envs)]
        # Whether all agents are alive, and each may do all that it can.
        self._whole = [False] * num_envs
        self._seen = np.zeros((*lead, self._size), np.float32)
        self._allowed = np.zeros((*lead, self._actions), bool)
        # What each agent can do at all; of those that can do nothing.
        sizes = np.array([[act.size] for act in self._act])
        self._can = np.arange(self._actions) < sizes
        self._first = np.arange(self._actions) == 0
        self._alive = np.zeros((*lead, 1), bool)
        self._terminated = np.zeros((*lead, 1), bool)

    def _set_specs(self) -> torch.Tensor | None:
        batch, device = self.batch_size, self.device
        lead = (*batch, self.num_agents)

        def grouped(**leaves) -> Composite:
            agents = Composite(**leaves, shape=lead, device=device)
            return Composite(agents=agents, shape=batch, device=device)

        def flag(*shape: int) -> Categorical:
            return Categorical(2, shape=(*shape, 1), dtype=torch.bool, device=device)

        mask, shape = None, (*lead, self._actions)
        seen = {
            "observation": Unbounded((*lead, self._size), device=device),
            "alive": flag(*lead),
            "terminated": flag(*lead),
        }
        if not self.discrete:
            numbers = [act for act in self._act if isinstance(act, _Numbers)]
            low, high = (
                torch.stack([act.padded(bound, self._actions) for act in numbers])
                for bound in ("low", "high")
            )
            self._bounds = low.numpy(), high.numpy()
            action = Bounded(
                low.expand(shape), high.expand(shape), shape, dtype=torch.float32, device=device
            )
        else:
            how = {"shape": shape, "dtype": torch.float32, "device": device}
            if self._masked:
                mask = torch.ones(shape, dtype=torch.bool, device=device)
                seen["action_mask"] = Categorical(2, shape=shape, dtype=torch.bool, device=device)
                action = AllowedOneHot(self._actions, mask=mask, **how)
            else:
                action = OneHot(self._actions, **how)
        spec = grouped(**seen)
        spec[EPISODE_SEED] = Unbounded((*batch, 1), dtype=torch.int64, device=device)
        self.observation_spec, self.action_spec = spec, grouped(action=action)
        self.reward_spec = grouped(reward=Unbounded((*lead, 1), device=device))
        self.done_spec = Composite(
            done=flag(*batch),
            terminated=flag(*batch),
            truncated=flag(*batch),
            shape=batch,
            device=device,
        )
        return mask

    def _set_seed(self, seed: int | None) -> None:
        self.generator.manual_seed(_grid.seed_of_task(seed))

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs) -> TensorDictBase:
        reset = None if tensordict is None else tensordict.get("_reset", None)
        (num_envs,) = self.batch_size
        rows = range(num_envs) if reset is None else reset.flatten().nonzero().flatten().tolist()
        # Of most environments; they are laid out together.
        whole: list[int] = []
        numbers: list[Any] = []
        with _quiet():
            for row in rows:
                seed = int(torch.randint(_SEEDS, (), generator=self.generator))
                seen, infos = self._open(row, seed)
                own = self._of_all(seen, infos)
                if own is None:
                    self._keep(row, seen, infos)
                else:
                    whole.append(row)
                    numbers += own
                    self._whole[row] = True
            if whole:
                self._lay_out(whole, numbers)
                self._allowed[whole] = self._can
        return self._entries(np.zeros((num_envs, 3), bool))

    def _begin(self, row: int, seed: int) -> None:
        """A new episode of one environment."""
        self._keep(row, *self._open(row, seed))

    def _open(self, row: int, seed: int) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """One environment's own reset: what all see, and infos."""
        self._seeds[row], self._past[row] = seed, []
        self._living[row] = list(range(self.num_agents))
        self._alive[row], self._terminated[row] = True, False
        return self._envs[row].reset(seed=seed)

    def _keep(self, row: int, seen: Mapping[str, Any], infos: Mapping[str, Any]) -> None:
        """What the living see and may do."""
        whole = len(self._living[row]) == self.num_agents
        for number in self._living[row]:
            agent, read = self.agents[number], self._read[number]
            if agent not in seen:
                self._nothing(row, number)
                whole = False
                continue
            own = seen[agent]
            self._seen[row, number, : read.size] = read(own)
            if self._masked:
                mask = read.mask(own, infos.get(agent) or {})
                self._allow(row, number, mask)
                whole = whole and mask is None
        self._whole[row] = whole

    def _allow(self, row: int, number: int, mask: np.ndarray | None) -> None:
        """What an agent may do: all of its actions without a mask."""
        allowed = self._allowed[row, number]
        allowed[: self._act[number].size] = True if mask is None else mask
        if not allowed.any():
            allowed[0] = True

    def _nothing(self, row: int, number: int) -> None:
        """An agent sees nothing, and may do the first thing alone."""
        self._seen[row, number] = 0
        self._allowed[row, number] = self._first

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        # One copy for all: what is remembered of an episode are its rows.
        action = tensordict.get(ACTION).detach().cpu().numpy().copy()
        (num_envs,) = self.batch_size
        reward = np.zeros((num_envs, self.num_agents), np.float32)
        flags = np.zeros((num_envs, 3), bool)
        # Of most environments' steps; they are laid out together.
        rows: list[int] = []
        seen: list[Any] = []
        paid: list[float] = []
        chosen = zip(action, zip(*self._chosen(action), strict=True), strict=True)
        with _quiet():
            for row, (own, given) in enumerate(chosen):
                result = self._play(row, own, given)
                usual = self._usual(row, result)
                if usual is None:
                    ends = self._settle(row, result, reward[row])
                else:
                    rows.append(row)
                    seen += usual[0]
                    paid += usual[1]
                    ends = _GOES_ON
                if ends is _GOES_ON and len(self._past[row]) >= self._limit:
                    ends = _LATE
                if ends is not _GOES_ON:
                    flags[row] = ends
            if rows:
                self._lay_out(rows, seen)
                reward[rows] = np.array(paid, np.float32).reshape(len(rows), -1)
        reward = torch.from_numpy(reward).unsqueeze(-1)
        return self._entries(flags, reward=reward.to(self.device))

    def _chosen(self, action: np.ndarray) -> list[Any]:
        """What each agent does in each of ``[M, N, A]``: N rows of M actions of its own space."""
        # Networks' bounds may be missed by the last bit.
        chosen = action.argmax(-1) if self.discrete else np.clip(action, *self._bounds)
        return [act(chosen[:, number]) for number, act in enumerate(self._act)]

    def _replay(self, row: int, actions: np.ndarray) -> None:
        """Steps ``[T, N, A]`` of one environment."""
        paid = np.zeros(self.num_agents)
        chosen = zip(*self._chosen(actions), strict=True)
        with _quiet():
            for action, given in zip(actions, chosen, strict=True):
                self._settle(row, self._play(row, action, given), paid)

    def _play(self, row: int, action: np.ndarray, given: tuple[Any, ...]) -> tuple | None:
        """One environment's own step; None where it has ended, and waits to be reset."""
        living = self._living[row]
        if not living:
            return None
        self._past[row].append(action)
        if len(living) == self.num_agents:
            return self._envs[row].step(dict(zip(self.agents, given, strict=True)))
        return self._envs[row].step({self.agents[number]: given[number] for number in living})

    def _usual(self, row: int, result: tuple | None) -> tuple[tuple, tuple] | None:
        """What all agents see and are paid, if all go on and may do what they could before."""
        if result is None or not self._whole[row]:
            return None
        seen, paid, terminated, truncated, infos = result
        if True in terminated.values() or True in truncated.values():
            return None
        own = self._of_all(seen, infos)
        try:
            return None if own is None else (own, self._pick(paid))
        except KeyError:
            return None

    def _of_all(self, seen: Mapping[str, Any], infos: Mapping[str, Any]) -> tuple | None:
        """What all agents see, unless one is left out or may be told what it must not do."""
        if self._told or (self._masked and any(infos.values())):
            return None
        try:
            return self._pick(seen)
        except KeyError:
            return None

    def _lay_out(self, rows: list[int], seen: list) -> None:
        """Write what all agents of some environments see."""
        if not self._vectors or list(map(len, seen)) != self._sizes * len(rows):
            seen = [read(own) for read, own in zip(self._read * len(rows), seen, strict=True)]
        numbers = np.concatenate(seen).reshape(len(rows), -1)
        # A slice is written to faster than a list of all.
        where = slice(None) if len(rows) == len(self._seen) else rows
        end = 0
        for number, size in enumerate(self._sizes):
            begin, end = end, end + size
            self._seen[where, number, :size] = numbers[:, begin:end]

    def _settle(self, row: int, result: tuple | None, reward: np.ndarray) -> tuple[bool, ...]:
        """Who is left in an environment after its step: done, terminated, truncated.

        The agents' rewards are written, and what they see and may do.
        """
        if result is None:
            return True, bool(self._terminated[row].any()), False
        seen, paid, terminated, truncated, infos = result
        for number in set(range(self.num_agents)).difference(self._living[row]):
            self._nothing(row, number)
        last = False
        stay: list[int] = []
        cut: list[int] = []
        for number in self._living[row]:
            agent = self.agents[number]
            reward[number] = paid.get(agent, 0.0)
            if terminated.get(agent, False):
                last = True
                self._alive[row, number], self._terminated[row, number] = False, True
                self._nothing(row, number)
            else:
                (cut if truncated.get(agent, False) else stay).append(number)
        # Who is stopped by a limit still sees what its value would go on from.
        self._living[row] = sorted(stay + cut)
        self._keep(row, seen, infos)
        self._living[row], self._whole[row] = stay, self._whole[row] and not cut
        if not stay:
            return True, last, not last
        for number in cut:
            self._alive[row, number] = False
            self._allowed[row, number] = self._first
        return _GOES_ON

    def _entries(self, flags: np.ndarray, **agents: torch.Tensor) -> TensorDict:
        def sent(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(array.copy()).to(self.device)

        agents |= {
            "observation": sent(self._seen),
            "alive": sent(self._alive),
            "terminated": sent(self._terminated),
        }
        if self._masked:
            agents["action_mask"] = sent(self._allowed)
            _grid.publish_mask(self, self._mask, agents["action_mask"])
        done, terminated, truncated = sent(flags).unsqueeze(-1).unbind(1)
        entries = {
            "agents": TensorDict(agents, (*self.batch_size, self.num_agents), device=self.device),
            EPISODE_SEED: sent(self._seeds[:, None]),
            "done": done,
            "terminated": terminated,
            "truncated": truncated,
        }
        return TensorDict(entries, self.batch_size, device=self.device)

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Close the environments."""
        for env in self._envs:
            env.close()
        super().close(raise_if_closed=raise_if_closed)


class ExactPettingZooEnv(SavedState, PettingZooEnv):
    """Environments in which the seed and the actions of an episode say all that happens.

    ``state_dict()`` holds the generator, the episodes' seeds and the actions so far; loading it
    plays them again. Whether it holds is up to the environment; of those that are registered,
    tests say so.

    Args: those of :class:`PettingZooEnv`.

    Raises:
        ValueError: when a state is loaded that is of other environments.

    Examples:
        >>> from mpe2 import simple_spread_v3
        >>> env, other = (ExactPettingZooEnv(simple_spread_v3.parallel_env, 2, seed=k) for k in (0, 1))
        >>> after = env.rollout(3)[:, -1]["next"]
        >>> _ = other.load_state_dict(env.state_dict())
        >>> action = env.rand_action()
        >>> first, again = (each.step(after.clone().update(action)) for each in (env, other))
        >>> bool((first["next", "agents", "reward"] == again["next", "agents", "reward"]).all())
        True
    """

    # Its state_dict holds all that shapes the future, see environment_state.
    exact_state = True

    def _saved(self) -> dict[str, torch.Tensor]:
        (num_envs,) = self.batch_size
        steps = [len(past) for past in self._past]
        shape = (num_envs, max(steps), self.num_agents, self._actions)
        actions = np.zeros(shape, np.float32)
        for row, past in enumerate(self._past):
            for step, action in enumerate(past):
                actions[row, step] = action
        return {
            "generator": self.generator.get_state(),
            "seeds": torch.from_numpy(self._seeds.copy()),
            "steps": torch.tensor(steps),
            "actions": torch.from_numpy(actions),
        }

    def _restore(self, state: dict[str, torch.Tensor]) -> None:
        own = self._saved()
        new = {name: value.cpu() for name, value in state.items()}
        for name in ("generator", "seeds", "steps"):
            check_like(name, new[name], own[name])
        expected = (len(self._seeds), int(new["steps"].max()), *own["actions"].shape[2:])
        if tuple(new["actions"].shape) != expected:
            raise ValueError(
                f"actions must have the shape {expected}, got {tuple(new['actions'].shape)}."
            )
        self._blank()
        self.generator.set_state(new["generator"])
        for row, (seed, steps) in enumerate(
            zip(new["seeds"].tolist(), new["steps"].tolist(), strict=True)
        ):
            if seed >= 0:
                with _quiet():
                    self._begin(row, seed)
            self._replay(row, new["actions"][row, :steps].numpy().copy())
        if self._masked:
            _grid.publish_mask(self, self._mask, torch.from_numpy(self._allowed).to(self.device))


# Spaces


class _Numbers:
    """A continuous action, flattened."""

    kind = "continuous"

    def __init__(self, agent: str, space: Any):
        if not np.issubdtype(space.dtype, np.floating):
            raise ValueError(
                f"The actions of {agent} in a Box must be floating-point numbers, got {space}: "
                "make whole numbers a MultiDiscrete where the environment is made."
            )
        self.low = torch.from_numpy(np.asarray(space.low, np.float32).reshape(-1))
        self.high = torch.from_numpy(np.asarray(space.high, np.float32).reshape(-1))
        if not bool((self.high - self.low).isfinite().all()):
            raise ValueError(f"The actions of {agent} must have finite bounds, got {space}.")
        self.size, self.shape, self.space = len(self.low), space.shape, space

    def padded(self, bound: str, size: int) -> torch.Tensor:
        return torch.nn.functional.pad(getattr(self, bound), (0, size - self.size))

    def __call__(self, actions: np.ndarray) -> np.ndarray:
        """Actions ``[M, A]`` as the space has them, ``[M, ...]``."""
        own = actions[:, : self.size].astype(self.space.dtype).reshape(-1, *self.shape)
        if own.dtype == actions.dtype:
            return own
        # A bound of the space's own type may be rounded outward in float32.
        return np.clip(own, self.space.low, self.space.high)


class _Choices:
    """One choice, or one among the combinations of several."""

    kind = "discrete"

    def __init__(self, agent: str, sizes: list[int], first: list[int], shape: tuple[int, ...]):
        self.sizes, self.first, self.shape = sizes, first, shape
        self.size = math.prod(sizes)
        if self.size > _MOST_CHOICES:
            raise ValueError(
                f"The actions of {agent} have {self.size} combinations, at most {_MOST_CHOICES} "
                "can be laid out."
            )

    def __call__(self, chosen: np.ndarray) -> Any:
        """Numbers ``[M]`` as the space has them: M numbers, or ``[M, *shape]``."""
        # Where an action beyond the agent's own was taken nothing is chosen.
        chosen = np.where(chosen < self.size, chosen, 0)
        if not self.shape:
            return (chosen + self.first[0]).tolist()
        components = np.stack(np.unravel_index(chosen, self.sizes), -1) + np.array(self.first)
        return components.reshape(len(chosen), *self.shape)


def _writer(agent: str, space: Any) -> _Numbers | _Choices:
    name = type(space).__name__
    if name == "Box":
        return _Numbers(agent, space)
    if name == "Discrete":
        return _Choices(agent, [int(space.n)], [int(space.start)], ())
    if name == "MultiDiscrete":
        sizes, first = space.nvec.flatten().tolist(), space.start.flatten().tolist()
        return _Choices(agent, sizes, first, space.shape)
    if name == "MultiBinary":
        sizes = [2] * math.prod(space.shape)
        return _Choices(agent, sizes, [0] * len(sizes), space.shape)
    raise ValueError(
        f"The actions of {agent} must be of Box, Discrete, MultiDiscrete or MultiBinary, got "
        f"{space}."
    )


class _Reader:
    """Numbers of an agent's observation: flat, one-hots for choices and small gray images."""

    def __init__(self, agent: str, space: Any, image_size: int):
        self.masked = _is_dict(space) and "action_mask" in space.spaces
        if self.masked:
            space = space["observation"] if "observation" in space.spaces else space
        self._agent, self._space, self._image_size = agent, space, image_size
        # An image is shrunk as tensors are; here only its size counts.
        self.size = len(self._flat(space, _zero(space)))
        # What is observed is laid out as it is.
        plain = type(space).__name__ == "Box" and space.dtype != np.uint8
        self.vector = plain and not self.masked and len(space.shape) == 1

    def __call__(self, seen: Any) -> np.ndarray:
        inside = _is_dict(self._space) or not isinstance(seen, Mapping)
        numbers = self._flat(self._space, seen if inside else seen["observation"])
        if len(numbers) != self.size:
            raise ValueError(
                f"{self._agent} observes {len(numbers)} numbers, its space {self._space} has "
                f"{self.size}."
            )
        return numbers

    def mask(self, seen: Any, info: Mapping[str, Any]) -> np.ndarray | None:
        if self.masked:
            return np.asarray(seen["action_mask"], bool)
        return np.asarray(info["action_mask"], bool) if "action_mask" in info else None

    def _flat(self, space: Any, seen: Any) -> np.ndarray:
        if _is_dict(space):
            parts = [(part, seen[key]) for key, part in space.spaces.items()]
            return np.concatenate([self._flat(*pair) for pair in parts if pair[0] is not None])
        if type(space).__name__ == "Tuple":
            pairs = zip(space.spaces, seen, strict=True)
            return np.concatenate([self._flat(*pair) for pair in pairs])
        if type(space).__name__ == "Discrete":
            return np.eye(int(space.n), dtype=np.float32)[int(seen) - int(space.start)]
        values = np.asarray(seen)
        if values.dtype == np.float32 and values.ndim == 1:
            return values
        if values.ndim == 3 and values.dtype == np.uint8:
            gray = torch.from_numpy(values.mean(-1, dtype=np.float32))[None]
            return (adaptive_avg_pool2d(gray, self._image_size) / 255).flatten().numpy()
        return values.astype(np.float32).reshape(-1)


def _is_dict(space: Any) -> bool:
    return type(space).__name__ == "Dict"


def _zero(space: Any) -> Any:
    """A member of a space, of the right shape."""
    if _is_dict(space):
        return {key: _zero(part) for key, part in space.spaces.items()}
    if type(space).__name__ == "Tuple":
        return tuple(_zero(part) for part in space.spaces)
    if type(space).__name__ == "Discrete":
        return int(space.start)
    return np.zeros(space.shape, space.dtype)


def _parallel(env: Any) -> Any:
    if hasattr(env, "agent_iter"):
        conversions = import_extra("pettingzoo.utils.conversions", "pettingzoo")
        if getattr(env, "metadata", {}).get("is_parallelizable", False):
            return _parallel(conversions.aec_to_parallel(env))
        return conversions.turn_based_aec_to_parallel(env)
    if not hasattr(env, "possible_agents") or not hasattr(env, "action_space"):
        raise TypeError(
            f"make must give an environment of PettingZoo, with possible_agents, got {env!r}."
        )
    if type(env).__name__ == "aec_to_parallel_wrapper":
        # This conversion lets every agent observe before it acts, and throws that away.
        env.aec_env.last = partial(env.aec_env.last, observe=False)
    return env


def _infos_say(env: Any) -> bool:
    """Whether what is allowed stands in the infos of an environment."""
    with _quiet():
        _, infos = env.reset(seed=0)
    return any("action_mask" in info for info in infos.values())


@contextmanager
def _quiet():
    """PettingZoo and what it stands on warn at every construction and in many steps."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# Tasks


def agent_returns(episodes: TensorDictBase) -> dict[str, torch.Tensor]:
    """Length of the episodes and return of each agent, episodes ``[B, T]`` -> scalars.

    What comes after an episode's end does not count.

    Args:
        episodes: complete episodes.

    Returns:
        ``episode_length``, and ``return_agent_0`` and so on, means over the episodes.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> sorted(agent_returns(make_env("push_box", num_envs=2, seed=0).rollout(3)))
        ['episode_length', 'return_agent_0', 'return_agent_1']
    """
    runs = _grid.running(episodes)
    returns = (episodes[next_key(REWARD)].squeeze(-1) * runs.unsqueeze(-1)).sum(1).mean(0)
    values = {f"return_agent_{agent}": value for agent, value in enumerate(returns)}
    return {"episode_length": runs.sum(1).float().mean(), **values}


def pettingzoo_task(
    make: Callable[[], Any],
    *,
    render: Callable[[], Any] | None = None,
    exact: bool = False,
    n_agents: int | None = None,
    horizon: int = 100,
    image_size: int = 16,
) -> Task:
    """Any environment of PettingZoo's kind as a task.

    Args:
        make: gives a new environment, parallel or turn-taking.
        render: likewise, one made for rendering, as with ``render_mode="rgb_array"``; a picture
            of an episode plays it again there. Default: no pictures.
        exact: the seed and the actions of an episode say all that happens in it, so that runs
            are resumed in the middle of episodes. Default: False, at the next episode.
        n_agents: how many agents it has. Default: not known before it is made.
        horizon: steps after which an episode is truncated. Default: 100.
        image_size: as in :class:`PettingZooEnv`.

    Returns:
        A :class:`torchrl_alita.envs.Task`, with the metrics of :func:`agent_returns`; its
        environments raise a ValueError if another number of agents is asked for.

    Raises:
        TypeError: if ``make`` cannot be called, as an environment itself cannot.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> from mpe2 import simple_tag_v3
        >>> task = pettingzoo_task(simple_tag_v3.parallel_env, exact=True, horizon=25)
        >>> make_env(task, num_envs=2, seed=0).num_agents
        4
    """
    check_callable("make", make)
    build = partial(_build, make, exact=exact, image_size=image_size)
    return Task(
        make=build,
        metrics=agent_returns,
        draw=None if render is None else partial(draw_pettingzoo, render=render),
        n_agents=n_agents,
        horizon=horizon,
    )


def _build(
    make: Callable[[], Any],
    *,
    num_envs: int,
    n_agents: int | None,
    device: torch.device | str,
    seed: int | None,
    horizon: int,
    exact: bool,
    image_size: int,
) -> PettingZooEnv:
    kind = ExactPettingZooEnv if exact else PettingZooEnv
    env = kind(make, num_envs, horizon=horizon, image_size=image_size, device=device, seed=seed)
    if n_agents not in (None, env.num_agents):
        raise ValueError(
            f"The environment has the agents {list(env.agents)}, got n_agents={n_agents}."
        )
    return env


def draw_pettingzoo(
    episode: TensorDictBase, *, render: Callable[[], Any], size: int = 320
) -> list[Image]:
    """Frames of one episode ``[T]``, which is played again from its seed and its actions.

    Args:
        episode: it is drawn to its end, and not beyond.
        render: gives an environment made for rendering.
        size: the longer edge of a picture, pixels.

    Returns:
        A picture for each state, one more than the episode has steps.

    Raises:
        ImportError: if Pillow is not installed; the extra is named.
        KeyError: if the episode has no seed.
    """
    image_module = import_extra("PIL.Image", "recipes")
    require_keys(episode, [EPISODE_SEED, ACTION])
    episode = _grid.first_episode(episode)[0]
    # Pygame's window is not opened where there is no display.
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    env = PettingZooEnv(render, 1, seed=0)
    with _quiet():
        env._begin(0, int(episode[EPISODE_SEED][0]))

    def frame() -> Image:
        with _quiet():
            image = image_module.fromarray(np.asarray(env._envs[0].render(), np.uint8))
        image.thumbnail((size, size))
        return image

    frames = [frame()]
    for action in episode[ACTION].numpy():
        env._replay(0, action[None])
        frames.append(frame())
    env.close()
    return frames


# Suites


@cache
def _modules(package: str) -> tuple[str, ...]:
    """Environments of a package, by their files, without importing it."""
    try:
        found = find_spec(package)
    except (ImportError, ValueError):
        return ()
    if found is None or not found.submodule_search_locations:
        return ()
    root = Path(found.submodule_search_locations[0])
    return tuple(sorted(path.stem for path in root.glob("*_v[0-9]*.py")))


def _registered(env_id: str, **options: Any) -> Any:
    """An environment of PettingZoo's registry.

    Raises:
        ImportError: if a package that the game needs is not installed; PettingZoo names the extra.
    """
    zoo = import_module("pettingzoo")
    try:
        return zoo.make("parallel", env_id, **options)
    except import_module("pettingzoo.env_registry.exceptions").FailedToImport as error:
        raise ImportError(str(error)) from error


def _maker(suite: str, name: str) -> Callable[..., Any]:
    package, extra = _SUITES[suite]
    import_extra(package.split(".")[0], extra)
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    if package.startswith("pettingzoo."):
        stem, _, version = name.rpartition("_")
        make = partial(_registered, f"{suite}/{stem}-{version}")
    else:
        make = import_module(f"{package}.{name}").parallel_env
    return partial(_with_arguments, f"{suite}/{name}", make, **_MADE_WITH.get(name, {}))


def _with_arguments(name: str, make: Callable[..., Any], **given: Any) -> Any:
    """A game of a suite, ready to be reset."""
    with naming_arguments(f"The game {name!r}", given):
        return make(**given)


def _named_task(suite: str, name: str) -> Task:
    try:
        with _quiet():
            make = _maker(suite, name)
            env = make()
    except ModuleNotFoundError as error:
        # Of the games' own libraries, which are PettingZoo's extras.
        raise ImportError(
            f'{error.name} is not installed; try: pip install "pettingzoo[{suite}]"'
        ) from error
    arguments = _arguments(env)
    number = _NUMBERS.get(name)
    own = [
        (key, _kind(value), value)
        for key, value in arguments.items()
        if key not in ("max_cycles", "render_mode", number)
    ]
    settings = make_dataclass(
        f"{name.title().replace('_', '')}Settings",
        [*own, ("image_size", int, 16)],
        frozen=True,
        kw_only=True,
    )
    settings.__module__ = __name__
    settings.__doc__ = f"What {suite}/{name} can set, with its own defaults."
    task = partial(_suite_task, make, number, arguments)
    return task(settings(), n_agents=len(env.possible_agents))


def _suite_task(
    make: Callable[..., Any],
    number: str | None,
    arguments: Mapping[str, Any],
    settings: Any,
    n_agents: int | None = None,
) -> Task:
    given = asdict(settings)
    image_size = given.pop("image_size")
    given = {key: value for key, value in given.items() if value != arguments[key]}

    def build(*, n_agents: int | None, horizon: int, settings: Any, **options) -> PettingZooEnv:
        limits = {"max_cycles": horizon} if "max_cycles" in arguments else {}
        if number is not None and n_agents is not None:
            limits[number] = n_agents
        return _build(
            partial(make, **given, **limits),
            n_agents=n_agents,
            horizon=horizon,
            exact=True,
            image_size=image_size,
            **options,
        )

    def draw(episode: TensorDictBase) -> list[Image]:
        limits = {"max_cycles": 10**6} if "max_cycles" in arguments else {}
        if number is not None:
            limits[number] = episode[ACTION].shape[-2]
        render = partial(make, **given, **limits, render_mode="rgb_array")
        return draw_pettingzoo(episode, render=render)

    return Task(
        make=build,
        metrics=agent_returns,
        draw=draw,
        settings=settings,
        n_agents=n_agents,
        horizon=arguments.get("max_cycles") or 100,
        configure=partial(_suite_task, make, number, arguments),
    )


def _arguments(env: Any) -> dict[str, Any]:
    """Arguments of an environment's constructor with plain defaults."""
    for inner in (env.unwrapped, getattr(env.unwrapped, "env", None)):
        if inner is None:
            continue
        found = inspect.signature(type(inner).__init__).parameters.values()
        named = {p.name: p.default for p in found if p.default is not inspect.Parameter.empty}
        if named:
            plain = (bool, int, float, str, type(None))
            return {key: value for key, value in named.items() if isinstance(value, plain)}
    return {}


def _kind(value: Any) -> Any:
    kinds = {bool: bool, int: int | float, float: float, str: str}
    return kinds.get(type(value), float | None)


class _Tuples:
    """An environment of gymnasium whose spaces are tuples, in PettingZoo's form."""

    def __init__(self, name: str, module: str, extra: str, **options: Any):
        import_extra(module, extra)
        gymnasium = import_extra("gymnasium", extra)
        if options.get("render_mode") and not os.environ.get("DISPLAY"):
            import_extra("pyglet", extra).options["headless"] = True
        self._env = gymnasium.make(name, disable_env_checker=True, **options)
        count = len(self._env.action_space.spaces)
        self.possible_agents = [f"agent_{number}" for number in range(count)]
        self.agents: list[str] = []

    def observation_space(self, agent: str) -> Any:
        return self._env.observation_space[self.possible_agents.index(agent)]

    def action_space(self, agent: str) -> Any:
        return self._env.action_space[self.possible_agents.index(agent)]

    def _by_agent(self, values: Iterable[Any]) -> dict[str, Any]:
        return dict(zip(self.possible_agents, values, strict=True))

    def reset(self, seed: int | None = None) -> tuple[dict, dict]:
        self.agents = list(self.possible_agents)
        for player in getattr(self._env.unwrapped, "players", ()):
            # lbforaging draws new places around those of the last episode's end.
            player.position = None
        seen, _ = self._env.reset(seed=seed)
        return self._by_agent(seen), {}

    def step(self, actions: Mapping[str, Any]) -> tuple[dict, ...]:
        seen, paid, terminated, truncated, _ = self._env.step(
            tuple(actions[agent] for agent in self.possible_agents)
        )
        if terminated or truncated:
            self.agents = []
        flags = ([flag] * len(self.possible_agents) for flag in (terminated, truncated))
        return (*map(self._by_agent, (seen, paid, *flags)), {})

    def render(self) -> Any:
        return self._env.unwrapped.render(mode="rgb_array")

    def close(self) -> None:
        self._env.close()


def _tuples_task(module: str, name: str) -> Task:
    make = partial(_Tuples, name, module, "foraging")
    horizon = 50 if module == "lbforaging" else 500
    render = partial(make, render_mode="rgb_array")
    return pettingzoo_task(make, render=render, exact=True, horizon=horizon)


@cache
def _robot_class() -> type:
    """MaMuJoCo's environment, with the same numbers set and read all at once."""
    base: Any = import_extra("gymnasium_robotics", "mamujoco").mamujoco_v1.parallel_env

    class Robot(base):
        def __init__(self, *args: Any, **options: Any):
            super().__init__(*args, **options)
            # Of a single agent the library takes and gives everything as it is.
            shared = self.agent_obsk is not None
            (joints,) = self.single_agent_env.action_space.shape
            order = [node.act_ids for part in self.agent_action_partitions for node in part]
            self._order = order if shared and sorted(order) == list(range(joints)) else None
            agents = range(len(self.possible_agents)) if shared else ()
            places = [_places(self, agent) for agent in agents]
            self._places = places if shared and None not in places else None

        def map_local_actions_to_global_action(self, actions: Mapping[str, Any]) -> np.ndarray:
            if self._order is None:
                return super().map_local_actions_to_global_action(actions)
            torques = np.empty(len(self._order))
            torques[self._order] = np.concatenate([actions[a] for a in self.possible_agents])
            return torques

        def _get_obs(self) -> dict[str, np.ndarray]:
            if self._places is None:
                return super()._get_obs()
            data = self.single_agent_env.unwrapped.data
            numbers = np.concatenate([data.qpos, data.qvel])
            own = zip(self.possible_agents, self._places, strict=True)
            return {agent: numbers[places] for agent, places in own}

    return Robot


def _places(env: Any, agent: int) -> list[int] | None:
    """Where in all positions and velocities an agent's numbers are; None if it sees others too."""
    data = env.single_agent_env.unwrapped.data
    size = len(data.qpos)
    numbers = {"qpos": np.arange(size), "qvel": size + np.arange(len(data.qvel))}
    near = env.k_dicts[agent]
    parts = [
        (node, category)
        for distance in sorted(near)
        for node in near[distance]
        for category in env.local_categories[distance]
    ]
    parts += [(node, category) for category in env.global_categories for node in env.mujoco_globals]
    found = []
    for node, category in parts:
        if category in node.extra_obs:
            if node.extra_obs[category](data).size:
                return None
        elif category in numbers:
            found.append(int(numbers[category][getattr(node, f"{category}_ids")]))
        else:
            return None
    return found


def _robot(name: str, **options: Any) -> Any:
    if not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")
    scenario, _, parts = name.partition("-")
    return _robot_class()(scenario, parts, **options)


def _mamujoco_task(name: str) -> Task:
    import_extra("gymnasium_robotics", "mamujoco")
    render = partial(_robot, name, render_mode="rgb_array")
    return pettingzoo_task(partial(_robot, name), render=render, exact=True, horizon=1_000)


def _installed(module: str, names: Iterable[str]) -> tuple[str, ...]:
    try:
        return tuple(names) if find_spec(module) else ()
    except (ImportError, ValueError):
        return ()


for _suite, (_package, _extra) in _SUITES.items():
    register_suite(
        _suite,
        partial(_modules, _package),
        partial(_named_task, _suite),
        module=_package.split(".")[0],
        extra=_extra,
    )
for _module, _names in _FORAGING.items():
    register_suite(
        _module,
        partial(_installed, _module, _names),
        partial(_tuples_task, _module),
        module=_module,
        extra="foraging",
    )
register_suite(
    "mamujoco",
    partial(_installed, "gymnasium_robotics", _MAMUJOCO),
    _mamujoco_task,
    module="gymnasium_robotics",
    extra="mamujoco",
)
