"""What lambda F adds to an advantage is the factor of the score in the loss of Theorem 1."""

from __future__ import annotations

import pytest
import torch
from torchrl.objectives import SoftUpdate

from torchrl_alita import Enumerated, InfluenceScoreLoss, MADDPGLoss, Marginal, OwnGradient, Team
from torchrl_alita.envs import make_env
from torchrl_alita.modules import make_actor, make_critic

COEFF = 0.3


def parts(influencer: int, **options):
    torch.manual_seed(0)
    env = make_env("push_box", num_envs=4, n_agents=3, seed=0)
    actor = make_actor(env, num_cells=(8,))
    partner = MADDPGLoss(actor, make_critic(env, num_cells=(8,)))
    SoftUpdate(partner, tau=0.1)
    loss = InfluenceScoreLoss(
        actor,
        partner,
        Team(3, influencers=influencer),
        value=Marginal(samples="all"),
        optimum=Enumerated(),
        influence_coeff=COEFF,
        **options,
    )
    return actor, loss, env.rollout(6, actor).detach()


@pytest.mark.parametrize("influencer", [0, 2])
@pytest.mark.parametrize("unit", [False, True])
def test_climbing_the_advantage_descends_the_loss(influencer, unit):
    options = {"unit": OwnGradient()} if unit else {}
    actor, loss, batch = parts(influencer, **options)
    loss.eval()
    weights = list(loss.actor_network_params.parameters())
    descent = torch.autograd.grad(loss(batch)["loss_influence"], weights)

    advantage = loss.advantage(batch)["advantage"]
    log_prob = actor.get_dist(batch).log_prob(batch["agents", "action"])
    surrogate = (log_prob.unsqueeze(-1) * advantage).sum(-2).mean()
    climb = torch.autograd.grad(surrogate, list(actor.parameters()))
    assert any(float(part.abs().max()) > 1e-5 for part in climb)
    for down, up in zip(descent, climb, strict=True):
        torch.testing.assert_close(-down, up)


def test_only_the_influencers_advantage_changes_and_the_figures_are_the_losss():
    _, loss, batch = parts(1)
    found, losses = loss.advantage(batch), loss(batch)
    assert found["advantage"].shape == (4, 6, 3, 1)
    assert not found["advantage"].requires_grad
    assert float(found["advantage"][..., [0, 2], :].abs().max()) == 0
    for key in ("influence", "gap"):
        torch.testing.assert_close(found[key], losses[key])


def test_steps_that_are_no_sequence_are_refused():
    _, loss, batch = parts(0)
    with pytest.raises(ValueError, match="needs a batch"):
        loss.advantage(batch.reshape(-1))
