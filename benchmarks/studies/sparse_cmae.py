"""Push-Box and Secret Room by CMAE's rules: frames until a greedy team succeeds.

The rules are those of the code of https://arxiv.org/abs/2107.11444: fixed starts, and an episode
ends with its success. Settings were chosen on seeds 100 to 102.
"""

from columns import when
from published import CMAE
from studies.sparse_onpolicy import NONE, two_epochs, variant

from torchrl_alita.experiments import Column, Row, Study

ONE = {
    "task.rules": "cmae",
    "task.reward": 1.0,
    "num_envs": 128,
    "horizon": 300,
    "frames_per_batch": 8_192,
    "evaluation_interval": 50_000,
    "checkpoint_interval": 1_007_616,
    "pictures": False,
    "algorithm.minibatch_size": 1_024,
    "algorithm.exploration_frames": 300_000,
}
# A success pays 1.
SUCCESS = "evaluation/return_mean"


def first_reward(row: Row) -> float | None:
    """Frame of training, in thousands, at which the team first succeeded."""
    names = ("exploration/first_box_frame", "exploration/first_success_frame")
    found = [row.final[name] for name in names if row.final.get(name) is not None]
    return found[0] / 1000 if found else None


TEAMS = {
    "the team's visits": variant("team_visits"),
    "MAPPO with bursts": variant(**NONE),
    "ALITA-C": variant(),
}

EVALUATED = "100 greedy episodes, an evaluation every 50,000 frames."

STUDY = Study(
    name="sparse_cmae",
    page="docs/sparse.md",
    tasks={"push_box": (1_007_616, ONE), "secret_room": (1_007_616, ONE)},
    variants={**TEAMS, **two_epochs(TEAMS)},
    columns={
        "": (
            Column("greedy success", SUCCESS, 2),
            when(
                "thousand frames to 80 % greedy success",
                SUCCESS,
                lambda value: value >= 0.8,
                lambda frames: f"{frames / 1000:.0f}",
            ),
            Column("thousand frames to the first success in training", first_reward, 0),
            Column("processor seconds", lambda row: row.process_seconds, 0),
        )
    },
    panels={"": {SUCCESS: "greedy success"}},
    seeds=range(10),
    note={
        "": EVALUATED,
        "push_box": (
            f"{EVALUATED} Copied from {CMAE.source}, and not measured here: {CMAE.figure} "
            f"{CMAE.value}."
        ),
    },
)
