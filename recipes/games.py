"""ALITA and MADDPG on small games whose optimum is known exactly.

python recipes/games.py --task.game matrix
python recipes/games.py maddpg --task.game-seed 3 --task.num-actions 3
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from tensordict import TensorDict
from torchrl.envs import EnvBase

from torchrl_alita.algorithms import ALITASettings, MADDPGSettings
from torchrl_alita.envs import (
    MarkovGame,
    MatrixGame,
    Task,
    game_task,
    make_env,
    register_task,
)
from torchrl_alita.exact import joint_policy, joint_values, team_optimum
from torchrl_alita.saving import load_policy, read_config
from torchrl_alita.training import Config, TrainingSettings, launch


@dataclass(frozen=True)
class GameSettings:
    """A team that is paid together; the solver knows the best it can earn."""

    game: Literal["matrix", "markov"] = "markov"
    """One state with random payoffs, or a random Markov game."""
    game_seed: int = 0
    """Of the game's arrays."""
    num_agents: int = 2
    """Agents."""
    num_actions: int = 2
    """Actions of each agent. With more of them games have more equilibria, and agents that
    climb for themselves often end in one that is not the best."""
    num_states: int = 3
    """States of the Markov game."""
    discount: float = 0.9
    """Of the exact solution; the algorithm's gamma is its own."""


def make_game(settings: GameSettings) -> MarkovGame:
    """The game that the settings describe."""
    game = MarkovGame.random(
        settings.game_seed,
        settings.num_states if settings.game == "markov" else 1,
        settings.num_agents,
        settings.num_actions,
        discount=settings.discount,
        shared_reward=True,
    )
    if settings.game == "markov":
        return game
    return MatrixGame(game.reward[:, 0], discount=settings.discount)


def make_task(settings: GameSettings) -> Task:
    """The game with the share of steps in which the team acts best."""
    game = make_game(settings)
    best = team_optimum(game)
    best = best >= best.amax(-1, keepdim=True) - 1e-9

    def metrics(episodes: TensorDict) -> dict[str, torch.Tensor]:
        state = episodes["agents", "observation"][..., 0, :].argmax(-1)
        place = game.num_actions ** torch.arange(game.num_agents - 1, -1, -1)
        joint = (episodes["agents", "action"].argmax(-1) * place).sum(-1)
        return {"best_action_share": best[state, joint].double().mean()}

    task = game_task(game, metrics=metrics)

    def make(*, settings: GameSettings, **asked: Any) -> EnvBase:
        return task.make(**asked)

    return replace(
        task, make=make, settings=settings, configure=make_task, n_agents=game.num_agents
    )


TASK = "exact_game"
register_task(TASK, make_task(GameSettings()))
TRAINING = TrainingSettings(
    num_envs=100, horizon=10, total_frames=15_000, evaluation_interval=5_000
)
LEARNING = {
    "gamma": 0.9,
    "num_cells": (64, 64),
    "actor_lr": 3e-3,
    "critic_lr": 3e-3,
    "others_actions": "policy",
    "own_actions": "all",
    # Without it the policies are certain too early.
    "logits_coeff": 0.02,
    "frames_per_update": 25,
    "random_frames": 2_000,
    "batch_size": 256,
    "noise_start": 1.0,
    "noise_end": 0.05,
    "noise_frames": 10_000,
}
DEFAULTS = {
    "alita": Config(
        task=TASK,
        training=TRAINING,
        algorithm=ALITASettings(**LEARNING, diversity_coeff=0.01, optimum="enumerated"),
    ),
    "maddpg": Config(task=TASK, training=TRAINING, algorithm=MADDPGSettings(**LEARNING)),
}


def main(arguments: list[str] | None = None) -> dict:
    """Train from the command line."""
    summary = launch(DEFAULTS, arguments)
    options = dict(read_config(summary["run_dir"])["task"])
    options.pop("name")
    settings = GameSettings(**options)
    env = make_env(TASK, settings=settings)
    reached, best = exact_values(make_game(settings), load_policy(summary["run_dir"], env))
    print(f"Discounted value of the trained team, exactly: {reached:.6f}, of {best:.6f} at best")
    return summary | {"exact_value": reached, "exact_optimum": best}


@torch.no_grad()
def exact_values(game: MarkovGame, actor: Any) -> tuple[float, float]:
    """Discounted value of the greedy team and of the best one, from the first state."""
    states = torch.eye(game.num_states).unsqueeze(-2).expand(-1, game.num_agents, -1)
    batch = TensorDict({"agents": {"observation": states}}, [game.num_states])
    policies = actor(batch)["agents", "action"].transpose(0, 1).double()
    joint = joint_policy(policies)
    values = (joint * joint_values(game, policies).mean(0)).sum(-1)
    best = team_optimum(game).amax(-1)
    return float(game.initial @ values), float(game.initial @ best)


if __name__ == "__main__":
    main()
