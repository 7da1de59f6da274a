"""Compiled updates: the same numbers as eager ones, eager where compiling fails, no waiting."""

from __future__ import annotations

import warnings
from collections import Counter

import pytest
import torch
from fakes import B, H, T, TargetEnv, build, by_name, conditional_names, flat_config, random_batch
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode
from torchrl.envs import TransformedEnv

from torchrl_alita import ALITA, MADDPG
from torchrl_alita.training.loop import _with_compile

ENV = TargetEnv()
SMALL = {"num_cells": (13,)}
# Each reads a value back and makes the host wait for the device.
SYNCHRONIZATIONS = {"_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal", "_unique2"}


class Operations(TorchDispatchMode):
    """Counts the operations that are made, backward too, by name."""

    def __init__(self):
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def make(algorithm: type[MADDPG] = ALITA, **options) -> MADDPG:
    torch.manual_seed(0)
    return build(algorithm, ENV, **SMALL, **options)


def update(algorithm: MADDPG, seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    conditional = [random_batch(seed=100 + seed) for _ in conditional_names(algorithm)]
    steps = algorithm.settings.n_steps
    batch = random_batch(batch_size=(B, steps) if steps > 1 else (B,), seed=seed)
    return algorithm.update(by_name(algorithm, batch, conditional, random_batch(seed=50 + seed)))


def parameters(algorithm: MADDPG) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": value.detach()
        for name, module in algorithm.modules.items()
        for key, value in module.state_dict().items()
        if isinstance(value, torch.Tensor)
    }


def assert_close(found: MADDPG, expected: MADDPG) -> None:
    ours, theirs = parameters(found), parameters(expected)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-3, atol=1e-5, msg=key)


@pytest.fixture
def kept():
    """A graph that is compiled here is kept for the next process, or can be found there."""
    counters.clear()
    yield
    assert counters["aot_autograd"]["ok"] > 0
    assert counters["aot_autograd"]["autograd_cache_bypass"] == 0


@pytest.mark.slow
@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize(
    ("kind", "options"),
    [(ALITA, {"estimator": "clones", "estimator_updates": 1}), (MADDPG, {"n_steps": 3})],
)
def test_compiled_and_eager_updates_agree(kind, options):
    """With clones, an update has all there is: three compiled functions, draws, bonuses."""
    eager, compiled = (make(kind, **options, compile=c) for c in (False, True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the compiler
        for seed in range(3):
            expected, found = update(eager, seed), update(compiled, seed)
            assert found.keys() == expected.keys()
            for key, value in expected.items():
                torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-5, msg=key)
    assert_close(compiled, eager)
    estimations = getattr(compiled, "_estimations", {})
    functions = [f for pair in estimations.values() for f in pair]
    assert len(functions) == (2 if kind is ALITA else 0)
    assert all(f.compiled is not None for f in (compiled._gradient, *functions))


@pytest.mark.slow
@pytest.mark.usefixtures("kept")
def test_compiled_and_eager_updates_of_recurrent_policies_agree():
    """Sequences, in which episodes begin; an update unrolls the policies several times."""
    env = TargetEnv(discrete=True, has_state=True)
    options = {"recurrent": True, "hidden_size": H, "critic_input": "state", "own_actions": "all"}
    torch.manual_seed(0)
    eager = MADDPG(env, MADDPG.Settings(**SMALL, **options))
    torch.manual_seed(0)
    compiled = MADDPG(env, MADDPG.Settings(**SMALL, **options, compile=True))
    env = TransformedEnv(env, eager.env_transforms()[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the compiler
        for seed in range(2):
            torch.manual_seed(seed)
            batch = env.rollout(T, eager.actor, break_when_any_done=False).detach()
            updates = []
            for algorithm in (eager, compiled):
                torch.manual_seed(seed)
                updates.append(algorithm.update(by_name(algorithm, batch.clone())))
            expected, found = updates
            for key, value in expected.items():
                torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-5, msg=key)
    assert_close(compiled, eager)
    assert compiled._gradient.compiled is not None


def test_where_compiling_fails_one_warning_is_given_and_the_updates_go_on(monkeypatch):
    def broken(function, **_):
        def fail(*_):
            raise RuntimeError("no compiler\non this machine")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    algorithm, eager = make(MADDPG, compile=True), make(MADDPG)
    with pytest.warns(UserWarning, match="goes on without it: RuntimeError: no compiler$"):
        update(algorithm, 0)
    update(algorithm, 1)  # a second warning would be an error
    for seed in range(2):
        update(eager, seed)
    for key, value in parameters(eager).items():
        torch.testing.assert_close(parameters(algorithm)[key], value, rtol=0, atol=0)


def test_a_bad_batch_is_an_error_of_the_batch_not_of_the_compiler(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    algorithm = make(MADDPG, compile=True)
    with pytest.raises(KeyError, match="The batch has no"):
        algorithm.update(by_name(algorithm, random_batch().exclude(("agents", "action"))))
    update(algorithm, 0)
    assert algorithm._gradient.compiled is not None


@pytest.mark.parametrize("estimator", ["marginal", "clones", "centralized"])
@pytest.mark.parametrize("make_algorithm", [MADDPG, ALITA])
def test_an_update_never_waits_for_the_device(make_algorithm, estimator):
    options = {"estimator": estimator} if make_algorithm is ALITA else {}
    algorithm = make(make_algorithm, **options)
    update(algorithm, 0)
    with Operations() as made:
        update(algorithm, 1)
    assert made.counts["bmm"] > 0
    assert not made.counts.keys() & SYNCHRONIZATIONS


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"estimator": "clones"},
        {"estimator": "centralized"},
        {"influencers": "all"},
        {"influencers": "all", "optimum_at": "next", "normalize": True},
        None,
    ],
    ids=["alita", "clones", "centralized", "symmetric", "symmetric_next", "maddpg"],
)
def test_the_number_of_operations_does_not_grow_with_the_agents(options):
    """Loops over agents would show: a team of seven takes no more calls than one of three.

    But for its logs, of which each gap is detached by itself.
    """
    counts = []
    for num_agents in (3, 7):
        env = TargetEnv(n_agents=num_agents)
        torch.manual_seed(0)
        algorithm = (
            MADDPG(env, MADDPG.Settings(**SMALL))
            if options is None
            else ALITA(env, ALITA.Settings(**SMALL, **options))
        )
        batch = env.rollout(4).reshape(-1)
        conditional = [batch for _ in conditional_names(algorithm)]
        algorithm.update(by_name(algorithm, batch, conditional))
        with Operations() as made:
            algorithm.update(by_name(algorithm, batch, conditional))
        assert made.counts.pop("detach") > 0
        counts.append(made.counts)
    assert counts[0] == counts[1]


def test_mixed_precision_keeps_parameters_and_values_in_single_precision():
    plain, mixed = make(mixed_precision=False), make(mixed_precision=True)
    expected, found = update(plain, 0), update(mixed, 0)
    for key, value in parameters(mixed).items():
        assert value.dtype in (torch.float32, torch.bool, torch.int64), key
    for key, value in expected.items():
        assert found[key].dtype == torch.float32, key
        # Eight bits of mantissa: close, and not the same.
        torch.testing.assert_close(found[key], value, rtol=0.1, atol=0.05, msg=key)
    assert found["loss_qvalue"] != expected["loss_qvalue"]


@pytest.mark.parametrize(
    ("total_frames", "asked", "expected"),
    [(2_100, None, False), (2_101, None, True), (2_101, False, False), (300, True, True)],
)
def test_a_run_is_compiled_where_it_has_more_than_two_thousand_updates(
    total_frames, asked, expected
):
    sizes = {"frames_per_batch": 100, "num_envs": 10, "frames_per_update": 1}
    config = flat_config(
        algorithm="maddpg", total_frames=total_frames, random_frames=100, compile=asked, **sizes
    )
    assert _with_compile(config).algorithm.compile == expected
