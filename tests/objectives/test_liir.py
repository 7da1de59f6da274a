"""LIIR: the meta-gradient against finite differences, and against the published code's."""

from __future__ import annotations

import itertools

import pytest
import torch
from fakes import (
    A,
    B,
    N,
    S,
    TargetEnv,
    constant_actor,
    joint_actions,
    sequences,
    steps_of_a_game,
    table_actor,
)
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.modules import set_recurrent_mode
from torchrl.objectives import SoftUpdate

from torchrl_alita.modules import (
    make_actor,
    make_counterfactual_critic,
    make_recurrent_actor,
    make_team_value,
)
from torchrl_alita.objectives import IntrinsicRewardLoss, LIIRLoss, meta_weight

DISCRETE = TargetEnv(discrete=True)
STATE = TargetEnv(discrete=True, has_state=True)
REWARD, WEIGHT = ("agents", "intrinsic_reward"), ("agents", "meta_weight")


class Table(nn.Module):
    """A number of each agent's actions, ``[N, L]``, the same everywhere."""

    def __init__(self, values: torch.Tensor):
        super().__init__()
        self.values = nn.Parameter(values.clone())

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        return self.values.expand(*observation.shape[:-1], -1)


def table(values: torch.Tensor, key: tuple[str, str]) -> TensorDictModule:
    return TensorDictModule(Table(values), [("agents", "observation")], [key])


def liir(actor, rewards: torch.Tensor, **options) -> LIIRLoss:
    """Both values are 0 for one agent and 1 for the other."""
    values = [table(torch.tensor([[0.0], [1.0]]), ("agents", "state_value")) for _ in range(2)]
    intrinsic = IntrinsicRewardLoss(table(rewards, REWARD)).double()
    loss = LIIRLoss(actor, *values, intrinsic, **options).double()
    SoftUpdate(loss, tau=0.5)
    return loss


def of_networks(env: TargetEnv, **options) -> LIIRLoss:
    torch.manual_seed(0)
    intrinsic = IntrinsicRewardLoss(make_counterfactual_critic(env, out_key=REWARD, bound=10.0))
    values = make_team_value(env), make_team_value(env)
    loss = LIIRLoss(make_actor(env), *values, intrinsic, **options)
    SoftUpdate(loss, tau=0.5)
    return loss


def logits_of(loss: LIIRLoss) -> nn.Parameter:
    return loss.actor_network_params["module", "0", "module", "logits"]


# Agent 0 plays its two actions with 1/4 and 3/4, agent 1 with 1/2 each: of eight plays every
# joint action has its exact share.
POLICY = torch.tensor([[[1.0, 3.0]], [[1.0, 1.0]]], dtype=torch.double).log()
PLAYS = [0, 1, 2, 2, 2, 3, 3, 3]
PAYOFF = torch.tensor([8.0, -12.0, 0.0, 6.0], dtype=torch.double)
REWARDS = torch.tensor([[0.3, -0.2], [0.1, 0.5]], dtype=torch.double)


def plays(numbers: list[int]) -> TensorDict:
    pay = PAYOFF[numbers].view(-1, 1, 1).expand(-1, 2, 1)
    return steps_of_a_game(joint_actions(2, 2)[numbers], pay)


def stepped(rewards: torch.Tensor, batch: TensorDict, size: float, **options) -> torch.Tensor:
    """Logits after a step along the proxy gradient, which depends on the intrinsic rewards."""
    loss = liir(table_actor(POLICY), rewards, **options)
    loss(batch)["loss_actor"].backward()
    return POLICY - size * logits_of(loss).grad


def exact_return(logits: torch.Tensor) -> torch.Tensor:
    row, column = logits.squeeze(1).softmax(-1)
    return row @ PAYOFF.view(2, 2) @ column


def by_finite_differences(batch: TensorDict, size: float, **options) -> torch.Tensor:
    """How the exact return of the stepped policies changes with each intrinsic reward."""
    change = torch.zeros_like(REWARDS)
    for place in itertools.product(range(2), range(2)):
        moved = torch.zeros_like(REWARDS)
        moved[place] = 1e-3
        ahead, behind = (
            exact_return(stepped(REWARDS + sign * moved, batch, size, **options))
            for sign in (1, -1)
        )
        change[place] = (ahead - behind) / 2e-3
    return change


def by_the_loss(batch: TensorDict, size: float, **options) -> torch.Tensor:
    """What the descent of the loss climbs, with the scale that it leaves out."""
    loss = liir(table_actor(POLICY), REWARDS, **options)
    old = loss.actor_network_params.data.clone()
    logits_of(loss).data.copy_(stepped(REWARDS, batch, size, **options))
    batch = batch.clone().set(WEIGHT, meta_weight(loss, batch, old))
    loss.intrinsic(batch)["loss_intrinsic"].backward()
    gradient = loss.intrinsic.reward_network_params["module", "values"].grad
    return -gradient * size * float(loss.intrinsic_coeff)


@pytest.mark.parametrize("normalize", [False, True])
def test_the_meta_gradient_is_that_of_finite_differences(normalize):
    """Its sign too: a step on the loss raises what the next policies earn."""
    options = {"normalize_advantage": normalize, "intrinsic_coeff": 0.5}
    batch, size = plays(PLAYS), 1e-3
    expected = by_finite_differences(batch, size, **options)
    found = by_the_loss(batch, size, **options)
    assert float(expected.abs().min()) > 0
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=1e-9)


def published(batch: TensorDict, climb: torch.Tensor) -> torch.Tensor:
    """The step that the authors' code makes on the intrinsic rewards, by its formulas.

    One number for the batch, the product of the mean score's gradient and the return's; then
    the descent of that times the mean target.
    """
    logits = POLICY.clone().requires_grad_()
    taken = batch["agents", "action"].squeeze(1)
    scores = (logits.squeeze(1).log_softmax(-1) * taken).sum(-1)
    (mean_score,) = torch.autograd.grad(scores.mean(), logits)
    number = (mean_score * climb).sum()
    rewards = REWARDS.clone().requires_grad_()
    target = (rewards * taken).sum(-1).mean()
    (step,) = torch.autograd.grad(-number * target, rewards)
    return step


def test_the_published_step_is_a_fraction_of_the_gradient_and_points_the_other_way():
    """The mean score is 0 but for chance: what is left shrinks with the number of scores."""
    logits = POLICY.clone().requires_grad_()
    (climb,) = torch.autograd.grad(exact_return(logits), logits)
    assert float(published(plays(PLAYS), climb).abs().max()) == pytest.approx(0, abs=1e-12)
    options = {"normalize_advantage": False, "intrinsic_coeff": 1.0}
    true = by_the_loss(plays(PLAYS), 1e-6, **options) / 1e-6
    for count in (1, 2):
        batches = list(itertools.product(PLAYS, repeat=count))
        mean = sum(published(plays(list(batch)), climb) for batch in batches) / len(batches)
        scores = 2 * count
        torch.testing.assert_close(mean, -true / scores, rtol=1e-3, atol=1e-9)


def test_the_weight_of_each_play_is_the_product_of_two_gradients():
    """Of networks with a memory, of whose scores each is differentiated alone."""
    torch.manual_seed(0)
    intrinsic = IntrinsicRewardLoss(make_counterfactual_critic(STATE, out_key=REWARD)).double()
    actor = make_recurrent_actor(STATE, hidden_size=11)
    values = make_team_value(STATE), make_team_value(STATE)
    loss = LIIRLoss(actor, *values, intrinsic, normalize_advantage=False).double()
    SoftUpdate(loss, tau=0.5)
    batch = sequences(batch_size=(2, 3))
    batch = batch.apply(lambda value: value.double() if value.is_floating_point() else value)
    params = [p for p in loss.actor_network_params.values(True, True) if p.requires_grad]
    old = loss.actor_network_params.data.clone()
    weight = meta_weight(loss, batch, old)
    # At the old policies themselves the ratios are 1.
    _, extrinsic = loss.advantages(batch)
    with set_recurrent_mode(True), loss.actor_network_params.to_module(actor):
        scores = actor.get_dist(batch.clone()).log_prob(batch["agents", "action"])
    gain = (extrinsic.mean((-1, -2)) * scores.sum(-1)).mean()
    climb = torch.autograd.grad(gain, params, retain_graph=True)
    for place in itertools.product(range(2), range(3), range(N)):
        score = torch.autograd.grad(scores[place], params, retain_graph=True)
        product = sum((a * b).sum() for a, b in zip(climb, score, strict=True))
        torch.testing.assert_close(weight[place].squeeze(), product, rtol=1e-3, atol=1e-9)


def test_a_reward_that_comes_at_the_end_is_learned_from():
    """Of +1 and no other: the return of the steps before it is its discounted value."""
    loss = liir(
        table_actor(torch.zeros(2, 1, 2)), torch.zeros(2, 2), gamma=0.5, lmbda=1.0,
        normalize_advantage=False,
    )  # fmt: skip
    steps = plays([0, 0, 0]).squeeze(1).unsqueeze(0)
    steps["next", "agents", "reward"] = torch.tensor([0.0, 0.0, 1.0]).view(
        1, 3, 1, 1
    ).double() * torch.ones(1, 3, 2, 1)
    for name in ("done", "terminated"):
        steps["next", name] = torch.tensor([[[False], [False], [True]]])
    assert float(loss(steps)["target_value"]) == pytest.approx((1 / 4 + 1 / 2 + 1) / 3)


def test_intrinsic_rewards_differ_between_agents_of_one_team():
    """What LIIR is for: one reward for all, and a gradient for each."""
    loss = liir(
        table_actor(POLICY), torch.tensor([[10.0, 0.0], [0.0, 0.0]]), intrinsic_coeff=1.0,
        normalize_advantage=False,
    )  # fmt: skip
    pay = torch.zeros(8, 2, 1, dtype=torch.double)
    loss(steps_of_a_game(joint_actions(2, 2)[PLAYS], pay))["loss_actor"].backward()
    gradient = logits_of(loss).grad.squeeze(1)
    assert float(gradient[0, 0]) < 0
    assert float(gradient[1].abs().max()) == pytest.approx(0, abs=1e-7)


def test_the_policies_train_no_reward_and_the_reward_no_policy():
    loss = of_networks(STATE)
    batch = sequences()
    losses = loss(batch)
    sum(value for key, value in losses.items() if key.startswith("loss_")).backward()
    params = loss.intrinsic.reward_network_params
    assert all(param.grad is None for param in params.values(True, True))
    loss.zero_grad()
    batch[WEIGHT] = meta_weight(loss, batch, loss.actor_network_params.data.clone())
    loss.intrinsic(batch)["loss_intrinsic"].backward()
    assert any(param.grad is not None for param in params.values(True, True))
    assert all(param.grad is None for param in loss.parameters())


def test_an_agent_without_a_choice_has_no_weight_whichever_action_it_is_left_with():
    masked = TargetEnv(discrete=True)
    spec = masked.observation_spec.clone()
    spec["agents", "action_mask"] = masked.action_spec["agents", "action"].to(torch.bool)
    masked.observation_spec = spec
    loss = of_networks(masked)
    batch = sequences()
    for allowed in range(A):
        mask = torch.ones_like(batch["agents", "action"], dtype=torch.bool)
        mask[:, :, 1] = False
        mask[:, :, 1, allowed] = True
        batch["agents", "action"][:, :, 1] = mask[:, :, 1].float()
        batch["agents", "action_mask"] = batch["next", "agents", "action_mask"] = mask
        weight = meta_weight(loss, batch, loss.actor_network_params.data.clone())
        assert not weight[:, :, 1].any()
        assert bool(weight[:, :, [0, 2]].any())
        other = batch.clone()
        other["next", "agents", "reward"][:, :, 1] += 100.0
        torch.testing.assert_close(loss(other)["loss_actor"], loss(batch)["loss_actor"])


def test_without_intrinsic_rewards_the_two_values_learn_the_same():
    loss = of_networks(DISCRETE, intrinsic_coeff=0.0)
    loss.extrinsic_value_network_params.data.update_(loss.value_network_params.data)
    loss.target_extrinsic_value_network_params.data.update_(loss.target_value_network_params.data)
    losses = loss(sequences())
    torch.testing.assert_close(losses["loss_value"], losses["loss_extrinsic_value"])
    alone = loss.critic_losses(sequences())
    torch.testing.assert_close(alone["loss_value"], losses["loss_value"])


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: of_networks(STATE, gamma=1.5), ValueError, "gamma"),
        (lambda: of_networks(STATE, lmbda=2), ValueError, "lmbda"),
        (lambda: of_networks(STATE, intrinsic_coeff=-1), ValueError, "intrinsic_coeff"),
        (lambda: of_networks(STATE, entropy_coeff=-1), ValueError, "entropy_coeff"),
        (lambda: of_networks(STATE, reduction="x"), ValueError, "reduction"),
        (
            lambda: IntrinsicRewardLoss(constant_actor(torch.zeros(N, A)), gamma=2),
            ValueError,
            "gamma",
        ),
        (
            lambda: of_networks(STATE)(sequences().exclude(("next", "done"))),
            KeyError,
            "done",
        ),
        (
            lambda: of_networks(STATE).intrinsic(sequences().exclude(WEIGHT)),
            KeyError,
            "meta_weight",
        ),
        (
            lambda: of_networks(STATE).intrinsic(sequences().set(WEIGHT, torch.zeros(B, 13, N, 2))),
            ValueError,
            "meta_weight",
        ),
        (lambda: of_networks(STATE)(sequences(batch_size=())), ValueError, r"\[\*B, T\]"),
    ],
)
def test_bad_input_has_one_clear_error(call, error, text):
    with pytest.raises(error, match=text):
        call()
    assert S != A
