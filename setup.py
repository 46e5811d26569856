"""Builds the extension aefast._C: every kernel source once per instruction set, none of torch.

AEFAST_BUILD_CPP=0 leaves the extension out, for a pure wheel on which numba serves.
AEFAST_CUDA_ARCHS="80 90 100" puts the Triton kernels in, compiled for these CUDA architectures.
"""

import gzip
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py
from setuptools.command.egg_info import egg_info
from setuptools.command.sdist import sdist

# Found by looking: a list would leave out the next new one.
SOURCES = sorted(Path("csrc").rglob("*.cpp"))
# A kernel's source says so: its namespace is the instruction set's that it is compiled for.
KERNELS = [path for path in SOURCES if "namespace aefast::AEFAST_ISA" in path.read_text()]
# NAME_amx.cpp is compiled for matrix units alone, and the NAME.cpp beside it for them too.
AMX_KERNELS = [path for path in KERNELS if path.stem.endswith("_amx")]
AMX_KERNELS += [path.with_stem(path.stem.removesuffix("_amx")) for path in AMX_KERNELS]

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

# libgcc's half precision from the archive: the shared one has had it only since GCC 12.
# Before glibc 2.34, dlopen was in a library of its own.
LINK_FLAGS = [*OPENMP, *(["-s", "-lgcc", "-ldl"] if sys.platform == "linux" else [])]

# For `make sanitize`: "address,undefined" or "thread".
SANITIZERS = os.environ.get("AEFAST_SANITIZE")
STAND_INS = ["tests/csrc/openmp_on_threads.cpp"] if SANITIZERS == "thread" else []
if SANITIZERS:
    FLAGS += [f"-fsanitize={SANITIZERS}", "-fno-sanitize-recover=undefined", "-O1", "-g1"]
    LINK_FLAGS = [f"-fsanitize={SANITIZERS}", *(flag for flag in LINK_FLAGS if flag != "-s")]

# The one that setuptools takes.
COMPILER = shlex.split(os.environ.get("CXX") or sysconfig.get_config_var("CXX") or "c++")


def compiler_takes(flags, source=""):
    """Whether the compiler takes these flags and this source; what it says is of no interest."""
    command = [*COMPILER, *flags, "-fsyntax-only", "-x", "c++", "-"]
    done = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    return done.returncode == 0


def check_compiler():
    """End the build with what to do about it where the compiler is missing or too old."""
    try:
        if compiler_takes([*FLAGS, *OPENMP], "_Float16 half;"):
            return
        problem = f"{COMPILER[0]} is too old"
    except OSError:
        problem = f"there is no C++ compiler {COMPILER[0]}"
    sys.exit(
        f"aefast: {problem}: install g++ 12 (on ARM 13) or clang 15, or newer, which CXX may name, "
        "or set AEFAST_BUILD_CPP=0 for an installation on which numba serves"
    )


def extension_arguments():
    if os.environ.get("AEFAST_BUILD_CPP") == "0":
        return {"cmdclass": {"sdist": ReproducibleSdist, "bdist_wheel": PureWheel}}

    from pybind11.setup_helpers import Pybind11Extension
    from setuptools.command.build_ext import build_ext

    class BuildPerInstructionSet(build_ext):
        """Compiles on all cores, the kernels for each instruction set; setuptools then links."""

        def build_extension(self, extension):
            check_compiler()
            has_amx = IS_X86 and sys.platform == "linux" and compiler_takes(AMX)
            extension.extra_compile_args += ["-DAEFAST_X86"] if IS_X86 else []
            extension.extra_compile_args += ["-DAEFAST_AMX"] if has_amx else []
            build = Path(self.build_temp)
            rest, extension.sources = extension.sources, []
            jobs = [(source, build, []) for source in rest]
            jobs += [
                (source, build / name, [*KERNEL_FLAGS, "-DAEFAST_ISA=" + name, *flags])
                for source in KERNELS
                if not source.stem.endswith("_amx")
                for name, flags in INSTRUCTION_SETS.items()
            ]
            if has_amx:
                flags = [*KERNEL_FLAGS, "-DAEFAST_ISA=amx", *AMX]
                jobs += [(source, build / "amx", flags) for source in AMX_KERNELS]

            def compile_one(job):
                source, folder, flags = job
                return self.compiler.compile(
                    [str(source)],
                    output_dir=str(folder),
                    include_dirs=extension.include_dirs,
                    extra_postargs=[*extension.extra_compile_args, *flags],
                    depends=extension.depends,
                )

            with ThreadPoolExecutor(os.cpu_count()) as pool:
                for objects in pool.map(compile_one, jobs):
                    extension.extra_objects += objects
            super().build_extension(extension)

    extension = Pybind11Extension(
        "aefast._C",
        [*(str(source) for source in SOURCES if source not in KERNELS), *STAND_INS],
        include_dirs=["csrc"],
        # Kernels too: setuptools links anew only where one of these has changed.
        depends=sorted(str(path) for path in Path("csrc").rglob("*.*")),
        extra_compile_args=[*FLAGS, *OPENMP],
        extra_link_args=LINK_FLAGS,
    )
    commands = {"sdist": ReproducibleSdist, "build_ext": BuildPerInstructionSet}
    return {"ext_modules": [extension], "cmdclass": commands}


class ReproducibleSdist(sdist):
    """The same bytes from the same files, whoever packs them, where and when."""

    def make_archive(self, base_name, format, root_dir=None, base_dir=None, **owner):
        date = int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))

        def without_machine(member):
            member.mtime = date
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mode = 0o755 if member.mode & 0o100 else 0o644
            return member

        self.mkpath(self.dist_dir)
        archive = f"{base_name}.tar.gz"
        with (
            gzip.GzipFile(archive, "wb", mtime=date) as compressed,
            tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            tar.add(base_dir, filter=without_machine)
        return archive


class PureWheel(bdist_wheel):
    """A wheel without the extension runs on every platform."""

    def finalize_options(self):
        super().finalize_options()
        self.root_is_pure = True


def compile_cubins(*arguments, **options):
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
    """Which CUDA the cubins are of, as "+cu131"; an sdist carries none."""
    if not CUDA_ARCHS or "sdist" in sys.argv:
        return ""
    return "+cu" + compile_cubins("--assembler", stdout=subprocess.PIPE).strip().replace(".", "")


class LocalVersion(egg_info):
    """Adds to the metadata's version which CUDA the cubins are of."""

    def finalize_options(self):
        self.tag_build = LOCAL_VERSION  # goes before what an sdist's setup.cfg says: nothing
        super().finalize_options()


class BuildWithCubins(build_py):
    """Adds the cubins, and to the version which CUDA they are of."""

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
            compile_cubins("--cubins", str(package / "cubins"), "--jobs", str(os.cpu_count()))


CUDA_ARCHS = os.environ.get("AEFAST_CUDA_ARCHS", "").split()
LOCAL_VERSION = local_version()

arguments = extension_arguments()
arguments["cmdclass"] |= {"build_py": BuildWithCubins, "egg_info": LocalVersion}
# Folders with an __init__.py, found by looking: a list would leave out the next new one.
arguments["packages"] = [*find_packages(include=["aefast", "aefast.*"]), "aefast._benchmarks"]
# The pages' sources, which MANIFEST.in gives to an sdist.
arguments["exclude_package_data"] = {"aefast": ["docs/*"]}
setup(package_dir={"aefast._benchmarks": "benchmarks"}, **arguments)
