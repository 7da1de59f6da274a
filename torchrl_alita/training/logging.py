"""Where the figures of a run go."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torchrl.record.loggers import Logger, TensorboardLogger, WandbLogger
from torchrl.record.loggers.utils import get_logger

from torchrl_alita._checks import check_choice
from torchrl_alita._extras import import_extra
from torchrl_alita.saving import write_whole

__all__ = [
    "LoggerName",
    "Loggers",
    "MetricsFile",
    "WandbSettings",
    "close_logger",
    "make_logger",
]

LoggerName = Literal["csv", "tensorboard", "wandb"]

# Seconds for which Weights & Biases may wait for the network, at the start and at the end.
_WANDB_START, _WANDB_END = 20.0, 60.0

_WANDB_MODES = ("offline", "online", "disabled")

_report = logging.getLogger(__name__)


class MetricsFile:
    """A table of metrics, one row for each moment, a column that appears later included.

    Args:
        path: of the CSV file; an existing one is continued.
        until: rows beyond this number of frames are dropped, so that a resumed run does
            not say anything twice.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "metrics.csv"
        >>> file = MetricsFile(path)
        >>> file.write({"frames": 10, "loss": 1.5})
        >>> file.write({"frames": 20, "return": 3})
        >>> [dict(row) for row in MetricsFile(path, until=10).rows]
        [{'frames': '10', 'loss': '1.5', 'return': ''}]
    """

    def __init__(self, path: str | Path, *, until: int | None = None):
        self.path = Path(path)
        self.columns: list[str] = []
        # Rows that a full disk has refused so far.
        self._waiting: list[dict[str, Any]] = []
        if self.path.exists():
            self.columns, rows = self._read()
            kept = [row for row in rows if until is None or int(row["frames"]) <= until]
            self._rewrite(kept)

    @property
    def rows(self) -> list[dict[str, str]]:
        """What the file holds."""
        return self._read()[1] if self.path.exists() else []

    def _read(self) -> tuple[list[str], list[dict[str, str]]]:
        text = self.path.read_text()
        # A process that was killed may have left half a row.
        reader = csv.DictReader(text[: text.rfind("\n") + 1].splitlines())
        rows = list(reader)
        return list(reader.fieldnames or []), rows

    def write(self, row: Mapping[str, Any]) -> None:
        """Add a row; its key ``"frames"`` says when.

        A disk that is full is reported once, and the rows follow when there is room again.
        """
        self._waiting.append(dict(row))
        try:
            self._write_waiting()
        except OSError as error:
            if len(self._waiting) == 1:
                _report.warning("%s cannot be written for now: %s", self.path, error)

    def _write_waiting(self) -> None:
        known = dict.fromkeys(self.columns)
        columns = list(known | dict.fromkeys(name for row in self._waiting for name in row))
        if len(columns) > len(known):
            rows, before, self.columns = self.rows, self.columns, columns
            try:
                self._rewrite([*rows, *self._waiting])
            except OSError:
                self.columns = before
                raise
        else:
            self._append()
        self._waiting.clear()

    def _append(self) -> None:
        size = self.path.stat().st_size
        try:
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self.columns, restval="").writerows(self._waiting)
        except OSError:
            # Half a row must not become the beginning of the next.
            os.truncate(self.path, size)
            raise

    def _rewrite(self, rows: Iterable[Mapping[str, Any]]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
        write_whole(self.path, text.getvalue())

    def column(self, name: str) -> tuple[list[int], list[float]]:
        """Frames and values where the column has one."""
        points = [
            (int(row["frames"]), float(row[name]))
            for row in self.rows
            if row.get(name, "") not in ("", None)
        ]
        return [frames for frames, _ in points], [value for _, value in points]


@dataclass(frozen=True, kw_only=True)
class WandbSettings:
    """What Weights & Biases is told of a run.

    Raises:
        ValueError: for an unknown mode.

    Examples:
        >>> WandbSettings(mode="online").resolved_mode()
        'online'
    """

    project: str = "torchrl_alita"
    """Project of the run."""
    entity: str | None = None
    """User or team. Default: the account's own."""
    group: str | None = None
    """Group of the run. Default: algorithm and task."""
    job_type: str = "train"
    """Kind of run within the group."""
    name: str | None = None
    """Name of the run. Default: its directory's."""
    tags: tuple[str, ...] = ()
    """Tags beside algorithm and task."""
    mode: Literal["offline", "online", "disabled"] | None = None
    """Default: what WANDB_MODE says; else online for a run that a sweep agent has started, and
    offline for every other one, which ``wandb sync`` uploads later."""
    checkpoint: bool = False
    """Keep the last checkpoint as an artifact."""

    def __post_init__(self):
        if self.mode is not None:
            check_choice("mode", self.mode, _WANDB_MODES)

    def resolved_mode(self) -> str:
        """The mode that holds in this process."""
        fallback = "online" if "WANDB_SWEEP_ID" in os.environ else "offline"
        told = os.environ.get("WANDB_MODE")
        if told:
            check_choice("WANDB_MODE", told, (*_WANDB_MODES, "shared", "dryrun", "run"))
        return self.mode or told or fallback


def make_logger(
    name: LoggerName,
    run_dir: str | Path,
    *,
    config: Mapping[str, Any],
    labels: Sequence[str] = (),
    wandb: WandbSettings | None = None,
) -> Logger:
    """One of TorchRL's loggers, writing under the run's directory.

    Weights & Biases stays offline unless the settings or the environment say otherwise. A
    run that is open in the process stays open, and this one is another. It gets the config
    when it is created, since what is set later is lost offline. Its id is kept in the run's
    directory, so that a resumed run goes on under the same one.

    Args:
        name: ``"csv"``, ``"tensorboard"`` or ``"wandb"``.
        run_dir: the run's directory.
        config: of the run.
        labels: tags of the run, as its algorithm and its task; joined they are its group.
        wandb: what Weights & Biases is told. Default: :class:`WandbSettings`'s.

    Raises:
        ValueError: for an unknown name.
        ImportError: if the logger's package is not installed; the extra is named.
    """
    run_dir = Path(run_dir)
    if name == "wandb":
        return _make_wandb(run_dir, config, labels, wandb or WandbSettings())
    if name == "tensorboard":
        import_extra("tensorboard", "recipes")
    elif name != "csv":
        raise ValueError(f"The logger must be csv, tensorboard or wandb, got {name!r}.")
    return get_logger(name, str(run_dir), f"{name}_logs")


def _make_wandb(
    run_dir: Path, config: Mapping[str, Any], labels: Sequence[str], settings: WandbSettings
) -> Logger:
    import_extra("wandb", "wandb")
    saved = run_dir / "wandb.json"
    known = json.loads(saved.read_text()) if saved.exists() else {}
    if "WANDB_SWEEP_ID" in os.environ:
        # An agent waits for the run to which it has given an id.
        known.setdefault("id", os.environ.get("WANDB_RUN_ID"))
    # The logger's own offline flag would set WANDB_MODE for the whole process.
    options = {
        "project": settings.project,
        "entity": settings.entity,
        "group": settings.group or "-".join(labels) or None,
        "job_type": settings.job_type,
        "tags": list(dict.fromkeys((*labels, *settings.tags))),
        "config": dict(config),
        "mode": settings.resolved_mode(),
        "id": known.get("id"),
        "reinit": "create_new",
        "settings": {"init_timeout": _WANDB_START, "finish_timeout": _WANDB_END},
        "log_env_packages": False,
    }
    run_name = settings.name or run_dir.resolve().name
    logger = get_logger("wandb", str(run_dir), run_name, wandb_kwargs=options)
    write_whole(saved, json.dumps({"id": logger.experiment.id}) + "\n")
    return logger


def close_logger(logger: Logger, *, failed: bool = False) -> None:
    """Write out what a logger still holds.

    Args:
        logger: of :func:`make_logger`.
        failed: whether the run has ended in an error.
    """
    if isinstance(logger, WandbLogger):
        logger.experiment.finish(exit_code=int(failed))
    elif isinstance(logger, TensorboardLogger):
        logger.experiment.close()


class Loggers:
    """Loggers that can fail without any harm to the run.

    What one raises is reported once, by Python's ``logging``; from then on it is left
    alone, so that it cannot slow the run either. At the end of a ``with`` block they are
    closed, also after an error.

    Args:
        names: of the loggers.
        run_dir: the run's directory.
        config: of the run.
        labels: as in :func:`make_logger`.
        wandb: as in :func:`make_logger`.

    Raises:
        ValueError: for an unknown name.
        ImportError: if the logger's package is not installed; the extra is named.

    Examples:
        >>> import tempfile
        >>> with Loggers((), tempfile.mkdtemp(), config={}) as loggers:
        ...     loggers.log({"return": 1.5}, step=100)
    """

    def __init__(
        self,
        names: Sequence[LoggerName],
        run_dir: str | Path,
        *,
        config: Mapping[str, Any],
        labels: Sequence[str] = (),
        wandb: WandbSettings | None = None,
    ):
        self.run_dir = Path(run_dir)
        self.wandb = wandb or WandbSettings()
        self._working: dict[str, Logger] = {}
        for name in names:
            try:
                self._working[name] = make_logger(
                    name, run_dir, config=config, labels=labels, wandb=wandb
                )
            except (ValueError, ImportError):
                self.close(failed=True)
                raise
            except Exception as error:
                self._give_up(name, error)

    def __enter__(self) -> Loggers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        self.close(failed=kind is not None)

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Hand values to every logger that works, as one row.

        Args:
            values: by name.
            step: environment steps so far.
        """
        for name, logger in list(self._working.items()):
            with self._guard(name):
                logger.log_metrics(dict(values), step=step)

    @property
    def take_histograms(self) -> bool:
        """Whether one of them keeps distributions."""
        keep = (WandbLogger, TensorboardLogger)
        return any(isinstance(logger, keep) for logger in self._working.values())

    def log_histograms(self, values: Mapping[str, torch.Tensor], *, step: int) -> None:
        """Hand distributions to TensorBoard and Weights & Biases; a CSV file has none.

        Args:
            values: by name, of any shape; what is not finite is left out.
            step: environment steps so far.
        """
        finite = {}
        for key, tensor in values.items():
            flat = tensor.detach().float().flatten().cpu()
            flat = flat[flat.isfinite()]
            if len(flat):
                finite[key] = flat.numpy()
        for name, logger in list(self._working.items()):
            with self._guard(name):
                if isinstance(logger, WandbLogger) and finite:
                    histogram = import_extra("wandb", "wandb").Histogram
                    row = {key: histogram(data, num_bins=32) for key, data in finite.items()}
                    logger.log_metrics(row, step=step)
                elif isinstance(logger, TensorboardLogger):
                    for key, data in finite.items():
                        logger.log_histogram(key, data, step=step, bins="auto")

    def finish(
        self,
        summary: Mapping[str, Any],
        *,
        step: int,
        gif: str | Path | None = None,
        checkpoint: str | Path | None = None,
    ) -> None:
        """Hand the outcome of a run to Weights & Biases.

        Args:
            summary: content of summary.json, kept as the run's summary.
            step: environment steps of the run.
            gif: an evaluation episode, kept as a video.
            checkpoint: folder of the last one, kept as an artifact if the settings say so.
        """
        with self._guard("wandb"):
            logger = self._working.get("wandb")
            if not isinstance(logger, WandbLogger):
                return
            wandb, run = import_extra("wandb", "wandb"), logger.experiment
            if gif is not None and Path(gif).is_file():
                video = wandb.Video(str(gif), format="gif")
                run.log({"evaluation/episode": video, "evaluation/step": step})
            run.summary.update({"final": dict(summary)})
            if checkpoint is not None and self.wandb.checkpoint:
                artifact = wandb.Artifact(f"checkpoint-{run.id}", type="model")
                artifact.add_dir(str(checkpoint))
                run.log_artifact(artifact)

    def close(self, *, failed: bool = False) -> None:
        """Write out what the loggers still hold; a second time there is nothing left.

        Args:
            failed: whether the run has ended in an error.
        """
        for name, logger in list(self._working.items()):
            with self._guard(name):
                close_logger(logger, failed=failed)
        self._working.clear()

    @contextmanager
    def _guard(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._give_up(name, error)

    def _give_up(self, name: str, error: Exception) -> None:
        self._working.pop(name, None)
        _report.warning(
            "The logger %s has failed and is left out from here on; metrics.csv goes on: %r",
            name,
            error,
        )
