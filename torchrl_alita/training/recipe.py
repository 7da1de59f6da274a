"""What the recipes have in common: algorithms by name, command line, closing table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from torchrl.envs import EnvBase

from torchrl_alita._extras import import_extra
from torchrl_alita.algorithms import Learner, LearnerSettings, get_algorithm
from torchrl_alita.envs import Task
from torchrl_alita.training.config import TrainingConfig
from torchrl_alita.training.loop import train
from torchrl_alita.training.run import read_config

__all__ = ["RecipeConfig", "build_algorithm", "parse_config", "run_recipe"]


@dataclass
class RecipeConfig(TrainingConfig):
    """What every recipe can set about its algorithm and its training."""

    algorithm: Literal["alita", "maddpg", "ddpg", "qmix", "vdn", "iql"] = "alita"
    """Algorithm; what follows from influencers on is of alita."""
    num_cells: tuple[int, ...] = (128, 128)
    """Width of each hidden layer of actors and critics (the paper: 128 128)."""
    share_params: bool = False
    """One policy and one critic for all agents."""
    recurrent: bool = False
    """Policies with a memory, trained on sequences."""
    hidden_size: int = 64
    """Width of both hidden layers of recurrent networks (the paper: 64)."""
    critic_input: Literal["observations", "state"] = "observations"
    """What the critics read beside the actions."""
    gamma: float = 0.95
    """Discount factor of a step (the paper: 0.95)."""
    optimizer: Literal["adam", "rmsprop"] = "adam"
    """Of actors and critics (the paper for StarCraft: RMSprop)."""
    actor_lr: float = 3e-4
    """The optimizer's step of the actors."""
    critic_lr: float = 3e-3
    """The optimizer's step of the critics."""
    tau: float = 0.05
    """Share by which the targets move at each update."""
    max_grad_norm: float = 0.5
    """Largest norm of a network's gradient (the paper: 0.5)."""
    others_actions: Literal["buffer", "policy"] = "buffer"
    """What a critic sees of the other agents while its own climbs."""
    own_actions: Literal["policy", "all"] = "policy"
    """One-hot actions: climb with the action drawn, or with the mean over all of them."""
    logits_coeff: float = 0.0
    """Weight of the mean squared logits of the actors, against saturation (MADDPG's code: 0.001)."""
    num_critics: int = 1
    """Critics of an agent: 1, or 2 for MATD3 (with policy_noise and policy_delay)."""
    policy_noise: float = 0.0
    """Standard deviation of the noise on target actions, in units of the action."""
    policy_delay: int = 1
    """Updates of the critics for each of the actors."""
    mixing_embed_dim: int = 32
    """Width of the layers of QMIX's mixer (PyMARL: 32)."""
    mixing_init_scale: float = 0.3
    """What the first parameters of QMIX's mixer are multiplied with."""
    double_q: bool = True
    """Double Q-learning, of qmix, vdn and iql."""
    target_update_interval: int = 200
    """Updates between two updates of the targets of qmix, vdn and iql (PyMARL: 200)."""
    influencers: Literal["random", "all"] | tuple[int, ...] = (0,)
    """Indices of the influencers; random draws one from the seed, all is Symmetric."""
    influence_coeff: float = 0.1
    """Weight of the influence (the paper's lambda: 0.1); 0 is No F."""
    novelty_coeff: float = 0.01
    """Weight of the novelty in the influencers' reward (the paper for MAPE: 0.01)."""
    diversity_coeff: float = 0.1
    """Weight of the diversity penalty; with novelty_coeff 0 and this 0 it is No IM."""
    omega: float = 0.01
    """How fast novelty lifts the penalty (the paper for MAPE: 0.01)."""
    autoencoder_cells: tuple[int, ...] = (128, 64, 12, 3, 12, 64, 128)
    """Width of each hidden layer of the novelty's autoencoder (the paper: these)."""
    estimator: Literal["marginal", "clones", "centralized"] = "marginal"
    """How the influenced values are estimated."""
    estimator_updates: int = 4
    """Updates of the estimator at each step (the paper: 4)."""
    optimum: Literal["policy", "sampled", "enumerated"] = "sampled"
    """What stands for the teammates' best value; enumerated is for one-hot actions."""
    optimum_at: Literal["current", "next"] = "current"
    """State of that value: current is Eq. 4, next is Eq. 7."""
    normalize: bool = False
    """Divide the gap by the running scale of the critics' values."""
    compile: bool | None = None
    """Compile the update. Default: where the run has so many updates that it pays."""
    compile_mode: Literal["default", "reduce-overhead", "max-autotune"] = "default"
    """Of torch.compile; reduce-overhead uses CUDA graphs."""
    mixed_precision: bool = False
    """Compute the hidden layers of all networks in bfloat16."""


Config = TypeVar("Config", bound=RecipeConfig)


def build_algorithm(config: RecipeConfig, env: EnvBase) -> Learner:
    """The algorithm that a config names.

    Args:
        config: of the run.
        env: an environment in the layout of this package.

    Returns:
        :class:`torchrl_alita.ALITA`, :class:`torchrl_alita.MADDPG`,
        :class:`torchrl_alita.DDPG`, :class:`torchrl_alita.QMIX`,
        :class:`torchrl_alita.VDN` or :class:`torchrl_alita.IQL`.

    Raises:
        ValueError: if an option is out of range or the algorithm unknown.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("vmas/spread", num_envs=2, n_agents=3, seed=0)
        >>> type(build_algorithm(RecipeConfig(algorithm="ddpg"), env)).__name__
        'DDPG'
    """
    return get_algorithm(config.algorithm)(env, settings_of(config))


def settings_of(config: TrainingConfig) -> LearnerSettings:
    """The settings of the algorithm that a config names, from its fields of the same names."""
    settings = get_algorithm(config.algorithm).Settings
    names = {field.name for field in dataclasses.fields(settings)}
    given = {k: v for k, v in vars(config).items() if k in names and v is not None}
    if "compile" in names and config.compile is None:
        updates = (config.total_frames - config.random_frames) // config.frames_per_update
        given["compile"] = updates > settings.eager_updates
    return settings(**given)


def parse_config(
    config_class: type[Config],
    arguments: Sequence[str] | None = None,
    *,
    presets: Mapping[str, Mapping[str, Any]] | None = None,
) -> Config:
    """The config of a command line; with --resume, that of the run and the command line.

    Args:
        config_class: a dataclass below :class:`RecipeConfig`.
        arguments: Default: the process's own.
        presets: by algorithm, defaults of options that differ from the class's.

    Returns:
        An instance of it.

    Raises:
        ValueError: if the folder to resume is no run, or an option is out of range.
        ImportError: if tyro is not installed; the extra is named.
        SystemExit: for --help, or an option that is not known.

    Examples:
        >>> parse_config(RecipeConfig, ["--algorithm", "maddpg", "--seed", "3"]).seed
        3
    """
    tyro = import_extra("tyro", "recipes")
    config = tyro.cli(config_class, args=arguments)
    if config.resume is None:
        preset = (presets or {}).get(config.algorithm)
        return (
            tyro.cli(config_class, args=arguments, default=config_class(**preset))
            if preset
            else config
        )
    fields = {field.name for field in dataclasses.fields(config_class)}
    saved = {k: v for k, v in read_config(config.resume).items() if k in fields}
    lists = {k: tuple(v) for k, v in saved.items() if isinstance(v, list)}
    return tyro.cli(config_class, args=arguments, default=config_class(**(saved | lists)))


def run_recipe(
    config: TrainingConfig,
    make_algorithm: Callable[[EnvBase], Learner],
    *,
    task: Task | None = None,
) -> dict[str, Any]:
    """Train, and print the trained team beside a random one.

    Args:
        config: of the run.
        make_algorithm: as of :func:`torchrl_alita.training.train`.
        task: as of :func:`torchrl_alita.training.train`.

    Returns:
        As of :func:`torchrl_alita.training.train`.

    Raises:
        ValueError: as of :func:`torchrl_alita.training.train`.
    """
    summary = train(config, make_algorithm, task=task)
    rows = [f"{'':<24}{'trained':>12}{'random':>12}"]
    for name, value in summary["evaluation"].items():
        rows.append(f"{name:<24}{value:>12.3f}{summary['random_team'][name]:>12.3f}")
    print("\n" + "\n".join(rows) + f"\n\nEverything is in {summary['run_dir']}/")
    return summary
