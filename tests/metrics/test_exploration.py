"""Exploration metrics: what is counted by hand, and what the games themselves know."""

from __future__ import annotations

import math
import re
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import B, N, TargetEnv
from PIL import Image
from tensordict import TensorDict
from torch.nn.functional import one_hot
from torchrl.envs import EnvBase

from torchrl_alita.envs import (
    MatrixGame,
    PushBox,
    PushBoxEvents,
    SecretRoom,
    SecretRoomEvents,
    push_box_events,
    secret_room_events,
)
from torchrl_alita.metrics import (
    BinnedCells,
    Coverage,
    ExplorationMetrics,
    FirstSuccess,
    OneHotCells,
    VisitMap,
    exploration_metrics,
)
from torchrl_alita.modules import TeamExploration
from torchrl_alita.training.figures import save_heat_map

ACTION = ("agents", "action")
OBSERVATION = ("agents", "observation")
EYE = torch.eye(5)
UP, RIGHT, DOWN, LEFT, STAY = range(5)


def batch_of(**agents: torch.Tensor) -> TensorDict:
    """Entries ``[B, T, N, F]`` in the layout of the house."""
    lead = next(iter(agents.values())).shape[:2]
    return TensorDict({"agents": agents}, lead)


def visited(*cells: tuple[int, ...], sizes: tuple[int, ...] = (2, 3)) -> TensorDict:
    """One environment in which the first agent sees these cells, one after the other."""
    rows = [torch.cat([one_hot(torch.tensor(c), s) for c, s in zip(cell, sizes, strict=True)])
            for cell in cells]  # fmt: skip
    return batch_of(observation=torch.stack(rows).float()[None, :, None])


def scalars(logs: TensorDict) -> dict[str, float]:
    assert all(value.shape == () for value in logs.values())
    return {key: float(value) for key, value in logs.items()}


def metrics_of(env: EnvBase) -> ExplorationMetrics:
    """With what the game's task counts itself."""
    events = {PushBox: push_box_events, SecretRoom: secret_room_events}
    count = events.get(type(env), lambda _: ())
    return exploration_metrics(env, events=count(env))


# Cells


def test_one_hots_and_bits_become_their_places():
    cells = OneHotCells([3, 1, 2, 1])
    vectors = torch.tensor([[0.0, 1, 0, 0, 0, 1, 1], [0, 0, 1, 1, 1, 0, 0]])
    assert cells(vectors).tolist() == [[1, 0, 1, 1], [2, 1, 0, 0]]
    assert cells.sizes == (3, 2, 2, 2)
    assert cells(vectors.expand(5, 2, 7)).shape == (5, 2, 4)
    # Straight-through actions are one-hot but for rounding, flags are of another type.
    assert torch.equal(cells(vectors.bool()), cells(vectors * (1 - 1e-7)))


def test_what_stands_after_the_one_hots_is_not_read():
    cells = OneHotCells([2, 2], rest=3)
    vector = torch.tensor([0.0, 1, 1, 0, 9, 9, 9])
    assert cells(vector).tolist() == [1, 0]
    assert cells.sizes == (2, 2)


def test_bins_are_half_open_and_what_is_outside_is_in_the_nearest():
    cells = BinnedCells(low=[0.0, -2.0], high=[1.0, 2.0], bins=[4, 2], features=(1, 0))
    first = torch.tensor([-9.0, 0.0, 0.24, 0.25, 0.99, 1.0, torch.inf, torch.nan])
    vectors = torch.stack([torch.zeros(8), first], -1)
    assert cells(vectors)[:, 0].tolist() == [0, 0, 0, 1, 3, 3, 3, 0]
    assert cells(torch.tensor([[-0.1, 0.0], [0.0, 0.0]]))[:, 1].tolist() == [0, 1]
    assert cells.sizes == (4, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OneHotCells([]), "at least one one-hot, got []."),
        (lambda: OneHotCells([3, 0]), "width must be at least 1, got 0."),
        (lambda: OneHotCells([3, 2])(torch.zeros(4)), "of 5 features, got 4."),
        (lambda: BinnedCells(low=0, high=1, bins=2, features=()), "from 0 on, got []."),
        (lambda: BinnedCells(low=0, high=1, bins=2, features=[-1]), "from 0 on, got [-1]."),
        (lambda: BinnedCells(low=0, high=1, bins=0, features=[0]), "bins must be at least 1"),
        (lambda: BinnedCells(low=0, high=1, bins=2.5, features=[0]), "whole numbers, got 2.5."),
        (lambda: BinnedCells(low=1, high=1, bins=2, features=[0]), "above low, got 1 to 1."),
        (lambda: BinnedCells(low=0, high=math.inf, bins=2, features=[0]), "got 0 to inf."),
        (lambda: BinnedCells(low=[0, 0], high=1, bins=2, features=[0]), "or 1, got [0, 0]."),
        (lambda: BinnedCells(low=0, high=1, bins=2, features=[3])(torch.zeros(3)), "got 3 ent"),
    ],
)
def test_cells_that_cannot_be_are_refused(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


# Coverage


def test_visits_are_counted_over_batches_and_the_entropy_is_that_of_their_shares():
    coverage = Coverage(OneHotCells([2, 3]))
    first = scalars(coverage(visited((0, 0), (0, 0), (1, 2))))
    assert first["state_visited"] == 2
    assert first["state_coverage"] == pytest.approx(2 / 6)
    assert first["state_entropy"] == pytest.approx(-(2 / 3 * math.log(2 / 3) + math.log(1 / 3) / 3))
    second = scalars(coverage(visited((0, 1), (1, 2), (0, 0))))
    # Three, one and two of six.
    shares = [3 / 6, 1 / 6, 2 / 6]
    entropy = -sum(share * math.log(share) for share in shares)
    assert second["state_visited"] == 3
    assert second["state_entropy"] == pytest.approx(entropy)
    assert second["state_entropy_share"] == pytest.approx(entropy / math.log(6))
    assert coverage.counts.tolist() == [3, 1, 0, 0, 0, 2]
    assert coverage.exact


def test_a_uniform_visit_has_all_of_the_entropy_and_a_single_state_none():
    coverage = Coverage(OneHotCells([2, 3]))
    assert scalars(coverage.metrics())["state_entropy"] == 0
    logs = scalars(coverage(visited(*[(1, 1)] * 7)))
    assert logs["state_entropy"] == pytest.approx(0, abs=1e-12)
    uniform = Coverage(OneHotCells([2, 3]))
    logs = scalars(uniform(visited(*product(range(2), range(3)))))
    assert logs["state_coverage"] == 1
    assert logs["state_entropy_share"] == pytest.approx(1)


def test_the_share_is_of_the_states_that_are_possible():
    logs = scalars(Coverage(OneHotCells([2, 3]), possible=4)(visited((0, 0), (1, 1))))
    assert logs["state_coverage"] == 0.5
    assert logs["state_entropy_share"] == pytest.approx(0.5)


def test_many_batches_leave_the_entropy_where_all_counts_put_it():
    torch.manual_seed(0)
    coverage = Coverage(OneHotCells([7, 11]))
    for _ in range(50):
        cells = [(int(a), int(b)) for a, b in zip(torch.randint(7, (13,)), torch.randint(11, (13,)),
                                                  strict=True)]  # fmt: skip
        logs = scalars(coverage(visited(*cells, sizes=(7, 11))))
    shares = coverage.counts[coverage.counts > 0].double() / (50 * 13)
    assert logs["state_entropy"] == pytest.approx(-float((shares * shares.log()).sum()))
    assert logs["state_visited"] == len(shares)


def test_the_listed_agents_make_the_joint_cell_together():
    # Three agents with two bits each: agent 0 the slowest, as everywhere.
    seen = torch.tensor([[[0.0, 1], [1, 1], [1, 0]]])[None]
    together = Coverage(OneHotCells([1, 1]), agents=range(3))
    together(batch_of(observation=seen))
    assert together.counts.nonzero().flatten().tolist() == [0b011110]
    last = Coverage(OneHotCells([1, 1]), agents=[2])
    last(batch_of(observation=seen))
    assert last.counts.tolist() == [0, 0, 1, 0]


def test_a_state_without_agents_is_counted_under_its_own_key_and_name():
    coverage = Coverage(OneHotCells([3]), name="arm", key="state", agents=None)
    logs = coverage(TensorDict({"state": torch.eye(3)[:2]}, [2]))
    assert set(logs.keys()) == {"arm_visited", "arm_coverage", "arm_entropy", "arm_entropy_share"}
    assert float(logs["arm_visited"]) == 2


def test_too_many_states_are_hashed_and_the_counts_are_lower_bounds():
    torch.manual_seed(0)
    sizes = (1000,) * 7
    coverage = Coverage(BinnedCells(low=0, high=1, bins=1000, features=range(7)), max_cells=2**20)
    assert not coverage.exact
    assert coverage.counts.shape == (2**20,)
    places = torch.rand(1, 20_011, 1, 7)
    logs = scalars(coverage(batch_of(observation=places)))
    # n random places of M are hit by all but about n^2 / 2M of n states.
    lost = 20_011 - logs["state_visited"]
    assert 100 < lost < 300
    assert logs["state_entropy"] < math.log(20_011)
    assert logs["state_coverage"] == logs["state_visited"] / math.prod(sizes)
    again = scalars(coverage(batch_of(observation=places)))
    assert again["state_visited"] == logs["state_visited"]
    assert again["state_entropy"] == pytest.approx(logs["state_entropy"])


def test_neighboring_states_do_not_meet_in_the_hash():
    """Regular states, as games have, are hashed as well as random ones."""
    coverage = Coverage(OneHotCells([17, 17, 17]), max_cells=2**12)
    cells = list(product(range(17), range(17), range(3)))
    lost = len(cells) - scalars(coverage(visited(*cells, sizes=(17, 17, 17))))["state_visited"]
    assert lost < 2 * 867**2 / 2 / 2**12


def test_joint_actions_are_numbered_with_agent_0_the_slowest():
    game = MatrixGame(torch.zeros(N, 2**N), num_envs=B, seed=0)
    metrics = exploration_metrics(game)
    coverage = metrics.parts[1]
    # 1, 0, 1 in base 2 is 5.
    action = torch.eye(2)[[1, 0, 1]].expand(B, 1, N, 2)
    coverage(batch_of(action=action))
    assert coverage.counts.tolist() == [0, 0, 0, 0, 0, B, 0, 0]
    assert coverage.possible == 2**N
    everything = torch.tensor(list(product((0, 1), repeat=N)))
    logs = scalars(coverage(batch_of(action=torch.eye(2)[everything][None])))
    assert logs["joint_action_coverage"] == 1


def test_continuous_joint_actions_are_counted_in_bins():
    env = TargetEnv()
    coverage = exploration_metrics(env, action_bins=3).parts[1]
    assert coverage.possible == 3 ** (N * 2)
    action = torch.zeros(1, 2, N, 2)
    action[0, 1, 0, 0] = 0.9
    assert scalars(coverage(batch_of(action=action)))["joint_action_visited"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"possible": 7}, "possible must be at most 6, all there are, got 7."),
        ({"possible": 0}, "possible must be at least 1, got 0."),
        ({"max_cells": 0}, "max_cells must be at least 1, got 0."),
        ({"agents": ()}, "agents must be distinct agents, from 0 on, got ()."),
    ],
)
def test_a_coverage_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Coverage(OneHotCells([2, 3]), **arguments)


def test_a_batch_that_does_not_fit_is_refused():
    coverage = Coverage(OneHotCells([2, 3]), agents=[1])
    with pytest.raises(ValueError, match="below the number of agents, 1, got 1"):
        coverage(visited((0, 0)))
    with pytest.raises(KeyError, match="observation"):
        coverage(batch_of(action=torch.zeros(1, 1, 2, 5)))
    assert coverage.total == 0


# First success


def paid(*rewards: list[float]) -> TensorDict:
    reward = torch.tensor(rewards)[..., None, None] * torch.tensor([0.0, 1.0, 0.0])[:, None]
    lead = reward.shape[:2]
    return TensorDict({"next": {"agents": {"reward": reward}}}, lead)


def test_the_first_success_is_counted_in_frames_of_all_environments():
    first = FirstSuccess()
    assert math.isnan(scalars(first(paid([0, 0, 0], [0, -1, 0])))["first_success_frame"])
    # Six frames before, and two steps of two environments.
    assert scalars(first(paid([0, 1, 5], [0, 0, 0])))["first_success_frame"] == 10
    assert scalars(first(paid([9, 9, 9], [9, 9, 9])))["first_success_frame"] == 10


def test_a_success_is_more_than_the_threshold():
    first = FirstSuccess(threshold=1.0)
    assert math.isnan(scalars(first(paid([1, 1])))["first_success_frame"])
    assert scalars(first(paid([1, 1.5])))["first_success_frame"] == 4


# The map


def test_the_map_counts_each_thing_in_its_cell():
    visits = VisitMap(OneHotCells([2, 3, 2, 3, 2, 3]), num_agents=2, others=["box"])
    sizes = (2, 3) * 3
    logs = scalars(visits(visited((0, 0, 1, 2, 0, 1), (0, 0, 0, 0, 0, 1), sizes=sizes)))
    maps = visits.maps()
    assert list(maps) == ["team", "agent 0", "agent 1", "box"]
    assert maps["agent 0"].tolist() == [[2, 0, 0], [0, 0, 0]]
    assert maps["agent 1"].tolist() == [[1, 0, 0], [0, 0, 1]]
    assert maps["box"].tolist() == [[0, 2, 0], [0, 0, 0]]
    assert maps["team"].tolist() == [[3, 0, 0], [0, 0, 1]]
    # Where the box was is no place of the team's.
    assert logs["cell_coverage"] == pytest.approx(2 / 6)
    visits(visited((0, 0, 1, 2, 0, 1), sizes=sizes))
    assert visits.maps()["box"].sum() == 3


def test_a_map_of_agents_that_see_themselves_reads_each_ones_entry():
    cells = BinnedCells(low=0, high=1, bins=(2, 3), features=(1, 0))
    visits = VisitMap(cells, num_agents=2, agents=range(2))
    # x and y: the column and the row.
    visits(batch_of(observation=torch.tensor([[[[0.9, 0.1], [0.1, 0.9]]]])))
    assert visits.maps()["agent 0"].tolist() == [[0, 0, 1], [0, 0, 0]]
    assert visits.maps()["agent 1"].tolist() == [[0, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize("widths", [[2, 3, 2], [2, 3, 3, 3], [2, 3]])
def test_a_map_of_no_common_grid_is_refused(widths):
    with pytest.raises(ValueError, match="a row and a column of 2 things on one grid"):
        VisitMap(OneHotCells(widths), num_agents=2)


# The games


def random_batches(env, *, steps: int, count: int, **exploration) -> list[TensorDict]:
    """Consecutive batches of a run with random actions, episodes reset on the way."""
    torch.manual_seed(0)
    spec = env.full_action_spec_unbatched[ACTION]
    explore = TeamExploration(spec, eps_init=1.0, **exploration)

    def act(tensordict: TensorDict) -> TensorDict:
        tensordict[ACTION] = torch.zeros(*env.batch_size, *spec.shape)
        return explore(tensordict)

    rollout = env.rollout(steps * count, act, break_when_any_done=False)
    return list(rollout.split(steps, 1))


def push_step(env: PushBox, agents: list, box: list, actions: list[int]) -> TensorDict:
    """One step from given cells, as a batch of one environment and one step."""
    env.reset()
    env.agent_cells, env.box_cells = torch.tensor([agents]), torch.tensor([box])
    # A step that nobody moves in shows the cells.
    step = env.step_mdp(env.step(TensorDict({"agents": {"action": EYE[[STAY] * 2][None]}}, [1])))
    step[ACTION] = EYE[actions][None]
    return env.step(step).unsqueeze(1)


@pytest.mark.parametrize(
    ("agents", "box", "actions", "expected"),
    [
        # From the left of the box, both push it.
        ([[5, 6], [5, 6]], [5, 7], [RIGHT, RIGHT], (2, 1, 1, 0)),
        # One pushes, the other stays, or stands elsewhere.
        ([[5, 6], [5, 6]], [5, 7], [RIGHT, STAY], (1, 0, 0, 0)),
        ([[5, 6], [1, 1]], [5, 7], [RIGHT, RIGHT], (1, 0, 0, 0)),
        # Two vote, against each other.
        ([[5, 6], [5, 8]], [5, 7], [RIGHT, LEFT], (2, 0, 0, 0)),
        # Two vote, for different directions.
        ([[5, 6], [4, 7]], [5, 7], [RIGHT, DOWN], (2, 0, 0, 0)),
        # The last push delivers.
        ([[5, 12], [5, 12]], [5, 13], [RIGHT, RIGHT], (2, 1, 1, 1)),
        # Nobody is near.
        ([[1, 1], [1, 1]], [5, 7], [UP, UP], (0, 0, 0, 0)),
    ],
)
def test_votes_pushes_and_deliveries_are_what_the_step_shows(agents, box, actions, expected):
    env = PushBox(seed=0)
    logs = scalars(PushBoxEvents(env)(push_step(env, agents, box, actions)))
    assert tuple(logs[key] for key in PushBoxEvents(env).out_keys) == expected


def test_with_two_agents_the_box_moves_when_they_agree_and_totals_add_up():
    env = PushBox(num_envs=101, horizon=150, start="uniform", seed=0)
    batches = random_batches(env, steps=50, count=7, agreement=1.0)
    events = PushBoxEvents(env)
    logs = [scalars(events(batch)) for batch in batches]
    assert logs[-1]["pushes_in_agreement"] == logs[-1]["boxes_pushed"] > 10
    assert logs[-1]["box_votes"] > 2 * logs[-1]["boxes_pushed"]
    delivered = [(batch["next", "agents", "reward"][..., 0, 0] > 0).sum() for batch in batches]
    assert logs[-1]["boxes_delivered"] == sum(delivered) > 0
    assert all(a["box_votes"] <= b["box_votes"] for a, b in pairwise(logs))


def doors_that_open(env: SecretRoom, actions: torch.Tensor) -> tuple[list[TensorDict], list[int]]:
    """A run of given actions ``[T, B, N]``; and how many doors the game opens in each step."""
    step, steps, opened = env.reset(), [], []
    for chosen in actions:
        before = env.door_open.clone()
        done = env.step(step.set(ACTION, EYE[:4, :4][chosen]))
        opened.append(int((env.door_open & ~before).sum()))
        steps.append(done.clone())
        step = env.maybe_reset(env.step_mdp(done))
    return steps, opened


@pytest.mark.parametrize("door_bits", [False, True])
@pytest.mark.parametrize("door_steps", [0, 3])
def test_doors_are_followed_without_being_seen(door_steps, door_bits):
    env = SecretRoom(
        num_envs=37, size=10, horizon=41, door_steps=door_steps, door_bits=door_bits, seed=0
    )
    torch.manual_seed(0)
    steps, opened = doors_that_open(env, torch.randint(4, (180, 37, 2)))
    events = SecretRoomEvents(env)
    logs = []
    for start in range(0, 180, 9):
        logs.append(scalars(events(torch.stack(steps[start : start + 9], 1))))
        assert logs[-1]["doors_opened"] == sum(opened[: start + 9])
    assert logs[-1]["doors_opened"] > 200


def test_a_switch_is_pressed_by_who_comes_and_not_by_who_stays():
    env = SecretRoom(seed=0)
    env.reset()
    # The large room's switch is in (20, 5); the other agent comes from the right.
    env.agent_cells = torch.tensor([[[20, 3], [20, 6]]])
    shown = env._entries(env.agent_cells @ torch.tensor([25, 1]), *[torch.zeros(1, 1).bool()] * 2)
    actions = torch.tensor([[[RIGHT, UP]], [[RIGHT, DOWN]], [[RIGHT, LEFT]], [[LEFT, RIGHT]]])
    events, step, totals = SecretRoomEvents(env), shown, []
    for chosen in actions:
        done = env.step(step.set(ACTION, EYE[:4, :4][chosen]))
        totals.append(scalars(events(done.unsqueeze(1))))
        step = env.step_mdp(done)
    # The second step brings agent 0; in the third agent 1 takes its place.
    assert [logs["switches_pressed"] for logs in totals] == [0, 1, 1, 1]
    assert [logs["doors_opened"] for logs in totals] == [0, 3, 3, 3]


def test_a_batch_of_other_environments_is_refused():
    env = SecretRoom(num_envs=3, seed=0)
    rollout = env.rollout(2)
    with pytest.raises(ValueError, match=re.escape("must be [3, T], got [2, 2].")):
        SecretRoomEvents(env)(rollout[:2])
    with pytest.raises(ValueError, match=re.escape("must be [3, T], got [3].")):
        SecretRoomEvents(env)(rollout[:, 0])


# All together


@pytest.mark.parametrize(
    ("make", "possible", "names"),
    [
        (lambda: PushBox(num_envs=B, seed=0), 169 * 168**2, ["team", "agent 0", "agent 1", "box"]),
        (lambda: SecretRoom(num_envs=B, seed=0), 582**2, ["team", "agent 0", "agent 1"]),
        (lambda: SecretRoom(num_envs=B, seed=0, door_bits=True), 582**2 * 8, None),
        (lambda: TargetEnv(), None, []),
    ],
)
def test_every_environment_has_metrics_that_can_be_logged(make, possible, names):
    env = make()
    metrics = metrics_of(env)
    rollout = env.rollout(3)
    before = rollout.clone()
    logs = metrics(rollout)
    assert set(logs.keys()) == set(metrics.out_keys) == set(metrics.metrics().keys())
    assert {"first_success_frame", "joint_action_coverage"} <= set(logs.keys())
    assert (rollout == before).all()
    if possible is not None:
        coverage = metrics.parts[2]
        assert coverage.possible == possible
        assert coverage.total == B * 3
        assert coverage.exact
    if names is not None:
        assert list(metrics.maps()) == names
        assert all(counts.sum() % (B * 3) == 0 for counts in metrics.maps().values())


def test_the_memory_for_counts_is_bounded_on_request():
    metrics = exploration_metrics(
        PushBox(), events=push_box_events(PushBox(), max_cells=1000), max_cells=1000
    )
    assert [len(part.counts) for part in metrics.parts[1:3]] == [25, 1000]
    assert not metrics.parts[2].exact
    many = exploration_metrics(TargetEnv(), action_bins=11)
    assert len(many.parts[1].counts) == 2**20 < 11 ** (2 * N)


def test_the_states_of_push_box_are_those_that_the_game_was_in():
    env = PushBox(num_envs=5, horizon=20, start="uniform", seed=0)
    coverage = metrics_of(env).parts[2]
    batches = random_batches(env, steps=10, count=6)
    for batch in batches:
        logs = scalars(coverage(batch))
    seen = torch.cat([batch[OBSERVATION][..., 0, :].reshape(-1, 90) for batch in batches])
    assert logs["state_visited"] == len(seen.unique(dim=0))
    assert len(seen) == 300


def test_counts_are_saved_and_go_on_where_they_were():
    env = PushBox(num_envs=B, seed=0, start="uniform")
    batches = random_batches(env, steps=10, count=2, agreement=1.0)
    whole, first, second = (metrics_of(env) for _ in range(3))
    whole(batches[0])
    expected = scalars(whole(batches[1]))
    first(batches[0])
    second.load_state_dict(first.state_dict())
    resumed = scalars(second(batches[1]))
    resumed["first_success_frame"] = expected["first_success_frame"] = 0
    assert resumed == expected
    assert torch.equal(whole.maps()["box"], second.maps()["box"])


def test_two_parts_of_one_name_are_refused():
    with pytest.raises(ValueError, match="2 parts write 'first_success_frame'"):
        ExplorationMetrics([FirstSuccess(), FirstSuccess(threshold=1.0)])


def test_positions_of_a_game_that_knows_its_own_are_refused():
    cells = BinnedCells(low=0, high=1, bins=2, features=(0, 1))
    events = push_box_events(PushBox())
    with pytest.raises(ValueError, match="2 parts write 'state_visited'"):
        exploration_metrics(PushBox(), events=events, positions=cells)


# The picture


def load(path: Path) -> Image.Image:
    with Image.open(path) as file:
        return file.convert("RGB")


def colors(path: Path) -> set[tuple[int, ...]]:
    picture = load(path)
    return {color for count, color in picture.getcolors(10**6) if count > 400}


def test_a_heat_map_shows_visits_walls_and_what_was_never_visited(tmp_path):
    counts = torch.tensor([[1, 0, 1000], [0, 0, 0]])
    walls = torch.tensor([[False, False, False], [True, True, True]])
    save_heat_map(tmp_path / "bare.png", {"agent": counts}, title="t")
    save_heat_map(tmp_path / "walls.png", {"agent": counts}, title="t", walls=walls)
    bare, walled = colors(tmp_path / "bare.png"), colors(tmp_path / "walls.png")
    # The ends of the color scale, and white.
    assert {(68, 1, 84), (253, 231, 36), (255, 255, 255)} <= bare
    assert (153, 153, 153) in walled - bare


def test_row_0_is_where_the_origin_is(tmp_path):
    counts = torch.tensor([[1000], [1]])
    rows = {}
    for origin in ("upper", "lower"):
        save_heat_map(tmp_path / "map.png", {"agent": counts}, title="t", origin=origin)
        pixels = torch.from_numpy(np.array(load(tmp_path / "map.png")))
        many, one = (
            (pixels == torch.tensor(color)).all(-1).sum(1).argmax()
            for color in ((253, 231, 36), (68, 1, 84))
        )
        rows[origin] = bool(many < one)
    assert rows == {"upper": True, "lower": False}


def test_a_map_of_nothing_yet_is_drawn_and_no_map_is_refused(tmp_path):
    save_heat_map(tmp_path / "map.png", {"a": torch.zeros(2, 3), "b": torch.ones(2, 3)}, title="t")
    save_heat_map(tmp_path / "none.png", {"a": torch.zeros(2, 3)}, title="t")
    assert load(tmp_path / "map.png").width > load(tmp_path / "none.png").width
    with pytest.raises(ValueError, match="at least one map, got 0"):
        save_heat_map(tmp_path / "map.png", {}, title="t")
