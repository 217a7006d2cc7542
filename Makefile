# One command each. `make env` makes everything the other targets need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 2

.PHONY: env run test check format bench bench-bits bench-prune bench-sparsity onnx-suite golden clean

env: $(STAMP)

# PyTorch first and pinned: its CPU build is picked up, and nothing asks for another one after it.
$(STAMP): pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade "pip>=24" "setuptools>=77" wheel
	$(BIN)/pip install --quiet --disable-pip-version-check -c requirements.lock torch
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation \
		-c requirements.lock -e ".[dev]"
	touch $(STAMP)

run: $(STAMP)
	PYTHONPATH=tools $(BIN)/python -m bench.demo

test: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	mkdir -p build/src/effc
	$(BIN)/python tools/dev/link_sources.py
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)
	PYTHONPATH=tools $(BIN)/python -m bench.speed $(BENCH)

onnx-suite: $(STAMP)
	PYTHONPATH=tools $(BIN)/python -W ignore -m bench.onnx_suite $(SUITE)

bench-bits: $(STAMP)
	PYTHONPATH=tools $(BIN)/python -m bench.bits $(BENCH)

bench-prune: $(STAMP)
	PYTHONPATH=tools $(BIN)/python -W ignore -m bench.pruning $(BENCH)

bench-sparsity: $(STAMP)
	PYTHONPATH=tools $(BIN)/python -W ignore -m bench.sparsity $(BENCH)

golden: $(STAMP)
	$(BIN)/python -m pytest -q tests/golden --rewrite-golden

clean:
	rm -rf build out bench/*.json .pytest_cache .mypy_cache .ruff_cache
