# make install once, then anything else; every target works on a machine that has only Python and make.

PYTHON ?= python3
TORCH ?= 2.13.0
TORCHVISION ?= 0.28.0
CONSTRAINTS ?= constraints.txt
WORKERS ?= 2
PYTEST_ARGS ?=

PY := .venv/bin/python
PIP := $(PY) -m pip install
STAMP := .venv/installed-torch-$(TORCH)-vision-$(TORCHVISION)

.DEFAULT_GOAL := help
.PHONY: help install demo test lint types unit slow bench format clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  variables: PYTHON=$(PYTHON) TORCH=$(TORCH) TORCHVISION=$(TORCHVISION) CONSTRAINTS=$(CONSTRAINTS)"
	@echo "             WORKERS=$(WORKERS) PYTEST_ARGS=$(PYTEST_ARGS)"

install: $(STAMP) ## .venv with the pinned versions; does nothing where it is up to date

# torch comes first and alone: whichever build (CPU or CUDA) the index offers is the one the rest is fitted to.
# torchvision comes without its dependencies, so that it cannot exchange that build for another.
$(STAMP): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("fsgen needs Python 3.10 or newer, $(PYTHON) is " + sys.version.split()[0] + ": make install PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(PIP) torch==$(TORCH) || { echo 'No torch $(TORCH) for this Python and platform: name another, make install TORCH=... TORCHVISION=... CONSTRAINTS='; exit 1; }
	$(PIP) --no-deps torchvision==$(TORCHVISION)
	$(PIP) $(addprefix -c ,$(CONSTRAINTS)) -e '.[dev]'
	@$(PY) -c 'import torch' || { echo 'torch $(TORCH) is installed in .venv but does not import (see above): remove .venv, or name another, make install TORCH=...'; exit 1; }
	@rm -f .venv/installed-* && touch $@

demo: install ## from a few images to samples and a report, on the embedded data
	$(PY) experiments/demo/run.py

test: install lint types unit ## everything a change has to pass

lint: install ## ruff: rules and format
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: install ## mypy over fsgen
	$(PY) -m mypy

unit: install ## tests and doctests only; PYTEST_ARGS="-k name" narrows them
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) $(PYTEST_ARGS)

slow: install ## the tests of minutes
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) -m slow --timeout 3600 $(PYTEST_ARGS)

bench: install ## every benchmark into benchmarks/results, and the tables of benchmarks/README.md; about half an hour
	@for script in benchmarks/bench_*.py benchmarks/training_curves.py; do \
		name=$$(basename "$$script" .py); echo "== $$name"; \
		$(PY) "$$script" --out "benchmarks/results/$${name#bench_}.json" || exit 1; done
	$(PY) experiments/readme.py

format: install ## rewrite the sources in the project's style
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean: ## remove .venv, build output and caches; runs/ and data/ stay
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find fsgen tests experiments benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
