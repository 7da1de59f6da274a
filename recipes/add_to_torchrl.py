"""A stock TorchRL script, and the few lines that add ALITA's parts to it.

Without flags this is TorchRL alone (its networks, DDPGLoss, collector and buffer) on
VMAS's cooperative navigation. Each flag adds one part, between the lines marked with
its name; delete them and the script is the old one.

    python recipes/add_to_torchrl.py
    python recipes/add_to_torchrl.py --novelty --diversity --influence
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
import tyro
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictSequential
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.envs import ExplorationType, StepCounter, TransformedEnv, VmasEnv, set_exploration_type
from torchrl.modules import AdditiveGaussianModule, MultiAgentMLP, TanhModule
from torchrl.objectives import DDPGLoss, SoftUpdate, ValueEstimators

from torchrl_alita import (
    Autoencoder,
    ConditionalSampler,
    DiversityPenalty,
    InfluenceEstimatorLoss,
    InfluenceLoss,
    Marginal,
    NoveltyLoss,
    NoveltyReward,
    Team,
    TotalReward,
    Trained,
)


@dataclass
class Config:
    """A stock script, and a flag for each part that can be added."""

    novelty: bool = False
    """Add the influencer's novelty to its reward."""
    diversity: bool = False
    """Add the diversity penalty to its teammates' reward; needs novelty."""
    influence: bool = False
    """Add the influence to the actors' loss."""
    influencer: int = 0
    """Index of the influencer."""
    novelty_coeff: float = 0.01
    """Weight of the novelty."""
    diversity_coeff: float = 0.1
    """Weight of the diversity penalty."""
    influence_coeff: float = 0.1
    """Weight of the influence."""
    clones: bool = False
    """Estimate the influenced values with trained clones, not by the marginal estimate."""
    n_agents: int = 3
    """Agents."""
    num_envs: int = 60
    """Environments simulated together."""
    horizon: int = 100
    """Steps of an episode."""
    total_frames: int = 60_000
    """Environment steps of the whole run."""
    frames_per_batch: int = 1_200
    """Environment steps between two rounds of updates."""
    updates_per_batch: int = 12
    """Updates of a round."""
    batch_size: int = 1_024
    """Transitions of an update."""
    gamma: float = 0.95
    """Discount factor of a step."""
    lr: float = 1e-3
    """Adam's learning rate."""
    tau: float = 0.05
    """Share by which the targets move at each update."""
    seed: int = 0
    """Of everything random."""


def main(config: Config) -> dict[str, float]:
    """Train; the last batch's losses and the mean reward of a step of a greedy team."""
    if config.diversity and not config.novelty:
        raise SystemExit("--diversity needs --novelty: the penalty is where nothing is new.")
    torch.manual_seed(config.seed)

    def make_env(seed: int) -> TransformedEnv:
        env = VmasEnv(
            "simple_spread",
            num_envs=config.num_envs,
            n_agents=config.n_agents,
            seed=seed,
            device="cpu",
        )
        return TransformedEnv(env, StepCounter(max_steps=config.horizon))

    env = make_env(config.seed)
    observation, action = ("agents", "observation"), ("agents", "action")
    spec = env.full_action_spec_unbatched[action]
    num_observation = env.observation_spec[observation].shape[-1]
    sizes = {"n_agents": config.n_agents, "depth": 2, "num_cells": 128}
    net = MultiAgentMLP(
        n_agent_inputs=num_observation,
        n_agent_outputs=spec.shape[-1],
        centralized=False,
        share_params=False,
        activation_class=torch.nn.ReLU,
        **sizes,
    )
    actor = TensorDictSequential(
        TensorDictModule(net, in_keys=[observation], out_keys=[("agents", "param")]),
        TanhModule(in_keys=[("agents", "param")], out_keys=[action], spec=spec),
    )
    critic = TensorDictModule(
        MultiAgentMLP(
            n_agent_inputs=num_observation + spec.shape[-1],
            n_agent_outputs=1,
            centralized=True,
            share_params=False,
            activation_class=torch.nn.ReLU,
            **sizes,
        ),
        in_keys=[observation, action],
        out_keys=[("agents", "state_action_value")],
    )
    loss_module = DDPGLoss(actor, critic, delay_actor=True)
    loss_module.set_keys(
        state_action_value=("agents", "state_action_value"),
        reward=("agents", "reward"),
        done=("agents", "done"),
        terminated=("agents", "terminated"),
    )
    loss_module.make_value_estimator(ValueEstimators.TD0, gamma=config.gamma)
    updater = SoftUpdate(loss_module, tau=config.tau)
    optimizer = torch.optim.Adam(loss_module.parameters(), lr=config.lr)
    noise = AdditiveGaussianModule(
        spec=spec,
        sigma_init=0.9,
        sigma_end=0.1,
        annealing_num_steps=max(1, config.total_frames // config.frames_per_batch // 2),
        action_key=action,
    )
    buffer = ReplayBuffer(
        storage=LazyTensorStorage(config.total_frames), batch_size=config.batch_size
    )
    collector = Collector(
        env,
        TensorDictSequential(actor, noise),
        frames_per_batch=config.frames_per_batch,
        total_frames=config.total_frames,
        auto_register_policy_transforms=False,
    )

    # >>> novelty, diversity
    team = Team(env, influencers=config.influencer)
    bonuses, coeffs, bonus_loss = [], {}, None
    if config.novelty:
        autoencoder = Autoencoder(num_observation + spec.shape[-1])
        bonuses.append(NoveltyReward(autoencoder, team))
        coeffs["agents", "novelty"] = config.novelty_coeff
        bonus_loss = NoveltyLoss(autoencoder, team)
        optimizer.add_param_group({"params": bonus_loss.parameters()})
    if config.diversity:
        bonuses.append(DiversityPenalty(actor, team))
        coeffs["agents", "diversity_penalty"] = config.diversity_coeff
    if bonuses:
        bonuses.append(TotalReward(coeffs))
        loss_module.set_keys(reward=("agents", "total_reward"))
    # <<< novelty, diversity

    # >>> influence
    influence_loss = estimator_loss = None
    if config.influence:
        if config.clones:
            estimator_loss = InfluenceEstimatorLoss(loss_module, team, kind="clones")
            optimizer.add_param_group({"params": estimator_loss.parameters()})
            conditional = ReplayBuffer(
                storage=buffer.storage,
                sampler=ConditionalSampler(influencer=config.influencer),
                batch_size=config.batch_size,
            )
        influence_loss = InfluenceLoss(
            actor,
            loss_module,
            team,
            value=Trained(estimator_loss) if estimator_loss else Marginal(),
            influence_coeff=config.influence_coeff,
        )
    # <<< influence

    def rewarded(batch: TensorDictBase) -> TensorDictBase:
        for bonus in bonuses:
            batch = bonus(batch)
        return batch

    losses = {}
    for collected in collector:
        # DDPGLoss wants a flag for each agent where the rewards are of each.
        for name in ("done", "terminated"):
            flag = collected["next", name].unsqueeze(-2)
            collected["next", "agents", name] = flag.expand(
                collected["next", "agents", "reward"].shape
            )
        stored = collected.select(observation, action, ("next", "agents"))
        buffer.extend(stored.transpose(0, 1).reshape(-1))
        if estimator_loss is not None and collected["next", "done"].any():
            estimator_loss.reset_clones()
        for _ in range(config.updates_per_batch):
            batch = rewarded(buffer.sample())
            losses = loss_module(batch)
            if bonus_loss is not None:
                losses.update(bonus_loss(batch))
            if influence_loss is not None:
                losses.update(influence_loss(batch))
            if estimator_loss is not None:
                losses.update(estimator_loss(rewarded(conditional.sample())))
            optimizer.zero_grad()
            sum(value for name, value in losses.items() if name.startswith("loss_")).backward()
            optimizer.step()
            updater.step()
        noise.step()
    collector.shutdown()

    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        episodes = make_env(config.seed + 1).rollout(config.horizon, actor)
    result = {
        name: value.item() for name, value in losses.detach().items() if name.startswith("loss_")
    }
    result["reward_mean"] = float(episodes["next", "agents", "reward"].mean())
    return result


if __name__ == "__main__":
    # TorchRL reports every storage that it makes.
    logging.getLogger("torchrl").setLevel(logging.WARNING)
    for name, value in main(tyro.cli(Config)).items():
        print(f"{name:<20}{value:>12.4f}")
