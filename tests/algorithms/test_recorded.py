"""Whole updates as one graph: the numbers of eager ones, and eager where that fails.

The graphs are recorded and run; what the compiler makes of a graph is not tested here.
"""

from __future__ import annotations

import warnings

import pytest
import torch
from fakes import TargetEnv, build, by_name, random_batch
from tensordict import TensorDict

from torchrl_alita import ALITA, DDPG, MADDPG, SAC, TD3, TwinALITA
from torchrl_alita.algorithms import DQN, IPPO, MAPPO, VDN, JointDQN
from torchrl_alita.algorithms._recorded import Recorded

ENV = TargetEnv(n_agents=1)
TEAM, ONE_HOT = TargetEnv(), TargetEnv(discrete=True)
SMALL = {"num_cells": (13,), "batch_size": 7}


@pytest.fixture(autouse=True)
def _graphs_as_they_are(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)


def make(kind=TD3, env=ENV, **options):
    torch.manual_seed(0)
    sizes = {name: value for name, value in SMALL.items() if hasattr(kind.Settings, name)}
    return build(kind, env, **sizes, **options)


def batches_for(algorithm, seed: int, size: int = 7) -> dict[str, TensorDict]:
    batch = random_batch(batch_size=(size,), seed=seed)
    agents = algorithm.layout.num_agents
    own = batch.apply(lambda value: value[..., :agents, :] if value.ndim == 3 else value)
    own.pop(("next", "agents", "novelty"))
    if algorithm.layout.discrete:
        action = own["agents", "action"].argmax(-1)
        own["agents", "action"] = torch.nn.functional.one_hot(action).float()
    return by_name(algorithm, own.set("turn", torch.arange(size).unsqueeze(-1) % 2))


def tensors(algorithm) -> list[torch.Tensor]:
    found = [t for m in algorithm.modules.values() for t in (*m.parameters(), *m.buffers())]
    states = [state for o in algorithm.optimizers.values() for state in o.state.values()]
    return found + [value for state in states for value in state.values()]


class Total(torch.nn.Module):
    """What a function may change."""

    def __init__(self):
        super().__init__()
        self.register_buffer("value", torch.zeros(()))


UNITS = {"influence_unit": "own_gradient", "bonus_unit": "own_return"}
KINDS = {
    "td3": (TD3, ENV, {"policy_delay": 1, "max_grad_norm": 0.5}),
    "sac": (SAC, ENV, {"max_grad_norm": 0.5}),
    "twin_alita": (TwinALITA, ENV, {"policy_delay": 1, "estimator": "marginal"}),
    "maddpg": (MADDPG, TEAM, {"lr_decay_frames": 300, "frames_per_update": 100}),
    "ddpg, one-hot": (DDPG, ONE_HOT, {"max_grad_norm": 0.5}),
    "alita": (ALITA, TEAM, {"estimator": "marginal", **UNITS}),
    "alita, one-hot": (ALITA, ONE_HOT, {"estimator": "marginal", "optimum": "enumerated"}),
    "alita, clones": (ALITA, TEAM, {"estimator": "clones", "estimator_updates": 2}),
    "alita, attention": (ALITA, TEAM, {"estimator": "marginal", "weights": "attention"}),
    "dqn": (DQN, ONE_HOT, {"target_update_interval": 1}),
    "joint_dqn": (JointDQN, ONE_HOT, {"n_steps": 1}),
    "vdn": (VDN, ONE_HOT, {"recurrent": False, "optimizer": "adam"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_recorded_updates_are_the_eager_ones_with_the_same_random_numbers(name):
    """The last batch has another form, and is none of the graph's."""
    kind, env, options = KINDS[name]
    eager, recorded = (make(kind, env, **options, compile=choice) for choice in (False, True))
    for seed, size in enumerate((7, 7, 5)):
        batches = batches_for(eager, seed, size)
        rollout, logs = env.rollout(3, break_when_any_done=False), []
        for algorithm in (eager, recorded):
            # What it keeps of a rollout, as the scales of the bonuses, is read by the graph.
            algorithm.observe(rollout)
            torch.manual_seed(seed)
            logs.append(algorithm.update(batches))
        expected, found = logs
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5, msg=key)
            assert not found[key].requires_grad
    assert recorded._graphs
    assert not any(g.failed or g.graph is None for g in recorded._graphs.values())
    for found, expected in zip(tensors(recorded), tensors(eager), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    # The optimizers have other tensors then.
    recorded.load_state_dict(recorded.state_dict())
    assert not recorded._graphs


@pytest.mark.parametrize(("kind", "discrete"), [(MAPPO, False), (IPPO, True)])
def test_recorded_minibatches_are_the_eager_ones(kind, discrete):
    """Steps that shrink over the frames are tensors of the graph."""
    env = TargetEnv(discrete=discrete, seed=0)
    options = {"minibatch_size": 6, "entropy_coeff": 0.1, "lr_decay_frames": 60}
    eager, recorded = (make(kind, env, **options, compile=choice) for choice in (False, True))
    for seed in range(2):
        rollout = env.rollout(4, eager.actor, break_when_any_done=False).detach()
        for algorithm in (eager, recorded):
            torch.manual_seed(seed)
            logs = algorithm.update({"rollout": rollout})
    # Of 28 transitions minibatches are of 6 and of 5.
    assert [(g.failed, g.graph is None) for g in recorded._graphs.values()] == [(False, False)] * 2
    assert not logs["loss_objective"].requires_grad
    for found, expected in zip(tensors(recorded), tensors(eager), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_bad_batch_is_an_error_of_the_batch_and_the_next_is_recorded():
    module = Total()
    total = module.value

    def function(batch: TensorDict) -> TensorDict:
        total.add_(batch["x"].sum() + torch.rand(()))
        return TensorDict({"total": total.clone()})

    recorded = Recorded(function, [module])
    with pytest.raises(KeyError, match="x"):
        recorded(TensorDict({"y": torch.ones(3)}, [3]))
    assert float(total) == 0
    batch, expected = TensorDict({"x": torch.ones(3)}, [3]), 0.0
    torch.manual_seed(0)
    drawn = torch.rand(2)
    torch.manual_seed(0)
    for draw in drawn.tolist():
        expected += 3 + draw
        assert float(recorded(batch)["total"]) == pytest.approx(expected)
    assert recorded.graph is not None


def test_a_batch_whose_entries_come_in_another_order_is_the_same_batch():
    """The order of a saved and loaded batch is another."""
    recorded = Recorded(lambda batch: TensorDict({"less": (batch["x"] - batch["y"]).sum()}), [])
    x, y = torch.full((3,), 5.0), torch.full((3,), 1.0)
    for entries in ({"x": x, "y": y}, {"x": x, "y": y}, {"y": y, "x": x}):
        assert float(recorded(TensorDict(entries, [3]))["less"]) == 12
    assert recorded.graph is not None


def test_where_recording_fails_one_warning_is_given_and_nothing_was_changed():
    """A value that is read back is no operation that a graph could hold."""
    module, seen = Total(), []
    total = module.value

    def function(batch: TensorDict) -> TensorDict:
        total.add_(batch["x"].sum())
        seen.append(float(total))
        return TensorDict({"total": total.clone()})

    recorded = Recorded(function, [module])
    batch = TensorDict({"x": torch.ones(3)}, [3])
    with pytest.warns(UserWarning, match="the update goes on without it"):
        assert float(recorded(batch)["total"]) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert float(recorded(batch)["total"]) == 6
    assert recorded.failed


@pytest.mark.parametrize("option", ["weight_decay", "amsgrad", "maximize"])
def test_adam_with_options_that_are_not_recorded_says_so(option):
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([weight], fused=True, **{option: True})

    def function(batch: TensorDict) -> TensorDict:
        optimizer.zero_grad()
        (weight * batch["x"]).sum().backward()
        optimizer.step()
        return TensorDict({})

    recorded = Recorded(function, [], [optimizer])
    with pytest.warns(UserWarning, match="ValueError: Of Adam"):
        recorded(TensorDict({"x": torch.ones(2)}, [2]))
