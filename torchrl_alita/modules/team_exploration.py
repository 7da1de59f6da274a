"""Exploration that a team does together, for a while, more in some environments than others."""

from __future__ import annotations

import math

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.data import Bounded, Composite, MultiOneHot, OneHot, TensorSpec
from torchrl.envs import ExplorationType, exploration_type

from torchrl_alita._checks import (
    check_at_least_one,
    check_below_one,
    check_number,
    check_share,
    require_keys,
)
from torchrl_alita.layout import ACTION
from torchrl_alita.modules.one_hot import one_hot

__all__ = ["TeamExploration"]

_STATE = "_team_exploration"


class TeamExploration(TensorDictModuleBase):
    r"""Random actions that agents share and keep, after a policy, ``[*B, N, A] -> [*B, N, A]``.

    Agents that must act alike to be paid, as two that push one box, find nothing by noise
    that is independent over the agents and over time. Here each agent i has a flag, whether
    it explores now, and a random action. Both are values that

    - an agent keeps from one step to the next with probability k, and draws anew otherwise,
    - the whole team has in common with probability c, and each agent for itself otherwise:

    .. math:: u \sim U[0, 1): \quad
        m_t = m_{t-1} \text{ if } u < k, \text{ else } m_t \sim Bernoulli(c), \qquad
        P(v_{i,t} \text{ is kept}) = \begin{cases}
            1 \text{ if } u < k \text{, else } 0 & m_t = 1 \\
            k / (1 - (1 - k) c) & m_t = m_{t-1} = 0 \\
            0 & m_t = 0, m_{t-1} = 1
        \end{cases}

    While m = 1 the agents have one value and draw it together, while m = 0 each has and draws
    its own. So an agent keeps its value with probability k exactly, the values of two agents
    are one with probability c exactly, and the law of a step is always that of a fresh draw.
    Flags have :math:`k = 1 - 1 / burst\_length`, random actions k = ``persistence``, both
    c = ``agreement``, and their m are independent.

    *One-hot actions*: a flag is drawn from Bernoulli(eps_b), a random action uniformly from
    the allowed ones; an exploring agent takes its random action, any other that of the
    policy. With agreement, persistence and spread 0 and a burst length of 1 this is
    epsilon-greedy, independent over environments, agents and steps.

    *Continuous actions*: an exploring agent adds a noise to the policy's action, which is
    then clipped to the spec. A flag is drawn from Bernoulli(burst_share), and the noise is

    .. math:: eps_b\, x_{i,t}, \qquad x_{i,t} = k\, x_{i,t-1} + \sqrt{1 - k^2}
        \left(\sqrt{c}\, g_t + \sqrt{1 - c}\, w_{i,t}\right), \qquad g_t, w_{i,t} \sim N(0, 1)

    of variance :math:`eps_b^2`, correlation c between two agents and k between two steps. With
    agreement, persistence and spread 0 and a burst share of 1 this is TorchRL's
    ``AdditiveGaussianModule`` with sigma = eps.

    *Strength*: environment b of the B of the batch explores with

    .. math:: eps_b = eps + spread \cdot w \cdot \left(\frac{2 b}{B - 1} - 1\right)

    where w = min(eps, 1 - eps) for one-hot and w = eps for continuous actions: the mean over
    the environments is eps, each keeps its place, and with a spread of 1 the first one does
    not explore while eps is at most 1/2 (one-hot) or ever (continuous).

    Source: ours, beside the exploration of https://arxiv.org/abs/2108.12581. Always-random
    play of Push-Box with it is in ``benchmarks/team_exploration.py``.

    As TorchRL's exploration modules it acts under ``ExplorationType.RANDOM`` alone, draws
    from torch's global generator and is annealed by :meth:`step`. Its state is carried by the
    tensordict, under ``"_team_exploration"`` and the key of the flags, as a rollout and a
    collector do. Where it is missing, zeroed (as TorchRL does when some environments of the
    batch are reset), or ``is_init`` is True, the noise begins anew. When all environments are
    reset at once TorchRL keeps it, and without ``is_init`` the noise goes on from the last
    episode; every episode has the same law then too, because every step has. A collector's
    ``init_random_frames`` are the collector's own: nobody is marked as exploring in them.

    Args:
        spec: of the actions, ``OneHot`` or ``Bounded`` with the shape ``[N, A]`` or
            ``[*B, N, A]``, or a ``Composite`` that holds it.
        agreement: c, in [0, 1]. Default: 0.9, of our trial on Push-Box.
        persistence: k of random actions, in [0, 1). Default: 0.7, of the same trial.
        spread: how much the strength varies over the environments, in [0, 1].
            Default: 0, all alike.
        burst_length: mean number of steps between two draws of a flag, at least 1; a burst
            lasts ``burst_length / (1 - eps_b)`` steps on average. 1 is independent steps.
            Default: 10, with which occasional random steps deliver several times as many
            boxes as with 1 (part "bursts" of the benchmark).
        burst_share: for continuous actions, share of steps with noise, in (0, 1]. Default: 1,
            always; ``burst_length`` has no effect then.
        eps_init: eps at the start: the mean share of random actions, in [0, 1]; for
            continuous actions the mean standard deviation in units of the action, at least
            0. Default: 1, TorchRL's.
        eps_end: eps at the end, at most ``eps_init``. Default: 0.1, TorchRL's.
        annealing_num_steps: calls of :meth:`step` from the one to the other. Default: 1000,
            TorchRL's.
        action_key: read and written. Default: ``("agents", "action")``.
        action_mask_key: for one-hot actions, bool ``[*B, N, A]``, read. A masked action is
            never drawn: an agent whose kept or common action is masked draws one of its own.
            Each agent needs an action that is allowed. Default: None, no mask.
        is_init_key: bool ``[*B, 1]``, read if there. Default: ``"is_init"``.

    The module writes the action and, beside it, ``"exploring"``, bool ``[*B, N, 1]``: who
    explored, for logs and pictures.

    Raises:
        ValueError: for an argument out of its range, an action whose shape does not fit
            the spec, or a mask or ``is_init`` that does not fit the action; the numbers are
            named.
        KeyError: if the action or its mask is missing; the keys present are named.
        TypeError: for a spec of another kind, or integers as continuous actions.

    Examples:
        >>> from tensordict import TensorDict
        >>> _ = torch.manual_seed(0)
        >>> spec = OneHot(5, shape=(3, 5), dtype=torch.float32)
        >>> exploration = TeamExploration(spec, agreement=1.0, eps_init=0.5)
        >>> greedy = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0]).expand(4, 3, 5)
        >>> batch = exploration(TensorDict({"agents": {"action": greedy}}, [4]))
        >>> batch["agents", "action"].argmax(-1)
        tensor([[2, 2, 2],
                [1, 1, 1],
                [0, 0, 0],
                [0, 0, 0]])
        >>> batch["agents", "exploring"].squeeze(-1).all(-1)
        tensor([ True,  True,  True, False])
    """

    def __init__(
        self,
        spec: TensorSpec,
        *,
        agreement: float = 0.9,
        persistence: float = 0.7,
        spread: float = 0.0,
        burst_length: float = 10.0,
        burst_share: float = 1.0,
        eps_init: float = 1.0,
        eps_end: float = 0.1,
        annealing_num_steps: int = 1000,
        action_key: NestedKey = ACTION,
        action_mask_key: NestedKey | None = None,
        is_init_key: NestedKey = "is_init",
    ):
        super().__init__()
        self._spec = _composite(spec, action_key)
        device = self._spec[action_key].device
        space = self._spec[action_key].space
        self.discrete = isinstance(self._spec[action_key], OneHot)
        # Buffers, unlike a spec, go where the module goes.
        for name in () if self.discrete else ("low", "high"):
            self.register_buffer(name, getattr(space, name).clone(), persistent=False)
        _check_arguments(agreement, persistence, spread, burst_length, burst_share)
        _check_schedule(eps_init, eps_end, annealing_num_steps, at_most_one=self.discrete)
        if self.discrete and burst_share != 1:
            raise ValueError(f"burst_share is eps for one-hot actions, got {burst_share}.")
        if not self.discrete and action_mask_key is not None:
            raise ValueError(f"Continuous actions have no mask, got {action_mask_key!r}.")
        self.agreement = float(agreement)
        self.persistence = float(persistence)
        self.spread = float(spread)
        self.burst_length = float(burst_length)
        self.burst_share = float(burst_share)
        self.annealing_num_steps = annealing_num_steps
        for name, value in (("eps_init", eps_init), ("eps_end", eps_end), ("eps", eps_init)):
            self.register_buffer(name, torch.tensor(float(value), device=device))
        self.action_key = action_key
        self.action_mask_key = action_mask_key
        self.is_init_key = is_init_key
        self.exploring_key = (
            "exploring" if isinstance(action_key, str) else (*action_key[:-1], "exploring")
        )
        self.in_keys = [action_key] if action_mask_key is None else [action_key, action_mask_key]
        names = ("begun", "common_flag") + (("index", "common") if self.discrete else ("noise",))
        self.out_keys = [action_key, self.exploring_key, *((_STATE, name) for name in names)]

    @property
    def spec(self) -> Composite:
        """Of the actions."""
        return self._spec

    def step(self, frames: int = 1) -> None:
        """Lower eps by ``frames`` steps of the schedule, to its end at the lowest.

        Args:
            frames: steps since the last call. Default: 1.
        """
        fall = (self.eps_init - self.eps_end) * (frames / self.annealing_num_steps)
        self.eps.copy_(torch.maximum(self.eps_end, self.eps - fall))

    def strengths(self, batch_size: torch.Size | tuple[int, ...]) -> torch.Tensor:
        """eps_b of each environment of a batch, ``[*B, 1]``, numbered in C order."""
        count = math.prod(batch_size)
        place = torch.arange(count, device=self.eps.device, dtype=self.eps.dtype)
        place = (2 * place - (count - 1)) / max(count - 1, 1)
        width = torch.minimum(self.eps, 1 - self.eps) if self.discrete else self.eps
        return (self.eps + self.spread * width * place).reshape(*batch_size, 1)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        if exploration_type() not in (ExplorationType.RANDOM, None):
            return tensordict
        require_keys(tensordict, self.in_keys)
        action = tensordict.get(self.action_key)
        self._check_action(action)
        self._check_flags(tensordict, action)
        strength = self.strengths(action.shape[:-2])
        begun = self._begun(tensordict, action)
        exploring = self._flags(tensordict, action, begun, strength)
        if self.discrete:
            action = torch.where(exploring, self._random_action(tensordict, action, begun), action)
        else:
            noise = self._noise(tensordict, action, begun)
            noisy = action + strength.unsqueeze(-1).to(action.dtype) * noise
            # What is not explored is the policy's own affair, and stays as it is.
            noisy = noisy.clamp(self.low, self.high).to(action.dtype)
            action = torch.where(exploring, noisy, action)
        tensordict.set(self.action_key, action)
        tensordict.set(self.exploring_key, exploring)
        tensordict.set((_STATE, "begun"), torch.ones_like(begun))
        return tensordict

    def _check_action(self, action: torch.Tensor) -> None:
        shape = tuple(self._spec[self.action_key].shape)
        if tuple(action.shape[action.ndim - len(shape) :]) != shape:
            raise ValueError(
                f"{self.action_key} must have the shape {shape} of its spec, or that after "
                f"further dimensions, got {tuple(action.shape)}."
            )
        if action.device != self.eps.device:
            raise ValueError(
                f"{self.action_key} is on {action.device}, its exploration on {self.eps.device}."
            )
        if not self.discrete and not action.is_floating_point():
            raise TypeError(f"{self.action_key} must be of floating point, got {action.dtype}.")

    def _check_flags(self, tensordict: TensorDictBase, action: torch.Tensor) -> None:
        """What else is read, before anything is drawn or written."""
        shapes = {self.is_init_key: (*action.shape[:-2], 1)}
        if self.action_mask_key is not None:
            shapes[self.action_mask_key] = tuple(action.shape)
        for key, shape in shapes.items():
            flag = tensordict.get(key, None)
            if flag is not None and (flag.dtype != torch.bool or tuple(flag.shape) != shape):
                raise ValueError(
                    f"{key} must be bool of the shape {shape}, got {flag.dtype} of "
                    f"{tuple(flag.shape)}."
                )

    def _begun(self, tensordict: TensorDictBase, action: torch.Tensor) -> torch.Tensor:
        """Whether there is a state to go on from, ``[*B, 1]``."""
        shape = (*action.shape[:-2], 1)
        begun = tensordict.get((_STATE, "begun"), None)
        if begun is None:
            return torch.zeros(shape, dtype=torch.bool, device=action.device)
        is_init = tensordict.get(self.is_init_key, None)
        return begun if is_init is None else begun & ~is_init.reshape(shape)

    def _flags(
        self,
        tensordict: TensorDictBase,
        action: torch.Tensor,
        begun: torch.Tensor,
        strength: torch.Tensor,
    ) -> torch.Tensor:
        """Who explores now, ``[*B, N, 1]``."""
        share = strength if self.discrete else self.burst_share
        uniform = torch.rand(action.shape[:-1], device=action.device)
        common = torch.rand(begun.shape, device=action.device)
        before = tensordict.get(self.exploring_key, None)
        flags, mode = _team_values(
            torch.zeros_like(uniform, dtype=torch.bool) if before is None else before.squeeze(-1),
            uniform < share,
            common < share,
            _state(tensordict, "common_flag", torch.zeros_like(begun)),
            begun,
            keep=1 - 1 / self.burst_length,
            agreement=self.agreement,
        )
        tensordict.set((_STATE, "common_flag"), mode)
        return flags.unsqueeze(-1)

    def _random_action(
        self, tensordict: TensorDictBase, action: torch.Tensor, begun: torch.Tensor
    ) -> torch.Tensor:
        """One-hot ``[*B, N, A]``."""
        if self.action_mask_key is None:
            allowed = None
            own, common = (
                torch.randint(action.shape[-1], shape, device=action.device)
                for shape in (action.shape[:-1], begun.shape)
            )
        else:
            allowed = tensordict.get(self.action_mask_key)
            own, common = map(_uniform_index, (allowed, allowed.any(-2, keepdim=True)))
        index, mode = _team_values(
            _state(tensordict, "index", torch.zeros_like(own)),
            own,
            common,
            _state(tensordict, "common", torch.zeros_like(begun)),
            begun,
            keep=self.persistence,
            agreement=self.agreement,
        )
        if allowed is not None:
            index = torch.where(allowed.gather(-1, index.unsqueeze(-1)).squeeze(-1), index, own)
        tensordict.set((_STATE, "index"), index)
        tensordict.set((_STATE, "common"), mode)
        return one_hot(index, action.shape[-1], dtype=action.dtype)

    def _noise(
        self, tensordict: TensorDictBase, action: torch.Tensor, begun: torch.Tensor
    ) -> torch.Tensor:
        """Of unit variance, ``[*B, N, A]``."""
        own = torch.randn_like(action)
        common = torch.randn_like(action[..., :1, :])
        fresh = self.agreement**0.5 * common + (1 - self.agreement) ** 0.5 * own
        before = _state(tensordict, "noise", torch.zeros_like(action))
        kept = self.persistence * before + (1 - self.persistence**2) ** 0.5 * fresh
        noise = torch.where(begun.unsqueeze(-1), kept, fresh)
        tensordict.set((_STATE, "noise"), noise)
        return noise


def _team_values(
    before: torch.Tensor,
    own: torch.Tensor,
    common: torch.Tensor,
    together: torch.Tensor,
    begun: torch.Tensor,
    *,
    keep: float,
    agreement: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One step of the values of :class:`TeamExploration`, ``[*B, N]``, and of m, ``[*B, 1]``.

    ``before`` and ``together`` are the values and m of the step before; ``own`` ``[*B, N]``
    and ``common`` ``[*B, 1]`` are fresh draws.
    """
    redrawn = ~begun | (torch.rand(begun.shape, device=begun.device) >= keep)
    drawn = torch.rand(begun.shape, device=begun.device) < agreement
    now = torch.where(redrawn, drawn, together)
    # An agent of its own loses its value when the team joins, with probability (1 - k) c;
    # this makes up for it. With k = 0 and c = 1 nobody is ever left alone twice.
    alone = keep / (1 - (1 - keep) * agreement) if keep else 0.0
    renewed = torch.rand(own.shape, device=own.device) >= alone
    renewed = torch.where(now, redrawn, ~begun | together | renewed)
    return torch.where(renewed, torch.where(now, common, own), before), now


def _uniform_index(allowed: torch.Tensor) -> torch.Tensor:
    """One of the allowed of each row, ``[*B, N, A] -> [*B, N]``."""
    scores = torch.rand(allowed.shape, device=allowed.device)
    return scores.masked_fill(~allowed, -1.0).argmax(-1)


def _state(tensordict: TensorDictBase, name: str, default: torch.Tensor) -> torch.Tensor:
    value = tensordict.get((_STATE, name), None)
    return default if value is None else value


def _composite(spec: TensorSpec, action_key: NestedKey) -> Composite:
    """The spec under the action's key, if it is of a kind that can be explored."""
    if not isinstance(spec, TensorSpec):
        raise TypeError(f"spec must be a TensorSpec, got {type(spec).__name__}.")
    if not isinstance(spec, Composite):
        spec = Composite({action_key: spec}, shape=spec.shape[:-2])
    leaf = spec[action_key]
    if not isinstance(leaf, (OneHot, Bounded)) or isinstance(leaf, MultiOneHot):
        raise TypeError(f"The spec of {action_key} must be OneHot or Bounded, got {leaf}.")
    if len(leaf.shape) < 2:
        raise ValueError(
            f"The spec of {action_key} must have the shape (agents, features), "
            f"got {tuple(leaf.shape)}."
        )
    return spec


def _check_arguments(
    agreement: float, persistence: float, spread: float, burst_length: float, burst_share: float
) -> None:
    check_share(agreement=agreement, spread=spread)
    check_below_one(persistence=persistence)
    check_number(burst_length=burst_length, burst_share=burst_share)
    if not 1 <= burst_length < math.inf:
        raise ValueError(f"burst_length must be finite and at least 1, got {burst_length}.")
    if not 0 < burst_share <= 1:
        raise ValueError(f"burst_share must be above 0 and at most 1, got {burst_share}.")


def _check_schedule(
    eps_init: float, eps_end: float, annealing_num_steps: int, *, at_most_one: bool
) -> None:
    check_at_least_one(annealing_num_steps=annealing_num_steps)
    check_number(eps_init=eps_init, eps_end=eps_end)
    highest = 1 if at_most_one else math.inf
    if not 0 <= eps_init <= highest or math.isinf(eps_init):
        limit = " and at most 1, a share of random actions" if at_most_one else ""
        raise ValueError(f"eps_init must be finite, at least 0{limit}, got {eps_init}.")
    if not 0 <= eps_end <= eps_init:
        raise ValueError(
            f"eps_end must be at least 0 and at most eps_init, {eps_init}, got {eps_end}."
        )
