"""The influence of one agent on its team, Eq. 4, 7 and 9."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import TensorDictModuleBase, dispatch
from torch.distributions import Distribution
from torchrl.data import Bounded, OneHot, TensorSpec
from torchrl.modules import PopArtValueNorm
from torchrl.objectives import LossModule

from torchrl_alita import functional
from torchrl_alita._agents import gather_agents, index_of, scatter_agents
from torchrl_alita._checks import (
    REDUCTIONS,
    agent_indices,
    check_choice,
    check_non_negative,
    check_number,
    check_same_shape,
    check_weights,
    check_whole,
    default_influencees,
    listed_agents,
    require_keys,
)
from torchrl_alita.layout import (
    ACTION,
    ACTION_MASK,
    DONE,
    REWARD,
    TERMINATED,
    VALUE,
    next_key,
)
from torchrl_alita.objectives._batch import check_batch, row_mask, unique
from torchrl_alita.objectives._critics import (
    PartnerCritics,
    following_inputs,
    following_keys,
    run,
    run_step,
    unroll,
)
from torchrl_alita.objectives._functional_call import functional_call
from torchrl_alita.objectives._others import every_other_action
from torchrl_alita.objectives.estimator import InfluenceEstimatorLoss
from torchrl_alita.objectives.maddpg import MADDPGLoss
from torchrl_alita.objectives.optimum import (
    best_candidate,
    coordinate_ascent,
    enumerate_joint_actions,
    uniform_joint_actions,
)

__all__ = ["InfluenceLoss"]

OPTIMA = ("policy", "sampled", "enumerated", "td_target")
PLACES = ("current", "next")
GRADIENTS = ("pathwise", "score")


class _Policy(NamedTuple):
    """What the policies do: one joint action ``[*B, N, A]``, and its distribution."""

    action: torch.Tensor
    distribution: Distribution | None = None


class InfluenceLoss(LossModule):
    r"""The influencer's part of the objective, Eq. 4, 7 and 9.

    .. math::
        \lambda F(\pi_1), \qquad F(\pi_1) = E_{x \sim B} \sum_{i \ne 1} \alpha_i
        \left(q_i^{\pi_1}(x, \pi(x)) - \max_u Q_i(x, u)\right)^2

    Source: https://arxiv.org/abs/2108.12581. Gradient goes to the influencer's policy
    alone; the optimum carries none. Of K influencers (all N of them are Symmetric of
    Sec. 4.3) the loss is the sum of theirs, and F of each goes to its own policy alone.
    The influenced value q_i comes from the estimator:

    * an :class:`InfluenceEstimatorLoss`, with its clones or its centralized network; or
    * the partner's loss itself (MADDPGLoss, DDPGLoss, TD3Loss): the ``marginal``
      estimate of this package. For policies that act independently given the state,
      q_i^{pi_1}(s, a_1) is Q_i averaged over the others' actions, which needs no
      network and no training and is as exact as the critic.

    With deterministic policies the marginal estimate at the policies' own actions is
    Q_i at the policies' own actions: together with ``optimum="policy"`` at the current
    state, the gap is exactly 0. Choose another optimum there. With stochastic ones the
    mean over M drawn actions of the others has a variance, which the square turns into
    a bias: F is too large by Var(Q_i) / M, and by nothing with ``"all"``.

    Two gradients. ``"pathwise"``: the critics are differentiated at the influencer's
    fresh action, which is that of the policy or a draw that carries gradient. It leaves
    out how q_i itself changes with the policy. ``"score"``: Theorem 1 (Eq. 5), for
    stochastic policies, whole: the batch ``[*B, T]`` is of steps that the current
    policies made, in order of time, as a collector returns them; see
    :func:`torchrl_alita.functional.influence_score` for its equation and for the factor
    gamma / (1 - gamma) that the theorem's proof hides. The loss then has the value of
    lambda F and the gradient of Theorem 1.

    Args:
        actor_network: the policies of all agents.
        estimator: see above. It is borrowed, its parameters are no part of this loss.
        influencer: index of the influencer, or indices of several. At one action of each
            policy all of them see the same values, which are evaluated once for all. So
            several go with MADDPGLoss as the estimator, ``gradient="pathwise"`` and
            ``num_action_samples=1``; elsewhere, make a loss for each and add them up.
        influencees: indices. Default: everybody but the influencer. Of several
            influencers, each leaves itself out.
        weights: alpha, positive, summing to 1, one for each influencee of an influencer.
            Default: equal.
        influence_coeff: lambda, at least 0. Default: 0.1, Appendix D.1.
        optimum: what stands for max_u Q_i. ``"policy"``: Q_i at the current joint
            policy. ``"sampled"``: the best of that, of the batch's joint action (at the
            current state only) and of ``num_optimum_samples`` uniform ones.
            ``"enumerated"``, for one-hot actions: the best of all L^N joint actions, or,
            where they are more than ``enumeration_budget``, what coordinate ascent over
            the agents reaches from the policy's (with MADDPGLoss only). ``"td_target"``:
            no optimum at all, but the reward of the batch and what the target critics say
            of the next state, as in the authors' code for PyBullet.
        optimum_at: ``"current"``, Eq. 4, or ``"next"``, Eq. 7 as printed.
        num_optimum_samples: uniform joint actions for ``"sampled"``. Default: 0.
        action_spec: the agents' actions ``[N, A]``, as
            ``env.full_action_spec_unbatched[("agents", "action")]``; needed where
            uniform joint actions are drawn.
        enumeration_budget: most joint actions that are enumerated.
        num_action_samples: M, joint actions of the others over which q_i is averaged.
            Default: 1, what their policies do: the action of deterministic ones. More
            are drawn and need a stochastic actor, with get_dist. ``"all"``, for one-hot
            actions: all L^(N-1), weighted by their probabilities, at most
            ``enumeration_budget``.
        in_turns: influencer and influencee act alone, in turns, in a task for one. Batches
            are of one agent, ``actor_network`` is the influencer's policy, and the partner
            holds the influencee's policy and critics: q is its critics' estimate at the
            influencer's action, which is one of the candidates of ``"sampled"`` too.
        gradient: ``"pathwise"`` or ``"score"``, see above.
        gamma: discount factor of a step, for ``gradient="score"`` and
            ``optimum="td_target"``. Default: the partner's ``gamma``.
        normalize: divide the gap by a running standard deviation of the critics' values
            (a buffer, frozen in evaluation mode), so that F does not grow with the
            square of the return. Default: False, the paper's form.
        normalize_decay: of that running statistic.
        reduction: ``"none"`` (the shape of the batch), ``"mean"`` or ``"sum"``.

    Returns, from ``forward``, a TensorDict with ``loss_influence`` (lambda F) and,
    detached, ``influence`` (F; of several influencers ``[K]``) and ``gap`` ``[M]``, the mean
    gap of each influencee. It may be given, as ``policy``, what ``MADDPGLoss.policy`` says of
    the same batch and actors, where it needs their actions alone: with ``"pathwise"`` and
    ``num_action_samples=1``.

    Raises:
        ValueError: if an argument is out of range or unknown, two do not go together, a
            single influencer is among its influencees, one of several has none but itself,
            or the estimator is trained for others;
            when called, if an agent is not in the batch, the others have more joint
            actions than the budget, a batch for ``gradient="score"`` has no dimension
            of time, the actor's distribution cannot give what the gradient needs, or a
            policy is given where its distribution is needed.
        KeyError: when called, if the batch or a given policy lacks a key.

    Examples:
        >>> from torchrl.objectives import SoftUpdate
        >>> from torchrl_alita.envs import make_env
        >>> from torchrl_alita.modules import make_actor, make_critic
        >>> from torchrl_alita.objectives import MADDPGLoss
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=3, seed=0)
        >>> actor = make_actor(env)
        >>> maddpg = MADDPGLoss(actor, make_critic(env))
        >>> updater = SoftUpdate(maddpg, tau=0.01)
        >>> influence = InfluenceLoss(actor, maddpg, influencer=0, optimum="sampled")
        >>> losses = influence(env.rollout(4).reshape(-1))
        >>> losses["gap"].shape
        torch.Size([2])
    """

    @dataclass
    class _AcceptedKeys:
        """Keys that can be set with ``set_keys``.

        Attributes:
            action (NestedKey): read, and written by the actor. Default:
                ``("agents", "action")``.
            action_mask (NestedKey): read where the batch has it, for
                ``optimum="enumerated"``. Default: ``("agents", "action_mask")``.
            state_action_value (NestedKey): written by the critics. Default:
                ``("agents", "state_action_value")``.
            done (NestedKey): read in "next", for ``gradient="score"``. Default:
                ``"done"``.
            reward (NestedKey): read in "next", for ``optimum="td_target"``. Default:
                ``("agents", "reward")``.
            terminated (NestedKey): read in "next", for ``optimum_at="next"`` and
                ``optimum="td_target"``. Default: ``"terminated"``.
        """

        action: NestedKey = ACTION
        action_mask: NestedKey = ACTION_MASK
        state_action_value: NestedKey = VALUE
        done: NestedKey = DONE
        reward: NestedKey = REWARD
        terminated: NestedKey = TERMINATED

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys
    out_keys = ["loss_influence", "influence", "gap"]
    _schedulable_buffers = frozenset({"influence_coeff"})

    actor_network: TensorDictModuleBase
    actor_network_params: TensorDictParams
    target_actor_network_params: TensorDictParams

    def __init__(
        self,
        actor_network: TensorDictModuleBase,
        estimator: LossModule,
        *,
        influencer: int | Sequence[int] = 0,
        influencees: Sequence[int] | None = None,
        weights: Sequence[float] | None = None,
        influence_coeff: float = 0.1,
        optimum: Literal["policy", "sampled", "enumerated", "td_target"] = "sampled",
        optimum_at: Literal["current", "next"] = "current",
        num_optimum_samples: int = 0,
        action_spec: TensorSpec | None = None,
        enumeration_budget: int = 1024,
        num_action_samples: int | Literal["all"] = 1,
        in_turns: bool = False,
        gradient: Literal["pathwise", "score"] = "pathwise",
        gamma: float | None = None,
        normalize: bool = False,
        normalize_decay: float = 0.99,
        reduction: Literal["none", "mean", "sum"] = "mean",
    ):
        super().__init__()
        if optimum not in OPTIMA:
            raise ValueError(f"optimum must be one of {OPTIMA}, got {optimum!r}.")
        if optimum_at not in PLACES:
            raise ValueError(f"optimum_at must be one of {PLACES}, got {optimum_at!r}.")
        if gradient not in GRADIENTS:
            raise ValueError(f"gradient must be one of {GRADIENTS}, got {gradient!r}.")
        if gradient == "score" and optimum_at != "current":
            raise ValueError(
                f"gradient='score' is Theorem 1, whose optimum is at the current state, "
                f"got optimum_at={optimum_at!r}."
            )
        if optimum == "td_target" and (gradient, optimum_at) != ("pathwise", "current"):
            raise ValueError(
                f"optimum='td_target' goes with gradient='pathwise' and optimum_at='current', got "
                f"{gradient!r} and {optimum_at!r}."
            )
        if in_turns and (gradient, num_action_samples) != ("pathwise", 1):
            raise ValueError(
                f"in_turns=True goes with gradient='pathwise' and num_action_samples=1, got "
                f"{gradient!r} and {num_action_samples!r}: there are no others to average over."
            )
        check_whole(0, num_optimum_samples=num_optimum_samples)
        check_whole(1, enumeration_budget=enumeration_budget)
        if not (isinstance(num_action_samples, str) and num_action_samples == "all"):
            check_whole(1, num_action_samples=num_action_samples)
        check_choice("reduction", reduction, REDUCTIONS)
        check_number(normalize_decay=normalize_decay)
        if not 0 <= normalize_decay < 1:
            raise ValueError(
                f"normalize_decay must be at least 0 and below 1, got {normalize_decay}."
            )
        if num_optimum_samples > 0 and action_spec is None:
            raise ValueError(
                f"{num_optimum_samples} uniform joint actions need an action_spec to be drawn from."
            )
        if action_spec is not None and not isinstance(action_spec, Bounded | OneHot):
            raise ValueError(f"action_spec must be bounded or one-hot, got {action_spec}.")
        if action_spec is not None and len(action_spec.shape) != 2:
            raise ValueError(
                f"action_spec must have the shape (agents, features), as that of "
                f"full_action_spec_unbatched, got {tuple(action_spec.shape)}."
            )
        if optimum == "enumerated" and isinstance(action_spec, Bounded):
            raise ValueError(f"optimum={optimum!r} needs one-hot actions, got {action_spec}.")
        stochastic = gradient == "score" or num_action_samples != 1
        if stochastic and not hasattr(actor_network, "get_dist"):
            raise ValueError(
                f"num_action_samples={num_action_samples!r} with gradient={gradient!r} needs a "
                f"stochastic actor, with get_dist; a deterministic one has a single action."
            )
        check_non_negative(influence_coeff=influence_coeff)
        influencers = agent_indices("influencer", influencer)
        if influencees is not None:
            influencees = agent_indices("influencees", influencees)
        for k in influencers:
            team = listed_agents(k, _team(k, influencers, influencees), in_turns=in_turns)[1]
            if weights is not None:
                weights = check_weights(weights, team and len(team))
        one_action = (gradient, num_action_samples) == ("pathwise", 1)
        if len(influencers) > 1 and not (one_action and isinstance(estimator, MADDPGLoss)):
            raise ValueError(
                f"Several influencers {list(influencers)} go with MADDPGLoss, gradient='pathwise' "
                f"and num_action_samples=1, got {type(estimator).__name__}, {gradient!r} and "
                f"{num_action_samples!r}: make a loss for each of them."
            )
        self.convert_to_functional(actor_network, "actor_network")
        self.register_coeff_buffer("influence_coeff", float(influence_coeff))
        self.register_buffer("weights", weights)
        trained = isinstance(estimator, InfluenceEstimatorLoss)
        asked = (influencers, influencees)
        if trained and ((estimator.influencer,), estimator.influencees) != asked:
            raise ValueError(
                f"The estimator is trained for influencer {estimator.influencer} and influencees "
                f"{estimator.influencees}, not for {influencer} and {influencees}."
            )
        self.__dict__["estimator"] = estimator if trained else None
        self.__dict__["critics"] = estimator.critics if trained else PartnerCritics(estimator)
        self.influencers = influencers
        self.influencees = influencees
        self.optimum = optimum
        self.optimum_at = optimum_at
        self.num_optimum_samples = num_optimum_samples
        bounds = action_spec.space if isinstance(action_spec, Bounded) else None
        self.register_buffer("action_low", None if bounds is None else bounds.low.clone())
        self.register_buffer("action_high", None if bounds is None else bounds.high.clone())
        self.enumeration_budget = enumeration_budget
        self.num_action_samples = num_action_samples
        self.in_turns = in_turns
        self.gradient = gradient
        discounts = gradient == "score" or optimum == "td_target"
        discount = torch.tensor(self.critics.discount(gamma)) if discounts else None
        self.register_buffer("gamma", discount)
        self.value_norm = PopArtValueNorm(shape=1, beta=normalize_decay) if normalize else None
        self.reduction = reduction

    @property
    def in_keys(self) -> list[NestedKey]:
        keys = self.tensor_keys
        read = self.critics.in_keys(keys.action)
        if self.estimator is not None:
            read = unique([*read, *self.estimator.estimator_in_keys()])
        if self.gradient == "score":
            return unique([keys.action, *read, next_key(keys.done)])
        if self.optimum == "td_target":
            return unique([keys.action, *read, *self.critics.target_keys(keys)])
        if self.optimum_at == "current":
            return unique([keys.action, *read])
        following = following_keys(self.actor_network, self.critics.in_keys(keys.action))
        return unique([keys.action, *read, *following, next_key(keys.terminated)])

    @dispatch
    def forward(
        self, tensordict: TensorDictBase, policy: TensorDictBase | None = None
    ) -> TensorDictBase:
        batch = check_batch(self, tensordict)
        # Before the running scale is touched.
        influencees = self._checked_influencees(batch)
        policy = self._policy(batch, policy)
        check_same_shape(batch, self.tensor_keys.action, policy.action.shape)
        mask = row_mask(self, batch, policy.action.shape[:-2])
        if len(self.influencers) == 1:
            value = self._influenced_value(batch, policy, influencees)
        else:
            value = self._value_to_all(batch, policy, influencees)
        with torch.no_grad():
            optimum, terminated = self._placed_optimum(
                batch, tensordict, policy, influencees, value.detach()
            )
            scale = self._scale(optimum, mask)
        gap = functional.influence_gap(value, optimum, terminated=terminated, scale=scale)
        weights = self._alpha(influencees, gap)
        influence = functional.influence(gap, weights)
        means = _means(influence.detach(), mask)
        if self.gradient == "score":
            total = self._scored(batch, policy, influence, value / scale, gap, weights)
        elif len(self.influencers) == 1:
            total = influence.squeeze(-1)
        else:
            total = _valued(influence.sum(-1), gap.square().sum((-2, -1)))
        return TensorDict(
            {
                "loss_influence": self.influence_coeff * self._reduce_loss(total, tensordict=batch),
                "influence": means.squeeze(0) if len(self.influencers) == 1 else means,
                "gap": _means(gap.detach().squeeze(-1), mask),
            }
        )

    def influencees_among(self, num_agents: int) -> tuple[int, ...]:
        """Indices of the influencees, in the order of ``gap`` ``[M]``.

        Args:
            num_agents: N.

        Returns:
            M indices; with several influencers, of all whom any of them influences.

        Raises:
            ValueError: if an agent is not among so many.

        Examples:
            >>> from torchrl.objectives import SoftUpdate
            >>> from torchrl_alita.envs import make_env
            >>> from torchrl_alita.modules import make_actor, make_critic
            >>> from torchrl_alita.objectives import MADDPGLoss
            >>> env = make_env("vmas/spread", num_envs=5, n_agents=3, seed=0)
            >>> actor = make_actor(env)
            >>> maddpg = MADDPGLoss(actor, make_critic(env))
            >>> updater = SoftUpdate(maddpg, tau=0.01)
            >>> InfluenceLoss(actor, maddpg, influencer=1).influencees_among(3)
            (0, 2)
            >>> InfluenceLoss(actor, maddpg, influencer=(0, 1)).influencees_among(3)
            (0, 1, 2)
        """
        first, *others = self._teams(num_agents)
        return (self.influencees or tuple(range(num_agents))) if others else first

    def _teams(self, num_agents: int) -> list[tuple[int, ...]]:
        """The influencees of each influencer."""
        return [
            default_influencees(
                influencer,
                _team(influencer, self.influencers, self.influencees),
                num_agents,
                in_turns=self.in_turns,
            )
            for influencer in self.influencers
        ]

    def _checked_influencees(self, batch: TensorDictBase) -> tuple[int, ...]:
        """Indices of the M influencees; what the batch shows to be wrong is said here."""
        agents = batch.get(self.tensor_keys.action).shape[-2:]
        influencees = self.influencees_among(agents[0])
        for team in () if self.weights is None else self._teams(agents[0]):
            if len(self.weights) != len(team):
                raise ValueError(
                    f"weights must be {len(team)}, one for each influencee, got "
                    f"{len(self.weights)}."
                )
        if self.action_low is not None and self.action_low.shape != agents:
            raise ValueError(
                f"action_spec must have the shape {tuple(agents)} of the agents' actions, got "
                f"{tuple(self.action_low.shape)}."
            )
        if self.gradient == "score" and batch.batch_dims < 2:
            raise ValueError(
                f"gradient='score' needs a batch [*B, T] with a dimension of time, got "
                f"{tuple(batch.batch_size)}."
            )
        return influencees

    def _alpha(self, influencees: Sequence[int], like: torch.Tensor) -> torch.Tensor:
        """The weights of each influencer, ``[K, M]``: 0 for itself."""
        if self.in_turns:
            return like.new_ones(1, 1)
        own = index_of(self.influencers, like.device).unsqueeze(-1)
        others = (own != index_of(influencees, like.device)).to(like.dtype)
        if self.weights is None:
            return others / others.sum(-1, keepdim=True)
        place = (others.cumsum(-1) - 1).clamp(min=0).long()
        return others * self.weights.to(like)[place]

    def _policy(self, batch: TensorDictBase, given: TensorDictBase | None = None) -> _Policy:
        """What the policies do in the batch's states; the actions carry gradient."""
        if given is not None:
            if (self.gradient, self.num_action_samples) != ("pathwise", 1):
                raise ValueError(
                    f"policy goes with gradient='pathwise' and num_action_samples=1, got "
                    f"{self.gradient!r} and {self.num_action_samples!r}, which need a distribution."
                )
            require_keys(given, [self.tensor_keys.action])
            return _Policy(action=given.get(self.tensor_keys.action))
        if self.gradient == "pathwise" and self.num_action_samples == 1:
            own = run(self.actor_network, self.actor_network_params, batch, self.tensor_keys.action)
            return _Policy(action=own)
        network = self.actor_network
        distribution = functional_call(
            self.actor_network_params, network, lambda: network.get_dist(batch.copy())
        )
        if self.gradient == "score":
            return _Policy(action=distribution.sample(), distribution=distribution)
        if not distribution.has_rsample:
            raise ValueError(
                f"gradient='pathwise' needs a distribution with rsample, got "
                f"{type(distribution).__name__}."
            )
        return _Policy(action=distribution.rsample(), distribution=distribution)

    def _influenced_value(
        self, batch: TensorDictBase, policy: _Policy, influencees: Sequence[int]
    ) -> torch.Tensor:
        """q_i at the influencer's action, averaged over the others', ``[*B, M, 1]``."""
        own = policy.action if self.gradient == "pathwise" else batch.get(self.tensor_keys.action)
        others, shares = self._others(policy)
        is_influencer = torch.zeros(own.shape[-2], 1, dtype=torch.bool, device=own.device)
        is_influencer[self.influencers[0]] = True
        joint = torch.where(is_influencer, own.to(others.dtype), others)
        if self.num_action_samples != 1:
            batch = batch.expand(joint.shape[0], *batch.batch_size)
        if self.estimator is not None:
            value = self.estimator.influenced_value(batch, joint, influencees)
        else:
            value = self.critics.value(batch, joint, keys=self.tensor_keys, agents=influencees)
        if self.num_action_samples == 1:
            return value
        return value.mean(0) if shares is None else (shares[..., None, None] * value).sum(0)

    def _value_to_all(
        self, batch: TensorDictBase, policy: _Policy, influencees: Sequence[int]
    ) -> torch.Tensor:
        """q_i at the policies' actions, the same for all influencers, ``[*B, M, 1]``.

        The gradient of critic i with regard to influencer k's action is scaled by alpha_{k, i}:
        that of the sum of all g_i^2 is then that of all F_k, each with regard to its own policy.
        """
        own = policy.action
        num_agents = own.shape[-2]
        # Rows are critics, columns the agents that act.
        shares = self._alpha(influencees, own).mT
        shares = scatter_agents(shares, influencees, num_agents, 0)
        shares = scatter_agents(shares, self.influencers, num_agents, 1).unsqueeze(-1)
        fixed = own.detach().unsqueeze(-3)
        joint = fixed + shares * (own.unsqueeze(-3) - fixed)
        return self.critics.value(batch, joint, keys=self.tensor_keys, agents=influencees)

    def _others(self, policy: _Policy) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Joint actions of the others ``[M, *B, N, A]``, or ``[*B, N, A]`` of a single one.

        With them, their shares if they are unequal.
        """
        if self.num_action_samples == "all":
            probabilities = policy.distribution.probs.detach()
            return every_other_action(
                probabilities, self.influencers[0], budget=self.enumeration_budget
            )
        if self.num_action_samples == 1:
            drawn = self.gradient == "score"
            return policy.distribution.sample() if drawn else policy.action.detach(), None
        return policy.distribution.sample((self.num_action_samples,)), None

    def _scored(
        self,
        batch: TensorDictBase,
        policy: _Policy,
        influence: torch.Tensor,
        value: torch.Tensor,
        gap: torch.Tensor,
        weights: torch.Tensor,
    ) -> torch.Tensor:
        """Theorem 1: the value of F ``[*B, T, 1] -> [*B, T]``, the gradient of its score."""
        done = batch.get(next_key(self.tensor_keys.done))
        weight = functional.influence_score(value, gap, weights[0], done, self.gamma)
        action = batch.get(self.tensor_keys.action)
        log_prob = policy.distribution.log_prob(action)
        if log_prob.shape == action.shape:
            log_prob = log_prob.sum(-1)
        if log_prob.shape != action.shape[:-1]:
            raise ValueError(
                f"gradient='score' needs each agent's log-probability {tuple(action.shape[:-1])}, "
                f"the actor's distribution gives {tuple(log_prob.shape)}."
            )
        score = weight.squeeze(-1) * log_prob[..., self.influencers[0]]
        return _valued(influence.squeeze(-1), score)

    def _placed_optimum(
        self,
        batch: TensorDictBase,
        tensordict: TensorDictBase,
        policy: _Policy,
        influencees: Sequence[int],
        value: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """max_u Q_i ``[*B, M, 1]`` at the current or next state, and what ends before the latter."""
        keys = self.tensor_keys
        if self.optimum == "td_target":
            target = self.critics.td_target(batch, keys=keys, gamma=self.gamma)
            return gather_agents(target, influencees, -2), None
        if self.optimum_at == "current":
            mask = tensordict.get(keys.action_mask, None)
            own, stored = policy.action.detach(), batch.get(keys.action)
            if self.in_turns:
                partner_action = self._partner_action(batch)
                return self._optimum(batch, partner_action, [stored, own], mask, influencees), None
            # The marginal estimate at the policies' one action is Q_i there already.
            known = self.estimator is None and policy.distribution is None
            policy_value = value if known else None
            return self._optimum(batch, own, [stored], mask, influencees, policy_value), None
        network, params = self.actor_network, self.actor_network_params
        unrolled = unroll(network, params, batch)
        following = following_inputs(network, self.critics.in_keys(keys.action), batch, unrolled)
        own = run_step(network, params, following, keys.action)
        mask = tensordict.get(next_key(keys.action_mask), None)
        terminated = batch.get(next_key(keys.terminated))
        candidates = []
        if self.in_turns:
            own, candidates = self._partner_action(following), [own]
        return self._optimum(following, own, candidates, mask, influencees), terminated

    def _partner_action(self, inputs: TensorDictBase) -> torch.Tensor:
        """What the influencee's own policy does where it acts alone, ``[*B, 1, A]``."""
        params = self.critics.partner.actor_network_params
        return run(self.critics.actor_network, params, inputs, self.tensor_keys.action)

    def _optimum(
        self,
        inputs: TensorDictBase,
        policy_action: torch.Tensor,
        candidates: list[torch.Tensor],
        mask: torch.Tensor | None,
        influencees: Sequence[int],
        policy_value: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """max_u Q_i for each influencee, ``[*B, M, 1]``; candidates are for ``"sampled"``."""
        mask = None if mask is None else functional.allowed_actions(mask)

        def critic(
            action: torch.Tensor, agents: Sequence[int] | None = influencees
        ) -> torch.Tensor:
            several = action.ndim > policy_action.ndim
            seen = inputs.expand(len(action), *inputs.batch_size) if several else inputs
            return self.critics.value(seen, action, keys=self.tensor_keys, agents=agents)

        if self.optimum == "enumerated":
            return self._enumerated_optimum(critic, policy_action, mask, influencees)
        optimum = critic(policy_action) if policy_value is None else policy_value
        for candidate in candidates if self.optimum == "sampled" else ():
            # Of all agents: a compiled update has this already, from the critics' loss.
            value = critic(candidate.to(policy_action.dtype), None)
            optimum = torch.maximum(optimum, gather_agents(value, influencees, -2))
        if self.optimum == "sampled" and self.num_optimum_samples:
            drawn = uniform_joint_actions(
                self.num_optimum_samples,
                policy_action,
                low=self.action_low,
                high=self.action_high,
                allowed=mask,
            )
            optimum = torch.maximum(optimum, best_candidate(critic, drawn))
        return optimum

    def _enumerated_optimum(
        self,
        critic: Callable[..., torch.Tensor],
        policy_action: torch.Tensor,
        mask: torch.Tensor | None,
        influencees: Sequence[int],
    ) -> torch.Tensor:
        num_agents, num_actions = policy_action.shape[-2:]
        if num_actions**num_agents > self.enumeration_budget:
            # Every critic climbs with a joint action of its own.
            reached = coordinate_ascent(partial(critic, agents=None), policy_action, allowed=mask)
            return gather_agents(reached, influencees, -2)
        every = enumerate_joint_actions(num_agents, num_actions, device=policy_action.device)
        every = every.view(-1, *(1,) * (policy_action.ndim - 2), num_agents, num_actions)
        every = every.expand(-1, *policy_action.shape).to(policy_action.dtype)
        if mask is None:
            return best_candidate(critic, every)
        allowed = (every * mask).sum((-1, -2)) == num_agents
        return critic(every).masked_fill(~allowed[..., None, None], -torch.inf).amax(0)

    def _scale(self, optimum: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor | float:
        if self.value_norm is None:
            return 1.0
        if self.training:
            self.value_norm.update(optimum if mask is None else _same_moments(optimum, mask))
        return self.value_norm.scale()


def _team(
    influencer: int, influencers: Sequence[int], influencees: Sequence[int] | None
) -> Sequence[int] | None:
    """Whom one of the influencers is asked to influence; a single one may not name itself."""
    if influencees is None or len(influencers) == 1:
        return influencees
    return tuple(agent for agent in influencees if agent != influencer)


def _valued(value: torch.Tensor, climbed: torch.Tensor) -> torch.Tensor:
    """The one's value with the other's gradient."""
    return value.detach() + climbed - climbed.detach()


def _means(values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Means over the shown rows, ``[*B, M] -> [M]``."""
    rows = values.reshape(-1, values.shape[-1])
    if mask is None:
        return rows.mean(0)
    return rows.where(mask.reshape(-1, 1), 0).sum(0) / mask.sum().clamp_min(1)


def _same_moments(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Two values with the mean and the mean square of the shown rows, ``[*B, M, 1] -> [2, 1]``.

    A compiled graph cannot leave rows out.
    """
    shown = mask[..., None, None].expand_as(values)
    count = shown.sum().clamp_min(1)
    mean = values.where(shown, 0).sum() / count
    spread = (values - mean).square().where(shown, 0).sum().div(count).sqrt()
    return torch.stack([mean - spread, mean + spread]).unsqueeze(-1)
