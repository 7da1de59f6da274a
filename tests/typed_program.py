"""What a user's program looks like to a type checker: `make types` reads it, nothing runs it.

A line with an ignore is a mistake that the checker must find: one that it no longer finds is an
ignore that is not used, which is an error too.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from tensordict import TensorDictBase

from torchrl_alita import (
    ALITA,
    MADDPG,
    Autoencoder,
    BestOf,
    DiversityPenalty,
    InfluenceEstimatorLoss,
    InfluenceLoss,
    MADDPGLoss,
    Marginal,
    NoveltyLoss,
    NoveltyReward,
    Team,
    TotalReward,
    Trained,
    make_actor,
    make_critic,
    make_env,
)
from torchrl_alita.algorithms import ALITASettings, MADDPGSettings
from torchrl_alita.data import ConditionalSampler
from torchrl_alita.envs import PushBoxSettings, Task
from torchrl_alita.saving import load_policy
from torchrl_alita.training import Config, TrainingSettings, evaluate, make_config, train
from torchrl_alita.transforms import VisitBonus


def parts() -> TensorDictBase:
    env = make_env("push_box", num_envs=5, n_agents=2, seed=0, settings=PushBoxSettings(size=11))
    team = Team(env, influencers=0)
    actor = make_actor(env, num_cells=(8,))
    partner = MADDPGLoss(actor, make_critic(env), gamma=0.9)
    autoencoder = Autoencoder(7)
    clones = InfluenceEstimatorLoss(partner, team, kind="clones")
    losses: list[Callable[[TensorDictBase], TensorDictBase]] = [
        InfluenceLoss(actor, partner, team, influence_coeff=0.1),
        InfluenceLoss(actor, partner, team, value=Marginal(samples="all"), optimum=BestOf()),
        InfluenceLoss(actor, partner, team, value=Trained(clones, samples=2)),
        NoveltyLoss(autoencoder, team),
    ]
    total = TotalReward({("agents", "novelty"): 0.1})
    batch = total(NoveltyReward(autoencoder, team)(env.rollout(3)))
    for loss in losses:
        batch = loss(batch)
    sizes: int = team.size
    who: tuple[int, ...] = team.influencees
    weights: torch.Tensor = team.weights
    print(sizes, who, weights)
    return batch


def runs() -> dict[str, object]:
    config = Config(
        task="vmas/spread",
        training=TrainingSettings(num_envs=10, loggers=("csv", "wandb"), seed=1),
        algorithm=ALITASettings(influence_coeff=0.3, num_cells=(8, 8), omega=0.1),
    )
    named = make_config("maddpg", "vmas/spread", {"algorithm.gamma": "0.9"})
    env = make_env("vmas/spread")
    algorithm = MADDPG(env, MADDPGSettings(gamma=0.9))
    policy = load_policy("runs/first", env)
    values, episodes = evaluate(policy, env, None, horizon=5, seed=0)
    means: dict[str, float] = values
    print(config, named, algorithm.actor, means, episodes)
    return train(config)


def mistakes() -> None:
    env = make_env("vmas/spread")
    actor = make_actor(env)
    partner = MADDPGLoss(actor, make_critic(env))
    team = Team(env)
    MADDPGLoss(actor)  # type: ignore[call-arg]
    MADDPGLoss(actor, make_critic(env), gama=0.9)  # type: ignore[call-arg]
    MADDPGLoss(actor, make_critic(env), others_actions="all")  # type: ignore[arg-type]
    InfluenceLoss(actor, partner, team, 0.1)  # type: ignore[arg-type, call-arg]
    InfluenceLoss(actor, partner, team, influence_coeff="0.1")  # type: ignore[arg-type]
    InfluenceEstimatorLoss(partner, team, kind="clone")  # type: ignore[arg-type]
    Marginal(samples="some")  # type: ignore[arg-type]
    NoveltyReward(Autoencoder(7), team, distance="manhattan")  # type: ignore[arg-type]
    DiversityPenalty(actor, team, omega="0.1")  # type: ignore[arg-type]
    ConditionalSampler(num_anchors="1")  # type: ignore[arg-type]
    VisitBonus("code")  # type: ignore[arg-type]
    Team(env, influencers="some")  # type: ignore[arg-type]
    make_env(3)  # type: ignore[arg-type]
    Task()  # type: ignore[call-arg]
    ALITASettings(influence_coef=0.3)  # type: ignore[call-arg]
    ALITASettings(influence_coeff="0.3")  # type: ignore[arg-type]
    TrainingSettings(loggers="csv")  # type: ignore[arg-type]
    Config(algorithm=ALITA)  # type: ignore[arg-type]
    train("vmas/spread")  # type: ignore[arg-type]
