"""Where the figures of a run go."""

from __future__ import annotations

import csv
import io
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torchrl.record.loggers import Logger, TensorboardLogger, WandbLogger
from torchrl.record.loggers.utils import get_logger

from torchrl_alita._extras import import_extra
from torchrl_alita.training.files import write_whole

__all__ = ["LoggerName", "Loggers", "MetricsFile", "close_logger", "make_logger"]

LoggerName = Literal["csv", "tensorboard", "wandb"]

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


def make_logger(
    name: LoggerName, run_dir: str | Path, *, run_name: str, config: Mapping[str, Any]
) -> Logger:
    """One of TorchRL's loggers, writing under the run's directory.

    Weights & Biases stays offline unless the user is logged in (``wandb login``, or
    ``WANDB_API_KEY``) or says otherwise (``WANDB_MODE``), and gets the config when the
    run is created, since what is set later is lost offline.

    Args:
        name: ``"csv"``, ``"tensorboard"`` or ``"wandb"``.
        run_dir: the run's directory.
        run_name: shown by the logger.
        config: of the run.

    Raises:
        ValueError: for an unknown name.
        ImportError: if the logger's package is not installed; the extra is named.
    """
    run_dir = Path(run_dir)
    if name == "wandb":
        wandb = import_extra("wandb", "wandb")
        mode = os.environ.get("WANDB_MODE")
        if mode is None:
            mode = "online" if wandb.login(prompt=False) else "offline"
        # The logger's own offline flag would set WANDB_MODE for the whole process.
        options = {
            "project": "torchrl_alita",
            "config": dict(config),
            "mode": mode,
            "log_env_packages": False,
        }
        return get_logger("wandb", str(run_dir), run_name, wandb_kwargs=options)
    if name == "tensorboard":
        import_extra("tensorboard", "recipes")
    elif name != "csv":
        raise ValueError(f"The logger must be csv, tensorboard or wandb, got {name!r}.")
    return get_logger(name, str(run_dir), f"{name}_logs")


def close_logger(logger: Logger) -> None:
    """Write out what a logger still holds."""
    if isinstance(logger, WandbLogger):
        logger.experiment.finish()
    elif isinstance(logger, TensorboardLogger):
        logger.experiment.close()


class Loggers:
    """Loggers that can fail without any harm to the run.

    What one raises is reported once, by Python's ``logging``; from then on it is left
    alone, so that it cannot slow the run either.

    Args:
        names: of the loggers.
        run_dir: the run's directory.
        config: of the run.

    Raises:
        ValueError: for an unknown name.
        ImportError: if the logger's package is not installed; the extra is named.

    Examples:
        >>> import tempfile
        >>> loggers = Loggers((), tempfile.mkdtemp(), config={})
        >>> loggers.log({"return": 1.5}, step=100)
        >>> loggers.close()
    """

    def __init__(
        self, names: Sequence[LoggerName], run_dir: str | Path, *, config: Mapping[str, Any]
    ):
        self._working: dict[str, Logger] = {}
        for name in names:
            try:
                self._working[name] = make_logger(
                    name, run_dir, run_name=Path(run_dir).name, config=config
                )
            except (ValueError, ImportError):
                raise
            except Exception as error:
                self._give_up(name, error)

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Hand values to every logger that works."""
        for name, logger in list(self._working.items()):
            try:
                for key, value in values.items():
                    logger.log_scalar(key, value, step=step)
            except Exception as error:
                self._give_up(name, error)

    def close(self) -> None:
        """Write out what the loggers still hold."""
        for name, logger in list(self._working.items()):
            try:
                close_logger(logger)
            except Exception as error:
                self._give_up(name, error)

    def _give_up(self, name: str, error: Exception) -> None:
        self._working.pop(name, None)
        _report.warning(
            "The logger %s has failed and is left out from here on; metrics.csv goes on: %r",
            name,
            error,
        )
