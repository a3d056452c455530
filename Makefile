# The targets are what CI runs and nothing else.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.runtime
FULL := $(VENV)/.full

.PHONY: demo test check fix bench simulate mosquitto clean

demo: $(RUNTIME) mosquitto
	$(BIN)/popexd demo $(ARGS)

test: $(FULL) mosquitto
	$(BIN)/python -m pytest -q -n 2 --dist worksteal $(ARGS)

check: $(FULL)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: $(FULL)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(FULL) mosquitto
	$(BIN)/python -m benchmarks $(ARGS)

SEEDS ?= 20000
simulate: $(RUNTIME)
	$(BIN)/popexd simulate --seeds $(SEEDS) $(ARGS)

mosquitto:
	@broker/install-mosquitto.sh

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("popexd needs Python 3.11 or newer; set PYTHON=/path/to/python3.11") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed: install the package python3-venv"; exit 1; }

$(RUNTIME): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(FULL): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[train,dev]'
	touch $@ $(RUNTIME)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
