"""ALITA and MADDPG on small games whose optimum is known exactly.

python recipes/alita_games.py --game matrix
python recipes/alita_games.py --game markov --algorithm maddpg --game-seed 3 --num-actions 3
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from tensordict import TensorDict
from torchrl.envs import EnvBase

from torchrl_alita import MADDPG
from torchrl_alita.envs import MarkovGame, MatrixGame, Task, game_task
from torchrl_alita.exact import joint_policy, joint_values, team_optimum
from torchrl_alita.training import RecipeConfig, build_algorithm, parse_config, run_recipe


@dataclass
class Config(RecipeConfig):
    """A team that is paid together; the solver knows the best it can earn."""

    task: str = "games"
    """Name of the task."""
    game: Literal["matrix", "markov"] = "markov"
    """One state with random payoffs, or a random Markov game."""
    game_seed: int = 0
    """Of the game's arrays."""
    n_agents: int = 2
    """Agents."""
    num_actions: int = 2
    """Actions of each agent. With more of them games have more equilibria, and agents that
    climb for themselves often end in one that is not the best."""
    num_states: int = 3
    """States of the Markov game."""
    gamma: float = 0.9
    """Discount factor of a step."""
    num_cells: tuple[int, ...] = (64, 64)
    """Width of each hidden layer of actors and critics."""
    actor_lr: float = 3e-3
    """Adam's step of the actors."""
    critic_lr: float = 3e-3
    """Adam's step of the critics."""
    others_actions: Literal["buffer", "policy"] = "policy"
    """What a critic sees of the other agents while its own climbs."""
    own_actions: Literal["policy", "all"] = "all"
    """Climb with the action drawn, or with the mean over all of them."""
    logits_coeff: float = 0.02
    """Weight of the mean squared logits: without it the policies are certain too early."""
    diversity_coeff: float = 0.01
    """Weight of the diversity penalty; with novelty_coeff 0 and this 0 it is No IM."""
    optimum: Literal["policy", "sampled", "enumerated"] = "enumerated"
    """What stands for the teammates' best value."""
    num_envs: int = 100
    """Environments simulated together."""
    horizon: int = 10
    """Steps of an episode."""
    total_frames: int = 15_000
    """Environment steps of the whole run, counted over all environments."""
    frames_per_update: int = 25
    """Environment steps for each update."""
    random_frames: int = 2_000
    """Environment steps of uniform random actions at the start, without updates."""
    batch_size: int = 256
    """Transitions of an update."""
    noise_start: float = 1.0
    """Share of random actions at the start."""
    noise_end: float = 0.05
    """Share of random actions at the end."""
    noise_frames: int = 10_000
    """Environment steps over which that share shrinks."""
    evaluation_interval: int = 5_000
    """Environment steps between two evaluations."""


def make_game(config: Config) -> MarkovGame:
    """The game that the config names."""
    game = MarkovGame.random(
        config.game_seed,
        config.num_states if config.game == "markov" else 1,
        config.n_agents,
        config.num_actions,
        discount=config.gamma,
        shared_reward=True,
    )
    if config.game == "markov":
        return game
    return MatrixGame(game.reward[:, 0], discount=config.gamma)


def make_task(game: MarkovGame) -> Task:
    """The game with the share of steps in which the team acts best."""
    best = team_optimum(game)
    best = best >= best.amax(-1, keepdim=True) - 1e-9

    def metrics(episodes: TensorDict) -> dict[str, torch.Tensor]:
        state = episodes["agents", "observation"][..., 0, :].argmax(-1)
        place = game.num_actions ** torch.arange(game.num_agents - 1, -1, -1)
        joint = (episodes["agents", "action"].argmax(-1) * place).sum(-1)
        return {"best_action_share": best[state, joint].double().mean()}

    return game_task(game, metrics=metrics)


def main(arguments: list[str] | None = None) -> dict:
    """Train from the command line."""
    config = parse_config(Config, arguments)
    game = make_game(config)
    built = []

    def make_algorithm(env: EnvBase) -> MADDPG:
        built.append(build_algorithm(config, env))
        return built[0]

    summary = run_recipe(config, make_algorithm, task=make_task(game))
    reached, best = exact_values(game, built[0])
    print(f"Discounted value of the trained team, exactly: {reached:.6f}, of {best:.6f} at best")
    return summary | {"exact_value": reached, "exact_optimum": best}


@torch.no_grad()
def exact_values(game: MarkovGame, algorithm: MADDPG) -> tuple[float, float]:
    """Discounted value of the greedy team and of the best one, from the first state."""
    states = torch.eye(game.num_states).unsqueeze(-2).expand(-1, game.num_agents, -1)
    batch = TensorDict({"agents": {"observation": states}}, [game.num_states])
    policies = algorithm.actor(batch)["agents", "action"].transpose(0, 1).double()
    joint = joint_policy(policies)
    values = (joint * joint_values(game, policies).mean(0)).sum(-1)
    best = team_optimum(game).amax(-1)
    return float(game.initial @ values), float(game.initial @ best)


if __name__ == "__main__":
    main()
