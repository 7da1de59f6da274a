"""What saves a run and resumes it: checkpoints, its directory, its policies, random states."""

from torchrl_alita.saving._machine import machine
from torchrl_alita.saving.checkpoint import (
    Checkpoints,
    checkpoint_difference,
    find_checkpoint,
    read_component,
    verify_checkpoint,
)
from torchrl_alita.saving.collector_state import CollectorState
from torchrl_alita.saving.files import write_whole
from torchrl_alita.saving.policy import build_learner, init_policy, load_policy, load_side
from torchrl_alita.saving.random_state import (
    RandomState,
    preserve_random_state,
    seed_everything,
)
from torchrl_alita.saving.run_directory import RunDirectory, check_same, read_config

__all__ = [
    "Checkpoints",
    "CollectorState",
    "RandomState",
    "RunDirectory",
    "build_learner",
    "check_same",
    "checkpoint_difference",
    "find_checkpoint",
    "init_policy",
    "load_policy",
    "load_side",
    "machine",
    "preserve_random_state",
    "read_component",
    "read_config",
    "seed_everything",
    "verify_checkpoint",
    "write_whole",
]
