"""The algorithms: what an update changes, the ablations, a task that must be solved."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from fakes import B, N, TargetEnv, build, by_name, conditional_names, random_batch

from torchrl_alita import ALITA, DDPG, MADDPG
from torchrl_alita.layout import DIVERSITY_PENALTY, NOVELTY, next_key

ENV = TargetEnv()
SMALL = {"num_cells": (13,)}


def batches(algorithm: MADDPG) -> list:
    return [random_batch(seed=7 + i) for i, _ in enumerate(conditional_names(algorithm))]


def parameters(algorithm: MADDPG) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": value.detach().clone()
        for name, module in algorithm.modules.items()
        for key, value in module.named_parameters()
    }


def changed(before: dict, after: dict) -> set[str]:
    return {name.split(".")[0] for name in before if (before[name] != after[name]).any()}


@pytest.mark.parametrize("estimator", ["marginal", "clones", "centralized"])
def test_an_update_moves_every_network_and_logs_finite_scalars(estimator):
    torch.manual_seed(0)
    algorithm = ALITA(ENV, ALITA.Settings(estimator=estimator, **SMALL))
    before = parameters(algorithm)
    logs = algorithm.update(by_name(algorithm, random_batch(), batches(algorithm)))
    expected = {"maddpg", "novelty_loss", "influence_0"}
    expected |= set() if estimator == "marginal" else {"estimator_0"}
    assert changed(before, parameters(algorithm)) == expected
    for key, value in logs.items(True, True):
        assert value.shape == (), key
        assert torch.isfinite(value), key
        assert not value.requires_grad, key
    names = {"novelty", "diversity_penalty", "influence_0", "gap_0_1", "gap_0_2"}
    assert names <= set(logs.keys())


@pytest.mark.parametrize("options", [{}, {"estimator": "clones", "policy_delay": 2}])
def test_learned_weights_are_logged_and_trained_on_the_critics(options):
    torch.manual_seed(0)
    algorithm = ALITA(
        ENV, ALITA.Settings(influencers=(2, 0), weights="attention", **options, **SMALL)
    )
    before = parameters(algorithm)
    for _ in range(2):
        logs = algorithm.update(by_name(algorithm, random_batch(), batches(algorithm)))
    assert "influence_attention" in changed(before, parameters(algorithm))
    assert float(logs["weight_0_1"] + logs["weight_0_2"]) == pytest.approx(1)
    assert float(logs["weight_2_0"] + logs["weight_2_1"]) == pytest.approx(1)
    assert float(logs["weight_0_1"]) != 0.5
    without = ALITA(ENV, ALITA.Settings(weights="attention", influence_coeff=0, **SMALL))
    assert "influence_attention" not in without.modules
    with pytest.raises(ValueError, match="attention_lr"):
        ALITA.Settings(attention_lr=0.0)


def test_a_wider_code_reconstructs_what_three_numbers_cannot():
    """Five numbers that have nothing to do with each other, and an action of two."""
    left = {}
    for code in (3, 8):
        torch.manual_seed(0)
        cells = (32, code, 32)
        algorithm = ALITA(
            ENV, ALITA.Settings(autoencoder_cells=cells, autoencoder_lr=1e-2, **SMALL)
        )
        batch = random_batch(batch_size=(256,))
        for _ in range(200):
            logs = algorithm.update(by_name(algorithm, batch))
        left[code] = logs["novelty"].item()
    assert left[8] < 0.25 * left[3]


def test_without_influence_and_bonuses_alita_is_maddpg():
    """No F and No IM together leave the networks of MADDPG, bit for bit."""
    results = []
    for make in (
        lambda: MADDPG(ENV, MADDPG.Settings(**SMALL)),
        lambda: ALITA(
            ENV, ALITA.Settings(influence_coeff=0, novelty_coeff=0, diversity_coeff=0, **SMALL)
        ),
    ):
        torch.manual_seed(0)
        algorithm = make()
        for seed in range(3):
            algorithm.update(by_name(algorithm, random_batch(seed=seed)))
        results.append(algorithm.maddpg.state_dict())
    for key, value in results[0].items():
        torch.testing.assert_close(results[1][key], value, rtol=0, atol=0)


@pytest.mark.parametrize("part", ["influence_coeff", "novelty_coeff", "diversity_coeff"])
def test_each_part_alone_changes_what_is_learned(part):
    others = {"influence_coeff": 0, "novelty_coeff": 0, "diversity_coeff": 0}
    results = []
    for coeffs in (others, others | {part: 0.5}):
        torch.manual_seed(0)
        algorithm = ALITA(ENV, ALITA.Settings(**coeffs, **SMALL))
        algorithm.update(by_name(algorithm, random_batch()))
        results.append(torch.cat([p.flatten() for p in algorithm.maddpg.parameters()]))
    assert (results[0] != results[1]).any()


def test_no_f_builds_no_estimator():
    algorithm = ALITA(ENV, ALITA.Settings(influence_coeff=0, estimator="clones", **SMALL))
    assert conditional_names(algorithm) == []
    assert algorithm.influences == []


def test_symmetric_makes_everybody_influencer_and_influencee():
    algorithm = ALITA(ENV, ALITA.Settings(influencers="all", estimator="clones", **SMALL))
    assert conditional_names(algorithm) == [f"conditional_{k}" for k in range(N)]
    logs = algorithm.update(by_name(algorithm, random_batch(), batches(algorithm)))
    gaps = {key for key in logs.keys() if key.startswith("gap")}  # noqa: SIM118
    assert gaps == {f"gap_{k}_{i}" for k in range(N) for i in range(N) if i != k}
    rewarded = algorithm.add_rewards(random_batch())
    assert (rewarded[next_key(NOVELTY)] > 0).all()
    assert (rewarded[next_key(DIVERSITY_PENALTY)] < 0).all()


def test_two_influencers_have_an_autoencoder_and_an_estimator_each():
    algorithm = ALITA(ENV, ALITA.Settings(influencers=(2, 0), estimator="clones", **SMALL))
    assert algorithm.autoencoder.num_influencers == 2
    assert [loss.team.influencers for loss in algorithm.influences] == [(2,), (0,)]
    assert [loss.team.influencers for loss in algorithm.estimators] == [(2,), (0,)]


@pytest.mark.parametrize("influencees", [None, (1, 2)])
def test_one_loss_of_all_influencers_logs_what_a_loss_for_each_does(influencees):
    """The marginal estimate of Symmetric; only what is evaluated at once is named otherwise."""
    options = {"influencers": "all", "influencees": influencees, "num_optimum_samples": 0}
    torch.manual_seed(0)
    algorithm = ALITA(ENV, ALITA.Settings(**options, **SMALL))
    (influence,) = algorithm.influences
    assert influence.team.influencers == (0, 1, 2)
    logs = algorithm.update(by_name(algorithm, random_batch()))
    for k in range(N):
        torch.manual_seed(0)
        others = influencees and tuple(agent for agent in influencees if agent != k)
        single = build(ALITA, ENV, **{**options, "influencers": k, "influencees": others}, **SMALL)
        alone = single.update(by_name(single, random_batch()))
        names = {key for key in alone.keys() if key.startswith((f"influence_{k}", f"gap_{k}"))}  # noqa: SIM118
        assert len(names) == 3 - (k in (influencees or ()))
        for name in names:
            torch.testing.assert_close(logs[name], alone[name])


def test_a_random_influencer_follows_the_seed_and_varies_with_it():
    drawn = []
    for seed in (0, 0, *range(1, 20)):
        torch.manual_seed(seed)
        drawn.append(ALITA(ENV, ALITA.Settings(influencers="random", **SMALL)).influencers)
    assert drawn[0] == drawn[1]
    assert set(drawn) == {(0,), (1,), (2,)}


def test_an_adversary_is_neither_penalized_nor_influenced():
    algorithm = ALITA(ENV, ALITA.Settings(influencees=[1], **SMALL))
    rewarded = algorithm.add_rewards(random_batch())
    assert (rewarded[next_key(DIVERSITY_PENALTY)][:, [0, 2]] == 0).all()
    logs = algorithm.update(by_name(algorithm, random_batch()))
    assert "gap_0_1" in logs.keys()  # noqa: SIM118
    assert "gap_0_2" not in logs.keys()  # noqa: SIM118


def test_clones_are_set_back_when_an_episode_starts():
    algorithm = ALITA(ENV, ALITA.Settings(estimator="clones", **SMALL))
    algorithm.update(by_name(algorithm, random_batch(), batches(algorithm)))
    (estimator,) = algorithm.estimators
    critics = algorithm.maddpg.qvalue_network_params

    def same() -> bool:
        return all(
            (clone == critics[key]).all()
            for key, clone in estimator.estimator_network_params.items(True, True)
        )

    assert not same()
    algorithm.start_episode()
    assert same()


def test_the_critics_learn_from_the_total_reward_and_the_batch_keeps_the_extrinsic_one():
    batch = random_batch()
    before = batch.clone()
    algorithm = ALITA(ENV, ALITA.Settings(novelty_coeff=0.5, **SMALL))
    algorithm.update(by_name(algorithm, batch))
    assert algorithm.maddpg.tensor_keys.reward == ("agents", "total_reward")
    assert (batch == before).all()
    rewarded = algorithm.add_rewards(batch)["next", "agents"]
    expected = rewarded["reward"] + 0.5 * rewarded["novelty"] + 0.1 * rewarded["diversity_penalty"]
    torch.testing.assert_close(rewarded["total_reward"], expected)


def test_ddpg_ignores_what_the_others_do():
    torch.manual_seed(0)
    critic = DDPG(ENV, DDPG.Settings(**SMALL)).maddpg.qvalue_network
    batch = random_batch()
    other = batch.clone()
    other["agents", "action"][:, 1:] = 0
    other["agents", "observation"][:, 1:] = 0
    value = critic(batch)["agents", "state_action_value"]
    assert (value[:, 0] == critic(other)["agents", "state_action_value"][:, 0]).all()


def test_matd3_updates_its_actors_less_often():
    algorithm = MADDPG(
        ENV, MADDPG.Settings(num_critics=2, policy_noise=0.2, policy_delay=2, **SMALL)
    )
    before = parameters(algorithm)
    algorithm.update(by_name(algorithm, random_batch()))
    moved = parameters(algorithm)
    actor = [name for name in before if "actor_network_params" in name and "target" not in name]
    assert actor
    assert all((before[name] == moved[name]).all() for name in actor)
    algorithm.update(by_name(algorithm, random_batch(seed=1)))
    assert any((before[name] != parameters(algorithm)[name]).any() for name in actor)


def test_gradients_are_scaled_down_to_the_largest_norm():
    """Plain steps of size 1 move a network by no more than the largest norm."""
    algorithm = MADDPG(ENV, MADDPG.Settings(max_grad_norm=0.125, **SMALL))
    params = list(algorithm.maddpg.qvalue_network_params.parameters())
    algorithm.optimizers["qvalue"] = torch.optim.SGD(params, lr=1.0)
    before = [param.detach().clone() for param in params]
    logs = algorithm.update(by_name(algorithm, random_batch()))
    step = sum((old - new).square().sum() for old, new in zip(before, params, strict=True)).sqrt()
    assert logs["grad_norm_qvalue"] > 0.125
    torch.testing.assert_close(step.detach(), torch.tensor(0.125), rtol=1e-3, atol=0)


def test_the_share_of_saturated_actions_is_counted():
    algorithm = MADDPG(ENV, MADDPG.Settings(**SMALL))
    assert algorithm.health(random_batch())["saturated_share"] < 0.1
    net = algorithm.actor[0].module
    net.params["3", "bias"].data[0] = 100.0
    torch.testing.assert_close(
        algorithm.health(random_batch())["saturated_share"], torch.tensor(1 / N)
    )


@pytest.mark.parametrize("make", [MADDPG, DDPG, ALITA])
def test_a_state_taken_over_continues_bit_for_bit(make):
    torch.manual_seed(0)
    first = build(make, ENV, **SMALL)
    first.update(by_name(first, random_batch()))
    second = build(make, ENV, **SMALL)
    second.load_state_dict(first.state_dict())
    for algorithm in (first, second):
        torch.manual_seed(1)
        algorithm.update(by_name(algorithm, random_batch(seed=1)))
    after = parameters(second)
    for name, value in parameters(first).items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=0)
    assert first.updates == second.updates == 2


def test_another_algorithms_state_is_refused():
    with pytest.raises(KeyError, match="novelty_loss"):
        MADDPG(ENV, MADDPG.Settings(**SMALL)).load_state_dict(
            ALITA(ENV, ALITA.Settings(**SMALL)).state_dict()
        )


@pytest.mark.parametrize("other", [{"num_cells": (14,)}, {"num_cells": (13,), "influencers": 1}])
def test_a_state_of_other_settings_is_refused_before_anything_is_taken_over(other):
    """Without influence no network's name says who the influencer is."""
    no_influence = {"influence_coeff": 0.0}
    torch.manual_seed(0)
    algorithm = ALITA(ENV, ALITA.Settings(**no_influence, **SMALL))
    state = ALITA(ENV, ALITA.Settings(**no_influence, **other)).state_dict()
    before = parameters(algorithm)
    with pytest.raises(ValueError, match="The state is of "):
        algorithm.load_state_dict(state)
    assert not changed(before, parameters(algorithm))


def test_a_refused_batch_trains_no_estimator():
    algorithm = ALITA(ENV, ALITA.Settings(estimator="clones", **SMALL))
    given = by_name(algorithm, random_batch(), batches(algorithm))
    given["batch"] = given["batch"].exclude(("next", "agents", "reward"))
    before = parameters(algorithm)
    with pytest.raises(KeyError, match="reward"):
        algorithm.update(given)
    assert not changed(before, parameters(algorithm))


@pytest.mark.parametrize(
    ("key", "width"), [(("agents", "observation"), 4), (("agents", "action"), 3)]
)
def test_a_batch_of_another_width_is_an_error_with_both_numbers(key, width):
    batch = random_batch()
    batch[key] = torch.zeros(B, N, width)
    batch[("next", *key)] = torch.zeros(B, N, width)
    for algorithm in (MADDPG(ENV, MADDPG.Settings(**SMALL)), ALITA(ENV, ALITA.Settings(**SMALL))):
        with pytest.raises(ValueError, match=str(width)):
            algorithm.update(by_name(algorithm, batch))


def test_a_missing_conditional_batch_is_an_error():
    algorithm = ALITA(ENV, ALITA.Settings(estimator="clones", **SMALL))
    with pytest.raises(ValueError, match="conditional_0"):
        algorithm.update({"batch": random_batch(), "recent": random_batch()})


def test_batches_without_names_and_names_that_are_not_known_are_errors():
    algorithm = MADDPG(ENV, MADDPG.Settings(**SMALL))
    batch = random_batch()
    with pytest.raises(TypeError, match="by name"):
        algorithm.update(batch)
    with pytest.raises(ValueError, match=r"\['batch'\], got \['batch', 'recent'\]"):
        algorithm.update({"batch": batch, "recent": batch})
    assert algorithm.updates == 0


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({"influencers": 3}, "3"),
        ({"influencers": -1}, "-1"),
        ({"influencers": (1, 1)}, "1, 1"),
        ({"influencers": "some"}, "some"),
        ({"influencees": [0, 5]}, "5"),
        ({"influence_coeff": -1}, "-1"),
        ({"novelty_coeff": -2}, "-2"),
        ({"diversity_coeff": float("inf")}, "inf"),
        ({"omega": -0.5}, "-0.5"),
        ({"estimator": "exact"}, "exact"),
        ({"estimator_updates": 0}, "0"),
        ({"estimator_lr": 0.0}, "0.0"),
        ({"weights": [0.2, 0.2]}, "0.2"),
        ({"optimum": "best"}, "best"),
        ({"optimum": "enumerated"}, "enumerated"),
        ({"conditional": "near", "estimator": "clones"}, "near"),
        ({"gamma": 1.1}, "1.1"),
        ({"tau": 1.5}, "1.5"),
        ({"actor_lr": -1.0}, "-1.0"),
        ({"policy_delay": 0}, "0"),
        ({"max_grad_norm": 0.0}, "0.0"),
    ],
)
def test_alita_refuses_what_cannot_be(options, value):
    with pytest.raises(ValueError, match=value):
        ALITA(ENV, ALITA.Settings(**options))


@pytest.mark.parametrize("option", ["influencer", "lr", "batch_sizes"])
def test_a_typo_in_an_option_is_an_error(option):
    with pytest.raises(TypeError, match=option):
        ALITA(ENV, ALITA.Settings(**{option: 1}))


@pytest.mark.parametrize(
    "make",
    [
        partial(build, MADDPG),
        partial(build, MADDPG, critic_attention=True),
        partial(build, MADDPG, critic_factored=True),
        partial(build, DDPG),
        partial(build, ALITA),
        partial(build, ALITA, estimator="clones"),
        partial(build, ALITA, estimator="centralized", influencers=(0, 2), estimator_updates=1),
    ],
    ids=[
        "maddpg",
        "attention",
        "factored",
        "ddpg",
        "marginal",
        "clones",
        "centralized_two_influencers",
    ],
)
def test_a_team_learns_to_act_as_it_is_told(make):
    """The mean reward of acting at random is about -1.1; the best is 0."""
    torch.manual_seed(0)
    env = TargetEnv(num_envs=256, horizon=2, seed=1)
    algorithm = make(env, num_cells=(32,), actor_lr=5e-3, critic_lr=1e-2, gamma=0.0)
    # Where the actions are random, the penalty for leaving one's policy only misleads.
    if isinstance(algorithm, ALITA):
        algorithm.total_reward.coeffs.zero_()
    batch = env.rollout(4, break_when_any_done=False).reshape(-1)
    for _ in range(150):
        picked = batch[torch.randint(len(batch), (64,))]
        algorithm.update(by_name(algorithm, picked, [picked] * len(conditional_names(algorithm))))
    with torch.no_grad():
        tested = env.rollout(2, algorithm.actor)
    assert tested["next", "agents", "reward"].mean() > -0.2


@pytest.mark.parametrize(
    "options",
    [{"scope": "own"}, {"critic_input": "state"}, {"num_critics": 2}, {"num_cells": ()}],
)
def test_critics_that_attend_are_one_for_each_agent_and_of_all_observations(options):
    with pytest.raises(ValueError, match="critic_attention"):
        MADDPG.Settings(critic_attention=True, **options)


@pytest.mark.parametrize(
    "options", [{"scope": "own"}, {"num_critics": 2}, {"critic_attention": True}]
)
def test_a_factored_critic_is_one_for_the_team(options):
    with pytest.raises(ValueError, match="critic_factored"):
        MADDPG.Settings(critic_factored=True, **options)


def test_a_batch_of_one_transition_is_enough():
    algorithm = ALITA(ENV, ALITA.Settings(estimator="clones", **SMALL))
    single = random_batch(batch_size=(1,))
    assert torch.isfinite(algorithm.update(by_name(algorithm, single, [single]))["loss_qvalue"])
    assert B > 1
