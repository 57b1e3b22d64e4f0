# Two commands matter: `make book` and `make test`. `make` alone lists them all.
PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
RUN := PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
PYTEST := $(ONE_THREAD) $(RUN) -m pytest -n 2 --dist loadscope --no-loadscope-reorder
NBVAL := --nbval-lax --nbval-current-env --nbval-cell-timeout=300 \
	--nbval-sanitize-with tests/notebooks/sanitize.cfg
PIP := $(BIN)/python -m pip install --disable-pip-version-check $(PIP_ARGS)

.NOTPARALLEL:
.PHONY: help book serve test check lint execute exercises bench publish-to clean

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

book: $(VENV)/.book  ## build the HTML book and print where it is
	@# From scratch: Sphinx repeats no warning for pages it has built before, and keeps old ones.
	rm -rf _build
	$(BIN)/jupyter-book build . -n -W --keep-going
	@echo "The book is at $(CURDIR)/_build/html/index.html"

serve:  ## open the built book in the browser
	$(RUN) -m tools.serve

test: $(VENV)/.test book  ## run everything: package, notebooks, exercises, the book in a browser
	$(RUN) -m qtools.cli data
	CHROMIUM="$$($(RUN) -m tools.chromium)" && export CHROMIUM && \
	$(PYTEST) $(NBVAL) --doctest-modules book/[0-9][0-9]_*.ipynb tests qtools

check: $(VENV)/.test lint  ## lint, types, unit and structure tests: the edit loop
	$(PYTEST) -m "not slow" --ignore tests/browser --doctest-modules tests qtools

lint: $(VENV)/.test  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

execute: $(VENV)/.test  ## run the notebooks (or NB=book/02_affine_quantization.ipynb), store outputs
	$(ONE_THREAD) $(RUN) -m tools.notebooks execute $(NB)
	$(RUN) -m tools.ledger

exercises: $(VENV)/.test  ## generate the students' notebooks from their sources
	$(RUN) -m tools.exercises

bench: $(VENV)/.test  ## run the benchmarks, one thread
	set -e; for script in benchmarks/[a-z]*.py; do \
	  $(ONE_THREAD) $(RUN) -m benchmarks.$$(basename $$script .py); done

publish-to: $(VENV)/.book  ## make REPO=owner/name the book's home: links, badges, first cells
	@$(BIN)/python -m tools.notebooks publish-to "$(REPO)"

clean:  ## remove what was built, keep .venv
	rm -rf _build build .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The stamps hold the moment of the last installation: a second run installs nothing.
$(VENV)/bin/python:
	$(PYTHON) tools/python_version.py
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.book: book/requirements.txt | $(VENV)/bin/python
	$(PIP) -r book/requirements.txt
	@touch $@

NATIVE := $(wildcard qtools/kernels/*.[ch])
$(VENV)/.test: requirements.txt book/requirements.txt pyproject.toml $(NATIVE) | $(VENV)/bin/python
	$(PIP) -r requirements.txt
	$(PIP) --no-deps -e .
	@touch $@ $(VENV)/.book
