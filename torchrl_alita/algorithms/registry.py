"""Algorithms by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torchrl_alita._checks import did_you_mean
from torchrl_alita._extras import import_named
from torchrl_alita.algorithms._learner import AlgorithmSettings, Learner
from torchrl_alita.algorithms.a2c import A2C
from torchrl_alita.algorithms.acktr import ACKTR
from torchrl_alita.algorithms.alita import ALITA
from torchrl_alita.algorithms.alita_on_policy import OnPolicyALITA
from torchrl_alita.algorithms.coma import COMA
from torchrl_alita.algorithms.dqn import DQN
from torchrl_alita.algorithms.joint_dqn import JointDQN
from torchrl_alita.algorithms.lica import LICA
from torchrl_alita.algorithms.liir import LIIR
from torchrl_alita.algorithms.maddpg import DDPG, MADDPG
from torchrl_alita.algorithms.mappo import IPPO, MAPPO
from torchrl_alita.algorithms.maven import MAVEN
from torchrl_alita.algorithms.ppo import PPO
from torchrl_alita.algorithms.qmix import IQL, QMIX, VDN
from torchrl_alita.algorithms.reinforce import Reinforce
from torchrl_alita.algorithms.sac import SAC
from torchrl_alita.algorithms.sides import Sides
from torchrl_alita.algorithms.tac import TAC
from torchrl_alita.algorithms.td3 import TD3
from torchrl_alita.algorithms.trpo import TRPO
from torchrl_alita.algorithms.twin_alita import TwinALITA

__all__ = [
    "ALGORITHMS",
    "algorithm_of",
    "get_algorithm",
    "register_algorithm",
    "settings_from_plain",
]

ALGORITHMS: dict[str, type[Learner]] = {}


def register_algorithm(name: str, algorithm: type[Learner]) -> None:
    """Make an algorithm known by name in this process.

    Other processes, as those of a sweep, know one of your own as ``"module:Class"``.

    Args:
        name: in lower case, as the command line has it.
        algorithm: with a settings class of its own.

    Raises:
        ValueError: if the name is taken, or has a colon, or another algorithm has the same
            settings class.

    Examples:
        >>> register_algorithm("maddpg", MADDPG)
        Traceback (most recent call last):
        ...
        ValueError: The algorithm 'maddpg' is registered already.
    """
    if name in ALGORITHMS:
        raise ValueError(f"The algorithm {name!r} is registered already.")
    if ":" in name:
        raise ValueError(f"A name has no colon, got {name!r}.")
    _check_settings(name, algorithm)
    ALGORITHMS[name] = algorithm


def _check_settings(name: str, algorithm: type[Learner]) -> None:
    """Raise a ValueError if settings of its class name another algorithm."""
    for other, known in ALGORITHMS.items():
        if known.Settings is algorithm.Settings:
            raise ValueError(
                f"{algorithm.Settings.__name__} is of the algorithm {other!r} already: {name!r} "
                "needs a settings class of its own."
            )


def get_algorithm(name: str) -> type[Learner]:
    """Look up an algorithm.

    Args:
        name: of the algorithm; or ``"module:Class"``, one of your own.

    Raises:
        ValueError: if no algorithm has this name; the nearest and all names are given.

    Examples:
        >>> get_algorithm("madpg")
        Traceback (most recent call last):
        ...
        ValueError: Unknown algorithm 'madpg'. Did you mean 'maddpg'? One of your own is named
        module:Class. Known: [...].
    """
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    if ":" in name:
        return _algorithm_of_module(name)
    hint = did_you_mean(name, ALGORITHMS)
    raise ValueError(
        f"Unknown algorithm {name!r}.{hint} One of your own is named module:Class. Known: "
        f"{sorted(ALGORITHMS)}."
    )


def _algorithm_of_module(name: str) -> type[Learner]:
    """The class that ``"module:Class"`` names, from now on known by this name too."""
    found = import_named("algorithm", name)
    if not (isinstance(found, type) and issubclass(found, Learner)):
        raise ValueError(f"The algorithm {name!r} must be a class of Learner, got {found!r}.")
    if found.__module__.partition(".")[0] != __name__.partition(".")[0]:
        if found not in ALGORITHMS.values():
            _check_settings(name, found)
        ALGORITHMS[name] = found
    return found


def algorithm_of(settings: AlgorithmSettings) -> str:
    """The name of the algorithm that settings are of.

    Args:
        settings: of a registered algorithm.

    Raises:
        ValueError: if no algorithm is registered with their class.

    Examples:
        >>> from torchrl_alita.algorithms import ALITASettings
        >>> algorithm_of(ALITASettings())
        'alita'
    """
    names = [name for name, known in ALGORITHMS.items() if known.Settings is type(settings)]
    if names:
        # That by which another process finds it comes first.
        return max(names, key=lambda name: ":" in name)
    raise ValueError(f"No algorithm is registered with {type(settings).__name__}.")


def settings_from_plain(plain: Mapping[str, Any]) -> AlgorithmSettings:
    """The settings that config.json has under ``"algorithm"``.

    Args:
        plain: the algorithm's ``"name"``, and its options.

    Raises:
        ValueError: if it names no algorithm, or one that is not registered.
        TypeError: for an option that is not known, or of another type.

    Examples:
        >>> settings_from_plain({"name": "maddpg", "gamma": 0.9}).gamma
        0.9
    """
    if "name" not in plain:
        raise ValueError("The config names no algorithm.")
    options = {name: value for name, value in plain.items() if name != "name"}
    return get_algorithm(plain["name"]).Settings.from_plain(options)


register_algorithm("alita", ALITA)
register_algorithm("maddpg", MADDPG)
register_algorithm("ddpg", DDPG)
register_algorithm("on_policy_alita", OnPolicyALITA)
register_algorithm("mappo", MAPPO)
register_algorithm("ippo", IPPO)
register_algorithm("qmix", QMIX)
register_algorithm("vdn", VDN)
register_algorithm("iql", IQL)
register_algorithm("twin_alita", TwinALITA)
register_algorithm("td3", TD3)
register_algorithm("sac", SAC)
register_algorithm("ppo", PPO)
register_algorithm("tac", TAC)
register_algorithm("reinforce", Reinforce)
register_algorithm("a2c", A2C)
register_algorithm("dqn", DQN)
register_algorithm("joint_dqn", JointDQN)
register_algorithm("trpo", TRPO)
register_algorithm("acktr", ACKTR)
register_algorithm("coma", COMA)
register_algorithm("lica", LICA)
register_algorithm("liir", LIIR)
register_algorithm("maven", MAVEN)
register_algorithm("sides", Sides)
