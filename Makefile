# The commands of this project. Each one first makes .venv, or finds that it is up to date.

VENV := $(or $(FOREBEAR_VENV),.venv)
BIN := $(VENV)/bin
DATASET ?= openmoji
JOBS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help bootstrap demo test test-all lint bench bench-gradients bench-scale constraints reference licences build audit

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-16s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

bootstrap: ## make or refresh the virtual environment (deploy/local/bootstrap.sh)
	@bash deploy/local/bootstrap.sh

demo: bootstrap ## attribute generated emoji, write a report, then open the dashboard (BROWSER=no: print its address)
	@$(BIN)/forebear demo
	@$(BIN)/forebear serve --run runs/demo --dashboard $(if $(filter no,$(BROWSER)),--no-browser)

test: bootstrap ## run the tests, in JOBS processes
	@$(PYTEST)

test-all: bootstrap ## run the tests and the slow ones
	@$(PYTEST) -m ''

lint: bootstrap ## check style, types and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: bench-gradients bench-scale ## the benchmarks of engine, jobs and index; the others in tests/bench want a run

bench-gradients: bootstrap ## speed and fidelity of the gradient engine, half an hour (DATASET=images, OUTPUT=docs/name, PEERS=no)
	@$(BIN)/python tests/bench/bench_gradients.py --dataset '$(DATASET)' $(if $(OUTPUT),--output '$(OUTPUT)') \
		$(if $(filter no,$(PEERS)),--without-peers)

bench-scale: bootstrap ## workers, Ray, storage, the driver and the index, half an hour (DATASET=images, OUTPUT=docs/name)
	@$(BIN)/python tests/bench/bench_scale.py --dataset '$(DATASET)' $(if $(OUTPUT),--output '$(OUTPUT)')
	@$(BIN)/python tests/bench/bench_index.py --large

constraints: ## resolve every version anew into deploy/local/constraints.txt
	@bash deploy/local/freeze.sh

reference: bootstrap ## write docs/reference anew from the code
	@PYTHONPATH=deploy/docs $(BIN)/python -m reference

licences: bootstrap ## write the table of docs/licences.md anew from what is installed
	@$(BIN)/python deploy/docs/licences.py

build: bootstrap ## build the sdist, and the wheel from it, into dist/
	@$(BIN)/python -m build --no-isolation

audit: bootstrap ## ask an advisory service about every pinned version (takes the network)
	@bash deploy/local/audit.sh
