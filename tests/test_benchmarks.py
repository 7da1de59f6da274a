"""What the benchmarks write from results, by hand."""

from __future__ import annotations

import json

import pytest
from scripts import ROOT, load, runs

sparse_table = load("benchmarks", "sparse_table")


def test_a_text_between_markers_replaces_what_was_there_and_nothing_else(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- x: begin -->\nold\n<!-- x: end -->\nafter\n")
    runs.write_between(page, "x", "new")
    assert page.read_text() == "before\n<!-- x: begin -->\n\nnew\n\n<!-- x: end -->\nafter\n"
    with pytest.raises(ValueError, match="unpack"):
        runs.write_between(page, "y", "new")


def test_a_table_has_a_row_for_each_and_numbers_to_the_right():
    assert runs.table(["team", "score"], [["a", "1"], ["b", "2"]]).splitlines() == [
        "| team | score |",
        "| --- | ---: |",
        "| a | 1 |",
        "| b | 2 |",
    ]


def test_a_span_is_the_mean_and_the_ends():
    assert runs.span([1.0, 2.0, 6.0], 1) == "3.0 [1.0, 6.0]"


def test_a_result_that_is_there_is_not_run_again(tmp_path):
    """The recipe does not exist: running it would be an error."""
    result = tmp_path / "one.json"
    result.write_text(json.dumps({"variant": "a"}))
    job = runs.Job("a", "no_such_recipe.py", (), result, ())
    runs.train_missing([job], workers=1)
    assert runs.results([job]) == {"a": [{"variant": "a"}]}


def test_a_run_leaves_its_command_summary_and_curves(tmp_path):
    options = (
        *("--algorithm", "maddpg", "--total-frames", "40", "--num-envs", "4", "--horizon", "5"),
        *("--frames-per-batch", "20", "--frames-per-update", "20", "--evaluation-interval", "20"),
        *("--evaluation-episodes", "3", "--exploration", "independent"),
    )
    curves = ("evaluation/boxes_per_episode", "exploration/state_coverage")
    job = runs.Job("row", "alita_push_box.py", options, tmp_path / "run.json", curves)
    runs.train_missing([job], workers=1)
    (content,) = runs.results([job])["row"]
    assert content["command"].startswith("python recipes/alita_push_box.py --algorithm maddpg")
    assert content["curves"]["boxes_per_episode"] == [[0, 0.0], [20, 0.0], [40, 0.0]]
    assert content["curves"]["state_coverage"][0] == [0, None]
    assert 0 < content["curves"]["state_coverage"][2][1] < 1e-3
    assert content["exploration"]["first_success_frame"] is None


@pytest.mark.parametrize(
    ("frames", "said"),
    [([None, None], "0 of 2"), ([1000.0, None, 3000.0], "2 of 3, frame 2,000")],
)
def test_the_first_success_is_averaged_over_the_runs_that_had_one(frames, said):
    found = [{"exploration": {"first_success_frame": frame}} for frame in frames]
    assert sparse_table.first_success(found) == said


def test_the_pages_tables_are_what_the_committed_results_say(tmp_path, monkeypatch):
    page = (ROOT / "docs" / "sparse.md").read_text()
    (tmp_path / "docs").mkdir()
    copy = tmp_path / "docs" / "sparse.md"
    copy.write_text(page)
    runs.write_between(copy, "sparse tables", "")
    assert copy.read_text() != page
    (tmp_path / "sparse").symlink_to(ROOT / "benchmarks" / "results" / "sparse")
    monkeypatch.setattr(sparse_table, "ROOT", tmp_path)
    monkeypatch.setattr(sparse_table, "RESULTS", tmp_path)
    sparse_table.report(sparse_table.Config(report_only=True))
    assert copy.read_text() == page
    committed = (ROOT / "benchmarks" / "results" / "sparse.json").read_text()
    assert (tmp_path / "sparse.json").read_text() == committed
