"""Intrinsic rewards and what recurrent networks read, for batches, buffers, environments."""

from torchrl_alita.transforms.bonus_scale import BonusScale
from torchrl_alita.transforms.diversity import DiversityPenalty
from torchrl_alita.transforms.latent import EpisodeLatent
from torchrl_alita.transforms.novelty import NoveltyReward
from torchrl_alita.transforms.recurrent import LastAction, recurrent_transforms
from torchrl_alita.transforms.rnd import RNDBonus
from torchrl_alita.transforms.social_influence import SocialInfluence
from torchrl_alita.transforms.total import TotalReward
from torchrl_alita.transforms.transition_influence import TransitionInfluence
from torchrl_alita.transforms.visits import VisitBonus

__all__ = [
    "BonusScale",
    "DiversityPenalty",
    "EpisodeLatent",
    "LastAction",
    "NoveltyReward",
    "RNDBonus",
    "SocialInfluence",
    "TotalReward",
    "TransitionInfluence",
    "VisitBonus",
    "recurrent_transforms",
]
