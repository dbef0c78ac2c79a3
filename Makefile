# make repro: the main job.  make check: format, lint, types, quick tests.  make test: all that CI checks.
# Each makes the environment first, and only when it changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# As many processes as cores. The tests of a file share what they made, so that a file is the work of one.
PYTEST := python -m pytest -n auto --dist loadfile --no-loadscope-reorder --durations 10
# What stages make in data/ and models/; whatever else lies there is the user's.
MADE := $(addprefix data/,arm_judges checked.txt copies identity index.csv leaked.csv leaked_validation.csv plans poses.csv reid \
  rejected.csv subsets synthetic world) models/generator models/reid

export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: repro check test lint format clean

repro: $(INSTALLED)
	python -m dvc repro
	@cat reports/table4.md
	@echo "The table is in reports/table4.csv, its figure in reports/table4.png, the pictures in reports/contact_sheets."

check: $(INSTALLED) lint
	$(PYTEST) -m "not slow"

test: $(INSTALLED) lint
	$(PYTEST)

lint: $(INSTALLED)
	python -m ruff format --check .
	python -m ruff check .
	python -m mypy

format: $(INSTALLED)
	python -m ruff format .
	python -m ruff check --fix .

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || \
	  { echo "Python 3.11 or 3.12 is needed: name it with 'make PYTHON=/path/to/python3.11 ...'"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,paper]'
	@touch $@

clean:
	rm -rf $(VENV) .scratch dvclive dvc_plots $(MADE)
