"""Exact values, influence and influence gradient of a Markov game, in float64.

Source: Eq. 3, 4, 5 and 7 of https://arxiv.org/abs/2108.12581, by linear solves on
the arrays of a :class:`torchrl_alita.envs.games.MarkovGame`: the truth that
estimators are held against. Everything but :func:`optimum` and
:func:`influence_gradient` is differentiable with respect to the policies.

Letters in shapes: N agents, S states, L actions of each agent; joint actions
``L**N`` in C order. Policies are always ``[N, S, L]``: one distribution over the
actions for each agent and state. The paper's agent 1 is the ``influencer``, counted
from 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from torchrl_alita._checks import (
    check_agent_range,
    check_distribution,
)
from torchrl_alita.team import Team

if TYPE_CHECKING:
    from torchrl_alita.envs.games import MarkovGame

__all__ = [
    "InfluenceGradient",
    "influence",
    "influence_gradient",
    "joint_policy",
    "joint_values",
    "marginal_mean",
    "marginal_values",
    "optimum",
    "stationary_distribution",
    "team_optimum",
]


class InfluenceGradient(NamedTuple):
    """Theorem 1 term by term, each ``[S, L]``: ``total = score + value``.

    Source: Eq. 5 of https://arxiv.org/abs/2108.12581, see :func:`influence_gradient`.
    """

    score: torch.Tensor
    value: torch.Tensor
    total: torch.Tensor


def joint_policy(policies: torch.Tensor) -> torch.Tensor:
    r"""Probabilities of the joint actions, ``[N, S, L] -> [S, L**N]``.

    .. math:: \boldsymbol{\pi}(\mathbf{a} | s) = \prod_k \pi_k(a_k | s)

    Source: the product of Eq. 3 of https://arxiv.org/abs/2108.12581, over all agents.

    Args:
        policies: ``[N, S, L]``.

    Returns:
        ``[S, L**N]`` in C order over the agents, float64.

    Raises:
        ValueError: if policies is not ``[N, S, L]``, or a row is not a distribution
            within 1e-6; the row is named.

    Examples:
        >>> joint_policy(torch.tensor([[[0.5, 0.5]], [[0.2, 0.8]]], dtype=torch.float64))
        tensor([[0.1000, 0.4000, 0.1000, 0.4000]], dtype=torch.float64)
    """
    if policies.ndim != 3 or 0 in policies.shape:
        raise ValueError(f"policies must have the shape (N, S, L), got {tuple(policies.shape)}.")
    policies = policies.double()
    check_distribution("policies", policies.detach())
    return _product(policies)


def joint_values(game: MarkovGame, policies: torch.Tensor) -> torch.Tensor:
    r"""Action values of the current policies, ``[N, S, L] -> [N, S, L**N]``.

    .. math::
        Q_i(s, \mathbf{a}) = r_i(s, \mathbf{a}) + \gamma \sum_{s'} T(s' | s, \mathbf{a})
        \, \mathbb{E}_{\mathbf{a}' \sim \boldsymbol{\pi}} [Q_i(s', \mathbf{a}')]

    Source: the Q_i of Eq. 4 of https://arxiv.org/abs/2108.12581. Solved for the
    values of the states, a system of size S. No episode ends: a horizon truncates.

    Args:
        game: its ``transition``, ``reward`` and ``discount`` are read.
        policies: ``[N, S, L]``.

    Returns:
        ``[N, S, L**N]``, float64, differentiable with respect to the policies.

    Raises:
        ValueError: if policies does not fit the game, or a row is not a distribution.

    Examples:
        >>> from torchrl_alita.envs.games import MatrixGame
        >>> game = MatrixGame([[1.0, 3.0]], discount=0.5)
        >>> joint_values(game, torch.tensor([[[0.5, 0.5]]]))
        tensor([[[3., 5.]]], dtype=torch.float64)
    """
    joint = _product(_check_policies(game, policies))
    mean_reward = (joint * game.reward).sum(-1)
    values = _discounted_solve(game, _state_transition(game, joint), mean_reward)
    return game.reward + game.discount * torch.einsum("sut,nt->nsu", game.transition, values)


def marginal_mean(values: torch.Tensor, policies: torch.Tensor, influencer: int) -> torch.Tensor:
    r"""Mean over the others' actions, ``[*B, S, L**N], [N, S, L] -> [*B, S, L]``.

    .. math:: \mathbb{E}_{\mathbf{a}_{-1} \sim \boldsymbol{\pi}_{-1}(. | s)}[v(s, \mathbf{a})]

    Source: what Eq. 3 of https://arxiv.org/abs/2108.12581 does with rewards and transitions.

    Args:
        values: of each state and joint action, these in C order.
        policies: ``[N, S, L]``; the influencer's own is not read.
        influencer: the agent whose action is the last index.

    Returns:
        ``[*B, S, L]``, differentiable.

    Raises:
        ValueError: if there is no such agent.

    Examples:
        >>> marginal_mean(torch.tensor([[0.0, 4.0, 2.0, 6.0]]), torch.full((2, 1, 2), 0.5), 0)
        tensor([[2., 4.]])
    """
    check_agent_range("influencer", [influencer], len(policies))
    before, after = _product(policies[:influencer]), _product(policies[influencer + 1 :])
    others = before.unsqueeze(-1) * after.unsqueeze(-2)
    split = (before.shape[1], policies.shape[-1], after.shape[1])
    return torch.einsum("sbc,...sbac->...sa", others, values.unflatten(-1, split))


def marginal_values(game: MarkovGame, policies: torch.Tensor, influencer: int) -> torch.Tensor:
    r"""Influenced values of all agents, Eq. 3, ``[N, S, L] -> [N, S, L]``.

    .. math::
        q_i^{\pi_1}(s, a_1) = \mathbb{E}_{\mathbf{a}_{-1}}[r_i(s, \mathbf{a})] + \gamma
        \sum_{s'} p(s' | s, a_1) \, \mathbb{E}_{a_1' \sim \pi_1}[q_i^{\pi_1}(s', a_1')]

    Source: https://arxiv.org/abs/2108.12581. Solved as it stands, a system of size
    S * L of its own, in which :func:`joint_values` has no part. The two agree: this is
    the mean of the joint values over the others' policies.

    Args:
        game: its ``transition``, ``reward`` and ``discount`` are read.
        policies: ``[N, S, L]``.
        influencer: the agent whose action is the last index.

    Returns:
        ``[N, S, L]``, the influencer's own value included; float64, differentiable with
        respect to the policies of all agents.

    Raises:
        ValueError: if policies does not fit the game, a row is not a distribution, or
            there is no such agent.

    Examples:
        >>> from torchrl_alita.envs.games import MatrixGame
        >>> game = MatrixGame([[0.0, 0.0, 0.0, 0.0], [0.0, 4.0, 2.0, 6.0]])
        >>> marginal_values(game, torch.full((2, 1, 2), 0.5), influencer=0)[1]
        tensor([[2., 4.]], dtype=torch.float64)
    """
    policies = _check_policies(game, policies)
    reward, transition = _marginal_model(game, policies, influencer)
    pairs = (transition.unsqueeze(-1) * policies[influencer]).flatten(2).flatten(0, 1)
    return _discounted_solve(game, pairs, reward.flatten(1)).unflatten(1, transition.shape[:2])


def stationary_distribution(game: MarkovGame, policies: torch.Tensor) -> torch.Tensor:
    r"""Long-run share of the time in each state, ``[N, S, L] -> [S]``.

    .. math:: d(s') = \sum_s d(s) \sum_{\mathbf{a}} \boldsymbol{\pi}(\mathbf{a} | s)
        \, T(s' | s, \mathbf{a}), \qquad \sum_s d(s) = 1

    Source: the state distribution that Eq. 4 of https://arxiv.org/abs/2108.12581
    leaves open. It is that of play without end, whatever the horizon and the initial
    states of the game. There is one only if the states that are visited for ever form
    one recurrent class, which is assumed; a period is no obstacle.

    Args:
        game: its ``transition`` is read.
        policies: ``[N, S, L]``.

    Returns:
        ``[S]``, float64, differentiable with respect to the policies.

    Raises:
        ValueError: if there are several recurrent classes, up to the precision of
            float64; if policies does not fit the game, or a row is not a distribution.

    Examples:
        >>> from torchrl_alita.envs.games import MarkovGame
        >>> transition = [[[0.75, 0.25]], [[0.5, 0.5]]]
        >>> game = MarkovGame(transition, [[[0.0], [0.0]]], 0.9)
        >>> stationary_distribution(game, torch.ones(1, 2, 1))
        tensor([0.6667, 0.3333], dtype=torch.float64)
    """
    joint = _product(_check_policies(game, policies))
    chain = _state_transition(game, joint)
    # d (I - P + 1 1^T) = 1^T has one solution exactly when there is one recurrent class.
    matrix = torch.eye(game.num_states, dtype=chain.dtype, device=chain.device) - chain + 1
    rank = int(torch.linalg.matrix_rank(matrix.detach()))
    if rank < game.num_states:
        raise ValueError(
            f"The policies' Markov chain of {game.num_states} states must have one recurrent "
            f"class, got {game.num_states - rank + 1}: no stationary distribution is the only one."
        )
    # Rounding leaves a transient state slightly negative.
    return torch.linalg.solve(matrix.mT, torch.ones_like(matrix[0])).clamp(min=0)


def optimum(game: MarkovGame, policies: torch.Tensor) -> torch.Tensor:
    r"""Best value of each agent over the joint actions, ``[N, S, L] -> [N, S]``.

    .. math:: \max_{\mathbf{u}} Q_i(s, \mathbf{u})

    Source: Eq. 4 of https://arxiv.org/abs/2108.12581, with the Q_i of the current
    policies: the best single deviation, not the value of the best policy.

    Args:
        game: its ``transition``, ``reward`` and ``discount`` are read.
        policies: ``[N, S, L]``.

    Returns:
        ``[N, S]``, float64, without gradient (the remark under Eq. 7).

    Raises:
        ValueError: if policies does not fit the game, or a row is not a distribution.

    Examples:
        >>> from torchrl_alita.envs.games import MatrixGame
        >>> optimum(MatrixGame([[1.0, 3.0]], discount=0.5), torch.tensor([[[0.5, 0.5]]]))
        tensor([[5.]], dtype=torch.float64)
    """
    return joint_values(game, policies.detach()).amax(-1)


@torch.no_grad()
def team_optimum(game: MarkovGame) -> torch.Tensor:
    r"""Best values that a team can reach together, ``-> [S, L**N]``.

    .. math::
        Q^*(s, \mathbf{a}) = \frac{1}{N} \sum_i r_i(s, \mathbf{a}) + \gamma \sum_{s'}
        T(s' | s, \mathbf{a}) \max_{\mathbf{u}} Q^*(s', \mathbf{u})

    The game as one decision process over joint actions, for the mean of the agents'
    rewards, by policy iteration, which ends after finitely many steps. Unlike
    :func:`optimum` it is the value of the best joint policy: what a cooperative team
    is held against. It is not in the paper.

    Args:
        game: its ``transition``, ``reward`` and ``discount`` are read.

    Returns:
        ``[S, L**N]``, float64; its maximum over the joint actions is the optimal value
        of each state.

    Examples:
        >>> from torchrl_alita.envs.games import MatrixGame
        >>> team_optimum(MatrixGame([[1.0, 3.0]], discount=0.5))
        tensor([[4., 6.]], dtype=torch.float64)
    """
    reward = game.reward.mean(0, keepdim=True)
    states = torch.arange(game.num_states, device=reward.device)
    chosen = reward[0].argmax(-1)
    while True:
        chain = game.transition[states, chosen]
        values = _discounted_solve(game, chain, reward[0, states, chosen].unsqueeze(0))[0]
        action_values = reward[0] + game.discount * game.transition @ values
        best, better = action_values.max(-1)
        # Rounding must not make two equal actions take turns for ever.
        improves = best > values + 1e-12 * (1 + values.abs())
        if not bool(improves.any()):
            return action_values
        chosen = torch.where(improves, better, chosen)


def influence(
    game: MarkovGame,
    policies: torch.Tensor,
    influencer: int,
    *,
    influencees: Sequence[int] | None = None,
    optimum_at: str = "current",
    weights: Sequence[float] | None = None,
    state_distribution: torch.Tensor | None = None,
) -> torch.Tensor:
    r"""Influence of one policy on the team, Eq. 4 or 7, ``[N, S, L] -> []``.

    .. math::
        F(\pi_1) = \sum_i \alpha_i \, \mathbb{E}_{s \sim d, \, a_1 \sim \pi_1,
        \, s' \sim p(\cdot | s, a_1)} \big[(q_i^{\pi_1}(s, a_1)
        - \max_{\mathbf{u}} Q_i(\bar{s}, \mathbf{u}))^2\big]

    Source: https://arxiv.org/abs/2108.12581. With the optimum at ``"current"`` it is
    Eq. 4: the state under the maximum is s. With ``"next"`` it is s': the mean is
    taken of the squared gap, over the next states under the others' policies. Eq. 7
    is this only on policy: it reads s' from the buffer, where another action of
    the influencer may have led to it. Small is influential.

    The optimum carries no gradient, and by default neither does the state
    distribution, as in Theorem 1: what autograd gives is :func:`influence_gradient`.

    Args:
        game: its ``transition``, ``reward`` and ``discount`` are read.
        policies: ``[N, S, L]``.
        influencer: the agent whose influence it is.
        influencees: the teammates that count. Default: all others.
        optimum_at: ``"current"`` or ``"next"``.
        weights: alpha, one for each influencee, positive, summing to 1. Default:
            equal.
        state_distribution: ``[S]``; one that carries gradient is differentiated
            too. Default: :func:`stationary_distribution`, detached.

    Returns:
        A scalar, float64, differentiable with respect to the policies.

    Raises:
        ValueError: if an argument does not fit the game, a row or the state
            distribution is not a distribution, optimum_at is another word, or there are
            several recurrent classes and no state distribution is given.

    Examples:
        The teammate can get 6; it gets 2 or 4 on average, as the influencer chooses.

        >>> from torchrl_alita.envs.games import MatrixGame
        >>> game = MatrixGame([[0.0, 0.0, 0.0, 0.0], [0.0, 4.0, 2.0, 6.0]])
        >>> influence(game, torch.full((2, 1, 2), 0.5), influencer=0)
        tensor(10., dtype=torch.float64)
    """
    policies = _check_policies(game, policies)
    alpha = _team_weights(game, influencer, influencees, weights)
    states = _check_states(game, policies, state_distribution)
    value = marginal_values(game, policies, influencer)
    _, square = _gap_moments(game, policies, influencer, value, optimum_at)
    visited = states.unsqueeze(-1) * policies[influencer]
    return (visited * torch.einsum("n,nsa->sa", alpha, square)).sum()


@torch.no_grad()
def influence_gradient(
    game: MarkovGame,
    policies: torch.Tensor,
    influencer: int,
    *,
    influencees: Sequence[int] | None = None,
    optimum_at: str = "current",
    weights: Sequence[float] | None = None,
    state_distribution: torch.Tensor | None = None,
    printed: bool = False,
) -> InfluenceGradient:
    r"""Gradient of the influence, Theorem 1 (Eq. 5), ``[N, S, L] -> [S, L]``.

    .. math::
        \nabla F = \sum_i \alpha_i \, \mathbb{E}_{s \sim d, a_1 \sim \pi_1} \Big[
        \underbrace{\nabla \log \pi_1(a_1 | s) \, g_i^2}_{score} + \underbrace{2 g_i \,
        \frac{\gamma}{1 - \gamma} \, \mathbb{E}_{s' \sim \rho(\cdot | s, a_1), a_1' \sim \pi_1}
        [\nabla \log \pi_1(a_1' | s') \, q_i^{\pi_1}(s', a_1')]}_{value} \Big]

    Source: https://arxiv.org/abs/2108.12581, where rho is the normalized discounted
    distribution of the states visited from one step after (s, a_1) on,
    :math:`\rho(s' | s, a_1) = (1 - \gamma) \sum_{k \ge 0} \gamma^k \Pr(S_{k+1} = s' |
    s, a_1)`. The factor :math:`\gamma / (1 - \gamma)` is what the proof hides behind
    "proportional to": without it the two terms do not add up, unless gamma is 1/2,
    where it is 1. (Eq. 5 writes the inner expectation as over s; the proof's is
    over rho.)

    Differentiated: with respect to the influencer's logits, ``pi_1 = softmax(logits)``
    in each state, the actions' probabilities and, through them, q. Held: the others'
    policies, the state distribution d, and the optimum, although it moves with
    pi_1. Logits of a policy are its logarithm up to a constant in each state, on which
    the gradient does not depend, so that the policies say it all.

    Args:
        game: as in :func:`influence`.
        policies: ``[N, S, L]``.
        influencer: as in :func:`influence`.
        influencees: as in :func:`influence`.
        optimum_at: as in :func:`influence`. For ``"next"``, g and its square stand for
            their means over s'.
        weights: as in :func:`influence`.
        state_distribution: as in :func:`influence`.
        printed: leave the factor out, as the paper prints it.

    Returns:
        :class:`InfluenceGradient`, each ``[S, L]``, float64.

    Raises:
        ValueError: as in :func:`influence`.

    Examples:
        >>> from torchrl_alita.envs.games import MatrixGame
        >>> payoff = [[0.0, 0.0, 0.0, 0.0], [0.0, 4.0, 2.0, 6.0]]
        >>> game = MatrixGame(payoff, discount=0.75)
        >>> gradient = influence_gradient(game, torch.full((2, 1, 2), 0.5), influencer=0)
        >>> gradient.score
        tensor([[ 3., -3.]], dtype=torch.float64)
        >>> gradient.value
        tensor([[ 9., -9.]], dtype=torch.float64)
    """
    policies = _check_policies(game, policies)
    alpha = _team_weights(game, influencer, influencees, weights)
    states = _check_states(game, policies, state_distribution)
    own = policies[influencer]
    visited = states.unsqueeze(-1) * own
    value = marginal_values(game, policies, influencer)
    gap, square = _gap_moments(game, policies, influencer, value, optimum_at)
    score = states.unsqueeze(-1) * _score_mean(own, torch.einsum("n,nsa->sa", alpha, square))
    # What each state and teammate weighs: 2 g summed over where one came from.
    reached = torch.einsum("sa,nsa,sat->nt", 2 * visited, gap, _visits(game, policies, influencer))
    second = torch.einsum("n,nt,nta->ta", alpha, reached, _score_mean(own, value))
    if not printed:
        second = second * game.discount / (1 - game.discount)
    return InfluenceGradient(score=score, value=second, total=score + second)


def _product(policies: torch.Tensor) -> torch.Tensor:
    """Joint actions of any number of agents, none included, ``[N, S, L] -> [S, L**N]``."""
    joint = policies.new_ones(policies.shape[1], 1)
    for policy in policies:
        joint = (joint.unsqueeze(-1) * policy.unsqueeze(-2)).flatten(-2)
    return joint


def _state_transition(game: MarkovGame, joint: torch.Tensor) -> torch.Tensor:
    return torch.einsum("su,sut->st", joint, game.transition)


def _marginal_model(
    game: MarkovGame, policies: torch.Tensor, influencer: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the influencer faces, others averaged out: ``[N, S, L]`` and p ``[S, L, S]``."""
    transition = marginal_mean(game.transition.movedim(-1, 0), policies, influencer)
    return marginal_mean(game.reward, policies, influencer), transition.movedim(0, -1)


def _discounted_solve(game: MarkovGame, chain: torch.Tensor, reward: torch.Tensor) -> torch.Tensor:
    """``x = reward + discount * chain x`` for each agent, ``[X, X], [N, X] -> [N, X]``."""
    identity = torch.eye(len(chain), dtype=chain.dtype, device=chain.device)
    return torch.linalg.solve(identity - game.discount * chain, reward.mT).mT


def _visits(game: MarkovGame, policies: torch.Tensor, influencer: int) -> torch.Tensor:
    """Discounted visits from one step after (s, a_1) on, normalized, ``[S, L, S]``."""
    _, transition = _marginal_model(game, policies, influencer)
    chain = (policies[influencer].unsqueeze(-1) * transition).sum(1)
    # Solved from the left: rho = (1 - gamma) p (I - gamma P)^-1.
    flat = _discounted_solve(game, chain.mT, (1 - game.discount) * transition.flatten(0, 1))
    return flat.unflatten(0, transition.shape[:2])


def _gap_moments(
    game: MarkovGame,
    policies: torch.Tensor,
    influencer: int,
    value: torch.Tensor,
    optimum_at: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean of the gap and of its square over the next state, ``[N, S, L]`` each."""
    best = optimum(game, policies)
    if optimum_at == "current":
        gap = value - best.unsqueeze(-1)
        return gap, gap.square()
    if optimum_at != "next":
        raise ValueError(f"optimum_at must be 'current' or 'next', got {optimum_at!r}.")
    _, transition = _marginal_model(game, policies, influencer)
    gap = value.unsqueeze(-1) - best[:, None, None]
    return (transition * gap).sum(-1), (transition * gap.square()).sum(-1)


def _score_mean(own: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Mean of grad log pi(a) times values(a) by softmax logits, ``[*B, S, L]``."""
    return own * (values - (own * values).sum(-1, keepdim=True))


def _check_policies(game: MarkovGame, policies: torch.Tensor) -> torch.Tensor:
    expected = (game.num_agents, game.num_states, game.num_actions)
    if policies.shape != expected:
        raise ValueError(
            f"policies must have the shape {expected} of the game, got {tuple(policies.shape)}."
        )
    policies = policies.double()
    check_distribution("policies", policies.detach())
    return policies


def _team_weights(
    game: MarkovGame,
    influencer: int,
    influencees: Sequence[int] | None,
    weights: Sequence[float] | None,
) -> torch.Tensor:
    """Alpha of every agent ``[N]``, 0 for those that do not count."""
    team = Team(game.num_agents, influencers=influencer, influencees=influencees, weights=weights)
    team.check_influencees()

    alpha = game.reward.new_zeros(game.num_agents)
    alpha[list(team.influencees)] = team.weights_like(alpha)[0]
    return alpha


def _check_states(
    game: MarkovGame, policies: torch.Tensor, state_distribution: torch.Tensor | None
) -> torch.Tensor:
    if state_distribution is None:
        return stationary_distribution(game, policies.detach())
    if state_distribution.shape != (game.num_states,):
        raise ValueError(
            f"state_distribution must have the shape ({game.num_states},), got "
            f"{tuple(state_distribution.shape)}."
        )
    check_distribution("state_distribution", state_distribution.detach().double())
    return state_distribution.double()
