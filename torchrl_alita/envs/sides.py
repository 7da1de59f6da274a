"""Sides of a game: who stands against whom, and the environment as one side sees it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import torch
from tensordict import TensorDictBase
from torchrl.data import Bounded, Composite, OneHot, TensorSpec
from torchrl.envs import EnvBase, TransformedEnv

from torchrl_alita._agents import gather_agents
from torchrl_alita._checks import agent_indices, check_agent_range, check_at_least_one, check_kind
from torchrl_alita.layout import ACTION, layout_of

__all__ = ["SideView", "check_sides", "sides_by_name", "sides_of"]


def sides_by_name(agents: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Sides of agents that are called ``"adversary_0"``, ``"agent_1"``: by what precedes the number.

    Args:
        agents: their names, in order.

    Returns:
        The indices of each side's agents.

    Examples:
        >>> sides_by_name(["adversary_0", "agent_0", "agent_1"])
        {'adversary': (0,), 'agent': (1, 2)}
    """
    found: dict[str, tuple[int, ...]] = {}
    for index, agent in enumerate(agents):
        check_kind("An agent's name", agent, str, "a text")
        name = re.sub(r"[_-]?\d+$", "", agent) or "agents"
        found[name] = (*found.get(name, ()), index)
    return found


def sides_of(env: EnvBase) -> dict[str, tuple[int, ...]]:
    """The sides of a game, as its environment has them.

    Environments say it by an attribute ``sides``. Of :func:`torchrl_alita.envs.as_team` they are
    the groups, of PettingZoo and JaxMARL what precedes the number in the agents' names. Of any
    other all agents are one side, ``"agents"``.

    Args:
        env: an environment in the layout of this package.

    Returns:
        The indices of each side's agents; each agent is on one side.

    Raises:
        KeyError: if the environment has another layout.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> sides_of(make_env("mpe/adversary"))
        {'adversary': (0,), 'good': (1, 2)}
        >>> sides_of(make_env("push_box"))
        {'agents': (0, 1)}
    """
    num_agents = layout_of(env).num_agents
    while isinstance(env, TransformedEnv):
        transform = env.transform
        for part in reversed(transform) if hasattr(transform, "__len__") else [transform]:
            if hasattr(type(part), "sides"):
                return dict(part.sides)
        env = env.base_env
    own = getattr(env, "sides", None) if hasattr(type(env), "sides") else None
    return {"agents": tuple(range(num_agents))} if own is None else dict(own)


def check_sides(sides: Mapping[str, Sequence[int]], num_agents: int) -> dict[str, tuple[int, ...]]:
    """Sides of which each has agents, and every agent is on one.

    Args:
        sides: the indices of each side's agents.
        num_agents: N.

    Returns:
        The same, as tuples.

    Raises:
        ValueError: for a side without agents, an agent that does not exist, or one that is on
            two sides or on none.

    Examples:
        >>> check_sides({"good": [1, 2], "adversary": [0, 1]}, 3)
        Traceback (most recent call last):
        ...
        ValueError: Agent 1 is on two sides, 'good' and 'adversary'.
    """
    check_kind("sides", sides, Mapping, "a mapping of names to agents")
    check_at_least_one(num_agents=num_agents)
    checked: dict[str, tuple[int, ...]] = {}
    owner: dict[int, str] = {}
    for name, agents in sides.items():
        if not isinstance(agents, int) and not len(agents):
            raise ValueError(f"The side {name!r} has no agents.")
        checked[name] = agent_indices(f"The agents of the side {name!r}", agents)
        check_agent_range(f"The agents of the side {name!r}", checked[name], num_agents)
        for agent in checked[name]:
            if agent in owner:
                raise ValueError(f"Agent {agent} is on two sides, {owner[agent]!r} and {name!r}.")
            owner[agent] = name
    if alone := [agent for agent in range(num_agents) if agent not in owner]:
        raise ValueError(f"The agents {alone} are on no side; the sides are {checked}.")
    return checked


class SideView(EnvBase):
    """The environment as one side sees it: the specs of n of its N agents, and nothing to play.

    Networks and algorithms are built from specs alone; a view lets every one of them be built
    for some of the agents. ``"state"`` stays the whole game's. Entries keep their width, padding
    included.

    Args:
        env: an environment in the layout of this package.
        agents: the side's, in their order.

    Raises:
        ValueError: if an index is negative, listed twice or not below N.
        RuntimeError: when it is reset or stepped.
        KeyError: if the environment has another layout.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> layout_of(SideView(make_env("mpe/adversary"), (1, 2)))[:3]
        (2, 10, 5)
    """

    def __init__(self, env: EnvBase, agents: Sequence[int]):
        num_agents = layout_of(env).num_agents
        agents = agent_indices("agents", agents)
        check_agent_range("agents", agents, num_agents)
        super().__init__(device=env.device, batch_size=env.batch_size)
        self.num_agents = len(agents)
        for name in ("observation_spec", "action_spec", "reward_spec"):
            spec = getattr(env, f"full_{name}")
            setattr(self, name, _of_agents(spec, agents, len(env.batch_size)))
        self.done_spec = env.full_done_spec.clone()

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs) -> TensorDictBase:
        raise RuntimeError("A side's view says what its agents see and do; play the game itself.")

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        raise RuntimeError("A side's view says what its agents see and do; play the game itself.")

    def _set_seed(self, seed: int | None) -> None:
        """Nothing is drawn."""


def _of_agents(spec: Composite, agents: Sequence[int], dim: int) -> Composite:
    """Specs of which those in the group of all agents are some of the agents' alone."""
    kept = Composite(shape=spec.shape, device=spec.device)
    for key, own in spec.items():
        kept[key] = _some(own, agents, dim) if key == ACTION[0] else own.clone()
    return kept


def _some(spec: TensorSpec, agents: Sequence[int], dim: int) -> TensorSpec:
    def some(entry: torch.Tensor) -> torch.Tensor:
        return gather_agents(entry, agents, dim).clone()

    shape = (*spec.shape[:dim], len(agents), *spec.shape[dim + 1 :])
    if isinstance(spec, Composite):
        leaves = {key: _some(leaf, agents, dim) for key, leaf in spec.items()}
        return Composite(leaves, shape=shape, device=spec.device)
    if isinstance(spec, OneHot):
        mask = getattr(spec, "mask", None)
        made = type(spec)(spec.space.n, shape=shape, dtype=spec.dtype, device=spec.device)
        if mask is not None:
            made.update_mask(some(mask.expand(spec.shape)))
        return made
    if isinstance(spec, Bounded):
        low, high = (some(end.expand(spec.shape)) for end in (spec.space.low, spec.space.high))
        return Bounded(low, high, shape=shape, dtype=spec.dtype, device=spec.device)
    index = torch.zeros(spec.shape[dim], dtype=torch.bool)
    index[list(agents)] = True
    return spec[(*[slice(None)] * dim, index.nonzero().flatten())].clone()
