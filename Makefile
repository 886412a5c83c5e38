# Two commands do everything on a fresh Debian or Ubuntu machine with Python >= 3.10:
#   make demo    install, run the quickstart sweep on the emulator, draw its fronts
#   make test    install, lint, type-check, test
# And as root, on a real Slurm of four nodes that slurm/testcluster.py starts here:
#   make demo-slurm

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo demo-slurm test test-fast lint bench browser clean

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

test: $(VENV)/.installed-dev lint browser
	$(BIN)/pytest

# report.html is tested in a real browser: get one if we may, else its tests are skipped and say so.
browser:
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	      chromium chromium-driver >/dev/null || echo "no chromium here: the tests of report.html in a browser are skipped"; \
	  else echo "the tests of report.html in a browser are skipped; sudo apt-get install chromium chromium-driver"; fi; }

test-fast: $(VENV)/.installed-dev
	$(BIN)/pytest -m "not slow"

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/emulator_peaks.py
	$(BIN)/python benchmarks/loadgen --quick
	$(BIN)/python benchmarks/solve_speed.py

# ensurepip is missing where Debian's python3-venv is not installed: get it if we may, else say what to type.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "ratematch needs Python >= 3.10"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv >/dev/null \
	    && $(PYTHON) -m venv $(VENV); \
	  else echo "install Python's venv first: sudo apt-get install python3-venv"; exit 1; fi; }

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install -q -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install -q -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
