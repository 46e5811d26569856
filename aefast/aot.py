"""Compile every Triton kernel for chips that are not here, and read off what the compiler made.

``python -m aefast.aot --archs 80 90 120 --json report.json`` needs no GPU: Triton carries its own
assembler. Each op's ``triton.py`` lists its cubins in ``variants(generation)``; this compiles
them all, with what its launches would compile with. ``--cubins FOLDER`` keeps them, compressed,
beside a manifest that says how each is launched: what a wheel for CUDA carries.
"""

import argparse
import ctypes
import hashlib
import importlib
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

from aefast import cubins, ops

OPS = tuple(ops.names_with("triton"))
ARCHS = (80, 90, 100, 103, 120)

# The instructions that feed the tensor cores, by the name a chip's generation knows them under.
TENSOR_CORE_INSTRUCTIONS = ("mma.sync", "wgmma.mma_async", "tcgen05.mma")

ASK, ADDR_NO_RANDOMIZE = 0xFFFFFFFF, 0x0040000  # of personality(2)
PR_SET_PDEATHSIG = 1  # of prctl(2)

OLDEST_TRITON = (3, 6)


@dataclass(frozen=True)
class CompiledKernel:
    """The outcome of compiling one variant for one chip."""

    op: str
    variant: str
    arch: int
    tensor_cores: bool  # whether the kernel multiplies matrices
    warps: int
    registers: int  # a thread
    spilled_bytes: int  # a thread
    shared_bytes: int  # a block
    tensor_memory_columns: int
    instructions: list[str]  # those of TENSOR_CORE_INSTRUCTIONS that are in it
    widest_load_bytes: int  # from global memory into registers, a thread
    widest_store_bytes: int
    traps: bool  # the compiler gave up: too much tensor memory compiles to a trap
    seconds: float
    ptx: str
    symbol: str  # the kernel's name in the cubin
    arguments: list[str]  # the types of what a launch passes, in order
    descriptors: list[dict[str, object]]  # how each tensor descriptor among them is encoded
    image: bytes  # the cubin, compressed

    @property
    def file(self) -> str:
        """The file's place in the folder of cubins; two different ones never share a name."""
        digest = hashlib.sha256(zlib.decompress(self.image)).hexdigest()
        return f"sm_{self.arch}/{self.symbol}-{digest[:12]}.cubin.z"

    @property
    def launch(self) -> cubins.ManifestEntry:
        """The file's entry in the manifest."""
        return {
            "file": self.file,
            "sha256": hashlib.sha256(self.image).hexdigest(),
            "symbol": self.symbol,
            "warps": self.warps,
            "shared": self.shared_bytes,
            "arguments": self.arguments,
            "descriptors": self.descriptors,
        }


def variants(op: str, arch: int) -> list[Any]:
    from aefast.ops.shared.triton_gemm import generation_of

    module = importlib.import_module(f"aefast.ops.{op}.triton")
    return list(module.variants(generation_of(arch // 10)))


def compile_variant(op: str, arch: int, index: int) -> CompiledKernel:
    """Compile the op's variant of this index for sm_<arch>.

    Raises:
        RuntimeError: the kernel needs memory that no launch of this package brings.
    """
    import triton

    from aefast.ops.shared import triton_compiled

    triton.knobs.compilation.disable_line_info = True  # a fifth of the time, and nothing that runs
    variant = variants(op, arch)[index]
    start = time.perf_counter()
    compiled = triton_compiled.compile_for(variant, arch)
    seconds = time.perf_counter() - start
    ptx, metadata = compiled.asm["ptx"], compiled.metadata
    launch = triton_compiled.launch_record(variant, compiled)
    reason = triton_compiled.reason_against(compiled, launch["arguments"])
    if reason is not None:
        raise RuntimeError(f"sm_{arch} {variant.name} {reason}")
    registers, stack_bytes = _resources(compiled.asm["cubin"])
    # What is spilled lies on the stack, so that most cubins need not be assembled again to ask.
    spilled_bytes = _spills(ptx, arch) if stack_bytes else 0
    return CompiledKernel(
        op=op,
        variant=variant.name,
        arch=arch,
        tensor_cores=variant.tensor_cores,
        warps=metadata.num_warps,
        registers=registers,
        spilled_bytes=spilled_bytes,
        shared_bytes=metadata.shared,
        tensor_memory_columns=getattr(metadata, "tmem_size", None) or 0,
        instructions=[name for name in TENSOR_CORE_INSTRUCTIONS if name in ptx],
        widest_load_bytes=_widest(ptx, "ld.global"),
        widest_store_bytes=_widest(ptx, "st.global"),
        traps=re.search(r"^\s*trap;", ptx, re.MULTILINE) is not None,
        seconds=round(seconds, 2),
        ptx=ptx,
        symbol=launch["symbol"],
        arguments=launch["arguments"],
        descriptors=launch["descriptors"],
        image=zlib.compress(compiled.asm["cubin"], 9),
    )


def compile_all(archs: Sequence[int], jobs: int) -> Iterator[CompiledKernel]:
    """Every variant of every op, in the order of the lists."""
    tasks = [
        (op, arch, index)
        for arch in archs
        for op in OPS
        for index in range(len(variants(op, arch)))
    ]
    with workers(jobs) as pool:
        yield from pool.map(compile_variant, *zip(*tasks, strict=True))


def workers(jobs: int) -> ProcessPoolExecutor:
    """Processes whose cubins are the same ones in every run, and which end with this one."""
    return ProcessPoolExecutor(jobs, initializer=_start_worker)


def _start_worker() -> None:
    _end_with_parent()
    _fix_addresses()


def _end_with_parent() -> None:
    """Have the system end this process when its parent is killed, which tells its workers nothing.

    They would compile what is left of their queue for minutes, for nobody.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _fix_addresses() -> None:
    """Have what this process starts laid out in memory as ever, where the system lets it.

    The assemblers for sm_100, of CUDA 12.9 and 13.1, number registers by the addresses of their own
    data: with random ones 13 of 137 cubins differ from one run to the next.
    """
    personality = ctypes.CDLL(None).personality
    personality(personality(ASK) | ADDR_NO_RANDOMIZE)


def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of stack, from the cubin itself."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = run_tool("cuobjdump", "--dump-resource-usage", file.name)
    registers_and_stack = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    if registers_and_stack is None:
        raise RuntimeError(f"cuobjdump printed no resource usage: {usage!r}")
    return int(registers_and_stack[1]), int(registers_and_stack[2])


def _spills(ptx: str, arch: int) -> int:
    """Bytes stored to spill registers, as the assembler counts them."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx)
        target = re.search(r"^\.target (\w+)", ptx, re.MULTILINE)
        assert target is not None
        options = ("-v", f"-arch={target[1]}")
        log = run_tool(_assembler(arch), *options, str(source), "-o", f"{folder}/kernel")
    spilled_bytes = re.search(r"(\d+) bytes spill stores", log)
    if spilled_bytes is None:
        raise RuntimeError(f"{_assembler(arch)} printed no spills: {log!r}")
    return int(spilled_bytes[1])


def _assembler(arch: int) -> str:
    return "ptxas-blackwell" if arch >= 100 else "ptxas"


def assembler_version(archs: Sequence[int]) -> str:
    """The newest CUDA version among the assemblers for these targets, as "13.1"."""
    logs = [run_tool(_assembler(arch), "--version") for arch in archs]
    versions = [re.findall(r"release (\d+)\.(\d+)", log)[0] for log in logs]
    return ".".join(max(versions, key=lambda version: tuple(map(int, version))))


def run_tool(tool: str, *arguments: str) -> str:
    """The output of one of the tools that Triton carries."""
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / tool
    completed = subprocess.run([str(path), *arguments], check=True, capture_output=True, text=True)
    return completed.stdout + completed.stderr


def _widest(ptx: str, instruction: str) -> int:
    accesses = re.findall(rf"{re.escape(instruction)}(?:\.v(\d))?\.b(\d+)", ptx)
    return max((int(count or 1) * int(bits) // 8 for count, bits in accesses), default=0)


def write_cubins(compiled: Sequence[CompiledKernel], folder: Path) -> None:
    """The cubins, and last the manifest, without which none of them counts.

    Raises:
        RuntimeError: two variants that differ have the same name.
    """
    kernels: dict[str, dict[str, cubins.ManifestEntry]] = {}
    for kernel in compiled:
        launch = kernel.launch
        if kernels.setdefault(str(kernel.arch), {}).setdefault(kernel.variant, launch) != launch:
            raise RuntimeError(f"sm_{kernel.arch} has two kernels named {kernel.variant}")
        file = folder / launch["file"]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(kernel.image)
    manifest = {
        "triton": metadata.version("triton"),
        "assembler": assembler_version([int(arch) for arch in kernels]),
        "sources": cubins.sources(),
        "kernels": kernels,
    }
    unfinished = folder / "manifest.json.unfinished"
    unfinished.write_text(json.dumps(manifest, indent=1))
    unfinished.replace(folder / "manifest.json")


def print_table(compiled: Iterator[CompiledKernel]) -> list[CompiledKernel]:
    """A line for each cubin as it comes, then what a target's take together."""
    print("registers  spilled   shared  compressed  seconds  kernel")
    listed = []
    for kernel in compiled:
        listed.append(kernel)
        print(
            f"{kernel.registers:9} {kernel.spilled_bytes:6} B {kernel.shared_bytes:6} B"
            f" {len(kernel.image):9} B {kernel.seconds:8.2f}  sm_{kernel.arch} {kernel.variant}",
            flush=True,
        )
    for arch in dict.fromkeys(kernel.arch for kernel in listed):
        images = {kernel.file: len(kernel.image) for kernel in listed if kernel.arch == arch}
        print(f"sm_{arch}: {len(images)} kernels, {sum(images.values()) / 1e6:.2f} MB compressed")
    return listed


def check_archs(names: Sequence[str]) -> list[int]:
    """The targets as numbers, each once."""
    for name in names:
        if name not in map(str, ARCHS):
            fail(f"the CUDA architecture is {name!r}; it takes one of {', '.join(map(str, ARCHS))}")
    return sorted({int(name) for name in names})


def check_triton() -> None:
    advice = "pip install 'triton>={}.{}'".format(*OLDEST_TRITON)
    try:
        version = metadata.version("triton")
    except metadata.PackageNotFoundError:
        fail(f"triton, which compiles the kernels, is missing: {advice}")
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < OLDEST_TRITON:
        fail(f"triton {version} is too old to compile the kernels: {advice}")


def check_empty(folder: Path) -> None:
    """Cubins of another run must not travel along."""
    if folder.is_dir() and any(folder.iterdir()):
        fail(f"--cubins is {str(folder)!r}, which is not empty; it takes a new folder")


def fail(message: str) -> NoReturn:
    """End with one line."""
    raise SystemExit(f"aefast: {message}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m aefast.aot", description=__doc__)
    parser.add_argument("--archs", nargs="+", metavar="ARCH", default=list(map(str, ARCHS)))
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="where the report goes")
    parser.add_argument("--cubins", type=Path, help="the new folder that the cubins go into")
    parser.add_argument(
        "--assembler", action="store_true", help="print the assembler's CUDA version, and end"
    )
    options = parser.parse_args(arguments)
    archs = check_archs(options.archs)
    check_triton()
    if options.assembler:
        print(assembler_version(archs))
        return
    if options.cubins is not None:
        check_empty(options.cubins)
    compiled = print_table(compile_all(archs, options.jobs))
    if options.json is not None:
        options.json.write_text(json.dumps([report(kernel) for kernel in compiled], indent=1))
    if options.cubins is not None:
        write_cubins(compiled, options.cubins)


def report(kernel: CompiledKernel) -> dict[str, Any]:
    """The outcome as JSON."""
    return {name: value for name, value in asdict(kernel).items() if name != "image"}


if __name__ == "__main__":
    main()
