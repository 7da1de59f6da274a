"""ALITA on-policy: its bonuses reach the policies, and its state is all of it."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from fakes import TargetEnv
from tensordict import TensorDict
from tensordict.nn import TensorDictSequential
from torchrl.envs import ExplorationType, set_exploration_type

from torchrl_alita.algorithms import OnPolicyALITA, OnPolicyALITASettings
from torchrl_alita.envs import PushBox, SecretRoom

SMALL = OnPolicyALITASettings(
    num_cells=(8,), value_num_cells=(8,), minibatch_size=30, exploration_frames=1000
)
EVERYTHING = replace(
    SMALL, team_visit_coeff=0.3, novelty_coeff=0.7, diversity_coeff=0.1, slots=2**16
)


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
    settings = replace(SMALL, visit_coeff=0.0, transition_coeff=0.0, exploration_start=0.0)
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
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
