"""Table 2 of the paper: three and six agents that cover as many landmarks.

Source: Appendix B of https://arxiv.org/abs/2108.12581: 25,000 episodes, here of 25 steps. The
paper's average distance has no unit. docs/navigation.md has VMAS's version of this game.
"""

from columns import SECONDS, copied
from studies.cooperative_communication import ALITA, CLIPPED, EPISODES_OF_25, MANY_STEPS, REPLAY

from torchrl_alita.experiments import RETURN, Column, Study, Variant

DISTANCE, COLLISIONS = "evaluation/landmark_distance", "evaluation/collisions_per_episode"
COLUMNS = (
    Column("return", RETURN, 0),
    Column("distance of a landmark", "evaluation/distance_per_landmark", 3),
    Column("their sum", DISTANCE, 2),
    Column("collisions", COLLISIONS, 1),
    Column("as the original counts", "evaluation/counted_collisions", 1),
    Column("landmarks occupied", "evaluation/occupied_share", 2),
    SECONDS,
)
PAPER = " ".join(copied(f"cooperative navigation, {agents} agents") for agents in (3, 6))

STUDY = Study(
    name="cooperative_navigation",
    page="docs/particles.md",
    tasks={"mpe/spread": (EPISODES_OF_25, {}), "mpe/spread_6": (EPISODES_OF_25, {})},
    variants={
        "ALITA, the paper's settings": Variant(algorithm="alita", settings={"preset": "paper"}),
        "ALITA": Variant(algorithm="alita", settings=ALITA),
        "MADDPG": Variant(algorithm="maddpg", settings=REPLAY),
        "DDPG": Variant(algorithm="ddpg", settings=REPLAY),
        "MATD3": Variant(
            algorithm="maddpg",
            settings={**REPLAY, "algorithm.num_critics": 2, "algorithm.policy_delay": 2},
        ),
        "IPPO": Variant(algorithm="ippo", settings=CLIPPED),
        "MAPPO": Variant(algorithm="mappo", settings=CLIPPED),
        "MAPPO, minibatches of 2,048": Variant(algorithm="mappo", settings=MANY_STEPS),
    },
    columns={"": COLUMNS},
    panels={"": {RETURN: "return", DISTANCE: "sum of distances", COLLISIONS: "collisions"}},
    settings={"checkpoint_interval": EPISODES_OF_25, "pictures": False},
    seconds=True,
    checks=(("ALITA", "MADDPG"), ("ALITA", "DDPG"), ("ALITA", "MATD3")),
    seeds=range(10),
    note=f"100 greedy episodes from the same states. {PAPER}",
)
