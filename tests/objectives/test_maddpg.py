"""Values, gradients and errors of MADDPGLoss."""

from __future__ import annotations

import pytest
import torch
from constructors import ENV, GAMMA, partner, recurrent, touched, weights_of
from fakes import (
    A,
    B,
    N,
    TargetEnv,
    build,
    constant_actor,
    linear_critic,
    random_batch,
    sequences,
    table_actor,
    table_critic,
)
from tensordict import TensorDict
from torchrl.objectives import SoftUpdate

from torchrl_alita import (
    MADDPG,
    MADDPGLoss,
    make_actor,
    make_critic,
)


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


def test_targets_that_look_ahead_are_the_recursion_over_each_episode():
    """G_t = r_t + gamma ((1 - lambda) V_{t+1} + lambda G_{t+1}), from one-step targets alone."""
    lmbda, batch = 0.6, sequences()
    # One that is cut within the sequence, one that ends there.
    batch["next", "done"][:2, 2] = True
    batch["next", "terminated"][1, 2] = True
    one_step = recurrent(reduction="none")

    def target(batch: TensorDict, lmbda: float | None = None) -> torch.Tensor:
        return one_step.critics.td_target(
            batch,
            keys=one_step.tensor_keys,
            gamma=one_step.gamma,
            exploration=one_step.deterministic_sampling_mode,
            lmbda=lmbda,
        )

    unpaid = batch.clone()
    unpaid["next", "agents", "reward"][:] = 0
    following, expected = target(unpaid), target(batch).clone()
    goes_on = ~batch["next", "done"].unsqueeze(-2)
    for t in range(batch.shape[1] - 2, -1, -1):
        further = one_step.gamma * expected[:, t + 1] - following[:, t]
        expected[:, t] += lmbda * goes_on[:, t] * further
    torch.testing.assert_close(target(batch, lmbda), expected)
    ahead = recurrent(lmbda=lmbda)
    assert ("next", "done") in ahead.in_keys
    assert ("next", "done") not in one_step.in_keys
    torch.testing.assert_close(ahead(batch)["target_value"], expected.mean())


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


@pytest.mark.parametrize("settings", [{"lmbda": 1.5, "recurrent": True}, {"lmbda": 0.5}])
def test_lambda_returns_out_of_range_or_without_sequences_are_refused(settings):
    with pytest.raises(ValueError, match="lmbda"):
        MADDPG.Settings(**settings)


def test_a_negative_weight_of_the_logits_is_refused():
    with pytest.raises(ValueError, match=r"-0\.5"):
        partner(logits_coeff=-0.5)


def test_the_algorithms_penalize_what_enters_tanh_and_softmax():
    torch.manual_seed(0)
    for env in (TargetEnv(), TargetEnv(discrete=True)):
        batch = env.rollout(3).reshape(-1)
        plain, penalized = (build(MADDPG, env, num_cells=(13,), logits_coeff=c) for c in (0.0, 1.0))
        penalized.maddpg.load_state_dict(plain.maddpg.state_dict(), strict=False)
        penalized.maddpg.logits_coeff = 1.0
        assert penalized.maddpg(batch)["loss_actor"] > plain.maddpg(batch)["loss_actor"]
