"""Sweeps: nothing is run twice, nothing is lost, and what is killed goes on."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_cells import FAKE, but_times, cells, histories
from scripts import ROOT

from torchrl_alita import __main__ as command_line
from torchrl_alita.experiments import make_cells, read_rows, run_cell, run_cells, sweep
from torchrl_alita.training.command import check_option, parse_arguments


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_every_cell_has_a_row_and_is_not_run_again(tmp_path):
    outcome = run_cells(cells(), tmp_path / "out", workers=2)
    assert not outcome.failures
    assert read_rows(tmp_path / "out" / "results.jsonl") == outcome.rows
    assert [(row.variant, row.seed) for row in outcome.rows] == [
        ("alita", 0), ("alita", 1), ("maddpg", 0), ("maddpg", 1),
    ]  # fmt: skip
    row = outcome.rows[0]
    # Four steps of the numbers of fake_training.py, from the seed 0.
    assert row.final["evaluation/return_mean"] == 571
    assert row.process_seconds > 0
    assert row.command.startswith(f"python {FAKE[0]} alita --task games --seed 0 --total-frames 40")
    again = run_cells(cells(), tmp_path / "out", workers=2)
    assert again.rows == outcome.rows
    assert set(map(tuple, histories(tmp_path / "out").values())) == {("started",)}


def test_one_worker_and_two_leave_identical_rows_but_for_times(tmp_path):
    one = run_cells(cells(), tmp_path / "one", workers=1)
    two = run_cells(cells(), tmp_path / "two", workers=2)
    assert but_times(one.rows) == but_times(two.rows)


def test_workers_share_the_cores_out():
    mine = sorted(os.sched_getaffinity(0))
    shares = [sweep._cores(slot, len(mine)) for slot in range(len(mine))]
    assert sorted(core for share in shares for core in share) == mine
    assert sweep._cores(1, 1000) == [mine[1 % len(mine)]]


def test_a_worker_that_is_killed_goes_on_from_its_checkpoint(tmp_path):
    whole = run_cells(cells(), tmp_path / "whole")
    (tmp_path / "orders").write_text("maddpg 1 30 kill\nalita 0 10 kill")
    killed = run_cells(cells(), tmp_path / "killed", workers=2)
    assert not killed.failures
    assert but_times(killed.rows) == but_times(whole.rows)
    said = histories(tmp_path / "killed")
    assert said["maddpg/seed1"] == ["started", "resumed at 20"]
    # Before its first checkpoint there is nothing to go on from.
    assert said["alita/seed0"] == ["started", "started"]
    assert said["maddpg/seed0"] == ["started"]


def test_a_run_that_is_always_killed_is_given_up_and_the_others_go_on(tmp_path):
    (tmp_path / "orders").write_text("\n".join(f"maddpg 0 {n} kill" for n in (10, 20, 30, 40)))
    outcome = run_cells(cells(), tmp_path / "out")
    assert list(outcome.failures) == ["games/maddpg/seed0"]
    assert outcome.failures["games/maddpg/seed0"].startswith("status -9: ")
    assert len(outcome.rows) == 3
    again = run_cells(cells(), tmp_path / "out")
    assert not again.failures
    assert len(again.rows) == 4


def test_a_run_that_fails_is_reported_with_its_last_words(tmp_path):
    (tmp_path / "orders").write_text("alita 1 20 fail")
    outcome = run_cells(cells(), tmp_path / "out")
    assert outcome.failures == {"games/alita/seed1": "status 1: it was told to fail"}
    (tmp_path / "orders").unlink()
    assert len(run_cells(cells(), tmp_path / "out").rows) == 4
    assert histories(tmp_path / "out")["alita/seed1"] == ["started", "resumed at 10"]


SWEEP = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests")!r})
from fake_cells import cells
from torchrl_alita.experiments import run_cells
print("ready", flush=True)
run_cells(cells(frames=400), "out", workers=2)
"""


def test_a_sweep_that_is_killed_takes_its_workers_along_and_goes_on(tmp_path):
    """SIGKILL, which nobody can catch."""
    whole = run_cells(cells(frames=400), tmp_path / "whole", workers=2)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed = subprocess.Popen([sys.executable, "-c", SWEEP], env=environment)
    deadline = time.monotonic() + 120
    while not any(tmp_path.glob("out/runs/*/*/*/run/checkpoints/checkpoint-*")):
        assert time.monotonic() < deadline
        assert killed.poll() is None
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    outcome = run_cells(cells(frames=400), tmp_path / "out", workers=2)
    assert but_times(outcome.rows) == but_times(whole.rows)
    said = histories(tmp_path / "out")
    assert any("resumed" in line for lines in said.values() for line in lines)
    # What was killed after its first checkpoint has not begun again.
    for lines in said.values():
        assert not any("resumed" in line for line in lines) or lines.count("started") == 1
    # Nobody saw what the killed processes, one for each worker at most, had spent.
    unknown = {f"{r.algorithm}/seed{r.seed}" for r in outcome.rows if r.process_seconds is None}
    assert {name for name, lines in said.items() if len(lines) > 1} <= unknown
    assert len(unknown) <= 2


def test_two_sweeps_in_one_folder_are_refused(tmp_path, monkeypatch):
    run_cells(cells(1), tmp_path / "out")
    with sweep._only_one(tmp_path / "out"):
        monkeypatch.setattr(sweep.time, "monotonic", iter(range(0, 10**6, 10)).__next__)
        with pytest.raises(ValueError, match=r"Another sweep works in .*out\."):
            run_cells(cells(2), tmp_path / "out")


@pytest.mark.parametrize(
    ("entry", "out", "error", "message"),
    [
        ("out/config.json", "out", ValueError, "holds a single run"),
        ("out", "out", OSError, "out is a file; name a folder"),
        ("out", "out/below", OSError, "out is a file; name a folder"),
    ],
)
def test_a_folder_that_is_none_or_of_a_single_run_is_refused(tmp_path, entry, out, error, message):
    (tmp_path / entry).parent.mkdir(exist_ok=True)
    (tmp_path / entry).write_text("{}")
    with pytest.raises(error, match=message):
        run_cells(cells(1), tmp_path / out)


def test_a_folder_of_another_sweep_is_refused_and_more_seeds_are_added(tmp_path):
    run_cells(cells(1), tmp_path / "out")
    with pytest.raises(ValueError, match=r"holds another run; .*'frames': \(40, 80\)"):
        run_cells(cells(1, frames=80), tmp_path / "out")
    assert len(run_cells(cells(2), tmp_path / "out").rows) == 4
    # A smaller sweep keeps the rows of the others.
    assert len(run_cells(cells(1, ["alita"]), tmp_path / "out").rows) == 4
    with pytest.raises(ValueError, match="Two cells of the sweep have the same folder"):
        run_cells([*cells(1), *cells(1)], tmp_path / "out")


def test_ctrl_c_lets_the_runs_end(tmp_path, monkeypatch):
    (tmp_path / "orders").write_text("maddpg 0 20 wait")
    pressed = []

    def look(seconds: float) -> None:
        # However long a process takes to begin.
        if not pressed and list((tmp_path / "out").glob("runs/games/maddpg/seed0/run/checkpoints")):
            pressed.append(True)
            raise KeyboardInterrupt
        real_sleep(seconds)

    real_sleep = time.sleep
    monkeypatch.setattr(sweep.time, "sleep", look)
    with pytest.raises(KeyboardInterrupt):
        run_cells(cells(1), tmp_path / "out")
    monkeypatch.undo()
    log = next((tmp_path / "out").glob("runs/games/maddpg/seed0/log.txt")).read_text()
    assert "KeyboardInterrupt" in log


def test_a_full_disk_ends_the_sweep_and_loses_nothing(tmp_path, monkeypatch):
    first = run_cells(cells(1), tmp_path / "out")

    def full(*arguments) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(sweep, "write_rows", full)
        with pytest.raises(OSError, match="No space left"):
            run_cells(cells(2), tmp_path / "out")
    assert read_rows(tmp_path / "out" / "results.jsonl") == first.rows
    assert len(run_cells(cells(2), tmp_path / "out").rows) == 4


def test_a_cell_is_run_alone_where_no_sweep_looks_on(tmp_path):
    (cell,) = cells(1, ["alita"])
    run_cell(tmp_path, cell)
    run_cell(tmp_path, cell)
    assert list(histories(tmp_path).values()) == [["started"]]
    (tmp_path / "orders").write_text("maddpg 0 20 fail")
    with pytest.raises(RuntimeError, match="games/maddpg/seed0 ended with 1: it was told to fail"):
        run_cell(tmp_path, cells(1, ["maddpg"])[0])


def test_a_grid_is_of_the_algorithm_that_it_names():
    grid = {"alita.influence-coeff": [0.0, 0.1], "num-envs": [5], "task.size": [9, 11]}
    found = make_cells(["t"], ["alita", "maddpg"], study="s", seeds=[7], frames=10, grid=grid)
    assert [cell.variant for cell in found] == [
        "alita, influence_coeff=0.0, task.size=9",
        "alita, influence_coeff=0.0, task.size=11",
        "alita, influence_coeff=0.1, task.size=9",
        "alita, influence_coeff=0.1, task.size=11",
        "maddpg, task.size=9",
        "maddpg, task.size=11",
    ]
    assert found[0].arguments[-6:] == [
        *("--algorithm.influence-coeff", "0.0", "--num-envs", "5", "--task.size", "9"),
    ]
    options = {"algorithm.share_params": True, "double_q": False, "algorithm.num_cells": [8, 4]}
    cell = dataclasses.replace(found[0], settings=options)
    assert cell.command.endswith("--algorithm.share-params --no-double-q --algorithm.num-cells 8 4")


def test_what_sides_follow_is_of_the_algorithm_sides_alone():
    grid = {
        "side.lead_adversary": ["maddpg", "random"],
        "side.good": ["ddpg"],
        "side.good.num-cells": [[8, 4]],
        "wandb.project": ["p"],
    }
    found = make_cells(["t"], ["sides", "iql"], study="s", seeds=[7], frames=10, grid=grid)
    names = ["sides, side.lead_adversary=maddpg", "sides, side.lead_adversary=random", "iql"]
    assert [cell.variant for cell in found] == names
    assert found[0].arguments[-9:] == [
        *("--side.lead_adversary", "maddpg", "--side.good", "ddpg"),
        *("--side.good.num-cells", "8", "4", "--wandb.project", "p"),
    ]
    assert found[2].arguments[-2:] == ["--wandb.project", "p"]
    config = parse_arguments(
        [*found[1].arguments, "--task", "mpe/adversary", "--total-frames=9999"]
    )
    assert config.algorithm.fixed == {"lead_adversary": "random"}
    assert config.algorithm.learning["good"].num_cells == (8, 4)
    for owner in ("side", "side.good"):
        with pytest.raises(ValueError, match=f"is of '{owner}', which is not among"):
            make_cells(["t"], ["iql"], study="s", seeds=1, frames=10, grid={f"{owner}.x": ["y"]})


@pytest.mark.parametrize(
    ("algorithm", "name", "said"),
    [
        ("alita", "num-env", "Unknown option num_env. Did you mean num_envs?"),
        ("alita", "wandb.projet", "Unknown option wandb.projet. Did you mean wandb.project?"),
        ("alita", "sies.good", "Unknown option sies.good: its part must be one of"),
        ("alita", "side.good", "side.good is an option of the algorithm 'sides', not of 'alita'."),
        ("sides", "algorithm.sides", "Unknown option algorithm.sides: its part must be one of"),
    ],
)
def test_an_option_that_no_run_has_is_named(algorithm, name, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        check_option(algorithm, name)


def test_options_of_every_part_are_known():
    for name in ("num-envs", "training.num_envs", "algorithm.gamma", "wandb.project", "task.size"):
        check_option("alita", name)
    for name in ("side.good", "side.good.gamma"):
        check_option("sides", name)


def test_a_worker_ends_with_its_parent(tmp_path):
    """A wrong parent is one that is gone already."""
    if sys.platform != "linux":
        pytest.skip("Linux tells a process of its parent's end")
    start = str(Path(sweep.__file__).with_name("_start_worker.py"))
    command = [sys.executable, "-I", start, "1", "", sys.executable, "-c", "print('ran')"]
    assert subprocess.run(command, capture_output=True, text=True).stdout == ""
    command[3] = str(os.getpid())
    assert subprocess.run(command, capture_output=True, text=True).stdout == "ran\n"


SMALL = ("--out", "out", "--seeds", "1", "--total-frames", "20000")
SPREAD = ("--tasks", "vmas/spread", "--algorithms", "alita")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tasks", "vmas/spred", "--algorithms", "alita"], "Did you mean 'vmas/spread'?"),
        (["--tasks", "vmas/spread", "--algorithms", "alitta"], "Did you mean 'alita'?"),
        (
            [*SPREAD, "--set", "alita.influence-coef", "0"],
            "Did you mean algorithm.influence_coeff?",
        ),
        ([*SPREAD, "--set", "num-env", "5"], "Unknown option num_env. Did you mean num_envs?"),
        ([*SPREAD, "--set", "num-envs", "many"], "num_envs must be a whole number"),
        ([*SPREAD, "--set", "num-envs", "0"], "num_envs must be at least 1"),
        ([*SPREAD, "--set", "maddpg.gamma", "0.9"], "is of 'maddpg', which is not among"),
        ([*SPREAD, "--set", "side.good", "random"], "is of 'side', which is not among"),
        (
            [
                "--tasks",
                "mpe/adversary",
                "--algorithms",
                "sides",
                "--set",
                "side.good",
                "random",
                "--set",
                "side.adversary",
                "ddpg",
                "--set",
                "side.adversary.gama",
                "1",
            ],
            "Unknown option --side.adversary.gama. Did you mean --side.adversary.gamma?",
        ),
        ([*SPREAD, "--set", "num-envs"], "--set num-envs has no value"),
        ([*SPREAD, "--set", "seed", "1", "--set", "seed", "2"], "--set seed is given twice"),
        ([*SPREAD, "--workers", "0"], "--workers must be at least 1"),
        ([*SPREAD, "--seeds", "0"], "--seeds must be at least 1"),
        (["--tasks", "vmas/spread"], "the following arguments are required: --algorithms"),
    ],
)
def test_what_cannot_be_swept_is_one_line_and_status_2_before_anything_is_run(
    words, said, tmp_path, capsys
):
    assert command_line.main(["sweep", *SMALL, *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("torchrl-alita sweep: ")
    assert said in captured.err
    assert not (tmp_path / "out").exists()


TINY = (
    "num-envs 5", "horizon 10", "frames-per-batch 50", "maddpg.frames-per-update 50",
    "maddpg.random-frames 50", "maddpg.batch-size 8", "evaluation-interval 50", "evaluation-episodes 2",
)  # fmt: skip


def test_a_sweep_of_real_runs_from_the_command_line(tmp_path, capsys):
    words = ["--tasks", "push_box", "--algorithms", "maddpg", "--seeds", "1", "--out", "out"]
    words += ["--total-frames", "150", "--workers", "1", "--no-progress"]
    words += [word for setting in TINY for word in ("--set", *setting.split())]
    assert command_line.main(["sweep", *words]) == 0
    assert "1 runs have finished" in capsys.readouterr().out
    (row,) = read_rows(tmp_path / "out" / "results.jsonl")
    assert (row.study, row.variant, row.task, row.frames) == ("out", "maddpg", "push_box", 150)
    assert row.settings["num_envs"] == 5
    assert row.machine["threads"] == 1
    assert [point["frames"] for point in row.curve] == [0, 50, 100, 150]
    assert row.references["random"]["evaluation/return_mean"] == 0
    assert command_line.main(["report", "out"]) == 0


def test_sides_are_swept_and_reported_from_the_command_line(tmp_path, capsys):
    words = ["--tasks", "mpe/adversary", "--algorithms", "sides", "--seeds", "1", "--out", "out"]
    words += ["--total-frames", "100", "--workers", "1", "--no-progress"]
    tiny = [setting.replace("maddpg.", "side.good.") for setting in TINY]
    tiny += ["side.good ddpg maddpg", "side.adversary random", "pictures false"]
    words += [word for setting in tiny for word in ("--set", *setting.split())]
    assert command_line.main(["sweep", *words]) == 0, capsys.readouterr().err
    rows = read_rows(tmp_path / "out" / "results.jsonl")
    assert [row.variant for row in rows] == ["sides, side.good=ddpg", "sides, side.good=maddpg"]
    assert [row.settings["side.good"] for row in rows] == ["ddpg", "maddpg"]
    assert all("evaluation/return_good" in row.final for row in rows)
    capsys.readouterr()
    assert command_line.main(["report", "out"]) == 0
    assert "| sides, side.good=maddpg | 1 |" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize(
    ("failures", "status"),
    [
        ({}, 0),
        ({"a": "status 2: No space left on device", "b": "status 2: No space left"}, 2),
        ({"a": "status 2: No space left on device", "b": "status -9: an empty log"}, 1),
    ],
)
def test_a_full_disk_in_the_runs_is_no_crash(tmp_path, monkeypatch, failures, status):
    monkeypatch.setattr(sweep, "run_cells", lambda *_, **__: sweep.Outcome(failures=failures))
    command = ["--tasks", "push_box", "--algorithms", "iql", "--seeds", "1", "--out", str(tmp_path)]
    assert sweep.main(command) == status


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are found in /proc")
def test_ctrl_c_at_a_terminal_reaches_each_run_once(tmp_path):
    """A terminal interrupts all processes of a group; a second time would cut a checkpoint off."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", SWEEP], env=environment) as asked:
        deadline = time.monotonic() + 120
        while not any(tmp_path.glob("out/runs/*/*/*/run/checkpoints/checkpoint-*")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        workers = [pid for pid in _children(asked.pid) if "fake_training" in _words(pid)]
        assert workers
        assert os.getpgid(asked.pid) not in map(os.getpgid, workers)
        asked.kill()


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _words(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def test_a_sweep_takes_all_cores_where_the_system_does_not_say_which(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert sweep._known_cores() == [0, 1, 2]


@pytest.mark.parametrize(
    ("variant", "folder"),
    [("A, no F", "a_no_f"), ("基线", "基线"), ("a__b", "a_b"), ("!?", "7b202a21")],
)
def test_a_run_has_a_folder_of_its_own_whatever_its_variant_is_called(tmp_path, variant, folder):
    cell = dataclasses.replace(cells(1)[0], variant=variant)
    assert cell.name == f"games/{folder}/seed0"
    made = sweep.CellFolder(tmp_path, cell)
    assert [there.path for there in sweep.CellFolder.all_of(tmp_path)] == [made.path]


def test_settings_of_a_cell_are_words_that_a_command_line_can_read(tmp_path):
    settings = {"task.penalty": -1e-5, "algorithm.num_cells": (8, 8), "init_from": Path("a/b")}
    cell = dataclasses.replace(cells(1)[0], settings=settings)
    assert cell.arguments[-6:] == [
        "--task.penalty=-1e-05", "--algorithm.num-cells", "8", "8", "--init-from", "a/b",
    ]  # fmt: skip
    assert sweep.CellFolder(tmp_path, cell).cell.settings["init_from"] == "a/b"


def test_a_launcher_that_is_missing_is_named_before_there_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match="ray"):
        run_cells(cells(1), tmp_path / "out", launcher="ray")
    assert not (tmp_path / "out").exists()


def test_a_setting_without_values_and_one_with_its_group_are_read_as_meant(tmp_path):
    settings = {
        "loggers": (),
        "training.num_envs": 10,
        "pictures": False,
        "algorithm.layer_norm": True,
    }
    cell = dataclasses.replace(cells(1)[0], task="vmas/spread", frames=9_000, settings=settings)
    config = parse_arguments([*cell.arguments, "--run-dir", str(tmp_path)])
    assert config.training.loggers == ()
    assert not config.training.pictures
    assert config.algorithm.layer_norm
    assert config.training.num_envs == 10
