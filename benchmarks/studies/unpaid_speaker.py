"""A speaker that is paid nothing: what the influence gives where rewards differ.

The task is cooperative communication of https://arxiv.org/abs/1706.02275, except that the listener
alone is paid. Whoever climbs its own return alone has no reason to speak; F of
https://arxiv.org/abs/2108.12581 makes the speaker climb its teammate's. The settings were chosen on
seed 100.
"""

from columns import GOAL_CURVES, goal_columns
from studies.spread import NO_F, NO_IM

from torchrl_alita.experiments import Study, Variant

UNITLESS = {
    "algorithm.influence_unit": "own_gradient",
    "algorithm.influence_coeff": 1.0,
}

STUDY = Study(
    name="unpaid_speaker",
    page="docs/influence.md",
    tasks={
        "mpe/unpaid_speaker": (
            250_000,
            {
                "task.continuous_actions": True,
                "num_envs": 100,
                "evaluation_interval": 25_000,
                "checkpoint_interval": 250_000,
            },
        )
    },
    variants={
        "ALITA, influence alone": Variant(algorithm="alita", settings={**NO_IM, **UNITLESS}),
        "ALITA, the paper's influence alone": Variant(algorithm="alita", settings=NO_IM),
        "ALITA, no F": Variant(algorithm="alita", settings=NO_F),
        "MADDPG": Variant(algorithm="maddpg"),
    },
    columns={"": goal_columns(0.15)},
    panels={"": GOAL_CURVES},
    settings={
        "algorithm.num_cells": [64, 64],
        "algorithm.batch_size": 256,
        "algorithm.frames_per_update": 50,
        "algorithm.logits_coeff": 0.01,
        "algorithm.noise_frames": 150_000,
        "algorithm.lr_decay_frames": 250_000,
    },
    checks=(("ALITA, influence alone", "MADDPG"), ("ALITA, influence alone", "ALITA, no F")),
    seeds=range(10),
    note="Continuous actions; 100 greedy episodes from the same states.",
)
