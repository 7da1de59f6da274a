"""What a method has covered in a game, beside what random play covers exactly."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from statistics import mean
from typing import Any

import numpy as np
import torch

from benchmarks.coverage.learner import num_steps, play_networks, play_random, play_stacked
from benchmarks.coverage.methods import METHODS, Settings
from torchrl_alita.experiments import bootstrap_interval
from torchrl_alita.saving import machine

MARKS = ("share_at_m", "share_at_m_ln_m")


def random_share(steps: int, num_joint: int) -> float:
    """Expected share of M joint actions that uniform play has visited.

    Each is missed by ``steps`` independent draws with probability ``(1 - 1 / M)**steps``.
    """
    return 1 - (1 - 1 / num_joint) ** steps


def random_cover_steps(num_joint: int) -> float:
    """Expected steps of uniform play until all are visited, M * H_M, Eq. 14."""
    return num_joint * math.fsum(1 / k for k in range(1, num_joint + 1))


def covered(joint: torch.Tensor, num_joint: int) -> torch.Tensor:
    """Share of M joint actions visited after each step, ``[T, R] -> [T, R]``."""
    first = torch.full((num_joint, joint.shape[1]), len(joint))
    times = torch.arange(len(joint)).unsqueeze(1).expand_as(joint)
    first.scatter_reduce_(0, joint, times, "amin")
    found = torch.zeros(len(joint) + 1, joint.shape[1])
    found.scatter_add_(0, first, torch.ones(first.shape))
    return found[:-1].cumsum(0) / num_joint


def cell(name: str, num_agents: int, num_actions: int, settings: Settings) -> dict[str, Any]:
    """One method in one game: its shares, their curve, and what its policies did."""
    method, num_joint = METHODS[name], num_actions**num_agents
    start = time.perf_counter()
    if name == "random":
        play = play_random(num_joint, settings.random_repetitions, settings.seed)
    else:
        learner = play_networks if method.networks else play_stacked
        play = learner(method, num_agents, num_actions, settings)
    shares, steps = covered(play.joint, num_joint), num_steps(num_joint)
    full = (shares < 1 - 1e-6).sum(0) + 1
    grid = torch.linspace(1, steps, 61).round().long().unique()
    return {
        "method": name,
        "num_agents": num_agents,
        "num_actions": num_actions,
        "settings": asdict(method),
        "config": asdict(settings),
        "command": f"python -m benchmarks.coverage --methods {name} --num-agents {num_agents}",
        "machine": machine(),
        "share_at_m": rounded(shares[num_joint - 1]),
        "share_at_m_ln_m": rounded(shares[steps - 1]),
        "full_cover_steps": [n if n <= len(shares) else None for n in full.tolist()],
        "curve": {"steps": grid.tolist(), "share": rounded(shares[grid - 1].mean(1))},
        "entropy": None if play.entropy is None else rounded(play.entropy),
        "contrast": play.contrast,
        "seconds": round(time.perf_counter() - start, 1),
    }


def rounded(values: torch.Tensor) -> list[float]:
    return [round(value, 5) for value in values.tolist()]


def summary(raw: dict[str, Any]) -> dict[str, Any]:
    """Means and their 95 % intervals, and what the policies did.

    The steps to full cover have a mean only if every repetition got there.
    """
    measured = {name: raw[name] for name in MARKS}
    if None not in raw["full_cover_steps"]:
        measured["full_cover_steps"] = raw["full_cover_steps"]
    result: dict[str, Any] = {
        name: {"mean": mean(values), "interval": bootstrap_interval(values, np.mean)}
        for name, values in measured.items()
    }
    if raw["entropy"] is not None:
        result["teammates_entropy"] = mean(raw["entropy"][1:])
    return result | {"contrast": raw["contrast"]}


def exact(num_agents: int, num_actions: int) -> dict[str, float]:
    """What random play covers, without a measurement."""
    num_joint = num_actions**num_agents
    return {
        "share_at_m": random_share(num_joint, num_joint),
        "share_at_m_ln_m": random_share(num_steps(num_joint), num_joint),
        "full_cover_steps": random_cover_steps(num_joint),
    }
