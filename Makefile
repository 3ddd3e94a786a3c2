# `make demo` generates images, `make test` runs the tests. Both set up everything they need in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# What tests compare with, apart from what sdcli needs.
REFERENCE := $(VENV)/reference
MINUTES ?= 1
# One test process for each core, with one thread each: threads that share a core wait for each other.
# Compiled modules are kept, whatever the user prefers: every worker and every command that a test runs imports them.
PYTEST := PYTHONDONTWRITEBYTECODE= HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadscope --no-loadscope-reorder

.PHONY: demo test check fuzz lint docs setup clean

demo: setup
	$(BIN)/sdcli txt2img "a red apple" -n 4 --n_samples 4 --outdir outputs/demo

test: setup $(REFERENCE)
	$(PYTEST) -m "not gpu and not full_size"

check: lint $(REFERENCE)
	$(PYTEST) -m "not slow and not gpu and not full_size"

fuzz: setup
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/fuzz --minutes $(MINUTES)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd training && ../$(BIN)/mypy --config-file ../pyproject.toml .
	$(BIN)/lint-imports

docs: setup
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group docs
	$(BIN)/python -m sdcli.cli.reference docs/settings.md docs/samplers.md
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sdcli needs Python 3.11 or later, this is " + sys.version.split()[0] + "; pass another one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group dev --editable .
	touch $@

$(REFERENCE): $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps --target $@ --group reference
	touch $@

clean:
	rm -rf $(VENV)
