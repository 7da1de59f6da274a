"""What every loss and every transform of the package promises.

One function for each kind, called by test_contract.py with every one of them. Each
promise is an assertion of its own, so that a failure says which one was broken.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tensordict import TensorDict, TensorDictBase
from torch import nn
from torchrl.envs import Transform
from torchrl.objectives import LossModule

from torchrl_alita._borrow import borrowed
from torchrl_alita.layout import REWARD, TERMINATED

MakeLoss = Callable[..., LossModule]


def _close(name: str, first: torch.Tensor, second: torch.Tensor, **tolerance: float) -> None:
    torch.testing.assert_close(first, second, **tolerance, msg=lambda text: f"{name}: {text}")


def assert_equal(first: TensorDictBase, second: TensorDictBase, **tolerance: float) -> None:
    assert set(first.keys(True, True)) == set(second.keys(True, True))
    for key, value in first.items(True, True):
        _close(str(key), value, second.get(key), **tolerance)


def total(losses: TensorDictBase) -> torch.Tensor:
    return sum(value for key, value in losses.items() if key.startswith("loss_"))


def gradients(loss: LossModule) -> dict[str, torch.Tensor | None]:
    return {name: param.grad for name, param in loss.named_parameters()}


def writes_exactly_its_out_keys(make: MakeLoss, batch: TensorDictBase) -> None:
    loss = make()
    assert set(loss(batch).keys(True, True)) == set(loss.out_keys)


def every_in_key_is_in_an_ordinary_batch(make: MakeLoss, batch: TensorDictBase) -> None:
    for key in make().in_keys:
        assert key in batch.keys(True), key


def leaves_the_batch_as_it_was(make: MakeLoss, batch: TensorDictBase) -> None:
    before = batch.clone()
    total(make()(batch)).backward()
    assert_equal(batch, before, rtol=0, atol=0)


def needs_no_more_than_its_in_keys(make: MakeLoss, batch: TensorDictBase) -> None:
    loss = make()
    assert_equal(loss(batch), loss(batch.select(*loss.in_keys)))


def names_a_missing_key(make: MakeLoss, batch: TensorDictBase) -> None:
    loss = make()
    for key in loss.in_keys:
        with pytest.raises(KeyError) as error:
            loss(batch.exclude(key))
        assert str(key) in error.value.args[0]
        others = [str(k) for k in batch.exclude(key).keys(True, True)]
        assert all(other in error.value.args[0] for other in others)


def can_write_fewer_keys(make: MakeLoss, batch: TensorDictBase) -> None:
    loss = make()
    chosen = loss.out_keys[0]
    loss.select_out_keys(chosen)
    assert set(loss(batch).keys()) == {chosen}


def takes_keyword_arguments(make: MakeLoss, batch: TensorDictBase) -> None:
    loss = make()
    named = {key if isinstance(key, str) else "_".join(key): batch.get(key) for key in loss.in_keys}
    outputs = loss(**named)
    expected = loss(batch)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    for key, value in zip(loss.out_keys, outputs, strict=True):
        torch.testing.assert_close(value, expected.get(key))


def follows_renamed_keys(make: MakeLoss, batch: TensorDictBase) -> None:
    """Every key that is read from the batch alone can have another name."""
    loss, renamed = make(), make()
    moved = batch.clone()
    for name in ("reward", "terminated"):
        if not hasattr(loss.tensor_keys, name):
            continue
        # Not told otherwise, a loss that borrows has its partner's.
        key = getattr(loss.tensor_keys, name) or {"reward": REWARD, "terminated": TERMINATED}[name]
        path = ("next", key) if isinstance(key, str) else ("next", *key)
        moved.rename_key_(path, ("next", "elsewhere", name))
        renamed.set_keys(**{name: ("elsewhere", name)})
    assert_equal(loss(batch), renamed(moved))


def refuses_an_unknown_key_name(make: MakeLoss, batch: TensorDictBase) -> None:
    with pytest.raises(ValueError, match="no_such_key"):
        make().set_keys(no_such_key="x")


def only_losses_carry_gradient(make: MakeLoss, batch: TensorDictBase) -> None:
    for key, value in make()(batch).items():
        assert value.requires_grad == key.startswith("loss_"), key


def sends_no_gradient_into_the_batch(make: MakeLoss, batch: TensorDictBase) -> None:
    """A rollout made with gradients has the graph of the policy in it."""
    source = torch.ones((), requires_grad=True)
    linked = batch.apply(lambda value: value * source if value.is_floating_point() else value)
    loss, detached = make(), make()
    torch.manual_seed(5)
    total(loss(linked)).backward()
    torch.manual_seed(5)
    total(detached(batch)).backward()
    assert source.grad is None
    expected = gradients(detached)
    for name, grad in gradients(loss).items():
        assert (grad is None) == (expected[name] is None), name
        if grad is not None:
            _close(name, grad, expected[name])


def unreduced_losses_have_the_batch_shape(make: MakeLoss, batch: TensorDictBase) -> None:
    whole, mean = make(reduction="none")(batch), make(reduction="mean")(batch)
    summed = make(reduction="sum")(batch)
    for key in whole.keys():  # noqa: SIM118
        if key.startswith("loss_"):
            assert whole[key].shape == batch.shape, key
            torch.testing.assert_close(whole[key].mean(), mean[key])
            torch.testing.assert_close(whole[key].sum(), summed[key])


def takes_batches_with_a_time_dimension(make: MakeLoss, batch: TensorDictBase) -> None:
    loss = make(reduction="none")
    by_time = torch.stack([batch, batch], dim=1)
    for key, value in loss(by_time).items():
        if key.startswith("loss_"):
            torch.testing.assert_close(value[:, 1], loss(batch)[key])


def padding_reaches_neither_value_nor_gradient(make: MakeLoss, batch: TensorDictBase) -> None:
    """Masked rows may hold NaN everywhere."""
    mask = torch.ones(*batch.shape, 1, dtype=torch.bool)
    mask[-2:] = False
    clean, padded = make(), make()
    total(clean(batch[:-2])).backward()
    poisoned = batch.apply(lambda value: value.clone())
    for key, value in poisoned.items(True, True):
        if value.is_floating_point():
            poisoned.get(key)[-2:] = torch.nan
    poisoned.set(("collector", "mask"), mask)
    losses = padded(poisoned)
    total(losses).backward()
    assert_equal(losses, clean(batch[:-2]))
    for name, grad in gradients(padded).items():
        expected = gradients(clean)[name]
        if expected is not None:
            _close(name, grad, expected)


def what_is_hidden_at_a_sequences_end_is_not_there(make: MakeLoss, batch: TensorDictBase) -> None:
    """As of sequences that were filled up; no episode need end where the filling begins."""
    whole = batch if batch.ndim > 1 else torch.stack([batch] * 3, dim=1)
    whole, short = whole.clone(), whole[:, :-2].clone()
    mask = torch.ones(*whole.shape, 1, dtype=torch.bool)
    mask[:, -2:] = False
    for value in whole.values(True, True):
        if value.is_floating_point():
            value[:, -2:] = torch.nan
    whole["next", "done"][:] = False
    short["next", "done"][:] = False
    whole.set(("collector", "mask"), mask)
    assert_equal(make()(whole), make()(short))


def compiles_without_a_break(make: MakeLoss, batch: TensorDictBase) -> None:
    """One graph, with the eager values and gradients."""
    torch._dynamo.reset()
    eager, compiled = make(), make()
    expected = eager(batch)
    total(expected).backward()
    # What the tracer cannot follow it says in every backend; test_compiled has the default one.
    graph = torch.compile(compiled, fullgraph=True, backend="eager")
    result = graph(batch)
    total(result).backward()
    assert_equal(result, expected)
    for name, grad in gradients(compiled).items():
        if grad is not None:
            torch.testing.assert_close(grad, gradients(eager)[name])


def gives_its_state_to_another(make: MakeLoss, batch: TensorDictBase) -> None:
    first, second = make(), make()
    with torch.no_grad():
        for param in first.parameters():
            param.mul_(1.5)
    second.load_state_dict(first.state_dict())
    for name, param in first.named_parameters():
        torch.testing.assert_close(dict(second.named_parameters())[name], param, rtol=0, atol=0)


def schedules_its_coefficients_in_place(make: MakeLoss, batch: TensorDictBase) -> None:
    loss = make()
    for name in loss._schedulable_buffers:
        buffer = getattr(loss, name)
        if buffer is None:  # the partner's
            continue
        setattr(loss, name, 0.25)
        assert getattr(loss, name) is buffer
        assert float(buffer) == 0.25


def computes_in_double_precision(make: MakeLoss, batch: TensorDictBase) -> None:
    loss = make().double()
    for other in borrowed(loss):
        other.double()
    doubled = batch.apply(lambda v: v.double() if v.is_floating_point() else v)
    for key, value in loss(doubled).items():
        assert value.dtype == torch.float64, key
        torch.testing.assert_close(value.float(), make()(batch)[key], rtol=1e-4, atol=1e-4)


LOSS_PROMISES = (
    writes_exactly_its_out_keys,
    every_in_key_is_in_an_ordinary_batch,
    leaves_the_batch_as_it_was,
    needs_no_more_than_its_in_keys,
    names_a_missing_key,
    can_write_fewer_keys,
    takes_keyword_arguments,
    follows_renamed_keys,
    refuses_an_unknown_key_name,
    only_losses_carry_gradient,
    sends_no_gradient_into_the_batch,
    unreduced_losses_have_the_batch_shape,
    takes_batches_with_a_time_dimension,
    padding_reaches_neither_value_nor_gradient,
    what_is_hidden_at_a_sequences_end_is_not_there,
    compiles_without_a_break,
    gives_its_state_to_another,
    schedules_its_coefficients_in_place,
    computes_in_double_precision,
)


def adds_exactly_its_out_keys(make: Callable[[], Transform], batch: TensorDictBase) -> None:
    transform = make()
    added = set(transform(batch).keys(True, True)) - set(batch.keys(True, True))
    assert added == set(transform.batch_out_keys)


def leaves_the_callers_batch_alone(make: Callable[[], Transform], batch: TensorDictBase) -> None:
    before = batch.clone()
    result = make()(batch)
    assert_equal(batch, before, rtol=0, atol=0)
    assert_equal(result.select(*batch.keys(True, True)), before, rtol=0, atol=0)


def carries_no_gradient(make: Callable[[], Transform], batch: TensorDictBase) -> None:
    transform = make()
    for key in transform.batch_out_keys:
        assert not transform(batch).get(key).requires_grad


def owns_no_parameters(make: Callable[[], Transform], batch: TensorDictBase) -> None:
    transform = make()
    assert list(transform.parameters()) == []
    assert all(not isinstance(module, nn.Linear) for module in transform.modules())


def tells_which_key_is_missing(make: Callable[[], Transform], batch: TensorDictBase) -> None:
    transform = make()
    for key in transform.in_keys:
        with pytest.raises(KeyError) as error:
            transform(batch.exclude(key))
        assert str(key) in error.value.args[0]


def takes_its_inputs_by_name(make: Callable[[], Transform], batch: TensorDictBase) -> None:
    transform = make()
    named = {"_".join(key): batch.get(key) for key in transform.in_keys}
    torch.testing.assert_close(
        transform(**named), transform(batch).get(transform.batch_out_keys[0])
    )


def compiles_as_one_graph(make: Callable[[], Transform], batch: TensorDictBase) -> None:
    torch._dynamo.reset()
    transform = make()
    graph = torch.compile(transform.forward, fullgraph=True, backend="aot_eager")
    assert_equal(graph(batch), transform(batch))


TRANSFORM_PROMISES = (
    adds_exactly_its_out_keys,
    leaves_the_callers_batch_alone,
    carries_no_gradient,
    owns_no_parameters,
    tells_which_key_is_missing,
    takes_its_inputs_by_name,
    compiles_as_one_graph,
)


def with_bonuses(batch: TensorDict) -> TensorDict:
    """A batch that also holds what the transforms write."""
    reward = batch["next", "agents", "reward"]
    return batch.clone().set(("next", "agents", "diversity_penalty"), -reward.abs())
