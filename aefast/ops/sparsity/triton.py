"""Sparsity penalties on the GPU: sums over blocks of rows, then over blocks, in a fixed order."""

from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor

from aefast.ops.shared.triton import TYPE_NAMES, Variant, cdiv, device_of
from aefast.ops.sparsity import eager

ROWS, COLUMNS = 256, 128  # the block that a program adds up, STEP rows at a time
STEP = 32
FINAL_COLUMNS = 32
ELEMENTS = 1024


@cache
def _sums_variant(dtype: torch.dtype, absolute: bool) -> Variant:
    pointers = {"code_pointer": f"*{TYPE_NAMES[dtype]}", "partial_pointer": "*fp32"}
    constants = {"ABSOLUTE": absolute, "ROWS": ROWS, "COLUMNS": COLUMNS, "STEP": STEP}
    return Variant("sparsity.triton_kernels.column_sums_kernel", pointers, constants)


@cache
def _divergence_variant() -> Variant:
    names = ("partial_pointer", "divergence_pointer", "slope_pointer")
    constants = {"EPSILON": eager.EPSILON, "COLUMNS": FINAL_COLUMNS}
    return Variant(
        "sparsity.triton_kernels.divergence_kernel",
        dict.fromkeys(names, "*fp32"),
        constants,
        warps=1,
    )


@cache
def _sign_variant(dtype: torch.dtype) -> Variant:
    pointers = dict.fromkeys(("code_pointer", "output_pointer"), f"*{TYPE_NAMES[dtype]}")
    return Variant(
        "sparsity.triton_kernels.scaled_sign_kernel",
        pointers | {"factor_pointer": "*fp32"},
        {"ELEMENTS": ELEMENTS},
    )


def variants(generation: int) -> Iterator[Variant]:
    """The kernels of this file, the same on all generations."""
    yield _divergence_variant()
    for dtype in TYPE_NAMES:
        yield _sign_variant(dtype)
        for absolute in (False, True):
            yield _sums_variant(dtype, absolute)


def kl_sparsity(code: Tensor, target: float) -> tuple[Tensor, Tensor]:
    rows, columns = code.shape
    partial = _partial_sums(code, absolute=False)
    divergence, slope = (
        torch.empty(columns, dtype=torch.float32, device=code.device) for _ in range(2)
    )
    with device_of(code):
        _divergence_variant().launch(
            cdiv(columns, FINAL_COLUMNS),
            partial_pointer=partial,
            divergence_pointer=divergence,
            slope_pointer=slope,
            rows=rows,
            columns=columns,
            row_blocks=len(partial),
            target=target,
        )
    return divergence.sum(), slope


def l1_sparsity(code: Tensor) -> Tensor:
    return _partial_sums(code, absolute=True).sum() / len(code)


def l1_gradient(code: Tensor, factor: float | Tensor) -> Tensor:
    """factor * sign(code)."""
    code = code.contiguous()
    output = torch.empty_like(code)
    if not isinstance(factor, Tensor):
        factor = code.new_full((), factor, dtype=torch.float32)  # no copy from the host
    factor = factor.to(code.device, torch.float32)
    with device_of(code):
        _sign_variant(code.dtype).launch(
            cdiv(code.numel(), ELEMENTS),
            code_pointer=code,
            factor_pointer=factor,
            output_pointer=output,
            count=code.numel(),
        )
    return output


def _partial_sums(code: Tensor, absolute: bool) -> Tensor:
    """The sums of each block of ROWS rows, float32 [blocks, columns]."""
    rows, columns = code.shape
    row_blocks, column_blocks = cdiv(rows, ROWS), cdiv(columns, COLUMNS)
    partial = torch.empty(row_blocks, columns, dtype=torch.float32, device=code.device)
    with device_of(code):
        _sums_variant(code.dtype, absolute).launch(
            row_blocks * column_blocks,
            code_pointer=code,
            partial_pointer=partial,
            rows=rows,
            columns=columns,
            row_stride=code.stride(0),
            column_blocks=column_blocks,
        )
    return partial
