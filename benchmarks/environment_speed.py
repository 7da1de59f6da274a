"""Speed of the batched environments: the sparse games against plain Python, SMAX against JAX.

    python benchmarks/environment_speed.py   # writes results/environment_speed.json

Steps are environment steps, not agent steps. The batched games are played through
``env.rollout`` by a policy that writes random one-hot actions, with automatic resets, into a
rollout that is allocated once. The plain games, tests/reference_games.py, play one episode
after the other with random actions, in the same process. The two take turns; each figure is the
median, with the least and the largest.

SMAX (extra ``smax``) is played likewise, by random actions among those that are allowed. Its
reference is JaxMARL's own loop: a compiled function that draws allowed actions and calls
JaxMARL's step, with its automatic reset, for all battles, called from Python; no tensor leaves
JAX. ``scan_steps_per_second`` is that of the same steps within ``jax.lax.scan``. Both sides have
the same number of threads. Without JaxMARL the entry is left out, and stderr says so.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import random
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from types import ModuleType
from typing import Any

import torch
import tyro
from pages import RESULTS, ROOT, circumstances
from tensordict import TensorDictBase
from timing import take_turns
from torchrl.envs import EnvBase
from torchrl.envs.utils import step_mdp

from torchrl_alita.envs import PushBox, SecretRoom
from torchrl_alita.envs.smax import SMAXEnv

RESULT = RESULTS / "environment_speed.json"
GAMES = {"push_box": (PushBox, 5), "secret_room": (SecretRoom, 4)}
# In steps.
SMAX_LIMIT = 100


@dataclass
class Config:
    """How long to measure."""

    num_envs: int = 4096
    """Environments simulated together."""
    rollout_steps: int = 50
    """Steps of a rollout."""
    turns: int = 20
    """Measurements of each game."""
    rollouts: int = 6
    """Rollouts of a turn."""
    reference_steps: int = 50_000
    """Steps of a turn in plain Python."""
    threads: int = 1
    """Of torch, and of JAX. Small operations gain little from more, and lose much on a busy
    machine."""
    smax_envs: int = 1024
    """Battles of SMAX fought together."""
    smax_steps: int = 50
    """Steps of each of them in a turn."""


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


def speeds(
    runs: dict[str, tuple[Callable[[], Any], int]], turns: int, device: str
) -> dict[str, float]:
    """Steps a second of each run, in turns, and how many times the reference's the first is."""
    times = take_turns({name: call for name, (call, _) in runs.items()}, turns, device=device)
    found: dict[str, float] = {}
    for name, (_, steps) in runs.items():
        for end, of in (("", ""), ("_min", "_max"), ("_max", "_min")):
            rate = steps / times[name][f"wall_ms{of}"]
            found[f"{name}steps_per_second{end}"] = round(1e3 * rate)
    ratio = found["steps_per_second"] / found["reference_steps_per_second"]
    return found | {"ratio": round(ratio, 1)}


def measure(name: str, config: Config, device: str) -> dict[str, float]:
    """Both versions of a game, in turns."""
    make, num_actions = GAMES[name]
    env = make(config.num_envs, device=device, seed=0)
    player = Player(env, num_actions, config.rollout_steps)

    def play_batched() -> None:
        for _ in range(config.rollouts):
            player.rollout()

    steps = config.reference_steps
    plain = partial(play_reference, name, load_reference(), steps)
    batched_steps = config.num_envs * config.rollout_steps * config.rollouts
    runs = {"": (play_batched, batched_steps), "reference_": (plain, steps)}
    return speeds(runs, config.turns, device)


class BareBattles:
    """JaxMARL's battles on 2s3z, played within JAX by random actions that are allowed."""

    def __init__(self, num_envs: int, device: str):
        import jax
        from jaxmarl.environments.smax import HeuristicEnemySMAX, map_name_to_scenario

        # JaxMARL's battles have one step more than max_steps.
        limit = SMAX_LIMIT - 1
        self.game = HeuristicEnemySMAX(scenario=map_name_to_scenario("2s3z"), max_steps=limit)
        place = jax.devices("cpu" if device == "cpu" else "cuda")[0]
        keys = jax.device_put(jax.random.split(jax.random.PRNGKey(0), num_envs), place)
        self.now = keys, jax.jit(jax.vmap(self.game.reset))(keys)[1]
        self._step = jax.jit(jax.vmap(self._play))
        self._scan = jax.jit(self._play_steps, static_argnums=1)

    def _play(self, key, state):
        """One step of a battle: how it goes on, and all that JaxMARL returns."""
        import jax
        import jax.numpy as jnp

        names = self.game.agents
        key, drawn, used = jax.random.split(key, 3)
        available = self.game.get_avail_actions(state)
        logits = jnp.log(jnp.stack([available[name] for name in names]).astype(jnp.float32))
        chosen = jax.random.categorical(drawn, logits)
        actions = {name: chosen[agent] for agent, name in enumerate(names)}
        observation, state, *paid = self.game.step(used, state, actions)
        return (key, state), (observation, *paid)

    def _play_steps(self, now, steps: int):
        import jax

        def step(now, _):
            now, (_, reward, done, _) = jax.vmap(self._play)(*now)
            return now, (reward, done)

        return jax.lax.scan(step, now, None, steps)

    def play(self, steps: int) -> None:
        """One call for each step."""
        import jax

        for _ in range(steps):
            self.now, result = self._step(*self.now)
        jax.block_until_ready((self.now, result))

    def scan(self, steps: int) -> None:
        """One call for all steps."""
        import jax

        self.now, result = self._scan(self.now, steps)
        jax.block_until_ready((self.now, result))


class Battles(Player):
    """Rollouts of SMAX by random actions that are allowed."""

    def act(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write random one-hot actions of those that the mask allows."""
        mask = tensordict["agents", "action_mask"]
        chosen = torch.rand(mask.shape, device=mask.device).mul_(mask).argmax(-1)
        action = self.vectors.index_select(0, chosen.flatten()).view(self.shape)
        return tensordict.set(("agents", "action"), action)


def measure_smax(config: Config, device: str) -> dict[str, Any]:
    """Our battles on 2s3z and JaxMARL's own loop, in turns."""
    env = SMAXEnv("2s3z", num_envs=config.smax_envs, horizon=SMAX_LIMIT, device=device, seed=0)
    player = Battles(env, env.num_actions, config.smax_steps)
    bare = BareBattles(config.smax_envs, device)
    calls = {
        "": player.rollout,
        "reference_": partial(bare.play, config.smax_steps),
        "scan_": partial(bare.scan, config.smax_steps),
    }
    steps = config.smax_envs * config.smax_steps
    runs = {name: (call, steps) for name, call in calls.items()}
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxmarl")}
    found = speeds(runs, config.turns, device)
    return {"num_envs": config.smax_envs, **found, "versions": versions}


def measure_all(config: Config, device: str) -> dict[str, dict]:
    """An entry for each game, SMAX's if it can be played here."""
    content = {name: measure(name, config, device) for name in GAMES}
    try:
        content["smax_2s3z"] = measure_smax(config, device)
    except (ImportError, ValueError) as error:
        print(f"smax_2s3z on {device} is left out: {error}", file=sys.stderr)
    return content


def main(config: Config) -> None:
    """Measure, and write the result."""
    torch.set_num_threads(config.threads)
    # Of JAX, which reads it when it starts.
    os.environ["NPROC"] = str(config.threads)
    torch.manual_seed(0)
    content = measure_all(config, "cpu")
    if torch.cuda.is_available():
        content["cuda"] = measure_all(config, "cuda")
    content |= circumstances("environment_speed.py", **asdict(config))
    RESULT.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Config))
