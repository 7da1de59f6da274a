"""A run that is resumed is the run that was never stopped, bit for bit."""

from __future__ import annotations

import csv
import json
import math
import os
import pickle
import re
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import resume_runs
import torch
from fakes import TargetEnv, changed_training
from PIL import Image
from scripts import ROOT, load
from tensordict import TensorDict
from torchrl.collectors import Collector
from torchrl.envs import RewardSum, StepCounter, TransformedEnv

from torchrl_alita.envs import (
    EnvironmentState,
    PushBox,
    StreamedVmasEnv,
    Task,
    VmasState,
    environment_state,
    get_task,
    make_env,
)
from torchrl_alita.saving import (
    Checkpoints,
    CollectorState,
    RandomState,
    checkpoint_difference,
    find_checkpoint,
    init_policy,
    load_policy,
    read_component,
    verify_checkpoint,
)
from torchrl_alita.saving.checkpoint import SCHEMA
from torchrl_alita.training import figures, train
from torchrl_alita.training.figures import save_gif


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    for name in ("save_curves", "save_gif", "save_heat_map"):
        monkeypatch.setattr(figures, name, lambda *args, **kwargs: None)


def rows(run_dir: Path) -> list[dict]:
    """Of metrics.csv, without the wall time."""
    with (run_dir / "metrics.csv").open() as file:
        return [
            {name: value for name, value in row.items() if name != "wall_seconds"}
            for row in csv.DictReader(file)
        ]


def start_elsewhere(folder: Path, *arguments: str, ends_with: int = 0) -> None:
    """Runs of resume_runs.py, in a process that is gone afterwards."""
    command = [sys.executable, str(ROOT / "tests" / "resume_runs.py"), str(folder), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == ends_with, result.stderr


@pytest.mark.parametrize(
    "suite",
    [
        pytest.param(suite, marks=[] if suite == "games" else pytest.mark.slow)
        for suite in resume_runs.SUITES
    ],
)
def test_a_run_resumed_in_a_new_process_is_the_one_that_never_stopped(tmp_path, suite):
    start_elsewhere(tmp_path / "resumed", suite)
    for name in resume_runs.SUITES[suite]:
        resumed, whole = tmp_path / "resumed" / name, tmp_path / "whole" / name
        assert int(rows(resumed)[-1]["frames"]) == resume_runs.HALF
        again = resume_runs.run(suite, name, resume=resumed)
        once = resume_runs.run(suite, name, run_dir=whole)
        difference = checkpoint_difference(resumed, whole)
        assert set(difference.values()) == {0.0}, (name, difference)
        assert {"environment", "buffers", "random_state", "collector"} <= set(difference)
        assert rows(resumed) == rows(whole), name
        for entry in ("evaluation", "random_team", "exploration", "updates"):
            assert again[entry] == once[entry], (name, entry)
        assert once["updates"] > 0


def test_a_process_killed_while_it_writes_a_checkpoint_is_resumed_exactly(finished, tmp_path):
    start_elsewhere(tmp_path, "games", "maddpg", ends_with=-signal.SIGKILL)
    run = tmp_path / "maddpg"
    assert sorted(p.name[-3:] for p in (run / "checkpoints").glob("checkpoint-*")) == ["000", "070"]
    assert len(list((run / "checkpoints").glob(".checkpoint-*"))) == 1
    assert int(rows(run)[-1]["frames"]) == resume_runs.WHOLE
    resume_runs.run("games", "maddpg", resume=run)
    assert set(checkpoint_difference(run, finished).values()) == {0.0}
    assert rows(run) == rows(finished)
    assert not list((run / "checkpoints").glob(".checkpoint-*"))


TARGET = Task(make=lambda **options: TargetEnv(**options), metrics=lambda _: {}, draw=lambda _: [])


@pytest.mark.parametrize("kind", ["maddpg, team", "maddpg, three steps"])
def test_resume_is_exact_where_an_environment_begins_new_episodes_at_a_checkpoint(tmp_path, kind):
    """It cannot give its state, but what it does follows from its seed."""
    runs = {name: tmp_path / name for name in ("resumed", "whole")}
    for name, run_dir in runs.items():
        config = resume_runs.config("vmas/spread", kind, run_dir=run_dir, task="x")
        if name == "resumed":
            with pytest.raises(resume_runs.Stopped), resume_runs.stop_halfway():
                train(config, task=TARGET)
            config = changed_training(config, run_dir=None, resume=run_dir)
        train(config, task=TARGET)
    difference = checkpoint_difference(*runs.values())
    assert set(difference.values()) == {0.0}, difference
    assert "environment" not in difference
    assert rows(runs["resumed"]) == rows(runs["whole"])


def test_a_run_stopped_by_ctrl_c_anywhere_is_resumed_exactly(tmp_path):
    """At a frame at which no checkpoint was due, in the middle of an episode."""
    calls = []

    def press(episodes: TensorDict) -> dict[str, torch.Tensor]:
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return {}

    config = resume_runs.config(
        "games", "maddpg", run_dir=tmp_path / "resumed", evaluation_interval=35
    )
    task = replace(resume_runs.task("games", "maddpg"), metrics=press)
    with pytest.raises(SystemExit):
        train(config, task=task)
    assert find_checkpoint(tmp_path / "resumed").name.endswith("035")
    train(changed_training(config, run_dir=None, resume=tmp_path / "resumed"), task=task)
    train(changed_training(config, run_dir=tmp_path / "whole"), task=task)
    difference = checkpoint_difference(tmp_path / "resumed", tmp_path / "whole")
    assert set(difference.values()) == {0.0}, difference
    assert rows(tmp_path / "resumed") == rows(tmp_path / "whole")


@pytest.mark.parametrize("suite", resume_runs.SUITES)
def test_evaluation_with_pictures_or_none_gives_the_same_training(tmp_path, suite):
    """Parameters, buffers, environments and random streams, to the last bit."""
    kind = next(name for name in resume_runs.SUITES[suite] if name.startswith("alita"))
    task = resume_runs.task(suite, kind) or get_task(suite)
    drawn = []

    def metrics_and_film(episodes: TensorDict) -> dict[str, torch.Tensor]:
        drawn.append(tmp_path / f"{len(drawn)}.gif")
        save_gif(drawn[-1], task.draw(episodes[0])[:2])
        return {} if task.metrics is None else task.metrics(episodes)

    for name, interval in (("often", 35), ("never", 10**9)):
        config = resume_runs.config(
            suite, kind, run_dir=tmp_path / name, evaluation_interval=interval
        )
        train(
            config,
            task=replace(task, metrics=metrics_and_film) if name == "often" else task,
        )
    difference = checkpoint_difference(tmp_path / "often", tmp_path / "never")
    difference.pop("evaluation_environment")
    assert set(difference.values()) == {0.0}, difference
    assert {"algorithm", "buffers", "environment", "random_state"} <= set(difference)
    assert len(drawn) == 7  # at the start, after each of 4 batches, and twice at the end
    with Image.open(drawn[-1]) as picture:
        assert picture.n_frames == 2


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run with a checkpoint at its start, its half and its end."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    resume_runs.run("games", "maddpg", run_dir=folder)
    return folder


@pytest.fixture
def run_dir(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def components(run_dir: Path) -> tuple[Path, Path]:
    """The stored transitions of the newest checkpoint and of the one before."""
    before, newest = sorted((run_dir / "checkpoints").iterdir())[-2:]
    (one,) = newest.glob("components/*buffers/state.pt")
    (other,) = before.glob("components/*buffers/state.pt")
    return one, other


def truncate(file: Path) -> Path:
    os.truncate(file, file.stat().st_size // 2)
    return file


def alter(file: Path) -> Path:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    return file


def remove(file: Path) -> Path:
    file.unlink()
    return file


def unseal(file: Path) -> Path:
    return truncate(file.with_name("sha256.json"))


def break_manifest(file: Path) -> Path:
    return truncate(file.parents[2] / "manifest.json")


@pytest.mark.parametrize("damage", [truncate, alter, remove, unseal, break_manifest])
def test_resume_names_a_damaged_file_and_the_newest_whole_checkpoint(run_dir, damage):
    newest, before = components(run_dir)
    broken = damage(newest)
    progress = {"frames": -1}
    checkpoints = Checkpoints(run_dir / "checkpoints", keep_last=2)
    with pytest.raises(ValueError, match="remove") as refused:
        checkpoints.load({"progress": progress})
    assert str(broken.relative_to(run_dir)) in str(refused.value) or (
        damage is break_manifest and broken.name in str(refused.value)
    )
    assert str(before.parents[2]) in str(refused.value)
    assert progress == {"frames": -1}
    shutil.rmtree(newest.parents[2])
    checkpoints.load({"progress": progress})
    assert progress["frames"] == resume_runs.HALF


@pytest.mark.parametrize("frames", [0, resume_runs.HALF])
def test_resume_from_any_checkpoint_ends_in_the_same_place(finished, run_dir, frames):
    for path in (run_dir / "checkpoints").iterdir():
        if int(path.name.split("-")[1]) > frames:
            shutil.rmtree(path)
    resume_runs.run("games", "maddpg", resume=run_dir)
    assert set(checkpoint_difference(run_dir, finished).values()) == {0.0}
    assert rows(run_dir) == rows(finished)


def test_resume_passes_over_what_a_kill_left_while_a_checkpoint_was_written(run_dir):
    """TorchRL writes aside and renames at the end; the name is TorchRL's."""
    newest = find_checkpoint(run_dir)
    unfinished = newest.with_name(".checkpoint-000000009999.stage-0123")
    shutil.copytree(newest, unfinished)
    (unfinished / "manifest.json").unlink()
    assert resume_runs.run("games", "maddpg", resume=run_dir)["frames"] == resume_runs.WHOLE
    assert not unfinished.exists()
    assert find_checkpoint(run_dir) == newest


def test_resume_drops_the_rows_beyond_the_checkpoint_and_half_a_row(finished, run_dir):
    shutil.rmtree(find_checkpoint(run_dir))
    with (run_dir / "metrics.csv").open("a") as file:
        file.write("1")  # of a row of frame 140, say, not of frame 1
    resume_runs.run("games", "maddpg", resume=run_dir)
    assert rows(run_dir) == rows(finished)


def test_a_checkpoint_of_another_schema_is_refused_on_resume(run_dir):
    manifest = find_checkpoint(run_dir) / "manifest.json"
    content = json.loads(manifest.read_text())
    content["metadata"]["schema"] = SCHEMA + 1
    manifest.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"schema {SCHEMA + 1}; this version reads {SCHEMA}"):
        resume_runs.run("games", "maddpg", resume=run_dir)


def test_a_full_disk_names_the_file_and_resume_finds_the_checkpoint_before(tmp_path):
    checkpoints = Checkpoints(tmp_path / "run", keep_last=2)
    first = checkpoints.save({"numbers": {"values": torch.zeros(10)}}, frames=1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        with pytest.raises(OSError, match=r"state\.pt cannot be written") as refused:
            checkpoints.save({"numbers": {"values": torch.zeros(10_000)}}, frames=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(first) in str(refused.value)
    assert checkpoints.latest() == first
    assert [path.name for path in first.parent.iterdir()] == [first.name]
    numbers: dict = {}
    checkpoints.load({"numbers": numbers})
    assert numbers["values"].shape == (10,)


def test_a_folder_in_which_nothing_can_be_written_is_named_before_any_resume(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        Checkpoints(tmp_path / "file" / "run", keep_last=2).save({"a": {"b": 1}}, frames=1)
    with pytest.raises(OSError, match="file"):
        resume_runs.run("games", "maddpg", run_dir=tmp_path / "file" / "run")


def test_what_could_not_be_read_on_resume_is_not_written(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_last=2)
    for value, kind in ((np.float64(1), "float64"), ({1, 2}, "set"), (Path("x"), "PosixPath")):
        with pytest.raises(TypeError, match=rf"thing\['list'\]\[1\].*{kind}"):
            checkpoints.save({"thing": {"list": [1, value]}}, frames=1)
    assert checkpoints.latest() is None


class Hostile:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


def reseal(file: Path) -> None:
    """What somebody who alters a file on purpose does too."""
    from torchrl_alita.saving.checkpoint import _seal

    file.with_name("sha256.json").write_text(json.dumps(_seal(file)))


@pytest.mark.parametrize("sealed", [False, True])
def test_a_hostile_checkpoint_is_refused_and_runs_nothing(run_dir, tmp_path, sealed):
    marker = tmp_path / "marker"
    for file in find_checkpoint(run_dir).glob("components/*/state.pt"):
        torch.save({"actor": Hostile(marker)}, file)
        if sealed:
            reseal(file)
    torch.load(file, weights_only=False)
    assert marker.exists()  # so it would have worked
    marker.unlink()
    env = make_env(resume_runs.task("games", "maddpg"), n_agents=3)
    expected = "is refused" if sealed else "is damaged"
    for read in (
        lambda: resume_runs.run("games", "maddpg", resume=run_dir),
        lambda: load_policy(run_dir, env),
        lambda: resume_runs.run("games", "maddpg", run_dir=tmp_path / "new", init_from=run_dir),
        lambda: checkpoint_difference(run_dir, run_dir),
    ):
        with pytest.raises(ValueError, match=expected):
            read()
    assert not marker.exists()


def test_a_hostile_file_beside_a_component_is_not_read(run_dir, tmp_path):
    """TorchRL's own adapters unpickle such files of a saved tensordict."""
    marker = tmp_path / "marker"
    for component in find_checkpoint(run_dir).glob("components/*"):
        for folder in (component, component / "state"):
            folder.mkdir(exist_ok=True)
            for name in ("other.pickle", "prefetch.pkl"):
                (folder / name).write_bytes(pickle.dumps(Hostile(marker)))
    (run_dir / "summary.json").unlink()
    assert resume_runs.run("games", "maddpg", resume=run_dir)["frames"] == resume_runs.WHOLE
    assert not marker.exists()


def test_a_hostile_config_is_text(run_dir, tmp_path):
    marker = tmp_path / "marker"
    (run_dir / "config.json").write_bytes(pickle.dumps(Hostile(marker)))
    with pytest.raises(ValueError, match=r"config\.json"):
        resume_runs.run("games", "maddpg", resume=run_dir)
    assert not marker.exists()


def greedy(policy, env, state: TensorDict) -> torch.Tensor:
    return policy(state.clone())["agents", "logits"]


def test_policies_alone_are_loaded_without_resume(run_dir):
    env = make_env(resume_runs.task("games", "maddpg"), n_agents=3, num_envs=7, seed=0)
    state = env.reset()
    trained = read_component(find_checkpoint(run_dir), "policy")
    loaded = load_policy(run_dir, env)
    assert loaded.state_dict().keys() == trained.keys()
    assert all(torch.equal(value, trained[key]) for key, value in loaded.state_dict().items())
    earlier = sorted((run_dir / "checkpoints").iterdir())[0]
    assert not torch.equal(
        greedy(loaded, env, state), greedy(load_policy(earlier, env), env, state)
    )


def test_policies_that_do_not_fit_are_refused_without_resume(run_dir):
    env = make_env("vmas/spread", n_agents=2)
    with pytest.raises(ValueError, match="do not fit"):
        load_policy(run_dir, env)
    (run_dir / "config.json").write_text(json.dumps({"algorithm": {"name": "own"}}))
    with pytest.raises(ValueError, match="Unknown algorithm 'own'"):
        load_policy(run_dir, env)


@pytest.mark.parametrize("name", ["maddpg", "alita clones"])
def test_a_fine_tuning_run_starts_from_policies_and_targets_not_by_resume(run_dir, name):
    env = make_env(resume_runs.task("games", name), n_agents=3, num_envs=7, seed=0)
    config = resume_runs.config("games", name)
    algorithm, untouched = config.build(env), config.build(env)
    critic = {
        k: v.clone() for k, v in algorithm.maddpg.qvalue_network_params.flatten_keys().items()
    }
    init_policy(algorithm, run_dir)
    trained = load_policy(run_dir, env)
    state = env.reset()
    expected = greedy(trained, env, state)
    assert torch.equal(greedy(algorithm.actor, env, state), expected)
    assert not torch.equal(greedy(untouched.actor, env, state), expected)
    targets = algorithm.maddpg.target_actor_network_params
    with targets.data.to_module(trained):
        assert torch.equal(greedy(trained, env, state), expected)
    for key, value in algorithm.maddpg.qvalue_network_params.flatten_keys().items():
        assert torch.equal(value, critic[key])
    algorithm.updates = 1
    with pytest.raises(ValueError, match="1 updates"):
        init_policy(algorithm, run_dir)
    wider = replace(config, algorithm=replace(config.algorithm, num_cells=(7,))).build(env)
    with pytest.raises(ValueError, match=re.escape("num_cells ((5,) there, (7,) here)")):
        init_policy(wider, run_dir)
    (state,) = find_checkpoint(run_dir).glob("components/*-policy/state.pt")
    state.write_bytes(b"")
    with pytest.raises(ValueError, match="is damaged"):
        init_policy(wider, run_dir)


def test_a_run_can_start_from_the_policies_of_another_and_resume_ignores_it(run_dir, tmp_path):
    new = tmp_path / "new"
    # Nothing is learned before the checkpoint of 105 frames.
    still = {"random_frames": 105, "checkpoint_interval": 35, "keep_checkpoints": 9}
    resume_runs.run("games", "maddpg", run_dir=new, init_from=run_dir, **still)
    env = make_env(resume_runs.task("games", "maddpg"), n_agents=3, num_envs=7, seed=0)
    state = env.reset()
    first = load_policy(new / "checkpoints" / f"checkpoint-{105:012d}", env)
    source = load_policy(run_dir, env)
    assert torch.equal(greedy(first, env, state), greedy(source, env, state))
    shutil.rmtree(run_dir)
    resume_runs.run("games", "maddpg", resume=new, init_from=run_dir, **still)


def test_the_seed_is_of_every_generator_and_resume_restores_them_all():
    import random

    from vmas.simulator.environment import Environment

    env = StreamedVmasEnv("simple_spread", seed=0, num_envs=2, device="cpu")
    saved = RandomState().state_dict()

    def draw() -> list:
        drawn = [random.random(), np.random.rand(), torch.rand(()).item()]  # noqa: NPY002
        return [*drawn, Environment.vmas_random_state[0].sum().item()]

    first = draw()
    env.reset()
    Environment.vmas_random_state[0] = torch.zeros(5056, dtype=torch.uint8)
    assert draw() != first
    RandomState().load_state_dict(saved)
    assert draw() == first


def test_resume_knows_which_environments_give_their_state():
    assert type(environment_state(make_env("vmas/spread"))) is VmasState
    assert type(environment_state(make_env("push_box", n_agents=2))) is EnvironmentState
    assert type(environment_state(make_env("secret_room", n_agents=2))) is EnvironmentState
    assert environment_state(TargetEnv()) is None
    with pytest.raises(TypeError, match="TargetEnv"):
        EnvironmentState(TransformedEnv(TargetEnv(), StepCounter()))


def test_transforms_around_an_environment_are_part_of_what_resume_restores():
    def make(*, seed: int) -> TransformedEnv:
        env = TransformedEnv(PushBox(3, num_agents=2, horizon=5, seed=seed), StepCounter())
        return TransformedEnv(env, RewardSum(in_keys=[("agents", "reward")]), auto_unwrap=False)

    env, other = make(seed=0), make(seed=1)
    step = env.rollout(3)[:, -1]["next"]
    saved = EnvironmentState(env).state_dict()
    assert saved["environment"] == ["RewardSum", "StepCounter", "PushBox"]
    EnvironmentState(other).load_state_dict(saved)
    options = {"auto_reset": False, "break_when_any_done": False, "tensordict": step.clone()}
    torch.manual_seed(0)
    first = env.rollout(7, **options)
    torch.manual_seed(0)
    second = other.rollout(7, **options)
    assert bool((first == second).all())
    with pytest.raises(ValueError, match="PushBox"):
        EnvironmentState(PushBox(3, num_agents=2)).load_state_dict(saved)
    with pytest.raises(ValueError, match="transforms"):
        EnvironmentState(other).load_state_dict({"base": {}})


def collector(seed: int, **options) -> Collector:
    env = make_env("push_box", num_envs=3, n_agents=2, horizon=7, seed=seed)
    options = {"track_traj_ids": False, **options}
    return Collector(
        env, None, frames_per_batch=15, total_frames=60,
        auto_register_policy_transforms=False, **options,
    )  # fmt: skip


def test_a_collector_goes_on_from_its_last_step_on_resume():
    """If this fails with a new version of TorchRL, see collector_state.py."""
    first, second = collector(0), collector(1)
    batches = iter(first)
    next(batches)
    collected = CollectorState(first, mid_episode=True).state_dict()
    environment = EnvironmentState(first.env).state_dict()
    assert collected["counters"] == {"frames": 15, "iter": 0}
    torch.manual_seed(0)
    expected = next(batches)
    CollectorState(second, mid_episode=True).load_state_dict(collected)
    EnvironmentState(second.env).load_state_dict(environment)
    torch.manual_seed(0)
    found = next(iter(second))
    assert set(found.keys(True, True)) == set(expected.keys(True, True))
    assert bool((found == expected).all())
    assert len(list(second)) == 2


def test_a_collector_that_resume_cannot_restore_is_refused():
    with pytest.raises(ValueError, match="track_traj_ids"):
        CollectorState(collector(0, track_traj_ids=True), mid_episode=True)
    first = collector(0)
    state = CollectorState(first, mid_episode=False).state_dict()
    with pytest.raises(ValueError, match="needs a last step"):
        CollectorState(first, mid_episode=True).load_state_dict(state)
    del first._carrier
    with pytest.raises(RuntimeError, match="_carrier"):
        CollectorState(first, mid_episode=True)
    first._carrier = None


def test_the_difference_of_two_checkpoints_is_the_largest_of_every_number(tmp_path):
    """So that a resumed run cannot differ without notice."""
    base = {"a": torch.tensor([1.0, math.nan]), "b": [3, "x", None], "wall_seconds": 1.0}
    base["c"] = torch.tensor([2**60])
    variants = {
        "same": ({}, 0.0),
        "tensor": ({"a": torch.tensor([1.5, math.nan])}, 0.5),
        "nan": ({"a": torch.tensor([1.0, 2.0])}, math.inf),
        "number": ({"b": [7, "x", None]}, 4.0),
        "text": ({"b": [3, "y", None]}, math.inf),
        "large whole number": ({"c": torch.tensor([2**60 + 1])}, 1.0),
        "length": ({"b": [3, "x"]}, math.inf),
        "dtype": ({"a": base["a"].double()}, math.inf),
        "shape": ({"a": base["a"].unsqueeze(0)}, math.inf),
        "type": ({"b": (3, "x", None)}, math.inf),
        "key": ({"d": 0}, math.inf),
        "time": ({"wall_seconds": 2.0}, 0.0),
    }
    paths = {}
    for name, (change, _) in variants.items():
        parts = {"part": base | change}
        paths[name] = Checkpoints(tmp_path / name, keep_last=1).save(parts, frames=0)
        verify_checkpoint(paths[name], ["part"])
    for name, (_, expected) in variants.items():
        assert checkpoint_difference(paths["same"], paths[name]) == {"part": expected}, name
    more = Checkpoints(tmp_path / "more", keep_last=1).save({"part": base, "new": {}}, frames=0)
    assert checkpoint_difference(paths["same"], more) == {"part": 0.0, "new": math.inf}


class _Counted(torch.nn.BatchNorm1d):
    """Counts of which few are not 0, beside others, and a module whose state has a version."""

    def __init__(self):
        super().__init__(3)
        for name, filled in (("few", 100), ("many", 2**17)):
            values = torch.zeros(2**18, dtype=torch.long)
            values[torch.randperm(2**18)[:filled]] = 5
            self.register_buffer(name, values.view(2, -1))
        # As a buffer may hold: sparse they would be larger, or cannot be counted.
        self.register_buffer("masks", torch.arange(2**18).view(-1, 2, 4) % 5 == 0)
        self.register_buffer("pixels", torch.zeros(2**18, dtype=torch.uint16))
        self.register_buffer("zeros", torch.zeros(2**18))


def test_counts_that_are_mostly_0_take_the_place_of_those_that_are_not(tmp_path):
    torch.manual_seed(0)
    module = _Counted()
    expected = {name: value.clone() for name, value in module.state_dict().items()}
    parts = {"numbers": {"few": module.few, "inner": [(module.few,)]}}
    path = Checkpoints(tmp_path / "few", keep_last=1).save(parts, frames=0)
    assert sum(file.stat().st_size for file in path.rglob("state.pt")) < 8_000
    found = read_component(path, "numbers")
    torch.testing.assert_close(found["inner"], [(module.few,)], rtol=0, atol=0)
    checkpoints = Checkpoints(tmp_path / "all", keep_last=1)
    written = checkpoints.save({"module": module}, frames=0)
    dense = sum(value.nbytes for name, value in expected.items() if name != "few")
    size = sum(file.stat().st_size for file in written.rglob("state.pt"))
    assert dense < size < dense + 8_000
    for value in module.state_dict().values():
        value.fill_(1)
    checkpoints.load({"module": module})
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0)
    # A state without its version makes BatchNorm miss what later versions added.
    stored = read_component(checkpoints.latest(), "module")
    assert stored._metadata[""]["version"] == module._version


def test_no_secret_of_the_environment_reaches_what_resume_reads(tmp_path, monkeypatch):
    secret = "0123456789abcdef0123456789abcdef01234567"
    for name in ("WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "SOME_TOKEN"):
        monkeypatch.setenv(name, secret)
    for name, value in (("WANDB_MODE", "offline"), ("WANDB_SILENT", "true")):
        monkeypatch.setenv(name, value)
    loggers = ("csv", "tensorboard", "wandb")
    resume_runs.run("games", "maddpg", run_dir=tmp_path / "run", loggers=loggers)
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    assert len(files) > 20
    assert not [path for path in files if secret.encode() in path.read_bytes()]


resume_benchmark = load("benchmarks", "resume", known_as="benchmark_of_resume")


def test_the_benchmark_of_resume_finds_the_largest_difference_of_two_logs():
    rows = [{"frames": "10", "loss": "1.5"}, {"frames": "20", "loss": ""}]
    difference = resume_benchmark.logged_difference
    assert difference(rows, [dict(row) for row in rows]) == 0
    assert difference(rows, [rows[0] | {"loss": "1.25"}, rows[1]]) == 0.25
    assert difference(rows, [rows[0], rows[1] | {"loss": "0"}]) == math.inf
    assert difference(rows, rows[:1]) == math.inf
    assert difference(rows, [row | {"new": ""} for row in rows]) == math.inf


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="measured on Linux")
def test_the_benchmark_of_resume_measures_memory_between_updates():
    memory = resume_benchmark.measure_memory(40)
    assert memory["updates"] == 40
    assert len(memory["resident_mebibytes"]) == 23  # at the start, and after each of 22 batches
    assert min(memory["resident_mebibytes"]) > 50
