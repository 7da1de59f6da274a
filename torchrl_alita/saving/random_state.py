"""The random state of a process, and leaving it alone."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torchrl.checkpoint import GlobalRNGState

from torchrl_alita._checks import LARGEST_NUMPY_SEED, check_integer, checked_seed
from torchrl_alita.envs.vmas_state import load_generators, save_generators

__all__ = ["RandomState", "preserve_random_state", "seed_everything"]


class RandomState:
    """Every random state of the process, saved and restored.

    Python's, NumPy's and torch's, of the CPU and of accelerators in use, and the list
    that VMAS shares among its environments, which TorchRL's ``GlobalRNGState`` leaves out.

    Examples:
        >>> state = RandomState().state_dict()
        >>> first = torch.rand(3)
        >>> RandomState().load_state_dict(state)
        >>> bool((torch.rand(3) == first).all())
        True
    """

    def state_dict(self) -> dict[str, Any]:
        """Plain data; ``vmas`` is None in a process that has not imported VMAS."""
        shared = _vmas_list()
        return {
            "process": GlobalRNGState().state_dict(),
            "vmas": None if shared is None else save_generators(shared),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state.

        Raises:
            RuntimeError: if it has the state of an accelerator that is not there.
            ValueError: if it is no state of VMAS's generators.
        """
        GlobalRNGState().load_state_dict(state_dict["process"])
        shared = _vmas_list()
        if shared is not None and state_dict["vmas"] is not None:
            shared[:] = load_generators(state_dict["vmas"])


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators, and VMAS's shared list from them.

    Args:
        seed: from 0 to 2**32 - 1.

    Raises:
        ValueError: if the seed is no such whole number; nothing is seeded.

    Examples:
        >>> seed_everything(3)
        >>> first = random.random()
        >>> seed_everything(3)
        >>> random.random() == first
        True
    """
    seed = check_integer("seed", checked_seed(seed, most=LARGEST_NUMPY_SEED))
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)
    shared = _vmas_list()
    if shared is not None:
        # As VMAS fills it when it is imported.
        numpy_state = np.random.get_state()  # noqa: NPY002
        shared[:] = [torch.random.get_rng_state(), numpy_state, random.getstate()]


@contextmanager
def preserve_random_state() -> Iterator[None]:
    """Leave every random state of the process as it was found.

    Python's, NumPy's and torch's, of the CPU and of accelerators in use, and the list
    that VMAS shares among its environments.

    Examples:
        >>> _ = torch.manual_seed(0)
        >>> with preserve_random_state():
        ...     first = torch.rand(3)
        >>> bool((torch.rand(3) == first).all())
        True
    """
    generators = GlobalRNGState()
    before = generators.state_dict()
    vmas = _vmas_list()
    vmas_before = [] if vmas is None else list(vmas)
    try:
        yield
    finally:
        generators.load_state_dict(before)
        if vmas is not None:
            vmas[:] = vmas_before


def _vmas_list() -> list | None:
    module = sys.modules.get("vmas.simulator.environment.environment")
    return None if module is None else module.Environment.vmas_random_state
