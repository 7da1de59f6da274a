"""Speed on robots against another library: its turns and its table, by hand."""

from __future__ import annotations

import importlib.util
import io
import json

import pytest
from scripts import load

speed = load("benchmarks", "robot_speed")
worker = load("benchmarks", "robot_speed_worker")


def test_a_turn_waits_after_its_frames_and_reports_what_one_took():
    reports = io.StringIO()
    turns = worker.Turns(20, requests=io.StringIO("go\ngo\n"), reports=reports)
    turns.wait({"version": 1})
    for _ in range(3):
        turns.made(7)
    with pytest.raises(SystemExit):
        turns.made(20)
    first, *found = map(json.loads, reports.getvalue().splitlines())
    assert first == {"version": 1}
    for report, frames in zip(found, (21, 20), strict=True):
        assert report["wall_ms"] == pytest.approx(1e3 * report["seconds"] / frames)
        assert report["processor_ms"] >= 0


@pytest.mark.parametrize("algorithm", ["td3", "sac"])
def test_both_sides_have_the_recipes_work_without_evaluations(algorithm, tmp_path):
    work = {
        "algorithm": algorithm, "task": "pybullet/HopperBulletEnv-v0", "threads": 1,
        "folder": str(tmp_path), "options": speed.SIDES["ours, one robot"],
    }  # fmt: skip
    config = worker.config_of(work)
    recipe = worker.sb3_worker.DEFAULTS[algorithm]
    assert config.training.num_envs == 1
    assert config.algorithm.frames_per_update == 1
    for name in ("batch_size", "num_cells", "tau", "gamma"):
        assert getattr(config.algorithm, name) == getattr(recipe.algorithm, name), name
    if importlib.util.find_spec("stable_baselines3"):
        options = worker.sb3_worker.options_of(config, 3)
        assert (options["batch_size"], options["train_freq"]) == (256, 1)


def test_a_ratio_above_one_is_ours_in_front():
    turns = {
        speed.PEER: [{"processor_ms": 12.0}, {"processor_ms": 8.0}, {"processor_ms": 10.0}],
        "ours": [{"processor_ms": 4.0}, {"processor_ms": 5.0}, {"processor_ms": 2.0}],
    }
    rows = speed.speed_table([{"algorithm": "td3", "robot": "Hopper", "turns": turns}]).splitlines()
    assert rows[2:] == [
        "| TD3 | Hopper | stable-baselines3 | 100 [83, 125] | 1.00 |",
        "| TD3 | Hopper | ours | 250 [200, 500] | 2.50 |",
    ]
