"""The training loop and what surrounds it."""

from torchrl_alita.training.checkpoint import (
    Checkpoints,
    checkpoint_difference,
    find_checkpoint,
    read_component,
    verify_checkpoint,
)
from torchrl_alita.training.config import TrainingConfig
from torchrl_alita.training.evaluation import evaluate
from torchrl_alita.training.logging import WandbSettings
from torchrl_alita.training.loop import train
from torchrl_alita.training.policy import init_policy, load_policy
from torchrl_alita.training.random_state import RandomState, preserve_random_state
from torchrl_alita.training.recipe import (
    RecipeConfig,
    build_algorithm,
    parse_config,
    run_recipe,
)
from torchrl_alita.training.run import RunDirectory, read_config
from torchrl_alita.training.starcraft import StarCraftConfig, starcraft_task

__all__ = [
    "Checkpoints",
    "RandomState",
    "RecipeConfig",
    "RunDirectory",
    "StarCraftConfig",
    "TrainingConfig",
    "WandbSettings",
    "build_algorithm",
    "checkpoint_difference",
    "evaluate",
    "find_checkpoint",
    "init_policy",
    "load_policy",
    "parse_config",
    "preserve_random_state",
    "read_component",
    "read_config",
    "run_recipe",
    "starcraft_task",
    "train",
    "verify_checkpoint",
]
