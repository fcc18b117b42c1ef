# patchd: every habit of working on it. `make` alone, or `make help`, lists them.
#
# PYTHON=python3.12   the interpreter that .venv is made from (3.11 or newer)
# CLIENTS_PYTHON=...   the interpreter that .venv-clients is made from, .venv's by default (3.11 to 3.13)
# PIP_ARGS=...        passed on to pip, for instance an index with CPU builds of torch: docs/dependencies.md

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Public clients that tests talk through, apart from patchd: they ask for versions that it cannot use.
CLIENTS := .venv-clients
CLIENTS_STAMP := $(CLIENTS)/.installed
CLIENTS_PYTHON ?= $(BIN)/python
TYPED := __init__.py client policies models daemon benchmarks demo examples

# The repository root is the package `patchd`, whatever the clone's folder is called: type checkers find it by this link.
LINKS := build/lint
MYPY = MYPYPATH=.:patchd/tests:patchd/benchmarks:patchd/demo ../../$(BIN)/python -m mypy \
  --config-file patchd/pyproject.toml --cache-dir patchd/.mypy_cache
# Tests need no annotations of their own, and one that meets a None fails by itself.
LOOSELY := --no-warn-unused-ignores --allow-untyped-defs --allow-incomplete-defs --allow-untyped-calls --no-warn-return-any \
  --disable-error-code union-attr --disable-error-code index

.PHONY: help demo test lint format types imports docs bench clean

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' Makefile

demo: $(STAMP) ## See patchd at work: real daemon, predictions, training, resources that change
	@$(BIN)/python demo/demo.py

test: $(STAMP) $(CLIENTS_STAMP) ## Run all tests, in two processes: tests/conftest.py says which beside which
	@$(BIN)/python -m pytest -n 2

lint: $(STAMP) ## Check style, types and who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(MAKE) --no-print-directory types imports

format: $(STAMP) ## Put the code into its one format and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP) $(LINKS)/patchd ## Check types, strictly
	cd $(LINKS) && $(MYPY) $(TYPED:%=patchd/%)
	cd $(LINKS) && $(MYPY) $(LOOSELY) patchd/tests

imports: $(STAMP) ## Check that the arrows between the packages are those of the design
	$(BIN)/lint-imports --cache-dir .import_linter_cache

docs: $(STAMP) ## Rewrite the generated parts of docs/ from the code
	$(BIN)/python -m patchd.daemon.cli.docs

bench: $(STAMP) ## Run the benchmarks (about 22 minutes); tables here, JSON in build/bench
	@mkdir -p build/bench
	@for name in status predict engines threads reaction idle capacity; do \
	  echo "== $$name"; $(BIN)/python benchmarks/$$name.py --output build/bench/$$name.json; done

clean: ## Remove the virtual environments and everything generated
	rm -rf $(VENV) $(CLIENTS) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "patchd needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 | head -1)." \
	       "Install one and name it: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "'$(PYTHON) -m venv' failed; on Debian and Ubuntu it comes with the package python3-venv." >&2; \
	  rm -rf $(VENV); exit 1; }
	@echo "Installing patchd and its dependencies into $(VENV) (torch is large: this takes a while the first time) ..."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[dev,onnx,openvino,plot]'
	@touch $@

$(CLIENTS_STAMP): constraints-clients.txt | $(STAMP)
	@echo "Installing the clients that tests talk through into $(CLIENTS) (500 MB) ..."
	@$(CLIENTS_PYTHON) -m venv --clear $(CLIENTS)
	@$(CLIENTS)/bin/python -m pip install -qq --disable-pip-version-check $(PIP_ARGS) -c constraints-clients.txt \
	  'tritonclient[http]' kserve
	@touch $@

$(LINKS)/patchd:
	@mkdir -p $(LINKS)
	@ln -sfn ../.. $@
