"""benchmarks/gpu.py, in a tiny form on the CPU."""

from __future__ import annotations

import json

import pytest
from scripts import load


@pytest.mark.slow
def test_the_script_measures_everything_and_its_tables_can_be_written(tmp_path):
    gpu = load("benchmarks", "gpu")
    config = gpu.Config(
        device="cpu", turns=1, seeds=1, num_envs=(2,), peer=False, tiny=True,
        output=tmp_path / "gpu.json",
    )  # fmt: skip
    content = gpu.main(config)
    assert json.loads(config.output.read_text()).keys() == content.keys()
    # Here both sides are the CPU.
    assert content["parity"] == {"maddpg, eager": 0.0, "alita, eager": 0.0}
    assert set(content["updates"]["turns"]) == {"maddpg, eager", "alita, eager"}
    assert not content["updates"]["failed"]


def test_the_speed_page_has_what_the_results_say():
    gpu = load("benchmarks", "gpu")
    text = gpu.report(json.loads(gpu.RESULT.read_text()))
    assert text in (gpu.ROOT / "docs" / "speed.md").read_text()
