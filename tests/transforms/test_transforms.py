"""The intrinsic rewards: their numbers, and that they leave everything else alone."""

from __future__ import annotations

import math
import re

import pytest
import torch
from fakes import A, B, N, O, TargetEnv, constant_actor, random_batch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.envs import RenameTransform, TransformedEnv
from torchrl.envs.utils import check_env_specs

from torchrl_alita import Team, functional
from torchrl_alita.modules import Autoencoder, make_actor
from torchrl_alita.transforms import (
    DiversityPenalty,
    NoveltyReward,
    SocialInfluence,
    TotalReward,
)

ACTION = ("agents", "action")
OBSERVATION = ("agents", "observation")
NOVELTY = ("next", "agents", "novelty")
PENALTY = ("next", "agents", "diversity_penalty")
REWARD = ("next", "agents", "reward")
TOTAL = ("next", "agents", "total_reward")
ROWS = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])


class Scaled(nn.Module):
    """Reconstructs each influencer's inputs as a multiple of them, ``[*B, K, D]``."""

    def __init__(self, *factors: float):
        super().__init__()
        self.factors = nn.Parameter(torch.tensor(factors).unsqueeze(-1))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs * self.factors


def ones(**entries: torch.Tensor) -> TensorDict:
    """A batch in which all is 1, but for the actions, which are 0."""
    agents = {"observation": torch.ones(B, N, O), "action": torch.zeros(B, N, A)}
    following = {"reward": torch.ones(B, N, 1), "novelty": torch.zeros(B, N, 1)}
    for key in list(entries):
        (following if key in following else agents)[key] = entries.pop(key)
    return TensorDict({"agents": agents, "next": {"agents": following}}, [B])


def per_agent(*values: float) -> torch.Tensor:
    return torch.tensor(values).unsqueeze(-1).expand(B, N, 1)


def penalty_of(team: Team | int | list[int] = 0, **arguments) -> DiversityPenalty:
    """Of policies whose squared distances to no action at all are 1, 4 and 9."""
    return DiversityPenalty(constant_actor(ROWS), team, **arguments)


def logits_actor(logits: torch.Tensor) -> TensorDictModule:
    def act(observation: torch.Tensor) -> torch.Tensor:
        return logits.expand(*observation.shape[:-1], -1)

    return TensorDictModule(act, in_keys=[OBSERVATION], out_keys=[("agents", "logits")])


def every_transform() -> list:
    return [
        NoveltyReward(Autoencoder(O + A)),
        penalty_of(omega=0.5),
        TotalReward({("agents", "novelty"): 0.5}),
    ]


NAMES = ["novelty", "diversity", "total"]
WRITTEN = [NOVELTY, PENALTY, TOTAL]


def test_the_novelty_of_what_is_reconstructed_as_nothing_is_its_squared_norm():
    batch = random_batch()
    result = NoveltyReward(Scaled(0.0), 1)(batch)[NOVELTY]
    squares = batch[OBSERVATION].square().sum(-1) + batch[ACTION].square().sum(-1)
    torch.testing.assert_close(result[:, 1, 0], squares[:, 1])


def test_the_novelty_is_the_equations():
    torch.manual_seed(0)
    batch, autoencoder = random_batch(batch_size=(B, 11)), Autoencoder(O + A)
    inputs = torch.cat([batch[OBSERVATION], batch[ACTION]], -1)[..., 2:, :]
    expected = functional.novelty(inputs, autoencoder(inputs)).detach()
    result = NoveltyReward(autoencoder, 2)(batch)[NOVELTY]
    assert result.shape == (B, 11, N, 1)
    torch.testing.assert_close(result[..., 2:, :], expected)


@pytest.mark.parametrize("influencer", range(N))
def test_nobody_but_the_influencer_is_paid_for_novelty(influencer):
    novelty = NoveltyReward(Scaled(0.0), influencer)(ones())[NOVELTY]
    expected = torch.zeros(B, N, 1)
    expected[:, influencer] = O
    torch.testing.assert_close(novelty, expected)


def test_each_of_two_influencers_has_the_autoencoder_of_its_place_in_the_list():
    batch = ones(observation=per_agent(1.0, 2.0, 3.0).expand(B, N, O))
    novelty = NoveltyReward(Scaled(0.0, 3.0), [2, 0])(batch)[NOVELTY]
    torch.testing.assert_close(novelty, per_agent(4.0 * O, 0.0, 9.0 * O))


def test_a_one_hot_action_counts_for_novelty_whatever_its_type():
    action = torch.nn.functional.one_hot(torch.ones(B, N, dtype=torch.long), A)
    novelty = NoveltyReward(Scaled(0.0), 0)(ones(action=action))[NOVELTY]
    torch.testing.assert_close(novelty, per_agent(O + 1.0, 0.0, 0.0))


def test_an_autoencoder_of_another_width_is_refused_with_both_sizes():
    novelty = NoveltyReward(Autoencoder(13))
    with pytest.raises(ValueError, match=f"takes 13 features, .* {O} of observation and {A} of"):
        novelty(ones())


@pytest.mark.parametrize("influencer", [-1, [0, -1], [1, 1], []])
def test_influencers_that_are_no_distinct_agents_are_refused(influencer):
    offending = re.escape(f"got {influencer}")
    with pytest.raises(ValueError, match=offending):
        NoveltyReward(Scaled(0.0), influencer)
    with pytest.raises(ValueError, match=offending):
        penalty_of(influencer)


def test_an_influencer_that_the_batch_does_not_have_is_refused():
    with pytest.raises(ValueError, match=f"number of agents, {N}, got {N}"):
        NoveltyReward(Scaled(0.0), N)(ones())
    with pytest.raises(ValueError, match=f"number of agents, {N}, got {N}"):
        penalty_of(N)(ones())


def test_the_only_influencer_is_not_penalized_and_the_others_pay_their_distance():
    penalty = penalty_of(0, omega=0.0)(ones())[PENALTY]
    torch.testing.assert_close(penalty, per_agent(0.0, -4.0, -9.0))


def test_the_novelty_of_the_influencer_lifts_the_penalty_of_the_others():
    novelty = per_agent(math.log(2), 100.0, 100.0)
    penalty = penalty_of(0, omega=1.0)(ones(novelty=novelty))[PENALTY]
    torch.testing.assert_close(penalty, per_agent(0.0, -2.0, -4.5))


def test_the_penalty_is_that_of_leaving_the_policy():
    penalty = penalty_of(1, omega=0.0)(ones(action=ROWS.expand(B, N, A)))[PENALTY]
    torch.testing.assert_close(penalty, torch.zeros(B, N, 1))


def test_of_two_influencers_each_is_penalized_by_the_other_and_the_rest_by_the_mean():
    novelty = per_agent(math.log(2), 100.0, math.log(4))
    penalty = penalty_of([0, 2], omega=1.0)(ones(novelty=novelty))[PENALTY]
    torch.testing.assert_close(penalty, per_agent(-1 / 4, -4 * 3 / 8, -9 / 2))


def test_the_order_of_the_influencers_does_not_change_the_penalty():
    batch = random_batch()
    first, second = (penalty_of(k)(batch)[PENALTY] for k in ([0, 2], [2, 0]))
    torch.testing.assert_close(first, second)


def test_nobody_but_the_listed_influencees_is_penalized():
    penalty = penalty_of(Team(N, influencees=[2]), omega=0.0)(ones())[PENALTY]
    torch.testing.assert_close(penalty, per_agent(0.0, 0.0, -9.0))


def test_an_influencer_is_not_penalized_by_itself_even_where_it_is_listed():
    team = Team(N, influencers=[0, 2], influencees=[0, 1])
    penalty = penalty_of(team, omega=0.0)(ones())[PENALTY]
    torch.testing.assert_close(penalty, per_agent(-1.0, -4.0, 0.0))


def test_a_team_of_other_agents_than_the_batch_is_refused():
    with pytest.raises(ValueError, match=f"{N + 2} agents, the batch has {N}"):
        penalty_of(Team(N + 2))(ones())
    with pytest.raises(ValueError, match=f"{N + 2} agents, the batch has {N}"):
        NoveltyReward(Scaled(0.0), Team(N + 2))(ones())


def test_each_agent_has_an_omega_of_its_own():
    novelty = per_agent(math.log(2), 0.0, 0.0)
    penalty = penalty_of(0, omega=[0.0, 1.0, 2.0])(ones(novelty=novelty))[PENALTY]
    torch.testing.assert_close(penalty, per_agent(0.0, -4 / 2, -9 / 4))


def test_each_agent_has_an_omega_of_its_own_with_two_influencers_too():
    novelty = per_agent(math.log(2), 0.0, math.log(4))
    penalty = penalty_of([0, 2], omega=[2.0, 1.0, 0.0])(ones(novelty=novelty))[PENALTY]
    torch.testing.assert_close(penalty, per_agent(-1 / 16, -4 * 3 / 8, -9.0))


@pytest.mark.parametrize("omega", [-0.1, math.nan, math.inf, [0.1, -0.1, 0.1]])
def test_an_omega_below_0_or_without_end_is_refused(omega):
    with pytest.raises(ValueError, match=re.escape(f"got {omega}")):
        penalty_of(omega=omega)


def test_an_omega_for_another_number_of_agents_is_refused():
    penalty = penalty_of(omega=[0.5, 0.25])
    message = re.escape(f"one number or {N}, one for each agent, got [0.5, 0.25]")
    with pytest.raises(ValueError, match=message):
        penalty(ones())
    with pytest.raises(ValueError, match=message):
        penalty_of(Team(N), omega=[0.5, 0.25])


def test_an_unknown_distance_is_refused():
    with pytest.raises(ValueError, match="got 'cosine'"):
        penalty_of(distance="cosine")


def one_hot(*actions: int, size: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(actions), size).expand(B, N, size).float()


def test_the_brier_distance_of_an_even_policy_over_5_actions_is_four_fifths():
    actor = logits_actor(torch.zeros(N, 5))
    penalty = DiversityPenalty(actor, omega=0.0, distance="brier")
    result = penalty(ones(action=one_hot(0, 3, 4, size=5)))[PENALTY]
    torch.testing.assert_close(result, per_agent(0.0, -0.8, -0.8))


def test_the_distance_is_by_default_that_of_the_actors_actions():
    """Of a drawn or likeliest one-hot action the squared distance would be 0 or 2."""
    batch = ones(action=one_hot(0, 3, 4, size=5))
    actor = logits_actor(torch.zeros(N, 5))
    brier, chosen = (
        DiversityPenalty(actor, omega=0.0, **options)(batch.clone())[PENALTY]
        for options in ({"distance": "brier"}, {})
    )
    torch.testing.assert_close(chosen, brier, rtol=0, atol=0)
    assert penalty_of().distance == "squared"


def test_a_policy_that_is_certain_pays_0_for_its_action_and_2_for_another():
    actor = logits_actor(1000.0 * one_hot(0, 1, 1, size=5)[0])
    penalty = DiversityPenalty(actor, omega=0.0, distance="brier")
    result = penalty(ones(action=one_hot(0, 1, 4, size=5)))[PENALTY]
    torch.testing.assert_close(result, per_agent(0.0, 0.0, -2.0))


def test_a_policy_shares_its_probability_among_the_allowed_actions_alone():
    mask = torch.tensor([True, True, False, False, False]).expand(B, N, 5)
    actor = logits_actor(torch.zeros(N, 5))
    penalty = DiversityPenalty(actor, omega=0.0, distance="brier")
    result = penalty(ones(action=one_hot(0, 0, 1, size=5), action_mask=mask))[PENALTY]
    torch.testing.assert_close(result, per_agent(0.0, -0.5, -0.5))


def test_the_mask_may_be_the_input_of_the_actor_too():
    def act(observation: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.where(mask, 0.0, -torch.inf)

    actor = TensorDictModule(
        act, in_keys=[OBSERVATION, ("agents", "action_mask")], out_keys=[("agents", "logits")]
    )
    mask = torch.tensor([True, True, False, False, False]).expand(B, N, 5)
    penalty = DiversityPenalty(actor, omega=0.0, distance="brier")
    result = penalty(ones(action=one_hot(0, 0, 1, size=5), action_mask=mask))[PENALTY]
    torch.testing.assert_close(result, per_agent(0.0, -0.5, -0.5))


def test_the_total_reward_is_the_weighted_sum():
    batch = ones(reward=per_agent(1.0, 2.0, 3.0), novelty=per_agent(8.0, 0.0, 0.0))
    batch[PENALTY] = per_agent(0.0, -1.0, -2.0)
    total = TotalReward({("agents", "novelty"): 0.25, ("agents", "diversity_penalty"): 0.5})
    torch.testing.assert_close(total(batch)[TOTAL], per_agent(3.0, 1.5, 2.0))


def test_a_total_of_nothing_but_the_reward_is_refused():
    with pytest.raises(ValueError, match=r"\{\}"):
        TotalReward({})


@pytest.mark.parametrize("coeff", [-0.5, math.nan, math.inf])
def test_a_coefficient_below_0_or_without_end_is_refused(coeff):
    with pytest.raises(ValueError, match=f"novelty.*got {coeff}"):
        TotalReward({("agents", "novelty"): coeff})


@pytest.mark.parametrize("index", range(3), ids=NAMES)
def test_the_batch_of_the_caller_stays_as_it_was(index):
    batch = random_batch()
    before = batch.clone()
    result = every_transform()[index](batch)
    assert set(batch.keys(True, True)) == set(before.keys(True, True))
    torch.testing.assert_close(batch.to_dict(), before.to_dict(), rtol=0, atol=0)
    assert set(result.keys(True, True)) == set(before.keys(True, True)) | {WRITTEN[index]}


@pytest.mark.parametrize("index", range(3), ids=NAMES)
def test_a_locked_batch_will_do(index):
    batch = random_batch().lock_()
    assert every_transform()[index](batch)[WRITTEN[index]].shape == (B, N, 1)
    assert batch.is_locked


def test_a_reward_is_never_overwritten():
    batch = random_batch()
    result = batch
    for transform in every_transform():
        result = transform(result)
    torch.testing.assert_close(result[REWARD], batch[REWARD], rtol=0, atol=0)


@pytest.mark.parametrize("index", range(2), ids=NAMES[:2])
def test_no_gradient_flows_through_an_intrinsic_reward(index):
    batch = random_batch()
    for key in (OBSERVATION, ACTION, NOVELTY):
        batch[key].requires_grad_()
    assert not every_transform()[index](batch)[WRITTEN[index]].requires_grad


@pytest.mark.parametrize(
    ("index", "missing"),
    [
        (0, OBSERVATION),
        (0, ACTION),
        (1, OBSERVATION),
        (1, ACTION),
        (1, NOVELTY),
        (2, NOVELTY),
        (2, REWARD),
    ],
)
def test_a_missing_key_is_named_beside_those_that_are_there(index, missing):
    transform, batch = every_transform()[index], random_batch().exclude(missing)
    with pytest.raises(KeyError, match=rf"no .*{missing[-1]}.*it has .*terminated"):
        transform(batch)


def test_the_borrowed_networks_are_no_part_of_the_transforms():
    novelty, diversity, _ = every_transform()
    assert list(novelty.parameters()) == []
    assert list(diversity.parameters()) == []
    assert list(novelty.state_dict()) == []
    assert list(diversity.state_dict()) == ["omega"]


def test_a_borrowed_network_is_not_switched_to_eval_with_the_transform():
    autoencoder = Autoencoder(O + A)
    NoveltyReward(autoencoder).eval()
    assert autoencoder.training


def test_the_bonus_follows_the_borrowed_network():
    autoencoder, batch = Scaled(0.0), ones()
    novelty = NoveltyReward(autoencoder)
    autoencoder.factors.data.fill_(1.0)
    torch.testing.assert_close(novelty(batch)[NOVELTY], torch.zeros(B, N, 1))


def test_the_transforms_take_tensors_by_their_keys_too():
    batch = random_batch()
    novelty = NoveltyReward(Scaled(0.0))
    direct = novelty(agents_observation=batch[OBSERVATION], agents_action=batch[ACTION])
    torch.testing.assert_close(direct, novelty(batch)[NOVELTY])


def test_every_key_may_be_named():
    batch = random_batch()
    renamed = batch.clone()
    for old, new in ((OBSERVATION, "seen"), (ACTION, "done_by"), (NOVELTY, ("next", "psi"))):
        renamed.rename_key_(old, new)
    novelty = NoveltyReward(Scaled(0.0), observation="seen", action="done_by", novelty="psi")
    torch.testing.assert_close(
        novelty(renamed)["next", "psi"], NoveltyReward(Scaled(0.0))(batch)[NOVELTY]
    )
    actor = TensorDictModule(
        lambda observation: ROWS.expand(*observation.shape[:-1], -1),
        in_keys=["seen"],
        out_keys=["done_by"],
    )
    diversity = DiversityPenalty(
        actor, observation="seen", action="done_by", novelty="psi", diversity_penalty="fine"
    )
    torch.testing.assert_close(diversity(renamed)["next", "fine"], penalty_of()(batch)[PENALTY])


def with_bonuses(env: TargetEnv, **arguments) -> TransformedEnv:
    env = TransformedEnv(env)
    torch.manual_seed(0)
    for transform in bonuses(env, **arguments):
        env.append_transform(transform)
    return env


def bonuses(env: TargetEnv, *, influencer: int | list[int] = 0) -> list:
    count = 1 if isinstance(influencer, int) else len(influencer)
    return [
        NoveltyReward(Autoencoder(O + A, num_influencers=count), influencer),
        DiversityPenalty(make_actor(env), influencer, omega=0.5),
        TotalReward({("agents", "novelty"): 0.5, ("agents", "diversity_penalty"): 0.25}),
    ]


@pytest.mark.parametrize("influencer", [0, [2, 0]])
def test_an_environment_with_bonuses_is_what_its_specs_say(influencer):
    check_env_specs(with_bonuses(TargetEnv(), influencer=influencer))


def test_a_bonus_is_no_reward_of_the_environment():
    env = with_bonuses(TargetEnv())
    assert env.reward_key == ("agents", "reward")
    assert env.reward_keys == [("agents", "reward")]


def test_a_bonus_of_a_discrete_task_is_what_the_specs_say():
    env = TransformedEnv(TargetEnv(discrete=True))
    env.append_transform(NoveltyReward(Autoencoder(O + A)))
    env.append_transform(DiversityPenalty(logits_actor(torch.zeros(N, A)), distance="brier"))
    check_env_specs(env)
    penalty = env.rollout(3)[PENALTY]
    assert penalty.shape == (B, 3, N, 1)
    assert bool((penalty[..., 1:, :] < 0).all())


@pytest.mark.parametrize("terminates", [False, True])
def test_a_bonus_at_collect_time_is_that_at_sample_time_while_the_networks_rest(terminates):
    env = with_bonuses(TargetEnv(horizon=3, terminates=terminates))
    rollout = env.rollout(7, break_when_any_done=False)
    result = rollout.exclude(*WRITTEN)
    for transform in env.transform:
        result = transform(result)
    assert bool((result[NOVELTY][..., 0, :] > 0).all())
    assert bool((result[PENALTY][..., 1:, :] < 0).all())
    torch.testing.assert_close([result[k] for k in WRITTEN], [rollout[k] for k in WRITTEN])


def test_there_is_no_bonus_before_the_first_step():
    reset = with_bonuses(TargetEnv()).reset()
    for key in WRITTEN:
        torch.testing.assert_close(reset[key[1:]], torch.zeros(B, N, 1))


def test_an_environment_needs_the_novelty_before_the_penalty():
    env = TransformedEnv(TargetEnv(), penalty_of())
    with pytest.raises(KeyError, match="novelty"):
        env.rollout(1)


def test_a_bonus_of_other_keys_is_what_the_specs_of_the_environment_say():
    rename = RenameTransform(in_keys=[OBSERVATION], out_keys=[("agents", "seen")])
    env = TransformedEnv(TargetEnv(), rename)
    env.append_transform(NoveltyReward(Scaled(0.0), observation=("agents", "seen")))
    check_env_specs(env)


def buffer_with(*transforms) -> ReplayBuffer:
    buffer = ReplayBuffer(storage=LazyTensorStorage(101), batch_size=11)
    buffer.extend(random_batch(batch_size=(53,)).exclude(NOVELTY))
    for transform in transforms:
        buffer.append_transform(transform)
    return buffer


def test_a_replay_buffer_pays_the_bonus_of_its_batch():
    buffer = buffer_with(NoveltyReward(Scaled(0.0)), penalty_of(omega=0.5))
    sampled = buffer.sample()
    bare = sampled.exclude(NOVELTY, PENALTY)
    expected = penalty_of(omega=0.5)(NoveltyReward(Scaled(0.0))(bare))
    assert sampled[PENALTY].shape == (11, N, 1)
    for key in (NOVELTY, PENALTY):
        torch.testing.assert_close(sampled[key], expected[key])


def test_a_replay_buffer_does_not_store_the_bonus():
    buffer = buffer_with(NoveltyReward(Scaled(0.0)))
    buffer.sample()
    buffer.extend(random_batch(batch_size=(5,)).exclude(NOVELTY))
    assert NOVELTY not in buffer.storage[:].keys(True, True)


def test_a_replay_buffer_pays_by_the_autoencoder_of_the_day():
    autoencoder = Scaled(0.0)
    buffer = buffer_with(NoveltyReward(autoencoder))
    assert bool((buffer.sample()[NOVELTY][:, 0] > 0).all())
    autoencoder.factors.data.fill_(1.0)
    torch.testing.assert_close(buffer.sample()[NOVELTY], torch.zeros(11, N, 1))


def test_a_replay_buffer_penalizes_by_the_policies_of_the_day():
    actor = constant_actor(ROWS)
    buffer = buffer_with(NoveltyReward(Scaled(1.0)), DiversityPenalty(actor))
    for _ in range(2):
        actor.module.action.data.add_(1.0)
        sampled = buffer.sample()
        distance = (actor.module.action - sampled[ACTION]).square().sum(-1, keepdim=True)
        expected = -distance.detach()
        expected[:, 0] = 0
        torch.testing.assert_close(sampled[PENALTY], expected)


@pytest.mark.parametrize("kind", ["novelty", "penalty", "social influence"])
def test_what_is_paid_does_not_depend_on_dropout_in_a_network(kind):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(O, A), nn.Dropout(0.5))
    batch, training = random_batch(), [True] * 3
    if kind == "novelty":
        network = nn.Sequential(nn.Linear(O + A, O + A), nn.Dropout(0.5))
        transform = NoveltyReward(network)
    elif kind == "penalty":
        policy = TensorDictModule(network, in_keys=[OBSERVATION], out_keys=[ACTION])
        transform = DiversityPenalty(policy, omega=0.5)
    else:
        network = Others()
        transform, training = SocialInfluence(network), [True] * 2
        batch["agents", "logits"] = torch.zeros(B, N, A)
        batch[ACTION] = torch.eye(A)[torch.zeros(B, N, dtype=torch.long)]
    first, second = (transform(batch)[transform.batch_out_keys[0]] for _ in range(2))
    assert torch.equal(first, second)
    assert first.abs().sum() > 0
    assert [part.training for part in network.modules()] == training


class Others(nn.Module):
    """Logits of the others' next actions for each of an agent's own, ``[*B, N, A, N, A]``."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return self.dropout(torch.randn(B, N, A, N, A, generator=generator))
