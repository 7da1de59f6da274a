"""ALITA on-policy: its bonuses reach the policies, and its state is all of it."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from fakes import TargetEnv
from tensordict import TensorDict
from tensordict.nn import TensorDictSequential
from torchrl.envs import ExplorationType, TransformedEnv, set_exploration_type

from torchrl_alita.algorithms import OnPolicyALITA, OnPolicyALITASettings
from torchrl_alita.envs import MatrixGame, PushBox, SecretRoom
from torchrl_alita.transforms import recurrent_transforms

SMALL = OnPolicyALITASettings(
    num_cells=(8,), value_num_cells=(8,), minibatch_size=30, exploration_frames=1000
)
EVERYTHING = replace(
    SMALL,
    team_visit_coeff=0.3,
    social_coeff=0.4,
    rnd_coeff=0.6,
    novelty_coeff=0.7,
    diversity_coeff=0.1,
    influence_coeff=0.2,
    weights="attention",
    slots=2**16,
)
NOTHING = replace(SMALL, visit_coeff=0.0, team_visit_coeff=0.0, transition_coeff=0.0)


def game(seed: int = 0) -> PushBox:
    return PushBox(6, seed=seed, reward=1.0)


def behavior(algorithm: OnPolicyALITA):
    """What a training loop collects with."""
    if algorithm.exploration is None:
        return algorithm.actor
    return TensorDictSequential(algorithm.actor, algorithm.exploration)


def rollout(algorithm: OnPolicyALITA, env, seed: int = 1) -> TensorDict:
    torch.manual_seed(seed)
    with set_exploration_type(ExplorationType.RANDOM):
        return env.rollout(10, behavior(algorithm))


def made(settings: OnPolicyALITASettings, env=None) -> OnPolicyALITA:
    torch.manual_seed(0)
    return OnPolicyALITA(game() if env is None else env, settings)


def test_the_intrinsic_reward_is_the_weighted_sum_of_scaled_bonuses():
    algorithm = made(EVERYTHING)
    paid, _ = algorithm._paid(rollout(algorithm, game()))
    weights = {
        "visit_bonus": 0.5,
        "team_visit_bonus": 0.3,
        "transition_influence": 1.0,
        "social_influence": 0.4,
        "rnd_bonus": 0.6,
        "novelty": 0.7,
        "diversity_penalty": 0.1,
    }
    scales = dict(zip(algorithm.scale.in_keys, algorithm.scale.scale, strict=True))
    total = sum(
        weight * paid["next", "agents", name] / scales["next", "agents", name]
        for name, weight in weights.items()
    )
    torch.testing.assert_close(paid["next", "agents", "intrinsic_reward"], total)


def test_a_run_that_was_saved_goes_on_as_the_one_that_was_not():
    first, second = made(EVERYTHING), made(EVERYTHING)
    first.update({"rollout": rollout(first, game())})
    second.load_state_dict(first.state_dict())
    for algorithm in (first, second):
        batch = rollout(algorithm, game(5), seed=2)
        torch.manual_seed(3)
        algorithm.update({"rollout": batch})
    for own, other in zip(first.actor.parameters(), second.actor.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=0)
    for name, bonus in first.bonuses.items():
        for key, value in bonus.state_dict().items():
            torch.testing.assert_close(
                second.bonuses[name].state_dict()[key], value, rtol=0, atol=0
            )
    for name, module in first.modules.items():
        for key, value in module.state_dict().items():
            other = second.modules[name].state_dict()[key]
            torch.testing.assert_close(other, value, rtol=0, atol=0)
    assert float(first.exploration.eps) == float(second.exploration.eps) < 0.5


def test_the_callers_rollout_stays_as_it_is():
    algorithm = made(EVERYTHING)
    batch = rollout(algorithm, game())
    before = batch.clone()
    algorithm.update({"rollout": batch})
    assert set(batch.keys(True, True)) == set(before.keys(True, True))
    assert (batch == before).all()


def test_bursts_end_after_their_frames_and_then_nobody_explores():
    algorithm = made(replace(SMALL, exploration_frames=120))
    env = game()
    assert rollout(algorithm, env)["agents", "exploring"].any()
    for _ in range(2):
        algorithm.update({"rollout": rollout(algorithm, env)})
    assert float(algorithm.exploration.eps) == 0
    assert not rollout(algorithm, env)["agents", "exploring"].any()


def test_without_coefficients_it_is_mappo_alone():
    settings = replace(NOTHING, exploration_start=0.0)
    algorithm = made(settings, TargetEnv(discrete=True))
    assert settings.bonuses == ()
    assert algorithm.exploration is None
    logs = algorithm.update({"rollout": rollout(algorithm, TargetEnv(discrete=True))})
    assert not [key for key in logs.keys() if key.startswith("bonus")]  # noqa: SIM118


@pytest.mark.parametrize("name", OnPolicyALITA.presets)
@pytest.mark.parametrize("game", [PushBox, SecretRoom])
def test_every_preset_learns_from_both_games(name, game):
    settings = replace(OnPolicyALITA.presets[name], num_cells=(8,), minibatch_size=30)
    env = game(6, seed=0, reward=1.0)
    algorithm = made(settings, env)
    logs = algorithm.update({"rollout": rollout(algorithm, env)})
    assert all(value.isfinite() for value in logs.values())


@pytest.mark.parametrize("num_agents", [3, 4])
@pytest.mark.parametrize("game", [PushBox, SecretRoom])
def test_larger_teams_are_paid_from_hashed_tables(game, num_agents):
    env = game(6, num_agents=num_agents, seed=0, reward=1.0)
    algorithm = made(replace(SMALL, slots=2**16, team_visit_coeff=1.0), env)
    logs = algorithm.update({"rollout": rollout(algorithm, env)})
    assert 0 < float(logs["bonus_team_visit_bonus"]) <= 1


def test_what_bonuses_are_paid_moves_the_policies():
    """With the same rollout, paid and unpaid visits give other policies."""
    batch = rollout(made(SMALL), game())
    weights = []
    for coeff in (0.0, 0.5):
        algorithm = made(replace(SMALL, visit_coeff=coeff))
        torch.manual_seed(3)
        algorithm.update({"rollout": batch})
        weights.append(torch.cat([p.detach().flatten() for p in algorithm.actor.parameters()]))
    assert float((weights[0] - weights[1]).abs().max()) > 1e-4


def test_edti_weighs_influence_by_what_the_others_can_still_earn(monkeypatch):
    """Where the other's part makes an outcome four times as probable."""
    algorithm = made(replace(NOTHING, transition_coeff=1.0, transition_values=True, gamma=0.9))
    batch = rollout(algorithm, game())
    counts = algorithm.bonuses["transition_influence"].counts
    alone, together = torch.full((6, 10, 2, 2), 0.25), torch.ones(6, 10, 2, 2)
    monkeypatch.setattr(counts, "forward", lambda codes: (alone, together))
    with torch.no_grad():
        value = algorithm.critic(batch["next"].clone())["agents", "state_value"][..., :1]
    paid, _ = algorithm._paid(batch)
    # Of two agents the other's value.
    expected = 0.9 * 0.75 * value.flip(-2)
    torch.testing.assert_close(paid["next", "agents", "transition_influence"], expected)


@pytest.mark.parametrize("rnd_input", ["team", "own"])
def test_rnd_is_paid_less_for_what_was_often_seen(rnd_input):
    algorithm = made(replace(NOTHING, rnd_coeff=1.0, rnd_input=rnd_input, model_lr=3e-3))
    batch = rollout(algorithm, game())
    paid = [float(algorithm.update({"rollout": batch})["bonus_rnd_bonus"]) for _ in range(40)]
    assert paid[-1] < 0.5 * paid[0]
    by_agent = algorithm._paid(batch)[0]["next", "agents", "rnd_bonus"]
    assert bool((by_agent[..., :1, :] == by_agent[..., 1:, :]).all()) == (rnd_input == "team")


def test_the_model_of_others_learns_what_they_do():
    algorithm = made(replace(NOTHING, social_coeff=1.0, model_lr=1e-2, exploration_start=0.0))
    batch = rollout(algorithm, game())
    # Everybody repeats one action.
    batch["agents", "action"] = torch.zeros_like(batch["agents", "action"])
    batch["agents", "action"][..., 3] = 1
    losses = [algorithm.update({"rollout": batch})["loss_model_of_others"] for _ in range(40)]
    assert float(losses[-1]) < 0.1 * float(losses[0])


def test_the_influence_adds_to_the_influencers_advantage_in_units_of_the_reward():
    algorithm = made(replace(NOTHING, influence_coeff=0.5, influencer=1, reward_weight=7.0))
    batch = rollout(algorithm, game())
    advantages, _ = algorithm.advantages(batch)
    added = algorithm._mixed(batch, advantages) - 7.0 * advantages.sum(-1, keepdim=True)
    expected = 7.0 * algorithm.influence.advantage(batch)["advantage"]
    torch.testing.assert_close(added, expected, rtol=1e-4, atol=1e-5)
    assert float(expected[..., 1, :].abs().max()) > 0
    assert float(expected[..., 0, :].abs().max()) == 0


def test_the_action_values_of_the_influence_learn_the_return():
    algorithm = made(
        replace(NOTHING, influence_coeff=0.1, critic_lr=1e-2, gamma=0.0, exploration_start=0.0)
    )
    batch = rollout(algorithm, game())
    batch["next", "agents", "reward"] = torch.full_like(batch["next", "agents", "reward"], 2.0)
    for _ in range(60):
        logs = algorithm.update({"rollout": batch})
    assert float(logs["loss_qvalue"]) < 0.05


def test_the_action_values_of_the_influence_are_those_of_policies_that_draw_their_actions():
    # Both are paid the number of second actions, which each takes with a probability of 0.6.
    env = MatrixGame([[0.0, 1.0, 1.0, 2.0]] * 2, num_envs=64, seed=0)
    settings = replace(NOTHING, influence_coeff=0.1, gamma=0.5, critic_lr=1e-2, tau=0.2)
    torch.manual_seed(0)
    algorithm = OnPolicyALITA(env, replace(settings, minibatch_size=256, exploration_start=0.0))
    with torch.no_grad():
        for param in algorithm.actor.parameters():
            param.zero_()
        shift = list(algorithm.actor.parameters())[-1]
        shift.copy_(torch.tensor([0.0, 1.5]).log1p().expand_as(shift))
    batch = rollout(algorithm, env, 4)
    policies = algorithm.actor.get_dist(batch).probs[0, 0].detach()
    algorithm._shown = {"gap": torch.zeros(1), "influence": torch.zeros(())}
    for _ in range(250):
        algorithm._train_action_values(batch)
    paid = batch["next", "agents", "reward"][..., 0, 0]
    found = algorithm.action_values.critic_losses(batch.reshape(-1))["pred_value"]
    # The value of a state is twice the mean reward.
    expected = paid.mean() + 0.5 * 2 * policies[:, 1].sum()
    torch.testing.assert_close(found.mean(), expected, atol=0.1, rtol=0)


def test_social_influence_is_for_one_hot_actions():
    settings = replace(NOTHING, social_coeff=1.0, exploration_start=0.0)
    with pytest.raises(ValueError, match="social_coeff is for one-hot actions"):
        made(settings, TargetEnv(discrete=False))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"influence_coeff": -1.0}, "influence_coeff must be finite and at least 0, got -1.0."),
        ({"model_lr": 0.0}, "model_lr must be positive, got 0.0."),
        ({"tau": 1.5}, "tau must be in (0, 1], got 1.5."),
        ({"visit_coeff": -0.5}, "visit_coeff must be finite and at least 0, got -0.5."),
        ({"autoencoder_lr": 0.0}, "autoencoder_lr must be positive, got 0.0."),
        ({"slots": 0}, "slots must be at least 1, got 0."),
        ({"bonuses": (("novelty", 1.0),)}, "The bonuses of OnPolicyALITA are its own: set"),
    ],
)
def test_bad_settings_are_refused_in_one_sentence(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        replace(SMALL, **change)


def test_an_environment_that_does_not_say_what_is_counted_is_refused():
    with pytest.raises(ValueError, match=re.escape("TargetEnv does not say what is counted in it")):
        made(SMALL, TargetEnv(discrete=True))


@pytest.mark.parametrize("values", [False, True])
def test_what_cannot_be_counted_is_paid_by_a_model_that_learns_it_first(values):
    """EITI and EDTI of recurrent policies; the environment has no codes."""
    settings = replace(
        NOTHING,
        recurrent=True,
        share_params=True,
        transition_coeff=1.0,
        transition_estimator="model",
        transition_features=(-1, 0),
        transition_values=values,
    )
    algorithm = made(settings, TargetEnv(discrete=True))
    env = TransformedEnv(TargetEnv(discrete=True), recurrent_transforms(algorithm.actor))
    model = algorithm.learned["transition_model"].transform.counts
    assert model.untrained
    logs = algorithm.update({"rollout": rollout(algorithm, env)})
    assert not model.untrained
    assert float(logs["bonus_transition_influence"]) != 0
    assert logs["loss_transition_model"].isfinite()


def test_the_influence_of_policies_with_a_memory_is_of_what_they_would_do_with_it():
    """Another memory at a rollout's beginning, other policies, another influence."""
    settings = replace(
        NOTHING, recurrent=True, share_params=True, influence_coeff=0.5, minibatch_size=10
    )
    algorithm = made(settings, TargetEnv(discrete=True))
    env = TransformedEnv(TargetEnv(discrete=True), recurrent_transforms(algorithm.actor))
    batch = rollout(algorithm, env)
    batch["is_init"][:] = False
    other = batch.clone()
    other["agents", "recurrent_state"][:, 0] += 1.0
    found, moved = (algorithm.influence.advantage(b)["advantage"] for b in (batch, other))
    assert found.shape == (*batch.shape, 3, 1)
    assert not torch.equal(found[..., 0, :], moved[..., 0, :])
    assert not found[..., 1:, :].any()
    before = algorithm.action_values.qvalue_network_params.flatten_keys().clone()
    logs = algorithm.update({"rollout": batch})
    assert all(value.isfinite().all() for value in logs.values())
    after = algorithm.action_values.qvalue_network_params.flatten_keys()
    assert any((before[key] != value).any() for key, value in after.items())


def test_features_of_what_is_counted_are_refused():
    message = "transition_features needs transition_estimator='model', got (0,)."
    with pytest.raises(ValueError, match=re.escape(message)):
        OnPolicyALITASettings(transition_features=(0,))
