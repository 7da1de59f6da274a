"""Q-learning over joint actions: its loss by hand, its optimum, its bonus, and what it refuses."""

from __future__ import annotations

import warnings

import pytest
import torch
from fakes import A, B, N, TargetEnv, build, by_name, random_batch
from tensordict import TensorDict
from torch import nn

from torchrl_alita.algorithms import IQL, VDN, JointDQN, JointDQNSettings
from torchrl_alita.envs import MatrixGame, PushBox, PushBoxSettings
from torchrl_alita.layout import VISIT_BONUS, next_key
from torchrl_alita.modules import joint_action_number
from torchrl_alita.objectives.joint_actions import enumerate_joint_actions
from torchrl_alita.training import Config, TrainingSettings, train

ENV = TargetEnv(discrete=True)
STEPS, GAMMA = 3, 0.5
SMALL = {"num_cells": (13,), "gamma": GAMMA, "n_steps": STEPS}


def runs(*, seed: int = 0, steps: int = STEPS) -> TensorDict:
    batch = random_batch(batch_size=(B, steps), seed=seed)
    taken = batch["agents", "action"].argmax(-1)
    batch["agents", "action"] = nn.functional.one_hot(taken, A).float()
    # Truncated ones too.
    batch["next", "done"][:2] = True
    return batch


def make(env: TargetEnv = ENV, **options) -> JointDQN:
    torch.manual_seed(0)
    return build(JointDQN, env, **(SMALL | options))


def values_of(algorithm: JointDQN, observation: torch.Tensor, *, target: bool) -> torch.Tensor:
    loss = algorithm.qvalue
    params = loss.target_value_network_params if target else loss.value_network_params
    batch = TensorDict({"agents": {"observation": observation}}, observation.shape[:-2])
    with torch.no_grad(), params.to_module(loss.value_network):
        return loss.value_network(batch)["joint_action_value"]


@pytest.mark.parametrize("double_q", [False, True])
def test_the_loss_is_the_squared_error_of_the_joint_value(double_q):
    """Row by row: rewards to the end of the episode, then the target's value of the best action."""
    algorithm = make(double_q=double_q, loss_function="l2", tau=0.3)
    algorithm.update({"batch": runs(seed=5)})
    batch = runs()
    expected = []
    for row in batch:
        total, last = 0.0, STEPS - 1
        for step in range(STEPS):
            total = total + GAMMA**step * row["next", "agents", "reward"][step].mean()
            if row["next", "done"][step]:
                last = step
                break
        following = row["next", "agents", "observation"][last]
        online, target = (values_of(algorithm, following, target=t) for t in (False, True))
        assert (online != target).any()
        goes_on = not row["next", "terminated"][last]
        best = (online if double_q else target).argmax()
        goal = total + GAMMA ** (last + 1) * goes_on * target[best]
        taken = joint_action_number(row["agents", "action"][0])
        value = values_of(algorithm, row["agents", "observation"][0], target=False)[taken]
        expected.append((value - goal).square())
    logs = algorithm.update({"batch": batch})
    torch.testing.assert_close(logs["loss_qvalue"], torch.stack(expected).mean())
    torch.testing.assert_close(logs["td_error"], torch.stack(expected).sqrt().mean())


# The climbing game, https://cdn.aaai.org/AAAI/1998/AAAI98-106.pdf: whoever tries for the best is
# punished by a teammate that explores.
CLIMBING = (11.0, -30.0, 0.0, -30.0, 7.0, 6.0, 0.0, 0.0, 5.0)


def learned(kind, **options) -> tuple[list[int], TensorDict]:
    """What a team does that has seen each joint action as often as every other."""
    payoff = torch.tensor(CLIMBING)
    env = MatrixGame([CLIMBING, CLIMBING])
    every = enumerate_joint_actions(2, 3).float()
    seen = env.reset()["agents", "observation"].float().expand(9, 2, -1)
    batch = TensorDict(
        {
            "agents": {"observation": seen, "action": every},
            "next": {
                "agents": {"observation": seen, "reward": payoff.view(9, 1, 1).expand(9, 2, 1)},
                "done": torch.ones(9, 1, dtype=torch.bool),
                "terminated": torch.ones(9, 1, dtype=torch.bool),
            },
        },
        [9],
    )
    torch.manual_seed(0)
    algorithm = build(kind, env, num_cells=(32,), **options)
    for _ in range(600):
        algorithm.update({"batch": batch})
    with torch.no_grad():
        policy = algorithm.actor(batch[:1].select(("agents", "observation")))
    return policy["agents", "action"][0].argmax(-1).tolist(), policy


def test_it_finds_the_optimum_that_independent_learners_and_a_sum_miss():
    """And its values are the payoffs, which no sum of two agents' values can be."""
    options = {"critic_lr": 1e-2, "max_grad_norm": float("inf")}
    own = {"n_steps": 1, "rewarded_share": 0.0, "loss_function": "l2", "tau": 0.5}
    acted, policy = learned(JointDQN, **options, **own)
    assert acted == [0, 0]
    torch.testing.assert_close(
        policy["joint_action_value"][0], torch.tensor(CLIMBING), rtol=0, atol=0.3
    )
    pymarl = {"recurrent": False, "optimizer": "adam", "target_update_interval": 1}
    for kind in (IQL, VDN):
        assert learned(kind, **options, **pymarl)[0] == [2, 2]


@pytest.mark.slow
def test_a_team_learns_to_deliver_a_box_that_neither_moves_alone(tmp_path):
    """In a small Push-Box, from runs of five steps of which a quarter is rewarded.

    A random team delivers none.
    """
    summary = train(
        Config(
            task="push_box",
            task_settings=PushBoxSettings(size=9, reward=1.0),
            training=TrainingSettings(
                n_agents=2, num_envs=64, horizon=50, total_frames=64_000, frames_per_batch=640,
                exploration="team", spread=1.0, evaluation_interval=64_000,
                evaluation_episodes=32, checkpoint_interval=64_000, pictures=False,
                progress=False, run_dir=tmp_path / "run",
            ),
            algorithm=JointDQNSettings(
                num_cells=(64, 64), gamma=0.95, batch_size=256, frames_per_update=64,
                buffer_size=100_000, random_frames=6_400, noise_start=0.7, noise_end=0.1,
                noise_frames=32_000, tau=0.02, compile=False,
            ),
        )
    )  # fmt: skip
    assert summary["random_team"]["boxes_per_episode"] == 0
    assert summary["evaluation"]["boxes_per_episode"] > 0.7


# Visits.


def push_box_runs(env: PushBox, algorithm: JointDQN) -> TensorDict:
    return env.rollout(STEPS, algorithm.actor)


def test_visits_are_paid_beside_the_reward_in_units_of_their_own_return():
    env = PushBox(B, seed=0, reward=1.0)
    algorithm = make(env, team_visit_coeff=0.25, loss_function="l2")
    rollout = push_box_runs(env, algorithm)
    algorithm.observe(rollout)
    paid = algorithm.add_rewards(rollout)
    bonus, scale = paid[next_key(VISIT_BONUS)], algorithm.scale.scale
    assert 0 < bonus.min() < bonus.max() <= 1
    expected = rollout["next", "agents", "reward"] + 0.25 * bonus / scale
    torch.testing.assert_close(paid["next", "agents", "total_reward"], expected)
    rows = algorithm._transitions(paid)
    sums = (expected * GAMMA ** torch.arange(STEPS).view(STEPS, 1, 1)).sum(1).mean(-2)
    torch.testing.assert_close(rows["next", "team_reward"], sums)
    logs = algorithm.update({"batch": rollout})
    torch.testing.assert_close(logs["visit_bonus"], bonus.mean())
    again = algorithm.add_rewards(rollout)[next_key(VISIT_BONUS)]
    assert (again == bonus).all()  # an update counts nothing
    algorithm.observe(rollout)
    again = algorithm.add_rewards(rollout)[next_key(VISIT_BONUS)]
    torch.testing.assert_close(again, bonus / 2**0.5)


# Masks.


def test_a_target_takes_no_action_that_is_masked():
    """Where one joint action alone is allowed next, its value counts."""
    env = PushBox(B, seed=0, mask_blocked=True)
    algorithm = make(env, n_steps=1, rewarded_share=0.0, loss_function="l2", double_q=True)
    batch = env.rollout(1, algorithm.actor).reshape(-1)
    mask = torch.zeros_like(batch["next", "agents", "action_mask"])
    mask[:, 0, 1] = mask[:, 1, 3] = True
    batch["next", "agents", "action_mask"] = mask
    following = batch["next", "agents", "observation"]
    found = TensorDict(
        {"agents": {"observation": following, "action_mask": torch.ones_like(mask)}}, [B]
    )
    with torch.no_grad():
        values = algorithm.actor(found)["joint_action_value"][:, 1 * 5 + 3]
        batch_values = algorithm.actor(batch.copy())["joint_action_value"]
    taken = joint_action_number(batch["agents", "action"]).squeeze(-1)
    goal = batch["next", "agents", "reward"].mean((-1, -2)) + GAMMA * values
    expected = (batch_values[torch.arange(B), taken] - goal).square().mean()
    torch.testing.assert_close(algorithm.update({"batch": batch})["loss_qvalue"], expected)


# State, compiling.


def test_a_state_taken_over_continues_bit_for_bit():
    env = PushBox(B, seed=0)
    first, second = (make(env, team_visit_coeff=0.1, slots=100) for _ in range(2))
    rollout = push_box_runs(env, first)
    for _ in range(2):
        first.observe(rollout)
        first.update({"batch": rollout})
    second.load_state_dict(first.state_dict())
    for algorithm in (first, second):
        algorithm.observe(rollout)
    logs = [algorithm.update({"batch": rollout}) for algorithm in (first, second)]
    assert all((logs[0][key] == logs[1][key]).all() for key in logs[0].keys())  # noqa: SIM118


def test_compiled_and_eager_updates_agree():
    found = []
    for compiled in (False, True):
        algorithm = make(compile=compiled)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside the compiler
            found.append([algorithm.update({"batch": runs(seed=seed)}) for seed in range(3)])
    assert algorithm._gradient.compiled is not None
    for expected, logs in zip(*found, strict=True):
        for key, value in expected.items():
            torch.testing.assert_close(logs[key], value, rtol=1e-3, atol=1e-5, msg=key)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: make(TargetEnv()), ValueError, "one-hot"),
        (lambda: make(team_visit_coeff=0.1), ValueError, "count_codes"),
        (lambda: make(rewarded_share=1.5), ValueError, "rewarded_share"),
        (lambda: make(team_visit_coeff=-1.0), ValueError, "team_visit_coeff"),
        (lambda: make(tau=0.0), ValueError, "tau"),
        (lambda: make(critic_lr=0.0), ValueError, "critic_lr"),
        (lambda: make().update({"batch": runs(steps=2)}), ValueError, r"n_steps=3 needs runs"),
        (
            lambda: make(TargetEnv(discrete=True, n_agents=2)).update({"batch": runs()}),
            ValueError,
            "observation",
        ),
        (
            lambda: make().update({"batch": runs().exclude(("next", "agents", "reward"))}),
            KeyError,
            "reward",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_it_reads_runs_of_which_a_share_is_rewarded():
    algorithm = make(rewarded_share=0.5)
    (stream,) = algorithm.replays().values()
    assert (stream.steps, stream.rewarded_share) == (STEPS, 0.5)
    assert JointDQNSettings().n_steps == 5
    assert by_name(algorithm, runs()).keys() == {"batch"}
    assert algorithm.actor(runs()[:, 0].select(("agents", "observation")))[
        "agents", "action"
    ].shape == (B, N, A)
