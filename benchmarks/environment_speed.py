"""Speed of the batched environments: the sparse games against plain Python, SMAX against JAX.

    python benchmarks/environment_speed.py --quick   # print one JSON line
    python benchmarks/environment_speed.py           # longer; write results/environment_speed.json

Steps are environment steps, not agent steps. The batched games are played through
``env.rollout`` by a policy that writes random one-hot actions, with automatic resets, into a
rollout that is allocated once. The plain games, tests/reference_games.py, play one episode
after the other with random actions, in the same process. The two take turns, so that a change
of the machine's load meets both; each figure is the median of the turns, with the least and
the largest.

SMAX (extra ``smax``) is played likewise, by random actions among those that are allowed. Its
reference is JaxMARL's own loop: a compiled function that draws allowed actions and calls
JaxMARL's step, with its automatic reset, for all battles, called from Python; no tensor leaves
JAX. ``scan_steps_per_second`` is that of the same steps within ``jax.lax.scan``, which is
measured unless it is quick: compiling it takes as long as all the rest. Both sides have the
same number of threads. Without JaxMARL the entry is left out, and stderr says so.
"""

from __future__ import annotations

import importlib.metadata
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
from torchrl_alita.envs.smax import SMAXEnv
from torchrl_alita.saving import machine

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "environment_speed.json"
GAMES = {"push_box": (PushBox, 5), "secret_room": (SecretRoom, 4)}
# In steps.
SMAX_LIMIT = 100


@dataclass
class Config:
    """How long to measure."""

    quick: bool = False
    """A minute, most of it to compile SMAX; print, write nothing."""
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
    """Of torch, and of JAX. Small operations gain little from more, and lose much on a busy
    machine."""
    smax_envs: int = 1024
    """Battles of SMAX fought together."""
    smax_steps: int = 50
    """Steps of each of them in a turn; quick: 20."""


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


def measure_smax(config: Config, device: str) -> dict[str, float]:
    """Our battles on 2s3z and JaxMARL's own loop, in turns."""
    env = SMAXEnv("2s3z", num_envs=config.smax_envs, horizon=SMAX_LIMIT, device=device, seed=0)
    player = Battles(env, env.num_actions, config.smax_steps)
    bare = BareBattles(config.smax_envs, device)
    runs = {"": player.rollout, "reference_": lambda: bare.play(config.smax_steps)}
    if not config.quick:
        runs["scan_"] = lambda: bare.scan(config.smax_steps)
    for run in runs.values():
        # To compile.
        run()
    speeds = {name: [] for name in runs}
    for _ in range(config.turns):
        for name, run in runs.items():
            speeds[name].append(speed(run, config.smax_envs * config.smax_steps, device))
    entries = {"num_envs": config.smax_envs}
    for name, values in speeds.items():
        entries |= summary(f"{name}steps_per_second", values)
    ratio = median(speeds[""]) / median(speeds["reference_"])
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxmarl")}
    return entries | {"ratio": round(ratio, 2), "versions": versions}


def measure_all(config: Config, device: str) -> dict[str, dict]:
    """An entry for each game, SMAX's if it can be played here."""
    content = {name: measure(name, config, device) for name in GAMES}
    try:
        content["smax_2s3z"] = measure_smax(config, device)
    except (ImportError, ValueError) as error:
        print(f"smax_2s3z on {device} is left out: {error}", file=sys.stderr)
    return content


def main(config: Config) -> None:
    """Measure, print, and write the result unless it is quick."""
    if config.quick:
        config.turns, config.rollouts, config.reference_steps = 3, 1, 5_000
        config.smax_steps = 20
    torch.set_num_threads(config.threads)
    # Of JAX, which reads it when it starts.
    os.environ["NPROC"] = str(config.threads)
    torch.manual_seed(0)
    content = measure_all(config, "cpu")
    if torch.cuda.is_available():
        content["cuda"] = measure_all(config, "cuda")
    print(json.dumps(content))
    if not config.quick:
        command = " ".join(["python benchmarks/environment_speed.py", *sys.argv[1:]])
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        content |= {"command": command, "config": asdict(config), "machine": machine()}
        content["load_average"] = load
        RESULT.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Config))
