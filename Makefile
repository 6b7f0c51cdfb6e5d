# On a fresh machine run make demo, make test or make docs. Each first installs everything into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test bench lint types quick soak docs picture clean

demo: $(READY)
	$(BIN)/coyo-jobs demo demo

# Two workers: tests wait more than they compute. What each of them gets: tests/support/scheduling.py.
PYTEST := $(BIN)/pytest --numprocesses 2 --dist loadscope --no-loadscope-reorder

test: lint types
	$(PYTEST)

bench: $(READY)
	$(BIN)/python -m benchmarks

# What needs neither Ray, whole runs, retries that wait nor decoders that hang.
WAITING := tests/end_to_end tests/storage/test_faults.py tests/images/test_isolated.py tests/fetch/test_answers.py
quick: $(READY)
	$(PYTEST) -m "not ray and not slow and not soak" -x $(addprefix --ignore ,$(WAITING))

# By hand, before a release: every crash window through Ray, the image, and a job that is killed again and again.
soak: $(READY)
	$(BIN)/pytest -m soak
	$(BIN)/python -m benchmarks.kill_soak soak

# A site of static files in site/; the reference in it is made from the code.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs --quiet build --strict
	@echo "open site/index.html"

picture: $(READY)
	$(BIN)/python -m docs.generate.picture

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

types: $(READY)
	$(BIN)/mypy

# Install torch first: the next command keeps it. On Linux PyPI has the CUDA build. For the far smaller CPU build set
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu in the environment.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) demo site soak .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
