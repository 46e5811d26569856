"""The precision of an equation, and of float32 matrix products."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from aefast import backend
from aefast.torch_private import fp32_precision, has_avx512_bf16

_LEVELS = {"none": "highest", "ieee": "highest", "tf32": "high", "bf16": "medium"}

# Of float32 products in the place of autocast's: as exact as a product of the half precision.
_OF_AUTOCAST = {torch.bfloat16: "medium", torch.float16: "high"}

LARGEST = torch.finfo(torch.float32).max

_chosen: ContextVar[str | None] = ContextVar("aefast_product_level", default=None)


def upcast(x: Tensor) -> Tensor:
    """Half precisions in float32, so that a result is rounded once; others unchanged."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def in_float32(number: float) -> float:
    """A sum in float64, infinite where it leaves float32's range: torch makes no tensor of it."""
    return math.copysign(math.inf, number) if abs(number) > LARGEST else number


def product_level(device_type: str) -> str:
    """The precision of float32 products: ``"highest"``, ``"high"`` or ``"medium"``.

    torch has two generations of switches, ``set_float32_matmul_precision`` and the
    ``fp32_precision`` of ``torch.backends`` and its parts. What reads the first raises once the
    second was used; what reads the second tells both, but that it knows no bfloat16 on CUDA.
    """
    chosen = _chosen.get()
    if chosen is not None:
        return chosen
    if device_type != "cuda":
        return _LEVELS[fp32_precision("mkldnn", "matmul")]
    level = _LEVELS[fp32_precision("cuda", "matmul")]
    # The first generation's "medium" is the second's TF32 on CUDA beside bfloat16 on a CPU.
    if level == "high" and fp32_precision("mkldnn", "matmul") == "bf16" and _is_medium():
        return "medium"
    return level


def _is_medium() -> bool:
    try:
        return torch.get_float32_matmul_precision() == "medium"
    except RuntimeError:  # both are the second generation's
        return False


@contextmanager
def instead_of_autocast(device_type: str, dtype: torch.dtype) -> Iterator[None]:
    """Autocast to ``dtype`` is off in the block: float32 products are as exact as its own instead.

    On matrix units that is one bfloat16 product, or three for float16; elsewhere a float32 one.
    """
    token = _chosen.set(_OF_AUTOCAST[dtype])
    try:
        with torch.autocast(device_type, enabled=False):
            yield
    finally:
        _chosen.reset(token)


def outpaces_autocast(device_type: str) -> bool:
    """Whether float32 kernels may be quicker than PyTorch's half-precision products.

    Not on a CPU whose vector units multiply bfloat16, which only the vendor's products make use of,
    and that has no matrix units, which ours do.
    """
    if device_type != "cpu" or backend.cpu_isa() == "amx":
        return True
    return not has_avx512_bf16()
