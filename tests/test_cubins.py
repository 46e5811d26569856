"""Ready-made cubins on a stub of CUDA's driver: its calls, and broken or missing cubins."""

import hashlib
import json
import shutil
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton")

from aefast import backend, cubins
from aefast.ops.shared import triton as shared
from aefast.ops.sparsity import triton as sparsity
from tests import cuda_stub

pytestmark = pytest.mark.skipif(
    bool(backend.unavailable("cpp", "cpu")) or sys.platform != "linux" or not shutil.which("g++"),
    reason="needs the C++ extension, Linux and g++",
)

ARGUMENTS = ["*fp32", "i32", "i64", "fp32", "tensordesc<bf16[128, 64]>"]
DESCRIPTOR = {"swizzle": 3, "elem_size": 2, "elem_type": 10, "block_size": [128, 64]}
# Triton's parameters: a descriptor is its map, shape and strides; two scratch pointers come last.
PARAMETERS = ["u64", "u32", "u64", "f32", "map", "u32", "u32", "u64", "u64", "u64", "u64"]
PTX = f"""
.version 8.0
.target sm_90a
.address_size 64
.visible .entry kernel({cuda_stub.parameter_list(PARAMETERS)}) {{ ret; }}
"""

# The beginning of the programs below: arguments of every type, and a kernel that takes them.
ARGUMENTS_PROGRAM = """
import sys, types

class Tensor:
    def __init__(self, address, *shape):
        self.address, self.shape = address, shape
    def data_ptr(self):
        return self.address
    def stride(self):
        return (self.shape[-1] + 8, 1)

def descriptor(*shape, tf32=False):
    return types.SimpleNamespace(tensor=Tensor(0x7F0000, *shape), round_to_tf32=tf32)

arguments = (Tensor(0x7F1234567890), -5, 2**40 + 3, 0.1, descriptor(300, 72))
"""
MAKE = """
import ctypes, importlib.util, threading

# Without the package, which would import torch for each test anew.
spec = importlib.util.spec_from_file_location("_C", sys.argv[1])
_C = importlib.util.module_from_spec(spec)
spec.loader.exec_module(_C)

def make(shared=0, **changed):
    arguments = ["*fp32", "i32", "i64", "fp32", "tensordesc<bf16[128, 64]>"]
    layout = {"swizzle": 3, "elem_size": 2, "elem_type": 10, "block_size": [128, 64]}
    image = open(sys.argv[2], "rb").read()
    return _C.CudaKernel(image, "kernel", 8, shared, arguments, [layout | changed])
"""


@pytest.fixture(scope="module")
def stub(tmp_path_factory):
    return cuda_stub.build(tmp_path_factory.mktemp("driver"))


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    folder = tmp_path_factory.mktemp("image")
    cuda_stub.assemble(PTX, "sm_90a", folder)
    return folder / "kernel.cubin"


@pytest.fixture
def record(stub, image):
    """Runs a program that loads and launches kernels; returns its calls of the driver."""
    start = ARGUMENTS_PROGRAM + MAKE
    return lambda program, **settings: stub.run(start + program, extension(), image, **settings)


def extension():
    return backend.extension().__file__


def numbers(launch):
    return [int.from_bytes(bytes.fromhex(value), "little") for value in launch["parameters"]]


def test_every_argument_arrives_as_what_the_cubin_takes(record):
    (launch,) = record("make(1000).launch(7, 99, 0, arguments)").launches
    assert (launch["grid"], launch["block"]) == ([7, 1, 1], [256, 1, 1])
    assert (launch["shared"], launch["stream"], launch["extra"]) == (1000, 99, 0)
    pointer, int32, int64, float32, tensor_map, *rest = launch["parameters"]
    assert bytes.fromhex(pointer) == struct.pack("<Q", 0x7F1234567890)
    assert bytes.fromhex(int32) == struct.pack("<i", -5)
    assert bytes.fromhex(int64) == struct.pack("<q", 2**40 + 3)
    assert bytes.fromhex(float32) == struct.pack("<f", 0.1)
    assert bytes.fromhex(tensor_map) == struct.pack("<QQ", 0x7F0000, 1 << 21) + bytes(112)
    shape, strides, scratch = rest[:2], rest[2:4], rest[4:]
    assert [bytes.fromhex(size) for size in shape] == [struct.pack("<i", n) for n in (300, 72)]
    assert [bytes.fromhex(size) for size in strides] == [struct.pack("<q", n) for n in (80, 1)]
    assert [bytes.fromhex(null) for null in scratch] == [bytes(8)] * 2


def test_the_cubin_goes_to_the_driver_as_it_is(record, image):
    loaded = record("make().launch(1, 0, 0, arguments)").named("cuModuleLoadData")
    digest = 0xCBF29CE484222325
    for byte in image.read_bytes():
        digest = (digest ^ byte) * 0x100000001B3 % 2**64
    assert [call["image"] for call in loaded] == [digest.to_bytes(8, "little").hex()]


def test_an_address_may_be_a_number(record):
    (launch,) = record("make().launch(1, 0, 0, (2**63 + 1, *arguments[1:]))").launches
    assert numbers(launch)[0] == 2**63 + 1


@pytest.mark.parametrize(
    ("kernel_type", "tf32", "host_type"),
    [(10, False, 9), (6, False, 6), (7, False, 7), (7, True, 11), (9, False, 8), (8, False, 10)],
)
def test_a_descriptor_says_how_its_blocks_are_laid_out(record, kernel_type, tf32, host_type):
    (encoded,) = record(
        f"make(elem_type={kernel_type}, elem_size=4, swizzle=2)"
        f".launch(1, 0, 0, (*arguments[:4], descriptor(300, 72, tf32={tf32})))"
    ).named("cuTensorMapEncodeTiled")
    assert (encoded["address"], encoded["type"], encoded["swizzle"]) == (0x7F0000, host_type, 2)
    assert encoded["sizes"] == [72, 300]  # the driver wants the innermost dimension first
    assert encoded["strides"] == [320]
    assert encoded["block"] == [64, 128]
    assert encoded["element_strides"] == [1, 1]
    assert (encoded["interleave"], encoded["promotion"], encoded["fill"]) == (0, 2, 0)
    assert encoded["alignment"] == 0


@pytest.mark.parametrize(
    ("version", "rows", "bit"), [(13010, 819, 0), (13010, 820, 1), (13020, 819, 1)]
)
def test_old_drivers_descriptors_of_small_tensors_are_mended(record, version, rows, bit):
    """Rows are 160 bytes apart, 144 of them filled: 819 end before 128 KiB, and 820 past it."""
    (launch,) = record(
        f"make().launch(1, 0, 0, (*arguments[:4], descriptor({rows}, 72)))", version=version
    ).launches
    assert numbers(launch)[4] >> (64 + 21) & 1 == bit


def test_a_thread_without_a_context_takes_the_devices_own(record):
    recording = record("make().launch(1, 0, 3, arguments)")
    assert [call["ordinal"] for call in recording.named("cuDeviceGet")] == [3]
    assert [call["device"] for call in recording.named("cuDevicePrimaryCtxRetain")] == [3]
    assert [call["context"] for call in recording.launches] == [0x1000 + 3]


def test_a_kernel_is_loaded_once_into_each_context_that_is_current(record):
    recording = record(
        """
kernel = make()
driver = ctypes.CDLL("libcuda.so.1")
for context in (0x1000, 0x1001, 0x1000, 0x1001, 0x1001):
    driver.cuCtxSetCurrent(ctypes.c_void_p(context))
    kernel.launch(1, 0, 0, arguments)
"""
    )
    assert [call["context"] for call in recording.named("cuModuleLoadData")] == [0x1000, 0x1001]
    contexts = [call["context"] for call in recording.launches]
    assert contexts == [0x1000, 0x1001, 0x1000, 0x1001, 0x1001]
    assert recording.named("cuDevicePrimaryCtxRetain") == []


def test_threads_share_what_one_of_them_loaded(record):
    recording = record(
        """
kernel = make()
threads = [
    threading.Thread(target=lambda: [kernel.launch(1, 0, 0, arguments) for _ in range(50)])
    for _ in range(4)
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""
    )
    assert len(recording.named("cuModuleLoadData")) == 1
    assert len(recording.launches) == 200
    assert {call["context"] for call in recording.launches} == {0x1000}


def test_a_forked_child_launches(record):
    """The parent has not used CUDA yet: only then may it fork, as with torch."""
    recording = record(
        """
import os
kernel = make()
child = os.fork()
if child == 0:
    kernel.launch(1, 0, 0, arguments)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    )
    assert recording.output == "0\n"
    assert len(recording.launches) == 1


@pytest.mark.parametrize("shared", [48 * 1024, 48 * 1024 + 1])
def test_more_shared_memory_than_usual_is_asked_for(record, shared):
    recording = record(f"make({shared}).launch(1, 0, 0, arguments)")
    attributes = [
        (call["attribute"], call["value"]) for call in recording.named("cuFuncSetAttribute")
    ]
    assert attributes == ([(8, shared)] if shared > 48 * 1024 else [])
    assert [call["shared"] for call in recording.launches] == [shared]


def test_a_first_launch_is_captured_into_a_graph(record):
    """During a capture a thread may load only in relaxed mode, which is 2."""
    recording = record("make(50000).launch(1, 0, 0, arguments)")
    loading = recording.named(
        "cuModuleLoadData", "cuModuleGetFunction", "cuFuncGetAttribute", "cuFuncSetAttribute"
    )
    assert [call["capture_mode"] for call in loading] == [2] * 4
    assert [call["capture_mode"] for call in recording.launches] == [0]


def test_no_programs_launch_nothing(record):
    assert record("make().launch(0, 0, 0, arguments)").calls == []


IN_TURN = """
first, second = make(1000), make(2000)
other = (Tensor(0x7F9900000000), *arguments[1:])
_C.launch_in_turn([(first, 7, arguments, 1), (second, 3, other, 1)], 99, 0, 5, 2)
for step in (5, 7):
    first.launch(7, 99, 0, (arguments[0], step, *arguments[2:]))
    second.launch(3, 99, 0, (other[0], step + 1, *other[2:]))
_C.launch_in_turn([(first, 7, arguments, 1)], 99, 0, 5, 0)
_C.launch_in_turn([(first, 0, arguments, 1)], 99, 0, 5, 3)
"""


def test_launches_in_turn_are_those_of_the_steps_one_by_one(record):
    launches = record(IN_TURN).launches
    assert len(launches) == 8
    assert launches[:4] == launches[4:]
    assert [numbers(launch)[1] for launch in launches[:4]] == [5, 6, 7, 8]
    assert [launch["shared"] for launch in launches[:4]] == [1000, 2000, 1000, 2000]


PACKED = """
kernel = make(1000)
packed = _C.PackedLaunch(kernel, 7, 3, arguments)
del kernel
other, matrix = Tensor(0x7F9900000000), Tensor(0x7E0000, 300, 72)
packed.launch(99, other, matrix)
packed.launch(98, arguments[0], arguments[4].tensor)
moved = types.SimpleNamespace(tensor=matrix, round_to_tf32=False)
make(1000).launch(7, 99, 3, (other, *arguments[1:4], moved))
make(1000).launch(7, 98, 3, arguments)
_C.PackedLaunch(make(), 0, 3, arguments).launch(99, other, matrix)
"""


def test_a_packed_launch_takes_other_memory_and_keeps_the_rest(record):
    launches = record(PACKED).launches
    assert len(launches) == 4
    assert launches[:2] == launches[2:]
    assert {launch["context"] for launch in launches} == {0x1003}


def test_a_packed_launchs_maps_round_as_the_first_did(record):
    encoded = record(
        """
rounding = (*arguments[:4], descriptor(300, 72, tf32=True))
packed = _C.PackedLaunch(make(elem_type=7, elem_size=4), 1, 0, rounding)
packed.launch(0, arguments[0], Tensor(0x7E0000, 300, 72))
"""
    ).named("cuTensorMapEncodeTiled")
    assert [call["type"] for call in encoded] == [11, 11]
    assert [call["address"] for call in encoded] == [0x7F0000, 0x7E0000]


def failure(call):
    return f"""
try:
    {call}
except _C.CudaError as error:
    print(type(error).__name__, isinstance(error, RuntimeError), error)
"""


@pytest.mark.parametrize(
    ("fail", "message"),
    [
        ("cuInit=100", "cuInit for the process: CUDA_ERROR_NO_DEVICE"),
        ("cuModuleLoadData=209", "cuModuleLoadData for kernel: CUDA_ERROR_NO_BINARY_FOR_GPU"),
        ("cuModuleGetFunction=500", "cuModuleGetFunction for kernel: CUDA_ERROR_NOT_FOUND"),
        ("cuFuncSetAttribute=1", "cuFuncSetAttribute for kernel: CUDA_ERROR_INVALID_VALUE"),
        ("cuDevicePrimaryCtxRetain=999", "cuDevicePrimaryCtxRetain for kernel: CUDA error 999"),
    ],
)
def test_a_failed_load_is_told_by_the_drivers_name_for_it(record, fail, message):
    recording = record(failure("make(50000).launch(1, 0, 0, arguments)"), fail=fail)
    assert recording.output == f"CudaLoadError True {message}\n"
    assert recording.launches == []


@pytest.mark.parametrize(
    ("fail", "message"),
    [
        ("cuLaunchKernel=719", "cuLaunchKernel for kernel: CUDA_ERROR_LAUNCH_FAILED"),
        ("cuTensorMapEncodeTiled=1", "cuTensorMapEncodeTiled for a tensor: CUDA_ERROR_INVALID_"),
    ],
)
def test_a_failed_launch_is_another_error(record, fail, message):
    output = record(failure("make().launch(1, 0, 0, arguments)"), fail=fail).output
    assert output.startswith(f"CudaError True {message}")


@pytest.mark.parametrize(
    ("source", "message"),
    [(None, "CUDA's driver does not load: "), ("", "CUDA's driver has no cuInit")],
)
def test_a_missing_or_foreign_driver_is_a_failed_load(source, message, image, tmp_path):
    library = tmp_path / "libcuda.so.1"
    library.touch()  # found before a driver of this machine
    if source is not None:
        command = ["g++", "-x", "c++", "-shared", "-", "-o", str(library)]
        subprocess.run(command, input=source, text=True, check=True)
    program = ARGUMENTS_PROGRAM + MAKE + failure("make().launch(1, 0, 0, arguments)")
    output = cuda_stub.Stub(tmp_path).run(program, extension(), image).output
    assert output.startswith(f"CudaLoadError True {message}")


def kernel(*arguments, descriptors=()):
    extension = backend.extension()
    return extension.CudaKernel(b"", "kernel", 4, 0, list(arguments), list(descriptors))


@pytest.mark.parametrize(
    ("kind", "value", "error", "message"),
    [
        ("*fp32", "x", AttributeError, "argument 1 of kernel is of type str; it takes *fp32"),
        ("*fp32", -1, OverflowError, "argument 1 of kernel is of type int; it takes *fp32"),
        ("i32", 2.0, TypeError, "argument 1 of kernel is of type float; it takes i32"),
        ("i32", 2**31, OverflowError, "argument 1 of kernel is of type int; it takes i32"),
        ("i64", 2**63, OverflowError, "argument 1 of kernel is of type int; it takes i64"),
        ("fp32", None, TypeError, "argument 1 of kernel is of type NoneType; it takes fp32"),
        (ARGUMENTS[4], 3, AttributeError, "argument 1 of kernel is of type int; it takes tensord"),
    ],
)
def test_a_wrong_argument_is_named_before_anything_happens(kind, value, error, message):
    descriptors = [DESCRIPTOR] if kind.startswith("tensordesc") else []
    with pytest.raises(error) as raised:
        kernel("i32", kind, descriptors=descriptors).launch(1, 0, 0, (1, value))
    assert str(raised.value).startswith(message)


TYPES = {
    "*fp32": torch.float32,
    "*bf16": torch.bfloat16,
    "*fp16": torch.float16,
    "*i32": torch.int32,
    ARGUMENTS[4]: torch.bfloat16,
}


@pytest.mark.parametrize("dtype", [*TYPES.values(), torch.float64, torch.int64])
@pytest.mark.parametrize("kind", TYPES)
def test_a_tensor_of_another_dtype_is_refused_before_anything_happens(kind, dtype):
    tensor = torch.zeros(4, 64, dtype=dtype)
    value, descriptors = tensor, []
    if kind.startswith("tensordesc"):
        value, descriptors = SimpleNamespace(tensor=tensor, round_to_tf32=False), [DESCRIPTOR]
    compiled = kernel("i32", kind, descriptors=descriptors)
    for _ in range(2):
        with pytest.raises((TypeError, RuntimeError)) as raised:  # or there is no driver
            compiled.launch(1, 0, 0, (1, value))
        assert (raised.type is TypeError) == (dtype != TYPES[kind])
        if raised.type is TypeError:
            assert str(raised.value).startswith("argument 1 of kernel is of type ")
            assert str(raised.value.__cause__) == f"its dtype is {dtype}, not {TYPES[kind]}"


def test_a_descriptor_of_another_rank_is_named():
    tensor = torch.zeros(2, 2, 2, dtype=torch.bfloat16)
    argument = SimpleNamespace(tensor=tensor, round_to_tf32=False)
    with pytest.raises(ValueError, match="argument 0 of kernel") as raised:
        kernel(ARGUMENTS[4], descriptors=[DESCRIPTOR]).launch(1, 0, 0, (argument,))
    assert str(raised.value.__cause__) == "its tensor has 3 dimensions, not 2"


def test_arguments_and_programs_are_counted():
    with pytest.raises(TypeError, match="kernel takes 2 arguments, not 1"):
        kernel("i32", "i32").launch(1, 0, 0, (1,))
    with pytest.raises(ValueError, match="programs is 2147483648; it takes"):
        kernel().launch(2**31, 0, 0, ())


def test_a_packed_launchs_tensors_are_checked():
    packed = backend.extension().PackedLaunch(kernel("i32", "*fp32"), 1, 0, (1, torch.zeros(4)))
    with pytest.raises(TypeError, match="kernel takes 1 tensors, not 0"):
        packed.launch(0)
    with pytest.raises(TypeError, match="argument 1 of kernel is of type Tensor; it takes \\*fp32"):
        packed.launch(0, torch.zeros(4, dtype=torch.float64))
    with pytest.raises(AttributeError, match="argument 1 of kernel is of type str"):
        packed.launch(0, "x")
    with pytest.raises(TypeError, match="kernel takes 2 arguments, not 1"):
        backend.extension().PackedLaunch(kernel("i32", "i32"), 1, 0, (1,))


def test_launches_in_turn_are_checked_before_the_first():
    launch_in_turn = backend.extension().launch_in_turn
    with pytest.raises(ValueError, match="argument 0 of kernel is no step; that is of type i32"):
        launch_in_turn([(kernel("i64"), 1, (1,), 0)], 0, 0, 0, 1)
    with pytest.raises(ValueError, match="argument 1 of kernel is no step"):
        launch_in_turn([(kernel("i32"), 1, (1,), 1)], 0, 0, 0, 1)
    with pytest.raises(ValueError, match="rounds is -1; it takes"):
        launch_in_turn([], 0, 0, 0, -1)
    with pytest.raises(TypeError, match="kernel takes 1 arguments, not 2"):
        launch_in_turn([(kernel("i32"), 1, (1, 2), 0)], 0, 0, 0, 1)


@pytest.mark.parametrize(
    ("arguments", "descriptors", "message"),
    [
        (["fp8"], [], "arguments has the type 'fp8'; it takes pointers"),
        (ARGUMENTS, [], "descriptors has no entry for an argument of type tensordesc"),
        (["i32"], [DESCRIPTOR], "descriptors has 1 entries for 0 arguments"),
        (ARGUMENTS, [DESCRIPTOR | {"block_size": []}], "block_size has 0 dimensions"),
        (["i64"] * 512, [], "arguments take more than 4096 bytes"),
    ],
)
def test_a_kernel_that_cannot_be_launched_is_refused(arguments, descriptors, message):
    with pytest.raises(ValueError, match=message):
        kernel(*arguments, descriptors=descriptors)


NAME = "kernel of every type"


@pytest.fixture
def folder(tmp_path, image, monkeypatch):
    """A folder of ready-made cubins with one, for sm_90."""
    compressed = zlib.compress(image.read_bytes())
    (tmp_path / "sm_90").mkdir()
    (tmp_path / "sm_90" / "kernel.cubin.z").write_bytes(compressed)
    entry = {
        "file": "sm_90/kernel.cubin.z",
        "sha256": hashlib.sha256(compressed).hexdigest(),
        "symbol": "kernel",
        "warps": 8,
        "shared": 0,
        "arguments": ARGUMENTS,
        "descriptors": [DESCRIPTOR],
    }
    write_manifest(tmp_path, entry)
    monkeypatch.setattr(cubins, "FOLDER", tmp_path)
    monkeypatch.setattr(cubins, "_loaded", {})
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    cubins._kernels.cache_clear()
    yield tmp_path
    cubins._kernels.cache_clear()


def write_manifest(folder, entry):
    manifest = {"sources": cubins.sources(), "kernels": {"90": {NAME: entry}}}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def entry_of(folder):
    return json.loads((folder / "manifest.json").read_text())["kernels"]["90"][NAME]


def test_a_cubin_is_found_for_the_chips_that_run_it(folder):
    assert cubins.serves((9, 0))
    assert cubins.find((9, 0), NAME) is cubins.find((9, 0), NAME) is not None
    assert cubins.find((9, 0), "another variant") is None
    assert cubins.find((8, 0), NAME) is None
    assert not cubins.serves((8, 0))


def test_each_chip_has_its_cubins_and_only_sm_80s_run_on_others():
    architectures = {
        capability: cubins.architecture(capability)
        for capability in [
            (7, 5),
            (8, 0),
            (8, 6),
            (8, 7),
            (8, 9),
            (9, 0),
            (10, 0),
            (10, 3),
            (11, 0),
            (12, 0),
            (12, 1),
        ]
    }
    assert {capability: arch for capability, arch in architectures.items() if arch} == {
        (8, 0): "80",
        (8, 6): "80",
        (8, 9): "80",
        (9, 0): "90",
        (10, 0): "100",
        (10, 3): "103",
        (12, 0): "120",
    }


def test_amds_chips_are_another_matter(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert cubins.architecture((9, 0)) is None


def test_without_cubins_nothing_is_said(folder, recwarn):
    (folder / "manifest.json").unlink()
    assert not cubins.serves((9, 0))
    assert cubins.find((9, 0), NAME) is None
    assert not recwarn


def test_the_interpreter_goes_first(folder, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert cubins.find((9, 0), NAME) is None


def test_an_installation_without_the_extension_serves_nothing(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "aefast._C", None)
    assert not cubins.serves((9, 0))


def corrupt(folder):
    path = folder / "sm_90" / "kernel.cubin.z"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def truncate(folder):
    path = folder / "sm_90" / "kernel.cubin.z"
    path.write_bytes(path.read_bytes()[:-9])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    write_manifest(folder, entry_of(folder) | {"sha256": digest})


@pytest.mark.parametrize(
    ("damage", "file", "reason"),
    [
        (lambda folder: shutil.rmtree(folder / "sm_90"), "kernel.cubin.z", "No such file"),
        (corrupt, "kernel.cubin.z", "its checksum is not the manifest's"),
        (truncate, "kernel.cubin.z", "incomplete or truncated stream"),
        (lambda folder: write_manifest(folder, {}), "manifest.json", "KeyError"),
        (lambda folder: write_manifest(folder, 3), "manifest.json", "TypeError"),
        (
            lambda folder: write_manifest(folder, entry_of(folder) | {"arguments": ["fp8"]}),
            "kernel.cubin.z",
            "arguments has the type 'fp8'",
        ),
        (
            lambda folder: write_manifest(folder, entry_of(folder) | {"descriptors": [{}]}),
            "kernel.cubin.z",
            "swizzle",
        ),
    ],
)
def test_a_broken_file_is_left_to_triton_with_one_warning(folder, damage, file, reason, recwarn):
    damage(folder)
    assert [cubins.find((9, 0), NAME) for _ in range(2)] == [None, None]
    (message,) = [str(warning.message) for warning in recwarn]
    assert "Triton compiles the kernel instead" in message
    assert file in message
    assert reason in message


@pytest.mark.parametrize("text", ["", "[]", '{"kernels": 3}', '{"kernels": {"90": 3}}', "\xff"])
def test_a_broken_manifest_is_left_to_triton_with_one_warning(folder, text, recwarn):
    (folder / "manifest.json").write_bytes(text.encode("latin-1"))
    assert [cubins.serves((9, 0)) for _ in range(2)] == [False, False]
    (message,) = [str(warning.message) for warning in recwarn]
    assert "manifest.json is not used" in message


def test_cubins_of_other_kernels_are_left_to_triton(folder, monkeypatch, recwarn):
    monkeypatch.setattr(cubins, "sources", lambda: "changed")
    assert not cubins.serves((9, 0))
    assert "its cubins are of other kernels than this version's" in str(recwarn[0].message)


LAUNCH = """
import pathlib, warnings, torch
from aefast import cubins
cubins.FOLDER = pathlib.Path(sys.argv[1])
cubins.capability = lambda device: (9, 0)
torch._C._cuda_getCurrentRawStream = lambda device: 1000 + device
warnings.simplefilter("always")
for name in ("kernel of every type", "kernel of every type", "another"):
    print(cubins.launch(name, torch.device("cuda", 2), 5, arguments))
"""


def test_a_launch_goes_to_the_devices_current_stream(stub, folder):
    recording = stub.run(ARGUMENTS_PROGRAM + LAUNCH, folder)
    assert recording.output.split() == ["True", "True", "False"]
    assert [call["stream"] for call in recording.launches] == [1002, 1002]
    assert [call["context"] for call in recording.launches] == [0x1002, 0x1002]


IN_TURN_BY_NAME = (
    LAUNCH.partition("for name")[0]
    + """
from aefast.ops.shared import triton as shared, triton_compiled

class Named:
    name, parameters = "kernel of every type", ("pointer", "step", "wide", "scale", "matrix")
    def in_order(self, arguments):
        return tuple(arguments[name] for name in self.parameters)
    def launch(self, programs, **arguments):
        print("by Python", arguments["step"])

class Other(Named):
    name = "another"

planned = dict(zip(Named.parameters, arguments))
device = torch.device("cuda", 2)
ready, missing = (shared.PlannedLaunch(kind(), 5, planned) for kind in (Named, Other))
shared.launch_in_turn([ready, ready], device, 4, 2)
shared.launch_in_turn([ready, missing], device, 4, 2)
"""
)


def test_kernels_that_the_extension_launches_take_turns_without_python(stub, folder):
    """Where one of them is Triton's to launch, Python launches them all, in the same order."""
    recording = stub.run(ARGUMENTS_PROGRAM + IN_TURN_BY_NAME, folder)
    assert [numbers(launch)[1] for launch in recording.launches] == [4, 5, 6, 7]
    assert {launch["stream"] for launch in recording.launches} == {1002}
    assert recording.output.splitlines() == [f"by Python {step}" for step in (4, 5, 6, 7)]


def test_a_cubin_that_does_not_load_is_left_to_triton_with_one_warning(stub, folder):
    recording = stub.run(ARGUMENTS_PROGRAM + LAUNCH, folder, fail="cuModuleLoadData=209")
    assert recording.output.split() == ["False", "False", "False"]
    assert len(recording.named("cuModuleLoadData")) == 1
    assert recording.errors.count("RuntimeWarning") == 1
    assert "sm_90/kernel.cubin.z is not used: CudaLoadError" in recording.errors
    assert "CUDA_ERROR_NO_BINARY_FOR_GPU" in recording.errors


@pytest.fixture
def gpus(monkeypatch, folder):
    """Pretend that there are GPUs of these compute capabilities, and no triton."""

    def install(*capabilities):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capabilities[index])
        monkeypatch.setitem(sys.modules, "triton", None)
        backend._triton_unavailable.cache_clear()

    yield install
    backend._triton_unavailable.cache_clear()


def test_cubins_serve_without_triton_where_every_gpu_has_them(gpus):
    gpus((9, 0), (9, 0))
    assert backend.unavailable("triton", "cuda") is None
    assert "triton does not import" in backend.unavailable("triton", "cpu")
    gpus((9, 0), (8, 0))
    assert "triton does not import" in backend.unavailable("triton", "cuda")


@pytest.fixture
def info():
    pytest.importorskip("typer")
    from aefast.cli import info

    return info


def test_info_says_where_the_kernels_come_from(info, gpus):
    gpus((9, 0), (9, 0))
    assert info.kernels() == "ready-made cubins for sm_90"
    gpus((8, 0), (9, 0))
    assert info.kernels() == "none, ready-made cubins for sm_90"


def test_info_counts_what_is_broken(info, gpus, folder):
    corrupt(folder)
    gpus((9, 0))
    actual = info.kernels()
    assert actual == "ready-made cubins for sm_90, but 1 of them are missing or broken"


def test_without_triton_a_missing_cubin_says_what_to_install(gpus, monkeypatch):
    gpus((9, 0))
    monkeypatch.delitem(sys.modules, "aefast.ops.sparsity.triton_kernels", raising=False)
    shared._jit_function.cache_clear()
    variant = replace(next(sparsity.variants(90)))  # a copy that has not looked its function up
    with pytest.raises(backend.BackendUnavailableError, match=r"divergence_kernel .*pip install"):
        variant.launch_jit(1, [torch.zeros(1)] * len(variant.parameters))
