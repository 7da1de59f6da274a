"""Where a collector is, between two of its batches."""

from __future__ import annotations

from typing import Any

from tensordict import TensorDict
from torchrl.collectors import Collector

__all__ = ["CollectorState"]

_COUNTERS = ("frames", "iter")


class CollectorState:
    """Counters of a collector, and the tensordict from which it takes its next step.

    That tensordict holds the last observations, what transforms count in it and what an
    exploration module keeps from step to step. TorchRL's ``Collector.state_dict`` leaves it
    out, so that a restored collector begins new episodes.

    Args:
        collector: of one process, with ``track_traj_ids=False``.
        mid_episode: save and restore that tensordict too. Only with the state of the
            environment does it make sense.

    Raises:
        ValueError: for a collector that numbers its trajectories: it would draw new numbers.
        RuntimeError: if this version of TorchRL keeps the tensordict elsewhere.
    """

    def __init__(self, collector: Collector, *, mid_episode: bool):
        if collector.track_traj_ids:
            raise ValueError("The collector must be made with track_traj_ids=False, got True.")
        # TorchRL has no public name for it: a test drives a collector through this class.
        if mid_episode and not isinstance(getattr(collector, "_carrier", None), TensorDict):
            raise RuntimeError(
                "torchrl's Collector has no tensordict _carrier, in which the versions known "
                "here (0.14) keep the last step: mid-episode checkpoints cannot be made."
            )
        self._collector = collector
        self._mid_episode = mid_episode

    def state_dict(self) -> dict[str, Any]:
        """Plain data; ``last_step`` is None if the state is not of the middle of episodes."""
        saved = self._collector.state_dict()
        last_step = self._collector._carrier.state_dict() if self._mid_episode else None
        return {
            "counters": {name: saved[name] for name in _COUNTERS},
            "last_step": last_step,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state.

        Raises:
            ValueError: if it holds the middle of episodes and this collector does not
                take it over, or the other way around.
        """
        last_step = state_dict["last_step"]
        if (last_step is not None) != self._mid_episode:
            here, there = ("a last step", "none") if self._mid_episode else ("none", "one")
            raise ValueError(f"The collector needs {here}, the state has {there}.")
        # Without "strict" the collector takes what is there, and draws nothing.
        self._collector.load_state_dict(state_dict["counters"], strict=False)
        if self._mid_episode:
            self._collector._carrier = TensorDict().load_state_dict(last_step, strict=False)
