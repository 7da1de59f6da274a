"""Table 4 of the paper: two agents hide from an adversary which landmark is their goal.

Source: Appendix B of https://arxiv.org/abs/2108.12581: 25,000 episodes, here of 25 steps. Both
sides learn at once, each by its own algorithm. Against the script that picks a landmark, perfect
deception leaves the adversary half of the episodes. The rows of two scripts that play each other
are made by benchmarks/scripted_teams.py.
"""

from columns import SECONDS, copied
from studies.cooperative_communication import ALITA, EPISODES_OF_25, MANY_STEPS, REPLAY

from torchrl_alita.experiments import Column, Study, Variant

SETTINGS = {"alita": ALITA, "maddpg": REPLAY, "ddpg": REPLAY, "mappo": MANY_STEPS}
NAMES = {"alita": "ALITA", "maddpg": "MADDPG", "ddpg": "DDPG", "mappo": "MAPPO"}
SCRIPTS = {
    f"benchmarks.scripted_particles:{name}": f"a script that {name}"
    for name in ("picks", "follows")
}
# The paper's, both sides alike, and scripts in the adversary's place.
PAIRS = (
    ("alita", "maddpg"), ("maddpg", "maddpg"), ("maddpg", "ddpg"), ("ddpg", "maddpg"),
    ("ddpg", "ddpg"), ("alita", "alita"), ("mappo", "mappo"),
    *((name, script) for script in SCRIPTS for name in ("alita", "maddpg", "mappo")),
)  # fmt: skip


def pairing(**sides: str) -> Variant:
    """Each side with an algorithm and its settings, or held by a script."""
    settings = {}
    for side, follows in sides.items():
        settings[f"side.{side}"] = follows
        for name, value in SETTINGS.get(follows, {}).items():
            settings[name.replace("algorithm.", f"side.{side}.")] = value
    return Variant(algorithm="sides", settings=settings)


def reached(side: str, title: str) -> list[Column]:
    """Episodes that end near the goal, by how near."""
    return [
        Column(f"{title} within {radius}", f"evaluation/{side}_{radius}", 2)
        for radius in (0.1, 0.16, 0.23)
    ]


STUDY = Study(
    name="physical_deception",
    page="docs/particles.md",
    tasks={"mpe/adversary": (EPISODES_OF_25, {})},
    variants={
        f"{NAMES[good]} against {(NAMES | SCRIPTS)[adversary]}": pairing(
            good=good, adversary=adversary
        )
        for good, adversary in PAIRS
    },
    columns={
        "": (
            *reached("good_reach", "agents"),
            *reached("adversary_reach", "adversary"),
            *reached("delta", "difference"),
            SECONDS,
        )
    },
    panels={
        "": {
            "evaluation/good_reach_0.16": "agents within 0.16",
            "evaluation/adversary_reach_0.16": "adversary within 0.16",
            "evaluation/delta_0.16": "their difference",
        }
    },
    settings={"checkpoint_interval": EPISODES_OF_25, "pictures": False},
    seconds=True,
    seeds=range(10),
    note=f"100 greedy episodes from the same states. {copied('physical deception')}",
    first="agents against adversary",
)
