"""What every algorithm gives to the training loop, but its update."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import nn
from torchrl.data import TensorSpec
from torchrl.envs import EnvBase, ExplorationType, set_exploration_type

from torchrl_alita.algorithms._compiled import Compiled
from torchrl_alita.data import ConditionalSampler
from torchrl_alita.envs.layout import ACTION, LOGITS, Layout

__all__ = ["Learner", "adam"]


def adam(module: nn.Module, *, lr: float) -> torch.optim.Adam:
    """Adam, in one kernel for all parameters of a module."""
    return torch.optim.Adam(module.parameters(), lr=lr, fused=True)


class Learner:
    """Networks, their optimizers, their state, and how the training loop treats them.

    An algorithm fills in what is annotated here in its ``__init__`` and adds ``update``.
    """

    stochastic = False
    """The policy explores by itself: the loop adds no noise to its actions."""
    on_policy = False
    """``update`` takes each batch ``[B, T]`` as it was collected; nothing is stored."""
    reads_recent = True
    """``update`` takes a batch of recent transitions too."""
    stored_keys: tuple[NestedKey, ...] = ()
    """Entries of a transition that are stored beside those of the layout."""

    actor: TensorDictModuleBase
    layout: Layout
    device: torch.device
    action_spec: TensorSpec
    # One for each conditional batch that update wants.
    conditional_samplers: list[ConditionalSampler]
    modules: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]
    max_grad_norm: float
    mixed_precision: bool
    compile_mode: str | None
    updates: int

    def prepare(self, env: EnvBase) -> EnvBase:
        """The environment as this algorithm acts in it while it is trained."""
        return env

    def candidates(self) -> list[TensorDictModuleBase]:
        """Policies of which the run's result is the best."""
        return [self.actor]

    def recent_rows(self, stored: TensorDictBase) -> TensorDictBase:
        """Those of the newest transitions ``[B]`` on which autoencoders are trained."""
        return stored

    def start_episode(self) -> None:
        """Called by the training loop when an episode starts."""

    def _compiled(self, function: Callable, **options: Any) -> Compiled:
        def in_precision(*batches: TensorDictBase) -> TensorDictBase:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed_precision):
                return function(*batches)

        return Compiled(in_precision, mode=self.compile_mode, **options)

    def _follow(self, optimizer: torch.optim.Optimizer, *, skip: bool = False) -> torch.Tensor:
        params = [param for group in optimizer.param_groups for param in group["params"]]
        norm = nn.utils.clip_grad_norm_(params, self.max_grad_norm)
        if not skip:
            optimizer.step()
        return norm

    @torch.no_grad()
    def health(self, batch: TensorDictBase) -> dict[str, torch.Tensor]:
        """Signs of trouble that no loss shows, as scalars.

        Args:
            batch: fresh transitions.

        Returns:
            ``saturated_share``: share of the greedy policies' action entries within
            1 % of the end of their range; for one-hot actions, share of the policies'
            probabilities above 0.99.

        Raises:
            KeyError: if the batch lacks what the actors read.
        """
        with set_exploration_type(ExplorationType.DETERMINISTIC):
            policy = self.actor(batch.select(*self.actor.in_keys))
        if self.layout.discrete:
            certain = policy.get(LOGITS).softmax(-1).amax(-1) > 0.99
            return {"saturated_share": certain.float().mean()}
        action = policy.get(ACTION)
        low, high = self.action_spec.space.low, self.action_spec.space.high
        margin = 0.01 * (high - low) / 2
        saturated = (action < low + margin) | (action > high - margin)
        return {"saturated_share": saturated.float().mean()}

    def state_dict(self) -> dict[str, Any]:
        """Everything that training has changed."""
        return {
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "optimizers": {name: opt.state_dict() for name, opt in self.optimizers.items()},
            "updates": self.updates,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state.

        Raises:
            KeyError: if the state is of another algorithm; the parts are named.
        """
        for part, own in (("modules", self.modules), ("optimizers", self.optimizers)):
            if set(own) != set(state_dict[part]):
                raise KeyError(
                    f"The state has the {part} {sorted(state_dict[part])}, not {sorted(own)}."
                )
            for name, member in own.items():
                # An optimizer keeps the tensors it is given: it must not share them.
                member.load_state_dict(deepcopy(state_dict[part][name]))
        self.updates = state_dict["updates"]
