"""JaxMARL's environments: the bare environment's numbers, masks, keys, resuming."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest
import torch
from torchrl.envs.utils import check_env_specs

from torchrl_alita.envs import (
    JaxMARLEnv,
    environment_state,
    get_task,
    jaxmarl_task,
    layout_of,
    make_env,
    registry,
    task_names,
)

pytest.importorskip("jaxmarl")
ACTION, OBSERVATION = ("agents", "action"), ("agents", "observation")
MASK, REWARD = ("agents", "action_mask"), ("agents", "reward")
SPEAKER = "jaxmarl/MPE_simple_speaker_listener_v4"
B, T = 2, 4


@pytest.fixture(scope="module")
def speaker():
    return make_env(SPEAKER, num_envs=B, seed=0, horizon=T)


def test_unequal_agents_are_padded_and_masked(speaker):
    assert layout_of(speaker) == (2, 11, 5, True, True)
    check_env_specs(speaker)
    rollout = speaker.rollout(T + 2, break_when_any_done=False)
    assert rollout[MASK][0, 0].sum(-1).tolist() == [3, 5]
    assert not rollout[OBSERVATION][:, :, 0, 3:].any()
    assert (rollout[ACTION].bool() & ~rollout[MASK]).sum() == 0
    assert rollout["next", "truncated"][:, T - 1].all()
    assert not rollout["next", "terminated"].any()
    assert rollout["next", "agents", "alive"].all()


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ([0.0, 0.0, 0.0, 0.0, 1.0], "agent 0 in environment 1 must be allowed by the mask, got 4"),
        ([1.0, 1.0, 0.0, 0.0, 0.0], "agent 0 in environment 1 must be one-hot"),
        ([torch.nan, 0.0, 0.0, 0.0, 0.0], "agent 0 in environment 1 must be one-hot"),
    ],
)
def test_an_action_that_does_not_fit_moves_no_environment(speaker, choice, message):
    speaker.set_seed(3)
    step = speaker.rand_action(speaker.reset())
    before = environment_state(speaker).state_dict()["base"]
    wrong = step.clone()
    wrong[ACTION][1, 0] = torch.tensor(choice)
    with pytest.raises(ValueError, match=message):
        speaker.step(wrong)
    after = environment_state(speaker).state_dict()["base"]
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert speaker.step(step)["next", "agents", "alive"].all()


def test_what_a_caller_writes_into_a_step_changes_no_later_one(speaker):
    seen = []
    for writes in (False, True):
        speaker.set_seed(5)
        torch.manual_seed(5)
        step = speaker.reset()
        for _ in range(2):
            speaker.rand_action(step)
            made, step = speaker.step_and_maybe_reset(step)
            if writes:
                made["next"][OBSERVATION].fill_(7.0)
                step[OBSERVATION].fill_(7.0)
        speaker.rand_action(step)
        seen.append(speaker.step(step)["next"][OBSERVATION].clone())
    torch.testing.assert_close(seen[1], seen[0], rtol=0, atol=0)


def test_an_episode_is_resumed_where_it_was(speaker):
    other = make_env(SPEAKER, num_envs=B, seed=1, horizon=T)
    step = speaker.rollout(2)[:, -1]["next"]
    other.rollout(3)
    environment_state(other).load_state_dict(environment_state(speaker).state_dict())
    actions = [speaker.rand_action(step.clone())[ACTION] for _ in range(2 * T)]
    ends = []
    for each in (speaker, other):
        td, seen = step.clone(), []
        for action in actions:
            td = each.step_and_maybe_reset(td.set(ACTION, action))[1]
            seen.append(td[OBSERVATION].clone())
        ends.append(torch.stack(seen))
    assert torch.equal(*ends)


def test_observations_and_rewards_are_jaxmarls_own(speaker):
    import jax
    import jaxmarl

    bare = jaxmarl.make("MPE_simple_speaker_listener_v4")
    step = speaker.reset()
    state = jax.tree.map(lambda leaf: leaf[0], speaker._game.carry(
        speaker._carry, speaker._game.tensors(speaker._carry), speaker._place
    )[1])  # fmt: skip
    seen = bare.get_obs(state)
    for number, agent in enumerate(bare.agents):
        own = np.asarray(seen[agent])
        assert np.allclose(step[OBSERVATION][0, number, : len(own)], own, atol=1e-6)
    chosen = torch.tensor([[1, 2]] * B)
    after = speaker.step(step.set(ACTION, torch.eye(5)[chosen]))["next"]
    given = dict(zip(bare.agents, (1, 2), strict=True))
    seen, _, paid, _, _ = bare.step_env(jax.random.PRNGKey(0), state, given)
    assert after[REWARD][0].flatten().tolist() == pytest.approx(
        [float(paid[agent]) for agent in bare.agents], rel=1e-5
    )
    own = np.asarray(seen["listener_0"])
    assert np.allclose(after[OBSERVATION][0, 1], own, atol=1e-6)


def test_an_environments_key_does_not_depend_on_how_many_there_are(speaker):
    speaker.set_seed(7)
    many = speaker.reset()[OBSERVATION].clone()
    one = JaxMARLEnv("MPE_simple_speaker_listener_v4", num_envs=1, horizon=T, seed=7)
    assert torch.equal(one.reset()[OBSERVATION][0], many[0])


def test_an_episode_that_ends_by_itself_is_terminated():
    """Telling before everybody was in the room ends the riddle and costs a point."""
    env = make_env("jaxmarl/switch_riddle", num_envs=B, seed=0)
    rollout = env.rollout(6, break_when_any_done=False)
    told = rollout["next", "terminated"].squeeze(-1)
    paid = rollout["next", "agents", "reward"][..., 0, 0]
    assert torch.equal(told, paid != 0)
    assert not (rollout["next", "truncated"] & rollout["next", "terminated"]).any()


def test_a_limit_on_a_games_rounds_is_no_end_of_the_game():
    """Coin game has 10 rounds of 10 steps, after which JaxMARL ends it."""
    env = make_env("jaxmarl/coin_game", num_envs=2, horizon=105, seed=0)
    after = env.rollout(200)["next"]
    assert after.shape[1] == 105
    assert after["truncated"][:, -1].all()
    assert not after["terminated"].any()


def test_the_suite_is_in_the_registry_with_its_arguments():
    assert {SPEAKER, "jaxmarl/overcooked", "jaxmarl/hanabi"} <= set(task_names())
    task = get_task("jaxmarl/MPE_simple_spread_v3")
    assert (task.n_agents, task.horizon) == (3, 25)
    five = jaxmarl_task("MPE_simple_spread_v3", {"num_agents": 5, "num_landmarks": 5})
    assert five.n_agents == 5
    assert task.with_settings(five.settings).n_agents == 5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: get_task("jaxmarl/overcook"), "Did you mean 'jaxmarl/overcooked'?"),
        (lambda: JaxMARLEnv("overcook"), "Unknown environment of JaxMARL 'overcook'. Did you mean"),
        (
            lambda: jaxmarl_task("MPE_simple_spread_v3", {"n": 5}),
            "Unknown argument of MPE_simple_spread_v3 'n'.",
        ),
        (lambda: make_env(SPEAKER, n_agents=3), "The environment has the agents ['speaker_0',"),
        (lambda: JaxMARLEnv("overcooked", horizon=0), "horizon must be at least 1, got 0."),
        (lambda: JaxMARLEnv("storm"), "JaxMARL's 'storm' cannot be built with the arguments {}:"),
    ],
)
def test_wrong_input_is_one_sentence(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_a_step_before_the_first_reset_is_refused():
    env = JaxMARLEnv("MPE_simple_speaker_listener_v4", num_envs=B, horizon=T, seed=0)
    with pytest.raises(RuntimeError, match="must be reset before a step"):
        env.step(env.fake_tensordict())


def test_without_jaxmarl_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(registry, "TASKS", {})
    monkeypatch.setitem(sys.modules, "jaxmarl", None)
    with pytest.raises(ImportError, match=r"torchrl_alita\[smax\]"):
        get_task("jaxmarl/hanabi")
