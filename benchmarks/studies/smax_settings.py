"""What MADDPG's wins in a battle of SMAX depend on: one setting changed at a time.

One seed each, so that differences between rows say little; what all rows have in common is what
the table is for. Beside them stand two scripts, which learn nothing.
"""

from studies.smax import BATTLES, CRITIC_EACH, WON

from torchrl_alita.experiments import RETURN, Column, Study, Variant, best, frames_of_best, last

FASTER_VALUES = {"algorithm.tau": 0.05, "algorithm.critic_lr": 1e-3}
PRESENT = {"algorithm.others_actions": "policy"}
CHANGES = {
    "the earlier recipe's": {},
    "the paper's steps of the actors": {"algorithm.actor_lr": 5e-4},
    "one action drawn": {"algorithm.own_actions": "policy"},
    "targets 5 times faster, more updates": {
        "algorithm.tau": 0.05, "algorithm.frames_per_update": 50,
        "algorithm.batch_size": 320,
    },
    "targets 5 times faster, critics 4 times": {
        "algorithm.tau": 0.05, "algorithm.critic_lr": 2e-3,
    },
    "faster values, others' present actions": {**FASTER_VALUES, **PRESENT},
    "the same, larger steps, penalized logits": {
        **FASTER_VALUES, **PRESENT, "algorithm.actor_lr": 2e-4, "algorithm.logits_coeff": 0.0005,
    },
    "faster values, 20,000 newest frames": {**FASTER_VALUES, "algorithm.buffer_size": 20_000},
    "faster values, no memory": {**FASTER_VALUES, "algorithm.recurrent": False},
}  # fmt: skip

STUDY = Study(
    name="smax_settings",
    page="docs/starcraft.md",
    tasks={"smax/2s3z": (100_000, {"evaluation_interval": 10_000})},
    recipes={"": "recipes/starcraft.py"},
    variants={
        name: Variant(algorithm="maddpg", settings=CRITIC_EACH | settings)
        for name, settings in CHANGES.items()
    },
    columns={
        "": (
            Column("won at best", best(WON), 2),
            Column("at frame", frames_of_best(WON), 0),
            Column("won at the end", WON, 2),
            Column("return at the end", RETURN, 1),
            Column("certain", last("training/saturated_share"), 2),
        )
    },
    panels={},
    seeds=(1,),
    settings={**BATTLES, "algorithm.num_cells": [128, 128]},
    keep=("evaluation/", "training/saturated_share"),
    note="MADDPG, critics with hidden layers of 128 and 128, 64 greedy battles from the same "
    "starts; certain: share of the policies' probabilities above 0.99 at the end. What a row "
    "changes is in benchmarks/studies/smax_settings.py.",
    first="2s3z",
)
