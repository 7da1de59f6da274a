"""What peer_quality.py measures, keeps and writes, with hand-made runs; no peer is run."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scripts import load
from torchrl.envs import VmasEnv

from torchrl_alita.envs import make_env
from torchrl_alita.experiments import RETURN, Row, append_row
from torchrl_alita.training import evaluate

throughput = load("benchmarks", "throughput")
quality = load("benchmarks", "peer_quality")
worker = load("benchmarks", "peer_quality_worker")

FLOOR, CEILING = quality.TASK.floor, quality.TASK.ceiling


@pytest.fixture
def clock(monkeypatch):
    """Processor and wall times that a test sets forward."""
    now = SimpleNamespace(processor=100.0, wall=1000.0)
    times = SimpleNamespace(process_time=lambda: now.processor, perf_counter=lambda: now.wall)
    monkeypatch.setattr(worker, "time", times)
    return now


def budget_of(clock, reports: list, **options):
    def evaluate(frames: int) -> str:
        # An evaluation takes time, which is no training.
        clock.processor += 50.0
        clock.wall += 500.0
        return f"{frames}.pt"

    options = {"interval": 8.0, "limit": 20.0, "frames": 1_000} | options
    return worker.Budget(report=reports.append, evaluate=evaluate, **options)


def test_evaluations_come_after_so_much_training_and_do_not_count(clock):
    reports = []
    budget = budget_of(clock, reports)
    budget.start()
    for frames in (100, 200, 300):
        clock.processor += 5.0
        clock.wall += 7.0
        budget.spent(frames, finite=True)
    clock.processor += 5.0
    with pytest.raises(worker.Finished):
        budget.spent(400, finite=True)
    assert [report["frames"] for report in reports] == [0, 200, 400]
    assert [report["processor_seconds"] for report in reports] == [0.0, 10.0, 20.0]
    assert [report["wall_seconds"] for report in reports] == [0.0, 14.0, 21.0]
    assert reports[-1]["episodes"] == "400.pt"


def test_a_run_ends_at_its_frames_too(clock):
    reports = []
    budget = budget_of(clock, reports)
    budget.start()
    with pytest.raises(worker.Finished):
        budget.spent(1_000, finite=True)
    assert [report["frames"] for report in reports] == [0, 1_000]


def test_a_run_whose_weights_are_nan_ends_without_an_evaluation(clock):
    reports = []
    budget = budget_of(clock, reports)
    budget.start()
    with pytest.raises(worker.Finished):
        budget.spent(300, finite=False)
    assert reports[-1]["episodes"] is None
    assert reports[-1]["frames"] == 300


def test_an_evaluation_leaves_the_training_environment_as_it_was():
    """VMAS keeps one random stream for all environments of the process."""

    def numbers(evaluated: bool) -> torch.Tensor:
        env = VmasEnv("simple_spread", num_envs=3, n_agents=3, device="cpu", seed=0)
        env.set_seed(0)
        torch.manual_seed(7)
        if evaluated:
            worker.episodes_of(None, work)
        return torch.cat([env.reset()["agents", "observation"].flatten(), torch.rand(2)])

    work = {"episodes": 2, "n_agents": 3, "horizon": 2, "evaluation_seed": 5}
    assert torch.equal(numbers(True), numbers(False))


def test_the_peers_random_team_is_the_packages_own():
    """Same states, same actions, same figures, from the worker's environment and from ours."""
    work = {"episodes": 4, "n_agents": 3, "horizon": 6, "evaluation_seed": 11}
    found = quality.figures_of(worker.episodes_of(None, work))
    env = make_env("vmas/spread", num_envs=4, n_agents=3, horizon=6, seed=3)
    expected, _ = evaluate(None, env, quality.TASK.metrics, horizon=6, seed=11)
    del expected["return_std"]
    assert found == pytest.approx({f"evaluation/{k}": v for k, v in expected.items()}, rel=1e-5)


def row_of(
    variant: str = "BenchMARL MADDPG, tuned",
    seed: int = 0,
    returns: tuple[float | None, ...] = (FLOOR, CEILING),
    seconds: tuple[float, ...] = (0.0, 100.0),
    algorithm: str = "benchmarl/maddpg",
) -> Row:
    curve = [
        {
            "frames": 1_000 * number,
            "wall_seconds": 2 * spent,
            "metrics": {
                **({} if value is None else {RETURN: value}),
                quality.SECONDS: spent,
                quality.FINITE: float(value is not None),
            },
        }
        for number, (value, spent) in enumerate(zip(returns, seconds, strict=True))
    ]
    return Row(
        study="peer_quality", variant=variant, task="vmas/spread", algorithm=algorithm, seed=seed,
        frames=curve[-1]["frames"], settings={}, command="python", commit=None,
        versions={"benchmarl": "1.5.2", "torch": "2", "torchrl": "0.11", "python": "3"},
        machine={"cores": 2, "processor": "P"}, wall_seconds=1.0, process_seconds=seconds[-1],
        curve=curve, final=curve[-1]["metrics"], references={"random": {RETURN: FLOOR}},
    )  # fmt: skip


def trial_rows(**returns: float | None) -> list[Row]:
    """One for each trial, bad unless its setting is named."""
    return [
        row_of(trial.variant, 100, (FLOOR, returns.get(trial.algorithm, {}).get(title, -900.0)))
        for trial in quality.trials()
        for title in [trial.variant.rpartition(", ")[2]]
    ]


def test_the_best_trial_is_chosen_and_a_lost_one_is_not():
    rows = trial_rows(mappo={"TanhNormal": None}, ippo={"TanhNormal": -300.0, "Normal": -400.0})
    assert quality.chosen("mappo", rows)[0] == "Normal"
    title, settings = quality.chosen("ippo", rows)
    assert title == "TanhNormal"
    assert "use_tanh_normal" not in settings.options
    with pytest.raises(ValueError, match=r"trials are missing: \['BenchMARL IPPO, Normal'\]"):
        quality.chosen("ippo", [row for row in rows if row.variant != "BenchMARL IPPO, Normal"])


def test_each_algorithm_has_as_many_trials_as_the_others_and_the_same_runs():
    assert {len(own) for own in quality.ALGORITHMS.values()} == {4}
    made = quality.runs(trial_rows(), (0, 1))
    assert len(made) == 2 * 2 * 4
    assert {run.seed for run in made[:8]} == {0}
    assert all(run.settings == quality.Settings() for run in made if "defaults" in run.variant)
    assert {run.seed for run in quality.trials()}.isdisjoint(quality.Config().seeds)


def test_a_series_goes_on_with_what_has_no_row(tmp_path, monkeypatch):
    made = []

    def make(run, python):
        made.append((run.variant, run.seed))
        return row_of(run.variant, run.seed)

    monkeypatch.setattr(quality, "make", make)
    monkeypatch.setattr(quality, "RESULT", tmp_path / "rows.jsonl")
    wanted = quality.runs(trial_rows(), (0,))
    append_row(quality.RESULT, row_of(wanted[0].variant, 0))
    quality.complete(wanted, None)
    assert made == [(run.variant, 0) for run in wanted[1:]]
    quality.complete(wanted, None)
    assert len(made) == 7


def episodes(reward: float, path) -> str:
    """A stored evaluation: two episodes of five steps, every step paid alike."""
    torch.save(
        {
            "observation": torch.zeros(2, 5, 3, 14),
            "reward": torch.full((2, 5, 3, 1), reward),
            "done": torch.zeros(2, 5, 1, dtype=torch.bool),
        },
        path,
    )
    return str(path)


def reports_of(tmp_path, random: float = FLOOR / 5) -> list[dict]:
    evaluated = {"wall_seconds": 1.0, "processor_seconds": 0.5}
    return [
        {"benchmarl": "1.5.2"},
        {"random": episodes(random, tmp_path / "random.pt")},
        {**evaluated, "frames": 0, "episodes": episodes(-10.0, tmp_path / "0.pt")},
        {**evaluated, "frames": 40, "processor_seconds": 9.0, "episodes": None},
    ]


def test_a_lost_run_keeps_its_curve_and_has_no_figures_at_its_end(tmp_path):
    run = quality.trials()[0]
    row = quality.row_of(run, reports_of(tmp_path))
    assert row.curve[0]["metrics"][RETURN] == pytest.approx(-50.0)
    assert row.frames == 40
    assert row.process_seconds == 9.0
    assert RETURN not in row.final
    assert quality.lost(row)
    assert row.settings["experiment.off_policy_train_batch_size"] == 128


def test_a_peer_with_other_states_is_refused(tmp_path):
    with pytest.raises(RuntimeError, match=r"must have a return of -586.3, got -50"):
        quality.row_of(quality.trials()[0], reports_of(tmp_path, random=-10.0))


def test_returns_that_are_not_finite_are_no_figures(tmp_path):
    stored = torch.load(episodes(1.0, tmp_path / "0.pt"))
    stored["reward"][0, 0] = np.nan
    assert quality.figures_of(stored)[RETURN] is None


def test_a_score_after_some_seconds_is_that_of_the_last_evaluation_by_then():
    row = row_of(returns=(FLOOR, -300.0, CEILING), seconds=(0.0, 40.0, 80.0))
    values = [quality.score_after(seconds).of(row) for seconds in (30.0, 60.0, 120.0)]
    assert values == pytest.approx([0.0, quality.score(-300.0), 1.0])
    gone = row_of(returns=(FLOOR, -300.0, None), seconds=(0.0, 40.0, 80.0))
    assert quality.score_after(60.0).of(gone) == pytest.approx(quality.score(-300.0))
    assert quality.score_after(120.0).of(gone) is None


def test_the_seconds_of_our_own_runs_are_shared_out_over_their_frames():
    row = row_of(returns=(FLOOR, -300.0, CEILING), seconds=(0.0, 1.0, 80.0))
    points = [{**point, "metrics": {RETURN: point["metrics"][RETURN]}} for point in row.curve]
    ours = dataclasses.replace(row, curve=points)
    assert [seconds for _, seconds, _ in quality.curve(ours)] == [0.0, 40.0, 80.0]


def test_the_page_has_a_line_for_each_team_and_says_what_was_lost(tmp_path):
    rows = [row_of(seed=seed, returns=(FLOOR, value)) for seed, value in enumerate((-300.0, None))]
    ours = [dataclasses.replace(row_of("MAPPO", algorithm="mappo"), study="navigation")]
    text = quality.text(rows, ours, trial_rows(mappo={"Normal": -200.0}))
    (line,) = [line for line in text.splitlines() if line.startswith("| BenchMARL MADDPG, tuned")]
    assert "| 2 |" in line
    assert "1 (1k)" in line
    assert "(1 of 2 runs)" in line
    assert "MAPPO: Normal" in text
    assert "BenchMARL 1.5.2" in text
    quality.draw(tmp_path / "picture.png", [*ours, *rows])
    assert (tmp_path / "picture.png").stat().st_size > 1_000


def test_before_the_first_run_the_page_has_the_trials_and_chooses_where_both_are_there():
    ours = [
        dataclasses.replace(row_of("ours: MAPPO", 3, (FLOOR, -300.0, CEILING), (0, 20, 80)),
                            study="navigation")
    ]  # fmt: skip
    rows = trial_rows(maddpg={"shared networks": -200.0})[:5]
    text = quality.text([], ours, rows)
    lines = [line for line in text.splitlines() if line.startswith("| BenchMARL")]
    assert len(lines) == 5
    assert f"| ours: MAPPO | 3 |  | {quality.score(-300.0):.2f} |" in text
    assert "Chosen: MADDPG: shared networks. " in text
    assert quality.text([], ours, []) == ""


def test_rows_stand_tuned_first_and_in_the_order_of_the_algorithms():
    rows = [
        row_of(f"BenchMARL {name.upper()}, {title}", algorithm=f"benchmarl/{name}")
        for title in ("defaults", "tuned")
        for name in ("ippo", "maddpg")
    ]
    names = [row.variant for row in sorted(rows, key=quality._place)]
    assert names == [
        "BenchMARL MADDPG, tuned", "BenchMARL IPPO, tuned",
        "BenchMARL MADDPG, defaults", "BenchMARL IPPO, defaults",
    ]  # fmt: skip
