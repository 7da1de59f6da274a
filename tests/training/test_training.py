"""The training loop, evaluation, run directories and logs."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import TargetEnv, flat_config
from PIL import Image
from tensordict import TensorDict

from torchrl_alita import ALITA, MADDPG
from torchrl_alita.envs import (
    MatrixGame,
    PushBox,
    Task,
    game_task,
    make_env,
    push_box_metrics,
    register_task,
    spread_metrics,
)
from torchrl_alita.envs.registry import TASKS
from torchrl_alita.saving import preserve_random_state
from torchrl_alita.training import Config, evaluate, make_config, train
from torchrl_alita.training.command import closing_table
from torchrl_alita.training.evaluation import episode_returns
from torchrl_alita.training.figures import save_curves, save_gif
from torchrl_alita.training.learning import NotFinite, check_finite
from torchrl_alita.training.logging import MetricsFile
from torchrl_alita.training.loop import shown_returns

ENV_OPTIONS: dict = {}


def make_target(**options) -> TargetEnv:
    return TargetEnv(**options, **ENV_OPTIONS)


class InterruptedEnv(TargetEnv):
    """Presses Ctrl-C once, in the middle of a batch."""

    pressed = False

    def _step(self, tensordict: TensorDict) -> TensorDict:
        if self.total_steps == 18 and not InterruptedEnv.pressed:
            InterruptedEnv.pressed = True
            os.kill(os.getpid(), signal.SIGINT)
        return super()._step(tensordict)


def draw(episode: TensorDict) -> list[Image.Image]:
    return [Image.new("RGB", (8, 8), (step, 0, 0)) for step in range(len(episode))]


def metrics(episodes: TensorDict) -> dict[str, torch.Tensor]:
    return {"size": episodes["agents", "action"].abs().mean()}


for name, build in (("test/target", make_target), ("test/interrupted", InterruptedEnv)):
    if name not in TASKS:
        register_task(name, Task(make=build, metrics=metrics, draw=draw))


def tiny(run_dir: Path | None, **changes) -> Config:
    options = {
        "algorithm": "maddpg",
        "num_cells": (13,),
        "n_agents": 3,
        "task": "test/target",
        "num_envs": 5,
        "horizon": 4,
        "total_frames": 200,
        "frames_per_batch": 20,
        "frames_per_update": 10,
        "random_frames": 20,
        "batch_size": 16,
        "conditional_batch_size": 32,
        "noise_frames": 100,
        "evaluation_interval": 100,
        "evaluation_episodes": 7,
        "checkpoint_interval": 100,
        "progress": False,
        "run_dir": run_dir,
    }
    return flat_config(**(options | changes))


CLONES = {"algorithm": "alita", "estimator": "clones"}


def rows(run_dir: Path) -> list[dict]:
    with (run_dir / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def training_columns(run_dir: Path) -> list[dict]:
    return [
        {name: value for name, value in row.items() if name.startswith("training/")}
        for row in rows(run_dir)
        if row["training/reward_mean"]
    ]


def test_a_run_leaves_its_files_and_a_summary(tmp_path):
    summary = train(tiny(tmp_path / "run", **CLONES))
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        "config.json", "metrics.csv", "curve.png", "rollout.gif", "summary.json", "checkpoints",
    }  # fmt: skip
    saved = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert saved == {key: value for key, value in summary.items() if key != "run_dir"}
    assert saved["frames"] == 200
    assert saved["updates"] == 18  # 2 for each of 10 batches, but the random one
    assert saved["seed"] == 0
    assert saved["algorithm"] == "alita"
    assert saved["task"] == "test/target"
    assert saved["wall_seconds"] > 0
    assert saved["frames_per_second"] == pytest.approx(200 / saved["wall_seconds"])
    assert set(saved["evaluation"]) == {"return_mean", "return_std", "size"}
    assert [int(row["frames"]) for row in rows(tmp_path / "run")] == list(range(0, 201, 20))
    with Image.open(tmp_path / "run" / "rollout.gif") as picture:
        assert picture.n_frames == 4
    with Image.open(tmp_path / "run" / "curve.png") as picture:
        assert picture.width > picture.height > 100


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path):
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        train(tiny(tmp_path / name, seed=seed, **CLONES))
    first, again, other = (training_columns(tmp_path / n) for n in ("first", "again", "other"))
    assert first == again
    assert first != other


@pytest.mark.parametrize("task", ["test/target", "vmas/spread"])
def test_evaluation_leaves_training_as_it_was(tmp_path, task):
    """At every batch against once at the end: bit-identical figures of training."""
    for name, interval in (("often", 20), ("never", 10**9)):
        train(tiny(tmp_path / name, task=task, evaluation_interval=interval, **CLONES))
    assert training_columns(tmp_path / "often") == training_columns(tmp_path / "never")
    assert sum(bool(row["evaluation/return_mean"]) for row in rows(tmp_path / "often")) == 11


def test_ctrl_c_writes_a_checkpoint_and_the_run_is_resumed_to_its_end(tmp_path, capsys):
    run = tmp_path / "run"
    handler = signal.getsignal(signal.SIGINT)
    InterruptedEnv.pressed = False
    with pytest.raises(SystemExit) as stopped:
        train(tiny(run, task="test/interrupted", **CLONES))
    assert stopped.value.code == 130
    assert f"--resume {run}" in capsys.readouterr().out
    halfway = int(rows(run)[-1]["frames"])
    assert 0 < halfway < 200
    assert any((run / "checkpoints").iterdir())
    assert not (run / "summary.json").exists()
    assert signal.getsignal(signal.SIGINT) is handler
    summary = train(tiny(None, task="test/interrupted", resume=run, **CLONES))
    assert summary["frames"] == 200
    assert summary["updates"] == 18
    assert [int(row["frames"]) for row in rows(run)] == list(range(0, 201, 20))


def test_a_resumed_run_takes_over_networks_and_replay(tmp_path):
    """What is logged right after resuming is of the trained networks, not of new ones."""
    made = []

    def remember(env, settings):
        made.append(ALITA(env, settings))
        return made[-1]

    InterruptedEnv.pressed = False
    with pytest.raises(SystemExit):
        train(tiny(tmp_path / "run", task="test/interrupted", **CLONES), make_algorithm=remember)
    before = {k: v.clone() for k, v in made[0].maddpg.state_dict().items()}
    updates = made[0].updates

    class Probe(ALITA):
        def start_episode(self) -> None:
            if self.updates == updates:
                state = self.maddpg.state_dict()
                assert all((state[key] == value).all() for key, value in before.items())
                made.append("checked")
            super().start_episode()

    train(
        tiny(None, task="test/interrupted", resume=tmp_path / "run", **CLONES),
        make_algorithm=Probe,
    )
    assert made[-1] == "checked"


def test_resuming_needs_a_run_with_the_same_config_and_a_checkpoint(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere is no run"):
        train(tiny(None, resume=tmp_path / "nowhere"))
    train(tiny(tmp_path / "run"))
    with pytest.raises(ValueError, match=r"seed.*\(0, 4\)"):
        train(tiny(None, resume=tmp_path / "run", seed=4))
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        (path / "manifest.json").unlink()
    with pytest.raises(ValueError, match="no checkpoint"):
        train(tiny(None, resume=tmp_path / "run"))


def test_a_checkpoint_of_another_algorithm_is_named(tmp_path):
    def other(env, settings) -> ALITA:
        return ALITA(env, ALITA.Settings(num_cells=(13,), estimator="clones"))

    train(tiny(tmp_path / "run"))
    with pytest.raises(ValueError, match="checkpoint-000000000200"):
        train(tiny(None, resume=tmp_path / "run"), make_algorithm=other)


def test_a_new_run_does_not_overwrite_an_old_one(tmp_path):
    train(tiny(tmp_path / "run"))
    before = (tmp_path / "run" / "metrics.csv").read_text()
    with pytest.raises(ValueError, match="holds a run already"):
        train(tiny(tmp_path / "run"))
    assert (tmp_path / "run" / "metrics.csv").read_text() == before


def test_only_the_newest_checkpoints_stay(tmp_path):
    train(tiny(tmp_path / "run", checkpoint_interval=20, keep_checkpoints=3))
    kept = sorted(path.name[-4:] for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == ["0160", "0180", "0200"]


def test_a_nan_reward_stops_training_names_key_and_frame_and_keeps_the_checkpoint(
    tmp_path, monkeypatch
):
    monkeypatch.setitem(ENV_OPTIONS, "poison_after", 30)  # 150 frames, and TorchRL's own steps
    with pytest.raises(ValueError, match=r"'next', 'agents', 'reward'.*at frame \d+"):
        train(tiny(tmp_path / "run"))
    kept = sorted(path.name[-4:] for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == ["0000", "0100"]
    assert not (tmp_path / "run" / "summary.json").exists()


class Blinding(PushBox):
    """From the third step on agent 1 of the first game sees NaN."""

    def _step(self, tensordict):
        self.seen = getattr(self, "seen", 0) + 1
        after = super()._step(tensordict)
        if self.seen > 2:
            after["agents", "observation"][0, 1, 0] = torch.nan
        return after


def blinding_task(**options) -> Blinding:
    options.pop("n_agents")
    return Blinding(**options)


def train_blinded(task: Task, run_dir: Path) -> None:
    settings = {
        "num_envs": 5, "frames_per_batch": 50, "total_frames": 100, "evaluation_episodes": 2,
        "pictures": False, "progress": False, "run_dir": run_dir,
    }  # fmt: skip
    train(make_config("mappo", "push_box", settings), task=task)


def test_a_nan_that_a_policy_read_is_named_before_anything_is_measured(tmp_path):
    task = Task(make=blinding_task, metrics=push_box_metrics, n_agents=2, horizon=10)
    with pytest.raises(NotFinite, match=r"'observation'.*in an evaluation, of agent 1"):
        train_blinded(task, tmp_path / "run")
    env = Blinding(5, horizon=10, seed=0)
    with pytest.raises(NotFinite, match=r"'observation'.*in an evaluation, of agent 1"):
        evaluate(None, env, push_box_metrics, horizon=10, seed=0)


def test_a_nan_that_is_collected_is_named_before_it_is_counted(tmp_path, monkeypatch):
    from torchrl_alita.training import evaluation

    monkeypatch.setattr(evaluation, "check_finite", lambda values, frame: None)
    task = Task(make=blinding_task, n_agents=2, horizon=10)
    with pytest.raises(NotFinite, match=r"'observation'.*at frame 50, of agent 1"):
        train_blinded(task, tmp_path / "run")


def test_who_was_paid_a_nan_is_named():
    reward = torch.zeros(4, 5, 3, 1)
    reward[1, 2, 0], reward[3, 4, 2] = torch.nan, torch.inf
    batch = TensorDict({"next": {"agents": {"reward": reward}}}, [4, 5])
    with pytest.raises(NotFinite, match=r"2 of 60 values of .* at frame 9, of agent 0, 2\."):
        check_finite(batch, 9)


@pytest.mark.parametrize(
    ("changes", "value"),
    [
        ({"total_frames": 0}, "0"),
        ({"batch_size": -3}, "-3"),
        ({"frames_per_batch": 21}, "21"),
        ({"frames_per_update": 50}, "50"),
        ({"noise_end": 2.0}, "2.0"),
        ({"exploration": "together"}, "together"),
        ({"exploration": "team", "agreement": 1.5}, "1.5"),
        ({"task": "vmas/spred"}, "vmas/spread"),
        ({"device": "cuda:99"}, "cuda:99"),
    ],
)
def test_a_config_that_cannot_work_is_refused(tmp_path, changes, value):
    with pytest.raises(ValueError, match=value):
        train(tiny(tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_every_random_state_of_the_process_is_preserved():
    from vmas.simulator.environment import Environment

    env = make_env("vmas/spread", num_envs=2)
    for seed in (random, np.random):
        seed.seed(0)
    torch.manual_seed(0)
    expected = (random.random(), np.random.rand(), torch.rand(()).item())  # noqa: NPY002
    for seed in (random, np.random):
        seed.seed(0)
    torch.manual_seed(0)
    vmas_before = list(Environment.vmas_random_state)
    with preserve_random_state():
        random.random()
        np.random.rand()  # noqa: NPY002
        torch.rand(())
        env.reset()
        Environment.vmas_random_state[:] = [None, None, None]
    assert (random.random(), np.random.rand(), torch.rand(()).item()) == expected  # noqa: NPY002
    assert all(a is b for a, b in zip(vmas_before, Environment.vmas_random_state, strict=True))


def test_an_evaluation_is_of_the_same_states_each_time():
    env = make_env("vmas/spread", num_envs=3, horizon=5)
    first, _ = evaluate(None, env, spread_metrics, horizon=5, seed=1)
    torch.rand(7)
    env.rollout(3)
    again, _ = evaluate(None, env, spread_metrics, horizon=5, seed=1)
    other, _ = evaluate(None, env, spread_metrics, horizon=5, seed=2)
    assert first == again
    assert first != other


def test_a_return_ends_with_its_episode():
    """Rewards of 1, 2, 4 and 8 to two agents; the first episode ends after two steps."""
    reward = torch.tensor([1.0, 2.0, 4.0, 8.0]).view(1, 4, 1, 1).expand(2, 4, 2, 1)
    done = torch.tensor([[0, 1, 0, 0], [0, 0, 0, 1]], dtype=torch.bool).unsqueeze(-1)
    episodes = TensorDict({"next": {"agents": {"reward": reward}, "done": done}}, [2, 4])
    assert episode_returns(episodes).tolist() == [3.0, 15.0]


def test_a_column_that_comes_late_leaves_earlier_rows_empty(tmp_path):
    file = MetricsFile(tmp_path / "metrics.csv")
    file.write({"frames": 1, "a": 0.5})
    file.write({"frames": 2, "a": 0.25, "b": 3})
    assert (tmp_path / "metrics.csv").read_text().split() == ["frames,a,b", "1,0.5,", "2,0.25,3"]
    assert file.column("b") == ([2], [3.0])


@pytest.mark.parametrize("name", ["csv", "tensorboard"])
def test_torchrls_loggers_write_under_the_run(tmp_path, name):
    train(tiny(tmp_path / "run", loggers=(name,), total_frames=60))
    written = [p for p in (tmp_path / "run" / f"{name}_logs").rglob("*") if p.is_file()]
    assert written
    assert all(path.stat().st_size > 0 for path in written)


def test_pictures_are_drawn_without_a_display(tmp_path, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    save_curves(tmp_path / "c.png", {"a": ([0, 1], [2.0, 3.0])}, title="t", baselines={"a": 1.0})
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.format == "PNG"
    with pytest.raises(ValueError, match="0"):
        save_gif(tmp_path / "g.gif", [])


def masked_task(*, num_envs, n_agents, device, seed, horizon) -> PushBox:
    return PushBox(
        num_envs, num_agents=n_agents, size=11, horizon=horizon, mask_blocked=True, seed=seed
    )


MASKED = Task(make=masked_task, metrics=push_box_metrics, draw=draw)


@pytest.mark.parametrize("exploration", ["independent", "team"])
@pytest.mark.parametrize("make", [MADDPG, ALITA])
def test_masks_reach_collection_replay_and_losses(tmp_path, exploration, make):
    """The environment refuses masked actions, and a masked policy needs its mask to learn."""
    made = []

    def remember(env, settings) -> MADDPG:
        made.append(make(env, settings))
        return made[0]

    config = tiny(tmp_path / "run", n_agents=2, exploration=exploration, horizon=9, algorithm=make)
    assert train(config, task=MASKED, make_algorithm=remember)["updates"] > 0
    assert ("agents", "action_mask") in made[0].maddpg.in_keys


@pytest.mark.parametrize("task", ["test/target", "push_box"])
def test_team_exploration_trains_and_is_drawn(tmp_path, task):
    config = tiny(tmp_path / "run", task=task, n_agents=2, exploration="team", horizon=6)
    assert train(config)["updates"] > 0
    with Image.open(tmp_path / "run" / "exploration.gif") as picture:
        assert picture.n_frames >= 6


def test_a_resumed_run_goes_on_counting_what_was_explored(tmp_path):
    """The frames of the first success and the visited states are of the whole run."""
    run = tmp_path / "run"
    options = {"task": "push_box", "n_agents": 2, "horizon": 20}
    options |= {"buffer_size": 60, "recent_frames": 60}
    train(tiny(run, total_frames=100, **options))
    config = json.loads((run / "config.json").read_text()) | {"total_frames": 200}
    (run / "config.json").write_text(json.dumps(config))
    train(tiny(None, resume=run, **options))
    visited = [float(row["exploration/state_visited"] or 0) for row in rows(run)]
    assert visited == sorted(visited)
    assert visited[-1] > visited[len(visited) // 2] > 0


def test_a_task_of_the_callers_own_needs_no_name(tmp_path):
    config = tiny(tmp_path / "run", task="anything", n_agents=2, horizon=1)
    task = game_task(MatrixGame([[0.0, 0.0, 0.0, 1.0]] * 2))
    summary = train(config, task=task)
    assert summary["task"] == "anything"
    assert set(summary["evaluation"]) == {"return_mean", "return_std"}


def test_a_game_of_two_sides_is_shown_by_the_return_of_each():
    """The mean over agents that are paid against each other says nothing."""
    result = {"return_good": 3.0, "return_adversary": -3.0, "return_mean": 1.0, "return_std": 0.0}
    table = closing_table({"evaluation": result, "random_team": dict.fromkeys(result, 0.0)})
    assert [line.split()[0] for line in table.splitlines()[1:]] == [
        "return_good",
        "return_adversary",
    ]
    logs = {f"evaluation/{name}": value for name, value in result.items()}
    assert shown_returns(logs) == "good=3.0, adversary=-3.0"
    of_agents = {"evaluation/return_agent_0": 2.0, "evaluation/return_mean": 1.0}
    assert shown_returns(of_agents | {"training/loss": 2.0}) == "return=1.0"
