"""Figures 3 and 4 of the paper in SMAX's battles: ALITA, its ablations and the baselines.

Source: Sec. 4.1.1 of https://arxiv.org/abs/2108.12581, whose battles are SMAC's, of 2 million
steps; those of SMAX are others, and win rates cannot be compared. The rows of two scripts, which
learn nothing, are made by benchmarks/scripted_teams.py.
"""

from columns import SECONDS
from studies.spread import NO_F, NO_IM

from torchrl_alita.experiments import Column, Study, Variant, best, last

WON = "evaluation/win_rate"
BATTLES = {"evaluation_episodes": 64}
# The paper's code of 3 numbers leaves a novelty that never vanishes.
WIDER_CODE = {"algorithm.autoencoder_cells": [128, 64, 32, 64, 128]}
# One-step targets and RMSprop; the recipe has lambda returns and Adam.
PYMARL = {
    "algorithm.optimizer": "rmsprop",
    "algorithm.critic_lr": 5e-4,
    "algorithm.lr_decay_frames": 0,
    "algorithm.batch_size": 32 * 40,
    "algorithm.lmbda": 0.0,
}
# A critic for each agent, of all that all do; the recipe has one that is factored.
CRITIC_EACH = {
    "algorithm.critic_factored": False,
    "algorithm.optimizer": "rmsprop",
    "algorithm.actor_lr": 1e-4,
    "algorithm.critic_lr": 5e-4,
    "algorithm.lr_decay_frames": 0,
    "algorithm.lmbda": 0.0,
    "algorithm.noise_start": 1.0,
    "algorithm.noise_end": 0.05,
}
NO_MEMORY = {"algorithm.recurrent": False}

# Influence on the others' health, place and cooldown, and nothing else.
EITI = {
    "algorithm.recurrent": True,
    "algorithm.novelty_coeff": 0.0,
    "algorithm.diversity_coeff": 0.0,
    "algorithm.influence_coeff": 0.0,
    "algorithm.transition_coeff": 0.1,
    "algorithm.transition_estimator": "model",
    "algorithm.transition_features": (-10, -9, -8, -7),
}

STUDY = Study(
    name="smax",
    page="docs/starcraft.md",
    tasks={
        "smax/2s3z": (1_000_000, {"evaluation_interval": 50_000}),
        "smax/5m_vs_6m": (100_000, {"evaluation_interval": 5_000}),
    },
    recipes={"": "recipes/starcraft.py"},
    variants={
        "ALITA": Variant(algorithm="alita", settings=CRITIC_EACH),
        "ALITA, no F": Variant(algorithm="alita", settings=CRITIC_EACH | NO_F),
        "ALITA, no IM": Variant(algorithm="alita", settings=CRITIC_EACH | NO_IM),
        "ALITA, symmetric": Variant(
            algorithm="alita", settings=CRITIC_EACH | {"algorithm.influencers": "all"}
        ),
        "ALITA, wider code": Variant(algorithm="alita", settings=CRITIC_EACH | WIDER_CODE),
        "MADDPG": Variant(algorithm="maddpg", settings=CRITIC_EACH),
        "MADDPG, factored critic": Variant(algorithm="maddpg"),
        "ALITA, factored critic": Variant(algorithm="alita"),
        "ALITA, factored critic, no F": Variant(algorithm="alita", settings=NO_F),
        "ALITA, factored critic, no IM": Variant(algorithm="alita", settings=NO_IM),
        "QMIX": Variant(algorithm="qmix"),
        "VDN": Variant(algorithm="vdn"),
        "IQL": Variant(algorithm="iql"),
        "QMIX, PyMARL's settings": Variant(algorithm="qmix", settings=PYMARL),
        "VDN, PyMARL's settings": Variant(algorithm="vdn", settings=PYMARL),
        "IQL, PyMARL's settings": Variant(algorithm="iql", settings=PYMARL),
        "MAPPO": Variant(algorithm="mappo"),
        "IPPO": Variant(algorithm="ippo"),
        "COMA": Variant(algorithm="coma"),
        "LICA": Variant(algorithm="lica"),
        "LIIR": Variant(algorithm="liir"),
        "MAVEN": Variant(algorithm="maven"),
        "EITI": Variant(algorithm="on_policy_alita", settings=EITI),
        "EDTI": Variant(
            algorithm="on_policy_alita", settings=EITI | {"algorithm.transition_values": True}
        ),
        "MAPPO, no memory": Variant(algorithm="mappo", settings=NO_MEMORY),
        "ALITA on MAPPO": Variant(algorithm="on_policy_alita"),
        "ALITA on MAPPO, no memory": Variant(algorithm="on_policy_alita", settings=NO_MEMORY),
        "ALITA on MAPPO, no memory, no F": Variant(
            algorithm="on_policy_alita", settings=NO_MEMORY | NO_F
        ),
        "ALITA on MAPPO, no memory, no IM": Variant(
            algorithm="on_policy_alita", settings=NO_MEMORY | NO_IM
        ),
    },
    columns={
        "": (
            Column("won at the end", WON, 2),
            Column("won at best", best(WON), 2),
            SECONDS,
            Column("novelty of a step", last("training/novelty"), 1),
        )
    },
    panels={"": {WON: "battles won, greedy"}},
    settings={**BATTLES, "checkpoint_interval": 1_000_000, "pictures": False},
    seeds=range(5),
    keep=("evaluation/", "training/reward_mean", "training/novelty", "training/saturated_share"),
    note="64 greedy battles from the same starts.",
)
