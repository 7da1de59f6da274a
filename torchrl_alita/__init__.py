"""ALITA as TorchRL components: influence, novelty and diversity for teams.

Fayad and Ibrahim, "Influence-Based Reinforcement Learning for
Intrinsically-Motivated Agents", https://arxiv.org/abs/2108.12581.
"""

from torchrl_alita._version import __version__
from torchrl_alita.algorithms import ALITA, DDPG, MADDPG, PPO, SAC, TAC, TD3, TwinALITA
from torchrl_alita.data import ConditionalSampler
from torchrl_alita.envs import make_env
from torchrl_alita.modules import (
    Autoencoder,
    TeamExploration,
    make_actor,
    make_critic,
    make_influence_network,
)
from torchrl_alita.objectives import (
    InfluenceEstimatorLoss,
    InfluenceLoss,
    MADDPGLoss,
    NoveltyLoss,
    TsallisLoss,
)
from torchrl_alita.transforms import DiversityPenalty, NoveltyReward, TotalReward

__all__ = [
    "ALITA",
    "DDPG",
    "MADDPG",
    "PPO",
    "SAC",
    "TAC",
    "TD3",
    "Autoencoder",
    "ConditionalSampler",
    "DiversityPenalty",
    "InfluenceEstimatorLoss",
    "InfluenceLoss",
    "MADDPGLoss",
    "NoveltyLoss",
    "NoveltyReward",
    "TeamExploration",
    "TotalReward",
    "TsallisLoss",
    "TwinALITA",
    "__version__",
    "make_actor",
    "make_critic",
    "make_env",
    "make_influence_network",
]
