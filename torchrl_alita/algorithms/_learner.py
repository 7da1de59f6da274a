"""What every algorithm has: settings, networks, optimizers, one update, a state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import CudaGraphModule, TensorDictModuleBase
from torch import nn
from torchrl.envs import EnvBase, Transform
from torchrl.objectives import SoftUpdate, TargetNetUpdater

from torchrl_alita._checks import (
    check_at_least_one,
    check_kind,
    check_positive,
    check_same_shape,
    check_share,
    check_tau,
    check_whole,
    require_keys,
)
from torchrl_alita._settings import Settings
from torchrl_alita.algorithms._compiled import Compiled, differentiate
from torchrl_alita.algorithms._recorded import Recorded
from torchrl_alita.data import Replay
from torchrl_alita.layout import (
    ACTION,
    AGENT_DONE,
    AGENT_TERMINATED,
    DONE,
    LOGITS,
    OBSERVATION,
    REWARD,
    TERMINATED,
    layout_of,
    next_key,
)
from torchrl_alita.modules._acting import run_network
from torchrl_alita.transforms import recurrent_transforms

__all__ = [
    "AlgorithmSettings",
    "Learner",
    "LearnerSettings",
    "OffPolicySettings",
    "TeamSettings",
    "make_optimizer",
    "soft_update",
]


# The first ones compile, and make what optimizers and statistics keep.
CALLS_BEFORE_RECORDING = 3


@dataclass(frozen=True, kw_only=True)
class AlgorithmSettings(Settings):
    """Base of all algorithms' settings, and how they are written as JSON."""

    def plain(self) -> dict[str, Any]:
        """The options by name, as JSON has them.

        Examples:
            >>> LearnerSettings(gamma=0.9).plain()["gamma"]
            0.9
        """
        return asdict(self)

    @classmethod
    def from_plain(cls, options: Mapping[str, Any]) -> AlgorithmSettings:
        """The settings that :meth:`plain` has written.

        Args:
            options: what it gave.

        Raises:
            TypeError: for an option that is not known, or of another type.
            ValueError: for a value out of its range.

        Examples:
            >>> LearnerSettings.from_plain({"gamma": 0.9}) == LearnerSettings(gamma=0.9)
            True
        """
        return cls(**options)


@dataclass(frozen=True, kw_only=True)
class LearnerSettings(AlgorithmSettings):
    """What every algorithm can set, but :class:`torchrl_alita.algorithms.Sides`, which is several.

    Settings of an algorithm are a frozen dataclass; ``dataclasses.replace`` changes values.

    Raises:
        TypeError: for a value of another type; the field is named.
        ValueError: for a value out of its range.

    Examples:
        >>> LearnerSettings(gamma=2.0)
        Traceback (most recent call last):
        ...
        ValueError: gamma must be in [0, 1], got 2.0.
    """

    gamma: float = 0.99
    """Discount factor of a step, in [0, 1]."""
    num_cells: tuple[int, ...] = (128, 128)
    """Width of each hidden layer."""
    max_grad_norm: float = float("inf")
    """Gradients of a network are scaled down to this norm; inf is no limit."""

    def __post_init__(self):
        super().__post_init__()
        check_share(gamma=self.gamma)
        check_at_least_one(**{f"num_cells[{i}]": n for i, n in enumerate(self.num_cells)})
        if not self.max_grad_norm > 0:
            raise ValueError(f"max_grad_norm must be positive, got {self.max_grad_norm}.")


@dataclass(frozen=True, kw_only=True)
class OffPolicySettings(LearnerSettings):
    """What every algorithm can set that learns from stored transitions."""

    batch_size: int = 1_024
    """Transitions in the batch of an update (ALITA's paper: 1,024)."""
    frames_per_update: int = 100
    """Environment steps for each update (ALITA's paper: 100)."""
    buffer_size: int = 1_000_000
    """Capacity of the replay buffer, in transitions (ALITA's paper: 1,000,000)."""
    random_frames: int = 5_000
    """Environment steps with random actions and no updates at the start, in whole batches."""
    noise_start: float = 0.9
    """Standard deviation of the exploration noise at the start, in units of the action; for
    one-hot actions, the share of random ones."""
    noise_end: float = 0.1
    """Exploration noise at the end, in the same units."""
    noise_frames: int = 125_000
    """Environment steps over which the noise falls, however long the run is."""
    compile: bool | None = None
    """Compile updates: on a CPU and without a memory as one graph with optimizers and targets,
    otherwise the losses and their gradient. The first update takes tens of seconds, the others
    less than without. Results agree up to rounding. Default: only in runs that have enough
    updates to save time."""
    compile_mode: Literal["default", "reduce-overhead", "max-autotune"] = "default"
    """Mode of torch.compile on a GPU; reduce-overhead uses CUDA graphs. A whole update on a CPU is
    compiled in its default mode."""
    cuda_graph: bool = False
    """Record a whole update, with optimizers and targets, as one CUDA graph, and replay it. It
    then takes the GPU's time and not Python's. Only on a GPU."""

    eager_updates: ClassVar[int] = 2_000
    """A run of so many updates does not gain by compiling, see docs/speed.md."""

    def __post_init__(self):
        super().__post_init__()
        sizes = ("batch_size", "frames_per_update", "buffer_size", "noise_frames")
        check_at_least_one(**{name: getattr(self, name) for name in sizes})
        check_whole(0, random_frames=self.random_frames)
        if not 0 <= self.noise_end <= self.noise_start:
            raise ValueError(
                f"noise_end must be at least 0 and at most noise_start, {self.noise_start}, "
                f"got {self.noise_end}."
            )


@dataclass(frozen=True, kw_only=True)
class TeamSettings(OffPolicySettings):
    """What the algorithms for teams can set."""

    share_params: bool = False
    """One policy and one critic for all agents."""
    recurrent: bool = False
    """Recurrent policies, trained on sequences; environments need the transforms of
    ``env_transforms()``."""
    hidden_size: int = 64
    """Width of both hidden layers of recurrent networks (ALITA's paper: 64)."""
    sequence_length: int = 40
    """Length of the sequences of an update of recurrent policies, in steps; a batch has as
    many sequences as fit into batch_size."""
    burn_in: int = 10
    """Steps before each sequence that only update the hidden state."""
    optimizer: Literal["adam", "rmsprop"] = "adam"
    """Optimizer of actors and critics (ALITA's paper for StarCraft: RMSprop, decay 0.99)."""
    critic_lr: float = 3e-3
    """The optimizer's learning rate of the critics."""
    lr_decay_frames: int = 0
    """Environment steps, from the first update on, over which the learning rates fall linearly
    to 0; with 0 they are constant."""
    mixed_precision: bool = False
    """Compute the hidden layers in bfloat16. Parameters, optimizers, output layers and
    statistics stay as they are."""

    def __post_init__(self):
        super().__post_init__()
        check_positive(critic_lr=self.critic_lr)
        check_at_least_one(hidden_size=self.hidden_size, sequence_length=self.sequence_length)
        check_whole(0, burn_in=self.burn_in, lr_decay_frames=self.lr_decay_frames)
        if self.recurrent and self.batch_size < self.sequence_length:
            raise ValueError(
                f"batch_size must be at least sequence_length, {self.sequence_length}, got "
                f"{self.batch_size}."
            )


def make_optimizer(
    params: nn.Module | Iterable[torch.Tensor], *, kind: str = "adam", lr: float
) -> torch.optim.Optimizer:
    """Adam in one kernel for all parameters, of a module or listed, or PyMARL's RMSprop.

    Either can be part of a CUDA graph.
    """
    own = list(params.parameters() if isinstance(params, nn.Module) else params)
    capturable = any(param.is_cuda for param in own)
    if capturable:
        lr = torch.tensor(lr, device=own[0].device)
    if kind == "rmsprop":
        options = {"alpha": 0.99, "eps": 1e-5, "foreach": True, "capturable": capturable}
        return torch.optim.RMSprop(own, lr=lr, **options)
    return torch.optim.Adam(own, lr=lr, fused=True, capturable=capturable)


def _keep_capturable(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Let a state say of CUDA graphs what the optimizer says, which may be on another device."""
    for group, saved in zip(optimizer.param_groups, state["param_groups"], strict=True):
        if "capturable" in group:
            saved["capturable"] = group["capturable"]
        if isinstance(group.get("lr"), torch.Tensor):
            saved["lr"] = torch.as_tensor(saved["lr"]).to(group["lr"])
        elif isinstance(saved.get("lr"), torch.Tensor):
            saved["lr"] = float(saved["lr"])


def soft_update(loss: nn.Module, *, tau: float) -> SoftUpdate:
    """TorchRL's SoftUpdate, with the argument checked."""
    check_tau(tau)
    return SoftUpdate(loss, tau=float(tau))


class Learner:
    """Settings, networks, their optimizers, their state, and how a training loop treats them.

    An algorithm is a class below this one and a settings class below
    :class:`LearnerSettings`, which its attribute ``Settings`` names. Its constructor makes the
    networks and fills ``modules`` and ``optimizers``. ``replays`` says what ``update`` reads.

    Where all networks follow the gradient of one sum of losses, ``_losses`` gives them and
    :meth:`_step` is the update. Of optimizers in ``delayed`` and of the targets the turn comes
    with every ``policy_delay``-th update only; the others follow ``_critic_losses`` meanwhile,
    so that no gradient is computed and dropped.

    Args:
        env: an environment in the layout of this package.
        settings: of the algorithm. Default: ``Settings()``.
        device: of the networks. Default: the environment's.

    Raises:
        TypeError: if the settings are of another class.
        ValueError: if a setting does not fit the environment.
        KeyError: if the environment has another layout.
    """

    Settings: ClassVar[type[AlgorithmSettings]] = LearnerSettings
    presets: ClassVar[Mapping[str, AlgorithmSettings]] = {}
    """Settings with a name, as "paper" for the paper's literal ones."""
    default_task: ClassVar[str] = "vmas/spread"
    """What the command line trains on unless a task is named."""
    stochastic: ClassVar[bool] = False
    """The policy explores by itself: the loop adds no noise to its actions."""
    on_policy: ClassVar[bool] = False
    """``update`` takes ``{"rollout": batch [B, T]}`` as it was collected; nothing is stored."""
    stored_keys: ClassVar[tuple[NestedKey, ...]] = ()
    """Entries of a transition that are stored beside those that the losses read."""

    settings: Any
    """Of the class ``Settings``."""
    actor: TensorDictModuleBase
    exploration: TensorDictModuleBase | None = None
    """What follows the policies in a training loop, in the place of the loop's noise."""
    target_updater: TargetNetUpdater

    def __init__(
        self,
        env: EnvBase,
        settings: AlgorithmSettings | None = None,
        *,
        device: torch.device | str | None = None,
    ):
        settings = self.Settings() if settings is None else settings
        if not isinstance(settings, self.Settings):
            raise TypeError(
                f"The settings of {type(self).__name__} must be {self.Settings.__name__}, got "
                f"{type(settings).__name__}."
            )
        self.settings = settings
        self.layout = layout_of(env)
        self.device = torch.device(device or env.device or "cpu")
        self.action_spec = env.full_action_spec_unbatched[ACTION].to(self.device)
        self.updates = 0
        self.policy_delay = 1
        self.modules: dict[str, nn.Module] = {}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        # Names of optimizers: those that wait for the policies' turn, and those that
        # update() steps by itself.
        self.delayed: set[str] = set()
        self.separate: set[str] = set()
        self._batch_names: set[str] = set()
        self._graphs: dict[str, CudaGraphModule | Recorded] = {}
        if getattr(settings, "cuda_graph", False) and self.device.type != "cuda":
            raise ValueError(f"cuda_graph needs networks on a GPU, got {self.device}.")

    @classmethod
    def make_policy(
        cls,
        env: EnvBase,
        settings: Any,
        *,
        device: torch.device | str | None = None,
    ) -> TensorDictModuleBase:
        """The policies that these settings describe, not trained.

        Args:
            env: an environment in the layout of this package.
            settings: of the algorithm.
            device: of the parameters. Default: the environment's.

        Returns:
            All N policies in one module.
        """
        raise TypeError(f"{cls.__name__} says nothing of its policies: it has no make_policy.")

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

    def replays(self) -> dict[str, Replay]:
        """What an update reads, by name.

        Returns:
            ``"batch"``, transitions ``[B]`` of the replay buffer, or sequences ``[B, T]`` of a
            recurrent algorithm; and what an algorithm adds. On-policy ones have none: their
            update reads the ``"rollout"``.
        """
        return {} if self.on_policy else {"batch": Replay()}

    def policy_params(self) -> list[tuple[TensorDictBase, TensorDictBase]]:
        """Parameters of the policies that have targets, each with them."""
        return []

    def prepare(self, env: EnvBase) -> EnvBase:
        """The environment as this algorithm acts in it while it is trained."""
        return env

    def candidates(self) -> list[TensorDictModuleBase]:
        """Policies of which the run's result is the best."""
        return [self.actor]

    @property
    def reads_rollout(self) -> bool:
        """Whether an update can be given ``"rollout"``, what was just collected.

        Beside batches of what is stored, it is given once for each that is collected.
        """
        return self.on_policy

    def env_transforms(self) -> list[Transform]:
        """What must be appended to an environment in which the policies act."""
        return [recurrent_transforms(self.actor)] if self.recurrent else []

    def start_episode(self) -> None:
        """Called by the training loop once for as many ended episodes as it has environments.

        Environments that end together begin an episode each time; where their episodes have
        unequal length, some of them end in nearly every batch, and that is no beginning.
        """

    def observe(self, rollout: TensorDictBase) -> None:
        """Called by the training loop with what was just collected, before the updates.

        Args:
            rollout: ``[B, T]``, in order of time.
        """

    def update(self, batches: Mapping[str, TensorDictBase]) -> TensorDict:
        """One step of every network.

        Args:
            batches: one for each name of :meth:`replays`; ``{"rollout": [B, T]}`` of an
                on-policy algorithm.

        Returns:
            Detached scalars to log.

        Raises:
            TypeError: if batches have no names.
            ValueError: if one is missing or not known.
            KeyError: if a batch lacks a key.

        Examples:
            >>> from torchrl_alita import MADDPG, make_env
            >>> env = make_env("vmas/spread", num_envs=5, n_agents=3, seed=0)
            >>> algorithm = MADDPG(env)
            >>> logs = algorithm.update({"batch": env.rollout(4).reshape(-1)})
        """
        return self._step(self._check_names(batches)["batch"])

    def _check_names(self, batches: Mapping[str, TensorDictBase]) -> Mapping[str, TensorDictBase]:
        """The batches, if they are those that an update reads."""
        if not isinstance(batches, Mapping) or isinstance(batches, TensorDictBase):
            raise TypeError(
                f"update takes batches by name, as {{'batch': batch}}, got {type(batches).__name__}."
            )
        if not self._batch_names:
            self._batch_names = {"rollout"} if self.on_policy else set(self.replays())
        if set(batches) != self._batch_names:
            raise ValueError(
                f"{type(self).__name__} reads the batches {sorted(self._batch_names)}, got "
                f"{sorted(batches)}."
            )
        for name, batch in batches.items():
            check_kind(f"The batch {name!r}", batch, TensorDictBase, "a tensordict")
        return batches

    def _check_transitions(self, batch: TensorDictBase, *, reward: NestedKey = REWARD) -> None:
        """Raise unless a batch has rows, the layout's shapes, and flags that are bool."""
        layout, rows = self.layout, batch.batch_size
        if 0 in rows:
            raise ValueError(f"The batch is empty: its entries begin with {tuple(rows)}.")
        agents = (*rows, layout.num_agents)
        flags: dict[NestedKey, tuple[int, ...]] = {DONE: (*rows, 1), TERMINATED: (*rows, 1)}
        for own in (AGENT_DONE, AGENT_TERMINATED):
            if batch.get(next_key(own), None) is not None:
                flags[own] = (*agents, 1)
        shapes = {
            OBSERVATION: (*agents, layout.observation_size),
            ACTION: (*agents, layout.action_size),
            next_key(reward): (*agents, 1),
            **{next_key(flag): shape for flag, shape in flags.items()},
        }
        require_keys(batch, list(shapes))
        for key, shape in shapes.items():
            check_same_shape(batch, key, shape)
        for flag in flags:
            # TorchRL's losses take the bitwise complement of what is no bool.
            if (found := batch.get(next_key(flag)).dtype) != torch.bool:
                raise TypeError(f"{flag} must be bool, got {found}.")

    def _losses(self, *batches: TensorDictBase) -> TensorDictBase:
        """All losses of an update; the gradient is of the sum of those named ``loss_*``."""
        raise TypeError(f"{type(self).__name__} has neither _losses nor an update of its own.")

    def _critic_losses(self, *batches: TensorDictBase) -> TensorDictBase:
        """Those of an update in which the policies wait."""
        raise TypeError(f"{type(self).__name__} has no _critic_losses for a delayed policy.")

    def _compiled(self, function: Callable, **options: Any) -> Compiled:
        mode = self.settings.compile_mode if getattr(self.settings, "compile", None) else None
        if not getattr(self.settings, "mixed_precision", False):
            # Compiled as it is: the compiler counts versions of one function, and gives up.
            return Compiled(function, mode=mode, **options)

        def in_precision(*batches: TensorDictBase) -> TensorDictBase:
            with torch.autocast(self.device.type, torch.bfloat16):
                return function(*batches)

        return Compiled(in_precision, mode=mode, **options)

    def _compile_losses(self) -> None:
        """Called by a constructor when all that the losses read is there."""
        self._gradient = self._compiled(self._losses, then=differentiate)
        self._critic_gradient = self._compiled(self._critic_losses, then=differentiate)

    def _step(self, *batches: TensorDictBase) -> TensorDict:
        """Follow the gradient of the sum of the losses; losses and gradients' norms."""
        over = getattr(self.settings, "lr_decay_frames", 0)
        self._decay_lr(self.updates * self.settings.frames_per_update, over=over)
        everything = (self.updates + 1) % self.policy_delay == 0
        targets = everything and self._targets_turn()
        step = self._recorded(
            f"step, {everything}, {targets}", partial(self._follow_losses, everything, targets)
        )
        logs = step(*batches)
        # A batch that is refused is no update.
        self.updates += 1
        return logs

    def _targets_turn(self) -> bool:
        """Whether the next update of the policies moves the targets too."""
        return True

    def _follow_losses(
        self, everything: bool, targets: bool, *batches: TensorDictBase
    ) -> TensorDict:
        """All of an update but its count: gradients, optimizers, targets."""
        waiting = self.separate if everything else self.separate | self.delayed
        self._zero_grad()
        logs = (self._gradient if everything else self._critic_gradient)(*batches)
        logs.update(self._follow_all(name for name in self.optimizers if name not in waiting))
        if targets:
            self._update_targets()
        return logs

    def _decay_lr(self, frames: int, *, over: int) -> None:
        """Let the optimizers' steps fall in a straight line; ``over=0`` leaves them."""
        if not over:
            return
        left = max(0.0, 1 - frames / over)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                lr = left * group.setdefault("initial_lr", float(group["lr"]))
                # A tensor is what a CUDA graph reads.
                if isinstance(group["lr"], torch.Tensor):
                    group["lr"].fill_(lr)
                else:
                    group["lr"] = lr

    def _recorded(self, name: str, function: Callable[..., TensorDict]) -> Callable:
        """The function, or what was recorded of it under this name: a CUDA graph, or one compiled."""
        settings = self.settings
        cuda_graph = getattr(settings, "cuda_graph", False)
        if not cuda_graph and not (getattr(settings, "compile", None) and self._fits_one_graph()):
            return function
        if name not in self._graphs:
            self._graphs[name] = (
                CudaGraphModule(function, warmup=CALLS_BEFORE_RECORDING)
                if cuda_graph
                else Recorded(function, self.modules.values(), self.optimizers.values())
            )
        return self._graphs[name]

    def _fits_one_graph(self) -> bool:
        """Whether a whole update can be compiled: no loop over time, no step that is read back."""
        adam = all(
            isinstance(optimizer, torch.optim.Adam) for optimizer in self.optimizers.values()
        )
        return adam and not self.recurrent and self.device.type == "cpu"

    def _zero_grad(self) -> None:
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)

    def _update_targets(self) -> None:
        self.target_updater.step()

    def _follow_all(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """A step of the optimizers of these names; the norms of the gradients."""
        return {f"grad_norm_{name}": self._clip_and_step(self.optimizers[name]) for name in names}

    def _clip_and_step(self, optimizer: torch.optim.Optimizer) -> torch.Tensor:
        """Scale the gradient down and follow it; its norm before that."""
        params = [param for group in optimizer.param_groups for param in group["params"]]
        norm = nn.utils.clip_grad_norm_(params, self.settings.max_grad_norm)
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
        policy = self._greedy(batch)
        if self.layout.discrete:
            certain = policy.get(LOGITS).softmax(-1).amax(-1) > 0.99
            return {"saturated_share": certain.float().mean()}
        action = policy.get(ACTION)
        low, high = self.action_spec.space.low, self.action_spec.space.high
        margin = 0.01 * (high - low) / 2
        saturated = (action < low + margin) | (action > high - margin)
        # Of padding the range is one value, which is no end.
        counted = (low < high).expand_as(saturated)
        return {"saturated_share": (saturated & counted).sum() / counted.sum()}

    def distributions(self, batch: TensorDictBase) -> dict[str, torch.Tensor]:
        """What is worth a histogram, by name; at evaluations the training loop logs it.

        Args:
            batch: fresh transitions, as in :meth:`health`.

        Returns:
            Tensors of any shape.

        Raises:
            KeyError: if the batch lacks a key.
        """
        return {}

    def _greedy(self, batch: TensorDictBase) -> TensorDictBase:
        """What the policies do and, for one-hot actions, their logits."""
        return run_network(self.actor, batch.select(*self.actor.in_keys))

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
            ValueError: if it is of other settings: of other influencers, or of networks of
                another shape. Nothing has been taken over then.
        """
        self._check_state(state_dict)
        for part, own in (("modules", self.modules), ("optimizers", self.optimizers)):
            for name, member in own.items():
                # An optimizer keeps the tensors it is given: it must not share them.
                state = deepcopy(state_dict[part][name])
                if part == "optimizers":
                    _keep_capturable(member, state)
                member.load_state_dict(state)
        self.updates = state_dict["updates"]
        # The optimizers have other tensors now than those that were recorded.
        self._graphs.clear()

    def _check_state(self, state_dict: dict[str, Any]) -> None:
        """Raise unless it is of such a learner."""
        for part, own in (("modules", self.modules), ("optimizers", self.optimizers)):
            if set(own) != set(state_dict[part]):
                raise KeyError(
                    f"The state has the {part} {sorted(state_dict[part])}, not {sorted(own)}."
                )
        for name, module in self.modules.items():
            saved = state_dict["modules"][name]
            # What is counted or remembered may have another shape.
            for key, value in module.named_parameters():
                found = saved.get(key)
                if getattr(found, "shape", None) != value.shape:
                    there = "nothing" if found is None else tuple(found.shape)
                    raise ValueError(
                        f"The state is of other settings: {name} has {key} of the shape "
                        f"{tuple(value.shape)}, there it is {there}."
                    )
