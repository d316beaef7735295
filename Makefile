# Two commands from a fresh clone: `make quickstart` and `make test`. Both make .venv by themselves.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
# Two processes, each file of tests in one of them, the longest files first (tests/conftest.py).
PYTEST = JAX_PLATFORMS=cpu $(RUN) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder \
  --durations=25
PIP = $(VENV)/bin/pip install --quiet --disable-pip-version-check

.PHONY: help quickstart test test-all lint format clean

help:  ## what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | column -ts '|'

quickstart: $(VENV)/installed  ## write the built-in world, train, evaluate, draw the report (about 9 minutes)
	$(RUN) -m regionjax.main --config configs/quickstart.py --workdir runs/quickstart
	@echo "The report is $(CURDIR)/runs/quickstart/report.html"

test: $(VENV)/installed lint  ## lint and tests with the run-time packages
	$(PYTEST) -m "not tpu_compiler and not torch"

test-all: $(VENV)/installed-all lint  ## the same, and what needs PyTorch or the TPU compiler
	$(PYTEST)

lint: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

format: $(VENV)/installed  ## let ruff fix and format
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:  ## remove runs and the virtual environment
	rm -rf runs $(VENV)

# The stamp is written last, so an interrupted installation is taken up again.
$(VENV)/installed: requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else \
	  f"$(PYTHON) is Python {v[0]}.{v[1]}; 3.11, 3.12 or 3.13 is needed: make PYTHON=python3.11 …")'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update -qq \
	  && apt-get install -y -qq python3-venv; } \
	  || { echo "Python's venv module is missing; on Debian: apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) -r requirements.txt
	touch $@

$(VENV)/installed-all: requirements-all.txt $(VENV)/installed
	$(PIP) -r requirements-all.txt
	touch $@
