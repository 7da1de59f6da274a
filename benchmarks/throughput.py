"""Speed of training against BenchMARL's MADDPG, on the same work and the same machine.

    python benchmarks/throughput.py                # N=3 and 6; write the results and the table
    python benchmarks/throughput.py --report-only  # the table, from the results

The peer is installed once, into a virtual environment of its own, with our torch and VMAS and the
TorchRL that it asks for. Each contender is a process that runs its library's own training loop.
They take turns, one iteration each, so that a change of the machine's load meets all of them; the
first two iterations do not count: they hold imports and compilation.

BenchMARL runs with LayerNorm, share_policy_params=False and share_param_critic=False, which are not
its defaults, so that both train the same networks; without LayerNorm it has less work than ours.
Evaluations, checkpoints and loggers are off. Both sides have the same threads and allocator.

frames/s is over the whole iteration; updates/s from the end of its first update to the end of its
last, sampling included. A ratio is ours over the peer's: above 1 we are faster.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pages
import torch
import tyro
from pages import ROOT, Measurement, made_by, table
from peer import TITLE, peer_python, requirements
from timing import ALGORITHMS, WORK, Contender, measured_in_turns

WORKER = Path(__file__).with_name("throughput_worker.py")
PEER, PEER_WITHOUT_NORM = "peer", "peer_without_norm"
TITLES = {
    PEER: f"{TITLE}, MADDPG",
    PEER_WITHOUT_NORM: f"{TITLE}, MADDPG without LayerNorm",
    **{name: title for name, (title, *_) in ALGORITHMS.items()},
}

Turn = dict[str, float]


@dataclass(kw_only=True)
class Config(pages.Config):
    """What to measure."""

    peer_venv: Path = ROOT / ".venv-benchmarl"
    """Virtual environment of the peer, made if it is missing."""
    n_agents: tuple[int, ...] = (3, 6)
    """Team sizes."""
    turns: int = 7
    """Iterations of each contender that count."""
    threads: int = torch.get_num_threads()
    """Of torch, on both sides."""


def start(name: str, n_agents: int, config: Config, python: Path, folder: Path) -> Contender:
    """The peer, or one of ours."""
    ours = name in ALGORITHMS
    work = {
        **WORK,
        "layer_norm": name != PEER_WITHOUT_NORM,
        "side": "ours" if ours else "benchmarl",
        "n_agents": n_agents,
        "device": "cpu",
        "threads": config.threads,
        "folder": str(folder / name),
    }
    if ours:
        # Nothing said: updates are compiled where that pays.
        work |= {"algorithm": name, "compile": None}
    else:
        Path(work["folder"]).mkdir()
    return Contender(
        f"{name}, N={n_agents},",
        [str(sys.executable if ours else python), str(WORKER), json.dumps(work)],
        folder / f"{name}.errors",
        OMP_NUM_THREADS=str(config.threads),
        PYTHONPATH=str(ROOT) if ours else None,
    )


def measure_team(
    n_agents: int, config: Config, python: Path
) -> tuple[dict[str, dict], dict[str, list[Turn]]]:
    """Versions and turns of every contender."""
    return measured_in_turns(
        TITLES,
        lambda name, folder: start(name, n_agents, config, python, folder),
        config.turns,
        warm_up=2,
        say=lambda text: print(f"N={n_agents}, {text}", file=sys.stderr, flush=True),
    )


def measure(config: Config) -> dict[str, Any]:
    """Turns of every team size, and what both sides run with."""
    python = peer_python(config.peer_venv, requirements())
    turns = {}
    for n_agents in config.n_agents:
        versions, turns[n_agents] = measure_team(n_agents, config, python)
    return {
        "work": WORK,
        "turns_of_each": config.turns,
        "turns": turns,
        "versions": {"ours": versions["maddpg"], PEER: versions[PEER]},
    }


def speeds(turns: Sequence[Turn]) -> list[list[float]]:
    """Frames and updates a second, of each turn."""
    return [
        [WORK["frames"] / turn["seconds"] for turn in turns],
        [1 / turn["seconds_between_updates"] for turn in turns],
    ]


def speed_table(content: dict[str, Any]) -> str:
    """Medians and ends, and the ratios of the medians to the peer's: above 1 ours is faster."""
    titles = ["training", "N", "frames/s", "updates/s"]
    titles += [f"frames/s, times {TITLE}", f"updates/s, times {TITLE}"]
    rows = []
    for n_agents, turns in content["turns"].items():
        peers = [median(values) for values in speeds(turns[PEER])]
        for name, own in turns.items():
            found = speeds(own)
            cells = [f"{median(v):,.0f} [{min(v):,.0f}, {max(v):,.0f}]" for v in found]
            ratios = [f"{median(v) / peer:.2f}" for v, peer in zip(found, peers, strict=True)]
            rows.append([TITLES[name], n_agents, *cells, *(["1", "1"] if name == PEER else ratios)])
    return table(titles, rows)


def texts(content: dict[str, Any]) -> dict[str, str]:
    """The table, and how it came about."""
    work, versions = content["work"], content["versions"]
    ours = content | {"machine": content["machine"] | versions["ours"]}
    note = (
        f"Median [least, largest] of {content['turns_of_each']} iterations of each, in turns: "
        f"{work['frames']:,} frames of simple_spread in {work['num_envs']} environments, then "
        f"{work['updates']} updates of {work['batch_size']:,} transitions, N actors and N critics "
        f"with hidden layers of {' and '.join(map(str, work['num_cells']))} and LayerNorm. "
        f"Made by {made_by(ours, 'python benchmarks/throughput.py')}; {TITLE} "
        f"{versions[PEER]['benchmarl']} has torchrl {versions[PEER]['torchrl']}. Raw figures of "
        f"each iteration: benchmarks/results/throughput.json."
    )
    return {"speed table": f"{speed_table(content)}\n\n{note}"}


MEASUREMENT = Measurement("throughput", measure, texts)

if __name__ == "__main__":
    MEASUREMENT.run(tyro.cli(Config))
