"""Push-Box and Secret Room: algorithms with and without team exploration.

Source of the tasks: Sec. 4.1.2 and Table 1 of https://arxiv.org/abs/2108.12581. The paper's
budget is 20,000 updates of its rivals' code, more than a thousand million steps.
"""

from collections.abc import Sequence

from studies.spread import NO_F, NO_IM

from torchrl_alita.experiments import Column, Row, Study, Variant

ALGORITHMS = {
    "MADDPG": ("maddpg", {}),
    "ALITA": ("alita", {}),
    "ALITA, no F": ("alita", NO_F),
    "ALITA, no IM": ("alita", NO_IM),
}


def rewarded(rows: Sequence[Row]) -> str:
    """Of how many runs training saw a reward, and the mean frame of the first."""
    frames = [row.final["exploration/first_success_frame"] for row in rows]
    seen = [frame for frame in frames if frame is not None]
    when = f", frame {sum(seen) / len(seen):,.0f}" if seen else ""
    return f"{len(seen)} of {len(frames)}{when}"


EXPLORED = (
    Column("joint states visited", "exploration/state_coverage", 3),
    Column("entropy of visits, nats", "exploration/state_entropy", 2),
)
VISITED = {"exploration/state_coverage": "joint states visited in training, share"}

STUDY = Study(
    name="sparse",
    page="docs/sparse.md",
    tasks={"push_box": (3_000_000, {}), "secret_room": (2_000_000, {})},
    recipes={"push_box": "recipes/push_box.py", "secret_room": "recipes/secret_room.py"},
    variants={
        f"{name}, {kind} exploration": Variant(
            algorithm=algorithm, settings={**settings, "exploration": kind}
        )
        for kind in ("independent", "team")
        for name, (algorithm, settings) in ALGORITHMS.items()
    }
    # Trained with --total-frames 6553600 on Push-Box and 5017600 on Secret Room.
    | {"one network over joint actions": Variant(algorithm="joint_dqn")},
    columns={
        "push_box": (
            Column("boxes per episode", "evaluation/boxes_per_episode", 3),
            Column("pushes per episode", "evaluation/pushes_per_episode", 2),
            Column("rewarded in training", text=rewarded),
            Column("boxes in training", "exploration/boxes_delivered", 0),
            Column("pushes in training", "exploration/pushes_in_agreement", 0),
            *EXPLORED,
        ),
        "secret_room": (
            Column("success", "evaluation/success_share", 3),
            Column("doors opened per episode", "evaluation/doors_opened", 2),
            Column("rewarded in training", text=rewarded),
            Column("doors opened in training", "exploration/doors_opened", 0),
            *EXPLORED,
        ),
    },
    panels={
        "push_box": {
            "evaluation/boxes_per_episode": "boxes per episode",
            "evaluation/pushes_per_episode": "pushes per episode",
            **VISITED,
        },
        "secret_room": {
            "evaluation/success_share": "success",
            "evaluation/doors_opened": "doors opened per episode",
            **VISITED,
        },
    },
    note="The first columns are of 100 greedy episodes from the same states.",
)
