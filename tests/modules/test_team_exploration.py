"""Team exploration: its frequencies by counting, and its state through rollouts and resets."""

from __future__ import annotations

import re

import pytest
import torch
from fakes import N, TargetEnv, constant_actor
from tensordict import TensorDict
from tensordict.nn import TensorDictSequential
from torchrl.collectors import Collector
from torchrl.data import Bounded, Categorical, Composite, MultiOneHot, OneHot
from torchrl.envs import ExplorationType, InitTracker, TransformedEnv, set_exploration_type
from torchrl.modules import AdditiveGaussianModule, EGreedyModule

from torchrl_alita import make_actor
from torchrl_alita.modules import TeamExploration

L = 5
ACTION = ("agents", "action")
MASK = ("agents", "action_mask")
EXPLORING = ("agents", "exploring")
STATE = "_team_exploration"
ONE_HOT = OneHot(L, shape=(N, L), dtype=torch.float32)
BOX = Bounded(-1000.0, 1000.0, shape=(N, 2))
PLAIN = {"agreement": 0.0, "persistence": 0.0, "burst_length": 1.0, "eps_end": 0.0}
# Enough that a frequency is within 0.01 of its probability, most often by far.
COUNT, STEPS = 2003, 31


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(1)


def step(
    exploration: TeamExploration | EGreedyModule,
    before: TensorDict | None = None,
    *,
    count: int = COUNT,
    **agents: torch.Tensor,
) -> TensorDict:
    """The next tensordict of a rollout: the policy takes action 0, or adds nothing."""
    state = {} if before is None else {STATE: before[STATE]}
    batch = TensorDict(state, [count])
    shape = exploration.spec[ACTION].shape[-2:]
    action = torch.zeros(count, *shape)
    if shape[-1] == L:
        action[..., 0] = 1
    entries = {"action": action, **agents}
    if before is not None:
        entries["exploring"] = before[EXPLORING]
    batch["agents"] = TensorDict(entries, [count, shape[0]])
    return exploration(batch)


def play(exploration: TeamExploration, *, steps: int = STEPS, count: int = COUNT) -> TensorDict:
    """Steps of a rollout, ``[B, T]``."""
    played = [step(exploration, count=count)]
    while len(played) < steps:
        played.append(step(exploration, played[-1], count=count))
    return torch.stack(played, 1)


def discrete(**arguments) -> TeamExploration:
    return TeamExploration(ONE_HOT, **(PLAIN | arguments))


def continuous(**arguments) -> TeamExploration:
    return TeamExploration(BOX, **(PLAIN | arguments))


def indices(played: TensorDict) -> torch.Tensor:
    return played[ACTION].argmax(-1)


def flags(played: TensorDict) -> torch.Tensor:
    return played[EXPLORING].squeeze(-1).float()


def close(frequency: torch.Tensor, expected: float, tolerance: float = 0.01) -> bool:
    return abs(float(frequency.float().mean()) - expected) < tolerance


def correlation(x: torch.Tensor, y: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([x.flatten(), y.flatten()]).float())[0, 1])


# What is counted


@pytest.mark.parametrize("persistence", [0.0, 0.7])
@pytest.mark.parametrize("agreement", [0.0, 0.3, 0.9, 1.0])
def test_two_agents_draw_one_action_with_the_probability_of_agreement(agreement, persistence):
    index = indices(play(discrete(agreement=agreement, persistence=persistence)))
    expected = agreement + (1 - agreement) / L
    for one, other in ((0, 1), (0, 2), (1, 2)):
        same = index[..., one] == index[..., other]
        # From the first step on, in every step.
        assert close(same[:, 0], expected, 0.05)
        assert close(same[:, -1], expected, 0.05)
        assert close(same, expected)


@pytest.mark.parametrize("agreement", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("persistence", [0.0, 0.4, 0.7])
def test_an_agent_repeats_its_action_with_the_probability_of_persistence(agreement, persistence):
    index = indices(play(discrete(agreement=agreement, persistence=persistence)))
    expected = persistence + (1 - persistence) / L
    for agent in range(N):
        own = index[..., agent]
        assert close(own[:, 1:] == own[:, :-1], expected)
        # It decays as the chance that nothing was drawn.
        assert close(own[:, 3:] == own[:, :-3], persistence**3 + (1 - persistence**3) / L)


def test_every_action_is_drawn_equally_often_by_every_agent():
    index = indices(play(discrete(agreement=0.5, persistence=0.5)))
    for agent in range(N):
        share = torch.bincount(index[..., agent].flatten(), minlength=L) / index[..., 0].numel()
        assert (share - 1 / L).abs().max() < 0.02


@pytest.mark.parametrize("agreement", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("burst_length", [1.0, 4.0])
def test_eps_is_the_share_of_exploring_steps_of_every_agent(agreement, burst_length):
    exploring = flags(
        play(discrete(agreement=agreement, burst_length=burst_length, eps_init=0.3), steps=61)
    )
    assert (exploring.mean((0, 1)) - 0.3).abs().max() < 0.015
    assert (exploring[:, 0].mean(0) - 0.3).abs().max() < 0.05


@pytest.mark.parametrize("burst_length", [1.0, 2.0, 5.0])
def test_a_burst_lasts_as_long_as_it_says(burst_length):
    exploring = flags(
        play(discrete(burst_length=burst_length, agreement=0.5, eps_init=0.25), steps=101)
    )
    # The length of a burst is geometric: its mean is one over the chance of its end.
    was, now = exploring[:, :-1], exploring[:, 1:]
    end = (was * (1 - now)).sum() / was.sum()
    assert float(1 / end) == pytest.approx(burst_length / (1 - 0.25), rel=0.03)


@pytest.mark.parametrize("agreement", [0.0, 0.6, 1.0])
def test_the_team_explores_together_as_it_acts_together(agreement):
    exploring = flags(play(discrete(agreement=agreement, burst_length=3.0, eps_init=0.4)))
    assert correlation(exploring[..., 0], exploring[..., 1]) == pytest.approx(agreement, abs=0.02)


def test_zero_is_epsilon_greedy_independent_over_agents_steps_and_environments():
    exploration = discrete(eps_init=0.4)
    played = play(exploration)
    exploring, index = flags(played), indices(played)
    for x, y in (
        (exploring[..., 0], exploring[..., 1]),
        (exploring[:, 1:], exploring[:, :-1]),
        (exploring[1:], exploring[:-1]),
    ):
        assert abs(correlation(x, y)) < 0.015
    greedy = EGreedyModule(ONE_HOT, eps_init=0.4, eps_end=0.0, action_key=ACTION)
    reference = torch.stack([step(greedy) for _ in range(STEPS)], 1)
    for pair in ((0, 1), (1, 2)):
        joint = [
            torch.bincount((x[..., pair[0]] * L + x[..., pair[1]]).flatten(), minlength=L * L)
            / x[..., 0].numel()
            for x in (index, indices(reference))
        ]
        # Joint frequencies of two agents' actions, of 62,093 each.
        assert (joint[0] - joint[1]).abs().max() < 0.01
        assert joint[0][0] == pytest.approx((0.6 + 0.4 / L) ** 2, abs=0.01)


@pytest.mark.parametrize(
    ("eps", "spread", "first", "last"),
    [(0.3, 0.0, 0.3, 0.3), (0.3, 1.0, 0.0, 0.6), (0.3, 0.5, 0.15, 0.45), (0.8, 1.0, 0.6, 1.0)],
)
def test_the_strength_is_spread_evenly_over_the_environments_about_eps(eps, spread, first, last):
    strength = discrete(eps_init=eps, spread=spread).strengths((7,))
    assert strength.shape == (7, 1)
    torch.testing.assert_close(strength[:, 0], torch.linspace(first, last, 7))
    assert float(strength.mean()) == pytest.approx(eps)


def test_an_environment_explores_as_often_as_its_strength_says():
    exploring = flags(play(discrete(eps_init=0.5, spread=1.0, burst_length=2.0), count=7 * 143))
    share = exploring.mean((1, 2))
    expected = torch.linspace(0, 1, 7 * 143)
    groups = share.view(7, 143).mean(1), expected.view(7, 143).mean(1)
    torch.testing.assert_close(*groups, rtol=0, atol=0.02)
    assert share[0] == 0
    assert share[-1] == 1


def test_one_environment_alone_has_eps_itself():
    assert float(discrete(eps_init=0.25, spread=1.0).strengths((1,))) == 0.25
    assert float(discrete(eps_init=0.25, spread=1.0).strengths(())) == 0.25
    # In C order over a batch of several dimensions.
    strength = discrete(eps_init=0.5, spread=1.0).strengths((2, 3)).flatten()
    torch.testing.assert_close(strength, torch.linspace(0, 1, 6))


def test_the_strength_of_continuous_noise_may_exceed_1():
    strength = continuous(eps_init=2.0, spread=1.0).strengths((3,))
    assert strength.flatten().tolist() == [0.0, 2.0, 4.0]


# Masks


def masked(**arguments) -> TeamExploration:
    return discrete(action_mask_key=MASK, **arguments)


def test_a_masked_action_is_never_drawn_and_those_allowed_are_drawn_equally():
    mask = torch.tensor([[1, 1, 1, 1, 0], [0, 1, 0, 1, 0], [1, 0, 0, 0, 0]]).bool()
    exploration = masked(agreement=0.5, persistence=0.5)
    played = [step(exploration, action_mask=mask.expand(COUNT, N, L))]
    for _ in range(20):
        played.append(step(exploration, played[-1], action_mask=mask.expand(COUNT, N, L)))
    share = torch.stack(played)[ACTION].mean((0, 1))
    expected = torch.tensor([[0.25, 0.25, 0.25, 0.25, 0], [0, 0.5, 0, 0.5, 0], [1.0, 0, 0, 0, 0]])
    assert (share[~mask] == 0).all()
    torch.testing.assert_close(share, expected, rtol=0, atol=0.02)


def test_agents_that_may_take_the_common_action_do_and_another_draws_its_own():
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 0]]).bool()
    exploration = masked(agreement=1.0)
    index = indices(step(exploration, action_mask=mask.expand(COUNT, N, L)))
    assert (index[:, 0] == index[:, 1]).all()
    common = index[:, 0]
    assert (index[common < 2, 2] == common[common < 2]).all()
    assert close(index[common >= 2, 2], 0.5, 0.06)


def test_a_kept_action_that_is_masked_now_is_left():
    everything = torch.ones(COUNT, N, L, dtype=torch.bool)
    exploration = masked(persistence=0.999999)
    first = step(exploration, action_mask=everything)
    allowed = first[ACTION] == 0
    second = step(exploration, first, action_mask=allowed)
    assert (indices(second) != indices(first)).all()
    third = step(exploration, second, action_mask=everything)
    assert close(indices(third) == indices(second), 1.0, 1e-3)


# Continuous actions


@pytest.mark.parametrize("agreement", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("persistence", [0.0, 0.8])
def test_continuous_noise_has_the_variance_and_the_correlations_it_says(agreement, persistence):
    exploration = continuous(agreement=agreement, persistence=persistence, eps_init=0.5)
    noise = play(exploration)[ACTION]
    # From the first step to the last: an AR(1) that is stationary.
    for t in (0, 1, STEPS - 1):
        assert float(noise[:, t].std()) == pytest.approx(0.5, rel=0.03)
    assert correlation(noise[..., 0, :], noise[..., 2, :]) == pytest.approx(agreement, abs=0.03)
    assert correlation(noise[:, 1:], noise[:, :-1]) == pytest.approx(persistence, abs=0.02)
    assert correlation(noise[:, 2:], noise[:, :-2]) == pytest.approx(persistence**2, abs=0.02)
    # The features of an action are no agents: each has noise of its own.
    assert abs(correlation(noise[..., 0], noise[..., 1])) < 0.03


def test_zero_is_torchrls_additive_gaussian():
    noise = play(continuous(eps_init=0.7))[ACTION]
    reference = AdditiveGaussianModule(BOX, sigma_init=0.7, sigma_end=0.7, action_key=ACTION)
    other = reference(
        TensorDict({"agents": {"action": torch.zeros(COUNT * STEPS, N, 2)}}, [62_093])
    )
    quantiles = torch.tensor([0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99])
    ours, theirs = (x.flatten()[:100_000].quantile(quantiles) for x in (noise, other[ACTION]))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.03)


def test_the_noise_of_environments_is_spread_as_the_strength():
    noise = play(continuous(eps_init=0.5, spread=1.0), count=7 * 143)[ACTION]
    variance = noise.square().mean((1, 2, 3)).view(7, 143).mean(1)
    expected = torch.linspace(0, 1, 7 * 143).square().view(7, 143).mean(1)
    torch.testing.assert_close(variance, expected, rtol=0.05, atol=0.001)


def test_continuous_bursts_are_noisy_and_the_rest_is_the_policys():
    played = play(continuous(burst_share=0.25, burst_length=4.0, agreement=0.5), steps=61)
    exploring = flags(played).bool()
    assert close(exploring, 0.25, 0.01)
    assert (played[ACTION][~exploring] == 0).all()
    assert float(played[ACTION][exploring].std()) == pytest.approx(1.0, rel=0.02)
    was, now = exploring[:, :-1], exploring[:, 1:]
    length = was.sum() / (was & ~now).sum()
    assert float(length) == pytest.approx(4 / 0.75, rel=0.04)


def test_a_noisy_action_is_clipped_to_its_spec_and_a_policys_own_is_not():
    low, high = torch.tensor([-1.0, 0.0]).expand(N, 2), torch.tensor([0.5, 2.0]).expand(N, 2)
    arguments = PLAIN | {"eps_init": 5.0}
    noisy = step(TeamExploration(Bounded(low, high), **arguments))[ACTION]
    assert noisy[..., 0].min() == -1
    assert noisy[..., 0].max() == 0.5
    assert noisy[..., 1].min() == 0
    assert noisy[..., 1].max() == 2
    exploration = TeamExploration(Bounded(low, high), burst_share=0.5, **arguments)
    batch = TensorDict({"agents": {"action": torch.full((COUNT, N, 2), 3.0)}}, [COUNT])
    batch = exploration(batch)
    assert (batch[ACTION][~batch[EXPLORING].squeeze(-1)] == 3).all()


# As TorchRL's exploration modules


@pytest.mark.parametrize("make", [discrete, continuous])
def test_it_acts_under_random_exploration_alone(make):
    exploration = make(burst_length=3.0)
    for kind in (ExplorationType.DETERMINISTIC, ExplorationType.MODE, ExplorationType.MEAN):
        with set_exploration_type(kind):
            before = torch.get_rng_state()
            greedy = step(exploration)
        assert set(greedy.keys(True, True)) == {ACTION}
        assert torch.equal(before, torch.get_rng_state())
    with set_exploration_type(ExplorationType.RANDOM):
        assert (step(exploration)[ACTION] != greedy[ACTION]).any()


@pytest.mark.parametrize("make", [discrete, continuous])
def test_it_draws_from_torchs_global_generator_alone(make):
    exploration = make(agreement=0.5, persistence=0.5)
    played = []
    for _ in range(2):
        torch.manual_seed(3)
        played.append(play(exploration, steps=3)[ACTION])
    assert torch.equal(*played)


def test_annealing_goes_to_the_end_in_the_number_of_steps_as_torchrls():
    ours = discrete(eps_init=0.9, eps_end=0.1, annealing_num_steps=8)
    theirs = EGreedyModule(ONE_HOT, 0.9, 0.1, 8, action_key=ACTION)
    for frames in (1, 3, 1, 5, 2):
        ours.step(frames)
        theirs.step(frames)
        torch.testing.assert_close(ours.eps, theirs.eps)
    assert float(ours.eps) == pytest.approx(0.1)


def test_the_schedule_is_saved_and_the_strength_follows_it():
    exploration = discrete(eps_init=0.8, eps_end=0.2, annealing_num_steps=4, spread=1.0)
    exploration.step(2)
    other = discrete(eps_init=1.0, eps_end=0.1)
    other.load_state_dict(exploration.state_dict())
    assert float(other.eps) == pytest.approx(0.5)
    assert set(exploration.state_dict()) == {"eps", "eps_init", "eps_end"}
    torch.testing.assert_close(exploration.strengths((3,)).flatten(), torch.tensor([0, 0.5, 1.0]))


@pytest.mark.parametrize("make", [discrete, continuous])
def test_it_writes_what_it_says_and_flags_of_the_houses_layout(make):
    exploration = make()
    batch = step(exploration)
    assert set(batch.keys(True, True)) == set(exploration.out_keys)
    assert batch[EXPLORING].shape == (COUNT, N, 1)
    assert batch[EXPLORING].dtype == torch.bool
    assert set(exploration.in_keys) == {ACTION}
    assert masked().in_keys == [ACTION, MASK]


@pytest.mark.parametrize("make", [discrete, continuous])
def test_a_compiled_step_breaks_no_graph(make):
    exploration = make(agreement=0.5, persistence=0.5, burst_length=2.0, spread=0.5)
    compiled = torch.compile(exploration, fullgraph=True, backend="eager")
    first = step(exploration, count=7)
    played = []
    for module in (exploration, compiled):
        torch.manual_seed(5)
        batch = first.clone()
        played.append(module(batch))
    for key in exploration.out_keys:
        assert torch.equal(played[0][key], played[1][key]), key


def test_the_policys_gradient_passes_where_nobody_explores():
    batch = TensorDict({"agents": {"action": torch.zeros(COUNT, N, 2).requires_grad_()}}, [COUNT])
    leaf = batch[ACTION]
    continuous(burst_share=0.5)(batch)[ACTION].sum().backward()
    assert (leaf.grad == 1).all()
    one_hot = torch.zeros(COUNT, N, L).requires_grad_()
    batch = discrete(eps_init=0.5)(TensorDict({"agents": {"action": one_hot}}, [COUNT]))
    batch[ACTION].sum().backward()
    assert torch.equal(one_hot.grad == 0, batch[EXPLORING].expand(COUNT, N, L))


# The state


class Staggered(TargetEnv):
    """Environments whose episodes end after 2, 3 and 5 steps."""

    def _step(self, tensordict: TensorDict) -> TensorDict:
        out = super()._step(tensordict)
        ended = self.steps >= torch.tensor([[2], [3], [5]])
        return out.set("done", ended).set("truncated", ended.clone())


# Noise that hardly moves within an episode: what jumps has begun anew.
STUBBORN = {"agreement": 0.5, "persistence": 1 - 1e-7}


def stubborn(env: TargetEnv) -> TeamExploration:
    spec = env.full_action_spec_unbatched[ACTION]
    return TeamExploration(spec, **STUBBORN, eps_init=0.2)


def noise_of(batch: TensorDict) -> torch.Tensor:
    return batch[ACTION][..., 0]


def policy(env: TargetEnv, exploration: TeamExploration):
    def act(tensordict: TensorDict) -> TensorDict:
        tensordict[ACTION] = torch.zeros(*tensordict.batch_size, N, 2)
        return exploration(tensordict)

    return act


def begins(noise: torch.Tensor) -> list[list[int]]:
    """Steps at which the noise ``[B, T, N]`` of an environment begins anew."""
    jumps = (noise[:, 1:] - noise[:, :-1]).abs().amax(-1) > 0.005
    return [(row.nonzero().flatten() + 1).tolist() for row in jumps]


def test_a_rollout_carries_the_state_and_a_partial_reset_begins_anew():
    env = Staggered(num_envs=3, horizon=100)
    noise = noise_of(env.rollout(11, policy(env, stubborn(env)), break_when_any_done=False))
    assert begins(noise) == [[2, 4, 6, 8, 10], [3, 6, 9], [5, 10]]


def test_a_collector_carries_the_state_over_its_batches_and_resets():
    env = Staggered(num_envs=3, horizon=100)
    actor = TensorDictSequential(constant_actor(torch.zeros(N, 2)), stubborn(env))
    collector = Collector(
        env, actor, frames_per_batch=12, total_frames=36, auto_register_policy_transforms=False
    )
    batches = list(collector)
    collector.shutdown()
    noise = torch.cat([noise_of(batch) for batch in batches], 1)
    assert begins(noise) == [[2, 4, 6, 8, 10], [3, 6, 9], [5, 10]]
    assert all(EXPLORING in batch.keys(True) for batch in batches)
    # What is private to the module does not reach the replay buffer.
    assert all(STATE not in batch.keys(True) for batch in batches)


def test_without_is_init_the_noise_goes_on_when_all_are_reset_together():
    env = TargetEnv(num_envs=3, horizon=4)
    noise = noise_of(env.rollout(11, policy(env, stubborn(env)), break_when_any_done=False))
    assert begins(noise) == [[], [], []]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: TargetEnv(num_envs=3, horizon=4), [[4, 8]] * 3),
        (lambda: Staggered(num_envs=3, horizon=100), [[2, 4, 6, 8, 10], [3, 6, 9], [5, 10]]),
    ],
)
def test_is_init_begins_anew_at_every_reset(make, expected):
    env = make()
    tracked = TransformedEnv(env, InitTracker())
    noise = noise_of(tracked.rollout(11, policy(env, stubborn(env)), break_when_any_done=False))
    assert begins(noise) == expected


def test_every_rollout_from_a_reset_begins_anew():
    env = TargetEnv(num_envs=3, horizon=100)
    act = policy(env, stubborn(env))
    noise = torch.cat([noise_of(env.rollout(5, act)) for _ in range(2)], 1)
    assert begins(noise) == [[5]] * 3


def test_a_zeroed_state_of_one_hot_actions_begins_anew_with_the_law_of_any_step():
    exploration = discrete(agreement=0.6, persistence=0.999999, eps_init=0.3, burst_length=1e6)
    first = step(exploration)
    carried = first.clone()
    half = COUNT // 2
    for key in carried.keys(True, True):
        carried[key][:half] = 0
    second = step(exploration, carried)
    kept = torch.arange(COUNT) >= half
    assert torch.equal(second[EXPLORING][kept], first[EXPLORING][kept])
    assert close(second[STATE, "index"][kept] == first[STATE, "index"][kept], 1.0, 1e-3)
    anew = second[~kept]
    assert close(anew[STATE, "index"] == first[~kept][STATE, "index"], 1 / L, 0.03)
    assert close(anew[EXPLORING], 0.3, 0.03)
    index = anew[STATE, "index"]
    assert close(index[:, 0] == index[:, 1], 0.6 + 0.4 / L, 0.05)
    assert torch.equal(second[STATE, "begun"], torch.ones(COUNT, 1, dtype=torch.bool))


def test_random_frames_of_a_collector_are_nobodys_exploration():
    env = TargetEnv(num_envs=5, horizon=4, discrete=True)
    spec = env.full_action_spec_unbatched[ACTION]
    actor = TensorDictSequential(
        make_actor(env, num_cells=(7,)), TeamExploration(spec, eps_init=1.0)
    )
    collector = Collector(
        env,
        actor,
        frames_per_batch=20,
        total_frames=40,
        init_random_frames=20,
        auto_register_policy_transforms=False,
    )
    flags_of = [batch[EXPLORING] for batch in collector]
    collector.shutdown()
    assert not flags_of[0].any()
    assert flags_of[1].all()


# Wrong arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"agreement": -0.1}, "agreement must be in [0, 1], got -0.1."),
        ({"agreement": 1.5}, "agreement must be in [0, 1], got 1.5."),
        ({"agreement": float("nan")}, "agreement must be in [0, 1], got nan."),
        ({"spread": 1.01}, "spread must be in [0, 1], got 1.01."),
        ({"persistence": 1.0}, "persistence must be at least 0 and below 1, got 1.0."),
        ({"persistence": -0.5}, "persistence must be at least 0 and below 1, got -0.5."),
        ({"burst_length": 0.5}, "burst_length must be finite and at least 1, got 0.5."),
        ({"burst_length": float("inf")}, "burst_length must be finite and at least 1, got inf."),
        ({"eps_init": 1.1}, "eps_init must be finite, at least 0 and at most 1"),
        ({"eps_init": -0.1}, "got -0.1."),
        ({"eps_init": 0.2, "eps_end": 0.3}, "at most eps_init, 0.2, got 0.3."),
        ({"eps_end": -0.3}, "eps_end must be at least 0"),
        ({"annealing_num_steps": 0}, "annealing_num_steps must be at least 1, got 0."),
        ({"burst_share": 0.5}, "burst_share is eps for one-hot actions, got 0.5."),
        ({"burst_share": 0.0}, "burst_share must be above 0 and at most 1, got 0.0."),
    ],
)
def test_an_argument_out_of_its_range_is_refused_with_its_value(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        discrete(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eps_init": float("inf")}, "eps_init must be finite, at least 0, got inf."),
        ({"burst_share": 1.5}, "burst_share must be above 0 and at most 1, got 1.5."),
        ({"action_mask_key": MASK}, "Continuous actions have no mask"),
    ],
)
def test_an_argument_that_continuous_actions_cannot_have_is_refused(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        continuous(**arguments)


@pytest.mark.parametrize(
    "spec",
    [Categorical(L, shape=(N,)), MultiOneHot([2, 3], shape=(N, 5))],
)
def test_a_spec_of_another_kind_is_refused(spec):
    with pytest.raises(TypeError, match="must be OneHot or Bounded"):
        TeamExploration(spec)


def test_a_spec_without_agents_is_refused():
    with pytest.raises(ValueError, match=re.escape("(agents, features), got (5,)")):
        TeamExploration(OneHot(L))


def test_a_composite_spec_and_one_of_the_whole_batch_do_as_well():
    lead = (7, N)
    leaf = OneHot(L, shape=(*lead, L), dtype=torch.float32)
    spec = Composite(agents=Composite(action=leaf, shape=lead), shape=(7,))
    assert step(TeamExploration(spec), count=7)[EXPLORING].all()
    exploration = TeamExploration(leaf)
    assert exploration.spec[ACTION] == leaf
    with pytest.raises(ValueError, match=re.escape("got (5, 3, 5).")):
        step(exploration, count=5)


def test_an_action_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=re.escape("must have the shape (3, 5) of its spec")):
        discrete()(TensorDict({"agents": {"action": torch.zeros(7, 2, L)}}, [7]))


def test_a_missing_mask_is_named():
    with pytest.raises(KeyError, match="action_mask"):
        step(masked())
