"""ALITA, MADDPG and DDPG on cooperative navigation.

python recipes/alita_spread.py --help
python recipes/alita_spread.py --algorithm maddpg --seed 1
python recipes/alita_spread.py --estimator clones --influencers random
python recipes/alita_spread.py --resume runs/NAME
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import tyro
from torchrl.envs import EnvBase

from torchrl_alita import ALITA, DDPG, MADDPG
from torchrl_alita.training import TrainingConfig, read_config, train


@dataclass
class Config(TrainingConfig):
    """Cooperative navigation: N agents cover N landmarks without touching each other."""

    algorithm: Literal["alita", "maddpg", "ddpg"] = "alita"
    """Algorithm; what follows from influencers on is of alita."""
    gamma: float = 0.95
    """Discount factor of a step (the paper: 0.95)."""
    actor_lr: float = 3e-4
    """Adam's step of the actors."""
    critic_lr: float = 3e-3
    """Adam's step of the critics."""
    tau: float = 0.05
    """Share by which the targets move at each update."""
    max_grad_norm: float = 0.5
    """Largest norm of a network's gradient (the paper: 0.5)."""
    num_critics: int = 1
    """Critics of an agent: 1, or 2 for MATD3 (with policy_noise and policy_delay)."""
    policy_noise: float = 0.0
    """Standard deviation of the noise on target actions, in units of the action."""
    policy_delay: int = 1
    """Updates of the critics for each of the actors."""
    influencers: Literal["random", "all"] | tuple[int, ...] = (0,)
    """Indices of the influencers; random draws one from the seed, all is Symmetric."""
    influence_coeff: float = 0.1
    """Weight of the influence (the paper's lambda: 0.1); 0 is No F."""
    novelty_coeff: float = 0.01
    """Weight of the novelty in the influencers' reward (the paper for MAPE: 0.01)."""
    diversity_coeff: float = 0.1
    """Weight of the diversity penalty; with novelty_coeff 0 and this 0 it is No IM."""
    omega: float = 0.01
    """How fast novelty lifts the penalty (the paper for MAPE: 0.01)."""
    estimator: Literal["marginal", "clones", "centralized"] = "marginal"
    """How the influenced values are estimated."""
    estimator_updates: int = 4
    """Updates of the estimator at each step (the paper: 4)."""
    optimum: Literal["policy", "sampled"] = "sampled"
    """What stands for the teammates' best value."""
    optimum_at: Literal["current", "next"] = "current"
    """State of that value: current is Eq. 4, next is Eq. 7."""
    normalize: bool = False
    """Divide the gap by the running scale of the critics' values."""


SHARED = ("gamma", "actor_lr", "critic_lr", "tau", "max_grad_norm", "num_critics")
SHARED += ("policy_noise", "policy_delay")
OWN = ("influencers", "influence_coeff", "novelty_coeff", "diversity_coeff", "omega")
OWN += ("estimator", "estimator_updates", "optimum", "optimum_at", "normalize")


def build(config: Config, env: EnvBase) -> MADDPG:
    """The algorithm that the config names."""
    options = {name: getattr(config, name) for name in SHARED}
    if config.algorithm == "maddpg":
        return MADDPG(env, **options)
    if config.algorithm == "ddpg":
        return DDPG(env, **options)
    return ALITA(env, **options, **{name: getattr(config, name) for name in OWN})


def parse(arguments: list[str] | None = None) -> Config:
    """The config of the command line; with --resume, that of the run and the command line."""
    config = tyro.cli(Config, args=arguments)
    if config.resume is None:
        return config
    fields = {field.name for field in dataclasses.fields(Config)}
    saved = {k: v for k, v in read_config(config.resume).items() if k in fields}
    lists = {k: tuple(v) for k, v in saved.items() if isinstance(v, list)}
    return tyro.cli(Config, args=arguments, default=Config(**(saved | lists)))


def table(summary: dict) -> str:
    """The trained team beside a random one."""
    rows = [f"{'':<24}{'trained':>12}{'random':>12}"]
    for name, value in summary["evaluation"].items():
        rows.append(f"{name:<24}{value:>12.3f}{summary['random_team'][name]:>12.3f}")
    return "\n".join(rows)


def main(arguments: list[str] | None = None) -> dict:
    """Train from the command line."""
    config = parse(arguments)
    summary = train(config, lambda env: build(config, env))
    print(f"\n{table(summary)}\n\nEverything is in {summary['run_dir']}/")
    return summary


if __name__ == "__main__":
    main()
