"""Sparse games on-policy: what solves them, and what each part of it gives.

Source of Push-Box and Secret Room: Sec. 4.1.2 and Table 1 of https://arxiv.org/abs/2108.12581, by
the rules of https://arxiv.org/abs/1910.05512. The third game is VMAS's transport with a reward at
the goal alone. A reward is 1; the bonuses are weighed against it.
"""

from collections.abc import Mapping, Sequence

from columns import when

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
    "evaluation_interval": 500_000,
    "checkpoint_interval": 4_128_768,
    "pictures": False,
}
# VMAS's steps cost more, so that the team learns from smaller batches, more often.
TRANSPORT = {
    **{name: value for name, value in ONE.items() if name != "horizon"},
    "num_envs": 256,
    "frames_per_batch": 10_240,
    "evaluation_interval": 250_000,
    "algorithm.num_epochs": 2,
    "algorithm.minibatch_size": 1_024,
    "algorithm.exploration_frames": 1_000_000,
}
BOXES, SUCCESS = "evaluation/boxes_per_episode", "evaluation/success_share"
SECONDS = Column("processor seconds", lambda row: row.process_seconds, 0)
NONE = {"visit_coeff": 0.0, "team_visit_coeff": 0.0, "transition_coeff": 0.0}
PAPER = {"novelty_coeff": 1.0, "diversity_coeff": 0.1, "influence_coeff": 0.1}


def variant(preset: str | None = None, **settings: object) -> Variant:
    """On-policy ALITA with other settings."""
    named = {f"algorithm.{name}": value for name, value in settings.items()}
    own = {} if preset is None else {"preset": preset}
    return Variant(algorithm="on_policy_alita", settings={**own, **named})


def two_epochs(teams: Mapping[str, Variant], tasks: Sequence[str] | None = None) -> dict:
    """Teams with the epochs that were the default of earlier versions."""
    return {
        f"{name}, two epochs": Variant(
            algorithm=team.algorithm,
            settings={**team.settings, "algorithm.num_epochs": 2},
            tasks=tasks or team.tasks,
        )
        for name, team in teams.items()
    }


TEAMS = {
    "ALITA-C": variant(),
    "ALITA-C without the team's visits": variant(team_visit_coeff=0.0),
    "ALITA-C without own visits": variant(visit_coeff=0.0),
    "ALITA-C without influence": variant(transition_coeff=0.0),
    "ALITA-C without bursts": variant(exploration_start=0.0),
    "the team's visits, tuned": variant("team_visits"),
    "ALITA, the paper's parts": variant(**NONE, **PAPER),
    "no F": variant(**NONE, **PAPER | {"influence_coeff": 0.0}),
    "no IM": variant(**NONE, influence_coeff=0.1),
    "EITI": variant(visit_coeff=0.0, team_visit_coeff=0.0),
    "EDTI, with own visits": variant(team_visit_coeff=0.0, transition_values=True),
    "Social Influence, with own visits": variant(
        team_visit_coeff=0.0, transition_coeff=0.0, social_coeff=1.0
    ),
    "own visits (dec)": variant(team_visit_coeff=0.0, transition_coeff=0.0),
    "the team's visits (cen)": variant(visit_coeff=0.0, team_visit_coeff=1.0, transition_coeff=0.0),
    "RND": variant(**NONE, rnd_coeff=1.0),
    "MAPPO with bursts": variant(**NONE),
    "MAPPO": variant(**NONE, exploration_start=0.0),
}

ALIKE = "All learn by the same MAPPO, and explore in bursts unless a row says otherwise."

STUDY = Study(
    name="sparse_onpolicy",
    page="docs/sparse.md",
    tasks={
        "push_box": (4_128_768, ONE),
        "secret_room": (4_128_768, ONE),
        "vmas/sparse_transport": (3_000_320, TRANSPORT),
    },
    variants={
        **TEAMS,
        **two_epochs(TEAMS, ("push_box", "secret_room")),
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
        "vmas/sparse_transport": (
            Column("success", SUCCESS, 2),
            Column("steps to success", "evaluation/steps_to_success", 0),
            Column("package's distance at the end", "evaluation/package_distance", 2),
            frames_to(SUCCESS, 0.5),
            SECONDS,
        ),
    },
    panels={
        "push_box": {BOXES: "boxes per episode"},
        "secret_room": {SUCCESS: "success"},
        "vmas/sparse_transport": {SUCCESS: "success"},
    },
    seeds=range(10),
    note={
        "": f"100 greedy episodes from the same states. {ALIKE}",
        "push_box": (
            f"100 greedy episodes from the same states; an optimal team delivers 23.9 boxes. {ALIKE}"
        ),
    },
)
