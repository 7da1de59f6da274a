"""Hostile input: every public constructor and forward is right, or refuses and changes nothing.

What the contract of test_contract.py holds already (masks with NaN, missing and renamed
keys, double precision of losses) is not repeated here.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from constructors import (
    BONUSES,
    DISCRETE,
    ENV,
    LOSSES,
    ROLLOUTS,
    SMALL,
    SPEC,
    TRANSFORMS,
    acted,
    estimator,
    maddpg,
    of_one_agent,
    pathwise,
)
from fakes import (
    A,
    B,
    N,
    O,
    TargetEnv,
    build,
    by_name,
    constant_actor,
    linear_critic,
    random_batch,
    sequences,
)
from hostile_cases import (
    ACCEPTED,
    ERRORS,
    REFUSED,
    SHAPES,
    assert_batch_same,
    assert_close,
    assert_same,
    expanded,
    modules_of,
    read_only,
    refused,
    reshaped,
    results,
    right_or_refused,
    state_of,
    strided,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import NonTensorData, TensorDict
from torchrl.data import LazyTensorStorage, OneHot, ReplayBuffer
from torchrl.modules import PopArtValueNorm
from torchrl.objectives import SoftUpdate

import torchrl_alita
import torchrl_alita.data
import torchrl_alita.envs
import torchrl_alita.modules
import torchrl_alita.objectives
import torchrl_alita.transforms
from torchrl_alita import (
    ALITA,
    MADDPG,
    PPO,
    QMIX,
    SAC,
    TAC,
    TD3,
    AtPolicy,
    Autoencoder,
    BestOf,
    ConditionalSampler,
    DiversityPenalty,
    Enumerated,
    InfluenceEstimatorLoss,
    InfluenceLoss,
    InfluenceScoreLoss,
    MADDPGLoss,
    Marginal,
    NoveltyLoss,
    NoveltyReward,
    OwnGradient,
    SequenceSampler,
    TDTarget,
    Team,
    TeamExploration,
    TotalReward,
    Trained,
    TRPOLoss,
    TsallisLoss,
    TwinALITA,
    ValueDecompositionLoss,
    make_actor,
    make_critic,
    make_env,
    make_influence_network,
    make_qnetwork,
    make_recurrent_actor,
)
from torchrl_alita.data import (
    CountTable,
    Displacement,
    JointCode,
    OneHotCode,
    TransitionCounts,
)
from torchrl_alita.envs import (
    CMAEPushBox,
    CMAESecretRoom,
    CooperativeNavigation,
    MarkovGame,
    MatrixGame,
    PhysicalDeception,
    PushBox,
    SecretRoom,
    SpeakerListener,
    StreamedVmasEnv,
    Task,
    UnpaidSpeaker,
    as_team,
)
from torchrl_alita.experiments import bootstrap_interval, make_cells
from torchrl_alita.modules import (
    GoalAttention,
    GumbelOneHot,
    MultiAgentGRU,
    StackedLinear,
    make_gaussian_actor,
    make_linear_actor,
    make_linear_value,
    make_value,
)
from torchrl_alita.modules.one_hot import StraightThroughOneHot
from torchrl_alita.optim import KFAC, TrustRegion
from torchrl_alita.transforms import (
    BonusScale,
    RNDBonus,
    SocialInfluence,
    TransitionInfluence,
    VisitBonus,
)

T = 5
ALONE = TargetEnv(n_agents=1)


def seeded(make):
    """A factory whose networks are always the same."""

    def made(**options):
        torch.manual_seed(3)
        return make(**options)

    return made


MAKERS = {f"loss_{name}": seeded(make) for name, make in LOSSES.items()} | {
    f"transform_{name}": seeded(make) for name, make in TRANSFORMS.items() if name not in BONUSES
}
# Of batches with a dimension of time.
IN_ORDER = (
    *("loss_influence_score", "loss_recurrent_maddpg", "loss_recurrent_influence"),
    *("loss_recurrent_maddpg_lambda", "loss_recurrent_influence_score"),
    *("loss_recurrent_clones", "loss_qmix", "loss_qmix_lambda", "loss_iql"),
    *(f"loss_{name}" for name in ROLLOUTS),
)
EVERY = pytest.mark.parametrize("name", MAKERS)
EVERY_LOSS = pytest.mark.parametrize("name", [name for name in MAKERS if name.startswith("loss")])
# Deterministic, so that it cannot fail in another's change.
SEARCH = settings(max_examples=20, deadline=None, derandomize=True, database=None)
AGENTS = ("observation", "action", "reward", "novelty")


def batch_for(name: str, batch_size: tuple[int, ...] | None = None) -> TensorDict:
    """An ordinary batch of a loss or transform; some have steps in order."""
    of_sequences = ("qmix", "qmix_lambda", "vdn", "iql", *ROLLOUTS)
    if name.startswith("loss_recurrent") or name.removeprefix("loss_") in of_sequences:
        usual = (B,) if name == "loss_vdn" else (B, 2)
        return sequences(batch_size=usual if batch_size is None else batch_size)
    usual = (B, T) if name == "loss_influence_score" else (B,)
    make = acted if name == "loss_trpo" else random_batch
    batch = make(batch_size=usual if batch_size is None else batch_size)
    if "in_turns" in name:
        batch = of_one_agent(batch)
    if name in ("loss_influence_score", "loss_maddpg_all"):
        index = batch["agents", "action"].argmax(-1)
        batch["agents", "action"] = torch.nn.functional.one_hot(index, A).float()
    return batch


def converted(batch: TensorDict, change) -> TensorDict:
    """The batch with all its tensors changed, in a tensordict that lets them be."""
    return TensorDict(
        {key: change(value) for key, value in batch.items(True, True)}, batch.batch_size
    )


# Batches


@EVERY
@pytest.mark.parametrize("memory", [strided, read_only, expanded], ids=lambda f: f.__name__)
def test_hostile_memory_gives_the_result_of_ordinary_memory(name, memory):
    make, batch = MAKERS[name], converted(batch_for(name), memory)
    plain = converted(batch, lambda value: value.clone(memory_format=torch.contiguous_format))
    assert_close(results(make(), batch), results(make(), plain))
    assert_batch_same(batch, plain)


@pytest.mark.parametrize("name", [name for name in MAKERS if name not in IN_ORDER])
@SEARCH
@given(batch_size=st.lists(st.integers(0, 3), max_size=3))
def test_hostile_batch_sizes_give_each_row_its_own_result(name, batch_size):
    batch, rows = batch_for(name, tuple(batch_size)), MAKERS[name]
    if name.startswith("transform"):
        result, flat = rows()(batch), rows()(batch.reshape(math.prod(batch_size)))
        agents = 1 if "in_turns" in name else N
        for key in rows().batch_out_keys:
            assert result[key].shape == (*batch_size, agents, 1)
            torch.testing.assert_close(result[key].reshape(-1, agents, 1), flat[key])
    elif 0 in batch_size:
        refused(rows(), batch, "batch is empty")
    else:
        result = rows(reduction="none")(batch)
        flat = rows(reduction="none")(batch.reshape(math.prod(batch_size)))
        for key in (key for key in result.keys() if key.startswith("loss_")):  # noqa: SIM118
            assert result[key].shape == tuple(batch_size), key
            torch.testing.assert_close(result[key].reshape(-1), flat[key])


@pytest.mark.parametrize(
    ("batch_size", "match"), [((), "time"), ((B,), "time"), ((0, T), "empty"), ((B, 0), "empty")]
)
def test_hostile_batches_without_time_are_refused_by_theorem_1(batch_size, match):
    refused(LOSSES["influence_score"](), batch_for("loss_influence_score", batch_size), match)


@pytest.mark.parametrize("batch_size", [(1, 1), (1, T), (2, 3, T)])
def test_hostile_batch_sizes_with_time_give_finite_influence(batch_size):
    batch = batch_for("loss_influence_score", batch_size)
    result = LOSSES["influence_score"](reduction="none")(batch)
    assert result["loss_influence"].shape == batch_size
    assert result["loss_influence"].isfinite().all()


@EVERY
def test_hostile_further_entries_change_nothing(name):
    make, plain = MAKERS[name], batch_for(name)
    batch = plain.clone()
    batch["agents", "memory", "hidden"] = torch.full((*batch.batch_size, 11), torch.nan)
    batch["next", "agents", "info"] = torch.ones(*batch.batch_size, 2, dtype=torch.complex64)
    batch["index"] = torch.zeros(batch.batch_size, dtype=torch.uint8)
    batch.set("note", NonTensorData("hostile", batch_size=batch.batch_size))
    before = batch.clone()
    assert_close(results(make(), batch), results(make(), plain))
    assert_batch_same(batch, before)


@EVERY
@pytest.mark.parametrize("how", SHAPES)
def test_hostile_shapes_are_refused_and_change_nothing(name, how):
    module = MAKERS[name]()
    for key in module.in_keys:
        if "in_turns" in name and (how, key[-1]) == ("a dimension more", "terminated"):
            continue  # a flag for each agent, of one agent
        if "agent " not in how or key[-1] in AGENTS:
            batch = batch_for(name)
            refused(module, batch.set(key, reshaped(batch[key], how)))


@EVERY
def test_hostile_tensordicts_in_place_of_tensors_are_refused_by_name(name):
    module = MAKERS[name]()
    batch = batch_for(name)
    key = module.in_keys[0]
    error = refused(module, batch.set(key, TensorDict({"x": batch[key]}, batch.batch_size)))
    assert str(key) in str(error)


@EVERY
@SEARCH
@given(data=st.data())
def test_hostile_dtypes_are_right_or_refused(name, data):
    """Of one entry or of several; float64 against float32 parameters, bool rewards, and so on."""
    module, batch = MAKERS[name](), batch_for(name)
    keys = data.draw(st.lists(st.sampled_from(module.in_keys), min_size=1, unique=True))
    dtypes = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
    plain = batch.clone()
    for key in keys:
        dtype = data.draw(st.sampled_from(dtypes))
        value = batch[key]
        if not dtype.is_floating_point and value.is_floating_point():
            value = (value > 0).float()
        batch[key] = value.to(dtype)
        plain[key] = batch[key].to(plain[key].dtype)
    right_or_refused(module, batch, plain, rtol=2e-2, atol=2e-2)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_hostile_batches_of_another_precision_are_refused_with_both_dtypes(name, dtype):
    module = MAKERS[name]()
    batch = converted(batch_for(name), lambda v: v.to(dtype) if v.is_floating_point() else v)
    if name == "transform_total":
        assert module(batch)["next", "agents", "total_reward"].dtype == dtype
    else:
        error = refused(module, batch, str(dtype))
        assert isinstance(error, TypeError)
        assert "torch.float32" in str(error)


@EVERY
def test_hostile_bfloat16_of_batch_and_networks_is_right_within_its_digits(name):
    batch = converted(batch_for(name), lambda v: v.bfloat16() if v.is_floating_point() else v)
    plain = converted(batch, lambda v: v.float() if v.is_floating_point() else v)
    if name in IN_ORDER:
        plain, batch = plain[:, :2], batch[:, :2]
    lower, higher = MAKERS[name](), MAKERS[name]()
    for module in modules_of(lower):
        module.bfloat16()
    for module in modules_of(higher):
        for value in (*module.parameters(), *module.buffers()):
            if value.is_floating_point():
                value.data = value.data.bfloat16().float()
    result, expected = lower(batch), higher(plain)
    keys = lower.batch_out_keys if name.startswith("transform") else lower.out_keys
    for key in keys:
        assert result[key].dtype == torch.bfloat16, key
        torch.testing.assert_close(result[key].float(), expected[key], rtol=0.1, atol=0.05)


def test_hostile_bfloat16_of_networks_takes_drawn_actions_of_a_float32_spec():
    actor, critic = make_actor(ENV, num_cells=SMALL), make_critic(ENV, num_cells=SMALL)
    partner = with_targets(actor.bfloat16(), critic.bfloat16())
    loss = InfluenceLoss(actor, partner, optimum=BestOf(uniform=5, spec=SPEC))
    batch = converted(random_batch(), lambda v: v.bfloat16() if v.is_floating_point() else v)
    assert loss(batch)["gap"].isfinite().all()


@pytest.mark.parametrize("omega", [0.5, [0.1, 0.2, 0.3]])
def test_hostile_bfloat16_stays_what_it_is_whatever_the_form_of_omega(omega):
    batch = converted(random_batch(), lambda v: v.bfloat16() if v.is_floating_point() else v)
    penalty = DiversityPenalty(make_actor(ENV, num_cells=SMALL).bfloat16(), omega=omega)
    assert penalty(batch)["next", "agents", "diversity_penalty"].dtype == torch.bfloat16


@pytest.mark.parametrize("name", [name for name in MAKERS if name.startswith("transform")])
def test_hostile_double_precision_of_batch_and_networks_is_right(name):
    batch = batch_for(name)
    doubled = converted(batch, lambda v: v.double() if v.is_floating_point() else v)
    module = MAKERS[name]()
    for part in modules_of(module):
        part.double()
    for key in module.batch_out_keys:
        result = module(doubled)[key]
        assert result.dtype == torch.float64
        torch.testing.assert_close(result.float(), MAKERS[name]()(batch)[key])


@EVERY
def test_hostile_devices_are_refused_by_name(name):
    module, batch = MAKERS[name](), batch_for(name).to("meta")
    if name == "transform_total":
        assert module(batch)["next", "agents", "total_reward"].device.type == "meta"
    else:
        refused(module, batch, "on cpu, its inputs on meta")


@EVERY_LOSS
def test_hostile_entries_on_several_devices_are_refused_by_name(name):
    module, batch = MAKERS[name](), batch_for(name)
    action = batch["agents", "action"]
    batch = converted(batch, lambda value: value.to("meta") if value is action else value)
    refused(module, batch, "must be on one device")


# Masks, flags and what a batch may hold besides


@EVERY_LOSS
@pytest.mark.parametrize(
    "mask",
    [
        lambda rows: torch.ones(rows),
        lambda rows: torch.ones(rows, dtype=torch.long),
        lambda rows: torch.ones(*rows, N, dtype=torch.bool),
        lambda rows: torch.ones(*rows, 2, dtype=torch.bool),
    ],
)
def test_hostile_masks_are_refused_by_name(name, mask):
    batch = batch_for(name)
    batch["collector", "mask"] = mask(batch.batch_size)
    refused(MAKERS[name](), batch, r"'collector', 'mask'.* must be bool of the shape")


@pytest.mark.parametrize("name", ["clones", "centralized"])
@pytest.mark.parametrize("shape", [(B, N), (B, N, 2), (B, 1), (B, N + 1, 1)])
def test_hostile_shapes_of_given_targets_are_refused_by_name(name, shape):
    batch = random_batch().set(("agents", "value_target"), torch.zeros(shape))
    refused(LOSSES[name](), batch, r"'value_target'\)")


@EVERY_LOSS
def test_hostile_masks_that_hide_every_row_give_no_loss_and_no_gradient(name):
    batch = batch_for(name)
    batch["agents", "observation"].fill_(torch.nan)
    batch["collector", "mask"] = torch.zeros(*batch.batch_size, dtype=torch.bool)
    for key, value in results(MAKERS[name](), batch).items():
        if key.startswith(("loss_", "gradient")):
            assert not value.any(), key


def padded(batch: TensorDict, shown: int) -> TensorDict:
    """NaN and a mask in the rows after the shown ones."""
    batch = batch.clone()
    for value in batch.values(True, True):
        if value.is_floating_point():
            value[shown:] = torch.nan
    mask = torch.arange(batch.batch_size[0]) < shown
    return batch.set(("collector", "mask"), mask)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("clones", ("agents", "value_target"), torch.linspace(-1, 1, B * N).view(B, N, 1)),
        ("centralized", ("agents", "value_target"), torch.linspace(-1, 1, B * N).view(B, N, 1)),
        ("maddpg", "priority_weight", torch.linspace(0.5, 1.5, B)),
        ("matd3", "priority_weight", torch.linspace(0.5, 1.5, B)),
    ],
)
@pytest.mark.parametrize("shown", [1, B - 2])
def test_hostile_padding_of_entries_that_may_be_missing_changes_nothing(name, key, value, shown):
    batch = random_batch().set(key, value)
    plain = results(LOSSES[name](), batch[:shown])
    assert_close(results(LOSSES[name](), padded(batch, shown)), plain)


def value_norm() -> PopArtValueNorm:
    return PopArtValueNorm(shape=1, beta=0.99)


@pytest.mark.parametrize("shown", [1, 3, B])
def test_hostile_padding_is_no_part_of_the_running_scale(shown):
    batch = random_batch()
    first, second = (LOSSES["influence_marginal"](value_norm=value_norm()) for _ in range(2))
    for _ in range(3):
        plain, masked = results(first, batch[:shown]), results(second, padded(batch, shown))
        assert_close(masked, plain, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(second.value_norm.scale(), first.value_norm.scale())


@pytest.mark.slow
def test_the_running_scale_compiles_with_a_mask_hostile_to_it():
    torch._dynamo.reset()
    eager, compiled = (LOSSES["influence_marginal"](value_norm=value_norm()) for _ in range(2))
    graph = torch.compile(compiled, fullgraph=True, backend="aot_eager")
    batch = padded(random_batch(), 4)
    torch.testing.assert_close(graph(batch)["loss_influence"], eager(batch)["loss_influence"])


@pytest.mark.parametrize("name", ["maddpg", "clones", "centralized", "influence_clones_next"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.uint8])
def test_hostile_numbers_as_flags_of_termination_are_refused(name, dtype):
    batch = random_batch()
    batch["next", "terminated"] = batch["next", "terminated"].to(dtype)
    refused(LOSSES[name](), batch, f"terminated must be bool, got {dtype}")


@pytest.mark.parametrize("name", ["loss_maddpg_all", "loss_influence_score"])
def test_hostile_numbers_of_actions_in_place_of_one_hot_ones_are_refused(name):
    batch = batch_for(name)
    batch["agents", "action"] = batch["agents", "action"].argmax(-1)
    shape = rf"\({', '.join(map(str, (*batch.batch_size, N)))}\)"
    refused(MAKERS[name](), batch, rf"'action'\).* of {shape}")


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float64])
@pytest.mark.parametrize("name", ["loss_maddpg_all", "loss_influence_score"])
def test_hostile_dtypes_of_one_hot_actions_give_the_plain_result_or_a_clear_error(name, dtype):
    batch, plain = batch_for(name), batch_for(name)
    batch["agents", "action"] = batch["agents", "action"].to(dtype)
    right_or_refused(MAKERS[name](), batch, plain)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64])
@pytest.mark.parametrize("name", ["maddpg", "matd3", "clones", "centralized"])
def test_hostile_rewards_of_whole_numbers_are_what_they_are_as_floats(name, dtype):
    batch, plain = random_batch(), random_batch()
    rewards = (batch["next", "agents", "reward"] > 0).to(dtype)
    batch["next", "agents", "reward"] = rewards
    plain["next", "agents", "reward"] = rewards.float()
    assert_close(results(LOSSES[name](), batch), results(LOSSES[name](), plain))


def test_a_hostile_action_mask_of_numbers_is_refused():
    batch = batch_for("loss_maddpg_all")
    batch["agents", "action_mask"] = torch.ones(B, N, A, dtype=torch.long)
    loss = pathwise()
    refused(loss, batch, r"action_mask must be bool, got torch\.int64")
    penalty = DiversityPenalty(make_actor(DISCRETE, num_cells=SMALL), distance="brier")
    refused(penalty, batch, r"action_mask must be bool, got torch\.int64")


def test_a_hostile_action_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"\(7, 3, 2\), got \(3, 2\)"):
        StraightThroughOneHot(torch.zeros(B, N, A), torch.ones(N, A, dtype=torch.bool))


def test_rewards_that_would_broadcast_are_hostile():
    batch = TensorDict({"next": {"agents": {"reward": torch.ones(N, N, 1)}}}, [N])
    batch["next", "agents", "novelty"] = torch.ones(N, N)
    refused(TotalReward({("agents", "novelty"): 1.0}), batch, r"one shape, got \[\(3, 3, 1\)")


# Networks and partners


def with_targets(actor, critic) -> MADDPGLoss:
    loss = MADDPGLoss(actor, critic)
    SoftUpdate(loss, tau=0.5)
    return loss


@EVERY_LOSS
def test_a_hostile_batch_leaves_every_network_its_own_parameters(name):
    """Not those of a target or a clone, with which it failed: the policy acts as before."""
    module, batch = MAKERS[name](), batch_for(name)
    plain = results(module, batch)
    networks = [part for part in modules_of(module) if list(part.parameters())]
    before = [dict(part.named_parameters()) for part in networks]
    refused(module, batch.double(), "float64")
    for part, parameters in zip(networks, before, strict=True):
        after = dict(part.named_parameters())
        assert all(after[key] is value for key, value in parameters.items())
    assert_close(results(module, batch), plain)


def test_hostile_networks_that_write_other_keys_are_refused_by_what_they_write():
    actor, critic = make_actor(ENV, num_cells=SMALL), make_critic(ENV, num_cells=SMALL)
    refused(with_targets(critic, actor), random_batch(), "The network writes .*state_action_value")
    refused(DiversityPenalty(critic), random_batch(), "The network writes .*state_action_value")
    refused(InfluenceLoss(critic, maddpg()), random_batch(), "The network writes")


@pytest.mark.parametrize("partner", [None, 5, "maddpg", torch.nn.Linear(2, 2)])
def test_a_hostile_partner_is_refused_by_its_kind(partner):
    for make in (
        InfluenceEstimatorLoss,
        lambda p: InfluenceLoss(make_actor(ENV), p),
        lambda p: InfluenceScoreLoss(make_actor(DISCRETE), p),
    ):
        with pytest.raises(ValueError, match=f"{type(partner).__name__} has no actor_network"):
            make(partner)


@pytest.mark.parametrize("team", [TargetEnv(n_agents=N + 1), TargetEnv(n_agents=1)])
def test_hostile_networks_of_another_number_of_agents_are_refused(team):
    critic = make_critic(team, num_cells=SMALL)
    loss = with_targets(make_actor(team, num_cells=SMALL), critic)
    refused(loss, random_batch(), r"The network takes \(agents, features\)")
    penalty = DiversityPenalty(make_actor(team, num_cells=SMALL))
    refused(penalty, random_batch(), r"The network takes \(agents, features\)")


def test_a_lone_agent_is_a_hostile_team_for_influence():
    env = TargetEnv(n_agents=1)
    with pytest.raises(ValueError, match="influencer 0 is alone"):
        ALITA(env, ALITA.Settings(num_cells=SMALL))
    assert ALITA(env, ALITA.Settings(influence_coeff=0, num_cells=SMALL)).influences == []


@pytest.mark.parametrize("influencees", [[1, 2], (1, 2), np.array([1, 2]), torch.tensor([1, 2])])
def test_influencees_in_hostile_containers_are_the_same_influencees(influencees):
    trained = estimator("clones", Team(N, influencees=influencees))
    partner, team = trained.partner, Team(N, influencees=(1, 2))
    loss = InfluenceLoss(partner.actor_network, partner, team, value=Trained(trained))
    assert trained.team.influencees == loss.team.influencees == (1, 2)


def test_a_whole_number_as_gamma_is_not_hostile_to_a_schedule():
    loss = MADDPGLoss(
        constant_actor(torch.zeros(N, A)), linear_critic(torch.zeros(N, N, A)), gamma=1
    )
    loss.gamma = 0.25
    assert float(loss.gamma) == 0.25


@pytest.mark.parametrize("bounds", [(1.0, -1.0), (0.0, 0.0), (float("nan"), 1.0)])
def test_hostile_bounds_of_actions_are_refused(bounds):
    with pytest.raises(ValueError, match="least and the largest"):
        LOSSES["maddpg"](action_bounds=bounds)


@pytest.mark.parametrize(
    "spec", [ENV.full_action_spec["agents", "action"], SPEC[0], TargetEnv(n_agents=5).action_spec]
)
def test_a_hostile_action_spec_is_refused_at_the_latest_with_the_batch(spec):
    def use():
        LOSSES["influence_marginal"](optimum=BestOf(uniform=3, spec=spec))(random_batch())

    with pytest.raises(ValueError, match="spec must"):
        use()


def test_a_hostile_spec_of_other_agents_does_not_move_the_running_scale():
    spec = TargetEnv(n_agents=5).full_action_spec_unbatched["agents", "action"]
    options = {"optimum": BestOf(uniform=3, spec=spec), "value_norm": value_norm()}
    refused(LOSSES["influence_marginal"](**options), random_batch(), r"\(3, 2\) .* got \(5, 2\)")
    larger = LOSSES["influence_marginal"](value_norm=value_norm(), team=Team(N + 2))
    refused(larger, random_batch(), f"{N + 2} agents, the batch has {N}")


# Algorithms


@pytest.mark.parametrize("algorithm", [MADDPG, ALITA])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda batch: batch.exclude(("next", "agents", "reward")),
        lambda batch: batch.set(("next", "agents", "reward"), torch.zeros(B, N)),
        lambda batch: batch.set(("agents", "action"), torch.zeros(B, N + 1, A)),
        lambda batch: batch.double(),
        lambda batch: batch[:0],
    ],
    ids=["missing", "rewards", "agents", "double", "empty"],
)
def test_a_hostile_batch_is_no_update(algorithm, spoil):
    torch.manual_seed(0)
    learner = build(algorithm, ENV, num_cells=SMALL, policy_delay=2)
    learner.update(by_name(learner, random_batch()))
    before = {name: state_of(module) for name, module in learner.modules.items()}
    with pytest.raises(ERRORS):
        learner.update(
            by_name(learner, spoil(random_batch().exclude(("next", "agents", "novelty"))))
        )
    assert_same({name: state_of(module) for name, module in learner.modules.items()}, before)
    assert learner.updates == 1


# Sampler and exploration


def stored(rows: int, change=lambda value: value) -> LazyTensorStorage:
    agents = {
        "observation": change(torch.randn(rows, N, O)),
        "action": change(torch.randn(rows, N, A)),
    }
    storage = LazyTensorStorage(max(rows, 1))
    if rows:
        storage.set(range(rows), TensorDict({"agents": agents}, [rows]))
    return storage


def drawn(storage: LazyTensorStorage, batch_size: int, **options) -> torch.Tensor:
    sampler = ConditionalSampler(num_anchors=2, **options)
    buffer = ReplayBuffer(storage=storage, sampler=sampler, batch_size=batch_size)
    return buffer._sampler.sample(buffer._storage, batch_size)[0]


@pytest.mark.parametrize("kind", ["nearest", "exact", "uniform"])
@SEARCH
@given(
    rows=st.integers(1, 4),
    batch_size=st.integers(2, 9),
    num_candidates=st.integers(1, 50),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool]),
)
def test_hostile_storages_give_indices_of_their_rows(kind, rows, batch_size, num_candidates, dtype):
    storage = stored(rows, lambda value: value.to(dtype))
    index = drawn(storage, batch_size, kind=kind, num_candidates=num_candidates)
    assert index.shape == (batch_size,)
    assert 0 <= index.min() <= index.max() < rows


def test_hostile_whole_numbers_that_float32_cannot_tell_apart_are_not_equal():
    """2**24 and 2**24 + 1: the exact matches of an anchor are its own kind alone."""
    storage = stored(2, lambda value: torch.zeros_like(value).long())
    storage._storage["agents", "observation"][:] = torch.tensor([2**24, 2**24 + 1]).view(2, 1, 1)
    sampler = ConditionalSampler(num_anchors=1, num_candidates=64, anchor_window=1, kind="exact")
    sampler.mark_update(1)
    assert (sampler.sample(storage, 16)[0] == 1).all()


@pytest.mark.parametrize("kind", ["nearest", "exact"])
def test_a_hostile_storage_without_features_is_refused_by_name(kind):
    with pytest.raises(ValueError, match=r"observation'\) must have the shape .* got \(4, 3\)"):
        drawn(stored(4, lambda value: value[..., 0]), 4, kind=kind)


def explorer(discrete: bool, **options) -> TeamExploration:
    env = DISCRETE if discrete else ENV
    return TeamExploration(env.full_action_spec_unbatched["agents", "action"], **options)


def actions(discrete: bool, *lead: int) -> TensorDict:
    action = torch.eye(A)[torch.zeros(*lead, N).long()] if discrete else torch.zeros(*lead, N, A)
    return TensorDict({"agents": {"action": action}}, lead)


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("lead", [(), (0,), (1,), (2, 0), (2, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_hostile_batches_of_environments_are_explored_in_their_shape_and_dtype(
    discrete, lead, dtype
):
    batch, exploration = actions(discrete, *lead), explorer(discrete, spread=1.0)
    batch["agents", "action"] = batch["agents", "action"].to(dtype)
    for _ in range(2):
        exploration(batch)
        assert batch["agents", "action"].shape == (*lead, N, A)
        assert batch["agents", "action"].dtype == dtype
        assert batch["agents", "action"].isfinite().all()


@pytest.mark.parametrize(
    ("discrete", "key", "value"),
    [
        (False, ("agents", "action"), torch.zeros(B, N, A, dtype=torch.long)),
        (False, ("agents", "action"), torch.zeros(B, N)),
        (True, ("agents", "action"), torch.zeros(B, N, dtype=torch.long)),
        (True, ("agents", "action"), torch.zeros(B, N, A, device="meta")),
        (True, ("agents", "mask"), torch.ones(B, N, A)),
        (True, ("agents", "mask"), torch.ones(B, N, dtype=torch.bool)),
        (True, ("agents", "mask"), torch.ones(B, 1, A, dtype=torch.bool)),
        (True, "is_init", torch.ones(B, N, dtype=torch.bool)),
        (False, "is_init", torch.ones(B, 1)),
    ],
)
def test_hostile_entries_are_not_explored_and_nothing_is_written(discrete, key, value):
    exploration = explorer(discrete, action_mask_key=("agents", "mask") if discrete else None)
    batch = actions(discrete, B).set(("agents", "mask"), torch.ones(B, N, A, dtype=torch.bool))
    refused(exploration, batch.set(key, value), key if isinstance(key, str) else key[-1])


# Constructors


def _total(coeff):
    return TotalReward({"coeff": coeff})


def _estimator(**options):
    return InfluenceEstimatorLoss(maddpg(), **options)


def _influence(**options):
    return InfluenceLoss(scored_actor(), maddpg(), **options)


def _influence_score(**options):
    return InfluenceScoreLoss(scored_actor(), maddpg(), **options)


def scored_actor():
    return make_actor(DISCRETE, num_cells=SMALL)


def _team(**options):
    return Team(N, **options)


def _best_of(**options):
    return BestOf(**{"spec": SPEC, **options})


def _trained(**options):
    return Trained(_estimator(), **options)


def _penalty(**options):
    return DiversityPenalty(make_actor(ENV, num_cells=SMALL), **options)


def _novelty_loss(**options):
    return NoveltyLoss(Autoencoder(O + A), **options)


def _novelty_reward(**options):
    return NoveltyReward(Autoencoder(O + A), **options)


def _autoencoder(in_features=O + A, **options):
    return Autoencoder(in_features, **options)


def _game(discount=0.5, **options):
    return MarkovGame(torch.ones(1, 4, 1), torch.zeros(2, 1, 4), discount, **options)


def _random_game(seed=0, num_states=2, num_agents=2, num_actions=2):
    return MarkovGame.random(seed, num_states, num_agents, num_actions)


def _push_box_task(**options):
    return make_env("push_box", **{"n_agents": 2, **options})


def _spread(**options):
    return StreamedVmasEnv("simple_spread", num_envs=1, device="cpu", **options)


def _continuous(**options):
    return explorer(False, **{"eps_end": 0.0, **options})


def _one_hot(**options):
    spec = OneHot(5, shape=(N, 5), dtype=torch.float32)
    return TeamExploration(spec, **{"eps_end": 0.0, **options})


def _actor(env=DISCRETE, **options):
    return make_actor(env, **{"num_cells": SMALL, **options})


def _critic(**options):
    return make_critic(ENV, **{"num_cells": SMALL, **options})


def _influence_network(**options):
    return make_influence_network(ENV, **{"num_cells": SMALL, **options})


def _gumbel(**options):
    return GumbelOneHot(**options)


def _straight_through(**options):
    return StraightThroughOneHot(torch.zeros(2, 3), **options)


def _maddpg(**options):
    return MADDPG(ENV, MADDPG.Settings(**{"num_cells": SMALL, **options}))


def _alita(**options):
    return ALITA(ENV, ALITA.Settings(num_cells=SMALL, **options))


def _single(make):
    def made(**options):
        return build(make, ALONE, num_cells=SMALL, **options)

    made.__name__ = f"_{make.__name__.lower()}"
    return made


def _tsallis(**options):
    networks = (make_gaussian_actor(ALONE), make_critic(ALONE), make_value(ALONE))
    return TsallisLoss(*networks, **options)


def _trust_region(**options):
    return TRPOLoss(make_gaussian_actor(ALONE), **options)


def _kfac(**options):
    return KFAC(torch.nn.Linear(3, 2), **options)


def _trust_region_step(**options):
    return TrustRegion([torch.nn.Parameter(torch.zeros(3))], **options)


def _stacked_linear(**options):
    return StackedLinear(**{"in_features": 3, "out_features": 2, "num_agents": N, **options})


def _linear_actor(**options):
    return make_linear_actor(ENV, **options)


def _linear_value(**options):
    return make_linear_value(ENV, **options)


def _gaussian_actor(**options):
    return make_gaussian_actor(ALONE, **{"num_cells": SMALL, **options})


def _value(**options):
    return make_value(ALONE, **{"num_cells": SMALL, **options})


def _recurrent_actor(**options):
    return make_recurrent_actor(DISCRETE, **options)


def _gru(**options):
    sizes = {"observation_size": O, "action_size": A, "out_features": A, "num_agents": N}
    return MultiAgentGRU(**(sizes | options))


def _qnetwork(**options):
    return make_qnetwork(DISCRETE, **options)


def _value_decomposition(**options):
    return ValueDecompositionLoss(make_qnetwork(DISCRETE), **options)


def _sequence_sampler(**options):
    return SequenceSampler(**({"num_envs": 3, "length": 5} | options))


def _qmix(**options):
    return QMIX(DISCRETE, QMIX.Settings(**options))


def _matrix_game(**options):
    return MatrixGame([[1.0, 0.0, 0.0, 2.0]] * 2, **options)


def _one_hot_code(**options):
    return OneHotCode(**{"blocks": [5], "parts": [[0], [0]], **options})


def _count_table(**options):
    return CountTable(**{"num_codes": 5, **options})


def _joint_code(**options):
    return JointCode(**{"code": _one_hot_code(), "num_agents": 2, **options})


def _visit_bonus(**options):
    return VisitBonus(**{"code": _one_hot_code(), **options})


def _rnd_bonus(**options):
    networks = {name: torch.nn.Linear(5, 3) for name in ("target_network", "predictor_network")}
    return RNDBonus(**networks | options)


def _bonus_scale(**options):
    return BonusScale({"bonus": 0.5}, **options)


def _transition_counts(**options):
    code = _one_hot_code()
    sizes = {"num_agents": 2, "num_actions": 3, "slots": 100}
    return TransitionCounts(code, Displacement(code), **sizes | options)


def _transition_influence(counts=None, **options):
    return TransitionInfluence(_transition_counts() if counts is None else counts, **options)


def _goal_attention(**options):
    sizes = {"own_features": 4, "num_goals": 3, "num_others": 2, "out_features": 2}
    return GoalAttention(**sizes | options)


def _as_team(**options):
    return as_team(ENV, **options)


def _task(**options):
    return Task(**{"make": TargetEnv, **options})


def _bootstrap(**options):
    return bootstrap_interval([1.0, 2.0, 3.0], **{"resamples": 2, **options})


def _cells(**options):
    given = {"study": "s", "seeds": 1, "frames": 10}
    return make_cells(["push_box"], ["maddpg"], **given | options)


# By constructor: the kind of each argument, see hostile_cases.py.
PARTICLES = {
    "num_envs": "whole",
    "horizon": "whole",
    "continuous_actions": "flag",
    "positions_first": "flag",
    "seed": "seed",
}
ARGUMENTS = {
    CooperativeNavigation: {**PARTICLES, "num_agents": "whole", "self_collisions": "flag"},
    SpeakerListener: PARTICLES,
    UnpaidSpeaker: PARTICLES,
    PhysicalDeception: {**PARTICLES, "num_good": "whole"},
    CMAEPushBox: {"horizon": "whole", "reward": "positive", "mask_blocked": "flag"},
    CMAESecretRoom: {"horizon": "whole", "reward": "positive", "mask_blocked": "flag"},
    _one_hot_code: {"blocks": "widths"},
    _joint_code: {"code": "callable", "num_agents": "whole"},
    _visit_bonus: {
        "code": "callable",
        "num_agents": "whole_or_none",
        "slots": "whole_or_none",
        "frozen": "flag",
    },
    _rnd_bonus: {
        "target_network": "module",
        "predictor_network": "module",
        "num_features": "whole_or_none",
        "obs_clip": "positive",
        "frozen": "flag",
    },
    _bonus_scale: {"gamma": "share", "decay": "below_one", "frozen": "flag"},
    _transition_counts: {
        "num_agents": "team_size",
        "num_actions": "whole",
        "slots": "whole",
        "deterministic": "flag",
    },
    _transition_influence: {"gamma": "share", "frozen": "flag"},
    SocialInfluence: {"others": "module"},
    _count_table: {"num_codes": "whole", "slots": "whole_or_none"},
    _goal_attention: {
        "own_features": "whole_from_0",
        "num_goals": "whole",
        "num_others": "whole",
        "out_features": "whole",
        "width": "whole",
    },
    _as_team: {"most_choices": "whole"},
    _task: {
        "make": "callable",
        "metrics": "callable_or_none",
        "draw": "callable_or_none",
        "events": "callable_or_none",
        "configure": "callable_or_none",
        "n_agents": "whole_or_none",
        "horizon": "whole",
    },
    _bootstrap: {"resamples": "team_size", "seed": "whole_from_0"},
    _cells: {"frames": "whole"},
    maddpg: {
        "gamma": "share",
        "lmbda": "share",
        "logits_coeff": "non_negative",
        "policy_noise": "non_negative",
        "noise_clip": "non_negative",
        "others_actions": "name",
        "own_actions": "name",
        "reduction": "name",
    },
    _team: {"influencers": "name_or_index", "influencees": "indices"},
    _estimator: {
        "team": "lone_index",
        "gamma": "share_or_none",
        "kind": "name",
        "reduction": "name",
    },
    _influence: {
        "team": "indices",
        "influence_coeff": "non_negative",
        "optimum": "part",
        "value": "part",
        "value_norm": "part",
        "unit": "part",
        "reduction": "name",
    },
    _influence_score: {
        "team": "lone_index",
        "influence_coeff": "non_negative",
        "gamma": "share_or_none",
        "optimum": "part",
        "value": "part",
        "value_norm": "part",
        "unit": "part",
        "reduction": "name",
    },
    Marginal: {"samples": "whole", "budget": "whole"},
    _trained: {"samples": "whole", "budget": "whole"},
    AtPolicy: {"at": "name"},
    _best_of: {"uniform": "whole_from_0", "at": "name"},
    Enumerated: {"budget": "whole", "at": "name"},
    TDTarget: {"gamma": "share_or_none"},
    OwnGradient: {"decay": "below_one"},
    _novelty_loss: {"team": "indices", "reduction": "name"},
    _novelty_reward: {"team": "indices", "distance": "name"},
    _penalty: {
        "team": "indices",
        "omega": "numbers",
        "distance": "name_or_none",
        "weight": "name",
    },
    _total: {"coeff": "non_negative"},
    _autoencoder: {"in_features": "whole", "num_influencers": "whole", "num_cells": "widths"},
    _actor: {"num_cells": "widths", "temperature": "positive"},
    _critic: {"num_cells": "widths", "num_critics": "whole"},
    _influence_network: {"num_cells": "widths"},
    _gumbel: {"temperature": "positive"},
    _straight_through: {"temperature": "positive"},
    _continuous: {
        "agreement": "share",
        "persistence": "below_one",
        "spread": "share",
        "burst_share": "positive_share",
        "eps_init": "non_negative",
        "annealing_num_steps": "whole",
    },
    _one_hot: {"agreement": "share", "eps_init": "share", "annealing_num_steps": "whole"},
    ConditionalSampler: {
        "influencer": "index",
        "num_anchors": "whole",
        "num_candidates": "whole",
        "anchor_window": "whole",
        "kind": "name",
    },
    _maddpg: {
        "gamma": "share",
        "actor_lr": "positive",
        "critic_lr": "positive",
        "tau": "positive_share",
        "max_grad_norm": "not_nan",
        "policy_delay": "whole",
        "num_critics": "whole",
        "num_cells": "widths",
        "compile_mode": "name",
        "others_actions": "name",
    },
    _alita: {
        "influencers": "name_or_index",
        "influencees": "indices",
        "influence_coeff": "non_negative",
        "novelty_coeff": "non_negative",
        "diversity_coeff": "non_negative",
        "omega": "numbers",
        "estimator": "name",
        "estimator_updates": "whole",
        "estimator_lr": "positive",
        "autoencoder_lr": "positive",
        "autoencoder_cells": "widths",
        "optimum": "name",
        "conditional": "name",
    },
    _tsallis: {
        "gamma": "share",
        "entropic_index": "positive",
        "entropy_coeff": "non_negative",
        "reward_scale": "positive",
        "param_coeff": "non_negative",
        "num_action_samples": "whole",
        "reduction": "name",
    },
    _trust_region: {"reduction": "name"},
    _kfac: {
        "lr": "positive",
        "max_kl": "positive",
        "momentum": "below_one",
        "damping": "positive",
        "decay": "below_one",
        "basis_interval": "whole",
    },
    _trust_region_step: {
        "max_kl": "positive",
        "damping": "non_negative",
        "iterations": "whole",
        "searches": "whole",
    },
    _linear_actor: {"num_cells": "widths"},
    _linear_value: {"num_cells": "widths", "value_input": "name"},
    _stacked_linear: {"in_features": "whole", "out_features": "whole", "num_agents": "whole"},
    _gaussian_actor: {"num_cells": "widths"},
    _value: {"num_cells": "widths"},
    _single(TD3): {
        "gamma": "share",
        "policy_noise": "non_negative",
        "noise_clip": "non_negative",
        "policy_delay": "whole",
        "actor_lr": "positive",
        "critic_lr": "positive",
        "tau": "positive_share",
        "max_grad_norm": "not_nan",
        "compile_mode": "name",
    },
    _single(SAC): {"gamma": "share", "lr": "positive", "tau": "positive_share"},
    _single(TAC): {"lr": "positive", "tau": "positive_share", "max_grad_norm": "not_nan"},
    _single(PPO): {
        "gamma": "share",
        "gae_lambda": "share",
        "clip_epsilon": "positive",
        "num_epochs": "whole",
        "minibatch_size": "whole",
        "entropy_coeff": "non_negative",
        "critic_coeff": "non_negative",
        "lr": "positive",
    },
    _single(TwinALITA): {
        "form": "name",
        "estimator_updates": "whole",
        "estimator_lr": "positive",
        "autoencoder_lr": "positive",
        "conditional": "name",
        "num_candidates": "whole",
        "num_optimum_samples": "whole_from_0",
        "policy_delay": "whole",
        "tau": "positive_share",
    },
    _recurrent_actor: {"hidden_size": "whole", "temperature": "positive"},
    _gru: {
        "observation_size": "whole",
        "action_size": "whole_from_0",
        "out_features": "whole",
        "num_agents": "whole",
        "hidden_size": "whole",
    },
    _qnetwork: {"hidden_size": "whole"},
    _value_decomposition: {"gamma": "share", "lmbda": "share", "reduction": "name"},
    _qmix: {
        "hidden_size": "whole",
        "mixing_embed_dim": "whole",
        "mixing_init_scale": "positive",
        "gamma": "share",
        "optimizer": "name",
        "critic_lr": "positive",
        "target_update_interval": "whole",
        "max_grad_norm": "not_nan",
        "compile_mode": "name",
    },
    _sequence_sampler: {"num_envs": "whole", "length": "whole", "rewarded_share": "share"},
    _push_box_task: {
        "num_envs": "whole",
        "n_agents": "whole_or_none",
        "horizon": "whole_or_none",
        "seed": "seed",
    },
    _spread: {"seed": "seed"},
    PushBox: {
        "num_envs": "whole",
        "horizon": "whole",
        "pushes_needed": "whole",
        "reward": "positive",
        "start": "name",
        "seed": "seed",
    },
    SecretRoom: {
        "num_envs": "whole",
        "horizon": "whole",
        "door_steps": "whole_from_0",
        "target_room": "whole_from_0",
        "reward": "positive",
        "start": "name",
        "seed": "seed",
    },
    _game: {
        "discount": "below_one",
        "num_envs": "whole",
        "horizon": "whole_or_none",
        "seed": "seed",
    },
    _random_game: {"num_states": "whole", "num_agents": "whole", "num_actions": "whole"},
    _matrix_game: {"discount": "below_one", "num_envs": "whole", "seed": "seed"},
}
CASES = [
    pytest.param(make, argument, kind, id=f"{make.__name__}-{argument}")
    for make, kinds in ARGUMENTS.items()
    for argument, kind in kinds.items()
]
# A word of the argument's name that stands in the error; most are named in full.
NAMED = {
    **{
        (make, "team"): "influencer"
        for make in (
            "_estimator",
            "_influence",
            "_influence_score",
            "_novelty_loss",
            "_novelty_reward",
            "_penalty",
        )
    },
}
NOT_ACCEPTED = {
    # Two agents at the most.
    ("PushBox", "pushes_needed"): (),
    ("_push_box_task", "n_agents"): (1,),
    # All at once is no soft update, of which TorchRL warns.
    ("_maddpg", "tau"): (1,),
    ("_td3", "tau"): (1,),
    ("_sac", "tau"): (1,),
    ("_tac", "tau"): (1,),
    ("_twinalita", "tau"): (1,),
}


@pytest.mark.parametrize(("make", "argument", "kind"), CASES)
def test_hostile_arguments_are_refused_by_name(make, argument, kind):
    named = NAMED.get((make.__name__, argument), argument)
    for value in REFUSED[kind]:
        with pytest.raises(ERRORS) as caught:
            make(**{argument: value})
        assert named in str(caught.value), (value, caught.value)


@pytest.mark.parametrize(("make", "argument", "kind"), CASES)
def test_arguments_that_only_look_hostile_are_accepted(make, argument, kind):
    """Numbers of NumPy and torch, tuples, arrays and ranges."""
    exceptions = NOT_ACCEPTED.get((make.__name__, argument), ())
    for value in ACCEPTED[kind]:
        if not any(value is exception for exception in exceptions):
            make(**{argument: value})


@pytest.mark.parametrize(
    "weights", [[0.5], [0.5, 0.6], [1.0, 0.0], "0.5", 0.5, [], ["1"], [np.nan]]
)
def test_hostile_weights_are_refused_by_name(weights):
    with pytest.raises(ERRORS, match="weights"):
        _team(weights=weights, influencees=[1, 2])


@pytest.mark.parametrize("coeffs", [None, 0.5, "novelty", [("novelty", 0.5)], {}])
def test_hostile_coefficients_are_refused_by_name(coeffs):
    with pytest.raises(ERRORS, match="coeffs"):
        TotalReward(coeffs)


@pytest.mark.parametrize("scope", [[[True]], "all", 1, np.eye(N, dtype=bool)])
def test_a_hostile_scope_is_refused_by_name(scope):
    with pytest.raises(ERRORS, match="scope must be a bool tensor"):
        make_critic(ENV, scope=scope)


@pytest.mark.parametrize("spec", [None, "OneHot", torch.zeros(N, A)])
def test_a_hostile_spec_is_refused_by_its_kind(spec):
    with pytest.raises(TypeError, match=f"got {type(spec).__name__}"):
        TeamExploration(spec)


def test_hostile_arrays_of_a_game_are_copied_and_not_changed():
    payoff = np.array([[1.0, 0.0, 0.0, 2.0]] * 2)
    payoff.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        game = MatrixGame(payoff)
    game.reward.zero_()
    assert payoff.tolist() == [[1.0, 0.0, 0.0, 2.0]] * 2


def test_hostile_arrays_of_weights_of_the_penalty_are_copied():
    omega = np.array([0.1, 0.2, 0.3])
    omega.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        penalty = _penalty(omega=omega)
    penalty.omega.zero_()
    assert omega.tolist() == [0.1, 0.2, 0.3]


def test_every_public_constructor_meets_hostile_arguments():
    met = {make.__name__.lstrip("_") for make in ARGUMENTS}
    made_by = {
        "ALITA": "alita",
        "DDPG": "maddpg",
        "MADDPG": "maddpg",
        "Autoencoder": "autoencoder",
        "ConditionalSampler": "ConditionalSampler",
        "DiversityPenalty": "penalty",
        "GumbelOneHot": "gumbel",
        "InfluenceEstimatorLoss": "estimator",
        "InfluenceLoss": "influence",
        "InfluenceScoreLoss": "influence_score",
        "Team": "team",
        "Marginal": "Marginal",
        "Trained": "trained",
        "AtPolicy": "AtPolicy",
        "BestOf": "best_of",
        "Enumerated": "Enumerated",
        "TDTarget": "TDTarget",
        "OwnGradient": "OwnGradient",
        "MADDPGLoss": "maddpg",
        "MarkovGame": "game",
        "MatrixGame": "matrix_game",
        "NoveltyLoss": "novelty_loss",
        "NoveltyReward": "novelty_reward",
        "BonusScale": "bonus_scale",
        "CMAEPushBox": "CMAEPushBox",
        "CMAESecretRoom": "CMAESecretRoom",
        "CooperativeNavigation": "CooperativeNavigation",
        "CountTable": "count_table",
        "GoalAttention": "goal_attention",
        "JointCode": "joint_code",
        "OneHotCode": "one_hot_code",
        "PhysicalDeception": "PhysicalDeception",
        "RNDBonus": "rnd_bonus",
        "SocialInfluence": "SocialInfluence",
        "SpeakerListener": "SpeakerListener",
        "Task": "task",
        "TransitionCounts": "transition_counts",
        "TransitionInfluence": "transition_influence",
        "UnpaidSpeaker": "UnpaidSpeaker",
        "VisitBonus": "visit_bonus",
        "PushBox": "PushBox",
        "SecretRoom": "SecretRoom",
        "StreamedVmasEnv": "spread",
        "TeamExploration": "one_hot",
        "PPO": "ppo",
        "SAC": "sac",
        "TAC": "tac",
        "TD3": "td3",
        "TotalReward": "total",
        "StackedLinear": "stacked_linear",
        "KFAC": "kfac",
        "TRPOLoss": "trust_region",
        "TrustRegion": "trust_region_step",
        "TsallisLoss": "tsallis",
        "TwinALITA": "twinalita",
        "BestAction": "qnetwork",
        "IQL": "qmix",
        "MultiAgentGRU": "gru",
        "QMIX": "qmix",
        "SequenceSampler": "sequence_sampler",
        "VDN": "qmix",
        "ValueDecompositionLoss": "value_decomposition",
        "make_qnetwork": "qnetwork",
        "make_recurrent_actor": "recurrent_actor",
        "make_actor": "actor",
        "make_critic": "critic",
        "make_env": "push_box_task",
        "make_gaussian_actor": "gaussian_actor",
        "make_influence_network": "influence_network",
        "make_linear_actor": "linear_actor",
        "make_linear_value": "linear_value",
        "make_value": "value",
    }
    # Records, tasks and adapters: they check nothing, or have tests of their own.
    others = {
        "EnvironmentState",
        "ExactPettingZooEnv",
        "JaxMARLEnv",
        "LastAction",
        "Layout",
        "ParticleEnv",
        "ParticleSettings",
        "PettingZooEnv",
        "PushBoxEvents",
        "PushBoxSettings",
        "SecretRoomEvents",
        "SecretRoomSettings",
        "TakeTurns",
        "TeamLayout",
        "WorldPoses",
        "VmasState",
    }
    others |= {"BinCode", "Displacement", "CountCodes"}
    others |= {"SparseTransport", "SparseTransportSettings"}
    others |= {
        "ModelOfOthers",
        "ModelOfOthersLoss",
        "PoliciesOfOthers",
        "TransitionModel",
        "TransitionModelLoss",
    }
    # Their bad input stands in tests of their own.
    others |= {"AllAgents", "RandomPolicy", "SideView", "SidesPolicy"}
    others |= {"ClippedNormal", "Replay", "make_stochastic_actor"}
    others |= {"AgentAttention", "AttentionNet", "make_attention_actor", "make_attention_critic"}
    others |= {"make_factored_critic"}
    others |= {"InfluenceAttention", "InfluenceAttentionLoss", "make_influence_attention"}
    others |= {"COMALoss", "make_counterfactual_critic", "make_team_value"}
    others |= {"LICALoss", "LICAMixer", "make_mixing_critic", "IntrinsicRewardLoss", "LIIRLoss"}
    others |= {"EpisodeLatent", "LatentGRU", "MAVENLoss", "TrajectoryDiscriminator"}
    others |= {"make_discriminator", "make_latent_mixer", "make_latent_policy", "EpisodeReturns"}
    others |= {"make_latent_qnetwork", "BestJointAction", "make_joint_qnetwork"}
    parts = ("data", "envs", "modules", "objectives", "optim", "transforms")
    public = {*torchrl_alita.__all__} | {
        name for part in parts for name in getattr(torchrl_alita, part).__all__
    }
    constructors = {name for name in public if name[0].isupper() or name.startswith("make_")}
    assert constructors - others == set(made_by)
    assert set(made_by.values()) <= met
