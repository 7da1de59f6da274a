import pytest
import torch
from tensordict import TensorDict

from torchrl_alita.algorithms import OnPolicyALITA
from torchrl_alita.data import count_codes_of
from torchrl_alita.envs import (
    SparseTransport,
    VmasState,
    environment_state,
    get_task,
    make_env,
    sparse_transport_metrics,
)
from torchrl_alita.envs.sparse_transport import SparseTransportSettings

pytest.importorskip("vmas")
REWARD, TERMINATED = ("next", "agents", "reward"), ("next", "terminated")


def carried(env):
    """The package of the first environment stands at its goal."""
    scenario = env._env.scenario
    (package,) = scenario.packages
    place = package.state.pos.clone()
    place[0] = package.goal.state.pos[0]
    package.set_pos(place, batch_index=None)


def test_all_agents_earn_the_reward_at_the_goal_and_nothing_on_the_way():
    env = SparseTransport(num_envs=3, n_agents=2, seed=0, reward=5.0)
    before = env.reset()
    step = env.step(env.rand_action(before))
    assert not step[REWARD].any()
    carried(env)
    step = env.step(env.rand_action(step["next"].select("agents", "done")))
    assert step[REWARD][0].tolist() == [[5.0], [5.0]]
    assert not step[REWARD][1:].any()
    assert step[TERMINATED].squeeze(-1).tolist() == [True, False, False]


@pytest.mark.parametrize(("continuous", "actions"), [(True, 2), (False, 9)])
def test_the_task_has_the_layout_of_the_package(continuous, actions):
    task = get_task("vmas/sparse_transport")
    task = task.with_settings(SparseTransportSettings(continuous_actions=continuous))
    env = make_env(task, num_envs=2, seed=0)
    steps = env.rollout(4)
    assert steps["agents", "observation"].shape == (2, 4, 3, 11)
    assert steps["agents", "action"].shape == (2, 4, 3, actions)
    assert steps[REWARD].shape == (2, 4, 3, 1)
    assert environment_state(env) is not None


def test_it_goes_on_from_a_saved_state():
    env = make_env("vmas/sparse_transport", num_envs=2, seed=0)
    first, saved = env.reset(), VmasState(env).state_dict()
    torch.manual_seed(0)
    actions = [env.rand_action(first.clone())["agents", "action"] for _ in range(5)]

    def play():
        step, seen = first.clone(), []
        for action in actions:
            step = env.step(step.set(("agents", "action"), action))["next"]
            seen.append(step["agents", "observation"])
        return torch.stack(seen)

    found = play()
    VmasState(env).load_state_dict(saved)
    assert torch.equal(play(), found)


def test_what_is_counted():
    codes = count_codes_of(make_env("vmas/sparse_transport", num_envs=2, n_agents=2, seed=0))
    observation = torch.zeros(2, 11)
    # The package lies left below of the goal, in the first of its bins, and beside the second
    # agent alone.
    observation[:, 4:6] = torch.tensor([-1.9, -1.9])
    observation[0, 6:8] = torch.tensor([9.0, 9.0])
    observation[1, 6:8] = torch.tensor([0.01, -0.01])
    beside = [11 * 12 + 11, 6 * 12 + 5]
    sides = [3 * 4 + 3, 2 * 4 + 1]
    assert codes.part(observation).tolist() == sides
    assert codes.before(observation).tolist() == [code * 9 + 4 for code in sides]
    assert codes.own(observation).tolist() == [code * 9 + 4 for code in beside]
    assert codes.team(observation).item() == 0
    moved = observation.clone()
    moved[:, 8:10] = torch.tensor([0.1, -9e-4])
    assert codes.outcome(observation, moved).tolist() == [3 * 2 + 1] * 2
    assert codes.outcome(moved, observation).tolist() == [4, 4]
    assert codes.own(moved).tolist() == [code * 9 + 7 for code in beside]
    assert codes.before(moved).tolist() == [code * 9 + 7 for code in sides]


def test_transitions_are_counted_exactly_with_three_agents():
    env = make_env("vmas/sparse_transport", num_envs=2, seed=0)
    counts = OnPolicyALITA(env).bonuses["transition_influence"].counts
    assert counts.num_states == count_codes_of(env).before.num_codes
    assert all(table.slots is None for table in counts.tables.values())


def test_metrics_by_hand():
    observation = torch.zeros(2, 3, 2, 11)
    observation[0, :, :, 4] = torch.tensor([0.5, 0.2, 9.0]).unsqueeze(-1)
    observation[1, :, :, 5] = -0.7
    ends = torch.tensor([[False, True, False], [False, False, True]]).unsqueeze(-1)
    reached = ends & torch.tensor([True, False]).view(2, 1, 1)
    after = TensorDict(
        {"agents": {"observation": observation}, "done": ends, "terminated": reached}, [2, 3]
    )
    metrics = sparse_transport_metrics(TensorDict({"next": after}, [2, 3]))
    assert metrics["success_share"].item() == 0.5
    assert metrics["steps_to_success"].item() == 2.5
    assert metrics["package_distance"].item() == pytest.approx(0.45)


@pytest.mark.parametrize("name", ["package_mass", "reward"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("inf")])
def test_what_is_refused(name, value):
    with pytest.raises(ValueError, match=name):
        SparseTransportSettings(**{name: value})
    with pytest.raises(ValueError, match=name):
        SparseTransport(num_envs=1, **{name: value})


def test_an_action_is_repeated_and_a_goal_between_is_paid():
    torch.manual_seed(0)
    once = SparseTransport(num_envs=2, n_agents=2, seed=3, action_repeat=1)
    often = SparseTransport(num_envs=2, n_agents=2, seed=3, action_repeat=3)
    step, other = once.reset(), often.reset()
    action = once.rand_action(step.clone())["agents", "action"]
    for _ in range(3):
        step = once.step(step.set(("agents", "action"), action))["next"]
    other = often.step(other.set(("agents", "action"), action))["next"]
    assert torch.equal(step["agents", "observation"], other["agents", "observation"])
    # Two packages fly through the goal: they are there after the first of the steps alone.
    for env in (once, often):
        (package,) = env._env.scenario.packages
        package.set_pos(package.goal.state.pos - 0.45, batch_index=None)
        package.set_vel(torch.full_like(package.state.vel, 6.0), batch_index=None)
    assert once.step(once.rand_action(step))[REWARD].all()
    paid = often.step(often.rand_action(other))
    assert paid[REWARD].all()
    assert paid[TERMINATED].all()
    assert not often._env.scenario.packages[0].on_goal.any()
