"""The directory of a run: its config, its checkpoints, what it leaves."""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any

from torchrl_alita._checks import check_folder
from torchrl_alita._settings import differences
from torchrl_alita.saving.checkpoint import Checkpoints
from torchrl_alita.saving.files import write_whole

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows: there nobody keeps two runs out of one directory.
    fcntl = None

__all__ = ["RunDirectory", "check_same", "read_config"]

# What may differ in a run that is resumed: it does not shape what was done so far.
_MAY_DIFFER = {
    "training": (
        "progress",
        "loggers",
        "wandb",
        "threads",
        "total_frames",
        "keep_checkpoints",
        "pictures",
    ),
}
# Without a checkpoint they are of no use.
_BEFORE_CHECKPOINT = ("config.json", "metrics.csv", "wandb.json")
# Of the loggers; another program may have one of the same name in the same place. What Weights &
# Biases keeps of a run stays: it says how the run ended.
_FOLDERS = ("csv_logs", "tensorboard_logs")


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
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: it is no object but {content!r}.")
    return content


def check_same(run_dir: str | Path, saved: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Refuse to go on with a run under a config that shapes it otherwise.

    Args:
        run_dir: the run's directory.
        saved: its config, or a part of it, as plain data.
        asked: likewise.

    Raises:
        ValueError: if they differ in what must not; each option is named with both values.

    Examples:
        >>> check_same("run", {"training": {"seed": 0}}, {"training": {"seed": 1}})
        Traceback (most recent call last):
        ...
        ValueError: run was started with another config; (saved, asked): {'training.seed': (0, 1)}...
    """
    if differing := differences(_by_option(saved), _by_option(asked)):
        raise ValueError(
            f"{run_dir} was started with another config; (saved, asked): {differing}. "
            "Leave these options out."
        )


class RunDirectory:
    """Files of one run: config.json, metrics.csv, checkpoints/ and what it leaves.

    A directory in which a run was killed before its first checkpoint is as good as empty. As a
    context, a run that ends in an error before its first checkpoint takes its files away, but for
    what Weights & Biases keeps.

    Args:
        path: of the directory. Default: ``runs/`` and a name with the time.
        config: of the run, as :func:`torchrl_alita.training.plain_config` has it.
        resume: continue the run that is there. It may be prolonged, and show and log itself
            otherwise.
        keep_checkpoints: how many of the newest stay.
        complete: makes of what an earlier version has saved what this one would have. Default:
            nothing.

    Raises:
        ValueError: if another run works in the directory, or a new run's holds one already; or,
            when resuming, if it holds none, none with a checkpoint, or one with another config
            (the options that differ are named).

    Examples:
        >>> RunDirectory("no/such/run", config={}, resume=True)
        Traceback (most recent call last):
        ...
        ValueError: ...no/such/run is no run: it has no config.json.
    """

    def __init__(
        self,
        path: str | Path | None,
        *,
        config: Mapping[str, Any],
        resume: bool = False,
        keep_checkpoints: int = 2,
        complete: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda saved: saved,
    ):
        if path is None:
            name = config["algorithm"]["name"]
            path = Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S-%f}"
        # Whoever changes the working directory meanwhile does not move the run.
        self.path = Path(path).absolute()
        self.checkpoints = Checkpoints(self.path / "checkpoints", keep_last=keep_checkpoints)
        if not resume:
            check_folder(self.path)
            self.path.mkdir(parents=True, exist_ok=True)
        self._config = config
        self._new_folders = [name for name in _FOLDERS if not (self.path / name).exists()]
        self._unlock = self._lock()
        try:
            if resume:
                self._check_resumable(config, complete)
                self.checkpoints.remove_unfinished()
            elif (self.path / "config.json").exists():
                # One that has finished is no killed start, whatever became of its checkpoints.
                if self.checkpoints.latest() is not None or self._summary.exists():
                    raise ValueError(
                        f"{self.path} holds a run already; choose another run_dir, or resume it."
                    )
                self._clear()
        except BaseException:
            # The error's traceback keeps this object, and with it the lock.
            self._unlock()
            raise

    def _lock(self) -> Callable[[], object]:
        """Keep other runs out of the directory until this one ends, or its process."""
        if fcntl is None or not self.path.is_dir():
            return lambda: None
        descriptor = os.open(self.path, os.O_RDONLY)
        unlock = weakref.finalize(self, os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            unlock()
            raise ValueError(f"Another run works in {self.path}.") from None
        except OSError:
            # A file system without locks.
            pass
        return unlock

    def __enter__(self) -> RunDirectory:
        return self

    def begin(self) -> None:
        """Say in it what the run is from here on; a run that goes on is finished no longer."""
        latest = self.checkpoints.latest()
        asked = self._config.get("training", {}).get("total_frames", 0)
        # In this order: one that is killed in between is the old run, which can be resumed.
        if latest is not None and _frames(latest) < asked:
            self._summary.unlink(missing_ok=True)
        # Python reads back an infinite setting as it stands.
        self._write("config.json", self._config)

    @property
    def _summary(self) -> Path:
        return self.path / "summary.json"

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        try:
            if kind is not None and self.checkpoints.latest() is None:
                self._clear()
                self.checkpoints.remove_unfinished()
                for name in self._new_folders:
                    shutil.rmtree(self.path / name, ignore_errors=True)
                # What others have left there stays.
                for folder in (self.checkpoints.directory, self.path):
                    with suppress(OSError):
                        folder.rmdir()
        finally:
            self._unlock()

    def _clear(self) -> None:
        """Remove what a run writes before its first checkpoint."""
        for name in _BEFORE_CHECKPOINT:
            (self.path / name).unlink(missing_ok=True)

    def _check_resumable(
        self,
        config: Mapping[str, Any],
        complete: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    ) -> None:
        saved: Mapping[str, Any] = read_config(self.path)
        try:
            saved = complete(saved)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self.path}/config.json: {error}") from error
        check_same(self.path, saved, config)
        latest = self.checkpoints.latest()
        if latest is None:
            raise ValueError(f"{self.path} has no checkpoint to resume from.")
        training, made = config.get("training", {}), _frames(latest)
        asked_frames = training.get("total_frames", made)
        # The last batch is a whole one.
        if asked_frames + -asked_frames % training.get("frames_per_batch", 1) < made:
            raise ValueError(
                f"{self.path} has made {made} frames; total_frames cannot be below, got "
                f"{asked_frames}."
            )

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        self._write(name, _finite(content))

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        write_whole(self.path / name, json.dumps(content, indent=2) + "\n")

    @property
    def resume(self) -> str:
        """The command that continues this run."""
        return shlex.join(["torchrl-alita", "train", "--resume", str(self.path)])


def _finite(value: Any) -> Any:
    """None for a number that is not finite, which JSON does not know."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _frames(checkpoint: Path) -> int:
    """How far the run was when it was written."""
    return int(checkpoint.name.rpartition("-")[2])


def _by_option(config: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same in a resumed run, by dotted name."""
    return {
        f"{part}.{name}": value
        for part, options in config.items()
        if isinstance(options, Mapping)
        for name, value in options.items()
        if name not in _MAY_DIFFER.get(part, ())
    }
