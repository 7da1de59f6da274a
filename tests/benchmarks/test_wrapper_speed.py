"""What wrapper_speed.py measures and writes, by hand."""

from __future__ import annotations

import pytest
import torch
from scripts import load

speed = load("benchmarks", "wrapper_speed")


def test_a_ratio_is_the_median_of_the_turns_own(monkeypatch):
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
    row = speed.measure_game("vmas", "balance", turns=3)
    assert (row["bare"], row["wrapped"]) == (256 * 30, 256 * 15)
    # Of 0.02, 0.5 and 25.
    assert (row["ratio"], row["quartiles"], row["asked"]) == (0.5, (0.26, 12.75), 0.7)


def test_both_sides_play_the_same_episodes(monkeypatch):
    """Each environment begins with the same seeds, and is given the same actions."""
    simple_env = pytest.importorskip("mpe2._mpe_utils.simple_env")
    done = []

    def noted(name):
        method = getattr(simple_env.SimpleEnv, name)

        def call(env, *args, **options):
            done.append((name, args, tuple(options.values())))
            return method(env, *args, **options)

        monkeypatch.setattr(simple_env.SimpleEnv, name, call)

    noted("reset")
    noted("step")
    found = []
    for make in (
        lambda: speed.bare("mpe2", "simple_speaker_listener_v4", 3),
        lambda: speed.wrapped("mpe2/simple_speaker_listener_v4", 3),
    ):
        play = make()
        # What an environment is asked before any seed counts for nothing.
        began, done[:] = [call for call in done if call[0] == "reset"][-3:], []
        play(30)
        found.append((began, list(done)))
    assert found[0] == found[1]
    assert sum(name == "reset" for name, *_ in found[0][1]) == 3


@pytest.mark.parametrize(
    ("suite", "name", "package"),
    [("mpe2", "simple_spread_v3", "mpe2"), ("jaxmarl", "switch_riddle", "jaxmarl"), ("", "push_box", "torch"),
     ("", "secret_room", "torch")],
)  # fmt: skip
def test_both_sides_of_a_game_are_played(suite, name, package):
    pytest.importorskip(package)
    for play in (speed.bare(suite, name, 2), speed.wrapped(speed.task_of(suite, name), 2)):
        # Of mpe2 beyond an episode's end, at 25 steps.
        play(30)


def test_both_sides_draw_what_the_mask_allows():
    mask = torch.tensor([[True, False, True], [False, True, False]]).expand(7, 2, 3)
    drawn = torch.stack([speed.allowed(mask) for _ in range(20)])
    assert (drawn.sum(-1) == 1).all()
    assert drawn.sum((0, 1)).bool().tolist() == mask[0].tolist()


def test_the_table_says_what_the_results_say():
    row = {
        "num_envs": 7, "bare": 2000, "wrapped": 1900, "ratio": 0.95, "quartiles": [0.94, 1.0],
        "asked": 0.9,
    }  # fmt: skip
    content = {"games": {"mpe2/x": row}, "machine": {"torch": "2", "processor": "p"}}
    lines = speed.texts(content)["wrapper_speed"].splitlines()
    assert lines[2] == "| `mpe2/x` | 7 | 2,000 | 1,900 | 0.95 (0.94 to 1.00) | 0.90 |"
