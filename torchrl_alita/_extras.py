"""What is imported where it is used: optional dependencies, and what users name."""

from __future__ import annotations

import importlib
import io
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

__all__ = ["import_extra", "import_named", "process_kept"]

# Their import prints notes on what is not used here, and some draws random numbers.
_NOISY = ("gymnasium_robotics", "jaxmarl")


@contextmanager
def process_kept() -> Iterator[None]:
    """What is printed meanwhile is dropped; streams and random states are as they were.

    JaxMARL's import prints what it does not find, and leaves ``sys.stdout`` and
    ``sys.stderr`` to the terminal, whatever they were: a test or a notebook would no
    longer see what is printed. It draws from Python's and NumPy's generators too, so that
    a run would depend on whether it was imported before.
    """
    kept = sys.stdout, sys.__stdout__, sys.stderr
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    sys.stdout = sys.__stdout__ = sys.stderr = io.StringIO()  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        sys.stdout, sys.__stdout__, sys.stderr = kept  # type: ignore[misc]
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


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
    quiet = process_kept() if module.split(".")[0] in _NOISY else nullcontext()
    try:
        with quiet:
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.split(".")[0]:
            raise
        raise ImportError(
            f'{module} is not installed; try: pip install "torchrl_alita[{extra}]"'
        ) from error


def import_named(what: str, name: str) -> Any:
    """What ``"module:name"`` names.

    Args:
        what: it is, for an error.
        name: of a module, a colon, and a name in it.

    Raises:
        ValueError: if it cannot be imported.

    Examples:
        >>> import_named("policy", "math:tau")
        6.283185307179586
    """
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"The {what} {name!r} cannot be imported; {Path.cwd()} is looked in, too: {error}."
        ) from error
