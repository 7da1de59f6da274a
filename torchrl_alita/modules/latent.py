"""Networks for teams that agree on a latent variable in each episode, as MAVEN's do."""

from __future__ import annotations

from itertools import pairwise

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import (
    InteractionType,
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictModuleBase,
    TensorDictSequential,
)
from torch import nn
from torch.distributions import OneHotCategorical
from torchrl.envs import EnvBase
from torchrl.modules import QMixer

from torchrl_alita._borrow import borrow
from torchrl_alita._checks import check_same_shape, require_keys, sizes
from torchrl_alita.layout import (
    ACTION_VALUE,
    CHOSEN_ACTION_VALUE,
    IS_INIT,
    LATENT,
    LATENT_LOG_PROB,
    LATENT_LOGITS,
    OBSERVATION,
    STATE,
    has_state,
    layout_of,
    state_size_of,
)
from torchrl_alita.modules.actors import require_one_hot
from torchrl_alita.modules.qnetworks import BestAction
from torchrl_alita.modules.recurrent import MultiAgentGRU

__all__ = [
    "LatentGRU",
    "TrajectoryDiscriminator",
    "make_discriminator",
    "make_latent_mixer",
    "make_latent_policy",
    "make_latent_qnetwork",
]


class LatentGRU(MultiAgentGRU):
    r"""A GRU of N agents whose last layer is made of a latent variable, ``-> [*B, N, F]``.

    .. math:: y_i = W(z, i) \, h_i

    where h is the memory of :class:`MultiAgentGRU`, whose parameters the agents share, and
    all numbers of W come out of one layer that reads z and the agent's index: the agent of
    MAVEN (https://arxiv.org/abs/1910.07483).

    Args:
        num_latents: Z.
        latent: key read, ``[*B, Z]``. Default: ``"latent"``.
        **options: those of :class:`MultiAgentGRU`, but ``share_params``.

    Raises:
        ValueError: as in :class:`MultiAgentGRU`.
        TypeError: as in :class:`MultiAgentGRU`.
        KeyError: as in :class:`MultiAgentGRU`.

    Examples:
        >>> from tensordict import TensorDict
        >>> gru = LatentGRU(num_latents=4, observation_size=5, action_size=0, out_features=2,
        ...     num_agents=3)
        >>> agents = {"observation": torch.randn(7, 3, 5)}
        >>> agents["recurrent_state"] = torch.zeros(7, 3, 64)
        >>> is_init = torch.zeros(7, 1, dtype=torch.bool)
        >>> latent = torch.eye(4)[torch.zeros(7, dtype=torch.long)]
        >>> batch = TensorDict({"agents": agents, "is_init": is_init, "latent": latent}, [7])
        >>> gru(batch)["agents", "logits"].shape
        torch.Size([7, 3, 2])
    """

    def __init__(self, *, num_latents: int, latent: NestedKey = LATENT, **options):
        super().__init__(share_params=True, **options)
        (self.num_latents,) = sizes("num_latents", [num_latents])
        self.latent = latent
        # What draws the variable; with none each value is as likely.
        self.latent_policy: TensorDictModuleBase | None = None
        self.in_keys = [*self.in_keys, latent]
        out_features = options["out_features"]
        self.decoder = nn.Linear(
            num_latents + self.num_agents,
            self.hidden_size * out_features,
            device=self.agent_id.device,
        )

    def _decoded(self, tensordict: TensorDictBase, states: torch.Tensor) -> torch.Tensor:
        rows = states.shape[:-2]
        check_same_shape(tensordict, self.latent, (*rows, self.num_latents))
        latent = tensordict.get(self.latent).unsqueeze(-2)
        read = torch.cat(
            [
                latent.expand(*rows, self.num_agents, -1).to(states.dtype),
                self.agent_id.expand(*rows, -1, -1),
            ],
            -1,
        )
        weight = self.decoder(read).unflatten(-1, (self.hidden_size, -1))
        return (states.unsqueeze(-2) @ weight).squeeze(-2)


def make_latent_qnetwork(
    env: EnvBase,
    *,
    num_latents: int,
    hidden_size: int = 64,
    last_action: bool = True,
    device: torch.device | str | None = None,
) -> TensorDictSequential:
    """Values of each agent's actions, given a latent variable, and the best of them.

    As :func:`torchrl_alita.modules.make_qnetwork`, ``[*B, N, O], [*B, Z] -> [*B, N, L]``, with
    a :class:`LatentGRU`.

    Args:
        env: an environment in the layout of this package, with one-hot actions.
        num_latents: Z.
        hidden_size: of both hidden layers. Default: 64, the authors'.
        last_action: read the agent's last action too.
        device: of the parameters. Default: the environment's.

    Returns:
        A TensorDictSequential, which needs an environment with the transforms of
        :func:`torchrl_alita.transforms.recurrent_transforms`.

    Raises:
        KeyError: if the environment has another layout.
        ValueError: if its actions are not one-hot, or an argument is out of range.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> from torchrl_alita.transforms import recurrent_transforms
        >>> env = make_env("push_box", num_envs=5, n_agents=2)
        >>> network = make_latent_qnetwork(env, num_latents=4)
        >>> env = env.append_transform(recurrent_transforms(network))
        >>> env.rollout(3, network)["agents", "chosen_action_value"].shape
        torch.Size([5, 3, 2, 1])
    """
    layout = layout_of(env)
    require_one_hot(env, "Values of actions")
    net = LatentGRU(
        num_latents=num_latents,
        observation_size=layout.observation_size,
        action_size=layout.action_size if last_action else 0,
        out_features=layout.action_size,
        num_agents=layout.num_agents,
        hidden_size=hidden_size,
        out_key=ACTION_VALUE,
        device=env.device if device is None else device,
    )
    return TensorDictSequential(net, BestAction(masked=layout.masked))


def give_latent_policy(network: TensorDictModuleBase, latent_policy: TensorDictModuleBase) -> None:
    """Let a network's latent variable be drawn by a policy, which the network does not own.

    Args:
        network: of :func:`make_latent_qnetwork`.
        latent_policy: as :func:`make_latent_policy` makes it, for
            :func:`torchrl_alita.transforms.recurrent_transforms`.
    """
    for module in network.modules():
        if isinstance(module, LatentGRU):
            borrow(module, "latent_policy", latent_policy)


class _LatentMixer(nn.Module):
    """A mixer of TorchRL whose state is the team's, or all observations, beside z."""

    def __init__(self, mixer: QMixer, *, flatten: bool, sizes: tuple[int, int]):
        super().__init__()
        self.mixer = mixer
        self.flatten = flatten
        self.sizes = sizes

    def forward(
        self, value: torch.Tensor, state: torch.Tensor, latent: torch.Tensor
    ) -> torch.Tensor:
        state = state.flatten(-2) if self.flatten else state
        rows = tuple(value.shape[:-2])
        shapes = [(*rows, size) for size in self.sizes]
        found = [tuple(state.shape), tuple(latent.shape)]
        if found != shapes:
            raise ValueError(
                f"The state and the latent variable must have the shapes {shapes}, got {found}."
            )
        return self.mixer(value, torch.cat([state, latent.to(state.dtype)], -1))


def make_latent_mixer(
    env: EnvBase,
    *,
    num_latents: int,
    mixing_embed_dim: int = 32,
    device: torch.device | str | None = None,
) -> TensorDictModule:
    """QMIX's mixer that also reads a latent variable, ``[*B, N, 1], [*B, Z] -> [*B, 1]``.

    Args:
        env: an environment in the layout of this package. The mixer reads its ``"state"``,
            or where it has none all observations.
        num_latents: Z.
        mixing_embed_dim: width of the mixer's layers. Default: 32, PyMARL's.
        device: of the parameters. Default: the environment's.

    Returns:
        A TensorDictModule, for :class:`torchrl_alita.ValueDecompositionLoss`.

    Raises:
        KeyError: if the environment has another layout.
        ValueError: if an argument is out of range.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> mixer = make_latent_mixer(make_env("push_box", n_agents=2), num_latents=4)
        >>> mixer.in_keys[-1], mixer.out_keys
        ('latent', ['chosen_action_value'])
    """
    (num_latents,) = sizes("num_latents", [num_latents])
    (mixing_embed_dim,) = sizes("mixing_embed_dim", [mixing_embed_dim])
    layout = layout_of(env)
    seen, size = _seen_by_the_team(env)
    mixer = QMixer(
        state_shape=(size + num_latents,),
        mixing_embed_dim=mixing_embed_dim,
        n_agents=layout.num_agents,
        device=env.device if device is None else device,
    )
    net = _LatentMixer(mixer, flatten=seen == OBSERVATION, sizes=(size, num_latents))
    return TensorDictModule(net, [CHOSEN_ACTION_VALUE, seen, LATENT], ["chosen_action_value"])


class TrajectoryDiscriminator(TensorDictModuleBase):
    r"""Guesses a team's latent variable from what it does, ``[*B, T, N, L] -> [*B, T, Z]``.

    .. math:: q(z | \sigma(Q(o_1, \cdot)), s_1, .., \sigma(Q(o_t, \cdot)), s_t)

    It reads the softmax of each agent's action values, through which the gradient reaches
    them, and the state, and keeps a memory over the episode: the variational posterior of
    MAVEN (https://arxiv.org/abs/1910.07483). Without a memory it sees single steps.

    Args:
        num_agents: N.
        action_size: L.
        state_size: S.
        num_latents: Z.
        hidden_size: of its layers.
        recurrent: with a memory.
        state: key read, ``[*B, T, S]``, or where ``reads_observations``, ``[*B, T, N, O]``.
        reads_observations: the state is made of all observations.
        action_value: key read. Default: ``("agents", "action_value")``.
        is_init: key read, with a memory.
        device: of the parameters.

    Raises:
        ValueError: if a size is below 1.
        KeyError: when called, if the batch lacks a key.

    Examples:
        >>> from tensordict import TensorDict
        >>> from torchrl.modules import set_recurrent_mode
        >>> net = TrajectoryDiscriminator(num_agents=3, action_size=2, state_size=17, num_latents=4)
        >>> is_init = torch.zeros(7, 11, 1, dtype=torch.bool)
        >>> batch = TensorDict({"state": torch.randn(7, 11, 17), "is_init": is_init}, [7, 11])
        >>> batch["agents", "action_value"] = torch.randn(7, 11, 3, 2)
        >>> with set_recurrent_mode(True):
        ...     net(batch)["latent_logits"].shape
        torch.Size([7, 11, 4])
    """

    # As the network with a memory that it may have, see MultiAgentGRU.
    is_told_to_unroll = True

    def __init__(
        self,
        *,
        num_agents: int,
        action_size: int,
        state_size: int,
        num_latents: int,
        hidden_size: int = 64,
        recurrent: bool = True,
        state: NestedKey = STATE,
        reads_observations: bool = False,
        action_value: NestedKey = ACTION_VALUE,
        is_init: NestedKey = IS_INIT,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        (features,) = sizes("features", [num_agents * action_size + state_size])
        (num_latents,), (hidden_size,) = (
            sizes("num_latents", [num_latents]),
            sizes("hidden_size", [hidden_size]),
        )
        self.reads_observations = reads_observations
        self.state_size = state_size
        self.in_keys = [action_value, state, *([is_init] if recurrent else [])]
        self.out_keys = ["latent_logits"]
        self.recurrent = recurrent
        if recurrent:
            self.net = MultiAgentGRU(
                observation_size=features,
                action_size=0,
                out_features=num_latents,
                num_agents=1,
                hidden_size=hidden_size,
                observation="seen",
                recurrent_state="memory",
                is_init="is_init",
                out_key="out",
                device=device,
            )
        else:
            widths = (features, hidden_size, hidden_size)
            layers = [
                layer
                for into, out in pairwise(widths)
                for layer in (nn.Linear(into, out, device=device), nn.ReLU())
            ]
            self.net = nn.Sequential(*layers, nn.Linear(hidden_size, num_latents, device=device))

    def forward(self, tensordict: TensorDictBase, recurrent: bool | None = None) -> TensorDictBase:
        require_keys(tensordict, self.in_keys)
        values, state = (tensordict.get(key) for key in self.in_keys[:2])
        state = state.flatten(-2) if self.reads_observations else state
        if state.shape != (*values.shape[:-2], self.state_size):
            raise ValueError(
                f"{self.in_keys[1]} must have {self.state_size} features for each of the rows "
                f"{tuple(values.shape[:-2])}, got {tuple(state.shape)}."
            )
        if state.dtype != values.dtype:
            raise TypeError(
                f"The values are {values.dtype}, {self.in_keys[1]} is {state.dtype}: cast the "
                f"batch or the network."
            )
        features = torch.cat([values.softmax(-1).flatten(-2), state], -1)
        return tensordict.set(self.out_keys[0], self._guess(tensordict, features, recurrent))

    def _guess(
        self, tensordict: TensorDictBase, features: torch.Tensor, recurrent: bool | None
    ) -> torch.Tensor:
        if not self.recurrent:
            return self.net(features)
        is_init = tensordict.get(self.in_keys[2])
        memory = features.new_zeros(*features.shape[:-1], 1, self.net.hidden_size)
        entries = {"seen": features.unsqueeze(-2), "memory": memory, "is_init": is_init}
        guess = self.net(TensorDict(entries, is_init.shape[:-1]), recurrent=recurrent)
        return guess.get("out").squeeze(-2)


def make_discriminator(
    env: EnvBase,
    *,
    num_latents: int,
    hidden_size: int = 64,
    recurrent: bool = True,
    device: torch.device | str | None = None,
) -> TrajectoryDiscriminator:
    """A :class:`TrajectoryDiscriminator` for an environment.

    Args:
        env: an environment in the layout of this package, with one-hot actions. It reads its
            ``"state"``, or where it has none all observations.
        num_latents: Z.
        hidden_size: see :class:`TrajectoryDiscriminator`.
        recurrent: see :class:`TrajectoryDiscriminator`.
        device: of the parameters. Default: the environment's.

    Returns:
        A TensorDictModule that writes ``"latent_logits"``.

    Raises:
        KeyError: if the environment has another layout.
        ValueError: if an argument is out of range.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> make_discriminator(make_env("push_box", n_agents=2), num_latents=4).out_keys
        ['latent_logits']
    """
    layout = layout_of(env)
    seen, size = _seen_by_the_team(env)
    return TrajectoryDiscriminator(
        num_agents=layout.num_agents,
        action_size=layout.action_size,
        state_size=size,
        num_latents=num_latents,
        hidden_size=hidden_size,
        recurrent=recurrent,
        state=seen,
        reads_observations=seen == OBSERVATION,
        device=env.device if device is None else device,
    )


class _LatentPolicy(nn.Module):
    """Layer, ReLU, layer on what the team sees."""

    def __init__(
        self,
        *,
        in_features: int,
        num_latents: int,
        hidden_size: int,
        flatten: bool,
        device: torch.device | str | None,
    ):
        super().__init__()
        self.flatten = flatten
        self.net = nn.Sequential(
            nn.Linear(in_features, hidden_size, device=device),
            nn.ReLU(),
            nn.Linear(hidden_size, num_latents, device=device),
        )

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        return self.net(state.flatten(-2) if self.flatten else state)


def make_latent_policy(
    env: EnvBase,
    *,
    num_latents: int,
    hidden_size: int = 128,
    device: torch.device | str | None = None,
) -> ProbabilisticTensorDictSequential:
    """MAVEN's policy over latent variables, ``[*B, S] -> [*B, Z]``.

    The hierarchical policy of https://arxiv.org/abs/1910.07483. It draws, but under TorchRL's
    ``set_exploration_type(ExplorationType.DETERMINISTIC)``, where it takes the likeliest.

    Args:
        env: an environment in the layout of this package. The policy reads its ``"state"``,
            or where it has none all observations.
        num_latents: Z.
        hidden_size: of its layer. Default: 128, the authors'.
        device: of the parameters. Default: the environment's.

    Returns:
        A module that writes ``"latent_logits"``, ``"latent"``, one-hot, and
        ``"latent_log_prob"`` ``[*B]``, for
        :class:`torchrl_alita.transforms.EpisodeLatent`.

    Raises:
        KeyError: if the environment has another layout.
        ValueError: if an argument is out of range.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("push_box", num_envs=5, n_agents=2)
        >>> drawn = make_latent_policy(env, num_latents=4)(env.reset())
        >>> drawn["latent"].shape, drawn["latent_log_prob"].shape
        (torch.Size([5, 4]), torch.Size([5]))
    """
    (num_latents,) = sizes("num_latents", [num_latents])
    (hidden_size,) = sizes("hidden_size", [hidden_size])
    seen, size = _seen_by_the_team(env)
    net = _LatentPolicy(
        in_features=size,
        num_latents=num_latents,
        hidden_size=hidden_size,
        flatten=seen == OBSERVATION,
        device=env.device if device is None else device,
    )
    return ProbabilisticTensorDictSequential(
        TensorDictModule(net, in_keys=[seen], out_keys=[LATENT_LOGITS]),
        ProbabilisticTensorDictModule(
            in_keys={"logits": LATENT_LOGITS},
            out_keys=[LATENT],
            distribution_class=OneHotCategorical,
            default_interaction_type=InteractionType.RANDOM,
            return_log_prob=True,
            log_prob_key=LATENT_LOG_PROB,
        ),
    )


def _seen_by_the_team(env: EnvBase) -> tuple[NestedKey, int]:
    """The key of the state, or of all observations, and how many features that is."""
    if has_state(env):
        return STATE, state_size_of(env)
    layout = layout_of(env)
    return OBSERVATION, layout.num_agents * layout.observation_size
