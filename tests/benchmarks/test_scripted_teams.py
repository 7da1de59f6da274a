"""Teams that follow a script: what they do, and the ceiling that one of them earns."""

from __future__ import annotations

import pytest
import torch
from scripts import ROOT, load
from tensordict import TensorDict

from torchrl_alita.envs import get_task, make_env
from torchrl_alita.training import evaluate, evaluation


@pytest.fixture
def teams(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return load("benchmarks", "scripted_teams")


def earned(teams, name: str) -> float:
    task = get_task("vmas/spread")
    env = make_env(task, num_envs=100)
    result, _ = evaluate(
        teams.NAVIGATION[name], env, task.metrics, horizon=100, seed=teams.EVALUATION_SEED
    )
    return result["return_mean"]


def test_the_ceiling_of_cooperative_navigation_is_what_a_script_earns(teams):
    name = "a script: the same, steering around teammates"
    assert earned(teams, name) == pytest.approx(get_task("vmas/spread").ceiling, abs=0.5)


def test_scripts_that_know_less_earn_less(teams):
    assert earned(teams, "a script: the best assignment") == pytest.approx(-111.4, abs=0.5)
    assert earned(teams, "a script: agent i to landmark i") == pytest.approx(-163.8, abs=0.5)
    assert earned(teams, "a script: stand still") == pytest.approx(-573.3, abs=0.5)


def test_landmarks_are_shared_out_by_the_least_sum_of_distances(teams):
    """Agents at 0, 1 and 2 on a line, landmarks at 2, 0 and 1: numbers 1, 2 and 0 are right."""
    agents, landmarks = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([2.0, 0.0, 1.0])
    offset = torch.zeros(3, 3, 2)
    offset[..., 0] = landmarks - agents[:, None]
    others = torch.zeros(3, 2, 2)
    others[..., 0] = torch.tensor([[1.0, 2.0], [-1.0, 1.0], [-2.0, -1.0]])
    own = torch.stack([agents, *torch.zeros(3, 3)], -1)
    observation = torch.cat([own, offset.flatten(1), others.flatten(1)], -1)
    batch = TensorDict({"agents": {"observation": observation[None]}}, [1])
    teams.NAVIGATION["a script: the best assignment"](batch)
    assert batch["agents", "goal"].tolist() == [[1, 2, 0]]
    assert batch["agents", "action"].abs().max() == 0


def test_the_scripts_attack_one_enemy_and_else_walk_east(teams):
    """Ten actions: four ways, stop, five enemies."""
    mask = torch.tensor(
        [
            [1, 1, 1, 1, 1, 0, 1, 1, 0, 0],  # two enemies in reach
            [1, 1, 1, 1, 1, 0, 0, 0, 0, 0],  # none
            [1, 0, 1, 1, 1, 0, 0, 0, 0, 0],  # none, and no way east
            [0, 0, 0, 0, 1, 0, 0, 0, 0, 0],  # dead
        ],
        dtype=torch.bool,
    )
    # They fight the battles that the runs are evaluated in.
    assert teams.EVALUATION_SEED == evaluation.EVALUATION_SEED
    for script, attacked in zip(teams.BATTLES.values(), (6, 7), strict=True):
        batch = TensorDict({"agents": {"action_mask": mask}}, [])
        action = script(batch)["agents", "action"]
        assert action.sum(-1).tolist() == [1.0] * 4
        assert action.argmax(-1).tolist() == [attacked, 1, 4, 4]
