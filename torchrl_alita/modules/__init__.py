"""Networks: actors, critics and the autoencoder."""

from torchrl_alita.modules.actors import make_actor
from torchrl_alita.modules.autoencoder import Autoencoder
from torchrl_alita.modules.critics import make_critic, make_influence_network
from torchrl_alita.modules.one_hot import GumbelOneHot

__all__ = [
    "Autoencoder",
    "GumbelOneHot",
    "make_actor",
    "make_critic",
    "make_influence_network",
]
