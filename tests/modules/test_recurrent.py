"""Networks with a memory: steps and sequences agree, nothing leaks from episode to episode."""

from __future__ import annotations

import pytest
import torch
from fakes import (
    A,
    B,
    CueEnv,
    H,
    N,
    O,
    S,
    T,
    TargetEnv,
    build,
    by_name,
    conditional_names,
    flat_config,
    sequences,
)
from tensordict import TensorDict
from tensordict.nn import TensorDictSequential
from torch import nn
from torchrl.envs import (
    ExplorationType,
    InitTracker,
    StepCounter,
    TransformedEnv,
    set_exploration_type,
)
from torchrl.envs.utils import check_env_specs
from torchrl.modules import EGreedyModule, set_recurrent_mode
from torchrl.objectives import SoftUpdate

from torchrl_alita import (
    ALITA,
    IQL,
    MADDPG,
    QMIX,
    DiversityPenalty,
    MADDPGLoss,
    make_actor,
    make_critic,
    make_recurrent_actor,
    recurrent_transforms,
)
from torchrl_alita.modules import MultiAgentGRU, make_qnetwork
from torchrl_alita.modules._gru import unroll_gru
from torchrl_alita.objectives import _critics
from torchrl_alita.training.buffers import Buffers

STATE = ("agents", "recurrent_state")
NEXT_STATE = ("next", *STATE)
DISCRETE = TargetEnv(discrete=True, has_state=True)


def gru(**options) -> MultiAgentGRU:
    torch.manual_seed(0)
    sizes = {"observation_size": O, "action_size": A, "out_features": A, "num_agents": N}
    return MultiAgentGRU(**sizes, hidden_size=H, **options)


def stepped(network: MultiAgentGRU, batch: TensorDict) -> TensorDict:
    """One step after the other, the memory handed on by hand."""
    steps, memory = [], batch[STATE][:, 0]
    for step in batch.unbind(1):
        step = network(step.clone().set(STATE, memory))
        memory = step[NEXT_STATE]
        steps.append(step)
    return torch.stack(steps, 1)


@pytest.mark.parametrize("share_params", [True, False])
def test_steps_and_sequences_give_the_same(share_params):
    network, batch = gru(share_params=share_params), sequences()
    assert batch["is_init"][:, 1:].any()
    assert not batch["is_init"].all()
    with set_recurrent_mode(True):
        unrolled = network(batch.clone())
    by_step = stepped(network, batch)
    for key in network.out_keys:
        torch.testing.assert_close(unrolled[key], by_step[key])


def test_the_gates_are_those_of_torch():
    """An independent GRU with the same numbers, of one agent."""
    network = gru(share_params=False)
    cell = nn.GRUCell(H, H)
    params = [network.input_gates.params, network.state_gates.params]
    names = ("weight_ih", "bias_ih", "weight_hh", "bias_hh")
    values = [p["0", kind][1].detach() for p in params for kind in ("weight", "bias")]
    cell.load_state_dict(dict(zip(names, values, strict=True)))
    encoder = network.encoder.params["0"]
    batch = sequences(batch_size=(B,))
    read = torch.cat([batch["agents", "observation"], batch["agents", "last_action"]], -1)[:, 1]
    encoded = torch.relu(read @ encoder["weight"][1].T + encoder["bias"][1])
    memory = torch.where(batch["is_init"], 0.0, batch[STATE][:, 1])
    torch.testing.assert_close(network(batch)[NEXT_STATE][:, 1], cell(encoded, memory))


def unrolled_by_hand(inputs, begins, state, weight, bias):
    """The same, written out, so that autograd finds the gradient."""
    states = []
    for step, begin in zip(inputs, begins, strict=True):
        state = torch.where(begin, 0.0, state)
        of_state = torch.einsum("mrh,mgh->mrg", state, weight) + bias.unsqueeze(1)
        (x_r, x_z, x_n), (h_r, h_z, h_n) = step.chunk(3, -1), of_state.chunk(3, -1)
        update = torch.sigmoid(x_z + h_z)
        new = torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n)
        state = (1 - update) * new + update * state
        states.append(state)
    return torch.stack(states)


def gru_case(num_networks: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)

    def draw(*size: int) -> torch.Tensor:
        values = torch.randn(*size, generator=generator, dtype=torch.double)
        return values.requires_grad_()

    begins = torch.rand(T, num_networks, B, 1, generator=generator) < 0.3
    sizes = [(T, num_networks, B, 3 * H), (num_networks, B, H), (num_networks, 3 * H, H)]
    return begins, [*(draw(*size) for size in sizes), draw(num_networks, 3 * H)]


@pytest.mark.parametrize("num_networks", [1, N])
def test_the_gradient_through_time_is_autograds(num_networks):
    begins, (inputs, *others) = gru_case(num_networks)
    assert begins[1:].any()
    weights = torch.randn(T, num_networks, B, H, dtype=torch.double)
    found, expected = (f(inputs, begins, *others) for f in (unroll_gru, unrolled_by_hand))
    torch.testing.assert_close(found, expected)
    for one, other in zip(
        torch.autograd.grad((weights * found).sum(), [inputs, *others]),
        torch.autograd.grad((weights * expected).sum(), [inputs, *others]),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


# Of the check itself, with torch 2.14.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_the_operation_keeps_what_it_tells_the_compiler():
    begins, (inputs, *others) = gru_case(N)
    torch.library.opcheck(torch.ops.torchrl_alita.unroll_gru, (inputs, begins, *others))


def test_an_episode_that_begins_forgets_the_one_before():
    network, batch = gru(), sequences()
    batch["is_init"][:] = False
    batch["is_init"][:, 5] = True
    other = batch.clone()
    for key in (("agents", "observation"), STATE):
        other[key][:, :5] += 1.0
    with set_recurrent_mode(True):
        first, second = network(batch)[NEXT_STATE], network(other)[NEXT_STATE]
    assert (first[:, :5] != second[:, :5]).all()
    torch.testing.assert_close(first[:, 5:], second[:, 5:], rtol=0, atol=0)


def test_the_memory_that_is_stored_counts_at_the_first_step_alone():
    network, batch = gru(), sequences()
    other = batch.clone()
    other[STATE][:, 1:] = torch.nan
    with set_recurrent_mode(True):
        first, second = network(batch)[NEXT_STATE], network(other)[NEXT_STATE]
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_shared_agents_differ_by_their_index_alone():
    network, batch = gru(), sequences(batch_size=(B,))
    for key in (("agents", "observation"), ("agents", "last_action"), STATE):
        batch[key][:] = batch[key][:, :1].clone()
    out = network(batch)["agents", "logits"]
    assert (out[:, 0] != out[:, 1]).all()
    network.agent_id.zero_()
    out = network(batch)["agents", "logits"]
    torch.testing.assert_close(out[:, 0], out[:, 1])


@pytest.mark.parametrize("algorithm", [MADDPG, ALITA, QMIX])
@pytest.mark.parametrize("mixed_precision", [False, True])
def test_a_rollout_as_it_comes_is_a_batch(algorithm, mixed_precision):
    """Its dimension of time has a name."""
    torch.manual_seed(0)
    learner = build(
        algorithm, DISCRETE, recurrent=True, hidden_size=H, mixed_precision=mixed_precision
    )
    env = TransformedEnv(TargetEnv(discrete=True, has_state=True), *learner.env_transforms())
    with torch.no_grad():
        episode = env.rollout(T, learner.actor, break_when_any_done=False)
    assert episode.names == [None, "time"]
    for value in learner.update(by_name(learner, episode)).values():
        assert value.isfinite()
        assert value.dtype == torch.float32


@pytest.mark.parametrize("make", [make_recurrent_actor, make_qnetwork])
def test_an_environment_with_the_transforms_keeps_its_specs(make):
    network = make(DISCRETE, hidden_size=H)
    env = TransformedEnv(TargetEnv(discrete=True), recurrent_transforms(network))
    check_env_specs(env)
    episode = env.rollout(11, network, break_when_any_done=False)
    assert episode["agents"].batch_size == episode["next", "agents"].batch_size == (B, 11, N)


def test_episodes_that_end_at_different_times_begin_anew_each_for_itself():
    """The memory, the last action and the mark of the beginning, in partial resets."""
    actor = make_recurrent_actor(DISCRETE, hidden_size=H)
    env = TransformedEnv(StaggeredEnv(discrete=True), recurrent_transforms(actor))
    episode = env.rollout(11, actor, break_when_any_done=False)
    begins = episode["is_init"].squeeze(-1)
    ended = episode["next", "done"].squeeze(-1)
    torch.testing.assert_close(begins[:, 1:], ended[:, :-1])
    assert begins[:, 1:].any(0).sum() > 3
    assert not begins[:, 1:].all(0).any()
    last = episode["agents", "last_action"][:, 1:]
    acted = episode["agents", "action"][:, :-1]
    running = ~begins[:, 1:]
    torch.testing.assert_close(last[running], acted[running])
    assert (last[~running] == 0).all()
    memory, kept = episode[STATE][:, 1:], episode[NEXT_STATE][:, :-1]
    torch.testing.assert_close(memory[running], kept[running])
    assert (memory[~running] == 0).all()
    with set_recurrent_mode(True):
        again = actor.module[0](episode.clone())
    torch.testing.assert_close(again[NEXT_STATE], episode[NEXT_STATE])


class StaggeredEnv(TargetEnv):
    """Environment b ends its episodes every b + 2 steps."""

    def _step(self, tensordict: TensorDict) -> TensorDict:
        result = super()._step(tensordict)
        ended = self.steps % (torch.arange(B).unsqueeze(-1) + 2) == 0
        return result.update(self._flags(ended))


def test_the_next_action_comes_from_the_memory_of_the_episode_that_ends():
    """A target at an episode's last step sees its last observation with its own memory."""
    torch.manual_seed(0)
    actor = make_recurrent_actor(DISCRETE, hidden_size=H)
    batch = sequences()
    unrolled = _critics.unroll(actor, TensorDict.from_module(actor), batch)
    assert unrolled is not None
    with set_recurrent_mode(True):
        unrolled = actor(batch.clone())
    following = _critics.following_inputs(actor, actor.in_keys, batch, unrolled)
    torch.testing.assert_close(following[STATE], unrolled[NEXT_STATE])
    assert not following["is_init"].any()
    torch.testing.assert_close(
        following["agents", "last_action"], batch["agents", "action"], rtol=0, atol=0
    )


def test_padding_changes_neither_loss_nor_gradient():
    """Sequences of unequal length, NaN where the shorter ones have ended."""
    lengths = torch.arange(B) % 3 + T - 2
    shown = torch.arange(T) < lengths.unsqueeze(-1)
    batch = sequences()
    padded = batch.clone()
    for _, value in padded.items(True, True):
        if value.is_floating_point():
            value[~shown] = torch.nan
    padded["collector", "mask"] = shown
    results = []
    for rows in (padded, batch):
        torch.manual_seed(1)
        loss = MADDPGLoss(
            make_recurrent_actor(DISCRETE, hidden_size=H),
            make_critic(DISCRETE, num_cells=(5,), critic_input="state"),
            own_actions="all",
            reduction="none" if rows is batch else "mean",
        )
        SoftUpdate(loss, tau=0.5)
        losses = loss(rows)
        total = losses["loss_actor"] + losses["loss_qvalue"]
        (total[shown].mean() if rows is batch else total).backward()
        gradients = [p.grad for p in loss.parameters() if p.grad is not None]
        results.append((total[shown].mean() if rows is batch else total, gradients))
    torch.testing.assert_close(results[0][0], results[1][0])
    for first, second in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(first, second)


def test_the_penalty_of_a_policy_with_a_memory_is_that_of_its_unrolled_actions():
    actor = make_recurrent_actor(DISCRETE, hidden_size=H)
    batch = sequences()
    penalty = DiversityPenalty(actor, omega=0.0, distance="brier")(batch)
    with set_recurrent_mode(True):
        shares = actor(batch.clone())["agents", "logits"].softmax(-1)
    expected = -(shares - batch["agents", "action"]).square().sum(-1, keepdim=True)
    expected[..., 0, :] = 0.0
    torch.testing.assert_close(penalty["next", "agents", "diversity_penalty"], expected)


@pytest.mark.parametrize("estimator", ["marginal", "clones", "centralized"])
def test_alita_takes_recurrent_policies(estimator):
    torch.manual_seed(0)
    options = {"recurrent": True, "hidden_size": H, "critic_input": "state", "num_cells": (5,)}
    algorithm = ALITA(DISCRETE, ALITA.Settings(estimator=estimator, **options))
    conditional = [sequences(batch_size=(B, 1)) for _ in conditional_names(algorithm)]
    before = [p.detach().clone() for p in algorithm.actor.parameters()]
    logs = algorithm.update(
        by_name(algorithm, sequences(), conditional, sequences(batch_size=(B,)))
    )
    assert all(torch.isfinite(value).all() for value in logs.values())
    after = list(algorithm.actor.parameters())
    moved = [bool((a != b).any()) for a, b in zip(before, after, strict=True)]
    assert all(moved)


def test_recurrent_updates_are_the_same_whatever_the_batch_says_of_the_memory_later():
    """Only the first step's memory is read: the actors that collected are long gone."""
    results = []
    for stale in (False, True):
        torch.manual_seed(0)
        algorithm = MADDPG(DISCRETE, MADDPG.Settings(recurrent=True, hidden_size=H, num_cells=(5,)))
        batch = sequences()
        if stale:
            batch[STATE][:, 1:] = 7.0
        results.append(algorithm.update(by_name(algorithm, batch)))
    for key, value in results[0].items():
        torch.testing.assert_close(results[1][key], value, rtol=0, atol=0)


def test_a_critic_of_the_state_reads_it_and_the_joint_action():
    torch.manual_seed(0)
    critic = make_critic(DISCRETE, num_cells=(5,), critic_input="state", layer_norm=False)
    assert critic.in_keys == ["state", ("agents", "action")]
    batch = sequences(batch_size=(B,))
    value = critic(batch.clone())["agents", "state_action_value"]
    joint = torch.cat([batch["state"], batch["agents", "action"].flatten(1)], -1)
    first, second = (critic.module.net.params[layer] for layer in ("0", "2"))
    by_hand = [
        torch.relu(joint @ first["weight"][i].T + first["bias"][i]) @ second["weight"][i].T
        + second["bias"][i]
        for i in range(N)
    ]
    torch.testing.assert_close(value, torch.stack(by_hand, 1))
    changed = batch.clone().set("state", batch["state"] + 1)
    assert (critic(changed)["agents", "state_action_value"] != value).all()


def test_buffers_burn_the_memory_in_and_give_the_steps_after():
    config = flat_config(
        algorithm="maddpg", recurrent=True, hidden_size=H, num_cells=(5,), random_frames=0, num_envs=B, frames_per_batch=B, frames_per_update=B, total_frames=50 * B,
        batch_size=12, sequence_length=3, burn_in=4, buffer_size=20 * B + 3, recent_frames=5,
    )  # fmt: skip
    torch.manual_seed(0)
    algorithm = config.build(DISCRETE)
    buffers = Buffers(config, algorithm)
    assert buffers.replay.storage.max_size == 20 * B
    env = TransformedEnv(TargetEnv(discrete=True, has_state=True), StepCounter())
    for transform in algorithm.env_transforms():
        env.append_transform(transform)
    env.rollout(9, algorithm.actor)
    collected = env.rollout(12, algorithm.actor, break_when_any_done=False)
    # What the memory was when it was collected is wrong, but for where episodes begin.
    buffers.extend(collected.clone().set(STATE, torch.full_like(collected[STATE], 7.0)))
    buffers.replay.sampler._rng = torch.Generator().manual_seed(0)
    batch = buffers.sample()["batch"]
    assert batch.shape == (4, 3)
    # An episode of four steps begins in every four: its beginning has set the memory right.
    where = batch["agents", "observation"][:, :1, None] == collected["agents", "observation"]
    rows = where.flatten(3).all(-1).flatten(1).nonzero()[:, 1]
    running = ~batch["is_init"][:, 0, 0]
    assert running.any()
    expected = collected[STATE].flatten(0, 1)[rows]
    torch.testing.assert_close(batch[STATE][running, 0], expected[running])


def test_buffers_are_ready_when_there_are_as_many_steps_as_a_sequence_has():
    config = flat_config(
        algorithm="maddpg", recurrent=True, hidden_size=H, num_cells=(5,), random_frames=0, num_envs=B, frames_per_batch=B, frames_per_update=B, total_frames=50 * B,
        batch_size=12, sequence_length=3, burn_in=4,
    )  # fmt: skip
    algorithm = config.build(DISCRETE)
    buffers = Buffers(config, algorithm)
    env = TransformedEnv(TargetEnv(discrete=True, has_state=True))
    for transform in algorithm.env_transforms():
        env.append_transform(transform)
    steps = env.rollout(7, algorithm.actor, break_when_any_done=False)
    ready = []
    for step in range(7):
        buffers.extend(steps[:, step : step + 1])
        ready.append(buffers.ready)
    assert ready == [False] * 6 + [True]
    assert buffers.sample()["batch"].shape == (4, 3)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: gru()(sequences(batch_size=(B,)).exclude("is_init")), KeyError, "is_init"),
        (lambda: MultiAgentGRU(
            observation_size=O, action_size=A, out_features=A, num_agents=N, hidden_size=0
        ), ValueError, "hidden_size"),
        (lambda: recurrent_transforms(make_actor(DISCRETE)), ValueError, "no memory"),
        (lambda: make_qnetwork(TargetEnv()), ValueError, "one-hot"),
        (lambda: make_critic(TargetEnv(), critic_input="state"), ValueError, "no 'state'"),
        (lambda: make_critic(DISCRETE, critic_input="x"), ValueError, "critic_input"),
        (lambda: make_critic(
            DISCRETE, critic_input="state", scope=torch.eye(N, dtype=torch.bool)
        ), ValueError, "sees all agents"),
        (lambda: MADDPG.Settings(recurrent=True, batch_size=2, sequence_length=3), ValueError, "sequence_length"),
        (lambda: MADDPG.Settings(burn_in=-1), ValueError, "burn_in"),
    ],
)  # fmt: skip
def test_bad_input_has_one_clear_error(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_recurrent_mode_without_a_dimension_of_time_is_refused():
    single = sequences(batch_size=(1,))[0]
    with set_recurrent_mode(True), pytest.raises(ValueError, match="dimension of time"):
        gru()(single)


def test_the_last_action_can_be_left_out():
    actor = make_recurrent_actor(DISCRETE, hidden_size=H, last_action=False)
    assert ("agents", "last_action") not in actor.in_keys
    kinds = [type(transform) for transform in recurrent_transforms(actor)]
    assert kinds[0] is InitTracker
    assert len(kinds) == 2
    assert DISCRETE.observation_spec["state"].shape[-1] == S


def learned(kind: type, updates: int, *, recurrent: bool = True, **options) -> float:
    """What a team earns after some updates, each on two episodes of 16 environments."""
    torch.manual_seed(0)
    env = CueEnv()
    algorithm = build(kind, env, recurrent=recurrent, **options)
    env = TransformedEnv(env)
    for transform in algorithm.env_transforms():
        env.append_transform(transform)
    noise = EGreedyModule(
        spec=algorithm.action_spec, eps_init=0.5, eps_end=0.5, action_key=("agents", "action")
    )
    policy = TensorDictSequential(algorithm.actor, noise)
    for _ in range(updates):
        with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
            batch = env.rollout(6, policy, break_when_any_done=False)
        algorithm.update(by_name(algorithm, batch))
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        episodes = env.rollout(30, algorithm.actor, break_when_any_done=False)
    return float(episodes["next", "agents", "reward"].sum(1).mean()) / 10


VALUE_BASED = {"hidden_size": 16, "critic_lr": 3e-3, "optimizer": "adam"}
ACTOR_CRITIC = {
    "hidden_size": 16, "num_cells": (32,), "share_params": True, "critic_input": "state",
    "own_actions": "all", "actor_lr": 1e-2, "critic_lr": 1e-2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (QMIX, VALUE_BASED | {"target_update_interval": 10, "mixing_init_scale": 1.0}),
        (IQL, VALUE_BASED | {"target_update_interval": 10}),
        (MADDPG, ACTOR_CRITIC),
        (ALITA, ACTOR_CRITIC | {"diversity_coeff": 0.0}),
    ],
)
def test_a_team_remembers_what_it_must(kind, options):
    assert learned(kind, 150, **options) > 0.95


def test_without_a_memory_the_same_task_cannot_be_solved():
    assert learned(QMIX, 60, recurrent=False, num_cells=(16,), critic_lr=3e-3) < 0.7
