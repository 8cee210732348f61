# PartyMQ's commands. Each one sets up what is missing first; ARGS="..." goes to the command.

.DEFAULT_GOAL := help
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
ARGS ?=
MODE ?= push

.PHONY: help setup test test-fast lint format types docs demo serve bench bench-consume bench-publish chaos soak simulate lock hooks clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## get what the other commands need: Debian's RabbitMQ, a virtual environment, the locked packages
	@scripts/setup

demo: setup ## the main job on a year of real flights, with a broker of its own (MODE=pull: with the library; ARGS=--quick: under a minute)
	@$(BIN)/partymq demo --mode $(MODE) $(ARGS)

serve: setup ## a broker and a PartyMQ server to play with, until Ctrl-C
	@$(BIN)/partymq dev $(ARGS)

test: setup ## every test: pure ones, simulation, and those against a real broker
	@$(PYTEST) $(ARGS)

test-fast: setup ## the tests that need no broker
	@$(PYTEST) -m "not broker" $(ARGS)

lint: setup ## ruff (rules and format) and the direction of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

format: setup ## let ruff put right what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: setup ## mypy --strict
	@$(BIN)/mypy

docs: setup ## the documentation as a site, in build/site (ARGS=serve: look at it while it is written)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs $(or $(ARGS),build --strict)

bench: setup ## cost and speed beside other forwarders, and rebalancing: tables in bench/results
	@$(BIN)/python -m bench $(ARGS)

bench-consume: setup ## pull groups beside plain consumers: cost, throughput, joining, dying; tables in bench/results
	@$(BIN)/python -m bench.pull $(ARGS)

bench-publish: setup ## the publisher of pull groups beside aio-pika's
	@$(BIN)/python -m bench.pull --only publish $(ARGS)

chaos: setup ## faults at random against real processes and a real broker (ARGS='--seconds=600 --seed=N')
	@$(BIN)/python -m verify $(ARGS)

soak: setup ## the same for pull groups: real members of the library, every message of every key checked (ARGS='--seconds=600 --seed=N')
	@$(BIN)/python -m verify.pull $(ARGS)

simulate: setup ## random schedules of joins, crashes and delays, with the promises as invariants (ARGS='--mode=pull --seconds=60')
	@$(BIN)/python -m tests.simulation $(ARGS)

lock: setup ## write requirements*.lock anew from pyproject.toml (ARGS=--upgrade: newest versions)
	@scripts/lock $(ARGS)

hooks: setup ## check every commit with ruff and mypy from now on (pre-commit)
	@$(BIN)/pre-commit install

clean: ## remove what the commands above made in this folder, .venv too
	@rm -rf .venv .setup.lock .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist var
