"""What Triton compiles, launched as the ready-made binaries are, by the extension.

The extension encodes tensor maps itself: they round float32 to TF32 on the way, and are mended
where a driver gets them wrong, whichever Triton compiled the kernel. Where the extension is not
there, or a kernel wants what it does not bring, Triton launches.
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

# What the driver is told of a tensor descriptor.
DESCRIPTOR_KEYS = ("swizzle", "elem_size", "elem_type", "block_size")

_kernels: "dict[tuple[tuple[int, int], str], CudaKernel | None]" = {}  # by capability and variant


def launch(
    variant: "Variant", device: torch.device, programs: int, arguments: tuple[object, ...]
) -> bool:
    """Compile, where that has not been done, and launch; False where Triton has to launch.

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


def _compile(variant: "Variant", capability: tuple[int, int]) -> "CudaKernel | None":
    """The kernel for the extension; None where it cannot launch it."""
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


def launch_record(variant: "Variant", compiled: Any) -> cubins.Launch:
    """What a launch needs to know beside the binary."""
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
    """The types of what a launch passes, in order."""
    return [kind for kind in variant.signature.values() if kind != "constexpr"]


def reason_against(compiled: Any, arguments: Sequence[str]) -> str | None:
    """Why the extension cannot launch the binary; None where it can."""
    metadata = compiled.metadata
    if metadata.global_scratch_size or metadata.profile_scratch_size:
        return "needs scratch memory, which no launch brings"
    if parameter_bytes(compiled.asm["ptx"]) != argument_bytes(arguments):
        return "takes other parameters than a launch passes"
    return None


def parameter_bytes(ptx: str) -> list[int]:
    """The size of each parameter of the kernel."""
    entry = ptx[ptx.index(".entry") : ptx.index(")", ptx.index(".entry"))]
    parameters = re.findall(
        r"\.param(?: \.align \d+)? \.[a-z](\d+)[^\n]*?(?:\[(\d+)\])?,?\n", entry
    )
    return [int(bits) // 8 * int(count or 1) for bits, count in parameters]


def argument_bytes(arguments: Sequence[str]) -> list[int]:
    """The same of what a launch passes, with the two scratch pointers that Triton adds."""
    sizes = []
    for kind in arguments:
        if kind.startswith("tensordesc"):  # the map, the shape, the strides
            rank = kind.count(",") + 1
            sizes += [128] + rank * [4] + rank * [8]
        else:
            sizes.append(4 if kind in ("i32", "fp32") else 8)
    return [*sizes, 8, 8]
