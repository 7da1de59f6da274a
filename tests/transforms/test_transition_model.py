"""The learned EITI and EDTI: where truth is known, they come near it."""

from __future__ import annotations

import math
import re

import pytest
import torch
from fakes import A, B, N, O, TargetEnv, random_batch
from tensordict import TensorDict
from torch.distributions import Normal, kl_divergence
from torchrl.envs import TransformedEnv
from torchrl.envs.utils import check_env_specs

from torchrl_alita import functional
from torchrl_alita.modules import TransitionModel
from torchrl_alita.modules._bayesian import BayesianLinear
from torchrl_alita.objectives import TransitionModelLoss
from torchrl_alita.transforms import TransitionInfluence

INFLUENCE = ("next", "agents", "transition_influence")
ENTRIES = [("agents", "observation"), ("agents", "action"), ("next", "agents", "observation")]
NOISE, PUSH = 0.5, 1.5


def moved(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    return (after - before)[..., 0].long()


moved.num_codes = 2


def gate(seed: int = 0, rows: int = 2048) -> TensorDict:
    """Agent 1 moves by 1 if both choose to, agent 0 if it chooses to; both at random."""
    generator = torch.Generator().manual_seed(seed)
    acted = torch.randint(2, (rows, 2), generator=generator)
    move = torch.stack([acted[:, 0], acted.prod(-1)], -1)
    return transitions(acted, torch.zeros(rows, 2, 1), move.unsqueeze(-1).float())


def line(seed: int = 0, rows: int = 2048) -> TensorDict:
    """Each moves by its action and noise; agent 0's action pushes agent 1 too."""
    generator = torch.Generator().manual_seed(seed)
    acted = torch.randint(2, (rows, 2), generator=generator)
    move = acted + NOISE * torch.randn(rows, 2, generator=generator)
    move[:, 1] += PUSH * acted[:, 0]
    return transitions(acted, torch.randn(rows, 2, 1, generator=generator), move.unsqueeze(-1))


def transitions(acted: torch.Tensor, before: torch.Tensor, move: torch.Tensor) -> TensorDict:
    action = torch.nn.functional.one_hot(acted, 2).float()
    after = {"observation": before + move}
    agents = {"observation": before, "action": action}
    return TensorDict({"agents": agents, "next": {"agents": after}}, acted.shape[:1])


def model(num_agents: int = 2, **options) -> TransitionModel:
    torch.manual_seed(0)
    sizes = {"observation_size": 1, "action_size": 2, "num_cells": (16,)}
    return TransitionModel(num_agents, **sizes | options)


def trained(net: TransitionModel, batch: TensorDict, steps: int = 150) -> TransitionModel:
    loss = TransitionModelLoss(net)
    optimizer = torch.optim.Adam(loss.parameters(), lr=2e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(batch)["loss_transition_model"].backward()
        optimizer.step()
    return net


@pytest.mark.parametrize("share_params", [False, True])
def test_learned_coefficients_come_near_the_enumerated_ones(share_params):
    """Agent 1 chose to move: alone it does with 1/2, together with 0 or 1."""
    net = trained(model(outcome=moved, share_params=share_params), gate())
    batch = gate(seed=1, rows=200)
    paid = TransitionInfluence(net)(batch)[INFLUENCE].squeeze(-1)
    chose = batch["agents", "action"][:, 1, 1] == 1
    # Whether it then moves or not, agent 0 made that twice as likely.
    expected = torch.where(chose, 0.5, 0.0)
    torch.testing.assert_close(paid[:, 0], expected, rtol=0, atol=0.08)
    # Agent 1 changes nothing for agent 0.
    torch.testing.assert_close(paid[:, 1], torch.zeros(200), rtol=0, atol=0.08)


def test_learned_densities_come_near_those_of_a_linear_gaussian_system():
    net = trained(model(), line(), steps=200)
    batch = line(seed=1)
    with torch.no_grad():
        alone, together = net(*(batch[key] for key in ENTRIES))
    acted = batch["agents", "action"][..., 1]
    move = (batch["next", "agents", "observation"] - batch["agents", "observation"]).squeeze(-1)
    of_both = Normal(acted[:, 1] + PUSH * acted[:, 0], NOISE).log_prob(move[:, 1])
    assert float((together[:, 0, 1] - of_both).abs().mean()) < 0.2
    # A mixture of two; a normal with its mean and deviation is what the model can say.
    spread = math.hypot(NOISE, PUSH / 2)
    of_one = Normal(acted[:, 1] + PUSH / 2, spread).log_prob(move[:, 1])
    assert float((alone[:, 0, 1] - of_one).abs().mean()) < 0.2
    # The two differ by more than what is allowed.
    assert float((of_both - of_one).abs().mean()) > 0.5
    assert float((together[:, 1, 0] - alone[:, 1, 0]).abs().mean()) < 0.2
    assert float(alone.diagonal(dim1=-2, dim2=-1).abs().max()) == 0


def test_the_divergence_of_the_weights_is_that_of_torch():
    torch.manual_seed(0)
    layer = BayesianLinear(3, 5, num_networks=2)
    expected = kl_divergence(Normal(layer.loc, layer.scale), Normal(0.0, 1.0)).sum()
    torch.testing.assert_close(layer.kl(), expected)


def test_the_loss_weighs_the_divergence_by_its_rows():
    net = model()
    torch.manual_seed(0)
    few = TransitionModelLoss(net, num_rows=100)(gate())
    torch.manual_seed(0)
    many = TransitionModelLoss(net, num_rows=10_000)(gate())
    difference = few["loss_transition_model"] - many["loss_transition_model"]
    torch.testing.assert_close(difference, net.kl() * (1e-2 - 1e-4))
    torch.testing.assert_close(few["transition_kl"], net.kl())


def test_every_weight_of_both_networks_learns():
    loss = TransitionModelLoss(model(N, observation_size=O, action_size=A))
    with torch.no_grad():
        for param in loss.parameters():
            param.add_(0.1)
    loss(random_batch())["loss_transition_model"].backward()
    assert all(bool(param.grad.any()) for param in loss.parameters())


def test_draws_differ_and_means_do_not():
    net, batch = model(), gate()
    entries = [batch[key] for key in ENTRIES]
    first, second = net(*entries), net(*entries)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    drawn = [net(*entries, sample=True)[1] for _ in range(2)]
    assert not torch.equal(*drawn)


@pytest.mark.parametrize("share_params", [False, True])
def test_three_agents_are_modeled_in_pairs(share_params):
    """What the third one does changes nothing of a pair."""
    net = model(N, observation_size=O, action_size=A, share_params=share_params)
    with torch.no_grad():
        for param in net.parameters():
            param.add_(0.1 * torch.randn_like(param))
    batch = random_batch()
    before = [batch[key] for key in ENTRIES]
    after = [entry.clone() for entry in before]
    for entry in after:
        entry[..., 2, :] += 1
    for first, second in zip(net(*before), net(*after), strict=True):
        torch.testing.assert_close(first[..., :2, :2], second[..., :2, :2])
    together = net(*before)[1], net(*after)[1]
    assert not torch.allclose(together[0][..., 2, :2], together[1][..., 2, :2])


def test_the_dead_of_a_battle_are_not_paid_and_teach_nothing():
    net = trained(model(), line(), steps=3)
    batch = line(rows=B)
    mask = torch.ones(B, 2, 2, dtype=torch.bool)
    mask[:2, 1, 1] = False
    batch["agents", "observation"][:2, 1] = 0
    batch["agents", "action_mask"] = mask
    paid = TransitionInfluence(net)(batch)[INFLUENCE]
    assert float(paid[:2].abs().max()) == 0
    assert float(paid[2:].abs().min()) > 0

    def loss(of: TensorDict) -> torch.Tensor:
        torch.manual_seed(0)
        return TransitionModelLoss(net, reduction="none")(of)["loss_transition_model"]

    other = batch.clone()
    other["next", "agents", "observation"][:2, 1] = 1e6
    torch.testing.assert_close(loss(batch), loss(other))
    # An environment that says it itself.
    said = batch.exclude(("agents", "action_mask"))
    said["agents", "alive"] = mask[..., 1:]
    torch.testing.assert_close(loss(batch), loss(said))


def test_learned_edti_is_influence_times_what_the_other_can_still_earn():
    net, batch = trained(model(), line(), steps=5), line(rows=B)
    batch["next", "agents", "value"] = torch.rand(B, 2, 1)
    batch["next", "terminated"] = torch.arange(B).unsqueeze(-1) % 2 == 0
    paid = TransitionInfluence(net, value=("agents", "value"), gamma=0.9)(batch)[INFLUENCE]
    alone, together = net(*(batch[key] for key in ENTRIES))
    coefficient = (1 - (alone - together).exp()).clamp(0, 1)
    value = batch["next", "agents", "value"] * ~batch["next", "terminated"].unsqueeze(-1)
    torch.testing.assert_close(paid, 0.9 * coefficient @ value)


def test_an_environment_is_paid_by_todays_model():
    net = model(N, observation_size=O, action_size=A)
    with torch.no_grad():
        for param in net.parameters():
            param.add_(0.1)
    env = TransformedEnv(TargetEnv(discrete=True), TransitionInfluence(net))
    check_env_specs(env)
    rollout = env.rollout(3)
    expected = TransitionInfluence(net)(rollout.exclude(INFLUENCE))[INFLUENCE]
    torch.testing.assert_close(rollout[INFLUENCE], expected)


def test_a_saved_model_pays_the_same():
    first, second = trained(model(), line(), steps=3), model()
    second.load_state_dict(first.state_dict())
    batch = line(rows=B)
    paid = [TransitionInfluence(net)(batch)[INFLUENCE] for net in (first, second)]
    torch.testing.assert_close(*paid, rtol=0, atol=0)


REFUSED = {
    "never trained": (
        lambda: TransitionInfluence(model())(line()),
        ValueError,
        "The TransitionModel of TransitionInfluence was never trained: train it with "
        "TransitionModelLoss before the bonus is read.",
    ),
    "counting": (
        lambda: TransitionInfluence(model()).update(line()),
        TypeError,
        "A TransitionModel counts nothing: train it with TransitionModelLoss instead of "
        "update(batch).",
    ),
    "a single agent": (
        lambda: model(1),
        ValueError,
        "num_agents must be a whole number at least 2, got 1.",
    ),
    "another number of actions": (
        lambda: TransitionModelLoss(model(action_size=3))(line(rows=B)),
        ValueError,
        f"The action must have the shape ({B}, 2, 3), got ({B}, 2, 2).",
    ),
    "another number of agents": (
        lambda: TransitionModelLoss(model(3))(line(rows=B)),
        ValueError,
        f"The observation must have the shape ({B}, 3, 1), got ({B}, 2, 1).",
    ),
    "an unknown feature": (
        lambda: model(features=[0, 1]),
        ValueError,
        "features must be distinct numbers of the 1 features, got [0, 1].",
    ),
    "no feature": (
        lambda: model(features=[]),
        ValueError,
        "features must be distinct numbers of the 1 features, got [].",
    ),
    "features of categories": (
        lambda: model(outcome=moved, features=[0]),
        ValueError,
        "An outcome has no features, got features=[0].",
    ),
    "an outcome without a number": (
        lambda: model(outcome=lambda before, after: before.long()),
        ValueError,
        "outcome does not say how many codes it has: give num_codes.",
    ),
    "no floor": (
        lambda: model(min_scale=0.0),
        ValueError,
        "min_scale must be positive, got 0.0.",
    ),
    "no rows": (
        lambda: TransitionModelLoss(model(), num_rows=0),
        ValueError,
        "num_rows must be at least 1, got 0.",
    ),
    "a flag of other agents": (
        lambda: functional.present_agents(torch.zeros(3, 2, 1), torch.ones(3, 1, 1).bool()),
        ValueError,
        "alive must be of the agents (3, 2), got (3, 1, 1).",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_in_one_sentence(name):
    call, kind, message = REFUSED[name]
    with pytest.raises(kind, match=re.escape(message)):
        call()
