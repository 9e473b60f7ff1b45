# `make help` lists the targets. Each sets up what it needs; repeating one is quick.

PYTHON ?= python3# 3.11 or later, for the virtual environment
WORKERS ?= 6# test processes; each may start RabbitMQ nodes of its own, and waits for them most of the time
RABBITMQ ?=# the one to test on: newest, or its folder; the installed one if empty
TESTS ?= tests
ROUNDS ?= 50# of each fault
BIN := .venv/bin
NEWEST := $(CURDIR)/.rabbitmq/newest
export PYTHONDONTWRITEBYTECODE :=# or each of the processes that tests start compiles the package anew

.PHONY: help demo test pytest test-faults test-latest lint bench docs pictures release setup rabbitmq clients browser lock clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' $(MAKEFILE_LIST) | expand -t 20

demo: .venv/rmqkit rabbitmq ## see it work: 100,000 messages, three workers, nothing lost
	@$(BIN)/rmqkit demo work

# In parallel, because tests often wait.
test: setup ## lint, types, layers, docs and all tests; RABBITMQ=newest: on the newest RabbitMQ
	@$(MAKE) --no-print-directory -j2 lint pytest

pytest: .venv/dev rabbitmq clients
	$(if $(RABBITMQ),RMQKIT_RABBITMQ=$(RABBITMQ:newest=$(NEWEST)) )$(BIN)/pytest $(TESTS) -n $(WORKERS) --dist worksteal

test-faults: .venv/dev rabbitmq ## the faults at random moments, for hours: ROUNDS=50; SEED=... repeats a run
	$(BIN)/python -m tests.faults.long_run --rounds $(ROUNDS) $(if $(SEED),--seed $(SEED)) $(if $(WRITE),--write $(WRITE))

test-latest: ## unit tests with the newest dependencies, and with the oldest that pyproject.toml allows
	@for which in newest oldest; do .ci/setup versions $(PYTHON) $$which && .venv-$$which/bin/pytest tests/unit -n 2 || exit 1; done

lint: .venv/dev ## what needs no broker: style, types, layers, docs
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check

bench: .venv/bench rabbitmq ## compare the speed with other clients'
	$(BIN)/python -m tests.benchmarks.publish_consume
	$(BIN)/python -m tests.benchmarks.limit
	$(BIN)/python -m tests.benchmarks.bench
	$(BIN)/python -m tests.benchmarks.curves
	$(BIN)/python -m tests.benchmarks.topologies
	$(BIN)/python -m tests.benchmarks.move
	$(BIN)/python -m tests.benchmarks.templates
	$(BIN)/python -m tests.benchmarks.handlers
	$(BIN)/python -m tests.benchmarks.contracts
	$(BIN)/python -m tests.benchmarks.rpc
	$(BIN)/python -m tests.benchmarks.services
	$(BIN)/python -m tests.benchmarks.completion

docs: .venv/docs clients browser ## build the documentation site in build/site, and check its links
	$(BIN)/python -m docs.website

pictures: .venv/docs rabbitmq ## record the terminals shown in docs/ anew, on private nodes
	$(BIN)/python docs/record.py

release: test docs ## build and check the wheel and the sdist in dist/, up to the upload
	@.ci/release

setup: .venv/dev rabbitmq clients ## what `make test` needs, and no more

lock: ## refresh the locked versions of dependencies in .ci/locked
	@PYTHON=$(PYTHON) .ci/lock

clean: ## remove the virtual environments and what tools left
	rm -rf .venv .venv-newest .venv-oldest .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

rabbitmq:
	@.ci/setup $(if $(filter newest,$(RABBITMQ)),newest,rabbitmq)

clients browser:
	@.ci/setup $@

# The stamps: installed anew when pyproject.toml or the locked versions change.
.venv/rmqkit: pyproject.toml .ci/locked/demo.txt
	@.ci/setup venv $(PYTHON) demo
	@touch $@

.venv/dev: pyproject.toml .ci/locked/dev.txt
	@.ci/setup venv $(PYTHON) dev
	@touch $@ .venv/rmqkit

.venv/docs: pyproject.toml .ci/locked/docs.txt
	@.ci/setup venv $(PYTHON) docs
	@touch $@ .venv/rmqkit

.venv/bench: pyproject.toml .ci/locked/bench.txt
	@.ci/setup venv $(PYTHON) bench
	@touch $@ .venv/rmqkit
