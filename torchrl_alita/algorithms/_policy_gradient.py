"""What the on-policy algorithms with one step for each batch have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.envs import EnvBase
from torchrl.modules import PopArtValueNorm
from torchrl.objectives import LossModule

from torchrl_alita import functional
from torchrl_alita._checks import check_at_least_one, check_share, require_keys
from torchrl_alita.algorithms._advantages import rollout_advantages
from torchrl_alita.algorithms._learner import Learner, LearnerSettings
from torchrl_alita.layout import (
    ACTION,
    ADVANTAGE,
    ALIVE,
    DONE,
    REWARD,
    STATE_VALUE,
    TERMINATED,
    VALUE_TARGET,
    next_key,
)
from torchrl_alita.modules import make_stochastic_actor, make_team_value

__all__ = ["PolicyGradient", "PolicyGradientSettings", "read_policy_gradient"]

# Of the running mean and deviation of the values' targets; a batch counts once.
_VALUE_NORM_DECAY = 0.9
# Advantages that are all alike are not blown up.
_LEAST_DEVIATION = 1e-3


@dataclass(frozen=True, kw_only=True)
class PolicyGradientSettings(LearnerSettings):
    """What the policy gradient algorithms can set."""

    num_cells = (64, 64)
    value_num_cells: tuple[int, ...] = (64, 64)
    """Width of each hidden layer of the values."""
    value_input: Literal["own", "team", "state"] = "own"
    """What a value sees: its agent's observation, all observations, or ``"state"``."""
    share_params: bool = True
    """One policy for all agents, told their index, and one value where it sees its agent's
    observation alone."""
    gae_lambda: float = 0.95
    """How far the advantages look ahead, in [0, 1]; at 1 they are the whole return less the
    value."""

    def __post_init__(self):
        super().__post_init__()
        check_share(gae_lambda=self.gae_lambda)
        sizes = {f"value_num_cells[{i}]": n for i, n in enumerate(self.value_num_cells)}
        check_at_least_one(**sizes)


class PolicyGradient(Learner):
    """Policies that draw their actions, values, and the advantages of what was done.

    An algorithm below this class sets ``loss`` and ``optimizers``, and learns in :meth:`_learn`
    from the rows of a rollout with their advantages and the values' targets. Advantages are
    centered and divided by their deviation over the batch, those of each agent for themselves.
    Values are learned in units of their targets' running deviation.

    Args:
        env: an environment in the layout of this package.
        settings: of the algorithm. Default: ``Settings()``.
        device: of the networks. Default: the environment's.

    Raises:
        TypeError: if the settings are of another algorithm.
        ValueError: if the environment has no ``"state"`` for values that see it.
        KeyError: if the environment has another layout.
    """

    Settings: ClassVar[type[PolicyGradientSettings]] = PolicyGradientSettings
    settings: PolicyGradientSettings
    stochastic: ClassVar[bool] = True
    on_policy: ClassVar[bool] = True

    critic: TensorDictModuleBase

    def __init__(
        self,
        env: EnvBase,
        settings: PolicyGradientSettings | None = None,
        *,
        device: torch.device | str | None = None,
    ):
        super().__init__(env, settings, device=device)
        self.actor = self.make_policy(env, self.settings, device=self.device)
        self.value_norm = PopArtValueNorm(shape=1, beta=_VALUE_NORM_DECAY, device=self.device)
        self.critic = self._make_critic(env)
        # Of the one return of each agent, where the rollouts are.
        self._return = {
            "gammas": torch.tensor([self.settings.gamma], device=self.device),
            "lambdas": torch.tensor([self.settings.gae_lambda], device=self.device),
            "episodic": torch.tensor([True], device=self.device),
        }

    @classmethod
    def make_policy(
        cls,
        env: EnvBase,
        settings: PolicyGradientSettings,
        *,
        device: torch.device | str | None = None,
    ) -> TensorDictModuleBase:
        """All policies in one module, not trained, see :meth:`Learner.make_policy`."""
        return make_stochastic_actor(
            env, num_cells=settings.num_cells, share_params=settings.share_params, device=device
        )

    def _make_critic(self, env: EnvBase) -> TensorDictModuleBase:
        return make_team_value(
            env,
            num_cells=self.settings.value_num_cells,
            value_input=self.settings.value_input,
            share_params=self.settings.share_params,
            value_norm=self.value_norm,
            device=self.device,
        )

    @property
    def in_keys(self) -> list[NestedKey]:
        """What an update reads of a rollout."""
        following = map(next_key, (REWARD, DONE, TERMINATED, *self.critic.in_keys))
        keys = (*self.actor.in_keys, *self.actor.out_keys, *self.critic.in_keys, *following)
        return list(dict.fromkeys(keys))

    def update(self, batches: Mapping[str, TensorDictBase]) -> TensorDict:
        """Learn from what the policies have just done.

        Args:
            batches: ``"rollout"``: ``[B, T]``, as it was collected, in order of time.

        Returns:
            Detached scalars to log.

        Raises:
            TypeError: if the batch has no name.
            KeyError: if it lacks a key.
            ValueError: if it is no batch ``[B, T]``, or an entry has another width.
        """
        rows = self._with_advantages(self._check_names(batches)["rollout"])
        logs = self._learn(rows)
        self.updates += 1
        return logs

    @torch.no_grad()
    def _with_advantages(self, batch: TensorDictBase) -> TensorDictBase:
        """What the losses read, row by row, ``[B, T] -> [B * T]``."""
        require_keys(batch, self.in_keys)
        if batch.ndim != 2 or 0 in batch.batch_size:
            raise ValueError(f"A rollout is a batch [B, T], got {tuple(batch.batch_size)}.")
        self._check_transitions(batch)
        advantages, targets = rollout_advantages(batch, self.critic, [REWARD], **self._return)
        self.value_norm.update(targets)
        advantages = functional.standardize(
            advantages, batch.get(ALIVE, None), dim=(0, 1), floor=_LEAST_DEVIATION
        )
        # A rollout made with gradients has the graph of the policies in it.
        rows = batch.select(*self.actor.in_keys, *self.actor.out_keys, *self.critic.in_keys)
        rows = rows.detach().set(VALUE_TARGET, targets).set(ADVANTAGE, advantages)
        return rows.reshape(-1)

    def _learn(self, rows: TensorDictBase) -> TensorDict:
        """One step of every network along the gradient of the sum of the losses."""
        self._zero_grad()
        logs = self._gradient(rows)
        return logs.update(self._follow_all(self.optimizers))

    def _value_error(self, rows: TensorDictBase) -> torch.Tensor:
        """Half the values' mean squared error, in units of their targets' deviation."""
        values = self.critic(rows.select(*self.critic.in_keys)).get(STATE_VALUE)
        error = (values - rows.get(VALUE_TARGET)) / self.value_norm.scale()
        return 0.5 * error.square().mean()


def read_policy_gradient(loss: LossModule) -> None:
    """Let a loss of TorchRL read the rows of :class:`PolicyGradient`."""
    loss.set_keys(action=ACTION, advantage=ADVANTAGE, value=STATE_VALUE, value_target=VALUE_TARGET)
