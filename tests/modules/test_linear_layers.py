"""Networks of linear layers for K-FAC, and the divergence of their clipped Gaussians."""

from __future__ import annotations

import math

import pytest
import torch
from fakes import A, B, N, TargetEnv
from torch.distributions import kl_divergence
from torchrl.envs import ExplorationType, set_exploration_type
from torchrl.modules import PopArtValueNorm

from torchrl_alita.modules import (
    ClippedNormal,
    StackedLinear,
    make_linear_actor,
    make_linear_value,
)
from torchrl_alita.optim import KFAC


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("share_params", [False, True])
def test_every_parameter_of_an_actor_is_one_that_kfac_can_train(discrete, share_params):
    torch.manual_seed(0)
    env = TargetEnv(discrete=discrete)
    actor = make_linear_actor(env, num_cells=(11,), share_params=share_params)
    optimizer = KFAC(actor)
    batch = env.reset()

    def log_prob():
        distribution = actor.get_dist(batch)
        return distribution.log_prob(distribution.sample())

    optimizer.observe(log_prob)
    log_prob().mean().backward()
    before = [param.clone() for param in actor.parameters()]
    optimizer.step()
    for param, old in zip(actor.parameters(), before, strict=True):
        assert (param != old).any()
        assert torch.isfinite(param).all()


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("share_params", [False, True])
def test_an_actor_begins_near_to_one_policy_for_all(discrete, share_params):
    torch.manual_seed(0)
    env = TargetEnv(discrete=discrete)
    actor = make_linear_actor(env, num_cells=(11,), share_params=share_params)
    with set_exploration_type(ExplorationType.RANDOM):
        batch = actor(env.reset())
    assert batch["agents", "action"].shape == (B, N, A)
    assert batch["agents", "action_log_prob"].shape == (B, N)
    if discrete:
        assert batch["agents", "logits"].abs().max() < 0.05
    else:
        assert batch["agents", "loc"].abs().max() < 0.05
        torch.testing.assert_close(batch["agents", "scale"], torch.full((B, N, A), 0.6))


def test_agents_of_one_network_are_told_apart_and_separate_ones_share_nothing():
    env = TargetEnv()
    seen = env.reset()
    seen["agents", "observation"][:] = seen["agents", "observation"][:, :1]
    shared = make_linear_actor(env, num_cells=(11,))
    shared[0].module.layers[-1].weight.data.mul_(100)
    loc = shared(seen)["agents", "loc"]
    assert (loc[:, 0] != loc[:, 1]).any()
    own = make_linear_actor(env, num_cells=(11,), share_params=False)
    loc = own(seen)["agents", "loc"]
    loc[:, 0].sum().backward()
    for layer in own.modules():
        if isinstance(layer, StackedLinear) and layer.bias is not None:
            assert layer.weight.grad[0].any()
            assert not layer.weight.grad[1:].any()


@pytest.mark.parametrize("value_input", ["own", "team", "state"])
@pytest.mark.parametrize("share_params", [False, True])
def test_values_see_what_they_are_said_to_see(value_input, share_params):
    torch.manual_seed(0)
    env = TargetEnv(has_state=True)
    value = make_linear_value(env, value_input=value_input, share_params=share_params)
    KFAC(value)
    batch = env.reset()
    seen = "state" if value_input == "state" else ("agents", "observation")
    assert value.in_keys == [seen]
    batch[seen].requires_grad_()
    result = value(batch)["agents", "state_value"]
    assert result.shape == (B, N, 1)
    result[:, 0].sum().backward()
    reached = batch[seen].grad.abs().sum(-1) > 0
    if value_input == "own":
        assert reached[:, 0].all()
        assert not reached[:, 1:].any()
    else:
        assert reached.all()


def test_values_are_in_units_of_the_reward():
    env, norm = TargetEnv(), PopArtValueNorm(shape=1)
    norm.update(torch.tensor([[90.0], [110.0]]))
    value = make_linear_value(env, value_norm=norm)
    value.module.net.layers[-1].weight.data.zero_()
    torch.testing.assert_close(
        value(env.reset())["agents", "state_value"], torch.full((B, N, 1), 100.0)
    )


def test_a_state_that_is_not_there_is_missed_by_name():
    with pytest.raises(ValueError, match="state"):
        make_linear_value(TargetEnv(), value_input="state")
    with pytest.raises(ValueError, match="value_input"):
        make_linear_value(TargetEnv(), value_input="all")


def clipped(loc: list[float], scale: list[float], **bounds) -> ClippedNormal:
    return ClippedNormal(
        torch.tensor([loc]), torch.tensor([scale]), **{"low": -1.0, "high": 1.0, **bounds}
    )


def test_the_divergence_of_clipped_gaussians_is_that_of_gaussians():
    first, second = clipped([0.0, 0.5], [1.0, 0.5]), clipped([1.0, 0.5], [1.0, 1.0])
    expected = 0.5 + (math.log(2) + 0.25 / 2 - 0.5)
    torch.testing.assert_close(kl_divergence(first, second), torch.tensor([expected]))
    assert kl_divergence(first, first).item() == 0


def test_it_is_no_less_than_what_the_environment_can_tell_apart():
    """Of the two ends and of what lies between, by a sum over a fine grid."""
    first, second = clipped([0.6], [0.7]), clipped([-0.3], [0.9])
    grid = torch.linspace(-1, 1, 20_001)[1:-1].unsqueeze(-1)
    ends = torch.tensor([[-1.0], [1.0]])
    total = 0.0
    for points, size in ((grid, 2 / 20_000), (ends, 1.0)):
        p, q = first.log_prob(points), second.log_prob(points)
        total += float((p.exp() * (p - q)).sum() * size)
    assert 0 < total < kl_divergence(first, second).item()


def test_features_with_one_value_alone_do_not_diverge():
    bounds = {"low": torch.tensor([-1.0, 0.0]), "high": torch.tensor([1.0, 0.0])}
    first, second = clipped([0.0, 0.5], [1.0, 0.5], **bounds), clipped([1.0, 9.0], [1, 1], **bounds)
    torch.testing.assert_close(kl_divergence(first, second), torch.tensor([0.5]))


@pytest.mark.parametrize("distance", [1e2, 81594.0781, 1e8])
def test_far_out_the_gradient_of_a_clipped_action_is_finite_and_right(distance):
    """PyTorch's derivative of log Phi is 0 or NaN out there; it is close to the distance."""
    loc = torch.tensor([[1 + distance]], requires_grad=True)
    scale = torch.ones(1, 1)
    log_prob = ClippedNormal(loc, scale, low=-1.0, high=1.0).log_prob(-torch.ones(1, 1))
    (grad,) = torch.autograd.grad(log_prob.sum(), loc)
    torch.testing.assert_close(grad.item(), -(2 + distance), rtol=1e-3, atol=0)


def test_features_with_one_value_alone_have_no_gradient_however_far_they_are():
    loc = torch.tensor([[81594.0781]], requires_grad=True)
    scale = torch.full((1, 1), 1e-6, requires_grad=True)
    log_prob = ClippedNormal(loc, scale, low=0.0, high=0.0).log_prob(torch.zeros(1, 1))
    for grad in torch.autograd.grad(log_prob.sum(), (loc, scale)):
        assert grad.item() == 0


@pytest.mark.parametrize("make", [make_linear_actor, make_linear_value])
def test_inputs_of_another_dtype_are_named(make):
    env = TargetEnv()
    batch = env.reset().apply(lambda x: x.double() if x.is_floating_point() else x)
    with pytest.raises(
        TypeError, match=r"parameters are torch\.float32, its inputs torch\.float64"
    ):
        make(env, num_cells=(11,))(batch)
