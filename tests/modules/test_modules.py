"""The networks: their sizes, their first values, and who sees whom."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import pytest
import torch
from fakes import A, B, N, O, TargetEnv
from tensordict import TensorDict
from torch import nn
from torchrl.data import Bounded, Categorical, Composite, Unbounded

from torchrl_alita.modules import Autoencoder, make_actor, make_critic, make_influence_network

ACTION = ("agents", "action")
OBSERVATION = ("agents", "observation")
VALUE = ("agents", "state_action_value")
CELLS = (11, 13)
SCOPES = {
    "full": torch.ones(N, N, dtype=torch.bool),
    "identity": torch.eye(N, dtype=torch.bool),
    "chain": torch.ones(N, N, dtype=torch.bool).tril(),
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def env() -> TargetEnv:
    return TargetEnv()


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def batch(*lead: int, seed: int = 1) -> TensorDict:
    generator = torch.Generator().manual_seed(seed)
    lead = lead or (B,)
    observation = torch.randn(*lead, N, O, generator=generator)
    action = torch.rand(*lead, N, A, generator=generator) * 2 - 1
    agents = {"observation": observation, "action": action}
    return TensorDict({"agents": agents}, batch_size=lead)


def moved(original: TensorDict, key: tuple[str, ...], agent: int) -> TensorDict:
    """The batch with one agent's entry moved."""
    result = original.clone()
    result[key][..., agent, :] += 1
    return result


def act(actor: nn.Module, data: TensorDict) -> torch.Tensor:
    return actor(data.copy())[ACTION]


def evaluate(critic: nn.Module, data: TensorDict) -> torch.Tensor:
    return critic(data.copy())[VALUE]


def matrices(module: nn.Module) -> list[torch.Tensor]:
    """Weight matrices of separate networks, stacked over the networks."""
    return [p.detach() for p in module.parameters() if p.ndim == 3]


def vectors(module: nn.Module, kind: str) -> list[torch.Tensor]:
    return [
        p.detach() for name, p in module.named_parameters() if name.endswith(kind) and p.ndim == 2
    ]


def test_the_autoencoder_narrows_from_128_to_3_and_widens_again():
    sizes = [tuple(w.shape[1:]) for w in matrices(Autoencoder(O + A))]
    widths = [O + A, 128, 64, 12, 3, 12, 64, 128, O + A]
    assert sizes == [(out, into) for into, out in pairwise(widths)]


def test_the_autoencoder_starts_at_the_scale_of_kaiming_for_each_influencer():
    autoencoder = Autoencoder(O + A, num_influencers=2)
    large = [w for w in matrices(autoencoder) if w[0].numel() > 500]
    assert len(large) == 6
    for weight in large:
        for matrix in weight:
            assert float(matrix.std()) == pytest.approx(math.sqrt(2 / matrix.shape[1]), rel=0.1)


def test_the_autoencoder_starts_without_biases():
    biases = vectors(Autoencoder(O + A), "bias")
    assert len(biases) == 8
    assert not any(bias.any() for bias in biases)


def test_the_code_of_the_autoencoder_uses_both_signs():
    code = Autoencoder(O + A).encoder(torch.randn(101, 1, O + A))
    assert code.shape == (101, 1, 3)
    assert bool((code < 0).any())
    assert bool((code > 0).any())


@pytest.mark.parametrize("lead", [(), (B,), (B, 11)])
def test_the_autoencoder_returns_what_it_takes_in_shape(lead):
    inputs = torch.randn(*lead, 2, O + A)
    assert Autoencoder(O + A, num_influencers=2)(inputs).shape == inputs.shape


def test_the_autoencoder_of_one_influencer_does_not_see_the_other_one():
    autoencoder = Autoencoder(O + A, num_influencers=2)
    inputs = torch.randn(B, 2, O + A)
    other = inputs.clone()
    other[:, 1] += 1
    before, after = autoencoder(inputs), autoencoder(other)
    torch.testing.assert_close(before[:, 0], after[:, 0])
    assert bool((before[:, 1] != after[:, 1]).any(-1).all())


def test_the_autoencoder_of_one_influencer_is_not_that_of_the_other_one():
    same = torch.randn(B, 1, O + A).expand(B, 2, O + A)
    first, second = Autoencoder(O + A, num_influencers=2)(same).unbind(1)
    assert bool((first != second).any(-1).all())


def test_one_influencer_trains_its_own_autoencoder_alone():
    autoencoder = Autoencoder(O + A, num_influencers=2)
    autoencoder(torch.randn(B, 2, O + A))[:, 0].square().sum().backward()
    gradients = [p.grad for p in autoencoder.parameters()]
    assert all(bool(gradient[0].any()) for gradient in gradients)
    assert not any(bool(gradient[1].any()) for gradient in gradients)


def test_the_autoencoder_can_reconstruct_a_curve():
    autoencoder = Autoencoder(2)
    angle = torch.linspace(0, 3, 101)
    curve = torch.stack([angle.cos(), angle.sin()], -1).unsqueeze(-2)
    optimizer = torch.optim.Adam(autoencoder.parameters(), lr=3e-3)
    for _ in range(100):
        optimizer.zero_grad()
        loss = (autoencoder(curve) - curve).square().sum(-1).mean()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.1


def test_the_narrowest_layer_may_be_the_only_one():
    sizes = [tuple(w.shape[1:]) for w in matrices(Autoencoder(O, num_cells=(2,)))]
    assert sizes == [(2, O), (O, 2)]


@pytest.mark.parametrize(
    "arguments", [{"in_features": 0}, {"num_influencers": 0}, {"num_cells": (128, 0, 128)}]
)
def test_the_autoencoder_refuses_a_size_of_0(arguments):
    with pytest.raises(ValueError, match=r"at least 1, got .*\b0\b"):
        Autoencoder(**{"in_features": O, **arguments})


def test_the_autoencoder_refuses_inputs_of_another_number_of_influencers():
    with pytest.raises(ValueError, match=rf"\b2\b.*\b{N}\b"):
        Autoencoder(O, num_influencers=2)(torch.zeros(B, N, O))


def test_the_actor_reads_observations_and_writes_actions_and_what_the_tanh_squashed(env):
    actor = make_actor(env)
    assert actor.in_keys == [OBSERVATION]
    assert actor.out_keys == [("agents", "param"), ACTION]


@pytest.mark.parametrize("lead", [(B,), (B, 11)])
@pytest.mark.parametrize("share_params", [False, True])
def test_the_actor_acts_for_every_agent(env, lead, share_params):
    assert act(make_actor(env, share_params=share_params), batch(*lead)).shape == (*lead, N, A)


def test_the_actor_takes_the_actions_of_its_environment(env):
    rollout = env.rollout(3, make_actor(env))
    assert rollout[ACTION].shape == (B, 3, N, A)
    assert all(env.action_spec.is_in(step) for step in rollout.unbind(1))


def test_an_action_stays_within_the_range_of_each_feature_and_uses_all_of_it(env):
    low, high = torch.tensor([-1.0, 2.0]), torch.tensor([3.0, 7.0])
    spec = Bounded(low.expand(B, N, A), high.expand(B, N, A))
    env.action_spec = Composite(agents=Composite(action=spec, shape=(B, N)), shape=(B,))
    data = batch(101)
    # LayerNorm keeps the hidden layers at scale 1: a large last layer saturates.
    actor = make_actor(env)
    matrices(actor)[-1].mul_(100)
    action = act(actor, data)
    assert bool((action >= low).all())
    assert bool((action <= high).all())
    torch.testing.assert_close(action.amin((0, 1)), low, atol=0.01, rtol=0)
    torch.testing.assert_close(action.amax((0, 1)), high, atol=0.01, rtol=0)


def test_separate_policies_have_n_times_the_parameters_of_a_shared_one(env):
    normalized = 2 * (11 + 13)
    one = (O * 11 + 11) + (11 * 13 + 13) + (13 * A + A) + normalized
    assert count(make_actor(env, num_cells=CELLS)) == N * one
    assert count(make_actor(env, num_cells=CELLS, share_params=True)) == one


def test_a_policy_without_layer_norm_has_no_parameters_for_it(env):
    one = (O * 11 + 11) + (11 * A + A)
    assert count(make_actor(env, num_cells=(11,), layer_norm=False)) == N * one


@pytest.mark.parametrize("share_params", [False, True])
def test_an_agent_acts_on_its_own_observation_alone(env, share_params):
    actor, data = make_actor(env, share_params=share_params), batch()
    before, after = act(actor, data), act(actor, moved(data, OBSERVATION, agent=1))
    torch.testing.assert_close(before[:, [0, 2]], after[:, [0, 2]])
    assert bool((before[:, 1] != after[:, 1]).any(-1).all())


def test_separate_policies_differ_where_a_shared_one_does_not(env):
    data = batch()
    data[OBSERVATION] = data[OBSERVATION][:, :1].repeat(1, N, 1)
    separate, shared = act(make_actor(env), data), act(make_actor(env, share_params=True), data)
    assert bool((separate[:, 0] != separate[:, 1]).any(-1).all())
    torch.testing.assert_close(shared[:, 0], shared[:, 1])


def test_one_agent_trains_its_own_policy_alone(env):
    actor = make_actor(env)
    act(actor, batch())[:, 1].sum().backward()
    gradients = [p.grad for p in actor.parameters()]
    assert all(bool(gradient[1].any()) for gradient in gradients)
    assert not any(bool(gradient[[0, 2]].any()) for gradient in gradients)


def test_every_matrix_of_every_agent_starts_within_the_bounds_of_glorot_and_fills_them(env):
    weights = matrices(make_actor(env))
    assert [tuple(w.shape) for w in weights] == [(N, 128, O), (N, 128, 128), (N, A, 128)]
    for weight in weights:
        bound = math.sqrt(6 / (weight.shape[1] + weight.shape[2]))
        for matrix in weight:
            assert 0.95 * bound < float(matrix.abs().max()) <= bound


def test_a_shared_policy_starts_within_the_bounds_of_glorot_too(env):
    actor = make_actor(env, share_params=True)
    weights = [p.detach() for p in actor.parameters() if p.ndim == 2]
    assert [tuple(w.shape) for w in weights] == [(128, O), (128, 128), (A, 128)]
    for weight in weights:
        bound = math.sqrt(6 / sum(weight.shape))
        assert 0.95 * bound < float(weight.abs().max()) <= bound


def test_the_policies_of_two_agents_start_apart(env):
    for weight in matrices(make_actor(env)):
        assert not torch.equal(weight[0], weight[1])


def test_a_policy_starts_without_biases_and_with_a_neutral_layer_norm(env):
    actor = make_actor(env)
    assert not any(bias.any() for bias in vectors(actor, "bias"))
    scales = vectors(actor, "weight")
    assert len(scales) == 2
    assert all(bool((scale == 1).all()) for scale in scales)


def test_layer_norm_stands_between_the_linear_map_and_the_activation(env):
    actor, data = make_actor(env, num_cells=(11,)), batch()
    for parameter in actor.parameters():
        nn.init.normal_(parameter.data)
    for agent in range(N):
        weight, bias, scale, shift, last, last_bias = (p[agent] for p in _ordered(actor))
        hidden = nn.functional.linear(data[OBSERVATION][:, agent], weight, bias)
        hidden = nn.functional.layer_norm(hidden, (11,), scale, shift).relu()
        expected = nn.functional.linear(hidden, last, last_bias).tanh()
        torch.testing.assert_close(act(actor, data)[:, agent], expected)


def _ordered(actor: nn.Module) -> list[torch.Tensor]:
    parameters = dict(actor.named_parameters())
    layers = sorted({int(name.split(".")[-2]) for name in parameters})
    return [
        next(p for name, p in parameters.items() if name.endswith(f".{layer}.{kind}"))
        for layer in layers
        for kind in ("weight", "bias")
    ]


def test_the_actor_refuses_actions_that_are_discrete_but_not_one_hot(env):
    spec = Categorical(A, shape=(B, N, 1))
    env.action_spec = Composite(agents=Composite(action=spec, shape=(B, N)), shape=(B,))
    with pytest.raises(ValueError, match="Categorical"):
        make_actor(env)


def test_the_actor_refuses_unbounded_actions(env):
    spec = Unbounded((B, N, A))
    env.action_spec = Composite(agents=Composite(action=spec, shape=(B, N)), shape=(B,))
    with pytest.raises(ValueError, match="Unbounded"):
        make_actor(env)


@pytest.mark.parametrize("make", [make_actor, make_critic, make_influence_network])
def test_a_layer_of_width_0_is_refused(env, make):
    with pytest.raises(ValueError, match=r"at least 1, got .*\b0\b"):
        make(env, num_cells=(11, 0))


@pytest.mark.parametrize("share_params", [False, True])
@pytest.mark.parametrize("num_critics", [1, 2])
@pytest.mark.parametrize("lead", [(B,), (B, 11)])
def test_the_critics_value_every_agent(env, lead, num_critics, share_params):
    critic = make_critic(env, num_critics=num_critics, share_params=share_params)
    assert evaluate(critic, batch(*lead)).shape == (*lead, N, num_critics)


def test_the_critic_reads_observations_and_actions_and_writes_values(env):
    critic = make_critic(env)
    assert critic.in_keys == [OBSERVATION, ACTION]
    assert critic.out_keys == [VALUE]


def test_the_critic_takes_one_hot_actions_as_they_are():
    env = TargetEnv(discrete=True)
    assert evaluate(make_critic(env), env.rand_action(env.reset())).shape == (B, N, 1)


@pytest.mark.parametrize("share_params", [False, True])
def test_two_critics_of_an_agent_are_two_networks(env, share_params):
    values = evaluate(make_critic(env, num_critics=2, share_params=share_params), batch())
    assert bool((values[..., 0] != values[..., 1]).all())


def test_two_critics_have_twice_the_parameters_of_one(env):
    one = N * (O + A) * 11 + 11 + (11 * 13 + 13) + (13 + 1) + 2 * (11 + 13)
    assert count(make_critic(env, num_cells=CELLS)) == N * one
    assert count(make_critic(env, num_cells=CELLS, num_critics=2)) == 2 * N * one


def test_a_shared_critic_pays_for_the_agents_index_alone(env):
    one = (N * (O + A) + N) * 11 + 11 + (11 + 1) + 2 * 11
    assert count(make_critic(env, num_cells=(11,), share_params=True)) == one


def test_a_shared_critic_is_told_the_agents_index(env):
    values = evaluate(make_critic(env, share_params=True), batch())
    assert bool((values[:, 0] != values[:, 1]).all())


@pytest.mark.parametrize("scope", SCOPES.values(), ids=SCOPES)
@pytest.mark.parametrize("share_params", [False, True])
@pytest.mark.parametrize("key", [OBSERVATION, ACTION], ids=["observation", "action"])
def test_critic_i_depends_on_the_agents_of_its_scope_and_on_no_other(env, scope, share_params, key):
    critic, data = make_critic(env, scope=scope, share_params=share_params), batch()
    before = evaluate(critic, data)
    for agent in range(N):
        changed = (evaluate(critic, moved(data, key, agent)) - before).abs() > 1e-6
        torch.testing.assert_close(changed, scope[:, agent, None].expand(B, N, 1))


def test_the_critic_sees_everybody_unless_told_otherwise(env):
    critic, data = make_critic(env), batch()
    before = evaluate(critic, data)
    for agent in range(N):
        assert bool((evaluate(critic, moved(data, ACTION, agent)) != before).all())


@pytest.mark.parametrize("share_params", [False, True])
@pytest.mark.parametrize("num_critics", [1, 2])
def test_a_joint_action_for_each_critic_gives_what_a_loop_over_the_critics_gives(
    env, num_critics, share_params
):
    critic = make_critic(env, num_critics=num_critics, share_params=share_params)
    data, joint = batch(), torch.randn(B, N, N, A)
    together = evaluate(critic, data.clone().set(ACTION, joint))
    for i in range(N):
        alone = evaluate(critic, data.clone().set(ACTION, joint[:, i]))
        torch.testing.assert_close(together[:, i], alone[:, i])


@pytest.mark.parametrize("agents", [(1, 2), (2, 0), (1,)], ids=str)
@pytest.mark.parametrize("scope", SCOPES.values(), ids=SCOPES)
@pytest.mark.parametrize("share_params", [False, True])
@pytest.mark.parametrize("num_critics", [1, 2])
@pytest.mark.parametrize("joint", [(N, A), (N, N, A)], ids=["one", "each"])
def test_the_critics_of_some_agents_alone_give_what_they_give_among_all(
    env, joint, num_critics, share_params, scope, agents
):
    critic = make_critic(env, num_critics=num_critics, share_params=share_params, scope=scope)
    assert critic.chooses_agents  # the losses ask for it
    seen, action = batch()[OBSERVATION], torch.randn(B, *joint)
    alone, among = critic.module(seen, action, agents), critic.module(seen, action)
    torch.testing.assert_close(alone, among[:, list(agents)])
    parameters = list(critic.parameters())
    found = torch.autograd.grad(alone.square().sum(), parameters)
    expected = torch.autograd.grad(among[:, list(agents)].square().sum(), parameters)
    torch.testing.assert_close(found, expected)


def test_one_agent_trains_its_own_critics_alone(env):
    critic = make_critic(env, num_critics=2)
    evaluate(critic, batch())[:, 1].sum().backward()
    gradients = [p.grad for p in critic.parameters()]
    assert all(bool(gradient[[2, 3]].flatten(1).any(-1).all()) for gradient in gradients)
    assert not any(bool(gradient[[0, 1, 4, 5]].any()) for gradient in gradients)


def test_the_scope_travels_with_the_critic(env):
    critic = make_critic(env, scope=SCOPES["chain"])
    other = make_critic(env)
    other.load_state_dict(critic.state_dict())
    torch.testing.assert_close(evaluate(other, batch()), evaluate(critic, batch()))


def test_the_critic_keeps_its_scope_when_the_caller_changes_theirs(env):
    scope = SCOPES["full"].clone()
    critic = make_critic(env, scope=scope)
    before = evaluate(critic, batch())
    scope.fill_(False)
    torch.testing.assert_close(evaluate(critic, batch()), before)


@pytest.mark.parametrize("num_critics", [0, -1])
def test_there_is_at_least_one_critic(env, num_critics):
    with pytest.raises(ValueError, match=f"got {num_critics}"):
        make_critic(env, num_critics=num_critics)


@pytest.mark.parametrize("shape", [(N, N + 1), (N + 1, N + 1), (N,), (1, N, N)])
def test_a_scope_is_of_all_agents_in_both_directions(env, shape):
    with pytest.raises(ValueError, match=re.escape(f"{(N, N)}, got torch.bool of {shape}")):
        make_critic(env, scope=torch.ones(shape, dtype=torch.bool))


def test_a_scope_of_numbers_is_refused(env):
    with pytest.raises(ValueError, match=r"torch\.float32"):
        make_critic(env, scope=torch.ones(N, N))


def test_a_scope_shows_every_critic_its_own_agent(env):
    scope = ~torch.eye(N, dtype=torch.bool)
    with pytest.raises(ValueError, match=re.escape(str(scope.tolist()))):
        make_critic(env, scope=scope)


@pytest.mark.parametrize("lead", [(B,), (B, 11)])
def test_the_influence_network_has_a_head_for_every_agent(env, lead):
    network = make_influence_network(env)
    assert network.in_keys == [OBSERVATION, ACTION]
    assert network.out_keys == [VALUE]
    assert evaluate(network, batch(*lead)).shape == (*lead, N, 1)


def test_the_influence_network_is_one_network_with_n_heads(env):
    one = (N * (O + A) * 11 + 11) + 2 * 11 + (11 * N + N)
    assert count(make_influence_network(env, num_cells=(11,))) == one


@pytest.mark.parametrize("key", [OBSERVATION, ACTION], ids=["observation", "action"])
def test_every_head_of_the_influence_network_depends_on_every_agent(env, key):
    network, data = make_influence_network(env), batch()
    before = evaluate(network, data)
    for agent in range(N):
        assert bool((evaluate(network, moved(data, key, agent)) != before).all())
