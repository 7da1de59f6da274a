"""ALITA in a task for one: an influencer and an auxiliary agent that take turns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import nn
from torchrl.envs import EnvBase, TransformedEnv
from torchrl.modules import PopArtValueNorm

from torchrl_alita._checks import (
    check_at_least_one,
    check_choice,
    check_non_negative,
    check_positive,
    check_whole,
)
from torchrl_alita.algorithms._compiled import differentiate
from torchrl_alita.algorithms._learner import make_optimizer, soft_update
from torchrl_alita.algorithms._single import SingleAgent, scalars
from torchrl_alita.algorithms.td3 import critics_losses, td3_loss
from torchrl_alita.data import ConditionalSampler
from torchrl_alita.data.conditional import KINDS
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
from torchrl_alita.modules import Autoencoder, make_actor, make_critic
from torchrl_alita.objectives import (
    AtPolicy,
    BestOf,
    InfluenceEstimatorLoss,
    InfluenceLoss,
    Marginal,
    NoveltyLoss,
    TDTarget,
    Trained,
)
from torchrl_alita.team import Team
from torchrl_alita.transforms import DiversityPenalty, NoveltyReward, TotalReward

__all__ = ["TwinALITA"]

AGENTS = ("influencer", "partner")
# What each of them learns from.
REWARDS = (("agents", "influencer_reward"), ("agents", "partner_reward"))
ESTIMATORS = ("clones", "marginal")
OPTIMA = ("policy", "sampled", "td_target")
# Decay of the running scale of the critics' values.
VALUE_NORM_DECAY = 0.99
# What an argument that is not given is, by form.
FORMS: dict[str, dict[str, Any]] = {
    "paper": {
        "influence_coeff": 0.1,
        "novelty_coeff": 0.1,
        "diversity_coeff": 0.1,
        "estimator": "clones",
        "optimum": "sampled",
    },
    "published": {
        "influence_coeff": 0.1,
        "novelty_coeff": 0.05,
        "diversity_coeff": 0.05,
        "estimator": "marginal",
        "optimum": "td_target",
    },
}


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

    ``form="published"`` is for comparison with the authors' code, which contradicts the
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
        form: ``"paper"`` or ``"published"``.
        influence_coeff: lambda; 0 is No F. Default: 0.1, Table 5; 0.1 as published. The
            paper has 0.15 for Humanoid.
        novelty_coeff: lambda_pi. Default: 0.1, Table 5; 0.05 as published.
        diversity_coeff: of the penalty; with ``novelty_coeff=0`` and this 0 it is No IM. The
            paper has none. Default: 0.1; 0.05 as published.
        omega: how fast novelty lifts the penalty. Default: 0.1, Table 5. Not used as
            published.
        estimator: ``"clones"``, or ``"marginal"``, the partner's critics themselves.
            Default: clones; marginal as published.
        estimator_updates: of the clones at each update. Default: 4, Appendix D.1.
        estimator_lr: Adam's step.
        autoencoder_lr: Adam's step.
        optimum: see :class:`torchrl_alita.InfluenceLoss`. Default: ``"sampled"``;
            ``"td_target"`` as published.
        optimum_at: see :class:`torchrl_alita.InfluenceLoss`.
        num_optimum_samples: see :class:`torchrl_alita.InfluenceLoss`.
        normalize: see :class:`torchrl_alita.InfluenceLoss`.
        conditional: kind of the batches D_t, see
            :class:`torchrl_alita.ConditionalSampler`; their anchors are transitions of the
            influencer.
        num_candidates: see :class:`torchrl_alita.ConditionalSampler`.
        num_cells: width of each hidden layer of policies and critics.
        layer_norm: see :class:`torchrl_alita.TD3`, as all that follow.
        gamma: discount factor of a step.
        policy_noise: standard deviation of the noise on target actions.
        noise_clip: largest such noise.
        policy_delay: updates of the critics for each of the policies and the targets.
        actor_lr: Adam's step of the policies.
        critic_lr: Adam's step of the critics.
        tau: share by which the targets move, in (0, 1].
        max_grad_norm: gradients of a network are scaled down to this norm. Default: none.
        compile: see :class:`torchrl_alita.MADDPG`.
        compile_mode: of ``torch.compile``.
        device: of the networks. Default: the environment's.

    Raises:
        ValueError: if an argument is out of range or unknown, or the environment has
            several agents or discrete actions.
        KeyError: if the environment has another layout.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=1, seed=0, horizon=2)
        >>> algorithm = TwinALITA(env, estimator="marginal")
        >>> env = algorithm.prepare(env)
        >>> with torch.no_grad():
        ...     batch = env.rollout(4, algorithm.actor, break_when_any_done=False)
        >>> batch["turn"][0].flatten().tolist()
        [0, 0, 1, 1]
        >>> logs = [algorithm.update(batch.reshape(-1)) for _ in range(2)]
        >>> "gap" in logs[1].keys()
        True
    """

    reads_recent = True
    stored_keys = (TURN,)

    def __init__(
        self,
        env: EnvBase,
        *,
        form: Literal["paper", "published"] = "paper",
        influence_coeff: float | None = None,
        novelty_coeff: float | None = None,
        diversity_coeff: float | None = None,
        omega: float = 0.1,
        estimator: Literal["clones", "marginal"] | None = None,
        estimator_updates: int = 4,
        estimator_lr: float = 1e-3,
        autoencoder_lr: float = 1e-3,
        optimum: Literal["policy", "sampled", "td_target"] | None = None,
        optimum_at: Literal["current", "next"] = "current",
        num_optimum_samples: int = 4,
        normalize: bool = False,
        conditional: Literal["nearest", "exact", "uniform"] = "nearest",
        num_candidates: int = 1024,
        num_cells: Sequence[int] = (256, 256),
        layer_norm: bool = False,
        gamma: float = 0.99,
        policy_noise: float = 0.2,
        noise_clip: float = 0.5,
        policy_delay: int = 2,
        actor_lr: float = 1e-3,
        critic_lr: float = 1e-3,
        tau: float = 0.005,
        max_grad_norm: float = math.inf,
        compile: bool = False,
        compile_mode: Literal["default", "reduce-overhead", "max-autotune"] = "default",
        device: torch.device | str | None = None,
    ):
        check_choice("form", form, FORMS)
        given = {
            "influence_coeff": influence_coeff,
            "novelty_coeff": novelty_coeff,
            "diversity_coeff": diversity_coeff,
            "estimator": estimator,
            "optimum": optimum,
        }
        chosen = FORMS[form] | {name: value for name, value in given.items() if value is not None}
        coeffs = {name: value for name, value in chosen.items() if name.endswith("_coeff")}
        check_non_negative(**coeffs)
        check_choice("estimator", chosen["estimator"], ESTIMATORS)
        check_choice("optimum", chosen["optimum"], OPTIMA)
        check_whole(0, num_optimum_samples=num_optimum_samples)
        check_choice("conditional", conditional, KINDS)
        check_at_least_one(
            policy_delay=policy_delay,
            estimator_updates=estimator_updates,
            num_candidates=num_candidates,
        )
        check_positive(
            actor_lr=actor_lr,
            critic_lr=critic_lr,
            estimator_lr=estimator_lr,
            autoencoder_lr=autoencoder_lr,
        )
        super().__init__(
            env,
            max_grad_norm=max_grad_norm,
            compile=compile,
            compile_mode=compile_mode,
            device=device,
        )
        self.form = form
        self.policy_delay = policy_delay
        self.estimator_updates = estimator_updates
        self.team = Team.in_turns()

        networks = {"num_cells": num_cells, "layer_norm": layer_norm, "device": self.device}
        noise = {"gamma": gamma, "policy_noise": policy_noise, "noise_clip": noise_clip}
        self.turns = TakeTurns(len(AGENTS))
        self.modules, self.optimizers = {"turns": self.turns}, {}
        self._build_learners(env, networks, noise, actor_lr=actor_lr, critic_lr=critic_lr, tau=tau)
        self._build_bonuses(chosen, omega=omega, lr=autoencoder_lr)
        self.estimator: InfluenceEstimatorLoss | None = None
        self.influence: InfluenceLoss | None = None
        if chosen["influence_coeff"] and chosen["estimator"] == "clones":
            sampler = {"kind": conditional, "num_candidates": num_candidates}
            self._build_clones(sampler, lr=estimator_lr)
        if chosen["influence_coeff"]:
            trained = self.estimator is not None
            self.influence = InfluenceLoss(
                self.policies[0],
                self.learners[1],
                self.team,
                value=Trained(self.estimator) if trained else Marginal(),
                optimum=self._optimum(chosen["optimum"], optimum_at, num_optimum_samples),
                value_norm=PopArtValueNorm(shape=1, beta=VALUE_NORM_DECAY) if normalize else None,
                influence_coeff=chosen["influence_coeff"],
            ).to(self.device)
            self.modules["influence"] = self.influence

        self._gradient = self._compiled(self._losses, then=differentiate)
        self._critics_gradient = self._compiled(self._critics_losses, then=differentiate)
        self._targeted = self._compiled(self._with_target)
        self._estimator_gradient = self._compiled(self._estimator_losses, then=differentiate)

    def _build_learners(
        self,
        env: EnvBase,
        networks: dict[str, Any],
        noise: dict[str, float],
        *,
        actor_lr: float,
        critic_lr: float,
        tau: float,
    ) -> None:
        """A TD3 for each agent, and the policy of the one whose turn it is."""
        bounds = (self.action_spec.space.low, self.action_spec.space.high)
        self.policies = [make_actor(env, **networks) for _ in AGENTS]
        self.actor = _TurnActor(self.policies)
        self.learners = [
            td3_loss(policy, make_critic(env, **networks), bounds=bounds, **noise).to(self.device)
            for policy in self.policies
        ]
        self.target_updaters = [soft_update(learner, tau=tau) for learner in self.learners]
        for name, learner, reward in zip(AGENTS, self.learners, REWARDS, strict=True):
            learner.set_keys(reward=reward)
            self.modules[name] = learner
            self.optimizers[f"actor_{name}"] = make_optimizer(
                learner.actor_network_params, lr=actor_lr
            )
            self.optimizers[f"qvalue_{name}"] = make_optimizer(
                learner.qvalue_network_params, lr=critic_lr
            )

    def _build_bonuses(self, chosen: dict[str, Any], *, omega: float, lr: float) -> None:
        """The influencer's novelty, the partner's penalty, and what each learns from."""
        published = self.form == "published"
        distance = "euclidean" if published else "squared"
        self.autoencoder = Autoencoder(
            self.layout.observation_size + self.layout.action_size, device=self.device
        )
        self.novelty = NoveltyReward(self.autoencoder, distance=distance)
        self.novelty_loss = NoveltyLoss(self.autoencoder)
        self.diversity = DiversityPenalty(
            self.policies[1],
            self.team,
            omega=omega,
            distance=distance,
            weight="min_max" if published else "exponential",
        ).to(self.device)
        coeffs = (
            {NOVELTY: chosen["novelty_coeff"]},
            {DIVERSITY_PENALTY: chosen["diversity_coeff"]},
        )
        self.total_rewards = [
            TotalReward(coeff, total_reward=reward).to(self.device)
            for coeff, reward in zip(coeffs, REWARDS, strict=True)
        ]
        self.modules["novelty_loss"] = self.novelty_loss
        self.optimizers["autoencoder"] = make_optimizer(self.novelty_loss, lr=lr)

    def _build_clones(self, sampler: dict[str, Any], *, lr: float) -> None:
        """Clones of the partner's critics, and the sampler of their batches."""
        self.estimator = InfluenceEstimatorLoss(self.learners[1], self.team, kind="clones").to(
            self.device
        )
        self.conditional_samplers.append(ConditionalSampler(turn=TURN, **sampler))
        self.modules["estimator"] = self.estimator
        self.optimizers["estimator"] = make_optimizer(self.estimator, lr=lr)

    def _optimum(self, kind: str, at: str, uniform: int) -> AtPolicy | BestOf | TDTarget:
        if kind == "policy":
            return AtPolicy(at=at)
        if kind == "td_target":
            return TDTarget()
        return BestOf(uniform=uniform, spec=self.action_spec, at=at)

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

    def recent_rows(self, stored: TensorDictBase) -> TensorDictBase:
        """What the influencer did itself, on which its autoencoder is trained."""
        return stored[stored.get(TURN)[..., 0] == 0]

    def start_episode(self) -> None:
        """Set the clones back to the partner's critics, Sec. 3.1.2."""
        if self.estimator is not None:
            self.estimator.reset_clones()

    def update(
        self,
        batch: TensorDictBase,
        conditional_batches: Sequence[TensorDictBase] = (),
        recent_batch: TensorDictBase | None = None,
    ) -> TensorDict:
        """One step of both agents' critics and of the autoencoder, several of the clones.

        With every ``policy_delay``-th the policies and the targets move too.

        Args:
            batch: transitions ``[B]`` of the replay buffer, of both agents.
            conditional_batches: D_t, one if there are clones.
            recent_batch: recent transitions of the influencer, for the autoencoder.
                Default: the batch.

        Returns:
            Detached scalars to log: the losses, ``novelty``, ``diversity_penalty``, the
            gradients' norms, and when the policies move, ``influence`` and ``gap``.

        Raises:
            ValueError: if there is not one conditional batch for each sampler.
            KeyError: if a batch lacks a key.
        """
        if len(conditional_batches) != len(self.conditional_samplers):
            raise ValueError(
                f"{len(self.conditional_samplers)} conditional batches are needed, got "
                f"{len(conditional_batches)}."
            )
        logs = TensorDict()
        for conditional_batch in conditional_batches:  # Eq. 8
            logs.update(self._train_estimator(conditional_batch))
        everything = (self.updates + 1) % self.policy_delay == 0
        self._zero_grad()
        gradient = self._gradient if everything else self._critics_gradient
        logs.update(gradient(batch, batch if recent_batch is None else recent_batch))
        # A batch that is refused is no update.
        self.updates += 1
        names = ["autoencoder", *(f"qvalue_{name}" for name in AGENTS)]
        if everything:
            names += [f"actor_{name}" for name in AGENTS]
        logs.update(self._followed(names))
        if everything:
            for updater in self.target_updaters:
                updater.step()
        return logs

    def _losses(self, batch: TensorDictBase, recent_batch: TensorDictBase) -> TensorDictBase:
        batch = self._rewarded(batch)
        losses = self._with_novelty(batch, recent_batch)
        for name, learner in zip(AGENTS, self.learners, strict=True):
            losses.update(_named(scalars(learner(batch.copy())), name))
        if self.influence is not None:  # Eq. 4, 9
            influence = self.influence(self._influenced(batch))
            losses.update(influence.set("gap", influence["gap"].squeeze(-1)))
        return losses

    def _critics_losses(
        self, batch: TensorDictBase, recent_batch: TensorDictBase
    ) -> TensorDictBase:
        batch = self._rewarded(batch)
        losses = self._with_novelty(batch, recent_batch)
        for name, learner in zip(AGENTS, self.learners, strict=True):
            losses.update(_named(critics_losses(learner, batch.copy()), name))
        return losses

    def _with_novelty(self, batch: TensorDictBase, recent_batch: TensorDictBase) -> TensorDictBase:
        losses = self.novelty_loss(recent_batch)
        losses.set("novelty", batch.get(next_key(NOVELTY)).mean())
        return losses.set("diversity_penalty", batch.get(next_key(DIVERSITY_PENALTY)).mean())

    def _rewarded(self, batch: TensorDictBase) -> TensorDictBase:
        """Both agents' rewards, Eq. 10 and 11, for what was done.

        As published, the novelty is that of the next state and the influencer's action.
        """
        batch = self.diversity(self.novelty(self._transitions(batch)))
        if self.form == "published":
            following = self._acted(batch, next_key(OBSERVATION))
            batch.set(next_key(NOVELTY), self.novelty(following).get(next_key(NOVELTY)))
        for total_reward in self.total_rewards:
            batch = total_reward(batch)
        return batch

    def _influenced(self, batch: TensorDictBase) -> TensorDictBase:
        """The batch that the influence is computed on.

        As published, the partner's reward in it is that of the influencer's action.
        """
        if self.form != "published":
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

    def _with_target(self, batch: TensorDictBase) -> TensorDictBase:
        """A conditional batch with what all updates of the clones on it are drawn to."""
        batch = self._rewarded(batch)
        key = self.estimator.tensor_keys.value_target
        return batch.set(key, self.estimator.value_target(batch))

    def _estimator_losses(self, batch: TensorDictBase) -> TensorDictBase:
        return self.estimator(batch)

    def _train_estimator(self, batch: TensorDictBase) -> dict[str, torch.Tensor]:
        batch = self._targeted(batch)
        optimizer = self.optimizers["estimator"]
        for _ in range(self.estimator_updates):
            optimizer.zero_grad(set_to_none=True)
            loss = self._estimator_gradient(batch)["loss_estimator"]
            norm = self._follow(optimizer)
        return {"loss_estimator": loss, "grad_norm_estimator": norm}


def _named(losses: TensorDictBase, agent: str) -> TensorDict:
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
