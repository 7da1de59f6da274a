"""The critic of a team's value that is a weighted sum of the agents' own."""

from __future__ import annotations

import pytest
import torch
from fakes import A, B, N, O, TargetEnv, random_batch
from torch import nn
from torchrl.objectives import SoftUpdate

from torchrl_alita import MADDPGLoss, make_actor
from torchrl_alita.modules import make_factored_critic

KEY = ("agents", "state_action_value")
FORMS = pytest.mark.parametrize("share_params", [False, True], ids=["separate", "shared"])


def made(**options) -> nn.Module:
    """Random weights in every layer, so that each part of the sum counts."""
    torch.manual_seed(0)
    critic = make_factored_critic(TargetEnv(), num_cells=(7,), **options)
    for param in critic.parameters():
        nn.init.normal_(param.data, std=0.5)
    return critic


@FORMS
def test_the_teams_value_is_the_bias_and_the_weighted_values_of_the_agents(share_params):
    critic, batch = made(share_params=share_params, layer_norm=False), random_batch()
    net = critic.module
    observation, action = batch["agents", "observation"], batch["agents", "action"]
    seen = observation.flatten(1)
    expected = net.bias(seen).squeeze(-1)
    for agent in range(N):
        params = net.own_value.params
        # Separate parameters are stacked over the agents.
        own = params if share_params else params.apply(lambda stacked, i=agent: stacked[i])
        first, last = own["0"], own["2"]
        inputs = [observation[:, agent], action[:, agent]]
        if share_params:
            inputs.append(torch.eye(N)[agent].expand(B, N))
        hidden = (torch.cat(inputs, -1) @ first["weight"].T + first["bias"]).relu()
        value = (hidden @ last["weight"].T + last["bias"]).squeeze(-1)
        expected = expected + 2 * net.weight(seen)[:, agent].sigmoid() * value
    found = critic(batch)[KEY]
    assert found.shape == (B, N, 1)
    torch.testing.assert_close(found, expected.view(B, 1, 1).expand(B, N, 1))


@FORMS
def test_a_joint_action_for_each_agent_has_the_value_that_it_has_alone(share_params):
    critic, batch = made(share_params=share_params), random_batch()
    joint = torch.randn(B, N, N, A)
    values = critic(batch.clone().set(("agents", "action"), joint))[KEY]
    for agent in range(N):
        alone = critic(batch.clone().set(("agents", "action"), joint[:, agent]))[KEY]
        torch.testing.assert_close(values[:, agent], alone[:, agent])


def test_what_an_agent_climbs_does_not_depend_on_the_others_actions():
    loss = MADDPGLoss(make_actor(TargetEnv()), made())
    SoftUpdate(loss, tau=0.5)
    batch = random_batch()
    other = batch.clone()
    other["agents", "action"] = torch.randn(B, N, A)
    grads = []
    for each in (batch, other):
        loss.zero_grad()
        loss(each)["loss_actor"].backward()
        params = loss.actor_network_params.values(True, True)
        grads.append([param.grad.clone() for param in params if isinstance(param, nn.Parameter)])
    for first, second in zip(*grads, strict=True):
        torch.testing.assert_close(first, second)
        assert bool(first.any())


def test_an_untrained_critic_prefers_no_action_by_more_than_a_hundredth():
    torch.manual_seed(0)
    critic, batch = make_factored_critic(TargetEnv()), random_batch()
    drawn = [batch.clone().set(("agents", "action"), torch.rand(B, N, A)) for _ in range(20)]
    with torch.no_grad():
        values = torch.stack([critic(each)[KEY] for each in drawn])
    assert 0 < float(values.std(0).max()) < 0.01


def test_rewards_that_differ_teach_it_their_mean():
    torch.manual_seed(0)
    critic = make_factored_critic(TargetEnv(), num_cells=(32,))
    loss = MADDPGLoss(make_actor(TargetEnv()), critic, gamma=0.0)
    SoftUpdate(loss, tau=0.5)
    optimizer = torch.optim.Adam(loss.qvalue_network_params.parameters(), 1e-2)
    batch = random_batch()
    batch["next", "agents", "reward"] = torch.tensor([1.0, 2.0, 6.0]).view(N, 1).expand(B, N, 1)
    for _ in range(300):
        optimizer.zero_grad()
        loss.critic_losses(batch)["loss_qvalue"].backward()
        optimizer.step()
    torch.testing.assert_close(critic(batch)[KEY], torch.full((B, N, 1), 3.0), atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"critic_input": "all"}, "critic_input"),
        ({"critic_input": "state"}, "state"),
        ({"num_cells": (0,)}, "num_cells"),
    ],
)
def test_a_critic_that_cannot_be_is_refused(options, text):
    with pytest.raises((ValueError, KeyError), match=text):
        make_factored_critic(TargetEnv(), **options)


def test_entries_of_other_sizes_are_named():
    batch = random_batch().set(("agents", "action"), torch.zeros(B, N, A + 1))
    with pytest.raises(ValueError, match=rf"{O} features of observation and {A} of action"):
        made()(batch)
