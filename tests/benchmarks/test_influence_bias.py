"""The benchmark of the influence's estimates: its truths are true, its watchers only watch."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from tensordict import TensorDict
from torchrl.envs import ExplorationType, set_exploration_type

from benchmarks.influence_bias import games, report, settings, spread
from benchmarks.influence_bias.learner import costs, follow
from torchrl_alita import make_actor
from torchrl_alita.envs import MarkovGame, MatrixGame
from torchrl_alita.exact import (
    influence,
    joint_policy,
    joint_values,
    marginal_mean,
    marginal_values,
)

OBSERVATION, ACTION, REWARD = (("agents", key) for key in ("observation", "action", "reward"))
F64 = torch.float64
TINY = replace(
    settings.GAMES, num_states=3, num_actions=2, gamma=0.8, actor_lr=1e-3, steps_per_batch=5,
    estimator_updates=2, num_envs=7, horizon=10, episodes=3, checkpoint_every=3, batch_size=64,
    num_cells=(8,), compared=2000,
)  # fmt: skip


def random_policies(num_agents: int, num_states: int, num_actions: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(num_agents, num_states, num_actions, generator=generator, dtype=F64)
    return logits.softmax(-1)


def test_each_error_is_named_for_what_it_is():
    """The teammate gets 0 4 / 2 6: q is 2 or 4, the optimum 6, F = (16 + 4) / 2 = 10."""
    values = torch.tensor([[0.0] * 4, [0.0, 4.0, 2.0, 6.0]], dtype=F64).unsqueeze(1)
    bias = partial(
        games.split_bias,
        torch.full((2, 1, 2), 0.5, dtype=F64),
        torch.ones(1, 1, dtype=F64),
        truth=(torch.tensor([[[0.0, 0.0]], [[2.0, 4.0]]], dtype=F64), values.amax(-1)),
    )
    known = bias(critics=values, estimates=values, one_draw=False)
    assert known == {"influence": 10.0, "critic": 0.0, "estimator": 0.0, "variance": 0.0}
    assert bias(critics=values, estimates=values, one_draw=True)["variance"] == 4.0
    # A critic that is too high by 7 everywhere has the same gaps.
    assert bias(critics=values + 7, estimates=values + 7, one_draw=False)["critic"] == 0.0
    # An estimator that is too low by 1: gaps -5 and -3, (25 + 9) / 2 = 17.
    assert bias(critics=values, estimates=values - 1, one_draw=False)["estimator"] == 7.0
    # A critic of twice the size has twice the gaps.
    assert bias(critics=2 * values, estimates=2 * values, one_draw=False)["critic"] == 30.0


@pytest.mark.parametrize("one_draw", [False, True])
def test_the_parts_and_the_truth_add_up_to_the_mean_of_the_estimate(one_draw):
    policies = random_policies(3, 5, 2)
    generator = torch.Generator().manual_seed(1)
    critics, estimates = torch.randn(2, 3, 5, 8, generator=generator, dtype=F64)
    pairs = torch.rand(5, 5, generator=generator, dtype=F64)
    pairs = pairs / pairs.sum()
    parts = games.split_bias(
        policies, pairs, critics=critics, estimates=estimates, one_draw=one_draw, influencer=1,
        truth=(torch.randn(3, 5, 2, dtype=F64), torch.randn(3, 5, dtype=F64)),
    )  # fmt: skip
    joint, best, expected = joint_policy(policies), critics.amax(-1), 0.0
    average = marginal_mean(estimates, policies, 1)
    for s, t, u, i in itertools.product(range(5), range(5), range(8), (0, 2)):
        value = estimates[i, s, u] if one_draw else average[i, s, u // 2 % 2]
        expected += pairs[s, t] * joint[s, u] * (value - best[i, t]) ** 2 / 2
    assert sum(parts.values()) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("place", ["current", "next"])
def test_the_truth_of_a_batch_is_the_exact_influence_where_states_follow_on_policy(place):
    game = MarkovGame.random(0, 5, 3, 2)
    policies = random_policies(3, 5, 2)
    states = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.0], dtype=F64)
    follow = torch.einsum("su,sut->st", joint_policy(policies), game.transition)
    # Where the influencer's actions lead to the same states, the pairs say it all.
    game.transition[:] = follow.unsqueeze(1)
    values = joint_values(game, policies)
    truth = (marginal_values(game, policies, 0), values.amax(-1))
    pairs = states.diag() if place == "current" else states.unsqueeze(1) * follow
    parts = games.split_bias(
        policies, pairs, truth=truth, critics=values, estimates=values, one_draw=False
    )
    exact = influence(game, policies, 0, optimum_at=place, state_distribution=states)
    assert parts["influence"] == pytest.approx(float(exact), rel=1e-12)


def test_pairs_of_states_are_counted_from_row_to_column():
    before, after = (torch.eye(3)[states].unsqueeze(1).expand(4, 2, 3)
                     for states in ([0, 0, 2, 0], [1, 1, 0, 0]))  # fmt: skip
    agents, following = {"observation": before}, {"agents": {"observation": after}}
    batch = TensorDict({"agents": agents, "next": following}, [4])
    expected = [[0.25, 0.5, 0.0], [0.0, 0.0, 0.0], [0.25, 0.0, 0.0]]
    assert games.next_state_pairs(batch).tolist() == expected


def test_a_table_of_values_has_the_order_of_the_exact_ones():
    table = torch.arange(2 * 3 * 4.0).view(2, 3, 4)
    critics = games.TabularCritics(table)
    game = MarkovGame.random(0, 3, 2, 2)

    def value(states: TensorDict, action: torch.Tensor) -> torch.Tensor:
        return critics(states[OBSERVATION], action).detach()

    assert games.value_table(value, game).tolist() == table.tolist()


def test_a_table_of_policies_is_what_the_actors_draw_from():
    torch.manual_seed(0)
    game = MatrixGame(torch.zeros(3, 8), num_envs=20_000)
    actor = make_actor(game, num_cells=(5,))
    for parameter in actor.parameters():
        parameter.data.normal_()
    policies = games.policy_table(actor, game)
    with set_exploration_type(ExplorationType.RANDOM):
        drawn = actor(game.reset())[ACTION].detach().mean(0)
    torch.testing.assert_close(drawn, policies[:, 0].float(), atol=0.015, rtol=0)


@pytest.fixture(scope="module")
def point():
    """The last comparison of a run too short for critics to learn."""
    return follow(games.game_learner(3, TINY), games.compare_on_game)["points"][-1]


def test_with_critics_that_know_only_the_draw_is_wrong(point):
    rows = point["estimators"]
    for name, variance in (("marginal_all", 0), ("marginal_1", 1)):
        parts = rows[f"exact_critics_{name}"]["current"]
        assert abs(parts["critic"]) < 1e-5
        assert abs(parts["estimator"]) < 1e-5
        assert (parts["variance"] > 0.01) == bool(variance)
    assert abs(rows["exact_critics_marginal_all"]["current"]["relative_error"]) < 0.05


@pytest.mark.parametrize("place", ["current", "next"])
def test_the_parts_say_what_the_loss_says(point, place):
    """2,000 transitions: what is left is the draws' own noise."""
    for name, row in point["estimators"].items():
        parts = sum(row[place][part] for part in games.PARTS)
        assert row[place]["relative_error"] == pytest.approx(parts, abs=0.08), name


def test_marginal_estimates_add_nothing_of_their_own_and_trained_ones_do(point):
    rows = point["estimators"]
    assert rows["marginal_1"]["current"]["estimator"] == 0
    assert rows["marginal_all"]["next"]["estimator"] == 0
    assert rows["clones"]["current"]["estimator"] != 0
    assert rows["centralized"]["current"]["estimator"] != 0


def test_only_at_the_next_state_does_it_matter_who_led_there(point):
    for row in point["estimators"].values():
        assert abs(row["current"]["off_policy"]) < 1e-12
        assert row["next"]["off_policy"] != 0


def test_watching_does_not_change_the_learner():
    """The estimators are compared on one learner, which must be that of nobody watching."""

    def learn(estimators: dict) -> torch.Tensor:
        learner = games.game_learner(5, replace(TINY, checkpoint_every=1), estimators)
        for _ in range(2):
            learner.play()
            with learner.own_stream():
                torch.rand(3)
        return torch.cat([p.data.flatten() for p in learner.algorithm.maddpg.parameters()])

    assert torch.equal(
        learn({"marginal_1": settings.ON_GAMES["marginal_1"]}), learn(settings.ON_GAMES)
    )


@pytest.mark.parametrize(("checkpoint_every", "start"), [(2, "second"), (3, "first")])
def test_clones_start_anew_with_an_episode_that_is_compared_and_rest_in_others(
    checkpoint_every, start
):
    chosen = replace(
        TINY, warmup=0, estimator_lr=0.0, checkpoint_every=checkpoint_every, batch_size=32
    )
    learner = games.game_learner(6, chosen, {"clones": settings.ON_GAMES["clones"]})
    critics, before = learner.algorithm.maddpg.qvalue_network_params, {}
    for episode in ("first", "second"):
        before[episode] = critics.data.clone()
        learner.play()
    clones = learner.sources["clones", "exact"].loss.estimator_network_params.data
    assert (clones == before[start]).all()
    assert not (before["second"] == before["first"]).all()


def test_the_steps_decay_to_a_last_one_that_is_not_zero():
    learner = games.game_learner(6, TINY)
    for episode, left in ((1, 3 / 3), (2, 2 / 3), (3, 1 / 3)):
        learner.episodes = episode
        learner._set_rates()
        for name, rate in (("actor", TINY.actor_lr), ("qvalue", TINY.critic_lr)):
            group = learner.algorithm.optimizers[name].param_groups[0]
            assert group["lr"] == pytest.approx(left * rate)
        for source in learner.sources.values():
            assert source.optimizer.param_groups[0]["lr"] == pytest.approx(left * TINY.estimator_lr)


def test_the_cost_counts_an_estimators_training():
    learner = games.game_learner(3, TINY)
    learner.play()
    cost = costs(learner, repeats=3)
    assert 0 < cost["marginal_1"] < cost["clones"]
    assert cost["marginal_1"] < cost["centralized"]


THREE = replace(settings.SPREAD, num_agents=3)
spread_env = partial(spread.spread_env, settings=THREE, num_envs=5, horizon=40)


@pytest.fixture(scope="module")
def spread_episodes():
    torch.manual_seed(0)
    env = spread_env(0)
    actor = make_actor(env, num_cells=(8,))
    with torch.no_grad():
        return actor, env.rollout(40, actor)


@pytest.mark.parametrize(("first", "tolerance"), [(0, 0.0), (20, 1e-5)])
def test_a_restarted_environment_pays_what_the_original_paid(spread_episodes, first, tolerance):
    """Exactly from a start; later, landmarks are where agent 0 sees them, to rounding."""
    _, episodes = spread_episodes
    env = spread_env(9)
    step = spread.restart(env, episodes[OBSERVATION][:, first])
    for t in range(first, 40):
        step = env.step(step.set(ACTION, episodes[ACTION][:, t]))["next"]
        for key in (OBSERVATION, REWARD):
            paid = episodes["next", key][:, t]
            torch.testing.assert_close(step[key], paid, rtol=0, atol=tolerance)


def test_a_monte_carlo_value_is_the_discounted_sum_of_what_the_policies_earn(spread_episodes):
    actor, episodes = spread_episodes
    observation, action = episodes[OBSERVATION][:, 0], episodes[ACTION][:, 0]
    options = {"policy": actor, "gamma": 0.5}
    value = spread.monte_carlo_values(spread_env(9), observation, action, steps=3, **options)
    reward = episodes["next", REWARD]
    expected = reward[:, 0] + 0.5 * reward[:, 1] + 0.25 * reward[:, 2]
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-5)
    # The first action is held, whatever the policies would do; the later ones are theirs.
    env = spread_env(9)
    value = spread.monte_carlo_values(env, observation, -action, steps=2, **options)
    step = env.step(spread.restart(env, observation).set(ACTION, -action))["next"]
    with torch.no_grad():
        later = env.step(actor(step.clone()))["next", REWARD]
    torch.testing.assert_close(value, step[REWARD] + 0.5 * later, rtol=0, atol=1e-5)


def test_errors_on_spread_by_hand():
    """One state, two agents, two candidates; the influencer's entries are far off."""
    value = torch.tensor([[[99.0], [-9.0]]])
    true = torch.tensor([[[[99.0], [-10.0]]], [[[99.0], [-8.0]]]])
    known = torch.tensor([[[[99.0], [-7.0]]], [[[99.0], [-6.0]]]])
    one = value.repeat(2, 1, 1), true.repeat(1, 2, 1, 1), known.repeat(1, 2, 1, 1)
    errors = spread.spread_errors(*one)
    assert errors["estimate"] == 9.0  # (-9 + 6)^2
    assert errors["truth"] == 4.0  # (-10 + 8)^2
    assert errors["relative_error"] == 1.25
    assert errors["value_relative_bias"] == pytest.approx(0.1)
    assert errors["value_relative_std"] == 0.0


def test_a_table_is_of_the_last_checkpoint_over_the_runs():
    """Five runs: their interquartile mean; of two each one's figure."""

    def run(*errors: float) -> dict:
        place = [{"relative_error": e, **dict.fromkeys(games.PARTS, e)} for e in errors]
        each = [{"estimators": {"clones": {"current": p, "next": p}}} for p in place]
        return {"points": each}

    runs = [run(0.5, last) for last in (0.1, -0.1, 0.3, 0.3, 0.2)]
    (line,) = report.games_table(runs, {"clones": 50.0}).splitlines()[2:]
    assert line.startswith("| `clones` | 20.0 [")
    assert line.endswith("| 50 |")
    assert "| 50.0 | 20.0 [" in line
    (line,) = report.games_table(runs[:2], {}).splitlines()[2:]
    assert line == "| `clones` | 10.0, -10.0 | 50.0 | 10.0, -10.0 |  |"
    (line,) = report.parts_table(runs[:2]).splitlines()[2:]
    assert line.startswith("| `clones` | 0.0 (10.0) | 0.0 (10.0) | 50.0 |")


def test_runs_are_compared_up_to_the_checkpoint_that_all_have(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "RESULT", tmp_path / "results.jsonl")
    assert report.load("spread") == []
    lines = [
        {"name": str(seed), "part": "spread", "seed": seed, "points": points}
        for seed, points in ((10, [1, 2, 3]), (2, [4, 5]))
    ]
    report.RESULT.write_text("\n".join(map(json.dumps, lines)))
    found = [(run["seed"], run["points"]) for run in report.load("spread")]
    assert found == [(2, [4, 5]), (10, [1, 2])]
    with pytest.raises(ValueError, match="no runs of both parts"):
        report.report()
