"""What the algorithms for a single agent have in common."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torchrl.envs import EnvBase
from torchrl.objectives import LossModule

from torchrl_alita._checks import check_choice, check_number, require_keys
from torchrl_alita.algorithms._learner import Learner
from torchrl_alita.algorithms.maddpg import COMPILE_MODES
from torchrl_alita.envs.layout import ACTION, DONE, REWARD, TERMINATED, layout_of, next_key

__all__ = ["SingleAgent", "read_agents_layout", "scalars", "with_agents_flags"]

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
    mixed_precision = False

    def __init__(
        self,
        env: EnvBase,
        *,
        max_grad_norm: float,
        compile: bool,
        compile_mode: str,
        device: torch.device | str | None,
    ):
        check_number(max_grad_norm=max_grad_norm)
        if not max_grad_norm > 0:
            raise ValueError(f"max_grad_norm must be positive, got {max_grad_norm}.")
        check_choice("compile_mode", compile_mode, COMPILE_MODES)
        self.layout = layout_of(env)
        name = type(self).__name__
        if self.layout.num_agents != 1:
            raise ValueError(f"{name} is for one agent, got {self.layout.num_agents}.")
        if self.layout.discrete:
            raise ValueError(f"{name} is for continuous actions, got one-hot ones.")
        self.device = torch.device(device or env.device or "cpu")
        self.action_spec = env.full_action_spec_unbatched[ACTION].to(self.device)
        self.max_grad_norm = max_grad_norm
        self.compile_mode = compile_mode if compile else None
        self.conditional_samplers = []
        self.updates = 0

    def _zero_grad(self) -> None:
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)

    def _followed(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """A step of the optimizers of these names; the norms of the gradients."""
        return {f"grad_norm_{name}": self._follow(self.optimizers[name]) for name in names}


def with_agents_flags(batch: TensorDictBase, num_agents: int = 1) -> TensorDictBase:
    """A shallow copy with ``done`` and ``terminated`` for each agent, ``[*B, N, 1]``.

    Raises:
        KeyError: if the batch lacks one.
    """
    require_keys(batch, (next_key(DONE), next_key(TERMINATED)))
    batch = batch.copy()
    for flag, of_agents in ((DONE, AGENT_DONE), (TERMINATED, AGENT_TERMINATED)):
        value = batch.get(next_key(flag)).unsqueeze(-2)
        batch.set(next_key(of_agents), value.expand(*value.shape[:-2], num_agents, 1))
    return batch


def read_agents_layout(loss: LossModule, **keys: NestedKey) -> None:
    """Let a loss of TorchRL read what :func:`with_agents_flags` gives."""
    loss.set_keys(reward=REWARD, done=AGENT_DONE, terminated=AGENT_TERMINATED, **keys)


def scalars(losses: TensorDictBase) -> TensorDict:
    """The mean of every entry."""
    return TensorDict({key: value.mean() for key, value in losses.items()})
