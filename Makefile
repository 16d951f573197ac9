# Every target is listed by `make help`, from the comment behind its name.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast lint format types proto schema zoo conformance benchmarks build clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## make the virtual environment and install everything into it

$(STAMP): pyproject.toml setup.py constraints.txt $(wildcard nexus_runtime/threads/*.[ch])
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip -c constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup  ## train a network on three workers, compile it, run it, verify it
	$(BIN)/python examples/demo.py

test: setup  ## all tests, on two processes
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-fast: setup  ## the tests that need no device, no emulator and no network
	$(BIN)/python -m pytest -n 2 --dist worksteal tests/unit tests/compiler

lint: setup  ## style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python

format: setup  ## put the source into the house style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

proto: setup  ## generate the gRPC code from scheduler.proto
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. \
	    nexus_runtime/scheduler/scheduler.proto

schema: setup  ## write the JSON schema of the manifest to docs/
	$(BIN)/python -c 'import json; from nexus_runtime.manifest import json_schema; \
	    print(json.dumps(json_schema(), indent=1, sort_keys=True))' > docs/manifest-v2.schema.json

zoo: setup  ## fetch the real models that the tests use
	$(BIN)/python tests/zoo.py

conformance: setup  ## run ONNX's tests of single operators and write docs/onnx-conformance.md
	$(BIN)/nexusc conformance onnx --against onnxruntime --against tvm --write-docs docs/onnx-conformance.md

benchmarks: setup  ## hold Nexus against its peers and write docs/benchmarks.md (an hour)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,bench]'
	mkdir -p build
	for threads in 1 2; do for what in inference training; do \
	    $(BIN)/python benchmarks/$$what.py --threads $$threads --json \
	        > build/$$what-$$threads.json || exit 1; done; done
	$(BIN)/python benchmarks/page.py build/inference-1.json build/inference-2.json \
	    build/training-1.json build/training-2.json

build: setup  ## build the wheel
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:  ## remove what was built, but not the caches
	rm -rf $(VENV) build dist *.egg-info
