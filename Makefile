# One command each; every target makes or reuses the virtualenv in .venv and says what it is doing.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
REQUIREMENTS := pyproject.toml constraints.txt requirements/engine-cpu.txt

# make demo: how long, from which seed, with which objective or preset (leeway config --presets) ...
RUN ?= demo
STEPS ?=
SEED ?=
OBJECTIVE ?=
PRESET ?=
LR ?=
STALENESS ?=
TASK ?= sort
TP ?=
PP ?=
CP ?=
RESUME ?=

# make test: two processes at once where tests mostly wait or use one core; the others start several processes themselves.
TWO = -n 2 --dist loadfile

# make test-unit: the tests of one room, such as learner/checkpoint; of all rooms without it.
ROOM ?=

# A comparison of objectives fixes the learning rate as well as the staleness, and is shorter.
FIXED_STALENESS = --set learner.hold_staleness=$(STALENESS) --set learner.max_staleness=$$(($(STALENESS) + 2)) \
  --set learner.optimizer.decay=constant --set learner.steps=360 --set learner.refill.enabled=false

# make chaos: how many SIGKILLs, of which schedule, with which append-only file. make fuzz: how many messages.
KILLS ?= 100
AOF ?= always
COUNT ?= 10000000

# make families: only models whose name begins so, such as qwen3; all without it.
FAMILY ?=

# make agents: one of the files in requirements/agents, without .txt; all without it.
AGENTS ?=

# make gpu: a directory of wheels for a machine without a network (requirements/gpu-offline.txt), and the shape to measure (the
# largest that fits, by default) with what it recomputes.
WHEELS ?=
SHAPE ?=
RECOMPUTE ?= full
GPU_PYTHON ?= $(if $(WHEELS),python3,$(BIN)/python)
GPU_PATH = PYTHONPATH=$(CURDIR):$(CURDIR)/proto$(if $(WHEELS),:$(CURDIR)/.gpu-packages):$$PYTHONPATH

# make evidence: stop after so many hours; SHORT=1 for a small part; runs at a time.
HOURS ?=
SHORT ?=
JOBS ?= 2

# make soak: how long. make hosts: how long a fleet's link stays cut.
MINUTES ?= 60
CUT ?= 60

.PHONY: help agents demo test test-unit test-parallel check manifests protos chaos fuzz soak hosts nodes pods slurm drill bench bench-intake bench-learner bench-endpoint evidence families gpu examples clean install

help:
	@echo "make demo     a language model learns to sort digits, through the whole production path (3 to 5 minutes)"
	@echo "              STEPS= SEED= OBJECTIVE=|PRESET= LR= STALENESS= TASK=sort|add|sumto TP= PP= CP= RESUME=1 RUN=name"
	@echo "make test     every check and test (under 25 minutes on 2 cores)"
	@echo "make test-unit  ROOM=learner/checkpoint: the unit tests of one room (seconds); without ROOM, of all (under 2 minutes)"
	@echo "make check    lint, types, import rules, generated stubs"
	@echo "make chaos    KILLS=100 SEED=0 AOF=always|everysec: kills everything, again and again, and counts every group (about 45 minutes)"
	@echo "make fuzz     COUNT=10000000 hostile messages against the gateway's parser and validator"
	@echo "make soak     MINUTES=60 of the demo: slopes of every process's memory and descriptors, of Redis and of the disk"
	@echo "make hosts    CUT=60 the demo on five hosts (network namespaces) over mTLS; a fleet's link is cut; root"
	@echo "make nodes    a learner over two hosts by torchrun's rendezvous; one of them is killed; root"
	@echo "make pods     what Kubernetes would run of deploy/kubernetes/overlays/dev, as local processes, probes included; root"
	@echo "make slurm    deploy/slurm/leeway.sbatch from end to end without Slurm: time limit, checkpoint, requeue, the rest of the steps"
	@echo "make drill    alerts fire in a real Prometheus against real processes"
	@echo "make bench-intake  groups/s, CPU per group and ack latency against bare gRPC and bare Redis (about 4 minutes)"
	@echo "make bench-learner  a step against transformers and against recomputing objectives, what is not the model, publication"
	@echo "make evidence objectives by staleness, learning rate and its control on the product's learner: table and figures (hours)"
	@echo "              HOURS=n stops it; SHORT=1 takes under ten minutes; JOBS=2; what is known is not run again"
	@echo "make gpu      on a CUDA device: the equivalence tests there, then a full step of the largest Qwen3 that fits"
	@echo "              SHAPE=4b|1.7b|0.6b|tiny RECOMPUTE=full|none; WHEELS=dir on a machine without a network"
	@echo "make bench    the rollout worker against bare SGLang, refits by mode (about 4 minutes)"
	@echo "make test-parallel  every layout against a float64 reference, as a table of errors"
	@echo "make families FAMILY=qwen3: every model type from the learner into real SGLang on the CPU, against transformers (about 30 minutes)"
	@echo "make agents   virtualenvs of agent libraries, apart from ours (requirements/agents); AGENTS=name builds one"
	@echo "make bench-endpoint  what the endpoint adds to a call at 64 episodes, and tokens/s through it against bare SGLang"
	@echo "make protos   regenerate the stubs of proto/leeway/v1"
	@echo "make examples builds the TypeScript fleet (Node.js 20, npm), which make test then tries"
	@echo "make clean    remove the virtualenv, caches and runs"

install: $(STAMP)

$(STAMP): $(REQUIREMENTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	  { echo "Leeway needs Python 3.11 (PYTHON=$(PYTHON) is another one)"; exit 1; }
	@test -x $(BIN)/python || { echo "[1/4] making the virtualenv $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "[2/4] installing PyTorch (CPU build where that is what your index serves; about 1 minute)"
	@$(BIN)/pip install -qq --progress-bar off -c constraints.txt torch numpy
	@echo "[3/4] installing Leeway, Megatron-core and the tools (about 2 minutes)"
	@$(BIN)/pip install -qq --progress-bar off -c constraints.txt -e '.[dev]'
	@echo "[4/4] installing SGLang for the CPU (about 1 minute)"
	@$(BIN)/pip install -qq --progress-bar off -c constraints.txt -r requirements/engine-cpu.txt
	@$(BIN)/pip install -qq --progress-bar off -c constraints.txt --no-deps sglang xgrammar
	@touch $@

demo: $(STAMP)
	@$(BIN)/leeway up configs/$(if $(filter sort,$(TASK)),demo,$(TASK)).toml --set run.dir=runs/$(RUN) --set run.name=$(RUN) --set run.overwrite=true \
	  $(if $(STALENESS),$(FIXED_STALENESS)) $(if $(STEPS),--set learner.steps=$(STEPS)) $(if $(SEED),--set run.seed=$(SEED)) \
	  $(if $(OBJECTIVE),--set learner.objective.name=$(OBJECTIVE)) $(if $(PRESET),--set learner.objective.preset=$(PRESET)) \
	  $(if $(LR),--set learner.optimizer.lr=$(LR)) \
	  $(if $(TP),--set learner.parallel.tensor=$(TP)) $(if $(PP),--set learner.parallel.pipeline=$(PP)) \
	  $(if $(CP),--set learner.parallel.context=$(CP)) \
	  $(if $(RESUME),--resume)

manifests: $(STAMP)
	@$(BIN)/python -m tests.deploy.manifests

check: $(STAMP)
	@echo "ruff";          $(BIN)/ruff check . && $(BIN)/ruff format --check .
	@echo "pyright";       $(BIN)/pyright
	@echo "import-linter"; $(BIN)/lint-imports
	@echo "stubs";         $(BIN)/python -m tests.tools.stubs
	@echo "metrics";       $(BIN)/python -m tests.tools.metric_reference
	@echo "configuration"; $(BIN)/python -m tests.tools.config_reference
	@echo "presets";       $(BIN)/python -m tests.tools.preset_reference
	@echo "models";        $(BIN)/python -m tests.tools.model_reference
	@echo "rooms";         $(BIN)/python -m tests.tools.rooms
	@echo "sizes";         $(BIN)/python -m tests.tools.memory_table
	@echo "manifests";     $(BIN)/python -m tests.deploy.manifests
	@if command -v buf >/dev/null; then echo "buf lint"; cd proto && buf lint; else echo "buf: not installed, skipped"; fi

test: export LEEWAY_TEST_SKIPPED = $(CURDIR)/.pytest_cache/skipped
test: check
	@rm -f $(LEEWAY_TEST_SKIPPED)
	@$(BIN)/pytest tests/unit $(TWO)
	@$(BIN)/pytest tests/service $(TWO)
	@$(BIN)/pytest tests/parallel
	@$(BIN)/pytest tests/e2e
	@$(BIN)/pytest tests/chaos
	@$(BIN)/pytest tests/deploy $(TWO)
	@test ! -s $(LEEWAY_TEST_SKIPPED) || { echo "skipped, with the number of tests:"; sort $(LEEWAY_TEST_SKIPPED) | uniq -c; }

examples:
	@cd examples/fleet-typescript && npm install --silent --no-audit --no-fund --no-package-lock && npx tsc

test-unit: $(STAMP)
	@$(BIN)/pytest tests/unit/$(ROOM)

chaos: $(STAMP)
	@$(BIN)/python -m tests.chaos.hostile
	@$(BIN)/python -m tests.chaos.older_redis
	@$(BIN)/python -m tests.chaos.agents --seed $(if $(SEED),$(SEED),0)
	@$(BIN)/python -m tests.chaos --kills $(KILLS) --seed $(if $(SEED),$(SEED),0) --aof $(AOF)

fuzz: $(STAMP)
	@$(BIN)/python -m tests.fuzz.messages --count $(COUNT) --seed $(if $(SEED),$(SEED),0)

soak: $(STAMP)
	@$(BIN)/python -m tests.soak --minutes $(MINUTES)

hosts: $(STAMP)
	@$(BIN)/python -m tests.deploy.hosts --cut $(CUT)

nodes: $(STAMP)
	@$(BIN)/python -m tests.deploy.nodes

pods: $(STAMP)
	@$(BIN)/python -m tests.deploy.pods

slurm: $(STAMP)
	@$(BIN)/python -m tests.deploy.slurm

drill: $(STAMP)
	@$(BIN)/python -m tests.deploy.drill

test-parallel: $(STAMP)
	@$(BIN)/python -m tests.parallel.matrix

families: $(STAMP)
	@$(BIN)/python -m tests.families $(if $(FAMILY),"$(FAMILY)")

bench-intake: $(STAMP)
	@$(BIN)/python -m tests.bench.intake

bench-learner: $(STAMP)
	@$(BIN)/python -m tests.bench.step
	@$(BIN)/python -m tests.bench.recompute
	@$(BIN)/python -m tests.bench.stall
	@$(BIN)/python -m tests.bench.publish
	@$(BIN)/python -m tests.bench.export

evidence: $(STAMP)
	@$(BIN)/python -m tests.evidence --jobs $(JOBS) $(if $(HOURS),--hours $(HOURS)) $(if $(SHORT),--short)

# With WHEELS the machine's own Python runs it, since the virtualenv cannot be made without a network. Warnings are no errors
# there: nobody has seen those of every plugin and driver. Rows are of every length: memory in segments that cannot grow breaks up.
gpu: export PYTORCH_ALLOC_CONF = expandable_segments:True
gpu: $(if $(WHEELS),,$(STAMP))
ifneq ($(WHEELS),)
	@echo "installing what $(GPU_PYTHON) lacks from $(WHEELS) into .gpu-packages"
	@PIP_CONSTRAINT= $(GPU_PYTHON) -m pip install -q --no-index --no-deps --upgrade --target .gpu-packages $(WHEELS)/*.whl
endif
	@$(GPU_PATH) $(GPU_PYTHON) -m pytest tests/gpu -o filterwarnings=default
	@$(GPU_PATH) $(GPU_PYTHON) -m tests.bench.gpu '$(SHAPE)' $(RECOMPUTE)

agents: $(STAMP)
	@$(BIN)/python -m tests.tools.foreign_venv $(AGENTS)

bench-endpoint: $(STAMP)
	@$(BIN)/python -m tests.bench.endpoint

bench: $(STAMP)
	@$(BIN)/python -m tests.bench.rollout_engine 6

protos: $(STAMP)
	@echo "generating proto/leeway/v1/*_pb2*"
	@$(BIN)/python -m grpc_tools.protoc -I proto --python_out=proto --pyi_out=proto --grpc_python_out=proto proto/leeway/v1/*.proto

clean:
	@echo "removing $(VENV), caches and runs"
	@rm -rf $(VENV) .venv-agents .gpu-packages runs build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
