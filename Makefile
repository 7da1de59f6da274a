# Each target makes the virtual environment when it is missing.
PYTHON ?= python3
BIN := .venv/bin
# pip, not uv: it also looks where a CPU build of torch may lie on disk.
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist worksteal
# Large tensors come and go at every update; without this each costs fresh pages.
export MALLOC_MMAP_THRESHOLD_ ?= 4000000000
export MALLOC_TRIM_THRESHOLD_ ?= 16000000000

.PHONY: train test test-slow lint types docs release-check clean

.venv/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) torch
	$(PIP) --editable ".[dev]"
	touch $@

train: .venv/installed
	$(BIN)/python recipes/side_by_side.py $(ARGS)

test: .venv/installed
	$(PYTEST) $(ARGS)

test-slow: .venv/installed
	$(PYTEST) -m slow $(ARGS)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/python -m mypy

docs: .venv/installed
	$(BIN)/python -m sphinx -q -W -b html docs build/docs

release-check: .venv/installed
	$(BIN)/python tests/release.py $(ARGS)

clean:
	rm -rf .venv .venv-* build dist *.egg-info
