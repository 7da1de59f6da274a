"""Reads what Weights & Biases has written offline."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

# The format is LevelDB's log: blocks, in which records of (checksum, length, type, data) lie;
# the file begins with a mark of seven bytes.
_BLOCK, _HEADER, _MARK = 32_768, 7, 7
_WHOLE, _LAST = 1, 4


def _records(data: bytes) -> Iterator[bytes]:
    position, parts = _MARK, b""
    while position + _HEADER <= len(data):
        left = _BLOCK - position % _BLOCK
        if left < _HEADER:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        parts += data[position + _HEADER : position + _HEADER + length]
        position += _HEADER + length
        if kind in (_WHOLE, _LAST):
            yield parts
            parts = b""


def _values(items: Any) -> dict[str, Any]:
    """A tree where keys are nested."""
    values: dict[str, Any] = {}
    for item in items:
        *path, last = item.nested_key or [item.key]
        node = values
        for key in path:
            node = node.setdefault(key, {})
        node[last] = json.loads(item.value_json)
    return values


class OfflineRun:
    """One run's file: ``run`` as it began, its ``history`` rows, ``summary``, ``exit_code``."""

    def __init__(self, path: Path):
        self.history: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.config: dict[str, Any] = {}
        self.artifacts: list[str] = []
        self.exit_code: int | None = None
        self.run = None
        for content in _records(path.read_bytes()):
            record = wandb_internal_pb2.Record.FromString(content)
            kind = record.WhichOneof("record_type")
            if kind == "run":
                self.run = record.run
                self.config |= _values(record.run.config.update)
            elif kind == "history":
                self.history.append(_values(record.history.item))
            elif kind == "summary":
                self.summary |= _values(record.summary.update)
            elif kind == "artifact":
                self.artifacts.append(record.artifact.type)
            elif kind == "exit":
                self.exit_code = record.exit.exit_code

    def column(self, name: str) -> list[Any]:
        return [row[name] for row in self.history if name in row]


def offline_runs(run_dir: Path) -> list[OfflineRun]:
    """Those under a directory, in the order in which they began.

    W&B's own process writes the end of a file shortly after ``finish`` has returned.
    """
    deadline = time.monotonic() + 30
    while True:
        runs = [
            OfflineRun(path) for path in sorted(run_dir.glob("wandb/offline-run-*/run-*.wandb"))
        ]
        if all(run.exit_code is not None for run in runs) or time.monotonic() > deadline:
            return runs
        time.sleep(0.05)
