"""Settings that every form of ALITA has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torchrl_alita._checks import (
    check_at_least_one,
    check_non_negative,
    check_positive,
    check_whole,
)
from torchrl_alita._settings import Settings

__all__ = ["PAPER_INFLUENCE", "InfluenceSettings", "MotivationSettings", "WeightSettings"]

# What the paper says of the influence.
PAPER_INFLUENCE: dict[str, Any] = {
    "estimator": "clones",  # Sec. 3.1.2, Eq. 8
    "estimator_updates": 4,  # Appendix D.1
    "influence_coeff": 0.1,  # Appendix D.1, lambda; Table 5, beta
    "optimum_at": "next",  # Eq. 7, z
    "normalize": False,  # Eq. 9
    "diversity_coeff": 1.0,  # Eq. 11, which has no coefficient
}


@dataclass(frozen=True, kw_only=True)
class MotivationSettings(Settings):
    """What the three parts of ALITA weigh; for classes of settings that add a learner's."""

    influence_coeff: float = 0.1
    """Weight of the influence (the paper's lambda: 0.1); 0 is No F."""
    novelty_coeff: float = 0.01
    """Weight of the novelty in the influencers' reward (the paper for MAPE: 0.01)."""
    diversity_coeff: float = 0.1
    """Weight of the diversity penalty; with novelty_coeff 0 and this 0 it is No IM. The paper
    has none; taken literally, 1, it froze the team on cooperative navigation."""
    omega: float | tuple[float, ...] = 0.01
    """How fast novelty lifts the penalty, one number or one for each of N agents (the paper
    for MAPE: 0.01)."""
    autoencoder_lr: float = 1e-3
    """Adam's learning rate of the novelty's autoencoder."""

    def __post_init__(self):
        super().__post_init__()
        check_positive(autoencoder_lr=self.autoencoder_lr)
        for omega in self.omega if isinstance(self.omega, tuple) else (self.omega,):
            check_non_negative(omega=omega)
        check_non_negative(
            influence_coeff=self.influence_coeff,
            novelty_coeff=self.novelty_coeff,
            diversity_coeff=self.diversity_coeff,
        )


@dataclass(frozen=True, kw_only=True)
class WeightSettings(Settings):
    """Which influencees count how much; for classes of settings that add a learner's."""

    weights: tuple[float, ...] | Literal["attention"] | None = None
    """The paper's alpha, one for each influencee of an influencer; or attention, learned in each
    state, see ``InfluenceAttentionLoss``. Default: equal."""
    attention_lr: float = 1e-3
    """Adam's learning rate of that attention."""

    def __post_init__(self):
        super().__post_init__()
        check_positive(attention_lr=self.attention_lr)


@dataclass(frozen=True, kw_only=True)
class InfluenceSettings(MotivationSettings):
    """Influence, novelty and diversity off-policy; for classes that add a learner's."""

    estimator_updates: int = 4
    """Updates of the estimator of the influenced values at each step (the paper: 4)."""
    estimator_lr: float = 1e-3
    """Adam's learning rate of the estimator."""
    optimum_at: Literal["current", "next"] = "current"
    """State of the teammates' best value: current is Eq. 4, next is Eq. 7."""
    num_optimum_samples: int = 4
    """Uniform joint actions among those of which the sampled optimum is the best."""
    normalize: bool = False
    """Divide the gap by the running scale of the critics' values."""
    influence_unit: Literal["return", "own_gradient"] = "return"
    """Of the influence: return is the paper's, quadratic in the return; own_gradient makes its
    weight a share of the policy's own gradient, see ``OwnGradient``."""
    conditional: Literal["nearest", "exact", "uniform"] = "nearest"
    """Kind of the conditional batches D_t, see ``ConditionalSampler``."""
    conditional_batch_size: int = 1_024
    """Transitions of a conditional batch."""
    recent_frames: int = 10_000
    """Newest transitions, on which the autoencoder is trained."""

    def __post_init__(self):
        super().__post_init__()
        sizes = ("estimator_updates", "conditional_batch_size", "recent_frames")
        check_at_least_one(**{name: getattr(self, name) for name in sizes})
        check_whole(0, num_optimum_samples=self.num_optimum_samples)
        check_positive(estimator_lr=self.estimator_lr)
