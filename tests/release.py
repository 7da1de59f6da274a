"""What a release must do: build, and install into an empty environment with each extra alone.

    python tests/release.py              # or: make release-check
    python tests/release.py --extras vmas wandb

torch and TorchRL are installed once; each extra then has an environment of its own above them, in
which a line is run that needs the extra. Versions are those of constraints.txt. It needs an index
of packages, and takes some minutes.
"""

from __future__ import annotations

import argparse
import configparser
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAKE = "from torchrl_alita import make_env; make_env({!r}, num_envs=1, seed=0).rollout(2)"
# What must run with an extra, and the package that tells that it was installed.
LINES = {
    "": "from torchrl_alita import make_env; make_env('push_box', num_envs=2, seed=0).rollout(2)",
    "vmas": MAKE.format("vmas/spread"),
    "wandb": "import wandb",
    "smax": "from torchrl_alita.envs import get_task; get_task('smax/2s3z')",
    "pettingzoo": MAKE.format("mpe2/simple_spread_v3"),
    "mamujoco": MAKE.format("mamujoco/Swimmer-2x1"),
    "foraging": MAKE.format("lbforaging/Foraging-10x10-3p-3f-v3"),
    "pybullet": MAKE.format("pybullet/InvertedPendulumBulletEnv-v0"),
    "baselines": "import stable_baselines3, sb3_contrib",
    "recipes": "from torchrl_alita.__main__ import main; "
    "assert main(['train', 'iql', '--task', 'push_box', '--total-frames', '2000', '--num-envs', "
    "'10', '--algorithm.random-frames', '500', '--no-progress', '--run-dir', 'run']) == 0",
    "ray": "import ray",
    "slurm": "import submitit",
    "tests": "import pytest, hypothesis, build, vmas, jaxmarl, wandb",
    "docs": "import sphinx, furo, myst_parser, sphinx_copybutton",
    "dev": "import ruff, mypy, pre_commit, sphinx, pytest",
}
# What the source distribution holds beside the package.
SHIPPED = (
    "CHANGELOG.md", "CITATION.cff", "LICENSE", "README.md", "constraints.txt", "setup.cfg",
    "tests/fakes.py", "tests/test_golden.py", "recipes/alita.py", "docs/index.md",
)  # fmt: skip


def run(*command: str | Path, cwd: Path | None = None) -> str:
    result = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
    if result.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{result.stdout}{result.stderr}")
    return result.stdout


def build(folder: Path) -> tuple[Path, Path]:
    """The source distribution, and the wheel that is built from it."""
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT)
    (source,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    if lacking := set(SHIPPED) - names:
        raise SystemExit(f"{source.name} lacks {sorted(lacking)}.")
    foreign = [n for n in zipfile.ZipFile(wheel).namelist() if not n.startswith("torchrl_alita")]
    if foreign:
        raise SystemExit(f"{wheel.name} holds {foreign}.")
    run(sys.executable, "-m", "twine", "check", "--strict", source, wheel)
    return source, wheel


def make_environment(path: Path, below: Path | None = None) -> Path:
    """An empty environment, or one that sees what another one has; its interpreter."""
    run(sys.executable, "-m", "venv", path)
    python = path / "bin" / "python"
    if below is not None:
        code = "import sysconfig; print(sysconfig.get_path('purelib'))"
        own = Path(run(python, "-c", code).strip())
        (own / "below.pth").write_text(run(below, "-c", code))
    return python


def install(python: Path, *what: str) -> None:
    options = ("--quiet", "--disable-pip-version-check", "-c", ROOT / "constraints.txt")
    run(python, "-m", "pip", "install", *options, *what)


def extras() -> list[str]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return list(config["options.extras_require"])


def main() -> None:
    known = extras()
    if lacking := set(known) - LINES.keys():
        raise SystemExit(f"LINES has nothing for the extras {sorted(lacking)}.")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--extras", nargs="*", choices=known, default=known)
    asked = parser.parse_args().extras
    os.environ.pop("PYTHONPATH", None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, wheel = build(folder / "dist")
        print(f"built {source.name} and {wheel.name}; twine accepts both", flush=True)
        base = make_environment(folder / "base")
        install(base, "torch")
        install(base, str(wheel))
        print(run(base, "-c", LINES[""], cwd=folder), end="")
        print("installed without extras", flush=True)
        for extra in asked:
            path = folder / extra
            python = make_environment(path, below=base)
            install(python, f"{wheel}[{extra}]")
            run(python, "-W", "ignore", "-c", LINES[extra], cwd=path)
            run(python, "-m", "pip", "check", "--disable-pip-version-check")
            shutil.rmtree(path)
            print(f"installed with {extra}", flush=True)


if __name__ == "__main__":
    main()
