"""Sequences of consecutive steps: whole, of one environment, uniform, and never stale."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, ReplayBuffer

from torchrl_alita import SequenceSampler
from torchrl_alita.data import as_sequences

E, T, STEPS = 3, 5, 11


def buffer(*, size: int = E * STEPS, sequences: int = 7) -> ReplayBuffer:
    sampler = SequenceSampler(num_envs=E, length=T)
    result = ReplayBuffer(
        storage=LazyTensorStorage(size), sampler=sampler, batch_size=sequences * T
    )
    result.set_rng(torch.Generator().manual_seed(0))
    return result


def steps(first: int, count: int) -> TensorDict:
    """Row by row: the number of the step and of the environment."""
    step = torch.arange(first, first + count).repeat_interleave(E)
    return TensorDict({"step": step, "env": torch.arange(E).repeat(count)}, [count * E])


def drawn(from_buffer: ReplayBuffer, times: int = 200) -> TensorDict:
    return torch.cat([as_sequences(from_buffer.sample(), T) for _ in range(times)])


def assert_consecutive(batch: TensorDict) -> None:
    assert (batch["step"].diff(dim=1) == 1).all()
    assert (batch["env"] == batch["env"][:, :1]).all()


@pytest.mark.parametrize("stored", [T, STEPS - 1, STEPS, STEPS + 1, 2 * STEPS + 4])
def test_sequences_are_consecutive_steps_of_one_environment(stored):
    """Also where the storage is full and goes on from its beginning."""
    filled = buffer()
    for first in range(stored):
        filled.extend(steps(first, 1))
    batch = drawn(filled)
    assert batch.shape == (200 * 7, T)
    assert_consecutive(batch)
    oldest = max(0, stored - STEPS)
    assert set(batch["step"].flatten().tolist()) == set(range(oldest, stored))
    assert set(batch["env"].flatten().tolist()) == set(range(E))


def test_every_sequence_is_as_likely_as_every_other():
    filled = buffer()
    filled.extend(steps(0, 4))
    filled.extend(steps(4, 9))
    batch = drawn(filled, 3000)
    starts = (batch["step"][:, 0] - 2) * E + batch["env"][:, 0]
    counts = starts.bincount().double()
    assert len(counts) == (STEPS - T + 1) * E
    expected = len(starts) / len(counts)
    # Five standard deviations of a count.
    assert (counts - expected).abs().max() < 5 * expected**0.5


def test_the_state_goes_on_in_a_copy():
    first, second = buffer(), buffer()
    for each in (first, second):
        each.extend(steps(0, STEPS + 4))
    second.sampler._end = 0
    second.sampler.load_state_dict(first.sampler.state_dict())
    for each in (first, second):
        each.set_rng(torch.Generator().manual_seed(3))
    torch.testing.assert_close(first.sample()["step"], second.sample()["step"])
    assert_consecutive(drawn(second, 20))


def test_a_file_holds_the_state(tmp_path):
    filled = buffer()
    filled.extend(steps(0, STEPS + 4))
    filled.sampler.dumps(tmp_path / "sampler")
    other = SequenceSampler(num_envs=E, length=T)
    other.loads(tmp_path / "sampler")
    assert other.state_dict() == filled.sampler.state_dict() == {"end": 4 * E}


def test_an_emptied_buffer_begins_anew():
    filled = buffer()
    filled.extend(steps(0, STEPS + 4))
    filled.empty()
    filled.extend(steps(100, T))
    batch = drawn(filled, 5)
    assert_consecutive(batch)
    assert batch["step"].min() == 100


def extended(count: int, **options) -> ReplayBuffer:
    filled = buffer(**options)
    filled.extend(steps(0, count))
    return filled


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: SequenceSampler(num_envs=0, length=T), "num_envs"),
        (lambda: SequenceSampler(num_envs=E, length=0), "length"),
        (lambda: extended(T - 1).sample(), "must be 5 steps to sample from, got 4"),
        (lambda: extended(T).sampler.sample(extended(T).storage, 6), "multiple of the length, 5"),
        (lambda: extended(STEPS, size=E * STEPS - 1).sample(), "whole steps of 3"),
        (lambda: as_sequences(steps(0, 4), 5), "multiple of 5"),
        (lambda: as_sequences(steps(0, 4).reshape(4, E), 2), "one dimension"),
    ],
)
def test_bad_input_has_one_clear_error(call, text):
    with pytest.raises(ValueError, match=text):
        call()


# A share with a reward.


def paying(first: int, count: int, *paid: int) -> TensorDict:
    """Rows of which the given numbers, of those stored so far, pay the second agent."""
    rows = steps(first, count)
    reward = torch.zeros(count * E, 2, 1)
    for row in paid:
        reward[row - first * E, 1] = -1.0
    rows["next", "agents", "reward"] = reward
    return rows


def rewarded(share: float, *, sequences: int = 8, size: int = E * STEPS) -> ReplayBuffer:
    sampler = SequenceSampler(num_envs=E, length=T, rewarded_share=share)
    result = ReplayBuffer(
        storage=LazyTensorStorage(size), sampler=sampler, batch_size=sequences * T
    )
    result.set_rng(torch.Generator().manual_seed(0))
    return result


def pays(batch: TensorDict) -> torch.Tensor:
    return (batch["next", "agents", "reward"] != 0).flatten(1).any(1)


def test_a_reward_without_a_dimension_of_its_own_is_found():
    """Row 4 alone is paid: with a share of 1 every sequence has it."""
    filled = rewarded(1.0)
    rows = steps(0, STEPS)
    rows["next", "agents", "reward"] = torch.zeros(STEPS * E).index_fill_(0, torch.tensor(4), 1.0)
    filled.extend(rows)
    reward = filled.sample()["next", "agents", "reward"].view(8, T)
    assert reward.sum(-1).tolist() == [1.0] * 8


def test_a_share_of_the_sequences_has_a_reward_each_place_and_step_alike():
    """Two of 33 rows are paid, of which one is near the end."""
    filled = rewarded(0.25)
    filled.extend(paying(0, STEPS, 5 * E + 1, (STEPS - 1) * E + 2))
    batch = torch.stack([as_sequences(filled.sample(), T) for _ in range(400)])
    first = batch[:, :2].reshape(-1, T)
    assert_consecutive(first)
    assert pays(first).all()
    assert 0 < pays(batch[:, 2:].reshape(-1, T)).double().mean() < 0.5
    of_first = first[first["env"][:, 0] == 1]
    assert abs(len(of_first) / len(first) - 0.5) < 0.1
    places = (5 - of_first["step"][:, 0]).bincount(minlength=T)
    assert len(places) == T
    assert (places > 0.1 * len(of_first)).all()


def test_what_is_overwritten_is_no_longer_drawn_for_its_reward():
    filled = rewarded(1.0)
    filled.extend(paying(0, 3, 2 * E))
    filled.extend(paying(3, STEPS - 3))
    assert pays(as_sequences(filled.sample(), T)).all()
    filled.extend(paying(STEPS, 3))  # where steps 0 to 2 were
    batch = drawn(filled)
    assert not pays(batch).any()
    assert_consecutive(batch)
    filled.extend(paying(STEPS + 3, 1, (STEPS + 3) * E + 1))
    batch = drawn(filled)
    assert pays(batch).all()
    assert_consecutive(batch)


def test_while_nothing_is_rewarded_all_are_as_without_a_share():
    found = []
    for share in (0.0, 0.5):
        filled = rewarded(share)
        filled.extend(paying(0, STEPS))
        found.append(drawn(filled, 3)["step"])
    assert (found[0] == found[1]).all()


def test_a_sampler_that_comes_later_finds_the_rewards_that_are_stored():
    filled = rewarded(0.5)
    filled.extend(paying(0, STEPS, 5 * E + 1))
    later = SequenceSampler(num_envs=E, length=T, rewarded_share=0.5)
    later.load_state_dict(filled.sampler.state_dict())
    for sampler in (filled.sampler, later):
        sampler._rng = torch.Generator().manual_seed(1)
    index = [s.sample(filled.storage, 8 * T)[0] for s in (filled.sampler, later)]
    assert (index[0] == index[1]).all()


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan"), "0.5"])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises((ValueError, TypeError), match="rewarded_share"):
        SequenceSampler(num_envs=E, length=T, rewarded_share=share)
