"""The paper's particle tasks: the original's numbers, and where its relatives depart from it."""

from __future__ import annotations

import importlib
from itertools import permutations

import pytest
import torch
from tensordict import TensorDict
from torchrl.envs.utils import check_env_specs

from torchrl_alita.envs import (
    CooperativeNavigation,
    ParticleSettings,
    PhysicalDeception,
    SpeakerListener,
    UnpaidSpeaker,
    environment_state,
    get_task,
    layout_of,
    make_env,
    navigation_metrics,
    speaker_listener_metrics,
)

ACTION, OBSERVATION = ("agents", "action"), ("agents", "observation")
REWARD = ("agents", "reward")
STAY, RIGHT, LEFT, UP, DOWN = torch.eye(5)
B = 300
KINDS = (CooperativeNavigation, SpeakerListener, UnpaidSpeaker, PhysicalDeception)


def placed(kind, *points: tuple[float, float], goal: int = 0, **options):
    """One environment with its particles at these points, agents first, at rest."""
    env = kind(seed=0, **options)
    step = env.reset()
    env.positions = torch.tensor([points])
    env.goal = torch.tensor([[goal]])
    return env, step


def play(env, policy):
    """Episodes ``[B, 25]``."""
    step, steps = env.reset(), []
    for _ in range(env.horizon):
        step = env.step(step.set(ACTION, policy(env)))
        steps.append(step.clone())
        step = step["next"].exclude(("agents", "reward"))
    return torch.stack(steps, 1).contiguous()


def toward(env, target: torch.Tensor) -> torch.Tensor:
    """Actions that bring each agent to its target ``[B, N, 2]`` and stop there."""
    if env.continuous_actions:
        wanted = (target - env.agent_positions) / 0.1
        return ((wanted - 0.75 * env.velocities) / 0.5).clamp(-1, 1)
    speeds = 0.75 * env.velocities.unsqueeze(2) + 0.5 * env._directions
    ahead = env.agent_positions.unsqueeze(2) + 0.1 * speeds * 2.5
    return torch.eye(5)[(ahead - target.unsqueeze(2)).norm(dim=-1).argmin(-1)]


def assigned(env) -> torch.Tensor:
    """A landmark for each agent, with the least sum of distances, ``[B, N, 2]``."""
    orders = torch.tensor(list(permutations(range(env.num_agents))))
    away = torch.cdist(env.agent_positions, env.landmarks)
    best = orders[away[:, torch.arange(env.num_agents), orders].sum(-1).argmin(1)]
    return env.landmarks[torch.arange(len(away)).unsqueeze(1), best]


# The rules, by hand


def test_a_push_speeds_up_first_and_moves_then():
    env, step = placed(CooperativeNavigation, *[(0.0, 0.0), (9.0, 9.0), (5.0, 5.0)] * 2)
    after = env.step(step.set(ACTION, torch.stack([RIGHT, DOWN, LEFT])[None]))["next"]
    # 5 units for 0.1 s, then that speed for 0.1 s.
    assert env.velocities[0].tolist() == [[0.5, 0.0], [0.0, -0.5], [-0.5, 0.0]]
    assert torch.allclose(env.agent_positions[0, 0], torch.tensor([0.05, 0.0]))
    env.step(after.set(ACTION, torch.stack([STAY] * 3)[None]))
    assert torch.allclose(env.velocities[0, 0], torch.tensor([0.375, 0.0]))
    assert torch.allclose(env.agent_positions[0, 0], torch.tensor([0.0875, 0.0]))


def test_navigation_pays_everybody_the_sum_and_each_collides_with_itself():
    points = [(0.0, 0.0), (0.2, 0.0), (9.0, 0.0), (0.0, 1.0), (9.0, 2.0), (0.2, 3.0)]
    for own, expected in ((True, -3 * 6 - 5), (False, -3 * 6 - 2)):
        env, _ = placed(CooperativeNavigation, *points, self_collisions=own)
        assert env._pay().tolist() == [[expected] * 3]


def test_agents_that_overlap_are_pushed_apart_by_the_contact_force():
    env, step = placed(CooperativeNavigation, (0.0, 0.0), (0.2, 0.0), *[(9.0, 9.0)] * 4)
    env.step(step.set(ACTION, torch.stack([STAY] * 3)[None]))
    # 0.1 too near: a force of 100 * 0.1, for 0.1 s.
    assert torch.allclose(env.velocities[0, :2, 0], torch.tensor([-1.0, 1.0]), atol=1e-5)


def test_a_word_is_heard_in_the_next_observation_and_the_speaker_stays():
    points = [(0.5, 0.5), (0.0, 0.0), (3.0, 4.0), (1.0, 0.0), (0.0, 1.0)]
    env, step = placed(SpeakerListener, *points, goal=0)
    seen = env._observe()[0]
    assert torch.allclose(seen[0, :3], torch.tensor([0.65, 0.15, 0.15]))
    assert seen[1].tolist() == [0, 0, 3, 4, 1, 0, 0, 1, 0, 0, 0]
    after = env.step(step.set(ACTION, torch.stack([LEFT, STAY])[None]))["next"]
    assert after[OBSERVATION][0, 1, -3:].tolist() == [0, 0, 1]
    assert env.agent_positions[0, 0].tolist() == [0.5, 0.5]
    assert after[REWARD].flatten().tolist() == [-50, -50]
    env, step = placed(UnpaidSpeaker, *points, goal=0)
    after = env.step(step.set(ACTION, torch.stack([LEFT, STAY])[None]))["next"]
    assert after[REWARD].flatten().tolist() == [0, -50]


def test_deception_pays_by_the_distance_and_the_adversary_by_its_square():
    points = [(3.0, 0.0), (0.0, 2.0), (0.0, 1.0), (0.0, 0.0), (5.0, 5.0)]
    env, _ = placed(PhysicalDeception, *points, goal=0)
    assert env._pay().tolist() == [[-9, 2, 2]]
    seen = env._observe()[0]
    # The adversary does not see the goal.
    assert seen[0].tolist() == [-3, 0, 2, 5, -3, 2, -3, 1, 0, 0]
    assert seen[1].tolist() == [0, -2, 0, -2, 5, 3, 3, -2, 0, -1]


@pytest.mark.parametrize("kind", KINDS)
def test_each_environment_has_a_goal_of_its_own_and_draws_it_at_its_reset(kind):
    env = kind(B, seed=0)
    step = env.reset()
    goals = env.goal.clone()
    assert len(goals.unique()) == env.num_landmarks
    before = env.positions.clone()
    reset = torch.zeros(B, 1, dtype=torch.bool)
    reset[::2] = True
    env.reset(step.set("_reset", reset))
    assert torch.equal(env.positions[1::2], before[1::2])
    assert torch.equal(env.goal[1::2], goals[1::2])
    assert not torch.equal(env.positions[::2], before[::2])
    assert not torch.equal(env.goal[::2], goals[::2])


# mpe2


@pytest.mark.parametrize(
    ("kind", "module"),
    [
        (CooperativeNavigation, "simple_spread_v3"),
        (SpeakerListener, "simple_speaker_listener_v4"),
        (PhysicalDeception, "simple_adversary_v3"),
    ],
)
def test_steps_agree_with_mpe2_where_the_definitions_do(kind, module):
    """With its order of integration and its signs; the rewards differ as is written."""
    pytest.importorskip("mpe2")
    bare = importlib.import_module(f"mpe2.{module}").parallel_env()
    bare.reset(seed=3)
    world = bare.unwrapped.world
    env = kind(seed=0, positions_first=True)
    step = env.reset()
    entities = [*world.agents, *world.landmarks]
    # Near each other, so that agents touch.
    for number, entity in enumerate(entities):
        entity.state.p_pos = entity.state.p_pos * 0.3
        env.positions[0, number] = torch.as_tensor(entity.state.p_pos)
    if kind is PhysicalDeception:
        env.goal[:] = world.landmarks.index(world.agents[-1].goal_a)
    elif issubclass(kind, SpeakerListener):
        env.goal[:] = world.landmarks.index(world.agents[0].goal_b)
    torch.manual_seed(0)
    # Ours: stay, right, left, up, down; there right and left, up and down are exchanged.
    theirs = torch.tensor([0, 2, 1, 4, 3])
    for _ in range(20):
        chosen = env.rand_action(step)[ACTION].argmax(-1)[0]
        given = {
            agent: int(c if issubclass(kind, SpeakerListener) and number == 0 else theirs[c])
            for number, (agent, c) in enumerate(zip(bare.agents, chosen, strict=True))
        }
        seen, paid, *_ = bare.step(given)
        step = env.step(step.set(ACTION, torch.eye(5)[chosen][None]))["next"]
        for number, own in enumerate(seen.values()):
            mine = step[OBSERVATION][0, number, : len(own)]
            assert torch.allclose(mine, torch.as_tensor(own), atol=2e-4), number
        _compare_rewards(kind, step[REWARD].flatten(), list(paid.values()), world)
        step = step.exclude(REWARD)


def _compare_rewards(kind, ours: torch.Tensor, theirs: list[float], world) -> None:
    if issubclass(kind, SpeakerListener):
        # There each is paid once, here the sum of both.
        assert ours.tolist() == pytest.approx([2 * paid for paid in theirs], rel=1e-3)
    elif kind is PhysicalDeception:
        # There the adversary is paid by the distance, here by its square.
        assert ours[0].item() == pytest.approx(-(theirs[0] ** 2), rel=1e-3)
        assert ours[1:].tolist() == pytest.approx(theirs[1:], rel=1e-3, abs=1e-4)
    else:
        # There half of the distances and half of one's own collisions with others.
        count = len(world.agents)
        away = sum(
            min(((a.state.p_pos - mark.state.p_pos) ** 2).sum() ** 0.5 for a in world.agents)
            for mark in world.landmarks
        )
        collisions = sum(-2 * paid - away for paid in theirs)
        expected = -count * away - (collisions + count)
        assert ours.tolist() == pytest.approx([expected] * count, rel=1e-3)


# Scripted teams


@pytest.mark.parametrize(
    ("continuous", "low", "high", "occupied"),
    [(False, -121.5, -113, 0.95), (True, -108, -101, 0.98)],
)
def test_a_team_that_shares_out_the_landmarks_earns_the_calibrated_score(
    continuous, low, high, occupied
):
    env = CooperativeNavigation(B, continuous_actions=continuous, seed=1)
    target = None

    def policy(env):
        nonlocal target
        target = assigned(env) if target is None else target
        return toward(env, target)

    episodes = play(env, policy)
    returns = episodes["next", "agents", "reward"].sum(1).mean()
    assert low < returns < high
    assert get_task("mpe/spread").metrics(episodes)["occupied_share"] > occupied


def test_no_team_and_a_random_one_earn_what_the_original_pays():
    env = CooperativeNavigation(2_000, seed=0)
    still = (
        play(env, lambda env: STAY.expand(2_000, 3, 5))["next", "agents", "reward"].sum(1).mean()
    )
    blind = (
        play(env, lambda env: env.rand_action()[ACTION])["next", "agents", "reward"].sum(1).mean()
    )
    # -219.5 and -231 were measured on the original.
    assert float(still) == pytest.approx(-219.5, abs=5)
    assert float(blind) == pytest.approx(-231, abs=5)


def test_a_listener_that_knows_the_goal_reaches_it():
    env = SpeakerListener(B, seed=0)

    def policy(env):
        action = toward(env, env.goal_position.expand(-1, 2, -1))
        action[:, 0] = STAY
        return action

    values = get_task("mpe/speaker_listener").metrics(play(env, policy))
    assert values["reach_0.1"] > 0.97
    assert values["final_distance"] < 0.06


def test_an_adversary_that_guesses_is_deceived_half_of_the_time():
    env = PhysicalDeception(2_000, seed=0)
    guess = torch.randint(2, (2_000,), generator=torch.Generator().manual_seed(0))

    def policy(env):
        marks = env.landmarks
        away = torch.cdist(env.agent_positions[:, 1:], marks)
        straight = away[:, 0, 0] + away[:, 1, 1] <= away[:, 0, 1] + away[:, 1, 0]
        good = torch.where(straight[:, None, None], marks, marks.flip(1))
        return toward(env, torch.cat([marks[torch.arange(2_000), guess].unsqueeze(1), good], 1))

    values = get_task("mpe/adversary").metrics(play(env, policy))
    assert values["good_reach_0.1"] > 0.97
    assert float(values["adversary_reach_0.1"]) == pytest.approx(0.5, abs=0.04)
    assert float(values["delta_0.16"]) == pytest.approx(0.5, abs=0.05)


# The package's promises


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_specs_are_kept_and_an_episode_is_resumed_exactly(kind, continuous):
    env, other = (kind(3, continuous_actions=continuous, seed=seed) for seed in (0, 1))
    check_env_specs(env)
    step = env.rollout(7)[:, -1]["next"]
    other.rollout(2)
    environment_state(other).load_state_dict(environment_state(env).state_dict())
    ends = []
    torch.manual_seed(0)
    actions = [env.rand_action(step.clone())[ACTION] for _ in range(30)]
    for each in (env, other):
        td, seen = step.clone(), []
        for action in actions:
            td = each.step_and_maybe_reset(td.set(ACTION, action))[1]
            seen.append(td[OBSERVATION].clone())
        ends.append(torch.stack(seen))
    assert torch.equal(*ends)


@pytest.mark.parametrize("kind", KINDS)
def test_actions_of_another_type_do_not_change_that_of_the_state(kind):
    steps = []
    for dtype in (torch.float32, torch.float64):
        env = kind(3, continuous_actions=True, seed=0)
        step = env.reset()
        action = torch.full(env.full_action_spec[ACTION].shape, 0.5, dtype=dtype)
        step = env.step(step.set(ACTION, action))["next"]
        assert env.positions.dtype == env.velocities.dtype == torch.float32
        kind(3, continuous_actions=True).load_state_dict(env.state_dict())
        steps.append(step.select(OBSERVATION, REWARD))
    torch.testing.assert_close(*steps, rtol=0, atol=0)


def test_the_tasks_are_registered_with_the_papers_sizes():
    assert layout_of(make_env("mpe/spread", seed=0))[:3] == (3, 18, 5)
    assert layout_of(make_env("mpe/spread_6", seed=0))[:3] == (6, 36, 5)
    assert layout_of(make_env("mpe/speaker_listener", seed=0)) == (2, 11, 5, True, True)
    assert layout_of(make_env("mpe/adversary", n_agents=5, seed=0))[:3] == (5, 18, 5)
    env = make_env("mpe/spread", settings=ParticleSettings(continuous_actions=True), seed=0)
    assert layout_of(env)[2:4] == (2, False)
    assert (env.horizon, env.batch_size) == (25, (1,))
    episode = env.rollout(25)
    assert episode["next", "truncated"][0, -1]
    assert not episode["next", "terminated"].any()
    with pytest.raises(ValueError, match="The task is of 2 agents, got n_agents=3"):
        make_env("mpe/speaker_listener", n_agents=3)


@pytest.mark.parametrize("name", ["spread", "speaker_listener", "adversary"])
def test_a_drawing_has_a_picture_for_each_step(name):
    frames = get_task(f"mpe/{name}").draw(make_env(f"mpe/{name}", seed=0).rollout(4)[0])
    assert [frame.size for frame in frames] == [(320, 336)] * 4


def test_actions_that_an_agent_does_not_have_are_refused():
    env = SpeakerListener(seed=0)
    step = env.reset()
    before = env.positions.clone()
    with pytest.raises(ValueError, match="The action of agent 0 in environment 0 must be allowed"):
        env.step(step.set(ACTION, torch.stack([UP, STAY])[None]))
    assert torch.equal(env.positions, before)


def _placed(positions: list, goal: int | None = None, steps: int = 2) -> TensorDict:
    """One episode in which all particles stand still."""
    places = torch.tensor(positions).expand(1, steps, -1, 2)
    num_agents = len(positions) // 2 if goal is None else 2
    after = {"positions": places}
    if goal is not None:
        after["goal"] = torch.full((1, steps, 1), goal)
    action = torch.zeros(1, steps, num_agents, 5)
    return TensorDict({"agents": {"action": action}, "next": after}, [1, steps])


def test_the_originals_count_of_collisions_has_both_agents_of_a_pair_and_each_itself():
    agents, landmarks = [[0.0, 0.0], [0.2, 0.0], [0.0, 0.9]], [[0.0, 0.1], [0.2, 0.3], [1.0, 0.9]]
    values = navigation_metrics(_placed(agents + landmarks, steps=5))
    # One pair touches; in each of the five steps it counts twice, and every agent itself.
    assert float(values["collisions_per_episode"]) == 5
    assert float(values["counted_collisions"]) == 5 * (2 + 3)
    assert float(values["landmark_distance"]) == pytest.approx(0.1 + 0.3 + 1.0)
    assert float(values["distance_per_landmark"]) == pytest.approx(1.4 / 3)


@pytest.mark.parametrize(
    ("distance", "reached"), [(0.09, 4), (0.11, 3), (0.14, 2), (0.155, 1), (0.17, 0)]
)
def test_the_listener_has_reached_what_is_within_each_radius(distance, reached):
    positions = [[0.9, 0.9], [0.0, 0.0], [-0.5, 0.0], [distance, 0.0], [0.5, 0.5]]
    values = speaker_listener_metrics(_placed(positions, goal=1))
    radii = [name for name in sorted(values) if name.startswith("reach")]
    assert radii == ["reach_0.1", "reach_0.115", "reach_0.15", "reach_0.16"]
    assert [float(values[name]) for name in radii] == [0.0] * (4 - reached) + [1.0] * reached
