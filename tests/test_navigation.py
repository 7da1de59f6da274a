"""Cooperative navigation's ceiling: a script earns it."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

from torchrl_alita.envs import get_task, make_env

EVALUATION_SEED = 1_000_003


def script_return(*, avoid: float) -> float:
    """Of 100 episodes: landmarks shared out at the first step, then a damped spring to them.

    Below a distance of 0.33 a teammate pushes away with this force.
    """
    env = make_env("vmas/spread", num_envs=100, seed=EVALUATION_SEED)
    env.set_seed(EVALUATION_SEED)
    state, total, goal = env.reset(), torch.zeros(100, 1), None
    orders = torch.tensor(list(permutations(range(3))))
    for _ in range(100):
        _, velocity, landmarks, others = state["agents", "observation"].split([2, 2, 6, 4], -1)
        landmarks, others = landmarks.unflatten(-1, (3, 2)), others.unflatten(-1, (2, 2))
        if goal is None:
            lengths = landmarks.norm(dim=-1)
            sums = [lengths[:, range(3), order].sum(-1) for order in orders]
            goal = orders[torch.stack(sums, -1).argmin(-1)]
        offset = landmarks.gather(2, goal[..., None, None].expand(-1, -1, 1, 2)).squeeze(2)
        distance = others.norm(dim=-1, keepdim=True)
        away = -(others / distance * (distance < 0.33)).sum(-2)
        force = (10 * offset - 2 * velocity).clamp(-1, 1) + avoid * away
        state["agents", "action"] = force.clamp(-1, 1)
        state = env.step(state)["next"]
        total += state["agents", "reward"].mean(1)
    return total.mean().item()


def test_the_ceiling_of_cooperative_navigation_is_what_a_script_earns():
    assert script_return(avoid=2.0) == pytest.approx(get_task("vmas/spread").ceiling, abs=0.5)


def test_a_script_that_touches_its_teammates_earns_less():
    assert script_return(avoid=0.0) == pytest.approx(-111.4, abs=0.5)
