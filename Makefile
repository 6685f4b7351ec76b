# Every target makes what it needs, on a machine that has no more than Python >= 3.11 and make.
# PYTHON=/path/to/python3.13 chooses the interpreter; VENV=dir puts the environment elsewhere.

SHELL := /bin/sh
.DEFAULT_GOAL := help

VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
# Processes that share the tests, file by file; most of them wait more than they work.
JOBS ?= 2
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# Folders that hold Python; one that is not there yet is passed over.
CODE := $(wildcard grpclb tests integration benchmarks .ci)

.PHONY: help venv demo kind kind-down test check format integration bench clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' Makefile

venv: $(STAMP)-dev ## the environment for work on the project, in .venv

demo: $(STAMP)-run ## plain grpcio and grpclb side by side over real backends, in half a minute
	@$(BIN)/python -m integration.demo $(ARGS)

kind: $(STAMP)-test ## the ClusterIP's skew beside grpclb in a Kubernetes cluster (kind-cluster/README.md)
	@$(BIN)/python -m integration.skew $(ARGS)

kind-down: $(STAMP)-test ## delete that cluster
	@$(BIN)/python -m integration.skew --down $(ARGS)

test: $(STAMP)-test ## unit and behaviour tests, under 3 minutes (ARGS='-k dns' to choose, JOBS=0 for one process)
	$(BIN)/python -m pytest tests --numprocesses $(JOBS) --dist loadfile $(ARGS)

check: $(STAMP)-dev ## ruff, mypy strict, and the direction of imports
	$(BIN)/python -m ruff check $(CODE)
	$(BIN)/python -m ruff format --check $(CODE)
	$(BIN)/python -m mypy $(CODE)
	$(BIN)/lint-imports --no-logo

format: $(STAMP)-dev ## let ruff mend and format what it can
	$(BIN)/python -m ruff check --fix $(CODE)
	$(BIN)/python -m ruff format $(CODE)

integration: $(STAMP)-integration ## tests with servers in processes of their own, killed under load
	@$(BIN)/python -m pytest integration $(ARGS) || { code=$$?; \
	  [ $$code -eq 5 ] && echo 'integration: no tests were collected' || exit $$code; }

bench: $(STAMP)-integration ## speed beside plain grpcio; writes benchmarks/RESULTS.md
	$(BIN)/python -m benchmarks $(ARGS)

clean: ## remove the environment, the caches and what the demo wrote
	rm -rf $(VENV) .venv-xds .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis \
	  .ci/reports .ci/tools demo-output kind-cluster/output dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A missing or dangling interpreter (the system's Python was replaced) makes the environment anew.
$(BIN)/python:
	@for py in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11 python; do \
	  if "$$py" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	  then echo "making $(VENV) with $$("$$py" -V)"; exec "$$py" -m venv --clear $(VENV); fi; \
	done; \
	echo 'grpclb needs Python 3.11 or newer with its venv module (on Debian: python3-venv);' >&2; \
	echo 'if it is not on PATH: make PYTHON=/path/to/python3 ...' >&2; exit 1

# One stamp for each set of packages: made again when pyproject.toml changes, else nothing to do.
$(STAMP)-run: pyproject.toml | $(BIN)/python
	$(PIP) install --editable .
	@touch $@

$(STAMP)-test: pyproject.toml | $(BIN)/python
	$(PIP) install --editable '.[test]'
	@touch $@ $(STAMP)-run

$(STAMP)-integration: pyproject.toml | $(BIN)/python
	$(PIP) install --editable '.[integration]'
	@touch $@ $(STAMP)-test $(STAMP)-run

$(STAMP)-dev: pyproject.toml | $(BIN)/python
	$(PIP) install --editable '.[dev]'
	@touch $@ $(STAMP)-test $(STAMP)-run
