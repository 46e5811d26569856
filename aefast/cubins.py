"""Cubins, the compiled Triton kernels: which chips they serve, and their launch.

A CUDA wheel carries ``cubins/manifest.json`` and a compressed file for each kernel in each of its
configurations, as ``python -m aefast.aot --cubins`` writes them. CUDA's driver loads them: nothing
is compiled, and Triton need not be installed. What is missing or broken is left to Triton, with a
warning.
"""

import hashlib
import importlib
import json
import os
import warnings
import zlib
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypedDict

import torch

from aefast.torch_private import cuda_stream

if TYPE_CHECKING:
    from aefast._C import CudaKernel

FOLDER = Path(__file__).parent / "cubins"

_loaded: "dict[tuple[tuple[int, int], str], CudaKernel | None]" = {}  # by capability and variant


class CubinLaunch(TypedDict):
    """What a launch needs beside the cubin."""

    symbol: str  # the kernel's name in the cubin
    warps: int
    shared: int  # bytes a block
    arguments: list[str]  # the types of what is passed, in order
    descriptors: list[dict[str, object]]  # how each tensor descriptor among them is encoded


class ManifestEntry(CubinLaunch):
    """An entry of the manifest, whose file lies beside it, compressed."""

    file: str
    sha256: str


def architecture(capability: tuple[int, int]) -> str | None:
    """The architecture whose cubins run on a chip; None where there can be none.

    An sm_80 cubin runs on all of 8.x but Orin, 8.7, which is a family of its own. The others use
    instructions that their chip alone has.
    """
    if torch.version.hip is not None:
        return None  # AMD's chips have capabilities too
    if capability[0] == 8 and capability != (8, 7):
        return "80"
    return {(9, 0): "90", (10, 0): "100", (10, 3): "103", (12, 0): "120"}.get(capability)


def serves(capability: tuple[int, int]) -> bool:
    """Whether this installation has cubins for a chip, and what launches them."""
    return bool(_records(capability))


def broken(capability: tuple[int, int]) -> list[str]:
    """The files for a chip that are missing, or whose checksum is not the manifest's."""
    broken_files = []
    for record in _records(capability).values():
        try:
            _read(record)
        except (OSError, ValueError):
            broken_files.append(record["file"])
    return broken_files


def find(capability: tuple[int, int], name: str) -> "CudaKernel | None":
    """The kernel that ``Variant.name`` calls so, for a chip; None where Triton has to compile it.

    A file that is missing or broken is warned of once.
    """
    key = capability, name
    if key not in _loaded:
        record = _records(capability).get(name)
        _loaded[key] = None if record is None else _load(record)
    return _loaded[key]


def sources() -> str:
    """A checksum of the kernels' sources: cubins of other sources do not fit."""
    digest = hashlib.sha256()
    for path in sorted((Path(__file__).parent / "ops").glob("*/triton*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def launch(name: str, device: torch.device, programs: int, arguments: tuple[object, ...]) -> bool:
    """Launch a variant on the device's current stream; False where Triton has to.

    Raises:
        RuntimeError: CUDA's driver refused the launch.
    """
    chip = capability(device.index)
    kernel = find(chip, name)
    if kernel is None:
        return False
    stream = cuda_stream(device.index)
    try:
        kernel.launch(programs, stream, device.index, arguments)
    except extension().CudaLoadError as error:
        _warn(_records(chip)[name]["file"], error)
        _loaded[chip, name] = None
        return False
    return True


@cache
def capability(device: int) -> tuple[int, int]:
    """A GPU's compute capability, asked for once."""
    return torch.cuda.get_device_capability(device)


def _records(capability: tuple[int, int]) -> dict[str, ManifestEntry]:
    """The manifest's entries for a chip, by variant."""
    return _kernels().get(architecture(capability) or "", {})


def may_launch() -> bool:
    """Whether the extension is there, the GPUs are NVIDIA's, and no interpreter is asked for."""
    if torch.version.hip is not None or os.environ.get("TRITON_INTERPRET") == "1":
        return False
    try:
        extension()
    except ImportError:
        return False
    return True


@cache
def _kernels() -> dict[str, dict[str, ManifestEntry]]:
    """The manifest's entries for each architecture; none where nothing can launch them."""
    if not may_launch():
        return {}
    try:
        manifest = json.loads((FOLDER / "manifest.json").read_text())
        if manifest["sources"] != sources():
            raise ValueError("its cubins are of other kernels than this version's")
        return {arch: dict(variants) for arch, variants in manifest["kernels"].items()}
    except FileNotFoundError:
        return {}
    except Exception as error:  # whatever is wrong with it: a broken file never stops an op
        _warn("manifest.json", error)
        return {}


def _load(record: ManifestEntry) -> "CudaKernel | None":
    """The kernel of one of the manifest's entries; None where it is broken."""
    file = "manifest.json"
    try:
        file = record["file"]
        kernel: CudaKernel = extension().CudaKernel(
            image=zlib.decompress(_read(record)),
            symbol=record["symbol"],
            warps=record["warps"],
            shared=record["shared"],
            arguments=record["arguments"],
            descriptors=record["descriptors"],
        )
        return kernel
    except Exception as error:  # as above
        _warn(file, error)
        return None


def _read(record: ManifestEntry) -> bytes:
    compressed = (FOLDER / record["file"]).read_bytes()
    if hashlib.sha256(compressed).hexdigest() != record["sha256"]:
        raise ValueError("its checksum is not the manifest's")
    return compressed


def extension() -> ModuleType:
    """The compiled module, not through :mod:`aefast.backend`, which imports this one."""
    return importlib.import_module("aefast._C")


def _warn(file: str, error: Exception) -> None:
    message = f"{FOLDER / file} is not used: {error!r}; Triton compiles the kernel instead"
    warnings.warn(message, RuntimeWarning, stacklevel=2)
