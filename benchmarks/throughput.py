"""Speed of training against BenchMARL's MADDPG, on the same work and the same machine.

    python benchmarks/throughput.py --peer benchmarl --quick  # print one JSON line
    python benchmarks/throughput.py --peer benchmarl          # N=3 and 6; write the results
    python benchmarks/throughput.py --report-only             # the table, from the results

The peer is installed once, into a virtual environment of its own, with our versions of torch
and VMAS and the TorchRL that it asks for. Each contender is a process that runs its library's
own training loop. They take turns, forwards and backwards, so that a change of the machine's
load meets all of them; who does not have the turn sleeps. A turn is one iteration: 6,000 frames
of simple_spread in 60 environments, stored, and 60 updates of 1,024 transitions out of a buffer
of one million. The first iterations of each, two or with --quick one, do not count: they hold
imports and compilation. The compiler keeps what it made, so the first call on a machine takes
longer than the next.

Actors and critics have two hidden layers of 128 with LayerNorm and ReLU, one actor and one
critic for each agent: BenchMARL runs with LayerNorm, share_policy_params=False and
share_param_critic=False, which are not its defaults. The full form has it without LayerNorm too,
which is less work than ours; ratios are against the same networks. Evaluations, checkpoints and
loggers are off. Both sides get the same number of threads and the same settings of the allocator,
those of the Makefile.

frames/s is over the whole iteration; updates/s is from the end of its first update to the end
of its last, sampling included. Figures are medians over the turns with the least and the
largest; a ratio is ours over the peer's, so above 1 we are faster. alita is our default, with
novelty, diversity and the marginal influence; alita_clones updates the clones four times a step.
Processor seconds are those of an iteration over all threads; a busy machine moves them less.

The full form writes results/throughput.json and the table between the markers in the README.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
import tyro
from pages import RESULTS, ROOT, table, write_between

WORKER = Path(__file__).with_name("throughput_worker.py")
RESULT = RESULTS / "throughput.json"
PEERS = {"benchmarl": ("BenchMARL", "benchmarl==1.5.2")}
CONTENDERS = {
    "maddpg": ("MADDPG", ("maddpg",)),
    "ddpg": ("DDPG", ("ddpg",)),
    "alita": ("ALITA, marginal", ("alita",)),
    "alita_clones": ("ALITA, clones", ("alita", "--algorithm.estimator", "clones")),
}
PEER = "peer"
PEER_WITHOUT_NORM = "peer_without_norm"
WORK = {
    "num_envs": 60,
    "horizon": 100,
    "frames": 6_000,
    "updates": 60,
    "batch_size": 1_024,
    "buffer_size": 1_000_000,
    "num_cells": (128, 128),
}
# The Makefile's; for both sides.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "4000000000", "MALLOC_TRIM_THRESHOLD_": "16000000000"}
ERROR_LINES = 30

Turn = dict[str, float]


@dataclass
class Config:
    """What to measure."""

    peer: Literal["benchmarl"] = "benchmarl"
    """Library whose MADDPG is the other side."""
    quick: bool = False
    """N=3, three turns after one that does not count; print, write nothing."""
    n_agents: tuple[int, ...] = (3, 6)
    """Team sizes; quick: 3."""
    turns: int = 7
    """Iterations of each contender that count, at least 3; quick: 3."""
    device: str | None = None
    """Of both sides, as cpu or cuda. Default: cuda if torch finds a GPU."""
    threads: int | None = None
    """Of torch, on both sides. Default: torch's choice."""
    options: str = ""
    """More options of our side's recipes, in one text, as --options="--algorithm.num-critics 2"."""
    peer_venv: Path | None = None
    """Virtual environment of the peer, made if it is missing. Default: .venv-PEER here."""
    report_only: bool = False
    """Measure nothing, write the table from the results."""

    def __post_init__(self):
        if self.peer not in PEERS:
            raise ValueError(f"peer must be one of {list(PEERS)}, got {self.peer!r}.")
        if self.turns < 3:
            raise ValueError(f"turns must be at least 3, got {self.turns}.")
        if not self.n_agents:
            raise ValueError("n_agents must name at least one team size.")
        if self.quick:
            self.n_agents, self.turns = (3,), 3
        self.device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.threads = self.threads or torch.get_num_threads()
        self.peer_venv = self.peer_venv or ROOT / f".venv-{self.peer}"


def requirements(peer: str) -> list[str]:
    """What pip installs for a peer: it, and our versions of what both sides stand on."""
    shared = [f"{name}=={version(name).split('+')[0]}" for name in ("torch", "vmas")]
    return [*shared, PEERS[peer][1]]


def peer_python(folder: Path, wanted: Sequence[str]) -> Path:
    """Python of a virtual environment with these packages, which is made if it is not there.

    Raises:
        ValueError: if the folder holds something else.
        subprocess.CalledProcessError: if the packages cannot be installed.
    """
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    marker = folder / "installed"
    text = "\n".join(wanted) + "\n"
    if marker.exists() and marker.read_text() == text:
        return python
    if folder.exists() and any(folder.iterdir()) and not (folder / "pyvenv.cfg").exists():
        raise ValueError(f"{folder} is not empty and no virtual environment.")
    print(f"Making {folder} with {', '.join(wanted)}: some minutes, once.", file=sys.stderr)
    install = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    for command in ([sys.executable, "-m", "venv", "--clear", str(folder)], [*install, *wanted]):
        # The standard output is for the JSON line.
        subprocess.run(command, check=True, stdout=2)
    marker.write_text(text)
    return python


class Contender:
    """A training loop in a process of its own, which works when it is told to.

    Args:
        name: for messages.
        command: that starts it.
        environment: its variables.
        errors: file that gets its standard error.
    """

    def __init__(
        self, name: str, command: Sequence[str], environment: dict[str, str], errors: Path
    ):
        self.name, self.errors = name, errors
        pipe = subprocess.PIPE
        with errors.open("wb") as file:
            self.process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=file, env=environment, text=True
            )

    def start_turn(self) -> None:
        """Let it work."""
        # If it has ended, report says why.
        with suppress(BrokenPipeError):
            print(file=self.process.stdin, flush=True)

    def report(self) -> dict[str, Any]:
        """What it says when it is done.

        Raises:
            RuntimeError: if it has ended instead, with the last lines of its errors.
        """
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        self.process.wait()
        said = self.errors.read_text(errors="replace").splitlines()[-ERROR_LINES:]
        raise RuntimeError(f"{self.name} ended with {self.process.returncode}:\n" + "\n".join(said))

    def close(self) -> None:
        """End it: it has reported all that is asked of it, and keeps nothing."""
        self.process.kill()
        self.process.communicate()


def start(name: str, n_agents: int, config: Config, python: Path, folder: str) -> Contender:
    """The peer, or one of ours."""
    ours = name in CONTENDERS
    work = {
        **WORK,
        "layer_norm": name != PEER_WITHOUT_NORM,
        "side": "ours" if ours else config.peer,
        "n_agents": n_agents,
        "device": config.device,
        "threads": config.threads,
        "folder": str(Path(folder) / name),
    }
    environment = {**ALLOCATOR, **os.environ, "OMP_NUM_THREADS": str(config.threads)}
    environment.pop("PYTHONPATH", None)
    if ours:
        work["options"] = [*CONTENDERS[name][1], *shlex.split(config.options)]
        environment["PYTHONPATH"] = str(ROOT)
    else:
        Path(work["folder"]).mkdir()
    command = [str(sys.executable if ours else python), str(WORKER), json.dumps(work)]
    errors = Path(folder) / f"{name}.errors"
    return Contender(f"{name}, N={n_agents},", command, environment, errors)


def take_turns(
    contenders: dict[str, Any], turns: int, say: Callable[[str], None] = lambda text: None
) -> dict[str, list[Turn]]:
    """One at a time, forwards and then backwards.

    Args:
        contenders: with ``start_turn`` and ``report``, by name.
        turns: of each.
        say: gets a line after each.

    Returns:
        Their reports, by name.
    """
    reports: dict[str, list[Turn]] = {name: [] for name in contenders}
    names = list(contenders)
    for turn in range(turns):
        for name in names if turn % 2 == 0 else reversed(names):
            contenders[name].start_turn()
            reports[name].append(contenders[name].report())
            say(f"turn {turn + 1}, {name}: {reports[name][-1]['seconds']:.2f} s")
    return reports


def measure(
    n_agents: int, config: Config, python: Path
) -> tuple[dict[str, dict], dict[str, list[Turn]]]:
    """Versions and turns of every contender."""
    with ExitStack() as stack:
        # The runs' files. Processes end before their folder goes.
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        contenders = {}
        peers = (PEER,) if config.quick else (PEER, PEER_WITHOUT_NORM)
        for name in (*peers, *CONTENDERS):
            contenders[name] = start(name, n_agents, config, python, folder)
            stack.callback(contenders[name].close)
        versions = {name: contender.report() for name, contender in contenders.items()}
        # They import and compile.
        take_turns(contenders, 1 if config.quick else 2)

        def say(text: str) -> None:
            print(f"N={n_agents}, {text}", file=sys.stderr, flush=True)

        return versions, take_turns(contenders, config.turns, say)


def figures(prefix: str, values: Sequence[float], digits: int) -> dict[str, float]:
    """Median, least and largest."""
    named = {"": median(values), "_min": min(values), "_max": max(values)}
    return {f"{prefix}{suffix}": round(value, digits) for suffix, value in named.items()}


def compare(ours: Sequence[Turn], peer: Sequence[Turn]) -> dict[str, float]:
    """Our speed, the peer's, and the ratios of the medians; above 1 ours is faster."""
    content: dict[str, float] = {}
    processor = []
    speeds: dict[str, list[float]] = {"fps": [], "updates_per_second": []}
    for side, turns in (("ours", ours), ("peer", peer)):
        values = {
            "fps": [WORK["frames"] / turn["seconds"] for turn in turns],
            "updates_per_second": [1 / turn["seconds_between_updates"] for turn in turns],
        }
        for name, measured in values.items():
            content |= figures(f"{side}_{name}", measured, 1)
            speeds[name].append(median(measured))
        processor.append(median(turn["processor_seconds"] for turn in turns))
        content[f"{side}_processor_seconds"] = round(processor[-1], 3)
    content["ratio"] = round(speeds["fps"][0] / speeds["fps"][1], 2)
    content["updates_ratio"] = round(
        speeds["updates_per_second"][0] / speeds["updates_per_second"][1], 2
    )
    content["processor_ratio"] = round(processor[1] / processor[0], 2)
    return content


def summary(turns: dict[str, list[Turn]]) -> dict[str, dict[str, float]]:
    """Each of ours against the peer."""
    return {name: compare(turns[name], turns[PEER]) for name in CONTENDERS}


def line(summaries: dict[str, dict]) -> str:
    """The JSON line: by contender, and with several team sizes by n3, n6 first."""
    if len(summaries) == 1:
        return json.dumps(next(iter(summaries.values())))
    return json.dumps({f"n{n_agents}": content for n_agents, content in summaries.items()})


def median_span(entry: dict[str, float], name: str) -> str:
    """Median [least, largest]."""
    middle, least, largest = (entry[f"{name}{suffix}"] for suffix in ("", "_min", "_max"))
    return f"{middle:,.0f} [{least:,.0f}, {largest:,.0f}]"


def speed_table(content: dict[str, Any]) -> str:
    """In Markdown, with what it was measured with below."""
    peer, _ = PEERS[content["peer"]]
    titles = ["training", "N", "frames/s", "updates/s"]
    titles += [f"frames/s, times {peer}", f"updates/s, times {peer}"]
    rows = []
    for n_agents, entries in content["summary"].items():
        first = next(iter(entries.values()))
        speeds = [median_span(first, f"peer_{name}") for name in ("fps", "updates_per_second")]
        rows.append([f"{peer}, MADDPG", n_agents, *speeds, "1", "1"])
        if PEER_WITHOUT_NORM in content["turns"][n_agents]:
            rows.append(_without_norm(content["turns"][n_agents], n_agents, peer))
        for name, entry in entries.items():
            speeds = [median_span(entry, f"ours_{n}") for n in ("fps", "updates_per_second")]
            ratios = [f"{entry[ratio]:.2f}" for ratio in ("ratio", "updates_ratio")]
            rows.append([CONTENDERS[name][0], n_agents, *speeds, *ratios])
    return f"{table(titles, rows)}\n\n{note(content)}"


def _without_norm(turns: dict[str, list[Turn]], n_agents: str, peer: str) -> list[str]:
    """The row of the peer's smaller networks, against its own ones with LayerNorm."""
    entry = compare(turns[PEER_WITHOUT_NORM], turns[PEER])
    speeds = [median_span(entry, f"ours_{n}") for n in ("fps", "updates_per_second")]
    ratios = [f"{entry[ratio]:.2f}" for ratio in ("ratio", "updates_ratio")]
    return [f"{peer}, MADDPG without LayerNorm", n_agents, *speeds, *ratios]


def note(content: dict[str, Any]) -> str:
    """How the table came about, in words."""
    work, machine, versions = content["work"], content["machine"], content["versions"]
    ours, theirs = versions["ours"], versions[PEER]
    title, _ = PEERS[content["peer"]]
    threads = f"{machine['threads']} thread" + "s" * (machine["threads"] != 1)
    return (
        f"Median [least, largest] of {content['turns_of_each']} iterations of each, in turns: "
        f"{work['frames']:,} frames of simple_spread in {work['num_envs']} environments, then "
        f"{work['updates']} updates of {work['batch_size']:,} transitions, N actors and N critics "
        f"with hidden layers of {' and '.join(map(str, work['num_cells']))} and LayerNorm. "
        f"Made by `{content['command']}`: torch {ours['torch']}, torchrl {ours['torchrl']} here, "
        f"{theirs['torchrl']} under {title} {theirs[content['peer']]}, Python {ours['python']}, "
        f"{machine['cores']} {machine['processor']} cores, {threads}, "
        f"{machine['gpu'] or 'no GPU'}. Raw figures of each iteration: "
        f"benchmarks/results/throughput.json."
    )


def report(content: dict[str, Any]) -> None:
    """Write the table into the README."""
    write_between(ROOT / "README.md", "speed table", speed_table(content))


def main(config: Config) -> None:
    """Measure, print, and write the results unless it is quick."""
    if config.report_only:
        report(json.loads(RESULT.read_text()))
        return
    load_average = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    python = peer_python(config.peer_venv, requirements(config.peer))
    turns = {}
    for n_agents in config.n_agents:
        versions, turns[n_agents] = measure(n_agents, config, python)
    summaries = {n_agents: summary(measured) for n_agents, measured in turns.items()}
    if not config.quick:
        content = {
            "command": " ".join(["python benchmarks/throughput.py", *sys.argv[1:]]),
            "peer": config.peer,
            "options": config.options,
            "work": WORK,
            "turns_of_each": config.turns,
            "versions": {"ours": versions["maddpg"], PEER: versions[PEER]},
            "machine": {
                "system": platform.system(),
                "processor": platform.machine(),
                "cores": os.cpu_count(),
                "threads": config.threads,
                "device": config.device,
                "gpu": versions["maddpg"]["gpu"],
                "load_average_before": load_average,
            },
            "summary": summaries,
            "turns": turns,
        }
        RESULT.write_text(json.dumps(content, indent=1) + "\n")
        # Read again: JSON makes texts of the team sizes.
        report(json.loads(RESULT.read_text()))
    print(line(summaries))


if __name__ == "__main__":
    main(tyro.cli(Config))
