"""ALITA: asymmetric learning for influencing a team of agents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.envs import EnvBase
from torchrl.modules import PopArtValueNorm

from torchrl_alita._agents import gather_agents
from torchrl_alita._checks import check_at_least_one, require_keys
from torchrl_alita.algorithms._compiled import differentiate
from torchrl_alita.algorithms._influence import PAPER_INFLUENCE, InfluenceSettings, WeightSettings
from torchrl_alita.algorithms._learner import make_optimizer
from torchrl_alita.algorithms.maddpg import MADDPG, PAPER, SPREAD, MADDPGSettings
from torchrl_alita.data import ConditionalSampler, Replay
from torchrl_alita.layout import (
    ACTION,
    DIVERSITY_PENALTY,
    INTRINSIC_REWARD,
    NOVELTY,
    OBSERVATION,
    REWARD,
    next_key,
)
from torchrl_alita.modules import (
    Autoencoder,
    make_influence_attention,
    make_influence_network,
)
from torchrl_alita.objectives import (
    AtPolicy,
    BestOf,
    Enumerated,
    InfluenceAttentionLoss,
    InfluenceEstimatorLoss,
    InfluenceLoss,
    Marginal,
    NoveltyLoss,
    OwnGradient,
    Trained,
)
from torchrl_alita.team import Team
from torchrl_alita.transforms import BonusScale, DiversityPenalty, NoveltyReward, TotalReward

__all__ = ["ALITA", "ALITASettings"]

# Decay of the running scale of the critics' values.
VALUE_NORM_DECAY = 0.99
# Joint actions of the others over which an influenced value is averaged without being asked to.
MOST_OTHER_ACTIONS = 32


@dataclass(frozen=True, kw_only=True)
class ALITASettings(InfluenceSettings, WeightSettings, MADDPGSettings):
    """Settings of :class:`ALITA`.

    The ablations of Sec. 4.3 of the paper: ``influence_coeff=0`` is No F,
    ``novelty_coeff=diversity_coeff=0`` is No IM, and ``influencers="all"`` is Symmetric.

    Raises:
        TypeError: for a value of another type; the field is named.
        ValueError: for a value out of its range.

    Examples:
        >>> ALITASettings(influencers="all", influence_coeff=0.3).gamma
        0.95
    """

    influencers: int | tuple[int, ...] | Literal["random", "all"] = 0
    """Indices of the influencers; random draws one from torch's global generator, all is
    Symmetric."""
    influencees: tuple[int, ...] | None = None
    """Indices of the teammates that count. Default: all. An adversary is left out here."""
    estimator: Literal["marginal", "clones", "centralized"] = "marginal"
    """How the influenced values are estimated: from the critics, by clones of them (Eq. 8), or
    by one network (Eq. 6)."""
    optimum: Literal["policy", "sampled", "enumerated"] = "sampled"
    """What stands for the teammates' best value; enumerated is for one-hot actions."""
    num_action_samples: int | Literal["all"] | None = None
    """Joint actions of the others over which an influenced value is averaged. Default: 1 for
    continuous actions; all for one-hot ones, or 1 where there are more than 32."""
    bonus_unit: Literal["reward", "own_return"] = "reward"
    """Of novelty and penalty: reward is the paper's; own_return makes each coefficient a share of
    the reward's discounted return, by the running sizes of both returns, see ``BonusScale``."""
    autoencoder_cells: tuple[int, ...] = (128, 64, 12, 3, 12, 64, 128)
    """Width of each hidden layer of the novelty's autoencoder (the paper: these). A code of 3
    numbers cannot reconstruct long observations, of which the novelty then never vanishes."""

    def __post_init__(self):
        super().__post_init__()
        cells = self.autoencoder_cells
        check_at_least_one(**{f"autoencoder_cells[{i}]": size for i, size in enumerate(cells)})


class ALITA(MADDPG):
    """MADDPG whose influencers are rewarded for novelty and for their influence.

    Source: https://arxiv.org/abs/2108.12581.

    Args:
        env: an environment in the layout of this package.
        settings: Default: :class:`ALITASettings` as they are.
        device: of the networks. Default: the environment's.

    Raises:
        TypeError: if the settings are of another algorithm.
        ValueError: if a setting does not fit the environment.
        KeyError: if the environment has another layout.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=3, seed=0)
        >>> algorithm = ALITA(env, ALITASettings(influencers=0))
        >>> batch = env.rollout(4).reshape(-1)
        >>> logs = algorithm.update({"batch": batch, "recent": batch})
        >>> sorted(key for key in logs.keys() if key.startswith("gap"))
        ['gap_0_1', 'gap_0_2']
    """

    Settings: ClassVar[type[ALITASettings]] = ALITASettings
    settings: ALITASettings
    presets: ClassVar[Mapping[str, ALITASettings]] = {
        # Coefficients are those of Table 5 for MAPE. D_t holds what is nearest to a pair of
        # observation and action, as no other transition equals it (Sec. 3.1.1).
        "paper": ALITASettings(
            **PAPER,
            **PAPER_INFLUENCE,
            optimizer="adam",  # Appendix D.2
            influencers=0,  # Sec. 3.1
            novelty_coeff=0.01,  # Table 5, lambda_pi
            omega=0.01,  # Table 5
            autoencoder_cells=(128, 64, 12, 3, 12, 64, 128),  # Appendix D.2
            influence_unit="return",  # Eq. 4
            bonus_unit="reward",  # Eq. 10 and 11
        ),
        # MADDPG's, and coefficients without a unit, docs/navigation.md.
        "spread": ALITASettings(
            **SPREAD,
            influence_unit="own_gradient",
            bonus_unit="own_return",
            influence_coeff=0.1,
            novelty_coeff=0.01,
            diversity_coeff=0.01,
        ),
    }

    def __init__(
        self,
        env: EnvBase,
        settings: ALITASettings | None = None,
        *,
        device: torch.device | str | None = None,
    ):
        super().__init__(env, settings, device=device)
        settings = self.settings
        if settings.optimum == "enumerated" and not self.layout.discrete:
            raise ValueError("optimum='enumerated' needs one-hot actions, these are continuous.")
        self.attention_loss: InfluenceAttentionLoss | None = None
        weights: Any = settings.weights
        if weights == "attention":
            learned = settings.influence_coeff > 0
            weights = make_influence_attention(env, device=self.device) if learned else None
        self.team = Team(
            env,
            influencers=settings.influencers,
            influencees=settings.influencees,
            weights=weights,
        )
        if settings.influence_coeff:
            self.team.check_influencees()
        if self.team.attention is not None:
            self._add_attention(self.team.attention)
        self._build_bonuses()
        self.estimators: list[InfluenceEstimatorLoss] = []
        self.influences: list[InfluenceLoss] = []
        samples = self._samples(settings.num_action_samples)
        # What all influencers see is then the same, and one loss is of all of them.
        together = settings.estimator == "marginal" and samples == 1
        teams = [self.team] if together else map(self.team.alone, self.team.influencers)
        for team in teams if settings.influence_coeff else ():
            value: Marginal | Trained
            if settings.estimator == "marginal":
                value = Marginal(samples=samples)
            else:
                value = Trained(self._build_estimator(env, team), samples=samples)
            influence = InfluenceLoss(
                self.actor,
                self.maddpg,
                team,
                value=value,
                optimum=self._optimum(),
                value_norm=(
                    PopArtValueNorm(shape=1, beta=VALUE_NORM_DECAY) if settings.normalize else None
                ),
                unit=OwnGradient() if settings.influence_unit == "own_gradient" else None,
                influence_coeff=settings.influence_coeff,
            ).to(self.device)
            self.influences.append(influence)
            self.modules[_name("influence", team)] = influence
        self._estimations = {
            _name("estimator", estimator.team): (
                self._compiled(partial(self._add_target, estimator)),
                self._compiled(estimator, then=differentiate),
            )
            for estimator in self.estimators
        }

    @property
    def influencers(self) -> tuple[int, ...]:
        """Indices of the influencers."""
        return self.team.influencers

    def _add_attention(self, network: TensorDictModuleBase) -> None:
        """What trains the weights of the influence: the critics' values, not the gaps."""
        loss = InfluenceAttentionLoss(network, self.maddpg, self.team).to(self.device)
        self.attention_loss = self.modules["influence_attention"] = loss
        self.optimizers["influence_attention"] = make_optimizer(loss, lr=self.settings.attention_lr)

    def _build_bonuses(self) -> None:
        """The influencers' novelty, the penalty, and the reward that all learn from."""
        settings = self.settings
        self.autoencoder = Autoencoder(
            self.layout.observation_size + self.layout.action_size,
            num_influencers=len(self.team.influencers),
            num_cells=settings.autoencoder_cells,
            device=self.device,
        )
        self.novelty = NoveltyReward(self.autoencoder, self.team)
        self.novelty_loss = NoveltyLoss(self.autoencoder, self.team)
        self.diversity = DiversityPenalty(
            self.actor,
            self.team,
            omega=settings.omega,
        ).to(self.device)
        coeffs = {NOVELTY: settings.novelty_coeff, DIVERSITY_PENALTY: settings.diversity_coeff}
        self.scale: BonusScale | None = None
        if settings.bonus_unit == "reward":
            self.total_reward = TotalReward(coeffs).to(self.device)
        else:
            # The reward's own size is measured beside those of the bonuses.
            self.scale = BonusScale({REWARD: 0.0, **coeffs}, gamma=settings.gamma).to(self.device)
            self.total_reward = TotalReward({INTRINSIC_REWARD: 1.0}).to(self.device)
            self.modules |= {"bonus_scale": self.scale, "total_reward": self.total_reward}
        self.modules["novelty_loss"] = self.novelty_loss
        self.optimizers["autoencoder"] = make_optimizer(
            self.novelty_loss, lr=settings.autoencoder_lr
        )
        # All that borrow the partner's critics learn from this reward too.
        self.maddpg.set_keys(reward=self.total_reward.out_keys[0])

    def _build_estimator(self, env: EnvBase, team: Team) -> InfluenceEstimatorLoss:
        """The estimator of one influencer's influence."""
        kind: Any = self.settings.estimator
        network = make_influence_network(env, device=self.device) if kind == "centralized" else None
        estimator = InfluenceEstimatorLoss(
            self.maddpg, team, kind=kind, estimator_network=network
        ).to(self.device)
        name = _name("estimator", team)
        self.estimators.append(estimator)
        self.modules[name] = estimator
        self.optimizers[name] = make_optimizer(estimator, lr=self.settings.estimator_lr)
        self.separate.add(name)
        return estimator

    def _optimum(self) -> AtPolicy | BestOf | Enumerated:
        settings, at = self.settings, self.settings.optimum_at
        if settings.optimum == "policy":
            return AtPolicy(at=at)
        if settings.optimum == "enumerated":
            return Enumerated(at=at)
        return BestOf(uniform=settings.num_optimum_samples, spec=self.action_spec, at=at)

    def _samples(self, asked: int | Literal["all"] | None) -> int | Literal["all"]:
        if asked is not None:
            return asked
        others = self.layout.action_size ** (self.layout.num_agents - 1)
        return "all" if self.layout.discrete and others <= MOST_OTHER_ACTIONS else 1

    def start_episode(self) -> None:
        """Set the clones back to the critics, Sec. 3.1.2.

        The training loop calls it once for as many ended episodes as it has environments.
        """
        for estimator in self.estimators:
            if estimator.kind == "clones":
                estimator.reset_clones()

    def replays(self) -> dict[str, Replay]:
        """What an update reads, by name.

        Returns:
            ``"batch"``, see :meth:`MADDPG.replays`; ``"recent"``, what was observed and done
            lately, for the autoencoders; and ``"conditional_k"``, D_t of influencer k, for each
            estimator that is trained.
        """
        settings = self.settings
        conditional = {
            _name("conditional", estimator.team): Replay(
                sampler=ConditionalSampler(
                    influencer=estimator.team.influencers[0], kind=settings.conditional
                ),
                batch_size=settings.conditional_batch_size,
            )
            for estimator in self.estimators
        }
        recent = Replay(window=settings.recent_frames, keys=(OBSERVATION, ACTION))
        return {**super().replays(), "recent": recent, **conditional}

    def update(self, batches: Mapping[str, TensorDictBase]) -> TensorDict:
        """One step of every network, and ``estimator_updates`` of the estimators.

        Args:
            batches: one for each name of :meth:`replays`.

        Returns:
            Detached scalars to log: the losses, ``novelty`` (of the influencers),
            ``diversity_penalty``, ``influence_k`` and ``gap_k_i`` of influencer k on
            influencee i, with learned weights ``weight_k_i``, their means, and the gradients'
            norms.

        Raises:
            TypeError: if batches have no names.
            ValueError: if one is missing or not known.
            KeyError: if a batch lacks a key.
        """
        batches = self._check_names(batches)
        if self.estimators:
            # A batch that is refused trains no estimator either.
            paid = next_key(self.maddpg.tensor_keys.reward)
            read = [next_key(REWARD) if key == paid else key for key in self.maddpg.in_keys]
            require_keys(batches["batch"], read)
        logs = TensorDict()
        for estimator in self.estimators:  # Eq. 6, 8
            batch = batches[_name("conditional", estimator.team)]
            logs.update(self._train_estimator(estimator, batch))
        return logs.update(self._step(batches["batch"], batches["recent"]))

    def state_dict(self) -> dict[str, Any]:
        """Everything that training has changed, and the influencers, which may have been drawn."""
        return super().state_dict() | {"influencers": list(self.influencers)}

    def _check_state(self, state_dict: dict[str, Any]) -> None:
        super()._check_state(state_dict)
        own = list(self.influencers)
        if (found := state_dict.get("influencers", own)) != own:
            raise ValueError(f"The state is of the influencers {found}, here they are {own}.")

    @torch.no_grad()
    def observe(self, rollout: TensorDictBase) -> None:
        """Follow the sizes of the bonuses' returns, with ``bonus_unit="own_return"``.

        Args:
            rollout: ``[B, T]``, in order of time, that goes on where the last one ended.

        Raises:
            ValueError: if it is of other environments than the last one.
            KeyError: if it lacks a key.
        """
        if self.scale is not None:
            self.scale.update(self.diversity(self.novelty(rollout)))
            self.total_reward.coeffs.copy_(self.scale.scale[:1])

    @torch.no_grad()
    def distributions(self, batch: TensorDictBase) -> dict[str, torch.Tensor]:
        """Novelty of the influencers, and their gaps on each influencee, of every row.

        Args:
            batch: fresh transitions ``[*B]``; of recurrent policies sequences ``[B, T]``.

        Returns:
            ``novelty`` ``[*B, K, 1]`` and ``gap_k_i`` ``[*B]`` of influencer k on influencee i.

        Raises:
            KeyError: if the batch lacks a key.
        """
        batch = self.add_rewards(batch)
        found = {"novelty": gather_agents(batch.get(next_key(NOVELTY)), self.influencers, -2)}
        for influence in self.influences:
            team, gaps = influence.team, influence.gaps(batch)
            for i, gap in zip(team.influencees, gaps.unbind(-1), strict=True):
                found.update({f"gap_{k}_{i}": gap for k in team.influencers if k != i})
        return found

    def _losses(self, batch: TensorDictBase, recent_batch: TensorDictBase) -> TensorDictBase:
        batch = self.add_rewards(batch)  # Eq. 10, 11, of every step
        steps, batch = self._for_critics(batch), self._first(batch)
        # Of one-hot actions every term has draws of its own.
        policy = None if self.layout.discrete else self.maddpg.policy(batch)
        losses = self.maddpg(steps, policy=policy)  # Eq. 1, 2
        losses.update(self.novelty_loss(recent_batch))
        losses.update(self._attention(batch))
        results = [influence(batch, policy=policy) for influence in self.influences]  # Eq. 4, 7, 9
        if results:
            losses.set("loss_influence", sum(result["loss_influence"] for result in results))
        for influence, result in zip(self.influences, results, strict=True):
            team = influence.team
            gaps = dict(zip(team.influencees, result["gap"].unbind(), strict=True))
            values = result["influence"].view(-1).unbind()
            for k, value in zip(team.influencers, values, strict=True):
                losses.set(f"influence_{k}", value)
                losses.update({f"gap_{k}_{i}": gap for i, gap in gaps.items() if i != k})
        return self._with_bonuses(losses, batch)

    def _critic_losses(self, batch: TensorDictBase, recent_batch: TensorDictBase) -> TensorDictBase:
        batch = self.add_rewards(batch)
        losses = self.maddpg.critic_losses(self._for_critics(batch))
        losses.update(self.novelty_loss(recent_batch))
        losses.update(self._attention(self._first(batch)))
        return self._with_bonuses(losses, self._first(batch))

    def _attention(self, batch: TensorDictBase) -> dict[str, torch.Tensor]:
        """The loss of learned weights, and the mean weight of each influencee."""
        if self.attention_loss is None:
            return {}
        found = self.attention_loss(batch)
        return {"loss_attention": found["loss_attention"]} | {
            f"weight_{k}_{i}": weight
            for k, row in zip(self.influencers, found["attention"].unbind(), strict=True)
            for i, weight in zip(self.team.influencees, row.unbind(), strict=True)
            if i != k
        }

    def _with_bonuses(self, losses: TensorDictBase, batch: TensorDictBase) -> TensorDictBase:
        novelty = gather_agents(batch.get(next_key(NOVELTY)), self.influencers, -2)
        losses.set("novelty", novelty.mean())
        return losses.set("diversity_penalty", batch.get(next_key(DIVERSITY_PENALTY)).mean())

    def add_rewards(self, batch: TensorDictBase) -> TensorDictBase:
        """The rewards that the agents are trained on, Eq. 10 and 11, beside the task's own.

        Args:
            batch: transitions ``[*B]``, as in :meth:`update`.

        Returns:
            A new batch with ``("next", "agents", ...)`` of ``"novelty"``, ``"diversity_penalty"``
            and ``"total_reward"``.

        Raises:
            KeyError: if the batch lacks a key.
        """
        batch = self.diversity(self.novelty(batch))
        return self.total_reward(batch if self.scale is None else self.scale(batch))

    def _add_target(
        self, estimator: InfluenceEstimatorLoss, batch: TensorDictBase
    ) -> TensorDictBase:
        """A batch with what all updates of an estimator on it are drawn to."""
        batch = self.add_rewards(batch)
        return batch.set(estimator.tensor_keys.value_target, estimator.value_target(batch))

    def _train_estimator(
        self, estimator: InfluenceEstimatorLoss, batch: TensorDictBase
    ) -> TensorDict:
        name = _name("estimator", estimator.team)
        train = self._recorded(name, partial(self._follow_estimator, name))
        return train(batch)

    def _follow_estimator(self, name: str, batch: TensorDictBase) -> TensorDict:
        """All updates of an estimator on a batch; the last one's loss and gradient's norm."""
        targeted, gradient = self._estimations[name]
        batch = targeted(batch)
        optimizer = self.optimizers[name]
        for _ in range(self.settings.estimator_updates):
            optimizer.zero_grad(set_to_none=True)
            loss = gradient(batch)["loss_estimator"]
            norm = self._clip_and_step(optimizer)
        return TensorDict({f"loss_{name}": loss, f"grad_norm_{name}": norm})


def _name(part: str, team: Team) -> str:
    return "_".join([part, *map(str, team.influencers)])
