# One command each; every target sets up the virtual environment first, and only once.
PYTHON ?= python3
BIN := .venv/bin

# glibc keeps the memory of freed arrays, which saves the tests a third of their time.
export MALLOC_MMAP_THRESHOLD_ := 1073741824
export MALLOC_TRIM_THRESHOLD_ := 1073741824

.PHONY: help env demo test test-plain-cpu test-lowest faults lint lab clean

help:
	@echo "make demo   run the study on the embedded corpus, the twin; ends with runs/demo/index.html"
	@echo "make test   run all tests"
	@echo "make test-plain-cpu   the tests of exactness as on a processor without AVX (x86)"
	@echo "make test-lowest   the same at the lowest versions of the dependencies that pyproject.toml promises"
	@echo "make faults   kill long operations, fill their disk and more, and see what a restart makes of it (half an hour)"
	@echo "make lint   check style and types"
	@echo "make lab    open JupyterLab on the notebooks"
	@echo "make env    only set up .venv"

env: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; call: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: env
	$(BIN)/cadenza run notebooks/studies/demo.yaml --out-dir runs/demo

test: env
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

test-plain-cpu: env
	OMP_NUM_THREADS=1 $(BIN)/python tests/plain_cpu.py $(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m "exact and not slow"

test-lowest: .venv-lowest/.installed
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest --numprocesses 2 --dist worksteal $(TESTS)

.venv-lowest/.installed: pyproject.toml tests/lowest.py
	$(PYTHON) -m venv .venv-lowest
	$(PYTHON) tests/lowest.py > .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check --constraint .venv-lowest/constraints.txt --editable '.[dev]'
	@touch $@

faults: env
	OMP_NUM_THREADS=1 $(BIN)/python tests/faults/campaign.py
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal tests/bad_input --hypothesis-profile campaign

lint: env
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

lab: env
	$(BIN)/jupyter lab --ip 127.0.0.1 --notebook-dir notebooks

clean:
	rm -rf .venv .venv-lowest runs
