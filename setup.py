"""Builds the extension aefast._C: every kernel source once per instruction set, none of torch.

AEFAST_BUILD_CPP=0 leaves the extension out, for a pure wheel on which numba serves.
AEFAST_CUDA_ARCHS="80 90 100" puts the Triton kernels in, compiled for these CUDA architectures.
"""

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

KERNELS = ["binary", "corrupt", "fingerprint", "gaussian", "gemm", "gibbs", "jacobian"]
KERNELS += ["linear_act", "reconstruction", "sparse_coding", "sparsity"]
MATRIX_UNIT_KERNELS = ["gemm", "gemm_amx"]
COMMON = ["bindings", "isa", "pages", "parallel"]

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
        extra_link_args=[*OPENMP, *(["-s"] if sys.platform == "linux" else [])],
    )
    return {"ext_modules": [extension], "cmdclass": {"build_ext": BuildPerInstructionSet}}


class PureWheel(bdist_wheel):
    """A wheel without the extension runs on every platform."""

    def finalize_options(self):
        super().finalize_options()
        self.root_is_pure = True


def cuda_binaries(*arguments, **options):
    """Compiles for AEFAST_CUDA_ARCHS; what stands against it ends the build with one line."""
    if os.environ.get("AEFAST_BUILD_CPP") == "0":
        raise SystemExit("aefast: AEFAST_CUDA_ARCHS needs the extension: unset AEFAST_BUILD_CPP")
    if find_spec("torch") is None:
        raise SystemExit(
            "aefast: AEFAST_CUDA_ARCHS needs torch and triton: pip install torch 'triton>=3.6', "
            "then build with --no-build-isolation"
        )
    command = [sys.executable, "-m", "aefast.aot", "--archs", *CUDA_ARCHS, *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(command, env=environment, text=True, **options)
    if done.returncode != 0:
        raise SystemExit(done.returncode)
    return done.stdout


def local_version():
    """Which CUDA the binaries are of, as "+cu131"; an sdist carries none."""
    if not CUDA_ARCHS or "sdist" in sys.argv:
        return ""
    return "+cu" + cuda_binaries("--assembler", stdout=subprocess.PIPE).strip().replace(".", "")


class BuildWithBinaries(build_py):
    """Adds the CUDA binaries, and to the version which CUDA they are of."""

    def run(self):
        if CUDA_ARCHS and self.editable_mode:
            raise SystemExit("aefast: AEFAST_CUDA_ARCHS is for wheels: unset it, or leave -e out")
        super().run()
        if self.editable_mode:
            return
        package = Path(self.build_lib, "aefast")
        version = Path("aefast", "version.py").read_text()
        version = re.sub(r'(__version__ = "[^"]+)', rf"\g<1>{LOCAL_VERSION}", version)
        (package / "version.py").write_text(version)
        shutil.rmtree(package / "cubins", ignore_errors=True)
        if CUDA_ARCHS:
            cuda_binaries("--cubins", str(package / "cubins"), "--jobs", str(os.cpu_count()))


CUDA_ARCHS = os.environ.get("AEFAST_CUDA_ARCHS", "").split()
LOCAL_VERSION = local_version()

arguments = extension_arguments()
arguments["cmdclass"]["build_py"] = BuildWithBinaries
setup(**arguments, options={"egg_info": {"tag_build": LOCAL_VERSION}})
