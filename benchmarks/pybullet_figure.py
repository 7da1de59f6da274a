"""Figure 5 of the paper: returns on PyBullet's robots, over seeds, with outside checks.

    python benchmarks/pybullet_figure.py            # train what is missing, then report
    python benchmarks/pybullet_figure.py --tasks HopperBulletEnv-v0 --total-frames 300000
    python benchmarks/pybullet_figure.py --contenders TD3 "TD3, stable-baselines3"
    python benchmarks/pybullet_figure.py --report-only

Every 5,000 steps the mean return of 15 greedy episodes, as in the paper. Each run is a process
of its own and leaves one JSON in results/pybullet/ (its summary, its evaluations and its
command); an existing one is not run again, so that a broken series continues where it stopped.
The report writes results/pybullet_FRAMES.json and results/pybullet_FRAMES.png: above, the mean
over the seeds and a quarter of a standard deviation on each side, as in the paper; below, the
mean and its 95 % interval (Student's t). Tables and pictures of all budgets that are there stand
between the markers of docs/pybullet.md.

Source: Sec. 4.2 and Appendix C of https://arxiv.org/abs/2108.12581. The paper does not name the
five tasks; these are the ones that its settings point to.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import tyro
from runs import (
    RESULTS,
    ROOT,
    Job,
    results,
    slug,
    table,
    train_missing,
    versions,
    write_between,
)
from scipy.stats import t

TASKS = (
    "HalfCheetahBulletEnv-v0",
    "AntBulletEnv-v0",
    "HopperBulletEnv-v0",
    "Walker2DBulletEnv-v0",
    "HumanoidBulletEnv-v0",
)
_RECIPE, _OUTSIDE = ("recipes", "alita_pybullet.py"), ("benchmarks", "sb3_worker.py")
# Folder, script and options. The names of the outside checks end with their library.
CONTENDERS: dict[str, tuple[tuple[str, str], tuple[str, ...]]] = {
    "ALITA": (_RECIPE, ("--algorithm", "alita")),
    "ALITA, no F": (_RECIPE, ("--algorithm", "alita", "--influence-coeff", "0")),
    "ALITA, no IM": (
        _RECIPE,
        ("--algorithm", "alita", "--novelty-coeff", "0", "--diversity-coeff", "0"),
    ),
    "TD3": (_RECIPE, ("--algorithm", "td3")),
    "DDPG": (_RECIPE, ("--algorithm", "ddpg")),
    "SAC": (_RECIPE, ("--algorithm", "sac")),
    "PPO": (_RECIPE, ("--algorithm", "ppo")),
    "TAC": (_RECIPE, ("--algorithm", "tac")),
    "TD3, stable-baselines3": (_OUTSIDE, ("--algorithm", "td3")),
    "SAC, stable-baselines3": (_OUTSIDE, ("--algorithm", "sac")),
    "TRPO, sb3-contrib": (_OUTSIDE, ("--algorithm", "trpo")),
}
# Ours, and what it is checked against.
CHECKS = {"TD3": "TD3, stable-baselines3", "SAC": "SAC, stable-baselines3"}
_CURVES = ("evaluation/return_mean", "evaluation/episode_length")
# What a run is said to have reached: the mean over the evaluations in this last part of it.
LAST_PART = 0.1


@dataclass
class Config:
    """Which runs to make."""

    tasks: tuple[str, ...] = TASKS
    """Ids of PyBullet's environments, a panel for each."""
    contenders: tuple[str, ...] = tuple(CONTENDERS)
    """Curves."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of every curve (the paper: 10)."""
    total_frames: int = 1_000_000
    """Environment steps of a run (the paper: at least 1,000,000)."""
    evaluation_interval: int = 5_000
    """Environment steps between two evaluations."""
    evaluation_episodes: int = 15
    """Episodes of an evaluation."""
    workers: int = 2
    """Runs side by side, each with one thread."""
    report_only: bool = False
    """Train nothing, report what is there."""

    def __post_init__(self):
        unknown = [name for name in self.contenders if name not in CONTENDERS]
        if unknown:
            raise ValueError(f"Unknown contenders {unknown}. Known: {list(CONTENDERS)}.")


def short(env_id: str) -> str:
    """A task's name in a picture or a file."""
    return env_id.removesuffix("-v0").removesuffix("BulletEnv")


def job(contender: str, env_id: str, seed: int, config: Config) -> Job:
    """The run of one curve, task and seed."""
    (folder, script), options = CONTENDERS[contender]
    name = f"{short(env_id)}-{slug(contender)}-{config.total_frames}-seed{seed}.json"
    options = (
        *("--env", env_id, *options, "--seed", str(seed)),
        *("--total-frames", str(config.total_frames)),
        *("--evaluation-interval", str(config.evaluation_interval)),
        *("--evaluation-episodes", str(config.evaluation_episodes)),
    )
    return Job(contender, script, options, RESULTS / "pybullet" / name, _CURVES, folder)


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean, by Student's t; None of fewer than two values."""
    if len(values) < 2:
        return None
    quantile = float(t.ppf(0.975, len(values) - 1))
    half = quantile * stdev(values) / math.sqrt(len(values))
    return mean(values) - half, mean(values) + half


def quarter(values: Sequence[float]) -> tuple[float, float] | None:
    """A quarter of a standard deviation around the mean; None of fewer than two values."""
    if len(values) < 2:
        return None
    return mean(values) - stdev(values) / 4, mean(values) + stdev(values) / 4


def reached(run: dict[str, Any]) -> float:
    """Mean return of the evaluations in the last part of a run."""
    curve = run["curves"]["return_mean"]
    begin = (1 - LAST_PART) * curve[-1][0]
    return mean(value for frames, value in curve if frames >= begin)


def aligned(found: Sequence[dict[str, Any]]) -> dict[int, list[float]]:
    """Returns of all runs by frame, where all were evaluated."""
    curves = [dict(run["curves"]["return_mean"]) for run in found]
    return {
        frames: [curve[frames] for curve in curves]
        for frames in curves[0]
        if all(frames in curve for curve in curves)
    }


def check(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Whether our mean is within the interval of theirs, or above it.

    Args:
        ours: of each seed, what a run reached.
        theirs: likewise.
    """
    bounds = interval(theirs)
    return {
        "ours": mean(ours),
        "our_interval": interval(ours),
        "theirs": mean(theirs),
        "their_interval": bounds,
        "within_or_better": None if bounds is None else mean(ours) >= bounds[0],
    }


def gather(config: Config) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """What is there of this budget, by task and curve, whatever was trained last."""
    found = {}
    for env_id in dict.fromkeys((*TASKS, *config.tasks)):
        jobs = [job(name, env_id, seed, config) for name in CONTENDERS for seed in config.seeds]
        if runs := results(jobs):
            found[env_id] = runs
    if not found:
        raise FileNotFoundError(f"No result of {config.total_frames:,} frames in {RESULTS}.")
    return found


def aggregate(found: dict[str, dict[str, list[dict[str, Any]]]]) -> dict[str, Any]:
    """What the figure and the table show, as JSON."""
    content: dict[str, Any] = {}
    for env_id, runs in found.items():
        last = {name: [reached(run) for run in several] for name, several in runs.items()}
        content[env_id] = {
            "curves": {
                name: {
                    "seeds": [run["seed"] for run in several],
                    "reached": last[name],
                    "mean": mean(last[name]),
                    "interval": interval(last[name]),
                    "returns": [[frames, *values] for frames, values in aligned(several).items()],
                    "frames_per_second": [run["frames_per_second"] for run in several],
                }
                for name, several in runs.items()
            },
            "checks": {
                ours: check(last[ours], last[theirs])
                for ours, theirs in CHECKS.items()
                if ours in last and theirs in last
            },
        }
    return content


def draw(path: Path, content: dict[str, Any]) -> None:
    """A column for each task: the paper's bands above, 95 % intervals below."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    names = list(dict.fromkeys(name for task in content.values() for name in task["curves"]))
    colors = {name: f"C{number}" for number, name in enumerate(names)}
    figure = Figure(figsize=(3.6 * len(content), 6.4), layout="constrained")
    panels = figure.subplots(2, len(content), squeeze=False, sharex="col")
    bands = {"quarter of a standard deviation": quarter, "95 % interval": interval}
    for row, (title, band) in zip(panels, bands.items(), strict=True):
        for axes, (env_id, task) in zip(row, content.items(), strict=True):
            for name, curve in task["curves"].items():
                style = "--" if name.partition(", ")[2].startswith(("stable", "sb3")) else "-"
                _draw_curve(axes, name, curve["returns"], band, colors[name], style)
            axes.set_title(f"{short(env_id)}, {title}", fontsize=9)
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[-1]:
        axes.set_xlabel("environment frames")
    panels[0][0].set_ylabel("return")
    panels[0][0].legend(frameon=False, fontsize=7)
    figure.savefig(path, dpi=110)


def _draw_curve(
    axes: Any, name: str, returns: list[list[float]], band: Any, color: str, style: str
) -> None:
    frames = [row[0] for row in returns]
    axes.plot(frames, [mean(row[1:]) for row in returns], style, color=color, label=name, lw=1.2)
    ends = [band(row[1:]) for row in returns]
    if None not in ends:
        low, high = zip(*ends, strict=True)
        axes.fill_between(frames, low, high, color=color, alpha=0.15, linewidth=0)


def rows(content: dict[str, Any]) -> list[list[str]]:
    """A row for each task and curve."""
    text = []
    for env_id, task in content.items():
        for name, curve in task["curves"].items():
            bounds = curve["interval"]
            said = "" if bounds is None else f"[{bounds[0]:.0f}, {bounds[1]:.0f}]"
            seeds = str(len(curve["seeds"]))
            text.append([f"{short(env_id)}: {name}", seeds, f"{curve['mean']:.0f}", said])
    return text


def verdict(env_id: str, ours: str, outcome: dict[str, Any]) -> str:
    """How ours stands beside its outside check, in a sentence."""
    said = {
        True: "is within the 95 % interval of the other, or above it",
        False: "is below the 95 % interval of the other",
        None: "cannot be judged by a single seed",
    }[outcome["within_or_better"]]
    figures = f"{outcome['ours']:.0f} against {outcome['theirs']:.0f}"
    return f"{short(env_id)}, {ours} against {CHECKS[ours]}: {figures}, which {said}."


def section(content: dict[str, Any], picture: str) -> str:
    """Table, outside checks and picture of one budget."""
    frames = f"{content['total_frames']:,}"
    checks = [
        f"- {verdict(env_id, ours, outcome)}"
        for env_id, task in content["tasks"].items()
        for ours, outcome in task["checks"].items()
    ]
    note = (
        f"Return: {content['reached']}, {content['evaluation_episodes']} greedy episodes each; its "
        f"mean over the seeds with the 95 % interval of that mean (Student's t). Made by "
        f"`{content['command']}`: {versions(content['machine'])}."
    )
    titles = ["robot: curve", "seeds", "return", "95 % interval"]
    parts = [f"### {frames} frames", table(titles, rows(content["tasks"])), note, "\n".join(checks)]
    parts.append(f"![Returns over {frames} frames](../benchmarks/results/{picture})")
    return "\n\n".join(part for part in parts if part)


def command(found: dict[str, dict[str, list[dict[str, Any]]]], total_frames: int) -> str:
    """What trains these curves, and reports them."""
    words = ["python", "benchmarks/pybullet_figure.py", "--total-frames", str(total_frames)]
    contenders = {name for runs in found.values() for name in runs}
    if set(found) != set(TASKS):
        words += ["--tasks", *found]
    if contenders != set(CONTENDERS):
        words += ["--contenders", *(name for name in CONTENDERS if name in contenders)]
    return shlex.join(words)


def report(config: Config) -> None:
    """Aggregate, draw, and write the tables of all budgets that are there."""
    found = gather(config)
    any_run = next(iter(next(iter(found.values())).values()))[0]
    content = {
        "command": command(found, config.total_frames),
        "total_frames": config.total_frames,
        "evaluation_episodes": config.evaluation_episodes,
        "reached": f"mean over the evaluations in the last {LAST_PART:.0%} of a run",
        "machine": any_run["machine"],
        "tasks": aggregate(found),
    }
    path = RESULTS / f"pybullet_{config.total_frames}.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    draw(path.with_suffix(".png"), content["tasks"])
    written = {file: json.loads(file.read_text()) for file in RESULTS.glob("pybullet_*.json")}
    ordered = sorted(written.items(), key=lambda item: -item[1]["total_frames"])
    texts = [section(content, file.with_suffix(".png").name) for file, content in ordered]
    write_between(ROOT / "docs" / "pybullet.md", "pybullet", "\n\n".join(texts))


def main(config: Config) -> None:
    """Train what is missing, then report."""
    if not config.report_only:
        # A round of seeds at a time, so that an unfinished series is a balanced one.
        jobs = [
            job(contender, env_id, seed, config)
            for seed in config.seeds
            for env_id in config.tasks
            for contender in config.contenders
        ]
        train_missing(jobs, config.workers)
    report(config)


if __name__ == "__main__":
    main(tyro.cli(Config))
