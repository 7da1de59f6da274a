"""The directory of a run: whose it is, what it says of the run, and what an error leaves in it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import N, TargetEnv, flat_config

from torchrl_alita.envs import Task
from torchrl_alita.experiments import row_of_run
from torchrl_alita.saving import find_checkpoint, read_config, run_directory
from torchrl_alita.training import loop, train

TASK = Task(make=TargetEnv, n_agents=N, horizon=4)


def tiny(run_dir: Path | None, **changes):
    options = {
        "algorithm": "maddpg", "task": "target", "num_envs": 5, "total_frames": 40,
        "frames_per_batch": 20, "frames_per_update": 20, "random_frames": 20, "batch_size": 16,
        "evaluation_interval": 20, "evaluation_episodes": 3, "progress": False,
        "pictures": False, "num_cells": (13,), "run_dir": run_dir,
    }  # fmt: skip
    return flat_config(**(options | changes))


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")} if folder.exists() else set()


# Whose it is


def test_a_refused_run_leaves_the_directory_to_the_next_while_its_error_is_kept(tmp_path):
    run = tmp_path / "run"
    train(tiny(run), task=TASK)
    with pytest.raises(ValueError, match="holds a run already") as kept:
        train(tiny(run), task=TASK)
    with pytest.raises(ValueError, match=r"training.seed") as kept_too:
        train(tiny(None, resume=run, seed=1), task=TASK)
    assert train(tiny(None, resume=run, total_frames=60), task=TASK)["frames"] == 60
    assert kept.tb is not None
    assert kept_too.tb is not None


def test_a_directory_whose_files_cannot_be_removed_is_free_all_the_same(tmp_path, monkeypatch):
    run = tmp_path / "run"

    def refuse(*args):
        raise PermissionError("not here")

    with monkeypatch.context() as patch:
        patch.setattr(loop.Run, "_save", lambda *args: 1 / 0)
        patch.setattr(run_directory.RunDirectory, "_clear", refuse)
        with pytest.raises(PermissionError, match="not here") as kept:
            train(tiny(run), task=TASK)
    assert train(tiny(run), task=TASK)["frames"] == 40
    assert kept.tb is not None


# What it says of the run


def stop_after(monkeypatch, frames: int) -> None:
    """The process ends right after the row of that frame is written."""
    log = loop.Run._log

    def log_and_stop(self, values):
        log(self, values)
        if self.frames == frames:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop.Run, "_log", log_and_stop)


def row_of(run: Path):
    return row_of_run(run, study="s", variant="v", command="", settings={})


def test_a_prolonged_run_that_was_stopped_is_no_finished_run(tmp_path, monkeypatch):
    run = tmp_path / "run"
    train(tiny(run), task=TASK)
    assert row_of(run).frames == 40
    with monkeypatch.context() as patch:
        stop_after(patch, 60)
        with pytest.raises(KeyboardInterrupt):
            train(tiny(None, resume=run, total_frames=80), task=TASK)
    assert read_config(run)["training"]["total_frames"] == 80
    with pytest.raises(ValueError, match=r"no finished run: it has no .*summary.json"):
        row_of(run)
    train(tiny(None, resume=run, total_frames=80), task=TASK)
    row = row_of(run)
    assert (row.frames, row.column("evaluation/return_mean")[0]) == (80, [0, 20, 40, 60, 80])


def test_a_kill_between_the_summary_and_the_config_leaves_a_run_that_can_finish(
    tmp_path, monkeypatch
):
    run = tmp_path / "run"
    train(tiny(run), task=TASK)

    def die(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_directory, "write_whole", die)
        with pytest.raises(KeyboardInterrupt):
            train(tiny(None, resume=run, total_frames=80), task=TASK)
    assert read_config(run)["training"]["total_frames"] == 40
    with pytest.raises(ValueError, match="no finished run"):
        row_of(run)
    train(tiny(None, resume=run), task=TASK)
    assert row_of(run).frames == 40


def test_a_run_that_ends_where_it_ended_keeps_its_summary_until_it_has_another(
    tmp_path, monkeypatch
):
    run = tmp_path / "run"
    train(tiny(run), task=TASK)
    with monkeypatch.context() as patch:
        patch.setattr(loop.Run, "_finish", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(tiny(None, resume=run), task=TASK)
    assert row_of(run).frames == 40


def test_a_prolonged_run_whose_checkpoint_is_damaged_stays_the_finished_run_it_was(tmp_path):
    run = tmp_path / "run"
    train(tiny(run), task=TASK)
    for state in find_checkpoint(run).glob("components/*/state.pt"):
        state.write_bytes(b"")
    with pytest.raises(ValueError, match="is damaged"):
        train(tiny(None, resume=run, total_frames=80), task=TASK)
    assert read_config(run)["training"]["total_frames"] == 40
    assert row_of(run).frames == 40


def test_a_finished_run_without_its_checkpoints_is_not_begun_anew(tmp_path):
    run = tmp_path / "run"
    train(tiny(run), task=TASK)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(ValueError, match="holds a run already"):
        train(tiny(run), task=TASK)
    assert row_of(run).frames == 40


def test_a_run_whose_last_batch_goes_beyond_its_frames_is_resumed(tmp_path):
    """50 frames in batches of 20 are 60."""
    config = tiny(tmp_path / "run", total_frames=50)
    assert train(config, task=TASK)["frames"] == 60
    again = replace(config.training, run_dir=None, resume=tmp_path / "run")
    assert train(replace(config, training=again), task=TASK)["frames"] == 60
