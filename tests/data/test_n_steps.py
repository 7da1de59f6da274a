"""Transitions of several steps: what they pay, where they end, and how buffers draw them."""

from __future__ import annotations

import pytest
import torch
from fakes import B, N, TargetEnv, build, by_name, flat_config, random_batch
from tensordict import TensorDict
from torchrl.envs import MultiStepTransform
from torchrl.objectives import SoftUpdate

from torchrl_alita import ALITA, MADDPG, MADDPGLoss, functional, make_actor, make_critic
from torchrl_alita.algorithms import DDPG, TD3Settings
from torchrl_alita.data import Replay, n_step_transitions
from torchrl_alita.envs import PushBox
from torchrl_alita.layout import DIVERSITY_PENALTY, NOVELTY, REWARD, TOTAL_REWARD, next_key
from torchrl_alita.objectives import InfluenceEstimatorLoss
from torchrl_alita.training.buffers import Buffers
from torchrl_alita.training.collection import with_memory

ENV = TargetEnv()
STEPS, GAMMA = 3, 0.5
SMALL = {"num_cells": (13,), "gamma": GAMMA}


def run(done: list[bool], terminated: list[bool]) -> TensorDict:
    """One run of three steps that pay 1, 2 and 4 to the first agent, ten times that to the next."""
    reward = torch.tensor([1.0, 2.0, 4.0]).view(3, 1, 1) * 10.0 ** torch.arange(N).view(N, 1)
    flags = {
        name: torch.tensor(flag).unsqueeze(-1)
        for name, flag in (("done", done), ("terminated", terminated))
    }
    seen = torch.tensor([5.0, 6.0, 7.0]).view(3, 1, 1).expand(3, N, 1)
    following = {"agents": {"reward": reward, "observation": seen}, **flags}
    agents = {"observation": seen - 1}
    return TensorDict({"agents": agents, "next": following}, [3]).unsqueeze(0)


# 1 + 2 / 2 + 4 / 4 is all of it.
@pytest.mark.parametrize(
    ("done", "terminated", "earned", "stopped", "steps"),
    [
        ([False, False, False], [False, False, False], 3.0, False, 3),
        ([False, False, True], [False, False, True], 3.0, True, 3),
        ([False, False, True], [False, False, False], 3.0, False, 3),
        ([False, True, False], [False, True, False], 2.0, True, 2),
        ([False, True, False], [False, False, False], 2.0, False, 2),
        ([True, False, False], [True, False, False], 1.0, True, 1),
        # A later episode's end is none of this one's.
        ([True, True, True], [False, True, True], 1.0, False, 1),
    ],
)
def test_what_a_run_pays_is_what_its_first_episode_still_pays(
    done, terminated, earned, stopped, steps
):
    """Worked by hand: a time limit ends the sum and lets the value count, a termination not."""
    found = n_step_transitions(run(done, terminated), gamma=GAMMA)
    assert found.batch_size == (1,)
    expected = earned * 10.0 ** torch.arange(N).view(N, 1)
    torch.testing.assert_close(found["next", "agents", "reward"][0], expected)
    assert found["next", "terminated"].tolist() == [[stopped]]
    assert found["steps_to_next_obs"].tolist() == [[steps]]
    assert found["agents", "observation"].unique().tolist() == [4.0]
    assert found["next", "agents", "observation"].unique().tolist() == [4.0 + steps]


def test_the_target_is_the_sum_and_the_value_after_it():
    """3 + 8 / 8 where it goes on; 2 + 8 / 4 after a time limit; 2 after a termination."""
    runs = torch.cat(
        [
            run([False] * 3, [False] * 3),
            run([False, True, False], [False] * 3),
            run([False, True, False], [False, True, False]),
        ]
    )
    found = n_step_transitions(runs, gamma=GAMMA)
    target = functional.td_target(
        found["next", "agents", "reward"],
        found["next", "terminated"],
        torch.full((3, N, 1), 8.0),
        GAMMA ** found["steps_to_next_obs"].unsqueeze(-1),
    )
    assert target[:, 0, 0].tolist() == [4.0, 4.0, 2.0]


def test_an_agent_that_ends_before_its_team_earns_no_more():
    runs = run([False] * 3, [False] * 3)
    own = torch.zeros(1, 3, N, 1, dtype=torch.bool)
    own[0, 1:, 1] = True  # the second agent, at the second step, for good
    runs["next", "agents", "terminated"] = own
    found = n_step_transitions(runs, gamma=GAMMA, terminated=("agents", "terminated"))
    assert found["next", "agents", "reward"].flatten().tolist() == [3.0, 20.0, 300.0]
    assert found["next", "agents", "terminated"].flatten().tolist() == [False, True, False]
    assert found["steps_to_next_obs"].item() == 3


@pytest.mark.parametrize("terminates", [True, False])
def test_it_is_what_torchrls_transform_makes_of_the_same_steps(terminates):
    """With its done_keys empty, so that the flags are those of the last step."""
    rollout = TargetEnv(terminates=terminates).rollout(11, break_when_any_done=False)
    transform = MultiStepTransform(STEPS, GAMMA, reward_keys=[REWARD], done_keys=[])
    theirs = transform.inv(rollout.exclude(("next", "truncated")).clone())
    runs = torch.stack([rollout[:, t : t + STEPS] for t in range(theirs.shape[1])], 1)
    ours = n_step_transitions(runs, gamma=GAMMA)
    for key in (REWARD, ("agents", "observation"), "terminated"):
        torch.testing.assert_close(ours[next_key(key)], theirs[next_key(key)])
    assert (ours["steps_to_next_obs"].squeeze(-1) == theirs["steps_to_next_obs"]).all()
    assert len(ours["steps_to_next_obs"].unique()) > 1


def test_the_loss_reads_the_steps_of_torchrls_transform():
    """Its transitions and ours give the same loss, and so do those who borrow the critics."""
    rollout = TargetEnv(terminates=True).rollout(11, break_when_any_done=False)
    transform = MultiStepTransform(STEPS, GAMMA, reward_keys=[REWARD], done_keys=[])
    theirs = transform.inv(rollout.clone())
    runs = torch.stack([rollout[:, t : t + STEPS] for t in range(theirs.shape[1])], 1)
    ours = n_step_transitions(runs, gamma=GAMMA)
    torch.manual_seed(0)
    loss = MADDPGLoss(
        make_actor(ENV, num_cells=(13,)), make_critic(ENV, num_cells=(13,)), gamma=GAMMA
    )
    estimator, _ = InfluenceEstimatorLoss(loss), SoftUpdate(loss, tau=0.1)
    assert loss(ours)["loss_qvalue"] == loss(theirs)["loss_qvalue"]
    assert (estimator.value_target(ours) == estimator.value_target(theirs)).all()
    one_step = ours.exclude("steps_to_next_obs")
    assert loss(ours)["target_value"] != loss(one_step)["target_value"]
    assert (estimator.value_target(ours) != estimator.value_target(one_step)).any()


def test_without_ends_three_steps_are_one_with_their_sum_and_gamma_cubed():
    runs = random_batch(batch_size=(B, STEPS))
    runs["next", "done"].zero_()
    runs["next", "terminated"].zero_()
    one = runs[:, 0].clone()
    one["next"] = runs["next"][:, -1].clone()
    reward = runs["next", "agents", "reward"]
    one["next", "agents", "reward"] = reward[:, 0] + reward[:, 1] / 2 + reward[:, 2] / 4
    logs = []
    for options, batch in (({"n_steps": STEPS}, runs), ({"gamma": GAMMA**STEPS}, one)):
        torch.manual_seed(0)
        algorithm = build(MADDPG, ENV, **(SMALL | options))
        logs.append(algorithm.update({"batch": batch}))
    for key, value in logs[0].items():
        torch.testing.assert_close(value, logs[1][key], msg=key)


@pytest.mark.parametrize("make", [MADDPG, DDPG, ALITA])
def test_what_follows_an_end_reaches_no_loss(make):
    """NaN in the next episode's rewards, observations and actions, within the run."""
    runs = random_batch(batch_size=(B, STEPS))
    runs["next", "done"][:, 0] = True
    for key in (("next", "agents", "reward"), ("next", "agents", "observation")):
        runs[key][:, 1:] = torch.nan
    if make is not ALITA:  # whose bonuses of those steps are computed, and left out
        runs["agents", "action"][:, 1:] = torch.nan
    algorithm = build(make, ENV, n_steps=STEPS, **SMALL)
    logs = algorithm.update(by_name(algorithm, runs, recent=random_batch()))
    assert all(value.isfinite().all() for value in logs.values())


def test_delayed_policies_learn_from_runs_too():
    """MATD3: the critics alone at every other update, from the same transitions."""
    runs = random_batch(batch_size=(B, STEPS))
    values = []
    for delay in (1, 2):
        torch.manual_seed(0)
        algorithm = build(MADDPG, ENV, n_steps=STEPS, num_critics=2, policy_delay=delay, **SMALL)
        values.append(algorithm.update({"batch": runs})["loss_qvalue"])
    torch.testing.assert_close(*values)


# ALITA.


def alita(n_steps: int, **options) -> ALITA:
    torch.manual_seed(0)
    settings = {"novelty_coeff": 0.3, "diversity_coeff": 0.7, "optimum": "policy", **options}
    return build(ALITA, ENV, n_steps=n_steps, **SMALL, **settings)


def test_each_step_is_paid_its_own_bonuses():
    """Sum of (reward + 0.3 novelty + 0.7 penalty) of each step, to the end of the episode."""
    algorithm = alita(STEPS)
    runs = random_batch(batch_size=(B, STEPS))
    runs["next", "done"].zero_()
    runs["next", "terminated"].zero_()
    runs["next", "done"][0, 1] = True
    paid = algorithm.add_rewards(runs)
    parts = {key: paid[next_key(key)] for key in (REWARD, NOVELTY, DIVERSITY_PENALTY)}
    assert all((part != 0).any() for part in parts.values())
    each = parts[REWARD] + 0.3 * parts[NOVELTY] + 0.7 * parts[DIVERSITY_PENALTY]
    expected = each[:, 0] + each[:, 1] / 2 + each[:, 2] / 4
    expected[0] = each[0, 0] + each[0, 1] / 2
    found = n_step_transitions(paid, gamma=GAMMA, reward=TOTAL_REWARD)
    torch.testing.assert_close(found[next_key(TOTAL_REWARD)], expected)
    logs = algorithm.update({"batch": runs, "recent": random_batch()})
    torch.testing.assert_close(logs["novelty"], parts[NOVELTY][:, 0, 0].mean())


@pytest.mark.parametrize("optimum_at", ["current", "next"])
def test_the_influence_is_that_of_the_first_step(optimum_at):
    """Eq. 4 and 7 are of a state and the next one, whatever the critics' targets look ahead."""
    runs = random_batch(batch_size=(B, STEPS))
    logs = {}
    for n_steps, batch in ((STEPS, runs), (1, runs[:, 0])):
        algorithm = alita(n_steps, optimum_at=optimum_at)
        logs[n_steps] = algorithm.update({"batch": batch, "recent": random_batch()})
    same = ("gap_0_1", "gap_0_2", "influence_0", "loss_influence", "loss_actor", "loss_novelty")
    for name in same:
        torch.testing.assert_close(logs[STEPS][name], logs[1][name], msg=name)
    assert logs[STEPS]["loss_qvalue"] != logs[1]["loss_qvalue"]


def test_clones_keep_targets_of_one_step():
    """D_t is of single transitions: their batches have no runs."""
    algorithm = alita(STEPS, estimator="clones")
    replays = algorithm.replays()
    assert {name: replay.steps for name, replay in replays.items()} == {
        "batch": STEPS, "recent": 1, "conditional_0": 1,
    }  # fmt: skip
    runs = random_batch(batch_size=(B, STEPS))
    logs = algorithm.update(
        {"batch": runs, "recent": random_batch(), "conditional_0": random_batch(seed=1)}
    )
    assert logs["loss_estimator_0"] > 0


# Buffers.


def buffers(**options) -> Buffers:
    config = flat_config(
        algorithm="maddpg", n_steps=STEPS, num_envs=B, frames_per_batch=B * 4, total_frames=1_000,
        random_frames=0, frames_per_update=B * 4, batch_size=64, **options,
    )  # fmt: skip
    torch.manual_seed(0)
    return Buffers(config, MADDPG(ENV, config.algorithm))


def collected(first: int, count: int) -> TensorDict:
    """Rows whose rewards say the step, and whose observations the environment."""
    batch = random_batch(batch_size=(B, count))
    batch["next", "done"].zero_()
    batch["next", "agents", "reward"] = (
        torch.arange(first, first + count).view(1, count, 1, 1).expand(B, count, N, 1).float()
    )
    batch["agents", "observation"] = (
        torch.arange(B).view(B, 1, 1, 1).expand_as(batch["agents", "observation"]).float()
    )
    return batch


def step_of(batch: TensorDict) -> torch.Tensor:
    return batch["next", "agents", "reward"][..., 0, 0]


# 40 rows hold five steps of seven environments.
@pytest.mark.parametrize("size", [1_000, 40])
def test_a_batch_is_of_runs_of_one_environment_also_where_the_buffer_is_full(size):
    store = buffers(buffer_size=size)
    store.extend(collected(0, 2))
    assert not store.ready
    for first in (2, 6):
        store.extend(collected(first, 4))
    assert store.ready
    batch = torch.cat([store.sample()["batch"] for _ in range(20)])
    assert batch.batch_size == (20 * 64, STEPS)
    assert (step_of(batch).diff(dim=1) == 1).all()
    assert (batch["agents", "observation"].diff(dim=1) == 0).all()
    oldest = 10 - 5 if size == 40 else 0
    assert set(step_of(batch)[:, 0].tolist()) == set(range(oldest, 10 - STEPS + 1))


@pytest.mark.parametrize("size", [1_000, 35, 40])
def test_a_run_ends_where_the_environments_were_set_back(size):
    """At step 4: what is stored next is of another episode, though nothing ended."""
    store = buffers(buffer_size=size)
    store.cut()
    store.extend(collected(0, 5))
    store.cut()
    store.extend(collected(5, 3))
    batch = torch.cat([store.sample()["batch"] for _ in range(20)])
    assert (batch["next", "done"].squeeze(-1) == (step_of(batch) == 4)).all()
    lasting = n_step_transitions(batch, gamma=1.0)["steps_to_next_obs"].squeeze(-1)
    first = step_of(batch)[:, 0]
    assert (lasting == torch.where(first <= 4, (5 - first).clamp(max=STEPS), STEPS)).all()


def test_a_return_within_a_sequence_ends_where_the_environments_were_set_back():
    config = flat_config(
        algorithm="maddpg", recurrent=True, lmbda=0.8, sequence_length=8, burn_in=0, batch_size=64,
        num_envs=B, frames_per_batch=B * 4, total_frames=1_000, random_frames=0,
        frames_per_update=B * 4,
    )  # fmt: skip
    torch.manual_seed(0)
    env = PushBox(B, seed=0)
    algorithm = MADDPG(env, config.algorithm)
    env, store = with_memory(env, algorithm), Buffers(config, algorithm)
    for first in (0, 4):
        rollout = env.rollout(4, algorithm.actor, break_when_any_done=False)
        rollout["next", "done"].zero_()
        store.extend(rollout)
        if first == 0:
            store.cut()
    done = store.sample()["batch"]["next", "done"].squeeze(-1)
    assert done.tolist() == [[step == 3 for step in range(8)]] * len(done)


def test_a_run_that_no_buffer_holds_is_an_error():
    with pytest.raises(
        ValueError, match=r"buffer of 14 frames, .* holds no 3 steps of 7 environments"
    ):
        buffers(buffer_size=20)


# What cannot be.


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: MADDPG.Settings(n_steps=0), ValueError, "n_steps must be at least 1, got 0"),
        (lambda: MADDPG.Settings(n_steps=2.5), TypeError, "n_steps must be a whole number"),
        (
            lambda: ALITA.Settings(n_steps=3, recurrent=True),
            ValueError,
            "n_steps must be 1 for policies with a memory",
        ),
        (lambda: TD3Settings(n_steps=3), TypeError, "n_steps"),
        (lambda: Replay(steps=2, window=5), ValueError, "no window and no sampler"),
        (lambda: Replay(steps=0), ValueError, "steps must be at least 1"),
        (
            lambda: build(MADDPG, ENV, n_steps=3, **SMALL).update({"batch": random_batch()}),
            ValueError,
            r"n_steps=3 needs runs of 3 steps, \[B, 3\], got a batch of \(7,\)",
        ),
        (
            lambda: n_step_transitions(random_batch()[0], gamma=0.5),
            ValueError,
            "Runs need a dimension of time",
        ),
        (
            lambda: n_step_transitions(random_batch().exclude(("next", "done")), gamma=0.5),
            KeyError,
            "done",
        ),
        (
            lambda: functional.n_step_return(
                torch.zeros(3, N, 1),
                torch.zeros(3, 1, dtype=torch.bool),
                torch.zeros(3, N, 1, dtype=torch.bool),
                0.5,
            ),
            ValueError,
            "done must have the shape",
        ),
    ],
)
def test_what_has_no_meaning_is_refused_in_one_sentence(call, error, message):
    with pytest.raises(error, match=message):
        call()
