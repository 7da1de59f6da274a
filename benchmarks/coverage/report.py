"""The page: its table, what it claims, and its picture, from the cells."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.coverage.learner import num_steps
from benchmarks.coverage.measure import MARKS, exact, random_share, summary
from benchmarks.coverage.methods import METHODS
from benchmarks.pages import FIGURES, ROOT, made_by, read_lines, table, write_between

RESULT = Path(__file__).with_name("results.jsonl")
PAGE = ROOT / "docs" / "coverage.md"

# What ``exact`` says, and the summaries of the methods by name.
Game = tuple[dict[str, float], dict[str, dict[str, Any]]]


def read_games() -> dict[int, dict[str, dict[str, Any]]]:
    """The raw cells by number of agents and method.

    Raises:
        ValueError: if there is none.
    """
    lines = read_lines(RESULT).values()
    games: dict[int, dict[str, dict[str, Any]]] = {}
    for line in sorted(lines, key=lambda line: line["num_agents"]):
        games.setdefault(line["num_agents"], {})[line["method"]] = line
    if not games:
        raise ValueError(f"There is no cell in {RESULT}.")
    return games


def against_random(game: Game, name: str, mark: str) -> int:
    """Whether a method's whole interval lies above, 1, or below, -1, exact random play."""
    low, high = game[1][name][mark]["interval"]
    expected = game[0][mark]
    return (low > expected) - (high < expected)


def agrees(game: Game, name: str) -> bool:
    """M * H_M lies in the measured interval."""
    return against_random(game, name, "full_cover_steps") == 0


def never_above(game: Game, name: str) -> bool:
    """Above random play neither after M nor after M ln M steps."""
    return all(against_random(game, name, mark) < 1 for mark in MARKS)


def always_above(game: Game, name: str) -> bool:
    """Above random play both after M and after M ln M steps."""
    return all(against_random(game, name, mark) == 1 for mark in MARKS)


def covers_less(game: Game, name: str, other: str) -> bool:
    """The interval of one method lies below that of another, after M ln M steps."""
    first, second = (game[1][which]["share_at_m_ln_m"]["interval"] for which in (name, other))
    return first[1] < second[0]


def less(figure: str, game: Game, name: str, other: str) -> bool:
    """A figure of one method is below that of another."""
    return game[1][name][figure] < game[1][other][figure]


tells_less, more_certain = partial(less, "contrast"), partial(less, "teammates_entropy")


Claim = tuple[str, Callable[..., bool], tuple[str, ...]]
# To beat random play is to lie above it with the whole interval, after M and after M ln M steps; a
# claim that a method does not is refuted by either.
CLAIMS: list[Claim] = [
    ("Random play needs M * H_M steps", agrees, ("random",)),
    ("ALITA's novelty with diversity does not beat random play", never_above, ("alita",)),
    ("ALITA.update with the same bonus does not beat random play", never_above,
     ("alita_networks",)),
    ("ALITA.update without any bonus does not either: the bonus is not shown to be the cause",
     never_above, ("nothing_networks",)),
    ("ALITA with exact counts for psi does not beat random play", never_above, ("alita_count",)),
    ("Cause 1: its psi tells new joint actions from old ones less than a joint psi does",
     tells_less, ("alita", "joint")),
    ("Cause 2: its penalty makes the teammates predictable", more_certain,
     ("alita", "alita_no_penalty")),
    ("Without the penalty the team covers more than with it", covers_less,
     ("alita", "alita_no_penalty")),
    ("The penalty reversed does not beat random play", never_above, ("alita_reversed",)),
    ("A joint psi in Eq. 11 does not beat random play", never_above, ("alita_joint",)),
    ("A joint psi with the penalty reversed does not beat random play", never_above,
     ("alita_joint_reversed",)),
    ("A joint count for psi in Eq. 11 does not beat random play", never_above,
     ("alita_joint_count",)),
    ("ALITA in turns does not beat random play", never_above, ("alita_turns",)),
    ("Independent novelty does not beat random play", never_above, ("independent",)),
    ("Joint novelty paid to all agents, in turns, beats random play", always_above,
     ("joint_turns",)),
    ("RND of the joint action, in turns, beats random play", always_above, ("rnd_turns",)),
    ("The joint count, in turns, beats random play", always_above, ("count_turns",)),
    ("The joint count covers less if all agents move at once, by the same learner", covers_less,
     ("count_sharp", "count_turns")),
    ("Joint novelty covers less with 1 update of its autoencoder a step than with 8", covers_less,
     ("joint_one_update", "joint")),
    ("A joint count that values what was never visited at 0 does not beat random play",
     never_above, ("count_visited_only",)),
]  # fmt: skip


def finding(claim: Claim, games: dict[int, Game]) -> list[str]:
    """A claim, and the numbers of agents for which it holds and fails, where it was measured."""
    text, holds, names = claim
    found: dict[bool, list[str]] = {True: [], False: []}
    for num_agents, game in games.items():
        if set(names) <= set(game[1]):
            found[holds(game, *names)].append(str(num_agents))
    return [text, ", ".join(found[True]) or "none", ", ".join(found[False])]


def page_table(games: dict[int, Game]) -> str:
    """Share covered after M ln M steps with its interval, a column for each game."""
    mark = "share_at_m_ln_m"
    rows = [["random, exact", *(f"{known[mark]:.3f}" for known, _ in games.values())]]
    for name, method in METHODS.items():
        cells = []
        for _, found in games.values():
            if name not in found:
                cells.append("")
                continue
            low, high = found[name][mark]["interval"]
            cells.append(f"{found[name][mark]['mean']:.3f} [{low:.3f}, {high:.3f}]")
        rows.append([method.title, *cells])
    titles = [f"L=3, n={num_agents}" for num_agents in games]
    return table(["joint actions covered after M ln M steps", *titles], rows)


DRAWN = (
    "independent", "rnd", "alita", "alita_networks", "alita_reversed", "joint", "joint_turns",
    "count_turns",
)  # fmt: skip


def draw(raw: dict[int, dict[str, dict[str, Any]]]) -> None:
    """Covered share against steps / M in each game, beside random play's exact curve."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(raw), 3.8), layout="constrained")
    all_axes = figure.subplots(1, len(raw), squeeze=False)[0]
    for axes, (num_agents, cells) in zip(all_axes, raw.items(), strict=True):
        num_joint = 3**num_agents
        steps = range(1, num_steps(num_joint) + 1)
        scaled = [step / num_joint for step in steps]
        known = [random_share(step, num_joint) for step in steps]
        axes.plot(scaled, known, "--", color="black", label="random, exact")
        limit = [min(1, step) for step in scaled]
        axes.plot(scaled, limit, ":", color="black", label="schedule, the limit")
        for index, name in enumerate(DRAWN):
            if name in cells:
                curve = cells[name]["curve"]
                at = [step / num_joint for step in curve["steps"]]
                axes.plot(at, curve["share"], color=f"C{index}", label=METHODS[name].title)
        axes.set_title(f"L=3, n={num_agents}, M={num_joint}")
        axes.set_xlabel("steps / M")
        axes.spines[["top", "right"]].set_visible(False)
    all_axes[0].set_ylabel("share of joint actions visited")
    handles, labels = all_axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(FIGURES / "coverage.png", dpi=110)


def report() -> None:
    """Write the page and its picture from the cells that are there."""
    raw = read_games()
    games = {
        num_agents: (exact(num_agents, 3), {name: summary(one) for name, one in cells.items()})
        for num_agents, cells in raw.items()
    }
    first = next(iter(next(iter(raw.values())).values()))
    findings = table(
        ["finding", "holds for n", "fails for n"], [finding(claim, games) for claim in CLAIMS]
    )
    note = (
        "Interval: 95 %, percentile bootstrap of the mean over repetitions. Made by "
        f"{made_by(first, 'python -m benchmarks.coverage')}. Shares after M and after M ln M "
        "steps, entropies and steps to full cover: benchmarks/coverage/results.jsonl."
    )
    draw(raw)
    write_between(PAGE, "coverage", "\n\n".join([page_table(games), findings, note]))
