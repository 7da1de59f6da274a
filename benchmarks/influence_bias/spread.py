"""Cooperative navigation with N=6, where the truth is a Monte Carlo one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.envs import EnvBase

from benchmarks.influence_bias.learner import Learner, critic_of
from benchmarks.influence_bias.settings import INFLUENCER, ON_SPREAD, SpreadSettings
from torchrl_alita import make_env
from torchrl_alita.layout import ACTION, DONE, OBSERVATION, REWARD, TERMINATED
from torchrl_alita.objectives.joint_actions import uniform_joint_actions


def restart(env: EnvBase, observation: torch.Tensor) -> TensorDict:
    """Put cooperative navigation into the states that were observed, ``[B, N, 4N + 2]``.

    An agent observes its position, its velocity and its offsets to the landmarks: all there is to
    a state. Landmarks are where agent 0 sees them, up to the rounding of float32. Step from what is
    returned.
    """
    num_agents = observation.shape[-2]
    step = env.reset()
    offsets = observation[:, 0, 4 : 4 + 2 * num_agents].unflatten(-1, (num_agents, 2))
    for i, agent in enumerate(env.base_env.world.agents):
        agent.set_pos(observation[:, i, :2], batch_index=None)
        agent.set_vel(observation[:, i, 2:4], batch_index=None)
    for i, landmark in enumerate(env.base_env.world.landmarks):
        landmark.set_pos(observation[:, 0, :2] + offsets[:, i], batch_index=None)
    return step.set(OBSERVATION, observation)


@torch.no_grad()
def monte_carlo_values(
    env: EnvBase,
    observation: torch.Tensor,
    first_action: torch.Tensor,
    *,
    policy: Callable[[TensorDictBase], TensorDictBase],
    gamma: float,
    steps: int,
) -> torch.Tensor:
    """Discounted sum of rewards, ``[B, N, O], [B, N, A] -> [B, N, 1]``.

    The first joint action is given, the policies make all later ones. With deterministic
    policies and dynamics one episode for each state is the value, up to ``gamma ** steps`` of
    what comes after.
    """
    step = restart(env, observation).set(ACTION, first_action)
    total, weight = 0.0, 1.0
    for _ in range(steps):
        step = env.step(step)["next"]
        total = total + weight * step[REWARD]
        weight *= gamma
        step = policy(step.select(OBSERVATION, DONE, TERMINATED, "truncated", "step_count"))
    return total


@torch.no_grad()
def compare_on_spread(learner: Learner, truth_env: EnvBase) -> dict:
    """Truth and estimates at this moment, on states of the replay buffer.

    The optimum, at the current state, is the best of the policies' joint action, of the
    stored one and of uniform ones: of the same candidates on both sides. Of all joint
    actions the true optimum is higher, which nobody knows here.
    """
    settings, actor = learner.settings, learner.algorithm.actor
    batch = learner.compared.sample()
    states = batch.select(OBSERVATION)
    action = actor(states.copy())[ACTION]
    spec = learner.algorithm.action_spec.space
    drawn = uniform_joint_actions(
        settings.num_optimum_samples, action, low=spec.low, high=spec.high
    )
    candidates = torch.cat([action.unsqueeze(0), batch[ACTION].unsqueeze(0), drawn])
    options = {"policy": actor, "gamma": settings.gamma, "steps": settings.truth_steps}
    observed = states[OBSERVATION]
    true = torch.stack(
        [monte_carlo_values(truth_env, observed, one, **options) for one in candidates]
    )
    expanded = states.expand(len(candidates), *states.batch_size)
    known = critic_of(learner.algorithm.maddpg)(expanded, candidates)
    return {
        "episodes": learner.episodes * settings.num_envs,
        "estimators": {
            name: spread_errors(critic_of(learner.source(e))(states, action), true, known)
            for name, e in learner.estimators.items()
        },
    }


def spread_errors(value: torch.Tensor, true: torch.Tensor, known: torch.Tensor) -> dict:
    """An estimate beside the truth, ``[B, N, 1], [M, B, N, 1], [M, B, N, 1]``.

    Args:
        value: the estimated values at the policies' joint action.
        true: Monte Carlo values of the candidates; the first is the policies' action.
        known: the critics' values of the same candidates.

    Returns:
        ``estimate`` and ``truth``: F with the critics' optimum and with the true one, and their
        ``relative_error``. ``value_relative_bias`` and ``value_relative_std`` are of the values
        alone, in units of the mean true value.
    """
    team = [i for i in range(value.shape[1]) if i != INFLUENCER]
    value, true, known = (each[..., team, :].double() for each in (value, true, known))

    def mean_square_gap(value: torch.Tensor, optimum: torch.Tensor) -> float:
        return float((value - optimum).square().mean())

    size = float(true[0].mean().abs())
    estimate = mean_square_gap(value, known.amax(0))
    truth = mean_square_gap(true[0], true.amax(0))
    return {
        "estimate": estimate,
        "truth": truth,
        "relative_error": estimate / truth - 1,
        "value_relative_bias": float((value - true[0]).mean()) / size,
        "value_relative_std": float((value - true[0]).std()) / size,
    }


def spread_env(seed: int, settings: SpreadSettings, **options: int) -> EnvBase:
    return make_env("vmas/spread", n_agents=settings.num_agents, seed=seed, **options)


def spread_learner(seed: int, settings: SpreadSettings) -> Learner:
    torch.manual_seed(seed)
    env = spread_env(seed, settings, num_envs=settings.num_envs, horizon=settings.horizon)
    return Learner(env, settings, ON_SPREAD)


def spread_truth(seed: int, settings: SpreadSettings) -> EnvBase:
    """The environments in which the truth is played."""
    horizon = settings.truth_steps + 1
    return spread_env(seed, settings, num_envs=settings.compared, horizon=horizon)
