"""Losses, and the parts of the influence."""

from torchrl_alita.objectives.coma import COMALoss
from torchrl_alita.objectives.estimator import InfluenceEstimatorLoss
from torchrl_alita.objectives.influence import InfluenceLoss
from torchrl_alita.objectives.influence_attention import InfluenceAttentionLoss
from torchrl_alita.objectives.influence_score import InfluenceScoreLoss
from torchrl_alita.objectives.influenced_value import Marginal, Trained
from torchrl_alita.objectives.intrinsic_reward import IntrinsicRewardLoss
from torchrl_alita.objectives.lica import LICALoss
from torchrl_alita.objectives.liir import LIIRLoss
from torchrl_alita.objectives.maddpg import MADDPGLoss
from torchrl_alita.objectives.maven import MAVENLoss
from torchrl_alita.objectives.meta_gradient import meta_weight
from torchrl_alita.objectives.model_of_others import ModelOfOthersLoss
from torchrl_alita.objectives.novelty import NoveltyLoss
from torchrl_alita.objectives.optimum import AtPolicy, BestOf, Enumerated, TDTarget
from torchrl_alita.objectives.transition_model import TransitionModelLoss
from torchrl_alita.objectives.trust_region import TRPOLoss
from torchrl_alita.objectives.tsallis import TsallisLoss
from torchrl_alita.objectives.unit import OwnGradient
from torchrl_alita.objectives.value_decomposition import ValueDecompositionLoss

__all__ = [
    "AtPolicy",
    "BestOf",
    "COMALoss",
    "Enumerated",
    "InfluenceAttentionLoss",
    "InfluenceEstimatorLoss",
    "InfluenceLoss",
    "InfluenceScoreLoss",
    "IntrinsicRewardLoss",
    "LICALoss",
    "LIIRLoss",
    "MADDPGLoss",
    "MAVENLoss",
    "Marginal",
    "ModelOfOthersLoss",
    "NoveltyLoss",
    "OwnGradient",
    "TDTarget",
    "TRPOLoss",
    "Trained",
    "TransitionModelLoss",
    "TsallisLoss",
    "ValueDecompositionLoss",
    "meta_weight",
]
