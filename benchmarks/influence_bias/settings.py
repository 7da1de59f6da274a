"""The rows, and what the two parts are run with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

INFLUENCER = 0


class Estimator(NamedTuple):
    """A row: whose value, trained on which D_t, averaged over how many draws."""

    kind: Literal["marginal", "clones", "centralized"]
    batches: Literal["exact", "nearest", "uniform"] | None = None
    num_action_samples: int | Literal["all"] = 1


ON_GAMES = {
    "marginal_1": Estimator("marginal"),
    "marginal_all": Estimator("marginal", None, "all"),
    "clones": Estimator("clones", "exact"),
    "clones_uniform": Estimator("clones", "uniform"),
    "clones_all": Estimator("clones", "exact", "all"),
    "centralized": Estimator("centralized", "exact"),
    "centralized_all": Estimator("centralized", "exact", "all"),
}
# Its policies are deterministic: one draw is all there are.
ON_SPREAD = {
    "marginal": Estimator("marginal"),
    "clones": Estimator("clones", "nearest"),
    "centralized": Estimator("centralized", "nearest"),
}


@dataclass(frozen=True)
class Settings:
    """What the two parts share; each has its own values below."""

    num_envs: int
    horizon: int
    gamma: float
    episodes: int
    """Rounds of num_envs episodes side by side; an update for each step of a round."""
    checkpoint_every: int
    """Rounds between two comparisons."""
    warmup: int
    """Rounds of random actions at the start, without updates."""
    noise: tuple[float, float]
    """Exploration at the start and from the middle on: share of random actions, or sigma."""
    batch_size: int
    num_cells: tuple[int, ...]
    actor_lr: float
    critic_lr: float
    estimator_lr: float
    decay: bool
    """Let the steps of all networks decay to 0 at the end."""
    compared: int
    """Transitions of the replay buffer on which the estimates and the truth are taken."""
    estimator_updates: int = 4
    tau: float = 0.05
    """Share by which the target networks move at each update."""
    steps_per_batch: int = 10


@dataclass(frozen=True)
class GameSettings(Settings):
    """A random game."""

    num_states: int = 5
    num_agents: int = 3
    num_actions: int = 3


@dataclass(frozen=True)
class SpreadSettings(Settings):
    """Cooperative navigation."""

    num_agents: int = 6
    num_optimum_samples: int = 4
    truth_steps: int = 120
    """Steps of an episode of the truth; what comes after weighs gamma to this power."""


GAMES = GameSettings(
    num_envs=100, horizon=50, gamma=0.9, episodes=24, checkpoint_every=4, warmup=1,
    noise=(1.0, 0.3), batch_size=256, num_cells=(64, 64), actor_lr=3e-4, critic_lr=3e-3,
    estimator_lr=1e-3, decay=True, compared=1024, tau=0.1,
)  # fmt: skip
# The values are of the order of -800: the recipe's steps, a third of these, would not reach
# them in a run as short as this.
SPREAD = SpreadSettings(
    num_envs=100, horizon=100, gamma=0.95, episodes=16, checkpoint_every=4, warmup=1,
    noise=(0.9, 0.1), batch_size=1024, num_cells=(128, 128), actor_lr=3e-4, critic_lr=1e-2,
    estimator_lr=3e-3, decay=False, compared=1000,
)  # fmt: skip
# As long as in the paper, with the recipe's steps.
SPREAD_FULL = replace(
    SPREAD, episodes=400, checkpoint_every=50, critic_lr=3e-3, estimator_lr=1e-3
)  # fmt: skip
