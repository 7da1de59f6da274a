"""PyBullet's robots: episodes that depend on their seed alone, in the layout of the package."""

from __future__ import annotations

import importlib.util
import math
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from resume_runs import HALF, WHOLE, Stopped, stop_halfway
from scripts import load
from tensordict import TensorDict
from torchrl.envs import TransformedEnv
from torchrl.envs.utils import check_env_specs

from torchrl_alita.envs import environment_state, get_task, layout_of, make_env
from torchrl_alita.envs import pybullet as robots
from torchrl_alita.envs.pybullet import (
    ENVIRONMENTS,
    PyBulletEnv,
    PyBulletSettings,
    draw_pybullet,
    pybullet_metrics,
    pybullet_task,
)
from torchrl_alita.saving import checkpoint_difference
from torchrl_alita.training import cross_play, evaluate
from torchrl_alita.transforms import LastAction

needs_pybullet = pytest.mark.skipif(
    importlib.util.find_spec("pybullet_envs_gymnasium") is None,
    reason="PyBullet's environments are not installed: the extra pybullet",
)

ACTION = ("agents", "action")
OBSERVATION = ("agents", "observation")
NEXT_REWARD = ("next", "agents", "reward")
# O, A and Gym's limit of steps.
SIZES = {
    "HalfCheetahBulletEnv-v0": (26, 6, 1000),
    "AntBulletEnv-v0": (28, 8, 1000),
    "HopperBulletEnv-v0": (15, 3, 1000),
    "Walker2DBulletEnv-v0": (22, 6, 1000),
    "HumanoidBulletEnv-v0": (44, 17, 1000),
    "HumanoidFlagrunBulletEnv-v0": (44, 17, 1000),
    "HumanoidFlagrunHarderBulletEnv-v0": (44, 17, 1000),
    "ReacherBulletEnv-v0": (9, 2, 150),
    "PusherBulletEnv-v0": (55, 7, 150),
    "ThrowerBulletEnv-v0": (48, 7, 100),
    "InvertedPendulumBulletEnv-v0": (5, 1, 1000),
    "InvertedDoublePendulumBulletEnv-v0": (9, 1, 1000),
    "InvertedPendulumSwingupBulletEnv-v0": (5, 1, 1000),
}
HOPPER, PENDULUM = "HopperBulletEnv-v0", "InvertedPendulumBulletEnv-v0"
CHEETAH, REACHER = "HalfCheetahBulletEnv-v0", "ReacherBulletEnv-v0"
THROWER, HARDER = "ThrowerBulletEnv-v0", "HumanoidFlagrunHarderBulletEnv-v0"


@pytest.fixture
def open_robot():
    """Makes environments, and closes them after the test."""
    opened = []

    def open_one(env_id: str = HOPPER, **arguments):
        make = make_env if "n_agents" in arguments else PyBulletEnv
        name = f"pybullet/{env_id}" if make is make_env else env_id
        opened.append(make(name, **arguments))
        return opened[-1]

    yield open_one
    for env in opened:
        if not env.is_closed:
            env.close()


def wave(env: PyBulletEnv, step: int) -> torch.Tensor:
    """Actions that differ from step to step and from joint to joint."""
    joints = torch.arange(env.action_spec.shape[-1])
    return torch.sin(0.3 * step + 1.7 * joints)


def play(env: PyBulletEnv, seed: int, steps: int) -> torch.Tensor:
    """Observation and reward of each step of the episode of a seed, to its end, ``[T, O + 1]``."""
    env._begin(seed)
    rows = []
    for step in range(steps):
        entries = env._step(TensorDict({"action": wave(env, step)}, []))
        rows.append(torch.cat([entries["observation"], entries["reward"]]))
        if entries["done"]:
            break
    return torch.stack(rows)


def stand_still(tensordict: TensorDict) -> TensorDict:
    """Of a Hopper, which has three joints."""
    return tensordict.set(ACTION, torch.zeros(*tensordict.shape, 1, 3))


def test_the_thirteen_tasks_are_registered_under_their_gym_names():
    assert set(SIZES) == set(ENVIRONMENTS)
    for env_id in SIZES:
        assert get_task(f"pybullet/{env_id}").metrics is pybullet_metrics


@needs_pybullet
@pytest.mark.parametrize("env_id", SIZES)
def test_the_sizes_and_limits_are_gyms(env_id, open_robot):
    size, width, limit = SIZES[env_id]
    env = open_robot(env_id, num_envs=1, n_agents=1, seed=0, horizon=10**6)
    assert layout_of(env) == (1, size, width, False, False)
    assert open_robot(env_id).horizon == limit
    space = env.full_action_spec_unbatched[ACTION].space
    assert (space.low == -1).all()
    assert (space.high == 1).all()


@needs_pybullet
@pytest.mark.parametrize("env_id", [HOPPER, REACHER])
def test_a_robot_keeps_torchrls_promises(env_id, open_robot):
    check_env_specs(open_robot(env_id, seed=0))
    check_env_specs(open_robot(env_id, num_envs=2, n_agents=1, seed=0, horizon=7))


@needs_pybullet
def test_a_robot_has_the_layout_of_the_house(open_robot):
    rollout = open_robot(num_envs=3, n_agents=1, seed=0, horizon=50).rollout(2)
    assert rollout[OBSERVATION].shape == (3, 2, 1, 15)
    assert rollout[ACTION].shape == (3, 2, 1, 3)
    assert rollout[NEXT_REWARD].shape == (3, 2, 1, 1)
    for flag in ("done", "terminated", "truncated"):
        assert rollout["next", flag].shape == (3, 2, 1)
    floats = {rollout[key].dtype for key in (OBSERVATION, ACTION, NEXT_REWARD)}
    assert floats == {torch.float32}


@needs_pybullet
@pytest.mark.parametrize("env_id", [env_id for env_id in SIZES if env_id != HARDER])
def test_an_episode_depends_on_its_seed_and_not_on_those_before_it(env_id, open_robot):
    """Other clients, and another history in this one, to the last bit."""
    used, fresh = open_robot(env_id), open_robot(env_id)
    for seed in (100, 101):
        play(used, seed, steps=131)
    again, first = play(used, 7, steps=40), play(fresh, 7, steps=40)
    assert torch.equal(again, first)
    assert not torch.equal(play(used, 8, steps=40)[0], first[0])


@needs_pybullet
def test_what_is_not_reproducible_to_the_last_bit_does_not_say_so(open_robot):
    """One episode in ten or twenty differs, from the eighth step on, by some 1e-5."""
    used, fresh = open_robot(HARDER), open_robot(HARDER)
    play(used, 100, steps=131)
    torch.testing.assert_close(play(used, 7, 20), play(fresh, 7, 20), rtol=0, atol=1e-2)
    for env_id, exact in ((HARDER, False), (THROWER, True)):
        env = open_robot(env_id, num_envs=1, n_agents=1, seed=0, horizon=5)
        assert (environment_state(env) is not None) == exact


@needs_pybullet
def test_what_a_step_gives_is_what_gym_gives(open_robot):
    """Against the bare environment, which is reset twice before it is used as well."""
    import gymnasium

    env, bare = open_robot(CHEETAH), gymnasium.make(CHEETAH, disable_env_checker=True)
    bare.reset(seed=0)
    bare.reset(seed=0)
    bare.reset(seed=11)
    ours = play(env, 11, steps=20)
    for step, row in enumerate(ours):
        observation, reward, *_ = bare.step(wave(env, step).numpy())
        torch.testing.assert_close(row[:-1], torch.as_tensor(observation), rtol=0, atol=0)
        assert float(row[-1]) == pytest.approx(reward)
    bare.close()


@needs_pybullet
def test_seeds_are_reproducible_and_differ_between_the_robots_of_a_batch(open_robot):
    first, other = (open_robot(num_envs=3, n_agents=1, seed=4, horizon=9) for _ in range(2))
    start = first.reset()
    torch.testing.assert_close(start, other.reset(), rtol=0, atol=0)
    assert start["episode_seed"].unique().numel() == 3
    next_start = first.reset()
    assert not torch.equal(start["episode_seed"], next_start["episode_seed"])
    other.set_seed(4)
    torch.testing.assert_close(start, other.reset(), rtol=0, atol=0)
    other.set_seed(5)
    assert not torch.equal(start["episode_seed"], other.reset()["episode_seed"])


@needs_pybullet
def test_an_evaluation_leaves_training_and_the_global_generator_alone(open_robot):
    options = {"num_envs": 2, "n_agents": 1, "horizon": 5}
    alone, beside = open_robot(seed=1, **options), open_robot(seed=1, **options)
    evaluated = open_robot(seed=2, **options)
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    results = []
    for _ in range(2):
        expected = alone.rollout(7, stand_still, break_when_any_done=False)
        found = beside.rollout(7, stand_still, break_when_any_done=False)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        results.append(evaluate(stand_still, evaluated, pybullet_metrics, horizon=5, seed=3)[0])
    assert results[0] == results[1]
    assert torch.equal(torch.random.get_rng_state(), before)


@needs_pybullet
def test_a_partial_reset_begins_one_episode_and_leaves_the_others(open_robot):
    env = open_robot(num_envs=3, n_agents=1, seed=0, horizon=50)
    step = env.step(stand_still(env.reset()))["next"]
    step["_reset"] = torch.tensor([[False], [True], [False]])
    after = env.reset(step.clone())
    changed = (after["episode_seed"] != step["episode_seed"]).squeeze(-1)
    assert changed.tolist() == [False, True, False]
    assert torch.equal(after[OBSERVATION][0], step[OBSERVATION][0])
    assert not torch.equal(after[OBSERVATION][1], step[OBSERVATION][1])
    # The other two go on as those of a batch in which nothing was reset.
    other = open_robot(num_envs=3, n_agents=1, seed=0, horizon=50)
    expected = other.step(stand_still(other.step(stand_still(other.reset()))["next"]))["next"]
    found = env.step(stand_still(after))["next"]
    assert torch.equal(found[OBSERVATION][[0, 2]], expected[OBSERVATION][[0, 2]])


@needs_pybullet
def test_a_fall_terminates_and_the_horizon_truncates(open_robot):
    """A Hopper without torques falls after some twenty steps."""
    env = open_robot(num_envs=1, n_agents=1, seed=0, horizon=1000)
    fallen = env.rollout(200, stand_still)
    assert 5 < fallen.shape[1] < 60
    last = fallen["next"][0, -1]
    assert (last["terminated"].item(), last["truncated"].item()) == (True, False)
    cut = open_robot(num_envs=1, n_agents=1, seed=0, horizon=4).rollout(200, stand_still)
    assert cut.shape[1] == 4
    last = cut["next"][0, -1]
    assert (last["terminated"].item(), last["truncated"].item()) == (False, True)
    assert not cut["next", "done"][0, :-1].any()


@needs_pybullet
def test_gyms_own_limit_truncates_below_a_longer_horizon(open_robot):
    env = open_robot(REACHER, num_envs=1, n_agents=1, seed=0, horizon=500)
    episode = env.rollout(500)
    assert episode.shape[1] == 150
    assert bool(episode["next", "truncated"][0, -1])
    assert not bool(episode["next", "terminated"].any())


@needs_pybullet
def test_from_a_saved_state_in_the_middle_of_episodes_a_batch_goes_on_to_the_last_bit(open_robot):
    def continued(env: TransformedEnv, step: TensorDict) -> TensorDict:
        # Long enough that episodes end and new ones begin, from the generator.
        return env.rollout(
            40, stand_still, auto_reset=False, tensordict=step.clone(), break_when_any_done=False
        )

    options = {"num_envs": 2, "n_agents": 1, "horizon": 30}
    env = open_robot(seed=0, **options)
    # In the second episode of one, the third of the other, or later ones.
    step = env.rollout(41, stand_still, break_when_any_done=False)[:, -1]["next"]
    assert not step["done"].any()
    state = environment_state(env)
    saved = state.state_dict()
    expected = continued(env, step)
    assert expected["next", "done"].any()
    state.load_state_dict(saved)
    torch.testing.assert_close(continued(env, step), expected, rtol=0, atol=0)
    other = open_robot(seed=9, **options)
    other.rollout(3)
    environment_state(other).load_state_dict(saved)
    torch.testing.assert_close(continued(other, step), expected, rtol=0, atol=0)


@needs_pybullet
def test_a_run_that_is_resumed_ends_to_the_last_bit_where_it_would_have(tmp_path):
    """The checkpoint is in the middle of the third episode."""
    recipe = load("recipes", "robots")
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    options = (
        *("td3", "--task", f"pybullet/{CHEETAH}", "--horizon", "30", "--no-progress"),
        *("--total-frames", str(WHOLE), "--frames-per-batch", "35", "--num-envs", "1"),
        *("--algorithm.frames-per-update", "7", "--algorithm.random-frames", "35"),
        *("--algorithm.batch-size", "16", "--evaluation-interval", "70"),
        *("--evaluation-episodes", "2", "--checkpoint-interval", str(HALF)),
        *("--algorithm.num-cells", "5"),
    )
    recipe.main([*options, "--run-dir", str(whole)])
    with stop_halfway(), pytest.raises(Stopped):
        recipe.main([*options, "--run-dir", str(resumed)])
    recipe.main(["--resume", str(resumed), "--no-progress"])
    difference = checkpoint_difference(resumed, whole)
    assert set(difference.values()) == {0.0}, difference
    assert {"environment", "evaluation_environment", "buffers"} <= set(difference)


@needs_pybullet
def test_a_state_of_another_course_is_refused(open_robot):
    env = open_robot(PENDULUM, seed=0)
    play(env, 3, steps=6)
    state = env.state_dict()
    env.load_state_dict(state)
    with pytest.raises(
        RuntimeError, match=r"seed 3 of InvertedPendulum.* differ by 1$|differ by 1"
    ):
        env.load_state_dict(state | {"observation": state["observation"] + 1})
    with pytest.raises(ValueError, match=r"actions must have the shape \(at most 1000, 1\)"):
        env.load_state_dict(state | {"actions": torch.zeros(6, 2)})
    with pytest.raises(ValueError, match="observation must be"):
        env.load_state_dict(state | {"observation": torch.zeros(4)})
    with pytest.raises(RuntimeError, match="Missing key"):
        env.load_state_dict({name: state[name] for name in ("actions", "observation")})


@needs_pybullet
def test_a_state_before_the_first_reset_begins_the_same_episodes(open_robot):
    first, other = open_robot(PENDULUM, seed=0), open_robot(PENDULUM, seed=1)
    other.load_state_dict(first.state_dict())
    assert torch.equal(other.reset()["observation"], first.reset()["observation"])


def test_metrics_by_hand():
    """Two episodes of 3 steps; the first ends after 2, and what follows does not count."""
    done = torch.tensor([[[False], [True], [False]], [[False], [False], [True]]])
    start = torch.tensor([1.0, 0.0]).view(2, 1, 1).expand(2, 3, 3)
    reached = torch.tensor([[1.5, 3.0, 99.0], [0.5, 0.5, 1.0]]).unsqueeze(-1).expand(2, 3, 3)
    entries = {"position": start, "next": {"done": done, "position": reached}}
    metrics = pybullet_metrics(TensorDict(entries, [2, 3]))
    assert float(metrics["episode_length"]) == 2.5
    assert float(metrics["distance"]) == pytest.approx((2.0 + 1.0) / 2)
    speeds = (2.0 / (2 * 0.0165), 1.0 / (3 * 0.0165))
    assert float(metrics["mean_speed"]) == pytest.approx(sum(speeds) / 2)
    del entries["position"], entries["next"]["position"]
    assert set(pybullet_metrics(TensorDict(entries, [2, 3]))) == {"episode_length"}
    with pytest.raises(KeyError, match="done"):
        pybullet_metrics(TensorDict({"next": {}}, [2, 3]))


@needs_pybullet
def test_the_distance_is_what_the_reward_pays_as_progress(open_robot):
    """The goal is 1,000 m away on x: what a robot that moves along x is paid for it.

    The reward sees the mean over all parts of the robot, the metric its torso.
    """
    env = open_robot(CHEETAH)
    rows, paid = [env._begin(1)["position"]], 0.0
    for step in range(150):
        entries = env._step(TensorDict({"action": wave(env, step)}, []))
        rows.append(entries["position"])
        paid += env._env.unwrapped.rewards[1]
    places, done = torch.stack(rows), torch.arange(1, 151).view(1, -1, 1) == 150
    entries = {"done": done, "position": places[None, 1:]}
    episode = TensorDict({"position": places[None, :-1], "next": entries}, [1, 150])
    distance = float(pybullet_metrics(episode)["distance"])
    assert distance < -1
    assert distance == pytest.approx(paid * 0.0165, rel=0.25)


@needs_pybullet
@pytest.mark.parametrize("env_id", [HOPPER, REACHER, THROWER])
def test_pictures_are_of_the_episode_that_was_recorded(env_id, open_robot):
    torch.manual_seed(0)
    env = open_robot(env_id, num_envs=2, n_agents=1, seed=0, horizon=10)
    episode = env.rollout(10, break_when_any_done=False)[1]
    frames = get_task(f"pybullet/{env_id}").draw(episode)
    # Real time at 20 pictures a second: every third step of 0.0165 s, every fifth of 0.01 s.
    assert len(frames) == (1 + 2 if env_id == THROWER else 1 + 3 + 1)
    assert {frame.size for frame in frames} == {(320, 256)}
    assert frames[0].crop((0, 0, 320, 240)).tobytes() != frames[-1].crop((0, 0, 320, 240)).tobytes()
    assert len(frames[0].crop((0, 0, 320, 240)).getcolors(100_000)) > 3


@needs_pybullet
def test_pictures_of_an_episode_that_was_not_played_are_refused(open_robot):
    env = open_robot(num_envs=1, n_agents=1, seed=0, horizon=6)
    episode = env.rollout(6)[0]
    with pytest.raises(ValueError, match="does not begin as"):
        draw_pybullet(
            episode.clone().set("episode_seed", episode["episode_seed"] + 1), env_id=HOPPER
        )
    with pytest.raises(ValueError, match="does not begin as"):
        draw_pybullet(episode, env_id=CHEETAH)
    with pytest.raises(KeyError, match="episode_seed"):
        draw_pybullet(episode.exclude("episode_seed"), env_id=HOPPER)
    changed = episode.clone()
    changed[OBSERVATION][4] += 1
    with pytest.warns(RuntimeWarning, match="another course at step 4"):
        assert len(draw_pybullet(changed, env_id=HOPPER)) == 3


@needs_pybullet
@pytest.mark.parametrize("env_id", [PENDULUM, THROWER])
def test_physics_clients_are_closed_with_the_environment(env_id):
    import pybullet

    def connected() -> set[int]:
        return {n for n in range(40) if pybullet.getConnectionInfo(n)["isConnected"]}

    before = connected()
    env = make_env(f"pybullet/{env_id}", num_envs=3, n_agents=1, seed=0, horizon=2)
    env.reset()
    assert len(connected() - before) == 3
    # More episodes are no more clients.
    env.rollout(5, break_when_any_done=False)
    assert len(connected() - before) == 3
    episode = env.rollout(2)[0]
    get_task(f"pybullet/{env_id}").draw(episode)
    assert len(connected() - before) == 3
    env.close()
    assert connected() == before


@needs_pybullet
def test_the_simulator_is_silent_and_the_caller_is_not(capfd):
    """Thrower's model has a field that PyBullet warns of in C."""
    print("before")
    env = PyBulletEnv(THROWER)
    env.reset()
    env.reset()
    env.close()
    print("after")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("before\nafter\n", "")


@needs_pybullet
def test_the_import_of_the_simulator_is_silent():
    script = (
        "import torchrl_alita, sys; from torchrl_alita.envs.pybullet import PyBulletEnv\n"
        "assert 'pybullet' not in sys.modules\n"
        "PyBulletEnv('ReacherBulletEnv-v0').reset(); assert 'pybullet' in sys.modules\n"
        "assert 'stable_baselines3' not in sys.modules; print('end')"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("end\n", "")


@needs_pybullet
def test_a_process_that_dies_is_named_with_its_environment_and_seed():
    task = pybullet_task(PENDULUM, PyBulletSettings(parallel=True))
    env = make_env(task, num_envs=2, seed=6, horizon=20)
    try:
        step = env.reset()
        assert step[OBSERVATION].shape == (2, 1, 5)
        serial = make_env(f"pybullet/{PENDULUM}", num_envs=2, n_agents=1, seed=6, horizon=20)
        assert torch.equal(step[OBSERVATION], serial.reset()[OBSERVATION])
        serial.close()
        seeds = env.base_env._robot_seeds
        assert seeds[0] == 6
        victim = env.base_env._workers[1].pid
        threading.Timer(0.2, os.kill, (victim, signal.SIGKILL)).start()
        said = f"{PENDULUM} died: process 1 (seed {seeds[1]}, exit code -9)."
        with pytest.raises(RuntimeError, match=re.escape(said)):
            env.rollout(10**6, break_when_any_done=False, return_contiguous=False)
        with pytest.raises(RuntimeError, match=re.escape(said)):
            env.reset()
    finally:
        env.close(raise_if_closed=False)


def test_an_unknown_id_is_told_the_known_ones():
    with pytest.raises(ValueError, match=r"Unknown task 'pybullet/HoperBulletEnv-v0'\. Did you"):
        get_task("pybullet/HoperBulletEnv-v0")


@needs_pybullet
def test_what_is_no_continuous_robot_is_refused(open_robot):
    with pytest.raises(ValueError, match=r"Unknown environment 'Hopper'.*'AntBulletEnv-v0'"):
        pybullet_task("Hopper")
    with pytest.raises(ValueError, match=r"CartPole-v1 must be continuous, got Discrete\(2\)"):
        open_robot("CartPole-v1")
    with pytest.raises(ValueError, match=r"Pendulum-v1 is PendulumEnv, .*\['AntBulletEnv-v0'"):
        open_robot("Pendulum-v1")


@needs_pybullet
def test_bad_arguments_are_named(open_robot):
    with pytest.raises(ValueError, match=r"is of 1 agent, got n_agents=3"):
        open_robot(num_envs=1, n_agents=3)
    with pytest.raises(ValueError, match="horizon must be at least 1, got 0"):
        open_robot(horizon=0)
    env = open_robot(seed=0)
    env._begin(5)
    action = torch.tensor([0.0, math.nan, 0.0])
    with pytest.raises(ValueError, match=r"Hopper.* must be finite, got \[0.0, nan, 0.0\].*seed 5"):
        env._step(TensorDict({"action": action}, []))


@pytest.mark.parametrize("missing", ["gymnasium", "pybullet", "pybullet_envs_gymnasium"])
def test_without_the_extra_the_error_names_it(missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r"torchrl_alita\[pybullet\]"):
        make_env(f"pybullet/{HOPPER}", n_agents=1)


def test_the_module_alone_needs_no_simulator():
    """Its tasks are registered when any name is asked for that is not known yet."""
    source = Path(robots.__file__).read_text()
    assert not re.search(r"^(import|from) (pybullet|gymnasium)", source, re.MULTILINE)


@needs_pybullet
def test_transforms_around_a_task_read_its_action():
    env = make_env(f"pybullet/{PENDULUM}", num_envs=2, seed=0).append_transform(LastAction())
    rollout = env.rollout(3)
    assert torch.equal(rollout["next", "agents", "last_action"], rollout["agents", "action"])
    env.close()


def test_a_robot_plays_alone_in_cross_play():
    """Its environments are several, its agents one."""
    row = cross_play("pybullet/HopperBulletEnv-v0", {"agents": "random"}, episodes=2, horizon=5)[0]
    assert math.isfinite(row["return_agents"])
