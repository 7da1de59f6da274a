"""What the algorithms for a single agent have in common."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torchrl.envs import EnvBase
from torchrl.objectives import LossModule

from torchrl_alita._checks import require_keys
from torchrl_alita.algorithms._learner import Learner
from torchrl_alita.layout import ACTION, DONE, OBSERVATION, REWARD, TERMINATED, next_key

__all__ = ["SingleAgent", "read_agents_layout", "scalars"]

# TorchRL's losses want a flag for each reward.
AGENT_DONE = ("agents", "done")
AGENT_TERMINATED = ("agents", "terminated")


class SingleAgent(Learner):
    """Sizes, device and settings of an algorithm for one agent with continuous actions.

    Args:
        env: an environment in the layout of this package, with one agent.
        max_grad_norm: gradients of a network are scaled down to this norm.
        compile: compile the losses and their gradient.
        compile_mode: of ``torch.compile``.
        device: of the networks. Default: the environment's.

    Raises:
        ValueError: if the environment has several agents or discrete actions, or an
            argument is out of range.
        KeyError: if the environment has another layout.
    """

    reads_recent = False

    def __init__(
        self,
        env: EnvBase,
        *,
        max_grad_norm: float,
        compile: bool,
        compile_mode: str,
        device: torch.device | str | None,
    ):
        super().__init__(
            env,
            max_grad_norm=max_grad_norm,
            compile=compile,
            compile_mode=compile_mode,
            mixed_precision=False,
            device=device,
        )
        name = type(self).__name__
        if self.layout.num_agents != 1:
            raise ValueError(f"{name} is for one agent, got {self.layout.num_agents}.")
        if self.layout.discrete:
            raise ValueError(f"{name} is for continuous actions, got one-hot ones.")

    def _transitions(self, batch: TensorDictBase) -> TensorDictBase:
        """A shallow copy with ``done`` and ``terminated`` for the agent, ``[*B, 1, 1]``.

        Raises:
            KeyError: if the batch lacks a key of the layout.
            ValueError: if an entry has another width.
        """
        widths = {OBSERVATION: self.layout.observation_size, ACTION: self.layout.action_size}
        following = (next_key(OBSERVATION), next_key(REWARD), next_key(DONE), next_key(TERMINATED))
        require_keys(batch, (*widths, *following))
        for key, width in widths.items():
            if batch.get(key).shape[-2:] != (1, width):
                raise ValueError(
                    f"{key} must be of 1 agent with {width} features, got "
                    f"{tuple(batch.get(key).shape[-2:])}."
                )
        batch = batch.detach()
        for flag, of_agent in ((DONE, AGENT_DONE), (TERMINATED, AGENT_TERMINATED)):
            batch.set(next_key(of_agent), batch.get(next_key(flag)).unsqueeze(-2))
        return batch

    def _followed(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """A step of the optimizers of these names; the norms of the gradients."""
        return {f"grad_norm_{name}": self._follow(self.optimizers[name]) for name in names}


def read_agents_layout(loss: LossModule, **keys: NestedKey) -> None:
    """Let a loss of TorchRL read the layout of this package."""
    loss.set_keys(reward=REWARD, done=AGENT_DONE, terminated=AGENT_TERMINATED, **keys)


def scalars(losses: TensorDictBase) -> TensorDict:
    """The mean of every entry."""
    return TensorDict({key: value.mean() for key, value in losses.items()})
