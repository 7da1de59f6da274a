"""benchmarks/coverage.py: its counts, exact values and learner, by numbers checked by hand."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scripts import ROOT, load, pages
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch.nn.functional import one_hot

from torchrl_alita import Autoencoder, DiversityPenalty, NoveltyReward
from torchrl_alita.envs.games import MatrixGame

# Repetitions, agents, actions.
R, N, L = 5, 3, 2
M = L**N


# Under another name: a tool that measures the coverage of tests has this one.
coverage = load("benchmarks", "coverage", known_as="benchmark_coverage")
Method = coverage.Method


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def results(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(coverage, "RESULTS", tmp_path)
    return tmp_path


# Exact values.


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_exact_share_is_the_mean_over_all_sequences_of_joint_actions(steps):
    shares = [len(set(drawn)) / 4 for drawn in itertools.product(range(4), repeat=steps)]
    assert coverage.random_share(steps, 4) == pytest.approx(sum(shares) / len(shares))


def test_the_exact_steps_to_cover_all_are_those_of_the_coupon_collector():
    assert coverage.random_cover_steps(1) == 1
    assert coverage.random_cover_steps(2) == 3
    # 4 * (1 + 1/2 + 1/3 + 1/4).
    assert coverage.random_cover_steps(4) == pytest.approx(25 / 3)


def test_the_balanced_share_is_the_mean_over_all_shuffled_rounds():
    orders = list(itertools.permutations(range(3)))
    # Agent 0's order is left as it is: it only renames the steps of a round.
    rounds = [{(k, order[k]) for k in range(3)} for order in orders]
    for number in (1, 2):
        shares = [
            len(set().union(*played)) / 9 for played in itertools.product(rounds, repeat=number)
        ]
        expected = sum(shares) / len(shares)
        assert coverage.balanced_share(3 * number, 9, 3) == pytest.approx(expected)


def test_random_play_ends_when_every_repetition_has_visited_all_and_not_before():
    play = coverage.play_random(4, 7, seed=0)
    shares = coverage.covered(play.joint, 4)
    assert (shares[-1] == 1).all()
    assert (shares[-2] < 1).any()


# Counting.


def test_the_covered_share_counts_each_joint_action_once():
    joint = torch.tensor([[0, 3], [0, 2], [3, 1], [0, 0]])
    expected = torch.tensor([[1, 1], [1, 2], [2, 3], [2, 4]]) / 4
    torch.testing.assert_close(coverage.covered(joint, 4), expected)


def test_what_was_seen_beside_an_action_of_agent_0_is_a_share_of_what_could_be():
    # In C order with L = 2, N = 2, agent 0 plays 0 in joint actions 0 and 1.
    joint = torch.tensor([[0, 0], [1, 0], [0, 2], [1, 2], [3, 3]])
    # Only M = 4 steps count: 0 and 1 beside action 0; then one of two beside both actions.
    assert coverage.actions_beside(joint, 4, 2).tolist() == [1.0, 0.5]


def test_a_repeat_is_the_same_joint_action_twice_in_a_row():
    joint = torch.tensor([[2, 0], [2, 1], [1, 0], [1, 1], [1, 1]])
    torch.testing.assert_close(coverage.repeats(joint, 4), torch.tensor([2 / 3, 0.0]))


def test_joint_actions_are_numbered_as_the_game_does():
    actions = coverage.joint_actions(N, L)
    game = MatrixGame(torch.arange(float(M)).expand(N, -1), num_envs=M)
    step = game.reset().set(("agents", "action"), one_hot(actions, L).float())
    assert game.step(step)["next", "agents", "reward"][:, 0, 0].tolist() == list(range(M))


def test_the_interval_is_that_of_the_normal_distribution_for_many_values():
    values = torch.randn(2003, generator=torch.Generator().manual_seed(0)) * 3 + 7
    low, high = coverage.interval(values)
    assert low < values.mean() < high
    assert (high - low) / 2 == pytest.approx(1.96 * values.std().item() / 2003**0.5, rel=0.05)
    assert coverage.interval(torch.full((7,), 2.5)) == [2.5, 2.5]


# The learner.


def test_an_expected_reward_averages_over_the_others_actions():
    reward, probabilities = draw(R, N, M), draw(R, N, L, seed=1).softmax(-1)
    actions = coverage.joint_actions(N, L)
    value = coverage.expected_rewards(reward, probabilities, actions)
    expected = torch.zeros(R, N, L)
    for m, joint in enumerate(actions.tolist()):
        for i in range(N):
            others = [probabilities[:, j, joint[j]] for j in range(N) if j != i]
            expected[:, i, joint[i]] += reward[:, i, m] * others[0] * others[1]
    torch.testing.assert_close(value, expected)


def test_a_step_follows_the_advantage_and_forgets_at_rate_times_temperature():
    method = Method("", rate=2.0, temperature=0.1)
    logits = torch.tensor([[[0.0, 0.0]], [[1.0, -1.0]]])
    reward = torch.tensor([[[1.0, 0.0]], [[3.0, 3.0]]])
    # Advantages 1/2 and -1/2, twice; then none, so that a fifth of the logits goes.
    new = coverage.improved(logits, reward, torch.tensor([[0], [1]]), method)
    torch.testing.assert_close(new, torch.tensor([[[1.0, -1.0]], [[0.8, -0.8]]]))


def test_in_turns_the_second_agent_answers_the_first_agents_new_policy():
    actions = coverage.joint_actions(2, 2)
    wish = torch.tensor([[1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 1.0]]).unsqueeze(0)
    together = Method("", rate=2.0, temperature=0.1)
    turns = replace(together, in_turns=True)
    start = torch.zeros(1, 2, 2)
    # Agent 0 wants its action 0, agent 1 to match: of equal policies it learns nothing.
    assert coverage.improved(start, wish, actions, together)[0, 1].tolist() == [0.0, 0.0]
    new = coverage.improved(start, wish, actions, turns)
    first = torch.sigmoid(torch.tensor(2.0)).item()
    assert new[0, 0].tolist() == [1.0, -1.0]
    assert new[0, 1, 0].item() == pytest.approx(2 * (first - 0.5))


@pytest.mark.parametrize("penalty", [1.0, -1.0])
def test_eq_11_pulls_teammates_to_their_likeliest_action_and_reversed_to_uniform(penalty):
    method = Method("", scope="influencer", penalty=penalty)
    actions = coverage.joint_actions(N, L)
    logits = torch.tensor([[[0.0, 0.0], [0.3, -0.3], [-0.2, 0.2]]])
    probabilities = logits.softmax(-1)
    psi = torch.full((1, N, M), 0.4)
    reward = coverage.rewards(method, psi, probabilities, actions, 5.0)
    entropy = torch.special.entr(probabilities).sum(-1)
    gentle = replace(method, rate=0.1, temperature=0.0)
    new = coverage.improved(logits, reward, actions, gentle).softmax(-1)
    change = (torch.special.entr(new).sum(-1) - entropy)[0] * penalty
    assert (change[1:] < 0).all()
    assert change[0] == 0


def test_a_row_pays_what_the_packages_transforms_pay():
    """Eq. 10 and 11 at every joint action, for one repetition of ALITA's row."""
    torch.manual_seed(0)
    method, omega = coverage.METHODS["alita"], 0.7
    actions, logits = coverage.joint_actions(N, L), draw(1, N, L)
    autoencoder = Autoencoder(1 + L)
    policy = TensorDictModule(
        lambda observation: logits.expand(len(observation), -1, -1),
        in_keys=[("agents", "observation")],
        out_keys=[("agents", "logits")],
    )
    batch = TensorDict(
        {"agents": {"observation": torch.ones(M, N, 1), "action": one_hot(actions, L).float()}},
        [M],
    )
    batch = NoveltyReward(autoencoder, 0)(batch)
    batch = DiversityPenalty(policy, 0, omega=omega, distance="brier")(batch)
    paid = batch["next", "agents", "novelty"] + batch["next", "agents", "diversity_penalty"]
    with torch.no_grad():
        inputs = torch.cat([torch.ones(L, 1), torch.eye(L)], -1).unsqueeze(1)
        novelty = (autoencoder(inputs) - inputs).square().sum(-1).T.unsqueeze(0)
    psi = coverage.by_joint_action(method, novelty, actions)
    reward = coverage.rewards(method, psi, logits.softmax(-1), actions, omega)
    torch.testing.assert_close(reward[0].T, paid.squeeze(-1))


def test_psi_is_looked_up_by_the_actions_in_its_scope():
    actions = coverage.joint_actions(N, L)
    own, joint = draw(R, N, L), draw(R, 1, M)
    each = coverage.by_joint_action(Method("", scope="own"), own, actions)
    first = coverage.by_joint_action(Method("", scope="influencer"), own[:, :1], actions)
    team = coverage.by_joint_action(Method("", scope="joint"), joint, actions)
    # Joint action 5 is 1, 0, 1.
    torch.testing.assert_close(each[..., 5], own[:, [0, 1, 2], [1, 0, 1]])
    torch.testing.assert_close(first[..., 5], own[:, :1, 1].expand(-1, N))
    torch.testing.assert_close(team[..., 5], joint[..., 5].expand(-1, N))


def test_a_count_is_worth_less_with_every_visit_and_nothing_unvisited_if_so_asked():
    for visited_only, unvisited in ((False, 1.0), (True, 0.0)):
        count = coverage.Count(Method("", "count", visited_only=visited_only), 1, 1, 3)
        for seen in (0, 0, 0, 1):
            count.learn(torch.tensor([[seen]]))
        torch.testing.assert_close(count.novelty()[0, 0], torch.tensor([0.5, 0.5**0.5, unvisited]))


@pytest.mark.parametrize("source", ["autoencoder", "rnd"])
def test_what_was_seen_is_less_novel_and_repetitions_do_not_touch_each_other(source):
    def trained(second: int) -> torch.Tensor:
        torch.manual_seed(0)
        networks = coverage.Networks(
            Method("", source), 2, 1, torch.eye(3), coverage.Config(batch_size=7)
        )
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
    assert coverage.contrast(novelty, visited).exp().item() == pytest.approx(4.0)


def test_joint_counts_in_turns_cover_a_game_in_fewer_steps_than_random_play():
    config = coverage.Config(repetitions=7)
    play = coverage.play_stacked(coverage.METHODS["count_turns"], 3, 3, config)
    assert play.joint.shape == (coverage.num_steps(27), 7)
    shares = coverage.covered(play.joint, 27)
    assert (shares[-1] == 1).all()
    assert (shares[26] > coverage.random_share(27, 27)).all()


def test_the_same_seed_gives_the_same_cell():
    config = coverage.Config(repetitions=3)
    first, again = (coverage.cell("rnd", 2, 2, config) | {"seconds": 0} for _ in range(2))
    assert first == again
    assert first["curve"] != coverage.cell("rnd", 2, 2, replace(config, seed=1))["curve"]


def test_alitas_own_update_plays_the_game_and_its_joint_actions_are_counted():
    method = coverage.METHODS["alita_networks"]
    play = coverage.play_networks(method, 2, 2, coverage.Config(networks_repetitions=2))
    assert play.joint.shape == (coverage.num_steps(4), 2)
    assert play.joint.min() >= 0
    assert play.joint.max() < 4
    assert ((play.entropy > 0) & (play.entropy <= 1)).all()


# The report.


def game(low: float, high: float) -> dict:
    measured = {"mean": (low + high) / 2, "interval": [low, high]}
    keys = ("share_at_m", "share_at_m_ln_m", "full_cover_steps")
    return {"exact": coverage.exact(2, 3), "methods": {"x": dict.fromkeys(keys, measured)}}


def test_a_method_stands_above_or_below_random_only_with_its_whole_interval():
    # Random play: 0.905 after M ln M steps.
    assert coverage.against_random(game(0.91, 0.95), "x") == "above"
    assert coverage.against_random(game(0.89, 0.95), "x") == "no difference"
    assert coverage.against_random(game(0.80, 0.90), "x") == "below"


def test_a_claim_holds_only_where_the_numbers_say_so(monkeypatch):
    claims = [("", coverage.never_above("x"), ["x"]), ("", coverage.always_above("x"), ["x"])]
    monkeypatch.setattr(coverage, "CLAIMS", claims)
    games = {"low": game(0.1, 0.2), "high": game(0.95, 0.96), "absent": {"methods": {}}}
    never, always = coverage.finding(games)
    assert (never["holds"], never["fails"]) == (["low"], ["high"])
    assert (always["holds"], always["fails"]) == (["high"], ["low"])


def test_a_cell_that_is_there_is_not_run_again(results, monkeypatch):
    config = coverage.Config(random_repetitions=11)
    coverage.run("random", 2, 2, config)
    written = pages.read_lines(results / "coverage.jsonl")["random-l2-n2"]
    assert len(written["share_at_m"]) == 11
    assert written["machine"]["torch"] == torch.__version__
    monkeypatch.setattr(coverage, "cell", None)
    coverage.run("random", 2, 2, config)


def test_a_report_of_nothing_is_refused(results):
    with pytest.raises(ValueError, match="no cell"):
        coverage.report(coverage.Config())


def test_the_quick_line_is_json_and_random_play_needs_m_h_m_steps(tmp_path):
    script = tmp_path / "coverage.py"
    script.write_text((ROOT / "benchmarks" / "coverage.py").read_text())
    command = [sys.executable, str(script), "--quick"]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=True, env=environment
    )
    (line,) = done.stdout.splitlines()
    quick = json.loads(line)
    for n, cover_steps in ((2, 25.46), (3, 105.07), (4, 403.20), (5, 1475.58)):
        found = quick[f"n{n}"]
        low, high = found["methods"]["random"]["full_cover_steps"]["interval"]
        assert low <= cover_steps <= high
        assert high - low < 0.06 * cover_steps
        assert found["random_agrees_with_m_h_m"]
    assert set(quick["n2"]["methods"]) >= {"random", "independent", "rnd", "alita"}
    assert list(tmp_path.iterdir()) == [script]
