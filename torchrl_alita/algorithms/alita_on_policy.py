"""ALITA on-policy: bonuses for exploring together, on MAPPO."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from tensordict import TensorDict, TensorDictBase
from torch import nn
from torchrl.envs import EnvBase, ExplorationType

from torchrl_alita._checks import (
    check_at_least_one,
    check_non_negative,
    check_positive,
    check_tau,
    check_whole,
)
from torchrl_alita.algorithms._influence import MotivationSettings, WeightSettings
from torchrl_alita.algorithms._learned_bonuses import (
    LearnedBonus,
    novelty_bonus,
    rnd_bonus,
    social_bonus,
    transition_bonus,
)
from torchrl_alita.algorithms._learner import make_optimizer, soft_update
from torchrl_alita.algorithms.alita import MOST_OTHER_ACTIONS
from torchrl_alita.algorithms.mappo import MAPPO, MAPPOSettings
from torchrl_alita.data import TransitionCounts, count_codes_of
from torchrl_alita.layout import (
    DIVERSITY_PENALTY,
    INTRINSIC_REWARD,
    NOVELTY,
    RND_BONUS,
    SOCIAL_INFLUENCE,
    STATE_VALUE,
    TRANSITION_INFLUENCE,
    VISIT_BONUS,
    next_key,
    terminated_key_of,
)
from torchrl_alita.modules import make_critic, make_influence_attention
from torchrl_alita.objectives import (
    BestOf,
    Enumerated,
    InfluenceAttentionLoss,
    InfluenceScoreLoss,
    MADDPGLoss,
    Marginal,
)
from torchrl_alita.team import Team
from torchrl_alita.transforms import (
    BonusScale,
    DiversityPenalty,
    TransitionInfluence,
    VisitBonus,
)

__all__ = ["OnPolicyALITA", "OnPolicyALITASettings"]

TEAM_VISIT_BONUS = ("agents", "team_visit_bonus")
# What an agent can still earn, for EDTI.
REWARD_VALUE = ("agents", "reward_value")


@dataclass(frozen=True, kw_only=True)
class OnPolicyALITASettings(MotivationSettings, WeightSettings, MAPPOSettings):
    """Settings of :class:`OnPolicyALITA`: by default those that solve both sparse games.

    Its influence is in units of the reward's return, by Theorem 1. By default there is none of
    the paper's three parts.
    """

    visit_coeff: float = 0.5
    """Weight of the bonus for an agent's own seldom visited states; 0 is none."""
    team_visit_coeff: float = 0.25
    """Weight of the bonus for seldom visited states of the whole team, paid to all."""
    transition_coeff: float = 1.0
    """Weight of the bonus for changing what becomes of the others (EITI)."""
    transition_values: bool = False
    """Weigh that influence by what the others can still earn (EDTI)."""
    transition_estimator: Literal["counts", "model"] = "counts"
    """Where its probabilities come from: counts, or a model where transitions cannot be
    counted, see ``TransitionModel``."""
    transition_features: tuple[int, ...] = ()
    """With a model: the features of the others' observations whose change counts, from the end
    where negative. Default: all."""
    social_coeff: float = 0.0
    """Weight of the bonus for what the others do next because of one's action (Social
    Influence), by a learned model of them."""
    rnd_coeff: float = 0.0
    """Weight of the bonus of random network distillation."""
    rnd_input: Literal["team", "own"] = "team"
    """What it sees: all observations, or each agent's own."""
    influencer: int = 0
    """Whose novelty and influence count."""
    model_lr: float = 1e-3
    """Adam's learning rate of RND's predictor, and of the models of others and of transitions."""
    critic_lr: float = 1e-3
    """Adam's learning rate of the action values of the influence."""
    tau: float = 0.05
    """Share by which their targets move at each step, in (0, 1]."""
    scale_decay: float = 0.999
    """What a step keeps of the running scale of each bonus."""
    slots: int = 2**24
    """Entries of a table of counts that would have more; it is then hashed."""
    influence_coeff = 0.0
    novelty_coeff = 0.0
    diversity_coeff = 0.0
    exploration_start = 0.5
    exploration_frames = 3_000_000
    value_num_cells = (64, 64)
    share_params = False
    value_norm = False
    minibatch_size = 4096
    entropy_coeff = 0.01
    lr = 2e-3
    reward_weight = 20.0

    def __post_init__(self):
        super().__post_init__()
        check_non_negative(**{name: getattr(self, name) for name in _COEFFS})
        check_whole(0, influencer=self.influencer)
        check_at_least_one(slots=self.slots)
        check_positive(model_lr=self.model_lr, critic_lr=self.critic_lr)
        check_tau(self.tau)
        if self.transition_features and self.transition_estimator == "counts":
            raise ValueError(
                "What is counted is the environment's code: transition_features needs "
                f"transition_estimator='model', got {self.transition_features}."
            )
        if self.bonuses not in ((), _OWN_HEAD):
            raise ValueError(
                f"The bonuses of OnPolicyALITA are its own: set {', '.join(_COEFFS)}, got "
                f"bonuses={self.bonuses}."
            )
        some = any(getattr(self, name) for name in _COEFFS)
        object.__setattr__(self, "bonuses", _OWN_HEAD if some else ())


# The name under which MAPPO reads what all bonuses come to.
_OWN_HEAD = ((INTRINSIC_REWARD[-1], 1.0),)
_COEFFS = (
    *("visit_coeff", "team_visit_coeff", "transition_coeff", "social_coeff", "rnd_coeff"),
    *("novelty_coeff", "diversity_coeff"),
)


class OnPolicyALITA(MAPPO):
    r"""ALITA's idea on MAPPO: novelty, diversity and influence as bonuses of a rollout.

    The paper pays one influencer for novelty and for influence on its teammates' values. On
    sparse games it is the whole team that must see something new, and influence on what
    becomes of the others comes before any value does. So by default

    .. math:: r^{int}_i = \frac{1}{2} \frac{1/\sqrt{n(s'_i)}}{\sigma_1}
        + \frac{1}{4} \frac{1/\sqrt{n(s')}}{\sigma_2}
        + \frac{\sum_{j \ne i} c_{i \to j}}{\sigma_3},

    each agent's own visits, those of the team, and its influence on the others' transitions,
    each divided by the root mean square of its own discounted return: the variant
    "ALITA-C", for counts. Bonuses have a value, and an advantage, of their own; the policies
    explore together in bursts, whose steps count as in :class:`MAPPO`.

    ``presets["paper"]`` is the novelty of the influencer's observation and action by an
    autoencoder, the others' diversity penalty and the influence on their values by Theorem 1,
    all of https://arxiv.org/abs/2108.12581. That influence is no reward: it adds to the
    influencer's advantage, see :meth:`torchrl_alita.InfluenceScoreLoss.advantage`. Rivals'
    bonuses can be weighed in the same way: EDTI, Social Influence, RND.

    Source: ours; its parts are in :class:`torchrl_alita.transforms.VisitBonus`,
    :class:`torchrl_alita.transforms.TransitionInfluence`,
    :class:`torchrl_alita.transforms.BonusScale` and
    :class:`torchrl_alita.modules.TeamExploration`.

    Args:
        env: an environment in the layout of this package; for counts, with a method
            ``count_codes()``.
        settings: Default: ``OnPolicyALITASettings()``.
        device: of the networks and counts. Default: the environment's.

    Raises:
        ValueError: if the environment lacks what a setting asks for.
        KeyError: if the environment has another layout.

    Examples:
        >>> from torchrl_alita.envs import PushBox
        >>> env = PushBox(5, seed=0, reward=1.0)
        >>> algorithm = OnPolicyALITA(env, OnPolicyALITASettings(minibatch_size=10))
        >>> logs = algorithm.update({"rollout": env.rollout(4, algorithm.actor)})
        >>> sorted(key for key in logs.keys() if key.startswith("bonus"))
        ['bonus_team_visit_bonus', 'bonus_transition_influence', 'bonus_visit_bonus']
    """

    Settings: ClassVar[type[OnPolicyALITASettings]] = OnPolicyALITASettings
    settings: OnPolicyALITASettings
    default_task: ClassVar[str] = "push_box"
    presets: ClassVar[dict[str, OnPolicyALITASettings]] = {
        "paper": OnPolicyALITASettings(
            visit_coeff=0.0,
            team_visit_coeff=0.0,
            transition_coeff=0.0,
            novelty_coeff=1.0,
            diversity_coeff=0.1,
            influence_coeff=0.1,
        ),
        "team_visits": OnPolicyALITASettings(
            visit_coeff=0.0,
            transition_coeff=0.0,
            team_visit_coeff=1.0,
            gamma=0.98,
            gae_lambda=0.9,
            bonus_lambda=0.9,
        ),
    }

    def __init__(
        self,
        env: EnvBase,
        settings: OnPolicyALITASettings | None = None,
        *,
        device: torch.device | str | None = None,
    ):
        settings = self.Settings() if settings is None else settings
        weights = self._weights(settings)
        super().__init__(env, settings, device=device)
        self.bonuses = nn.ModuleDict(self._bonuses(env, settings)).to(self.device)
        self.scale = None
        if weights:
            self.scale = BonusScale(weights, gamma=settings.bonus_gamma, decay=settings.scale_decay)
            self.scale.to(self.device)
            self.modules |= {"bonuses": self.bonuses, "scale": self.scale}
        self.learned = self._learned_bonuses(settings)
        for name, bonus in self.learned.items():
            self.modules[name] = bonus.loss
            self.optimizers[name] = bonus.optimizer
        self.separate |= self.learned.keys()
        self.diversity = None
        if settings.diversity_coeff:
            self.diversity = DiversityPenalty(
                self.actor,
                Team(self.layout.num_agents, influencers=settings.influencer),
                omega=settings.omega,
            ).to(self.device)
        self.influence = None
        self.attention_loss: InfluenceAttentionLoss | None = None
        if settings.influence_coeff:
            self._add_influence(env)

    @staticmethod
    def _weights(settings: OnPolicyALITASettings) -> dict[tuple[str, str], float]:
        weights = {
            VISIT_BONUS: settings.visit_coeff,
            TEAM_VISIT_BONUS: settings.team_visit_coeff,
            TRANSITION_INFLUENCE: settings.transition_coeff,
            SOCIAL_INFLUENCE: settings.social_coeff,
            RND_BONUS: settings.rnd_coeff,
            NOVELTY: settings.novelty_coeff,
            DIVERSITY_PENALTY: settings.diversity_coeff,
        }
        return {key: weight for key, weight in weights.items() if weight > 0}

    def _bonuses(self, env: EnvBase, settings: OnPolicyALITASettings) -> dict[str, nn.Module]:
        """What is counted, by name."""
        counted = settings.transition_coeff and settings.transition_estimator == "counts"
        if not any((settings.visit_coeff, settings.team_visit_coeff, counted)):
            return {}
        codes, made = count_codes_of(env), {}
        num_agents, slots = self.layout.num_agents, settings.slots
        if settings.visit_coeff:
            many = codes.own.num_codes * num_agents > slots
            made["visits"] = VisitBonus(
                codes.own, num_agents=num_agents, slots=slots if many else None
            )
        if settings.team_visit_coeff:
            many = codes.team.num_codes > slots
            made["team_visits"] = VisitBonus(
                codes.team, slots=slots if many else None, visit_bonus=TEAM_VISIT_BONUS
            )
        if counted:
            counts = TransitionCounts(
                codes.own if codes.before is None else codes.before,
                codes.outcome,
                num_agents=num_agents,
                num_actions=self.layout.action_size,
                influencer_state=codes.part,
                deterministic=codes.deterministic,
                slots=slots,
            )
            made["transition_influence"] = TransitionInfluence(
                counts,
                value=REWARD_VALUE if settings.transition_values else None,
                gamma=settings.gamma,
            )
        return made

    def _learned_bonuses(self, settings: OnPolicyALITASettings) -> dict[str, LearnedBonus]:
        layout, made = self.layout, {}
        if settings.social_coeff:
            if not layout.discrete:
                raise ValueError(f"social_coeff is for one-hot actions, got {self.action_spec}.")
            made["model_of_others"] = social_bonus(layout, lr=settings.model_lr, device=self.device)
        if settings.transition_coeff and settings.transition_estimator == "model":
            made["transition_model"] = transition_bonus(
                layout,
                features=settings.transition_features or None,
                share_params=settings.share_params,
                value=REWARD_VALUE if settings.transition_values else None,
                gamma=settings.gamma,
                lr=settings.model_lr,
                device=self.device,
            )
        if settings.rnd_coeff:
            joint = settings.rnd_input == "team"
            made["rnd"] = rnd_bonus(layout, joint=joint, lr=settings.model_lr, device=self.device)
        if settings.novelty_coeff or settings.diversity_coeff:
            made["novelty"] = novelty_bonus(
                layout, settings.influencer, lr=settings.autoencoder_lr, device=self.device
            )
        return made

    def _add_influence(self, env: EnvBase) -> None:
        settings, layout = self.settings, self.layout
        critic = make_critic(env, num_cells=settings.value_num_cells, device=self.device)
        self.action_values = MADDPGLoss(self.actor, critic, gamma=settings.gamma)
        self.action_values.set_keys(terminated=terminated_key_of(env))
        # Theorem 1 is of the policies' own values: next actions are drawn, as in a rollout.
        self.action_values.deterministic_sampling_mode = ExplorationType.RANDOM
        self.target_updater = soft_update(self.action_values, tau=settings.tau)
        few = (
            layout.discrete and layout.action_size ** (layout.num_agents - 1) <= MOST_OTHER_ACTIONS
        )
        weights: Any = settings.weights
        if weights == "attention":
            weights = make_influence_attention(env, device=self.device)
        team = Team(layout.num_agents, influencers=settings.influencer, weights=weights)
        if team.attention is not None:
            self._add_attention(team)
        self.influence = InfluenceScoreLoss(
            self.actor,
            self.action_values,
            team,
            value=Marginal(samples="all" if few else 1),
            optimum=Enumerated() if few else BestOf(),
            influence_coeff=settings.influence_coeff,
        ).to(self.device)
        self.modules["action_values"] = self.action_values
        self.optimizers["action_values"] = torch.optim.Adam(
            self.action_values.qvalue_network_params.parameters(),
            lr=settings.critic_lr,
            fused=True,
        )
        self.separate |= {"action_values"}

    def _add_attention(self, team: Team) -> None:
        """What trains the weights of the influence: the critics' values, not the gaps."""
        loss = InfluenceAttentionLoss(team.attention, self.action_values, team).to(self.device)
        self.attention_loss = self.modules["influence_attention"] = loss
        self.optimizers["influence_attention"] = make_optimizer(loss, lr=self.settings.attention_lr)
        self.separate |= {"influence_attention"}

    def update(self, batches: Mapping[str, TensorDictBase]) -> TensorDict:
        """Pay the bonuses, then all epochs over what the policies have just done.

        Args:
            batches: ``"rollout"``: ``[B, T]``, as it was collected, in order of time.

        Returns:
            Detached scalars to log; ``bonus_*`` is the mean of each bonus, unscaled.

        Raises:
            TypeError: if batches have no names.
            KeyError: if the batch lacks a key.
            ValueError: if it is no batch ``[B, T]``.
        """
        rollout = self._check_names(batches)["rollout"]
        size = self.settings.minibatch_size
        firsts = [b.train(rollout, size) for b in self.learned.values() if b.first]
        rollout, paid = self._paid(rollout)
        logs = super().update({"rollout": rollout})
        for losses in firsts:
            logs.update(losses)
        for bonus in self.learned.values():
            if not bonus.first:
                logs.update(bonus.train(rollout, size))
        if self.influence is not None:
            logs.update(self._train_action_values(rollout))
        if self.exploration is not None:
            logs["exploration"] = self.exploration.eps.clone()
        return logs.update(paid)

    @torch.no_grad()
    def distributions(self, batch: TensorDictBase) -> dict[str, torch.Tensor]:
        """Novelty of the influencer in every row, where it counts.

        Args:
            batch: ``[B, T]``, as it was collected.

        Returns:
            ``novelty``, or nothing.

        Raises:
            KeyError: if the batch lacks a key.
        """
        if "novelty" not in self.learned:
            return {}
        novelty = self.learned["novelty"].transform(batch).get(next_key(NOVELTY))
        return {"novelty": novelty[..., self.settings.influencer, :]}

    @torch.no_grad()
    def _paid(self, rollout: TensorDictBase) -> tuple[TensorDictBase, dict[str, torch.Tensor]]:
        """The rollout with all bonuses and their sum, and the mean of each."""
        if self.settings.transition_coeff and self.settings.transition_values:
            seen = self.critic(rollout.get("next").select(*self.critic.in_keys))
            value = seen.get(STATE_VALUE)[..., :1]
            rollout = rollout.copy().set(next_key(REWARD_VALUE), value)
        for bonus in self.bonuses.values():
            rollout = bonus.observe(rollout)
        for bonus in self.learned.values():
            rollout = bonus.transform(rollout)
        if self.diversity is not None:
            rollout = self.diversity(rollout)
        if self.scale is None:
            return rollout, {}
        means = {f"bonus_{key[-1]}": rollout.get(key).mean() for key in self.scale.in_keys}
        return self.scale.observe(rollout), means

    def _mixed(self, batch: TensorDictBase, advantages: torch.Tensor) -> torch.Tensor:
        mixed = super()._mixed(batch, advantages)
        if self.influence is None:
            return mixed
        found = self.influence.advantage(batch)
        self._shown: TensorDictBase = found.exclude("advantage")
        return mixed + self.settings.reward_weight * found["advantage"]

    def _train_action_values(self, rollout: TensorDictBase) -> TensorDict:
        """All steps of the rollout, once; with the influence that was paid before.

        Of policies with a memory in whole sequences: what they do next depends on it.
        """
        read = list(self.action_values.in_keys)
        if self.attention_loss is not None:
            read += self.attention_loss.in_keys
        rows = rollout.select(*read)
        rows = rows if self.recurrent else rows.reshape(-1)
        size = max(1, self.settings.minibatch_size * len(rows) // rows.numel())
        order = torch.randperm(len(rows), device=self.device)
        for chosen in order.split(size):
            self.optimizers["action_values"].zero_grad(set_to_none=True)
            losses = self.action_values.critic_losses(rows[chosen])
            losses["loss_qvalue"].backward()
            norm = self._clip_and_step(self.optimizers["action_values"])
            losses.update(self._train_attention(rows[chosen]))
            self._update_targets()
        logs = losses.detach().set("grad_norm_action_values", norm)
        gap = self._shown["gap"].mean()
        return logs.update({"influence": self._shown["influence"], "gap": gap})

    def _train_attention(self, batch: TensorDictBase) -> dict[str, torch.Tensor]:
        """A step of learned weights; their means."""
        if self.attention_loss is None:
            return {}
        optimizer = self.optimizers["influence_attention"]
        optimizer.zero_grad(set_to_none=True)
        found = self.attention_loss(batch)
        found["loss_attention"].backward()
        norm = self._clip_and_step(optimizer)
        logs = {"loss_attention": found["loss_attention"], "grad_norm_influence_attention": norm}
        team = self.attention_loss.team
        of_others = zip(team.influencees, found["attention"][0].unbind(), strict=True)
        return logs | {f"weight_{i}": weight for i, weight in of_others}
