"""The policies of all agents in one module."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict.nn import (
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictModuleBase,
    TensorDictSequential,
)
from torchrl.data import Bounded, TensorSpec
from torchrl.envs import EnvBase
from torchrl.modules import TanhModule

from torchrl_alita.layout import ACTION, LOGITS, OBSERVATION, PARAM, Layout, layout_of
from torchrl_alita.modules._mlp import multi_agent_mlp
from torchrl_alita.modules.goals import goal_attention_of
from torchrl_alita.modules.one_hot import GumbelOneHot

__all__ = ["make_actor"]


def make_actor(
    env: EnvBase,
    *,
    num_cells: Sequence[int] = (128, 128),
    share_params: bool = False,
    layer_norm: bool = True,
    goal_attention: bool = False,
    own_features: int = 4,
    temperature: float = 1.0,
    device: torch.device | str | None = None,
) -> TensorDictSequential:
    """Policies of N agents, ``[*B, N, O] -> [*B, N, A]``.

    Each is a perceptron with LayerNorm on the pre-activations, ReLU, Glorot
    initialization (Appendix D.2 of https://arxiv.org/abs/2108.12581). It reads
    ``("agents", "observation")`` and writes ``("agents", "action")``. Continuous actions
    are deterministic: a tanh of ``("agents", "param")`` onto their range. One-hot actions
    come from ``("agents", "logits")`` through
    :class:`torchrl_alita.modules.GumbelOneHot`, which respects
    ``("agents", "action_mask")`` where the environment has it; ``get_dist`` gives their
    distribution.

    Args:
        env: an environment in the layout of this package, with bounded continuous or
            one-hot actions.
        num_cells: width of each hidden layer. Default: (128, 128), the paper's.
        share_params: one policy for all agents. Default: False, the paper's.
        layer_norm: Default: True, the paper's.
        goal_attention: a :class:`torchrl_alita.modules.GoalAttention` in the perceptrons'
            place, of the first of ``num_cells`` in width. It has no index, no LayerNorm, and
            is shared.
        own_features: leading features of an observation that are no offsets, for it.
        temperature: of the gradient of one-hot actions, positive.
        device: of the parameters. Default: the environment's.

    Returns:
        A TensorDictSequential, as TorchRL's collectors and losses take it; for one-hot
        actions a ProbabilisticTensorDictSequential.

    Raises:
        KeyError: if the environment has another layout.
        ValueError: if its actions are neither continuous and bounded nor one-hot, or the
            temperature is not positive, or for ``goal_attention`` its observations have no
            room for goals.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=3)
        >>> make_actor(env)(env.reset())["agents", "action"].shape
        torch.Size([5, 3, 2])
    """
    layout, spec = layout_of(env), action_spec_of(env)
    device = env.device if device is None else device
    if goal_attention:
        net = goal_attention_of(env, num_cells[0], own_features=own_features, device=device)
    else:
        net = multi_agent_mlp(
            in_features=layout.observation_size,
            out_features=layout.action_size,
            num_agents=layout.num_agents,
            num_cells=num_cells,
            share_params=share_params,
            layer_norm=layer_norm,
            device=device,
        )
    out_key = LOGITS if layout.discrete else PARAM
    module = TensorDictModule(net, in_keys=[OBSERVATION], out_keys=[out_key])
    return acting(module, layout, spec, temperature=temperature, device=device)


def action_spec_of(env: EnvBase) -> TensorSpec:
    """Spec of the actions of all agents, ``[N, A]``.

    Raises:
        ValueError: if they are neither continuous and bounded nor one-hot.
    """
    spec = env.full_action_spec_unbatched[ACTION]
    continuous = isinstance(spec, Bounded) and spec.dtype.is_floating_point
    if not continuous and not layout_of(env).discrete:
        raise ValueError(f"A policy needs bounded continuous or one-hot actions, got {spec}.")
    return spec


def require_one_hot(env: EnvBase, what: str) -> None:
    """Raise a ValueError unless actions are one-hot; ``what`` needs it."""
    layout = layout_of(env)
    if not layout.discrete:
        raise ValueError(
            f"{what} need one-hot actions; here they are {layout.action_size} numbers of each agent. "
            "The task push_box, for one, has one-hot actions."
        )


def acting(
    module: TensorDictModuleBase,
    layout: Layout,
    spec: TensorSpec,
    *,
    temperature: float,
    device: torch.device | str | None,
) -> TensorDictSequential:
    """A module that writes logits or params, followed by the actions that come of them."""
    if layout.discrete:
        draw = GumbelOneHot(temperature=temperature, masked=layout.masked)
        return ProbabilisticTensorDictSequential(module, draw)
    return TensorDictSequential(
        module,
        TanhModule(
            in_keys=[PARAM],
            out_keys=[ACTION],
            low=spec.space.low.to(device),
            high=spec.space.high.to(device),
        ),
    )
