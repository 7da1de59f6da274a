"""What the recipes for StarCraft's battles have in common."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, TypeVar

from torchrl_alita.envs import Task
from torchrl_alita.training.recipe import RecipeConfig

__all__ = ["StarCraftConfig", "starcraft_task"]


@dataclass
class StarCraftConfig(RecipeConfig):
    """What the recipes for StarCraft's battles can set; PyMARL's numbers where it has them."""

    suite: Literal["smax", "smac"] = "smax"
    """Battles of JaxMARL, or of StarCraft itself, which must be installed."""
    map: str = "2s3z"
    """Name of the map."""
    task: str | None = None
    """Name of the task. Default: follows from suite and map."""
    n_agents: int | None = None
    """Agents. Default: those of the map."""
    reward_scale: float = 10.0
    """What SMAX's reward is multiplied with: a victory pays 20, as in SMAC."""
    recurrent: bool = True
    """Policies with a memory, trained on sequences."""
    optimizer: Literal["adam", "rmsprop"] = "rmsprop"
    """Of actors and critics (the paper: RMSprop)."""
    actor_lr: float = 5e-4
    """The optimizer's step of the actors (the paper: 5e-4)."""
    critic_lr: float = 5e-4
    """The optimizer's step of the critics (the paper: 5e-4)."""
    gamma: float = 0.99
    """Discount factor of a step (PyMARL: 0.99)."""
    max_grad_norm: float = 10.0
    """Largest norm of a network's gradient (PyMARL: 10)."""
    num_envs: int = 20
    """Battles fought together."""
    horizon: int = 100
    """Steps of a battle (SMAX: 100; SMAC: 120 on 2s3z)."""
    total_frames: int = 1_000_000
    """Environment steps of the whole run, counted over all battles."""
    frames_per_batch: int = 20 * 50
    """Environment steps between two rounds of updates."""
    frames_per_update: int = 100
    """Environment steps for each update."""
    random_frames: int = 0
    """Environment steps of uniform random actions at the start, without updates."""
    sequence_length: int = 40
    """Steps of the sequences of an update."""
    burn_in: int = 10
    """Steps before each sequence that only bring the memory up to date."""
    batch_size: int = 32 * 40
    """Transitions of an update (PyMARL: 32 whole battles)."""
    conditional_batch_size: int = 512
    """Transitions of a conditional batch."""
    buffer_size: int = 200_000
    """Most transitions stored (PyMARL: 5,000 battles)."""
    noise_start: float = 1.0
    """Share of random actions at the start (PyMARL: 1)."""
    noise_end: float = 0.05
    """Share of random actions at the end (PyMARL: 0.05)."""
    noise_frames: int = 50_000
    """Environment steps over which that share shrinks (PyMARL: 50,000)."""
    evaluation_interval: int = 50_000
    """Environment steps between two evaluations (PyMARL: 10,000)."""
    evaluation_episodes: int = 128
    """Battles of an evaluation (PyMARL: 32)."""
    checkpoint_interval: int = 250_000
    """Environment steps between two checkpoints."""


Config = TypeVar("Config", bound=StarCraftConfig)


def starcraft_task(config: Config) -> tuple[Config, Task]:
    """The config with the task's name and its number of agents, and the task.

    Args:
        config: with a suite and a map.

    Returns:
        Both, as :func:`torchrl_alita.training.run_recipe` takes them.

    Raises:
        ValueError: for an unknown map; the known ones are listed.
        ImportError: if the suite is not installed; the extra is named.

    Examples:
        >>> config, task = starcraft_task(StarCraftConfig(map="5m_vs_6m"))
        >>> config.task, config.n_agents
        ('smax/5m_vs_6m', 5)
    """
    # Loaded when they are asked for: both can be started as scripts.
    from torchrl_alita.envs.smac import smac_task
    from torchrl_alita.envs.smax import MAPS, SMAXEnv, SMAXSettings, smax_task

    num_agents = config.n_agents
    if config.suite == "smax":
        num_agents = SMAXEnv(config.map).num_agents
        task = smax_task(config.map, settings=SMAXSettings(reward_scale=config.reward_scale))
    else:
        if config.map in MAPS:
            num_agents = len(MAPS[config.map][0])
        if num_agents is None:
            raise ValueError(
                f"n_agents must be given for maps other than {list(MAPS)}, got map={config.map!r}."
            )
        task = smac_task(config.map)
    name = f"{config.suite}/{config.map}"
    return dataclasses.replace(config, task=name, n_agents=num_agents), task
