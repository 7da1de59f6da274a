"""The recipes and the command line run as a user starts them, on tiny runs."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from importlib.util import find_spec

import pytest
import torch
from scripts import ROOT, load

from torchrl_alita.__main__ import main
from torchrl_alita.algorithms import ALGORITHMS, QMIX
from torchrl_alita.envs import get_task, make_env
from torchrl_alita.saving import load_policy
from torchrl_alita.training import TrainingSettings, evaluate, make_config, parse_arguments

TRAINING = [
    *("--total-frames", "300", "--num-envs", "5", "--horizon", "10", "--frames-per-batch", "50"),
    *("--evaluation-interval", "150", "--evaluation-episodes", "5", "--no-progress"),
]
TINY = [
    *TRAINING,
    *("--algorithm.frames-per-update", "25", "--algorithm.random-frames", "50"),
    *("--algorithm.batch-size", "32"),
]


@pytest.fixture(scope="module")
def spread():
    return load("recipes", "spread")


@pytest.fixture(scope="module")
def add_to_torchrl():
    return load("recipes", "add_to_torchrl")


def test_the_command_leaves_a_run_and_prints_a_table_and_nothing_else(tmp_path):
    run = tmp_path / "a run"
    command = [sys.executable, "-m", "torchrl_alita", "train", "alita", "--task", "vmas/spread"]
    result = subprocess.run(
        [*command, *TINY, "--run-dir", str(run)], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "landmark_distance" in result.stdout
    assert "torchrl" not in result.stderr
    summary = json.loads((run / "summary.json").read_text())
    required = {
        "algorithm", "task", "seed", "frames", "updates", "wall_seconds", "frames_per_second",
        "evaluation",
    }  # fmt: skip
    assert required <= set(summary)
    assert summary["frames"] == 300
    for name in ("config.json", "metrics.csv", "curve.png", "rollout.gif", "checkpoints"):
        assert (run / name).exists(), name


@pytest.mark.parametrize(
    "options",
    [
        ["maddpg", "--algorithm.num-critics", "2", "--algorithm.policy-delay", "2"],
        ["ddpg"],
        ["--algorithm.estimator", "clones", "--algorithm.influencers", "random"],
        ["--algorithm.estimator=centralized", "--algorithm.influencers", "0", "2"],
        ["--algorithm.influencers", "all", "--algorithm.normalize=true"],
        ["--algorithm.influence-coeff", "0"],
        ["--algorithm.novelty_coeff", "0", "--algorithm.diversity_coeff", "0"],
    ],
    ids=" ".join,
)
def test_every_algorithm_and_ablation_trains(tmp_path, spread, options):
    summary = spread.main([*options, *TINY, "--run-dir", str(tmp_path / "run")])
    assert summary["updates"] == 10
    assert all(torch.isfinite(torch.tensor(v)) for v in summary["evaluation"].values())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Name an algorithm"),
        (["madpg"], "'maddpg'"),
        (["alita", "--task", "vmas/spred"], "'vmas/spread'"),
        (["alita", "--device", "cuda:99"], "cuda:99"),
        (["alita", "--resume", "no/such/run"], "no/such/run"),
        (["alita", "--seed", "-1"], "-1"),
        (["alita", "--seed", "one"], "'one'"),
        (["alita", "--algorithm.gamma", "1.5"], "1.5"),
        (["alita", "--algorithm.gama", "0.5"], "--algorithm.gama"),
        (["alita", "--algorithm.optimum", "best"], "'best'"),
        (["alita", "--preset", "no"], "'no'"),
        (["alita", "--total-frames", "5000"], "5000"),
        (["alita", "--num-envs", "7"], "7"),
        (["alita", "--threads", "0"], "0"),
        (["alita", "--algorithm.random-frames=-5"], "-5"),
        (["td3", "--task", "vmas/spread"], "one agent"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_said_in_one_line(arguments, said, capsys):
    assert main(["train", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error


def test_options_are_read_in_the_forms_that_sweeps_write():
    config = parse_arguments(
        [
            *("alita", "--algorithm.share_params=true", "--algorithm.num_cells=[64, 32]"),
            *("--progress=False", "--algorithm.omega", "0.1", "0.2"),
            *("--task.obs-agents=true", "--loggers", "csv", "tensorboard", "--wandb.project=p"),
        ]
    )
    assert config.algorithm.share_params is True
    assert config.algorithm.num_cells == (64, 32)
    assert config.algorithm.omega == (0.1, 0.2)
    assert config.training.progress is False
    assert config.training.loggers == ("csv", "tensorboard")
    assert config.training.wandb.project == "p"
    assert config.task_settings.obs_agents is True
    options = {"algorithm.influence-coeff": "0.3", "total_frames": 9_000, "num_envs": "10"}
    config = make_config("alita", "vmas/spread", options)
    assert (config.algorithm.influence_coeff, config.training.num_envs) == (0.3, 10)


def test_a_preset_gives_what_is_not_said():
    asked = ["twin_alita", "--preset", "published", "--algorithm.novelty-coeff", "0.4"]
    settings = parse_arguments([*asked, "--task", "pybullet/HopperBulletEnv-v0"]).algorithm
    assert (settings.form, settings.optimum) == ("published", "td_target")
    assert (settings.novelty_coeff, settings.diversity_coeff) == (0.4, 0.05)


def test_help_lists_tasks_algorithms_and_every_option_with_its_default(capsys):
    assert main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in (*ALGORITHMS, "push_box", "vmas/"))
    assert main(["train", "alita", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for prefix, kind in (("", TrainingSettings), ("algorithm.", ALGORITHMS["alita"].Settings)):
        for field in fields(kind):
            if field.name != "wandb":
                assert f"--{prefix}{field.name.replace('_', '-')}" in text, field.name
    assert "Weight of the influence (the paper's lambda: 0.1); 0 is No F. (default: 0.1)" in text


ROBOT = [
    *("--num-envs", "1"),
    *("--total-frames", "100", "--frames-per-batch", "50", "--horizon", "5", "--no-progress"),
    *("--algorithm.num-cells", "13", "--evaluation-interval", "100"),
    *("--evaluation-episodes", "2", "--selection-episodes", "1"),
]
STORED = [
    *("--algorithm.frames-per-update", "25", "--algorithm.random-frames", "50"),
    *("--algorithm.batch-size", "32"),
]


@pytest.mark.parametrize(
    "options",
    [
        [*STORED, "--task", "pybullet/HopperBulletEnv-v0"],
        [*STORED, "--preset", "published", "--task", "pybullet/InvertedPendulumBulletEnv-v0"],
        *([name, *STORED] for name in ("td3", "ddpg", "sac", "tac")),
        ["ppo"],
    ],
    ids=" ".join,
)
def test_every_algorithm_trains_a_robot_and_leaves_a_picture_of_it(tmp_path, options):
    pytest.importorskip("pybullet_envs_gymnasium")
    run = tmp_path / "run"
    summary = load("recipes", "robots").main([*options, *ROBOT, "--run-dir", str(run)])
    assert summary["frames"] == 100
    assert summary["updates"] == 2
    assert ("selection" in summary) == options[0].startswith("--")
    for name in ("config.json", "metrics.csv", "curve.png", "summary.json", "checkpoints"):
        assert (run / name).exists(), name
    assert (run / "rollout.gif").stat().st_size > 1000
    # The policy alone, of TwinALITA's two the chosen one, does what the run reports.
    env = make_env(summary["task"], num_envs=2, n_agents=1, horizon=5)
    asked = {"metrics": get_task(summary["task"]).metrics, "horizon": 5, "seed": 1_000_003}
    result, _ = evaluate(load_policy(run, env), env, **asked)
    assert result["return_mean"] == pytest.approx(summary["evaluation"]["return_mean"], abs=1e-5)
    env.close()


def test_an_unknown_robot_is_an_error_that_lists_the_known_ones(capsys):
    with pytest.raises(SystemExit) as status:
        load("recipes", "robots").main(["--task", "pybullet/HoperBulletEnv-v0"])
    assert status.value.code == 2
    assert "pybullet/HopperBulletEnv-v0" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["push_box", "secret_room"])
@pytest.mark.parametrize("options", [["alita"], ["maddpg", "--exploration", "independent"]])
def test_a_sparse_game_leaves_a_picture_of_the_visited_states(tmp_path, name, options):
    run = tmp_path / "run"
    summary = load("recipes", name).main([*options, *TINY, "--run-dir", str(run)])
    assert summary["frames"] == 300
    assert summary["exploration"]["state_visited"] > 10
    assert (run / "visits.png").stat().st_size > 1000
    assert (run / "exploration.gif").exists() == (options == ["alita"])
    assert "exploration/joint_action_coverage" in (run / "metrics.csv").read_text()


def test_a_team_reaches_the_exact_optimum_of_a_game(tmp_path):
    """A random Markov game in which a random team acts best a quarter of the time."""
    arguments = ["maddpg", "--no-progress", "--total-frames", "10000"]
    summary = load("recipes", "games").main([*arguments, "--run-dir", str(tmp_path / "run")])
    assert summary["exact_value"] == pytest.approx(summary["exact_optimum"], abs=1e-9)
    assert summary["evaluation"]["best_action_share"] == 1
    assert summary["random_team"]["best_action_share"] < 0.4


def test_a_run_is_resumed_from_its_own_config_and_may_be_prolonged(tmp_path, spread, capsys):
    run = tmp_path / "run"
    spread.main([*TINY, "--seed", "5", "--run-dir", str(run)])
    config = parse_arguments(["--resume", str(run)])
    assert config.training.seed == 5
    assert config.training.total_frames == 300
    prolonged = ["--resume", str(run), "--total-frames", "350", "--threads", "2"]
    assert spread.main(prolonged)["frames"] == 350
    with pytest.raises(SystemExit):
        spread.main(["--resume", str(run), "--seed", "6"])
    assert "'training.seed': (5, 6)" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        spread.main(["--resume", str(tmp_path)])
    assert "is no run" in capsys.readouterr().err


def test_the_stock_script_runs_and_each_part_adds_its_loss(add_to_torchrl):
    tiny = {
        "num_envs": 5, "horizon": 10, "total_frames": 100, "frames_per_batch": 50,
        "updates_per_batch": 1, "batch_size": 32,
    }  # fmt: skip
    stock = {"loss_actor", "loss_value", "reward_mean"}
    added = {
        (): set(),
        ("novelty",): {"loss_novelty"},
        ("novelty", "diversity"): {"loss_novelty"},
        ("influence",): {"loss_influence"},
        ("influence", "clones"): {"loss_influence", "loss_estimator"},
        ("novelty", "diversity", "influence"): {"loss_novelty", "loss_influence"},
    }
    for flags, losses in added.items():
        config = add_to_torchrl.Config(**tiny, **dict.fromkeys(flags, True))
        assert set(add_to_torchrl.main(config)) == stock | losses


def test_what_an_option_of_several_kinds_may_be_is_said():
    with pytest.raises(ValueError, match=r"whole number or .*'random', 'all', got 'both'"):
        parse_arguments(["alita", "--algorithm.influencers", "both"])


@pytest.mark.parametrize("said", ["yes", "no", "true", "No"])
@pytest.mark.parametrize("form", ["--algorithm.recurrent={}", "--algorithm.recurrent {}"])
def test_a_flag_takes_what_its_help_says_and_yes_and_no(form, said):
    config = parse_arguments(["maddpg", *form.format(said).split(), "--progress", said])
    expected = said.lower() in ("yes", "true")
    assert (config.algorithm.recurrent, config.training.progress) == (expected, expected)


def test_an_algorithm_of_one_hot_actions_trains_on_such_by_default():
    tasks = {name: parse_arguments([name]).task for name in ("qmix", "coma", "dqn", "joint_dqn")}
    assert set(tasks.values()) == {"push_box"}
    assert parse_arguments(["alita"]).task == "vmas/spread"
    with pytest.raises(ValueError, match=r"need one-hot actions; .* The task push_box"):
        QMIX(make_env("vmas/spread", num_envs=2, n_agents=2, seed=0))


def test_without_flags_the_stock_script_owes_this_package_nothing():
    """The lines between the markers, and the import, are all there is of it."""
    source = (ROOT / "recipes" / "add_to_torchrl.py").read_text()
    body = source.split("def main(")[1]
    names = ("NoveltyReward", "DiversityPenalty", "TotalReward", "NoveltyLoss", "Autoencoder")
    names += ("InfluenceLoss", "InfluenceEstimatorLoss", "ConditionalSampler")
    outside, inside, marked = "", "", False
    for line in body.splitlines():
        marked = True if "# >>>" in line else False if "# <<<" in line else marked
        if marked:
            inside += line
        else:
            outside += line
    for name in names:
        assert name in inside, name
        assert name not in outside, name


BATTLE = [
    *("--total-frames", "300", "--num-envs", "3", "--horizon", "10", "--frames-per-batch", "60"),
    *("--algorithm.frames-per-update", "30", "--algorithm.batch-size", "16"),
    *("--algorithm.sequence-length", "4", "--algorithm.burn-in", "2"),
    *("--evaluation-interval", "150", "--evaluation-episodes", "5", "--no-progress"),
]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("jaxmarl") is None, reason="the extra smax is not installed")
@pytest.mark.parametrize(
    "options",
    [
        ["qmix"],
        ["vdn"],
        ["iql"],
        ["alita", "--algorithm.conditional-batch-size", "32"],
        ["alita", "--algorithm.estimator", "clones", "--algorithm.influencers", "all"],
        ["maddpg", "--algorithm.critic-input", "observations"],
    ],
    ids=" ".join,
)
def test_a_battle_leaves_a_run_with_its_win_rate(tmp_path, options):
    run = tmp_path / "run"
    summary = load("recipes", "starcraft").main([*options, *BATTLE, "--run-dir", str(run)])
    assert summary["frames"] == 300
    assert summary["updates"] == 10
    assert 0 <= summary["evaluation"]["win_rate"] <= 1
    assert summary["task"] == "smax/2s3z"
    for file in ("config.json", "metrics.csv", "curve.png", "rollout.gif", "checkpoints"):
        assert (run / file).exists(), file
    policy = load_policy(run, make_env(summary["task"], n_agents=5, seed=0))
    assert "recurrent_state" in str(policy.out_keys)


def test_the_coefficients_of_table_6_are_those_of_the_map():
    recipe = load("recipes", "starcraft")
    names = ("novelty_coeff", "omega", "influence_coeff")
    for arguments, expected in (
        (["--task", "smax/corridor"], (0.09, 0.03, 0.15)),
        (["--task=smax/2s3z"], (0.01, 0.01, 0.10)),
        ([], (0.01, 0.01, 0.10)),
        (["--task", "smax/3s5z_vs_3s6z"], (0.01, 0.01, 0.10)),
        (["--task", "smax/corridor", "--algorithm.omega", "0.5"], (0.09, 0.5, 0.15)),
    ):
        defaults = recipe.defaults(recipe.asked_task(arguments))
        settings = parse_arguments(arguments, defaults).algorithm
        assert tuple(getattr(settings, name) for name in names) == expected


@pytest.mark.parametrize(
    ("game", "bonus"), [("push_box", "visit_coeff"), ("secret_room", "team_visit_coeff")]
)
def test_the_sparse_games_train_on_policy_by_default(game, bonus, tmp_path):
    """Each is paid for what is seldom visited: by an agent, or by the team."""
    tiny = [*TRAINING, "--algorithm.minibatch-size", "25", "--algorithm.num-cells", "8"]
    run = tmp_path / "run"
    summary = load("recipes", game).main([*tiny, "--run-dir", str(run)])
    assert (summary["algorithm"], summary["frames"]) == ("on_policy_alita", 300)
    config = json.loads((run / "config.json").read_text())
    assert config["algorithm"][bonus] > 0
    assert config["algorithm"]["minibatch_size"] == 25
    assert (run / "checkpoints").exists()
