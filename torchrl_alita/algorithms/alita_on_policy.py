"""ALITA on-policy: bonuses for exploring together, on MAPPO."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from tensordict import TensorDict, TensorDictBase
from torch import nn
from torchrl.envs import EnvBase

from torchrl_alita._checks import (
    check_at_least_one,
    check_non_negative,
    check_positive,
    check_whole,
)
from torchrl_alita.algorithms.mappo import MAPPO, MAPPOSettings
from torchrl_alita.data import TransitionCounts, count_codes_of
from torchrl_alita.layout import (
    DIVERSITY_PENALTY,
    INTRINSIC_REWARD,
    NOVELTY,
    TRANSITION_INFLUENCE,
    VISIT_BONUS,
    next_key,
)
from torchrl_alita.modules import Autoencoder
from torchrl_alita.objectives import NoveltyLoss
from torchrl_alita.team import Team
from torchrl_alita.transforms import (
    BonusScale,
    DiversityPenalty,
    NoveltyReward,
    TransitionInfluence,
    VisitBonus,
)

__all__ = ["OnPolicyALITA", "OnPolicyALITASettings"]

TEAM_VISIT_BONUS = ("agents", "team_visit_bonus")


@dataclass(frozen=True, kw_only=True)
class OnPolicyALITASettings(MAPPOSettings):
    """Settings of :class:`OnPolicyALITA`: by default those that solve both sparse games."""

    visit_coeff: float = 0.5
    """Weight of the bonus for an agent's own seldom visited states; 0 is none."""
    team_visit_coeff: float = 0.0
    """Weight of the bonus for seldom visited states of the whole team, paid to all."""
    transition_coeff: float = 1.0
    """Weight of the bonus for changing what becomes of the others (EITI)."""
    novelty_coeff: float = 0.0
    """Weight of the novelty of what the influencer does (the paper's lambda_pi)."""
    diversity_coeff: float = 0.0
    """Weight of the others' penalty for leaving their policies."""
    omega: float = 0.01
    """How fast novelty lifts that penalty (the paper: 0.01)."""
    influencer: int = 0
    """Whose novelty counts."""
    autoencoder_lr: float = 1e-3
    """Adam's step of the novelty's autoencoder."""
    scale_decay: float = 0.999
    """What a step keeps of the running scale of each bonus."""
    slots: int = 2**24
    """Entries of a table of counts that would have more; it is then hashed."""
    exploration_start = 0.5
    exploration_frames = 3_000_000
    value_num_cells = (64, 64)
    share_params = False
    value_norm = False
    num_epochs = 2
    minibatch_size = 4096
    entropy_coeff = 0.01
    lr = 2e-3
    reward_weight = 20.0

    def __post_init__(self):
        super().__post_init__()
        check_non_negative(**{name: getattr(self, name) for name in _COEFFS}, omega=self.omega)
        check_whole(0, influencer=self.influencer)
        check_at_least_one(slots=self.slots)
        check_positive(autoencoder_lr=self.autoencoder_lr)
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
    *("visit_coeff", "team_visit_coeff", "transition_coeff", "novelty_coeff"),
    "diversity_coeff",
)


class OnPolicyALITA(MAPPO):
    r"""ALITA's idea on MAPPO: novelty, diversity and influence as bonuses of a rollout.

    The paper pays one influencer for novelty and for influence on its teammates' values. On
    sparse games it is the whole team that must see something new, and influence on what
    becomes of the others comes before any value does. So by default

    .. math:: r^{int}_i = 0.5\, \frac{1/\sqrt{n(s'_i)}}{\sigma_1}
        + \frac{\sum_{j \ne i} c_{i \to j}}{\sigma_2},

    each agent's own visits and its influence on the others' transitions, each divided by
    the root mean square of its own discounted return: the variant "ALITA-C", for counts.
    ``presets["paper"]`` is the novelty of the influencer's observation and action by an
    autoencoder and the others' diversity penalty, of https://arxiv.org/abs/2108.12581.
    Bonuses have a value, and an advantage, of their own; the policies explore together in
    bursts, whose steps count as in :class:`MAPPO`.

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
        ['bonus_transition_influence', 'bonus_visit_bonus']
    """

    Settings: ClassVar[type[OnPolicyALITASettings]] = OnPolicyALITASettings
    settings: OnPolicyALITASettings
    presets: ClassVar[dict[str, OnPolicyALITASettings]] = {
        "paper": OnPolicyALITASettings(
            visit_coeff=0.0, transition_coeff=0.0, novelty_coeff=1.0, diversity_coeff=0.1
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
        self.autoencoder_loss = None
        if settings.novelty_coeff or settings.diversity_coeff:
            self._add_novelty()

    @staticmethod
    def _weights(settings: OnPolicyALITASettings) -> dict[tuple[str, str], float]:
        weights = {
            VISIT_BONUS: settings.visit_coeff,
            TEAM_VISIT_BONUS: settings.team_visit_coeff,
            TRANSITION_INFLUENCE: settings.transition_coeff,
            NOVELTY: settings.novelty_coeff,
            DIVERSITY_PENALTY: settings.diversity_coeff,
        }
        return {key: weight for key, weight in weights.items() if weight > 0}

    def _bonuses(self, env: EnvBase, settings: OnPolicyALITASettings) -> dict[str, nn.Module]:
        """What is counted, by name."""
        of_counts = settings.visit_coeff, settings.team_visit_coeff, settings.transition_coeff
        if not any(of_counts):
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
        if settings.transition_coeff:
            counts = TransitionCounts(
                codes.own,
                codes.outcome,
                num_agents=num_agents,
                num_actions=self.layout.action_size,
                influencer_state=codes.part,
                deterministic=codes.deterministic,
                slots=slots,
            )
            made["transition_influence"] = TransitionInfluence(counts)
        return made

    def _add_novelty(self) -> None:
        settings, layout = self.settings, self.layout
        team = Team(layout.num_agents, influencers=settings.influencer)
        autoencoder = Autoencoder(layout.observation_size + layout.action_size, device=self.device)
        self.novelty = NoveltyReward(autoencoder, team)
        self.autoencoder_loss = NoveltyLoss(autoencoder, team)
        self.diversity = None
        if settings.diversity_coeff:
            self.diversity = DiversityPenalty(
                self.actor,
                team,
                omega=settings.omega,
                distance="brier" if layout.discrete else "squared",
            ).to(self.device)
        self.modules["novelty"] = self.autoencoder_loss
        self.optimizers["autoencoder"] = torch.optim.Adam(
            self.autoencoder_loss.parameters(), lr=settings.autoencoder_lr, fused=True
        )

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
        rollout, paid = self._paid(self._check_names(batches)["rollout"])
        logs = super().update({"rollout": rollout})
        if self.autoencoder_loss is not None:
            # MAPPO's own minibatches have no gradient for it.
            del logs["grad_norm_autoencoder"]
            logs.update(self._train_autoencoder(rollout))
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
        if self.autoencoder_loss is None:
            return {}
        novelty = self.novelty(batch).get(next_key(NOVELTY))
        return {"novelty": novelty[..., self.settings.influencer, :]}

    @torch.no_grad()
    def _paid(self, rollout: TensorDictBase) -> tuple[TensorDictBase, dict[str, torch.Tensor]]:
        """The rollout with all bonuses and their sum, and the mean of each."""
        for bonus in self.bonuses.values():
            rollout = bonus.observe(rollout)
        if self.autoencoder_loss is not None:
            rollout = self.novelty(rollout)
            if self.diversity is not None:
                rollout = self.diversity(rollout)
        if self.scale is None:
            return rollout, {}
        means = {f"bonus_{key[-1]}": rollout.get(key).mean() for key in self.scale.in_keys}
        return self.scale.observe(rollout), means

    def _train_autoencoder(self, rollout: TensorDictBase) -> TensorDict:
        """A quarter of the rollout, once, as in https://arxiv.org/abs/1810.12894."""
        rows = rollout.select(*self.autoencoder_loss.in_keys).reshape(-1)
        chosen = torch.randperm(len(rows), device=self.device)[: max(1, len(rows) // 4)]
        optimizer = self.optimizers["autoencoder"]
        for part in chosen.split(self.settings.minibatch_size):
            optimizer.zero_grad(set_to_none=True)
            loss = self.autoencoder_loss(rows[part])["loss_novelty"]
            loss.backward()
            optimizer.step()
        return TensorDict({"loss_novelty": loss.detach()})
