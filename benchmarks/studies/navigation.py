"""Cooperative navigation, nearly as good as a script: what MAPPO needs, one change at a time.

The score lies between a random team, 0, and a script that assigns every landmark once, by the
least sum of distances, and steers around teammates, 1; agent i to landmark i has 0.84. The rows of
the scripts are made by benchmarks/scripted_teams.py.
"""

from columns import when

from torchrl_alita.envs import get_task
from torchrl_alita.experiments import RETURN, Column, Study, Variant, normalized_score

TASK = get_task("vmas/spread")


def score(value: float) -> float:
    """Of a return, between the random team and the script."""
    return normalized_score(value, floor=TASK.floor, ceiling=TASK.ceiling)


def frames_to(least: float) -> Column:
    """Frames after which an evaluation has reached a score, in thousands."""
    return when(
        f"frames to {least}",
        RETURN,
        lambda value: score(value) >= least,
        lambda frames: f"{frames / 1000:.0f}k",
    )


STUDY = Study(
    name="navigation",
    page="docs/navigation.md",
    tasks={"vmas/spread": (998_400, {"num_envs": 512, "frames_per_batch": 12_800})},
    variants={
        "MAPPO, goal attention": Variant(algorithm="mappo", settings={"preset": "spread"}),
        "a quarter of the step": Variant(
            algorithm="mappo", settings={"preset": "spread", "algorithm.lr": 1e-3}
        ),
        "perceptrons with an index": Variant(
            algorithm="mappo",
            settings={
                "preset": "spread",
                "algorithm.goal_attention": False,
                "algorithm.num_cells": (64, 64),
            },
        ),
    },
    columns={
        "": (
            frames_to(0.8),
            frames_to(0.9),
            Column("processor seconds", lambda row: row.process_seconds, 0),
            Column("return", RETURN, 0),
            Column("landmark distance", "evaluation/landmark_distance", 2),
            Column("contacts", "evaluation/contacts_per_episode", 1),
            Column("within 0.1", "evaluation/occupied_share", 2),
            Column("within 0.2", "evaluation/near_share", 2),
        )
    },
    panels={
        "": {
            RETURN: "return",
            "evaluation/landmark_distance": "landmark distance",
            "evaluation/occupied_share": "landmarks occupied",
        }
    },
    seeds=(1, 2, 3, 4, 5),
    note="Three agents, 100 greedy episodes from the same states.",
)
