"""The equations, against numbers worked out by hand."""

from __future__ import annotations

import math
import re

import pytest
import torch
from fakes import A, B, N, O
from hypothesis import given, settings
from hypothesis import strategies as st
from torchrl.objectives.value.functional import td_lambda_return_estimate

from torchrl_alita import functional as F

quick = settings(max_examples=25, deadline=None)
finite = st.floats(-8, 8, width=32)
non_negative = st.floats(0, 8, width=32)


def draw(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def values(count: int, elements: st.SearchStrategy = finite) -> st.SearchStrategy:
    return st.lists(elements, min_size=count, max_size=count).map(torch.tensor)


def test_a_3_4_5_triangle_has_the_squared_distance_25():
    distance = F.squared_distance(
        torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([3.0, 4.0]).expand(2, 2)
    )
    torch.testing.assert_close(distance, torch.tensor([[25.0], [13.0]]))


def test_a_squared_distance_is_summed_over_the_features_and_not_over_the_agents():
    distance = F.squared_distance(torch.full((B, N, A), 3.0), torch.full((B, N, A), 1.0))
    torch.testing.assert_close(distance, torch.full((B, N, 1), 4.0 * A))


@pytest.mark.parametrize("other", [(B, N, 1), (N, A), (B, 1, A)])
def test_a_squared_distance_does_not_broadcast(other):
    with pytest.raises(ValueError, match=rf"\({B}, {N}, {A}\)"):
        F.squared_distance(torch.zeros(B, N, A), torch.zeros(other))


@given(values(O), values(O))
@quick
def test_a_squared_distance_is_the_same_both_ways(first, second):
    torch.testing.assert_close(F.squared_distance(first, second), F.squared_distance(second, first))


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        ((1.0, 0.0, 0.0), 0.0),
        ((0.0, 1.0, 0.0), 2.0),
        ((0.5, 0.5, 0.0), 0.5),
        ((0.6, 0.2, 0.2), 0.24),
    ],
)
def test_the_brier_distance_to_action_0_is_that_worked_out_by_hand(probabilities, expected):
    distance = F.brier_distance(torch.tensor(probabilities), torch.tensor([1, 0, 0]))
    torch.testing.assert_close(distance, torch.tensor([expected]))


@given(logits=values(O), action=st.integers(0, O - 1))
@quick
def test_the_brier_distance_lies_between_0_and_2(logits, action):
    one_hot = torch.nn.functional.one_hot(torch.tensor(action), O)
    distance = F.brier_distance(logits.softmax(-1), one_hot)
    assert 0 <= float(distance) <= 2 + 1e-6


def test_a_bool_action_is_as_good_as_a_number_for_the_brier_distance():
    distance = F.brier_distance(torch.tensor([0.75, 0.25]), torch.tensor([True, False]))
    torch.testing.assert_close(distance, torch.tensor([0.125]))


def test_a_masked_action_contributes_nothing_even_where_it_is_not_a_number():
    probabilities = torch.tensor([0.5, 0.5, math.nan])
    mask = torch.tensor([True, True, False])
    distance = F.brier_distance(probabilities, torch.tensor([1.0, 0.0, math.nan]), mask)
    torch.testing.assert_close(distance, torch.tensor([0.5]))


def test_a_brier_distance_needs_an_action_of_its_own_shape():
    with pytest.raises(ValueError, match=rf"\({B}, {N}, {O}\)"):
        F.brier_distance(torch.zeros(B, N, O), torch.zeros(N, O))


def test_a_brier_distance_needs_a_mask_of_its_own_shape():
    with pytest.raises(ValueError, match=rf"'action_mask': \({B}, 1, {O}\)"):
        F.brier_distance(
            torch.zeros(B, N, O), torch.zeros(B, N, O), torch.ones(B, 1, O, dtype=torch.bool)
        )


def test_the_novelty_is_summed_over_the_features_and_not_averaged():
    novelty = F.novelty(torch.ones(B, N, O + A), torch.zeros(B, N, O + A))
    torch.testing.assert_close(novelty, torch.full((B, N, 1), float(O + A)))


def test_a_perfect_reconstruction_is_not_novel():
    inputs = draw(B, O + A)
    torch.testing.assert_close(F.novelty(inputs, inputs.clone()), torch.zeros(B, 1))


def test_the_novelty_does_not_broadcast_a_reconstruction():
    with pytest.raises(ValueError, match=rf"\({O + A},\)"):
        F.novelty(torch.zeros(B, O + A), torch.zeros(O + A))


def test_a_novelty_of_ln_2_halves_the_penalty_at_omega_1():
    penalty = F.diversity_penalty(torch.tensor([6.0]), torch.tensor([math.log(2)]), 1.0)
    torch.testing.assert_close(penalty, torch.tensor([-3.0]))


def test_omega_0_makes_the_penalty_the_plain_distance():
    penalty = F.diversity_penalty(torch.tensor([6.0]), torch.tensor([1e6]), 0.0)
    torch.testing.assert_close(penalty, torch.tensor([-6.0]))


def test_each_agent_may_have_an_omega_of_its_own():
    omega = torch.tensor([0.0, 1.0, 2.0]).unsqueeze(-1)
    penalty = F.diversity_penalty(
        torch.full((B, N, 1), 8.0), torch.full((B, 1, 1), math.log(2)), omega
    )
    torch.testing.assert_close(penalty, torch.tensor([[-8.0], [-4.0], [-2.0]]).expand(B, N, 1))


@given(distance=non_negative, novelty=non_negative, omega=non_negative)
@quick
def test_the_penalty_is_never_positive(distance, novelty, omega):
    penalty = F.diversity_penalty(torch.tensor([distance]), torch.tensor([novelty]), omega)
    assert -distance <= float(penalty) <= 0


@given(distance=non_negative, novelties=st.tuples(non_negative, non_negative), omega=non_negative)
@quick
def test_the_penalty_never_grows_with_novelty(distance, novelties, omega):
    known, new = sorted(novelties)
    penalty = F.diversity_penalty(torch.tensor([distance]), torch.tensor([known, new]), omega)
    assert float(penalty[0]) <= float(penalty[1])


def test_the_gap_is_what_is_missing_to_the_optimum():
    gap = F.influence_gap(torch.tensor([[3.0], [4.0]]), torch.tensor([[5.0], [-1.0]]))
    torch.testing.assert_close(gap, torch.tensor([[-2.0], [5.0]]))


def test_the_gap_is_divided_by_the_scale():
    gap = F.influence_gap(torch.tensor([[3.0]]), torch.tensor([[5.0]]), scale=4.0)
    torch.testing.assert_close(gap, torch.tensor([[-0.5]]))


def test_the_optimum_of_the_next_state_is_0_after_a_terminal_transition():
    value, optimum = torch.full((2, N, 1), 3.0), torch.full((2, N, 1), 5.0)
    gap = F.influence_gap(value, optimum, terminated=torch.tensor([[True], [False]]))
    expected = torch.stack([torch.full((N, 1), 3.0), torch.full((N, 1), -2.0)])
    torch.testing.assert_close(gap, expected)


def test_the_optimum_of_the_current_state_counts_whatever_comes_after():
    gap = F.influence_gap(torch.full((B, N, 1), 3.0), torch.full((B, N, 1), 5.0))
    torch.testing.assert_close(gap, torch.full((B, N, 1), -2.0))


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_broken_optimum_after_a_terminal_transition_does_not_leak(broken):
    optimum = torch.full((B, N, 1), broken)
    terminated = torch.ones(B, 1, dtype=torch.bool)
    gap = F.influence_gap(torch.ones(B, N, 1), optimum, terminated=terminated)
    torch.testing.assert_close(gap, torch.ones(B, N, 1))


@pytest.mark.parametrize("terminated", [None, torch.zeros(B, 1, dtype=torch.bool)])
def test_the_optimum_carries_no_gradient(terminated):
    value, optimum = (draw(B, N, 1, seed=seed).requires_grad_() for seed in (1, 2))
    F.influence_gap(value, optimum, terminated=terminated).sum().backward()
    assert optimum.grad is None
    torch.testing.assert_close(value.grad, torch.ones(B, N, 1))


def test_the_gap_does_not_broadcast_an_optimum():
    with pytest.raises(ValueError, match=rf"'optimum': \({B}, 1, 1\)"):
        F.influence_gap(torch.zeros(B, N, 1), torch.zeros(B, 1, 1))


def test_the_gap_refuses_a_terminated_flag_that_would_broadcast():
    with pytest.raises(ValueError, match=rf"\({B},\)"):
        F.influence_gap(
            torch.zeros(B, N, 1),
            torch.zeros(B, N, 1),
            terminated=torch.zeros(B, dtype=torch.bool),
        )


def test_the_influence_is_the_weighted_sum_of_squared_gaps():
    gap = torch.tensor([[1.0], [-2.0], [4.0]]).expand(B, N, 1)
    influence = F.influence(gap, torch.tensor([0.5, 0.25, 0.25]))
    torch.testing.assert_close(influence, torch.full((B, 1), 0.5 + 1.0 + 4.0))


def test_the_gradient_of_the_influence_is_twice_the_weighted_gap():
    gap = torch.tensor([[1.0], [-3.0]], requires_grad=True)
    F.influence(gap, torch.tensor([0.25, 0.75])).sum().backward()
    torch.testing.assert_close(gap.grad, torch.tensor([[0.5], [-4.5]]))


@given(gap=values(N))
@quick
def test_the_influence_lies_between_0_and_the_worst_squared_gap(gap):
    influence = float(F.influence(gap.unsqueeze(-1), torch.full((N,), 1 / N)))
    assert 0 <= influence <= float(gap.square().max()) * (1 + 1e-5)


@pytest.mark.parametrize("count", [1, N - 1, N + 1])
def test_the_influence_needs_one_weight_for_each_influencee(count):
    with pytest.raises(ValueError, match=rf"\({N},\), got \({count},\)"):
        F.influence(torch.zeros(B, N, 1), torch.ones(count))


@pytest.mark.parametrize("shape", [(2, N - 1), (1, 2, N), ()])
def test_weights_of_several_influencers_have_a_row_of_all_influencees_each(shape):
    gap = torch.arange(float(B * N)).view(B, N, 1)
    weights = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    expected = torch.cat([F.influence(gap, row) for row in weights], -1)
    assert expected.shape == (B, 2)
    torch.testing.assert_close(F.influence(gap, weights), expected)
    with pytest.raises(ValueError, match=rf"\(K, {N}\) or \({N},\), got"):
        F.influence(gap, torch.ones(shape))


def test_a_target_is_the_reward_and_the_discounted_next_value():
    target = F.td_target(
        reward=torch.tensor([[1.0], [2.0]]),
        terminated=torch.tensor([False]),
        next_value=torch.tensor([[10.0], [20.0]]),
        gamma=0.5,
    )
    torch.testing.assert_close(target, torch.tensor([[6.0], [12.0]]))


def test_a_terminal_reward_of_1000_reaches_the_target():
    target = F.td_target(
        reward=torch.full((B, N, 1), 1000.0),
        terminated=torch.ones(B, 1, dtype=torch.bool),
        next_value=torch.full((B, N, 1), 7.0),
        gamma=0.95,
    )
    torch.testing.assert_close(target, torch.full((B, N, 1), 1000.0))


def test_one_terminated_flag_of_the_team_ends_the_episode_of_every_agent():
    terminated = torch.zeros(B, 1, dtype=torch.bool)
    terminated[2] = True
    target = F.td_target(torch.zeros(B, N, 1), terminated, torch.ones(B, N, 1), 1.0)
    expected = torch.ones(B, N, 1)
    expected[2] = 0
    torch.testing.assert_close(target, expected)


def test_a_terminated_flag_of_one_agent_ends_the_episode_of_that_agent_alone():
    terminated = torch.zeros(B, N, 1, dtype=torch.bool)
    terminated[2, 1] = True
    target = F.td_target(torch.zeros(B, N, 1), terminated, torch.ones(B, N, 1), 1.0)
    expected = torch.ones(B, N, 1)
    expected[2, 1] = 0
    torch.testing.assert_close(target, expected)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_broken_next_value_after_a_terminal_transition_does_not_leak(broken):
    target = F.td_target(
        reward=torch.ones(B, N, 1),
        terminated=torch.ones(B, 1, dtype=torch.bool),
        next_value=torch.full((B, N, 1), broken),
        gamma=0.9,
    )
    torch.testing.assert_close(target, torch.ones(B, N, 1))


def test_a_target_carries_no_gradient():
    reward, next_value = (draw(B, N, 1, seed=seed).requires_grad_() for seed in (1, 2))
    target = F.td_target(reward, torch.zeros(B, 1, dtype=torch.bool), next_value, 0.9)
    assert not target.requires_grad


@given(reward=values(N), next_value=values(N), gamma=st.floats(0, 1, width=32))
@quick
def test_a_target_never_leaves_the_reward_by_more_than_the_next_value(reward, next_value, gamma):
    target = F.td_target(
        reward.unsqueeze(-1), torch.tensor([False]), next_value.unsqueeze(-1), gamma
    ).squeeze(-1)
    assert bool(((target - reward).abs() <= next_value.abs() + 1e-5).all())


def test_a_target_does_not_broadcast_the_reward_of_a_team():
    with pytest.raises(ValueError, match=rf"'reward': \({B}, 1\)"):
        F.td_target(
            torch.zeros(B, 1), torch.zeros(B, 1, dtype=torch.bool), torch.zeros(B, N, 1), 0.9
        )


def test_a_target_refuses_a_terminated_flag_that_would_broadcast():
    with pytest.raises(ValueError, match=rf"\({B},\)"):
        F.td_target(
            torch.zeros(B, N, 1), torch.zeros(B, dtype=torch.bool), torch.zeros(B, N, 1), 0.9
        )


def test_each_critic_sees_its_own_agents_fresh_action_and_the_others_stored_ones():
    stored, fresh = draw(B, N, A, seed=1), draw(B, N, A, seed=2)
    seen = F.replace_own_action(stored, fresh)
    assert seen.shape == (B, N, N, A)
    for critic in range(N):
        for agent in range(N):
            expected = fresh if critic == agent else stored
            torch.testing.assert_close(seen[:, critic, agent], expected[:, agent])


def test_an_agent_moves_its_own_critic_and_no_other():
    fresh = draw(B, N, A, seed=2).requires_grad_()
    weight = torch.arange(1.0, N + 1)[:, None, None]
    (F.replace_own_action(draw(B, N, A), fresh) * weight).sum().backward()
    torch.testing.assert_close(fresh.grad, weight.squeeze(-1).expand(B, N, A))


def test_a_joint_action_needs_as_many_fresh_actions_as_stored_ones():
    with pytest.raises(ValueError, match=rf"'own_action': \({B}, 1, {A}\)"):
        F.replace_own_action(torch.zeros(B, N, A), torch.zeros(B, 1, A))


SCOPES = {
    "full": torch.ones(N, N, dtype=torch.bool),
    "identity": torch.eye(N, dtype=torch.bool),
    "chain": torch.ones(N, N, dtype=torch.bool).tril(),
}


@pytest.mark.parametrize("scope", SCOPES.values(), ids=SCOPES)
@pytest.mark.parametrize("per_critic", [False, True])
def test_critic_i_reads_what_its_row_of_the_scope_shows(scope, per_critic):
    observation = draw(B, N, O, seed=1)
    action = draw(B, N, N, A, seed=2) if per_critic else draw(B, N, A, seed=2)
    features = F.joint_features(observation, action, scope)
    assert features.shape == (B, N, N * (O + A))
    for critic in range(N):
        joint = action[:, critic] if per_critic else action
        seen = scope[critic].unsqueeze(-1)
        expected = torch.cat([(observation * seen).flatten(1), (joint * seen).flatten(1)], -1)
        torch.testing.assert_close(features[:, critic], expected)


def test_what_is_out_of_scope_reads_as_zero_even_where_it_is_not_a_number():
    observation, action = draw(B, N, O), draw(B, N, A)
    observation[:, 2], action[:, 2] = math.nan, math.inf
    features = F.joint_features(observation, action, SCOPES["chain"])
    assert bool(features[:, :2].isfinite().all())


@pytest.mark.parametrize("lead", [(), (B,), (B, 11)])
def test_the_features_take_any_number_of_leading_dimensions(lead):
    features = F.joint_features(draw(*lead, N, O), draw(*lead, N, A), SCOPES["full"])
    assert features.shape == (*lead, N, N * (O + A))


@pytest.mark.parametrize(
    ("action", "scope"),
    [((B, N + 1, A), (N, N)), ((B, N, A), (N, N + 1)), ((B, N, A), (1, 1)), ((B, N, A), (N,))],
)
def test_the_features_need_one_number_of_agents(action, scope):
    offending = action if action[1] != N else scope
    with pytest.raises(ValueError, match=re.escape(str(offending))):
        F.joint_features(
            torch.zeros(B, N, O), torch.zeros(action), torch.ones(scope, dtype=torch.bool)
        )


def test_lambda_0_is_the_one_step_target_and_1_the_discounted_return():
    reward = torch.tensor([1.0, 2.0, 4.0, 8.0]).view(4, 1, 1)
    next_value = torch.full((4, 1, 1), 16.0)
    terminated = torch.tensor([False, True, False, False]).view(4, 1)
    one_step = F.td_target(reward, terminated, next_value, 0.5)
    result = F.lambda_return(reward, terminated, terminated, next_value, 0.5, 0.0)
    torch.testing.assert_close(result, one_step)
    # 1 + 2 / 2, 2 at the end of the first episode; 4 + 8 / 2 + 16 / 4 and 8 + 16 / 2.
    result = F.lambda_return(reward, terminated, terminated, next_value, 0.5, 1.0)
    assert result.flatten().tolist() == [2.0, 2.0, 12.0, 16.0]


def test_a_time_limit_ends_the_return_with_the_value_there():
    reward = torch.tensor([1.0, 2.0, 4.0]).view(3, 1, 1)
    next_value = torch.tensor([100.0, 16.0, 100.0]).view(3, 1, 1)
    done = torch.tensor([False, True, False]).view(3, 1)
    result = F.lambda_return(reward, torch.zeros_like(done), done, next_value, 0.5, 1.0)
    assert result.flatten().tolist() == [1 + 2 / 2 + 16 / 4, 2 + 16 / 2, 4 + 100 / 2]


def test_the_lambda_return_is_torchrls():
    torch.manual_seed(0)
    steps, reward = 11, draw(B, 11, N, 1)
    next_value = draw(B, steps, N, 1, seed=1)
    terminated = torch.rand(B, steps, 1) < 0.2
    done = terminated | (torch.rand(B, steps, 1) < 0.2)
    ours = F.lambda_return(reward, terminated, done, next_value, 0.9, 0.7)
    for agent in range(N):
        theirs = td_lambda_return_estimate(
            gamma=0.9, lmbda=0.7, next_state_value=next_value[:, :, agent],
            reward=reward[:, :, agent], done=done, terminated=terminated,
        )  # fmt: skip
        torch.testing.assert_close(ours[:, :, agent], theirs)


def test_an_agent_that_terminates_alone_earns_nothing_afterwards():
    reward = torch.tensor([[1.0, 1.0], [2.0, 2.0], [4.0, 4.0]]).unsqueeze(-1)
    alone = torch.tensor([[False, True], [False, True], [False, True]]).unsqueeze(-1)
    done = torch.zeros(3, 1, dtype=torch.bool)
    result = F.lambda_return(reward, alone, done, torch.zeros(3, 2, 1), 1.0, 1.0)
    assert result[..., 0].tolist() == [[7.0, 1.0], [6.0, 2.0], [4.0, 4.0]]


def test_the_lambda_return_carries_the_rewards_gradient_and_no_values():
    reward = torch.ones(3, 1, 1, requires_grad=True)
    next_value = torch.zeros(3, 1, 1, requires_grad=True)
    done = torch.zeros(3, 1, dtype=torch.bool)
    F.lambda_return(reward, done, done, next_value, 0.5, 0.5)[0].sum().backward()
    assert reward.grad.flatten().tolist() == [1.0, 0.25, 0.0625]
    assert next_value.grad is None


def test_what_follows_a_terminal_step_may_be_anything():
    reward, flag = torch.ones(1, 1, 1), torch.ones(1, 1, dtype=torch.bool)
    result = F.lambda_return(reward, flag, flag, torch.full((1, 1, 1), torch.nan), 0.9, 0.9)
    assert float(result) == 1.0


def test_a_lambda_return_needs_a_flag_for_each_step():
    with pytest.raises(ValueError, match="done"):
        F.lambda_return(
            torch.zeros(3, N, 1), torch.zeros(3, 1, dtype=torch.bool),
            torch.zeros(2, 1, dtype=torch.bool), torch.zeros(3, N, 1), 0.9, 0.9,
        )  # fmt: skip


def test_the_counterfactual_advantages_of_a_policy_have_mean_0():
    values = draw(B, N, A)
    shares = draw(B, N, A, seed=1).softmax(-1)
    one_hots = torch.eye(A).view(A, 1, 1, A).expand(A, B, N, A)
    advantages = torch.stack([F.counterfactual_advantage(values, shares, a) for a in one_hots], -2)
    mean = (shares.unsqueeze(-1) * advantages).sum(-2)
    torch.testing.assert_close(mean, torch.zeros(B, N, 1))
