"""The documentation's environment of one's own, as it stands there."""

from __future__ import annotations

import re
import sys

import pytest
from scripts import ROOT
from torchrl.envs import VmasEnv

from torchrl_alita import ALITA, MADDPG
from torchrl_alita.__main__ import main
from torchrl_alita.envs import as_team, get_task, layout_of, make_env
from torchrl_alita.saving import checkpoint_difference
from torchrl_alita.training import make_config, train

pytest.importorskip("vmas")


@pytest.fixture
def my_tasks(tmp_path, monkeypatch):
    text = (ROOT / "docs" / "environments.md").read_text()
    code = re.search(r"```python\n(# my_tasks.py\n.*?)```", text, re.S).group(1)
    assert len(code.splitlines()) <= 32
    (tmp_path / "my_tasks.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_tasks", raising=False)
    yield
    sys.modules.pop("my_tasks", None)


def test_the_pages_environment_is_a_task_that_alita_plays(my_tasks):
    task = get_task("my_tasks:task")
    env = make_env(task, num_envs=4, seed=0)
    assert layout_of(env)[:3] == (3, 14, 2)
    episodes = env.rollout(50, ALITA(env).actor)
    assert episodes["next", "truncated"][:, -1].all()
    assert 0 <= float(task.metrics(episodes)["catches"]) <= 1


def test_the_pages_environment_trains_from_python_and_from_the_command_line(
    my_tasks, tmp_path, capsys
):
    """One run from each, and the same one: the command line is the config."""
    options = {
        "num_envs": 5, "horizon": 6, "total_frames": 60, "frames_per_batch": 30, "seed": 4,
        "evaluation_episodes": 2, "algorithm.frames_per_update": 30, "algorithm.random_frames": 30,
    }  # fmt: skip
    own = {"progress": False, "run_dir": tmp_path / "python"}
    summary = train(make_config("maddpg", "my_tasks:task", options | own))
    words = [
        word
        for name, value in options.items()
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    folder = str(tmp_path / "shell")
    command = ["train", "maddpg", "--task", "my_tasks:task", "--no-progress", *words]
    assert main([*command, "--run-dir", folder]) == 0
    assert "catches" in capsys.readouterr().out
    assert summary["updates"] == 1
    assert set(checkpoint_difference(summary["run_dir"], folder).values()) == {0.0}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_tasks:tusk", "'my_tasks' has no attribute 'tusk'"),
        ("no_such_module:task", "No module named 'no_such_module'"),
        ("my_tasks:catches.__doc__", "cannot be imported"),
        ("math:pi", "The task 'math:pi' must be a Task or give one, got 3.14"),
    ],
)
def test_a_name_that_leads_nowhere_is_one_sentence(my_tasks, name, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        get_task(name)


def test_unequal_agents_that_nobody_padded_are_one_sentence():
    """VMAS's adversary sees less than the others: two groups, until they are laid out."""
    env = VmasEnv("simple_adversary", num_envs=2)
    with pytest.raises(KeyError, match=r"has no .*observation.*: lay it out with as_team"):
        MADDPG(env)
    assert MADDPG(as_team(env)).layout.num_agents == 3
