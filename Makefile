# make repro: the main job.  make test: everything CI checks.  Both make the environment first and only when it changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: repro test lint format clean

repro: $(INSTALLED)
	dvc repro
	@cat reports/table4.md
	@echo "The table is in reports/table4.csv, its figure in reports/table4.png, the pictures in reports/contact_sheets."

test: $(INSTALLED) lint
	python -m pytest

lint: $(INSTALLED)
	ruff format --check .
	ruff check .
	mypy

format: $(INSTALLED)
	ruff format .
	ruff check --fix .

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || \
	  { echo "Python 3.11 or 3.12 is needed: name it with 'make PYTHON=/path/to/python3.11 ...'"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,paper]'
	@touch $@

# What stages make: datasets/ and pretrained models in models/ are the user's.
clean:
	rm -rf $(VENV) .scratch data models/generator models/reid dvclive dvc_plots
