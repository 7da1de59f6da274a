"""What an algorithm reads at an update, declared by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tensordict import NestedKey, TensorDictBase
from torchrl.data.replay_buffers import Sampler

from torchrl_alita._checks import check_at_least_one, check_share

__all__ = ["Replay"]


@dataclass(frozen=True, kw_only=True)
class Replay:
    """A stream of batches that an algorithm wants at each update.

    ``Replay()`` is of uniform draws from everything that is stored. With a sampler of its own
    it draws from the same storage; with a window it has a storage of its own; with steps its
    batches are runs of so many consecutive steps, ``[B, steps]``.

    Args:
        sampler: of its batches. Default: uniform.
        batch_size: transitions of a batch. Default: the algorithm's ``batch_size``.
        window: newest transitions, of which a batch is drawn. Default: all that are stored.
        rows: which of the newest transitions ``[B]`` go into the window. Default: all.
        keys: what a window keeps of them. Default: everything that is stored.
        steps: of each run; a run goes on where an episode ends and the next begins. Default: 1,
            single transitions ``[B]``.
        rewarded_share: share of a batch that has a reward, see
            :class:`torchrl_alita.data.SequenceSampler`. Default: 0, as it comes.

    Raises:
        ValueError: for rows or keys without a window, a sampler, steps or a share with one, or
            steps or a share out of range.

    Examples:
        >>> recent = Replay(window=10_000, keys=[("agents", "observation")])
        >>> recent.window
        10000
    """

    sampler: Sampler | None = None
    batch_size: int | None = None
    window: int | None = None
    rows: Callable[[TensorDictBase], TensorDictBase] | None = None
    keys: tuple[NestedKey, ...] | None = None
    steps: int = 1
    rewarded_share: float = 0.0

    def __post_init__(self):
        if self.window is None and (self.rows is not None or self.keys is not None):
            raise ValueError("rows and keys are of a window, and none is given.")
        if self.window is not None and self.sampler is not None:
            raise ValueError(f"A window, {self.window}, is drawn from uniformly: no sampler.")
        check_at_least_one(steps=self.steps)
        check_share(rewarded_share=self.rewarded_share)
        if self.in_order and (self.window is not None or self.sampler is not None):
            raise ValueError(
                f"Runs of {self.steps} steps, {self.rewarded_share} of them rewarded, are drawn "
                f"from all that is stored: no window and no sampler."
            )

    @property
    def in_order(self) -> bool:
        """Whether a SequenceSampler draws it."""
        return self.steps > 1 or self.rewarded_share > 0
