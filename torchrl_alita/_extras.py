"""Optional dependencies, imported where they are used."""

from __future__ import annotations

import importlib
from types import ModuleType

__all__ = ["import_extra"]


def import_extra(module: str, extra: str) -> ModuleType:
    """Import an optional module.

    Args:
        module: its name, as in an import statement.
        extra: the extra of this package that installs it.

    Returns:
        The module.

    Raises:
        ImportError: if it is not installed; the message names the extra.

    Examples:
        >>> import_extra("no_such_module", "vmas")
        Traceback (most recent call last):
        ...
        ImportError: no_such_module is not installed; try: pip install "torchrl_alita[vmas]"
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.split(".")[0]:
            raise
        raise ImportError(
            f'{module} is not installed; try: pip install "torchrl_alita[{extra}]"'
        ) from error
