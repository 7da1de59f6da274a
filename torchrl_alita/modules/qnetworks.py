"""Values of every action of all agents, and the best of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictModuleBase, TensorDictSequential
from torchrl.envs import EnvBase

from torchrl_alita._checks import require_keys
from torchrl_alita.functional import allowed_actions
from torchrl_alita.layout import (
    ACTION,
    ACTION_MASK,
    ACTION_VALUE,
    CHOSEN_ACTION_VALUE,
    OBSERVATION,
    layout_of,
)
from torchrl_alita.modules._mlp import multi_agent_mlp
from torchrl_alita.modules.actors import require_one_hot
from torchrl_alita.modules.recurrent import recurrent_net

__all__ = ["BestAction", "make_qnetwork"]


class BestAction(TensorDictModuleBase):
    """The action of the largest value, one-hot, ``[*B, N, L] -> [*B, N, L]``.

    TorchRL's QValueModule, for one-hot actions, takes several at once where their values are
    equal; here it is the first. A masked action's value becomes the least number of its
    dtype, so that it is never taken; where a mask allows nothing, it is padding, and allows
    everything.

    Args:
        masked: read a mask, bool ``[*B, N, L]``, True where an action is allowed.
        action_value: key read, and written with what the mask changed. Default:
            ``("agents", "action_value")``.
        action_mask: key read, if masked. Default: ``("agents", "action_mask")``.
        action: key written. Default: ``("agents", "action")``.
        chosen_action_value: key written, ``[*B, N, 1]``. Default:
            ``("agents", "chosen_action_value")``.

    Raises:
        KeyError: when called, if the batch lacks a key.
        TypeError: when called, if the mask is not bool.

    Examples:
        >>> from tensordict import TensorDict
        >>> values = torch.tensor([[1.0, 3.0, 3.0]])
        >>> BestAction()(TensorDict({"agents": {"action_value": values}}))["agents", "action"]
        tensor([[0., 1., 0.]])
    """

    def __init__(
        self,
        *,
        masked: bool = False,
        action_value: NestedKey = ACTION_VALUE,
        action_mask: NestedKey = ACTION_MASK,
        action: NestedKey = ACTION,
        chosen_action_value: NestedKey = CHOSEN_ACTION_VALUE,
    ):
        super().__init__()
        self.masked = masked
        self.in_keys = [action_value, *([action_mask] if masked else [])]
        self.out_keys = [action, action_value, chosen_action_value]

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        require_keys(tensordict, self.in_keys)
        values = tensordict.get(self.in_keys[0])
        if self.masked:
            allowed = allowed_actions(tensordict.get(self.in_keys[1]))
            values = values.masked_fill(~allowed, torch.finfo(values.dtype).min)
        best = values.argmax(-1, keepdim=True)
        action = torch.zeros_like(values).scatter(-1, best, 1.0)
        for key, value in zip(
            self.out_keys, (action, values, values.gather(-1, best)), strict=True
        ):
            tensordict.set(key, value)
        return tensordict


def make_qnetwork(
    env: EnvBase,
    *,
    recurrent: bool = True,
    hidden_size: int = 64,
    num_cells: Sequence[int] = (128, 128),
    share_params: bool = True,
    last_action: bool = True,
    device: torch.device | str | None = None,
) -> TensorDictSequential:
    """Values of each agent's actions and the best of them, ``[*B, N, O] -> [*B, N, L]``.

    PyMARL's agent (https://arxiv.org/abs/1902.04043): a
    :class:`torchrl_alita.modules.MultiAgentGRU`, or, without memory, a perceptron; then
    :class:`BestAction`. It writes ``("agents", "action_value")``, ``("agents", "action")`` and
    ``("agents", "chosen_action_value")`` ``[*B, N, 1]``.

    Args:
        env: an environment in the layout of this package, with one-hot actions.
        recurrent: with a memory: the environment needs the transforms of
            :func:`torchrl_alita.transforms.recurrent_transforms`.
        hidden_size: of both hidden layers of a recurrent network. Default: 64, PyMARL's.
        num_cells: width of each hidden layer of a perceptron.
        share_params: one network for all agents. A recurrent one is told the agent's index.
        last_action: a recurrent network reads the agent's last action too.
        device: of the parameters. Default: the environment's.

    Returns:
        A TensorDictSequential, as TorchRL's collectors and losses take it.

    Raises:
        KeyError: if the environment has another layout.
        ValueError: if its actions are not one-hot, or an argument is out of range.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> from torchrl_alita.transforms import recurrent_transforms
        >>> env = make_env("push_box", num_envs=5, n_agents=2)
        >>> network = make_qnetwork(env)
        >>> env = env.append_transform(recurrent_transforms(network))
        >>> env.rollout(4, network)["agents", "chosen_action_value"].shape
        torch.Size([5, 4, 2, 1])
    """
    layout = layout_of(env)
    require_one_hot(env, "Values of actions")
    device = env.device if device is None else device
    if recurrent:
        net = recurrent_net(
            env,
            out_key=ACTION_VALUE,
            hidden_size=hidden_size,
            share_params=share_params,
            last_action=last_action,
            device=device,
        )
    else:
        perceptron = multi_agent_mlp(
            in_features=layout.observation_size,
            out_features=layout.action_size,
            num_agents=layout.num_agents,
            num_cells=num_cells,
            share_params=share_params,
            device=device,
        )
        net = TensorDictModule(perceptron, in_keys=[OBSERVATION], out_keys=[ACTION_VALUE])
    return TensorDictSequential(net, BestAction(masked=layout.masked))
