# Two commands on a fresh machine: `make serve` and `make test`. Everything is installed into .venv.
PYTHON ?= python3
PIP_ARGS ?=
BENCH_ARGS ?=
BIN := .venv/bin
.PHONY: setup serve test lint check newcomer bench constraints lock clean

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.serve: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e .
	touch $@

.venv/.dev: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[train,dev]'
	touch .venv/.serve $@

setup: .venv/.serve

serve: setup
	exec $(BIN)/python -m service

test: .venv/.dev
	$(BIN)/python -m pytest

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test

# From text to answers in about three minutes, on a small corpus that the project writes itself.
newcomer: .venv/.dev
	$(BIN)/python -m training.newcomer

# The peers that we are measured against, in an environment of their own: nothing else needs them.
benchmarks/.venv/.peers: benchmarks/constraints.txt
	$(PYTHON) -m venv benchmarks/.venv
	benchmarks/.venv/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c benchmarks/constraints.txt \
		fastapi litserve numpy pydantic safetensors sentencepiece torch transformers 'uvicorn[standard]'
	touch $@

# Half an hour; BENCH_ARGS=--quick shows whether it works. docs/benchmarks.md says what is measured, and how.
bench: .venv/.dev benchmarks/.venv/.peers
	$(BIN)/python -m benchmarks.serving $(BENCH_ARGS)

# Pin what is installed now, every transitive package included; the comment above the pins stays.
constraints: .venv/.dev
	{ sed '/^[^#]/d' constraints.txt; $(BIN)/python -m pip freeze --disable-pip-version-check --exclude-editable | sed 's/+.*//'; } > constraints.new
	mv constraints.new constraints.txt

# What the service image installs, with the hashes of its wheels.
lock: .venv/.serve
	$(BIN)/python deploy/lock.py > lock.new
	mv lock.new deploy/requirements.lock

clean:
	rm -rf .venv benchmarks/.venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
