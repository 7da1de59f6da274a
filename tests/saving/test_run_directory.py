"""The directory of a run: whose it is, what it says of the run, and what an error leaves in it."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pytest
import torch
from fakes import N, TargetEnv, changed_training, flat_config

from torchrl_alita import MADDPG
from torchrl_alita.envs import Task
from torchrl_alita.experiments import row_of_run
from torchrl_alita.saving import find_checkpoint, read_config, run_directory, write_whole
from torchrl_alita.training import loop, parse_arguments, train
from torchrl_alita.training.command import main

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
    again = changed_training(config, run_dir=None, resume=tmp_path / "run")
    assert train(again, task=TASK)["frames"] == 60


# What may differ


@pytest.mark.parametrize(
    ("part", "option"), [("training", "stop_evaluations"), ("algorithm", "gamma")]
)
def test_a_run_of_a_version_without_an_option_goes_on_with_its_default(tmp_path, part, option):
    run = tmp_path / "run"
    train(tiny(run), task=TASK)
    saved = read_config(run)
    default = saved[part].pop(option)
    write_whole(run / "config.json", json.dumps(saved))
    assert train(tiny(None, resume=run, total_frames=60), task=TASK)["frames"] == 60
    assert read_config(run)[part][option] == default


def test_a_run_of_an_algorithm_that_is_not_registered_goes_on_without_an_option_too(tmp_path):
    @dataclass(frozen=True, kw_only=True)
    class OwnSettings(MADDPG.Settings):
        new: int = 3

    run = tmp_path / "run"
    config = tiny(run)
    own = OwnSettings(
        **{f.name: getattr(config.algorithm, f.name) for f in fields(MADDPG.Settings)}
    )
    config = replace(config, algorithm=own)
    train(config, task=TASK, make_algorithm=MADDPG)
    saved = read_config(run)
    assert saved["algorithm"].pop("new") == 3
    write_whole(run / "config.json", json.dumps(saved))
    config = changed_training(config, run_dir=None, resume=run, total_frames=60)
    assert train(config, task=TASK, make_algorithm=MADDPG)["frames"] == 60


def test_an_option_that_this_version_does_not_have_is_named_with_its_file(tmp_path):
    run = tmp_path / "run"
    train(tiny(run), task=TASK)
    saved = read_config(run)
    saved["training"]["momentum"] = 0.5
    write_whole(run / "config.json", json.dumps(saved))
    with pytest.raises(ValueError, match=r"run/config\.json: .*momentum"):
        train(tiny(None, resume=run), task=TASK)


def test_an_option_that_the_version_of_a_run_lacked_is_compared_by_its_default(tmp_path):
    run = tmp_path / "run"
    train(tiny(run), task=TASK)
    saved = read_config(run)
    del saved["training"]["stop_evaluations"]
    write_whole(run / "config.json", json.dumps(saved))
    with pytest.raises(ValueError, match=r"{'training.stop_evaluations': \(False, True\)}"):
        train(tiny(None, resume=run, stop_evaluations=True), task=TASK)


def test_a_resumed_run_may_draw_its_pictures_or_not(tmp_path):
    run = tmp_path / "run"
    train(tiny(run), task=TASK)
    assert "curve.png" not in files(run)
    assert train(tiny(None, resume=run, pictures=True), task=TASK)["frames"] == 40
    assert "curve.png" in files(run)


def test_a_command_line_that_resumes_names_the_option_that_differs_first(tmp_path, capsys):
    """Not what would follow from it: 20 frames are no multiple of 7 environments."""
    run = tmp_path / "run"
    config = replace(tiny(run), task="vmas/spread")
    train(config)
    said = r"was started with another config; \(saved, asked\): {'training.num_envs': \(5, 7\)}"
    with pytest.raises(ValueError, match=said):
        parse_arguments(["--resume", str(run), "--num-envs", "7"])
    assert main(["--resume", str(run), "--num-envs", "7"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "'training.num_envs': (5, 7)" in line


# What an error leaves


@pytest.mark.parametrize("logger", ["csv", "tensorboard"])
def test_an_error_before_the_first_checkpoint_takes_the_loggers_files_away(tmp_path, logger):
    def fail(episodes) -> dict[str, torch.Tensor]:
        raise ZeroDivisionError

    if logger != "csv":
        pytest.importorskip(logger, reason=f"{logger} is not installed: the extra {logger}")
    with pytest.raises(ZeroDivisionError):
        train(tiny(tmp_path / "run", loggers=(logger,)), task=replace(TASK, metrics=fail))
    assert files(tmp_path) == set()


def test_files_of_a_logger_that_were_there_before_a_run_stay(tmp_path, monkeypatch):
    mine = tmp_path / "run" / "csv_logs" / "mine.csv"
    mine.parent.mkdir(parents=True)
    mine.write_text("1")
    monkeypatch.setattr(loop.Run, "_save", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(tiny(tmp_path / "run", loggers=("csv",)), task=TASK)
    assert mine.read_text() == "1"


def test_a_run_whose_config_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    def full(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        train(tiny(tmp_path / "run"), task=TASK)
    assert files(tmp_path) == set()


def test_a_file_that_cannot_be_written_leaves_nothing_beside_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_whole(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "\udc80")

    def full(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, "new")
    assert files(tmp_path) == {"a.json"}
    assert path.read_text() == "old"
