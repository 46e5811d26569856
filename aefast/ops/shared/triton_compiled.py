"""Compiles kernels by Triton at their first call, and launches them by the extension.

The extension launches them like ready-made cubins. It encodes tensor maps itself: these round
float32 to TF32, and are corrected for drivers that encode them wrongly, whichever Triton compiled
the kernel. Without the extension, or for kernels that need scratch memory, Triton launches.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from aefast import cubins, torch_private
from aefast.capture import is_captured

if TYPE_CHECKING:
    from aefast._C import CudaKernel
    from aefast.ops.shared.triton import Variant

# The fields of Triton's metadata that describe a tensor descriptor to the driver.
DESCRIPTOR_KEYS = ("swizzle", "elem_size", "elem_type", "block_size")

_kernels: "dict[tuple[tuple[int, int], str], CudaKernel | None]" = {}  # by capability and variant


def launch(
    variant: "Variant", device: torch.device, programs: int, arguments: tuple[object, ...]
) -> bool:
    """Launch a variant, compiling it at its first call; False if Triton has to launch it.

    Raises:
        RuntimeError: a CUDA graph is being captured, and the kernel is not compiled yet; or CUDA's
            driver refused the launch.
    """
    capability = cubins.capability(device.index)
    key = capability, variant.name
    if key not in _kernels:
        if is_captured(device):
            raise RuntimeError(
                f"{variant.function.__name__} is compiled at its first call, and a CUDA graph is "
                "being captured; make the call once before the capture"
            )
        _kernels[key] = _compile(variant, capability)
    kernel = _kernels[key]
    if kernel is None:
        return False
    stream = torch_private.cuda_stream(device.index)
    try:
        kernel.launch(programs, stream, device.index, arguments)
    except cubins.extension().CudaLoadError:
        _kernels[key] = None
        return False
    return True


def loaded(variant: "Variant", device: torch.device) -> "CudaKernel | None":
    """The kernel of a variant that was launched on the device; None if Triton launches it."""
    capability = cubins.capability(device.index)
    return cubins.find(capability, variant.name) or _kernels.get((capability, variant.name))


def _compile(variant: "Variant", capability: tuple[int, int]) -> "CudaKernel | None":
    """The compiled kernel; None if the extension cannot launch it."""
    if not cubins.may_launch():
        return None
    compiled = compile_for(variant, capability[0] * 10 + capability[1])
    if reason_against(compiled, argument_types(variant)) is not None:
        return None
    image = compiled.asm["cubin"]
    kernel: CudaKernel = cubins.extension().CudaKernel(image, **launch_record(variant, compiled))
    return kernel


def compile_for(variant: "Variant", arch: int) -> Any:
    """Triton's compilation of a variant for sm_<arch>."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    return triton.compile(
        ASTSource(variant.function, variant.signature, variant.constants),
        target=GPUTarget("cuda", arch, 32),
        options={"num_warps": variant.warps, "num_stages": variant.stages},
    )


def launch_record(variant: "Variant", compiled: Any) -> cubins.CubinLaunch:
    """The description of a compiled kernel that a launch needs beside its cubin."""
    metadata = compiled.metadata
    return {
        "symbol": metadata.name,
        "warps": metadata.num_warps,
        "shared": metadata.shared,
        "arguments": argument_types(variant),
        "descriptors": [
            {key: descriptor[key] for key in DESCRIPTOR_KEYS}
            for descriptor in metadata.tensordesc_meta
        ],
    }


def argument_types(variant: "Variant") -> list[str]:
    """The types of a launch's arguments, in order."""
    return [kind for kind in variant.signature.values() if kind != "constexpr"]


def reason_against(compiled: Any, arguments: Sequence[str]) -> str | None:
    """Why the extension cannot launch a compiled kernel; None if it can."""
    metadata = compiled.metadata
    if metadata.global_scratch_size or metadata.profile_scratch_size:
        return "needs scratch memory, which no launch brings"
    if parameter_bytes(compiled.asm["ptx"]) != argument_bytes(arguments):
        return "takes other parameters than a launch passes"
    return None


def parameter_bytes(ptx: str) -> list[int]:
    """The size in bytes of each parameter of a kernel, from its PTX."""
    entry = ptx[ptx.index(".entry") : ptx.index(")", ptx.index(".entry"))]
    parameters = re.findall(
        r"\.param(?: \.align \d+)? \.[a-z](\d+)[^\n]*?(?:\[(\d+)\])?,?\n", entry
    )
    return [int(bits) // 8 * int(count or 1) for bits, count in parameters]


def argument_bytes(arguments: Sequence[str]) -> list[int]:
    """The size in bytes of each argument of a launch, with Triton's two scratch pointers."""
    sizes = []
    for kind in arguments:
        if kind.startswith("tensordesc"):  # the map, the shape, the strides
            rank = kind.count(",") + 1
            sizes += [128] + rank * [4] + rank * [8]
        else:
            sizes.append(4 if kind in ("i32", "fp32") else 8)
    return [*sizes, 8, 8]
