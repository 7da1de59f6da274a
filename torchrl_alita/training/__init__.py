"""The training loop and what surrounds it."""

from torchrl_alita.training.collection import make_exploration
from torchrl_alita.training.command import launch, parse_arguments
from torchrl_alita.training.config import (
    Config,
    TrainingSettings,
    config_from_plain,
    make_config,
    plain_config,
)
from torchrl_alita.training.cross_play import cross_play
from torchrl_alita.training.evaluation import evaluate
from torchrl_alita.training.logging import WandbSettings
from torchrl_alita.training.loop import Run, start, train

__all__ = [
    "Config",
    "Run",
    "TrainingSettings",
    "WandbSettings",
    "config_from_plain",
    "cross_play",
    "evaluate",
    "launch",
    "make_config",
    "make_exploration",
    "parse_arguments",
    "plain_config",
    "start",
    "train",
]
