# Two commands on a fresh machine: `make serve` and `make test`. Everything is installed into .venv.
PYTHON ?= python3
PIP_ARGS ?=
BENCH_ARGS ?=
BIN := .venv/bin
.PHONY: setup serve test test-all lint check newcomer bench fuzz soak faults drills drills-report constraints lock clean

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

# Long drills, research and benchmarks as well.
test-all: .venv/.dev
	$(BIN)/python -m pytest -m "slow or not slow"

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test

# From text to answers in about three minutes, on a small corpus that the project writes itself.
newcomer: .venv/.dev
	$(BIN)/python -m research.quickstart

# The peers that we are measured against, in an environment of their own: nothing else needs them.
benchmarks/.venv/.peers: benchmarks/constraints.txt
	$(PYTHON) -m venv benchmarks/.venv
	benchmarks/.venv/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c benchmarks/constraints.txt \
		fastapi litserve numpy pydantic safetensors sentencepiece torch transformers 'uvicorn[standard]'
	touch $@

# Half an hour; BENCH_ARGS=--quick shows whether it works. docs/benchmarks.md says what is measured, and how.
bench: .venv/.dev benchmarks/.venv/.peers
	$(BIN)/python -m benchmarks.serving $(BENCH_ARGS)

# Some 15 minutes on an idle machine: 20,000 cases from the OpenAPI document against a live service, any text and any
# bytes, 600 altered checkpoints; all with the bundled one.
fuzz: .venv/.dev
	$(BIN)/python -m benchmarks.fuzz --count 20000
	FUZZ_CHECKPOINT=model/pretrained/default FUZZ_EXAMPLES=1000 $(BIN)/python -m pytest --timeout 0 tests/end_to_end/test_any_text.py
	$(BIN)/python -m benchmarks.mutations --count 600

# What goes wrong in a year, made to go wrong on real processes.
faults: .venv/.dev
	$(BIN)/python -m pytest tests/end_to_end/test_faults.py tests/end_to_end/test_service_process.py \
		tests/service/test_protocol.py tests/service/test_reloading.py tests/service/test_keyring.py tests/model/test_checkpoint.py

# The table in docs/operations.md: every drill in some 25 minutes, the soaks in 40 minutes more. Leave the machine alone.
drills: .venv/.dev
	$(BIN)/python -m benchmarks.operations
	$(BIN)/python -m benchmarks.operations --report

soak: .venv/.dev
	$(BIN)/python -m benchmarks.operations --parts soak soak_without_reloads --soak-minutes 30
	$(BIN)/python -m benchmarks.operations --report

drills-report: .venv/.dev
	$(BIN)/python -m benchmarks.operations --report

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
