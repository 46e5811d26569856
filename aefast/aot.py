"""Compile every Triton kernel for chips that are not here, and read off what the compiler made.

``python -m aefast.aot --archs 80 90 100 --json report.json`` needs no GPU: Triton carries its own
assembler. Each op's ``triton.py`` lists its binaries in ``variants(generation)``; this compiles
them all, with what its launches would compile with.
"""

import argparse
import importlib
import json
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

OPS = (
    "corrupt",
    "gaussian",
    "gibbs",
    "jacobian",
    "linear_act",
    "reconstruction",
    "sparse_coding",
    "sparsity",
)
ARCHS = (80, 90, 100)

# The instructions that feed the tensor cores, by the name a chip's generation knows them under.
TENSOR_CORE_INSTRUCTIONS = ("mma.sync", "wgmma.mma_async", "tcgen05.mma")


@dataclass(frozen=True)
class Binary:
    """What became of one variant on one chip."""

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


def variants(op: str, arch: int) -> list[Any]:
    module = importlib.import_module(f"aefast.ops.{op}.triton")
    return list(module.variants(arch))


def compile_variant(op: str, arch: int, index: int) -> Binary:
    """Compile the op's variant of this index for sm_<arch>."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    triton.knobs.compilation.disable_line_info = True  # a fifth of the time, and nothing that runs
    variant = variants(op, arch)[index]
    start = time.perf_counter()
    compiled = triton.compile(
        ASTSource(variant.function, variant.signature, variant.constants),
        target=GPUTarget("cuda", arch, 32),
        options={"num_warps": variant.warps, "num_stages": variant.stages},
    )
    seconds = time.perf_counter() - start
    ptx = compiled.asm["ptx"]
    registers, stack_bytes = _resources(compiled.asm["cubin"])
    # What is spilled lies on the stack, so that most binaries need not be assembled again to ask.
    spilled_bytes = _spills(ptx, arch) if stack_bytes else 0
    return Binary(
        op=op,
        variant=variant.name,
        arch=arch,
        tensor_cores=variant.tensor_cores,
        warps=compiled.metadata.num_warps,
        registers=registers,
        spilled_bytes=spilled_bytes,
        shared_bytes=compiled.metadata.shared,
        tensor_memory_columns=getattr(compiled.metadata, "tmem_size", None) or 0,
        instructions=[name for name in TENSOR_CORE_INSTRUCTIONS if name in ptx],
        widest_load_bytes=_widest(ptx, "ld.global"),
        widest_store_bytes=_widest(ptx, "st.global"),
        traps=re.search(r"^\s*trap;", ptx, re.MULTILINE) is not None,
        seconds=round(seconds, 2),
        ptx=ptx,
    )


def compile_all(archs: Sequence[int], jobs: int) -> Iterator[Binary]:
    """Every variant of every op, in the order of the lists."""
    tasks = [
        (op, arch, index)
        for arch in archs
        for op in OPS
        for index in range(len(variants(op, arch)))
    ]
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(compile_variant, *zip(*tasks, strict=True))


def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of stack, from the binary itself."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _run("cuobjdump", "--dump-resource-usage", file.name)
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    if found is None:
        raise RuntimeError(f"cuobjdump printed no resource usage: {usage!r}")
    return int(found[1]), int(found[2])


def _spills(ptx: str, arch: int) -> int:
    """Bytes stored to spill registers, as the assembler counts them."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx)
        assembler = "ptxas-blackwell" if arch >= 100 else "ptxas"
        target = re.search(r"^\.target (\w+)", ptx, re.MULTILINE)
        assert target is not None
        log = _run(assembler, "-v", f"-arch={target[1]}", str(source), "-o", f"{folder}/kernel")
    found = re.search(r"(\d+) bytes spill stores", log)
    if found is None:
        raise RuntimeError(f"{assembler} printed no spills: {log!r}")
    return int(found[1])


def _run(tool: str, *arguments: str) -> str:
    """The output of one of the tools that Triton carries."""
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / tool
    done = subprocess.run([str(path), *arguments], check=True, capture_output=True, text=True)
    return done.stdout + done.stderr


def _widest(ptx: str, instruction: str) -> int:
    accesses = re.findall(rf"{re.escape(instruction)}(?:\.v(\d))?\.b(\d+)", ptx)
    return max((int(count or 1) * int(bits) // 8 for count, bits in accesses), default=0)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m aefast.aot", description=__doc__)
    parser.add_argument("--archs", type=int, nargs="+", choices=ARCHS, default=list(ARCHS))
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--json", type=Path, required=True, help="where the report goes")
    options = parser.parse_args(arguments)
    binaries = []
    for binary in compile_all(options.archs, options.jobs):
        binaries.append(binary)
        print(
            f"sm_{binary.arch} {binary.variant}: {binary.registers} registers, "
            f"{binary.spilled_bytes} B spilled, {binary.shared_bytes} B shared, {binary.seconds} s",
            flush=True,
        )
    options.json.write_text(json.dumps([asdict(binary) for binary in binaries], indent=1))


if __name__ == "__main__":
    main()
