"""The training loop and what surrounds it."""

from torchrl_alita.training.config import TrainingConfig
from torchrl_alita.training.evaluation import evaluate, preserve_random_state
from torchrl_alita.training.loop import train
from torchrl_alita.training.run import RunDirectory, read_config

__all__ = [
    "RunDirectory",
    "TrainingConfig",
    "evaluate",
    "preserve_random_state",
    "read_config",
    "train",
]
