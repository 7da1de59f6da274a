"""What profile_update.py and scaling.py measure and write, by hand."""

from __future__ import annotations

import copy
import os
from types import SimpleNamespace

import pytest
import torch
from scripts import load

from torchrl_alita.training.buffers import Buffers

throughput = load("benchmarks", "throughput")
profile = load("benchmarks", "profile_update")
scaling = load("benchmarks", "scaling")
twin_cost = load("benchmarks", "twin_cost")

SMALL = {"num_envs": 5, "batch_size": 7, "conditional_batch_size": 64, "num_cells": (11,)}


def timed(wall: float, processor: float | None = None) -> dict[str, float]:
    """An entry whose processor time is half the wall time if nothing else is said."""
    processor = wall / 2 if processor is None else processor
    return {
        "wall_ms": wall,
        "wall_ms_min": wall / 4,
        "processor_ms": processor,
        "processor_ms_min": processor / 4,
    }


def small_run(name: str) -> tuple:
    """An algorithm and the batches of an update."""
    torch.manual_seed(0)
    config = profile.settings(name, **SMALL)
    env = profile.task_env(config)
    algorithm = config.build(env)
    buffers = Buffers(config, algorithm)
    buffers.extend(env.rollout(20))
    return algorithm, buffers.sample()


def test_a_watch_adds_up_a_round_divides_it_and_drops_one_that_is_not_kept():
    watch = profile.Stopwatch()
    clocks = iter([(0, 0), (2, 1), (10, 5), (14, 7), (20, 9), (29, 10)])
    watch.now = lambda: next(clocks)
    with watch("a"):
        pass
    with watch("a"):
        pass
    watch.close_round(per=3)
    with watch("a"):
        pass
    watch.close_round(per=3, keep=False)
    assert watch.rounds == {"a": [(2.0, 1.0)]}
    assert watch.running == {}


def test_a_summary_is_the_median_and_the_least_in_milliseconds():
    assert profile.summary([(3e-3, 1e-3), (1e-3, 4e-3), (7e-3, 2e-3)]) == {
        "wall_ms": 3.0,
        "wall_ms_min": 1.0,
        "processor_ms": 2.0,
        "processor_ms_min": 1.0,
    }


def test_turns_go_forwards_and_backwards_after_two_calls_that_do_not_count(monkeypatch):
    monkeypatch.setattr(profile, "SHORTEST_TURN", 0)
    said = []
    calls = {name: lambda name=name: said.append(name) for name in "abc"}
    times = profile.take_turns(calls, rounds=3)
    assert "".join(said) == "aabbcc" + "abc" + "cba" + "abc"
    assert list(times) == ["a", "b", "c"]


def test_a_short_call_is_repeated_and_its_time_is_that_of_one(monkeypatch):
    """The clock moves by one second at each look, so a turn takes one."""
    monkeypatch.setattr(profile, "SHORTEST_TURN", 5)
    seconds = iter(range(100))
    monkeypatch.setattr(profile.Stopwatch, "now", lambda self: (next(seconds),) * 2)
    said = []
    times = profile.take_turns({"a": lambda: said.append("a")}, rounds=2)
    assert len(said) == 2 + 2 * 5
    assert times["a"]["wall_ms"] == 200.0


@pytest.mark.parametrize("name", ["maddpg", "alita", "alita_clones"])
def test_the_parts_of_an_update_are_the_update(name):
    """Else the profile would time something else; both start from the same state."""
    whole, batches = small_run(name)
    parts, _ = small_run(name)
    torch.manual_seed(1)
    whole.update(batches)
    torch.manual_seed(1)
    profile.update_in_parts(parts, batches, profile.unwatched)
    trained = {
        key: value
        for module in ("maddpg", "novelty_loss", "estimator_0")
        if module in whole.modules
        for key, value in whole.modules[module].state_dict(prefix=module).items()
    }
    for module in parts.modules:
        for key, value in parts.modules[module].state_dict(prefix=module).items():
            if key in trained:
                torch.testing.assert_close(value, trained.pop(key), rtol=1e-4, atol=1e-6)
    assert not trained


@pytest.mark.parametrize(
    ("name", "absent"),
    [
        ("maddpg", {"rewards", "novelty_forward", "influence_forward", "estimator_forward"}),
        ("alita", {"estimator_forward", "estimator_backward", "estimator_optimizer"}),
        ("alita_clones", set()),
    ],
)
def test_every_part_that_an_algorithm_has_is_timed(name, absent):
    algorithm, batches = small_run(name)
    watch = profile.Stopwatch()
    profile.update_in_parts(algorithm, batches, watch)
    estimators = {part for part in profile.PARTS if part.startswith("estimator")}
    absent = absent | (estimators if name == "maddpg" else set())
    assert set(watch.running) == set(profile.PARTS) - {"rest"} - absent


def test_an_iteration_times_what_the_loop_does_and_writes_its_metrics(tmp_path):
    run = profile.Run(profile.settings("alita_clones", frames_per_batch=100, **SMALL), tmp_path)
    before = copy.deepcopy(run.algorithm.maddpg.state_dict())
    watch = profile.Stopwatch()
    run.iterate(watch, 2)
    assert set(watch.running) == {*profile.AROUND, "update"}
    assert run.algorithm.updates == 2
    assert len(run.buffers.replay) == 100
    assert any((before[k] != v).any() for k, v in run.algorithm.maddpg.state_dict().items())
    (row,) = profile.MetricsFile(tmp_path / "metrics.csv").rows
    assert row["frames"] == "100"


def test_buffers_without_conditional_batches_leave_the_others_as_they_are():
    config = profile.settings("alita_clones", **SMALL)
    env = profile.task_env(config)
    buffers = Buffers(config, config.build(env))
    buffers.extend(env.rollout(3))
    plain = profile.without_conditional(buffers)
    assert "conditional_0" not in plain.sample()
    assert set(buffers.streams) - set(plain.streams) == {"conditional_0"}
    assert plain.replay is buffers.replay


def test_updates_are_eager_unless_it_is_said():
    asked = [profile.settings("maddpg", compiled=c).algorithm.compile for c in (False, True)]
    assert asked == [False, True]
    assert profile.settings_compiled(profile.settings("maddpg")).algorithm.compile


def test_the_rest_and_the_iterations_follow_from_the_stages():
    stages = {
        "collection": timed(10),
        "update": timed(20),
        "update_compiled": timed(4),
        "backward": timed(6),
        "targets": timed(16, 1),
    }
    full = profile.completed(stages)
    assert full["rest"] == {"wall_ms": -2, "processor_ms": 6}
    assert full["iteration"] == {"wall_ms": 30, "processor_ms": 15}
    assert full["iteration_compiled"] == {"wall_ms": 14, "processor_ms": 7}
    assert "rest" not in stages


def test_a_stage_table_sets_the_labels_side_by_side_with_their_ratio():
    """A compiled row of an uncompiled before is compared with its eager one."""
    before = {"collection": timed(10), "update": timed(30, 20)}
    after = {
        "collection": timed(10, 2),
        "update": timed(20, 10),
        "update_compiled": timed(10, 8),
    }
    lines = profile.stage_table({"before": before, "after": after}).splitlines()
    assert lines[0].endswith("| times faster | by processor |")
    assert lines[2:] == [
        "| collection | 10.00 | 25 % | 5.00 | 10.00 | 33 % | 2.00 | 1.00 | 2.50 |",
        "| update | 30.00 | 75 % | 20.00 | 20.00 | 67 % | 10.00 | 1.50 | 2.00 |",
        "| · rest | 30.00 | 75 % | 20.00 | 20.00 | 67 % | 10.00 |  |  |",
        "| **iteration** | 40.00 | 100 % | 25.00 | 30.00 | 100 % | 12.00 | 1.33 | 2.08 |",
        "| update, compiled |  |  |  | 10.00 | 50 % | 8.00 | 3.00 | 2.50 |",
        "| **iteration, compiled** |  |  |  | 20.00 | 100 % | 10.00 | 2.00 | 2.50 |",
    ]
    alone = profile.stage_table({"after": after}).splitlines()
    assert alone[0] == "| ms for each update | after | share | processor |"


def test_an_iterations_seconds_are_those_of_all_its_updates():
    contents = {"after": {"config": {"updates": 50}}}
    entries = {"after": {"collection": timed(10), "update": timed(30)}}
    text = profile.collection_note(entries, contents)
    assert text == "An iteration takes after, 2.00 s, 0.50 s of them collection."


def test_compilation_pays_when_its_time_has_been_saved():
    """9 s, at 40 - 10 ms saved by each update."""
    stages = {"update": timed(40), "update_compiled": timed(10)}
    compiled = {"stages": {"a": stages}, "compilation": {"a": {"wall_s": 9.0, "processor_s": 6.0}}}
    eager = {"stages": {"a": stages}, "compilation": {}}
    text = profile.compilation_note("a", {"before": eager, "after": compiled})
    said = "takes 9 s where the compiler has kept nothing, made up for after 300."
    assert text == f" The first compiled update, after, {said}"
    stages["update_compiled"] = timed(50)
    assert "made up" not in profile.compilation_note("a", {"after": compiled})


def test_the_first_compiled_update_is_timed_by_itself_and_once(tmp_path):
    """Compiled or not, the run is the same here, so an eager algorithm stands in."""
    config = profile.settings("maddpg", frames_per_batch=100, **SMALL)
    run = profile.Run(config, tmp_path)
    run.compiled, _ = small_run("maddpg")
    watch = profile.Stopwatch()
    profile.play_round(run, watch, 2)
    first = run.compilation
    assert first[0] > 0
    assert run.compiled.updates == 3
    profile.play_round(run, watch, 2)
    assert run.compilation == first
    assert run.compiled.updates == 5


def test_the_script_starts_again_only_where_the_allocator_is_not_set(monkeypatch):
    started = []
    monkeypatch.setattr(os, "execve", lambda *what: started.append(what))
    for name, value in throughput.ALLOCATOR.items():
        monkeypatch.setenv(name, value)
    profile.restart_with_allocator()
    assert not started
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_")
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "1")
    profile.restart_with_allocator()
    ((_, arguments, environment),) = started
    assert arguments[0] == profile.sys.executable
    # What the caller has set stays.
    assert environment["MALLOC_MMAP_THRESHOLD_"] == "1"
    assert environment["MALLOC_TRIM_THRESHOLD_"] == throughput.ALLOCATOR["MALLOC_TRIM_THRESHOLD_"]


def test_impossible_lengths_are_refused():
    with pytest.raises(ValueError, match="got 0, 60"):
        profile.Config(rounds=0)
    with pytest.raises(ValueError, match="whole steps of 60 environments, got 20"):
        profile.Config(updates=20)
    with pytest.raises(ValueError, match="rounds"):
        scaling.Config(rounds=0)
    with pytest.raises(ValueError, match="list"):
        scaling.Config(num_envs=())


def test_transitions_are_as_many_as_asked_for():
    env = profile.task_env(profile.settings("maddpg", num_envs=5))
    assert scaling.transitions(env, 13).shape == (13,)


def test_buffers_are_filled_to_the_brim():
    config = profile.settings("maddpg", buffer_size=23, **SMALL)
    env = profile.task_env(config)
    buffers = scaling.filled(Buffers(config, config.build(env)), env.rollout(2))
    assert len(buffers.replay) == 23


def test_a_buffer_holds_what_its_transitions_take():
    """3 agents: 2 * 14 + 2 + 1 numbers of 4 bytes each, and two flags of a byte."""
    memory = scaling.peak_memory({"algorithm": "maddpg", "num_envs": 4, "buffer_size": 100})
    assert memory["buffer_bytes"] == 100 * (3 * 31 * 4 + 2)
    assert memory["peak_bytes"] > memory["buffer_bytes"]
    assert scaling.peak_memory({})["buffer_bytes"] == 0


def test_each_term_is_one_that_the_table_names():
    config = profile.settings("maddpg", num_envs=5)
    env = profile.task_env(config)
    calls = scaling.term_calls(env, scaling.transitions(env, 40))
    assert set(calls) == set(scaling.TERMS)
    for name in set(calls) - {"conditional"}:
        calls[name]()
    assert calls["conditional"]().shape == (1024,)


def test_steps_in_sequence_are_all_made():
    said = []
    scaling.in_sequence([lambda i=i: said.append(i) for i in range(3)])()
    assert said == [0, 1, 2]


def test_a_step_trains_every_stacked_network(monkeypatch):
    made = []

    def kept(*args, **kwargs):
        made.append(make_actor(*args, **kwargs))
        return made[-1]

    make_actor = scaling.make_actor
    monkeypatch.setattr(scaling, "make_actor", kept)
    step = scaling.network_step(5, 7, 2)
    before = [value.clone() for value in made[0].parameters()]
    step()
    for old, new in zip(before, made[0].parameters(), strict=True):
        assert old.shape[0] == 5
        assert (old != new).flatten(1).any(1).all()


def test_symmetry_is_told_as_a_multiple_and_terms_in_percent_of_maddpg():
    rows = [{"term": name, **timed(10)} for name in (*scaling.WHOLE, *scaling.TERMS)]
    found = {row["term"]: row for row in rows}
    found["maddpg"] |= timed(5)
    found["symmetric"] |= timed(25, 15)
    text = scaling.terms_table(rows)
    assert "| MADDPG | 5.00 | 100 % | 100 % | 100 % |" in text
    assert "| Symmetric, marginal | 25.00 | 500 % | 500 % | 600 % |" in text
    assert "| diversity penalty | 10.00 | 200 % | 200 % | 200 % |" in text
    assert "| Symmetric, marginal, over ALITA, marginal | 2.50 | 2.50 | 3.00 |" in text


def test_the_gain_of_a_stack_is_the_turns_time_over_its_own():
    rows = [
        {"networks": "actors", "seeds": 2, "way": "stacked", **timed(4)},
        {"networks": "actors", "seeds": 2, "way": "in_sequence", **timed(6, 5)},
    ]
    assert scaling.seeds_table(rows).splitlines()[2:] == [
        "| actors | 2 | 4.00 | 6.00 | 1.50 | 1.50 | 2.50 |"
    ]


def test_the_memory_table_fills_in_what_is_usual():
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


def test_the_cost_of_an_update_is_a_median_in_percent_of_td3s(monkeypatch):
    """Turns of 2 s and 5 s of the processor; the first and the third take ten times as long."""
    clock = SimpleNamespace(spent=0.0)
    monkeypatch.setattr(twin_cost.time, "process_time", lambda: clock.spent)
    monkeypatch.setattr(twin_cost.time, "perf_counter", lambda: 3 * clock.spent)

    def updating(config: object, name: str):
        turns = iter([10, 1, 10, 1])
        seconds = {"TD3": 2.0, "TwinALITA": 5.0}[name]

        def some_updates() -> None:
            clock.spent += next(turns) * seconds

        return some_updates

    monkeypatch.setattr(twin_cost, "updating", updating)
    found = twin_cost.measure(twin_cost.Config(quick=True, rounds=3))
    assert found["TD3"] == {
        "processor_ms": 100.0,
        "processor_ms_min": 100.0,
        "processor_ms_max": 1000.0,
        "wall_ms": 300.0,
        "percent_of_td3": 100.0,
        "wall_percent_of_td3": 100.0,
    }
    assert found["TwinALITA"]["percent_of_td3"] == 250.0
    rows = twin_cost.cost_table(found).splitlines()
    assert rows[-1] == "| TwinALITA | 250.0 [250.0, 2500.0] | 250 |"


@pytest.mark.parametrize("name", ["TD3", "TwinALITA"])
def test_what_is_timed_are_updates_of_the_algorithm(name, monkeypatch):
    monkeypatch.setattr(twin_cost, "UPDATES", 2)
    made = []

    make, _ = twin_cost.VARIANTS[name]
    update = make.update

    def remembered(self, batches):
        made.append(self)
        return update(self, batches)

    monkeypatch.setattr(make, "update", remembered)
    twin_cost.updating(twin_cost.Config(compile=False, stored=1_000), name)()
    assert made[0].updates == 2
