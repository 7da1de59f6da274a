"""What a run is made of: a task, how it is trained, an algorithm."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from torchrl.envs import EnvBase

from torchrl_alita._checks import LARGEST_NUMPY_SEED, check_at_least_one, check_whole
from torchrl_alita._settings import Settings, parse_option, type_hints
from torchrl_alita.algorithms import (
    ALGORITHMS,
    AlgorithmSettings,
    ALITASettings,
    Learner,
    SidesSettings,
    algorithm_of,
    get_algorithm,
    settings_from_plain,
)
from torchrl_alita.envs import Task, get_task
from torchrl_alita.training.logging import LoggerName, WandbSettings

__all__ = [
    "Config",
    "TrainingSettings",
    "completed_config",
    "config_from_plain",
    "make_config",
    "option_text",
    "plain_config",
]

# What a dotted option begins with; one of training has no part.
PARTS = ("training", "algorithm", "task", "wandb")
# Likewise, before the name of a side.
SIDE = "side"


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(Settings):
    """How a run is trained, whatever its task and its algorithm.

    Raises:
        TypeError: for a value of another type; the field is named.
        ValueError: for a value out of its range.

    Examples:
        >>> TrainingSettings(num_envs=10).frames_per_batch
        1000
    """

    num_envs: int = 100
    """Environments simulated together."""
    n_agents: int | None = None
    """Agents. Default: the task's own number."""
    horizon: int | None = None
    """Steps of an episode. Default: the task's own number."""
    total_frames: int = 250_000
    """Environment steps of the whole run, counted over all environments."""
    frames_per_batch: int = 1_000
    """Environment steps that are collected between two rounds of updates."""
    exploration: Literal["independent", "team"] = "independent"
    """Noise of each agent and step for itself, or noise that the team shares and keeps."""
    agreement: float = 0.9
    """Team exploration: probability that the agents explore alike."""
    persistence: float = 0.7
    """Team exploration: probability that a random action is kept at the next step."""
    spread: float = 0.0
    """Team exploration: how much its strength varies over the environments, from 0 to 1."""
    burst_length: float = 10.0
    """Team exploration: mean environment steps between two decisions to explore."""
    evaluation_interval: int = 25_000
    """Environment steps between two evaluations."""
    evaluation_episodes: int = 100
    """Episodes of an evaluation, always from the same initial states."""
    selection_episodes: int = 5
    """Other episodes, on which the best is chosen of an algorithm's several policies."""
    stop_evaluations: bool = False
    """End an evaluation with its last episode. Otherwise an environment whose episode has
    ended begins another one, to the horizon; only the first counts."""
    checkpoint_interval: int = 100_000
    """Environment steps between two checkpoints."""
    keep_checkpoints: int = 2
    """Newest checkpoints that stay on disk."""
    seed: int = 0
    """Of everything random."""
    device: str = "cpu"
    """Of the simulation, the buffer and the networks, as cpu or cuda:0."""
    threads: int | None = 1
    """Threads of torch on the CPU. With more than one a run stalls where other programs use
    the cores too; none is torch's own choice."""
    loggers: tuple[LoggerName, ...] = ()
    """Loggers beside metrics.csv; wandb is offline unless WANDB_MODE says otherwise."""
    wandb: WandbSettings = field(default=WandbSettings())
    """What Weights & Biases is told."""
    progress: bool = True
    """Show how far the run is: a bar on a terminal, elsewhere a line for each evaluation."""
    pictures: bool = True
    """Draw curves, episodes and maps at the end of the run."""
    run_dir: Path | None = None
    """Directory of the run. Default: runs/ and a name with the time."""
    resume: Path | None = None
    """Directory of an earlier run to continue."""
    init_from: Path | None = None
    """Directory of an earlier run, or a checkpoint in it, whose policies this run starts from."""

    def __post_init__(self):
        super().__post_init__()
        sizes = (
            "num_envs", "n_agents", "horizon", "total_frames", "frames_per_batch",
            "evaluation_interval", "evaluation_episodes", "selection_episodes",
            "checkpoint_interval", "keep_checkpoints", "threads",
        )  # fmt: skip
        known = {name: getattr(self, name) for name in sizes}
        check_at_least_one(**{name: size for name, size in known.items() if size is not None})
        check_whole(0, LARGEST_NUMPY_SEED, seed=self.seed)
        places = {path.absolute() for path in (self.resume, self.run_dir) if path is not None}
        if len(places) > 1:
            raise ValueError(
                f"A run goes on in its own directory: resume is {self.resume}, run_dir "
                f"{self.run_dir}. Another run begins with its policies by init_from."
            )
        if len(set(self.loggers)) < len(self.loggers):
            raise ValueError(f"loggers must name each logger once, got {list(self.loggers)}.")
        if self.frames_per_batch % self.num_envs:
            raise ValueError(
                f"frames_per_batch must be a multiple of num_envs, {self.num_envs}, got "
                f"{self.frames_per_batch}."
            )


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """A run: its task, how it is trained, and its algorithm by its settings.

    Raises:
        TypeError: for a value of another type; the field is named.
        ValueError: for values that do not fit each other.

    Examples:
        >>> from torchrl_alita.algorithms import MADDPGSettings
        >>> config = Config(task="vmas/spread", algorithm=MADDPGSettings(gamma=0.9))
        >>> config.algorithm_name
        'maddpg'
    """

    task: str = "vmas/spread"
    """Name of the task."""
    task_settings: Any = None
    """The task's own options, of the class of its settings. Default: those."""
    training: TrainingSettings = field(default=TrainingSettings())
    """How it is trained."""
    algorithm: AlgorithmSettings = field(default=ALITASettings())
    """Settings of the algorithm, which they name."""

    def __post_init__(self):
        super().__post_init__()
        training: TrainingSettings = self.training
        algorithm: Any = self.algorithm
        asked = getattr(algorithm, "frames_per_update", None)
        if asked is None:
            return
        if training.frames_per_batch % asked:
            raise ValueError(
                f"frames_per_batch must be a multiple of frames_per_update, {asked}, got "
                f"{training.frames_per_batch}."
            )
        if training.total_frames <= self.random_frames:
            raise ValueError(
                f"total_frames must be above random_frames in whole batches, {self.random_frames}, "
                f"or nothing is learned; got {training.total_frames}."
            )

    @property
    def random_frames(self) -> int:
        """Frames of random actions at the start, in whole batches."""
        asked = getattr(self.algorithm, "random_frames", 0)
        return asked + -asked % self.training.frames_per_batch

    @property
    def algorithm_name(self) -> str:
        """Name of the algorithm; of one that is not registered, its settings class's."""
        try:
            return algorithm_of(self.algorithm)
        except ValueError:
            return type(self.algorithm).__name__.removesuffix("Settings").lower()

    def build(self, env: EnvBase) -> Learner:
        """The algorithm for an environment.

        Args:
            env: of this task, in the layout of this package.

        Raises:
            ValueError: if the algorithm is not registered, or does not fit the environment.

        Examples:
            >>> from torchrl_alita.envs import make_env
            >>> env = make_env("vmas/spread", num_envs=2, n_agents=3, seed=0)
            >>> type(Config().build(env)).__name__
            'ALITA'
        """
        return get_algorithm(algorithm_of(self.algorithm))(env, self.algorithm)

    def find_task(self) -> Task:
        """The task with its options.

        Raises:
            ValueError: if no task has this name.
            TypeError: if the options are of another task.
        """
        task = get_task(self.task)
        return task if self.task_settings is None else task.with_settings(self.task_settings)


def plain_config(config: Config) -> dict[str, Any]:
    """A config as JSON has it, without what does not shape the run.

    Args:
        config: of a run.

    Returns:
        ``"task"`` and ``"algorithm"``, each with its name and its options, and ``"training"``
        without ``run_dir`` and ``resume``.

    Examples:
        >>> plain_config(Config())["algorithm"]["name"]
        'alita'
    """
    training = dataclasses.asdict(config.training)
    del training["run_dir"], training["resume"]
    options = config.task_settings
    plain = {
        "task": {"name": config.task, **(dataclasses.asdict(options) if options else {})},
        "training": training,
        "algorithm": {"name": config.algorithm_name, **config.algorithm.plain()},
    }
    return json.loads(json.dumps(plain, default=str))


def config_from_plain(plain: Mapping[str, Any], *, like: Config | None = None) -> Config:
    """The config that :func:`plain_config` has written.

    Args:
        plain: what it gave.
        like: a config of the same task and algorithm, which then need not be registered.

    Raises:
        ValueError: if a part is missing, or its task or its algorithm is not known.
        TypeError: for an option that is not known, or of another type.

    Examples:
        >>> config_from_plain(plain_config(Config())) == Config()
        True
    """
    if lacking := {"task", "training", "algorithm"} - plain.keys():
        raise ValueError(f"The config has no {', '.join(sorted(lacking))}; it is of no such run.")
    task = dict(plain["task"])
    name, known = task.pop("name"), None
    if task:
        own = like.task_settings if like is not None else get_task(name).settings
        known = type(own)(**{k: _tuples(v) for k, v in task.items()})
    training = dict(plain["training"])
    wandb = WandbSettings(**{k: _tuples(v) for k, v in training.pop("wandb", {}).items()})
    return Config(
        task=name,
        task_settings=known,
        training=TrainingSettings(**training, wandb=wandb),
        algorithm=_algorithm_from_plain(plain["algorithm"], like),
    )


def _algorithm_from_plain(plain: Mapping[str, Any], like: Config | None) -> AlgorithmSettings:
    if like is None:
        return settings_from_plain(plain)
    options = {name: value for name, value in plain.items() if name != "name"}
    return type(like.algorithm).from_plain(options)


def completed_config(plain: Mapping[str, Any], like: Config) -> Mapping[str, Any]:
    """What an earlier version wrote, with the options that it did not have at their defaults.

    Args:
        plain: of :func:`plain_config`, of any version.
        like: the config with which it will be compared.

    Returns:
        What it was given, if it is of another task or algorithm.

    Raises:
        TypeError: for an option that this version does not have, or of another type.
        ValueError: for a value that is out of its range now.

    Examples:
        >>> earlier = plain_config(Config())
        >>> del earlier["training"]["stop_evaluations"]
        >>> completed_config(earlier, Config()) == plain_config(Config())
        True
    """
    task, algorithm = plain.get("task"), plain.get("algorithm")
    if not isinstance(task, Mapping) or not isinstance(algorithm, Mapping):
        return plain
    names = task.get("name"), algorithm.get("name")
    if names != (like.task, like.algorithm_name):
        return plain
    if len(task) > 1 and like.task_settings is None:
        return plain
    return plain_config(config_from_plain(plain, like=like))


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def make_config(
    algorithm: str | None = None,
    task: str | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    preset: str | None = None,
    default: Config | None = None,
) -> Config:
    """A config from names and dotted options, as a command line or a sweep has them.

    Args:
        algorithm: name of the algorithm. Default: the default's.
        task: name of the task. Default: the default's.
        options: values, or texts that mean them, by ``"total_frames"`` for how it is trained,
            ``"algorithm.influence_coeff"`` and ``"task.size"``. Of the algorithm ``"sides"``,
            ``"side.good"`` is what the side ``good`` follows, the name of an algorithm,
            ``"random"``, ``"module:function"`` or the directory of a run; and
            ``"side.good.influence_coeff"`` an option of its algorithm, ``"side.good.agents"``
            its agents.
        preset: of the algorithm's settings, as ``"paper"``.
        default: what is not said. Its settings count where it is of the same algorithm.

    Returns:
        The :class:`Config`.

    Raises:
        ValueError: for an unknown name, an option that is given twice, or a value out of its
            range.
        TypeError: for a value of another type.

    Examples:
        >>> config = make_config("alita", options={"algorithm.influence-coeff": "0.3"})
        >>> config.algorithm.influence_coeff
        0.3
    """
    default = default or Config()
    name = algorithm or default.algorithm_name
    known = get_algorithm(name)
    settings = default.algorithm if name == default.algorithm_name else known.Settings()
    if preset is not None:
        if preset not in known.presets:
            raise ValueError(
                f"preset must be one of {sorted(known.presets)} for {name}, got {preset!r}."
            )
        settings = known.presets[preset]
    task = task or default.task
    same = task == default.task and default.task_settings is not None
    own = default.task_settings if same else get_task(task).settings
    parts: dict[str, dict[str, Any]] = {name: {} for name in PARTS}
    sides: dict[str, Any] = {}
    seen: set[str] = set()
    for option, value in (options or {}).items():
        meant = option.replace("-", "_")
        part, _, field_name = meant.rpartition(".")
        full_name = meant if part else f"training.{meant}"
        if full_name in seen:
            raise ValueError(f"The option {option} is given twice.")
        seen.add(full_name)
        if part == SIDE or part.startswith(f"{SIDE}."):
            sides[meant] = value
            continue
        if part and part not in PARTS:
            raise ValueError(f"Unknown option {option}: its part must be one of {PARTS}.")
        parts[part or "training"][field_name] = value
    if parts["task"] and own is None:
        raise ValueError(f"The task {task!r} has no options, got {sorted(parts['task'])}.")
    changed = _changed("task.", own, parts["task"])
    training = _changed("", default.training, parts["training"])
    if parts["wandb"]:
        wandb = _changed("wandb.", training.wandb, parts["wandb"])
        training = dataclasses.replace(training, wandb=wandb)
    return Config(
        task=task,
        task_settings=changed if changed is not get_task(task).settings else None,
        training=training,
        algorithm=_with_sides(_changed("algorithm.", settings, parts["algorithm"]), sides),
    )


def _with_sides(settings: AlgorithmSettings, options: Mapping[str, Any]) -> AlgorithmSettings:
    """Settings of sides with some options, by ``"side.NAME"`` and ``"side.NAME.OPTION"``."""
    if not options:
        return settings
    if not isinstance(settings, SidesSettings):
        raise ValueError(
            f"{next(iter(options))} is an option of the algorithm 'sides', not of "
            f"{algorithm_of(settings)!r}."
        )
    sides: dict[str, Any] = dict(settings.sides)
    agents = dict(settings.agents)
    own: dict[str, dict[str, Any]] = {}
    for option, value in options.items():
        _, name, *rest = option.split(".")
        if rest:
            own.setdefault(name, {})[".".join(rest)] = value
        elif value in ALGORITHMS:
            sides[name] = ALGORITHMS[value].Settings()
        else:
            sides[name] = value
    for name, values in own.items():
        if name not in sides:
            raise ValueError(f"Say what the side {name!r} follows, as in --{SIDE}.{name} maddpg.")
        if "agents" in values:
            given = values.pop("agents")
            given = (
                parse_option(f"{SIDE}.{name}.agents", given, tuple[int, ...])
                if (_is_text(given))
                else given
            )
            agents[name] = given
        if values and isinstance(sides[name], str):
            raise ValueError(
                f"The side {name!r} is fixed, {sides[name]!r}: it has no {sorted(values)}."
            )
        sides[name] = _changed(f"{SIDE}.{name}.", sides[name], values)
    return SidesSettings(sides=tuple(sides.items()), agents=tuple(agents.items()))


def _changed(prefix: str, settings: Any, values: Mapping[str, Any]) -> Any:
    """Settings with some values, which may be texts."""
    if not values:
        return settings
    hints = type_hints(type(settings))
    known = {field.name for field in dataclasses.fields(settings)}
    for name in values:
        if name not in known:
            raise ValueError(unknown_option(f"{prefix}{name}", [f"{prefix}{k}" for k in known]))
    return dataclasses.replace(
        settings,
        **{
            name: parse_option(f"{prefix}{name}", value, hints[name]) if _is_text(value) else value
            for name, value in values.items()
        },
    )


def option_text(name: str) -> str:
    """An option's name as a command line has it, without ``--``: in dashes, but for a side's name.

    Args:
        name: with dashes or underscores.

    Examples:
        >>> option_text("algorithm.num_cells"), option_text("side.lead-adversary.num_cells")
        ('algorithm.num-cells', 'side.lead_adversary.num-cells')
    """
    parts = name.replace("_", "-").split(".")
    if parts[0] == SIDE and len(parts) > 1:
        parts[1] = parts[1].replace("-", "_")
    return ".".join(parts)


def _is_text(value: Any) -> bool:
    """Whether it is as a command line has it: a text, or a list of them."""
    if isinstance(value, str):
        return True
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)


def unknown_option(name: str, known: list[str]) -> str:
    """What to say of an option that is not known, or of a word that is none."""
    if not name.startswith("-") and known[:1] and known[0].startswith("-"):
        return f"{name} is no option: they begin with --, and a task is named by --task."
    last = name.removeprefix("--").rpartition(".")[2]
    ends = {option: option.removeprefix("--").rpartition(".")[2] for option in known}
    near = (
        [option for option, end in ends.items() if end == last]
        or [option for option, end in ends.items() if end.endswith((f"-{last}", f"_{last}"))]
        or get_close_matches(name, known, n=1)
    )
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"Unknown option {name}.{hint}"
