"""The environments: one layout, random streams that do not meet, metrics that are true."""

from __future__ import annotations

import importlib
import random
import re
import sys
from dataclasses import dataclass
from itertools import combinations, permutations
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from fakes import A, B, N, O, TargetEnv
from tensordict import TensorDict
from torchrl.data import Composite, Unbounded
from torchrl.envs import EnvBase, RenameTransform, TransformedEnv
from torchrl.envs.utils import check_env_specs

from torchrl_alita._extras import import_extra
from torchrl_alita.envs import (
    Layout,
    PushBoxSettings,
    StreamedVmasEnv,
    Task,
    get_task,
    layout_of,
    make_env,
    register_task,
    registry,
    spread_metrics,
)

ACTION = ("agents", "action")
OBSERVATION = ("agents", "observation")


def spread(*, num_envs: int = B, **arguments) -> EnvBase:
    return make_env("vmas/spread", num_envs=num_envs, **arguments)


def push_right(tensordict: TensorDict) -> TensorDict:
    """A policy that draws nothing."""
    action = torch.zeros(*tensordict[OBSERVATION].shape[:-1], 2)
    action[..., 0] = 0.5
    return tensordict.set(ACTION, action)


def episodes(env: EnvBase, steps: int) -> torch.Tensor:
    """Observations over several episodes."""
    return env.rollout(steps, push_right, break_when_any_done=False)[("next", *OBSERVATION)]


def generators() -> tuple:
    return torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002


def vmas_list() -> list:
    from vmas.simulator.environment import Environment

    return Environment.vmas_random_state


def same_state(first: tuple, second: tuple) -> bool:
    """Of torch's, NumPy's and Python's generators."""
    return (
        torch.equal(first[0], second[0])
        and all(np.array_equal(x, y) for x, y in zip(first[1], second[1], strict=True))
        and first[2] == second[2]
    )


def observed(position: torch.Tensor, landmark: torch.Tensor) -> torch.Tensor:
    """What the agents of spread observe at rest, ``[*B, N, 2], [N, 2] -> [*B, N, 4N + 2]``."""
    num_agents = position.shape[-2]
    rows = []
    for i in range(num_agents):
        own = position[..., i, :]
        teammates = [position[..., j, :] - own for j in range(num_agents) if j != i]
        rows.append(torch.cat([own, 0 * own, *(spot - own for spot in landmark), *teammates], -1))
    return torch.stack(rows, -2)


def hand_made(*positions: list[list[float]]) -> TensorDict:
    """An episode with the agents at these positions, and landmarks at three corners."""
    landmark = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    observation = observed(torch.tensor(positions), landmark).unsqueeze(0)
    agents = TensorDict({"observation": observation})
    return TensorDict({"next": {"agents": agents}}, batch_size=observation.shape[:2])


def test_an_unknown_task_is_answered_with_the_nearest_one():
    with pytest.raises(ValueError, match=r"'vmas/spred'\. Did you mean 'vmas/spread'\?"):
        make_env("vmas/spred")


def test_a_task_like_no_other_is_answered_with_all_of_them():
    with pytest.raises(
        ValueError, match=r"'qqq'\. One of your own .* Known: \[.*'vmas/spread'.*\]"
    ):
        make_env("qqq")


@pytest.mark.parametrize("name", ["num_envs", "n_agents", "horizon"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_size_below_1_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got {value}"):
        make_env("vmas/spread", **{name: value})


@pytest.mark.parametrize("device", ["cuda:99", "nonsense"])
def test_a_device_that_torch_does_not_have_is_refused_by_name(device):
    with pytest.raises(ValueError, match=f"'{device}'"):
        make_env("vmas/spread", device=device)


def test_a_misspelled_argument_is_an_error():
    with pytest.raises(TypeError, match="num_agents"):
        make_env("vmas/spread", num_agents=3)


def test_a_task_registers_once():
    with pytest.raises(ValueError, match="'vmas/spread'"):
        register_task("vmas/spread", get_task("vmas/spread"))


def test_a_registered_task_is_made_with_every_argument(monkeypatch):
    monkeypatch.setattr(registry, "TASKS", dict(registry.TASKS))

    register_task("fake/task", Task(make=arguments_of, metrics=lambda _: {}, draw=lambda _: []))
    made = make_env("fake/task", num_envs=2, n_agents=5, device="cpu", seed=11, horizon=13)
    assert made.made_with == {
        "num_envs": 2,
        "n_agents": 5,
        "device": "cpu",
        "seed": 11,
        "horizon": 13,
    }


def test_without_vmas_the_error_names_the_extra_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "vmas", None)
    with pytest.raises(ImportError, match=r"torchrl_alita\[vmas\]"):
        spread()


def test_without_pillow_the_error_names_the_extra_to_install(monkeypatch):
    def missing(_):
        raise ModuleNotFoundError("No module named 'PIL'", name="PIL")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r"torchrl_alita\[recipes\]"):
        get_task("vmas/spread").draw(hand_made([[0.0, 0.0]] * 3)[0])


def test_an_extra_that_is_there_but_broken_tells_its_own_story(monkeypatch):
    def broken(_):
        raise ModuleNotFoundError("No module named 'cython_thing'", name="cython_thing")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(ModuleNotFoundError, match="No module named 'cython_thing'"):
        import_extra("vmas", "vmas")


@pytest.mark.parametrize("n_agents", [1, 3, 5])
def test_spread_is_what_its_specs_say(n_agents):
    check_env_specs(spread(n_agents=n_agents, num_envs=2, seed=0, horizon=3))


@pytest.mark.parametrize("n_agents", [3, 5])
def test_spread_has_the_layout_of_the_package(n_agents):
    env = spread(n_agents=n_agents, seed=0, horizon=11)
    assert layout_of(env) == Layout(n_agents, 4 * n_agents + 2, 2, discrete=False)
    rollout = env.rollout(11)
    lead = (B, 11, n_agents)
    assert rollout[OBSERVATION].shape == (*lead, 4 * n_agents + 2)
    assert rollout[ACTION].shape == (*lead, 2)
    assert rollout["next", "agents", "reward"].shape == (*lead, 1)
    for flag in ("done", "terminated", "truncated"):
        assert rollout["next", flag].shape == (B, 11, 1)


def test_the_horizon_truncates_each_episode_and_terminates_none():
    rollout = spread(seed=0, horizon=5).rollout(11, break_when_any_done=False)
    expected = torch.zeros(B, 11, 1, dtype=torch.bool)
    expected[:, [4, 9]] = True
    torch.testing.assert_close(rollout["next", "truncated"], expected)
    torch.testing.assert_close(rollout["next", "done"], expected)
    assert not rollout["next", "terminated"].any()


def test_the_same_seed_gives_the_same_episodes():
    first, second = (episodes(spread(seed=3, horizon=5), 11) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_a_seed_gives_different_episodes_one_after_the_other():
    observation = episodes(spread(seed=3, horizon=5), 10)
    assert not torch.equal(observation[:, :5], observation[:, 5:])


def test_different_seeds_give_different_episodes():
    first, second = (spread(seed=seed).reset()[OBSERVATION] for seed in (3, 4))
    assert bool((first != second).flatten(1).any(-1).all())


def test_seeding_again_starts_the_stream_again():
    env = spread(seed=3)
    resets = []
    for _ in range(2):
        env.set_seed(5)
        resets.append(env.reset()[OBSERVATION])
    torch.testing.assert_close(*resets, rtol=0, atol=0)


def test_without_a_seed_the_stream_is_drawn_from_torchs_global_generator():
    resets = []
    for _ in range(2):
        torch.manual_seed(7)
        resets.append([spread().reset()[OBSERVATION] for _ in range(2)])
    torch.testing.assert_close(resets[0], resets[1], rtol=0, atol=0)
    assert not torch.equal(resets[0][0], resets[0][1])


def disturb_another_environment():
    other = spread(seed=4, horizon=2)
    episodes(other, 5)
    other.set_seed(6)


def disturb_the_global_generators():
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    random.seed(1)


def disturb_a_plain_vmas_environment():
    from vmas import make_env as make_plain

    make_plain("simple_spread", num_envs=2, seed=8).reset()


@pytest.mark.parametrize(
    "disturb",
    [
        disturb_another_environment,
        disturb_the_global_generators,
        disturb_a_plain_vmas_environment,
    ],
)
def test_nothing_outside_moves_the_stream_of_an_environment(disturb):
    env, twin = (spread(seed=3, horizon=5) for _ in range(2))
    undisturbed = [episodes(twin, 6) for _ in range(2)]
    first = episodes(env, 6)
    disturb()
    torch.testing.assert_close([first, episodes(env, 6)], undisturbed, rtol=0, atol=0)


def test_an_environment_leaves_every_generator_as_it_was():
    shared = vmas_list()
    before, shared_before = generators(), tuple(shared)
    env = spread(seed=3, horizon=2)
    env.set_seed(5)
    episodes(env, 5)
    assert vmas_list() is shared
    assert same_state(tuple(shared), shared_before)
    assert same_state(generators(), before)


def test_an_environment_leaves_every_generator_as_it_was_when_an_action_is_refused():
    env = spread(seed=3)
    data = env.reset()
    data[ACTION] = torch.full((B, 3, 2), 2.0)
    before, shared_before = generators(), tuple(vmas_list())
    try:
        with pytest.raises(AssertionError, match="out of its range"):
            env.step(data)
        assert same_state(tuple(vmas_list()), shared_before)
        assert same_state(generators(), before)
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        random.setstate(before[2])


def test_the_random_stream_of_an_environment_moves_with_its_own_resets():
    env = StreamedVmasEnv("simple_spread", seed=0, num_envs=2, device="cpu")
    before = env.random_stream()
    env.reset()
    assert not same_state(env.random_stream(), before)


@pytest.fixture(scope="module")
def simulated() -> SimpleNamespace:
    """Episodes in which agents crowd in the middle, and what the simulator says of them."""
    env = spread(num_envs=11, n_agents=5, seed=1)
    world = env.base_env._env.world
    data = env.reset()
    landmark = torch.stack([entity.state.pos for entity in world.landmarks], 1).clone()
    steps, nearest, contacts = [], [], []
    for _ in range(19):
        data = env.step(data.set(ACTION, -data[OBSERVATION][..., :2].clamp(-1, 1)))
        steps.append(data.select("next"))
        position = torch.stack([agent.state.pos for agent in world.agents], 1)
        nearest.append(torch.cdist(landmark, position).amin(-1))
        contacts.append(
            sum(world.is_overlapping(*pair).float() for pair in combinations(world.agents, 2))
        )
        data = env.step_mdp(data)
    episodes = torch.stack(steps, 1)
    return SimpleNamespace(
        reward=episodes["next", "agents", "reward"],
        metrics=spread_metrics(episodes),
        nearest=torch.stack(nearest, 1),
        contacts=torch.stack(contacts, 1),
    )


def test_the_landmark_distance_is_that_of_the_simulators_world(simulated):
    expected = simulated.nearest.sum(-1).mean()
    torch.testing.assert_close(simulated.metrics["landmark_distance"], expected)


def test_the_contacts_are_those_that_the_simulator_counts(simulated):
    expected = simulated.contacts.sum(-1).mean()
    assert expected > 1
    torch.testing.assert_close(simulated.metrics["contacts_per_episode"], expected)


def test_the_occupied_share_is_that_of_the_simulators_world(simulated):
    expected = (simulated.nearest[:, -1] < 0.1).float().mean()
    assert expected > 0
    torch.testing.assert_close(simulated.metrics["occupied_share"], expected)


def test_the_reward_pays_for_nothing_but_landmark_distance_and_contacts(simulated):
    # The scenario charges the distance once, and a contact twice, for each agent.
    expected = -5 * simulated.nearest.sum(-1) - 2 * simulated.contacts
    expected = expected[..., None, None].expand(11, 19, 5, 1)
    torch.testing.assert_close(simulated.reward, expected)


def test_the_metrics_of_a_team_at_rest_are_those_worked_out_by_hand():
    far = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.5]]
    touching = [[0.0, 0.0], [0.2, 0.0], [0.0, 1.05]]
    metrics = spread_metrics(hand_made(far, touching))
    torch.testing.assert_close(metrics["landmark_distance"], torch.tensor((0.5 + 0.85) / 2))
    torch.testing.assert_close(metrics["contacts_per_episode"], torch.tensor(1.0))
    torch.testing.assert_close(metrics["occupied_share"], torch.tensor(2 / 3))


def test_the_occupied_share_counts_the_end_of_an_episode_alone():
    on, off = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [[9.0, 9.0]] * 3
    assert float(spread_metrics(hand_made(on, off))["occupied_share"]) == 0
    assert float(spread_metrics(hand_made(off, on))["occupied_share"]) == 1


def test_the_metrics_need_the_next_observation():
    with pytest.raises(KeyError, match="next"):
        spread_metrics(TensorDict({"agents": {"observation": torch.zeros(2, 3, 3, 14)}}, [2, 3]))


def test_going_to_the_landmarks_occupies_them_and_acting_at_random_does_not():
    torch.manual_seed(0)
    env = spread(num_envs=61, seed=0)
    start = env.reset()
    to_landmarks = start[OBSERVATION][..., 4:10].unflatten(-1, (3, 2))
    orders = torch.tensor(list(permutations(range(3))))
    lengths = sum(to_landmarks.norm(dim=-1)[:, agent, orders[:, agent]] for agent in range(3))
    own = orders[lengths.argmin(-1)][..., None, None].expand(-1, -1, 1, 2)

    def greedy(tensordict: TensorDict) -> TensorDict:
        observation = tensordict[OBSERVATION]
        goal = observation[..., 4:10].unflatten(-1, (3, 2)).gather(-2, own).squeeze(-2)
        return tensordict.set(ACTION, (5 * goal - 3 * observation[..., 2:4]).clamp(-1, 1))

    skilled = spread_metrics(env.rollout(100, greedy, auto_reset=False, tensordict=start))
    clumsy = spread_metrics(env.rollout(100))
    assert skilled["occupied_share"] > 0.9
    assert clumsy["occupied_share"] < 0.1
    assert skilled["landmark_distance"] < clumsy["landmark_distance"] / 3


def test_an_episode_is_drawn_as_one_image_for_each_step():
    episode = spread(num_envs=1, seed=0, horizon=5).rollout(5)[0]
    images = get_task("vmas/spread").draw(episode)
    assert [image.size for image in images] == [(320, 320)] * 5


def test_an_agent_is_drawn_where_it_stands():
    path = [[[x, -0.8], [0.5, -0.8], [-1.2, 1.2]] for x in (-0.8, -0.4)]
    images = get_task("vmas/spread").draw(hand_made(*path)[0])
    there, gone = (80, 240), (120, 240)
    color, white = (0x44, 0x77, 0xAA), (255, 255, 255)
    assert images[0].getpixel(there) == color
    assert images[0].getpixel(gone) == white
    assert images[1].getpixel(gone) == color


def test_a_landmark_is_drawn_where_it_lies():
    images = get_task("vmas/spread").draw(hand_made([[-0.8, -0.8]] * 3)[0])
    for landmark in ((160, 160), (260, 160), (160, 60)):
        assert images[0].getpixel(landmark) == (0, 0, 0)


def test_the_layout_knows_one_hot_actions():
    assert layout_of(TargetEnv(discrete=True)) == Layout(N, O, A, discrete=True)


def test_the_layout_is_of_one_environment_of_the_batch():
    assert layout_of(TargetEnv()) == Layout(N, O, A, discrete=False)


def test_an_environment_of_another_layout_is_refused_with_the_keys_it_has():
    rename = RenameTransform(in_keys=[OBSERVATION], out_keys=[("team", "pixels")])
    with pytest.raises(KeyError, match=r"agents.*observation.*it has .*team.*pixels"):
        layout_of(TransformedEnv(TargetEnv(), rename))


def specs(observation: tuple[int, ...], action: tuple[int, ...]) -> MagicMock:
    env = MagicMock(spec=EnvBase)
    env.full_observation_spec_unbatched = Composite(
        agents=Composite(observation=Unbounded(observation))
    )
    env.full_action_spec_unbatched = Composite(agents=Composite(action=Unbounded(action)))
    return env


@pytest.mark.parametrize(
    ("observation", "action", "offending"),
    [((N, O, O), (N, A), (N, O, O)), ((N, O), (N,), (N,)), ((O,), (N, A), (O,))],
)
def test_an_agents_entry_must_be_a_vector(observation, action, offending):
    with pytest.raises(ValueError, match=re.escape(f"got {offending}")):
        layout_of(specs(observation, action))


def test_observations_and_actions_must_be_of_the_same_agents():
    with pytest.raises(ValueError, match=f"of {N} agents, .* of {N + 2}"):
        layout_of(specs((N, O), (N + 2, A)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_an_environments_draws_are_its_own_too():
    first = make_env("vmas/spread", num_envs=3, device="cuda", seed=1)
    twin = make_env("vmas/spread", num_envs=3, device="cuda", seed=1)
    before = torch.cuda.get_rng_state()
    expected = [first.reset()["agents", "observation"] for _ in range(2)]
    assert (torch.cuda.get_rng_state() == before).all()
    torch.cuda.manual_seed(7)
    torch.testing.assert_close([twin.reset()["agents", "observation"] for _ in range(2)], expected)


# Tasks


@dataclass(frozen=True)
class Options:
    width: int = 3


def arguments_of(**arguments) -> MagicMock:
    """In an environment's place, what it was made with."""
    env = MagicMock(spec=EnvBase, made_with=arguments)
    env.batch_size, env.full_reward_spec = (arguments["num_envs"],), Composite()
    env.device, env.full_action_spec_unbatched = torch.device(arguments["device"]), Composite()
    return env


def test_a_task_says_what_the_caller_leaves_open():
    task = Task(arguments_of, settings=Options(), n_agents=5, horizon=7)
    made = make_env(task, seed=0).made_with
    assert (made["n_agents"], made["horizon"], made["settings"]) == (5, 7, Options())
    made = make_env(task, seed=0, n_agents=2, horizon=3, settings=Options(11)).made_with
    assert (made["n_agents"], made["horizon"], made["settings"]) == (2, 3, Options(11))
    assert make_env(Task(arguments_of), seed=0).made_with == {
        "num_envs": 1, "n_agents": None, "device": "cpu", "seed": 0, "horizon": 100,
    }  # fmt: skip


def test_other_settings_make_another_task_of_which_no_reference_is_known():
    task = Task(arguments_of, settings=Options(), floor=-1.0, ceiling=2.0)
    assert task.with_settings(Options()) is task
    other = task.with_settings(Options(5))
    assert (other.settings, other.floor, other.ceiling) == (Options(5), None, None)
    assert task.settings == Options()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (PushBoxSettings(), r"The task's settings are Options, got PushBoxSettings\("),
        ({"width": 3}, r"The task's settings are Options, got \{'width': 3\}\."),
    ],
)
def test_settings_of_another_task_are_refused(settings, message):
    with pytest.raises(TypeError, match=message):
        make_env(Task(arguments_of, settings=Options()), settings=settings)


def test_a_task_without_settings_takes_none():
    with pytest.raises(TypeError, match="The task's settings are none, got Options"):
        make_env(Task(arguments_of), settings=Options())


def test_settings_are_a_frozen_dataclass():
    for settings in (Options, {"width": 3}, dataclass(type("Open", (), {}))()):
        with pytest.raises(TypeError, match="settings must be an instance of a frozen dataclass"):
            Task(arguments_of, settings=settings)
