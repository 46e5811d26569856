"""A stub of CUDA's driver that records every call, for tests without a GPU.

The stub is compiled as ``libcuda.so.1``. Tests run in processes of their own, which load it.
"""

import json
import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parent / "csrc" / "libcuda_stub.cpp"
ROOT = Path(__file__).parents[1]


# The beginning of a program that shall find a GPU. Its first argument is the architecture. Tensors
# are in the CPU's memory: the stub only records their addresses.
GPU = """
import sys

import torch

arch = int(sys.argv[1])
torch.cuda.is_available = lambda: True
torch.cuda.current_device = lambda: 0
torch.cuda.get_device_capability = lambda device=None: divmod(arch, 10)
torch.cuda.is_current_stream_capturing = lambda: False
torch._C._cuda_getCurrentRawStream = lambda device: 77

from aefast.ops.shared import triton_gemm

triton_gemm.chip = lambda device: (arch, 132)
"""


@dataclass
class Recording:
    """A program's output, and its calls of the driver."""

    output: str
    errors: str
    calls: list[dict[str, Any]]

    def named(self, *names: str) -> list[dict[str, Any]]:
        return [call for call in self.calls if call["call"] in names]

    @property
    def launches(self) -> list[dict[str, Any]]:
        """The launches, by either of the driver's two functions."""
        launched = self.named("cuLaunchKernel", "cuLaunchKernelEx")
        return [{name: call[name] for name in call if name != "call"} for call in launched]


@dataclass(frozen=True)
class Stub:
    folder: Path

    def run(
        self,
        program: str,
        *arguments: object,
        fail: str = "",
        version: int = 13020,
        log: bool = True,
    ) -> Recording:
        """Run a Python program with the stub for a driver.

        Args:
            fail: makes a function fail with an error: ``"cuModuleLoadData=209"``.
            version: the driver's version.
            log: False records no calls, for a loop that is timed.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "calls"
            path.touch()
            environment = {
                name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"
            }
            settings = {
                "LD_LIBRARY_PATH": str(self.folder),
                "TRITON_LIBCUDA_PATH": str(self.folder),
                "CUDA_STUB_FAIL": fail,
                "CUDA_STUB_VERSION": str(version),
                **({"CUDA_STUB_LOG": str(path)} if log else {}),
            }
            done = subprocess.run(
                [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)],
                cwd=ROOT,
                env=environment | settings,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            calls = [json.loads(line) for line in path.read_text().splitlines()]
        return Recording(done.stdout, done.stderr, calls)


def build(folder: Path) -> Stub:
    """Compile the stub into a folder, which must stay while the stub is used."""
    command = ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", str(SOURCE)]
    subprocess.run([*command, "-o", str(folder / "libcuda.so.1")], check=True)
    return Stub(folder)


def assemble(ptx: str, arch: str, folder: Path) -> bytes:
    """The cubin of PTX, by Triton's ptxas."""
    import triton

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    source, binary = folder / "kernel.ptx", folder / "kernel.cubin"
    source.write_text(ptx)
    subprocess.run([tools / "ptxas", f"-arch={arch}", source, "-o", binary], check=True)
    return binary.read_bytes()


def parameter_list(types: Sequence[str]) -> str:
    """The declaration of a PTX kernel's parameters: ``u32``, ``u64``, ``f32``, or ``map`` for a
    tensor map."""
    declared = [
        f".param .align 64 .b8 p{i}[128]" if kind == "map" else f".param .{kind} p{i}"
        for i, kind in enumerate(types)
    ]
    return ", ".join(declared)
