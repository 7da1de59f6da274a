"""ALITA in a task for one: an influencer and an auxiliary agent that take turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import nn
from torchrl.envs import EnvBase, TransformedEnv
from torchrl.modules import PopArtValueNorm

from torchrl_alita._checks import check_at_least_one
from torchrl_alita.algorithms._compiled import differentiate
from torchrl_alita.algorithms._influence import PAPER_INFLUENCE, InfluenceSettings
from torchrl_alita.algorithms._learner import make_optimizer, soft_update
from torchrl_alita.algorithms._single_agent import SingleAgent, scalars
from torchrl_alita.algorithms.maddpg import PAPER
from torchrl_alita.algorithms.td3 import TD3Settings, critic_losses, td3_loss
from torchrl_alita.data import ConditionalSampler, Replay
from torchrl_alita.envs import TakeTurns
from torchrl_alita.layout import (
    ACTION,
    DIVERSITY_PENALTY,
    NOVELTY,
    OBSERVATION,
    REWARD,
    TURN,
    next_key,
)
from torchrl_alita.modules import Autoencoder
from torchrl_alita.objectives import (
    AtPolicy,
    BestOf,
    InfluenceEstimatorLoss,
    InfluenceLoss,
    Marginal,
    NoveltyLoss,
    OwnGradient,
    TDTarget,
    Trained,
)
from torchrl_alita.team import Team
from torchrl_alita.transforms import DiversityPenalty, NoveltyReward, TotalReward

__all__ = ["TwinALITA", "TwinALITASettings"]

AGENTS = ("influencer", "partner")
# What each of them learns from.
REWARDS = (("agents", "influencer_reward"), ("agents", "partner_reward"))
# Decay of the running scale of the critics' values.
VALUE_NORM_DECAY = 0.99


@dataclass(frozen=True, kw_only=True)
class TwinALITASettings(InfluenceSettings, TD3Settings):
    """Settings of :class:`TwinALITA`; both its agents are a TD3 with these.

    Raises:
        TypeError: for a value of another type; the field is named.
        ValueError: for a value out of its range.

    Examples:
        >>> TwinALITASettings(estimator="marginal").novelty_coeff
        0.1
    """

    frames_per_update = 2
    novelty_coeff = 0.1
    omega = 0.1
    conditional_batch_size = 64
    form: Literal["paper", "published"] = "paper"
    """How the bonuses are computed, see the class; the preset "published" has its values too."""
    estimator: Literal["clones", "marginal"] = "clones"
    """How the partner's influenced value is estimated: by clones of its critics (Eq. 8), or
    from the critics themselves."""
    optimum: Literal["policy", "sampled", "td_target"] = "sampled"
    """What stands for the partner's best value."""
    num_candidates: int = 1_024
    """Stored transitions of both agents, drawn uniformly, among which D_t's are sought."""

    def __post_init__(self):
        super().__post_init__()
        check_at_least_one(num_candidates=self.num_candidates)


class TwinALITA(SingleAgent):
    r"""ALITA in a task for a single agent, with an auxiliary one.

    Source: Sec. 4.2 and Appendix C of https://arxiv.org/abs/2108.12581, which say that a
    second agent is introduced and the better of the two is reported; how the two act is
    from the authors' code. Influencer and partner act alone, an episode each in turns, in
    the same task. The transitions of both are frames of the run and go into one buffer.
    Each agent is a TD3 (TorchRL's ``TD3Loss``, https://arxiv.org/abs/1802.09477) that is
    trained on all of them. The influencer is rewarded for the novelty of (s, a), Eq. 10;
    the partner is penalized for leaving its policy where nothing is new, Eq. 11; and the
    influencer's policy reduces

    .. math:: F(\pi) = E_s (Q_{clone}(s, \pi(s)) - \max_u Q(s, u))^2

    of the partner's critics Q, Eq. 4 and 9. The clones are set back to Q at the start of
    each episode and trained on D_t at each update, Eq. 8.

    The preset ``"published"`` is for comparison with the authors' code, which contradicts the
    paper. There the novelty is the error's root, not its square, and is paid to the
    influencer for the next state and its policy's action in it; the penalty is the
    distance, not its square, and grows with the novelty, from 0 at the batch's least to 1
    at its largest; in place of the optimum stands the partner's one-step target at the
    influencer's action, and in place of the clones the partner's critics. Its coefficients
    are those of that code. What else that code has, as noise on every action that its
    policies compute, a policy without delay and target, or a further step of the partner's
    critics, is left out: both forms are TD3.

    Args:
        env: an environment in the layout of this package, with one agent.
        settings: Default: :class:`TwinALITASettings` as they are.
        device: of the networks. Default: the environment's.

    Raises:
        TypeError: if the settings are of another algorithm.
        ValueError: if the environment has several agents or discrete actions.
        KeyError: if the environment has another layout.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=1, seed=0, horizon=2)
        >>> algorithm = TwinALITA(env, TwinALITASettings(estimator="marginal"))
        >>> env = algorithm.prepare(env)
        >>> with torch.no_grad():
        ...     batch = env.rollout(4, algorithm.actor, break_when_any_done=False)
        >>> batch["turn"][0].flatten().tolist()
        [0, 0, 1, 1]
        >>> batches = dict.fromkeys(algorithm.replays(), batch.reshape(-1))
        >>> logs = [algorithm.update(batches) for _ in range(2)]
        >>> "gap" in logs[1].keys()
        True
    """

    presets: ClassVar[Mapping[str, TwinALITASettings]] = {
        # Coefficients are those of Table 5 for Gym, except for Humanoid.
        "paper": TwinALITASettings(
            **PAPER,
            **PAPER_INFLUENCE,
            form="paper",
            novelty_coeff=0.1,  # Table 5, lambda_pi
            omega=0.1,  # Table 5
        ),
        "published": TwinALITASettings(
            form="published",
            novelty_coeff=0.05,
            diversity_coeff=0.05,
            estimator="marginal",
            optimum="td_target",
        ),
    }
    stored_keys: ClassVar[tuple] = (TURN,)
    Settings: ClassVar[type[TwinALITASettings]] = TwinALITASettings
    settings: TwinALITASettings

    def __init__(
        self,
        env: EnvBase,
        settings: TwinALITASettings | None = None,
        *,
        device: torch.device | str | None = None,
    ):
        super().__init__(env, settings, device=device)
        settings = self.settings
        self.team = Team.in_turns()
        self.turns = TakeTurns(len(AGENTS))
        self.modules, self.optimizers = {"turns": self.turns}, {}
        self._build_learners(env)
        self._build_bonuses()
        self.estimator: InfluenceEstimatorLoss | None = None
        self.influence: InfluenceLoss | None = None
        if settings.influence_coeff and settings.estimator == "clones":
            self._build_clones()
        if settings.influence_coeff:
            norm = PopArtValueNorm(shape=1, beta=VALUE_NORM_DECAY) if settings.normalize else None
            self.influence = InfluenceLoss(
                self.policies[0],
                self.learners[1],
                self.team,
                value=Marginal() if self.estimator is None else Trained(self.estimator),
                optimum=self._optimum(),
                value_norm=norm,
                unit=OwnGradient() if settings.influence_unit == "own_gradient" else None,
                influence_coeff=settings.influence_coeff,
            ).to(self.device)
            self.modules["influence"] = self.influence
        self.policy_delay = settings.policy_delay
        self.delayed = {f"actor_{name}" for name in AGENTS}
        self.separate = {"estimator"}
        self._compile_losses()
        self._add_target = self._compiled(self._target_of)
        self._estimator_gradient = self._compiled(self._estimator_losses, then=differentiate)

    def _build_learners(self, env: EnvBase) -> None:
        """A TD3 for each agent, and the policy of the one whose turn it is."""
        settings = self.settings
        self.policies = [self.make_policy(env, settings, device=self.device) for _ in AGENTS]
        self.actor = _TurnActor(self.policies)
        self.learners = [
            td3_loss(policy, env, settings, self.networks).to(self.device)
            for policy in self.policies
        ]
        self.target_updaters = [soft_update(learner, tau=settings.tau) for learner in self.learners]
        for name, learner, reward in zip(AGENTS, self.learners, REWARDS, strict=True):
            learner.set_keys(reward=reward)
            self.modules[name] = learner
            self.optimizers[f"actor_{name}"] = make_optimizer(
                learner.actor_network_params, lr=settings.actor_lr
            )
            self.optimizers[f"qvalue_{name}"] = make_optimizer(
                learner.qvalue_network_params, lr=settings.critic_lr
            )

    def _build_bonuses(self) -> None:
        """The influencer's novelty, the partner's penalty, and what each learns from."""
        settings = self.settings
        published = settings.form == "published"
        distance: Literal["euclidean", "squared"] = "euclidean" if published else "squared"
        self.autoencoder = Autoencoder(
            self.layout.observation_size + self.layout.action_size, device=self.device
        )
        self.novelty = NoveltyReward(self.autoencoder, distance=distance)
        self.novelty_loss = NoveltyLoss(self.autoencoder)
        self.diversity = DiversityPenalty(
            self.policies[1],
            self.team,
            omega=settings.omega,
            distance=distance,
            weight="min_max" if published else "exponential",
        ).to(self.device)
        coeffs = (
            {NOVELTY: settings.novelty_coeff},
            {DIVERSITY_PENALTY: settings.diversity_coeff},
        )
        self.total_rewards = [
            TotalReward(coeff, total_reward=reward).to(self.device)
            for coeff, reward in zip(coeffs, REWARDS, strict=True)
        ]
        self.modules["novelty_loss"] = self.novelty_loss
        self.optimizers["autoencoder"] = make_optimizer(
            self.novelty_loss, lr=settings.autoencoder_lr
        )

    def _build_clones(self) -> None:
        """Clones of the partner's critics."""
        self.estimator = InfluenceEstimatorLoss(self.learners[1], self.team, kind="clones").to(
            self.device
        )
        self.modules["estimator"] = self.estimator
        self.optimizers["estimator"] = make_optimizer(self.estimator, lr=self.settings.estimator_lr)

    def _optimum(self) -> AtPolicy | BestOf | TDTarget:
        settings, at = self.settings, self.settings.optimum_at
        if settings.optimum == "policy":
            return AtPolicy(at=at)
        if settings.optimum == "td_target":
            return TDTarget()
        return BestOf(uniform=settings.num_optimum_samples, spec=self.action_spec, at=at)

    def policy_params(self) -> list[tuple[TensorDictBase, TensorDictBase]]:
        """Parameters of the two policies, each with their targets."""
        return [
            (learner.actor_network_params, learner.target_actor_network_params)
            for learner in self.learners
        ]

    def prepare(self, env: EnvBase) -> EnvBase:
        """The environment with turns, an episode for each of the two."""
        return TransformedEnv(env, self.turns, auto_unwrap=False)

    def candidates(self) -> list[TensorDictModuleBase]:
        """The influencer's policy and the partner's."""
        return self.policies

    def replays(self) -> dict[str, Replay]:
        """What an update reads, by name.

        Returns:
            ``"batch"``, transitions of both agents; ``"recent"``, what the influencer did
            lately, for its autoencoder; and ``"conditional_0"``, D_t, if there are clones.
        """
        settings = self.settings
        replays = {
            "batch": Replay(),
            "recent": Replay(
                window=settings.recent_frames, rows=_own_turn, keys=(OBSERVATION, ACTION)
            ),
        }
        if self.estimator is not None:
            sampler = ConditionalSampler(
                turn=TURN, kind=settings.conditional, num_candidates=settings.num_candidates
            )
            size = settings.conditional_batch_size
            replays["conditional_0"] = Replay(sampler=sampler, batch_size=size)
        return replays

    def start_episode(self) -> None:
        """Set the clones back to the partner's critics, Sec. 3.1.2.

        The training loop calls it once for as many ended episodes as it has environments.
        """
        if self.estimator is not None:
            self.estimator.reset_clones()

    def update(self, batches: Mapping[str, TensorDictBase]) -> TensorDict:
        """One step of both agents' critics and of the autoencoder, several of the clones.

        With every ``policy_delay``-th the policies and the targets move too.

        Args:
            batches: one for each name of :meth:`replays`.

        Returns:
            Detached scalars to log: the losses, ``novelty``, ``diversity_penalty``, the
            gradients' norms, and when the policies move, ``influence`` and ``gap``.

        Raises:
            TypeError: if batches have no names.
            ValueError: if one is missing or not known.
            KeyError: if a batch lacks a key.
        """
        batches = self._check_names(batches)
        logs = TensorDict()
        if self.estimator is not None:  # Eq. 8
            # A batch that is refused trains no clones either.
            self._check_transitions(batches["batch"])
            train_clones = self._recorded("clones", self._train_estimator)
            logs.update(train_clones(batches["conditional_0"]))
        return logs.update(self._step(batches["batch"], batches["recent"]))

    def _update_targets(self) -> None:
        for updater in self.target_updaters:
            updater.step()

    def _losses(self, batch: TensorDictBase, recent_batch: TensorDictBase) -> TensorDictBase:
        batch = self.add_rewards(batch)
        losses = self._with_novelty(batch, recent_batch)
        for name, learner in zip(AGENTS, self.learners, strict=True):
            losses.update(_prefix(scalars(learner(batch.copy())), name))
        if self.influence is not None:  # Eq. 4, 9
            influence = self.influence(self._influenced(batch))
            losses.update(influence.set("gap", influence["gap"].squeeze(-1)))
        return losses

    def _critic_losses(self, batch: TensorDictBase, recent_batch: TensorDictBase) -> TensorDictBase:
        batch = self.add_rewards(batch)
        losses = self._with_novelty(batch, recent_batch)
        for name, learner in zip(AGENTS, self.learners, strict=True):
            losses.update(_prefix(critic_losses(learner, batch.copy()), name))
        return losses

    def _with_novelty(self, batch: TensorDictBase, recent_batch: TensorDictBase) -> TensorDictBase:
        losses = self.novelty_loss(recent_batch)
        losses.set("novelty", batch.get(next_key(NOVELTY)).mean())
        return losses.set("diversity_penalty", batch.get(next_key(DIVERSITY_PENALTY)).mean())

    def add_rewards(self, batch: TensorDictBase) -> TensorDictBase:
        """Both agents' rewards, Eq. 10 and 11, for what was done.

        As published, the novelty is that of the next state and the influencer's action.

        Args:
            batch: transitions ``[*B]``, as in :meth:`update`.

        Returns:
            A new batch with a reward for each agent.

        Raises:
            KeyError: if the batch lacks a key.
        """
        batch = self.diversity(self.novelty(self._transitions(batch)))
        if self.settings.form == "published":
            following = self._acted(batch, next_key(OBSERVATION))
            batch.set(next_key(NOVELTY), self.novelty(following).get(next_key(NOVELTY)))
        for total_reward in self.total_rewards:
            batch = total_reward(batch)
        return batch

    def _influenced(self, batch: TensorDictBase) -> TensorDictBase:
        """The batch that the influence is computed on.

        As published, the partner's reward in it is that of the influencer's action.
        """
        if self.settings.form != "published":
            return batch
        acted = self.diversity(self.novelty(self._acted(batch, OBSERVATION)))
        acted.set(next_key(REWARD), batch.get(next_key(REWARD)))
        reward = self.total_rewards[1](acted).get(next_key(REWARDS[1]))
        return batch.copy().set(next_key(REWARDS[1]), reward)

    @torch.no_grad()
    def _acted(self, batch: TensorDictBase, observation: tuple[str, ...]) -> TensorDictBase:
        """What the influencer's policy does in the given states."""
        states = TensorDict(batch_size=batch.batch_size)
        return self.policies[0](states.set(OBSERVATION, batch.get(observation)))

    def _own_estimator(self) -> InfluenceEstimatorLoss:
        if self.estimator is None:
            raise RuntimeError("Of this estimate of the influence nothing is trained.")
        return self.estimator

    def _target_of(self, batch: TensorDictBase) -> TensorDictBase:
        """A conditional batch with what all updates of the clones on it are drawn to."""
        batch, estimator = self.add_rewards(batch), self._own_estimator()
        key = estimator.tensor_keys.value_target
        return batch.set(key, estimator.value_target(batch))

    def _estimator_losses(self, batch: TensorDictBase) -> TensorDictBase:
        return self._own_estimator()(batch)

    def _train_estimator(self, batch: TensorDictBase) -> TensorDict:
        batch = self._add_target(batch)
        optimizer = self.optimizers["estimator"]
        for _ in range(self.settings.estimator_updates):
            optimizer.zero_grad(set_to_none=True)
            loss = self._estimator_gradient(batch)["loss_estimator"]
            norm = self._clip_and_step(optimizer)
        return TensorDict({"loss_estimator": loss, "grad_norm_estimator": norm})


def _own_turn(stored: TensorDictBase) -> TensorDictBase:
    """What the influencer did itself."""
    return stored[stored.get(TURN)[..., 0] == 0]


def _prefix(losses: TensorDictBase, agent: str) -> TensorDict:
    return TensorDict({f"{key}_{agent}": value for key, value in losses.items()})


class _TurnActor(TensorDictModuleBase):
    """The policy of the agent whose turn it is, ``[*B, 1, O], [*B, 1] -> [*B, 1, A]``."""

    in_keys = [OBSERVATION, TURN]
    out_keys = [ACTION]

    def __init__(self, policies: Sequence[TensorDictModuleBase]):
        super().__init__()
        self.policies = nn.ModuleList(policies)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        actions = [policy(tensordict.select(OBSERVATION)).get(ACTION) for policy in self.policies]
        turn = tensordict.get(TURN).unsqueeze(-1)
        return tensordict.set(ACTION, torch.cat(actions, dim=-2).take_along_dim(turn, dim=-2))
