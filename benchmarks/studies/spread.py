"""Table 2 of the paper, in our terms: algorithms on cooperative navigation.

Source: Appendix B of https://arxiv.org/abs/2108.12581. Its distances and collisions cannot be
compared with these: the simulator and the units differ.
"""

from torchrl_alita.experiments import RETURN, Column, Study, Variant

NO_F = {"algorithm.influence_coeff": 0.0}
NO_IM = {"algorithm.novelty_coeff": 0.0, "algorithm.diversity_coeff": 0.0}

COLUMNS = (
    Column("return (higher is better)", RETURN, 0),
    Column("landmark distance (lower is better)", "evaluation/landmark_distance", 2),
    Column("contacts per episode (lower)", "evaluation/contacts_per_episode", 1),
    Column("landmarks occupied (higher)", "evaluation/occupied_share", 2),
)

STUDY = Study(
    name="spread",
    page="docs/spread.md",
    tasks={"vmas/spread": (250_000, {})},
    recipes={"": "recipes/spread.py"},
    variants={
        "MADDPG": Variant(algorithm="maddpg"),
        "DDPG": Variant(algorithm="ddpg"),
        "ALITA, marginal": Variant(algorithm="alita"),
        "ALITA, clones": Variant(algorithm="alita", settings={"algorithm.estimator": "clones"}),
        "ALITA, centralized": Variant(
            algorithm="alita", settings={"algorithm.estimator": "centralized"}
        ),
        "ALITA, marginal, no F": Variant(algorithm="alita", settings=NO_F),
        "ALITA, marginal, no IM": Variant(algorithm="alita", settings=NO_IM),
    },
    columns={"": COLUMNS},
    panels={"": {column.value: column.title.partition(" (")[0] for column in COLUMNS}},
    note="Three agents, 100 greedy episodes from the same states.",
)
