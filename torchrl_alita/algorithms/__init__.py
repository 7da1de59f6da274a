"""Algorithms: parts, optimizers and one update."""

from torchrl_alita.algorithms.alita import ALITA
from torchrl_alita.algorithms.maddpg import DDPG, MADDPG

__all__ = ["ALITA", "DDPG", "MADDPG"]
