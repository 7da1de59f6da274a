"""TD3, DDPG, SAC, PPO and TAC for one agent: their updates, the loop, a task to be solved."""

from __future__ import annotations

import csv
import math
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from fakes import A, B, TargetEnv, build, by_name, flat_config, random_batch
from PIL import Image
from tensordict import TensorDict
from torchrl.envs import ExplorationType, set_exploration_type

from torchrl_alita import DDPG, PPO, SAC, TAC, TD3, TwinALITA
from torchrl_alita.envs import Task
from torchrl_alita.saving import init_policy
from torchrl_alita.training import Config, train
from torchrl_alita.training.loop import Run

ENV = TargetEnv(n_agents=1)
SMALL = {"num_cells": (13,)}
OFF_POLICY = (TD3, DDPG, SAC, TAC)
EVERY = (*OFF_POLICY, PPO)


def one_agent(**options) -> TensorDict:
    """The first agent's part of random transitions."""
    batch = random_batch(**options)
    return batch.apply(lambda value: value[..., :1, :] if value.ndim == batch.ndim + 2 else value)


def collected(algorithm: PPO, env: TargetEnv = ENV, steps: int = 4) -> TensorDict:
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        return env.rollout(steps, algorithm.actor, break_when_any_done=False)


def batch_for(algorithm, seed: int = 0) -> TensorDict:
    torch.manual_seed(seed)
    return collected(algorithm) if algorithm.on_policy else one_agent(seed=seed)


def state(algorithm) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": value.detach().clone()
        for name, module in algorithm.modules.items()
        for key, value in module.state_dict().items()
        if isinstance(value, torch.Tensor)
    }


def changed(before: dict, after: dict, word: str) -> bool:
    found = [name for name in before if word in name]
    assert found, word
    return any((before[name] != after[name]).any() for name in found)


@pytest.mark.parametrize("make", EVERY)
def test_an_update_moves_the_policy_and_logs_finite_scalars(make):
    torch.manual_seed(0)
    algorithm = build(make, ENV, **SMALL)
    before = state(algorithm)
    for seed in range(2):
        logs = algorithm.update(by_name(algorithm, batch_for(algorithm, seed)))
    assert changed(before, state(algorithm), ".actor_network_params")
    for key, value in logs.items(True, True):
        assert value.shape == (), key
        assert torch.isfinite(value), key
        assert not value.requires_grad, key
    assert algorithm.updates == 2


def test_td3_moves_policy_and_targets_with_every_second_update_of_the_critics():
    torch.manual_seed(0)
    algorithm = TD3(ENV, TD3.Settings(**SMALL))
    parts = ("td3.actor_network", "td3.target_actor", "td3.target_qvalue", "td3.qvalue")
    states = [state(algorithm)]
    logged = []
    for seed in range(4):
        logged.append("loss_actor" in algorithm.update(by_name(algorithm, one_agent(seed=seed))))
        states.append(state(algorithm))
    for part, expected in zip(parts, ([0, 1, 0, 1],) * 3 + ([1, 1, 1, 1],), strict=True):
        moved = [changed(*pair, part) for pair in pairwise(states)]
        assert moved == [bool(entry) for entry in expected], part
    assert logged == [False, True, False, True]


def constant_critics(algorithm: TD3, values: tuple[float, float]) -> None:
    """Both critics and their targets give one value each, everywhere."""
    for params in (algorithm.td3.qvalue_network_params, algorithm.td3.target_qvalue_network_params):
        for key, tensor in params.data.items(True, True):
            if tensor.is_floating_point() and key[-1] in ("weight", "bias"):
                tensor.zero_()
        last = max(
            (key for key in params.keys(True, True) if key[-1] == "bias"), key=lambda key: key[-2]
        )
        params.data.get(last).copy_(torch.tensor(values).view(2, 1, 1))


def test_td3s_target_is_the_lower_critics_and_a_time_limit_is_no_termination():
    """Rewards 1, critics 3 and 2: 1 + 0.9 * 2 = 2.8, and 1 where it terminates."""
    algorithm = TD3(ENV, TD3.Settings(gamma=0.9, **SMALL))
    constant_critics(algorithm, (3.0, 2.0))
    batch = one_agent()
    batch["next", "agents", "reward"] = torch.ones(B, 1, 1)
    batch["next", "terminated"] = torch.zeros(B, 1, dtype=torch.bool)
    batch["next", "done"] = torch.ones(B, 1, dtype=torch.bool)
    logs = algorithm._critic_gradient(batch)
    assert logs["target_value"].item() == pytest.approx(2.8)
    assert logs["pred_value"].item() == pytest.approx(2.5)
    assert logs["loss_qvalue"].item() == pytest.approx(0.2**2 + 0.8**2, rel=1e-4)
    batch["next", "terminated"] = torch.ones(B, 1, dtype=torch.bool)
    assert algorithm._critic_gradient(batch)["target_value"].item() == pytest.approx(1.0)


@pytest.mark.parametrize("make", EVERY)
def test_an_update_leaves_the_batch_as_it_was(make):
    algorithm = build(make, ENV, **SMALL)
    batch = batch_for(algorithm)
    before = batch.clone()
    algorithm.update(by_name(algorithm, batch))
    assert set(batch.keys(True, True)) == set(before.keys(True, True))
    assert (batch == before).all()


@pytest.mark.parametrize("make", EVERY)
def test_a_state_taken_over_continues_bit_for_bit(make):
    torch.manual_seed(0)
    first = build(make, ENV, **SMALL)
    batches = [batch_for(first, seed) for seed in range(3)]
    first.update(by_name(first, batches[0]))
    second = build(make, ENV, **SMALL)
    second.load_state_dict(first.state_dict())
    for algorithm in (first, second):
        torch.manual_seed(1)
        for batch in batches[1:]:
            algorithm.update(by_name(algorithm, batch))
    after = state(second)
    for name, value in state(first).items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=0)
    assert first.updates == second.updates == 3


def test_another_algorithms_state_is_refused():
    with pytest.raises(KeyError, match="sac"):
        TD3(ENV, TD3.Settings(**SMALL)).load_state_dict(
            SAC(ENV, SAC.Settings(**SMALL)).state_dict()
        )


def test_gradients_are_scaled_down_to_the_largest_norm_and_by_default_not_at_all():
    norms = {}
    for limit in (float("inf"), 0.125):
        torch.manual_seed(0)
        algorithm = TD3(ENV, TD3.Settings(max_grad_norm=limit, **SMALL))
        params = list(algorithm.td3.qvalue_network_params.parameters())
        algorithm.optimizers["qvalue"] = torch.optim.SGD(params, lr=1.0)
        before = [param.detach().clone() for param in params]
        reported = algorithm.update(by_name(algorithm, one_agent()))["grad_norm_qvalue"].item()
        pairs = zip(before, params, strict=True)
        step = sum((old - new).square().sum() for old, new in pairs).sqrt().item()
        norms[limit] = (reported, step)
    reported, step = norms[float("inf")]
    assert step == pytest.approx(reported, rel=1e-4)
    assert norms[0.125] == pytest.approx((reported, 0.125), rel=1e-3)


def test_ppo_bootstraps_from_the_last_state_and_stops_at_an_end():
    """With values of 0 but after the last step, the advantages can be added up by hand."""
    algorithm = PPO(ENV, PPO.Settings(gamma=0.5, gae_lambda=0.5, **SMALL))
    for tensor in algorithm.ppo.critic_network_params.data.values(True, True):
        tensor.zero_()
    bias = [k for k in algorithm.ppo.critic_network_params.keys(True, True) if k[-1] == "bias"]
    algorithm.ppo.critic_network_params.data.get(max(bias, key=lambda key: key[-2])).fill_(2.0)
    batch = collected(algorithm, steps=3)
    batch["next", "agents", "reward"] = torch.ones(B, 3, 1, 1)
    for flag in ("done", "terminated", "truncated"):
        batch["next", flag] = torch.zeros(B, 3, 1, dtype=torch.bool)
    batch["next", "done"][:, 1] = True
    batch["next", "terminated"][:, 1] = True
    advantages = algorithm._with_advantages(batch)["agents", "advantage"][0].flatten()
    # delta = 1 + 0.5 * 2 - 2 = 0, and 1 - 2 = -1 at the end: 0 + 0.25 * -1, -1, 0.
    torch.testing.assert_close(advantages, torch.tensor([-0.25, -1.0, 0.0]))


def test_ppos_minibatches_are_of_every_transition_once_an_epoch(monkeypatch):
    algorithm = PPO(ENV, PPO.Settings(num_epochs=3, minibatch_size=5, **SMALL))
    sizes = []
    gradient = algorithm._gradient
    monkeypatch.setattr(
        algorithm, "_gradient", lambda batch: sizes.append(len(batch)) or gradient(batch)
    )
    algorithm.update(by_name(algorithm, collected(algorithm, steps=2)))
    assert sizes == [5, 5, 4] * 3
    assert algorithm.updates == 1


SOLVERS = {
    "td3": partial(build, TD3, actor_lr=5e-3, critic_lr=1e-2, tau=0.05),
    "ddpg": partial(build, DDPG, actor_lr=5e-3, critic_lr=1e-2),
    "sac": partial(build, SAC, lr=1e-2),
    "tac": partial(build, TAC, lr=1e-2, entropy_coeff=0.02),
}


def greedy_reward(algorithm, env: TargetEnv) -> float:
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        return env.rollout(2, algorithm.actor)["next", "agents", "reward"].mean().item()


@pytest.mark.parametrize("name", SOLVERS)
def test_an_agent_learns_to_act_as_it_is_told(name):
    """The mean reward of acting at random is about -1.1; the best is 0."""
    torch.manual_seed(0)
    env = TargetEnv(num_envs=256, n_agents=1, horizon=2, seed=1)
    algorithm = SOLVERS[name](env, num_cells=(32,), gamma=0.0)
    assert greedy_reward(algorithm, env) < -0.3
    batch = env.rollout(4, break_when_any_done=False).reshape(-1)
    for _ in range(200):
        algorithm.update(by_name(algorithm, batch[torch.randint(len(batch), (64,))]))
    assert greedy_reward(algorithm, env) > -0.1


def test_ppo_learns_to_act_as_it_is_told():
    """The mean reward of acting at random is about -1.1; the best is 0."""
    torch.manual_seed(0)
    env = TargetEnv(num_envs=256, n_agents=1, horizon=2, seed=1)
    algorithm = PPO(
        env, PPO.Settings(num_cells=(32,), gamma=0.0, lr=2e-3, num_epochs=4, minibatch_size=128)
    )
    for _ in range(12):
        algorithm.update(by_name(algorithm, collected(algorithm, env)))
    assert greedy_reward(algorithm, env) > -0.1


# The loop


def task(**options) -> Task:
    def draw(episode: TensorDict) -> list[Image.Image]:
        return [Image.new("RGB", (8, 8)) for _ in range(3)]

    return Task(make=lambda **asked: TargetEnv(**asked, **options), metrics=lambda _: {}, draw=draw)


def tiny(run_dir: Path, **changes) -> Config:
    options = {
        "algorithm": TD3, "task": "test", **SMALL, "n_agents": 1, "num_envs": 5, "horizon": 4,
        "total_frames": 100, "frames_per_batch": 20, "frames_per_update": 10,
        "random_frames": 20, "batch_size": 16, "conditional_batch_size": 32,
        "noise_start": 0.1, "noise_end": 0.1, "evaluation_interval": 40,
        "evaluation_episodes": 3, "checkpoint_interval": 40, "progress": False,
        "run_dir": run_dir,
    }  # fmt: skip
    return flat_config(**(options | changes))


@pytest.mark.parametrize("make", EVERY)
def test_every_algorithm_trains_in_the_loop_and_leaves_a_run(tmp_path, make):
    summary = train(tiny(tmp_path / "run", algorithm=make), task=task())
    assert summary["frames"] == 100
    # PPO learns once from each batch; the others twice, but not from the first.
    assert summary["updates"] == (5 if make is PPO else 8)
    for name in ("config.json", "metrics.csv", "curve.png", "rollout.gif", "summary.json"):
        assert (tmp_path / "run" / name).exists(), name
    assert "selection" not in summary


def test_a_policy_that_explores_by_itself_gets_no_noise(tmp_path):
    noises = {}
    for make in (TD3, SAC):
        run = Run(tiny(tmp_path / make.__name__, algorithm=make), make, task())
        batch = next(iter(run.collection))
        step = run.collection.noise(batch[:, 0].clone())
        noises[make] = (step["agents", "action"] - batch["agents", "action"][:, 0]).abs().max()
    assert noises[TD3] > 0
    assert noises[SAC] == 0


def test_what_is_collected_on_policy_has_its_probabilities_and_is_not_stored(tmp_path):
    run = Run(tiny(tmp_path / "run", random_frames=0, algorithm=PPO), PPO, task())
    batch = next(iter(run.collection))
    assert batch["agents", "action_log_prob"].std() > 0
    run.learning.learn(batch)
    assert not run.learning.buffers.drawn
    assert run.learning.algorithm.updates == 1


def test_an_evaluation_that_ends_with_its_last_episode_has_the_same_return(tmp_path):
    """Episodes of 4 steps in evaluations of up to 12; the environments do not wait for more."""
    results = {}
    for stop in (False, True):
        config = tiny(tmp_path / str(stop), horizon=12, stop_evaluations=stop)
        run = Run(config, TD3, task(terminates=True))
        run.evaluation.env.horizon = 4
        results[stop] = run.evaluation.evaluate(run.learning.algorithm.actor)
    assert results[True][1].shape == (3, 4)
    assert results[False][1].shape == (3, 12)
    for name in ("return_mean", "return_std"):
        assert results[True][0][name] == pytest.approx(results[False][0][name], rel=1e-6)


def test_the_runs_metrics_name_the_losses(tmp_path):
    train(tiny(tmp_path / "run", algorithm=TD3), task=task())
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["evaluation/return_mean"] != "" for row in rows] == [
        True,
        False,
        True,
        False,
        True,
        True,
    ]
    assert all(math.isfinite(float(row["training/loss_actor"])) for row in rows[2:])


# Bad input


@pytest.mark.parametrize("make", [TD3, SAC, TAC, PPO, TwinALITA])
def test_several_agents_and_discrete_actions_are_refused(make):
    with pytest.raises(ValueError, match="one agent, got 3"):
        build(make, TargetEnv(n_agents=3))
    with pytest.raises(ValueError, match="continuous actions"):
        build(make, TargetEnv(n_agents=1, discrete=True))


@pytest.mark.parametrize("make", EVERY)
@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({"gamma": 1.1}, "1.1"),
        ({"max_grad_norm": 0.0}, "0.0"),
        ({"num_cells": (0,)}, "0"),
    ],
)
def test_what_is_out_of_range_is_refused_with_the_number(make, options, value):
    with pytest.raises(ValueError, match=value):
        build(make, ENV, **options)


@pytest.mark.parametrize(
    ("make", "options", "value"),
    [
        (TD3, {"tau": 1.5}, "1.5"),
        (TD3, {"policy_delay": 0}, "0"),
        (TD3, {"policy_noise": -0.1}, "-0.1"),
        (TD3, {"noise_clip": -0.2}, "-0.2"),
        (TD3, {"actor_lr": 0.0}, "0.0"),
        (TD3, {"compile_mode": "fast"}, "fast"),
        (SAC, {"lr": -1.0}, "-1.0"),
        (SAC, {"tau": 0.0}, "0.0"),
        (TAC, {"entropic_index": -2.0}, "-2.0"),
        (PPO, {"clip_epsilon": 0.0}, "0.0"),
        (PPO, {"gae_lambda": 1.5}, "1.5"),
        (PPO, {"num_epochs": 0}, "0"),
        (PPO, {"minibatch_size": 0}, "0"),
    ],
)
def test_each_algorithm_refuses_its_own_options_with_the_number(make, options, value):
    with pytest.raises(ValueError, match=value):
        build(make, ENV, **options, **SMALL)


@pytest.mark.parametrize("make", OFF_POLICY)
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_flags_that_are_not_bool_and_empty_batches_are_refused(make, kind):
    """The complement of the number 1 is 254, not 0."""
    algorithm = build(make, ENV, **SMALL)
    batch = one_agent()
    numbers = batch.clone().set(("next", "terminated"), batch["next", "terminated"].to(kind))
    for wrong, error, message in (
        (numbers, TypeError, "terminated must be bool"),
        (batch[:0], ValueError, "empty"),
    ):
        with pytest.raises(error, match=message):
            algorithm.update(by_name(algorithm, wrong))
    assert algorithm.updates == 0


@pytest.mark.parametrize("make", OFF_POLICY)
def test_a_missing_key_is_named_and_the_batch_is_no_update(make):
    algorithm = build(make, ENV, **SMALL)
    with pytest.raises(KeyError, match="terminated"):
        algorithm.update(by_name(algorithm, one_agent().exclude(("next", "terminated"))))
    assert algorithm.updates == 0


def test_a_batch_of_another_width_is_an_error_with_both_numbers():
    batch = one_agent()
    batch["agents", "action"] = torch.zeros(B, 1, A + 1)
    for make in OFF_POLICY[2:]:
        algorithm = build(make, ENV, **SMALL)
        with pytest.raises(ValueError, match=rf"\({B}, 1, {A}\), got \({B}, 1, {A + 1}\)"):
            algorithm.update(by_name(algorithm, batch))


def test_a_run_starts_from_the_policy_and_targets_of_another(tmp_path):
    train(tiny(tmp_path / "run", algorithm=TD3), task=task())
    first, second = (TD3(ENV, TD3.Settings(**SMALL)) for _ in range(2))
    for algorithm in (first, second):
        init_policy(algorithm, tmp_path / "run")
    of_both = [algorithm.td3.actor_network_params for algorithm in (first, second)]
    targets = second.td3.target_actor_network_params
    for key, value in of_both[0].items(True, True):
        assert (value == of_both[1].get(key)).all()
        assert (value == targets.get(key)).all()
