"""Environments, batched, in one layout."""

from torchrl_alita.envs.games import MarkovGame, MatrixGame
from torchrl_alita.envs.layout import Layout, layout_of
from torchrl_alita.envs.registry import Task, get_task, make_env, register_task
from torchrl_alita.envs.vmas import StreamedVmasEnv, spread_metrics

__all__ = [
    "Layout",
    "MarkovGame",
    "MatrixGame",
    "StreamedVmasEnv",
    "Task",
    "get_task",
    "layout_of",
    "make_env",
    "register_task",
    "spread_metrics",
]
