"""Where results, pages and their pictures are, and what a figure was measured with."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from torchrl_alita.experiments import markdown_table as table
from torchrl_alita.experiments import write_between
from torchrl_alita.saving import machine

__all__ = [
    "FIGURES",
    "RESULTS",
    "ROOT",
    "circumstances",
    "made_by",
    "read_lines",
    "set_line",
    "table",
    "write_between",
]

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
FIGURES = ROOT / "docs" / "figures"


def circumstances(script: str, **settings: Any) -> dict[str, Any]:
    """The command, its settings, and what it is measured with, as results have them."""
    return {
        "command": " ".join([f"python benchmarks/{script}", *sys.argv[1:]]),
        "config": settings,
        "machine": machine(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def made_by(content: dict[str, Any], command: str | None = None) -> str:
    """Command, commit, versions and machine of a measurement, in words."""
    found = content["machine"]
    # Results of before November 26 have a commit of their own, or none.
    commit = content.get("commit") or found.get("commit")
    load, threads = content.get("load_average"), found.get("threads")
    return ", ".join(
        [
            f"`{command or content['command']}`",
            f"commit {commit}" if commit else "commit not recorded",
            *(f"{name} {found[name]}" for name in ("torch", "torchrl")),
            f"Python {found['python']}",
            f"{found['cores']} {found['processor']} cores",
            *([] if threads is None else [f"{threads} thread{'s' * (threads != 1)}"]),
            found.get("gpu") or "no GPU",
            *([] if load is None else [f"load average {load:.1f} at the start"]),
        ]
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
