"""When the influence says something that the policy's own objective does not: docs/influence.md."""

from __future__ import annotations

import pytest
import torch
from fakes import TargetEnv, random_batch, table_actor, table_critic
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torch.nn.functional import one_hot
from torchrl.envs import ExplorationType
from torchrl.objectives import SoftUpdate

from torchrl_alita import (
    ALITA,
    Enumerated,
    InfluenceLoss,
    InfluenceScoreLoss,
    MADDPGLoss,
    Marginal,
    OwnGradient,
    TDTarget,
    Team,
    exact,
)
from torchrl_alita.envs import MarkovGame

S, N, A, L = 5, 3, 2, 3
INFLUENCE_COEFF = 0.3


class ActionOfState(nn.Module):
    """Deterministic policies with an action of their own for each state, ``[S, N, A]``."""

    def __init__(self, action: torch.Tensor):
        super().__init__()
        self.action = nn.Parameter(action.clone())

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        return self.action[observation[..., 0, :].argmax(-1)]


class Bowl(nn.Module):
    """Q_i(s, a) = best_i(s) - scale_i ||a - target_i(s)||^2, for all joint actions ``[*B, N, A]``.

    Also for a joint action of each critic, ``[*B, N, N, A]``.
    """

    def __init__(self, target: torch.Tensor, best: torch.Tensor, scale: torch.Tensor):
        super().__init__()
        self.target, self.best = nn.Parameter(target), nn.Parameter(best)
        self.scale = nn.Parameter(scale)

    def forward(self, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        state = observation[..., 0, :].argmax(-1)
        if action.ndim == observation.ndim:
            action = action.unsqueeze(-3)
        error = (action - self.target[state]).square().sum((-1, -2))
        return (self.best[state] - self.scale * error).unsqueeze(-1)


KEYS = {"observation": ("agents", "observation"), "action": ("agents", "action")}


def game(target: torch.Tensor, scale: torch.Tensor, **options) -> tuple[MADDPGLoss, TensorDict]:
    """Critics with the optima of the states known, and each state once.

    One step is an episode, so that the target of Q_i is the reward: here the optimum.
    """
    generator = torch.Generator().manual_seed(0)
    action = torch.randn(S, N, A, generator=generator, dtype=torch.float64)
    best = torch.randn(S, 1, generator=generator, dtype=torch.float64).expand(S, N)
    actor = TensorDictModule(
        ActionOfState(action), in_keys=[KEYS["observation"]], out_keys=[KEYS["action"]]
    )
    critic = TensorDictModule(
        Bowl(target, best.clone(), scale),
        in_keys=list(KEYS.values()),
        out_keys=[("agents", "state_action_value")],
    )
    loss = MADDPGLoss(actor, critic, others_actions="policy", **options)
    SoftUpdate(loss, tau=0.5)
    seen = torch.eye(S, dtype=torch.float64).unsqueeze(1).expand(S, N, S)
    following = {
        "agents": {"observation": seen, "reward": best.unsqueeze(-1)},
        "terminated": torch.ones(S, 1, dtype=torch.bool),
    }
    agents = {"observation": seen, "action": torch.zeros(S, N, A, dtype=torch.float64)}
    return loss, TensorDict({"agents": agents, "next": following}, [S])


def gradient(loss: torch.Tensor, maddpg: MADDPGLoss, agent: int = 0) -> torch.Tensor:
    """With regard to an agent's action in each state, ``[S, A]``, of a mean over the states."""
    (action,) = maddpg.actor_network.parameters()
    return torch.autograd.grad(loss, action)[0][:, agent] * S


def influence(maddpg: MADDPGLoss, team: Team | int = 0, **options) -> InfluenceLoss:
    """With the true optimum, which is the reward of these games."""
    options = {"influence_coeff": INFLUENCE_COEFF, "optimum": TDTarget(), **options}
    return InfluenceLoss(maddpg.actor_network, maddpg, team, **options)


def shared_target() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(S, 1, N, A, generator=generator, dtype=torch.float64).expand(S, N, N, A)


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_with_one_reward_for_all_it_only_weighs_the_states_by_their_gap(scale):
    """Its gradient is 2 lambda |g(s)| times the policy's own, in each state."""
    maddpg, batch = game(shared_target().clone(), torch.full((N,), scale).double())
    own = gradient(maddpg(batch)["loss_actor"], maddpg)
    added = gradient(influence(maddpg)(batch)["loss_influence"], maddpg)
    (action,) = maddpg.actor_network.parameters()
    gap = scale * (action - shared_target()[:, 0]).square().sum((-1, -2), keepdim=True)[..., 0]
    torch.testing.assert_close(added, 2 * INFLUENCE_COEFF * gap * own)


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("team", [0, Team(N, influencers="all"), Team(N, weights=[0.9, 0.1])])
def test_in_the_unit_of_its_own_gradient_it_weighs_its_coefficient_whatever_the_rewards(
    scale, team
):
    """The mean over the states of its gradient's size relative to the policy's own."""
    maddpg, batch = game(shared_target().clone(), torch.full((N,), scale).double())
    own = gradient(maddpg(batch)["loss_actor"], maddpg)
    loss = influence(maddpg, team, unit=OwnGradient(decay=0.0).double())
    added = gradient(loss(batch)["loss_influence"], maddpg)
    torch.testing.assert_close((added / own).mean(), torch.tensor(INFLUENCE_COEFF).double())
    assert (added / own).std() > 0.1 * INFLUENCE_COEFF


def test_the_unit_is_a_running_mean_that_evaluation_leaves_alone():
    """Mean sizes of 1 and 4 with a decay of 0.75: (0.75 * 1 + 4) / (0.75 + 1)."""
    unit, weights = OwnGradient(decay=0.75), torch.ones(1, 1)
    first, second = torch.full((7, 1, 1), -1.0), torch.full((7, 1, 1), 4.0)
    torch.testing.assert_close(unit(first, weights), torch.tensor(2.0))
    expected = torch.tensor(2 * 4.75 / 1.75)
    torch.testing.assert_close(unit(second, weights), expected)
    unit.eval()
    torch.testing.assert_close(unit(first, weights), expected)
    mask = torch.arange(7) < 2
    padded = torch.where(mask[:, None, None], first, torch.full((7, 1, 1), 100.0))
    fresh = OwnGradient(decay=0.0).eval()
    torch.testing.assert_close(fresh(padded, weights, mask), torch.tensor(2.0))


def test_with_rewards_of_their_own_it_pulls_to_what_the_teammates_lack():
    """Its gradient is the sum of theirs, weighted by alpha and by their gaps."""
    generator = torch.Generator().manual_seed(2)
    target = torch.randn(S, N, N, A, generator=generator, dtype=torch.float64)
    maddpg, batch = game(target.clone(), torch.ones(N).double())
    own = gradient(maddpg(batch)["loss_actor"], maddpg)
    weights = [0.8, 0.2]
    loss = influence(maddpg, Team(N, weights=weights))
    added = gradient(loss(batch)["loss_influence"], maddpg)
    (action,) = maddpg.actor_network.parameters()
    expected = torch.zeros(S, A).double()
    for alpha, i in zip(weights, (1, 2), strict=True):
        error = action - target[:, i]
        gap = error.square().sum((-1, -2))
        expected += alpha * 2 * gap.unsqueeze(-1) * 2 * error[:, 0]
    torch.testing.assert_close(added, INFLUENCE_COEFF * expected)
    cosine = torch.cosine_similarity(added.flatten(), own.flatten(), dim=0)
    assert cosine.abs() < 0.9


def test_an_influencer_with_nothing_to_gain_helps_its_teammates_through_its_influence_alone():
    """Its own value hangs on no action; theirs on its action alone."""
    target = torch.zeros(S, N, N, A).double()
    target[:, :, 0] = 1.5
    maddpg, batch = game(target, torch.tensor([0.0, 1.0, 1.0]).double())
    (action,) = maddpg.actor_network.parameters()
    with torch.no_grad():
        action[:, 1:] = 0.0
    assert (gradient(maddpg(batch)["loss_actor"], maddpg) == 0).all()
    loss = influence(maddpg)
    before = loss(batch)["gap"]
    optimizer = torch.optim.Adam([action], lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        loss(batch)["loss_influence"].backward()
        optimizer.step()
    assert (before < -1).all()
    assert (loss(batch)["gap"] > 0.05 * before).all()
    assert (action[:, 1:] == 0).all()


# Stochastic policies


def one_reward_for_all(num_actions: int) -> tuple[MarkovGame, torch.Tensor]:
    game = MarkovGame.random(3, S, N, num_actions, discount=0.7)
    game = MarkovGame(game.transition, game.reward[:1].expand(N, -1, -1).clone(), game.discount)
    logits = torch.randn(N, S, num_actions, generator=torch.Generator().manual_seed(4))
    # The others are nearly sure: the best that can be had is then near to what is had.
    logits[1:] *= 8
    return game, logits.double()


def test_of_a_stochastic_policy_it_is_the_squared_gap_and_the_variance_of_its_own_actions():
    game, logits = one_reward_for_all(L)
    policies = logits.softmax(-1)
    value = exact.marginal_values(game, policies, 0)[1]
    best = exact.optimum(game, policies)[1]
    states = exact.stationary_distribution(game, policies)
    mean = (policies[0] * value).sum(-1)
    variance = (policies[0] * (value - mean.unsqueeze(-1)).square()).sum(-1)
    expected = (states * ((mean - best).square() + variance)).sum()
    torch.testing.assert_close(exact.influence(game, policies, 0), expected)
    assert (states * variance).sum() > 0.01 * expected


@pytest.mark.parametrize(("num_actions", "parallel"), [(2, True), (3, False)])
def test_with_more_than_two_actions_it_is_no_weight_of_the_states_although_all_share_a_reward(
    num_actions, parallel
):
    """The loss of each step, against the policy gradient of the same value in the same state."""
    game, logits = one_reward_for_all(num_actions)
    values = exact.joint_values(game, logits.softmax(-1))
    maddpg = MADDPGLoss(table_actor(logits), table_critic(values), gamma=game.discount)
    SoftUpdate(maddpg, tau=0.5)
    maddpg.deterministic_sampling_mode = ExplorationType.RANDOM
    # One step is an episode: the second term of Theorem 1 has no earlier step.
    loss = InfluenceScoreLoss(
        maddpg.actor_network,
        maddpg,
        value=Marginal("all"),
        optimum=Enumerated(),
        reduction="none",
    )
    state = torch.arange(S).view(S, 1, 1).expand(S, num_actions, 1)
    action = torch.zeros(S, num_actions, 1, N, dtype=torch.long)
    action[..., 0] = torch.arange(num_actions).view(1, -1, 1)
    seen = one_hot(state, S).double().unsqueeze(-2).expand(S, num_actions, 1, N, S)
    agents = {"observation": seen, "action": one_hot(action, num_actions).double()}
    done = torch.ones(S, num_actions, 1, 1, dtype=torch.bool)
    batch = TensorDict(
        {"agents": agents, "next": {"done": done, "terminated": done}}, [S, num_actions, 1]
    )
    policy = logits.softmax(-1)[0]
    (parameter,) = maddpg.actor_network.parameters()
    (added,) = torch.autograd.grad(
        (policy * loss(batch)["loss_influence"].squeeze(-1)).sum(), parameter
    )
    value = exact.marginal_values(game, logits.softmax(-1), 0)[1]
    own = policy * (value - (policy * value).sum(-1, keepdim=True))
    cosine = torch.cosine_similarity(-added[0], own, dim=-1)
    if parallel:
        torch.testing.assert_close(cosine, torch.ones(S).double())
    else:
        # The same side, and yet another direction.
        assert (cosine > 0).all()
        assert (cosine < 0.99).any()


def test_the_test_environment_has_other_sizes():
    """So that a silent broadcast fails."""
    assert len({S, N, A, TargetEnv().batch_size[0]}) == 4


def test_alita_takes_the_unit_from_its_settings():
    losses = []
    for unit in ("return", "own_gradient"):
        torch.manual_seed(0)
        settings = ALITA.Settings(num_cells=(5,), influence_unit=unit, num_optimum_samples=0)
        batch = random_batch()
        losses.append(ALITA(TargetEnv(), settings).update({"batch": batch, "recent": batch}))
    torch.testing.assert_close(losses[0]["influence_0"], losses[1]["influence_0"])
    gap = sum(losses[0][f"gap_0_{i}"].abs() / 2 for i in (1, 2))
    torch.testing.assert_close(losses[1]["loss_influence"], losses[0]["loss_influence"] / (2 * gap))
