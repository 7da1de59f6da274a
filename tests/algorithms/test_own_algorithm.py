"""The documentation's algorithm of one's own, named as other processes find it."""

from __future__ import annotations

import json
import re
import sys

import pytest
from scripts import ROOT

from torchrl_alita.__main__ import main
from torchrl_alita.algorithms import (
    ALGORITHMS,
    MADDPG,
    algorithm_of,
    get_algorithm,
    register_algorithm,
)
from torchrl_alita.experiments import make_cells, run_cells

TRAINING = {
    "num_envs": 5, "horizon": 6, "frames_per_batch": 30, "evaluation_episodes": 2, "pictures": False,
    "algorithm.num_cells": 4, "algorithm.frames_per_update": 30, "algorithm.random_frames": 30,
}  # fmt: skip


def forget():
    """As a new process, which knows the module's name alone."""
    sys.modules.pop("imitate", None)
    for name in ("imitate", "imitate:Imitate"):
        ALGORITHMS.pop(name, None)


@pytest.fixture(params=["registered", "by its module alone"])
def imitate(request, tmp_path, monkeypatch):
    text = (ROOT / "docs" / "tutorials" / "write_an_algorithm.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.S).group(1)
    *lines, last = code.strip().splitlines()
    assert last.startswith("register_algorithm(")
    (tmp_path / "imitate.py").write_text(
        code if request.param == "registered" else "\n".join(lines)
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    forget()
    yield
    forget()


def test_it_trains_and_goes_on_in_another_process(imitate):
    words = [w for name, value in TRAINING.items() for w in (f"--{name}", str(value).lower())]
    command = ["train", "imitate:Imitate", "--task", "mpe/spread", "--no-progress", *words]
    assert main([*command, "--total-frames", "60", "--run-dir", "run"]) == 0
    with open("run/config.json") as file:
        assert json.load(file)["algorithm"]["name"] == "imitate:Imitate"
    forget()
    assert main(["train", "--resume", "run", "--total-frames", "120"]) == 0
    with open("run/summary.json") as file:
        assert json.load(file)["updates"] == 3


@pytest.mark.parametrize("imitate", ["by its module alone"], indirect=True)
def test_a_sweeps_workers_find_it(imitate, tmp_path):
    grid = {"imitate:Imitate.temperature": [2.0], **{k: [v] for k, v in TRAINING.items()}}
    own = {name.replace("algorithm.", "imitate:Imitate."): values for name, values in grid.items()}
    cells = make_cells(
        ["mpe/spread"], ["imitate:Imitate"], study="own", seeds=1, frames=60, grid=own
    )
    outcome = run_cells(cells, tmp_path / "sweep", workers=1, progress=False)
    assert not outcome.failures
    (row,) = outcome.rows
    assert row.algorithm == "imitate:Imitate"
    assert row.settings["algorithm.temperature"] == 2.0


def test_a_class_has_one_short_name():
    with pytest.raises(ValueError, match="MADDPGSettings is of the algorithm 'maddpg' already"):
        register_algorithm("another", MADDPG)


def test_one_of_the_package_keeps_its_short_name():
    assert get_algorithm("torchrl_alita.algorithms:MADDPG") is MADDPG
    assert algorithm_of(MADDPG.Settings()) == "maddpg"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:Imitate", "cannot be imported; .* No module named 'no_such_module'"),
        ("math:Imitate", "cannot be imported; .* has no attribute 'Imitate'"),
        ("math:tau", "'math:tau' must be a class of Learner, got 6.28"),
        (":", "cannot be imported"),
        ("imitate", "Unknown algorithm 'imitate'. One of your own is named module:Class"),
    ],
)
def test_what_is_no_algorithm_is_refused_in_one_sentence(name, message, capsys):
    with pytest.raises(ValueError, match=message):
        get_algorithm(name)
    assert main(["train", name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("torchrl-alita: ")
