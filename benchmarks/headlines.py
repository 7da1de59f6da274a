"""The table of the README: what teams reach.

python benchmarks/headlines.py
"""

from __future__ import annotations

from dataclasses import dataclass

from pages import RESULTS, ROOT, table, write_between

from torchrl_alita.experiments import Column, Row, read_rows, score


@dataclass(frozen=True)
class Headline:
    """One metric of several teams on a task.

    Args:
        task: its name.
        column: the metric.
        page: where the whole study is.
        teams: what the table calls each, with its study and its variant.
    """

    task: str
    column: Column
    page: str
    teams: dict[str, tuple[str, str]]


SPARSE = {
    "joint DQN": ("sparse", "one network over joint actions"),
    "on-policy ALITA (ALITA-C)": ("sparse_onpolicy", "ALITA-C"),
    "on-policy ALITA, the paper's bonuses, two epochs": (
        "sparse_onpolicy",
        "ALITA, the paper's parts, two epochs",
    ),
}
HEADLINES = (
    Headline(
        "vmas/spread",
        Column("score: random team 0, script 1", score),
        "docs/navigation.md",
        {
            "MAPPO with `GoalAttention`": ("navigation", "MAPPO, goal attention"),
            "ALITA with `GoalAttention`": ("navigation_off_policy", "ALITA"),
            "MADDPG with `GoalAttention`": ("navigation_off_policy", "MADDPG"),
        },
    ),
    Headline(
        "smax/2s3z",
        Column("battles won", "evaluation/win_rate"),
        "docs/starcraft.md",
        {
            "MAPPO with a memory": ("smax", "MAPPO"),
            "QMIX": ("smax", "QMIX"),
            "MADDPG with a factored critic": ("smax", "MADDPG, factored critic"),
            "a script, nothing learned": ("smax", "a script: the last enemy in reach"),
        },
    ),
    Headline(
        "mpe/unpaid_speaker",
        Column("distance to the goal at the end", "evaluation/final_distance"),
        "docs/influence.md",
        {
            "ALITA, influence alone": ("unpaid_speaker", "ALITA, influence alone"),
            "MADDPG": ("unpaid_speaker", "MADDPG"),
        },
    ),
    Headline(
        "push_box",
        Column("boxes an episode: optimum 23.9", "evaluation/boxes_per_episode", 1),
        "docs/sparse.md",
        SPARSE,
    ),
    Headline(
        "secret_room",
        Column("episodes solved", "evaluation/success_share"),
        "docs/sparse.md",
        SPARSE,
    ),
)


def runs_of(team: tuple[str, str], task: str) -> list[Row]:
    """Runs of a team at their largest number of frames."""
    study, variant = team
    rows = [row for row in read_rows(RESULTS / f"{study}.jsonl") if row.variant == variant]
    rows = [row for row in rows if row.task == task]
    longest = max((row.frames for row in rows), default=0)
    return [row for row in rows if row.frames == longest]


def text() -> str:
    """The table."""
    lines = []
    for headline in HEADLINES:
        # The task's name stands once, in the first of its lines.
        task = [f"[`{headline.task}`]({headline.page})", headline.column.title]
        for name, team in headline.teams.items():
            rows = runs_of(team, headline.task)
            figure = headline.column.cell(rows)
            lines.append([*task, name, f"{rows[0].frames / 1000:,.0f}", str(len(rows)), figure])
            task = ["", ""]
    titles = ["task", "metric", "algorithm", "thousand frames", "seeds", "reached"]
    note = (
        "Interquartile mean [95 % bootstrap interval] over the seeds; of fewer than five, each "
        "run's figure. Made by `python benchmarks/headlines.py` from the rows of "
        "benchmarks/results, each with its command, versions and machine."
    )
    # The first three columns are text.
    aligned = table(titles, lines).replace("| --- | ---: | ---: |", "| --- | --- | --- |", 1)
    return f"{aligned}\n\n{note}"


def main() -> None:
    """Write the table."""
    write_between(ROOT / "README.md", "headlines", text())


if __name__ == "__main__":
    main()
