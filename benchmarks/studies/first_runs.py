"""One short run of each algorithm that no other study has, on cooperative communication.

Table 3 of https://arxiv.org/abs/2108.12581 has four of them there, with 25,000 episodes and ten
seeds. These runs are a twelfth as long and of one seed: a first
look, which says nothing of how well an algorithm learns.
"""

from torchrl_alita.experiments import RETURN, Column, Study, Variant

TEAMS = (
    "a2c", "reinforce", "trpo", "acktr", "ippo", "mappo", "coma", "lica", "liir", "maven", "dqn",
)  # fmt: skip
DISTANCE, REACHED = "evaluation/final_distance", "evaluation/reach_0.1"

STUDY = Study(
    name="first_runs",
    page="docs/algorithms/index.md",
    tasks={"mpe/speaker_listener": (50_000, {"evaluation_interval": 10_000})},
    variants={name: Variant(algorithm=name) for name in TEAMS},
    columns={
        "": (
            Column("return", RETURN, 1),
            Column("distance at the end", DISTANCE, 2),
            Column("within 0.1 at the end", REACHED, 2),
            Column("processor seconds", lambda row: row.process_seconds, 0),
        )
    },
    panels={"": {RETURN: "return", DISTANCE: "distance at the end"}},
    settings={"checkpoint_interval": 50_000},
    seeds=(0,),
    note="Defaults of every algorithm; 100 greedy episodes from the same states.",
    first="algorithm",
)
