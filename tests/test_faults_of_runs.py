"""What users of whole runs ran into: loggers, settings, directories, the command line."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import B, N, TargetEnv, flat_config
from torchrl.data import Bounded, Composite, MultiOneHot, Unbounded

from torchrl_alita import ALITA, MADDPG, make_actor, make_env, make_qnetwork, make_recurrent_actor
from torchrl_alita.__main__ import main
from torchrl_alita._settings import Settings
from torchrl_alita.algorithms import QMIX, MADDPGSettings
from torchrl_alita.envs import Task, sides_of
from torchrl_alita.envs.registry import TASKS
from torchrl_alita.saving import init_policy, load_policy, read_config
from torchrl_alita.training import (
    TrainingSettings,
    cross_play,
    evaluate,
    figures,
    loop,
    parse_arguments,
    train,
)
from torchrl_alita.training.evaluation import side_returns
from torchrl_alita.training.learning import Learning

SMALL = {"num_cells": (13,)}
TASK = Task(make=TargetEnv, n_agents=N, horizon=4)


def tiny(run_dir: Path, **changes):
    options = {
        "algorithm": "maddpg", "task": "target", "num_envs": 5, "total_frames": 60,
        "frames_per_batch": 20, "frames_per_update": 20, "random_frames": 20, "batch_size": 16,
        "evaluation_episodes": 3, "progress": False, "run_dir": run_dir,
    }  # fmt: skip
    return flat_config(**(options | SMALL | changes))


# 3. Weights & Biases


@pytest.fixture
def runs(monkeypatch):
    """What Weights & Biases has been told of each run, offline."""
    pytest.importorskip("wandb", reason="wandb is not installed: the extra wandb")
    from wandb_file import offline_runs

    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    return offline_runs


def test_fault_03_two_runs_of_a_process_are_two_also_when_the_first_fails(
    tmp_path, monkeypatch, runs
):
    with monkeypatch.context() as patch:
        patch.setattr(Learning, "learn", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(tiny(tmp_path / "first", loggers=("wandb",)), task=TASK)
    train(tiny(tmp_path / "second", loggers=("wandb",)), task=TASK)
    (first,), (second,) = runs(tmp_path / "first"), runs(tmp_path / "second")
    assert first.run.run_id != second.run.run_id
    assert (first.exit_code, second.exit_code) == (1, 0)
    assert first.column("training/step") == []
    assert second.column("training/step") == [20, 40, 60]


def test_fault_03_a_run_that_the_caller_opened_stays_open_and_his(tmp_path, runs):
    import wandb

    with wandb.init(project="mine", dir=tmp_path, mode="offline") as mine:
        train(tiny(tmp_path / "run", loggers=("wandb",)), task=TASK)
        assert wandb.run is mine
        wandb.log({"mine": 1})
    (own,), (run,) = runs(tmp_path), runs(tmp_path / "run")
    assert own.column("mine") == [1]
    assert own.column("training/step") == []
    assert run.column("training/step") == [20, 40, 60]


# 4. and 5. Actions that are several choices, or have no bounds


class OtherActions(TargetEnv):
    """With another spec of the actions."""

    def __init__(self, spec, **options):
        super().__init__(**options)
        lead = (*self.batch_size, N)
        agents = Composite(action=spec, shape=lead)
        self.action_spec = Composite(agents=agents, shape=self.batch_size)


BUILDERS = {
    "make_actor": lambda env: make_actor(env, **SMALL),
    "make_recurrent_actor": lambda env: make_recurrent_actor(env, hidden_size=5),
    "make_qnetwork": lambda env: make_qnetwork(env, recurrent=False, **SMALL),
    **{kind.__name__: kind for kind in (MADDPG, ALITA, QMIX)},
}


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_fault_04_several_choices_of_an_agent_are_refused(build):
    several = MultiOneHot((3, 2), shape=(B, N, 5))
    with pytest.raises(ValueError, match=r"must be one choice of each agent.*as_team"):
        build(OtherActions(several))


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_fault_05_bounds_of_infinity_are_refused(build):
    endless = Bounded(-torch.inf, torch.inf, shape=(B, N, 2))
    with pytest.raises(ValueError, match=r"finite bounds, got -inf to inf|one-hot|discrete"):
        build(OtherActions(endless))


@pytest.mark.parametrize("build", [BUILDERS["make_actor"], MADDPG])
def test_fault_05_actions_without_bounds_are_refused_alike(build):
    with pytest.raises(ValueError, match="bounded continuous or one-hot"):
        build(OtherActions(Unbounded((B, N, 2))))


# 10. Numbers of NumPy and torch


def test_fault_10_numbers_of_numpy_and_torch_train_and_resume_as_those_of_python(tmp_path):
    numbers = {
        "num_cells": (np.int64(8),), "share_params": np.bool_(False), "gamma": torch.tensor(0.5),
        "actor_lr": np.float64(1e-3), "num_envs": np.int64(5), "seed": np.int64(3),
    }  # fmt: skip
    run = tmp_path / "run"
    train(tiny(run, **numbers), task=TASK)
    saved = read_config(run)
    algorithm, training = saved["algorithm"], saved["training"]
    assert (algorithm["num_cells"], algorithm["share_params"]) == ([8], False)
    assert (algorithm["gamma"], algorithm["actor_lr"]) == (0.5, 1e-3)
    assert (training["num_envs"], training["seed"]) == (5, 3)
    resumed = train(tiny(None, **numbers, resume=run, total_frames=80), task=TASK)
    assert resumed["frames"] == 80
    assert load_policy(run, TargetEnv()).out_keys


# 12. Nothing learned


@pytest.mark.parametrize(("random_frames", "batches"), [(60, 60), (100, 100), (41, 60)])
def test_fault_12_a_run_in_which_nothing_is_learned_is_refused(tmp_path, random_frames, batches):
    said = f"above random_frames in whole batches, {batches}, .*got 60"
    with pytest.raises(ValueError, match=said):
        tiny(tmp_path / "run", random_frames=random_frames)


# 13. Robots


def test_fault_13_a_bonus_and_a_memory_are_transforms_of_a_robots_environment():
    pytest.importorskip("pybullet_envs_gymnasium", reason="not installed: the extra pybullet")
    from torchrl_alita import Autoencoder, NoveltyReward

    env = make_env("pybullet/InvertedPendulumBulletEnv-v0", num_envs=1, seed=0)
    try:
        algorithm = MADDPG(env, MADDPG.Settings(recurrent=True, hidden_size=5, **SMALL))
        size = env.observation_spec["agents", "observation"].shape[-1]
        env = env.append_transform(NoveltyReward(Autoencoder(size + 1)))
        for transform in algorithm.env_transforms():
            env = env.append_transform(transform)
        found = env.rollout(3, algorithm.actor)
        assert (found["next", "agents", "novelty"] > 0).all()
        assert found["agents", "recurrent_state"].any()
    finally:
        env.close()


# 16. Pictures


def test_fault_16_metrics_and_pictures_are_optional(tmp_path):
    summary = train(tiny(tmp_path / "run"), task=TASK)
    assert set(summary["evaluation"]) == {"return_mean", "return_std"}
    assert (tmp_path / "run" / "summary.json").is_file()
    assert not (tmp_path / "run" / "rollout.gif").exists()


@pytest.mark.parametrize("draw", [lambda episode: [], lambda episode: 1 / 0, lambda episode: [1]])
@pytest.mark.parametrize("exploration", ["independent", "team"])
def test_fault_16_a_drawing_that_fails_costs_its_picture_alone(tmp_path, capsys, draw, exploration):
    task = Task(make=TargetEnv, n_agents=N, horizon=4, draw=draw)
    summary = train(tiny(tmp_path / "run", exploration=exploration), task=task)
    saved = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert saved == {key: value for key, value in summary.items() if key != "run_dir"}
    assert not list((tmp_path / "run").glob("*.gif"))
    assert "rollout.gif" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["save_curves", "save_heat_map"])
def test_fault_16_curves_and_maps_that_fail_cost_no_summary_either(
    tmp_path, monkeypatch, capsys, name
):
    monkeypatch.setattr(figures, name, lambda *args, **kwargs: 1 / 0)
    options = {"task": "push_box", "n_agents": 2, "horizon": 4}
    train(tiny(tmp_path / "run", **options))
    assert (tmp_path / "run" / "summary.json").is_file()
    assert "ZeroDivisionError" in capsys.readouterr().out


# 17. A start that fails late


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")} if folder.exists() else set()


def test_fault_17_a_missing_extra_leaves_no_directory(tmp_path, monkeypatch):
    for module in ("wandb", "tensorboard", "tqdm"):
        name = "tensorboard" if module == "tqdm" else module
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            with pytest.raises(ImportError, match=module):
                train(tiny(tmp_path / "run", loggers=(name,)), task=TASK)
        assert files(tmp_path) == set()


def test_fault_17_an_unknown_logger_leaves_no_directory(tmp_path):
    with pytest.raises(TypeError, match=r"loggers must be .*'wandb', got .*'mlflow'"):
        train(tiny(tmp_path / "run", loggers=("mlflow",)), task=TASK)
    assert files(tmp_path) == set()


@pytest.mark.parametrize("where", ["_evaluated", "_save", "_log"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, MemoryError])
def test_fault_17_what_ends_before_the_first_checkpoint_leaves_no_directory(
    tmp_path, monkeypatch, where, error
):
    def end(*args):
        raise error

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(loop.Run, where, end)
        with pytest.raises(error):
            train(tiny(run), task=TASK)
        assert files(tmp_path) == set()
    train(tiny(run), task=TASK)
    before = files(run)
    with monkeypatch.context() as patch:
        patch.setattr(loop.Run, where, end)
        with pytest.raises(error):
            train(tiny(None, resume=run, total_frames=80), task=TASK)
    # One that has a checkpoint loses nothing, but it is finished no longer.
    assert before - {"summary.json"} <= files(run)
    assert train(tiny(None, resume=run, total_frames=80), task=TASK)["frames"] == 80


def test_fault_17_what_others_have_left_in_a_directory_stays(tmp_path, monkeypatch):
    run = tmp_path / "run"
    run.mkdir()
    (run / "notes.txt").write_text("mine")
    monkeypatch.setattr(loop.Run, "_save", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(tiny(run), task=TASK)
    assert files(run) == {"notes.txt"}


def test_fault_17_a_directory_of_a_killed_start_is_used_anew(tmp_path, runs):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")
    (run / "metrics.csv").write_text("frames,a\n0,1\n")
    (run / "wandb.json").write_text('{"id": "ofthekilled"}')
    train(tiny(run, loggers=("wandb",)), task=TASK)
    (found,) = runs(run)
    assert found.run.run_id != "ofthekilled"
    assert "\n0,1\n" not in (run / "metrics.csv").read_text()


COMMAND = [sys.executable, "-m", "torchrl_alita", "train", "maddpg", "--task", "push_box"]


def test_fault_17_ctrl_c_at_once_is_one_line_and_leaves_nothing(tmp_path):
    """While the first evaluation runs, which is before the first checkpoint."""
    code = """
import os, signal, sys
from torchrl_alita.training import loop
from torchrl_alita.__main__ import main
loop.Run._evaluated = lambda self: os.kill(os.getpid(), signal.SIGINT)
sys.exit(main(sys.argv[1:]))
"""
    run = tmp_path / "run"
    result = subprocess.run(
        [sys.executable, "-c", code, *COMMAND[3:], "--run-dir", str(run)],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 130
    assert result.stderr == "torchrl-alita: stopped by Ctrl-C.\n"
    assert files(tmp_path) == set()


# 18. Rewards and flags


class OtherRewards(TargetEnv):
    """Whole numbers, or yes and no."""

    def __init__(self, dtype=torch.int64, **options):
        super().__init__(**options)
        lead = (*self.batch_size, self.n_agents)
        reward = Unbounded((*lead, 1), dtype=dtype)
        self.reward_spec = Composite(
            agents=Composite(reward=reward, shape=lead), shape=self.batch_size
        )

    def _step(self, tensordict):
        found = super()._step(tensordict)
        whole = found["agents", "reward"].round()
        found["agents", "reward"] = whole.to(self.reward_spec["agents", "reward"].dtype)
        return found


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float64])
@pytest.mark.parametrize("algorithm", ["maddpg", "mappo", "alita"])
def test_fault_18_rewards_of_other_dtypes_train_as_numbers(tmp_path, dtype, algorithm):
    task = Task(make=lambda **options: OtherRewards(dtype, **options), n_agents=N, horizon=4)
    config = tiny(tmp_path / "run", algorithm=algorithm, conditional_batch_size=16)
    summary = train(config, task=task)
    assert np.isfinite(summary["evaluation"]["return_mean"])


class GroupFlags(TargetEnv):
    """Flags in the group alone."""

    def __init__(self, **options):
        super().__init__(**options)
        self.done_spec = Composite(agents=self.done_spec.clone(), shape=self.batch_size)

    def _transition(self, ended, **agents):
        found = super()._transition(ended, **agents)
        for name, value in self._flags(ended).items():
            found["agents", name] = value.unsqueeze(-2).expand(-1, self.n_agents, 1)
            del found[name]
        return found


def test_fault_18_flags_in_the_group_alone_are_refused_by_their_name():
    with pytest.raises(KeyError, match=r"no .*done.*; it has .*agents.*done.*as_team"):
        MADDPG(GroupFlags(), MADDPG.Settings(**SMALL))


# 21. Resume


def test_fault_21_the_command_to_resume_is_quoted_and_works(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(TASKS, "target", TASK)
    run = tmp_path / "a run, mine's"
    with pytest.raises(SystemExit):
        stop_at_once(run)
    said = capsys.readouterr().out
    command = said.split("Resume with: ")[1].strip()
    words = shlex.split(command)
    assert words == ["torchrl-alita", "train", "--resume", str(run)]
    assert parse_arguments(words[2:]).training.resume == run


def stop_at_once(run: Path) -> None:
    """Ctrl-C in the first batch."""

    class Stopping(TargetEnv):
        def _step(self, tensordict):
            if self.total_steps == 5:
                os.kill(os.getpid(), signal.SIGINT)
            return super()._step(tensordict)

    options = {"num_envs": 1, "frames_per_batch": 20, "evaluation_episodes": 3}
    train(tiny(run, **options), task=Task(make=Stopping, n_agents=N, horizon=4))


def test_fault_21_a_run_is_prolonged_and_shown_and_logged_otherwise(tmp_path):
    run = tmp_path / "run"
    train(tiny(run), task=TASK)
    changes = {
        "total_frames": 100, "threads": 2, "loggers": ("csv",), "progress": True,
        "keep_checkpoints": 1,
    }  # fmt: skip
    assert train(tiny(None, resume=run, **changes), task=TASK)["frames"] == 100
    assert read_config(run)["training"]["total_frames"] == 100
    assert list((run / "csv_logs").rglob("*.csv"))
    assert len(list((run / "checkpoints").iterdir())) == 1
    with pytest.raises(ValueError, match=r"'training.seed': \(0, 1\).* Leave these options out"):
        train(tiny(None, resume=run, seed=1), task=TASK)


# 22. The command line and single arguments


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["alita", "--task", "vmas/spred"], "'vmas/spread'"),
        (["alita", "--task", "nonsense"], "'nonsense'"),
        (["alita", "--device", "cuda:99"], "cuda:99"),
        (["alita", "--device", "gpu"], "gpu"),
        (["alita", "--resume", "no/such/run"], "no/such/run"),
        (["alita", "--seed", "-1"], "-1"),
        (["alita", "--seed", "one"], "'one'"),
        (["alita", "--algorithm.gamma", "1.5"], "1.5"),
        (["alita", "--algorithm.gamma", "high"], "'high'"),
        (["alita", "--algorithm.random-frames=-5"], "-5"),
        (["alita", "--threads", "0"], "0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_fault_22_a_wrong_option_is_one_line(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error
    assert not list(tmp_path.iterdir())


def test_fault_22_seeds_of_numpy_are_seeds():
    vmas = pytest.importorskip("vmas", reason="vmas is not installed: the extra vmas")
    assert vmas
    for name in ("vmas/spread", "push_box"):
        env = make_env(name, num_envs=2, seed=np.int64(4))
        env.set_seed(np.int64(4))
        first = env.reset()["agents", "observation"].clone()
        env.set_seed(4)
        torch.testing.assert_close(env.reset()["agents", "observation"], first)


@pytest.mark.parametrize("task", ["smax/2s3z", "jaxmarl/MPE_simple_spread_v3"])
def test_fault_22_jax_in_64_bits_is_refused(task):
    jax = pytest.importorskip("jax", reason="jax is not installed: the extra smax")
    pytest.importorskip("jaxmarl", reason="jaxmarl is not installed: the extra smax")
    jax.config.update("jax_enable_x64", True)
    try:
        with pytest.raises(ValueError, match="need JAX in 32 bits, got jax_enable_x64=True"):
            make_env(task, num_envs=2, seed=0)
    finally:
        jax.config.update("jax_enable_x64", False)


@pytest.mark.parametrize("bounds", [(1,), ("a", "b"), (1, -1), (0, float("inf")), (0, 1, 2)])
def test_fault_22_bounds_that_are_none_are_refused_by_name(bounds):
    from constructors import maddpg

    with pytest.raises((TypeError, ValueError), match="action_bounds"):
        maddpg(policy_noise=0.2, action_bounds=bounds)


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("random_frames", -5, ValueError),
        ("threads", 0, ValueError),
        ("loggers", "csv", TypeError),
    ],
)
def test_fault_22_values_out_of_range_are_refused_with_their_name(option, value, error):
    kind = MADDPG.Settings if option == "random_frames" else TrainingSettings
    with pytest.raises(error, match=rf"{option}.*{value}"):
        kind(**{option: value})


# 23. Threads


def test_fault_23_a_run_takes_one_thread_and_gives_the_process_its_own_back(tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        seen = []

        class Counting(TargetEnv):
            def _step(self, tensordict):
                seen.append(torch.get_num_threads())
                return super()._step(tensordict)

        train(tiny(tmp_path / "run"), task=Task(make=Counting, n_agents=N, horizon=4))
        assert set(seen) == {1}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


# Of the same kinds: what else a run meets


def test_a_run_keeps_its_directory_where_an_environment_changes_the_working_one(
    tmp_path, monkeypatch
):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)

    class Moving(TargetEnv):
        def _step(self, tensordict):
            os.chdir(elsewhere)
            return super()._step(tensordict)

    summary = train(tiny(Path("run")), task=Task(make=Moving, n_agents=N, horizon=4))
    assert Path(summary["run_dir"]) == tmp_path / "run"
    assert (tmp_path / "run" / "summary.json").is_file()
    assert files(elsewhere) == set()


@pytest.mark.parametrize("resumed", [False, True])
def test_two_runs_at_a_time_in_one_directory_are_refused(tmp_path, resumed):
    run = tmp_path / "run"
    config = tiny(run)
    if resumed:
        train(config, task=TASK)
        config = tiny(None, resume=run, total_frames=80)
    with loop.start(config, task=TASK) as first:
        with pytest.raises(ValueError, match="Another run works in"):
            train(config, task=TASK)
        assert first.to_end()["frames"] == config.training.total_frames
    # Afterwards the directory is free.
    assert train(tiny(None, resume=run, total_frames=100), task=TASK)["frames"] == 100


def test_a_run_is_not_shortened_below_what_it_has_made(tmp_path):
    train(tiny(tmp_path / "run"), task=TASK)
    with pytest.raises(
        ValueError, match="has made 60 frames; total_frames cannot be below, got 40"
    ):
        train(tiny(None, resume=tmp_path / "run", total_frames=40), task=TASK)


def with_metrics(**values) -> Task:
    return Task(make=TargetEnv, n_agents=N, horizon=4, metrics=lambda episodes: values)


def test_a_metric_that_is_no_number_is_null_in_json_and_empty_nowhere_else(tmp_path):
    train(tiny(tmp_path / "run"), task=with_metrics(x=torch.tensor(torch.nan), y=torch.inf))
    text = (tmp_path / "run" / "summary.json").read_text()
    found = json.loads(text, parse_constant=pytest.fail)["evaluation"]
    assert (found["x"], found["y"]) == (None, None)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("x", torch.zeros(3), r"'x' must be one number, got the shape \(3,\)"),
        ("return_mean", torch.tensor(5.0), r"'return_mean'.*give them other names"),
    ],
)
def test_metrics_that_cannot_be_are_refused_by_name(tmp_path, name, value, said):
    with pytest.raises(ValueError, match=said):
        train(tiny(tmp_path / "run"), task=with_metrics(**{name: value}))
    assert files(tmp_path) == set()


def test_a_task_may_report_the_returns_of_its_sides_itself():
    pytest.importorskip("vmas", reason="vmas is not installed: the extra vmas")
    env = make_env("vmas/simple_tag", num_envs=2, seed=0)
    own = {"return_adversary": torch.tensor(5.0)}
    found, _ = evaluate(None, env, lambda episodes: own, horizon=3, seed=0, sides=sides_of(env))
    assert found["return_adversary"] == 5


def test_a_task_that_makes_another_number_of_environments_is_refused(tmp_path):
    task = Task(make=lambda num_envs, **options: TargetEnv(num_envs=3, **options), n_agents=N)
    with pytest.raises(ValueError, match=r"must make 5 environments.*got \(3,\)"):
        train(tiny(tmp_path / "run"), task=task)


def test_a_task_that_makes_another_number_of_agents_than_its_own_is_refused():
    task = Task(make=lambda n_agents, **options: TargetEnv(n_agents=N, **options), n_agents=2)
    with pytest.raises(ValueError, match=f"must make 2 agents.*got {N}"):
        make_env(task, num_envs=2)


def test_a_file_in_the_place_of_a_runs_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for run_dir in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match="file is a file; name a folder"):
            train(tiny(run_dir), task=TASK)


def test_a_bonus_that_nothing_writes_is_one_line(tmp_path, capsys):
    words = [
        "--algorithm.bonuses",
        "my_bonus",
        "1.0",
        "--num-envs",
        "5",
        "--frames-per-batch",
        "50",
    ]
    words += ["--evaluation-episodes", "5", "--run-dir", str(tmp_path / "run"), "--no-progress"]
    assert main(["train", "mappo", "--task", "push_box", "--horizon", "10", *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "The batch has no ('next', 'agents', 'my_bonus')" in error


def test_an_error_in_the_users_own_code_says_where(tmp_path, capsys, monkeypatch):
    """Of an environment that cannot begin; what was asked for wrongly has no line of code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken.py").write_text(
        "from torchrl_alita.envs import Task\n"
        "def make(**options):\n"
        "    return {}['zzz']\n"
        "task = Task(make=make, n_agents=2)\n"
    )
    assert main(["train", "maddpg", "--task", "broken:task"]) == 2
    assert capsys.readouterr().err == "torchrl-alita: zzz (KeyError, broken.py:3)\n"
    assert main(["train", "maddpg", "--task", "broken:tusk"]) == 2
    assert ".py:" not in capsys.readouterr().err


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_a_caller_without_gradients_trains_all_the_same(tmp_path, off):
    with off():
        summary = train(tiny(tmp_path / "run"), task=TASK)
        assert not torch.is_grad_enabled()
    assert summary["updates"] == 2


def test_a_mode_of_weights_and_biases_that_does_not_exist_is_named(monkeypatch):
    from torchrl_alita.training import WandbSettings

    monkeypatch.setenv("WANDB_MODE", "of")
    with pytest.raises(ValueError, match=r"WANDB_MODE must be one of .*'offline'.*got 'of'"):
        WandbSettings().resolved_mode()


@pytest.mark.slow
@pytest.mark.parametrize(
    "task",
    [
        "mamujoco/Swimmer-2x1",
        "mpe2/simple_spread_v3",
        "jaxmarl/MPE_simple_spread_v3",
        "push_box",
    ],
)
def test_a_run_shows_no_line_of_another_library(task, tmp_path):
    suite = task.partition("/")[0]
    module = {"mamujoco": "gymnasium_robotics"}.get(suite, suite) if "/" in task else None
    if module is not None and find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    options = {
        "num-envs": 2, "horizon": 3, "total-frames": 12, "frames-per-batch": 6,
        "evaluation-episodes": 1, "algorithm.random-frames": 6, "algorithm.frames-per-update": 6,
        "algorithm.batch-size": 4, "run-dir": tmp_path / "run",
    }  # fmt: skip
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    result = subprocess.run(
        [*COMMAND[:5], "--task", task, "--no-progress", *words], capture_output=True, text=True
    )
    assert (result.returncode, result.stderr) == (0, "")
    first, *_, last = result.stdout.strip().splitlines()
    assert first.split() == ["trained", "random"]
    assert last.startswith("Everything is in ")


@pytest.mark.slow
# Whole batches: TorchRL warns of others.
@pytest.mark.parametrize(("recipe", "frames"), [("alita", 1_000), ("add_to_torchrl", 1_200)])
def test_a_recipe_that_is_a_script_shows_no_line_of_another_library(recipe, frames):
    script = Path(__file__).parent.parent / "recipes" / f"{recipe}.py"
    result = subprocess.run(
        [sys.executable, script, "--total-frames", str(frames)], capture_output=True, text=True
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert "INFO" not in result.stdout


def test_a_task_in_the_working_directory_is_found_by_the_console_script(tmp_path):
    """Whose own folder is elsewhere."""
    script = tmp_path / "bin" / "torchrl-alita"
    script.parent.mkdir()
    script.write_text("import sys; from torchrl_alita.__main__ import main; sys.exit(main())")
    beside = "from torchrl_alita.envs import get_task\ntask = get_task('push_box')\n"
    (tmp_path / "beside.py").write_text(beside)
    result = subprocess.run(
        [sys.executable, script, "train", "maddpg", "--task", "beside:task", "--seed", "-1"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(loop.__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert "seed" in result.stderr
    assert "beside" not in result.stderr


class ClosedForGood(TargetEnv):
    """Cannot begin again once it was closed, and cannot give its state."""

    def __init__(self, **options):
        super().__init__(**options)
        self.is_closed = False

    def close(self, **kwargs) -> None:
        self.__dict__["ended"] = True
        super().close(**kwargs)

    def _reset(self, tensordict=None, **kwargs):
        if getattr(self, "ended", False):
            raise RuntimeError("This simulator was closed.")
        return super()._reset(tensordict, **kwargs)


def test_environments_are_closed_after_the_last_checkpoint(tmp_path):
    made = []

    def make(**options):
        made.append(ClosedForGood(**options))
        return made[-1]

    train(tiny(tmp_path / "run"), task=Task(make=make, n_agents=N, horizon=4))
    assert (tmp_path / "run" / "summary.json").is_file()
    assert made[0].ended


@pytest.mark.parametrize(("asked", "updates"), [(0, 3), (1, 2), (20, 2), (30, 1)])
def test_random_frames_are_whole_batches_for_actions_and_updates_alike(tmp_path, asked, updates):
    config = tiny(tmp_path / "run", random_frames=asked)
    assert train(config, task=TASK)["updates"] == updates


def test_policies_that_do_not_fit_leave_those_of_the_new_run_as_they_were(tmp_path):
    train(tiny(tmp_path / "run", num_cells=(13, 7)), task=TASK)
    algorithm = MADDPG(TargetEnv(), MADDPGSettings(num_cells=(13, 5)))
    before = {name: value.clone() for name, value in algorithm.actor.state_dict().items()}
    message = (
        r"weight is .* x 7 x 13 there, .* x 5 x 13 here.*num_cells \(\(13, 7\) there, \(13, 5\)"
    )
    with pytest.raises(ValueError, match=message):
        init_policy(algorithm, tmp_path / "run")
    after = algorithm.actor.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_policies_of_another_team_are_told_apart_by_their_sizes_alone(tmp_path):
    train(tiny(tmp_path / "run", gamma=0.5), task=TASK)
    algorithm = MADDPG(TargetEnv(n_agents=N + 1), MADDPGSettings(num_cells=(13,)))
    with pytest.raises(ValueError, match="do not fit") as refused:
        init_policy(algorithm, tmp_path / "run")
    assert f" is {N} x " in str(refused.value)
    assert f" there, {N + 1} x " in str(refused.value)
    assert "gamma" not in str(refused.value)


def test_a_run_goes_on_in_its_own_directory(tmp_path):
    config = tiny(tmp_path / "run")
    train(config, task=TASK)
    with pytest.raises(ValueError, match="A run goes on in its own directory"):
        replace(config.training, resume=tmp_path / "run", run_dir=tmp_path / "other")
    replace(config.training, resume=tmp_path / "run", run_dir=tmp_path / "run")


@pytest.mark.parametrize("kind", [Settings, object])
def test_an_option_of_a_task_called_name_is_refused(kind):
    @dataclass(frozen=True, kw_only=True)
    class Named(kind):
        name: str = "easy"

    with pytest.raises(ValueError, match="settings must not have the field name"):
        Task(make=TargetEnv, n_agents=N, horizon=4, settings=Named())


def test_a_game_of_one_side_has_its_return_and_sides_may_end_in_a_number():
    row = cross_play(TASK, {"agents": "random"}, episodes=3)[0]
    assert set(row) == {"agents", "return_agents"}
    returns = {"return_team1": 1.0, "return_agent_1": 2.0, "return_0": 3.0, "return_mean": 4.0}
    assert side_returns(returns) == {"team1": 1.0}
