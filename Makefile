# `make demo` shows the whole job on embedded models; `make test` checks the tree, and `make test-all` more models of the same kinds.
# Each installs what it needs into .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all test-lowest lint types systems floors docs install clean

install: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@$(BIN)/python -c 'import importlib.metadata as m; print("tensorrt-rtx-cu12", m.version("tensorrt-rtx-cu12"), "is installed under the NVIDIA software licence agreement for TensorRT: see docs/tensorrt.md")' 2>/dev/null || true
	touch $@

demo: install
	$(BIN)/vitedge demo

PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal   # two workers of two threads each would wait for one another

test: install lint types floors
	$(PYTEST) -m "not slow"

test-all: install lint types systems floors   # with the tests marked slow: more models and options of a kind that `make test` has
	$(PYTEST)

test-lowest: install   # gigabytes of packages and half an hour for each environment: docs/systems.md
	$(BIN)/python -m benchmarks.environments --python 3.10 --resolution lowest-direct
	$(BIN)/python -m benchmarks.environments --python 3.13 --resolution lowest-direct
	$(BIN)/python -m benchmarks.environments --python 3.10 --resolution highest
	$(BIN)/python -m benchmarks.environments --python 3.13 --resolution highest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

systems: install   # what the standard library lacks on Windows and macOS
	$(BIN)/mypy --platform win32 --cache-dir .mypy_cache/win32 --package vitedge
	$(BIN)/mypy --platform darwin --cache-dir .mypy_cache/darwin --package vitedge

floors: install
	$(BIN)/lint-imports

docs: install
	$(BIN)/python -m tests.cli_docs
	$(BIN)/python -m tests.api_docs
	$(BIN)/python -m tests.readme_table
	$(BIN)/python -m tests.page_tables
	$(BIN)/python -m tests.schemas

clean:
	rm -rf .venv demo-out build dist *.egg-info
