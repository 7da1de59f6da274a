"""The studies of benchmarks/: they can be trained, and their rows are their own."""

from __future__ import annotations

import pytest
from scripts import load

from torchrl_alita.algorithms import algorithm_of
from torchrl_alita.experiments import read_rows
from torchrl_alita.training import parse_arguments

NAMES = load("benchmarks", "study").NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_rows_of_a_study_are_its_own(studies, name):
    study = studies.load(name)
    for row in read_rows(studies.RESULTS / f"{name}.jsonl"):
        assert row.study == name
        assert row.task in study.tasks
        assert not row.frames or row.algorithm == study.variants[row.variant].algorithm
        assert row.commit


# JaxMARL names a later version of a game.
@pytest.mark.filterwarnings("ignore:OvercookedV2:DeprecationWarning")
@pytest.mark.parametrize("name", NAMES)
def test_every_run_of_a_study_is_a_command_that_is_understood(studies, name):
    """By the recipe that it names, whose values count: without it the defaults would be others."""
    study, understood = studies.load(name), 0
    for cell in study.cells():
        if cell.seed != study.seeds[0]:
            continue
        defaults = None
        if cell.program is not None:
            folder, script = cell.program[0].removesuffix(".py").split("/")
            recipe = load(folder, script)
            made = getattr(recipe, "defaults", None)
            defaults = recipe.DEFAULTS if made is None else made(cell.task)
        try:
            config = parse_arguments(cell.arguments, defaults)
        except ImportError:  # The task's extra is not installed.
            continue
        understood += 1
        assert (config.task, config.algorithm_name) == (cell.task, cell.algorithm)
        assert config.training.total_frames == cell.frames
        for option, value in cell.settings.items():
            if option != "preset":
                found = setting(config, option)
                assert found == (tuple(value) if isinstance(value, list) else value), option
    assert understood


def setting(config, option: str):
    """What a config says of an option of the command line."""
    part, _, field = option.rpartition(".")
    if part == "side":
        follows = dict(config.algorithm.sides)[field]
        return follows if isinstance(follows, str) else algorithm_of(follows)
    if part.startswith("side."):
        return getattr(dict(config.algorithm.sides)[part.removeprefix("side.")], field)
    own = {"": "training", "task": "task_settings"}.get(part, part)
    return getattr(getattr(config, own), field)
