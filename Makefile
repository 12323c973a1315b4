# The steps of CI and of a laptop. `make demo` and `make test` set up everything they need.

PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11,\
	$(shell $(name) -c 'import sys; (3, 11) <= sys.version_info < (3, 14) and print("$(name)")' 2>/dev/null)))
UV_VERSION := 0.13.9
BIN := .venv/bin

# uv does not read pip's settings: where pip was told of wheels or an index, uv is told too.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif

.PHONY: help install demo up down docs test test-all chaos bench lint format lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

install: .venv/installed ## the locked environment in .venv

.venv/installed: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Tierhouse needs Python 3.11, 3.12 or 3.13. Install one, or say PYTHON=/path/to/python."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing the locked packages into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

demo: install ## the whole way on real data: load, features, models, tiers
	@$(BIN)/tierhouse demo

up: install ## start the warehouse, Airflow, MLflow and the dashboard
	@$(BIN)/tierhouse up

down: install ## stop them
	@$(BIN)/tierhouse down

docs: install ## a page about every table and column, and what is made from which
	@$(BIN)/tierhouse docs

test: install lint ## everything that must hold, under 15 minutes
	@$(BIN)/python -m pytest -m "not slow and not chaos" -n 2 --dist loadfile --no-loadscope-reorder

test-all: install lint ## and the slow suites
	@$(BIN)/python -m pytest

chaos: install ## everything that may be killed at a bad moment, at every moment
	@$(BIN)/python -m pytest -m "chaos or not slow" tests/chaos

bench: install ## how fast loads, builds and models are, beside the least they could take
	@$(BIN)/python -m bench.loading
	@$(BIN)/python -m bench.features
	@$(BIN)/python -m bench.publishing
	@$(BIN)/python -m bench.modelling
	@$(BIN)/python -m bench.sequence
	@$(BIN)/python -m bench.tiers

lint: install ## style, types, SQL and the import rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/sqlfluff lint dbt_project/models
	@$(BIN)/yamllint --strict .
	@$(BIN)/codespell

format: install ## mend what can be mended by itself
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format .
	@$(BIN)/sqlfluff fix --quiet dbt_project/models

# Exact pins for Python 3.11 to 3.13 on Linux and macOS. torch says itself which CUDA packages it
# needs, exactly; leaving them out lets the same lock install a CPU or a CUDA build.
lock: ## requirements.lock anew from pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet uv==$(UV_VERSION)
	@UV_FIND_LINKS= $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --upgrade \
		--all-extras --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
		pyproject.toml | grep -vE '^(nvidia-|cuda-|triton==)' > requirements.lock

clean: ## stop what runs and remove .tierhouse and .venv
	@test ! -x $(BIN)/tierhouse || $(BIN)/tierhouse down
	@test ! -L .tierhouse/postgres || rm -rf "$$(readlink .tierhouse/postgres)"
	@rm -rf .tierhouse .venv
