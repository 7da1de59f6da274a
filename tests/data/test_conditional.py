"""The sampler of D_t: whom it takes, from where, and at what cost."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from fakes import A, N, O
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from torchrl.data import LazyMemmapStorage, LazyTensorStorage, ReplayBuffer

from torchrl_alita.data import ConditionalSampler

KINDS = ("nearest", "exact", "uniform")
INFLUENCER = 1


def transitions(
    count: int,
    *,
    start: int = 0,
    observation: torch.Tensor | None = None,
    action: torch.Tensor | None = None,
) -> TensorDict:
    """Transitions that know their row; the influencer's situation may be given."""
    generator = torch.Generator().manual_seed(start)
    agents = {
        "observation": torch.randn(count, N, O, generator=generator),
        "action": torch.randn(count, N, A, generator=generator),
    }
    for key, value in (("observation", observation), ("action", action)):
        if value is not None:
            agents[key][:, INFLUENCER] = value
    return TensorDict({"agents": agents, "row": torch.arange(start, start + count)}, [count])


def conditional(
    *, storage: LazyTensorStorage | None = None, batch_size: int = 13, seed: int = 0, **arguments
) -> ReplayBuffer:
    defaults = {"influencer": INFLUENCER, "num_anchors": 5, "num_candidates": 89}
    return ReplayBuffer(
        storage=LazyTensorStorage(1009) if storage is None else storage,
        sampler=ConditionalSampler(**defaults | arguments),
        batch_size=batch_size,
        generator=torch.Generator().manual_seed(seed),
    )


def rows(buffer: ReplayBuffer, times: int = 1) -> list[int]:
    return torch.cat([buffer.sample()["row"] for _ in range(times)]).tolist()


def one_feature(value: torch.Tensor, *, constant: float = 0.0) -> dict[str, torch.Tensor]:
    """A situation of the influencer in which one feature tells transitions apart."""
    observation = torch.full((len(value), O), constant)
    observation[:, 2] = value
    return {"observation": observation, "action": torch.full((len(value), A), constant)}


def test_the_nearest_are_of_the_anchors_cluster_whatever_the_teammates_do():
    cluster = torch.arange(303) % 3
    cluster[-7:] = 2
    noise = torch.randn(303, O, generator=torch.Generator().manual_seed(1))
    data = transitions(303, observation=100 * cluster.unsqueeze(-1) + noise)
    buffer = conditional(anchor_window=7)
    buffer.extend(data)
    sampled = rows(buffer, times=5)
    assert set(cluster[sampled].tolist()) == {2}
    assert len(set(sampled)) > 7


def test_the_action_of_the_influencer_counts_like_its_observation():
    cluster = torch.arange(303) % 3
    data = transitions(303, **one_feature(torch.zeros(303)) | {"action": _corners(cluster)})
    buffer = conditional(anchor_window=1)
    buffer.extend(data)
    assert set(cluster[rows(buffer, times=5)].tolist()) == {int(cluster[-1])}


def _corners(cluster: torch.Tensor) -> torch.Tensor:
    return torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])[cluster]


def test_the_rows_of_one_anchor_are_of_its_own_cluster():
    cluster = torch.arange(303) % 3
    buffer = conditional(num_anchors=5, batch_size=20)
    buffer.extend(transitions(303, **one_feature(100.0 * cluster)))
    of_anchors = cluster[rows(buffer)].reshape(4, 5)
    torch.testing.assert_close(of_anchors, of_anchors[:1].expand(4, 5))
    assert of_anchors.unique().numel() > 1


@pytest.mark.parametrize("constant", [0.0, 1.0])
def test_the_nearest_are_those_that_a_search_of_the_whole_buffer_finds(constant):
    line = torch.arange(101.0)
    buffer = conditional(num_anchors=1, num_candidates=4096, anchor_window=1, batch_size=5)
    buffer.extend(transitions(101, **one_feature(line, constant=constant)))
    assert max(abs(row - 100) for row in rows(buffer)) <= 4


def test_a_transition_comes_once_for_an_anchor_while_there_are_others():
    buffer = conditional(num_anchors=1, num_candidates=4096, anchor_window=1, batch_size=5)
    buffer.extend(transitions(101, **one_feature(torch.arange(101.0))))
    assert sorted(rows(buffer)) == [96, 97, 98, 99, 100]


def test_a_transition_comes_again_where_there_are_no_others():
    buffer = conditional(num_anchors=1, num_candidates=2, batch_size=11)
    buffer.extend(transitions(3))
    assert set(rows(buffer)) <= {0, 1, 2}


@pytest.mark.parametrize("factor", [2.0**-10, 2.0**10])
def test_the_unit_of_a_feature_does_not_matter(factor):
    sampled = []
    for scale in (1.0, factor):
        data = transitions(101)
        data["agents", "observation"][..., 0] *= scale
        buffer = conditional()
        buffer.extend(data)
        sampled.append(rows(buffer, times=3))
    assert sampled[0] == sampled[1]


def test_the_origin_of_a_feature_does_not_matter():
    sampled = []
    for offset in (0.0, 4096.0):
        data = transitions(101)
        # Multiples of 1/64, so that the offset costs no digit.
        observation = (data["agents", "observation"] * 64).round() / 64
        data["agents", "observation"] = observation + offset
        buffer = conditional()
        buffer.extend(data)
        sampled.append(rows(buffer, times=3))
    assert sampled[0] == sampled[1]


def test_uniform_sampling_takes_every_transition_alike():
    buffer = conditional(kind="uniform", batch_size=11_000)
    buffer.extend(transitions(11))
    counts = torch.tensor(rows(buffer)).bincount(minlength=11)
    # The standard deviation of a count is 30.
    assert int((counts - 1000).abs().max()) < 150


def test_uniform_sampling_may_take_less_than_the_number_of_anchors():
    buffer = conditional(kind="uniform", batch_size=2)
    buffer.extend(transitions(11))
    assert len(rows(buffer)) == 2


def one_hot_situations(count: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    seen, done = (torch.randint(size, (count,), generator=generator) for size in (O, A))
    situation = {
        "observation": torch.nn.functional.one_hot(seen, O).float(),
        "action": torch.nn.functional.one_hot(done, A).float(),
    }
    return situation, seen * A + done


def test_exact_sampling_takes_nothing_but_exact_matches():
    situation, identity = one_hot_situations(211)
    buffer = conditional(kind="exact", num_candidates=211, batch_size=20)
    buffer.extend(transitions(211, **situation))
    for _ in range(3):
        of_anchors = identity[rows(buffer)].reshape(4, 5)
        torch.testing.assert_close(of_anchors, of_anchors[:1].expand(4, 5))


def test_exact_sampling_takes_other_transitions_than_the_anchor():
    situation, identity = one_hot_situations(211)
    buffer = conditional(kind="exact", num_candidates=211, anchor_window=1)
    buffer.extend(transitions(211, **situation))
    sampled = rows(buffer, times=3)
    assert set(identity[sampled].tolist()) == {int(identity[-1])}
    assert len(set(sampled)) > 5


def test_exact_sampling_falls_back_on_the_anchor_where_nothing_equals_it():
    buffer = conditional(kind="exact", anchor_window=1)
    buffer.extend(transitions(211))
    assert rows(buffer) == [210] * 13


@pytest.mark.parametrize("kind", ["nearest", "exact"])
def test_anchors_are_the_newest_transitions(kind):
    # Where no two transitions are alike, one per anchor is the anchor itself.
    buffer = conditional(kind=kind, anchor_window=7, batch_size=5)
    buffer.extend(transitions(101))
    buffer.extend(transitions(3, start=101))
    assert set(rows(buffer, times=20)) == set(range(97, 104))


def test_the_newest_transitions_are_known_after_the_buffer_has_wrapped():
    buffer = conditional(storage=LazyTensorStorage(20), kind="exact", anchor_window=7, batch_size=5)
    for start in range(0, 33, 11):
        buffer.extend(transitions(11, start=start))
    assert set(rows(buffer, times=20)) == set(range(26, 33))


def test_a_transition_added_alone_is_the_newest():
    buffer = conditional(kind="exact", anchor_window=1)
    buffer.extend(transitions(11))
    buffer.add(transitions(1, start=11)[0])
    assert set(rows(buffer)) == {11}


@pytest.mark.parametrize("kind", KINDS)
def test_a_buffer_that_is_not_full_gives_stored_transitions_alone(kind):
    buffer = conditional(kind=kind)
    buffer.extend(transitions(7, start=1))
    assert set(rows(buffer, times=5)) <= set(range(1, 8))


@pytest.mark.parametrize("kind", KINDS)
def test_a_memory_mapped_storage_will_do(kind, tmp_path):
    sampled = []
    for storage in (LazyTensorStorage(101), LazyMemmapStorage(101, scratch_dir=tmp_path)):
        buffer = conditional(kind=kind, storage=storage)
        buffer.extend(transitions(53))
        sampled.append(rows(buffer, times=3))
    assert sampled[0] == sampled[1]


def shared_buffers(**arguments) -> tuple[ReplayBuffer, ReplayBuffer]:
    storage = LazyTensorStorage(20)
    plain = ReplayBuffer(storage=storage, batch_size=5)
    return plain, conditional(storage=storage, kind="exact", batch_size=5, **arguments)


def test_a_sampler_learns_of_what_another_buffer_writes_to_their_storage():
    plain, other = shared_buffers(anchor_window=3)
    plain.extend(transitions(11))
    assert set(rows(other, times=10)) == {8, 9, 10}
    plain.extend(transitions(11, start=11))
    assert set(rows(other, times=10)) == {19, 20, 21}


def test_a_sampler_that_comes_late_takes_the_last_transitions_for_the_newest():
    storage = LazyTensorStorage(20)
    ReplayBuffer(storage=storage, batch_size=5).extend(transitions(11))
    late = conditional(storage=storage, kind="exact", anchor_window=3, batch_size=5)
    assert set(rows(late, times=10)) == {8, 9, 10}


@pytest.mark.parametrize("emptied", [0, 1], ids=["plain", "conditional"])
def test_an_emptied_storage_is_filled_anew(emptied):
    buffers = shared_buffers(anchor_window=11)
    buffers[emptied].extend(transitions(11))
    buffers[emptied].empty()
    buffers[emptied].extend(transitions(3, start=11))
    assert set(rows(buffers[1], times=10)) == {11, 12, 13}


@pytest.mark.parametrize("kind", ["nearest", "exact"])
def test_the_cost_does_not_grow_with_the_buffer(kind, monkeypatch):
    computed = []
    features = ConditionalSampler._features

    def counted(situation, index):
        computed[-1] += index.numel()
        return features(situation, index)

    monkeypatch.setattr(ConditionalSampler, "_features", staticmethod(counted))
    for size in (100, 10_000):
        buffer = conditional(kind=kind, storage=LazyTensorStorage(size))
        buffer.extend(transitions(size))
        computed.append(0)
        buffer.sample()
    assert all(0 < count <= 2 * 5 + 89 for count in computed)


@pytest.mark.parametrize("kind", KINDS)
@given(num_anchors=st.integers(1, 7), more=st.integers(0, 23), stored=st.integers(1, 11))
@settings(max_examples=15, deadline=None)
def test_a_batch_has_the_size_that_was_asked_for(kind, num_anchors, more, stored):
    batch_size = num_anchors + more
    buffer = conditional(
        kind=kind, num_anchors=num_anchors, num_candidates=3, batch_size=batch_size
    )
    buffer.extend(transitions(stored))
    assert buffer.sample().shape == (batch_size,)


def test_a_batch_that_does_not_divide_takes_from_every_anchor_alike(monkeypatch):
    monkeypatch.setattr(ConditionalSampler, "_anchors", lambda *_: torch.arange(5))
    buffer = conditional(kind="exact", batch_size=13)
    buffer.extend(transitions(101))
    assert rows(buffer) == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1, 2]


@pytest.mark.parametrize("kind", KINDS)
def test_the_generator_of_the_buffer_decides_alone(kind):
    sampled = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        buffer = conditional(kind=kind, seed=7)
        buffer.extend(transitions(101))
        before = torch.get_rng_state()
        sampled.append(rows(buffer, times=3))
        torch.testing.assert_close(torch.get_rng_state(), before)
    assert sampled[0] == sampled[1]


@pytest.mark.parametrize("kind", KINDS)
def test_another_generator_gives_another_batch(kind):
    sampled = []
    for seed in (0, 1):
        buffer = conditional(kind=kind, seed=seed)
        buffer.extend(transitions(101))
        sampled.append(rows(buffer, times=3))
    assert sampled[0] != sampled[1]


def wrapped(**arguments) -> ReplayBuffer:
    """A buffer whose newest transitions are not the last ones of the storage."""
    buffer = conditional(
        storage=LazyTensorStorage(10), kind="exact", anchor_window=3, batch_size=5, **arguments
    )
    buffer.extend(transitions(7))
    buffer.extend(transitions(7, start=7))
    return buffer


def by_state(sampler: ConditionalSampler, other: ConditionalSampler, path: Path):
    other.load_state_dict(sampler.state_dict())


def by_files(sampler: ConditionalSampler, other: ConditionalSampler, path: Path):
    sampler.dumps(path / "sampler")
    other.loads(path / "sampler")


@pytest.mark.parametrize("carry", [by_state, by_files])
def test_a_restored_sampler_knows_the_newest_transitions(carry, tmp_path):
    buffer = wrapped()
    other = ConditionalSampler(influencer=INFLUENCER, kind="exact", anchor_window=3, num_anchors=5)
    carry(buffer.sampler, other, tmp_path)
    for _ in range(10):
        index, _ = other.sample(buffer.storage, 5)
        assert set(buffer.storage[index]["row"].tolist()) <= {11, 12, 13}


def test_the_state_of_a_sampler_does_not_change_with_the_sampler():
    buffer = wrapped()
    state = buffer.sampler.state_dict()
    before = {key: value.clone() for key, value in state.items()}
    buffer.extend(transitions(5, start=14))
    torch.testing.assert_close(state, before)


def test_a_buffer_restored_from_disk_continues_as_the_one_that_was_saved(tmp_path):
    buffer = wrapped()
    buffer.dumps(tmp_path)
    other = conditional(
        storage=LazyTensorStorage(10), kind="exact", anchor_window=3, batch_size=5, seed=1
    )
    other.loads(tmp_path)
    assert rows(other, times=3) == rows(buffer, times=3)


def test_the_keys_of_the_storage_may_be_named():
    data = transitions(101).rename_key_(("agents", "observation"), ("team", "seen"))
    data.rename_key_(("agents", "action"), ("team", "done"))
    buffer = conditional(observation=("team", "seen"), action=("team", "done"))
    buffer.extend(data)
    assert len(rows(buffer)) == 13


def test_a_sampler_is_printed_with_what_it_does():
    text = "ConditionalSampler(influencer=2, kind='exact', num_anchors=3, num_candidates=5)"
    sampler = ConditionalSampler(influencer=2, kind="exact", num_anchors=3, num_candidates=5)
    assert repr(sampler) == text


def test_a_negative_influencer_is_refused():
    with pytest.raises(ValueError, match="influencer must be at least 0, got -1"):
        ConditionalSampler(influencer=-1)


@pytest.mark.parametrize("name", ["num_anchors", "num_candidates", "anchor_window"])
@pytest.mark.parametrize("value", [0, -3])
def test_a_number_below_1_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got {value}"):
        ConditionalSampler(**{name: value})


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="got 'closest'"):
        ConditionalSampler(kind="closest")


@pytest.mark.parametrize("kind", ["nearest", "exact"])
def test_an_influencer_that_the_storage_does_not_have_is_refused(kind):
    buffer = conditional(kind=kind, influencer=N)
    buffer.extend(transitions(11))
    with pytest.raises(ValueError, match=f"number of agents, {N}, got {N}"):
        buffer.sample()


@pytest.mark.parametrize("missing", ["observation", "action"])
def test_a_missing_key_is_named_beside_those_that_are_there(missing):
    buffer = conditional()
    buffer.extend(transitions(11).exclude(("agents", missing)))
    with pytest.raises(KeyError, match=rf"no .*{missing}.*it has .*row"):
        buffer.sample()


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_storage_gives_no_batch(kind):
    sampler = ConditionalSampler(kind=kind)
    with pytest.raises(RuntimeError, match="empty storage"):
        sampler.sample(LazyTensorStorage(11), 64)


@pytest.mark.parametrize("kind", ["nearest", "exact"])
def test_a_batch_smaller_than_the_number_of_anchors_is_refused(kind):
    buffer = conditional(kind=kind, num_anchors=5, batch_size=3)
    buffer.extend(transitions(11))
    with pytest.raises(ValueError, match=re.escape("A batch of 3 cannot hold 5 anchors")):
        buffer.sample()


@pytest.mark.parametrize("kind", KINDS)
def test_a_storage_of_two_dimensions_is_refused(kind):
    buffer = conditional(kind=kind, storage=LazyTensorStorage(77, ndim=2))
    buffer.extend(transitions(35).reshape(5, 7))
    with pytest.raises(ValueError, match="one dimension, got 2"):
        buffer.sample()
