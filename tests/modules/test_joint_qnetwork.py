"""The best joint action of a team, part by part."""

from __future__ import annotations

import itertools

import pytest
import torch
from fakes import B, TargetEnv
from tensordict import TensorDict

from torchrl_alita.modules import BestJointAction, joint_action_number, make_joint_qnetwork
from torchrl_alita.objectives.joint_actions import enumerate_joint_actions

# Three agents with five actions.
AGENTS, ACTIONS = 3, 5


def best(**options) -> BestJointAction:
    return BestJointAction(num_agents=AGENTS, num_actions=ACTIONS, **options)


def test_numbers_are_in_the_order_of_all_joint_actions():
    every = enumerate_joint_actions(AGENTS, ACTIONS)
    assert joint_action_number(every).flatten().tolist() == list(range(ACTIONS**AGENTS))


def test_each_agent_takes_its_part_of_the_best_joint_action():
    values = torch.randn(B, 2, ACTIONS**AGENTS, generator=torch.Generator().manual_seed(0))
    found = best()(TensorDict({"joint_action_value": values}, [B, 2]))
    number = joint_action_number(found["agents", "action"])
    assert (number == values.argmax(-1, keepdim=True)).all()
    assert (found["joint_action"] == number).all()
    assert (found["chosen_joint_value"] == values.amax(-1, keepdim=True)).all()
    assert (found["agents", "action"].sum(-1) == 1).all()


def test_it_is_what_a_leader_and_those_who_answer_it_do():
    values = torch.randn(B, ACTIONS**AGENTS, generator=torch.Generator().manual_seed(0))
    found = best()(TensorDict({"joint_action_value": values}, [B]))
    acted = found["agents", "action"].argmax(-1)
    for table, row in zip(values.view(B, *[ACTIONS] * AGENTS), acted, strict=True):
        first = int(table.amax((1, 2)).argmax())
        second = int(table[first].amax(1).argmax())
        third = int(table[first, second].argmax())
        assert row.tolist() == [first, second, third]


def test_a_joint_action_counts_where_every_part_is_allowed():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(B, ACTIONS**AGENTS, generator=generator)
    mask = torch.rand(B, AGENTS, ACTIONS, generator=generator) < 0.5
    mask[0, 1] = False  # padding: everything is allowed
    batch = TensorDict({"joint_action_value": values, "agents": {"action_mask": mask}}, [B])
    found = best(masked=True)(batch.copy())
    for row in range(B):
        allowed = [
            list(range(ACTIONS)) if not own.any() else own.nonzero().flatten().tolist()
            for own in mask[row]
        ]
        numbers = [a * 25 + b * 5 + c for a, b, c in itertools.product(*allowed)]
        assert found["joint_action"][row].item() in numbers
        assert found["chosen_joint_value"][row] == values[row, numbers].max()


def test_other_numbers_of_values_are_refused():
    with pytest.raises(ValueError, match=r"3 agents with 5 actions have 125 joint actions, got 24"):
        best()(TensorDict({"joint_action_value": torch.zeros(B, 24)}, [B]))
    with pytest.raises(KeyError, match="joint_action_value"):
        best()(TensorDict({}, [B]))
    with pytest.raises(ValueError, match="num_agents must be at least 1"):
        BestJointAction(num_agents=0, num_actions=2)


def test_a_network_that_would_have_too_many_outputs_is_refused():
    with pytest.raises(ValueError, match=r"at most 1024, got 2\*\*11 = 2048"):
        make_joint_qnetwork(TargetEnv(discrete=True, n_agents=11))
    with pytest.raises(ValueError, match="one-hot"):
        make_joint_qnetwork(TargetEnv())
