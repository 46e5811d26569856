"""Every Triton kernel, compiled ahead of time: registers, spills, shared memory, instructions."""

import ctypes
import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zlib
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton")

from aefast import aot, backend
from aefast.ops.linear_act import triton as linear_act
from aefast.ops.shared import triton_compiled, triton_gemm
from aefast.ops.shared.triton import ACTIVATIONS, descriptors_round
from aefast.ops.topk import triton as topk
from tests import ahead_of_time, cuda_stub

KIB = 1024
SHARED_LIMIT = {80: 163 * KIB, 90: 227 * KIB, 100: 227 * KIB, 103: 227 * KIB, 120: 163 * KIB}
# 8.6, 8.9 and 12.x have so much, and never launch a kernel that holds a code on the chip.
LITTLE_SHARED = 99 * KIB
TENSOR_CORES = {
    **{80: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma"},
    **{103: "tcgen05.mma", 120: "mma.sync"},
}
TENSOR_MEMORY_COLUMNS = 512
TFLOAT32 = 11  # CU_TENSOR_MAP_DATA_TYPE_TFLOAT32

needs_stub = pytest.mark.skipif(
    bool(backend.unavailable("cpp", "cpu")) or sys.platform != "linux" or not shutil.which("g++"),
    reason="needs the C++ extension, Linux and g++",
)

ARCHS = [pytest.param(arch, marks=[pytest.mark.slow] * (arch != 90)) for arch in triton_gemm.TILES]


def run(*arguments):
    """Run a Python without TRITON_INTERPRET."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def cubins(compiled):
    return compiled.reports


@pytest.fixture(autouse=True)
def whole_chunks(short_chunks, monkeypatch):
    """Kernels that are compiled ahead of time sort chunks of full size."""
    monkeypatch.setattr(topk, "CHUNK", short_chunks)
    topk._merge_variant.cache_clear()
    yield
    topk._merge_variant.cache_clear()


def described(cubins):
    return [cubin["variant"] for cubin in cubins]


def every_variant(arch):
    return {(op, variant.name): variant for op in aot.OPS for variant in aot.variants(op, arch)}


def test_every_variant_compiles(compiled):
    """Every variant, or at least one of every kernel where only some are compiled."""
    expected = every_variant(compiled.arch)
    actual = [(cubin["op"], cubin["variant"]) for cubin in compiled.reports]
    assert len(actual) == len(set(actual))
    if compiled.every:
        assert set(actual) == set(expected)
    kernels = {variant.kernel for variant in expected.values()}
    assert {expected[name].kernel for name in actual} == kernels


@pytest.fixture
def manifest(compiled):
    return json.loads((compiled.cubins / "manifest.json").read_text())


def launches(manifest):
    return [launch for kernels in manifest["kernels"].values() for launch in kernels.values()]


def test_the_manifest_has_every_variant_and_no_file_besides(compiled, manifest):
    names = {cubin["variant"] for cubin in compiled.reports}
    assert set(manifest["kernels"]) == {str(compiled.arch)}
    assert set(manifest["kernels"][str(compiled.arch)]) == names
    cubins = compiled.cubins
    actual = {str(path.relative_to(cubins)) for path in cubins.rglob("*") if path.is_file()}
    assert actual == {"manifest.json"} | {launch["file"] for launch in launches(manifest)}


def test_the_manifest_holds_what_a_launch_needs(compiled, manifest):
    for launch in launches(manifest):
        packed = (compiled.cubins / launch["file"]).read_bytes()
        assert hashlib.sha256(packed).hexdigest() == launch["sha256"]
        assert launch["symbol"].encode() in zlib.decompress(packed)
        assert not [kind for kind in launch["arguments"] if kind == "constexpr"]
        tiles = [kind for kind in launch["arguments"] if kind.startswith("tensordesc<")]
        assert len(launch["descriptors"]) == len(tiles)
        assert compiled.arch >= 90 or launch["descriptors"] == []


def test_the_cubins_of_three_targets_take_less_than_40_mb(compiled):
    sizes = [path.stat().st_size for path in compiled.cubins.rglob("*")]
    assert sum(sizes) < 40e6 / 3


@pytest.mark.slow
def test_the_command_compiles_for_many_targets(tmp_path):
    """The command of `make wheel`; targets are in order."""
    program = "from aefast import aot; aot.OPS = 'sparsity',; aot.main()"
    targets = ["--archs", "100", "80", "--cubins", str(tmp_path), "--json", f"{tmp_path}.json"]
    run("-c", program, *targets)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert list(manifest["kernels"]) == ["80", "100"]
    report = json.loads(tmp_path.with_suffix(".json").read_text())
    assert {b["op"] for b in report} == {"sparsity"}
    assert [b["variant"] for b in report] == [
        variant.name for arch in (80, 100) for variant in aot.variants("sparsity", arch)
    ]


COMPILED_AGAIN = """
from aefast import aot, backend

names = [variant.name for variant in aot.variants("rbm", 100)]
product = next(index for index, name in enumerate(names) if name.startswith("half_step"))
with aot.workers(1) as pool:
    print(pool.submit(aot.compile_variant, "rbm", 100, product).result().launch)
"""


# Two workers that print their process ids and go on compiling.
BUSY = """
import os, sys, time
from aefast import aot

def busy(_):
    os.write(1, b"%d\\n" % os.getpid())  # in one piece: print may write the line's end by itself
    time.sleep(60)

with aot.workers(2) as pool:
    list(pool.map(busy, range(8)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl and /proc")
def test_the_workers_of_a_killed_compiler_end_with_it():
    command = [sys.executable, "-c", BUSY]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as compiler:
        workers = [int(compiler.stdout.readline()) for _ in range(2)]
        compiler.kill()
    end = time.monotonic() + 20
    while not all(map(has_ended, workers)):
        assert time.monotonic() < end
        time.sleep(0.01)


def has_ended(process):
    """Whether a process has ended, even if its parent has not waited for it."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


@pytest.mark.slow
def test_cubins_that_are_made_again_are_the_same(tmp_path, monkeypatch):
    """With empty caches of Triton's. This kernel's registers once were numbered by address."""
    if ctypes.CDLL(None).personality(0xFFFFFFFF) == -1:
        pytest.skip("this system lets no process choose its addresses")
    runs = []
    for run_number in ("first", "second"):
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / run_number))
        runs.append(run("-c", COMPILED_AGAIN))
    assert runs[0] == runs[1]


def test_a_kernel_of_other_parameters_than_a_launch_passes_is_refused():
    ptx = """.visible .entry kernel(
\t.param .align 64 .b8 kernel_param_0[128],
\t.param .u32 kernel_param_1,
\t.param .u32 kernel_param_2,
\t.param .u64 kernel_param_3,
\t.param .u64 kernel_param_4,
\t.param .u64 .ptr .global .align 1 kernel_param_5,
\t.param .f32 kernel_param_6,
\t.param .u64 .ptr .global .align 1 kernel_param_7,
\t.param .u64 .ptr .global .align 1 kernel_param_8
)"""
    arguments = ["tensordesc<bf16[64, 64]>", "*bf16", "fp32"]
    assert triton_compiled.parameter_bytes(ptx) == triton_compiled.argument_bytes(arguments)
    one_more = ptx.replace("kernel_param_8\n", "kernel_param_8,\n\t.param .u64 kernel_param_9\n")
    assert triton_compiled.parameter_bytes(one_more) != triton_compiled.argument_bytes(arguments)


@pytest.mark.parametrize("arch", ["70", "900", "sm_90"])
def test_an_unknown_architecture_is_one_line(arch):
    known = ", ".join(map(str, aot.ARCHS))
    with pytest.raises(SystemExit, match=f"^aefast: .*'{arch}'; it takes one of {known}$"):
        aot.main(["--archs", "80", arch, "--assembler"])


def test_an_old_triton_is_one_line(monkeypatch):
    monkeypatch.setattr(aot.metadata, "version", lambda package: "3.5.1")
    with pytest.raises(SystemExit, match=r"^aefast: triton 3\.5\.1 is too old .*'triton>=3\.6'$"):
        aot.main(["--assembler"])


def test_a_missing_triton_is_one_line(monkeypatch):
    def version(package):
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(aot.metadata, "version", version)
    with pytest.raises(SystemExit, match=r"^aefast: triton, .* is missing: pip install"):
        aot.main(["--assembler"])


def test_cubins_of_another_run_are_not_mixed_in(tmp_path):
    (tmp_path / "old.cubin.z").touch()
    with pytest.raises(SystemExit, match="which is not empty; it takes a new folder"):
        aot.main(["--cubins", str(tmp_path)])


def test_a_target_has_the_kernels_that_its_chips_launch(monkeypatch):
    """The compiled variants come from the same tables as the launched ones."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    for arch in aot.ARCHS:
        properties = SimpleNamespace(major=arch // 10, minor=0, multi_processor_count=132)
        triton_gemm.chip.cache_clear()
        generation, _ = triton_gemm.chip(torch.device("cuda", 0))
        chosen = triton_gemm.plan(
            generation, 132, torch.bfloat16, "half", (4096, 4096, 4096), (False, False)
        )
        assert chosen.variant.name in [variant.name for variant in aot.variants("linear_act", arch)]
    triton_gemm.chip.cache_clear()


def test_nothing_is_spilled(cubins):
    assert described(cubin for cubin in cubins if cubin["spilled_bytes"]) == []


def test_on_chip_memory_suffices(cubins):
    assert (
        described(cubin for cubin in cubins if cubin["shared_bytes"] > SHARED_LIMIT[cubin["arch"]])
        == []
    )
    on_any_chip = [cubin for cubin in cubins if not cubin["variant"].startswith("loss_kernel")]
    if cubins[0]["arch"] in (80, 120):
        assert (
            described(cubin for cubin in on_any_chip if cubin["shared_bytes"] > LITTLE_SHARED) == []
        )
    assert (
        described(
            cubin for cubin in cubins if cubin["tensor_memory_columns"] > TENSOR_MEMORY_COLUMNS
        )
        == []
    )
    assert described(cubin for cubin in cubins if cubin["traps"]) == []


def test_products_run_on_the_tensor_cores(cubins):
    products = [cubin for cubin in cubins if cubin["tensor_cores"]]
    assert products
    wrong = [cubin for cubin in products if cubin["instructions"] != [TENSOR_CORES[cubin["arch"]]]]
    assert described(wrong) == []


def test_aligned_elementwise_kernels_access_16_bytes(cubins):
    aligned = [cubin for cubin in cubins if "ALIGNED=True" in cubin["variant"]]
    assert aligned
    narrow = [
        cubin
        for cubin in aligned
        if (cubin["widest_load_bytes"], cubin["widest_store_bytes"]) != (16, 16)
    ]
    assert described(narrow) == []


def test_states_and_terms_are_stored_16_bytes_at_a_time(cubins):
    stored = [
        cubin
        for cubin in cubins
        if cubin["variant"].startswith(("half_step_kernel", "split_kernel"))
    ]
    assert stored
    assert described(cubin for cubin in stored if cubin["widest_store_bytes"] != 16) == []


def test_a_thread_divides_no_64_bit_numbers(cubins):
    """Only a program's first row takes a 64-bit division, which is 70 instructions on a GPU."""
    noise = [cubin for cubin in cubins if cubin["variant"].startswith("scaled_noise_kernel")]
    assert noise
    assert (
        described(cubin for cubin in noise if len(re.findall(r"div\.[su]64", cubin["ptx"])) > 2)
        == []
    )


@pytest.mark.parametrize("arch", triton_gemm.TILES)
def test_the_table_picks_only_listed_variants(arch):
    listed = {variant.name for variant in linear_act.variants(arch)}
    sizes = (1, 7, 64, 130, 1024, 8192, 65536, 10**6)
    kinds = (
        (torch.float32, "float32"),
        (torch.float32, "tf32"),
        (torch.bfloat16, "half"),
        (torch.float16, "half"),
    )
    layouts = ((False, False), (False, True), (True, True))
    calls = [
        (shape, layout, output_dtype, "identity")
        for shape in itertools.product(sizes, repeat=3)
        for layout in layouts
        for output_dtype in (None, torch.float32)
    ]
    calls += [
        (shape, layout, None, activation)
        for shape in ((64, 64, 64), (65536, 8192, 64))
        for layout in layouts[:2]
        for activation in ACTIVATIONS
    ]
    picked = {
        triton_gemm.plan(arch, multiprocessors, dtype, kind, *call).variant.name
        for multiprocessors in (1, 40, 108, 132, 148)
        for dtype, kind in kinds
        for call in calls
    }
    in_memory = arch in triton_gemm.SPLIT_IN_MEMORY
    picked |= {
        triton_gemm.plan(
            arch, 132, torch.bfloat16, kind, shape, layout, torch.float32, activation
        ).variant.name
        for shape, layout, _, activation in calls
        for kind in triton_gemm.TERMS
        if all(layout) or (kind == "terms" and in_memory)
    }
    prefixes = "add_blocks_kernel", "gradient_kernel", "split_kernel", "transpose_kernel"
    others = {name for name in listed if name.startswith(prefixes)}
    assert picked == listed - others  # nothing is compiled that is never launched


SPECIALIZATIONS = """
import sys

from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import CUDABackend
from triton.runtime.jit import create_function_from_signature

from aefast.ops.shared import triton_gemm
from aefast.ops.shared.triton import Variant, jit_arguments
from tests.launches import launch_every_op

arch = int(sys.argv[1])
backend = CUDABackend(GPUTarget("cuda", arch, 32))
keys, names = set(), set()


def record(variant, programs, arguments):
    kernel = variant.function
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    options = {"num_warps": variant.warps, "num_stages": variant.stages}
    _, specialization, _ = bind(*jit_arguments(arguments), **variant.constants, **options)
    types = [kind for kind, _ in specialization]
    assert types == list(variant.signature.values()), (types, variant.signature)
    passed = [name for name, kind in variant.signature.items() if kind != "constexpr"]
    assert list(variant.parameters) == passed, variant.name
    assert not any(value for kind, value in specialization if kind != "constexpr"), specialization
    keys.add((variant.name, str(specialization)))
    names.add(variant.name)


Variant.launch_in_order = record
triton_gemm.chip = lambda device: (arch, 132)
launch_every_op(
    [1, 2, 7, 15, 16, 17, 32, 33, 63, 64, 128, 129, 1000, 4096, 8191, 16384, 40000]
)
print(len(keys), len(names))
"""


@pytest.mark.parametrize("arch", ARCHS)
def test_batch_sizes_and_seeds_share_cubins(arch):
    """Triton's cache has one key for each variant, those that were compiled ahead of time."""
    keys, names = map(int, run("-c", SPECIALIZATIONS, str(arch)).split())
    assert keys == names
    # A large and a small tile for each of the three products and the comparison, one kernel for the
    # activation's gradient (100 columns are whole 16-byte units) and one for the sums over its
    # blocks, one for the noise; and in bfloat16 two tiles to encode and two to compare, and the
    # loss alone in one. The contractive
    # penalty and its gradient are a kernel each, in both dtypes, and so are the scales of a
    # weight's rows. A chain has two kernels that split its weight and the transposed one, two
    # tiles of half a step, statistics, and two tiles of their product with data and with states. A
    # Gaussian code's sample, its divergence and their gradients are a kernel each, and so are soft
    # thresholding, its gradient and the rest of a step of sparse coding. Sums of columns, of their
    # magnitudes, the divergence of the sums, the sign. The merge of a panel into a row's largest,
    # the three products of a sparse code, and its error. A code with thresholds and which of its
    # latents are active or how many, its gradient and the rest of the thresholds'; a gated code and
    # its gradient; the latents that were active. A product has two tiles for each activation: here
    # tanh, sigmoid and none.
    assert names <= 57


# Launches every op in three ways: Triton's compilation by its launcher and by ours, and the
# ready-made cubin.
EVERY_OP = """
import itertools, pathlib

import triton

from aefast import cubins
from aefast.ops.shared import triton as shared, triton_compiled
from tests.ahead_of_time import SMALL_BATCH
from tests.launches import launch_every_op

cubins.FOLDER = pathlib.Path(sys.argv[2])
triton.knobs.compilation.disable_line_info = True  # as ahead of time: nothing is compiled anew
device = torch.device("cuda", 0)


def launch(variant, programs, arguments):
    variant.launch_jit(programs, arguments)
    assert cubins.launch(variant.name, device, programs, arguments), variant.name
    assert triton_compiled.launch(variant, device, programs, arguments), variant.name


shared.Variant.launch_in_order = launch
for precision, batch in itertools.product(sys.argv[4].split(), map(int, sys.argv[3].split())):
    torch.set_float32_matmul_precision(precision)
    launch_every_op([batch])
"""


@needs_stub
def test_every_ops_cubins_are_launched_as_triton_launches_its_own(compiled, tmp_path):
    """Launches on the stub of the driver: Triton's launcher passes the same arguments, to the byte.

    Of the cubin only the name is compared: sm_100's are not the same in every process. Before 3.7
    Triton's launcher neither rounds to TF32 nor corrects old drivers' maps: there "high" has
    another kernel, and the stub is a new driver.
    """
    is_new = descriptors_round()
    batches = (ahead_of_time.SMALL_BATCH, 4096) if compiled.every else (ahead_of_time.SMALL_BATCH,)
    precisions = ("highest", "high") if compiled.every and is_new else ("highest",)
    arguments = [compiled.cubins, " ".join(map(str, batches)), " ".join(precisions)]
    recording = cuda_stub.build(tmp_path).run(
        cuda_stub.GPU + EVERY_OP, compiled.arch, *arguments, version=12080 if is_new else 13020
    )
    launches = [launch | {"image": None} for launch in recording.launches]
    assert launches[1::3] == launches[::3]
    assert launches[2::3] == launches[::3]
    assert len({launch["function"] for launch in launches}) > 15
    assert {launch["stream"] for launch in launches} == {77}
    encoded = recording.named("cuTensorMapEncodeTiled")
    assert bool(encoded) == (compiled.arch >= 90)


COMPILED_HERE = """
from aefast.ops.linear_act import triton as linear_act
from aefast.ops.shared import triton_compiled
from aefast.ops.shared.triton import Variant

torch.set_float32_matmul_precision("high")
torch.cuda.is_current_stream_capturing = lambda: is_captured


def launch(variant, programs, arguments):
    try:
        assert triton_compiled.launch(variant, torch.device("cuda", 0), programs, arguments)
    except RuntimeError as error:
        print(error)


Variant.launch_in_order = launch
x, weight = torch.zeros(50, 96), torch.zeros(100, 96)
for is_captured in (True, False, True):
    linear_act.forward(x, weight, None, "tanh", False)
"""


@needs_stub
def test_nothing_is_compiled_while_a_graph_is_captured_and_maps_round_and_are_mended(tmp_path):
    """The extension's maps round to TF32 and are corrected, whichever Triton compiled the kernel.
    The corrected bit is of old drivers' maps of small tensors."""
    recording = cuda_stub.build(tmp_path).run(cuda_stub.GPU + COMPILED_HERE, 90, version=12080)
    assert recording.output == (
        "gemm_kernel is compiled at its first call, and a CUDA graph is being captured; "
        "make the call once before the capture\n"
    )
    assert {call["type"] for call in recording.named("cuTensorMapEncodeTiled")} == {TFLOAT32}
    first, captured = recording.launches
    assert captured["function"] == first["function"] == "gemm_kernel"
    maps = [bytes.fromhex(value) for value in first["parameters"] if len(value) == 2 * 128]
    assert [int.from_bytes(words[8:16], "little") >> 21 & 1 for words in maps] == [0, 0]
