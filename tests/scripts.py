"""The scripts of recipes/ and benchmarks/ as modules.

Their folders are not on the path: benchmarks/coverage.py would hide the tool of that name.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parent.parent


def load(folder: str, name: str, *, known_as: str | None = None) -> ModuleType:
    known_as = known_as or name
    if known_as not in sys.modules:
        spec = importlib.util.spec_from_file_location(known_as, ROOT / folder / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[known_as] = module
        spec.loader.exec_module(module)
    return sys.modules[known_as]


# What the other benchmarks import.
pages = load("benchmarks", "pages")
