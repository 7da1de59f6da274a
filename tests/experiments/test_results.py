"""Rows of results: what is damaged is refused by its line, what cannot be written is not lost."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import subprocess
import sys

import pytest
from result_rows import make_row
from scripts import ROOT

from torchrl_alita.experiments import (
    append_row,
    normalized_score,
    read_rows,
    results,
    row_of_run,
    write_rows,
)
from torchrl_alita.saving import machine


def test_rows_come_back_as_they_were_written(tmp_path):
    path = tmp_path / "results" / "spread.jsonl"
    rows = [
        make_row(seed=seed, references={"random": {"evaluation/return_mean": -9.0}})
        for seed in range(3)
    ]
    append_row(path, rows[0])
    append_row(path, rows[1])
    assert read_rows(path) == rows[:2]
    write_rows(path, rows)
    assert read_rows(path) == rows
    assert len(path.read_text().splitlines()) == 3


def test_a_column_leaves_out_evaluations_without_the_metric():
    points = [
        {"frames": 0, "wall_seconds": 0.0, "metrics": {"share": None}},
        {"frames": 5, "wall_seconds": 1.0, "metrics": {"share": 0.25}},
        {"frames": 9, "wall_seconds": 2.0, "metrics": {"other": 1.0}},
    ]
    assert make_row(curve=points).column("share") == ([5], [0.25])


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda row: row.pop("commit"), "lacks commit"),
        (lambda row: row.update(sead=1), "unknown fields: sead"),
        (lambda row: row.update(seed="1"), "seed must be int, got '1'"),
        (lambda row: row.update(frames=True), "frames must be int, got True"),
        (
            lambda row: row["final"].update(score="high"),
            "final must have numbers, got score='high'",
        ),
        (lambda row: row["final"].update(score=float("nan")), "score=nan"),
        (lambda row: row["curve"].reverse(), r"curve\[1\] must have more frames than 200, got 0"),
        (lambda row: row["curve"][0].pop("metrics"), r"curve\[0\] must have exactly"),
        (
            lambda row: row.update(references={"random": 1}),
            r"references\['random'\] must be metrics",
        ),
    ],
)
def test_a_damaged_row_is_refused_by_its_line(tmp_path, damage, fault):
    content = dataclasses.asdict(make_row())
    damage(content)
    path = tmp_path / "spread.jsonl"
    append_row(path, make_row())
    with path.open("a") as file:
        file.write(json.dumps(content) + "\n")
    with pytest.raises(ValueError, match=f"spread.jsonl, line 2, is damaged: .*{fault}"):
        read_rows(path)


def test_half_a_row_is_refused_and_nothing_is_added_to_it(tmp_path):
    path = tmp_path / "spread.jsonl"
    append_row(path, make_row())
    whole = path.read_text()
    path.write_text(whole + whole[:40])
    with pytest.raises(ValueError, match="line 2, is damaged"):
        read_rows(path)
    with pytest.raises(ValueError, match="line 2, is unfinished"):
        append_row(path, make_row())
    assert path.read_text() == whole + whole[:40]


def test_what_is_no_row_makes_no_file_and_no_folder(tmp_path):
    with pytest.raises(TypeError, match="A row must be a Row, got None"):
        append_row(tmp_path / "new" / "spread.jsonl", None)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_costs_the_row_and_leaves_the_file(tmp_path, monkeypatch):
    path = tmp_path / "spread.jsonl"
    append_row(path, make_row())
    whole = path.read_text()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(results.os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            append_row(path, make_row(seed=4))
    assert path.read_text() == whole
    append_row(path, make_row(seed=4))
    assert [row.seed for row in read_rows(path)] == [3, 4]


def test_processes_that_add_rows_at_once_lose_none(tmp_path):
    path = tmp_path / "spread.jsonl"
    code = (
        "import sys; sys.path[:0] = sys.argv[3:]; import result_rows; from pathlib import Path; "
        "first = int(sys.argv[2]); "
        "result_rows.append_many(Path(sys.argv[1]), range(first, first + 20))"
    )
    folders = [str(ROOT / "tests"), str(ROOT)]
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(path), str(start), *folders])
        for start in (0, 20)
    ]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert sorted(row.seed for row in read_rows(path)) == list(range(40))


def test_a_runs_directory_becomes_a_row(tmp_path):
    summary = {
        "task": "vmas/spread", "algorithm": "alita", "seed": 1, "frames": 20, "updates": 4,
        "wall_seconds": 2.5, "evaluation": {"return_mean": 2.0}, "random_team": {"return_mean": 1.0},
        "exploration": {"first_success_frame": None}, "machine": {"torch": "2.13", "commit": "504cf5b", "gpu": None},
    }  # fmt: skip
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "metrics.csv").write_text(
        "frames,wall_seconds,evaluation/return_mean,exploration/coverage,training/loss\n"
        "0,0.0,0.5,nan,\n10,1.0,,0.1,3.0\n20,2.5,2.0,0.2,4.0\n"
    )
    row = row_of_run(
        tmp_path, study="s", variant="v", command=["python", "a b"], settings={"gamma": 0.9}
    )
    assert row.command == "python 'a b'"
    assert (row.commit, row.versions, row.machine) == ("504cf5b", {"torch": "2.13"}, {"gpu": None})
    assert row.final == {
        "updates": 4, "evaluation/return_mean": 2.0, "exploration/first_success_frame": None,
    }  # fmt: skip
    assert row.references == {"random": {"evaluation/return_mean": 1.0}}
    assert [point["metrics"] for point in row.curve] == [
        {"evaluation/return_mean": 0.5, "exploration/coverage": None},
        {"evaluation/return_mean": 2.0, "exploration/coverage": 0.2},
    ]
    (tmp_path / "summary.json").unlink()
    with pytest.raises(ValueError, match=r"no finished run: it has no .*summary.json"):
        row_of_run(tmp_path, study="s", variant="v", command="", settings={})


def test_a_score_is_0_at_the_floor_and_1_at_the_ceiling():
    assert normalized_score(3.0, floor=1.0, ceiling=5.0) == 0.5
    assert normalized_score(0.2, floor=1.0, ceiling=0.2) == 1.0  # lower is better
    with pytest.raises(ValueError, match=r"must differ, got 1\.0"):
        normalized_score(3.0, floor=1.0, ceiling=1.0)


def test_a_figure_says_the_commit_and_the_processor():
    found = machine()
    assert found["cores"] == os.cpu_count()
    assert found["commit"] is None or len(found["commit"].removesuffix("+changes")) == 12
    assert found["processor"]
