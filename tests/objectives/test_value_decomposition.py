"""QMIX, VDN and IQL: numbers by hand, TorchRL's losses where they are the same, a game."""

from __future__ import annotations

import pytest
import torch
from constructors import value_decomposition
from fakes import A, B, H, N, O, S, TargetEnv, by_name, random_batch, sequences
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.modules import QMixer, QValueModule, VDNMixer
from torchrl.objectives import DQNLoss, HardUpdate, QMixerLoss, SoftUpdate

from torchrl_alita import IQL, QMIX, VDN, ValueDecompositionLoss, make_qnetwork
from torchrl_alita.envs import MatrixGame
from torchrl_alita.modules import BestAction

STATE = TargetEnv(discrete=True, has_state=True)
CHOSEN = ("agents", "chosen_action_value")


class Table(nn.Module):
    """Values of each agent's actions, the same everywhere, ``[N, L]``."""

    def __init__(self, values: torch.Tensor):
        super().__init__()
        self.values = nn.Parameter(values.clone())

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        return self.values.expand(*observation.shape[:-1], -1)


def table(values: list[list[float]]) -> TensorDictSequential:
    module = TensorDictModule(
        Table(torch.tensor(values)), [("agents", "observation")], [("agents", "action_value")]
    )
    return TensorDictSequential(module, BestAction())


def one_hot_batch(**options) -> TensorDict:
    batch = random_batch(**options)
    taken = batch["agents", "action"].argmax(-1)
    batch["agents", "action"] = nn.functional.one_hot(taken, A).float()
    return batch


def vdn_mixer() -> TensorDictModule:
    return TensorDictModule(VDNMixer(N, "cpu"), [CHOSEN], ["chosen_action_value"])


def qmixer() -> TensorDictModule:
    torch.manual_seed(1)
    return TensorDictModule(QMixer((S,), 5, N, "cpu"), [CHOSEN, "state"], ["chosen_action_value"])


def test_the_best_action_is_the_first_of_equals_and_never_a_masked_one():
    values = torch.tensor([[3.0, 3.0, 1.0], [1.0, 2.0, 9.0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    batch = TensorDict({"agents": {"action_value": values, "action_mask": mask}})
    result = BestAction(masked=True)(batch)
    assert result["agents", "action"].tolist() == [[1, 0, 0], [0, 1, 0]]
    assert result["agents", "chosen_action_value"].tolist() == [[3.0], [2.0]]
    assert result["agents", "action_value"][1, 2] == torch.finfo(torch.float32).min


def test_a_row_that_allows_nothing_is_padding():
    batch = TensorDict({"agents": {"action_value": torch.tensor([[1.0, 2.0]])}})
    batch["agents", "action_mask"] = torch.zeros(1, 2, dtype=torch.bool)
    assert BestAction(masked=True)(batch)["agents", "action"].tolist() == [[0, 1]]


def test_vdn_by_hand():
    """Q_tot = 1 + 4 + 5 = 10; the target is the mean reward and half the best values' sum."""
    loss = ValueDecompositionLoss(
        table([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), vdn_mixer(), gamma=0.5, reduction="none"
    )
    SoftUpdate(loss, tau=0.5)
    batch = one_hot_batch()
    batch["agents", "action"] = torch.tensor([[1.0, 0], [0, 1], [1, 0]]).expand(B, N, A)
    batch["next", "agents", "reward"] = torch.tensor([[1.0], [2.0], [6.0]]).expand(B, N, 1)
    batch["next", "terminated"] = torch.arange(B).unsqueeze(-1) == 0
    losses = loss(batch)
    # 3 + 0.5 * (2 + 4 + 6) = 9, and 3 where the episode ended.
    assert losses["loss_qvalue"].tolist() == [49.0, *[1.0] * (B - 1)]
    losses["loss_qvalue"][1].backward()
    gradient = loss.local_value_network_params["module", "0", "module", "values"].grad
    assert gradient.tolist() == [[2.0, 0.0], [0.0, 2.0], [2.0, 0.0]]


def test_without_a_mixer_each_agent_has_its_own_reward_and_value():
    loss = ValueDecompositionLoss(
        table([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), gamma=0.5, reduction="none"
    )
    SoftUpdate(loss, tau=0.5)
    batch = one_hot_batch()
    batch["agents", "action"] = torch.tensor([[1.0, 0], [0, 1], [1, 0]]).expand(B, N, A)
    batch["next", "agents", "reward"] = torch.tensor([[1.0], [2.0], [6.0]]).expand(B, N, 1)
    batch["next", "terminated"][:] = False
    # Targets 2, 4, 9 for the values 1, 4, 5.
    expected = (1.0 + 0.0 + 16.0) / 3
    torch.testing.assert_close(loss(batch)["loss_qvalue"], torch.full((B,), expected))


def test_double_q_takes_the_present_choice_at_the_targets_value():
    values = [[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]]
    results = {}
    for double_q in (True, False):
        loss = ValueDecompositionLoss(table(values), vdn_mixer(), gamma=1.0, double_q=double_q)
        SoftUpdate(loss, tau=0.5)
        target = loss.target_local_value_network_params["module", "0", "module", "values"]
        target.data.copy_(torch.tensor([[10.0, 20.0], [20.0, 10.0], [30.0, 0.0]]))
        batch = one_hot_batch()
        batch["next", "agents", "reward"][:] = 0
        batch["next", "terminated"][:] = False
        results[double_q] = float(loss(batch)["target_value"])
    assert results == {True: 20.0 + 10.0 + 0.0, False: 20.0 + 20.0 + 30.0}


@pytest.mark.parametrize("mixer", [vdn_mixer, qmixer])
def test_without_double_q_it_is_torchrls_qmixer_loss(mixer):
    torch.manual_seed(0)
    network = make_qnetwork(STATE, recurrent=False, num_cells=(H,))
    batch = sequences(batch_size=(B,))
    ours = ValueDecompositionLoss(network, mixer(), gamma=0.9, double_q=False)
    SoftUpdate(ours, tau=0.5)
    values = QValueModule(
        action_space="one-hot",
        action_value_key=("agents", "action_value"),
        out_keys=[("agents", "action"), ("agents", "action_value"), CHOSEN],
    )
    theirs = QMixerLoss(TensorDictSequential(network[0], values), mixer(), action_space="one-hot")
    theirs.make_value_estimator(gamma=0.9)
    SoftUpdate(theirs, tau=0.5)
    other = batch.clone()
    other["next", "reward"] = batch["next", "agents", "reward"].mean(-2)
    other["agents", "action"] = batch["agents", "action"].long()
    torch.testing.assert_close(ours(batch)["loss_qvalue"], theirs(other)["loss"])


def test_without_a_mixer_it_is_torchrls_dqn_loss():
    torch.manual_seed(0)
    network = make_qnetwork(STATE, recurrent=False, num_cells=(H,))
    ours = ValueDecompositionLoss(network, gamma=0.9)
    SoftUpdate(ours, tau=0.5)
    values = QValueModule(
        action_space="one-hot",
        action_value_key=("agents", "action_value"),
        out_keys=[("agents", "action"), ("agents", "action_value"), CHOSEN],
    )
    theirs = DQNLoss(
        TensorDictSequential(network[0], values), action_space="one-hot", double_dqn=True,
        delay_value=True,
    )  # fmt: skip
    theirs.set_keys(
        action=("agents", "action"), action_value=("agents", "action_value"), value=CHOSEN,
        reward=("agents", "reward"), done=("agents", "done"), terminated=("agents", "terminated"),
    )  # fmt: skip
    theirs.make_value_estimator(gamma=0.9)
    SoftUpdate(theirs, tau=0.5)
    for loss in (ours, theirs):
        params = (
            loss.target_local_value_network_params
            if loss is ours
            else (loss.target_value_network_params)
        )
        params.data.apply_(lambda value: value * 0.5)
    batch = one_hot_batch()
    other = batch.clone()
    for name in ("done", "terminated"):
        flag = batch["next", name].unsqueeze(-2).expand(B, N, 1)
        other["next", "agents", name] = flag
    torch.testing.assert_close(ours(batch)["loss_qvalue"], theirs(other)["loss"])


def test_qmix_is_monotonic_in_each_agents_value():
    """Every agent's best action is the team's, whatever the weights."""
    loss = ValueDecompositionLoss(table([[1.0, 2.0]] * N), qmixer())
    SoftUpdate(loss, tau=0.5)
    batch = sequences(batch_size=(B,))
    local = torch.randn(B, N, 1, requires_grad=True)
    loss._mixed(batch, local, target=False).sum().backward()
    assert (local.grad >= 0).all()
    assert (local.grad > 0).any()


def test_the_target_at_an_episodes_end_does_not_see_the_next_episode():
    """Truncated: the last value counts, with the memory of the episode that ends."""
    torch.manual_seed(0)
    network = make_qnetwork(STATE, hidden_size=H)
    batch = sequences()
    batch["is_init"][:] = False
    batch["is_init"][:, 5] = True
    batch["next", "terminated"][:] = False
    loss = ValueDecompositionLoss(network, vdn_mixer(), reduction="none")
    SoftUpdate(loss, tau=0.5)
    other = batch.clone()
    for key in ("observation", "last_action"):
        other["agents", key][:, 5:] += 1.0
    for rows, differs in ((slice(0, 5), False), (slice(5, None), True)):
        first, second = loss(batch)["loss_qvalue"][:, rows], loss(other)["loss_qvalue"][:, rows]
        assert bool((first != second).any()) == differs


@pytest.mark.parametrize("mixer", [None, vdn_mixer, qmixer])
@pytest.mark.parametrize("double_q", [False, True])
def test_a_target_that_looks_ahead_is_the_recursion_over_each_episode(mixer, double_q):
    """G_t = r_t + gamma ((1 - lambda) V_{t+1} + lambda G_{t+1}), from one-step targets alone."""
    torch.manual_seed(0)
    batch, gamma, lmbda = sequences(), 0.9, 0.6
    network = make_qnetwork(STATE, hidden_size=H)
    options = {"gamma": gamma, "double_q": double_q, "reduction": "none"}
    mixer = mixer and mixer()
    ours = ValueDecompositionLoss(network, mixer, lmbda=lmbda, **options)
    one_step = ValueDecompositionLoss(network, mixer, **options)
    for loss in (ours, one_step):
        SoftUpdate(loss, tau=0.5)
    # One that is cut within the sequence, one that ends there.
    batch["next", "done"][:2, 2] = True
    batch["next", "terminated"][1, 2] = True
    done = batch["next", "done"]
    local = one_step._local(batch, one_step.local_value_network_params)
    # A reward of 0 leaves gamma times the value that follows, 0 after a terminal step.
    unpaid = batch.clone()
    unpaid["next", "agents", "reward"][:] = 0
    following = one_step._target(unpaid, local)
    expected = one_step._target(batch, local).clone()
    shape = (*done.shape[:2], *[1] * (expected.ndim - 2))
    goes_on = ~done.view(shape)
    for t in range(done.shape[1] - 2, -1, -1):
        further = gamma * expected[:, t + 1] * goes_on[:, t]
        expected[:, t] += lmbda * goes_on[:, t] * (further - following[:, t])
    torch.testing.assert_close(ours._target(batch, local), expected)
    assert ours(batch)["target_value"].mean() != one_step(batch)["target_value"].mean()


def test_qmix_learns_on_sequences_what_a_later_reward_is_worth():
    """With lambda 1 and no value that moves, the values are the returns of what was done."""
    torch.manual_seed(0)
    batch = sequences()
    for name in ("done", "terminated"):
        batch["next", name][:] = False
        batch["next", name][:, -1] = True
    batch["next", "agents", "reward"][:] = 1.0
    loss = ValueDecompositionLoss(table([[9.0, 9.0]] * N), vdn_mixer(), gamma=0.5, lmbda=1.0)
    SoftUpdate(loss, tau=0.5)
    steps = batch.shape[1]
    returns = 2 - 0.5 ** torch.arange(steps - 1, -1, -1.0)
    torch.testing.assert_close(loss(batch)["target_value"], returns.mean())


@pytest.mark.parametrize(("kind", "solves"), [(VDN, True), (QMIX, True), (IQL, True)])
def test_a_game_whose_agents_pay_each_for_itself_is_solved(kind, solves):
    """Action 1 pays each agent, whatever the other does: the best joint action is (1, 1)."""
    game = MatrixGame([[0.0, 1.0, 1.0, 2.0]] * 2, num_envs=16)
    torch.manual_seed(0)
    settings = {"recurrent": False, "num_cells": (16,), "critic_lr": 1e-2, "gamma": 0.0}
    algorithm = kind(game, kind.Settings(**settings, target_update_interval=5))
    for _ in range(80):
        algorithm.update(by_name(algorithm, game.rollout(1).reshape(-1)))
    greedy = game.rollout(1, algorithm.actor)
    assert bool((greedy["agents", "action"].argmax(-1) == 1).all()) == solves


def test_qmix_learns_what_iql_cannot_tell():
    """The team is paid for acting alike: QMIX's value of the joint action is the game's."""
    game = MatrixGame([[4.0, 0.0, 0.0, 8.0]] * 2, num_envs=16)
    values = {}
    for kind in (VDN, IQL):
        torch.manual_seed(0)
        settings = {"recurrent": False, "num_cells": (16,), "critic_lr": 1e-2, "gamma": 0.0}
        algorithm = kind(game, kind.Settings(**settings))
        for _ in range(200):
            logs = algorithm.update(by_name(algorithm, game.rollout(1).reshape(-1)))
        values[kind] = float(logs["pred_value"])
    # IQL's value of an agent is the team's reward; VDN's shares add up to it.
    assert values[IQL] == pytest.approx(3.0, abs=1.0)
    assert values[VDN] == pytest.approx(3.0, abs=1.0)


def test_targets_are_set_every_so_many_updates_and_stay_between():
    torch.manual_seed(0)
    algorithm = QMIX(
        STATE, QMIX.Settings(recurrent=False, num_cells=(5,), target_update_interval=3)
    )
    params = algorithm.qvalue.local_value_network_params
    targets = algorithm.qvalue.target_local_value_network_params
    same = []
    for seed in range(6):
        algorithm.update(by_name(algorithm, sequences(batch_size=(B,), seed=seed)))
        pairs = zip(params.values(True, True), targets.values(True, True), strict=True)
        same.append(all(bool((p == t).all()) for p, t in pairs))
    assert same == [False, False, True, False, False, True]


def test_the_mixer_reads_all_observations_where_there_is_no_state():
    algorithm = QMIX(TargetEnv(discrete=True), QMIX.Settings(recurrent=False, num_cells=(5,)))
    assert algorithm.qvalue.mixer_network.in_keys == [CHOSEN, ("agents", "observation")]
    assert algorithm.qvalue.mixer_network.module.state_dim == N * O
    algorithm.update(by_name(algorithm, one_hot_batch()))


def test_the_mixer_begins_small():
    def mixers(scale: float) -> list[torch.Tensor]:
        torch.manual_seed(0)
        algorithm = QMIX(STATE, QMIX.Settings(mixing_init_scale=scale))
        loss = algorithm.qvalue
        params = [loss.mixer_network_params, loss.target_mixer_network_params]
        return [value for each in params for value in each.values(True, True)]

    for small, drawn in zip(mixers(0.1), mixers(1.0), strict=True):
        torch.testing.assert_close(small, drawn * 0.1)


def test_rmsprop_is_pymarls():
    optimizer = QMIX(STATE).optimizers["qvalue"]
    assert type(optimizer) is torch.optim.RMSprop
    settings = {name: optimizer.defaults[name] for name in ("lr", "alpha", "eps", "momentum")}
    assert settings == {"lr": 5e-4, "alpha": 0.99, "eps": 1e-5, "momentum": 0}


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: QMIX(TargetEnv()), ValueError, "one-hot"),
        (lambda: QMIX(STATE, QMIX.Settings(optimizer="sgd")), ValueError, "optimizer"),
        (
            lambda: QMIX(STATE, QMIX.Settings(target_update_interval=0)),
            ValueError,
            "target_update_interval",
        ),
        (lambda: QMIX(STATE, QMIX.Settings(mixing_embed_dim=0)), ValueError, "mixing_embed_dim"),
        (lambda: QMIX(STATE, QMIX.Settings(mixing_init_scale=0)), ValueError, "mixing_init_scale"),
        (lambda: QMIX(STATE, QMIX.Settings(critic_lr=0)), ValueError, "critic_lr"),
        (lambda: QMIX(STATE, QMIX.Settings(max_grad_norm=0)), ValueError, "max_grad_norm"),
        (lambda: ValueDecompositionLoss(table([[0.0]]), gamma=1.5), ValueError, "gamma"),
        (lambda: ValueDecompositionLoss(table([[0.0]]), reduction="x"), ValueError, "reduction"),
        (lambda: ValueDecompositionLoss(table([[0.0]]), lmbda=-0.1), ValueError, "lmbda"),
        (lambda: QMIX.Settings(lmbda=1.1), ValueError, "lmbda"),
        (lambda: QMIX.Settings(lmbda=0.5, recurrent=False), ValueError, "lmbda"),
        (
            lambda: value_decomposition(None, recurrent=False, lmbda=0.5)(
                one_hot_batch(batch_size=())
            ),
            ValueError,
            "sequences",
        ),
        (
            lambda: VDN(STATE, VDN.Settings(lmbda=0.5)).update(
                {"batch": sequences().exclude(("next", "done"))}
            ),
            KeyError,
            "done",
        ),
        (
            lambda: VDN(STATE).update({"batch": sequences().exclude("is_init")}),
            KeyError,
            "is_init",
        ),
    ],
)
def test_bad_input_has_one_clear_error(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_an_update_of_the_targets_reaches_all_of_them():
    loss = ValueDecompositionLoss(table([[1.0, 2.0]] * N), qmixer())
    updater = HardUpdate(loss, value_network_update_interval=0)
    loss.mixer_network_params.data.apply_(lambda value: value + 1)
    loss.local_value_network_params.data.apply_(lambda value: value + 1)
    updater.step()
    for name in ("mixer_network", "local_value_network"):
        params = getattr(loss, f"{name}_params")
        targets = getattr(loss, f"target_{name}_params")
        for key, value in params.items(True, True):
            torch.testing.assert_close(targets[key], value.data, rtol=0, atol=0)
