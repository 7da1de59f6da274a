"""Networks: actors, critics and the autoencoder."""

from torchrl_alita.modules.actors import make_actor
from torchrl_alita.modules.autoencoder import Autoencoder
from torchrl_alita.modules.critics import make_critic, make_influence_network

__all__ = ["Autoencoder", "make_actor", "make_critic", "make_influence_network"]
