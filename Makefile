# Two commands on a fresh Debian or Ubuntu machine with Python 3.11 or later:
#   make demo   sets itself up and boots Linux from a disk that lives in another process
#   make test   sets itself up and runs every test
#
# Everything is installed in .venv; PYTHON chooses the interpreter, JOBS how many tests run at a time, PYTEST_ARGS adds
# to the test run.

PYTHON ?= python3
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.installed
DEVELOPING := $(VENV)/.developing

.PHONY: demo test quick bench lint docs tools clean

demo: $(SETUP)
	$(BIN)/bulkhead demo

test: $(DEVELOPING) tools
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup $(PYTEST_ARGS)

quick: $(DEVELOPING)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup -m "not slow" $(PYTEST_ARGS)

bench: $(DEVELOPING) tools
	$(BIN)/python -m bench

lint: $(DEVELOPING)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(SETUP)
	$(BIN)/python -m core.isa.reference docs/isa.md
	$(BIN)/python -m proto.reference docs/link.md
	$(BIN)/python -m proto.confine.reference docs/sandbox.md
	$(BIN)/python -m core.cpu.reference docs/csrs.md
	$(BIN)/python -m launcher.trace.reference docs/trace.md
	$(BIN)/python -m launcher.qmp.reference docs/qmp.md
	$(BIN)/python -m launcher.cli.reference docs/command-line.md

# What tests and benchmarks compare with or build with: Debian packages, installed only where this user may.
tools:
	@sh tests/tools.sh

$(SETUP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "bulkhead needs Python 3.11 or later; $(PYTHON) is older. Try: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { echo "python3-venv is missing: apt-get install python3-venv"; exit 1; }
	@echo "setting up $(VENV), once: about a minute"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

# What only developers need: the test runner, linters, and what the tests compare with.
$(DEVELOPING): $(SETUP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,lint]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
