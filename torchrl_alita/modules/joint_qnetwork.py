"""Values of every joint action of a team, and the best of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictModuleBase, TensorDictSequential
from torch import nn
from torchrl.envs import EnvBase
from torchrl.modules import MLP

from torchrl_alita._checks import check_at_least_one, require_keys
from torchrl_alita.functional import allowed_actions
from torchrl_alita.layout import (
    ACTION,
    ACTION_MASK,
    CHOSEN_JOINT_VALUE,
    JOINT_ACTION,
    JOINT_ACTION_VALUE,
    OBSERVATION,
    layout_of,
)
from torchrl_alita.modules.actors import require_one_hot

__all__ = ["BestJointAction", "joint_action_number", "make_joint_qnetwork"]

# Outputs of a network; with more of them most are never tried.
MOST_JOINT_ACTIONS = 1_024


def joint_action_number(action: torch.Tensor) -> torch.Tensor:
    """The number of a joint action in C order over the agents, ``[*B, N, L] -> [*B, 1]``.

    The order of :class:`torchrl_alita.envs.MatrixGame` and of ``JOINT_ACTION_VALUE``: the last
    agent's action changes first.

    Args:
        action: one-hot ``[*B, N, L]``.

    Returns:
        int64 ``[*B, 1]``.

    Examples:
        >>> joint_action_number(torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
        tensor([5])
    """
    return (action.argmax(-1) * _places(action)).sum(-1, keepdim=True)


def _places(action: torch.Tensor) -> torch.Tensor:
    """What each agent's action counts for in the number, ``[N]``, of actions ``[*B, N, L]``."""
    *_, num_agents, num_actions = action.shape
    exponents = torch.arange(num_agents - 1, -1, -1, device=action.device)
    return num_actions**exponents


class BestJointAction(TensorDictModuleBase):
    r"""Each agent's part of the joint action of the largest value, ``[*B, L^N] -> [*B, N, L]``.

    It is what a leader and those who answer it do:

    .. math:: a_1 = \arg\max_{u_1} \max_{u_2, .., u_N} Q(x, u), \qquad
        a_2 = \arg\max_{u_2} \max_{u_3, .., u_N} Q(x, a_1, u_2, ..), \quad \dots

    Where values are equal it is the first. A joint action counts if each agent's part is
    allowed; where an agent's mask allows nothing, it is padding, and allows everything.

    Args:
        num_agents: N, at least 1.
        num_actions: L, at least 1.
        masked: read a mask, bool ``[*B, N, L]``, True where an action is allowed.
        joint_action_value: key read, and written with what the mask changed. Default:
            ``"joint_action_value"``.
        action_mask: key read, if masked. Default: ``("agents", "action_mask")``.
        action: key written, one-hot. Default: ``("agents", "action")``.
        joint_action: key written, the number of the joint action, ``[*B, 1]``. Default:
            ``"joint_action"``.
        chosen_joint_value: key written, ``[*B, 1]``. Default: ``"chosen_joint_value"``.

    Raises:
        ValueError: if a number is below 1; when called, if there are not L^N values.
        KeyError: when called, if the batch lacks a key.
        TypeError: when called, if the mask is not bool.

    Examples:
        Two agents with two actions each: the third joint action is (1, 0).

        >>> from tensordict import TensorDict
        >>> batch = TensorDict({"joint_action_value": torch.tensor([0.0, 1.0, 4.0, 2.0])})
        >>> BestJointAction(num_agents=2, num_actions=2)(batch)["agents", "action"]
        tensor([[0., 1.],
                [1., 0.]])
    """

    def __init__(
        self,
        *,
        num_agents: int,
        num_actions: int,
        masked: bool = False,
        joint_action_value: NestedKey = JOINT_ACTION_VALUE,
        action_mask: NestedKey = ACTION_MASK,
        action: NestedKey = ACTION,
        joint_action: NestedKey = JOINT_ACTION,
        chosen_joint_value: NestedKey = CHOSEN_JOINT_VALUE,
    ):
        super().__init__()
        check_at_least_one(num_agents=num_agents, num_actions=num_actions)
        self.num_agents, self.num_actions, self.masked = num_agents, num_actions, masked
        self.in_keys = [joint_action_value, *([action_mask] if masked else [])]
        self.out_keys = [action, joint_action_value, joint_action, chosen_joint_value]

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        require_keys(tensordict, self.in_keys)
        values = tensordict.get(self.in_keys[0])
        count = self.num_actions**self.num_agents
        if values.shape[-1] != count:
            raise ValueError(
                f"{self.num_agents} agents with {self.num_actions} actions have {count} joint "
                f"actions, got {values.shape[-1]} values."
            )
        if self.masked:
            allowed = _allowed_together(allowed_actions(tensordict.get(self.in_keys[1])))
            values = values.masked_fill(~allowed, torch.finfo(values.dtype).min)
        best = values.argmax(-1, keepdim=True)
        action = values.new_zeros(*values.shape[:-1], self.num_agents, self.num_actions)
        own = best // _places(action) % self.num_actions
        action = action.scatter(-1, own.unsqueeze(-1), 1.0)
        written = (action, values, best, values.gather(-1, best))
        for key, value in zip(self.out_keys, written, strict=True):
            tensordict.set(key, value)
        return tensordict


def _allowed_together(allowed: torch.Tensor) -> torch.Tensor:
    """Which joint actions are allowed, ``[*B, N, L] -> [*B, L^N]``."""
    first, *others = allowed.unbind(-2)
    for other in others:
        first = (first.unsqueeze(-1) & other.unsqueeze(-2)).flatten(-2)
    return first


class _TeamMLP(nn.Module):
    """A perceptron over what all agents see, ``[*B, N, O] -> [*B, L^N]``."""

    def __init__(self, mlp: nn.Module):
        super().__init__()
        self.mlp = mlp

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        return self.mlp(observation.flatten(-2))


def make_joint_qnetwork(
    env: EnvBase,
    *,
    num_cells: Sequence[int] = (128, 128),
    device: torch.device | str | None = None,
) -> TensorDictSequential:
    """Values of all joint actions and the best of them, ``[*B, N, O] -> [*B, L^N]``.

    A perceptron that sees the observations of all agents; then :class:`BestJointAction`. It
    writes ``"joint_action_value"``, ``("agents", "action")``, ``"joint_action"`` and
    ``"chosen_joint_value"``.

    Args:
        env: an environment in the layout of this package, with one-hot actions.
        num_cells: width of each hidden layer.
        device: of the parameters. Default: the environment's.

    Returns:
        A TensorDictSequential, as TorchRL's collectors and losses take it.

    Raises:
        KeyError: if the environment has another layout.
        ValueError: if its actions are not one-hot, or there are more than 1,024 joint ones.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("push_box", num_envs=5, n_agents=2)
        >>> env.rollout(4, make_joint_qnetwork(env))["joint_action_value"].shape
        torch.Size([5, 4, 25])
    """
    layout = layout_of(env)
    require_one_hot(env, "Values of actions")
    count = layout.action_size**layout.num_agents
    if count > MOST_JOINT_ACTIONS:
        raise ValueError(
            f"A network of all joint actions has at most {MOST_JOINT_ACTIONS}, got "
            f"{layout.action_size}**{layout.num_agents} = {count}."
        )
    device = env.device if device is None else device
    mlp = MLP(
        in_features=layout.num_agents * layout.observation_size,
        out_features=count,
        num_cells=list(num_cells),
        activation_class=nn.ReLU,
        device=device,
    )
    values = TensorDictModule(_TeamMLP(mlp), in_keys=[OBSERVATION], out_keys=[JOINT_ACTION_VALUE])
    best = BestJointAction(
        num_agents=layout.num_agents, num_actions=layout.action_size, masked=layout.masked
    )
    return TensorDictSequential(values, best)
