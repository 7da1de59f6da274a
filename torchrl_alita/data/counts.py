"""How often each code was seen."""

from __future__ import annotations

import torch
from torch import nn

from torchrl_alita._checks import check_at_least_one, check_whole

__all__ = ["CountTable", "check_codes"]

# The fractional part of the golden ratio in 64 bits, as a signed number, and the bits that
# a logical shift to the right keeps.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_SHIFT, _KEPT = 29, 2**35 - 1


def check_codes(codes: torch.Tensor, num_codes: int) -> None:
    """Raise unless all codes are int64, at least 0 and below their number.

    A compiled graph cannot read a value: there a wrong code is torch's own error.

    Args:
        codes: of any shape.
        num_codes: C.

    Raises:
        TypeError: if they are not of int64.
        ValueError: if one does not fit; it is named.

    Examples:
        >>> check_codes(torch.tensor([2, 5]), 5)
        Traceback (most recent call last):
        ...
        ValueError: A code must be at least 0 and below the number of codes, 5, got 5.
    """
    if codes.dtype != torch.long:
        raise TypeError(f"Codes must be of int64, got {codes.dtype}.")
    if codes.numel() == 0 or torch.compiler.is_compiling():
        return
    least, most = (int(bound) for bound in codes.aminmax())
    if least < 0 or most >= num_codes:
        raise ValueError(
            f"A code must be at least 0 and below the number of codes, {num_codes}, got "
            f"{least if least < 0 else most}."
        )


class CountTable(nn.Module):
    """Counts of whole numbers, dense or hashed, exact in 64 bits.

    A dense table has an entry for each code and is exact. A hashed one has fewer: codes that
    share an entry are counted together, as in https://arxiv.org/abs/1611.04717, so that
    counts are never too small. It takes any code. The counts are a buffer: they move with
    the module, and ``state_dict()`` holds them.

    Args:
        num_codes: C, codes are 0 to C - 1.
        slots: entries of a hashed table. Default: None, a dense one.
        device: of the counts.

    Raises:
        ValueError: if a number is below 1; when codes are added or read, if one does not
            fit the table or is on another device, before anything is counted.
        TypeError: when codes are added or read, if they are not int64.

    Examples:
        >>> table = CountTable(5)
        >>> table.add(torch.tensor([3, 3, 0]))
        >>> table.count(torch.tensor([[3, 1]]))
        tensor([[2, 0]])
    """

    def __init__(
        self,
        num_codes: int,
        *,
        slots: int | None = None,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        check_at_least_one(num_codes=num_codes)
        if slots is not None:
            check_whole(1, slots=slots)
        self.num_codes, self.slots = num_codes, slots
        size = num_codes if slots is None else slots
        self.register_buffer("counts", torch.zeros(size, dtype=torch.long, device=device))
        self.empty = True

    def add(self, codes: torch.Tensor) -> None:
        """Count each of these codes, of any shape, once more.

        Args:
            codes: int64.
        """
        place = self._place(codes).flatten()
        self.counts.scatter_add_(0, place, torch.ones_like(place))
        self.empty = self.empty and place.numel() == 0

    def count(self, codes: torch.Tensor) -> torch.Tensor:
        """How often each was added, ``[*B] -> [*B]``.

        Args:
            codes: int64.
        """
        place = self._place(codes)
        return self.counts.index_select(0, place.reshape(-1)).view(place.shape)

    def _place(self, codes: torch.Tensor) -> torch.Tensor:
        self.check_device(codes)
        check_codes(codes, self.num_codes)
        if self.slots is None:
            return codes
        mixed = codes * _GOLDEN
        mixed = (mixed ^ ((mixed >> _SHIFT) & _KEPT)) * _GOLDEN
        return (mixed ^ ((mixed >> _SHIFT) & _KEPT)).remainder(self.slots)

    def check_device(self, values: torch.Tensor) -> None:
        """Raise a ValueError for what is not on the device of the counts."""
        if values.device != self.counts.device:
            raise ValueError(
                f"The counts are on {self.counts.device}, what is counted is on {values.device}."
            )

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *rest) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self.empty = not bool((self.counts > 0).any())
