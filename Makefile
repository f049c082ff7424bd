# What people and CI call. `make` alone lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-20s %s\n", $$1, $$2}'

setup: $(STAMP)  ## make .venv with the pinned dependencies (idempotent)

$(STAMP): pyproject.toml constraints.txt scripts/system-packages
	@scripts/system-packages
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

check: setup  ## formatting, lint, types, import floors, circles, lengths, exported boards and rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_house.py
	$(BIN)/python scripts/metrics_table.py --check
	$(BIN)/ring-async dashboard export monitoring --check

test: setup  ## the whole test suite
	$(BIN)/python -m pytest

test-fast: setup  ## unit tests alone
	$(BIN)/python -m pytest tests/unit

demo: setup  ## train the shipped tiny model for a few minutes and show that it learned
	$(BIN)/python -m ring_async.cli.app demo

demo-seeds: setup  ## the learning claim: five seeds, two controls, 1,000 held-out problems (about an hour)
	$(BIN)/python benchmarks/demo_seeds.py

tiny-model: setup  ## make the shipped starting point again (SFT from scratch)
	$(BIN)/python -m ring_async.tiny_model

reward-model: setup  ## train the reward model that configs/reward_model.yaml asks for
	$(BIN)/python -m ring_async.verifiers.models.bradley_terry configs/data/preferences.jsonl --out build/reward_model

fuzz: setup  ## 1,000,000 mutated frames against the wire; 10,000 hostile answers against math; new property examples
	$(BIN)/python -m tests.support.fuzz_transport --frames 1000000
	$(BIN)/python -m tests.support.hostile_mathematics --number 10000
	HYPOTHESIS_PROFILE=search $(BIN)/python -m pytest -q tests/unit/core tests/unit/transport/test_codec.py

odd-answers: setup  ## some 60 odd answers to each of reasoning-gym's tasks: the table of docs/verifiers.md
	$(BIN)/python -W ignore -m tests.support.odd_answers

verdicts-under-load: setup  ## one program's verdict, 100 times idle and 100 times on a busy machine
	$(BIN)/python -m tests.support.verdicts_under_load

chaos: setup  ## strike every kind of process for an hour, and print what was lost (a table for docs/reliability.md)
	$(BIN)/ring-async chaos configs/local.yaml rollout.num=2 placement.num_cpus=4 monitoring.heartbeat_timeout_s=8 \
		--minutes 60 --runs build/chaos

chaos-short: setup  ## the part of chaos that CI runs: twenty real strikes, 2,000 faults under the virtual clock
	$(BIN)/python -m pytest tests/chaos

check-sglang: setup  ## requests of the SGLang engine against its newest release (outside CI)
	SGLANG_RELEASES=newest $(BIN)/python -m pytest tests/integration/test_sglang_requests.py

bench-async bench-transport bench-weights bench-weights-gpu bench-replay bench-rewards bench-control bench-rollout \
		bench-gpu-loop bench-monitoring bench-scale bench-learner bench-learner-2: bench-%: setup
	$(BIN)/python benchmarks/bench_$(subst -,_,$*).py

bench: bench-async bench-transport bench-weights bench-replay bench-rewards bench-control bench-monitoring bench-scale  ## all benchmarks that need no GPU

clean:  ## remove what was built; runs and the virtual environment stay
	rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis

.PHONY: help setup check test test-fast demo demo-seeds tiny-model reward-model fuzz odd-answers \
	verdicts-under-load check-sglang bench clean bench-rollout bench-gpu-loop \
	bench-async bench-transport bench-weights bench-weights-gpu bench-replay bench-rewards bench-control bench-monitoring \
	bench-scale bench-learner bench-learner-2
