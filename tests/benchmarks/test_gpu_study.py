"""A study's runs in one process: the rows are those of a sweep, with the device among them."""

from __future__ import annotations

from scripts import load

from torchrl_alita.experiments import read_rows
from torchrl_alita.experiments.cells import Cell, CellFolder

gpu_study = load("benchmarks", "gpu_study")
SMALL = {
    "num_envs": 4,
    "horizon": 5,
    "frames_per_batch": 20,
    "evaluation_interval": 40,
    "evaluation_episodes": 2,
    "algorithm.minibatch_size": 20,
    "device": "cpu",
    "pictures": False,
}


def test_every_cell_of_a_study_gets_the_device_and_no_pictures(studies, tmp_path):
    config = gpu_study.Config(
        study="sparse_onpolicy", out=tmp_path / "rows.jsonl", seeds=(77,), variants=("MAPPO",)
    )
    cells = gpu_study.cells_of(config)
    assert {cell.task for cell in cells} == {"push_box", "secret_room", "vmas/sparse_transport"}
    assert all(cell.seed == 77 and cell.variant == "MAPPO" for cell in cells)
    assert all("--device cuda" in cell.command for cell in cells)
    assert all("--no-pictures" in cell.command for cell in cells)


def test_a_run_leaves_its_row_and_no_pictures(tmp_path):
    out = tmp_path / "rows.jsonl"
    for seed in (0, 1):
        cell = Cell(
            study="s", variant="v", task="push_box", algorithm="on_policy_alita",
            seed=seed, frames=80, settings=SMALL,
        )  # fmt: skip
        assert "frames a second" in gpu_study.make(cell, tmp_path, out)
    rows = read_rows(out)
    assert [(row.seed, row.frames) for row in rows] == [(0, 80), (1, 80)]
    assert all(row.settings["device"] == "cpu" and row.process_seconds > 0 for row in rows)
    assert "evaluation/boxes_per_episode" in rows[0].final
    run = CellFolder(tmp_path, Cell(**{**vars(cell), "seed": 0})).run
    assert (run / "summary.json").exists()
    assert not [*run.glob("*.png"), *run.glob("*.gif")]
