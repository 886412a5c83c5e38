# Two commands do everything on a fresh Debian or Ubuntu machine with Python >= 3.10:
#   make demo    install, run the quickstart sweep on the emulator, draw its fronts
#   make test    install, lint, type-check, test
# And as root, on a real Slurm of four nodes that slurm/testcluster.py starts here:
#   make demo-slurm
# With NVIDIA Dynamo's own frontend and runtime (make dynamo installs them beside ratematch, from PyPI):
#   make demo-dynamo

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Dynamo's frontend and runtime, which emulated workers register with: 260 MB, and no package beside ratematch's own.
DYNAMO ?= 1.6.1
# Processes that run tests: more than processors, for most of them wait for servers and for Slurm. The fifth has quick
# tests, which fill what the others leave (tests/support/scheduler.py).
WORKERS ?= 5
# Where the real tritonserver is installed that runs on the CPU, for tests; the emulator finds it by RATEMATCH_TRITON.
TRITON ?= build/triton

# The tests start hundreds of Python processes: without its cache each would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo demo-slurm demo-dynamo dynamo test dynamo-for-tests tests counted test-fast fuzz fuzz-wire fuzz-properties kill lint bench packages triton site clean

demo: $(VENV)/.installed
	$(BIN)/ratematch sweep sweeps/quickstart.yaml
	$(BIN)/ratematch pareto results/quickstart

demo-slurm: $(VENV)/.installed
	$(BIN)/python slurm/testcluster.py start
	@eval "$$($(BIN)/python slurm/testcluster.py env)"; status=0; \
	$(BIN)/ratematch sweep sweeps/quickstart.yaml --executor slurm --max-jobs 2 \
	  --set cluster=testcluster -o results/quickstart-slurm \
	&& $(BIN)/ratematch status results/quickstart-slurm \
	&& $(BIN)/ratematch pareto results/quickstart-slurm || status=$$?; \
	$(BIN)/python slurm/testcluster.py stop; exit $$status

demo-dynamo: $(VENV)/.installed dynamo
	$(BIN)/ratematch sweep sweeps/quickstart-dynamo.yaml
	$(BIN)/ratematch pareto results/quickstart-dynamo

# Without their dependencies: those are GPU packages, tools for Kubernetes, and what ratematch has anyway.
dynamo: $(VENV)/bin/python
	@$(BIN)/python -c 'import sys; from importlib.metadata import version as v; sys.exit({v("ai-dynamo"), v("ai-dynamo-runtime")} != {"$(DYNAMO)"})' 2>/dev/null \
	|| $(BIN)/python -m pip install -q --no-deps --no-compile ai-dynamo==$(DYNAMO) ai-dynamo-runtime==$(DYNAMO)

# What takes its time runs beside each other: Debian's packages beside pip, checks and counting beside what is left of
# the packages, and checks beside tests.
test: $(VENV)/bin/python
	@$(MAKE) --no-print-directory -j3 --keep-going packages lint tests

tests: packages counted triton
	$(BIN)/pytest -n $(WORKERS)

# It only counts, and leaves every module compiled, which each of the processes of the tests would else do by itself.
counted: $(VENV)/.installed-dev dynamo-for-tests
	$(BIN)/pytest --collect-only -q | tail -1

# After the other packages: pip would call what Dynamo does without a conflict.
dynamo-for-tests: $(VENV)/.installed-dev
	@$(MAKE) --no-print-directory dynamo || echo "no Dynamo here: the tests with its frontend and runtime are skipped"

# A browser for report.html, a real Slurm, etcd and NATS: get them if we may, else their tests are skipped and say so.
packages:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  command -v chromium >/dev/null && command -v chromedriver >/dev/null || { \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	      chromium chromium-driver >/dev/null || echo "no chromium here: the tests of report.html in a browser are skipped"; }; \
	  $(PYTHON) slurm/testcluster.py install || true; \
	  command -v etcd >/dev/null && command -v nats-server >/dev/null || { \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	      etcd-server nats-server >/dev/null || echo "no etcd or NATS here: the tests that need them are skipped"; }; \
	else echo "not root: tests in a browser and on a real Slurm are skipped where chromium and Slurm are not there"; fi

# A tritonserver for the CPU, in an environment of its own because its Python models need NumPy 1, and Triton's parser of
# configurations. Where it cannot be had (another processor, no network) its tests are skipped and say so.
triton: $(VENV)/bin/python
	@$(MAKE) --no-print-directory $(TRITON)/.installed || echo "no tritonserver here: its tests are skipped"

$(TRITON)/.installed: $(VENV)/bin/python
	@$(BIN)/python -m venv --without-pip $(TRITON)
	@$(BIN)/python -m pip --python $(TRITON)/bin/python install -q --no-compile --no-deps \
	  nvidia-pytriton==0.7.0 'numpy<2' tritonclient==2.51.0 'protobuf<6'
	@version=$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	if ! ldconfig -p | grep -q "libpython$$version.so.1.0" && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get -o DPkg::Lock::Timeout=120 install -y -qq --no-install-recommends libpython$$version >/dev/null || true; fi
	@touch $@

test-fast: $(VENV)/.installed-dev
	$(BIN)/pytest -m "not slow"

# Hostile inputs, seed after seed: make fuzz SEEDS=10 MINUTES=60 INPUTS=10000 KINDS=sweeps,tables FIRST=1
SEEDS ?= 10
MINUTES ?= 60
INPUTS ?= 10000
FIRST ?= 1
KINDS ?=
fuzz: $(VENV)/.installed-dev fuzz-wire fuzz-properties
	nice $(BIN)/python -m tests.fuzz --seeds $(SEEDS) --first $(FIRST) --minutes $(MINUTES) --inputs $(INPUTS) \
	  $(if $(KINDS),--kinds $(KINDS))

# Hostile answers on the wire: WIRE_INPUTS of each seed.
WIRE_INPUTS ?= 100000
fuzz-wire: $(VENV)/.installed-dev
	nice $(BIN)/python -m tests.fuzz.wire --seeds $(SEEDS) --first $(FIRST) --inputs $(WIRE_INPUTS)

# Properties with many times the examples of CI, other ones each time; streams and damaged folders by their thousands.
EXAMPLES ?= 10
fuzz-properties: $(VENV)/.installed-dev
	EXAMPLES=$(EXAMPLES) RANDOM_EXAMPLES=1 RATEMATCH_STREAM_CASES=20000 FUZZ_CASES=100 nice $(BIN)/pytest --timeout 3600 \
	  tests/engines/test_plan_and_emulator.py tests/exchange/test_imports.py tests/exchange/test_dynamo_recipes.py \
	  tests/loadgen/test_streamcases.py tests/fuzz/test_damaged_folders.py

# Kills the processes of a tiny sweep at random instants: make kill MINUTES=60 FIRST=1
kill: $(VENV)/.installed-dev
	$(BIN)/python -m tests.run.killing --minutes $(MINUTES) --seed $(FIRST)

lint: $(VENV)/.installed-dev
	nice $(BIN)/ruff check .
	nice $(BIN)/ruff format --check .
	nice $(BIN)/mypy
	nice $(BIN)/lint-imports

# The documentation as a site, in build/site; tests/test_site.py builds the same in CI.
site: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/emulator_peaks.py
	$(BIN)/python benchmarks/loadgen --quick
	$(BIN)/python benchmarks/solve_speed.py

# ensurepip is missing where Debian's python3-venv is not installed: get it if we may, else say what to type.
# The pip that comes with a Python is as old as that: 2026's looks through package indexes with half the work.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "ratematch needs Python >= 3.10"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv >/dev/null \
	    && $(PYTHON) -m venv $(VENV); \
	  else echo "install Python's venv first: sudo apt-get install python3-venv"; exit 1; fi; }
	@$(BIN)/python -m pip install -q --no-compile --upgrade pip || echo "pip stays as it came with Python"

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install -q -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install -q --no-compile -e '.[dev]'
	@touch $(VENV)/.installed $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
