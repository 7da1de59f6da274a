"""The state of a VMAS environment: from it everything goes on bit for bit."""

from __future__ import annotations

import copy
import io
import random
import re

import numpy as np
import pytest
import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.envs import EnvBase, RewardScaling, StepCounter, TransformedEnv

from torchrl_alita.envs import StreamedVmasEnv, make_env
from torchrl_alita.envs.games import MatrixGame
from torchrl_alita.envs.vmas_state import VmasState

B = 3
ACTION = ("agents", "action")
REWARD = ("next", "agents", "reward")
# Joints and substeps, packages, sensors, an adversary that runs away, one line, many
# physical bodies, goals that are references, scripted agents, a distribution, flags.
SCENARIOS = (
    *("simple_spread", "balance", "transport", "navigation", "simple_tag", "wheel"),
    *("joint_passage_size", "simple_reference", "football", "flocking", "discovery"),
)


def make(scenario: str = "simple_spread", seed: int = 0, horizon: int = 8, **arguments) -> EnvBase:
    arguments = {"num_envs": B, "device": "cpu", **arguments}
    env = StreamedVmasEnv(scenario, seed=seed, **arguments)
    return TransformedEnv(env, StepCounter(max_steps=horizon))


def play(env: EnvBase, step: TensorDictBase, steps: int) -> tuple[list, TensorDictBase]:
    """Transitions under one fixed sequence of actions, and where they lead."""
    step, transitions = step.clone(), []
    with torch.random.fork_rng():
        torch.manual_seed(steps)
        for _ in range(steps):
            transition, step = env.step_and_maybe_reset(env.rand_action(step))
            transitions.append(transition.clone())
    return transitions, step


def identical(first: list, second: list) -> bool:
    return all(
        set(a.keys(True, True)) == set(b.keys(True, True))
        and all(bytes_of(a[key]) == bytes_of(b[key]) for key in a.keys(True, True))
        for a, b in zip(first, second, strict=True)
    )


def bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()


def from_disk(state: dict) -> dict:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def same_data(first: object, second: object) -> bool:
    if isinstance(first, torch.Tensor):
        return bytes_of(first) == bytes_of(second)
    if isinstance(first, dict):
        return set(first) == set(second) and all(same_data(first[k], second[k]) for k in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same_data, first, second))
    return first == second


def tensors(state: object) -> list[torch.Tensor]:
    if isinstance(state, torch.Tensor):
        return [state]
    items = state.values() if isinstance(state, dict) else state
    return [
        t for item in items if isinstance(item, dict | list | torch.Tensor) for t in tensors(item)
    ]


def scenario_of(env: EnvBase) -> object:
    return env.base_env._env.scenario


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_another_environment_goes_on_from_a_file_bit_for_bit_across_resets(scenario):
    env = make(scenario)
    _, step = play(env, env.reset(), 5)
    saved = from_disk(VmasState(env).state_dict())
    expected, _ = play(env, step, 13)
    assert sum(bool(transition["next", "done"].any()) for transition in expected) >= 2
    other = make(scenario, seed=7)
    unlike, _ = play(other, step, 13)
    assert not identical(expected, unlike)
    # The other environment now is in the middle of another episode.
    VmasState(other).load_state_dict(saved)
    assert identical(expected, play(other, step, 13)[0])
    new = make(scenario, seed=11)
    VmasState(new).load_state_dict(saved)
    assert identical(expected, play(new, step, 13)[0])


@pytest.mark.parametrize("scenario", ["simple_spread", "transport", "discovery"])
def test_an_environment_goes_back_to_the_start_of_its_episode(scenario):
    env = make(scenario)
    start, state = env.reset(), VmasState(env)
    saved = state.state_dict()
    expected, _ = play(env, start, 7)
    state.load_state_dict(saved)
    assert identical(expected, play(env, start, 7)[0])


def test_a_reset_of_some_environments_draws_the_same_again():
    env, other = make(), make(seed=7)
    _, step = play(env, env.reset(), 3)
    VmasState(other).load_state_dict(VmasState(env).state_dict())
    mask = torch.tensor([[True], [False], [True]])
    first, second = (e.reset(step.clone().set("_reset", mask)) for e in (env, other))
    assert identical([first], [second])
    observation = ("agents", "observation")
    assert (first[observation] != step[observation]).flatten(1).any(1).tolist() == [
        True,
        False,
        True,
    ]


def test_vmas_own_step_counters_are_part_of_the_state():
    env, other = (StreamedVmasEnv("wheel", seed=0, num_envs=B, max_steps=5) for _ in range(2))
    _, step = play(env, env.reset(), 3)
    VmasState(other).load_state_dict(VmasState(env).state_dict())
    ends = [bool(t["next", "done"].all()) for t in play(other, step, 2)[0]]
    assert ends == [False, True]


def test_the_tasks_of_the_registry_can_be_saved():
    env, other = (make_env("vmas/spread", num_envs=B, seed=seed) for seed in (0, 1))
    _, step = play(env, env.reset(), 5)
    VmasState(other).load_state_dict(VmasState(env).state_dict())
    assert identical(play(env, step, 30)[0], play(other, step, 30)[0])


def test_the_buffers_of_transforms_are_part_of_the_state():
    def scaled(factor: float) -> EnvBase:
        return TransformedEnv(make().base_env, RewardScaling(0.0, factor, in_keys=[REWARD[1:]]))

    env, other = scaled(2.0), scaled(5.0)
    state = VmasState(other)
    state.load_state_dict(VmasState(env).state_dict())
    step = env.reset()
    other.reset()
    first, second = play(env, step, 3)[0], play(other, step, 3)[0]
    assert identical(first, second)


def test_a_state_holds_plain_data_only():
    def check(value: object) -> None:
        assert type(value) in (dict, list, torch.Tensor, int, float, str, bool, type(None))
        if isinstance(value, dict | list):
            for item in value.values() if isinstance(value, dict) else value:
                check(item)
        assert not isinstance(value, dict) or all(type(key) is str for key in value)

    for scenario in ("transport", "football"):
        check(VmasState(make(scenario)).state_dict())


def test_what_was_loaded_is_what_is_saved_again():
    env, other = make("navigation"), make("navigation", seed=7)
    play(env, env.reset(), 5)
    saved = VmasState(env).state_dict()
    assert not same_data(saved, VmasState(other).state_dict())
    VmasState(other).load_state_dict(saved)
    assert same_data(saved, VmasState(other).state_dict())


@pytest.mark.parametrize("scenario", ["transport", "football"])
def test_neither_the_state_nor_two_environments_share_memory(scenario):
    first, second = make(scenario, seed=1), make(scenario, seed=2)
    source = make(scenario)
    saved = VmasState(source).state_dict()
    kept = copy.deepcopy(saved)
    for env in (first, second):
        VmasState(env).load_state_dict(saved)
    play(first, first.reset(), 3)
    for entity in first.base_env._env.world.entities:
        entity.state.pos.fill_(9.0)
    assert same_data(saved, kept)
    for tensor in tensors(saved):
        tensor.zero_()
    for env in (source, second):
        assert same_data(VmasState(env).state_dict(), kept)


def test_tensors_that_share_memory_go_on_sharing_it():
    env, other = make(), make(seed=7)
    whole = torch.arange(6.0).view(B, 2)
    vars(scenario_of(env)).update(whole=whole, again=whole, part=whole[:, 1])
    VmasState(other).load_state_dict(from_disk(VmasState(env).state_dict()))
    new = scenario_of(other)
    assert new.again is new.whole
    new.whole.add_(1)
    assert new.part.tolist() == [2.0, 4.0, 6.0]
    assert whole[0, 0] == 0


def test_references_point_to_the_environments_own_objects():
    env, other = make("simple_reference"), make("simple_reference", seed=7)
    goals = [agent.goal_b for agent in env.base_env._env.world.agents]
    world = other.base_env._env.world
    entities = list(world.entities)
    landmarks = env.base_env._env.world.landmarks
    # Every landmark is the goal once: one of them is none in the other environment.
    for landmark, own in zip(landmarks, world.landmarks, strict=True):
        env.base_env._env.world.agents[0].goal_b = landmark
        VmasState(other).load_state_dict(VmasState(env).state_dict())
        assert world.agents[0].goal_b is own
    assert all(a is b for a, b in zip(entities, world.entities, strict=True))
    assert [landmark.name for landmark in world.landmarks] == [mark.name for mark in landmarks]
    assert world.agents[1].goal_b.name == goals[1].name


def test_attributes_of_many_kinds_come_back_and_new_ones_go():
    env, other = make(), make(seed=7)
    generator = torch.Generator().manual_seed(3)
    agents = env.base_env._env.world.agents
    mark = {
        "none": None,
        "count": 3,
        "array": np.arange(4, dtype=np.float32),
        "number": np.float64(0.1),
        "pairs": {agents[1]: (1, [2.5]), "x": frozenset({"a"})},
        "generator": generator,
    }
    vars(scenario_of(env))["mark"] = mark
    vars(scenario_of(other)).update(mark={"generator": torch.Generator()}, extra=1)
    saved = from_disk(VmasState(env).state_dict())
    expected = torch.rand(2, generator=generator)
    # The dict keeps its order, and a generator is found by its key.
    VmasState(other).load_state_dict(saved)
    new = scenario_of(other).mark
    assert new["array"].tolist() == [0, 1, 2, 3]
    assert new["array"].dtype == np.float32
    assert (type(new["number"]), new["number"]) == (np.float64, 0.1)
    assert new["pairs"] == {other.base_env._env.world.agents[1]: (1, [2.5]), "x": frozenset("a")}
    assert (new["none"], new["count"]) == (None, 3)
    assert torch.equal(torch.rand(2, generator=new["generator"]), expected)
    assert not hasattr(scenario_of(other), "extra")


def test_the_global_generators_are_neither_read_nor_moved():
    def states() -> list:
        return [torch.get_rng_state(), *random.getstate()[1], np.random.get_state()[1].tolist()]  # noqa: NPY002

    env = make()
    before = states()
    state = VmasState(env)
    state.load_state_dict(state.state_dict())
    assert all(same_data(a, b) for a, b in zip(before, states(), strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scenario": "wheel"}, "scenario is 'simple_spread' in the state and 'wheel' here"),
        ({"num_envs": 5}, "num_envs is 3 in the state and 5 here"),
        (
            {"n_agents": 2},
            "agents is ['agent_0', 'agent_1', 'agent_2'] in the state and ['agent_0'",
        ),
        ({"max_steps": 4}, "max_steps is None in the state and 4 here"),
        ({"continuous_actions": False}, "continuous_actions is True in the state and False here"),
    ],
)
def test_a_state_of_another_environment_is_refused_and_changes_nothing(arguments, message):
    saved = VmasState(make()).state_dict()
    refuses(make(seed=7, **arguments), saved, message)


def refuses(env: EnvBase, saved: dict, message: str) -> None:
    play(env, env.reset(), 2)
    before = VmasState(env).state_dict()
    with pytest.raises(ValueError, match=re.escape(message)):
        VmasState(env).load_state_dict(saved)
    assert same_data(VmasState(env).state_dict(), before)


def test_other_transforms_are_refused():
    bare = make().base_env
    refuses(make(), VmasState(bare).state_dict(), "transforms is [] in the state and ['torchrl")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("steps",), torch.zeros(5), "steps must be torch.float32 of the shape (3,) on cpu, got"),
        (
            ("agents", 1, "items", "_state", "items", "_pos"),
            torch.zeros(5, 2),
            "agents[1]._state._pos must be torch.float32 of the shape (3, 2) on cpu, got",
        ),
        (
            ("landmarks", 2, "items", "_state", "items", "_vel"),
            torch.zeros(3, 2).double(),
            "landmarks[2]._state._vel must be torch.float32 of the shape (3, 2) on cpu, got "
            "torch.float64",
        ),
        (("agents", 0, "items", "_state", "class"), "x.Y", "agents[0]._state is of x.Y in the"),
        (("scenario", "items", "odd"), {"kind": "lambda"}, "known kind, got 'lambda'"),
        (("scenario", "items", "odd"), {"kind": "same", "path": "q"}, "refers to q, which"),
        (
            ("scenario", "items", "odd"),
            {"kind": "fixed", "class": "a.B"},
            "a.B in the state and of nothing",
        ),
        (
            ("scenario", "items", "odd"),
            {"kind": "enum", "class": "os.system", "name": "x"},
            "scenario.odd must be a member of an enum",
        ),
        (("stream", "torch"), torch.zeros(3), "stream['torch'] is no state of a generator"),
        (("stream", "numpy", 1), torch.zeros(5), "stream['numpy'] is no state of a generator"),
        (("stream", "python", 1), torch.zeros(5).long(), "stream['python'] is no state of a"),
        (("stream", "gpu"), torch.zeros(5), "stream['gpu'] must be"),
        (("world", "items"), {"_agents": {"kind": "container"}}, "is damaged: KeyError('class')"),
        (("transforms", 0), {"loc": torch.zeros(1)}, "transforms[0] must hold [], got ['loc']"),
    ],
)
def test_a_wrong_value_is_named_and_changes_nothing(path, value, message):
    saved = VmasState(make()).state_dict()
    place = saved
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    refuses(make(seed=7), saved, message)


@pytest.mark.parametrize("state", [{}, {"steps": 1}, None])
def test_what_is_no_state_is_refused(state):
    refuses(make(), state, "The state must hold ['agents', 'environment', 'landmarks',")


@pytest.mark.parametrize("value", [np.random.default_rng(0), random.Random(0), iter([1])])
def test_what_cannot_be_saved_is_named(value):
    env = make()
    scenario_of(env).draws = [value]
    with pytest.raises(TypeError, match=re.escape("scenario.draws[0] cannot be saved: it is of ")):
        VmasState(env).state_dict()


def test_an_environment_of_another_kind_is_refused():
    with pytest.raises(
        TypeError, match=r"must be a StreamedVmasEnv or transforms .* got MatrixGame"
    ):
        VmasState(MatrixGame([[1.0, 0.0]]))


def test_two_policies_start_from_identical_states():
    env = make(horizon=30)
    start, state = env.reset(), VmasState(env)
    saved = state.state_dict()

    def episode(direction: float) -> TensorDict:
        state.load_state_dict(saved)
        action = torch.tensor([direction, 0.0]).expand(B, 3, 2)

        def policy(tensordict: TensorDict) -> TensorDict:
            return tensordict.set(ACTION, action)

        return env.rollout(20, policy, auto_reset=False, tensordict=start.clone())

    left, right, again = episode(-1.0), episode(1.0), episode(-1.0)
    observation = ("agents", "observation")
    assert torch.equal(left[observation][:, 0], right[observation][:, 0])
    assert not torch.equal(left[REWARD], right[REWARD])
    assert torch.equal(left[REWARD], again[REWARD])
