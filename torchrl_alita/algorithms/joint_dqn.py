"""One deep Q-network over the joint actions of a team."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.envs import EnvBase

from torchrl_alita._checks import (
    check_at_least_one,
    check_non_negative,
    check_positive,
    check_share,
    check_tau,
    require_keys,
)
from torchrl_alita.algorithms._dqn import dqn_losses, make_dqn_loss
from torchrl_alita.algorithms._learner import (
    Learner,
    OffPolicySettings,
    make_optimizer,
    soft_update,
)
from torchrl_alita.algorithms._n_steps import NStepSettings, check_runs
from torchrl_alita.data import Replay, count_codes_of, n_step_transitions
from torchrl_alita.layout import (
    ACTION,
    CHOSEN_JOINT_VALUE,
    DONE,
    INTRINSIC_REWARD,
    JOINT_ACTION,
    JOINT_ACTION_VALUE,
    OBSERVATION,
    REWARD,
    STEPS,
    TERMINATED,
    VISIT_BONUS,
    next_key,
)
from torchrl_alita.modules import joint_action_number, make_joint_qnetwork
from torchrl_alita.transforms import BonusScale, TotalReward, VisitBonus

__all__ = ["JointDQN", "JointDQNSettings"]

# Of the whole team; what the losses of TorchRL read.
_TEAM_REWARD = "team_reward"


@dataclass(frozen=True, kw_only=True)
class JointDQNSettings(NStepSettings, OffPolicySettings):
    """Settings of :class:`JointDQN`.

    Raises:
        TypeError: for a value of another type; the field is named.
        ValueError: for a value out of its range.

    Examples:
        >>> JointDQNSettings(n_steps=1).rewarded_share
        0.25
    """

    gamma = 0.98
    n_steps = 5
    max_grad_norm = 10.0
    random_frames = 0
    noise_start = 1.0
    noise_end = 0.05
    rewarded_share: float = 0.25
    """Share of a batch that has a rewarded step, once there is one; 0 takes them as they come."""
    double_q: bool = True
    """Double Q-learning: the present network chooses the next action, the target values it."""
    loss_function: Literal["smooth_l1", "l2"] = "smooth_l1"
    """Loss of the TD error."""
    optimizer: Literal["adam", "rmsprop"] = "adam"
    """Optimizer of the network."""
    critic_lr: float = 1e-3
    """The optimizer's learning rate."""
    tau: float = 0.01
    """Share by which the targets move at each update, in (0, 1]."""
    team_visit_coeff: float = 0.0
    """Weight of the bonus for seldom visited states of the team, in units of its own discounted
    return, beside the reward as it is; 0 is none."""
    scale_decay: float = 0.999
    """What a step keeps of the running scale of that bonus."""
    slots: int = 2**24
    """Entries of a table of counts that would have more; it is then hashed."""

    def __post_init__(self):
        super().__post_init__()
        check_share(rewarded_share=self.rewarded_share)
        check_positive(critic_lr=self.critic_lr)
        check_tau(self.tau)
        check_non_negative(team_visit_coeff=self.team_visit_coeff)
        check_at_least_one(slots=self.slots)


class JointDQN(Learner):
    r"""Deep Q-learning of a team as one agent whose actions are the joint ones.

    .. math:: Q(x, u) \leftarrow \sum_{k<n} \gamma^k r_{t+k}
        + \gamma^n \, Q^-(x_{t+n}, \arg\max_{u'} Q(x_{t+n}, u')),
        \qquad u \in \{1, .., L\}^N

    One network with L^N outputs sees what all agents see, so that a team is valued for what
    its agents do together, and a best response is never sought against what a teammate happens
    to do. That finds optima of matrix games that independent learners and a sum of the agents'
    values miss, and the push of two agents at one box. Execution is centralized: the policies
    need everybody's observation. The loss is TorchRL's DQNLoss over a categorical joint action.

    Its greedy policy is an influencer and its answer: agent 1 climbs
    :math:`\max_{u_2} Q(x, u_1, u_2)` and agent 2 answers it, which together are the argmax over
    joint actions, see :class:`torchrl_alita.modules.BestJointAction`. Where the influencer of
    https://arxiv.org/abs/2108.12581 is paid for bringing its teammates' values to their best,
    here they are at it.

    Teams explore with the training option ``exploration="team"``. Where a reward is seldom, a
    share of each batch has one (``rewarded_share``); ``team_visit_coeff`` pays besides, in the
    reward, for states that the team has seldom visited, by the counts of the time of an update.

    Source: https://www.nature.com/articles/nature14236, https://arxiv.org/abs/1509.06461 (double
    Q-learning) and https://arxiv.org/abs/1710.02298 (n steps), of a team as one agent.

    Args:
        env: an environment in the layout of this package, with one-hot actions; for
            ``team_visit_coeff`` with a method ``count_codes()``.
        settings: Default: :class:`JointDQNSettings` as they are.
        device: of the network. Default: the environment's.

    Raises:
        TypeError: if the settings are of another algorithm.
        ValueError: if the actions are not one-hot, there are more than 1,024 joint ones, or the
            environment does not say what is counted in it.
        KeyError: if the environment has another layout.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("push_box", num_envs=5, n_agents=2, seed=0)
        >>> algorithm = JointDQN(env, JointDQNSettings(n_steps=4))
        >>> logs = algorithm.update({"batch": env.rollout(4)})
        >>> sorted(logs.keys())
        ['grad_norm_qvalue', 'loss_qvalue', 'td_error']
    """

    Settings: ClassVar[type[JointDQNSettings]] = JointDQNSettings
    default_task: ClassVar[str] = "push_box"
    presets: ClassVar[Mapping[str, JointDQNSettings]] = {
        # Push-Box and Secret Room with 512 environments, docs/sparse.md.
        "sparse": JointDQNSettings(
            frames_per_update=512,
            buffer_size=500_000,
            random_frames=51_200,
            noise_start=0.5,
            noise_frames=3_000_000,
        )
    }
    settings: JointDQNSettings

    def __init__(
        self,
        env: EnvBase,
        settings: JointDQNSettings | None = None,
        *,
        device: torch.device | str | None = None,
    ):
        super().__init__(env, settings, device=device)
        settings = self.settings
        self.actor = self.make_policy(env, settings, device=self.device)
        self.qvalue = make_dqn_loss(
            self.actor,
            settings,
            action_space="categorical",
            device=self.device,
            action=JOINT_ACTION,
            action_value=JOINT_ACTION_VALUE,
            value=CHOSEN_JOINT_VALUE,
            reward=_TEAM_REWARD,
            done=DONE,
            terminated=TERMINATED,
        )
        self.target_updater = soft_update(self.qvalue, tau=settings.tau)
        self.modules["qvalue"] = self.qvalue
        self.optimizers["qvalue"] = make_optimizer(
            self.qvalue, kind=settings.optimizer, lr=settings.critic_lr
        )
        self.visits: VisitBonus | None = None
        if settings.team_visit_coeff:
            self._build_bonus(env)
        self._compile_losses()

    def _build_bonus(self, env: EnvBase) -> None:
        settings, code = self.settings, count_codes_of(env).team
        many = code.num_codes > settings.slots
        self.visits = VisitBonus(code, slots=settings.slots if many else None).to(self.device)
        self.scale = BonusScale(
            {VISIT_BONUS: settings.team_visit_coeff},
            gamma=settings.gamma,
            decay=settings.scale_decay,
        ).to(self.device)
        self.total_reward = TotalReward({INTRINSIC_REWARD: 1.0}).to(self.device)
        self.modules |= {"visits": self.visits, "bonus_scale": self.scale}

    @classmethod
    def make_policy(
        cls,
        env: EnvBase,
        settings: JointDQNSettings,
        *,
        device: torch.device | str | None = None,
    ) -> TensorDictModuleBase:
        """The network and its best joint action, not trained, see :meth:`Learner.make_policy`."""
        return make_joint_qnetwork(env, num_cells=settings.num_cells, device=device)

    @property
    def in_keys(self) -> list[NestedKey]:
        """What an update reads of the transitions."""
        read = self.actor.in_keys
        following = (*read, REWARD, DONE, TERMINATED)
        return list(dict.fromkeys([*read, ACTION, *map(next_key, following)]))

    def policy_params(self) -> list[tuple[TensorDictBase, TensorDictBase]]:
        """Parameters of the policy, with its targets."""
        loss = self.qvalue
        return [(loss.value_network_params, loss.target_value_network_params)]

    def replays(self) -> dict[str, Replay]:
        """What an update reads, by name.

        Returns:
            ``"batch"``, runs ``[B, n_steps]`` of so many steps, or with ``n_steps=1`` transitions
            ``[B]``; a share of them has a reward.
        """
        settings = self.settings
        return {"batch": Replay(steps=settings.n_steps, rewarded_share=settings.rewarded_share)}

    @torch.no_grad()
    def observe(self, rollout: TensorDictBase) -> None:
        """Count the states of a rollout and follow the size of their bonus' return.

        Args:
            rollout: ``[B, T]``, in order of time, that goes on where the last one ended.

        Raises:
            ValueError: if it is of other environments than the last one.
            KeyError: if it lacks a key.
        """
        if self.visits is not None:
            self.scale.update(self.visits.observe(rollout))

    def update(self, batches: Mapping[str, TensorDictBase]) -> TensorDict:
        """One step of the network.

        Args:
            batches: one for each name of :meth:`replays`.

        Returns:
            Detached scalars to log: ``loss_qvalue``, ``td_error``, ``grad_norm_qvalue`` and, with
            visits, their mean bonus ``visit_bonus`` before it is scaled.

        Raises:
            TypeError: if batches have no names.
            ValueError: if one is missing or not known, has other agents, or is of runs of
                another length.
            KeyError: if a batch lacks a key.
        """
        batch = self._check_names(batches)["batch"]
        paid = self.add_rewards(batch)
        logs = self._step(self._transitions(paid))
        if self.visits is not None:
            logs.set("visit_bonus", paid.get(next_key(VISIT_BONUS)).mean())
        return logs

    @torch.no_grad()
    def add_rewards(self, batch: TensorDictBase) -> TensorDictBase:
        """The reward that is learned from, beside the task's own.

        Args:
            batch: transitions ``[*B]``.

        Returns:
            The batch, or, with visits, a new one with ``("next", "agents", ...)`` of
            ``"visit_bonus"``, ``"intrinsic_reward"`` and ``"total_reward"``.

        Raises:
            KeyError: if the batch lacks a key.
        """
        if self.visits is None:
            return batch
        return self.total_reward(self.scale(self.visits(batch)))

    def _transitions(self, batch: TensorDictBase) -> TensorDictBase:
        """What the loss reads, of one agent whose actions are the joint ones."""
        require_keys(batch, self.in_keys)
        steps = self.settings.n_steps
        reward = REWARD if self.visits is None else self.total_reward.out_keys[0]
        self._check_transitions(batch, reward=reward)
        rows = batch.select(*self.in_keys, next_key(reward), STEPS, strict=False).detach()
        if steps > 1:
            check_runs(batch, steps)
            rows = n_step_transitions(rows, gamma=self.settings.gamma, reward=reward)
        paid = rows.get(next_key(reward)).to(rows.get(OBSERVATION).dtype)
        rows.set(next_key(_TEAM_REWARD), paid.mean(-2))
        return rows.set(JOINT_ACTION, joint_action_number(rows.get(ACTION)))

    def _losses(self, batch: TensorDictBase) -> TensorDict:
        return dqn_losses(self.qvalue, batch.copy())

    def health(self, batch: TensorDictBase) -> dict[str, torch.Tensor]:
        """Nothing: values cannot be saturated."""
        return {}
