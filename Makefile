# Every target sets up what it needs in .venv and uses the pinned versions of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-all coverage crash-test soak client-test attack bench gpu-check lint format reference docs lock wheel bundle clean

help:
	@echo "make demo         a research campaign on this machine, through the real MCP server (minutes)"
	@echo "make test         every test but the slow ones, three files at a time"
	@echo "make test-slow    the slow ones: half a minute of a core or more each"
	@echo "make test-all     both, as CI runs them"
	@echo "make lint         ruff, mypy --strict and import-linter"
	@echo "make coverage     every test, and the share of lines that ran"
	@echo "make reference    write what is generated: docs/settings.md, cli.md, tools.md, client/, server.json and bundle/"
	@echo "make docs         build the docs as a site in site/; no broken link passes"
	@echo "make lock         write requirements.lock, with hashes"
	@echo "make crash-test   kills processes at random, KILLS=300 times over each store, around launches until decided, around claims, sweeps and tasks, over Modal's stand-in and over Slurm, and the ssh lines to a host and to Slurm's login node in CUTS=200 launches each, and prints what was lost"
	@echo "make soak         CLIENTS=256 wait, read, propose and look at the page for MINUTES=10, while their server is killed SOAK_KILLS=10 times: errors, latency, memory, losses; at the pace of language models, or of scripts with THINK=1"
	@echo "make wheel        the wheel and the source distribution in dist/"
	@echo "make bundle       the bundle for Claude Desktop and others: dist/autoresearch-mcp-VERSION.mcpb"
	@echo "make client-test  Claude Code, Codex, Gemini CLI, opencode, Copilot CLI, the TypeScript SDKs and libraries from PyPI, with scripted models (node 20 or newer)"
	@echo "make attack       cheats of our own through a real lab, and what became of each; SHORT=--short for CI's share of them"
	@echo "make gpu-check    every claim about a GPU, measured on this machine's: about 10 minutes, QUICK=1 3; DEVICE=cpu tries it in miniature"
	@echo "make bench        speed, as ratios measured in one run; ROWS=1000,100000 FLUSHES=3000 for a long log, LONG=1 for slots at 60 s"
	@echo "make clean        remove what the targets made"

$(READY): pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12), (3, 13)))' || \
		{ echo "Python 3.11, 3.12 or 3.13 is needed; name one with: make PYTHON=python3.12 ..."; exit 1; }
	@echo "Setting up $(VENV) (first time only)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt --editable '.[local,dev]'
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib server trainer client contracts tests > /dev/null || true  # on all cores, as pip does not; some packages hold templates
	@mkdir -p $(VENV)/types && ln -sfn ../.. $(VENV)/types/autoresearch_mcp  # type checkers know the folders by their import name
	@touch $@

demo: $(READY)
	@$(BIN)/autoresearch-mcp demo

# Three processes take a file of tests each: much of testing is waiting, and what trains has a budget in CPU seconds
# A process that a hanging test ended is not replaced: the next one would run the same test
SIDE_BY_SIDE := -n 3 --dist loadfile --no-loadscope-reorder --max-worker-restart 0
test: $(READY)
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m 'not slow'

test-slow: $(READY)
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m slow

test-all: $(READY)
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE)

ROWS ?= 1000,10000
FLUSHES ?= 500
bench: $(READY)
	@AUTORESEARCH_BENCH_ROWS=$(ROWS) AUTORESEARCH_BENCH_FLUSHES=$(FLUSHES) AUTORESEARCH_BENCH_LONG=$(LONG) $(BIN)/python -m tests.bench
	@$(BIN)/python -m tests.attack

attack: $(READY)
	@$(BIN)/python -m tests.attack $(SHORT)

# Sets nothing up, so that it runs on a machine without a network: in .venv where that is made, else with PYTHON as it is
DEVICE ?= cuda
gpu-check:
	@$(if $(filter file,$(origin PYTHON)),$(if $(wildcard $(READY)),$(BIN)/python,$(PYTHON)),$(PYTHON)) trainer/gpu_check \
		--device $(DEVICE) $(if $(QUICK),--quick) $(ARGS)

MINUTES ?= 10
CLIENTS ?= 256
SOAK_KILLS ?= 10
THINK ?= 10
KILLS ?= 300
CUTS ?= 200
crash-test: $(READY)
	@AUTORESEARCH_KILLS=$(KILLS) AUTORESEARCH_CUTS=$(CUTS) $(BIN)/python -m pytest -s -o faulthandler_timeout=0 tests/acceptance/test_crash.py tests/acceptance/test_decided_kills.py \
		tests/acceptance/test_swarm_kills.py \
		tests/server/compute/slurm/test_lab.py::test_kills_of_the_runner_around_submissions_lose_nothing_and_double_nothing \
		tests/server/compute/modal/test_runner.py::test_random_kills_of_the_runner_lose_nothing_double_nothing_and_leave_nothing_running \
		tests/server/compute/test_wire.py

soak: $(READY)
	@MINUTES=$(MINUTES) CLIENTS=$(CLIENTS) KILLS=$(SOAK_KILLS) THINK=$(THINK) $(BIN)/python -m tests.soak

# What CI takes of npm, and what make client-test takes beside it
NPM_FEW := @modelcontextprotocol/sdk@1.32.2 @modelcontextprotocol/client@2.4.0 @anthropic-ai/claude-code@2.1.332 @anthropic-ai/mcpb@2.1.2
NPM_MORE := @openai/codex@0.171.0 @google/gemini-cli@0.61.0 opencode-ai@1.18.33 @github/copilot@1.0.102
NPM_INSTALL := npm install --silent --no-audit --no-fund --prefix .node
.node/few: Makefile
	@$(NPM_INSTALL) $(NPM_FEW)
	@touch $@
.node/all: Makefile
	@$(NPM_INSTALL) $(NPM_FEW) $(NPM_MORE)
	@touch $@

client-test: $(READY) .node/all
	@$(BIN)/python -m tests.acceptance.libraries
	@AUTORESEARCH_FROM_NOTHING=1 $(BIN)/python -m pytest -rs tests/acceptance/test_typescript.py tests/acceptance/test_npm_clients.py tests/acceptance/test_from_nothing.py \
		tests/acceptance/test_libraries.py

lint: $(READY)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache > $(VENV)/imports.txt || { cat $(VENV)/imports.txt; exit 1; }

reference: $(READY)
	@$(BIN)/python -m tests.published write
	@$(BIN)/python -m tests.client_tools
	@$(BIN)/python -m tests.reference

$(VENV)/.docs: $(READY) pyproject.toml
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	@touch $@

docs: $(VENV)/.docs
	@$(BIN)/mkdocs build --quiet --strict

coverage: $(READY)
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) --cov --cov-report=term:skip-covered --cov-report=html:$(VENV)/coverage

# The server and its clients of Deeplake and Modal. torch is left out: which build of it is right depends on the machine.
lock: $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'pip-tools>=7.5,<8'
	@$(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --no-annotate --strip-extras --no-emit-index-url --no-emit-find-links \
		--no-emit-trusted-host --extra modal --extra export --extra embeddings --constraint constraints.txt --output-file requirements.lock pyproject.toml

format: $(READY)
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

wheel: $(READY)
	@$(BIN)/python -m build --outdir dist .  # by way of an sdist: build/ may hold modules that are gone

bundle: $(READY)
	@$(BIN)/python -m tests.published bundle dist

clean:
	@rm -rf $(VENV) .node .clients build dist site demo-lab* .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
