"""What an update costs against the number of agents, the buffer, the environments and the terms.

    python benchmarks/scaling.py --quick        # a minute; print, write nothing
    python benchmarks/scaling.py                # measure, write the results, report
    python benchmarks/scaling.py --report-only  # the tables and the figure, from the results

The work is that of throughput.py where nothing else is said: vmas/spread, batches of 1,024
transitions, two hidden layers of 128. Within a section all configurations take turns, forwards
and then backwards; each figure is the median over the rounds, in the JSON with the least, wall
and processor time. Updates are eager, or with --compile compiled.

- Agents: an update of each algorithm against N. With N an agent's observation in vmas/spread
  grows as well, and with both what a centralized critic reads.
- Buffer: drawing a batch, drawing a conditional batch and the update that reads them, for ALITA
  with clones, out of full buffers of different sizes.
- Environments: environment steps per second of the collector with noisy policies.
- Terms: each term of ALITA alone, forward, backward and step included, and the whole updates,
  in percent of an update of MADDPG.
- Memory: the largest resident memory of a process that collects, fills its buffer and makes
  three updates, each configuration in a process of its own.
- Seeds: one step (forward, backward, Adam) of S * N stacked networks, against S steps of N, one
  after the other. It bounds from above what S learners in one process can gain over S learners
  in turns: all else that they do, which stacking speeds up less or not at all, is left out.

The full form holds updates of 32 agents in memory, up to some ten gigabytes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import tyro
from pages import FIGURES, RESULTS, ROOT, table, write_between
from profile_update import (
    ALGORITHMS,
    circumstances,
    collected_batches,
    follow,
    restart_with_allocator,
    rewarded,
    settings,
    take_turns,
    task_env,
    unwatched,
    update_estimators,
    with_what,
    without_conditional,
)
from tensordict import TensorDict, TensorDictBase
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs import EnvBase

from torchrl_alita.algorithms import MADDPG
from torchrl_alita.layout import layout_of
from torchrl_alita.modules import make_actor
from torchrl_alita.training.buffers import Buffers

RESULT = RESULTS / "scaling.json"
PICTURE = FIGURES / "scaling.png"
PAGE = ROOT / "docs" / "speed.md"
WHOLE = {
    "maddpg": ("MADDPG", "maddpg", {}),
    "marginal": ("ALITA, marginal", "alita", {}),
    "clones": ("ALITA, clones", "alita", {"estimator": "clones"}),
    "centralized": ("ALITA, centralized", "alita", {"estimator": "centralized"}),
    "symmetric": ("Symmetric, marginal", "alita", {"influencers": "all"}),
    "symmetric_clones": (
        "Symmetric, clones",
        "alita",
        {"estimator": "clones", "influencers": "all"},
    ),
    "symmetric_centralized": (
        "Symmetric, centralized",
        "alita",
        {"estimator": "centralized", "influencers": "all"},
    ),
}
AGAINST_AGENTS = ("maddpg", "marginal", "symmetric", "clones")
ASYMMETRIC = {
    "symmetric": "marginal",
    "symmetric_clones": "clones",
    "symmetric_centralized": "centralized",
}
TERMS = {
    "novelty": "novelty: reward, loss and step",
    "diversity": "diversity penalty",
    "total_reward": "total reward",
    "influence": "influence, marginal",
    "estimator_clones": "clones, 4 updates",
    "estimator_centralized": "centralized network, 4 updates",
    "conditional": "conditional sampling",
}
BUFFER_STAGES = {"sampling": "sampling", "conditional": "conditional sampling", "update": "update"}
TASKS = {"vmas/spread": 3, "push_box": 2}
STEPS = 25
MEMORY = (
    {},
    {"algorithm": "maddpg", "buffer_size": 10_000},
    {"algorithm": "maddpg"},
    {"algorithm": "alita"},
    {"algorithm": "alita_clones"},
    {"algorithm": "maddpg", "num_envs": 4_096},
    {"algorithm": "maddpg", "n_agents": 16, "buffer_size": 10_000},
    {"algorithm": "alita", "n_agents": 16, "buffer_size": 10_000},
    {"algorithm": "alita_clones", "n_agents": 16, "buffer_size": 10_000},
)
MEBI = 2**20


@dataclass
class Config:
    """What to measure."""

    quick: bool = False
    """Smaller and fewer configurations in two rounds; print, write nothing."""
    compile: bool = False
    """Measure compiled updates."""
    rounds: int = 5
    """Turns of each configuration; quick: 2."""
    n_agents: tuple[int, ...] = (2, 4, 8, 16, 32)
    """Team sizes; quick: 2 4 8."""
    buffer_sizes: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    """Transitions in full buffers; quick: 10,000 and 100,000."""
    num_envs: tuple[int, ...] = (1, 4, 16, 64, 256, 1_024, 4_096)
    """Environments simulated together; quick: 1 16 256."""
    seeds: tuple[int, ...] = (1, 2, 4, 8)
    """Learners stacked; quick: 1 4."""
    threads: int = 1
    """Of torch."""
    report_only: bool = False
    """Measure nothing, report from the results."""
    memory_of: str | None = None
    """A configuration as JSON, whose memory is measured; for this script's own processes."""

    def __post_init__(self):
        if self.quick:
            self.rounds = 2
            self.n_agents, self.buffer_sizes = (2, 4, 8), (10_000, 100_000)
            self.num_envs, self.seeds = (1, 16, 256), (1, 4)
        if self.rounds < 1 or not all((self.n_agents, self.buffer_sizes, self.num_envs)):
            raise ValueError(f"Each list must name something and rounds be positive, got {self}.")


def transitions(env: EnvBase, count: int) -> TensorDictBase:
    """So many transitions ``[B]`` of random actions."""
    steps = -(-count // env.batch_size[0])
    return env.rollout(steps, break_when_any_done=False).reshape(-1)[:count].contiguous()


def updating(algorithm: MADDPG, batch: TensorDictBase) -> Callable[[], Any]:
    """An update on given batches."""
    batches = dict.fromkeys(algorithm.replays(), batch)
    return lambda: algorithm.update(batches)


def measure_agents(config: Config) -> list[dict[str, Any]]:
    """An update of each algorithm against N."""
    calls, rows = {}, {}
    for num_agents in config.n_agents:
        env = task_env(settings("maddpg", n_agents=num_agents))
        batch = transitions(env, settings("maddpg").algorithm.batch_size)
        for name in AGAINST_AGENTS:
            _, base, options = WHOLE[name]
            chosen = settings(base, compiled=config.compile, n_agents=num_agents, **options)
            algorithm = chosen.build(env)
            key = f"{name}, {num_agents}"
            calls[key] = updating(algorithm, batch)
            size = layout_of(env).observation_size
            rows[key] = {"algorithm": name, "n_agents": num_agents, "observation_size": size}
    return with_times(rows, take_turns(calls, config.rounds))


def with_times(rows: dict[str, dict], times: dict[str, dict]) -> list[dict[str, Any]]:
    """Configurations with their figures."""
    return [row | times[key] for key, row in rows.items()]


def filled(buffers: Buffers, collected: TensorDictBase) -> Buffers:
    """Full buffers, of one collected batch again and again."""
    while len(buffers.replay) < buffers.replay.storage.max_size:
        buffers.extend(collected)
    return buffers


def measure_buffer(config: Config) -> list[dict[str, Any]]:
    """Drawing and updating against the size of the buffer, ALITA with clones."""
    calls, rows = {}, {}
    for size in config.buffer_sizes:
        chosen = settings("alita_clones", compiled=config.compile, buffer_size=size)
        env = task_env(chosen)
        algorithm = chosen.build(env)
        buffers = filled(Buffers(chosen, algorithm), env.rollout(chosen.training.horizon))
        plain, conditional = without_conditional(buffers), buffers.drawn["conditional_0"]
        batches = plain.sample() | {"conditional_0": conditional.sample()}
        for stage, call in (
            ("sampling", plain.sample),
            ("conditional", conditional.sample),
            ("update", lambda a=algorithm, b=batches: a.update(b)),
        ):
            calls[f"{stage}, {size}"] = call
            rows[f"{stage}, {size}"] = {"stage": stage, "buffer_size": size}
    return with_times(rows, take_turns(calls, config.rounds))


def measure_environments(config: Config) -> list[dict[str, Any]]:
    """Collected environment steps per second against the number of environments."""
    calls, rows = {}, {}
    for task, n_agents in TASKS.items():
        for num_envs in config.num_envs:
            chosen = settings(
                "maddpg",
                task=task,
                n_agents=n_agents,
                num_envs=num_envs,
                frames_per_batch=num_envs * STEPS,
                frames_per_update=num_envs * STEPS,
            )
            env = task_env(chosen)
            batches = collected_batches(chosen, env, chosen.build(env))
            calls[f"{task}, {num_envs}"] = lambda batches=batches: next(batches)
            rows[f"{task}, {num_envs}"] = {"task": task, "num_envs": num_envs}
    measured = with_times(rows, take_turns(calls, config.rounds))
    for row in measured:
        frames = row["num_envs"] * STEPS
        row["frames_per_second"] = round(1e3 * frames / row["wall_ms"], 1)
        row["frames_per_second_max"] = round(1e3 * frames / row["wall_ms_min"], 1)
        row["frames_per_processor_second"] = round(1e3 * frames / row["processor_ms"], 1)
    return measured


def term_calls(env: EnvBase, batch: TensorDictBase) -> dict[str, Callable[[], Any]]:
    """Each term of ALITA alone, eager."""
    alita = settings("alita").build(env)
    noted = rewarded(alita, batch)

    def influence() -> None:
        sum(part(noted)["loss_influence"] for part in alita.influences).backward()
        alita.optimizers["actor"].zero_grad(set_to_none=True)

    def novelty() -> None:
        alita.novelty(batch)
        alita.novelty_loss(batch)["loss_novelty"].backward()
        follow(alita.optimizers["autoencoder"], alita.settings.max_grad_norm)

    calls = {
        "novelty": novelty,
        "diversity": lambda: alita.diversity(noted),
        "total_reward": lambda: alita.total_reward(noted),
        "influence": influence,
    }
    for kind in ("clones", "centralized"):
        chosen = settings("alita", estimator=kind, buffer_size=10_000)
        algorithm = chosen.build(env)
        calls[f"estimator_{kind}"] = lambda a=algorithm: update_estimators(
            a, {"conditional_0": batch}, unwatched
        )
        if kind == "clones":
            buffers = filled(Buffers(chosen, algorithm), env.rollout(chosen.training.horizon))
            calls["conditional"] = buffers.drawn["conditional_0"].sample
    return calls


def measure_terms(config: Config) -> list[dict[str, Any]]:
    """Terms alone and whole updates, N=3."""
    env = task_env(settings("maddpg"))
    batch = transitions(env, settings("maddpg").algorithm.batch_size)
    calls = {}
    for name, (_, algorithm, options) in WHOLE.items():
        chosen = settings(algorithm, compiled=config.compile, **options)
        calls[name] = updating(chosen.build(env), batch)
    calls |= term_calls(env, batch)
    return with_times({name: {"term": name} for name in calls}, take_turns(calls, config.rounds))


def peak_memory(chosen: dict[str, Any]) -> dict[str, Any]:
    """The buffer's bytes, and the largest resident memory that this process has had.

    Args:
        chosen: algorithm and options of its run; empty for a process that only imports.
    """
    import resource  # not on Windows

    buffer_bytes = 0
    if chosen:
        num_envs = chosen.get("num_envs", settings("maddpg").training.num_envs)
        frames = {"frames_per_batch": num_envs * STEPS, "frames_per_update": num_envs * STEPS}
        config = settings(**chosen, **frames)
        env = task_env(config)
        algorithm = config.build(env)
        batches = collected_batches(config, env, algorithm)
        buffers = filled(Buffers(config, algorithm), next(batches))
        for _ in range(3):
            algorithm.update(buffers.sample())
        stored = buffers.replay.storage[:]
        buffer_bytes = sum(v.numel() * v.element_size() for v in stored.values(True, True))
    # macOS counts in bytes, Linux in units of 1,024.
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"buffer_bytes": buffer_bytes, "peak_bytes": peak}


def measure_memory(config: Config) -> list[dict[str, Any]]:
    """Each configuration in a process of its own."""
    rows = []
    for chosen in MEMORY[:3] if config.quick else MEMORY:
        options = {**chosen, "compiled": config.compile} if chosen else {}
        command = [sys.executable, __file__, "--memory-of", json.dumps(options)]
        command += ["--threads", str(config.threads)]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        rows.append({**chosen, **json.loads(said.splitlines()[-1])})
    return rows


def network_step(num_networks: int, inputs: int, outputs: int) -> Callable[[], None]:
    """Forward, backward and Adam of stacked networks with inputs of their own."""
    chosen = settings("maddpg")
    # What make_actor reads of an environment; its networks are like those of the critics.
    sizes = SimpleNamespace(
        device="cpu",
        full_done_spec=Composite(done=Unbounded((1,))),
        full_observation_spec_unbatched=Composite(
            agents=Composite(observation=Unbounded((num_networks, inputs)), shape=(num_networks,))
        ),
        full_action_spec_unbatched=Composite(
            agents=Composite(
                action=Bounded(-1, 1, shape=(num_networks, outputs)), shape=(num_networks,)
            )
        ),
    )
    networks = make_actor(sizes, num_cells=chosen.algorithm.num_cells)
    observation = torch.randn(chosen.algorithm.batch_size, num_networks, inputs)
    batch = TensorDict({"agents": {"observation": observation}}, [chosen.algorithm.batch_size])
    optimizer = torch.optim.Adam(networks.parameters(), fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        networks(batch.copy())["agents", "action"].square().sum().backward()
        optimizer.step()

    return step


def in_sequence(steps: Sequence[Callable[[], None]]) -> Callable[[], None]:
    """One after the other."""

    def call() -> None:
        for step in steps:
            step()

    return call


def measure_seeds(config: Config) -> list[dict[str, Any]]:
    """S stacked learners' networks against S in turns."""
    layout = layout_of(task_env(settings("maddpg", num_envs=1)))
    num_agents, observation, action = layout.num_agents, layout.observation_size, layout.action_size
    shapes = {
        "actors": (observation, action),
        "critics": (num_agents * (observation + action), 1),
    }
    calls, rows = {}, {}
    for networks, (inputs, outputs) in shapes.items():
        for seeds in config.seeds:
            stacked = network_step(seeds * num_agents, inputs, outputs)
            alone = [network_step(num_agents, inputs, outputs) for _ in range(seeds)]
            for way, call in (("stacked", stacked), ("in_sequence", in_sequence(alone))):
                key = f"{networks}, {seeds}, {way}"
                calls[key] = call
                rows[key] = {"networks": networks, "seeds": seeds, "way": way}
    return with_times(rows, take_turns(calls, config.rounds))


SECTIONS: dict[str, Callable[[Config], list[dict[str, Any]]]] = {
    # First: a process starts with its parent's largest memory as its own.
    "memory": measure_memory,
    "agents": measure_agents,
    "buffer": measure_buffer,
    "environments": measure_environments,
    "terms": measure_terms,
    "seeds": measure_seeds,
}


def times_cells(row: dict[str, Any]) -> list[str]:
    """Median and least of the wall time, and processor time, in ms."""
    return [f"{row[name]:.2f}" for name in ("wall_ms", "wall_ms_min", "processor_ms")]


TIMES = ["ms", "least", "processor"]


def agents_table(rows: Sequence[dict[str, Any]]) -> str:
    """An update against N."""
    titles = ["algorithm", "N", "features of an observation", *TIMES]
    cells = [
        [
            WHOLE[row["algorithm"]][0],
            str(row["n_agents"]),
            str(row["observation_size"]),
            *times_cells(row),
        ]
        for row in sorted(rows, key=lambda row: AGAINST_AGENTS.index(row["algorithm"]))
    ]
    return table(titles, cells)


def buffer_table(rows: Sequence[dict[str, Any]]) -> str:
    """Drawing and updating against the size."""
    cells = [
        [BUFFER_STAGES[stage], f"{row['buffer_size']:,}", *times_cells(row)]
        for stage in BUFFER_STAGES
        for row in rows
        if row["stage"] == stage
    ]
    return table(["stage", "transitions stored", *TIMES], cells)


def environments_table(rows: Sequence[dict[str, Any]]) -> str:
    """Collected frames per second of each task."""
    titles = ["environments"]
    for task, num_agents in TASKS.items():
        titles += [f"{task}, N={num_agents}: frames/s", "most", "per processor second"]
    names = ("frames_per_second", "frames_per_second_max", "frames_per_processor_second")
    cells = []
    for num_envs in dict.fromkeys(row["num_envs"] for row in rows):
        found = {row["task"]: row for row in rows if row["num_envs"] == num_envs}
        speeds = [f"{found[task][name]:,.0f}" for task in TASKS for name in names]
        cells.append([f"{num_envs:,}", *speeds])
    return table(titles, cells)


def in_percent(row: dict[str, Any], whole: dict[str, Any]) -> list[str]:
    """Of another row, by wall time, its least and processor time."""
    names = ("wall_ms", "wall_ms_min", "processor_ms")
    return [f"{100 * row[name] / whole[name]:.0f} %" for name in names]


def terms_table(rows: Sequence[dict[str, Any]]) -> str:
    """Whole updates and terms in percent of MADDPG, and what symmetry costs."""
    found = {row["term"]: row for row in rows}
    titles = ["of an update of MADDPG", "ms", "percent", "least", "processor"]

    def cells(name: str, title: str) -> list[str]:
        row = found[name]
        return [title, f"{row['wall_ms']:.2f}", *in_percent(row, found["maddpg"])]

    whole = [cells(name, title) for name, (title, _, _) in WHOLE.items()]
    terms = [cells(name, title) for name, title in TERMS.items()]
    symmetric = [
        [
            f"{WHOLE[name][0]}, over {WHOLE[one][0]}",
            *(
                f"{found[name][time] / found[one][time]:.2f}"
                for time in ("wall_ms", "wall_ms_min", "processor_ms")
            ),
        ]
        for name, one in ASYMMETRIC.items()
    ]
    ratios = table(["whole updates", "times", "least", "processor"], symmetric)
    return f"{table(titles, whole + terms)}\n\n{ratios}"


def memory_table(rows: Sequence[dict[str, Any]]) -> str:
    """The buffer's size and the largest memory of each configuration."""
    titles = ["process", "N", "environments", "transitions stored", "buffer, MiB", "peak, MiB"]
    run = settings("maddpg")
    usual = vars(run.training) | vars(run.algorithm)
    cells = []
    for row in rows:
        sizes = ["", "", ""]
        if "algorithm" in row:
            names = ("n_agents", "num_envs", "buffer_size")
            sizes = [f"{row.get(name, usual[name]):,}" for name in names]
        title = ALGORITHMS[row["algorithm"]][0] if "algorithm" in row else "imports alone"
        mebibytes = [f"{row[name] / MEBI:,.0f}" for name in ("buffer_bytes", "peak_bytes")]
        cells.append([title, *sizes, *mebibytes])
    return table(titles, cells)


def seeds_table(rows: Sequence[dict[str, Any]]) -> str:
    """How many times faster the stack is."""
    found = {(row["networks"], row["seeds"], row["way"]): row for row in rows}
    titles = ["networks", "S", "stacked, ms", "in turns, ms", "gain", "by least", "by processor"]
    cells = []
    for networks, seeds, _ in dict.fromkeys(key for key in found if key[2] == "stacked"):
        stacked = found[networks, seeds, "stacked"]
        turns = found[networks, seeds, "in_sequence"]
        names = ("wall_ms", "wall_ms_min", "processor_ms")
        gains = [f"{turns[name] / stacked[name]:.2f}" for name in names]
        times = [f"{row['wall_ms']:.2f}" for row in (stacked, turns)]
        cells.append([networks, str(seeds), *times, *gains])
    return table(titles, cells)


TABLES: dict[str, Callable[[Sequence[dict[str, Any]]], str]] = {
    "agents": agents_table,
    "buffer": buffer_table,
    "environments": environments_table,
    "terms": terms_table,
    "memory": memory_table,
    "seeds": seeds_table,
}


def note(content: dict[str, Any]) -> str:
    """How the tables came about, in words."""
    updates = "compiled" if content["config"]["compile"] else "eager"
    return (
        f"Medians over {content['config']['rounds']} rounds, with the least; updates are {updates}. "
        f"Made by {with_what(content)}. All figures: benchmarks/results/scaling.json."
    )


def draw(content: dict[str, Any], path: Path) -> None:
    """Four panels: agents, buffer, environments and terms."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.5), layout="constrained")
    agents, buffer, environments, terms = figure.subplots(2, 2).flat
    series = (
        (agents, "agents", "algorithm", "n_agents", "wall_ms", lambda name: WHOLE[name][0]),
        (buffer, "buffer", "stage", "buffer_size", "wall_ms", BUFFER_STAGES.get),
        (environments, "environments", "task", "num_envs", "frames_per_second", str),
    )
    for axes, section, group, x, y, title in series:
        rows = content["sections"][section]
        for name in dict.fromkeys(row[group] for row in rows):
            points = [(row[x], row[y]) for row in rows if row[group] == name]
            axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=title(name))
        axes.set(xscale="log", yscale="log")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
    agents.set(title="an update", xlabel="agents", ylabel="ms")
    sizes = sorted({row["n_agents"] for row in content["sections"]["agents"]})
    agents.set_xticks(sizes, list(map(str, sizes)), minor=False)
    agents.set_xticks([], minor=True)
    buffer.set(title="out of a full buffer", xlabel="transitions stored", ylabel="ms")
    environments.set(title="collection", xlabel="environments", ylabel="environment steps/s")
    found = {row["term"]: row["wall_ms"] for row in content["sections"]["terms"]}
    titles = {**{name: title for name, (title, _, _) in WHOLE.items()}, **TERMS}
    percents = [100 * found[name] / found["maddpg"] for name in titles]
    colors = ["tab:blue"] * len(WHOLE) + ["tab:orange"] * len(TERMS)
    terms.barh(list(titles.values()), percents, color=colors)
    terms.invert_yaxis()
    terms.set(title="whole updates and terms alone", xlabel="percent of an update of MADDPG")
    terms.tick_params(axis="y", labelsize=8)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def report(content: dict[str, Any]) -> None:
    """Write the tables into docs/speed.md and draw the figure."""
    for section, write in TABLES.items():
        write_between(PAGE, f"scaling {section}", write(content["sections"][section]))
    write_between(PAGE, "scaling note", note(content))
    draw(content, PICTURE)


def main(config: Config) -> None:
    """Measure, print or write, and report."""
    if config.report_only:
        report(json.loads(RESULT.read_text()))
        return
    restart_with_allocator()
    torch.set_num_threads(config.threads)
    torch.manual_seed(0)
    if config.memory_of is not None:
        print(json.dumps(peak_memory(json.loads(config.memory_of))))
        return
    content = {**circumstances("scaling.py"), "config": asdict(config), "sections": {}}
    for section, measure in SECTIONS.items():
        print(f"{section} ...", file=sys.stderr, flush=True)
        content["sections"][section] = measure(config)
    if config.quick:
        for section, write in TABLES.items():
            print(f"{write(content['sections'][section])}\n")
        return
    RESULT.write_text(json.dumps(content, indent=1) + "\n")
    report(content)


if __name__ == "__main__":
    main(tyro.cli(Config))
