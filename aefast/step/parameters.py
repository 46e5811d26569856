"""What the kernels of a training step require: of the call, of its rows, and of the tensors whose
memory they read."""

from collections.abc import Iterable

import torch
from torch import Tensor

from aefast import backend
from aefast.ops.shared import checks, dispatch


def unsuitable_call(x: Tensor, backends: tuple[str, ...] = ("cpp",)) -> str | None:
    """Why the kernels of these backends serve no call of a step with rows like x; None where they
    do."""
    if dispatch.is_intercepted(x):
        return "the call is traced or transformed"
    device, dtype = x.device, x.dtype
    if dtype != torch.float32 or device.type != "cpu":
        return f"the step takes float32 on a CPU, not {checks.dtype_name(x)} on {device.type}"
    name = backend.select(device, dtype)
    if name not in backends:
        return f"backend {name!r} serves, and not the C++ kernels"
    if torch.is_autocast_enabled("cpu"):
        return "autocast is on"
    return None


def unsuitable_rows(x: Tensor, width: int) -> str | None:
    """Why the kernels cannot read x as rows of so many numbers; None where they can."""
    if x.requires_grad:
        return "x requires a gradient"
    if x.dim() != 2 or x.shape[1] != width or x.stride(1) != 1 or not x.shape[0]:
        return "x is no dense matrix [B, D] of one row or more"
    if not x.data_ptr() or x.is_neg():
        return "x has no memory, or is a negative view, whose memory holds other numbers"
    return None


def unsuitable(tensors: Iterable[Tensor], what: str = "a parameter") -> str | None:
    """Why the kernels cannot read one of the tensors, which a message calls ``what``; None where
    they can read all."""
    for tensor in tensors:
        if type(tensor) not in dispatch.PLAIN:
            return f"{what} is of a class of its own"
        if tensor.dtype != torch.float32 or not tensor.is_cpu:
            return f"{what} is not float32 on the CPU"
        if not tensor.is_contiguous() or tensor.is_neg():
            return f"{what} is not contiguous, or a negative view"
        if not tensor.data_ptr():
            return f"{what} has no memory: its storage was freed"
    return None
