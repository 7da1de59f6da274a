"""ALITA as TorchRL components: influence, novelty and diversity for teams.

Fayad and Ibrahim, "Influence-Based Reinforcement Learning for
Intrinsically-Motivated Agents", https://arxiv.org/abs/2108.12581.
"""

from torchrl_alita._version import __version__
from torchrl_alita.algorithms import (
    ALITA,
    DDPG,
    IQL,
    MADDPG,
    PPO,
    QMIX,
    SAC,
    TAC,
    TD3,
    VDN,
    TwinALITA,
)
from torchrl_alita.data import ConditionalSampler, SequenceSampler
from torchrl_alita.envs import make_env
from torchrl_alita.modules import (
    Autoencoder,
    TeamExploration,
    make_actor,
    make_critic,
    make_influence_network,
    make_qnetwork,
    make_recurrent_actor,
)
from torchrl_alita.objectives import (
    AtPolicy,
    BestOf,
    Enumerated,
    InfluenceEstimatorLoss,
    InfluenceLoss,
    InfluenceScoreLoss,
    MADDPGLoss,
    Marginal,
    NoveltyLoss,
    OwnGradient,
    TDTarget,
    Trained,
    TRPOLoss,
    TsallisLoss,
    ValueDecompositionLoss,
)
from torchrl_alita.team import Team
from torchrl_alita.transforms import (
    DiversityPenalty,
    LastAction,
    NoveltyReward,
    TotalReward,
    recurrent_transforms,
)

__all__ = [
    "ALITA",
    "DDPG",
    "IQL",
    "MADDPG",
    "PPO",
    "QMIX",
    "SAC",
    "TAC",
    "TD3",
    "VDN",
    "AtPolicy",
    "Autoencoder",
    "BestOf",
    "ConditionalSampler",
    "DiversityPenalty",
    "Enumerated",
    "InfluenceEstimatorLoss",
    "InfluenceLoss",
    "InfluenceScoreLoss",
    "LastAction",
    "MADDPGLoss",
    "Marginal",
    "NoveltyLoss",
    "NoveltyReward",
    "OwnGradient",
    "SequenceSampler",
    "TDTarget",
    "TRPOLoss",
    "Team",
    "TeamExploration",
    "TotalReward",
    "Trained",
    "TsallisLoss",
    "TwinALITA",
    "ValueDecompositionLoss",
    "__version__",
    "make_actor",
    "make_critic",
    "make_env",
    "make_influence_network",
    "make_qnetwork",
    "make_recurrent_actor",
    "recurrent_transforms",
]
