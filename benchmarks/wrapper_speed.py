"""Speed of the wrapped simulators beside the bare ones, by processor time.

    python benchmarks/wrapper_speed.py                    # measure, write results and the table
    python benchmarks/wrapper_speed.py --suites vmas      # measure these again, keep the others
    python benchmarks/wrapper_speed.py --report-only      # write the table from the results

Both sides of a row step the same game with the same number of environments, in one process with
one thread, with actions that were drawn before, and reset what has ended. They take turns, first the
one and then the other side in front. A ratio is the median of those of the turns, beside it stand its
quartiles. VMAS is stepped with its own list of actions, and both sides reset an environment after 100
steps of its own; JaxMARL by a compiled function over all environments, whose results are waited for
after every step, as by all who act on them outside of JAX; PettingZoo's environments one after the
other, with a dictionary of actions, and the same episodes, of the same seeds and actions, on both
sides. In SMAX's battles both sides draw among the actions that are allowed. The sparse games' other
side is a game in plain Python, tests/reference_games.py, which plays as many steps, one episode
after the other.
"""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median, quantiles

import numpy as np
import pages
import torch
import tyro
from pages import ROOT, Measurement, table
from timing import in_turns
from torch.nn.functional import one_hot

from torchrl_alita.envs import make_env
from torchrl_alita.layout import ACTION, ACTION_MASK

# Suite: the least ratio that is asked for, environments and steps of a turn, games.
SUITES = {
    "": (5.0, 4096, 50, ("push_box", "secret_room")),
    "smax": (0.7, 1024, 30, ("2s3z",)),
    "vmas": (0.7, 256, 30, ("simple_spread", "balance", "simple_tag", "football")),
    "jaxmarl": (0.7, 1024, 30, ("MPE_simple_spread_v3", "MPE_simple_tag_v3")),
    "mpe2": (
        0.9,
        100,
        25,
        ("simple_spread_v3", "simple_speaker_listener_v4", "simple_adversary_v3"),
    ),
    "sisl": (0.9, 100, 5, ("multiwalker_v9",)),
    "mamujoco": (0.9, 100, 10, ("HalfCheetah-2x3",)),
}
PACKAGES = {
    "vmas": "vmas", "jaxmarl": "jaxmarl", "smax": "jaxmarl", "mpe2": "mpe2", "sisl": "pettingzoo",
    "mamujoco": "gymnasium-robotics",
}  # fmt: skip
DRAWN = 11
# From which the wrapped environments of PettingZoo draw the seeds of their episodes.
SEEDS = 2**31 - 1
Play = Callable[[int], None]


@dataclass(kw_only=True)
class Config(pages.Config):
    """What is measured."""

    suites: tuple[str, ...] = tuple(SUITES)
    """Of the games."""
    turns: int = 40
    """Of each side."""


def wrapped(task: str, num_envs: int) -> Play:
    """Steps of the package's environment, with resets."""
    draws = task.startswith("smax/")
    torch.manual_seed(0)
    env = make_env(task, num_envs=num_envs, seed=0)
    state = {"td": env.reset()}
    actions = [env.rand_action()[ACTION].clone() for _ in range(DRAWN)]

    def play(steps: int) -> None:
        for step in range(steps):
            drawn = allowed(state["td"][ACTION_MASK]) if draws else None
            action = actions[step % DRAWN] if drawn is None else drawn
            _, state["td"] = env.step_and_maybe_reset(state["td"].set(ACTION, action))

    return play


def allowed(mask: torch.Tensor) -> torch.Tensor:
    """Random one-hot actions of those that a mask allows, ``[*B, N, A] -> [*B, N, A]``."""
    return one_hot(torch.rand(mask.shape).mul_(mask).argmax(-1), mask.shape[-1])


def bare_game(name: str, num_envs: int) -> Play:
    """Steps of a sparse game in plain Python."""
    sys.path.append(str(ROOT / "tests"))
    from reference_games import ReferencePushBox, ReferenceSecretRoom

    rng = random.Random(0)
    box = (rng.randint(4, 11), rng.randint(4, 11))
    make, new_box, num_actions = {
        "push_box": (ReferencePushBox, (box,), 5),
        "secret_room": (ReferenceSecretRoom, (), 4),
    }[name]
    game = make()
    begin = partial(game.reset, [(1, 1), (1, 1)], *new_box)
    begin()

    def play(steps: int) -> None:
        for _ in range(steps * num_envs):
            actions = [rng.randrange(num_actions), rng.randrange(num_actions)]
            _, _, terminated, truncated = game.step(actions, *new_box)
            if terminated or truncated:
                begin()

    return play


def bare_smax(name: str, num_envs: int) -> Play:
    """A compiled step of all battles that draws allowed actions; the horizon is the wrapped one's."""
    import jax
    import jax.numpy as jnp
    from jaxmarl.environments.smax import HeuristicEnemySMAX, map_name_to_scenario

    # JaxMARL's battles have one step more than max_steps.
    game = HeuristicEnemySMAX(scenario=map_name_to_scenario(name), max_steps=99)
    keys = jax.random.split(jax.random.PRNGKey(0), num_envs)
    state = {"keys": keys, "now": jax.jit(jax.vmap(game.reset))(keys)[1]}

    def advance(key, now):
        key, drawn, used = jax.random.split(key, 3)
        can = game.get_avail_actions(now)
        logits = jnp.log(jnp.stack([can[agent] for agent in game.agents]).astype(jnp.float32))
        chosen = jax.random.categorical(drawn, logits)
        actions = {agent: chosen[number] for number, agent in enumerate(game.agents)}
        seen, now, *paid = game.step(used, now, actions)
        return key, now, (seen, *paid)

    step_all = jax.jit(jax.vmap(advance))

    def play(steps: int) -> None:
        for _ in range(steps):
            state["keys"], state["now"], result = step_all(state["keys"], state["now"])
            jax.block_until_ready(result)

    return play


def bare_vmas(name: str, num_envs: int) -> Play:
    """Steps of VMAS's environment; the horizon is that of the wrapped one."""
    import vmas

    env = vmas.make_env(name, num_envs=num_envs, device="cpu", seed=0, continuous_actions=True)
    env.reset()
    drawn = [[env.get_random_action(agent) for agent in env.agents] for _ in range(DRAWN)]
    made = torch.zeros(num_envs, dtype=torch.int64)

    def play(steps: int) -> None:
        for step in range(steps):
            done = env.step(drawn[step % DRAWN])[2]
            made.add_(1)
            ended = done | (made >= 100)
            if not ended.any():
                continue
            made.masked_fill_(ended, 0)
            if ended.all():
                env.reset(return_observations=False)
            else:
                for row in ended.nonzero().flatten().tolist():
                    env.reset_at(row, return_observations=False)
            # What the new episodes begin with, of all at once.
            env.get_from_scenario(
                get_observations=True, get_infos=True, get_rewards=False, get_dones=True
            )

    return play


def bare_jaxmarl(name: str, num_envs: int) -> Play:
    """A compiled step of all environments, JaxMARL's with its automatic reset."""
    import jax
    import jaxmarl

    env = jaxmarl.make(name)
    keys = jax.random.split(jax.random.PRNGKey(0), num_envs)
    state = {"now": jax.jit(jax.vmap(env.reset))(keys)[1], "keys": keys}

    def advance(key, now, action):
        key, used = jax.random.split(key)
        seen, now, reward, done, _ = env.step(used, now, action)
        return key, now, (seen, reward, done)

    step_all = jax.jit(jax.vmap(advance))
    drawn = []
    for number in range(DRAWN):
        own = jax.random.split(jax.random.PRNGKey(number), num_envs)
        drawn.append({a: jax.vmap(env.action_space(a).sample)(own) for a in env.agents})

    def play(steps: int) -> None:
        for step in range(steps):
            state["keys"], state["now"], result = step_all(
                state["keys"], state["now"], drawn[step % DRAWN]
            )
            jax.block_until_ready(result)

    return play


def zoo_maker(suite: str, name: str) -> Callable:
    """What gives an environment of PettingZoo's kind, without this package."""
    if suite == "mpe2":
        return importlib.import_module(f"mpe2.{name}").parallel_env
    if suite == "mamujoco":
        from gymnasium_robotics import mamujoco_v1

        scenario, _, parts = name.partition("-")
        return partial(mamujoco_v1.parallel_env, scenario, parts)
    import pettingzoo

    stem, _, version = name.rpartition("_")
    return partial(pettingzoo.make, "parallel", f"{suite}/{stem}-{version}")


def bare_zoo(suite: str, name: str, num_envs: int) -> Play:
    """Steps of PettingZoo's parallel environments, one after the other: the wrapped one's games."""
    make = zoo_maker(suite, name)
    envs = [make() for _ in range(num_envs)]
    agents = envs[0].possible_agents
    seeds = torch.Generator().manual_seed(0)

    def begin(env) -> None:
        # In the same order, so that both sides play the same episodes.
        env.reset(seed=int(torch.randint(SEEDS, (), generator=seeds)))

    for env in envs:
        begin(env)
    torch.manual_seed(0)
    played = make_env(task_of(suite, name), num_envs=num_envs, seed=0)
    played.reset()
    drawn = [
        [own_actions(envs[0], row) for row in played.rand_action()[ACTION].numpy()]
        for _ in range(DRAWN)
    ]
    played.close()

    def play(steps: int) -> None:
        for step in range(steps):
            ended = []
            for env, actions in zip(envs, drawn[step % DRAWN], strict=True):
                living = env.agents
                if len(living) < len(agents):
                    actions = {agent: actions[agent] for agent in living}
                env.step(actions)
                if not env.agents:
                    ended.append(env)
            for env in ended:
                begin(env)

    return play


def own_actions(env, actions: np.ndarray) -> dict:
    """One step's actions ``[N, A]`` as the agents of PettingZoo take them."""
    own = {}
    for agent, action in zip(env.possible_agents, actions, strict=True):
        space = env.action_space(agent)
        one_number = type(space).__name__ == "Discrete"
        own[agent] = int(action.argmax()) if one_number else action[: space.shape[0]].copy()
    return own


def bare(suite: str, name: str, num_envs: int) -> Play:
    """Steps of a simulator itself."""
    own = {"": bare_game, "smax": bare_smax, "vmas": bare_vmas, "jaxmarl": bare_jaxmarl}
    return own[suite](name, num_envs) if suite in own else bare_zoo(suite, name, num_envs)


def measure_game(suite: str, name: str, turns: int) -> dict:
    """Both sides of a game, in turns."""
    least, num_envs, steps, _ = SUITES[suite]
    sides = {
        "bare": bare(suite, name, num_envs),
        "wrapped": wrapped(task_of(suite, name), num_envs),
    }
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for play in sides.values():
        # To compile, and to fill caches.
        play(3)
    for _, side in in_turns(sides, turns):
        # What the other side has left is not collected at this one's cost.
        gc.collect()
        begun = time.process_time()
        sides[side](steps)
        seconds[side].append(time.process_time() - begun)
    speeds = {side: round(num_envs * steps / median(spent)) for side, spent in seconds.items()}
    ratios = [a / b for a, b in zip(seconds["bare"], seconds["wrapped"], strict=True)]
    low, middle, high = (round(ratio, 3) for ratio in quantiles(ratios, method="inclusive"))
    packages = [PACKAGES[suite]] if suite else []
    return {
        "num_envs": num_envs,
        **speeds,
        "ratio": middle,
        "quartiles": (low, high),
        "asked": least,
        "versions": {package: importlib.metadata.version(package) for package in packages},
    }


def task_of(suite: str, name: str) -> str:
    return f"{suite}/{name}" if suite else name


def texts(content: dict) -> dict[str, str]:
    """The table, and how it came about."""
    titles = ["game", "environments", "bare, steps/s", "wrapped, steps/s", "ratio", "asked for"]
    rows = []
    for name, row in content["games"].items():
        low, high = row["quartiles"]
        rows.append([
            f"`{name}`", f"{row['num_envs']}", f"{row['bare']:,}", f"{row['wrapped']:,}",
            f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})", f"{row['asked']:.2f}",
        ])  # fmt: skip
    note = (
        "Made by `python benchmarks/wrapper_speed.py`: environment steps in a second of processor "
        "time, one thread; ratios are medians over turns, with their quartiles; "
        f"torch {content['machine']['torch']}, {content['machine']['processor']}."
    )
    return {"wrapper_speed": f"{table(titles, rows)}\n\n{note}"}


def measure(config: Config) -> dict:
    """The games that are asked for; the others stay."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    games = MEASUREMENT.results()["games"]
    for suite in config.suites:
        for name in SUITES[suite][-1]:
            task = task_of(suite, name)
            games[task] = measure_game(suite, name, config.turns)
            print(f"{task}: {games[task]}", flush=True)
    return {"games": games}


MEASUREMENT = Measurement("wrapper_speed", measure, texts, page="docs/environments.md")

if __name__ == "__main__":
    # Of JAX, which reads them when it starts.
    os.environ["NPROC"] = "1"
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    MEASUREMENT.run(tyro.cli(Config))
