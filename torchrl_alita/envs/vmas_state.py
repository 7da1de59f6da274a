"""The exact state of a VMAS environment in the middle of an episode (extra ``vmas``).

VMAS keeps its state in the attributes of its objects: the world, the entities, the
scenario. They are walked, and what they hold becomes plain data: tensors, numbers,
strings, lists and dicts. A value that is neither is a dict whose ``kind`` says what it
was. What is met a second time is a reference to the path of the first.
"""

from __future__ import annotations

import copy
import functools
import random
import sys
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torchrl.envs import EnvBase, TransformedEnv

from torchrl_alita.envs.vmas import StreamedVmasEnv

__all__ = ["VmasState"]

_PLAIN = (type(None), bool, int, float, str)
_IMMUTABLE: dict[Any, Any] = {kind.__name__: kind for kind in (tuple, torch.Size, frozenset)}
_CONTAINERS = (list, set, deque, dict)
# What does not change while an environment runs, and is not data.
_FIXED = (
    *(type, ModuleType, FunctionType, BuiltinFunctionType, MethodType, functools.partial),
    *(torch.device, torch.dtype, torch.nn.Module),
)
_KEYS = {
    *("environment", "steps", "agents", "landmarks", "world", "scenario"),
    *("stream", "transforms"),
}
_ABSENT = object()


class VmasState:
    """Exact state of a VMAS environment, saved and restored at any step of an episode.

    With the same actions, an environment goes on from a state bit for bit as the one
    from which it was saved, random resets included: the world, the entities, the
    scenario's attributes, VMAS's step counters, the random stream and the buffers of
    the transforms are all in it. The state is plain data: ``torch.save`` writes it, and
    ``torch.load(..., weights_only=True)`` reads it. It belongs to one scenario, number
    of environments and set of entities.

    Three things are not in it. The tensordict of the last step stays the caller's to
    keep: TorchRL's StepCounter, for one, counts in it. Functions and networks that a
    scenario holds are left as they are. So are torch's, NumPy's and Python's global
    generators, from which the environment does not draw.

    Numbers that a scenario got as arguments, such as the weight of a reward, cannot be
    told from its state: they are taken over too.

    Args:
        env: a :class:`StreamedVmasEnv`, or transforms around one.

    Raises:
        TypeError: for another environment.

    Examples:
        Two policies from identical initial states, the first to the left, the second
        to the right.

        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("vmas/spread", num_envs=2, n_agents=3, seed=0)
        >>> first, adapter = env.reset(), VmasState(env)
        >>> saved = adapter.state_dict()
        >>> def play(direction):
        ...     adapter.load_state_dict(saved)
        ...     action = torch.tensor([direction, 0.0]).expand(2, 3, 2)
        ...     def policy(tensordict):
        ...         return tensordict.set(("agents", "action"), action)
        ...     return env.rollout(5, policy, auto_reset=False, tensordict=first.clone())
        >>> left, right = play(-1.0), play(1.0)
        >>> start_left, start_right = (
        ...     episode["agents", "observation"][:, 0] for episode in (left, right)
        ... )
        >>> torch.equal(start_left, start_right)
        True
        >>> end_left, end_right = (
        ...     episode["next", "agents", "observation"][:, -1, :, 0] for episode in (left, right)
        ... )
        >>> bool((end_left < end_right).all())
        True
    """

    def __init__(self, env: EnvBase):
        base, self._transforms = env, []
        while isinstance(base, TransformedEnv):
            self._transforms.append(base.transform)
            base = base.base_env
        if not isinstance(base, StreamedVmasEnv):
            raise TypeError(
                "env must be a StreamedVmasEnv or transforms around one, got "
                f"{type(base).__name__}."
            )
        self._base = base

    def state_dict(self) -> dict[str, Any]:
        """The state, a copy that shares no memory with the environment.

        Returns:
            ``environment``, what the state belongs to; ``steps``, ``agents``,
            ``landmarks``, ``world`` and ``scenario``, of VMAS; ``stream``, the states
            of the generators; ``transforms``, outermost first.

        Raises:
            TypeError: if the scenario holds what cannot be saved, such as a generator of
                NumPy or Python; its path is named.
        """
        vmas, saver = self._base._env, _Saver()
        groups = self._announce(saver.announce)
        state = {
            "environment": self._belongs_to(),
            "steps": saver.save(vmas.steps, "steps"),
            **{
                group: [saver.save_object(entity, path) for path, entity in members.items()]
                for group, members in groups.items()
            },
            "world": saver.save_object(vmas.world, "world"),
            "scenario": saver.save_object(vmas.scenario, "scenario"),
            "stream": _save_stream(self._base),
            "transforms": [dict(transform.state_dict()) for transform in self._transforms],
        }
        # One copy of the whole: tensors that share memory go on sharing it.
        return copy.deepcopy(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state, all of it or nothing.

        Args:
            state: of :meth:`state_dict`; it is copied.

        Raises:
            ValueError: if the state is of another scenario, number of environments or
                set of entities, if a tensor has another shape, dtype or device, or if it
                is no such state; what differs is named.
        """
        if not isinstance(state, dict) or set(state) != _KEYS:
            found = sorted(map(str, state)) if isinstance(state, dict) else type(state).__name__
            raise ValueError(f"The state must hold {sorted(_KEYS)}, got {found}.")
        state = copy.deepcopy(state)
        try:
            loader, steps, stream = self._plan(state)
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise ValueError(f"The state is damaged: {error!r}.") from error
        # Nothing has changed so far, and nothing fails from here on.
        loader.write()
        self._base._env.steps = steps
        self._base.__dict__.update(stream)
        for transform, saved in zip(self._transforms, state["transforms"], strict=True):
            transform.load_state_dict(saved)

    def _plan(self, state: dict[str, Any]) -> tuple[_Loader, torch.Tensor, dict[str, Any]]:
        """What is to be written: into the objects, the step counters and the stream."""
        _check_same(state["environment"], self._belongs_to())
        vmas, loader = self._base._env, _Loader()
        _check_like(state["steps"], vmas.steps, "steps")
        groups = self._announce(loader.announce)
        for group, members in groups.items():
            for saved, (path, entity) in zip(state[group], members.items(), strict=True):
                loader.plan_object(saved, entity, path)
        loader.plan_object(state["world"], vmas.world, "world")
        loader.plan_object(state["scenario"], vmas.scenario, "scenario")
        self._check_transforms(state["transforms"])
        return loader, state["steps"], _load_stream(state["stream"], self._base)

    def _belongs_to(self) -> dict[str, Any]:
        vmas = self._base._env
        return {
            "scenario": self._scenario_name(),
            "num_envs": vmas.num_envs,
            "agents": [agent.name for agent in vmas.world.agents],
            "landmarks": [landmark.name for landmark in vmas.world.landmarks],
            "max_steps": vmas.max_steps,
            "continuous_actions": vmas.continuous_actions,
            "transforms": [_name(transform) for transform in self._transforms],
        }

    def _scenario_name(self) -> str:
        # VMAS loads its own scenarios as modules without a name: all are ".Scenario".
        given = self._base.scenario_name
        return Path(given).stem if isinstance(given, str) else _name(self._base._env.scenario)

    def _announce(self, announce: Callable[[Any, str], None]) -> dict[str, dict[str, Any]]:
        """Name the entities, the world and the scenario before what refers to them."""
        vmas = self._base._env
        groups = {
            group: {f"{group}[{i}]": entity for i, entity in enumerate(entities)}
            for group, entities in (
                ("agents", vmas.world.agents),
                ("landmarks", vmas.world.landmarks),
            )
        }
        for members in groups.values():
            for path, entity in members.items():
                announce(entity, path)
        announce(vmas.world, "world")
        announce(vmas.scenario, "scenario")
        return groups

    def _check_transforms(self, saved: list[dict]) -> None:
        for layer, (transform, buffers) in enumerate(zip(self._transforms, saved, strict=True)):
            own = transform.state_dict()
            if set(own) != set(buffers):
                raise ValueError(
                    f"transforms[{layer}] must hold {sorted(own)}, got {sorted(buffers)}."
                )
            for name, value in buffers.items():
                _check_like(value, own[name], f"transforms[{layer}].{name}")


class _Saver:
    """Plain data of what an object holds; what is met twice is saved once."""

    def __init__(self):
        # The objects themselves too: an id is unique among the living only.
        self._met: dict[int, tuple[Any, Any]] = {}

    def announce(self, value: Any, path: str) -> None:
        self._met[id(value)] = ({"kind": "same", "path": path}, value)

    def save(self, value: Any, path: str) -> Any:
        if type(value) in _PLAIN:
            return value
        if id(value) in self._met:
            return self._met[id(value)][0]
        if isinstance(value, torch.Tensor):
            # The same object for the same tensor: so a copy keeps what is shared.
            self._met[id(value)] = (value.detach(), value)
            return self._met[id(value)][0]
        if isinstance(value, _FIXED):
            return {"kind": "fixed", "class": _name(value)}
        if isinstance(value, Enum):
            return {"kind": "enum", "class": _name(value), "name": value.name}
        if type(value) in _IMMUTABLE.values():
            items = [self.save(item, f"{path}[{i}]") for i, item in enumerate(value)]
            return {"kind": type(value).__name__, "items": items}
        if isinstance(value, np.generic | np.ndarray):
            return self._save_array(value, path)
        self.announce(value, path)
        if isinstance(value, torch.Generator):
            return {"kind": "generator", "path": path, "state": value.get_state()}
        if isinstance(value, _CONTAINERS):
            return self._save_container(value, path)
        return self.save_object(value, path)

    def _save_container(self, value: Any, path: str) -> dict[str, Any]:
        saved: dict[str, Any] = {"kind": "container", "class": _name(value), "path": path}
        if isinstance(value, dict):
            saved["keys"] = [self.save(key, f"{path}.keys[{i}]") for i, key in enumerate(value)]
            value = value.values()
        saved["items"] = [self.save(item, f"{path}[{i}]") for i, item in enumerate(value)]
        return saved

    def save_object(self, value: Any, path: str) -> dict[str, Any]:
        slots = any(getattr(cls, "__slots__", ()) for cls in type(value).__mro__)
        if slots or not hasattr(value, "__dict__") or isinstance(value, random.Random):
            raise TypeError(f"{path} cannot be saved: it is of {_name(value)}.")
        items = {name: self.save(item, f"{path}.{name}") for name, item in vars(value).items()}
        return {"kind": "object", "class": _name(value), "path": path, "items": items}

    def _save_array(self, value: np.ndarray | np.generic, path: str) -> dict[str, Any]:
        try:
            data = torch.from_numpy(np.array(value))
        except TypeError as error:
            raise TypeError(f"{path} cannot be saved: {error}") from None
        return {"kind": "array", "scalar": isinstance(value, np.generic), "data": data}


class _Loader:
    """Puts saved data into an object's place; nothing is written before :meth:`write`."""

    def __init__(self):
        self._by_path: dict[str, Any] = {}
        self._taken: dict[int, Any] = {}
        self._writes: list[tuple[Any, Any]] = []

    def announce(self, own: Any, path: str) -> None:
        self._by_path[path] = self._taken[id(own)] = own

    def load(self, saved: Any, own: Any, path: str) -> Any:
        """What stands for the saved value at a path where ``own`` stands now."""
        if type(saved) in _PLAIN:
            return saved
        if isinstance(saved, torch.Tensor):
            if isinstance(own, torch.Tensor):
                # Scenarios fill a tensor with zeros at a reset, and with flags at a step.
                flags = torch.bool in (saved.dtype, own.dtype)
                _check_like(saved, own.to(saved.dtype) if flags else own, path)
            return saved
        kind = saved.get("kind") if isinstance(saved, dict) else None
        if kind in _IMMUTABLE:
            return _IMMUTABLE[kind](self._load_items(saved["items"], own, path))
        load = getattr(self, f"_load_{kind}", None)
        if load is None:
            raise ValueError(f"{path} must be of a known kind, got {kind!r}.")
        return load(saved, own, path)

    def _load_items(self, items: list, own: Any, path: str) -> list:
        several = isinstance(own, (*_CONTAINERS, *_IMMUTABLE.values()))
        known: list[Any] = list(own) if several else []
        known += [_ABSENT] * (len(items) - len(known))
        pairs = enumerate(zip(items, known, strict=False))
        return [self.load(item, place, f"{path}[{i}]") for i, (item, place) in pairs]

    def _load_same(self, saved: dict, own: Any, path: str) -> Any:
        if saved["path"] not in self._by_path:
            raise ValueError(f"{path} refers to {saved['path']}, which the state does not hold.")
        return self._by_path[saved["path"]]

    def _load_fixed(self, saved: dict, own: Any, path: str) -> Any:
        _check_class(saved, own, path)
        return own

    def _load_enum(self, saved: dict, own: Any, path: str) -> Any:
        # A color, for one, may be a tensor at one time and a member of an enum at another.
        module, _, name = saved["class"].rpartition(".")
        cls: Any = type(own)
        if saved["class"] != _name(own):
            cls = getattr(sys.modules.get(module), name, None)
        if not (
            isinstance(cls, type) and issubclass(cls, Enum) and saved["name"] in cls.__members__
        ):
            raise ValueError(f"{path} must be a member of an enum, got {saved}.")
        return cls[saved["name"]]

    def _load_array(self, saved: dict, own: Any, path: str) -> Any:
        array = saved["data"].numpy()
        if not saved["scalar"] and isinstance(own, np.ndarray) and own.shape != array.shape:
            raise ValueError(f"{path} must have the shape {own.shape}, got {array.shape}.")
        return array[()] if saved["scalar"] else array

    def _load_generator(self, saved: dict, own: Any, path: str) -> Any:
        if not isinstance(own, torch.Generator):
            raise ValueError(f"{path} must be a torch.Generator, got {_name(own)}.")
        self.announce(own, saved["path"])
        state = saved["state"].cpu()
        _attempt(torch.Generator(own.device).set_state, state, path)
        self._writes.append((own, state))
        return own

    def _load_container(self, saved: dict, own: Any, path: str) -> Any:
        new = {_name(kind()): kind for kind in _CONTAINERS}
        target = own
        if _name(own) != saved["class"] or id(own) in self._taken:
            if saved["class"] not in new:
                _check_class(saved, _ABSENT, path)
            target = new[saved["class"]]()
        self.announce(target, saved["path"])
        items: Any
        if isinstance(target, dict):
            known = own if isinstance(own, dict) else {}
            keys = self._load_items(saved["keys"], list(known), f"{path}.keys")
            items = {
                key: self.load(item, known.get(key, _ABSENT), f"{path}[{key!r}]")
                for key, item in zip(keys, saved["items"], strict=True)
            }
        else:
            items = self._load_items(saved["items"], own, path)
        self._writes.append((target, items))
        return target

    def _load_object(self, saved: dict, own: Any, path: str) -> Any:
        if id(own) in self._taken:
            raise ValueError(f"{path} is an object of its own in the state, and shared here.")
        self.announce(own, saved["path"])
        self.plan_object(saved, own, path)
        return own

    def plan_object(self, saved: dict, own: Any, path: str) -> None:
        _check_class(saved, own, path)
        attributes = vars(own)
        items = {
            name: self.load(item, attributes.get(name, _ABSENT), f"{path}.{name}")
            for name, item in saved["items"].items()
        }
        self._writes.append((own, items))

    def write(self) -> None:
        for target, items in self._writes:
            if isinstance(target, torch.Generator):
                target.set_state(items)
                continue
            # In place, so that whoever holds the object sees the state.
            place = target if isinstance(target, _CONTAINERS) else vars(target)
            place.clear()
            (place.extend if isinstance(place, list | deque) else place.update)(items)


def _name(value: Any) -> str:
    if value is _ABSENT:
        return "nothing"
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _check_class(saved: dict, own: Any, path: str) -> None:
    if saved["class"] != _name(own):
        raise ValueError(f"{path} is of {saved['class']} in the state and of {_name(own)} here.")


def _check_same(saved: dict, own: dict) -> None:
    different = [
        f"{name} is {saved.get(name)!r} in the state and {value!r} here"
        for name, value in own.items()
        if saved.get(name) != value
    ]
    if different:
        raise ValueError(f"The state does not fit the environment: {'; '.join(different)}.")


def _check_like(value: Any, own: Any, path: str) -> None:
    kinds = [
        f"{each.dtype} of the shape {tuple(each.shape)} on {each.device}"
        if isinstance(each, torch.Tensor)
        else _name(each)
        for each in (own, value)
    ]
    if kinds[0] != kinds[1]:
        raise ValueError(f"{path} must be {kinds[0]}, got {kinds[1]}.")


def _attempt(function: Callable[[Any], Any], state: Any, name: str) -> None:
    try:
        function(state)
    except (IndexError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{name} is no state of a generator: {error}") from None


def save_generators(states: Sequence[Any]) -> dict[str, Any]:
    """Plain data of the states of torch's, NumPy's and Python's generator, in this order."""
    torch_state, numpy_state, python_state = states
    name, keys, *rest = numpy_state
    version, words, gauss_next = python_state
    return {
        "torch": torch_state,
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *rest],
        "python": [version, torch.tensor(words), gauss_next],
    }


def load_generators(saved: dict[str, Any]) -> list[Any]:
    """The states that were saved, after each is tried in a generator."""
    name, keys, *rest = saved["numpy"]
    version, words, gauss_next = saved["python"]
    states = [
        saved["torch"].cpu(),
        (name, keys.cpu().numpy().astype(np.uint32), *rest),
        (version, tuple(words.tolist()), gauss_next),
    ]
    _attempt(torch.Generator().set_state, states[0], "stream['torch']")
    _attempt(np.random.RandomState().set_state, states[1], "stream['numpy']")
    _attempt(random.Random().setstate, states[2], "stream['python']")
    return states


def _save_stream(env: StreamedVmasEnv) -> dict[str, Any]:
    *states, gpu_state = env.random_stream()
    return save_generators(states) | {"gpu": gpu_state}


def _load_stream(saved: dict[str, Any], env: StreamedVmasEnv) -> dict[str, Any]:
    """The attributes of the environment."""
    if (saved["gpu"] is None) != (env._gpu_stream is None):
        here = "none" if env._gpu_stream is None else "one"
        raise ValueError(f"stream['gpu'] must be the state of a GPU's generator, if any: {here}.")
    gpu = saved["gpu"] if saved["gpu"] is None else saved["gpu"].cpu()
    return {"_stream": load_generators(saved), "_gpu_stream": gpu}
