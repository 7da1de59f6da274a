"""MAVEN: one latent variable for a team and an episode, and a team that shows which."""

from __future__ import annotations

import math

import pytest
import torch
from fakes import A, B, H, N, S, TargetEnv, Z, sequences
from tensordict import TensorDict
from torch import nn
from torchrl.envs import ExplorationType, check_env_specs, set_exploration_type
from torchrl.modules import set_recurrent_mode
from torchrl.objectives import SoftUpdate

from torchrl_alita import ValueDecompositionLoss
from torchrl_alita.modules import (
    make_discriminator,
    make_latent_mixer,
    make_latent_policy,
    make_latent_qnetwork,
)
from torchrl_alita.objectives import MAVENLoss
from torchrl_alita.transforms import EpisodeLatent, recurrent_transforms

DISCRETE = TargetEnv(discrete=True)
STATE = TargetEnv(discrete=True, has_state=True)
VALUE = ("agents", "action_value")


def networks(env: TargetEnv = STATE, **options) -> list[nn.Module]:
    torch.manual_seed(0)
    return [
        make_latent_qnetwork(env, num_latents=Z, hidden_size=H),
        make_latent_mixer(env, num_latents=Z),
        make_discriminator(env, num_latents=Z, **options),
    ]


def maven(env: TargetEnv = STATE, recurrent: bool = True, **options) -> MAVENLoss:
    loss = MAVENLoss(*networks(env, recurrent=recurrent), **options)
    SoftUpdate(loss, tau=0.5)
    return loss


class Steps(TargetEnv):
    """Environments whose episodes have different lengths."""

    def _step(self, tensordict: TensorDict) -> TensorDict:
        result = super()._step(tensordict)
        ended = self.steps >= torch.arange(len(self.steps)).unsqueeze(-1) % 3 + 1
        return result.update({"done": ended, "truncated": ended.clone()})


def test_a_latent_variable_stays_for_an_episode_and_is_drawn_anew_for_the_next():
    torch.manual_seed(0)
    env = Steps(num_envs=31).append_transform(EpisodeLatent(Z))
    check_env_specs(env)
    episodes = env.rollout(12, break_when_any_done=False)
    latent = episodes["latent"]
    assert latent.shape == (31, 12, Z)
    assert bool((latent.sum(-1) == 1).all())
    torch.testing.assert_close(episodes["next", "latent"], latent)
    drawn, done = latent.argmax(-1), episodes["next", "done"].squeeze(-1)
    stays = drawn[:, 1:] == drawn[:, :-1]
    assert bool(stays[~done[:, :-1]].all())
    # By chance one in 19 is the same.
    assert 0 < float(stays[done[:, :-1]].float().mean()) < 0.2


def test_each_value_is_drawn_equally_often_or_as_a_policy_says():
    torch.manual_seed(0)
    env = TargetEnv(num_envs=3000, discrete=True).append_transform(EpisodeLatent(3))
    shares = env.reset()["latent"].mean(0)
    torch.testing.assert_close(shares, torch.full((3,), 1 / 3), atol=0.03, rtol=0)
    policy = make_latent_policy(TargetEnv(discrete=True), num_latents=3)
    with torch.no_grad():
        policy[0].module.net[2].weight.zero_()
        policy[0].module.net[2].bias.copy_(torch.tensor([0.1, 0.2, 0.7]).log())
    env = TargetEnv(num_envs=3000, discrete=True).append_transform(EpisodeLatent(3, policy=policy))
    shares = env.reset()["latent"].mean(0)
    torch.testing.assert_close(shares, torch.tensor([0.1, 0.2, 0.7]), atol=0.03, rtol=0)
    assert list(env.parameters()) == []
    # Greedy is the likeliest, for all of an episode, with its log-probability.
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        steps = env.rollout(3)
    assert bool((steps["latent"].argmax(-1) == 2).all())
    torch.testing.assert_close(steps["latent_log_prob"], torch.full((3000, 3), 0.7).log())
    check_env_specs(env)


def test_the_last_layer_is_that_of_the_latent_variable_and_the_agent():
    network, *_ = networks()
    batch = sequences(batch_size=(B,))
    gru = network[0]
    values = network(batch.copy())
    states = values["next", "agents", "recurrent_state"]
    weights = gru.decoder.weight.unflatten(0, (H, A))
    bias = gru.decoder.bias.unflatten(0, (H, A))
    for row in range(B):
        z = int(batch["latent"][row].argmax())
        for agent in range(N):
            matrix = weights[..., z] + weights[..., Z + agent] + bias
            expected = states[row, agent] @ matrix
            torch.testing.assert_close(values[VALUE][row, agent], expected)


def test_steps_and_sequences_have_the_same_values():
    network, *_ = networks()
    batch = sequences(batch_size=(B, 5))
    batch["is_init"][:] = False
    batch["is_init"][:, 0] = batch["is_init"][:, 3] = True
    with set_recurrent_mode(True):
        whole = network(batch.copy())[VALUE]
    state = torch.zeros(B, N, H)
    for step in range(5):
        each = batch[:, step].clone().set(("agents", "recurrent_state"), state)
        each = network(each)
        state = each["next", "agents", "recurrent_state"]
        torch.testing.assert_close(each[VALUE], whole[:, step])


@pytest.mark.parametrize("env", [DISCRETE, STATE], ids=["observations", "state"])
def test_without_the_bound_it_is_qmix_with_a_latent_variable(env):
    loss = maven(env, mutual_information_coeff=0.0)
    network, mixer, _ = networks(env)
    qmix = ValueDecompositionLoss(network, mixer)
    SoftUpdate(qmix, tau=0.5)
    batch = sequences()
    first, second = loss(batch), qmix(batch)
    for name in ("loss_qvalue", "pred_value", "target_value"):
        torch.testing.assert_close(first[name], second[name])
    assert float(first["loss_discriminator"].detach()) == 0.0
    other = batch.clone()
    other["latent"] = batch["latent"].roll(1, -1)
    assert float(loss(other)["pred_value"]) != float(first["pred_value"])


def test_a_guess_that_knows_nothing_costs_the_entropy():
    loss = maven(recurrent=False)
    with torch.no_grad():
        for param in loss.discriminator_network_params.values(True, True):
            param.zero_()
    losses = loss(sequences())
    assert float(losses["loss_discriminator"].detach()) == pytest.approx(math.log(Z))


@pytest.mark.parametrize("recurrent", [True, False])
def test_the_bounds_gradient_reaches_the_agents_and_the_discriminator(recurrent):
    loss = maven(recurrent=recurrent)
    loss(sequences())["loss_discriminator"].backward()
    for name in ("local_value_network", "discriminator_network"):
        params = getattr(loss, f"{name}_params").values(True, True)
        assert any(p.grad is not None and bool(p.grad.any()) for p in params), name
    assert all(p.grad is None for p in loss.mixer_network_params.values(True, True))


@pytest.mark.parametrize("recurrent", [True, False])
def test_the_guess_remembers_the_episode_and_no_other(recurrent):
    _, _, discriminator = networks(recurrent=recurrent)
    batch = sequences(batch_size=(B, 6))
    batch[VALUE] = torch.randn(B, 6, N, A)
    batch["is_init"][:] = False
    batch["is_init"][:, 3] = True
    other = batch.clone()
    other["state"][:, 1] += 1.0
    with set_recurrent_mode(True):
        first, second = (discriminator(each)["latent_logits"] for each in (batch, other))
    differs = (first != second).any(-1).all(0)
    assert differs.tolist() == [False, True, recurrent, False, False, False]


def test_a_team_learns_to_show_its_latent_variable():
    """By what it does: the guess sees action values and a state that says nothing."""
    loss = maven(recurrent=False)
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-2)
    batch = sequences(batch_size=(B, 3))
    batch["state"][:] = 0
    # Fewer values than the team has ways to act.
    few = torch.randint(4, (B, 3))
    batch["latent"] = nn.functional.one_hot(few, Z).float()
    before = float(loss(batch)["recognized"])
    for _ in range(80):
        optimizer.zero_grad()
        loss(batch)["loss_discriminator"].backward()
        optimizer.step()
    assert float(loss(batch)["recognized"]) > 0.9 > before


def test_a_rollout_with_all_transforms_trains_it():
    torch.manual_seed(0)
    network, mixer, discriminator = networks()
    loss = MAVENLoss(network, mixer, discriminator)
    SoftUpdate(loss, tau=0.5)
    env = TargetEnv(discrete=True, has_state=True)
    env = env.append_transform(recurrent_transforms(network))
    losses = loss(env.rollout(9, network, break_when_any_done=False))
    (losses["loss_qvalue"] + losses["loss_discriminator"]).backward()
    assert all(p.grad is not None for p in loss.parameters())


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: maven(mutual_information_coeff=-1), ValueError, "mutual_information_coeff"),
        (lambda: maven()(sequences().exclude("latent")), KeyError, "latent"),
        (
            lambda: maven()(sequences().set("latent", torch.zeros(B, 13, 2))),
            ValueError,
            "latent",
        ),
        (lambda: EpisodeLatent(0), ValueError, "num_latents"),
        (lambda: EpisodeLatent(2, policy=maven()), ValueError, "latent_log_prob"),
        (
            lambda: (
                TargetEnv()
                .append_transform(
                    EpisodeLatent(2, policy=make_latent_policy(TargetEnv(), num_latents=3))
                )
                .reset()
            ),
            ValueError,
            "latent",
        ),
        (lambda: make_latent_qnetwork(TargetEnv(), num_latents=2), ValueError, "one-hot"),
        (lambda: make_latent_mixer(STATE, num_latents=0), ValueError, "num_latents"),
        (lambda: make_discriminator(STATE, num_latents=0), ValueError, "num_latents"),
        (lambda: make_latent_policy(STATE, num_latents=0), ValueError, "num_latents"),
    ],
)
def test_bad_input_has_one_clear_error(call, error, text):
    with pytest.raises(error, match=text):
        call()
    assert S != Z
