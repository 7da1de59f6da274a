"""Networks of all agents with a memory: a GRU between two layers."""

from __future__ import annotations

import math

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase, TensorDictSequential
from torch import nn
from torchrl.data import Composite, Unbounded
from torchrl.envs import EnvBase, TensorDictPrimer
from torchrl.modules import recurrent_mode

from torchrl_alita._checks import check_same_shape, check_whole, require_keys, sizes
from torchrl_alita.layout import (
    IS_INIT,
    LAST_ACTION,
    LOGITS,
    OBSERVATION,
    PARAM,
    RECURRENT_STATE,
    layout_of,
    next_key,
)
from torchrl_alita.modules._gru import unroll_gru
from torchrl_alita.modules._mlp import PlainMultiAgentMLP, multi_agent_mlp
from torchrl_alita.modules.actors import acting, action_spec_of

__all__ = ["MultiAgentGRU", "make_recurrent_actor"]


class MultiAgentGRU(TensorDictModuleBase):
    r"""Layer, GRU, layer for each of N agents, ``[*B, N, O] -> [*B, N, F]``.

    .. math::
        x_t = \mathrm{ReLU}(W_x [o_t, a_{t-1}, i] + b_x), \quad
        h_t = \mathrm{GRU}(x_t, h_{t-1}), \quad
        y_t = W_y h_t + b_y

    The network of PyMARL's agents (https://arxiv.org/abs/1902.04043) and of Appendix D.3 of
    https://arxiv.org/abs/2108.12581, after DRQN (https://arxiv.org/abs/1507.06527). It
    follows TorchRL's conventions for recurrent modules: it reads its state and ``"is_init"``
    and writes the new state under "next". By itself it makes one step, of a batch of any
    shape; called with ``recurrent=True``, or under ``torchrl.modules.set_recurrent_mode(True)``
    as in every loss of TorchRL, it unrolls over the last dimension of a batch ``[*B, T]``,
    from the state at its first step, and from zeros wherever an episode begins. Both give the
    same values. An environment needs
    TorchRL's ``InitTracker`` and the primer of :meth:`make_tensordict_primer`, and
    :class:`torchrl_alita.transforms.LastAction` where the last action is read.

    TorchRL's GRUModule has no dimension of agents, and when unrolling it writes the state
    after the last step only; here it is written after every step, since the value of each
    next step begins there.

    Args:
        observation_size: O.
        action_size: A, of the last action; 0 where it is not read.
        out_features: F.
        num_agents: N.
        hidden_size: H, of both hidden layers. Default: 64, PyMARL's.
        share_params: one network for all agents, told the agent's index. Default: True,
            PyMARL's.
        observation: key read, ``[*B, N, O]``.
        last_action: key read, ``[*B, N, A]``.
        is_init: key read, bool ``[*B, 1]``: whether an episode begins here.
        recurrent_state: key read, ``[*B, N, H]``, and written under "next".
        out_key: key written, ``[*B, N, F]``. Default: ``("agents", "logits")``.
        device: of the parameters.

    Raises:
        ValueError: if a size is no whole number or too small; when called, if an entry has
            another shape, or, in recurrent mode, there is no dimension of time.
        TypeError: when called, if ``is_init`` is not bool.
        KeyError: when called, if the batch lacks a key.

    Examples:
        >>> from tensordict import TensorDict
        >>> from torchrl.modules import set_recurrent_mode
        >>> gru = MultiAgentGRU(observation_size=5, action_size=0, out_features=2, num_agents=3)
        >>> agents = {"observation": torch.randn(7, 11, 3, 5)}
        >>> agents["recurrent_state"] = torch.zeros(7, 11, 3, 64)
        >>> is_init = torch.zeros(7, 11, 1, dtype=torch.bool)
        >>> batch = TensorDict({"agents": agents, "is_init": is_init}, [7, 11])
        >>> with set_recurrent_mode(True):
        ...     gru(batch)["agents", "logits"].shape
        torch.Size([7, 11, 3, 2])
    """

    is_told_to_unroll = True

    def __init__(
        self,
        *,
        observation_size: int,
        action_size: int,
        out_features: int,
        num_agents: int,
        hidden_size: int = 64,
        share_params: bool = True,
        observation: NestedKey = OBSERVATION,
        last_action: NestedKey = LAST_ACTION,
        is_init: NestedKey = IS_INIT,
        recurrent_state: NestedKey = RECURRENT_STATE,
        out_key: NestedKey = LOGITS,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        (hidden_size,) = sizes("hidden_size", [hidden_size])
        (observation_size,) = sizes("observation_size", [observation_size])
        (num_agents,) = sizes("num_agents", [num_agents])
        check_whole(0, action_size=action_size)
        self.widths = {observation: observation_size, recurrent_state: hidden_size}
        if action_size:
            self.widths[last_action] = action_size
        self.num_agents = num_agents
        self.hidden_size = hidden_size
        self.share_params = share_params
        self.keys = (observation, is_init, recurrent_state)
        self.last_action = last_action if action_size else None
        self.in_keys = [*self.keys, *([last_action] if action_size else [])]
        self.out_keys = [out_key, next_key(recurrent_state)]
        # A shared network could not tell its agents apart without.
        agent_id = torch.eye(num_agents if share_params else 0, device=device)
        self.register_buffer("agent_id", agent_id)

        def layer(in_features: int, out_features: int) -> PlainMultiAgentMLP:
            return multi_agent_mlp(
                in_features=in_features,
                out_features=out_features,
                num_agents=num_agents,
                num_cells=(),
                share_params=share_params,
                initialize=_as_torch_does,
                device=device,
            )

        read = observation_size + action_size + agent_id.shape[-1]
        self.encoder = layer(read, hidden_size)
        # Reset, update and new gate side by side, as in torch.nn.GRU.
        self.input_gates = layer(hidden_size, 3 * hidden_size)
        self.state_gates = layer(hidden_size, 3 * hidden_size)
        self.decoder = layer(hidden_size, out_features)

    def make_tensordict_primer(self) -> TensorDictPrimer:
        """The transform that gives every episode a state of zeros to begin with."""
        spec = Unbounded((self.num_agents, self.hidden_size))
        *group, name = self.out_keys[1][1:]
        # A group has a batch dimension of agents, here too.
        spec = Composite({name: spec}, shape=spec.shape[:1] if group else ())
        for part in reversed(group):
            spec = Composite({part: spec})
        return TensorDictPrimer(spec, expand_specs=True)

    def forward(self, tensordict: TensorDictBase, recurrent: bool | None = None) -> TensorDictBase:
        require_keys(tensordict, self.in_keys)
        self._check_shapes(tensordict)
        observation, is_init, state = (tensordict.get(key) for key in self.keys)
        inputs = self.input_gates(self._encoded(tensordict, observation))
        if recurrent_mode() if recurrent is None else recurrent:
            states = self._unrolled(inputs, is_init, state)
        else:
            step = self._steps(inputs.unsqueeze(0), is_init.unsqueeze(0), state)
            states = step.squeeze(-3)
        tensordict.set(self.out_keys[0], self._decoded(tensordict, states))
        self._open_next_group(tensordict)
        return tensordict.set(self.out_keys[1], states)

    def _decoded(self, tensordict: TensorDictBase, states: torch.Tensor) -> torch.Tensor:
        return self.decoder(states)

    def _open_next_group(self, tensordict: TensorDictBase) -> None:
        """Give the agents under "next" the batch size of those here, as an environment does."""
        _, *group, _ = self.out_keys[1]
        if not group:
            return
        path = ("next", *group)
        if tensordict.get(path, None) is None:
            tensordict.set(path, tensordict.get(tuple(group)).empty())

    def _check_shapes(self, tensordict: TensorDictBase) -> None:
        """Nothing may broadcast: not the agents, not the steps, not the beginnings."""
        is_init = tensordict.get(self.keys[1])
        if is_init.dtype != torch.bool:
            raise TypeError(f"{self.keys[1]} must be bool, got {is_init.dtype}.")
        rows = is_init.shape[:-1]
        check_same_shape(tensordict, self.keys[1], (*rows, 1))
        for key, width in self.widths.items():
            check_same_shape(tensordict, key, (*rows, self.num_agents, width))

    def _encoded(self, tensordict: TensorDictBase, observation: torch.Tensor) -> torch.Tensor:
        parts = [observation]
        if self.last_action is not None:
            parts.append(tensordict.get(self.last_action).to(observation.dtype))
        if self.share_params:
            parts.append(self.agent_id.expand(*observation.shape[:-1], -1))
        return torch.relu(self.encoder(*parts))

    def _unrolled(
        self, inputs: torch.Tensor, is_init: torch.Tensor, state: torch.Tensor
    ) -> torch.Tensor:
        """States after each step, ``[*B, T, N, 3H] -> [*B, T, N, H]``."""
        if inputs.ndim < 3:
            raise ValueError(
                f"Recurrent mode needs a batch [*B, T] with a dimension of time, got gates of "
                f"{tuple(inputs.shape)}."
            )
        return self._steps(inputs.movedim(-3, 0), is_init.movedim(-2, 0), state.select(-3, 0))

    def _steps(
        self, inputs: torch.Tensor, is_init: torch.Tensor, state: torch.Tensor
    ) -> torch.Tensor:
        """From the first step's state, ``[T, *B, N, 3H], [T, *B, 1] -> [*B, T, N, H]``."""
        num_steps, *batch_size, num_agents, _ = inputs.shape
        weight, bias = self.state_gates.first_layer()
        begins = is_init.unsqueeze(-1).expand(*inputs.shape[:-1], 1)
        if self.share_params:
            # One network, whose rows are those of all agents.
            weight, bias = weight.unsqueeze(0), bias.unsqueeze(0)
            shape = (1, -1)
        else:
            inputs, begins, state = (
                part.movedim(-2, -2 - len(batch_size)) for part in (inputs, begins, state)
            )
            shape = (num_agents, -1)
        inputs, begins = (
            part.reshape(num_steps, *shape, part.shape[-1]) for part in (inputs, begins)
        )
        # In mixed precision too the memory has all its digits.
        inputs, state = inputs.to(weight.dtype), state.to(weight.dtype)
        states = unroll_gru(inputs, begins, state.reshape(*shape, self.hidden_size), weight, bias)
        if self.share_params:
            return states.view(num_steps, *batch_size, num_agents, -1).movedim(0, -3)
        return states.view(num_steps, num_agents, *batch_size, -1).movedim((0, 1), (-3, -2))


def _as_torch_does(matrix: torch.Tensor) -> torch.Tensor:
    """The numbers of torch's Linear and, with as many inputs as states, GRU."""
    bound = 1 / math.sqrt(matrix.shape[-1])
    return nn.init.uniform_(matrix, -bound, bound)


def make_recurrent_actor(
    env: EnvBase,
    *,
    hidden_size: int = 64,
    share_params: bool = True,
    last_action: bool = True,
    temperature: float = 1.0,
    device: torch.device | str | None = None,
) -> TensorDictSequential:
    """Policies with a memory of N agents, ``[*B, N, O] -> [*B, N, A]``.

    A :class:`MultiAgentGRU` in the place of the perceptrons of
    :func:`torchrl_alita.modules.make_actor`; its actions are drawn in the same way. An
    environment needs the transforms of :func:`torchrl_alita.transforms.recurrent_transforms`.

    Args:
        env: an environment in the layout of this package, with bounded continuous or
            one-hot actions.
        hidden_size: of both hidden layers. Default: 64, Appendix D.3 of
            https://arxiv.org/abs/2108.12581.
        share_params: one policy for all agents, told the agent's index.
        last_action: read the agent's last action too, as PyMARL's agents do.
        temperature: of the gradient of one-hot actions, positive.
        device: of the parameters. Default: the environment's.

    Returns:
        The same as :func:`torchrl_alita.modules.make_actor`.

    Raises:
        KeyError: if the environment has another layout.
        ValueError: if its actions are neither continuous and bounded nor one-hot, or an
            argument is out of range.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> from torchrl_alita.transforms import recurrent_transforms
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=3)
        >>> actor = make_recurrent_actor(env)
        >>> env = env.append_transform(recurrent_transforms(actor))
        >>> env.rollout(4, actor)["agents", "recurrent_state"].shape
        torch.Size([5, 4, 3, 64])
    """
    spec, device = action_spec_of(env), env.device if device is None else device
    out_key = LOGITS if layout_of(env).discrete else PARAM
    net = recurrent_net(
        env,
        out_key=out_key,
        hidden_size=hidden_size,
        share_params=share_params,
        last_action=last_action,
        device=device,
    )
    return acting(net, layout_of(env), spec, temperature=temperature, device=device)


def recurrent_net(
    env: EnvBase,
    *,
    out_key: NestedKey,
    hidden_size: int,
    share_params: bool,
    last_action: bool,
    device: torch.device | str | None,
) -> MultiAgentGRU:
    """A network that writes a number for each of an environment's A action features."""
    layout = layout_of(env)
    return MultiAgentGRU(
        observation_size=layout.observation_size,
        action_size=layout.action_size if last_action else 0,
        out_features=layout.action_size,
        num_agents=layout.num_agents,
        hidden_size=hidden_size,
        share_params=share_params,
        out_key=out_key,
        device=device,
    )
