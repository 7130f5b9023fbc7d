# Two commands for a newcomer: `make demo` and `make test`. Both build .venv first.
# On a Mac: `make test-metal`. Each framework without the other: `make test-isolated`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# One thread a worker: two pytest workers with two threads each fight over two cores.
TEST_ENV := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
WORKERS ?= 2
SYSTEM ?= $(shell uname -sm)
ISOLATED := .isolated

.PHONY: demo test test-fast test-metal test-isolated isolated-cpu isolated-mlx lint clean

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "dspec needs Python >= 3.11; run make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[torch,mlx,test]'
	@touch $@

demo: $(STAMP)
	HF_HUB_OFFLINE=1 $(BIN)/dspec demo

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tests.clauses

test: lint
	$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS)

test-fast: lint
	$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS) -m 'not slow'

# What a Mac's owner runs. float32 products in full float32 (GPUs of the M5 generation would round them).
test-metal:
	@test '$(SYSTEM)' = 'Darwin arm64' || { echo 'make test-metal needs a Mac with Apple silicon and Metal; this is $(SYSTEM).'; exit 1; }
	@$(MAKE) --no-print-directory $(STAMP)
	@$(BIN)/python -c 'import sys, mlx.core as mx; sys.exit(mx.default_device() != mx.Device(mx.gpu))' || { echo 'make test-metal needs MLX on Metal; here its default device is the CPU.'; exit 1; }
	MLX_ENABLE_TF32=0 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m mlx --forbid-skips
	HF_HUB_OFFLINE=1 $(BIN)/dspec demo --quick --backend mlx

# Environments of their own, the package installed as a user installs it: about 2 GB and some minutes.
test-isolated: isolated-cpu isolated-mlx

isolated-cpu: EXTRA := torch
isolated-mlx: EXTRA := mlx
isolated-cpu isolated-mlx: isolated-%:
	rm -rf build $(ISOLATED)/$*
	$(PYTHON) -m venv $(ISOLATED)/$*
	$(ISOLATED)/$*/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt '.[$(EXTRA)]'
	rm -rf build
	cd $(ISOLATED) && HF_HUB_OFFLINE=1 $*/bin/python -P ../tests/isolation.py $*

clean:
	rm -rf $(VENV) $(ISOLATED) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
