"""The directory of a run: whose it is, what it says of the run, and what an error leaves in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import N, TargetEnv, flat_config

from torchrl_alita.envs import Task
from torchrl_alita.saving import run_directory
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
