"""The C++ GEMM kernels, compiled alone and called through ctypes.

The matrix-unit kernel runs on an emulation of its tile instructions (csrc/simd/tiles.h), so
packing, edges and blocking are tested on machines that have no such unit.
"""

import ctypes
import functools
import platform
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
KERNELS = {"gemm": 0, "float32": 1, "tiles": 2}
PRECISIONS = {"highest": 0, "high": 1, "medium": 2}
ACTIVATIONS = {"identity": 0, "relu": 1, "sigmoid": 3}

FLAGS = ["-std=c++17", "-O1", "-fno-math-errno", "-fno-trapping-math"]
FLAGS += ["-ffp-contract=fast", "-Wno-psabi", "-fopenmp", "-fPIC", "-shared", f"-I{ROOT / 'csrc'}"]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]


def processor_features():
    if platform.machine() not in ("x86_64", "AMD64"):
        return set()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return set(line.split(":")[1].split())
    return set()


# Without an instruction for it, a fused multiply-add is a call of the C library.
TILES = ["-DAEFAST_EMULATE_TILES", *(["-mfma"] if "fma" in processor_features() else [])]
# name: (the processor must have, compiler flags, kernels in it)
BUILDS = {
    "baseline": ([], [], ["float32"]),
    "avx2": (["avx2", "fma"], AVX2, ["float32"]),
    "avx512": (["avx512f", "avx512bw", "avx512dq", "avx512vl"], AVX512, ["float32"]),
    "tiles": ([], TILES, ["tiles", "gemm"]),
    "tiles_avx512_bf16": (["avx512_bf16"], [*TILES, *AVX512, "-mavx512bf16"], ["tiles", "gemm"]),
}
# A number is split into so many bfloat16 terms.
TERMS = {"high": 2, "medium": 1}
# Multiply-adds know one precision; the matrix units are asked for less than that alone.
SERVED = {"float32": ["highest"], "tiles": list(TERMS), "gemm": list(PRECISIONS)}
VARIANTS = [
    (build, kernel, precision)
    for build, (_, _, kernels) in BUILDS.items()
    for kernel in kernels
    for precision in SERVED[kernel]
]


def pointer(tensor):
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


@pytest.fixture(scope="session")
def libraries(tmp_path_factory):
    """Builds each library at its first use."""
    folder = tmp_path_factory.mktemp("gemm")
    built = {}

    def library(build):
        needed, flags, _ = BUILDS[build]
        if shutil.which("g++") is None:
            pytest.skip("g++ is not installed")
        if not set(needed) <= processor_features():
            pytest.skip(f"the processor lacks {needed}")
        if build not in built:
            names = (
                "csrc/gemm/gemm",
                "csrc/shared/crew",
                "csrc/shared/parallel",
                "tests/csrc/gemm_shim",
            )
            sources = [f"{name}.cpp" for name in names]
            units = "gemm_amx" if "-DAEFAST_EMULATE_TILES" in flags else "gemm_without_tiles"
            sources += [f"csrc/gemm/{units}.cpp"]
            target = folder / f"{build}.so"
            command = ["g++", *FLAGS, *flags, *(str(ROOT / source) for source in sources)]
            subprocess.run([*command, "-o", str(target)], check=True)
            built[build] = ctypes.CDLL(str(target)).multiply
        return built[build]

    return library


@pytest.fixture(params=VARIANTS, ids="-".join)
def multiply(request, libraries):
    """A function for act(left @ right.T + bias) by one kernel of one build at one precision."""
    build, kernel, precision = request.param
    function = libraries(build)

    def call(
        left,
        right,
        bias=None,
        activation="identity",
        threads=1,
        preactivation=False,
        total=None,
        packed=False,
    ):
        rows, columns = left.shape[0], right.shape[0]
        # Poisoned, and wider than the result, so that a write past it is found.
        buffer = torch.full((2, rows, columns + 3), float("nan"))
        if total is not None:
            buffer[0, :, :columns] = total
        layouts = [(ctypes.c_int64 * 4)(*m.shape, *m.stride()) for m in (left, right)]
        finished = function(
            KERNELS[kernel], pointer(left), layouts[0], pointer(right), layouts[1], pointer(bias),
            ACTIVATIONS[activation], pointer(buffer[0]), ctypes.c_int64(columns + 3),
            pointer(buffer[1] if preactivation else None), int(total is not None), int(packed),
            PRECISIONS[precision], threads,
        )  # fmt: skip
        assert buffer[:, :, columns:].isnan().all()
        call.finished = bool(finished)
        output = buffer[0, :, :columns]
        return (output, buffer[1, :, :columns]) if preactivation else output

    call.kernel, call.precision = kernel, precision
    return call


def operand(rows, columns, layout, generator):
    """A matrix [rows, columns] in a memory layout."""
    if layout == "contiguous":
        return torch.randn(rows, columns, generator=generator)
    if layout == "transposed":
        return torch.randn(columns, rows, generator=generator).T
    if layout == "padded":
        return torch.randn(rows, columns + 5, generator=generator)[:, 3:-2]
    if layout == "sliced":
        return torch.randn(2 * rows, 3 * columns, generator=generator)[::2, ::3]
    return torch.randn(1, columns, generator=generator).expand(rows, columns)


LAYOUTS = ["contiguous", "transposed", "padded", "sliced", "expanded"]
LAYOUT_PAIRS = list(zip(LAYOUTS, LAYOUTS[1:] + LAYOUTS[:1], strict=True))
SHAPES = [(1, 1, 1), (2, 3, 5), (17, 31, 13), (16, 32, 16), (33, 65, 37), (97, 197, 101),
          (29, 1009, 67), (23, 200, 50), (300, 40, 7), (7, 40, 300), (128, 784, 64)]  # fmt: skip


def largest_error(result, expected):
    return (result.double() - expected).abs().max().item()


@functools.cache
def torch_error(rows, depth, columns):
    """torch's largest error over many outputs: with few of them it may be small by luck."""
    generator = torch.Generator().manual_seed(6)
    largest = 0.0
    for _ in range(min(10_000 // (rows * columns) + 1, 500)):
        left = torch.randn(rows, depth, generator=generator)
        right = torch.randn(columns, depth, generator=generator)
        expected = left.double() @ right.double().T
        largest = max(largest, largest_error(left @ right.T, expected))
    return largest


def bound_of(multiply, left, right):
    """The largest error of each element: at "highest" twice torch's; below it what a split into n
    terms leaves out, 2^-8n of an operand, a product of the rest that is as small, and float32's own
    summation."""
    if multiply.precision == "highest":
        return torch.tensor(2 * torch_error(left.shape[0], left.shape[1], right.shape[0]))
    magnitude = left.double().abs() @ right.double().abs().T
    return magnitude * (3 * 2.0 ** (-8 * TERMS[multiply.precision]) + left.shape[1] * 2.0**-24)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layouts", LAYOUT_PAIRS, ids="-".join)
def test_the_error_keeps_its_precisions_bound(multiply, shape, layouts):
    rows, depth, columns = shape
    generator = torch.Generator().manual_seed(0)
    left = operand(rows, depth, layouts[0], generator)
    right = operand(columns, depth, layouts[1], generator)
    expected = left.double() @ right.double().T
    error = (multiply(left, right).double() - expected).abs()
    assert (error <= bound_of(multiply, left, right)).all()


@pytest.mark.parametrize("depth", [784, 4096])
def test_error_does_not_grow_with_depth(multiply, depth):
    """The root mean square error, also for positive operands, where a biased split would show."""
    generator = torch.Generator().manual_seed(1)
    for sample in (torch.randn, torch.rand):
        left = sample(32, depth, generator=generator)
        right = sample(32, depth, generator=generator)
        expected = left.double() @ right.double().T
        error = (multiply(left, right).double() - expected).norm()
        allowed = 2 * (left @ right.T - expected).norm()
        if multiply.precision != "highest":
            norms = left.double().norm(dim=1).outer(right.double().norm(dim=1))
            allowed = norms.norm() * 2.0 ** (-8 * TERMS[multiply.precision])
        assert error <= allowed


def test_at_medium_the_units_multiply_operands_rounded_to_bfloat16(multiply):
    if multiply.kernel == "float32" or multiply.precision != "medium":
        pytest.skip("other precisions split")
    generator = torch.Generator().manual_seed(2)
    left = torch.randn(70, 300, generator=generator)
    right = torch.randn(50, 300, generator=generator)
    magnitude = left.double().abs() @ right.double().abs().T
    rounded = left.bfloat16().double() @ right.bfloat16().double().T
    assert ((multiply(left, right) - rounded).abs() <= magnitude * 300 * 2.0**-24).all()


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("preactivation", [False, True])
def test_bias_and_activation(multiply, activation, preactivation):
    generator = torch.Generator().manual_seed(3)
    left = torch.randn(45, 400, generator=generator) / 20
    right = torch.randn(70, 400, generator=generator)
    bias = torch.randn(70, generator=generator)
    expected = torch.addmm(bias.double(), left.double(), right.double().T)
    allowed = 2e-6 + (0 if multiply.precision == "highest" else bound_of(multiply, left, right))
    result = multiply(left, right, bias, activation, preactivation=preactivation)
    if preactivation:
        result, before = result
        assert ((before - expected).abs() <= allowed).all()
    function = {"identity": lambda z: z, "relu": torch.relu, "sigmoid": torch.sigmoid}[activation]
    assert ((result - function(expected)).abs() <= allowed).all()


@pytest.mark.parametrize("transposed", [False, True])
def test_bits_do_not_depend_on_threads(multiply, transposed):
    generator = torch.Generator().manual_seed(4)
    left = torch.randn(67, 330, generator=generator)
    right = torch.randn(131, 330, generator=generator)
    if transposed:
        left, right = left.T.contiguous().T, right.T.contiguous().T
    one = multiply(left, right)
    for threads in (1, 2, 5):
        assert torch.equal(multiply(left, right, threads=threads), one)


def test_at_highest_bits_do_not_depend_on_the_other_rows(multiply):
    """Gibbs samples would change with how a batch is split over processes."""
    if multiply.precision != "highest":
        pytest.skip("fewer rows than a tile's take multiply-adds")
    generator = torch.Generator().manual_seed(4)
    left = torch.randn(300, 330, generator=generator)
    right = torch.randn(257, 330, generator=generator)
    whole = multiply(left, right)
    for rows in (1, 7, 31, 32, 150):
        assert torch.equal(multiply(left[:rows], right), whole[:rows])


SPECIAL = {
    "infinity": (float("inf"), 1.0),
    "infinity times zero": (float("inf"), 0.0),
    "minus infinity": (float("-inf"), 0.5),
    "NaN": (float("nan"), 1.0),
    "NaN with all bits": (torch.tensor(0x7FFFFFFF, dtype=torch.int32).view(torch.float32), 1.0),
    "largest": (torch.finfo(torch.float32).max, 0.5),
    "largest times zero": (torch.finfo(torch.float32).max, 0.0),
    "overflow": (3e38, 2.0),
}


@pytest.mark.parametrize("name", list(SPECIAL))
def test_not_finite_values_come_out_as_torchs(multiply, name):
    left, right = torch.ones(40, 64), torch.ones(40, 64)
    left[3, 5], right[:, 5] = SPECIAL[name]
    expected = left @ right.T
    result = multiply(left, right)
    if multiply.kernel == "tiles":
        # The kernel reports that it cannot tell, or its result is right.
        assert multiply.finished == result.isfinite().all()
        if not multiply.finished:
            return
    torch.testing.assert_close(result, expected, equal_nan=True)


@pytest.mark.parametrize("shape", [(33, 65, 37), (97, 520, 101), (7, 40, 300)], ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_product_is_added_to_what_is_there(multiply, shape, threads):
    rows, depth, columns = shape
    generator = torch.Generator().manual_seed(7)
    left = torch.randn(depth, rows, generator=generator).T
    right = torch.randn(depth, columns, generator=generator).T
    total = torch.randn(rows, columns, generator=generator)
    expected = total.double() + left.double() @ right.double().T
    result = multiply(left, right, total=total, threads=threads)
    allowed = bound_of(multiply, left, right) + 2.0**-24 * expected.abs().max()
    assert ((result - expected).abs() <= allowed).all()


@pytest.mark.parametrize("name", list(SPECIAL))
@pytest.mark.parametrize("already", [1.0, float("inf"), float("nan")])
def test_not_finite_values_are_added_once_and_as_torch_adds_them(multiply, name, already):
    if multiply.kernel == "tiles":
        pytest.skip("gemm looks at the operands first")
    left, right = torch.ones(40, 64), torch.ones(40, 64)
    left[3, 5], right[:, 5] = SPECIAL[name]
    total = torch.full((40, 40), 2.5)
    total[7, 7] = already
    expected = total + left @ right.T
    torch.testing.assert_close(multiply(left, right, total=total), expected, equal_nan=True)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_packed_operand_gives_the_same_bits(multiply, transposed):
    if multiply.precision == "highest":
        pytest.skip("multiply-adds have no use for it")
    rows, depth, columns = 40, 520, 101
    generator = torch.Generator().manual_seed(8)
    left = torch.randn(rows, depth, generator=generator)
    right = torch.randn(columns, depth, generator=generator)
    if transposed:
        right = right.T.contiguous().T
    expected = multiply(left, right)
    for threads in (1, 2, 3):
        assert torch.equal(multiply(left, right, threads=threads, packed=True), expected)


def test_subnormal_terms_cost_an_absolute_error_only(multiply):
    """The matrix unit takes subnormal numbers for zero, so each product may lose that much."""
    generator = torch.Generator().manual_seed(5)
    left = torch.randn(32, 64, generator=generator) * 1e-35
    right = torch.randn(32, 64, generator=generator)
    expected = left.double() @ right.double().T
    allowed = 2 * largest_error(left @ right.T, expected)
    if multiply.precision != "highest":
        lost = 64 * 6 * 1.2e-38 * (1 + right.double().abs().sum(1).max())
        allowed = bound_of(multiply, left, right) + lost
    assert ((multiply(left, right) - expected).abs() <= allowed).all()


def test_no_depth_gives_the_bias(multiply):
    bias = torch.randn(50)
    result = multiply(torch.empty(40, 0), torch.empty(50, 0), bias)
    assert torch.equal(result, bias.expand(40, 50))
