"""Statistics against values by hand, and against SciPy's own where it has them."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from result_rows import make_row
from scipy import stats

from torchrl_alita.experiments import (
    Estimate,
    bootstrap_interval,
    estimate,
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
    read_marl_eval,
    write_marl_eval,
)


def test_the_interquartile_mean_leaves_out_a_quarter_of_all_runs_at_each_end():
    assert interquartile_mean([-100.0, 1.0, 2.0, 100.0]) == 1.5
    # Eight runs of two tasks: 0, 0, [1, 2, 3, 4], 9, 50.
    assert interquartile_mean({"a": [0.0, 9.0, 1.0, 2.0], "b": [50.0, 3.0, 4.0, 0.0]}) == 2.5
    assert interquartile_mean([3.0, 5.0]) == 4.0


def test_the_interval_is_that_of_all_possible_drawings():
    """Of three runs all 27 drawings can be listed; the statistic is their mean."""
    drawings = [np.mean(drawn) for drawn in itertools.product([0.0, 1.0, 5.0], repeat=3)]
    exact = np.percentile(drawings, [10, 90])
    found = bootstrap_interval(
        [0.0, 1.0, 5.0], lambda x, axis=-1: x.mean(axis), confidence=0.8, resamples=20_000
    )
    assert found == pytest.approx(tuple(exact), abs=1e-9)


def test_tasks_are_resampled_by_themselves():
    """Where every task's runs agree, drawing within tasks changes nothing."""
    scores = {"a": [0.0] * 5, "b": [10.0] * 5}
    assert bootstrap_interval(scores) == (5.0, 5.0)
    low, high = bootstrap_interval([0.0] * 5 + [10.0] * 5)
    assert low < 5.0 < high


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        low, high = bootstrap_interval(generator.normal(size=20), resamples=200)
        inside += low < 0 < high
    assert 0.86 <= inside / 200 <= 0.98


def test_fewer_than_five_runs_are_shown_as_points():
    few = estimate([3.0, 1.0, 2.0, 4.0])
    assert few == Estimate((3.0, 1.0, 2.0, 4.0))
    assert few.text(1) == "3.0, 1.0, 2.0, 4.0"
    assert estimate({"a": [1.0] * 9, "b": [1.0] * 4}).center is None
    enough = estimate([3.0, 1.0, 2.0, 4.0, 2.0])
    assert enough.center == pytest.approx(7 / 3)
    assert enough.low < enough.center < enough.high
    assert enough == estimate([3.0, 1.0, 2.0, 4.0, 2.0])


def test_a_profile_is_the_share_of_runs_above_each_threshold():
    shares, low, high = performance_profile(
        {"a": [0.1, 0.4, 0.6, 0.9], "b": [0.5, 0.5, 1.0, 1.0]}, [0.0, 0.5, 0.95]
    )
    assert shares == [1.0, 0.5, 0.25]
    assert low is None
    assert high is None
    shares, low, high = performance_profile([0.0, 1.0, 1.0, 1.0, 1.0], [0.5])
    assert shares == [0.8]
    # Binomial with 5 draws of 0.8: 2.5 % lie at 2 of 5, and five of five is common.
    assert low == [pytest.approx(0.4)]
    assert high == [1.0]


def test_the_probability_of_improvement_is_the_share_of_better_pairs():
    # Of six pairs (1, 2, 5) against (0, 2): better, worse; better, tied; better, better.
    assert probability_of_improvement([1.0, 2.0, 5.0], [0.0, 2.0]) == (4.5 / 6, None)
    first, second = np.random.default_rng(1).normal(size=(2, 7)).tolist()
    expected = stats.mannwhitneyu(first, second).statistic / 49
    probability, (low, high) = probability_of_improvement(first, second)
    assert probability == pytest.approx(expected)
    assert low <= probability <= high
    by_task, _ = probability_of_improvement({"a": [1.0], "b": first}, {"b": second, "a": [0.0]})
    assert by_task == pytest.approx((1 + expected) / 2)


def test_runs_that_are_all_alike_improve_with_half():
    assert probability_of_improvement([1.0] * 5, [1.0] * 5) == (0.5, (0.5, 0.5))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: interquartile_mean([]), "at least 1 runs, got 0"),
        (lambda: interquartile_mean({}), "at least one task"),
        (lambda: estimate([1.0, float("nan")]), "must be finite"),
        (lambda: bootstrap_interval({"a": [1.0]}), "a must have at least 2 runs, got 1"),
        (lambda: probability_of_improvement({"a": [1.0]}, {"b": [1.0]}), "must be the same"),
        (lambda: probability_of_improvement({"a": [1.0]}, [1.0]), "one task"),
    ],
)
def test_scores_that_say_nothing_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_rows_go_to_marl_evals_json_and_come_back(tmp_path):
    rows = [make_row(seed=seed) for seed in (0, 1)]
    path = tmp_path / "results.json"
    write_marl_eval(path, rows)
    runs = json.loads(path.read_text())["vmas"]["spread"]["ALITA, marginal"]
    assert runs["seed_0"]["step_1"] == {"step_count": 200, "elapsed_time": 7.5, "return": [-2.0]}
    assert runs["seed_1"]["absolute_metrics"] == {"return": [-2.0]}
    back = read_marl_eval(path, study="spread")
    assert [row.seed for row in back] == [0, 1]
    for name in ("study", "variant", "task", "frames", "wall_seconds", "curve"):
        assert getattr(back[0], name) == getattr(rows[0], name), name
    assert back[0].final == {"evaluation/return_mean": -2.0}
    with pytest.raises(ValueError, match="two rows of vmas/spread, ALITA, marginal, seed 0"):
        write_marl_eval(path, [rows[0], rows[0]])


def test_what_benchmarl_writes_is_read(tmp_path):
    """Its JSON: no times, several episodes a step, the best of all as absolute metrics."""
    run = {
        "absolute_metrics": {"return": [9.0], "agents_return": [9.0]},
        "step_0": {"step_count": 6_000, "return": [1.0, 9.0], "agents_return": [1.0, 9.0]},
        "step_1": {"step_count": 12_000, "return": [2.0, 4.0], "agents_return": [2.0, 4.0]},
    }
    path = tmp_path / "mappo.json"
    path.write_text(json.dumps({"vmas": {"navigation": {"mappo": {"seed_7": run}}}}))
    (row,) = read_marl_eval(path, study="peers")
    assert (row.task, row.algorithm, row.seed, row.frames) == (
        "vmas/navigation",
        "mappo",
        7,
        12_000,
    )
    assert row.column("evaluation/return_mean") == ([6_000, 12_000], [5.0, 3.0])
    assert row.final["evaluation/agents_return"] == 3.0
    path.write_text("[1]")
    with pytest.raises(ValueError, match=r"mappo.json is no file of marl-eval"):
        read_marl_eval(path, study="peers")


def test_an_interval_does_not_depend_on_the_order_of_the_runs():
    values = [0.98, 1.0, 0.97, 1.0, 0.99]
    intervals = {bootstrap_interval(order) for order in itertools.permutations(values)}
    assert len(intervals) == 1


def test_a_file_of_marl_eval_keeps_a_task_without_a_suite_and_rows_without_a_curve_are_none(
    tmp_path,
):
    path = tmp_path / "rows.json"
    script = make_row(variant="a script", frames=0, curve=[])
    write_marl_eval(path, [make_row(task="push_box"), script])
    assert [row.task for row in read_marl_eval(path, study="s")] == ["push_box"]
    with pytest.raises(ValueError, match="no rows with a curve"):
        write_marl_eval(path, [script])


@pytest.mark.parametrize("run", [{}, {"absolute_metrics": {"return": [1.0]}}])
def test_a_run_of_marl_eval_without_steps_is_named(tmp_path, run):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"vmas": {"balance": {"mappo": {"seed_0": run}}}}))
    with pytest.raises(ValueError, match="run 'seed_0' of 'mappo' on 'vmas/balance' has no step"):
        read_marl_eval(path, study="s")
