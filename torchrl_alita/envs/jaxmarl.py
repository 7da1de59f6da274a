"""JaxMARL's environments, simulated in JAX, as batched environments (extra ``smax``).

Source: https://arxiv.org/abs/2311.10090. Battles of SMAX have a module of their own,
:mod:`torchrl_alita.envs.smax`.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, make_dataclass
from functools import cache, lru_cache, partial
from importlib.util import find_spec
from math import prod
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.data import Bounded, Categorical, Composite, OneHot, Unbounded
from torchrl.envs import EnvBase

from torchrl_alita._checks import check_at_least_one
from torchrl_alita._extras import import_extra
from torchrl_alita.envs import _grid
from torchrl_alita.envs._grid import AllowedOneHot
from torchrl_alita.envs._saved_state import SavedState, StaysOnDevice, check_like
from torchrl_alita.envs._smax_battles import (
    check_bits,
    import_smax,
    new_keys,
    place_of,
    placed,
)
from torchrl_alita.envs.pettingzoo import agent_returns
from torchrl_alita.envs.registry import Task, naming_arguments, register_suite, unknown
from torchrl_alita.envs.sides import sides_by_name
from torchrl_alita.layout import ACTION, STATE

__all__ = ["JaxMARLEnv", "jaxmarl_names", "jaxmarl_task"]

_NAMES = (
    "MPE_simple_v3", "MPE_simple_tag_v3", "MPE_simple_world_comm_v3", "MPE_simple_spread_v3",
    "MPE_simple_crypto_v3", "MPE_simple_speaker_listener_v4", "MPE_simple_push_v3",
    "MPE_simple_adversary_v3", "MPE_simple_reference_v3", "MPE_simple_facmac_v1",
    "MPE_simple_facmac_3a_v1", "MPE_simple_facmac_6a_v1", "MPE_simple_facmac_9a_v1",
    "switch_riddle", "coin_game", "hanabi", "jaxnav", "overcooked", "overcooked_v2",
)  # fmt: skip
# With the package brax, which JaxMARL asks for.
_BRAX = ("ant_4x2", "halfcheetah_6x1", "hopper_3x1", "humanoid_9|8", "walker2d_2x3")
# Steps of an episode where an environment does not say.
_HORIZONS = {"coin_game": 100, "hanabi": 100}
_GENERATOR = "threefry2x32"
# What a step gives and a reset does not.
_OF_STEPS = ("reward", "done", "terminated", "truncated", "fits")
# Environments that one call begins where a few end at a time; where most do, it is all.
_RESETS = 64


def jaxmarl_names() -> tuple[str, ...]:
    """Names of the environments that are tasks as ``"jaxmarl/..."``, if JaxMARL is installed.

    Returns:
        The names; none without JaxMARL, and those of Brax only with it.

    Examples:
        >>> "overcooked" in jaxmarl_names()
        True
    """
    try:
        installed = [bool(find_spec(module)) for module in ("jaxmarl", "brax")]
    except (ImportError, ValueError):
        return ()
    return (_NAMES if installed[0] else ()) + (_BRAX if all(installed) else ())


class JaxMARLEnv(SavedState, StaysOnDevice, EnvBase):
    """B environments of JaxMARL in one compiled function, handed to torch without copies.

    ``("agents", "observation")`` float32 ``[B, N, O]``, flattened and padded with zeros;
    ``("agents", "action")`` ``[B, N, A]``, one-hot, or continuous with the agents' bounds, 0 and 0
    beyond their entries; ``("agents", "action_mask")`` bool ``[B, N, A]`` if the environment has
    one or agents have unequal numbers of actions; ``("agents", "alive")`` and
    ``("agents", "terminated")`` bool ``[B, N, 1]``: an agent whose own flag was set is not alive,
    and observes and earns nothing; ``"state"`` ``[B, S]`` if the environment has one.

    Each environment draws from a key of its own, which follows from the seed and its place in
    the batch, not from B. ``state_dict()`` holds all that shapes the future. Step and reset are
    compiled at their first call, which takes seconds.

    Args:
        name: one of :func:`jaxmarl_names`, or another that JaxMARL registers.
        arguments: of the environment's constructor, where they differ from its defaults.
        num_envs: B. Default: 1.
        horizon: steps after which an episode is truncated. Default: 100.
        device: of the simulation. JAX must have it too: for a GPU, ``jax[cuda12]``.
        seed: of the keys, at least 0. Default: drawn from torch's global generator.

    Raises:
        ImportError: if JaxMARL is not installed; the extra is named.
        ValueError: for an unknown name or argument, a device that JAX does not have, agents with
            different kinds of actions, or a number out of range; in a step, for an action that
            is not one-hot, or masked, with its environment and agent.
        RuntimeError: for a step before the first reset.

    Examples:
        >>> env = JaxMARLEnv("MPE_simple_speaker_listener_v4", num_envs=2, seed=0)
        >>> env.rollout(3)["agents", "observation"].shape
        torch.Size([2, 3, 2, 11])
    """

    # Its state_dict holds all that shapes the future, see environment_state.
    exact_state = True

    def __init__(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        num_envs: int = 1,
        horizon: int = 100,
        device: torch.device | str = "cpu",
        seed: int | None = None,
    ):
        check_at_least_one(num_envs=num_envs, horizon=horizon)
        # A mapping can be no key of the cache.
        game = _compiled(name, json.dumps(dict(arguments or {}), sort_keys=True), horizon)
        super().__init__(device=device, batch_size=[num_envs])
        self._game, self.name, self.horizon = game, name, horizon
        self.agents, self.num_agents = game.agents, len(game.agents)
        self.discrete = game.discrete
        self._place = place_of(self.device)
        self._mask = self._set_specs()
        self._carry = self._game.empty(num_envs, self._place)
        # What the last call gave: the caller has the same tensors.
        self._last = {
            name: torch.zeros(num_envs, *shape, dtype=dtype, device=self.device)
            for name, (shape, dtype) in game.layout.items()
            if name not in _OF_STEPS
        }
        self._set_seed(seed)
        self._begun = False

    @property
    def sides(self) -> dict[str, tuple[int, ...]]:
        """Agents whose names differ by the number alone, see :func:`sides_of`."""
        return sides_by_name(self.agents)

    def _set_specs(self) -> torch.Tensor | None:
        batch, device, game = self.batch_size, self.device, self._game
        lead = (*batch, self.num_agents)

        def flag(*shape: int) -> Categorical:
            return Categorical(2, shape=(*shape, 1), dtype=torch.bool, device=device)

        def grouped(**leaves) -> Composite:
            agents = Composite(**leaves, shape=lead, device=device)
            return Composite(agents=agents, shape=batch, device=device)

        mask, shape = None, (*lead, game.num_actions)
        seen = {
            "observation": Unbounded((*lead, game.observation_size), device=device),
            "alive": flag(*lead),
            "terminated": flag(*lead),
        }
        if not game.discrete:
            low, high = (torch.tensor(bound, device=device).expand(shape) for bound in game.bounds)
            action = Bounded(low, high, shape, dtype=torch.float32, device=device)
        else:
            how = {"shape": shape, "dtype": torch.float32, "device": device}
            if game.masked:
                mask = torch.ones(shape, dtype=torch.bool, device=device)
                seen["action_mask"] = Categorical(2, shape=shape, dtype=torch.bool, device=device)
                action = AllowedOneHot(game.num_actions, mask=mask, **how)
            else:
                action = OneHot(game.num_actions, **how)
        spec = grouped(**seen)
        if game.state_size:
            spec[STATE] = Unbounded((*batch, game.state_size), device=device)
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
        keys = placed(new_keys(_grid.seed_of_task(seed), *self.batch_size), self._place)
        self._carry = (keys, *self._carry[1:])

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs) -> TensorDictBase:
        reset = None if tensordict is None else tensordict.get("_reset", None)
        (num_envs,) = self.batch_size
        if reset is None:
            rows = torch.arange(num_envs, device=self.device)
        else:
            rows = reset.squeeze(-1).nonzero().squeeze(-1)
        # Each length is another compilation.
        length = _RESETS if 2 * len(rows) <= num_envs else num_envs
        last = {name: tensor.clone() for name, tensor in self._last.items()}
        for part in rows.split(length):
            # No environment has the number B.
            padded = torch.nn.functional.pad(part.int(), (0, length - len(part)), value=num_envs)
            self._carry, seen = self._game.reset(self._carry, padded)
            for name, tensor in seen.items():
                last[name].index_copy_(0, part, tensor[: len(part)])
        self._last, self._begun = last, True
        no = torch.zeros(num_envs, 1, dtype=torch.bool, device=self.device)
        return self._entries({"done": no, "terminated": no.clone(), "truncated": no.clone()})

    def _entries(self, flags: dict[str, torch.Tensor], **agents: torch.Tensor) -> TensorDict:
        if self._mask is not None:
            _grid.publish_mask(self, self._mask, self._last["action_mask"])
        entries = dict(flags)
        for name, tensor in self._last.items():
            (entries if name == STATE else agents)[name] = tensor
        # The limit is not the agents': who is not alive has ended for good.
        agents["terminated"] = ~agents["alive"]
        shape = (*self.batch_size, self.num_agents)
        entries["agents"] = TensorDict(agents, shape, device=self.device)
        return TensorDict(entries, self.batch_size, device=self.device)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        if not self._begun:
            raise RuntimeError("The environments must be reset before a step.")
        action = tensordict.get(ACTION).detach().float()
        lead = (*self.batch_size, self.num_agents)
        if action.shape != (*lead, self._game.num_actions):
            raise ValueError(
                f"{ACTION} must have the shape {(*lead, self._game.num_actions)}, got "
                f"{tuple(action.shape)}."
            )
        self._carry, entries = self._game.step(self._carry, action, self._mask)
        if not entries.pop("fits").all():
            # No environment has moved.
            vectors = torch.eye(action.shape[-1], dtype=action.dtype, device=self.device)
            _grid.check_allowed(_grid.chosen_actions(action, vectors, lead), self._mask)
        reward = entries.pop("reward")
        flags = {name: entries.pop(name) for name in ("done", "terminated", "truncated")}
        self._last = entries
        return self._entries(flags, reward=reward)

    def _saved(self) -> dict[str, torch.Tensor]:
        """Copies by name."""
        tensors = {f"game.{n}": t for n, t in self._game.tensors(self._carry).items()}
        tensors |= {f"last.{name}": t.clone() for name, t in self._last.items()}
        return tensors | {"begun": torch.tensor(self._begun)}

    def _restore(self, state: dict[str, torch.Tensor]) -> None:
        own = self._saved()
        for name, tensor in state.items():
            check_like(name, tensor, own[name])
        game = {n.removeprefix("game."): t for n, t in state.items() if n.startswith("game.")}
        self._carry = self._game.carry(self._carry, game, self._place)
        for name in self._last:
            self._last[name] = state[f"last.{name}"].to(self.device, copy=True)
        self._begun = bool(state["begun"])
        if self._mask is not None:
            _grid.publish_mask(self, self._mask, self._last["action_mask"])


def _made(name: str, arguments: Mapping[str, Any]) -> Any:
    """An environment of JaxMARL."""
    import_smax()  # first: it leaves the process as it was
    jaxmarl = import_extra("jaxmarl", "smax")
    known = jaxmarl.registered_envs
    if name not in known:
        raise ValueError(unknown("environment of JaxMARL", name, known))
    # One that was made in 64 bits would be kept.
    check_bits()
    with naming_arguments(f"JaxMARL's {name!r}", arguments):
        return jaxmarl.make(name, **arguments)


@lru_cache(maxsize=32)
def _compiled(name: str, arguments: str, horizon: int) -> _Game:
    given = json.loads(arguments)
    try:
        made = _made(name, given)
        if (inner := getattr(made, "num_inner_steps", None)) is not None:
            # Games of several rounds end for good after the last one. The limit is ours.
            rounds = max(made.num_outer_steps, horizon // inner + 1)
            made = _made(name, given | {"num_outer_steps": rounds})
        with naming_arguments(f"JaxMARL's {name!r}", given):
            return _Game(made, horizon)
    except (AttributeError, KeyError, TypeError) as error:
        # Some of those that JaxMARL names are broken in what is installed.
        raise ValueError(
            f"JaxMARL's {name!r} cannot be built with the arguments {given}: "
            f"{type(error).__name__}: {error}"
        ) from error


class _Game:
    """Step and reset of a batch, each one compiled function.

    A carry is keys ``[B, 2]``, JaxMARL's states, who is alive ``[B, N]`` and steps ``[B]``. Its
    memory is reused: it is not valid after it was passed to a function.
    """

    def __init__(self, env: Any, horizon: int):
        import jax

        self.env, self.horizon = env, horizon
        if hasattr(env, "max_steps"):
            # The limit is ours: JaxMARL ends an episode at it as it ends a lost one.
            env.max_steps = horizon + 1
        self.agents = tuple(env.agents)
        key = jax.random.wrap_key_data(jax.numpy.zeros(2, "uint32"), impl=_GENERATOR)
        seen, _ = jax.eval_shape(env.reset, key)
        shapes = [_of(seen, number, agent).shape for number, agent in enumerate(self.agents)]
        self.observation_size = max(prod(shape) for shape in shapes)
        world = seen.get("world_state") if isinstance(seen, dict) else None
        self.state_size = 0 if world is None else prod(world.shape)
        self.spaces = [env.action_space(agent) for agent in self.agents]
        kinds = [hasattr(space, "n") for space in self.spaces]
        if len(set(kinds)) > 1:
            said = dict(zip(self.agents, kinds, strict=True))
            raise ValueError(f"All agents must have actions of one kind; choices: {said}.")
        self.discrete = kinds[0]
        self.shapes = [() if self.discrete else tuple(space.shape) for space in self.spaces]
        sizes = [space.n if self.discrete else prod(space.shape) for space in self.spaces]
        self.sizes, self.num_actions = [int(size) for size in sizes], int(max(sizes))
        self._masks = self._find_masks() if self.discrete else None
        self.masked = self.discrete and (self._masks is not None or len(set(self.sizes)) > 1)
        if not self.discrete:
            self.bounds = self._bounds()
        self.layout = self._laid_out()
        self._step = jax.jit(self._step_all, donate_argnums=0)
        self._reset = jax.jit(self._reset_rows, donate_argnums=0)

    def _laid_out(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape and dtype of each entry that is handed over, of one environment."""
        each = len(self.agents)
        numbers: dict[str, tuple[int, ...]]
        numbers = {"observation": (each, self.observation_size), "reward": (each, 1)}
        if self.state_size:
            numbers[STATE] = (self.state_size,)
        flags = {"alive": (each, 1), **dict.fromkeys(_OF_STEPS[1:], (1,))}
        if self.masked:
            flags["action_mask"] = (each, self.num_actions)
        return {name: (shape, torch.float32) for name, shape in numbers.items()} | {
            name: (shape, torch.bool) for name, shape in flags.items()
        }

    def _find_masks(self) -> Callable[[Any], Any] | None:
        """What says who may do what in a state: hanabi has a name of its own for it."""
        if hasattr(self.env, "get_legal_moves"):
            return self.env.get_legal_moves
        base = import_extra("jaxmarl.environments.multi_agent_env", "smax").MultiAgentEnv
        own = type(self.env).get_avail_actions is not base.get_avail_actions
        return self.env.get_avail_actions if own else None

    def _bounds(self) -> tuple[list, list]:
        bounds = []
        for name in ("low", "high"):
            rows = []
            for space, size in zip(self.spaces, self.sizes, strict=True):
                row = np.zeros(self.num_actions, np.float32)
                row[:size] = np.broadcast_to(np.asarray(getattr(space, name)), space.shape).ravel()
                rows.append(row.tolist())
            bounds.append(rows)
        if not np.isfinite(bounds).all():
            raise ValueError("All actions must have finite bounds.")
        return bounds[0], bounds[1]

    def step(
        self, carry: Any, action: torch.Tensor, mask: torch.Tensor | None
    ) -> tuple[Any, dict[str, torch.Tensor]]:
        """All go on, with float32 actions and what is allowed, ``[B, N, A]``.

        None does if one of the actions is not one-hot or not allowed; ``fits`` says whether.
        """
        allowed = None if mask is None else _imported(mask)
        carry, arrays = self._step(carry, _imported(action), allowed)
        return carry, self._exported(arrays, len(action))

    def reset(self, carry: Any, rows: torch.Tensor) -> tuple[Any, dict[str, torch.Tensor]]:
        """Some begin anew: their numbers, int32; B or more stands for none."""
        carry, arrays = self._reset(carry, _imported(rows))
        return carry, self._exported(arrays, len(rows), without=_OF_STEPS)

    def _joined(self, entries: dict[str, Any]) -> list[Any]:
        """All numbers in one array and all flags in another, each entry ``[B, ...]`` in a row.

        An array that is handed over takes longer than most of them do to compute.
        """
        import jax.numpy as jnp

        parts: dict[torch.dtype, list] = {torch.float32: [], torch.bool: []}
        for name, (_, kind) in self.layout.items():
            if name in entries:
                parts[kind].append(entries[name].reshape(-1))
        return [jnp.concatenate(part) for part in parts.values()]

    def _exported(
        self, arrays: Any, num_envs: int, *, without: tuple[str, ...] = ()
    ) -> dict[str, torch.Tensor]:
        """The same memory, for torch, entry by entry."""
        joined = dict(zip((torch.float32, torch.bool), map(torch.from_dlpack, arrays), strict=True))
        entries, places = {}, dict.fromkeys(joined, 0)
        for name, (shape, kind) in self.layout.items():
            if name not in without:
                size = num_envs * prod(shape)
                part = joined[kind][places[kind] : places[kind] + size]
                entries[name] = part.view(num_envs, *shape)
                places[kind] += size
        return entries

    def empty(self, num_envs: int, place: Any) -> Any:
        """A carry of zeros."""
        import jax
        import jax.numpy as jnp

        keys = new_keys(0, num_envs)
        wrapped = jax.random.wrap_key_data(keys, impl=_GENERATOR)
        _, state = jax.eval_shape(jax.vmap(self.env.reset), wrapped)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)
        alive = jnp.zeros((num_envs, len(self.agents)), bool)
        return placed((keys, zeros, alive, jnp.zeros(num_envs, jnp.int32)), place)

    @staticmethod
    def tensors(carry: Any) -> dict[str, torch.Tensor]:
        """Copies of a carry's arrays, by their paths."""
        import jax

        leaves = jax.tree_util.tree_flatten_with_path(carry)[0]
        return {
            jax.tree_util.keystr(path): torch.from_numpy(np.array(leaf)) for path, leaf in leaves
        }

    @staticmethod
    def carry(like: Any, tensors: dict[str, torch.Tensor], place: Any) -> Any:
        """The inverse of :meth:`tensors`; ``like`` is a carry of the same environments."""
        import jax
        import jax.numpy as jnp

        paths, structure = jax.tree_util.tree_flatten_with_path(like)
        # Copies: JAX would reuse the memory of the tensors.
        leaves = [jnp.array(tensors[jax.tree_util.keystr(p)].numpy(force=True)) for p, _ in paths]
        return placed(jax.tree.unflatten(structure, leaves), place)

    def _split(self, key: Any) -> tuple[Any, Any]:
        import jax

        kept, used = jax.random.split(jax.random.wrap_key_data(key, impl=_GENERATOR))
        return jax.random.key_data(kept), used

    def _step_all(self, carry: Any, action: Any, mask: Any) -> tuple[Any, list[Any]]:
        import jax
        import jax.numpy as jnp

        fits = jnp.ones((len(action), 1), bool)
        if self.discrete:
            chosen = action.argmax(-1)
            right = action == jax.nn.one_hot(chosen, self.num_actions)
            if mask is not None:
                right &= mask | (action == 0)
            action, fits = chosen, right.all((1, 2))[:, None]
        after, entries = jax.vmap(self._step_one)(carry, action)
        every = fits.all()
        after = jax.tree.map(lambda new, old: jnp.where(every, new, old), after, carry)
        return after, self._joined(entries | {"fits": fits})

    def _step_one(self, carry: Any, action: Any) -> tuple[Any, dict]:
        import jax
        import jax.numpy as jnp

        key, state, alive, steps = carry
        key, used = self._split(key)
        chosen = {}
        for number, agent in enumerate(self.agents):
            own = action[number]
            if not self.discrete:
                own = own[: self.sizes[number]].reshape(self.shapes[number])
            chosen[agent] = own
        seen, after, paid, done, _ = self.env.step_env(used, state, chosen)
        after = jax.tree.map(lambda new, old: jnp.asarray(new).astype(old.dtype), after, state)
        left = jnp.stack([_of(done, n, agent) for n, agent in enumerate(self.agents)]).reshape(-1)
        reward = jnp.stack([
            jnp.asarray(_of(paid, n, agent), jnp.float32).reshape(())
            for n, agent in enumerate(self.agents)
        ])  # fmt: skip
        steps = steps + 1
        ended = jnp.asarray(done["__all__"]).reshape(())
        living = alive & ~(left | ended)
        ended = ended | ~living.any()
        limited = (steps >= self.horizon) & ~ended
        entries = self._seen(seen, after, living) | {
            "reward": (reward * alive)[:, None],
            "done": (ended | limited)[None],
            "terminated": ended[None],
            "truncated": limited[None],
        }
        return (key, after, living, steps), entries

    def _reset_rows(self, carry: Any, rows: Any) -> tuple[Any, list[Any]]:
        import jax

        used = carry[0].at[rows].get(mode="fill", fill_value=0)
        begun, seen = jax.vmap(self._begin_one)(used)
        carry = jax.tree.map(
            lambda old, new: old.at[rows].set(new.astype(old.dtype), mode="drop"), carry, begun
        )
        return carry, self._joined(seen)

    def _begin_one(self, key: Any) -> tuple[Any, dict]:
        import jax.numpy as jnp

        key, used = self._split(key)
        seen, state = self.env.reset(used)
        alive = jnp.ones(len(self.agents), bool)
        return (key, state, alive, jnp.zeros((), jnp.int32)), self._seen(seen, state, alive)

    def _seen(self, seen: Any, state: Any, alive: Any) -> dict:
        import jax.numpy as jnp

        rows = []
        for number, agent in enumerate(self.agents):
            flat = jnp.asarray(_of(seen, number, agent), jnp.float32).reshape(-1)
            rows.append(jnp.pad(flat, (0, self.observation_size - flat.shape[0])))
        entries = {"observation": jnp.stack(rows) * alive[:, None], "alive": alive[:, None]}
        if self.state_size:
            entries[STATE] = jnp.asarray(seen["world_state"], jnp.float32).reshape(-1)
        if self.masked:
            entries["action_mask"] = self._allowed(state, alive)
        return entries

    def _allowed(self, state: Any, alive: Any) -> Any:
        """``[N, A]``; the dead, and who may do nothing, may do the first."""
        import jax.numpy as jnp

        numbers = jnp.arange(self.num_actions)
        own = jnp.array(self.sizes)[:, None] > numbers
        if self._masks is not None:
            masks = self._masks(state)
            rows = [
                jnp.pad(jnp.asarray(_of(masks, n, a)).reshape(-1) > 0, (0, self.num_actions - s))
                for n, (a, s) in enumerate(zip(self.agents, self.sizes, strict=True))
            ]
            own = jnp.stack(rows)
        usable = own & alive[:, None]
        return jnp.where(usable.any(-1, keepdims=True), usable, numbers == 0)


def _of(values: Any, number: int, agent: str) -> Any:
    """An agent's part of what an environment returns by name or by place."""
    return values[agent] if isinstance(values, dict) else values[number]


def _imported(tensor: torch.Tensor) -> Any:
    """The same memory, for JAX."""
    if tensor.device.type == "cpu":
        # A compiled function takes NumPy's arrays as they are, in a fraction of the time.
        return tensor.contiguous().numpy()
    import jax

    return jax.dlpack.from_dlpack(tensor.contiguous())


# Tasks


@cache
def _arguments(name: str) -> dict[str, Any]:
    """Arguments of an environment's constructor with plain defaults."""
    found = inspect.signature(type(_made(name, {})).__init__).parameters.values()
    plain = (bool, int, float, str)
    return {
        p.name: p.default
        for p in found
        if isinstance(p.default, plain) and p.name not in ("max_steps", "self")
    }


@cache
def _settings_class(name: str) -> type:
    own = [(key, _kind(value), value) for key, value in _arguments(name).items()]
    made = make_dataclass(
        f"{name.title().replace('_', '')}Settings", own, frozen=True, kw_only=True
    )
    made.__module__ = __name__
    made.__doc__ = f"What JaxMARL's environment {name} can set, with its own defaults."
    return made


def jaxmarl_task(name: str, arguments: Mapping[str, Any] | None = None) -> Task:
    """An environment of JaxMARL as a task.

    Those of :func:`jaxmarl_names` are registered, as ``"jaxmarl/overcooked"``; what their
    constructors take, where it is a plain value, are the task's settings.

    Args:
        name: of the environment.
        arguments: where they differ from its defaults.

    Returns:
        A :class:`torchrl_alita.envs.Task`, with the metrics of
        :func:`torchrl_alita.envs.agent_returns`; its environments raise a ValueError if another
        number of agents is asked for.

    Raises:
        ImportError: if JaxMARL is not installed; the extra is named.
        ValueError: for an unknown name or argument; the known ones are listed.

    Examples:
        >>> task = jaxmarl_task("MPE_simple_spread_v3", {"num_agents": 5, "num_landmarks": 5})
        >>> task.n_agents, task.horizon
        (5, 25)
    """
    known = _arguments(name)
    for given in arguments or {}:
        if given not in known:
            raise ValueError(unknown(f"argument of {name}", given, known))
    return _task_of(name, _settings_class(name)(**(arguments or {})))


def _kind(value: Any) -> Any:
    return int | float if type(value) is int else type(value)


def _task_of(name: str, settings: Any) -> Task:
    env = _made(name, _given(name, settings))
    return Task(
        make=partial(_make, name=name),
        metrics=agent_returns,
        settings=settings if fields(settings) else None,
        n_agents=len(env.agents),
        horizon=int(getattr(env, "max_steps", _HORIZONS.get(name, 100))),
        configure=partial(_task_of, name),
    )


def _given(name: str, settings: Any) -> dict[str, Any]:
    """What differs from the constructor's own defaults."""
    if settings is None:
        return {}
    known = _arguments(name)
    return {key: value for key, value in asdict(settings).items() if value != known[key]}


def _make(
    *,
    num_envs: int,
    n_agents: int | None,
    device: torch.device | str,
    seed: int | None,
    horizon: int,
    name: str,
    settings: Any = None,
) -> JaxMARLEnv:
    env = JaxMARLEnv(
        name,
        _given(name, settings),
        num_envs=num_envs,
        horizon=horizon,
        device=device,
        seed=seed,
    )
    if n_agents not in (None, env.num_agents):
        raise ValueError(
            f"The environment has the agents {list(env.agents)}, got n_agents={n_agents}."
        )
    return env


register_suite("jaxmarl", jaxmarl_names, jaxmarl_task, module="jaxmarl", extra="smax")
