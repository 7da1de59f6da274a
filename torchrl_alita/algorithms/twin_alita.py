"""ALITA in a task for one: an influencer and an auxiliary agent that take turns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictModuleBase
from torchrl.data import Composite
from torchrl.envs import EnvBase, TransformedEnv

from torchrl_alita._checks import (
    check_at_least_one,
    check_choice,
    check_non_negative,
    check_positive,
    require_keys,
)
from torchrl_alita.algorithms._compiled import differentiate
from torchrl_alita.algorithms._learner import adam
from torchrl_alita.algorithms._single import SingleAgent, scalars, with_agents_flags
from torchrl_alita.algorithms.td3 import critics_losses, soft_update, td3_loss
from torchrl_alita.data import ConditionalSampler
from torchrl_alita.data.conditional import KINDS
from torchrl_alita.envs import TakeTurns
from torchrl_alita.envs.layout import (
    ACTION,
    DIVERSITY_PENALTY,
    DONE,
    NOVELTY,
    OBSERVATION,
    REWARD,
    TERMINATED,
    TOTAL_REWARD,
    TURN,
    VALUE,
    next_key,
)
from torchrl_alita.modules import Autoencoder, make_actor
from torchrl_alita.modules._mlp import multi_agent_mlp
from torchrl_alita.objectives import InfluenceEstimatorLoss, InfluenceLoss, NoveltyLoss
from torchrl_alita.transforms import DiversityPenalty, NoveltyReward, TotalReward

__all__ = ["TwinALITA"]

INFLUENCER, PARTNER = 0, 1
ESTIMATORS = ("clones", "marginal")
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

    To the parts of :class:`torchrl_alita.ALITA` a transition is that of a team of two who
    see the same state and take the same action.

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

        pair = _pair_of(env)
        networks = {"num_cells": num_cells, "layer_norm": layer_norm, "device": self.device}
        self.pair_actor = make_actor(pair, **networks)
        self.actor = _TurnActor(self.pair_actor)
        self.turns = TakeTurns()
        self.td3 = td3_loss(
            self.pair_actor,
            self._own_critics(**networks),
            bounds=(self.action_spec.space.low, self.action_spec.space.high),
            gamma=gamma,
            policy_noise=policy_noise,
            noise_clip=noise_clip,
        ).to(self.device)
        self.td3.set_keys(reward=TOTAL_REWARD)
        self.target_updater = soft_update(self.td3, tau=tau)

        self.autoencoder = Autoencoder(
            self.layout.observation_size + self.layout.action_size, device=self.device
        )
        published = form == "published"
        self.novelty = NoveltyReward(
            self.autoencoder,
            influencer=INFLUENCER,
            distance="euclidean" if published else "squared",
        )
        self.novelty_loss = NoveltyLoss(self.autoencoder, influencer=INFLUENCER)
        self.diversity = DiversityPenalty(
            self.pair_actor,
            influencer=INFLUENCER,
            omega=omega,
            distance="euclidean" if published else "squared",
            weight="min_max" if published else "exponential",
        ).to(self.device)
        self.total_reward = TotalReward(
            {NOVELTY: chosen["novelty_coeff"], DIVERSITY_PENALTY: chosen["diversity_coeff"]}
        ).to(self.device)
        self.modules = {"td3": self.td3, "novelty_loss": self.novelty_loss, "turns": self.turns}
        self.optimizers = {
            "actor": adam(self.td3.actor_network_params, lr=actor_lr),
            "qvalue": adam(self.td3.qvalue_network_params, lr=critic_lr),
            "autoencoder": adam(self.novelty_loss, lr=autoencoder_lr),
        }

        self.estimator: InfluenceEstimatorLoss | None = None
        self.influence: InfluenceLoss | None = None
        if chosen["influence_coeff"]:
            source = self.td3
            if chosen["estimator"] == "clones":
                source = self.estimator = InfluenceEstimatorLoss(
                    self.td3, kind="clones", influencer=INFLUENCER, gamma=gamma
                ).to(self.device)
                source.set_keys(reward=TOTAL_REWARD)
                self.conditional_samplers.append(
                    ConditionalSampler(
                        influencer=INFLUENCER,
                        kind=conditional,
                        num_candidates=num_candidates,
                        turn=TURN,
                    )
                )
                self.modules["estimator"] = source
                self.optimizers["estimator"] = adam(source, lr=estimator_lr)
            sampled = chosen["optimum"] == "sampled"
            self.influence = InfluenceLoss(
                self.pair_actor,
                source,
                influencer=INFLUENCER,
                influence_coeff=chosen["influence_coeff"],
                optimum=chosen["optimum"],
                optimum_at=optimum_at,
                num_optimum_samples=num_optimum_samples if sampled else 0,
                action_spec=pair.full_action_spec_unbatched[ACTION].to(self.device),
                in_turns=True,
                gamma=gamma,
                normalize=normalize,
            ).to(self.device)
            self.influence.set_keys(reward=TOTAL_REWARD)
            self.modules["influence"] = self.influence

        self._gradient = self._compiled(self._losses, then=differentiate)
        self._critics_gradient = self._compiled(self._critics_losses, then=differentiate)
        self._targeted = self._compiled(self._with_target)
        self._estimator_gradient = self._compiled(self._estimator_losses, then=differentiate)

    def _own_critics(
        self, *, num_cells: Sequence[int], layer_norm: bool, device: torch.device
    ) -> TensorDictModule:
        """A critic of each agent of what that agent does, ``[*B, 2, .] -> [*B, 2, 1]``."""
        net = multi_agent_mlp(
            in_features=self.layout.observation_size + self.layout.action_size,
            out_features=1,
            num_agents=2,
            num_cells=num_cells,
            layer_norm=layer_norm,
            device=device,
        )
        return TensorDictModule(net, in_keys=[OBSERVATION, ACTION], out_keys=[VALUE])

    def prepare(self, env: EnvBase) -> EnvBase:
        """The environment with turns, an episode for each of the two."""
        return TransformedEnv(env, self.turns, auto_unwrap=False)

    def candidates(self) -> list[TensorDictModuleBase]:
        """The influencer's policy and the partner's."""
        return [_TurnActor(self.pair_actor, turn) for turn in (INFLUENCER, PARTNER)]

    def recent_rows(self, stored: TensorDictBase) -> TensorDictBase:
        """What the influencer did itself, on which its autoencoder is trained."""
        return stored[stored.get(TURN)[..., 0] == INFLUENCER]

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
        followed = {"qvalue", "autoencoder", *(["actor"] if everything else [])}
        logs.update(self._followed(sorted(followed)))
        if everything:
            self.target_updater.step()
        return logs

    def _losses(self, batch: TensorDictBase, recent_batch: TensorDictBase) -> TensorDictBase:
        batch = self._rewarded(_paired(batch))
        losses = _of_both(scalars(self.td3(batch.copy())))
        if self.influence is not None:  # Eq. 4, 9
            influence = self.influence(self._influenced(batch))
            losses.update(influence.set("gap", influence["gap"].squeeze(-1)))
        return self._with_novelty(losses, batch, recent_batch)

    def _critics_losses(
        self, batch: TensorDictBase, recent_batch: TensorDictBase
    ) -> TensorDictBase:
        batch = self._rewarded(_paired(batch))
        losses = _of_both(critics_losses(self.td3, batch.copy()))
        return self._with_novelty(losses, batch, recent_batch)

    def _with_novelty(
        self, losses: TensorDictBase, batch: TensorDictBase, recent_batch: TensorDictBase
    ) -> TensorDictBase:
        losses.update(self.novelty_loss(recent_batch))
        losses.set("novelty", batch.get(next_key(NOVELTY))[..., INFLUENCER, :].mean())
        penalty = batch.get(next_key(DIVERSITY_PENALTY))[..., PARTNER, :]
        return losses.set("diversity_penalty", penalty.mean())

    def _rewarded(self, batch: TensorDictBase) -> TensorDictBase:
        """Eq. 10 and 11 for what was done; as published, the novelty of what comes next."""
        rewarded = self.diversity(self.novelty(batch))
        if self.form == "published":
            following = self._acted(batch, next_key(OBSERVATION))
            rewarded.set(next_key(NOVELTY), self.novelty(following).get(next_key(NOVELTY)))
        return self.total_reward(rewarded)

    def _influenced(self, batch: TensorDictBase) -> TensorDictBase:
        """The batch that the influence is computed on.

        As published, the partner's reward in it is that of the influencer's action.
        """
        if self.form != "published":
            return batch
        acted = self._acted(batch, OBSERVATION)
        action = acted.get(ACTION)[..., INFLUENCER, None, :].expand_as(acted.get(ACTION))
        acted.set(ACTION, action).set(next_key(REWARD), batch.get(next_key(REWARD)))
        acted = self.total_reward(self.diversity(self.novelty(acted)))
        return batch.copy().set(next_key(TOTAL_REWARD), acted.get(next_key(TOTAL_REWARD)))

    @torch.no_grad()
    def _acted(self, batch: TensorDictBase, observation: tuple[str, ...]) -> TensorDictBase:
        """What the policies do in the given states."""
        states = TensorDict(batch_size=batch.batch_size)
        return self.pair_actor(states.set(OBSERVATION, batch.get(observation)))

    def _with_target(self, batch: TensorDictBase) -> TensorDictBase:
        """A conditional batch with what all updates of the clones on it are drawn to."""
        batch = self._rewarded(_paired(batch))
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


class _Pair(NamedTuple):
    """What the networks of two agents are built for."""

    full_observation_spec_unbatched: Composite
    full_action_spec_unbatched: Composite
    device: torch.device | None


def _pair_of(env: EnvBase) -> _Pair:
    """An environment for one as each of two agents knows it."""

    def of_both(spec: Composite, key: tuple[str, str]) -> Composite:
        one = spec[key]
        both = one.expand(2, *one.shape[1:]).clone()
        return Composite({key[0]: Composite({key[1]: both}, shape=(2,))})

    return _Pair(
        of_both(env.full_observation_spec_unbatched, OBSERVATION),
        of_both(env.full_action_spec_unbatched, ACTION),
        env.device,
    )


def _paired(batch: TensorDictBase) -> TensorDictBase:
    """Transitions of one agent as both could have made them, ``[*B, 1, .] -> [*B, 2, .]``.

    Raises:
        KeyError: if the batch lacks a key.
    """
    keys = (OBSERVATION, ACTION, next_key(OBSERVATION), next_key(REWARD))
    flags = (next_key(DONE), next_key(TERMINATED))
    require_keys(batch, (*keys, *flags))
    pair = TensorDict(batch_size=batch.batch_size, device=batch.device)
    for key in keys:
        value = batch.get(key).detach()
        pair.set(key, value.expand(*value.shape[:-2], 2, value.shape[-1]))
    for flag in flags:
        pair.set(flag, batch.get(flag))
    return with_agents_flags(pair, num_agents=2)


def _of_both(losses: TensorDictBase) -> TensorDictBase:
    """TorchRL's mean over the agents as the sum of their own losses."""
    for key in losses.keys():  # noqa: SIM118
        if key.startswith("loss_"):
            losses.set(key, 2 * losses.get(key))
    return losses


class _TurnActor(TensorDictModuleBase):
    """The policy of the agent whose turn it is, ``[*B, 1, O], [*B, 1] -> [*B, 1, A]``.

    Args:
        pair_actor: the policies of both agents.
        turn: of the agent that always acts. Default: what the environment says.
    """

    def __init__(self, pair_actor: TensorDictModuleBase, turn: int | None = None):
        super().__init__()
        self.pair_actor = pair_actor
        self.turn = turn
        self.in_keys = [OBSERVATION] if turn is not None else [OBSERVATION, TURN]
        self.out_keys = [ACTION]

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        observation = tensordict.get(OBSERVATION)
        states = TensorDict(batch_size=tensordict.batch_size)
        states.set(OBSERVATION, observation.expand(*observation.shape[:-2], 2, -1))
        actions = self.pair_actor(states).get(ACTION)
        if self.turn is not None:
            return tensordict.set(ACTION, actions[..., self.turn, None, :])
        turn = tensordict.get(TURN).unsqueeze(-1)
        return tensordict.set(ACTION, actions.take_along_dim(turn, dim=-2))
