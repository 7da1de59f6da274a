"""The documentation's environment of one's own, as it stands there."""

from __future__ import annotations

import re
import sys

import pytest
from scripts import ROOT

from torchrl_alita import ALITA
from torchrl_alita.envs import get_task, layout_of, make_env

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


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_tasks:tusk", "The task 'my_tasks:tusk' cannot be imported: module 'my_tasks' has no"),
        ("no_such_module:task", "cannot be imported: No module named 'no_such_module'"),
        ("my_tasks:catches.__doc__", "cannot be imported"),
        ("math:pi", "The task 'math:pi' must be a Task or give one, got 3.14"),
    ],
)
def test_a_name_that_leads_nowhere_is_one_sentence(my_tasks, name, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        get_task(name)
