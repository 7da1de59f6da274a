"""A sweep by submitit, whose jobs are processes where there is no SLURM."""

from __future__ import annotations

import shutil

import pytest
from fake_cells import but_times, cells, histories

from torchrl_alita.experiments import run_cells

pytest.importorskip("submitit", reason="submitit is not installed: the extra slurm")
pytestmark = [
    pytest.mark.skipif(shutil.which("srun") is not None, reason="SLURM would be asked for jobs"),
    # Of submitit's, which leaves files and processes to the collector.
    pytest.mark.filterwarnings("ignore"),
]


def test_jobs_leave_the_rows_of_a_local_sweep_and_a_failure_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = run_cells(cells(1), tmp_path / "whole", workers=2)
    (tmp_path / "orders").write_text("alita 0 20 fail")
    out = tmp_path / "out"
    outcome = run_cells(cells(1), out, workers=2, launcher="submitit")
    assert list(outcome.failures) == ["games/alita/seed0"]
    assert "it was told to fail" in outcome.failures["games/alita/seed0"]
    (tmp_path / "orders").unlink()
    outcome = run_cells(cells(1), out, workers=2, launcher="submitit")
    assert not outcome.failures
    assert but_times(outcome.rows) == but_times(whole.rows)
    assert histories(out)["alita/seed0"] == ["started", "resumed at 10"]
    assert histories(out)["maddpg/seed0"] == ["started"]
