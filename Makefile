# Every daily habit is a target; `make help` lists them. Each one sets up what it needs.
.DEFAULT_GOAL := help
comma := ,
SHELL := /bin/bash
PYTHON ?= $(or $(firstword $(foreach p,python3.11 python3.12 python3.13,$(shell $(p) -c "print('$(p)')" 2>/dev/null))),python3)
# Faster where there is one; it is told of a folder of wheels as pip is (PIP_FIND_LINKS, PIP_NO_INDEX), and to compile what it
# installs, as pip does: where PYTHONDONTWRITEBYTECODE is set, as in many containers, each command would compile it anew.
UV := $(shell command -v uv)
INSTALL = $(if $(UV),$(UV) pip install --quiet --compile-bytecode --python $(BIN)/python $(if $(PIP_FIND_LINKS),--find-links $(PIP_FIND_LINKS)) $(if $(PIP_NO_INDEX),--no-index),$(BIN)/python -m pip install --quiet --disable-pip-version-check)
BIN := .venv/bin
READY := .venv/.ready
E ?= moe/scope
O ?=
S ?= moe,prompt,transfer,svco
C ?=
SCALE ?= small
SERIES ?= first
KEEP ?=
U ?=
EXTRA_vision := torchvision num2words
EXTRA_quantize := bitsandbytes
# A target without its variable is refused: `main.py replay=` would be asked for nothing.
needs = test -n '$($(1))' || { echo "error: make $@ needs $(1): make $@ $(1)=$(2)" >&2; exit 2; }

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

$(READY): requirements.lock
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not there: Facet needs Python 3.11, 3.12 or 3.13 (make PYTHON=/path/to/python3.11)"; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v <= (3, 13) or sys.exit("This is Python %d.%d: Facet needs 3.11, 3.12 or 3.13 (Hydra 1.3 breaks on 3.14); make PYTHON=/path/to/python3.11" % v)'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Setting up .venv by $(if $(UV),uv,pip): $$(grep -c == requirements.lock) packages, $(if $(PIP_NO_INDEX),no index$(comma) from $(PIP_FIND_LINKS),about 500 MB to fetch with the CPU's build of torch: a few minutes)."
	@echo "Installed they take 2.3 GB with the CPU's build of torch, 6 GB with the CUDA build that PyPI gives on Linux (docs/machines.md says how to choose)."
	@$(INSTALL) -r requirements.lock & pid=$$!; trap 'kill $$pid 2>/dev/null; exit 130' INT TERM; began=$$SECONDS; \
	while sleep 1; kill -0 $$pid 2>/dev/null; do (( (SECONDS - began) % 30 )) || echo "  still at it after $$((SECONDS - began)) s"; done; wait $$pid
	@touch $@

setup: $(READY) ## create .venv and install the lock; EXTRA=vision or quantize: what some vision-language models need
	@test "$(origin PYTHON)" != "command line" || test "$$($(BIN)/python -V)" = "$$($(PYTHON) -V)" || \
		{ echo "error: .venv is of $$($(BIN)/python -V), not of $$($(PYTHON) -V): remove .venv, and make setup makes it anew" >&2; exit 2; }
	@test -z "$(EXTRA)" || test -n "$(EXTRA_$(EXTRA))" || { echo "error: EXTRA=$(EXTRA): there are vision and quantize" >&2; exit 2; }
	@test -z "$(EXTRA)" || $(INSTALL) $(EXTRA_$(EXTRA))

run: $(READY) ## the main job: micro-batch against global-batch balancing on real text (four to ten minutes on two cores)
	$(BIN)/python main.py -m experiment=moe/scope $(O)
	$(BIN)/python -m lightning_modules.moe.comparison runs/moe/scope
	@echo "Next: make ui, then http://127.0.0.1:5000 and the experiment moe/scope."

recipes: $(READY) ## every experiment: its command, what it answers, what it costs
	@$(BIN)/python -m lightning_modules.runtime.recipes

sweep: $(READY) ## a sweep: make sweep E=moe/scope O="seed=1,2,3"; the same command again goes on with it
	@$(call needs,E,<experiment>)
	$(BIN)/python main.py -m experiment=$(E) $(O)

resume: sweep ## go on with a sweep that was stopped: the same as sweep, done jobs are skipped

replay: $(READY) ## run a run or study of MLflow again and compare all metrics and tables: make replay RUN=<run id>
	@$(call needs,RUN,<run id>)
	$(BIN)/python main.py replay=$(RUN)

diff: $(READY) ## what sets two runs apart: make diff A=<run id> B=<run id>
	@$(call needs,A,<run id>)
	@$(call needs,B,<run id>)
	$(BIN)/python -m lightning_modules.runtime.diff $(A) $(B)

look: $(READY) ## the page of a finished run or sweep, or of several side by side: make look RUN=<run id or folder>,<another>
	@$(call needs,RUN,<run id or folder>)
	$(BIN)/python main.py look=$(RUN)

plan: $(READY) ## what a sweep would take, without training: make plan E=moe/scope O="seed=1,2,3"
	@$(call needs,E,<experiment>)
	$(BIN)/python main.py -m experiment=$(E) plan=true $(O)

sync: $(READY) ## deliver to MLflow what runs could not; U=ADDRESS when the tracking server has another one now
	$(BIN)/python -m lightning_modules.runtime.sync runs $(if $(U),--uri $(U))

test: $(READY) ## all tests, two workers
	$(BIN)/python -m pytest -n 2 --dist loadfile $(O)

test-fast: $(READY) ## what starts no process and is not slow, in about eighty seconds on two cores: at every save
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not processes and not slow"

test-ui: $(READY) docs ## the MLflow UI, pages of runs and the site in a headless browser (needs Debian's chromium); writes docs/ui/
	@command -v chromium >/dev/null || { echo "make test-ui needs a browser: apt-get install chromium"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check playwright==1.65.2
	$(BIN)/python -m pytest tests/ui --override-ini addopts=-q

test-server: $(READY) ## a real MLflow server on PostgreSQL, started and stopped (needs Debian's postgresql)
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || { echo "make test-server needs PostgreSQL: apt-get install postgresql"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check psycopg2-binary==2.9.13
	$(BIN)/python -m pytest tests/server --override-ini addopts=-q

test-trl: $(READY) ## our pairs' file through TRL's DPO trainer, which is installed for it: it trains, and scores as we do
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps trl==1.16.0
	$(BIN)/python -m pytest tests/trl --override-ini addopts=-q

test-slurm: $(READY) ## a real SLURM of two nodes, started and stopped (needs Debian's slurm-wlm and munge); writes docs/results/machines.json
	@PATH=$$PATH:/usr/sbin; for name in munged slurmctld slurmd sbatch; do command -v $$name >/dev/null || \
		{ echo "make test-slurm needs SLURM: apt-get install slurm-wlm munge"; exit 1; }; done
	FACET_RESULTS=1 $(BIN)/python -m pytest tests/slurm --override-ini addopts=-q

test-load: $(READY) ## tests of stopping, killing, locks and outages ten times with every core busy, goes on where it was stopped; writes docs/results/load.json (a part: make test-load N="3 tests/robustness/test_sweep.py"; beside what else runs: N="10 --loops 0")
	FACET_RESULTS=1 $(BIN)/python -m tests.robustness.load $(N)

mutants: $(READY) ## break the code on purpose, fault by fault, and see a test fail each time
	$(BIN)/python -m tests.mutants

bench: $(READY) ## speed against a bare loop and the Hugging Face Trainer; writes docs/results/bench.json
	$(BIN)/python -m tests.bench.moe
	$(BIN)/python -m tests.bench.runtime
	$(BIN)/python -m tests.bench.runtime hundred
	$(BIN)/python -m tests.bench.svco
	$(BIN)/python -m tests.bench.prompt
	$(BIN)/python -m tests.bench.look

errors: $(READY) ## two hundred wrong commands and what each is answered; writes docs/results/errors.json
	$(BIN)/python -m tests.robustness.errors

soak: $(READY) ## twenty kills of a two-rank run, each resumed; writes docs/results/soak.json (about ten minutes)
	$(BIN)/python -m tests.robustness.soak

machines: $(READY) ## trainings on a pretended device, on processes and strategies; writes docs/results/machines.json
	FACET_RESULTS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m machines

gpu: $(READY) ## on a machine with a GPU: is all as on the CPU, and how fast (under ten minutes; writes docs/results/)
	$(BIN)/python -m tests.gpu

families: $(READY) ## every language model, mixture and vision-language family of transformers, tiny and random, against its plain forward, and S-VCO's commands on each; writes docs/results/families.json (about fifteen minutes; a part: .venv/bin/python -m tests.families.text CLASS ...)
	FACET_RESULTS=1 $(BIN)/python -m tests.families.text
	FACET_RESULTS=1 $(BIN)/python -m tests.families.moe
	FACET_RESULTS=1 $(BIN)/python -m tests.families.vlm

files: $(READY) ## awkward files of every reader, read or refused in words; writes docs/results/files.json
	FACET_RESULTS=1 $(BIN)/python -m pytest tests/datamodules/test_files.py --override-ini addopts=-q

lock: $(READY) ## does the lock resolve on Python 3.11, 3.12 and 3.13, Linux and macOS arm64 (asks the index, installs nothing); writes docs/results/lock.json
	FACET_RESULTS=1 $(BIN)/python -m tests.lock

claims: $(READY) ## the first series of the papers' claims, goes on where it was stopped: make claims S=moe C=moe/global_lowers_ppl SCALE=gpu SERIES=confirmation (or later); PLAN=1: what that takes, by plan, into docs/results/claims_costs.json
	$(BIN)/python -m lightning_modules.claims.run --systems $(S) --claims "$(C)" --scale $(SCALE) --series $(SERIES)$(if $(PLAN), --plan)

report: $(READY) ## the claims table from the runs that MLflow has; writes docs/results/claims.md and .json; KEEP=1: with the rows that stand there
	$(BIN)/python -m lightning_modules.claims.report $(if $(KEEP),--keep)

look-claims: $(READY) ## the page of the claims from docs/results/claims.json, into runs/claims/look.html
	$(BIN)/python -m lightning_modules.claims.look

ui: $(READY) ## the MLflow UI on http://127.0.0.1:5000 (loopback only; of a machine far away it says how to reach it)
	@echo "http://127.0.0.1:5000 on this machine alone. From another one: ssh -N -L 5000:127.0.0.1:5000 $${USER:-YOU}@$$(hostname), then the same address there."
	$(BIN)/mlflow ui --backend-store-uri sqlite:///$(CURDIR)/mlflow.db --host 127.0.0.1 --port 5000

.venv-docs/.ready: docs/site/requirements.lock
	@test -x .venv-docs/bin/python || $(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check -r docs/site/requirements.lock
	@touch $@

# Types in the reference are those of the code, hence the project's own Python beside the site's.
SITE = mkdir -p .cache && $(BIN)/python -m lightning_modules.runtime.reference .cache/reference.md && \
	FACET_REFERENCE=.cache/reference.md NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs

docs: $(READY) .venv-docs/.ready ## the site of these pages, into site/: open site/index.html; stops at a dead link or a missing figure
	$(SITE) build --quiet --strict

docs-serve: $(READY) .venv-docs/.ready ## the site on http://127.0.0.1:8000, made again when a page changes
	$(SITE) serve --dev-addr 127.0.0.1:8000

lint: $(READY) ## ruff: lint and format check; mypy: types
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: $(READY) ## ruff: fix and format
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

hooks: $(READY) ## install the pre-commit hooks
	$(BIN)/pre-commit install

clean-runs: ## delete runs/, mlruns/ and mlflow.db (asks first)
	@read -p "Delete all runs and the MLflow database? [y/N] " a && [ "$$a" = y ] && rm -rf runs mlruns mlflow.db || echo "kept"

.PHONY: help setup run recipes sweep resume replay diff look look-claims plan sync test test-fast test-ui test-server test-trl test-slurm test-load mutants bench soak errors machines gpu families files lock claims report ui docs docs-serve lint format hooks clean-runs
