"""COMA: what its critic sees, targets by hand, the exact gradient of a game."""

from __future__ import annotations

import pytest
import torch
from fakes import (
    A,
    B,
    N,
    O,
    TargetEnv,
    constant_actor,
    joint_actions,
    random_batch,
    sequences,
    steps_of_a_game,
    table_actor,
)
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.envs import ExplorationType
from torchrl.objectives import SoftUpdate

from torchrl_alita.modules import make_actor, make_counterfactual_critic
from torchrl_alita.objectives import COMALoss

DISCRETE = TargetEnv(discrete=True)
STATE = TargetEnv(discrete=True, has_state=True)
VALUE = ("agents", "action_value")


class OfOthers(nn.Module):
    """Values ``[N, L**N]`` of joint actions, as of each agent's own ones, ``[*B, N, L]``."""

    def __init__(self, payoff: torch.Tensor, num_actions: int):
        super().__init__()
        num_agents = len(payoff)
        self.values = nn.Parameter(payoff.view(num_agents, *(num_actions,) * num_agents).clone())

    def forward(self, action: torch.Tensor) -> torch.Tensor:
        num_agents = action.shape[-2]
        chosen = action.argmax(-1)
        rows = []
        for agent in range(num_agents):
            index = [chosen[..., other] for other in range(num_agents) if other != agent]
            values = self.values[agent].movedim(agent, -1)
            rows.append(values[tuple(index)])
        return torch.stack(rows, -2)


def of_others(payoff: torch.Tensor, num_actions: int) -> TensorDictModule:
    net = OfOthers(payoff, num_actions)
    return TensorDictModule(net, in_keys=[("agents", "action")], out_keys=[VALUE])


def coma(actor, critic, **options) -> COMALoss:
    loss = COMALoss(actor, critic, **options)
    SoftUpdate(loss, tau=0.5)
    return loss


def test_its_expected_gradient_is_that_of_the_exact_return():
    """Two agents, three actions, the critic exact: over all joint actions by their share."""
    torch.manual_seed(0)
    logits = torch.randn(2, 1, 3, dtype=torch.double)
    payoff = torch.randn(1, 9, dtype=torch.double).expand(2, 9)
    loss = coma(table_actor(logits), of_others(payoff, 3), reduction="none").double()
    actions = joint_actions(2, 3)
    batch = steps_of_a_game(actions, payoff.T.unsqueeze(-1))
    exact = logits.clone().requires_grad_()
    policy = exact.squeeze(1).softmax(-1)
    shares = (policy[0].unsqueeze(-1) * policy[1]).flatten()
    (shares * payoff[0]).sum().backward()
    each = loss(batch)["loss_actor"].squeeze(1)
    # The loss is a mean over two agents.
    (-2 * each * shares.detach()).sum().backward()
    found = loss.actor_network_params["module", "0", "module", "logits"].grad
    torch.testing.assert_close(found, exact.grad)


def test_targets_look_ahead_to_the_end_of_an_episode():
    """Two agents without a choice, whose critic says 10 and 20 everywhere."""
    values = torch.tensor([[10.0], [20.0]])
    loss = coma(
        table_actor(torch.zeros(2, 1, 1)), of_others(values, 1), gamma=0.5, lmbda=0.5,
        reduction="none",
    )  # fmt: skip
    ones = torch.ones(1, 3, 2, 1)
    agents = {"observation": ones, "action": ones}
    following = {
        "observation": ones,
        "reward": torch.tensor([1.0, 2.0, 4.0]).view(1, 3, 1, 1) * ones,
    }
    done = torch.tensor([[[False], [True], [False]]])
    ends = {"agents": following, "done": done, "terminated": done}
    batch = TensorDict({"agents": agents, "next": ends}, [1, 3])
    losses = loss(batch)
    # 1 + 0.5 * (0.5 * 10 + 0.5 * 2) = 4 and 1 + 0.5 * (0.5 * 20 + 0.5 * 2) = 6.5; 2 and 2;
    # 4 + 0.5 * 10 = 9 and 4 + 0.5 * 20 = 14.
    errors = [(36 + 13.5**2) / 2, (64 + 18**2) / 2, (1 + 36) / 2]
    assert losses["loss_qvalue"].flatten().tolist() == errors
    # A policy without a choice has neither advantage nor entropy.
    assert losses["loss_actor"].flatten().tolist() == [0.0] * 3
    assert float(losses["entropy"]) == 0.0


def test_the_target_is_of_the_action_taken_next_within_the_rollout():
    torch.manual_seed(0)
    loss = coma(make_actor(DISCRETE), make_counterfactual_critic(DISCRETE), lmbda=0.0,
                reduction="none")  # fmt: skip
    batch = sequences(batch_size=(1, 3))
    batch["next", "done"][:] = batch["next", "terminated"][:] = False
    other = batch.clone()
    other["agents", "action"][:, 1] = 1 - other["agents", "action"][:, 1]
    # The stored next observation is not that of the next row, so that only the action counts.
    for name in ("observation",):
        other["agents", name] = batch["agents", name]
    first, second = loss(batch)["loss_qvalue"], loss(other)["loss_qvalue"]
    assert (first != second).tolist() == [[True, True, False]]
    other["next", "done"][:, 0] = batch["next", "done"][:, 0] = True
    first, second = loss(batch)["loss_qvalue"], loss(other)["loss_qvalue"]
    assert (first != second).tolist() == [[False, True, False]]


def test_where_the_rollout_ends_the_next_action_is_the_policies():
    """Likeliest in the loss as it is, drawn where an algorithm says so."""
    logits = torch.tensor([[[2.0, 0.0]], [[0.0, 1.0]]])
    payoff = torch.tensor([[1.0, 2.0, 3.0, 4.0]] * 2)
    loss = coma(table_actor(logits), of_others(payoff, 2), gamma=1.0)
    batch = steps_of_a_game(joint_actions(2, 2).float(), torch.zeros(4, 2, 1))
    for name in ("done", "terminated"):
        batch["next", name][:] = False
    # Both agents' likeliest: row 0, column 1.
    assert float(loss(batch)["target_value"]) == 2.0
    loss.deterministic_sampling_mode = ExplorationType.RANDOM
    torch.manual_seed(0)
    batch = batch.expand(1000, *batch.shape).reshape(-1, 1)
    row, column = torch.sigmoid(torch.tensor([-2.0, 1.0]))
    expected = 1 + 2 * row + column
    assert float(loss(batch)["target_value"]) == pytest.approx(float(expected), abs=0.03)


@pytest.mark.parametrize("env", [DISCRETE, STATE], ids=["observations", "state"])
def test_the_critic_sees_everything_but_its_own_action(env):
    torch.manual_seed(0)
    critic = make_counterfactual_critic(env)
    batch = sequences(batch_size=(B,))
    value = critic(batch.copy())[VALUE]
    assert value.shape == (B, N, A)
    for agent in range(N):
        other = batch.clone()
        other["agents", "action"][:, agent] = 1 - other["agents", "action"][:, agent]
        same = (critic(other)[VALUE] == value).all(-1).all(0)
        assert same.tolist() == [i == agent for i in range(N)]
    moved = batch.clone()
    moved["state"] += 1
    assert bool((critic(moved)[VALUE] == value).all()) == (env is DISCRETE)
    moved = batch.clone()
    moved["agents", "observation"][:, 0] += 1
    differs = (critic(moved)[VALUE] != value).any(-1).any(0)
    # With a state an agent sees its own observation alone.
    assert differs.tolist() == [True, env is DISCRETE, env is DISCRETE]


def test_agents_that_see_the_same_differ_by_their_index():
    torch.manual_seed(0)
    batch = random_batch()
    for name in ("observation", "action"):
        batch["agents", name] = batch["agents", name][:, :1].expand(B, N, -1)
    without = batch.clone()
    without["agents", "action"] = torch.zeros(B, N, A)
    values = make_counterfactual_critic(DISCRETE)(without)[VALUE]
    assert bool((values[:, 0] != values[:, 1]).all())


def test_a_bounded_critic_stays_within():
    torch.manual_seed(0)
    critic = make_counterfactual_critic(STATE, bound=0.1, out_key="x")
    batch = sequences(batch_size=(B,))
    free = make_counterfactual_critic(STATE, out_key="x")
    free.load_state_dict(critic.state_dict())
    expected = 0.1 * torch.tanh(free(batch.copy())["x"] / 0.1)
    torch.testing.assert_close(critic(batch)["x"], expected)


def test_more_steps_of_the_critic_are_of_the_same_loss():
    torch.manual_seed(0)
    loss = coma(make_actor(STATE), make_counterfactual_critic(STATE))
    batch = sequences()
    whole, alone = loss(batch), loss.critic_losses(batch)
    for name in ("loss_qvalue", "pred_value", "target_value"):
        torch.testing.assert_close(alone[name], whole[name], rtol=0, atol=0)
    alone["loss_qvalue"].backward()
    assert all(param.grad is None for param in loss.actor_network_params.values(True, True))


def test_the_dead_do_not_count_among_the_advantages():
    """They have one action: their row may say anything."""
    masked = TargetEnv(discrete=True)
    spec = masked.observation_spec.clone()
    spec["agents", "action_mask"] = masked.action_spec["agents", "action"].to(torch.bool)
    masked.observation_spec = spec
    torch.manual_seed(0)
    loss = coma(make_actor(masked), make_counterfactual_critic(masked), normalize_advantage=True)
    batch = sequences()
    mask = torch.ones_like(batch["agents", "action"], dtype=torch.bool)
    mask[:, :, 1, 0] = False
    batch["agents", "action"][:, :, 1] = torch.tensor([0.0, 1.0])
    batch["agents", "action_mask"] = batch["next", "agents", "action_mask"] = mask
    first = loss(batch)["loss_actor"]
    first.backward()
    other = batch.clone()
    other["next", "agents", "reward"][:, :, 1] += 100.0
    torch.testing.assert_close(loss(other)["loss_actor"], first)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda actor, critic: COMALoss(actor, critic, gamma=1.5), ValueError, "gamma"),
        (lambda actor, critic: COMALoss(actor, critic, lmbda=-0.1), ValueError, "lmbda"),
        (lambda actor, critic: COMALoss(actor, critic, entropy_coeff=-1), ValueError, "entropy"),
        (lambda actor, critic: COMALoss(actor, critic, reduction="x"), ValueError, "reduction"),
        (
            lambda _, critic: COMALoss(constant_actor(torch.zeros(N, A)), critic),
            ValueError,
            "get_dist",
        ),
        (
            lambda actor, critic: coma(actor, critic)(sequences().exclude("state")),
            KeyError,
            "state",
        ),
        (
            lambda actor, critic: coma(actor, critic)(sequences(batch_size=())),
            ValueError,
            r"\[\*B, T\]",
        ),
        (lambda *_: make_counterfactual_critic(TargetEnv()), ValueError, "one-hot"),
        (lambda *_: make_counterfactual_critic(STATE, bound=0), ValueError, "bound"),
    ],
)
def test_bad_input_has_one_clear_error(call, error, text):
    with pytest.raises(error, match=text):
        call(make_actor(STATE), make_counterfactual_critic(STATE))


def test_a_critic_of_other_actions_is_refused():
    one = TensorDictModule(nn.Linear(O, 1), [("agents", "observation")], [VALUE])
    with pytest.raises(ValueError, match="action"):
        coma(make_actor(STATE), one)(sequences())
