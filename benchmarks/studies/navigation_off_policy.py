"""MADDPG and ALITA tuned for cooperative navigation, and what each change brings.

The settings were chosen on seed 100; docs/spread.md has those of the paper.
"""

from studies.navigation import STUDY as ON_POLICY
from studies.navigation import frames_to
from studies.spread import NO_F, NO_IM

from torchrl_alita.experiments import RETURN, Column, Study, Variant

PRESET = {"preset": "spread"}

STUDY = Study(
    name="navigation_off_policy",
    page="docs/navigation.md",
    tasks={
        "vmas/spread": (200_000, {"evaluation_interval": 20_000, "checkpoint_interval": 200_000})
    },
    variants={
        "MADDPG": Variant(algorithm="maddpg", settings=PRESET),
        "ALITA": Variant(algorithm="alita", settings=PRESET),
        "ALITA, no F": Variant(algorithm="alita", settings={**PRESET, **NO_F}),
        "ALITA, no IM": Variant(algorithm="alita", settings={**PRESET, **NO_IM}),
        "MADDPG, perceptrons": Variant(
            algorithm="maddpg", settings={**PRESET, "algorithm.goal_attention": False}
        ),
        "MADDPG, a batch of 1,024 for each 100 frames": Variant(
            algorithm="maddpg",
            settings={
                **PRESET,
                "algorithm.batch_size": 1_024,
                "algorithm.frames_per_update": 100,
            },
        ),
        "MADDPG, three steps": Variant(
            algorithm="maddpg", settings={**PRESET, "algorithm.n_steps": 3}
        ),
        # Trained with --total-frames 400000.
        "MADDPG, twice as long": Variant(
            algorithm="maddpg",
            settings={
                **PRESET,
                "algorithm.lr_decay_frames": 400_000,
                "algorithm.noise_frames": 300_000,
            },
        ),
        "MADDPG, steps that stay": Variant(
            algorithm="maddpg", settings={**PRESET, "algorithm.lr_decay_frames": 0}
        ),
    },
    columns={
        "": (
            Column("return", RETURN, 0),
            frames_to(0.6),
            frames_to(0.7),
            Column("processor seconds", lambda row: row.process_seconds, 0),
            Column("landmark distance", "evaluation/landmark_distance", 2),
            Column("contacts", "evaluation/contacts_per_episode", 1),
            Column("within 0.1", "evaluation/occupied_share", 2),
            Column("within 0.2", "evaluation/near_share", 2),
        )
    },
    panels=ON_POLICY.panels,
    checks=(("ALITA", "MADDPG"),),
    seeds=range(10),
    note=ON_POLICY.note,
)
