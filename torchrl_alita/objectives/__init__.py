"""Losses."""

from torchrl_alita.objectives.coma import COMALoss
from torchrl_alita.objectives.estimator import InfluenceEstimatorLoss
from torchrl_alita.objectives.influence import InfluenceLoss
from torchrl_alita.objectives.lica import LICALoss
from torchrl_alita.objectives.maddpg import MADDPGLoss
from torchrl_alita.objectives.novelty import NoveltyLoss
from torchrl_alita.objectives.trust_region import TRPOLoss
from torchrl_alita.objectives.tsallis import TsallisLoss
from torchrl_alita.objectives.value_decomposition import ValueDecompositionLoss

__all__ = [
    "COMALoss",
    "InfluenceEstimatorLoss",
    "InfluenceLoss",
    "LICALoss",
    "MADDPGLoss",
    "NoveltyLoss",
    "TRPOLoss",
    "TsallisLoss",
    "ValueDecompositionLoss",
]
