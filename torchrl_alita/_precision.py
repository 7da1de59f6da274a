"""Full precision inside mixed precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def all_digits(values: torch.Tensor) -> AbstractContextManager:
    """For what ends in values: their differences need more digits than mixed precision has."""
    device = values.device.type
    if not torch.is_autocast_enabled(device):
        # The compiler keeps no graph that enters autocast for the next process.
        return nullcontext()
    return torch.autocast(device, enabled=False)
