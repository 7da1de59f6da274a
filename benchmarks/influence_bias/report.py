"""The page: its tables and its figure, from the runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from benchmarks.influence_bias.games import PARTS
from benchmarks.influence_bias.settings import ON_GAMES
from benchmarks.pages import FIGURES, ROOT, made_by, read_lines, table, write_between
from torchrl_alita.experiments import estimate

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
    """Interquartile mean with its interval, or each run of few, in percent."""
    found = estimate([100 * number for number in numbers])
    if found.center is None:
        return ", ".join(f"{point:+.1f} %" for point in found.points)
    return f"{found.center:+.1f} % [{found.low:+.1f}, {found.high:+.1f}]"


def games_table(runs: Sequence[Run], costs: dict[str, float]) -> str:
    """Bias of F."""
    rows = [
        [
            f"`{name}`",
            percent(values(runs, name, "current", "relative_error")),
            f"{100 * mean(values(runs, name, 'current', 'relative_error', last=False)):+.1f} %",
            percent(values(runs, name, "next", "relative_error")),
            f"{costs[name]:.0f} %" if name in costs else "",
        ]
        for name in names(runs)
    ]
    titles = ("estimator", "bias, Eq. 4", "while learning", "bias, Eq. 7", "cost of an update")
    return table(titles, rows)


def parts_table(runs: Sequence[Run]) -> str:
    """Where it comes from: mean and mean size."""

    def cell(name: str, part: str, place: str = "current") -> str:
        found = [100 * value for value in values(runs, name, place, part)]
        return f"{mean(found):+.1f} % ({mean(map(abs, found)):.1f} %)"

    def size_while_learning(name: str) -> str:
        found = values(runs, name, "current", "estimator", last=False)
        return f"{100 * mean(map(abs, found)):.1f} %"

    rows = [
        [
            f"`{name}`",
            cell(name, "critic"),
            cell(name, "estimator"),
            size_while_learning(name),
            cell(name, "variance"),
            cell(name, "off_policy", "next"),
        ]
        for name in names(runs)
    ]
    titles = ("estimator", "critics", "own training", "size while learning", "one draw",
              "off policy, Eq. 7 only")  # fmt: skip
    return table(titles, rows)


def spread_table(runs: Sequence[Run], costs: dict[str, float]) -> str:
    """Bias of the values and of F."""
    rows = [
        [
            f"`{name}`",
            *(
                f"{100 * mean(values(runs, name, key)):{sign}.1f} %"
                for key, sign in (("value_relative_bias", "+"), ("value_relative_std", ""))
            ),
            percent(values(runs, name, "relative_error")),
            f"{costs[name]:.0f} %",
        ]
        for name in names(runs)
    ]
    titles = ("estimator", "bias of the values", "spread of the values", "bias of F",
              "cost of an update")  # fmt: skip
    return table(titles, rows)


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
    """Interquartile mean over the runs and its interval, or the line of each run of few."""
    episodes = [point["episodes"] for point in runs[0]["points"]]
    columns = zip(*([read(point) for point in run["points"]] for run in runs), strict=True)
    found = list(map(estimate, columns))
    if found[0].center is not None:
        (line,) = axes.plot(episodes, [e.center for e in found], marker=".", label=label, **style)
        low, high = [e.low for e in found], [e.high for e in found]
        axes.fill_between(episodes, low, high, color=line.get_color(), alpha=0.06)
    else:
        for number, line in enumerate(zip(*(e.points for e in found), strict=True)):
            axes.plot(episodes, line, marker=".", label=None if number else label, **style)
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
    figure.savefig(FIGURES / "influence_bias.png", dpi=110)


def draw_games(axes: Sequence[Axes], runs: Sequence[Run]) -> None:
    for place, title, panel in (("current", "Eq. 4", axes[0]), ("next", "Eq. 7", axes[1])):
        for name, estimator in ON_GAMES.items():
            read = lambda p, n=name, at=place: 100 * p["estimators"][n][at]["relative_error"]  # noqa: E731
            style = {"all": "--", "uniform": ":"}.get(name.split("_")[-1], "-")
            curve(panel, runs, read, name, linestyle=style, color=COLORS[estimator.kind])
        panel.axhline(0, color="gray", linewidth=0.8)
        panel.set_title(f"random games, {title}: bias of F, % of the exact F")
    axes[0].legend(frameon=False, fontsize=7)
    left = [0.0] * len(names(runs))
    for part in PARTS[:3]:
        sizes = [mean(map(abs, values(runs, name, "current", part))) for name in names(runs)]
        width = [100 * size for size in sizes]
        axes[2].barh(names(runs), width, left=left, label=part)
        left = [a + b for a, b in zip(left, width, strict=True)]
    axes[2].invert_yaxis()
    axes[2].set_title("mean size of its parts, Eq. 4, % of F")
    axes[2].legend(frameon=False, fontsize=7)


def draw_spread(axes: Sequence[Axes], runs: Sequence[Run], costs: dict[str, float]) -> None:
    for panel, key, factor in ((axes[0], "estimate", 1), (axes[1], "value_relative_bias", 100)):
        for name in names(runs):
            read = lambda p, n=name, k=key, f=factor: f * p["estimators"][n][k]  # noqa: E731
            curve(panel, runs, read, name, color=COLORS[name])
    first = names(runs)[0]
    truth = lambda point: point["estimators"][first]["truth"]  # noqa: E731
    curve(axes[0], runs, truth, "Monte Carlo truth", color="black", linestyle="--")
    axes[0].set_title("vmas/spread, N=6: F")
    axes[0].set_yscale("log")
    axes[0].legend(frameon=False, fontsize=7)
    axes[1].axhline(0, color="gray", linewidth=0.8)
    axes[1].set_title("bias of the influenced values, % of the true ones")
    axes[2].barh(names(runs), [costs[name] for name in names(runs)])
    axes[2].invert_yaxis()
    axes[2].set_title("cost of an update, % of MADDPG's")
