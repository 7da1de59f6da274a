"""TD3 for a single agent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.envs import EnvBase
from torchrl.objectives import TD3Loss, ValueEstimators

from torchrl_alita._checks import check_at_least_one, check_non_negative, check_positive
from torchrl_alita.algorithms._learner import make_optimizer, soft_update
from torchrl_alita.algorithms._single_agent import (
    SingleAgent,
    SingleOffPolicySettings,
    read_agents_layout,
    scalars,
)
from torchrl_alita.layout import ACTION, VALUE
from torchrl_alita.modules import make_critic

__all__ = ["TD3", "TD3Settings"]


@dataclass(frozen=True, kw_only=True)
class TD3Settings(SingleOffPolicySettings):
    """Settings of :class:`TD3`.

    The defaults are those of the paper and of stable-baselines3, with two hidden layers of
    256.

    Raises:
        TypeError: for a value of another type; the field is named.
        ValueError: for a value out of its range.

    Examples:
        >>> TD3Settings(policy_delay=3).policy_noise
        0.2
    """

    policy_noise: float = 0.2
    """Standard deviation of the noise on target actions, in units of the action."""
    noise_clip: float = 0.5
    """Largest such noise."""
    policy_delay: int = 2
    """Updates of the critics for each of the policies and the targets."""
    actor_lr: float = 1e-3
    """Adam's learning rate of the policies."""
    critic_lr: float = 1e-3
    """Adam's learning rate of the critics."""

    def __post_init__(self):
        super().__post_init__()
        check_at_least_one(policy_delay=self.policy_delay)
        check_non_negative(policy_noise=self.policy_noise, noise_clip=self.noise_clip)
        check_positive(actor_lr=self.actor_lr, critic_lr=self.critic_lr)


class TD3(SingleAgent):
    """Twin delayed deep deterministic policy gradient, with TorchRL's ``TD3Loss``.

    Source: https://arxiv.org/abs/1802.09477; the learner of Sec. 4.2 of
    https://arxiv.org/abs/2108.12581. Two critics, of which the lower one counts; noise on
    the target policy's actions; a policy and targets that move less often than the
    critics.

    Args:
        env: an environment in the layout of this package, with one agent.
        settings: Default: :class:`TD3Settings` as they are.
        device: of the networks. Default: the environment's.

    Raises:
        TypeError: if the settings are of another algorithm.
        ValueError: if the environment has several agents or discrete actions.
        KeyError: if the environment has another layout.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=1, seed=0)
        >>> logs = TD3(env).update({"batch": env.rollout(4).reshape(-1)})
        >>> "loss_qvalue" in logs.keys(), "loss_actor" in logs.keys()
        (True, False)
    """

    Settings: ClassVar[type[TD3Settings]] = TD3Settings
    settings: TD3Settings

    def __init__(
        self,
        env: EnvBase,
        settings: TD3Settings | None = None,
        *,
        device: torch.device | str | None = None,
    ):
        super().__init__(env, settings, device=device)
        settings = self.settings
        self.actor = self.make_policy(env, settings, device=self.device)
        self.td3 = td3_loss(self.actor, env, settings, self.networks).to(self.device)
        self.target_updater = soft_update(self.td3, tau=settings.tau)
        self.policy_delay = settings.policy_delay
        self.delayed = {"actor"}
        self.modules = {"td3": self.td3}
        self.optimizers = {
            "actor": make_optimizer(self.td3.actor_network_params, lr=settings.actor_lr),
            "qvalue": make_optimizer(self.td3.qvalue_network_params, lr=settings.critic_lr),
        }
        self._compile_losses()

    def policy_params(self) -> list[tuple[TensorDictBase, TensorDictBase]]:
        """Parameters of the policy, with their targets."""
        return [(self.td3.actor_network_params, self.td3.target_actor_network_params)]

    def _losses(self, batch: TensorDictBase) -> TensorDictBase:
        return scalars(self.td3(self._transitions(batch)))

    def _critic_losses(self, batch: TensorDictBase) -> TensorDictBase:
        return critic_losses(self.td3, self._transitions(batch))


def td3_loss(
    actor: TensorDictModuleBase,
    env: EnvBase,
    settings: TD3Settings,
    networks: dict[str, Any],
) -> TD3Loss:
    """TorchRL's TD3Loss of an actor and two critics, in the layout of this package."""
    space = env.full_action_spec_unbatched[ACTION].to(networks["device"]).space
    loss = TD3Loss(
        actor,
        make_critic(env, **networks),
        bounds=(space.low, space.high),
        num_qvalue_nets=2,
        policy_noise=settings.policy_noise,
        noise_clip=settings.noise_clip,
        loss_function="l2",
    )
    read_agents_layout(loss, action=ACTION, state_action_value=VALUE)
    loss.make_value_estimator(ValueEstimators.TD0, gamma=settings.gamma)
    return loss


def critic_losses(loss: TD3Loss, batch: TensorDictBase) -> TensorDict:
    """What a TD3Loss has for its critics alone."""
    loss_qvalue, logged = loss.value_loss(batch)
    return scalars(
        TensorDict(
            {
                "loss_qvalue": loss_qvalue,
                "pred_value": logged["pred_value"],
                "target_value": logged["target_value"],
            }
        )
    )
