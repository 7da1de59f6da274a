"""Independent Q-learning, VDN and QMIX."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictModuleBase
from torchrl.envs import EnvBase
from torchrl.modules import QMixer, VDNMixer
from torchrl.objectives import HardUpdate

from torchrl_alita._checks import check_at_least_one, check_positive
from torchrl_alita.algorithms._learner import Learner, TeamSettings, make_optimizer
from torchrl_alita.algorithms._n_steps import LambdaSettings
from torchrl_alita.layout import (
    CHOSEN_ACTION_VALUE,
    OBSERVATION,
    STATE,
    has_state,
    state_size_of,
    terminated_key_of,
)
from torchrl_alita.modules import make_qnetwork
from torchrl_alita.objectives import ValueDecompositionLoss

__all__ = ["IQL", "QMIX", "VDN", "IQLSettings", "QMIXSettings", "VDNSettings"]


@dataclass(frozen=True, kw_only=True)
class IQLSettings(LambdaSettings, TeamSettings):
    """Settings of :class:`IQL`.

    The defaults are those of PyMARL (https://arxiv.org/abs/1902.04043): one recurrent network
    for all agents, told their index and last action, RMSprop, double Q-learning, targets that
    are set to the present networks every 200 updates. PyMARL trains on whole battles; here it
    is sequences of 40 steps.

    Raises:
        TypeError: for a value of another type; the field is named.
        ValueError: for a value out of its range.

    Examples:
        >>> IQLSettings(recurrent=False).gamma
        0.99
    """

    share_params = True
    recurrent = True
    optimizer = "rmsprop"
    critic_lr = 5e-4
    max_grad_norm = 10.0
    batch_size = 32 * 40
    buffer_size = 200_000
    random_frames = 0
    noise_start = 1.0
    noise_end = 0.05
    noise_frames = 50_000
    last_action: bool = True
    """Whether recurrent networks read their agent's last action."""
    double_q: bool = True
    """Double Q-learning: the present network chooses the next action, the target values it."""
    target_update_interval: int = 200
    """Updates between two updates of the targets (PyMARL: 200, one for each episode)."""

    def __post_init__(self):
        super().__post_init__()
        check_at_least_one(target_update_interval=self.target_update_interval)


class IQL(Learner):
    """Independent Q-learning: each agent learns from its own reward.

    Source: https://arxiv.org/abs/1511.08779.

    Args:
        env: an environment in the layout of this package, with one-hot actions.
        settings: Default: :class:`IQLSettings` as they are.
        device: of the networks. Default: the environment's.

    Raises:
        TypeError: if the settings are of another algorithm.
        ValueError: if the actions are not one-hot.
        KeyError: if the environment has another layout.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("push_box", num_envs=5, n_agents=2, seed=0)
        >>> algorithm = IQL(env, IQLSettings(recurrent=False))
        >>> logs = algorithm.update({"batch": env.rollout(4).reshape(-1)})
    """

    Settings: ClassVar[type[IQLSettings]] = IQLSettings
    default_task: ClassVar[str] = "push_box"
    settings: IQLSettings

    def __init__(
        self,
        env: EnvBase,
        settings: IQLSettings | None = None,
        *,
        device: torch.device | str | None = None,
    ):
        super().__init__(env, settings, device=device)
        settings = self.settings
        self.actor = self.make_policy(env, settings, device=self.device)
        self.qvalue = self._make_loss(env).to(self.device)
        if not self.qvalue.mixed:
            self.qvalue.set_keys(terminated=terminated_key_of(env))
        # Counted here: TorchRL's own count is in no checkpoint. With 0 it copies at every step.
        self.target_updater = HardUpdate(self.qvalue, value_network_update_interval=0)
        self.modules["qvalue"] = self.qvalue
        self.optimizers["qvalue"] = make_optimizer(
            self.qvalue, kind=settings.optimizer, lr=settings.critic_lr
        )
        self._compile_losses()

    @classmethod
    def make_policy(
        cls,
        env: EnvBase,
        settings: IQLSettings,
        *,
        device: torch.device | str | None = None,
    ) -> TensorDictModuleBase:
        """All agents' networks in one module, not trained, see :meth:`Learner.make_policy`."""
        return make_qnetwork(
            env,
            recurrent=settings.recurrent,
            hidden_size=settings.hidden_size,
            num_cells=settings.num_cells,
            share_params=settings.share_params,
            last_action=settings.last_action,
            device=device,
        )

    def _make_loss(self, env: EnvBase) -> ValueDecompositionLoss:
        settings = self.settings
        return ValueDecompositionLoss(
            self.actor,
            self._mixer(env),
            gamma=settings.gamma,
            double_q=settings.double_q,
            lmbda=settings.lmbda,
        )

    def _mixer(self, env: EnvBase) -> TensorDictModule | None:
        """What makes the agents' values the team's; None leaves them apart."""
        return None

    def policy_params(self) -> list[tuple[TensorDictBase, TensorDictBase]]:
        """Parameters of the policies, each with their targets."""
        loss = self.qvalue
        return [(loss.local_value_network_params, loss.target_local_value_network_params)]

    def _losses(self, batch: TensorDictBase) -> TensorDictBase:
        return self.qvalue(batch)

    def health(self, batch: TensorDictBase) -> dict[str, torch.Tensor]:
        """Nothing: values cannot be saturated."""
        return {}

    def _targets_turn(self) -> bool:
        return (self.updates + 1) % self.settings.target_update_interval == 0


@dataclass(frozen=True, kw_only=True)
class VDNSettings(IQLSettings):
    """Settings of :class:`VDN`: those of :class:`IQLSettings`."""


class VDN(IQL):
    """Q-learning of a team, whose value is the sum of the agents' (VDN).

    Source: https://arxiv.org/abs/1706.05296.

    Args:
        env: an environment in the layout of this package, with one-hot actions.
        settings: Default: :class:`VDNSettings` as they are.
        device: of the networks. Default: the environment's.

    Raises:
        TypeError: if the settings are of another algorithm.
        ValueError: if the actions are not one-hot.
        KeyError: if the environment has another layout.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("push_box", num_envs=5, n_agents=2, seed=0)
        >>> algorithm = VDN(env, VDNSettings(recurrent=False))
        >>> logs = algorithm.update({"batch": env.rollout(4).reshape(-1)})
    """

    Settings: ClassVar[type[VDNSettings]] = VDNSettings

    def _mixer(self, env: EnvBase) -> TensorDictModule:
        mixer = VDNMixer(n_agents=self.layout.num_agents, device=self.device)
        return TensorDictModule(mixer, [CHOSEN_ACTION_VALUE], ["chosen_action_value"])


@dataclass(frozen=True, kw_only=True)
class QMIXSettings(IQLSettings):
    """Settings of :class:`QMIX`: those of :class:`IQLSettings` and its mixer's.

    Raises:
        TypeError: for a value of another type; the field is named.
        ValueError: for a value out of its range.

    Examples:
        >>> QMIXSettings(mixing_embed_dim=64).target_update_interval
        200
    """

    mixing_embed_dim: int = 32
    """Width of the mixer's layers (PyMARL: 32)."""
    mixing_init_scale: float = 0.3
    """What the mixer's first parameters are multiplied with. As TorchRL draws them, the team's
    value is several times the sum of the agents', with their errors, and in SMAX's battles
    learning began later."""

    def __post_init__(self):
        super().__post_init__()
        check_at_least_one(mixing_embed_dim=self.mixing_embed_dim)
        check_positive(mixing_init_scale=self.mixing_init_scale)


class QMIX(IQL):
    """Q-learning of a team, whose value is monotonic in each agent's (QMIX).

    Source: https://arxiv.org/abs/1803.11485. The mixer is TorchRL's: its hyper-networks have
    one layer, PyMARL's have two. Where an environment has no ``"state"``, it reads all
    observations.

    Args:
        env: an environment in the layout of this package, with one-hot actions.
        settings: Default: :class:`QMIXSettings` as they are.
        device: of the networks. Default: the environment's.

    Raises:
        TypeError: if the settings are of another algorithm.
        ValueError: if the actions are not one-hot.
        KeyError: if the environment has another layout.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("push_box", num_envs=5, n_agents=2, seed=0)
        >>> algorithm = QMIX(env)
        >>> for transform in algorithm.env_transforms():
        ...     env = env.append_transform(transform)
        >>> logs = algorithm.update({"batch": env.rollout(4, algorithm.actor)})
        >>> sorted(logs.keys())
        ['grad_norm_qvalue', 'loss_qvalue', 'pred_value', 'target_value']
    """

    Settings: ClassVar[type[QMIXSettings]] = QMIXSettings
    settings: QMIXSettings

    def _mixer(self, env: EnvBase) -> TensorDictModule:
        reads_state = has_state(env)
        shape = (self.layout.num_agents, self.layout.observation_size)
        mixer = QMixer(
            state_shape=(state_size_of(env),) if reads_state else shape,
            mixing_embed_dim=self.settings.mixing_embed_dim,
            n_agents=self.layout.num_agents,
            device=self.device,
        )
        for param in mixer.parameters():
            param.data.mul_(self.settings.mixing_init_scale)
        seen = STATE if reads_state else OBSERVATION
        return TensorDictModule(mixer, [CHOSEN_ACTION_VALUE, seen], ["chosen_action_value"])
