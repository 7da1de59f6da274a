"""What users of such libraries ran into: the right value each, not the absence of an error."""

from __future__ import annotations

import copy
import threading
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from constructors import (
    LOSSES,
    ROLLOUTS,
    SMALL,
    TRANSFORMS,
    acted,
    estimator,
    maddpg,
    of_one_agent,
    one_hot_episodes,
    one_hot_partner,
    partner,
    stock_partner,
)
from fakes import (
    A,
    B,
    N,
    O,
    T,
    TargetEnv,
    constant_actor,
    linear_critic,
    random_batch,
    sequences,
)
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.collectors import MultiSyncCollector
from torchrl.data import (
    Bounded,
    Composite,
    LazyTensorStorage,
    ListStorage,
    ReplayBuffer,
    TensorDictPrioritizedReplayBuffer,
    Unbounded,
)
from torchrl.envs import ExplorationType, ParallelEnv, TransformedEnv, set_exploration_type
from torchrl.envs.utils import exploration_type
from torchrl.modules import MultiAgentMLP, recurrent_mode
from torchrl.objectives import SoftUpdate

from torchrl_alita import (
    ALITA,
    MADDPG,
    Autoencoder,
    BestOf,
    ConditionalSampler,
    DiversityPenalty,
    InfluenceEstimatorLoss,
    InfluenceLoss,
    MADDPGLoss,
    NoveltyReward,
    TDTarget,
    Team,
    Trained,
    make_actor,
    make_critic,
    make_env,
)
from torchrl_alita._borrow import borrowed
from torchrl_alita.algorithms import ALITASettings, MADDPGSettings
from torchrl_alita.training import evaluate


def batch_of(name: str) -> TensorDict:
    """What a loss or transform of this name takes."""
    if name.startswith("recurrent") or name in ("qmix", "qmix_lambda", "vdn", "iql", *ROLLOUTS):
        return sequences(batch_size=(B, 2))
    if name in ("influence_score", "maddpg_all"):
        return one_hot_episodes()
    if name == "trpo":
        return acted()
    batch = random_batch(batch_size=(B, T)) if name == "scale" else random_batch()
    return of_one_agent(batch) if "in_turns" in name else batch


# 1. Process-wide modes


@pytest.fixture
def modes(monkeypatch) -> list[str]:
    """Every change of TorchRL's exploration type or recurrent mode."""
    from tensordict.nn import probabilistic
    from torchrl.modules.tensordict_module import rnn

    changes = []
    for name, manager in (
        ("exploration", probabilistic._interaction_type),
        ("recurrent", rnn.recurrent_mode_state_manager),
    ):
        change = manager.set_mode

        def noted(mode, *, name=name, change=change):
            changes.append(name)
            change(mode)

        monkeypatch.setattr(manager, "set_mode", noted)
    return changes


@pytest.mark.parametrize("name", LOSSES)
def test_fault_01_no_loss_changes_a_mode_of_the_process(name, modes):
    LOSSES[name]()(batch_of(name))
    assert modes == []


@pytest.mark.parametrize("name", TRANSFORMS)
def test_fault_01_no_transform_changes_a_mode_of_the_process(name, modes):
    TRANSFORMS[name]()(batch_of(name))
    assert modes == []


def test_fault_01_no_evaluation_and_no_sign_of_health_changes_a_mode_of_the_process(modes):
    env = TargetEnv(discrete=True)
    algorithm = ALITA(env, ALITASettings(num_cells=SMALL))
    before = len(modes)
    algorithm.health(env.rollout(3))
    evaluate(algorithm.actor, env, None, horizon=3, seed=0)
    assert modes[before:] == []


def test_fault_01_a_loss_acts_alike_under_every_mode_of_the_process():
    """One-hot actions: the partner draws, or takes the most probable ones."""
    batch = one_hot_episodes()
    for told in (ExplorationType.DETERMINISTIC, ExplorationType.RANDOM):
        loss = one_hot_partner()
        loss.deterministic_sampling_mode = told
        results = []
        for mode in (ExplorationType.RANDOM, ExplorationType.MODE, None):
            torch.manual_seed(0)
            with set_exploration_type(mode):
                results.append(loss(batch)["loss_actor"])
        assert results[0] == results[1] == results[2]


def test_fault_01_a_prefetching_buffer_leaves_the_other_threads_their_mode():
    env = TargetEnv(discrete=True)
    actor = make_actor(env, num_cells=SMALL)
    storage = LazyTensorStorage(64)
    buffer = ReplayBuffer(storage=storage, batch_size=8, prefetch=4)
    buffer.append_transform(DiversityPenalty(actor, distance="brier"))
    rows = random_batch(batch_size=(64,))
    taken = rows["agents", "action"].argmax(-1)
    rows["agents", "action"] = nn.functional.one_hot(taken, A).float()
    buffer.extend(rows)
    seen = set()
    with set_exploration_type(ExplorationType.RANDOM):
        for _ in range(60):
            buffer.sample()
            seen.update((exploration_type(), recurrent_mode()) for _ in range(20))
    assert seen == {(ExplorationType.RANDOM, None)}
    assert exploration_type() is None


def test_fault_01_a_thread_never_sees_the_parameters_that_a_loss_exchanges():
    """A buffer reads the policy while a loss runs it with its targets, which are far away."""
    actor = make_actor(TargetEnv(), num_cells=SMALL)
    loss = partner(actor)
    for param in loss.target_actor_network_params.values(True, True):
        param.data.add_(1.0)
    batch = random_batch()
    penalty = DiversityPenalty(actor, omega=0.0)
    expected = penalty(batch)["next", "agents", "diversity_penalty"]
    wrong, stop = [], threading.Event()

    def read() -> None:
        while not stop.is_set():
            found = penalty(batch)["next", "agents", "diversity_penalty"]
            wrong.append(not torch.equal(found, expected))

    thread = threading.Thread(target=read)
    thread.start()
    for _ in range(60):
        loss(batch)
    stop.set()
    thread.join()
    assert len(wrong) > 5
    assert not any(wrong)


# 2. Copies


@pytest.mark.parametrize("name", LOSSES)
def test_fault_02_a_copy_of_a_loss_learns_as_the_original_would(name):
    loss, batch = LOSSES[name](), batch_of(name)
    copied = copy.deepcopy(loss)
    trained = dict(copied.named_parameters())
    assert not {id(p) for p in trained.values()} & {id(p) for p in loss.parameters()}
    results = []
    for module in (loss, copied):
        torch.manual_seed(0)
        losses = module(batch)
        sum(v for k, v in losses.items() if k.startswith("loss_")).backward()
        results.append({n: p.grad for n, p in module.named_parameters()})
    assert set(results[0]) == set(results[1])
    for key, grad in results[0].items():
        assert (grad is None) == (results[1][key] is None)
        if grad is not None:
            torch.testing.assert_close(results[1][key], grad)
    # Its networks hold what it trains.
    for attribute, network in copied.__dict__.items():
        params = copied._modules.get(f"{attribute}_params")
        if isinstance(network, nn.Module) and params is not None and not params.batch_dims:
            if network in borrowed(copied):
                continue
            own = {id(p) for p in network.parameters()}
            assert own == {id(p) for p in params.parameters()}, attribute


def test_fault_02_losses_that_are_copied_together_go_on_sharing_the_policy():
    trained = estimator("clones")
    first = trained.partner
    influence = InfluenceLoss(first.actor_network, first, value=Trained(trained))
    parts = copy.deepcopy({"maddpg": first, "influence": influence, "clones": trained})
    other, actor = parts["maddpg"], parts["maddpg"].actor_network
    assert parts["influence"].partner is other
    assert parts["influence"].value.estimator is parts["clones"]
    assert parts["clones"].partner is other
    own = {id(p) for p in actor.parameters()}
    assert own == {id(p) for p in parts["influence"].actor_network_params.parameters()}
    assert own == {id(p) for p in other.actor_network_params.parameters()}
    batch = random_batch()
    before = other(batch)["loss_actor"].detach()
    for param in actor.parameters():
        param.data.add_(0.1)
    assert other(batch)["loss_actor"] != before
    torch.testing.assert_close(first(batch)["loss_actor"].detach(), before)


@pytest.mark.parametrize("name", ["ddpg", "td3"])
def test_fault_02_a_copy_of_an_influence_goes_with_a_copy_of_torchrls_own_loss(name):
    stock = stock_partner(name)
    loss = copy.deepcopy(InfluenceLoss(stock.actor_network, stock))
    assert loss.partner is not stock
    own = {id(p) for p in loss.partner.actor_network.parameters()}
    assert own == {id(p) for p in loss.actor_network_params.parameters()}


@pytest.mark.parametrize("algorithm", [MADDPG, ALITA])
def test_fault_02_a_copy_of_an_algorithm_is_refused(algorithm):
    with pytest.raises(TypeError, match=r"would not learn.*load_state_dict"):
        copy.deepcopy(algorithm(TargetEnv()))


# 6. Each action's own range

LOW = torch.tensor([[-1.0, 0.0], [-3.0, 5.0], [0.0, -7.0]])
HIGH = torch.tensor([[1.0, 10.0], [-2.0, 6.0], [2.0, 7.0]])


class WideEnv(TargetEnv):
    """Every entry of the actions has a range of its own."""

    def __init__(self):
        super().__init__()
        spec = self.full_action_spec
        spec["agents", "action"] = Bounded(LOW.expand(B, N, A), HIGH.expand(B, N, A))
        self.action_spec = spec


def test_fault_06_target_actions_are_kept_in_the_range_of_each_entry():
    env = WideEnv()
    torch.manual_seed(0)
    settings = MADDPGSettings(policy_noise=2.0, num_critics=2, num_cells=SMALL)
    loss = MADDPG(env, settings).maddpg
    center = ((LOW + HIGH) / 2).expand(1009, N, A)
    smoothed = loss.smooth_target_action(center)
    assert (smoothed >= LOW).all()
    assert (smoothed <= HIGH).all()
    # Noise of at most 0.5 reaches the ends of the narrow ranges, and no others.
    torch.testing.assert_close(smoothed.amin(0)[1, 0], LOW[1, 0])
    assert smoothed[:, 0, 1].min() < 4.6


def test_fault_06_the_loss_knows_the_range_from_the_actor():
    env = WideEnv()
    actor, critic = make_actor(env, num_cells=SMALL), make_critic(env, num_cells=SMALL)
    loss = MADDPGLoss(actor, critic, policy_noise=0.2)
    torch.testing.assert_close(loss.target_noise.low, LOW)
    torch.testing.assert_close(loss.target_noise.high, HIGH)
    given = MADDPGLoss(actor, critic, policy_noise=0.2, action_bounds=(-2.0, 3.0))
    assert (float(given.target_noise.low), float(given.target_noise.high)) == (-2, 3)
    silent = constant_actor(torch.zeros(N, A))
    with pytest.raises(ValueError, match=r"policy_noise=0.2 needs action_bounds"):
        MADDPGLoss(silent, critic, policy_noise=0.2)


# 7. What a partner says


def rewarded_otherwise() -> tuple[MADDPGLoss, TensorDict]:
    """Rewards of 100 more under another key, and nothing that follows."""
    loss = partner(critic=linear_critic(torch.zeros(N, N, A)))
    batch = random_batch()
    batch["next", "agents", "total"] = batch["next", "agents", "reward"] + 100
    return loss, batch


def test_fault_07_all_that_borrow_learn_from_the_partners_reward():
    loss, batch = rewarded_otherwise()
    trained = InfluenceEstimatorLoss(loss)
    influence = InfluenceLoss(loss.actor_network, loss, optimum=TDTarget())
    loss.set_keys(reward=("agents", "total"))
    expected = batch["next", "agents", "total"]
    torch.testing.assert_close(trained.value_target(batch), expected)
    torch.testing.assert_close(influence(batch)["gap"], -expected[:, 1:].mean((0, -1)))
    assert ("next", "agents", "total") in trained.in_keys
    assert ("next", "agents", "reward") not in influence.in_keys


def test_fault_07_a_key_that_is_said_to_the_borrower_itself_wins():
    loss, batch = rewarded_otherwise()
    trained = InfluenceEstimatorLoss(loss)
    trained.set_keys(reward=("agents", "total"))
    torch.testing.assert_close(trained.value_target(batch), batch["next", "agents", "total"])


def test_fault_07_a_discount_that_is_scheduled_later_is_followed():
    """Q = 1 for each of N * A entries of 1: the target is r + gamma * N * A."""
    ones = torch.ones(N, N, A)
    loss = partner(constant_actor(torch.ones(N, A)), linear_critic(ones))
    batch = random_batch()
    batch["next", "terminated"][:] = False
    reward = batch["next", "agents", "reward"]
    trained = InfluenceEstimatorLoss(loss)
    own = InfluenceEstimatorLoss(loss, gamma=0.5)
    influence = InfluenceLoss(loss.actor_network, loss, optimum=TDTarget())
    for gamma in (0.9, 0.25):
        loss.gamma = gamma
        target = reward + gamma * N * A
        torch.testing.assert_close(trained.value_target(batch), target)
        expected = (N * A - target)[:, 1:].mean((0, -1))
        torch.testing.assert_close(influence(batch)["gap"], expected)
        torch.testing.assert_close(own.value_target(batch), reward + 0.5 * N * A)


def test_fault_07_how_the_partner_draws_is_followed():
    """Logits of 0 for both actions: what is most probable is one of them, draws are both."""
    loss = one_hot_partner()
    trained, batch = InfluenceEstimatorLoss(loss), one_hot_episodes()
    torch.manual_seed(0)
    greedy = trained.value_target(batch)
    torch.manual_seed(1)
    torch.testing.assert_close(trained.value_target(batch), greedy)
    loss.deterministic_sampling_mode = ExplorationType.RANDOM
    torch.manual_seed(1)
    assert (trained.value_target(batch) != greedy).any()


def test_fault_07_torchrls_own_loss_tells_its_discount_and_its_reward():
    stock = stock_partner("ddpg")
    batch = random_batch()
    flags = batch["next", "terminated"].unsqueeze(-2).expand(B, N, 1)
    batch["next", "agents", "terminated"] = batch["next", "agents", "done"] = flags
    trained = InfluenceEstimatorLoss(stock)
    expected = stock.value_estimator.value_estimate(
        batch, target_params=stock._cached_target_params
    )
    torch.testing.assert_close(trained.value_target(batch), expected)


# 8. A critic without a dimension of features


def test_fault_08_a_critic_that_writes_a_number_for_each_agent_gives_the_right_gaps():
    class Flat(nn.Module):
        """The same values without their last dimension."""

        def __init__(self, critic: nn.Module):
            super().__init__()
            self.critic = critic

        def forward(self, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
            return self.critic(observation, action).squeeze(-1)

    critic = make_critic(TargetEnv(), num_cells=SMALL)
    keys = {"in_keys": critic.in_keys, "out_keys": critic.out_keys}
    flat = TensorDictModule(Flat(critic.module), **keys)
    actor = make_actor(TargetEnv(), num_cells=SMALL)
    batches = [random_batch(), random_batch(batch_size=(N,)), random_batch(batch_size=(2, B))]
    for batch in batches:
        plain, squeezed = partner(actor, critic), partner(actor, flat)
        for make in (
            lambda p: p,
            lambda p: InfluenceLoss(actor, p),
            lambda p: InfluenceLoss(actor, p, Team(N, influencers="all")),
            InfluenceEstimatorLoss,
        ):
            expected, found = make(plain)(batch), make(squeezed)(batch)
            for key, value in expected.items():
                torch.testing.assert_close(found[key], value)


# 9. Priorities


@pytest.mark.parametrize("name", ["maddpg", "matd3", "maddpg_all", "qmix", "iql", "tsallis"])
def test_fault_09_weights_of_a_prioritized_buffer_have_one_number_for_each_row(name):
    batch = batch_of(name)
    weights = torch.linspace(0.5, 1.5, batch.numel()).view(batch.batch_size)
    flat, wide = (
        LOSSES[name](reduction="none")(batch.clone().set("priority_weight", value))
        for value in (weights, weights.unsqueeze(-1))
    )
    plain = LOSSES[name](reduction="none")(batch)["loss_qvalue"]
    for losses in (flat, wide):
        assert losses["loss_qvalue"].shape == batch.batch_size
        torch.testing.assert_close(losses["loss_qvalue"], weights * plain)
    with pytest.raises(ValueError, match="priority_weight must have the shape"):
        LOSSES[name]()(batch.set("priority_weight", torch.ones(*batch.batch_size, 2)))


def test_fault_09_a_stock_prioritized_loop_moves_its_priorities():
    """Rows whose reward no critic expects are drawn more often afterwards."""
    torch.manual_seed(0)
    try:
        buffer = TensorDictPrioritizedReplayBuffer(
            alpha=1.0, beta=0.0, storage=LazyTensorStorage(64), batch_size=64
        )
    except RuntimeError as error:
        pytest.skip(f"TorchRL was built without its prioritized sampler: {error}")
    rows = random_batch(batch_size=(64,))
    rows["next", "agents", "reward"] = torch.zeros(64, N, 1)
    rows["next", "agents", "reward"][:8] = 100.0
    rows["next", "terminated"][:] = True
    buffer.extend(rows)
    loss = partner(critic=linear_critic(torch.zeros(N, N, A)))
    for _ in range(10):
        sample = buffer.sample()
        loss(sample)
        assert sample["td_error"].shape == (64,)
        buffer.update_tensordict_priority(sample)
    surprising = torch.cat([buffer.sample()["index"] for _ in range(5)]) < 8
    assert surprising.float().mean() > 0.9


@pytest.mark.parametrize("name", ["maddpg", "qmix", "tsallis"])
def test_fault_09_the_priority_of_a_row_is_its_squared_error(name):
    """As with TorchRL's losses, whose td_error is the square too."""
    batch = batch_of(name).set("priority_weight", torch.ones(batch_of(name).batch_size))
    losses = LOSSES[name](reduction="none")(batch)
    torch.testing.assert_close(batch["td_error"], losses["loss_qvalue"].detach())
    assert not batch["td_error"].requires_grad


def test_fault_09_any_other_batch_stays_as_it_was():
    batch = random_batch()
    before = set(batch.keys(True, True))
    partner()(batch)
    assert set(batch.keys(True, True)) == before


# 11. Networks of a transform in worker processes


def paid_in_a_worker(autoencoder: nn.Module) -> TransformedEnv:
    return TransformedEnv(TargetEnv(), NoveltyReward(autoencoder, distance="squared"))


def test_fault_11_a_bonus_by_a_copy_in_a_collectors_workers_is_refused():
    actor = make_actor(TargetEnv(), num_cells=SMALL)
    make = partial(paid_in_a_worker, Autoencoder(O + A, num_cells=(5,)))
    with pytest.raises(ValueError, match=r"NoveltyReward would read a copy of its Autoenc"):
        MultiSyncCollector([make], actor, frames_per_batch=4 * B, total_frames=8 * B)


# A process that has imported JAX, as other tests do, warns when it forks.
@pytest.mark.filterwarnings("ignore")
def test_fault_11_a_network_in_shared_memory_is_followed_by_workers():
    autoencoder = Autoencoder(O + A, num_cells=(5,)).share_memory()
    make = partial(paid_in_a_worker, autoencoder)
    env = ParallelEnv(1, make, mp_start_method="fork")
    try:
        for _ in range(2):
            batch = env.rollout(2)
            paid = batch["next", "agents", "novelty"]
            today = NoveltyReward(autoencoder)(batch.exclude(("next", "agents", "novelty")))
            torch.testing.assert_close(paid, today["next", "agents", "novelty"])
            for param in autoencoder.parameters():
                param.data.mul_(1.5)
    finally:
        env.close()


@pytest.mark.parametrize("name", TRANSFORMS)
def test_fault_11_every_transform_that_reads_a_network_is_refused(name, monkeypatch):
    """As in a worker process, which TorchRL starts with a function of its own."""
    transform = TRANSFORMS[name]()
    running = SimpleNamespace(name="worker", _target=TransformedEnv.__init__)
    monkeypatch.setattr("multiprocessing.current_process", lambda: running)
    networks = borrowed(transform)
    if not any(list(network.parameters()) for network in networks):
        return
    spec = Composite(agents=Composite(observation=Unbounded((B, N, O)), shape=(B, N)), shape=(B,))
    with pytest.raises(ValueError, match="would read a copy"):
        transform.transform_observation_spec(spec)


# 14. A flag of termination for each agent


@pytest.mark.parametrize("team", [0, 1, Team(N, influencees=[2]), Team(N, influencers="all")])
def test_fault_14_flags_of_each_agent_are_those_of_the_influencees(team):
    batch = random_batch()
    loss = InfluenceLoss((first := maddpg()).actor_network, first, team, optimum=BestOf(at="next"))
    plain = loss(batch)
    flags = batch["next", "terminated"].unsqueeze(-2).expand(B, N, 1).clone()
    of_each = batch.clone().set(("next", "terminated"), flags)
    for key, value in plain.items():
        torch.testing.assert_close(loss(of_each)[key], value)
    # Of one influencee alone the value counts without an optimum.
    chosen = loss.team.among(N).influencees[-1]
    flags[:] = False
    going_on = loss(of_each)["gap"]
    flags[:, chosen] = True
    ended = loss(of_each)["gap"]
    torch.testing.assert_close(ended[:-1], going_on[:-1])
    assert ended[-1] != going_on[-1]


# 15. Dropout in a stack of critics


def test_fault_15_dropout_in_the_critics_of_torchrls_td3_is_drawn_for_each():
    torch.manual_seed(0)
    stock = stock_partner("td3", dropout=0.5)
    batch = random_batch()
    flags = batch["next", "terminated"].unsqueeze(-2).expand(B, N, 1)
    batch["next", "agents", "terminated"] = batch["next", "agents", "done"] = flags
    trained = InfluenceEstimatorLoss(stock)
    for loss in (trained, InfluenceLoss(stock.actor_network, stock, value=Trained(trained))):
        first, second = loss(batch), loss(batch)
        assert all(value.isfinite().all() for value in first.values())
        assert first[loss.out_keys[0]] != second[loss.out_keys[0]]


# 19. TorchRL's network as critics


def test_fault_19_torchrls_network_is_run_with_the_joint_action_of_each_critic():
    torch.manual_seed(0)
    net = MultiAgentMLP(O + A, 1, N, centralized=True, share_params=False, depth=1, num_cells=7)
    keys = {
        "in_keys": [("agents", "observation"), ("agents", "action")],
        "out_keys": [("agents", "state_action_value")],
    }
    critic, actor = TensorDictModule(net, **keys), make_actor(TargetEnv(), num_cells=SMALL)
    loss, batch = MADDPGLoss(actor, critic), random_batch()
    SoftUpdate(loss, tau=0.5)
    gain = -loss(batch)["loss_actor"]
    expected = torch.zeros(())
    own = actor(batch.select(("agents", "observation")))["agents", "action"]
    for agent in range(N):
        joint = batch["agents", "action"].clone()
        joint[:, agent] = own[:, agent]
        values = net(batch["agents", "observation"], joint)
        expected = expected + values[:, agent].mean()
    torch.testing.assert_close(gain, expected)
    parameters = list(actor.parameters())
    for found, wanted in zip(
        torch.autograd.grad(gain, parameters),
        torch.autograd.grad(expected, parameters),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted)
    # All influencers at once need it too.
    InfluenceLoss(actor, loss, Team(N, influencers="all"))(batch)["loss_influence"].backward()


# 20. Errors from deep inside


def test_fault_20_a_storage_of_a_list_is_refused_by_its_name():
    sampler = ConditionalSampler(num_anchors=1)
    buffer = ReplayBuffer(storage=ListStorage(9), sampler=sampler, batch_size=4)
    buffer.extend(random_batch())
    with pytest.raises(TypeError, match="LazyTensorStorage does, got ListStorage"):
        buffer.sample()


@pytest.mark.parametrize("name", ["push_box", "secret_room"])
def test_fault_20_another_default_precision_changes_no_step_of_a_grid_game(name):
    seen = []
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        try:
            env = make_env(name, num_envs=5, n_agents=2, seed=0)
            actor = make_actor(env, num_cells=SMALL)
            torch.manual_seed(0)
            rollout = env.rollout(7)
            assert actor(env.reset())["agents", "action"].isfinite().all()
        finally:
            torch.set_default_dtype(torch.float32)
        seen.append(rollout["next", "agents", "observation"])
    torch.testing.assert_close(*seen, check_dtype=False)
