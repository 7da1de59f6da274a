"""Speed of whole on-policy training: what a turn is, and its table, by hand."""

from __future__ import annotations

from scripts import load

speed = load("benchmarks", "on_policy_speed")


def test_a_turn_is_a_batch_and_an_update(monkeypatch):
    monkeypatch.setitem(
        speed.RUNS,
        "tiny",
        ("push_box", "MAPPO", "mappo", {"num_envs": 3, "frames_per_batch": 33}),
    )
    call, frames = speed.training("tiny", compiled=False)
    assert frames == 33
    first, second = call(), call()
    assert float(first["loss_critic"]) != float(second["loss_critic"])


def test_frames_of_a_batch_are_divided_by_its_time():
    turn = {"processor_ms": 100.0, "processor_ms_min": 50.0, "processor_ms_max": 200.0}
    half = {name: value / 2 for name, value in turn.items()}
    names = ("push_box, mappo", "push_box, mappo, compiled")
    content = {
        "turns": dict(zip(names, (turn, half), strict=True)),
        "frames": dict.fromkeys(names, 1_000),
        "first_seconds": {names[1]: 12.4},
    }
    assert speed.speed_table(content).splitlines()[2:] == [
        "| push_box | MAPPO | 10.0 [5.0, 20.0] | 20.0 [10.0, 40.0] | 12 |"
    ]
