"""How well BenchMARL's teams play after the same time, on the states of our own evaluations.

    python benchmarks/peer_quality.py           # the table and the picture, from the results
    python benchmarks/peer_quality.py --train   # make the runs that are missing first

MADDPG, IDDPG, IPPO and MAPPO of BenchMARL learn cooperative navigation (VMAS simple_spread, three
agents, episodes of 100 steps), each with BenchMARL's defaults and with settings that were chosen
among four trials of 30 seconds on another seed, by the score at their end. A run ends after 120
processor seconds of training or one million environment steps. It is one process with one thread;
evaluations and imports do not count. Interrupted series go on with the run that was not finished.

The peer is installed once, into a virtual environment of its own. It plays its greedy episodes
from the initial states of the package's evaluations, and the package computes the figures of
merit: both see the same random team, which is checked in every run. A run whose weights are no
longer finite ends there, and has no figures at its end.

Rows are those of the other studies; a processor second of training is a metric of the curve.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from pages import FIGURES, RESULTS, ROOT, table, write_between
from peer import TITLE, peer_python, requirements
from tensordict import TensorDict

from torchrl_alita.envs import get_task
from torchrl_alita.experiments import (
    RETURN,
    Column,
    Row,
    append_row,
    normalized_score,
    read_rows,
    results_table,
    versions_text,
)
from torchrl_alita.experiments.pictures import colors
from torchrl_alita.experiments.tables import by_variant
from torchrl_alita.saving import machine

STUDY, TRIALS = "peer_quality", "peer_quality_trials"
WORKER = Path(__file__).with_name("peer_quality_worker.py")
RESULT = RESULTS / "peer_quality.jsonl"
# Ours: a variant of a study, and its name here.
OURS = {
    "navigation": ("MAPPO, goal attention", "ours: MAPPO"),
    "navigation_off_policy": ("MADDPG", "ours: MADDPG"),
}
PAGE = ROOT / "docs" / "navigation.md"
PICTURE = FIGURES / "peer_quality.png"
TASK = get_task("vmas/spread")
SECONDS = "training/processor_seconds"
FINITE = "training/finite"
WORK = {
    "n_agents": 3,
    "horizon": 100,
    "episodes": 100,
    # That of the package's evaluations.
    "evaluation_seed": 1_000_003,
    "frames": 1_000_000,
    "limit": 120.0,
    "interval": 8.0,
}
TRIAL_SEED, TRIAL_LIMIT = 100, 30.0
ERROR_LINES = 30
# How far the peer's random team may be from ours, and an evaluation behind its time.
CLOSE, MARGIN = 1e-3, 0.05

_OFF_POLICY = {
    "lr": 1e-3,
    "gamma": 0.95,
    "polyak_tau": 0.05,
    "clip_grad_val": 0.5,
    "exploration_eps_init": 0.9,
    "exploration_eps_end": 0.1,
    "exploration_anneal_frames": 125_000,
    "off_policy_n_envs_per_worker": 100,
    "off_policy_collected_frames_per_batch": 1_000,
    "off_policy_n_optimizer_steps": 40,
    "off_policy_train_batch_size": 128,
    "off_policy_init_random_frames": 5_000,
}
_ON_POLICY = {
    "lr": 1e-3,
    "on_policy_n_envs_per_worker": 512,
    "on_policy_collected_frames_per_batch": 12_800,
    "on_policy_n_minibatch_iters": 6,
    "on_policy_minibatch_size": 1_600,
}
_SMALL = {"num_cells": (128, 128), "activation_class": "ReLU"}


@dataclass(frozen=True)
class Settings:
    """What differs from BenchMARL's defaults, by the part of its configuration."""

    experiment: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)


_OWN = {"share_policy_params": False}
_OWN_CRITIC = {"share_param_critic": False}
_TRIALS = {
    "off-policy": {
        "a network for each agent": Settings(_OFF_POLICY | _OWN, _OWN_CRITIC, _SMALL),
        "shared networks": Settings(_OFF_POLICY, {}, _SMALL),
        "gamma 0.9": Settings(_OFF_POLICY | _OWN | {"gamma": 0.9}, _OWN_CRITIC, _SMALL),
        "gamma 0.98": Settings(_OFF_POLICY | _OWN | {"gamma": 0.98}, _OWN_CRITIC, _SMALL),
    },
    "on-policy": {
        "TanhNormal": Settings(_ON_POLICY, {}, _SMALL),
        "Normal": Settings(_ON_POLICY, {"use_tanh_normal": False}, _SMALL),
        "gamma 0.9": Settings(_ON_POLICY | {"gamma": 0.9}, {}, _SMALL),
        "gamma 0.8": Settings(_ON_POLICY | {"gamma": 0.8}, {}, _SMALL),
    },
}
ALGORITHMS = {
    "maddpg": _TRIALS["off-policy"],
    "iddpg": _TRIALS["off-policy"],
    "mappo": _TRIALS["on-policy"],
    "ippo": _TRIALS["on-policy"],
}


@dataclass(frozen=True)
class Run:
    """One run of the peer."""

    study: str
    variant: str
    algorithm: str
    settings: Settings
    seed: int
    limit: float


@dataclass(frozen=True)
class Config:
    """What to train."""

    train: bool = False
    """Make the runs that are missing before the report."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Of the runs."""
    peer_venv: Path = ROOT / ".venv-benchmarl"
    """Virtual environment of the peer, made if it is missing."""


def score(value: float) -> float:
    """Of a return, between the random team, 0, and the script, 1."""
    return normalized_score(value, floor=TASK.floor, ceiling=TASK.ceiling)


def trials() -> list[Run]:
    """Four of each algorithm."""
    return [
        Run(TRIALS, f"{TITLE} {name.upper()}, {title}", name, settings, TRIAL_SEED,
            TRIAL_LIMIT)
        for name, own in ALGORITHMS.items()
        for title, settings in own.items()
    ]  # fmt: skip


def chosen(name: str, rows: Iterable[Row]) -> tuple[str, Settings]:
    """The trial of an algorithm with the best score at its end; one that was lost has none.

    Raises:
        ValueError: if a trial is missing.
    """
    final = {row.variant: row.final.get(RETURN) for row in rows}
    own = [trial for trial in trials() if trial.algorithm == name]
    if missing := [trial.variant for trial in own if trial.variant not in final]:
        raise ValueError(f"These trials are missing: {missing}.")
    values = {trial.variant: final[trial.variant] for trial in own}
    ranks = {k: -math.inf if value is None else value for k, value in values.items()}
    best = max(own, key=lambda trial: ranks[trial.variant])
    return best.variant.rpartition(", ")[2], best.settings


def runs(trial_rows: Sequence[Row], seeds: Sequence[int]) -> list[Run]:
    """All that the study consists of, one seed after the other."""
    return [
        Run(STUDY, f"{TITLE} {name.upper()}, {title}", name, settings, seed, WORK["limit"])
        for seed in seeds
        for title in ("tuned", "defaults")
        for name in ALGORITHMS
        for settings in [chosen(name, trial_rows)[1] if title == "tuned" else Settings()]
    ]


def missing(wanted: Iterable[Run], rows: Iterable[Row]) -> list[Run]:
    """Runs that have no row."""
    known = {(row.variant, row.seed) for row in rows}
    return [run for run in wanted if (run.variant, run.seed) not in known]


def figures_of(episodes: Mapping[str, torch.Tensor]) -> dict[str, float | None]:
    """Figures of merit of episodes ``[B, T, ...]`` of full length; None where one is not finite."""
    size = episodes["reward"].shape[:2]
    after = TensorDict(
        {"agents": {name: episodes[name] for name in ("observation", "reward")}}, batch_size=size
    )
    values = {
        "return_mean": episodes["reward"].mean((-1, -2)).sum(1).mean(),
        **TASK.metrics(TensorDict({"next": after}, batch_size=size)),
    }
    found = {f"evaluation/{name}": float(value) for name, value in values.items()}
    return {name: value if math.isfinite(value) else None for name, value in found.items()}


def point(report: Mapping[str, Any]) -> dict[str, Any]:
    """One evaluation, as the curve of a row has it."""
    finite = report["episodes"] is not None
    metrics = figures_of(torch.load(report["episodes"])) if finite else {}
    return {
        "frames": report["frames"],
        "wall_seconds": report["wall_seconds"],
        "metrics": {**metrics, SECONDS: report["processor_seconds"], FINITE: float(finite)},
    }


def work_of(run: Run, folder: Path) -> dict[str, Any]:
    """What the worker is told."""
    parts = dataclasses.asdict(run.settings)
    return {
        **WORK,
        **parts,
        "limit": run.limit,
        "algorithm": run.algorithm,
        "seed": run.seed,
        "folder": str(folder),
    }


def row_of(run: Run, reports: Sequence[Mapping[str, Any]]) -> Row:
    """The row of a run, from what its worker has said.

    Raises:
        RuntimeError: if the worker's random team is not that of the package.
    """
    versions, random, *evaluations = reports
    random = figures_of(torch.load(random["random"]))
    if abs(random[RETURN] - TASK.floor) > abs(TASK.floor) * CLOSE:
        raise RuntimeError(
            f"The random team must have a return of {TASK.floor}, got {random[RETURN]}: the "
            f"peer's evaluations have other states."
        )
    curve = [point(report) for report in evaluations]
    own = machine()
    parts = dataclasses.asdict(run.settings)
    known = ("system", "processor", "cores", "gpu")
    return Row(
        study=run.study,
        variant=run.variant,
        task="vmas/spread",
        algorithm=f"benchmarl/{run.algorithm}",
        seed=run.seed,
        frames=curve[-1]["frames"],
        settings={f"{part}.{k}": value for part in parts for k, value in parts[part].items()},
        command=f"python benchmarks/peer_quality.py --train --seeds {run.seed}",
        commit=own["commit"],
        versions=versions,
        machine={**{name: own[name] for name in known}, "threads": 1},
        wall_seconds=curve[-1]["wall_seconds"],
        process_seconds=curve[-1]["metrics"][SECONDS],
        curve=curve,
        final=curve[-1]["metrics"],
        references={"random": random},
    )


def make(run: Run, python: Path) -> Row:
    """Train the peer in a process of its own.

    Raises:
        RuntimeError: if it has failed, with the last lines of its errors.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    environment.pop("PYTHONPATH", None)
    with tempfile.TemporaryDirectory() as folder:
        command = [str(python), str(WORKER), json.dumps(work_of(run, Path(folder)))]
        process = subprocess.run(command, env=environment, capture_output=True, text=True)
        reports = [json.loads(line) for line in process.stdout.splitlines()]
        if process.returncode:
            said = process.stderr.splitlines()[-ERROR_LINES:]
            ended = f"{run.variant}, seed {run.seed}, ended with {process.returncode}:"
            raise RuntimeError("\n".join([ended, *said]))
        return row_of(run, reports)


def rows_of(study: str) -> list[Row]:
    """Rows of the runs or of the trials; none where there is no file."""
    rows = read_rows(RESULT) if RESULT.exists() else []
    return [row for row in rows if row.study == study]


def complete(wanted: Iterable[Run], python: Path) -> None:
    """Make the runs that have no row, and add their rows."""
    for run in missing(wanted, [*rows_of(TRIALS), *rows_of(STUDY)]):
        row = make(run, python)
        append_row(RESULT, row)
        value = row.final.get(RETURN)
        said = "lost: its weights are not finite" if value is None else f"score {score(value):.2f}"
        print(
            f"{run.variant}, seed {run.seed}: {said}, {row.frames:,} frames, "
            f"{row.process_seconds:.0f} processor seconds",
            file=sys.stderr,
            flush=True,
        )


def train(config: Config) -> None:
    """Make what is missing: trials, and then the runs with their choice."""
    python = peer_python(config.peer_venv, requirements())
    complete(trials(), python)
    complete(runs(rows_of(TRIALS), config.seeds), python)


def curve(row: Row) -> list[tuple[int, float, float]]:
    """Frames, processor seconds and score of each evaluation.

    Of our own runs the seconds of the whole process are known; they are shared out over the
    frames.
    """
    whole = row.process_seconds / row.frames
    return [
        (point["frames"], metrics.get(SECONDS, whole * point["frames"]), score(metrics[RETURN]))
        for point in row.curve
        for metrics in [point["metrics"]]
        if metrics.get(RETURN) is not None
    ]


def lost(row: Row) -> bool:
    """Whether a run's weights have become NaN or infinite."""
    return row.final.get(FINITE) == 0.0


def score_after(seconds: float) -> Column:
    """Score of the last evaluation by then; a run that was lost has none from there on."""

    def value(row: Row) -> float | None:
        if lost(row) and row.process_seconds <= seconds:
            return None
        return [score for _, spent, score in curve(row) if spent <= seconds * (1 + MARGIN)][-1]

    return Column(f"score after {seconds:.0f} s", value)


def numbers_lost(rows: Sequence[Row]) -> str:
    """How many runs were lost, and after how many frames."""
    found = [f"{row.frames / 1000:.0f}k" for row in rows if lost(row)]
    return f"{len(found)} ({', '.join(found)})" if found else "0"


def draw(path: Path, rows: Sequence[Row]) -> None:
    """Score against processor seconds and against frames: all seeds, and their median."""
    figure = Figure(figsize=(9.5, 4.6), layout="constrained")
    variants = by_variant(rows)
    chosen = colors(list(variants))
    panels = {1: "processor seconds of training", 0: "environment steps"}
    for axes, (place, label) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for name, runs in variants.items():
            curves = [list(zip(*curve(row), strict=True)) for row in runs]
            for row, points in zip(runs, curves, strict=True):
                axes.plot(points[place], points[2], color=chosen[name], lw=0.6, alpha=0.4)
                if lost(row):
                    axes.plot(points[place][-1], points[2][-1], "x", color=chosen[name])
            # To where the first of them ends.
            grid = np.linspace(0, min(points[place][-1] for points in curves), 100)
            middle = np.median([np.interp(grid, points[place], points[2]) for points in curves], 0)
            style = "--" if name.endswith("defaults") else "-"
            axes.plot(grid, middle, style, color=chosen[name], lw=1.8, label=name)
        axes.set_xlabel(label, fontsize=8)
        axes.set_ylabel("score", fontsize=8)
        axes.set_ylim(-1.2, 1.05)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=7)
    figure.savefig(path, dpi=110)


def our_rows() -> list[Row]:
    """The rows of our own teams, from their studies."""
    return [
        dataclasses.replace(row, variant=title)
        for study, (variant, title) in OURS.items()
        for row in read_rows(RESULTS / f"{study}.jsonl")
        if row.variant == variant
    ]


def text(rows: Sequence[Row], ours: Sequence[Row], trial_rows: Sequence[Row]) -> str:
    """What there is: the runs beside ours, and the trials behind their settings."""
    parts = [*(runs_text(rows, ours) if rows else ()), *trials_text(trial_rows, ours)]
    return "\n\n".join(parts)


def runs_text(rows: Sequence[Row], ours: Sequence[Row]) -> tuple[str, ...]:
    """The table of the runs, what they were made with, and the picture."""
    columns = [
        Column("frames, thousands", lambda row: row.frames / 1000, 0),
        Column("processor seconds", lambda row: row.process_seconds, 0),
        *map(score_after, (30.0, 60.0, 120.0)),
        Column("lost to NaN", text=numbers_lost),
        Column("return", RETURN, 0),
    ]
    note = (
        f"Interquartile mean [95 % bootstrap interval] over the seeds; of fewer than five, each. "
        f"{made_with(rows[0], ours[0])}"
    )
    link = os.path.relpath(PICTURE, PAGE.parent)
    picture = f"![Score against time and frames]({link})"
    return table(*results_table([*ours, *rows], columns)), note, picture


def trials_text(rows: Sequence[Row], ours: Sequence[Row]) -> tuple[str, ...]:
    """The table of the trials, with our finished study beside them, and what was chosen."""
    if not rows:
        return ()
    first = score_after(TRIAL_LIMIT)
    beside = [row for row in ours if row.study == "navigation"]
    lines = [
        [row.variant, str(row.seed), f"{row.frames / 1000:.0f}", first.cell([row])] for row in rows
    ]
    lines += [
        [title, ", ".join(str(row.seed) for row in runs), "", first.cell(runs)]
        for title, runs in by_variant(beside).items()
    ]
    titles = ["trial", "seed", "frames, thousands", first.title]
    known = {row.variant for row in rows}
    settings = [
        f"{name.upper()}: {chosen(name, rows)[0]}"
        for name in ALGORITHMS
        if all(trial.variant in known for trial in trials() if trial.algorithm == name)
    ]
    note = f"Chosen: {'; '.join(settings)}. {made_with(rows[0], beside[0])}"
    return table(titles, lines), note


def made_with(row: Row, own: Row) -> str:
    """Command, versions and files, in words."""
    studies = " and ".join(f"{study}.jsonl" for study in OURS)
    return (
        f"Made by `python benchmarks/peer_quality.py --train`: {TITLE} "
        f"{row.versions['benchmarl']}, {versions_text(row)}; ours: {versions_text(own)}. "
        f"Raw rows: benchmarks/results/{RESULT.name}; ours: {studies}."
    )


def report() -> None:
    """Write the table and the picture."""
    rows, ours = sorted(rows_of(STUDY), key=_place), our_rows()
    if rows:
        draw(PICTURE, [*ours, *rows])
    write_between(PAGE, STUDY, text(rows, ours, rows_of(TRIALS)))


def _place(row: Row) -> tuple[bool, int]:
    """The tuned ones first, in the order of the algorithms."""
    name = row.algorithm.rpartition("/")[2]
    return row.variant.endswith("defaults"), list(ALGORITHMS).index(name)


if __name__ == "__main__":
    config = tyro.cli(Config)
    if config.train:
        train(config)
    report()
