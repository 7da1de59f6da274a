"""Declarations of studies: what is missing, and the tables that say what came out."""

from __future__ import annotations

import pytest
from result_rows import SHARE, make_row, run_of

from torchrl_alita.experiments import (
    Column,
    Study,
    Variant,
    best,
    frames_of_best,
    last,
    missing_cells,
    reached,
    results_table,
    score,
    score_levels,
    sections,
    study_text,
)
from torchrl_alita.experiments.pictures import seconds_at


def test_figures_of_a_run_by_hand():
    """Of frames 0 to 40, the last tenth is from 36 on."""
    row = run_of("a", 0, 1.0, 5.0, 5.0, 2.0, 4.0)
    figures = [of(SHARE)(row) for of in (best, frames_of_best, last, reached)]
    assert figures == [5.0, 10, 4.0, 4.0]
    assert reached(SHARE, part=0.5)(row) == pytest.approx((5 + 2 + 4) / 3)
    assert [of("no")(row) for of in (best, frames_of_best, last, reached)] == [None] * 4


def test_a_table_has_references_first_and_few_seeds_one_by_one():
    rows = [
        run_of("a", 0, 1.0, references={"random": {SHARE: 0.25}}),
        run_of("a", 1, 0.5),
        run_of("a", 2, 0.5, final={}),
        *(run_of("b", seed, 0.5) for seed in range(5)),
        make_row(variant="a script", frames=0, curve=[], final={SHARE: 0.75}, task="games"),
    ]
    rows[:8] = [make_row(**{**vars(row), "frames": 10}) for row in rows[:8]]
    titles, cells = results_table(rows, [Column("share", SHARE, 2), Column("n", text=len_text)])
    assert titles == ["team", "seeds", "share", "n"]
    assert cells == [
        ["random team", "", "0.25", ""],
        ["a script", "", "0.75", ""],
        ["a", "3", "1.00, 0.50 (2 of 3 runs)", "3"],
        ["b", "5", "0.50 [0.50, 0.50]", "5"],
    ]


def len_text(rows) -> str:
    return str(len(rows))


def test_sections_are_by_task_and_budget_and_teams_of_scripts_stand_in_each():
    script = make_row(variant="s", frames=0, curve=[], task="t")
    rows = [run_of("a", 0, 1.0, 1.0, task="t"), run_of("a", 0, 1.0, 1.0, 1.0, task="t"), script]
    other = run_of("a", 0, 1.0, 1.0, task="u")
    found = sections([*rows, other])
    assert [(key, len(of)) for key, of in found.items()] == [
        (("t", 10), 2), (("t", 20), 2), (("u", 10), 1),
    ]  # fmt: skip
    assert found["t", 20][0] is script


def test_the_score_is_between_a_random_team_and_the_tasks_ceiling(monkeypatch):
    from torchrl_alita.envs.registry import TASKS, Task

    monkeypatch.setitem(TASKS, "known", Task(lambda: None, floor=1.0, ceiling=5.0))
    monkeypatch.setitem(TASKS, "unknown", Task(lambda: None))
    final = {"evaluation/return_mean": 4.0}
    assert score(make_row(task="known", final=final, settings={})) == 0.75
    # The run's own random team, where it has played.
    references = {"random": {"evaluation/return_mean": 3.0}}
    assert score(make_row(task="known", final=final, settings={}, references=references)) == 0.5
    assert score(make_row(task="known", final=final, settings={"horizon": 9})) is None
    assert score(make_row(task="unknown", final=final, settings={})) is None
    assert score(make_row(task="no such task", final=final, settings={})) is None
    _, cells = results_table([make_row(task="known", final=final, settings={})], [])
    assert cells == [["ceiling", "", "1.00"], ["ALITA, marginal", "1", "0.75"]]


def test_a_study_says_what_is_missing_and_compares_what_it_is_told_to(tmp_path):
    study = Study(
        name="s",
        page="page.md",
        tasks={"games": (20, {"num_envs": 4})},
        variants={"a": Variant(algorithm="maddpg"), "b": Variant(algorithm="alita")},
        columns={"": (Column("share", SHARE, 1),)},
        panels={"": {SHARE: "share"}},
        seeds=(0, 1),
        checks=(("b", "a"),),
        note={"": "Of others.", "gam": "Of games."},
    )
    # A run ends with a whole batch: at 24 frames of 20. One of 10 frames is another budget.
    rows = [run_of("b", 0, 0.0, 3.0, every=24), run_of("a", 0, 0.0, 1.0, every=10)]
    assert [cell.name for cell in missing_cells(study.cells(), rows)] == [
        "games/a/seed0", "games/a/seed1", "games/b/seed1",
    ]  # fmt: skip
    rows = [run_of("b", 0, 0.0, 3.0), run_of("a", 0, 0.0, 1.0), run_of("a", 1, 0.0, 3.0)]
    text = study_text(study, rows, tmp_path, link="pictures")
    lines = text.splitlines()
    assert lines[2:4] == ["| a | 2 | 1.0, 3.0 |", "| b | 1 | 3.0 |"]
    assert "10 frames. Of games. Made by" in text
    assert (
        "- A run of b ends above one of a with probability 0.75: 1 and 2 runs, too few for an"
        in text
    )
    assert "![Curves of games, 10 frames](pictures/s_games_10.png)" in lines
    assert (tmp_path / "s_games_10.png").stat().st_size > 5_000


@pytest.mark.parametrize("columns", [(Column("share", SHARE, 1),), ()])
def test_a_check_without_figures_on_one_side_is_left_out(tmp_path, columns):
    study = Study(
        name="s",
        page="page.md",
        tasks={"games": (10, {})},
        variants={name: Variant(algorithm="maddpg") for name in "abc"},
        columns={"": columns},
        checks=(("a", "b"), ("b", "a"), ("c", "b")),
    )
    none = run_of("a", 0, 0.0, 3.0, final={SHARE: None})
    rows = [none, run_of("b", 0, 0.0, 1.0), run_of("c", 0, 0.0, 2.0)]
    text = study_text(study, rows, tmp_path, link="pictures")
    said = [line for line in text.splitlines() if "with probability" in line]
    known = "- A run of c ends above one of b with probability 1.00: 1 and 1 runs, too few for an"
    assert said == ([f"{known} interval."] if columns else [])


def test_a_study_does_not_count_a_run_twice(tmp_path):
    study = Study(
        name="s",
        page="page.md",
        tasks={"games": (20, {})},
        variants={"a": Variant(algorithm="maddpg")},
        columns={"": (Column("share", SHARE, 1),)},
        panels={"": {SHARE: "share"}},
    )
    # Two files, one behind the other; a run of another budget is another run.
    other = run_of("a", 0, 0.0, 1.0, every=20)
    rows = [run_of("a", seed, 0.0, 3.0) for seed in (0, 1, 0)]
    said = "There are two rows of games, 10 frames, a, seed 0."
    for refused in (
        lambda: study_text(study, [other, *rows], tmp_path, link="."),
        lambda: results_table(rows, study.columns[""]),
    ):
        with pytest.raises(ValueError, match=f"^{said}$"):
            refused()
    assert not list(tmp_path.iterdir())
    assert results_table([rows[0], rows[1], other], [])[1] == [["a", "2"]]


def test_a_recipes_values_count_where_nothing_else_is_said():
    study = Study(
        name="s",
        page="page.md",
        tasks={"games": (20, {}), "push_box": (30, {})},
        variants={
            "a": Variant(algorithm="maddpg"),
            "b": Variant(algorithm="td3", program=("outside.py",)),
        },
        columns={},
        recipes={"push": "recipes/push_box.py"},
        seeds=(7,),
    )
    programs = {cell.name: cell.command.split(" --")[0] for cell in study.cells()}
    assert programs == {
        "games/a/seed7": "torchrl-alita train maddpg",
        "games/b/seed7": "python outside.py td3",
        "push_box/a/seed7": "python recipes/push_box.py maddpg",
        "push_box/b/seed7": "python outside.py td3",
    }


def test_curves_against_processor_seconds_have_their_own_picture(tmp_path):
    """Two runs of 4 and 8 processor seconds, whose clocks ran twice as long; one without."""
    curve = [{"frames": at, "wall_seconds": at, "metrics": {SHARE: 1.0}} for at in (0, 4, 8)]
    slower = [{**point, "wall_seconds": 2 * point["wall_seconds"]} for point in curve]
    runs = [
        make_row(
            task="games", frames=8, seed=seed, curve=points, wall_seconds=wall,
            process_seconds=spent,
        )
        for seed, (points, wall, spent) in enumerate(
            [(curve, 8.0, 4.0), (slower, 16.0, 8.0), (curve, 8.0, None)]
        )
    ]  # fmt: skip
    assert seconds_at(runs) == {0: 0.0, 4: 3.0, 8: 6.0}
    assert seconds_at(runs[2:]) == {}
    study = Study(
        name="s",
        page="page.md",
        tasks={"games": (8, {})},
        variants={"a": Variant(algorithm="maddpg")},
        columns={"": (Column("share", SHARE, 1),)},
        panels={"": {SHARE: "share"}},
        seconds=True,
        note="Note.",
    )
    text = study_text(study, runs, tmp_path, link="pictures")
    assert "![The same against processor seconds](pictures/s_games_8_seconds.png)" in text
    drawn = [(tmp_path / f"s_games_8{end}.png").read_bytes() for end in ("", "_seconds")]
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize(
    ("settings", "levels"),
    [
        ({}, (-230.9, -115.6)),
        ({"task.continuous-actions": False}, (-230.9, -115.6)),
        ({"task.continuous_actions": True}, None),
        ({"task.unknown": 1}, None),
        ({"n_agents": 2}, None),
        ({"n-agents": 6}, None),
        ({"training.horizon": 50}, None),
    ],
)
def test_a_ceiling_is_of_the_task_with_the_runs_own_settings(settings, levels):
    assert score_levels(make_row(task="mpe/spread", settings=settings)) == levels


def test_a_function_of_a_run_may_name_the_metric_of_teams_that_were_not_trained():
    shown = [
        Column("n", value, 1, untrained=name).reference({SHARE: 0.25})
        for value, name in (
            (best(SHARE), None),
            (best(SHARE), SHARE),
            (SHARE, None),
            ("other", SHARE),
        )
    ]
    assert shown == ["", "0.2", "0.2", "0.2"]


def test_tasks_of_one_name_in_two_suites_have_a_picture_each(tmp_path):
    rows = [run_of("a", 0, 1.0, 2.0, task=task) for task in ("vmas/spread", "mpe/spread", "tag")]
    study = Study(
        name="s", page="p.md", tasks={}, variants={"a": Variant(algorithm="alita")},
        columns={"": (Column("share", SHARE, 1),)}, panels={"": {SHARE: "share"}},
    )  # fmt: skip
    text = study_text(study, rows, tmp_path, link=".")
    drawn = sorted(path.name for path in tmp_path.iterdir())
    assert drawn == ["s_mpe_spread_10.png", "s_tag_10.png", "s_vmas_spread_10.png"]
    assert all(f"(./{name})" in text for name in drawn)
