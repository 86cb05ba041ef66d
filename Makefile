# The commands of the README and of development. Everything is installed into .venv from this
# folder's own files. The suite runs in two processes of one thread each, and the demo in one, which
# is faster than a process of two threads: most tests are too small to share.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo picture reference test test-cpus slow kills fuzz bench lint

.venv/core: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/dev: .venv/core
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: .venv/core
	OMP_NUM_THREADS=1 $(BIN)/isthmus demo --resume

picture: demo
	PYTHONPATH=tests $(BIN)/python docs/picture.py demo/report.html docs/report.png

# Every public name and its contract, as pages in reference/: the docstrings are the text.
reference: .venv/dev
	$(BIN)/pdoc --no-show-source --output-directory reference \
		isthmus $(patsubst isthmus/%/__init__.pyi,isthmus.%,$(wildcard isthmus/*/__init__.pyi))

test: .venv/dev lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow"

test-cpus: .venv/dev
	$(BIN)/python .ci/cpus.py

fuzz: .venv/dev
	OMP_NUM_THREADS=1 $(BIN)/python .ci/fuzz.py

slow: .venv/dev
	$(BIN)/python -m pytest -m slow

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

kills: .venv/dev
	OMP_NUM_THREADS=1 $(BIN)/python .ci/kills.py

bench: .venv/dev
	$(BIN)/python -m benchmarks
