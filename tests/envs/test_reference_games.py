"""Push-Box and Secret Room against plain Python, step by step, and under scripted play."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random

import pytest
import torch
from reference_games import (
    DOWN,
    LEFT,
    MOVES,
    RIGHT,
    STAY,
    UP,
    PushingTeam,
    ReferencePushBox,
    ReferenceSecretRoom,
    VisitingTeam,
    deliveries_of_an_episode,
    shortest_deliveries,
    steps_to,
    towards,
)
from tensordict import TensorDict

from torchrl_alita.envs import PushBox, SecretRoom

BATCH = 13
OBSERVATION = ("agents", "observation")
REWARD = ("agents", "reward")


def act(env, actions: list[list[int]] | torch.Tensor) -> TensorDict:
    """The step that follows actions given by number, ``[B, N]``."""
    num_actions = env.full_action_spec["agents", "action"].shape[-1]
    one_hot = torch.nn.functional.one_hot(torch.as_tensor(actions), num_actions).float()
    return env.step(TensorDict({"agents": {"action": one_hot}}, env.batch_size))["next"]


def tuples(cells: torch.Tensor) -> list[tuple[int, int]]:
    return [tuple(cell) for cell in cells.tolist()]


def begin(env, game, b: int) -> list[float]:
    """The reference starts where game b of the environment did."""
    agents = tuples(env.agent_cells[b])
    if isinstance(env, SecretRoom):
        assert all(column < 12 for _, column in agents)
        return game.reset(agents)
    assert all(1 <= x <= game.size - 2 for cell in agents for x in cell)
    box = tuple(env.box_cells[b].tolist())
    check_box(game, box, agents)
    return game.reset(agents, box)


def check_box(game: ReferencePushBox, box: tuple[int, int], agents: list) -> None:
    assert box not in agents
    assert all(4 <= x <= game.size - 4 for x in box)


def advance(env, games: list, actions: list[list[int]]) -> list[tuple]:
    """One step of each reference; a box respawns where the environment's did."""
    if isinstance(env, SecretRoom):
        return [game.step(own) for game, own in zip(games, actions, strict=True)]
    outcomes = []
    for game, own, box in zip(games, actions, tuples(env.box_cells), strict=True):
        outcomes.append(game.step(own, box))
        if outcomes[-1][1] and game.respawn:
            check_box(game, box, game.agents)
    return outcomes


def assert_observed(step: TensorDict, observations: list[list[float]]) -> None:
    expected = torch.tensor(observations).unsqueeze(1).expand_as(step[OBSERVATION])
    torch.testing.assert_close(step[OBSERVATION], expected, rtol=0, atol=0)


def assert_alike(env, step: TensorDict, outcomes: list[tuple], games: list) -> None:
    observations, rewards, *flags = zip(*outcomes, strict=True)
    assert_observed(step, observations)
    expected = torch.tensor(rewards).view(-1, 1, 1).expand_as(step[REWARD])
    torch.testing.assert_close(step[REWARD], expected, rtol=0, atol=0)
    terminated, truncated = (torch.tensor(flag).unsqueeze(-1) for flag in flags)
    assert torch.equal(step["terminated"], terminated)
    assert torch.equal(step["truncated"], truncated)
    assert torch.equal(step["done"], terminated | truncated)
    assert env.steps.flatten().tolist() == [game.steps for game in games]
    if isinstance(env, SecretRoom):
        assert env.door_open.tolist() == [game.open for game in games]
        count = torch.tensor([game.count for game in games])
        assert ((env.door_count == count) | ~env.door_open).all()
    else:
        assert all(game.box not in game.agents for game in games)


def compare(env, games: list, teams: list[Callable], *, steps: int, rng: Random) -> Counter:
    """Plays both, episode after episode, and counts what happened in the references.

    An episode that ended is begun anew, and now and then one that did not; the others of the
    batch go on.
    """
    step = env.reset()
    observations = [begin(env, game, b) for b, game in enumerate(games)]
    assert_observed(step, observations)
    for _ in range(steps):
        actions = [team(game) for team, game in zip(teams, games, strict=True)]
        step = act(env, actions)
        outcomes = advance(env, games, actions)
        assert_alike(env, step, outcomes, games)
        ends = [outcome[2] or outcome[3] or rng.random() < 0.003 for outcome in outcomes]
        if any(ends):
            step["_reset"] = torch.tensor(ends).unsqueeze(-1)
            step = env.reset(step.exclude(REWARD))
            observations = [
                begin(env, game, b) if ends[b] else game.observation()
                for b, game in enumerate(games)
            ]
            assert_observed(step, observations)
    return sum((game.seen for game in games), Counter())


def uniform_team(rng: Random, num_actions: int) -> Callable:
    return lambda game: [rng.randrange(num_actions) for _ in range(game.num_agents)]


def assert_seen(seen: Counter, **least: int) -> None:
    """Each event happened at least that often: a comparison in which it did not shows nothing."""
    rare = {name: seen[name.replace("_", " ")] for name in least}
    assert all(rare[name] >= number for name, number in least.items()), str(rare)


@pytest.mark.parametrize(
    ("arguments", "start", "least"),
    [
        ({}, "corner", {"pushed": 50, "delivered": 5, "opposed": 100, "too_few": 500}),
        ({"respawn": False}, "uniform", {"pushed": 100, "delivered": 10, "opposed": 100}),
        (
            {"num_agents": 3, "size": 11, "reward": 7.0},
            "uniform",
            {"pushed": 200, "delivered": 30, "blocked": 50, "kept_out_of_the_new_cell": 5},
        ),
        (
            {"num_agents": 5, "size": 11},
            "corner",
            {"pushed": 200, "delivered": 40, "blocked": 100, "pushed_diagonally": 10},
        ),
        (
            {"num_agents": 5, "size": 13, "pushes_needed": 3, "respawn": False},
            "corner",
            {"pushed": 200, "delivered": 20, "blocked": 10, "too_few": 500},
        ),
        (
            {"num_agents": 2, "size": 11, "pushes_needed": 1},
            "uniform",
            {"pushed": 400, "delivered": 60, "blocked": 100, "pushed_diagonally": 20},
        ),
    ],
)
def test_push_box_plays_as_the_reference(arguments, start, least):
    rng = Random(0)
    arguments = {"horizon": 97, **arguments}
    env = PushBox(BATCH, start=start, seed=1, **arguments)
    games = [ReferencePushBox(**arguments) for _ in range(BATCH)]
    teams = [uniform_team(rng, 5)] + [PushingTeam(rng) for _ in range(BATCH - 1)]
    seen = compare(env, games, teams, steps=250, rng=rng)
    assert_seen(seen, truncated=5, at_a_wall=20, **least)


@pytest.mark.parametrize(
    ("start", "arguments"),
    [
        ("corner", {}),
        ("large_room", {"target_room": 2, "door_steps": 11}),
        ("large_room", {"num_agents": 3, "target_room": 1, "door_bits": True, "door_steps": 5}),
        ("corner", {"num_agents": 5, "target_room": 2, "door_bits": True, "reward": 7.0}),
    ],
)
def test_secret_room_plays_as_the_reference(start, arguments):
    rng = Random(0)
    arguments = {"horizon": 149, **arguments}
    env = SecretRoom(BATCH, start=start, seed=1, **arguments)
    games = [ReferenceSecretRoom(**arguments) for _ in range(BATCH)]
    teams = [uniform_team(rng, 4)] + [VisitingTeam(rng) for _ in range(BATCH - 1)]
    seen = compare(env, games, teams, steps=250, rng=rng)
    assert_seen(
        seen,
        success=5,
        truncated=3,
        opened=200,
        closed=100,
        held_open=10,
        opened_by_its_own_switch=30,
        closed_on_an_agent=20,
        out_of_a_closed_door=3,
        along_a_closed_door=1,
        through_an_open_door=50,
        at_a_closed_door=300,
        at_a_wall=40,
    )


def crowd(rng: Random, num_agents: int, last: int) -> tuple[list, tuple[int, int], list[int]]:
    """Agents at and on a box, most of them pushing: their cells, the box's, their actions."""
    box = (rng.randrange(1, last + 1), rng.randrange(1, last + 1))
    agents, actions = [], []
    push = rng.randrange(4)
    while len(agents) < num_agents:
        action = push if rng.random() < 0.5 else rng.randrange(5)
        down, right = MOVES[action] if rng.random() < 0.8 else rng.choice(MOVES)
        cell = (box[0] - down, box[1] - right)
        if min(cell) >= 1 and max(cell) <= last:
            agents.append(cell)
            actions.append(action)
    return agents, box, actions


@pytest.mark.parametrize("respawn", [True, False])
@pytest.mark.parametrize(("num_agents", "pushes_needed"), [(2, 1), (2, 2), (3, 2), (5, 2), (5, 3)])
def test_a_crowd_at_the_box_moves_as_in_the_reference(num_agents, pushes_needed, respawn):
    """Play never puts an agent on the box; the rule that such an agent has no vote holds too."""
    rng = Random(0)
    count = 1500
    arguments = {"num_agents": num_agents, "size": 11, "respawn": respawn}
    arguments["pushes_needed"] = pushes_needed
    env = PushBox(count, seed=1, **arguments)
    env.reset()
    games = [ReferencePushBox(**arguments) for _ in range(count)]
    agents, boxes, actions = zip(*[crowd(rng, num_agents, 9) for _ in games], strict=True)
    env.agent_cells, env.box_cells = torch.tensor(agents), torch.tensor(boxes)
    for game, cells, box in zip(games, agents, boxes, strict=True):
        game.reset(cells, box)
    step = act(env, actions)
    outcomes = advance(env, games, actions)
    observations, rewards, terminated, _ = zip(*outcomes, strict=True)
    assert_observed(step, observations)
    assert step[REWARD].squeeze(-1).tolist() == [[reward] * num_agents for reward in rewards]
    assert step["terminated"].flatten().tolist() == list(terminated)
    seen = sum((game.seen for game in games), Counter())
    assert_seen(seen, pushed=100, delivered=20, opposed=20, too_few=20)
    if num_agents > pushes_needed:
        assert_seen(seen, blocked=20)
    if num_agents >= 2 * pushes_needed:
        assert_seen(seen, pushed_diagonally=5, delivered_in_a_corner=1)


@pytest.mark.parametrize("num_agents", [2, 3, 5])
def test_doors_in_any_state_turn_as_in_the_reference(num_agents):
    rng = Random(0)
    count = 300
    env = SecretRoom(count, num_agents=num_agents, door_bits=True, door_steps=5, seed=1)
    env.reset()
    games = [ReferenceSecretRoom(num_agents, door_bits=True, door_steps=5) for _ in range(count)]
    floor = [cell for cell in steps_to((0, 0)) if games[0].door(cell) is None]
    special = [(20, 5), *games[0].SWITCHES, *sum(games[0].DOORS, ())]
    for game in games:
        game.reset(
            [rng.choice([rng.choice(floor), rng.choice(special)]) for _ in range(num_agents)]
        )
        game.open = [rng.random() < 0.5 for _ in range(3)]
        game.count = [rng.randrange(6) for _ in range(3)]
    env.agent_cells = torch.tensor([game.agents for game in games])
    env.door_open = torch.tensor([game.open for game in games])
    env.door_count = torch.tensor([game.count for game in games])
    for _ in range(8):
        actions = [[rng.randrange(4) for _ in range(num_agents)] for _ in games]
        step = act(env, actions)
        assert_alike(env, step, advance(env, games, actions), games)
    seen = sum((game.seen for game in games), Counter())
    assert_seen(seen, opened=50, closed=200, closed_on_an_agent=10, held_open=5)
    assert_seen(seen, out_of_a_closed_door=50, along_a_closed_door=30, at_a_wall=100)


def seen_cells(step: TensorDict, size: int, number: int) -> torch.Tensor:
    """Cells of the first things in what agent 0 sees, ``[B, number, 2]``."""
    one_hots = step[OBSERVATION][:, 0, : 2 * number * size]
    return one_hots.unflatten(-1, (number, 2, size)).argmax(-1)


def test_the_shortest_play_of_push_box_takes_what_others_measured():
    """It takes 11 to 22 steps to the first box, 16.9 on average: 23.9 boxes in 300 steps.

    Ways of equal length leave the pair in different cells, which makes up to 0.2 boxes.
    """
    plan = shortest_deliveries()
    first = [plan[(1, 1), (row, column)][0] for row in range(4, 12) for column in range(4, 12)]
    assert (min(first), max(first), sum(first)) == (11, 22, 16.875 * 64)
    mean, variance = deliveries_of_an_episode(plan)
    assert round(mean, 1) == 23.9
    assert 0.9 < variance < 1.1


def test_the_shortest_play_earns_in_push_box_what_it_must():
    """Each box arrives in the step that the plan says.

    The mean of the episodes lies within four standard errors, sqrt(variance / episodes), of
    its exact value, and so does the share of each of the 64 cells in which boxes appear.
    """
    episodes = 1000
    plan = shortest_deliveries()
    due, action = torch.zeros(2, 15, 15, 15, 15, dtype=torch.long)
    for (pair, box), (steps, first) in plan.items():
        due[(*pair, *box)], action[(*pair, *box)] = steps, first
    env = PushBox(episodes, seed=0)
    step = env.reset()
    before, rewards, drawn = torch.ones(episodes), [], []
    for t in range(300):
        first, second, box = seen_cells(step, 15, 3).unbind(1)
        assert torch.equal(first, second)
        assert t > 0 or (first == 1).all()
        at = (*first.T, *box.T)
        assert ((due[at] == before - 1) | (before == 1)).all()
        drawn.append(box[before == 1])
        before = due[at]
        step = act(env, action[at].unsqueeze(-1).expand(-1, 2))
        rewards.append(step[REWARD].squeeze(-1))
        assert torch.equal(rewards[-1], 1000.0 * (before == 1).unsqueeze(-1).expand(-1, 2))
        assert not step["terminated"].any()
        assert (step["truncated"] == (t == 299)).all()
    mean, variance = deliveries_of_an_episode(plan)
    delivered = torch.stack(rewards).sum(0) / 1000
    assert torch.equal(delivered[:, 0], delivered[:, 1])
    assert abs(delivered[:, 0].mean().item() - mean) < 4 * (variance / episodes) ** 0.5
    row, column = torch.cat(drawn).T
    share = torch.bincount(15 * row + column, minlength=225).view(15, 15)[4:12, 4:12] / len(row)
    assert share.sum() == 1
    assert ((share - 1 / 64).abs() < 4 * (63 / 64**2 / len(row)) ** 0.5).all()


def test_two_agents_meet_in_the_secret_room_by_turns_at_the_switches():
    """One agent reaches the large room's switch in step 25 and lets the other in in step 27.

    It is then 24 cells from the target room, and follows in step 51.
    """
    rng = Random(0)
    env = SecretRoom(BATCH, start="corner", seed=1)
    step = env.reset()
    held = torch.zeros(BATCH, dtype=torch.bool)
    for t in range(1, 52):
        actions = []
        for first, second in seen_cells(step, 25, 2).tolist():
            goal = (4, 20) if second[1] > 12 else (20, 5)
            pair = ((goal, tuple(first)), ((4, 20), tuple(second)))
            actions.append([towards(*one, rng) for one in pair])
        step = act(env, actions)
        first, second = seen_cells(step, 25, 2).unbind(1)
        held |= (second == torch.tensor([4, 20])).all(-1)
        assert (step["terminated"] == (t == 51)).all()
        assert (step[REWARD] == (1000.0 if t == 51 else 0.0)).all()
        assert not step["truncated"].any()
        assert ((second[:, 1] > 12) == (t >= 27)).all()
    assert held.all()
    assert (first == torch.tensor([4, 13])).all()


@pytest.mark.parametrize(("door_steps", "passes"), [(8, False), (21, False), (22, True)])
def test_an_agent_alone_is_not_in_time_for_the_door(door_steps, passes):
    """From the switch to the door are 23 steps; it lets agents in for door_steps + 1 of them.

    With 22 the door closes on the agent, which then walks out into the room.
    """
    rng = Random(0)
    env = SecretRoom(BATCH, start="corner", door_steps=door_steps, seed=1)
    step = env.reset()
    trip, farthest, waited = [0] * BATCH, [0] * BATCH, [0] * BATCH
    for _ in range(300):
        actions = []
        for b, (first, _) in enumerate(seen_cells(step, 25, 2).tolist()):
            cell = tuple(first)
            # A trip is 40 steps from the switch: time to wait at the closed door.
            trip[b] = 40 if cell == (20, 5) else trip[b] - 1
            actions.append([towards((4, 20) if trip[b] > 0 else (20, 5), cell, rng), UP])
            farthest[b] = max(farthest[b], cell[1])
            waited[b] += cell == (4, 11)
        step = act(env, actions)
        assert (step[REWARD] == 0).all()
    assert step["truncated"].all()
    if passes:
        assert min(farthest) > 12
    else:
        assert farthest == [11] * BATCH
        assert min(waited) > 40


@pytest.mark.parametrize(
    ("agents", "actions", "box_after", "agents_after"),
    [
        ([(8, 7), (8, 7)], [UP, UP], (6, 7), [(7, 7), (7, 7)]),
        ([(7, 6), (7, 6)], [RIGHT, RIGHT], (7, 8), [(7, 7), (7, 7)]),
        # One vote is not enough, nor is a majority of one.
        ([(8, 7), (8, 8)], [UP, UP], (7, 7), [(8, 7), (7, 8)]),
        ([(8, 7), (6, 7)], [UP, DOWN], (7, 7), [(8, 7), (6, 7)]),
        ([(8, 7), (8, 7), (6, 7)], [UP, UP, DOWN], (7, 7), [(8, 7), (8, 7), (6, 7)]),
        # Votes that cross move the box over both axes, if nobody is there.
        ([(8, 7)] * 2 + [(7, 6)] * 2, [UP, UP, RIGHT, RIGHT], (6, 8), [(7, 7)] * 4),
        ([(8, 7)] * 2 + [(7, 6), (6, 8)], [UP, UP, RIGHT, STAY], (6, 7), [(7, 7)] * 3 + [(6, 8)]),
        (
            [(8, 7)] * 2 + [(7, 6)] * 2 + [(6, 8)],
            [UP, UP, RIGHT, RIGHT, UP],
            (7, 7),
            [(8, 7)] * 2 + [(7, 6)] * 2 + [(5, 8)],
        ),
        # An agent in the way blocks the box even if it leaves.
        ([(8, 7), (8, 7), (6, 7)], [UP, UP, LEFT], (7, 7), [(8, 7), (8, 7), (6, 6)]),
        # Where the box goes, an agent does not.
        ([(8, 7), (8, 7), (5, 7)], [UP, UP, DOWN], (6, 7), [(7, 7), (7, 7), (5, 7)]),
        ([(8, 7), (8, 7), (6, 8)], [UP, UP, LEFT], (6, 7), [(7, 7), (7, 7), (6, 8)]),
    ],
)
def test_the_reference_box_moves_as_computed_by_hand(agents, actions, box_after, agents_after):
    game = ReferencePushBox(len(agents))
    game.reset(agents, (7, 7))
    assert game.step(actions)[1:] == (0.0, False, False)
    assert (game.box, game.agents) == (box_after, agents_after)


def test_the_reference_box_pays_for_each_wall_and_is_replaced():
    game = ReferencePushBox(4, horizon=2, reward=5.0)
    game.reset([(13, 12)] * 2 + [(12, 13)] * 2, (13, 13))
    observation, *outcome = game.step([RIGHT, RIGHT, DOWN, DOWN], (4, 9))
    assert outcome == [10.0, False, False]
    ones = [k for k, x in enumerate(observation) if x]
    assert (len(observation), sum(observation)) == (150, 10.0)
    assert ones == [15 * k + x for k, x in enumerate([13] * 8 + [4, 9])]
    # No agent enters a wall, and the horizon truncates.
    assert game.step([RIGHT, DOWN, STAY, LEFT])[1:] == (0.0, False, True)
    assert game.agents == [(13, 13)] * 3 + [(13, 12)]


def test_a_delivered_reference_box_needs_a_new_cell():
    game = ReferencePushBox()
    game.reset([(7, 2), (7, 2)], (7, 1))
    with pytest.raises(ValueError, match="respawn_cell must be given"):
        game.step([LEFT, LEFT])


def test_the_reference_box_ends_the_episode_at_the_wall_if_it_is_not_replaced():
    game = ReferencePushBox(respawn=False)
    game.reset([(7, 2), (7, 2)], (7, 1))
    observation, *outcome = game.step([LEFT, LEFT])
    assert outcome == [1000.0, True, False]
    assert (game.box, observation[75]) == ((7, 0), 1.0)


def test_an_agent_on_the_reference_box_has_no_vote():
    game = ReferencePushBox(pushes_needed=1)
    game.reset([(1, 7), (13, 13)], (1, 7))
    assert game.step([UP, STAY])[1:] == (0.0, False, False)
    assert (game.box, game.agents[0]) == ((1, 7), (1, 7))


def test_the_reference_room_has_one_size():
    with pytest.raises(ValueError, match="size must be 25 here, got 23"):
        ReferenceSecretRoom(size=23)


def test_the_reference_rooms_have_their_walls():
    """Of column 12, 19 cells beside 3 doors of 2, and 12 cells each of two rows."""
    game = ReferenceSecretRoom()
    cells = [(row, column) for row in range(25) for column in range(25)]
    assert sum(map(game.is_wall, cells)) == 19 + 2 * 12
    rooms = Counter(game.room(cell) for cell in cells if not game.is_wall(cell))
    assert rooms == {0: 8 * 12, 1: 7 * 12, 2: 8 * 12, None: 12 * 25 + 6}


@pytest.mark.parametrize(
    ("cell", "action", "after"),
    [
        ((0, 0), UP, (0, 0)),
        ((24, 0), DOWN, (24, 0)),
        ((9, 24), RIGHT, (9, 24)),
        ((5, 11), RIGHT, (5, 11)),
        ((4, 11), RIGHT, (4, 11)),
        ((7, 20), DOWN, (7, 20)),
        ((17, 20), UP, (17, 20)),
        ((12, 13), LEFT, (12, 13)),
        # In a closed door an agent may walk out, and not along it.
        ((11, 12), LEFT, (11, 11)),
        ((11, 12), RIGHT, (11, 13)),
        ((11, 12), UP, (11, 12)),
        ((11, 12), DOWN, (11, 12)),
    ],
)
def test_the_reference_rooms_closed_doors_and_walls_stop_an_agent(cell, action, after):
    game = ReferenceSecretRoom(1, target_room=0)
    game.reset([cell])
    game.step([action])
    assert game.agents == [after]


def test_the_reference_doors_stay_open_for_nine_steps_and_close_for_one():
    """The agent stands on the switch in every second step, and in the ninth it does not."""
    game = ReferenceSecretRoom(1)
    game.reset([(20, 4)])
    seen = []
    for t in range(12):
        game.step([RIGHT if t % 2 == 0 else LEFT])
        seen.append(list(game.open))
    assert seen == [[True] * 3] * 9 + [[False] * 3] + [[True] * 3] * 2


def test_a_reference_door_whose_switch_is_reached_when_it_closes_opens_at_once():
    """The first agent opens the doors in step 1, the second one comes 9 steps later."""
    game = ReferenceSecretRoom(2)
    game.reset([(20, 4), (10, 5)])
    for actions in [[RIGHT, DOWN]] + [[UP, DOWN]] * 9:
        game.step(actions)
        assert game.open == [True] * 3
    assert game.agents == [(11, 5), (20, 5)]
    assert game.count == [0] * 3


@pytest.mark.parametrize("room", [0, 1, 2])
def test_a_small_rooms_switch_opens_its_own_door_in_the_reference(room):
    game = ReferenceSecretRoom(1, target_room=(room + 1) % 3, door_bits=True)
    row, column = game.SWITCHES[room]
    assert game.reset([(row, column - 1)])[-3:] == [0.0] * 3
    observation, *_ = game.step([RIGHT])
    assert len(observation) == 53
    assert observation[-3:] == [float(door == room) for door in range(3)]


def test_the_reference_room_pays_when_the_last_agent_is_inside():
    game = ReferenceSecretRoom(2, target_room=1, reward=5.0, horizon=3)
    game.reset([(12, 14), (11, 12)])
    assert game.step([RIGHT, UP])[1:] == (0.0, False, False)
    assert game.step([LEFT, RIGHT])[1:] == (5.0, True, False)
