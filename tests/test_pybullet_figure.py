"""Figure 5: the statistics by hand, and contenders that are given the same settings."""

from __future__ import annotations

import csv
import importlib.util
import json
import shlex
from statistics import stdev

import pytest
import torch
from scripts import ROOT, load, runs
from tensordict import TensorDict

from torchrl_alita.training import loop, parse_config

figure = load("benchmarks", "pybullet_figure")
worker = load("benchmarks", "sb3_worker")
recipe = load("recipes", "alita_pybullet")

needs_baselines = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("sb3_contrib", "pybullet")),
    reason="sb3-contrib or PyBullet is not installed: the extras baselines and pybullet",
)
HOPPER = "HopperBulletEnv-v0"


def run(seed: int, *values: float, every: int = 10) -> dict:
    curve = [[every * number, value] for number, value in enumerate(values)]
    return {
        "seed": seed,
        "curves": {"return_mean": curve},
        "frames_per_second": 100.0,
        "machine": {
            "torch": "2", "torchrl": "0", "python": "3", "cores": 2, "processor": "x",
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.7062), (2, 4.3027), (9, 2.2622), (200, 1.9719)]
)
def test_quantiles_of_students_t_are_those_of_the_tables(degrees, quantile):
    values = [float(number) for number in range(degrees + 1)]
    low, high = figure.interval(values)
    error = stdev(values) / len(values) ** 0.5
    assert (high - low) / 2 / error == pytest.approx(quantile, abs=1e-4)


def test_an_interval_and_a_quarter_of_a_deviation_by_hand():
    """Of 1, 2 and 6: mean 3, sample deviation sqrt(7)."""
    half = 4.302653 * 7**0.5 / 3**0.5
    assert figure.interval([1.0, 2.0, 6.0]) == pytest.approx((3 - half, 3 + half), abs=1e-5)
    assert figure.quarter([1.0, 2.0, 6.0]) == pytest.approx((3 - 7**0.5 / 4, 3 + 7**0.5 / 4))
    assert figure.interval([2.0, 2.0]) == (2.0, 2.0)
    assert figure.interval([3.0]) is None
    assert figure.quarter([3.0]) is None


def test_what_a_run_reached_is_the_mean_of_its_last_tenth():
    """Of frames 0 to 200 those from 180 on."""
    values = [float(number) for number in range(21)]
    assert figure.reached(run(0, *values)) == pytest.approx((18 + 19 + 20) / 3)


def test_curves_are_compared_where_all_were_evaluated():
    found = [run(0, 1.0, 2.0, 3.0, 4.0, 5.0), run(1, 10.0, 30.0, 50.0, every=20)]
    assert figure.aligned(found) == {0: [1.0, 10.0], 20: [3.0, 30.0], 40: [5.0, 50.0]}


@pytest.mark.parametrize(("ours", "good"), [(1.0, True), (9.0, True), (-4.0, False)])
def test_ours_is_good_within_their_interval_or_above_it(ours, good):
    """Theirs is 3 with an interval from -3.6 to 9.6."""
    outcome = figure.check([ours] * 2, [1.0, 2.0, 6.0])
    assert outcome["within_or_better"] is good
    assert (outcome["ours"], outcome["theirs"]) == (ours, 3.0)
    assert figure.check([ours], [3.0])["within_or_better"] is None


def test_the_command_names_what_is_not_everything():
    """A shell must read it: some names have blanks."""
    hopper = {"ALITA, no F": [], "TD3": []}
    words = shlex.split(figure.command({"HopperBulletEnv-v0": hopper}, 300))
    assert words[2:] == [
        *("--total-frames", "300", "--tasks", "HopperBulletEnv-v0"),
        *("--contenders", "ALITA, no F", "TD3"),
    ]
    every = {task: {name: [] for name in figure.CONTENDERS} for task in figure.TASKS}
    assert shlex.split(figure.command(every, 300))[2:] == ["--total-frames", "300"]


def test_an_unknown_contender_is_told_the_known_ones():
    with pytest.raises(ValueError, match=r"\['TD4'\]. Known: \['ALITA', .*'TRPO, sb3-contrib'\]"):
        figure.Config(contenders=("TD3", "TD4"))


@pytest.mark.parametrize("contender", figure.CONTENDERS)
def test_every_contender_is_a_run_that_its_script_understands(contender, tmp_path):
    config = figure.Config(seeds=(4,), total_frames=20_000)
    job = figure.job(contender, HOPPER, 4, config)
    assert (ROOT / job.folder / job.recipe).exists()
    assert job.result.name == f"Hopper-{runs.slug(contender)}-20000-seed4.json"
    arguments = [*job.options, "--run-dir", str(tmp_path / "run")]
    if job.folder == "recipes":
        options = parse_config(recipe.Config, arguments, presets=recipe.PRESETS)
    else:
        options = worker.tyro.cli(worker.Config, args=arguments)
    assert (options.env, options.seed, options.total_frames) == (HOPPER, 4, 20_000)
    assert (options.evaluation_interval, options.evaluation_episodes) == (5_000, 15)
    assert options.horizon == 1_000
    # The first word of its name is the algorithm.
    assert options.algorithm == contender.partition(",")[0].lower()
    if contender == "ALITA, no F":
        assert options.influence_coeff == 0
    if contender == "ALITA, no IM":
        assert (options.novelty_coeff, options.diversity_coeff) == (0, 0)


def test_the_outside_checks_have_the_settings_of_our_recipe():
    for algorithm in ("td3", "sac"):
        arguments = ["--algorithm", algorithm]
        ours = parse_config(recipe.Config, arguments, presets=recipe.PRESETS)
        theirs = worker.OPTIONS[algorithm]
        rates = {ours.lr} if algorithm == "sac" else {ours.actor_lr, ours.critic_lr}
        assert rates == {theirs["learning_rate"]}
        assert tuple(theirs["policy_kwargs"]["net_arch"]) == ours.num_cells
        same = ("batch_size", "tau", "gamma")
        assert [getattr(ours, name) for name in same] == [theirs[name] for name in same]
        assert ours.random_frames == theirs["learning_starts"]
        assert ours.frames_per_update * theirs["gradient_steps"] == theirs["train_freq"]
        assert not ours.layer_norm
        assert ours.max_grad_norm == float("inf")
    theirs, ours = worker.OPTIONS["td3"], recipe.Config()
    assert (ours.noise_start, ours.noise_end) == (worker.ACTION_NOISE, worker.ACTION_NOISE)
    assert ours.policy_delay == theirs["policy_delay"]
    assert ours.policy_noise == theirs["target_policy_noise"]
    assert ours.noise_clip == theirs["target_noise_clip"]
    assert worker.Config.evaluation_episodes == ours.evaluation_episodes
    assert worker.EVALUATION_SEED == loop._EVALUATION_SEED


@pytest.fixture
def page(tmp_path, monkeypatch):
    """The page between whose markers a report writes, with the results beside it."""
    monkeypatch.setattr(figure, "RESULTS", tmp_path)
    monkeypatch.setattr(figure, "ROOT", tmp_path)
    (tmp_path / "pybullet").mkdir()
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "pybullet.md"
    page.write_text("before\n<!-- pybullet: begin -->\n<!-- pybullet: end -->\nafter\n")
    return page


def test_the_report_is_of_the_results_that_are_there(tmp_path, page):
    config = figure.Config(tasks=(HOPPER,), seeds=(0, 1), total_frames=40, report_only=True)
    with pytest.raises(FileNotFoundError, match="No result of 40 frames"):
        figure.report(config)
    for seed in config.seeds:
        for name, level in (("TD3", 7.0), ("TD3, stable-baselines3", 5.0)):
            job = figure.job(name, HOPPER, seed, config)
            content = run(seed, 0.0, 1.0, 2.0, 3.0, level + seed)
            job.result.write_text(json.dumps(content))
    figure.report(config)
    task = json.loads((tmp_path / "pybullet_40.json").read_text())["tasks"][HOPPER]
    ours = task["curves"]["TD3"]
    assert (ours["seeds"], ours["reached"], ours["mean"]) == ([0, 1], [7.0, 8.0], 7.5)
    assert ours["returns"][-1] == [40, 7.0, 8.0]
    assert task["checks"]["TD3"]["within_or_better"] is True
    assert (tmp_path / "pybullet_40.png").stat().st_size > 10_000
    lines = page.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    assert "### 40 frames" in lines
    assert "| Hopper: TD3 | 2 | 8 | [1, 14] |" in lines
    said = "- Hopper, TD3 against TD3, stable-baselines3: 8 against 6, which is within"
    assert any(line.startswith(said) for line in lines)


def test_the_report_keeps_what_was_trained_before_and_elsewhere(tmp_path, page):
    """A series of one robot after a series of another, and two budgets on one page."""
    for frames, tasks in ((40, (HOPPER, "AntBulletEnv-v0")), (80, (HOPPER,))):
        for task in tasks:
            config = figure.Config(tasks=(task,), seeds=(0,), total_frames=frames)
            job = figure.job("TD3", task, 0, config)
            job.result.write_text(json.dumps(run(0, 1.0, 2.0, every=frames)))
            figure.report(config)
    tasks = json.loads((tmp_path / "pybullet_40.json").read_text())["tasks"]
    assert set(tasks) == {HOPPER, "AntBulletEnv-v0"}
    titles = [line for line in page.read_text().splitlines() if line.startswith("###")]
    assert titles == ["### 80 frames", "### 40 frames"]


@needs_baselines
def test_the_policy_of_an_outside_model_acts_in_our_layout_without_noise():
    class Doubles:
        def predict(self, observation, deterministic):
            assert deterministic
            return 2 * observation[:, :3], None

    observation = torch.randn(5, 1, 15)
    step = TensorDict({"agents": {"observation": observation}}, [5])
    action = worker.greedy(Doubles())(step)["agents", "action"]
    torch.testing.assert_close(action, 2 * observation[..., :3])


@needs_baselines
@pytest.mark.parametrize("algorithm", ["td3", "sac", "trpo"])
def test_an_outside_run_leaves_what_ours_leave(algorithm, tmp_path, monkeypatch):
    """Short: updates begin after 30 steps, TRPO's rounds are of 40."""
    round_of_40 = {"n_steps": 40, "batch_size": 40}
    changes = round_of_40 if algorithm == "trpo" else {"learning_starts": 30, "batch_size": 8}
    monkeypatch.setitem(worker.OPTIONS, algorithm, worker.OPTIONS[algorithm] | changes)
    config = worker.Config(
        run_dir=tmp_path / "run",
        env="InvertedPendulumBulletEnv-v0",
        algorithm=algorithm,
        total_frames=80,
        horizon=20,
        evaluation_interval=40,
        evaluation_episodes=2,
    )
    summary = worker.train(config)
    assert json.loads((config.run_dir / "summary.json").read_text()) == summary
    with (config.run_dir / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["frames"]) for row in rows] == [0, 40, 80]
    last = {name: float(value) for name, value in rows[-1].items()}
    assert summary["evaluation"]["return_mean"] == last["evaluation/return_mean"]
    # One for each step after the 30th, or for a round; the last step's is not made.
    assert summary["updates"] == (1 if algorithm == "trpo" else 49)
    # A step of the pendulum pays 1: the length is the return, 20 at most.
    assert last["evaluation/return_mean"] == last["evaluation/episode_length"] <= 20
    assert summary["library"].split()[0] in ("stable-baselines3", "sb3-contrib")
