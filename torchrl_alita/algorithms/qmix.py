"""QMIX, VDN and independent Q-learning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule
from torchrl.envs import EnvBase
from torchrl.modules import QMixer, VDNMixer
from torchrl.objectives import HardUpdate

from torchrl_alita._checks import check_at_least_one, check_choice, check_positive
from torchrl_alita.algorithms._compiled import differentiate
from torchrl_alita.algorithms._learner import OPTIMIZERS, Learner, make_optimizer
from torchrl_alita.layout import (
    CHOSEN_ACTION_VALUE,
    OBSERVATION,
    STATE,
    state_size_of,
)
from torchrl_alita.modules import make_qnetwork
from torchrl_alita.objectives import ValueDecompositionLoss

__all__ = ["IQL", "QMIX", "VDN"]


class QMIX(Learner):
    """Q-learning of a team, whose value is monotonic in each agent's (QMIX).

    Source: https://arxiv.org/abs/1803.11485, with the defaults of PyMARL
    (https://arxiv.org/abs/1902.04043): one recurrent network for all agents, told their
    index and last action, RMSprop, double Q-learning, targets that are set to the present
    networks every 200 updates. The mixer is TorchRL's: its hyper-networks have one layer,
    PyMARL's have two. Where an environment has no ``"state"``, it reads all observations.

    Args:
        env: an environment in the layout of this package, with one-hot actions.
        recurrent: networks with a memory: updates take sequences ``[B, T]``, and
            environments need the transforms of ``env_transforms()``.
        hidden_size: see :func:`torchrl_alita.modules.make_qnetwork`.
        num_cells: see :func:`torchrl_alita.modules.make_qnetwork`.
        share_params: see :func:`torchrl_alita.modules.make_qnetwork`.
        last_action: see :func:`torchrl_alita.modules.make_qnetwork`.
        mixing_embed_dim: width of the mixer's layers.
        mixing_init_scale: what the mixer's first parameters are multiplied with, positive.
            As TorchRL draws them, the team's value is several times the sum of the agents',
            with their errors, and in SMAX's battles learning began later. Default: 0.3.
        double_q: see :class:`torchrl_alita.objectives.ValueDecompositionLoss`.
        gamma: discount factor of a step. Default: 0.99, PyMARL's.
        optimizer: ``"rmsprop"`` with a decay of 0.99, or ``"adam"``.
        critic_lr: its step. Default: 5e-4, PyMARL's.
        target_update_interval: updates between two updates of the targets. Default: 200;
            PyMARL makes one update for each episode.
        max_grad_norm: all gradients are scaled down to this norm. Default: 10, PyMARL's.
        compile: see :class:`torchrl_alita.MADDPG`.
        compile_mode: see :class:`torchrl_alita.MADDPG`.
        mixed_precision: see :class:`torchrl_alita.MADDPG`.
        device: of the networks. Default: the environment's.

    Raises:
        ValueError: if an argument is out of range, or the actions are not one-hot.
        KeyError: if the environment has another layout.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("push_box", num_envs=5, n_agents=2, seed=0)
        >>> algorithm = QMIX(env)
        >>> for transform in algorithm.env_transforms():
        ...     env = env.append_transform(transform)
        >>> logs = algorithm.update(env.rollout(4, algorithm.actor))
        >>> sorted(logs.keys())
        ['grad_norm_qvalue', 'loss_qvalue', 'pred_value', 'target_value']
    """

    def __init__(
        self,
        env: EnvBase,
        *,
        recurrent: bool = True,
        hidden_size: int = 64,
        num_cells: Sequence[int] = (128, 128),
        share_params: bool = True,
        last_action: bool = True,
        mixing_embed_dim: int = 32,
        mixing_init_scale: float = 0.3,
        double_q: bool = True,
        gamma: float = 0.99,
        optimizer: Literal["adam", "rmsprop"] = "rmsprop",
        critic_lr: float = 5e-4,
        target_update_interval: int = 200,
        max_grad_norm: float = 10.0,
        compile: bool = False,
        compile_mode: Literal["default", "reduce-overhead", "max-autotune"] = "default",
        mixed_precision: bool = False,
        device: torch.device | str | None = None,
    ):
        check_at_least_one(
            target_update_interval=target_update_interval, mixing_embed_dim=mixing_embed_dim
        )
        check_positive(critic_lr=critic_lr, mixing_init_scale=mixing_init_scale)
        check_choice("optimizer", optimizer, OPTIMIZERS)
        super().__init__(
            env,
            max_grad_norm=max_grad_norm,
            compile=compile,
            compile_mode=compile_mode,
            mixed_precision=mixed_precision,
            device=device,
        )
        self.actor = make_qnetwork(
            env,
            recurrent=recurrent,
            hidden_size=hidden_size,
            num_cells=num_cells,
            share_params=share_params,
            last_action=last_action,
            device=self.device,
        )
        mixer = self._mixer(env, mixing_embed_dim)
        for param in () if mixer is None else mixer.parameters():
            param.data.mul_(mixing_init_scale)
        self.qvalue = ValueDecompositionLoss(self.actor, mixer, gamma=gamma, double_q=double_q).to(
            self.device
        )
        # Counted here: TorchRL's own count is in no checkpoint. With 0 it copies at every step.
        self.target_updater = HardUpdate(self.qvalue, value_network_update_interval=0)
        self.target_update_interval = target_update_interval
        self.modules["qvalue"] = self.qvalue
        self.optimizers["qvalue"] = make_optimizer(self.qvalue, kind=optimizer, lr=critic_lr)
        self._gradient = self._compiled(self._losses, then=differentiate)

    def _mixer(self, env: EnvBase, mixing_embed_dim: int) -> TensorDictModule | None:
        """What makes the agents' values the team's; it reads the state, or all observations."""
        has_state = STATE in set(env.full_observation_spec_unbatched.keys())
        shape = (self.layout.num_agents, self.layout.observation_size)
        mixer = QMixer(
            state_shape=(state_size_of(env),) if has_state else shape,
            mixing_embed_dim=mixing_embed_dim,
            n_agents=self.layout.num_agents,
            device=self.device,
        )
        seen = STATE if has_state else OBSERVATION
        return TensorDictModule(mixer, [CHOSEN_ACTION_VALUE, seen], ["chosen_action_value"])

    def policy_params(self) -> list[tuple[TensorDictBase, TensorDictBase]]:
        """Parameters of the policies, each with their targets."""
        loss = self.qvalue
        return [(loss.local_value_network_params, loss.target_local_value_network_params)]

    def _losses(self, batch: TensorDictBase) -> TensorDictBase:
        return self.qvalue(batch)

    def health(self, batch: TensorDictBase) -> dict[str, torch.Tensor]:
        """Nothing: values cannot be saturated."""
        return {}

    def _update_targets(self) -> None:
        if self.updates % self.target_update_interval == 0:
            self.target_updater.step()


class VDN(QMIX):
    """Q-learning of a team, whose value is the sum of the agents' (VDN).

    Source: https://arxiv.org/abs/1706.05296.

    Args:
        env: an environment in the layout of this package, with one-hot actions.
        **options: those of :class:`QMIX`.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("push_box", num_envs=5, n_agents=2, seed=0)
        >>> algorithm = VDN(env, recurrent=False)
        >>> logs = algorithm.update(env.rollout(4).reshape(-1))
    """

    def _mixer(self, env: EnvBase, mixing_embed_dim: int) -> TensorDictModule | None:
        mixer = VDNMixer(n_agents=self.layout.num_agents, device=self.device)
        return TensorDictModule(mixer, [CHOSEN_ACTION_VALUE], ["chosen_action_value"])


class IQL(QMIX):
    """Independent Q-learning: each agent learns from its own reward.

    Source: https://arxiv.org/abs/1511.08779.

    Args:
        env: an environment in the layout of this package, with one-hot actions.
        **options: those of :class:`QMIX`.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("push_box", num_envs=5, n_agents=2, seed=0)
        >>> algorithm = IQL(env, recurrent=False)
        >>> logs = algorithm.update(env.rollout(4).reshape(-1))
    """

    def _mixer(self, env: EnvBase, mixing_embed_dim: int) -> TensorDictModule | None:
        return None
