"""Runs of MAVEN, whose policies act by a latent variable, wherever a run's policies can act."""

from __future__ import annotations

import json

import pytest
import torch

from torchrl_alita.algorithms import (
    DDPGSettings,
    MAVENSettings,
    SidesSettings,
    settings_from_plain,
)
from torchrl_alita.envs import get_task, make_env, sides_of
from torchrl_alita.modules import SidesPolicy
from torchrl_alita.saving import (
    build_learner,
    find_checkpoint,
    load_policy,
    load_side,
    read_component,
    read_config,
)
from torchrl_alita.training import Config, TrainingSettings, cross_play, evaluate, train
from torchrl_alita.transforms import recurrent_transforms


def run_of(folder, task: str, algorithm) -> str:
    training = TrainingSettings(
        num_envs=5, horizon=3, frames_per_batch=20, total_frames=60, evaluation_interval=60,
        evaluation_episodes=2, progress=False, pictures=False, run_dir=folder,
    )  # fmt: skip
    return train(Config(task=task, training=training, algorithm=algorithm))["run_dir"]


def maven(folder, task: str = "push_box", **options) -> str:
    settings = MAVENSettings(
        **{"num_latents": 3, "frames_per_update": 20, "random_frames": 20, "batch_size": 12,
           "sequence_length": 3, "burn_in": 0, "hidden_size": 7, "discriminator_size": 7} | options
    )  # fmt: skip
    return run_of(folder, task, settings)


def game(task: str = "push_box", num_envs: int = 11):
    return make_env(task, num_envs=num_envs, horizon=3, seed=4)


def test_a_loaded_policy_says_how_its_latent_variable_is_drawn(tmp_path):
    policy = load_policy(maven(tmp_path), game())
    env = game(num_envs=300).append_transform(recurrent_transforms(policy))
    batch = env.rollout(6, policy, break_when_any_done=False)
    drawn = batch["latent"]
    assert drawn.shape == (300, 6, 3)
    # It stays for an episode of 3 steps, and another one has its own.
    assert (drawn[:, :3] == drawn[:, :1]).all()
    assert (drawn[:, 3:] == drawn[:, 3:4]).all()
    assert (drawn[:, 0] != drawn[:, 3]).any()
    assert (drawn[:, 0].mean(0) - 1 / 3).abs().max() < 0.12


def test_cross_play_of_a_run_of_maven_is_its_evaluation(tmp_path):
    run = maven(tmp_path)
    (row,) = cross_play("push_box", {"agents": run}, episodes=11, horizon=3, seed=4)
    policy = load_policy(run, game())
    env = game().append_transform(recurrent_transforms(policy))
    expected, _ = evaluate(policy, env, get_task("push_box").metrics, horizon=3, seed=4)
    assert row["return_agents"] == expected["return_mean"]
    assert row["agents"] == run


def test_the_policy_that_draws_the_latent_variable_is_loaded_with_the_others(tmp_path):
    run = maven(tmp_path, latent_policy="hierarchical", latent_batch_size=5)
    learner = build_learner(game(), settings_from_plain(read_config(run)["algorithm"]))
    learner.load_state_dict(read_component(find_checkpoint(run), "algorithm"))
    policy = load_policy(run, game())
    env = game().append_transform(recurrent_transforms(policy))
    batch = env.rollout(3, policy)
    expected = learner.latent_policy(batch[:, 0].clone())["latent_logits"]
    chosen = (expected.log_softmax(-1) * batch["latent"][:, 0]).sum(-1)
    torch.testing.assert_close(batch["latent_log_prob"][:, 0], chosen)
    assert not torch.equal(expected.softmax(-1), torch.full((11, 3), 1 / 3))


@pytest.mark.parametrize("latent_policy", ["uniform", "hierarchical"])
def test_two_sides_of_maven_have_a_latent_variable_each(tmp_path, latent_policy):
    task = "mpe/adversary"
    runs = {
        name: maven(tmp_path / name, task, num_latents=latents, latent_policy=latent_policy)
        for name, latents in (("good", 2), ("adversary", 3))
    }
    env = game(task)
    policy = SidesPolicy(sides_of(env), {name: load_side(runs[name], name, env) for name in runs})
    assert "latent" not in policy.in_keys
    batch = env.append_transform(recurrent_transforms(policy)).rollout(3, policy)
    for name, latents in (("good", 2), ("adversary", 3)):
        drawn = batch["sides", name, "latent"]
        assert drawn.shape == (11, 3, latents)
        assert (drawn.sum(-1) == 1).all()
    (row,) = cross_play(task, runs, episodes=5, horizon=3)
    assert {"return_good", "return_adversary"} <= set(row)


def test_a_run_of_maven_is_a_fixed_side(tmp_path):
    task = "mpe/adversary"
    opponent = maven(tmp_path / "first", task)
    stored = {"frames_per_update": 20, "random_frames": 20, "batch_size": 8, "num_cells": (5,)}
    sides = {"good": DDPGSettings(**stored), "adversary": opponent}
    run = run_of(tmp_path / "second", task, SidesSettings(sides=sides))
    assert json.loads((tmp_path / "second" / "summary.json").read_text())["updates"] == 2
    there = load_side(opponent, "adversary", game(task)).state_dict()
    here = load_side(run, "adversary", game(task)).state_dict()
    assert all(torch.equal(there[name], here[name]) for name in there)
