"""The end of an environment."""

from __future__ import annotations

import inspect

from torchrl.envs import EnvBase, TransformedEnv

__all__ = ["close_env"]


def close_env(env: EnvBase) -> None:
    """Close an environment and the transforms around it, whatever TorchRL says of it.

    An environment that does not set ``is_closed`` counts as closed there, so that a collector
    leaves it open; and one of the user's own may have a ``close`` without arguments.

    Args:
        env: that nobody uses afterwards.
    """
    transforms = []
    while isinstance(env, TransformedEnv):
        transforms.append(env.transform)
        env = env.base_env
    known = inspect.signature(env.close).parameters.values()
    takes = any(p.name == "raise_if_closed" or p.kind is p.VAR_KEYWORD for p in known)
    # One that has not begun may count as closed, and has nothing to complain about.
    env.close(**({"raise_if_closed": False} if takes else {}))
    for transform in transforms:
        transform.close()
