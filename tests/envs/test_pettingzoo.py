"""PettingZoo's environments: the bare environment's own numbers, deaths, masks, resuming."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torchrl.envs.utils import check_env_specs

from torchrl_alita import ALITA
from torchrl_alita.envs import (
    ExactPettingZooEnv,
    PettingZooEnv,
    environment_state,
    get_task,
    layout_of,
    make_env,
    pettingzoo_task,
    registry,
    task_names,
)

pytest.importorskip("pettingzoo")
mpe2 = pytest.importorskip("mpe2")
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete  # noqa: E402
from mpe2 import simple_adversary_v3, simple_spread_v3  # noqa: E402

ACTION, OBSERVATION = ("agents", "action"), ("agents", "observation")
ALIVE, MASK = ("agents", "alive"), ("agents", "action_mask")
B, T = 2, 6
SUITES = ("mpe2", "sisl", "butterfly", "mamujoco", "lbforaging", "rware")
TASKS = [name for name in task_names() if name.split("/")[0] in SUITES]
MAMUJOCO = [name.split("/")[1] for name in TASKS if name.startswith("mamujoco/")]


class Leaving:
    """Agent k of three leaves after k + 1 steps, with 1000; the last one by a time limit.

    With ``masks``, agent k may do k + 2 things, but not the first.
    """

    possible_agents = ["short", "middle", "long"]

    def __init__(self, *, masks: bool = False, spaces: dict | None = None):
        self.masks, self.spaces, self.agents = masks, spaces, []

    def observation_space(self, agent):
        seen = Box(-1, 1, (self.possible_agents.index(agent) + 2,))
        if not self.masks:
            return seen
        return Dict(
            {"observation": seen, "action_mask": MultiBinary(int(self.action_space(agent).n))}
        )

    def action_space(self, agent):
        if self.spaces:
            return self.spaces[agent]
        return Discrete(self.possible_agents.index(agent) + 2)

    def seen(self) -> dict:
        seen = {a: np.ones(self.possible_agents.index(a) + 2, np.float32) for a in self.agents}
        if not self.masks:
            return seen
        masks = {a: np.ones(self.action_space(a).n, np.int8) for a in self.agents}
        for mask in masks.values():
            mask[0] = 0
        return {a: {"observation": seen[a], "action_mask": masks[a]} for a in self.agents}

    def reset(self, seed=None):
        self.agents, self.steps = list(self.possible_agents), 0
        return self.seen(), {agent: {} for agent in self.agents}

    def step(self, actions):
        assert set(actions) == set(self.agents)
        self.taken = actions
        self.steps += 1
        leaves = {a: self.possible_agents.index(a) < self.steps for a in self.agents}
        terminated = {a: left and a != "long" for a, left in leaves.items()}
        truncated = {a: left and a == "long" for a, left in leaves.items()}
        paid = {a: 1000.0 if left else 1.0 for a, left in leaves.items()}
        seen = self.seen()
        self.agents = [a for a in self.agents if not leaves[a]]
        return seen, paid, terminated, truncated, {a: {} for a in paid}

    def close(self):
        pass


# The layout


def test_agents_that_leave_are_paid_for_it_and_nothing_later():
    env = PettingZooEnv(Leaving, B, seed=0)
    rollout = env.rollout(T)
    after = rollout["next"]
    assert rollout.shape == (B, 3)
    assert after["agents", "reward"][0, ..., 0].tolist() == [
        [1000, 1, 1], [0, 1000, 1], [0, 0, 1000],
    ]  # fmt: skip
    # Who left last was stopped by the time limit, and still sees what its value goes on from.
    assert after[ALIVE][0, ..., 0].tolist() == [
        [False, True, True], [False, False, True], [False, False, True],
    ]  # fmt: skip
    assert after[OBSERVATION][0, 2].tolist() == [[0] * 4, [0] * 4, [1] * 4]
    assert after["agents", "terminated"][0, -1, :, 0].tolist() == [True, True, False]
    assert after[OBSERVATION][0, 0].tolist() == [[0] * 4, [1, 1, 1, 0], [1] * 4]
    assert after[MASK][0, 0].tolist() == [
        [True, False, False, False], [True, True, True, False], [True] * 4,
    ]  # fmt: skip
    assert after["done"][0].flatten().tolist() == [False, False, True]
    assert after["truncated"][0].flatten().tolist() == [False, False, True]
    assert not after["terminated"].any()
    check_env_specs(env)


def test_an_agent_that_a_limit_stops_before_the_others_sees_its_last_step_and_no_more():
    class Stopped(Leaving):
        """The first agent is stopped by a limit of its own."""

        def step(self, actions):
            before = self.agents
            self.agents = list(before)
            seen = self.seen()
            _, paid, terminated, truncated, infos = super().step(actions)
            if before[0] == "short":
                terminated["short"], truncated["short"] = False, True
            return seen, paid, terminated, truncated, infos

    after = PettingZooEnv(Stopped, B, seed=0).rollout(T)["next"]
    assert after[OBSERVATION][0, :, 0, 0].tolist() == [1, 0, 0]
    assert not after[ALIVE][:, :, 0].any()
    assert not after["agents", "terminated"][:, :, 0].any()
    assert after[MASK][0, :, 0].tolist() == [[True, False, False, False]] * 3


@pytest.mark.parametrize("limit", ["the game's", "the environment's"])
def test_what_is_seen_at_a_time_limit_is_what_the_game_shows(limit):
    """A value goes on from there."""
    cycles = T if limit == "the game's" else 10 * T
    make = partial(simple_spread_v3.parallel_env, max_cycles=cycles)
    env = PettingZooEnv(make, B, seed=0, horizon=T)
    rollout = env.rollout(T)
    after = rollout["next"]
    assert after["truncated"][:, -1].all()
    assert not after["terminated"].any()
    assert not after["agents", "terminated"].any()
    assert after[ALIVE].all()
    game = simple_spread_v3.parallel_env(max_cycles=10 * T)
    game.reset(seed=int(rollout["episode_seed"][0, 0]))
    for step in range(T):
        chosen = rollout[ACTION][0, step].int().argmax(-1).tolist()
        seen = game.step(dict(zip(game.possible_agents, chosen, strict=True)))[0]
        expected = torch.as_tensor(np.stack([seen[agent] for agent in game.possible_agents]))
        assert torch.equal(after[OBSERVATION][0, step], expected.float())


def test_masks_of_the_environment_are_followed():
    env = PettingZooEnv(lambda: Leaving(masks=True), B, seed=0)
    rollout = env.rollout(T)
    assert layout_of(env) == (3, 4, 4, True, True)
    assert rollout[MASK][0, 0].tolist() == [
        [False, True, False, False], [False, True, True, False], [False, True, True, True],
    ]  # fmt: skip
    assert (rollout[ACTION].bool() & ~rollout[MASK]).sum() == 0


def test_masks_in_infos_are_followed_too():
    """Agents of equal actions; in steps 2 and 4 the second choice alone is allowed."""

    class Told(Leaving):
        def told(self):
            only = np.array([0, 1, 0], np.int8) if self.steps % 2 else np.ones(3, np.int8)
            return {agent: {"action_mask": only} for agent in self.agents}

        def reset(self, seed=None):
            return super().reset(seed)[0], self.told()

        def step(self, actions):
            self.steps += 1
            paid = {agent: float(taken == 1) for agent, taken in actions.items()}
            return self.seen(), paid, {}, {}, self.told()

    spaces = dict.fromkeys(Leaving.possible_agents, Discrete(3))
    rollout = PettingZooEnv(lambda: Told(spaces=spaces), B, horizon=4, seed=0).rollout(4)
    assert rollout[MASK].sum(-1)[0].tolist() == [[3] * 3, [1] * 3, [3] * 3, [1] * 3]
    assert rollout["next", "agents", "reward"][:, 1::2].eq(1).all()


@pytest.mark.parametrize(
    ("space", "size", "chosen", "expected"),
    [
        (Discrete(5), 5, 3, 3),
        (Discrete(5, start=-1), 5, 3, 2),
        (MultiDiscrete([2, 3]), 6, 4, [1, 1]),
        (MultiDiscrete([2, 3], start=[5, 1]), 6, 4, [6, 2]),
        # 17 is 1 * 12 + 0 * 6 + 1 * 3 + 2.
        (MultiDiscrete([[2, 2], [2, 3]]), 24, 17, [[1, 0], [1, 2]]),
        (MultiBinary(3), 8, 6, [1, 1, 0]),
        (MultiBinary((2, 2)), 16, 6, [[0, 1], [1, 0]]),
    ],
)
def test_choices_of_every_kind_are_one_hot(space, size, chosen, expected):
    env = PettingZooEnv(lambda: Leaving(spaces=dict.fromkeys(Leaving.possible_agents, space)))
    step = env.reset()
    step[ACTION] = torch.eye(size)[chosen].expand(1, 3, size).clone()
    env.step(step)
    taken = env._envs[0].taken["long"]
    assert np.array_equal(taken, expected)
    assert space.contains(taken)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_bound_is_within_the_space_whatever_its_type(dtype):
    spaces = dict.fromkeys(Leaving.possible_agents, Box(-0.1, 0.1, (2,), dtype))
    env = PettingZooEnv(lambda: Leaving(spaces=spaces))
    for bound in (env.full_action_spec[ACTION].space.low, env.full_action_spec[ACTION].space.high):
        env.step(env.reset().set(ACTION, bound.clone()))
        taken = env._envs[0].taken["long"]
        assert np.array_equal(taken, np.full(2, 0.1 if bound.sum() > 0 else -0.1, dtype))
        assert spaces["long"].contains(taken)


def test_continuous_agents_of_unequal_size_keep_their_bounds():
    spaces = {
        "short": Box(-1, 1, (1,)), "middle": Box(0, 3, (2, 1)), "long": Box(-2, 5, (3,)),
    }  # fmt: skip
    env = PettingZooEnv(lambda: Leaving(spaces=spaces), B, seed=0)
    assert env.full_action_spec[ACTION].space.high[0].tolist() == [[1, 0, 0], [3, 3, 0], [5] * 3]
    rollout = env.rollout(1)
    assert (rollout[ACTION][:, :, 0, 1:] == 0).all()
    assert env._envs[0].taken["middle"].shape == (2, 1)
    check_env_specs(env)


def test_images_are_made_small_and_gray():
    class Pictures(Leaving):
        def observation_space(self, agent):
            return Box(0, 255, (40, 60, 3), np.uint8)

        def seen(self):
            image = np.zeros((40, 60, 3), np.uint8)
            image[:20] = 255
            return dict.fromkeys(self.agents, image)

    env = PettingZooEnv(Pictures, B, image_size=4, seed=0)
    image = env.reset()[OBSERVATION][0, 0].unflatten(0, (4, 4))
    assert image[:, 0].tolist() == [1, 1, 0, 0]
    assert (image == image[:, :1]).all()


@pytest.mark.parametrize("name", [name for name in TASKS if name.startswith("butterfly/")])
def test_no_game_of_pictures_is_black(name):
    try:
        env = make_env(name, seed=0)
    except ImportError as error:
        pytest.skip(str(error))
    seen = env.rollout(2)[OBSERVATION]
    assert (seen.amax(-1) > seen.amin(-1)).all()


def test_an_environment_that_waits_for_its_reset_does_nothing():
    env = PettingZooEnv(Leaving, B, seed=0)
    step = env.rollout(3)[:, -1]["next"].exclude("agents")
    step = env.step(step.update(env.rand_action()))["next"]
    assert step["done"].all()
    assert not step["agents", "reward"].any()


def test_agents_that_are_left_out_are_paid_and_shown_nothing():
    class Forgetful(Leaving):
        def step(self, actions):
            self.steps += 1
            seen, paid = self.seen(), dict.fromkeys(self.agents, 2.0)
            if self.steps == 2:
                del seen["middle"], paid["short"]
            return seen, paid, dict.fromkeys(paid, False), {}, {}

    after = PettingZooEnv(Forgetful, B, horizon=3, seed=0).rollout(T)["next"]
    assert after["agents", "reward"][0, ..., 0].tolist() == [[2, 2, 2], [0, 2, 2], [2, 2, 2]]
    assert after[OBSERVATION][0, :, 1].tolist() == [[1, 1, 1, 0], [0] * 4, [1, 1, 1, 0]]
    assert after[MASK][0, :, 1].tolist() == [
        [True, True, True, False], [True, False, False, False], [True, True, True, False],
    ]  # fmt: skip
    assert after["truncated"][0].flatten().tolist() == [False, False, True]


def test_environments_of_which_some_lose_an_agent_are_laid_out_like_each_alone():
    class Late(Leaving):
        made = 0

        def __init__(self):
            super().__init__()
            Late.made += 1
            self.late = Late.made

        def step(self, actions):
            self.steps += 1
            leaves = {a: a == "short" and self.steps == self.late for a in self.agents}
            paid = {a: float(10 * self.late + self.steps) for a in self.agents}
            seen = {a: own * self.late for a, own in self.seen().items()}
            self.agents = [a for a in self.agents if not leaves[a]]
            return seen, paid, leaves, {}, {}

    after = PettingZooEnv(Late, 3, horizon=3, seed=0).rollout(T)["next"]
    assert after["agents", "reward"][:, :, 1, 0].tolist() == [
        [11, 12, 13],
        [21, 22, 23],
        [31, 32, 33],
    ]
    assert after["agents", "reward"][:, :, 0, 0].tolist() == [[11, 0, 0], [21, 22, 0], [31, 32, 33]]
    assert after[OBSERVATION][:, :, 2].eq(torch.tensor([1, 2, 3]).view(3, 1, 1)).all()


def test_a_single_agent_is_laid_out_like_several():
    class Alone(Leaving):
        possible_agents = ["long"]

        def seen(self):
            return {"long": np.full(2, self.steps, np.float64)}

        def step(self, actions):
            self.steps += 1
            return self.seen(), {"long": 3.0}, {"long": False}, {"long": False}, {"long": {}}

    env = PettingZooEnv(Alone, B, seed=0, horizon=2)
    after = env.rollout(T)["next", "agents"]
    assert after["observation"][0, :, 0].tolist() == [[1, 1], [2, 2]]
    assert after["reward"].flatten().tolist() == [3] * 4
    check_env_specs(env)


def test_observations_of_another_size_than_the_space_has_are_refused():
    class Longer(Leaving):
        def seen(self):
            extra = self.steps > 0
            return {a: np.ones(self.possible_agents.index(a) + 2 + extra) for a in self.agents}

        def step(self, actions):
            self.steps += 1
            return self.seen(), dict.fromkeys(self.agents, 0.0), {}, {}, {}

    with pytest.raises(ValueError, match=r"short observes 3 numbers, its space Box\(.*\) has 2\."):
        PettingZooEnv(Longer, B, seed=0).rollout(1)


# The environments' own numbers


@pytest.mark.parametrize("continuous", [False, True])
def test_rewards_and_observations_are_those_of_the_bare_environment(continuous):
    def make():
        return simple_adversary_v3.parallel_env(continuous_actions=continuous)

    env = PettingZooEnv(make, B, seed=3)
    rollout = env.rollout(T)
    for row in range(B):
        bare = make()
        seen, _ = bare.reset(seed=int(rollout["episode_seed"][row, 0]))
        for step in range(T):
            for number, agent in enumerate(bare.agents):
                own = rollout[OBSERVATION][row, step, number]
                assert np.array_equal(own[: len(seen[agent])], seen[agent])
                assert not own[len(seen[agent]) :].any()
            action = rollout[ACTION][row, step].numpy()
            given = {
                agent: action[number] if continuous else int(action[number].argmax())
                for number, agent in enumerate(bare.agents)
            }
            seen, paid, *_ = bare.step(given)
            assert rollout["next", "agents", "reward"][row, step, :, 0].tolist() == pytest.approx(
                list(paid.values()), rel=1e-6
            )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MAMUJOCO)
def test_robots_move_as_those_of_mamujoco_bit_for_bit(name):
    """Its torques are set in one go, and of most robots what is observed is read in one."""
    mamujoco = pytest.importorskip("gymnasium_robotics").mamujoco_v1
    env = make_env(f"mamujoco/{name}", num_envs=1, seed=0)
    rollout = env.rollout(3)[0]
    bare = mamujoco.parallel_env(*name.split("-", 1))
    seen, _ = bare.reset(seed=int(rollout["episode_seed"][0]))
    for step in range(len(rollout)):
        given = {}
        for number, agent in enumerate(env.agents):
            own = rollout[OBSERVATION][step, number].numpy()
            assert np.array_equal(own[: len(seen[agent])], seen[agent].astype(np.float32))
            size = bare.action_space(agent).shape[0]
            given[agent] = rollout[ACTION][step, number, :size].numpy()
        seen, paid, *_ = bare.step(given)
        assert np.float32(paid[env.agents[0]]) == rollout["next", "agents", "reward"][step, 0, 0]


def test_every_episode_has_a_seed_of_its_own_which_follows_from_the_environments():
    first, again, other = (
        make_env("mpe2/simple_spread_v3", num_envs=B, seed=seed, horizon=3).rollout(
            9, break_when_any_done=False
        )
        for seed in (5, 5, 6)
    )
    assert torch.equal(first[OBSERVATION][:, 0], again[OBSERVATION][:, 0])
    assert torch.equal(first["episode_seed"], again["episode_seed"])
    assert len(first["episode_seed"].unique()) == B * 3
    assert not torch.equal(first["episode_seed"], other["episode_seed"])


@pytest.mark.parametrize("seed", [np.int64(3), torch.tensor(3)])
def test_a_seed_may_be_a_whole_number_of_numpy_or_torch(seed):
    expected = PettingZooEnv(Leaving, B, seed=3).reset()["episode_seed"]
    assert torch.equal(PettingZooEnv(Leaving, B, seed=seed).reset()["episode_seed"], expected)
    env = PettingZooEnv(Leaving, B, seed=4)
    env.set_seed(seed, static_seed=True)
    assert torch.equal(env.reset()["episode_seed"], expected)


def test_turn_taking_environments_are_converted():
    env = PettingZooEnv(simple_spread_v3.env, B, seed=0)
    parallel = PettingZooEnv(simple_spread_v3.parallel_env, B, seed=0)
    step, same = env.reset(), parallel.reset()
    for _ in range(3):
        action = env.rand_action()[ACTION]
        step = env.step(step.set(ACTION, action))["next"]
        same = parallel.step(same.set(ACTION, action))["next"]
        assert torch.allclose(step[OBSERVATION], same[OBSERVATION])


def test_every_agent_is_asked_once_a_step_what_it_sees(monkeypatch):
    """PettingZoo's own conversion asks each a second time, and throws the answer away."""
    scenario = simple_spread_v3.parallel_env().unwrapped.scenario
    asked, observation = [], type(scenario).observation

    def counted(self, agent, world):
        asked.append(agent.name)
        return observation(self, agent, world)

    env = PettingZooEnv(simple_spread_v3.parallel_env, 1, seed=0)
    step = env.rand_action(env.reset())
    monkeypatch.setattr(type(scenario), "observation", counted)
    env.step(step)
    assert asked == list(env.agents)


@pytest.mark.parametrize("kind", [PettingZooEnv, ExactPettingZooEnv])
def test_board_games_are_played_one_turn_a_step(kind):
    pytest.importorskip("pygame")
    tictactoe = pytest.importorskip("pettingzoo.classic.tictactoe_v3")
    env = kind(tictactoe.env, 5, seed=0)
    check_env_specs(env)
    rollout = env.rollout(9, break_when_any_done=False)
    free = rollout[MASK].sum(-1)
    # Nine fields are free, then eight; who waits may do the first thing alone.
    assert free[:, :3].tolist() == [[[9, 1], [1, 8], [7, 1]]] * 5
    after = rollout["next"]
    assert after["agents", "reward"].sum(2).eq(0).all(), "one wins what the other loses"
    assert after["agents", "reward"].abs().amax((1, 2)).eq(1).any()
    assert after["terminated"].any(1).all()
    assert not after["truncated"].any()


# Tasks


def test_the_suites_are_tasks():
    assert {
        "mpe2/simple_adversary_v3", "mpe2/simple_reference_v3", "mpe2/simple_speaker_listener_v4",
        "mpe2/simple_spread_v3", "mpe2/simple_tag_v3", "mpe2/simple_world_comm_v3",
    } <= set(TASKS)  # fmt: skip
    task = get_task("mpe2/simple_spread_v3")
    assert (task.n_agents, task.horizon, task.settings.local_ratio) == (3, 25, 0.5)
    assert make_env(task, num_envs=B, n_agents=5).num_agents == 5


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TASKS)
def test_tasks_are_resumed_in_the_middle_of_an_episode(name):
    """The episode's seed and actions say all: of every task, and across its next reset."""
    try:
        env, other = (make_env(name, num_envs=B, seed=seed, horizon=T) for seed in (0, 1))
    except ImportError as error:
        pytest.skip(str(error))
    step = env.rollout(T + 2, break_when_any_done=False)[:, -1]["next"]
    other.rollout(3)
    environment_state(other).load_state_dict(environment_state(env).state_dict())
    torch.manual_seed(0)
    actions = [env.rand_action(step.clone())[ACTION] for _ in range(T)]
    first, again = [], []
    for each, own in ((env, first), (other, again)):
        td = step.clone()
        for action in actions:
            after, td = each.step_and_maybe_reset(td.set(ACTION, action))
            own += [after["next"].clone(), td.exclude("next")]
    assert any(step["done"].any() for step in first[::2])
    for now, then in zip(first, again, strict=True):
        assert set(now.keys(True, True)) == set(then.keys(True, True))
        for key, value in now.items(True, True):
            assert torch.equal(value, then[key]), key
    assert env.num_agents == get_task(name).n_agents or get_task(name).n_agents is None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in TASKS if name.startswith("mpe2/")])
def test_tasks_have_the_layout(name):
    check_env_specs(make_env(name, num_envs=B, seed=0, horizon=T))


def test_a_picture_shows_the_episode_again():
    task = get_task("mpe2/simple_tag_v3")
    episode = make_env(task, num_envs=B, seed=0).rollout(3)[1]
    frames = task.draw(episode)
    assert len(frames) == 4
    assert max(frames[0].size) == 320
    assert frames[0].tobytes() != frames[3].tobytes()


def test_metrics_are_the_agents_own_returns():
    values = pettingzoo_task(Leaving).metrics(PettingZooEnv(Leaving, B, seed=0).rollout(T))
    assert {name: float(value) for name, value in values.items()} == {
        "episode_length": 3, "return_agent_0": 1000, "return_agent_1": 1001,
        "return_agent_2": 1002,
    }  # fmt: skip


def test_alita_plays_a_team_of_unequal_agents():
    env = make_env("mpe2/simple_speaker_listener_v4", num_envs=B, seed=0)
    rollout = env.rollout(T, ALITA(env).actor)
    assert (rollout[ACTION].bool() & ~rollout[MASK]).sum() == 0


# What is refused


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: PettingZooEnv(lambda: Leaving(
                spaces={"short": Discrete(2), "middle": Box(0, 1, (2,)), "long": Discrete(3)}
            )),
            ValueError,
            "All agents must have actions of one kind, got {'short': 'discrete', 'middle'",
        ),
        (
            lambda: PettingZooEnv(lambda: Leaving(
                spaces=dict.fromkeys(Leaving.possible_agents, Box(-np.inf, np.inf, (2,)))
            )),
            ValueError,
            "The actions of short must have finite bounds, got Box(-inf, inf, (2,)",
        ),
        (
            lambda: PettingZooEnv(lambda: Leaving(
                spaces=dict.fromkeys(Leaving.possible_agents, Box(-1, 1, (2,), np.int64))
            )),
            ValueError,
            "The actions of short in a Box must be floating-point numbers, got "
            "Box(-1, 1, (2,), int64): make whole numbers a MultiDiscrete",
        ),
        (
            lambda: PettingZooEnv(Leaving, seed=-1),
            ValueError,
            "seed must be a whole number from 0 to 18446744073709551615, got -1.",
        ),
        (lambda: PettingZooEnv(dict), TypeError, "make must give an environment of PettingZoo"),
        (lambda: PettingZooEnv(Leaving, 0), ValueError, "num_envs must be at least 1, got 0."),
        (
            lambda: make_env("mpe2/simple_tag_v3", n_agents=3),
            ValueError,
            "The environment has the agents ['adversary_0', 'adversary_1', 'adversary_2', "
            "'agent_0'], got n_agents=3.",
        ),
        (
            lambda: get_task("mpe2/simple_spread_v2"),
            ValueError,
            "Unknown task 'mpe2/simple_spread_v2'. Did you mean 'mpe2/simple_spread_v3'?",
        ),
        # Of its own suite alone.
        (
            lambda: get_task("sisl/waterworld"),
            ValueError,
            "Unknown task 'sisl/waterworld'. One of your own is named module:function. Known: "
            "['sisl/multiwalker_v9', 'sisl/pursuit_v5'].",
        ),
        (lambda: pettingzoo_task(Leaving()), TypeError, "make must be callable"),
        (
            lambda: make_env("mpe2/simple_tag_v3", settings=replace(
                get_task("mpe2/simple_tag_v3").settings, num_good=0.5
            )),
            ValueError,
            "The game 'mpe2/simple_tag_v3' cannot be built with the arguments {'num_good': 0.5, ",
        ),
    ],
)  # fmt: skip
def test_wrong_input_is_one_sentence(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()


def test_a_state_of_other_environments_is_refused_and_nothing_changes():
    env = ExactPettingZooEnv(simple_spread_v3.parallel_env, B, seed=0)
    env.rollout(3)
    before = env.state_dict()
    other = ExactPettingZooEnv(simple_spread_v3.parallel_env, B + 1, seed=0).state_dict()
    with pytest.raises(ValueError, match=r"seeds must be torch.int64 of the shape \(2,\)"):
        env.load_state_dict(other)
    assert all(torch.equal(before[name], value) for name, value in env.state_dict().items())


def test_without_pettingzoo_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(registry, "TASKS", {})
    monkeypatch.setitem(sys.modules, "mpe2", None)
    with pytest.raises(ImportError, match=r"torchrl_alita\[pettingzoo\]"):
        get_task("mpe2/simple_spread_v3")
