# `make demo` and `make test` do all their own set-up; they need Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST_WORKERS ?= 3

.DEFAULT_GOAL := help
.PHONY: help demo test servers lint format bench bench-transfer docs clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## write and read artifacts of a run in a local folder, in under a minute
	@$(BIN)/python examples/demo.py

# Hundreds of processes import the same modules: these are compiled once, whatever is set.
test: $(VENV)/.dev servers ## run every test against real servers on this machine
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadgroup $(PYTEST_ARGS)

servers: ## install the servers that the tests start (Debian packages and one of npm's)
	@bash tests/servers/install.sh || { \
	  if [ "$$CI" = true ]; then exit 1; fi; \
	  echo "Some servers could not be installed: the tests that need them will be skipped."; }

lint: $(VENV)/.dev ## ruff, mypy --strict and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(VENV)/.dev ## let ruff format and mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev ## measure against the raw drivers, side by side
	$(BIN)/python -m benchmarks

bench-transfer: $(VENV)/.dev ## measure transfers beside MLflow, drivers and others, for hours
	$(BIN)/python -m benchmarks.transfer

docs: $(VENV)/.dev ## run the snippets of the README and the docstrings
	$(BIN)/python -m pytest tests/test_readme.py -q

clean: ## remove what the other targets made
	rm -rf $(VENV) demo-artifacts build dist *.egg-info

# uv resolves in seconds what older pips try for minutes.
$(BIN)/uv:
	$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check uv

$(VENV)/.demo: setup.cfg | $(BIN)/uv
	@echo "Installing pandas, pyarrow and this package into $(VENV) ..."
	@$(BIN)/uv pip install -q --python $(BIN)/python -e '.[demo]'
	@touch $@

$(VENV)/.dev: setup.cfg | $(BIN)/uv
	$(BIN)/uv pip install -q --python $(BIN)/python -e '.[dev]'
	@touch $@ $(VENV)/.demo
