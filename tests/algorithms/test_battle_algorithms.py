"""COMA, LICA, LIIR and MAVEN learn games to their optimum, and go on from a state exactly."""

from __future__ import annotations

import pytest
import torch
from fakes import TargetEnv
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictSequential
from torchrl.envs import EnvBase, ExplorationType, set_exploration_type
from torchrl.modules import EGreedyModule

from torchrl_alita.algorithms import (
    COMA,
    LICA,
    LIIR,
    MAVEN,
    COMASettings,
    Learner,
    LICASettings,
    LIIRSettings,
    MAVENSettings,
)
from torchrl_alita.envs import MarkovGame, MatrixGame, make_env

ROLLOUT = {"recurrent": False, "num_cells": (32,), "actor_lr": 5e-3, "critic_lr": 1e-2}
SMALL = {"hidden_size": 16, "num_latents": 2, "discriminator_size": 16, "optimizer": "adam",
         "critic_lr": 5e-3, "target_update_interval": 10,
         "mutual_information_coeff": 0.01}  # fmt: skip
LEARNERS = {
    "coma": (COMA, COMASettings(entropy_coeff=0.5, **ROLLOUT)),
    "lica": (LICA, LICASettings(entropy_coeff=1.0, **ROLLOUT)),
    "liir": (LIIR, LIIRSettings(entropy_coeff=0.3, **ROLLOUT)),
    "maven": (MAVEN, MAVENSettings(**SMALL)),
    "hierarchical": (MAVEN, MAVENSettings(latent_policy="hierarchical", **SMALL)),
}


class Ends(MarkovGame):
    """A game whose last step is its end: nothing is earned after it."""

    def _entries(self, truncated: torch.Tensor, **agents: torch.Tensor) -> TensorDict:
        entries = super()._entries(truncated, **agents)
        names = {"terminated": truncated.clone(), "truncated": torch.zeros_like(truncated)}
        return entries.update(names)


def matrix_game(num_envs: int) -> EnvBase:
    """Both must choose alike; of the three ways to, one pays best."""
    payoff = torch.diag(torch.tensor([2.0, 4.0, 8.0])).expand(1, -1, -1)
    game = MatrixGame(payoff.reshape(1, 9).expand(2, -1))
    return Ends(game.transition, game.reward, 0.0, num_envs=num_envs, horizon=1, seed=0)


def two_step_game(num_envs: int) -> EnvBase:
    """The first agent chooses a state that pays 7, or one that pays 8 to two who both dare.

    Source: https://arxiv.org/abs/1803.11485, Sec. 6.1.
    """
    transition = torch.zeros(3, 4, 3)
    transition[0, :2, 1] = transition[0, 2:, 2] = 1
    transition[1:, :, 0] = 1
    reward = torch.zeros(3, 4)
    reward[1], reward[2] = 7, torch.tensor([0.0, 1.0, 1.0, 8.0])
    return Ends(
        transition, reward.expand(2, 3, 4), 0.9, num_envs=num_envs, horizon=2,
        initial=[1.0, 0.0, 0.0], seed=0,
    )  # fmt: skip


GAMES = {"matrix": (matrix_game, 1), "two_step": (two_step_game, 2)}


def with_memory(env: EnvBase, algorithm: Learner) -> EnvBase:
    for transform in algorithm.env_transforms():
        env = env.append_transform(transform)
    return env


def acting(env: EnvBase, algorithm: Learner) -> TensorDictSequential | torch.nn.Module:
    """The policies as they explore."""
    if algorithm.stochastic:
        return algorithm.actor
    noise = EGreedyModule(
        env.full_action_spec["agents", "action"], eps_init=0.5, eps_end=0.5,
        annealing_num_steps=1, action_key=("agents", "action"),
    )  # fmt: skip
    return TensorDictSequential(algorithm.actor, noise)


@torch.no_grad()
def collect(env: EnvBase, policy, steps: int) -> TensorDictBase:
    with set_exploration_type(ExplorationType.RANDOM):
        return env.rollout(steps, policy, break_when_any_done=False)


def learn(algorithm: Learner, batch: TensorDictBase) -> TensorDict:
    algorithm.observe(batch)
    return algorithm.update({"rollout" if algorithm.on_policy else "batch": batch})


@torch.no_grad()
def greedy_return(env: EnvBase, algorithm: Learner, steps: int) -> float:
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        episodes = env.rollout(steps, algorithm.actor)
    return float(episodes["next", "agents", "reward"].mean(-2).sum(1).min())


@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("name", sorted(LEARNERS.keys() - {"hierarchical"}))
def test_it_learns_a_game_to_its_optimum(name, game):
    kind, settings = LEARNERS[name]
    make, steps = GAMES[game]
    torch.manual_seed(0)
    env = make(64)
    algorithm = kind(env, settings)
    env, evaluation = with_memory(env, algorithm), with_memory(make(16), algorithm)
    policy = acting(env, algorithm)
    best = 0
    # The optimum must stay, whatever the latent variable is.
    for update in range(200):
        learn(algorithm, collect(env, policy, steps))
        if update % 10 == 9:
            best = best + 1 if greedy_return(evaluation, algorithm, steps) == 8 else 0
        if best == 3:
            break
    assert best == 3


def small(name: str) -> tuple[EnvBase, Learner]:
    torch.manual_seed(0)
    # The second rollout ends the first episode.
    env = make_env("push_box", num_envs=5, n_agents=2, horizon=8, seed=0)
    kind, given = LEARNERS[name]
    options = {"hidden_size": 5, "num_cells": (5,)}
    if kind is MAVEN:
        options |= {"num_latents": 3, "discriminator_size": 5, "target_update_interval": 2}
        options |= {"latent_policy": given.latent_policy, "latent_batch_size": 3}
    algorithm = kind(env, kind.Settings(**options))
    return with_memory(env, algorithm), algorithm


def continued(env: EnvBase, policy, count: int) -> list[TensorDictBase]:
    """Rollouts of six steps, each where the last one ended."""
    return list(collect(env, policy, 6 * count).split(6, 1))


def state_of(algorithm: Learner) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": value.clone()
        for name, module in algorithm.modules.items()
        for key, value in module.state_dict().items()
        if isinstance(value, torch.Tensor)
    }


@pytest.mark.parametrize("name", LEARNERS)
def test_from_a_state_it_goes_on_bit_for_bit(name):
    env, first = small(name)
    batches = continued(env, acting(env, first), 4)
    for batch in batches[:2]:
        learn(first, batch)
    _, second = small(name)
    second.load_state_dict(first.state_dict())
    for algorithm in (first, second):
        torch.manual_seed(7)
        for batch in batches[2:]:
            learn(algorithm, batch)
    expected, found = state_of(first), state_of(second)
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=0, equal_nan=True, msg=key)
    assert first.updates == second.updates == 4


@pytest.mark.parametrize("name", LEARNERS)
def test_every_network_moves_and_every_number_is_finite(name):
    env, algorithm = small(name)
    before = state_of(algorithm)
    for batch in continued(env, acting(env, algorithm), 2):
        logs = learn(algorithm, batch)
    assert all(bool(value.isfinite().all()) for value in logs.values())
    moved = {
        key.split(".")[1]
        for key, value in state_of(algorithm).items()
        if bool((value != before[key]).any())
    }
    parts = {key.split(".")[1] for key in before if "params" in key}
    assert parts == {part for part in moved if "params" in part}
    assert all(key in algorithm.in_keys for key in algorithm.actor.in_keys)


@pytest.mark.parametrize("name", ["coma", "lica", "liir"])
def test_critics_take_more_steps_than_policies(name):
    env, algorithm = small(name)
    critic = next(iter(algorithm.optimizers["critic"].state_dict()["state"].values()), None)
    assert critic is None
    algorithm.update({"rollout": collect(env, algorithm.actor, 6)})
    steps = {
        part: {int(state["step"]) for state in optimizer.state_dict()["state"].values()}
        for part, optimizer in algorithm.optimizers.items()
    }
    expected = {"actor": {1}, "critic": {8}} | ({"intrinsic": {1}} if name == "liir" else {})
    assert steps == expected


@pytest.mark.parametrize("name", LEARNERS)
def test_health_is_read_from_the_policies(name):
    env, algorithm = small(name)
    health = algorithm.health(collect(env, algorithm.actor, 3))
    assert set(health) == (set() if LEARNERS[name][0] is MAVEN else {"saturated_share"})


def signals(num_envs: int = 2) -> EnvBase:
    """Two states, each the first one of half of the episodes; each wants its own joint action."""
    transition = torch.eye(2).unsqueeze(1).expand(2, 4, 2)
    reward = torch.tensor([[3.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 3.0]])
    return Ends(
        transition, reward.expand(2, 2, 4), 0.0, num_envs=num_envs, horizon=1, seed=0
    )  # fmt: skip


def hierarchical(env: EnvBase, **options) -> MAVEN:
    torch.manual_seed(0)
    options = {"num_latents": 2, "hidden_size": 5, "discriminator_size": 5, **options}
    return MAVEN(env, MAVENSettings(latent_policy="hierarchical", **options))


def probabilities(algorithm: MAVEN) -> torch.Tensor:
    """p(z | s_0) of both states, ``[2, Z]``."""
    seen = torch.eye(2).unsqueeze(1).expand(2, 2, 2)
    batch = TensorDict({"agents": {"observation": seen}}, [2])
    return algorithm.latent_policy.get_dist(batch).probs


def test_the_latent_policys_gradient_is_that_of_all_its_choices():
    r"""Of E_z A(s, z) + c H, summed over the values, while episodes were drawn uniformly."""
    algorithm = hierarchical(signals(), latent_clip_epsilon=0.9, latent_entropy_coeff=0.3)
    latents = torch.eye(2).repeat(2, 1)
    seen = torch.eye(2).repeat_interleave(2, 0)
    returns = torch.tensor([3.0, 1.0, -2.0, 6.0])
    algorithm.episodes.finished = TensorDict(
        {
            "agents": {"observation": seen.unsqueeze(1).expand(4, 2, 2)},
            "latent": latents,
            "latent_log_prob": torch.full((4,), 0.5).log(),
            "episode_return": returns,
        },
        [4],
    )
    # Each episode once.
    algorithm.episodes.sample = lambda size: algorithm.episodes.finished.clone()
    losses = algorithm.latent_loss(algorithm._latent_batch())
    params = list(algorithm.latent_policy.parameters())
    found = torch.autograd.grad(losses["loss_objective"] + losses["loss_entropy"], params)
    chances = probabilities(algorithm)
    assert not torch.allclose(chances, torch.full((2, 2), 0.5), atol=1e-3)
    # Mean 2 and variance 8.5.
    advantage = ((returns - 2) / 8.5**0.5).view(2, 2)
    entropy = -(chances * chances.log()).sum(-1)
    objective = ((chances * advantage).sum(-1) + 0.3 * entropy).mean()
    expected = torch.autograd.grad(-objective, params)
    for ours, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, exact)


class AsTheLatentSays(torch.nn.Module):
    """Both agents do what the latent variable says."""

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        latent = tensordict["latent"].unsqueeze(-2)
        return tensordict.set(("agents", "action"), latent.expand(*latent.shape[:-2], 2, 2))


def test_the_latent_policy_learns_which_value_wins_from_which_beginning():
    env = signals(32)
    algorithm = hierarchical(env, latent_lr=1e-2)
    env = with_memory(env, algorithm)
    for _ in range(10):
        algorithm.observe(collect(env, AsTheLatentSays(), 1))
        assert algorithm.episodes.new == 32
        logs = algorithm._train_latent_policy()
    best = probabilities(algorithm).detach().diagonal()
    assert bool((best > 0.9).all()), best
    # It does not stop trying.
    assert float(logs["entropy_latent_policy"]) > 1e-3
    # Greedy episodes earn what there is to earn.
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        greedy = env.rollout(1, AsTheLatentSays())
    assert bool((greedy["next", "agents", "reward"] == 3).all())


def test_a_uniform_variable_has_no_policy_and_no_memory_of_episodes():
    _, algorithm = small("maven")
    assert set(algorithm.modules) == set(algorithm.optimizers) == {"qvalue"}
    _, other = small("hierarchical")
    assert set(other.modules) == {"qvalue", "latent_policy", "episodes"}
    assert set(other.optimizers) == {"qvalue", "latent_policy"}


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: COMASettings(lmbda=2), ValueError, "lmbda"),
        (lambda: COMASettings(critic_updates=0), ValueError, "critic_updates"),
        (lambda: COMASettings(tau=2.0), ValueError, "tau"),
        (lambda: COMASettings(entropy_coeff=-1.0), ValueError, "entropy_coeff"),
        (lambda: LICASettings(hypernet_layers=3), ValueError, "hypernet_layers"),
        (lambda: LIIRSettings(intrinsic_bound=0.0), ValueError, "intrinsic_bound"),
        (lambda: LIIRSettings(intrinsic_coeff=-1.0), ValueError, "intrinsic_coeff"),
        (lambda: MAVENSettings(num_latents=0), ValueError, "num_latents"),
        (lambda: MAVENSettings(latent_policy="bandit"), ValueError, "hierarchical"),
        (lambda: MAVENSettings(latent_lr=0.0), ValueError, "latent_lr"),
        (lambda: MAVENSettings(latent_entropy_coeff=-1.0), ValueError, "latent_entropy_coeff"),
        (lambda: MAVENSettings(latent_clip_epsilon=1.0), ValueError, "latent_clip_epsilon"),
        (lambda: MAVENSettings(latent_episodes=0), ValueError, "latent_episodes"),
        (lambda: MAVENSettings(latent_batch_size=0), ValueError, "latent_batch_size"),
        (lambda: MAVENSettings(recurrent=False), ValueError, "memory"),
        (lambda: MAVENSettings(share_params=False), ValueError, "share"),
        (lambda: COMA(TargetEnv()), ValueError, "one-hot"),
        (lambda: COMA(matrix_game(2), LICASettings()), TypeError, "COMASettings"),
        (
            lambda: small("coma")[1].update({"batch": TensorDict()}),
            ValueError,
            "rollout",
        ),
    ],
)
def test_bad_input_has_one_clear_error(call, error, text):
    with pytest.raises(error, match=text):
        call()
