"""One-hot actions, from the policy through the losses to a task that must be solved."""

from __future__ import annotations

import pytest
import torch
from fakes import (
    A,
    B,
    N,
    TargetEnv,
    build,
    by_name,
    conditional_names,
    random_batch,
    table_actor,
    table_critic,
)
from tensordict import TensorDict
from tensordict.nn import ProbabilisticTensorDictModule, ProbabilisticTensorDictSequential
from torch.distributions import OneHotCategorical
from torchrl.envs import ExplorationType, set_exploration_type
from torchrl.objectives import SoftUpdate

from torchrl_alita import (
    ALITA,
    MADDPG,
    InfluenceLoss,
    InfluenceScoreLoss,
    MADDPGLoss,
    Marginal,
    make_actor,
)
from torchrl_alita.modules import GumbelOneHot
from torchrl_alita.objectives.joint_actions import uniform_joint_actions

ENV = TargetEnv(discrete=True)
SMALL = {"num_cells": (13,)}


def discrete_batch() -> TensorDict:
    batch = random_batch()
    index = torch.randint(A, (B, N), generator=torch.Generator().manual_seed(3))
    batch["agents", "action"] = torch.nn.functional.one_hot(index, A).float()
    return batch


def act(policy: GumbelOneHot, logits: torch.Tensor, mask: torch.Tensor | None = None):
    agents = {"logits": logits} | ({} if mask is None else {"action_mask": mask})
    return policy(TensorDict({"agents": agents}, logits.shape[:-2]))["agents", "action"]


def test_drawn_actions_follow_the_policys_probabilities():
    """A temperature softens the gradient and leaves the actions as they are."""
    torch.manual_seed(0)
    probabilities = torch.tensor([0.1, 0.2, 0.7])
    logits = probabilities.log().expand(100_003, 1, 3)
    for temperature in (0.3, 5.0):
        with set_exploration_type(ExplorationType.RANDOM):
            drawn = act(GumbelOneHot(temperature=temperature), logits)
        torch.testing.assert_close(drawn.mean((0, 1)), probabilities, rtol=0, atol=0.006)


def test_the_greedy_action_is_the_likeliest_and_one_hot():
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        action = act(GumbelOneHot(), torch.tensor([[[0.0, 2.0, 1.0]]]))
    assert action.tolist() == [[[0.0, 1.0, 0.0]]]


@pytest.mark.parametrize("mode", [ExplorationType.RANDOM, ExplorationType.DETERMINISTIC])
def test_a_masked_action_is_never_taken_and_gets_no_gradient(mode):
    torch.manual_seed(0)
    logits = torch.tensor([5.0, 0.0, 0.0]).repeat(1009, 1, 1).requires_grad_()
    mask = torch.tensor([False, True, True]).expand(1009, 1, 3)
    with set_exploration_type(mode):
        action = act(GumbelOneHot(masked=True), logits, mask)
    assert (action[..., 0] == 0).all()
    assert (action.sum(-1) == 1).all()
    (action * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert (logits.grad[..., 0] == 0).all()
    assert logits.grad[..., 1].abs().sum() > 0


def test_the_gradient_is_that_of_the_softmax_at_the_temperature():
    logits = torch.tensor([[[0.3, -0.2, 0.9]]], requires_grad=True)
    weight = torch.tensor([1.0, -2.0, 0.5])
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        (act(GumbelOneHot(temperature=0.5), logits) * weight).sum().backward()
    other = logits.detach().clone().requires_grad_()
    (torch.softmax(other / 0.5, -1) * weight).sum().backward()
    torch.testing.assert_close(logits.grad, other.grad)


def test_a_row_that_allows_nothing_is_padding_and_stays_finite():
    logits = torch.randn(5, 1, 3, requires_grad=True)
    mask = torch.zeros(5, 1, 3, dtype=torch.bool)
    action = act(GumbelOneHot(masked=True), logits, mask)
    (action * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert (action.sum(-1) == 1).all()
    assert logits.grad.isfinite().all()


def test_the_actors_distribution_knows_the_mask():
    logits = torch.tensor([[[2.0, 0.0, 0.0]]])
    mask = torch.tensor([[[False, True, True]]])
    batch = TensorDict({"agents": {"logits": logits, "action_mask": mask}}, [1])
    distribution = GumbelOneHot(masked=True).get_dist(batch)
    torch.testing.assert_close(distribution.probs, torch.tensor([[[0.0, 0.5, 0.5]]]))
    taken = torch.tensor([[[0.0, 0.0, 1.0]]])
    torch.testing.assert_close(distribution.log_prob(taken), torch.tensor([[0.5]]).log())
    assert not distribution.sample((3,)).requires_grad


def one_hot_partner() -> MADDPGLoss:
    return MADDPG(ENV, MADDPG.Settings(**SMALL)).maddpg


def test_more_joint_actions_than_the_budget_are_an_error_with_both_numbers():
    partner = one_hot_partner()
    loss = InfluenceLoss(partner.actor_network, partner, value=Marginal("all", budget=3))
    with pytest.raises(ValueError, match=r"2\*\*2 = 4.*3"):
        loss(discrete_batch())


def test_the_score_gradient_asks_for_a_dimension_of_time():
    partner = one_hot_partner()
    loss = InfluenceScoreLoss(partner.actor_network, partner)
    with pytest.raises(ValueError, match=r"\[\*B, T\].*\(7,\)"):
        loss(discrete_batch())


def test_the_score_gradient_takes_distributions_that_cannot_be_differentiated():
    """Torch's own one-hot distribution has no rsample; the pathwise gradient needs one."""
    head = ProbabilisticTensorDictModule(
        in_keys={"logits": ("agents", "logits")},
        out_keys=[("agents", "action")],
        distribution_class=OneHotCategorical,
    )
    actor = ProbabilisticTensorDictSequential(make_actor(ENV, **SMALL)[0], head)
    partner = MADDPG(ENV, MADDPG.Settings(**SMALL)).maddpg
    batch = torch.stack([discrete_batch()] * 3, 1)
    scored = InfluenceScoreLoss(actor, partner, value=Marginal("all"))
    scored(batch)["loss_influence"].backward()
    assert any((p.grad != 0).any() for p in scored.parameters() if p.grad is not None)
    with pytest.raises(ValueError, match=r"rsample.*OneHotCategorical"):
        InfluenceLoss(actor, partner, value=Marginal(2))(batch)


def test_a_discount_out_of_range_is_refused():
    partner = one_hot_partner()
    with pytest.raises(ValueError, match=r"gamma.*1\.5"):
        InfluenceScoreLoss(partner.actor_network, partner, gamma=1.5)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_must_be_positive(temperature):
    policy = GumbelOneHot()
    with pytest.raises(ValueError, match=str(temperature)):
        policy.temperature = temperature
    with pytest.raises(ValueError, match=str(temperature)):
        make_actor(ENV, temperature=temperature)


def test_uniform_joint_actions_keep_to_the_mask():
    torch.manual_seed(0)
    mask = torch.ones(B, N, 5, dtype=torch.bool)
    mask[:, 1, :3] = False
    drawn = uniform_joint_actions(2003, torch.zeros(B, N, 5), allowed=mask)
    assert (drawn[..., 1, :3] == 0).all()
    expected = torch.tensor([[0.2] * 5, [0, 0, 0, 0.5, 0.5], [0.2] * 5])
    torch.testing.assert_close(drawn.mean((0, 1)), expected, rtol=0, atol=0.02)


@pytest.mark.parametrize("estimator", ["marginal", "clones", "centralized"])
@pytest.mark.parametrize("optimum", ["sampled", "enumerated"])
def test_alita_updates_on_one_hot_actions(estimator, optimum):
    torch.manual_seed(0)
    algorithm = ALITA(
        ENV, ALITA.Settings(estimator=estimator, optimum=optimum, conditional="exact", **SMALL)
    )
    before = [p.detach().clone() for p in algorithm.actor.parameters()]
    batch = discrete_batch()
    logs = algorithm.update(by_name(algorithm, batch, [batch] * len(conditional_names(algorithm))))
    assert all(torch.isfinite(value).all() for value in logs.values())
    assert all((p != q).any() for p, q in zip(before, algorithm.actor.parameters(), strict=True))
    assert 0 <= algorithm.health(batch)["saturated_share"] <= 1


@pytest.mark.parametrize(("budget", "expected"), [(4, "all"), (3, 1)])
def test_alita_sums_over_the_others_one_hot_actions_where_they_are_few(
    budget, expected, monkeypatch
):
    """Two others with two actions each have four."""
    monkeypatch.setattr("torchrl_alita.algorithms.alita.MOST_OTHER_ACTIONS", budget)
    assert ALITA(ENV, ALITA.Settings(**SMALL)).influences[0].value.samples == expected
    assert build(ALITA, ENV, num_action_samples=7, **SMALL).influences[0].value.samples == 7
    assert ALITA(TargetEnv(), ALITA.Settings(**SMALL)).influences[0].value.samples == 1


def test_the_penalty_is_the_brier_distance_to_the_policys_probabilities():
    torch.manual_seed(0)
    algorithm = ALITA(ENV, ALITA.Settings(omega=0.0, **SMALL))
    batch = discrete_batch()
    penalty = algorithm.add_rewards(batch)["next", "agents", "diversity_penalty"]
    logits = algorithm.actor(batch.select(("agents", "observation")))["agents", "logits"]
    distance = (logits.softmax(-1) - batch["agents", "action"]).square().sum(-1, keepdim=True)
    torch.testing.assert_close(penalty[:, 1:], -distance[:, 1:].detach())


def test_the_losses_draw_the_actions_that_evaluation_takes_greedily():
    torch.manual_seed(0)
    algorithm = MADDPG(ENV, MADDPG.Settings(**SMALL))
    batch = discrete_batch()
    drawn = {algorithm.maddpg(batch)["loss_actor"].item() for _ in range(10)}
    assert len(drawn) > 1
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        greedy = [
            algorithm.actor(batch.select(("agents", "observation")))["agents", "action"]
            for _ in range(2)
        ]
    assert (greedy[0] == greedy[1]).all()


def test_a_masked_action_has_no_share_in_the_mean_over_own_actions():
    """Its value, a million, must not be seen."""
    logits = torch.zeros(N, 1, A)
    values = torch.zeros(N, 1, A**N)
    values[0, 0, A ** (N - 1) :] = 1e6  # agent 0's action 1
    actor = table_actor(logits)
    masked = GumbelOneHot(masked=True)
    actor = ProbabilisticTensorDictSequential(actor[0], masked)
    loss = MADDPGLoss(actor, table_critic(values), own_actions="all")
    SoftUpdate(loss, tau=0.5)
    batch = random_batch(batch_size=(B,))
    batch["agents", "observation"] = batch["next", "agents", "observation"] = torch.ones(B, N, 1)
    batch["agents", "action"] = torch.nn.functional.one_hot(torch.zeros(B, N).long(), A).float()
    mask = torch.ones(B, N, A, dtype=torch.bool)
    mask[:, 0, 1] = False
    batch["agents", "action_mask"] = batch["next", "agents", "action_mask"] = mask
    assert loss(batch)["loss_actor"] == 0
    batch["agents", "action_mask"] = torch.ones_like(mask)
    torch.testing.assert_close(loss(batch)["loss_actor"], torch.tensor(-5e5))


def test_the_mean_over_own_actions_needs_one_hot_actions():
    with pytest.raises(ValueError, match="get_dist"):
        MADDPG(TargetEnv(), MADDPG.Settings(own_actions="all"))
    with pytest.raises(ValueError, match="some"):
        MADDPG(ENV, MADDPG.Settings(own_actions="some"))


def test_noise_on_one_hot_target_actions_is_refused():
    with pytest.raises(ValueError, match=r"0\.2"):
        MADDPG(ENV, MADDPG.Settings(policy_noise=0.2))


@pytest.mark.parametrize("make", [MADDPG, ALITA])
@pytest.mark.parametrize("own_actions", ["policy", "all"])
def test_a_team_learns_to_pick_the_action_that_it_is_told(make, own_actions):
    """The better of two actions is that of the larger of two numbers; chance is a half."""
    torch.manual_seed(0)
    env = TargetEnv(num_envs=256, horizon=2, seed=1, discrete=True)
    options = {"actor_lr": 1e-2, "critic_lr": 1e-2, "gamma": 0.0, "own_actions": own_actions}
    algorithm = build(make, env, num_cells=(64, 64), **options)
    if isinstance(algorithm, ALITA):
        algorithm.total_reward.coeffs.zero_()
    batch = env.rollout(4, break_when_any_done=False).reshape(-1)
    for _ in range(150):
        algorithm.update(by_name(algorithm, batch[torch.randint(len(batch), (64,))]))
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        tested = env.rollout(2, algorithm.actor)
    told = tested["agents", "observation"][..., :A].argmax(-1)
    assert (tested["agents", "action"].argmax(-1) == told).float().mean() > 0.8
