"""Weights & Biases, offline: what is logged is read back from the run's file."""

from __future__ import annotations

import itertools
import json
import os
import time
from types import SimpleNamespace

import pytest
import resume_runs
import torch
from scripts import ROOT, load

from torchrl_alita.training import (
    config_from_plain,
    evaluation,
    figures,
    parse_arguments,
    plain_config,
)
from torchrl_alita.training.logging import Loggers, MetricsFile, WandbSettings

yaml = pytest.importorskip("yaml", reason="it comes with the extra wandb")
wandb = pytest.importorskip("wandb", reason="wandb is not installed: the extra wandb")
from wandb_file import offline_runs  # noqa: E402  needs wandb

BATCH = 35


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    for name in ("WANDB_MODE", "WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("save_curves", "save_heat_map"):
        monkeypatch.setattr(figures, name, lambda *args, **kwargs: None)


def train(run_dir, name: str = "maddpg", **changes) -> dict:
    return resume_runs.run("games", name, run_dir=run_dir, loggers=("wandb",), **changes)


def test_a_run_is_read_back_as_it_was_logged(tmp_path):
    settings = WandbSettings(project="p", entity="e", tags=("night",), checkpoint=True)
    summary = train(tmp_path / "first run", wandb=settings)
    (found,) = offline_runs(tmp_path / "first run")
    assert (found.run.project, found.run.entity) == ("p", "e")
    assert (found.run.run_group, found.run.job_type) == ("maddpg-games", "train")
    assert found.run.display_name == "first run"
    assert set(found.run.tags) == {"maddpg", "games", "night"}
    assert found.config["training"]["seed"] == 3
    assert found.config["machine"]["torch"] == torch.__version__
    assert "processor" in found.config["machine"]
    # One row for each batch, and one at the start; the video is one more.
    frames = list(range(0, resume_runs.WHOLE + 1, BATCH))
    assert [row.get("training/step") for row in found.history] == [None, *frames[1:], None]
    assert found.column("evaluation/step") == [0, 70, 140, 140]
    metrics = MetricsFile(tmp_path / "first run" / "metrics.csv")
    assert found.column("evaluation/return_mean") == metrics.column("evaluation/return_mean")[1]
    assert found.column("training/loss_actor") == metrics.column("training/loss_actor")[1]
    (video,) = found.column("evaluation/episode")
    assert video["_type"] == "video-file"
    assert video["size"] == (tmp_path / "first run" / "rollout.gif").stat().st_size
    final = found.summary["final"]
    assert final["evaluation"]["return_mean"] == summary["evaluation"]["return_mean"]
    assert found.artifacts == ["model"]
    assert "WANDB_MODE" not in os.environ
    assert found.exit_code == 0


def test_two_runs_of_a_process_are_two_and_an_error_closes_the_first(tmp_path, monkeypatch):
    evaluate = evaluation.evaluate
    monkeypatch.setattr(evaluation, "evaluate", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "first")
    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    train(tmp_path / "second")
    (first,), (second,) = offline_runs(tmp_path / "first"), offline_runs(tmp_path / "second")
    assert first.run.run_id != second.run.run_id
    assert (first.exit_code, second.exit_code) == (1, 0)
    assert not first.history
    assert len(second.history) == 6


def test_a_run_that_the_caller_has_opened_stays_his(tmp_path):
    with wandb.init(project="mine", dir=tmp_path, mode="offline") as mine:
        train(tmp_path / "run")
        assert wandb.run is mine
        wandb.log({"mine": 1})
    (own,) = offline_runs(tmp_path)
    (run,) = offline_runs(tmp_path / "run")
    assert own.column("mine") == [1]
    assert [set(row) - {"_step", "_timestamp", "_runtime"} for row in own.history] == [{"mine"}]
    assert own.run.run_id != run.run.run_id
    assert len(run.history) == 6


def test_a_resumed_run_goes_on_under_its_id(tmp_path):
    with resume_runs.stop_halfway(), pytest.raises(resume_runs.Stopped):
        train(tmp_path)
    train(tmp_path, resume=tmp_path)
    first, second = offline_runs(tmp_path)
    assert first.run.run_id == second.run.run_id
    assert first.exit_code == 1
    assert first.column("training/step") == [35, 70]
    assert second.column("training/step") == [105, 140]


def test_gaps_and_novelties_are_histograms_at_evaluations_and_leave_no_trace(tmp_path):
    """Frame 70 is the first evaluation after the start; 7 environments make 5 steps a batch."""
    train(tmp_path / "shown", "alita marginal")
    resume_runs.run("games", "alita marginal", run_dir=tmp_path / "plain")
    (found,) = offline_runs(tmp_path / "shown")
    assert found.column("distribution/step") == [70, 140]
    # The influencer is drawn anew; in three agents it has two influencees.
    names = {name for row in found.history for name in row if name.startswith("distribution/")}
    gaps = {name for name in names if "/gap_" in name}
    assert names == {"distribution/step", "distribution/novelty"} | gaps
    assert len(gaps) == 2
    for name in (*gaps, "distribution/novelty"):
        for histogram in found.column(name):
            assert sum(histogram["values"]) == BATCH
    shown, plain = (MetricsFile(tmp_path / run / "metrics.csv").rows for run in ("shown", "plain"))
    for one, other in zip(shown, plain, strict=True):
        assert {**one, "wall_seconds": ""} == {**other, "wall_seconds": ""}


def test_histograms_are_kept_and_a_csv_file_has_none(tmp_path):
    values = {"distribution/gap": torch.tensor([[0.0, 1.0], [1.0, float("nan")]])}
    with Loggers(("csv", "tensorboard", "wandb"), tmp_path, config={}) as loggers:
        loggers.log_histograms(values, step=7)
        loggers.log({"distribution/mean": 0.5}, step=7)
    (found,) = offline_runs(tmp_path)
    (histogram,) = found.column("distribution/gap")
    assert sum(histogram["values"]) == 3
    assert (histogram["bins"][0], histogram["bins"][-1]) == (0.0, 1.0)
    assert found.column("distribution/step") == [7, 7]


def test_it_is_offline_unless_asked_and_waits_for_no_network(tmp_path, monkeypatch):
    assert WandbSettings().resolved_mode() == "offline"
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    assert WandbSettings().resolved_mode() == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert WandbSettings().resolved_mode() == "disabled"
    assert WandbSettings(mode="offline").resolved_mode() == "offline"
    with pytest.raises(ValueError, match=r"mode must be one of .*'onlin'"):
        WandbSettings(mode="onlin")


def test_a_server_that_does_not_answer_costs_seconds_and_no_run(tmp_path, monkeypatch, caplog):
    """The address is one where nothing listens."""
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("torchrl_alita.training.logging._WANDB_START", 1.0)
    monkeypatch.setattr("torchrl_alita.training.logging._WANDB_END", 1.0)
    started = time.perf_counter()
    with Loggers(("wandb",), tmp_path, config={}, wandb=WandbSettings(mode="online")) as loggers:
        loggers.log({"a": 1.0}, step=1)
    assert time.perf_counter() - started < 20
    assert "wandb has failed" in caplog.text


def test_the_config_comes_back_from_its_json(tmp_path):
    config = resume_runs.config("games", "maddpg", wandb=WandbSettings(tags=("a", "b")))
    saved = json.loads(json.dumps(plain_config(config)))
    assert config_from_plain(saved) == config


SWEEPS = sorted((ROOT / "recipes" / "sweeps").glob("*.yaml"))


def test_every_recipe_has_a_sweep():
    launched = {
        path.stem for path in (ROOT / "recipes").glob("*.py") if "launch(" in path.read_text()
    }
    assert {path.stem for path in SWEEPS} == launched - {"side_by_side"}


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_the_command_of_an_agent_is_understood_by_the_recipe(path, tmp_path, monkeypatch):
    """The agent is that of Weights & Biases; no process is started and nobody is asked."""
    from wandb import wandb_agent

    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):
        monkeypatch.setenv(name, "")
    commands = []
    process = lambda command, **options: commands.append(command) or SimpleNamespace()  # noqa: E731
    monkeypatch.setattr(wandb_agent, "AgentProcess", process)
    sweep = yaml.safe_load(path.read_text())
    assert sweep["method"] == "grid"
    assert set(sweep["metric"]) == {"name", "goal"}
    names, choices = zip(*sweep["parameters"].items(), strict=True)
    agent = wandb_agent.Agent(None, None, "sweep")
    agent._sweep_command = sweep["command"]
    recipe = load("recipes", path.stem)
    for chosen in itertools.product(*(each["values"] for each in choices)):
        given = dict(zip(names, chosen, strict=True))
        values = {name: {"value": value} for name, value in given.items()}
        agent._command_run({"run_id": "r", "program": sweep["program"], "args": values})
        env, python, program, *words = commands[-1]
        assert (env, python, program) == ("/usr/bin/env", "python", f"recipes/{path.stem}.py")
        config = parse_arguments(
            words, getattr(recipe, "DEFAULTS", None) or recipe.defaults("smax/2s3z")
        )
        assert (config.training.seed, config.training.loggers) == (given["seed"], ("wandb",))
        for name, value in given.items():
            part, _, field = name.replace("-", "_").rpartition(".")
            own = getattr(config, {"": "training", "task": "task_settings"}.get(part, part))
            assert getattr(own, field) == value
        if given["seed"]:
            break


def test_a_run_of_an_agent_has_the_id_that_the_agent_gave(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    monkeypatch.setenv("WANDB_RUN_ID", "abcd1234")
    with Loggers(("wandb",), tmp_path, config={}, wandb=WandbSettings(mode="offline")) as loggers:
        loggers.log({"a": 1.0}, step=1)
    (found,) = offline_runs(tmp_path)
    assert found.run.run_id == "abcd1234"
