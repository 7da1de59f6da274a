"""A policy that weighs goals by where everybody stands."""

from __future__ import annotations

import pytest
import torch
from fakes import B, N, TargetEnv

from torchrl_alita.envs import make_env
from torchrl_alita.modules import GoalAttention, make_stochastic_actor

OWN, GOALS, OTHERS, F = 5, 4, 3, 2


def parts(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    own = torch.randn(B, N, OWN, generator=generator)
    goals = torch.randn(B, N, GOALS, 2, generator=generator)
    return own, goals, torch.randn(B, N, OTHERS, 2, generator=generator)


def observed(own: torch.Tensor, goals: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    return torch.cat([own, goals.flatten(-2), others.flatten(-2)], -1)


@pytest.fixture
def network() -> GoalAttention:
    torch.manual_seed(0)
    network = GoalAttention(
        own_features=OWN, num_goals=GOALS, num_others=OTHERS, out_features=F, width=13
    )
    # Differences of what begins near 0 would be rounding alone.
    for layer in (network.vote, network.common):
        torch.nn.init.normal_(layer.weight)
    return network


def test_the_order_of_goals_and_of_others_does_not_matter(network):
    own, goals, others = parts()
    expected = network(observed(own, goals, others))
    mixed = network(observed(own, goals[..., [2, 0, 3, 1], :], others[..., [2, 0, 1], :]))
    torch.testing.assert_close(mixed, expected)


def test_every_goal_and_every_other_agent_counts(network):
    own, goals, others = parts()
    expected = network(observed(own, goals, others))
    for k in range(GOALS):
        moved = goals.clone()
        moved[..., k, :] += 0.5
        assert (network(observed(own, moved, others)) != expected).any(-1).all(), k
    for j in range(OTHERS):
        moved = others.clone()
        moved[..., j, :] += 0.5
        assert (network(observed(own, goals, moved)) != expected).any(-1).all(), j


def test_agents_are_told_apart_by_what_they_observe_alone(network):
    own, goals, others = (part[:, :1].expand(-1, N, *part.shape[2:]) for part in parts())
    action = network(observed(own, goals, others))
    torch.testing.assert_close(action, action[:, :1].expand_as(action))


def test_an_agent_that_stands_on_a_goal_has_a_finite_gradient(network):
    own, goals, others = parts()
    network(observed(own, goals * 0, others * 0)).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


@pytest.mark.parametrize("n_agents", [2, 3, 5])
def test_it_fits_cooperative_navigation_of_every_size(n_agents):
    env = make_env("vmas/spread", num_envs=2, n_agents=n_agents)
    actor = make_stochastic_actor(env, goal_attention=True, num_cells=(13,))
    assert actor(env.reset())["agents", "action"].shape == (2, n_agents, 2)


def test_observations_of_other_sizes_are_refused(network):
    with pytest.raises(ValueError, match=r"19.*got 18"):
        network(torch.zeros(B, N, 18))
    # Features of the fake: 5 - 4 of its own - 2 * 2 of the others leave none for a goal.
    with pytest.raises(ValueError, match="no room"):
        make_stochastic_actor(TargetEnv(), goal_attention=True)
    with pytest.raises(ValueError, match="num_goals"):
        GoalAttention(own_features=4, num_goals=0, num_others=2, out_features=2)
