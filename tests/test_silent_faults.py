"""Wrong results that nobody would have been told of, in the use of whole runs and sweeps."""

from __future__ import annotations

import csv
import io
import json
import logging
import random
import re
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import A, N, O, TargetEnv, flat_config
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.data import Binary, Bounded, Composite

from torchrl_alita import BestOf, DiversityPenalty, Team, make_actor
from torchrl_alita.envs import Task, make_env
from torchrl_alita.experiments import Cell, make_cells
from torchrl_alita.saving import find_checkpoint, read_component
from torchrl_alita.training import TrainingSettings, evaluate, evaluation, make_config, train

TASK = Task(make=TargetEnv, n_agents=N, horizon=4)


def tiny(run_dir: Path, **changes):
    options = {
        "algorithm": "maddpg", "task": "target", "num_envs": 5, "total_frames": 60,
        "frames_per_batch": 20, "frames_per_update": 20, "random_frames": 20, "batch_size": 16,
        "evaluation_episodes": 3, "num_cells": (13,), "progress": False, "run_dir": run_dir,
    }  # fmt: skip
    return flat_config(**(options | changes))


def policies(summary: dict) -> dict[str, torch.Tensor]:
    return read_component(find_checkpoint(summary["run_dir"]), "policy")


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


# Evaluations leave training alone, and are of the same episodes


def drawing(episodes) -> dict[str, torch.Tensor]:
    """A metric that draws, from all that a process has."""
    values = [float(torch.rand(7)[0]), float(np.random.rand()), random.random()]  # noqa: NPY002
    return {"drawn": torch.tensor(values).mean()}


def test_a_metric_that_draws_changes_no_training(tmp_path):
    plain = train(tiny(tmp_path / "plain"), task=TASK)
    drawn = train(
        tiny(tmp_path / "drawn"), task=Task(make=TargetEnv, n_agents=N, horizon=4, metrics=drawing)
    )
    assert same(policies(plain), policies(drawn))


class GlobalEnv(TargetEnv):
    """Draws its observations from NumPy's and Python's generators, as many simulators do."""

    def _draw(self) -> torch.Tensor:
        drawn = np.random.rand(*self.batch_size, self.n_agents, O)  # noqa: NPY002
        return torch.as_tensor(drawn * 1.6 - 0.8 + 0.01 * random.random(), dtype=torch.float32)


def test_evaluations_are_of_the_same_episodes_whatever_generator_draws_them(tmp_path):
    """No update is made: an evaluation that differs is one of other episodes."""
    task = Task(make=GlobalEnv, n_agents=N, horizon=4)
    config = tiny(tmp_path / "run", random_frames=40, evaluation_interval=20)
    train(config, task=task)
    with (tmp_path / "run" / "metrics.csv").open() as file:
        returns = [row["evaluation/return_mean"] for row in csv.DictReader(file)]
    assert len(returns) == 4
    assert len(set(returns[:-1])) == 1


class LooseEnv(TargetEnv):
    """Draws from a generator that no seed reaches."""

    loose = np.random.default_rng()

    def _draw(self) -> torch.Tensor:
        drawn = self.loose.random((*self.batch_size, self.n_agents, O))
        return torch.as_tensor(drawn, dtype=torch.float32)


def test_an_environment_that_no_seed_reaches_is_said_to_be_one(tmp_path):
    task = Task(make=LooseEnv, n_agents=N, horizon=4)
    with pytest.warns(UserWarning, match="begin otherwise from the same seed"):
        train(tiny(tmp_path / "run"), task=task)


class Unsteady(nn.Module):
    """Drops half of what it sees, and keeps a running mean."""

    def __init__(self):
        super().__init__()
        self.norm, self.drop, self.last = nn.BatchNorm1d(O), nn.Dropout(0.5), nn.Linear(O, A)

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        flat = self.norm(seen.reshape(-1, O)).view_as(seen)
        return torch.tanh(self.last(self.drop(flat)))


def test_an_evaluation_drops_nothing_and_moves_no_running_mean():
    torch.manual_seed(0)
    network = Unsteady()
    policy = TensorDictModule(network, [("agents", "observation")], [("agents", "action")])
    network.last.requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    env = TargetEnv(seed=0)
    trained, _ = evaluate(policy, env, horizon=4, seed=1)
    assert same(before, network.state_dict())
    assert all(part.training for part in network.modules())
    network.drop.eval()
    evaluate(policy, env, horizon=4, seed=1)
    assert (network.drop.training, network.norm.training) == (False, True)
    steady, _ = evaluate(policy.eval(), env, horizon=4, seed=1)
    assert trained == steady


@pytest.mark.parametrize("seed", [evaluation.EVALUATION_SEED, 2_000_003])
def test_a_run_is_not_trained_on_the_episodes_of_its_evaluations(tmp_path, seed):
    with pytest.raises(ValueError, match=f"seed must not be {seed}: evaluations begin from it"):
        train(tiny(tmp_path / "run", seed=seed), task=TASK)
    assert not (tmp_path / "run").exists()


def test_new_episodes_after_a_checkpoint_have_a_seed_that_no_sum_can_hit(tmp_path, monkeypatch):
    """As sums, seed 3 at frame 1,000,000 is that of evaluations, and seed 20 at 20 is 0 at 40."""
    given = []
    from torchrl_alita.training.collection import Collection

    monkeypatch.setattr(Collection, "begin_episodes", lambda self, seed: given.append(seed))
    for seed in (0, 20):
        train(tiny(tmp_path / str(seed), seed=seed, checkpoint_interval=20), task=TASK)
    assert len(given) == len(set(given)) == 6
    assert not {40, 60, evaluation.EVALUATION_SEED} & set(given)


# Several runs


def test_a_second_thread_of_a_process_is_refused_a_run_and_the_first_goes_on(tmp_path):
    """Optuna's ``n_jobs=2`` trains in threads: both would draw from one random state."""
    alone = policies(train(tiny(tmp_path / "alone"), task=TASK))
    said = []

    def second() -> None:
        try:
            train(tiny(tmp_path / "second"), task=TASK)
        except ValueError as error:
            said.append(str(error))

    def meanwhile(episodes) -> dict[str, torch.Tensor]:
        if not said:
            thread = threading.Thread(target=second)
            thread.start()
            thread.join()
        return {}

    task = Task(make=TargetEnv, n_agents=N, horizon=4, metrics=meanwhile)
    first = train(tiny(tmp_path / "first"), task=task)
    assert len(said) == 1
    assert "Another thread of this process trains a run" in said[0]
    assert not (tmp_path / "second").exists()
    assert same(policies(first), alone)
    train(tiny(tmp_path / "second"), task=TASK)


def test_a_run_from_python_shows_no_line_of_torchrl_and_gives_its_level_back(tmp_path, caplog):
    logger = logging.getLogger("torchrl")
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(caplog.handler)
    try:
        train(tiny(tmp_path / "run"), task=TASK)
        assert logger.level == logging.INFO
    finally:
        logger.setLevel(before)
        logger.removeHandler(caplog.handler)
    assert [record for record in caplog.records if record.name.startswith("torchrl.")] == []
    assert [record for record in caplog.records if record.name == "torchrl"] == []


def test_a_run_that_is_resumed_with_other_threads_says_so(tmp_path, capsys):
    train(tiny(tmp_path / "run"), task=TASK)
    train(tiny(None, resume=tmp_path / "run", total_frames=80), task=TASK)
    assert "the last digits" not in capsys.readouterr().out
    train(tiny(None, resume=tmp_path / "run", total_frames=100, threads=2), task=TASK)
    said = capsys.readouterr().out
    assert "Its checkpoint is of threads 1 (now 2): the last digits may differ" in said


def test_a_run_that_is_resumed_with_another_version_says_so(tmp_path, capsys):
    train(tiny(tmp_path / "run"), task=TASK)
    manifest = find_checkpoint(tmp_path / "run") / "manifest.json"
    content = json.loads(manifest.read_text())
    content["metadata"]["machine"]["torch"] = "2.0.0"
    manifest.write_text(json.dumps(content))
    train(tiny(None, resume=tmp_path / "run", total_frames=80), task=TASK)
    assert f"of torch 2.0.0 (now {torch.__version__})" in capsys.readouterr().out


# Sweeps


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tasks": ["push_box", "push_box"]}, "tasks has 'push_box' twice"),
        ({"algorithms": ["maddpg", "maddpg"]}, "algorithms has 'maddpg' twice"),
        ({"seeds": [0, 1, 0]}, "seeds has 0 twice"),
        ({"seeds": [0, True]}, "seeds must be a whole number, got True"),
        ({"seeds": True}, "seeds must be a sequence, got True"),
        ({"grid": {"maddpg.gamma": [0.9, "0.90"]}}, "maddpg.gamma has '0.90' twice"),
        ({"grid": {"maddpg.num_cells": [[8, 8], ("8", "8")]}}, "num_cells has .* twice"),
        ({"grid": {"maddpg.actor-lr": [1], "maddpg.actor_lr": [2]}}, "grid has .* twice"),
        ({"grid": {"seed": [3]}}, "seed is no setting here"),
        ({"grid": {"total-frames": [20]}}, "total_frames is no setting here"),
        ({"grid": {"run_dir": ["x"]}}, "run_dir is no setting here"),
    ],
)
def test_a_sweep_trains_nothing_twice_under_two_names(changes, said):
    given = {"tasks": ["push_box"], "algorithms": ["maddpg"], "seeds": 2, "grid": {}} | changes
    tasks, algorithms = given.pop("tasks"), given.pop("algorithms")
    with pytest.raises((ValueError, TypeError), match=said):
        make_cells(tasks, algorithms, study="s", frames=100, **given)


def test_a_cell_has_its_own_seed():
    """Five seeds would have been one, and their interval a point."""
    fields = {"study": "s", "variant": "v", "task": "push_box", "algorithm": "iql", "frames": 10}
    with pytest.raises(ValueError, match="seed is no setting here"):
        Cell(**fields, seed=1, settings={"training.seed": 3})


# Options


def test_an_option_that_is_given_in_two_spellings_is_refused():
    with pytest.raises(ValueError, match=r"algorithm\.actor_lr is given twice"):
        make_config("maddpg", options={"algorithm.actor-lr": 0.1, "algorithm.actor_lr": 0.2})
    for twice in ({"seed": 1, "training.seed": 2}, {"training.num-envs": 5, "num_envs": 5}):
        with pytest.raises(ValueError, match=rf"{list(twice)[1]} is given twice"):
            make_config("maddpg", options=twice)
    with pytest.raises(ValueError, match="num_envs is given twice"):
        Cell(
            study="s", variant="v", task="push_box", algorithm="iql", frames=10, seed=1,
            settings={"training.num-envs": 5, "num_envs": 10},
        )  # fmt: skip


def test_a_buffer_that_drops_what_nobody_has_seen_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"at least frames_per_batch, 20, or what .* got 19"):
        train(tiny(tmp_path / "run", buffer_size=19), task=TASK)
    assert not (tmp_path / "run").exists()
    assert train(tiny(tmp_path / "run", buffer_size=20), task=TASK)["updates"] == 2


def test_a_logger_is_named_once():
    with pytest.raises(ValueError, match=r"once, got \['csv', 'csv'\]"):
        TrainingSettings(loggers=("csv", "csv"))


@pytest.mark.parametrize("flag", [True, np.bool_(True), torch.tensor(True)])
def test_a_flag_is_no_number_and_no_agent(flag):
    env = TargetEnv()
    spec = Composite(agents=Composite(action=Bounded(-1, 1, (N, A)), shape=(N,)))
    for build in (
        lambda: Team(env, influencers=flag),
        lambda: DiversityPenalty(make_actor(env), omega=flag),
        lambda: BestOf(uniform=flag, spec=spec["agents", "action"]),
        lambda: make_env("push_box", num_envs=flag),
        lambda: make_env("push_box", seed=flag),
    ):
        with pytest.raises((TypeError, ValueError), match="True"):
            build()


# Environments of one's own


def test_a_task_that_makes_other_agents_than_it_was_asked_for_is_refused():
    def make(*, n_agents, **options):
        return TargetEnv(n_agents=N, **options)

    task = Task(make=make, n_agents=N, horizon=4)
    assert make_env(task, n_agents=N)
    with pytest.raises(ValueError, match=f"must make 7 agents, as it was asked to, got {N}"):
        make_env(task, n_agents=7)


def test_a_task_that_makes_its_environments_elsewhere_is_refused():
    def make(*, device, **options):
        return TargetEnv(**options)

    with pytest.raises(ValueError, match="on 'meta', got cpu"):
        make_env(Task(make=make, n_agents=N, horizon=4), device="meta")


class Paralysed(TargetEnv):
    """Agent 1 is allowed nothing, from the beginning or from the first step on."""

    def __init__(self, late: bool, **options):
        super().__init__(discrete=True, **options)
        self.late = late
        lead = (*self.batch_size, self.n_agents)
        self.mask = torch.ones(*lead, A, dtype=torch.bool)
        self.mask[:, 1] = False
        self.observation_spec["agents", "action_mask"] = Binary(A, (*lead, A), dtype=torch.bool)

    def _transition(self, ended: torch.Tensor, **agents: torch.Tensor) -> TensorDict:
        mask = self.mask | (self.late & (self.steps == 0)).unsqueeze(-1)
        return super()._transition(ended, action_mask=mask, **agents)


@pytest.mark.parametrize(
    ("algorithm", "late", "frame"), [("maddpg", False, 0), ("mappo", True, 20)]
)
def test_an_agent_that_may_do_nothing_at_all_stops_the_run(tmp_path, algorithm, late, frame):
    """Whatever it did, the team would learn from an action that is not allowed."""
    options = {"num_envs": 5, "total_frames": 60, "frames_per_batch": 20, "evaluation_episodes": 3}
    run = {"progress": False, "run_dir": tmp_path / "run"}
    config = make_config(algorithm, "push_box", options | run | OWN.get(algorithm, {}))
    task = Task(make=partial(Paralysed, late), n_agents=N, horizon=4)
    said = rf"action_mask'\) allows agent 1 no action, at frame {frame}:"
    with pytest.raises(ValueError, match=said):
        train(config, task=task)


OWN = {"maddpg": {"algorithm.random_frames": 20, "algorithm.frames_per_update": 20}}


# The console


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_is_shown_on_a_terminal_alone_and_elsewhere_a_line_for_each_evaluation(
    tmp_path, capsys, monkeypatch
):
    """A bar that rewrites its line fills the log of a job on a cluster."""
    watched = {"progress": True, "evaluation_interval": 40}
    train(tiny(tmp_path / "log", **watched), task=TASK)
    shown = capsys.readouterr()
    assert re.findall(r"^ +(\d+) frames, return=-?\d+\.\d$", shown.out, re.M) == ["40", "60"]
    assert shown.err == ""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    train(tiny(tmp_path / "terminal", **watched), task=TASK)
    assert "60.0/60.0" in terminal.getvalue()
    assert "frames, return=" not in capsys.readouterr().out


def test_nothing_is_shown_of_a_run_that_is_asked_to_be_silent(tmp_path, capsys, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    train(tiny(tmp_path / "run"), task=TASK)
    assert (terminal.getvalue(), capsys.readouterr().out) == ("", "")
