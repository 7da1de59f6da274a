"""Logs that fail do no harm: the run goes on, and so does metrics.csv."""

from __future__ import annotations

import errno
import logging
from pathlib import Path

import pytest
import resume_runs

from torchrl_alita.saving import write_whole
from torchrl_alita.training import figures
from torchrl_alita.training import logging as run_logging
from torchrl_alita.training.logging import Loggers, MetricsFile


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    for name in ("save_curves", "save_gif", "save_heat_map"):
        monkeypatch.setattr(figures, name, lambda *args, **kwargs: None)


class Unreachable:
    """A logger whose server is gone."""

    def __init__(self, fails_at: int = 1):
        self.fails_at = fails_at
        self.calls = 0

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        self.calls += 1
        if self.calls >= self.fails_at:
            raise ConnectionError("no route to host")


def test_a_logger_that_fails_is_reported_once_and_training_goes_on(tmp_path, monkeypatch, caplog):
    logger = Unreachable(fails_at=3)
    monkeypatch.setattr(run_logging, "make_logger", lambda *args, **kwargs: logger)
    summary = resume_runs.run("games", "maddpg", run_dir=tmp_path / "run", loggers=("csv",))
    assert summary["frames"] == resume_runs.WHOLE
    assert logger.calls == 3
    said = [record.getMessage() for record in caplog.records if "csv" in record.getMessage()]
    assert len(said) == 1
    assert "no route to host" in said[0]
    frames = [int(row["frames"]) for row in MetricsFile(tmp_path / "run" / "metrics.csv").rows]
    assert frames == list(range(0, resume_runs.WHOLE + 1, 35))


def test_a_logger_that_cannot_start_is_reported_and_a_wrong_one_refused(
    tmp_path, monkeypatch, caplog
):
    with pytest.raises(ValueError, match="mlflow"):
        Loggers(("mlflow",), tmp_path, config={})

    def start(*args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(run_logging, "make_logger", start)
    loggers = Loggers(("wandb",), tmp_path, config={})
    loggers.log({"a": 1.0}, step=1)
    loggers.close()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_one_logger_that_fails_leaves_the_others(tmp_path, monkeypatch):
    made = {"csv": Unreachable(fails_at=1), "tensorboard": Unreachable(fails_at=99)}
    monkeypatch.setattr(run_logging, "make_logger", lambda name, *args, **kwargs: made[name])
    loggers = Loggers(("csv", "tensorboard"), tmp_path, config={})
    for step in range(4):
        loggers.log({"a": 1.0, "b": 2.0}, step=step)
    loggers.close()
    assert made["csv"].calls == 1
    assert made["tensorboard"].calls == 4


def test_rows_that_a_full_disk_refused_follow_when_there_is_room(tmp_path, monkeypatch, caplog):
    file = MetricsFile(tmp_path / "metrics.csv")
    file.write({"frames": 1, "a": 0.5})
    real_open = Path.open

    def full(path, mode="r", *args, **kwargs):
        if "r" not in mode:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_open(path, mode, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        file.write({"frames": 2, "a": 0.25})
        file.write({"frames": 3, "a": 0.125, "b": 1})
    assert (tmp_path / "metrics.csv").read_text().split() == ["frames,a", "1,0.5"]
    assert len(caplog.records) == 1
    assert "No space left" in caplog.text
    file.write({"frames": 4, "b": 2})
    expected = ["frames,a,b", "1,0.5,", "2,0.25,", "3,0.125,1", "4,,2"]
    assert (tmp_path / "metrics.csv").read_text().split() == expected


def test_half_a_row_is_taken_back(tmp_path, monkeypatch):
    """A disk may be full in the middle of a row."""
    file = MetricsFile(tmp_path / "metrics.csv")
    file.write({"frames": 1, "a": 0.5})

    class Half(run_logging.csv.DictWriter):
        def writerows(self, rows) -> None:
            super().writerows(rows)
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(run_logging.csv, "DictWriter", Half)
        file.write({"frames": 2, "a": 0.25})
    assert [row["frames"] for row in file.rows] == ["1"]
    file.write({"frames": 3, "a": 0.75})
    assert [row["frames"] for row in file.rows] == ["1", "2", "3"]


def test_a_process_killed_while_it_writes_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    write_whole(path, "old")

    def die(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, "new")
    assert path.read_text() == "old"


def test_half_a_row_of_a_killed_process_is_no_row(tmp_path):
    """What is left of frame 1200 must not pass for frame 12."""
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"frames,a\r\n10,0.5\r\n12")
    file = MetricsFile(path, until=100)
    file.write({"frames": 20, "a": 0.25})
    assert path.read_text().split() == ["frames,a", "10,0.5", "20,0.25"]
