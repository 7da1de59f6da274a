"""Where the figures of a run go."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torchrl.record.loggers import Logger, TensorboardLogger, WandbLogger
from torchrl.record.loggers.utils import get_logger

from torchrl_alita._extras import import_extra

__all__ = ["LoggerName", "MetricsFile", "close_logger", "make_logger"]

LoggerName = Literal["csv", "tensorboard", "wandb"]


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
        self.rows: list[dict[str, Any]] = []
        self.columns: list[str] = []
        if self.path.exists():
            with self.path.open(newline="") as file:
                reader = csv.DictReader(file)
                rows = list(reader)
                self.columns = list(reader.fieldnames or [])
            self.rows = [row for row in rows if until is None or int(row["frames"]) <= until]
            self._rewrite()

    def write(self, row: Mapping[str, Any]) -> None:
        """Add a row; its key ``"frames"`` says when."""
        self.rows.append(dict(row))
        new = [name for name in row if name not in self.columns]
        if new:
            self.columns += new
            self._rewrite()
            return
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns, restval="").writerow(row)

    def _rewrite(self) -> None:
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns, restval="")
            writer.writeheader()
            writer.writerows(self.rows)

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
