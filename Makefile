# make demo, make test, make test-product. Every target makes .venv and installs what it needs when that is missing.
PYTHON ?= python3
BIN := .venv/bin
# CONSTRAINTS= installs the newest versions that pyproject.toml allows.
CONSTRAINTS ?= constraints.txt
PIP_INSTALL := $(BIN)/pip install -q $(if $(CONSTRAINTS),-c $(CONSTRAINTS))
# Two test processes of one thread each; more of either only get in each other's way on two cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
RUN ?= runs/demo

.PHONY: house demo test test-product check bench gpu bench-kernels test-gpu test-slow test-reliability test-learning notebooks docs

demo: .venv/installed
	$(BIN)/iris-wm fit --config configs/demo.yaml --run $(RUN)
	$(BIN)/iris-wm report $(RUN)

test: .venv/installed-test
	$(PYTEST) -n 2 --dist loadfile -m "not slow and not gpu and not product"

# Docs, notebooks, examples, the page in a browser, the rehearsed benchmarks, a small game learned.
test-product: .venv/installed-test
	$(PYTEST) -n 2 --dist load -m "product and not slow and not gpu"

check: .venv/installed-test .venv/installed-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy iris_wm kernels/iris_kernels
	$(BIN)/codespell
	$(BIN)/python tests/security/audit.py

# Minutes to hours: wide sweeps whole, all games' snapshots, whole notebooks, the benchmark with the real trainer.
test-slow: .venv/installed-test
	$(PYTEST) -m "slow and not gpu"

# The long form of the reliability tests: more kills, every bit, every call that can fail. It ends with a table;
# calls of pytest with the same results file add up, so that a part can be run again.
test-reliability: .venv/installed-test
	mkdir -p runs && rm -f runs/reliability.jsonl
	IRIS_RELIABILITY_RESULTS=$(CURDIR)/runs/reliability.jsonl IRIS_RELIABILITY_KILLS=100 \
	  IRIS_RELIABILITY_EPOCHS=200 IRIS_RELIABILITY_FLIPS=1000000 IRIS_RELIABILITY_CUTS=20 \
	  $(PYTEST) -v --durations=40 --timeout 3600 \
	  tests/test_bad_inputs.py tests/security tests/checkpoint tests/reliability

# Three seeds on the game for tests, and what must not learn; it ends with the returns and minutes of each.
test-learning: .venv/installed-test
	$(PYTEST) -rP -n 2 --dist load tests/learning

test-gpu: .venv/installed-test
	$(BIN)/python -m pytest -m gpu

# What the house measures: lines, files on a frame's way, what exists more than once.
house:
	@$(PYTHON) benchmarks/house.py

bench: .venv/installed
	$(BIN)/python benchmarks/speed/run.py

# The first quarter of an hour on a GPU; RESUME=--resume does what is missing.
gpu: .venv/installed-test
	$(BIN)/python benchmarks/gpu/run.py --minutes 9 --output runs/gpu $(RESUME)

bench-kernels: .venv/installed
	for kernel in attention decode_layers head_sample group_norm_silu; do \
	  $(BIN)/python kernels/benchmarks/$$kernel.py || exit 1; done

notebooks: .venv/installed-test
	IRIS_WM_SHORT=1 $(PYTEST) --nbmake --nbmake-timeout 600 notebooks

# The notebooks are run, so that the site shows what they print.
docs: .venv/installed-test
	mkdir -p docs/_build/notebooks && cp notebooks/*.ipynb docs/_build/notebooks
	PYTHONPATH=$(CURDIR)/notebooks $(PYTEST) -q --nbmake --overwrite --nbmake-timeout 600 docs/_build/notebooks
	DOCS_NOTEBOOKS=docs/_build/notebooks $(BIN)/python -m sphinx -W -q -b html docs docs/_build/html

.venv/bin/pip:
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --upgrade "pip>=25.1"

.venv/installed: pyproject.toml $(CONSTRAINTS) | .venv/bin/pip
	$(PIP_INSTALL) -e .
	touch $@

.venv/installed-test: .venv/installed
	$(PIP_INSTALL) -e ".[video,play,sweep,hub,sb3]" --group test --group docs
	touch $@

.venv/installed-check: .venv/installed
	$(PIP_INSTALL) --group check
	touch $@
