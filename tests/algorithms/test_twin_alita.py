"""TwinALITA: turns, the shared buffer, who learns from what, both forms' numbers, the choice."""

from __future__ import annotations

import csv
import dataclasses
import math
from itertools import pairwise
from pathlib import Path

import pytest
import resume_runs
import torch
from fakes import (
    TargetEnv,
    by_name,
    changed_training,
    conditional_names,
    constant_actor,
    flat_config,
    linear_critic,
    random_batch,
)
from PIL import Image
from tensordict import TensorDict
from torch import nn
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.envs import ExplorationType, TransformedEnv, check_env_specs, set_exploration_type
from torchrl.objectives import SoftUpdate

from torchrl_alita import (
    AtPolicy,
    BestOf,
    ConditionalSampler,
    DiversityPenalty,
    InfluenceEstimatorLoss,
    InfluenceLoss,
    MADDPGLoss,
    Marginal,
    NoveltyReward,
    TDTarget,
    Team,
    TwinALITA,
    make_actor,
)
from torchrl_alita.envs import TakeTurns, Task
from torchrl_alita.saving import checkpoint_difference, load_policy, read_component
from torchrl_alita.training import Config, train
from torchrl_alita.training.buffers import Buffers
from torchrl_alita.training.loop import Run

ENV = TargetEnv(n_agents=1)
TURNS = Team.in_turns()
SMALL = {"num_cells": (13,)}
PUBLISHED = dataclasses.asdict(TwinALITA.presets["published"])
del PUBLISHED["num_cells"]
FORMS = {
    "clones": {},
    "marginal": {"estimator": "marginal"},
    "no_f": {"influence_coeff": 0},
    "no_im": {"novelty_coeff": 0, "diversity_coeff": 0},
    "published": PUBLISHED,
}


def one_agent(**options) -> TensorDict:
    """The first agent's part of random transitions."""
    batch = random_batch(**options)
    return batch.apply(lambda value: value[..., :1, :] if value.ndim == batch.ndim + 2 else value)


def updated(algorithm: TwinALITA, times: int = 2) -> TensorDict:
    for seed in range(times):
        torch.manual_seed(seed)
        conditional = [one_agent(seed=7 + seed) for _ in conditional_names(algorithm)]
        logs = algorithm.update(by_name(algorithm, one_agent(seed=seed), conditional))
    return logs


def state(algorithm: TwinALITA) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": value.detach().clone()
        for name, module in algorithm.modules.items()
        for key, value in module.state_dict().items()
        if isinstance(value, torch.Tensor)
    }


def policies_grads(algorithm: TwinALITA) -> list[float]:
    """Size of the gradient of each agent's policy."""
    return [
        sum(float(p.grad.abs().sum()) for p in policy.parameters() if p.grad is not None)
        for policy in algorithm.policies
    ]


# Turns


def turns_env(**options) -> TransformedEnv:
    env = TargetEnv(**{"n_agents": 1, "num_envs": 2, "horizon": 3, **options})
    return TransformedEnv(env, TakeTurns(), auto_unwrap=False)


def test_the_turns_alternate_an_episode_each():
    episodes = turns_env().rollout(8, break_when_any_done=False)
    assert episodes["turn"].squeeze(-1).tolist() == [[0, 0, 0, 1, 1, 1, 0, 0]] * 2
    assert episodes["next", "turn"].squeeze(-1).tolist() == [[0, 0, 0, 1, 1, 1, 0, 0]] * 2


def test_each_environment_has_turns_of_its_own():
    env = turns_env()
    first = env.reset()
    first["_reset"] = torch.tensor([[False], [True]])
    second = env.reset(first)
    assert second["turn"].flatten().tolist() == [0, 1]
    assert env.reset()["turn"].flatten().tolist() == [0, 0]


def test_an_environment_with_turns_keeps_torchrls_promises():
    check_env_specs(turns_env())


def test_whose_turn_it_is_goes_with_the_state():
    env, other = turns_env(), TakeTurns()
    env.rollout(4, break_when_any_done=False)
    other.load_state_dict(env.transform.state_dict())
    assert other.turn.flatten().tolist() == [1, 1]


def test_the_agent_whose_turn_it_is_acts():
    algorithm = TwinALITA(ENV, TwinALITA.Settings(**SMALL))
    batch = one_agent()
    batch["turn"] = torch.tensor([[0], [1], [0], [0], [1], [1], [0]])
    with torch.no_grad():
        acted = algorithm.actor(batch.clone())["agents", "action"]
        alone = [policy(batch.clone())["agents", "action"] for policy in algorithm.candidates()]
    assert (alone[0] != alone[1]).all()
    for row, turn in enumerate(batch["turn"].flatten().tolist()):
        assert (acted[row] == alone[turn][row]).all()


@pytest.mark.parametrize("num_agents", [1, 0, 2.5, "2"])
def test_fewer_than_two_agents_take_no_turns(num_agents):
    with pytest.raises(ValueError, match="num_agents"):
        TakeTurns(num_agents)


# The buffers


def filled(algorithm: TwinALITA, steps: int = 8) -> Buffers:
    """Two environments with episodes of three steps: turns 0 0 0 1 1 1 0 0."""
    buffers = Buffers(tiny(Path("unused"), num_envs=2, frames_per_batch=20), algorithm)
    env = algorithm.prepare(TargetEnv(n_agents=1, num_envs=2, horizon=3))
    with torch.no_grad():
        buffers.extend(env.rollout(steps, algorithm.actor, break_when_any_done=False))
    return buffers


def test_both_agents_transitions_go_into_one_buffer():
    buffers = filled(TwinALITA(ENV, TwinALITA.Settings(**SMALL)))
    turns = buffers.replay.storage[:]["turn"].flatten()
    assert turns.tolist() == [0] * 6 + [1] * 6 + [0] * 4


def test_the_autoencoder_is_trained_on_what_the_influencer_did():
    buffers = filled(TwinALITA(ENV, TwinALITA.Settings(**SMALL)))
    stored, recent = buffers.replay.storage[:], buffers.drawn["recent"].storage[:]
    own = stored["turn"].flatten() == 0
    assert len(recent) == 10
    assert (recent["agents", "action"] == stored["agents", "action"][own]).all()


def test_a_batch_of_the_partner_alone_leaves_the_recent_ones_as_they_are():
    algorithm = TwinALITA(ENV, TwinALITA.Settings(**SMALL))
    buffers = filled(algorithm)
    partners = buffers.replay.storage[:][6:12].clone()
    buffers.extend(partners.reshape(2, 3))
    assert len(buffers.drawn["recent"]) == 10
    assert len(buffers.replay) == 22


def test_the_anchors_of_conditional_batches_are_the_influencers():
    """All is far apart, so that each anchor's nearest is itself."""
    storage = LazyTensorStorage(40)
    sampler = ConditionalSampler(num_anchors=5, num_candidates=1, turn="turn")
    buffer = ReplayBuffer(storage=storage, sampler=sampler, batch_size=5)
    place = torch.arange(30.0).view(30, 1, 1)
    agents = TensorDict({"observation": place, "action": torch.zeros(30, 1, 1)}, [30])
    buffer.extend(TensorDict({"agents": agents, "turn": torch.arange(30)[:, None] // 10}, [30]))
    drawn = {int(i) for _ in range(20) for i in buffer.sample()["agents", "observation"].flatten()}
    assert drawn <= set(range(10))
    assert len(drawn) > 5


def test_without_a_turn_of_the_influencer_anchors_are_any():
    storage = LazyTensorStorage(40)
    storage.set(
        torch.arange(6),
        TensorDict(
            {
                "agents": {"observation": torch.randn(6, 1, 2), "action": torch.randn(6, 1, 1)},
                "turn": torch.ones(6, 1, dtype=torch.long),
            },
            [6],
        ),
    )
    sampler = ConditionalSampler(num_anchors=2, num_candidates=2, turn="turn")
    assert len(sampler.sample(storage, 4)[0]) == 4


def test_a_storage_without_turns_is_refused_by_name():
    sampler = ConditionalSampler(turn="whose")
    buffer = ReplayBuffer(storage=LazyTensorStorage(9), sampler=sampler, batch_size=2)
    with pytest.raises(KeyError, match="whose"):
        buffer.extend(one_agent())


# Updates


@pytest.mark.parametrize("form", FORMS)
def test_an_update_moves_every_network_and_logs_finite_scalars(form):
    torch.manual_seed(0)
    algorithm = TwinALITA(ENV, TwinALITA.Settings(**SMALL, **FORMS[form]))
    before = state(algorithm)
    logs = updated(algorithm)
    after = state(algorithm)
    moved = {name.split(".")[0] for name in before if (before[name] != after[name]).any()}
    influence = {"no_f": set(), "clones": {"estimator"}, "no_im": {"estimator"}}
    expected = {"influencer", "partner", "novelty_loss"} | influence.get(form, set())
    # The influence's policy is the influencer's own.
    assert moved - {"influence"} == expected
    for key, value in logs.items(True, True):
        assert value.shape == (), key
        assert torch.isfinite(value), key
        assert not value.requires_grad, key
    assert ("gap" in logs.keys()) == (form != "no_f")  # noqa: SIM118


def test_policies_and_targets_move_with_every_second_update_of_the_critics():
    algorithm = TwinALITA(ENV, TwinALITA.Settings(**SMALL))
    states = [state(algorithm)]
    for _ in range(2):
        updated(algorithm, 1)
        states.append(state(algorithm))
    for agent in ("influencer", "partner"):
        for part, expected in (
            ("actor_network", [False, True]),
            ("target_actor_network", [False, True]),
            ("target_qvalue_network", [False, True]),
            ("qvalue_network", [True, True]),
        ):
            names = [n for n in states[0] if n.startswith(f"{agent}.{part}_params")]
            assert names
            moved = [
                any((one[n] != other[n]).any() for n in names) for one, other in pairwise(states)
            ]
            assert moved == expected, (agent, part)


@pytest.mark.parametrize("estimator", ["clones", "marginal"])
def test_influence_trains_the_influencer_and_neither_partner_nor_critics(estimator):
    algorithm = TwinALITA(ENV, TwinALITA.Settings(estimator=estimator, **SMALL))
    batch = algorithm.add_rewards(one_agent())
    algorithm.influence(batch)["loss_influence"].backward()
    influencer, partner = policies_grads(algorithm)
    assert influencer > 0
    assert partner == 0
    for learner in algorithm.learners:
        assert all(p.grad is None for p in learner.qvalue_network_params.parameters())
    if algorithm.estimator is not None:
        assert all(p.grad is None for p in algorithm.estimator.parameters())
    assert all(p.grad is None for p in algorithm.novelty_loss.parameters())


def test_each_agents_losses_train_that_agent_alone():
    algorithm = TwinALITA(ENV, TwinALITA.Settings(influence_coeff=0, **SMALL))
    losses = algorithm._losses(one_agent(), one_agent(seed=1))
    sum(losses[f"loss_{kind}_partner"] for kind in ("actor", "qvalue")).backward()
    influencer, partner = policies_grads(algorithm)
    assert influencer == 0
    assert partner > 0
    grads = [
        [p.grad for p in learner.qvalue_network_params.parameters()]
        for learner in algorithm.learners
    ]
    assert all(grad is None for grad in grads[0])
    assert all(grad is not None for grad in grads[1])


def test_novelty_rewards_the_influencer_and_the_penalty_is_the_partners():
    algorithm = TwinALITA(
        ENV, TwinALITA.Settings(novelty_coeff=0.5, diversity_coeff=0.25, omega=0.5, **SMALL)
    )
    batch = one_agent()
    agents = algorithm.add_rewards(batch)["next", "agents"]
    inputs = torch.cat([batch["agents", "observation"], batch["agents", "action"]], -1)
    with torch.no_grad():
        psi = (algorithm.autoencoder(inputs) - inputs).square().sum(-1, keepdim=True)
        own = algorithm.policies[1](batch.clone())["agents", "action"]
    away = (own - batch["agents", "action"]).square().sum(-1, keepdim=True)
    reward = batch["next", "agents", "reward"]
    torch.testing.assert_close(agents["influencer_reward"], reward + 0.5 * psi)
    penalty = -torch.exp(-0.5 * psi) * away
    torch.testing.assert_close(agents["partner_reward"], reward + 0.25 * penalty)
    assert (batch == one_agent()).all()


def test_each_learner_reads_its_own_reward():
    algorithm = TwinALITA(ENV, TwinALITA.Settings(**SMALL))
    rewards = [learner.tensor_keys.reward for learner in algorithm.learners]
    assert rewards == [("agents", "influencer_reward"), ("agents", "partner_reward")]
    assert ("next", "agents", "partner_reward") in algorithm.estimator.in_keys


def test_the_clones_are_the_partners_critics_and_set_back_when_an_episode_starts():
    algorithm = TwinALITA(ENV, TwinALITA.Settings(**SMALL))
    updated(algorithm)
    critics = algorithm.learners[1].qvalue_network_params

    def same() -> bool:
        clones = algorithm.estimator.estimator_network_params
        return all((clone == critics[key]).all() for key, clone in clones.items(True, True))

    assert not same()
    algorithm.start_episode()
    assert same()


def test_the_clones_are_updated_so_often_at_each_update(monkeypatch):
    algorithm = TwinALITA(ENV, TwinALITA.Settings(estimator_updates=3, **SMALL))
    steps = []
    optimizer = algorithm.optimizers["estimator"]
    step = optimizer.step
    monkeypatch.setattr(optimizer, "step", lambda: steps.append(1) or step())
    updated(algorithm)
    assert len(steps) == 6


# In turns: the parts, by hand


def partner(slope: float, action: float) -> MADDPGLoss:
    """Q = slope * a, and a policy that always acts alike."""
    critic = linear_critic(torch.full((1, 1, 1), slope))
    loss = MADDPGLoss(constant_actor(torch.tensor([[action]])), critic, gamma=0.5)
    SoftUpdate(loss, tau=0.5)
    return loss


def step_of_one(*, action: float, reward: float = 0.0, terminated: bool = False) -> TensorDict:
    agents = {"observation": torch.zeros(1, 1, 1), "action": torch.full((1, 1, 1), action)}
    following = {"observation": torch.zeros(1, 1, 1), "reward": torch.full((1, 1, 1), reward)}
    flag = torch.tensor([[terminated]])
    return TensorDict({"agents": agents, "next": {"agents": following, "terminated": flag}}, [1])


@pytest.mark.parametrize(
    ("optimum", "stored", "expected"),
    [
        # Q = 2 a: the influencer's 0.25 is worth 0.5, the partner's 0.75 is worth 1.5.
        (AtPolicy(), 0.9, 0.5 - 1.5),
        (BestOf(), 0.1, 0.5 - 1.5),
        (BestOf(), 0.9, 0.5 - 1.8),
        # 1 + 0.5 * 2 * 0.75, whatever was done.
        (TDTarget(), 0.9, 0.5 - 1.75),
    ],
)
def test_the_gap_in_turns_is_the_partners_value_of_the_influencers_action(
    optimum, stored, expected
):
    influencer = constant_actor(torch.tensor([[0.25]]))
    loss = InfluenceLoss(
        influencer, partner(2.0, 0.75), TURNS, optimum=optimum, influence_coeff=0.3
    )
    losses = loss(step_of_one(action=stored, reward=1.0))
    assert losses["gap"].item() == pytest.approx(expected)
    assert losses["loss_influence"].item() == pytest.approx(0.3 * expected**2)
    losses["loss_influence"].backward()
    (grad,) = (p.grad for p in influencer.parameters())
    assert grad.item() == pytest.approx(0.3 * 2 * expected * 2.0)


def test_the_influencers_own_action_is_a_candidate_of_the_sampled_optimum():
    """It is the best there is: nothing can be gained, and no gradient is left."""
    influencer = constant_actor(torch.tensor([[0.95]]))
    loss = InfluenceLoss(influencer, partner(2.0, 0.75), TURNS, optimum=BestOf())
    assert loss(step_of_one(action=0.1))["gap"].item() == 0


def test_at_the_next_state_a_terminal_transition_has_no_optimum():
    influencer = constant_actor(torch.tensor([[0.25]]))
    loss = InfluenceLoss(influencer, partner(2.0, 0.75), TURNS, optimum=AtPolicy(at="next"))
    assert loss(step_of_one(action=0.1))["gap"].item() == pytest.approx(0.5 - 1.5)
    assert loss(step_of_one(action=0.1, terminated=True))["gap"].item() == pytest.approx(0.5)


def test_the_td_target_of_a_terminal_transition_is_its_reward():
    influencer = constant_actor(torch.tensor([[0.25]]))
    loss = InfluenceLoss(influencer, partner(2.0, 0.75), TURNS, optimum=TDTarget())
    batch = step_of_one(action=0.9, reward=1.0, terminated=True)
    assert loss(batch)["gap"].item() == pytest.approx(0.5 - 1.0)


def test_clones_in_turns_are_drawn_to_the_partners_target():
    """Q = 2 * 0.9 against 1 + 0.5 * 2 * 0.75."""
    estimator = InfluenceEstimatorLoss(partner(2.0, 0.75), TURNS)
    loss = estimator(step_of_one(action=0.9, reward=1.0))["loss_estimator"]
    assert loss.item() == pytest.approx((1.8 - 1.75) ** 2, abs=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: InfluenceLoss(constant_actor(torch.zeros(1, 1)), partner(1.0, 0.0), TURNS),
        lambda: InfluenceEstimatorLoss(partner(1.0, 0.0), TURNS),
        lambda: DiversityPenalty(constant_actor(torch.zeros(1, 1)), TURNS),
    ],
    ids=["influence", "estimator", "diversity"],
)
def test_in_turns_there_is_one_influencer_and_one_influencee(make):
    assert (TURNS.influencers, TURNS.influencees) == ((0,), (0,))
    with pytest.raises(ValueError, match="1 agents at a time, the batch has 3"):
        make()(random_batch().select(*make().in_keys, strict=False))


def test_in_turns_there_are_no_others_to_average_over():
    policy = make_actor(TargetEnv(n_agents=1, discrete=True), num_cells=(5,))
    with pytest.raises(ValueError, match="in_turns"):
        InfluenceLoss(
            policy,
            partner(1.0, 0.0),
            TURNS,
            value=Marginal(samples=2),
        )


# The published form, by hand


class _Doubled(nn.Module):
    """An autoencoder that reconstructs nothing: its error is the input."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(inputs)


def three_steps() -> TensorDict:
    """Observations of size 1, actions 0; (s, a) is (3, 0), (6, 0), (4, 0)."""
    batch = TensorDict(batch_size=[3])
    batch["agents", "observation"] = torch.tensor([3.0, 6.0, 4.0]).view(3, 1, 1)
    batch["agents", "action"] = torch.zeros(3, 1, 1)
    batch["next", "agents", "observation"] = torch.tensor([0.0, 12.0, 5.0]).view(3, 1, 1)
    batch["next", "agents", "reward"] = torch.ones(3, 1, 1)
    for flag in ("done", "terminated"):
        batch["next", flag] = torch.zeros(3, 1, dtype=torch.bool)
    return batch


def test_the_published_novelty_is_the_root_of_the_error():
    batch = NoveltyReward(_Doubled(), distance="euclidean")(three_steps())
    assert batch["next", "agents", "novelty"].flatten().tolist() == [3.0, 6.0, 4.0]


def test_the_published_penalty_grows_with_the_novelty_and_is_the_distance():
    """Weights (3, 6, 4) from 0 to 1: 0, 1, 1/3; the policy is 0.5 away."""
    batch = NoveltyReward(_Doubled(), distance="euclidean")(three_steps())
    penalty = DiversityPenalty(
        constant_actor(torch.tensor([[0.5]])),
        TURNS,
        distance="euclidean",
        weight="min_max",
    )
    found = penalty(batch)["next", "agents", "diversity_penalty"].flatten()
    torch.testing.assert_close(found, torch.tensor([0.0, -0.5, -0.5 / 3]))


def test_what_is_equally_new_has_no_published_penalty():
    batch = three_steps()
    batch["agents", "observation"].fill_(2.0)
    batch = NoveltyReward(_Doubled(), distance="euclidean")(batch)
    penalty = DiversityPenalty(constant_actor(torch.tensor([[0.5]])), TURNS, weight="min_max")
    assert (penalty(batch)["next", "agents", "diversity_penalty"] == 0).all()


def published() -> TwinALITA:
    """Policies 0.3 and 0.5 everywhere, autoencoder 0, lambda_pi 0.05 and penalty 0.05."""

    class OneFeature(TargetEnv):
        """Not stepped: of its sizes only."""

    env = OneFeature(n_agents=1)
    algorithm = TwinALITA(env, TwinALITA.Settings(**PUBLISHED, **SMALL))
    algorithm.layout = algorithm.layout._replace(observation_size=1, action_size=1)
    algorithm.policies[:] = [constant_actor(torch.tensor([[a]])) for a in (0.3, 0.5)]
    for part in (algorithm.novelty, algorithm.diversity):
        part.__dict__["autoencoder"] = _Doubled()
    algorithm.diversity.__dict__["actor_network"] = algorithm.policies[1]
    return algorithm


def test_the_published_rewards_are_those_of_the_authors_code():
    """Novelty of (s', pi(s')): sqrt(s'^2 + 0.3^2); the penalty is that of (s, a)."""
    agents = published().add_rewards(three_steps())["next", "agents"]
    roots = [math.hypot(s, 0.3) for s in (0.0, 12.0, 5.0)]
    expected = torch.tensor([1 + 0.05 * root for root in roots])
    torch.testing.assert_close(agents["influencer_reward"].flatten(), expected)
    expected = torch.tensor([1.0, 1 - 0.05 * 0.5, 1 - 0.05 * 0.5 / 3])
    torch.testing.assert_close(agents["partner_reward"].flatten(), expected)


def test_the_published_influence_takes_the_penalty_at_the_influencers_action():
    """psi(s, 0.3) = sqrt(s^2 + 0.09), the partner's policy is 0.2 away from it."""
    algorithm = published()
    batch = algorithm.add_rewards(three_steps())
    found = algorithm._influenced(batch)["next", "agents", "partner_reward"].flatten()
    roots = [math.hypot(s, 0.3) for s in (3.0, 6.0, 4.0)]
    weights = [(root - roots[0]) / (roots[1] - roots[0]) for root in roots]
    expected = torch.tensor([1 - 0.05 * weight * 0.2 for weight in weights])
    torch.testing.assert_close(found, expected)
    # The learners' own batch keeps the reward of what was done.
    assert not torch.allclose(batch["next", "agents", "partner_reward"].flatten(), expected)


def test_the_published_preset_differs_in_parts_and_coefficients():
    paper, authors = (
        TwinALITA(ENV, TwinALITA.Settings(**SMALL)),
        TwinALITA(ENV, TwinALITA.Settings(**PUBLISHED, **SMALL)),
    )
    assert isinstance(paper.influence.optimum, BestOf)
    assert authors.influence.optimum == TDTarget()
    assert (paper.estimator is None, authors.estimator is None) == (False, True)
    for algorithm, coeffs in ((paper, [0.1, 0.1]), (authors, [0.05, 0.05])):
        found = [part.coeffs.item() for part in algorithm.total_rewards]
        assert found == pytest.approx(coeffs)
        assert float(algorithm.influence.influence_coeff) == pytest.approx(0.1)


# The loop


def task(paid: list | None = None) -> Task:
    """Returns by seed are noted, where a list is given."""

    def draw(episode: TensorDict) -> list[Image.Image]:
        return [Image.new("RGB", (8, 8)) for _ in range(3)]

    def metrics(episodes: TensorDict) -> dict:
        if paid is not None:
            paid.append(episodes)
        return {}

    return Task(make=TargetEnv, metrics=metrics, draw=draw)


def tiny(run_dir: Path, **changes) -> Config:
    options = {
        "algorithm": TwinALITA, "task": "test", **SMALL, "n_agents": 1, "num_envs": 5, "horizon": 3,
        "total_frames": 100, "frames_per_batch": 20, "frames_per_update": 10,
        "random_frames": 20, "batch_size": 16, "conditional_batch_size": 32,
        "noise_start": 0.1, "noise_end": 0.1, "evaluation_interval": 40,
        "evaluation_episodes": 3, "selection_episodes": 2, "checkpoint_interval": 40,
        "progress": False, "run_dir": run_dir,
    }  # fmt: skip
    return flat_config(**(options | changes))


def test_a_run_counts_both_agents_frames_and_says_which_agent_was_chosen(tmp_path):
    summary = train(tiny(tmp_path / "run"), task=task())
    assert summary["frames"] == 100
    assert summary["updates"] == 8
    returns = [summary["selection"][f"return_{agent}"] for agent in (0, 1)]
    assert summary["selection"]["chosen"] == returns.index(max(returns))
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["selection/chosen"] in ("0", "1", "0.0", "1.0")


@pytest.mark.parametrize("better", [0, 1])
def test_the_better_agent_is_chosen_on_other_episodes_than_the_reported_ones(tmp_path, better):
    """One policy acts as it is told, the other does the opposite."""
    seen = []
    run = Run(tiny(tmp_path / "run"), TwinALITA, task(seen))

    def told(sign: float):
        def act(tensordict: TensorDict) -> TensorDict:
            action = sign * tensordict["agents", "observation"][..., :2]
            return tensordict.set(("agents", "action"), action)

        return act

    policies = [told(1.0 if agent == better else -1.0) for agent in (0, 1)]
    result, selection, _ = run.evaluation.measure(policies)
    assert selection["chosen"] == better
    assert result["return_mean"] == pytest.approx(0, abs=1e-5)
    assert selection[f"return_{1 - better}"] < -1
    assert [len(episodes) for episodes in seen] == [2, 2, 3]
    first, second, reported = (episodes["agents", "observation"][:2, 0] for episodes in seen)
    assert (first == second).all()
    assert (first != reported).any()


@pytest.mark.parametrize("choices", [(0, 1), (1, 0)])
def test_the_policy_of_a_checkpoint_is_of_the_agent_chosen_until_then(tmp_path, choices):
    train(tiny(tmp_path / "run"), task=task())
    lines = ["frames,selection/chosen", "40,0.0", "60,", f"80,{choices[0]}", f"100,{choices[1]}"]
    (tmp_path / "run" / "metrics.csv").write_text("\n".join(lines))
    checkpoints = sorted((tmp_path / "run" / "checkpoints").iterdir())
    for checkpoint, chosen in zip(checkpoints, choices, strict=True):
        both = read_component(checkpoint, "policy")
        for name, value in load_policy(checkpoint, ENV).state_dict().items():
            assert torch.equal(value, both[f"policies.{chosen}.{name}"])
    (tmp_path / "run" / "metrics.csv").write_text("\n".join([lines[0], lines[-1]]))
    with pytest.raises(ValueError, match="No evaluation"):
        load_policy(checkpoints[0], ENV)


def test_evaluation_leaves_the_turns_of_training_alone(tmp_path):
    run = Run(tiny(tmp_path / "run"), TwinALITA, task())
    next(iter(run.collection))
    before = run.learning.algorithm.turns.turn.clone()
    run.evaluation.measure(run.learning.algorithm.candidates())
    assert (run.learning.algorithm.turns.turn == before).all()
    assert before.flatten().tolist() == [1] * 5


def spread_config(run_dir: Path, **changes) -> Config:
    """A checkpoint in the middle of the second episodes, which are the partner's."""
    options = {
        "algorithm": TwinALITA, "task": "vmas/spread", **SMALL, "n_agents": 1, "num_envs": 7, "horizon": 6,
        "frames_per_batch": 35, "frames_per_update": 35, "total_frames": resume_runs.WHOLE,
        "random_frames": 35, "batch_size": 16, "conditional_batch_size": 32, "buffer_size": 60,
        "recent_frames": 50, "evaluation_interval": 70, "evaluation_episodes": 3,
        "selection_episodes": 2, "checkpoint_interval": resume_runs.HALF, "progress": False,
        "seed": 3, "run_dir": run_dir,
    }  # fmt: skip
    return flat_config(**(options | changes))


@pytest.mark.parametrize("exact", [True, False], ids=["mid_episode", "new_episodes"])
def test_a_run_resumed_is_the_one_that_never_stopped(tmp_path, exact):
    runs = {name: tmp_path / name for name in ("resumed", "whole")}
    of = None if exact else task()
    for name, run_dir in runs.items():
        config = spread_config(run_dir)
        if name == "resumed":
            with pytest.raises(resume_runs.Stopped), resume_runs.stop_halfway():
                train(config, task=of)
            config = changed_training(config, run_dir=None, resume=run_dir)
        train(config, task=of)
    difference = checkpoint_difference(*runs.values())
    assert set(difference.values()) == {0.0}, difference
    assert ("environment" in difference) == exact


@pytest.mark.slow
@pytest.mark.parametrize("form", ["clones", "published"])
def test_both_agents_learn_to_act_as_they_are_told(form):
    """The mean reward of acting at random is about -1.1; the best is 0."""
    torch.manual_seed(0)
    env = TargetEnv(num_envs=256, n_agents=1, horizon=2, seed=1)
    algorithm = TwinALITA(
        env,
        TwinALITA.Settings(
            **FORMS[form]
            | {"num_cells": (32,), "gamma": 0.0, "actor_lr": 5e-3, "critic_lr": 1e-2, "tau": 0.05}
        ),
    )
    batch = env.rollout(4, break_when_any_done=False).reshape(-1)
    for _ in range(200):
        picked = batch[torch.randint(len(batch), (64,))]
        algorithm.update(by_name(algorithm, picked, [picked] * len(conditional_names(algorithm))))
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        rewards = [
            env.rollout(2, policy)["next", "agents", "reward"].mean()
            for policy in algorithm.candidates()
        ]
    assert min(rewards) > -0.15


def test_a_state_taken_over_continues_bit_for_bit():
    torch.manual_seed(0)
    first, second = (
        TwinALITA(ENV, TwinALITA.Settings(**SMALL)),
        TwinALITA(ENV, TwinALITA.Settings(**SMALL)),
    )
    updated(first, 1)
    second.load_state_dict(first.state_dict())
    for algorithm in (first, second):
        updated(algorithm, 3)
    after = state(second)
    for name, value in state(first).items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=0)


# Bad input


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({"form": "authors"}, "authors"),
        ({"influence_coeff": -1.0}, "-1.0"),
        ({"novelty_coeff": -2.0}, "-2.0"),
        ({"diversity_coeff": float("inf")}, "inf"),
        ({"omega": -0.5}, "-0.5"),
        ({"estimator": "centralized"}, "centralized"),
        ({"estimator_updates": 0}, "0"),
        ({"estimator_lr": 0.0}, "0.0"),
        ({"optimum": "enumerated"}, "enumerated"),
        ({"optimum": "best"}, "best"),
        ({"conditional": "near"}, "near"),
        ({"num_candidates": 0}, "0"),
        ({"policy_delay": 0}, "0"),
        ({"tau": 1.5}, "1.5"),
    ],
)
def test_what_cannot_be_is_refused_with_the_value(options, value):
    with pytest.raises(ValueError, match=value):
        TwinALITA(ENV, TwinALITA.Settings(**options))


def test_a_missing_conditional_batch_is_an_error():
    with pytest.raises(ValueError, match="conditional_0"):
        TwinALITA(ENV, TwinALITA.Settings(**SMALL)).update({"batch": one_agent()})
