"""An agent that has ended for good earns nothing more: no value is carried over from beyond."""

from __future__ import annotations

import pytest
import torch

from torchrl_alita import functional
from torchrl_alita.algorithms import (
    ALITA,
    COMA,
    DDPG,
    DQN,
    IQL,
    LIIR,
    MADDPG,
    MAPPO,
    QMIX,
    ALITASettings,
    DDPGSettings,
    DQNSettings,
    IQLSettings,
    MADDPGSettings,
    MAPPOSettings,
    QMIXSettings,
)
from torchrl_alita.envs import PushBox, make_env, pettingzoo_task
from torchrl_alita.layout import AGENT_TERMINATED, REWARD, next_key, terminated_key_of

np = pytest.importorskip("numpy")
spaces = pytest.importorskip("gymnasium.spaces")
pytest.importorskip("pettingzoo")

B, T = 7, 3
SMALL = {"num_cells": (5,)}


class Leaving:
    """Agent 0 leaves for good at the first step, agent 1 by its own time limit; agent 2 stays.

    Each is paid k + 1 at every step.
    """

    possible_agents = ("first", "limited", "last")

    def observation_space(self, agent):
        return spaces.Box(-1, 1, (2,))

    def action_space(self, agent):
        return spaces.Discrete(3)

    def _seen(self):
        return {agent: np.ones(2, np.float32) for agent in self.agents}

    def reset(self, seed=None):
        self.agents = list(self.possible_agents)
        return self._seen(), {}

    def step(self, actions):
        paid = {a: self.possible_agents.index(a) + 1.0 for a in self.agents}
        terminated = {a: a == "first" for a in self.agents}
        truncated = {a: a == "limited" for a in self.agents}
        result = {a: np.ones(2, np.float32) for a in self.agents}
        self.agents = ["last"]
        return result, paid, terminated, truncated, {}

    def close(self):
        """Nothing is open."""


def game():
    return make_env(pettingzoo_task(Leaving), num_envs=B, seed=0, horizon=T)


def target_of(monkeypatch, algorithm, batch) -> torch.Tensor:
    """What the critics are drawn to, ``[B T, N]``, where every next value is 10."""
    kept = {}
    real = functional.td_target

    def spy(reward, terminated, value, gamma):
        kept["target"] = real(reward, terminated, torch.full_like(value, 10.0), gamma)
        return kept["target"]

    monkeypatch.setattr(functional, "td_target", spy)
    algorithm.update(dict.fromkeys(algorithm.replays(), batch))
    return kept["target"].squeeze(-1)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (MADDPG, MADDPGSettings(gamma=0.5, **SMALL)),
        (DDPG, DDPGSettings(gamma=0.5, **SMALL)),
        (ALITA, ALITASettings(gamma=0.5, novelty_coeff=0, diversity_coeff=0, **SMALL)),
        (IQL, IQLSettings(gamma=0.5, recurrent=False, **SMALL)),
    ],
)
def test_who_ended_is_worth_its_last_reward_and_who_was_stopped_more(monkeypatch, kind, settings):
    env = game()
    assert terminated_key_of(env) == AGENT_TERMINATED
    batch = env.rollout(T)
    assert batch.shape == (B, T)
    algorithm = kind(env, settings)
    assert next_key(AGENT_TERMINATED) in algorithm.in_keys
    target = target_of(monkeypatch, algorithm, batch.reshape(-1)).view(B, T, 3)
    # The first agent ends: 1, and then nothing. The second is cut off by a limit, and goes on in
    # value; the episode of the third is cut off too, at its end.
    assert target[0].tolist() == [[1, 7, 8], [0, 5, 8], [0, 5, 8]]


def test_dqn_reads_each_agents_own_end():
    env = game()
    batch = env.rollout(T).reshape(-1)
    algorithm = DQN(env, DQNSettings(**SMALL))
    rows = algorithm._for_each_agent(batch)
    assert torch.equal(rows[next_key(AGENT_TERMINATED)], batch[next_key(AGENT_TERMINATED)])
    assert rows["next", "agents", "done"].view(B, T, 3)[0].tolist() == [
        [True, False, False],
        [True, False, False],
        [True, True, True],
    ]
    assert algorithm.update({"batch": batch})["loss_qvalue"].isfinite()


@pytest.mark.parametrize("kind", [COMA, LIIR])
def test_who_ended_is_worth_nothing_to_counterfactual_critics(monkeypatch, kind):
    env = game()
    batch = env.rollout(T)
    kept, real = [], functional.lambda_return

    def spy(reward, terminated, done, value, gamma, lmbda):
        kept.append(real(reward, terminated, done, torch.full_like(value, 10.0), gamma, 0.0))
        return kept[-1]

    monkeypatch.setattr(functional, "lambda_return", spy)
    algorithm = kind(env, kind.Settings(gamma=0.5, recurrent=False, **SMALL))
    algorithm.update({"rollout": batch})
    # The intrinsic rewards of LIIR are added with a weight of 0.01.
    for target in kept[:2]:
        last = target.detach()[0, -1, :, 0]
        torch.testing.assert_close(last, torch.tensor([0.0, 5.0, 8.0]), atol=0.02, rtol=0)


@pytest.mark.parametrize("kind", [COMA, LIIR])
def test_the_dead_do_not_move_their_policy(kind):
    env = PushBox(4, seed=0, reward=1.0)
    settings = kind.Settings(recurrent=False, share_params=False, entropy_coeff=0.1, **SMALL)
    algorithm = kind(env, settings)
    batch = env.rollout(T, algorithm.actor)
    batch["agents", "alive"] = torch.tensor([True, False]).view(2, 1).expand(4, T, 2, 1)
    before = algorithm.actor.get_dist(batch).logits.detach().clone()
    algorithm.update({"rollout": batch})
    change = (algorithm.actor.get_dist(batch).logits - before).detach().abs().amax((0, 1, 3))
    assert change[0] > 1e-5
    assert change[1] == 0


def test_a_team_of_one_value_goes_on_when_one_of_it_ends(monkeypatch):
    env = game()
    batch = env.rollout(T).reshape(-1)
    algorithm = QMIX(env, QMIXSettings(gamma=0.5, recurrent=False, **SMALL))
    assert next_key(AGENT_TERMINATED) not in algorithm.in_keys
    target = target_of(monkeypatch, algorithm, batch).view(B, T)
    # The mean reward, 2 while all are there, and 1 of the last alone.
    assert target[0].tolist() == [7, 6, 6]
    assert batch[next_key(REWARD)].view(B, T, 3)[0].sum(-1).tolist() == [6, 3, 3]


def test_mappos_advantages_end_with_an_agents_own_end():
    env = game()
    algorithm = MAPPO(env, MAPPOSettings(value_norm=False, gae_lambda=0.0, gamma=0.5, **SMALL))
    with torch.no_grad():
        for param in algorithm.critic.parameters():
            param.zero_()
        # The last layer's shift is every value.
        list(algorithm.critic.parameters())[-1].fill_(10.0)
    batch = env.rollout(T, algorithm.actor)
    advantages, _ = algorithm.advantages(batch)
    values = algorithm.critic(batch.select(*algorithm.critic.in_keys))["agents", "state_value"]
    assert (values == 10).all()
    assert advantages[0, ..., 0].tolist() == [[-9, -3, -2], [0, 0, -2], [0, 0, -2]]
    # With lambda 1 those of later steps are added, of agents that are still there.
    algorithm._heads["lambdas"].fill_(1.0)
    advantages, _ = algorithm.advantages(batch)
    assert advantages[0, ..., 0].tolist() == [[-9, -3, -3.5], [0, 0, -3], [0, 0, -2]]
