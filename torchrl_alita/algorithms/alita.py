"""ALITA: asymmetric learning for influencing a team of agents."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.envs import EnvBase

from torchrl_alita._agents import gather_agents
from torchrl_alita._checks import (
    agent_indices,
    check_agent_range,
    check_at_least_one,
    check_choice,
    check_non_negative,
    check_positive,
    sizes,
)
from torchrl_alita.algorithms._compiled import differentiate
from torchrl_alita.algorithms._learner import make_optimizer
from torchrl_alita.algorithms.maddpg import MADDPG
from torchrl_alita.data import ConditionalSampler
from torchrl_alita.data.conditional import KINDS
from torchrl_alita.layout import DIVERSITY_PENALTY, NOVELTY, layout_of, next_key
from torchrl_alita.modules import Autoencoder, make_influence_network
from torchrl_alita.objectives import InfluenceEstimatorLoss, InfluenceLoss, NoveltyLoss
from torchrl_alita.transforms import DiversityPenalty, NoveltyReward, TotalReward

__all__ = ["ALITA"]

ESTIMATORS = ("marginal", "clones", "centralized")
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
        layout = layout_of(env)
        self.influencers = _resolve(influencers, layout.num_agents)
        if influencees is not None:
            influencees = agent_indices("influencees", influencees)
            check_agent_range("influencees", influencees, layout.num_agents)
        super().__init__(env, **options)
        self.estimator_updates = estimator_updates

        self.autoencoder = Autoencoder(
            layout.observation_size + layout.action_size,
            num_influencers=len(self.influencers),
            num_cells=sizes("autoencoder_cells", autoencoder_cells),
            device=self.device,
        )
        self.novelty = NoveltyReward(self.autoencoder, influencer=self.influencers)
        self.novelty_loss = NoveltyLoss(self.autoencoder, influencer=self.influencers)
        self.diversity = DiversityPenalty(
            self.actor,
            influencer=self.influencers,
            influencees=influencees,
            omega=omega,
            distance="brier" if layout.discrete else "squared",
        ).to(self.device)
        self.total_reward = TotalReward(
            {NOVELTY: novelty_coeff, DIVERSITY_PENALTY: diversity_coeff}
        ).to(self.device)
        self.modules["novelty_loss"] = self.novelty_loss
        self.optimizers["autoencoder"] = make_optimizer(self.novelty_loss, lr=autoencoder_lr)
        self.maddpg.set_keys(reward=self.total_reward.out_keys[0])

        self.estimators: list[InfluenceEstimatorLoss] = []
        self.influences: list[InfluenceLoss] = []
        num_action_samples = self._num_action_samples(num_action_samples)
        # What all influencers see is then the same, and one loss is of all of them.
        together = estimator == "marginal" and num_action_samples == 1
        groups = [self.influencers] if together else [(k,) for k in self.influencers]
        for group in groups if influence_coeff else ():
            # Of several, the loss leaves each out of its own.
            others = None if influencees is None else [i for i in influencees if (i,) != group]
            source = self.maddpg
            if estimator != "marginal":
                network = (
                    make_influence_network(env, device=self.device)
                    if estimator == "centralized"
                    else None
                )
                source = InfluenceEstimatorLoss(
                    self.maddpg,
                    kind=estimator,
                    estimator_network=network,
                    influencer=group[0],
                    influencees=others,
                ).to(self.device)
                self._draw_actions(source)
                source.set_keys(reward=self.maddpg.tensor_keys.reward)
                self.estimators.append(source)
                self.conditional_samplers.append(
                    ConditionalSampler(influencer=source.influencer, kind=conditional)
                )
                name = f"estimator_{source.influencer}"
                self.modules[name] = source
                self.optimizers[name] = make_optimizer(source, lr=estimator_lr)
            influence = InfluenceLoss(
                self.actor,
                source,
                influencer=group,
                influencees=others,
                weights=weights,
                influence_coeff=influence_coeff,
                optimum=optimum,
                optimum_at=optimum_at,
                num_optimum_samples=num_optimum_samples if optimum == "sampled" else 0,
                action_spec=self.action_spec,
                num_action_samples=num_action_samples,
                normalize=normalize,
            ).to(self.device)
            # Said now, not at the first update.
            influence.influencees_among(layout.num_agents)
            self._draw_actions(influence)
            self.influences.append(influence)
            self.modules[_name(influence)] = influence
        self._estimations = {
            f"estimator_{estimator.influencer}": (
                self._compiled(partial(self._targeted, estimator)),
                self._compiled(estimator, then=differentiate),
            )
            for estimator in self.estimators
        }

    def _num_action_samples(self, asked: int | str | None) -> int | str:
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
            losses.set(f"loss_{_name(influence)}", result["loss_influence"])
            influencees = influence.influencees_among(self.layout.num_agents)
            gaps = dict(zip(influencees, result["gap"].unbind(), strict=True))
            values = result["influence"].view(-1).unbind()
            for k, value in zip(influence.influencers, values, strict=True):
                losses.set(f"influence_{k}", value)
                losses.update({f"gap_{k}_{i}": gap for i, gap in gaps.items() if i != k})
        novelty = gather_agents(batch.get(next_key(NOVELTY)), self.influencers, -2)
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
        name = f"estimator_{estimator.influencer}"
        targeted, gradient = self._estimations[name]
        batch = targeted(batch)
        optimizer = self.optimizers[name]
        for _ in range(self.estimator_updates):
            optimizer.zero_grad(set_to_none=True)
            loss = gradient(batch)["loss_estimator"]
            norm = self._follow(optimizer)
        return {f"loss_{name}": loss, f"grad_norm_{name}": norm}


def _name(influence: InfluenceLoss) -> str:
    return "_".join(["influence", *map(str, influence.influencers)])


def _resolve(
    influencers: int | Sequence[int] | Literal["random", "all"], num_agents: int
) -> tuple[int, ...]:
    if influencers == "random":
        return (int(torch.randint(num_agents, ())),)
    if influencers == "all":
        return tuple(range(num_agents))
    if isinstance(influencers, str):
        raise ValueError(f"influencers must be indices, 'random' or 'all', got {influencers!r}.")
    indices = agent_indices("influencer", influencers)
    check_agent_range("influencer", indices, num_agents)
    return indices
