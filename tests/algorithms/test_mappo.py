"""MAPPO and IPPO: advantages, policies, one update, tasks that must be solved."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import partial

import pytest
import torch
from fakes import A, B, N, O, S, TargetEnv
from resume_runs import HALF, Stopped, stop_halfway
from tensordict import TensorDict
from tensordict.nn import TensorDictSequential
from torch.distributions import Normal
from torchrl.envs import ExplorationType, set_exploration_type
from torchrl.modules import PopArtValueNorm
from torchrl.objectives.value import MultiAgentGAE

from torchrl_alita import functional
from torchrl_alita.algorithms import Learner
from torchrl_alita.algorithms.mappo import IPPO, MAPPO, IPPOSettings, MAPPOSettings
from torchrl_alita.envs import make_env
from torchrl_alita.modules import (
    ClippedNormal,
    TeamExploration,
    make_stochastic_actor,
    make_team_value,
)
from torchrl_alita.saving import checkpoint_difference
from torchrl_alita.training import Config, TrainingSettings, figures, train

ENV = TargetEnv()
SMALL = MAPPOSettings(num_cells=(13,), value_num_cells=(11,), num_epochs=2, minibatch_size=8)
ONE = {"gammas": torch.tensor([0.5]), "lambdas": torch.tensor([0.5])}


def flags(*values: int) -> torch.Tensor:
    """Of one environment's steps, ``[1, T, 1]``."""
    return torch.tensor(values, dtype=torch.bool).view(1, -1, 1)


def steps(*values: float) -> torch.Tensor:
    """One return of one agent, ``[1, T, 1, 1]``."""
    return torch.tensor(values).view(1, -1, 1, 1)


def advantages_of(*, done, terminated, episodic=True, **tensors) -> list[float]:
    advantages, _ = functional.generalized_advantages(
        **tensors, done=done, terminated=terminated, **ONE, episodic=torch.tensor([episodic])
    )
    return advantages.flatten().tolist()


# Rewards 1, values 2 before and 4 after each step: a step's own advantage is 1 + 2 - 2 = 1,
# where it terminates 1 - 2 = -1, and gamma * lambda = 1/4.
CONSTANT = {
    "rewards": steps(1.0, 1.0, 1.0),
    "values": steps(2.0, 2.0, 2.0),
    "next_values": steps(4.0, 4.0, 4.0),
}


@pytest.mark.parametrize(
    ("done", "terminated", "expected"),
    [
        ((0, 0, 0), (0, 0, 0), [1 + 0.25 * 1.25, 1.25, 1.0]),
        ((0, 1, 0), (0, 0, 0), [1.25, 1.0, 1.0]),
        ((0, 1, 0), (0, 1, 0), [0.75, -1.0, 1.0]),
    ],
    ids=["goes on", "truncated", "terminated"],
)
def test_a_truncated_return_is_bootstrapped_and_a_terminated_one_is_not(done, terminated, expected):
    found = advantages_of(done=flags(*done), terminated=flags(*terminated), **CONSTANT)
    assert found == expected


def test_a_return_that_is_not_episodic_goes_on_with_the_next_episode():
    """Its value after a step is that of the next step's state: 1 + 0.5 * 2 - 2 = 0."""
    ended = {"done": flags(0, 1, 0), "terminated": flags(0, 1, 0)}
    assert advantages_of(**ended, episodic=False, **CONSTANT) == [0.0625, 0.25, 1.0]


def test_an_agent_that_ends_for_itself_ends_alone():
    two = {name: value.expand(1, 3, 2, 1) for name, value in CONSTANT.items()}
    own = torch.stack([flags(0, 1, 0), flags(0, 0, 0)], -2)
    advantages, targets = functional.generalized_advantages(
        **two, done=own, terminated=own, **ONE, episodic=torch.tensor([True])
    )
    assert advantages[0, :, 0, 0].tolist() == [0.75, -1.0, 1.0]
    assert advantages[0, :, 1, 0].tolist() == [1.3125, 1.25, 1.0]
    torch.testing.assert_close(targets, advantages + 2)


def test_each_return_has_its_own_discount():
    both = {name: value.expand(1, 3, 1, 2) for name, value in CONSTANT.items()}
    gammas, lambdas = torch.tensor([0.5, 0.25]), torch.tensor([0.5, 1.0])
    advantages, _ = functional.generalized_advantages(
        **both, done=flags(0, 0, 1), terminated=flags(0, 0, 0),
        gammas=gammas, lambdas=lambdas, episodic=torch.tensor([True, True]),
    )  # fmt: skip
    assert advantages[0, :, 0, 0].tolist() == [1.3125, 1.25, 1.0]
    # 1 + 0.25 * 4 - 2 = 0 at each step.
    assert advantages[0, :, 0, 1].tolist() == [0.0, 0.0, 0.0]


def test_one_return_is_that_of_torchrls_multi_agent_estimator():
    generator = torch.Generator().manual_seed(0)
    shape = (B, 11, N, 1)
    values, next_values, rewards = torch.randn(3, *shape, generator=generator)
    done = torch.rand(B, 11, 1, generator=generator) < 0.3
    terminated = done & (torch.rand(B, 11, 1, generator=generator) < 0.5)
    following = {"state_value": next_values, "reward": rewards, "done": done}
    batch = TensorDict(
        {"state_value": values, "next": following | {"terminated": terminated}}, [B, 11]
    )
    MultiAgentGAE(gamma=0.9, lmbda=0.8, value_network=None)(batch)
    advantages, targets = functional.generalized_advantages(
        rewards, values, next_values, done, terminated,
        gammas=torch.tensor([0.9]), lambdas=torch.tensor([0.8]), episodic=torch.tensor([True]),
    )  # fmt: skip
    torch.testing.assert_close(advantages, batch["advantage"])
    torch.testing.assert_close(targets, batch["value_target"])


def test_the_clipped_normals_probabilities_are_those_of_its_draws():
    policy = ClippedNormal(torch.tensor([0.4]), torch.tensor([0.7]), low=-1.0, high=1.0)
    torch.manual_seed(0)
    draws = policy.sample((200_000,))
    for end in (-1.0, 1.0):
        share = (draws == end).float().mean()
        assert policy.log_prob(torch.tensor([end])).exp().item() == pytest.approx(
            share.item(), abs=0.003
        )
    inside = torch.linspace(-1, 1, 20_001, dtype=torch.float64)[1:-1].unsqueeze(-1)
    mass = policy.log_prob(inside).exp().sum() * 1e-4
    ends = sum(policy.log_prob(torch.tensor([end])).exp() for end in (-1.0, 1.0))
    assert (mass + ends).item() == pytest.approx(1.0, abs=1e-3)
    assert draws.min() == -1
    assert draws.max() == 1


def test_the_clipped_normals_gradient_is_finite_however_far_the_mean():
    loc = torch.tensor([[-1e4, 1e4, 0.0, 30.0]], requires_grad=True)
    scale = torch.full((1, 4), 0.3, requires_grad=True)
    policy = ClippedNormal(loc, scale, low=-1.0, high=1.0)
    for action in (policy.deterministic_sample, torch.tensor([[1.0, -1.0, 1.0, 0.5]])):
        log_prob = policy.log_prob(action)
        assert torch.isfinite(log_prob).all()
        gradients = torch.autograd.grad(log_prob.sum(), (loc, scale), retain_graph=True)
        assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_the_clipped_normals_gradient_has_the_mean_of_the_unclipped_one_and_less_variance():
    loc = torch.zeros(400_000, 1, requires_grad=True)
    torch.manual_seed(0)
    raw = Normal(loc.detach(), 1.0).sample()
    clipped = raw.clamp(-0.5, 0.5)
    policy = ClippedNormal(loc, torch.ones(1), low=-0.5, high=0.5)
    (exact,) = torch.autograd.grad((policy.log_prob(clipped) * clipped.squeeze(-1)).sum(), loc)
    unclipped = raw * clipped
    assert exact.mean().item() == pytest.approx(unclipped.mean().item(), abs=3e-3)
    assert exact.var() < 0.8 * unclipped.var()


def test_the_padding_of_a_narrower_agent_is_certain():
    bounds = {"low": torch.tensor([-1.0, 0.0]), "high": torch.tensor([1.0, 0.0])}
    policy = ClippedNormal(torch.tensor([[0.2, 0.7]]), torch.tensor([[0.5, 0.5]]), **bounds)
    action = policy.sample()
    assert action[0, 1] == 0
    narrow = ClippedNormal(torch.tensor([[0.2]]), torch.tensor([[0.5]]), low=-1.0, high=1.0)
    torch.testing.assert_close(policy.log_prob(action), narrow.log_prob(action[:, :1]))


@pytest.mark.parametrize("share_params", [True, False])
def test_policies_begin_alike_and_near_the_middle_of_the_range(share_params):
    torch.manual_seed(0)
    actor = make_stochastic_actor(ENV, share_params=share_params, initial_scale=0.6)
    batch = actor(ENV.reset())
    assert batch["agents", "loc"].abs().max() < 0.1
    torch.testing.assert_close(batch["agents", "scale"], torch.full((B, N, A), 0.6))


def test_a_scale_never_leaves_its_bounds():
    actor = make_stochastic_actor(ENV, min_scale=0.25)
    (parameter,) = (p for name, p in actor.named_parameters() if name.endswith("parameter"))
    for value, expected in ((-1e6, 1.0), (1e6, 0.25)):
        parameter.data.fill_(value)
        torch.testing.assert_close(
            actor(ENV.reset())["agents", "scale"], torch.full((B, N, A), expected)
        )


def test_agents_that_observe_the_same_differ_only_by_their_index():
    same = ENV.reset()
    same["agents", "observation"] = torch.ones(B, N, O)
    for agent_index in (True, False):
        torch.manual_seed(0)
        loc = make_stochastic_actor(ENV, agent_index=agent_index)(same)["agents", "loc"]
        assert (loc[:, 0] == loc[:, 1]).all() != agent_index


def test_a_masked_action_is_never_drawn():
    torch.manual_seed(0)
    env = TargetEnv(discrete=True, num_envs=512)
    actor = make_stochastic_actor(env)
    batch = env.reset()
    mask = torch.tensor([True, False]).expand(512, N, A)
    masked = make_env("push_box", num_envs=2, n_agents=2)
    assert not make_stochastic_actor(masked)[-1].in_keys[1:], "push_box has no mask"
    actor[-1].distribution_class  # noqa: B018
    dist = actor[-1].distribution_class(actor(batch)["agents", "logits"], mask)
    assert (dist.sample() == mask.float()).all()
    assert torch.isfinite(dist.entropy()).all()


@pytest.mark.parametrize("value_input", ["own", "team", "state"])
def test_values_see_what_they_are_told_to_see(value_input):
    env = TargetEnv(has_state=True)
    value = make_team_value(env, value_input=value_input, heads=2)
    batch = env.reset()
    seen = value(batch.clone())["agents", "state_value"]
    assert seen.shape == (B, N, 2)
    batch["agents", "observation"][:, 0] += 1
    other = value(batch)["agents", "state_value"]
    changed = (seen != other).any(-1).any(0).tolist()
    assert (
        changed
        == {"own": [True, False, False], "team": [True] * 3, "state": [False] * 3}[value_input]
    )


def test_values_are_learned_in_the_units_of_their_norm():
    norm = PopArtValueNorm(shape=2, beta=0.0)
    value = make_team_value(ENV, heads=2, value_norm=norm)
    batch = ENV.reset()
    plain = make_team_value(ENV, heads=2)
    plain.load_state_dict(value.state_dict(), strict=False)
    norm.update(torch.tensor([[10.0, -3.0], [14.0, -3.0]]))
    expected = plain(batch.clone())["agents", "state_value"] * norm.scale() + torch.tensor(
        [12.0, -3.0]
    )
    torch.testing.assert_close(value(batch)["agents", "state_value"], expected)


def collected(algorithm: MAPPO, env: TargetEnv = ENV, num_steps: int = 5, **extra) -> TensorDict:
    for transform in algorithm.env_transforms():
        env = env.append_transform(transform)
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        batch = env.rollout(num_steps, algorithm.actor, break_when_any_done=False)
    for key, value in extra.items():
        batch["next", "agents", key] = value
    return batch


def state(algorithm: MAPPO) -> dict[str, torch.Tensor]:
    return {
        key: value.detach().clone()
        for key, value in algorithm.modules["mappo"].state_dict().items()
        if isinstance(value, torch.Tensor)
    }


KINDS = {
    "shared": {},
    "own": {"share_params": False},
    "IPPO": {"value_input": "own"},
    "state": {"value_input": "state"},
    "recurrent": {"recurrent": True},
    "one-hot": {"entropy_coeff": 0.01},
    "one-hot, recurrent": {"entropy_coeff": 0.01, "recurrent": True, "share_params": False},
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_update_moves_policies_and_values_and_leaves_the_batch(kind):
    torch.manual_seed(0)
    env = TargetEnv(has_state=True, discrete="one-hot" in kind)
    algorithm = MAPPO(env, replace(SMALL, **KINDS[kind]))
    batch = collected(algorithm, env)
    before, first = batch.clone(), state(algorithm)
    logs = algorithm.update({"rollout": batch})
    for key, value in logs.items():
        assert value.shape == (), key
        assert torch.isfinite(value), key
        assert not value.requires_grad, key
    moved = {key for key, value in state(algorithm).items() if (value != first[key]).any()}
    for part in ("actor_network", "critic_network"):
        assert any(part in key for key in moved), part
    assert set(batch.keys(True, True)) == set(before.keys(True, True))
    assert (batch == before).all()
    assert (algorithm.updates, algorithm.frames) == (1, B * 5)


def test_every_transition_is_in_an_epoch_once(monkeypatch):
    algorithm = MAPPO(ENV, replace(SMALL, num_epochs=3, minibatch_size=10))
    seen = []
    gradient = algorithm._gradient
    monkeypatch.setattr(algorithm, "_gradient", lambda rows: seen.append(rows) or gradient(rows))
    batch = collected(algorithm)
    algorithm.update({"rollout": batch})
    assert [len(rows) for rows in seen] == [9, 9, 9, 8] * 3
    of_epoch = torch.cat([rows["agents", "action"] for rows in seen[4:8]]).flatten().sort().values
    torch.testing.assert_close(of_epoch, batch["agents", "action"].flatten().sort().values)


def test_a_recurrent_policys_minibatches_are_whole_sequences(monkeypatch):
    algorithm = MAPPO(ENV, replace(SMALL, recurrent=True, minibatch_size=10))
    shapes = []
    gradient = algorithm._gradient
    monkeypatch.setattr(
        algorithm, "_gradient", lambda rows: shapes.append(tuple(rows.shape)) or gradient(rows)
    )
    algorithm.update({"rollout": collected(algorithm)})
    assert shapes == [(2, 5), (2, 5), (2, 5), (1, 5)] * 2


def test_steps_of_a_burst_teach_only_what_was_good_with_the_policys_own_probability():
    torch.manual_seed(0)
    env = TargetEnv(discrete=True)
    algorithm = MAPPO(env, SMALL)
    exploration = TeamExploration(
        env.full_action_spec_unbatched["agents", "action"], eps_init=0.5, eps_end=0.5
    )
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        policy = TensorDictSequential(algorithm.actor, exploration)
        batch = env.rollout(5, policy, break_when_any_done=False)
    exploring = batch["agents", "exploring"]
    assert exploring.any()
    assert not exploring.all()
    _, rows = algorithm._learnable(batch)
    _, without = algorithm._learnable(batch.exclude(("agents", "exploring")))
    rows, without = (part.reshape(B, 5) for part in (rows, without))
    advantage, plain = (part["agents", "advantage"] for part in (rows, without))
    assert (plain[exploring] < 0).any()
    torch.testing.assert_close(advantage, torch.where(exploring, plain.clamp_min(0), plain))
    logits = batch["agents", "logits"].log_softmax(-1)
    expected = (logits * batch["agents", "action"]).sum(-1)
    torch.testing.assert_close(rows["agents", "action_log_prob"], expected)
    # Where nobody explored it is what the policy wrote.
    own = ~exploring.squeeze(-1)
    torch.testing.assert_close(expected[own], batch["agents", "action_log_prob"][own])


def test_the_teams_exploration_falls_by_frames_and_is_resumed():
    settings = replace(SMALL, exploration_start=0.5, exploration_frames=4 * 5 * B)
    env = TargetEnv(discrete=True)
    algorithm = MAPPO(env, settings)
    found = []
    for _ in range(5):
        found.append(algorithm.exploration.eps.item())
        algorithm.update({"rollout": collected(algorithm, env)})
        other = MAPPO(env, settings)
        other.load_state_dict(algorithm.state_dict())
        algorithm = other
    assert found == pytest.approx([0.5, 0.375, 0.25, 0.125, 0.0])
    assert MAPPO(env, SMALL).exploration is None


BONUS = replace(SMALL, bonuses=(("visit_bonus", 0.5),), reward_weight=2.0, bonus_gamma=0.9)


def test_bonuses_have_values_of_their_own_and_are_mixed_by_their_weights():
    torch.manual_seed(0)
    algorithm = MAPPO(ENV, BONUS)
    bonus = torch.rand(B, 5, N, 1)
    batch = collected(algorithm, visit_bonus=bonus)
    advantages, targets = algorithm.advantages(batch)
    assert advantages.shape == targets.shape == (B, 5, N, 2)
    values = algorithm.critic(batch.clone())["agents", "state_value"]
    # The last step of a truncated episode is bootstrapped; the bonus's return goes on.
    following = torch.cat([values[:, 1:], algorithm.critic(batch["next"].clone())[
        "agents", "state_value"][:, -1:]], 1)  # fmt: skip
    delta = bonus + 0.9 * following[..., 1:] - values[..., 1:]
    expected = delta[:, -2] + 0.9 * 0.95 * delta[:, -1]
    torch.testing.assert_close(advantages[:, -2, :, 1:], expected)
    _, rows = algorithm._learnable(batch)
    mixed = 2 * advantages[..., :1] + 0.5 * advantages[..., 1:]
    mixed = (mixed - mixed.mean((0, 1))) / mixed.std((0, 1), correction=0)
    torch.testing.assert_close(rows["agents", "advantage"].reshape(B, 5, N, 1), mixed)


def test_agents_that_are_no_longer_alive_teach_nothing():
    """The first agent of every environment ends for good at the second of five steps."""
    torch.manual_seed(0)
    algorithm = MAPPO(ENV, replace(SMALL, gamma=0.5))
    batch = collected(algorithm)
    alive = torch.ones(B, 5, N, 1, dtype=torch.bool)
    alive[:, 2:, 0] = False
    ended = torch.zeros_like(alive)
    ended[:, 1:, 0] = True
    plain, plain_targets = algorithm.advantages(batch)
    batch["agents", "alive"], batch["next", "agents", "terminated"] = alive, ended
    batch["next", "agents", "reward"] = batch["next", "agents", "reward"] * alive
    advantages, targets = algorithm.advantages(batch)
    values = algorithm.critic(batch.clone())["agents", "state_value"]
    torch.testing.assert_close(targets[:, 1, 0], batch["next", "agents", "reward"][:, 1, 0])
    torch.testing.assert_close(targets[:, 2:, 0], values[:, 2:, 0])
    assert (advantages[:, 2:, 0] == 0).all()
    torch.testing.assert_close(advantages[:, :, 1:], plain[:, :, 1:])
    torch.testing.assert_close(targets[:, :, 1:], plain_targets[:, :, 1:])
    rows = algorithm._learnable(batch)[1].reshape(B, 5)["agents", "advantage"]
    assert (rows[:, 2:, 0] == 0).all()
    assert rows[:, :2, 0].mean().abs() < 1e-6
    assert rows[:, :2, 0].std(correction=0).item() == pytest.approx(1, rel=1e-4)


def test_a_rollout_of_one_step_is_finite():
    algorithm = MAPPO(TargetEnv(num_envs=1), SMALL)
    logs = algorithm.update({"rollout": collected(algorithm, TargetEnv(num_envs=1), 1)})
    assert torch.isfinite(logs["loss_objective"])
    assert all(torch.isfinite(value).all() for value in state(algorithm).values())


def test_a_missing_bonus_is_named():
    algorithm = MAPPO(ENV, BONUS)
    with pytest.raises(KeyError, match="visit_bonus"):
        algorithm.update({"rollout": collected(algorithm)})


def test_advantages_that_hardly_differ_are_not_blown_up():
    """Noise of 1e-6 in the reward, over a deviation of at least 1e-3, is no lesson."""
    algorithm = MAPPO(ENV, replace(SMALL, value_norm=False))
    for parameter in algorithm.critic.parameters():
        parameter.data.zero_()
    batch = collected(algorithm)
    batch["next", "agents", "reward"] = 1e-6 * torch.randn(B, 5, N, 1)
    _, rows = algorithm._learnable(batch)
    assert rows["agents", "advantage"].abs().max() < 0.02


def test_the_step_decays_in_a_straight_line_and_a_resumed_run_goes_on_with_it():
    frames = B * 5
    settings = replace(SMALL, lr=1e-2, lr_decay_frames=4 * frames)
    algorithm = MAPPO(ENV, settings)
    found = []
    for _ in range(6):
        algorithm.update({"rollout": collected(algorithm)})
        found.append(algorithm.optimizers["actor"].param_groups[0]["lr"])
        other = MAPPO(ENV, settings)
        other.load_state_dict(algorithm.state_dict())
        algorithm = other
    assert found == pytest.approx([0.01, 0.0075, 0.005, 0.0025, 0.0, 0.0])


@pytest.mark.parametrize("kind", ["shared", "recurrent", "one-hot"])
def test_a_state_taken_over_continues_bit_for_bit(kind):
    torch.manual_seed(0)
    env = TargetEnv(has_state=True, discrete="one-hot" in kind)
    settings = replace(SMALL, lr_decay_frames=500, **KINDS[kind])
    first = MAPPO(env, settings)
    batches = [collected(first, env) for _ in range(3)]
    first.update({"rollout": batches[0]})
    second = MAPPO(env, settings)
    second.load_state_dict(first.state_dict())
    for algorithm in (first, second):
        torch.manual_seed(1)
        for batch in batches[1:]:
            algorithm.update({"rollout": batch})
    after = state(second)
    for name, value in state(first).items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=0)


def test_rewards_of_any_size_leave_the_networks_finite():
    """A million times the reward is what drives others' values, and then policies, to NaN."""
    torch.manual_seed(0)
    algorithm = MAPPO(ENV, replace(SMALL, lr=0.1))
    for size in (1e6, 1e-6, 0.0):
        batch = collected(algorithm)
        batch["next", "agents", "reward"] *= size
        algorithm.update({"rollout": batch})
    assert all(torch.isfinite(value).all() for value in state(algorithm).values())


@pytest.mark.parametrize("kind", ["shared", "one-hot", "recurrent"])
def test_health_is_read_off_the_rollout_without_the_network(kind, monkeypatch):
    env = TargetEnv(has_state=True, discrete="one-hot" in kind)
    algorithm = MAPPO(env, replace(SMALL, **KINDS[kind]))
    batch = collected(algorithm, env)
    with monkeypatch.context() as context:
        context.setattr(MAPPO, "_greedy", Learner._greedy)
        expected = algorithm.health(batch)
    monkeypatch.setattr(algorithm.actor[0], "forward", None)
    assert algorithm.health(batch) == expected


def test_rollouts_that_are_none_are_refused():
    algorithm = MAPPO(ENV, SMALL)
    batch = collected(algorithm)
    with pytest.raises(ValueError, match=r"\(35,\)"):
        algorithm.update({"rollout": batch.reshape(-1)})
    with pytest.raises(KeyError, match="action_log_prob"):
        algorithm.update({"rollout": batch.exclude(("agents", "action_log_prob"))})


def greedy_reward(algorithm: MAPPO, env: TargetEnv) -> float:
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        return env.rollout(2, algorithm.actor)["next", "agents", "reward"].mean().item()


@pytest.mark.parametrize("make", [MAPPO, IPPO])
def test_a_team_learns_to_act_as_it_is_told(make):
    """The mean reward of acting at random is about -1.1; the best is 0."""
    torch.manual_seed(0)
    env = TargetEnv(num_envs=256, horizon=2, seed=1)
    algorithm = make(env, make.Settings(num_cells=(32,), gamma=0.0, lr=5e-3, minibatch_size=128))
    assert greedy_reward(algorithm, env) < -0.3
    for _ in range(15):
        algorithm.update({"rollout": collected(algorithm, env, 4)})
    assert greedy_reward(algorithm, env) > -0.05


RUNS = {
    "vmas/spread": {"goal_attention": True},
    "vmas/spread, recurrent": {"recurrent": True, "share_params": False},
    "push_box": {"exploration_start": 0.5, "exploration_frames": 100, "entropy_coeff": 0.01},
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_is_resumed_is_the_one_that_never_stopped(name, tmp_path, monkeypatch):
    """The checkpoint falls into the middle of an episode."""
    for picture in ("save_curves", "save_gif", "save_heat_map"):
        monkeypatch.setattr(figures, picture, lambda *args, **kwargs: None)
    settings = replace(SMALL, lr_decay_frames=200, **RUNS[name])
    training = partial(
        TrainingSettings, n_agents=2, num_envs=7, horizon=6, frames_per_batch=35, seed=3,
        total_frames=2 * HALF, checkpoint_interval=HALF, evaluation_interval=70,
        evaluation_episodes=3, progress=False,
    )  # fmt: skip

    def run(**changes) -> dict:
        task = name.split(",")[0]
        return train(Config(task=task, training=training(**changes), algorithm=settings))

    whole = run(run_dir=tmp_path / "whole")
    with stop_halfway(), suppress(Stopped):
        run(run_dir=tmp_path / "part")
    resumed = run(resume=tmp_path / "part")
    difference = checkpoint_difference(resumed["run_dir"], whole["run_dir"])
    assert set(difference.values()) == {0.0}, difference
    assert resumed["evaluation"] == whole["evaluation"]
    assert resumed["updates"] == 4


def test_ippos_values_see_their_own_agents_alone():
    assert IPPOSettings().value_input == "own"
    assert IPPO(ENV).critic(ENV.reset())["agents", "state_value"].shape == (B, N, 1)


@pytest.mark.parametrize(
    ("changes", "number"),
    [
        ({"clip_epsilon": 0.0}, "0.0"),
        ({"gae_lambda": 1.5}, "1.5"),
        ({"minibatch_size": 0}, "0"),
        ({"min_scale": 0.7}, "0.7"),
        ({"bonus_gamma": -0.5}, "-0.5"),
        ({"num_cells": (13, 17), "recurrent": True}, "17"),
    ],
)
def test_a_wrong_setting_is_named(changes, number):
    with pytest.raises(ValueError, match=number):
        MAPPO(ENV, replace(SMALL, **changes))


def test_a_state_is_asked_for_where_there_is_none():
    with pytest.raises(ValueError, match="state"):
        MAPPO(ENV, replace(SMALL, value_input="state"))


def test_sizes_of_the_state_are_those_of_the_environment():
    env = TargetEnv(has_state=True)
    algorithm = MAPPO(env, replace(SMALL, value_input="state"))
    first = next(algorithm.critic.parameters())
    assert first.shape[-1] == S
