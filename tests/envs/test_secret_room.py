"""Secret Room: doors and switches worked by hand, its grid, its specs, its pictures."""

from __future__ import annotations

import copy
import importlib
import re
from collections import deque

import pytest
import torch
from fakes import B, by_name
from tensordict import TensorDict
from torchrl.envs import TransformedEnv
from torchrl.envs.utils import check_env_specs

from torchrl_alita import ALITA
from torchrl_alita.envs import (
    Layout,
    SecretRoom,
    SecretRoomSettings,
    draw_secret_room,
    get_task,
    layout_of,
    make_env,
    secret_room_metrics,
    secret_room_task,
)
from torchrl_alita.training.figures import save_gif

ACTION = ("agents", "action")
MASK = ("agents", "action_mask")
OBSERVATION = ("agents", "observation")
REWARD = ("next", "agents", "reward")
UP, RIGHT, DOWN, LEFT = range(4)
CLOSED, OPEN = [False] * 3, [True] * 3
WALL_COLOR, SHUT_COLOR, OPEN_COLOR = (85, 85, 85), (170, 51, 51), (204, 238, 204)
RING_COLOR, WHITE = (221, 0, 221), (255, 255, 255)


def one_hot(actions: list) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(actions), 4).float()


def placed(agents: list, *, doors: list | None = None, **arguments) -> SecretRoom:
    """One game with the agents in given cells, and the doors open or closed."""
    env = SecretRoom(**{"num_agents": len(agents), "seed": 0, **arguments})
    env.reset()
    env.agent_cells = torch.tensor([agents])
    env.door_open = torch.tensor([doors or CLOSED])
    return env


def act(env: SecretRoom, actions: list) -> TensorDict:
    """One step of one game."""
    return env.step(TensorDict({"agents": {"action": one_hot([actions])}}, [1]))["next"]


def cells(env: SecretRoom) -> list[tuple[int, int]]:
    return [tuple(cell) for cell in env.agent_cells[0].tolist()]


def history(env: SecretRoom, steps: int = 23) -> torch.Tensor:
    """Observations under one fixed sequence of actions, resets included."""
    generator = torch.Generator().manual_seed(0)

    def policy(tensordict: TensorDict) -> TensorDict:
        chosen = torch.randint(4, (*env.batch_size, env.num_agents), generator=generator)
        return tensordict.set(ACTION, torch.eye(4)[chosen])

    return env.rollout(steps, policy, break_when_any_done=False)[("next", *OBSERVATION)]


def state(env: SecretRoom) -> tuple:
    tensors = (env.agent_cells, env.door_open, env.door_count, env.steps)
    return tuple(tensor.tolist() for tensor in tensors)


def episode(path: list, *, success: tuple = (), ends: tuple = (), doors: list | None = None):
    """Steps ``[1, T]`` through T + 1 states, each the cells of two agents."""
    one_hots = torch.nn.functional.one_hot(torch.tensor(path), 25).float().flatten(-3)
    if doors is not None:
        one_hots = torch.cat([one_hots, torch.tensor(doors).float()], -1)
    seen = one_hots.unsqueeze(1).repeat(1, 2, 1)
    steps = len(path) - 1
    done, terminated = torch.zeros(2, steps, 1, dtype=torch.bool)
    done[[*ends, *success]] = True
    terminated[list(success)] = True
    after = {"agents": {"observation": seen[1:]}, "done": done, "terminated": terminated}
    return TensorDict({"agents": {"observation": seen[:-1]}, "next": after}, [steps]).unsqueeze(0)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"num_agents": 3, "door_bits": True, "size": 10, "start": "corner", "target_room": 2},
        {"num_agents": 8, "mask_blocked": True, "horizon": 2},
    ],
)
def test_secret_room_keeps_torchrls_promises(arguments):
    check_env_specs(SecretRoom(B, **arguments), seed=0)
    check_env_specs(SecretRoom(B, **arguments), break_when_any_done="both")


@pytest.mark.parametrize(("masked", "bits"), [(False, False), (True, False), (True, True)])
def test_secret_room_has_the_layout_of_the_house(masked, bits):
    env = SecretRoom(B, num_agents=3, size=11, mask_blocked=masked, door_bits=bits)
    assert layout_of(env) == Layout(3, 66 + 3 * bits, 4, discrete=True, masked=masked)
    rollout = env.rollout(2)
    assert rollout[REWARD].shape == (B, 2, 3, 1)
    assert {rollout[key].dtype for key in (OBSERVATION, ACTION, REWARD)} == {torch.float32}
    for flag in ("done", "terminated", "truncated"):
        assert rollout["next", flag].shape == (B, 2, 1)
    assert (MASK in rollout.keys(True)) == masked


def test_the_papers_grid_has_its_walls_doors_and_switches():
    env = SecretRoom()
    doors = [(3, 12), (4, 12), (11, 12), (12, 12), (19, 12), (20, 12)]
    walls = {(row, 12) for row in range(25)} | {(row, k) for row in (8, 16) for k in range(12, 25)}
    assert {tuple(cell) for cell in env.walls.nonzero().tolist()} == walls - set(doors)
    assert [tuple(cell) for cell in env.door_cells.flatten(0, 1).tolist()] == doors
    assert env.switch_cells.tolist() == [[20, 5], [4, 20], [12, 20], [20, 20]]


def test_a_smaller_grid_is_scaled_as_documented():
    env = SecretRoom(size=15)
    assert env.door_cells.tolist() == [[[r, 7], [r + 1, 7]] for r in (1, 6, 11)]
    assert env.switch_cells.tolist() == [[12, 3], [2, 12], [7, 12], [12, 12]]
    # Between the rooms, 8 cells to the right from column 7 on, in rows 5 and 10.
    assert env.walls[[5, 10]].sum().item() == 16
    assert env.walls.sum().item() == 16 + 15 - 2 - 6


def rooms_of(env: SecretRoom) -> list[set[tuple[int, int]]]:
    """What can be walked to from each switch while all doors are closed."""
    free = (~env.walls).clone()
    free[env.door_cells[..., 0], env.door_cells[..., 1]] = False
    rooms = []
    for start in env.switch_cells.tolist():
        seen, queue = {tuple(start)}, deque([tuple(start)])
        while queue:
            row, column = queue.popleft()
            for cell in (
                (row - 1, column),
                (row + 1, column),
                (row, column - 1),
                (row, column + 1),
            ):
                inside = min(cell) >= 0 and max(cell) < env.size
                if inside and free[cell] and cell not in seen:
                    seen.add(cell)
                    queue.append(cell)
        rooms.append(seen)
    return rooms


@pytest.mark.parametrize("size", [10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 25, 30, 49])
def test_a_grid_of_any_size_has_four_rooms_with_a_door_and_a_switch_each(size):
    env = SecretRoom(size=size)
    large, *small = rooms_of(env)
    assert len(large) == size * (size // 2)
    assert len(set().union(*small)) == sum(map(len, small))
    assert not env.walls[env.door_cells[..., 0], env.door_cells[..., 1]].any()
    for room, door in zip(small, env.door_cells.tolist(), strict=True):
        assert len(room) >= 6
        for row, column in door:
            assert (row, column - 1) in large
            assert (row, column + 1) in room


def test_below_the_least_size_a_door_would_lie_in_a_wall():
    # Of size 9: a wall in row 9 // 3, and the second door's upper cell in 3 * 9 // 6 - 1.
    with pytest.raises(ValueError, match="size must be a whole number at least 10, got 9"):
        SecretRoom(size=9)


@pytest.mark.parametrize("bits", [False, True])
def test_every_agent_sees_rows_and_columns_of_all_agents_and_the_doors_if_asked(bits):
    env = placed([(3, 5), (12, 19)], door_bits=bits)
    observation = act(env, [UP, RIGHT])[OBSERVATION]
    ones = [2, 25 + 5, 50 + 12, 75 + 20] + [100 + 1] * bits
    for agent in range(2):
        assert observation[0, agent].nonzero().flatten().tolist() == ones
    assert observation.shape[-1] == 100 + 3 * bits


def test_what_is_written_into_one_agents_entries_does_not_reach_the_others():
    env = placed([(1, 20), (1, 20)], door_bits=True)
    step = act(env, [RIGHT, RIGHT])
    for key in (OBSERVATION, ("agents", "reward")):
        before = step[key][0, 1].clone()
        step[key][0, 0] = 7.0
        assert torch.equal(step[key][0, 1], before)


@pytest.mark.parametrize(
    ("cell", "action", "doors", "after"),
    [
        ((5, 5), UP, CLOSED, (4, 5)),
        ((5, 5), RIGHT, CLOSED, (5, 6)),
        ((5, 5), DOWN, CLOSED, (6, 5)),
        ((5, 5), LEFT, CLOSED, (5, 4)),
        # The ends of the grid.
        ((0, 0), UP, CLOSED, (0, 0)),
        ((0, 0), LEFT, CLOSED, (0, 0)),
        ((24, 24), DOWN, CLOSED, (24, 24)),
        ((24, 24), RIGHT, CLOSED, (24, 24)),
        # Walls, from both sides.
        ((5, 11), RIGHT, OPEN, (5, 11)),
        ((5, 13), LEFT, OPEN, (5, 13)),
        ((7, 20), DOWN, OPEN, (7, 20)),
        ((17, 20), UP, OPEN, (17, 20)),
        # Each door, closed and open, alone and with the others.
        ((3, 11), RIGHT, CLOSED, (3, 11)),
        ((3, 11), RIGHT, [False, True, True], (3, 11)),
        ((3, 11), RIGHT, [True, False, False], (3, 12)),
        ((11, 13), LEFT, [True, False, True], (11, 13)),
        ((11, 13), LEFT, [False, True, False], (11, 12)),
        ((20, 11), RIGHT, [True, True, False], (20, 11)),
        ((20, 11), RIGHT, [False, False, True], (20, 12)),
        # In a door: along it while it is open, out of it always, into the wall never.
        ((3, 12), DOWN, OPEN, (4, 12)),
        ((3, 12), DOWN, CLOSED, (3, 12)),
        ((3, 12), LEFT, CLOSED, (3, 11)),
        ((3, 12), RIGHT, CLOSED, (3, 13)),
        ((3, 12), UP, OPEN, (3, 12)),
    ],
)
def test_an_agent_moves_as_computed_by_hand(cell, action, doors, after):
    env = placed([cell, (10, 2)], doors=doors)
    act(env, [action, LEFT])
    assert cells(env) == [after, (10, 1)]


@pytest.mark.parametrize(
    ("cell", "opened"),
    [
        ((20, 5), OPEN),
        ((4, 20), [True, False, False]),
        ((12, 20), [False, True, False]),
        ((20, 20), [False, False, True]),
        ((20, 6), CLOSED),
    ],
)
def test_a_switch_opens_its_doors_when_an_agent_steps_on_it(cell, opened):
    env = placed([(10, 2), (cell[0], cell[1] - 1)])
    act(env, [LEFT, RIGHT])
    assert env.door_open.tolist() == [opened]


def test_a_door_counts_its_steps_and_closes():
    env = placed([(20, 4), (4, 11)], door_steps=3)
    act(env, [RIGHT, UP])
    counts = [env.door_count[0].tolist()]
    for _ in range(4):
        act(env, [LEFT, UP])
        counts.append(env.door_count[0].tolist() if env.door_open.all() else None)
    assert counts == [[0] * 3, [1] * 3, [2] * 3, [3] * 3, None]
    assert env.door_open.tolist() == [CLOSED]


def test_a_door_whose_switch_is_reached_when_it_closes_opens_at_once():
    env = placed([(20, 5), (0, 11)], doors=OPEN, door_steps=2)
    env.door_count = torch.tensor([[2, 1, 0]])
    act(env, [LEFT, UP])
    assert (env.door_open.tolist(), env.door_count[0, 1:].tolist()) == (
        [[False, True, True]],
        [2, 1],
    )
    act(env, [RIGHT, UP])
    assert (env.door_open.tolist(), env.door_count.tolist()) == ([OPEN], [[0, 0, 2]])


@pytest.mark.parametrize("door_steps", [0, 3, 8])
def test_a_door_can_be_passed_in_as_many_steps_as_is_documented(door_steps):
    env = placed([(20, 4), (0, 0)], door_steps=door_steps)
    act(env, [RIGHT, UP])
    times = 0
    while env.door_open.any():
        times += 1
        act(env, [LEFT, UP])
    assert times == door_steps + 1


def test_a_door_that_closes_on_an_agent_leaves_it_where_it_is():
    env = placed([(3, 11), (10, 2)], doors=OPEN, door_steps=0)
    act(env, [RIGHT, UP])
    assert env.door_open.tolist() == [CLOSED]
    assert cells(env)[0] == (3, 12)


@pytest.mark.parametrize("room", [0, 1, 2])
def test_the_episode_ends_with_the_reward_when_all_agents_are_in_the_target_room(room):
    row = (0, 9, 17)[room]
    for target in range(3):
        env = placed([(row, 13), (row, 20), (row, 24)], target_room=target, reward=7.0)
        step = act(env, [RIGHT, RIGHT, RIGHT])
        flags = [step[flag].item() for flag in ("done", "terminated", "truncated")]
        assert flags == [target == room, target == room, False]
        assert step["agents", "reward"].flatten().tolist() == [7.0 * (target == room)] * 3


@pytest.mark.parametrize("outside", [(3, 12), (7, 11), (9, 13)])
def test_one_agent_outside_of_the_target_room_is_enough_for_nothing(outside):
    # In the door, beside the wall, in the room below: each at a wall to its left or above.
    action = UP if outside == (9, 13) else RIGHT if outside == (7, 11) else DOWN
    env = placed([(0, 24), outside])
    step = act(env, [UP, action])
    assert cells(env)[1] == outside
    assert step["agents", "reward"].sum() == 0
    assert not step["done"].any()


def test_the_rooms_rows_end_at_the_walls():
    for target, (first, last) in enumerate([(0, 7), (9, 15), (17, 24)]):
        env = SecretRoom(target_room=target)
        inside = env._inside.view(25, 25).nonzero()
        assert inside.amin(0).tolist() == [first, 13]
        assert inside.amax(0).tolist() == [last, 24]


def test_the_horizon_truncates_and_does_not_terminate():
    rollout = SecretRoom(B, horizon=3, seed=0).rollout(7, break_when_any_done=False)
    for flag in ("done", "truncated"):
        assert rollout["next", flag][0, :, 0].tolist() == [False, False, True] * 2 + [False]
    assert not rollout["next", "terminated"].any()


def test_agents_start_in_the_corner_or_anywhere_in_the_large_room():
    corner = SecretRoom(B, num_agents=3, start="corner")
    corner.reset()
    assert (corner.agent_cells == 0).all()
    count = 30_000
    env = SecretRoom(count, seed=1)
    env.reset()
    for agent in range(2):
        found, times = env.agent_cells[:, agent].unique(dim=0, return_counts=True)
        assert len(found) == 300
        assert found.amax(0).tolist() == [24, 11]
        assert (times / count - 1 / 300).abs().max() < 5 * (1 / 300 / count) ** 0.5
    together = (env.agent_cells[:, 0] == env.agent_cells[:, 1]).all(-1).float().mean()
    assert abs(together - 1 / 300) < 5 * (1 / 300 / count) ** 0.5
    assert not env.door_open.any()


def test_a_partial_reset_leaves_the_other_games_where_they_are():
    env = SecretRoom(B, start="corner", door_bits=True, seed=0)
    step = env.reset()
    env.agent_cells = torch.tensor([[20, 4], [9, 9]]).repeat(B, 1, 1)
    step = env.step(step.set(ACTION, one_hot([[RIGHT, UP]] * B)))["next"]
    step = env.step(step.set(ACTION, one_hot([[LEFT, UP]] * B)))["next"]
    reset = torch.arange(B).unsqueeze(-1) % 2 == 0
    again = env.reset(step.set("_reset", reset))
    rows = [0, 20] * 3 + [0]
    assert env.agent_cells[:, 0, 0].tolist() == rows
    assert env.door_open.tolist() == [CLOSED, OPEN] * 3 + [CLOSED]
    assert env.door_count.tolist() == [[0] * 3, [1] * 3] * 3 + [[0] * 3]
    assert env.steps.flatten().tolist() == [0, 2] * 3 + [0]
    assert again[OBSERVATION][:, 1, -3:].bool().tolist() == [CLOSED, OPEN] * 3 + [CLOSED]
    assert again[OBSERVATION][:, 1, :25].argmax(-1).tolist() == rows


def test_the_same_seed_plays_the_same_games_and_games_differ():
    first = history(SecretRoom(B, horizon=5, seed=2))
    assert torch.equal(first, history(SecretRoom(B, horizon=5, seed=2)))
    env = SecretRoom(B, horizon=5, seed=0)
    assert not torch.equal(first, history(env))
    env.set_seed(2)
    assert torch.equal(first, history(env))
    assert len(first[:, 0, 0].unique(dim=0)) == B


def test_without_a_seed_games_differ_even_under_one_global_seed():
    played = []
    for _ in range(2):
        torch.manual_seed(0)
        played.append(history(SecretRoom(B)))
    assert not torch.equal(*played)


@pytest.mark.parametrize("seed", [0, None])
def test_the_global_generator_is_neither_read_nor_moved(seed):
    before = torch.get_rng_state()
    env = SecretRoom(B, horizon=5, seed=seed)
    history(env)
    env.set_seed(seed)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(1)
    first = history(SecretRoom(B, horizon=5, seed=2))
    torch.manual_seed(2)
    assert torch.equal(first, history(SecretRoom(B, horizon=5, seed=2)))


def busy(seed: int) -> SecretRoom:
    """Games on a small grid in which doors turn often, with resets in few steps."""
    return SecretRoom(B, num_agents=3, size=10, door_steps=2, door_bits=True, horizon=29, seed=seed)


def test_a_loaded_state_goes_on_as_the_saved_one():
    env, other = busy(0), busy(1)
    torch.manual_seed(3)
    step = env.rollout(20)[:, -1]["next"]
    env.door_open[:, 1], env.door_count[:, 1] = True, 1
    saved = env.state_dict()
    assert set(saved) == {"agent_cells", "door_open", "door_count", "steps", "generator"}

    def go_on(env: SecretRoom) -> TensorDict:
        torch.manual_seed(0)
        start = step.exclude(("agents", "reward")).clone()
        return env.rollout(60, auto_reset=False, tensordict=start, break_when_any_done=False)

    other.load_state_dict(saved)
    first = go_on(env)
    assert first["next", "truncated"].any()
    # Open for one step more.
    assert first[("next", *OBSERVATION)][:, :2, 0, -2].tolist() == [[1.0, 0.0]] * B
    second = go_on(other)
    assert all(torch.equal(first[key], second[key]) for key in first.keys(True, True))
    env.load_state_dict(saved)
    assert torch.equal(go_on(env)[OBSERVATION], first[OBSERVATION])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("agent_cells", torch.ones(5, 3, 2).long(), "torch.int64 of the shape (7, 3, 2), got"),
        ("door_open", torch.ones(B, 3), "torch.bool of the shape (7, 3), got torch.float32"),
        ("door_count", torch.ones(B, 2).long(), "got torch.int64 of the shape (7, 2)."),
        ("agent_cells", torch.full((B, 3, 2), 10), "rows and columns 0 to 9, got values from 10"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(name, value, message):
    env = busy(0)
    env.rollout(7)
    before, generator = state(env), env.generator.get_state()
    with pytest.raises(ValueError, match=re.escape(message)):
        env.load_state_dict(busy(1).state_dict() | {name: value})
    assert state(env) == before
    assert torch.equal(env.generator.get_state(), generator)


def test_an_action_that_is_not_one_hot_is_named_and_changes_nothing():
    env = busy(0)
    step, before = env.reset(), state(env)
    action = one_hot([[RIGHT] * 3] * B)
    action[4, 2], action[5, 0] = torch.tensor([1.0, 0.0, 1.0, 0.0]), 0.0
    message = "agent 2 in environment 4 must be one-hot, got [1.0, 0.0, 1.0, 0.0]."
    with pytest.raises(ValueError, match=re.escape(message)):
        env.step(step.set(ACTION, action))
    with pytest.raises(ValueError, match=re.escape("the shape (7, 3, 4), got (7, 3, 5).")):
        env.step(step.set(ACTION, torch.eye(5)[:3].expand(B, 3, 5)))
    assert state(env) == before


@pytest.mark.parametrize(
    ("cell", "doors", "blocked"),
    [
        ((1, 1), CLOSED, []),
        ((0, 0), CLOSED, [UP, LEFT]),
        ((24, 24), CLOSED, [DOWN, RIGHT]),
        ((5, 11), OPEN, [RIGHT]),
        ((3, 11), CLOSED, [RIGHT]),
        ((3, 11), [True, False, False], []),
        ((3, 11), [False, True, True], [RIGHT]),
        ((3, 12), CLOSED, [UP, DOWN]),
        ((3, 12), OPEN, [UP]),
        ((7, 20), OPEN, [DOWN]),
    ],
)
def test_moves_into_walls_and_closed_doors_are_masked(cell, doors, blocked):
    env = placed([cell, (10, 2)], doors=doors, mask_blocked=True)
    # A reset of no game shows the state.
    mask = env._reset(TensorDict({"_reset": torch.zeros(1, 1, dtype=torch.bool)}, [1]))[MASK]
    assert env.door_open.tolist() == [doors]
    assert mask[0, 0].tolist() == [action not in blocked for action in range(4)]
    assert mask[0, 1].all()
    for action in blocked:
        message = f"agent 0 in environment 0 must be allowed by the mask, got {action}."
        with pytest.raises(ValueError, match=re.escape(message)):
            act(env, [action, UP])
    assert cells(env) == [cell, (10, 2)]


def test_the_mask_follows_the_door_that_has_just_opened():
    env = placed([(20, 4), (3, 11)], mask_blocked=True)
    step = act(env, [RIGHT, UP])
    step = act(env, [LEFT, DOWN])
    assert step[MASK][0, 1].all()


def test_random_actions_are_drawn_from_what_is_allowed():
    def env() -> SecretRoom:
        return SecretRoom(B, size=10, mask_blocked=True, horizon=20, seed=0)

    # A masked action would be an error.
    game = env()
    rollout = game.rollout(100, break_when_any_done=False)
    assert (~rollout[MASK]).any()
    TransformedEnv(env()).rollout(100, break_when_any_done=False)
    copied = copy.deepcopy(game)
    copied.rollout(100, break_when_any_done=False)
    other = env()
    other.reset()
    for _ in range(30):
        other.load_state_dict(game.state_dict())
        other.step(other.rand_action(TensorDict(batch_size=[B])))
        game.rollout(3, break_when_any_done=False)


def test_a_move_to_another_device_is_refused():
    env = SecretRoom()
    assert env.to("cpu") is env
    with pytest.raises(ValueError, match="make a new environment with device='meta'"):
        env.to("meta")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_envs": 0}, "num_envs must be a whole number at least 1, got 0."),
        ({"num_agents": 1}, "num_agents must be a whole number from 2 to 8, got 1."),
        ({"num_agents": 9}, "num_agents must be a whole number from 2 to 8, got 9."),
        ({"horizon": 0}, "horizon must be a whole number at least 1, got 0."),
        ({"door_steps": -1}, "door_steps must be a whole number at least 0, got -1."),
        ({"start": "middle"}, "start must be one of ['large_room', 'corner'], got 'middle'."),
        ({"target_room": 3}, "target_room must be a whole number from 0 to 2, got 3."),
        ({"target_room": -1}, "target_room must be a whole number from 0 to 2, got -1."),
        ({"reward": 0.0}, "reward must be positive, got 0.0."),
        ({"reward": float("inf")}, "reward must be finite, got inf."),
    ],
)
def test_an_argument_out_of_range_is_refused_with_its_value(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        SecretRoom(**arguments)


def walk() -> list:
    """States of two agents: one steps on the large switch and off, one goes through a door."""
    first = [(20, 4), (20, 5), (20, 4), (20, 3), (20, 2), (20, 1), (20, 0)]
    second = [(3, 10), (3, 11), (3, 12), (3, 13), (3, 14), (3, 15), (3, 16)]
    return [list(pair) for pair in zip(first, second, strict=True)]


def test_successes_steps_and_doors_are_counted_by_hand():
    # Three doors open in the first step. What comes after the end does not count.
    opens = episode(walk(), success=(4,))
    metrics = secret_room_metrics(opens)
    assert {name: float(value) for name, value in metrics.items()} == {
        "success_share": 1.0,
        "steps_to_success": 5.0,
        "doors_opened": 3.0,
    }
    # Nobody on a switch before the end; a success that comes after it.
    late = episode([[(24, 0), (24, 1)]] * 2 + walk()[:5], ends=(0,), success=(4,))
    fails = episode([[(24, 0), (24, 1)]] * 7)
    assert float(secret_room_metrics(fails)["steps_to_success"]) == 6.0
    metrics = secret_room_metrics(torch.cat([opens, late, fails]))
    assert float(metrics["success_share"]) == pytest.approx(1 / 3)
    assert float(metrics["steps_to_success"]) == (5 + 1 + 6) / 3
    assert float(metrics["doors_opened"]) == 1.0


def test_doors_that_turn_more_often_are_counted_as_often():
    # Onto the switch, off it for two steps, and onto it again.
    path = [[(20, k), (0, 0)] for k in (4, 5, 4, 3, 4, 5)]
    assert float(secret_room_metrics(episode(path), door_steps=1)["doors_opened"]) == 6.0
    assert float(secret_room_metrics(episode(path), door_steps=8)["doors_opened"]) == 3.0


def test_the_replayed_doors_are_those_of_the_game():
    torch.manual_seed(0)
    env = SecretRoom(50, num_agents=3, size=10, door_steps=2, door_bits=True, horizon=300, seed=0)
    rollout = env.rollout(70, break_when_any_done=False)
    doors = rollout[("next", *OBSERVATION)][:, :, 0, -3:].bool()
    before = rollout[OBSERVATION][:, :, 0, -3:].bool()
    done = rollout["next", "done"].long()
    running = (done.cumsum(1) - done) == 0
    opened = (doors & ~before & running).sum((1, 2)).float().mean()
    assert opened > 3
    metrics = secret_room_metrics(rollout, door_steps=2)
    assert float(metrics["doors_opened"]) == pytest.approx(float(opened))
    # The agents' cells are enough.
    hidden = rollout.clone()
    for key in (OBSERVATION, ("next", *OBSERVATION)):
        hidden[key] = hidden[key][..., :-3]
    assert secret_room_metrics(hidden, door_steps=2) == metrics


def test_metrics_of_other_games_are_refused():
    steps = episode(walk())
    with pytest.raises(KeyError, match="observation"):
        secret_room_metrics(steps.exclude(OBSERVATION))
    steps["agents"] = TensorDict({"observation": torch.zeros(1, 6, 2, 102)}, [1, 6])
    with pytest.raises(ValueError, match=re.escape("2N * size entries, or 3 more, got 102 for 2")):
        secret_room_metrics(steps)


def pixel(frame, cell: tuple[int, int], edge: int = 12) -> tuple:
    """Color in the middle of a cell (row, column)."""
    return frame.getpixel((int((cell[1] + 0.5) * edge), int((cell[0] + 0.5) * edge)))


@pytest.mark.parametrize("doors", [None, [CLOSED, OPEN, OPEN, OPEN, CLOSED, CLOSED, CLOSED]])
def test_an_episode_is_drawn_with_its_doors_whether_observed_or_not(doors):
    frames = draw_secret_room(episode(walk(), success=(4,), doors=doors)[0], door_steps=2)
    assert len(frames) == 6
    turned = [SHUT_COLOR, OPEN_COLOR, OPEN_COLOR, OPEN_COLOR, SHUT_COLOR, SHUT_COLOR]
    for k, frame in enumerate(frames):
        assert frame.size == (300, 316)
        assert {pixel(frame, cell) for cell in ((4, 12), (11, 12), (20, 12))} == {turned[k]}
        assert pixel(frame, (8, 18)) == pixel(frame, (0, 12)) == WALL_COLOR
        assert pixel(frame, (4, 20)) == pixel(frame, (12, 20)) == (238, 187, 0)
        assert pixel(frame, (20, (4, 5, 4, 3, 2, 1)[k])) != WHITE
    assert pixel(frames[0], (6, 20)) == (221, 238, 221)
    assert pixel(frames[0], (10, 20)) == WHITE


def test_the_target_room_is_an_argument_of_the_picture():
    frame = draw_secret_room(episode(walk())[0], target_room=1)[0]
    assert pixel(frame, (6, 20)) == WHITE
    assert pixel(frame, (10, 20)) == (221, 238, 221)


def test_success_is_written_below_the_last_picture():
    below = (0, 300, 300, 316)
    solved = draw_secret_room(episode(walk(), success=(4,))[0])
    failed = draw_secret_room(episode(walk(), ends=(4,))[0])
    pairs = zip(solved, failed, strict=True)
    same = [a.crop(below).tobytes() == b.crop(below).tobytes() for a, b in pairs]
    assert same == [True] * 5 + [False]


def test_agents_that_explore_are_ringed():
    steps = episode(walk())[0]
    steps["agents", "exploring"] = torch.zeros(6, 2, 1, dtype=torch.bool)
    steps["agents", "exploring"][2, 0] = True
    ringed = [
        [RING_COLOR in {color for _, color in frame.crop(area).getcolors()} for area in areas]
        for frame in draw_secret_room(steps)
        for areas in [((0, 200, 100, 300), (100, 0, 300, 100))]
    ]
    assert ringed == [[k == 2, False] for k in range(7)]


def test_a_whole_episode_is_a_small_moving_picture(tmp_path):
    frames = draw_secret_room(SecretRoom(1, seed=0).rollout(300)[0])
    assert len(frames) == 301
    save_gif(tmp_path / "play.gif", frames)
    assert (tmp_path / "play.gif").stat().st_size < 500_000


def test_without_pillow_the_error_names_the_extra_to_install(monkeypatch):
    def missing(_):
        raise ModuleNotFoundError("No module named 'PIL'", name="PIL")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r"torchrl_alita\[recipes\]"):
        draw_secret_room(episode(walk())[0])


def test_the_task_is_registered_with_the_papers_arguments():
    env = make_env("secret_room", num_envs=3, n_agents=2, seed=0, horizon=300)
    assert (env.size, env.horizon, env.door_steps, env.start) == (25, 300, 8, "large_room")
    assert (env.target_room, env.door_bits, env.reward, env.mask_blocked) == (
        0,
        False,
        1000.0,
        False,
    )
    episodes = env.rollout(5)
    task = get_task("secret_room")
    expected = {"success_share", "steps_to_success", "doors_opened"}
    assert set(task.metrics(episodes)) == expected
    assert len(task.draw(episodes[0])) == 6


def test_a_task_hands_every_argument_to_the_game_its_metrics_and_its_pictures():
    arguments = {
        "size": 11,
        "door_steps": 1,
        "start": "corner",
        "target_room": 1,
        "door_bits": True,
        "reward": 5.0,
        "mask_blocked": True,
    }
    task = secret_room_task(SecretRoomSettings(**arguments))
    env = make_env(task, num_envs=7, n_agents=3, seed=2, horizon=13)
    assert {name: getattr(env, name) for name in arguments} == arguments
    assert (env.batch_size, env.num_agents, env.horizon) == ((7,), 3, 13)
    again = get_task("secret_room").with_settings(SecretRoomSettings(door_steps=1, target_room=1))
    path = [[(20, k), (0, 0)] for k in (4, 5, 4, 3, 4, 5)]
    assert float(again.metrics(episode(path))["doors_opened"]) == 6.0
    frames = again.draw(episode(path)[0])
    assert pixel(frames[3], (4, 12)) == SHUT_COLOR
    assert pixel(frames[0], (10, 20)) == (221, 238, 221)
    with pytest.raises(TypeError, match="sise"):
        SecretRoomSettings(sise=9)


def test_a_task_without_a_seed_takes_one_from_torch():
    first = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        first.append(make_env("secret_room", num_envs=B, n_agents=2).reset()[OBSERVATION])
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])


@pytest.mark.parametrize("masked", [False, True])
def test_alita_makes_a_training_step(masked):
    torch.manual_seed(0)
    env = SecretRoom(B, mask_blocked=masked, seed=0)
    algorithm = ALITA(env)
    logs = algorithm.update(by_name(algorithm, env.rollout(5).reshape(-1)))
    assert all(torch.isfinite(value).all() for value in logs.values(True, True))
    env.rollout(20, algorithm.actor, break_when_any_done=False)
