"""Where results, pages and their pictures are, and what a figure was measured with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torchrl_alita.experiments import markdown_table as table
from torchrl_alita.experiments import write_between

__all__ = [
    "FIGURES",
    "RESULTS",
    "ROOT",
    "read_lines",
    "set_line",
    "table",
    "versions",
    "write_between",
]

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
FIGURES = ROOT / "docs" / "figures"


def versions(machine: dict) -> str:
    """Versions and machine of a measurement, in words."""
    return (
        f"torch {machine['torch']}, torchrl {machine['torchrl']}, Python {machine['python']}, "
        f"{machine['cores']} {machine['processor']} cores, {machine.get('gpu') or 'no GPU'}"
    )


def read_lines(path: Path) -> dict[str, dict[str, Any]]:
    """Contents by name, of a file with one JSON object a line; none where there is no file."""
    lines = path.read_text().splitlines() if path.exists() else []
    contents = map(json.loads, lines)
    return {content.pop("name"): content for content in contents}


def set_line(path: Path, name: str, content: dict[str, Any]) -> None:
    """Add a named content, or put it in place of the one of this name."""
    lines = read_lines(path) | {name: content}
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps({"name": key, **value}) + "\n" for key, value in lines.items())
    path.write_text(text)
