# Two commands do all the set-up: `make quickstart` and `make test`.
# Needs Python 3.11 or newer (as transformers does), make and a package index.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Additional pip arguments for installing PyTorch. On a machine without an NVIDIA GPU, PyTorch's CPU builds are
# much smaller: make setup TORCH_PIP_ARGS="--index-url URL", with the CPU URL from pytorch.org/get-started.
TORCH_PIP_ARGS ?=
RUN_ARGS ?=
# Number of pytest processes; 0 runs the tests in the main process.
TEST_WORKERS ?= 2

.PHONY: help setup quickstart test test-all check gpu coverage lint format types layers validate docs matrix clean

help:  ## List the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /	/' | sort

setup: $(VENV)/.installed  ## Make .venv and install everything at its tested version

$(VENV)/.installed: requirements.txt requirements-dev.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; make setup PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH_PIP_ARGS) torch -c constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-dev.txt -c constraints.txt
	touch $@

quickstart: setup  ## Train, score and export the embedded example: no network, no GPU
	$(BIN)/python train.py --config configs/quickstart.yaml $(RUN_ARGS)

test: setup check  ## Set up, then run the whole default check

check: lint layers types validate  ## Run the whole default check in an environment that is already set up
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadscope

test-all: setup check  ## Run the default check and the slow tests
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadscope -m 'slow and not gpu and not network'

gpu: setup  ## With an NVIDIA GPU: compare results with the CPU, then measure speed against other trainers
	$(BIN)/python -m pytest -n 0 -m gpu tests/gpu
	$(BIN)/python perf/gpu.py --output outputs/gpu.json

coverage: setup  ## Report which lines of utils/ the default tests run
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadscope --cov=utils --cov-report=term-missing:skip-covered

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

layers:
	$(BIN)/lint-imports

types:
	$(BIN)/mypy

validate:
	$(BIN)/python validate_config.py --all

format:  ## Format, and fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs:  ## Rebuild docs/configuration.md from the sections' docstrings
	$(BIN)/python -m utils.run_config.reference > docs/configuration.md

site:  ## Build the documentation site into outputs/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet -f docs/site/mkdocs.yml

matrix:  ## Run every method on every family on tiny models and rewrite docs/support_matrix.md (under 25 minutes)
	$(BIN)/python scripts/support_matrix.py

clean:  ## Remove caches; outputs/ and .venv stay
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
