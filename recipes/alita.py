"""ALITA whole, in one file: environment, networks, losses, optimizers, one update, the loop.

python recipes/alita.py --help
python recipes/alita.py --total-frames 50000 --influence-coeff 0

It is the algorithm ``alita`` of the package with its defaults, for continuous actions, written out.
Source: https://arxiv.org/abs/2108.12581.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
import tyro
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictSequential
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.envs import EnvBase, ExplorationType, set_exploration_type
from torchrl.modules import AdditiveGaussianModule
from torchrl.objectives import SoftUpdate

from torchrl_alita import (
    Autoencoder,
    BestOf,
    DiversityPenalty,
    InfluenceLoss,
    MADDPGLoss,
    NoveltyLoss,
    NoveltyReward,
    Team,
    TotalReward,
    make_actor,
    make_critic,
    make_env,
)

ACTION, REWARD = ("agents", "action"), ("next", "agents", "reward")


@dataclass
class Config:
    """Settings of a run; the paper's where it gives them."""

    task: str = "vmas/spread"
    """Name of a task with continuous actions."""
    num_envs: int = 100
    """Environments simulated together."""
    total_frames: int = 250_000
    """Environment steps of the whole run."""
    frames_per_batch: int = 1_000
    """Environment steps between two rounds of updates."""
    frames_per_update: int = 100
    """Environment steps for each update."""
    random_frames: int = 5_000
    """Environment steps of random actions at the start, without updates."""
    batch_size: int = 1_024
    """Transitions of an update."""
    recent_frames: int = 10_000
    """Newest transitions, on which the autoencoder is trained."""
    noise_frames: int = 125_000
    """Environment steps over which the exploration noise shrinks from 0.9 to 0.1."""
    gamma: float = 0.95
    """Discount factor of a step."""
    actor_lr: float = 3e-4
    """Adam's learning rate of the actors."""
    critic_lr: float = 3e-3
    """Adam's learning rate of the critics."""
    autoencoder_lr: float = 1e-3
    """Adam's learning rate of the autoencoder."""
    tau: float = 0.05
    """Share by which the targets move at each update."""
    max_grad_norm: float = 0.5
    """Gradients of a network are scaled down to this norm."""
    influence_coeff: float = 0.1
    """Weight of the influence, lambda; 0 is No F."""
    novelty_coeff: float = 0.01
    """Weight of the influencer's novelty."""
    diversity_coeff: float = 0.1
    """Weight of the teammates' penalty."""
    omega: float = 0.01
    """How fast novelty lifts the penalty."""
    seed: int = 0
    """Of everything random."""


class Alita:
    """Networks, losses and optimizers, and one update of all of them.

    Args:
        env: in the layout of the package, with continuous actions.
        config: the settings.
    """

    def __init__(self, env: EnvBase, config: Config):
        spec = env.full_action_spec_unbatched[ACTION]
        observation_size = env.full_observation_spec_unbatched["agents", "observation"].shape[-1]
        self.max_grad_norm = config.max_grad_norm
        self.actor = make_actor(env)  # all N policies
        self.maddpg = MADDPGLoss(self.actor, make_critic(env), gamma=config.gamma)
        self.targets = SoftUpdate(self.maddpg, tau=config.tau)

        team = Team(env, influencers=0)  # who influences whom
        autoencoder = Autoencoder(observation_size + spec.shape[-1])
        self.novelty = NoveltyReward(autoencoder, team)  # psi(s_1, a_1)             Eq. 10
        self.novelty_loss = NoveltyLoss(autoencoder, team)
        self.diversity = DiversityPenalty(self.actor, team, omega=config.omega)  # Eq. 11
        coeffs = {"novelty": config.novelty_coeff, "diversity_penalty": config.diversity_coeff}
        self.total = TotalReward({("agents", key): coeff for key, coeff in coeffs.items()})
        self.maddpg.set_keys(reward=("agents", "total_reward"))
        self.influence = InfluenceLoss(  # F(pi_1)                                 Eq. 4, 7, 9
            self.actor,
            self.maddpg,
            team,
            optimum=BestOf(uniform=4, spec=spec),
            influence_coeff=config.influence_coeff,
        )
        trained = {
            "actor": (self.maddpg.actor_network_params, config.actor_lr),
            "critic": (self.maddpg.qvalue_network_params, config.critic_lr),
            "autoencoder": (self.novelty_loss, config.autoencoder_lr),
        }
        self.optimizers = {
            name: torch.optim.Adam(params.parameters(), lr=lr, fused=True)
            for name, (params, lr) in trained.items()
        }

    def update(self, batch: TensorDictBase, recent: TensorDictBase) -> TensorDict:
        """One step of every network; the losses and what else is worth a log, detached."""
        batch = self.total(self.diversity(self.novelty(batch)))  # new keys; the reward stays
        policy = self.maddpg.policy(batch)
        losses = self.maddpg(batch, policy=policy)  # Eq. 1, 2
        losses.update(self.novelty_loss(recent))
        losses.update(self.influence(batch, policy=policy))
        sum(value for key, value in losses.items() if key.startswith("loss_")).backward()
        for optimizer in self.optimizers.values():
            params = [param for group in optimizer.param_groups for param in group["params"]]
            torch.nn.utils.clip_grad_norm_(params, self.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.targets.step()
        return losses.detach()


def evaluate(env: EnvBase, actor: torch.nn.Module, horizon: int = 100) -> float:
    """Mean return of greedy episodes."""
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        return float(env.rollout(horizon, actor)[REWARD].sum(1).mean())


def main(config: Config) -> Alita:
    """Collect, store, update, evaluate."""
    torch.manual_seed(config.seed)
    env = make_env(config.task, num_envs=config.num_envs, seed=config.seed)
    test_env = make_env(config.task, num_envs=100, seed=config.seed + 1)
    alita = Alita(env, config)
    noise = AdditiveGaussianModule(
        env.full_action_spec_unbatched[ACTION],
        sigma_init=0.9,
        sigma_end=0.1,
        annealing_num_steps=max(1, config.noise_frames // config.frames_per_batch),
        action_key=ACTION,
    )
    collector = Collector(
        env,
        TensorDictSequential(alita.actor, noise),
        frames_per_batch=config.frames_per_batch,
        total_frames=config.total_frames,
        init_random_frames=config.random_frames,
        auto_register_policy_transforms=False,
    )
    buffer, recent = (
        ReplayBuffer(storage=LazyTensorStorage(size), batch_size=config.batch_size)
        for size in (config.total_frames, config.recent_frames)
    )
    frames = 0
    for collected in collector:
        frames += collected.numel()
        rows = collected.exclude("collector").transpose(0, 1).reshape(-1)
        buffer.extend(rows)
        recent.extend(rows)
        noise.step(1)
        if frames > config.random_frames:
            for _ in range(config.frames_per_batch // config.frames_per_update):
                alita.update(buffer.sample(), recent.sample())
        if frames % max(config.frames_per_batch, config.total_frames // 10) == 0:
            print(f"{frames:>9,} frames, return {evaluate(test_env, alita.actor):.1f}", flush=True)
    return alita


if __name__ == "__main__":
    # TorchRL reports every storage that it makes.
    logging.getLogger("torchrl").setLevel(logging.WARNING)
    main(tyro.cli(Config))
