"""docs/tasks.md is what its script writes, and names every task that can be played here."""

from __future__ import annotations

import re

from scripts import ROOT, load

from torchrl_alita.envs import task_names

task_page = load("benchmarks", "task_page")


def test_the_page_is_what_the_committed_rows_say():
    assert task_page.PAGE.read_text() == task_page.page(task_page.read())


# Other tests register some of their own, and recipes/games.py has one.
OTHERS = ("test/", "own/", "exact_game")


def test_every_suite_has_a_heading_and_every_task_belongs_to_one():
    for name in (name for name in task_names() if not name.startswith(OTHERS)):
        assert name.rpartition("/")[0] in task_page.SUITES, name


def test_every_task_that_can_be_named_here_has_a_row():
    rows = task_page.read()
    for name in task_names():
        assert name in rows or name.startswith(OTHERS), name


def test_a_task_is_measured_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(task_page, "RESULTS", tmp_path / "tasks.jsonl")
    monkeypatch.setattr(task_page, "PAGE", tmp_path / "tasks.md")
    task_page.main(["mpe/speaker_listener"])
    row = task_page.read()["mpe/speaker_listener"]
    assert (row["num_agents"], row["observation_size"], row["action_size"]) == (2, 11, 5)
    assert row["masked"]
    assert row["steps_per_second"] > 0
    assert re.search(r"\| `mpe/speaker_listener` \| 2 \| 11 \| 5 choices \| yes \| 25 \| -81.4",
                     (tmp_path / "tasks.md").read_text())  # fmt: skip
    assert ROOT.exists()
