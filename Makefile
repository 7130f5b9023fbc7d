# Two commands for a newcomer: `make demo` and `make test`. Both build .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# One thread a worker: two pytest workers with two threads each fight over two cores.
TEST_ENV := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
WORKERS ?= 2

.PHONY: demo test test-fast lint clean

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

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
