"""What the scripts of speed measure and write, by hand; no peer is run and nothing compiled."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from scripts import ROOT, load

from torchrl_alita.training.loop import start

pages, timing, peer, throughput, worker, profile, scaling, twin_cost = (
    load("benchmarks", name) for name in (
        "pages", "timing", "peer", "throughput", "throughput_worker", "profile_update", "scaling",
        "twin_cost",
    )
)  # fmt: skip

COMMITTED = pages.RESULTS
TINY_WORK = {
    "num_envs": 2, "horizon": 5, "frames": 10, "updates": 2, "batch_size": 64,
    "buffer_size": 100, "num_cells": (5,),
}  # fmt: skip
small = partial(timing.work_config, work=TINY_WORK)


def timed(wall: float, processor: float | None = None) -> dict[str, float]:
    """An entry whose processor time is half the wall time if nothing else is said."""
    processor = wall / 2 if processor is None else processor
    entry = {"wall_ms": wall, "wall_ms_min": wall / 4}
    return entry | {"processor_ms": processor, "processor_ms_min": processor / 4}


# The form of all scripts.

TINY = {
    "scaling": {
        "rounds": 1, "n_agents": (2,), "buffer_sizes": (100,), "num_envs": (1, 3), "seeds": (1, 2),
    },
    "team_exploration": {"episodes": 3, "seeds": (0, 1), "horizon": 7},
    "twin_cost": {"rounds": 1, "compile": False, "stored": 1_000},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_a_script_measures_and_reports_in_a_tiny_form(name, tmp_path, monkeypatch):
    if name == "twin_cost":
        pytest.importorskip("pybullet")
    for variable, value in timing.ALLOCATOR.items():
        monkeypatch.setenv(variable, value)
    for size, value in TINY_WORK.items():
        monkeypatch.setitem(timing.WORK, size, value)
    monkeypatch.setattr(timing, "SHORTEST_TURN", 0)
    monkeypatch.setattr(scaling, "MEMORY", ({},))
    # Where the process whose memory is measured finds the script.
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT / "benchmarks")])
    monkeypatch.setattr(scaling, "FIGURES", tmp_path)
    monkeypatch.setattr(twin_cost, "UPDATES", 2)
    for variant in list(twin_cost.VARIANTS)[2:]:
        monkeypatch.delitem(twin_cost.VARIANTS, variant)
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    texts = {}
    monkeypatch.setattr(pages, "write_between", lambda page, *text: texts.update([text]))
    script = load("benchmarks", name)
    script.MEASUREMENT.run(script.Config(**TINY[name]))
    content = script.MEASUREMENT.results()
    assert content["command"].startswith(f"python benchmarks/{name}.py")
    assert content["config"] == json.loads(json.dumps(vars(script.Config(**TINY[name]))))
    assert content["machine"]["threads"] == 1
    committed = script.MEASUREMENT.texts(json.loads(COMMITTED.joinpath(f"{name}.json").read_text()))
    assert texts.keys() == committed.keys()


def test_a_report_measures_nothing_and_writes_what_is_there(tmp_path, monkeypatch):
    (tmp_path / "page.md").write_text("<!-- x: begin -->\n<!-- x: end -->\n")
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    found = iter([{"figure": 7}])
    one = pages.Measurement(
        "x",
        lambda config: next(found),
        lambda c: {"x": f"{c['figure']} on {c['config']}"},
        "page.md",
    )
    for report_only in (False, True):
        one.run(pages.Config(threads=1, report_only=report_only))
        assert "\n7 on {'threads': 1, 'report_only': False}\n" in (tmp_path / "page.md").read_text()


# Clocks and turns.


def test_a_watch_adds_up_a_round_divides_it_and_drops_one_that_is_not_kept():
    watch = timing.Stopwatch()
    clocks = iter([(0, 0), (2, 1), (10, 5), (14, 7), (20, 9), (29, 10)])
    watch.now = lambda: next(clocks)
    owner = SimpleNamespace(work=lambda value: value + 1)
    watch.around(owner, "work", "a")
    assert owner.work(1) == 2
    with watch("a"):
        pass
    watch.close_round(per=3)
    owner.work(1)
    watch.close_round(per=3, keep=False)
    assert watch.rounds == {"a": [(2.0, 1.0)]}
    assert watch.running == {}


def test_figures_are_the_median_and_the_ends_in_milliseconds():
    found = timing.milliseconds([(3e-3, 1e-3), (1e-3, 4e-3), (7e-3, 2e-3)])
    assert [found[f"wall_ms{end}"] for end in ("", "_min", "_max")] == [3.0, 1.0, 7.0]
    assert [found[f"processor_ms{end}"] for end in ("", "_min", "_max")] == [2.0, 1.0, 4.0]


def test_turns_go_forwards_and_backwards_after_two_calls_that_do_not_count(monkeypatch):
    monkeypatch.setattr(timing, "SHORTEST_TURN", 0)
    said = []
    calls = {name: lambda name=name: said.append(name) for name in "abc"}
    assert list(timing.take_turns(calls, 3)) == ["a", "b", "c"]
    assert "".join(said) == "aabbcc" + "abc" + "cba" + "abc"


def test_a_short_call_is_repeated_and_its_time_is_that_of_one(monkeypatch):
    """The clock moves by one second at each look, so a turn takes one."""
    monkeypatch.setattr(timing, "SHORTEST_TURN", 5)
    seconds = iter(range(100))
    monkeypatch.setattr(timing.Stopwatch, "now", lambda self: (next(seconds),) * 2)
    said = []
    assert timing.take_turns({"a": lambda: said.append("a")}, 2)["a"]["wall_ms"] == 200.0
    assert len(said) == 2 + 2 * 5
    assert timing.take_turns({"a": said.clear}, 2, per=4)["a"]["wall_ms"] == 250.0


def test_the_script_starts_again_only_where_the_allocator_is_not_set(monkeypatch):
    started, own = [], {"MALLOC_MMAP_THRESHOLD_": "1"}
    monkeypatch.setattr(os, "execve", lambda *what: started.append(what))
    for environment in (timing.ALLOCATOR, own):
        monkeypatch.setattr(os, "environ", environment)
        timing.restart_with_allocator()
    # What the caller has set stays.
    assert [(what[1][0], what[2]) for what in started] == [
        (sys.executable, {**timing.ALLOCATOR, **own})
    ]


# Processes that take turns.


def child(code: str, tmp_path, **variables):
    return timing.Contender("child", [sys.executable, "-c", code], tmp_path / "errors", **variables)


def test_processes_work_one_at_a_time_until_they_are_closed(tmp_path):
    code = """
import sys
for turn, _ in enumerate(sys.stdin):
    print('{"seconds": %d}' % turn, flush=True)
"""
    contenders = {name: child(code, tmp_path) for name in "ab"}
    said = []
    turns = timing.contend(contenders, 2, said.append)
    assert turns == {name: [{"seconds": 0}, {"seconds": 1}] for name in "ab"}
    assert said[2] == "turn 2, b: 1.00 s"
    for contender in contenders.values():
        contender.close()
        assert contender.process.returncode == -signal.SIGKILL


def test_contenders_report_first_and_the_turns_of_their_warm_up_do_not_count():
    code = """
import sys
print('{"version": 7}', flush=True)
for turn, _ in enumerate(sys.stdin):
    print('{"seconds": %d}' % turn, flush=True)
"""
    started, said = [], []

    def start(name: str, folder: Path):
        started.append(child(code, folder))
        return started[-1]

    first, turns = timing.measured_in_turns("ab", start, 2, warm_up=3, say=said.append)
    assert first == {name: {"version": 7} for name in "ab"}
    assert turns == {name: [{"seconds": 3}, {"seconds": 4}] for name in "ab"}
    assert len(said) == 4
    assert all(one.process.returncode == -signal.SIGKILL for one in started)


def test_a_process_that_ends_says_why(tmp_path):
    contender = child("raise ValueError('no such task')", tmp_path)
    contender.process.wait()
    contender.start_turn()
    with pytest.raises(RuntimeError, match=r"child ended with 1:\n(?s:.*)no such task"):
        contender.report()
    contender.close()


def turn(*figures: float) -> dict[str, float]:
    names = ("seconds", "seconds_between_updates", "processor_seconds")
    return dict(zip(names, figures, strict=False))


def make_turns(updates: int, requests: str, **options):
    """Turns that are wanted as often as there are lines."""
    options = {"about": {"torch": "2.0"}, "reports": io.StringIO()} | options
    return worker.Turns(updates, requests=io.StringIO(requests), **options)


def said(turns) -> list[dict]:
    return [json.loads(text) for text in turns.reports.getvalue().splitlines()]


def test_a_turn_is_timed_by_its_ends_and_by_its_first_and_last_update(monkeypatch):
    """The clock has no time for the updates between, nor for waiting for the next turn."""
    wall = iter([10.0, 11.0, 15.0, 16.0, 100.0, 101.0, 102.0, 105.0])
    processor = iter([1.0, 4.0, 50.0, 52.0])
    clocks = SimpleNamespace(perf_counter=wall.__next__, process_time=processor.__next__)
    monkeypatch.setattr(worker, "time", clocks)
    waited = []
    turns = make_turns(3, "\n\n", wait=lambda: waited.append(0))
    turns.ready()
    for ended in (nullcontext(), pytest.raises(SystemExit)):
        with ended:
            for _ in range(3):
                turns.updated()
            turns.finished()
    assert said(turns) == [{"torch": "2.0"}, turn(6.0, 2.0, 3.0), turn(5.0, 0.5, 2.0)]
    # For the device, before each look.
    assert len(waited) == 8


def test_another_number_of_updates_is_an_error_and_who_is_never_asked_does_not_begin():
    turns = make_turns(3, "\n\n")
    turns.ready()
    turns.updated()
    with pytest.raises(RuntimeError, match="3 updates, it made 1"):
        turns.finished()
    with pytest.raises(ValueError, match="at least 2, got 1"):
        make_turns(1, "")
    with pytest.raises(SystemExit):
        make_turns(2, "").ready()


@pytest.mark.parametrize("name", ["ddpg", "alita_clones"])
def test_our_side_makes_the_iterations_that_are_asked_for(tmp_path, name):
    """The real loop: the hooks are called once an update and once an iteration."""
    work = {
        **TINY_WORK, "n_agents": 3, "device": "cpu", "threads": 1, "algorithm": name,
        "compile": False, "folder": str(tmp_path / "run"),
    }  # fmt: skip
    turns = make_turns(2, "\n\n\n")
    with pytest.raises(SystemExit):
        worker.train_ours(work, turns)
    assert len(said(turns)) == 1 + 3
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    chosen = [config["algorithm"][key] for key in ("frames_per_update", "buffer_size", "num_cells")]
    assert chosen == [5, 100, [5]]
    # That of the start, which no turn counts.
    (only,) = (tmp_path / "run" / "checkpoints").glob("checkpoint-*")
    assert only.name == "checkpoint-000000000000"


def test_a_ratio_of_speeds_above_one_says_that_ours_is_faster():
    """6,000 frames in 2 s, the median, are 3,000 a second, against 1,500."""
    ours = [turn(2, 0.05), turn(1, 0.1), turn(60, 0.02)]
    peer = [turn(4, 0.1), turn(3, 0.2), turn(6, 0.1)]
    table = throughput.speed_table({"turns": {"3": {"peer": peer, "maddpg": ours}}})
    assert table.splitlines()[2:] == [
        "| BenchMARL, MADDPG | 3 | 1,500 [1,000, 2,000] | 10 [5, 10] | 1 | 1 |",
        "| MADDPG | 3 | 3,000 [100, 6,000] | 20 [10, 50] | 2.00 | 2.00 |",
    ]


def test_both_sides_have_the_same_work(tmp_path, monkeypatch):
    """Ours needs the package on its path; the peer must not see it."""
    started = []
    contender = lambda name, command, errors, **variables: started.append((command, variables))  # noqa: E731
    monkeypatch.setattr(throughput, "Contender", contender)
    config = throughput.Config(threads=2)
    for name in (throughput.PEER, "alita_clones"):
        throughput.start(name, 6, config, Path("p"), tmp_path)
    (peer, peers_variables), (ours, our_variables) = started
    assert (peer[0], ours[0]) == ("p", sys.executable)
    assert peers_variables == {"OMP_NUM_THREADS": "2", "PYTHONPATH": None}
    assert our_variables == {"OMP_NUM_THREADS": "2", "PYTHONPATH": str(ROOT)}
    theirs, work = json.loads(peer[2]), json.loads(ours[2])
    assert (theirs.pop("side"), work.pop("side")) == ("benchmarl", "ours")
    assert (work.pop("algorithm"), work.pop("compile")) == ("alita_clones", None)
    assert theirs.pop("folder") != work.pop("folder")
    assert theirs == work


def test_a_processs_environment_is_ours_but_for_what_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    monkeypatch.setenv("KEPT", "kept")
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    names = ["MALLOC_TRIM_THRESHOLD_", "PYTHONPATH", "KEPT", "OWN"]
    code = f"import json, os; print(json.dumps([os.environ.get(name) for name in {names}]))"
    one = child(code, tmp_path, PYTHONPATH=None, OWN="own")
    assert one.report() == [timing.ALLOCATOR[names[0]], None, "kept", "own"]
    one.close()


def test_the_peers_environment_is_made_once_and_pip_installs_what_it_lacks(tmp_path, monkeypatch):
    installed, create = [], peer.venv.create
    monkeypatch.setattr(peer.subprocess, "run", lambda command, **_: installed.append(command))
    monkeypatch.setattr(peer.venv, "create", lambda folder, **_: create(folder))
    for version in ("b==2", "b==3"):
        python = peer.peer_python(tmp_path / "venv", ["a==1", version])
        assert python.exists()
        assert (installed[-1][0], installed[-1][-2:]) == (str(python), ["a==1", version])
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match="no virtual environment"):
        peer.peer_python(tmp_path, ["a==1"])


def test_the_peer_stands_on_our_versions(monkeypatch):
    """A local version, +cpu, is what pip chooses by itself."""
    installed = {"torch": "2.13.0+cpu", "vmas": "1.5.2"}
    monkeypatch.setattr(peer, "version", installed.__getitem__)
    assert peer.requirements() == ["torch==2.13.0", "vmas==1.5.2", peer.PACKAGE]


# Where the time of an iteration goes.


OF_ALITA = {
    "rewards", "novelty_forward", "influence_forward", "conditional", "estimator_forward",
    "estimator_backward", "estimator_optimizer",
}  # fmt: skip


@pytest.mark.parametrize(("name", "absent"), [("maddpg", OF_ALITA), ("alita_clones", set())])
def test_a_run_whose_stages_are_timed_is_the_run(name, absent, tmp_path):
    """Every part that the algorithm has gets a time, and the numbers are the loop's own."""
    learned = []
    for watched in (True, False):
        with start(small(name, run_dir=tmp_path / str(watched))) as run:
            watch = timing.Stopwatch()
            if watched:
                profile.TimedRun(run, watch, compiled=False).iterate()
                stages = {*profile.AROUND, *profile.PARTS, "update"} - {"rest"}
                assert set(watch.running) == stages - absent
                parts = sum(watch.running[part][0] for part in {*profile.PARTS} & {*watch.running})
                assert 0 < parts <= watch.running["update"][0]
            else:
                collected = next(iter(run.collection))
                run.collection.explored(collected)
                run.learning.learn(collected)
            assert run.progress["updates"] == 2
            learned.append(run.learning.algorithm.maddpg.state_dict())
    torch.testing.assert_close(*learned, rtol=0, atol=0)


def test_the_first_compiled_update_is_timed_by_itself(tmp_path):
    """Compiled or not, the run is the same here, so an eager algorithm stands in."""
    with start(small("maddpg", run_dir=tmp_path)) as run:
        watch = timing.Stopwatch()
        one = profile.TimedRun(run, watch, compiled=True)
        one.iterate()
        first = one.first_update
        assert min(first) > 0
        assert set(watch.running) == {"update_compiled"}
        one.iterate()
        assert one.first_update == first
        assert run.progress["updates"] == 4


def test_a_stage_table_sets_compiled_beside_eager():
    """By processor, with what the parts of an eager update leave."""
    stages = {
        "collection": timed(10, 5), "update": timed(30, 15), "backward": timed(12, 9),
        "update_compiled": timed(10, 5),
    }  # fmt: skip
    lines = profile.stage_table(stages).splitlines()
    assert lines[0] == "| ms for each update | eager | share | compiled | share |"
    assert lines[2:] == [
        "| collection | 5.00 | 25 % | 5.00 | 50 % |",
        "| update | 15.00 | 75 % | 5.00 | 50 % |",
        "| · these losses, backward | 9.00 | 45 % |  |  |",
        "| · rest | 6.00 | 30 % |  |  |",
        "| **iteration** | 20.00 | 100 % | 10.00 | 100 % |",
    ]


def test_compilation_pays_when_its_time_has_been_saved():
    """9 s, at 20 - 5 ms of the processor saved by each update."""
    stages = {"collection": timed(10), "update": timed(40), "update_compiled": timed(10)}
    seconds = {"wall_s": 9.0, "processor_s": 6.0}
    said = "The first compiled update takes 9 s where the compiler has kept nothing"
    assert profile.note(stages, seconds) == f"{said}, made up for after 600."
    stages["update_compiled"] = timed(50)
    assert profile.note(stages, seconds) == f"{said}."


# What an update costs.


def test_full_buffers_hold_what_their_transitions_take():
    """3 agents: 2 * 14 + 2 + 1 numbers of 4 bytes each, and two flags of a byte."""
    chosen = {"algorithm": "maddpg", "buffer_size": 100, "num_envs": 4}
    memory = scaling.peak_memory(chosen, scaling.Config())
    assert memory["buffer_bytes"] == 100 * (3 * 31 * 4 + 2)
    assert memory["peak_bytes"] > memory["buffer_bytes"]
    assert memory | chosen == memory
    assert scaling.peak_memory({}, scaling.Config())["buffer_bytes"] == 0
    assert scaling.transitions(scaling.environment(small("maddpg")), 13).shape == (13,)


def test_tables_of_scaling_by_hand():
    rows = [{"term": name, **timed(10)} for name in (*scaling.WHOLE, *scaling.TERMS)]
    found = {row["term"]: row for row in rows}
    found["maddpg"] |= timed(5)
    found["symmetric"] |= timed(25, 15)
    text = scaling.terms_table(rows)
    assert "| MADDPG | 5.00 | 100 % | 100 % | 100 % |" in text
    assert "| Symmetric, marginal | 25.00 | 500 % | 500 % | 600 % |" in text
    assert "| Symmetric, marginal, over ALITA, marginal | 2.50 | 2.50 | 3.00 |" in text
    rows = [
        {"networks": "actors", "seeds": 2, "way": "stacked", **timed(4)},
        {"networks": "actors", "seeds": 2, "way": "in_sequence", **timed(6, 5)},
    ]
    text = scaling.seeds_table(rows)
    assert text.splitlines()[2:] == ["| actors | 2 | 4.00 | 6.00 | 1.50 | 1.50 | 2.50 |"]
    rows = [
        {"buffer_bytes": 0, "peak_bytes": 3 * 2**20},
        {"algorithm": "alita", "n_agents": 16, "buffer_bytes": 2**20, "peak_bytes": 2**31},
    ]
    assert scaling.memory_table(rows).splitlines()[2:] == [
        "| imports alone |  |  |  | 0 | 3 |",
        "| ALITA, marginal | 16 | 60 | 1,000,000 | 1 | 2,048 |",
    ]


def test_collection_is_told_for_each_task_side_by_side(monkeypatch):
    """100 frames in 50 ms, 25 ms at best, of which 10 ms are of the processor."""
    monkeypatch.setattr(scaling, "TASKS", {"vmas/spread": 3})
    times = {"wall_ms": 50.0, "wall_ms_min": 25.0, "processor_ms": 10.0}
    monkeypatch.setattr(scaling, "take_turns", lambda calls, rounds: dict.fromkeys(calls, times))
    rows = scaling.measure_environments(scaling.Config(num_envs=(4,)))
    assert scaling.environments_table(rows).splitlines()[2] == "| 4 | 2,000 | 4,000 | 10,000 |"


def test_a_step_trains_every_stacked_network(monkeypatch):
    made, make = [], scaling.nn.Sequential
    monkeypatch.setattr(scaling.nn, "Sequential", lambda *of: made.append(make(*of)) or made[0])
    step = scaling.network_step(5, 7, 2)
    values = list(made[0].parameters())
    shapes = [tuple(value.shape) for value in values if value.ndim == 3]
    assert shapes == [(5, 128, 7), (5, 128, 128), (5, 2, 128)]
    before = [value.clone() for value in values]
    step()
    for old, new in zip(before, values, strict=True):
        assert (old != new).flatten(1).any(1).all()


def test_what_twin_alita_costs_is_told_in_percent_of_td3s_updates():
    entry = {"processor_ms": 100.0, "processor_ms_min": 100.0, "processor_ms_max": 1000.0}
    twice = {name: 2.5 * value for name, value in entry.items()}
    rows = twin_cost.cost_table({"TD3": entry, "TwinALITA": twice}).splitlines()
    assert rows[-1] == "| TwinALITA | 250.0 [250.0, 2500.0] | 250 |"
