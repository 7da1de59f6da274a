"""The training loop and what surrounds it."""

from torchrl_alita.training.checkpoint import (
    Checkpoints,
    checkpoint_difference,
    find_checkpoint,
    read_component,
    verify_checkpoint,
)
from torchrl_alita.training.command import launch, parse_arguments
from torchrl_alita.training.config import (
    Config,
    TrainingSettings,
    config_from_plain,
    make_config,
    plain_config,
)
from torchrl_alita.training.evaluation import evaluate
from torchrl_alita.training.logging import WandbSettings
from torchrl_alita.training.loop import make_exploration, train
from torchrl_alita.training.policy import init_policy, load_policy
from torchrl_alita.training.random_state import RandomState, preserve_random_state
from torchrl_alita.training.run import RunDirectory, read_config

__all__ = [
    "Checkpoints",
    "Config",
    "RandomState",
    "RunDirectory",
    "TrainingSettings",
    "WandbSettings",
    "checkpoint_difference",
    "config_from_plain",
    "evaluate",
    "find_checkpoint",
    "init_policy",
    "launch",
    "load_policy",
    "make_config",
    "make_exploration",
    "parse_arguments",
    "plain_config",
    "preserve_random_state",
    "read_component",
    "read_config",
    "train",
    "verify_checkpoint",
]
