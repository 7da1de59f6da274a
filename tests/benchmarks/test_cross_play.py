"""The cross-play of physical deception: who meets whom, and the matrix, by hand."""

from __future__ import annotations

import pytest
from scripts import load

played = load("benchmarks", "cross_play")


def test_a_seeds_policies_are_its_own_runs_and_the_scripts(tmp_path):
    config = played.Config(runs=tmp_path)
    for algorithm, seed in (("ddpg", 3), ("mappo", 3), ("alita", 2)):
        (tmp_path / f"{algorithm}_against_{algorithm}" / f"seed{seed}" / "run").mkdir(parents=True)
    found = played.policies(config, 3, "adversary")
    assert list(found) == ["DDPG", "MAPPO", *played.SCRIPTS["adversary"]]
    assert found["DDPG"] == str(tmp_path / "ddpg_against_ddpg" / "seed3" / "run")
    with pytest.raises(ValueError, match=r"has no run of seed 4: python benchmarks/study.py"):
        played.policies(config, 4, "good")


def test_scripts_meet_a_random_team(monkeypatch):
    monkeypatch.setattr(played, "policies", lambda config, seed, side: played.SCRIPTS[side])
    rows = played.measure(played.Config(episodes=3, seeds=(0, 1)))["rows"]
    assert [(row["seed"], row["good"], row["adversary"]) for row in rows] == [
        (seed, "random", script) for seed in (0, 1) for script in played.SCRIPTS["adversary"]
    ]
    assert all(0 <= row[name] <= 1 for row in rows for name in played.METRICS)


def test_a_cell_is_the_mean_over_the_seeds():
    rows = [
        {
            "seed": seed,
            "good": "A",
            "adversary": rival,
            **dict(zip(played.METRICS, found, strict=True)),
        }
        for seed, rival, *found in ((0, "B", 1.0, 0.0), (1, "B", 0.5, 0.5), (0, "C", 0.0, 0.25))
    ]
    assert played.matrix(rows).splitlines() == [
        "| agents | B | C |",
        "| --- | ---: | ---: |",
        "| A | 0.75 / 0.25 | 0.00 / 0.25 |",
    ]
