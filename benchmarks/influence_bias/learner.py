"""MADDPG, and the estimators that watch it without a trace."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from statistics import median
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictSequential
from torch import nn
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.envs import EnvBase
from torchrl.modules import AdditiveGaussianModule, EGreedyModule

from benchmarks.influence_bias.settings import INFLUENCER, Estimator, Settings
from torchrl_alita import (
    MADDPG,
    BestOf,
    ConditionalSampler,
    Enumerated,
    InfluenceEstimatorLoss,
    InfluenceLoss,
    Marginal,
    Trained,
    make_influence_network,
)
from torchrl_alita.layout import ACTION, DONE, OBSERVATION, REWARD, TERMINATED, next_key
from torchrl_alita.saving import machine

STORED = (OBSERVATION, ACTION, *map(next_key, (OBSERVATION, REWARD, DONE, TERMINATED)))
BUFFER_SIZE = 1_000_000  # the paper's


class Source:
    """A trained estimator of the influenced value, with its D_t and its optimizer."""

    def __init__(self, estimator: Estimator, learner: Learner, storage: LazyTensorStorage):
        settings, env = learner.settings, learner.env
        network = None
        if estimator.kind == "centralized":
            network = make_influence_network(env, num_cells=settings.num_cells)
        self.loss = InfluenceEstimatorLoss(
            learner.algorithm.maddpg,
            INFLUENCER,
            kind=estimator.kind,
            estimator_network=network,
        )
        sampler = ConditionalSampler(influencer=INFLUENCER, kind=estimator.batches)
        self.batches = ReplayBuffer(
            storage=storage, sampler=sampler, batch_size=settings.batch_size
        )
        self.optimizer = torch.optim.Adam(self.loss.parameters(), lr=settings.estimator_lr)
        self.updates = settings.estimator_updates

    def update(self) -> None:
        """One round of D_t, as ALITA does it at each step."""
        batch = self.batches.sample()
        for _ in range(self.updates):
            self.optimizer.zero_grad(set_to_none=True)
            self.loss(batch)["loss_estimator"].backward()
            nn.utils.clip_grad_norm_(self.loss.parameters(), 0.5)
            self.optimizer.step()


class Learner:
    """MADDPG on an environment, and the estimators that watch it.

    The estimators draw from a random stream of their own: the learner is the same,
    whichever of them there are.
    """

    def __init__(self, env: EnvBase, settings: Settings, estimators: dict[str, Estimator]):
        self.env, self.settings, self.estimators = env, settings, estimators
        self.algorithm = MADDPG(
            env,
            MADDPG.Settings(
                num_cells=settings.num_cells,
                gamma=settings.gamma,
                actor_lr=settings.actor_lr,
                critic_lr=settings.critic_lr,
                tau=settings.tau,
            ),
        )
        self.discrete = self.algorithm.layout.discrete
        frames = settings.episodes * settings.horizon * settings.num_envs
        storage = LazyTensorStorage(min(frames, BUFFER_SIZE))
        self.replay = ReplayBuffer(storage=storage, batch_size=settings.batch_size)
        self.compared = ReplayBuffer(storage=storage, batch_size=settings.compared)
        self.noise = exploration(self.algorithm, settings)
        self.collected = iter(
            Collector(
                env,
                TensorDictSequential(self.algorithm.actor, self.noise),
                frames_per_batch=settings.num_envs * settings.steps_per_batch,
                total_frames=frames,
                init_random_frames=settings.warmup * settings.horizon * settings.num_envs,
                auto_register_policy_transforms=False,
            )
        )
        self.stream = torch.Generator().manual_seed(torch.initial_seed() + 1).get_state()
        with self.own_stream():
            trained = {e[:2]: e for e in estimators.values() if e.kind != "marginal"}
            self.sources = {key: Source(e, self, storage) for key, e in trained.items()}
        self.optimizers = [
            *self.algorithm.optimizers.values(),
            *(source.optimizer for source in self.sources.values()),
        ]
        self.rates = [[g["lr"] for g in opt.param_groups] for opt in self.optimizers]
        self.episodes = 0
        self.last_return = 0.0

    @contextmanager
    def own_stream(self) -> Iterator[None]:
        """Random numbers that the learner does not see."""
        outside = torch.get_rng_state()
        torch.set_rng_state(self.stream)
        try:
            yield
        finally:
            self.stream = torch.get_rng_state()
            torch.set_rng_state(outside)

    def source(self, estimator: Estimator) -> nn.Module:
        """What InfluenceLoss takes for this row."""
        if estimator.kind == "marginal":
            return self.algorithm.maddpg
        return self.sources[estimator[:2]].loss

    def play(self) -> None:
        """A round of episodes, and an update for each of its steps.

        Clones start anew with each episode, so that only those of an episode at whose
        end a comparison is made have to be trained.
        """
        settings = self.settings
        self.episodes += 1
        compared = self.episodes % settings.checkpoint_every == 0
        used = {k: s for k, s in self.sources.items() if k[0] != "clones" or compared}
        for (kind, _), source in used.items():
            if kind == "clones":
                source.loss.reset_clones()
        self.last_return = 0.0
        for _ in range(settings.horizon // settings.steps_per_batch):
            batch = next(self.collected).select(*STORED)
            self.last_return += float(batch[next_key(REWARD)].sum(1).mean())
            # Step by step over all environments, so that the last rows are the newest.
            self.replay.extend(batch.transpose(0, 1).reshape(-1))
            self.noise.step()
            if self.episodes <= settings.warmup:
                continue
            self._set_rates()
            for _ in range(settings.steps_per_batch):
                self.algorithm.update({"batch": self.replay.sample()})
                with self.own_stream():
                    for source in used.values():
                        source.update()

    def _set_rates(self) -> None:
        if not self.settings.decay:
            return
        left = 1 - (self.episodes - 1) / self.settings.episodes
        for optimizer, rates in zip(self.optimizers, self.rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * left


def exploration(algorithm: MADDPG, settings: Settings) -> EGreedyModule | AdditiveGaussianModule:
    """Noise that shrinks until the middle of the run."""
    rounds = settings.episodes * settings.horizon // settings.steps_per_batch
    options = {"annealing_num_steps": rounds // 2, "action_key": ACTION}
    start, end = settings.noise
    if algorithm.layout.discrete:
        return EGreedyModule(algorithm.action_spec, eps_init=start, eps_end=end, **options)
    return AdditiveGaussianModule(algorithm.action_spec, sigma_init=start, sigma_end=end, **options)


def influence_loss(
    learner: Learner,
    estimator: Estimator,
    optimum: BestOf | Enumerated,
    *,
    source: nn.Module | None = None,
) -> InfluenceLoss:
    """The loss that a user of this estimator would have."""
    source = learner.source(estimator) if source is None else source
    samples = estimator.num_action_samples
    if isinstance(source, InfluenceEstimatorLoss):
        value, partner = Trained(source, samples), source.partner
    else:
        value, partner = Marginal(samples), source
    return InfluenceLoss(learner.algorithm.actor, partner, INFLUENCER, value=value, optimum=optimum)


def critic_of(source: nn.Module) -> Callable[[TensorDictBase, torch.Tensor], torch.Tensor]:
    """The values that InfluenceLoss reads, of a partner's loss or of an estimator."""
    if isinstance(source, InfluenceEstimatorLoss):
        return source.influenced_value
    return lambda states, action: source.critics.value(states, action, keys=source.tensor_keys)


def follow(
    learner: Learner,
    compare: Callable[[Learner], dict],
    say: Callable[[dict], object] = lambda result: None,
) -> dict[str, Any]:
    """Learn to the end, and compare at every checkpoint."""
    started = time.perf_counter()
    result: dict[str, Any] = {
        "settings": asdict(learner.settings),
        "machine": machine(),
        "finished": False,
        "seconds": 0.0,
        "points": [],
    }
    while learner.episodes < learner.settings.episodes:
        learner.play()
        if learner.episodes % learner.settings.checkpoint_every:
            continue
        with learner.own_stream():
            result["points"].append(compare(learner))
        result["seconds"] = round(time.perf_counter() - started, 1)
        result["finished"] = learner.episodes == learner.settings.episodes
        say(result)
    return result


def costs(learner: Learner, repeats: int = 9) -> dict[str, float]:
    """What a row adds to an update of MADDPG, in percent of it, forward and backward.

    Its training, ``estimator_updates`` steps on a fresh D_t, and its InfluenceLoss with
    the sampled optimum, as ALITA has them. Processor time in turns, median of the ratios.
    The learner goes on learning meanwhile.
    """
    ratios: dict[str, list[float]] = {name: [] for name in learner.estimators}
    batch = learner.replay.sample()
    losses = {
        name: influence_loss(learner, e, BestOf(uniform=4, spec=learner.algorithm.action_spec))
        for name, e in learner.estimators.items()
    }

    for _ in range(repeats):
        whole = processor_time(lambda: learner.algorithm.update({"batch": learner.replay.sample()}))
        for name, estimator in learner.estimators.items():

            def work(name: str = name, estimator: Estimator = estimator) -> None:
                if estimator.kind != "marginal":
                    learner.sources[estimator[:2]].update()
                losses[name](batch)["loss_influence"].backward()

            ratios[name].append(100 * processor_time(work) / whole)
    return {name: round(median(values), 1) for name, values in ratios.items()}


def processor_time(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started
