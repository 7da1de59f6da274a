"""Fixtures of tests in several rooms."""

from __future__ import annotations

from types import ModuleType

import pytest
from scripts import ROOT, load


@pytest.fixture
def studies(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The engine of benchmarks/study.py."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return load("benchmarks", "study")
