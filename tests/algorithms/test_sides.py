"""Sides of one game: each learns as it would alone, and sees and touches nothing of the others."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from itertools import islice

import pytest
import torch
from scripts import ROOT
from tensordict import TensorDict
from torchrl.envs import ExplorationType, set_exploration_type

from torchrl_alita.algorithms import (
    ALGORITHMS,
    ALITA,
    MADDPG,
    MAPPO,
    ALITASettings,
    DDPGSettings,
    DQNSettings,
    IPPOSettings,
    IQLSettings,
    MADDPGSettings,
    MAPPOSettings,
    OnPolicyALITASettings,
    Sides,
    SidesSettings,
    TwinALITASettings,
)
from torchrl_alita.envs import (
    ParticleSettings,
    SideView,
    check_sides,
    get_task,
    layout_of,
    make_env,
    sides_by_name,
    sides_of,
)
from torchrl_alita.layout import ACTION, OBSERVATION, REWARD, next_key
from torchrl_alita.modules import AllAgents, RandomPolicy, SidesPolicy, make_actor, side_of
from torchrl_alita.modules._acting import run_network
from torchrl_alita.saving import checkpoint_difference, load_policy, load_side
from torchrl_alita.training import (
    Config,
    TrainingSettings,
    config_from_plain,
    cross_play,
    evaluate,
    make_config,
    make_exploration,
    parse_arguments,
    plain_config,
    train,
)
from torchrl_alita.training.buffers import Buffers
from torchrl_alita.training.collection import Collection
from torchrl_alita.training.learning import Learning

TASK = "mpe/adversary"
SMALL = {"num_cells": (13,)}
GOOD, ADVERSARY = (1, 2), (0,)


def game(num_envs: int = 7, **options):
    return make_env(TASK, num_envs=num_envs, seed=0, horizon=5, **options)


def rollout(steps: int = 5, seed: int = 0):
    env = game()
    env.set_seed(seed)
    torch.manual_seed(seed)
    return env.rollout(steps, break_when_any_done=False)


def run_config(folder, sides, **training) -> Config:
    options = {
        "num_envs": 7, "horizon": 6, "frames_per_batch": 35, "total_frames": 140, "seed": 3,
        "evaluation_interval": 70, "evaluation_episodes": 3, "checkpoint_interval": 70,
        "keep_checkpoints": 3, "progress": False, "run_dir": folder,
    }  # fmt: skip
    return Config(
        task=TASK,
        training=TrainingSettings(**options | training),
        algorithm=SidesSettings(sides=sides),
    )


STORED = {
    "frames_per_update": 35, "random_frames": 35, "batch_size": 16, "buffer_size": 60,
    "noise_frames": 200, "num_cells": (5,),
}  # fmt: skip
INFLUENCE = {"conditional_batch_size": 32, "recent_frames": 50}
ROLLED = {"num_cells": (5,), "minibatch_size": 35}


# What a side sees


def test_a_sides_batch_has_its_agents_entries_and_the_games_own():
    batch = rollout()
    seen = side_of(batch, GOOD)
    assert torch.equal(seen[OBSERVATION], batch[OBSERVATION][:, :, 1:])
    assert torch.equal(seen[next_key(REWARD)], batch[next_key(REWARD)][:, :, 1:])
    assert torch.equal(seen["next", "done"], batch["next", "done"])
    assert seen["agents"].batch_size == (7, 5, 2)
    apart = side_of(batch, (2, 0))
    assert torch.equal(apart[ACTION], batch[ACTION][:, :, [2, 0]])


@pytest.mark.parametrize(
    ("task", "sides"),
    [
        ("mpe/adversary", {"adversary": (0,), "good": (1, 2)}),
        ("mpe/spread", {"agents": (0, 1, 2)}),
        ("vmas/simple_tag", {"adversary": (0, 1, 2), "agent": (3,)}),
        ("vmas/balance", {"agents": (0, 1, 2)}),
        ("mpe2/simple_adversary_v3", {"adversary": (0,), "agent": (1, 2)}),
        ("jaxmarl/MPE_simple_adversary_v3", {"adversary": (0,), "agent": (1, 2)}),
    ],
)
def test_every_suite_says_who_is_on_which_side(task, sides):
    try:
        env = make_env(task, num_envs=2, seed=0)
    except ImportError as error:
        pytest.skip(str(error))
    assert sides_of(env) == sides


def test_sides_by_name_are_in_the_order_of_the_agents():
    assert sides_by_name(["eve_0", "bob_0", "eve_1"]) == {"eve": (0, 2), "bob": (1,)}
    assert sides_by_name(["first", "1"]) == {"first": (0,), "agents": (1,)}
    assert sides_by_name(["boss-3", "boss-10"]) == {"boss": (0, 1)}


def test_a_view_has_the_specs_of_its_agents_and_cannot_be_played():
    env = make_env("mpe/speaker_listener", num_envs=3)
    view = SideView(env, (0,))
    assert layout_of(view) == layout_of(env)._replace(num_agents=1)
    assert view.full_action_spec[ACTION].mask.sum(-1).unique().tolist() == [3]
    moving = make_env(TASK, num_envs=3, settings=None)
    assert SideView(moving, GOOD).full_action_spec[ACTION].shape == (3, 2, 5)
    with pytest.raises(RuntimeError, match="play the game itself"):
        view.reset()


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        ({"a": (0, 1), "b": (1, 2)}, "Agent 1 is on two sides, 'a' and 'b'."),
        ({"a": (0, 1, 2), "b": ()}, "The side 'b' has no agents."),
        ({"a": (0,)}, "The agents [1, 2] are on no side; the sides are {'a': (0,)}."),
        ({"a": (0, 1, 3)}, "must be at least 0 and below the number of agents, 3, got 3"),
    ],
)
def test_sides_that_are_none_are_refused(sides, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check_sides(sides, 3)


# Learning


def alone(kind, settings, agents):
    torch.manual_seed(5)
    return kind(SideView(game(), agents), settings)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (MADDPG, MADDPGSettings(**SMALL)),
        (ALITA, ALITASettings(estimator="clones", **SMALL)),
        (MAPPO, MAPPOSettings(minibatch_size=8, num_epochs=2, **SMALL)),
    ],
)
def test_a_side_against_a_fixed_one_learns_as_its_algorithm_alone(kind, settings):
    """Bit for bit, on the same batches."""
    own = alone(kind, settings, GOOD)
    torch.manual_seed(5)
    sides = Sides(game(), SidesSettings(sides={"adversary": "random", "good": settings}))
    for step in range(3):
        with torch.no_grad():
            whole = game().rollout(5, sides.actor)
        batch = sides.actor.view(whole, "good")
        if not own.on_policy:
            whole, batch = whole.reshape(-1), batch.reshape(-1)
            batches = dict.fromkeys(own.replays(), batch)
        else:
            batches = {"rollout": batch}
        torch.manual_seed(step)
        expected = own.update(batches)
        torch.manual_seed(step)
        names = ["rollout"] if own.on_policy else sides.replays()
        logs = sides.update(dict.fromkeys(names, whole))
        for key, value in expected.items():
            torch.testing.assert_close(logs[f"good/{key}"], value, rtol=0, atol=0)
    for name, module in own.modules.items():
        for key, value in module.state_dict().items():
            other = sides.learners["good"].modules[name].state_dict()[key]
            torch.testing.assert_close(other, value, rtol=0, atol=0)


@pytest.mark.parametrize("estimator", ["marginal", "clones", "centralized"])
def test_influence_and_bonuses_stay_within_a_side(estimator):
    """What the adversary saw, did and earned changes nothing, and gets no gradient."""
    settings = SidesSettings(
        sides={
            "good": ALITASettings(estimator=estimator, influence_coeff=1.0, **SMALL),
            "adversary": MADDPGSettings(**SMALL),
        }
    )
    batch = rollout().reshape(-1)
    changed = batch.clone()
    for key in (OBSERVATION, ACTION, next_key(OBSERVATION), next_key(REWARD)):
        changed[key][:, 0] = torch.randn_like(changed[key][:, 0])
    learned = []
    for seen in (batch, changed):
        torch.manual_seed(0)
        sides = Sides(game(), settings)
        torch.manual_seed(1)
        own = {k: seen for k in sides.replays() if k.startswith("good/")}
        logs = sides.learners["good"].update(
            {k.rpartition("/")[2]: sides.actor.view(v, "good") for k, v in own.items()}
        )
        assert logs["influence_0"].abs() > 0
        assert {"gap_0_1"} == {key for key in logs.keys() if key.startswith("gap")}  # noqa: SIM118
        assert all(p.grad is None for p in sides.learners["adversary"].actor.parameters())
        learned.append(sides.learners["good"].maddpg.state_dict())
    for key, value in learned[0].items():
        torch.testing.assert_close(learned[1][key], value, rtol=0, atol=0)


def test_the_estimators_situations_are_those_of_the_sides_own_influencer():
    """The second of the good agents is the third of the game."""
    settings = ALITASettings(estimator="clones", influencers=1, **SMALL)
    sides = Sides(game(), SidesSettings(sides={"adversary": "random", "good": settings}))
    assert sides.replays()["good/conditional_1"].sampler.influencer == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "sides",
    [
        {"good": ALITASettings(**STORED, **INFLUENCE), "adversary": MADDPGSettings(**STORED)},
        {"good": DDPGSettings(**STORED), "adversary": DQNSettings(**STORED | {"batch_size": 9})},
        {"good": IQLSettings(recurrent=False, **STORED), "adversary": "random"},
        {
            "good": ALITASettings(n_steps=3, **STORED, **INFLUENCE),
            "adversary": DDPGSettings(n_steps=2, **STORED),
        },
        {
            "good": OnPolicyALITASettings(
                visit_coeff=0,
                team_visit_coeff=0,
                transition_coeff=0,
                novelty_coeff=1.0,
                diversity_coeff=0.1,
                **ROLLED,
            ),
            "adversary": MAPPOSettings(**ROLLED),
        },
        {"good": ALITASettings(**STORED, **INFLUENCE), "adversary": MAPPOSettings(**ROLLED)},
        {"good": IPPOSettings(**ROLLED, recurrent=True), "adversary": DQNSettings(**STORED)},
    ],
    ids=lambda sides: " and ".join(
        s if isinstance(s, str) else type(s).__name__ for s in sides.values()
    ),
)
def test_a_resumed_run_is_one_that_never_stopped(sides, tmp_path, monkeypatch):
    whole = train(run_config(tmp_path / "whole", sides))
    half = tmp_path / "half"
    train(run_config(half, sides, total_frames=70))
    resumed = train(run_config(None, sides, resume=half))
    assert whole["updates"] == resumed["updates"] > 0
    differences = checkpoint_difference(whole["run_dir"], half)
    # A buffer is as large as its run is long.
    differences.pop("buffers")
    assert set(differences.values()) == {0.0}
    header = (tmp_path / "whole" / "metrics.csv").read_text().splitlines()[0].split(",")
    for name in sides:
        assert f"evaluation/return_{name}" in header
        assert f"training/reward_mean_{name}" in header


def test_an_on_policy_side_learns_against_one_that_stores_as_alone():
    """Bit for bit, and once: without a rollout it waits."""
    settings = MAPPOSettings(minibatch_size=8, num_epochs=2, **SMALL)
    own = alone(MAPPO, settings, ADVERSARY)
    torch.manual_seed(5)
    against = MADDPGSettings(**SMALL)
    sides = Sides(game(), SidesSettings(sides={"adversary": settings, "good": against}))
    assert (sides.reads_rollout, sides.on_policy) == (True, False)
    assert set(sides.replays()) == {"good/batch"}
    with torch.no_grad():
        whole = game().rollout(5, sides.actor)
    torch.manual_seed(0)
    expected = own.update({"rollout": sides.actor.view(whole, "adversary")})
    torch.manual_seed(0)
    stored = {"good/batch": whole.reshape(-1)}
    logs = sides.update({"rollout": whole, **stored})
    for key, value in expected.items():
        torch.testing.assert_close(logs[f"adversary/{key}"], value, rtol=0, atol=0)
    assert "good/loss_qvalue" in logs.keys()  # noqa: SIM118
    learned = {k: v.clone() for k, v in sides.learners["adversary"].actor.state_dict().items()}
    later = sides.update(stored)
    assert not [key for key in later.keys() if key.startswith("adversary")]  # noqa: SIM118
    for key, value in sides.learners["adversary"].actor.state_dict().items():
        torch.testing.assert_close(value, learned[key], rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"reads the batches \['good/batch'\], got \[\]"):
        sides.update({"rollout": whole})


@pytest.mark.filterwarnings("ignore:init_random_frames")
@pytest.mark.parametrize("random_frames", [30, 35])
def test_a_rollout_is_learned_from_once_and_never_a_random_one(random_frames):
    """140 frames: four batches, of which the first is random, of five updates each."""
    stored = STORED | {"frames_per_update": 7, "random_frames": random_frames}
    sides = {"good": MADDPGSettings(**stored), "adversary": MAPPOSettings(**ROLLED)}
    config = run_config(None, sides)
    env = game()
    algorithm = Sides(env, config.algorithm)
    learning = Learning(config, algorithm)
    gathering = Collection(config, env, algorithm, get_task(TASK))
    logs = [learning.learn(collected) for collected in islice(gathering, 4)]
    assert algorithm.learners["good"].updates == 5 * 3
    assert algorithm.learners["adversary"].updates == 3
    assert {"good/loss_actor", "adversary/loss_objective"} <= set(logs[-1])


def test_each_sides_batch_and_noise_are_its_own():
    sides = {
        "good": DDPGSettings(**STORED | {"noise_start": 0.0, "noise_end": 0.0}),
        "adversary": DQNSettings(**STORED | {"batch_size": 9, "noise_start": 1.0}),
    }
    config = run_config(None, sides)
    env = game()
    algorithm = Sides(env, config.algorithm)
    buffers = Buffers(config, algorithm)
    buffers.extend(rollout())
    batches = buffers.sample()
    assert {name: batch.shape for name, batch in batches.items()} == {
        "good/batch": (16,),
        "adversary/batch": (9,),
    }
    noise = make_exploration(config, algorithm)
    first = env.reset().set(ACTION, torch.zeros(7, 3, 5).index_fill_(-1, torch.tensor(4), 1.0))
    with set_exploration_type(ExplorationType.RANDOM):
        drawn = torch.stack([noise(first.clone())[ACTION] for _ in range(20)])
    assert (drawn[:, :, 1:] == first[ACTION][:, 1:]).all()
    assert (drawn[:, :, 0] != first[ACTION][:, 0]).any()


EXPLORING = MAPPOSettings(**ROLLED, exploration_start=0.5, exploration_frames=1_000)


@pytest.mark.parametrize("adversary", [MAPPOSettings(**ROLLED), MADDPGSettings(**STORED)])
def test_a_side_keeps_its_own_exploration_and_moves_it_on_alone(adversary):
    """Each of its batches, of 35 frames of 1,000, takes 0.0175 of the half, once."""
    config = run_config(None, {"good": EXPLORING, "adversary": adversary})
    env = game()
    algorithm = Sides(env, config.algorithm)
    learning = Learning(config, algorithm)
    gathering = Collection(config, env, algorithm, get_task(TASK))
    for collected in islice(gathering, 2):
        learning.learn(collected)
        gathering.explored(collected)
    assert collected["sides", "good", "agents", "exploring"].any()
    good = algorithm.learners["good"]
    assert good.updates > 0
    assert float(good.exploration.eps) == pytest.approx(0.5 - 0.0175 * good.updates, abs=1e-6)


def test_a_team_that_draws_its_actions_cannot_be_told_to_explore_together():
    config = run_config(None, {"good": MAPPOSettings(**ROLLED), "adversary": "random"})
    config = replace(config, training=replace(config.training, exploration="team"))
    algorithm = Sides(game(), config.algorithm)
    with pytest.raises(ValueError, match=r"exploration must be 'independent' for sides"):
        make_exploration(config, algorithm)


def test_a_fixed_side_is_left_as_it_was_and_a_run_gives_it(tmp_path):
    first = train(
        run_config(tmp_path / "first", {"good": "random", "adversary": MADDPGSettings(**STORED)})
    )
    opponent = load_side(first["run_dir"], "adversary", game())
    second = train(
        run_config(
            tmp_path / "second",
            {"good": ALITASettings(**STORED, **INFLUENCE), "adversary": first["run_dir"]},
        )
    )
    policy = load_policy(second["run_dir"], game())
    for key, value in opponent.state_dict().items():
        torch.testing.assert_close(
            policy.of_side["adversary"].state_dict()[key], value, rtol=0, atol=0
        )
    result, _ = evaluate(policy, game(3), horizon=5, seed=0, sides=policy.sides)
    assert {"return_good", "return_adversary"} <= set(result)


def test_a_run_of_all_agents_by_one_algorithm_gives_a_side_too(tmp_path):
    config = run_config(tmp_path / "all", {})
    whole = train(replace(config, algorithm=MADDPGSettings(**STORED)))
    side = load_side(whole["run_dir"], "good", game())
    assert isinstance(side, AllAgents)
    joint = load_policy(whole["run_dir"], game())
    start = game().reset()
    policy = SidesPolicy(
        sides_of(game()),
        {"good": side, "adversary": lambda td: td.set(ACTION, td[OBSERVATION].new_zeros(7, 1, 5))},
    )
    expected = run_network(joint, start.clone())[ACTION][:, 1:]
    assert torch.equal(run_network(policy, start.clone())[ACTION][:, 1:], expected)


# Cross-play


def test_cross_play_pays_a_script_what_it_earns_alone():
    """A team that stays and an adversary that stays: returns by hand, of 3 steps."""

    def stay(batch: TensorDict) -> TensorDict:
        action = torch.zeros(*batch["agents"].batch_size, 5)
        action[..., 0] = 1
        return batch.set(ACTION, action)

    (row,) = cross_play(TASK, {"good": stay, "adversary": stay}, episodes=11, seed=4, horizon=3)
    env = make_env(TASK, num_envs=11, seed=4, horizon=3)
    env.set_seed(4)
    torch.manual_seed(4)
    first = env.reset()
    goal = first["positions"][torch.arange(11), 3 + first["goal"][:, 0]]
    away = (first["positions"][:, :3] - goal.unsqueeze(1)).norm(dim=-1)
    assert row["return_adversary"] == pytest.approx(
        float(-3 * away[:, 0].square().mean()), rel=1e-5
    )
    good = 3 * (away[:, 0] - away[:, 1:].amin(-1)).mean()
    assert row["return_good"] == pytest.approx(float(good), rel=1e-5)
    assert row["good"] == row["adversary"] == "stay"
    assert "good_reach_0.16" in row


def test_cross_play_is_every_pair_from_the_same_states():
    rows = cross_play(
        TASK, {"good": ["random", "random"], "adversary": ["random"]}, episodes=5, horizon=4
    )
    assert [(row["good"], row["adversary"]) for row in rows] == [
        ("random", "random"),
        ("random'", "random"),
    ]
    assert rows[0]["return_good"] == rows[1]["return_good"]


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        ({"good": "random"}, "The game has the sides ['adversary', 'good'], got ['good']."),
        ({"good": [], "adversary": "random"}, "The side 'good' has no policy."),
        ({"good": "no/run", "adversary": "random"}, "'no/run' is neither an algorithm"),
        ({"good": "math:pi", "adversary": "random"}, "'math:pi' must be a function, got 3.14"),
        ({"good": "math:tau2", "adversary": "random"}, "'math:tau2' cannot be imported"),
    ],
)
def test_cross_play_refuses_what_cannot_play(sides, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        cross_play(TASK, sides, episodes=2)


# Settings and the command line


def test_settings_of_sides_are_written_and_read_back(tmp_path):
    sides = {"good": ALITASettings(influence_coeff=0.3, **SMALL), "adversary": "runs/a"}
    config = Config(task=TASK, algorithm=SidesSettings(sides=sides, agents={"good": [2, 1]}))
    assert config_from_plain(json.loads(json.dumps(plain_config(config)))) == config


def test_the_command_line_says_what_each_side_follows():
    config = parse_arguments(
        [
            "sides", "--task", TASK, "--side.good.influence-coeff", "0.3", "--side.good", "alita",
            "--side.adversary=maddpg", "--side.adversary.num-cells", "32", "32",
            "--side.good.no-normalize", "--side.good.agents", "2", "1",
        ]
    )  # fmt: skip
    settings = config.algorithm
    assert settings.learning["good"] == ALITASettings(influence_coeff=0.3)
    assert settings.learning["adversary"] == MADDPGSettings(num_cells=(32, 32))
    assert settings.agents == (("good", (2, 1)),)
    options = {"side.good": "alita", "side.adversary": "random"}
    assert make_config("sides", TASK, options).algorithm.fixed == {"adversary": "random"}


@pytest.mark.parametrize("agent", ["lead_adversary", "lead-adversary"])
def test_a_side_whose_name_has_an_underscore_is_given_as_any_other(agent):
    """The sides of vmas/simple_world_comm; the task is another, as names are not looked at yet."""
    config = parse_arguments(
        [
            "sides", "--task", TASK, f"--side.{agent}=maddpg", "--side.adversary", "random",
            f"--side.{agent}.num-cells", "32", "32", f"--side.{agent}.no-layer-norm",
            f"--side.{agent}.max_grad_norm", "2", f"--side.{agent}.agents", "0",
        ]
    )  # fmt: skip
    assert config.algorithm == SidesSettings(
        sides={
            "lead_adversary": MADDPGSettings(
                num_cells=(32, 32), max_grad_norm=2.0, layer_norm=False
            ),
            "adversary": "random",
        },
        agents={"lead_adversary": [0]},
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sides", "--side.good", "--seed", "1"], "--side.good must be followed by what the side"),
        (["maddpg", "--side.good", "alita"], "side.good is an option of the algorithm 'sides'"),
        (["sides", "--side.good.gamma", "1"], "Unknown option --side.good.gamma"),
        (
            ["sides", "--side.good", "random", "--side.good.gamma", "1"],
            "Unknown option --side.good.gamma",
        ),
        (
            ["sides", "--side.good", "alita", "--side.good.gama", "1"],
            "Did you mean --side.good.gamma",
        ),
        (
            ["sides", "--side.a_b", "alita", "--side.a_b.gama", "1"],
            "Unknown option --side.a_b.gama. Did you mean --side.a_b.gamma?",
        ),
    ],
)
def test_a_wrong_option_of_a_side_is_one_sentence(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_arguments([*arguments, "--task", TASK])


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        ({"good": MADDPGSettings()}, "say what 'adversary' follows, as in --side.adversary maddpg"),
        ({"god": MADDPGSettings(), "adversary": "random"}, "side 'god'. Did you mean 'good'?"),
        ({"good": "random", "adversary": "random"}, "No side learns, all are fixed"),
        ({"good": "randm", "adversary": MADDPGSettings()}, "Did you mean 'random'?"),
        (
            {"good": MADDPGSettings(), "adversary": MADDPGSettings(frames_per_update=50)},
            "Sides that learn must have one frames_per_update, got {'good': 100, 'adversary': 50}.",
        ),
        ({"good": IQLSettings(), "adversary": "random"}, "set recurrent to False for the side"),
        ({"good": MADDPGSettings(), "a b": "random"}, "Sides must have a name each, of letters"),
    ],
)
def test_sides_that_cannot_learn_are_refused_in_one_sentence(sides, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Sides(game(), SidesSettings(sides=sides))


def test_an_algorithm_of_a_whole_game_is_none_of_a_side():
    env = make_env(TASK, num_envs=2, settings=ParticleSettings(continuous_actions=True))
    with pytest.raises(ValueError, match="twin_alita is for a whole game, not for the side"):
        Sides(env, SidesSettings(sides={"good": "random", "adversary": TwinALITASettings()}))


def test_a_policy_that_writes_no_action_or_another_shape_is_named():
    env, sides = game(), sides_of(game())
    for policy, message in (
        (lambda batch: batch, "The policy of the side 'good' writes no"),
        (lambda batch: batch.set(ACTION, torch.zeros(7, 2)), "must write actions of (7, 2)"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            SidesPolicy(sides, {"good": policy})(env.reset())
    with pytest.raises(ValueError, match="Unknown sides"):
        SidesPolicy(sides, {"god": make_actor(env)})


def test_a_state_of_other_sides_is_refused():
    first = Sides(game(), SidesSettings(sides={"good": MADDPGSettings(), "adversary": "random"}))
    other = Sides(game(), SidesSettings(sides={"adversary": MADDPGSettings(), "good": "random"}))
    with pytest.raises(KeyError, match="The state has the sides"):
        other.load_state_dict(first.state_dict())


def test_random_policies_do_what_is_allowed():
    env = make_env("mpe/speaker_listener", num_envs=50, seed=0)
    policy = RandomPolicy(env.full_action_spec_unbatched[ACTION], masked=True)
    drawn = policy(env.reset())[ACTION]
    assert drawn[:, 0, 3:].sum() == 0
    assert (drawn.sum(0) > 0).sum(-1).tolist() == [3, 5]


def test_cross_play_from_the_command_line(tmp_path):
    file = tmp_path / "rows.json"
    command = [
        sys.executable, "-m", "torchrl_alita", "cross-play", "--task", TASK, "--side.good",
        "random", "random", "--side.adversary=random", "--episodes", "3", "--horizon", "2",
        "--json", str(file),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(file.read_text())) == 2
    assert done.stdout.splitlines()[0].split()[:3] == ["good", "adversary", "return_adversary"]
    wrong = subprocess.run(
        [*command[:4], "--task", "mpe/adversry"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("torchrl-alita: Unknown task 'mpe/adversry'. Did you mean")
    assert len(wrong.stderr.splitlines()) == 1


def test_sides_are_registered_like_every_algorithm():
    assert ALGORITHMS["sides"] is Sides
