"""Weights of the influence that are learned in each state, the alpha of Eq. 4."""

from __future__ import annotations

import copy

import pytest
import torch
from constructors import DISCRETE, ENV, partner, touched
from fakes import A, B, N, O, TargetEnv, constant_actor, linear_critic, random_batch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictModuleBase
from torch import nn

from torchrl_alita import (
    InfluenceLoss,
    InfluenceScoreLoss,
    Marginal,
    Team,
    functional,
    make_actor,
    make_critic,
)
from torchrl_alita.modules import InfluenceAttention, make_influence_attention
from torchrl_alita.objectives import Enumerated, InfluenceAttentionLoss, OwnGradient

SEEN = ("agents", "observation")


class Given(TensorDictModuleBase):
    """Attention that is what agent 0 observes first, for agent 1, and 1 for all others."""

    in_keys = [SEEN]
    out_keys = [("agents", "attention")]

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        seen = tensordict[SEEN]
        attention = torch.ones(*seen.shape[:-1], seen.shape[-2])
        attention[..., 1] = seen[..., :1, 0]
        return tensordict.set(self.out_keys[0], attention)


class Equal(Given):
    """The same for all agents, in all states."""

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        seen = tensordict[SEEN]
        return tensordict.set(self.out_keys[0], seen.new_ones(*seen.shape[:-1], seen.shape[-2]))


def attention(env: TargetEnv = ENV) -> InfluenceAttention:
    """One that has learned something."""
    torch.manual_seed(2)
    network = make_influence_attention(env, hidden_size=11)
    nn.init.normal_(network.attention.query.weight, std=3.0)
    return network


def attended(first: list[float]) -> TensorDict:
    batch = random_batch(batch_size=(len(first),))
    batch[SEEN][:, 0, 0] = torch.tensor(first)
    return batch


def test_an_influencers_attention_is_shared_out_among_its_influencees():
    batch = attended([3.0, 0.0, 1.0])
    alone = Team(N, influencers=0, weights=Given()).weights_in(batch)
    expected = torch.tensor([[0.75, 0.25], [0.0, 1.0], [0.5, 0.5]])
    torch.testing.assert_close(alone, expected.unsqueeze(1))
    several = Team(N, influencers=(2, 0), weights=Given()).weights_in(batch)
    torch.testing.assert_close(several[0], torch.tensor([[0.25, 0.75, 0], [0, 0.75, 0.25]]))
    # Nobody to attend to: nobody counts, and nothing is divided by 0.
    only = Team(N, influencers=0, influencees=[1], weights=Given()).weights_in(batch)
    assert only.flatten().tolist() == [1, 0, 1]


def test_each_row_is_weighed_by_its_own_attention():
    """Policies act 0, the batch 1; Q_1 = 6, Q_2 = 12 there: g = -6, -12."""
    weight = torch.ones(N, N, A) * torch.tensor([1.0, 1.0, 2.0]).view(N, 1, 1)
    actor = constant_actor(torch.zeros(N, A))
    team = Team(N, weights=Given())
    loss = InfluenceLoss(actor, partner(actor, linear_critic(weight)), team, reduction="none")
    batch = attended([3.0, 0.0])
    batch["agents", "action"][:] = 1.0
    result = loss(batch)
    expected = 0.1 * torch.tensor([0.75 * 36 + 0.25 * 144, 144.0])
    torch.testing.assert_close(result["loss_influence"], expected)
    torch.testing.assert_close(result["influence"], 10 * expected.mean())
    # dF/da_0 = 2 alpha_1 (-6) 1 + 2 alpha_2 (-12) 2, times lambda.
    result["loss_influence"].sum().backward()
    moved = 0.1 * (2 * 0.75 * -6 + 2 * 0.25 * -24) + 0.1 * 2 * -24
    torch.testing.assert_close(actor.module.action.grad[0], torch.full((A,), moved))
    assert actor.module.action.grad[1:].abs().sum() == 0


@pytest.mark.parametrize("influencers", [1, (2, 0), "all"])
@pytest.mark.parametrize("unit", [None, OwnGradient(decay=0.0)], ids=["return", "own_gradient"])
def test_equal_attention_is_equal_weights(influencers, unit):
    maddpg = partner()

    def update(weights) -> list[torch.Tensor]:
        team = Team(N, influencers=influencers, weights=weights)
        loss = InfluenceLoss(maddpg.actor_network, maddpg, team, unit=copy.deepcopy(unit))
        losses = loss(random_batch())
        params = list(loss.parameters())
        return [losses["influence"], *torch.autograd.grad(losses["loss_influence"], params)]

    torch.testing.assert_close(update(Equal()), update(None))


def scored(weights) -> InfluenceScoreLoss:
    torch.manual_seed(0)
    maddpg = partner(make_actor(DISCRETE, num_cells=(11,)), make_critic(DISCRETE, num_cells=(11,)))
    return InfluenceScoreLoss(
        maddpg.actor_network,
        maddpg,
        Team(N, influencers=1, weights=weights),
        value=Marginal(samples="all"),
        optimum=Enumerated(),
    )


def test_theorem_1_with_equal_attention_is_theorem_1():
    found, steps = [], DISCRETE.rollout(5)
    for weights in (Equal(), None):
        loss = scored(weights)
        losses = loss(steps)
        params = list(loss.parameters())
        found.append([losses["influence"], *torch.autograd.grad(losses["loss_influence"], params)])
    torch.testing.assert_close(*found)


def test_in_theorem_1_a_gap_counts_with_the_weight_that_it_had():
    """The double sum over steps, written out."""
    torch.manual_seed(0)
    steps, gamma = 4, 0.9
    value, gap = torch.randn(steps, 2, 1), torch.randn(steps, 2, 1)
    weights = torch.rand(steps, 1, 2)
    done = torch.tensor([False, True, False, False]).unsqueeze(-1)
    expected = torch.zeros(steps, 1)
    for t in range(steps):
        expected[t] = (weights[t, 0] * gap[t, :, 0] ** 2).sum()
        for k in range(0 if t < 2 else 2, t):
            past = weights[k, 0] * 2 * gap[k, :, 0]
            expected[t] += gamma ** (t - k) * (past * value[t, :, 0]).sum()
    found = functional.influence_score(value, gap, weights, done, gamma)
    torch.testing.assert_close(found, expected)
    same = torch.tensor([0.3, 0.7])
    torch.testing.assert_close(
        functional.influence_score(value, gap, same.expand(steps, 1, 2), done, gamma),
        functional.influence_score(value, gap, same, done, gamma),
    )


@pytest.mark.parametrize("make", [lambda team: (partner(), team, random_batch()), None])
def test_the_influence_trains_no_attention(make):
    network = attention(ENV if make else DISCRETE)
    if make:
        maddpg, team, batch = make(Team(N, influencers="all", weights=network))
        loss = InfluenceLoss(maddpg.actor_network, maddpg, team)
    else:
        loss, batch = scored(network), DISCRETE.rollout(5)
    loss(batch)["loss_influence"].backward()
    assert all(param.grad is None for param in network.parameters())
    assert touched(loss.actor_network_params)
    assert not set(network.parameters()) & set(loss.parameters())


def attention_loss(critic: TensorDictModule | None = None, team=0, **options):
    maddpg = partner(critic=critic)
    return InfluenceAttentionLoss(attention(), maddpg, team, **options), maddpg


def test_the_attention_trains_neither_critics_nor_policies_and_gaps_do_not_occur():
    loss, maddpg = attention_loss(team=(2, 0))
    batch = random_batch()
    before = loss(batch)["loss_attention"]
    before.backward()
    assert touched(loss.attention_network_params)
    assert touched(maddpg.qvalue_network_params) == set()
    assert touched(maddpg.actor_network_params) == set()
    # Other policies have other gaps.
    with torch.no_grad():
        for param in maddpg.actor_network.parameters():
            param.add_(1.0)
    assert float(loss(batch)["loss_attention"].detach()) == float(before.detach())


def test_a_network_that_tells_nothing_has_the_error_1_whatever_the_values_unit():
    batch = random_batch()
    batch["agents", "action"] = torch.randn(B, N, A)
    for scale in (1.0, 1000.0):
        loss, _ = attention_loss(linear_critic(scale * torch.ones(N, N, A)), team=(2, 1))
        with torch.no_grad():
            for key in ("weight", "bias"):
                loss.attention_network_params["decoder", "2", key].zero_()
        assert float(loss(batch)["loss_attention"].detach()) == pytest.approx(1.0, rel=1e-5)


def test_at_the_beginning_all_count_equally():
    network = make_influence_attention(ENV)
    found = Team(N, influencers="all", weights=network).weights_in(random_batch())
    torch.testing.assert_close(found, Team(N, influencers="all").weights.expand(B, -1, -1))


class OfOne(nn.Module):
    """All values are what agent 2 observes first; agent 1 observes noise of the same size."""

    def forward(self, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        value = 100 + 7 * observation[..., 2:, :1]
        return value.expand(*observation.shape[:-1], 1) + 0 * action.sum(-1, keepdim=True)


def test_attention_learns_on_whom_the_influencers_value_depends():
    critic = TensorDictModule(
        OfOne(), in_keys=[SEEN, ("agents", "action")], out_keys=[("agents", "state_action_value")]
    )
    torch.manual_seed(0)
    maddpg = partner(critic=critic)
    network = make_influence_attention(ENV)
    team = Team(N, influencers=0, weights=network)
    loss = InfluenceAttentionLoss(network, maddpg, team)
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-2)
    for step in range(60):
        batch = random_batch(batch_size=(64,), seed=step)
        optimizer.zero_grad()
        losses = loss(batch)
        losses["loss_attention"].backward()
        optimizer.step()
    assert float(losses["loss_attention"].detach()) < 0.1
    assert float(losses["attention"][0, 1]) > 0.9
    torch.testing.assert_close(
        team.weights_in(batch).mean(0), losses["attention"], atol=0.1, rtol=0
    )


def test_a_team_says_that_its_weights_depend_on_the_state():
    network = attention()
    team = Team(N, influencers="all", weights=network)
    assert "InfluenceAttention" in repr(team)
    assert team.attention is network
    assert team.alone(1).attention is network
    assert team == team.among(N)
    assert team.influences_as(Team(N, influencers="all"))
    with pytest.raises(ValueError, match="weights_in"):
        team.weights  # noqa: B018
    assert SEEN in InfluenceLoss(make_actor(ENV), partner(), team).in_keys


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: Team(N, weights=make_critic(ENV)), KeyError, "attention"),
        (lambda: Team(N + 1, weights=attention()).weights_in(random_batch()), ValueError, "4, 4"),
        (
            lambda: Team(N, weights=attention()).weights_in(random_batch().exclude(SEEN)),
            KeyError,
            "observation",
        ),
        (
            lambda: InfluenceAttention(observation_size=O + 1, num_agents=N)(random_batch()),
            ValueError,
            "observation",
        ),
        (lambda: InfluenceAttention(observation_size=O, num_agents=0), ValueError, "num_agents"),
        (lambda: make_influence_attention(ENV, hidden_size=0), ValueError, "hidden_size"),
        (lambda: InfluenceAttentionLoss(make_critic(ENV), partner()), KeyError, "attention"),
        (lambda: attention_loss(team=Team.in_turns()), ValueError, "in_turns"),
        (lambda: attention_loss(reduction="some"), ValueError, "reduction"),
        (lambda: attention_loss(team=Team(N + 1))[0](random_batch()), ValueError, "4 agents"),
        (
            lambda: functional.influence(torch.zeros(B, 2, 1), torch.ones(B + 1, 1, 2)),
            ValueError,
            "weights must have the shape",
        ),
    ],
)
def test_bad_input_has_one_clear_error(call, error, text):
    with pytest.raises(error, match=text):
        call()
