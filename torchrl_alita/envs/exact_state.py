"""The exact state of an environment in the middle of an episode, whatever its suite."""

from __future__ import annotations

from typing import Any

from torchrl.envs import EnvBase, Transform, TransformedEnv

from torchrl_alita.envs.vmas import StreamedVmasEnv
from torchrl_alita.envs.vmas_state import VmasState

__all__ = ["EnvironmentState", "environment_state"]

_KEYS = {"environment", "transforms", "base"}


class EnvironmentState:
    """State of an environment whose ``state_dict`` holds all that shapes its future.

    The environment says so by the class attribute ``exact_state = True``: arrays, step
    counters and random generators, as in :class:`torchrl_alita.envs.PushBox`. Transforms
    around it are saved by their own ``state_dict``; TorchRL's ``TransformedEnv`` saves
    theirs, but not the environment's.

    The tensordict of the last step is not in it and stays the caller's to keep: TorchRL's
    StepCounter, for one, counts in it.

    Args:
        env: such an environment, or transforms around one.

    Raises:
        TypeError: for another environment.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("push_box", num_envs=3, n_agents=2, seed=0)
        >>> first, state = env.reset(), EnvironmentState(env)
        >>> saved = state.state_dict()
        >>> moved = env.rollout(5, auto_reset=False, tensordict=first.clone())
        >>> state.load_state_dict(saved)
        >>> bool((env.agent_cells == saved["base"]["agent_cells"]).all())
        True
    """

    def __init__(self, env: EnvBase):
        self._base, self._transforms = _layers(env)
        if not _says_exact(self._base):
            raise TypeError(
                f"{type(self._base).__name__} does not say that its state_dict is exact "
                "(exact_state = True)."
            )

    def state_dict(self) -> dict[str, Any]:
        """The state, plain data.

        Returns:
            ``environment``, the names of the classes; ``transforms``, outermost first;
            ``base``, of the environment itself.
        """
        return {
            "environment": self._belongs_to(),
            "transforms": [dict(transform.state_dict()) for transform in self._transforms],
            "base": dict(self._base.state_dict()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state.

        Args:
            state: of :meth:`state_dict`.

        Raises:
            ValueError: if the state is of another kind of environment or transforms, or
                if it is no such state.
            RuntimeError: if the environment refuses it.
        """
        if not isinstance(state, dict) or set(state) != _KEYS:
            found = sorted(map(str, state)) if isinstance(state, dict) else type(state).__name__
            raise ValueError(f"The state must hold {sorted(_KEYS)}, got {found}.")
        if state["environment"] != self._belongs_to():
            raise ValueError(
                f"The state is of {state['environment']}, the environment {self._belongs_to()}."
            )
        self._base.load_state_dict(state["base"])
        for transform, saved in zip(self._transforms, state["transforms"], strict=True):
            transform.load_state_dict(saved)

    def _belongs_to(self) -> list[str]:
        return [type(layer).__name__ for layer in (*self._transforms, self._base)]


def environment_state(env: EnvBase) -> VmasState | EnvironmentState | None:
    """What saves an environment in the middle of an episode and restores it bit for bit.

    Args:
        env: any environment.

    Returns:
        An object with ``state_dict`` and ``load_state_dict``: a
        :class:`torchrl_alita.envs.VmasState` for VMAS, an :class:`EnvironmentState` for an
        environment that declares ``exact_state = True``. None for every other one: a
        simulator that keeps its state to itself, as SMAC's, or a VMAS scenario that holds
        what cannot be saved.

    Examples:
        >>> from torchrl.envs import StepCounter, TransformedEnv
        >>> from torchrl_alita.envs import MatrixGame
        >>> game = TransformedEnv(MatrixGame([[0.0, 1.0, 2.0, 3.0]] * 2), StepCounter())
        >>> type(environment_state(game)).__name__
        'EnvironmentState'
    """
    base, _ = _layers(env)
    if _says_exact(base):
        return EnvironmentState(env)
    if not isinstance(base, StreamedVmasEnv):
        return None
    state = VmasState(env)
    try:
        # Better known now than at the first checkpoint.
        state.state_dict()
    except TypeError:
        return None
    return state


def _layers(env: EnvBase) -> tuple[EnvBase, list[Transform]]:
    """The environment itself, and the transforms around it, outermost first."""
    transforms = []
    while isinstance(env, TransformedEnv):
        transforms.append(env.transform)
        env = env.base_env
    return env, transforms


def _says_exact(env: EnvBase) -> bool:
    # Of the class: a batched environment answers for its first member.
    return getattr(type(env), "exact_state", False)
