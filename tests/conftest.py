"""Fixtures of tests in several rooms."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import ModuleType

import pytest
from scripts import ROOT, load

# What JAX compiles of a game is compiled once for all processes of the tests.
_COMPILED = Path(tempfile.gettempdir()) / f"torchrl_alita_jax_{os.getuid()}"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_COMPILED))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


@pytest.fixture
def studies(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The engine of benchmarks/study.py."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return load("benchmarks", "study")
