"""Hostile input to what is more than a constructor: sides, suites, statistics, the command line.

Each case ends in one sentence that names what is wrong. What constructors refuse by the kind of
their arguments is in test_hostile.py.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from fakes import TargetEnv
from hostile_cases import ERRORS, state_of
from result_rows import make_row
from tensordict import TensorDict
from torch import nn

from torchrl_alita.__main__ import main
from torchrl_alita.algorithms import (
    ALITA,
    MAPPO,
    ALITASettings,
    MADDPGSettings,
    MAPPOSettings,
    Sides,
    SidesSettings,
)
from torchrl_alita.contrib.trainer import AlgorithmStepper
from torchrl_alita.data import BinCode, count_codes_of
from torchrl_alita.envs import (
    PushBoxSettings,
    SecretRoomSettings,
    SideView,
    Task,
    as_team,
    check_sides,
    make_env,
    navigation_metrics,
    register_suite,
    register_task,
    sides_by_name,
    sides_of,
)
from torchrl_alita.experiments import (
    append_row,
    interquartile_mean,
    make_cells,
    normalized_score,
    performance_profile,
    probability_of_improvement,
    read_marl_eval,
    read_rows,
    run_cells,
    write_marl_eval,
    write_rows,
)
from torchrl_alita.layout import next_key
from torchrl_alita.modules import AllAgents, RandomPolicy, SidesPolicy
from torchrl_alita.saving import load_policy, load_side, read_config
from torchrl_alita.training import cross_play, make_config
from torchrl_alita.transforms import BonusScale, RNDBonus, VisitBonus

GAME = make_env("mpe/adversary", num_envs=3, seed=0)
FOLLOWS = {"good": "random", "adversary": MADDPGSettings(num_cells=(5,))}
RANDOM = {"good": "random", "adversary": "random"}
NAN = math.nan


def refuses(call, said: str) -> None:
    """One sentence, of an error that a caller can make something of."""
    with pytest.raises((*ERRORS, ImportError, OSError)) as caught:
        call()
    error = caught.value
    # Python quotes the text of a KeyError.
    text = error.args[0] if isinstance(error, KeyError) else str(error)
    assert said in text
    assert "\n" not in text


# Sides


@pytest.mark.parametrize(
    ("sides", "said"),
    [
        (None, "sides must be a dict"),
        (3, "sides must be a dict"),
        ("good", "sides must be a dict"),
        ((("good", "random", 1),), "sides must be a dict"),
        ({1: "random"}, "sides must be a dict"),
        ({"go-od": "random"}, "Sides must have a name each"),
        ({"good": 3}, "What the side 'good' follows must be settings of an algorithm"),
        ({"good": None}, "What the side 'good' follows must be settings of an algorithm"),
        ({"good": MADDPGSettings}, "What the side 'good' follows must be settings"),
        ({"good": SidesSettings()}, "What the side 'good' follows must be settings"),
    ],
)
def test_hostile_settings_of_sides_are_refused(sides, said):
    refuses(lambda: SidesSettings(sides=sides), said)


def test_a_path_and_numbers_of_numpy_are_settings_of_sides():
    settings = SidesSettings(
        sides={"good": Path("runs/a"), "adversary": "random"},
        agents={"good": torch.tensor([1, 2]), "adversary": (0,)},
    )
    assert settings.fixed["good"] == str(Path("runs/a"))
    assert settings.plain()["agents"] == {"good": [1, 2], "adversary": [0]}


@pytest.mark.parametrize("agents", ["12", (-1,), (0.5,), (), (NAN,), (1, 1)])
def test_hostile_agents_of_a_side_are_refused_by_its_name(agents):
    refuses(
        lambda: SidesSettings(sides=FOLLOWS, agents={"good": agents}),
        "The agents of the side 'good'",
    )


@pytest.mark.parametrize(
    ("sides", "policies", "said"),
    [
        ({"god": "random", **FOLLOWS}, None, "Did you mean 'good'?"),
        ({"adversary": MADDPGSettings()}, None, "say what 'good' follows"),
        (RANDOM, None, "No side learns"),
        ({**FOLLOWS, "good": "rndom"}, None, "Did you mean 'random'?"),
        ({**FOLLOWS, "good": "no_module:f"}, None, "cannot be imported"),
        ({**FOLLOWS, "good": "math:nope"}, None, "cannot be imported"),
        ({**FOLLOWS, "good": "math:pi"}, None, "must be a function"),
        ({**FOLLOWS, "good": "runs/none"}, None, "'runs/none' is neither"),
        (FOLLOWS, 3, "policies must be a mapping"),
        (FOLLOWS, {"good": 3}, "The policy of the side 'good' must be callable"),
        (FOLLOWS, {"goood": len}, "Policies are given of ['goood']"),
    ],
)
def test_hostile_sides_of_a_game_are_refused(sides, policies, said):
    refuses(lambda: Sides(GAME, SidesSettings(sides=sides), policies=policies), said)


@pytest.mark.parametrize(
    ("plain", "said"),
    [
        ({}, "must have 'sides'"),
        ({"sides": [1]}, "must have 'sides'"),
        ({"sides": {"good": {"name": "madpg"}}}, "Did you mean 'maddpg'?"),
    ],
)
def test_hostile_settings_of_sides_in_a_file_are_refused(plain, said):
    refuses(lambda: SidesSettings.from_plain(plain), said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda batch: None, "must be a tensordict"),
        (lambda batch: batch[:0], "The batch is empty"),
        (lambda batch: batch.exclude(("agents", "action")), "has no ('agents', 'action')"),
        (
            lambda batch: batch.exclude("agents").set(
                ("agents", "observation"), batch["agents", "observation"][:, :2]
            ),
            "The sides have 3 agents",
        ),
    ],
)
def test_hostile_batches_of_sides_are_refused_and_change_nothing(change, said):
    algorithm = Sides(GAME, SidesSettings(sides=FOLLOWS))
    batch = GAME.rollout(4).reshape(-1)
    before = state_of(algorithm.learners["adversary"].maddpg)
    changed = change(batch)
    refuses(lambda: algorithm.update(dict.fromkeys(algorithm.replays(), changed)), said)
    torch.testing.assert_close(state_of(algorithm.learners["adversary"].maddpg), before)
    assert algorithm.updates == 0


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: check_sides(None, 3), "sides must be a mapping"),
        (lambda: check_sides({}, 0), "num_agents must be at least 1"),
        (lambda: check_sides({"good": [0]}, 1.5), "num_agents must be a whole number"),
        (lambda: sides_of(None), "The environment must be a TorchRL environment"),
        (lambda: sides_by_name([1, 2]), "An agent's name must be a text"),
        (lambda: SideView(GAME, ()), "agents must be distinct agents"),
        (lambda: SideView(GAME, "0"), "agents must be a sequence"),
        (lambda: SideView(GAME, (7,)), "below the number of agents, 3, got 7"),
        (lambda: SidesPolicy(None, {}), "sides must be a mapping"),
        (lambda: SidesPolicy({"a": (0,)}, {"a": 3}), "The policy of the side 'a' must be callable"),
        (lambda: AllAgents(None), "policy must be a module of all agents"),
        (lambda: RandomPolicy(None), "spec must be a spec of actions"),
        (lambda: next_key(None), "A key must be a text"),
    ],
)
def test_hostile_parts_of_sides_are_refused(call, said):
    refuses(call, said)


@pytest.mark.parametrize(
    ("task", "sides", "options", "said"),
    [
        ("mpe/adversry", RANDOM, {}, "Did you mean 'mpe/adversary'?"),
        (3, RANDOM, {}, "task must be a name or a Task"),
        ("mpe/adversary", None, {}, "sides must be a mapping"),
        ("mpe/adversary", {"good": "random"}, {}, "The game has the sides"),
        ("mpe/adversary", {**RANDOM, "good": []}, {}, "has no policy"),
        ("mpe/adversary", {**RANDOM, "good": 3}, {}, "The policies of the side 'good'"),
        ("mpe/adversary", {**RANDOM, "good": [None]}, {}, "A policy of the side 'good' must be"),
        ("mpe/adversary", {**RANDOM, "good": "runs/none"}, {}, "'runs/none' is neither"),
        ("mpe/adversary", {**RANDOM, "good": lambda b: None}, {}, "must return its batch"),
        ("mpe/adversary", {**RANDOM, "good": lambda b: b}, {}, "writes no ('agents', 'action')"),
        ("mpe/adversary", RANDOM, {"episodes": 0}, "episodes must be a whole number"),
        ("mpe/adversary", RANDOM, {"episodes": NAN}, "episodes must be a whole number"),
        ("mpe/adversary", RANDOM, {"seed": -1}, "seed must be a whole number"),
        ("mpe/adversary", RANDOM, {"horizon": 0}, "horizon must be at least 1"),
        ("mpe/adversary", RANDOM, {"device": "gpu"}, "torch cannot use the device 'gpu' here"),
    ],
)
def test_hostile_cross_play_is_refused(task, sides, options, said):
    refuses(lambda: cross_play(task, sides, **{"episodes": 2, **options}), said)


# The trainer


@pytest.fixture(scope="module")
def stepper() -> AlgorithmStepper:
    options = {
        "num_envs": 5, "total_frames": 60, "frames_per_batch": 20,
        "algorithm.frames_per_update": 10, "algorithm.random_frames": 20,
        "algorithm.batch_size": 8, "algorithm.num_cells": (5,),
    }  # fmt: skip
    config = make_config("maddpg", "mpe/adversary", options)
    return AlgorithmStepper(config, config.build(make_env("mpe/adversary", num_envs=5, seed=0)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda batch: None, "The collected batch must be a tensordict"),
        (lambda batch: batch.reshape(-1), "must be [B, T] of the config's 5 environments"),
        (lambda batch: batch[:2], "must be [B, T] of the config's 5 environments, got (2, 4)"),
        (
            lambda batch: TensorDict({}, [5, 0]),
            "must be [B, T] of the config's 5 environments, got (5, 0)",
        ),
        (lambda batch: batch.exclude(("next", "agents", "reward")), "'next', 'agents', 'reward'"),
        (lambda batch: make_env("push_box", num_envs=5).rollout(4), "must have the shape"),
        (
            lambda batch: batch.set(
                ("next", "agents", "reward"), batch["next", "agents", "reward"] * NAN
            ),
            "reward",
        ),
    ],
)
def test_hostile_batches_of_a_trainer_are_refused_and_not_stored(stepper, change, said):
    env = make_env("mpe/adversary", num_envs=5, seed=0)
    batch = change(env.rollout(4, stepper.policy))
    refuses(lambda: stepper.store(batch), said)
    assert len(stepper.learning.buffers.replay) == 0


@pytest.mark.parametrize("state", [None, {}, {"algorithm": {}}])
def test_a_hostile_state_of_a_trainer_is_refused(stepper, state):
    refuses(lambda: stepper.load_state_dict(state), "The state")


def test_a_trainers_parts_in_the_wrong_places_are_refused(stepper):
    refuses(lambda: AlgorithmStepper(None, stepper.algorithm), "config must be a Config")
    refuses(lambda: AlgorithmStepper(stepper.config, ALITA), "algorithm must be an algorithm")


# Settings of goals, of the influence and of the bonuses


@pytest.mark.parametrize("kind", [(MAPPO, MAPPOSettings), (ALITA, ALITASettings)])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"goal_attention": "yes"}, "goal_attention must be True or False"),
        ({"goal_attention": 1}, "goal_attention must be True or False"),
        ({"goal_attention": True, "own_features": -1}, "own_features"),
        ({"goal_attention": True, "own_features": NAN}, "own_features must be a whole number"),
        ({"goal_attention": True, "own_features": 10**6}, "has no room for 1000000"),
    ],
)
def test_hostile_settings_of_goals_are_refused(kind, options, said):
    algorithm, settings = kind
    refuses(lambda: algorithm(TargetEnv(), settings(**options)), said)


@pytest.mark.parametrize("name", ["influence_unit", "bonus_unit"])
@pytest.mark.parametrize("value", ["", "none", None, 3, NAN])
def test_hostile_units_are_refused_by_name(name, value):
    refuses(lambda: ALITASettings(**{name: value}), f"{name} must be")


# Tasks and suites


@pytest.mark.parametrize("env", [None, 3, "vmas/spread", TargetEnv, object()])
def test_what_is_no_environment_is_not_laid_out(env):
    refuses(lambda: as_team(env), "env must be a TorchRL environment")


@pytest.mark.parametrize(
    ("options", "error"),
    [({"observation": 3}, "observation must be a sequence"), ({"state": "nope"}, "has no 'nope'")],
)
def test_hostile_keys_of_a_team_are_refused(options, error):
    refuses(lambda: as_team(TargetEnv(), **options), error)


@pytest.mark.parametrize("name", [3, None, "", "a b", "module:name"])
def test_hostile_names_of_tasks_and_suites_are_refused(name):
    refuses(lambda: register_task(name, Task(TargetEnv)), "A name must be a text")
    refuses(lambda: register_suite(name, list, Task), "A name must be a text")


@pytest.mark.parametrize("task", [None, 3, TargetEnv, "vmas/spread"])
def test_what_is_no_task_is_not_registered(task):
    refuses(lambda: register_task("mine/new", task), "task must be a Task")
    refuses(lambda: register_suite("mine", list, None), "task must be callable")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"floor": NAN}, "floor must be finite"),
        ({"ceiling": "1"}, "ceiling must be a number"),
        ({"floor": 1.0, "ceiling": 1.0}, "floor must be below ceiling"),
        ({"floor": 2.0, "ceiling": 1.0}, "floor must be below ceiling"),
        ({"make": lambda **options: None}, "What the task makes must be a TorchRL environment"),
    ],
)
def test_hostile_tasks_are_refused(options, said):
    refuses(lambda: make_env(Task(**{"make": TargetEnv, **options})), said)


@pytest.mark.parametrize(
    "name",
    [
        *("mpe/spred", "vmas/nope", "vmas/", "pybullet/nope", "smac/nope", "nosuite/x", "/"),
        *("no_module:x", "math:pi", ":"),
    ],
)
def test_unknown_names_of_every_suite_are_refused_by_name(name):
    refuses(lambda: make_env(name), repr(name))


@pytest.mark.parametrize("suite", ["jaxmarl", "smax", "mpe2", "sisl", "mamujoco", "lbforaging"])
def test_unknown_names_of_an_optional_suite_are_refused_by_name_or_extra(suite):
    with pytest.raises((ValueError, ImportError)) as caught:
        make_env(f"{suite}/nope")
    assert f"'{suite}/nope'" in str(caught.value) or "torchrl_alita[" in str(caught.value)


@pytest.mark.parametrize("kind", [PushBoxSettings, SecretRoomSettings])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rules": "x"}, "rules must be one of"),
        ({"rules": None}, "rules must be"),
        ({"size": "x"}, "size must be a whole number"),
        ({"reward": "x"}, "reward must be"),
        ({"mask_blocked": "x"}, "mask_blocked must be True or False"),
        ({"start": "x"}, "start must be one of"),
    ],
)
def test_hostile_settings_of_the_sparse_games_are_refused(kind, options, said):
    refuses(lambda: kind(**options), said)


def test_settings_of_another_rule_set_are_refused():
    refuses(lambda: PushBoxSettings(rules="cmae", pushes_needed=1), "are of EDTI's rules")
    refuses(lambda: SecretRoomSettings(rules="cmae", door_steps=3), "are of EDTI's rules")


def test_metrics_of_another_game_are_refused():
    refuses(lambda: navigation_metrics(TargetEnv().rollout(3)), "has no ('next', 'positions')")


# Bonuses


def seen(value: float = 0.0, *, width: int = 5, key: str = "observation") -> TensorDict:
    entry = torch.full((4, 3, 2, width), value)
    return TensorDict({"next": {"agents": {key: entry}}}, [4, 3])


def test_a_bonus_keeps_its_statistics_where_a_batch_is_not_finite():
    rnd = RNDBonus(nn.Linear(5, 3), nn.Linear(5, 3), num_features=5)
    rnd.update(seen(1.0))
    refuses(lambda: rnd.update(seen(NAN)), "'observation')[0, 0, 0, 0] must be finite")
    assert rnd.obs_rms.mean.isfinite().all()
    scale = BonusScale({("agents", "visit_bonus"): 0.5})
    scale.update(seen(1.0, width=1, key="visit_bonus"))
    refuses(
        lambda: scale.update(seen(math.inf, width=1, key="visit_bonus")),
        "'visit_bonus')[0, 0, 0, 0] must be finite",
    )
    assert scale.scale.isfinite().all()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: RNDBonus(*[nn.Linear(5, 3)] * 2), "must be two, got one network"),
        (
            lambda: RNDBonus(nn.Linear(5, 3), nn.Linear(5, 3), num_features=5)(seen(width=7)),
            "must have num_features, 5, numbers, got 7",
        ),
        (lambda: RNDBonus(nn.Linear(5, 3), nn.Linear(5, 2))(seen()), "The networks must give"),
        (lambda: VisitBonus(lambda o: o), "code does not say how many codes it has"),
        (lambda: VisitBonus(len, num_codes=0), "num_codes must be at least 1"),
        (lambda: BonusScale(None), "coeffs must be a mapping"),
        (lambda: BonusScale({"a": NAN}), "a must be finite"),
        (lambda: BonusScale({"a": "x"}), "a must be a number"),
        (lambda: count_codes_of(TargetEnv()), "does not say what is counted in it"),
        (lambda: BinCode([0.0], [1.0], 0), "bins must be at least 1"),
        (lambda: BinCode([1.0], [0.0], 3), "low"),
        (
            lambda: BinCode([0.0], [1.0], 3, features=[-1]),
            "features must be a whole number at least 0, got -1",
        ),
        (lambda: BinCode([0.0], [1.0], 3, features=[0.5]), "features"),
        (lambda: BinCode([0.0], [1.0], 3, features=[0, 1]), "as many, got 1, 1, 1 and 2"),
        (
            lambda: BinCode([0.0], [1.0], 3, observer=-1),
            "observer must be a whole number at least 0",
        ),
        (lambda: BinCode([0.0], [1.0], 3, observer=2)(torch.zeros(2, 1)), "of agent 2 too"),
        (lambda: BinCode([0.0], [1.0], 3, features=[4])(torch.zeros(2, 4)), "at least 5 entries"),
    ],
)
def test_hostile_parts_of_bonuses_are_refused(call, said):
    refuses(call, said)


# Statistics, rows, sweeps


@pytest.mark.parametrize("scores", [[], {}, [NAN], ["x"], None, 3, {"a": []}, {"a": [math.inf]}])
def test_hostile_scores_are_refused(scores):
    with pytest.raises(ERRORS) as caught:
        interquartile_mean(scores)
    assert "score" in str(caught.value) or "must have at least" in str(caught.value)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: probability_of_improvement({"a": [1.0]}, {"b": [1.0]}), "tasks must be the same"),
        (lambda: performance_profile([1.0], []), "thresholds must be numbers"),
        (lambda: performance_profile([1.0], [NAN]), "thresholds must be numbers"),
        (lambda: performance_profile([1.0], "x"), "thresholds must be a sequence"),
        (lambda: normalized_score(NAN, floor=0.0, ceiling=1.0), "value must be a number"),
        (lambda: normalized_score(1.0, floor=NAN, ceiling=1.0), "floor must be a number"),
        (lambda: normalized_score("x", floor=0.0, ceiling=1.0), "value must be a number"),
        (lambda: normalized_score(1.0, floor=0.0, ceiling=0.0), "must differ"),
    ],
)
def test_hostile_statistics_are_refused(call, said):
    refuses(call, said)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"a": 1}\n', "line 1, is damaged: it lacks"),
        (b'{"study": "x", "vari', "line 1, is damaged"),
        (b"[1]\n", "line 1, is damaged: it is no object"),
        (b"\xff\xfe\x00", "is no file of rows"),
    ],
)
def test_a_damaged_file_of_rows_is_named(tmp_path, content, said):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    refuses(lambda: read_rows(path), f"{path}")
    refuses(lambda: read_rows(path), said)


def test_a_missing_file_of_rows_is_named(tmp_path):
    refuses(lambda: read_rows(tmp_path / "none.jsonl"), "none.jsonl")


def test_what_is_no_row_is_not_written(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_rows(path, [make_row()])
    refuses(lambda: append_row(path, 3), "A row must be a Row, got 3")
    refuses(lambda: write_rows(path, [make_row(), 3]), "A row must be a Row, got 3")
    assert read_rows(path) == [make_row()]


@pytest.mark.parametrize("content", ["{", "[1]", "{}"])
def test_what_is_no_file_of_marl_eval_is_named(tmp_path, content):
    path = tmp_path / "peers.json"
    path.write_text(content)
    refuses(lambda: read_marl_eval(path, study="s"), f"{path} is no file of marl-eval")
    refuses(lambda: write_marl_eval(path, []), "There are no rows")
    assert path.read_text() == content


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tasks": []}, "tasks must name at least one"),
        ({"tasks": "push_box"}, "tasks must be a sequence"),
        ({"algorithms": ["madpg"]}, "Did you mean 'maddpg'?"),
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"seeds": []}, "seeds must be"),
        ({"seeds": [-1]}, "seeds must be at least 0"),
        ({"seeds": "x"}, "seeds must be a sequence"),
        ({"grid": {"maddpg.gamma": 0.5}}, "The values of maddpg.gamma must be a sequence"),
        ({"grid": {"alita.gamma": [0.5]}}, "is of 'alita', which is not among ['maddpg']"),
    ],
)
def test_hostile_sweeps_are_refused(options, said):
    given = {"tasks": ["push_box"], "algorithms": ["maddpg"], "seeds": 1, "frames": 10}
    refuses(lambda: make_cells(study="s", **{**given, **options}), said)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cells": None}, "cells must be a sequence"),
        ({"workers": 0}, "workers must be at least 1"),
        ({"launcher": "x"}, "launcher must be one of ['local', 'ray', 'submitit']"),
    ],
)
def test_hostile_launches_are_refused_and_start_nothing(tmp_path, options, said):
    cells = make_cells(["push_box"], ["maddpg"], study="s", seeds=1, frames=10)
    refuses(lambda: run_cells(**{"cells": cells, "out": tmp_path / "s", **options}), said)
    assert not (tmp_path / "s").exists()


# Directories


@pytest.fixture
def folders(tmp_path, monkeypatch) -> Path:
    """Directories that are no run, in the working directory."""
    monkeypatch.chdir(tmp_path)
    for name, content in {"damaged": "{", "listed": "[]", "empty": ""}.items():
        Path(name).mkdir()
        Path(name, "config.json").write_text(content)
    Path("nothing").mkdir()
    Path("sweep").mkdir()
    Path("sweep", "results.jsonl").write_text("")
    Path("file").write_text("x")
    return tmp_path


@pytest.mark.parametrize("name", ["damaged", "listed", "empty", "nothing", "sweep", "file", "none"])
@pytest.mark.usefixtures("folders")
def test_what_is_no_run_is_refused_by_its_name(name):
    for call in (
        lambda: load_policy(name, GAME),
        lambda: load_side(name, "good", GAME),
        lambda: read_config(name),
    ):
        refuses(call, name)


# The command line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        # train sides
        ("train sides --task mpe/adversary", "say what 'adversary' follows"),
        ("train sides --task mpe/adversary --side.good maddpg", "say what 'adversary' follows"),
        ("train sides --task mpe/adversary --side.god maddpg", "Did you mean 'good'?"),
        (
            "train sides --task mpe/adversary --side.good madpg --side.adversary maddpg",
            "Did you mean 'maddpg'?",
        ),
        ("train sides --task mpe/adversary --side.good", "--side.good"),
        (
            "train sides --task mpe/adversary --side.good random --side.adversary random",
            "No side learns",
        ),
        (
            "train sides --task mpe/adversary --side.good nothing --side.adversary maddpg",
            "nothing",
        ),
        (
            "train sides --task mpe/adversary --side.good damaged --side.adversary maddpg",
            "damaged",
        ),
        (
            "train sides --task mpe/adversary --side.good maddpg --side.good.gama 1 "
            "--side.adversary random",
            "gama",
        ),
        (
            "train sides --task mpe/adversary --side.good maddpg --side.good.gamma -1 "
            "--side.adversary random",
            "gamma must be in [0, 1]",
        ),
        ("train maddpg --task mpe/adversary --side.good maddpg", "side"),
        ("train alita --task vmas/spread --goal-attention maybe", "goal-attention"),
        ("train alita --task vmas/spread --influence-unit x", "influence-unit"),
        ("train alita --task vmas/spread --bonus-unit x", "bonus-unit"),
        ("train alita --task push_box --task.rules x", "task.rules"),
        ("train alita --task mpe/spread --task.positions-first maybe", "maybe"),
        ("train on_policy_alita --task vmas/spread", "the preset 'paper'"),
        ("train maddpg vmas/spread", "vmas/spread is no option"),
        ("train maddpg --lr 1e-3", "-lr?"),
        ("train maddpg --algorithm.layer-norm maybe", "must be True or False, got 'maybe'"),
        ("train maddpg --task VMAS/spread", "Did you mean 'vmas/spread'?"),
        ("train maddpg --task math:sqrt", "a function that gives one without arguments"),
        ("train mappo --algorithm.bonuses visit_bonus", "a text and a number"),
        ("train maddpg --resume damaged --run-dir other", "damaged"),
        ("train alita --task jaxmarl/nope", "jaxmarl"),
        ("train alita --task mpe2/nope_v3", "mpe2"),
        # cross-play
        ("cross-play", "--task"),
        ("cross-play --task mpe/adversary", "The game has the sides"),
        ("cross-play --task mpe/adversry --side.good random", "Did you mean 'mpe/adversary'?"),
        ("cross-play --task mpe/adversary --side.good random", "The game has the sides"),
        ("cross-play --task mpe/adversary --side.good --side.adversary random", "has no policy"),
        (
            "cross-play --task mpe/adversary --side.good none --side.adversary random",
            "'none' is neither",
        ),
        (
            "cross-play --task mpe/adversary --side.good nothing --side.adversary random",
            "nothing is neither a checkpoint nor a run",
        ),
        (
            "cross-play --task mpe/adversary --side.good file --side.adversary random",
            "'file' is neither",
        ),
        ("cross-play --task mpe/adversary --episodes x", "--episodes"),
        (
            "cross-play --task mpe/adversary --side.good random --side.adversary random "
            "--episodes 0",
            "episodes must be",
        ),
        (
            "cross-play --task mpe/adversary --side.good random --side.adversary random "
            "--device gpu",
            "device 'gpu'",
        ),
        (
            "cross-play --task mpe/adversary --side.good random --side.adversary random "
            "--episodes 2 --json none/rows.json",
            "none/rows.json",
        ),
        # sweep and report
        ("sweep", "--tasks"),
        ("sweep --tasks push_box --algorithms madpg --out s", "Did you mean 'maddpg'?"),
        ("sweep --tasks push_bx --algorithms maddpg --out s", "Did you mean 'push_box'?"),
        ("sweep --tasks push_box --algorithms maddpg --out s --seeds 0", "seeds must be"),
        ("sweep --tasks push_box --algorithms maddpg --out s --workers 0", "workers must be"),
        ("sweep --tasks push_box --algorithms maddpg --out s --launcher x", "--launcher"),
        ("sweep --tasks push_box --algorithms maddpg --out s --set gamma", "has no value"),
        ("sweep --tasks push_box --algorithms maddpg --out file", "file"),
        (
            "sweep --tasks push_box --algorithms maddpg --out s --set alita.gamma 1",
            "not among --algorithms",
        ),
        (
            "sweep --tasks push_box --algorithms maddpg --out s --set random-frames 5",
            "of the algorithm it is maddpg.random-frames",
        ),
        (
            "sweep --tasks push_box --algorithms maddpg --out s --set algorithm.gamma 0.5",
            "write maddpg.gamma",
        ),
        ("report", "required: dir"),
        ("report none", "none"),
        ("report nothing", "nothing"),
        ("report sweep", "no finished run"),
        ("report file", "file"),
        ("repot x", "unknown command 'repot'"),
    ],
)
@pytest.mark.usefixtures("folders")
def test_a_hostile_command_line_is_one_line_and_status_2(arguments, said, capsys):
    assert main(arguments.split()) == 2
    shown = capsys.readouterr()
    (line,) = shown.err.splitlines()
    assert line.startswith("torchrl-alita")
    assert said in line
    assert "Traceback" not in line
    assert not shown.out
