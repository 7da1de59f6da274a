"""Independent deep Q-networks for teams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.envs import EnvBase
from torchrl.objectives import HardUpdate

from torchrl_alita._checks import check_at_least_one, check_positive, require_keys
from torchrl_alita.algorithms._dqn import dqn_losses, make_dqn_loss
from torchrl_alita.algorithms._learner import Learner, OffPolicySettings, make_optimizer
from torchrl_alita.layout import (
    ACTION,
    ACTION_VALUE,
    AGENT_DONE,
    AGENT_TERMINATED,
    CHOSEN_ACTION_VALUE,
    DONE,
    REWARD,
    STEPS,
    TERMINATED,
    next_key,
    terminated_key_of,
)
from torchrl_alita.modules import make_qnetwork

__all__ = ["DQN", "DQNSettings"]


@dataclass(frozen=True, kw_only=True)
class DQNSettings(OffPolicySettings):
    """Settings of :class:`DQN`.

    Raises:
        TypeError: for a value of another type; the field is named.
        ValueError: for a value out of its range.

    Examples:
        >>> DQNSettings(double_q=False).gamma
        0.95
    """

    gamma = 0.95
    max_grad_norm = 10.0
    batch_size = 512
    random_frames = 0
    noise_start = 1.0
    noise_end = 0.05
    share_params: bool = False
    """One network for all agents, which it cannot tell apart."""
    double_q: bool = True
    """Double Q-learning: the present network chooses the next action, the target values it."""
    loss_function: Literal["smooth_l1", "l2"] = "smooth_l1"
    """Loss of the TD error; "smooth_l1" is the paper's, which clips the error."""
    optimizer: Literal["adam", "rmsprop"] = "adam"
    """Optimizer of the networks."""
    critic_lr: float = 1e-3
    """The optimizer's learning rate."""
    target_update_interval: int = 100
    """Updates between two updates of the targets."""

    def __post_init__(self):
        super().__post_init__()
        check_positive(critic_lr=self.critic_lr)
        check_at_least_one(target_update_interval=self.target_update_interval)


class DQN(Learner):
    """Deep Q-networks, one for each agent, which learn independently, by TorchRL's ``DQNLoss``.

    Each agent takes the others for a part of its environment, and learns from its own reward.
    For networks with a memory there is :class:`torchrl_alita.algorithms.IQL`.

    Source: https://www.nature.com/articles/nature14236 and https://arxiv.org/abs/1509.06461
    (double Q-learning); of several agents https://arxiv.org/abs/1511.08779; a baseline of
    Table 3 of https://arxiv.org/abs/2108.12581.

    Args:
        env: an environment in the layout of this package, with one-hot actions.
        settings: Default: :class:`DQNSettings` as they are.
        device: of the networks. Default: the environment's.

    Raises:
        TypeError: if the settings are of another algorithm.
        ValueError: if the actions are not one-hot.
        KeyError: if the environment has another layout.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("push_box", num_envs=5, n_agents=2, seed=0)
        >>> algorithm = DQN(env)
        >>> logs = algorithm.update({"batch": env.rollout(4).reshape(-1)})
        >>> sorted(logs.keys())
        ['grad_norm_qvalue', 'loss_qvalue', 'td_error']
    """

    Settings: ClassVar[type[DQNSettings]] = DQNSettings
    default_task: ClassVar[str] = "push_box"
    settings: DQNSettings

    def __init__(
        self,
        env: EnvBase,
        settings: DQNSettings | None = None,
        *,
        device: torch.device | str | None = None,
    ):
        super().__init__(env, settings, device=device)
        settings = self.settings
        self._terminated = terminated_key_of(env)
        self.actor = self.make_policy(env, settings, device=self.device)
        self.qvalue = make_dqn_loss(
            self.actor,
            settings,
            action_space="one-hot",
            device=self.device,
            action=ACTION,
            action_value=ACTION_VALUE,
            value=CHOSEN_ACTION_VALUE,
            reward=REWARD,
            done=AGENT_DONE,
            terminated=AGENT_TERMINATED,
        )
        # Counted here: TorchRL's own count is in no checkpoint. With 0 it copies at every step.
        self.target_updater = HardUpdate(self.qvalue, value_network_update_interval=0)
        self.modules = {"qvalue": self.qvalue}
        self.optimizers = {
            "qvalue": make_optimizer(self.qvalue, kind=settings.optimizer, lr=settings.critic_lr)
        }
        self._compile_losses()

    @classmethod
    def make_policy(
        cls,
        env: EnvBase,
        settings: DQNSettings,
        *,
        device: torch.device | str | None = None,
    ) -> TensorDictModuleBase:
        """All agents' networks in one module, not trained, see :meth:`Learner.make_policy`."""
        return make_qnetwork(
            env,
            recurrent=False,
            num_cells=settings.num_cells,
            share_params=settings.share_params,
            device=device,
        )

    @property
    def in_keys(self) -> list[NestedKey]:
        """What an update reads of the transitions."""
        read = self.actor.in_keys
        following = (*read, REWARD, DONE, TERMINATED, self._terminated)
        return list(dict.fromkeys([*read, ACTION, *map(next_key, following)]))

    def policy_params(self) -> list[tuple[TensorDictBase, TensorDictBase]]:
        """Parameters of the policies, each with their targets."""
        loss = self.qvalue
        return [(loss.value_network_params, loss.target_value_network_params)]

    def _losses(self, batch: TensorDictBase) -> TensorDict:
        return dqn_losses(self.qvalue, self._for_each_agent(batch))

    def _for_each_agent(self, batch: TensorDictBase) -> TensorDictBase:
        """What is read, with a flag ``done`` and ``terminated`` of each agent, and steps."""
        require_keys(batch, self.in_keys)
        self._check_transitions(batch)
        agents = (*batch.batch_size, self.layout.num_agents)
        rows = batch.select(*self.in_keys).detach()
        for flag, of_agent in ((DONE, AGENT_DONE), (TERMINATED, AGENT_TERMINATED)):
            value = batch.get(next_key(flag)).unsqueeze(-2).expand(*agents, 1)
            if self._terminated == AGENT_TERMINATED:
                own = batch.get(next_key(AGENT_TERMINATED))
                value = value | own if flag == DONE else own
            rows.set(next_key(of_agent), value)
        if (steps := batch.get(STEPS, None)) is not None:
            rows.set(STEPS, steps.reshape(*batch.batch_size, 1, 1).expand(*agents, 1))
        return rows

    def health(self, batch: TensorDictBase) -> dict[str, torch.Tensor]:
        """Nothing: values cannot be saturated."""
        return {}

    def _targets_turn(self) -> bool:
        return (self.updates + 1) % self.settings.target_update_interval == 0
