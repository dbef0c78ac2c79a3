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
	@git rev-parse --git-dir > /dev/null 2>&1 || \
	  { echo "$(CURDIR) is no git repository, which DVC needs: clone the project, or run 'git init' here"; exit 1; }
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

# Scripts of an environment name its place, so that in a folder that was moved or copied it is made anew.
PLACE := $(shell cat $(INSTALLED) 2> /dev/null)
ifneq ($(PLACE),$(CURDIR))
.PHONY: $(INSTALLED)
endif

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || \
	  { echo "Python 3.11 or 3.12 is needed: name it with 'make PYTHON=/path/to/python3.11 ...'"; exit 1; }
	$(PYTHON) -m venv $(if $(filter-out $(CURDIR),$(PLACE)),--clear) $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,paper]'
	@echo "$(CURDIR)" > $@

clean:
	rm -rf $(VENV) .scratch dvclive dvc_plots $(MADE)
