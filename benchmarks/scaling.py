"""What an update costs against the number of agents, the buffer, the environments and the terms.

    python benchmarks/scaling.py                # measure, write the results, report
    python benchmarks/scaling.py --report-only  # the tables and the figure, from the results

The work is timing.WORK where nothing else is said. Within a section all configurations take turns;
each figure is the median over the rounds, in the JSON with the least, wall and processor time.
"Memory" is the largest resident memory of a process that collects, fills its buffer and makes three
updates. "Seeds" is one step (forward, backward, Adam) of S * N stacked networks, against S steps of
N: it bounds from above what S learners in one process can gain over S learners in turns.

The full form holds updates of 32 agents in memory, up to some ten gigabytes.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import pages
import torch
import tyro
from pages import FIGURES, Measurement, made_by, table
from tensordict import TensorDictBase
from timing import ALGORITHMS, filled, restart_with_allocator, take_turns, work_config
from torch import nn
from torchrl.envs import EnvBase

from torchrl_alita.algorithms import ALITA, Learner
from torchrl_alita.envs import make_env
from torchrl_alita.layout import layout_of
from torchrl_alita.modules import StackedLinear
from torchrl_alita.training import Config as RunConfig
from torchrl_alita.training.collection import Collection

SYMMETRIC = {
    "symmetric": "marginal",
    "symmetric_clones": "clones",
    "symmetric_centralized": "centralized",
}
WHOLE = {
    "maddpg": ("MADDPG", "maddpg", {}),
    **{
        kind: (f"ALITA, {kind}", "alita", {"algorithm__estimator": kind})
        for kind in SYMMETRIC.values()
    },
}
for name, kind in SYMMETRIC.items():
    options = {"algorithm__estimator": kind, "algorithm__influencers": "all"}
    WHOLE[name] = (f"Symmetric, {kind}", "alita", options)
AGENTS = {"n_agents": "N", "observation_size": "features of an observation"}
AGAINST_AGENTS = ("maddpg", "marginal", "symmetric", "clones")
TERMS = {
    "novelty": "novelty: reward, loss and step",
    "diversity": "diversity penalty",
    "total_reward": "total reward",
    "influence": "influence, marginal",
    "estimator_clones": "clones, 4 updates",
    "estimator_centralized": "centralized network, 4 updates",
    "conditional": "conditional sampling",
}
TITLES = {**{name: title for name, (title, _, _) in WHOLE.items()}, **TERMS}
CURVES = {**TITLES, "sampling": "sampling", "update": "update"}
TASKS = {"vmas/spread": 3, "push_box": 2}
STEPS = 25
LARGE_TEAM = {"n_agents": 16, "buffer_size": 10_000}
MEMORY = (
    {},
    {"algorithm": "maddpg", "buffer_size": 10_000},
    *({"algorithm": name} for name in ("maddpg", "alita", "alita_clones")),
    {"algorithm": "maddpg", "num_envs": 4_096},
    *({"algorithm": name, **LARGE_TEAM} for name in ("maddpg", "alita", "alita_clones")),
)
TIMES = {"ms": "wall_ms", "least": "wall_ms_min", "processor": "processor_ms"}
SPEEDS = {
    "frames/s": "frames_per_second",
    "most": "frames_per_second_max",
    "per processor second": "frames_per_processor_second",
}

Rows = list[dict[str, Any]]


@dataclass(kw_only=True)
class Config(pages.Config):
    """What to measure."""

    compile: bool = False
    """Measure compiled updates."""
    rounds: int = 5
    """Turns of each configuration."""
    n_agents: tuple[int, ...] = (2, 4, 8, 16, 32)
    """Team sizes."""
    buffer_sizes: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    """Transitions in full buffers."""
    num_envs: tuple[int, ...] = (1, 4, 16, 64, 256, 1_024, 4_096)
    """Environments simulated together."""
    seeds: tuple[int, ...] = (1, 2, 4, 8)
    """Learners stacked."""


def environment(config: RunConfig) -> EnvBase:
    """That of a config."""
    names = ("num_envs", "n_agents", "horizon", "seed")
    return make_env(config.task, **{name: getattr(config.training, name) for name in names})


def transitions(env: EnvBase, count: int) -> TensorDictBase:
    """So many transitions ``[B]`` of random actions."""
    steps = -(-count // env.batch_size[0])
    return env.rollout(steps, break_when_any_done=False).reshape(-1)[:count].contiguous()


def updating(learner: Learner, batch: TensorDictBase) -> Callable[[], Any]:
    """An update on given batches."""
    return partial(learner.update, dict.fromkeys(learner.replays(), batch))


def timed(cases: Iterable[tuple[dict[str, Any], Callable[[], Any]]], rounds: int) -> Rows:
    """Rows with the figures of their calls, which take turns."""
    rows, calls = zip(*cases, strict=True)
    times = take_turns(dict(enumerate(calls)), rounds)
    return [row | times[number] for number, row in enumerate(rows)]


def measure_agents(config: Config) -> Rows:
    """An update of each algorithm against N."""

    def cases():
        for num_agents in config.n_agents:
            env = environment(work_config("maddpg", n_agents=num_agents))
            batch = transitions(env, work_config("maddpg").algorithm.batch_size)
            size = layout_of(env).observation_size
            for name in AGAINST_AGENTS:
                _, base, options = WHOLE[name]
                learner = work_config(base, algorithm__compile=config.compile, **options).build(env)
                row = {"algorithm": name, "n_agents": num_agents, "observation_size": size}
                yield row, updating(learner, batch)

    return timed(cases(), config.rounds)


def measure_buffer(config: Config) -> Rows:
    """Drawing and updating against the size of the buffer, ALITA with clones."""

    def cases():
        for size in config.buffer_sizes:
            options = {"algorithm__compile": config.compile, "algorithm__buffer_size": size}
            chosen = work_config("alita_clones", **options)
            env = environment(chosen)
            learner = chosen.build(env)
            buffers = filled(chosen, learner, env.rollout(chosen.training.horizon))
            drawn = [buffers.drawn[name] for name in ("batch", "recent")]
            calls = {
                "sampling": lambda drawn=drawn: [buffer.sample() for buffer in drawn],
                "conditional": buffers.drawn["conditional_0"].sample,
                "update": partial(learner.update, buffers.sample()),
            }
            for stage, call in calls.items():
                yield {"stage": stage, "buffer_size": size}, call

    return timed(cases(), config.rounds)


def collecting(config: RunConfig, env: EnvBase, learner: Learner) -> Callable[[], TensorDictBase]:
    """The next batch, as the training loop gets it."""
    return partial(next, iter(Collection(config, env, learner, config.find_task())))


def measure_environments(config: Config) -> Rows:
    """Collected environment steps per second against the number of environments."""

    def cases():
        for task, n_agents in TASKS.items():
            for num_envs in config.num_envs:
                chosen = work_config(
                    "maddpg", task, num_envs=num_envs, n_agents=n_agents, horizon=None,
                    frames_per_batch=num_envs * STEPS,
                )  # fmt: skip
                env = environment(chosen)
                row = {"task": task, "num_envs": num_envs}
                yield row, collecting(chosen, env, chosen.build(env))

    rows = timed(cases(), config.rounds)
    for row in rows:
        for name, of in zip(SPEEDS.values(), TIMES.values(), strict=True):
            row[name] = round(1e3 * row["num_envs"] * STEPS / row[of], 1)
    return rows


def terms(env: EnvBase, batch: TensorDictBase) -> dict[str, Callable[[], Any]]:
    """Each term of ALITA alone, eager."""
    alita: ALITA = work_config("alita").build(env)
    noted = alita.add_rewards(batch)

    def influence() -> None:
        sum(part(noted)["loss_influence"] for part in alita.influences).backward()
        alita.optimizers["actor"].zero_grad(set_to_none=True)

    def novelty() -> None:
        alita.novelty(batch)
        alita.novelty_loss(batch)["loss_novelty"].backward()
        alita._clip_and_step(alita.optimizers["autoencoder"])
        alita.optimizers["autoencoder"].zero_grad(set_to_none=True)

    calls = {
        "novelty": novelty,
        "diversity": partial(alita.diversity, noted),
        "total_reward": partial(alita.total_reward, noted),
        "influence": influence,
    }
    for kind in ("clones", "centralized"):
        options = {"algorithm__estimator": kind, "algorithm__buffer_size": 10_000}
        chosen = work_config("alita", **options)
        learner = chosen.build(env)
        (estimator,) = learner.estimators
        calls[f"estimator_{kind}"] = partial(learner._train_estimator, estimator, batch)
        if kind == "clones":
            buffers = filled(chosen, learner, env.rollout(chosen.training.horizon))
            calls["conditional"] = buffers.drawn["conditional_0"].sample
    return calls


def measure_terms(config: Config) -> Rows:
    """Terms alone and whole updates, N=3."""
    env = environment(work_config("maddpg"))
    batch = transitions(env, work_config("maddpg").algorithm.batch_size)
    calls = {
        name: updating(
            work_config(base, algorithm__compile=config.compile, **options).build(env), batch
        )
        for name, (_, base, options) in WHOLE.items()
    }
    calls |= terms(env, batch)
    return timed((({"term": name}, call) for name, call in calls.items()), config.rounds)


def peak_memory(chosen: dict[str, Any], config: Config) -> dict[str, Any]:
    """The buffer's bytes, and the largest resident memory that this process has had.

    Of a run with these options; without any, of a process that only imports.
    """
    import resource  # not on Windows

    torch.set_num_threads(config.threads)
    options = {"algorithm__compile": config.compile, **chosen}
    buffer_bytes = 0
    if name := options.pop("algorithm", None):
        if "buffer_size" in options:
            options["algorithm__buffer_size"] = options.pop("buffer_size")
        run = work_config(name, **options)
        env = environment(run)
        learner = run.build(env)
        buffers = filled(run, learner, collecting(run, env, learner)())
        for _ in range(3):
            learner.update(buffers.sample())
        stored = buffers.replay.storage[:]
        buffer_bytes = sum(v.numel() * v.element_size() for v in stored.values(True, True))
    # macOS counts in bytes, Linux in units of 1,024.
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {**chosen, "buffer_bytes": buffer_bytes, "peak_bytes": peak}


def measure_memory(config: Config) -> Rows:
    """Each configuration in a process of its own."""
    rows = []
    for chosen in MEMORY:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            rows.append(pool.submit(peak_memory, chosen, config).result())
    return rows


def network_step(num_networks: int, inputs: int, outputs: int) -> Callable[[], None]:
    """Forward, backward and Adam of stacked networks with inputs of their own."""
    chosen = work_config("maddpg").algorithm
    sizes, layers = [inputs, *chosen.num_cells], []
    for before, width in pairwise(sizes):
        layers += [StackedLinear(before, width, num_agents=num_networks)]
        layers += [nn.LayerNorm(width, elementwise_affine=False), nn.ReLU()]
    networks = nn.Sequential(*layers, StackedLinear(sizes[-1], outputs, num_agents=num_networks))
    given = torch.randn(chosen.batch_size, num_networks, inputs)
    optimizer = torch.optim.Adam(networks.parameters(), fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        networks(given).square().sum().backward()
        optimizer.step()

    return step


def measure_seeds(config: Config) -> Rows:
    """S stacked learners' networks against S in turns."""
    layout = layout_of(environment(work_config("maddpg", num_envs=1)))
    num_agents, observation, action = layout.num_agents, layout.observation_size, layout.action_size
    shapes = {
        "actors": (observation, action),
        "critics": (num_agents * (observation + action), 1),
    }

    def cases():
        for networks, (inputs, outputs) in shapes.items():
            for seeds in config.seeds:
                row = {"networks": networks, "seeds": seeds}
                stacked = network_step(seeds * num_agents, inputs, outputs)
                yield row | {"way": "stacked"}, stacked
                alone = [network_step(num_agents, inputs, outputs) for _ in range(seeds)]
                yield row | {"way": "in_sequence"}, lambda steps=alone: [step() for step in steps]

    return timed(cases(), config.rounds)


def times(row: dict[str, Any]) -> list[str]:
    """Median and least of the wall time, and processor time, in ms."""
    return [f"{row[name]:.2f}" for name in TIMES.values()]


def ratios(row: dict[str, Any], whole: dict[str, Any]) -> list[float]:
    """Of two rows, by wall time, its least and processor time."""
    return [row[name] / whole[name] for name in TIMES.values()]


def times_table(group: str, sizes: dict[str, str], rows: Rows) -> str:
    """Times against sizes, which have titles; the rows of a group stand together."""
    cells = [
        [CURVES[name], *(f"{row[size]:,}" for size in sizes), *times(row)]
        for name in dict.fromkeys(row[group] for row in rows)
        for row in rows
        if row[group] == name
    ]
    return table([group, *sizes.values(), *TIMES], cells)


def environments_table(rows: Rows) -> str:
    """Collected frames per second of each task."""
    titles = ["environments"]
    for task, num_agents in TASKS.items():
        first, *others = SPEEDS
        titles += [f"{task}, N={num_agents}: {first}", *others]
    cells: dict[int, list[str]] = {}
    for row in rows:
        line = cells.setdefault(row["num_envs"], [f"{row['num_envs']:,}"])
        line += [f"{row[name]:,.0f}" for name in SPEEDS.values()]
    return table(titles, cells.values())


def terms_table(rows: Rows) -> str:
    """Whole updates and terms in percent of MADDPG, and what symmetry costs."""
    found = {row["term"]: row for row in rows}
    cells = []
    for name, title in TITLES.items():
        percents = [f"{100 * part:.0f} %" for part in ratios(found[name], found["maddpg"])]
        cells.append([title, f"{found[name]['wall_ms']:.2f}", *percents])
    symmetric = []
    for name, one in SYMMETRIC.items():
        factors = [f"{part:.2f}" for part in ratios(found[name], found[one])]
        symmetric.append([f"{TITLES[name]}, over {TITLES[one]}", *factors])
    whole = table(["of an update of MADDPG", "ms", "percent", "least", "processor"], cells)
    return f"{whole}\n\n{table(['whole updates', 'times', 'least', 'processor'], symmetric)}"


def memory_table(rows: Rows) -> str:
    """The buffer's size and the largest memory of each configuration."""
    titles = ["process", "N", "environments", "transitions stored", "buffer, MiB", "peak, MiB"]
    usual = work_config("maddpg")
    usual = vars(usual.training) | vars(usual.algorithm)
    cells = []
    for row in rows:
        line = ["imports alone", "", "", ""]
        if "algorithm" in row:
            names = ("n_agents", "num_envs", "buffer_size")
            sizes = [f"{row.get(name, usual[name]):,}" for name in names]
            line = [ALGORITHMS[row["algorithm"]][0], *sizes]
        bytes_of = (row[name] for name in ("buffer_bytes", "peak_bytes"))
        cells.append([*line, *(f"{size / 2**20:,.0f}" for size in bytes_of)])
    return table(titles, cells)


def seeds_table(rows: Rows) -> str:
    """How many times faster the stack is."""
    titles = ["networks", "S", "stacked, ms", "in turns, ms", "gain", "by least", "by processor"]
    cells = []
    for stacked, turns in zip(rows[::2], rows[1::2], strict=True):
        figures = [stacked["wall_ms"], turns["wall_ms"], *ratios(turns, stacked)]
        line = [stacked["networks"], str(stacked["seeds"]), *(f"{x:.2f}" for x in figures)]
        cells.append(line)
    return table(titles, cells)


SECTIONS: dict[str, tuple[Callable[[Config], Rows], Callable[[Rows], str]]] = {
    # First: a process starts with its parent's largest memory as its own.
    "memory": (measure_memory, memory_table),
    "agents": (measure_agents, partial(times_table, "algorithm", AGENTS)),
    "buffer": (
        measure_buffer,
        partial(times_table, "stage", {"buffer_size": "transitions stored"}),
    ),
    "environments": (measure_environments, environments_table),
    "terms": (measure_terms, terms_table),
    "seeds": (measure_seeds, seeds_table),
}


def measure(config: Config) -> dict[str, Any]:
    """All sections."""
    restart_with_allocator()
    torch.manual_seed(0)
    sections = {}
    for name, (measure_section, _) in SECTIONS.items():
        print(f"{name} ...", file=sys.stderr, flush=True)
        sections[name] = measure_section(config)
    return {"sections": sections}


def texts(content: dict[str, Any]) -> dict[str, str]:
    """A table for each section, and how they came about."""
    rows = content["sections"]
    tables = {f"scaling {name}": write(rows[name]) for name, (_, write) in SECTIONS.items()}
    updates = "compiled" if content["config"]["compile"] else "eager"
    note = (
        f"Medians over {content['config']['rounds']} rounds, with the least; updates are {updates}. "
        f"Made by {made_by(content)}. All figures: benchmarks/results/scaling.json."
    )
    return {**tables, "scaling note": note}


def draw(content: dict[str, Any]) -> None:
    """Four panels: agents, buffer, environments and terms."""
    from matplotlib.figure import Figure

    sections = content["sections"]
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    agents, buffer, environments, parts = figure.subplots(2, 2).flat
    for axes, section, group, x, y in (
        (agents, "agents", "algorithm", "n_agents", "wall_ms"),
        (buffer, "buffer", "stage", "buffer_size", "wall_ms"),
        (environments, "environments", "task", "num_envs", "frames_per_second"),
    ):
        for name in dict.fromkeys(row[group] for row in sections[section]):
            points = [(row[x], row[y]) for row in sections[section] if row[group] == name]
            label = CURVES.get(name, name)
            axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=label)
        axes.set(xscale="log", yscale="log")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
    agents.set(title="an update", xlabel="agents", ylabel="ms")
    sizes = sorted({row["n_agents"] for row in sections["agents"]})
    agents.set_xticks(sizes, list(map(str, sizes)), minor=False)
    agents.set_xticks([], minor=True)
    buffer.set(title="out of a full buffer", xlabel="transitions stored", ylabel="ms")
    environments.set(title="collection", xlabel="environments", ylabel="environment steps/s")
    found = {row["term"]: row["wall_ms"] for row in sections["terms"]}
    colors = ["tab:blue"] * len(WHOLE) + ["tab:orange"] * len(TERMS)
    percents = [100 * found[name] / found["maddpg"] for name in TITLES]
    parts.barh(list(TITLES.values()), percents, color=colors)
    parts.invert_yaxis()
    parts.set(title="whole updates and terms alone", xlabel="percent of an update of MADDPG")
    parts.tick_params(axis="y", labelsize=8)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(FIGURES / "scaling.png", dpi=110)


MEASUREMENT = Measurement("scaling", measure, texts, draw=draw)

if __name__ == "__main__":
    MEASUREMENT.run(tyro.cli(Config))
