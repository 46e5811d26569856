# mypy: allow-untyped-defs
"""The squared error of what sparse codes reconstruct on the GPU."""

import triton
import triton.language as tl

from aefast.ops.topk.triton_kernels import decoded

INTEGERS = ["active", "latents", "columns", "blocks"]
POINTERS = [
    "values_pointer",
    "indices_pointer",
    "weight_pointer",
    "bias_pointer",
    "target_pointer",
    "residual_pointer",
    "squares_pointer",
]


@triton.jit(do_not_specialize=INTEGERS, do_not_specialize_on_alignment=POINTERS)
def compare_kernel(
    values_pointer,  # [rows, active]
    indices_pointer,  # int64 [rows, active]
    weight_pointer,  # [latents, columns]
    bias_pointer,  # [columns]
    target_pointer,  # [rows, columns]
    residual_pointer,  # float32 [rows, columns]
    squares_pointer,  # float32 [rows, blocks]
    active: tl.int32,
    latents: tl.int64,
    columns: tl.int64,
    blocks: tl.int64,  # of COLUMNS, in a row
    COLUMNS: tl.constexpr,
):
    """The residuals reconstruction - target, and the squared norm of each block of a row's."""
    total, element, mask = decoded(
        values_pointer, indices_pointer, weight_pointer, bias_pointer,
        active, latents, columns, blocks, COLUMNS,
    )  # fmt: skip
    total -= tl.load(target_pointer + element, mask=mask, other=0.0).to(tl.float32)
    tl.store(residual_pointer + element, total, mask=mask)
    total = tl.where(mask, total, 0.0)
    tl.store(squares_pointer + tl.program_id(0), tl.sum(total * total, 0))
