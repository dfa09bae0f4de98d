# Every target works on a fresh Debian 12 as root; what is missing is installed first.
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help demo down test lint format manifests bench-boot

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(READY): pyproject.toml lab/bootstrap
	lab/bootstrap $(VENV)
	touch $@

demo: $(READY) ## Bring up the lab cluster with two instances that answer by ssh; leaves it up
	kumulus-lab demo

down: $(READY) ## Remove everything that `make demo` made
	kumulus-lab down

test: $(READY) ## Run every test
	kumulus-lab setup --guests
	python -m pytest --numprocesses=3 --dist=loadscope --no-loadscope-reorder

lint: $(READY) ## Check format, types, layers and generated files
	ruff format --check .
	ruff check .
	mypy
	lint-imports
	kumulus-crds --check

format: $(READY) ## Format the code
	ruff format .
	ruff check --fix .

manifests: $(READY) ## Generate the CRDs and the API reference
	kumulus-crds

bench-boot: $(READY) ## Measure from apply to a running instance; ends with one line of JSON
	python -m bench.boot
