"""Checkpoints: whole or not there, checked before they are read, and never executed.

A checkpoint is a directory of TorchRL's :class:`torchrl.checkpoint.Checkpoint`. What TorchRL
would read with pickle, such as the extra fields of a saved tensordict, is not read here:
each component is one file of tensors, numbers, strings and containers of these, which
``torch.load(..., weights_only=True)`` reads, with its size and SHA-256 beside it. Large tables
of whole numbers that are mostly 0, such as counts of visits, are written without the zeros.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import re
import shutil
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torchrl.checkpoint import Checkpoint, CheckpointAdapter, CheckpointError, CheckpointRotation

from torchrl_alita.saving._machine import machine

__all__ = [
    "SCHEMA",
    "Checkpoints",
    "checkpoint_difference",
    "find_checkpoint",
    "read_component",
    "verify_checkpoint",
]

SCHEMA = 1
_STATE, _SEAL, _MANIFEST = "state.pt", "sha256.json", "manifest.json"
_NAME = re.compile(r"checkpoint-\d{12}")
_PLAIN = (type(None), bool, int, float, str, torch.Size, torch.dtype, torch.device)
_TENSORS = (torch.Tensor, torch.nn.Parameter)
# A table of at least so many counts is written without its zeros where most are 0: torch's own
# sparse tensors warn when they are read.
_LARGE, _FILLED = 2**16, 0.25
_THINNED = ("size of the table", "places", "counts")


class _PlainData(CheckpointAdapter):
    """A component as plain data, by its ``state_dict`` or as the dict that it is."""

    adapter_id = "torchrl_alita.plain_data"

    def save(self, component: Any, path: Path, *, args: tuple, kwargs: Mapping[str, Any]) -> None:
        state = dict(component) if isinstance(component, dict) else component.state_dict()
        _check_plain(state, path.name)
        path.mkdir(parents=True)
        file = path / _STATE
        state = _each(_thinned, state)
        try:
            torch.save(state, file)
        except RuntimeError as error:
            # That is how torch says that the disk is full.
            raise OSError(f"{file} cannot be written: {error}") from error
        with file.open("rb") as written:
            # Or a machine that fails after the directory is renamed leaves an empty file.
            os.fsync(written.fileno())
        (path / _SEAL).write_text(json.dumps(_seal(file)))

    def load(
        self,
        component: Any,
        path: Path,
        *,
        map_location: Any,
        tensor_load_kwargs: Mapping[str, Any],
        args: tuple,
        kwargs: Mapping[str, Any],
    ) -> None:
        state = _read(path / _STATE, map_location)
        if isinstance(component, dict):
            component.update(state)
        else:
            component.load_state_dict(state)


class Checkpoints:
    """The checkpoints of a run, the newest of which stay.

    Args:
        directory: in which they lie.
        keep_last: how many stay.

    Raises:
        ValueError: when loading, if the newest is damaged; the file and the newest whole
            checkpoint are named, and nothing has been taken over.
        OSError: when saving, if a file cannot be written; it is named. The checkpoints
            that were there are untouched.

    Examples:
        >>> import tempfile
        >>> checkpoints = Checkpoints(Path(tempfile.mkdtemp()), keep_last=2)
        >>> progress = {"frames": 100}
        >>> path = checkpoints.save({"progress": progress}, frames=100)
        >>> path.name
        'checkpoint-000000000100'
        >>> progress["frames"] = 170
        >>> checkpoints.load({"progress": progress})
        >>> progress
        {'frames': 100}
    """

    def __init__(self, directory: str | Path, *, keep_last: int):
        self.directory = Path(directory)
        self._rotation = CheckpointRotation(self.directory, keep_last=keep_last)

    def latest(self) -> Path | None:
        """The newest, or None."""
        return max(self._all(), default=None)

    def save(self, components: Mapping[str, Any], *, frames: int) -> Path:
        """Write a checkpoint, whole or not at all, and drop the oldest."""
        checkpoint = _coordinator(components)
        try:
            metadata = {"schema": SCHEMA, "machine": _exactness()}
            return self._rotation.save(checkpoint, step=frames, metadata=metadata)
        except OSError as error:
            raise OSError(
                f"The checkpoint of frame {frames} cannot be written into {self.directory}: "
                f"{error}. The newest whole one is {self._newest_whole()}."
            ) from error

    def load(self, components: Mapping[str, Any]) -> None:
        """Restore the newest, in the order of the components' names."""
        latest = self.latest()
        if latest is None:
            raise ValueError(f"{self.directory} has no checkpoint.")
        try:
            verify_checkpoint(latest)
        except ValueError as error:
            raise ValueError(
                f"{error} To go on from the newest whole checkpoint, {self._newest_whole()}, "
                f"remove {latest}."
            ) from error
        try:
            _coordinator(components).load(latest)
        except CheckpointError as error:
            raise ValueError(f"The checkpoint {latest} cannot be restored: {error}") from error

    def changes(self) -> dict[str, tuple[Any, Any]]:
        """What the newest was written with that is otherwise here, ``name: (there, here)``.

        With another one of these the last digits of sums may differ.
        """
        latest, here = self.latest(), _exactness()
        if latest is None:
            return {}
        there = json.loads((latest / _MANIFEST).read_text())["metadata"].get("machine", {})
        return {
            name: (there[name], value)
            for name, value in here.items()
            if name in there and there[name] != value
        }

    def remove_unfinished(self) -> None:
        """Delete what a process that was killed while it wrote has left."""
        for path in self.directory.glob(".checkpoint-*"):
            shutil.rmtree(path, ignore_errors=True)

    def _all(self) -> list[Path]:
        if not self.directory.is_dir():
            return []
        return sorted(path for path in self.directory.iterdir() if _NAME.fullmatch(path.name))

    def _newest_whole(self) -> Path | None:
        for path in reversed(self._all()):
            try:
                verify_checkpoint(path)
            except ValueError:
                continue
            return path
        return None


def _exactness() -> dict[str, Any]:
    """On what the last digits depend."""
    names = ("torchrl_alita", "torch", "torchrl", "tensordict", "processor", "gpu", "threads")
    known = machine()
    return {name: known[name] for name in names}


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint of this path, or the newest of the run that is there.

    Raises:
        ValueError: if there is none.

    Examples:
        >>> find_checkpoint("no/such/run")
        Traceback (most recent call last):
        ...
        ValueError: no/such/run is neither a checkpoint nor a run that has one.
    """
    path = Path(path)
    if (path / _MANIFEST).is_file():
        return path
    latest = Checkpoints(path / "checkpoints", keep_last=1).latest()
    if latest is None:
        raise ValueError(f"{path} is neither a checkpoint nor a run that has one.")
    return latest


def verify_checkpoint(path: str | Path, components: Collection[str] | None = None) -> None:
    """Read every byte of a checkpoint and compare it with what was written.

    Args:
        path: of the checkpoint's directory.
        components: names. Default: all.

    Raises:
        ValueError: if a file is missing, has another size or content, or the checkpoint
            is of another schema or lacks a component; the file is named.
    """
    for _, directory in _directories(Path(path), components):
        seal = directory / _SEAL
        try:
            expected = json.loads(seal.read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"{seal} is damaged: {error}.") from error
        file = directory / _STATE
        if not file.is_file():
            raise ValueError(f"{file} is missing.")
        found = _seal(file)
        if found != expected:
            raise ValueError(
                f"{file} is damaged: it has {found['size']} bytes with the SHA-256 "
                f"{found['sha256'][:12]}..., not {expected}."
            )


def read_component(path: str | Path, name: str, *, device: Any = None) -> dict[str, Any]:
    """The plain data of one component of a checkpoint, which no object has to exist for.

    Args:
        path: of the checkpoint's directory.
        name: of the component, as ``"policy"``.
        device: where tensors go. Default: where they were.

    Raises:
        ValueError: as in :func:`verify_checkpoint`, or if the file holds anything but
            plain data.
    """
    verify_checkpoint(path, [name])
    ((_, directory),) = _directories(Path(path), [name])
    return _read(directory / _STATE, device)


def checkpoint_difference(first: str | Path, second: str | Path) -> dict[str, float]:
    """Largest absolute difference of two checkpoints, by component.

    Every tensor and number is compared: parameters, optimizers, stored transitions,
    environments, random states. The wall time is left out. NaN equals NaN.

    Args:
        first: a checkpoint, or a run, of which the newest counts.
        second: likewise.

    Returns:
        Infinity where shapes, dtypes or the structure differ.

    Raises:
        ValueError: as in :func:`verify_checkpoint`.
    """
    paths = [find_checkpoint(first), find_checkpoint(second)]
    names = [{name for name, _ in _directories(path, None)} for path in paths]
    result = dict.fromkeys(sorted(names[0] ^ names[1]), math.inf)
    for name in sorted(names[0] & names[1]):
        states = [read_component(path, name, device="cpu") for path in paths]
        for state in states:
            state.pop("wall_seconds", None)
        result[name] = _difference(*states)
    return result


def _coordinator(components: Mapping[str, Any]) -> Checkpoint:
    checkpoint = Checkpoint()
    for name, component in components.items():
        checkpoint.register(name, component, adapter=_PlainData())
    return checkpoint


def _directories(path: Path, names: Collection[str] | None) -> Iterator[tuple[str, Path]]:
    try:
        manifest = Checkpoint.manifest(path)
    except (CheckpointError, OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is no checkpoint: its {_MANIFEST}: {error}.") from error
    schema = (manifest.get("metadata") or {}).get("schema")
    if schema != SCHEMA:
        raise ValueError(f"{path} has the schema {schema!r}; this version reads {SCHEMA}.")
    records = manifest["components"]
    for name in records if names is None else names:
        if name not in records:
            raise ValueError(f"{path} has no component {name!r}; it has {sorted(records)}.")
        yield name, path / records[name]["path"]


def _seal(file: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while block := content.read(2**20):
            digest.update(block)
    return {"size": file.stat().st_size, "sha256": digest.hexdigest()}


def _read(file: Path, device: Any) -> dict[str, Any]:
    try:
        state = torch.load(file, map_location=device, weights_only=True)
    except Exception as error:
        # torch's own message advises to load the file without the safeguard.
        raise ValueError(
            f"{file} is refused: it cannot be read as tensors and plain data "
            f"({type(error).__name__})."
        ) from error
    if not isinstance(state, dict):
        raise ValueError(f"{file} is refused: it holds a {type(state).__name__}, not a dict.")
    return _each(_filled_up, state)


def _each(change: Callable[[Any], Any], value: Any) -> Any:
    """Plain data with everything in it changed, from the outside in."""
    value = change(value)
    if isinstance(value, dict):
        # A copy has the versions of its modules, which states keep beside their items.
        changed = copy.copy(value)
        changed.update((key, _each(change, item)) for key, item in value.items())
        return changed
    if type(value) in (list, tuple):
        return type(value)(_each(change, item) for item in value)
    return value


def _thinned(value: Any) -> Any:
    """A large table of counts that is mostly 0 without its zeros; all else as it is."""
    if not isinstance(value, torch.Tensor) or value.dtype != torch.int64:
        return value
    if (
        value.layout != torch.strided
        or value.numel() < _LARGE
        or int(value.count_nonzero()) > _FILLED * value.numel()
    ):
        return value
    flat = value.reshape(-1)
    places = flat.nonzero().squeeze(-1)
    return dict(zip(_THINNED, (value.shape, places, flat[places]), strict=True))


def _filled_up(value: Any) -> Any:
    """What :func:`_thinned` was given."""
    if not isinstance(value, dict) or tuple(value) != _THINNED:
        return value
    size, places, counts = value.values()
    return counts.new_zeros(size.numel()).index_put((places,), counts).view(size)


def _check_plain(value: Any, path: str) -> None:
    """Raise a TypeError for what could be written but not read back."""
    if type(value) in (*_PLAIN, *_TENSORS):
        return
    if type(value) in (dict, OrderedDict):
        for key, item in value.items():
            _check_plain(key, f"{path}.keys()")
            _check_plain(item, f"{path}[{key!r}]")
        return
    if type(value) not in (list, tuple):
        raise TypeError(f"{path} cannot be in a checkpoint: it is a {type(value).__name__}.")
    for index, item in enumerate(value):
        _check_plain(item, f"{path}[{index}]")


def _difference(first: Any, second: Any) -> float:
    if type(first) is not type(second):
        return math.inf
    if isinstance(first, torch.Tensor):
        return _tensor_difference(first, second)
    if isinstance(first, dict):
        if set(first) != set(second):
            return math.inf
        return max((_difference(first[key], second[key]) for key in first), default=0.0)
    if isinstance(first, (list, tuple)):
        if len(first) != len(second):
            return math.inf
        return max(map(_difference, first, second), default=0.0)
    if first == second or (first != first and second != second):
        return 0.0
    return abs(first - second) if isinstance(first, (int, float)) else math.inf


def _tensor_difference(first: torch.Tensor, second: torch.Tensor) -> float:
    if first.shape != second.shape or first.dtype != second.dtype:
        return math.inf
    if torch.equal(first, second) or not first.numel():
        return 0.0
    same = (first == second) | (first.isnan() & second.isnan())
    whole = not (first.is_floating_point() or first.is_complex())
    first, second = first.detach().double(), second.detach().double()
    gap = (first - second).abs().nan_to_num(math.inf, math.inf)
    if whole:
        # Large numbers that differ may be one in floating point.
        gap = gap.clamp_min(1.0)
    return float(torch.where(same, 0.0, gap).max())
