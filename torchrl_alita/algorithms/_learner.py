"""What every algorithm has: networks, optimizers, one update, a state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import nn
from torchrl.envs import EnvBase, Transform
from torchrl.objectives import SoftUpdate, TargetNetUpdater

from torchrl_alita._checks import check_choice, check_number, check_positive
from torchrl_alita.algorithms._compiled import Compiled
from torchrl_alita.data import ConditionalSampler
from torchrl_alita.layout import ACTION, LOGITS, layout_of
from torchrl_alita.modules._acting import run_network
from torchrl_alita.transforms import recurrent_transforms

COMPILE_MODES = ("default", "reduce-overhead", "max-autotune")
OPTIMIZERS = ("adam", "rmsprop")


def make_optimizer(module: nn.Module, *, kind: str = "adam", lr: float) -> torch.optim.Optimizer:
    """Adam in one kernel for all parameters of a module, or PyMARL's RMSprop."""
    if kind == "rmsprop":
        return torch.optim.RMSprop(module.parameters(), lr=lr, alpha=0.99, eps=1e-5, foreach=True)
    return torch.optim.Adam(module.parameters(), lr=lr, fused=True)


def soft_update(loss: torch.nn.Module, *, tau: float) -> SoftUpdate:
    """TorchRL's SoftUpdate, with the argument checked."""
    check_positive(tau=tau)
    if tau > 1:
        raise ValueError(f"tau must be in (0, 1], got {tau}.")
    return SoftUpdate(loss, tau=float(tau))


class Learner:
    """Networks, their optimizers, their state, and how the training loop treats them.

    Algorithms below this class make the networks, and fill ``modules`` and ``optimizers``.
    Those whose networks all follow the gradient of one sum of losses set ``_gradient``, and
    ``update`` is :meth:`_step`.

    Args:
        env: an environment in the layout of this package.
        max_grad_norm: gradients of a network are scaled down to this norm.
        compile: see :class:`torchrl_alita.MADDPG`.
        compile_mode: see :class:`torchrl_alita.MADDPG`.
        mixed_precision: see :class:`torchrl_alita.MADDPG`.
        device: of the networks. Default: the environment's.

    Raises:
        ValueError: if an argument is out of range.
        KeyError: if the environment has another layout.
    """

    stochastic = False
    """The policy explores by itself: the loop adds no noise to its actions."""
    on_policy = False
    """``update`` takes each batch ``[B, T]`` as it was collected; nothing is stored."""
    reads_recent = True
    """``update`` takes a batch of recent transitions too."""
    stored_keys: tuple[NestedKey, ...] = ()
    """Entries of a transition that are stored beside those that the losses read."""

    actor: TensorDictModuleBase
    target_updater: TargetNetUpdater

    def __init__(
        self,
        env: EnvBase,
        *,
        max_grad_norm: float,
        compile: bool,
        compile_mode: str,
        mixed_precision: bool,
        device: torch.device | str | None,
    ):
        check_number(max_grad_norm=max_grad_norm)
        check_choice("compile_mode", compile_mode, COMPILE_MODES)
        if not max_grad_norm > 0:
            raise ValueError(f"max_grad_norm must be positive, got {max_grad_norm}.")
        self.layout = layout_of(env)
        self.device = torch.device(device or env.device or "cpu")
        self.action_spec = env.full_action_spec_unbatched[ACTION].to(self.device)
        self.max_grad_norm = max_grad_norm
        self.updates = 0
        self.modules: dict[str, nn.Module] = {}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        # One for each conditional batch that update wants.
        self.conditional_samplers: list[ConditionalSampler] = []
        self.mixed_precision = mixed_precision
        self.compile_mode = compile_mode if compile else None

    def __deepcopy__(self, memo: dict[int, Any]) -> Learner:
        """Refused: optimizers and targets of a copy would hold tensors that nothing trains."""
        raise TypeError(
            f"A copy of {type(self).__name__} would not learn: make another one in the same way "
            f"and give it this one's state, load_state_dict(state_dict())."
        )

    @property
    def recurrent(self) -> bool:
        """Whether the policies have a memory, so that an update takes sequences ``[B, T]``."""
        return any(key[0] == "next" for key in self.actor.out_keys if isinstance(key, tuple))

    @property
    def in_keys(self) -> list[NestedKey]:
        """What the losses read, rewards of their own making included."""
        read = (module.in_keys for module in self.modules.values())
        return list(dict.fromkeys(key for keys in read for key in keys))

    def policy_params(self) -> list[tuple[TensorDictBase, TensorDictBase]]:
        """Parameters of the policies that have targets, each with them."""
        return []

    def prepare(self, env: EnvBase) -> EnvBase:
        """The environment as this algorithm acts in it while it is trained."""
        return env

    def candidates(self) -> list[TensorDictModuleBase]:
        """Policies of which the run's result is the best."""
        return [self.actor]

    def recent_rows(self, stored: TensorDictBase) -> TensorDictBase:
        """Those of the newest transitions ``[B]`` on which autoencoders are trained."""
        return stored

    def env_transforms(self) -> list[Transform]:
        """What must be appended to an environment in which the policies act."""
        return [recurrent_transforms(self.actor)] if self.recurrent else []

    def start_episode(self) -> None:
        """Called by the training loop when an episode starts."""

    def update(
        self,
        batch: TensorDictBase,
        conditional_batches: Sequence[TensorDictBase] = (),
        recent_batch: TensorDictBase | None = None,
    ) -> TensorDict:
        """One step of every network.

        Args:
            batch: transitions ``[B]`` of the replay buffer; of a recurrent algorithm
                sequences ``[B, T]``.
            conditional_batches: not used.
            recent_batch: not used.

        Returns:
            Detached scalars to log.

        Raises:
            KeyError: if the batch lacks a key.
        """
        return self._step(batch)

    def _compiled(self, function: Callable, **options: Any) -> Compiled:
        if not self.mixed_precision:
            # Compiled as it is: the compiler counts versions of one function, and gives up.
            return Compiled(function, mode=self.compile_mode, **options)

        def in_precision(*batches: TensorDictBase) -> TensorDictBase:
            with torch.autocast(self.device.type, torch.bfloat16):
                return function(*batches)

        return Compiled(in_precision, mode=self.compile_mode, **options)

    def _skipped(self) -> set[str]:
        """Names of the networks whose turn the next update is not."""
        return set()

    def _step(self, *batches: TensorDictBase) -> TensorDict:
        """Follow the gradient of the sum of the losses; losses and gradients' norms."""
        skipped = self._skipped()
        self._zero_grad()
        logs = self._gradient(*batches)
        # A batch that is refused is no update.
        self.updates += 1
        norms = {
            f"grad_norm_{name}": self._follow(optimizer, skip=name in skipped)
            for name, optimizer in self.optimizers.items()
            if not name.startswith("estimator")
        }
        self._update_targets()
        return logs.update(norms)

    def _zero_grad(self) -> None:
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)

    def _update_targets(self) -> None:
        self.target_updater.step()

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
            batch: fresh transitions; of a recurrent algorithm sequences ``[B, T]``.

        Returns:
            ``saturated_share``: share of the greedy policies' action entries within
            1 % of the end of their range; for one-hot actions, share of the policies'
            probabilities above 0.99.

        Raises:
            KeyError: if the batch lacks what the actors read.
        """
        policy = run_network(self.actor, batch.select(*self.actor.in_keys))
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
