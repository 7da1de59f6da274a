"""Settings of algorithms whose targets may be of several steps."""

from __future__ import annotations

from dataclasses import dataclass

from tensordict import TensorDictBase

from torchrl_alita._checks import check_at_least_one, check_share
from torchrl_alita._settings import Settings

__all__ = ["LambdaSettings", "NStepSettings", "check_runs"]


@dataclass(frozen=True, kw_only=True)
class NStepSettings(Settings):
    """Steps of a target; for classes of settings that add a learner's, ``recurrent`` among them."""

    n_steps: int = 1
    """Steps whose rewards are in a critic's target before the target value; fewer where the
    episode ends. Each step has its own bonuses, computed at the update."""

    def __post_init__(self):
        super().__post_init__()
        check_at_least_one(n_steps=self.n_steps)
        if getattr(self, "recurrent", False) and self.n_steps > 1:
            raise ValueError(
                f"n_steps must be 1 for policies with a memory, whose batches are sequences of "
                f"single steps, got {self.n_steps}."
            )


@dataclass(frozen=True, kw_only=True)
class LambdaSettings(Settings):
    """Lambda returns along sequences; for classes of settings that add a learner's."""

    lmbda: float = 0.0
    """How far the values' targets look ahead along the sequences of networks with a memory, in
    [0, 1]; with 0 it is one step, as in the papers. ALITA's estimators of influenced values have
    one step."""

    def __post_init__(self):
        super().__post_init__()
        check_share(lmbda=self.lmbda)
        if self.lmbda and not getattr(self, "recurrent", False):
            raise ValueError(
                "lmbda is of networks with a memory, which learn from sequences: with "
                f"recurrent=False it must be 0, got {self.lmbda}."
            )


def check_runs(batch: TensorDictBase, n_steps: int) -> None:
    """Raise a ValueError unless a batch is of runs of so many steps, ``[*B, n_steps]``."""
    if batch.ndim < 2 or batch.shape[-1] != n_steps:
        raise ValueError(
            f"n_steps={n_steps} needs runs of {n_steps} steps, [B, {n_steps}], got a batch of "
            f"{tuple(batch.batch_size)}."
        )
