"""The recipes run as a user starts them, with a tiny Config."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from scripts import load

from torchrl_alita.envs import get_task, make_env
from torchrl_alita.training import (
    StarCraftConfig,
    evaluate,
    load_policy,
    parse_config,
    starcraft_task,
)

ROOT = Path(__file__).parent.parent
TINY = [
    *("--total-frames", "300", "--num-envs", "5", "--horizon", "10", "--frames-per-batch", "50"),
    *("--frames-per-update", "25"),
    *("--random-frames", "50", "--batch-size", "32", "--conditional-batch-size", "32"),
    *("--evaluation-interval", "150", "--evaluation-episodes", "5", "--no-progress"),
]


@pytest.fixture(scope="module")
def alita_spread():
    return load("recipes", "alita_spread")


@pytest.fixture(scope="module")
def add_to_torchrl():
    return load("recipes", "add_to_torchrl")


def test_the_command_of_the_issue_leaves_a_run_and_prints_a_table(tmp_path):
    run = tmp_path / "run"
    command = [sys.executable, "recipes/alita_spread.py", *TINY, "--run-dir", str(run)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "trained" in result.stdout
    assert "random" in result.stdout
    assert "landmark_distance" in result.stdout
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
        ["--algorithm", "maddpg", "--num-critics", "2", "--policy-noise", "0.2"],
        ["--algorithm", "ddpg"],
        ["--estimator", "clones", "--influencers", "random"],
        ["--estimator", "centralized", "--influencers", "0", "2", "--optimum-at", "next"],
        ["--influencers", "all", "--normalize", "--optimum", "policy"],
        ["--influence-coeff", "0"],
        ["--novelty-coeff", "0", "--diversity-coeff", "0"],
    ],
    ids=" ".join,
)
def test_every_algorithm_and_ablation_trains(tmp_path, alita_spread, options):
    summary = alita_spread.main([*TINY, *options, "--run-dir", str(tmp_path / "run")])
    assert summary["updates"] == 10
    assert all(torch.isfinite(torch.tensor(v)) for v in summary["evaluation"].values())


ROBOT = [
    *("--total-frames", "100", "--frames-per-batch", "50", "--frames-per-update", "25"),
    *("--random-frames", "50", "--batch-size", "32", "--horizon", "5", "--num-cells", "13"),
    *("--evaluation-interval", "100", "--evaluation-episodes", "2", "--selection-episodes", "1"),
    "--no-progress",
]


@pytest.mark.parametrize(
    "options",
    [
        ["--env", "HopperBulletEnv-v0"],
        ["--form", "published", "--env", "InvertedPendulumBulletEnv-v0"],
        *(["--algorithm", name] for name in ("td3", "ddpg", "sac", "tac")),
        ["--algorithm", "ppo", "--random-frames", "0"],
    ],
    ids=" ".join,
)
def test_every_algorithm_trains_a_robot_and_leaves_a_picture_of_it(tmp_path, options):
    pytest.importorskip("pybullet_envs_gymnasium")
    run = tmp_path / "run"
    summary = load("recipes", "alita_pybullet").main([*ROBOT, *options, "--run-dir", str(run)])
    assert summary["frames"] == 100
    assert summary["updates"] == 2
    assert ("selection" in summary) == ("--algorithm" not in options)
    for name in ("config.json", "metrics.csv", "curve.png", "summary.json", "checkpoints"):
        assert (run / name).exists(), name
    assert (run / "rollout.gif").stat().st_size > 1000
    # The policy alone, of TwinALITA's two the chosen one, does what the run reports.
    env = make_env(summary["task"], num_envs=2, n_agents=1, horizon=5)
    asked = {"metrics": get_task(summary["task"]).metrics, "horizon": 5, "seed": 1_000_003}
    result, _ = evaluate(load_policy(run, env), env, **asked)
    assert result["return_mean"] == pytest.approx(summary["evaluation"]["return_mean"], abs=1e-5)
    env.close()


def test_a_recipes_presets_are_defaults_of_their_algorithm_alone():
    recipe = load("recipes", "alita_pybullet")
    config = {
        name: parse_config(recipe.Config, ["--algorithm", name], presets=recipe.PRESETS)
        for name in ("td3", "tac", "ppo", "alita")
    }
    cells = [config[name].num_cells for name in config]
    assert cells == [(256, 256), (128, 128), (256, 256), (256, 256)]
    assert [config[name].frames_per_batch for name in config] == [50, 50, 2_000, 50]
    assert [config[name].frames_per_update for name in config] == [1, 1, 1, 2]
    assert [config[name].algorithm for name in config] == list(config)
    assert parse_config(recipe.Config, [], presets=recipe.PRESETS).frames_per_update == 2
    asked = ["--algorithm", "ppo", "--frames-per-batch", "100", "--env", "AntBulletEnv-v0"]
    chosen = parse_config(recipe.Config, asked, presets=recipe.PRESETS)
    assert (chosen.frames_per_batch, chosen.task) == (100, "pybullet/AntBulletEnv-v0")


def test_an_unknown_robot_is_an_error_that_lists_the_known_ones(tmp_path):
    recipe = load("recipes", "alita_pybullet")
    with pytest.raises(ValueError, match=r"pybullet/HoperBullet.*pybullet/HopperBulletEnv-v0"):
        recipe.main(["--env", "HoperBullet", "--run-dir", str(tmp_path / "run")])


RECIPES = (
    *("alita_spread", "alita_games", "alita_push_box", "alita_secret_room", "alita_pybullet"),
    *("alita_smac", "qmix_smac", "mappo_spread"),
)


@pytest.mark.parametrize("name", RECIPES)
def test_help_shows_every_field_with_a_description(name, capsys):
    recipe = load("recipes", name)
    with pytest.raises(SystemExit):
        parse_config(recipe.Config, ["--help"])
    text = capsys.readouterr().out
    for field in fields(recipe.Config):
        assert field.name.replace("_", "-") in text, field.name
    assert "Environment steps" in text


@pytest.mark.parametrize("name", ["alita_push_box", "alita_secret_room"])
@pytest.mark.parametrize("options", [[], ["--algorithm", "maddpg", "--exploration", "independent"]])
def test_a_sparse_game_leaves_a_picture_of_the_visited_states(tmp_path, name, options):
    run = tmp_path / "run"
    summary = load("recipes", name).main([*TINY, *options, "--run-dir", str(run)])
    assert summary["frames"] == 300
    assert summary["exploration"]["state_visited"] > 10
    assert (run / "visits.png").stat().st_size > 1000
    assert (run / "exploration.gif").exists() == (options == [])
    assert "exploration/joint_action_coverage" in (run / "metrics.csv").read_text()


def test_the_on_policy_recipe_trains_with_its_preset_and_is_resumed(tmp_path):
    run = tmp_path / "run"
    rollouts = ["--num-envs", "5", "--frames-per-batch", "50", "--frames-per-update", "50"]
    tiny = [*rollouts, "--total-frames", "100", "--horizon", "10", "--no-progress"]
    recipe = load("recipes", "mappo_spread")
    recipe.main([*tiny, "--mappo.minibatch-size", "25", "--run-dir", str(run)])
    config = json.loads((run / "config.json").read_text())
    assert config["mappo"]["goal_attention"]
    assert config["mappo"]["minibatch_size"] == 25
    summary = recipe.main(["--resume", str(run)])
    assert summary["updates"] == 2


def test_a_team_reaches_the_exact_optimum_of_a_game(tmp_path):
    """A random Markov game in which a random team acts best a quarter of the time."""
    games = load("recipes", "alita_games")
    arguments = ["--algorithm", "maddpg", "--no-progress", "--total-frames", "10000"]
    summary = games.main([*arguments, "--run-dir", str(tmp_path / "run")])
    assert summary["exact_value"] == pytest.approx(summary["exact_optimum"], abs=1e-9)
    assert summary["evaluation"]["best_action_share"] == 1
    assert summary["random_team"]["best_action_share"] < 0.4


def test_resume_reads_the_runs_own_config(tmp_path, alita_spread):
    run = tmp_path / "run"
    alita_spread.main([*TINY, "--seed", "5", "--run-dir", str(run)])
    config = parse_config(alita_spread.Config, ["--resume", str(run)])
    assert config.seed == 5
    assert config.total_frames == 300
    assert alita_spread.main(["--resume", str(run)])["frames"] == 300
    with pytest.raises(ValueError, match=r"seed.*\(5, 6\)"):
        alita_spread.main(["--resume", str(run), "--seed", "6"])
    with pytest.raises(ValueError, match="is no run"):
        alita_spread.main(["--resume", str(tmp_path)])


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
    *("--frames-per-update", "30", "--batch-size", "16", "--sequence-length", "4"),
    *("--burn-in", "2", "--conditional-batch-size", "32", "--evaluation-interval", "150"),
    *("--evaluation-episodes", "5", "--no-progress"),
]


@pytest.mark.skipif(find_spec("jaxmarl") is None, reason="the extra smax is not installed")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("qmix_smac", []),
        ("qmix_smac", ["--algorithm", "vdn"]),
        ("qmix_smac", ["--algorithm", "iql", "--map", "5m_vs_6m"]),
        ("alita_smac", []),
        ("alita_smac", ["--estimator", "clones", "--influencers", "all"]),
        ("alita_smac", ["--algorithm", "maddpg", "--critic-input", "observations"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_a_battle_leaves_a_run_with_its_win_rate(tmp_path, name, options):
    run = tmp_path / "run"
    summary = load("recipes", name).main([*BATTLE, *options, "--run-dir", str(run)])
    assert summary["frames"] == 300
    assert summary["updates"] == 10
    assert 0 <= summary["evaluation"]["win_rate"] <= 1
    assert summary["task"] == ("smax/5m_vs_6m" if "5m_vs_6m" in options else "smax/2s3z")
    for file in ("config.json", "metrics.csv", "curve.png", "rollout.gif", "checkpoints"):
        assert (run / file).exists(), file
    policy = load_policy(run, make_env(summary["task"], n_agents=5, seed=0))
    assert "recurrent_state" in str(policy.out_keys)


def test_the_coefficients_of_table_6_are_those_of_the_map():
    recipe = load("recipes", "alita_smac")
    names = ("novelty_coeff", "omega", "influence_coeff")
    for arguments, expected in (
        (["--map", "corridor"], (0.09, 0.03, 0.15)),
        (["--map", "2s3z"], (0.01, 0.01, 0.10)),
        (["--map", "3s5z_vs_3s6z"], (0.01, 0.01, 0.10)),
        (["--map", "corridor", "--omega", "0.5"], (0.09, 0.5, 0.15)),
    ):
        config = recipe.with_table_6(parse_config(recipe.Config, arguments))
        assert tuple(getattr(config, name) for name in names) == expected


@pytest.mark.skipif(find_spec("jaxmarl") is None, reason="the extra smax is not installed")
def test_an_unknown_map_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="2s3z"):
        load("recipes", "qmix_smac").main(["--map", "no_such_map"])


def test_smac_needs_the_number_of_agents_of_a_map_that_is_not_the_papers():
    with pytest.raises(ValueError, match="n_agents must be given"):
        starcraft_task(StarCraftConfig(suite="smac", map="3m"))
    config, _ = starcraft_task(StarCraftConfig(suite="smac", map="corridor"))
    assert (config.task, config.n_agents) == ("smac/corridor", 6)
