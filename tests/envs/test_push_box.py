"""Push-Box: moves and pushes computed by hand, its specs, its streams, its pictures."""

from __future__ import annotations

import importlib
import re
from io import BytesIO

import pytest
import torch
from fakes import B, by_name
from tensordict import TensorDict
from torchrl.envs import ActionMask, RewardSum, TransformedEnv
from torchrl.envs.utils import check_env_specs
from torchrl.modules import EGreedyModule, RandomPolicy

from torchrl_alita import ALITA
from torchrl_alita.envs import (
    Layout,
    PushBox,
    PushBoxSettings,
    draw_push_box,
    get_task,
    layout_of,
    make_env,
    push_box_metrics,
    push_box_task,
)
from torchrl_alita.training.figures import save_gif

ACTION = ("agents", "action")
MASK = ("agents", "action_mask")
OBSERVATION = ("agents", "observation")
REWARD = ("next", "agents", "reward")
UP, RIGHT, DOWN, LEFT, STAY = range(5)
BOX_COLOR, RING_COLOR, WHITE = (170, 119, 68), (221, 0, 221), (255, 255, 255)


def one_hot(actions: list) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(actions), 5).float()


def placed(agents: list, box: tuple[int, int], **arguments) -> PushBox:
    """One game with the agents and the box in given cells."""
    env = PushBox(**{"num_agents": len(agents), "seed": 0, **arguments})
    env.reset()
    env.agent_cells, env.box_cells = torch.tensor([agents]), torch.tensor([box])
    return env


def act(env: PushBox, actions: list) -> TensorDict:
    """One step of one game."""
    return env.step(TensorDict({"agents": {"action": one_hot([actions])}}, [1]))["next"]


def cells_of(observation: torch.Tensor, size: int = 15) -> torch.Tensor:
    """``[*B, N, (2N + 2) * size] -> [*B, N, N + 1, 2]``."""
    return observation.unflatten(-1, (-1, 2, size)).argmax(-1)


def history(env: PushBox, steps: int = 23) -> torch.Tensor:
    """Observations under one fixed sequence of actions, resets included."""
    generator = torch.Generator().manual_seed(0)

    def policy(tensordict: TensorDict) -> TensorDict:
        chosen = torch.randint(5, (*env.batch_size, env.num_agents), generator=generator)
        return tensordict.set(ACTION, torch.eye(5)[chosen])

    return env.rollout(steps, policy, break_when_any_done=False)[("next", *OBSERVATION)]


def state(env: PushBox) -> tuple:
    return env.agent_cells.tolist(), env.box_cells.tolist(), env.steps.tolist()


def episode(cells: list, *, paid: tuple = (), ends: tuple = (), size: int = 15) -> TensorDict:
    """Steps ``[1, T]`` through T + 1 states, each the cells of two agents and the box."""
    one_hots = torch.nn.functional.one_hot(torch.tensor(cells), size).float()
    seen = one_hots.flatten(-3).unsqueeze(1).repeat(1, 2, 1)
    steps = len(cells) - 1
    reward = torch.zeros(steps, 2, 1)
    reward[list(paid)] = 1000
    done = torch.zeros(steps, 1, dtype=torch.bool)
    done[list(ends)] = True
    return TensorDict(
        {
            "agents": {"observation": seen[:-1]},
            "next": {"agents": {"observation": seen[1:], "reward": reward}, "done": done},
        },
        [steps],
    ).unsqueeze(0)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"num_agents": 3, "respawn": False, "start": "uniform", "size": 9, "pushes_needed": 1},
        {"num_agents": 8, "mask_blocked": True, "horizon": 2},
    ],
)
def test_push_box_keeps_torchrls_promises(arguments):
    check_env_specs(PushBox(B, **arguments), seed=0)
    check_env_specs(PushBox(B, **arguments), break_when_any_done="both")


@pytest.mark.parametrize("masked", [False, True])
def test_push_box_has_the_layout_of_the_house(masked):
    env = PushBox(B, num_agents=3, size=11, mask_blocked=masked)
    assert layout_of(env) == Layout(3, 88, 5, discrete=True, masked=masked)
    rollout = env.rollout(2)
    assert rollout[REWARD].shape == (B, 2, 3, 1)
    assert {rollout[key].dtype for key in (OBSERVATION, ACTION, REWARD)} == {torch.float32}
    for flag in ("done", "terminated", "truncated"):
        assert rollout["next", flag].shape == (B, 2, 1)
    assert ((MASK in rollout.keys(True)), (("next", *MASK) in rollout.keys(True))) == (
        masked,
        masked,
    )


def test_every_agent_sees_rows_and_columns_of_all_agents_and_then_of_the_box():
    env = placed([(3, 5), (7, 11)], (4, 13))
    observation = act(env, [STAY, STAY])[OBSERVATION]
    ones = [3, 15 + 5, 30 + 7, 45 + 11, 60 + 4, 75 + 13]
    for agent in range(2):
        assert observation[0, agent].nonzero().flatten().tolist() == ones
    assert observation.sum() == 12


def test_what_is_written_into_one_agents_entries_does_not_reach_the_others():
    env = placed([(5, 6), (5, 6)], (5, 13))
    step = act(env, [RIGHT, RIGHT])
    for key in (OBSERVATION, ("agents", "reward")):
        before = step[key][0, 1].clone()
        step[key][0, 0] = 7.0
        assert torch.equal(step[key][0, 1], before)


@pytest.mark.parametrize(
    ("agents", "actions", "agents_after", "box_after"),
    [
        ([(5, 6), (5, 6)], [RIGHT, RIGHT], [(5, 7), (5, 7)], (5, 8)),
        ([(5, 8), (5, 8)], [LEFT, LEFT], [(5, 7), (5, 7)], (5, 6)),
        ([(6, 7), (6, 7)], [UP, UP], [(5, 7), (5, 7)], (4, 7)),
        ([(4, 7), (4, 7)], [DOWN, DOWN], [(5, 7), (5, 7)], (6, 7)),
        # One vote is too few, and two that oppose each other are none.
        ([(5, 6), (5, 6)], [RIGHT, STAY], [(5, 6), (5, 6)], (5, 7)),
        ([(5, 6), (5, 8)], [RIGHT, LEFT], [(5, 6), (5, 8)], (5, 7)),
        # Votes for a row and for a column are not added.
        ([(5, 6), (4, 7)], [RIGHT, DOWN], [(5, 6), (4, 7)], (5, 7)),
        # Two against one are one vote more, three against one are two.
        ([(5, 6), (5, 6), (5, 8)], [RIGHT, RIGHT, LEFT], [(5, 6), (5, 6), (5, 8)], (5, 7)),
        # An agent ahead of the box stops it. One that comes there is kept out.
        ([(5, 6), (5, 6), (5, 8)], [RIGHT, RIGHT, UP], [(5, 6), (5, 6), (4, 8)], (5, 7)),
        ([(5, 6), (5, 6), (5, 9)], [RIGHT, RIGHT, LEFT], [(5, 7), (5, 7), (5, 9)], (5, 8)),
        # A row and a column together are one diagonal move, which is made or not made.
        (
            [(5, 6), (5, 6), (4, 7), (4, 7)],
            [RIGHT, RIGHT, DOWN, DOWN],
            [(5, 7)] * 4,
            (6, 8),
        ),
        (
            [(5, 6), (5, 6), (4, 7), (4, 7), (6, 8)],
            [RIGHT, RIGHT, DOWN, DOWN, STAY],
            [(5, 6), (5, 6), (4, 7), (4, 7), (6, 8)],
            (5, 7),
        ),
        (
            [(5, 6), (5, 6), (4, 7), (4, 7), (5, 8)],
            [RIGHT, RIGHT, DOWN, DOWN, STAY],
            [(5, 7)] * 4 + [(5, 8)],
            (6, 8),
        ),
        # Who walks where the box is not walks on, or stands at the wall.
        ([(2, 2), (1, 13)], [LEFT, RIGHT], [(2, 1), (1, 13)], (5, 7)),
        ([(13, 1), (1, 1)], [DOWN, UP], [(13, 1), (1, 1)], (5, 7)),
        ([(9, 9), (9, 9)], [UP, DOWN], [(8, 9), (10, 9)], (5, 7)),
    ],
)
def test_agents_and_box_move_as_computed_by_hand(agents, actions, agents_after, box_after):
    env = placed(agents, (5, 7))
    step = act(env, actions)
    assert [tuple(cell) for cell in env.agent_cells[0].tolist()] == agents_after
    assert tuple(env.box_cells[0].tolist()) == box_after
    assert cells_of(step[OBSERVATION])[0, 0].tolist() == [
        *map(list, agents_after),
        list(box_after),
    ]
    assert step["agents", "reward"].abs().sum() == 0


@pytest.mark.parametrize(("votes", "moves"), [(1, False), (2, False), (3, True), (4, True)])
def test_the_votes_needed_are_an_argument(votes, moves):
    env = placed([(5, 6)] * 4, (5, 7), pushes_needed=3)
    act(env, [RIGHT] * votes + [STAY] * (4 - votes))
    assert env.box_cells.tolist() == [[5, 8 if moves else 7]]


@pytest.mark.parametrize(
    ("agent", "box", "action", "wall"),
    [
        ((2, 7), (1, 7), UP, (0, 7)),
        ((7, 12), (7, 13), RIGHT, (7, 14)),
        ((12, 7), (13, 7), DOWN, (14, 7)),
        ((7, 2), (7, 1), LEFT, (7, 0)),
    ],
)
def test_each_wall_pays_every_agent_and_ends_the_episode_if_no_box_follows(
    agent, box, action, wall
):
    env = placed([agent, agent], box, respawn=False, reward=7.0)
    step = act(env, [action, action])
    assert step["agents", "reward"].flatten().tolist() == [7.0, 7.0]
    assert cells_of(step[OBSERVATION])[0, 1].tolist() == [list(box), list(box), list(wall)]
    assert [step[flag].item() for flag in ("done", "terminated", "truncated")] == [
        True,
        True,
        False,
    ]


def test_a_box_in_a_corner_is_paid_for_both_walls():
    env = placed([(1, 2), (2, 1)], (1, 1), pushes_needed=1, respawn=False)
    step = act(env, [LEFT, UP])
    assert env.box_cells.tolist() == [[0, 0]]
    assert step["agents", "reward"].flatten().tolist() == [2000.0, 2000.0]


def test_after_a_delivery_a_new_box_is_seen_at_once_and_the_episode_goes_on():
    env = placed([(2, 7), (2, 7)], (1, 7))
    step = act(env, [UP, UP])
    assert step["agents", "reward"].flatten().tolist() == [1000.0, 1000.0]
    assert not step["done"].any()
    new = env.box_cells[0].tolist()
    assert 4 <= min(new) <= max(new) <= 11
    assert cells_of(step[OBSERVATION])[0, 0].tolist() == [[1, 7], [1, 7], new]
    assert act(env, [STAY, STAY])["agents", "reward"].sum() == 0
    assert env.box_cells[0].tolist() == new


def test_a_box_is_replaced_where_it_was_delivered_and_in_no_other_game():
    env = PushBox(B, seed=0)
    env.reset()
    env.agent_cells[:] = torch.tensor([2, 7])
    env.box_cells[:] = torch.tensor([8, 3])
    env.box_cells[4] = torch.tensor([1, 7])
    step = env.step(TensorDict({"agents": {"action": one_hot([[UP, UP]] * B)}}, [B]))["next"]
    assert step["agents", "reward"][:, 1, 0].tolist() == [0.0] * 4 + [1000.0] + [0.0] * 2
    assert env.box_cells[4].min() >= 4
    others = torch.arange(B) != 4
    assert (env.box_cells[others] == torch.tensor([8, 3])).all()


def test_agents_that_stand_on_the_box_do_not_push_it():
    env = placed([(1, 7), (1, 7)], (1, 7))
    step = act(env, [UP, UP])
    assert state(env)[:2] == ([[[1, 7], [1, 7]]], [[1, 7]])
    assert step["agents", "reward"].sum() == 0


def test_new_boxes_are_uniform_over_the_cells_that_no_agent_holds():
    # Of the nine cells for boxes five are taken, one of them twice and one by a pusher.
    count = 6000
    env = PushBox(count, num_agents=8, size=10, seed=5)
    env.reset()
    taken = [(4, 4), (4, 4), (5, 5), (6, 6), (4, 6)]
    agents = [*taken, (3, 5), (3, 5), (9 - 1, 1)]
    env.agent_cells = torch.tensor([agents]).repeat(count, 1, 1)
    # Two push downwards into a box that is in the last row but one, by no rule of the game.
    env.agent_cells[:, 5:7] = torch.tensor([7, 5])
    env.box_cells = torch.tensor([[8, 5]]).repeat(count, 1)
    actions = [STAY] * 5 + [DOWN, DOWN, STAY]
    env.step(TensorDict({"agents": {"action": one_hot([actions] * count)}}, [count]))
    found, times = env.box_cells.unique(dim=0, return_counts=True)
    assert found.tolist() == [[4, 5], [5, 4], [5, 6], [6, 4], [6, 5]]
    # Five standard errors of a share of 1/5.
    assert (times / count - 0.2).abs().max() < 5 * 0.4 / count**0.5


def test_first_boxes_are_uniform_over_their_square():
    count = 20_000
    env = PushBox(count, seed=1)
    env.reset()
    found, times = env.box_cells.unique(dim=0, return_counts=True)
    assert found.tolist() == [[row, column] for row in range(4, 12) for column in range(4, 12)]
    assert (times / count - 1 / 64).abs().max() < 5 * (1 / 64 / count) ** 0.5


def test_agents_start_in_the_corner_or_anywhere_but_never_on_the_box():
    assert (PushBox(B, num_agents=3).reset()[OBSERVATION][..., 1] == 1).all()
    count = 20_000
    env = PushBox(count, start="uniform", seed=1)
    env.reset()
    for agent in range(2):
        found, times = env.agent_cells[:, agent].unique(dim=0, return_counts=True)
        assert len(found) == 169
        assert (found.min(), found.max()) == (1, 13)
        assert (times / count - 1 / 169).abs().max() < 5 * (1 / 169 / count) ** 0.5
    # They are drawn apart from each other.
    together = (env.agent_cells[:, 0] == env.agent_cells[:, 1]).all(-1).float().mean()
    assert abs(together - 1 / 169) < 5 * (1 / 169 / count) ** 0.5
    assert not (env.agent_cells == env.box_cells.unsqueeze(1)).all(-1).any()


def test_the_horizon_truncates_and_does_not_terminate():
    for respawn in (True, False):
        env = PushBox(B, horizon=3, respawn=respawn, seed=0)
        rollout = env.rollout(7, break_when_any_done=False)
        for flag in ("done", "truncated"):
            assert rollout["next", flag][0, :, 0].tolist() == [False, False, True] * 2 + [False]
        assert not rollout["next", "terminated"].any()


def test_a_partial_reset_leaves_the_other_games_where_they_are():
    env = PushBox(B, seed=0)
    step = env.reset()
    env.agent_cells = torch.full_like(env.agent_cells, 9)
    actions = one_hot([[UP, UP]] * B)
    step = env.step(step.set(ACTION, actions))["next"]
    kept_boxes = env.box_cells.clone()
    reset = torch.arange(B).unsqueeze(-1) % 2 == 0
    again = env.reset(step.set("_reset", reset))
    rows = [1, 8] * 3 + [1]
    assert env.agent_cells[..., 0].tolist() == [[row, row] for row in rows]
    assert env.steps.flatten().tolist() == [0, 1] * 3 + [0]
    assert torch.equal(env.box_cells[1::2], kept_boxes[1::2])
    assert not torch.equal(env.box_cells[::2], kept_boxes[::2])
    assert cells_of(again[OBSERVATION])[:, 0, 0, 0].tolist() == rows


def test_the_same_seed_plays_the_same_games_and_games_differ():
    arguments = {"num_envs": B, "start": "uniform", "horizon": 5}
    first = history(PushBox(**arguments, seed=2))
    assert torch.equal(first, history(PushBox(**arguments, seed=2)))
    env = PushBox(**arguments, seed=0)
    assert not torch.equal(first, history(env))
    env.set_seed(2)
    assert torch.equal(first, history(env))
    assert len(first[:, 0, 0].unique(dim=0)) == B


def test_without_a_seed_games_differ_even_under_one_global_seed():
    played = []
    for _ in range(2):
        torch.manual_seed(0)
        played.append(history(PushBox(B, start="uniform")))
    assert not torch.equal(*played)


@pytest.mark.parametrize("seed", [0, None])
def test_the_global_generator_is_neither_read_nor_moved(seed):
    before = torch.get_rng_state()
    env = PushBox(B, start="uniform", horizon=5, seed=seed)
    history(env)
    env.set_seed(seed)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(1)
    first = history(PushBox(B, start="uniform", horizon=5, seed=2))
    torch.manual_seed(2)
    assert torch.equal(first, history(PushBox(B, start="uniform", horizon=5, seed=2)))


def restless(seed: int) -> PushBox:
    """Games in which boxes are delivered and new ones drawn in few steps."""
    return PushBox(B, num_agents=3, size=9, pushes_needed=1, horizon=11, start="uniform", seed=seed)


def test_a_loaded_state_goes_on_as_the_saved_one():
    env, other = restless(0), restless(1)
    step = env.rollout(7)[:, -1]["next"].exclude(("agents", "reward"))
    saved = env.state_dict()
    assert set(saved) == {"agent_cells", "box_cells", "steps", "generator"}

    def up(tensordict: TensorDict) -> TensorDict:
        return tensordict.set(ACTION, one_hot([[UP] * 3] * B))

    def go_on(env: PushBox) -> TensorDict:
        options = {"auto_reset": False, "break_when_any_done": False}
        return env.rollout(60, up, tensordict=step.clone(), **options)

    other.load_state_dict(saved)
    env.load_state_dict(saved)
    first, second = go_on(env), go_on(other)
    assert first[REWARD].sum() > 0
    assert first["next", "truncated"].any()
    assert all(torch.equal(first[key], second[key]) for key in first.keys(True, True))
    # The saved state is what it was, and can be loaded again.
    env.load_state_dict(saved)
    assert torch.equal(go_on(env)[REWARD], first[REWARD])


def test_what_is_written_into_a_saved_state_does_not_reach_the_game():
    env = restless(0)
    env.reset()
    before, saved = state(env), env.state_dict()
    saved["box_cells"].zero_()
    assert state(env) == before
    env.load_state_dict(saved)
    saved["box_cells"].fill_(5)
    assert (env.box_cells == 0).all()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("agent_cells", torch.ones(5, 3, 2).long(), "torch.int64 of the shape (7, 3, 2), got"),
        ("box_cells", torch.ones(B, 2), "got torch.float32 of the shape (7, 2)."),
        ("box_cells", torch.full((B, 2), 9), "must lie in rows and columns 0 to 8, got values"),
        ("agent_cells", torch.full((B, 3, 2), -1), "from -1 to -1."),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(name, value, message):
    env = restless(0)
    env.reset()
    before, generator = state(env), env.generator.get_state()
    saved = restless(1).state_dict() | {name: value}
    with pytest.raises(ValueError, match=re.escape(message)):
        env.load_state_dict(saved)
    assert state(env) == before
    assert torch.equal(env.generator.get_state(), generator)


def test_a_state_with_a_key_too_few_or_too_many_is_refused():
    env, saved = restless(0), restless(1).state_dict()
    del saved["steps"]
    with pytest.raises(RuntimeError, match=r"Missing key.*\"steps\""):
        env.load_state_dict(saved)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*\"doors\""):
        env.load_state_dict(env.state_dict() | {"doors": torch.zeros(1)})


@pytest.mark.parametrize(
    ("wrong", "got"),
    [
        ([0.0, 0.0, 0.0, 0.0, 0.0], "[0.0, 0.0, 0.0, 0.0, 0.0]"),
        ([1.0, 0.0, 1.0, 0.0, 0.0], "[1.0, 0.0, 1.0, 0.0, 0.0]"),
        ([0.0, 0.5, 0.5, 0.0, 0.0], "[0.0, 0.5, 0.5, 0.0, 0.0]"),
        ([0.0, 2.0, 0.0, 0.0, 0.0], "[0.0, 2.0, 0.0, 0.0, 0.0]"),
        ([0.0, 1.0, 0.0, -1.0, 0.0], "[0.0, 1.0, 0.0, -1.0, 0.0]"),
        ([torch.nan, 1.0, 0.0, 0.0, 0.0], "[nan, 1.0, 0.0, 0.0, 0.0]"),
        ([torch.inf, 0.0, 0.0, 0.0, 0.0], "[inf, 0.0, 0.0, 0.0, 0.0]"),
    ],
)
def test_an_action_that_is_not_one_hot_is_named_and_changes_nothing(wrong, got):
    env = PushBox(B, num_agents=3, seed=0)
    step, before = env.reset(), state(env)
    action = one_hot([[RIGHT] * 3] * B)
    action[4, 2], action[5, 0] = torch.tensor(wrong), 0.0
    message = f"The action of agent 2 in environment 4 must be one-hot, got {got}."
    with pytest.raises(ValueError, match=re.escape(message)):
        env.step(step.set(ACTION, action))
    assert state(env) == before


def test_an_action_of_another_width_is_refused():
    step = PushBox(B, seed=0).reset()
    with pytest.raises(ValueError, match=re.escape("the shape (7, 2, 5), got (7, 2, 4).")):
        PushBox(B, seed=0).step(step.set(ACTION, torch.eye(4)[:2].expand(B, 2, 4)))


@pytest.mark.parametrize("dtype", [torch.bool, torch.long, torch.float64])
def test_an_action_counts_the_same_in_any_type(dtype):
    env = placed([(5, 6), (5, 6)], (5, 7))
    action = one_hot([[RIGHT, RIGHT]]).to(dtype)
    env.step(TensorDict({"agents": {"action": action}}, [1]))
    assert env.box_cells.tolist() == [[5, 8]]


@pytest.mark.parametrize(
    ("cell", "blocked"),
    [((1, 1), [UP, LEFT]), ((1, 7), [UP]), ((13, 13), [RIGHT, DOWN]), ((5, 6), [])],
)
def test_only_moves_into_walls_are_masked(cell, blocked):
    # The box is to the right of (5, 6).
    env = placed([cell, (9, 9)], (5, 7), mask_blocked=True)
    mask = act(env, [STAY, STAY])[MASK]
    assert mask[0, 0].tolist() == [action not in blocked for action in range(5)]
    assert mask[0, 1].all()


def test_a_masked_action_is_named_and_changes_nothing():
    env = PushBox(B, mask_blocked=True, seed=0)
    step, before = env.reset(), state(env)
    assert step[MASK][3, 1].tolist() == [False, True, True, False, True]
    action = one_hot([[STAY, STAY]] * B)
    action[3, 1] = one_hot([LEFT])[0]
    message = "The action of agent 1 in environment 3 must be allowed by the mask, got 3."
    with pytest.raises(ValueError, match=re.escape(message)):
        env.step(step.set(ACTION, action))
    assert state(env) == before
    # Without the mask the agent runs into the wall.
    free = PushBox(B, seed=0)
    free.step(free.reset().set(ACTION, action))
    assert free.agent_cells[3, 1].tolist() == [1, 1]


def test_random_actions_are_drawn_from_what_is_allowed():
    def env() -> PushBox:
        return PushBox(B, size=9, mask_blocked=True, horizon=5, seed=0)

    # A masked action would be an error.
    rollout = env().rollout(50, break_when_any_done=False)
    assert (~rollout[MASK]).any()
    assert rollout[ACTION].bool().logical_and(~rollout[MASK]).sum() == 0
    wrapped = TransformedEnv(env(), RewardSum([("agents", "reward")], reset_keys=["_reset"]))
    wrapped.rollout(50, break_when_any_done=False)
    TransformedEnv(env(), ActionMask(ACTION, MASK)).rollout(50, break_when_any_done=False)
    game = env()
    game.rollout(50, RandomPolicy(game.full_action_spec), break_when_any_done=False)


def test_random_actions_fit_a_state_that_was_loaded():
    env, other = (PushBox(B, size=9, mask_blocked=True, seed=seed) for seed in (0, 1))
    env.rollout(40)
    other.reset()
    other.load_state_dict(env.state_dict())
    for _ in range(20):
        other.load_state_dict(env.state_dict())
        other.step(other.rand_action(TensorDict(batch_size=[B])))


def test_an_exploration_module_does_not_leave_its_mask_in_the_spec():
    env = PushBox(B, size=9, mask_blocked=True, horizon=5, seed=0)
    explore = EGreedyModule(
        env.full_action_spec, eps_init=1.0, action_key=ACTION, action_mask_key=MASK
    )

    def policy(tensordict: TensorDict) -> TensorDict:
        return explore(tensordict.set(ACTION, one_hot([[STAY, STAY]] * B)))

    env.rollout(10, policy, break_when_any_done=False)
    env.rollout(50, break_when_any_done=False)


def test_the_spec_of_masked_actions_knows_what_it_holds():
    env = placed([(1, 1), (1, 1)], (5, 7), mask_blocked=True)
    act(env, [STAY, STAY])
    spec = env.full_action_spec[ACTION]
    assert spec.is_in(one_hot([[RIGHT, STAY]]))
    assert not spec.is_in(one_hot([[RIGHT, UP]]))
    assert not spec.is_in(torch.zeros(1, 2, 5))
    assert not spec.is_in(torch.full((1, 2, 5), 0.2))
    assert not spec.is_in(one_hot([[RIGHT, STAY]]).bool())
    assert spec.is_in(spec.project(one_hot([[RIGHT, UP]])))


def test_a_move_to_another_device_is_refused():
    env = PushBox()
    assert env.to("cpu") is env
    with pytest.raises(ValueError, match="make a new environment with device='meta'"):
        env.to("meta")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_envs": 0}, "num_envs must be a whole number at least 1, got 0."),
        ({"num_envs": 2.5}, "num_envs must be a whole number at least 1, got 2.5."),
        ({"num_agents": 1}, "num_agents must be a whole number from 2 to 8, got 1."),
        ({"num_agents": 9}, "num_agents must be a whole number from 2 to 8, got 9."),
        ({"size": 8}, "size must be a whole number at least 9, got 8."),
        ({"size": 9, "num_agents": 4}, "size must be a whole number at least 10, got 9."),
        ({"horizon": 0}, "horizon must be a whole number at least 1, got 0."),
        ({"start": "centre"}, "start must be one of ['corner', 'uniform'], got 'centre'."),
        ({"pushes_needed": 0}, "pushes_needed must be a whole number from 1 to 2, got 0."),
        ({"pushes_needed": 3}, "pushes_needed must be a whole number from 1 to 2, got 3."),
        ({"reward": 0.0}, "reward must be positive, got 0.0."),
        ({"reward": -1.0}, "reward must be positive, got -1.0."),
        ({"reward": float("nan")}, "reward must be positive, got nan."),
        ({"reward": float("inf")}, "reward must be finite, got inf."),
    ],
)
def test_an_argument_out_of_range_is_refused_with_its_value(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        PushBox(**arguments)


@pytest.mark.parametrize(("num_agents", "size"), [(2, 9), (3, 9), (4, 10), (8, 10)])
def test_the_least_size_leaves_a_cell_for_the_box(num_agents, size):
    env = PushBox(B, num_agents=num_agents, size=size)
    square = [(row, column) for row in range(4, size - 3) for column in range(4, size - 3)]
    assert len(square) > num_agents
    agents = torch.tensor(square[:num_agents]) @ torch.tensor([size, 1])
    box = env._draw_box(agents.expand(B, -1))
    assert not (box.unsqueeze(-1) == agents).any()
    assert {divmod(int(code), size) for code in box} <= set(square[num_agents:])


def test_boxes_and_pushes_are_counted_by_hand():
    # Two pushes; a delivery, after which the new box is where the old one was; one where
    # it is not; a step in which nothing happens; the end; and what does not count.
    box = [(3, 7), (2, 7), (1, 7), (1, 7), (9, 9), (9, 9), (9, 8), (9, 7)]
    steps = episode([[(5, 5), (5, 5), cell] for cell in box], paid=(2, 3, 6), ends=(4,))
    assert push_box_metrics(steps)["boxes_per_episode"] == 2
    assert push_box_metrics(steps)["pushes_per_episode"] == 4
    still = episode([[(5, 5), (5, 5), (9, 9)]] * 8)
    both = push_box_metrics(torch.cat([steps, still]))
    assert (both["boxes_per_episode"], both["pushes_per_episode"]) == (1, 2)


def test_the_metrics_agree_with_the_game():
    env = placed([(3, 7), (3, 7)], (2, 7), horizon=4)
    plan = iter([[UP, UP], [UP, STAY], [UP, UP], [STAY, STAY]])

    def policy(tensordict: TensorDict) -> TensorDict:
        return tensordict.set(ACTION, one_hot([next(plan)]))

    start = act(env, [STAY, STAY])
    env.steps.zero_()
    played = env.rollout(4, policy, auto_reset=False, tensordict=start.exclude(REWARD[1:]))
    metrics = push_box_metrics(played)
    assert (metrics["boxes_per_episode"], metrics["pushes_per_episode"]) == (1, 2)


def test_metrics_of_other_games_are_refused():
    steps = episode([[(5, 5), (5, 5), (9, 9)]] * 3)
    with pytest.raises(KeyError, match="observation"):
        push_box_metrics(steps.exclude(OBSERVATION))
    steps["agents"] = TensorDict({"observation": torch.zeros(1, 2, 2, 91)}, [1, 2])
    with pytest.raises(ValueError, match=re.escape("(2N + 2) * size entries, got 91 for 2")):
        push_box_metrics(steps)


def moving() -> TensorDict:
    """Four steps ``[T]``, with a delivery in the second and the end after the third."""
    cells = [[(5, 5 + k), (5, 5 + k), (5, 6 + k)] for k in range(5)]
    return episode(cells, paid=(1,), ends=(2,))[0]


def pixel(frame, cell: tuple[float, float], edge: int = 16) -> tuple:
    """Color in the middle of a cell (row, column)."""
    return frame.getpixel((int((cell[1] + 0.5) * edge), int((cell[0] + 0.5) * edge)))


def test_an_episode_is_drawn_from_its_first_state_to_its_last():
    frames = draw_push_box(moving())
    assert len(frames) == 4
    for k, frame in enumerate(frames):
        assert frame.size == (240, 256)
        assert pixel(frame, (5, 6 + k)) == BOX_COLOR
        assert pixel(frame, (0, 0)) == pixel(frame, (14, 7)) == (85, 85, 85)
        assert pixel(frame, (9, 9)) == WHITE
        assert pixel(frame, (5, 5 + k)) not in (WHITE, BOX_COLOR)
    # The trail leads back to the first cell.
    assert pixel(frames[-1], (5, 5)) != WHITE


def test_agents_in_one_cell_are_both_seen():
    frame = draw_push_box(moving())[0]
    colors = {color for _, color in frame.crop((80, 80, 96, 96)).getcolors()}
    assert {(68, 119, 170), (238, 102, 119)} <= colors


def test_deliveries_are_counted_below_the_picture():
    steps = moving()
    unpaid = steps.clone()
    unpaid[REWARD].zero_()
    below = (0, 240, 240, 256)
    pairs = zip(draw_push_box(steps), draw_push_box(unpaid), strict=True)
    same = [a.crop(below).tobytes() == b.crop(below).tobytes() for a, b in pairs]
    assert same == [True, True, False, False]


@pytest.mark.parametrize("key", ["exploring", ("agents", "exploring")])
def test_agents_that_explore_are_ringed(key):
    steps = moving()
    apart = [[(5, 5), (9, 9), (2, 2)]] * 4
    steps[:3].update_(episode(apart)[0].select("agents", ("next", "agents", "observation")))
    flags = torch.zeros(4, 2, 1, dtype=torch.bool)
    flags[1, 1] = True
    if key == "exploring":
        flags = flags.any(1)
    steps[key] = flags
    frames = draw_push_box(steps)
    ringed = [
        [RING_COLOR in {color for _, color in frame.crop(area).getcolors()} for area in areas]
        for frame in frames
        for areas in [((70, 70, 106, 106), (134, 134, 170, 170))]
    ]
    team = key == "exploring"
    assert ringed == [[False, False], [team, True], [False, False], [False, False]]


def test_a_whole_episode_is_a_small_moving_picture(tmp_path):
    frames = draw_push_box(PushBox(1, seed=0, start="uniform").rollout(300)[0])
    assert len(frames) == 301
    save_gif(tmp_path / "play.gif", frames)
    assert (tmp_path / "play.gif").stat().st_size < 500_000
    frames[0].save(BytesIO(), "PNG")


def test_without_pillow_the_error_names_the_extra_to_install(monkeypatch):
    def missing(_):
        raise ModuleNotFoundError("No module named 'PIL'", name="PIL")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r"torchrl_alita\[recipes\]"):
        draw_push_box(moving())


def test_the_task_is_registered_with_the_papers_arguments():
    env = make_env("push_box", num_envs=3, n_agents=2, seed=0, horizon=300)
    assert (env.size, env.horizon, env.respawn, env.start) == (15, 300, True, "corner")
    assert (env.pushes_needed, env.reward, env.mask_blocked) == (2, 1000.0, False)
    episodes = env.rollout(5)
    task = get_task("push_box")
    assert set(task.metrics(episodes)) == {"boxes_per_episode", "pushes_per_episode"}
    assert len(task.draw(episodes[0])) == 6


def test_a_task_hands_every_argument_to_the_game():
    arguments = {
        "size": 11,
        "respawn": False,
        "start": "uniform",
        "pushes_needed": 3,
        "reward": 5.0,
        "mask_blocked": True,
    }
    env = make_env(
        push_box_task(PushBoxSettings(**arguments)), num_envs=7, n_agents=3, seed=2, horizon=13
    )
    assert {name: getattr(env, name) for name in arguments} == arguments
    assert (env.batch_size, env.num_agents, env.horizon) == ((7,), 3, 13)
    same = PushBox(7, num_agents=3, size=11, respawn=False, start="uniform", seed=2)
    assert torch.equal(env.reset()[OBSERVATION], same.reset()[OBSERVATION])
    with pytest.raises(TypeError, match="sise"):
        PushBoxSettings(sise=9)


def test_a_task_without_a_seed_takes_one_from_torch():
    boxes = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        env = make_env("push_box", num_envs=B, n_agents=2)
        env.reset()
        boxes.append(env.box_cells)
    assert torch.equal(boxes[0], boxes[1])
    assert not torch.equal(boxes[0], boxes[2])


@pytest.mark.parametrize("masked", [False, True])
def test_alita_makes_a_training_step(masked):
    torch.manual_seed(0)
    env = PushBox(B, mask_blocked=masked, seed=0)
    algorithm = ALITA(env)
    logs = algorithm.update(by_name(algorithm, env.rollout(5).reshape(-1)))
    assert all(torch.isfinite(value).all() for value in logs.values(True, True))
    env.rollout(20, algorithm.actor, break_when_any_done=False)
