"""Figures that others have published, as they stand in their sources. Nothing here was measured.

They are copied by hand, here and nowhere else; the algorithms' pages show them beside what was
measured, marked as copied. Tasks, budgets, simulators and rewards differ: no figure of this file
may be set against one of ours without saying so.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PUBLISHED", "Published"]


@dataclass(frozen=True)
class Published:
    """A figure of an algorithm in a source.

    Args:
        algorithm: as it is named here.
        task: as its source names it.
        figure: what is measured.
        value: as its source prints it.
        source: where it stands.
        team: what the source calls the row, where that is another name.
    """

    algorithm: str
    task: str
    figure: str
    value: str
    source: str
    team: str = ""


_PAPER = "https://arxiv.org/abs/2108.12581"


def _paper(
    table: int, task: str, figures: tuple[str, ...], rows: dict[str, tuple[str, ...]]
) -> list[Published]:
    """A table of the paper; a row is "algorithm" or "algorithm: what the table calls it"."""
    found = []
    for name, values in rows.items():
        algorithm, _, team = name.partition(": ")
        found += [
            Published(algorithm, task, figure, value, f"Table {table} of {_PAPER}", team)
            for figure, value in zip(figures, values, strict=True)
        ]
    return found


def _battles(
    source: str, maps: tuple[str, ...], rows: dict[str, tuple[str, ...]]
) -> list[Published]:
    """Shares of the battles of StarCraft itself that are won; SMAX's battles are others."""
    return [
        Published(algorithm, "SMAC, battles won", name, value, source)
        for algorithm, values in rows.items()
        for name, value in zip(maps, values, strict=True)
    ]


PUBLISHED = (
    *_paper(
        1,
        "Push-Box, 20,000 updates, 10 runs",
        ("team performance", "its standard deviation"),
        {"alita": ("146.66", "34.13")},
    ),
    *_paper(
        1,
        "Secret Room, 20,000 updates, 10 runs",
        ("success rate", "its standard deviation"),
        {"alita": ("0.68", "0.04")},
    ),
    *_paper(
        2,
        "cooperative navigation, 3 agents, 25,000 episodes",
        ("average distance", "collisions"),
        {
            "alita": ("1.559", "0.185"),
            "maddpg": ("1.767", "0.209"),
            "ddpg": ("1.858", "0.375"),
        },
    ),
    *_paper(
        2,
        "cooperative navigation, 6 agents, 25,000 episodes",
        ("average distance", "collisions"),
        {
            "alita": ("3.349", "1.294"),
            "maddpg": ("3.345", "1.366"),
            "ddpg": ("3.350", "1.585"),
        },
    ),
    *_paper(
        3,
        "cooperative communication, 25,000 episodes",
        ("target reached", "average distance"),
        {
            "alita": ("90.3 %", "0.093"),
            "maddpg": ("84.0 %", "0.133"),
            "ddpg": ("32.0 %", "0.456"),
            "dqn": ("24.8 %", "0.754"),
            "a2c: Actor-Critic": ("17.2 %", "2.071"),
            "trpo": ("20.6 %", "1.573"),
            "reinforce": ("13.6 %", "3.333"),
        },
    ),
    *_paper(
        4,
        "physical deception, 2 agents against an adversary",
        ("agents' success", "adversary's success"),
        {
            "sides: ALITA against MADDPG": ("95.2 %", "45.1 %"),
            "sides: MADDPG against MADDPG": ("94.4 %", "39.2 %"),
            "sides: MADDPG against DDPG": ("92.2 %", "16.4 %"),
            "sides: DDPG against MADDPG": ("68.9 %", "59.0 %"),
            "sides: DDPG against DDPG": ("74.7 %", "38.6 %"),
        },
    ),
    *_battles(
        "the released runs of https://arxiv.org/abs/1902.04043: StarCraft II 4.6.2, 2.05 million "
        "steps, median over the runs of the mean of the last 100,000 steps",
        ("2s3z", "5m_vs_6m", "3s_vs_5z", "corridor", "3s5z_vs_3s6z"),
        {
            "qmix": ("0.97", "0.65", "0.84", "0.00", "0.01"),
            "vdn": ("0.95", "0.68", "0.88", "0.00", "0.01"),
            "iql": ("0.71", "0.42", "0.42", "0.00", "0.00"),
            "coma": ("0.36", "0.00", "0.00", "0.00", "0.00"),
        },
    ),
    *_battles(
        "https://github.com/hijkzzz/pymarl2, its README: StarCraft II 4.10, 10 million steps, "
        "tuned by its authors",
        ("3s_vs_5z", "5m_vs_6m", "3s5z_vs_3s6z", "corridor"),
        {
            "qmix": ("100 %", "90 %", "75 %", "100 %"),
            "vdn": ("100 %", "90 %", "43 %", "98 %"),
            "lica": ("96 %", "53 %", "0 %", "0 %"),
        },
    ),
    *(
        Published(
            name,
            "HalfCheetahBulletEnv-v0, 1 million steps",
            "return",
            value,
            "models of stable-baselines3's RL Zoo on Hugging Face, which see the time of an "
            "episode too",
        )
        for name, value in {
            "td3": "2821",
            "sac": "2786",
            "ppo": "2871",
            "trpo": "2787",
        }.items()
    ),
    Published(
        "mappo",
        "MPE simple_spread, 3 agents, 20 million steps",
        "return",
        "about -120",
        "issue 49 of https://github.com/marlbenchmark/on-policy",
    ),
)

# Of a method that is none of this package's; the study of its rules shows it.
CMAE = Published(
    "cmae",
    "Push-Box by CMAE's rules",
    "the frames at which greedy success begins",
    "0.96 million",
    "a public log of CMAE's code (https://github.com/nkarsanb7682/CMAE_RL_Final_Project, one seed)",
)
