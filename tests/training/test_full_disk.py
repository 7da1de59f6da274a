"""A disk that is full in the middle of a run: one line, exit status 2, and what was there stays."""

from __future__ import annotations

import torch

from torchrl_alita.saving import find_checkpoint
from torchrl_alita.training.command import main

SMALL = [
    "maddpg", "--task", "push_box", "--num-envs", "2", "--horizon", "5", "--total-frames", "40",
    "--frames-per-batch", "10", "--evaluation-interval", "40", "--evaluation-episodes", "2",
    "--checkpoint-interval", "10", "--algorithm.frames-per-update", "10", "--no-pictures",
    "--algorithm.random-frames", "10", "--algorithm.batch-size", "4", "--no-progress",
]  # fmt: skip


def test_a_disk_that_is_full_is_told_in_one_line_and_the_last_checkpoint_stays(
    tmp_path, monkeypatch, capsys
):
    """Torch's writer says so by a RuntimeError. The run goes on when there is room."""
    save = torch.save

    def refuse(value, file, **options):
        if "000000000020" in str(file):
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos")
        save(value, file, **options)

    monkeypatch.setattr(torch, "save", refuse)
    assert main([*SMALL, "--run-dir", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("torchrl-alita: The checkpoint of frame 20 cannot be written into")
    assert find_checkpoint(tmp_path / "run").name == "checkpoint-000000000010"
    monkeypatch.setattr(torch, "save", save)
    assert main(["--resume", str(tmp_path / "run"), "--no-progress"]) == 0
    assert (tmp_path / "run" / "summary.json").exists()
