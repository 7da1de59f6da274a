"""Values, gradients and errors of InfluenceEstimatorLoss."""

from __future__ import annotations

import pytest
import torch
from constructors import ENV, partner, touched
from fakes import (
    A,
    N,
    linear_critic,
    random_batch,
)

from torchrl_alita import (
    InfluenceEstimatorLoss,
    InfluenceLoss,
    Team,
    Trained,
    make_influence_network,
)


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
    influence = InfluenceLoss(loss.partner.actor_network, loss.partner, value=Trained(loss))
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
    loss = InfluenceEstimatorLoss(maddpg, team=1, kind="clones")
    loss(random_batch())["loss_estimator"].backward()
    (grad,) = [p.grad for p in loss.parameters()]
    assert grad[1].abs().sum() == 0
    assert grad[0].abs().sum() > 0
    assert grad[2].abs().sum() > 0


def test_the_estimators_target_is_the_influencees_reward_and_next_value():
    """Clones of a critic of zeros: the loss is the squared target, r + 0.9 * 0."""
    batch = random_batch()
    maddpg = partner(critic=linear_critic(torch.zeros(N, N, A)))
    loss = InfluenceEstimatorLoss(maddpg, 0, kind="clones")(batch)
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
        ({"team": -1}, "-1"),
        ({"team": (0, 1)}, r"of one influencer, got \(0, 1\)"),
        ({"team": Team(1)}, "influencer 0 is alone"),
    ],
)
def test_an_estimator_refuses_what_cannot_be(options, value):
    with pytest.raises(ValueError, match=value):
        InfluenceEstimatorLoss(partner(), **options)
