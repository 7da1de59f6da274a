"""Every environment that this package makes for itself is closed once, also after an error."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from fakes import N, TargetEnv, flat_config
from torchrl.envs import SerialEnv

from torchrl_alita import make_env
from torchrl_alita.envs import Task
from torchrl_alita.training import cross_play, loop, train
from torchrl_alita.training.collection import Collection
from torchrl_alita.training.evaluation import Evaluation


class Counted(TargetEnv):
    """Knows how often it was closed, and does nothing afterwards."""

    made: list[Counted]

    def __init__(self, **options):
        super().__init__(**options)
        self.closed = 0
        Counted.made.append(self)

    def _step(self, tensordict):
        if self.closed:
            raise RuntimeError("This simulator was closed.")
        return super()._step(tensordict)

    def close(self, *, raise_if_closed: bool = True) -> None:
        self.closed += 1
        super().close(raise_if_closed=raise_if_closed)


class Plain(Counted):
    """Closed as any object is, without TorchRL's argument."""

    def close(self) -> None:
        self.closed += 1


class Opened(Counted):
    """Says that it is open, as a wrapper of TorchRL does."""

    def __init__(self, **options):
        super().__init__(**options)
        self.is_closed = False


KINDS = [Counted, Plain, Opened]


@pytest.fixture(autouse=True)
def made() -> list[Counted]:
    Counted.made = []
    return Counted.made


def task(kind: type = Counted, **options) -> Task:
    return Task(make=kind, n_agents=N, horizon=4, **options)


def tiny(run_dir: Path | None, **changes):
    options = {
        "algorithm": "maddpg", "task": "target", "num_envs": 5, "total_frames": 40,
        "frames_per_batch": 20, "frames_per_update": 20, "random_frames": 20, "batch_size": 16,
        "evaluation_episodes": 3, "progress": False, "pictures": False, "num_cells": (13,),
        "run_dir": run_dir,
    }  # fmt: skip
    return flat_config(**(options | changes))


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_closes_each_of_its_environments_once(tmp_path, made, kind):
    assert train(tiny(tmp_path / "run"), task=task(kind))["frames"] == 40
    assert [env.closed for env in made] == [1, 1]


def test_an_algorithm_of_several_policies_has_its_environment_of_the_choice_closed_too(
    tmp_path, made
):
    options = {"algorithm": "twin_alita", "n_agents": 1, "batch_size": 16}
    train(tiny(tmp_path / "run", **options), task=task())
    assert [env.closed for env in made] == [1, 1, 1]


def test_a_run_with_a_memory_closes_what_its_transforms_surround(tmp_path, made):
    memory = {"recurrent": True, "hidden_size": 5, "sequence_length": 2, "burn_in": 1}
    train(tiny(tmp_path / "run", **memory), task=task())
    assert [env.closed for env in made] == [1, 1]


def fail(*args, **kwargs):
    raise ZeroDivisionError


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_in_the_metrics_closes_all_environments(tmp_path, made, kind):
    with pytest.raises(ZeroDivisionError):
        train(tiny(tmp_path / "run"), task=task(kind, metrics=fail))
    assert [env.closed for env in made] == [1, 1]


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (Evaluation, "__init__"),
        (Evaluation, "prepare"),
        (Collection, "__init__"),
        (loop, "Learning"),
        (loop, "RunDirectory"),
    ],
)
def test_an_error_while_a_run_is_built_closes_what_was_made(
    tmp_path, made, monkeypatch, owner, name
):
    monkeypatch.setattr(owner, name, fail)
    with pytest.raises(ZeroDivisionError):
        train(tiny(tmp_path / "run"), task=task())
    assert made
    assert {env.closed for env in made} == {1}


def test_an_algorithm_that_cannot_be_built_leaves_no_environment_open(tmp_path, made):
    with pytest.raises(ZeroDivisionError):
        train(tiny(tmp_path / "run"), task=task(), make_algorithm=fail)
    assert [env.closed for env in made] == [1, 1]


def test_an_environment_that_is_refused_is_closed(made):
    with pytest.raises(ValueError, match="must make 7 environments"):
        make_env(task(lambda num_envs, **options: Counted(num_envs=3, **options)), num_envs=7)
    assert [env.closed for env in made] == [1]


def test_environments_that_never_began_are_closed_without_a_complaint(made):
    """TorchRL's batches of environments count as closed until their first step."""

    def make(num_envs: int, **options):
        return SerialEnv(num_envs, partial(Counted, num_envs=1, **options))

    with pytest.raises(ValueError, match=r"must make 5 environments.* got \(5, 1\)"):
        make_env(task(make), num_envs=5)


@pytest.mark.parametrize("kind", KINDS)
def test_cross_play_closes_its_environments(made, kind):
    rows = cross_play(task(kind), {"agents": ["random", "random"]}, episodes=3)
    assert len(rows) == 2
    assert [env.closed for env in made] == [1]


def test_cross_play_of_policies_with_a_memory_closes_an_environment_for_each(tmp_path, made):
    memory = {"recurrent": True, "hidden_size": 5, "sequence_length": 2, "burn_in": 1}
    train(tiny(tmp_path / "run", **memory), task=task())
    made.clear()
    run = str(tmp_path / "run")
    assert len(cross_play(task(), {"agents": [run, run]}, episodes=3)) == 2
    assert [env.closed for env in made] == [1, 1, 1]


class Threaded(Counted):
    """Changes torch's threads at its end, as several environments of TorchRL do."""

    def close(self, *, raise_if_closed: bool = True) -> None:
        torch.set_num_threads(torch.get_num_threads() + 1)
        super().close(raise_if_closed=raise_if_closed)


def test_cross_play_gives_the_process_its_threads_back(made):
    before = torch.get_num_threads()
    try:
        cross_play(task(Threaded), {"agents": "random"}, episodes=3)
        assert torch.get_num_threads() == before
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("wrong", [{"other": "random"}, {"agents": "no/such:policy"}])
def test_cross_play_that_ends_in_an_error_closes_its_environments(made, wrong):
    with pytest.raises((ValueError, ImportError)):
        cross_play(task(), wrong, episodes=3)
    with pytest.raises(ZeroDivisionError):
        cross_play(task(metrics=fail), {"agents": "random"}, episodes=3)
    assert [env.closed for env in made] == [1, 1]
