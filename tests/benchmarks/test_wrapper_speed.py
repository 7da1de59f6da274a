"""What wrapper_speed.py measures and writes, by hand."""

from __future__ import annotations

import json

import pytest
from scripts import load

speed = load("benchmarks", "wrapper_speed")


def test_a_ratio_is_that_of_the_medians_of_both_sides(monkeypatch):
    """Bare steps take 1 second, wrapped ones 2, and a turn that was disturbed 50."""
    now = {"time": 0.0}
    turns = {"bare": iter([0, 1, 1, 50]), "wrapped": iter([0, 2, 50, 2])}

    def play(side):
        def run(steps):
            now["time"] += next(turns[side])

        return run

    monkeypatch.setattr(speed, "bare", lambda *game: play("bare"))
    monkeypatch.setattr(speed, "wrapped", lambda *game: play("wrapped"))
    monkeypatch.setattr(speed.time, "process_time", lambda: now["time"])
    row = speed.measure("vmas", "balance", turns=3)
    assert (row["bare"], row["wrapped"]) == (256 * 30, 256 * 15)
    assert (row["ratio"], row["asked"]) == (0.5, 0.7)


def test_both_sides_of_a_game_are_played():
    pytest.importorskip("mpe2")
    for play in (
        speed.bare("mpe2", "simple_spread_v3", 2),
        speed.wrapped("mpe2/simple_spread_v3", 2),
    ):
        # Beyond an episode's end, at 25 steps.
        play(30)


def test_the_table_says_what_the_results_say(monkeypatch):
    row = {"num_envs": 7, "bare": 2000, "wrapped": 1900, "ratio": 0.95, "asked": 0.9}
    content = {"games": {"mpe2/x": row}, "machine": {"torch": "2", "processor": "p"}}
    lines = speed.text(json.loads(json.dumps(content))).splitlines()
    assert lines[2] == "| `mpe2/x` | 7 | 2,000 | 1,900 | 0.95 | 0.90 |"
