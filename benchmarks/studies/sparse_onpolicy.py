"""Push-Box and Secret Room on-policy: what solves both, and what each part of it gives.

Source of the tasks: Sec. 4.1.2 and Table 1 of https://arxiv.org/abs/2108.12581, by the rules of
https://arxiv.org/abs/1910.05512. A reward is 1; the bonuses are weighed against it.
"""

from studies.navigation import when

from torchrl_alita.experiments import Column, Study, Variant


def frames_to(column: str, least: float) -> Column:
    """Frames after which an evaluation has reached a value, in millions, for each seed."""
    return when(
        f"million frames to {least:g}",
        column,
        lambda value: value >= least,
        lambda frames: f"{frames / 1e6:.1f}",
    )


ONE = {
    "task.reward": 1.0,
    "num_envs": 1_024,
    "horizon": 300,
    "frames_per_batch": 65_536,
    "evaluation_interval": 1_000_000,
    "checkpoint_interval": 2_000_000,
}
BOXES, SUCCESS = "evaluation/boxes_per_episode", "evaluation/success_share"
SECONDS = Column("processor seconds", lambda row: row.process_seconds, 0)

STUDY = Study(
    name="sparse_onpolicy",
    page="docs/sparse.md",
    tasks={"push_box": (6_553_600, ONE), "secret_room": (5_046_272, ONE)},
    variants={
        "ALITA-C": Variant(algorithm="on_policy_alita"),
        "without influence": Variant(
            algorithm="on_policy_alita", settings={"algorithm.transition_coeff": 0.0}
        ),
        "without visits": Variant(
            algorithm="on_policy_alita", settings={"algorithm.visit_coeff": 0.0}
        ),
        "without bursts": Variant(
            algorithm="on_policy_alita", settings={"algorithm.exploration_start": 0.0}
        ),
        "the team's visits alone": Variant(
            algorithm="on_policy_alita", settings={"preset": "team_visits"}
        ),
        "the paper's novelty and penalty": Variant(
            algorithm="on_policy_alita", settings={"preset": "paper"}
        ),
    },
    columns={
        "push_box": (
            Column("boxes per episode", BOXES, 1),
            frames_to(BOXES, 16),
            SECONDS,
        ),
        "secret_room": (
            Column("success", SUCCESS, 2),
            Column("steps to success", "evaluation/steps_to_success", 0),
            frames_to(SUCCESS, 0.95),
            SECONDS,
        ),
    },
    panels={
        "push_box": {BOXES: "boxes per episode"},
        "secret_room": {SUCCESS: "success"},
    },
    seeds=(0, 1, 2, 3, 4),
    note=(
        "100 greedy episodes from the same states; an optimal team delivers 23.9 boxes. The runs "
        "of ALITA-C were ended after three minutes of a machine with 16 cores, before the end of "
        "their 6.6 million frames: the figures are those of their last evaluation, and their "
        "processor time was not recorded. Those of the team's visits are of a machine with two "
        "cores, which other programs used too."
    ),
)
