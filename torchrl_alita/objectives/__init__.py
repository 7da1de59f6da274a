"""Losses."""

from torchrl_alita.objectives.estimator import InfluenceEstimatorLoss
from torchrl_alita.objectives.influence import InfluenceLoss
from torchrl_alita.objectives.maddpg import MADDPGLoss
from torchrl_alita.objectives.novelty import NoveltyLoss

__all__ = ["InfluenceEstimatorLoss", "InfluenceLoss", "MADDPGLoss", "NoveltyLoss"]
