"""Proximal policy optimization of teams: MAPPO and IPPO."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.envs import EnvBase
from torchrl.modules import PopArtValueNorm
from torchrl.objectives.multiagent import IPPOLoss, MAPPOLoss

from torchrl_alita import functional
from torchrl_alita._checks import (
    check_at_least_one,
    check_non_negative,
    check_number,
    check_positive,
    check_share,
    check_whole,
    require_keys,
)
from torchrl_alita.algorithms._advantages import rollout_advantages
from torchrl_alita.algorithms._goals import GoalSettings
from torchrl_alita.algorithms._learner import Learner, LearnerSettings
from torchrl_alita.layout import (
    ACTION,
    ACTION_MASK,
    ADVANTAGE,
    ALIVE,
    DONE,
    EXPLORING,
    LOG_PROB,
    REWARD,
    STATE_VALUE,
    TERMINATED,
    VALUE_TARGET,
    next_key,
)
from torchrl_alita.modules import TeamExploration, make_stochastic_actor, make_team_value
from torchrl_alita.modules._acting import run_network

_LOGGED = (
    "loss_objective",
    "loss_critic",
    "loss_entropy",
    "entropy",
    "kl_approx",
    "clip_fraction",
)

__all__ = ["IPPO", "MAPPO", "IPPOSettings", "MAPPOSettings"]


@dataclass(frozen=True, kw_only=True)
class MAPPOSettings(GoalSettings, LearnerSettings):
    """Settings of :class:`MAPPO`.

    Raises:
        TypeError: for a value of another type; the field is named.
        ValueError: for a value out of its range.

    Examples:
        >>> MAPPOSettings(num_epochs=3).clip_epsilon
        0.2
    """

    num_cells = (64, 64)
    max_grad_norm = 0.5
    value_num_cells: tuple[int, ...] = (128, 128)
    """Width of each hidden layer of the value networks."""
    value_input: Literal["own", "team", "state"] = "team"
    """Input of a value network: its agent's observation, all observations, or ``"state"``."""
    share_params: bool = True
    """One policy for all agents."""
    agent_index: bool = True
    """Tell a shared network which agent it is."""
    recurrent: bool = False
    """Recurrent policies; their two hidden layers have the same width."""
    layer_norm: bool = False
    """Normalize the pre-activations of the hidden layers."""
    initial_scale: float = 0.6
    """Standard deviation of continuous actions at the start, in units of half their range."""
    min_scale: float = 0.1
    """Smallest standard deviation of continuous actions, in the same units."""
    gae_lambda: float = 0.95
    """Lambda of the generalized advantage estimate, in [0, 1]."""
    clip_epsilon: float = 0.2
    """How far the probability ratio may be from 1 before it is clipped."""
    num_epochs: int = 4
    """Passes over each collected batch."""
    minibatch_size: int = 2048
    """Transitions of the team in a minibatch."""
    entropy_coeff: float = 0.0
    """Weight of the policies' entropy."""
    value_norm: bool = True
    """Learn values in units of their targets' running mean and deviation."""
    value_norm_decay: float = 0.999
    """Decay of this running mean and deviation, for each step."""
    advantage_floor: float = 1e-3
    """Smallest standard deviation by which advantages are divided, in units of the reward."""
    lr: float = 1e-3
    """Adam's learning rate of policies and values."""
    lr_decay_frames: int = 0
    """Environment steps over which the learning rate falls linearly to 0; with 0 it is
    constant."""
    exploration_start: float = 0.0
    """How strongly the team explores together at the start, see
    :class:`torchrl_alita.TeamExploration`: its share of random one-hot actions, or the
    deviation of its noise on continuous ones. It falls to 0; 0 is not at all."""
    exploration_frames: int = 1_000_000
    """Frames over which it falls."""
    agreement: float = 0.9
    """Probability that the agents explore alike."""
    persistence: float = 0.7
    """Probability that a random action is kept at the next step."""
    burst_length: float = 10.0
    """Mean steps between two decisions to explore."""
    exploration_spread: float = 1.0
    """How much the strength varies over the environments, from 0 to 1."""
    bonuses: tuple[tuple[str, float], ...] = ()
    """Names and weights of bonuses that a transform of yours writes: ``(("my_bonus", 1.0),)``, on
    the command line ``my_bonus 1.0``, reads ``("next", "agents", "my_bonus")``. ``on_policy_alita``
    has bonuses of its own."""
    reward_weight: float = 1.0
    """Weight of the environment's reward beside the bonuses."""
    bonus_gamma: float = 0.99
    """Discount factor of the bonuses' returns."""
    bonus_lambda: float = 0.95
    """How far the bonuses' advantages look ahead."""
    bonuses_end: bool = False
    """The bonuses' returns end with an episode, as the reward's does."""
    compile: bool = False
    """Compile the steps of the minibatches. The first takes tens of seconds, the others less
    than without, see docs/speed.md. Results agree up to rounding."""
    compile_mode: Literal["default", "reduce-overhead", "max-autotune"] = "default"
    """Mode of torch.compile."""

    def __post_init__(self):
        super().__post_init__()
        check_share(gae_lambda=self.gae_lambda, value_norm_decay=self.value_norm_decay)
        check_share(bonus_gamma=self.bonus_gamma, bonus_lambda=self.bonus_lambda)
        check_at_least_one(num_epochs=self.num_epochs, minibatch_size=self.minibatch_size)
        check_at_least_one(exploration_frames=self.exploration_frames)
        check_non_negative(exploration_start=self.exploration_start)
        cells = {f"value_num_cells[{i}]": n for i, n in enumerate(self.value_num_cells)}
        check_at_least_one(**cells)
        check_positive(clip_epsilon=self.clip_epsilon, lr=self.lr)
        check_positive(advantage_floor=self.advantage_floor)
        check_non_negative(entropy_coeff=self.entropy_coeff)
        check_non_negative(reward_weight=self.reward_weight)
        check_whole(0, lr_decay_frames=self.lr_decay_frames)
        check_number(**dict(self.bonuses))
        if not 0 < self.min_scale < self.initial_scale < 1:
            raise ValueError(
                f"min_scale and initial_scale must be ascending in (0, 1), got "
                f"{self.min_scale} and {self.initial_scale}."
            )
        if self.recurrent and len(set(self.num_cells)) != 1:
            raise ValueError(
                f"The hidden layers of a recurrent policy have one width, got {self.num_cells}."
            )


@dataclass(frozen=True, kw_only=True)
class IPPOSettings(MAPPOSettings):
    """Settings of :class:`IPPO`: those of MAPPO, and values that see their own agent alone."""

    value_input = "own"


class _ClosedEntropy:
    """Entropies that have a closed form, and are finite.

    TorchRL reads back whether they are: a GPU is waited for, and no graph can hold it.
    """

    def _get_entropy(self, dist: torch.distributions.Distribution, adv_shape: torch.Size):
        return dist.entropy().unsqueeze(-1)


class _MAPPOLoss(_ClosedEntropy, MAPPOLoss):
    """TorchRL's loss."""


class _IPPOLoss(_ClosedEntropy, IPPOLoss):
    """TorchRL's loss."""


class MAPPO(Learner):
    r"""Multi-agent proximal policy optimization, with TorchRL's ``MAPPOLoss``.

    Policies see their own observations, values those of the whole team. It learns from what
    the policies have just done in many environments at once and stores nothing.

    Values are learned in units of their targets' running deviation. A return that a time
    limit cuts is bootstrapped, one that the environment ends is not. Bonuses for exploration
    have values, discounts and ends of their own, and the policies follow

    .. math:: A = w\, A_{reward} + \sum_b w_b A_b,

    centered and divided by its deviation, for each agent. Steps of
    :class:`torchrl_alita.TeamExploration` count with :math:`\max(A, 0)` and the policy's own
    probability of the action: they teach what turned out well, and nothing else.

    Source: https://arxiv.org/abs/2103.01955; advantages of https://arxiv.org/abs/1506.02438;
    returns of the bonuses as in https://arxiv.org/abs/1810.12894.

    Args:
        env: an environment in the layout of this package.
        settings: Default: :class:`MAPPOSettings` as they are.
        device: of the networks. Default: the environment's.

    Raises:
        TypeError: if the settings are of another algorithm.
        ValueError: if the environment lacks what a setting asks for.
        KeyError: if the environment has another layout.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=3, seed=0)
        >>> algorithm = MAPPO(env, MAPPOSettings(num_epochs=2, minibatch_size=10))
        >>> logs = algorithm.update({"rollout": env.rollout(4, algorithm.actor)})
        >>> sorted(key for key in logs.keys() if key.startswith("loss"))
        ['loss_critic', 'loss_objective']
    """

    Settings: ClassVar[type[MAPPOSettings]] = MAPPOSettings
    presets: ClassVar[Mapping[str, MAPPOSettings]] = {
        # Cooperative navigation with 512 environments and 12,800 frames a batch,
        # docs/navigation.md.
        "spread": MAPPOSettings(
            goal_attention=True,
            num_cells=(32,),
            min_scale=0.3,
            num_epochs=3,
            minibatch_size=1_600,
            lr=4e-3,
            lr_decay_frames=1_000_000,
        )
    }
    _loss_class: ClassVar[type[MAPPOLoss]] = _MAPPOLoss

    stochastic: ClassVar[bool] = True
    on_policy: ClassVar[bool] = True
    settings: MAPPOSettings

    def __init__(
        self,
        env: EnvBase,
        settings: MAPPOSettings | None = None,
        *,
        device: torch.device | str | None = None,
    ):
        super().__init__(env, settings, device=device)
        settings = self.settings
        self.frames = 0
        self.actor = self.make_policy(env, settings, device=self.device)
        self.bonus_keys: list[NestedKey] = [("agents", name) for name, _ in settings.bonuses]
        heads = 1 + len(self.bonus_keys)
        norm = None
        if settings.value_norm:
            norm = PopArtValueNorm(shape=heads, beta=settings.value_norm_decay, device=self.device)
        self.critic = make_team_value(
            env,
            num_cells=settings.value_num_cells,
            value_input=settings.value_input,
            heads=heads,
            share_params=settings.share_params,
            agent_index=settings.agent_index,
            layer_norm=settings.layer_norm,
            value_norm=norm,
            device=self.device,
        )
        self.loss = self._loss_class(
            self.actor,
            self.critic,
            value_norm=norm,
            clip_epsilon=float(settings.clip_epsilon),
            entropy_bonus=settings.entropy_coeff > 0,
            entropy_coeff=float(settings.entropy_coeff),
            loss_critic_type="l2",
            # Of the whole batch, not of each minibatch.
            normalize_advantage=False,
            # Its networks are the algorithm's own; nothing swaps their parameters.
            functional=False,
        )
        self.loss.set_keys(
            action=ACTION,
            sample_log_prob=LOG_PROB,
            advantage=ADVANTAGE,
            value=STATE_VALUE,
            value_target=VALUE_TARGET,
        )
        self.modules = {"mappo": self.loss}
        self.exploration = self._team_exploration() if settings.exploration_start else None
        if self.exploration is not None:
            self.modules["exploration"] = self.exploration
        self.optimizers = {
            name: torch.optim.Adam(network.parameters(), lr=settings.lr, eps=1e-5, fused=True)
            for name, network in (("actor", self.actor), ("critic", self.critic))
        }
        weights = [settings.reward_weight, *(weight for _, weight in settings.bonuses)]
        more = len(self.bonus_keys)
        self._heads = {
            "weights": torch.tensor(weights, device=self.device),
            "gammas": torch.tensor([settings.gamma, *[settings.bonus_gamma] * more]),
            "lambdas": torch.tensor([settings.gae_lambda, *[settings.bonus_lambda] * more]),
            "episodic": torch.tensor([True, *[settings.bonuses_end] * more]),
        }
        self._heads = {name: value.to(self.device) for name, value in self._heads.items()}
        self._compile_losses()

    @classmethod
    def make_policy(
        cls,
        env: EnvBase,
        settings: MAPPOSettings,
        *,
        device: torch.device | str | None = None,
    ) -> TensorDictModuleBase:
        """All policies in one module, not trained, see :meth:`Learner.make_policy`."""
        return make_stochastic_actor(
            env,
            num_cells=settings.num_cells,
            share_params=settings.share_params,
            agent_index=settings.agent_index,
            recurrent=settings.recurrent,
            goal_attention=settings.goal_attention,
            own_features=settings.own_features,
            layer_norm=settings.layer_norm,
            initial_scale=settings.initial_scale,
            min_scale=settings.min_scale,
            device=device,
        )

    def _team_exploration(self) -> TeamExploration:
        settings = self.settings
        masked = self.layout.discrete and self.layout.masked
        return TeamExploration(
            self.action_spec,
            agreement=settings.agreement,
            persistence=settings.persistence,
            spread=settings.exploration_spread,
            burst_length=settings.burst_length,
            eps_init=settings.exploration_start,
            eps_end=0.0,
            annealing_num_steps=settings.exploration_frames,
            action_mask_key=ACTION_MASK if masked else None,
        )

    @property
    def in_keys(self) -> list[NestedKey]:
        """What an update reads of a rollout."""
        following = (REWARD, DONE, TERMINATED, *self.bonus_keys, *self.critic.in_keys)
        keys = (*self.actor.in_keys, *self.critic.in_keys, ACTION, LOG_PROB)
        return list(dict.fromkeys((*keys, *map(next_key, following))))

    def update(self, batches: Mapping[str, TensorDictBase]) -> TensorDict:
        """All epochs over what the policies have just done.

        Args:
            batches: ``"rollout"``: ``[B, T]``, as it was collected, in order of time.

        Returns:
            Detached scalars to log, of the last step.

        Raises:
            TypeError: if batches have no names.
            ValueError: if the rollout is missing, or is no batch ``[B, T]``.
            KeyError: if it lacks a key.
        """
        batch = self._check_names(batches)["rollout"]
        require_keys(batch, self.in_keys)
        if batch.ndim != 2:
            raise ValueError(f"A rollout is a batch [B, T], got {tuple(batch.batch_size)}.")
        self._decay_lr(self.frames, over=self.settings.lr_decay_frames)
        logs, rows = self._learnable(batch)
        for minibatch in self._minibatches(rows):
            # A graph has one size, and those of minibatches can differ by one.
            follow = self._recorded(f"minibatch of {len(minibatch)}", self._follow_minibatch)
            losses = follow(minibatch)
        self.updates += 1
        self.frames += batch.numel()
        if self.exploration is not None:
            self.exploration.step(batch.numel())
        return logs.update(losses)

    @torch.no_grad()
    def _learnable(self, batch: TensorDictBase) -> tuple[TensorDict, TensorDictBase]:
        """Means to log, and what the loss reads: transitions, or sequences of a recurrent one."""
        keys = {*self.actor.in_keys, *self.critic.in_keys, ACTION, LOG_PROB}
        # A rollout made with gradients has the graph of the policies in it.
        rows = batch.select(*keys).detach()
        advantages, targets = self.advantages(batch)
        mixed = self._mixed(batch, advantages)
        logs = TensorDict(
            {"advantage_std": mixed.std(correction=0), "value_target": targets[..., 0].mean()}
        )
        mixed = functional.standardize(
            mixed, batch.get(ALIVE, None), dim=(0, 1), floor=self.settings.advantage_floor
        )
        exploring = batch.get(EXPLORING, None)
        if exploring is not None:
            mixed = torch.where(exploring, mixed.clamp_min(0), mixed)
            # What was drawn was not always what was done.
            done = self.actor[-1].get_dist(batch).log_prob(batch.get(ACTION))
            rows.set(LOG_PROB, done)
        rows.set(ADVANTAGE, mixed).set(VALUE_TARGET, targets)
        return logs, rows if self.recurrent else rows.reshape(-1)

    def _mixed(self, batch: TensorDictBase, advantages: torch.Tensor) -> torch.Tensor:
        """What the policies climb, ``[B, T, N, 1]``, of advantages ``[B, T, N, H]``."""
        return (advantages * self._heads["weights"]).sum(-1, keepdim=True)

    @torch.no_grad()
    def advantages(self, batch: TensorDictBase) -> tuple[torch.Tensor, torch.Tensor]:
        """Advantages of the reward and of each bonus, and the values' targets.

        Where agents can end before their episode does, an agent's return ends with it; of one
        that is not alive the advantage is 0 and the target its value: a bonus for entropy
        alone still reaches its policy.

        Args:
            batch: a rollout ``[B, T]``.

        Returns:
            Two tensors ``[B, T, N, H]``, the reward's return first.
        """
        heads = {name: self._heads[name] for name in ("gammas", "lambdas", "episodic")}
        return rollout_advantages(batch, self.critic, (REWARD, *self.bonus_keys), **heads)

    def _minibatches(self, rows: TensorDictBase) -> Iterator[TensorDictBase]:
        """All rows in a new order in each epoch, in parts whose sizes differ by one at most."""
        parts = max(1, round(rows.numel() / self.settings.minibatch_size))
        for _ in range(self.settings.num_epochs):
            order = torch.randperm(len(rows), device=self.device)
            for chosen in order.tensor_split(min(parts, len(rows))):
                # Rows are copied whole: a fourth of the time of an index on a CPU.
                yield rows.apply(
                    partial(torch.index_select, dim=0, index=chosen),
                    batch_size=chosen.shape + rows.batch_size[1:],
                )

    def _follow_minibatch(self, rows: TensorDictBase) -> TensorDict:
        self._zero_grad()
        losses = self._gradient(rows)
        names = (name for name in self.optimizers if name not in self.separate)
        return losses.update(self._follow_all(names))

    def _losses(self, rows: TensorDictBase) -> TensorDictBase:
        losses = self.loss(rows)
        # What else it returns is of each agent, or a diagnosis that an epoch makes stale.
        return losses.select(*_LOGGED, strict=False)

    def _greedy(self, batch: TensorDictBase) -> TensorDictBase:
        """What follows from the distributions that the policies have written."""
        return run_network(self.actor[-1], batch.select(*self.actor[-1].in_keys))

    def state_dict(self) -> dict[str, Any]:
        """Everything that training has changed."""
        return super().state_dict() | {"frames": self.frames}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state.

        Raises:
            KeyError: if the state is of another algorithm; the parts are named.
        """
        super().load_state_dict(state_dict)
        self.frames = state_dict["frames"]


class IPPO(MAPPO):
    """Independent proximal policy optimization: a value for each agent's own observation.

    :class:`MAPPO` but for the values, by TorchRL's ``IPPOLoss``.

    Source: https://arxiv.org/abs/2011.09533.

    Args:
        env: an environment in the layout of this package.
        settings: Default: :class:`IPPOSettings` as they are.
        device: of the networks. Default: the environment's.

    Raises:
        TypeError: if the settings are of another algorithm.
        ValueError: if the environment lacks what a setting asks for.
        KeyError: if the environment has another layout.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=3, seed=0)
        >>> algorithm = IPPO(env)
        >>> algorithm.critic.in_keys, algorithm.critic(env.reset())["agents", "state_value"].shape
        ([('agents', 'observation')], torch.Size([5, 3, 1]))
    """

    Settings: ClassVar[type[IPPOSettings]] = IPPOSettings
    presets: ClassVar[Mapping[str, IPPOSettings]] = {}
    _loss_class: ClassVar[type[MAPPOLoss]] = _IPPOLoss
