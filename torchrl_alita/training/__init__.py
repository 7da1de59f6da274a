"""The training loop and what surrounds it."""

from torchrl_alita.training.config import TrainingConfig
from torchrl_alita.training.evaluation import evaluate, preserve_random_state
from torchrl_alita.training.exploration_metrics import (
    BinnedCells,
    Coverage,
    ExplorationMetrics,
    FirstSuccess,
    OneHotCells,
    PushBoxEvents,
    SecretRoomEvents,
    VisitMap,
    exploration_metrics,
)
from torchrl_alita.training.loop import train
from torchrl_alita.training.recipe import (
    RecipeConfig,
    build_algorithm,
    parse_config,
    run_recipe,
)
from torchrl_alita.training.run import RunDirectory, read_config

__all__ = [
    "BinnedCells",
    "Coverage",
    "ExplorationMetrics",
    "FirstSuccess",
    "OneHotCells",
    "PushBoxEvents",
    "RecipeConfig",
    "RunDirectory",
    "SecretRoomEvents",
    "TrainingConfig",
    "VisitMap",
    "build_algorithm",
    "evaluate",
    "exploration_metrics",
    "parse_config",
    "preserve_random_state",
    "read_config",
    "run_recipe",
    "train",
]
