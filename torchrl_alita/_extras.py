"""Optional dependencies, imported where they are used."""

from __future__ import annotations

import importlib
import io
from contextlib import nullcontext, redirect_stderr
from types import ModuleType

__all__ = ["import_extra"]

# Their import prints a note on environments that are not used here.
_PRINT = ("gymnasium_robotics",)


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
    quiet = redirect_stderr(io.StringIO()) if module in _PRINT else nullcontext()
    try:
        with quiet:
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.split(".")[0]:
            raise
        raise ImportError(
            f'{module} is not installed; try: pip install "torchrl_alita[{extra}]"'
        ) from error
