"""Every equation of the paper as a pure tensor function.

Source: Fayad and Ibrahim, "Influence-Based Reinforcement Learning for
Intrinsically-Motivated Agents", https://arxiv.org/abs/2108.12581.

===========================  ==========================================  =========
Symbol of the paper          Name here                                   Where
===========================  ==========================================  =========
s_i, x                       ``observation``, of one agent or of all     Eq. 1
a_i, **u**                   ``action``, of one agent or of all          Eq. 1
Q^(i)                        ``state_action_value``                      Eq. 1
gamma                        ``gamma``                                   Eq. 1
q_i^{pi_1}                   ``influenced value``                        Eq. 3
max_u Q_i(s, u)              ``optimum``                                 Eq. 4, 7
g = q_i^{pi_1} - max_u Q_i   ``gap``                                     Eq. 4, 5
alpha_i                      ``weights``                                 Eq. 4
F(pi_1)                      ``influence``                               Eq. 4, 7, 9
lambda; beta in Tables 5, 6  ``influence_coeff``                         Sec. 3.1
Q^cen, Q_clone               ``"centralized"``, ``"clones"``             Eq. 6, 8
D_t                          the batch of ``ConditionalSampler``         Eq. 6, 8
phi                          ``autoencoder``                             Eq. 10
psi                          ``novelty``                                 Eq. 10
lambda_pi                    ``novelty_coeff``                           Eq. 10
r_int of pi_i, i > 1         ``diversity_penalty``                       Eq. 11
omega_i                      ``omega``                                   Eq. 11
===========================  ==========================================  =========

Those of the methods that it is compared with stand here too, each with its source.

Letters in shapes: B batch, T time, N agents, O observation, A action,
K influencers, M samples (or influencees, where a line says so); ``*B`` is any
number of leading dimensions.
"""

from __future__ import annotations

import torch
from torchrl.objectives.value.functional import generalized_advantage_estimate

__all__ = [
    "allowed_actions",
    "brier_distance",
    "counterfactual_advantage",
    "discounted_past",
    "diversity_penalty",
    "generalized_advantages",
    "influence",
    "influence_gap",
    "influence_score",
    "joint_features",
    "joint_parts",
    "lambda_return",
    "min_max",
    "n_step_return",
    "novelty",
    "present_agents",
    "q_logarithm",
    "replace_own_action",
    "social_influence",
    "squared_distance",
    "standardize",
    "td_target",
    "transition_influence",
    "visit_bonus",
]


def _check_same_shape(**tensors: torch.Tensor) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"Shapes must be equal, got {shapes}.")


def _check_bool(**tensors: torch.Tensor) -> None:
    for name, tensor in tensors.items():
        if tensor.dtype != torch.bool:
            raise TypeError(f"{name} must be bool, got {tensor.dtype}.")


def _for_each_agent(
    flag: torch.Tensor, like: torch.Tensor, *, name: str = "terminated"
) -> torch.Tensor:
    """A flag of the team ``[*B, 1]`` or of each agent ``[*B, N, 1]``, to broadcast."""
    _check_bool(**{name: flag})
    if flag.shape == like.shape:
        return flag
    if flag.shape != (*like.shape[:-2], 1):
        raise ValueError(
            f"{name} must have the shape {(*like.shape[:-2], 1)} or {tuple(like.shape)}, "
            f"got {tuple(flag.shape)}."
        )
    return flag.unsqueeze(-2)


def allowed_actions(action_mask: torch.Tensor) -> torch.Tensor:
    """Action mask whose empty rows allow everything, ``[*B, A] -> [*B, A]``.

    A row that allows nothing is padding: probabilities and a best action exist only
    where something is allowed.

    Args:
        action_mask: bool ``[*B, A]``, True where an action is allowed.

    Returns:
        Bool ``[*B, A]``.

    Raises:
        TypeError: if the mask is not bool.

    Examples:
        >>> allowed_actions(torch.tensor([[True, False], [False, False]]))
        tensor([[ True, False],
                [ True,  True]])
    """
    _check_bool(action_mask=action_mask)
    return action_mask | ~action_mask.any(-1, keepdim=True)


def squared_distance(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Squared Euclidean distance, ``[*B, A], [*B, A] -> [*B, 1]``.

    The distance of Eq. 10 and 11 of https://arxiv.org/abs/2108.12581.

    Args:
        first: ``[*B, A]``.
        second: ``[*B, A]``.

    Returns:
        The sum of squared differences over the last dimension.

    Raises:
        ValueError: if the shapes differ.

    Examples:
        >>> squared_distance(torch.tensor([[1.0, 2.0]]), torch.tensor([[4.0, -2.0]]))
        tensor([[25.]])
    """
    _check_same_shape(first=first, second=second)
    return (first - second).square().sum(-1, keepdim=True)


def brier_distance(
    probabilities: torch.Tensor,
    one_hot_action: torch.Tensor,
    action_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Brier distance of a categorical policy to an action, ``[*B, A] -> [*B, 1]``.

    The squared distance between the policy's probabilities and the one-hot
    action: what ``||pi_i(s) - a_i||^2`` of Eq. 11 of
    https://arxiv.org/abs/2108.12581 becomes for discrete actions. It lies between
    0 (the policy is certain of this action) and 2 (certain of another).

    Args:
        probabilities: ``[*B, A]``, non-negative, summing to 1.
        one_hot_action: ``[*B, A]``, bool or number.
        action_mask: ``[*B, A]`` bool, True where an action is allowed; a masked
            action contributes nothing. Default: all allowed.

    Returns:
        ``[*B, 1]``.

    Raises:
        ValueError: if the shapes differ.
        TypeError: if the mask is not bool.

    Examples:
        >>> brier_distance(torch.tensor([[0.5, 0.5]]), torch.tensor([[1, 0]]))
        tensor([[0.5000]])
    """
    action = one_hot_action.to(probabilities.dtype)
    if action_mask is not None:
        _check_bool(action_mask=action_mask)
        _check_same_shape(probabilities=probabilities, action_mask=action_mask)
        zero = torch.zeros_like(probabilities)
        probabilities = torch.where(action_mask, probabilities, zero)
        action = torch.where(action_mask, action, zero)
    return squared_distance(probabilities, action)


def novelty(inputs: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
    r"""Novelty of an (observation, action), Eq. 10, ``[*B, O+A] -> [*B, 1]``.

    .. math:: \psi(s_1, a_1) = \|\phi(s_1, a_1) - (s_1, a_1)\|^2

    Source: https://arxiv.org/abs/2108.12581. The error is summed over the
    features, not averaged.

    Args:
        inputs: ``[*B, O+A]``, what the autoencoder was given.
        reconstruction: ``[*B, O+A]``, what it returned.

    Returns:
        ``[*B, 1]``, non-negative.

    Raises:
        ValueError: if the shapes differ.

    Examples:
        >>> novelty(torch.tensor([[1.0, 0.0, 3.0]]), torch.tensor([[1.0, 2.0, 2.0]]))
        tensor([[5.]])
    """
    return squared_distance(inputs, reconstruction)


def diversity_penalty(
    distance: torch.Tensor, novelty: torch.Tensor, omega: float | torch.Tensor
) -> torch.Tensor:
    r"""Diversity penalty of an influencee, Eq. 11, ``[*B, 1], [*B, 1] -> [*B, 1]``.

    .. math::
        r^{int}_{\pi_i}(s, a) = -\exp(-\omega_i \psi(s_1, a_1)) \|\pi_i(s_i) - a_i\|^2

    Source: https://arxiv.org/abs/2108.12581. Leaving the policy costs most where
    the influencer sees nothing new, and nothing where all is new.

    Args:
        distance: ``||pi_i(s_i) - a_i||^2``, or its discrete form,
            :func:`brier_distance`; any shape that broadcasts.
        novelty: psi of the influencer, any shape that broadcasts.
        omega: at least 0; 0 makes the penalty the plain distance.

    Returns:
        The penalty, never positive.

    Examples:
        >>> diversity_penalty(torch.tensor([4.0]), torch.tensor([0.0]), 0.5)
        tensor([-4.])
        >>> diversity_penalty(torch.tensor([4.0]), torch.tensor([2.0]), 0.5)
        tensor([-1.4715])
    """
    return -torch.exp(-omega * novelty) * distance


def min_max(novelty: torch.Tensor) -> torch.Tensor:
    r"""Novelty from 0, the least of the batch, to 1, the largest, ``[*B, K, 1] -> [*B, K, 1]``.

    .. math:: N(\psi) = \frac{\psi - \min \psi}{\max \psi - \min \psi}

    The weight of the penalty in the authors' code for PyBullet, in place of the
    exponential of Eq. 11 of https://arxiv.org/abs/2108.12581. All that is equally new has
    the weight 0.

    Args:
        novelty: psi of each of K influencers, ``[*B, K, 1]``; each is compared over ``*B``.

    Returns:
        ``[*B, K, 1]``.

    Examples:
        >>> min_max(torch.tensor([[[1.0]], [[3.0]], [[2.0]]])).flatten()
        tensor([0.0000, 1.0000, 0.5000])
    """
    rows = novelty.reshape(-1, *novelty.shape[-2:])
    low, high = rows.amin(0), rows.amax(0)
    spread = (high - low).clamp_min(torch.finfo(novelty.dtype).tiny)
    return (novelty - low) / spread


def influence_gap(
    value: torch.Tensor,
    optimum: torch.Tensor,
    *,
    terminated: torch.Tensor | None = None,
    scale: float | torch.Tensor = 1.0,
) -> torch.Tensor:
    r"""Gap of the influencees, Eq. 4 and 7, ``[*B, M, 1] -> [*B, M, 1]``.

    .. math:: g(s, a_1) = q_i^{\pi_1}(s, a_1) - \max_u Q_i(\cdot, u)

    Source: https://arxiv.org/abs/2108.12581. Eq. 4 takes the optimum at the same
    state: pass it alone. Eq. 7 takes it at the next state: pass ``terminated``
    too, since nothing can be earned after a terminal transition. The optimum
    carries no gradient (the remark under Eq. 7).

    Args:
        value: the influenced value of each of M influencees, ``[*B, M, 1]``.
        optimum: ``[*B, M, 1]``, at the current or at the next state.
        terminated: bool ``[*B, 1]`` or ``[*B, M, 1]`` of the transition, only for the
            next state.
        scale: what the gap is divided by, positive. Default: 1, the paper's form.

    Returns:
        ``[*B, M, 1]``.

    Raises:
        ValueError: if the shapes of value and optimum differ, or that of terminated
            fits neither.
        TypeError: if terminated is not bool.

    Examples:
        >>> influence_gap(torch.tensor([[3.0]]), torch.tensor([[5.0]]))
        tensor([[-2.]])
        >>> influence_gap(
        ...     torch.tensor([[3.0]]),
        ...     torch.tensor([[5.0]]),
        ...     terminated=torch.tensor([True]),
        ... )
        tensor([[3.]])
    """
    _check_same_shape(value=value, optimum=optimum)
    optimum = optimum.detach()
    if terminated is not None:
        terminated = _for_each_agent(terminated, optimum)
        optimum = torch.where(terminated, torch.zeros_like(optimum), optimum)
    return (value - optimum) / scale


def influence(gap: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    r"""Influence of a policy on a team, Eq. 4 and 9, ``[*B, M, 1] -> [*B, 1]``.

    .. math:: F(\pi_1) = \sum_i \alpha_i \, g_i(s, a_1)^2

    Source: https://arxiv.org/abs/2108.12581; its expectation over states is left
    to the caller. Small is influential: the influencer minimizes it.

    Args:
        gap: ``[*B, M, 1]`` of M influencees, see :func:`influence_gap`.
        weights: alpha ``[M]``, positive, summing to 1; or ``[K, M]`` of K influencers, 0
            where one is to leave an influencee out, as itself; or ``[*B, K, M]``, of each
            state.

    Returns:
        ``[*B, 1]``, non-negative; ``[*B, K]`` with weights of K influencers.

    Raises:
        ValueError: if there is not one weight for each influencee, or weights of each state
            are of other states.

    Examples:
        >>> influence(torch.tensor([[1.0], [-3.0]]), torch.tensor([0.5, 0.5]))
        tensor([5.])
        >>> influence(torch.tensor([[1.0], [-3.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
        tensor([9., 1.])
    """
    *rows, num_influencees, _ = gap.shape
    fits = weights.shape[-1:] == (num_influencees,)
    if not fits or (weights.ndim > 2 and list(weights.shape[:-2]) != rows):
        raise ValueError(
            f"weights must have the shape ({', '.join(map(str, rows))}, K, {num_influencees}), "
            f"(K, {num_influencees}) or ({num_influencees},), got {tuple(weights.shape)}."
        )
    return (weights * gap.mT.square()).sum(-1)


def discounted_past(
    values: torch.Tensor, done: torch.Tensor, gamma: float | torch.Tensor
) -> torch.Tensor:
    r"""Discounted sum over the earlier steps of an episode, ``[*B, T, M] -> [*B, T, M]``.

    .. math:: c_t = \sum_{k < t} \gamma^{t - k} \, v_k

    The steps k are those of t's own episode. It is the weight of step t in the second
    term of Theorem 1 of https://arxiv.org/abs/2108.12581, see :func:`influence_score`.
    Its cost is quadratic in T.

    Args:
        values: ``[*B, T, M]`` in order of time.
        done: bool ``[*B, T, 1]``, True at the last step of an episode.
        gamma: discount factor of a step, in [0, 1].

    Returns:
        ``[*B, T, M]``.

    Raises:
        ValueError: if done is not ``[*B, T, 1]``.

    Examples:
        >>> values = torch.tensor([[8.0], [4.0], [2.0], [6.0]])
        >>> done = torch.tensor([[False], [False], [True], [False]])
        >>> discounted_past(values, done, 0.5).flatten()
        tensor([0., 4., 4., 0.])
    """
    if done.shape != (*values.shape[:-1], 1):
        raise ValueError(
            f"done must have the shape {(*values.shape[:-1], 1)}, got {tuple(done.shape)}."
        )
    return _discounts(done.squeeze(-1), gamma, values.dtype, from_step=1).mT @ values


def _discounts(
    ended: torch.Tensor, gamma: float | torch.Tensor, dtype: torch.dtype, *, from_step: int
) -> torch.Tensor:
    """``gamma ** (k - t)`` for the steps k >= t + from_step of t's episode, ``[*B, T, T]``.

    Zero for all others; ``ended`` ``[*B, T]`` is True at the last step of an episode.
    """
    ended = ended.long()
    episode = ended.cumsum(-1) - ended
    step = torch.arange(ended.shape[-1], device=ended.device)
    distance = step - step.unsqueeze(-1)
    later = (distance >= from_step) & (episode.unsqueeze(-1) == episode.unsqueeze(-2))
    return torch.where(later, gamma ** distance.clamp(min=0).to(dtype), 0).to(dtype)


def influence_score(
    value: torch.Tensor,
    gap: torch.Tensor,
    weights: torch.Tensor,
    done: torch.Tensor,
    gamma: float | torch.Tensor,
) -> torch.Tensor:
    r"""What multiplies each step's score in Theorem 1, ``[*B, T, M, 1] -> [*B, T, 1]``.

    .. math::
        \nabla F = \mathbb{E} \Big[ \sum_t \nabla \log \pi_1(a_{1,t} | s_t) \sum_i \alpha_i
        \big( g_{i,t}^2 + q_i^{\pi_1}(s_t, a_{1,t}) \sum_{k < t} \gamma^{t - k} \, 2 g_{i,k}
        \big) \Big] / T

    Source: Eq. 5 of https://arxiv.org/abs/2108.12581 on steps of the current policies, in
    order of time. The discounted sum over the earlier steps is the paper's inner
    expectation with the factor :math:`\gamma / (1 - \gamma)` that its proof hides behind
    "proportional to": a state k steps on counts with :math:`\gamma^k`, and these weights
    sum to that factor, not to 1. What comes after the last step of an episode or of the
    batch is missing: of step t's future the share :math:`\gamma^{T - t}`.

    Args:
        value: q_i, ``[*B, T, M, 1]``.
        gap: g_i, ``[*B, T, M, 1]``, see :func:`influence_gap`.
        weights: alpha ``[M]``, positive, summing to 1; or ``[*B, T, 1, M]``, of each step: a
            gap of step k counts with the weight that it had at k.
        done: bool ``[*B, T, 1]``, True at the last step of an episode.
        gamma: discount factor of a step, in [0, 1].

    Returns:
        ``[*B, T, 1]``, without gradient.

    Raises:
        ValueError: if there is not one weight for each influencee, or the shapes do not
            fit each other.

    Examples:
        Two steps; the gap of the first weighs on the second.

        >>> value = torch.tensor([1.0, 3.0]).view(2, 1, 1)
        >>> gap = torch.tensor([-2.0, 0.0]).view(2, 1, 1)
        >>> done = torch.zeros(2, 1, dtype=torch.bool)
        >>> influence_score(value, gap, torch.ones(1), done, 0.5).flatten()
        tensor([ 4., -6.])
    """
    _check_same_shape(value=value, gap=gap)
    of_one = tuple(gap.shape[-2:-1])
    if weights.ndim != 1 and weights.shape != (*gap.shape[:-2], 1, *of_one):
        raise ValueError(
            f"weights must have the shape {of_one}, got {tuple(weights.shape)}; those of each step "
            f"have {(*gap.shape[:-2], 1, *of_one)}."
        )
    value, gap = value.detach(), gap.detach()
    first = influence(gap, weights)
    if weights.ndim > 1:
        past = discounted_past(2 * weights.squeeze(-2) * gap.squeeze(-1), done, gamma)
        return first + (past.unsqueeze(-1) * value).sum(-2)
    past = discounted_past(2 * gap.squeeze(-1), done, gamma).unsqueeze(-1)
    second = (weights.unsqueeze(-1) * past * value).sum(-2)
    return first + second


def td_target(
    reward: torch.Tensor,
    terminated: torch.Tensor,
    next_value: torch.Tensor,
    gamma: float | torch.Tensor,
) -> torch.Tensor:
    r"""One-step target of each agent, Eq. 1 and 6, ``[*B, N, 1] -> [*B, N, 1]``.

    .. math:: y_i = r_i + \gamma \, (1 - terminated) \, Q^{(i)}_{target}(s', \mu(s'))

    Source: https://arxiv.org/abs/2108.12581. A time limit is no termination: pass
    ``terminated``, not ``done``. The reward of a terminal transition counts.

    Args:
        reward: ``[*B, N, 1]``.
        terminated: bool ``[*B, 1]``, one flag for the team, or ``[*B, N, 1]``.
        next_value: ``[*B, N, 1]``; it may be non-finite where terminated.
        gamma: discount factor of the transition, in [0, 1]: one number, or one for each row
            ``[*B, 1, 1]`` where transitions are of several steps.

    Returns:
        ``[*B, N, 1]``, without gradient.

    Raises:
        ValueError: if the shapes of reward and next_value differ, or that of terminated
            fits neither.
        TypeError: if terminated is not bool.

    Examples:
        >>> td_target(
        ...     reward=torch.tensor([[1000.0]]),
        ...     terminated=torch.tensor([True]),
        ...     next_value=torch.tensor([[7.0]]),
        ...     gamma=0.95,
        ... )
        tensor([[1000.]])
    """
    _check_same_shape(reward=reward, next_value=next_value)
    terminated = _for_each_agent(terminated, reward)
    bootstrap = torch.where(terminated, torch.zeros_like(next_value), next_value)
    return (reward + gamma * bootstrap).detach()


def n_step_return(
    reward: torch.Tensor,
    terminated: torch.Tensor,
    done: torch.Tensor,
    gamma: float | torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    r"""What each agent earns in n steps, ``[*B, n, N, 1] -> [*B, N, 1]``, and how they end.

    .. math:: R_i = \sum_{k=0}^{m-1} \gamma^k r_{i, t+k}

    of the m steps that the first episode still has, at most n. With what follows it is a target,
    :math:`R_i + \gamma^m (1 - terminated) V_i(s_{t+m})`. Source:
    https://incompleteideas.net/book/the-book-2nd.html, Eq. 7.1. A time limit ends the sum and is
    no termination: the value of the state there counts. An agent that ends before its team
    earns nothing more.

    Args:
        reward: ``[*B, n, N, 1]``, of consecutive steps; what follows an end may be anything.
        terminated: bool ``[*B, n, 1]``, one flag for the team, or ``[*B, n, N, 1]``.
        done: bool ``[*B, n, 1]``, True at the last step of an episode, for whatever reason.
        gamma: discount factor of a step, in [0, 1].

    Returns:
        The sum ``[*B, N, 1]``; whether it was ended by a termination, ``[*B, 1]`` or
        ``[*B, N, 1]``; and m, int64 ``[*B, 1]``.

    Raises:
        ValueError: if the shapes do not fit each other.
        TypeError: if terminated or done is not bool.

    Examples:
        Three steps, of which the second is the last of its episode.

        >>> reward = torch.tensor([1.0, 2.0, 4.0]).view(3, 1, 1)
        >>> done = torch.tensor([False, True, False]).view(3, 1)
        >>> n_step_return(reward, torch.zeros_like(done), done, gamma=0.5)
        (tensor([[2.]]), tensor([False]), tensor([2]))
    """
    if done.shape != (*reward.shape[:-2], 1):
        raise ValueError(
            f"done must have the shape {(*reward.shape[:-2], 1)}, got {tuple(done.shape)}."
        )
    _check_bool(done=done)
    own_flags = terminated.shape == reward.shape
    ended = _for_each_agent(terminated, reward) | done.unsqueeze(-2)
    earned, running = until_first(ended, -3), until_first(done, -2)
    discount = gamma ** torch.arange(
        reward.shape[-3], dtype=reward.dtype, device=reward.device
    ).view(-1, 1, 1)
    total = (discount * torch.where(earned, reward, 0)).sum(-3)
    if own_flags:
        stopped = (terminated & running.unsqueeze(-2)).any(-3)
    else:
        stopped = (terminated & running).any(-2)
    return total, stopped, running.sum(-2)


def until_first(flag: torch.Tensor, dim: int) -> torch.Tensor:
    """True up to the first True along a dimension, that one included."""
    return flag.long().cumsum(dim) - flag.long() == 0


def lambda_return(
    reward: torch.Tensor,
    terminated: torch.Tensor,
    done: torch.Tensor,
    next_value: torch.Tensor,
    gamma: float | torch.Tensor,
    lmbda: float | torch.Tensor,
) -> torch.Tensor:
    r"""TD(lambda) target of each agent, ``[*B, T, N, 1] -> [*B, T, N, 1]``.

    .. math::
        G_t = r_t + \gamma \, (1 - terminated_t)
        \big[ (1 - \lambda) V(s_{t+1}) + \lambda G_{t+1} \big],

    with :math:`V(s_{t+1})` in the place of :math:`G_{t+1}` at the last step of an episode or
    of the batch. Source: https://incompleteideas.net/book/the-book-2nd.html, Eq. 12.18. The
    reward of a terminal step counts, and a time limit is no termination. Its cost is quadratic
    in T.

    Args:
        reward: ``[*B, T, N, 1]`` in order of time; it may carry gradient.
        terminated: bool ``[*B, T, 1]`` or ``[*B, T, N, 1]``.
        done: bool ``[*B, T, 1]``, True at the last step of an episode.
        next_value: ``[*B, T, N, 1]``, of the state that follows each step, that of its own
            episode; it may be non-finite where terminated.
        gamma: discount factor of a step, in [0, 1].
        lmbda: how far it looks ahead, in [0, 1]: 0 is :func:`td_target`.

    Returns:
        ``[*B, T, N, 1]``, with the gradient of the reward alone.

    Raises:
        ValueError: if the shapes do not fit each other.
        TypeError: if terminated or done is not bool.

    Examples:
        Two steps, and an episode that goes on.

        >>> reward, next_value = torch.tensor([[1.0, 2.0], [4.0, 8.0]]).view(2, 2, 1, 1)
        >>> flags = torch.zeros(2, 1, dtype=torch.bool)
        >>> lambda_return(reward, flags, flags, next_value, 0.5, 0.5).flatten()
        tensor([3.5000, 6.0000])
    """
    _check_same_shape(reward=reward, next_value=next_value)
    if done.shape != (*reward.shape[:-2], 1):
        raise ValueError(
            f"done must have the shape {(*reward.shape[:-2], 1)}, got {tuple(done.shape)}."
        )
    _check_bool(done=done)
    dtype = torch.promote_types(reward.dtype, next_value.dtype)
    reward, next_value = reward.to(dtype), next_value.to(dtype)
    terminated = _for_each_agent(terminated, reward)
    next_value = torch.where(terminated, torch.zeros_like(next_value), next_value).detach()
    one_step = reward + gamma * next_value
    following = torch.cat([one_step[..., 1:, :, :], next_value[..., -1:, :, :]], -3)
    ended = done.unsqueeze(-2) | terminated
    # What one step further says beyond the value there; nothing at an episode's end.
    surprise = torch.where(ended, 0, following - next_value).transpose(-3, -2)
    discount = gamma * lmbda
    later = _discounts(ended.squeeze(-1).mT, discount, reward.dtype, from_step=0) @ surprise
    return one_step + discount * later.transpose(-3, -2)


def counterfactual_advantage(
    action_value: torch.Tensor, probabilities: torch.Tensor, action: torch.Tensor
) -> torch.Tensor:
    r"""How much better an action is than the policy's mean, ``[*B, N, A] -> [*B, N, 1]``.

    .. math:: A_i = Q_i(s, (a_{-i}, a_i)) - \sum_{a'} \pi_i(a') \, Q_i(s, (a_{-i}, a'))

    the advantage of COMA (https://arxiv.org/abs/1705.08926): what the team would have got
    with agent i's other actions and the same ones of all others.

    Args:
        action_value: of each of agent i's actions, ``[*B, N, A]``.
        probabilities: of its policy, ``[*B, N, A]``.
        action: one-hot ``[*B, N, A]``.

    Returns:
        ``[*B, N, 1]``.

    Raises:
        ValueError: if the shapes differ.

    Examples:
        >>> counterfactual_advantage(
        ...     torch.tensor([[1.0, 5.0]]), torch.tensor([[0.25, 0.75]]), torch.tensor([[0, 1]])
        ... )
        tensor([[1.]])
    """
    _check_same_shape(action_value=action_value, probabilities=probabilities, action=action)
    difference = action.to(action_value.dtype) - probabilities
    return (action_value * difference).sum(-1, keepdim=True)


def replace_own_action(action: torch.Tensor, own_action: torch.Tensor) -> torch.Tensor:
    """Joint action as each of N critics sees it, ``[*B, N, A] -> [*B, N, N, A]``.

    Entry ``[..., i, j, :]`` is agent j's action in the eyes of critic i: its own
    agent's from ``own_action``, everybody else's from ``action``. It is what
    makes the policy gradient of Eq. 2 of https://arxiv.org/abs/2108.12581 that of
    MADDPG (https://arxiv.org/abs/1706.02275): agent i moves Q^(i), and no other.

    Args:
        action: ``[*B, N, A]``, usually of the replay buffer.
        own_action: ``[*B, N, A]``, usually fresh from the policies.

    Returns:
        ``[*B, N, N, A]``.

    Raises:
        ValueError: if the shapes differ.

    Examples:
        >>> replace_own_action(torch.tensor([[1.0], [2.0]]), torch.tensor([[7.0], [8.0]]))[..., 0]
        tensor([[7., 2.],
                [1., 8.]])
    """
    _check_same_shape(action=action, own_action=own_action)
    num_agents = action.shape[-2]
    own = torch.eye(num_agents, dtype=torch.bool, device=action.device).unsqueeze(-1)
    return torch.where(own, own_action.unsqueeze(-3), action.unsqueeze(-3))


def joint_features(
    observation: torch.Tensor, action: torch.Tensor, scope: torch.Tensor | None = None
) -> torch.Tensor:
    """Inputs of N critics, ``[*B, N, O], [*B, N, A] -> [*B, N, N * (O + A)]``.

    Critic i reads the observations of all agents, then their actions; what is out
    of its scope reads as zero.

    Args:
        observation: ``[*B, N, O]``.
        action: ``[*B, N, A]``, or ``[*B, N, N, A]`` with a joint action for each
            critic, see :func:`replace_own_action`.
        scope: bool ``[N, N]``: whether critic i (row) sees agent j (column).
            All True is MADDPG, and so is None, which costs less; the identity is
            independent DDPG.

    Returns:
        ``[*B, N, N * (O + A)]``.

    Raises:
        ValueError: if the number of agents differs between the arguments.

    Examples:
        >>> observation = torch.tensor([[1.0], [2.0]])
        >>> action = torch.tensor([[3.0], [4.0]])
        >>> joint_features(observation, action, torch.eye(2, dtype=torch.bool))
        tensor([[1., 0., 3., 0.],
                [0., 2., 0., 4.]])
    """
    return torch.cat(joint_parts(observation, action, scope), dim=-1)


def joint_parts(
    observation: torch.Tensor, action: torch.Tensor, scope: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The two parts of :func:`joint_features`, ``[*B, N, N * O]`` and ``[*B, N, N * A]``.

    Views where the scope is None: for networks that read several inputs side by side.

    Args:
        observation: as in :func:`joint_features`.
        action: as in :func:`joint_features`.
        scope: as in :func:`joint_features`.

    Returns:
        What each critic sees of the observations, and of the actions.

    Raises:
        ValueError: as in :func:`joint_features`.

    Examples:
        >>> observation = torch.tensor([[1.0], [2.0]])
        >>> action = torch.tensor([[3.0], [4.0]])
        >>> joint_parts(observation, action)
        (tensor([[1., 2.],
                [1., 2.]]), tensor([[3., 4.],
                [3., 4.]]))
    """
    num_agents = observation.shape[-2]
    shape = (num_agents, num_agents) if scope is None else tuple(scope.shape)
    if action.shape[-2] != num_agents or shape != (num_agents, num_agents):
        raise ValueError(
            f"observation, action and scope must agree on the number of agents, got "
            f"{tuple(observation.shape)}, {tuple(action.shape)} and {shape}."
        )
    if action.ndim == observation.ndim:
        action = action.unsqueeze(-3)

    def seen(tensor: torch.Tensor) -> torch.Tensor:
        if scope is not None:
            hidden = torch.zeros_like(tensor[..., :1, :, :])
            tensor = torch.where(scope.unsqueeze(-1), tensor, hidden)
        return tensor.flatten(-2).expand(*tensor.shape[:-3], num_agents, -1)

    return seen(observation.unsqueeze(-3)), seen(action)


def q_logarithm(log_probability: torch.Tensor, entropic_index: float) -> torch.Tensor:
    r"""Logarithm of Tsallis of a probability or density, ``[*B] -> [*B]``.

    .. math:: \ln_q p = \frac{p^{q - 1} - 1}{q - 1}, \qquad \ln_1 p = \log p

    Its negative mean under a policy is the policy's Tsallis entropy, the bonus of the
    baseline TAC of Figure 5. Source: https://arxiv.org/abs/1902.05551.

    Args:
        log_probability: log p, ``[*B]``.
        entropic_index: q, positive.

    Returns:
        ``[*B]``; it grows with p.

    Examples:
        >>> q_logarithm(torch.tensor([0.5, 1.0, 2.0]).log(), 2.0)
        tensor([-0.5000,  0.0000,  1.0000])
        >>> q_logarithm(torch.tensor([0.5]).log(), 1.0)
        tensor([-0.6931])
    """
    if entropic_index == 1:
        return log_probability
    return torch.expm1((entropic_index - 1) * log_probability) / (entropic_index - 1)


def standardize(
    values: torch.Tensor,
    mask: torch.Tensor | None = None,
    *,
    dim: int | tuple[int, ...],
    floor: float,
) -> torch.Tensor:
    """Values minus their mean, over their deviation, ``[*B] -> [*B]``.

    As advantages are in https://arxiv.org/abs/2103.01955, but that a deviation below the floor
    counts as the floor: what hardly differs is not blown up.

    Args:
        values: ``[*B]``.
        mask: bool, of the same shape, True for what counts; the rest becomes 0. Default: all.
        dim: dimensions over which mean and deviation are taken.
        floor: positive.

    Returns:
        Standardized values.

    Raises:
        ValueError: if the shapes differ.
        TypeError: if the mask is not bool.

    Examples:
        >>> standardize(torch.tensor([1.0, 3.0, 100.0]), torch.tensor([True, True, False]),
        ...             dim=0, floor=1e-3)
        tensor([-1.,  1.,  0.])
    """
    if mask is None:
        mask = torch.ones_like(values, dtype=torch.bool)
    _check_same_shape(values=values, mask=mask)
    _check_bool(mask=mask)
    count = mask.sum(dim, keepdim=True).clamp_min(1)
    mean = torch.where(mask, values, 0.0).sum(dim, keepdim=True) / count
    centered = torch.where(mask, values - mean, 0.0)
    deviation = (centered.square().sum(dim, keepdim=True) / count).sqrt()
    return centered / deviation.clamp_min(floor)


def generalized_advantages(
    rewards: torch.Tensor,
    values: torch.Tensor,
    next_values: torch.Tensor,
    done: torch.Tensor,
    terminated: torch.Tensor,
    *,
    gammas: torch.Tensor,
    lambdas: torch.Tensor,
    episodic: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Advantages and targets of H returns of N agents, ``[*B, T, N, H]``.

    .. math::
        \delta_t = r_t + \gamma (1 - terminated_t) V(s'_t) - V(s_t), \qquad
        A_t = \delta_t + \gamma \lambda (1 - done_t) A_{t+1}, \qquad
        V^{target}_t = A_t + V(s_t)

    by TorchRL's ``generalized_advantage_estimate``, for every return with its own discount:
    https://arxiv.org/abs/1506.02438. A truncated step bootstraps from the state that it led
    to, a terminated one does not. A return that is not ``episodic`` goes on over the ends of
    episodes, as that of exploration bonuses does in Random Network Distillation
    (https://arxiv.org/abs/1810.12894, Section 2.3): its next value is that of the next step's
    state, whichever episode it belongs to.

    Args:
        rewards: ``[*B, T, N, H]``.
        values: of the state before each step, ``[*B, T, N, H]``.
        next_values: of the state after it, before any reset, ``[*B, T, N, H]``.
        done: bool ``[*B, T, 1]`` or ``[*B, T, N, 1]``: the episode ended, or the agent's part.
        terminated: likewise: it ended by itself.
        gammas: discount of each return, ``[H]``.
        lambdas: how far each advantage looks ahead, in [0, 1], ``[H]``.
        episodic: bool ``[H]``: whether a return ends with its episode.

    Returns:
        The advantages and the targets of the values.

    Raises:
        ValueError: if the shapes do not fit.
        TypeError: if a flag is not bool.

    Examples:
        >>> ones = torch.ones(1, 2, 1, 1)
        >>> flags = torch.tensor([[[False], [True]]])
        >>> heads = {"gammas": torch.tensor([0.5]), "lambdas": torch.tensor([1.0])}
        >>> advantages, targets = generalized_advantages(
        ...     ones, 4 * ones, 2 * ones, flags, ~flags, **heads, episodic=torch.tensor([True])
        ... )
        >>> advantages.flatten(), targets.flatten()
        (tensor([-4.,  -2.]), tensor([0.,  2.]))
    """
    _check_same_shape(rewards=rewards, values=values, next_values=next_values)
    _check_bool(episodic=episodic)
    done, terminated = (
        _for_each_agent(flag, rewards[..., :1], name=name).expand_as(rewards) & episodic
        for name, flag in (("done", done), ("terminated", terminated))
    )
    following = torch.cat([values[..., 1:, :, :], next_values[..., -1:, :, :]], -3)
    next_values = torch.where(episodic, next_values, following)

    def flat(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.flatten(-2)

    num_agents = rewards.shape[-2]
    advantages, targets = generalized_advantage_estimate(
        gammas.repeat(num_agents),
        lambdas.repeat(num_agents),
        flat(values),
        flat(next_values),
        flat(rewards),
        flat(done),
        flat(terminated),
    )
    return advantages.unflatten(-1, rewards.shape[-2:]), targets.unflatten(-1, rewards.shape[-2:])


def visit_bonus(count: torch.Tensor) -> torch.Tensor:
    r"""Bonus of a state by its number of visits, ``[*B] -> [*B]``.

    .. math:: b = 1 / \sqrt{\max(n, 1)}

    Source: the curiosity of https://arxiv.org/abs/1910.05512, :math:`\eta / \sqrt{n + 1}`
    with the visits before, for :math:`\eta = 1`: here n has the visit that is paid for.

    Args:
        count: n, whole numbers.

    Returns:
        Floating point, in (0, 1].

    Examples:
        >>> visit_bonus(torch.tensor([0, 1, 4, 100]))
        tensor([1.0000, 1.0000, 0.5000, 0.1000])
    """
    return count.clamp_min(1).to(torch.get_default_dtype()).rsqrt()


def transition_influence(alone: torch.Tensor, together: torch.Tensor) -> torch.Tensor:
    r"""How much one agent changed what became of another, ``[*B], [*B] -> [*B]``.

    .. math:: c_{i \to j} = 1 - \frac{p(s'_j | s_j, a_j)}{p(s'_j | s_j, a_j, s_i, a_i)}
        \le \log \frac{p(s'_j | s_j, a_j, s_i, a_i)}{p(s'_j | s_j, a_j)}

    Source: the code of https://arxiv.org/abs/1910.05512, a lower bound of the mutual
    information's integrand that its text has.

    Args:
        alone: the probability of j's outcome given j's own state and action.
        together: given i's too, positive.

    Returns:
        At most 1; 0 where i makes no difference, negative where it made the outcome less
        likely.

    Examples:
        >>> transition_influence(torch.tensor([0.5, 0.2, 1.0]), torch.tensor([0.5, 1.0, 0.5]))
        tensor([ 0.0000,  0.8000, -1.0000])
    """
    return 1 - alone / together


def present_agents(
    observation: torch.Tensor,
    alive: torch.Tensor | None = None,
    action_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Whether each agent is in its episode, ``[*B, N, O] -> [*B, N]``.

    Without ``alive``, the dead of a battle are those that see nothing and have no choice.

    Args:
        observation: ``[*B, N, O]``.
        alive: bool ``[*B, N, 1]``, where the environment says it.
        action_mask: bool ``[*B, N, A]``, True where an action is allowed.

    Returns:
        Bool ``[*B, N]``.

    Raises:
        TypeError: if a flag or the mask is not bool.
        ValueError: if it is not of the same agents.

    Examples:
        >>> observation = torch.tensor([[1.0, 0.5], [0.0, 0.0]])
        >>> mask = torch.tensor([[True, True], [True, False]])
        >>> present_agents(observation, action_mask=mask)
        tensor([ True, False])
    """
    for name, entry in (("alive", alive), ("action_mask", action_mask)):
        if entry is None:
            continue
        _check_bool(**{name: entry})
        if entry.shape[:-1] != observation.shape[:-1]:
            raise ValueError(
                f"{name} must be of the agents {tuple(observation.shape[:-1])}, got "
                f"{tuple(entry.shape)}."
            )
    if alive is not None:
        return alive.squeeze(-1)
    if action_mask is None:
        return torch.ones(observation.shape[:-1], dtype=torch.bool, device=observation.device)
    return (observation != 0).any(-1) | (action_mask.sum(-1) > 1)


def social_influence(conditional: torch.Tensor, policy: torch.Tensor) -> torch.Tensor:
    r"""How much each action of one agent moves another's policy, ``[*B, L, A] -> [*B, L]``.

    .. math:: D_{KL}\Big( p(a_j | a_k, s) \,\Big\|\, \sum_{\tilde a} \pi_k(\tilde a | s) \,
        p(a_j | \tilde a, s) \Big)

    Source: https://arxiv.org/abs/1810.08647, for each of the L actions that k could take.

    Args:
        conditional: probabilities of j's A actions for each of k's L, ``[*B, L, A]``.
        policy: pi_k, ``[*B, L]``.

    Returns:
        Non-negative, up to rounding. Its mean under the policy is the mutual information of
        the two actions.

    Examples:
        >>> conditional = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> social_influence(conditional, torch.tensor([0.5, 0.5]))
        tensor([0.6931, 0.6931])
        >>> social_influence(conditional, torch.tensor([1.0, 0.0]))[0]
        tensor(0.)
    """
    marginal = (policy.unsqueeze(-1) * conditional).sum(-2, keepdim=True)
    least = torch.finfo(conditional.dtype).tiny
    ratio = conditional.clamp_min(least).log() - marginal.clamp_min(least).log()
    return (conditional * ratio).sum(-1)
