"""Algorithms: parts, optimizers and one update."""

from torchrl_alita.algorithms._learner import Learner
from torchrl_alita.algorithms.alita import ALITA
from torchrl_alita.algorithms.maddpg import DDPG, MADDPG
from torchrl_alita.algorithms.qmix import IQL, QMIX, VDN

__all__ = ["ALITA", "DDPG", "IQL", "MADDPG", "QMIX", "VDN", "Learner"]
