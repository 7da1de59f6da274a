"""The tests with other versions than those of constraints.txt, in an environment of its own.

    python tests/versions.py --python python3.12
    python tests/versions.py --free torch                      # the newest that TorchRL allows
    python tests/versions.py --free torch torchrl tensordict --pre tests/objectives

Prints the versions and what pytest says, and ends with its status. It is no part of CI: what fails
here is news of a library, not a fault of a change.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from release import ROOT, run

SHOWN = ("torch", "torchrl", "tensordict", "numpy", "vmas")
VERSIONS = (
    "import platform; from importlib.metadata import version; print('python', "
    f"platform.python_version(), *(f'{{name}} {{version(name)}}' for name in {SHOWN}))"
)


def constraints(free: list[str]) -> str:
    """Those of the project, without the packages whose version is free."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return "\n".join(line for line in lines if line.partition("==")[0] not in free) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default=sys.executable, help="interpreter")
    parser.add_argument("--free", nargs="*", default=[], help="packages of any version")
    parser.add_argument("--pre", action="store_true", help="pre-releases of those too")
    parser.add_argument("tests", nargs="*", default=["tests"], help="for pytest")
    asked = parser.parse_args()
    os.environ.pop("PYTHONPATH", None)
    with tempfile.TemporaryDirectory() as name:
        allowed = Path(name, "constraints.txt")
        allowed.write_text(constraints(asked.free))
        run(asked.python, "-m", "venv", Path(name, "venv"))
        python = Path(name, "venv", "bin", "python")
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        install += ["-c", allowed, *(["--pre"] if asked.pre else [])]
        run(*install, "torch", *asked.free)
        run(*install, "--editable", f"{ROOT}[tests]")
        print(run(python, "-c", VERSIONS), end="", flush=True)
        command = [python, "-m", "pytest", "-m", "", "-q", "-n", "auto", "--dist", "worksteal"]
        return subprocess.run([*command, *asked.tests], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
