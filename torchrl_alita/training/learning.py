"""What a run learns: an algorithm, its replays, and how far both have come."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase

from torchrl_alita.algorithms import Learner
from torchrl_alita.layout import ACTION, ACTION_MASK, DONE, next_key
from torchrl_alita.saving import preserve_random_state
from torchrl_alita.training.buffers import Buffers
from torchrl_alita.training.config import Config

__all__ = ["Learning", "NotFinite", "check_allowed", "check_finite"]


class Learning:
    """Updates of an algorithm, from what is collected.

    Args:
        config: of the run.
        algorithm: that learns.

    Raises:
        ValueError: if a sequence, or what is collected between two updates, does not fit into
            the buffer.
    """

    def __init__(self, config: Config, algorithm: Learner):
        size = getattr(config.algorithm, "buffer_size", None)
        collected = config.training.frames_per_batch
        if size is not None and size < collected:
            raise ValueError(
                f"buffer_size must be at least frames_per_batch, {collected}, or what nobody has "
                f"seen is overwritten; got {size}."
            )
        self.algorithm = algorithm
        self.buffers = Buffers(config, algorithm)
        self.progress: dict[str, Any] = {
            "frames": 0, "updates": 0, "episodes": 0, "wall_seconds": 0.0
        }  # fmt: skip
        self._num_envs = config.training.num_envs
        # A rollout is learned from once, and only if the policies have made it.
        self._fresh = False
        self._random_frames = config.random_frames
        settings: Any = config.algorithm
        self.updates_per_batch = (
            1
            if algorithm.on_policy
            else config.training.frames_per_batch // settings.frames_per_update
        )

    def learn(self, collected: TensorDictBase) -> dict[str, float]:
        """Store a batch and make the updates that it pays for.

        Args:
            collected: ``[B, T]``.

        Returns:
            The last update's logs of every kind, or nothing while actions are random.

        Raises:
            ValueError: at a NaN or infinity; the key and the frame are named.
        """
        self.store(collected)
        if not self.ready:
            return {}
        logs = TensorDict()
        for _ in range(self.updates_per_batch):
            logs.update(self.update(collected))
        check_finite(logs, self.progress["frames"])
        logs.update(self.algorithm.health(collected))
        return {name: float(value) for name, value in logs.items()}

    def store(self, collected: TensorDictBase) -> None:
        """Take over what was collected, ``[B, T]``.

        Args:
            collected: ``[B, T]``.

        Raises:
            ValueError: at a NaN or infinity, or an agent without any action that it may take;
                the key and the frame are named.
        """
        self._fresh = self.progress["frames"] >= self._random_frames
        self.progress["frames"] += collected.numel()
        check_finite(collected, self.progress["frames"])
        check_allowed(collected, self.progress["frames"])
        self.buffers.extend(collected)
        self._begin_episode(collected)
        self.algorithm.observe(collected)

    def distributions(self, collected: TensorDictBase) -> dict[str, torch.Tensor]:
        """What the algorithm says of the rows of a batch, without a trace in the run.

        Args:
            collected: ``[B, T]``.
        """
        batch = (
            collected
            if self.algorithm.on_policy or self.algorithm.recurrent
            else collected.reshape(-1)
        )
        with preserve_random_state():
            return self.algorithm.distributions(batch)

    @property
    def ready(self) -> bool:
        """Whether enough has been collected for an update."""
        enough = self.algorithm.on_policy or self.buffers.ready
        return enough and self.progress["frames"] > self._random_frames

    def update(self, collected: TensorDictBase) -> TensorDict:
        """One update.

        Args:
            collected: the newest batch ``[B, T]``, which on-policy algorithms read.

        Returns:
            Its logs.
        """
        on_policy = self.algorithm.on_policy
        batches = {} if on_policy else self.buffers.sample()
        if on_policy or (self._fresh and self.algorithm.reads_rollout):
            batches["rollout"] = collected
        self._fresh = False
        logs = self.algorithm.update(batches)
        self.progress["updates"] += 1
        return logs

    def _begin_episode(self, collected: TensorDictBase) -> None:
        """Tell the algorithm that an episode begins, once for as many as there are environments.

        Environments end their episodes at different steps: with each of them alone, what is
        set back at an episode's start would be set back at every batch.
        """
        ended = int(collected[next_key(DONE)].sum())
        before = self.progress["episodes"] // self._num_envs
        self.progress["episodes"] += ended
        if self.progress["episodes"] // self._num_envs > before:
            self.algorithm.start_episode()

    @property
    def components(self) -> dict[str, Any]:
        """What of it a checkpoint has."""
        return {
            "algorithm": self.algorithm,
            # Also in the algorithm: for those who want nothing else of it.
            "policy": self.algorithm.actor,
            "buffers": self.buffers,
            "progress": self.progress,
        }


def check_allowed(collected: TensorDictBase, frame: int) -> None:
    """Stop where a mask leaves an agent nothing: whatever it does is not allowed.

    Args:
        collected: a batch ``[*B]``.
        frame: environment steps made so far.

    Raises:
        ValueError: if there is such an agent; it and the frame are named.

    Examples:
        >>> from tensordict import TensorDict
        >>> mask = torch.tensor([[[True, False], [False, False]]])
        >>> check_allowed(TensorDict({"agents": {"action_mask": mask}}, [1]), 7)
        Traceback (most recent call last):
        ...
        ValueError: ('agents', 'action_mask') allows agent 1 no action, at frame 7: allow one that
        does nothing to agents that have ended.
    """
    mask = collected.get(ACTION_MASK, None)
    if mask is None or (some := mask.any(-1)).all():
        return
    agent = int((~some).nonzero()[0, -1])
    raise ValueError(
        f"{ACTION_MASK} allows agent {agent} no action, at frame {frame}: allow one that does "
        "nothing to agents that have ended."
    )


class NotFinite(ValueError):
    """What an environment or a loss gave cannot be learned from."""


def check_finite(values: TensorDictBase, frame: int | None) -> None:
    """Stop at the first NaN or infinity.

    Args:
        values: a batch or logs.
        frame: environment steps made so far; None in an evaluation.

    Raises:
        NotFinite: if an entry is not finite; its key, the frame and its agents are named.

    Examples:
        >>> from tensordict import TensorDict
        >>> check_finite(TensorDict({"reward": torch.tensor([1.0, torch.nan])}), 7)
        Traceback (most recent call last):
        ...
        torchrl_alita.training.learning.NotFinite: 1 of 2 values of reward are not finite, at frame 7.
    """
    for key, value in values.items(True, True):
        # A finite sum has finite terms, and takes a tenth of the time; one that overflows decides
        # nothing.
        if not value.is_floating_point() or bool(torch.isfinite(value.sum())):
            continue
        bad = ~torch.isfinite(value)
        if count := int(bad.sum()):
            raise NotFinite(
                f"{count} of {value.numel()} values of {key} are not finite, "
                f"{'in an evaluation' if frame is None else f'at frame {frame}'}"
                f"{_whose(key, bad)}."
            )


def _whose(key: NestedKey, bad: torch.Tensor) -> str:
    """Which agents' entries ``[*B, N, F]`` are bad, in words."""
    if isinstance(key, str) or key[-2] != ACTION[0] or bad.ndim < 2:
        return ""
    agents = bad.any(-1).flatten(0, -2).any(0).nonzero().flatten().tolist()
    return f", of agent {', '.join(map(str, agents))}"
