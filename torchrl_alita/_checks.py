"""Checks of arguments and batches, with one clear error each."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase

# Loose enough for probabilities that were computed in float32.
SUM_TOLERANCE = 1e-6
LARGEST_SEED = 2**64 - 1  # torch's
LARGEST_NUMPY_SEED = 2**32 - 1
REDUCTIONS = ("none", "mean", "sum")

__all__ = [
    "REDUCTIONS",
    "agent_indices",
    "check_agent_range",
    "check_agents",
    "check_at_least_one",
    "check_below_one",
    "check_callable",
    "check_choice",
    "check_distribution",
    "check_finite",
    "check_flag",
    "check_folder",
    "check_integer",
    "check_kind",
    "check_non_negative",
    "check_number",
    "check_positive",
    "check_same_shape",
    "check_sequence",
    "check_share",
    "check_tau",
    "check_weights",
    "check_whole",
    "checked_seed",
    "is_integer",
    "non_negative_numbers",
    "require_keys",
    "require_written",
    "sizes",
]


def _index(value: Any) -> int | None:
    """A whole number of Python, NumPy or torch as an int; None for anything else."""
    if _is_flag(value):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def is_integer(value: Any) -> bool:
    """Whether it is a whole number of Python, NumPy or torch."""
    return _index(value) is not None


def check_kind(name: str, value: Any, kind: type | tuple[type, ...], words: str) -> None:
    """Raise a TypeError for what is no instance of a class; ``words`` say what is asked for."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {words}, got {value!r}.")


def check_callable(name: str, value: Any) -> None:
    """Raise a TypeError for what cannot be called."""
    if not callable(value):
        raise TypeError(f"{name} must be callable, got {value!r}.")


def check_flag(**values: bool) -> None:
    """Raise a TypeError for a value that is neither True nor False."""
    for name, value in values.items():
        check_kind(name, value, bool, "True or False")


def check_integer(name: str, value: Any) -> int:
    """A whole number of Python, NumPy or torch as an int."""
    number = _index(value)
    if number is None:
        raise ValueError(f"{name} must be a whole number, got {value!r}.")
    return number


def check_sequence(name: str, values: Any) -> list:
    """The members of a sequence; a text is none."""
    try:
        if not isinstance(values, (str, bytes)):
            return list(values)
    except TypeError:
        pass
    raise TypeError(f"{name} must be a sequence, got {values!r}.")


def sizes(name: str, values: Sequence[int]) -> list[int]:
    """Whole numbers of at least 1 as ints."""
    members = [check_integer(name, value) for value in check_sequence(name, values)]
    if members and min(members) < 1:
        raise ValueError(f"{name} must be at least 1, got {values}.")
    return members


def agent_indices(name: str, agents: int | Sequence[int]) -> tuple[int, ...]:
    """One index or several as a tuple of distinct, non-negative integers."""
    single = _index(agents)
    several = check_sequence(name, agents) if single is None else [single]
    indices = tuple(check_integer(name, agent) for agent in several)
    if not indices or min(indices) < 0 or len(set(indices)) < len(indices):
        raise ValueError(f"{name} must be distinct agents, from 0 on, got {agents}.")
    return indices


def check_agent_range(name: str, agents: Iterable[int], num_agents: int) -> None:
    for agent in agents:
        if not 0 <= agent < num_agents:
            raise ValueError(
                f"{name} must be at least 0 and below the number of agents, {num_agents}, "
                f"got {agent}."
            )


def check_weights(weights: Sequence[float], count: int) -> tuple[float, ...]:
    """As many positive weights as asked for, which sum to 1."""
    values = tuple(_floats("weights", weights))
    if len(values) != count:
        raise ValueError(f"weights must be {count}, one for each influencee, got {list(values)}.")
    if not all(value > 0 for value in values) or abs(sum(values) - 1) > 1e-6:
        raise ValueError(f"weights must be positive and sum to 1, got {list(values)}.")
    return values


def non_negative_numbers(name: str, values: float | Sequence[float]) -> torch.Tensor:
    """A number ``[]`` or several ``[M]``, finite and at least 0, as a tensor of its own."""
    single = _is_number(values)
    numbers = _floats(name, [values] if single else values)
    if not numbers or not all(0 <= number < math.inf for number in numbers):
        raise ValueError(f"{name} must be finite and at least 0, got {values}.")
    return torch.tensor(numbers[0] if single else numbers, dtype=torch.float32)


def _floats(name: str, values: Any) -> list[float]:
    members = check_sequence(name, values)
    check_number(**{f"{name}[{i}]": member for i, member in enumerate(members)})
    return [float(member) for member in members]


def _is_flag(value: Any) -> bool:
    """Whether it is true or false, which Python and torch count as 1 and 0."""
    return isinstance(value, bool) or getattr(value, "dtype", None) in (torch.bool, bool)


def _is_number(value: Any) -> bool:
    """Whether it is a number of Python, or a scalar of NumPy or torch."""
    if isinstance(value, str) or _is_flag(value):
        return False
    return isinstance(value, (float, int)) or getattr(value, "shape", None) == ()


def check_number(**values: float) -> None:
    for name, value in values.items():
        if not _is_number(value):
            raise TypeError(f"{name} must be a number, got {value!r}.")


def check_whole(least: int, most: int | None = None, **values: int) -> None:
    """Raise a ValueError for a value that is no whole number from least to most."""
    allowed = f"at least {least}" if most is None else f"from {least} to {most}"
    for name, value in values.items():
        number = _index(value)
        if number is None or number < least or (most is not None and number > most):
            raise ValueError(f"{name} must be a whole number {allowed}, got {value!r}.")


def check_at_least_one(**values: int) -> None:
    for name, value in values.items():
        if check_integer(name, value) < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")


def checked_seed(seed: int | None, *, most: int = LARGEST_SEED) -> int | None:
    """A seed as torch takes it: an int of Python."""
    if seed is None:
        return None
    check_whole(0, most, seed=seed)
    return check_integer("seed", seed)


def check_positive(**values: float) -> None:
    check_number(**values)
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}.")
        if value == math.inf:
            raise ValueError(f"{name} must be finite, got {value}.")


def check_non_negative(**values: float) -> None:
    check_number(**values)
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be finite and at least 0, got {value}.")


def check_share(**values: float) -> None:
    check_number(**values)
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {value}.")


def check_below_one(**values: float) -> None:
    """Raise a ValueError for a value outside [0, 1), as of a decay."""
    check_number(**values)
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name} must be at least 0 and below 1, got {value}.")


def check_tau(tau: float) -> None:
    """A share by which targets move at each step, in (0, 1]."""
    check_positive(tau=tau)
    if tau > 1:
        raise ValueError(f"tau must be in (0, 1], got {tau}.")


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raise a ValueError for a name that is not among the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {list(choices)}, got {value!r}.")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The known name nearest to one that is not known, as the end of a message; "" if none is."""
    lower = {one.lower(): one for one in known}
    near = get_close_matches(name.lower(), lower, n=1)
    return f" Did you mean {lower[near[0]]!r}?" if near else ""


class MissingKey(KeyError):
    """A KeyError whose message is shown as it is, not as a literal of Python."""

    def __str__(self) -> str:
        return str(self.args[0])


def require_keys(tensordict: TensorDictBase, keys: Iterable[NestedKey]) -> None:
    """Raise a KeyError that names the first missing key, the nearest one and the keys present."""
    for key in keys:
        if tensordict.get(key, None) is None:
            present = sorted(str(k) for k in tensordict.keys(True, True))
            # Alike in its last part: whole keys are alike already where they begin.
            last = {str(k): k if isinstance(k, str) else k[-1] for k in tensordict.keys(True, True)}
            wanted = key if isinstance(key, str) else key[-1]
            close = get_close_matches(wanted, set(last.values()), n=1, cutoff=0.7)
            near = get_close_matches(
                str(key), [k for k, end in last.items() if end in close], n=1, cutoff=0.0
            )
            hint = f" Did you mean {near[0]}?" if near else ""
            if wanted in ("is_init", "recurrent_state", "latent"):
                hint = " Append recurrent_transforms(policy) to the environment."
            raise MissingKey(f"The batch has no {key}; it has {', '.join(present)}.{hint}")


def check_folder(path: Path) -> None:
    """Raise a NotADirectoryError where a file is in a folder's place or on the way to it."""
    for place in (path, *path.parents):
        if place.exists() and not place.is_dir():
            raise NotADirectoryError(f"{place} is a file; name a folder.")


def check_same_shape(tensordict: TensorDictBase, key: NestedKey, shape: Sequence[int]) -> None:
    """Raise a ValueError if an entry has another shape."""
    found = tensordict.get(key).shape
    if tuple(found) != tuple(shape):
        raise ValueError(f"{key} must have the shape {tuple(shape)}, got {tuple(found)}.")


def require_written(network: TensorDictModuleBase, key: NestedKey) -> None:
    """Raise a KeyError that names what a network writes, if the key is not among it."""
    if key not in network.out_keys:
        raise KeyError(f"The network writes {network.out_keys}, not {key}.")


def check_agents(tensordict: TensorDictBase, keys: Sequence[NestedKey]) -> torch.Size:
    """Raise unless entries are tensors that agree in all but their features, ``[*B, N]``.

    Returns:
        What they agree in, ``(*B, N)``.
    """
    entries = [tensordict.get(key) for key in keys]
    for key, entry in zip(keys, entries, strict=True):
        if not isinstance(entry, torch.Tensor):
            raise TypeError(f"{key} must be a tensor, got {type(entry).__name__}.")
    first = entries[0]
    for key, entry in zip(keys, entries, strict=True):
        if entry.ndim < 2 or entry.shape[:-1] != first.shape[:-1]:
            raise ValueError(
                f"The agents' entries must agree in all dimensions (*B, agents) before the "
                f"features, got {keys[0]} of {tuple(first.shape)} and {key} of "
                f"{tuple(entry.shape)}."
            )
        if entry.device != first.device:
            raise ValueError(
                f"The agents' entries must be on one device, got {keys[0]} on {first.device} "
                f"and {key} on {entry.device}."
            )
    return first.shape[:-1]


def check_finite(name: str, values: torch.Tensor) -> torch.Tensor:
    """The values, if all are finite; otherwise an error that names the first that is not."""
    _check_entries(name, values, values.isfinite(), "be finite")
    return values


def check_distribution(name: str, rows: torch.Tensor) -> torch.Tensor:
    """Rows of probabilities ``[*B, S]`` divided by their sums, if these are 1 within 1e-6."""
    check_finite(name, rows)
    _check_entries(name, rows, rows >= 0, "be at least 0")
    total = rows.sum(-1)
    good = (total - 1).abs() <= SUM_TOLERANCE
    _check_entries(name, total, good, f"sum to 1 within {SUM_TOLERANCE:g}")
    return rows / total.unsqueeze(-1)


def _check_entries(name: str, values: torch.Tensor, good: torch.Tensor, requirement: str) -> None:
    if not bool(good.all()):
        index = (~good).nonzero()[0].tolist()
        where = f"{name}{index}" if index else name
        raise ValueError(f"{where} must {requirement}, got {values[tuple(index)].item():.10g}.")
