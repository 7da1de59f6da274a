"""Tasks by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING

import torch
from tensordict import TensorDictBase
from torchrl.envs import EnvBase

from torchrl_alita._checks import check_at_least_one, checked_seed

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["TASKS", "Task", "get_task", "make_env", "register_task"]


@dataclass(frozen=True)
class Task:
    """What the package knows of a task.

    Args:
        make: builds the environment; takes the keyword arguments of
            :func:`make_env`.
        metrics: figures of merit of complete episodes ``[B, T]``, each a scalar
            tensor by name.
        draw: the frames of one episode ``[T]``, drawn without a display.
    """

    make: Callable[..., EnvBase]
    metrics: Callable[[TensorDictBase], dict[str, torch.Tensor]]
    draw: Callable[[TensorDictBase], list[Image]]


TASKS: dict[str, Task] = {}
# Suites whose tasks are registered when one of them is asked for: they are also started as
# scripts, which a module that is imported with the package cannot be without a warning.
_SUITES = ("torchrl_alita.envs.smac", "torchrl_alita.envs.smax", "torchrl_alita.envs.pybullet")


def register_task(name: str, task: Task) -> None:
    """Make a task known by name to :func:`make_env` and to the recipes.

    Args:
        name: usually ``"suite/task"``.
        task: the task.

    Raises:
        ValueError: if the name is taken.
    """
    if name in TASKS:
        raise ValueError(f"The task {name!r} is registered already.")
    TASKS[name] = task


def get_task(name: str) -> Task:
    """Look up a task.

    Args:
        name: of the task.

    Returns:
        The :class:`Task`.

    Raises:
        ValueError: if no task has this name; the nearest and all names are given.

    Examples:
        >>> get_task("vmas/spred")
        Traceback (most recent call last):
        ...
        ValueError: Unknown task 'vmas/spred'. Did you mean 'vmas/spread'? Known: [...].
    """
    if name not in TASKS:
        for module in _SUITES:
            import_module(module)
    if name not in TASKS:
        near = get_close_matches(name, TASKS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"Unknown task {name!r}.{hint} Known: {sorted(TASKS)}.")
    return TASKS[name]


def make_env(
    task: str | Task,
    *,
    num_envs: int = 1,
    n_agents: int = 3,
    device: torch.device | str = "cpu",
    seed: int | None = None,
    horizon: int = 100,
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
        n_agents: N.
        device: of the simulation.
        seed: of the random stream. Default: drawn from torch's global generator.
        horizon: steps after which an episode is truncated.

    Returns:
        A TorchRL environment.

    Raises:
        ValueError: for an unknown task, a device that torch does not have here,
            num_envs, n_agents or horizon below 1, or a seed outside 0 to 2**64 - 1.
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
    builder = (get_task(task) if isinstance(task, str) else task).make
    check_at_least_one(num_envs=num_envs, n_agents=n_agents, horizon=horizon)
    seed = checked_seed(seed)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"torch cannot use the device {str(device)!r} here: {error}") from error
    return builder(num_envs=num_envs, n_agents=n_agents, device=device, seed=seed, horizon=horizon)
