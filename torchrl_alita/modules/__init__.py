"""Networks: actors, critics and the autoencoder."""

from torchrl_alita.modules.actors import make_actor
from torchrl_alita.modules.attention import (
    AgentAttention,
    AttentionNet,
    make_attention_actor,
    make_attention_critic,
)
from torchrl_alita.modules.autoencoder import Autoencoder
from torchrl_alita.modules.clipped_normal import ClippedNormal
from torchrl_alita.modules.counterfactual import make_counterfactual_critic
from torchrl_alita.modules.critics import make_critic, make_influence_network
from torchrl_alita.modules.factored_critic import make_factored_critic
from torchrl_alita.modules.gaussian import make_gaussian_actor, make_value
from torchrl_alita.modules.goals import GoalAttention
from torchrl_alita.modules.influence_attention import (
    InfluenceAttention,
    make_influence_attention,
)
from torchrl_alita.modules.joint_qnetwork import (
    BestJointAction,
    joint_action_number,
    make_joint_qnetwork,
)
from torchrl_alita.modules.latent import (
    LatentGRU,
    TrajectoryDiscriminator,
    make_discriminator,
    make_latent_mixer,
    make_latent_policy,
    make_latent_qnetwork,
)
from torchrl_alita.modules.lica_mixer import LICAMixer, make_mixing_critic
from torchrl_alita.modules.linear_layers import make_linear_actor, make_linear_value
from torchrl_alita.modules.one_hot import GumbelOneHot
from torchrl_alita.modules.others import ModelOfOthers, PoliciesOfOthers
from torchrl_alita.modules.qnetworks import BestAction, make_qnetwork
from torchrl_alita.modules.recurrent import MultiAgentGRU, make_recurrent_actor
from torchrl_alita.modules.sides import AllAgents, RandomPolicy, SidesPolicy, side_of
from torchrl_alita.modules.stacked_linear import StackedLinear
from torchrl_alita.modules.stochastic import make_stochastic_actor, make_team_value
from torchrl_alita.modules.team_exploration import TeamExploration
from torchrl_alita.modules.transition_model import TransitionModel

__all__ = [
    "AgentAttention",
    "AllAgents",
    "AttentionNet",
    "Autoencoder",
    "BestAction",
    "BestJointAction",
    "ClippedNormal",
    "GoalAttention",
    "GumbelOneHot",
    "InfluenceAttention",
    "LICAMixer",
    "LatentGRU",
    "ModelOfOthers",
    "MultiAgentGRU",
    "PoliciesOfOthers",
    "RandomPolicy",
    "SidesPolicy",
    "StackedLinear",
    "TeamExploration",
    "TrajectoryDiscriminator",
    "TransitionModel",
    "joint_action_number",
    "make_actor",
    "make_attention_actor",
    "make_attention_critic",
    "make_counterfactual_critic",
    "make_critic",
    "make_discriminator",
    "make_factored_critic",
    "make_gaussian_actor",
    "make_influence_attention",
    "make_influence_network",
    "make_joint_qnetwork",
    "make_latent_mixer",
    "make_latent_policy",
    "make_latent_qnetwork",
    "make_linear_actor",
    "make_linear_value",
    "make_mixing_critic",
    "make_qnetwork",
    "make_recurrent_actor",
    "make_stochastic_actor",
    "make_team_value",
    "make_value",
    "side_of",
]
