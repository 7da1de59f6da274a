"""Values, gradients and errors of the losses of the influence."""

from __future__ import annotations

import pytest
import torch
from constructors import ENV, partner, stock_partner, touched
from fakes import (
    A,
    B,
    N,
    O,
    TargetEnv,
    constant_actor,
    linear_critic,
    random_batch,
)
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.modules import MultiAgentMLP, PopArtValueNorm, ProbabilisticActor, TanhNormal

from torchrl_alita import (
    AtPolicy,
    Autoencoder,
    BestOf,
    InfluenceEstimatorLoss,
    InfluenceLoss,
    InfluenceScoreLoss,
    Marginal,
    NoveltyLoss,
    TDTarget,
    Team,
    Trained,
    make_actor,
    make_critic,
    make_influence_network,
)
from torchrl_alita.modules import make_influence_attention

SPEC = ENV.full_action_spec_unbatched["agents", "action"]


def hand_made(weight: torch.Tensor, action: torch.Tensor, team=0, **options) -> InfluenceLoss:
    actor = constant_actor(action)
    maddpg = partner(actor, linear_critic(weight))
    return InfluenceLoss(actor, maddpg, team, **options)


def test_the_influence_is_the_weighted_squared_gap_to_the_batchs_better_action():
    """Q_i = sum of all actions, policies act 0: q = 0; the batch acts 1: max Q = 6."""
    loss = hand_made(torch.ones(N, N, A), torch.zeros(N, A), Team(N, weights=[0.25, 0.75]))
    batch = random_batch()
    batch["agents", "action"][:] = 1.0
    result = loss(batch)
    torch.testing.assert_close(result["gap"], torch.tensor([-6.0, -6.0]))
    torch.testing.assert_close(result["influence"], torch.tensor(36.0))
    torch.testing.assert_close(result["loss_influence"], torch.tensor(3.6))


def test_the_gradient_moves_the_influencer_towards_its_teammates_optimum():
    """dF/da_1 = sum_i alpha_i 2 g w_i1 = 2 * (-6) * 1, times lambda 0.1: -1.2 each entry."""
    actor = constant_actor(torch.zeros(N, A))
    loss = InfluenceLoss(actor, partner(actor, linear_critic(torch.ones(N, N, A))), 1)
    batch = random_batch()
    batch["agents", "action"][:] = 1.0
    loss(batch)["loss_influence"].backward()
    expected = torch.zeros(N, A)
    expected[1] = -1.2
    torch.testing.assert_close(actor.module.action.grad, expected)


@pytest.mark.parametrize("source", ["marginal", "clones", "centralized"])
def test_the_influence_trains_the_influencer_and_nobody_else(source):
    maddpg = partner()
    value = Marginal()
    if source != "marginal":
        network = make_influence_network(ENV) if source == "centralized" else None
        estimator = InfluenceEstimatorLoss(maddpg, 2, kind=source, estimator_network=network)
        value = Trained(estimator)
    loss = InfluenceLoss(maddpg.actor_network, maddpg, 2, value=value)
    loss(random_batch())["loss_influence"].backward()
    for param in maddpg.actor_network.parameters():
        assert param.grad[:2].abs().sum() == 0
        assert param.grad[2].abs().sum() > 0
    assert touched(maddpg.qvalue_network_params) == set()
    if source != "marginal":
        assert touched(estimator.estimator_network_params) == set()


def test_without_the_batchs_action_the_marginal_gap_at_the_policy_is_zero():
    """As documented: q at the policies' actions is Q at the policies' actions."""
    loss = partner()
    result = InfluenceLoss(loss.actor_network, loss, optimum=AtPolicy())(random_batch())
    assert result["influence"] == 0


def test_the_optimum_is_never_below_the_policys_value():
    loss = partner()
    result = InfluenceLoss(
        loss.actor_network,
        loss,
        optimum=BestOf(uniform=5, spec=SPEC),
        reduction="none",
    )(random_batch(batch_size=(101,)))
    assert (result["gap"] <= 0).all()


def test_more_uniform_samples_come_closer_to_a_linear_critics_true_optimum():
    """max_u sum of actions in [-1, 1] is 6; the policy and the batch act 0."""
    batch = random_batch(batch_size=(101,))
    batch["agents", "action"][:] = 0.0
    gaps = []
    for count in (1, 8, 512):
        torch.manual_seed(0)
        loss = hand_made(
            torch.ones(N, N, A), torch.zeros(N, A), optimum=BestOf(uniform=count, spec=SPEC)
        )
        gaps.append(float(-loss(batch)["gap"][0]))
    assert gaps[0] < gaps[1] < gaps[2] <= 6.0
    assert gaps[2] > 4.0


def test_the_optimum_at_the_next_state_is_zero_after_a_termination():
    """Q_i = sum of actions = 6 everywhere: the gap is 0, and 6 - 0 where terminated."""
    loss = hand_made(torch.ones(N, N, A), torch.ones(N, A), optimum=AtPolicy(at="next"))
    batch = random_batch()
    batch["next", "terminated"][:] = False
    assert loss(batch)["gap"].tolist() == [0.0, 0.0]
    batch["next", "terminated"][:] = True
    torch.testing.assert_close(loss(batch)["gap"], torch.tensor([6.0, 6.0]))


def value_norm() -> PopArtValueNorm:
    return PopArtValueNorm(shape=1, beta=0.99)


def test_the_normalized_gap_does_not_grow_with_the_reward():
    batch = random_batch(batch_size=(31,))
    results = []
    for scale in (1.0, 100.0):
        torch.manual_seed(1)
        weight = torch.randn(N, N, A) * scale
        loss = hand_made(weight, torch.zeros(N, A), value_norm=value_norm())
        for _ in range(5):
            result = loss(batch)
        results.append(result["influence"])
    torch.testing.assert_close(results[0], results[1], rtol=1e-2, atol=1e-3)


def test_running_statistics_are_frozen_in_evaluation_mode():
    loss = hand_made(torch.ones(N, N, A), torch.zeros(N, A), value_norm=value_norm())
    loss(random_batch())
    before = {k: v.clone() for k, v in loss.value_norm.state_dict().items()}
    loss.eval()
    loss(random_batch(seed=1))
    for name, value in loss.value_norm.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    loss.train()
    loss(random_batch(seed=1))
    assert any((v != before[k]).any() for k, v in loss.value_norm.state_dict().items())


def test_the_gaps_of_all_rows_have_forwards_means_and_teach_the_statistics_nothing():
    torch.manual_seed(1)
    loss = hand_made(torch.randn(N, N, A), torch.zeros(N, A), value_norm=value_norm())
    batch = random_batch(batch_size=(31,))
    loss(batch)
    before = {k: v.clone() for k, v in loss.value_norm.state_dict().items()}
    gaps = loss.gaps(batch)
    assert gaps.shape == (31, N - 1)
    assert loss.training
    for name, value in loss.value_norm.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    loss.eval()
    torch.testing.assert_close(gaps.mean(0), loss(batch)["gap"])


def test_listed_influencees_alone_count():
    """Agent 2, an adversary, has a value of its own that must not matter."""
    weight = torch.ones(N, N, A)
    weight[2] = 1e6
    batch = random_batch()
    batch["agents", "action"][:] = 1.0
    result = hand_made(weight, torch.zeros(N, A), Team(N, influencees=[1]))(batch)
    torch.testing.assert_close(result["influence"], torch.tensor(36.0))
    assert result["gap"].shape == (1,)


@pytest.mark.parametrize("kind", ["marginal", "clones"])
@pytest.mark.parametrize("influencer", range(N))
def test_critics_of_the_influencees_alone_change_no_value_and_no_gradient(influencer, kind):
    """In a sequence the critics cannot leave agents out; the draws of both are the same."""

    def updates(wrap) -> list[torch.Tensor]:
        torch.manual_seed(5)
        actor, critic = make_actor(ENV, num_cells=(11,)), make_critic(ENV, num_cells=(11,))
        maddpg = partner(actor, wrap(critic))
        estimator = InfluenceEstimatorLoss(maddpg, influencer)
        loss = InfluenceLoss(
            actor,
            maddpg,
            influencer,
            value=Marginal() if kind == "marginal" else Trained(estimator),
            optimum=BestOf(uniform=4, spec=SPEC),
        )
        torch.manual_seed(6)
        losses = loss(random_batch())
        total = losses["loss_influence"]
        trained = list(actor.parameters())
        if kind == "clones":
            total = total + estimator(random_batch())["loss_estimator"]
            trained += list(estimator.parameters())
        return [losses["gap"], *torch.autograd.grad(total, trained, allow_unused=True)]

    torch.testing.assert_close(updates(lambda critic: critic), updates(TensorDictSequential))


# The team, and the other arguments.
WITH_SEVERAL = {
    "all": ({}, {}),
    "some": ({"influencers": (2, 0)}, {}),
    "some_influencees": ({"influencers": (2, 1), "influencees": (2, 0, 1)}, {}),
    "an_adversary": ({"influencees": (2, 1), "influencers": (1, 2)}, {}),
    "weights": ({"weights": (0.3, 0.7)}, {}),
    "attention": ({"weights": "attention"}, {}),
    "next": ({}, {"optimum": "next"}),
    "policy": ({}, {"optimum": AtPolicy(at="next")}),
    "td_target": ({}, {"optimum": TDTarget()}),
    "rows": ({}, {"reduction": "none"}),
}


@pytest.mark.parametrize("env", [ENV, TargetEnv(discrete=True)], ids=["continuous", "one_hot"])
@pytest.mark.parametrize("num_critics", [1, 2])
@pytest.mark.parametrize("name", WITH_SEVERAL)
def test_several_influencers_have_the_values_and_the_gradient_of_a_loss_for_each(
    name, num_critics, env
):
    agents, options = WITH_SEVERAL[name]
    if agents.get("weights") == "attention":
        agents = {"weights": make_influence_attention(env)}
        torch.nn.init.normal_(agents["weights"].attention.query.weight)
    team = Team(N, **{"influencers": "all", **agents})
    actor = make_actor(env, num_cells=(11,))
    maddpg = partner(actor, make_critic(env, num_cells=(11,), num_critics=num_critics))
    at = options.get("optimum", "current")
    if at in ("current", "next"):
        spec = env.full_action_spec_unbatched["agents", "action"]
        options = {**options, "optimum": BestOf(uniform=4, spec=spec, at=at)}
    batch = env.rollout(5).reshape(-1)
    batch["collector", "mask"] = torch.arange(len(batch)) != 1

    def update(team: Team) -> tuple[TensorDict, list[torch.Tensor]]:
        torch.manual_seed(6)
        losses = InfluenceLoss(actor, maddpg, team, **options)(batch)
        total = losses["loss_influence"].sum()
        return losses, list(torch.autograd.grad(total, list(actor.parameters())))

    together, gradient = update(team)
    losses, gradients = [], []
    gaps = dict(zip(team.influencees, together["gap"], strict=True))
    for k, value in zip(team.influencers, together["influence"], strict=True):
        alone, own = update(team.alone(k))
        torch.testing.assert_close(value, alone["influence"])
        expected = torch.stack([gaps[i] for i in team.influencees_of(k)])
        torch.testing.assert_close(expected, alone["gap"])
        losses.append(alone["loss_influence"])
        gradients.append(own)
    torch.testing.assert_close(together["loss_influence"], sum(losses))
    torch.testing.assert_close(gradient, [sum(of_each) for of_each in zip(*gradients, strict=True)])
    assert all(one.abs().sum() > 0 for one in gradient)


def test_the_gaps_of_several_influencers_are_normalized_by_one_scale():
    maddpg = partner()
    plain, normalized = (
        InfluenceLoss(maddpg.actor_network, maddpg, (0, 2), value_norm=norm)
        for norm in (None, value_norm())
    )
    expected, result = plain(random_batch()), normalized(random_batch())
    scale = normalized.value_norm.scale().squeeze()
    assert scale != 1
    torch.testing.assert_close(result["gap"] * scale, expected["gap"])
    torch.testing.assert_close(result["influence"] * scale**2, expected["influence"])


def test_several_influencers_move_towards_their_teammates_optima():
    """dF_k/da_k = sum_i alpha_{k,i} 2 g_i w_ik: 2 * (-6) * 1, times lambda 0.1, for each of both.

    A critic that hangs on its own agent alone moves nobody: none influences itself.
    """
    batch = random_batch()
    batch["agents", "action"][:] = 1.0
    for weight, expected in (
        (torch.ones(N, N, A), [0.0, -1.2, -1.2]),
        (torch.eye(N).unsqueeze(-1).expand(N, N, A), [0.0, 0.0, 0.0]),
    ):
        actor = constant_actor(torch.zeros(N, A))
        maddpg = partner(actor, linear_critic(weight))
        InfluenceLoss(actor, maddpg, (1, 2))(batch)["loss_influence"].backward()
        expected = torch.tensor(expected).unsqueeze(-1).expand(N, A)
        torch.testing.assert_close(actor.module.action.grad, expected)


def test_several_influencers_ask_the_critics_as_often_as_one():
    calls = []

    class Counted(nn.Module):
        def forward(self, *seen: torch.Tensor, agents=None) -> torch.Tensor:
            calls.append(seen)
            return critic.module(*seen, agents=agents)

    critic = make_critic(ENV, num_cells=(11,))
    counted = TensorDictModule(Counted(), in_keys=critic.in_keys, out_keys=critic.out_keys)
    maddpg = partner(critic=counted)
    counts = []
    for influencers in (0, "all"):
        calls.clear()
        team = Team(N, influencers=influencers)
        InfluenceLoss(maddpg.actor_network, maddpg, team)(random_batch())
        counts.append(len(calls))
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("samples", [2, "all"])
def test_several_influencers_are_refused_where_they_do_not_see_the_same(samples):
    env = TargetEnv(discrete=True)
    actor, critic = make_actor(env, num_cells=(11,)), make_critic(env, num_cells=(11,))
    maddpg = partner(actor, critic)
    with pytest.raises(ValueError, match=r"Several influencers \[0, 1\] .*a loss for each"):
        InfluenceLoss(actor, maddpg, (0, 1), value=Marginal(samples))
    with pytest.raises(ValueError, match=r"one influencer .*got \(0, 1\)"):
        InfluenceScoreLoss(actor, maddpg, (0, 1))
    InfluenceLoss(actor, maddpg, (0, 1))


def test_several_influencers_are_refused_with_what_is_no_maddpg_and_without_influencees():
    maddpg, stock = partner(), stock_partner("ddpg")
    with pytest.raises(ValueError, match=r"Several influencers .*DDPGLoss"):
        InfluenceLoss(stock.actor_network, stock, (0, 1))
    trained = Trained(InfluenceEstimatorLoss(maddpg))
    with pytest.raises(ValueError, match=r"trained for .*not for .*Team.alone"):
        InfluenceLoss(maddpg.actor_network, maddpg, (0, 1), value=trained)
    with pytest.raises(ValueError, match="influencer 1 is alone"):
        InfluenceLoss(maddpg.actor_network, maddpg, Team(N, influencers=(0, 1), influencees=[1]))


def test_a_policy_that_is_handed_to_both_losses_is_computed_once_with_the_same_gradient():
    torch.manual_seed(0)
    calls = []

    class Counted(nn.Linear):
        def forward(self, seen: torch.Tensor) -> torch.Tensor:
            calls.append(seen)
            return super().forward(seen).tanh()

    keys = {"in_keys": [("agents", "observation")], "out_keys": [("agents", "action")]}
    actor = TensorDictModule(Counted(O, A), **keys)
    maddpg = partner(actor)
    influence = InfluenceLoss(actor, maddpg)
    batch = random_batch()

    def gradient(policy) -> tuple[torch.Tensor, ...]:
        losses = maddpg(batch, policy=policy)
        losses.update(influence(batch, policy=policy))
        total = losses["loss_actor"] + losses["loss_influence"]
        return torch.autograd.grad(total, list(actor.parameters()))

    expected, alone = gradient(None), len(calls)
    calls.clear()
    torch.testing.assert_close(gradient(maddpg.policy(batch)), expected)
    assert len(calls) == alone - 1


def test_a_policy_is_refused_where_its_distribution_is_needed_or_it_has_no_action():
    env = TargetEnv(discrete=True)
    actor, critic = make_actor(env, num_cells=(11,)), make_critic(env, num_cells=(11,))
    maddpg = partner(actor, critic)
    batch = env.rollout(3).reshape(-1)
    policy = maddpg.policy(batch)
    drawn = InfluenceLoss(actor, maddpg, value=Marginal("all"))
    with pytest.raises(ValueError, match=r"goes with samples=1, got 'all'"):
        drawn(batch, policy=policy)
    with pytest.raises(KeyError, match=r"has no .*'agents.*action"):
        InfluenceLoss(actor, maddpg)(batch, policy=policy.exclude(("agents", "action")))


def test_the_marginal_estimate_averages_over_the_others_stochastic_actions():
    """Q_1 = 2 * (a_0 + a_2 first entries)^2-free, linear: E Q is Q at the mean action."""
    torch.manual_seed(0)
    net = MultiAgentMLP(O, 2 * A, N, centralized=False, share_params=False, depth=1, num_cells=7)
    split = nn.Sequential(net, _Split())
    actor = ProbabilisticActor(
        TensorDictModule(
            split,
            in_keys=[("agents", "observation")],
            out_keys=[("agents", "loc"), ("agents", "scale")],
        ),
        in_keys=[("agents", "loc"), ("agents", "scale")],
        out_keys=[("agents", "action")],
        distribution_class=TanhNormal,
        return_log_prob=False,
    )
    weight = torch.zeros(N, N, A)
    weight[1, 2] = 1.0  # agent 1's value hangs on agent 2's action alone
    maddpg = partner(actor, linear_critic(weight))
    batch = random_batch(batch_size=(1,))
    # Nothing follows, so that the target is the reward, and the gap the value.
    batch["next", "agents", "reward"][:] = 0
    batch["next", "terminated"][:] = True
    loss = InfluenceLoss(
        actor,
        maddpg,
        Team(N, influencees=[1]),
        value=Marginal(samples=20_000),
        optimum=TDTarget(),
    )
    torch.manual_seed(1)
    value = loss(batch)["gap"]
    distribution = actor.get_dist(batch.select(("agents", "observation")))
    torch.manual_seed(2)
    expected = distribution.sample((20_000,))[:, 0, 2].sum(-1).mean()
    torch.testing.assert_close(value.squeeze(), expected, rtol=0, atol=0.03)


class _Split(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        loc, scale = x.chunk(2, -1)
        return loc, nn.functional.softplus(scale) + 0.1


def test_the_coefficient_scales_the_loss_and_not_the_logged_influence():
    loss, batch = hand_made(torch.ones(N, N, A), torch.zeros(N, A)), random_batch()
    first = loss(batch)
    loss.influence_coeff = 0.3
    second = loss(batch)
    torch.testing.assert_close(second["loss_influence"], 3 * first["loss_influence"])
    torch.testing.assert_close(second["influence"], first["influence"])


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({"influence_coeff": -0.1}, "-0.1"),
        ({"team": -1}, "-1"),
        ({"team": Team(1)}, "influencer 0 is alone"),
        ({"value": Marginal(4)}, "samples=4"),
        ({"value": Marginal("all")}, "samples='all'"),
        ({"reduction": "median"}, "median"),
    ],
)
def test_the_influence_refuses_what_cannot_be(options, value):
    maddpg = partner()
    with pytest.raises(ValueError, match=value):
        InfluenceLoss(maddpg.actor_network, maddpg, **options)


@pytest.mark.parametrize("part", ["value", "optimum", "value_norm"])
@pytest.mark.parametrize("given", ["sampled", 4, torch.nn.Linear(2, 2)])
def test_what_is_no_part_is_refused_by_its_name(part, given):
    maddpg = partner()
    with pytest.raises(TypeError, match=part):
        InfluenceLoss(maddpg.actor_network, maddpg, **{part: given})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Marginal(samples=0), "0"),
        (lambda: Marginal(samples="every"), "every"),
        (lambda: Marginal(budget=0), "0"),
        (lambda: Trained(InfluenceEstimatorLoss(partner()), samples=0), "0"),
    ],
)
def test_an_influenced_value_refuses_what_cannot_be(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_score_needs_a_stochastic_actor_and_the_optimum_at_the_current_state():
    maddpg = partner()
    with pytest.raises(ValueError, match="stochastic actor"):
        InfluenceScoreLoss(maddpg.actor_network, maddpg)
    env = TargetEnv(discrete=True)
    maddpg = partner(make_actor(env, num_cells=(11,)), make_critic(env, num_cells=(11,)))
    for optimum in (AtPolicy(at="next"), TDTarget()):
        with pytest.raises(ValueError, match="at the current state"):
            InfluenceScoreLoss(maddpg.actor_network, maddpg, optimum=optimum)


@pytest.mark.parametrize("team", [3, Team(N + 2), Team(N + 2, influencees=[1, 4])])
def test_a_team_of_other_agents_is_an_error_with_both_numbers(team):
    maddpg = partner()
    number = 3 if team == 3 else N + 2
    for loss in (
        InfluenceLoss(maddpg.actor_network, maddpg, team),
        InfluenceEstimatorLoss(maddpg, team),
    ):
        with pytest.raises(ValueError, match=f"{number}.*{N}|{N}.*{number}"):
            loss(random_batch())


def test_an_estimator_that_is_trained_for_another_team_or_partner_is_refused():
    maddpg = partner()
    estimator = InfluenceEstimatorLoss(maddpg, Team(N, influencees=[2]))
    with pytest.raises(ValueError, match="trained for"):
        InfluenceLoss(maddpg.actor_network, maddpg, value=Trained(estimator))
    with pytest.raises(ValueError, match="trained for"):
        InfluenceLoss(maddpg.actor_network, maddpg, 1, value=Trained(estimator))
    other = Trained(InfluenceEstimatorLoss(partner()))
    with pytest.raises(ValueError, match="another partner"):
        InfluenceLoss(maddpg.actor_network, maddpg, value=other)


def test_a_partner_without_critics_is_refused():
    with pytest.raises(ValueError, match="NoveltyLoss"):
        InfluenceLoss(make_actor(ENV), NoveltyLoss(Autoencoder(O + A)))


# TorchRL's own losses as partners


@pytest.mark.parametrize("name", ["ddpg", "td3"])
@pytest.mark.parametrize("clones", [False, True])
def test_torchrls_own_losses_serve_as_partners(name, clones):
    stock, batch = stock_partner(name), random_batch()
    terminated = batch["next", "terminated"].unsqueeze(-2).expand(B, N, 1)
    batch["next", "agents", "terminated"] = terminated
    value = Marginal()
    if clones:
        estimator = InfluenceEstimatorLoss(stock, 1, kind="clones")
        estimator(batch)["loss_estimator"].backward()
        assert all(p.grad is not None for p in estimator.parameters())
        value = Trained(estimator)
    loss = InfluenceLoss(stock.actor_network, stock, 1, value=value)
    loss(batch)["loss_influence"].backward()
    grads = [p.grad for p in stock.actor_network.parameters()]
    assert all(g[1].abs().sum() > 0 and g[0].abs().sum() == 0 for g in grads)


def test_a_partner_that_tells_no_gamma_needs_one():
    stock = stock_partner("ddpg")
    InfluenceEstimatorLoss(stock, kind="clones")
    stock._value_estimator = None
    with pytest.raises(ValueError, match="None"):
        InfluenceEstimatorLoss(stock, kind="clones")
    InfluenceEstimatorLoss(stock, kind="clones", gamma=0.5)
