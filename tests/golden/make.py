"""Losses, gradients and parameters after three updates, as the first version computed them.

``numbers.json`` was written by this file at commit 696ae57, before options became settings; it
is not to be written again, but for a case that is added.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from fakes import A, H, TargetEnv, random_batch, sequences
from tensordict import TensorDict

from torchrl_alita import ALITA, DDPG, IQL, MADDPG, QMIX, TD3, VDN, TwinALITA

SMALL = {"num_cells": (13,)}
UPDATES = 3
PATH = Path(__file__).with_name("numbers.json")
ENV, ONE_HOT = TargetEnv(), TargetEnv(discrete=True, has_state=True)
ALONE = TargetEnv(n_agents=1)


def one_agent(**options) -> TensorDict:
    """The first agent's part of random transitions."""
    batch = random_batch(**options)
    return batch.apply(lambda value: value[..., :1, :] if value.ndim == batch.ndim + 2 else value)


def one_hot(**options) -> TensorDict:
    batch = random_batch(**options)
    taken = batch["agents", "action"].argmax(-1)
    batch["agents", "action"] = torch.nn.functional.one_hot(taken, A).float()
    return batch


RECURRENT = {"recurrent": True, "hidden_size": H}
# By name: what is built, and its batches.
CASES: dict[str, tuple[Callable, Callable]] = {
    "maddpg": (lambda: MADDPG(ENV, **SMALL), random_batch),
    "maddpg, one-hot": (lambda: MADDPG(ONE_HOT, logits_coeff=0.1, **SMALL), one_hot),
    "ddpg": (lambda: DDPG(ENV, **SMALL), random_batch),
    "alita": (lambda: ALITA(ENV, **SMALL), random_batch),
    "alita, clones": (lambda: ALITA(ENV, estimator="clones", **SMALL), random_batch),
    "alita, centralized": (lambda: ALITA(ENV, estimator="centralized", **SMALL), random_batch),
    "alita, symmetric": (lambda: ALITA(ENV, influencers="all", **SMALL), random_batch),
    "alita, symmetric clones": (
        lambda: ALITA(ENV, influencers="all", estimator="clones", **SMALL),
        random_batch,
    ),
    "alita, next": (lambda: ALITA(ENV, optimum_at="next", influencers=1, **SMALL), random_batch),
    "alita, normalized": (lambda: ALITA(ENV, normalize=True, **SMALL), random_batch),
    "alita, weights": (
        lambda: ALITA(ENV, influencers=2, weights=(0.75, 0.25), optimum="policy", **SMALL),
        random_batch,
    ),
    "alita, one-hot": (lambda: ALITA(ONE_HOT, optimum="enumerated", **SMALL), one_hot),
    "alita, recurrent": (lambda: ALITA(ONE_HOT, **RECURRENT, **SMALL), sequences),
    "twin_alita": (lambda: TwinALITA(ALONE, **SMALL), one_agent),
    "twin_alita, published": (lambda: TwinALITA(ALONE, form="published", **SMALL), one_agent),
    "td3": (lambda: TD3(ALONE, **SMALL), one_agent),
    "qmix": (lambda: QMIX(ONE_HOT, hidden_size=H), sequences),
    "vdn": (lambda: VDN(ONE_HOT, hidden_size=H), sequences),
    "iql": (lambda: IQL(ONE_HOT, recurrent=False, num_cells=(5,)), sequences),
}


def digest(optimizer: torch.optim.Optimizer) -> list[float]:
    """Sum, norm and a sum that depends on the order, of what an optimizer trains."""
    values = torch.cat(
        [
            param.detach().double().reshape(-1)
            for group in optimizer.param_groups
            for param in group["params"]
        ]
    )
    order = torch.cos(torch.arange(len(values), dtype=torch.float64))
    return [values.sum().item(), values.norm().item(), (values * order).sum().item()]


def numbers(case: str) -> dict:
    """What a case's updates log, and what its optimizers have trained."""
    make, batch = CASES[case]
    torch.manual_seed(0)
    algorithm = make()
    logs = []
    for update in range(UPDATES):
        conditional = [
            batch(seed=100 + 10 * update + i) for i, _ in enumerate(algorithm.conditional_samplers)
        ]
        # Of conditional batches, sequences are of one step.
        result = algorithm.update(batch(seed=update), conditional, batch(seed=50 + update))
        logs.append({str(key): float(value) for key, value in sorted(result.items())})
    parameters = {name: digest(opt) for name, opt in algorithm.optimizers.items()}
    return {"logs": logs, "parameters": parameters}


if __name__ == "__main__":
    written = {case: numbers(case) for case in CASES}
    PATH.write_text(json.dumps(written, indent=1) + "\n")
