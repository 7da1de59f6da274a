"""Tsallis actor-critic's loss: golden numbers, what each network learns from, limits."""

from __future__ import annotations

import math

import pytest
import torch
from fakes import ConstantActor, constant_actor, fixed_draws_actor
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.objectives import SoftUpdate

from torchrl_alita import TsallisLoss
from torchrl_alita.functional import q_logarithm

OBSERVATION, ACTION = ("agents", "observation"), ("agents", "action")
# Of a standard Gaussian at -1 and at 1.
LOG_PROB = -0.5 - 0.5 * math.log(2 * math.pi)
PROB = math.exp(LOG_PROB)


class _Gaussian(nn.Module):
    """The same Gaussian in every state: two parameters."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(1))
        self.log_scale = nn.Parameter(torch.zeros(1))

    def forward(self, observation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (*observation.shape[:-1], 1)
        return self.loc.expand(shape), self.log_scale.exp().expand(shape)


class _Critics(nn.Module):
    """Q_1 = 2 a and Q_2 = a + 1."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor([2.0, 1.0]))
        self.level = nn.Parameter(torch.tensor([0.0, 1.0]))

    def forward(self, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return self.slope * action + self.level


def make_loss(**options) -> TsallisLoss:
    """V = 0.5 everywhere; the two draws are -1 and 1."""
    critics = TensorDictModule(
        _Critics(), in_keys=[OBSERVATION, ACTION], out_keys=[("agents", "state_action_value")]
    )
    value = TensorDictModule(
        ConstantActor(torch.tensor([[0.5]])),
        in_keys=[OBSERVATION],
        out_keys=[("agents", "state_value")],
    )
    defaults = {
        "gamma": 0.9,
        "entropy_coeff": 0.5,
        "reward_scale": 3.0,
        "param_coeff": 0.0,
        "num_action_samples": 2,
    }
    loss = TsallisLoss(fixed_draws_actor(_Gaussian()), critics, value, **(defaults | options))
    SoftUpdate(loss, tau=0.5)
    return loss


def transition(*, terminated: bool = False) -> TensorDict:
    """One step of one agent: action 0.5, reward 1."""
    agents = {"observation": torch.zeros(1, 1, 1), "action": torch.full((1, 1, 1), 0.5)}
    following = {"observation": torch.zeros(1, 1, 1), "reward": torch.ones(1, 1, 1)}
    flag = torch.tensor([[terminated]])
    return TensorDict({"agents": agents, "next": {"agents": following, "terminated": flag}}, [1])


def test_the_critics_are_drawn_to_the_scaled_reward_and_the_values_target():
    """Y = 3 * 1 + 0.9 * 0.5 = 3.45 against Q_1 = 1 and Q_2 = 1.5."""
    losses = make_loss()(transition())
    assert losses["loss_qvalue"].item() == pytest.approx(2.45**2 + 1.95**2)
    assert losses["pred_value"].item() == pytest.approx(1.25)


def test_nothing_comes_after_a_terminal_transition_whose_reward_counts():
    losses = make_loss()(transition(terminated=True))
    assert losses["loss_qvalue"].item() == pytest.approx(2.0**2 + 1.5**2)


def test_the_value_is_drawn_to_the_lower_critic_and_the_tsallis_entropy():
    """Min Q is -2 and 2, in the mean 0; ln_2 p = p - 1 at both draws."""
    losses = make_loss()(transition())
    target = 0.0 - 0.5 * (PROB - 1)
    assert losses["loss_value"].item() == pytest.approx((0.5 - target) ** 2, rel=1e-5)
    assert losses["entropy"].item() == pytest.approx(1 - PROB, rel=1e-5)


def test_the_policy_follows_the_score_function_of_its_draws():
    """Weights Q_1 - V - c q ln_q p at -1 and 1; d log p / d loc is the draw itself."""
    loss = make_loss()
    losses = loss(transition())
    surprise = PROB - 1
    weights = [2 * a - 0.5 - 0.5 * 2 * surprise for a in (-1.0, 1.0)]
    expected = -LOG_PROB * sum(weights) / 2
    assert losses["loss_actor"].item() == pytest.approx(expected, rel=1e-5)
    losses["loss_actor"].backward()
    grads = dict(loss.actor_network_params.named_parameters())
    (loc,) = (param.grad for name, param in grads.items() if name.endswith("loc"))
    assert loc.item() == pytest.approx(-(weights[1] - weights[0]) / 2, rel=1e-5)
    assert loc.item() == pytest.approx(-2.0, rel=1e-5)


def test_entropic_index_one_is_shannons_soft_actor_critic():
    losses = make_loss(entropic_index=1.0)(transition())
    assert losses["entropy"].item() == pytest.approx(-LOG_PROB, rel=1e-5)
    assert losses["loss_value"].item() == pytest.approx((0.5 + 0.5 * LOG_PROB) ** 2, rel=1e-5)


def test_the_penalty_of_the_parameters_holds_the_gaussian_near_the_standard_one():
    loss = make_loss(param_coeff=0.1)
    plain = loss(transition())["loss_actor"].item()
    assert plain == pytest.approx(make_loss()(transition())["loss_actor"].item())
    others = {}
    for coeff in (0.0, 0.1):
        loss = make_loss(param_coeff=coeff, num_action_samples=1, entropy_coeff=0.0)
        for name, param in loss.actor_network_params.named_parameters():
            param.data.fill_(3.0 if name.endswith("loc") else 0.0)
        others[coeff] = loss(transition())["loss_actor"].item()
    assert others[0.1] - others[0.0] == pytest.approx(0.5 * 0.1 * 3.0**2, rel=1e-4)


def test_each_loss_trains_its_own_network_alone():
    for key, own in (("actor", "actor"), ("qvalue", "qvalue"), ("value", "value")):
        loss = make_loss()
        loss(transition())[f"loss_{key}"].backward()
        trained = {
            name.split("_network")[0]
            for name, param in loss.named_parameters()
            if param.grad is not None and param.grad.abs().sum() > 0
        }
        assert trained == {own}


def test_the_q_logarithm_nears_the_logarithm():
    log_prob = torch.tensor([-3.0, -0.5, 0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(q_logarithm(log_prob, 1 + 1e-7), log_prob, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(q_logarithm(log_prob, 2.0), log_prob.exp() - 1)
    torch.testing.assert_close(q_logarithm(log_prob, 3.0), ((2 * log_prob).exp() - 1) / 2)


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({"gamma": 1.5}, "1.5"),
        ({"entropic_index": 0.0}, "0.0"),
        ({"entropy_coeff": -1.0}, "-1.0"),
        ({"reward_scale": 0.0}, "0.0"),
        ({"param_coeff": -0.5}, "-0.5"),
        ({"num_action_samples": 0}, "0"),
        ({"reduction": "median"}, "median"),
    ],
)
def test_what_is_out_of_range_is_refused_with_the_number(options, value):
    with pytest.raises(ValueError, match=value):
        make_loss(**options)


def test_a_deterministic_actor_is_refused():
    networks = make_loss()
    with pytest.raises(ValueError, match="get_dist"):
        TsallisLoss(
            constant_actor(torch.zeros(1, 1)), networks.qvalue_network, networks.value_network
        )
