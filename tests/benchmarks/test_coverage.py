"""benchmarks/coverage: its counts, exact values and learner, by numbers checked by hand."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch.nn.functional import one_hot

from benchmarks.coverage import learner, measure, report
from benchmarks.coverage.methods import METHODS, Method, Settings
from benchmarks.pages import add_missing
from torchrl_alita import Autoencoder, DiversityPenalty, NoveltyReward
from torchrl_alita.objectives.joint_actions import enumerate_joint_actions

# Repetitions, agents, actions.
R, N, L = 5, 3, 2
M = L**N
ACTIONS = enumerate_joint_actions(N, L).argmax(-1)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_exact_share_is_the_mean_over_all_sequences_of_joint_actions(steps):
    shares = [len(set(drawn)) / 4 for drawn in itertools.product(range(4), repeat=steps)]
    assert measure.random_share(steps, 4) == pytest.approx(sum(shares) / len(shares))


def test_random_play_needs_the_steps_of_the_coupon_collector():
    # 4 * (1 + 1/2 + 1/3 + 1/4).
    assert measure.random_cover_steps(4) == pytest.approx(25 / 3)
    found = measure.summary(measure.cell("random", 2, 3, Settings(random_repetitions=400)))
    low, high = found["full_cover_steps"]["interval"]
    assert low <= 25.46 <= high
    assert high - low < 3


def test_the_covered_share_counts_each_joint_action_once():
    joint = torch.tensor([[0, 3], [0, 2], [3, 1], [0, 0]])
    expected = torch.tensor([[1, 1], [1, 2], [2, 3], [2, 4]]) / 4
    torch.testing.assert_close(measure.covered(joint, 4), expected)
    # Random play ends with the last one that it lacks.
    shares = measure.covered(learner.play_random(4, 7, seed=0).joint, 4)
    assert shares[-2].min() < shares[-1].min() == 1


def test_an_expected_reward_averages_over_the_others_actions():
    reward, probabilities = draw(R, N, M), draw(R, N, L, seed=1).softmax(-1)
    value = learner.expected_rewards(reward, probabilities, ACTIONS)
    expected = torch.zeros(R, N, L)
    for m, joint in enumerate(ACTIONS.tolist()):
        for i in range(N):
            others = [probabilities[:, j, joint[j]] for j in range(N) if j != i]
            expected[:, i, joint[i]] += reward[:, i, m] * others[0] * others[1]
    torch.testing.assert_close(value, expected)


def test_a_step_follows_the_advantage_and_forgets_at_rate_times_temperature():
    method = Method("", rate=2.0, temperature=0.1)
    logits = torch.tensor([[[0.0, 0.0]], [[1.0, -1.0]]])
    reward = torch.tensor([[[1.0, 0.0]], [[3.0, 3.0]]])
    # Advantages 1/2 and -1/2, twice; then none, so that a fifth of the logits goes.
    new = learner.improved(logits, reward, torch.tensor([[0], [1]]), method)
    torch.testing.assert_close(new, torch.tensor([[[1.0, -1.0]], [[0.8, -0.8]]]))


def test_in_turns_the_second_agent_answers_the_first_agents_new_policy():
    actions = enumerate_joint_actions(2, 2).argmax(-1)
    wish = torch.tensor([[1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 1.0]]).unsqueeze(0)
    together = Method("", rate=2.0, temperature=0.1)
    start = torch.zeros(1, 2, 2)
    # Agent 0 wants its action 0, agent 1 to match: of equal policies it learns nothing.
    assert learner.improved(start, wish, actions, together)[0, 1].tolist() == [0.0, 0.0]
    new = learner.improved(start, wish, actions, replace(together, in_turns=True))
    first = torch.sigmoid(torch.tensor(2.0)).item()
    assert new[0, 0].tolist() == [1.0, -1.0]
    assert new[0, 1, 0].item() == pytest.approx(2 * (first - 0.5))


@pytest.mark.parametrize("penalty", [1.0, -1.0])
def test_eq_11_pulls_teammates_to_their_likeliest_action_and_reversed_to_uniform(penalty):
    method = Method("", scope="influencer", penalty=penalty, rate=0.1, temperature=0.0)
    logits = torch.tensor([[[0.0, 0.0], [0.3, -0.3], [-0.2, 0.2]]])
    probabilities = logits.softmax(-1)
    psi = torch.full((1, N, M), 0.4)
    reward = learner.rewards(method, psi, probabilities, ACTIONS, 5.0)
    new = learner.improved(logits, reward, ACTIONS, method).softmax(-1)
    before, after = (torch.special.entr(p).sum(-1)[0] for p in (probabilities, new))
    assert ((after - before)[1:] * penalty < 0).all()
    assert after[0] == before[0]


def test_a_row_pays_what_the_packages_transforms_pay():
    """Eq. 10 and 11 at every joint action, for one repetition of ALITA's row."""
    torch.manual_seed(0)
    method, omega = METHODS["alita"], 0.7
    logits, autoencoder = draw(1, N, L), Autoencoder(1 + L)
    policy = TensorDictModule(
        lambda observation: logits.expand(len(observation), -1, -1),
        in_keys=[("agents", "observation")],
        out_keys=[("agents", "logits")],
    )
    taken = {"observation": torch.ones(M, N, 1), "action": one_hot(ACTIONS, L).float()}
    batch = NoveltyReward(autoencoder, 0)(TensorDict({"agents": taken}, [M]))
    batch = DiversityPenalty(policy, 0, omega=omega, distance="brier")(batch)
    paid = batch["next", "agents", "novelty"] + batch["next", "agents", "diversity_penalty"]
    with torch.no_grad():
        inputs = torch.cat([torch.ones(L, 1), torch.eye(L)], -1).unsqueeze(1)
        novelty = (autoencoder(inputs) - inputs).square().sum(-1).T.unsqueeze(0)
    psi = learner.by_joint_action(method, novelty, ACTIONS)
    reward = learner.rewards(method, psi, logits.softmax(-1), ACTIONS, omega)
    torch.testing.assert_close(reward[0].T, paid.squeeze(-1))


def test_psi_is_looked_up_by_the_actions_in_its_scope():
    own, joint = draw(R, N, L), draw(R, 1, M)
    each = learner.by_joint_action(Method("", scope="own"), own, ACTIONS)
    first = learner.by_joint_action(Method("", scope="influencer"), own[:, :1], ACTIONS)
    team = learner.by_joint_action(Method("", scope="joint"), joint, ACTIONS)
    # Joint action 5 is 1, 0, 1.
    torch.testing.assert_close(each[..., 5], own[:, [0, 1, 2], [1, 0, 1]])
    torch.testing.assert_close(first[..., 5], own[:, :1, 1].expand(-1, N))
    torch.testing.assert_close(team[..., 5], joint[..., 5].expand(-1, N))


def test_a_count_is_worth_less_with_every_visit_and_nothing_unvisited_if_so_asked():
    for visited_only, unvisited in ((False, 1.0), (True, 0.0)):
        count = learner.Count(Method("", "count", visited_only=visited_only), (1, 1), 3)
        for seen in (0, 0, 0, 1):
            count.learn(torch.tensor([[seen]]))
        torch.testing.assert_close(count.novelty()[0, 0], torch.tensor([0.5, 0.5**0.5, unvisited]))


@pytest.mark.parametrize("source", ["autoencoder", "rnd"])
def test_what_was_seen_is_less_novel_and_repetitions_do_not_touch_each_other(source):
    def trained(second: int) -> torch.Tensor:
        torch.manual_seed(0)
        chosen = Settings(batch_size=7)
        networks = learner.Networks(Method("", source), (2, 1), torch.eye(3), chosen)
        for _ in range(5):
            networks.learn(torch.tensor([[0], [second]]))
        return networks.novelty()

    first, other = trained(1), trained(2)
    assert (first[0, 0, 0] < 0.3 * first[0, 0, 1:]).all()
    assert (first[1, 0, 1] < 0.3 * first[1, 0, [0, 2]]).all()
    torch.testing.assert_close(first[0], other[0], rtol=1e-4, atol=1e-6)
    assert (first[1] - other[1]).abs().max() > 0.1


def test_the_contrast_is_the_ratio_of_unvisited_to_visited_novelty():
    novelty = torch.tensor([[4.0, 8.0, 2.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    visited = torch.tensor([[False, False, True, True], [True] * 4])
    # 6 to 1.5; a repetition that has visited all has no ratio.
    assert learner.contrast(novelty, visited).exp().item() == pytest.approx(4.0)


def test_joint_counts_in_turns_cover_a_game_in_fewer_steps_than_random_play():
    play = learner.play_stacked(METHODS["count_turns"], 3, 3, Settings(repetitions=7))
    assert play.joint.shape == (learner.num_steps(27), 7)
    shares = measure.covered(play.joint, 27)
    assert (shares[-1] == 1).all()
    assert (shares[26] > measure.random_share(27, 27)).all()


def test_the_same_seed_gives_the_same_cell():
    settings = Settings(repetitions=3)
    first, again = (measure.cell("rnd", 2, 2, settings) | {"seconds": 0} for _ in range(2))
    assert first == again
    assert first["curve"] != measure.cell("rnd", 2, 2, replace(settings, seed=1))["curve"]


def test_alitas_own_update_plays_the_game_and_its_joint_actions_are_counted():
    method = METHODS["alita_networks"]
    play = learner.play_networks(method, 2, 2, Settings(networks_repetitions=2))
    assert play.joint.shape == (learner.num_steps(4), 2)
    assert play.joint.min() >= 0
    assert play.joint.max() < 4
    assert ((play.entropy > 0) & (play.entropy <= 1)).all()


def test_a_claim_holds_only_with_the_whole_interval_where_it_was_measured():
    """Random play covers 0.905 after M ln M steps, and 0.654 after M."""

    def game(low: float, high: float):
        found = {mark: {"mean": 0.9, "interval": (low, high)} for mark in measure.MARKS}
        return measure.exact(2, 3), {"x": found}

    games = {2: game(0.1, 0.2), 3: game(0.95, 0.96), 4: game(0.5, 0.95), 5: ({}, {})}
    assert report.finding(("a", report.never_above, ("x",)), games) == ["a", "2, 4", "3"]
    assert report.finding(("b", report.always_above, ("x",)), games) == ["b", "3", "2, 4"]


def test_cells_that_are_there_are_not_run_again_and_a_report_of_nothing_is_refused(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(report, "RESULT", tmp_path / "results.jsonl")
    with pytest.raises(ValueError, match="no cell"):
        report.report()
    settings = Settings(random_repetitions=11)
    for jobs in (
        {"random": partial(measure.cell, "random", 2, 3, settings)},
        {
            "random": partial(float, "not done again"),
            "other": partial(dict, num_agents=3, method="x"),
        },
    ):
        add_missing(report.RESULT, jobs, workers=1)
    games = report.read_games()
    assert len(games[2]["random"]["share_at_m"]) == 11
    assert games[2]["random"]["machine"]["threads"] == 1
    assert games[3] == {"x": {"num_agents": 3, "method": "x"}}
