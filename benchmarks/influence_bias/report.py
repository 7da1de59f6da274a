"""The page: its tables and its figure, from the runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from benchmarks.influence_bias.games import PARTS
from benchmarks.influence_bias.settings import ON_GAMES
from benchmarks.pages import FIGURES, ROOT, made_by, read_lines, table, write_between
from torchrl_alita.experiments import estimate
from torchrl_alita.experiments.pictures import plot_estimates

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RESULT = Path(__file__).with_name("results.jsonl")
PAGE = ROOT / "docs" / "influence.md"
COLORS = {"marginal": "#4477aa", "clones": "#ee6677", "centralized": "#228833"}

Run = dict[str, Any]


def load(part: str) -> list[Run]:
    """The committed runs of a part, by seed, each cut to the checkpoints that all have."""
    found = read_lines(RESULT).values()
    runs = sorted((run for run in found if run.get("part") == part), key=lambda run: run["seed"])
    common = min((len(run["points"]) for run in runs), default=0)
    return [{**run, "points": run["points"][:common]} for run in runs]


def names(runs: Sequence[Run]) -> list[str]:
    """Of the estimators."""
    return list(runs[0]["points"][-1]["estimators"])


def values(runs: Sequence[Run], *path: str, last: bool = True) -> list[float]:
    """A figure of an estimator at the last checkpoint of each run, or at all earlier ones."""

    def read(point: dict[str, Any]) -> float:
        found = point["estimators"]
        for name in path:
            found = found[name]
        return found

    points = (run["points"][-1:] if last else run["points"][:-1] for run in runs)
    return [read(point) for of_run in points for point in of_run]


def percent(numbers: Sequence[float]) -> str:
    """Interquartile mean with its interval, or each run of few."""
    return estimate([100 * number for number in numbers]).text(1)


def average(numbers: Iterable[float]) -> str:
    """Mean, in percent."""
    return f"{100 * mean(numbers):.1f}"


def size(numbers: Iterable[float]) -> str:
    """Mean size, in percent."""
    return average(map(abs, numbers))


def bias_table(runs: Sequence[Run], columns: dict[str, Callable[[str], str]]) -> str:
    """A line for each estimator; the cell of a column is a function of its name."""
    rows = [[f"`{name}`", *(cell(name) for cell in columns.values())] for name in names(runs)]
    return table(["estimator; figures in %", *columns], rows)


def games_table(runs: Sequence[Run], costs: dict[str, float]) -> str:
    """Bias of F."""
    of = partial(values, runs)
    columns = {
        "bias, Eq. 4": lambda name: percent(of(name, "current", "relative_error")),
        "while learning": lambda name: average(of(name, "current", "relative_error", last=False)),
        "bias, Eq. 7": lambda name: percent(of(name, "next", "relative_error")),
        "cost of an update": lambda name: f"{costs[name]:.0f}" if name in costs else "",
    }
    return bias_table(runs, columns)


def parts_table(runs: Sequence[Run]) -> str:
    """Where it comes from: mean and mean size."""

    def both(name: str, part: str, place: str = "current") -> str:
        found = values(runs, name, place, part)
        return f"{average(found)} ({size(found)})"

    def learning(name: str) -> str:
        return size(values(runs, name, "current", "estimator", last=False))

    columns = {
        "critics": lambda name: both(name, "critic"),
        "own training": lambda name: both(name, "estimator"),
        "size while learning": learning,
        "one draw": lambda name: both(name, "variance"),
        "off policy, Eq. 7 only": lambda name: both(name, "off_policy", "next"),
    }
    return bias_table(runs, columns)


def spread_table(runs: Sequence[Run], costs: dict[str, float]) -> str:
    """Bias of the values and of F."""
    of = partial(values, runs)
    columns = {
        "bias of the values": lambda name: average(of(name, "value_relative_bias")),
        "spread of the values": lambda name: average(of(name, "value_relative_std")),
        "bias of F": lambda name: percent(of(name, "relative_error")),
        "cost of an update": lambda name: f"{costs[name]:.0f}",
    }
    return bias_table(runs, columns)


def note(part: str, runs: Sequence[Run]) -> str:
    """What was run, from the runs themselves."""
    settings, last = runs[0]["settings"], runs[0]["points"][-1]
    updates = (last["episodes"] // settings["num_envs"] - settings["warmup"]) * settings["horizon"]
    if part == "games":
        what = (
            f"{len(runs)} random games of {settings['num_states']} states, "
            f"{settings['num_agents']} agents and {settings['num_actions']} actions, "
            f"gamma {settings['gamma']}; interquartile mean [95 % bootstrap interval] over the games"
        )
    else:
        what = (
            f"{len(runs)} runs with N={settings['num_agents']}; each truth is of "
            f"{settings['compared']:,} states with {2 + settings['num_optimum_samples']} first "
            f"actions each, episodes of {settings['truth_steps']} steps, gamma {settings['gamma']}"
        )
    return (
        f"{what}; {last['episodes']:,} episodes of {settings['horizon']} steps and {updates:,} "
        f"updates of {settings['batch_size']:,} transitions. Made by "
        f"{made_by(runs[0], 'python -m benchmarks.influence_bias')}. Each run with its settings: "
        f"benchmarks/influence_bias/results.jsonl."
    )


def report() -> None:
    """Write the figure and the tables of the page."""
    games, spread = load("games"), load("spread_full") or load("spread")
    if not (games and spread):
        raise ValueError(f"{RESULT} has no runs of both parts.")
    costs = read_lines(RESULT)["costs"]
    draw(games, spread, costs["spread"])
    for name, text in (
        ("games", f"{games_table(games, costs['games'])}\n\n{note('games', games)}"),
        ("parts", parts_table(games)),
        ("spread", f"{spread_table(spread, costs['spread'])}\n\n{note('spread', spread)}"),
    ):
        write_between(PAGE, f"influence bias, {name}", text)


def curve(
    axes: Axes, runs: Sequence[Run], read: Callable[[dict], float], label: str, **style
) -> None:
    """A figure of an estimator against the episodes."""
    points = zip(*(run["points"] for run in runs), strict=True)
    found = {of_runs[0]["episodes"]: estimate(list(map(read, of_runs))) for of_runs in points}
    plot_estimates(axes, found, band=0.06, label=label, marker=".", **style)
    axes.set_xlabel("episodes")


def draw(games: Sequence[Run], spread: Sequence[Run], costs: dict[str, float]) -> None:
    """Errors and their parts on the games; F, values and costs on spread."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 7.6), layout="constrained")
    axes = figure.subplots(2, 3)
    draw_games(axes[0], games)
    draw_spread(axes[1], spread, costs)
    for each in axes.flat:
        each.spines[["top", "right"]].set_visible(False)
    for each in (axes[0, 0], axes[0, 2], axes[1, 0]):
        each.legend(frameon=False, fontsize=7)
    for each in (axes[0, 0], axes[0, 1], axes[1, 1]):
        each.axhline(0, color="gray", linewidth=0.8)
    for each in axes[:, 2]:
        each.invert_yaxis()
    figure.savefig(FIGURES / "influence_bias.png", dpi=110)


def draw_games(axes: Sequence[Axes], runs: Sequence[Run]) -> None:
    for panel, place, title in ((axes[0], "current", "Eq. 4"), (axes[1], "next", "Eq. 7")):
        panel.set_title(f"random games, {title}: bias of F, % of the exact F")
        for name, estimator in ON_GAMES.items():
            style = {"all": "--", "uniform": ":"}.get(name.split("_")[-1], "-")

            def error(point: dict, name: str = name, place: str = place) -> float:
                return 100 * point["estimators"][name][place]["relative_error"]

            curve(panel, runs, error, name, linestyle=style, color=COLORS[estimator.kind])
    axes[2].set_title("mean size of its parts, Eq. 4, % of F")
    left = [0.0] * len(names(runs))
    for part in PARTS[:3]:
        found = [values(runs, name, "current", part) for name in names(runs)]
        width = [100 * mean(map(abs, of_runs)) for of_runs in found]
        axes[2].barh(names(runs), width, left=left, label=part)
        left = [a + b for a, b in zip(left, width, strict=True)]


def draw_spread(axes: Sequence[Axes], runs: Sequence[Run], costs: dict[str, float]) -> None:
    def read(name: str, key: str, factor: float, point: dict) -> float:
        return factor * point["estimators"][name][key]

    for panel, key, factor in ((axes[0], "estimate", 1), (axes[1], "value_relative_bias", 100)):
        for name in names(runs):
            curve(panel, runs, partial(read, name, key, factor), name, color=COLORS[name])
    truth = partial(read, names(runs)[0], "truth", 1)
    curve(axes[0], runs, truth, "Monte Carlo truth", color="black", linestyle="--")
    axes[0].set(title="vmas/spread, N=6: F", yscale="log")
    axes[1].set_title("bias of the influenced values, % of the true ones")
    axes[2].set_title("cost of an update, % of MADDPG's")
    axes[2].barh(names(runs), [costs[name] for name in names(runs)])
