# make setup | demo | test | lint | format | bench | wheel make .venv on first use; gpu-check does not.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := aefast benchmarks tests setup.py
CPP := $(wildcard csrc/*.h csrc/*.cpp tests/csrc/*.cpp)

.PHONY: setup demo test lint format bench wheel gpu-check clean

setup: $(VENV)/built

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt setuptools wheel
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch pybind11
	touch $@

$(VENV)/built: $(VENV)/installed setup.py $(CPP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation \
		--editable ".[test,lint]"
	touch $@

demo: setup
	$(BIN)/aefast demo --out demo.png
	$(BIN)/aefast figures linear denoising variational --out demo

test: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CPP)

format: setup
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/clang-format -i $(CPP)

bench: setup
	$(BIN)/aefast bench --json bench.json

# With CUDA_ARCHS="80 90 100" the wheel carries the Triton kernels, compiled for these.
CUDA_ARCHS ?= $(AEFAST_CUDA_ARCHS)
unexport AEFAST_CUDA_ARCHS

wheel: setup
	AEFAST_CUDA_ARCHS="$(CUDA_ARCHS)" $(BIN)/python -m pip wheel \
		$(if $(strip $(CUDA_ARCHS)),--verbose,--quiet) \
		--no-deps --no-build-isolation --wheel-dir dist .

# For a machine with a CUDA GPU and no network: uses the Python at hand and installs nothing.
gpu-check:
	$(PYTHON) benchmarks/gpu_check.py gpu-check.json

clean:
	rm -rf $(VENV) build dist *.egg-info aefast/_C.*.so
