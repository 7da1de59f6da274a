"""The influenced value q_i of Eq. 3: a teammate's value of what the influencer does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from tensordict import NestedKey, TensorDictBase
from torchrl.objectives import LossModule

from torchrl_alita._agents import scatter_agents
from torchrl_alita._checks import check_whole
from torchrl_alita.objectives._situation import Situation
from torchrl_alita.objectives.estimator import InfluenceEstimatorLoss
from torchrl_alita.objectives.joint_actions import enumerate_joint_actions
from torchrl_alita.objectives.maddpg import MADDPGLoss
from torchrl_alita.team import Team

__all__ = ["Marginal", "Trained"]

# A critic of joint actions: inputs [*B], action [*B, N, A] -> [*B, M, 1].
Critic = Callable[[TensorDictBase, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Marginal:
    r"""The influenced value from the partner's critics alone, ``-> [*B, M, 1]``.

    .. math:: q_i^{\pi_1}(s, a_1) = E_{a_{-1} \sim \pi_{-1}} Q_i(s, a_1, a_{-1})

    It is Eq. 3 of https://arxiv.org/abs/2108.12581 for policies that act independently given
    the state: it needs no network and no training, and is as exact as the critic. With
    deterministic policies it is Q_i at the policies' own actions, so that the gap to
    :class:`AtPolicy` at the current state is 0: choose another optimum there. With stochastic
    ones the mean over M drawn actions has a variance, which the square of Eq. 4 turns into a
    bias: F is too large by Var(Q_i) / M, and by nothing with ``"all"``.

    Args:
        samples: M, joint actions of the others over which Q_i is averaged. Default: 1, what
            their policies do. More are drawn and need a stochastic actor, with get_dist.
            ``"all"``, for one-hot actions: all L^(N-1), weighted by their probabilities.
        budget: most joint actions for ``"all"``. Default: 1024.

    Raises:
        ValueError: if an argument is out of range; when called, if there are more joint
            actions than the budget.

    Examples:
        >>> Marginal(samples="all")
        Marginal(samples='all', budget=1024)
    """

    samples: int | Literal["all"] = 1
    budget: int = 1024

    def __post_init__(self):
        _check_samples(self.samples, self.budget)

    def check(self, team: Team, partner: LossModule) -> None:
        """Raise a ValueError if several influencers do not see the same value."""
        if len(team.influencers) == 1:
            return
        if self.samples != 1 or not isinstance(partner, MADDPGLoss):
            raise ValueError(
                f"Several influencers {list(team.influencers)} need MADDPGLoss and samples=1, got "
                f"{type(partner).__name__} and samples={self.samples!r}: make a loss for each of "
                f"them, with Team.alone."
            )

    def in_keys(self) -> list[NestedKey]:
        """What is read besides what the partner's actor and critics read."""
        return []

    def is_policy_value(self, situation: Situation) -> bool:
        """Whether it is Q_i at the policies' one joint action."""
        return situation.distribution is None and not situation.team.acts_in_turns

    def __call__(self, situation: Situation, own_action: torch.Tensor) -> torch.Tensor:
        """Value for each influencee where the influencer acts so, ``[*B, N, A] -> [*B, M, 1]``."""
        critics, keys, team = situation.critics, situation.keys, situation.team

        def critic(inputs: TensorDictBase, action: torch.Tensor) -> torch.Tensor:
            return critics.value(inputs, action, keys=keys, agents=team.influencees)

        if len(team.influencers) > 1:
            return critic(situation.batch, _joint_of_each_critic(situation))
        return _average(critic, situation, own_action, self.samples, self.budget)


class Trained:
    """The influenced value that a network has been trained to, ``-> [*B, M, 1]``.

    Source: Eq. 6 and 8 of https://arxiv.org/abs/2108.12581.

    Args:
        estimator: the loss that trains it, of the same team and partner. It is borrowed.
        samples: as in :class:`Marginal`.
        budget: as in :class:`Marginal`.

    Raises:
        TypeError: if the estimator is no InfluenceEstimatorLoss.
        ValueError: if another argument is out of range; when called, if there are more joint
            actions than the budget.

    Examples:
        >>> from torchrl.objectives import SoftUpdate
        >>> from torchrl_alita import InfluenceLoss, MADDPGLoss, Team
        >>> from torchrl_alita.envs import make_env
        >>> from torchrl_alita.modules import make_actor, make_critic
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=3, seed=0)
        >>> team, actor = Team(env), make_actor(env)
        >>> maddpg = MADDPGLoss(actor, make_critic(env))
        >>> updater = SoftUpdate(maddpg, tau=0.01)
        >>> clones = InfluenceEstimatorLoss(maddpg, team, kind="clones")
        >>> influence = InfluenceLoss(actor, maddpg, team, value=Trained(clones))
        >>> influence(env.rollout(4).reshape(-1))["gap"].shape
        torch.Size([2])
    """

    def __init__(
        self,
        estimator: InfluenceEstimatorLoss,
        samples: int | Literal["all"] = 1,
        budget: int = 1024,
    ):
        if not isinstance(estimator, InfluenceEstimatorLoss):
            raise TypeError(
                f"estimator must be an InfluenceEstimatorLoss, got {type(estimator).__name__}."
            )
        _check_samples(samples, budget)
        self.estimator = estimator
        self.samples = samples
        self.budget = budget

    def check(self, team: Team, partner: LossModule) -> None:
        """Raise a ValueError if the estimator is trained for another team or partner."""
        if not self.estimator.team.influences_as(team):
            raise ValueError(
                f"The estimator is trained for {self.estimator.team}, not for {team}: several "
                f"influencers need an estimator and a loss each, with Team.alone."
            )
        if self.estimator.critics.partner is not partner:
            raise ValueError("The estimator is trained with another partner.")

    def in_keys(self) -> list[NestedKey]:
        """What is read besides what the partner's actor and critics read."""
        return self.estimator.estimator_in_keys()

    def is_policy_value(self, situation: Situation) -> bool:
        """Whether it is Q_i at the policies' one joint action: it is an estimate."""
        return False

    def __call__(self, situation: Situation, own_action: torch.Tensor) -> torch.Tensor:
        """Value for each influencee where the influencer acts so, ``[*B, N, A] -> [*B, M, 1]``."""

        def critic(inputs: TensorDictBase, action: torch.Tensor) -> torch.Tensor:
            return self.estimator.influenced_value(inputs, action, situation.team.influencees)

        return _average(critic, situation, own_action, self.samples, self.budget)

    def __repr__(self) -> str:
        return f"Trained({self.estimator.kind}, samples={self.samples!r}, budget={self.budget})"


def _check_samples(samples: Any, budget: int) -> None:
    if not (isinstance(samples, str) and samples == "all"):
        check_whole(1, samples=samples)
    check_whole(1, budget=budget)


def _average(
    critic: Critic,
    situation: Situation,
    own_action: torch.Tensor,
    samples: int | Literal["all"],
    budget: int,
) -> torch.Tensor:
    """The critic at the influencer's action, averaged over what the others do."""
    (influencer,) = situation.team.influencers
    others, shares = _others(situation, influencer, samples, budget)
    is_influencer = torch.zeros(own_action.shape[-2], 1, dtype=torch.bool, device=own_action.device)
    is_influencer[influencer] = True
    joint = torch.where(is_influencer, own_action.to(others.dtype), others)
    if samples == 1:
        return critic(situation.batch, joint)
    expanded = situation.batch.expand(joint.shape[0], *situation.batch.batch_size)
    value = critic(expanded, joint)
    return value.mean(0) if shares is None else (shares[..., None, None] * value).sum(0)


def _others(
    situation: Situation, influencer: int, samples: int | Literal["all"], budget: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Joint actions of the others ``[M, *B, N, A]``, or ``[*B, N, A]`` of a single one.

    With them, their shares if they are unequal.
    """
    distribution = situation.distribution
    if distribution is None:
        return situation.action.detach(), None
    if samples == "all":
        return _every_other_action(distribution.probs.detach(), influencer, budget)
    if samples == 1:
        return distribution.sample(), None
    return distribution.sample((samples,)), None


def _every_other_action(
    probabilities: torch.Tensor, influencer: int, budget: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """All joint actions of the others, with zeros for the influencer, and their probabilities.

    ``[*B, N, L] -> [M, 1.., N, L]`` with as many ones as ``*B`` has dimensions, ``[M, *B]``.
    """
    num_agents, num_actions = probabilities.shape[-2:]
    count = num_actions ** (num_agents - 1)
    if count > budget:
        raise ValueError(
            f"The others have {num_actions}**{num_agents - 1} = {count} joint actions, more than "
            f"budget = {budget}: draw some of them with samples."
        )
    others = enumerate_joint_actions(num_agents - 1, num_actions, device=probabilities.device)
    others = others.to(probabilities.dtype)
    own = torch.zeros_like(others[:, :1])
    joint = torch.cat([others[:, :influencer], own, others[:, influencer:]], dim=1)
    joint = joint.view(count, *(1,) * (probabilities.ndim - 2), num_agents, num_actions)
    # The influencer's row of zeros must not make every product zero.
    taken = (joint * probabilities).sum(-1)
    taken = torch.cat([taken[..., :influencer], taken[..., influencer + 1 :]], dim=-1)
    return joint, taken.prod(-1)


def _joint_of_each_critic(situation: Situation) -> torch.Tensor:
    """The policies' joint action for each critic, ``[*B, N, N, A]``, of several influencers.

    All of them see the same value, so that it is computed once. The gradient of critic i with
    regard to influencer k's action is scaled by alpha_{k, i}: that of the sum of all g_i^2 is
    then that of all F_k, each with regard to its own policy.
    """
    own, team = situation.action, situation.team
    # Rows are critics, columns the agents that act.
    shares = situation.weights_like(own).mT
    shares = scatter_agents(shares, team.influencees, team.size, -2)
    shares = scatter_agents(shares, team.influencers, team.size, -1).unsqueeze(-1)
    fixed = own.detach().unsqueeze(-3)
    return fixed + shares * (own.unsqueeze(-3) - fixed)
