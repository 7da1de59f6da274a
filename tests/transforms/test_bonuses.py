"""Bonuses from counts and their scale: each is its formula, counted by hand."""

from __future__ import annotations

import copy
import math
import re

import pytest
import torch
from fakes import A, B, N, O, T, TargetEnv, random_batch
from tensordict import TensorDict
from torch import nn
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.envs import RewardScaling, TransformedEnv
from torchrl.envs.utils import check_env_specs
from torchrl.objectives.rnd import RNDLoss

from torchrl_alita.data import (
    BinCode,
    CountTable,
    Displacement,
    JointCode,
    OneHotCode,
    TransitionCounts,
)
from torchrl_alita.envs import PushBox
from torchrl_alita.transforms import (
    BonusScale,
    RNDBonus,
    TotalReward,
    TransitionInfluence,
    VisitBonus,
)

OBSERVATION = ("next", "agents", "observation")
VISITS = ("next", "agents", "visit_bonus")
INFLUENCE = ("next", "agents", "transition_influence")
INTRINSIC = ("next", "agents", "intrinsic_reward")
TOTAL = ("next", "agents", "total_reward")


def code(num_agents: int | None = None) -> BinCode | JointCode:
    own = BinCode([-1.0] * 2, [1.0] * 2, 3)
    return own if num_agents is None else JointCode(own, num_agents=num_agents)


def counted_by_hand(rows: list) -> dict:
    counts = {}
    for row in rows:
        counts[row] = counts.get(row, 0) + 1
    return counts


def visit_bonus(batch: TensorDict, *of_each: int, **options) -> VisitBonus:
    bonus = VisitBonus(code(*of_each), **options)
    bonus.update(batch)
    return bonus


@pytest.mark.parametrize("slots", [None, 2**16])
@pytest.mark.parametrize("kind", ["shared", "own", "team"])
def test_the_visit_bonus_is_one_over_the_root_of_the_visits(kind, slots):
    rollout = random_batch(batch_size=(B, T))
    observation = rollout[OBSERVATION]
    cells = ((observation[..., :2] + 1) / 2 * 3).floor().clamp(0, 2).long()
    options = {"num_agents": N} if kind == "own" else {}
    bonus = visit_bonus(rollout, *([N] if kind == "team" else []), slots=slots, **options)
    paid = bonus(rollout)[VISITS]
    assert paid.shape == (B, T, N, 1)

    def name(b: int, t: int, i: int) -> tuple:
        own = tuple(cells[b, t, i].tolist())
        whole = tuple(cells[b, t].flatten().tolist())
        return {"shared": own, "own": (i, own), "team": whole}[kind]

    everywhere = [(b, t, i) for b in range(B) for t in range(T) for i in range(N)]
    seen = everywhere if kind != "team" else [place for place in everywhere if place[2] == 0]
    counts = counted_by_hand([name(*place) for place in seen])
    for place in everywhere:
        assert math.isclose(float(paid[place]), counts[name(*place)] ** -0.5, rel_tol=1e-6)


def test_paying_counts_nothing_and_counting_twice_counts_double():
    rollout = random_batch(batch_size=(B, T))
    bonus = visit_bonus(rollout)
    first = bonus(rollout)[VISITS]
    torch.testing.assert_close(bonus(rollout)[VISITS], first, rtol=0, atol=0)
    bonus.update(rollout)
    torch.testing.assert_close(bonus(rollout)[VISITS], first / 2**0.5)


def test_a_replay_buffer_pays_by_todays_counts():
    rows = random_batch(batch_size=(B,))
    bonus = visit_bonus(rows)
    buffer = ReplayBuffer(storage=LazyTensorStorage(B), batch_size=B, transform=bonus)
    buffer.extend(rows)
    sample = buffer.sample()
    again = bonus(sample.exclude(VISITS))[VISITS]
    torch.testing.assert_close(sample[VISITS], again)
    assert int(bonus.table.counts.sum()) == B * N


def test_an_environment_counts_each_step_before_it_is_paid():
    env = TransformedEnv(TargetEnv(horizon=1000), VisitBonus(code()))
    check_env_specs(env)
    env.transform.table.counts.zero_()
    rollout = env.rollout(T)
    counts: dict = {}
    observation = rollout[OBSERVATION]
    for t in range(T):
        codes = code()(observation[:, t])
        for value in codes.flatten().tolist():
            counts[value] = counts.get(value, 0) + 1
        expected = codes.clone().float().apply_(lambda value: counts[int(value)] ** -0.5)
        torch.testing.assert_close(rollout[VISITS][:, t].squeeze(-1), expected)


def test_frozen_bonuses_are_paid_and_count_nothing():
    bonus = visit_bonus(random_batch(), frozen=True)
    before = bonus.table.counts.clone()
    TransformedEnv(TargetEnv(), bonus).rollout(3)
    torch.testing.assert_close(bonus.table.counts, before, rtol=0, atol=0)


@pytest.mark.parametrize("slots", [None, 64])
def test_counts_are_saved_exactly(slots):
    rollout = random_batch(batch_size=(B, T))
    first, second = visit_bonus(rollout, slots=slots), VisitBonus(code(), slots=slots)
    second.load_state_dict(first.state_dict())
    for bonus in (second, copy.deepcopy(first)):
        torch.testing.assert_close(bonus(rollout)[VISITS], first(rollout)[VISITS], rtol=0, atol=0)


def test_counts_of_a_hashed_table_are_never_too_small():
    codes = torch.arange(1000) * 12345
    table = CountTable(2**40, slots=100)
    table.add(codes)
    counts = table.count(codes)
    assert int(counts.min()) >= 1
    assert int(table.counts.sum()) == 1000
    # Spread evenly: a bad hash would leave entries empty and fill others.
    assert int(table.counts.max()) < 30


def test_codes_of_push_box_are_the_cells_of_its_state():
    env = PushBox(B, seed=0)
    observation = env.rollout(1)[OBSERVATION][:, 0]
    agents, box = env.agent_cells, env.box_cells
    cells = (agents * torch.tensor([15, 1])).sum(-1), (box * torch.tensor([15, 1])).sum(-1)
    own = OneHotCode([15] * 6, parts=[(0, 1, 4, 5), (2, 3, 4, 5)])
    assert own.num_codes == 225**2
    assert torch.equal(own(observation), cells[0] * 225 + cells[1].unsqueeze(-1))
    observed = OneHotCode([15] * 6, parts=own.parts, observer=1)
    assert torch.equal(observed(observation), own(observation))
    joint = (cells[0][:, 0] * 225 + cells[0][:, 1]) * 225 + cells[1]
    assert torch.equal(OneHotCode([15] * 6)(observation), joint)


def test_the_displacement_is_the_move_on_the_grid():
    env = PushBox(B, seed=0)
    rollout = env.rollout(5)
    own = OneHotCode([15] * 6, parts=[(0, 1), (2, 3)], observer=0)
    line = torch.arange(15.0)
    cells = [
        rollout[key][:, :, 0].unflatten(-1, (6, 15)) @ line
        for key in (("agents", "observation"), OBSERVATION)
    ]
    change = (cells[1] - cells[0])[..., :4].unflatten(-1, (2, 2)) + 1
    found = Displacement(own)(rollout["agents", "observation"], rollout[OBSERVATION])
    assert torch.equal(found, (change[..., 0] * 3 + change[..., 1]).long())
    assert found.unique().numel() > 1


def test_a_joint_code_is_one_number_for_each_combination():
    every = torch.cartesian_prod(*[torch.tensor([-0.9, 0.0, 0.9])] * 4).unflatten(-1, (2, 2))
    codes = code(2)(every)
    assert code(2).num_codes == 81
    assert codes.sort().values.tolist() == list(range(81))


def returns_by_hand(bonus: torch.Tensor, gamma: float) -> torch.Tensor:
    """``[B, T, N, 1]``, each step's discounted sum of the steps before and its own."""
    result = torch.zeros_like(bonus)
    for t in range(bonus.shape[1]):
        for k in range(t + 1):
            result[:, t] += gamma ** (t - k) * bonus[:, k]
    return result


def two_bonuses() -> BonusScale:
    return BonusScale(
        {("agents", "novelty"): 2.0, ("agents", "reward"): 0.5}, gamma=0.9, decay=0.97
    )


def test_the_scale_is_the_root_mean_square_of_discounted_returns():
    rollout = random_batch(batch_size=(B, T))
    # In two pieces: the sums go on, and so does the mean.
    scale = two_bonuses()
    scale.update(rollout[:, :5])
    scale.update(rollout[:, 5:])
    shares = 0.97 ** torch.arange(T - 1.0, -1, -1)
    expected = []
    for name in ("novelty", "reward"):
        squares = returns_by_hand(rollout["next", "agents", name], 0.9).square().mean((0, 2, 3))
        expected.append(((squares * shares).sum() / shares.sum()).sqrt())
    torch.testing.assert_close(scale.scale, torch.stack(expected))
    novelty, reward = (rollout["next", "agents", name] for name in ("novelty", "reward"))
    total = 2 * novelty / expected[0] + 0.5 * reward / expected[1]
    torch.testing.assert_close(scale(rollout)[INTRINSIC], total)


def test_the_scale_of_an_environment_is_that_of_its_rollout():
    rollout = random_batch(batch_size=(B, T))
    whole, stepwise = two_bonuses(), two_bonuses()
    whole.update(rollout)
    for t in range(T):
        step = rollout[:, t]
        stepwise._step(step, step["next"].clone())
    torch.testing.assert_close(whole.scale, stepwise.scale)
    torch.testing.assert_close(whole.returns, stepwise.returns)


def test_a_scaled_bonus_has_the_size_of_its_weight_whatever_its_unit():
    rollout = random_batch(batch_size=(B, T))
    paid = []
    for unit in (1.0, 1e-4):
        batch = rollout.clone()
        batch["next", "agents", "novelty"] *= unit
        scale = BonusScale({("agents", "novelty"): 1.0})
        scale.update(batch)
        paid.append(scale(batch)[INTRINSIC])
    torch.testing.assert_close(paid[0], paid[1], rtol=2e-3, atol=0)


def test_the_scale_goes_on_where_it_was_saved():
    rollout = random_batch(batch_size=(B, T))
    first, second = two_bonuses(), two_bonuses()
    first.update(rollout)
    second.load_state_dict(first.state_dict())
    for scale in (first, second):
        scale.update(random_batch(batch_size=(B, T), seed=1))
    torch.testing.assert_close(first(rollout)[INTRINSIC], second(rollout)[INTRINSIC])
    fresh = two_bonuses()
    fresh.load_state_dict(two_bonuses().state_dict())
    assert fresh.returns is None
    assert not fresh.updated


def test_an_environment_can_be_paid_by_a_bonus_and_its_scale():
    env = TransformedEnv(TargetEnv(), VisitBonus(code()))
    env.append_transform(BonusScale({("agents", "visit_bonus"): 1.0}))
    check_env_specs(env)
    rollout = env.rollout(4)
    assert rollout[INTRINSIC].shape == (B, 4, N, 1)
    assert env.reward_key == ("agents", "reward")


@pytest.mark.parametrize("kind", [BonusScale, TotalReward])
def test_a_bonus_may_be_a_reward_of_the_environment(kind):
    bonus, key = ("agents", "bonus"), {BonusScale: INTRINSIC, TotalReward: TOTAL}[kind]
    tenth = RewardScaling(0.0, 0.1, in_keys=[("agents", "reward")], out_keys=[bonus])
    env = TransformedEnv(TargetEnv(seed=0), tenth).append_transform(kind({bonus: 1.0}))
    assert torch.equal(env.reset()[key[1:]], torch.zeros(B, N, 1))
    rollout = env.rollout(4)
    if kind is TotalReward:
        torch.testing.assert_close(rollout[key], 1.1 * rollout["next", "agents", "reward"])
    assert rollout[key].shape == (B, 4, N, 1)
    assert key[1:] in env.full_observation_spec.keys(True)
    check_env_specs(env)


@pytest.mark.parametrize("kind", [BonusScale, TotalReward])
def test_a_bonus_that_the_environment_does_not_have_is_named(kind):
    env = TransformedEnv(TargetEnv(), kind({("agents", "bonus"): 1.0}))
    message = re.escape(
        "The environment observes no ('agents', 'bonus'), and its rewards are "
        "[('agents', 'reward')]."
    )
    with pytest.raises(KeyError, match=message):
        env.observation_spec  # noqa: B018


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["novelty", "observation"])
def test_a_step_that_is_not_finite_is_refused_and_not_taken(name, value):
    transform = two_bonuses() if name == "novelty" else rnd(num_features=O)[0]
    good, bad = random_batch(), random_batch(seed=1)
    transform._step(good, good["next"].clone())
    before = copy.deepcopy(transform.state_dict())
    bad["next", "agents", name][1, 2, 0] = value
    message = re.escape(f"('next', 'agents', '{name}')[1, 2, 0] must be finite, got {value}.")
    with pytest.raises(ValueError, match=message):
        transform._step(bad, bad["next"].clone())
    # One that is frozen takes no step, and refuses none.
    transform.frozen = True
    transform._step(bad, bad["next"].clone())
    assert all(torch.equal(before[part], now) for part, now in transform.state_dict().items())


REFUSED = {
    "no code number": (
        lambda: VisitBonus(lambda o: o[..., 0].long()),
        "code does not say how many codes it has: give num_codes.",
    ),
    "another code number": (
        lambda: VisitBonus(code(), num_codes=8),
        "code has 9 codes, but num_codes is 8.",
    ),
    "a code that does not fit": (
        lambda: VisitBonus(lambda o: torch.full(o.shape[:-1], 7), num_codes=7).update(
            random_batch()
        ),
        "A code must be at least 0 and below the number of codes, 7, got 7.",
    ),
    "a code of another agent's table": (
        lambda: VisitBonus(
            lambda o: torch.full(o.shape[:-1], -1), num_codes=7, num_agents=N
        ).update(random_batch()),
        "A code must be at least 0 and below the number of codes, 7, got -1.",
    ),
    "the team's code in tables of agents": (
        lambda: visit_bonus(random_batch(), N, num_agents=N),
        f"Tables of {N} agents need a code of each of them, got the shape ({B},).",
    ),
    "a code of another shape": (
        lambda: VisitBonus(lambda o: o.long(), num_codes=7).update(random_batch()),
        f"code must have the shape ({B},), of the team, or ({B}, {N}), of each agent, got "
        f"({B}, {N}, {O}).",
    ),
    "nothing counted": (
        lambda: VisitBonus(code())(random_batch()),
        "VisitBonus has counted no visit yet: call update(batch) before the bonus is read.",
    ),
    "a negative weight": (
        lambda: BonusScale({("agents", "novelty"): -1.0}),
        "('agents', 'novelty') must be finite and at least 0, got -1.0.",
    ),
    "no weight": (lambda: BonusScale({}), "coeffs must name at least one bonus, got {}."),
    "decay": (
        lambda: BonusScale({"novelty": 1.0}, decay=1.0),
        "decay must be at least 0 and below 1, got 1.0.",
    ),
    "never updated": (
        lambda: BonusScale({("agents", "novelty"): 1.0})(random_batch()),
        "BonusScale was never updated: call update(rollout) before bonuses are scaled.",
    ),
    "other environments": (
        lambda: [
            scale := BonusScale({("agents", "novelty"): 1.0}),
            scale.update(random_batch(batch_size=(B, T))),
            scale.update(random_batch(batch_size=(2, T))),
        ],
        f"The scale follows bonuses of the shape ({B}, {N}, 1) a step, got (2, {N}, 1).",
    ),
    "no transition counted": (
        lambda: TransitionInfluence(grid_counts())(line_world()),
        "TransitionInfluence has counted no transition yet: call update(batch) before the bonus "
        "is read.",
    ),
    "a single agent": (
        lambda: TransitionCounts(code(), Displacement, num_agents=1, num_actions=2),
        "num_agents must be a whole number at least 2, got 1.",
    ),
    "another number of actions": (
        lambda: TransitionInfluence(push_box_counts()).update(line_world()),
        "The action must have the shape (400, 2, 5), got (400, 2, 2).",
    ),
    "no slots": (lambda: CountTable(5, slots=0), "slots must be a whole number at least 1, got 0."),
    "an empty range": (
        lambda: BinCode([0.0], [0.0], 3),
        "low must be below high, and both finite, got [0.0] and [0.0].",
    ),
    "an unknown block": (
        lambda: OneHotCode([3, 3], parts=[(0, 2)]),
        "parts must name blocks from 0 to 1, got [0, 2].",
    ),
    "agents with different codes": (
        lambda: OneHotCode([3, 4], parts=[(0,), (1,)]),
        "The agents must have as many codes each, got [3, 4].",
    ),
    "too many codes": (
        lambda: JointCode(BinCode([0.0], [1.0], 100), num_agents=10),
        f"There can be at most 2**63 - 1 codes, got {100**10}.",
    ),
    "a narrow observation": (
        lambda: OneHotCode([3, 4])(torch.zeros(2, O)),
        f"The observation must have at least the 7 entries of the blocks (3, 4), got {O}.",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_in_one_sentence(name):
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_a_code_that_does_not_fit_is_refused_before_anything_is_counted():
    bonus = VisitBonus(lambda o: torch.arange(N).expand(o.shape[:-1]), num_codes=2)
    with pytest.raises(ValueError, match="got 2"):
        bonus.update(random_batch())
    assert bonus.table.empty
    assert int(bonus.table.counts.sum()) == 0


def test_codes_that_are_no_whole_numbers_are_refused():
    with pytest.raises(TypeError, match=re.escape("code must give a tensor of int64")):
        VisitBonus(lambda o: o[..., 0], num_codes=3).update(random_batch())
    with pytest.raises(TypeError, match=re.escape("must be a mapping")):
        BonusScale([("agents", "novelty")])
    assert A < O


def grid_counts(**options) -> TransitionCounts:
    """Of two agents on a line of three cells that both see."""
    own = OneHotCode([3, 3], parts=[(0,), (1,)], observer=0)
    return TransitionCounts(own, Displacement(own), num_agents=2, num_actions=2, **options)


def line_world(*, seed: int = 0, steps: int = 400) -> TensorDict:
    """Agent 1 moves only while agent 0 stays (action 0) in cell 0; both act at random."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randint(3, (steps, 2), generator=generator)
    acted = torch.randint(2, (steps, 2), generator=generator)
    may = (cells[:, 0] == 0) & (acted[:, 0] == 0)
    after = cells.clone()
    after[:, 0] = (cells[:, 0] + acted[:, 0]).clamp(max=2)
    after[:, 1] = torch.where(may, (cells[:, 1] + acted[:, 1]).clamp(max=2), cells[:, 1])

    def seen(of: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(of, 3).float().flatten(1).unsqueeze(1).expand(-1, 2, 6)

    return TensorDict(
        {
            "agents": {
                "observation": seen(cells),
                "action": torch.nn.functional.one_hot(acted, 2).float(),
            },
            "next": {
                "agents": {
                    "observation": seen(after),
                    "value": torch.randn(steps, 2, 1, generator=generator),
                },
                "terminated": torch.rand(steps, 1, generator=generator) < 0.5,
            },
        },
        [steps],
    )


def coefficients_by_hand(batch: TensorDict, deterministic: bool = False) -> torch.Tensor:
    """C [steps, i, j] from dictionaries."""
    cells = batch["agents", "observation"][:, 0].unflatten(-1, (2, 3)).argmax(-1).tolist()
    after = batch[OBSERVATION][:, 0].unflatten(-1, (2, 3)).argmax(-1).tolist()
    acted = batch["agents", "action"].argmax(-1).tolist()
    result = torch.zeros(len(batch), 2, 2)
    for i, j in ((0, 1), (1, 0)):
        rows = [
            ((s[j], a[j]), (s[i], a[i]), n[j] - s[j])
            for s, a, n in zip(cells, acted, after, strict=True)
        ]
        of_one = counted_by_hand([row[0] for row in rows])
        outcome_of_one = counted_by_hand([(row[0], row[2]) for row in rows])
        of_both = counted_by_hand([row[:2] for row in rows])
        outcome_of_both = counted_by_hand(rows)
        for t, (own, other, change) in enumerate(rows):
            alone = outcome_of_one[own, change] / of_one[own]
            together = outcome_of_both[own, other, change] / of_both[own, other]
            result[t, i, j] = max(-1, 1 - alone / (1.0 if deterministic else together))
    return result


@pytest.mark.parametrize("options", [{}, {"slots": 10_000}, {"deterministic": True}])
def test_eiti_is_its_formula_from_counts(options):
    batch = line_world()
    bonus = TransitionInfluence(grid_counts(**options))
    bonus.update(batch)
    expected = coefficients_by_hand(batch, options.get("deterministic", False))
    torch.testing.assert_close(bonus(batch)[INFLUENCE], expected.sum(-1, keepdim=True))
    assert float(bonus(batch)[INFLUENCE][:, 0].max()) > 0.5


@pytest.mark.parametrize("slots", [1000, 36])
def test_an_agent_that_changes_nothing_has_no_transition_influence(slots):
    """Agent 1 does not change agent 0's moves; 72 pairs in 36 entries do not hide it."""
    batch = line_world()
    bonus = TransitionInfluence(grid_counts(slots=slots))
    bonus.update(batch)
    assert float(bonus(batch)[INFLUENCE][:, 1].abs().max()) == 0


def test_edti_is_influence_times_what_the_other_can_still_earn():
    batch = line_world()
    bonus = TransitionInfluence(grid_counts(), value=("agents", "value"), gamma=0.9)
    bonus.update(batch)
    value = batch["next", "agents", "value"].squeeze(-1) * ~batch["next", "terminated"]
    expected = 0.9 * coefficients_by_hand(batch).clamp_min(0) * value.unsqueeze(-2)
    torch.testing.assert_close(bonus(batch)[INFLUENCE], expected.sum(-1, keepdim=True))


def test_transition_influence_from_hashed_tables_that_are_too_small_stays_in_its_range():
    batch = line_world()
    bonus = TransitionInfluence(grid_counts(slots=7))
    bonus.update(batch)
    paid = bonus(batch)[INFLUENCE]
    assert float(paid.min()) >= -1
    assert float(paid.max()) < 1


def test_three_pushers_are_paid_for_the_influence_of_all():
    """The box moves in one of four attempts; two who wait for the third are not punished."""
    env = PushBox(4, num_agents=3, pushes_needed=3, seed=0)
    step = env.reset()
    env.agent_cells[:], env.box_cells[:] = torch.tensor([5, 6]), torch.tensor([5, 7])
    step.update(env._entries(*env._codes(), *[torch.zeros(4, 1, dtype=torch.bool)] * 2))
    acted = torch.tensor([[1, 1, 1]] + [[1, 1, 4]] * 3)
    step["agents", "action"] = torch.nn.functional.one_hot(acted, 5).float()
    codes = env.count_codes()
    counts = TransitionCounts(
        codes.own,
        codes.outcome,
        num_agents=3,
        num_actions=5,
        influencer_state=codes.part,
        deterministic=codes.deterministic,
    )
    paid = TransitionInfluence(counts).observe(env.step(step))[INFLUENCE].squeeze(-1)
    torch.testing.assert_close(paid[:2], torch.tensor([[0.75, 0.75, 1.5], [0.25, 0.25, 0.5]]))


def test_transition_counts_of_three_agents_are_of_pairs():
    """Each pair has tables of its own: with both states the same, all are told apart."""
    rollout = random_batch(batch_size=(B, T))
    rollout["agents", "action"] = torch.nn.functional.one_hot(
        rollout["agents", "action"].argmax(-1), A
    ).float()

    def state(observation: torch.Tensor) -> torch.Tensor:
        return (observation[..., 0] > 0).long()

    def outcome(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        return (after[..., 1] > 0).long()

    state.num_codes = outcome.num_codes = 2
    counts = TransitionCounts(state, outcome, num_agents=N, num_actions=A)
    entries = [rollout[key] for key in (("agents", "observation"), ("agents", "action"))]
    codes = counts.codes(*entries, rollout[OBSERVATION])
    counts.update(codes)
    alone, together = counts(codes)
    own = state(entries[0]) * A + entries[1].argmax(-1)
    became = outcome(entries[0], rollout[OBSERVATION])
    for i in range(N):
        for j in set(range(N)) - {i}:
            same = own[..., j].flatten().unsqueeze(0) == own[..., j].flatten().unsqueeze(1)
            equal = became[..., j].flatten().unsqueeze(0) == became[..., j].flatten().unsqueeze(1)
            expected = (same & equal).sum(0) / same.sum(0)
            torch.testing.assert_close(alone[..., i, j].flatten(), expected)
            same &= own[..., i].flatten().unsqueeze(0) == own[..., i].flatten().unsqueeze(1)
            expected = (same & equal).sum(0) / same.sum(0)
            torch.testing.assert_close(together[..., i, j].flatten(), expected)


def test_in_push_box_only_the_push_is_paid():
    """What agents do at the box depends on the other; elsewhere each moves as it likes."""
    counts = push_box_counts()
    env = TransformedEnv(PushBox(2, seed=0), bonus := TransitionInfluence(counts))
    step = env.reset()
    env.base_env.agent_cells[:] = torch.tensor([5, 6])
    env.base_env.box_cells[:] = torch.tensor([5, 7])
    from_here = PushBox(2, seed=0)
    from_here.agent_cells, from_here.box_cells = env.agent_cells, env.box_cells
    agents, box = from_here._codes()
    seen = from_here._entries(agents, box, *[torch.zeros(2, 1, dtype=torch.bool)] * 2)
    step["agents", "observation"] = seen["agents", "observation"]
    right, stay = torch.eye(5)[1], torch.eye(5)[4]
    step["agents", "action"] = torch.stack(
        [torch.stack([right, right]), torch.stack([right, stay])]
    )
    paid = env.step(step)[INFLUENCE].squeeze(-1)
    # Agent 0 runs to the right twice and gets there once: its move is worth 1/2 to agent 1.
    # Agent 1 got where it went both times, by pushing and by staying.
    torch.testing.assert_close(paid, torch.tensor([[0.0, 0.5], [0.0, 0.5]]))
    assert not bonus.counts.empty


def test_transition_counts_are_saved_exactly():
    batch = line_world()
    first, second = (TransitionInfluence(grid_counts()) for _ in range(2))
    first.update(batch)
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(second(batch)[INFLUENCE], first(batch)[INFLUENCE], rtol=0, atol=0)


def test_transition_influence_passes_the_check_of_environments():
    env = TransformedEnv(PushBox(B, seed=0), TransitionInfluence(push_box_counts()))
    check_env_specs(env)


def push_box_counts() -> TransitionCounts:
    own = OneHotCode([15] * 6, parts=[(0, 1, 4, 5), (2, 3, 4, 5)], observer=0)
    moves = Displacement(OneHotCode([15] * 6, parts=[(0, 1), (2, 3)], observer=0))
    return TransitionCounts(own, moves, num_agents=2, num_actions=5, deterministic=True)


def test_bonuses_refuse_tensordicts_and_other_devices_by_name():
    bonus, scale = visit_bonus(random_batch()), two_bonuses()
    scale.update(random_batch(batch_size=(B, T)))
    for module in (bonus, scale):
        batch = random_batch(batch_size=(B, T))
        with pytest.raises(ValueError, match=r"on cpu, .* on meta"):
            module(batch.to("meta"))
        key = module.in_keys[0]
        nested = batch.set(key, TensorDict({"x": batch[key]}, batch.batch_size))
        with pytest.raises(TypeError, match=re.escape(str(key))):
            module(nested)


@pytest.mark.parametrize("name", ["visits", "transitions", "scale"])
def test_to_observe_is_to_update_and_then_to_pay(name):
    batch = line_world()
    batch["next", "agents", "novelty"] = batch["next", "agents", "value"].square()

    def make():
        made = {
            "visits": lambda: VisitBonus(code()),
            "transitions": lambda: TransitionInfluence(grid_counts()),
            "scale": lambda: BonusScale({("agents", "novelty"): 1.0}),
        }
        return made[name]()

    both, first = make(), make()
    first.update(batch)
    paid = both.observe(batch)
    key = both.batch_out_keys[0]
    torch.testing.assert_close(paid[key], first(batch)[key], rtol=0, atol=0)
    torch.testing.assert_close(both(batch)[key], first(batch)[key], rtol=0, atol=0)
    assert key not in batch.keys(True)


def rnd(**options) -> tuple[RNDBonus, RNDLoss]:
    torch.manual_seed(0)
    target, predictor = (nn.Sequential(nn.Linear(O, 32), nn.ReLU(), nn.Linear(32, 4)) for _ in "12")
    bonus = RNDBonus(target, predictor, **options)
    loss = RNDLoss(predictor, target, obs_rms=bonus.obs_rms, update_fraction=1.0)
    loss.set_keys(observation=OBSERVATION)
    return bonus, loss


@pytest.mark.parametrize("num_features", [None, O])
def test_rnd_pays_what_torchrl_trains_away(num_features):
    """The bonus is the loss of TorchRL's partner, and falls where that was trained."""
    bonus, loss = rnd(num_features=num_features)
    seen, unseen = random_batch(), random_batch(seed=1)
    unseen[OBSERVATION] = unseen[OBSERVATION] + 2
    paid = bonus.observe(seen)[("next", "agents", "rnd_bonus")]
    torch.testing.assert_close(paid.mean(), loss(seen)["loss_predictor"].detach())
    optimizer = torch.optim.Adam([p for p in loss.parameters() if p.requires_grad], lr=0.01)
    for _ in range(200):
        optimizer.zero_grad()
        loss(seen)["loss_predictor"].backward()
        optimizer.step()
    after = bonus(seen)[("next", "agents", "rnd_bonus")].mean()
    assert float(after) < 0.05 * float(paid.mean())
    assert float(bonus(unseen)[("next", "agents", "rnd_bonus")].mean()) > 5 * float(after)


def test_rnd_of_normalized_observations_says_that_it_has_seen_none():
    bonus, _ = rnd(num_features=O)
    with pytest.raises(ValueError, match=re.escape("RNDBonus has seen no observation yet")):
        bonus(random_batch())
    bonus.update(random_batch())
    other, _ = rnd(num_features=O)
    other.load_state_dict(bonus.state_dict())
    key = ("next", "agents", "rnd_bonus")
    torch.testing.assert_close(other(random_batch())[key], bonus(random_batch())[key])
    check_env_specs(TransformedEnv(TargetEnv(), rnd(num_features=O)[0]))


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm1d(N * O)])
def test_rnd_pays_in_evaluation_mode_and_puts_the_networks_back(layer):
    torch.manual_seed(0)
    networks = [
        nn.Sequential(nn.Flatten(-2), copy.deepcopy(layer), nn.Linear(N * O, 4)) for _ in "12"
    ]
    networks[0].eval()
    before = copy.deepcopy([network.state_dict() for network in networks])
    bonus, key = RNDBonus(*networks), ("next", "agents", "rnd_bonus")
    first, second = (bonus(random_batch())[key] for _ in range(2))
    assert torch.equal(first, second)
    for network, state in zip(networks, before, strict=True):
        assert all(torch.equal(state[name], now) for name, now in network.state_dict().items())
    assert [part.training for network in networks for part in network.modules()] == (
        [False] * 4 + [True] * 4
    )


def test_rnd_of_networks_with_other_shapes_is_refused():
    with pytest.raises(ValueError, match="The networks must give"):
        RNDBonus(nn.Linear(O, 4), nn.Linear(O, 5))(random_batch())
