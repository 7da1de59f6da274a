"""Tasks by name."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.envs import DTypeCastTransform, EnvBase

from torchrl_alita._checks import (
    check_at_least_one,
    check_callable,
    check_kind,
    check_number,
    checked_seed,
    did_you_mean,
)
from torchrl_alita._extras import import_extra, import_named
from torchrl_alita.envs._closing import close_env
from torchrl_alita.layout import ACTION, REWARD

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "TASKS",
    "Task",
    "get_task",
    "make_env",
    "naming_arguments",
    "register_suite",
    "register_task",
    "task_names",
    "unknown",
]


@dataclass(frozen=True)
class Task:
    """What the package knows of a task.

    Only ``make`` is needed: without metrics an evaluation has the return alone, without
    ``draw`` a run has no picture of an episode.

    Args:
        make: builds the environment. It takes ``num_envs``, ``n_agents``, ``device``, ``seed``
            and ``horizon`` by keyword, as :func:`make_env` does, and ``settings`` if the task
            has some. ``n_agents`` is None if neither the caller nor the task says it.
        metrics: figures of merit of complete episodes ``[B, T]``, each a scalar tensor by name.
        draw: frames of one episode ``[T]``, pictures of Pillow, drawn without a display.
        settings: options of its own and their defaults, an instance of a frozen dataclass. On
            the command line they are ``--task.NAME``.
        n_agents: how many agents the task has, unless another number is asked for. Default: not
            known before the environment is built.
        horizon: steps after which an episode is truncated, unless another number is asked for.
        events: parts of :func:`torchrl_alita.metrics.exploration_metrics` that count what
            happens in this task, for an environment of it.
        floor: return of a team that acts at random, by :func:`torchrl_alita.training.evaluate`,
            with the task's own settings, agents and horizon. Default: not known.
        ceiling: likewise, of the best that is known, such as a script. Default: not known.
        configure: the task with other settings. Default: this task, with ``settings`` replaced.

    Raises:
        TypeError: if ``settings`` is no instance of a frozen dataclass, or a function cannot be
            called.
        ValueError: if ``n_agents`` or ``horizon`` is below 1, or ``floor`` is not below
            ``ceiling``.

    Examples:
        >>> from torchrl_alita.envs import PushBox
        >>> def make(*, num_envs, n_agents, device, seed, horizon):
        ...     return PushBox(num_envs, num_agents=n_agents, horizon=horizon, seed=seed)
        >>> make_env(Task(make, n_agents=3, horizon=50), num_envs=2, seed=0).num_agents
        3
    """

    make: Callable[..., EnvBase]
    metrics: Callable[[TensorDictBase], dict[str, torch.Tensor]] | None = None
    draw: Callable[[TensorDictBase], list[Image]] | None = None
    settings: Any = None
    n_agents: int | None = None
    horizon: int = 100
    events: Callable[[EnvBase], Sequence[TensorDictModuleBase]] | None = None
    floor: float | None = None
    ceiling: float | None = None
    configure: Callable[[Any], Task] | None = None

    def __post_init__(self):
        check_callable("make", self.make)
        for name in ("metrics", "draw", "events", "configure"):
            if getattr(self, name) is not None:
                check_callable(name, getattr(self, name))
        if self.n_agents is not None:
            check_at_least_one(n_agents=self.n_agents)
        check_at_least_one(horizon=self.horizon)
        for name in ("floor", "ceiling"):
            value = getattr(self, name)
            if value is not None:
                check_number(**{name: value})
                if not math.isfinite(value):
                    raise ValueError(f"{name} must be finite, got {value}.")
        floor, ceiling = self.floor, self.ceiling
        if floor is not None and ceiling is not None and not floor < ceiling:
            raise ValueError(f"floor must be below ceiling, got {floor} and {ceiling}.")
        settings: Any = self.settings
        if settings is None:
            return
        parameters: Any = getattr(settings, "__dataclass_params__", None)
        frozen = is_dataclass(settings) and parameters.frozen
        if not frozen or isinstance(settings, type):
            raise TypeError(
                f"settings must be an instance of a frozen dataclass, got {settings!r}."
            )
        if hasattr(settings, "name"):
            raise ValueError(
                f"settings must not have the field name, which is the task's in config.json, got "
                f"{settings!r}."
            )

    def with_settings(self, settings: Any) -> Task:
        """The same task with other settings.

        Args:
            settings: of the class of the task's own.

        Returns:
            A task, whose metrics and drawing follow the settings, and of which floor and ceiling
            are not known unless ``configure`` knows them.

        Raises:
            TypeError: if the task has no settings, or they are of another class.

        Examples:
            >>> from torchrl_alita.envs import PushBoxSettings
            >>> get_task("push_box").with_settings(PushBoxSettings(size=11)).settings.size
            11
        """
        if settings == self.settings and type(settings) is type(self.settings):
            return self
        if self.settings is None or type(settings) is not type(self.settings):
            own = "none" if self.settings is None else type(self.settings).__name__
            raise TypeError(f"The task's settings are {own}, got {settings!r}.")
        if self.configure is not None:
            return self.configure(settings)
        return replace(self, settings=settings, floor=None, ceiling=None)


# So many names are shown where the nearest one is given too.
MOST_SHOWN = 30
TASKS: dict[str, Task] = {}


@dataclass(frozen=True)
class _Suite:
    names: Callable[[], Iterable[str]]
    task: Callable[[str], Task]
    extra: str | None
    module: str | None


_SUITES: dict[str, _Suite] = {}
# Modules whose tasks are registered when one of them is asked for: they are also started as
# scripts, which a module that is imported with the package cannot be without a warning.
_MODULES = ("torchrl_alita.envs.smac", "torchrl_alita.envs.smax", "torchrl_alita.envs.pybullet")


def register_suite(
    name: str,
    names: Callable[[], Iterable[str]],
    task: Callable[[str], Task],
    *,
    module: str | None = None,
    extra: str | None = None,
) -> None:
    """Make many tasks known as ``"name/..."``, each built when it is asked for.

    Args:
        name: of the suite.
        names: its tasks that are installed.
        task: a task by its name.
        module: what must be installed, as in an import statement.
        extra: the extra of this package that installs it.

    Raises:
        TypeError: if ``names`` or ``task`` cannot be called.
        ValueError: if the name is taken, or is none.
    """
    _check_name(name)
    check_callable("names", names)
    check_callable("task", task)
    if name in _SUITES:
        raise ValueError(f"The suite {name!r} is registered already.")
    _SUITES[name] = _Suite(names, task, extra, module)


def task_names() -> list[str]:
    """Names of all tasks that are registered and installed, sorted.

    Returns:
        The names.

    Examples:
        >>> {"push_box", "vmas/football", "smax/2s3z"} <= set(task_names())
        True
    """
    for module in _MODULES:
        import_module(module)
    found = {f"{name}/{task}" for name, suite in _SUITES.items() for task in suite.names()}
    return sorted(found | set(TASKS))


def register_task(name: str, task: Task) -> None:
    """Make a task known by name to :func:`make_env` and to the recipes.

    Args:
        name: usually ``"suite/task"``.
        task: the task.

    Raises:
        TypeError: if it is no :class:`Task`.
        ValueError: if the name is taken, or is none: a colon is of ``"module:name"``.
    """
    _check_name(name)
    check_kind("task", task, Task, "a Task")
    if name in TASKS:
        raise ValueError(f"The task {name!r} is registered already.")
    TASKS[name] = task


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"[^\s:]+", name):
        raise ValueError(f"A name must be a text without blanks and colons, got {name!r}.")


def get_task(name: str) -> Task:
    """Look up a task.

    Args:
        name: of the task; or ``"module:name"``, a :class:`Task` of one's own or a function that
            gives one.

    Returns:
        The :class:`Task`.

    Raises:
        ValueError: if no task has this name; the nearest is given, or all names.
        ImportError: if no task of its suite is known, because an extra is missing.

    Examples:
        >>> get_task("vmas/spred")
        Traceback (most recent call last):
        ...
        ValueError: Unknown task 'vmas/spred'. Did you mean 'vmas/spread'? One of your own
        is named module:function.
    """
    if name in TASKS:
        return TASKS[name]
    if ":" in name:
        return _task_of_module(name)
    suite, _, rest = name.partition("/")
    if suite in _SUITES:
        module, extra = _SUITES[suite].module, _SUITES[suite].extra
        if module is not None and extra is not None:
            import_extra(module, extra)
        if rest in set(_SUITES[suite].names()):
            TASKS[name] = _SUITES[suite].task(rest)
            return TASKS[name]
    known = task_names()
    if name not in known:
        of_suite = [task for task in known if rest and task.startswith(f"{suite}/")]
        raise ValueError(
            unknown("task", name, of_suite or known, " One of your own is named module:function.")
        )
    return TASKS[name]


def _task_of_module(name: str) -> Task:
    """The task of ``"module:name"``, which is a task or a function that gives one."""
    found = import_named("task", name)
    try:
        task = found if isinstance(found, Task) or not callable(found) else found()
    except TypeError as error:
        raise ValueError(
            f"The task {name!r} must be a Task, or a function that gives one without arguments: "
            f"{error}."
        ) from error
    if not isinstance(task, Task):
        raise ValueError(f"The task {name!r} must be a Task or give one, got {task!r}.")
    return task


def unknown(what: str, name: str, known: Iterable[str], more: str = "") -> str:
    """What to say of a name that is not known: the nearest one, and all if they are few."""
    known = sorted(known)
    hint = did_you_mean(name, known)
    every = "" if hint and len(known) > MOST_SHOWN else f" Known: {known}."
    return f"Unknown {what} {name!r}.{hint}{more}{every}"


@contextmanager
def naming_arguments(what: str, given: Mapping[str, Any]) -> Iterator[None]:
    """Say with which arguments a simulator could not be built; its own errors rarely do.

    Args:
        what: is built, at the head of a sentence.
        given: its arguments, where they are not the defaults.

    Raises:
        ValueError: for any error but a missing package, if arguments were given.
    """
    try:
        yield
    except ImportError:
        raise
    except Exception as error:
        if not given:
            raise
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise ValueError(
            f"{what} cannot be built with the arguments {dict(given)}: {said}"
        ) from error


def make_env(
    task: str | Task,
    *,
    num_envs: int = 1,
    n_agents: int | None = None,
    device: torch.device | str = "cpu",
    seed: int | None = None,
    horizon: int | None = None,
    settings: Any = None,
) -> EnvBase:
    """Batched environment in the layout of this package.

    ``("agents", "observation")`` ``[B, N, O]``, ``("agents", "action")``
    ``[B, N, A]``, ``("next", "agents", "reward")`` ``[B, N, 1]`` and
    ``("next", "done" | "terminated" | "truncated")`` ``[B, 1]``. The horizon
    truncates, it does not terminate. Every environment draws from a random stream
    of its own: it neither moves nor sees those of others, or the global one.

    Args:
        task: a registered name, as ``"vmas/spread"``, or a :class:`Task`.
        num_envs: B, environments simulated together.
        n_agents: N. Default: the task's own number.
        device: of the simulation.
        seed: of the random stream. Default: drawn from torch's global generator.
        horizon: steps after which an episode is truncated. Default: the task's own number.
        settings: the task's options, of the class of its ``settings``. Default: those.

    Returns:
        A TorchRL environment.

    Raises:
        ValueError: for an unknown task, a device that torch does not have here,
            num_envs, n_agents or horizon below 1, a number of agents that the task does not
            have, a seed outside 0 to 2**64 - 1, or a task that makes another number of
            environments or of agents, or makes them on another device.
        TypeError: for settings that are not the task's, or a task that makes no environment.
        ImportError: if the task's suite is not installed; the extra is named.

    Examples:
        >>> env = make_env("vmas/spread", num_envs=2, n_agents=3, seed=0, horizon=5)
        >>> episode = env.rollout(5)
        >>> episode["next", "agents", "reward"].shape
        torch.Size([2, 5, 3, 1])
        >>> bool(episode["next", "truncated"][:, -1].all())
        True
        >>> bool(episode["next", "terminated"].any())
        False
    """
    task = get_task(task) if isinstance(task, str) else task
    check_kind("task", task, Task, "a name or a Task")
    if settings is not None:
        task = task.with_settings(settings)
    n_agents = task.n_agents if n_agents is None else n_agents
    horizon = task.horizon if horizon is None else horizon
    known = {} if n_agents is None else {"n_agents": n_agents}
    check_at_least_one(num_envs=num_envs, **known, horizon=horizon)
    seed = checked_seed(seed)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"torch cannot use the device {str(device)!r} here: {error}") from error
    own = {} if task.settings is None else {"settings": task.settings}
    env = task.make(
        num_envs=num_envs, n_agents=n_agents, device=device, seed=seed, horizon=horizon, **own
    )
    check_kind("What the task makes", env, EnvBase, "a TorchRL environment")
    try:
        _check_made(env, num_envs, device, n_agents)
        return _with_real_rewards(env)
    except BaseException:
        close_env(env)
        raise


def _check_made(
    env: EnvBase, num_envs: int, device: torch.device | str, n_agents: int | None
) -> None:
    """Refuse what a task has made otherwise than it was told."""
    if tuple(env.batch_size) != (num_envs,):
        raise ValueError(
            f"The task must make {num_envs} environments, of the batch size ({num_envs},), got "
            f"{tuple(env.batch_size)}."
        )
    if env.device is not None and env.device.type != torch.device(device).type:
        raise ValueError(
            f"The task must make its environments on {str(device)!r}, got {env.device}."
        )
    if n_agents is None or ACTION not in env.full_action_spec_unbatched.keys(True, True):
        return
    made = env.full_action_spec_unbatched[ACTION].shape[0]
    if made != n_agents:
        raise ValueError(f"The task must make {n_agents} agents, as it was asked to, got {made}.")


def _with_real_rewards(env: EnvBase) -> EnvBase:
    """Rewards that are whole numbers, or yes and no, as numbers that have a mean."""
    spec = env.full_reward_spec
    given = {spec[key].dtype for key in spec.keys(True, True)}
    for dtype in (dtype for dtype in given if not dtype.is_floating_point):
        env = env.append_transform(
            DTypeCastTransform(dtype, torch.get_default_dtype(), in_keys=[REWARD])
        )
    return env
