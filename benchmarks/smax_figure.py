"""Figures 3 and 4 in SMAX's battles: win rates of ALITA, its ablations and the baselines.

    python benchmarks/smax_figure.py --map 2s3z           # train what is missing, report
    python benchmarks/smax_figure.py --map 5m_vs_6m --variants QMIX VDN --seeds 0 1
    python benchmarks/smax_figure.py --report-only        # report from the committed results

Each run is a process of its own and leaves one JSON in results/smax/; an existing one is
not run again. Two scripts that learn nothing are played beside them: each agent attacks the enemy
of the lowest, or of the highest, index in reach, and walks east while there is none. The report
writes results/smax.json, a picture for each map and the tables between the markers of
docs/starcraft.md.

Source: Sec. 4.1.1, Figures 3 and 4 of https://arxiv.org/abs/2108.12581, whose battles are
SMAC's, of 2 million steps; those of SMAX are others, and win rates cannot be compared.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median, quantiles

import torch
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
from tensordict import TensorDictBase
from torch.nn.functional import one_hot

from torchrl_alita.envs import make_env
from torchrl_alita.training import StarCraftConfig, evaluate, starcraft_task

NO_IM = ("--novelty-coeff", "0", "--diversity-coeff", "0")
# The paper's code of 3 numbers leaves a novelty that never vanishes.
WIDER_CODE = ("--autoencoder-cells", "128", "64", "32", "64", "128")
VARIANTS = {
    "ALITA": ("alita_smac.py",),
    "ALITA, no F": ("alita_smac.py", "--influence-coeff", "0"),
    "ALITA, no IM": ("alita_smac.py", *NO_IM),
    "ALITA, symmetric": ("alita_smac.py", "--influencers", "all"),
    "ALITA, wider code": ("alita_smac.py", *WIDER_CODE),
    "MADDPG": ("alita_smac.py", "--algorithm", "maddpg"),
    "QMIX": ("qmix_smac.py",),
    "VDN": ("qmix_smac.py", "--algorithm", "vdn"),
    "IQL": ("qmix_smac.py", "--algorithm", "iql"),
}
MAPS = ("2s3z", "5m_vs_6m")
WON = "win_rate"
RETURN = "return_mean"
# Of an evaluation, what is drawn: its name and its largest value.
SHOWN = {WON: ("battles won, greedy", 1), RETURN: ("return, greedy", 20)}
# In an evaluation.
BATTLES = 64
# The training loop's.
EVALUATION_SEED = 1_000_003
# Whether the enemy with the highest index is attacked, or that with the lowest.
SCRIPTS = {"a script: the first enemy in reach": False, "a script: the last enemy in reach": True}
SCRIPTS_PLAYED = "smax_scripts.json"
EAST, STOP, FIRST_ATTACK = 1, 4, 5


@dataclass
class Config:
    """Which runs to make."""

    map: str = "2s3z"
    """Map to train on."""
    variants: tuple[str, ...] = tuple(VARIANTS)
    """Rows of the table to train."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of every variant."""
    total_frames: int = 200_000
    """Environment steps of a run."""
    workers: int = 2
    """Runs side by side, each with one thread."""
    report_only: bool = False
    """Train nothing, report what is there."""


def job(map_name: str, variant: str, seed: int, frames: int) -> Job:
    """The run of one row and seed."""
    recipe, *own = VARIANTS[variant]
    options = (*own, "--map", map_name, "--seed", str(seed), "--total-frames", str(frames))
    options += ("--evaluation-interval", str(max(1_000, frames // 20)))
    options += ("--evaluation-episodes", str(BATTLES))
    name = f"{map_name}-{slug(variant)}-{frames}-seed{seed}.json"
    curves = (f"evaluation/{WON}", f"evaluation/{RETURN}", "training/reward_mean")
    curves += ("training/novelty", "training/saturated_share")
    return Job(variant, recipe, options, RESULTS / "smax" / name, curves)


def runs_there(map_name: str) -> dict[int, list[int]]:
    """Seeds of the runs that are there, by total frames, the largest first."""
    found: dict[int, set[int]] = {}
    for path in (RESULTS / "smax").glob(f"{map_name}-*-seed*.json"):
        *_, frames, seed = path.stem.split("-")
        found.setdefault(int(frames), set()).add(int(seed.removeprefix("seed")))
    return {frames: sorted(found[frames]) for frames in sorted(found, reverse=True)}


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile; of a single value, that value."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    lower, middle, upper = quantiles(values, n=4, method="inclusive")
    return lower, middle, upper


def middle(values: list[float], digits: int) -> str:
    """Median [quartiles]."""
    lower, _, upper = quartiles(values)
    return f"{median(values):.{digits}f} [{lower:.{digits}f}, {upper:.{digits}f}]"


def scripted(last: bool) -> Callable[[TensorDictBase], TensorDictBase]:
    """Attack the enemy of the lowest or highest index in reach, or walk east to meet them."""

    def act(tensordict: TensorDictBase) -> TensorDictBase:
        mask = tensordict["agents", "action_mask"]
        order = torch.arange(mask.shape[-1])
        preference = order if last else order.flip(0) + 1
        preference = preference.where(order >= FIRST_ATTACK, -2)
        # The dead can only stop.
        preference[EAST], preference[STOP] = 0, -1
        action = preference.masked_fill(~mask, -3).argmax(-1)
        return tensordict.set(("agents", "action"), one_hot(action, len(order)).float())

    return act


def play_scripts() -> None:
    """Evaluate the scripts on all maps as the runs are evaluated, unless they were."""
    path = RESULTS / SCRIPTS_PLAYED
    if path.exists():
        return
    content = {}
    for map_name in MAPS:
        config, task = starcraft_task(StarCraftConfig(map=map_name))
        env = make_env(task, num_envs=BATTLES, n_agents=config.n_agents, horizon=config.horizon)
        content[map_name] = {
            name: evaluate(
                scripted(last), env, task.metrics, horizon=config.horizon, seed=EVALUATION_SEED
            )[0]
            for name, last in SCRIPTS.items()
        }
    path.write_text(json.dumps(content, indent=1) + "\n")


def last_in_training(runs: list[dict], name: str, digits: int) -> str:
    """Median [quartiles] of what training logged at the end; nothing where it does not."""
    curves = [run["curves"].get(name) for run in runs]
    return "" if None in curves else middle([curve[-1][1] for curve in curves], digits)


def scripts_played(map_name: str) -> dict[str, dict[str, float]]:
    """Evaluations of the scripts on a map; none if they were not played."""
    path = RESULTS / SCRIPTS_PLAYED
    return json.loads(path.read_text())[map_name] if path.exists() else {}


def script_rows(map_name: str) -> list[tuple[str, str, str]]:
    """Of each script its name, the share of battles that it wins and its return."""
    played = scripts_played(map_name).items()
    return [(name, f"{r[WON]:.2f}", f"{r[RETURN]:.1f}") for name, r in played]


def draw(path, runs: dict[str, list[dict]], scripts: dict[str, dict], title: str) -> None:
    """Median win rate over the seeds, with the quartiles, as in the paper's figures; the return."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    panels = zip(figure.subplots(1, 2), SHOWN.items(), strict=True)
    for axes, (name, (label, limit)) in panels:
        for variant, found in runs.items():
            frames = [frame for frame, _ in found[0]["curves"][name]]
            curves = ([value for _, value in run["curves"][name]] for run in found)
            points = (quartiles(list(column)) for column in zip(*curves, strict=True))
            lower, middles, upper = zip(*points, strict=True)
            (line,) = axes.plot(frames, middles, label=f"{variant} ({len(found)})")
            axes.fill_between(frames, lower, upper, color=line.get_color(), alpha=0.15)
        for style, (script, played) in zip((":", "--"), scripts.items(), strict=False):
            options = {"linestyle": style, "color": "gray", "linewidth": 1, "label": script}
            axes.axhline(played[name], **options)
        axes.set_xlabel("environment frames")
        axes.set_ylabel(label)
        axes.set_ylim(0, limit)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right", frameon=False, fontsize=7)
    figure.savefig(path, dpi=110)


def section(map_name: str, frames: int, seeds: list[int]) -> tuple[str, dict]:
    """Table of one map and budget, and its numbers."""
    runs = results([job(map_name, variant, s, frames) for variant in VARIANTS for s in seeds])
    first = next(iter(runs.values()))[0]
    rows = [[name, "", won, "", paid, "", ""] for name, won, paid in script_rows(map_name)]
    rows += [
        [
            variant,
            str(len(found)),
            middle([run["evaluation"][WON] for run in found], 2),
            middle([max(value for _, value in run["curves"][WON]) for run in found], 2),
            middle([run["evaluation"][RETURN] for run in found], 1),
            last_in_training(found, "reward_mean", 3),
            last_in_training(found, "novelty", 1),
        ]
        for variant, found in runs.items()
    ]
    random_team = first["random_team"]
    played = [f"{random_team[WON]:.2f}", "", f"{random_team[RETURN]:.1f}"]
    plays = ["random play", "", *played, "", ""]
    titles = ["team", "seeds", "won at the end", "won at best", "return (at most 20)"]
    titles += ["reward of a step in training", "novelty of a step"]
    note = (
        f"Median [quartiles] over the seeds after {frames:,} frames, of {BATTLES} greedy battles from "
        f"the same starts. Made by `python benchmarks/smax_figure.py --map {map_name} "
        f"--total-frames {frames}`: {versions(first['machine'])}."
    )
    name = f"smax_{map_name}_{frames}.png"
    title = f"SMAX, {map_name}: median and quartiles (seeds)"
    draw(RESULTS / name, runs, scripts_played(map_name), title)
    numbers = {
        variant: {
            "seeds": len(found),
            WON: [run["evaluation"][WON] for run in found],
            RETURN: [run["evaluation"][RETURN] for run in found],
            "commands": [run["command"] for run in found],
        }
        for variant, found in runs.items()
    }
    text = "\n\n".join(
        [
            f"### {map_name}, {frames:,} frames",
            table(titles, [plays, *rows]),
            note,
            f"![Win rates and returns](../benchmarks/results/{name})",
        ]
    )
    return text, numbers


def report() -> None:
    """Write the tables, the pictures and the numbers of all that is there."""
    texts, numbers = [], {}
    for map_name in MAPS:
        for frames, seeds in runs_there(map_name).items():
            text, found = section(map_name, frames, seeds)
            texts.append(text)
            numbers[f"{map_name}, {frames} frames"] = found
    if not texts:
        return
    (RESULTS / "smax.json").write_text(json.dumps(numbers, indent=1) + "\n")
    write_between(ROOT / "docs" / "starcraft.md", "smax", "\n\n".join(texts))


def main() -> None:
    """Train what is missing and report."""
    config = tyro.cli(Config)
    if not config.report_only:
        # Seed by seed, so that a series that is stopped has all rows.
        jobs = [
            job(config.map, variant, seed, config.total_frames)
            for seed in config.seeds
            for variant in config.variants
        ]
        play_scripts()
        train_missing(jobs, config.workers)
    report()


if __name__ == "__main__":
    main()
