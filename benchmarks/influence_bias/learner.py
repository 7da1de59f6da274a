"""MADDPG, and the estimators that watch it without a trace."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import nn
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.envs import EnvBase

from benchmarks.influence_bias.settings import INFLUENCER, Estimator, Settings
from benchmarks.timing import take_turns
from torchrl_alita import (
    BestOf,
    ConditionalSampler,
    Enumerated,
    InfluenceEstimatorLoss,
    InfluenceLoss,
    Marginal,
    Trained,
    make_influence_network,
)
from torchrl_alita.algorithms import MADDPGSettings
from torchrl_alita.envs import Task
from torchrl_alita.saving import machine
from torchrl_alita.training import Config, TrainingSettings
from torchrl_alita.training.collection import Collection
from torchrl_alita.training.learning import Learning

# Of the algorithm's settings.
LEARNED_WITH = ("num_cells", "gamma", "actor_lr", "critic_lr", "tau", "batch_size")


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
        config = config_of(settings)
        self.algorithm = config.build(env)
        self.discrete = self.algorithm.layout.discrete
        self.collection = Collection(config, env, self.algorithm, Task(lambda **options: env))
        self.collected = iter(self.collection)
        self.learning = Learning(config, self.algorithm)
        self.replay = self.learning.buffers.replay
        storage = self.replay.storage
        self.compared = ReplayBuffer(storage=storage, batch_size=settings.compared)
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
        for _ in range(settings.horizon // settings.steps_per_batch):
            batch = next(self.collected)
            self.learning.store(batch)
            self.collection.noise.step()
            if not self.learning.ready:
                continue
            self._set_rates()
            for _ in range(settings.steps_per_batch):
                self.learning.update(batch)
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


def config_of(settings: Settings) -> Config:
    """MADDPG's run: noise that shrinks until its middle, an update for each step."""
    round_of = settings.num_envs * settings.horizon
    frames = settings.episodes * round_of
    start, end = settings.noise
    return Config(
        algorithm=MADDPGSettings(
            **{name: getattr(settings, name) for name in LEARNED_WITH},
            random_frames=settings.warmup * round_of,
            noise_start=start,
            noise_end=end,
            noise_frames=frames // 2,
            frames_per_update=settings.num_envs,
        ),
        training=TrainingSettings(
            num_envs=settings.num_envs,
            horizon=settings.horizon,
            total_frames=frames,
            frames_per_batch=settings.num_envs * settings.steps_per_batch,
        ),
    )


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


def follow(learner: Learner, compare: Callable[[Learner], dict]) -> dict[str, Any]:
    """Learn to the end, and compare at every checkpoint."""
    started, settings, points = time.perf_counter(), learner.settings, []
    while learner.episodes < settings.episodes:
        learner.play()
        if learner.episodes % settings.checkpoint_every == 0:
            with learner.own_stream():
                points.append(compare(learner))
    seconds = round(time.perf_counter() - started, 1)
    about = {"settings": asdict(settings), "machine": machine(), "seconds": seconds}
    return about | {"points": points}


def costs(learner: Learner, repeats: int = 9) -> dict[str, float]:
    """What a row adds to an update of MADDPG, in percent of it, forward and backward.

    Its training, ``estimator_updates`` steps on a fresh D_t, and its InfluenceLoss with
    the sampled optimum, as ALITA has them. Processor time, median of so many turns; the
    learner goes on learning meanwhile.
    """
    batch = learner.replay.sample()
    optimum = BestOf(uniform=4, spec=learner.algorithm.action_spec)

    def work(estimator: Estimator, loss: InfluenceLoss) -> None:
        if estimator.kind != "marginal":
            learner.sources[estimator[:2]].update()
        loss(batch)["loss_influence"].backward()

    calls = {
        name: partial(work, estimator, influence_loss(learner, estimator, optimum))
        for name, estimator in learner.estimators.items()
    }
    calls["an update"] = lambda: learner.algorithm.update({"batch": learner.replay.sample()})
    times = take_turns(calls, repeats, per=1)
    whole = times.pop("an update")["processor_ms"]
    return {name: round(100 * found["processor_ms"] / whole, 1) for name, found in times.items()}
