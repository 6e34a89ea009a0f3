# Two commands matter: `make up` and `make test`. Each sets up all it needs; Python 3.11+ with venv and pip is enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: up down test test-long quick lint types imports bench build-check gpu-check faults load schemas models clean

$(VENV)/.base: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "advisor needs Python 3.11 or newer; set PYTHON=")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Setting up advisor in $(VENV) ..." >&2
	@$(PIP) -e .
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.base
	@echo "Setting up the development tools ..." >&2
	@$(PIP) -e '.[dev]'
	@touch $@

up: $(VENV)/.base
	@$(BIN)/advisor up $(MODEL)

down: $(VENV)/.base
	@$(BIN)/advisor down --all

lint: $(VENV)/.dev
	$(BIN)/ruff check advisor tests examples benchmarks
	$(BIN)/ruff format --check advisor tests examples benchmarks

types: $(VENV)/.dev
	$(BIN)/mypy

imports: $(VENV)/.dev
	$(BIN)/lint-imports

# What takes one core and measures nothing runs beside each other; servers and quantizers each have the machine alone,
# since libraries that two of them share would be counted by halves.
quick: lint types imports
	$(BIN)/pytest -n auto --dist worksteal -m "not slow"

test: quick
	$(BIN)/pytest -n auto --dist worksteal -m "slow and beside and not long"
	$(BIN)/pytest -m "slow and not beside and not long"

test-long: $(VENV)/.dev
	$(BIN)/pytest -m long

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/run.py

build-check: $(VENV)/.dev
	$(BIN)/advisor env build llama.cpp --provider build
	$(BIN)/python benchmarks/run.py providers --write docs/measured/build.md

gpu-check: $(VENV)/.dev
	$(BIN)/python benchmarks/gpu_check.py

faults: $(VENV)/.dev
	$(BIN)/python benchmarks/faults.py --write docs/measured/faults.md
	$(BIN)/python benchmarks/sequences.py --add docs/measured/faults.md
	$(BIN)/python benchmarks/supervision.py --add docs/measured/faults.md

load: $(VENV)/.dev
	$(BIN)/python benchmarks/load.py --write docs/measured/load.md

schemas: $(VENV)/.dev
	$(BIN)/python -m advisor.facts.schemas docs/schemas

models: $(VENV)/.dev
	$(BIN)/python -c "from advisor.model import bundled; bundled.write_index()"

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache dist build
