"""What the pages and the README show runs as it stands."""

from __future__ import annotations

import re
import shlex
import sys
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from fakes import TargetEnv, changed_training, flat_config
from scripts import load

from torchrl_alita.__main__ import COMMANDS
from torchrl_alita.algorithms import ALGORITHMS, MADDPG
from torchrl_alita.envs import Task, get_task
from torchrl_alita.envs.registry import TASKS
from torchrl_alita.training import parse_arguments, train
from torchrl_alita.training.logging import MetricsFile

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "docs" / "index.md",
    *(
        page
        for folder in ("tutorials", "bonuses")
        for page in sorted((ROOT / "docs" / folder).glob("*.md"))
        if page.stem != "index"
    ),
]


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.S | re.M)


def test_the_pages_have_code():
    assert len(PAGES) > 1
    assert all(blocks(page, "python") or blocks(page, "bash") for page in PAGES)


@pytest.fixture
def as_they_were():
    """What a page registers is gone after it."""
    kept = [(registry, dict(registry)) for registry in (ALGORITHMS, TASKS)]
    yield
    for registry, content in kept:
        registry.clear()
        registry.update(content)


@pytest.mark.usefixtures("as_they_were")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_python_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = ModuleType("page")
    # Dataclasses look for the module in which they are.
    monkeypatch.setitem(sys.modules, "page", module)
    for code in blocks(page, "python"):
        exec(compile(code, str(page), "exec"), module.__dict__)


def commands(page: Path) -> list[list[str]]:
    """The command lines of a page, each as its words."""
    lines = "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.fixture
def somebodys_module(monkeypatch):
    """What stands for a reader's own in the pages."""
    for name, attribute in (("my_module", "meet_task"), ("my_tasks", "task")):
        module = ModuleType(name)
        setattr(module, attribute, lambda: get_task("push_box"))
        monkeypatch.setitem(sys.modules, name, module)

    @dataclass(frozen=True, kw_only=True)
    class Own(MADDPG.Settings):
        """Options of no other algorithm."""

    module = ModuleType("imitate")
    module.Imitate = type("Imitate", (MADDPG,), {"Settings": Own, "__module__": "imitate"})
    monkeypatch.setitem(sys.modules, "imitate", module)
    # What is looked up is known from then on, until the end of the test.
    monkeypatch.delitem(ALGORITHMS, "imitate:Imitate", raising=False)


@pytest.mark.usefixtures("somebodys_module")
@pytest.mark.parametrize(
    "page",
    [
        *PAGES,
        *sorted((ROOT / "docs").glob("*.md")),
        *sorted((ROOT / "docs/algorithms").glob("*.md")),
    ],
    ids=lambda page: page.stem,
)
def test_the_commands_of_a_page_are_understood(page):
    """They are not run: the command line and the scripts have tests of their own."""
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    for words in commands(page):
        match words:
            case ["torchrl-alita", "train", *rest] if not {"--resume", "--help"}.isdisjoint(rest):
                assert len(rest) <= 2
            case ["torchrl-alita", "train", *rest]:
                assert parse_arguments(rest).training.total_frames > 0
            case ["torchrl-alita", command, *_]:
                assert command in COMMANDS
            case ["make", target, *_]:
                assert target in targets
            case ["python", script, *rest] if script.startswith("recipes/"):
                defaults = getattr(load("recipes", Path(script).stem), "DEFAULTS", None)
                if defaults and "--resume" not in rest:
                    assert parse_arguments(rest, defaults).training.total_frames > 0
            case ["python", script, *_] if script.endswith(".py"):
                assert (ROOT / script).is_file()


HEADINGS = ["Command", "Options", "What is logged", "What departs from the source", "Results"]
SMALL = {
    "num_cells": (13,), "hidden_size": 5, "num_envs": 5, "horizon": 4, "total_frames": 60,
    "frames_per_batch": 20, "frames_per_update": 20, "random_frames": 20, "batch_size": 16,
    "conditional_batch_size": 64, "num_anchors": 2, "sequence_length": 2, "burn_in": 0,
    "evaluation_episodes": 2, "compile": False, "progress": False,
}  # fmt: skip
# Where an algorithm runs that needs more than continuous actions of three agents.
FORMS = (
    {"n_agents": 3},
    {"n_agents": 3, "discrete": True},
    {"n_agents": 3, "discrete": True, "has_state": True},
    {"n_agents": 1},
)


def logged(name: str, folder: Path) -> set[str]:
    """What an algorithm logs of its updates, in the first form of environment that it takes."""
    if name == "on_policy_alita":
        return columns(
            flat_config(algorithm=name, n_agents=2, **SMALL), folder, get_task("push_box")
        )
    for form in FORMS:
        own = {key: value for key, value in form.items() if key != "n_agents"}
        task = Task(make=lambda **o: TargetEnv(**(o | own)), n_agents=form["n_agents"], horizon=4)  # noqa: B023
        try:
            return columns(flat_config(algorithm=name, **SMALL), folder, task)
        except ValueError:
            continue
    raise ValueError(f"{name} runs in none of the environments.")


def columns(config, folder: Path, task: Task) -> set[str]:
    run_dir = folder / str(len(list(folder.iterdir())))
    train(changed_training(config, run_dir=run_dir), task=task)
    names = MetricsFile(run_dir / "metrics.csv").columns
    return {n.removeprefix("training/") for n in names if n.startswith("training/")}


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name != "sides"])
def test_an_algorithms_page_has_its_order_and_explains_what_it_logs(name, tmp_path):
    text = (ROOT / "docs" / "algorithms" / f"{name}.md").read_text()
    found = [h for h in re.findall(r"^## (.*)$", text, re.M) if h in HEADINGS]
    assert found == HEADINGS
    explained = set(re.findall(r"^\| `(\w+)` \|", text, re.M))
    assert logged(name, tmp_path) <= explained


def test_every_extra_is_on_the_page_that_installs_it():
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    text = (ROOT / "docs" / "install.md").read_text()
    assert set(config["options.extras_require"]) <= set(re.findall(r"`([a-z]+)`", text))


def test_every_bonus_has_a_page():
    pages = {page.stem for page in (ROOT / "docs" / "bonuses").glob("*.md")}
    assert pages == {
        "index", "novelty_reward", "diversity_penalty", "visit_bonus", "transition_influence",
        "social_influence", "rnd_bonus", "bonus_scale",
    }  # fmt: skip
