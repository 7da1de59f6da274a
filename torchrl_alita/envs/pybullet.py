"""PyBullet's robots, one agent each, as batched environments (extra ``pybullet``).

Source: Sec. 4.2 and Appendix C of https://arxiv.org/abs/2108.12581; the environments are
those of the package ``pybullet_envs_gymnasium``. PyBullet has wheels for Python up to 3.11;
for a newer Python pip compiles it from source, which needs a C++ compiler and takes minutes.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.data import Unbounded
from torchrl.envs import (
    Compose,
    EnvBase,
    GymWrapper,
    ParallelEnv,
    RenameTransform,
    SerialEnv,
    TransformedEnv,
    UnsqueezeTransform,
)

from torchrl_alita._checks import check_at_least_one, require_keys
from torchrl_alita._extras import import_extra
from torchrl_alita.envs import _grid
from torchrl_alita.envs._saved_state import SavedState, check_like
from torchrl_alita.envs.registry import Task, register_task
from torchrl_alita.layout import ACTION, DONE, OBSERVATION, REWARD, next_key

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "ENVIRONMENTS",
    "EPISODE_SEED",
    "POSITION",
    "PyBulletEnv",
    "PyBulletSettings",
    "draw_pybullet",
    "pybullet_metrics",
    "pybullet_task",
]

_RUNNERS = (
    "HalfCheetahBulletEnv-v0",
    "AntBulletEnv-v0",
    "HopperBulletEnv-v0",
    "Walker2DBulletEnv-v0",
    "HumanoidBulletEnv-v0",
)
# The first five are those of Figure 5.
ENVIRONMENTS = (
    *_RUNNERS,
    "HumanoidFlagrunBulletEnv-v0",
    "HumanoidFlagrunHarderBulletEnv-v0",
    "ReacherBulletEnv-v0",
    "PusherBulletEnv-v0",
    "ThrowerBulletEnv-v0",
    "InvertedPendulumBulletEnv-v0",
    "InvertedDoublePendulumBulletEnv-v0",
    "InvertedPendulumSwingupBulletEnv-v0",
)
EPISODE_SEED = "episode_seed"
POSITION = "position"
# Of these an episode is a function of its seed and its actions. HumanoidFlagrunHarder's
# differs now and then in the last digits, in the same client and in a new one.
_EXACT = frozenset(ENVIRONMENTS) - {"HumanoidFlagrunHarderBulletEnv-v0"}
# And of these from the second reset of a client on, whatever was played in it before. Both were
# measured over hundreds of episodes; a state that is loaded is compared.
_REUSED = _EXACT - {"ThrowerBulletEnv-v0"}
# Seconds between two observations of a robot that walks.
_WALKER_STEP = 0.0165
# What save_gif shows in a second by default.
_PICTURES_PER_SECOND = 20


class _Camera(NamedTuple):
    """From where a picture is taken: ``target`` None follows the robot."""

    target: tuple[float, float, float] | None = None
    distance: float = 3.0
    pitch: float = -20.0


_CAMERAS = {
    "ReacherBulletEnv-v0": _Camera((0.0, 0.0, 0.0), 0.7, -70.0),
    "PusherBulletEnv-v0": _Camera((0.3, -0.3, -0.2), 2.0, -40.0),
    "ThrowerBulletEnv-v0": _Camera((0.3, -0.3, -0.2), 2.5, -30.0),
    "InvertedPendulumBulletEnv-v0": _Camera((0.0, 0.0, 0.4), 2.0, -10.0),
    "InvertedDoublePendulumBulletEnv-v0": _Camera((0.0, 0.0, 0.6), 2.5, -10.0),
    "InvertedPendulumSwingupBulletEnv-v0": _Camera((0.0, 0.0, 0.0), 2.0, -10.0),
}


class PyBulletEnv(SavedState, GymWrapper):
    """One robot, ``batch_size`` ``[]``, over TorchRL's wrapper of Gym environments.

    ``"observation"`` is ``[O]``, ``"action"`` ``[A]`` in [-1, 1], ``"reward"`` ``[1]`` and
    the flags ``[1]``; ``pybullet_task`` brings a batch of robots into the layout of this
    package. ``"episode_seed"`` ``[1]`` is the seed of the running episode and, of the five
    robots that run straight on, ``"position"`` ``[3]`` the torso's place in meters. Where a
    robot falls, the episode is terminated; Gym's own limit of steps, and the horizon if it
    is the lower one, truncate it.

    **Seeds.** Each episode has a seed, drawn from a generator of the environment's own. The
    episode is then a function of the seed and the actions: it depends neither on the episodes
    before it nor on other environments. For that a physics client is reset once before it is
    used, as the first episode of a client differs in the last digits from the same one later.
    Thrower needs a new client for each episode, about 0.1 s. HumanoidFlagrunHarder and what is
    not among the thirteen get one too, but are not promised: of the former, one episode in ten
    or twenty differs in the last digits from itself.

    **Exact state.** PyBullet's own saved states leave out what the solver keeps of contacts.
    ``state_dict()`` holds the episode's seed, its actions so far and the state of the
    generator instead; to load it, the episode is played again to the same step, which takes
    the time of these steps. A run on HumanoidFlagrunHarder, or on what is not among the
    thirteen, begins new episodes at its checkpoints instead.

    What the simulator prints when a client starts is kept from the terminal.

    Args:
        env_id: one of :data:`ENVIRONMENTS`, or another id registered with Gymnasium whose
            environment is derived from ``pybullet_envs_gymnasium``'s.
        horizon: steps after which an episode is truncated, at least 1. Default: Gym's own
            limit, which holds in any case.
        device: of the tensors; the simulation runs on the CPU.
        seed: of the generator. Default: drawn from torch's global generator.

    Raises:
        ImportError: if PyBullet or its environments are not installed; the extra is named.
        ValueError: for an unknown id, the known ones are listed; for an environment whose
            actions are not continuous, or that is none of PyBullet's; for a horizon below 1;
            in a step, for an action that is not finite.
        RuntimeError: if an episode that is played again to load a state takes another course.

    Examples:
        >>> PyBulletEnv("HopperBulletEnv-v0", horizon=0)
        Traceback (most recent call last):
        ...
        ValueError: horizon must be at least 1, got 0.
    """

    def __init__(
        self,
        env_id: str,
        *,
        horizon: int | None = None,
        device: torch.device | str = "cpu",
        seed: int | None = None,
        # Given by the metaclass of TorchRL's wrapper, for batched environments only.
        _torchrl_native_autoreset_requested: bool = False,
    ):
        if horizon is not None:
            check_at_least_one(horizon=horizon)
        simulation = _simulation(env_id, horizon)
        super().__init__(simulation, device=device)
        self.env_id, self.horizon = env_id, simulation.spec.max_episode_steps
        self._runs = env_id in _RUNNERS
        seen = self.full_observation_spec.clone()
        seen[EPISODE_SEED] = Unbounded((1,), dtype=torch.long, device=self.device)
        if self._runs:
            seen[POSITION] = Unbounded((3,), device=self.device)
        self.observation_spec = seen
        self._generator = torch.Generator()
        self._set_seed(_grid.seed_of_task(seed))
        self._started = False
        self._episode_seed = -1
        self._actions: list[torch.Tensor] = []
        self._last = torch.zeros(self.observation_spec["observation"].shape)

    @property
    def _is_batched(self) -> bool:
        # To find out, TorchRL would import stable-baselines3 where it is installed, which
        # takes seconds and draws from Python's generator.
        return False

    def _set_seed(self, seed: int | None) -> None:
        _grid.set_seed(self._generator, _grid.seed_of_task(seed))

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs) -> TensorDictBase:
        seed = int(torch.randint(2**31, (), generator=self._generator))
        return self._begin(seed)

    def _begin(self, seed: int) -> TensorDictBase:
        """Start the episode of this seed."""
        if self._started and self.env_id not in _REUSED:
            self._env.close()
            self._env: Any = _simulation(self.env_id, self.horizon)
            self._started = False
        if not self._started:
            with _silent():
                self._env.reset(seed=0)
            self._started = True
        self._episode_seed, self._actions = seed, []
        return self._entries(super()._reset(None, seed=seed))

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        action = tensordict.get("action")
        if not bool(action.isfinite().all()):
            raise ValueError(
                f"The action of {self.env_id} must be finite, got {action.tolist()} in the "
                f"episode of seed {self._episode_seed}."
            )
        self._actions.append(action.detach().cpu().clone())
        return self._entries(super()._step(tensordict))

    def _advance(self, action: torch.Tensor) -> dict[str, torch.Tensor]:
        """A step without TorchRL's wrapper, for a batch of robots; an action on the CPU."""
        self._actions.append(action)
        observation, reward, terminated, truncated, _ = self._env.step(action.numpy())
        self._last = torch.tensor(observation, dtype=torch.float32)
        return {
            "observation": self._last,
            "reward": torch.tensor([reward], dtype=torch.float32),
            "terminated": torch.tensor([bool(terminated)]),
            "truncated": torch.tensor([bool(truncated)]),
            "done": torch.tensor([bool(terminated or truncated)]),
            **self._marks(),
        }

    def _entries(self, entries: TensorDictBase) -> TensorDictBase:
        self._last = entries["observation"].cpu()
        return entries.update(self._marks())

    def _marks(self) -> dict[str, torch.Tensor]:
        """The episode's seed, and where a robot is that runs."""
        marks = {EPISODE_SEED: torch.tensor([self._episode_seed], device=self.device)}
        if self._runs:
            place = self._env.unwrapped.robot.body_real_xyz
            marks[POSITION] = torch.tensor(place, dtype=torch.float32, device=self.device)
        return marks

    def _saved(self) -> dict[str, torch.Tensor]:
        width = self.action_spec.shape[-1]
        return {
            "episode_seed": torch.tensor(self._episode_seed),
            "actions": torch.stack(self._actions) if self._actions else torch.zeros(0, width),
            "observation": self._last.clone(),
            "generator": self._generator.get_state(),
        }

    def _restore(self, state: dict[str, torch.Tensor]) -> None:
        actions, observation = state["actions"], state["observation"]
        self._check_state(actions, observation)
        self._generator.set_state(state["generator"].cpu())
        if int(state["episode_seed"]) >= 0:
            self._play_again(int(state["episode_seed"]), actions.cpu(), observation.cpu())

    def _check_state(self, actions: torch.Tensor, observation: torch.Tensor) -> None:
        width = self.action_spec.shape[-1]
        if actions.ndim != 2 or actions.shape[1] != width or len(actions) > self.horizon:
            raise ValueError(
                f"actions must have the shape (at most {self.horizon}, {width}), got "
                f"{tuple(actions.shape)}."
            )
        check_like("observation", observation, self._last)

    def _play_again(self, seed: int, actions: torch.Tensor, observation: torch.Tensor) -> None:
        """The same episode to the same step."""
        self._begin(seed)
        for action in actions:
            self._step(TensorDict({"action": action.to(self.device)}, []))
        if not torch.equal(self._last, observation):
            gap = float((self._last - observation).abs().max())
            raise RuntimeError(
                f"The episode of seed {seed} of {self.env_id} took another course when its "
                f"{len(actions)} steps were played again: observations differ by {gap:g}. The "
                "state is of another machine or another version of PyBullet."
            )

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("A physics client cannot be copied: make another environment.")


def _simulation(env_id: str, horizon: int | None) -> Any:
    """The Gym environment; its physics client starts with the first reset."""
    gymnasium = _import_environments()
    _check_known(env_id, gymnasium)
    limit = gymnasium.spec(env_id).max_episode_steps
    lowest = min((steps for steps in (limit, horizon) if steps is not None), default=None)
    env = gymnasium.make(env_id, max_episode_steps=lowest, disable_env_checker=True)
    space = env.action_space
    if not isinstance(space, gymnasium.spaces.Box):
        raise ValueError(f"The actions of {env_id} must be continuous, got {space}.")
    from pybullet_envs_gymnasium.env_bases import MJCFBaseBulletEnv

    if not isinstance(env.unwrapped, MJCFBaseBulletEnv):
        raise ValueError(
            f"{env_id} is {type(env.unwrapped).__name__}, which is no environment of PyBullet. "
            f"Known: {sorted(ENVIRONMENTS)}."
        )
    return env


def _check_known(env_id: str, gymnasium: Any) -> None:
    if env_id not in gymnasium.registry:
        raise ValueError(f"Unknown environment {env_id!r}. Known: {sorted(ENVIRONMENTS)}.")


def _import_environments() -> Any:
    """Gymnasium, with PyBullet's environments registered."""
    gymnasium = import_extra("gymnasium", "pybullet")
    if sys.modules.get("pybullet") is None:
        with _silent():
            import_extra("pybullet", "pybullet")
    import_extra("pybullet_envs_gymnasium", "pybullet")
    return gymnasium


_SILENCE = threading.RLock()


@contextmanager
def _silent() -> Iterator[None]:
    """Keep what the process writes in C, without Python's streams, from the terminal.

    For that time it is kept of all threads.
    """
    with _SILENCE:
        try:
            kept = [(number, os.dup(number)) for number in (1, 2)]
        except OSError:
            # A process without a terminal has nothing to be kept from it.
            yield
            return
        _flush()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            for number, _ in kept:
                os.dup2(nowhere, number)
            yield
        finally:
            _flush()
            for number, copy in kept:
                os.dup2(copy, number)
                os.close(copy)
            os.close(nowhere)


def _flush() -> None:
    """Empty the buffers of Python and of C, each into the file that is there now."""
    for stream in (sys.stdout, sys.stderr):
        # A stream may be missing or closed.
        with suppress(AttributeError, ValueError, OSError):
            stream.flush()
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).fflush(None)


class _Robots(SerialEnv):
    """Robots one after the other, in this process.

    A step of the batch is one TensorDict: TorchRL's makes one for each robot, which takes three
    times as long as the simulation.
    """

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        on_cpu = self.device is not None and self.device.type == "cpu"
        if self.is_closed or not on_cpu or tensordict.get("_step", None) is not None:
            return super()._step(tensordict)
        actions = tensordict.get("action").detach().clone()
        if not bool(actions.isfinite().all()):
            # The robot whose action it is says so.
            return super()._step(tensordict)
        steps = [robot._advance(action) for robot, action in zip(self._envs, actions, strict=True)]
        entries = {key: torch.stack([step[key] for step in steps]) for key in steps[0]}
        return TensorDict(entries, batch_size=self.batch_size, device=self.device)


class _ExactRobots(_Robots):
    """Those whose state_dict holds all that shapes the future, see environment_state."""

    exact_state = True


class _RobotProcesses(ParallelEnv):
    """Robots at the same time, each in a process; one that dies is named."""

    def __init__(self, num_envs: int, make: Any, *, env_id: str, **kwargs):
        super().__init__(num_envs, make, **kwargs)
        # TorchRL looks for other attributes in the processes.
        self.__dict__["_env_id"] = env_id
        self.__dict__["_robot_seeds"] = [None] * num_envs
        self.__dict__["_codes"] = {}
        self.__dict__["_death"] = None

    def set_seed(self, seed: int | None = None, static_seed: bool = False) -> int | None:
        """Seeds one after the other, as in TorchRL's environments."""
        with self._deaths_reported():
            following = super().set_seed(seed, static_seed=static_seed)
        self.__dict__["_robot_seeds"] = list(self._seeds)
        return following

    def _reset(self, tensordict: TensorDictBase, **kwargs) -> TensorDictBase:
        with self._deaths_reported():
            return super()._reset(tensordict, **kwargs)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        with self._deaths_reported():
            return super()._step(tensordict)

    def step_and_maybe_reset(self, tensordict: TensorDictBase) -> tuple:
        """A step, and a reset of what it ended."""
        with self._deaths_reported():
            return super().step_and_maybe_reset(tensordict)

    def state_dict(self) -> dict[str, Any]:
        """Those of the processes."""
        with self._deaths_reported():
            return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any], **kwargs) -> None:
        """Those of the processes."""
        with self._deaths_reported():
            super().load_state_dict(state_dict, **kwargs)

    def _shutdown_workers(self) -> None:
        # TorchRL's waits for answers of the dead.
        if not self._end_if_one_died():
            super()._shutdown_workers()

    def _end_if_one_died(self) -> bool:
        processes = self.__dict__.get("_workers", ())
        # All have an exit code when they are ended, the first time only the dead.
        self.__dict__["_codes"] = self._codes or _exit_codes(processes)
        if self._codes:
            _end(processes)
        return bool(self._codes)

    @contextmanager
    def _deaths_reported(self) -> Iterator[None]:
        if self._death is not None:
            # TorchRL would start new processes, without their seeds.
            raise RuntimeError(self._death)
        self._report_dead(None)
        try:
            yield
        except (RuntimeError, OSError, EOFError) as error:
            self._report_dead(error)
            raise

    def _report_dead(self, error: Exception | None) -> None:
        if not self._end_if_one_died():
            return
        self.is_closed = True
        died = ", ".join(
            f"process {number} (seed {self._robot_seeds[number]}, exit code {code})"
            for number, code in self._codes.items()
        )
        self.__dict__["_death"] = f"A simulation of {self._env_id} died: {died}."
        raise RuntimeError(self._death) from error


class _ExactRobotProcesses(_RobotProcesses):
    """Of robots whose state_dict holds all that shapes the future."""

    exact_state = True


def _exit_codes(processes: Sequence[Any]) -> dict[int, int]:
    """Of those that died by themselves."""
    codes = {}
    for number, process in enumerate(processes):
        # One that TorchRL has closed already is one that it ended.
        with suppress(ValueError):
            if process.exitcode is not None:
                codes[number] = process.exitcode
    return codes


def _end(processes: Sequence[Any]) -> None:
    for process in processes:
        with suppress(ValueError):
            process.kill()
            process.join()


def pybullet_metrics(episodes: TensorDictBase) -> dict[str, torch.Tensor]:
    """Figures of merit of robots, episodes ``[B, T]`` -> scalars.

    What comes after an episode's end does not count.

    Args:
        episodes: complete episodes.

    Returns:
        ``episode_length``: steps, mean over the episodes. Of the five robots that run
        straight on also ``distance``, how far the torso came in the direction of x, meters,
        and ``mean_speed``, that distance over the episode's time, meters a second.

    Raises:
        KeyError: if the episodes hold no ends.

    Examples:
        Two episodes of 2 steps, of which the first ends after one.

        >>> done = torch.tensor([[[True], [False]], [[False], [True]]])
        >>> metrics = pybullet_metrics(TensorDict({"next": {"done": done}}, [2, 2]))
        >>> {name: float(value) for name, value in metrics.items()}
        {'episode_length': 1.5}
    """
    require_keys(episodes, [next_key(DONE)])
    running = _grid.running(episodes)
    length = running.sum(1)
    metrics = {"episode_length": length.float().mean()}
    if next_key(POSITION) in episodes.keys(True):
        start = episodes[POSITION][:, 0, 0]
        reached = episodes[next_key(POSITION)][..., 0].gather(1, (length - 1).unsqueeze(1))
        distance = reached.squeeze(1) - start
        metrics["distance"] = distance.mean()
        metrics["mean_speed"] = (distance / (length * _WALKER_STEP)).mean()
    return metrics


def draw_pybullet(
    episode: TensorDictBase, *, env_id: str, width: int = 320, height: int = 240
) -> list[Image]:
    """Frames of one episode ``[T]``, 20 for each second of the robot's time.

    A robot cannot be drawn from what it observes: the episode is played again in a physics
    client of its own, from its seed and its actions, and drawn by PyBullet's software
    renderer. The step and the return so far stand below.

    Args:
        episode: it is drawn to its end, and not beyond.
        env_id: of the environment that was played.
        width: of a picture, pixels.
        height: of the part above the text, pixels.

    Returns:
        Pictures, the first and the last state among them.

    Raises:
        ImportError: if Pillow or PyBullet is not installed; the extra is named.
        KeyError: if the episode holds no seed.
        ValueError: if it does not begin as an episode of this seed. If it takes another
            course later, as from another machine, a RuntimeWarning says so.
    """
    import_extra("PIL.Image", "recipes")
    require_keys(episode, [EPISODE_SEED, ACTION, OBSERVATION, next_key(REWARD)])
    episode = _grid.first_episode(episode)[0]
    env = PyBulletEnv(env_id)
    try:
        return _drawn(env, episode, (width, height))
    finally:
        env.close()


def _drawn(env: PyBulletEnv, episode: TensorDictBase, size: tuple[int, int]) -> list[Image]:
    seen, actions = episode[OBSERVATION][:, 0], episode[ACTION][:, 0]
    returns = [0.0, *episode[next_key(REWARD)][:, 0, 0].cumsum(0).tolist()]
    first = env._begin(int(episode[EPISODE_SEED][0]))["observation"]
    if first.shape != seen[0].shape or not torch.allclose(first, seen[0], atol=1e-3):
        raise ValueError(f"The episode does not begin as {env.env_id} does with its seed.")
    every = max(1, round(1 / (_PICTURES_PER_SECOND * env._env.unwrapped.scene.dt)))
    pictures = [_picture(env, size, f"step 0  return {returns[0]:.1f}")]
    last = len(actions)
    for step, action in enumerate(actions, 1):
        observation = env._step(TensorDict({"action": action}, []))["observation"]
        if step < last and not torch.allclose(observation, seen[step], atol=1e-3):
            warnings.warn(
                f"Played again, the episode of {env.env_id} takes another course at step {step}: "
                "the pictures show that one. It is from another machine or another version.",
                RuntimeWarning,
                stacklevel=4,
            )
            last = 0  # said once
        if step % every == 0 or step == len(actions):
            pictures.append(_picture(env, size, f"step {step}  return {returns[step]:.1f}"))
    return pictures


def _picture(env: PyBulletEnv, size: tuple[int, int], caption: str) -> Image:
    import numpy as np

    image_module = import_extra("PIL.Image", "recipes")
    draw_module = import_extra("PIL.ImageDraw", "recipes")
    (width, height), simulation = size, env._env.unwrapped
    client, camera = simulation._p, _CAMERAS.get(env.env_id, _Camera())
    target: tuple[float, ...] | None = camera.target
    if target is None:
        target = tuple(float(x) for x in getattr(simulation.robot, "body_real_xyz", (0, 0, 0)))
    view = client.computeViewMatrixFromYawPitchRoll(
        target, camera.distance, 0.0, camera.pitch, 0.0, 2
    )
    lens = client.computeProjectionMatrixFOV(60.0, width / height, 0.1, 100.0)
    pixels = client.getCameraImage(
        width,
        height,
        viewMatrix=view,
        projectionMatrix=lens,
        renderer=client.ER_TINY_RENDERER,
    )[2]
    rows = np.asarray(pixels, dtype=np.uint8).reshape(height, width, 4)[..., :3]
    image = image_module.new("RGB", (width, height + 16), "white")
    image.paste(image_module.fromarray(rows), (0, 0))
    draw_module.Draw(image).text((4, height + 2), caption, fill="black")
    return image


@dataclass(frozen=True, kw_only=True)
class PyBulletSettings:
    """What a task of PyBullet can set."""

    parallel: bool = False
    """Simulate the robots at the same time, each in a process of its own, and not one after the
    other in this one. TorchRL waits for its processes with all of a core, and starting one takes
    seconds."""


def pybullet_task(env_id: str, settings: PyBulletSettings | None = None) -> Task:
    """A robot as a task of the training loop, with N = 1 agent.

    The thirteen of :data:`ENVIRONMENTS` are registered, as ``"pybullet/HopperBulletEnv-v0"``.

    Args:
        env_id: as in :class:`PyBulletEnv`.
        settings: Default: those of :class:`PyBulletSettings`.

    Returns:
        A :class:`torchrl_alita.envs.Task`, with :func:`pybullet_metrics` and
        :func:`draw_pybullet`; its environments are ``[B]``, in the layout of this package
        beside what :class:`PyBulletEnv` adds, and raise a ValueError if another number of
        agents than 1 is asked for. A process that dies is a RuntimeError with the
        environment's id and its seed.

    Raises:
        ValueError: for an unknown id; the known ones are listed.
        ImportError: for an id that is not among the thirteen, without the extra.

    Examples:
        >>> task = pybullet_task("HopperBulletEnv-v0")
        >>> task.n_agents, task.settings.parallel
        (1, False)
    """
    if env_id not in ENVIRONMENTS:
        _check_known(env_id, _import_environments())

    def make(
        *,
        num_envs: int,
        n_agents: int | None,
        device: torch.device | str,
        seed: int | None,
        horizon: int,
        settings: PyBulletSettings,
    ) -> EnvBase:
        if n_agents not in (None, 1):
            raise ValueError(f"{env_id} is of 1 agent, got n_agents={n_agents}.")
        robot = partial(PyBulletEnv, env_id, horizon=horizon, device=device, seed=0)
        # A wrong id or a missing extra shows here, not in a process.
        robot().close()
        if settings.parallel and num_envs > 1:
            kind = _ExactRobotProcesses if env_id in _EXACT else _RobotProcesses
            env = kind(num_envs, robot, env_id=env_id, device=device)
        else:
            kind = _ExactRobots if env_id in _EXACT else _Robots
            env = kind(num_envs, robot, device=device)
        env = TransformedEnv(env, _layout())
        env.set_seed(_grid.seed_of_task(seed))
        return env

    return Task(
        make=make,
        metrics=pybullet_metrics,
        draw=partial(draw_pybullet, env_id=env_id),
        settings=settings or PyBulletSettings(),
        n_agents=1,
    )


class _AgentNames(RenameTransform):
    """TorchRL's, which leaves the action where transforms around it look for it."""

    def _inv_call(self, tensordict: TensorDictBase) -> TensorDictBase:
        action = tensordict.get(ACTION, None)
        tensordict = super()._inv_call(tensordict)
        return tensordict if action is None else tensordict.set(ACTION, action)


def _layout() -> Compose:
    """Into the layout of this package: a dimension for the agent, then the names."""
    names = {"observation": OBSERVATION, "reward": REWARD}
    return Compose(
        UnsqueezeTransform(
            dim=-2,
            in_keys=list(names),
            out_keys=list(names),
            in_keys_inv=["action"],
            out_keys_inv=["action"],
        ),
        _AgentNames(
            in_keys=list(names),
            out_keys=list(names.values()),
            in_keys_inv=["action"],
            out_keys_inv=[ACTION],
        ),
    )


for _name in ENVIRONMENTS:
    register_task(f"pybullet/{_name}", pybullet_task(_name))
