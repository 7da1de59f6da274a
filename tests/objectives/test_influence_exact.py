"""Every estimator of the influence, fed exact critics, against the exact influence."""

from __future__ import annotations

import pytest
import torch
from fakes import table_actor, table_critic
from tensordict import TensorDict
from torch.nn.functional import one_hot
from torchrl.envs import ExplorationType
from torchrl.objectives import SoftUpdate

from torchrl_alita import (
    AtPolicy,
    BestOf,
    Enumerated,
    InfluenceEstimatorLoss,
    InfluenceLoss,
    InfluenceScoreLoss,
    MADDPGLoss,
    Marginal,
    Trained,
    exact,
)
from torchrl_alita.envs import MarkovGame

S, N, L = 5, 3, 2
INFLUENCER = 1
TEAM = [0, 2]


def make_game(discount: float = 0.7) -> tuple[MarkovGame, torch.Tensor]:
    """A random game and the logits of random policies ``[N, S, L]``."""
    game = MarkovGame.random(4, S, N, L, discount=discount)
    logits = torch.randn(N, S, L, generator=torch.Generator().manual_seed(5))
    return game, logits.double()


def exact_critics(game: MarkovGame, logits: torch.Tensor) -> MADDPGLoss:
    values = exact.joint_values(game, logits.softmax(-1))
    loss = MADDPGLoss(table_actor(logits), table_critic(values), gamma=game.discount)
    SoftUpdate(loss, tau=0.5)
    loss.deterministic_sampling_mode = ExplorationType.RANDOM
    return loss


def value_of(
    kind: str, maddpg: MADDPGLoss, game: MarkovGame, logits: torch.Tensor, samples: int | str
) -> Marginal | Trained:
    """The influenced value of exact critics, by one of the three ways to it."""
    if kind == "marginal":
        return Marginal(samples)
    network = None
    if kind == "centralized":
        network = table_critic(exact.joint_values(game, logits.softmax(-1)))
    estimator = InfluenceEstimatorLoss(maddpg, INFLUENCER, kind=kind, estimator_network=network)
    return Trained(estimator, samples)


def estimated(
    kind: str,
    game: MarkovGame,
    logits: torch.Tensor,
    *,
    loss: type = InfluenceLoss,
    samples: int | str = 1,
    **options,
) -> InfluenceLoss | InfluenceScoreLoss:
    maddpg = exact_critics(game, logits)
    value = value_of(kind, maddpg, game, logits, samples)
    return loss(
        maddpg.actor_network, maddpg, INFLUENCER, value=value, influence_coeff=1.0, **options
    )


def in_state(state: torch.Tensor, action: torch.Tensor, **following) -> TensorDict:
    """A batch in states ``[*B]`` with joint actions ``[*B, N]``."""
    observation = one_hot(state, S).double().unsqueeze(-2).expand(*state.shape, N, S)
    agents = {"observation": observation, "action": one_hot(action, L).double()}
    done = torch.zeros(*state.shape, 1, dtype=torch.bool)
    after = {"done": done, "terminated": done.clone()} | following
    return TensorDict({"agents": agents, "next": after}, state.shape)


def each_state_and_action() -> TensorDict:
    """Every state with every action of the influencer, ``[S, L]``; the others do 0."""
    state = torch.arange(S).unsqueeze(-1).expand(S, L)
    action = torch.zeros(S, L, N, dtype=torch.long)
    action[..., INFLUENCER] = torch.arange(L)
    return in_state(state, action)


def others_variance(game: MarkovGame, logits: torch.Tensor) -> torch.Tensor:
    """Variance of Q_i over the others' actions at each action of the influencer, [N, S, L]."""
    policies = logits.softmax(-1)
    values = exact.joint_values(game, policies).view(N, S, L, L, L)
    joint = torch.einsum("sa,sc->sac", policies[0], policies[2])
    mean = torch.einsum("nsabc,sac->nsb", values, joint)
    return torch.einsum("nsabc,sac->nsb", values.square(), joint) - mean.square()


def mean_and_error(samples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return samples.mean(0), samples.std(0) / len(samples) ** 0.5


@pytest.mark.parametrize("kind", ["marginal", "clones", "centralized"])
def test_all_joint_actions_of_the_others_give_the_exact_influence(kind):
    """The gap at every state and action, and with them Eq. 4, to rounding."""
    game, logits = make_game()
    policies = logits.softmax(-1)
    loss = estimated(
        kind,
        game,
        logits,
        loss=InfluenceScoreLoss,
        samples="all",
        optimum=Enumerated(),
        reduction="none",
    )
    square = loss(each_state_and_action())["loss_influence"]
    gap = exact.marginal_values(game, policies, INFLUENCER) - exact.optimum(
        game, policies
    ).unsqueeze(-1)
    torch.testing.assert_close(square, gap[TEAM].square().mean(0))
    visited = exact.stationary_distribution(game, policies).unsqueeze(-1) * policies[INFLUENCER]
    torch.testing.assert_close(
        (visited * square).sum(), exact.influence(game, policies, INFLUENCER)
    )


@pytest.mark.parametrize("kind", ["marginal", "clones", "centralized"])
@pytest.mark.parametrize("samples", [1, 4])
def test_drawn_actions_of_the_others_add_their_variance(kind, samples):
    """E[(mean of M draws - z)^2] is the squared gap plus Var(Q_i) / M."""
    torch.manual_seed(0)
    game, logits = make_game()
    policies = logits.softmax(-1)
    loss = estimated(
        kind,
        game,
        logits,
        loss=InfluenceScoreLoss,
        samples=samples,
        optimum=Enumerated(),
        reduction="none",
    )
    batch = each_state_and_action().expand(4001, S, L)
    mean, error = mean_and_error(loss(batch)["loss_influence"].detach())
    gap = exact.marginal_values(game, policies, INFLUENCER) - exact.optimum(
        game, policies
    ).unsqueeze(-1)
    added = others_variance(game, logits)[TEAM].mean(0) / samples
    expected = gap[TEAM].square().mean(0) + added
    assert ((mean - expected).abs() < 4 * error).all()
    assert (added > 4 * error).any()


def test_drawn_actions_of_the_influencer_give_the_exact_influence():
    """The pathwise form draws the influencer's action; its mean over draws is Eq. 4's."""
    torch.manual_seed(0)
    game, logits = make_game()
    policies = logits.softmax(-1)
    loss = estimated(
        "marginal",
        game,
        logits,
        samples="all",
        optimum=Enumerated(),
        reduction="none",
    )
    states = exact.stationary_distribution(game, policies)
    state = torch.multinomial(states, 40_009, replacement=True)
    batch = in_state(state, torch.zeros(len(state), N, dtype=torch.long))
    mean, error = mean_and_error(loss(batch)["loss_influence"].detach())
    truth = exact.influence(game, policies, INFLUENCER)
    assert (mean - truth).abs() < 4 * error
    assert error < 0.02 * truth


def test_the_optima_are_lower_bounds_and_the_enumerated_one_is_exact():
    torch.manual_seed(0)
    game, logits = make_game()
    truth = exact.optimum(game, logits.softmax(-1))
    spec = game.full_action_spec_unbatched["agents", "action"]
    batch = each_state_and_action()

    def reached(optimum) -> torch.Tensor:
        """max_u Q_i of the influencees in each state, from the exact value and the gap."""
        values = exact.marginal_values(game, logits.softmax(-1), INFLUENCER)[TEAM].mean(-1)
        loss = estimated(
            "marginal", game, logits, loss=InfluenceScoreLoss, samples="all", optimum=optimum
        )
        gaps = [loss(batch[state : state + 1])["gap"] for state in range(S)]
        return values - torch.stack(gaps, -1)

    truth = truth[TEAM]
    torch.testing.assert_close(reached(Enumerated()), truth)
    climbed = reached(Enumerated(budget=1))
    policy = reached(AtPolicy())
    few = reached(BestOf(uniform=2, spec=spec))
    many = reached(BestOf(uniform=200, spec=spec))
    for bound in (climbed, policy, few, many):
        assert (bound <= truth + 1e-9).all()
    assert (policy < truth - 1e-3).any()
    torch.testing.assert_close(many, truth)


def next_states(game: MarkovGame, policies: torch.Tensor, count: int) -> TensorDict:
    """Steps of the policies from their stationary distribution, ``[count]``."""
    states = exact.stationary_distribution(game, policies)
    state = torch.multinomial(states, count, replacement=True)
    action = torch.stack(
        [torch.multinomial(policies[i, state], 1).squeeze(-1) for i in range(N)], -1
    )
    joint = (action * torch.tensor([L * L, L, 1])).sum(-1)
    after = torch.multinomial(game.transition[state, joint], 1).squeeze(-1)
    observation = one_hot(after, S).double().unsqueeze(-2).expand(count, N, S)
    return in_state(state, action, agents={"observation": observation})


def test_the_optimum_at_the_next_state_misses_where_the_influencers_action_leads():
    """The stored next state follows the stored action, the value is of a fresh one.

    Eq. 7 on a replay buffer is therefore the influence with s' drawn whatever a_1: its
    documented difference from Eq. 7 with s' ~ p(. | s, a_1).
    """
    torch.manual_seed(0)
    game, logits = make_game()
    state = torch.arange(S).unsqueeze(-1)
    led = one_hot((state + 1 + torch.arange(L**N) // L % L) % S, S)  # by the influencer alone
    game = MarkovGame(led, game.reward + torch.arange(S).view(1, S, 1), game.discount)
    policies = logits.softmax(-1)
    loss = estimated(
        "marginal",
        game,
        logits,
        samples="all",
        optimum=Enumerated(at="next"),
        reduction="none",
    )
    batch = next_states(game, policies, 40_009)
    mean, error = mean_and_error(loss(batch)["loss_influence"].detach())
    value = exact.marginal_values(game, policies, INFLUENCER)[TEAM]
    best = exact.optimum(game, policies)[TEAM]
    chain = torch.einsum("su,sut->st", exact.joint_policy(policies), game.transition)
    visited = exact.stationary_distribution(game, policies).unsqueeze(-1) * policies[INFLUENCER]
    square = (value.unsqueeze(-1) - best[:, None, None]).square().mean(0)
    independent = torch.einsum("sa,st,sat->", visited, chain, square)
    assert (mean - independent).abs() < 4 * error
    truth = exact.influence(game, policies, INFLUENCER, optimum_at="next")
    assert (independent - truth).abs() > 10 * error


def rollouts(game: MarkovGame, policies: torch.Tensor, count: int, steps: int) -> TensorDict:
    """Episodes of the policies from their stationary distribution, ``[count, steps]``."""
    state = torch.multinomial(
        exact.stationary_distribution(game, policies), count, replacement=True
    )
    states, actions = [], []
    for _ in range(steps):
        action = torch.stack(
            [torch.multinomial(policies[i, state], 1).squeeze(-1) for i in range(N)], -1
        )
        states.append(state)
        actions.append(action)
        joint = (action * torch.tensor([L * L, L, 1])).sum(-1)
        state = torch.multinomial(game.transition[state, joint], 1).squeeze(-1)
    return in_state(torch.stack(states, 1), torch.stack(actions, 1))


def cut_gradient(game: MarkovGame, policies: torch.Tensor, steps: int) -> torch.Tensor:
    """Theorem 1 with the future cut at the end of a rollout of so many steps, ``[S, L]``."""
    own = policies[INFLUENCER]
    value = exact.marginal_values(game, policies, INFLUENCER)[TEAM]
    gap = value - exact.optimum(game, policies)[TEAM].unsqueeze(-1)
    states = exact.stationary_distribution(game, policies)
    first = exact.influence_gradient(game, policies, INFLUENCER).score
    transition = game.transition.view(S, L, L, L, S)
    leads = torch.einsum("sa,sc,sabct->sbt", policies[0], policies[2], transition)
    chain = torch.einsum("sb,sbt->st", own, leads)
    score = own * (value - (own * value).sum(-1, keepdim=True))
    second = torch.zeros_like(first)
    for delay in range(1, steps):
        share = game.discount**delay * (steps - delay) / steps
        weight = torch.einsum("sb,nsb,sbt->nt", states.unsqueeze(-1) * own, 2 * gap, leads)
        second += share * torch.einsum("nt,nta->ta", weight, score) / len(TEAM)
        leads = leads @ chain
    return first + second


def test_the_cut_gradient_tends_to_theorem_1_with_the_factor_of_its_proof():
    """What a longer rollout leaves out falls as 1/T; the printed form is another number."""
    game, logits = make_game()
    policies = logits.softmax(-1)
    whole = exact.influence_gradient(game, policies, INFLUENCER).total
    printed = exact.influence_gradient(game, policies, INFLUENCER, printed=True).total

    def missing(steps: int) -> torch.Tensor:
        return (cut_gradient(game, policies, steps) - whole).norm()

    assert missing(2000) < 0.002 * whole.norm()
    torch.testing.assert_close(
        missing(400) / missing(800), torch.tensor(2.0).double(), rtol=0.01, atol=0
    )
    assert (printed - whole).norm() > 0.1 * whole.norm()


@pytest.mark.parametrize("kind", ["marginal", "clones", "centralized"])
def test_the_score_gradient_has_theorem_1s_expectation(kind):
    """Within its confidence interval, on rollouts of known length."""
    torch.manual_seed(0)
    game, logits = make_game()
    policies = logits.softmax(-1)
    loss = estimated(
        kind,
        game,
        logits,
        loss=InfluenceScoreLoss,
        samples="all",
        optimum=Enumerated(),
    )
    steps, gradients = 13, []
    for _ in range(60):
        loss.zero_grad()
        loss(rollouts(game, policies, 499, steps))["loss_influence"].backward()
        gradients.append(loss.actor_network_params["module", "0", "module", "logits"].grad.clone())
    mean, error = mean_and_error(torch.stack(gradients))
    expected = cut_gradient(game, policies, steps)
    assert ((mean[INFLUENCER] - expected).abs() < 4 * error[INFLUENCER]).all()
    # The interval is narrow enough to tell the printed form, and the first term alone, apart.
    printed = exact.influence_gradient(game, policies, INFLUENCER, printed=True)
    for other in (printed.total, printed.score):
        assert ((mean[INFLUENCER] - other).abs() > 6 * error[INFLUENCER]).any()
    assert (mean[TEAM] == 0).all()


@pytest.mark.parametrize("kind", ["clones", "centralized"])
def test_exact_critics_are_where_the_estimators_training_comes_to_rest(kind):
    """The mean of their gradient is zero there, whatever the distribution of the batch."""
    torch.manual_seed(0)
    game, logits = make_game()
    policies = logits.softmax(-1)
    loss = estimated(kind, game, logits).estimator
    gradients = []
    for _ in range(60):
        loss.zero_grad()
        batch = next_states(game, policies, 2003)
        joint = (batch["agents", "action"].argmax(-1) * torch.tensor([L * L, L, 1])).sum(-1)
        state = batch["agents", "observation"][:, 0].argmax(-1)
        batch["next", "agents", "reward"] = game.reward[:, state, joint].mT.unsqueeze(-1)
        loss(batch)["loss_estimator"].backward()
        (values,) = [p for p in loss.parameters() if p.shape == (N, S, L**N)]
        gradients.append(values.grad[TEAM].clone())
    mean, error = mean_and_error(torch.stack(gradients))
    assert (mean.abs() < 4.5 * error + 1e-12).all()
    assert (error > 0).any()


def test_the_all_action_gain_is_the_expected_value_and_its_gradient_the_policys():
    """Against the sum over own actions written out, with the others' stored actions."""
    torch.manual_seed(0)
    game, logits = make_game()
    values = exact.joint_values(game, logits.softmax(-1))
    loss = MADDPGLoss(table_actor(logits), table_critic(values), own_actions="all", gamma=0.7)
    SoftUpdate(loss, tau=0.5)
    batch = next_states(game, logits.softmax(-1), 101)
    batch["next", "agents", "reward"] = torch.zeros(101, N, 1, dtype=torch.float64)
    result = loss(batch)["loss_actor"]
    result.backward()
    free = logits.clone().requires_grad_()
    state = batch["agents", "observation"][:, 0].argmax(-1)
    stored = batch["agents", "action"].argmax(-1)
    gain = torch.zeros((), dtype=torch.float64)
    for agent in range(N):
        for own in range(L):
            joint = stored.clone()
            joint[:, agent] = own
            number = (joint * torch.tensor([L * L, L, 1])).sum(-1)
            share = free.softmax(-1)[agent, state, own]
            gain = gain + (share * values[agent, state, number]).mean()
    (-gain).backward()
    torch.testing.assert_close(result, -gain)
    found = loss.actor_network_params["module", "0", "module", "logits"].grad
    torch.testing.assert_close(found, free.grad)
