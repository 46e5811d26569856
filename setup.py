"""Builds the extension aefast._C: every kernel source once per instruction set, none of torch.

AEFAST_BUILD_CPP=0 leaves the extension out, for a pure wheel on which numba serves.
"""

import os
import platform
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel

KERNELS = ["binary", "corrupt", "fingerprint", "gaussian", "gemm", "gibbs", "jacobian"]
KERNELS += ["linear_act", "reconstruction", "sparse_coding", "sparsity"]
MATRIX_UNIT_KERNELS = ["gemm", "gemm_amx"]
COMMON = ["bindings", "cuda_driver", "cuda_kernel", "isa", "pages", "parallel"]

FLAGS = ["-std=c++17", "-O3", "-g0", "-fvisibility=hidden", "-Wall", "-Wextra"]
# GCC 12 sees uninitialized values inside its own AVX-512 intrinsics.
FLAGS += ["-Wno-maybe-uninitialized", "-Wno-uninitialized", "-Wno-unknown-pragmas"]
# What vectorizing needs of -ffast-math, and none of what changes NaN, infinity or rounding.
KERNEL_FLAGS = ["-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"]

AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]
AVX512 += ["-mprefer-vector-width=512"]

AMX = [*AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-bf16"]

IS_X86 = platform.machine().lower() in ("x86_64", "amd64")
INSTRUCTION_SETS = {"baseline": []} | ({"avx2": AVX2, "avx512": AVX512} if IS_X86 else {})
OPENMP = [] if sys.platform == "darwin" else ["-fopenmp"]
# -s leaves out the symbols' names; before glibc 2.34, dlopen was in a library of its own.
LINUX_LINK = ["-s", "-ldl"] if sys.platform == "linux" else []


def compiler_takes(flags):
    """Whether the compiler knows these flags; what it says about them is of no interest."""
    compiler = shlex.split(os.environ.get("CXX", "g++"))
    command = [*compiler, *flags, "-x", "c++", "-E", os.devnull]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def extension_arguments():
    if os.environ.get("AEFAST_BUILD_CPP") == "0":
        return {"cmdclass": {"bdist_wheel": PureWheel}}

    from pybind11.setup_helpers import Pybind11Extension
    from setuptools.command.build_ext import build_ext

    has_amx = IS_X86 and sys.platform == "linux" and compiler_takes(AMX)
    macros = [*(["-DAEFAST_X86"] if IS_X86 else []), *(["-DAEFAST_AMX"] if has_amx else [])]

    class BuildPerInstructionSet(build_ext):
        """Compiles the kernels' objects first; setuptools then links them with the rest."""

        def build_extension(self, extension):
            build = Path(self.build_temp)
            jobs = [
                (source, build / name, ["-DAEFAST_ISA=" + name, *flags])
                for source in KERNELS
                for name, flags in INSTRUCTION_SETS.items()
            ]
            if has_amx:
                flags = ["-DAEFAST_ISA=amx", *AMX]
                jobs += [(source, build / "amx", flags) for source in MATRIX_UNIT_KERNELS]

            def compile_kernel(job):
                source, folder, flags = job
                return self.compiler.compile(
                    [f"csrc/{source}.cpp"],
                    output_dir=str(folder),
                    extra_postargs=[*extension.extra_compile_args, *KERNEL_FLAGS, *flags],
                    depends=extension.depends,
                )

            with ThreadPoolExecutor(os.cpu_count()) as pool:
                for objects in pool.map(compile_kernel, jobs):
                    extension.extra_objects += objects
            super().build_extension(extension)

    extension = Pybind11Extension(
        "aefast._C",
        [f"csrc/{source}.cpp" for source in COMMON],
        include_dirs=["csrc"],
        # Kernels too: setuptools links anew only where one of these has changed.
        depends=sorted(str(path) for path in Path("csrc").iterdir()),
        extra_compile_args=[*FLAGS, *OPENMP, *macros],
        extra_link_args=[*OPENMP, *LINUX_LINK],
    )
    return {"ext_modules": [extension], "cmdclass": {"build_ext": BuildPerInstructionSet}}


class PureWheel(bdist_wheel):
    """A wheel without the extension runs on every platform."""

    def finalize_options(self):
        super().finalize_options()
        self.root_is_pure = True


setup(**extension_arguments())
