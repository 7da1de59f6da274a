"""Settings of policies that share out goals."""

from __future__ import annotations

from dataclasses import dataclass

from torchrl_alita._checks import check_whole
from torchrl_alita._settings import Settings

__all__ = ["GoalSettings"]


@dataclass(frozen=True, kw_only=True)
class GoalSettings(Settings):
    """Goal attention; for classes of settings that add a learner's, ``recurrent`` among them."""

    goal_attention: bool = False
    """Policies with :class:`torchrl_alita.modules.GoalAttention`, which assign goals by all
    positions; their width is the first of ``num_cells``."""
    own_features: int = 4
    """For ``goal_attention``: the first so many features of an observation are not offsets."""

    def __post_init__(self):
        super().__post_init__()
        check_whole(0, own_features=self.own_features)
        if self.goal_attention and not getattr(self, "num_cells", ()):
            raise ValueError("goal_attention is as wide as the first of num_cells, got ().")
        if getattr(self, "recurrent", False) and self.goal_attention:
            raise ValueError("goal_attention has no memory: recurrent must be False.")
