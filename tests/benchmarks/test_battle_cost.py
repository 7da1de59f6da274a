"""What a battle costs by method: the runs that are measured, and the table."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scripts import load

cost = load("benchmarks", "battle_cost")
starcraft = load("recipes", "starcraft")

SMALL = {"hidden_size": 5, "burn_in": 0, "sequence_length": 5, "batch_size": 10}


def figures(update_s: float, million_s: float) -> dict[str, float]:
    ends = {"update_s_min": update_s / 2, "update_s_max": update_s * 2}
    parts = {"updates": 10_000.0, "million_updates_s": 1e4 * update_s, "turns": 3}
    return {"update_s": update_s, "million_s": million_s, **ends, **parts}


@pytest.mark.parametrize("name", cost.METHODS)
def test_every_method_has_the_recipes_environments_and_is_not_compiled(name, tmp_path):
    run = cost.run_config(cost.Config(), name, tmp_path)
    training = run.training
    assert (training.num_envs, training.frames_per_batch) == (20, 1_000)
    assert not getattr(run.algorithm, "compile", False)
    recipe = starcraft.defaults("smax/2s3z").get(run.algorithm_name)
    if recipe is not None:
        _, changes = cost.METHODS[name]
        own = {"compile": False} if hasattr(recipe.algorithm, "compile") else {}
        if hasattr(recipe.algorithm, "buffer_size"):
            own["buffer_size"] = cost.BUFFER
        assert run.algorithm == replace(recipe.algorithm, **own, **changes)


def test_a_method_is_measured_from_its_first_update_on(tmp_path, monkeypatch):
    monkeypatch.setattr(cost, "METHODS", {"QMIX": ("qmix", SMALL)})
    monkeypatch.setattr(cost, "restart_with_allocator", lambda: None)
    plain = cost.run_config

    def small(*arguments):
        run = plain(*arguments)
        training = replace(run.training, num_envs=2, frames_per_batch=200)
        return replace(run, training=training)

    monkeypatch.setattr(cost, "run_config", small)
    found = cost.measure(cost.Config(task="push_box", seconds=0.0, rounds=2))
    row = found["methods"]["QMIX"]
    # Two updates for each batch of 200 frames.
    assert row["updates"] == pytest.approx(10_000)
    assert row["turns"] == 2
    assert row["update_s_min"] <= row["update_s"] <= row["update_s_max"]
    assert row["million_updates_s"] == pytest.approx(1e4 * row["update_s"])
    assert row["million_s"] > row["million_updates_s"]


def test_the_table_has_each_method_beside_qmix():
    rows = cost.cost_table({"QMIX": figures(0.1, 2_000), "COMA": figures(0.2, 1_000)})
    assert rows.splitlines()[-1] == ("| COMA | 200 [100, 400] | 10,000 | 2,000 | 1,000 | 0.5 |")
