"""Algorithms of the package inside TorchRL's Trainer."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torchrl.checkpoint import Checkpoint
from torchrl.collectors import Collector
from torchrl.envs import EnvBase
from torchrl.trainers import Trainer

from torchrl_alita.contrib.trainer import AlgorithmStepper
from torchrl_alita.envs import make_env
from torchrl_alita.training import Config, make_config

NUM_ENVS, FRAMES = 5, 20
SMALL = {
    "num_envs": NUM_ENVS,
    "frames_per_batch": FRAMES,
    "total_frames": 4 * FRAMES,
    "horizon": 4,
    "algorithm.num_cells": (7,),
}
OFF_POLICY = {
    "algorithm.frames_per_update": 10,
    "algorithm.random_frames": FRAMES,
    "algorithm.batch_size": 6,
}


def config_of(algorithm: str, **options) -> Config:
    return make_config(algorithm, "vmas/spread", SMALL | options)


def environment(config: Config) -> EnvBase:
    return make_env("vmas/spread", num_envs=NUM_ENVS, horizon=4, seed=0)


def make_trainer(config: Config, **options) -> Trainer:
    torch.manual_seed(0)
    env = environment(config)
    stepper = AlgorithmStepper(config, config.build(env))
    for transform in stepper.algorithm.env_transforms():
        env = env.append_transform(transform)
    collector = Collector(
        env,
        stepper.policy,
        frames_per_batch=FRAMES,
        total_frames=4 * FRAMES,
        auto_register_policy_transforms=False,
    )
    return Trainer(
        collector=collector,
        total_frames=4 * FRAMES,
        frame_skip=1,
        optim_steps_per_batch=stepper.updates_per_batch,
        loss_module=stepper.losses,
        optimization_stepper=stepper,
        progress_bar=False,
        **options,
    )


@pytest.mark.parametrize(
    ("algorithm", "options", "updates"),
    [
        ("maddpg", OFF_POLICY, 6),
        ("alita", OFF_POLICY, 6),
        # Replay of D_t, and clones that are set back.
        (
            "alita",
            OFF_POLICY | {"algorithm.estimator": "clones", "algorithm.conditional_batch_size": 32},
            6,
        ),
        # Sequences, with a burn-in.
        (
            "maddpg",
            OFF_POLICY
            | {
                "algorithm.recurrent": True,
                "algorithm.sequence_length": 2,
                "algorithm.burn_in": 1,
                "algorithm.hidden_size": 5,
            },
            6,
        ),
        ("mappo", {"algorithm.minibatch_size": 10, "algorithm.num_epochs": 1}, 4),
    ],
    ids=["maddpg", "alita", "clones", "recurrent", "mappo"],
)
def test_an_algorithm_makes_the_updates_that_its_settings_ask_for(algorithm, options, updates):
    trainer = make_trainer(config_of(algorithm, **options))
    stepper = trainer.optimization_stepper
    before = [weight.clone() for weight in stepper.algorithm.actor.parameters()]
    trainer.train()
    assert stepper.learning.progress["frames"] == 4 * FRAMES
    # Each environment has ended as many episodes as batches hold: their horizon is 4.
    assert stepper.learning.progress["episodes"] == 4 * NUM_ENVS
    assert stepper.algorithm.updates == updates
    after = stepper.algorithm.actor.parameters()
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_loss_that_is_nan_ends_the_training(monkeypatch):
    trainer = make_trainer(config_of("alita", **OFF_POLICY))
    learner = trainer.optimization_stepper.algorithm
    update = type(learner).update

    def spoiled(self, batches):
        logs = update(self, batches)
        return logs.set("loss_actor", torch.full_like(logs["loss_actor"], torch.nan))

    monkeypatch.setattr(type(learner), "update", spoiled)
    with pytest.raises(ValueError, match="loss_actor"):
        trainer.train()


def test_the_trainer_logs_what_the_update_says():
    trainer = make_trainer(config_of("alita", **OFF_POLICY))
    trainer.train()
    assert {"loss_actor", "loss_qvalue", "loss_influence", "gap_0_1"} <= set(trainer._log_dict)
    # Nothing is trained on the first batch, which random_frames covers.
    assert len(trainer._log_dict["loss_actor"]) == 3


def test_a_trainers_file_brings_back_networks_optimizers_buffers_and_counts(tmp_path):
    first, other = (
        make_trainer(
            config_of("alita", **OFF_POLICY),
            checkpoint=Checkpoint(),
            save_trainer_file=tmp_path / "trainer",
        )
        for _ in range(2)
    )
    first.train()
    other.load_from_file(tmp_path / "trainer")
    pair = [trainer.optimization_stepper for trainer in (first, other)]
    assert pair[0].learning.progress == pair[1].learning.progress
    assert pair[0].algorithm.updates == pair[1].algorithm.updates == 6
    logs = []
    for stepper in pair:
        torch.manual_seed(1)
        logs.append(stepper.step(None, None))
    assert set(logs[0].keys()) == set(logs[1].keys())
    for name, value in logs[0].items():
        torch.testing.assert_close(value, logs[1][name], msg=name)


def test_the_noise_shrinks_while_the_trainer_collects():
    trainer = make_trainer(config_of("maddpg", **OFF_POLICY, **{"algorithm.noise_frames": 80}))
    exploration = trainer.optimization_stepper.exploration
    assert float(exploration.sigma) == pytest.approx(0.9)
    trainer.train()
    assert float(exploration.sigma) == pytest.approx(0.1)


def test_an_algorithm_of_other_settings_is_refused():
    config = config_of("maddpg", **OFF_POLICY)
    algorithm = config.build(environment(config))
    other = dataclasses.replace(config, algorithm=dataclasses.replace(config.algorithm, gamma=0.5))
    with pytest.raises(ValueError, match=r"must have the config's settings.*gamma=0\.5"):
        AlgorithmStepper(other, algorithm)
