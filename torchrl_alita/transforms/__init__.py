"""Intrinsic rewards, for batches, replay buffers and environments."""

from torchrl_alita.transforms.diversity import DiversityPenalty
from torchrl_alita.transforms.novelty import NoveltyReward
from torchrl_alita.transforms.total import TotalReward

__all__ = ["DiversityPenalty", "NoveltyReward", "TotalReward"]
