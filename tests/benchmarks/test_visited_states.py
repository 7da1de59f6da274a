"""Visits of a team in training: counts and table, by hand."""

from __future__ import annotations

import torch
from scripts import load

from torchrl_alita.data import count_codes_of
from torchrl_alita.envs import PushBox

visited = load("benchmarks", "visited_states")


def test_cells_are_counted_for_each_agent_and_joint_states_once():
    env = PushBox(3, seed=0)
    visits = visited.Visits(count_codes_of(env), 2)
    episode = env.rollout(5)
    for _ in range(2):
        visits.add(episode["agents", "observation"])
    # All begin in the corner.
    assert int(visits.cells[0, env.size + 1]) >= 2 * 3
    assert visits.cells.sum(-1).tolist() == [2 * 3 * 5] * 2
    states = episode["agents", "observation"][:, :, 0].flatten(0, 1).unique(dim=0)
    assert int(visits.joint.sum()) == len(states)


def test_a_team_of_the_study_is_trained_and_counted(monkeypatch, tmp_path):
    sizes = {"num_envs": 3, "horizon": 30, "frames_per_batch": 33, "task.reward": 1.0}
    monkeypatch.setitem(visited.STUDY.tasks, "push_box", (33, sizes))
    config = visited.Config(methods=("EITI", "MAPPO"), tasks=("push_box",), batches=2)
    rows = visited.measure(config)["rows"]
    assert [sum(row["cells"][1]) for row in rows] == [66, 66]
    assert visited.visits_table(rows).splitlines()[2].startswith("| EITI |")
    monkeypatch.setattr(visited, "PICTURE", tmp_path / "visits.png")
    visited.draw({"rows": rows})
    assert (tmp_path / "visits.png").stat().st_size > 1_000
    assert torch.tensor(rows[0]["cells"]).shape == (2, 225)
