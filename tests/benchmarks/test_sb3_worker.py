"""The outside checks on PyBullet's robots: given the same settings, and evaluated alike."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from scripts import load
from tensordict import TensorDict

from torchrl_alita.experiments import Cell, row_of_run

worker = load("benchmarks", "sb3_worker")
recipe = load("recipes", "robots")

needs_baselines = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("sb3_contrib", "pybullet")),
    reason="sb3-contrib or PyBullet is not installed: the extras baselines and pybullet",
)


def test_the_outside_checks_have_the_settings_of_our_recipe():
    for algorithm in ("td3", "sac"):
        ours = recipe.DEFAULTS[algorithm].algorithm
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
    theirs, ours = worker.OPTIONS["td3"], recipe.DEFAULTS["td3"].algorithm
    assert (ours.noise_start, ours.noise_end) == (worker.ACTION_NOISE, worker.ACTION_NOISE)
    assert ours.policy_delay == theirs["policy_delay"]
    assert ours.policy_noise == theirs["target_policy_noise"]
    assert ours.noise_clip == theirs["target_noise_clip"]
    same = ("horizon", "evaluation_interval", "evaluation_episodes", "stop_evaluations")
    theirs, ours = worker.TRAINING, recipe.TRAINING
    assert [getattr(theirs, name) for name in same] == [getattr(ours, name) for name in same]


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
    cell = Cell(
        study="s", variant="v", task="pybullet/InvertedPendulumBulletEnv-v0", algorithm=algorithm,
        seed=0, frames=80,
        settings={"horizon": 20, "evaluation_interval": 40, "evaluation_episodes": 2},
    )  # fmt: skip
    # As a study starts it.
    arguments = [*cell.arguments, "--run-dir", str(tmp_path / "run"), "--no-progress"]
    summary = worker.main(arguments)
    row = row_of_run(tmp_path / "run", study="s", variant="v", command="", settings={})
    frames, returns = row.column("evaluation/return_mean")
    assert frames == [0, 40, 80]
    assert row.final["evaluation/return_mean"] == returns[-1]
    assert row.references["random"]["evaluation/return_mean"] > 0
    # One for each step after the 30th, or for a round; the last step's is not made.
    assert row.final["updates"] == (1 if algorithm == "trpo" else 49)
    # A step of the pendulum pays 1: the length is the return, 20 at most.
    assert returns[-1] == row.final["evaluation/episode_length"] <= 20
    assert summary["library"].split()[0] in ("stable-baselines3", "sb3-contrib")
