# Everything a person does with this repository. `make help` lists the targets.
#
# Only Python 3.11+ and make are needed; environments are made and renewed as their pins change.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv/bin
SOURCES := components edgehost/src gpu-backend/src scripts tests

# Where the two programs listen, and which host runs the components: auto, embedded or spin.
EDGE_LISTEN    ?= 127.0.0.1:3000
BACKEND_LISTEN ?= 127.0.0.1:8080
EDGE_HOST      ?= auto
export EDGE_LISTEN BACKEND_LISTEN EDGE_HOST

.DEFAULT_GOAL := help
.PHONY: help up down models build test lint fix typecheck bench bench-backend bench-chat bench-edge clean environment python

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: python  ## Set up, build, start backend and edge, print curl lines; Ctrl-C stops
	@$(PYTHON) scripts/up.py

down: python  ## Stop what `make up` started
	@$(PYTHON) scripts/up.py --down

models: environment  ## Fetch and build the sentence-vector models into .models
	@$(VENV)/python scripts/build_minilm.py

build: python  ## Build the Wasm components that changed
	@$(PYTHON) scripts/build_components.py

test: environment build  ## Run everything that needs no GPU and no cluster
	@$(VENV)/python -m pytest $(PYTEST_ARGS)

lint: environment  ## Check style, format and the layers between packages
	@$(VENV)/ruff check .
	@$(VENV)/ruff format --check .
	@PYTHONPATH=components $(VENV)/lint-imports --no-cache

fix: environment  ## Repair style and format where that is mechanical
	@$(VENV)/ruff check --fix .
	@$(VENV)/ruff format .

typecheck: environment  ## Check types (mypy --strict)
	@$(VENV)/mypy $(SOURCES)

bench: environment build  ## Measure the edge host: latency, throughput, memory
	@$(VENV)/python tests/bench/bench_edgehost.py

bench-backend: environment  ## Compare the backend with other servers (needs wrk; installs them in ~/.cache)
	@$(VENV)/python tests/bench/bench_backend.py $(BENCH_ARGS)

bench-edge: environment build  ## Measure what the edge adds to a call, beside nginx and FastAPI
	@$(VENV)/python tests/bench/bench_edge.py $(BENCH_ARGS)

bench-chat: environment build  ## Compare chat through the edge with LiteLLM's proxy and with none
	@$(VENV)/python tests/bench/bench_chat.py $(BENCH_ARGS)

clean: down  ## Remove what was built; environments stay
	@rm -rf build .run .spin .mypy_cache .ruff_cache

environment: python
	@$(PYTHON) scripts/environments.py dev

python:
	@test -n "$(PYTHON)" || { echo "error: python3.11 is not on PATH: install Python 3.11" >&2; exit 1; }
