"""Runs of every algorithm on every environment, small enough to be repeated.

python resume_runs.py FOLDER SUITE        # each up to a checkpoint in the middle of an episode
python resume_runs.py FOLDER SUITE NAME   # one, killed while it writes the last checkpoint
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from fakes import flat_config

from torchrl_alita.envs import (
    MarkovGame,
    PushBoxSettings,
    SecretRoomSettings,
    Task,
    game_task,
    push_box_task,
    secret_room_task,
)
from torchrl_alita.envs.smax import smax_task
from torchrl_alita.saving import Checkpoints
from torchrl_alita.training import Config, train

# Three agents, seven environments, five steps a batch: with a horizon of six, the checkpoint
# after two batches falls on the fourth step of an episode. The buffers are full by then.
HALF, WHOLE = 70, 140
TINY = {
    "n_agents": 3, "num_envs": 7, "horizon": 6, "frames_per_batch": 35, "frames_per_update": 35,
    "total_frames": WHOLE, "random_frames": 35, "batch_size": 16, "conditional_batch_size": 32,
    "buffer_size": 60, "recent_frames": 50, "noise_frames": 200, "num_cells": (5,),
    "evaluation_interval": 70, "evaluation_episodes": 3, "checkpoint_interval": HALF,
    "keep_checkpoints": 3, "progress": False, "seed": 3,
}  # fmt: skip
ALGORITHMS: dict[str, dict[str, Any]] = {
    "maddpg": {"algorithm": "maddpg"},
    "ddpg": {"algorithm": "ddpg"},
    "alita marginal": {"normalize": True, "influencers": "random"},
    "alita clones": {"estimator": "clones", "influencers": "all", "estimator_updates": 2},
    "alita centralized": {
        "estimator": "centralized",
        "influencers": (0, 2),
        "estimator_updates": 2,
        "weights": "attention",
    },
}
MEMORY = {"recurrent": True, "hidden_size": 5, "sequence_length": 2, "burn_in": 1}
VALUE_BASED = {"share_params": True, "target_update_interval": 2, "critic_lr": 1e-3}
TEAM = {"exploration": "team", "spread": 1.0, "burst_length": 4.0}
GRID = {"own_actions": "all", "logits_coeff": 0.1}
SUITES: dict[str, dict[str, dict[str, Any]]] = {
    "vmas/spread": {
        **ALGORITHMS,
        "matd3": {
            "algorithm": "maddpg", "num_critics": 2, "policy_noise": 0.2, "policy_delay": 2,
        },
        "maddpg, team": {"algorithm": "maddpg", **TEAM},
        "maddpg, three steps": {"algorithm": "maddpg", "n_steps": 3},
        "maddpg, attention": {
            "algorithm": "maddpg", "critic_attention": True, "num_cells": (8,),
        },
        "maddpg, factored": {"algorithm": "maddpg", "critic_factored": True},
        "maddpg, recurrent": {"algorithm": "maddpg", **MEMORY, "optimizer": "rmsprop"},
        **{name: {"algorithm": name} for name in ("a2c", "reinforce", "trpo", "acktr")},
    },
    # What an algorithm keeps does not depend on the environment: one that has it all is enough.
    "push_box": {
        "alita centralized": ALGORITHMS["alita centralized"],
        "alita, team": {**TEAM, "optimum": "enumerated"},
        "masked, team": {"algorithm": "maddpg", **TEAM},
        "masked, still random": {"algorithm": "maddpg", "random_frames": 105},
        "alita clones, recurrent": {**ALGORITHMS["alita clones"], **MEMORY},
        "masked, qmix": {"algorithm": "qmix", **MEMORY, **VALUE_BASED, "optimizer": "rmsprop"},
        "masked, maven": {
            "algorithm": "maven", **MEMORY, **VALUE_BASED, "num_latents": 3,
            "latent_policy": "hierarchical", "latent_batch_size": 4, "latent_episodes": 8,
        },
        "masked, dqn": {"algorithm": "dqn", **VALUE_BASED},
        "masked, joint dqn": {"algorithm": "joint_dqn", "n_steps": 3, **TEAM},
        "joint dqn, visits": {
            "algorithm": "joint_dqn", "n_steps": 1, "team_visit_coeff": 0.1, "slots": 1_000,
        },
        "iql": {"algorithm": "iql", "recurrent": False, **VALUE_BASED},
    },
    "secret_room": {
        "alita clones": ALGORITHMS["alita clones"],
        "alita, team": {**TEAM, "others_actions": "policy"},
    },
    "games": {name: options | GRID for name, options in ALGORITHMS.items()},
}  # fmt: skip
if find_spec("jaxmarl"):
    SUITES["smax"] = {
        "alita, recurrent": {
            **ALGORITHMS["alita marginal"],
            **MEMORY,
            "critic_input": "state",
            "lmbda": 0.5,
        },
        "qmix": {"algorithm": "qmix", **MEMORY, **VALUE_BASED, "lmbda": 0.5},
        "edti": {
            "algorithm": "on_policy_alita",
            "influence_coeff": 0.1,
            "recurrent": True,
            "share_params": True,
            "visit_coeff": 0.0,
            "team_visit_coeff": 0.0,
            "transition_estimator": "model",
            "transition_values": True,
        },
    }


def task(suite: str, name: str) -> Task | None:
    if suite == "push_box":
        return push_box_task(PushBoxSettings(size=9, respawn=False, mask_blocked="masked" in name))
    if suite == "secret_room":
        return secret_room_task(SecretRoomSettings(size=10))
    if suite == "smax":
        return smax_task(allies=("marine",) * 3, enemies=("marine",) * 2)
    if suite == "games":
        return game_task(MarkovGame.random(0, 5, 3, 2))
    return None


def config(suite: str, name: str, **changes) -> Config:
    options = {"algorithm": "alita", "task": suite} | TINY | SUITES[suite][name] | changes
    return flat_config(**options)


def run(suite: str, name: str, **changes) -> dict[str, Any]:
    return train(config(suite, name, **changes), task=task(suite, name))


class Stopped(Exception):
    """The checkpoint is written, and nothing is done after it."""


@contextmanager
def stop_halfway() -> Iterator[None]:
    """Right after the checkpoint of that frame is written."""
    save = Checkpoints.save

    def save_and_stop(self, components, *, frames):
        path = save(self, components, frames=frames)
        if frames == HALF:
            raise Stopped
        return path

    Checkpoints.save = save_and_stop
    try:
        yield
    finally:
        Checkpoints.save = save


def die_while_writing() -> None:
    """SIGKILL, when half of the buffers of the last checkpoint are on the disk."""
    save = torch.save

    def save_half(state, file):
        save(state, file)
        if f"{WHOLE:012d}" in str(file) and "buffers" in str(file):
            os.truncate(file, file.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save = save_half


if __name__ == "__main__":
    folder, suite, *names = sys.argv[1:]
    if names:
        die_while_writing()
        run(suite, names[0], run_dir=Path(folder) / names[0])
    with stop_halfway():
        for each in SUITES[suite]:
            with suppress(Stopped):
                run(suite, each, run_dir=Path(folder) / each)
