"""ALITA's novelty and penalty as shares of the reward's return."""

from __future__ import annotations

import pytest
import torch

from torchrl_alita.algorithms import ALITA, ALITASettings
from torchrl_alita.envs import make_env

GAMMA, NOVELTY, DIVERSITY = 0.9, 0.2, 0.3


def made(**options) -> tuple[ALITA, torch.Tensor]:
    """An algorithm, and a rollout of 7 environments and 5 steps."""
    torch.manual_seed(0)
    env = make_env("vmas/spread", num_envs=7, n_agents=3, seed=0)
    settings = ALITASettings(
        gamma=GAMMA, novelty_coeff=NOVELTY, diversity_coeff=DIVERSITY, **options
    )
    return ALITA(env, settings), env.rollout(5)


def total_reward(algorithm: ALITA, batch):
    batch = algorithm.diversity(algorithm.novelty(batch))
    scaled = batch if algorithm.scale is None else algorithm.scale(batch)
    return algorithm.total_reward(scaled)["next", "agents"]


def size_of_returns(steps: torch.Tensor, decay: float = 0.999) -> torch.Tensor:
    """Root mean square of the discounted returns of ``[B, T, N, 1]``, step by step."""
    returns, squares, weights = torch.zeros(steps[:, 0].shape), 0.0, 0.0
    for step in steps.unbind(1):
        returns = GAMMA * returns + step
        squares = decay * squares + (1 - decay) * returns.square().mean()
        weights = decay * weights + 1 - decay
    return (squares / weights).sqrt()


def test_a_coefficient_is_a_share_of_the_rewards_return():
    algorithm, rollout = made(bonus_unit="own_return")
    algorithm.observe(rollout)
    found = total_reward(algorithm, rollout)
    reward, novelty, penalty = (found[key] for key in ("reward", "novelty", "diversity_penalty"))
    own = size_of_returns(reward)
    expected = reward + NOVELTY * own * novelty / size_of_returns(novelty)
    expected = expected + DIVERSITY * own * penalty / size_of_returns(penalty)
    torch.testing.assert_close(found["total_reward"], expected)


@pytest.mark.parametrize(("unit", "scale_free"), [("own_return", True), ("reward", False)])
def test_rewards_ten_times_as_large_leave_the_shares_as_they_are(unit, scale_free):
    totals = []
    for factor in (1.0, 10.0):
        algorithm, rollout = made(bonus_unit=unit)
        rollout["next", "agents", "reward"] *= factor
        algorithm.observe(rollout)
        totals.append(total_reward(algorithm, rollout)["total_reward"] / factor)
    assert torch.allclose(*totals, rtol=1e-4) == scale_free


def test_what_was_observed_is_part_of_the_state():
    algorithm, rollout = made(bonus_unit="own_return")
    algorithm.observe(rollout)
    other, _ = made(bonus_unit="own_return")
    other.load_state_dict(algorithm.state_dict())
    torch.testing.assert_close(other.total_reward.coeffs, algorithm.total_reward.coeffs)
    for each in (algorithm, other):
        each.observe(rollout)
    torch.testing.assert_close(other.scale.scale, algorithm.scale.scale, rtol=0, atol=0)


def test_an_update_before_anything_was_observed_is_refused():
    algorithm, rollout = made(bonus_unit="own_return")
    batch = rollout.reshape(-1)
    with pytest.raises(ValueError, match="never updated"):
        algorithm.update({"batch": batch, "recent": batch})
