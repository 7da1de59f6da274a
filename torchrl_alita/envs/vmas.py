"""VMAS, the vectorized multi-agent simulator (extra ``vmas``; GPL-3.0).

Source: https://arxiv.org/abs/2207.03530.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from tensordict import TensorDictBase
from torchrl.envs import EnvBase, StepCounter, TransformedEnv, VmasEnv

from torchrl_alita._checks import checked_seed
from torchrl_alita._extras import import_extra
from torchrl_alita.envs.registry import Task, register_task
from torchrl_alita.layout import OBSERVATION, next_key

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["StreamedVmasEnv", "spread_metrics"]

# Of the scenario simple_spread.
_AGENT_RADIUS = 0.15
_LANDMARK_RADIUS = 0.05
_OCCUPIED_WITHIN = 0.1
# VMAS seeds NumPy too.
_LARGEST_SEED = 2**32 - 1


class StreamedVmasEnv(VmasEnv):
    """TorchRL's VmasEnv with a random stream of its own.

    VMAS keeps its random state in one list, shared by all environments of the
    process: there, an evaluation moves the stream of the training environment.
    Here each environment puts its own stream into that list while it works, and
    leaves the list as it was.

    Args:
        scenario: of VMAS.
        seed: of the stream. Default: drawn from torch's global generator.
        **kwargs: of :class:`torchrl.envs.VmasEnv` and of the scenario.

    Raises:
        ImportError: if VMAS is not installed.
        ValueError: if the seed is no whole number from 0 to 2**32 - 1.

    Examples:
        >>> first = StreamedVmasEnv("simple_spread", seed=0, num_envs=2, device="cpu")
        >>> other = StreamedVmasEnv("simple_spread", seed=1, num_envs=2, device="cpu")
        >>> before = first.random_stream()
        >>> _ = other.reset()
        >>> bool((first.random_stream()[0] == before[0]).all())
        True
    """

    def __init__(self, scenario: str, *, seed: int | None = None, **kwargs):
        import_extra("vmas", "vmas")
        seed = checked_seed(seed, most=_LARGEST_SEED)
        if seed is None:
            seed = int(torch.randint(2**31, ()))
        with _vmas_random_state(kwargs.get("device")) as shared:
            super().__init__(scenario, seed=seed, **kwargs)
            self._keep_stream(shared)

    def random_stream(self) -> tuple:
        """State of the stream: torch's, NumPy's and Python's generator, and the GPU's."""
        return (*self._stream, self._gpu_stream)

    def _keep_stream(self, shared: list) -> None:
        self.__dict__["_stream"] = list(shared)
        self.__dict__["_gpu_stream"] = _gpu_state(self.device)

    @contextmanager
    def _own_stream(self) -> Iterator[None]:
        with _vmas_random_state(self.device) as shared:
            shared[:] = self._stream
            if self._gpu_stream is not None:
                torch.cuda.set_rng_state(self._gpu_stream, self.device)
            try:
                yield
            finally:
                self._keep_stream(shared)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs) -> TensorDictBase:
        with self._own_stream():
            return super()._reset(tensordict, **kwargs)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        with self._own_stream():
            return super()._step(tensordict)

    def _set_seed(self, seed: int | None) -> None:
        with self._own_stream():
            super()._set_seed(seed)


def _gpu_state(device: torch.device | str | None) -> torch.Tensor | None:
    """State of the GPU's generator, from which VMAS draws there; None on the CPU."""
    on_gpu = device is not None and torch.device(device).type == "cuda"
    return torch.cuda.get_rng_state(device) if on_gpu else None


@contextmanager
def _vmas_random_state(device: torch.device | str | None) -> Iterator[list]:
    """The list in which VMAS keeps its random state; it and the GPU's are restored."""
    from vmas.simulator.environment import Environment

    shared = Environment.vmas_random_state
    outside = list(shared)
    generators = (
        torch.random.get_rng_state(),
        np.random.get_state(),  # noqa: NPY002
        random.getstate(),
    )
    on_gpu = _gpu_state(device)
    try:
        yield shared
    except BaseException:
        # VMAS puts these back at the end of its own methods, but not after an error.
        torch.random.set_rng_state(generators[0])
        np.random.set_state(generators[1])  # noqa: NPY002
        random.setstate(generators[2])
        raise
    finally:
        shared[:] = outside
        if on_gpu is not None:
            torch.cuda.set_rng_state(on_gpu, device)


def _make_spread(
    *, num_envs: int, n_agents: int, device: torch.device | str, seed: int | None, horizon: int
) -> EnvBase:
    env = StreamedVmasEnv(
        "simple_spread", seed=seed, num_envs=num_envs, n_agents=n_agents, device=device
    )
    return TransformedEnv(env, StepCounter(max_steps=horizon))


def _spread_geometry(observation: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Agents' positions and offsets to landmarks and teammates, ``[*B, N, 4N + 2]``.

    Returns ``[*B, N, 2]``, ``[*B, N, N, 2]`` and ``[*B, N, N - 1, 2]``.
    """
    num_agents = observation.shape[-2]
    position, _, landmarks, others = observation.split(
        [2, 2, 2 * num_agents, 2 * (num_agents - 1)], dim=-1
    )
    return position, landmarks.unflatten(-1, (-1, 2)), others.unflatten(-1, (num_agents - 1, 2))


def spread_metrics(episodes: TensorDictBase) -> dict[str, torch.Tensor]:
    """Figures of merit of cooperative navigation, episodes ``[B, T]`` -> scalars.

    Args:
        episodes: complete episodes of ``"vmas/spread"``.

    Returns:
        ``landmark_distance``: distance of a landmark to its nearest agent, summed
        over the landmarks, mean over the episode, in units of the arena's half
        width. ``contacts_per_episode``: pairs of agents that overlap, summed over
        the steps. ``occupied_share``: share of the landmarks with an agent's
        center within 0.1 at the end.

    Raises:
        KeyError: if the episodes hold no next observation.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("vmas/spread", num_envs=2, n_agents=3, seed=0)
        >>> sorted(spread_metrics(env.rollout(5)))
        ['contacts_per_episode', 'landmark_distance', 'occupied_share']
    """
    _, landmarks, others = _spread_geometry(episodes[next_key(OBSERVATION)])
    nearest = landmarks.norm(dim=-1).amin(-2)
    # Each pair is seen from both sides.
    contacts = (others.norm(dim=-1) < 2 * _AGENT_RADIUS).sum((-1, -2)) / 2
    return {
        "landmark_distance": nearest.sum(-1).mean(),
        "contacts_per_episode": contacts.sum(-1).mean(),
        "occupied_share": (nearest[:, -1] < _OCCUPIED_WITHIN).float().mean(),
    }


def _draw_spread(episode: TensorDictBase, *, size: int = 320, half_width: float = 1.6):
    """Frames of one episode ``[T]``: landmarks dark, agents in color with a trail."""
    image_module = import_extra("PIL.Image", "recipes")
    draw_module = import_extra("PIL.ImageDraw", "recipes")
    position, landmarks, _ = _spread_geometry(episode[next_key(OBSERVATION)].cpu())
    landmarks = position[0, 0] + landmarks[0, 0]
    colors = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")

    def to_pixels(points: torch.Tensor) -> list[tuple[float, float]]:
        pixels = (points * torch.tensor([1.0, -1.0]) / half_width + 1) * size / 2
        return [tuple(point) for point in pixels.tolist()]

    def frame(step: int) -> Image:
        image = image_module.new("RGB", (size, size), "white")
        canvas = draw_module.Draw(image)
        for i, agent in enumerate(to_pixels(position[step])):
            color = colors[i % len(colors)]
            trail = to_pixels(position[max(0, step - 15) : step + 1, i])
            canvas.line(trail, fill=color, width=2)
            canvas.circle(agent, _AGENT_RADIUS / half_width * size / 2, fill=color)
        for landmark in to_pixels(landmarks):
            canvas.circle(landmark, _LANDMARK_RADIUS / half_width * size / 2, fill="black")
        return image

    return [frame(step) for step in range(position.shape[0])]


register_task(
    "vmas/spread",
    Task(make=_make_spread, metrics=spread_metrics, draw=_draw_spread, n_agents=3),
)
