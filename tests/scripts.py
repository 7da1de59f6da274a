"""The scripts of recipes/ and benchmarks/ as modules.

Their folders are on the path while they are imported, and behind all others: benchmarks/coverage
would hide the tool of that name.
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
        sys.path.append(str(ROOT / folder))
        try:
            spec.loader.exec_module(module)
        finally:
            sys.path.remove(str(ROOT / folder))
    return sys.modules[known_as]
