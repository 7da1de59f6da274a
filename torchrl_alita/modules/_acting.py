"""Run a network without TorchRL's process-wide modes."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
from tensordict import TensorDictBase
from tensordict.nn import (
    InteractionType,
    ProbabilisticTensorDictModule,
    TensorDictModuleBase,
    TensorDictSequential,
)
from torch import nn
from torch.distributions import Distribution, constraints
from torchrl.modules import (
    AdditiveGaussianModule,
    EGreedyModule,
    GRUModule,
    LSTMModule,
    OrnsteinUhlenbeckProcessModule,
    TanhModule,
    set_recurrent_mode,
)

from torchrl_alita._borrow import borrow
from torchrl_alita.modules.sides import SidesPolicy
from torchrl_alita.modules.team_exploration import TeamExploration

# They add noise to actions unless a mode of the process says otherwise.
NOISE = (
    AdditiveGaussianModule,
    EGreedyModule,
    OrnsteinUhlenbeckProcessModule,
    TeamExploration,
)

_LOCKS: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()


def alone_with(network: nn.Module) -> AbstractContextManager:
    """A network that no other thread runs, and whose parameters none exchanges.

    A loss runs a network with other parameters than its own, those of a target for example; a
    buffer that prefetches would see them.
    """
    if torch.compiler.is_compiling():
        return nullcontext()
    return _LOCKS.setdefault(network, threading.RLock())


def run_network(
    network: TensorDictModuleBase,
    tensordict: TensorDictBase,
    *,
    exploration: InteractionType = InteractionType.DETERMINISTIC,
    recurrent: bool = True,
    draw: bool = True,
    **options: Any,
) -> TensorDictBase:
    """What a network writes, with the kind of its actions and of its steps said here.

    TorchRL's ``set_exploration_type`` and ``set_recurrent_mode`` hold for the whole process:
    a buffer that prefetches in a thread of its own would change how the policy acts in
    another one. Log-probabilities of the actions are not written.

    Args:
        network: a policy or any other network, also a sequence of networks.
        tensordict: written to.
        exploration: how actions are taken from distributions. Noise that follows a policy is
            left out unless it is RANDOM.
        recurrent: whether a network with a memory unrolls over the last dimension, or makes
            one step of each row. TorchRL's own GRUModule and LSTMModule can be told by the
            process alone, and are.
        draw: whether the last distribution's action is taken; otherwise its parameters alone
            are written.
        **options: given to the network, if it is no sequence.
    """
    if isinstance(network, SidesPolicy):
        how = {"exploration": exploration, "recurrent": recurrent}
        return network.run(tensordict, lambda part, batch: run_network(part, batch, **how))
    if isinstance(network, TensorDictSequential):
        modules = list(network.module)
        if not draw and isinstance(modules[-1], ProbabilisticTensorDictModule):
            modules = modules[:-1]
        for module in modules:
            tensordict = run_network(
                module, tensordict, exploration=exploration, recurrent=recurrent
            )
        return tensordict
    if isinstance(network, ProbabilisticTensorDictModule):
        action = take_action(network.get_dist(tensordict), exploration)
        return tensordict.set(network.out_keys[0], action)
    if isinstance(network, NOISE) and exploration is not InteractionType.RANDOM:
        return tensordict
    if getattr(network, "is_told_to_unroll", False):
        return network(tensordict, recurrent=recurrent)
    with _torchrls_memory(network, recurrent):
        return network(tensordict, **options)


class Acting(TensorDictModuleBase):
    """A policy whose kind of actions no mode of the process changes, for ``env.rollout``.

    Args:
        policy: it is borrowed.
        exploration: how actions are taken from its distributions.
    """

    def __init__(
        self,
        policy: TensorDictModuleBase,
        exploration: InteractionType = InteractionType.DETERMINISTIC,
    ):
        super().__init__()
        borrow(self, "policy", policy)
        self.exploration = exploration
        self.in_keys = policy.in_keys
        self.out_keys = policy.out_keys

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        return run_network(self.policy, tensordict, exploration=self.exploration, recurrent=False)


def distribution_of(
    network: TensorDictModuleBase, tensordict: TensorDictBase, *, recurrent: bool = True
) -> tuple[TensorDictBase, Distribution]:
    """The parameters that a policy writes, and the distribution that they make."""
    params = run_network(network, tensordict, recurrent=recurrent, draw=False)
    return params, network.build_dist_from_params(params)


def take_action(distribution: Distribution, exploration: InteractionType) -> torch.Tensor:
    """A draw, with its gradient where there is one, or the action without chance."""
    if exploration is InteractionType.RANDOM:
        return distribution.rsample() if distribution.has_rsample else distribution.sample()
    if exploration is not InteractionType.DETERMINISTIC:
        return getattr(distribution, exploration.value)
    if hasattr(distribution, "deterministic_sample"):
        return distribution.deterministic_sample
    real = isinstance(distribution.support, constraints._Real)
    return distribution.mean if real else distribution.mode


def action_range(
    actor: TensorDictModuleBase,
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Least and largest action of a policy's TanhModule, ``[]`` or ``[N, A]``; None without."""
    tanhs = [module for module in actor.modules() if isinstance(module, TanhModule)]
    if not tanhs:
        return None, None
    key = tanhs[-1].out_keys[-1]
    name = key if isinstance(key, str) else "_".join(key)
    return getattr(tanhs[-1], f"{name}_low"), getattr(tanhs[-1], f"{name}_high")


def is_continuous(actor: TensorDictModuleBase) -> bool:
    """Whether a policy's actions are continuous, as far as its modules tell."""
    drawn = [part for part in actor.modules() if isinstance(part, ProbabilisticTensorDictModule)]
    if not drawn:
        return action_range(actor)[0] is not None
    return not getattr(drawn[-1].distribution_class, "has_enumerate_support", True)


def _torchrls_memory(network: TensorDictModuleBase, recurrent: bool) -> AbstractContextManager:
    if isinstance(network, GRUModule | LSTMModule):
        return set_recurrent_mode(recurrent)
    return nullcontext()
