"""What an equation is computed in, and how exactly float32 products are made."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_LEVELS = {"none": "highest", "ieee": "highest", "tf32": "high", "bf16": "medium"}

_chosen: ContextVar[str | None] = ContextVar("aefast_product_level", default=None)


def wide(x: Tensor) -> Tensor:
    """Half precisions in float32, so that a result is rounded once; float32 and float64 as is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def product_level(device_type: str) -> str:
    """How exactly float32 products are made: ``"highest"``, ``"high"`` or ``"medium"``.

    torch has two generations of switches, ``set_float32_matmul_precision`` and the
    ``fp32_precision`` of ``torch.backends`` and its parts. What reads the first raises once the
    second was used; what reads the second tells both, but that it knows no bfloat16 on CUDA.
    """
    chosen = _chosen.get()
    if chosen is not None:
        return chosen
    read = torch._C._get_fp32_precision_getter
    if device_type != "cuda":
        return _LEVELS[read("mkldnn", "matmul")]
    level = _LEVELS[read("cuda", "matmul")]
    # The first generation's "medium" is the second's TF32 on CUDA beside bfloat16 on a CPU.
    if level == "high" and read("mkldnn", "matmul") == "bf16" and _is_medium():
        return "medium"
    return level


def _is_medium() -> bool:
    try:
        return torch.get_float32_matmul_precision() == "medium"
    except RuntimeError:  # both are the second generation's
        return False


@contextmanager
def products_at(level: str) -> Iterator[None]:
    """Float32 products inside the block are made so, whatever torch's switches say."""
    token = _chosen.set(level)
    try:
        yield
    finally:
        _chosen.reset(token)
