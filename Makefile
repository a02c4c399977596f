# The commands of this project. Each one first makes .venv, or finds that it is up to date.

VENV := $(or $(FOREBEAR_VENV),.venv)
BIN := $(VENV)/bin
BENCHMARKS = $(filter-out %/bench_gradients.py,$(wildcard tests/bench/bench_*.py))
DATASET ?= openmoji

.DEFAULT_GOAL := help
.PHONY: help bootstrap demo test test-all lint bench bench-gradients constraints

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-16s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

bootstrap: ## make or refresh the virtual environment (deploy/local/bootstrap.sh)
	@bash deploy/local/bootstrap.sh

demo: bootstrap ## attribute generated emoji to their training images and write a report
	@$(BIN)/forebear demo

test: bootstrap ## run the tests
	@$(BIN)/python -m pytest

test-all: bootstrap ## run the tests and the slow ones
	@$(BIN)/python -m pytest -m ''

lint: bootstrap ## check style, types and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: bootstrap ## run the benchmarks
	@set -e; for script in $(BENCHMARKS); do echo "== $$script"; $(BIN)/python "$$script"; done
	@test -n '$(BENCHMARKS)' || echo 'tests/bench holds no benchmark yet'

bench-gradients: bootstrap ## speed and fidelity of the gradient engine, half an hour (DATASET=images, OUTPUT=docs/name, PEERS=no)
	@$(BIN)/python tests/bench/bench_gradients.py --dataset '$(DATASET)' $(if $(OUTPUT),--output '$(OUTPUT)') \
		$(if $(filter no,$(PEERS)),--without-peers)

constraints: ## resolve every version anew into deploy/local/constraints.txt
	@bash deploy/local/freeze.sh
