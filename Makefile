# Commands for a fresh machine that has git, make and Python 3.11 or newer:
#   make demo        install what the library needs, then compare classifiers on real digits
#   make test        install the test tools and all extras as well, then run the tests but for the slow ones
#   make test-all    run every test (make test-slow: those that make test leaves out)
#   make test-oldest run some of the tests with the oldest versions that pyproject.toml allows
#   make lint        ruff (lint and format) and mypy
#   make audit       look for known vulnerabilities of the pinned versions
#   make clean       remove the environments and what the tools leave behind
# Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Versions come from constraints.txt alone. torch is named there as well, so that pip never weighs another build of it.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
PINNED := $(shell grep '^torch==' constraints.txt)
SPEC := pyproject.toml constraints.txt
# One thread per process: two busy processes with two OpenMP threads each slow one another down.
# Each begins with half of the files, so that what the tests of a file share is made once.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

OLDEST := $(VENV)-oldest
OLDEST_TESTS := $(addprefix tests/,data models/test_models.py house/test_import.py house/test_plots.py \
	house/test_saved_files.py evaluation/test_compare.py evaluation/test_diagnostics.py training/test_resume.py \
	port/test_parity.py examples/test_flags.py)

.PHONY: demo test test-slow test-all test-oldest lint audit clean

demo: $(VENV)/.installed-runtime
	$(BIN)/python examples/semi_supervised.py

test: $(VENV)/.installed-test
	$(PYTEST) -m "not slow"

test-slow: $(VENV)/.installed-test
	$(PYTEST) -m slow

test-all: $(VENV)/.installed-test
	$(PYTEST)

# Warnings are no errors here: old packages warn of what new ones, which they depend on, will change.
test-oldest:
	$(PYTHON) -m venv $(OLDEST)
	$(PYTHON) tests/oldest.py > $(OLDEST)/oldest.txt
	$(OLDEST)/bin/pip install --quiet --disable-pip-version-check -c $(OLDEST)/oldest.txt -e '.[numpyro,diagnostics,test]'
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -q -n 2 -p no:budget \
		-m "not slow" -W default --disable-warnings $(OLDEST_TESTS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# In an environment of its own: what it needs is none of the project's business. It asks PyPI, and fails (--strict)
# where a package is not found there: one that was not looked up is not known to be safe.
audit:
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	$(VENV)-audit/bin/pip-audit --requirement constraints.txt --disable-pip --no-deps --strict

clean:
	rm -rf $(VENV) $(VENV)-audit $(OLDEST) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "PYTHON should be Python 3.11 or newer, was $(PYTHON): $$($(PYTHON) -V 2>&1)"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# The stamps are newer than $(SPEC) after an install, so a second `make` installs nothing.
$(VENV)/.installed-runtime: $(SPEC) | $(BIN)/python
	$(PIP) $(PINNED) -e .
	@touch $@

$(VENV)/.installed-test: $(SPEC) | $(BIN)/python
	$(PIP) $(PINNED) -e '.[numpyro,diagnostics,test]'
	@touch $@ $(VENV)/.installed-runtime

# mypy reads the types of what the package imports, so the linters need the extras as well.
$(VENV)/.installed-dev: $(SPEC) | $(BIN)/python
	$(PIP) $(PINNED) -e '.[numpyro,diagnostics,dev]'
	@touch $@ $(VENV)/.installed-runtime
