"""The optimum over joint actions, and the parts that seek it."""

from __future__ import annotations

import pytest
import torch
from constructors import ENV, partner
from fakes import (
    A,
    B,
    N,
    constant_actor,
    linear_critic,
    random_batch,
)
from torch import nn
from torchrl.data import OneHot

from torchrl_alita import (
    AtPolicy,
    BestOf,
    Enumerated,
    InfluenceLoss,
    MADDPGLoss,
    TDTarget,
)
from torchrl_alita.objectives.joint_actions import (
    best_candidate,
    coordinate_ascent,
    enumerate_joint_actions,
)


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
        loss = InfluenceLoss(maddpg.actor_network, maddpg, optimum=Enumerated(budget=budget))
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
    loss = InfluenceLoss(maddpg.actor_network, maddpg, optimum=Enumerated(budget=budget))
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
    loss = InfluenceLoss(maddpg.actor_network, maddpg, optimum=BestOf(uniform=200, spec=spec))
    torch.testing.assert_close(loss(batch)["gap"], torch.tensor([-3.0, -3.0]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AtPolicy(at="last"), "'last'"),
        (lambda: BestOf(at="last"), "'last'"),
        (lambda: BestOf(uniform=4), "uniform=4 .* need a spec"),
        (lambda: BestOf(uniform=-1), "-1"),
        (lambda: BestOf(spec=ENV.full_action_spec["agents", "action"]), "spec must have the shape"),
        (lambda: Enumerated(budget=0), "0"),
        (lambda: Enumerated(at="last"), "'last'"),
        (lambda: TDTarget(gamma=1.5), "1.5"),
    ],
)
def test_an_optimum_refuses_what_cannot_be(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_continuous_actions_cannot_be_enumerated():
    maddpg = partner()
    with pytest.raises(ValueError, match="one-hot"):
        InfluenceLoss(maddpg.actor_network, maddpg, optimum=Enumerated())
