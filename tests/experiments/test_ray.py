"""A sweep on a Ray cluster of two nodes, of which one is killed."""

from __future__ import annotations

import importlib.util
import signal
import threading
import time

import pytest
from fake_cells import but_times, cells, histories

from torchrl_alita.experiments import run_cells

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="ray is not installed: the extra ray"
    ),
    # Of Ray and what it imports.
    pytest.mark.filterwarnings("ignore"),
]
FRAMES = 4_000
MOST_SECONDS = 400


@pytest.fixture
def deadline():
    """An end for what may wait for ever on a machine that does too much else."""

    def late(*_):
        raise TimeoutError(f"The sweep has not ended within {MOST_SECONDS} s.")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(MOST_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("deadline")
def test_what_ran_on_a_node_that_is_killed_goes_on_at_another(tmp_path, monkeypatch):
    from ray.cluster_utils import Cluster

    monkeypatch.chdir(tmp_path)
    whole = run_cells(cells(1, frames=FRAMES), tmp_path / "whole", workers=2)
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    cluster.add_node(num_cpus=1)
    doomed = cluster.add_node(num_cpus=1)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    out = tmp_path / "out"

    def kill() -> None:
        deadline = time.monotonic() + 200
        while len(list(out.glob("runs/*/*/*/run/checkpoints"))) < 2:
            if time.monotonic() > deadline:
                return
            time.sleep(0.02)
        cluster.remove_node(doomed, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        outcome = run_cells(cells(1, frames=FRAMES), out, launcher="ray")
    finally:
        killer.join()
        cluster.shutdown()
    assert not outcome.failures
    assert but_times(outcome.rows) == but_times(whole.rows)
    said = histories(out).values()
    assert all(lines.count("started") == 1 for lines in said)
    assert sum("resumed" in line for lines in said for line in lines) == 1
