"""ALITA: asymmetric learning for influencing a team of agents."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.envs import EnvBase
from torchrl.modules import PopArtValueNorm

from torchrl_alita._agents import gather_agents
from torchrl_alita._checks import (
    check_at_least_one,
    check_choice,
    check_non_negative,
    check_positive,
    check_whole,
    sizes,
)
from torchrl_alita.algorithms._compiled import differentiate
from torchrl_alita.algorithms._learner import make_optimizer
from torchrl_alita.algorithms.maddpg import MADDPG
from torchrl_alita.data import ConditionalSampler
from torchrl_alita.data.conditional import KINDS
from torchrl_alita.layout import DIVERSITY_PENALTY, NOVELTY, layout_of, next_key
from torchrl_alita.modules import Autoencoder, make_influence_network
from torchrl_alita.objectives import (
    AtPolicy,
    BestOf,
    Enumerated,
    InfluenceEstimatorLoss,
    InfluenceLoss,
    Marginal,
    NoveltyLoss,
    Trained,
)
from torchrl_alita.team import Team
from torchrl_alita.transforms import DiversityPenalty, NoveltyReward, TotalReward

__all__ = ["ALITA"]

ESTIMATORS = ("marginal", "clones", "centralized")
OPTIMA = ("policy", "sampled", "enumerated")
# Decay of the running scale of the critics' values.
VALUE_NORM_DECAY = 0.99
# Joint actions of the others over which an influenced value is averaged without being asked to.
MOST_OTHER_ACTIONS = 32


class ALITA(MADDPG):
    """MADDPG whose influencers are rewarded for novelty and for their influence.

    Source: https://arxiv.org/abs/2108.12581. The ablations of Sec. 4.3:
    ``influence_coeff=0`` is No F, ``novelty_coeff=diversity_coeff=0`` is No IM, and
    ``influencers="all"`` is Symmetric.

    Args:
        env: an environment in the layout of this package.
        influencers: index, several, ``"random"`` (one, from torch's global generator)
            or ``"all"``.
        influencees: indices of the teammates that count. Default: all. An adversary
            is left out here.
        weights: alpha, one for each influencee of an influencer. Default: equal.
        influence_coeff: lambda. Default: 0.1, Appendix D.1 and Table 5 for MAPE.
        novelty_coeff: lambda_pi. Default: 0.01, Table 5 for MAPE.
        diversity_coeff: of the penalty. The paper has none; taken literally, 1, it
            froze the team on cooperative navigation. Default: 0.1.
        omega: Default: 0.01, Table 5 for MAPE.
        estimator: of the influenced values: ``"marginal"``, ``"clones"`` (Eq. 8) or
            ``"centralized"`` (Eq. 6).
        estimator_updates: of the estimator at each step. Default: 4, Appendix D.1.
        estimator_lr: Adam's step.
        autoencoder_lr: Adam's step.
        autoencoder_cells: width of each of its hidden layers. Default: the paper's, whose
            code has 3 numbers. It cannot reconstruct long observations, of which the
            novelty then never vanishes.
        optimum: see :class:`torchrl_alita.objectives.InfluenceLoss`.
        optimum_at: see :class:`torchrl_alita.objectives.InfluenceLoss`.
        num_optimum_samples: see :class:`torchrl_alita.objectives.InfluenceLoss`.
        num_action_samples: see :class:`torchrl_alita.objectives.InfluenceLoss`. Default:
            1 for continuous actions; ``"all"`` for one-hot ones, or 1 where the others
            have more than 32 joint actions.
        normalize: see :class:`torchrl_alita.objectives.InfluenceLoss`.
        conditional: kind of the batches D_t, see
            :class:`torchrl_alita.data.ConditionalSampler`.
        **options: those of :class:`MADDPG`.

    Raises:
        ValueError: if an argument is out of range or unknown.
        KeyError: if the environment has another layout.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=3, seed=0)
        >>> algorithm = ALITA(env, influencers=0, estimator="marginal")
        >>> logs = algorithm.update(env.rollout(4).reshape(-1))
        >>> sorted(key for key in logs.keys() if key.startswith("gap"))
        ['gap_0_1', 'gap_0_2']
    """

    def __init__(
        self,
        env: EnvBase,
        *,
        influencers: int | Sequence[int] | Literal["random", "all"] = 0,
        influencees: Sequence[int] | None = None,
        weights: Sequence[float] | None = None,
        influence_coeff: float = 0.1,
        novelty_coeff: float = 0.01,
        diversity_coeff: float = 0.1,
        omega: float | Sequence[float] = 0.01,
        estimator: Literal["marginal", "clones", "centralized"] = "marginal",
        estimator_updates: int = 4,
        estimator_lr: float = 1e-3,
        autoencoder_lr: float = 1e-3,
        autoencoder_cells: Sequence[int] = (128, 64, 12, 3, 12, 64, 128),
        optimum: Literal["policy", "sampled", "enumerated"] = "sampled",
        optimum_at: Literal["current", "next"] = "current",
        num_optimum_samples: int = 4,
        num_action_samples: int | Literal["all"] | None = None,
        normalize: bool = False,
        conditional: Literal["nearest", "exact", "uniform"] = "nearest",
        **options: Any,
    ):
        if estimator not in ESTIMATORS:
            raise ValueError(f"estimator must be one of {ESTIMATORS}, got {estimator!r}.")
        check_choice("conditional", conditional, KINDS)
        check_at_least_one(estimator_updates=estimator_updates)
        check_positive(estimator_lr=estimator_lr, autoencoder_lr=autoencoder_lr)
        check_non_negative(
            influence_coeff=influence_coeff,
            novelty_coeff=novelty_coeff,
            diversity_coeff=diversity_coeff,
        )
        check_choice("optimum", optimum, OPTIMA)
        check_whole(0, num_optimum_samples=num_optimum_samples)
        if optimum == "enumerated" and not layout_of(env).discrete:
            raise ValueError("optimum='enumerated' needs one-hot actions, these are continuous.")
        self.team = Team(env, influencers=influencers, influencees=influencees, weights=weights)
        if influence_coeff:
            self.team.check_influencees()
        super().__init__(env, **options)
        self.estimator_updates = estimator_updates

        self._build_bonuses(
            novelty_coeff=novelty_coeff,
            diversity_coeff=diversity_coeff,
            omega=omega,
            cells=sizes("autoencoder_cells", autoencoder_cells),
            lr=autoencoder_lr,
        )
        self.estimators: list[InfluenceEstimatorLoss] = []
        self.influences: list[InfluenceLoss] = []
        samples = self._samples(num_action_samples)
        # What all influencers see is then the same, and one loss is of all of them.
        together = estimator == "marginal" and samples == 1
        teams = [self.team] if together else map(self.team.alone, self.team.influencers)
        for team in teams if influence_coeff else ():
            if estimator == "marginal":
                value = Marginal(samples=samples)
            else:
                trained = self._build_estimator(env, team, estimator, conditional, estimator_lr)
                value = Trained(trained, samples=samples)
            influence = InfluenceLoss(
                self.actor,
                self.maddpg,
                team,
                value=value,
                optimum=self._optimum(optimum, optimum_at, num_optimum_samples),
                value_norm=PopArtValueNorm(shape=1, beta=VALUE_NORM_DECAY) if normalize else None,
                influence_coeff=influence_coeff,
            ).to(self.device)
            self.influences.append(influence)
            self.modules[_name("influence", team)] = influence
        self._estimations = {
            _name("estimator", estimator.team): (
                self._compiled(partial(self._targeted, estimator)),
                self._compiled(estimator, then=differentiate),
            )
            for estimator in self.estimators
        }

    @property
    def influencers(self) -> tuple[int, ...]:
        """Indices of the influencers."""
        return self.team.influencers

    def _build_bonuses(
        self,
        *,
        novelty_coeff: float,
        diversity_coeff: float,
        omega: float | Sequence[float],
        cells: Sequence[int],
        lr: float,
    ) -> None:
        """The influencers' novelty, the penalty, and the reward that all learn from."""
        self.autoencoder = Autoencoder(
            self.layout.observation_size + self.layout.action_size,
            num_influencers=len(self.team.influencers),
            num_cells=cells,
            device=self.device,
        )
        self.novelty = NoveltyReward(self.autoencoder, self.team)
        self.novelty_loss = NoveltyLoss(self.autoencoder, self.team)
        self.diversity = DiversityPenalty(
            self.actor,
            self.team,
            omega=omega,
            distance="brier" if self.layout.discrete else "squared",
        ).to(self.device)
        self.total_reward = TotalReward(
            {NOVELTY: novelty_coeff, DIVERSITY_PENALTY: diversity_coeff}
        ).to(self.device)
        self.modules["novelty_loss"] = self.novelty_loss
        self.optimizers["autoencoder"] = make_optimizer(self.novelty_loss, lr=lr)
        # All that borrow the partner's critics learn from this reward too.
        self.maddpg.set_keys(reward=self.total_reward.out_keys[0])

    def _build_estimator(
        self, env: EnvBase, team: Team, kind: str, conditional: str, lr: float
    ) -> InfluenceEstimatorLoss:
        """The estimator of one influencer's influence, and the sampler of its batches."""
        network = make_influence_network(env, device=self.device) if kind == "centralized" else None
        estimator = InfluenceEstimatorLoss(
            self.maddpg, team, kind=kind, estimator_network=network
        ).to(self.device)
        self.estimators.append(estimator)
        (influencer,) = team.influencers
        self.conditional_samplers.append(
            ConditionalSampler(influencer=influencer, kind=conditional)
        )
        name = _name("estimator", team)
        self.modules[name] = estimator
        self.optimizers[name] = make_optimizer(estimator, lr=lr)
        return estimator

    def _optimum(self, kind: str, at: str, uniform: int) -> AtPolicy | BestOf | Enumerated:
        if kind == "policy":
            return AtPolicy(at=at)
        if kind == "enumerated":
            return Enumerated(at=at)
        return BestOf(uniform=uniform, spec=self.action_spec, at=at)

    def _samples(self, asked: int | str | None) -> int | str:
        if asked is not None:
            return asked
        others = self.layout.action_size ** (self.layout.num_agents - 1)
        return "all" if self.layout.discrete and others <= MOST_OTHER_ACTIONS else 1

    def start_episode(self) -> None:
        """Set the clones back to the critics, Sec. 3.1.2."""
        for estimator in self.estimators:
            if estimator.kind == "clones":
                estimator.reset_clones()

    def update(
        self,
        batch: TensorDictBase,
        conditional_batches: Sequence[TensorDictBase] = (),
        recent_batch: TensorDictBase | None = None,
    ) -> TensorDict:
        """One step of every network, and ``estimator_updates`` of the estimators.

        Args:
            batch: transitions ``[B]`` of the replay buffer.
            conditional_batches: D_t, one for each of ``conditional_samplers``.
            recent_batch: recent transitions, for the autoencoders. Default: the batch.

        Returns:
            Detached scalars to log: the losses, ``novelty`` (of the influencers),
            ``diversity_penalty``, ``influence_k`` and ``gap_k_i`` of influencer k on
            influencee i, and the gradients' norms.

        Raises:
            ValueError: if there is not one conditional batch for each sampler.
            KeyError: if a batch lacks a key.
        """
        if len(conditional_batches) != len(self.estimators):
            raise ValueError(
                f"{len(self.estimators)} conditional batches are needed, one for each "
                f"estimator, got {len(conditional_batches)}."
            )
        logs = TensorDict()
        for estimator, conditional_batch in zip(
            self.estimators, conditional_batches, strict=True
        ):  # Eq. 6, 8
            logs.update(self._train_estimator(estimator, conditional_batch))
        return logs.update(self._step(batch, batch if recent_batch is None else recent_batch))

    def _losses(self, batch: TensorDictBase, recent_batch: TensorDictBase) -> TensorDictBase:
        batch = self._rewarded(batch)  # Eq. 10, 11
        # Of one-hot actions every term has draws of its own.
        policy = None if self.layout.discrete else self.maddpg.policy(batch)
        losses = self.maddpg(batch, policy=policy)  # Eq. 1, 2
        losses.update(self.novelty_loss(recent_batch))
        for influence in self.influences:  # Eq. 4, 7, 9
            result = influence(batch, policy=policy)
            team = influence.team
            losses.set(f"loss_{_name('influence', team)}", result["loss_influence"])
            gaps = dict(zip(team.influencees, result["gap"].unbind(), strict=True))
            values = result["influence"].view(-1).unbind()
            for k, value in zip(team.influencers, values, strict=True):
                losses.set(f"influence_{k}", value)
                losses.update({f"gap_{k}_{i}": gap for i, gap in gaps.items() if i != k})
        novelty = gather_agents(batch.get(next_key(NOVELTY)), self.team.influencers, -2)
        losses.set("novelty", novelty.mean())
        losses.set("diversity_penalty", batch.get(next_key(DIVERSITY_PENALTY)).mean())
        return losses

    def _rewarded(self, batch: TensorDictBase) -> TensorDictBase:
        return self.total_reward(self.diversity(self.novelty(batch)))

    def _targeted(self, estimator: InfluenceEstimatorLoss, batch: TensorDictBase) -> TensorDictBase:
        """A batch with what all updates of an estimator on it are drawn to."""
        batch = self._rewarded(batch)
        return batch.set(estimator.tensor_keys.value_target, estimator.value_target(batch))

    def _train_estimator(
        self, estimator: InfluenceEstimatorLoss, batch: TensorDictBase
    ) -> dict[str, torch.Tensor]:
        name = _name("estimator", estimator.team)
        targeted, gradient = self._estimations[name]
        batch = targeted(batch)
        optimizer = self.optimizers[name]
        for _ in range(self.estimator_updates):
            optimizer.zero_grad(set_to_none=True)
            loss = gradient(batch)["loss_estimator"]
            norm = self._follow(optimizer)
        return {f"loss_{name}": loss, f"grad_norm_{name}": norm}


def _name(part: str, team: Team) -> str:
    return "_".join([part, *map(str, team.influencers)])
