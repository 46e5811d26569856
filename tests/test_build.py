"""The build: wheels, messages of failed compilations, no symbols shared by instruction sets."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ["aefast", "benchmarks", "csrc", "tests", "pyproject.toml", "setup.py", "MANIFEST.in"]
SOURCES += ["README.md", "LICENSE"]

needs_source = pytest.mark.skipif(
    not (ROOT / "setup.py").exists() or shutil.which("g++") is None,
    reason="needs the source tree and g++",
)


@pytest.fixture
def tree(tmp_path):
    """A copy of the source tree without build outputs."""
    return copy_sources(tmp_path)


def copy_sources(folder):
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            ignore = shutil.ignore_patterns("*.so", "__pycache__", "results")
            shutil.copytree(source, folder / name, ignore=ignore)
        else:
            shutil.copy(source, folder / name)
    return folder


def python(tree, *arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=tree,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@needs_source
def test_a_pure_wheel_runs_everywhere_and_carries_types_and_benchmarks(tree):
    built = python(tree, "setup.py", "-q", "bdist_wheel", AEFAST_BUILD_CPP="0")
    assert built.returncode == 0, built.stderr
    (wheel,) = (tree / "dist").glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in names if name.endswith((".so", ".cpp", ".h"))]
    assert not [name for name in names if name.startswith("aefast/docs")]
    assert {name.split("/")[0] for name in names} == {"aefast", "aefast-0.1.0.dist-info"}
    assert {"aefast/py.typed", "aefast/_C.pyi"} <= set(names)
    assert {f"aefast/_benchmarks/{name}" for name in ("harness.py", "page.html")} <= set(names)
    assert "aefast/ops/corrupt/numba.py" in names


# A fake compiler: the build reads its output, and the folder that it fills.
COMPILER = """
import sys
from pathlib import Path

if "70" in sys.argv:
    raise SystemExit("aefast: the CUDA architecture is '70'")
if "--assembler" in sys.argv:
    print("13.1")
else:
    folder = Path(sys.argv[sys.argv.index("--cubins") + 1])
    folder.mkdir()
    (folder / "manifest.json").write_text(" ".join(sys.argv[2:4]))
"""


def stand_in(tree):
    (tree / "aefast" / "aot.py").write_text(COMPILER)
    (tree / "aefast" / "__init__.py").write_text("")  # which would import torch


def build_package(tree, **environment):
    """Run build_py, which compiles no C++, and write the wheel's metadata, as from an sdist."""
    stand_in(tree)
    (tree / "setup.cfg").write_text("[egg_info]\ntag_build = \ntag_date = 0\n")
    commands = ["build_py", "--build-lib", "build/lib", "dist_info"]
    built = python(tree, "setup.py", "-q", *commands, **environment)
    assert built.returncode == 0, built.stderr
    package = tree / "build" / "lib" / "aefast"
    (described,) = tree.glob("aefast-*.dist-info")
    shutil.rmtree(described)
    return package, described.name.removesuffix(".dist-info").removeprefix("aefast-")


@needs_source
def test_a_cuda_build_carries_the_cubins_and_names_their_cuda_version(tree):
    package, version = build_package(tree, AEFAST_CUDA_ARCHS="80 90")
    assert (package / "cubins" / "manifest.json").read_text() == "80 90"
    assert version == "0.1.0+cu131"
    assert '__version__ = "0.1.0+cu131"' in (package / "version.py").read_text()


@needs_source
def test_a_build_after_a_cuda_build_carries_nothing_of_it(tree):
    build_package(tree, AEFAST_CUDA_ARCHS="80 90")
    package, version = build_package(tree, AEFAST_CUDA_ARCHS="")
    assert not (package / "cubins").exists()
    assert version == "0.1.0"
    assert (package / "version.py").read_text() == (tree / "aefast" / "version.py").read_text()


@needs_source
@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"AEFAST_CUDA_ARCHS": "90 70"}, "aefast: the CUDA architecture is '70'"),
        ({"AEFAST_CUDA_ARCHS": "90", "AEFAST_BUILD_CPP": "0"}, "unset AEFAST_BUILD_CPP"),
        ({"AEFAST_CUDA_ARCHS": "90", "WITHOUT": "torch"}, "--no-build-isolation"),
    ],
)
def test_a_cuda_build_that_cannot_be_stops_at_once_with_one_line(tree, environment, message):
    stand_in(tree)
    program = (
        "import importlib.util as u, os, runpy, sys; found = u.find_spec; "
        "u.find_spec = lambda n, *a: None if n == os.environ.get('WITHOUT') else found(n, *a); "
        "sys.argv = ['setup.py', 'bdist_wheel']; runpy.run_path('setup.py', run_name='__main__')"
    )
    built = python(tree, "-c", program, **environment)
    assert built.returncode != 0
    assert message in built.stderr
    assert built.stderr.startswith("aefast: ")
    assert built.stderr.count("\n") == 1
    assert not (tree / "build").exists()


def pack(tree):
    """The sdist of a tree, and the pure wheel that is built from that sdist."""
    date = 1767225600
    environment = {"AEFAST_BUILD_CPP": "0", "SOURCE_DATE_EPOCH": str(date)}
    packages = []
    for kind in ("sdist", "bdist_wheel"):
        done = python(tree, "setup.py", "-q", kind, **environment)
        assert done.returncode == 0, done.stderr
        (packed,) = (tree / "dist").iterdir()
        packages.append(packed.read_bytes())
        if kind == "sdist":
            shutil.unpack_archive(packed, tree / "unpacked")
            (tree,) = (tree / "unpacked").iterdir()
    assert int.from_bytes(packages[0][4:8], "little") == date  # gzip's own, in seconds
    return packages


@needs_source
def test_two_builds_in_different_folders_give_the_same_bytes(tmp_path):
    here = copy_sources(tmp_path / "here")
    elsewhere = copy_sources(tmp_path / "some" / "where" / "else")
    for path in elsewhere.rglob("*"):
        if path.is_file():
            path.chmod(0o600)
            os.utime(path, (10**9, 10**9))
    assert pack(here) == pack(elsewhere)


@needs_source
def test_an_sdist_holds_all_that_building_and_testing_takes(tree):
    assert python(tree, "setup.py", "-q", "sdist", AEFAST_BUILD_CPP="0").returncode == 0
    with tarfile.open(next((tree / "dist").iterdir())) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    files = [path for name in SOURCES for path in (tree / name, *(tree / name).rglob("*"))]
    assert {str(path.relative_to(tree)) for path in files if path.is_file()} <= packed


@needs_source
@pytest.mark.parametrize(
    ("compiler", "problem"),
    [
        ("no-such-compiler", "there is no C++ compiler no-such-compiler"),
        ("false", "false is too old"),  # refuses whatever it is given, as g++ 11 does _Float16
    ],
)
def test_without_a_fit_compiler_the_build_says_in_one_line_what_to_do(tree, compiler, problem):
    built = python(tree, "setup.py", "-q", "build_ext", "--inplace", CXX=compiler)
    assert built.returncode != 0
    assert built.stderr.startswith(f"aefast: {problem}: install g++ 12")
    assert "AEFAST_BUILD_CPP=0" in built.stderr
    assert len(built.stderr.splitlines()) == 1


@needs_source
def test_a_failed_compile_ends_the_build_with_the_compilers_message(tree):
    for source in (tree / "csrc").rglob("*.cpp"):
        source.write_text("#error broken on purpose\n")
    built = python(tree, "setup.py", "build_ext", "--inplace")
    assert built.returncode != 0
    assert "broken on purpose" in built.stdout + built.stderr
    assert not list((tree / "aefast").glob("_C*.so"))


# Together these include every header of the kernels; the others would take half a minute.
QUICK = ("mersenne_twister", "mlp", "rbm_step", "sparse_coding", "step", "topk")
# The one that has a single instruction set shares with no other.
KERNELS = [
    pytest.param(
        path.relative_to(ROOT).with_suffix(""), marks=[pytest.mark.slow] * (path.stem not in QUICK)
    )
    for path in sorted((ROOT / "csrc").rglob("*.cpp"))
    if "namespace aefast::AEFAST_ISA" in path.read_text() and path.stem != "gemm_amx"
]


def objects(kernel, folder):
    """The build's object files for every instruction set; if there are none, they are compiled.

    With -O1, which inlines no function that the build does not.
    """
    newest = max(path.stat().st_mtime for path in (ROOT / "csrc").rglob("*.*"))
    built = list((ROOT / "build").glob(f"temp.*/*/{kernel}.o"))
    if built and min(path.stat().st_mtime for path in built) > newest:
        return built
    compiled = folder / "kernel.o"
    command = ["g++", "-std=c++17", "-O1", "-fopenmp", "-mavx512f", "-mavx512bw", "-mavx512dq"]
    command += ["-mavx512vl", "-mfma", "-mf16c", "-fPIC", "-fno-math-errno", "-fno-trapping-math"]
    command += ["-w", "-DAEFAST_X86", "-DAEFAST_ISA=avx512", "-Icsrc"]
    subprocess.run([*command, "-c", f"{kernel}.cpp", "-o", compiled], cwd=ROOT, check=True)
    return [compiled]


@needs_source
@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm")
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_kernels_share_no_symbol_between_instruction_sets(kernel, tmp_path):
    """The linker keeps one copy of an inline function that two objects define alike.

    Were it AVX-512's, the baseline kernel would call it too and die with SIGILL on an old CPU.
    """
    listing = subprocess.run(
        ["nm", "-C", *objects(kernel, tmp_path)], capture_output=True, text=True, check=True
    )
    symbols = [line.split(maxsplit=2)[-2:] for line in listing.stdout.splitlines() if " " in line]
    shared = [
        name
        for kind, name in symbols
        if kind in "WVu"
        and not re.search(r"aefast::(baseline|avx2|avx512|amx)", name)
        and not name.startswith("DW.ref.")
    ]
    assert shared == []


# Their kernels have the names of functions that they are made of.
OVERLOADED = ("contractive", "linear_act")
CALLERS = [
    pytest.param(
        path.relative_to(ROOT), marks=[pytest.mark.slow] * (path.parent.name not in OVERLOADED)
    )
    for path in sorted((ROOT / "csrc").rglob("*.cpp"))
    if "AEFAST_RUN(" in path.read_text() or "AEFAST_EACH(" in path.read_text()
]


@needs_source
@pytest.mark.parametrize("caller", CALLERS, ids=str)
def test_kernels_are_called_on_processors_with_one_instruction_set(caller):
    """ARM's builds have no AEFAST_X86: there the baseline kernels are the only ones."""
    pybind11 = pytest.importorskip("pybind11")
    folders = pybind11.get_include(), sysconfig.get_path("include"), "csrc"
    includes = [f"-I{folder}" for folder in folders]
    command = ["g++", "-std=c++17", "-fopenmp", "-fsyntax-only", *includes, caller]
    subprocess.run(command, cwd=ROOT, check=True)
