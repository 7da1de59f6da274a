"""Who influences whom, with which weights, and who is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from fakes import N, TargetEnv

from torchrl_alita import Team


def test_by_default_the_first_agent_influences_all_others_equally():
    team = Team(TargetEnv())
    assert team.num_agents == N
    assert (team.influencers, team.influencees) == ((0,), (1, 2))
    torch.testing.assert_close(team.weights, torch.tensor([[0.5, 0.5]]))


def test_of_several_influencers_each_leaves_itself_out():
    team = Team(5, influencers=[3, 1], influencees=[1, 4, 3])
    assert team.influencees == (1, 4, 3)
    assert team.influencees_of(3) == (1, 4)
    assert team.influencees_of(1) == (4, 3)
    torch.testing.assert_close(team.weights, torch.tensor([[0.5, 0.5, 0], [0, 0.5, 0.5]]))


def test_given_weights_are_in_the_order_of_each_influencers_influencees():
    team = Team(4, influencers="all", weights=[0.5, 0.3, 0.2])
    expected = [[0, 0.5, 0.3, 0.2], [0.5, 0, 0.3, 0.2], [0.5, 0.3, 0, 0.2], [0.5, 0.3, 0.2, 0]]
    weights = team.weights_like(torch.zeros((), dtype=torch.float64))
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float64), atol=0, rtol=0)


@pytest.mark.parametrize("options", [{}, {"weights": [0.9, 0.1]}, {"influencees": [0, 2]}])
def test_one_of_several_influencers_has_its_own_row_of_the_weights(options):
    team = Team(3, influencers=[1, 0] if "influencees" in options else "all", **options)
    for row, k in zip(team.weights, team.influencers, strict=True):
        alone = team.alone(k)
        assert alone.influencers == (k,)
        shown = [team.influencees.index(i) for i in alone.influencees]
        torch.testing.assert_close(alone.weights[0], row[shown])


def test_a_random_influencer_follows_torchs_generator_and_varies():
    drawn = []
    for seed in (0, 0, *range(1, 20)):
        torch.manual_seed(seed)
        drawn.append(Team(3, influencers="random").influencers)
    assert drawn[0] == drawn[1]
    assert set(drawn) == {(0,), (1,), (2,)}


def test_an_index_in_place_of_a_team_is_one_of_the_batchs_agents():
    team = Team.of(1)
    assert team.among(3) == Team(3, influencers=1)
    assert team.among(4).influencees == (0, 2, 3)
    assert Team.of(team) is team
    with pytest.raises(ValueError, match="below the number of agents, 3, got 5"):
        Team.of(5).among(3)


def test_in_turns_the_lone_agent_influences_the_lone_agent():
    team = Team.in_turns()
    assert team.acts_in_turns
    assert (team.influencers, team.influencees) == ((0,), (0,))
    assert team.weights.tolist() == [[1.0]]
    with pytest.raises(ValueError, match="1 agents at a time, the batch has 3"):
        team.among(3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"influencers": 3}, "influencers .*3, got 3"),
        ({"influencers": -1}, "-1"),
        ({"influencers": []}, r"\[\]"),
        ({"influencers": [1, 1]}, r"\[1, 1\]"),
        ({"influencers": "some"}, "some"),
        ({"influencees": [1, 7]}, "influencees .*3, got 7"),
        ({"influencees": [0, 1]}, "influencer 0 cannot be among"),
        ({"weights": [0.7, 0.7]}, "sum to 1"),
        ({"weights": [1.5, -0.5]}, "positive"),
        ({"weights": [1.0]}, "weights must be 2"),
        ({"influencers": [0, 1], "influencees": [1, 2], "weights": [0.5, 0.5]}, "must be 1"),
    ],
)
def test_a_team_refuses_what_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        Team(3, **options)


def test_who_is_alone_can_be_novel_but_influences_nobody():
    team = Team(1)
    assert team.influencees == ()
    with pytest.raises(ValueError, match="influencer 0 is alone"):
        team.check_influencees()


def test_teams_of_the_same_agents_are_equal_and_influence_alike_whatever_the_weights():
    team = Team(3, influencees=[1, 2])
    assert team == copy.deepcopy(team)
    assert hash(team) == hash(copy.deepcopy(team))
    assert team != Team(3, influencees=[1, 2], weights=[0.6, 0.4])
    assert team.influences_as(Team(3, weights=[0.6, 0.4]))
    assert team.influences_as(Team.of(0))
    assert not team.influences_as(Team.of(1))
    assert not team.influences_as(Team(3, influencees=[1]))
    assert not team.influences_as(Team(4))
    assert not Team(1).influences_as(Team.in_turns())
