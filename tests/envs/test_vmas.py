"""Every scenario of VMAS: in one layout, with its own arguments, resumed exactly, drawn."""

from __future__ import annotations

import dataclasses
import re
import sys

import numpy as np
import pytest
import torch
from torchrl.envs.utils import check_env_specs

from torchrl_alita.envs import (
    environment_state,
    get_task,
    layout_of,
    make_env,
    registry,
    sides_of,
    task_names,
    vmas_scenarios,
    vmas_task,
)
from torchrl_alita.training import evaluate

pytest.importorskip("vmas")
ACTION, OBSERVATION = ("agents", "action"), ("agents", "observation")
REWARD = ("next", "agents", "reward")
B, T = 2, 5
# One of each kind: equal agents, groups, adversaries, unequal actions, a scripted other side.
SCENARIOS = (
    "balance", "navigation", "transport", "wheel", "simple_tag", "simple_adversary",
    "simple_speaker_listener", "football", "give_way", "dropout", "simple_world_comm",
)  # fmt: skip


def make(scenario: str, *, continuous: bool = True, seed: int = 0, **options):
    task = vmas_task(scenario, continuous_actions=continuous)
    return make_env(task, **{"num_envs": B, "seed": seed, "horizon": T, **options})


def test_every_scenario_of_vmas_is_a_task():
    import vmas

    every = {*vmas.scenarios, *vmas.mpe_scenarios, *vmas.debug_scenarios}
    assert set(vmas_scenarios()) == every
    assert {f"vmas/{name}" for name in every} | {"vmas/spread"} <= set(task_names())


@pytest.mark.parametrize("continuous", [True, False])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenarios_have_the_layout_of_the_package(scenario, continuous):
    env = make(scenario, continuous=continuous)
    check_env_specs(env)
    rollout = env.rollout(T + 2, break_when_any_done=False)
    layout = layout_of(env)
    assert layout.discrete != continuous
    assert rollout[OBSERVATION].shape == (B, T + 2, layout.num_agents, layout.observation_size)
    assert rollout[REWARD].shape == (B, T + 2, layout.num_agents, 1)
    assert rollout["next", "truncated"][:, T - 1].all()


@pytest.mark.parametrize("continuous", [True, False])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_scenario_is_resumed_in_the_middle_of_an_episode(scenario, continuous):
    env, other = (make(scenario, continuous=continuous, seed=seed) for seed in (0, 1))
    step = env.rollout(2, break_when_any_done=False)[:, -1]["next"].exclude("reward")
    other.rollout(3)
    environment_state(other).load_state_dict(environment_state(env).state_dict())
    actions = [env.rand_action()[ACTION] for _ in range(T)]
    ends = []
    for each in (env, other):
        td, seen = step.clone(), []
        for action in actions:
            td = each.step_and_maybe_reset(td.set(ACTION, action))[1]
            seen.append(td[OBSERVATION].clone())
        ends.append(torch.stack(seen))
    assert torch.equal(*ends)


def test_agents_of_several_kinds_see_and_do_what_vmas_says():
    """The simulator's own numbers, agent by agent, in the order of the groups."""
    from vmas import make_env as make_plain

    env = make("simple_tag")
    plain = make_plain("simple_tag", num_envs=B, device="cpu", seed=0)
    step = env.reset()
    plain.seed(0)
    seen = plain.reset()
    simulator = env.base_env._env
    for agent, own in zip(plain.agents, simulator.agents, strict=True):
        agent.state.pos, agent.state.vel = own.state.pos.clone(), own.state.vel.clone()
    for mark, own in zip(plain.world.landmarks, simulator.world.landmarks, strict=True):
        mark.state.pos = own.state.pos.clone()
    action = torch.rand(B, 4, 2) * 2 - 1
    step[ACTION] = action
    after = env.step(step)["next"]
    seen, paid, *_ = plain.step(list(action.unbind(1)))
    for agent, own in enumerate(seen):
        assert torch.equal(after[OBSERVATION][:, agent, : own.shape[-1]], own)
        assert not after[OBSERVATION][:, agent, own.shape[-1] :].any()
        assert torch.equal(after["agents", "reward"][:, agent, 0], paid[agent])


def test_discrete_choices_are_vmas_own():
    env = make("simple_speaker_listener", continuous=False)
    spec = env.full_action_spec[ACTION]
    # The speaker's 9 moves, which do nothing, times 3 symbols; the listener's 9 moves.
    assert spec.mask[0].sum(-1).tolist() == [27, 9]


def test_a_scenarios_arguments_are_the_tasks_settings():
    task = get_task("vmas/football")
    assert task.settings.n_blue_agents == 3
    few = dataclasses.replace(task.settings, n_blue_agents=2, ai_red_agents=False)
    env = make_env(task, num_envs=B, seed=0, settings=few)
    assert layout_of(env).num_agents == 5
    same = make_env(vmas_task("football", {"n_blue_agents": 2, "ai_red_agents": False}), seed=0)
    assert layout_of(same) == layout_of(env)


def test_the_number_of_agents_is_the_scenarios_where_it_has_one():
    assert get_task("vmas/balance").n_agents == 3
    assert layout_of(make_env("vmas/balance", num_envs=B, n_agents=5)).num_agents == 5
    assert layout_of(make_env("vmas/balance", num_envs=B)).num_agents == 3


def test_metrics_are_of_what_the_scenario_tells_and_each_group_has_its_return():
    task, env = get_task("vmas/simple_tag"), make("simple_tag")
    result, episodes = evaluate(None, env, task.metrics, horizon=T, seed=0, sides=sides_of(env))
    assert set(task.metrics(episodes)) == {"episode_length"}
    reward = episodes[REWARD][..., 0].sum(1).mean(0)
    assert result["return_adversary"] == pytest.approx(float(reward[:3].mean()))
    assert result["return_agent"] == pytest.approx(float(reward[3]))
    told = get_task("vmas/balance").metrics(make("balance").rollout(T))
    assert set(told) == {"episode_length", "info_pos_rew", "info_ground_rew"}


@pytest.mark.parametrize("scenario", ["balance", "football", "simple_tag"])
def test_a_drawing_has_a_picture_for_each_step(scenario):
    task = get_task(f"vmas/{scenario}")
    frames = task.draw(make(scenario).rollout(T)[0])
    assert len(frames) == T
    assert {frame.size for frame in frames} == {(320, 336)}
    assert len(set(frames[0].crop((0, 0, 320, 320)).getcolors(100_000))) > 1


def test_seeds_may_be_numpys():
    env = make("simple_tag")
    env.set_seed(np.int64(4))
    first = env.reset()[OBSERVATION]
    env.set_seed(4)
    assert torch.equal(first, env.reset()[OBSERVATION])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: get_task("vmas/footbal"),
            ValueError,
            "Unknown task 'vmas/footbal'. Did you mean 'vmas/football'?",
        ),
        (
            lambda: vmas_task("footbal"),
            ValueError,
            "Unknown scenario of VMAS 'footbal'. Did you mean 'football'?",
        ),
        (
            lambda: vmas_task("football", {"n_blue": 2}),
            ValueError,
            "Unknown argument of football 'n_blue'. Did you mean 'n_blue_agents'?",
        ),
        (
            lambda: make_env("vmas/simple_tag", n_agents=3),
            ValueError,
            "The scenario 'simple_tag' has 4 agents, got n_agents=3; its arguments are [",
        ),
        (
            lambda: make_env("vmas/balance", n_agents=1),
            ValueError,
            "The scenario 'balance' cannot be built with the arguments {'continuous_actions': "
            "True, 'n_agents': 1}: AssertionError",
        ),
    ],
)
def test_wrong_input_is_one_sentence(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()


def test_without_vmas_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "vmas", None)
    monkeypatch.setattr(registry, "TASKS", {})
    for call in (lambda: get_task("vmas/football"), lambda: vmas_task("football")):
        with pytest.raises(ImportError, match=r"torchrl_alita\[vmas\]"):
            call()
