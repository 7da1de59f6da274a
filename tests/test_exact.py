"""The exact values: against numbers worked out by hand, each other, and play."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import product

import pytest
import torch
from fakes import N
from tensordict import TensorDict

from torchrl_alita.envs.games import MarkovGame, MatrixGame
from torchrl_alita.exact import (
    influence,
    influence_gradient,
    joint_policy,
    joint_values,
    marginal_mean,
    marginal_values,
    optimum,
    stationary_distribution,
    team_optimum,
)

S, L = 5, 2
JOINT = L**N
SIZES = [(5, 3, 2), (2, 3, 3), (3, 2, 5), (7, 2, 3)]
# The influencer chooses between 2 and 4 on average for its teammate, of at most 6.
PAYOFF = [[1.0, 1.0, 1.0, 1.0], [0.0, 4.0, 2.0, 6.0]]
HALVES = torch.full((2, 1, 2), 0.5, dtype=torch.float64)


def random_case(seed: int, *, discount: float = 0.9) -> tuple[MarkovGame, torch.Tensor, int]:
    """A game, logits and an influencer; sizes and influencer go round with the seed."""
    sizes = SIZES[seed % len(SIZES)]
    game = MarkovGame.random(seed, *sizes, discount=discount)
    shape = (game.num_agents, game.num_states, game.num_actions)
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, generator=generator, dtype=torch.float64)
    return game, logits, seed % game.num_agents


def policies_of(seed: int = 0) -> tuple[MarkovGame, torch.Tensor]:
    """S = 5, N = 3, L = 2."""
    game, logits, _ = random_case(4 * seed)
    return game, logits.softmax(-1)


def alternation(**arguments) -> MarkovGame:
    """Two states in turn; in the second one nothing depends on the actions."""
    transition = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).unsqueeze(1).expand(2, 4, 2)
    second = torch.tensor([[1.0] * 4] * 2)
    reward = torch.stack([torch.tensor(PAYOFF), second], 1)
    return MarkovGame(transition, reward, **{"discount": 0.0, **arguments})


def relative(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first - second).norm() / second.norm())


def central_differences(
    function: Callable[[torch.Tensor], torch.Tensor], at: torch.Tensor, *, step: float = 1e-5
) -> torch.Tensor:
    def slope(direction: torch.Tensor) -> torch.Tensor:
        return (function(at + direction) - function(at - direction)) / (2 * step)

    directions = step * torch.eye(at.numel(), dtype=at.dtype).reshape(-1, *at.shape)
    return torch.stack([slope(direction) for direction in directions]).reshape(at.shape)


def held_influence(game: MarkovGame, logits: torch.Tensor, influencer: int) -> Callable:
    """Eq. 4 as a function of the influencer's logits, all that Theorem 1 holds held."""
    policies = logits.softmax(-1)
    best = joint_values(game, policies).max(-1).values
    states = stationary_distribution(game, policies)
    others = [agent for agent in range(game.num_agents) if agent != influencer]

    def function(own: torch.Tensor) -> torch.Tensor:
        moved = policies.clone()
        moved[influencer] = own.softmax(-1)
        gap = marginal_values(game, moved, influencer) - best.unsqueeze(-1)
        return (states @ (moved[influencer] * gap[others].square().mean(0))).sum()

    return function


def test_a_joint_policy_is_the_product_in_c_order():
    _, policies = policies_of()
    joint = joint_policy(policies)
    for number, actions in enumerate(product(range(L), repeat=N)):
        expected = torch.stack([policies[i, :, a] for i, a in enumerate(actions)]).prod(0)
        torch.testing.assert_close(joint[:, number], expected)


def test_a_matrix_game_without_discount_is_worth_its_payoff():
    values = joint_values(MatrixGame(PAYOFF), HALVES)
    assert values.squeeze(1).tolist() == PAYOFF


def test_a_matrix_game_with_discount_by_hand():
    game = MatrixGame(PAYOFF, discount=0.75)
    # The mean payoffs are 1 and 3; for ever, 4 and 12; from the next step on, 3 and 9.
    later = torch.tensor([[3.0], [9.0]], dtype=torch.float64)
    expected = torch.tensor(PAYOFF, dtype=torch.float64) + later
    torch.testing.assert_close(joint_values(game, HALVES).squeeze(1), expected)
    torch.testing.assert_close(optimum(game, HALVES).squeeze(1).tolist(), [4.0, 15.0])
    marginal = marginal_values(game, HALVES, 0).squeeze(1)
    torch.testing.assert_close(marginal.tolist(), [[4.0, 4.0], [11.0, 13.0]])
    marginal = marginal_values(game, HALVES, 1).squeeze(1)
    torch.testing.assert_close(marginal.tolist(), [[4.0, 4.0], [10.0, 14.0]])


@pytest.mark.parametrize("seed", range(8))
def test_joint_values_satisfy_their_bellman_equation(seed):
    game, logits, _ = random_case(seed)
    policies = logits.softmax(-1)
    values = joint_values(game, policies)
    later = (joint_policy(policies) * values).sum(-1)
    for i in range(game.num_agents):
        target = game.reward[i] + game.discount * game.transition @ later[i]
        torch.testing.assert_close(values[i], target, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(24))
def test_eq_3_solved_directly_is_the_joint_values_averaged_over_the_others(seed):
    game, logits, influencer = random_case(seed)
    policies = logits.softmax(-1)
    values = joint_values(game, policies)
    expected = torch.zeros(game.num_agents, game.num_states, game.num_actions).double()
    actions = product(range(game.num_actions), repeat=game.num_agents)
    for number, joint in enumerate(actions):
        others = torch.ones(game.num_states).double()
        for agent, action in enumerate(joint):
            if agent != influencer:
                others = others * policies[agent, :, action]
        expected[:, :, joint[influencer]] += others * values[:, :, number]
    direct = marginal_values(game, policies, influencer)
    torch.testing.assert_close(direct, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("first", "influencer", "means"),
    [(0.5, 0, [3.0, 5.0]), (0.5, 1, [1.0, 5.0]), (1.0, 0, [3.0, 5.0])],
)
def test_a_mean_over_the_others_actions_does_not_read_the_influencers_policy(
    first, influencer, means
):
    """Values 0 4 / 2 6; the first row has this probability, the columns 1/4 and 3/4."""
    policies = torch.tensor([[[first, 1 - first]], [[0.25, 0.75]]])
    values = torch.tensor([[[0.0, 4.0, 2.0, 6.0]]])
    assert marginal_mean(values, policies, influencer).flatten().tolist() == means
    with pytest.raises(ValueError, match="influencer"):
        marginal_mean(values, policies, 2)


def monte_carlo(
    policies: torch.Tensor, first: dict[int, int], *, count: int = 20_000, steps: int = 25
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean return of each agent and its standard error, from state 2.

    Discounted by 1/2, so that what comes after the last step is below 1e-7. The first
    action of the agents in ``first`` is given.
    """
    generator = torch.Generator().manual_seed(1)
    start = torch.eye(S)[2]
    game = MarkovGame.random(0, S, N, L, discount=0.5, num_envs=count, horizon=None, initial=start)
    step, total = game.reset(), torch.zeros(count, N)
    for t in range(steps):
        probabilities = policies[:, game.state].movedim(0, 1).flatten(0, 1)
        action = torch.multinomial(probabilities, 1, generator=generator).reshape(count, N)
        for agent, chosen in first.items() if t == 0 else ():
            action[:, agent] = chosen
        step["agents", "action"] = torch.nn.functional.one_hot(action, L).float()
        step = game.step(step)["next"]
        total += 0.5**t * step["agents", "reward"].squeeze(-1)
    return total.mean(0).double(), total.std(0).double() / count**0.5


@pytest.mark.parametrize("first", [{0: 1, 1: 0, 2: 1}, {1: 1}], ids=["joint", "influencer"])
def test_exact_values_are_what_play_pays(first):
    game = MarkovGame.random(0, S, N, L, discount=0.5)
    _, policies = policies_of()
    if len(first) == N:
        exact = joint_values(game, policies)[:, 2, 0b101]
    else:
        exact = marginal_values(game, policies, influencer=1)[:, 2, 1]
    mean, error = monte_carlo(policies, first)
    assert ((mean - exact).abs() < 4 * error).all()
    assert error.max() < 0.01


def test_the_optimum_is_the_best_joint_action_and_carries_no_gradient():
    game, policies = policies_of()
    best = optimum(game, policies.requires_grad_())
    values = joint_values(game, policies)
    assert not best.requires_grad
    for i, s in product(range(N), range(S)):
        assert best[i, s] == max(values[i, s].tolist())


def test_a_stationary_distribution_by_hand():
    # Left with 1/4, entered with 1/2: two thirds of the time in the first state.
    game = MarkovGame([[[0.75, 0.25]], [[0.5, 0.5]]], [[[0.0]] * 2], 0.9)
    states = stationary_distribution(game, torch.ones(1, 2, 1))
    torch.testing.assert_close(states.tolist(), [2 / 3, 1 / 3])


@pytest.mark.parametrize("seed", range(4))
def test_a_stationary_distribution_is_what_a_long_time_leaves(seed):
    game, logits, _ = random_case(seed)
    policies = logits.softmax(-1)
    chain = torch.einsum("su,sut->st", joint_policy(policies), game.transition)
    expected = torch.linalg.matrix_power(chain, 100)[0]
    torch.testing.assert_close(stationary_distribution(game, policies), expected)


def test_a_periodic_game_has_a_stationary_distribution():
    states = stationary_distribution(alternation(), HALVES.expand(2, 2, 2))
    torch.testing.assert_close(states.tolist(), [0.5, 0.5])


def test_transient_states_have_no_share_of_a_stationary_distribution():
    for seed in range(20):
        transition = torch.rand(S, 1, S, generator=torch.Generator().manual_seed(seed))
        transition = transition / transition.sum(-1, keepdim=True)
        # The last state is never left.
        transition[-1] = torch.eye(S)[-1]
        game = MarkovGame(transition, torch.zeros(1, S, 1), 0.9)
        states = stationary_distribution(game, torch.ones(1, S, 1))
        # Not even a rounding error below 0: it may be given to influence.
        assert (states >= 0).all()
        torch.testing.assert_close(states, torch.eye(S).double()[-1])


def test_two_recurrent_classes_have_no_stationary_distribution():
    blocks = torch.full((2, 2), 1 / 2), torch.full((3, 3), 1 / 3)
    game = MarkovGame(torch.block_diag(*blocks).unsqueeze(1), [[[0.0]] * 5], 0.9)
    with pytest.raises(ValueError, match="5 states must have one recurrent class, got 2"):
        stationary_distribution(game, torch.ones(1, 5, 1))


def test_the_influence_on_a_matrix_game_by_hand():
    # Gaps of -4 and -2, half of the time each: (16 + 4) / 2. A discount changes no gap.
    for discount in (0.0, 0.75):
        game = MatrixGame(PAYOFF, discount=discount)
        torch.testing.assert_close(influence(game, HALVES, 0).item(), 10.0)
    biased = HALVES.clone()
    biased[0] = torch.tensor([0.25, 0.75])
    torch.testing.assert_close(influence(MatrixGame(PAYOFF), biased, 0).item(), 7.0)


def test_the_optimum_at_the_next_state_by_hand():
    policies = HALVES.expand(2, 2, 2)
    # Now: 10 in the first state, 0 in the second. Next: values 2 and 4 against 1 give
    # (1 + 9) / 2 = 5, and 1 against 6 gives 25.
    torch.testing.assert_close(influence(alternation(), policies, 0).item(), 5.0)
    at_next = influence(alternation(), policies, 0, optimum_at="next").item()
    torch.testing.assert_close(at_next, 15.0)


def test_the_mean_over_next_states_is_of_the_squared_gap():
    # One action, value 0; the optima of the next states are 0 and 2, equally likely.
    transition = [[[0.5, 0.5]]] * 2
    game = MarkovGame(transition, [[[0.0], [0.0]], [[0.0], [2.0]]], 0.0)
    first = torch.tensor([1.0, 0.0])
    value = influence(game, torch.ones(2, 2, 1), 0, optimum_at="next", state_distribution=first)
    torch.testing.assert_close(value.item(), 2.0)


def test_influence_weighs_its_influencees():
    payoff = torch.zeros(3, 8)
    payoff[1, 0], payoff[2, 0] = 1, 3
    policies = torch.tensor([[[0.0, 1.0]]] * 3)
    game = MatrixGame(payoff)
    torch.testing.assert_close(influence(game, policies, 0).item(), 5.0)
    weighted = influence(game, policies, 0, weights=[0.25, 0.75])
    torch.testing.assert_close(weighted.item(), 7.0)
    only = influence(game, policies, 0, influencees=[1])
    torch.testing.assert_close(only.item(), 1.0)
    swapped = influence(game, policies, 0, influencees=[2, 1], weights=[0.25, 0.75])
    torch.testing.assert_close(swapped.item(), 3.0)


def test_influence_reads_the_states_it_is_given():
    game, policies = alternation(), HALVES.expand(2, 2, 2)
    for share in (0.0, 0.25, 1.0):
        states = torch.tensor([share, 1 - share])
        value = influence(game, policies, 0, state_distribution=states)
        torch.testing.assert_close(value.item(), 10 * share)


def test_only_a_state_distribution_that_is_given_with_gradient_is_differentiated():
    game, logits, _ = random_case(0)
    logits.requires_grad_()
    policies = logits.softmax(-1)

    def gradient(states: torch.Tensor | None) -> torch.Tensor:
        value = influence(game, policies, 0, state_distribution=states)
        return torch.autograd.grad(value, logits, retain_graph=True)[0][0]

    states = stationary_distribution(game, policies)
    assert torch.equal(gradient(None), gradient(states.detach()))
    assert relative(gradient(states), gradient(None)) > 1e-3


@pytest.mark.parametrize("optimum_at", ["current", "next"])
@pytest.mark.parametrize("seed", range(56))
def test_theorem_1_is_autograd_through_the_solve(seed, optimum_at):
    discount = (0.3, 0.7, 0.9, 0.95)[seed // 4 % 4]
    game, logits, influencer = random_case(seed, discount=discount)
    logits.requires_grad_()
    value = influence(game, logits.softmax(-1), influencer, optimum_at=optimum_at)
    expected = torch.autograd.grad(value, logits)[0][influencer]
    gradient = influence_gradient(game, logits.softmax(-1), influencer, optimum_at=optimum_at)
    assert relative(gradient.total, expected) < 1e-8
    assert not gradient.total.requires_grad


@pytest.mark.parametrize("seed", range(56))
def test_theorem_1_is_what_central_differences_measure(seed):
    discount = (0.3, 0.7, 0.9, 0.95)[seed // 4 % 4]
    game, logits, influencer = random_case(seed, discount=discount)
    function = held_influence(game, logits, influencer)
    torch.testing.assert_close(
        function(logits[influencer]), influence(game, logits.softmax(-1), influencer)
    )
    measured = central_differences(function, logits[influencer])
    gradient = influence_gradient(game, logits.softmax(-1), influencer)
    assert relative(gradient.total, measured) < 1e-6


@pytest.mark.parametrize(("discount", "error"), [(0.3, 0.38), (0.7, 0.38), (0.9, 0.78)])
def test_theorem_1_as_printed_misses_the_gradient(discount, error):
    errors = []
    for seed in range(52):
        game, logits, influencer = random_case(seed, discount=discount)
        policies = logits.softmax(-1)
        exact = influence_gradient(game, policies, influencer)
        printed = influence_gradient(game, policies, influencer, printed=True)
        assert torch.equal(printed.score, exact.score)
        factor = discount / (1 - discount)
        torch.testing.assert_close(printed.value * factor, exact.value)
        errors.append(relative(printed.total, exact.total))
    assert torch.tensor(errors).median() > error


def test_theorem_1_as_printed_holds_for_a_discount_of_one_half():
    game, logits, influencer = random_case(1, discount=0.5)
    policies = logits.softmax(-1)
    exact = influence_gradient(game, policies, influencer)
    printed = influence_gradient(game, policies, influencer, printed=True)
    torch.testing.assert_close(printed.total, exact.total)


def test_without_discount_only_the_score_is_left_unless_printed():
    game, logits, influencer = random_case(2, discount=0.0)
    policies = logits.softmax(-1)
    exact = influence_gradient(game, policies, influencer)
    assert not exact.value.any()
    assert torch.equal(exact.total, exact.score)
    assert exact.score.abs().max() > 1e-3
    printed = influence_gradient(game, policies, influencer, printed=True)
    assert printed.value.abs().max() > 1e-3


def test_theorem_1_on_a_matrix_game_by_hand():
    # Score: 1/2 (16 - 10) and its opposite. Value: 2 * (-3), the mean gap, times
    # 1/2 (2 - 3) and its opposite, times 0.75 / 0.25.
    game = MatrixGame(PAYOFF, discount=0.75)
    gradient = influence_gradient(game, HALVES, 0)
    torch.testing.assert_close(gradient.score.tolist(), [[3.0, -3.0]])
    torch.testing.assert_close(gradient.value.tolist(), [[9.0, -9.0]])
    torch.testing.assert_close(gradient.total.tolist(), [[12.0, -12.0]])


def test_theorem_1_takes_the_arguments_of_the_influence():
    game, logits, _ = random_case(0)
    logits.requires_grad_()
    states = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.0]).double()
    arguments = {"weights": [0.2, 0.8], "influencees": [2, 0], "state_distribution": states}
    value = influence(game, logits.softmax(-1), 1, **arguments)
    expected = torch.autograd.grad(value, logits)[0][1]
    gradient = influence_gradient(game, logits.softmax(-1), 1, **arguments)
    assert relative(gradient.total, expected) < 1e-8
    assert relative(influence_gradient(game, logits.softmax(-1), 1).total, expected) > 0.1


def test_the_influence_differs_between_the_two_places_of_the_optimum():
    differences = []
    for seed in range(20):
        game, logits, influencer = random_case(seed)
        now, later = (
            influence(game, logits.softmax(-1), influencer, optimum_at=place)
            for place in ("current", "next")
        )
        differences.append(relative(later, now))
    assert min(differences) > 1e-4
    assert torch.tensor(differences).median() > 0.01


def test_the_influence_is_lower_where_the_teammates_do_better():
    game = MatrixGame(PAYOFF)
    policies = HALVES.clone()
    policies[0] = torch.tensor([0.0, 1.0])
    assert influence(game, policies, 0) < influence(game, HALVES, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_everything_is_computed_in_float64(dtype):
    game, policies = policies_of()
    policies = policies.to(dtype)
    results = [
        joint_policy(policies),
        joint_values(game, policies),
        marginal_values(game, policies, 0),
        stationary_distribution(game, policies),
        optimum(game, policies),
        influence(game, policies, 0),
        influence_gradient(game, policies, 0).total,
    ]
    assert {result.dtype for result in results} == {torch.float64}


@pytest.mark.parametrize(
    ("index", "value", "message"),
    [
        ((1, 3, 0), -0.25, "policies[1, 3, 0] must be at least 0, got -0.25."),
        ((1, 3, 0), 0.75, "policies[1, 3] must sum to 1 within 1e-06, got 1.25."),
        ((2, 4, 1), torch.nan, "policies[2, 4, 1] must be finite, got nan."),
    ],
)
@pytest.mark.parametrize(
    "function",
    [
        lambda _, policies: joint_policy(policies),
        joint_values,
        lambda game, policies: marginal_values(game, policies, 0),
        stationary_distribution,
        optimum,
        lambda game, policies: influence(game, policies, 0),
        lambda game, policies: influence_gradient(game, policies, 0),
    ],
)
def test_a_wrong_policy_is_named_with_its_row_and_value(function, index, value, message):
    policies = torch.full((N, S, L), 0.5)
    policies[index] = value
    with pytest.raises(ValueError, match=re.escape(message)):
        function(MarkovGame.random(0, S, N, L), policies)


def test_policies_of_another_shape_are_refused():
    game, _ = policies_of()
    with pytest.raises(ValueError, match=re.escape("(3, 5, 2) of the game, got (5, 3, 2).")):
        joint_values(game, torch.full((S, N, L), 0.5))
    with pytest.raises(ValueError, match=re.escape("(N, S, L), got (5, 2).")):
        joint_policy(torch.full((S, L), 0.5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"influencer": 3},
            "influencers must be at least 0 and below the number of agents, 3, got 3",
        ),
        ({"influencer": -1}, "got -1"),
        ({"influencer": 0, "influencees": [0, 1]}, "cannot be among its influencees"),
        ({"influencer": 0, "influencees": []}, "influencees must be distinct agents"),
        ({"influencer": 0, "weights": [1.0]}, "weights must be 2"),
        ({"influencer": 0, "weights": [0.5, 0.6]}, "sum to 1"),
        ({"influencer": 0, "optimum_at": "later"}, "'current' or 'next', got 'later'"),
        ({"influencer": 0, "state_distribution": torch.ones(3) / 3}, "(5,), got (3,)"),
        (
            {"influencer": 0, "state_distribution": torch.ones(5)},
            "state_distribution must sum to 1",
        ),
    ],
)
@pytest.mark.parametrize("function", [influence, influence_gradient])
def test_a_wrong_argument_is_one_clear_error(function, arguments, message):
    game, policies = policies_of()
    with pytest.raises(ValueError, match=re.escape(message)):
        function(game, policies, **arguments)


def test_a_game_of_one_agent_has_no_influence():
    game = MatrixGame([[1.0, 2.0]])
    with pytest.raises(ValueError, match="influencees"):
        influence(game, torch.tensor([[[0.5, 0.5]]]), 0)


def test_the_solver_leaves_its_arguments_alone():
    game, policies = policies_of()
    before = TensorDict({"policies": policies, "t": game.transition, "r": game.reward}).clone()
    influence_gradient(game, policies, 1, optimum_at="next")
    assert torch.equal(before["policies"], policies)
    assert torch.equal(before["t"], game.transition)
    assert torch.equal(before["r"], game.reward)


@pytest.mark.parametrize("seed", range(8))
def test_the_team_optimum_is_the_fixed_point_of_value_iteration(seed):
    game, _, _ = random_case(seed)
    reward = game.reward.mean(0)
    values = torch.zeros(game.num_states, dtype=torch.float64)
    for _ in range(400):
        values = (reward + game.discount * game.transition @ values).amax(-1)
    torch.testing.assert_close(team_optimum(game).amax(-1), values, rtol=0, atol=1e-9)


def test_no_joint_policy_of_a_small_game_beats_the_team_optimum():
    """All 4**4 deterministic joint policies of two agents, by linear solves."""
    game = MarkovGame.random(1, 2, 2, 2, discount=0.8)
    identity = torch.eye(2, dtype=torch.float64)
    best = torch.full((2,), -torch.inf, dtype=torch.float64)
    for rows in product(range(2), repeat=4):
        policies = identity[torch.tensor(rows)].view(2, 2, 2)
        values = (joint_policy(policies) * joint_values(game, policies).mean(0)).sum(-1)
        best = torch.maximum(best, values)
    torch.testing.assert_close(team_optimum(game).amax(-1), best)


def test_equal_actions_do_not_keep_the_team_optimum_searching():
    game = MarkovGame(torch.full((3, 4, 3), 1 / 3), torch.ones(2, 3, 4), 0.5)
    torch.testing.assert_close(team_optimum(game), torch.full((3, 4), 2.0, dtype=torch.float64))
