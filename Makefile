# make demo, make test. Every target makes .venv and installs what it needs when that is missing.
PYTHON ?= python3
BIN := .venv/bin
# CONSTRAINTS= installs the newest versions that pyproject.toml allows.
CONSTRAINTS ?= constraints.txt
PIP_INSTALL := $(BIN)/pip install -q $(if $(CONSTRAINTS),-c $(CONSTRAINTS))
RUN ?= runs/demo

.PHONY: demo test check bench bench-kernels test-gpu test-learning test-reliability notebooks docs clean

demo: .venv/installed
	$(BIN)/iris-wm fit --config configs/demo.yaml --run $(RUN)
	$(BIN)/iris-wm report $(RUN)

test: .venv/installed-test
	$(BIN)/python -m pytest -m "not slow and not gpu"

check: .venv/installed-test .venv/installed-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy iris_wm kernels/iris_kernels
	$(BIN)/codespell

.venv/bin/pip:
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --upgrade "pip>=25.1"

.venv/installed: pyproject.toml $(CONSTRAINTS) | .venv/bin/pip
	$(PIP_INSTALL) -e .
	touch $@

.venv/installed-test: .venv/installed
	$(PIP_INSTALL) -e ".[video,play,sweep,hub,sb3]" --group test
	touch $@

.venv/installed-check: .venv/installed
	$(PIP_INSTALL) --group check
	touch $@
