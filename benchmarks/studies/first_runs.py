"""One short run of each algorithm that no other study has.

Teams learn cooperative communication. Table 3 of https://arxiv.org/abs/2108.12581 has four of these
algorithms there, with 25,000 episodes and ten seeds. Two sides meet in physical deception, Table 4.
These runs are a twelfth as long and of one seed: a first look, which says nothing of how well an
algorithm learns.
"""

from columns import GOAL_CURVES, SECONDS, goal_columns

from torchrl_alita.experiments import Column, Study, Variant

TEAMS = (
    "a2c", "reinforce", "trpo", "acktr", "ippo", "mappo", "coma", "lica", "liir", "maven", "dqn",
)  # fmt: skip
TALK, DECEPTION = "mpe/speaker_listener", "mpe/adversary"
EVALUATION = {"evaluation_interval": 10_000}
DIFFERENCE = "evaluation/delta_0.23"

STUDY = Study(
    name="first_runs",
    page="docs/algorithms/index.md",
    tasks={TALK: (50_000, EVALUATION), DECEPTION: (50_000, EVALUATION)},
    variants={
        **{name: Variant(algorithm=name, tasks=(TALK,)) for name in TEAMS},
        "ALITA against MADDPG": Variant(
            algorithm="sides",
            settings={"side.good": "alita", "side.adversary": "maddpg"},
            tasks=(DECEPTION,),
        ),
    },
    columns={
        DECEPTION: (
            Column("goal reached", "evaluation/good_reach_0.23", 2),
            Column("by the adversary", "evaluation/adversary_reach_0.23", 2),
            Column("difference", DIFFERENCE, 2),
            SECONDS,
        ),
        "": goal_columns(0.1),
    },
    panels={
        DECEPTION: {
            "evaluation/good_reach_0.23": "goal reached",
            "evaluation/adversary_reach_0.23": "by the adversary",
        },
        "": GOAL_CURVES,
    },
    settings={"checkpoint_interval": 50_000},
    seeds=(0,),
    note="Defaults of every algorithm; 100 greedy episodes from the same states.",
    first="algorithm",
)
