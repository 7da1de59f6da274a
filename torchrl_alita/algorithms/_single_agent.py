"""What the algorithms for a single agent have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.envs import EnvBase
from torchrl.objectives import LossModule

from torchrl_alita._checks import check_tau, require_keys
from torchrl_alita.algorithms._learner import Learner, LearnerSettings, OffPolicySettings
from torchrl_alita.layout import (
    AGENT_DONE,
    AGENT_TERMINATED,
    DONE,
    OBSERVATION,
    REWARD,
    TERMINATED,
    next_key,
)
from torchrl_alita.modules import make_actor

__all__ = [
    "SingleAgent",
    "SingleAgentSettings",
    "SingleOffPolicySettings",
    "read_agents_layout",
    "scalars",
]


@dataclass(frozen=True, kw_only=True)
class SingleAgentSettings(LearnerSettings):
    """What the algorithms for one agent can set."""

    num_cells = (256, 256)
    layer_norm: bool = False
    """Normalize the pre-activations of the hidden layers."""


@dataclass(frozen=True, kw_only=True)
class SingleOffPolicySettings(SingleAgentSettings, OffPolicySettings):
    """What those can set that learn from stored transitions."""

    batch_size = 256
    frames_per_update = 1
    random_frames = 10_000
    noise_start = 0.1
    noise_end = 0.1
    eager_updates = 10_000
    tau: float = 0.005
    """Share by which the targets move at each of their updates, in (0, 1]."""

    def __post_init__(self):
        super().__post_init__()
        check_tau(self.tau)


class SingleAgent(Learner):
    """What the algorithms for one agent with continuous actions share.

    Args:
        env: an environment in the layout of this package, with one agent.
        settings: of the algorithm. Default: ``Settings()``.
        device: of the networks. Default: the environment's.

    Raises:
        TypeError: if the settings are of another algorithm.
        ValueError: if the environment has several agents or discrete actions.
        KeyError: if the environment has another layout.
    """

    Settings: ClassVar[type[SingleAgentSettings]] = SingleAgentSettings
    settings: SingleAgentSettings
    _make_actor: ClassVar[Callable[..., TensorDictModuleBase]] = staticmethod(make_actor)

    def __init__(
        self,
        env: EnvBase,
        settings: SingleAgentSettings | None = None,
        *,
        device: torch.device | str | None = None,
    ):
        super().__init__(env, settings, device=device)
        name = type(self).__name__
        if self.layout.num_agents != 1:
            raise ValueError(f"{name} is for one agent, got {self.layout.num_agents}.")
        if self.layout.discrete:
            raise ValueError(f"{name} is for continuous actions, got one-hot ones.")
        # Arguments of every network of this algorithm.
        self.networks = {
            "num_cells": self.settings.num_cells,
            "layer_norm": self.settings.layer_norm,
            "device": self.device,
        }

    @classmethod
    def make_policy(
        cls,
        env: EnvBase,
        settings: SingleAgentSettings,
        *,
        device: torch.device | str | None = None,
    ) -> TensorDictModuleBase:
        """The policy, not trained, see :meth:`Learner.make_policy`."""
        return cls._make_actor(
            env, num_cells=settings.num_cells, layer_norm=settings.layer_norm, device=device
        )

    def _transitions(self, batch: TensorDictBase) -> TensorDictBase:
        """A shallow copy with ``done`` and ``terminated`` for the agent, ``[*B, 1, 1]``.

        Raises:
            KeyError: if the batch lacks a key of the layout.
            ValueError: if it is empty, or an entry has another shape.
            TypeError: if a flag is not bool.
        """
        require_keys(batch, [next_key(OBSERVATION)])
        self._check_transitions(batch)
        batch = batch.detach()
        for flag, of_agent in ((DONE, AGENT_DONE), (TERMINATED, AGENT_TERMINATED)):
            batch.set(next_key(of_agent), batch.get(next_key(flag)).unsqueeze(-2))
        return batch


def read_agents_layout(loss: LossModule, **keys: NestedKey) -> None:
    """Let a loss of TorchRL read the layout of this package."""
    loss.set_keys(reward=REWARD, done=AGENT_DONE, terminated=AGENT_TERMINATED, **keys)


def scalars(losses: TensorDictBase) -> TensorDict:
    """The mean of every entry."""
    return TensorDict({key: value.mean() for key, value in losses.items()})
