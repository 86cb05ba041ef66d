# The two commands of the README, and the benchmarks. Everything is installed into .venv from this folder's own files.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test slow bench lint

.venv/core: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/dev: .venv/core
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: .venv/core
	$(BIN)/isthmus demo --resume

test: .venv/dev lint
	$(BIN)/python -m pytest -m "not slow"

slow: .venv/dev
	$(BIN)/python -m pytest -m slow

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/dev
	$(BIN)/python -m benchmarks
