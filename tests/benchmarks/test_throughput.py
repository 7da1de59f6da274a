"""What throughput.py measures and writes, with hand-made contenders; no peer is run."""

from __future__ import annotations

import io
import json
import signal
import sys
from types import SimpleNamespace

import pytest
import tyro
from scripts import load

throughput = load("benchmarks", "throughput")
worker = load("benchmarks", "throughput_worker")

VERSIONS = {
    "torch": "2.0",
    "torchrl": "0.14",
    "python": "3.11",
    "torchrl_alita": "1",
    "benchmarl": "1.5",
    "gpu": None,
}


def turn(seconds: float, between: float = 0.1, processor: float = 1.0) -> dict[str, float]:
    return {
        "seconds": seconds,
        "seconds_between_updates": between,
        "processor_seconds": processor,
    }


@pytest.fixture
def clock(monkeypatch):
    """Times that are read one after the other, and processor times."""

    def set_times(wall: list[float], processor: list[float]) -> None:
        times = SimpleNamespace(
            perf_counter=iter(wall).__next__, process_time=iter(processor).__next__
        )
        monkeypatch.setattr(worker, "time", times)

    return set_times


def iterate(turns, updates: int) -> None:
    for _ in range(updates):
        turns.updated()
    turns.finished()


def make_turns(updates: int, requests: str, **options) -> object:
    """Turns that are wanted as often as there are lines."""
    options = {"about": {"torch": "2.0"}, "reports": io.StringIO()} | options
    return worker.Turns(updates, requests=io.StringIO(requests), **options)


def said(turns) -> list[dict]:
    return [json.loads(text) for text in turns.reports.getvalue().splitlines()]


def test_a_turn_is_timed_by_its_ends_and_by_its_first_and_last_update(clock):
    """The clock has no time for the updates between: reading it there would be an error."""
    clock([10.0, 11.0, 15.0, 16.0], [1.0, 4.0])
    turns = make_turns(3, "\n")
    turns.ready()
    with pytest.raises(SystemExit):
        iterate(turns, 3)
    assert said(turns) == [{"torch": "2.0"}, turn(6.0, 2.0, 3.0)]


def test_waiting_for_the_next_turn_is_not_measured(clock):
    clock([0.0, 1.0, 2.0, 3.0, 100.0, 101.0, 102.0, 105.0], [0.0, 1.0, 50.0, 52.0])
    turns = make_turns(2, "\n\n")
    turns.ready()
    iterate(turns, 2)
    with pytest.raises(SystemExit):
        iterate(turns, 2)
    assert said(turns)[2] == turn(5.0, 1.0, 2.0)


def test_who_is_never_asked_does_not_begin():
    with pytest.raises(SystemExit):
        make_turns(2, "").ready()


def test_the_clock_is_read_at_the_first_and_last_update_when_the_device_is_done(monkeypatch):
    events = []

    def now() -> float:
        events.append("read")
        return float(len(events))

    monkeypatch.setattr(worker, "time", SimpleNamespace(perf_counter=now, process_time=now))
    turns = make_turns(3, "\n", wait=lambda: events.append("wait"))
    turns.ready()
    for expected in (["wait", "read"], [], ["wait", "read"]):
        events.clear()
        turns.updated()
        assert events == expected


@pytest.mark.parametrize("made", [2, 4])
def test_another_number_of_updates_is_an_error(made):
    turns = make_turns(3, "\n\n")
    turns.ready()
    with pytest.raises(RuntimeError, match=f"3 updates, it made {made}"):
        iterate(turns, made)
    with pytest.raises(ValueError, match="at least 2, got 1"):
        make_turns(1, "")


@pytest.mark.parametrize("name", ["ddpg", "alita_clones"])
def test_our_side_makes_the_iterations_that_are_asked_for(tmp_path, name):
    """The real loop: the hooks are called once an update and once an iteration."""
    work = {
        **throughput.WORK,
        "num_envs": 2,
        "horizon": 5,
        "frames": 10,
        "updates": 2,
        "batch_size": 37,
        "buffer_size": 100,
        "num_cells": [5],
        "n_agents": 3,
        "device": "cpu",
        "threads": 1,
        "folder": str(tmp_path / "run"),
        "options": [*throughput.CONTENDERS[name][1], "--algorithm.compile", "False"],
    }
    turns = make_turns(2, "\n\n\n")
    with pytest.raises(SystemExit):
        worker.train_ours(work, turns)
    assert len(said(turns)) == 1 + 3
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["algorithm"]["frames_per_update"] == 5
    assert config["algorithm"]["buffer_size"] == 100
    assert config["algorithm"]["num_cells"] == [5]
    # That of the start, which no turn counts.
    (only,) = (tmp_path / "run" / "checkpoints").glob("checkpoint-*")
    assert only.name == "checkpoint-000000000000"


class Hand:
    """A contender that says what it was given, and when it was asked."""

    def __init__(self, name: str, reports: list[dict], events: list[tuple[str, str]]):
        self.name, self.reports, self.events = name, iter(reports), events

    def start_turn(self) -> None:
        self.events.append((self.name, "start"))

    def report(self) -> dict:
        self.events.append((self.name, "report"))
        return next(self.reports)

    def close(self) -> None:
        self.events.append((self.name, "close"))


def test_one_works_at_a_time_forwards_and_then_backwards():
    events = []
    contenders = {name: Hand(name, [turn(1), turn(2)], events) for name in ("a", "b")}
    texts = []
    reports = throughput.take_turns(contenders, 2, texts.append)
    assert events == [(name, what) for name in ("a", "b", "b", "a") for what in ("start", "report")]
    assert reports == {"a": [turn(1), turn(2)], "b": [turn(1), turn(2)]}
    assert texts[2] == "turn 2, b: 2.00 s"


def test_speeds_are_medians_and_a_ratio_above_one_says_that_ours_is_faster():
    """6,000 frames in 2 s are 3,000 a second, against 1,500; the processor works 2 s, not 5."""
    ours = [turn(2, 0.05, 2), turn(1, 0.1, 1), turn(60, 0.02, 60)]
    peer = [turn(4, 0.1, 5), turn(3, 0.2, 3), turn(6, 0.1, 6)]
    assert throughput.compare(ours, peer) == {
        "ours_fps": 3000,
        "ours_fps_min": 100,
        "ours_fps_max": 6000,
        "ours_updates_per_second": 20,
        "ours_updates_per_second_min": 10,
        "ours_updates_per_second_max": 50,
        "ours_processor_seconds": 2,
        "peer_fps": 1500,
        "peer_fps_min": 1000,
        "peer_fps_max": 2000,
        "peer_updates_per_second": 10,
        "peer_updates_per_second_min": 5,
        "peer_updates_per_second_max": 10,
        "peer_processor_seconds": 5,
        "ratio": 2.0,
        "updates_ratio": 2.0,
        "processor_ratio": 2.5,
    }


def test_one_team_size_is_a_flat_line_and_several_are_named():
    assert json.loads(throughput.line({3: {"maddpg": {}}})) == {"maddpg": {}}
    assert json.loads(throughput.line({3: {"maddpg": {}}, 6: {"ddpg": {}}})) == {
        "n3": {"maddpg": {}},
        "n6": {"ddpg": {}},
    }


def child(code: str, tmp_path) -> object:
    return throughput.Contender("child", [sys.executable, "-c", code], {}, tmp_path / "errors")


def test_a_contender_works_when_it_is_told_to_until_it_is_closed(tmp_path):
    code = "import sys\nfor i, _ in enumerate(sys.stdin): print(i, flush=True)"
    contender = child(code, tmp_path)
    for i in range(2):
        contender.start_turn()
        assert contender.report() == i
    assert contender.process.poll() is None
    contender.close()
    assert contender.process.returncode == -signal.SIGKILL


def test_a_contender_that_ends_says_why(tmp_path):
    contender = child("raise ValueError('no such task')", tmp_path)
    contender.process.wait()
    contender.start_turn()
    with pytest.raises(RuntimeError, match=r"child ended with 1:\n(?s:.*)no such task"):
        contender.report()
    contender.close()


@pytest.fixture
def commands(monkeypatch):
    """What would be run to make a virtual environment."""
    made = []

    def run(command: list[str], **options) -> None:
        assert options == {"check": True, "stdout": 2}
        made.append(command)

    monkeypatch.setattr(throughput.subprocess, "run", run)
    return made


def test_the_peers_environment_is_made_once_and_again_for_other_versions(
    tmp_path, commands, capsys
):
    folder = tmp_path / "venv"
    folder.mkdir()
    python = throughput.peer_python(folder, ["a==1", "b==2"])
    assert [command[2] for command in commands] == ["venv", "pip"]
    assert commands[1][0] == str(python)
    assert commands[1][-2:] == ["a==1", "b==2"]
    captured = capsys.readouterr()
    assert "a==1, b==2" in captured.err
    assert captured.out == ""
    (folder / "pyvenv.cfg").touch()
    assert throughput.peer_python(folder, ["a==1", "b==2"]) == python
    assert len(commands) == 2
    throughput.peer_python(folder, ["a==1", "b==3"])
    assert len(commands) == 4


def test_an_environment_is_complete_only_after_the_installation(tmp_path, monkeypatch):
    def fail(command: list[str], **options) -> None:
        raise OSError("no network")

    monkeypatch.setattr(throughput.subprocess, "run", fail)
    for _ in range(2):
        with pytest.raises(OSError, match="no network"):
            throughput.peer_python(tmp_path, ["a==1"])


def test_a_folder_that_is_no_virtual_environment_is_left_alone(tmp_path, commands):
    """Making one would empty it."""
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match="no virtual environment"):
        throughput.peer_python(tmp_path, ["a==1"])
    assert commands == []


def test_the_peer_gets_our_torch_and_simulator(monkeypatch):
    """A local version, +cpu, is what pip chooses by itself."""
    installed = {"torch": "2.13.0+cpu", "vmas": "1.5.2"}
    monkeypatch.setattr(throughput, "version", installed.__getitem__)
    assert throughput.requirements("benchmarl") == [
        "torch==2.13.0",
        "vmas==1.5.2",
        "benchmarl==1.5.2",
    ]


def test_the_command_line_is_checked(capsys):
    with pytest.raises(ValueError, match=r"peer must be one of .*, got 'epymarl'"):
        throughput.Config(peer="epymarl")
    with pytest.raises(ValueError, match="at least 3, got 2"):
        throughput.Config(turns=2)
    with pytest.raises(ValueError, match="at least one team size"):
        throughput.Config(n_agents=())
    with pytest.raises(SystemExit):
        tyro.cli(throughput.Config, args=["--peer", "epymarl"])
    assert "benchmarl" in capsys.readouterr().err
    config = tyro.cli(throughput.Config, args=["--quick", "--options=--num-critics 2"])
    assert (config.n_agents, config.turns, config.options) == ((3,), 3, "--num-critics 2")


def test_our_options_and_both_sides_settings_reach_the_processes(tmp_path, monkeypatch):
    """Ours needs the package on its path; the peer must not see it."""
    started = []
    monkeypatch.setattr(throughput, "Contender", lambda *arguments: started.append(arguments))
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    config = throughput.Config(device="cpu", threads=2, options="--num-critics 2")
    python = tmp_path / "python"
    for name in (throughput.PEER, "alita_clones"):
        throughput.start(name, 6, config, python, str(tmp_path))
    (_, peer, peers_variables, _), (_, ours, our_variables, _) = started
    assert (peer[0], ours[0]) == (str(python), sys.executable)
    theirs, work = json.loads(peer[2]), json.loads(ours[2])
    assert (theirs["side"], work["side"]) == ("benchmarl", "ours")
    assert work.pop("options") == [
        *("alita", "--algorithm.estimator", "clones", "--num-critics", "2"),
    ]
    for content in (theirs, work):
        del content["side"], content["folder"]
    assert theirs == work
    assert our_variables.pop("PYTHONPATH") == str(throughput.ROOT)
    assert our_variables == peers_variables
    assert our_variables["OMP_NUM_THREADS"] == "2"


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """The script with hand-made contenders, and a README and results of its own."""
    monkeypatch.setattr(throughput, "ROOT", tmp_path)
    monkeypatch.setattr(throughput, "RESULT", tmp_path / "throughput.json")
    monkeypatch.setattr(throughput, "peer_python", lambda folder, wanted: folder)
    monkeypatch.setattr(throughput.sys, "argv", ["throughput.py", "--turns", "3"])
    page = tmp_path / "README.md"
    page.write_text("<!-- speed table: begin -->\nold\n<!-- speed table: end -->\n")
    events = []

    def start(name: str, n_agents: int, config: object, python: object, folder: str) -> Hand:
        warm_up = 1 if config.quick else 2
        seconds = {"peer": 2.0, "maddpg": 1.0}.get(name, 4.0)
        reports = [VERSIONS, *[turn(99.0)] * warm_up, *[turn(seconds)] * 3]
        return Hand(name, reports, events)

    monkeypatch.setattr(throughput, "start", start)
    return SimpleNamespace(page=page, result=tmp_path / "throughput.json", events=events)


def test_the_quick_form_prints_one_line_and_writes_nothing(measured, capsys):
    before = measured.page.read_text()
    throughput.main(throughput.Config(quick=True))
    content = json.loads(capsys.readouterr().out)
    assert list(content) == ["maddpg", "ddpg", "alita", "alita_clones"]
    assert content["maddpg"]["ratio"] == 2.0
    assert content["alita_clones"]["ratio"] == 0.5
    assert not measured.result.exists()
    assert measured.page.read_text() == before
    assert measured.events[-1] == ("peer", "close")


def test_the_full_form_writes_the_results_and_the_table_which_can_be_made_again(measured, capsys):
    throughput.main(throughput.Config(turns=3, device="cpu", threads=1))
    assert list(json.loads(capsys.readouterr().out)) == ["n3", "n6"]
    content = json.loads(measured.result.read_text())
    assert content["command"] == "python benchmarks/throughput.py --turns 3"
    assert content["turns"]["6"]["maddpg"] == [turn(1.0)] * 3
    page = measured.page.read_text()
    rows = [text for text in page.splitlines() if text.startswith("|")]
    assert rows[2] == "| BenchMARL, MADDPG | 3 | 3,000 [3,000, 3,000] | 10 [10, 10] | 1 | 1 |"
    assert rows[3].startswith("| BenchMARL, MADDPG without LayerNorm | 3 | 1,500 ")
    assert rows[4] == "| MADDPG | 3 | 6,000 [6,000, 6,000] | 10 [10, 10] | 2.00 | 1.00 |"
    assert [row.split(" | ")[1] for row in rows[2:]] == ["3"] * 6 + ["6"] * 6
    assert "torchrl 0.14 here, 0.14 under BenchMARL 1.5" in page
    assert "1 thread, no GPU" in page
    measured.page.write_text("<!-- speed table: begin -->\n<!-- speed table: end -->\n")
    throughput.main(throughput.Config(report_only=True))
    assert measured.page.read_text() == page
