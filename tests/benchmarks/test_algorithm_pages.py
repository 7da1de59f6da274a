"""What the algorithms' pages say of results: what was measured, and what was copied."""

from __future__ import annotations

import pytest
from result_rows import make_row
from scripts import load

from torchrl_alita.algorithms import ALGORITHMS
from torchrl_alita.experiments import RETURN, Study, Variant, append_row


@pytest.fixture
def pages(monkeypatch, tmp_path, studies):
    """The script, with an empty folder of results."""
    script = load("benchmarks", "algorithm_pages")
    for name in ("RESULTS", "FIGURES"):
        monkeypatch.setattr(script, name, tmp_path)
    return script


def study_of(name: str = "spread", **changes) -> Study:
    fields = {
        "page": "docs/spread.md",
        "tasks": {"vmas/spread": (200, {})},
        "variants": {"ours": Variant(algorithm="maddpg")},
        "columns": {},
    }
    return Study(name=name, **fields | changes)


def run(pages, study: str = "spread", **changes) -> None:
    fields = {"variant": "ours", "algorithm": "maddpg", "study": study}
    row = make_row(**fields | changes)
    append_row(pages.RESULTS / f"{study}.jsonl", row)


def test_a_line_has_the_random_team_the_best_known_and_the_score_between(pages):
    """A third of the way from -586 to -84.8 is a return of -418.9."""
    run(
        pages,
        final={RETURN: -418.9},
        references={"random": {RETURN: -586.0}},
    )
    text = pages.measured("maddpg", {"spread": study_of()})
    line = next(line for line in text.splitlines() if "`vmas/spread`" in line)
    assert line == (
        "| `vmas/spread` | [ours](../spread.md) | 200 | 1 | return | -586.0 | -418.9 | -84.8 "
        "| 0.33 |"
    )


def test_sparse_games_are_shown_in_what_is_earned_there(pages):
    run(
        pages,
        task="push_box",
        final={RETURN: 1000.0, "evaluation/boxes_per_episode": 3.25},
        references={"random": {"evaluation/boxes_per_episode": 0.0}},
    )
    study = study_of(tasks={"push_box": (200, {})})
    text = pages.measured("maddpg", {"spread": study})
    assert "| boxes an episode | 0.0 | 3.2 | 23.9 | - |" in text


def test_games_with_other_rules_have_a_metric_and_a_ceiling_of_their_own(pages):
    runs = {"sparse_cmae": {RETURN: 0.75}, "sparse_teams": {"evaluation/boxes_per_episode": 3.25}}
    for name, final in runs.items():
        run(pages, study=name, task="push_box", final=final, references={"random": final})
    studies = {name: study_of(name, tasks={"push_box": (200, {})}) for name in runs}
    text = pages.measured("maddpg", studies)
    assert "| `push_box`, by CMAE's rules " in text
    assert "| greedy success | 0.75 | 0.75 | 1.00 | - |" in text
    assert "| `push_box`, more than two agents " in text
    assert "| boxes an episode | 3.2 | 3.2 | - | - |" in text


def test_runs_of_other_programs_and_of_other_algorithms_are_left_out(pages):
    run(pages, command="python benchmarks/sb3_worker.py maddpg")
    run(pages, algorithm="ddpg")
    assert pages.measured("maddpg", {"spread": study_of()}).startswith("No run of it is recorded")


def test_curves_are_those_of_the_study(pages):
    run(pages)
    (pages.FIGURES / "spread_spread_200.png").touch()
    text = pages.measured("maddpg", {"spread": study_of()})
    assert "![Curves of vmas/spread, 200 frames](" in text
    assert "spread_spread_200.png)" in text


def test_what_is_copied_is_said_to_be_copied_and_from_where(pages):
    text = pages.published("trpo")
    assert text.startswith("**Published.** Copied from the sources named, not measured here.")
    assert "target reached 20.6 %; average distance 1.573" in text
    assert "Table 3 of https://arxiv.org/abs/2108.12581" in text
    assert "No published figure" in pages.published("maven")


def test_every_published_figure_is_of_an_algorithm_that_exists_and_has_a_source(pages):
    for entry in pages.PUBLISHED:
        assert entry.algorithm in ALGORITHMS
        assert entry.value
        assert "http" in entry.source or "Hugging Face" in entry.source
