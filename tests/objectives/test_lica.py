"""LICA: the mixer by hand, whose gradient tells each policy what it is worth, the entropy."""

from __future__ import annotations

import math

import pytest
import torch
from fakes import (
    A,
    B,
    N,
    O,
    S,
    TargetEnv,
    constant_actor,
    joint_actions,
    sequences,
    steps_of_a_game,
    table_actor,
)
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.objectives import SoftUpdate

from torchrl_alita.modules import LICAMixer, make_actor, make_mixing_critic
from torchrl_alita.objectives import LICALoss

DISCRETE = TargetEnv(discrete=True)
STATE = TargetEnv(discrete=True, has_state=True)


class Multilinear(nn.Module):
    """The exact value of a matrix game at probabilities, ``[*B, 2, L] -> [*B, 1]``."""

    def __init__(self, payoff: torch.Tensor):
        super().__init__()
        self.payoff = nn.Parameter(payoff.clone())

    def forward(self, action: torch.Tensor) -> torch.Tensor:
        row, column = action.unbind(-2)
        return torch.einsum("...a,ab,...b->...", row, self.payoff, column).unsqueeze(-1)


def multilinear(payoff: torch.Tensor) -> TensorDictModule:
    return TensorDictModule(
        Multilinear(payoff), in_keys=[("agents", "action")], out_keys=["state_action_value"]
    )


def lica(actor, critic, **options) -> LICALoss:
    loss = LICALoss(actor, critic, **options)
    SoftUpdate(loss, tau=0.5)
    return loss


def logits_of(loss: LICALoss) -> nn.Parameter:
    return loss.actor_network_params["module", "0", "module", "logits"]


def test_its_gradient_is_that_of_the_exact_return_whatever_was_taken():
    torch.manual_seed(0)
    logits = torch.randn(2, 1, 3, dtype=torch.double)
    payoff = torch.randn(3, 3, dtype=torch.double)
    loss = lica(table_actor(logits), multilinear(payoff), entropy_coeff=0.0).double()
    taken = joint_actions(2, 3)[4:5]
    losses = loss(steps_of_a_game(taken, torch.zeros(1, 2, 1).double()))
    losses["loss_actor"].backward()
    exact = logits.clone().requires_grad_()
    row, column = exact.squeeze(1).softmax(-1)
    (row @ payoff @ column).backward()
    torch.testing.assert_close(logits_of(loss).grad, -exact.grad)
    # The critic is told of what was taken alone, and not by the policies.
    losses["loss_qvalue"].backward()
    gradient = loss.qvalue_network_params["module", "payoff"].grad
    assert (gradient != 0).nonzero().tolist() == [[1, 1]]


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_the_pull_to_more_entropy_is_as_strong_however_much_there_is(scale):
    """The gradient of c H / H is c times that of log H."""
    logits = torch.tensor([[[scale, 0.0]], [[0.0, 2 * scale]]])
    loss = lica(table_actor(logits), multilinear(torch.zeros(2, 2)), entropy_coeff=0.5)
    losses = loss(steps_of_a_game(joint_actions(2, 2).float(), torch.zeros(4, 2, 1)))
    losses["loss_actor"].backward()
    exact = logits.clone().requires_grad_()
    shares = exact.softmax(-1)
    entropy = -(shares * shares.log()).sum(-1).mean()
    (0.5 * entropy.log()).backward()
    torch.testing.assert_close(logits_of(loss).grad, -exact.grad)
    assert float(losses["entropy"]) == pytest.approx(float(entropy.detach()))
    assert float(losses["loss_actor"].detach()) == pytest.approx(-0.5)


def test_a_policy_that_is_certain_breaks_nothing():
    loss = lica(table_actor(torch.tensor([[[200.0, 0.0]]] * 2)), multilinear(torch.zeros(2, 2)))
    losses = loss(steps_of_a_game(joint_actions(2, 2).float(), torch.zeros(4, 2, 1)))
    losses["loss_actor"].backward()
    assert bool(logits_of(loss).grad.isfinite().all())


def test_the_team_is_paid_the_mean_and_what_comes_last_counts():
    loss = lica(table_actor(torch.zeros(2, 1, 2)), multilinear(torch.zeros(2, 2)), gamma=0.5)
    batch = steps_of_a_game(
        joint_actions(2, 2).float(), torch.tensor([[2.0], [4.0]]).expand(4, 2, 1)
    )
    assert float(loss(batch)["target_value"]) == 3.0


def test_where_an_episode_is_cut_off_the_policies_probabilities_go_on():
    """Uniform policies: the mean of the four payoffs, 2.5, which no action has."""
    payoff = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    loss = lica(table_actor(torch.zeros(2, 1, 2)), multilinear(payoff), gamma=1.0)
    batch = steps_of_a_game(joint_actions(2, 2).float(), torch.zeros(4, 2, 1))
    batch["next", "terminated"][:] = False
    assert float(loss(batch)["target_value"]) == 2.5


def test_the_mixer_by_hand():
    """Two agents, two actions, one feature of the state, two hidden units."""
    mixer = LICAMixer(action_size=2, num_agents=2, state_size=1, mixing_embed_dim=2)
    with torch.no_grad():
        for param in mixer.parameters():
            param.zero_()
        # W1 for the state 1, joint actions by hidden units.
        mixer.first_weight.weight.copy_(torch.tensor([1.0, -1, 2, 0, 0, 3, 0, 1]).unsqueeze(-1))
        mixer.first_bias.bias.copy_(torch.tensor([0.0, 0.5]))
        mixer.second_weight.weight.copy_(torch.tensor([[10.0], [100.0]]))
        mixer.second_bias[2].bias.fill_(7.0)
    action = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.5, 0.5], [1.0, 0.0]]])
    # Rows 0 and 3: (1 + 0, -1 + 1 + 0.5); the mean of rows 0 and 1, and row 2: (1.5, 3).
    result = mixer(action, torch.ones(2, 1))
    torch.testing.assert_close(result, torch.tensor([[10 + 50 + 7.0], [15 + 300 + 7.0]]))
    # The state multiplies both layers.
    double = mixer(action[:1], torch.full((1, 1), 2.0)).detach()
    assert float(double) == 2 * (20 + 50) + 7.0


def test_the_credit_of_an_agent_depends_on_the_state_and_on_the_others():
    torch.manual_seed(0)
    mixer = LICAMixer(action_size=A, num_agents=N, state_size=S, mixing_embed_dim=13)
    action = torch.rand(B, N, A, requires_grad=True)
    state = torch.randn(B, S)
    (first,) = torch.autograd.grad(mixer(action, state).sum(), action)
    other = action.detach().clone()
    other[:, 1:] += 1
    other.requires_grad_()
    (of_others,) = torch.autograd.grad(mixer(other, state).sum(), other)
    (of_state,) = torch.autograd.grad(mixer(action, state + 1).sum(), action)
    assert bool((first[:, 0] != of_others[:, 0]).any())
    assert bool((first[:, 0] != of_state[:, 0]).all())
    # Unlike QMIX's, it falls with some action and rises with another.
    assert bool((first > 0).any() and (first < 0).any())


def test_two_layers_stay_small_on_the_largest_map():
    """The authors' have 136 million there: 6 agents, 30 actions."""
    sizes = {}
    for layers in (1, 2):
        mixer = LICAMixer(action_size=30, num_agents=6, state_size=282, hypernet_layers=layers)
        sizes[layers] = sum(param.numel() for param in mixer.parameters())
    assert sizes[1] < 3.5e6
    assert sizes[2] < 1e6


@pytest.mark.parametrize("layers", [1, 2])
def test_the_mixing_critic_reads_all_observations_where_there_is_no_state(layers):
    torch.manual_seed(0)
    batch = sequences()
    critic = make_mixing_critic(DISCRETE, hypernet_layers=layers)
    assert critic.in_keys == [("agents", "action"), ("agents", "observation")]
    assert critic.module.mixer.state_size == N * O
    assert critic(batch.copy())["state_action_value"].shape == (*batch.shape, 1)
    assert make_mixing_critic(STATE).in_keys == [("agents", "action"), "state"]


def test_more_steps_of_the_critic_are_of_the_same_loss():
    torch.manual_seed(0)
    loss = lica(make_actor(STATE), make_mixing_critic(STATE))
    batch = sequences()
    whole, alone = loss(batch), loss.critic_losses(batch)
    for name in ("loss_qvalue", "pred_value", "target_value"):
        torch.testing.assert_close(alone[name], whole[name], rtol=0, atol=0)


def test_uniform_policies_have_the_entropy_log_l():
    loss = lica(table_actor(torch.zeros(2, 1, 3)), multilinear(torch.zeros(3, 3)))
    losses = loss(steps_of_a_game(joint_actions(2, 3).float(), torch.zeros(9, 2, 1)))
    assert float(losses["entropy"]) == pytest.approx(math.log(3))


def test_the_policies_of_the_dead_are_not_trained():
    loss = lica(table_actor(torch.tensor([[[0.3, 0.0]], [[0.0, 0.5]]])), multilinear(torch.eye(2)))
    batch = steps_of_a_game(joint_actions(2, 2).float(), torch.zeros(4, 2, 1))
    alive = torch.ones(*batch.batch_size, 2, 1, dtype=torch.bool)
    alive[..., 1, :] = False
    loss(batch.set(("agents", "alive"), alive))["loss_actor"].backward()
    living, dead = logits_of(loss).grad
    assert (living != 0).all()
    assert (dead == 0).all()


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda actor, critic: LICALoss(actor, critic, gamma=1.5), ValueError, "gamma"),
        (lambda actor, critic: LICALoss(actor, critic, lmbda=2), ValueError, "lmbda"),
        (lambda actor, critic: LICALoss(actor, critic, entropy_coeff=-1), ValueError, "entropy"),
        (lambda actor, critic: LICALoss(actor, critic, reduction="x"), ValueError, "reduction"),
        (
            lambda _, critic: LICALoss(constant_actor(torch.zeros(N, A)), critic),
            ValueError,
            "get_dist",
        ),
        (
            lambda actor, critic: lica(actor, critic)(sequences().exclude("state")),
            KeyError,
            "state",
        ),
        (lambda *_: make_mixing_critic(STATE, hypernet_layers=3), ValueError, "hypernet_layers"),
        (lambda *_: make_mixing_critic(STATE, mixing_embed_dim=0), ValueError, "mixing_embed"),
        (
            lambda _, critic: critic.module(torch.zeros(B, N, A + 1), torch.zeros(B, S)),
            ValueError,
            "mixer takes",
        ),
    ],
)
def test_bad_input_has_one_clear_error(call, error, text):
    with pytest.raises(error, match=text):
        call(make_actor(STATE), make_mixing_critic(STATE))
