"""Losses, gradients and parameters after three updates, as the first version computed them.

``numbers.json`` was written by this file at commit 696ae57, before options became settings; it
is not to be written again, but for a case that is added.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from fakes import A, H, TargetEnv, random_batch, sequences
from tensordict import TensorDict
from torchrl.envs import EnvBase

from torchrl_alita.algorithms import (
    ALITA,
    DDPG,
    IQL,
    MADDPG,
    QMIX,
    TD3,
    VDN,
    Learner,
    TwinALITA,
)

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
PUBLISHED = dataclasses.replace(TwinALITA.presets["published"], **SMALL)


def case(algorithm: type[Learner], env: EnvBase, batch: Callable, **options) -> tuple:
    return algorithm, env, algorithm.Settings(**options), batch


# By name: the algorithm, its environment, its settings, and its batches.
CASES: dict[str, tuple] = {
    "maddpg": case(MADDPG, ENV, random_batch, **SMALL),
    "maddpg, one-hot": case(MADDPG, ONE_HOT, one_hot, logits_coeff=0.1, **SMALL),
    "ddpg": case(DDPG, ENV, random_batch, **SMALL),
    "alita": case(ALITA, ENV, random_batch, **SMALL),
    "alita, clones": case(ALITA, ENV, random_batch, estimator="clones", **SMALL),
    "alita, centralized": case(ALITA, ENV, random_batch, estimator="centralized", **SMALL),
    "alita, symmetric": case(ALITA, ENV, random_batch, influencers="all", **SMALL),
    "alita, symmetric clones": case(
        ALITA, ENV, random_batch, influencers="all", estimator="clones", **SMALL
    ),
    "alita, next": case(ALITA, ENV, random_batch, optimum_at="next", influencers=1, **SMALL),
    "alita, normalized": case(ALITA, ENV, random_batch, normalize=True, **SMALL),
    "alita, weights": case(
        ALITA, ENV, random_batch, influencers=2, weights=(0.75, 0.25), optimum="policy", **SMALL
    ),
    "alita, one-hot": case(ALITA, ONE_HOT, one_hot, optimum="enumerated", **SMALL),
    "alita, recurrent": case(ALITA, ONE_HOT, sequences, **RECURRENT, **SMALL),
    "twin_alita": case(TwinALITA, ALONE, one_agent, **SMALL),
    "twin_alita, published": (TwinALITA, ALONE, PUBLISHED, one_agent),
    "td3": case(TD3, ALONE, one_agent, **SMALL),
    "qmix": case(QMIX, ONE_HOT, sequences, hidden_size=H),
    "vdn": case(VDN, ONE_HOT, sequences, hidden_size=H),
    "iql": case(IQL, ONE_HOT, sequences, recurrent=False, num_cells=(5,)),
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
    make, env, settings, batch = CASES[case]
    torch.manual_seed(0)
    algorithm = make(env, settings)
    conditional = [name for name in algorithm.replays() if name.startswith("conditional")]
    logs = []
    for update in range(UPDATES):
        # Of conditional batches, sequences are of one step.
        batches = {name: batch(seed=100 + 10 * update + i) for i, name in enumerate(conditional)}
        batches |= {"batch": batch(seed=update), "recent": batch(seed=50 + update)}
        result = algorithm.update({name: batches[name] for name in algorithm.replays()})
        logs.append({str(key): float(value) for key, value in sorted(result.items())})
    parameters = {name: digest(opt) for name, opt in algorithm.optimizers.items()}
    return {"logs": logs, "parameters": parameters}


if __name__ == "__main__":
    written = {case: numbers(case) for case in CASES}
    PATH.write_text(json.dumps(written, indent=1) + "\n")
