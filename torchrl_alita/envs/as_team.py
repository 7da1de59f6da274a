"""Any environment of TorchRL in the layout of this package.

Source of the layout's idea, all agents padded into one stacked group:
https://arxiv.org/abs/2312.01472, Sec. 3, without its restriction to equal agents.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from tensordict import LazyStackedTensorDict, NestedKey, TensorDict, TensorDictBase, unravel_key
from torch.nn.functional import one_hot, pad
from torchrl.data import (
    Binary,
    Bounded,
    Categorical,
    Composite,
    MultiCategorical,
    MultiOneHot,
    OneHot,
    StackedComposite,
    TensorSpec,
    Unbounded,
)
from torchrl.envs import EnvBase, Transform, TransformedEnv

from torchrl_alita._checks import check_at_least_one, check_kind, check_sequence
from torchrl_alita.envs._grid import AllowedOneHot, publish_mask
from torchrl_alita.layout import ACTION, STATE

__all__ = ["TeamLayout", "as_team"]

_OUTSIDE = "_team"
_FLAGS = ("done", "terminated", "truncated")


def as_team(
    env: EnvBase,
    *,
    observation: NestedKey | Sequence[NestedKey] = "observation",
    state: NestedKey | None = None,
    action_mask: str = "action_mask",
    most_choices: int = 1_000,
) -> TransformedEnv:
    """Any environment of TorchRL in the layout of this package.

    All agents of all groups stand in one group, in the order of the environment's
    ``group_map`` or of its specs; an environment without groups has one agent. Agents with
    fewer entries than others are padded behind their own. What is written:

    - ``("agents", "observation")`` float32 ``[*B, N, O]``: the agent's entries, flattened and
      one behind the other; of one choice among n, n entries; zero beyond the agent's own.
    - ``("agents", "action")`` float32 ``[*B, N, A]``: continuous, with the agents' bounds, which
      are 0 and 0 beyond their own; or one-hot. The environment gets numbers of its own type within
      its bounds. Several choices at a time are one choice among their combinations, the last one
      counted fastest.
    - ``("agents", "action_mask")`` bool ``[*B, N, A]``, if the environment has masks or agents
      have unequal numbers of actions.
    - ``("agents", "reward")`` ``[*B, N, 1]``: a reward of a whole group, or of everybody, is each
      agent's.
    - ``"done"``, ``"terminated"`` and ``"truncated"`` ``[*B, 1]``. Where only agents have flags,
      the episode ends when no agent is alive; it is terminated if any agent was.
    - ``("agents", "alive")`` and ``("agents", "terminated")`` bool ``[*B, N, 1]``, if agents have
      flags of their own. An agent is alive until its flag is set, if only for one step; the
      reward of that step is kept, then its rewards and observations are 0, whatever the
      environment writes, and of discrete actions only the first is allowed. One that is truncated
      still observes in that step, for its value goes on from there, and stays alive where the
      episode ends with it.
    - ``"state"`` ``[*B, S]``, if the environment has one or ``state`` names it.

    What else the environment writes stays where it is.

    Args:
        env: the environment, batched or not.
        observation: what each agent sees: one or several keys, in a group or at the root of an
            environment without groups. Default: ``"observation"``, which may hold others.
        state: the key of the state, flattened. Default: ``"state"`` if there is one.
        action_mask: name of the mask of actions beside the observations of a group, or at the
            root of an environment without groups. Default: ``"action_mask"``, where there is one.
        most_choices: combinations that several choices of an agent may have. Default: 1,000.

    Returns:
        The transformed environment. It is resumed exactly where ``env`` can be, see
        :func:`torchrl_alita.envs.environment_state`.

    Raises:
        ValueError: for what cannot be laid out, with what to change: actions of different kinds,
            or without finite bounds; too many combinations; masks for several choices.
        KeyError: if an observation, the state, a mask that was named, a reward or a flag is
            missing, or an action has another name than ``"action"``; the keys present are named.

    Examples:
        >>> from torchrl.envs import VmasEnv
        >>> env = as_team(VmasEnv("simple_adversary", num_envs=2, continuous_actions=False))
        >>> rollout = env.rollout(3)
        >>> rollout["agents", "observation"].shape, rollout["agents", "action"].shape
        (torch.Size([2, 3, 3, 10]), torch.Size([2, 3, 3, 9]))
    """
    check_kind("env", env, EnvBase, "a TorchRL environment")
    check_at_least_one(most_choices=most_choices)
    single = isinstance(observation, (str, tuple))
    keys = [observation] if single else check_sequence("observation", observation)
    layout = TeamLayout(env, keys, state=state, action_mask=action_mask, most_choices=most_choices)
    return TransformedEnv(env, layout, auto_unwrap=False)


@dataclass(frozen=True)
class _Choices:
    """How agents say which of several things they do: one-hot here, otherwise there."""

    sizes: tuple[int, ...]
    encoding: str  # index, one_hot, several_one_hots or bits
    shape: tuple[int, ...]  # of the entry there, for one agent
    dtype: torch.dtype

    @property
    def size(self) -> int:
        return prod(self.sizes)

    def __call__(self, action: torch.Tensor) -> torch.Tensor:
        """One-hot ``[*B, n, >= size]`` as the environment takes it, ``[*B, n, *shape]``."""
        chosen = action[..., : self.size].argmax(-1)
        if self.encoding == "one_hot":
            return one_hot(chosen, self.size).to(self.dtype)
        components: list[torch.Tensor] = []
        for size in reversed(self.sizes):
            components.insert(0, chosen % size)
            chosen = chosen.div(size, rounding_mode="floor")
        if self.encoding == "several_one_hots":
            hot = [one_hot(c, size) for c, size in zip(components, self.sizes, strict=True)]
            return torch.cat(hot, -1).to(self.dtype)
        lead = action.shape[:-1]
        return torch.stack(components, -1).to(self.dtype).reshape(*lead, *self.shape)


@dataclass(frozen=True)
class _Numbers:
    """Continuous actions, flattened here."""

    low: torch.Tensor
    high: torch.Tensor
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return prod(self.shape)

    def __call__(self, action: torch.Tensor) -> torch.Tensor:
        # A bound of the environment's own type may be rounded outward here.
        low, high = (bound.to(action.device) for bound in (self.low, self.high))
        own = action[..., : self.size].to(low.dtype).clamp(low, high)
        return own.reshape(*action.shape[:-1], *self.shape)


@dataclass(frozen=True)
class _Block:
    """Agents of equal specs that stand together in a group."""

    group: tuple[str, ...]
    member: int | None  # of a group whose members differ; None for the whole group
    count: int
    has_agents: bool  # the group's entries have a dimension for the agents
    observation: tuple[tuple[NestedKey, int | None], ...]  # with the number of choices, if any
    observation_size: int
    action: _Choices | _Numbers
    mask: str | None  # its name, if there is one
    reward: NestedKey
    flags: tuple[str, ...]

    @property
    def name(self) -> str:
        """The group's, for errors."""
        return repr(".".join(self.group)) if self.group else "of all agents"


def _given(entries: TensorDictBase, key: NestedKey, block: _Block) -> torch.Tensor:
    """An entry that the specs promise."""
    if (value := entries.get(key, None)) is None:
        raise KeyError(f"The environment gave no {key} of the group {block.name} in this step.")
    return value


class TeamLayout(Transform):
    """The transform of :func:`as_team`.

    Args:
        env: the environment that it will stand on.
        observation: as in :func:`as_team`.
        state: as in :func:`as_team`.
        action_mask: as in :func:`as_team`.
        most_choices: as in :func:`as_team`.

    Raises:
        ValueError: as in :func:`as_team`.
        KeyError: as in :func:`as_team`.

    Examples:
        >>> from torchrl.envs import VmasEnv
        >>> TeamLayout(VmasEnv("balance", num_envs=2, n_agents=4), ["observation"]).num_agents
        4
    """

    def __init__(
        self,
        env: EnvBase,
        observation: Sequence[NestedKey],
        *,
        state: NestedKey | None = None,
        action_mask: str = "action_mask",
        most_choices: int = 1_000,
    ):
        super().__init__(in_keys=[], out_keys=[])
        self._lead = len(env.batch_size)
        self._blocks = list(_blocks(env, observation, action_mask, most_choices))
        if action_mask != "action_mask" and not any(block.mask for block in self._blocks):
            known = _present(env.full_observation_spec)
            raise KeyError(f"No mask {action_mask!r} in any group; the environment has {known}.")
        self._check_kinds()
        self.num_agents = sum(block.count for block in self._blocks)
        self.discrete = isinstance(self._blocks[0].action, _Choices)
        self._size = max(block.observation_size for block in self._blocks)
        self._actions = max(block.action.size for block in self._blocks)
        self._state = self._find_state(env, state)
        root = [name for name in _FLAGS if name in set(env.full_done_spec.keys())]
        self._has_root_flags = "done" in root
        self._has_agent_flags = all(block.group and block.flags for block in self._blocks)
        if not self._has_root_flags and not self._has_agent_flags:
            raise KeyError(
                f"The environment has neither 'done' nor one for each agent; it has "
                f"{_present(env.full_done_spec)}."
            )
        sizes = {block.action.size for block in self._blocks}
        self._changing = any(block.mask for block in self._blocks) or self._has_agent_flags
        self._masked = self.discrete and (self._changing or len(sizes) > 1)
        self._mask = self._own_actions(env) if self._masked else None

    def _check_kinds(self) -> None:
        kinds = {
            "/".join(block.group) or "the agent": isinstance(block.action, _Choices)
            for block in self._blocks
        }
        if len({isinstance(block.action, _Choices) for block in self._blocks}) > 1:
            said = {name: "discrete" if kind else "continuous" for name, kind in kinds.items()}
            raise ValueError(
                f"All agents must have actions of one kind, got {said}: choose continuous or "
                "discrete actions for all where the environment is made."
            )

    def _find_state(self, env: EnvBase, state: NestedKey | None) -> NestedKey | None:
        keys = env.full_observation_spec.keys(True, True)
        if state is None:
            leaf = STATE in keys and len(env.full_observation_spec[STATE].shape) > self._lead
            return STATE if leaf else None
        if unravel_key(state) not in keys:
            raise KeyError(f"The environment has no {state!r}; it has {_present(keys)}.")
        return unravel_key(state)

    def _own_actions(self, env: EnvBase) -> torch.Tensor:
        """Which actions each agent has at all, ``[*B, N, A]``."""
        numbers = torch.arange(self._actions, device=env.device)
        rows = [numbers < block.action.size for block in self._blocks for _ in range(block.count)]
        return torch.stack(rows).expand(*env.batch_size, -1, -1).clone()

    @property
    def sides(self) -> dict[str, tuple[int, ...]]:
        """The agents of each group, see :func:`torchrl_alita.envs.sides_of`."""
        found: dict[str, tuple[int, ...]] = {}
        first = 0
        for block in self._blocks:
            name = "_".join(block.group) or "agents"
            found[name] = (*found.get(name, ()), *range(first, first + block.count))
            first += block.count
        return found

    # What goes in

    def _inv_call(self, tensordict: TensorDictBase) -> TensorDictBase:
        action = tensordict.get(ACTION, None)
        if action is None:
            return tensordict
        parts: dict[tuple[str, ...], torch.Tensor] = {}
        alone: dict[tuple[str, ...], list[TensorDict]] = {}
        counts = [block.count for block in self._blocks]
        for block, own in zip(self._blocks, action.split(counts, -2), strict=True):
            value = block.action(own)
            if not block.has_agents:
                value = value.squeeze(self._lead)
            if block.member is None:
                parts[block.group] = value
            else:
                value = value.squeeze(self._lead)
                member = TensorDict({"action": value}, tensordict.batch_size)
                alone.setdefault(block.group, []).append(member)
        several = len({block.group for block in self._blocks}) > 1
        given = tensordict.exclude("agents" if several else ACTION)
        for group, value in parts.items():
            given.set((*group, "action"), value)
        for group, members in alone.items():
            given.set(group, LazyStackedTensorDict.lazy_stack(members, self._lead))
        # As it is outside: for this transform's step and for those of transforms around it.
        given.set(_OUTSIDE, tensordict.get("agents"))
        return given

    def transform_action_spec(self, action_spec: Composite) -> Composite:
        shape = (*action_spec.shape, self.num_agents, self._actions)
        if not self.discrete:
            low, high = (
                torch.cat([pad(b.float(), (0, self._actions - b.shape[-1])) for b in bounds], -2)
                for bounds in zip(
                    *((action.low, action.high) for action in map(_numbers_of, self._blocks)),
                    strict=True,
                )
            )
            own = Bounded(low, high, shape=shape, dtype=torch.float32, device=action_spec.device)
        else:
            how = {"shape": shape, "dtype": torch.float32, "device": action_spec.device}
            if self._masked:
                own = AllowedOneHot(self._actions, mask=self._mask, **how)
            else:
                own = OneHot(self._actions, **how)
        return self._grouped(action_spec, action=own)

    def _grouped(self, like: Composite, **leaves: TensorSpec) -> Composite:
        shape, device = like.shape, like.device
        agents = Composite(**leaves, shape=(*shape, self.num_agents), device=device)
        return Composite(agents=agents, shape=shape, device=device)

    # What comes out

    def transform_observation_spec(self, observation_spec: Composite) -> Composite:
        lead, device = (*observation_spec.shape, self.num_agents), observation_spec.device
        leaves: dict[str, TensorSpec] = {
            "observation": Unbounded((*lead, self._size), device=device)
        }
        flag = Categorical(2, shape=(*lead, 1), dtype=torch.bool, device=device)
        if self._has_agent_flags:
            leaves |= {"alive": flag, "terminated": flag.clone()}
        if self._masked:
            shape = (*lead, self._actions)
            leaves["action_mask"] = Categorical(2, shape=shape, dtype=torch.bool, device=device)
        rest = self._rest(observation_spec)
        own = self._grouped(observation_spec, **leaves)
        if self._state is not None:
            size = prod(observation_spec[self._state].shape[self._lead :])
            own[STATE] = Unbounded((*observation_spec.shape, size), device=device)
        return _merge(rest, own)

    def transform_reward_spec(self, reward_spec: Composite) -> Composite:
        shape = (*reward_spec.shape, self.num_agents, 1)
        return self._grouped(reward_spec, reward=Unbounded(shape, device=reward_spec.device))

    def transform_done_spec(self, done_spec: Composite) -> Composite:
        names = [name for name in _FLAGS if name in set(done_spec.keys())]
        flag = Categorical(
            2, shape=(*done_spec.shape, 1), dtype=torch.bool, device=done_spec.device
        )
        flags = {name: flag.clone() for name in (names if self._has_root_flags else _FLAGS)}
        return Composite(**flags, shape=done_spec.shape, device=done_spec.device)

    def _rest(self, entries: TensorDictBase | Composite) -> Any:
        """What is not taken over, of entries or specs."""
        taken = [self._state] if self._state is not None else []
        several = len({block.group for block in self._blocks}) > 1
        for block in self._blocks:
            if several and block.group == ("agents",):
                # Their number of agents is not that of all.
                taken.append("agents")
                continue
            taken += [(*block.group, block.mask or "action_mask"), (*block.group, "action")]
            taken.append(block.reward)
            taken += [(*block.group, *_listed(key)) for key, _ in block.observation]
            taken += [(*block.group, name) for name in _FLAGS] if block.group else []
        groups = [block.group for block in self._blocks if block.member is not None]
        rest = entries.clone() if isinstance(entries, Composite) else entries.copy()
        for key in dict.fromkeys([unravel_key(tuple(_listed(k))) for k in taken] + groups):
            _remove(rest, key)
        return rest

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        outside = tensordict.pop(_OUTSIDE, None)
        if outside is not None:
            tensordict.set("agents", outside)
        before = tensordict.get("agents", None)
        return self._laid_out(next_tensordict, before=before, step=True)

    def _reset(
        self, tensordict: TensorDictBase | None, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        kept = self._mask.clone() if self._changing and self._mask is not None else None
        laid_out = self._laid_out(tensordict_reset, before=None, step=False)
        which = None if tensordict is None else self._which(tensordict)
        if kept is not None and which is not None:
            # Of the environments that go on, what is returned here is of an earlier step.
            self._publish(torch.where(which.unsqueeze(-1), self._mask, kept))
        return laid_out

    def _which(self, tensordict: TensorDictBase) -> torch.Tensor | None:
        """Which environments are reset, ``[*B, 1]``; None for all."""
        found = tensordict.get("_reset", None)
        if found is None:
            block = self._blocks[0]
            found = tensordict.get((*block.group, "_reset"), None)
            if found is not None and block.has_agents:
                found = found.any(self._lead)
        return found

    def _reset_env_preprocess(self, tensordict: TensorDictBase | None) -> TensorDictBase | None:
        reset = None if tensordict is None else tensordict.get("_reset", None)
        if tensordict is None or reset is None or self._has_root_flags:
            return tensordict
        tensordict = tensordict.exclude("_reset")
        for block in self._blocks:
            shape = (*reset.shape[:-1], block.count, 1) if block.has_agents else reset.shape
            each = reset.unsqueeze(-2).expand(shape) if block.has_agents else reset
            tensordict.set((*block.group, "_reset"), each.clone())
        return tensordict

    def _laid_out(
        self, entries: TensorDictBase, *, before: TensorDictBase | None, step: bool
    ) -> TensorDictBase:
        members = [self._members(entries, block) for block in self._blocks]
        pairs = list(zip(self._blocks, members, strict=True))
        agents = {"observation": _joined([self._seen(block, own) for block, own in pairs])}
        flags = {}
        if self._has_agent_flags:
            flags = self._agent_flags(entries, pairs, before)
            agents["alive"] = flags["alive"]
            agents["terminated"] = flags["agents_terminated"]
            # Of the dead an environment may write NaN, which no product makes 0. Who is stopped by
            # a limit still sees what its value would go on from.
            sees = flags.pop("sees")
            agents["observation"] = torch.where(sees, agents["observation"], 0)
        if step:
            reward = _joined([self._paid(entries, block, own) for block, own in pairs])
            alive = None if before is None else before.get("alive", None)
            agents["reward"] = reward if alive is None else torch.where(alive, reward, 0)
        if self._masked:
            agents["action_mask"] = self._allowed(pairs, flags.get("alive"))
        rest = self._rest(entries)
        group = rest.get("agents", None)
        if group is None:
            shape = (*entries.batch_size, self.num_agents)
            group = TensorDict({}, shape, device=entries.device)
        for name, value in agents.items():
            group.set(name, value)
        rest.set("agents", group)
        if self._state is not None:
            rest.set(STATE, entries.get(self._state).flatten(self._lead).float())
        if not self._has_root_flags:
            for name in _FLAGS:
                rest.set(name, flags[name])
        return rest

    def _members(self, entries: TensorDictBase, block: _Block) -> TensorDictBase:
        own = entries.get(block.group) if block.group else entries
        return own if block.member is None else own.unbind(self._lead)[block.member]

    def _entry(self, block: _Block, value: torch.Tensor) -> torch.Tensor:
        """With a dimension for the agents, ``[*B, n, ...]``."""
        alone = block.member is not None or not block.has_agents
        return value.unsqueeze(self._lead) if alone else value

    def _seen(self, block: _Block, own: TensorDictBase) -> torch.Tensor:
        parts = []
        for key, choices in block.observation:
            value = self._entry(block, _given(own, key, block))
            value = value.float() if choices is None else one_hot(value.long(), choices).float()
            parts.append(value.reshape(*value.shape[: self._lead + 1], -1))
        seen = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        if seen.shape[-1] != block.observation_size:
            raise ValueError(
                f"The group {block.name} must see {block.observation_size} numbers, as its specs "
                f"say, got {seen.shape[-1]}."
            )
        missing = self._size - seen.shape[-1]
        return pad(seen, (0, missing)) if missing else seen

    def _paid(self, entries: TensorDictBase, block: _Block, own: TensorDictBase) -> torch.Tensor:
        inside = _listed(block.reward)[: len(block.group)] == list(block.group)
        if block.group and inside:
            reward = self._entry(block, _given(own, _listed(block.reward)[-1], block)).float()
        else:
            reward = _given(entries, block.reward, block).float().unsqueeze(self._lead)
            reward = reward.expand(*reward.shape[: self._lead], block.count, 1)
        shape = (*entries.batch_size, block.count, 1)
        if reward.shape != shape:
            raise ValueError(
                f"The reward of the group {block.name} must have the shape {shape}, got "
                f"{tuple(reward.shape)}."
            )
        return reward

    def _agent_flags(
        self,
        entries: TensorDictBase,
        pairs: list[tuple[_Block, TensorDictBase]],
        before: TensorDictBase | None,
    ) -> dict[str, torch.Tensor]:
        def read(name: str) -> torch.Tensor:
            parts = [
                self._entry(block, own.get(name)) if name in block.flags else None
                for block, own in pairs
            ]
            shape = (*entries.batch_size, 1, 1)
            empty = torch.zeros(shape, dtype=torch.bool, device=parts_device(entries, parts))
            return torch.cat(
                [
                    empty.expand(*entries.batch_size, block.count, 1) if part is None else part
                    for part, (block, _) in zip(parts, pairs, strict=True)
                ],
                self._lead,
            )

        done, terminated = read("done"), read("terminated")
        if self._has_root_flags and (ended := entries.get("terminated", None)) is not None:
            # A game that ends for good ends for everybody.
            terminated = terminated | ended.unsqueeze(self._lead)
        was_alive = torch.ones_like(done)
        if before is not None:
            # An environment may set an agent's flags in one step alone.
            was_alive = before.get("alive", was_alive)
            terminated = terminated | before.get("terminated", terminated)
        alive = was_alive & ~done
        ended = ~alive.any(self._lead)
        by_end = ended & terminated.any(self._lead)
        sees = was_alive & ~terminated
        return {
            # The end of an episode by a limit is no end of the agents that it stops.
            "alive": torch.where(ended.unsqueeze(self._lead), sees, alive),
            "sees": sees,
            "agents_terminated": terminated,
            "done": ended,
            "terminated": by_end,
            "truncated": ended & ~by_end,
        }

    def _allowed(
        self, pairs: list[tuple[_Block, TensorDictBase]], alive: torch.Tensor | None
    ) -> torch.Tensor:
        """The mask ``[*B, N, A]``, which the spec of the actions takes over."""
        own_mask: Any = self._mask
        if not self._changing:
            return own_mask.clone()
        parts = []
        first = 0
        for block, own in pairs:
            last = first + block.count
            if block.mask:
                mask = self._entry(block, own.get(block.mask)).bool()
                parts.append(pad(mask, (0, self._actions - mask.shape[-1])))
            else:
                numbers = torch.arange(self._actions, device=own_mask.device)
                shape = (*own_mask.shape[:-2], block.count, self._actions)
                parts.append((numbers < block.action.size).expand(shape))
            first = last
        allowed = _joined(parts)
        only_first = torch.zeros_like(allowed)
        only_first[..., 0] = True
        if alive is not None:
            allowed = torch.where(alive, allowed, only_first)
        # Where the environment allows nothing, as to the dead, the first action is.
        allowed = torch.where(allowed.any(-1, keepdim=True), allowed, only_first)
        self._publish(allowed)
        return allowed

    def _publish(self, allowed: torch.Tensor) -> None:
        """Let the spec of the actions allow what the environment allows."""
        own_mask: Any = self._mask
        container = self.container
        if container is None:
            own_mask.copy_(allowed)
        else:
            publish_mask(container, own_mask, allowed)


def parts_device(entries: TensorDictBase, parts: Iterable[torch.Tensor | None]) -> Any:
    """Where the flags are."""
    found = [part.device for part in parts if part is not None]
    return found[0] if found else entries.device


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, -2)


def _listed(key: NestedKey) -> list[str]:
    return [key] if isinstance(key, str) else list(key)


def _present(spec: Iterable) -> list[str]:
    keys = spec.keys(True, True) if hasattr(spec, "keys") else spec
    return sorted(str(key) for key in keys)


def _remove(entries: TensorDictBase | Composite, key: NestedKey) -> None:
    """Take an entry away, and the entries that hold nothing else."""
    path = _listed(key)
    above = entries.get(path[:-1] and tuple(path[:-1]), None) if len(path) > 1 else entries
    if above is None or path[-1] not in set(above.keys()):
        return
    if isinstance(entries, Composite):
        del above[path[-1]]
    else:
        entries.del_(unravel_key(tuple(path)))
    if len(path) > 1 and not list(above.keys()):
        _remove(entries, path[:-1])


def _merge(rest: Composite, own: Composite) -> Composite:
    for key, spec in own.items():
        if isinstance(spec, Composite) and key in set(rest.keys()):
            for name, leaf in spec.items():
                rest[key, name] = leaf
        else:
            rest[key] = spec
    return rest


# Reading the specs


def _blocks(
    env: EnvBase, observation: Sequence[NestedKey], mask: str, most: int
) -> Iterable[_Block]:
    for group in _groups(env):
        actions = env.full_action_spec[group] if group else env.full_action_spec
        seen = _part(env.full_observation_spec, group)
        flags = _part(env.full_done_spec, group) if group else None
        lead = len(env.batch_size)
        has_agents = bool(group) and len(actions.shape) > lead
        reader = _Reader(env, group, observation, mask, most, has_agents)
        if has_agents and _differ(actions, seen):
            for member in range(actions.shape[lead]):
                own = (_member(spec, lead, member) for spec in (actions, seen, flags))
                yield reader.read(*own, member=member)
        else:
            yield reader.read(actions, seen, flags, member=None)


def _numbers_of(block: _Block) -> Any:
    """How a block's agents act, where they act by numbers."""
    return block.action


def _groups(env: EnvBase) -> list[tuple[str, ...]]:
    found = [tuple(_listed(key)[:-1]) for key in env.action_keys]
    base = env
    while isinstance(base, TransformedEnv):
        base = base.base_env
    # Not by getattr: batches of environments start their processes when they are asked.
    order: list[tuple[str, ...]] = [(name,) for name in vars(base).get("group_map") or {}]
    if sorted(order) == sorted(found):
        return order
    if len(set(found)) < len(found):
        raise ValueError(f"Each agent must have one action, got {_present(env.action_keys)}.")
    return found


def _part(spec: Composite, group: tuple[str, ...]) -> Composite | None:
    if not group:
        return spec
    return spec[group] if group in [tuple(_listed(k)) for k in spec.keys(True)] else None


def _differ(*specs: Composite | None) -> bool:
    """Whether the members of a group have unequal specs."""
    return any(isinstance(spec, StackedComposite) for spec in specs)


def _member(spec: Composite | None, dim: int, member: int) -> Composite | None:
    return None if spec is None else spec.unbind(dim)[member]


class _Reader:
    """Reads the specs of a group."""

    def __init__(
        self,
        env: EnvBase,
        group: tuple[str, ...],
        observation: Sequence[NestedKey],
        mask: str,
        most: int,
        has_agents: bool,
    ):
        self.env, self.group, self.observation, self.mask = env, group, observation, mask
        self.most, self.has_agents = most, has_agents
        self.lead = len(env.batch_size)
        self.name = "/".join(group) or "the agent"

    def read(
        self,
        actions: Composite,
        seen: Composite | None,
        flags: Composite | None,
        *,
        member: int | None,
    ) -> _Block:
        inside = self.has_agents and member is None
        skip = self.lead + inside
        count = actions.shape[self.lead] if inside else 1
        observed = tuple(self._observed(seen, skip))
        if "action" not in set(actions.keys()):
            raise KeyError(
                f"{self.name} has no entry 'action' but {_present(actions)}: rename it, as with "
                "TorchRL's RenameTransform."
            )
        action = self._action(actions["action"], skip, count)
        mask = self.mask if seen is not None and self.mask in set(seen.keys()) else None
        if mask and isinstance(action, _Choices) and len(action.sizes) > 1:
            raise ValueError(
                f"Masks for several choices cannot be laid out: {self.name} has {action.sizes}. "
                "Make one choice of them where the environment is made."
            )
        return _Block(
            group=self.group,
            member=member,
            count=count,
            has_agents=self.has_agents,
            observation=tuple((key, choices) for key, choices, _ in observed),
            observation_size=sum(size for _, _, size in observed),
            action=action,
            mask=mask,
            reward=self._reward(),
            flags=() if flags is None else tuple(n for n in _FLAGS if n in set(flags.keys())),
        )

    def _observed(self, seen: Any, skip: int) -> Iterable[tuple]:
        known = [] if seen is None else list(seen.keys(True, True))
        for key in self.observation:
            path = tuple(_listed(key))
            leaves = [k for k in known if tuple(_listed(k))[: len(path)] == path]
            if not leaves:
                raise KeyError(
                    f"{self.name} has no observation {key!r}; it has {_present(known)}: name "
                    "those to read with observation=[...]."
                )
            for leaf in leaves:
                spec = seen[leaf]
                shape = spec.shape[skip:]
                choices = spec.space.n if type(spec) is Categorical else None
                if choices is not None and spec.dtype == torch.bool:
                    choices = None
                if choices is not None:
                    yield leaf, choices, prod(shape) * choices
                elif min(shape, default=1) < 0 or not hasattr(spec, "space"):
                    raise ValueError(
                        f"{self.name} has an observation {leaf!r} of no fixed size, {spec}."
                    )
                else:
                    yield leaf, None, prod(shape)

    def _reward(self) -> NestedKey:
        keys = [tuple(_listed(key)) for key in self.env.reward_keys]
        own = [key for key in keys if key[:-1] == self.group]
        shared = [key for key in keys if len(key) == 1]
        if not own and not shared:
            raise KeyError(f"{self.name} has no reward; the rewards are {_present(keys)}.")
        return unravel_key((own or shared)[0])

    def _action(self, spec: TensorSpec, skip: int, count: int) -> _Choices | _Numbers:
        shape = tuple(spec.shape[skip:])
        if isinstance(spec, Bounded) and spec.dtype.is_floating_point:
            return self._numbers(spec, skip, shape, count)
        encodings = {
            MultiOneHot: "several_one_hots",
            OneHot: "one_hot",
            MultiCategorical: "index",
            Categorical: "index",
            Binary: "bits",
        }
        encoding = next((word for kind, word in encodings.items() if isinstance(spec, kind)), None)
        if encoding is None:
            raise ValueError(
                f"The actions of {self.name} must be bounded or choices, got "
                f"{type(spec).__name__} of the shape {tuple(spec.shape)}: give them bounds or "
                "choices where the environment is made."
            )
        if encoding == "several_one_hots":
            sizes = tuple(space.n for space in spec.space)
        elif isinstance(spec, MultiCategorical):
            sizes = _nested_sizes(spec.nvec, len(shape))
        elif encoding == "bits":
            sizes = (2,) * prod(shape)
        else:
            sizes = (spec.space.n,) * (1 if encoding == "one_hot" else max(1, prod(shape)))
        choices = _Choices(tuple(int(size) for size in sizes), encoding, shape, spec.dtype)
        if choices.size > self.most:
            raise ValueError(
                f"The actions of {self.name} have {choices.size} combinations, at most "
                f"{self.most} can be laid out: raise most_choices, or give it fewer."
            )
        return choices

    def _numbers(self, spec: Bounded, skip: int, shape: tuple, count: int) -> _Numbers:
        low, high = (
            bound.expand(spec.shape).reshape(*spec.shape[: self.lead], count, -1)
            for bound in (spec.space.low, spec.space.high)
        )
        # A bound of float32's size is as good as none: their difference is infinite.
        if not bool((high.float() - low.float()).isfinite().all()):
            raise ValueError(
                f"The actions of {self.name} must have finite bounds, got "
                f"{float(spec.space.low.min())} to {float(spec.space.high.max())}: give them "
                "bounds where the environment is made."
            )
        return _Numbers(low, high, shape)


def _nested_sizes(nvec: torch.Tensor, dims: int) -> tuple[int, ...]:
    """Choices of one agent; agents and environments have equal ones."""
    while nvec.ndim > max(dims, 1):
        nvec = nvec[0]
    return tuple(nvec.flatten().tolist())
