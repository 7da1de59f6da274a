"""Algorithms: parts, optimizers and one update."""

from torchrl_alita.algorithms._learner import Learner
from torchrl_alita.algorithms.alita import ALITA
from torchrl_alita.algorithms.maddpg import DDPG, MADDPG
from torchrl_alita.algorithms.ppo import PPO
from torchrl_alita.algorithms.qmix import IQL, QMIX, VDN
from torchrl_alita.algorithms.sac import SAC
from torchrl_alita.algorithms.tac import TAC
from torchrl_alita.algorithms.td3 import TD3
from torchrl_alita.algorithms.twin_alita import TwinALITA

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
    "Learner",
    "TwinALITA",
]
