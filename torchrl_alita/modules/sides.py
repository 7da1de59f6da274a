"""Modules of several sides of a game in one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, unravel_key
from tensordict.nn import TensorDictModuleBase
from torch import nn
from torchrl.data import TensorSpec

from torchrl_alita._agents import gather_agents
from torchrl_alita._checks import check_callable, check_kind
from torchrl_alita.layout import ACTION, ACTION_MASK, LATENT
from torchrl_alita.modules.one_hot import one_hot

__all__ = ["AllAgents", "RandomPolicy", "SidesPolicy", "side_of"]

# Under which a side's own entries stand in the whole game's batch.
_SIDES = "sides"
_AGENTS = ACTION[0]


def side_of(batch: TensorDictBase, agents: Sequence[int], name: str | None = None) -> TensorDict:
    """A batch as one side has it: the entries of n of its N agents.

    Args:
        batch: ``[*B]``, in the layout of this package.
        agents: the side's, in their order.
        name: of the side, whose own entries, those that its policies have written under
            ``("sides", name)``, are then where the policies have them. Default: none.

    Returns:
        ``[*B]``: of every entry ``("agents", ...)`` ``[*B, N, F]`` the side's ``[*B, n, F]``, and
        all others as they are, under "next" too. No tensor is copied where agents lie side by
        side.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> batch = make_env("mpe/adversary", num_envs=5).rollout(3)
        >>> side_of(batch, (1, 2))["next", "agents", "reward"].shape
        torch.Size([5, 3, 2, 1])
    """
    return _side_of(batch, batch.batch_size, agents, name)


def _side_of(
    batch: TensorDictBase, batch_size: torch.Size, agents: Sequence[int], name: str | None
) -> TensorDict:
    seen = TensorDict({}, batch_size, device=batch.device)
    for key, entry in batch.items():
        if key == _AGENTS:
            seen.set(key, _some(entry, agents, batch_size))
        elif key == "next":
            seen.set(key, _side_of(entry, batch_size, agents, name))
        elif key != _SIDES:
            seen.set(key, entry)
    own = None if name is None else batch.get((_SIDES, name), None)
    if own is not None:
        for key in own.keys(True, True):
            _set(seen, key, own.get(key), len(agents))
    return seen


def _some(entries: TensorDictBase, agents: Sequence[int], batch_size: torch.Size) -> TensorDict:
    dim = len(batch_size)
    shape = (*batch_size, len(agents))
    found = TensorDict({}, shape, device=entries.device)
    for key, entry in entries.items():
        if isinstance(entry, TensorDictBase):
            found.set(key, _some(entry, agents, batch_size))
        else:
            found.set(key, gather_agents(entry, agents, dim))
    return found


def _set(tensordict: TensorDictBase, key: NestedKey, value: torch.Tensor, count: int) -> None:
    """Write an entry, into a group of the agents that has a dimension for them."""
    if not isinstance(key, str) and key[0] == _AGENTS and tensordict.get(_AGENTS, None) is None:
        shape = (*tensordict.batch_size, count)
        tensordict.set(_AGENTS, TensorDict({}, shape, device=tensordict.device))
    tensordict.set(key, value)


class SidesPolicy(TensorDictModuleBase):
    """The policies of several sides in one module, ``[*B, N, O] -> [*B, N, A]``.

    Each side's policies see what :func:`side_of` gives them and write their agents' actions into
    ``("agents", "action")``. Whatever else they write stands under ``("sides", name)``, so that
    the sides' networks can differ in all things. With modules of some sides alone, as with noise,
    the others' actions stay as they are.

    Args:
        sides: the indices of each side's agents.
        policies: of each side, or of some: a module of the side's n agents; an
            :class:`AllAgents`; or any callable that writes ``("agents", "action")``
            ``[*B, n, A]`` into the side's batch.

    Raises:
        TypeError: if sides or policies are no mapping, or a policy cannot be called.
        ValueError: if a policy is of a side that does not exist; when called, if a policy writes
            no action, or one of another shape.

    Examples:
        >>> from torchrl_alita.envs import SideView, make_env, sides_of
        >>> from torchrl_alita.modules import make_actor
        >>> env = make_env("mpe/adversary", num_envs=5)
        >>> sides = sides_of(env)
        >>> parts = {name: make_actor(SideView(env, sides[name])) for name in sides}
        >>> policy = SidesPolicy(sides, parts)
        >>> batch = env.rollout(3, policy)
        >>> batch["agents", "action"].shape, batch["sides", "good", "agents", "logits"].shape
        (torch.Size([5, 3, 3, 5]), torch.Size([5, 3, 2, 5]))
    """

    def __init__(
        self,
        sides: Mapping[str, Sequence[int]],
        policies: Mapping[str, Callable[[TensorDictBase], TensorDictBase]],
    ):
        super().__init__()
        check_kind("sides", sides, Mapping, "a mapping of names to agents")
        check_kind("policies", policies, Mapping, "a mapping of sides to policies")
        for name, policy in policies.items():
            check_callable(f"The policy of the side {name!r}", policy)
        if unknown := [name for name in policies if name not in sides]:
            raise ValueError(f"Unknown sides {unknown}; the sides are {sorted(sides)}.")
        self.sides = {name: tuple(agents) for name, agents in sides.items()}
        self.num_agents = sum(map(len, self.sides.values()))
        self.of_side = nn.ModuleDict(
            {name: _as_module(policies[name]) for name in sides if name in policies}
        )
        self.in_keys = list(
            dict.fromkeys(
                self.outside(name, key)
                for name, policy in self.of_side.items()
                for key in policy.in_keys
                if self.reads_game(name, key)
            )
        )
        self.out_keys = [
            *([ACTION] if self.of_side else []),
            *(
                self.outside(name, key, own=True)
                for name, policy in self.of_side.items()
                for key in self._own_keys(policy)
            ),
        ]

    @property
    def recurrent(self) -> bool:
        """Whether a side's policies have a memory."""
        return any(key[0] == "next" for key in self.out_keys if isinstance(key, tuple))

    @staticmethod
    def _own_keys(policy: TensorDictModuleBase) -> list[NestedKey]:
        """What a policy writes beside the actions."""
        return [key for key in map(unravel_key, policy.out_keys) if key != ACTION]

    def reads_game(self, name: str, key: NestedKey) -> bool:
        """Whether a side's key is of the game, and not the side's own.

        Its own are what its policies have written, and the latent variable by which they act.
        """
        key = unravel_key(key)
        if key == LATENT:
            return False
        own = self._own_keys(self.of_side[name]) if name in self.of_side else []
        return key not in own and _following(key) not in own

    def outside(self, name: str, key: NestedKey, *, own: bool = False) -> NestedKey:
        """Where the whole game's batch has a side's entry.

        Args:
            name: of the side.
            key: of the entry, as the side has it.
            own: it is written by the side's policies.

        Returns:
            The key.

        Examples:
            >>> SidesPolicy({"good": (0, 1)}, {}).outside("good", ("agents", "logits"), own=True)
            ('sides', 'good', 'agents', 'logits')
        """
        if not own:
            return key
        path = (key,) if isinstance(key, str) else tuple(key)
        if path[0] == "next":
            return ("next", _SIDES, name, *path[1:])
        return (_SIDES, name, *path)

    def view(self, batch: TensorDictBase, name: str) -> TensorDict:
        """The batch of one side, see :func:`side_of`; of an :class:`AllAgents` that of all agents."""
        agents = self.sides[name]
        check_kind("A batch", batch, TensorDictBase, "a tensordict")
        self._check_agents(batch)
        if name in self.of_side and isinstance(self.of_side[name], AllAgents):
            agents = tuple(range(self.num_agents))
        return side_of(batch, agents, name)

    def _check_agents(self, batch: TensorDictBase) -> None:
        """Raise if the batch is of another number of agents."""
        group = batch.get(_AGENTS, None)
        for key, entry in () if group is None else group.items():
            if isinstance(entry, torch.Tensor) and entry.ndim > batch.ndim:
                found = entry.shape[batch.ndim]
                if found != self.num_agents:
                    raise ValueError(
                        f"The sides have {self.num_agents} agents, {(_AGENTS, key)} is of {found}."
                    )

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Actions, and what else the policies write."""
        return self.run(tensordict, lambda policy, batch: policy(batch))

    def run(
        self,
        tensordict: TensorDictBase,
        call: Callable[[TensorDictModuleBase, TensorDictBase], TensorDictBase],
    ) -> TensorDictBase:
        """As :meth:`forward`, with policies that are called in a way of one's own.

        Args:
            tensordict: written to.
            call: calls a policy on a batch and returns what it gives.
        """
        actions = {}
        for name, policy in self.of_side.items():
            inner = policy.policy if isinstance(policy, AllAgents) else policy
            seen = call(inner, self.view(tensordict, name))
            if not isinstance(seen, TensorDictBase):
                raise TypeError(
                    f"The policy of the side {name!r} must return its batch, got {seen!r}."
                )
            action = seen.get(ACTION, None)
            if inner is not policy and action is not None:
                action = gather_agents(action, self.sides[name], tensordict.ndim)
            actions[name] = self._checked(name, action, tensordict)
            for key in self._own_keys(policy):
                if seen.get(key, None) is not None:
                    tensordict.set(self.outside(name, key, own=True), seen.get(key))
        return tensordict.set(ACTION, self._joined(tensordict, actions)) if actions else tensordict

    def _checked(
        self, name: str, action: torch.Tensor | None, tensordict: TensorDictBase
    ) -> torch.Tensor:
        if action is None:
            raise ValueError(f"The policy of the side {name!r} writes no {ACTION}.")
        lead = (*tensordict.batch_size, len(self.sides[name]))
        if action.shape[:-1] != lead:
            raise ValueError(
                f"The policy of the side {name!r} must write actions of {lead} and their size, got "
                f"{tuple(action.shape)}."
            )
        return action

    def _joined(
        self, tensordict: TensorDictBase, actions: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """All agents' actions, in the order of the agents."""
        order = [agent for name in actions for agent in self.sides[name]]
        parts = list(actions.values())
        if left := [agent for agent in range(self.num_agents) if agent not in order]:
            parts.append(gather_agents(tensordict.get(ACTION), left, tensordict.ndim))
            order += left
        joined = torch.cat(parts, -2)
        back = sorted(range(len(order)), key=order.__getitem__)
        return gather_agents(joined, back, joined.ndim - 2)


def _following(key: NestedKey) -> NestedKey:
    return ("next", key) if isinstance(key, str) else ("next", *key)


def _as_module(policy: Callable[[TensorDictBase], TensorDictBase]) -> nn.Module:
    return policy if isinstance(policy, TensorDictModuleBase) else _Plain(policy)


class _Plain(TensorDictModuleBase):
    """A callable as a module."""

    in_keys: list = []
    out_keys = [ACTION]

    def __init__(self, function: Callable[[TensorDictBase], TensorDictBase]):
        super().__init__()
        self.function = function

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        return self.function(tensordict)


class AllAgents(TensorDictModuleBase):
    """The policies of all N agents, of which a side takes its own agents' actions.

    Args:
        policy: of all agents, as an algorithm for the whole game has trained it.

    Examples:
        >>> from torchrl_alita.envs import make_env, sides_of
        >>> from torchrl_alita.modules import make_actor
        >>> env = make_env("mpe/adversary", num_envs=5)
        >>> everybody = AllAgents(make_actor(env))
        >>> SidesPolicy(sides_of(env), {"adversary": everybody}).out_keys
        [('agents', 'action'), ('sides', 'adversary', 'agents', 'logits')]
    """

    def __init__(self, policy: TensorDictModuleBase):
        super().__init__()
        check_kind("policy", policy, TensorDictModuleBase, "a module of all agents")
        self.policy = policy
        self.in_keys, self.out_keys = policy.in_keys, policy.out_keys

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """What the policies write."""
        return self.policy(tensordict)


class RandomPolicy(TensorDictModuleBase):
    """Acts uniformly at random, among the allowed actions if they are masked.

    Args:
        spec: of the actions of all agents, ``[N, A]``.
        masked: read ``("agents", "action_mask")``.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("mpe/speaker_listener", num_envs=5)
        >>> policy = RandomPolicy(env.full_action_spec_unbatched["agents", "action"], masked=True)
        >>> env.rollout(3, policy)["agents", "action"].shape
        torch.Size([5, 3, 2, 5])
    """

    def __init__(self, spec: TensorSpec, *, masked: bool = False):
        super().__init__()
        check_kind("spec", spec, TensorSpec, "a spec of actions")
        self.spec = spec
        self.in_keys = [ACTION_MASK] if masked else []
        self.out_keys = [ACTION]

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write actions."""
        if not self.in_keys:
            return tensordict.set(ACTION, self.spec.rand(tensordict.batch_size))
        mask = tensordict.get(ACTION_MASK)
        scores = torch.rand(mask.shape, device=mask.device).masked_fill(~mask, -1.0)
        drawn = one_hot(scores.argmax(-1), mask.shape[-1], dtype=self.spec.dtype)
        return tensordict.set(ACTION, drawn)
