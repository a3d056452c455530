# Two commands from a fresh clone: `make demo`, `make test`. The targets are what CI runs and nothing else.
#
#   demo      broker, worker, agent and camera on this machine, over a link that changes; ARGS="--seconds 20"
#   test      every test; ARGS="-k codec" picks some
#   check     ruff and mypy            fix   what ruff can mend
#   bench     the figures of speed and size
#   simulate  SEEDS=20000 seeded worlds of agents, workers, links and faults
#   install   as services of this machine, as root: UNITS=popexd-worker@cloud, WHEELS=dist/wheels
#   uninstall take them away again; ARGS=--purge the configuration too
#   wheels    everything an installation without network needs, into dist/wheels
#   deb       a Debian package of the same, into dist
#   soak      hours in minutes: four cameras, faults by seed; ARGS="--minutes 60 --seed 7"
#   fuzz      whatever reads from outside, for longer; ARGS="--seconds 600 --target tensor"
#   docs      write the generated tables of docs/reference.md again

SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.runtime
FULL := $(VENV)/.full
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

# The first Python that is new enough; PYTHON=/path/to/python says otherwise.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

.PHONY: demo test check fix bench simulate install uninstall wheels deb soak fuzz docs mosquitto clean

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

install:
	@systemd/install.sh install

uninstall:
	@systemd/install.sh uninstall $(ARGS)

wheels: $(VENV)/bin/pip
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --constraint constraints.txt --wheel-dir dist/wheels .

deb:
	@packaging/build-deb.sh

soak: $(FULL) mosquitto
	$(BIN)/python -m tests.soak $(ARGS)

fuzz: $(FULL)
	$(BIN)/python -m tests.fuzz $(ARGS)

docs: $(RUNTIME)
	$(BIN)/python docs/render.py

mosquitto:
	@broker/install-mosquitto.sh

# Debian and its relatives keep venv's heart, ensurepip, in a package of its own; without it a venv has no pip.
$(VENV)/bin/pip:
	@test -n "$(PYTHON)" || { echo "popexd needs Python 3.11 or newer: install it, or say PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is missing or too old: popexd needs Python 3.11 or newer" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		package=$(notdir $(PYTHON))-venv; \
		command -v apt-get >/dev/null || \
			{ echo "popexd needs Python's venv and ensurepip: install them from your system's packages" >&2; exit 1; }; \
		if [ "$$(id -u)" -eq 0 ]; then sudo=; elif command -v sudo >/dev/null; then sudo=sudo; else \
			echo "popexd needs the package $$package. As root, run: apt-get install $$package" >&2; exit 1; fi; \
		echo "Installing $$package with apt-get$${sudo:+ (sudo may ask for your password)}" >&2; \
		$$sudo apt-get install -y -qq $$package >/dev/null 2>&1 || \
			{ $$sudo apt-get update -qq && $$sudo apt-get install -y -qq $$package >/dev/null; } || \
			{ echo "apt-get install $$package failed: install it by hand" >&2; exit 1; }; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "$(PYTHON) -m venv $(VENV) failed" >&2; exit 1; }

$(RUNTIME): pyproject.toml constraints.txt | $(VENV)/bin/pip
	@echo "Installing popexd into $(VENV)" >&2
	$(PIP_INSTALL) .
	@touch $@

$(FULL): pyproject.toml constraints.txt | $(VENV)/bin/pip
	@echo "Installing popexd with everything for training and tests into $(VENV); torch alone takes minutes" >&2
	$(PIP_INSTALL) '.[train,plot,dev]'
	@touch $(RUNTIME) $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
