"""Every loss and every transform keeps the contract."""

from __future__ import annotations

import contract
import pytest
import torch
from constructors import (
    LOSSES,
    ROLLOUTS,
    SPEC,
    TRANSFORMS,
    acted,
    influence,
    of_one_agent,
    one_hot_episodes,
    pathwise,
    scored,
)
from fakes import B, N, random_batch, sequences

from torchrl_alita import BestOf


def promises(functions):
    """Each as a parameter; a graph takes seconds to trace."""
    return [
        pytest.param(f, id=f.__name__, marks=[pytest.mark.slow] * f.__name__.startswith("compiles"))
        for f in functions
    ]


@pytest.mark.parametrize("promise", promises(contract.LOSS_PROMISES))
@pytest.mark.parametrize("name", LOSSES)
def test_loss_keeps_its_promise(name, promise):
    if name in ("influence_score", "maddpg_all"):
        batch = one_hot_episodes()
    elif name.startswith("recurrent") or name in ("qmix", "qmix_lambda", "vdn", "iql", *ROLLOUTS):
        # Few steps: a compiled graph has them all.
        batch = sequences(batch_size=(B, 3))
    else:
        batch = acted() if name == "trpo" else random_batch()
    promise(LOSSES[name], of_one_agent(batch) if "in_turns" in name else batch)


@pytest.mark.parametrize("promise", promises(contract.TRANSFORM_PROMISES))
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transform_keeps_its_promise(name, promise):
    batch = random_batch()
    if "in_turns" in name:
        batch = of_one_agent(batch)
    if name.startswith("novelty"):
        batch = batch.exclude(("next", "agents", "novelty"))
    promise(TRANSFORMS[name], batch)


def test_every_public_loss_and_transform_is_under_contract():
    import torchrl_alita.objectives
    import torchrl_alita.transforms

    made = {type(make()).__name__ for make in (*LOSSES.values(), *TRANSFORMS.values())}
    public = set(torchrl_alita.objectives.__all__) | set(torchrl_alita.transforms.__all__)
    # An environment's alone: no batch says what came before its first step.
    others = {"EpisodeLatent", "LastAction", "recurrent_transforms"}
    # A function of a loss, of the loss that follows it.
    others |= {"meta_weight"}
    parts = {"AtPolicy", "BestOf", "Enumerated", "Marginal", "OwnGradient", "TDTarget", "Trained"}
    assert public - others - parts == made


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda: scored(4), pathwise], ids=["score", "pathwise"])
def test_the_influence_of_drawn_actions_compiles(make):
    """Random numbers differ between eager and compiled: the shape and the break count here."""
    torch._dynamo.reset()
    graph = torch.compile(make(), fullgraph=True, backend="aot_eager")
    assert graph(one_hot_episodes())["gap"].shape == (N - 1,)


@pytest.mark.slow
def test_the_sampled_optimum_with_uniform_actions_compiles():
    """Random numbers differ between eager and compiled: the shape and the break count here."""
    torch._dynamo.reset()
    loss = influence(optimum=BestOf(uniform=5, spec=SPEC))
    graph = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert graph(random_batch())["gap"].shape == (N - 1,)
