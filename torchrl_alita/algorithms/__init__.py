"""Algorithms: settings, parts, optimizers and one update."""

from torchrl_alita.algorithms._learner import (
    AlgorithmSettings,
    Learner,
    LearnerSettings,
    OffPolicySettings,
    TeamSettings,
)
from torchrl_alita.algorithms.a2c import A2C, A2CSettings
from torchrl_alita.algorithms.acktr import ACKTR, ACKTRSettings
from torchrl_alita.algorithms.alita import ALITA, ALITASettings
from torchrl_alita.algorithms.alita_on_policy import OnPolicyALITA, OnPolicyALITASettings
from torchrl_alita.algorithms.coma import COMA, COMASettings
from torchrl_alita.algorithms.dqn import DQN, DQNSettings
from torchrl_alita.algorithms.joint_dqn import JointDQN, JointDQNSettings
from torchrl_alita.algorithms.lica import LICA, LICASettings
from torchrl_alita.algorithms.liir import LIIR, LIIRSettings
from torchrl_alita.algorithms.maddpg import DDPG, MADDPG, DDPGSettings, MADDPGSettings
from torchrl_alita.algorithms.mappo import IPPO, MAPPO, IPPOSettings, MAPPOSettings
from torchrl_alita.algorithms.maven import MAVEN, MAVENSettings
from torchrl_alita.algorithms.ppo import PPO, PPOSettings
from torchrl_alita.algorithms.qmix import (
    IQL,
    QMIX,
    VDN,
    IQLSettings,
    QMIXSettings,
    VDNSettings,
)
from torchrl_alita.algorithms.registry import (
    ALGORITHMS,
    algorithm_of,
    get_algorithm,
    register_algorithm,
    settings_from_plain,
)
from torchrl_alita.algorithms.reinforce import Reinforce, ReinforceSettings
from torchrl_alita.algorithms.sac import SAC, SACSettings
from torchrl_alita.algorithms.sides import Sides, SidesSettings, fixed_policy
from torchrl_alita.algorithms.tac import TAC, TACSettings
from torchrl_alita.algorithms.td3 import TD3, TD3Settings
from torchrl_alita.algorithms.trpo import TRPO, TRPOSettings
from torchrl_alita.algorithms.twin_alita import TwinALITA, TwinALITASettings

__all__ = [
    "A2C",
    "ACKTR",
    "ALGORITHMS",
    "ALITA",
    "COMA",
    "DDPG",
    "DQN",
    "IPPO",
    "IQL",
    "LICA",
    "LIIR",
    "MADDPG",
    "MAPPO",
    "MAVEN",
    "PPO",
    "QMIX",
    "SAC",
    "TAC",
    "TD3",
    "TRPO",
    "VDN",
    "A2CSettings",
    "ACKTRSettings",
    "ALITASettings",
    "AlgorithmSettings",
    "COMASettings",
    "DDPGSettings",
    "DQNSettings",
    "IPPOSettings",
    "IQLSettings",
    "JointDQN",
    "JointDQNSettings",
    "LICASettings",
    "LIIRSettings",
    "Learner",
    "LearnerSettings",
    "MADDPGSettings",
    "MAPPOSettings",
    "MAVENSettings",
    "OffPolicySettings",
    "OnPolicyALITA",
    "OnPolicyALITASettings",
    "PPOSettings",
    "QMIXSettings",
    "Reinforce",
    "ReinforceSettings",
    "SACSettings",
    "Sides",
    "SidesSettings",
    "TACSettings",
    "TD3Settings",
    "TRPOSettings",
    "TeamSettings",
    "TwinALITA",
    "TwinALITASettings",
    "VDNSettings",
    "algorithm_of",
    "fixed_policy",
    "get_algorithm",
    "register_algorithm",
    "settings_from_plain",
]
