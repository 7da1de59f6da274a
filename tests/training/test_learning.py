"""What a run learns from a batch: when episodes begin, when updates are made."""

from __future__ import annotations

import pytest
import torch
from fakes import TargetEnv, flat_config

from torchrl_alita import ALITA
from torchrl_alita.training.learning import Learning

ENVS, STEPS = 5, 4


@pytest.fixture
def learning() -> Learning:
    """Of ALITA with clones that are no longer the critics."""
    config = flat_config(
        algorithm=ALITA, estimator="clones", num_cells=(7,), autoencoder_cells=(3,),
        num_envs=ENVS, frames_per_batch=ENVS * STEPS, frames_per_update=ENVS * STEPS,
        random_frames=180, total_frames=200, batch_size=8, conditional_batch_size=32,
        buffer_size=200, compile=False,
    )  # fmt: skip
    found = Learning(config, ALITA(TargetEnv(num_envs=ENVS), config.algorithm))
    change_clones(found.algorithm)
    return found


def change_clones(algorithm: ALITA) -> None:
    for value in algorithm.estimators[0].parameters():
        value.data += 1.0


def clones(algorithm: ALITA) -> list[torch.Tensor]:
    return [value.detach().clone() for value in algorithm.estimators[0].parameters()]


def set_back(learning: Learning, ended: int) -> bool:
    """Whether a batch in which so many episodes end sets changed clones back to the critics."""
    batch = TargetEnv(num_envs=ENVS, horizon=1_000).rollout(STEPS)
    done = torch.zeros(ENVS * STEPS, dtype=torch.bool)
    done[torch.randperm(len(done))[:ended]] = True
    batch["next", "done"] = done.view(ENVS, STEPS, 1)
    before = clones(learning.algorithm)
    learning.learn(batch)
    after = clones(learning.algorithm)
    same = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert all(same) or not any(same)
    if not all(same):
        change_clones(learning.algorithm)
    return not all(same)


def test_clones_are_set_back_once_for_as_many_ended_episodes_as_there_are_environments(learning):
    """Of 5 environments: not at any episode's end, as in battles of unequal length."""
    found = [set_back(learning, ended) for ended in (0, 1, 3, 1, 4, 1, 0, 2)]
    # Ended so far: 0, 1, 4, 5, 9, 10, 10, 12.
    assert found == [False, False, False, True, False, True, False, False]


def test_environments_that_all_end_together_set_them_back_each_time(learning):
    assert [set_back(learning, ENVS) for _ in range(3)] == [True] * 3


def test_a_batch_in_which_all_have_ended_several_times_sets_them_back_once(learning):
    assert set_back(learning, 3 * ENVS)
    assert not set_back(learning, ENVS - 1)


def test_nothing_is_learned_while_actions_are_random(learning):
    batch = TargetEnv(num_envs=ENVS).rollout(STEPS)
    logs = [learning.learn(batch) for _ in range(10)]
    assert [bool(log) for log in logs] == [False] * 9 + [True]
    assert learning.progress["updates"] == learning.algorithm.updates == 1
    assert learning.progress["frames"] == 10 * ENVS * STEPS
