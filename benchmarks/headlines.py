"""The table of the README: what teams reach, beside another team on the same task.

python benchmarks/headlines.py
"""

from __future__ import annotations

from dataclasses import dataclass

from pages import RESULTS, ROOT, table, write_between

from torchrl_alita.experiments import Column, Row, read_rows, score


@dataclass(frozen=True)
class Headline:
    """One figure of two teams, each named by its study and its variant."""

    task: str
    column: Column
    ours: tuple[str, str]
    theirs: tuple[str, str]
    page: str


SCORE = Column("score (random 0, script 1)", score)
DISTANCE = Column("distance to the goal at the end", "evaluation/final_distance")
BOXES = Column("boxes an episode (optimum 23.9)", "evaluation/boxes_per_episode", 1)
SUCCESS = Column("share of episodes solved", "evaluation/success_share")
TEAM = "ALITA, team exploration"
JOINT = "one network over joint actions"

HEADLINES = (
    Headline(
        "vmas/spread",
        SCORE,
        ("navigation", "MAPPO, goal attention"),
        ("spread", "MADDPG"),
        "docs/navigation.md",
    ),
    Headline(
        "vmas/spread",
        SCORE,
        ("navigation_off_policy", "ALITA"),
        ("navigation_off_policy", "MADDPG"),
        "docs/navigation.md",
    ),
    Headline(
        "mpe/unpaid_speaker",
        DISTANCE,
        ("unpaid_speaker", "ALITA, influence alone"),
        ("unpaid_speaker", "MADDPG"),
        "docs/influence.md",
    ),
    Headline("push_box", BOXES, ("sparse_onpolicy", "ALITA-C"), ("sparse", TEAM), "docs/sparse.md"),
    Headline(
        "push_box", BOXES, ("sparse", JOINT), ("sparse_onpolicy", "ALITA-C"), "docs/sparse.md"
    ),
    Headline(
        "secret_room",
        SUCCESS,
        ("sparse_onpolicy", "the team's visits, tuned"),
        ("sparse", TEAM),
        "docs/sparse.md",
    ),
)
# What a study's variant is called outside its page.
NAMES = {
    ("navigation", "MAPPO, goal attention"): "MAPPO, `GoalAttention`",
    ("spread", "MADDPG"): "MADDPG, the paper's settings",
    ("navigation_off_policy", "ALITA"): "ALITA, `GoalAttention`",
    ("navigation_off_policy", "MADDPG"): "MADDPG, `GoalAttention`",
    ("unpaid_speaker", "ALITA, influence alone"): "ALITA, influence alone",
    ("sparse_onpolicy", "ALITA-C"): "on-policy ALITA",
    ("sparse_onpolicy", "the team's visits, tuned"): "on-policy ALITA, team's visits",
    ("sparse", TEAM): "ALITA, the paper's bonuses",
    ("sparse", JOINT): "joint DQN",
}


def runs_of(team: tuple[str, str], task: str) -> list[Row]:
    """Runs of a team at their largest number of frames."""
    study, variant = team
    rows = [row for row in read_rows(RESULTS / f"{study}.jsonl") if row.variant == variant]
    rows = [row for row in rows if row.task == task]
    longest = max((row.frames for row in rows), default=0)
    return [row for row in rows if row.frames == longest]


def text() -> str:
    """The table."""
    titles = ["task", "figure", "team", "", "beside", "", "page"]
    lines = []
    for line in HEADLINES:
        cells = [f"`{line.task}`", line.column.title]
        for team in (line.ours, line.theirs):
            rows = runs_of(team, line.task)
            seeds = "1 seed" if len(rows) == 1 else f"{len(rows)} seeds"
            cells += [f"{NAMES.get(team, team[1])}, {seeds}", line.column.cell(rows)]
        lines.append([*cells, f"[{line.page.removeprefix('docs/')}]({line.page})"])
    note = (
        "Interquartile mean [95 % bootstrap interval] over the seeds; of fewer than five, each "
        "figure. Made by `python benchmarks/headlines.py` from the rows of benchmarks/results, "
        "each with its command, versions and machine."
    )
    return f"{table(titles, lines)}\n\n{note}"


def main() -> None:
    """Write the table."""
    write_between(ROOT / "README.md", "headlines", text())


if __name__ == "__main__":
    main()
