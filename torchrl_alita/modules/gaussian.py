"""Policies that draw continuous actions, and values of states."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict.nn import TensorDictModule
from tensordict.nn.distributions import AddStateIndependentNormalScale, NormalParamExtractor
from torch import nn
from torchrl.data import Bounded
from torchrl.envs import EnvBase
from torchrl.modules import ProbabilisticActor, TanhNormal

from torchrl_alita.layout import (
    ACTION,
    LOC,
    LOG_PROB,
    OBSERVATION,
    SCALE,
    STATE_VALUE,
    layout_of,
)
from torchrl_alita.modules._mlp import multi_agent_mlp

__all__ = ["make_gaussian_actor", "make_value"]


def make_gaussian_actor(
    env: EnvBase,
    *,
    num_cells: Sequence[int] = (256, 256),
    layer_norm: bool = False,
    constant_scale: bool = False,
    device: torch.device | str | None = None,
) -> ProbabilisticActor:
    """Policies of N agents that draw from a Gaussian, ``[*B, N, O] -> [*B, N, A]``.

    A tanh takes the draw onto the range of the actions, as in soft actor-critic
    (https://arxiv.org/abs/1812.05905, Appendix C). It reads ``("agents", "observation")``
    and writes ``("agents", "action")``, ``("agents", "action_log_prob")`` and the Gaussian's
    ``("agents", "loc")`` and ``("agents", "scale")``; ``get_dist`` gives the distribution.

    Args:
        env: an environment in the layout of this package, with bounded continuous actions.
        num_cells: width of each hidden layer. Default: (256, 256), that of SAC's paper.
        layer_norm: normalize the pre-activations of the hidden layers.
        constant_scale: one scale for all states, a parameter that starts at 1, as in PPO's
            paper. Default: a scale for each state.
        device: of the parameters. Default: the environment's.

    Returns:
        A ProbabilisticActor, as TorchRL's collectors and losses take it.

    Raises:
        KeyError: if the environment has another layout.
        ValueError: if its actions are not continuous and bounded, or one has no range.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=3)
        >>> make_gaussian_actor(env)(env.reset())["agents", "action_log_prob"].shape
        torch.Size([5, 3])
    """
    layout = layout_of(env)
    spec = env.full_action_spec_unbatched[ACTION]
    if not (isinstance(spec, Bounded) and spec.dtype.is_floating_point):
        raise ValueError(f"make_gaussian_actor needs bounded continuous actions, got {spec}.")
    if not bool((spec.space.low < spec.space.high).all()):
        raise ValueError(
            "make_gaussian_actor needs actions with a range each, got some with one value, as the "
            "padding of unequal agents has: see make_stochastic_actor."
        )
    device = env.device if device is None else device
    size = layout.action_size
    net = multi_agent_mlp(
        in_features=layout.observation_size,
        out_features=size if constant_scale else 2 * size,
        num_agents=layout.num_agents,
        num_cells=num_cells,
        layer_norm=layer_norm,
        device=device,
    )
    scale = (
        AddStateIndependentNormalScale((layout.num_agents, size), device=device)
        if constant_scale
        else NormalParamExtractor()
    )
    return ProbabilisticActor(
        TensorDictModule(nn.Sequential(net, scale), in_keys=[OBSERVATION], out_keys=[LOC, SCALE]),
        in_keys={"loc": LOC, "scale": SCALE},
        out_keys=[ACTION],
        distribution_class=TanhNormal,
        distribution_kwargs={
            "low": spec.space.low.to(device),
            "high": spec.space.high.to(device),
        },
        return_log_prob=True,
        log_prob_key=LOG_PROB,
    )


def make_value(
    env: EnvBase,
    *,
    num_cells: Sequence[int] = (256, 256),
    layer_norm: bool = False,
    device: torch.device | str | None = None,
) -> TensorDictModule:
    """Value of its own state for each of N agents, ``[*B, N, O] -> [*B, N, 1]``.

    Reads ``("agents", "observation")``, writes ``("agents", "state_value")``.

    Args:
        env: an environment in the layout of this package.
        num_cells: width of each hidden layer.
        layer_norm: normalize the pre-activations of the hidden layers.
        device: of the parameters. Default: the environment's.

    Returns:
        A TensorDictModule.

    Raises:
        KeyError: if the environment has another layout.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=3)
        >>> make_value(env)(env.reset())["agents", "state_value"].shape
        torch.Size([5, 3, 1])
    """
    layout = layout_of(env)
    net = multi_agent_mlp(
        in_features=layout.observation_size,
        out_features=1,
        num_agents=layout.num_agents,
        num_cells=num_cells,
        layer_norm=layer_norm,
        device=env.device if device is None else device,
    )
    return TensorDictModule(net, in_keys=[OBSERVATION], out_keys=[STATE_VALUE])
