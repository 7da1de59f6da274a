"""Random rows of a storage."""

from __future__ import annotations

import torch


def random_rows(
    length: int,
    count: int,
    *,
    generator: torch.Generator | None,
    device: torch.device | str | None,
) -> torch.Tensor:
    """Indices below the length, with replacement, on the device, ``-> [count]``.

    A buffer's generator lives on the CPU; without one they are drawn where they are needed.
    """
    if generator is None:
        return torch.randint(length, (count,), device=device)
    return torch.randint(length, (count,), generator=generator).to(device, non_blocking=True)
