"""The sparse games with three and four agents.

Push-Box's box moves only when three agents push it the same way at once, so that of four one is
left over; "two pushes" is the box of two agents. Secret Room is solved when all are in the target
room. The learner and its settings are those of two agents, in ``sparse_onpolicy``.
"""

from studies.sparse_onpolicy import NONE, ONE, two_epochs, variant
from studies.sparse_onpolicy import STUDY as TWO

from torchrl_alita.experiments import Study, Variant


def of(agents: int, **settings: object) -> Variant:
    """On-policy ALITA of so many agents."""
    own = variant(**settings)
    return Variant(algorithm=own.algorithm, settings={**own.settings, "n_agents": agents})


def of_two_pushes(agents: int) -> Variant:
    """The same with a box that two can push, as with two agents."""
    own = of(agents)
    settings = {**own.settings, "task.pushes_needed": 2}
    return Variant(algorithm=own.algorithm, settings=settings, tasks=("push_box",))


TEAMS = {
    "ALITA-C, three agents": of(3),
    "ALITA-C, four agents": of(4),
    "ALITA-C, three agents, two pushes": of_two_pushes(3),
    "ALITA-C, four agents, two pushes": of_two_pushes(4),
    "MAPPO with bursts, three agents": of(3, **NONE),
}

STUDY = Study(
    name="sparse_teams",
    page="docs/sparse.md",
    tasks={
        "push_box": (6_029_312, {**ONE, "task.pushes_needed": 3}),
        "secret_room": (6_029_312, ONE),
    },
    variants={**TEAMS, **two_epochs(TEAMS)},
    columns=TWO.columns,
    panels=TWO.panels,
    seeds=range(5),
    note="100 greedy episodes from the same states.",
)
