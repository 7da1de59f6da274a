"""LICA's mixing critic: the team's value of its members' policies."""

from __future__ import annotations

import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.envs import EnvBase

from torchrl_alita._checks import check_whole, sizes
from torchrl_alita.layout import ACTION, OBSERVATION, STATE, has_state, layout_of, state_size_of

__all__ = ["LICAMixer", "make_mixing_critic"]

TEAM_VALUE = "state_action_value"


class LICAMixer(nn.Module):
    r"""Value of N agents' actions or their probabilities, ``[*B, N, A], [*B, S] -> [*B, 1]``.

    .. math:: Q(s, u) = W_2(s) \, \mathrm{ReLU}(W_1(s) u + b_1(s)) + b_2(s)

    Source: https://arxiv.org/abs/2007.02529. What multiplies the actions is made of the
    state by hyper-networks: the gradient of each policy depends on the state and on all
    other policies. Unlike in QMIX, whose mixer it resembles, no weight need be positive.

    The authors' hyper-networks have two layers, as wide within as their output, which is
    64 N A numbers: 136 million parameters for six agents and 30 actions. Here they have one
    layer, or two of ``hypernet_size`` within.

    Args:
        action_size: A.
        num_agents: N.
        state_size: S.
        mixing_embed_dim: width of the hidden layer. Default: 64, the authors'.
        hypernet_layers: 1 or 2.
        hypernet_size: width within hyper-networks of two layers.
        device: of the parameters.

    Raises:
        ValueError: if an argument is out of range; when called, if a shape does not fit.
        TypeError: when called, if the state is of another dtype than the parameters.

    Examples:
        >>> mixer = LICAMixer(action_size=2, num_agents=3, state_size=17)
        >>> mixer(torch.full((7, 3, 2), 0.5), torch.randn(7, 17)).shape
        torch.Size([7, 1])
    """

    def __init__(
        self,
        *,
        action_size: int,
        num_agents: int,
        state_size: int,
        mixing_embed_dim: int = 64,
        hypernet_layers: int = 1,
        hypernet_size: int = 64,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        check_whole(1, 2, hypernet_layers=hypernet_layers)
        (action_size,), (num_agents,), (state_size,), (embed,), (within,) = (
            sizes(name, [size])
            for name, size in (
                ("action_size", action_size),
                ("num_agents", num_agents),
                ("state_size", state_size),
                ("mixing_embed_dim", mixing_embed_dim),
                ("hypernet_size", hypernet_size),
            )
        )
        self.num_agents, self.action_size, self.state_size = num_agents, action_size, state_size

        def hypernet(out_features: int) -> nn.Module:
            if hypernet_layers == 1:
                return nn.Linear(state_size, out_features, device=device)
            return nn.Sequential(
                nn.Linear(state_size, within, device=device),
                nn.ReLU(),
                nn.Linear(within, out_features, device=device),
            )

        self.first_weight = hypernet(num_agents * action_size * embed)
        self.first_bias = nn.Linear(state_size, embed, device=device)
        self.second_weight = hypernet(embed)
        self.second_bias = nn.Sequential(
            nn.Linear(state_size, embed, device=device),
            nn.ReLU(),
            nn.Linear(embed, 1, device=device),
        )

    def forward(self, action: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        expected = ((self.num_agents, self.action_size), self.state_size)
        if (tuple(action.shape[-2:]), state.shape[-1]) != expected:
            raise ValueError(
                f"The mixer takes actions [*B, {self.num_agents}, {self.action_size}] and a "
                f"state of {self.state_size} features, got {tuple(action.shape)} and "
                f"{tuple(state.shape)}."
            )
        dtype = self.first_bias.weight.dtype
        if state.dtype != dtype and not torch.is_autocast_enabled(state.device.type):
            raise TypeError(
                f"The mixer's parameters are {dtype}, the state is {state.dtype}: cast the batch "
                f"or the network."
            )
        joint = action.flatten(-2).unsqueeze(-2).to(state.dtype)
        weight = self.first_weight(state).unflatten(-1, (joint.shape[-1], -1))
        hidden = torch.relu((joint @ weight).squeeze(-2) + self.first_bias(state))
        mixed = (hidden * self.second_weight(state)).sum(-1, keepdim=True)
        return mixed + self.second_bias(state)


class _AllObservations(nn.Module):
    """A mixer whose state is made of all observations, ``[*B, N, A], [*B, N, O] -> [*B, 1]``."""

    def __init__(self, mixer: LICAMixer):
        super().__init__()
        self.mixer = mixer

    def forward(self, action: torch.Tensor, observation: torch.Tensor) -> torch.Tensor:
        return self.mixer(action, observation.flatten(-2))


def make_mixing_critic(
    env: EnvBase,
    *,
    mixing_embed_dim: int = 64,
    hypernet_layers: int = 1,
    hypernet_size: int = 64,
    device: torch.device | str | None = None,
) -> TensorDictModule:
    """The team's value of actions or probabilities, ``[*B, N, L] -> [*B, 1]``.

    A :class:`LICAMixer` that reads ``("agents", "action")`` and the ``"state"``, or where an
    environment has none all observations, and writes ``"state_action_value"``.

    Args:
        env: an environment in the layout of this package.
        mixing_embed_dim: see :class:`LICAMixer`.
        hypernet_layers: see :class:`LICAMixer`.
        hypernet_size: see :class:`LICAMixer`.
        device: of the parameters. Default: the environment's.

    Returns:
        A TensorDictModule.

    Raises:
        KeyError: if the environment has another layout.
        ValueError: if an argument is out of range.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("push_box", num_envs=5, n_agents=2)
        >>> make_mixing_critic(env)(env.rand_action(env.reset()))["state_action_value"].shape
        torch.Size([5, 1])
    """
    layout = layout_of(env)
    reads_state = has_state(env)
    joint_size = layout.num_agents * layout.observation_size
    mixer = LICAMixer(
        action_size=layout.action_size,
        num_agents=layout.num_agents,
        state_size=state_size_of(env) if reads_state else joint_size,
        mixing_embed_dim=mixing_embed_dim,
        hypernet_layers=hypernet_layers,
        hypernet_size=hypernet_size,
        device=env.device if device is None else device,
    )
    if reads_state:
        return TensorDictModule(mixer, in_keys=[ACTION, STATE], out_keys=[TEAM_VALUE])
    net = _AllObservations(mixer)
    return TensorDictModule(net, in_keys=[ACTION, OBSERVATION], out_keys=[TEAM_VALUE])
