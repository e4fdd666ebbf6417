# Everything a fresh machine needs is Python 3.11 to 3.13 and make. `make help` lists the targets.

PYTHON ?= python3
WORKERS ?= 2
PACKAGES = probinf smc transformers_gmm continual

BIN = .venv/bin
NEWEST_BIN = .venv312/bin
# `make test NEWEST=0` leaves out the second lane (newest JAX on Python 3.12).
NEWEST ?= 1
# What depends on JAX's less stable parts or has failed with a new JAX before; under 5 minutes once compiled.
# `make newest NEWEST_TESTS=tests` runs everything there, in twice the time.
NEWEST_TESTS ?= tests/test_language_density.py tests/test_language_forward.py tests/test_language_loops.py \
    tests/test_population_exact.py tests/test_enumeration.py tests/test_smc2.py tests/test_numpyro_models.py \
    tests/test_smc_method.py tests/test_streaming_filter.py tests/test_nuts.py

SHELL = /bin/sh
.DEFAULT_GOAL = help
.PHONY: help demo test lint format types unit newest nightly bench peers docs lock clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 18

demo: .venv/.installed ## run the main job: fuse a real recording, print the table, save the pictures
	$(BIN)/python -m examples.outdoor_uwb

test: lint types unit ## what CI runs: lint, types, fast tests; then the tests on Python 3.12 with the newest JAX
	@if [ "$(NEWEST)" = 1 ]; then $(MAKE) --no-print-directory newest; fi

lint: .venv/.installed ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/.installed ## repair style and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: .venv/.installed ## check types
	$(BIN)/basedpyright

unit: .venv/.installed ## run the fast tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --durations 25 -m "not slow"

newest: ## run NEWEST_TESTS on Python 3.12 with the newest JAX, if there is a Python 3.12
	@python312=$$($(FIND_312)); \
	if [ -z "$$python312" ]; then \
	    echo "newest: no working Python 3.12 found; this lane is left out."; \
	else \
	    $(MAKE) --no-print-directory .venv312/.installed PYTHON312="$$python312" && \
	    $(NEWEST_BIN)/python -m pytest -n $(WORKERS) --dist worksteal --durations 25 -m "not slow" $(NEWEST_TESTS); \
	fi

nightly: .venv/.installed bench ## run every test, the slow ones too, and all benchmarks
	XLA_FLAGS= HYPOTHESIS_PROFILE=nightly $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

bench: .venv/.installed ## run the benchmarks; results go to benchmarks/results
	@mkdir -p benchmarks/results
	$(BIN)/python -m benchmarks.main_job --json benchmarks/results/main_job.json
	$(BIN)/python -m benchmarks.mutants --json benchmarks/results/mutants.json
	$(BIN)/python -m benchmarks.validity --json benchmarks/results/validity.json
	$(BIN)/python -m benchmarks.trans_dimensional --json benchmarks/results/trans_dimensional.json
	$(BIN)/python -m benchmarks.calibration --json benchmarks/results/calibration.json
	$(BIN)/python -m benchmarks.resume --json benchmarks/results/resume.json
	$(BIN)/python -m benchmarks.sharding --json benchmarks/results/sharding.json
	$(BIN)/python -m benchmarks.tables

peers: .venv/.installed ## measure filters, samplers and streaming beside other packages, in an environment with them
	@[ -x .venv-peers/bin/python ] || $(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install -qq --editable . -r benchmarks/requirements-peers.txt
	.venv-peers/bin/python -m pip install -qq --no-deps particles==0.4  # it asks for NumPy 1 and runs with 2
	.venv-peers/bin/python -m benchmarks.smc --json benchmarks/results/smc.json
	.venv-peers/bin/python -m benchmarks.streaming --json benchmarks/results/streaming.json

docs: .venv/.installed ## build the pages into site/
	$(BIN)/python -m pip install --quiet --constraint requirements-dev.lock mkdocs-material
	$(BIN)/mkdocs build --strict

lock: ## resolve the dependencies again and rewrite both lock files
	rm -rf .venv-lock
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --editable '.[dev]'
	.venv-lock/bin/python -m pip freeze --exclude-editable > requirements-dev.lock
	rm -rf .venv-lock
	@python312=$$($(FIND_312)); \
	if [ -z "$$python312" ]; then echo "lock: no working Python 3.12; requirements-newest.lock is as it was."; exit 0; fi; \
	"$$python312" -m venv .venv-lock && \
	.venv-lock/bin/python -m pip install --quiet --editable '.[test]' hatchling editables && \
	.venv-lock/bin/python -m pip freeze --exclude-editable > requirements-newest.lock && \
	rm -rf .venv-lock

clean: ## remove environments, caches and built pages
	rm -rf .venv .venv312 .venv-lock .cache .pytest_cache .ruff_cache .hypothesis build dist site
	find $(PACKAGES) tests -name __pycache__ -type d -prune -exec rm -rf {} +

# A pyenv shim named python3.12 may exist and fail, so a candidate counts only if it runs.
define FIND_312
for candidate in python3.12 "$$(pyenv root 2>/dev/null)"/versions/3.12*/bin/python3.12; do \
    if "$$candidate" -c '' >/dev/null 2>&1; then echo "$$candidate"; break; fi; \
done
endef

.venv/.installed: requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || { \
	    echo "probinf needs Python 3.11, 3.12 or 3.13; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)."; \
	    echo "Name another interpreter: make PYTHON=python3.11 TARGET"; exit 1; }
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv || { \
	    rm -rf .venv; echo "'$(PYTHON) -m venv' failed: see the message above (Debian: install python3-venv)."; exit 1; }
	@echo "Installing into .venv (once; about a minute) ..."
	$(BIN)/python -m pip install -qq --disable-pip-version-check -r requirements-dev.lock
	$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.venv312/.installed: requirements-newest.lock pyproject.toml
	@[ -x $(NEWEST_BIN)/python ] || "$(PYTHON312)" -m venv .venv312 || { rm -rf .venv312; exit 1; }
	@echo "Installing into .venv312 (once; about a minute) ..."
	$(NEWEST_BIN)/python -m pip install -qq --disable-pip-version-check -r requirements-newest.lock
	$(NEWEST_BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
