"""Scripts for the particle games: they earn what is known of each, and the adversary's see little."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

from benchmarks import scripted_particles as scripts
from torchrl_alita.envs import get_task, make_env
from torchrl_alita.training import cross_play, evaluate


def played(task_name: str, script, **options) -> dict[str, float]:
    def policy(tensordict):
        return script(tensordict, **options)

    task = get_task(task_name)
    return evaluate(policy, make_env(task, num_envs=400), task.metrics, horizon=25, seed=3)[0]


@pytest.mark.parametrize(
    ("task", "script"),
    [
        ("mpe/spread", scripts.share_out),
        ("mpe/spread_6", scripts.share_out),
        ("mpe/speaker_listener", scripts.know_the_goal),
    ],
)
def test_a_team_that_knows_what_to_do_earns_the_tasks_ceiling(task, script):
    assert played(task, script)["return_mean"] == pytest.approx(get_task(task).ceiling, rel=0.12)


def test_an_adversary_is_at_the_goal_of_a_split_team_in_half_of_the_episodes():
    for follow in (False, True):
        found = played("mpe/adversary", scripts.split, follow=follow)
        assert found["good_reach_0.1"] > 0.97
        assert found["adversary_reach_0.16"] == pytest.approx(0.5, abs=0.12)


def test_held_adversaries_arrive_without_seeing_their_speed():
    policies = {"good": "random", "adversary": [scripts.picks, scripts.follows]}
    for row in cross_play("mpe/adversary", policies, episodes=400):
        assert row["adversary_reach_0.16"] == pytest.approx(0.47, abs=0.08)


def test_who_follows_goes_to_the_landmark_that_a_good_agent_is_nearest_to():
    """Landmarks to the left and to the right, good agents above it and on the right one."""
    seen = torch.tensor([[[-1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0]]])
    left, right = 2, 1
    for script, move in ((scripts.picks, left), (scripts.follows, right)):
        batch = script(TensorDict({"agents": {"observation": seen}}, [1]))
        assert batch["agents", "action"].argmax(-1).tolist() == [[move]]


def test_an_agent_brakes_before_it_arrives():
    offset = torch.tensor([[[0.1, 0.0]]])
    actions = [scripts.steer(offset, torch.tensor([[[speed, 0.0]]])) for speed in (0.0, 2.0)]
    assert [int(action.argmax(-1)) for action in actions] == [1, 2]
