"""Values, gradients and errors of the losses."""

from __future__ import annotations

import pytest
import torch
from fakes import (
    A,
    B,
    N,
    O,
    TargetEnv,
    constant_actor,
    linear_critic,
    random_batch,
    table_actor,
    table_critic,
)
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.data import OneHot
from torchrl.modules import MultiAgentMLP, ProbabilisticActor, TanhNormal
from torchrl.objectives import DDPGLoss, SoftUpdate, TD3Loss, ValueEstimators

from torchrl_alita import (
    MADDPG,
    Autoencoder,
    InfluenceEstimatorLoss,
    InfluenceLoss,
    MADDPGLoss,
    NoveltyLoss,
    make_actor,
    make_critic,
    make_influence_network,
)
from torchrl_alita.objectives.optimum import (
    best_candidate,
    coordinate_ascent,
    enumerate_joint_actions,
)

ENV = TargetEnv()
GAMMA = 0.9


def partner(actor=None, critic=None, **kwargs) -> MADDPGLoss:
    torch.manual_seed(5)
    actor = make_actor(ENV, num_cells=(11,)) if actor is None else actor
    critic = make_critic(ENV, num_cells=(11,)) if critic is None else critic
    loss = MADDPGLoss(actor, critic, gamma=GAMMA, **kwargs)
    SoftUpdate(loss, tau=0.5)
    return loss


def touched(params) -> set[str]:
    """Names of the parameters with a gradient other than zero."""
    return {
        ".".join(key)
        for key, value in params.items(True, True)
        if value.requires_grad and value.grad is not None and value.grad.abs().sum() > 0
    }


def weights_of(loss: MADDPGLoss, name: str) -> set[str]:
    params = getattr(loss, f"{name}_params")
    return {".".join(key) for key, value in params.items(True, True) if value.requires_grad}


# MADDPG


def test_the_actors_loss_trains_the_actors_alone():
    loss = partner()
    loss(random_batch())["loss_actor"].backward()
    assert touched(loss.actor_network_params) == weights_of(loss, "actor_network")
    assert touched(loss.qvalue_network_params) == set()


def test_the_critics_loss_trains_the_critics_alone():
    loss = partner()
    loss(random_batch())["loss_qvalue"].backward()
    assert touched(loss.qvalue_network_params) == weights_of(loss, "qvalue_network")
    assert touched(loss.actor_network_params) == set()


@pytest.mark.parametrize("others_actions", ["buffer", "policy"])
def test_the_actors_gradient_is_that_of_a_loop_over_the_agents(others_actions):
    """Agent by agent: its own fresh action in its own critic, the others' held."""
    loss, batch = partner(others_actions=others_actions), random_batch()
    loss(batch)["loss_actor"].backward()
    result = [p.grad.clone() for p in loss.actor_network.parameters()]
    reference = [torch.zeros_like(g) for g in result]
    for agent in range(N):
        loss.zero_grad()
        fresh = loss.actor_network(batch.select(("agents", "observation")))["agents", "action"]
        held = batch["agents", "action"] if others_actions == "buffer" else fresh.detach()
        joint = held.clone()
        joint[:, agent] = fresh[:, agent]
        inputs = batch.select(("agents", "observation")).set(("agents", "action"), joint)
        values = loss.qvalue_network(inputs)["agents", "state_action_value"]
        (-values[:, agent].mean()).backward()
        for total, param in zip(reference, loss.actor_network.parameters(), strict=True):
            total += param.grad
    for own, expected in zip(result, reference, strict=True):
        torch.testing.assert_close(own, expected)


def test_an_agent_climbs_its_own_value_even_where_its_teammates_lose_by_it():
    """Q_i = a_i - 2 (what the others do): each climbs by 1; all critics together fall by 3.

    TorchRL's DDPGLoss on one group feeds every fresh action to every critic and has the
    second gradient.
    """
    weight = torch.full((N, N, A), -2.0)
    weight[torch.arange(N), torch.arange(N)] = 1.0
    actor = constant_actor(torch.zeros(N, A))
    loss, batch = partner(actor, linear_critic(weight)), random_batch()
    loss(batch)["loss_actor"].backward()
    torch.testing.assert_close(actor.module.action.grad, torch.full((N, A), -1.0))
    actor.zero_grad()
    fresh = actor(batch.select(("agents", "observation")))
    (-loss.qvalue_network(fresh)["agents", "state_action_value"].sum(-2).mean()).backward()
    torch.testing.assert_close(actor.module.action.grad, torch.full((N, A), 3.0))


def test_a_terminal_reward_of_1000_reaches_the_target():
    batch = random_batch()
    batch["next", "terminated"][:] = True
    batch["next", "agents", "reward"][:] = 1000.0
    loss = partner(critic=linear_critic(torch.zeros(N, N, A)))
    losses = loss(batch)
    assert losses["target_value"] == 1000.0
    assert losses["loss_qvalue"] == N * 1000.0**2


def test_a_time_limit_bootstraps():
    """Done without terminated: r + gamma Q, here 0 + 0.9 * (2 agents' actions of 1)."""
    batch = random_batch()
    batch["next", "agents", "reward"][:] = 0
    batch["next", "done"][:] = True
    batch["next", "terminated"][:] = False
    critic = linear_critic(torch.ones(N, N, A))
    losses = partner(constant_actor(torch.ones(N, A)), critic)(batch)
    torch.testing.assert_close(losses["target_value"], torch.tensor(GAMMA * N * A))


def test_two_critics_bootstrap_from_their_least():
    critic = make_critic(ENV, num_cells=(11,), num_critics=2)
    loss, batch = partner(critic=critic), random_batch()
    batch["next", "terminated"][:] = False
    following = TensorDict({"agents": {"observation": batch["next", "agents", "observation"]}}, [B])
    following = loss.actor_network(following)
    values = critic(following)["agents", "state_action_value"].amin(-1, keepdim=True)
    expected = batch["next", "agents", "reward"] + GAMMA * values
    torch.testing.assert_close(loss(batch)["target_value"], expected.mean())


def test_target_smoothing_keeps_actions_in_their_range_and_adds_noise():
    loss = partner(policy_noise=5.0, noise_clip=0.5)
    action = torch.full((B, N, A), 0.8)
    smoothed = loss.smooth_target_action(action)
    assert smoothed.max() <= 1
    assert smoothed.min() >= 0.3 - 1e-6
    assert smoothed.unique().numel() > 2


def test_targets_move_by_tau_and_not_by_gradient():
    torch.manual_seed(5)
    loss = MADDPGLoss(make_actor(ENV), make_critic(ENV))
    updater = SoftUpdate(loss, tau=0.25)
    before = loss.target_qvalue_network_params.clone()
    for param in loss.qvalue_network_params.parameters():
        param.data.add_(1)
    updater.step()
    for key, value in loss.target_qvalue_network_params.items(True, True):
        if value.is_floating_point() and key[-1] in ("weight", "bias"):
            torch.testing.assert_close(value.data, before[key].data + 0.25)


def test_priority_weights_scale_the_critics_loss():
    loss, batch = partner(), random_batch()
    plain = loss(batch)["loss_qvalue"]
    weighted = loss(batch.clone().set("priority_weight", torch.full((B,), 3.0)))["loss_qvalue"]
    torch.testing.assert_close(weighted, plain)  # a weighted mean is over the weights' sum
    first_only = torch.zeros(B).index_fill(0, torch.tensor([0]), 1.0)
    alone = loss(batch.clone().set("priority_weight", first_only))["loss_qvalue"]
    torch.testing.assert_close(alone, loss(batch[:1])["loss_qvalue"])


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({"gamma": 1.5}, "1.5"),
        ({"gamma": -0.1}, "-0.1"),
        ({"others_actions": "mean"}, "mean"),
        ({"policy_noise": -1.0}, "-1.0"),
    ],
)
def test_maddpg_refuses_what_is_out_of_range(options, value):
    with pytest.raises(ValueError, match=value):
        MADDPGLoss(make_actor(ENV), make_critic(ENV), **options)


# Novelty


def test_the_novelty_loss_trains_the_influencers_autoencoder_alone():
    autoencoder = Autoencoder(O + A, num_influencers=2)
    loss, batch = NoveltyLoss(autoencoder, influencer=(0, 2)), random_batch()
    losses = loss(batch)
    inputs = torch.cat([batch["agents", "observation"], batch["agents", "action"]], -1)[:, [0, 2]]
    expected = (autoencoder(inputs) - inputs).square().sum((-1, -2)).mean()
    torch.testing.assert_close(losses["loss_novelty"], expected)
    losses["loss_novelty"].backward()
    assert all(p.grad.abs().sum() > 0 for n, p in loss.named_parameters() if n.endswith("bias"))


def test_training_the_autoencoder_makes_what_it_saw_less_novel():
    torch.manual_seed(0)
    loss, batch = NoveltyLoss(Autoencoder(O + A)), random_batch(batch_size=(64,))
    optimizer = torch.optim.Adam(loss.parameters(), lr=3e-3)
    first = loss(batch)["loss_novelty"].item()
    for _ in range(150):
        optimizer.zero_grad()
        loss(batch)["loss_novelty"].backward()
        optimizer.step()
    assert loss(batch)["loss_novelty"].item() < 0.5 * first


# Estimators


@pytest.mark.parametrize("kind", ["clones", "centralized"])
def test_the_estimator_loss_trains_the_estimator_alone(kind):
    maddpg = partner()
    network = make_influence_network(ENV) if kind == "centralized" else None
    loss = InfluenceEstimatorLoss(maddpg, kind=kind, estimator_network=network)
    loss(random_batch())["loss_estimator"].backward()
    assert touched(loss.estimator_network_params)
    assert touched(maddpg.qvalue_network_params) == set()
    assert touched(maddpg.actor_network_params) == set()


def test_the_partner_is_borrowed_not_owned():
    loss = InfluenceEstimatorLoss(partner(), kind="clones")
    assert all(name.startswith("estimator_network_params") for name, _ in loss.named_parameters())
    influence = InfluenceLoss(loss.critics.actor_network, loss)
    assert not any("qvalue" in name or "estimator" in name for name in influence.state_dict())


def test_clones_start_as_the_critics_drift_by_training_and_come_back():
    maddpg, batch = partner(), random_batch()
    loss = InfluenceEstimatorLoss(maddpg, kind="clones")

    def difference() -> float:
        return max(
            float((clone.data - maddpg.qvalue_network_params[key].data).abs().max())
            for key, clone in loss.estimator_network_params.items(True, True)
            if clone.is_floating_point()
        )

    assert difference() == 0
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.1)
    loss(batch)["loss_estimator"].backward()
    optimizer.step()
    assert difference() > 0.05
    loss.reset_clones()
    assert difference() == 0


def test_clones_leave_the_influencers_own_value_untrained():
    maddpg = partner(critic=linear_critic(torch.ones(N, N, A)))
    loss = InfluenceEstimatorLoss(maddpg, kind="clones", influencer=1)
    loss(random_batch())["loss_estimator"].backward()
    (grad,) = [p.grad for p in loss.parameters()]
    assert grad[1].abs().sum() == 0
    assert grad[0].abs().sum() > 0
    assert grad[2].abs().sum() > 0


def test_the_estimators_target_is_the_influencees_reward_and_next_value():
    """Clones of a critic of zeros: the loss is the squared target, r + 0.9 * 0."""
    batch = random_batch()
    maddpg = partner(critic=linear_critic(torch.zeros(N, N, A)))
    loss = InfluenceEstimatorLoss(maddpg, kind="clones", influencer=0)(batch)
    expected = batch["next", "agents", "reward"][:, 1:].square().sum((-1, -2)).mean()
    torch.testing.assert_close(loss["loss_estimator"], expected)


def test_only_clones_can_be_reset():
    loss = InfluenceEstimatorLoss(
        partner(), kind="centralized", estimator_network=make_influence_network(ENV)
    )
    with pytest.raises(ValueError, match="centralized"):
        loss.reset_clones()


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({"kind": "marginal"}, "marginal"),
        ({"kind": "centralized"}, "centralized"),
        ({"gamma": 2.0}, "2.0"),
        ({"influencer": -1}, "-1"),
        ({"influencer": 1, "influencees": [0, 1]}, "influencer 1"),
        ({"influencees": [1, 1]}, r"\[1, 1\]"),
    ],
)
def test_an_estimator_refuses_what_cannot_be(options, value):
    with pytest.raises(ValueError, match=value):
        InfluenceEstimatorLoss(partner(), **options)


# Influence


def hand_made(weight: torch.Tensor, action: torch.Tensor, **options) -> InfluenceLoss:
    actor = constant_actor(action)
    maddpg = partner(actor, linear_critic(weight))
    return InfluenceLoss(actor, maddpg, **options)


def test_the_influence_is_the_weighted_squared_gap_to_the_batchs_better_action():
    """Q_i = sum of all actions, policies act 0: q = 0; the batch acts 1: max Q = 6."""
    loss = hand_made(torch.ones(N, N, A), torch.zeros(N, A), weights=[0.25, 0.75])
    batch = random_batch()
    batch["agents", "action"][:] = 1.0
    result = loss(batch)
    torch.testing.assert_close(result["gap"], torch.tensor([-6.0, -6.0]))
    torch.testing.assert_close(result["influence"], torch.tensor(36.0))
    torch.testing.assert_close(result["loss_influence"], torch.tensor(3.6))


def test_the_gradient_moves_the_influencer_towards_its_teammates_optimum():
    """dF/da_1 = sum_i alpha_i 2 g w_i1 = 2 * (-6) * 1, times lambda 0.1: -1.2 each entry."""
    actor = constant_actor(torch.zeros(N, A))
    loss = InfluenceLoss(actor, partner(actor, linear_critic(torch.ones(N, N, A))), influencer=1)
    batch = random_batch()
    batch["agents", "action"][:] = 1.0
    loss(batch)["loss_influence"].backward()
    expected = torch.zeros(N, A)
    expected[1] = -1.2
    torch.testing.assert_close(actor.module.action.grad, expected)


@pytest.mark.parametrize("source", ["marginal", "clones", "centralized"])
def test_the_influence_trains_the_influencer_and_nobody_else(source):
    maddpg = partner()
    estimator = maddpg
    if source != "marginal":
        network = make_influence_network(ENV) if source == "centralized" else None
        estimator = InfluenceEstimatorLoss(
            maddpg, kind=source, estimator_network=network, influencer=2
        )
    loss = InfluenceLoss(maddpg.actor_network, estimator, influencer=2)
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
    result = InfluenceLoss(loss.actor_network, loss, optimum="policy")(random_batch())
    assert result["influence"] == 0


def test_the_optimum_is_never_below_the_policys_value():
    loss = partner()
    result = InfluenceLoss(
        loss.actor_network,
        loss,
        num_optimum_samples=5,
        action_spec=ENV.full_action_spec_unbatched["agents", "action"],
        reduction="none",
    )(random_batch(batch_size=(101,)))
    assert (result["gap"] <= 0).all()


def test_more_uniform_samples_come_closer_to_a_linear_critics_true_optimum():
    """max_u sum of actions in [-1, 1] is 6; the policy and the batch act 0."""
    batch = random_batch(batch_size=(101,))
    batch["agents", "action"][:] = 0.0
    spec = ENV.full_action_spec_unbatched["agents", "action"]
    gaps = []
    for count in (1, 8, 512):
        torch.manual_seed(0)
        loss = hand_made(
            torch.ones(N, N, A), torch.zeros(N, A), num_optimum_samples=count, action_spec=spec
        )
        gaps.append(float(-loss(batch)["gap"][0]))
    assert gaps[0] < gaps[1] < gaps[2] <= 6.0
    assert gaps[2] > 4.0


def test_the_optimum_at_the_next_state_is_zero_after_a_termination():
    """Q_i = sum of actions = 6 everywhere: the gap is 0, and 6 - 0 where terminated."""
    loss = hand_made(torch.ones(N, N, A), torch.ones(N, A), optimum="policy", optimum_at="next")
    batch = random_batch()
    batch["next", "terminated"][:] = False
    assert loss(batch)["gap"].tolist() == [0.0, 0.0]
    batch["next", "terminated"][:] = True
    torch.testing.assert_close(loss(batch)["gap"], torch.tensor([6.0, 6.0]))


def test_the_normalized_gap_does_not_grow_with_the_reward():
    batch = random_batch(batch_size=(31,))
    results = []
    for scale in (1.0, 100.0):
        torch.manual_seed(1)
        weight = torch.randn(N, N, A) * scale
        loss = hand_made(weight, torch.zeros(N, A), normalize=True)
        for _ in range(5):
            result = loss(batch)
        results.append(result["influence"])
    torch.testing.assert_close(results[0], results[1], rtol=1e-2, atol=1e-3)


def test_running_statistics_are_frozen_in_evaluation_mode():
    loss = hand_made(torch.ones(N, N, A), torch.zeros(N, A), normalize=True)
    loss(random_batch())
    before = {k: v.clone() for k, v in loss.value_norm.state_dict().items()}
    loss.eval()
    loss(random_batch(seed=1))
    for name, value in loss.value_norm.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    loss.train()
    loss(random_batch(seed=1))
    assert any((v != before[k]).any() for k, v in loss.value_norm.state_dict().items())


def test_listed_influencees_alone_count():
    """Agent 2, an adversary, has a value of its own that must not matter."""
    weight = torch.ones(N, N, A)
    weight[2] = 1e6
    batch = random_batch()
    batch["agents", "action"][:] = 1.0
    result = hand_made(weight, torch.zeros(N, A), influencees=[1])(batch)
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
        estimator = (
            maddpg if kind == "marginal" else InfluenceEstimatorLoss(maddpg, influencer=influencer)
        )
        loss = InfluenceLoss(
            actor,
            estimator,
            influencer=influencer,
            num_optimum_samples=4,
            action_spec=ENV.full_action_spec_unbatched["agents", "action"],
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


WITH_SEVERAL = {
    "all": {},
    "some": {"influencer": (2, 0)},
    "some_influencees": {"influencer": (2, 1), "influencees": (2, 0, 1)},
    "an_adversary": {"influencees": (2, 1), "influencer": (1, 2)},
    "weights": {"weights": (0.3, 0.7)},
    "next": {"optimum_at": "next"},
    "policy": {"optimum": "policy", "optimum_at": "next"},
    "td_target": {"optimum": "td_target"},
    "rows": {"reduction": "none"},
}


@pytest.mark.parametrize("env", [ENV, TargetEnv(discrete=True)], ids=["continuous", "one_hot"])
@pytest.mark.parametrize("num_critics", [1, 2])
@pytest.mark.parametrize("name", WITH_SEVERAL)
def test_several_influencers_have_the_values_and_the_gradient_of_a_loss_for_each(
    name, num_critics, env
):
    options = {"influencer": range(N), **WITH_SEVERAL[name]}
    influencers, asked = options.pop("influencer"), options.pop("influencees", None)
    actor = make_actor(env, num_cells=(11,))
    maddpg = partner(actor, make_critic(env, num_cells=(11,), num_critics=num_critics))
    if "optimum" not in options:
        spec = env.full_action_spec_unbatched["agents", "action"]
        options |= {"num_optimum_samples": 4, "action_spec": spec}
    batch = env.rollout(5).reshape(-1)
    batch["collector", "mask"] = torch.arange(len(batch)) != 1

    def update(**agents) -> tuple[TensorDict, list[torch.Tensor]]:
        torch.manual_seed(6)
        losses = InfluenceLoss(actor, maddpg, **agents, **options)(batch)
        total = losses["loss_influence"].sum()
        return losses, list(torch.autograd.grad(total, list(actor.parameters())))

    together, gradient = update(influencer=influencers, influencees=asked)
    losses, gradients = [], []
    gaps = dict(zip(asked or range(N), together["gap"], strict=True))
    for k, value in zip(influencers, together["influence"], strict=True):
        team = [agent for agent in asked or range(N) if agent != k]
        alone, own = update(influencer=k, influencees=team)
        torch.testing.assert_close(value, alone["influence"])
        torch.testing.assert_close(torch.stack([gaps[i] for i in team]), alone["gap"])
        losses.append(alone["loss_influence"])
        gradients.append(own)
    torch.testing.assert_close(together["loss_influence"], sum(losses))
    torch.testing.assert_close(gradient, [sum(of_each) for of_each in zip(*gradients, strict=True)])
    assert all(one.abs().sum() > 0 for one in gradient)


def test_the_gaps_of_several_influencers_are_normalized_by_one_scale():
    maddpg = partner()
    plain, normalized = (
        InfluenceLoss(maddpg.actor_network, maddpg, influencer=(0, 2), normalize=normalize)
        for normalize in (False, True)
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
        InfluenceLoss(actor, maddpg, influencer=(1, 2))(batch)["loss_influence"].backward()
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
    for influencer in (0, range(N)):
        calls.clear()
        InfluenceLoss(maddpg.actor_network, maddpg, influencer=influencer)(random_batch())
        counts.append(len(calls))
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize(
    "options",
    [
        {"num_action_samples": 2},
        {"num_action_samples": "all"},
        {"gradient": "score"},
    ],
)
def test_several_influencers_are_refused_where_they_do_not_see_the_same(options):
    env = TargetEnv(discrete=True)
    actor, critic = make_actor(env, num_cells=(11,)), make_critic(env, num_cells=(11,))
    maddpg = partner(actor, critic)
    with pytest.raises(ValueError, match=r"Several influencers \[0, 1\] .*a loss for each"):
        InfluenceLoss(actor, maddpg, influencer=(0, 1), **options)
    InfluenceLoss(actor, maddpg, influencer=(0, 1))


def test_several_influencers_are_refused_with_what_is_no_maddpg_and_without_influencees():
    maddpg = partner()
    with pytest.raises(ValueError, match=r"Several influencers .*InfluenceEstimatorLoss"):
        InfluenceLoss(maddpg.actor_network, InfluenceEstimatorLoss(maddpg), influencer=(0, 1))
    with pytest.raises(ValueError, match="influencees must be distinct agents"):
        InfluenceLoss(maddpg.actor_network, maddpg, influencer=(0, 1), influencees=[1])
    with pytest.raises(ValueError, match=r"weights must be 1, .* got \[0.5, 0.5\]"):
        InfluenceLoss(
            maddpg.actor_network,
            maddpg,
            influencer=(0, 1),
            influencees=[1, 2],
            weights=[0.5, 0.5],
        )


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
    drawn = InfluenceLoss(actor, maddpg, num_action_samples="all")
    with pytest.raises(ValueError, match=r"goes with gradient='pathwise'.*got .*'all'"):
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
    loss = InfluenceLoss(
        actor, maddpg, optimum="policy", influencees=[1], num_action_samples=20_000
    )
    torch.manual_seed(1)
    value = loss._influenced_value(batch, loss._policy(batch), [1])
    distribution = actor.get_dist(batch.select(("agents", "observation")))
    torch.manual_seed(2)
    expected = distribution.sample((20_000,))[:, 0, 2].sum(-1).mean()
    torch.testing.assert_close(value[0, 0, 0], expected, rtol=0, atol=0.03)


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
        ({"optimum": "best"}, "best"),
        ({"optimum_at": "last"}, "last"),
        ({"influence_coeff": -0.1}, "-0.1"),
        ({"influencer": -1}, "-1"),
        ({"influencer": 0, "influencees": [0, 1]}, "influencer 0"),
        ({"weights": [0.7, 0.7]}, "0.7"),
        ({"weights": [1.5, -0.5]}, "-0.5"),
        ({"weights": [1.0], "influencees": [1, 2]}, r"\[1.0\]"),
        ({"num_optimum_samples": 4}, "4"),
        ({"num_optimum_samples": -1}, "-1"),
        ({"num_action_samples": 4}, "4"),
        ({"num_action_samples": 0}, "0"),
        ({"num_action_samples": "every"}, "every"),
        ({"num_action_samples": "all"}, "all"),
        ({"enumeration_budget": 0}, "0"),
        ({"gradient": "natural"}, "natural"),
        ({"gradient": "score"}, "score"),
        ({"gradient": "score", "optimum_at": "next"}, "next"),
    ],
)
def test_the_influence_refuses_what_cannot_be(options, value):
    maddpg = partner()
    with pytest.raises(ValueError, match=value):
        InfluenceLoss(maddpg.actor_network, maddpg, **options)


@pytest.mark.parametrize("agents", [{"influencer": 3}, {"influencees": [1, 7]}])
def test_an_agent_that_the_batch_lacks_is_an_error_with_both_numbers(agents):
    maddpg = partner()
    number = agents.get("influencer", 7)
    for loss in (
        InfluenceLoss(maddpg.actor_network, maddpg, **agents),
        InfluenceEstimatorLoss(maddpg, **agents),
    ):
        with pytest.raises(ValueError, match=f"{N}.*{number}"):
            loss(random_batch())


def test_as_many_weights_as_influencees_are_asked_for():
    maddpg = partner()
    loss = InfluenceLoss(maddpg.actor_network, maddpg, weights=[0.2, 0.3, 0.5])
    with pytest.raises(ValueError, match="3"):
        loss(random_batch())


@pytest.mark.parametrize("agents", [{"influencer": 1}, {"influencees": [2]}])
def test_an_estimator_that_is_trained_for_other_agents_is_refused(agents):
    maddpg = partner()
    estimator = InfluenceEstimatorLoss(maddpg, **agents)
    with pytest.raises(ValueError, match="trained for"):
        InfluenceLoss(maddpg.actor_network, estimator)


def test_a_partner_without_critics_is_refused():
    with pytest.raises(ValueError, match="NoveltyLoss"):
        InfluenceLoss(make_actor(ENV), NoveltyLoss(Autoencoder(O + A)))


# TorchRL's own losses as partners


def stock_partner(name: str):
    torch.manual_seed(7)
    actor = make_actor(ENV, num_cells=(11,))
    net = MultiAgentMLP(O + A, 1, N, centralized=True, share_params=False, depth=1, num_cells=11)
    critic = TensorDictModule(
        net,
        in_keys=[("agents", "observation"), ("agents", "action")],
        out_keys=[("agents", "state_action_value")],
    )
    keys = {
        "state_action_value": ("agents", "state_action_value"),
        "reward": ("agents", "reward"),
        "done": ("agents", "done"),
        "terminated": ("agents", "terminated"),
    }
    if name == "ddpg":
        loss = DDPGLoss(actor, critic, delay_actor=True)
    else:
        spec = ENV.full_action_spec_unbatched["agents", "action"]
        loss = TD3Loss(actor, critic, action_spec=spec, delay_actor=True)
        keys["action"] = ("agents", "action")
    loss.set_keys(**keys)
    loss.make_value_estimator(ValueEstimators.TD0, gamma=GAMMA)
    SoftUpdate(loss, tau=0.5)
    return loss


@pytest.mark.parametrize("name", ["ddpg", "td3"])
@pytest.mark.parametrize("clones", [False, True])
def test_torchrls_own_losses_serve_as_partners(name, clones):
    stock, batch = stock_partner(name), random_batch()
    estimator = stock
    if clones:
        estimator = InfluenceEstimatorLoss(stock, kind="clones", influencer=1, gamma=GAMMA)
        estimator(batch)["loss_estimator"].backward()
        assert all(p.grad is not None for p in estimator.parameters())
    loss = InfluenceLoss(stock.actor_network, estimator, influencer=1)
    loss(batch)["loss_influence"].backward()
    grads = [p.grad for p in stock.actor_network.parameters()]
    assert all(g[1].abs().sum() > 0 and g[0].abs().sum() == 0 for g in grads)


def test_a_partner_that_tells_no_gamma_needs_one():
    stock = stock_partner("ddpg")
    if hasattr(stock, "gamma"):
        pytest.fail("DDPGLoss has a gamma now; drop the argument from the recipe.")
    with pytest.raises(ValueError, match="None"):
        InfluenceEstimatorLoss(stock, kind="clones")


# The optimum over discrete actions


def discrete_partner(weight: torch.Tensor, action: torch.Tensor) -> MADDPGLoss:
    return partner(constant_actor(action), linear_critic(weight))


def one_hot(*choices: int) -> torch.Tensor:
    return nn.functional.one_hot(torch.tensor(choices), A).float()


def test_enumeration_finds_the_best_joint_action_of_every_agent():
    """Q_i = sum_jk w_ijk a_jk: its maximum is the sum over agents of the larger weight."""
    torch.manual_seed(0)
    weight = torch.randn(N, N, A)
    maddpg = discrete_partner(weight, one_hot(0, 0, 0))
    batch = random_batch()
    for budget in (A**N, 1):  # all joint actions, then coordinate ascent
        loss = InfluenceLoss(
            maddpg.actor_network, maddpg, optimum="enumerated", enumeration_budget=budget
        )
        expected = weight[:, :, 0].sum(-1) - weight.amax(-1).sum(-1)
        torch.testing.assert_close(loss(batch)["gap"], expected[1:])


@pytest.mark.parametrize("budget", [A**N, 1])
def test_a_masked_action_is_never_the_optimum(budget):
    weight = torch.zeros(N, N, A)
    weight[:, :, 1] = 1.0  # action 1 is better for all, and forbidden to agent 2
    maddpg = discrete_partner(weight, one_hot(0, 0, 0))
    batch = random_batch()
    mask = torch.ones(B, N, A, dtype=torch.bool)
    mask[:, 2, 1] = False
    loss = InfluenceLoss(
        maddpg.actor_network, maddpg, optimum="enumerated", enumeration_budget=budget
    )
    result = loss(batch.set(("agents", "action_mask"), mask))
    torch.testing.assert_close(result["gap"], torch.tensor([-2.0, -2.0]))


def test_joint_actions_are_enumerated_in_c_order():
    joint = enumerate_joint_actions(3, 2).argmax(-1)
    assert joint.tolist()[:3] == [[0, 0, 0], [0, 0, 1], [0, 1, 0]]
    assert joint.unique(dim=0).shape == (8, 3)


def test_coordinate_ascent_is_between_the_start_and_the_optimum():
    torch.manual_seed(0)
    table = torch.randn(5, 5, 5)

    def critic(joint: torch.Tensor) -> torch.Tensor:
        index = joint.argmax(-1)
        return table[index[..., 0], index[..., 1], index[..., 2]].unsqueeze(-1)

    for choice in range(5):
        start = nn.functional.one_hot(torch.full((3,), choice), 5).float()
        reached = coordinate_ascent(critic, start)
        assert (reached >= table[choice, choice, choice]).all()
        assert (reached <= table.max()).all()
    every = enumerate_joint_actions(3, 5).unsqueeze(1).expand(-1, 3, -1, -1)
    assert (best_candidate(critic, every) == table.max()).all()


def test_uniform_one_hot_joint_actions_are_one_hot():
    spec = OneHot(A, shape=(N, A), dtype=torch.float32)
    weight = torch.zeros(N, N, A)
    weight[:, :, 1] = 1.0
    maddpg = discrete_partner(weight, one_hot(0, 0, 0))
    batch = random_batch()
    batch["agents", "action"][:] = one_hot(0, 0, 0)
    loss = InfluenceLoss(maddpg.actor_network, maddpg, num_optimum_samples=200, action_spec=spec)
    torch.testing.assert_close(loss(batch)["gap"], torch.tensor([-3.0, -3.0]))


@pytest.mark.parametrize("own_actions", ["policy", "all"])
def test_large_logits_cost_their_mean_square(own_actions):
    """Two logits of 3 and -1 in each of N agents: a mean square of 5, N times."""
    logits = torch.tensor([3.0, -1.0]).expand(N, 1, A)
    actor = table_actor(logits)
    losses = {}
    for coeff in (0.0, 0.1):
        values = torch.zeros(N, 1, A**N)
        loss = partner(actor, table_critic(values), own_actions=own_actions, logits_coeff=coeff)
        batch = random_batch()
        seen = torch.ones(B, N, 1)
        batch["agents", "observation"] = batch["next", "agents", "observation"] = seen
        losses[coeff] = loss(batch)["loss_actor"]
    torch.testing.assert_close(losses[0.1] - losses[0.0], torch.tensor(0.1 * 5 * N))
    losses[0.1].backward()


def test_a_negative_weight_of_the_logits_is_refused():
    with pytest.raises(ValueError, match=r"-0\.5"):
        partner(logits_coeff=-0.5)


def test_the_algorithms_penalize_what_enters_tanh_and_softmax():
    torch.manual_seed(0)
    for env in (TargetEnv(), TargetEnv(discrete=True)):
        batch = env.rollout(3).reshape(-1)
        plain, penalized = (
            MADDPG(env, MADDPG.Settings(num_cells=(13,), logits_coeff=c)) for c in (0.0, 1.0)
        )
        penalized.maddpg.load_state_dict(plain.maddpg.state_dict(), strict=False)
        penalized.maddpg.logits_coeff = 1.0
        assert penalized.maddpg(batch)["loss_actor"] > plain.maddpg(batch)["loss_actor"]
