"""The house: who imports whom, what ships, what is written where."""

from __future__ import annotations

import ast
import configparser
import importlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import torchrl_alita

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "torchrl_alita"
# design: imports go only downward.
LEVELS = {
    "_checks": -1,
    "_version": 0, "_extras": 0, "_settings": 0, "_agents": 0, "_borrow": 0, "functional": 0,
    "_modes": 0,
    "layout": 0,
    "team": 1, "modules": 1, "envs": 1, "data": 1, "metrics": 1,
    "optim": 2,
    "transforms": 2, "objectives": 2, "exact": 2,
    "algorithms": 3,
    "saving": 4,
    "training": 5,
    "experiments": 6,
    "contrib": 6,
    "__main__": 7,
}  # fmt: skip
OPTIONAL = ("vmas", "wandb", "tyro", "matplotlib", "PIL", "tqdm", "tensorboard", "gym")
SOURCES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = [*sorted((ROOT / "recipes").glob("*.py")), *sorted((ROOT / "benchmarks").rglob("*.py"))]


def imports(path: Path) -> list[tuple[str, list[str]]]:
    """Modules imported anywhere in a file, with the names taken from them."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, []) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.module, [alias.name for alias in node.names]))
    return found


def room(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "torchrl_alita" and len(parts) > 1 else None


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_only_downward(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    for module, names in imports(path):
        rooms = {room(module)} if room(module) else set()
        if module == "torchrl_alita":
            rooms = {name for name in names if name in LEVELS}
        for other in rooms - {own}:
            allowed = LEVELS[other] < LEVELS[own] or LEVELS[own] == LEVELS[other] == 1
            assert allowed, f"{own} imports {other}"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_scripts_import_only_public_names(path):
    for module, names in imports(path):
        if module.split(".")[0] != "torchrl_alita":
            continue
        public = importlib.import_module(module).__all__
        assert set(names) <= set(public), module
        assert not any(part.startswith("_") for part in module.split(".")), module


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_constructor_has_more_than_a_dozen_arguments(path):
    """What has more options is settings, a dataclass."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef):
            for method in node.body:
                if getattr(method, "name", None) == "__init__":
                    given = [*method.args.posonlyargs, *method.args.args, *method.args.kwonlyargs]
                    assert len(given) - 1 <= 12, node.name


@pytest.mark.parametrize(
    "path", sorted((PACKAGE / "objectives").glob("*.py")), ids=lambda p: p.name
)
def test_a_loss_or_a_part_of_one_has_at_most_300_lines(path):
    assert len(path.read_text().splitlines()) <= 300


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_the_library_asserts_nothing_and_leaves_nothing_unfinished(path):
    text = path.read_text()
    assert not [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Assert)]
    assert not re.search(r"\b(TODO|FIXME|XXX|NotImplementedError)\b", text)


def test_every_public_name_is_documented_with_source_and_example():
    for name in torchrl_alita.__all__:
        if name == "__version__":
            continue
        text = getattr(torchrl_alita, name).__doc__
        assert ">>>" in text, name
        if name not in ("make_env", "DDPG"):
            assert "arxiv.org/abs" in text, name


def test_the_package_imports_without_its_extras_and_names_the_one_that_is_missing():
    code = f"""
import sys
sys.modules.update(dict.fromkeys({OPTIONAL!r}))
import torchrl_alita
import torchrl_alita.training as training
for call in (
    lambda: torchrl_alita.make_env("vmas/spread"),
    lambda: training.train(training.Config(task="push_box")),
):
    try:
        call()
    except ImportError as error:
        print(error)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert '"torchrl_alita[vmas]"' in result.stdout
    assert '"torchrl_alita[recipes]"' in result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(out), str(ROOT)],
        check=True,
        capture_output=True,
    )
    return next(out.glob("*.whl"))


def test_the_wheel_holds_the_package_its_types_marker_and_license_alone(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "torchrl_alita/py.typed" in names
    assert "torchrl_alita/contrib/benchmarl/conf/algorithm/alita.yaml" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    modules = {str(path.relative_to(ROOT)) for path in SOURCES}
    assert modules == {name for name in names if name.endswith(".py")}


def test_the_wheel_installs_and_imports_from_where_it_was_put(wheel, tmp_path):
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path),
         str(wheel)],
        check=True,
        capture_output=True,
    )  # fmt: skip
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import torchrl_alita as t; "
    code += "print(t.__file__, t.__version__)"
    result = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert result.stdout.startswith(str(tmp_path))
    assert result.stdout.strip().endswith(torchrl_alita.__version__)


def test_constraints_fix_a_version_of_every_requirement():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["options"]["install_requires"].split("\n")
    for extra in config["options.extras_require"].values():
        lines += extra.split("\n")
    required = {re.split(r"[<>=\[]", line)[0].lower() for line in lines if line.strip()}
    fixed = {
        line.split("==")[0].lower()
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    assert required - {"torchrl_alita"} <= fixed


def test_the_readmes_lines_run_as_they_stand():
    """They end with a gradient, of the actors and the autoencoder too."""
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S).group(1)
    names = {}
    exec(code, names)
    for trained in (names["maddpg"].actor_network_params, names["autoencoder"]):
        assert all(p.grad.isfinite().all() for p in trained.parameters() if p.grad is not None)
        assert any(p.grad is not None and p.grad.any() for p in trained.parameters())
    assert "loss_influence" in names["losses"].keys()  # noqa: SIM118
