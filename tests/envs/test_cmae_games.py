"""Push-Box and Secret Room by CMAE's rules: step by step as a second writing of them plays."""

from __future__ import annotations

import re
from random import Random

import pytest
import torch
from reference_cmae import LEFT, RIGHT, UP, ReferencePushBox, ReferenceSecretRoom
from torchrl.envs.utils import check_env_specs

from torchrl_alita.envs import (
    CMAEPushBox,
    CMAESecretRoom,
    PushBoxSettings,
    SecretRoomSettings,
    environment_state,
    get_task,
    make_env,
)
from torchrl_alita.metrics import exploration_metrics

ACTION, OBSERVATION = ("agents", "action"), ("agents", "observation")
REWARD, MASK = ("agents", "reward"), ("agents", "action_mask")
EYE = torch.eye(4)
B = 64
GAMES = {"push": (CMAEPushBox, ReferencePushBox), "room": (CMAESecretRoom, ReferenceSecretRoom)}


def drawn(random: Random, last: list[int]) -> list[int]:
    """Random actions that often agree and often last, with which the games are solved."""
    if random.random() < 0.7:
        return last
    first = random.randrange(4)
    return [first, first if random.random() < 0.8 else random.randrange(4)]


@pytest.mark.parametrize("name", GAMES)
def test_every_step_is_that_of_the_reference(name):
    kind, reference = GAMES[name]
    env, games = kind(B), [reference() for _ in range(B)]
    random = Random(0)
    step = env.reset()
    for game in games:
        game.reset()
    actions, solved = [[0, 0]] * B, 0
    if name == "room":
        # Near the doors, so that they are passed.
        starts = [[(random.randrange(17, 25), random.randrange(3, 9)), (4, 11)] for _ in range(B)]
        env.agent_cells = torch.tensor(starts)
        for game, start in zip(games, starts, strict=True):
            game.agents = list(start)
    for _ in range(400):
        actions = [drawn(random, last) for last in actions]
        after = env.step(step.set(ACTION, EYE[torch.tensor(actions)]))["next"]
        for row, game in enumerate(games):
            reward, terminated, truncated = game.step(actions[row])
            solved += terminated
            assert [tuple(cell) for cell in env.agent_cells[row].tolist()] == game.agents
            if name == "push":
                assert tuple(env.box_cells[row].tolist()) == game.box
            else:
                assert env.door_open[row].tolist() == game.open
            assert after[REWARD][row].flatten().tolist() == [reward] * 2
            assert bool(after["terminated"][row]) == terminated
            assert bool(after["truncated"][row]) == truncated
            if terminated or truncated:
                game.reset()
        step = env.reset(after.set("_reset", after["done"].clone()).exclude(REWARD))
    if name == "push":
        assert solved > 5


def act(env, step, *numbers: int):
    return env.step(step.set(ACTION, EYE[list(numbers)][None]))["next"]


def test_two_agents_bring_the_box_to_the_edge_and_are_paid_once():
    env = CMAEPushBox()
    step = env.reset()
    env.agent_cells = torch.tensor([[[7, 9], [8, 9]]])
    for _ in range(5):
        step = act(env, step, LEFT, LEFT).exclude(REWARD)
        assert not step["done"]
    step = act(env, step, LEFT, LEFT)
    assert env.box_cells.tolist() == [[7, 1]]
    assert step["terminated"].all()
    assert step[REWARD].flatten().tolist() == [1, 1]


def test_one_agent_or_two_of_different_minds_do_not_move_the_box():
    for cells, actions in (
        ([[7, 9], [0, 0]], (LEFT, LEFT)),
        ([[7, 9], [9, 7]], (LEFT, UP)),
        ([[7, 9], [7, 5]], (LEFT, RIGHT)),
        # Beside the box's corner there is nothing to push.
        ([[5, 9], [7, 9]], (LEFT, LEFT)),
    ):
        env = CMAEPushBox()
        step = env.reset()
        env.agent_cells = torch.tensor([cells])
        act(env, step, *actions)
        assert env.box_cells.tolist() == [[7, 7]]


def test_the_room_is_solved_by_holding_doors_for_each_other():
    env = CMAESecretRoom()
    step = env.reset()
    # The first is at the large room's switch, the second beside the top door.
    env.agent_cells = torch.tensor([[[20, 5], [4, 11]]])
    holds = [LEFT, RIGHT] * 20
    enters = zip(holds, [LEFT, *[RIGHT] * 10], strict=False)
    follows = zip([*[UP] * 16, *[RIGHT] * 10], holds, strict=False)
    for actions in (*enters, *follows):
        step = act(env, step, *actions)
        if step["done"]:
            break
        step = step.exclude(REWARD)
    assert step["terminated"].all()
    assert step[REWARD].flatten().tolist() == [1, 1]
    assert env.agent_cells[0, 0].tolist() == [4, 14]


def test_the_first_switch_alone_acts():
    env = CMAESecretRoom()
    step = env.reset()
    env.agent_cells = torch.tensor([[[12, 20], [4, 20]]])
    act(env, step, LEFT, LEFT)
    assert env.door_open.tolist() == [[True, False, False]]


def test_blind_play_solves_push_box_as_often_as_was_measured():
    """Team-correlated, persistent random play: 43 % of 20,000 episodes, independent 0.7 %."""
    episodes, generator = 1_500, torch.Generator().manual_seed(0)
    for agreement, low, high in ((1.0, 0.38, 0.48), (0.0, 0.0, 0.03)):
        env = CMAEPushBox(episodes)
        step, solved = env.reset(), torch.zeros(episodes, dtype=torch.bool)
        last = torch.randint(4, (episodes, 2), generator=generator)
        for _ in range(300):
            new = torch.randint(4, (episodes, 2), generator=generator)
            keep = torch.rand(episodes, 2, generator=generator) < 0.7
            last = torch.where(keep, last, new)
            if agreement:
                last = last[:, :1].expand(-1, 2)
            step = env.step(step.set(ACTION, EYE[last]))["next"].exclude(REWARD)
            solved |= step["terminated"].squeeze(-1)
        assert low <= float(solved.float().mean()) <= high


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", GAMES)
def test_specs_are_kept_and_an_episode_is_resumed_exactly(name, masked):
    env, other = (GAMES[name][0](3, mask_blocked=masked, horizon=9) for _ in range(2))
    check_env_specs(env)
    step = env.rollout(5)[:, -1]["next"]
    other.rollout(2)
    environment_state(other).load_state_dict(environment_state(env).state_dict())
    ends = []
    for each in (env, other):
        torch.manual_seed(0)
        td = step.clone()
        for _ in range(20):
            td = each.step_and_maybe_reset(td.update(each.rand_action(td.clone())))[1]
        ends.append(td[OBSERVATION])
    assert torch.equal(*ends)


@pytest.mark.parametrize("name", GAMES)
def test_a_masked_move_changes_nothing_where_it_is_allowed(name):
    """What the mask forbids leaves an agent where it is; of walls and closed doors it is all."""
    env = GAMES[name][0](256, mask_blocked=True)
    step = env.rollout(60, break_when_any_done=False)[:, -1]["next"].exclude(REWARD)
    allowed = step[MASK].clone()
    open_env = GAMES[name][0](256)
    open_env.reset()
    for number in range(4):
        for key in open_env._state:
            setattr(open_env, key, getattr(env, key).clone())
        before = open_env.agent_cells.clone()
        td = open_env.reset()
        for key in open_env._state:
            setattr(open_env, key, getattr(env, key).clone())
        open_env.step(td.set(ACTION, EYE[[number] * 2].expand(256, 2, 4).clone()))
        stayed = (open_env.agent_cells == before).all(-1)
        assert stayed[~allowed[..., number]].all()
        if name == "room":
            assert not stayed[allowed[..., number]].any()


# Tasks


def test_both_rule_sets_are_tasks_of_their_own_names():
    assert isinstance(make_env("push_box_cmae", seed=0), CMAEPushBox)
    assert isinstance(make_env("secret_room_cmae", seed=0), CMAESecretRoom)
    settings = PushBoxSettings(rules="cmae", reward=5.0)
    env = make_env("push_box", num_envs=3, seed=0, settings=settings)
    assert (env.reward, env.horizon, env.batch_size) == (5.0, 300, (3,))
    assert make_env("push_box", seed=0).reward == 1000


@pytest.mark.parametrize("name", ["push_box_cmae", "secret_room_cmae"])
def test_tasks_measure_draw_and_count(name):
    task = get_task(name)
    env = make_env(task, num_envs=3, seed=0)
    episodes = env.rollout(6)
    assert all(float(value) >= 0 for value in task.metrics(episodes).values())
    assert len(task.draw(episodes[0])) == 7
    counts = exploration_metrics(env, events=task.events(env))
    assert float(counts(episodes)["state_visited"]) > 1
    assert list(counts.maps())[:2] == ["team", "agent 0"]


def test_success_is_measured():
    env = CMAESecretRoom(horizon=5)
    step = env.reset()
    env.agent_cells = torch.tensor([[[4, 13], [4, 14]]])
    first = env._entries(*[torch.zeros(1, 1, dtype=torch.bool)] * 2)
    after = env.step(first.set(ACTION, EYE[[RIGHT, RIGHT]][None]))
    values = get_task("secret_room_cmae").metrics(after.unsqueeze(1))
    assert float(values["success_rate"]) == 1
    assert step is not first


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PushBoxSettings(rules="cma"), "rules must be"),
        (
            lambda: PushBoxSettings(rules="cmae", respawn=False),
            "respawn, start and pushes_needed are of EDTI's rules, got (False, 'corner', 2)",
        ),
        (
            lambda: SecretRoomSettings(rules="cmae", target_room=1),
            "door_steps, start, target_room and door_bits are of EDTI's rules, got (8, 'large_room'",
        ),
        (lambda: CMAEPushBox(size=10), "size must be"),
        (lambda: CMAESecretRoom(size=19), "size must be"),
        (
            lambda: make_env("push_box_cmae", n_agents=3),
            "By CMAE's rules there are 2 agents, got n_agents=3.",
        ),
    ],
)
def test_what_the_rules_do_not_have_is_refused(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_what_is_counted_in_push_box_are_cells_with_the_boxs():
    env = CMAEPushBox(2)
    step = env.reset()
    codes = env.count_codes()

    def number(*digits: int) -> int:
        return sum(digit * 15**place for place, digit in enumerate(reversed(digits)))

    seen = step["agents", "observation"]
    own, team = number(11, 11, 7, 7), number(11, 11, 9, 9, 7, 7)
    assert codes.own(seen).tolist() == [[own, number(9, 9, 7, 7)]] * 2
    assert codes.team(seen).tolist() == [team] * 2
    assert codes.deterministic


def test_what_is_counted_in_secret_room_are_cells_whatever_the_doors():
    env = CMAESecretRoom()
    step = env.reset()
    env.agent_cells = torch.tensor([[[21, 7], [4, 11]]])
    step["agents", "action"] = torch.eye(4)[[3, 0]][None]
    after = env.step(step)["next", "agents", "observation"]
    assert env.door_open.all()
    codes = env.count_codes()
    (left, row), (up, column) = env.agent_cells[0].tolist()
    own = [left * 25 + row, up * 25 + column]
    assert codes.own(after).tolist() == [own]
    assert codes.team(after).tolist() == [own[0] * 625 + own[1]]
    assert not codes.deterministic
