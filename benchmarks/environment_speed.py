"""Speed of Push-Box and Secret Room against the same games in plain Python.

    python benchmarks/environment_speed.py --quick   # print one JSON line
    python benchmarks/environment_speed.py           # longer; write results/environment_speed.json

Steps are environment steps, not agent steps. The batched games are played through
``env.rollout`` by a policy that writes random one-hot actions, with automatic resets, into a
rollout that is allocated once. The plain games, tests/reference_games.py, play one episode
after the other with random actions, in the same process. The two take turns, so that a change
of the machine's load meets both; each figure is the median of the turns, with the least and
the largest.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from types import ModuleType

import torch
import tyro
from tensordict import TensorDictBase
from torchrl.envs import EnvBase
from torchrl.envs.utils import step_mdp

from torchrl_alita.envs import PushBox, SecretRoom
from torchrl_alita.training.run import machine

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "environment_speed.json"
GAMES = {"push_box": (PushBox, 5), "secret_room": (SecretRoom, 4)}


@dataclass
class Config:
    """How long to measure."""

    quick: bool = False
    """A few seconds; print, write nothing."""
    num_envs: int = 4096
    """Environments simulated together."""
    rollout_steps: int = 50
    """Steps of a rollout."""
    turns: int = 20
    """Measurements of each game; quick: 3."""
    rollouts: int = 6
    """Rollouts of a turn; quick: 1."""
    reference_steps: int = 50_000
    """Steps of a turn in plain Python; quick: 5,000."""
    threads: int = 1
    """Of torch. Small operations gain little from more, and lose much on a busy machine."""


def load_reference() -> ModuleType:
    """The games in plain Python."""
    path = ROOT / "tests" / "reference_games.py"
    spec = importlib.util.spec_from_file_location("reference_games", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def play_reference(name: str, reference: ModuleType, steps: int) -> None:
    """Play one episode after the other."""
    rng = random.Random(0)
    cell = (1, 1)
    box = (rng.randint(4, 11), rng.randint(4, 11))
    if name == "push_box":
        game, first, new_box = reference.ReferencePushBox(), (box,), (box,)
    else:
        game, first, new_box = reference.ReferenceSecretRoom(), (), ()
    game.reset([cell, cell], *first)
    num_actions = GAMES[name][1]
    for _ in range(steps):
        actions = [rng.randrange(num_actions), rng.randrange(num_actions)]
        _, _, terminated, truncated = game.step(actions, *new_box)
        if terminated or truncated:
            game.reset([cell, cell], *first)


class Player:
    """Rollouts of a batched game, one continuing the other."""

    def __init__(self, env: EnvBase, num_actions: int, steps: int):
        self.env, self.steps = env, steps
        self.vectors = torch.eye(num_actions, device=env.device)
        self.shape = (*env.batch_size, env.num_agents, num_actions)
        self.state = env.reset()
        self.memory = None
        self.memory = self.rollout()

    def act(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write random one-hot actions."""
        count = self.shape[0] * self.shape[1]
        chosen = torch.randint(self.shape[2], (count,), device=self.vectors.device)
        action = self.vectors.index_select(0, chosen).view(self.shape)
        return tensordict.set(("agents", "action"), action)

    def rollout(self) -> TensorDictBase:
        played = self.env.rollout(
            self.steps,
            self.act,
            auto_reset=False,
            break_when_any_done=False,
            tensordict=self.state,
            out=self.memory,
        )
        self.state = step_mdp(played[:, -1].clone())
        return played


def speed(play: Callable[[], None], steps: int, device: str) -> float:
    """Environment steps per second."""
    started = time.perf_counter()
    play()
    if device == "cuda":
        torch.cuda.synchronize()
    return steps / (time.perf_counter() - started)


def summary(prefix: str, speeds: list[float]) -> dict[str, float]:
    named = {"": median(speeds), "_min": min(speeds), "_max": max(speeds)}
    return {f"{prefix}{suffix}": round(value) for suffix, value in named.items()}


def measure(name: str, config: Config, device: str) -> dict[str, float]:
    """Both versions of a game, in turns."""
    reference = load_reference()
    make, num_actions = GAMES[name]
    env = make(config.num_envs, device=device, seed=0)
    player = Player(env, num_actions, config.rollout_steps)

    def play_batched() -> None:
        for _ in range(config.rollouts):
            player.rollout()

    def play_plain() -> None:
        play_reference(name, reference, config.reference_steps)

    batched_steps = config.num_envs * config.rollout_steps * config.rollouts
    batched, plain = [], []
    for _ in range(config.turns):
        plain.append(speed(play_plain, config.reference_steps, device))
        batched.append(speed(play_batched, batched_steps, device))
    return {
        **summary("steps_per_second", batched),
        **summary("reference_steps_per_second", plain),
        "ratio": round(median(batched) / median(plain), 1),
    }


def main(config: Config) -> None:
    """Measure, print, and write the result unless it is quick."""
    if config.quick:
        config.turns, config.rollouts, config.reference_steps = 3, 1, 5_000
    torch.set_num_threads(config.threads)
    torch.manual_seed(0)
    content = {name: measure(name, config, "cpu") for name in GAMES}
    if torch.cuda.is_available():
        content["cuda"] = {name: measure(name, config, "cuda") for name in GAMES}
    print(json.dumps(content))
    if not config.quick:
        command = " ".join(["python benchmarks/environment_speed.py", *sys.argv[1:]])
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        content |= {"command": command, "config": asdict(config), "machine": machine()}
        content["load_average"] = load
        RESULT.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Config))
