"""Intrinsic rewards and what recurrent networks read, for batches, buffers, environments."""

from torchrl_alita.transforms.diversity import DiversityPenalty
from torchrl_alita.transforms.novelty import NoveltyReward
from torchrl_alita.transforms.recurrent import LastAction, recurrent_transforms
from torchrl_alita.transforms.total import TotalReward

__all__ = [
    "DiversityPenalty",
    "LastAction",
    "NoveltyReward",
    "TotalReward",
    "recurrent_transforms",
]
