"""The virtual environment in which BenchMARL runs, beside ours."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

TITLE, PACKAGE = "BenchMARL", "benchmarl==1.5.2"


def requirements() -> list[str]:
    """What pip installs: the peer, and our versions of what both sides stand on."""
    shared = [f"{name}=={version(name).split('+')[0]}" for name in ("torch", "vmas")]
    return [*shared, PACKAGE]


def peer_python(folder: Path, wanted: Sequence[str]) -> Path:
    """Python of a virtual environment with these packages; what is missing is installed.

    Raises:
        ValueError: if the folder holds something else.
        subprocess.CalledProcessError: if the packages cannot be installed.
    """
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not python.exists():
        if folder.exists() and any(folder.iterdir()):
            raise ValueError(f"{folder} is not empty and no virtual environment.")
        print(f"Making {folder} with {', '.join(wanted)}: some minutes, once.", file=sys.stderr)
        venv.create(folder, with_pip=True, symlinks=os.name != "nt")
    install = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*install, *wanted], check=True, stdout=2)
    return python
