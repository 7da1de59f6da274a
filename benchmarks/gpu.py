"""What a GPU gives: speed against BenchMARL, environments, many seeds, and the same numbers.

    python benchmarks/gpu.py                      # some eight minutes; write results/gpu.json
    python benchmarks/gpu.py --peer-path DIR:DIR  # with BenchMARL from these folders
    python benchmarks/gpu.py --device cpu --tiny --no-peer --output /tmp/gpu.json
    python benchmarks/gpu.py --report-only        # the table in docs/speed.md, from the results

Updates: every contender is a process of its own that runs a loop of TorchRL's parts, a Collector
and a replay buffer on the device, around ``algorithm.update``. All start and compile at once; then
they take turns, one at a time, forwards and backwards. The work is that of throughput.py: an
iteration is 6,000 frames of simple_spread in 60 environments and 60 updates of 1,024 transitions.
``eager`` is the plain update, ``compiled`` has its losses and their gradient compiled, ``graph``
is one CUDA graph of the whole compiled update, optimizers and targets included.

Environments: steps a second of rollouts by random actions. Seeds: the same iterations of eight
learners in one process, one after the other, and of eight processes at once. Parity: the largest
difference of a parameter after some updates on the GPU, eager or a graph, and on the CPU, from one
state and on the same batches.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import tyro
from pages import table, write_between
from tensordict import TensorDictBase
from tensordict.nn import TensorDictSequential
from throughput import WORKER
from timing import WORK, Contender, contend
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.modules import AdditiveGaussianModule

from torchrl_alita.algorithms import ALITA, MADDPG, ALITASettings, Learner, MADDPGSettings
from torchrl_alita.envs import make_env
from torchrl_alita.layout import ACTION
from torchrl_alita.saving import machine

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "gpu.json"
MODES = {"eager": {}, "compiled": {"compile": True}, "graph": {"compile": True, "cuda_graph": True}}
KINDS = {
    "maddpg": (MADDPG, MADDPGSettings()),
    "alita": (ALITA, ALITASettings()),
    "alita_clones": (ALITA, ALITASettings(estimator="clones")),
}
CONTENDERS = (
    *((kind, mode) for kind in ("maddpg", "alita") for mode in MODES),
    ("alita_clones", "graph"),
)
PEER = "benchmarl"
GAMES = {"vmas/spread": 3, "push_box": 2, "secret_room": 2}
PARITY = {
    "maddpg": (MADDPG, MADDPGSettings()),
    # Uniform joint actions are drawn by generators that differ between devices.
    "alita": (ALITA, ALITASettings(optimum="policy", optimum_at="next")),
}


@dataclass
class Config:
    """What to measure."""

    device: str = "cuda"
    """Of everything."""
    turns: int = 5
    """Iterations of each contender that count."""
    seeds: int = 8
    """Learners that are trained in one process, and processes at once."""
    num_envs: tuple[int, ...] = (4_096, 65_536)
    """Environments simulated together."""
    peer: bool = True
    """Measure BenchMARL's MADDPG too."""
    peer_path: str | None = None
    """Folders with BenchMARL and what it needs, for PYTHONPATH. Default: as here."""
    tiny: bool = False
    """Little work, for a test."""
    parts: tuple[str, ...] = ("parity", "environments", "updates", "seeds")
    """What to measure; the rest of the file stays."""
    report_only: bool = False
    """Measure nothing, write the table from the results."""
    output: Path = RESULT
    """File to write."""


class Loop:
    """A learner, its collector and its buffers, all on one device.

    Args:
        kind: of the algorithm.
        mode: how updates are made.
        work: sizes.
        seed: of everything random.
    """

    def __init__(self, kind: str, mode: str, work: dict[str, Any], seed: int):
        torch.manual_seed(seed)
        algorithm, settings = KINDS[kind]
        options = MODES[mode] if torch.device(work["device"]).type == "cuda" else {}
        settings = replace(settings, **options)
        self.work = work
        env = make_env("vmas/spread", num_envs=work["num_envs"], device=work["device"], seed=seed)
        self.learner: Learner = algorithm(env, settings)
        noise = AdditiveGaussianModule(self.learner.action_spec, action_key=ACTION)
        self.collector = Collector(
            env,
            TensorDictSequential(self.learner.actor, noise.to(work["device"])),
            frames_per_batch=work["frames"],
            total_frames=-1,
            track_traj_ids=False,
        )
        self.collected = iter(self.collector)
        self.buffers: dict[str, ReplayBuffer] = {}

    def _fill(self, batch: TensorDictBase) -> None:
        rows = batch.select("agents", ("next", "agents"), ("next", "done"), ("next", "terminated"))
        rows = rows.transpose(0, 1).reshape(-1)
        for name, stream in self.learner.replays().items():
            if name not in self.buffers:
                storage = LazyTensorStorage(self.work["buffer_size"], device=self.work["device"])
                if stream.sampler is not None:
                    storage = self.buffers["batch"].storage
                sampler = {} if stream.sampler is None else {"sampler": stream.sampler}
                self.buffers[name] = ReplayBuffer(
                    storage=storage, batch_size=self.work["batch_size"], **sampler
                )
            if stream.sampler is None:
                self.buffers[name].extend(rows)

    def iterate(self) -> dict[str, float]:
        """Collect, store and update; seconds of all, and between two updates."""
        started = self._now()
        self._fill(next(self.collected))
        self.learner.update(self._sample())
        first = self._now()
        for _ in range(self.work["updates"] - 1):
            self.learner.update(self._sample())
        ended = self._now()
        between = (ended - first) / (self.work["updates"] - 1)
        return {"seconds": ended - started, "seconds_between_updates": between}

    def _sample(self) -> dict[str, TensorDictBase]:
        return {name: buffer.sample() for name, buffer in self.buffers.items()}

    def _now(self) -> float:
        if torch.device(self.work["device"]).type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def serve(work: dict[str, Any]) -> None:
    """A contender: one iteration of all its learners for each line on the standard input."""
    reports = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    loops = [Loop(work["kind"], work["mode"], work, seed) for seed in range(work["learners"])]
    for _ in sys.stdin:
        started = time.perf_counter()
        turns = [loop.iterate() for loop in loops]
        report = {**turns[-1], "seconds": time.perf_counter() - started}
        print(json.dumps(report), file=reports, flush=True)


def command_of(kind: str, mode: str, work: dict[str, Any], learners: int = 1) -> list[str]:
    asked = {**work, "kind": kind, "mode": mode, "learners": learners}
    return [sys.executable, str(Path(__file__)), "--contend", json.dumps(asked)]


def at_once(contenders: Sequence[Contender]) -> float:
    """Seconds until all have made a turn that they begin together."""
    started = time.perf_counter()
    for contender in contenders:
        contender.start_turn()
    for contender in contenders:
        contender.report()
    return time.perf_counter() - started


def measure_updates(config: Config, work: dict[str, Any]) -> dict[str, Any]:
    """Turns of every contender, the peer included; one that fails is said so."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        modes = MODES if config.device.startswith("cuda") else {"eager": {}}
        folder = Path(folder)
        contenders = {
            f"{kind}, {mode}": Contender(
                f"{kind}, {mode}", command_of(kind, mode, work), folder / f"{kind}-{mode}.errors"
            )
            for kind, mode in CONTENDERS
            if mode in modes
        }
        if config.peer:
            theirs = {**WORK, **work, "layer_norm": True, "side": PEER, "n_agents": 3}
            theirs |= {"threads": torch.get_num_threads(), "folder": str(folder / PEER)}
            Path(theirs["folder"]).mkdir()
            command = [sys.executable, str(WORKER), json.dumps(theirs)]
            path = {} if config.peer_path is None else {"PYTHONPATH": config.peer_path}
            contenders[PEER] = Contender(PEER, command, folder / "peer.errors", **path)
            say(f"{PEER}: {contenders[PEER].report()}")
        for contender in contenders.values():
            stack.callback(contender.close)
            contender.start_turn()
        failed = {}
        for name, contender in list(contenders.items()):
            try:
                say(f"{name}, first iteration: {contender.report()['seconds']:.1f} s")
            except RuntimeError as error:
                failed[name] = str(error)
                say(f"{name} failed: {error}")
                del contenders[name]
        turns = contend(contenders, config.turns, say)
    return {"turns": turns, "failed": failed, "summary": summary(turns, work)}


def summary(turns: dict[str, list[dict[str, float]]], work: dict[str, Any]) -> dict[str, Any]:
    """Medians, and how many times those of the peer."""
    medians = {
        name: {
            "frames_per_second": work["frames"] / median(turn["seconds"] for turn in each),
            "updates_per_second": 1 / median(turn["seconds_between_updates"] for turn in each),
        }
        for name, each in turns.items()
    }
    for entry in medians.values() if PEER in medians else ():
        for name in ("frames_per_second", "updates_per_second"):
            entry[f"{name}_ratio"] = entry[name] / medians[PEER][name]
    return medians


def measure_seeds(config: Config, work: dict[str, Any]) -> dict[str, float]:
    """Iterations a second of many learners, in one process and in as many processes."""
    mode = "graph" if config.device.startswith("cuda") else "eager"
    rates = {}
    for name, processes, learners in (
        ("one_process", 1, config.seeds),
        ("processes", config.seeds, 1),
    ):
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            command = command_of("maddpg", mode, work, learners)
            contenders = [
                Contender(name, command, Path(folder) / f"{number}.errors")
                for number in range(processes)
            ]
            for contender in contenders:
                stack.callback(contender.close)
            at_once(contenders)
            seconds = [at_once(contenders) for _ in range(2)]
        rates[name] = config.seeds / min(seconds)
        say(f"seeds, {name}: {rates[name]:.2f} iterations a second")
    return rates


def measure_environments(config: Config, steps: int) -> dict[str, dict[str, float]]:
    """Steps a second, by task and number of environments."""
    speeds: dict[str, dict[str, float]] = {}
    for task, n_agents in GAMES.items():
        for num_envs in config.num_envs:
            env = make_env(task, num_envs=num_envs, n_agents=n_agents, device=config.device, seed=0)
            seconds = min(timed(partial(env.rollout, steps, break_when_any_done=False), 3))
            speeds.setdefault(task, {})[str(num_envs)] = num_envs * steps / seconds
            say(f"{task}, {num_envs:,} environments: {num_envs * steps / seconds:,.0f} steps/s")
    return speeds


def timed(call: Callable[[], Any], times: int) -> list[float]:
    """Seconds of each call."""
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return seconds


def parity(config: Config) -> dict[str, float]:
    """Largest difference of a parameter between the device and the CPU, relative to the largest.

    A graph is recorded at the fourth update and replayed from the fifth on.
    """
    differences = {}
    on_gpu = torch.device(config.device).type == "cuda"
    for name, (algorithm, settings) in PARITY.items():
        for mode, updates in {"eager": 3, "graph": 8}.items() if on_gpu else (("eager", 3),):
            changed = replace(settings, **MODES[mode])
            difference = _difference(algorithm, (settings, changed), config.device, updates)
            differences[f"{name}, {mode}"] = difference
            say(f"parity, {name}, {mode}: {difference:.1e}")
    return differences


def _difference(
    algorithm: type[Learner], settings: Sequence[Any], device: str, updates: int
) -> float:
    """After so many updates of one learner on the CPU and of one on the device."""
    learners = []
    for own, place in zip(settings, ("cpu", device), strict=True):
        torch.manual_seed(0)
        env = make_env("vmas/spread", num_envs=64, seed=0, device=place)
        learners.append(algorithm(env, own))
    reference, tested = learners
    tested.load_state_dict(reference.state_dict())
    env = make_env("vmas/spread", num_envs=64, seed=0)
    rollout = env.rollout(4 * updates, break_when_any_done=False)
    rollout = rollout.select("agents", ("next", "agents"), ("next", "done"), ("next", "terminated"))
    for update in range(updates):
        batch = rollout[:, 4 * update : 4 * update + 4].reshape(-1)
        for learner in learners:
            mine = batch.to(learner.device)
            learner.update({stream: mine.clone() for stream in learner.replays()})
    pairs = [
        (a.detach(), b.detach().cpu())
        for part in reference.modules
        for a, b in zip(
            reference.modules[part].parameters(), tested.modules[part].parameters(), strict=True
        )
    ]
    largest = max(float(a.abs().max()) for a, _ in pairs)
    return max(float((a - b).abs().max()) for a, b in pairs) / largest


def say(text: str) -> None:
    """To the standard error, with the time."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def report(content: dict[str, Any]) -> str:
    """The tables in Markdown, with what they were measured with below."""
    titles = ["training", "frames/s", "updates/s"]
    titles += ["frames/s, times BenchMARL", "updates/s, times BenchMARL"]
    rows = []
    for name, entry in content["updates"]["summary"].items():
        speeds = [entry[f"{what}_per_second"] for what in ("frames", "updates")]
        ratios = [entry.get(f"{what}_per_second_ratio") for what in ("frames", "updates")]
        name = "BenchMARL, MADDPG" if name == PEER else name
        rows.append([name, *(f"{x:,.0f}" for x in speeds), *(f"{x:.2f}" for x in ratios)])
    games = [
        [task, num_envs, f"{speed:,.0f}"]
        for task, speeds in content["environments"].items()
        for num_envs, speed in speeds.items()
    ]
    made_on, seeds = content["machine"], content["seeds"]
    largest = max(content["parity"].values())
    return "\n\n".join(
        [
            table(titles, rows),
            table(["environment", "environments", "steps/s"], games),
            f"Parameters differ from those of the CPU by {largest:.0e} of the largest at most, after "
            f"three updates, or eight that are a graph. Eight learners make {seeds['one_process']:.2f} iterations a second one "
            f"after the other in one process, and {seeds['processes']:.2f} in eight processes at once.",
            f"Made by `{content['command']}` at commit {content['commit'][:7]}: {made_on['gpu']}, "
            f"{made_on['cores']} cores, torch {made_on['torch']}, torchrl {made_on['torchrl']}, Python "
            f"{made_on['python']}. Raw figures: benchmarks/results/gpu.json.",
        ]
    )


def main(config: Config) -> dict[str, Any]:
    """Measure all, and write the file after each part: a run that is cut short leaves some."""
    if config.report_only:
        content = json.loads(config.output.read_text())
        write_between(ROOT / "docs" / "speed.md", "gpu", report(content))
        return content
    work = {name: WORK[name] for name in ("num_envs", "frames", "updates", "batch_size")}
    work |= {"buffer_size": WORK["buffer_size"], "device": config.device}
    if config.tiny:
        work |= {"num_envs": 4, "frames": 40, "updates": 2, "batch_size": 8, "buffer_size": 100}
    measured_on = machine()
    content: dict[str, Any] = {
        "command": " ".join(["python benchmarks/gpu.py", *sys.argv[1:]]),
        "commit": measured_on["commit"],
        "machine": measured_on,
        "config": {k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items()},
        "work": work,
    }
    parts: dict[str, Callable[[], Any]] = {
        "parity": lambda: parity(config),
        "environments": lambda: measure_environments(config, 2 if config.tiny else 50),
        "updates": lambda: measure_updates(config, work),
        "seeds": lambda: measure_seeds(config, work),
    }
    if set(config.parts) < set(parts) and config.output.exists():
        content = json.loads(config.output.read_text())
    for name in config.parts:
        content[name] = parts[name]()
        config.output.write_text(json.dumps(content, indent=1) + "\n")
    return content


if __name__ == "__main__":
    if sys.argv[1:2] == ["--contend"]:
        serve(json.loads(sys.argv[2]))
    else:
        main(tyro.cli(Config))
