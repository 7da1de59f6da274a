"""Figures 3 and 4 of the paper in SMAX's battles: ALITA, its ablations and the baselines.

Source: Sec. 4.1.1 of https://arxiv.org/abs/2108.12581, whose battles are SMAC's, of 2 million
steps; those of SMAX are others, and win rates cannot be compared. The rows of two scripts, which
learn nothing, are made by benchmarks/scripted_teams.py.
"""

from studies.spread import NO_F, NO_IM

from torchrl_alita.experiments import RETURN, Column, Study, Variant, best, last

WON = "evaluation/win_rate"
BATTLES = {"evaluation_episodes": 64}
# The paper's code of 3 numbers leaves a novelty that never vanishes.
WIDER_CODE = {"algorithm.autoencoder_cells": [128, 64, 32, 64, 128]}

STUDY = Study(
    name="smax",
    page="docs/starcraft.md",
    tasks={
        "smax/2s3z": (200_000, {"evaluation_interval": 10_000}),
        "smax/5m_vs_6m": (100_000, {"evaluation_interval": 5_000}),
    },
    recipes={"": "recipes/starcraft.py"},
    variants={
        "ALITA": Variant(algorithm="alita"),
        "ALITA, no F": Variant(algorithm="alita", settings=NO_F),
        "ALITA, no IM": Variant(algorithm="alita", settings=NO_IM),
        "ALITA, symmetric": Variant(algorithm="alita", settings={"algorithm.influencers": "all"}),
        "ALITA, wider code": Variant(algorithm="alita", settings=WIDER_CODE),
        "MADDPG": Variant(algorithm="maddpg"),
        "QMIX": Variant(algorithm="qmix"),
        "VDN": Variant(algorithm="vdn"),
        "IQL": Variant(algorithm="iql"),
    },
    columns={
        "": (
            Column("won at the end", WON, 2),
            Column("won at best", best(WON), 2),
            Column("return (at most 20)", RETURN, 1),
            Column("reward of a step in training", last("training/reward_mean"), 3),
            Column("novelty of a step", last("training/novelty"), 1),
        )
    },
    panels={"": {WON: "battles won, greedy", RETURN: "return, greedy"}},
    settings=BATTLES,
    keep=("evaluation/", "training/reward_mean", "training/novelty", "training/saturated_share"),
    note="64 greedy battles from the same starts.",
)
