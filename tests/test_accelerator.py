"""Nothing in an update or a sample waits for an accelerator, or computes beside it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from accelerator import ACTED, ALGORITHMS, PLANTED, SAMPLED

# What TorchRL asks of values in eager mode: whether bounds are in order, whether a value is NaN.
OF_TORCHRL = {
    "SAC": "distributions/continuous.py",
    "TAC": "distributions/continuous.py",
    "PPO": "value/advantages.py",
}


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, list[str]]]:
    run = subprocess.run(
        [sys.executable, "-c", "import accelerator; accelerator.main()"],
        cwd=Path(__file__).parent,
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.slow
def test_whatever_waits_for_the_device_or_misses_it_is_found(found):
    clean = {name for name, transfers in found["planted"].items() if not transfers}
    assert found["planted"].keys() == PLANTED.keys()
    assert clean == {"nothing"}


def test_an_update_makes_all_it_needs_on_the_device_and_reads_nothing_back(found):
    assert found["updates"].keys() == ALGORITHMS.keys()
    for name, transfers in found["updates"].items():
        if name in OF_TORCHRL:
            (only,) = transfers
            assert OF_TORCHRL[name] in only
        else:
            assert transfers == [], name


def test_a_buffer_on_the_device_is_sampled_without_waiting(found):
    assert found["samples"] == {kind: [] for kind in SAMPLED}


def test_policies_and_environments_compute_where_they_are(found):
    assert found["steps"] == {name: [] for name in ACTED}
