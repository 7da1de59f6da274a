"""The directory of a run: its config, its checkpoints, what it leaves."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import tensordict
import torch
import torchrl

from torchrl_alita._version import __version__
from torchrl_alita.training.checkpoint import Checkpoints
from torchrl_alita.training.files import write_whole

__all__ = ["RunDirectory", "machine", "plain_config", "read_config"]

_NOT_CONFIG = ("run_dir", "resume")


def machine() -> dict[str, Any]:
    """What a figure was measured with: versions, commit, processor, accelerator."""
    return {
        "torchrl_alita": __version__,
        "commit": _commit(),
        "torch": torch.__version__,
        "torchrl": torchrl.__version__,
        "tensordict": tensordict.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


@cache
def _commit() -> str | None:
    """That of the code that runs, where it runs from its repository.

    It ends with ``"+changes"`` if files of the package differ from it.
    """
    package = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != package.parent:
            return None
        changed = git("status", "--porcelain", "--", ".")
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


@cache
def _processor() -> str:
    """Its model, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def plain_config(config: Any) -> dict[str, Any]:
    """A config dataclass as JSON has it, without what does not shape the run.

    Args:
        config: a dataclass.

    Returns:
        Its fields but ``run_dir`` and ``resume``.
    """
    fields = dataclasses.asdict(config)
    kept = {k: v for k, v in fields.items() if k not in _NOT_CONFIG}
    return json.loads(json.dumps(kept, default=str))


def read_config(run_dir: str | Path) -> dict[str, Any]:
    """The config of an earlier run.

    Args:
        run_dir: its directory.

    Raises:
        ValueError: if the directory holds no run, or its config.json is no JSON.
    """
    path = Path(run_dir) / "config.json"
    if not path.is_file():
        raise ValueError(f"{run_dir} is no run: it has no config.json.")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}.") from error


class RunDirectory:
    """Files of one run: config.json, metrics.csv, checkpoints/ and what it leaves.

    Args:
        path: of the directory. Default: ``runs/`` and a name with the time.
        config: the run's config dataclass.
        resume: continue the run that is there.
        keep_checkpoints: how many of the newest stay.

    Raises:
        ValueError: if a new run's directory holds a run already; or, when resuming, if
            it holds none, none with a checkpoint, or one with another config (the
            fields that differ are named).

    Examples:
        >>> RunDirectory("no/such/run", config=None, resume=True)
        Traceback (most recent call last):
        ...
        ValueError: no/such/run is no run: it has no config.json.
    """

    def __init__(
        self,
        path: str | Path | None,
        *,
        config: Any,
        resume: bool = False,
        keep_checkpoints: int = 2,
    ):
        if path is None:
            path = Path("runs") / f"{config.algorithm}-{datetime.now():%Y%m%d-%H%M%S-%f}"
        self.path = Path(path)
        self.checkpoints = Checkpoints(self.path / "checkpoints", keep_last=keep_checkpoints)
        if resume:
            self._check_resumable(config)
            self.checkpoints.remove_unfinished()
            return
        if (self.path / "config.json").exists():
            raise ValueError(
                f"{self.path} holds a run already; choose another run_dir, or resume it."
            )
        self.path.mkdir(parents=True, exist_ok=True)
        self.write_json("config.json", plain_config(config))

    def _check_resumable(self, config: Any) -> None:
        saved = read_config(self.path)
        asked = plain_config(config)
        differing = {
            name: (saved.get(name), asked.get(name))
            for name in sorted(saved.keys() | asked.keys())
            if saved.get(name) != asked.get(name)
        }
        if differing:
            raise ValueError(
                f"{self.path} was started with another config; (saved, asked): {differing}."
            )
        if self.checkpoints.latest() is None:
            raise ValueError(f"{self.path} has no checkpoint to resume from.")

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        write_whole(self.path / name, json.dumps(content, indent=2) + "\n")

    @property
    def resume(self) -> str:
        """The command that continues this run."""
        return f"python {sys.argv[0]} --resume {self.path}"
