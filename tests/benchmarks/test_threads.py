"""The table of one thread against several."""

from __future__ import annotations

import pytest
from scripts import ROOT, load


@pytest.fixture
def threads(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return load("benchmarks", "threads", known_as="benchmark_threads")


def test_the_table_has_the_best_run_and_its_share_of_the_better_choice(threads):
    machine = {"torch": "2", "torchrl": "0", "python": "3", "cores": 2, "processor": "P"}
    speeds = {"0 1": [90.0, 100.0], "0 2": [200.0, 50.0], "2 1": [80.0], "2 2": [10.0]}
    text = threads.texts(
        {"machine": machine, "rounds": 2, "frames_per_second": {"MADDPG, eager": speeds}}
    )["threads"]
    lines = text.splitlines()
    assert lines[0] == "| training | beside | 1 thread | 2 threads |"
    assert lines[2] == "| MADDPG, eager | nothing | 100 (0.50) | 200 (1.00) |"
    assert lines[3] == "| MADDPG, eager | 2 programs | 80 (1.00) | 10 (0.12) |"


def test_other_programs_end_with_the_measurement(threads):
    with threads.busy(2) as others:
        assert [other.poll() for other in others] == [None, None]
    assert all(other.poll() is not None for other in others)


def test_a_trainings_speed_is_of_its_own_clock_after_the_start(threads):
    arguments = (
        *("maddpg", "--num-envs", "10", "--total-frames", "400", "--evaluation-interval", "100"),
        *("--frames-per-batch", "100", "--algorithm.random-frames", "0", "--horizon", "10"),
        "--algorithm.compile=false",
    )
    assert threads.frames_per_second(arguments, 1) > 1
