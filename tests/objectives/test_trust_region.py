"""TRPO's objective and divergence by hand, and the step that both define."""

from __future__ import annotations

import math

import pytest
import torch
from fakes import A, B, N, TableActor, random_batch, table_actor
from tensordict import TensorDict
from torch.nn.functional import one_hot

from torchrl_alita import TRPOLoss, make_actor
from torchrl_alita.optim import TrustRegion

STATES = 5


def log(*probabilities: float) -> torch.Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


def one_state(old: torch.Tensor, actions: list[int], advantages: list[float]) -> TensorDict:
    """Rows of one agent in one state, drawn by a policy with these log-probabilities."""
    rows = len(actions)
    agents = {
        "observation": torch.ones(rows, 1, 1),
        "action": one_hot(torch.tensor(actions), len(old)).unsqueeze(1),
        "logits": old.expand(rows, 1, -1),
        "advantage": torch.tensor(advantages).reshape(rows, 1, 1),
    }
    agents = {key: value.double() for key, value in agents.items()}
    return TensorDict({"agents": agents}, [rows])


def test_objective_and_divergence_are_those_computed_by_hand():
    loss = TRPOLoss(table_actor(log(0.5, 0.5).reshape(1, 1, 2)))
    batch = one_state(log(0.8, 0.2), [0, 1], [3.0, -1.0])
    result = loss(batch)
    # Ratios 0.5 / 0.8 and 0.5 / 0.2.
    assert result["loss_objective"].item() == pytest.approx(-(0.625 * 3 - 2.5) / 2)
    divergence = 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)
    assert result["kl"].item() == pytest.approx(divergence)
    assert loss.divergence(batch).item() == pytest.approx(divergence)


def test_objective_and_divergence_are_means_over_the_agents():
    logits = torch.stack([log(0.5, 0.5), log(0.8, 0.2)]).unsqueeze(1)
    batch = one_state(log(0.8, 0.2), [0], [3.0])
    both = batch["agents"].apply(lambda value: value.expand(1, 2, -1))
    result = TRPOLoss(table_actor(logits))(TensorDict({"agents": both}, [1]))
    assert result["loss_objective"].item() == pytest.approx(-(0.625 * 3 + 3) / 2)
    one = 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)
    assert result["kl"].item() == pytest.approx(one / 2)


def test_the_divergence_curves_as_the_exact_fisher_matrix():
    """Of a softmax: diag(p) - p p^T, weighted by how often a state was seen."""
    torch.manual_seed(0)
    logits = torch.randn(1, STATES, 3, dtype=torch.float64)
    actor = table_actor(logits)
    states = torch.tensor([0, 0, 2, 3, 3, 3])
    seen = one_hot(states, STATES).double().unsqueeze(1)
    agents = {
        "observation": seen,
        "action": one_hot(torch.zeros_like(states), 3).double().unsqueeze(1),
        "logits": torch.einsum("bns,nsl->bnl", seen, logits),
        "advantage": torch.ones(6, 1, 1, dtype=torch.float64),
    }
    batch, loss = TensorDict({"agents": agents}, [6]), TRPOLoss(actor)
    table = next(m for m in actor.modules() if isinstance(m, TableActor)).logits
    (slope,) = torch.autograd.grad(loss.divergence(batch), table, create_graph=True)
    torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-12, rtol=0)
    rows = [
        torch.autograd.grad(entry, table, retain_graph=True)[0].reshape(-1)
        for entry in slope.reshape(-1)
    ]
    expected = torch.zeros(STATES, 3, STATES, 3, dtype=torch.float64)
    for state in range(STATES):
        p = logits[0, state].softmax(-1)
        share = (states == state).double().mean()
        expected[state, :, state] = share * (p.diag() - p.outer(p))
    torch.testing.assert_close(torch.stack(rows), expected.reshape(3 * STATES, -1))


def test_the_step_of_a_softmax_goes_along_the_advantages_and_keeps_the_region():
    """The natural gradient of a softmax is the advantage itself, up to a constant."""
    old = log(0.5, 0.3, 0.2)
    actor = table_actor(old.reshape(1, 1, 3))
    # Each action as often as the policy takes it.
    batch = one_state(old, [0] * 5 + [1] * 3 + [2] * 2, [1.0] * 5 + [-1.0] * 3 + [0.5] * 2)
    loss = TRPOLoss(actor)
    optimizer = TrustRegion(loss.parameters(), max_kl=1e-4, damping=1e-8)
    done = optimizer.step(lambda: loss(batch)["loss_objective"], lambda: loss.divergence(batch))
    table = next(m for m in actor.modules() if isinstance(m, TableActor)).logits
    moved = (table.detach().reshape(3) - old).double()
    advantage = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64)
    centered = moved - moved.mean(), advantage - advantage.mean()
    cosine = torch.nn.functional.cosine_similarity(*centered, dim=0)
    assert cosine == pytest.approx(1, abs=1e-6)
    assert 0.9e-4 < done.kl <= 1e-4
    assert done.objective < -0.3


def test_a_forbidden_action_stays_finite_in_value_gradient_and_curvature():
    from fakes import TargetEnv

    from torchrl_alita.modules import GumbelOneHot

    torch.manual_seed(0)
    actor = make_actor(TargetEnv(discrete=True), num_cells=(11,))
    actor[-1] = GumbelOneHot(masked=True)
    batch = random_batch()
    batch["agents", "action"] = one_hot(torch.zeros(B, N, dtype=torch.long), A).float()
    mask = torch.ones(B, N, A, dtype=torch.bool)
    mask[:3, :, 1] = False
    batch["agents", "action_mask"] = mask
    batch["agents", "logits"] = actor[0](batch.copy())["agents", "logits"].detach()
    batch["agents", "advantage"] = torch.ones(B, N, 1)
    loss = TRPOLoss(actor)
    done = TrustRegion(loss.parameters(), max_kl=0.01).step(
        lambda: loss(batch)["loss_objective"], lambda: loss.divergence(batch)
    )
    assert torch.isfinite(done.objective)
    assert 0 < done.kl <= 0.01


def test_it_refuses_entries_of_another_shape():
    loss = TRPOLoss(table_actor(log(0.5, 0.5).reshape(1, 1, 2)))
    batch = one_state(log(0.8, 0.2), [0, 1], [3.0, -1.0])
    for key, value in (("advantage", torch.ones(2, 1, 3)), ("action", torch.ones(2, 1, 3))):
        with pytest.raises(ValueError, match=key):
            loss(batch.clone().set(("agents", key), value.double()))


def test_it_refuses_a_deterministic_actor():
    from fakes import TargetEnv

    with pytest.raises(ValueError, match="stochastic"):
        TRPOLoss(make_actor(TargetEnv(), num_cells=(11,)))
    with pytest.raises(ValueError, match="reduction"):
        TRPOLoss(table_actor(torch.zeros(1, 1, 2)), reduction="median")
