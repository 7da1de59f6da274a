"""The outside checks on PyBullet's robots: given the same settings, and evaluated alike."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from functools import partial

import pytest
import torch
from scripts import load
from tensordict import TensorDict

from torchrl_alita.experiments import Cell, row_of_run

worker = load("benchmarks", "sb3_worker")

needs_baselines = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("sb3_contrib", "pybullet")),
    reason="sb3-contrib or PyBullet is not installed: the extras baselines and pybullet",
)


@needs_baselines
@pytest.mark.parametrize("name", ["td3", "sac"])
def test_the_outside_checks_have_the_settings_of_our_recipe(name):
    settings = worker.DEFAULTS[name].algorithm
    # These they have no name for.
    assert not settings.layer_norm
    assert settings.max_grad_norm == float("inf")
    assert settings.noise_start == settings.noise_end
    changed = replace(settings, random_frames=11, batch_size=7, tau=0.3, num_cells=(5, 3))
    options = worker.options_of(replace(worker.DEFAULTS[name], algorithm=changed), 2)
    assert [options[key] for key in ("learning_starts", "batch_size", "tau")] == [11, 7, 0.3]
    assert options["policy_kwargs"] == {"net_arch": [5, 3]}
    assert options["learning_rate"] == (settings.lr if name == "sac" else settings.actor_lr)


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
    sb3_contrib = pytest.importorskip("sb3_contrib")
    short = partial(sb3_contrib.TRPO, n_steps=40, batch_size=40)
    monkeypatch.setattr(sb3_contrib, "TRPO", short)
    settings = {"horizon": 20, "evaluation_interval": 40, "evaluation_episodes": 2}
    if algorithm != "trpo":
        settings |= {"algorithm.random_frames": 30, "algorithm.batch_size": 8}
    cell = Cell(
        study="s", variant="v", task="pybullet/InvertedPendulumBulletEnv-v0", algorithm=algorithm,
        seed=0, frames=80, settings=settings,
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
