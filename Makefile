# Two commands do everything on a fresh machine: `make demo` and `make test`.
# Each makes .venv and installs the locked dependencies itself.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := UV_PYTHON_DOWNLOADS=never UV_PROJECT_ENVIRONMENT=$(VENV) $(BIN)/uv
ARGS ?=

.PHONY: help demo test audit lint types unit format bench site lock clean

help:
	@echo "make demo   the main job on this machine: broker, worker, real flights, a live table"
	@echo "            ARGS=\"--events 5000\" makes it short, ARGS=--flood saturates the worker"
	@echo "make test   formatting, lint, types and the whole test suite"
	@echo "make audit  known vulnerabilities in the locked runtime dependencies"
	@echo "make unit   the tests alone; ARGS=\"tests/topics -k time\" chooses"
	@echo "make bench  job J beside bare River and plain Faust"
	@echo "make site   the documentation as a site in var/site"
	@echo "make format, make lint, make types, make lock, make clean"

$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Headrace needs Python 3.11 or newer: make PYTHON=python3.12 demo"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "install Python's venv module (Debian: apt-get install python3-venv)"; exit 1; }
	@$(BIN)/pip install --quiet --disable-pip-version-check 'uv>=0.8,<1'

$(VENV)/.demo: $(BIN)/uv pyproject.toml uv.lock
	$(UV) sync --frozen --inexact --compile-bytecode --no-dev --extra demo
	@touch $@

$(VENV)/.test: $(BIN)/uv pyproject.toml uv.lock
	$(UV) sync --frozen --inexact --compile-bytecode --extra demo --extra bench
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo
	@$(BIN)/headrace demo $(ARGS)

test: lint types unit

audit: $(BIN)/uv
	@$(BIN)/python .ci/audit.py

lint: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.test
	$(BIN)/mypy

unit: $(VENV)/.test
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

format: $(VENV)/.test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.test
	PYTHONPATH=tests $(BIN)/python -m brokers $(BIN)/python -m loadtest.job_j $(ARGS)

site: $(VENV)/.test
	@$(BIN)/python docs/site.py

lock: $(BIN)/uv
	$(UV) lock

clean:
	rm -rf $(VENV) var .mypy_cache .ruff_cache .pytest_cache .hypothesis
