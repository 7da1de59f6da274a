"""What environments that can give their state share: it is taken over whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torchrl.envs import EnvBase

__all__ = ["SavedState", "StaysOnDevice", "check_like", "compare_keys"]


class SavedState:
    """A state of tensors by name, beside an ``EnvBase``.

    The tensors that ``_state`` names and a generator are the state, unless the environment
    says otherwise by ``_saved`` and ``_restore``.
    """

    # Of the environment beside which it stands.
    generator: torch.Generator
    device: torch.device
    _state: tuple[str, ...] = ()

    def _saved(self) -> dict[str, torch.Tensor]:
        """Copies by name."""
        tensors = {name: getattr(self, name).clone() for name in self._state}
        return tensors | {"generator": self.generator.get_state()}

    def _check_saved(self, name: str, value: torch.Tensor) -> None:
        """Raise a ValueError for a tensor that cannot be what it is called."""
        check_like(name, value, getattr(self, name))

    def _restore(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from what ``_saved`` gave, by the same names."""
        for name in self._state:
            self._check_saved(name, state[name])
        self.generator.set_state(state["generator"].cpu())
        for name in self._state:
            setattr(self, name, state[name].to(self.device, copy=True))

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        for name, tensor in self._saved().items():
            destination[prefix + name] = tensor

    def _load_from_state_dict(
        self,
        state_dict: dict,
        prefix: str,
        local_metadata: dict,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        own = self._saved()
        missing, unexpected = compare_keys(own, state_dict, prefix)
        missing_keys += missing
        unexpected_keys += unexpected if strict else []
        # All or nothing: a state with a key too many is refused after this method.
        if not missing and not (strict and unexpected):
            self._restore({name: state_dict[prefix + name] for name in own})


class StaysOnDevice:
    """An environment whose generator, or whose compiled steps, cannot move."""

    device: torch.device

    def to(self, device: torch.device | str) -> EnvBase:
        """The environment itself, if it is on this device.

        Args:
            device: that of the environment.

        Raises:
            ValueError: for another device.
        """
        wanted = torch.device(device)
        if wanted.type != self.device.type or wanted.index not in (None, self.device.index):
            raise ValueError(
                f"{type(self).__name__} cannot move from {self.device} to {wanted}: make a new "
                f"environment with device={str(wanted)!r}."
            )
        return self


def compare_keys(
    names: Iterable[str], state_dict: dict, prefix: str
) -> tuple[list[str], list[str]]:
    """Keys of these names that a state lacks, and those of its own that are not among them."""
    expected = [prefix + name for name in names]
    found = [key for key in state_dict if key.startswith(prefix)]
    missing = [key for key in expected if key not in found]
    return missing, [key for key in found if key not in expected]


def check_like(name: str, value: torch.Tensor, own: torch.Tensor) -> None:
    """Raise a ValueError for a tensor of another shape or dtype than one's own."""
    if value.shape != own.shape or value.dtype != own.dtype:
        raise ValueError(
            f"{name} must be {own.dtype} of the shape {tuple(own.shape)}, got {value.dtype} "
            f"of the shape {tuple(value.shape)}."
        )
