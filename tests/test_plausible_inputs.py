"""What a user would plausibly give: the right value, or one clear refusal."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from constructors import (
    ENV,
    SMALL,
    STATE,
    influence,
    maddpg,
    maven,
    tsallis,
    value_decomposition,
)
from fakes import A, B, N, O, T, TargetEnv, Z, build, random_batch, sequences
from tensordict import TensorDict
from tensordict.nn import ProbabilisticTensorDictSequential, TensorDictModule
from torch import nn
from torchrl.data import Bounded, Composite
from torchrl.envs import ExplorationType, TransformedEnv, set_exploration_type
from torchrl.envs.utils import check_env_specs
from torchrl.modules import PopArtValueNorm

from torchrl_alita import (
    ALITA,
    MADDPG,
    Autoencoder,
    DiversityPenalty,
    Enumerated,
    InfluenceEstimatorLoss,
    InfluenceLoss,
    NoveltyReward,
    OwnGradient,
    Team,
    functional,
    make_actor,
)
from torchrl_alita._checks import require_keys
from torchrl_alita.algorithms import DQN, JointDQN, TACSettings
from torchrl_alita.data import BinCode, JointCode, OneHotCode, TransitionCounts
from torchrl_alita.experiments import Cell, make_cells
from torchrl_alita.experiments.cells import CellFolder
from torchrl_alita.layout import REWARD, STEPS, next_key
from torchrl_alita.modules import (
    ClippedNormal,
    GumbelOneHot,
    PoliciesOfOthers,
    make_gaussian_actor,
    make_latent_policy,
    make_stochastic_actor,
)
from torchrl_alita.saving import preserve_random_state, seed_everything
from torchrl_alita.transforms import (
    BonusScale,
    EpisodeLatent,
    RNDBonus,
    SocialInfluence,
    TransitionInfluence,
    VisitBonus,
)

VISITS = ("next", "agents", "visit_bonus")
INFLUENCE = ("next", "agents", "transition_influence")
SOCIAL = ("next", "agents", "social_influence")


# Transitions of several steps


def rows_with_state() -> TensorDict:
    return sequences(batch_size=(B, 1))[:, 0]


@pytest.mark.parametrize("double_q", [True, False])
@pytest.mark.parametrize("mixer", ["qmix", "vdn", None])
def test_q_learning_discounts_as_many_steps_as_a_transition_has(mixer, double_q):
    options = {"mixer": mixer, "recurrent": False, "double_q": double_q}
    batch = rows_with_state()
    several = batch.clone().set(STEPS, torch.full((B, 1), 3))
    found = value_decomposition(gamma=0.5, **options)(several)
    expected = value_decomposition(gamma=0.125, **options)(batch)
    torch.testing.assert_close(found["target_value"], expected["target_value"])
    one = batch.clone().set(STEPS, torch.ones(B, dtype=torch.long))
    assert (
        value_decomposition(gamma=0.125, **options)(one)["loss_qvalue"] == expected["loss_qvalue"]
    )


def test_tsallis_critics_discount_as_many_steps_as_a_transition_has():
    batch = random_batch()
    several = batch.clone().set(STEPS, torch.full((B,), 2))
    torch.manual_seed(5)
    found = tsallis(gamma=0.5)(several)["loss_qvalue"]
    torch.manual_seed(5)
    torch.testing.assert_close(found, tsallis(gamma=0.25)(batch)["loss_qvalue"])


@pytest.mark.parametrize("kind", [DQN, JointDQN])
def test_deep_q_networks_discount_as_many_steps_as_a_transition_has(kind):
    env = TargetEnv(discrete=True, seed=0)
    batch = env.rollout(3).reshape(-1)
    several = batch.clone().set(STEPS, torch.full((len(batch), 1), 3))
    logs = []
    for gamma, given in ((0.5, several), (0.125, batch), (0.5, batch)):
        torch.manual_seed(0)
        options = {"n_steps": 1} if kind is JointDQN else {}
        algorithm = build(kind, env, num_cells=(13,), gamma=gamma, **options)
        logs.append(float(algorithm.update({"batch": given})["loss_qvalue"]))
    assert logs[0] == pytest.approx(logs[1], rel=1e-6) != logs[2]


@pytest.mark.parametrize("make", [value_decomposition, maven])
def test_a_memory_that_would_miss_the_steps_between_is_refused(make):
    batch = sequences(batch_size=(B, 3)).set(STEPS, torch.ones(B, 3, 1, dtype=torch.long))
    with pytest.raises(
        ValueError, match="memory, and lambda returns, take transitions of one step"
    ):
        make()(batch)


# Observations of whole numbers, as torch's one_hot gives them


def grid_steps(dtype: torch.dtype) -> TensorDict:
    """Four steps of two agents into one cell of a grid of 3 x 3."""
    seen = nn.functional.one_hot(torch.tensor([[0, 1, 2, 2]] * 4), 3).flatten(1)
    observation = seen.unsqueeze(1).expand(4, 2, 12).to(dtype)
    action = nn.functional.one_hot(torch.tensor([[0, 1], [1, 1], [0, 0], [1, 0]]), 2)
    agents = {"observation": observation, "action": action.to(dtype)}
    return TensorDict({"agents": agents, "next": {"agents": {"observation": observation}}}, [4])


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.float64])
def test_a_bonus_is_not_cut_to_a_whole_number(dtype):
    batch, bonus = grid_steps(dtype), VisitBonus(OneHotCode([3] * 4))
    bonus.update(batch)
    paid = bonus(batch)[VISITS]
    torch.testing.assert_close(paid.double(), torch.full((4, 2, 1), 0.5).double())
    assert paid.dtype == (dtype if dtype.is_floating_point else torch.float32)


def test_influence_on_transitions_is_not_cut_to_a_whole_number():
    """Agent 1 moves where agent 0 does its second action: 1 - 1/2 over 1."""

    def moved(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        return (after != before).any(-1).long()

    moved.num_codes = 2
    batch, code = grid_steps(torch.int64), OneHotCode([3, 3], parts=[(0,), (1,)])
    second = torch.tensor([False, True, False, True])
    batch["agents", "action"] = nn.functional.one_hot(
        torch.stack([second.long(), torch.ones(4, dtype=torch.long)], -1), 2
    )
    batch["next", "agents", "observation"] = batch["agents", "observation"].clone()
    batch["next", "agents", "observation"][second, 1] += 1
    bonus = TransitionInfluence(TransitionCounts(code, moved, num_agents=2, num_actions=2))
    bonus.update(batch)
    torch.testing.assert_close(bonus(batch)[INFLUENCE][:, 0, 0], torch.full((4,), 0.5))


class WholeNumbers(TargetEnv):
    """Observes cells of a grid, as whole numbers."""

    def __init__(self, **options):
        super().__init__(**options)
        spec = self.observation_spec["agents", "observation"]
        self.observation_spec["agents", "observation"] = spec.to(torch.int64)

    def _draw(self) -> torch.Tensor:
        return super()._draw().sign().long()


def test_an_environment_of_whole_numbers_declares_its_bonus_as_it_is():
    bonus = VisitBonus(BinCode([-1.0] * O, [1.0] * O, 2))
    env = TransformedEnv(WholeNumbers(seed=0), bonus)
    spec = env.observation_spec["agents", "visit_bonus"]
    rollout = env.rollout(5)
    assert spec.dtype == env.reset()["agents", "visit_bonus"].dtype == torch.float32
    assert rollout[VISITS].dtype == torch.float32
    assert 0 < rollout[VISITS].min() < 1
    check_env_specs(env)


@pytest.mark.parametrize("value", [math.inf, 1e30])
def test_what_is_far_outside_a_range_is_in_its_last_or_first_bin(value):
    code = BinCode([0.0], [1.0], np.int64(4))
    assert code(torch.tensor([[value], [-value]])).tolist() == [3, 0]


def test_codes_of_more_than_63_bits_are_refused_also_by_a_number_of_numpy():
    with pytest.raises(
        ValueError, match=r"at most 2\*\*63 - 1 codes, got 1000000000000000000000000"
    ):
        JointCode(BinCode([0.0], [1.0], 1000), num_agents=np.int64(8))


# One agent


def test_an_agent_alone_has_no_influencees_and_no_penalty():
    env, team = TargetEnv(n_agents=1), Team(1)
    assert team.weights.shape == (1, 0)
    batch = NoveltyReward(Autoencoder(O + A), team)(env.rollout(3))
    paid = DiversityPenalty(make_actor(env, num_cells=SMALL), team)(batch)
    assert paid["next", "agents", "diversity_penalty"].tolist() == torch.zeros(B, 3, 1, 1).tolist()


def test_alita_without_influence_trains_an_agent_alone():
    env = TargetEnv(n_agents=1, seed=0)
    algorithm = build(ALITA, env, num_cells=(13,), influence_coeff=0.0)
    batch = env.rollout(3).reshape(-1)
    logs = algorithm.update({"batch": batch, "recent": batch})
    assert logs["diversity_penalty"] == 0
    assert logs["loss_qvalue"].isfinite()


def test_who_influences_nobody_has_no_weights():
    team = Team(3, influencers="all", influencees=[0])
    assert team.weights.tolist() == [[0.0], [1.0], [1.0]]


def test_an_influencer_that_acts_in_turns_stays_one_when_taken_alone():
    assert Team.in_turns().alone(0) == Team.in_turns()


# Policies of another kind


@pytest.mark.parametrize("make", [make_gaussian_actor, make_stochastic_actor, make_actor])
def test_all_joint_actions_of_a_continuous_policy_cannot_be_enumerated(make):
    actor = make(ENV, num_cells=SMALL)
    with pytest.raises(ValueError, match="Enumerated needs one-hot actions"):
        InfluenceLoss(actor, maddpg(), optimum=Enumerated())


def padded() -> TargetEnv:
    """The last agent's second action is padding."""
    env, high = TargetEnv(seed=0), torch.ones(B, N, A)
    high[:, -1, -1] = 0
    agents = Composite(action=Bounded(-high, high), shape=(B, N))
    env.action_spec = Composite(agents=agents, shape=(B,))
    return env


def test_a_gaussian_actor_without_a_range_is_refused_when_it_is_made():
    with pytest.raises(ValueError, match="needs actions with a range each, got some with one"):
        make_gaussian_actor(padded(), num_cells=SMALL)


def test_padding_has_no_entropy():
    """Nor has its scale a gradient, which all agents may share."""
    scale = torch.tensor([[1.0, 1e-6]], requires_grad=True)
    low, high = torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 0.0])
    entropy = ClippedNormal(torch.zeros(1, 2), scale, low=low, high=high).entropy()
    torch.testing.assert_close(entropy, torch.tensor([0.5 * math.log(2 * math.pi * math.e)]))
    entropy.sum().backward()
    assert scale.grad.tolist() == [[1.0, 0.0]]


# Masked actions


class Model(nn.Module):
    """A model of the others' next actions, of which the masks of this step say nothing."""

    def __init__(self, policies: PoliciesOfOthers):
        super().__init__()
        self.policies = policies

    def forward(self, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return self.policies(observation, action)


def social(*, with_mask: bool, same_step: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The bonus where agents may not do the last of three actions; and that of two actions."""
    generator = torch.Generator().manual_seed(0)
    taken = torch.randint(2, (B, 2), generator=generator)
    agents = {
        "observation": torch.randn(B, 2, O, generator=generator),
        "action": nn.functional.one_hot(taken, 3).float(),
        "logits": torch.randn(B, 2, 3, generator=generator),
    }
    if with_mask:
        agents["action_mask"] = torch.tensor([True, True, False]).expand(B, 2, 3)
    batch = TensorDict({"agents": agents}, [B])
    table = torch.randn(3, 3, generator=generator)

    def second(observation: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        return (seen[..., :3] @ table) + 0 * observation[..., :3]

    keys = [("agents", "observation"), ("agents", "seen_action")]
    network = TensorDictModule(second, keys, [("agents", "logits")])
    others = PoliciesOfOthers(network, sees=torch.tensor([[False, False], [True, False]]))
    others = others if same_step else Model(others)
    paid = SocialInfluence(others)(batch)[SOCIAL][:, 0, 0]
    conditional = (table[:2, :2] if same_step else table[:2]).softmax(-1).expand(B, 2, -1)
    own = agents["logits"][:, 0, :2].softmax(-1)
    each = functional.social_influence(conditional, own)
    return paid, each.gather(-1, taken[:, :1]).squeeze(-1)


@pytest.mark.parametrize("same_step", [True, False])
def test_actions_that_are_forbidden_count_for_no_influence(same_step):
    paid, expected = social(with_mask=True, same_step=same_step)
    torch.testing.assert_close(paid, expected)
    without, _ = social(with_mask=False, same_step=same_step)
    assert (paid - without).abs().min() > 1e-4


def test_a_bonus_draws_no_random_numbers():
    """Policies that draw actions beside their logits would move the random numbers of the run."""
    module = TensorDictModule(
        lambda seen, action: action[..., :A] + 0 * seen[..., :A],
        [("agents", "observation"), ("agents", "seen_action")],
        [("agents", "logits")],
    )
    actor = ProbabilisticTensorDictSequential(module, GumbelOneHot())
    others = PoliciesOfOthers(actor, sees=torch.ones(N, N).tril(-1).bool())
    before = torch.get_rng_state()
    with set_exploration_type(ExplorationType.RANDOM):
        logits = others(torch.zeros(B, N, O), torch.zeros(B, N, A))
    assert logits.shape == (B, N, A, N, A)
    assert torch.equal(before, torch.get_rng_state())


def test_padding_is_not_counted_among_entries_that_are_not_saturated():
    env = padded()
    algorithm = build(MADDPG, env, num_cells=(13,))
    with torch.no_grad():
        for name, param in algorithm.actor.named_parameters():
            # The last layer's biases alone: every tanh is at its end.
            param.fill_(100.0 if name.endswith("bias") else 0.0)
    assert algorithm.health(random_batch())["saturated_share"] == 1


# Parts of a loss


def test_a_target_that_is_asked_for_by_itself_names_the_key_that_is_missing():
    estimator = InfluenceEstimatorLoss(maddpg())
    with pytest.raises(KeyError, match=r"The batch has no .*reward.*; it has"):
        estimator.value_target(random_batch().exclude(next_key(REWARD)))


def test_looking_at_gaps_neither_learns_nor_changes_a_mode():
    loss = influence(unit=OwnGradient(), value_norm=PopArtValueNorm(shape=1))
    loss.unit.eval()
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    loss.gaps(random_batch())
    assert (loss.training, loss.unit.training, loss.value_norm.training) == (True, False, True)
    assert all(torch.equal(value, before[name]) for name, value in loss.state_dict().items())


def test_weights_of_several_influencers_have_no_one_score():
    """As many influencers as steps would broadcast."""
    value, gap = torch.randn(2, T, N, 1)
    done = torch.zeros(T, 1, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"weights must have the shape \(3,\), got \(13, 3\)"):
        functional.influence_score(value, gap, torch.rand(T, N), done, 0.9)


def test_a_rollout_whose_time_is_no_dimension_of_it_is_refused():
    """Its environments would be taken for steps."""
    batch = random_batch(batch_size=(B, T))
    batch.batch_size = (B,)
    with pytest.raises(ValueError, match="A rollout's last dimension is time"):
        BonusScale({("agents", "novelty"): 0.5}).update(batch)


def test_a_policy_of_latent_variables_that_is_a_copy_is_refused(monkeypatch):
    """As in a worker process, which TorchRL starts with a function of its own."""
    running = SimpleNamespace(name="worker", _target=TransformedEnv.__init__)
    policy = make_latent_policy(STATE, num_latents=Z)
    monkeypatch.setattr("multiprocessing.current_process", lambda: running)
    env = TransformedEnv(TargetEnv(discrete=True, has_state=True))
    env.append_transform(EpisodeLatent(Z))
    with pytest.raises(ValueError, match="EpisodeLatent would read a copy of its"):
        EpisodeLatent(Z, policy=policy).transform_observation_spec(env.observation_spec)


def test_a_mean_of_no_observation_is_not_taken():
    """It would be NaN, and stay so."""
    bonus = RNDBonus(nn.Linear(O, 7), nn.Linear(O, 7), num_features=O)
    bonus.update(random_batch()[:0])
    with pytest.raises(ValueError, match="has seen no observation yet"):
        bonus(random_batch())
    bonus.update(random_batch())
    before = {name: value.clone() for name, value in bonus.state_dict().items()}
    bonus.update(random_batch()[:0])
    assert all(torch.equal(value, before[name]) for name, value in bonus.state_dict().items())


# Numbers of NumPy and torch in a sweep


def test_a_sweep_over_numbers_of_numpy_and_torch_is_one_over_pythons(tmp_path):
    grid = {
        "num_envs": np.arange(10, 30, 10),
        "alita.influence_coeff": torch.tensor([0.5, 1.0]),
        "maddpg.gamma": [np.float32(0.5)],
    }
    plain = {
        "num_envs": [10, 20],
        "alita.influence_coeff": [0.5, 1.0],
        "maddpg.gamma": [0.5],
    }
    options = {"tasks": ["vmas/spread"], "algorithms": ["alita", "maddpg"], "study": "s"}
    cells = make_cells(**options, seeds=np.int64(2), frames=np.int64(100), grid=grid)
    assert cells == make_cells(**options, seeds=2, frames=100, grid=plain)
    assert cells[0].command.endswith("--num-envs 10 --algorithm.influence-coeff 0.5")
    CellFolder(tmp_path, cells[0])
    CellFolder(tmp_path, Cell(**json.loads(json.dumps(dataclasses.asdict(cells[0])))))


# Seeds


def draws() -> list[float]:
    return [random.random(), np.random.rand(), torch.rand(()).item()]  # noqa: NPY002


@pytest.mark.parametrize("seed", [np.int64(3), np.uint8(3), torch.tensor(3)])
def test_a_seed_of_everything_may_be_a_number_of_numpy_or_torch(seed):
    with preserve_random_state():
        seed_everything(3)
        expected = draws()
        seed_everything(seed)
        assert draws() == expected


@pytest.mark.parametrize("seed", [None, -1, 2**32, 0.5])
def test_a_wrong_seed_of_everything_seeds_nothing(seed):
    with preserve_random_state():
        seed_everything(3)
        expected = draws()
        seed_everything(3)
        with pytest.raises(ValueError, match="seed must be a whole number"):
            seed_everything(seed)
        assert draws() == expected


@pytest.mark.parametrize(
    "wrong", [{"entropic_index": 0.0}, {"reward_scale": -1.0}, {"entropy_coeff": -0.1}]
)
def test_settings_that_a_loss_refuses_are_refused_before_it_is_built(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TACSettings(**wrong)


def test_a_key_that_is_missing_is_named_with_the_nearest_as_a_user_would_write_it():
    batch = TensorDict({"next": {"agents": {"novelty": torch.zeros(2, 3, 1)}}}, [2])
    with pytest.raises(KeyError) as error:
        require_keys(batch, [("next", "agents", "novlety")])
    assert str(error.value) == (
        "The batch has no ('next', 'agents', 'novlety'); it has ('next', 'agents', 'novelty'). "
        "Did you mean ('next', 'agents', 'novelty')?"
    )
    with pytest.raises(KeyError) as error:
        require_keys(batch, [("next", "agents", "done")])
    assert "Did you mean" not in str(error.value)
