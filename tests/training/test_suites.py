"""MADDPG and ALITA on games of every suite: the cheap part of benchmarks/studies/suites.py."""

from __future__ import annotations

import math

import pytest
from scripts import ROOT, load

from torchrl_alita.training import make_config, train

# Frames of each game: 5,000 where a thousand take a second or less.
GAMES = {
    "vmas/balance": 5_000,
    "vmas/simple_adversary": 5_000,
    "vmas/simple_speaker_listener": 5_000,
    "mpe2/simple_spread_v3": 5_000,
    "mpe2/simple_speaker_listener_v4": 5_000,
    "mpe2/simple_adversary_v3": 5_000,
    "sisl/multiwalker_v9": 400,
    "butterfly/knights_archers_zombies_v11": 400,
    "mamujoco/HalfCheetah-2x3": 400,
    "jaxmarl/MPE_simple_spread_v3": 5_000,
    "jaxmarl/coin_game": 5_000,
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """MuJoCo leaves a log where it is run."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
# JaxMARL asks for integers of 64 bits, and names a later version of a game.
@pytest.mark.filterwarnings("ignore:Explicitly requested dtype:UserWarning")
@pytest.mark.parametrize("algorithm", ["maddpg", "alita"])
@pytest.mark.parametrize("task", GAMES)
def test_an_algorithm_learns_in_every_suite(task, algorithm, tmp_path):
    frames = GAMES[task]
    if task.startswith("sisl/multiwalker"):
        pytest.importorskip("Box2D", reason="Box2D is not installed: the extra sisl")
    options = {
        "num_envs": 50 if frames == 5_000 else 10,
        "horizon": 25,
        "total_frames": frames,
        "frames_per_batch": 500 if frames == 5_000 else 100,
        "evaluation_interval": frames,
        "evaluation_episodes": 3,
        "progress": False,
        "run_dir": tmp_path / "run",
        "algorithm.random_frames": 500 if frames == 5_000 else 100,
        "algorithm.batch_size": 64,
        "algorithm.num_cells": (16,),
    }
    try:
        summary = train(make_config(algorithm, task, options))
    except ImportError as error:
        pytest.skip(str(error))
    assert summary["frames"] == frames
    assert summary["updates"] > 0
    assert all(map(math.isfinite, summary["evaluation"].values()))


def test_the_study_has_what_the_page_says():
    """Ten scenarios of VMAS, five tasks of JaxMARL, six of PettingZoo's kind, by both."""
    study = load("benchmarks/studies", "suites", known_as="suites").STUDY
    suites = [task.partition("/")[0] for task in study.tasks]
    assert (suites.count("vmas"), suites.count("jaxmarl")) == (10, 5)
    assert len(suites) == 21
    assert {frames for frames, _ in study.tasks.values()} == {5_000}
    assert {variant.algorithm for variant in study.variants.values()} == {"maddpg", "alita"}
    assert (ROOT / study.page).is_file()
