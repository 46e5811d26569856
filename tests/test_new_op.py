"""Adding an op is adding a folder: in a copy of the tree with one more it is found everywhere."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="needs the source tree")

FILES = {
    "__init__.py": '''
"""Half of a tensor."""

import torch
from torch import Tensor

from aefast import backend
from aefast.ops.shared import checks
from aefast.ops.shared.public import public

__all__ = ["halve"]


@public
def halve(x: Tensor) -> Tensor:
    """Half of ``x``.

    >>> halve(torch.ones(2))
    tensor([0.5000, 0.5000])
    """
    checks.check_tensor(x, "x")
    kernels = backend.implementation("halve", backend.select(x.device, x.dtype))
    return kernels.halve(x.detach())
''',
    "eager.py": "def halve(x):\n    return x / 2\n",
    "cpp.py": "def halve(x):\n    return x * 0.5\n",
    "numba.py": "def halve(x):\n    return x * 0.5\n",
    "triton.py": """
from aefast.ops.shared.triton import Variant


def variants(generation):
    yield Variant("halve.triton_kernels.halve_kernel", {"x_pointer": "*fp32"}, {"BLOCK": 128})


def halve(x):
    return x * 0.5
""",
    "selftest.py": """
import torch

from aefast.ops.halve import halve
from aefast.ops.shared.selftest_case import Case, generators


def cases():
    normal, _ = generators()
    matrix = (normal(33, 47),)
    return [Case("halve", "a matrix", halve, matrix, same_bits=True, dtypes=(torch.float32,))]
""",
}

SOURCES = {
    "halve.h": """
#pragma once

#include <cstdint>

#include "shared/isa.h"

namespace aefast {

AEFAST_DECLARE_KERNELS(void halve(const float* x, float* output, int64_t size);)

}  // namespace aefast
""",
    "halve.cpp": """
#include "ops/halve/halve.h"

namespace aefast::AEFAST_ISA {

void halve(const float* x, float* output, int64_t size) {
    for (int64_t i = 0; i < size; ++i) output[i] = x[i] / 2;
}

}  // namespace aefast::AEFAST_ISA
""",
    "bindings.cpp": """
#include <pybind11/pybind11.h>

#include "bindings/binding.h"
#include "ops/halve/halve.h"

namespace aefast {
namespace {

void bind(pybind11::module_& module) {
    module.def("halve", [](uintptr_t x, uintptr_t output, int64_t size) {
        AEFAST_RUN(halve, pointer<const float*>(x), pointer<float*>(output), size);
    });
}

const Binding binding(bind);

}  // namespace
}  // namespace aefast
""",
}

COMPILED = """
import torch

from aefast.backend import extension


def halve(x):
    output = torch.empty_like(x)
    extension().halve(x.data_ptr(), output.data_ptr(), x.numel())
    return output
"""

PROGRAM = """
import torch, aefast
from aefast import aot, functional, selftest
from aefast.cli import bench

print(functional.halve(torch.ones(1)).item(), "halve" in functional.__all__)
cases = [case for case in selftest.cases() if case.op == "halve"]
print(len(cases), all(outcome.passed for outcome in selftest.run(selftest.targets(), cases)))
print("halve" in aot.OPS, len(aot.variants("halve", 90)))
print(bench.benchmarks(bench.find_suite())["halve"].name)
"""


@pytest.fixture
def tree(tmp_path):
    """A copy of the tree with one more op, ``halve``."""
    for name in ("aefast", "benchmarks"):
        ignore = shutil.ignore_patterns("__pycache__", "results", "docs")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignore)
    folder = tmp_path / "aefast" / "ops" / "halve"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text.lstrip())
    return tmp_path


def python(tree, *arguments):
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_found_by_the_functions_the_selftest_the_compiler_and_the_benchmarks(tree):
    pytest.importorskip("typer")
    lines = python(tree, "-c", PROGRAM).split("\n")
    assert lines[:4] == ["0.5 True", "1 True", "True 1", "bench_cases.py"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_its_kernels_are_compiled_for_every_instruction_set_and_bound(tree):
    for name in ("csrc", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tree / name)
    for extension in (tree / "aefast").glob("_C*.so"):
        extension.unlink()
    folder = tree / "csrc" / "ops" / "halve"
    folder.mkdir()
    for name, text in SOURCES.items():
        (folder / name).write_text(text.lstrip())
    (tree / "aefast" / "ops" / "halve" / "cpp.py").write_text(COMPILED.lstrip())
    python(tree, "setup.py", "-q", "build_ext", "--inplace")
    program = PROGRAM + "print(hasattr(aefast.backend.extension(), 'halve'))"
    lines = python(tree, "-c", program).split("\n")
    assert (lines[1], lines[4]) == ("1 True", "True")


@pytest.mark.slow
def test_the_example_in_its_docstring_is_run(tree):
    command = [
        "-m",
        "pytest",
        "-q",
        "--doctest-modules",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
    ]
    run = python(tree, *command, "aefast/functional.py", "-k", "halve")
    assert "1 passed" in run
