"""Speed of training against BenchMARL's MADDPG, on the same work and the same machine.

    python benchmarks/throughput.py                # N=3 and 6; write the results and the table
    python benchmarks/throughput.py --report-only  # the table, from the results

The peer is installed once, into a virtual environment of its own, with our torch and VMAS and the
TorchRL that it asks for. Each contender is a process that runs its library's own training loop. They take turns, so that
a change of the machine's load meets all of them; who does not have the turn sleeps. A turn is one
iteration: 6,000 frames of simple_spread in 60 environments, stored, and 60 updates of 1,024
transitions out of a buffer of one million. The first two iterations of each do not count: they hold
imports and compilation.

Actors and critics have two hidden layers of 128 with LayerNorm and ReLU, one actor and one
critic for each agent: BenchMARL runs with LayerNorm, share_policy_params=False and
share_param_critic=False, which are not its defaults. It runs without LayerNorm too, which is less
work than ours; ratios are against the same networks. Evaluations, checkpoints and loggers are off.
Both sides get the same number of threads and the Makefile's settings of the allocator.

frames/s is over the whole iteration; updates/s is from the end of its first update to the end
of its last, sampling included. Figures are medians over the turns with the least and the
largest; a ratio is ours over the peer's, so above 1 we are faster. alita is our default, with
novelty, diversity and the marginal influence; alita_clones updates the clones four times a step.
Processor seconds are those of an iteration over all threads; a busy machine moves them less.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import tyro
from pages import RESULTS, ROOT, circumstances, table, write_between
from peer import TITLE, peer_python, requirements
from timing import ALGORITHMS, ALLOCATOR, WORK, Contender, contend, spread

WORKER = Path(__file__).with_name("throughput_worker.py")
RESULT = RESULTS / "throughput.json"
PEER, PEER_WITHOUT_NORM = "peer", "peer_without_norm"

Turn = dict[str, float]


@dataclass
class Config:
    """What to measure."""

    peer_venv: Path = ROOT / ".venv-benchmarl"
    """Virtual environment of the peer, made if it is missing."""
    n_agents: tuple[int, ...] = (3, 6)
    """Team sizes."""
    turns: int = 7
    """Iterations of each contender that count."""
    device: str = "cpu"
    """Of both sides, as cpu or cuda."""
    threads: int = torch.get_num_threads()
    """Of torch, on both sides."""
    options: str = ""
    """More options of our side, in one text, as --options="--algorithm.num-critics 2"."""
    report_only: bool = False
    """Measure nothing, write the table from the results."""


def start(name: str, n_agents: int, config: Config, python: Path, folder: str) -> Contender:
    """The peer, or one of ours."""
    ours = name in ALGORITHMS
    work = {
        **WORK,
        "layer_norm": name != PEER_WITHOUT_NORM,
        "side": "ours" if ours else "benchmarl",
        "n_agents": n_agents,
        "device": config.device,
        "threads": config.threads,
        "folder": str(Path(folder) / name),
    }
    environment = {**ALLOCATOR, **os.environ, "OMP_NUM_THREADS": str(config.threads)}
    environment.pop("PYTHONPATH", None)
    if ours:
        work |= {"algorithm": name, "options": shlex.split(config.options)}
        environment["PYTHONPATH"] = str(ROOT)
    else:
        Path(work["folder"]).mkdir()
    command = [str(sys.executable if ours else python), str(WORKER), json.dumps(work)]
    errors = Path(folder) / f"{name}.errors"
    return Contender(f"{name}, N={n_agents},", command, environment, errors)


def measure(
    n_agents: int, config: Config, python: Path
) -> tuple[dict[str, dict], dict[str, list[Turn]]]:
    """Versions and turns of every contender."""
    with ExitStack() as stack:
        # The runs' files. Processes end before their folder goes.
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        contenders = {}
        for name in (PEER, PEER_WITHOUT_NORM, *ALGORITHMS):
            contenders[name] = start(name, n_agents, config, python, folder)
            stack.callback(contenders[name].close)
        versions = {name: contender.report() for name, contender in contenders.items()}
        contend(contenders, 2)  # They import and compile.
        say = lambda text: print(f"N={n_agents}, {text}", file=sys.stderr, flush=True)  # noqa: E731
        return versions, contend(contenders, config.turns, say)


def speeds(turns: Sequence[Turn]) -> dict[str, list[float]]:
    """Frames and updates a second, and processor seconds, of each turn."""
    return {
        "fps": [WORK["frames"] / turn["seconds"] for turn in turns],
        "updates_per_second": [1 / turn["seconds_between_updates"] for turn in turns],
        "processor_seconds": [turn["processor_seconds"] for turn in turns],
    }


def compare(ours: Sequence[Turn], peer: Sequence[Turn]) -> dict[str, float]:
    """Our speed, and the ratios of the medians to the peer's; above 1 ours is faster."""
    first, second = speeds(ours), speeds(peer)
    fps, updates, spent = (median(first[name]) / median(second[name]) for name in first)
    return {
        **spread("fps", first["fps"], 1),
        **spread("updates_per_second", first["updates_per_second"], 1),
        "ratio": round(fps, 2),
        "updates_ratio": round(updates, 2),
        "processor_ratio": round(1 / spent, 2),
    }


def speed_table(content: dict[str, Any]) -> str:
    """In Markdown."""
    titles = ["training", "N", "frames/s", "updates/s"]
    titles += [f"frames/s, times {TITLE}", f"updates/s, times {TITLE}"]
    names = {
        PEER: f"{TITLE}, MADDPG",
        PEER_WITHOUT_NORM: f"{TITLE}, MADDPG without LayerNorm",
        **{name: title for name, (title, *_) in ALGORITHMS.items()},
    }
    rows = []
    for n_agents, turns in content["turns"].items():
        for name in turns:
            found = compare(turns[name], turns[PEER])
            cells = [names[name], n_agents]
            for kind in ("fps", "updates_per_second"):
                middle, least, most = (found[f"{kind}{end}"] for end in ("", "_min", "_max"))
                cells.append(f"{middle:,.0f} [{least:,.0f}, {most:,.0f}]")
            ratios = [f"{found[ratio]:.2f}" for ratio in ("ratio", "updates_ratio")]
            rows.append([*cells, *(["1", "1"] if name == PEER else ratios)])
    return table(titles, rows)


def note(content: dict[str, Any]) -> str:
    """How the table came about, in words."""
    work, machine, versions = content["work"], content["machine"], content["versions"]
    ours, theirs = versions["ours"], versions[PEER]
    threads = f"{machine['threads']} thread" + "s" * (machine["threads"] != 1)
    return (
        f"Median [least, largest] of {content['turns_of_each']} iterations of each, in turns: "
        f"{work['frames']:,} frames of simple_spread in {work['num_envs']} environments, then "
        f"{work['updates']} updates of {work['batch_size']:,} transitions, N actors and N critics "
        f"with hidden layers of {' and '.join(map(str, work['num_cells']))} and LayerNorm. "
        f"Made by `python benchmarks/throughput.py`: torch {ours['torch']}, torchrl {ours['torchrl']} here, "
        f"{theirs['torchrl']} under {TITLE} {theirs['benchmarl']}, Python {ours['python']}, "
        f"{machine['cores']} {machine['processor']} cores, {threads}, "
        f"{machine['gpu'] or 'no GPU'}. Raw figures of each iteration: "
        f"benchmarks/results/throughput.json."
    )


def report(content: dict[str, Any]) -> None:
    """Write the table into its page."""
    text = f"{speed_table(content)}\n\n{note(content)}"
    write_between(ROOT / "docs" / "speed.md", "speed table", text)


def main(config: Config) -> None:
    """Measure, write the results and report."""
    if not config.report_only:
        python = peer_python(config.peer_venv, requirements())
        settings = asdict(config) | {"peer_venv": str(config.peer_venv)}
        content = circumstances("throughput.py", **settings)
        content |= {"work": WORK, "turns_of_each": config.turns, "turns": {}}
        for n_agents in config.n_agents:
            versions, content["turns"][n_agents] = measure(n_agents, config, python)
        content["versions"] = {"ours": versions["maddpg"], PEER: versions[PEER]}
        content["machine"] |= {"threads": config.threads, "gpu": versions["maddpg"]["gpu"]}
        RESULT.write_text(json.dumps(content, indent=1) + "\n")
    report(json.loads(RESULT.read_text()))


if __name__ == "__main__":
    main(tyro.cli(Config))
