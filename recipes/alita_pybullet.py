"""TwinALITA and its baselines on PyBullet's robots, Sec. 4.2 and Appendix C of the paper.

python recipes/alita_pybullet.py --env HopperBulletEnv-v0
python recipes/alita_pybullet.py --env HopperBulletEnv-v0 --algorithm td3 --seed 1
python recipes/alita_pybullet.py --env AntBulletEnv-v0 --influence-coeff 0
python recipes/alita_pybullet.py --env AntBulletEnv-v0 --novelty-coeff 0 --diversity-coeff 0
python recipes/alita_pybullet.py --resume runs/NAME

Of TwinALITA's two agents the better one is evaluated, chosen on other episodes; both agents'
steps are frames. td3 has the settings of TD3's paper and of stable-baselines3, which TwinALITA
shares; sac, ppo and tac have those of their own papers, see PRESETS. An update of TwinALITA is one
of both its agents, made at every second frame: each agent is updated once for every step of its own,
as in the authors' code. With --frames-per-update 1 each has as many updates as TD3's in as many
frames, at twice the cost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torchrl_alita import DDPG, PPO, SAC, TAC, TD3, TwinALITA
from torchrl_alita.training import TrainingConfig, build_algorithm, parse_config, run_recipe

ALGORITHMS = {"alita": TwinALITA, "td3": TD3, "ddpg": DDPG, "sac": SAC, "ppo": PPO, "tac": TAC}
# What others than TD3 and DDPG are run with.
PRESETS = {
    "twin_alita": {"frames_per_update": 2},
    "sac": {"algorithm": "sac", "lr": 3e-4},
    # Its paper has 2,048 steps for each update.
    "ppo": {
        "algorithm": "ppo",
        "lr": 3e-4,
        "max_grad_norm": 0.5,
        "frames_per_batch": 2_000,
        "random_frames": 0,
    },
    "tac": {
        "algorithm": "tac",
        "lr": 3e-4,
        "num_cells": (128, 128),
        "tau": 0.01,
        "random_frames": 1_000,
    },
}


@dataclass
class Config(TrainingConfig):
    """A robot that is to run, balance or reach."""

    algorithm: Literal["twin_alita", "td3", "ddpg", "sac", "ppo", "tac"] = "twin_alita"
    """Algorithm; what follows from form on is of twin_alita."""
    env: str = "HopperBulletEnv-v0"
    """Id of one of PyBullet's environments; an unknown one lists them."""
    task: str = "pybullet"
    """Name of the task: that of the environment, whatever is given."""
    n_agents: int = 1
    """Agents that act at once."""
    num_envs: int = 1
    """Environments simulated together."""
    horizon: int = 1_000
    """Steps of an episode; PyBullet's own limits hold too."""
    total_frames: int = 1_000_000
    """Environment steps of the whole run (the paper: at least 1,000,000)."""
    frames_per_batch: int = 50
    """Environment steps between two rounds of updates."""
    frames_per_update: int = 1
    """Environment steps for each update. Default: 1; 2 for alita."""
    random_frames: int = 10_000
    """Environment steps of uniform random actions at the start, without updates."""
    batch_size: int = 256
    """Transitions of an update."""
    conditional_batch_size: int = 64
    """Transitions of a conditional batch; D_t of the paper holds few."""
    noise_start: float = 0.1
    """Standard deviation of the exploration noise at the start, in units of the action."""
    noise_end: float = 0.1
    """Standard deviation of the exploration noise at the end."""
    evaluation_interval: int = 5_000
    """Environment steps between two evaluations (the paper: 5,000)."""
    evaluation_episodes: int = 15
    """Episodes of an evaluation, always from the same initial states (the paper: 15)."""
    stop_evaluations: bool = True
    """End an evaluation with its last episode."""
    num_cells: tuple[int, ...] = (256, 256)
    """Width of each hidden layer of policies and critics."""
    layer_norm: bool = False
    """Normalize the pre-activations of the hidden layers."""
    gamma: float = 0.99
    """Discount factor of a step."""
    actor_lr: float = 1e-3
    """Adam's step of the policies of alita, td3 and ddpg."""
    critic_lr: float = 1e-3
    """Adam's step of the critics of alita, td3 and ddpg."""
    lr: float = 3e-4
    """Adam's step of sac, ppo and tac."""
    tau: float = 0.005
    """Share by which the targets move."""
    max_grad_norm: float = math.inf
    """Largest norm of a network's gradient (the paper: 0.5; TD3's has no limit)."""
    policy_noise: float = 0.2
    """Standard deviation of the noise on the target actions of alita and td3."""
    noise_clip: float = 0.5
    """Largest such noise."""
    policy_delay: int = 2
    """Updates of the critics of alita and td3 for each of the policies and targets."""
    form: Literal["paper", "published"] = "paper"
    """That of the paper, or that of its authors' code."""
    influence_coeff: float | None = None
    """Weight of the influence (the paper: 0.1, 0.15 for Humanoid); 0 is No F. Default: 0.1."""
    novelty_coeff: float | None = None
    """Weight of the novelty in the influencer's reward. Default: 0.1 (the paper), 0.05 as
    published."""
    diversity_coeff: float | None = None
    """Weight of the diversity penalty; with novelty_coeff 0 and this 0 it is No IM. Default:
    0.1, 0.05 as published."""
    omega: float = 0.1
    """How fast novelty lifts the penalty (the paper: 0.1)."""
    estimator: Literal["clones", "marginal"] | None = None
    """How the partner's influenced value is estimated. Default: clones, marginal as
    published."""
    estimator_updates: int = 4
    """Updates of the clones at each update (the paper: 4)."""
    optimum: Literal["policy", "sampled", "td_target"] | None = None
    """What stands for the partner's best value. Default: sampled, td_target as published."""
    optimum_at: Literal["current", "next"] = "current"
    """State of that value: current is Eq. 4, next is Eq. 7."""
    num_optimum_samples: int = 4
    """Uniform actions among those of which the sampled optimum is the best."""
    normalize: bool = False
    """Divide the gap by the running scale of the critics' values."""
    compile: bool | None = None
    """Compile the update. Default: where the run has so many updates that it pays."""
    compile_mode: Literal["default", "reduce-overhead", "max-autotune"] = "default"
    """Of torch.compile; reduce-overhead uses CUDA graphs."""

    def __post_init__(self):
        self.task = f"pybullet/{self.env}"
        super().__post_init__()


def main(arguments: list[str] | None = None) -> dict:
    """Train from the command line."""
    config = parse_config(Config, arguments, presets=PRESETS)
    return run_recipe(config, partial(build_algorithm, config))


if __name__ == "__main__":
    main()
